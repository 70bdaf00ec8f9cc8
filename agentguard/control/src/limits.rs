//! Accounts of limits and circuits of breakers, as they travel.

use agentguard_budget::limits::{CircuitState, Limits, Standing, StandingState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The accounts of one answer, at most: those that refuse something first. How many there are beside is told.
pub const MAX_TOLD: usize = 10_000;

/// The answer to `GET /v1/limits`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LimitAccounts {
    /// Those that refuse something first, and then by limits.
    pub accounts: Vec<LimitAccount>,
    /// How many there are beside.
    #[serde(default)]
    pub more: usize,
}

/// An account of a limit, or a circuit of a breaker, that is another than a new one.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct LimitAccount {
    /// The id of the limit or breaker.
    pub id: String,
    /// What it is: `rate`, `repeats`, `retries`, `no_progress`, `depth` or `breaker`.
    pub kind: String,
    /// Which of its accounts: `agent=coder,user=ada`. Empty where it has one for all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// How it is.
    pub state: LimitState,
    /// For how long it refuses, in milliseconds, where it does and that is known: of `repeats` and `retries` what it refuses
    /// for the longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Of `no_progress` how many calls in a row brought nothing new; of `depth` how many are under way in the deepest chain;
    /// of a closed circuit how many of the last calls failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// How an account or a circuit is.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum LimitState {
    /// It refuses something now.
    Refuses,
    /// A circuit that refuses all.
    Open,
    /// A circuit that is being tried.
    HalfOpen,
    /// What comes goes on.
    Free,
    /// A circuit over which all goes.
    Closed,
}

/// All accounts.
pub(crate) fn list(limits: &Limits) -> LimitAccounts {
    let mut accounts: Vec<_> = limits.standing().iter().map(told).collect();
    accounts.sort_by_key(|it| it.state);
    let more = accounts.len().saturating_sub(MAX_TOLD);
    accounts.truncate(MAX_TOLD);
    LimitAccounts { accounts, more }
}

fn told(standing: &Standing) -> LimitAccount {
    let (state, wait, count) = match standing.state {
        StandingState::Free => (LimitState::Free, None, None),
        StandingState::Waits(wait) => {
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            (LimitState::Refuses, Some(wait), None)
        }
        StandingState::Counts { count, refuses } => {
            let state = match refuses {
                true => LimitState::Refuses,
                false => LimitState::Free,
            };
            (state, None, Some(count))
        }
        StandingState::Circuit(CircuitState::Closed(failures)) => {
            (LimitState::Closed, None, Some(u64::from(failures)))
        }
        StandingState::Circuit(CircuitState::Open(wait)) => {
            (LimitState::Open, Some(wait / 1_000_000), None)
        }
        StandingState::Circuit(CircuitState::HalfOpen) => (LimitState::HalfOpen, None, None),
    };
    LimitAccount {
        id: standing.id.to_string(),
        kind: standing.kind.to_owned(),
        scope: standing.scope.to_string(),
        state,
        wait_ms: wait,
        count,
    }
}
