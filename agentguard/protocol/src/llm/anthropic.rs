//! Answers of Anthropic's Messages: the message, or events that lead to one.

use agentguard_model::{AskedTool, LlmAnswer};
use sha2::{Digest as _, Sha256};

use super::NotUnderstood;
use super::answer::{Answer, Documents, Reading, pend, tokens};
use super::counts::{Counts, told};
use super::tools::digest;
use crate::json::{Event, Kind, Part, Path, Sink};

#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) answer: Answer,
    counts: Counts,
    /// What other calls took that it led to, and is not in its own counts.
    beside: Counts,
    /// Whether it was served in one region alone.
    regional: bool,
    /// Whether what is known of its output was told as it began, which is no more than a beginning.
    begun: bool,
    reading: Reading<Field>,
    document: Document,
    fault: Option<NotUnderstood>,
}

/// What one document says, kept until all of it is there: members have no order.
#[derive(Debug, Default)]
struct Document {
    kind: Option<String>,
    index: Option<u64>,
    /// The block of an event.
    block: Block,
    /// More of the arguments of the block with that index.
    pending: Vec<u8>,
    /// One of the calls that it took, and those of them that are counted apart.
    iteration: (Option<String>, Counts),
    beside: Counts,
}

/// A block of content.
#[derive(Debug, Default)]
struct Block {
    kind: Option<String>,
    name: Option<String>,
    /// The set that the tool belongs to, or the server (MCP).
    set: Option<String>,
    id: Option<String>,
    input: Sha256,
}

/// The calls within one that the counts of it leave out: what is said by a model that it asked, and what the conversation is
/// put in fewer words by.
const APART: [&str; 2] = ["compaction", "advisor_message"];

/// What stands in usage for where a call was served, of one that might have been served anywhere, and of a model that has
/// no such choice (Anthropic, "Data residency").
const ANYWHERE: [&str; 2] = ["global", "not_available"];

impl Block {
    /// Whether it is a tool call: of a tool of the client, of the provider, or of a server (MCP).
    fn is_call(&self) -> bool {
        self.kind
            .as_deref()
            .is_some_and(|kind| kind.ends_with("tool_use"))
    }
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Kind,
    Model,
    Stop,
    BlockKind,
    BlockName,
    BlockSet,
    BlockId,
    IterationKind,
    /// Where it was served.
    Region,
    Arguments,
    /// 0 type, 2 message.
    Error(usize),
}

impl Messages {
    pub(super) fn finish(mut self) -> LlmAnswer {
        // It has an end, which did not say how much it was.
        if self.begun && self.answer.told.finish_reason.is_some() {
            self.counts.output = told(None);
        }
        let mut usage = self.counts.and(self.beside).usage();
        if let Some(usage) = &mut usage {
            usage.regional = self.regional;
        }
        self.answer.told.usage = usage;
        self.answer.finish()
    }

    fn field(steps: &[Part<'_>]) -> Option<Field> {
        use Part::{Item, Key};
        Some(match steps {
            [Key("type")] => Field::Kind,
            [Key("model")] | [Key("message"), Key("model")] => Field::Model,
            [Key("stop_reason")] | [Key("delta"), Key("stop_reason")] => Field::Stop,
            [Key("content"), Item(_), rest @ ..]
            | [Key("message"), Key("content"), Item(_), rest @ ..]
            | [Key("content_block"), rest @ ..] => match rest {
                [Key("type")] => Field::BlockKind,
                [Key("name")] => Field::BlockName,
                [Key("toolset_name" | "server_name")] => Field::BlockSet,
                [Key("id")] => Field::BlockId,
                _ => return None,
            },
            [Key("usage"), Key("inference_geo")]
            | [Key("message"), Key("usage"), Key("inference_geo")] => Field::Region,
            [Key("delta"), Key("partial_json")] => Field::Arguments,
            [Key("usage"), Key("iterations"), Item(_), Key("type")]
            | [
                Key("message"),
                Key("usage"),
                Key("iterations"),
                Item(_),
                Key("type"),
            ] => Field::IterationKind,
            [Key("error"), Key("type")] => Field::Error(0),
            // The second is how Bedrock tells of one.
            [Key("error"), Key("message")] | [Key("message")] => Field::Error(2),
            _ => return None,
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
        if self.reading.word.is_long() && matches!(field, Field::BlockName | Field::BlockSet) {
            self.fault.get_or_insert(NotUnderstood::Long("name"));
        }
        let word = self.reading.word.take();
        let document = &mut self.document;
        let told = &mut self.answer.told;
        match field {
            Field::Kind => document.kind = word,
            Field::Model => told.model = word,
            Field::Stop => told.finish_reason = word,
            Field::BlockKind => document.block.kind = word,
            Field::BlockName => document.block.name = word,
            Field::BlockSet => document.block.set = word,
            Field::IterationKind => document.iteration.0 = word,
            Field::BlockId => document.block.id = word,
            Field::Region => {
                let told = word.as_deref();
                self.regional |= told.is_some_and(|it| !ANYWHERE.contains(&it));
            }
            Field::Arguments => {}
            Field::Error(which) => {
                if let Some(place) = self.answer.error.get_mut(which) {
                    *place = word;
                }
            }
        }
    }

    fn number(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        let number = tokens(event);
        let (counts, name) = match steps {
            [Key("index")] => {
                self.document.index = number.or(self.document.index);
                return;
            }
            [Key("usage"), Key("iterations"), Item(_), Key(name)]
            | [
                Key("message"),
                Key("usage"),
                Key("iterations"),
                Item(_),
                Key(name),
            ] => (&mut self.document.iteration.1, *name),
            [
                Key("usage"),
                Key("output_tokens_details"),
                Key("thinking_tokens"),
            ]
            | [
                Key("message"),
                Key("usage"),
                Key("output_tokens_details"),
                Key("thinking_tokens"),
            ] => {
                self.counts.reasoning = told(number);
                return;
            }
            // Of a count, which has nothing else.
            [Key(name @ "input_tokens")]
            | [Key("usage"), Key(name)]
            | [Key("message"), Key("usage"), Key(name)] => (&mut self.counts, *name),
            _ => return,
        };
        let place = match name {
            "input_tokens" => &mut counts.input,
            "output_tokens" => {
                match steps {
                    [Key("message"), Key("usage"), _] => self.begun = true,
                    [Key("usage"), _] => self.begun = false,
                    _ => {}
                }
                &mut counts.output
            }
            "cache_read_input_tokens" => &mut counts.cache_read,
            "cache_creation_input_tokens" => &mut counts.cache_write,
            _ => return,
        };
        *place = told(number);
    }

    /// A block of a message that is whole.
    fn block_ends(&mut self, index: usize) -> Result<(), NotUnderstood> {
        let block = std::mem::take(&mut self.document.block);
        if !block.is_call() {
            return Ok(());
        }
        let name = block.name.ok_or(NotUnderstood::Wrong("name"))?;
        self.answer.tools.of_set(block.set.as_deref(), &name)?;
        let asked = AskedTool {
            name,
            id: block.id,
            arguments: Some(digest(true, block.input)),
        };
        self.answer.tools.put((0, index as u64), asked)
    }

    fn event_ends(&mut self, document: Document) -> Result<(), NotUnderstood> {
        let slot = (0, document.index.unwrap_or_default());
        let tools = &mut self.answer.tools;
        match document.kind.as_deref() {
            Some("content_block_start") if document.block.is_call() => {
                let block = &document.block;
                let name = block.name.as_deref();
                let name = name.ok_or(NotUnderstood::Wrong("name"))?;
                tools.of_set(block.set.as_deref(), name)?;
                tools.named(slot, document.block.name, document.block.id)?;
            }
            Some("content_block_delta") if !document.pending.is_empty() => {
                tools.arguments(slot, &document.pending)?;
            }
            Some("content_block_stop") => tools.whole(slot),
            _ => {}
        }
        Ok(())
    }
}

impl Sink for Messages {
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
            (
                Event::Begin(Kind::Object),
                [Key("content"), Item(_)] | [Key("message"), Key("content"), Item(_)],
            ) => {
                // Of an event that begins a block, and has a whole message beside.
                let before = std::mem::take(&mut self.document.block);
                if before.kind.is_some() || before.name.is_some() {
                    self.fault.get_or_insert(NotUnderstood::Names);
                }
            }
            (
                Event::End(Kind::Object),
                [Key("content"), Item(index)] | [Key("message"), Key("content"), Item(index)],
            ) => {
                if let Err(fault) = self.block_ends(*index) {
                    self.fault.get_or_insert(fault);
                }
            }
            (
                Event::End(Kind::Object),
                [Key("usage"), Key("iterations"), Item(_)]
                | [Key("message"), Key("usage"), Key("iterations"), Item(_)],
            ) => {
                let (kind, counts) = std::mem::take(&mut self.document.iteration);
                if kind.is_some_and(|kind| APART.contains(&kind.as_str())) {
                    self.document.beside = self.document.beside.and(counts);
                }
            }
            _ => {}
        }
    }

    fn wants_raw(&mut self, path: &Path) -> bool {
        use Part::{Item, Key};
        let parts = path.parts();
        matches!(
            parts.steps(),
            Some(
                [Key("content"), Item(_), Key("input")]
                    | [Key("message"), Key("content"), Item(_), Key("input")]
            )
        )
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.document.block.input.update(bytes);
    }
}

impl Documents for Messages {
    fn named(&mut self, kind: &str) {
        self.document.kind.get_or_insert_with(|| kind.to_owned());
    }

    fn over(&mut self, event: bool) -> Result<(), NotUnderstood> {
        let document = std::mem::take(&mut self.document);
        if document.beside.any() {
            self.beside = document.beside;
        }
        match self.fault.take() {
            Some(fault) => Err(fault),
            None if event => self.event_ends(document),
            None => Ok(()),
        }
    }
}
