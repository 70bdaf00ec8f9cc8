//! What the modes make of the policy: what was denied on paper, and what a rule on paper would have
//! allowed.

use std::collections::HashMap;

use agentguard_model::{
    ActionKind, AgentName, Decision, DecisionId, Matched, Mode, ReasonCode, Verdict,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::replay::{By, MAX_GROUPS, destination, example, tally};

/// What decisions come to that said something else than was done. Each counts as the attempts that it
/// stands for.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// How many decisions were looked at.
    pub decisions: u64,
    /// How many attempts they stand for.
    pub attempts: u64,
    /// The time of the oldest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// The time of the newest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Timestamp>,
    /// What went on and would be denied if the mode were `enforce`, the most frequent first.
    pub would_be_denied: Vec<Difference>,
    /// What went on and would be changed, or changed further, if the mode were `enforce`, the most frequent first.
    pub would_be_modified: Vec<Difference>,
    /// What was denied and would be allowed if a rule on paper were in force, the most frequent first.
    pub would_be_allowed: Vec<Difference>,
    /// Attempts that would be denied, changed or allowed and stand in none of the groups, of which there are too
    /// many.
    pub ungrouped: u64,
    /// Denied attempts that met rules of an earlier policy which may have allowed them on paper: the
    /// policy in force does not tell.
    pub of_earlier_policies: u64,
    #[serde(skip)]
    places: HashMap<Same, usize>,
}

/// What would become of it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Would {
    Deny,
    Modify,
    Allow,
}

/// What equal differences have in common.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Same {
    would: Would,
    agent: Option<AgentName>,
    mode: Mode,
    kind: ActionKind,
    destination: String,
    by: By,
}

/// Equal differences between what was said and what was done.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// Whose.
    pub agent: Option<AgentName>,
    /// The mode because of which it was not done: the agent's or the rule's.
    pub mode: Mode,
    /// Of which kind of action.
    pub kind: ActionKind,
    /// Where to.
    pub destination: String,
    /// By which rule, or for what reason.
    pub by: By,
    /// How many attempts.
    pub count: u64,
    /// When the first of them was.
    pub first: Timestamp,
    /// When the last of them was.
    pub last: Timestamp,
    /// Some of the decisions, the newest.
    pub examples: Vec<DecisionId>,
}

/// The rules of the policy in force that allow something on paper alone, and their modes.
#[derive(Clone, Debug, Default)]
pub struct OnPaper {
    /// The policy's version.
    pub version: String,
    /// The rules, by their ids.
    pub allowances: HashMap<String, Mode>,
}

impl Report {
    /// Adds a decision. `on_paper` is absent where it may not be known.
    pub fn add(&mut self, decision: &Decision, on_paper: Option<&OnPaper>) {
        self.decisions += 1;
        tally(&mut self.attempts, decision.count);
        self.oldest = Some(
            self.oldest
                .map_or(decision.time, |it| it.min(decision.time)),
        );
        self.newest = Some(
            self.newest
                .map_or(decision.time, |it| it.max(decision.time)),
        );
        let would = match decision.verdict {
            Verdict::Allow | Verdict::Escalate => return,
            Verdict::Modify => Would::Modify,
            Verdict::Deny => Would::Deny,
        };
        if !decision.enforced {
            let by = By::new(&decision.reason, &decision.matched);
            self.count(decision, would, decision.mode, by);
        } else if let Some((rule, mode)) = changing_besides(decision) {
            let by = By {
                rule: Some(rule.clone()),
                reason: ReasonCode::RuleModify,
            };
            self.count(decision, Would::Modify, mode, by);
        } else if decision.reason.code == ReasonCode::NoRule
            && !decision.matched.is_empty()
            && let Some(on_paper) = on_paper
        {
            if decision.policy_version != on_paper.version {
                tally(&mut self.of_earlier_policies, decision.count);
            } else if let Some((rule, mode)) = granting(&decision.matched, on_paper) {
                let by = By {
                    rule: Some(rule.clone()),
                    reason: ReasonCode::RuleAllow,
                };
                self.count(decision, Would::Allow, mode, by);
            }
        }
    }

    /// Puts what is most frequent first.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        for differences in [
            &mut self.would_be_denied,
            &mut self.would_be_modified,
            &mut self.would_be_allowed,
        ] {
            differences.sort_by(|a, b| (b.count, &a.destination).cmp(&(a.count, &b.destination)));
        }
        self.places.clear();
        self
    }

    fn count(&mut self, decision: &Decision, would: Would, mode: Mode, by: By) {
        let same = Same {
            would,
            agent: decision.agent.as_ref().map(|agent| agent.name.clone()),
            mode,
            kind: decision.action.kind,
            destination: destination(&decision.action),
            by,
        };
        let differences = match would {
            Would::Deny => &mut self.would_be_denied,
            Would::Modify => &mut self.would_be_modified,
            Would::Allow => &mut self.would_be_allowed,
        };
        let last = decision.last.unwrap_or(decision.time);
        if let Some(place) = self.places.get(&same) {
            if let Some(found) = differences.get_mut(*place) {
                tally(&mut found.count, decision.count);
                found.first = found.first.min(decision.time);
                found.last = found.last.max(last);
                example(&mut found.examples, decision.id);
            }
            return;
        }
        if differences.len() >= MAX_GROUPS {
            tally(&mut self.ungrouped, decision.count);
            return;
        }
        self.places.insert(same.clone(), differences.len());
        differences.push(Difference {
            agent: same.agent,
            mode: same.mode,
            kind: same.kind,
            destination: same.destination,
            by: same.by,
            count: decision.count,
            first: decision.time,
            last,
            examples: vec![decision.id],
        });
    }
}

/// The first of the rules on paper that would change something besides what is changed, and the mode that keeps it from that.
fn changing_besides(decision: &Decision) -> Option<(&Matched, Mode)> {
    decision.changes.as_ref()?.on_paper.as_ref()?;
    // These stand before all that only allow.
    let mut matched = decision.matched.iter();
    matched.find_map(|matched| Some((matched, matched.on_paper?)))
}

/// The first of these rules that allows on paper. Where no rule in force matches, no denial does, so it
/// would allow the attempt.
fn granting<'a>(matched: &'a [Matched], on_paper: &OnPaper) -> Option<(&'a Matched, Mode)> {
    matched.iter().find_map(|matched| {
        let mode = on_paper.allowances.get(&matched.rule)?;
        Some((matched, *mode))
    })
}
