//! Answers of `OpenAI`'s Responses: the response object, or events that lead to one.

use agentguard_model::{AskedTool, Usage};
use sha2::{Digest as _, Sha256};

use super::NotUnderstood;
use super::answer::{Answer, Documents, Progress, Reading, tokens};
use super::tools::{Tools, digest};
use crate::json::{Event, Kind, Part, Path, Sink};

#[derive(Debug, Default)]
pub(super) struct Responses {
    pub(super) answer: Answer,
    documents: DocumentSink,
}

/// Reads one document after the other.
#[derive(Debug, Default)]
pub(super) struct DocumentSink {
    reading: Reading<Field>,
    document: Document,
    fault: Option<NotUnderstood>,
}

/// What one document says, kept until all of it is there: members have no order.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Whether it is an object.
    pub(super) object: bool,
    kind: Option<String>,
    /// The lane of a WebSocket that it belongs to.
    pub(super) lane: Option<String>,
    /// Why that is not known.
    pub(super) odd_lane: Option<NotUnderstood>,
    /// The id of its response.
    pub(super) response: Option<String>,
    model: Option<String>,
    status: Option<String>,
    incomplete: Option<String>,
    /// Type, code, message.
    error: [Option<String>; 3],
    usage: Option<Usage>,
    output_index: Option<u64>,
    item: Item,
    /// What a whole response has put out.
    output: Tools,
}

/// An item of the output.
#[derive(Debug, Default)]
pub(super) struct Item {
    pub(super) kind: Option<String>,
    pub(super) name: Option<String>,
    /// The namespace that the tool is in, or its server (MCP).
    pub(super) set: Option<String>,
    pub(super) call_id: Option<String>,
    pub(super) id: Option<String>,
    pub(super) any: bool,
    pub(super) arguments: Sha256,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Kind,
    Lane,
    Response,
    Model,
    Status,
    Incomplete,
    Error(usize),
    ItemKind,
    ItemName,
    ItemSet,
    ItemCallId,
    ItemId,
    Arguments,
}

impl Item {
    /// The tool call that it is, if it is one. `whole`: with all its arguments.
    ///
    /// # Errors
    /// It is one of a tool that has a name, and does not say it.
    pub(super) fn asked(self, whole: bool) -> Result<Option<AskedTool>, NotUnderstood> {
        let own = self.kind.as_deref().and_then(called);
        let Some(own) = own else {
            return Ok(None);
        };
        let told = matches!(own, "function" | "custom_tool" | "mcp");
        if told && self.name.is_none() {
            return Err(NotUnderstood::Wrong("name"));
        }
        Ok(Some(AskedTool {
            // Tools that the provider has itself are called by their type.
            name: self.name.filter(|_| told).unwrap_or_else(|| own.to_owned()),
            id: self.call_id.or(self.id),
            arguments: (whole && told).then(|| digest(self.any, self.arguments)),
        }))
    }
}

/// Of which kind the tool is that an item of this type calls: without `_call`. One that asks its client to approve of the
/// call of a server's tool (MCP) is a call of that; what follows it has been run.
pub(super) fn called(item: &str) -> Option<&str> {
    match item {
        APPROVAL => Some("mcp"),
        item => item.strip_suffix("_call"),
    }
}

/// What asks a client to approve of a call.
pub(super) const APPROVAL: &str = "mcp_approval_request";

/// The steps below the response, which an event has as a member.
fn in_response<'a, 'b>(steps: &'b [Part<'a>]) -> &'b [Part<'a>] {
    match steps {
        [Part::Key("response"), rest @ ..] => rest,
        steps => steps,
    }
}

impl Document {
    /// Whether an answer on a WebSocket begins or ends with it.
    pub(super) fn progress(&self) -> Progress {
        match self.kind.as_deref().unwrap_or_default() {
            "response.created" => Progress::Begun,
            "response.completed" | "response.failed" | "response.incomplete" | "error" => {
                Progress::Over
            }
            _ => Progress::Within,
        }
    }

    /// Whether it is an error by itself. On a WebSocket it may be about something else than an answer.
    pub(super) fn is_error(&self) -> bool {
        self.kind.as_deref() == Some("error")
    }

    /// Whether an answer begins with it, or something is told of what one puts out, or of its tokens. Other events are
    /// about connections and calls, or say nothing that is looked at.
    pub(super) fn is_of_answer(&self) -> bool {
        let kind = self.kind.as_deref().unwrap_or_default();
        let tells = self.progress() == Progress::Begun
            || self.output_index.is_some()
            || self.usage.is_some()
            || kind.starts_with("response.output_item.");
        kind.starts_with("response.") && tells || self.output.names().next().is_some()
    }

    /// What of it counts for its answer, now that it is known which one it is.
    pub(super) fn tell(self, answer: &mut Answer, event: bool) -> Result<(), NotUnderstood> {
        let kind = self.kind.as_deref().unwrap_or_default();
        let slot = (0, self.output_index.unwrap_or_default());
        match kind {
            "response.output_item.added" if event => {
                let set = self.item.set.clone();
                if let Some(asked) = self.item.asked(false)? {
                    answer.tools.of_set(set.as_deref(), &asked.name)?;
                    answer.tools.named(slot, Some(asked.name), asked.id)?;
                }
            }
            "response.output_item.done" if event => {
                answer.tools.item(slot, self.item)?;
            }
            // Of an item that nobody told of, the response does.
            _ => answer.tools.told_whole(self.output)?,
        }
        let told = &mut answer.told;
        told.model = self.model.or(told.model.take());
        told.usage = self.usage.or(told.usage);
        let finish = self.incomplete.or(self.status);
        told.finish_reason = finish.or(told.finish_reason.take());
        let failed = !event || matches!(kind, "error" | "response.failed");
        if failed && self.error.iter().any(Option::is_some) {
            answer.error = self.error;
        }
        Ok(())
    }
}

impl DocumentSink {
    /// What the document says, now that it is whole.
    pub(super) fn finish(&mut self) -> Result<Document, NotUnderstood> {
        let document = std::mem::take(&mut self.document);
        self.fault.take().map_or(Ok(document), Err)
    }

    fn field(steps: &[Part<'_>]) -> Option<Field> {
        use Part::{Item, Key};
        let within = in_response(steps);
        Some(match within {
            [Key("type")] if within.len() == steps.len() => Field::Kind,
            [Key("stream_id")] if within.len() == steps.len() => Field::Lane,
            [Key("response_id")] if within.len() == steps.len() => Field::Response,
            [Key("id")] if within.len() != steps.len() => Field::Response,
            [Key("model")] => Field::Model,
            [Key("status")] => Field::Status,
            [Key("incomplete_details"), Key("reason")] => Field::Incomplete,
            [Key("error"), Key("type")] => Field::Error(0),
            [Key("error"), Key("code")] | [Key("code")] => Field::Error(1),
            [Key("error"), Key("message")] | [Key("message")] => Field::Error(2),
            [Key("item"), rest @ ..] | [Key("output"), Item(_), rest @ ..] => match rest {
                [Key("type")] => Field::ItemKind,
                [Key("name")] => Field::ItemName,
                [Key("namespace" | "server_label")] => Field::ItemSet,
                [Key("call_id")] => Field::ItemCallId,
                [Key("id")] => Field::ItemId,
                [Key("arguments" | "input")] => Field::Arguments,
                _ => return None,
            },
            _ => return None,
        })
    }

    fn text_ends(&mut self) {
        let Some(field) = self.reading.field.take() else {
            return;
        };
        if self.reading.word.is_long() && matches!(field, Field::ItemName | Field::ItemSet) {
            self.fault.get_or_insert(NotUnderstood::Long("name"));
        }
        if self.reading.word.is_long() && matches!(field, Field::Lane) {
            self.document.odd_lane = Some(NotUnderstood::Long("stream_id"));
        }
        let word = self.reading.word.take();
        let document = &mut self.document;
        let place = match field {
            Field::Kind => &mut document.kind,
            Field::Lane => &mut document.lane,
            Field::Response => &mut document.response,
            Field::Model => &mut document.model,
            Field::Status => &mut document.status,
            Field::Incomplete => &mut document.incomplete,
            Field::Error(which) => match document.error.get_mut(which) {
                Some(place) => place,
                None => return,
            },
            Field::ItemKind => &mut document.item.kind,
            Field::ItemName => &mut document.item.name,
            Field::ItemSet => &mut document.item.set,
            Field::ItemCallId => &mut document.item.call_id,
            Field::ItemId => &mut document.item.id,
            Field::Arguments => return,
        };
        let twice = matches!(field, Field::ItemKind | Field::ItemName) && place.is_some();
        *place = word;
        // As the event's own, and the response's.
        if twice {
            self.fault.get_or_insert(NotUnderstood::Names);
        }
    }

    fn number(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::Key;
        let number = tokens(event);
        let usage = &mut self.document.usage;
        let place = match in_response(steps) {
            [Key("output_index")] => {
                self.document.output_index = number.or(self.document.output_index);
                return;
            }
            // Of a count, which has nothing else.
            [Key("input_tokens")] | [Key("usage"), Key("input_tokens")] => {
                &mut usage.get_or_insert_default().input_tokens
            }
            [Key("usage"), Key("output_tokens")] => {
                &mut usage.get_or_insert_default().output_tokens
            }
            [
                Key("usage"),
                Key("input_tokens_details"),
                Key("cached_tokens"),
            ] => &mut usage.get_or_insert_default().cache_read_tokens,
            [
                Key("usage"),
                Key("input_tokens_details"),
                Key("cache_write_tokens"),
            ] => &mut usage.get_or_insert_default().cache_write_tokens,
            [
                Key("usage"),
                Key("output_tokens_details"),
                Key("reasoning_tokens"),
            ] => &mut usage.get_or_insert_default().reasoning_tokens,
            _ => return,
        };
        *place = number;
    }
}

impl Sink for DocumentSink {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::{Item as At, Key};
        match event {
            Event::Text(piece) => {
                match self.reading.field {
                    None => {}
                    Some(Field::Arguments) => {
                        self.document.item.any = true;
                        self.document.item.arguments.update(piece.as_bytes());
                    }
                    Some(_) => self.reading.word.push(piece),
                }
                return;
            }
            Event::End(Kind::Text) => {
                self.text_ends();
                return;
            }
            _ => {}
        }
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        match event {
            Event::Begin(Kind::Text) => self.reading.begin(Self::field(steps)),
            Event::Number(_) | Event::Bool(_) | Event::Begin(_)
                if matches!(steps, [Key("stream_id")]) =>
            {
                self.document.odd_lane = Some(NotUnderstood::Wrong("stream_id"));
            }
            Event::Number(_) => self.number(steps, event),
            Event::Begin(Kind::Object) => {
                self.document.object |= steps.is_empty();
                if let [Key("output"), At(_)] = in_response(steps) {
                    // Of an event that has an item of its own.
                    let before = std::mem::take(&mut self.document.item);
                    if before.kind.is_some() || before.name.is_some() {
                        self.fault.get_or_insert(NotUnderstood::Names);
                    }
                }
            }
            Event::End(Kind::Object) => {
                if let [Key("output"), At(index)] = in_response(steps) {
                    let item = std::mem::take(&mut self.document.item);
                    let put = self.document.output.item((0, *index as u64), item);
                    if let Err(fault) = put {
                        self.fault.get_or_insert(fault);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Sink for Responses {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        self.documents.take(path, event);
    }
}

impl Documents for Responses {
    fn named(&mut self, kind: &str) {
        let document = &mut self.documents.document;
        document.kind.get_or_insert_with(|| kind.to_owned());
    }

    fn over(&mut self, event: bool) -> Result<(), NotUnderstood> {
        let document = self.documents.finish()?;
        document.tell(&mut self.answer, event)
    }
}
