//! Who may run what.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::AgentName;

/// For each agent, the users that may run it besides root, by user id. An agent that is not here is
/// root's alone.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Users(BTreeMap<AgentName, BTreeSet<u32>>);

impl Users {
    /// A user may run an agent.
    pub fn add(&mut self, agent: AgentName, uid: u32) {
        self.0.entry(agent).or_default().insert(uid);
    }

    /// Whether a user may run an agent.
    #[must_use]
    pub fn may_run(&self, uid: u32, agent: &AgentName) -> bool {
        self.0.get(agent).is_some_and(|users| users.contains(&uid))
    }

    /// The users of an agent.
    pub fn of<'a>(&'a self, agent: &AgentName) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        static NOBODY: BTreeSet<u32> = BTreeSet::new();
        self.0.get(agent).unwrap_or(&NOBODY).iter().copied()
    }

    /// The agents that a user may run.
    pub fn agents_of(&self, uid: u32) -> impl Iterator<Item = &AgentName> {
        self.0
            .iter()
            .filter(move |(_, users)| users.contains(&uid))
            .map(|(agent, _)| agent)
    }
}
