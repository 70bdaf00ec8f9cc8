//! What a request to Bedrock's Converse asks for.

use super::call::{Asks, Call, CallSink};
use super::demand::{DemandSink, Form};
use super::names::{asks_for_more, in_another_case};
use super::{Endpoint, MAX_OFFERED, NotUnderstood, Word};
use crate::json::{Event, Kind, Part, Path, Sink};

/// The members of the request and of its parts that are looked at.
const TOP: [&str; 4] = [
    "inferenceConfig",
    "toolConfig",
    "additionalModelRequestFields",
    "input",
];

/// Those of what is to be counted.
const INPUT: [&str; 2] = ["converse", "invokeModel"];

/// Those of `toolConfig`.
const TOOLS: [&str; 1] = ["tools"];

/// Those of `inferenceConfig`.
const LIMITS: [&str; 1] = ["maxTokens"];

/// Those of a tool.
const TOOL: [&str; 3] = ["toolSpec", "systemTool", "cachePoint"];

/// What is read of `additionalModelRequestFields`, as Anthropic's API has it. They are passed on to the model as they
/// are.
const READ: [&str; 5] = ["tools", "functions", "mcp_servers", "max_tokens", "model"];

#[derive(Debug)]
pub(super) struct ConverseCall {
    call: Call,
    demand: DemandSink,
    /// What is passed on to the model.
    passed: CallSink,
    word: Word,
    /// Whether a tool's name is being read.
    reading: bool,
    /// Whether the tool that is being read has one.
    named: bool,
    object: bool,
    fault: Option<NotUnderstood>,
}

impl Default for ConverseCall {
    fn default() -> Self {
        Self {
            call: Call::default(),
            demand: DemandSink::new(Form::Other),
            passed: CallSink::new(Endpoint::Messages),
            word: Word::default(),
            reading: false,
            named: false,
            object: false,
            fault: None,
        }
    }
}

impl ConverseCall {
    fn fail(&mut self, fault: NotUnderstood) {
        self.fault.get_or_insert(fault);
    }

    fn check(&mut self, known: &[&'static str], name: &str) {
        if let Some(known) = in_another_case(known, name) {
            self.fail(NotUnderstood::Case(known));
        }
    }

    /// What is met, at these steps within the request.
    fn met(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        if let [Key("input"), Key("converse"), rest @ ..] = steps
            && !rest.is_empty()
        {
            return self.met(rest, event);
        }
        self.demand.met_in_converse(steps, event);
        match steps {
            [] => self.object |= event == Event::Begin(Kind::Object),
            [Key(name)] => {
                self.check(&TOP, name);
                self.is(name, &TOP, Kind::Object, event);
            }
            [Key("input"), Key(name)] => {
                self.check(&INPUT, name);
                // Content within content, in the form of any model.
                if *name == "invokeModel" && event != Event::Null {
                    self.fail(NotUnderstood::Wrong("invokeModel"));
                }
            }
            [Key("inferenceConfig"), Key(name)] => {
                self.check(&LIMITS, name);
                if *name == "maxTokens" {
                    self.limit(event);
                }
            }
            [Key("toolConfig"), Key(name)] => {
                self.check(&TOOLS, name);
                self.is(name, &TOOLS, Kind::Array, event);
            }
            [Key("toolConfig"), Key("tools"), Item(_), rest @ ..] => self.tool(rest, event),
            _ => {}
        }
    }

    /// Checks that a member is what the API has there.
    fn is(&mut self, name: &str, known: &[&'static str], kind: Kind, event: Event<'_>) {
        let Some(known) = known.iter().find(|known| **known == name) else {
            return;
        };
        match event {
            Event::Null | Event::End(_) => {}
            Event::Begin(begins) if begins == kind => {}
            _ => self.fail(NotUnderstood::Wrong(known)),
        }
    }

    fn limit(&mut self, event: Event<'_>) {
        match event {
            Event::Null => {}
            Event::Number(number) => match number.parse::<u64>() {
                Ok(number) => self.call.max_output_tokens = Some(number),
                Err(_) => self.fail(NotUnderstood::Wrong("maxTokens")),
            },
            _ => self.fail(NotUnderstood::Wrong("maxTokens")),
        }
    }

    /// A part of a tool that is offered.
    fn tool(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::Key;
        match steps {
            [] => match event {
                Event::Begin(Kind::Object) | Event::End(Kind::Object) => {}
                _ => self.fail(NotUnderstood::Wrong("tools")),
            },
            [Key(name)] => {
                self.check(&TOOL, name);
                self.kind(name, event);
            }
            [Key("toolSpec" | "systemTool"), Key(name)] => {
                self.check(&["name"], name);
                if *name == "name" {
                    self.name(event);
                }
            }
            _ => {}
        }
    }

    fn kind(&mut self, name: &str, event: Event<'_>) {
        match (name, event) {
            (_, Event::Null) | ("cachePoint", _) => {}
            ("toolSpec" | "systemTool", Event::Begin(Kind::Object)) => self.named = false,
            ("toolSpec" | "systemTool", Event::End(Kind::Object)) if self.named => {}
            ("toolSpec" | "systemTool", _) => self.fail(NotUnderstood::Wrong("tools")),
            // One of another kind goes by that.
            (name, Event::Begin(_)) if name.len() <= super::MAX_WORD => self.offer(name.to_owned()),
            (_, Event::End(_) | Event::Text(_)) => {}
            _ => self.fail(NotUnderstood::Wrong("tools")),
        }
    }

    fn name(&mut self, event: Event<'_>) {
        match event {
            Event::Begin(Kind::Text) => {
                self.word = Word::default();
                self.reading = true;
            }
            Event::Text(piece) if self.reading => self.word.push(piece),
            Event::End(Kind::Text) if self.reading => {
                self.reading = false;
                if self.word.long {
                    self.fail(NotUnderstood::Long("tools"));
                }
                if let Some(name) = self.word.take() {
                    self.named = true;
                    self.offer(name);
                }
            }
            _ => self.fail(NotUnderstood::Wrong("tools")),
        }
    }

    fn offer(&mut self, tool: String) {
        if self.call.tools.len() >= MAX_OFFERED {
            self.fail(NotUnderstood::Offered);
        } else {
            self.call.tools.push(tool);
        }
    }

    /// What is passed on to the model: in the form of Anthropic's API, and in no other.
    fn passed(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        let met = !matches!(event, Event::Text(_) | Event::End(_));
        let read = match steps {
            [Part::Key(first), ..] => READ.contains(first),
            _ => true,
        };
        if let (true, false, Some(Part::Key(name))) = (met, read, steps.last())
            && asks_for_more(name)
        {
            self.fail(NotUnderstood::Wrong("additionalModelRequestFields"));
        }
        self.passed.met(steps, event);
    }
}

impl Sink for ConverseCall {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        use Part::Key;
        if self.fault.is_some() {
            return;
        }
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        match steps {
            [Key("additionalModelRequestFields"), rest @ ..]
            | [
                Key("input"),
                Key("converse"),
                Key("additionalModelRequestFields"),
                rest @ ..,
            ] if !rest.is_empty() => self.passed(rest, event),
            steps => self.met(steps, event),
        }
    }
}

impl Asks for ConverseCall {
    fn fault(&self) -> Option<&NotUnderstood> {
        self.fault.as_ref().or(self.passed.fault())
    }

    fn finish(self: Box<Self>) -> Result<Call, NotUnderstood> {
        if let Some(fault) = self.fault() {
            return Err(fault.clone());
        }
        if !self.object {
            return Err(NotUnderstood::NoObject);
        }
        let Self {
            mut call,
            mut demand,
            passed,
            ..
        } = *self;
        let passed = passed.into_call()?;
        call.model = passed.model;
        call.beside = passed.beside;
        demand.and(passed.demand);
        call.demand = demand.finish();
        call.tools.extend(passed.tools);
        if call.tools.len() > MAX_OFFERED {
            return Err(NotUnderstood::Offered);
        }
        // Where there are two, what the model takes is at most the larger.
        call.max_output_tokens = call.max_output_tokens.max(passed.max_output_tokens);
        Ok(call)
    }
}
