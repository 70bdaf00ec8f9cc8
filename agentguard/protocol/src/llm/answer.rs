//! What is answered.

use std::borrow::Cow;

use agentguard_model::{LlmAnswer, LlmApi, Usage};
use http::HeaderMap;

use super::chat::Chat;
use super::cohere::Cohere;
use super::converse::Converse;
use super::counts::Counts;
use super::gemini::Gemini;
use super::invoke::{Invoke, Metered};
use super::ollama::Ollama;
use super::responses::Responses;
use super::written::{Both, Hearing, Style, Written};
use super::{
    Endpoint, InvokeForm, MAX_PENDING, MAX_TOOL_CALLS, NotUnderstood, Word, anthropic::Messages,
    tools::Tools,
};
use crate::eventstream;
use crate::json::{Event, Place, Scanner, Sink};

/// Reads an answer: [`Self::whole`] where it is one document, [`Self::data`] and [`Self::event_ends`] where it is a
/// stream of events, [`Self::lines`] where each of its lines is a document. What is not understood passes; it is
/// told in what [`Self::finish`] gives, and nothing behind it is read.
#[derive(Debug)]
pub struct AnswerReader {
    scanner: Scanner,
    form: Form,
    start: Start,
    fault: Option<NotUnderstood>,
    /// Whether anything came.
    begun: bool,
    /// Whether the document that was begun is a stream's event.
    events: bool,
    /// Whether events are lines.
    lines: bool,
    /// What fields say was counted, and that there is an error. Bedrock's alone are read.
    fields: Option<(Counts, Option<String>)>,
    bedrock: bool,
    /// Hears what the model writes, where somebody asks for it.
    hearing: Option<Box<Hearing>>,
}

/// What an event on a WebSocket is for the answer that it belongs to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Progress {
    /// Nothing begins or ends with it.
    #[default]
    Within,
    /// An answer begins.
    Begun,
    /// The answer is over.
    Over,
}

/// What some streams end with in place of a document.
const DONE: &[u8] = b"[DONE]";

/// How an event's data begins.
#[derive(Debug)]
pub(super) enum Start {
    /// With this, which may come to be [`DONE`].
    Held(Vec<u8>),
    /// As a document does.
    Document,
}

impl Default for Start {
    fn default() -> Self {
        Self::Held(Vec::new())
    }
}

impl Start {
    /// What is to be read of the event's document, now that this has come of its data.
    pub(super) fn begin<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let Self::Held(held) = self else {
            return Cow::Borrowed(bytes);
        };
        // What stands before a document is no part of it; nor is the line end of an empty line.
        let bytes = match held.is_empty() {
            true => bytes.trim_ascii_start(),
            false => bytes,
        };
        held.extend_from_slice(bytes);
        if DONE.starts_with(held) {
            return Cow::default();
        }
        let held = std::mem::take(held);
        *self = Self::Document;
        Cow::Owned(held)
    }

    /// What is left to be read of it, now that the event is over. None: it has no document.
    pub(super) fn end(&mut self) -> Option<Vec<u8>> {
        match std::mem::take(self) {
            Self::Held(held) if held.is_empty() || held == DONE => None,
            Self::Held(held) => Some(held),
            Self::Document => Some(Vec::new()),
        }
    }
}

#[derive(Debug)]
pub(super) enum Form {
    Chat(Chat),
    Responses(Box<Responses>),
    Messages(Box<Messages>),
    Gemini(Gemini),
    Ollama(Ollama),
    Converse(Converse),
    Cohere(Cohere),
    Invoke(Box<Invoke>),
    Metered(Box<Metered>),
}

/// What a form makes of a document.
pub(super) trait Documents: Sink {
    /// An event of this type begins. `failed`: it is an error.
    fn begins(&mut self, _kind: &str, _failed: bool) {}

    /// The event was of this type, which stands beside its document. Some clients take that where the document has none.
    fn named(&mut self, _kind: &str) {}

    /// A document is over. `event`: it is one of a stream's.
    fn over(&mut self, event: bool) -> Result<(), NotUnderstood>;
}

impl Form {
    pub(super) fn documents(&mut self) -> &mut dyn Documents {
        match self {
            Self::Chat(chat) => chat,
            Self::Responses(responses) => &mut **responses,
            Self::Messages(messages) => &mut **messages,
            Self::Gemini(gemini) => gemini,
            Self::Ollama(ollama) => ollama,
            Self::Converse(converse) => converse,
            Self::Cohere(cohere) => cohere,
            Self::Invoke(invoke) => &mut **invoke,
            Self::Metered(metered) => &mut **metered,
        }
    }

    pub(super) fn finish(self) -> LlmAnswer {
        match self {
            Self::Chat(chat) => chat.answer.finish(),
            Self::Responses(responses) => responses.answer.finish(),
            Self::Messages(messages) => messages.finish(),
            Self::Gemini(gemini) => gemini.finish(),
            Self::Ollama(ollama) => ollama.answer.finish(),
            Self::Converse(converse) => converse.finish(),
            Self::Cohere(cohere) => cohere.finish(),
            Self::Invoke(invoke) => invoke.finish(),
            Self::Metered(metered) => metered.finish(),
        }
    }

    /// In which its texts are found; none where they are in something that is read by itself, or are not read.
    fn style(&self) -> Option<Style> {
        Some(match self {
            Self::Chat(_) => Style::Chat,
            Self::Responses(_) => Style::Responses,
            Self::Messages(_) => Style::Messages,
            Self::Gemini(_) => Style::Gemini,
            Self::Ollama(_) => Style::Ollama,
            Self::Converse(_) => Style::Converse,
            Self::Cohere(_) => Style::Cohere,
            Self::Invoke(_) => return None,
            Self::Metered(metered) => return metered.form.as_ref()?.style(),
        })
    }

    /// That of a model of Bedrock; none where it is not read.
    fn of_model(form: InvokeForm) -> Option<Self> {
        match form {
            InvokeForm::Messages => Some(Self::Messages(Box::default())),
            InvokeForm::Chat | InvokeForm::Embeddings => Some(Self::Chat(Chat::default())),
            InvokeForm::Other => None,
        }
    }

    /// The tools that it has asked to call so far.
    fn asks(&self) -> Result<Vec<String>, NotUnderstood> {
        let answer = match self {
            Self::Chat(chat) => return Ok(chat.asks().map(str::to_owned).collect()),
            Self::Responses(responses) => &responses.answer,
            Self::Messages(messages) => &messages.answer,
            // Of a list it is asked for between items, before the document is over.
            Self::Gemini(gemini) => match &gemini.fault {
                Some(fault) => return Err(fault.clone()),
                None => &gemini.answer,
            },
            Self::Ollama(ollama) => &ollama.answer,
            Self::Converse(converse) => &converse.answer,
            Self::Cohere(cohere) => &cohere.answer,
            Self::Invoke(invoke) => return invoke.inner.asks(),
            Self::Metered(metered) => {
                let form = metered.form.as_ref();
                return form.map_or(Err(NotUnderstood::Form), Self::asks);
            }
        };
        Ok(answer.tools.names().map(str::to_owned).collect())
    }
}

impl AnswerReader {
    /// For the answer of this endpoint.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let form = match endpoint.answers_as() {
            Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Embeddings => {
                Form::Chat(Chat::default())
            }
            Endpoint::Responses | Endpoint::ResponsesTokens => Form::Responses(Box::default()),
            Endpoint::Retrieved(_)
            | Endpoint::Messages
            | Endpoint::MessagesTokens
            | Endpoint::MessageBatches
            | Endpoint::PredictMessages { .. } => Form::Messages(Box::default()),
            Endpoint::Batches
            | Endpoint::Realtime
            | Endpoint::RealtimeBeside
            | Endpoint::OtherForm => Form::Responses(Box::default()),
            Endpoint::GenerateContent { .. }
            | Endpoint::ContentTokens
            | Endpoint::EmbedContent
            | Endpoint::Interactions
            | Endpoint::Predict { .. } => Form::Gemini(Gemini::default()),
            Endpoint::OllamaChat | Endpoint::OllamaGenerate | Endpoint::OllamaEmbed => {
                Form::Ollama(Ollama::default())
            }
            Endpoint::CohereChat | Endpoint::CohereGenerate | Endpoint::CohereEmbed => {
                Form::Cohere(Cohere::default())
            }
            Endpoint::Converse { .. } | Endpoint::BedrockTokens => {
                Form::Converse(Converse::default())
            }
            Endpoint::Invoke { stream: true, form } => {
                Form::Invoke(Box::new(Invoke::new(Form::of_model(form))))
            }
            Endpoint::Invoke {
                stream: false,
                form,
            } => Form::of_model(form).unwrap_or_else(|| Form::Chat(Chat::default())),
        };
        let mut reader = Self::of(form);
        // In streams of Bedrock something is read of every model: what was counted.
        let blind = endpoint.is_unread() && !matches!(reader.form, Form::Invoke(_));
        reader.fault = blind.then_some(NotUnderstood::Form);
        reader.bedrock = endpoint.api() == LlmApi::Bedrock;
        reader
    }

    pub(super) fn of(form: Form) -> Self {
        Self {
            scanner: Scanner::default(),
            form,
            start: Start::default(),
            fault: None,
            begun: false,
            events: false,
            lines: false,
            fields: None,
            bedrock: false,
            hearing: None,
        }
    }

    /// From now on what the model writes is kept until it is asked for: see [`Self::written`]. To be said before the answer
    /// begins.
    pub fn hears_what_is_written(&mut self) {
        if let Form::Invoke(invoke) = &mut self.form {
            return invoke.inner.hears_what_is_written();
        }
        self.hearing = self.form.style().map(Hearing::new).map(Box::new);
    }

    /// Gives what the model has written since this was asked last, in events that are over. None: nothing, or nobody knows:
    /// see [`Self::is_heard`].
    pub fn written<T>(&mut self, hear: impl FnOnce(&Written) -> T) -> Option<T> {
        match &mut self.form {
            Form::Invoke(invoke) => invoke.inner.written(hear),
            _ => self.hearing.as_mut()?.drain(hear),
        }
    }

    /// Whether all that the model writes is heard. Where the answer cannot be read, nobody knows what it is behind that.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        let inside = match &self.form {
            Form::Invoke(invoke) => invoke.inner.is_heard(),
            _ => self.hearing.is_some(),
        };
        self.fault.is_none() && inside
    }

    /// The answer's fields, before all of it. Bedrock tells there what it counted, and which error an error is.
    pub fn fields(&mut self, fields: &HeaderMap) {
        if !self.bedrock {
            return;
        }
        let error = fields.get("x-amzn-errortype");
        let error = error.and_then(|error| error.to_str().ok()).map(|error| {
            let mut word = Word::default();
            // What stands behind the type is where it is defined.
            word.push(error.split(':').next().unwrap_or_default());
            word.take()
        });
        self.fields = Some((Counts::of_fields(fields), error.flatten()));
    }

    /// An event of AWS's event stream begins: [`Self::data`] and [`Self::event_ends`] follow.
    pub fn event_begins(&mut self, head: &eventstream::Head<'_>) {
        self.events = true;
        let failed = matches!(head.message, Some("exception" | "error"));
        let kind = if failed {
            head.exception.or(head.error)
        } else {
            head.event
        };
        let documents = self.form.documents();
        documents.begins(kind.unwrap_or_default(), failed);
    }

    /// A piece of the one document that the answer is.
    pub fn whole(&mut self, bytes: &[u8]) {
        self.begun |= !bytes.is_empty();
        if self.fault.is_some() {
            return;
        }
        let reader = self.form.documents();
        let read = match self.hearing.as_deref_mut() {
            None => self.scanner.push(bytes, reader),
            Some(hearing) => self.scanner.push(bytes, &mut Both { reader, hearing }),
        };
        if let Err(fault) = read {
            self.fault = Some(fault.into());
        }
    }

    /// The rest cannot be read.
    pub fn give_up(&mut self, why: NotUnderstood) {
        self.fault.get_or_insert(why);
    }

    /// A piece of an event's data.
    pub fn data(&mut self, bytes: &[u8]) {
        self.events = true;
        let bytes = self.start.begin(bytes);
        self.whole(&bytes);
    }

    /// An event is over. `kind`: its type, as an event stream has it beside the data; or empty.
    pub fn event_ends(&mut self, kind: &[u8]) {
        self.events = true;
        let Some(rest) = self.start.end() else {
            return;
        };
        self.whole(&rest);
        if !kind.is_empty() {
            let kind = String::from_utf8_lossy(kind);
            self.form.documents().named(&kind);
        }
        self.document_ends(true);
        self.scanner.begin_again();
    }

    /// The tools that the model has asked to call so far, in whole events.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn asks(&self) -> Result<Vec<String>, NotUnderstood> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        self.form.asks()
    }

    /// Where in a list the one document stands: see [`Scanner::place`]. None also where it cannot be read.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.scanner.place().filter(|_| self.fault.is_none())
    }

    /// Whether nothing behind what has come can be read.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.fault.is_some()
    }

    /// The one document is over, where it is one.
    pub fn whole_ends(&mut self) {
        if !std::mem::replace(&mut self.events, true) {
            self.only_document_ends();
        }
    }

    /// A piece of a stream of which each line is a document (NDJSON).
    pub fn lines(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.lines = true;
        let mut lines = bytes.split(|byte| *byte == b'\n');
        if let Some(first) = lines.next() {
            self.data(first);
        }
        for line in lines {
            self.event_ends(&[]);
            self.data(line);
        }
    }

    /// What came of the call.
    #[must_use]
    pub fn finish(mut self) -> LlmAnswer {
        // The last line may have no end; one that is cut is none.
        if self.lines
            && self.fault.is_none()
            && matches!(self.start, Start::Document)
            && self.scanner.finish(self.form.documents()).is_ok()
        {
            self.fault = self.form.documents().over(true).err();
        }
        if !self.events && self.fault.is_none() {
            self.only_document_ends();
        }
        let mut answer = self.form.finish();
        if let Some((counts, error)) = self.fields {
            answer.usage = answer.usage.or(counts.usage());
            answer.error = error.or(answer.error);
        }
        let fault = self.fault.map(|fault| fault.to_string());
        answer.not_understood = fault.or(answer.not_understood);
        answer
    }

    /// An answer without content says nothing: where it is fetched before it is there (xAI's), that is so.
    fn only_document_ends(&mut self) {
        if self.begun {
            self.document_ends(false);
        }
    }

    fn document_ends(&mut self, event: bool) {
        if self.fault.is_some() {
            return;
        }
        let documents = self.form.documents();
        let over = self.scanner.finish(documents).map_err(NotUnderstood::from);
        if let Some(hearing) = &mut self.hearing {
            hearing.document_ends();
        }
        self.fault = over.and_then(|()| documents.over(event)).err();
    }
}

/// What is told of an answer, as far as it came.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) told: LlmAnswer,
    pub(super) tools: Tools,
    /// An error's type, code and message.
    pub(super) error: [Option<String>; 3],
}

impl Answer {
    pub(super) fn finish(self) -> LlmAnswer {
        let [kind, code, message] = self.error;
        let mut told = self.told;
        told.tool_calls = self.tools.into_asked();
        told.error = code.or(kind).or(message);
        told
    }

    pub(super) fn usage(&mut self) -> &mut Usage {
        self.told.usage.get_or_insert_default()
    }
}

/// Adds what came of an answer to what came of others.
///
/// # Errors
/// There are more tool calls than are told of.
pub(super) fn add(told: &mut LlmAnswer, answer: LlmAnswer) -> Result<(), NotUnderstood> {
    told.model = answer.model.or(told.model.take());
    told.finish_reason = answer.finish_reason.or(told.finish_reason.take());
    told.error = answer.error.or(told.error.take());
    told.usage = sum(told.usage, answer.usage);
    let room = MAX_TOOL_CALLS.saturating_sub(told.tool_calls.len());
    let many = answer.tool_calls.len() > room;
    told.tool_calls
        .extend(answer.tool_calls.into_iter().take(room));
    match many {
        true => Err(NotUnderstood::ToolCalls),
        false => Ok(()),
    }
}

/// Tokens of several answers.
pub(super) fn sum(one: Option<Usage>, other: Option<Usage>) -> Option<Usage> {
    let (Some(one), Some(other)) = (one, other) else {
        return one.or(other);
    };
    let add = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
    Some(Usage {
        input_tokens: add(one.input_tokens, other.input_tokens),
        cache_read_tokens: add(one.cache_read_tokens, other.cache_read_tokens),
        cache_write_tokens: add(one.cache_write_tokens, other.cache_write_tokens),
        audio_input_tokens: add(one.audio_input_tokens, other.audio_input_tokens),
        output_tokens: add(one.output_tokens, other.output_tokens),
        reasoning_tokens: add(one.reasoning_tokens, other.reasoning_tokens),
        audio_output_tokens: add(one.audio_output_tokens, other.audio_output_tokens),
        regional: one.regional || other.regional,
    })
}

/// A number of tokens; `null` and fractions are none, and what is below 0. Where another one was told before, none is what
/// counts: that was not the last word.
pub(super) fn tokens(event: Event<'_>) -> Option<u64> {
    match event {
        Event::Number(number) => number.parse().ok(),
        _ => None,
    }
}

/// Keeps a piece of arguments until it is known to which tool call they belong, up to [`MAX_PENDING`].
pub(super) fn pend(pending: &mut Vec<u8>, piece: &str, fault: &mut Option<NotUnderstood>) {
    if pending.len() + piece.len() > MAX_PENDING {
        fault.get_or_insert(NotUnderstood::Pending);
    } else {
        pending.extend_from_slice(piece.as_bytes());
    }
}

/// A word that is being read, and what for.
#[derive(Debug)]
pub(super) struct Reading<F> {
    pub(super) field: Option<F>,
    pub(super) word: Word,
}

impl<F> Default for Reading<F> {
    fn default() -> Self {
        Self {
            field: None,
            word: Word::default(),
        }
    }
}

impl<F> Reading<F> {
    pub(super) fn begin(&mut self, field: Option<F>) {
        self.field = field;
        self.word = Word::default();
    }
}
