//! Conditions in the Common Expression Language (CEL).
//!
//! An expression is parsed and checked once ([`check`]): its variables and functions are known, what it
//! looks at in a request is named in it, its size and cost are bounded, and it has been evaluated on
//! examples, so that what is wrong with its types is told at load. What is left can fail only on what a
//! request has: a field that is not there, or is there twice. Such a rule denies.
//!
//! **Cost:** at most [`MAX_NODES`] parts, of which a comprehension's are evaluated once for each entry of a
//! list that stands in the expression, or for each of at most [`MAX_TOOLS`] tools; no comprehension within
//! another. Each counts, and so do the texts that they look at and the places of regular expressions, which are
//! compiled at load, over those texts: a decision has so many [`Steps`] for all of its expressions, and one that
//! takes more cannot be evaluated.

mod check;
mod compare;
mod doubts;
mod known;
mod pattern;
mod shape;
mod trial;
mod values;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use agentguard_model::{ArgumentType, Llm};
use cel::parser::Expression;
use cel::{Context, Env, ExecutionError, Value};
use http::header::{self, HeaderName};

use crate::agent::AgentPolicy;
use crate::decide::Facts;
use crate::request::{Request, Unknown};
use crate::rule::Seen;
use crate::steps::{Meter, Steps};
use crate::tool::spellings;
use doubts::Possible;
use known::Evaluation;
use pattern::Pattern;
use values::Values;

/// The longest expression, in bytes. A longer one is refused.
const MAX_TEXT: usize = 2048;

/// The most parts of an expression. One with more is refused.
const MAX_NODES: usize = 128;

/// How deep an expression may be nested. A deeper one is refused.
const MAX_DEPTH: u16 = 24;

/// The most tools of a call that an expression goes through. One with more cannot be evaluated.
const MAX_TOOLS: usize = 1024;

/// The function that stands for `matches` with the number of a compiled regular expression.
const COMPILED: &str = "@matches";

/// The standard functions; none of them reads a clock or anything else.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let environment = Env::default().with_optional_support(false).with_stdlib();
    Arc::new(environment)
});

/// A condition.
#[derive(Debug)]
pub(crate) struct When {
    text: String,
    expression: Expression,
    patterns: Arc<[Pattern]>,
    parts: Parts,
    looks_at: LooksAt,
    doubts: Vec<WhenError>,
}

/// How much of an expression there is to evaluate.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    /// How many parts, each as often as it is evaluated at most.
    fixed: u64,
    /// As many more for each tool of a call.
    per_tool: u64,
    /// How often a text that a variable stands for is looked at where that stands: more than once where it is
    /// an entry of a list that is gone through.
    looks: u64,
}

impl Parts {
    /// How many there are for a call with so many tools.
    fn count(self, tools: usize) -> u64 {
        let tools = u64::try_from(tools).unwrap_or(u64::MAX);
        self.fixed
            .saturating_add(self.per_tool.saturating_mul(tools))
    }
}

/// What a policy says of what an expression looks at.
pub(crate) struct Declared<'a> {
    /// The switches, each with how it is unless it is set.
    pub(crate) switches: &'a BTreeMap<String, bool>,
    /// How many regular expressions may still be compiled; those that do not compile count too.
    pub(crate) regexes: &'a Cell<usize>,
    /// The type of an argument, by JSON Pointer, in the calls that the rule is about.
    pub(crate) type_of: &'a dyn Fn(&str) -> Option<ArgumentType>,
}

/// What an expression looks at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct LooksAt {
    request: bool,
    path: bool,
    /// Whether it is a call of a language model, and what is known of each.
    llm: bool,
    /// What is known only of a call that could be read.
    call: bool,
    /// Whether it is a message to a server of tools, and what is known of each.
    tool: bool,
    /// What is known only of a message that could be read.
    message: bool,
    /// Arguments of calls, by JSON Pointer.
    arguments: Vec<String>,
    /// The types of those that have one; the others are texts.
    types: BTreeMap<String, ArgumentType>,
    clock: bool,
    /// Each with what the policy declares.
    switches: Vec<(String, bool)>,
    labels: Vec<String>,
    /// Labels, each with a value that it is compared with.
    label_values: Vec<(String, String)>,
    /// What the agent's name is compared with.
    agents: Vec<String>,
    /// What the name of a provider is compared with.
    providers: Vec<String>,
    /// What the name of a server of tools is compared with.
    servers: Vec<String>,
    fields: Vec<HeaderName>,
    parameters: Vec<String>,
}

/// Why an expression is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct WhenError {
    /// What is wrong, as a sentence without its end.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: String,
    /// Where it is in the expression, in bytes.
    pub(crate) at: usize,
}

impl WhenError {
    /// Of the expression as a whole.
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
            at: 0,
        }
    }
}

impl fmt::Display for WhenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl PartialEq for When {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.looks_at.types == other.looks_at.types
    }
}

impl When {
    /// Parses and checks an expression.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(crate) fn new(text: &str, declared: &Declared<'_>) -> Result<Self, Vec<WhenError>> {
        let when = check::expression(text, declared)?;
        trial::run(&when)?;
        Ok(when)
    }

    /// What it says that was probably not meant.
    pub(crate) fn doubts(&self) -> &[WhenError] {
        &self.doubts
    }

    /// What a variable can be where it holds, as far as that is known.
    pub(crate) fn possible(&self, variable: &str) -> Possible<'_> {
        Possible::of(&self.expression, variable)
    }

    /// Whether it looks at the request.
    pub(crate) fn needs_request(&self) -> bool {
        self.looks_at.request
    }

    /// Whether it looks at calls of language models.
    pub(crate) fn needs_llm(&self) -> bool {
        self.looks_at.llm
    }

    /// Whether it looks at messages to servers of tools.
    pub(crate) fn needs_tool(&self) -> bool {
        self.looks_at.tool
    }

    /// The arguments of calls that it looks at.
    pub(crate) fn arguments(&self) -> &[String] {
        &self.looks_at.arguments
    }

    /// Whether it looks at the clock, by the minute.
    pub(crate) fn needs_clock(&self) -> bool {
        self.looks_at.clock
    }

    /// The switches that it looks at.
    pub(crate) fn switches(&self) -> impl Iterator<Item = &str> {
        self.looks_at.switches.iter().map(|(name, _)| name.as_str())
    }

    /// Whether it looks at what nobody knows of these facts.
    pub(crate) fn is_unknown(&self, facts: &Facts<'_>) -> bool {
        let switches = facts.circumstances.in_favour.is_some() && self.switches().next().is_some();
        let unknown = match facts.request {
            Seen::Request(request) => request.assumed.map(|assumed| assumed.unknown),
            Seen::NotYet | Seen::Never | Seen::Tls => None,
        };
        switches || unknown.is_some_and(|unknown| self.is_unknown_of(unknown))
    }

    /// Whether it looks at what nobody knows of a request.
    pub(crate) fn is_unknown_of(&self, unknown: &Unknown) -> bool {
        self.needs_request()
            && (unknown.everything
                || self.needs_llm() && unknown.llm()
                || self.needs_tool() && unknown.tool()
                || unknown.content() && (self.looks_at.call || self.looks_at.message)
                || self.arguments().iter().any(|it| unknown.argument(it))
                || self.fields().iter().any(|name| unknown.field(name))
                || self.parameters().iter().any(|name| unknown.parameter(name)))
    }

    /// The agents that it names.
    pub(crate) fn agents(&self) -> &[String] {
        &self.looks_at.agents
    }

    /// The providers that it names.
    pub(crate) fn providers(&self) -> &[String] {
        &self.looks_at.providers
    }

    /// The servers of tools that it names.
    pub(crate) fn servers(&self) -> &[String] {
        &self.looks_at.servers
    }

    /// The labels that it looks at.
    pub(crate) fn labels(&self) -> &[String] {
        &self.looks_at.labels
    }

    /// The labels that it compares with a value.
    pub(crate) fn label_values(&self) -> &[(String, String)] {
        &self.looks_at.label_values
    }

    /// The header fields that it looks at.
    pub(crate) fn fields(&self) -> &[HeaderName] {
        &self.looks_at.fields
    }

    /// The parameters of the query that it looks at.
    pub(crate) fn parameters(&self) -> &[String] {
        &self.looks_at.parameters
    }

    /// Whether it holds. A request that it looks at has to be there. None: that depends on what was called, where an
    /// answer is fetched of which that is not known any more.
    ///
    /// # Errors
    /// It cannot be evaluated on these facts, or takes more than these steps: why, without what they contain.
    pub(crate) fn holds(
        &self,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        steps: &Steps,
    ) -> Result<Option<bool>, String> {
        // Whatever else there is in the decision, it is denied, and what is looked at once more is time lost.
        if let Some(why) = steps.exceeded() {
            return Err(why.to_owned());
        }
        let evaluate = |request, path| self.evaluate(agent, facts, request, path, steps);
        let Seen::Request(request) = facts.request else {
            return evaluate(None, "");
        };
        if !self.looks_at.request {
            return evaluate(None, "");
        }
        self.is_clear(&request)?;
        let holds = evaluate(Some(&request), request.path)?;
        if !self.looks_at.path || !request.path.contains('%') {
            return Ok(holds);
        }
        for path in steps.readings(request.path).all() {
            if evaluate(Some(&request), path)? != holds {
                return Err("the path has escapes and can be read in two ways".to_owned());
            }
        }
        Ok(holds)
    }

    /// Servers take the first field of a name or the last, and differ in how they read a query. What
    /// could be read in two ways is not read at all.
    fn is_clear(&self, request: &Request<'_>) -> Result<(), String> {
        if let (true, Some(llm)) = (self.looks_at.call, request.llm) {
            if llm.not_understood.is_some() {
                return Err("the call of a language model cannot be read".to_owned());
            }
            if llm.tools.len() > MAX_TOOLS {
                return Err(format!("the call offers more than {MAX_TOOLS} tools"));
            }
        }
        if let (true, Some(tool)) = (self.looks_at.message, request.tool) {
            if tool.not_understood.is_some() {
                return Err("the message to a server of tools cannot be read".to_owned());
            }
            for pointer in &self.looks_at.arguments {
                let mut found = spellings(tool, pointer);
                let one = match (found.next(), found.next()) {
                    (None, _) => true,
                    (Some(one), None) => one.pointer == *pointer && one.values.len() == 1,
                    (Some(_), Some(_)) => false,
                };
                if !one {
                    return Err(format!("the argument `{pointer}` is not one value"));
                }
                if let Some(kind) = self.looks_at.types.get(pointer)
                    && let Some(found) = spellings(tool, pointer).next()
                    && !found.values.iter().all(|it| kind.fits(it))
                {
                    return Err(format!("the argument `{pointer}` is no `{kind}`"));
                }
            }
        }
        for name in &self.looks_at.fields {
            let values = request.fields.map(|fields| fields.get_all(name).iter());
            let count = values.map_or(0, Iterator::count);
            if count > 1 && *name != header::COOKIE {
                return Err(format!("the header field `{name}` is there {count} times"));
            }
        }
        for name in &self.looks_at.parameters {
            let is_clear = request.query.is_none_or(|query| query.is_clear(name));
            if !is_clear {
                return Err(format!(
                    "the parameter `{name}` can be read in more than one way"
                ));
            }
        }
        Ok(())
    }

    fn evaluate(
        &self,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        request: Option<&Request<'_>>,
        path: &str,
        steps: &Steps,
    ) -> Result<Option<bool>, String> {
        // What calls patterns has to own what it uses.
        let shared = (!self.patterns.is_empty()).then(|| Arc::new(steps.meter()));
        let own = steps.meter();
        let meter = shared.as_deref().unwrap_or(&own);
        let llm = request.and_then(|request| request.llm);
        let parts = self.parts.count(llm.map_or(0, |llm| llm.tools.len()));
        meter.parts(parts);
        steps.settle(meter)?;
        let values = Values {
            agent: agent.name.as_str(),
            labels: &agent.labels,
            facts,
            request,
            path,
            looks_at: &self.looks_at,
            looks: self.parts.looks,
            meter,
        };
        let mut context = context(&self.patterns, shared.as_ref());
        context.set_variable_resolver(&values);
        let resolved = if self.looks_at.call && llm.is_some_and(Llm::is_fetched) {
            Evaluation { meter, parts }.of(&self.expression, &context)
        } else {
            context.resolve(&self.expression).map(Some)
        };
        steps.settle(meter)?;
        match resolved {
            Ok(None) => Ok(None),
            Ok(Some(Value::Bool(holds))) => Ok(Some(holds)),
            Ok(Some(_)) => Err("it is neither true nor false".to_owned()),
            Err(error) => Err(told(&error)),
        }
    }
}

/// An error without the values that it is about: they may be secrets.
fn told(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("there is no `{key}`"),
        ExecutionError::NoSuchOverload(error) => error.to_string(),
        ExecutionError::UndeclaredReference(name) => format!("there is no `{name}`"),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "it divides by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "a number is too large".to_owned(),
        ExecutionError::ValuesNotComparable(..) => "it compares what cannot be compared".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "a list has no such entry".to_owned(),
        ExecutionError::FunctionError { function, .. } => {
            format!("`{function}` cannot be had of this value")
        }
        _ => "it cannot be evaluated".to_owned(),
    }
}

/// The standard functions and, compiled, the regular expressions of one expression.
fn context<'v>(patterns: &Arc<[Pattern]>, meter: Option<&Arc<Meter>>) -> Context<'static, 'v> {
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    if let Some(meter) = meter {
        let (patterns, meter) = (Arc::clone(patterns), Arc::clone(meter));
        let matches = move |text: Arc<String>, number: i64| -> Result<bool, ExecutionError> {
            let failed = |why| ExecutionError::function_error("matches", why);
            let pattern = usize::try_from(number).ok().and_then(|n| patterns.get(n));
            let pattern = pattern.ok_or_else(|| failed("not compiled"))?;
            if !meter.pattern(pattern.text(), pattern.places(), text.len()) {
                return Err(failed("too much"));
            }
            pattern.is_match(&text).ok_or_else(|| failed("unreadable"))
        };
        // Its name is nobody else's: no identifier begins like that.
        let _ = context.add_function(COMPILED, matches);
    }
    context
}

#[cfg(test)]
mod tests;
