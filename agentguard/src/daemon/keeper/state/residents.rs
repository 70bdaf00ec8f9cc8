//! Where the guard listens for agents that it did not start.

use std::collections::{BTreeMap, HashSet};

use agentguard_common::map::listener_flag;
use agentguard_keeper::home::{self, NamespaceId};
use agentguard_keeper::message::ToWorker;
use agentguard_model::AgentId;

use super::super::residents::{Found, Homes, Opened, PER_AGENT, Resident, Residents};
use super::{Keeper, listeners, ports};

impl Keeper {
    /// Where agents live.
    pub(in super::super) fn homes(&self) -> Homes {
        // A run's cgroup is below its agent's.
        let tops = self.subtrees.values().filter(|subtree| subtree.run == 0);
        let cgroups = tops.map(|subtree| (subtree.agent, subtree.path.clone()));
        Homes {
            cgroups: cgroups.collect(),
            ports: ports(&self.config),
        }
    }

    /// What the last look found.
    pub(in super::super) fn residents(&mut self) -> &mut Residents {
        &mut self.residents
    }

    /// The namespaces in which the guard does not listen yet and should. Those beyond the bounds are noted.
    pub(in super::super) fn strange(
        &mut self,
        found: &Found,
        limit: usize,
    ) -> Vec<(NamespaceId, AgentId, u32)> {
        let own = self.own_namespaces();
        let mut counts: BTreeMap<AgentId, usize> = BTreeMap::new();
        let mut all = 0;
        for (id, resident) in &self.residents.open {
            if found.namespaces.contains_key(id) {
                *counts.entry(resident.agent).or_default() += 1;
                all += 1;
            }
        }
        let mut beyond: BTreeMap<AgentId, usize> = BTreeMap::new();
        let mut strange = Vec::new();
        for (id, (agent, thread)) in &found.namespaces {
            if own.contains(id) || self.residents.open.contains_key(id) {
                continue;
            }
            let count = counts.entry(*agent).or_default();
            if *count >= PER_AGENT || all >= limit {
                *beyond.entry(*agent).or_default() += 1;
                continue;
            }
            *count += 1;
            all += 1;
            strange.push((*id, *agent, *thread));
        }
        for (agent, count) in &beyond {
            if !self.residents.beyond.contains_key(agent) {
                tracing::warn!(
                    agent = self.registry.name(*agent).map(ToString::to_string),
                    count,
                    limit = PER_AGENT,
                    "too many network namespaces; the guard does not listen in the rest"
                );
            }
        }
        self.residents.beyond = beyond;
        strange
    }

    /// Those in which it listens anyway.
    fn own_namespaces(&self) -> HashSet<NamespaceId> {
        let runs = self.runs.values();
        let isolated = runs.filter_map(|run| run.isolated.as_ref());
        isolated
            .filter_map(|isolated| NamespaceId::of(&isolated.handle).ok())
            .chain(self.host_namespace)
            .collect()
    }

    /// Takes in what was opened, and closes what nobody lives in any more.
    pub(in super::super) fn settle(&mut self, found: Found, opened: Vec<Opened>) {
        if let Some(uncontained) = found.uncontained {
            for (agent, what) in &uncontained {
                if self.residents.uncontained.get(agent) != Some(what) {
                    tracing::warn!(
                        agent = self.registry.name(*agent).map(ToString::to_string),
                        "not contained: {}",
                        what.join("; ")
                    );
                }
            }
            self.residents.uncontained = uncontained;
        }
        let inhabited = |id: &NamespaceId| found.namespaces.contains_key(id);
        let left: Vec<NamespaceId> = self.residents.open.keys().copied().collect();
        for id in left.into_iter().filter(|id| !inhabited(id)) {
            if let Some(resident) = self.residents.open.remove(&id) {
                self.forget_listeners(resident.listening.netns);
            }
        }
        self.notice_routes(&found.namespaces);
        let before = std::mem::take(&mut self.residents.closed);
        for (id, agent, route_out, listening) in opened {
            let told = match listening {
                Ok(listening) => {
                    let resident = Resident {
                        agent,
                        listening,
                        route_out,
                    };
                    self.put_resident(&resident).map(|()| {
                        self.tell_listeners(&resident.listening);
                        self.residents.open.insert(id, resident);
                    })
                }
                Err(error) => Err(error.into()),
            };
            if let Err(error) = told {
                let why = format!("{error:#}");
                // A container that is being made has its loopback device down for a moment.
                if before.contains_key(&id) {
                    tracing::debug!(why, "the guard still does not listen in a namespace");
                } else {
                    tracing::warn!(
                        agent = self.registry.name(agent).map(ToString::to_string),
                        why,
                        "the guard does not listen in a network namespace; what needs it is refused there"
                    );
                }
                self.residents.closed.insert(id, (agent, why));
            }
        }
    }

    /// A namespace can get and lose its way out.
    fn notice_routes(&mut self, found: &BTreeMap<NamespaceId, (AgentId, u32)>) {
        let mut open = std::mem::take(&mut self.residents.open);
        for (id, resident) in &mut open {
            let now = found
                .get(id)
                .and_then(|(_, thread)| home::has_route_out(*thread));
            if let Some(now) = now.filter(|now| *now != resident.route_out) {
                resident.route_out = now;
                if let Err(error) = self.put_resident(resident) {
                    tracing::warn!(error = format!("{error:#}"), "cannot tell the gate");
                }
            }
        }
        self.residents.open = open;
    }

    fn put_resident(&mut self, resident: &Resident) -> anyhow::Result<()> {
        let mut entry = listeners(&self.config, &resident.listening);
        if !resident.route_out {
            entry.flags |= listener_flag::NO_UPLINK;
        }
        Ok(self.gate.put_listeners(resident.listening.netns, &entry)?)
    }

    fn forget_listeners(&mut self, netns: u64) {
        if let Err(error) = self.gate.remove_listeners(netns) {
            tracing::warn!(
                error = format!("{error:#}"),
                "a namespace stays in the gate"
            );
        }
        self.tell(&ToWorker::NoListeners { netns });
    }

    /// Takes namespaces out of the gate that an earlier daemon listened in: who still lives there is
    /// found again.
    pub(super) fn forget_earlier_namespaces(&mut self) -> anyhow::Result<()> {
        for netns in self.gate.listeners()? {
            if netns != self.host.netns {
                self.gate.remove_listeners(netns)?;
            }
        }
        Ok(())
    }
}
