//! What an agent answers: a message, a task, or events of a task, in each version and binding; or an error.

use agentguard_model::{AgentAnswer, ToolAnswer, ToolResult};

use super::Operation;
use super::state::{asks_for_more, has_failed, state, state_of_number};
use crate::api::NotUnderstood;
use crate::json::{Event, Kind, Part, Path, Scanner, Sink, Value};
use crate::jsonrpc::{MAX_WORD, is_word};

/// What an answer is the answer to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answered {
    /// The operation that was asked for.
    pub operation: Operation,
    /// Whether it comes as results of JSON-RPC, rather than as documents of their own.
    pub in_result: bool,
}

/// Reads an answer: [`Self::whole`] where it is one document, [`Self::data`] and [`Self::event_ends`] where it is a
/// stream of events. What is not understood passes; it is told in what [`Self::finish`] gives, and what comes behind it in
/// events of their own is read all the same. Keeps no more than what it tells, however many events there are.
#[derive(Debug)]
pub struct AnswerReader {
    answered: Answered,
    scanner: Scanner,
    document: Document,
    told: Told,
    fault: Option<String>,
    /// Whether this document, or the event that is being read, cannot be read.
    broken: Option<NotUnderstood>,
    /// Whether any of it came.
    begun: bool,
    events: bool,
}

impl AnswerReader {
    /// For the answer to this.
    #[must_use]
    pub fn new(answered: Answered) -> Self {
        Self {
            answered,
            scanner: Scanner::default(),
            document: Document::new(answered.in_result),
            told: Told::default(),
            fault: None,
            broken: None,
            begun: false,
            events: false,
        }
    }

    /// A piece of the one document that the answer is.
    pub fn whole(&mut self, bytes: &[u8]) {
        self.begun |= !bytes.is_empty();
        if self.broken.is_none()
            && let Err(fault) = self.scanner.push(bytes, &mut self.document)
        {
            self.broken = Some(fault.into());
        }
    }

    /// A piece of an event's data.
    pub fn data(&mut self, bytes: &[u8]) {
        self.events = true;
        self.whole(bytes);
    }

    /// An event is over. Whatever its type is: clients look at its data alone.
    pub fn event_ends(&mut self) {
        self.events = true;
        self.document_ends();
    }

    /// The rest cannot be read.
    pub fn give_up(&mut self, why: &impl ToString) {
        self.fault.get_or_insert_with(|| why.to_string());
    }

    /// What came.
    #[must_use]
    pub fn finish(mut self) -> ToolAnswer {
        match self.events {
            false => self.document_ends(),
            true if self.begun => self.give_up(&"the stream ends in the middle of an event"),
            true => {}
        }
        let Told { answer, result } = self.told;
        let agent = (answer != AgentAnswer::default()).then(|| Box::new(answer));
        ToolAnswer {
            results: result.into_iter().collect(),
            agent,
            not_understood: self.fault,
            ..ToolAnswer::default()
        }
    }

    fn document_ends(&mut self) {
        let empty = Document::new(self.answered.in_result);
        let mut document = std::mem::replace(&mut self.document, empty);
        if std::mem::take(&mut self.begun) {
            let read = match self.broken.take() {
                Some(fault) => Err(fault),
                None => self
                    .scanner
                    .finish(&mut document)
                    .map_err(NotUnderstood::from),
            };
            match read {
                Ok(()) if document.batch => self.give_up(&NotUnderstood::Batch),
                Ok(()) => self.told.take(self.answered.operation, document),
                Err(fault) => self.give_up(&fault),
            }
        }
        self.scanner.begin_again();
    }
}

/// What was said, up to here.
#[derive(Debug, Default)]
struct Told {
    answer: AgentAnswer,
    /// Of however many events: they answer one request.
    result: Option<ToolResult>,
}

impl Told {
    fn take(&mut self, operation: Operation, document: Document) {
        let Document {
            id,
            result,
            error,
            code,
            reason,
            problem,
            payload,
            in_result,
            ..
        } = document;
        let is_error = error || problem.0.is_some() && !result && payload.is_none();
        let answers = is_error || result || !in_result;
        if !answers {
            return;
        }
        let told = self.result.get_or_insert_with(ToolResult::default);
        told.id = id.or(told.id.take());
        if is_error {
            let (status, kind) = problem;
            told.error = code.or(status).or(Some(0));
            self.answer.reason = reason.or(kind);
            return;
        }
        self.payload(operation, payload);
        let state = self.answer.state.as_deref().unwrap_or_default();
        if let Some(told) = &mut self.result {
            told.is_error = has_failed(state);
            told.incomplete = asks_for_more(state);
        }
    }

    fn payload(&mut self, operation: Operation, payload: Payload) {
        let answer = &mut self.answer;
        match operation {
            Operation::ListTasks => {
                let before = answer.listed.unwrap_or(0);
                answer.listed = Some(before.saturating_add(payload.listed));
                return;
            }
            Operation::SendMessage
            | Operation::SendStreamingMessage
            | Operation::GetTask
            | Operation::CancelTask
            | Operation::SubscribeToTask => {}
            _ => return,
        }
        let count = |number: &mut u64, more: u64| *number = number.saturating_add(more);
        let task = if payload.is_message() {
            count(&mut answer.messages, 1);
            payload.task
        } else if payload.artifact {
            count(&mut answer.artifacts, 1);
            payload.task.or(payload.id)
        } else {
            let is_update = payload.task.is_some();
            count(&mut answer.updates, u64::from(is_update));
            count(&mut answer.artifacts, payload.artifacts);
            payload.task.or(payload.id)
        };
        if answer.task.is_none() {
            answer.task = task;
        }
        if answer.context.is_none() {
            answer.context = payload.context;
        }
        // The last one is what came of it.
        answer.state = payload.state.or(answer.state.take());
    }
}

/// What a message or a task, or an event of one, says.
#[derive(Debug, Default, PartialEq)]
struct Payload {
    /// What it says that it is (0.2 and 0.3).
    kind: Option<String>,
    /// Whether it stands in a member that says so.
    in_message: bool,
    message_id: bool,
    id: Option<String>,
    task: Option<String>,
    context: Option<String>,
    state: Option<String>,
    artifact: bool,
    artifacts: u64,
    listed: u64,
}

impl Payload {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn is_message(&self) -> bool {
        self.in_message || self.message_id || self.kind.as_deref() == Some("message")
    }
}

/// What one document says, until all of it is there: members have no order.
#[derive(Debug, Default)]
struct Document {
    in_result: bool,
    batch: bool,
    /// Of JSON-RPC.
    id: Option<String>,
    result: bool,
    error: bool,
    code: Option<i64>,
    /// Why, as agents have it in the details of an error.
    reason: Option<String>,
    /// Status and type of a problem (RFC 9457).
    problem: (Option<i64>, Option<String>),
    payload: Payload,
    word: String,
    long: bool,
}

/// What a value is in a document.
#[derive(Clone, Copy)]
enum Place {
    RequestId,
    Code,
    Reason,
    Status,
    Type,
    Kind,
    Id,
    Task,
    Context,
    State,
}

/// Members in which a payload stands, and whether that is a message: those of 1.0, which 0.3 has over HTTP, and those in the
/// spelling of Protocol Buffers.
const WRAPPERS: [(&str, bool); 7] = [
    ("task", false),
    ("message", true),
    ("msg", true),
    ("statusUpdate", false),
    ("status_update", false),
    ("artifactUpdate", false),
    ("artifact_update", false),
];

impl Document {
    fn new(in_result: bool) -> Self {
        Self {
            in_result,
            ..Self::default()
        }
    }

    /// What stands at these steps, if anybody wants to know.
    fn place(&self, steps: &[Part<'_>]) -> Option<Place> {
        use Part::{Item, Key};
        match steps {
            [Key("id")] if self.in_result => Some(Place::RequestId),
            [Key("error"), Key("code")] => Some(Place::Code),
            [
                Key("error"),
                Key("data" | "details"),
                Item(_),
                Key("reason"),
            ] => Some(Place::Reason),
            [Key("type")] => Some(Place::Type),
            [Key("status")] => Some(Place::Status),
            _ => match payload(steps, self.in_result)? {
                [Key("kind")] => Some(Place::Kind),
                [Key("id")] => Some(Place::Id),
                [Key("taskId" | "task_id")] => Some(Place::Task),
                [Key("contextId" | "context_id" | "sessionId")] => Some(Place::Context),
                [Key("status"), Key("state")] => Some(Place::State),
                _ => None,
            },
        }
    }

    fn begins(&mut self, steps: &[Part<'_>], kind: Kind) {
        use Part::{Item, Key};
        match steps {
            [] => self.batch |= kind == Kind::Array,
            [Key("result")] => self.result |= self.in_result,
            [Key("error")] => self.error = true,
            _ => {}
        }
        let top = if self.in_result {
            steps.strip_prefix(&[Key("result")])
        } else {
            Some(steps)
        };
        if let (Some([Key(name)]), Kind::Object) = (top, kind) {
            self.payload.in_message |= WRAPPERS.contains(&(name, true));
        }
        match (payload(steps, self.in_result), kind) {
            (Some([Key("messageId" | "message_id")]), Kind::Text) => self.payload.message_id = true,
            (Some([Key("artifact")]), Kind::Object) => self.payload.artifact = true,
            (Some([Key("artifacts"), Item(_)]), Kind::Object) => {
                self.payload.artifacts = self.payload.artifacts.saturating_add(1);
            }
            (Some([Key("tasks"), Item(_)]), Kind::Object) => {
                self.payload.listed = self.payload.listed.saturating_add(1);
            }
            _ => {}
        }
    }

    fn number(&mut self, place: Option<Place>, number: &str) {
        match place {
            Some(Place::RequestId) => {
                self.id = (number.len() <= MAX_WORD).then(|| number.to_owned());
            }
            Some(Place::Code) => self.code = number.parse().ok(),
            Some(Place::Status) => self.problem.0 = number.parse().ok(),
            Some(Place::State) => self.payload.state = state_of_number(number),
            _ => {}
        }
    }

    fn word_ends(&mut self, place: Option<Place>) {
        let word = std::mem::take(&mut self.word);
        let long = std::mem::take(&mut self.long);
        // What cannot be told is there all the same.
        let told = match !long && is_word(&word) {
            true => word.clone(),
            false => "…".to_owned(),
        };
        match place {
            // As it is written in JSON.
            Some(Place::RequestId) => {
                let id = (!long).then(|| Value::Text(word.into()).canonical());
                self.id = id.filter(|id| id.len() <= MAX_WORD);
            }
            // An agent that gives several reasons gives the first one for itself.
            Some(Place::Reason) => {
                self.reason.get_or_insert(told);
            }
            Some(Place::Type) => self.problem.1 = Some(told),
            Some(Place::Kind) => self.payload.kind = Some(told),
            Some(Place::Id) => self.payload.id = Some(told),
            Some(Place::Task) => self.payload.task = Some(told),
            Some(Place::Context) => self.payload.context = Some(told),
            Some(Place::State) => self.payload.state = Some(state(told)),
            Some(Place::Code | Place::Status) | None => {}
        }
    }
}

/// Where something stands in a payload, if it does in one.
fn payload<'s, 'p>(steps: &'s [Part<'p>], in_result: bool) -> Option<&'s [Part<'p>]> {
    let steps = match (in_result, steps) {
        (true, [Part::Key("result"), rest @ ..]) => rest,
        (true, _) => return None,
        (false, steps) => steps,
    };
    match steps {
        [Part::Key(name), rest @ ..] if WRAPPERS.iter().any(|(it, _)| it == name) => Some(rest),
        steps => Some(steps),
    }
}

impl Sink for Document {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        match event {
            Event::Begin(kind) => {
                self.word.clear();
                self.long = false;
                self.begins(steps, kind);
            }
            Event::Null => self.result |= self.in_result && matches!(steps, [Part::Key("result")]),
            Event::Number(number) => self.number(self.place(steps), number),
            Event::Text(piece) if self.place(steps).is_some() => {
                self.long |= self.word.len() + piece.len() > MAX_WORD;
                if !self.long {
                    self.word.push_str(piece);
                }
            }
            Event::End(Kind::Text) => self.word_ends(self.place(steps)),
            Event::Text(_) | Event::Bool(_) | Event::End(_) => {}
        }
    }
}
