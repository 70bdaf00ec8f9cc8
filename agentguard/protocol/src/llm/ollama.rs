//! Answers of Ollama's own API: one document, or a line for each piece of one.

use agentguard_model::AskedTool;
use sha2::{Digest as _, Sha256};

use super::NotUnderstood;
use super::answer::{Answer, Documents, Reading, tokens};
use super::tools::digest;
use crate::json::{Event, Kind, Part, Path, Sink};

#[derive(Debug, Default)]
pub(super) struct Ollama {
    pub(super) answer: Answer,
    reading: Reading<Field>,
    tool: Tool,
    /// How many tool calls were told of. Each comes whole.
    calls: u64,
    fault: Option<NotUnderstood>,
}

#[derive(Debug, Default)]
struct Tool {
    name: Option<String>,
    id: Option<String>,
    any: bool,
    arguments: Sha256,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Model,
    Finish,
    Error,
    ToolName,
    ToolId,
}

/// The steps within a tool call.
fn in_call<'a, 'b>(steps: &'b [Part<'a>]) -> Option<&'b [Part<'a>]> {
    use Part::{Item, Key};
    match steps {
        [Key("message"), Key("tool_calls"), Item(_), rest @ ..] => Some(rest),
        _ => None,
    }
}

impl Ollama {
    fn field(steps: &[Part<'_>]) -> Option<Field> {
        use Part::Key;
        Some(match steps {
            [Key("model")] => Field::Model,
            [Key("done_reason")] => Field::Finish,
            [Key("error")] => Field::Error,
            steps => match in_call(steps)? {
                [Key("id")] => Field::ToolId,
                [Key("function"), Key("name")] => Field::ToolName,
                _ => return None,
            },
        })
    }

    fn text_ends(&mut self) {
        let Some(field) = self.reading.field.take() else {
            return;
        };
        if self.reading.word.is_long() && matches!(field, Field::ToolName) {
            self.fault.get_or_insert(NotUnderstood::Long("name"));
        }
        let word = self.reading.word.take();
        let place = match field {
            Field::Model => &mut self.answer.told.model,
            Field::Finish => &mut self.answer.told.finish_reason,
            Field::ToolName => &mut self.tool.name,
            Field::ToolId => &mut self.tool.id,
            Field::Error => {
                let [_, _, message] = &mut self.answer.error;
                message
            }
        };
        *place = word.or(place.take());
    }

    fn call_ends(&mut self) {
        let tool = std::mem::take(&mut self.tool);
        let Some(name) = tool.name else {
            self.fault.get_or_insert(NotUnderstood::Wrong("name"));
            return;
        };
        let asked = AskedTool {
            name,
            id: tool.id,
            arguments: Some(digest(tool.any, tool.arguments)),
        };
        if let Err(fault) = self.answer.tools.put((0, self.calls), asked) {
            self.fault.get_or_insert(fault);
        }
        self.calls += 1;
    }
}

impl Sink for Ollama {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::Key;
        match event {
            Event::Text(piece) => {
                if self.reading.field.is_some() {
                    self.reading.word.push(piece);
                }
                return;
            }
            Event::End(Kind::Text) => return self.text_ends(),
            _ => {}
        }
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        match (event, steps) {
            (Event::Begin(Kind::Text), steps) => self.reading.begin(Self::field(steps)),
            (Event::Number(_), [Key("prompt_eval_count")]) => {
                self.answer.usage().input_tokens = tokens(event);
            }
            (Event::Number(_), [Key("eval_count")]) => {
                self.answer.usage().output_tokens = tokens(event);
            }
            (event, steps) => match (event, in_call(steps)) {
                (Event::Begin(Kind::Object), Some([])) => self.tool = Tool::default(),
                (Event::End(Kind::Object), Some([])) => self.call_ends(),
                _ => {}
            },
        }
    }

    fn wants_raw(&mut self, path: &Path) -> bool {
        use Part::Key;
        let parts = path.parts();
        let steps = parts.steps().and_then(in_call);
        matches!(steps, Some([Key("function"), Key("arguments")]))
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.tool.any |= !bytes.is_empty();
        self.tool.arguments.update(bytes);
    }
}

impl Documents for Ollama {
    fn over(&mut self, _: bool) -> Result<(), NotUnderstood> {
        self.fault.take().map_or(Ok(()), Err)
    }
}
