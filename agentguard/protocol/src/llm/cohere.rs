//! Answers of Cohere's Chat and Embed: one document, or events that lead to one.

use agentguard_model::{AskedTool, LlmAnswer, Usage};
use sha2::{Digest as _, Sha256};

use super::NotUnderstood;
use super::answer::{Answer, Documents, Reading, pend};
use super::tools::{Slot, digest};
use crate::json::{Event, Kind, Part, Path, Sink};

#[derive(Debug, Default)]
pub(super) struct Cohere {
    pub(super) answer: Answer,
    /// What was counted, and what of it is paid for: input and output.
    tokens: [Option<u64>; 2],
    billed: [Option<u64>; 2],
    cached: Option<u64>,
    reading: Reading<Field>,
    document: Document,
    fault: Option<NotUnderstood>,
}

/// Where calls of version 1 stand, which tells of each in several places.
const FIRST: u64 = 1;

/// What one document says, kept until all of it is there.
#[derive(Debug, Default)]
struct Document {
    kind: Option<String>,
    index: Option<u64>,
    call: Call,
    /// More of the arguments of the call with that index.
    pending: Vec<u8>,
}

#[derive(Debug, Default)]
struct Call {
    name: Option<String>,
    id: Option<String>,
    any: bool,
    arguments: Sha256,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Kind,
    Finish,
    Error,
    Name,
    Id,
    /// `whole`: of an answer, not of an event.
    Arguments {
        whole: bool,
    },
}

/// The steps within a tool call of an answer: of version 2, and of version 1.
fn in_call<'a, 'b>(steps: &'b [Part<'a>]) -> Option<&'b [Part<'a>]> {
    use Part::{Item, Key};
    match steps {
        [Key("message"), Key("tool_calls"), Item(_), rest @ ..]
        | [Key("response"), Key("tool_calls"), Item(_), rest @ ..]
        | [Key("tool_calls"), Item(_), rest @ ..] => Some(rest),
        _ => None,
    }
}

/// The steps within a number of tokens.
fn in_counts<'a, 'b>(steps: &'b [Part<'a>]) -> Option<&'b [Part<'a>]> {
    use Part::Key;
    match steps {
        [Key("delta"), Key("usage"), rest @ ..]
        | [Key("usage"), rest @ ..]
        | [Key("response"), Key("meta"), rest @ ..]
        | [Key("meta"), rest @ ..] => Some(rest),
        _ => None,
    }
}

impl Cohere {
    pub(super) fn finish(mut self) -> LlmAnswer {
        let [input, output] = self.tokens;
        let [billed_input, billed_output] = self.billed;
        let (input, output) = (input.or(billed_input), output.or(billed_output));
        if input.or(output).is_some() {
            self.answer.told.usage = Some(Usage {
                input_tokens: input,
                output_tokens: output,
                cache_read_tokens: self.cached,
                ..Usage::default()
            });
        }
        self.answer.finish()
    }

    fn field(steps: &[Part<'_>]) -> Option<Field> {
        use Part::Key;
        Some(match steps {
            [Key("type" | "event_type")] => Field::Kind,
            [Key("finish_reason")] | [Key("delta"), Key("finish_reason")] => Field::Finish,
            [Key("message")] | [Key("delta"), Key("error")] => Field::Error,
            [Key("tool_call_delta"), Key("name")] => Field::Name,
            [Key("delta"), Key("message"), Key("tool_calls"), rest @ ..] => match rest {
                [Key("id")] => Field::Id,
                [Key("function"), Key("name")] => Field::Name,
                [Key("function"), Key("arguments")] => Field::Arguments { whole: false },
                _ => return None,
            },
            steps => match in_call(steps)? {
                [Key("id")] => Field::Id,
                [Key("name")] | [Key("function"), Key("name")] => Field::Name,
                [Key("function"), Key("arguments")] => Field::Arguments { whole: true },
                _ => return None,
            },
        })
    }

    fn text(&mut self, piece: &str) {
        let document = &mut self.document;
        match self.reading.field {
            None => {}
            Some(Field::Arguments { whole: true }) => {
                document.call.any = true;
                document.call.arguments.update(piece.as_bytes());
            }
            Some(Field::Arguments { whole: false }) => {
                pend(&mut document.pending, piece, &mut self.fault);
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
        // In two places: clients take the one or the other.
        let twice = match field {
            Field::Kind => self.document.kind.is_some(),
            Field::Name => self.document.call.name.is_some(),
            _ => false,
        };
        if twice {
            self.fault.get_or_insert(NotUnderstood::Names);
        }
        let place = match field {
            Field::Kind => &mut self.document.kind,
            Field::Finish => &mut self.answer.told.finish_reason,
            Field::Name => &mut self.document.call.name,
            Field::Id => &mut self.document.call.id,
            Field::Arguments { .. } => return,
            Field::Error => {
                let [_, _, message] = &mut self.answer.error;
                message
            }
        };
        *place = word.or(place.take());
    }

    fn number(&mut self, steps: &[Part<'_>], number: &str) {
        use Part::Key;
        // It has no number that is none but by its point.
        let number = number.strip_suffix(".0").unwrap_or(number);
        let number = number.parse::<u64>().ok();
        let place = match in_counts(steps) {
            Some([Key(which @ ("tokens" | "billed_units")), Key(name)]) => {
                let [input, output] = match *which {
                    "tokens" => &mut self.tokens,
                    _ => &mut self.billed,
                };
                match *name {
                    "input_tokens" => input,
                    "output_tokens" => output,
                    _ => return,
                }
            }
            Some([Key("cached_tokens")]) => &mut self.cached,
            None if matches!(
                steps,
                [Key("index")] | [Key("tool_call_delta"), Key("index")]
            ) =>
            {
                self.document.index = number.or(self.document.index);
                return;
            }
            _ => return,
        };
        *place = number;
    }

    fn call_ends(&mut self, slot: Slot) {
        let call = std::mem::take(&mut self.document.call);
        let asked = AskedTool {
            name: call.name.unwrap_or_default(),
            id: call.id,
            arguments: Some(digest(call.any, call.arguments)),
        };
        if let Err(fault) = self.answer.tools.put(slot, asked) {
            self.fault.get_or_insert(fault);
        }
    }

    fn event_ends(&mut self, document: Document) -> Result<(), NotUnderstood> {
        let slot = (0, document.index.unwrap_or_default());
        let tools = &mut self.answer.tools;
        match document.kind.as_deref() {
            Some("tool-call-start") => {
                tools.named(slot, document.call.name, document.call.id)?;
                tools.arguments(slot, &document.pending)?;
            }
            Some("tool-call-delta") if !document.pending.is_empty() => {
                tools.arguments(slot, &document.pending)?;
            }
            Some("tool-call-end") => tools.whole(slot),
            // Of version 1, whose arguments are not put together.
            Some("tool-calls-chunk") => {
                tools.named((FIRST, slot.1), document.call.name, None)?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Sink for Cohere {
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
            (Event::Number(number), steps) => self.number(steps, number),
            (Event::Begin(Kind::Object), steps) if in_call(steps).is_some_and(<[_]>::is_empty) => {
                let before = std::mem::take(&mut self.document.call);
                if before.name.is_some() {
                    self.fault.get_or_insert(NotUnderstood::Names);
                }
            }
            (Event::End(Kind::Object), [Key("message"), Key("tool_calls"), Item(index)]) => {
                self.call_ends((0, *index as u64));
            }
            (
                Event::End(Kind::Object),
                [Key("response"), Key("tool_calls"), Item(index)]
                | [Key("tool_calls"), Item(index)],
            ) => self.call_ends((FIRST, *index as u64)),
            _ => {}
        }
    }

    fn wants_raw(&mut self, path: &Path) -> bool {
        let parts = path.parts();
        let steps = parts.steps().and_then(in_call);
        matches!(steps, Some([Part::Key("parameters")]))
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.document.call.any |= !bytes.is_empty();
        self.document.call.arguments.update(bytes);
    }
}

impl Documents for Cohere {
    fn named(&mut self, kind: &str) {
        self.document.kind.get_or_insert_with(|| kind.to_owned());
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
