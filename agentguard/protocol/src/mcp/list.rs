//! Lists of tools that are looked at before a client is shown them, or of which it is shown a part.

use agentguard_model::ToolDefinition;

use super::NotUnderstood;
use crate::json::{Fault, Reader, Value};
use crate::sse;

/// The most that an answer with a list may take while it is held ([`Reader::new`]), and the most bytes of it.
pub const MAX_LIST: usize = 8 * 1024 * 1024;

/// Whether bytes may list tools: a document that is JSON, or events whose data is. Where this says no there is no member of
/// that name in any case, also none that is written with escapes.
#[must_use]
pub fn may_list(bytes: &[u8]) -> bool {
    let named = |window: &[u8]| window.eq_ignore_ascii_case(b"tools");
    bytes.windows(5).any(named) || bytes.windows(4).any(|window| window == b"\\u00")
}

/// Holds an answer until all of it is there.
#[derive(Debug)]
pub struct ListFilter {
    form: Form,
    size: usize,
    fault: Option<NotUnderstood>,
}

#[derive(Debug)]
enum Form {
    Document(Reader),
    Events(sse::Parser, Vec<Held>),
}

/// An event that is held.
#[derive(Debug)]
struct Held {
    kind: Vec<u8>,
    data: Vec<u8>,
    id: Vec<u8>,
}

/// An answer that was read, with what it lists.
#[derive(Debug)]
pub struct List(Vec<Entry>);

/// What an answer is made of, in its order.
#[derive(Debug)]
enum Entry {
    /// The one document that the answer is.
    Document(Value),
    /// An event, with the message that it has.
    Event(Held, Option<Value>),
}

impl Entry {
    fn message(&mut self) -> Option<&mut Value> {
        match self {
            Self::Document(value) => Some(value),
            Self::Event(_, message) => message.as_mut(),
        }
    }
}

impl ListFilter {
    /// For an answer that is one document, or a stream of `events`.
    #[must_use]
    pub fn new(events: bool) -> Self {
        let form = if events {
            Form::Events(sse::Parser::new(MAX_LIST), Vec::new())
        } else {
            Form::Document(Reader::new(MAX_LIST))
        };
        Self {
            form,
            size: 0,
            fault: None,
        }
    }

    /// Holds more of it.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        self.size = self.size.saturating_add(bytes.len());
        if self.size > MAX_LIST {
            self.fault = Some(Fault::Large.into());
            return;
        }
        match &mut self.form {
            Form::Document(reader) => {
                self.fault = reader.push(bytes).err().map(NotUnderstood::from);
            }
            Form::Events(parser, events) => {
                let fault = &mut self.fault;
                parser.push(bytes, &mut |event| match event.data {
                    Some(data) => events.push(Held {
                        kind: event.kind.to_vec(),
                        data: data.to_vec(),
                        id: event.id.to_vec(),
                    }),
                    None => *fault = Some(Fault::Large.into()),
                });
            }
        }
    }

    /// What was held, once all of it came.
    ///
    /// # Errors
    /// It cannot be read, so that nobody knows what it lists.
    pub fn finish(self) -> Result<List, NotUnderstood> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut entries = Vec::new();
        match self.form {
            // An answer without content lists nothing.
            Form::Document(..) if self.size == 0 => {}
            Form::Document(reader) => entries.push(Entry::Document(reader.finish()?)),
            Form::Events(parser, _) if parser.is_odd() => return Err(NotUnderstood::Line),
            Form::Events(_, events) => {
                // What all of them take is bounded, as one document is.
                let mut left = MAX_LIST;
                for event in events {
                    let message = message(&event, &mut left)?;
                    entries.push(Entry::Event(event, message));
                }
            }
        }
        Ok(List(entries))
    }
}

impl List {
    /// The definitions of all tools that it lists, in their order. One that has no name has an empty one.
    #[must_use]
    pub fn definitions(&mut self) -> Vec<ToolDefinition> {
        let mut all = Vec::new();
        self.each(&mut |tools| {
            all.extend(tools.iter().map(|tool| ToolDefinition {
                name: name(tool),
                text: tool.canonical(),
            }));
        });
        all
    }

    /// Leaves out the tools for which `shown` is not true, tools that have no name, and those behind the end of
    /// `shown`. With the names of what is left out, at most [`super::MAX_TOLD`] of them.
    pub fn leave_out(&mut self, shown: &[bool]) -> Vec<String> {
        let mut left_out = Vec::new();
        let mut shown = shown.iter();
        self.each(&mut |tools| {
            tools.retain(|tool| {
                let name = name(tool);
                let stays = shown.next().is_some_and(|shown| *shown) && !name.is_empty();
                if !stays && left_out.len() < super::MAX_TOLD {
                    left_out.push(name.chars().take(crate::jsonrpc::MAX_WORD).collect());
                }
                stays
            });
        });
        left_out
    }

    /// The answer, written anew.
    #[must_use]
    pub fn written(self) -> Vec<u8> {
        let mut answer = Vec::new();
        for entry in self.0 {
            match entry {
                Entry::Document(value) => answer.extend_from_slice(value.canonical().as_bytes()),
                Entry::Event(event, message) => write(&event, message.as_ref(), &mut answer),
            }
        }
        answer
    }

    /// Each array of tools, in its order.
    fn each(&mut self, look: &mut dyn FnMut(&mut Vec<Value>)) {
        for message in self.0.iter_mut().filter_map(Entry::message) {
            each(message, look);
        }
    }
}

/// The message that an event has, if it has one. `left`: how much it may take, of which it takes its part.
fn message(event: &Held, left: &mut usize) -> Result<Option<Value>, NotUnderstood> {
    let message = matches!(event.kind.as_slice(), b"" | b"message");
    if !message || event.data.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(*left);
    reader.push(&event.data)?;
    *left = left.saturating_sub(reader.used());
    Ok(Some(reader.finish()?))
}

/// Writes an event down again.
fn write(event: &Held, message: Option<&Value>, answer: &mut Vec<u8>) {
    let mut line = |name: &str, value: &[u8]| {
        answer.extend_from_slice(name.as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value);
        answer.push(b'\n');
    };
    if !event.kind.is_empty() {
        line("event", &event.kind);
    }
    if !event.id.is_empty() {
        line("id", &event.id);
    }
    match message {
        Some(message) => line("data", message.canonical().as_bytes()),
        None => {
            for part in event.data.split(|byte| *byte == b'\n') {
                line("data", part);
            }
        }
    }
    answer.push(b'\n');
}

/// Each array of tools in a document: a message, or a batch of them.
fn each(document: &mut Value, look: &mut dyn FnMut(&mut Vec<Value>)) {
    match document {
        Value::Array(messages) => {
            for message in messages {
                if matches!(message, Value::Object(_)) {
                    each(message, look);
                }
            }
        }
        Value::Object(members) => {
            // Some parsers look at no case.
            let results = members
                .iter_mut()
                .filter(|(name, _)| name.eq_ignore_ascii_case("result"));
            for (_, result) in results {
                let Value::Object(members) = result else {
                    continue;
                };
                for (name, tools) in members {
                    if let (true, Value::Array(tools)) = (name.eq_ignore_ascii_case("tools"), tools)
                    {
                        look(tools);
                    }
                }
            }
        }
        _ => {}
    }
}

fn name(tool: &Value) -> String {
    let name = tool.get("name").and_then(Value::text);
    name.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
