//! Budgets: which of them a call is charged to.

use std::sync::Arc;
use std::time::Duration;

use agentguard_model::budget::{Budget, Unit};
use agentguard_model::{Llm, LlmOperation, Mode, Source, Tool};

use crate::agent::AgentPolicy;
use crate::llm::LlmMatch;
use crate::pattern::Wildcard;
use crate::policy::Policy;
use crate::request::Request;
use crate::rule::Selector;
use crate::steps::Steps;

/// A budget, with what is charged to it.
#[derive(Debug)]
pub struct BudgetRule {
    /// What it is.
    pub budget: Arc<Budget>,
    /// Where it stands.
    pub source: Source,
    /// How far it goes.
    pub mode: Mode,
    /// Its own sentence for the person whose call is refused.
    pub reason: Option<String>,
    /// What is done before it is spent.
    pub soft: Option<Soft>,
    pub(crate) agents: Selector,
    /// Which calls of language models. Of these `providers` and `models` alone.
    pub(crate) calls: LlmMatch,
    pub(crate) servers: Vec<Wildcard>,
    pub(crate) tools: Vec<Wildcard>,
}

/// What is done before a budget is spent, beside recording that so much is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Soft {
    /// From how much of its limit on, in percent.
    pub percent: u8,
    /// Whether answers say how much is left.
    pub header: bool,
    /// For how long each call waits before it leaves.
    pub slow: Option<Duration>,
    /// Whether it is recorded, too, that it will be spent before its window ends.
    pub forecast: bool,
}

impl Soft {
    /// Whether so much of a limit is used that it holds.
    #[must_use]
    pub fn is_reached(&self, used: u64, limit: u64) -> bool {
        u128::from(used) * 100 >= u128::from(limit) * u128::from(self.percent)
    }
}

/// What is charged.
#[derive(Clone, Copy, Debug)]
pub enum Charged<'a> {
    /// A call of a language model.
    Llm(&'a Llm),
    /// A call of a tool.
    Tool(&'a Tool),
    /// Another request or connection.
    Other,
}

impl<'a> Charged<'a> {
    /// What a request is. What opens a connection for calls is none itself.
    #[must_use]
    pub fn of(request: &Request<'a>) -> Self {
        match (request.llm, request.tool) {
            _ if request.opens_calls => Self::Other,
            (Some(llm), _) => Self::Llm(llm),
            (None, Some(tool)) if tool.name.is_some() || tool.not_understood.is_some() => {
                Self::Tool(tool)
            }
            (None, _) => Self::Other,
        }
    }
}

impl BudgetRule {
    /// Whether something of this agent's may be charged to it.
    #[must_use]
    pub fn is_for(&self, agent: &AgentPolicy) -> bool {
        self.agents.selects(&agent.name, &agent.labels)
    }

    /// Whether that is charged to it, for this agent.
    #[must_use]
    pub fn is_charged(&self, agent: &AgentPolicy, charged: Charged<'_>) -> bool {
        if !self.is_for(agent) {
            return false;
        }
        match (self.budget.unit, charged) {
            // All that goes somewhere.
            (Unit::Destinations | Unit::BytesOut | Unit::BytesIn, _) => true,
            (Unit::WallTime, Charged::Llm(_) | Charged::Tool(_)) => true,
            (Unit::ToolCalls, Charged::Tool(tool)) => self.counts_tool(tool),
            (Unit::ToolCalls | Unit::WallTime, _) => false,
            (_, Charged::Llm(llm)) => self.counts_call(llm),
            (_, Charged::Tool(_) | Charged::Other) => false,
        }
    }

    /// What is fetched was charged when it was asked for, and tokens are counted for nothing. Of a call that was not
    /// understood nobody knows the model: it is charged as if it were any.
    fn counts_call(&self, llm: &Llm) -> bool {
        let writes = !matches!(
            llm.operation,
            LlmOperation::Retrieval | LlmOperation::CountTokens
        );
        writes && self.calls.provider(llm) && self.calls.model(llm, false, &Steps::new())
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

    /// Whether a call that it has nothing left for is refused, where the agent is in this mode.
    #[must_use]
    pub fn is_enforced(&self, agent: &AgentPolicy) -> bool {
        self.mode == Mode::Enforce && agent.mode == Mode::Enforce
    }
}

impl Policy {
    /// Its budgets, in the order of the documents.
    #[must_use]
    pub fn budgets(&self) -> &[BudgetRule] {
        &self.budgets
    }

    /// A budget by its id.
    #[must_use]
    pub fn budget(&self, id: &str) -> Option<&BudgetRule> {
        self.budgets.iter().find(|it| &*it.budget.id == id)
    }

    /// Whether some budget counts what calls of language models use, so that they are read where no rule asks for it.
    #[must_use]
    pub fn looks_at_usage(&self) -> bool {
        self.budgets
            .iter()
            .map(|it| it.budget.unit)
            .any(|unit| !matches!(unit, Unit::ToolCalls | Unit::Destinations) && !unit.is_bytes())
    }
}
