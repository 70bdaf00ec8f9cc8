//! Budgets: how much of what may be used, by whom, in which time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Millionths of a US dollar.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Deserialize,
    Eq,
    Hash,
    JsonSchema,
    Ord,
    PartialEq,
    PartialOrd,
    Serialize,
)]
pub struct MicroUsd(pub u64);

/// What is counted.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Tokens that a model reads, also those that come from a cache.
    InputTokens,
    /// Tokens that a model writes, also those that are not shown.
    OutputTokens,
    /// Tokens that come from a cache: part of the input.
    CachedTokens,
    /// Tokens of reasoning: part of the output.
    ReasoningTokens,
    /// Input and output together.
    Tokens,
    /// What calls of language models cost, in millionths of a US dollar.
    MicroUsd,
    /// Calls of language models.
    Calls,
    /// Calls of tools.
    ToolCalls,
    /// Calls of language models that are under way at the same time.
    ConcurrentCalls,
    /// Names and addresses that calls go to, each counted once.
    Destinations,
    /// Time since the first call, in milliseconds.
    WallTime,
}

impl Unit {
    /// Whether something of it is held for a call, and settled when that is over. Otherwise it is counted when a call
    /// begins.
    #[must_use]
    pub const fn is_held(self) -> bool {
        !matches!(self, Self::Destinations | Self::WallTime)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// For how long what was used counts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// The minute of the clock.
    Minute,
    /// The hour of the clock.
    Hour,
    /// The day, from midnight.
    Day,
    /// The week, from Monday (ISO 8601).
    Week,
    /// The month, from the first.
    Month,
    /// The last so long, at any moment.
    Sliding(Duration),
    /// For as long as the account is kept: of a session, of a run, or for ever.
    Lifetime,
}

/// What tells the accounts of one budget apart.
#[derive(
    Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// The agent.
    Agent,
    /// Whom it works for, from a source that the policy trusts.
    User,
    /// The session, from a source that the policy trusts.
    Session,
    /// The workflow.
    Workflow,
    /// A label of the agent.
    Label(String),
    /// The provider of language models.
    Provider,
    /// The model that is asked for.
    Model,
    /// The tool, with its server.
    Tool,
    /// The name or address that it goes to.
    Host,
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::User => "user",
            Self::Session => "session",
            Self::Workflow => "workflow",
            Self::Label(name) => return write!(f, "label.{name}"),
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Tool => "tool",
            Self::Host => "host",
        })
    }
}

/// What becomes of a call for which nothing is left.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// It is refused, or cut while it is under way.
    #[default]
    Deny,
    /// It goes on, and is told of.
    Alert,
}

/// A budget, as a policy has it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Budget {
    /// Its id, one in a policy.
    pub id: Arc<str>,
    /// What is counted.
    pub unit: Unit,
    /// How much of it there is in a window.
    pub limit: u64,
    /// For how long what was used counts.
    pub window: Window,
    /// Where days, weeks and months begin: an IANA time zone. UTC where absent.
    pub zone: Option<Arc<str>>,
    /// What tells its accounts apart; one account for all where there is nothing.
    pub per: Box<[Dimension]>,
    /// What becomes of a call for which nothing is left.
    pub reached: Reached,
}
