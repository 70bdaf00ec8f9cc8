//! Budgets: how much of what may be used, by whom, in which time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
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
    /// Bytes that requests and connections through the proxy send: content, and the heads of requests.
    BytesOut,
    /// Bytes that come for them: content.
    BytesIn,
}

impl Unit {
    /// Whether something of it is held for a call, and settled when that is over. Otherwise it is counted when a call
    /// begins.
    #[must_use]
    pub const fn is_held(self) -> bool {
        !matches!(self, Self::Destinations | Self::WallTime)
    }

    /// Whether it is bytes, which are counted as they pass.
    #[must_use]
    pub const fn is_bytes(self) -> bool {
        matches!(self, Self::BytesOut | Self::BytesIn)
    }
}

impl Unit {
    /// So much of it, in words: `1500 output tokens`, `$0.25`.
    #[must_use]
    pub fn amount(self, number: u64) -> String {
        let of = match self {
            Self::InputTokens => "input tokens",
            Self::OutputTokens => "output tokens",
            Self::CachedTokens => "cached tokens",
            Self::ReasoningTokens => "tokens of reasoning",
            Self::Tokens => "tokens",
            Self::MicroUsd => return dollars(number),
            Self::Calls => "calls",
            Self::ToolCalls => "calls of tools",
            Self::ConcurrentCalls => "calls at the same time",
            Self::Destinations => "destinations",
            Self::BytesOut => "bytes out",
            Self::BytesIn => "bytes in",
            Self::WallTime => return format!("{} s", number.div_ceil(1000)),
        };
        format!("{number} {of}")
    }
}

/// Millionths of a dollar: with cents, and with as many more digits as there are.
fn dollars(micro: u64) -> String {
    let (whole, rest) = (micro / 1_000_000, micro % 1_000_000);
    let digits = format!("{rest:06}");
    let (cents, more) = digits.split_at_checked(2).unwrap_or((&digits, ""));
    format!("${whole}.{cents}{}", more.trim_end_matches('0'))
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
    /// As with `deny`, and the agent is quarantined and its processes are stopped, until an operator releases it.
    Freeze,
}

impl Reached {
    /// Whether a call for which nothing is left is refused.
    #[must_use]
    pub const fn limits(self) -> bool {
        !matches!(self, Self::Alert)
    }
}

/// What becomes of a call that a budget counts while the ledger that hosts share is away.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAway {
    /// It is refused.
    Deny,
    /// It goes on with what its host has drawn in advance.
    Lease,
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
    /// What becomes of a call while the ledger that hosts share is away. What the host is configured for, where absent.
    pub on_loss: Option<WhenAway>,
}

/// An account of a budget that has too little left for a call, as whoever is refused is told of it.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Spent {
    /// The budget's id.
    pub budget: String,
    /// Which of its accounts: `agent=coder,user=ada`. Empty where it has one for all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// What is counted.
    pub unit: Unit,
    /// How much of it there is in a window.
    pub limit: u64,
    /// How much was used.
    pub used: u64,
    /// How much is held for calls that are under way.
    pub held: u64,
    /// When the window ends, where it ends by the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub resets_at: Option<Timestamp>,
    /// In how many seconds there may be enough, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "budget `{}`", self.budget)?;
        if !self.scope.is_empty() {
            write!(f, " of {}", self.scope)?;
        }
        let (used, limit) = (self.unit.amount(self.used), self.unit.amount(self.limit));
        write!(f, " has used {used} of {limit}")?;
        if self.held > 0 {
            let held = self.unit.amount(self.held);
            write!(f, ", and holds {held} for calls under way")?;
        }
        match self.resets_at {
            Some(time) => write!(f, "; it is reset at {time}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Spent, Unit};

    #[test]
    fn what_is_spent_is_told_in_words() {
        let spent = Spent {
            budget: "daily".to_owned(),
            scope: "agent=coder".to_owned(),
            unit: Unit::MicroUsd,
            limit: 2_000_000,
            used: 1_999_990,
            held: 10,
            resets_at: Some("2026-11-29T00:00:00Z".parse().unwrap()),
            retry_after: None,
        };
        assert_eq!(
            spent.to_string(),
            "budget `daily` of agent=coder has used $1.99999 of $2.00, and holds $0.00001 for calls under way; \
             it is reset at 2026-11-29T00:00:00Z"
        );
        let bare = Spent {
            scope: String::new(),
            unit: Unit::WallTime,
            limit: 90_000,
            used: 89_001,
            held: 0,
            resets_at: None,
            ..spent
        };
        assert_eq!(bare.to_string(), "budget `daily` has used 90 s of 90 s");
        assert_eq!(Unit::Tokens.amount(7), "7 tokens");
    }
}
