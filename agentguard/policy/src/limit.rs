//! Limits and breakers: which of them something is counted by.

use std::sync::Arc;

use agentguard_model::budget::Dimension;
use agentguard_model::limit::{Breaker, Circuit, Limit, LimitKind};
use agentguard_model::{Llm, LlmOperation, Mode, Source, Tool, ToolApi};

use crate::agent::AgentPolicy;
use crate::budget::Charged;
use crate::llm::LlmMatch;
use crate::pattern::Wildcard;
use crate::policy::Policy;
use crate::rule::Selector;
use crate::steps::Steps;

/// A limit, with what it is for.
#[derive(Debug)]
pub struct LimitRule {
    /// What it is.
    pub limit: Arc<Limit>,
    /// Where it stands, and how far it goes.
    pub says: Says,
    pub(crate) scope: Scope,
}

/// A breaker, with what it is for.
#[derive(Debug)]
pub struct BreakerRule {
    /// What it is.
    pub breaker: Arc<Breaker>,
    /// Where it stands, and how far it goes.
    pub says: Says,
    pub(crate) scope: Scope,
}

/// What is said of a limit or a breaker beside what it is.
#[derive(Debug)]
pub struct Says {
    /// Where it stands.
    pub source: Source,
    /// How far it goes.
    pub mode: Mode,
    /// Its own sentence for the person whose call is refused.
    pub reason: Option<String>,
}

/// What a limit or a breaker is for.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) agents: Selector,
    pub(crate) calls: bool,
    pub(crate) tool_calls: bool,
    pub(crate) requests: bool,
    /// Of these `providers` and `models` alone.
    pub(crate) llm: LlmMatch,
    pub(crate) servers: Vec<Wildcard>,
    pub(crate) tools: Vec<Wildcard>,
}

impl Says {
    /// The mode that keeps it on paper, where the agent is in this one; none where it is in force.
    #[must_use]
    pub fn on_paper(&self, agent: &AgentPolicy) -> Option<Mode> {
        let mut modes = [self.mode, agent.mode].into_iter();
        modes.find(|it| *it != Mode::Enforce)
    }
}

impl LimitRule {
    /// Whether that is counted by it, for this agent.
    #[must_use]
    pub fn counts(&self, policy: &Policy, agent: &AgentPolicy, what: Charged<'_>) -> bool {
        let chains = matches!(self.limit.kind, LimitKind::Depth { .. });
        match what {
            // Where nothing says which servers are agents, those are that are spoken to as such.
            Charged::Tool(tool) if chains && self.scope.servers.is_empty() => {
                let mut servers = policy.tool_servers().iter();
                let agents = servers.any(|it| it.name == tool.server && it.api == ToolApi::A2a);
                agents && self.scope.counts(agent, what)
            }
            _ => self.scope.counts(agent, what),
        }
    }
}

impl BreakerRule {
    /// Whether the messages of one request go over the same circuit, whatever they are.
    #[must_use]
    pub fn is_of_request(&self) -> bool {
        let breaker = &self.breaker;
        breaker.circuit == Circuit::Upstream
            && self.scope.requests
            && !breaker.per.contains(&Dimension::Tool)
    }

    /// Whether that goes over a circuit of it, for this agent.
    #[must_use]
    pub fn counts(&self, agent: &AgentPolicy, what: Charged<'_>) -> bool {
        let has_circuit = match (self.breaker.circuit, what) {
            (Circuit::Upstream, _) => true,
            (Circuit::Tool, Charged::Tool(tool)) => tool.name.is_some(),
            (Circuit::Tool, _) => false,
        };
        has_circuit && self.scope.counts(agent, what)
    }
}

impl Scope {
    fn counts(&self, agent: &AgentPolicy, what: Charged<'_>) -> bool {
        if !self.agents.selects(&agent.name, &agent.labels) {
            return false;
        }
        self.requests
            || match what {
                Charged::Llm(llm) => self.calls && self.counts_call(llm),
                Charged::Tool(tool) => self.tool_calls && self.counts_tool(tool),
                Charged::Other => false,
            }
    }

    /// What is fetched was counted when it was asked for, and tokens are counted for nothing. Of a call that was not understood nobody knows the model: it
    /// counts as if it were any.
    fn counts_call(&self, llm: &Llm) -> bool {
        let asks = !matches!(
            llm.operation,
            LlmOperation::Retrieval | LlmOperation::CountTokens
        );
        asks && self.llm.provider(llm) && self.llm.model(llm, false, &Steps::new())
    }

    /// A message that was not understood may be any call.
    fn counts_tool(&self, tool: &Tool) -> bool {
        let one = |patterns: &[Wildcard], name: &str| {
            patterns.is_empty() || patterns.iter().any(|it| it.matches(name.as_bytes()))
        };
        one(&self.servers, &tool.server)
            && match &tool.name {
                Some(name) => one(&self.tools, name),
                None => tool.not_understood.is_some(),
            }
    }
}

impl Policy {
    /// Its limits, in the order of the documents.
    #[must_use]
    pub fn limits(&self) -> &[LimitRule] {
        &self.limits
    }

    /// Its breakers, in the order of the documents.
    #[must_use]
    pub fn breakers(&self) -> &[BreakerRule] {
        &self.breakers
    }
}
