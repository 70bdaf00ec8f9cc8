//! What agents are held to, and what was found of that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use agentguard_keeper::message::ToWorker;
use agentguard_keeper::resources::usage::{self, Counts, Due};
use agentguard_model::{
    AgentId, AgentName, Awaited, Pressure, ResourceEvent, ResourceLimits, ResourceUsage,
};
use agentguard_policy::OnMissing;

use super::super::resources::{Bounded, Looking, Taken};
use super::{Keeper, TOLD};

/// Agents in one message, so that it fits a packet: one takes some 300 bytes.
const TOLD_AT_ONCE: usize = 128;

impl Keeper {
    /// One look at a time.
    pub(in super::super) fn looking_at_resources(&self) -> Arc<Mutex<Looking>> {
        self.looking_at_resources.clone()
    }

    /// Where cgroups are mounted, and the root of all agents.
    pub(in super::super) fn hierarchy(&self) -> (PathBuf, PathBuf) {
        (self.mount.clone(), self.config.paths.cgroup_root.clone())
    }

    /// What an agent is held to, and what becomes of it where that cannot be.
    pub(in super::super) fn limits_of(&self, name: &AgentName) -> (ResourceLimits, OnMissing) {
        let agent = self.policy.agent(name);
        agent.map_or_else(Default::default, |agent| {
            (agent.limits(), agent.resources.missing)
        })
    }

    /// Every agent that has cgroups.
    pub(in super::super) fn bounded(&self) -> Vec<Bounded> {
        let mut all: BTreeMap<AgentId, Bounded> = BTreeMap::new();
        for subtree in self.subtrees.values().filter(|subtree| subtree.run == 0) {
            let bounded = all.entry(subtree.agent).or_insert_with(|| {
                let name = self.registry.name(subtree.agent);
                let agent = name.and_then(|name| self.policy.agent(name));
                Bounded {
                    agent: subtree.agent,
                    limits: agent.map(|agent| agent.limits()),
                    cgroups: Vec::new(),
                }
            });
            bounded.cgroups.push(subtree.path.clone());
        }
        all.into_values().collect()
    }

    /// What a look found.
    pub(in super::super) fn note_resources(&mut self, taken: Vec<Taken>) {
        let there = |agent: &AgentId| self.subtrees.values().any(|it| it.agent == *agent);
        self.unbounded.retain(|agent, _| there(agent));
        let usage: Vec<(AgentId, ResourceUsage)> = taken
            .iter()
            .map(|taken| (taken.agent, taken.usage.clone()))
            .collect();
        for usage in usage.chunks(TOLD_AT_ONCE) {
            self.tell(&ToWorker::Usage(usage.to_vec()));
        }
        for Taken { agent, lacks, .. } in taken {
            let before = self.unbounded.get(&agent).map_or(&[][..], Vec::as_slice);
            let name = self.registry.name(agent).map(ToString::to_string);
            for lack in lacks.iter().filter(|it| !before.contains(it)) {
                tracing::warn!(agent = name, "{lack}");
            }
            if lacks.is_empty() && !before.is_empty() {
                tracing::info!(agent = name, "no limit of its is missing any more");
            }
            match lacks.is_empty() {
                true => drop(self.unbounded.remove(&agent)),
                false => drop(self.unbounded.insert(agent, lacks)),
            }
        }
    }

    /// The limits that an agent is not held to, a sentence each.
    pub(in super::super) fn unbounded(&self, agent: AgentId) -> impl Iterator<Item = String> {
        self.unbounded.get(&agent).cloned().into_iter().flatten()
    }

    /// The first of the agents that are not held to all of their limits.
    pub(in super::super) fn unbounded_agents(
        &self,
    ) -> impl Iterator<Item = (&AgentName, &[String])> {
        let named = self
            .unbounded
            .iter()
            .filter_map(|(agent, lacks)| Some((self.registry.name(*agent)?, lacks.as_slice())));
        named.take(TOLD)
    }

    /// Has recorded what happened in a cgroup since it was told up to `told`, and gives that. While there is no
    /// worker nothing is told, and it is with the next look.
    pub(in super::super) fn tell_resources(
        &self,
        agent: AgentId,
        cgroup: &Path,
        told: Counts,
        usage: &ResourceUsage,
        due: Due,
    ) -> Vec<ResourceEvent> {
        let mut now = told;
        let events = usage::events(&mut now, usage, due);
        // Somebody else may have told it meanwhile: both hold the lock.
        if self.worker.is_none() || events.is_empty() || Counts::told(cgroup) != Some(told) {
            return Vec::new();
        }
        now.note(cgroup);
        for &event in &events {
            self.tell(&ToWorker::Resource { agent, event });
        }
        events
    }

    /// Has recorded that an agent waits for a resource. `false`: there is no worker to do it.
    pub(in super::super) fn tell_pressure(
        &self,
        agent: AgentId,
        awaited: Awaited,
        pressure: Pressure,
    ) -> bool {
        let event = ResourceEvent::Pressure { awaited, pressure };
        self.tell(&ToWorker::Resource { agent, event });
        self.worker.is_some()
    }

    /// As [`Self::tell_resources`], of a cgroup that is about to be removed. A few files are read, of a cgroup in
    /// which nothing lives.
    pub(super) fn tell_last_resources(&self, agent: AgentId, cgroup: &Path) {
        if let Some(told) = Counts::told(cgroup) {
            self.tell_resources(agent, cgroup, told, &usage::of(cgroup), Due::default());
        }
    }
}
