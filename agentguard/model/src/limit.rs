//! Limits of loops and runaways, and circuit breakers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::ReasonCode;
use crate::budget::Dimension;

/// A limit, as a policy has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limit {
    /// Its id, one among the limits and breakers of a policy.
    pub id: Arc<str>,
    /// What it stops.
    pub kind: LimitKind,
    /// What tells its accounts apart; one account for all where there is nothing.
    pub per: Box<[Dimension]>,
}

/// What a limit stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LimitKind {
    /// More calls in a time than this.
    Rate(Rate),
    /// The same call, with the same content.
    Repeats {
        /// How often it goes, in the time.
        calls: u32,
        /// The time.
        within: Duration,
    },
    /// Calls of a model or a tool that fail one after the other.
    Retries {
        /// After how many failures in a row no more go.
        failures: u32,
        /// For how long none goes, and for how long a failure counts.
        within: Duration,
    },
    /// Calls of which none brings anything new.
    NoProgress {
        /// After how many in a row no more go.
        calls: u32,
        /// For how long none goes, and for how long the one before counts.
        within: Duration,
    },
    /// Calls of agents that wait for each other, of one trace.
    Depth {
        /// How many are under way at once.
        calls: u32,
        /// How many agents make them.
        agents: u32,
    },
}

/// How often something may happen: `calls` in `every`, evenly, and up to `burst` of them at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// How many, at least 1.
    pub calls: u32,
    /// In which time.
    pub every: Duration,
    /// How many at once after a time without any, at least 1.
    pub burst: u32,
}

impl LimitKind {
    /// Why it refuses.
    #[must_use]
    pub const fn code(&self) -> ReasonCode {
        match self {
            Self::Rate(_) => ReasonCode::RateLimited,
            Self::Repeats { .. } => ReasonCode::RepeatedCall,
            Self::Retries { .. } => ReasonCode::RetryStorm,
            Self::NoProgress { .. } => ReasonCode::NoProgress,
            Self::Depth { .. } => ReasonCode::ChainTooDeep,
        }
    }

    /// Its word in a policy.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Rate(_) => "rate",
            Self::Repeats { .. } => "repeats",
            Self::Retries { .. } => "retries",
            Self::NoProgress { .. } => "no_progress",
            Self::Depth { .. } => "depth",
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => {
                let (calls, every) = (rate.calls, Time(rate.every));
                write!(f, "{calls} in {every}, and {} at once", rate.burst)
            }
            Self::Repeats { calls, within } => {
                write!(f, "the same call {calls} times in {}", Time(*within))
            }
            Self::Retries { failures, within } => {
                let within = Time(*within);
                write!(f, "{failures} failures in a row, each within {within}")
            }
            Self::NoProgress { calls, within } => {
                let within = Time(*within);
                write!(
                    f,
                    "{calls} calls in a row with nothing new, each within {within}"
                )
            }
            Self::Depth { calls, agents } => {
                write!(
                    f,
                    "{calls} calls of agents at once in a chain, of {agents} agents"
                )
            }
        }
    }
}

/// A circuit breaker, as a policy has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Breaker {
    /// Its id, one among the limits and breakers of a policy.
    pub id: Arc<str>,
    /// What it is opened for.
    pub circuit: Circuit,
    /// With how many failures it opens, at least 1 …
    pub failures: u32,
    /// … among so many of the last calls. At least `failures`, at most 64.
    pub of: u32,
    /// For how long what came of a call counts.
    pub within: Duration,
    /// For how long it stays open, before it is tried.
    pub wait: Duration,
    /// How many calls try it at once, and how many of them have to succeed. At least 1.
    pub probes: u32,
    /// What tells its circuits apart, beside what they are for.
    pub per: Box<[Dimension]>,
}

/// What a breaker is opened for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Circuit {
    /// Each upstream, by its name and port.
    Upstream,
    /// Each tool of each server.
    Tool,
}

/// A time in words: `90 s`, `15 min`, `2 h`.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds if seconds >= 3600 && seconds.is_multiple_of(3600) => {
                write!(f, "{} h", seconds / 3600)
            }
            seconds if seconds >= 120 && seconds.is_multiple_of(60) => {
                write!(f, "{} min", seconds / 60)
            }
            seconds => write!(f, "{seconds} s"),
        }
    }
}
