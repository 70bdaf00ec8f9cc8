//! Under which terms the agents of a storm call: models and their prices, tenants and their budgets.

use agentguard_model::budget::Unit;
use serde_json::{Value, json};

/// Of how many agents, in tenants of equal size.
pub(crate) const AGENTS: usize = 20;

/// A model, by which API it is called, and what a token of it costs in millionths of a dollar.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) host: &'static str,
    pub(crate) path: &'static str,
    /// The field of a request that limits what it writes.
    pub(crate) limit: &'static str,
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// Whether it writes what is not shown.
    pub(crate) hidden: bool,
}

pub(crate) const OPENAI: &str = "api.openai.com";
pub(crate) const ANTHROPIC: &str = "api.anthropic.com";

/// The most that each writes in an answer.
pub(crate) const MOST: u64 = 16_384;

pub(crate) const MODELS: [Model; 4] = [
    Model {
        name: "gpt-4o-mini",
        host: OPENAI,
        path: "/v1/chat/completions",
        limit: "max_tokens",
        input: 1,
        output: 4,
        hidden: false,
    },
    Model {
        name: "gpt-4.1-mini",
        host: OPENAI,
        path: "/v1/responses",
        limit: "max_output_tokens",
        input: 1,
        output: 5,
        hidden: false,
    },
    Model {
        name: "claude-haiku-4-5",
        host: ANTHROPIC,
        path: "/v1/messages",
        limit: "max_tokens",
        input: 2,
        output: 6,
        hidden: false,
    },
    Model {
        name: "gpt-5-mini",
        host: OPENAI,
        path: "/v1/responses",
        limit: "max_output_tokens",
        input: 1,
        output: 3,
        hidden: true,
    },
];

/// The operator's prices: those of the table change.
pub(crate) fn prices() -> String {
    let models = MODELS.iter().map(|it| {
        let openai = it.host == OPENAI;
        json!({
            "models": [it.name],
            "providers": [if openai { "openai" } else { "anthropic" }],
            "input": it.input,
            "output": it.output,
            "context": 128_000,
            "max_output": MOST,
            "hidden": if it.hidden { "always" } else { "never" },
            "tokenizer": openai.then_some("o200k"),
        })
    });
    let mut models: Vec<Value> = models.collect();
    for model in &mut models {
        model.as_object_mut().unwrap().retain(|_, it| !it.is_null());
    }
    json!({ "version": 1, "models": models }).to_string()
}

/// A budget, which each tenant has one of.
pub(crate) struct Level {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) per: &'static str,
    /// The tenant's that has room, and the one's that has not.
    pub(crate) limits: [u64; 2],
}

/// Of a tenant, of each of its agents, and of each model of each of them.
pub(crate) const LEVELS: [Level; 8] = [
    Level {
        name: "usd",
        unit: Unit::MicroUsd,
        per: "label.tenant",
        limits: [4_000_000, 900_000],
    },
    Level {
        name: "out",
        unit: Unit::OutputTokens,
        per: "label.tenant",
        limits: [600_000, 40_000],
    },
    Level {
        name: "calls",
        unit: Unit::Calls,
        per: "label.tenant",
        limits: [10_000, 380],
    },
    Level {
        name: "agent-usd",
        unit: Unit::MicroUsd,
        per: "agent",
        limits: [400_000, 90_000],
    },
    Level {
        name: "agent-out",
        unit: Unit::OutputTokens,
        per: "agent",
        limits: [60_000, 4_000],
    },
    Level {
        name: "agent-calls",
        unit: Unit::Calls,
        per: "agent",
        limits: [1_000, 39],
    },
    Level {
        name: "model-out",
        unit: Unit::OutputTokens,
        per: "agent, model",
        limits: [30_000, 1_500],
    },
    Level {
        name: "at-once",
        unit: Unit::ConcurrentCalls,
        per: "label.tenant",
        limits: [1_000, 1_000],
    },
];

pub(crate) const TENANTS: [&str; 2] = ["wide", "tight"];

pub(crate) fn agent(number: usize) -> String {
    format!("agent-{number:02}")
}

pub(crate) const fn tenant(agent: usize) -> usize {
    agent / (AGENTS / 2)
}

/// Who may call what, and how much.
pub(crate) fn policy() -> String {
    let agents = (0..AGENTS).map(|number| {
        let tenant = TENANTS[tenant(number)];
        format!(
            "  - {{ name: {}, labels: {{ tenant: {tenant} }} }}\n",
            agent(number)
        )
    });
    let budgets = LEVELS.iter().flat_map(|level| {
        let Level { name, unit, per, limits } = level;
        TENANTS.iter().zip(limits).map(move |(tenant, limit)| {
            let limit = match unit {
                Unit::MicroUsd => format!("${}.{:06}", limit / 1_000_000, limit % 1_000_000),
                _ => limit.to_string(),
            };
            format!(
                "  - {{ id: {tenant}-{name}, unit: {unit}, limit: {limit}, window: lifetime, per: [{per}], \
                 labels: {{ tenant: {tenant} }} }}\n"
            )
        })
    });
    format!(
        "version: 1
agents:
{}rules:
  - id: models
    match: {{ host: [{OPENAI}, {ANTHROPIC}], port: [443], llm: {{}} }}
    action: allow
    handling: inspect
budgets:
{}",
        agents.collect::<String>(),
        budgets.collect::<String>()
    )
}
