//! Answers of `OpenAI`'s Chat Completions, Completions and Embeddings, and of those who speak them.

use std::collections::BTreeMap;

use agentguard_model::AskedTool;
use sha2::{Digest as _, Sha256};

use super::answer::{Answer, Documents, Reading, tokens};
use super::tools::{Slot, digest};
use super::{MAX_PENDING, NotUnderstood};
use crate::json::{Event, Kind, Part, Path, Sink};

/// Where the call stands that there could be before there could be more.
const FUNCTION: u64 = u64::MAX;

/// Behind this stand calls that came at the place of another one.
const MOVED: u64 = 1 << 32;

#[derive(Debug, Default)]
pub(super) struct Chat {
    pub(super) answer: Answer,
    reading: Reading<Field>,
    choice: Choice,
    /// Where calls stand that came at a place which another one has, by their choice and that place.
    moved: BTreeMap<Slot, u64>,
    /// How many there were.
    count: u64,
    /// What clients make of their names who join what comes at one place, whatever its id.
    joined: BTreeMap<Slot, String>,
    fault: Option<NotUnderstood>,
}

/// A choice of one document.
#[derive(Debug, Default)]
struct Choice {
    index: Option<u64>,
    /// Whether it is a message, and no delta of one.
    whole: bool,
    finish: Option<String>,
    /// How many bytes of arguments wait for its end.
    pending: usize,
    tools: Vec<Tool>,
}

/// A tool call in a choice. Where which one it is comes behind its arguments, those wait.
#[derive(Debug, Default)]
struct Tool {
    index: Option<u64>,
    /// Whether it is the one that there could be before there could be more.
    function: bool,
    name: Option<String>,
    id: Option<String>,
    /// Of a message: there they are whole.
    whole: Arguments,
    pending: Vec<u8>,
}

#[derive(Debug, Default)]
struct Arguments {
    any: bool,
    digest: Sha256,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Model,
    Finish,
    ToolName,
    ToolId,
    /// `whole`: of a message, not of a delta.
    Arguments {
        whole: bool,
    },
    /// 0 type, 1 code, 2 message.
    Error(usize),
}

impl Chat {
    fn field(steps: &[Part<'_>]) -> Option<Field> {
        use Part::{Item, Key};
        Some(match steps {
            [Key("model")] => Field::Model,
            [Key("choices"), Item(_), Key("finish_reason")] => Field::Finish,
            [
                Key("choices"),
                Item(_),
                Key(part @ ("delta" | "message")),
                Key("tool_calls"),
                Item(_),
                rest @ ..,
            ] => match rest {
                [Key("id")] => Field::ToolId,
                [Key("function" | "custom"), Key("name")] => Field::ToolName,
                [Key("function"), Key("arguments")] | [Key("custom"), Key("input")] => {
                    Field::Arguments {
                        whole: *part == "message",
                    }
                }
                _ => return None,
            },
            // As it was before there could be more than one.
            [
                Key("choices"),
                Item(_),
                Key(part @ ("delta" | "message")),
                Key("function_call"),
                rest @ ..,
            ] => match rest {
                [Key("name")] => Field::ToolName,
                [Key("arguments")] => Field::Arguments {
                    whole: *part == "message",
                },
                _ => return None,
            },
            [Key("error"), Key("type")] => Field::Error(0),
            [Key("error"), Key("code")] => Field::Error(1),
            [Key("error"), Key("message")] | [Key("error")] => Field::Error(2),
            _ => return None,
        })
    }

    fn text(&mut self, piece: &str) {
        match self.reading.field {
            None => {}
            Some(Field::Arguments { whole: true }) => {
                if let Some(tool) = self.choice.tools.last_mut() {
                    tool.whole.any = true;
                    tool.whole.digest.update(piece.as_bytes());
                }
            }
            Some(Field::Arguments { whole: false }) => {
                self.choice.pending += piece.len();
                if self.choice.pending > MAX_PENDING {
                    self.fault.get_or_insert(NotUnderstood::Pending);
                } else if let Some(tool) = self.choice.tools.last_mut() {
                    tool.pending.extend_from_slice(piece.as_bytes());
                }
            }
            Some(_) => self.reading.word.push(piece),
        }
    }

    fn text_ends(&mut self) {
        let Some(field) = self.reading.field.take() else {
            return;
        };
        if self.reading.word.is_long() && matches!(field, Field::ToolName) {
            self.fault.get_or_insert(NotUnderstood::Long("name"));
        }
        let word = self.reading.word.take();
        let tool = self.choice.tools.last_mut();
        match (field, tool) {
            (Field::Model, _) => {
                self.answer.told.model = word.or(self.answer.told.model.take());
            }
            (Field::Finish, _) => self.choice.finish = word,
            (Field::ToolName, Some(tool)) => {
                // As a function and as a custom tool: clients take the one or the other.
                if tool.name.is_some() {
                    self.fault.get_or_insert(NotUnderstood::Names);
                }
                tool.name = word;
            }
            (Field::ToolId, Some(tool)) => tool.id = word,
            (Field::Error(which), _) => {
                if let Some(place) = self.answer.error.get_mut(which) {
                    *place = word;
                }
            }
            (Field::Arguments { .. } | Field::ToolName | Field::ToolId, _) => {}
        }
    }

    fn choice_ends(&mut self, position: usize) -> Result<(), NotUnderstood> {
        let choice = std::mem::take(&mut self.choice);
        // What is whole is read in the order of the list, whatever its places say.
        let index = choice.index.filter(|_| !choice.whole);
        let index = index.unwrap_or(position as u64);
        for (position, tool) in choice.tools.into_iter().enumerate() {
            let place = tool.index.unwrap_or(position as u64);
            if choice.whole {
                let place = if tool.function {
                    place
                } else {
                    position as u64
                };
                let slot = (index, place);
                let arguments = digest(tool.whole.any, tool.whole.digest);
                let asked = AskedTool {
                    name: tool.name.unwrap_or_default(),
                    id: tool.id,
                    arguments: Some(arguments),
                };
                self.answer.tools.put(slot, asked)?;
            } else {
                let slot = self.slot((index, place), &tool);
                self.answer.tools.named(slot, tool.name, tool.id)?;
                self.answer.tools.arguments(slot, &tool.pending)?;
            }
        }
        if let Some(finish) = choice.finish {
            self.answer.tools.all_whole(index);
            self.answer.told.finish_reason = Some(finish);
        }
        Ok(())
    }

    /// The tools that it asks for, for some client.
    pub(super) fn asks(&self) -> impl Iterator<Item = &str> {
        let joined = self.joined.values().map(String::as_str);
        self.answer.tools.names().chain(joined)
    }

    /// Where a call stands, or more of one. Some servers give all calls one place: one that has another id than the one
    /// there begins there anew.
    fn slot(&mut self, place: Slot, tool: &Tool) -> Slot {
        let (choice, _) = place;
        let now = self.moved.get(&place).map_or(place, |to| (choice, *to));
        let before = self.answer.tools.id(now);
        let another = tool.name.is_some() && tool.id.is_some() && before.is_some();
        if !another || before == tool.id.as_deref() {
            return now;
        }
        let first = self.answer.tools.name(now).unwrap_or_default();
        let joined = self.joined.entry(place).or_insert_with(|| first.to_owned());
        joined.push_str(tool.name.as_deref().unwrap_or_default());
        if joined.len() > MAX_PENDING {
            self.fault.get_or_insert(NotUnderstood::Long("name"));
        }
        // As many as there may be calls: what goes beyond is a fault.
        let to = MOVED.saturating_add(self.count);
        self.count = self.count.saturating_add(1);
        self.moved.insert(place, to);
        (choice, to)
    }

    fn number(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        let number = tokens(event);
        match steps {
            [Key("choices"), Item(_), Key("index")] => {
                self.choice.index = number.or(self.choice.index);
            }
            [
                Key("choices"),
                Item(_),
                Key("delta" | "message"),
                Key("tool_calls"),
                Item(_),
                Key("index"),
            ] => {
                if let Some(tool) = self.choice.tools.last_mut() {
                    tool.index = number.or(tool.index);
                }
            }
            // Groq tells them there in streams.
            [Key("usage"), rest @ ..] | [Key("x_groq"), Key("usage"), rest @ ..] => {
                let place = match rest {
                    [Key("prompt_tokens")] => &mut self.answer.usage().input_tokens,
                    [Key("completion_tokens")] => &mut self.answer.usage().output_tokens,
                    [Key("prompt_tokens_details"), Key("cached_tokens")] => {
                        &mut self.answer.usage().cache_read_tokens
                    }
                    [Key("prompt_tokens_details"), Key("cache_write_tokens")] => {
                        &mut self.answer.usage().cache_write_tokens
                    }
                    [Key("prompt_tokens_details"), Key("audio_tokens")] => {
                        &mut self.answer.usage().audio_input_tokens
                    }
                    [Key("completion_tokens_details"), Key("reasoning_tokens")] => {
                        &mut self.answer.usage().reasoning_tokens
                    }
                    [Key("completion_tokens_details"), Key("audio_tokens")] => {
                        &mut self.answer.usage().audio_output_tokens
                    }
                    _ => return,
                };
                *place = number;
            }
            _ => {}
        }
    }
}

impl Sink for Chat {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::{Item, Key};
        if let Event::Text(piece) = event {
            self.text(piece);
            return;
        }
        if event == Event::End(Kind::Text) {
            self.text_ends();
            return;
        }
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        match (event, steps) {
            (Event::Begin(Kind::Text), steps) => {
                let field = Self::field(steps);
                self.reading.begin(field);
            }
            (Event::Number(_), steps) => self.number(steps, event),
            (Event::Begin(Kind::Object), [Key("choices"), Item(_)]) => {
                self.choice = Choice::default();
            }
            (Event::Begin(Kind::Object), [Key("choices"), Item(_), Key("message")]) => {
                self.choice.whole = true;
            }
            (
                Event::Begin(Kind::Object),
                [
                    Key("choices"),
                    Item(_),
                    Key("delta" | "message"),
                    Key("tool_calls"),
                    Item(_),
                ],
            ) => {
                if self.choice.tools.len() > super::MAX_TOOL_CALLS {
                    self.fault.get_or_insert(NotUnderstood::ToolCalls);
                } else {
                    self.choice.tools.push(Tool::default());
                }
            }
            (
                Event::Begin(Kind::Object),
                [
                    Key("choices"),
                    Item(_),
                    Key("delta" | "message"),
                    Key("function_call"),
                ],
            ) => self.choice.tools.push(Tool {
                index: Some(FUNCTION),
                function: true,
                ..Tool::default()
            }),
            (Event::End(Kind::Object), [Key("choices"), Item(position)]) => {
                if let Err(fault) = self.choice_ends(*position) {
                    self.fault.get_or_insert(fault);
                }
            }
            _ => {}
        }
    }
}

impl Documents for Chat {
    fn over(&mut self, _: bool) -> Result<(), NotUnderstood> {
        self.fault.take().map_or(Ok(()), Err)
    }
}
