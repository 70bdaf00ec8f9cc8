//! How much the record keeps.

use std::path::Path;

use agentguard_model::record::{AgentShare, RecordLimits};
use agentguard_policy::Diagnostic;
use agentguard_policy::yaml::At;
use schemars::JsonSchema;
use serde::Deserialize;

use super::file::Located;

const MIB: u64 = 1 << 20;
/// MiB of the record: a few segments at least.
const MAX_MIB: (u64, u64) = (256, 16 << 20);
/// Decisions of an agent in a second, and at once.
const DECISIONS: (u64, u64) = (1, 1_000_000);
/// MiB of an agent in a day.
const MIB_PER_DAY: (u64, u64) = (1, 1 << 20);

/// How much the record keeps.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`max_mib` and `agent_share`")]
#[schemars(rename = "Record")]
pub(super) struct RawRecord {
    /// How large it may become, in MiB; the oldest entries go for new ones. The index beside it needs about half as much
    /// again. Default: 10240.
    #[serde(default)]
    #[schemars(range(min = 256, max = 16_777_216))]
    max_mib: Option<At<u64>>,
    /// The share of each agent, over which what it would be allowed is refused.
    #[serde(default)]
    agent_share: Option<RawShare>,
}

/// The share of each agent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "`per_second`, `at_once` and `mib_per_day`"
)]
#[schemars(rename = "AgentShare")]
struct RawShare {
    /// Decisions in a second, in the long run. Default: 500.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    per_second: Option<At<u64>>,
    /// Decisions at once, after a rest. Default: 5000.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    at_once: Option<At<u64>>,
    /// MiB in 24 hours. Default: 512.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_048_576))]
    mib_per_day: Option<At<u64>>,
}

/// Reads the key's value.
pub(super) fn check(file: &Path, raw: RawRecord, faults: &mut Vec<Diagnostic>) -> RecordLimits {
    let default = RecordLimits::default();
    let share = default.agent_share;
    let said = raw.agent_share.unwrap_or_default();
    let mut check = Check { file, faults };
    let mut number = |key, raw, default, range| check.number(key, raw, default, range);
    let max_bytes = MIB * number("max_mib", raw.max_mib, default.max_bytes / MIB, MAX_MIB);
    let per_second = number(
        "per_second",
        said.per_second,
        share.per_second.into(),
        DECISIONS,
    );
    let at_once = number("at_once", said.at_once, share.at_once.into(), DECISIONS);
    let per_day = share.bytes_per_day / MIB;
    let bytes_per_day = MIB * number("mib_per_day", said.mib_per_day, per_day, MIB_PER_DAY);
    // What does not fit is out of range, and has been told.
    let decisions = |number| u32::try_from(number).unwrap_or(u32::MAX);
    RecordLimits {
        max_bytes,
        agent_share: AgentShare {
            per_second: decisions(per_second),
            at_once: decisions(at_once),
            bytes_per_day,
        },
    }
}

struct Check<'a> {
    file: &'a Path,
    faults: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    /// The number that was written, or the default; one that is out of range is told, and is the nearest that is not.
    fn number(
        &mut self,
        key: &str,
        raw: Option<At<u64>>,
        default: u64,
        (least, most): (u64, u64),
    ) -> u64 {
        let number = Located::of(raw, || default);
        if !(least..=most).contains(&number.value) {
            let message = format!("`{key}` is {}", number.value);
            let hint = format!("choose {least} to {most}, or leave it out for {default}");
            self.faults.push(number.fault(self.file, message, &hint));
        }
        number.value.clamp(least, most)
    }
}
