//! Limits of loops and runaways, and circuit breakers: what the policy allows is counted by them before budgets are asked,
//! so that what they refuse holds nothing of these.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use agentguard_budget::Scope;
use agentguard_budget::limits::{Admitted, Ask, By, Call, Refused, Ticket, Went};
use agentguard_model::budget::Dimension;
use agentguard_model::limit::{Circuit, Time};
use agentguard_model::{
    ClaimSource, Context, LlmAnswer, Matched, Outcome, Reason, ReasonCode, ToolAnswer, ToolResult,
};
use agentguard_policy::{
    AgentPolicy, BreakerRule, Charged, LimitRule, Policy, Request, Says, Seen,
};

use crate::budgets::{Behind, Denial, UNBILLED};
use crate::decider::{Decider, trace_parent};
use crate::port::{Client, Recorder, Target};

/// The engines' names in [`Matched`].
const LIMIT: &str = "limit";
const BREAKER: &str = "breaker";

/// When a client comes again where nobody knows when it may, in seconds.
const SOON: u64 = 1;

/// A number that is the same for the same, as long as this process lives. Nobody knows it beforehand, so that nobody makes
/// two of one.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What a call says, as a number: of its content, as it came.
#[derive(Clone, Debug)]
pub struct Fingerprint(DefaultHasher);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(KEYS.build_hasher())
    }
}

impl Fingerprint {
    /// More of it.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// All of it, in whatever pieces it came.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

fn number(of: impl Hash) -> u64 {
    KEYS.hash_one(of)
}

/// What becomes of what the policy allows.
pub(crate) enum Limiting {
    /// It may go on, and is given back where something else refuses it. What it is refused for on paper stands beside.
    Passes(Option<Arc<Ticket>>, Vec<Matched>),
    /// One refuses it.
    Refused(Box<Denial>),
}

/// A limit or a breaker.
#[derive(Clone, Copy)]
enum Rule<'a> {
    Limit(&'a LimitRule),
    Breaker(&'a BreakerRule),
}

impl<R: Recorder> Decider<R> {
    /// Counts what the policy allows. `content`: the number of what a call of a language model says. `is_beside`: it goes
    /// with another message in one request, which is what its upstream takes or not.
    pub(crate) fn limit(
        &self,
        policy: &Policy,
        client: &Client,
        target: &Target,
        seen: Seen<'_>,
        (content, is_beside): (Option<u64>, bool),
    ) -> Limiting {
        let count = policy.limits().len() + policy.breakers().len();
        let nothing = || Limiting::Passes(None, Vec::new());
        if count == 0 {
            return nothing();
        }
        let Ok(agent) = self.agent(policy, client.agent) else {
            return nothing();
        };
        let other = Request::new("", "");
        let (request, is_request) = match &seen {
            Seen::Request(request) => (request, true),
            _ => (&other, false),
        };
        let charged = Charged::of(request);
        let limits = policy.limits().iter();
        let limits = limits.filter(|it| it.counts(policy, agent, charged));
        // What is inside of a connection that is not opened, nobody knows; nor how it ends.
        let breakers = policy.breakers().iter();
        let breakers = breakers.filter(|it| is_request && it.counts(agent, charged));
        let breakers = breakers.filter(|it| !is_beside || !it.is_of_request());
        let rules: Vec<Rule<'_>> = limits
            .map(Rule::Limit)
            .chain(breakers.map(Rule::Breaker))
            .collect();
        if rules.is_empty() {
            return nothing();
        }
        let (named, mut context) = self.directory().describe(client.agent, client.run, policy);
        for claim in agent.trusted(request.claims) {
            context.fill(&claim.context);
        }
        let accounting = self.accounting();
        let model = accounting
            .zip(request.llm)
            .and_then(|(it, llm)| it.named(llm));
        let behind = Behind {
            agent: named.as_ref(),
            context: &context,
            target,
            charged,
            model: model.as_deref(),
        };
        let asks = rules.iter().map(|rule| rule.ask(agent, &behind));
        let call = call(
            client,
            &behind,
            chain(agent, client, request, &context),
            content,
        );
        let on_paper = |places: &[usize]| -> Vec<Matched> {
            let rules = places.iter().filter_map(|place| rules.get(*place));
            rules.map(|rule| rule.matched(agent, true)).collect()
        };
        match self.limits().admit(asks.collect(), call, count) {
            Ok(Admitted {
                ticket,
                on_paper: places,
            }) => Limiting::Passes(Some(Arc::new(ticket)), on_paper(&places)),
            Err(refused) => {
                let Some(rule) = rules.get(refused.place) else {
                    return nothing();
                };
                let mut matched = vec![rule.matched(agent, false)];
                matched.extend(on_paper(&refused.on_paper));
                Limiting::Refused(Box::new(Denial {
                    reason: rule.reason(&refused),
                    matched,
                    spent: None,
                    retry_after: rule.retry_after(refused.wait),
                }))
            }
        }
    }

    /// Whether what calls of language models say is to be known again. Pure; records nothing.
    #[must_use]
    pub fn knows_again(&self) -> bool {
        let policy = self.policies().current();
        let mut limits = policy.limits().iter();
        limits.any(|it| it.limit.kind.code() == ReasonCode::RepeatedCall)
    }
}

impl Rule<'_> {
    fn says(&self) -> &Says {
        match self {
            Self::Limit(rule) => &rule.says,
            Self::Breaker(rule) => &rule.says,
        }
    }

    fn ask(&self, agent: &AgentPolicy, behind: &Behind<'_>) -> Ask {
        let on_paper = self.says().on_paper(agent).is_some();
        match self {
            Self::Limit(rule) => Ask {
                by: By::Limit(Arc::clone(&rule.limit)),
                scope: behind.scope(&rule.limit.per),
                on_paper,
            },
            Self::Breaker(rule) => {
                let breaker = &rule.breaker;
                let (of, what) = match breaker.circuit {
                    Circuit::Upstream => {
                        let host = behind.value(&Dimension::Host);
                        (Dimension::Host, format!("{host}:{}", behind.target.port))
                    }
                    Circuit::Tool => (Dimension::Tool, behind.value(&Dimension::Tool)),
                };
                let own = breaker.per.iter().filter(|it| **it != of);
                let values: Vec<(&Dimension, String)> = own
                    .map(|it| (it, behind.value(it)))
                    .chain([(&of, what)])
                    .collect();
                let values = values.iter().map(|(of, value)| (*of, value.as_str()));
                Ask {
                    by: By::Breaker(Arc::clone(breaker)),
                    scope: Scope::of(values),
                    on_paper,
                }
            }
        }
    }

    fn matched(&self, agent: &AgentPolicy, on_paper: bool) -> Matched {
        let says = self.says();
        let (engine, rule) = match self {
            Self::Limit(rule) => (LIMIT, &rule.limit.id),
            Self::Breaker(rule) => (BREAKER, &rule.breaker.id),
        };
        Matched {
            engine: engine.to_owned(),
            rule: rule.to_string(),
            source: says.source.clone(),
            on_paper: says.on_paper(agent).filter(|_| on_paper),
        }
    }

    /// Why, for the person whose call it was. Without a time: equal refusals are counted together in the record.
    fn reason(&self, refused: &Refused) -> Reason {
        let of = match refused.scope.as_str() {
            "" => String::new(),
            scope => format!(" of {scope}"),
        };
        let (code, mut text) = match self {
            Self::Limit(rule) => {
                let limit = &rule.limit;
                let (code, id, kind) = (limit.kind.code(), &limit.id, limit.kind);
                let what = match code {
                    ReasonCode::RateLimited => "This is more than may go in so short a time",
                    ReasonCode::RepeatedCall => "The same call was made too often",
                    ReasonCode::RetryStorm => "The last calls like this failed",
                    ReasonCode::NoProgress => "The last calls brought nothing new",
                    _ => "Too many agents wait for each other",
                };
                (code, format!("{what}: limit `{id}`{of} is {kind}."))
            }
            Self::Breaker(rule) => {
                let breaker = &rule.breaker;
                let (id, failures, all) = (&breaker.id, breaker.failures, breaker.of);
                let wait = Time(breaker.wait);
                let text = format!(
                    "What this is for failed too often: breaker `{id}`{of} opens for {wait} with {failures} failures among {all} calls."
                );
                (ReasonCode::CircuitOpen, text)
            }
        };
        if let Some(reason) = &self.says().reason {
            text.push(' ');
            text.push_str(reason);
        }
        Reason::new(code, text)
    }

    /// In how many seconds its client may come again, where it is worth that.
    fn retry_after(&self, wait: Option<Duration>) -> Option<u64> {
        match self {
            Self::Limit(rule) => match rule.limit.kind.code() {
                ReasonCode::RateLimited | ReasonCode::RetryStorm => {}
                // Whoever makes the same calls again makes it no better.
                _ => return None,
            },
            Self::Breaker(_) => {}
        }
        let whole = |it: Duration| it.as_secs() + u64::from(it.subsec_nanos() > 0);
        Some(wait.map_or(SOON, whole).max(SOON))
    }
}

/// The trace that a request belongs to, as far as the policy trusts who says so; else all that the run of the agent does.
fn chain(agent: &AgentPolicy, client: &Client, request: &Request<'_>, context: &Context) -> u64 {
    let said = || {
        let trusts = agent.trusts.contains(&ClaimSource::Traceparent);
        let fields = request.fields.filter(|_| trusts)?;
        Some(trace_parent(fields)?.trace_id())
    };
    match context.trace_id.clone().or_else(said) {
        Some(trace) => number(("trace", trace)),
        None => number(("run", client.agent.0, client.run)),
    }
}

fn call(client: &Client, behind: &Behind<'_>, chain: u64, content: Option<u64>) -> Call {
    let agent = number((client.agent.0, client.run));
    let host = behind.value(&Dimension::Host);
    let (same, tool, target) = match behind.charged {
        Charged::Llm(llm) => {
            let model = behind.value(&Dimension::Model);
            let target = number(("model", &llm.provider, &model, &host));
            (content.map(|it| number((target, it))), None, target)
        }
        Charged::Tool(tool) => {
            let target = number(("tool", behind.value(&Dimension::Tool)));
            let same = tool.arguments.as_ref().map(|it| number((target, it)));
            (same, same, target)
        }
        Charged::Other => (None, None, number(("host", &host, behind.target.port))),
    };
    Call {
        same,
        tool,
        target,
        chain,
        agent,
        owner: client.agent.0,
    }
}

/// What becomes of a call that is over, for limits and breakers.
pub(crate) fn ended(ticket: &Ticket, outcome: &Outcome) {
    let mut news = Vec::new();
    if let Some(llm) = &outcome.llm {
        let asked = llm.tool_calls.iter();
        news.extend(asked.map(|it| number(("asked", &it.name, &it.arguments))));
    }
    if let (Some(call), Some(_)) = (ticket.call().tool, outcome.status) {
        // What is not read is known by its length alone.
        let content = outcome.tool.as_ref().and_then(|it| it.content);
        news.push(match content {
            Some(content) => number(("result", call, content)),
            None => number(("length", call, outcome.bytes.received)),
        });
    }
    ticket.ended(went(outcome), &news);
}

/// How it went, of a call of a tool of which nobody tells what comes of it.
pub(crate) fn ended_unseen(ticket: &Ticket) {
    let call = ticket.call().tool;
    let news: Vec<u64> = call.map(|it| number(("called", it))).into_iter().collect();
    ticket.ended(Went::Unknown, &news);
}

/// How it went, by the status alone, which is there first. None: that is not known yet.
pub(crate) fn began(status: u16) -> Option<Went> {
    (status < 500 && status != 429).then_some(Went::Well)
}

fn went(outcome: &Outcome) -> Went {
    match outcome.status {
        Some(429) => return Went::PutOff,
        Some(500..) => return Went::Failed,
        // Its client went away, or what is under way was ended here: that says nothing.
        _ if outcome.error.is_some() => return Went::Unknown,
        Some(400..) => return Went::Well,
        _ => {}
    }
    match (&outcome.llm, &outcome.tool, outcome.status) {
        (Some(llm), ..) => went_of_model(llm, outcome.status),
        (None, Some(tool), _) => went_of_tool(tool),
        (None, None, Some(_)) => Went::Well,
        (None, None, None) => Went::Unknown,
    }
}

/// An error behind the beginning of an answer, or on a WebSocket, by what providers call theirs.
fn went_of_model(llm: &LlmAnswer, status: Option<u16>) -> Went {
    let Some(error) = &llm.error else {
        return match status.is_some() || llm.finish_reason.is_some() {
            true => Went::Well,
            false => Went::Unknown,
        };
    };
    let error = error.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|it| error.contains(it));
    if says(&PUT_OFF) {
        Went::PutOff
    } else if says(&OVERLOADED) {
        Went::Failed
    } else if UNBILLED.contains(&error.as_str()) || says(&CALLERS) {
        Went::Well
    } else {
        Went::Failed
    }
}

/// In errors of which whoever calls has had, or paid for, too little: they say nothing of the provider.
const PUT_OFF: [&str; 7] = [
    "rate_limit",
    "quota",
    "throttl",
    "resource_exhausted",
    "usage_limit",
    "billing",
    "connection_limit",
];

/// In those of [`UNBILLED`] that are a provider's own: it has no room.
const OVERLOADED: [&str; 1] = ["overloaded"];

/// In errors of whoever calls, beside those of [`UNBILLED`]: of Google's (`google.rpc.Code`), and of AWS's.
const CALLERS: [&str; 10] = [
    "invalid",
    "not_found",
    "notfound",
    "permission",
    "authenticat",
    "accessdenied",
    "validationexception",
    "failed_precondition",
    "out_of_range",
    "already_exists",
];

/// What the server could not do has failed: JSON-RPC's -32603 (5.1), and what HTTP calls so where an API has its codes. What
/// protocols define among those that are reserved for servers is for whoever calls: a task or a resource that there is none
/// of (A2A's -32001, MCP's -32002), or something to be done first (MCP's -32042). So a server that fails with one of these
/// opens no circuit; one that could would leave that to any agent. A tool that says that it failed may have been asked for
/// what is not there.
fn went_of_tool(tool: &ToolAnswer) -> Went {
    let fails = |it: &ToolResult| {
        let fails = |code| matches!(code, -32603 | 500..=599);
        it.error.is_some_and(fails)
    };
    if tool.results.iter().any(fails) {
        Went::Failed
    } else if tool
        .results
        .iter()
        .any(|it| it.is_error || it.error.is_some())
    {
        Went::PutOff
    } else {
        Went::Well
    }
}

#[cfg(test)]
mod tests {
    use agentguard_budget::limits::Went;
    use agentguard_model::{Bytes, LlmAnswer, Outcome, ToolAnswer, ToolResult};

    use super::{Fingerprint, UNBILLED, went};

    fn outcome(status: Option<u16>) -> Outcome {
        Outcome {
            bytes: Bytes {
                sent: 1,
                received: 1,
            },
            messages: None,
            duration_ms: 1,
            status,
            llm: None,
            tool: None,
            budget: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn how_a_call_went_is_told_by_its_outcome() {
        let model = |status, error: Option<&str>| Outcome {
            llm: Some(LlmAnswer {
                error: error.map(str::to_owned),
                finish_reason: error.is_none().then(|| "stop".to_owned()),
                ..LlmAnswer::default()
            }),
            ..outcome(status)
        };
        let tool = |result| Outcome {
            tool: Some(Box::new(ToolAnswer {
                results: vec![result],
                ..ToolAnswer::default()
            })),
            ..outcome(Some(200))
        };
        let of_code = |code| {
            tool(ToolResult {
                error: Some(code),
                ..ToolResult::default()
            })
        };
        let left = Outcome {
            error: Some("the client went away".to_owned()),
            ..outcome(Some(200))
        };
        let unreachable = Outcome {
            error: Some("refused".to_owned()),
            ..outcome(Some(502))
        };
        let says_so = tool(ToolResult {
            is_error: true,
            ..ToolResult::default()
        });
        for (outcome, expected) in [
            (outcome(Some(200)), Went::Well),
            (outcome(Some(404)), Went::Well),
            (outcome(Some(429)), Went::PutOff),
            (outcome(Some(503)), Went::Failed),
            (outcome(Some(529)), Went::Failed),
            (outcome(None), Went::Unknown),
            (left, Went::Unknown),
            (unreachable, Went::Failed),
            (model(Some(200), None), Went::Well),
            (model(None, None), Went::Well),
            (model(Some(200), Some("overloaded_error")), Went::Failed),
            (model(None, Some("server_error")), Went::Failed),
            (model(None, Some("rate_limit_exceeded")), Went::PutOff),
            (model(Some(400), Some("invalid_request_error")), Went::Well),
            (model(None, Some("invalid_request_error")), Went::Well),
            (model(None, Some("server_is_overloaded")), Went::Failed),
            (model(None, Some("UNAVAILABLE")), Went::Failed),
            (model(None, Some("modelStreamErrorException")), Went::Failed),
            (model(None, Some("FAILED_PRECONDITION")), Went::Well),
            (model(None, Some("validationException")), Went::Well),
            (tool(ToolResult::default()), Went::Well),
            (says_so, Went::PutOff),
            (of_code(-32603), Went::Failed),
            (of_code(-32000), Went::PutOff),
            (of_code(-32001), Went::PutOff),
            (of_code(-32002), Went::PutOff),
            (of_code(-32042), Went::PutOff),
            (of_code(-32602), Went::PutOff),
            (of_code(503), Went::Failed),
        ] {
            assert_eq!(went(&outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn what_a_provider_refuses_is_no_failure_of_its_own_unless_it_has_no_room() {
        for word in UNBILLED {
            let outcome = Outcome {
                llm: Some(LlmAnswer {
                    error: Some(word.to_owned()),
                    ..LlmAnswer::default()
                }),
                ..outcome(Some(200))
            };
            let failed = went(&outcome) == Went::Failed;
            assert_eq!(failed, word.contains("overloaded"), "{word}");
        }
    }

    #[test]
    fn a_content_has_one_number_in_whatever_pieces_it_comes() {
        let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let mut whole = Fingerprint::default();
        whole.push(&text);
        for size in [1, 3, 7, 8, 64, 999] {
            let mut pieces = Fingerprint::default();
            text.chunks(size).for_each(|piece| pieces.push(piece));
            assert_eq!(pieces.finish(), whole.finish());
        }
        let mut other = Fingerprint::default();
        other.push(&text[1..]);
        assert_ne!(other.finish(), whole.finish());
    }
}
