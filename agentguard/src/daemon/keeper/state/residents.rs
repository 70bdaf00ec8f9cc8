//! Where the guard listens for agents that it did not start.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use agentguard_common::map::listener_flag;
use agentguard_keeper::home::{Known, NamespaceId, Seen, WayOut};
use agentguard_keeper::message::ToWorker;
use agentguard_model::AgentId;

use super::super::residents::{Found, Homes, Opened, Resident, Residents, per_agent, too_long};
use super::{Keeper, listeners, ports};

impl Keeper {
    /// Where agents live.
    pub(in super::super) fn homes(&self) -> Homes {
        let mut cgroups: BTreeMap<AgentId, Vec<PathBuf>> = BTreeMap::new();
        // A run's cgroup is below its agent's.
        for subtree in self.subtrees.values().filter(|subtree| subtree.run == 0) {
            let paths = cgroups.entry(subtree.agent).or_default();
            paths.push(subtree.path.clone());
        }
        let adopted = self.registry.adopted().values();
        Homes {
            cgroups,
            adopted: adopted
                .filter_map(|name| self.registry.known_number(name))
                .collect(),
            known: self.known_of_host(),
            ports: ports(&self.config),
        }
    }

    /// What is known of what processes have open.
    pub(in super::super) fn known_of_host(&self) -> Known {
        Known {
            refused: self.gate.refuses_strange_sockets(),
            devices: self.gate.devices().clone(),
        }
    }

    /// What the last looks found.
    pub(in super::super) fn residents(&self) -> &Residents {
        &self.residents
    }

    /// The namespaces in which the guard does not listen yet and should. Those beyond the bounds are noted.
    pub(in super::super) fn strange(
        &mut self,
        found: &[Found],
        limit: usize,
    ) -> Vec<(NamespaceId, AgentId, Seen)> {
        let own = self.own_namespaces();
        let mut counts: BTreeMap<AgentId, usize> = BTreeMap::new();
        for resident in self.residents.open.values() {
            *counts.entry(resident.agent).or_default() += 1;
        }
        let mut all = self.residents.open.len();
        let most = per_agent(limit);
        // Two agents may live in one.
        let mut taken = HashSet::new();
        let mut strange = Vec::new();
        for one in found {
            let count = counts.entry(one.agent).or_default();
            let mut beyond = 0;
            for (id, seen) in &one.namespaces {
                if own.contains(id) || self.residents.open.contains_key(id) || taken.contains(id) {
                    continue;
                }
                if *count >= most || all >= limit {
                    beyond += 1;
                    continue;
                }
                *count += 1;
                all += 1;
                taken.insert(*id);
                strange.push((*id, one.agent, *seen));
            }
            if beyond == 0 {
                self.residents.beyond.remove(&one.agent);
            } else if self.residents.beyond.insert(one.agent, beyond).is_none() {
                tracing::warn!(
                    agent = self.registry.name(one.agent).map(ToString::to_string),
                    count = beyond,
                    limit = most,
                    "too many network namespaces; the guard does not listen in the rest"
                );
            }
        }
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

    /// Takes in what a look found, and closes what nobody lives in any more. For an agent that was not
    /// looked at to the end nothing is closed: it may live where it was not seen.
    pub(in super::super) fn note(&mut self, homes: &Homes, found: &[Found]) {
        self.residents.looked = true;
        let there = |agent: &AgentId| homes.cgroups.contains_key(agent);
        let mut open = std::mem::take(&mut self.residents.open);
        for resident in open.values_mut() {
            resident.lives.retain(there);
        }
        self.residents.forget_others(there);
        for one in found {
            for (id, seen) in &one.namespaces {
                if let Some(resident) = open.get_mut(id) {
                    resident.lives.insert(one.agent);
                    self.notice_route(resident, seen.route_out);
                }
            }
            if one.is_all() {
                let elsewhere = open
                    .iter_mut()
                    .filter(|(id, _)| !one.namespaces.contains_key(id));
                for (_, resident) in elsewhere {
                    resident.lives.remove(&one.agent);
                }
            }
            self.note_agent(one);
        }
        let left: Vec<NamespaceId> = open
            .iter()
            .filter(|(_, resident)| resident.lives.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            if let Some(resident) = open.remove(&id) {
                self.forget_listeners(resident.listening.netns);
            }
        }
        for resident in open.values_mut() {
            // It counts for one who lives there.
            if !resident.lives.contains(&resident.agent)
                && let Some(agent) = resident.lives.first()
            {
                resident.agent = *agent;
            }
        }
        self.residents.open = open;
    }

    /// What operators are told of an agent.
    fn note_agent(&mut self, one: &Found) {
        let name = self.registry.name(one.agent).map(ToString::to_string);
        if let Some(what) = &one.uncontained {
            if what.is_empty() {
                self.residents.uncontained.remove(&one.agent);
            } else if self.residents.uncontained.get(&one.agent) != Some(what) {
                tracing::warn!(agent = name, "not contained: {}", what.join("; "));
                self.residents.uncontained.insert(one.agent, what.clone());
            }
            self.residents.past.insert(one.agent, one.past.clone());
        }
        if one.finished {
            let here = |id: &NamespaceId| one.namespaces.contains_key(id);
            let closed = &mut self.residents.closed;
            closed.retain(|id, (agent, _)| *agent != one.agent || here(id));
            let routes = one.namespaces.values().map(|seen| seen.route_out);
            match routes.filter(|it| *it == WayOut::Unknown).count() {
                0 => self.residents.unread.remove(&one.agent),
                count => self.residents.unread.insert(one.agent, count),
            };
        }
        if one.is_all() {
            self.residents.incomplete.remove(&one.agent);
        } else if !one.omitted.is_empty()
            && self.residents.incomplete.get(&one.agent) != Some(&one.omitted)
        {
            tracing::warn!(
                agent = name,
                "not looked through to the end: {}",
                one.omitted.join("; ")
            );
            self.residents
                .incomplete
                .insert(one.agent, one.omitted.clone());
        }
    }

    /// A look at an agent takes longer than somebody waits for it.
    pub(in super::super) fn note_long(&mut self, agent: AgentId, limit: Duration) {
        let omitted = self.residents.incomplete.entry(agent).or_default();
        let why = too_long(limit);
        if !omitted.contains(&why) {
            omitted.push(why);
        }
    }

    /// Takes in what was opened.
    pub(in super::super) fn settle(&mut self, opened: Vec<Opened>) {
        for (id, agent, route_out, listening) in opened {
            let told = match listening {
                Ok(listening) => {
                    let resident = Resident {
                        agent,
                        lives: BTreeSet::from([agent]),
                        listening,
                        route_out: route_out == WayOut::Open,
                    };
                    self.put_resident(&resident).map(|()| {
                        self.tell_listeners(&resident.listening);
                        self.residents.closed.remove(&id);
                        self.residents.open.insert(id, resident);
                    })
                }
                Err(error) => Err(error.into()),
            };
            if let Err(error) = told {
                let why = format!("{error:#}");
                // A container that is being made has its loopback device down for a moment.
                if self.residents.closed.contains_key(&id) {
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

    /// A namespace can get and lose its way out. One that is not known to be there is not taken: what
    /// could go directly goes through the proxy then, or is refused.
    fn notice_route(&mut self, resident: &mut Resident, route_out: WayOut) {
        let now = route_out == WayOut::Open;
        if resident.route_out != now {
            resident.route_out = now;
            if let Err(error) = self.put_resident(resident) {
                tracing::warn!(error = format!("{error:#}"), "cannot tell the gate");
            }
        }
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
