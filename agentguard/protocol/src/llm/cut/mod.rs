//! Tool calls that are cut out of answers, so that the rest of an answer goes on: a sentence stands in the place of each.
//!
//! [`Cutter`] is told of each event of a stream, or of the one document that an answer is, in the order in which they come,
//! and writes anew what has a call in it that is to be cut. What goes on is the same form: an answer none of whose calls is
//! left ends as one that never asked for any, what was said of a call that is cut is left out, and blocks keep their places.
//!
//! Only what has not happened yet can be cut. Tools that the provider runs itself have been run when the answer tells of
//! them, so that such an answer cannot be cut; nor can one in a form that is not known here.

mod aws;
mod chat;
mod cohere;
mod converse;
mod gemini;
mod messages;
mod ollama;
mod responses;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::tools::of_set;
use super::{AnswerReader, Endpoint, InvokeForm, MAX_TOOL_CALLS};
use crate::eventstream;
use crate::json::{Fault, Value};

/// The most that one event may take while it is read: see [`crate::json::Builder`].
const MAX_EVENT: usize = 16 * 1024 * 1024;

/// Why calls are not cut out of an answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Uncut {
    /// Nothing is known of the form.
    #[error("tool calls are not cut out of answers of this form")]
    Form,
    /// Of what has happened nothing can be cut.
    #[error("the provider runs the tool itself, so that its call cannot be cut out")]
    Provider,
    /// Nobody knows yet which tool is called.
    #[error("arguments of a tool call come before the tool's name")]
    Nameless,
    /// It was allowed when it began.
    #[error("its beginning has been passed on")]
    Begun,
    /// [`MAX_TOOL_CALLS`].
    #[error("it has more than {MAX_TOOL_CALLS} tool calls, or answers with some")]
    Many,
    /// Who reads it has no room for that.
    #[error("there is too much of it")]
    Large,
    /// It is not JSON.
    #[error(transparent)]
    Json(#[from] Fault),
    /// It is no event stream of AWS's.
    #[error(transparent)]
    EventStream(#[from] eventstream::Fault),
    /// The form has places that are not known here.
    #[error("a call that was to be cut out is still there")]
    Still,
}

/// What stands in the place of the calls of each tool that is cut out.
#[derive(Debug, Default)]
struct Cuts(BTreeMap<String, String>);

impl Cuts {
    /// None where calls of this tool stay.
    fn of(&self, tool: &str) -> Option<&str> {
        self.0.get(tool).map(String::as_str)
    }

    /// As [`Self::of`], of a tool that belongs to a set, by both names.
    fn of_set(&self, set: &str, name: &str) -> Option<&str> {
        self.of(&of_set(set, name))
    }

    fn any(&self) -> bool {
        !self.0.is_empty()
    }
}

/// An event of a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Event {
    /// Its type, where its form has one beside its data; else empty.
    kind: String,
    data: Value,
}

impl Event {
    /// What its data says that it is of; else what stands beside.
    fn kind(&self) -> &str {
        let kind = self.data.get("type").and_then(Value::text);
        kind.unwrap_or(&self.kind)
    }
}

/// What becomes of an event.
#[derive(Debug, Eq, PartialEq)]
enum Fate {
    /// It goes on as it came.
    Goes,
    /// These do in its place, or none.
    Instead(Vec<Event>),
}

impl Fate {
    /// The event itself, changed or not.
    fn of(event: Event, changed: bool) -> Self {
        match changed {
            true => Self::Instead(vec![event]),
            false => Self::Goes,
        }
    }
}

/// Cuts in one form of answers.
trait Form: Debug + Send + Sync {
    /// Cuts in an answer that is one document. Whether anything was.
    fn document(&mut self, cuts: &Cuts, document: &mut Value) -> Result<bool, Uncut>;

    /// Cuts in the next event of a stream. By default each is as a document.
    fn event(&mut self, cuts: &Cuts, mut event: Event) -> Result<Fate, Uncut> {
        let changed = self.document(cuts, &mut event.data)?;
        Ok(Fate::of(event, changed))
    }
}

/// Cuts tool calls out of one answer. What it is told of is bounded by who reads the answer.
#[derive(Debug)]
pub struct Cutter {
    /// Of whose form what goes on is, each event by itself.
    endpoint: Endpoint,
    /// Whether events have that form inside of them, encoded.
    encoded: bool,
    form: Option<Box<dyn Form>>,
    cuts: Cuts,
}

impl Cutter {
    /// For the answer of this endpoint.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let (endpoint, encoded) = match endpoint {
            Endpoint::Invoke { stream: true, form } => {
                let stream = false;
                (Endpoint::Invoke { stream, form }, true)
            }
            endpoint => (endpoint, false),
        };
        Self {
            endpoint,
            encoded,
            form: form(endpoint),
            cuts: Cuts::default(),
        }
    }

    /// From now on calls of this tool are cut out, and this stands in their place.
    pub fn cut(&mut self, tool: String, sentence: String) {
        self.cuts.0.entry(tool).or_insert(sentence);
    }

    /// Whether calls of this tool are cut out.
    #[must_use]
    pub fn cuts(&self, tool: &str) -> bool {
        self.cuts.of(tool).is_some()
    }

    /// The tools whose calls are cut out.
    pub fn tools(&self) -> impl Iterator<Item = &str> {
        self.cuts.0.keys().map(String::as_str)
    }

    /// An answer that is one document, as it goes on. None: as it came.
    ///
    /// # Errors
    /// A call cannot be cut out of it.
    pub fn document(&mut self, mut document: Value) -> Result<Option<String>, Uncut> {
        if !self.cuts.any() {
            return Ok(None);
        }
        self.in_its_form()?;
        let form = self.form.as_mut().ok_or(Uncut::Form)?;
        let changed = form.document(&self.cuts, &mut document)?;
        let written = document.written();
        let mut reader = AnswerReader::new(self.endpoint);
        reader.whole(written.as_bytes());
        reader.whole_ends();
        self.none_left(&reader)?;
        Ok(changed.then_some(written))
    }

    /// Whether events are looked for where they are: what has their form inside of it, encoded, comes in messages of
    /// AWS's event stream alone.
    fn in_its_form(&self) -> Result<(), Uncut> {
        match self.encoded && self.cuts.any() {
            true => Err(Uncut::Form),
            false => Ok(()),
        }
    }

    /// The next event of a stream, as it goes on.
    fn event(&mut self, event: Event) -> Result<Fate, Uncut> {
        let Some(form) = &mut self.form else {
            return match self.cuts.any() {
                true => Err(Uncut::Form),
                false => Ok(Fate::Goes),
            };
        };
        // Before anything is cut all goes as it came, and nothing is to be looked for in it.
        let came = self.cuts.any().then(|| event.clone());
        let fate = form.event(&self.cuts, event)?;
        let went = match &fate {
            Fate::Goes => came.as_slice(),
            Fate::Instead(events) => events.as_slice(),
        };
        for event in went {
            let mut reader = AnswerReader::new(self.endpoint);
            if matches!(self.endpoint, Endpoint::Converse { .. }) {
                reader.event_begins(&eventstream::Head {
                    event: Some(&event.kind),
                    ..eventstream::Head::default()
                });
            }
            reader.data(event.data.written().as_bytes());
            reader.event_ends(event.kind.as_bytes());
            self.none_left(&reader)?;
        }
        Ok(fate)
    }

    /// What goes on is read as what came was, also where it goes as it came: nothing that is cut may be found in it.
    fn none_left(&self, reader: &AnswerReader) -> Result<(), Uncut> {
        let asks = reader.asks().map_err(|_| Uncut::Still)?;
        match asks.iter().any(|tool| self.cuts(tool)) {
            true => Err(Uncut::Still),
            false => Ok(()),
        }
    }
}

fn form(endpoint: Endpoint) -> Option<Box<dyn Form>> {
    Some(match endpoint {
        Endpoint::ChatCompletions
        | Endpoint::Invoke {
            form: InvokeForm::Chat,
            stream: false,
        } => Box::<chat::Chat>::default(),
        Endpoint::Responses => Box::<responses::Responses>::default(),
        Endpoint::Messages
        | Endpoint::PredictMessages { .. }
        | Endpoint::Invoke {
            form: InvokeForm::Messages,
            stream: false,
        } => Box::<messages::Messages>::default(),
        Endpoint::GenerateContent { .. } => Box::<gemini::Gemini>::default(),
        Endpoint::OllamaChat => Box::new(ollama::Ollama),
        Endpoint::CohereChat => Box::<cohere::Cohere>::default(),
        Endpoint::Converse { .. } => Box::<converse::Converse>::default(),
        _ => return None,
    })
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let members = members.into_iter();
    Value::Object(members.map(|(name, value)| (name.into(), value)).collect())
}

fn number(value: Option<&Value>) -> Option<u64> {
    match value {
        Some(Value::Number(number)) => number.parse().ok(),
        _ => None,
    }
}

/// The entries of a list that an object has as a member.
fn items<'a>(object: &'a mut Value, name: &str) -> &'a mut [Value] {
    match object.get_mut(name) {
        Some(Value::Array(items)) => items,
        _ => &mut [],
    }
}

/// The member of an object, to be given another value.
pub(super) fn set(object: &mut Value, name: &str, value: Value) {
    let Value::Object(members) = object else {
        return;
    };
    match members.iter_mut().find(|(own, _)| **own == *name) {
        Some((_, there)) => *there = value,
        None => members.push((name.into(), value)),
    }
}

fn remove(object: &mut Value, name: &str) {
    if let Value::Object(members) = object {
        members.retain(|(own, _)| **own != *name);
    }
}

/// Adds a sentence to the content of a message, behind what it has said. `said`: it has, in events before.
fn say(message: &mut Value, sentence: &str, said: bool) {
    match message.get_mut("content") {
        Some(Value::Text(content)) if !content.is_empty() => {
            *content = format!("{content}\n\n{sentence}").into();
        }
        Some(Value::Array(parts)) => {
            parts.push(object([("type", text("text")), ("text", text(sentence))]));
        }
        _ => {
            let sentence = match said {
                true => text(&format!("\n\n{sentence}")),
                false => text(sentence),
            };
            set(message, "content", sentence);
        }
    }
}

/// Gives a reason to stop that tells of tool calls another word, where none is left.
fn stops(object: &mut Value, name: &str, with_calls: &[&str], without: &str) -> bool {
    match object.get_mut(name) {
        Some(Value::Text(reason)) if with_calls.contains(&&**reason) => {
            *reason = without.into();
            true
        }
        _ => false,
    }
}
