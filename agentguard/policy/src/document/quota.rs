//! How much of the network an agent may use, as it is written.

use agentguard_model::QuotaWindow;
use schemars::JsonSchema;
use serde::Deserialize;

use super::RawSize;
use crate::yaml::At;

/// How much of the network an agent may use, whatever it uses it for. The kernel counts, all runs and cgroups of the
/// agent together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Quota")]
pub(crate) struct RawQuota {
    /// Bytes that leave the agent in a window, headers of IP included: 64KiB to 1048576GiB.
    #[serde(default)]
    #[schemars(with = "Option<RawSize>")]
    pub(crate) bytes_out: Option<At<String>>,
    /// Bytes that reach the agent in a window, likewise.
    #[serde(default)]
    #[schemars(with = "Option<RawSize>")]
    pub(crate) bytes_in: Option<At<String>>,
    /// For how long bytes count: a minute, hour, day, week or month of the calendar, in UTC, or `lifetime`.
    #[serde(default)]
    pub(crate) every: Option<At<QuotaWindow>>,
    /// TCP connections, and flows of datagrams, that the agent begins.
    #[serde(default)]
    pub(crate) connections: Option<At<RawConnections>>,
}

/// How many connections may begin.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "ConnectionRate")]
pub(crate) struct RawConnections {
    /// In a second, over time.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) per_second: At<u64>,
    /// At once, after a time without any. As `per_second`, if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) burst: Option<At<u64>>,
}
