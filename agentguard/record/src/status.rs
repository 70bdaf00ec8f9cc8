//! How the record is doing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How the record is doing.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// How many entries it holds: decisions, outcomes, counts, gaps and notes.
    pub entries: u64,
    /// In how many segments.
    pub segments: u64,
    /// How many bytes the segments have.
    pub bytes: u64,
    /// How long ago the disk last said that everything is safe, in ms. Absent before the first time.
    pub last_fsync_age_ms: Option<u64>,
    /// Present while decisions cannot be recorded, or not made safe.
    pub degraded: Option<Degraded>,
    /// How many decisions were refused because they could not be recorded, since the start.
    pub refused: u64,
    /// How many decisions were refused because an agent was over its share, since the start.
    pub refused_by_quota: u64,
    /// How many gaps were recorded since the start.
    pub gaps: u64,
    /// How many entries and events these say are lost, as far as that is known.
    #[serde(default)]
    pub lost: u64,
    /// How many contents were not kept that were to be, since the start: there were too many at once, or the disk refused
    /// them.
    #[serde(default)]
    pub contents_left_out: u64,
    /// Stretches of the log that cannot be read. What lies around them is read.
    pub damage: Vec<Damage>,
    /// How many entries the index does not have yet; queries read these from the log.
    pub index_lag: u64,
}

/// Decisions cannot be recorded, or not made safe.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Degraded {
    /// Since when.
    pub since: Timestamp,
    /// Why, and what to do.
    pub error: String,
}

/// A stretch of the log that cannot be read.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How many bytes it has. 0 if something is missing rather than wrong.
    pub bytes: u64,
    /// How many entries are lost, where that is known.
    pub lost: Option<u64>,
    /// What happened and what to do, in a sentence.
    pub message: String,
}
