//! What an agent may take of its host, as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::RawSize;
use crate::yaml::At;

/// What each cgroup of an agent may take of its host, at most. Without a key there is no limit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Resources")]
pub(crate) struct RawResources {
    /// Processors: 1.5 is one and a half of them.
    #[serde(default)]
    #[schemars(with = "Option<RawProcessors>")]
    pub(crate) cpu: Option<At<String>>,
    /// Memory, above which the kernel kills processes of it: bytes, or with `KiB`, `MiB`, `GiB` or `TiB`.
    #[serde(default)]
    #[schemars(with = "Option<RawSize>")]
    pub(crate) memory: Option<At<String>>,
    /// Memory, above which the kernel slows it down and takes memory back. Below `memory`.
    #[serde(default)]
    #[schemars(with = "Option<RawSize>")]
    pub(crate) memory_high: Option<At<String>>,
    /// Processes and threads together.
    #[serde(default)]
    pub(crate) pids: Option<At<u64>>,
    /// What is read from and written to block devices.
    #[serde(default)]
    pub(crate) io: Option<At<Vec<At<RawIo>>>>,
    /// What becomes of runs where the host cannot set one of these. `refuse` if absent.
    #[serde(default)]
    pub(crate) missing: Option<OnMissing>,
}

/// What may be read from and written to a block device in a second.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a device with its limits")]
#[schemars(rename = "Io")]
pub(crate) struct RawIo {
    /// A whole block device: its node, as `/dev/vda`, or its number, as `"254:0"`.
    #[schemars(regex(pattern = r"^/dev/.|^[0-9]+:[0-9]+$"))]
    pub(crate) device: At<String>,
    /// Bytes read in a second, or with `KiB`, `MiB`, `GiB` or `TiB`.
    #[serde(default)]
    #[schemars(with = "Option<RawSize>")]
    pub(crate) read: Option<At<String>>,
    /// Bytes written in a second.
    #[serde(default)]
    #[schemars(with = "Option<RawSize>")]
    pub(crate) write: Option<At<String>>,
    /// Operations that read, in a second.
    #[serde(default)]
    pub(crate) read_ops: Option<At<u64>>,
    /// Operations that write, in a second.
    #[serde(default)]
    pub(crate) write_ops: Option<At<u64>>,
}

/// What becomes of runs where the host cannot set a limit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// They are refused.
    #[default]
    Refuse,
    /// They run without that limit, and operators are told.
    Warn,
}

/// Processors, for the schema.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Processors")]
#[expect(
    dead_code,
    reason = "it only describes what the loader reads from text"
)]
enum RawProcessors {
    /// As a number.
    Number(#[schemars(range(min = 0.01, max = 4096))] f64),
    /// As a text.
    Text(#[schemars(regex(pattern = r"^[0-9]+(\.[0-9]{1,3})?$"))] String),
}
