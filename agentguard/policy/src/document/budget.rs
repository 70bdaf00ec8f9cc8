//! What a document says of budgets, as it is written.

use std::collections::BTreeMap;

use agentguard_model::Mode;
use agentguard_model::budget::{Reached, Unit, WhenAway};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::yaml::At;

/// How much of something may be used, by whom, in which time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a budget")]
#[schemars(rename = "Budget")]
pub(crate) struct RawBudget {
    /// Its id, unique among the budgets of the policy.
    #[schemars(regex(pattern = r"^[a-z0-9._-]{1,64}$"))]
    pub(crate) id: At<String>,
    /// What is counted.
    pub(crate) unit: At<Unit>,
    /// How much of it there is in a window: a number, `$25` or `$0.50` of money, `90s`, `30m` or `8h` of time.
    #[schemars(with = "RawAmount")]
    pub(crate) limit: At<String>,
    /// For how long what was used counts.
    pub(crate) window: At<RawWindow>,
    /// How long a sliding window is: `90s`, `15m`, `24h`.
    #[serde(default)]
    pub(crate) length: Option<At<String>>,
    /// Where days, weeks and months begin, as IANA names it: `Europe/Berlin`. UTC, if absent.
    #[serde(default)]
    pub(crate) zone: Option<At<String>>,
    /// What tells its accounts apart: `agent`, `user`, `session`, `workflow`, `label.NAME`, `provider`, `model`, `tool`,
    /// `host`. One account for all, if absent.
    #[serde(default)]
    pub(crate) per: Option<At<Vec<At<String>>>>,
    /// The agents that are charged, by name; `*` stands for all of them. All, if neither these nor groups or labels are
    /// given.
    #[serde(default)]
    pub(crate) agents: Option<At<Vec<At<String>>>>,
    /// The groups that are charged, by name, beside the `agents`.
    #[serde(default)]
    pub(crate) groups: Option<At<Vec<At<String>>>>,
    /// The agents that are charged, by labels: all of these. With `agents` or `groups` beside it, both must hold.
    #[serde(default)]
    pub(crate) labels: Option<At<BTreeMap<String, String>>>,
    /// Which calls of language models are charged. All, if absent.
    #[serde(default)]
    pub(crate) llm: Option<At<RawCharged>>,
    /// Which calls of tools are charged, of `unit: tool_calls`. All, if absent.
    #[serde(default)]
    pub(crate) tool: Option<At<RawChargedTool>>,
    /// What becomes of a call for which nothing is left. `deny` if absent.
    #[serde(default)]
    pub(crate) reached: Reached,
    /// What becomes of a call while the ledger that hosts share is away. What the host is configured for, if absent.
    #[serde(default)]
    pub(crate) on_loss: Option<WhenAway>,
    /// What is done before it is spent. Nothing, if absent.
    #[serde(default)]
    pub(crate) soft: Option<At<RawSoft>>,
    /// How far it goes: in `observe` and `shadow` it is counted, and nothing is refused for it. `enforce` if absent.
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    /// A sentence for the person whose call is refused.
    #[serde(default)]
    pub(crate) reason: Option<At<String>>,
}

/// What is done before a budget is spent. That so much is used is recorded, once in each window of an account.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "SoftLimit")]
pub(crate) struct RawSoft {
    /// From how much of its limit on: `80%`, if absent.
    #[serde(default)]
    #[schemars(regex(pattern = r"^([1-9][0-9]?|100) ?%$"))]
    pub(crate) at: Option<At<String>>,
    /// Whether answers say from then on how much is left, in fields `RateLimit` and `RateLimit-Policy`.
    #[serde(default)]
    pub(crate) header: bool,
    /// For how long each call waits from then on before it leaves: `2s`, ten at most. Not at all, if absent.
    #[serde(default)]
    pub(crate) slow: Option<At<String>>,
    /// Whether it is recorded, too, that it will be spent before its window ends, as it goes on: once in each window.
    #[serde(default)]
    pub(crate) forecast: bool,
}

/// Which calls of language models a budget is charged with.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "ChargedCalls")]
pub(crate) struct RawCharged {
    /// Of these providers, by name; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) provider: Option<At<Vec<At<String>>>>,
    /// Of these models; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) model: Option<At<Vec<At<String>>>>,
}

/// Which calls of tools a budget is charged with.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "ChargedTools")]
pub(crate) struct RawChargedTool {
    /// Of these servers, by name; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) server: Option<At<Vec<At<String>>>>,
    /// Of these tools, by name; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) name: Option<At<Vec<At<String>>>>,
}

/// For how long what was used counts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RawWindow {
    /// The minute of the clock.
    Minute,
    /// The hour of the clock, in UTC.
    Hour,
    /// The day, from midnight.
    Day,
    /// The week, from Monday.
    Week,
    /// The month, from the first.
    Month,
    /// The last `length`, at any moment.
    Sliding,
    /// For as long as there is somebody to charge: with `per: [session]`, the session.
    Lifetime,
}

/// An amount, for the schema.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Amount")]
#[expect(
    dead_code,
    reason = "it only describes what the loader reads from text"
)]
enum RawAmount {
    /// A number.
    Number(u64),
    /// Money in dollars, a time, or what a variable makes one.
    Text(#[schemars(regex(pattern = r"^\$[0-9]+(\.[0-9]{1,6})?$|^[0-9]+ ?(s|m|h)?$|\$\{"))] String),
}
