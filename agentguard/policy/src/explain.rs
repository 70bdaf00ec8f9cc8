//! Which rules were considered, and for those that did not match, why.

use std::net::IpAddr;

use agentguard_model::{Source, Transport};
use ipnet::IpNet;

use crate::agent::AgentPolicy;
use crate::decide::Facts;
use crate::document::RuleAction;
use crate::llm::{LlmMatch, OPERATIONS};
use crate::pattern::Wildcard;
use crate::policy::Policy;
use crate::rule::{Fit, Rule, Seen, bit};
use crate::special;
use crate::steps::Steps;
use crate::strategy::{Standing, Towards};
use crate::tool::ToolMatch;

/// A condition of a rule.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Condition {
    /// Host and addresses.
    Destination,
    /// The ranges that a name may lead into.
    ResolvedRanges,
    /// On whose behalf.
    Context,
    /// The time.
    Time,
    /// The expression.
    When,
    /// The transport.
    Transport,
    /// The port.
    Port,
    /// What is spoken.
    Protocol,
    /// The HTTP method.
    Method,
    /// The HTTP path.
    Path,
    /// The query of an HTTP request.
    Query,
    /// The header fields of an HTTP request.
    Header,
    /// The size of an HTTP request's content.
    BodyOver,
    /// That it is a call of a language model.
    Llm,
    /// Its provider.
    Provider,
    /// What it is for.
    Operation,
    /// The model.
    Model,
    /// The tools that it offers.
    Tools,
    /// The tools that the model asks to call.
    ToolCalls,
    /// How many tokens it asks for.
    MaxOutputOver,
    /// That it is a message to a server of tools.
    Tool,
    /// The server.
    ToolServer,
    /// What is asked of it.
    ToolMethod,
    /// The tool that is called.
    ToolName,
    /// The arguments.
    ToolArguments,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Destination => "destination",
            Self::ResolvedRanges => "resolved_ranges",
            Self::Context => "context",
            Self::Time => "time",
            Self::When => "when",
            Self::Transport => "transport",
            Self::Port => "port",
            Self::Protocol => "protocol",
            Self::Method => "method",
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::BodyOver => "body_over",
            Self::Llm => "llm",
            Self::Provider => "provider",
            Self::Operation => "operation",
            Self::Model => "model",
            Self::Tools => "tools",
            Self::ToolCalls => "tool_calls",
            Self::MaxOutputOver => "max_output_over",
            Self::Tool => "tool",
            Self::ToolServer => "tool server",
            Self::ToolMethod => "tool method",
            Self::ToolName => "tool name",
            Self::ToolArguments => "tool arguments",
        })
    }
}

/// What became of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Consideration {
    /// It matches.
    Matched,
    /// It matches, and one of a higher rank decides.
    Overruled,
    /// It allows this in another reading alone, and changes it, or has it kept, in any.
    Obliges,
    /// All else matches, and its expression cannot be evaluated, so that it denies: why.
    Error(String),
    /// It matches if the request does, which was not seen.
    NeedsRequest,
    /// These conditions do not hold; all others do.
    Failed(Vec<Condition>),
}

/// A rule that was considered.
#[derive(Clone, Debug)]
pub struct Considered<'a> {
    /// Its id.
    pub rule: &'a str,
    /// Where it stands.
    pub source: &'a Source,
    /// What it says.
    pub action: RuleAction,
    /// What became of it.
    pub verdict: Consideration,
    compiled: &'a Rule,
}

/// What a rule asks for in one condition, so many values at most.
const VALUES: usize = 4;

impl Considered<'_> {
    /// A condition with what the rule asks for there, where that is short.
    pub(crate) fn written(&self, condition: Condition) -> String {
        let rule = self.compiled;
        let ports = || {
            let ranges = rule.ports.ranges().iter();
            let ranges = ranges.map(|(first, last)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            });
            ranges.collect()
        };
        let transports = || {
            let known = [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")].into_iter();
            let has = known.filter(|(transport, _)| rule.transports & bit(*transport) != 0);
            has.map(|(_, name)| name.to_owned()).collect()
        };
        let request = &rule.request;
        let values: Vec<String> = match condition {
            Condition::Port => ports(),
            Condition::ResolvedRanges => rule.ranges.iter().map(IpNet::to_string).collect(),
            Condition::Transport => transports(),
            Condition::Protocol => request.protocols.names_of().collect(),
            Condition::Method => request.methods.clone(),
            Condition::Path => request
                .paths
                .iter()
                .map(|it| format!("/{}", it.written()))
                .collect(),
            Condition::Query => request.query.iter().map(|(name, _)| name.clone()).collect(),
            Condition::Header => request
                .fields
                .iter()
                .map(|(name, _)| name.to_string())
                .collect(),
            Condition::BodyOver => request.body_over.iter().map(u64::to_string).collect(),
            Condition::Provider
            | Condition::Operation
            | Condition::Model
            | Condition::Tools
            | Condition::ToolCalls
            | Condition::MaxOutputOver => {
                let llm = request.llm.as_ref();
                llm.map(|llm| asked(llm, condition)).unwrap_or_default()
            }
            Condition::ToolServer
            | Condition::ToolMethod
            | Condition::ToolName
            | Condition::ToolArguments => {
                let tool = request.tool.as_ref();
                tool.map(|tool| sent(tool, condition)).unwrap_or_default()
            }
            Condition::Destination
            | Condition::Context
            | Condition::Time
            | Condition::When
            | Condition::Llm
            | Condition::Tool => Vec::new(),
        };
        let more = if values.len() > VALUES { ", …" } else { "" };
        match values.get(..VALUES.min(values.len())) {
            None | Some([]) => condition.to_string(),
            Some(some) => format!("{condition} [{}{more}]", some.join(", ")),
        }
    }
}

/// What a rule asks for in one condition on a call of a language model.
fn asked(llm: &LlmMatch, condition: Condition) -> Vec<String> {
    let patterns = |of: &[Wildcard]| of.iter().map(|it| it.written().to_owned()).collect();
    match condition {
        Condition::Provider => patterns(&llm.providers),
        Condition::Operation => {
            let known = OPERATIONS.iter();
            let named = known.filter(|(_, operation)| llm.operations.contains(operation));
            named.map(|(name, _)| (*name).to_owned()).collect()
        }
        Condition::Model => patterns(&llm.models),
        Condition::Tools => patterns(&llm.tools),
        Condition::ToolCalls => patterns(&llm.tool_calls),
        _ => llm.max_output_over.iter().map(u64::to_string).collect(),
    }
}

/// What a rule asks for in one condition on a message to a server of tools.
fn sent(tool: &ToolMatch, condition: Condition) -> Vec<String> {
    let patterns = |of: &[Wildcard]| of.iter().map(|it| it.written().to_owned()).collect();
    match condition {
        Condition::ToolServer => patterns(&tool.servers),
        Condition::ToolMethod => patterns(&tool.methods),
        Condition::ToolName => patterns(&tool.names),
        _ => {
            let arguments = tool.arguments.iter();
            arguments.map(|(pointer, _)| pointer.clone()).collect()
        }
    }
}

impl Policy {
    /// Every rule that is for the agent, nearest first: those that match, then those for the destination, with
    /// the fewest conditions that failed before others, and those for another one. Not for the data path: the work is that of all rules.
    #[must_use]
    pub fn explain<'a>(&'a self, agent: &AgentPolicy, facts: &Facts<'_>) -> Vec<Considered<'a>> {
        let ip = known_address(facts);
        let towards = Towards::of(facts.host, ip);
        let mut standing = Standing::default();
        let mut met: Vec<_> = (0..)
            .zip(self.compiled())
            .filter(|(_, rule)| rule.agents.selects(&agent.name, &agent.labels))
            .map(|(position, rule)| {
                let verdict = consider(rule, agent, facts, ip);
                let rank = self.strategy().rank(position, rule, towards);
                let failed = matches!(verdict, Consideration::Error(_));
                let in_force = rule.in_force(&agent.name, &facts.circumstances);
                if in_force && (failed || verdict == Consideration::Matched) {
                    standing.note(rank, failed || !rule.allows());
                }
                (rule, verdict, rank)
            })
            .collect();
        for (rule, verdict, rank) in &mut met {
            let matches = matches!(verdict, Consideration::Matched | Consideration::Obliges);
            if matches && !standing.counts(*rank, !rule.allows(), true) {
                *verdict = Consideration::Overruled;
            }
        }
        let mut considered: Vec<_> = met
            .into_iter()
            .map(|(rule, verdict, _)| Considered {
                rule: &rule.info.id,
                source: &rule.info.source,
                action: rule.info.action,
                verdict,
                compiled: rule,
            })
            .collect();
        considered.sort_by_key(|c| match &c.verdict {
            Consideration::Matched | Consideration::Obliges | Consideration::Error(_) => (false, 0),
            Consideration::Overruled | Consideration::NeedsRequest => (false, 1),
            Consideration::Failed(conditions) => (
                conditions.contains(&Condition::Destination),
                1 + conditions.len(),
            ),
        });
        considered
    }
}

/// The address that rules are about: a virtual one stands for another.
fn known_address(facts: &Facts<'_>) -> Option<IpAddr> {
    facts
        .ip
        .map(special::canonical)
        .filter(|ip| !special::is_virtual(*ip))
}

fn consider(
    rule: &Rule,
    agent: &AgentPolicy,
    facts: &Facts<'_>,
    ip: Option<IpAddr>,
) -> Consideration {
    let mut failed = Vec::new();
    let mut check = |condition, holds: bool| {
        if !holds {
            failed.push(condition);
        }
    };
    let (there, opens) = (rule.is_for(facts.host, ip), rule.opens(facts.host, ip));
    let by_name = facts.host.is_some();
    check(Condition::Destination, there && (by_name || opens));
    check(Condition::ResolvedRanges, opens || !by_name);
    check(
        Condition::Transport,
        rule.transports & bit(facts.transport) != 0,
    );
    check(Condition::Port, rule.ports.contains(facts.port));
    if let Seen::Request(request) = &facts.request {
        let (says, allows) = (&rule.request, rule.allows());
        check(Condition::Protocol, says.protocols.request(request));
        check(Condition::Method, says.method(request));
        let steps = &Steps::endless();
        check(Condition::Path, says.path(request, allows, steps));
        check(Condition::Query, says.query(request, allows, steps));
        check(Condition::Header, says.fields(request, allows, steps));
        check(Condition::BodyOver, says.size(request));
        match (&says.llm, request.llm) {
            (None, _) => {}
            (Some(_), None) => check(Condition::Llm, false),
            (Some(says), Some(llm)) => {
                check(Condition::Provider, says.provider(llm));
                check(Condition::Operation, says.operation(llm));
                let asked = |holds: bool| match llm.is_fetched() {
                    true => says.asked_before(),
                    false => holds,
                };
                check(
                    Condition::Model,
                    says.models.is_empty() || asked(says.model(llm, allows, steps)),
                );
                check(
                    Condition::Tools,
                    says.tools.is_empty() || asked(says.tools(llm, allows, steps)),
                );
                check(Condition::ToolCalls, says.tool_calls(llm, steps));
                check(Condition::MaxOutputOver, says.max_output(llm));
            }
        }
        match (&says.tool, request.tool) {
            (None, _) => {}
            (Some(_), None) => check(Condition::Tool, false),
            // Of what every session needs only the server counts.
            (Some(says), Some(tool)) if says.matches(request, allows, steps) => {
                check(Condition::ToolServer, says.server(tool));
            }
            (Some(says), Some(tool)) => {
                check(Condition::ToolServer, says.server(tool));
                check(Condition::ToolMethod, says.method(tool, allows, steps));
                check(Condition::ToolName, says.name(tool, allows, steps));
                check(
                    Condition::ToolArguments,
                    says.arguments(tool, allows, steps),
                );
            }
        }
    }
    let unread = rule.needs_request() && facts.request.is_none();
    let unread = unread.then(|| rule.unread(&facts.request));
    check(Condition::Protocol, unread != Some(Fit::No));
    let conditions = &rule.conditions;
    check(Condition::Context, conditions.context(&facts.circumstances));
    check(Condition::Time, conditions.times(&facts.circumstances));
    let seen = matches!(facts.request, Seen::Request(_));
    let when = if seen || !conditions.needs_request() {
        rule.when(agent, facts, &Steps::new())
    } else {
        Ok(true)
    };
    check(Condition::When, when != Ok(false));
    if !failed.is_empty() && there && rule.obliges_a_reading(agent, facts, &Steps::endless()) {
        Consideration::Obliges
    } else if !failed.is_empty() {
        Consideration::Failed(failed)
    } else if rule.needs_request() && !seen && unread != Some(Fit::Yes) {
        Consideration::NeedsRequest
    } else if let Err(why) = when {
        Consideration::Error(why)
    } else {
        Consideration::Matched
    }
}
