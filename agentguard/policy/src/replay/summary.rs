//! Equal changes counted together.

use std::collections::{BTreeMap, HashMap};

use agentguard_model::{Action, ActionKind, AgentName, Decision, DecisionId, Transport};
use jiff::Timestamp;
use serde::Serialize;

use super::{By, Replayed, State, Told};

/// The most groups of changes that are kept, and the most reasons for which something cannot be told.
/// What would be one more is counted without being told apart.
pub const MAX_GROUPS: usize = 1000;

/// How many decisions a group names, the newest ones.
pub const EXAMPLES: usize = 3;

/// What decisions that were replayed come to. Each counts as the attempts that it stands for.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// How many decisions were looked at.
    pub decisions: u64,
    /// The time of the oldest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// The time of the newest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Timestamp>,
    /// How many attempts they stand for, by what became of them.
    pub totals: Totals,
    /// What would change, the most frequent first.
    pub groups: Vec<Group>,
    /// Attempts that would change and stand in none of the groups, of which there are too many.
    pub ungrouped: u64,
    /// What cannot be told, the most frequent first.
    pub untold: Vec<Untold>,
    #[serde(skip)]
    by_change: HashMap<Change, usize>,
    #[serde(skip)]
    by_reason: BTreeMap<String, usize>,
}

/// Numbers of attempts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Totals {
    /// All of them.
    pub attempts: u64,
    /// The same would be said and done.
    pub unchanged: u64,
    /// Something else would be said, or done.
    pub changed: u64,
    /// Of these: another verdict.
    pub said_otherwise: u64,
    /// Of these: what went on would not, or would be changed in it where nothing was; or the reverse.
    pub done_otherwise: u64,
    /// It depends on what was not recorded.
    pub cannot_tell: u64,
    /// The policy did not give it.
    pub not_the_policys: u64,
}

/// What equal changes have in common.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
struct Change {
    agent: Option<AgentName>,
    kind: ActionKind,
    destination: String,
    was: State,
    would_be: State,
    before: By,
    after: By,
}

/// Equal changes.
#[derive(Debug, Serialize)]
pub struct Group {
    /// Whose.
    pub agent: Option<AgentName>,
    /// Of which kind of action.
    pub kind: ActionKind,
    /// Where to.
    pub destination: String,
    /// What was said.
    pub was: State,
    /// What would be.
    pub would_be: State,
    /// What decided.
    pub before: By,
    /// What would decide.
    pub after: By,
    /// How many attempts.
    pub count: u64,
    /// Some of the decisions, the newest.
    pub examples: Vec<DecisionId>,
}

/// Decisions of which it cannot be told what they would be, for one reason.
#[derive(Debug, Serialize)]
pub struct Untold {
    /// Why.
    pub why: String,
    /// How many attempts.
    pub count: u64,
    /// Some of the decisions, the newest.
    pub examples: Vec<DecisionId>,
}

impl Summary {
    /// Adds what a decision would be.
    pub fn add(&mut self, decision: &Decision, replayed: Replayed) {
        let count = decision.count;
        self.decisions += 1;
        self.oldest = Some(
            self.oldest
                .map_or(decision.time, |it| it.min(decision.time)),
        );
        self.newest = Some(
            self.newest
                .map_or(decision.time, |it| it.max(decision.time)),
        );
        let totals = &mut self.totals;
        tally(&mut totals.attempts, count);
        match replayed {
            Replayed::NotThePolicys => tally(&mut totals.not_the_policys, count),
            Replayed::CannotTell(why) => {
                tally(&mut totals.cannot_tell, count);
                self.cannot_tell(decision, why);
            }
            Replayed::Told(told) if !told.changed() => tally(&mut totals.unchanged, count),
            Replayed::Told(told) => {
                tally(&mut totals.changed, count);
                if told.was.verdict != told.would_be.verdict {
                    tally(&mut totals.said_otherwise, count);
                }
                if told.done_otherwise() {
                    tally(&mut totals.done_otherwise, count);
                }
                self.changed(decision, told);
            }
        }
    }

    /// Puts what is most frequent first.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.groups
            .sort_by(|a, b| (b.count, &a.destination).cmp(&(a.count, &b.destination)));
        self.untold
            .sort_by(|a, b| (b.count, &a.why).cmp(&(a.count, &b.why)));
        self.by_change.clear();
        self.by_reason.clear();
        self
    }

    fn changed(&mut self, decision: &Decision, told: Told) {
        let change = Change {
            agent: decision.agent.as_ref().map(|agent| agent.name.clone()),
            kind: decision.action.kind,
            destination: destination(&decision.action),
            was: told.was,
            would_be: told.would_be,
            before: told.before,
            after: told.after,
        };
        if let Some(group) = self.by_change.get(&change) {
            if let Some(group) = self.groups.get_mut(*group) {
                tally(&mut group.count, decision.count);
                example(&mut group.examples, decision.id);
            }
            return;
        }
        if self.groups.len() >= MAX_GROUPS {
            tally(&mut self.ungrouped, decision.count);
            return;
        }
        self.by_change.insert(change.clone(), self.groups.len());
        let Change {
            agent,
            kind,
            destination,
            was,
            would_be,
            before,
            after,
        } = change;
        self.groups.push(Group {
            agent,
            kind,
            destination,
            was,
            would_be,
            before,
            after,
            count: decision.count,
            examples: vec![decision.id],
        });
    }

    fn cannot_tell(&mut self, decision: &Decision, why: String) {
        if let Some(untold) = self.by_reason.get(&why) {
            if let Some(untold) = self.untold.get_mut(*untold) {
                tally(&mut untold.count, decision.count);
                example(&mut untold.examples, decision.id);
            }
            return;
        }
        if self.untold.len() >= MAX_GROUPS {
            return;
        }
        self.by_reason.insert(why.clone(), self.untold.len());
        self.untold.push(Untold {
            why,
            count: decision.count,
            examples: vec![decision.id],
        });
    }
}

/// Counts attempts. How many there were is the word of the worker, who may say anything.
pub(crate) const fn tally(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

/// Keeps the newest [`EXAMPLES`], the newest first.
pub(crate) fn example(examples: &mut Vec<DecisionId>, id: DecisionId) {
    let place = examples.partition_point(|other| *other > id);
    examples.insert(place, id);
    examples.truncate(EXAMPLES);
}

/// Where an action goes, without what is asked for there.
pub(crate) fn destination(action: &Action) -> String {
    let host = match (&action.host, action.ip) {
        (Some(name), _) => name.to_string(),
        (None, Some(ip)) if ip.is_ipv6() && action.port.is_some() => format!("[{ip}]"),
        (None, Some(ip)) => ip.to_string(),
        (None, None) => String::new(),
    };
    let udp = match action.transport {
        Some(Transport::Udp) => "/udp",
        Some(Transport::Tcp) | None => "",
    };
    match action.port {
        // The port of a query is that of a resolver, and says nothing.
        Some(port) if action.kind != ActionKind::DnsQuery => format!("{host}:{port}{udp}"),
        _ => host,
    }
}
