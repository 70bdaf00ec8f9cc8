//! Lists of tools of which a client is shown a part.

use super::NotUnderstood;
use crate::json::{Builder, Event, Fault, Path, Scanner, Sink, Value};
use crate::sse;

/// The most that an answer with a list may take while it is held ([`Builder::new`]), and the most bytes of it.
pub const MAX_LIST: usize = 8 * 1024 * 1024;

/// Holds an answer, and leaves tools out of it.
#[derive(Debug)]
pub struct ListFilter {
    form: Form,
    size: usize,
    fault: Option<NotUnderstood>,
}

#[derive(Debug)]
enum Form {
    Document(Scanner, Kept),
    Events(sse::Parser, Vec<Held>),
}

/// An event that is held.
#[derive(Debug)]
struct Held {
    kind: Vec<u8>,
    data: Vec<u8>,
    id: Vec<u8>,
}

#[derive(Debug)]
struct Kept(Builder);

impl Sink for Kept {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        self.0.take(path, event);
    }
}

impl ListFilter {
    /// For an answer that is one document, or a stream of `events`.
    #[must_use]
    pub fn new(events: bool) -> Self {
        let form = if events {
            Form::Events(sse::Parser::new(MAX_LIST), Vec::new())
        } else {
            Form::Document(Scanner::default(), Kept(Builder::new(MAX_LIST)))
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
            Form::Document(scanner, kept) => {
                self.fault = scanner.push(bytes, kept).err().map(NotUnderstood::from);
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

    /// The answer with those tools alone that are `shown`, which is asked for all names of a list at once; and the names of
    /// the others. What has no name is left out.
    ///
    /// # Errors
    /// It cannot be read, so that nobody knows what it lists.
    pub fn finish(
        self,
        shown: &mut dyn FnMut(&[String]) -> Vec<bool>,
    ) -> Result<(Vec<u8>, Vec<String>), NotUnderstood> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut left_out = Vec::new();
        let answer = match self.form {
            // An answer without content lists nothing.
            Form::Document(..) if self.size == 0 => Vec::new(),
            Form::Document(mut scanner, mut kept) => {
                scanner.finish(&mut kept)?;
                let mut value = kept.0.finish()?;
                filter(&mut value, shown, &mut left_out);
                value.canonical().into_bytes()
            }
            Form::Events(_, events) => {
                let mut answer = Vec::new();
                for event in events {
                    write(event, shown, &mut left_out, &mut answer)?;
                }
                answer
            }
        };
        Ok((answer, left_out))
    }
}

/// Writes an event down again.
fn write(
    event: Held,
    shown: &mut dyn FnMut(&[String]) -> Vec<bool>,
    left_out: &mut Vec<String>,
    answer: &mut Vec<u8>,
) -> Result<(), NotUnderstood> {
    let message = matches!(event.kind.as_slice(), b"" | b"message");
    let data = if message && !event.data.is_empty() {
        let (mut scanner, mut kept) = (Scanner::default(), Kept(Builder::new(MAX_LIST)));
        scanner.push(&event.data, &mut kept)?;
        scanner.finish(&mut kept)?;
        let mut value = kept.0.finish()?;
        filter(&mut value, shown, left_out);
        value.canonical().into_bytes()
    } else {
        event.data
    };
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
    for part in data.split(|byte| *byte == b'\n') {
        line("data", part);
    }
    answer.push(b'\n');
    Ok(())
}

/// Leaves tools out of the lists of a document.
fn filter(
    document: &mut Value,
    shown: &mut dyn FnMut(&[String]) -> Vec<bool>,
    left_out: &mut Vec<String>,
) {
    match document {
        Value::Array(messages) => {
            for message in messages {
                if matches!(message, Value::Object(_)) {
                    filter(message, shown, left_out);
                }
            }
        }
        Value::Object(members) => {
            let results = members.iter_mut().filter(|(name, _)| **name == *"result");
            for (_, result) in results {
                let Value::Object(members) = result else {
                    continue;
                };
                for (name, tools) in members {
                    // Some parsers look at no case.
                    if let (true, Value::Array(tools)) = (name.eq_ignore_ascii_case("tools"), tools)
                    {
                        pick(tools, shown, left_out);
                    }
                }
            }
        }
        _ => {}
    }
}

fn pick(
    tools: &mut Vec<Value>,
    shown: &mut dyn FnMut(&[String]) -> Vec<bool>,
    left_out: &mut Vec<String>,
) {
    let name = |tool: &Value| {
        let name = tool.get("name").and_then(Value::text);
        name.unwrap_or_default().to_owned()
    };
    let names: Vec<String> = tools.iter().map(name).collect();
    let which = shown(&names);
    let mut which = names.into_iter().zip(which);
    tools.retain(|_| match which.next() {
        Some((name, true)) if !name.is_empty() => true,
        Some((name, _)) => {
            if left_out.len() < super::MAX_TOLD {
                left_out.push(name.chars().take(crate::jsonrpc::MAX_WORD).collect());
            }
            false
        }
        None => false,
    });
}
