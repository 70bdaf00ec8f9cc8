//! Answers of Gemini's `generateContent` and its like: one response, events that are one each, or a list of them.

use agentguard_model::{AskedTool, LlmAnswer};
use sha2::{Digest as _, Sha256};

use super::answer::{Answer, Documents, Reading, tokens};
use super::counts::{known, told};
use super::tools::digest;
use super::{MAX_TOOL_CALLS, NotUnderstood};
use crate::json::{Event, Kind, Part, Path, Sink};

#[derive(Debug, Default)]
pub(super) struct Gemini {
    pub(super) answer: Answer,
    counts: Counts,
    reading: Reading<Field>,
    candidate: Candidate,
    /// How many tool calls were told of.
    calls: u64,
    pub(super) fault: Option<NotUnderstood>,
}

/// Tokens as Google counts them. What was cached is input; the results of its own tools are no prompt, and thoughts
/// are not shown. The last number of each that was told counts.
#[derive(Debug, Default)]
struct Counts {
    prompt: Option<u64>,
    tool_use: Option<u64>,
    cached: Option<u64>,
    candidates: Option<u64>,
    thoughts: Option<u64>,
    total: Option<u64>,
}

/// A candidate of one response.
#[derive(Debug, Default)]
struct Candidate {
    index: Option<u64>,
    finish: Option<String>,
    asked: Vec<AskedTool>,
    call: Call,
}

/// A tool call of one part.
#[derive(Debug, Default)]
struct Call {
    name: Option<String>,
    id: Option<String>,
    any: bool,
    arguments: Sha256,
    /// Whether its arguments come in parts of their own (Vertex AI), which are not put together.
    in_parts: bool,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Model,
    Finish,
    Blocked,
    ToolName,
    ToolId,
    /// 1 status, 2 message.
    Error(usize),
}

/// The steps within a response, of a list or alone.
fn in_response<'a, 'b>(steps: &'b [Part<'a>]) -> &'b [Part<'a>] {
    match steps {
        [Part::Item(_), rest @ ..] => rest,
        steps => steps,
    }
}

/// The steps within a part of a candidate's content.
fn in_part<'a, 'b>(steps: &'b [Part<'a>]) -> Option<&'b [Part<'a>]> {
    use Part::{Item, Key};
    match steps {
        [
            Key("candidates"),
            Item(_),
            Key("content"),
            Key("parts"),
            Item(_),
            rest @ ..,
        ] => Some(rest),
        _ => None,
    }
}

impl Gemini {
    pub(super) fn finish(mut self) -> LlmAnswer {
        let Counts {
            prompt,
            tool_use,
            cached,
            candidates,
            thoughts,
            total,
        } = self.counts;
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
        };
        let input = known(sum(prompt, tool_use));
        // Of the numbers of a total that which is not input was written, whatever it is called. A total that is less than
        // its input is none.
        let output = match (known(total), input) {
            (Some(total), Some(input)) if total >= input => Some(total - input),
            _ => sum(candidates, thoughts),
        };
        if input.or(output).or(cached).is_some() {
            let usage = self.answer.usage();
            usage.input_tokens = input;
            usage.cache_read_tokens = known(cached);
            usage.output_tokens = known(output);
            usage.reasoning_tokens = known(thoughts);
        }
        self.answer.finish()
    }

    fn field(steps: &[Part<'_>]) -> Option<Field> {
        use Part::{Item, Key};
        Some(match steps {
            [Key("modelVersion")] => Field::Model,
            [Key("candidates"), Item(_), Key("finishReason")] => Field::Finish,
            [Key("promptFeedback"), Key("blockReason")] => Field::Blocked,
            [Key("error"), Key("status")] => Field::Error(1),
            [Key("error"), Key("message")] => Field::Error(2),
            steps => match in_part(steps)? {
                [Key("functionCall" | "function_call"), Key("name")] => Field::ToolName,
                [
                    Key("functionCall" | "function_call" | "executableCode" | "executable_code"),
                    Key("id"),
                ] => Field::ToolId,
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
        let told = &mut self.answer.told;
        let place = match field {
            Field::Model => &mut told.model,
            Field::Finish => &mut self.candidate.finish,
            Field::Blocked => &mut told.finish_reason,
            Field::ToolName => &mut self.candidate.call.name,
            Field::ToolId => &mut self.candidate.call.id,
            Field::Error(which) => match self.answer.error.get_mut(which) {
                Some(place) => place,
                None => return,
            },
        };
        *place = word.or(place.take());
    }

    fn number(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        let number = tokens(event);
        let counts = &mut self.counts;
        let place = match steps {
            [Key("candidates"), Item(_), Key("index")] => {
                self.candidate.index = number.or(self.candidate.index);
                return;
            }
            // Of a count, which has nothing else.
            [Key("totalTokens")] => &mut counts.prompt,
            [Key("cachedContentTokenCount")] => &mut counts.cached,
            [Key("usageMetadata"), Key(name)] => match *name {
                "promptTokenCount" => &mut counts.prompt,
                "toolUsePromptTokenCount" => &mut counts.tool_use,
                "cachedContentTokenCount" => &mut counts.cached,
                "candidatesTokenCount" => &mut counts.candidates,
                "thoughtsTokenCount" => &mut counts.thoughts,
                "totalTokenCount" => &mut counts.total,
                _ => return,
            },
            _ => return,
        };
        *place = told(number);
    }

    /// A part asks for a tool call. `own`: of a tool that the provider has itself.
    fn call_ends(&mut self, own: Option<&str>) {
        let call = std::mem::take(&mut self.candidate.call);
        let name = match own {
            Some(own) => own.to_owned(),
            None => match call.name {
                Some(name) => name,
                // More of the one before.
                None => return,
            },
        };
        if self.candidate.asked.len() >= MAX_TOOL_CALLS {
            self.fault.get_or_insert(NotUnderstood::ToolCalls);
            return;
        }
        let told = own.is_none() && !call.in_parts;
        self.candidate.asked.push(AskedTool {
            name,
            id: call.id,
            arguments: told.then(|| digest(call.any, call.arguments)),
        });
    }

    fn candidate_ends(&mut self, position: usize) -> Result<(), NotUnderstood> {
        let candidate = std::mem::take(&mut self.candidate);
        let index = candidate.index.unwrap_or(position as u64);
        for asked in candidate.asked {
            self.answer.tools.put((index, self.calls), asked)?;
            self.calls += 1;
        }
        let told = &mut self.answer.told;
        told.finish_reason = candidate.finish.or(told.finish_reason.take());
        Ok(())
    }
}

impl Sink for Gemini {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::{Item, Key};
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
        let steps = in_response(steps);
        match (event, steps) {
            (Event::Begin(Kind::Text), steps) => self.reading.begin(Self::field(steps)),
            (Event::Number(_), steps) => self.number(steps, event),
            (Event::Begin(Kind::Object), [Key("candidates"), Item(_)]) => {
                self.candidate = Candidate::default();
            }
            (Event::End(Kind::Object), [Key("candidates"), Item(position)]) => {
                if let Err(fault) = self.candidate_ends(*position) {
                    self.fault.get_or_insert(fault);
                }
            }
            (event, steps) => match (event, in_part(steps)) {
                (Event::Begin(Kind::Object), Some([_])) => self.candidate.call = Call::default(),
                (
                    Event::Begin(Kind::Array),
                    Some(
                        [
                            Key("functionCall" | "function_call"),
                            Key("partialArgs" | "partial_args"),
                        ],
                    ),
                )
                | (
                    Event::Bool(true),
                    Some(
                        [
                            Key("functionCall" | "function_call"),
                            Key("willContinue" | "will_continue"),
                        ],
                    ),
                ) => {
                    self.candidate.call.in_parts = true;
                }
                (Event::End(Kind::Object), Some([Key("functionCall" | "function_call")])) => {
                    self.call_ends(None);
                }
                (Event::End(Kind::Object), Some([Key("executableCode" | "executable_code")])) => {
                    self.call_ends(Some("codeExecution"));
                }
                _ => {}
            },
        }
    }

    fn wants_raw(&mut self, path: &Path) -> bool {
        use Part::Key;
        let parts = path.parts();
        let steps = parts.steps().map(in_response).and_then(in_part);
        matches!(
            steps,
            Some([Key("functionCall" | "function_call"), Key("args")])
        )
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.candidate.call.any |= !bytes.is_empty();
        self.candidate.call.arguments.update(bytes);
    }
}

impl Documents for Gemini {
    fn over(&mut self, _: bool) -> Result<(), NotUnderstood> {
        self.fault.take().map_or(Ok(()), Err)
    }
}
