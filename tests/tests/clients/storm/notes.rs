//! What each side of a storm has noted of its calls.

use std::collections::{BTreeMap, HashMap};

use agentguard_model::{Decision, Verdict};
use agentguard_tests::{Guard, Process};
use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::room::all;

/// What a client has seen of a call.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Note {
    call: u64,
    pub(crate) status: u16,
    pub(crate) words: u64,
    /// Input and output.
    pub(crate) usage: [Option<u64>; 2],
    pub(crate) end: End,
    pub(crate) error: Option<String>,
    /// What a refusal says of whether to try again, or in how many seconds.
    pub(crate) retry: Option<String>,
}

/// How a call ended for its client.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Done,
    /// It went away.
    Left,
    /// With another status.
    Refused,
    /// By an error in the stream.
    Error,
    Lost,
}

impl Note {
    /// Whether the guard ended it, or did not let it go, since too little was left.
    pub(crate) fn is_for_want(&self) -> bool {
        self.error
            .as_ref()
            .is_some_and(|it| it.contains("\"budget\"") || it.contains("budget `"))
    }

    /// The same, since the ledger was away.
    pub(crate) fn is_for_ledger(&self) -> bool {
        let away = "the ledger that hosts share does not answer";
        self.error.as_ref().is_some_and(|it| it.contains(away))
    }
}

/// What the provider bills for a call, and how that ended.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Bill {
    ends: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) how: String,
}

/// A call arrived, with this limit.
#[derive(Clone, Debug, Deserialize)]
struct Begin {
    begins: u64,
    limit: u64,
}

/// All lines of a kind that somebody printed.
fn lines<T: for<'a> Deserialize<'a>>(process: &Process) -> Vec<T> {
    let stdout = process.stdout();
    let whole = stdout.split_inclusive('\n').filter(|it| it.ends_with('\n'));
    whole
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

pub(crate) fn notes(clients: &[Process]) -> HashMap<u64, Note> {
    let notes = clients.iter().flat_map(lines::<Note>);
    notes.map(|note| (note.call, note)).collect()
}

/// The provider's books.
pub(crate) struct Provider(pub(crate) Process);

impl Provider {
    /// How many calls are under way at it, and how many are over.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let stdout = self.0.stdout();
        let (begun, over) = (
            stdout.matches("\"begins\"").count(),
            stdout.matches("\"ends\"").count(),
        );
        (begun.saturating_sub(over), over)
    }

    pub(crate) fn bills(&self) -> HashMap<u64, Bill> {
        let bills = lines::<Bill>(&self.0).into_iter();
        bills.map(|bill| (bill.ends, bill)).collect()
    }

    /// How many calls have told that they have written as much as they were to tell of.
    pub(crate) fn wrote(&self) -> usize {
        self.0.stdout().matches("\"wrote\"").count()
    }

    /// The limits with which calls arrived.
    pub(crate) fn limits(&self) -> HashMap<u64, u64> {
        let begun = lines::<Begin>(&self.0).into_iter();
        begun.map(|it| (it.begins, it.limit)).collect()
    }

    /// How many were under way at most.
    pub(crate) fn peak(&self) -> usize {
        let (mut now, mut peak) = (0_usize, 0);
        for line in self.0.stdout().lines() {
            if line.contains("\"begins\"") {
                now += 1;
            } else if line.contains("\"ends\"") {
                now -= 1;
            }
            peak = peak.max(now);
        }
        peak
    }
}

/// The record of calls that went, by their numbers, which are their traces.
pub(crate) fn recorded(guard: &Guard<'_>) -> Result<HashMap<u64, Decision>> {
    let mut decisions = all(guard)?;
    decisions.retain(|it| it.action.llm.is_some() && it.verdict != Verdict::Deny);
    let numbered = decisions.into_iter().map(|decision| {
        let trace = decision.trace_parent.context("no trace")?.trace_id();
        Ok((u64::from_str_radix(&trace, 16)?, decision))
    });
    numbered.collect()
}

/// An account, as the command line tells of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Told {
    account: String,
    pub(crate) used: u64,
    pub(crate) held: u64,
    pub(crate) limit: u64,
}

/// All accounts.
pub(crate) fn accounts(guard: &Guard<'_>) -> Result<BTreeMap<String, Told>> {
    let list = guard
        .cli()
        .args(["budget", "list", "-o", "json"])
        .run()?
        .success()?;
    let told: Vec<Told> = serde_json::from_str(&list.stdout)?;
    Ok(told
        .into_iter()
        .map(|it| (it.account.clone(), it))
        .collect())
}
