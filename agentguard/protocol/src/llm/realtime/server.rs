//! A server's events.

use agentguard_model::{AskedTool, Usage};
use sha2::{Digest as _, Sha256};

use super::offer::OfferSink;
use super::replies::{Done, Heard, Reply, Said};
use crate::json::{Event, Kind, Part, Path, Scanner, Sink};
use crate::llm::answer::{Reading, tokens};
use crate::llm::responses::Item;
use crate::llm::tools::{Tools, digest};
use crate::llm::{NotUnderstood, Progress};

/// Reads an event of a server's.
#[derive(Debug, Default)]
pub struct ServerReader {
    scanner: Scanner,
    sink: Box<EventSink>,
}

impl ServerReader {
    /// Reads on.
    ///
    /// # Errors
    /// Why the event is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        self.scanner.push(bytes, &mut *self.sink)?;
        Ok(())
    }

    /// What it says, once it is whole.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Heard, NotUnderstood> {
        self.scanner.finish(&mut *self.sink)?;
        self.sink.finish()
    }
}

/// A text that is looked at.
#[derive(Clone, Copy, Debug)]
enum Field {
    Kind,
    ResponseId,
    Status,
    Reason,
    /// Type, code, message of the event's, or of the response's.
    Error(usize),
    ErrorOf,
    ItemKind,
    ItemName,
    ItemCallId,
    ItemId,
    ItemArguments,
    /// Of the call whose arguments these are.
    Name,
    CallId,
    Arguments,
}

#[derive(Debug, Default)]
struct EventSink {
    reading: Reading<Field>,
    kind: Option<String>,
    response: Option<String>,
    status: Option<String>,
    reason: Option<String>,
    error: [Option<String>; 3],
    error_of: Option<String>,
    usage: Option<Usage>,
    output_index: Option<u64>,
    item: Item,
    output: Tools,
    name: Option<String>,
    call_id: Option<String>,
    any: bool,
    arguments: Sha256,
    session: OfferSink,
    fault: Option<NotUnderstood>,
}

impl EventSink {
    fn field(steps: &[Part<'_>]) -> Option<Field> {
        use Part::{Item, Key};
        Some(match steps {
            [Key("type")] => Field::Kind,
            [Key("response_id")] | [Key("response"), Key("id")] => Field::ResponseId,
            [Key("response"), Key("status")] => Field::Status,
            [Key("response"), Key("status_details"), Key("reason")] => Field::Reason,
            [Key("error"), rest @ ..]
            | [
                Key("response"),
                Key("status_details"),
                Key("error"),
                rest @ ..,
            ] => match rest {
                [Key("type")] => Field::Error(0),
                [Key("code")] => Field::Error(1),
                [Key("message")] => Field::Error(2),
                [Key("event_id")] => Field::ErrorOf,
                _ => return None,
            },
            [Key("name")] => Field::Name,
            [Key("call_id")] => Field::CallId,
            [Key("arguments")] => Field::Arguments,
            [Key("item"), rest @ ..] | [Key("response"), Key("output"), Item(_), rest @ ..] => {
                match rest {
                    [Key("type")] => Field::ItemKind,
                    [Key("name")] => Field::ItemName,
                    [Key("call_id")] => Field::ItemCallId,
                    [Key("id")] => Field::ItemId,
                    [Key("arguments")] => Field::ItemArguments,
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    fn text_ends(&mut self) {
        let Some(field) = self.reading.field.take() else {
            return;
        };
        if self.reading.word.is_long() && matches!(field, Field::ItemName | Field::Name) {
            self.fault.get_or_insert(NotUnderstood::Long("name"));
        }
        let word = self.reading.word.take();
        let place = match field {
            Field::Kind => &mut self.kind,
            Field::ResponseId => &mut self.response,
            Field::Status => &mut self.status,
            Field::Reason => &mut self.reason,
            Field::Error(which) => match self.error.get_mut(which) {
                Some(place) => place,
                None => return,
            },
            Field::ErrorOf => &mut self.error_of,
            Field::ItemKind => &mut self.item.kind,
            Field::ItemName => &mut self.item.name,
            Field::ItemCallId => &mut self.item.call_id,
            Field::ItemId => &mut self.item.id,
            Field::Name => &mut self.name,
            Field::CallId => &mut self.call_id,
            Field::ItemArguments | Field::Arguments => return,
        };
        *place = word;
    }

    fn number(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::Key;
        let number = tokens(event);
        let counts = match steps {
            [Key("output_index")] => {
                self.output_index = number.or(self.output_index);
                return;
            }
            // That of what was written down stands at the top.
            [Key("response"), Key("usage"), rest @ ..] | [Key("usage"), rest @ ..] => rest,
            _ => return,
        };
        let usage = &mut self.usage;
        let place = match counts {
            [Key("input_tokens")] => &mut usage.get_or_insert_default().input_tokens,
            [Key("output_tokens")] => &mut usage.get_or_insert_default().output_tokens,
            [Key("input_token_details"), Key("cached_tokens")] => {
                &mut usage.get_or_insert_default().cache_read_tokens
            }
            [Key("input_token_details"), Key("audio_tokens")] => {
                &mut usage.get_or_insert_default().audio_input_tokens
            }
            [Key("output_token_details"), Key("audio_tokens")] => {
                &mut usage.get_or_insert_default().audio_output_tokens
            }
            [Key("output_token_details"), Key("reasoning_tokens")] => {
                &mut usage.get_or_insert_default().reasoning_tokens
            }
            _ => return,
        };
        *place = number;
    }

    fn finish(self) -> Result<Heard, NotUnderstood> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let kind = self.kind.as_deref().unwrap_or_default();
        let [error_type, code, message] = self.error;
        let error = code.or(error_type).or(message);
        let index = self.output_index.unwrap_or_default();
        let (progress, said) = match kind {
            "session.created" | "session.updated" => {
                return Ok(Heard::Session {
                    told: self.session.finish(),
                    updated: kind == "session.updated",
                });
            }
            "error" => {
                return Ok(Heard::Error {
                    event: self.error_of,
                    error: error.unwrap_or_else(|| "error".to_owned()),
                });
            }
            "conversation.item.input_audio_transcription.completed" => {
                return Ok(Heard::Transcribed(self.usage));
            }
            "response.created" => (Progress::Begun, Said::Other),
            "response.output_item.added" => (
                Progress::Within,
                self.item
                    .asked(false)?
                    .map_or(Said::Other, |asked| Said::Calls(index, asked)),
            ),
            "response.output_item.done" => (
                Progress::Within,
                self.item
                    .asked(true)?
                    .map_or(Said::Other, |asked| Said::Called(index, asked)),
            ),
            "response.function_call_arguments.done" | "response.mcp_call_arguments.done" => {
                let arguments = digest(self.any, self.arguments);
                let said = match self.name {
                    None => Said::Arguments(index, arguments),
                    Some(name) => Said::Called(
                        index,
                        AskedTool {
                            name,
                            id: self.call_id,
                            arguments: Some(arguments),
                        },
                    ),
                };
                (Progress::Within, said)
            }
            "response.done" => {
                let done = Done {
                    finish_reason: self.reason.or(self.status),
                    error,
                    usage: self.usage,
                    output: self.output,
                };
                (Progress::Over, Said::Done(Box::new(done)))
            }
            kind if kind.starts_with("response.") => (Progress::Within, Said::Other),
            _ => return Ok(Heard::Other),
        };
        Ok(Heard::Reply(Box::new(Reply {
            id: self.response.unwrap_or_default(),
            progress,
            said,
        })))
    }
}

impl Sink for EventSink {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::{Item as At, Key};
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        if let [Key("session"), rest @ ..] = steps {
            self.session.met(rest, event);
            return;
        }
        match event {
            Event::Begin(Kind::Text) => self.reading.begin(Self::field(steps)),
            Event::Text(piece) => match self.reading.field {
                None => {}
                Some(Field::ItemArguments) => {
                    self.item.any = true;
                    self.item.arguments.update(piece.as_bytes());
                }
                Some(Field::Arguments) => {
                    self.any = true;
                    self.arguments.update(piece.as_bytes());
                }
                Some(_) => self.reading.word.push(piece),
            },
            Event::End(Kind::Text) => self.text_ends(),
            Event::Number(_) => self.number(steps, event),
            Event::Begin(Kind::Object) => {
                if let [Key("response"), Key("output"), At(_)] = steps {
                    self.item = Item::default();
                }
            }
            Event::End(Kind::Object) => {
                if let [Key("response"), Key("output"), At(index)] = steps {
                    let item = std::mem::take(&mut self.item);
                    if let Err(fault) = self.output.item((0, *index as u64), item) {
                        self.fault.get_or_insert(fault);
                    }
                }
            }
            _ => {}
        }
    }
}
