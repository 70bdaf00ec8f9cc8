//! Answers of Bedrock's Converse: one document, or events that lead to one.

use agentguard_model::{AskedTool, LlmAnswer};
use sha2::{Digest as _, Sha256};

use super::NotUnderstood;
use super::answer::{Answer, Documents, Reading, pend, tokens};
use super::counts::{Counts, told};
use super::tools::digest;
use crate::json::{Event, Kind, Part, Path, Sink};

#[derive(Debug, Default)]
pub(super) struct Converse {
    pub(super) answer: Answer,
    counts: Counts,
    reading: Reading<Field>,
    document: Document,
    fault: Option<NotUnderstood>,
}

/// What one document says, kept until all of it is there.
#[derive(Debug, Default)]
struct Document {
    /// Of an event, its type.
    kind: String,
    /// Whether it is an error.
    failed: bool,
    index: Option<u64>,
    block: Block,
    /// More of the arguments of the block with that index.
    pending: Vec<u8>,
}

/// A tool call of the content.
#[derive(Debug, Default)]
struct Block {
    name: Option<String>,
    id: Option<String>,
    any: bool,
    input: Sha256,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Model,
    Stop,
    Name,
    Id,
    Arguments,
    Error,
}

/// The steps within a tool call, of a message or of an event that begins one.
fn in_call<'a, 'b>(steps: &'b [Part<'a>]) -> Option<&'b [Part<'a>]> {
    use Part::{Item, Key};
    match steps {
        [
            Key("output"),
            Key("message"),
            Key("content"),
            Item(_),
            Key("toolUse"),
            rest @ ..,
        ]
        | [Key("start"), Key("toolUse"), rest @ ..] => Some(rest),
        _ => None,
    }
}

impl Converse {
    pub(super) fn finish(mut self) -> LlmAnswer {
        self.answer.told.usage = self.counts.usage();
        self.answer.finish()
    }

    fn field(steps: &[Part<'_>]) -> Option<Field> {
        use Part::Key;
        Some(match steps {
            [Key("stopReason")] => Field::Stop,
            [Key("trace"), Key("promptRouter"), Key("invokedModelId")] => Field::Model,
            [Key("delta"), Key("toolUse"), Key("input")] => Field::Arguments,
            [Key("message" | "Message")] => Field::Error,
            steps => match in_call(steps)? {
                [Key("name")] => Field::Name,
                [Key("toolUseId")] => Field::Id,
                _ => return None,
            },
        })
    }

    fn text(&mut self, piece: &str) {
        match self.reading.field {
            None => {}
            Some(Field::Arguments) => {
                pend(&mut self.document.pending, piece, &mut self.fault);
            }
            Some(_) => self.reading.word.push(piece),
        }
    }

    fn text_ends(&mut self) {
        let Some(field) = self.reading.field.take() else {
            return;
        };
        if self.reading.word.is_long() && matches!(field, Field::Name) {
            self.fault.get_or_insert(NotUnderstood::Long("name"));
        }
        let word = self.reading.word.take();
        let place = match field {
            Field::Model => &mut self.answer.told.model,
            Field::Stop => &mut self.answer.told.finish_reason,
            Field::Name => &mut self.document.block.name,
            Field::Id => &mut self.document.block.id,
            Field::Arguments => return,
            Field::Error => {
                let [_, _, message] = &mut self.answer.error;
                message
            }
        };
        *place = word.or(place.take());
    }

    fn number(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::Key;
        let number = tokens(event);
        let counts = &mut self.counts;
        let place = match steps {
            [Key("contentBlockIndex")] => {
                self.document.index = number.or(self.document.index);
                return;
            }
            // Of a count, which has nothing else.
            [Key("inputTokens")] | [Key("usage"), Key("inputTokens")] => &mut counts.input,
            [Key("usage"), Key("outputTokens")] => &mut counts.output,
            [Key("usage"), Key("cacheReadInputTokens")] => &mut counts.cache_read,
            [Key("usage"), Key("cacheWriteInputTokens")] => &mut counts.cache_write,
            _ => return,
        };
        *place = told(number);
    }

    /// A tool call of a message that is whole.
    fn block_ends(&mut self, index: usize) -> Result<(), NotUnderstood> {
        let block = std::mem::take(&mut self.document.block);
        let asked = AskedTool {
            name: block.name.unwrap_or_default(),
            id: block.id,
            arguments: Some(digest(block.any, block.input)),
        };
        self.answer.tools.put((0, index as u64), asked)
    }

    fn event_ends(&mut self, document: Document) -> Result<(), NotUnderstood> {
        let slot = (0, document.index.unwrap_or_default());
        let tools = &mut self.answer.tools;
        match document.kind.as_str() {
            kind if document.failed => {
                let [failure, ..] = &mut self.answer.error;
                *failure = (!kind.is_empty()).then(|| kind.to_owned());
            }
            "contentBlockStart" if document.block.name.is_some() => {
                tools.named(slot, document.block.name, document.block.id)?;
            }
            "contentBlockDelta" if !document.pending.is_empty() => {
                tools.arguments(slot, &document.pending)?;
            }
            "contentBlockStop" => tools.whole(slot),
            _ => {}
        }
        Ok(())
    }
}

impl Sink for Converse {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::{Item, Key};
        match event {
            Event::Text(piece) => return self.text(piece),
            Event::End(Kind::Text) => return self.text_ends(),
            _ => {}
        }
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        match (event, steps) {
            (Event::Begin(Kind::Text), steps) => self.reading.begin(Self::field(steps)),
            (Event::Number(_), steps) => self.number(steps, event),
            (Event::Begin(Kind::Object), steps) if in_call(steps).is_some_and(<[_]>::is_empty) => {
                // Of an event that begins a call, and has a whole message beside.
                let before = std::mem::take(&mut self.document.block);
                if before.name.is_some() {
                    self.fault.get_or_insert(NotUnderstood::Names);
                }
            }
            (
                Event::End(Kind::Object),
                [
                    Key("output"),
                    Key("message"),
                    Key("content"),
                    Item(index),
                    Key("toolUse"),
                ],
            ) => {
                if let Err(fault) = self.block_ends(*index) {
                    self.fault.get_or_insert(fault);
                }
            }
            _ => {}
        }
    }

    fn wants_raw(&mut self, path: &Path) -> bool {
        let parts = path.parts();
        let steps = parts.steps().and_then(in_call);
        matches!(steps, Some([Part::Key("input")]))
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.document.block.any |= !bytes.is_empty();
        self.document.block.input.update(bytes);
    }
}

impl Documents for Converse {
    fn begins(&mut self, kind: &str, failed: bool) {
        kind.clone_into(&mut self.document.kind);
        self.document.failed = failed;
    }

    fn over(&mut self, event: bool) -> Result<(), NotUnderstood> {
        let document = std::mem::take(&mut self.document);
        match self.fault.take() {
            Some(fault) => Err(fault),
            None if event => self.event_ends(document),
            None => Ok(()),
        }
    }
}
