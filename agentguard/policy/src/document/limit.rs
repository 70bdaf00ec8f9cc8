//! What a document says of limits of loops and runaways, and of circuit breakers, as it is written.

use std::collections::BTreeMap;

use agentguard_model::Mode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::budget::{RawCharged, RawChargedTool};
use crate::yaml::At;

/// What stops loops and runaways. Of `rate`, `repeats`, `retries`, `no_progress` and `depth` it has one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a limit")]
#[schemars(rename = "Limit")]
pub(crate) struct RawLimit {
    /// Its id, unique among the limits and breakers of the policy.
    #[schemars(regex(pattern = r"^[a-z0-9._-]{1,64}$"))]
    pub(crate) id: At<String>,
    /// How many calls there may be in a time, and at once.
    #[serde(default)]
    pub(crate) rate: Option<At<RawRate>>,
    /// How often the same call may be made in a time: of the same model with the same content, of the same tool with the
    /// same arguments.
    #[serde(default)]
    pub(crate) repeats: Option<At<RawCallsWithin>>,
    /// After how many failures in a row calls of a model, or of a tool, have to wait.
    #[serde(default)]
    pub(crate) retries: Option<At<RawFailuresWithin>>,
    /// After how many calls in a row that bring nothing new no more go.
    #[serde(default)]
    pub(crate) no_progress: Option<At<RawCallsWithin>>,
    /// How many calls of agents may be under way at once in one trace.
    #[serde(default)]
    pub(crate) depth: Option<At<RawDepth>>,
    /// What is counted: `calls` of language models, `tool_calls`, or `requests`, which are all of HTTP and all connections
    /// of others. Calls and tool calls, if neither this nor `llm` or `tool` is given; with one of these, what it says.
    #[serde(default)]
    pub(crate) of: Option<At<Vec<At<RawCounted>>>>,
    /// What tells its accounts apart: `agent`, `user`, `session`, `workflow`, `label.NAME`, `provider`, `model`, `tool`,
    /// `host`. One account for all, if absent.
    #[serde(default)]
    pub(crate) per: Option<At<Vec<At<String>>>>,
    /// The agents that it is for, by name; `*` stands for all of them. All, if neither these nor groups or labels are given.
    #[serde(default)]
    pub(crate) agents: Option<At<Vec<At<String>>>>,
    /// The groups that it is for, by name, beside the `agents`.
    #[serde(default)]
    pub(crate) groups: Option<At<Vec<At<String>>>>,
    /// The agents that it is for, by labels: all of these. With `agents` or `groups` beside it, both must hold.
    #[serde(default)]
    pub(crate) labels: Option<At<BTreeMap<String, String>>>,
    /// Which calls of language models. All, if absent.
    #[serde(default)]
    pub(crate) llm: Option<At<RawCharged>>,
    /// Which calls of tools. All, if absent.
    #[serde(default)]
    pub(crate) tool: Option<At<RawChargedTool>>,
    /// How far it goes: in `observe` and `shadow` it is counted, and nothing is refused for it. `enforce` if absent.
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    /// A sentence for the person whose call is refused.
    #[serde(default)]
    pub(crate) reason: Option<At<String>>,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RawCounted {
    /// Calls of language models.
    Calls,
    /// Calls of tools.
    ToolCalls,
    /// All requests of HTTP, and all connections of others.
    Requests,
}

/// A rate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "CallRate")]
pub(crate) struct RawRate {
    /// How many, over time.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) calls: At<u64>,
    /// In which time: `1s`, `1m`, `24h`.
    pub(crate) every: At<String>,
    /// How many at once, after a time without any. As `calls`, if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) burst: Option<At<u64>>,
}

/// How many calls, in which time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "CallsWithin")]
pub(crate) struct RawCallsWithin {
    /// How many.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) calls: At<u64>,
    /// In which time: `30s`, `10m`, `24h`.
    pub(crate) within: At<String>,
}

/// How many failures, in which time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "FailuresWithin")]
pub(crate) struct RawFailuresWithin {
    /// How many.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) failures: At<u64>,
    /// In which time: `30s`, `10m`, `24h`.
    pub(crate) within: At<String>,
}

/// How deep agents may call agents.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "ChainDepth")]
pub(crate) struct RawDepth {
    /// How many calls of agents may be under way at once in one trace.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) calls: At<u64>,
    /// How many agents may have such calls under way at once. As `calls`, if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) agents: Option<At<u64>>,
}

/// What is left alone for a time once it has failed too often.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a breaker")]
#[schemars(rename = "Breaker")]
pub(crate) struct RawBreaker {
    /// Its id, unique among the limits and breakers of the policy.
    #[schemars(regex(pattern = r"^[a-z0-9._-]{1,64}$"))]
    pub(crate) id: At<String>,
    /// What has a circuit of its own: each `upstream`, by its name and port, or each `tool` of each server.
    pub(crate) circuit: At<RawCircuit>,
    /// With how many failures it opens.
    #[schemars(range(min = 1, max = 64))]
    pub(crate) failures: At<u64>,
    /// Among how many of the last calls. As `failures`, if absent: then they are in a row.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    pub(crate) of: Option<At<u64>>,
    /// For how long what came of a call counts: `30s`, `10m`. A minute, if absent.
    #[serde(default)]
    pub(crate) within: Option<At<String>>,
    /// For how long it stays open before it is tried: `30s`, `5m`. Thirty seconds, if absent.
    #[serde(default)]
    pub(crate) wait: Option<At<String>>,
    /// How many calls try it then at once; it closes once so many have succeeded. One, if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    pub(crate) probes: Option<At<u64>>,
    /// What tells its circuits apart beside that, as of a limit. Nothing, if absent: what an agent sees fail is left alone
    /// by all that it is for.
    #[serde(default)]
    pub(crate) per: Option<At<Vec<At<String>>>>,
    /// The agents that it is for, by name; `*` stands for all of them. All, if neither these nor groups or labels are given.
    #[serde(default)]
    pub(crate) agents: Option<At<Vec<At<String>>>>,
    /// The groups that it is for, by name, beside the `agents`.
    #[serde(default)]
    pub(crate) groups: Option<At<Vec<At<String>>>>,
    /// The agents that it is for, by labels: all of these. With `agents` or `groups` beside it, both must hold.
    #[serde(default)]
    pub(crate) labels: Option<At<BTreeMap<String, String>>>,
    /// Only calls of these language models.
    #[serde(default)]
    pub(crate) llm: Option<At<RawCharged>>,
    /// Only calls of these tools.
    #[serde(default)]
    pub(crate) tool: Option<At<RawChargedTool>>,
    /// How far it goes: in `observe` and `shadow` it is counted, and nothing is refused for it. `enforce` if absent.
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    /// A sentence for the person whose call is refused.
    #[serde(default)]
    pub(crate) reason: Option<At<String>>,
}

/// What a breaker is opened for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RawCircuit {
    /// Each upstream, by its name and port.
    Upstream,
    /// Each tool of each server.
    Tool,
}
