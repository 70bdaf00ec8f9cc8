//! How much the record keeps, as the configuration says.

use serde::{Deserialize, Serialize};

/// How much the record keeps.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RecordLimits {
    /// Bytes of all of it; the oldest go for new ones.
    pub max_bytes: u64,
    /// The share of each agent.
    pub agent_share: AgentShare,
}

impl Default for RecordLimits {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 30,
            agent_share: AgentShare::default(),
        }
    }
}

/// How much of the record one agent may fill.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AgentShare {
    /// Decisions in a second, in the long run. At least 1.
    pub per_second: u32,
    /// Decisions at once, after a rest. At least 1.
    pub at_once: u32,
    /// Bytes in 24 hours. At least 1.
    pub bytes_per_day: u64,
}

impl Default for AgentShare {
    fn default() -> Self {
        Self {
            per_second: 500,
            at_once: 5_000,
            bytes_per_day: 512 << 20,
        }
    }
}
