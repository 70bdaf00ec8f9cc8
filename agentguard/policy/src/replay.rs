//! Recorded decisions through another policy: what would change.
//!
//! ```text
//! Decision ──recorded──▶ what was attempted ──worlds──▶ Replayed ──summary──▶ Summary
//!                           └─ what the record lacks
//! ```
//! - `recorded`: which of a decision is the policy's, and what the record has of what was attempted.
//! - `labels`: which of the recorded labels were the run's own.
//! - `worlds`: what the candidate says, in all the ways in which what is not recorded may have been.
//! - `changed`: whether the same would be changed in it.
//! - `summary`: equal changes counted together, with examples.
//!
//! **Invariant:** nothing is guessed. Where what the record does not have could matter, the answer is
//! that it cannot be told, and why.

mod changed;
mod labels;
mod recorded;
mod summary;
mod worlds;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use agentguard_model::{AgentName, Decision, Labels, Matched, Reason, ReasonCode, Verdict};
use http::header::HeaderName;
use ipnet::IpNet;
use serde::Serialize;

use crate::explain::{Condition, Consideration};
use crate::index::Position;
use crate::policy::Policy;
use crate::rule::Seen;
use crate::table::{Near, deciding};
use recorded::{Attempted, Unread};
use worlds::Said;

pub use summary::{EXAMPLES, Group, MAX_GROUPS, Summary, Totals, Untold};
pub(crate) use summary::{destination, example, tally};

/// A candidate through which decisions are replayed.
pub struct Replay<'a> {
    policy: &'a Policy,
    /// The header fields that a policy looked at, and the record has for that, by its version.
    looked_at: HashMap<String, HashSet<HeaderName>>,
    /// The denials by address that are for an agent.
    by_address: HashMap<AgentName, Vec<Position>>,
    closed: Closed<'a>,
    /// See [`Self::beside`].
    in_force: Option<&'a Policy>,
    /// See [`Self::labelled`].
    labelled: Option<(String, HashMap<AgentName, Labels>)>,
}

/// Whether an address cannot be behind a name, given the ranges that its rules open and whether the
/// agent is only observed: which ones are closed is not the policy's.
pub type Closed<'a> = &'a dyn Fn(IpAddr, &[IpNet], bool) -> bool;

impl fmt::Debug for Replay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Replay");
        shown.field("version", &self.policy.version());
        shown.finish_non_exhaustive()
    }
}

/// What was or would be said of an action.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct State {
    /// What the policy says.
    pub verdict: Verdict,
    /// Whether that is carried out.
    pub enforced: bool,
}

impl State {
    /// Whether it goes on.
    #[must_use]
    pub fn goes_on(self) -> bool {
        self.verdict != Verdict::Deny || !self.enforced
    }

    /// Whether it goes on with the changes that it says.
    #[must_use]
    pub fn changes(self) -> bool {
        self.verdict == Verdict::Modify && self.enforced
    }

    /// Whether the same is said and done. Of what goes on as it is it does not matter which mode lets it.
    #[must_use]
    pub fn is(self, other: Self) -> bool {
        self.verdict == other.verdict
            && self.goes_on() == other.goes_on()
            && self.changes() == other.changes()
    }
}

/// What decided: a rule, or for want of one the reason.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct By {
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Matched>,
    /// The reason's code.
    pub reason: ReasonCode,
}

impl By {
    pub(crate) fn new(reason: &Reason, matched: &[Matched]) -> Self {
        Self {
            rule: deciding(reason.code, matched).cloned(),
            reason: reason.code,
        }
    }
}

/// What a decision would be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Replayed {
    /// The policy did not give it, so no policy changes it: malformed input, a quarantine, an operator's
    /// act, a kind of action of which rules do not speak.
    NotThePolicys,
    /// It depends on what the record does not have.
    CannotTell(String),
    /// This.
    Told(Told),
}

/// What was said, and what would be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// What was said.
    pub was: State,
    /// What would be.
    pub would_be: State,
    /// What decided.
    pub before: By,
    /// What would.
    pub after: By,
    /// Whether other changes would be made than were, or none.
    pub changed_otherwise: bool,
    /// Whether other changes would be made in enforce mode than would have been, or none.
    pub changed_otherwise_on_paper: bool,
}

impl<'a> Replay<'a> {
    /// A candidate. `looked_at`: versions of policies under which decisions were taken, and the header
    /// fields that their rules look at. What the record has of a request under a version that is not
    /// among them is known; what it lacks may have been there.
    pub fn new(
        policy: &'a Policy,
        looked_at: impl IntoIterator<Item = (String, Vec<String>)>,
        closed: Closed<'a>,
    ) -> Self {
        let names = |names: Vec<String>| {
            let names = names.into_iter();
            names
                .filter_map(|name| HeaderName::try_from(name).ok())
                .collect()
        };
        let others = looked_at.into_iter();
        let mut looked_at: HashMap<_, _> = others.map(|(of, fields)| (of, names(fields))).collect();
        looked_at.insert(
            policy.version().to_owned(),
            policy.looked_at().fields().cloned().collect(),
        );
        Self {
            policy,
            looked_at,
            by_address: worlds::denials_by_address(policy),
            closed,
            in_force: None,
            labelled: None,
        }
    }

    /// With the policy in force: of decisions that it gave it has the values that its rules set, and the labels of its
    /// agents, which are not recorded.
    #[must_use]
    pub const fn beside(mut self, in_force: &'a Policy) -> Self {
        self.in_force = Some(in_force);
        self
    }

    /// With the labels that the policy of a version gives its agents: of decisions under it, others were the run's.
    #[must_use]
    pub fn labelled(
        mut self,
        version: impl Into<String>,
        agents: impl IntoIterator<Item = (AgentName, Labels)>,
    ) -> Self {
        self.labelled = Some((version.into(), agents.into_iter().collect()));
        self
    }

    /// What a decision would be.
    #[must_use]
    pub fn replay(&self, decision: &Decision) -> Replayed {
        let was = State {
            verdict: decision.verdict,
            enforced: decision.enforced,
        };
        let before = By::new(&decision.reason, &decision.matched);
        if decision.reason.code == ReasonCode::EngineError
            && decision.policy_version != self.policy.version()
        {
            let why = "an expression could not be evaluated on it then";
            return Replayed::CannotTell(why.to_owned());
        }
        let mut attempted = match recorded::attempted(decision, self.policy, &self.looked_at) {
            Ok(attempted) => attempted,
            Err(Unread::NotThePolicys) => return Replayed::NotThePolicys,
            Err(Unread::CannotTell(why)) => return Replayed::CannotTell(why),
        };
        let Some(name) = decision.agent.as_ref().map(|agent| &agent.name) else {
            return Replayed::NotThePolicys;
        };
        let Some(agent) = self.policy.agent(name) else {
            let would_be = State {
                verdict: Verdict::Deny,
                enforced: true,
            };
            let after = By {
                rule: None,
                reason: ReasonCode::NoAgent,
            };
            return Replayed::Told(Told::new((was, before), (would_be, after)));
        };
        let worlds = worlds::Worlds {
            policy: self.policy,
            agent,
            by_address: self.by_address.get(name).map_or(&[], Vec::as_slice),
            closed: self.closed,
        };
        let known = decision.policy_version == self.policy.version();
        // This very policy decided it, and knew what the record does not have.
        if known {
            return Replayed::Told(Told::new((was, before.clone()), (was, before)));
        }
        let outcomes = match self.labellings(decision, &worlds, &mut attempted) {
            Ok(outcomes) => outcomes,
            Err(why) => return Replayed::CannotTell(why),
        };
        // With ranks, what turns out for it may come to be against it; and so may an allowance that fails.
        let fails = |said: &Said| said.by.reason == ReasonCode::EngineError;
        if (self.policy.strategy().ranks() || outcomes.said.iter().any(fails))
            && let Some(why) = worlds.unknown(&attempted)
        {
            return Replayed::CannotTell(why);
        }
        let Some(first) = outcomes.said.first() else {
            return Replayed::NotThePolicys;
        };
        if outcomes.said.iter().all(|said| said.is(first)) {
            let after = first.by.clone();
            let mut told = Told::new((was, before), (first.state, after));
            match changed::compared(decision, first, || self.said_then(decision)) {
                Ok(differ) => {
                    told.changed_otherwise = differ.made;
                    told.changed_otherwise_on_paper = differ.on_paper;
                }
                Err(why) if !told.changed() => return Replayed::CannotTell(why.to_owned()),
                Err(_) => {}
            }
            return Replayed::Told(told);
        }
        Replayed::CannotTell(outcomes.why)
    }

    /// What the policy in force says of a decision that it gave, in all the ways in which what is not recorded may have
    /// been. Addresses behind names are left out: no changes depend on them.
    fn said_then(&self, decision: &Decision) -> Option<Vec<Said>> {
        let gave = |policy: &&Policy| policy.version() == decision.policy_version;
        let policy = self.in_force.filter(gave)?;
        let agent = policy.agent(&decision.agent.as_ref()?.name)?;
        let attempted = recorded::attempted(decision, policy, &self.looked_at).ok()?;
        let worlds = worlds::Worlds {
            policy,
            agent,
            by_address: &[],
            closed: self.closed,
        };
        Some(worlds.of(&attempted).said)
    }
}

impl Policy {
    /// What was considered for a decision, nearest first. None where the record does not have what it was about,
    /// nor for a name that was only asked for.
    #[must_use]
    pub fn considered(&self, decision: &Decision) -> Option<Considerations> {
        let agent = self.agent(&decision.agent.as_ref()?.name)?;
        let attempted = recorded::attempted(decision, self, &HashMap::new()).ok()?;
        let (flow, seen) = match &attempted {
            Attempted::Name(_) => return None,
            Attempted::Datagram(flow) | Attempted::Unseen(flow) => (flow, Seen::NotYet),
            Attempted::Unopened(flow, tls) => (flow, worlds::unread(*tls)),
            Attempted::Request(flow, asked) => (flow, Seen::Request(asked.request())),
        };
        let considered = self.explain(agent, &flow.facts(seen));
        let rules = considered.len();
        let here = considered.into_iter().filter(|it| match &it.verdict {
            Consideration::Failed(by) => !by.contains(&Condition::Destination),
            _ => true,
        });
        let here = here.map(Near::from).collect();
        Some(Considerations { rules, here })
    }
}

/// The rules that were considered for a decision.
#[derive(Clone, Debug)]
pub struct Considerations {
    /// How many rules there are for the agent.
    pub rules: usize,
    /// Those of them for where the decision was to, nearest first.
    pub here: Vec<Near>,
}

impl Told {
    fn new((was, before): (State, By), (would_be, after): (State, By)) -> Self {
        Self {
            was,
            would_be,
            before,
            after,
            changed_otherwise: false,
            changed_otherwise_on_paper: false,
        }
    }

    /// Whether another thing would be said or done.
    #[must_use]
    pub fn changed(&self) -> bool {
        !self.was.is(self.would_be) || self.changed_otherwise || self.changed_otherwise_on_paper
    }

    /// Whether another thing would be done: it would go on where it did not, or the reverse, or be changed where it
    /// was not, or the reverse.
    #[must_use]
    pub fn done_otherwise(&self) -> bool {
        self.was.goes_on() != self.would_be.goes_on()
            || self.was.changes() != self.would_be.changes()
            || self.changed_otherwise
    }
}
