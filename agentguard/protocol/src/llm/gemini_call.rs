//! What a request to Gemini's `generateContent` and its like asks for.
//!
//! Its JSON is that of protocol buffers (ProtoJSON): each member goes by two names, like `maxOutputTokens` and
//! `max_output_tokens`, and what is `null` is not there.

use super::call::{Asks, Call};
use super::demand::{DemandSink, Form};
use super::names::{Spelt, camel, either_spelling};
use super::{MAX_OFFERED, NotUnderstood, Word};
use crate::json::{Event, Kind, Part, Path, Sink};

/// The members that are looked at, wherever they stand.
const KNOWN: [&str; 10] = [
    "model",
    "tools",
    "functionDeclarations",
    "name",
    "mcpServers",
    "generationConfig",
    "maxOutputTokens",
    "generateContentRequest",
    "requests",
    "routingConfig",
];

/// How deep the objects are of which members are looked at.
const DEEP: usize = 8;

/// The object that a member is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Within {
    /// A request: the whole, or what is to be counted or embedded.
    Request,
    Config,
    Tool,
    /// A function, or a server (MCP).
    Named,
}

#[derive(Debug)]
pub(super) struct GeminiCall {
    call: Call,
    demand: DemandSink,
    word: Word,
    /// Whether the word that is being read is a model's name; it is a tool's otherwise.
    reading: Option<bool>,
    /// Which of [`KNOWN`] the object at a depth has had so far.
    seen: [u32; DEEP],
    /// Whether the function that is being read has a name.
    named: bool,
    object: bool,
    fault: Option<NotUnderstood>,
}

impl Default for GeminiCall {
    fn default() -> Self {
        Self {
            call: Call::default(),
            demand: DemandSink::new(Form::Other),
            word: Word::default(),
            reading: None,
            seen: [0; DEEP],
            named: false,
            object: false,
            fault: None,
        }
    }
}

/// The steps to a member, each by the name that [`KNOWN`] has for it. None where it is in something that is not looked at:
/// most of a request is, and may have millions of values.
fn spelt<'a>(steps: &[Part<'a>]) -> Option<([Part<'a>; DEEP], usize)> {
    let mut parts = [Part::Item(0); DEEP];
    for (at, (place, step)) in parts.iter_mut().zip(steps).enumerate() {
        *place = match step {
            Part::Key(name) => match either_spelling(&KNOWN, name) {
                Spelt::Known(at) => Part::Key(KNOWN.get(at).copied().unwrap_or(name)),
                Spelt::MayBe(_) | Spelt::Other if at + 1 < steps.len() => return None,
                Spelt::MayBe(_) | Spelt::Other => Part::Key(name),
            },
            item @ Part::Item(_) => *item,
        };
    }
    Some((parts, steps.len().min(DEEP)))
}

/// What a member is in, by the steps to that.
fn within(steps: &[Part<'_>]) -> Option<Within> {
    use Part::{Item, Key};
    let steps = match steps {
        [Key("generateContentRequest"), rest @ ..] | [Key("requests"), Item(_), rest @ ..] => rest,
        steps => steps,
    };
    match steps {
        [] => Some(Within::Request),
        [Key("generationConfig")] => Some(Within::Config),
        [Key("tools"), Item(_)] => Some(Within::Tool),
        [
            Key("tools"),
            Item(_),
            Key("functionDeclarations" | "mcpServers"),
            Item(_),
        ] => Some(Within::Named),
        _ => None,
    }
}

impl GeminiCall {
    fn fail(&mut self, fault: NotUnderstood) {
        self.fault.get_or_insert(fault);
    }

    /// Looks at the name of a member, whose value is met or begins.
    fn check(&mut self, name: &str, depth: usize) {
        match either_spelling(&KNOWN, name) {
            Spelt::MayBe(known) => self.fail(NotUnderstood::Case(known)),
            Spelt::Known(at) => {
                let Some(seen) = self.seen.get_mut(depth) else {
                    return;
                };
                let bit = 1 << at;
                // In both spellings, that is: twice in one is no JSON that is read.
                if *seen & bit != 0 {
                    let known = KNOWN.get(at).copied().unwrap_or_default();
                    self.fail(NotUnderstood::Spellings(known));
                } else {
                    *seen |= bit;
                }
            }
            Spelt::Other => {}
        }
    }

    fn member(&mut self, within: Within, name: &str, event: Event<'_>) {
        if event == Event::Null {
            return;
        }
        match (within, name, event) {
            (Within::Request, "model", Event::Begin(Kind::Text)) => self.begin(true),
            (Within::Request, "model", _) => self.fail(NotUnderstood::Wrong("model")),
            // A list that is none is taken for one of one element by some.
            (Within::Request, "tools", Event::Begin(Kind::Array)) => {}
            (Within::Request, "tools", _) => self.fail(NotUnderstood::Wrong("tools")),
            (Within::Request, "generationConfig", Event::Begin(Kind::Object)) => {}
            (Within::Request, "generationConfig", _) => {
                self.fail(NotUnderstood::Wrong("generationConfig"));
            }
            (Within::Config, "maxOutputTokens", Event::Number(number)) => {
                match number.parse::<u64>() {
                    Ok(number) => self.call.max_output_tokens = Some(number),
                    Err(_) => self.fail(NotUnderstood::Wrong("maxOutputTokens")),
                }
            }
            (Within::Config, "maxOutputTokens", _) => {
                self.fail(NotUnderstood::Wrong("maxOutputTokens"));
            }
            // Another model is chosen, or one of several.
            (Within::Config, "routingConfig", _) => self.fail(NotUnderstood::Models),
            (Within::Tool, "mcpServers", Event::Begin(Kind::Array)) => self.offer(name.to_owned()),
            (Within::Tool, "functionDeclarations", Event::Begin(Kind::Array)) => {}
            (Within::Tool, "functionDeclarations" | "mcpServers", _) => {
                self.fail(NotUnderstood::Wrong("tools"));
            }
            // What the provider has itself goes by the member that holds its settings.
            (Within::Tool, name, _) if name.len() > super::MAX_WORD => {
                self.fail(NotUnderstood::Long("tools"));
            }
            (Within::Tool, name, _) => self.offer(camel(name)),
            (Within::Named, "name", Event::Begin(Kind::Text)) => self.begin(false),
            (Within::Named, "name", _) => self.fail(NotUnderstood::Wrong("tools")),
            _ => {}
        }
    }

    fn begin(&mut self, model: bool) {
        self.word = Word::default();
        self.reading = Some(model);
    }

    fn word_ends(&mut self) {
        let Some(model) = self.reading.take() else {
            return;
        };
        if self.word.long {
            self.fail(NotUnderstood::Long(if model { "model" } else { "tools" }));
        }
        let word = self.word.take();
        if model {
            let before = self.call.model.clone();
            if before.is_some() && before != word {
                self.fail(NotUnderstood::Wrong("model"));
            }
            self.call.model = word;
        } else if let Some(word) = word {
            self.named = true;
            self.offer(word);
        }
    }

    fn offer(&mut self, tool: String) {
        if self.call.tools.len() >= MAX_OFFERED {
            self.fail(NotUnderstood::Offered);
        } else {
            self.call.tools.push(tool);
        }
    }
}

impl Sink for GeminiCall {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::{Item, Key};
        if self.fault.is_some() {
            return;
        }
        match event {
            Event::Text(piece) => {
                self.demand.met_in_gemini(&[], event);
                if self.reading.is_some() {
                    self.word.push(piece);
                }
                return;
            }
            Event::End(Kind::Text) => {
                self.demand.met_in_gemini(&[], event);
                return self.word_ends();
            }
            _ => {}
        }
        let parts = path.parts();
        let Some(written) = parts.steps() else {
            return;
        };
        self.demand.met_in_gemini(written, event);
        if written.len() > DEEP {
            return;
        }
        let Some((steps, length)) = spelt(written) else {
            return;
        };
        let steps = steps.get(..length).unwrap_or_default();
        match (event, steps) {
            (Event::End(Kind::Object), steps) => {
                if within(steps) == Some(Within::Named) && !std::mem::take(&mut self.named) {
                    self.fail(NotUnderstood::Wrong("tools"));
                }
                return;
            }
            (Event::End(_), _) => return,
            (Event::Begin(Kind::Object), steps) => {
                if let Some(seen) = self.seen.get_mut(steps.len()) {
                    *seen = 0;
                }
                self.object |= steps.is_empty();
            }
            _ => {}
        }
        let Some((last, before)) = steps.split_last() else {
            return;
        };
        match (within(before), *last, written.last()) {
            (Some(within), Key(name), Some(Key(written))) => {
                self.check(written, before.len());
                self.member(within, name, event);
            }
            // An element of a list: of tools, or of what has a name.
            (None, Item(_), _)
                if matches!(within(steps), Some(Within::Tool | Within::Named))
                    && event != Event::Begin(Kind::Object) =>
            {
                self.fail(NotUnderstood::Wrong("tools"));
            }
            _ => {}
        }
    }
}

impl Asks for GeminiCall {
    fn fault(&self) -> Option<&NotUnderstood> {
        self.fault.as_ref()
    }

    fn finish(self: Box<Self>) -> Result<Call, NotUnderstood> {
        match self.fault {
            Some(fault) => Err(fault),
            None if !self.object => Err(NotUnderstood::NoObject),
            None => Ok(Call {
                demand: self.demand.finish(),
                ..self.call
            }),
        }
    }
}
