//! What the worker is told.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use agentguard_keeper::documents;
use agentguard_keeper::message::{AgentState, Start, State, ToWorker};
use agentguard_keeper::namespace::Listening;
use agentguard_model::{AgentId, AgentName};

use super::super::Sockets;
use super::super::outgoing::Outgoing;
use super::runs::populated;
use super::{Keeper, Run, epoch_seconds};

/// Bytes of agents in one state message, so that it fits a packet. What is beyond is governed and
/// not listed, and how many they are is told.
const TOLD_BYTES: usize = 64 * 1024;
/// Bytes of cgroups that carry the gate, in the same message.
const TOLD_ATTACHED: usize = 16 * 1024;
/// Bytes that are counted for a quota there.
const TOLD_QUOTA: usize = 96;
/// Cgroups listed of one agent.
const TOLD_CGROUPS: usize = 16;

impl Keeper {
    /// A new worker: tells it all.
    pub(in super::super) fn welcome(
        &mut self,
        worker: Arc<Outgoing>,
        sockets: &Sockets,
    ) -> anyhow::Result<()> {
        let view = self.gate.view_descriptors()?;
        let mut descriptors: Vec<_> = view.iter().map(|fd| fd.as_fd()).collect();
        descriptors.extend(sockets.metrics.as_ref().map(|fd| fd.as_fd()));
        descriptors.push(sockets.control.as_fd());
        descriptors.push(sockets.agents.as_fd());
        let mut telemetry = self.config.telemetry.clone();
        // Where nobody listens nobody is served; `degraded` says so.
        telemetry.prometheus = telemetry.prometheus.filter(|_| sockets.metrics.is_some());
        let start = Start {
            state_dir: self.config.paths.state_dir.clone(),
            resolvers: self.config.resolvers.clone(),
            upstreams: self.config.upstreams.clone(),
            groups: self.groups,
            degraded: self.degraded(),
            keeper: std::process::id(),
            telemetry,
            ledger: self.config.ledger.clone(),
            record: self.config.record,
        };
        worker.tell(&ToWorker::Start(Box::new(start)), &descriptors)?;
        self.worker = Some(worker);
        self.workers += 1;
        self.stuck.set(false);
        let policy = self.policy.clone();
        let names: Vec<AgentName> = policy
            .agents()
            .iter()
            .map(|agent| agent.name.clone())
            .chain(self.registry.adopted().values().cloned())
            .collect();
        for name in names {
            let id = self.registry.number(&name)?;
            self.tell(&ToWorker::Agent { id, name });
        }
        for cgroup in self.governed() {
            self.tell_governed(cgroup, true);
        }
        self.tell_policy();
        self.tell_switches();
        for name in self.registry.quarantined().keys() {
            self.tell_quarantine(name, true);
        }
        self.tell_deeds();
        for (number, run) in &self.runs {
            self.tell_run(*number, run);
        }
        self.tell_listeners(&self.host);
        for resident in self.residents.open.values() {
            self.tell_listeners(&resident.listening);
        }
        self.tell_state();
        self.tell(&ToWorker::Serve);
        Ok(())
    }

    pub(super) fn degraded(&self) -> Vec<String> {
        let mut degraded = Vec::new();
        if let Some(why) = self.gate.executables_unknown() {
            degraded.push(format!("the executable of a process is not known: {why}"));
        }
        if let Some(why) = self.gate.devices_unknown() {
            degraded.push(format!(
                "devices whose numbers differ from host to host are not refused: {why}"
            ));
        }
        degraded.extend_from_slice(self.gate.lsm_lacks());
        if self.host.v6.is_none() {
            degraded.push("no IPv6: agents' IPv6 connections are refused".to_owned());
        }
        if agentguard_keeper::spawn::landlock::abi() == 0 {
            let lack = "no Landlock: the worker is held by its mounts, its user and its system calls alone";
            degraded.push(lack.to_owned());
        }
        degraded.extend(self.sandbox.lacks());
        degraded.extend_from_slice(&self.unopened);
        degraded
    }

    pub(super) fn tell_policy(&self) {
        match documents::seal(&self.handed) {
            Ok(file) => self.tell_with(
                &ToWorker::Policy {
                    generation: self.generation,
                },
                &[file.as_fd()],
            ),
            Err(error) => tracing::error!(%error, "cannot hand the policy to the worker"),
        }
    }

    pub(super) fn tell_run(&self, number: u32, run: &Run) {
        if let Some(name) = self.registry.name(run.agent) {
            self.tell(&ToWorker::Agent {
                id: run.agent,
                name: name.clone(),
            });
        }
        self.tell(&ToWorker::Run {
            run: number,
            agent: run.agent,
            context: run.context.clone(),
            labels: run.labels.clone(),
        });
        if let Some(isolated) = &run.isolated {
            self.tell_listeners(&isolated.listening);
        }
    }

    pub(super) fn tell_listeners(&self, listening: &Listening) {
        self.tell_with(
            &ToWorker::Listeners {
                netns: listening.netns,
                v6: listening.v6.is_some(),
            },
            &listening.descriptors(),
        );
    }

    pub(in super::super) fn tell_state(&self) {
        let mut agents: BTreeMap<AgentId, AgentState> = BTreeMap::new();
        for subtree in self.subtrees.values() {
            let Some(name) = self.registry.name(subtree.agent) else {
                continue;
            };
            let agent = agents.entry(subtree.agent).or_insert_with(|| AgentState {
                name: name.clone(),
                id: subtree.agent,
                cgroups: Vec::new(),
                runs: 0,
                quarantine: self.registry.quarantined().get(name).cloned(),
                quota: self.quota_of(name),
                warnings: self.warnings(subtree.agent),
            });
            // A run's cgroup is its agent's cgroup and its number.
            if subtree.run == 0 && agent.cgroups.len() < TOLD_CGROUPS {
                agent.cgroups.push(subtree.path.display().to_string());
            }
            agent.runs += u32::from(subtree.run != 0);
        }
        // Also those that nothing runs as.
        let quarantined = self.registry.quarantined().keys();
        let others = quarantined.chain(self.registry.adopted().values());
        let metered = self.policy.agents().iter();
        let metered = metered.filter(|agent| agent.quota.is_some());
        let others = others.chain(metered.map(|agent| &agent.name));
        for name in others.chain(self.unheld.keys()) {
            if let Some(id) = self.registry.known_number(name) {
                agents.entry(id).or_insert_with(|| AgentState {
                    name: name.clone(),
                    id,
                    cgroups: Vec::new(),
                    runs: 0,
                    quarantine: self.registry.quarantined().get(name).cloned(),
                    quota: self.quota_of(name),
                    warnings: self.warnings(id),
                });
            }
        }
        let (attached, attached_more) = self.attached();
        let mut room = TOLD_BYTES;
        let fits = |agent: &AgentState| {
            let texts = agent.cgroups.iter().map(|path| path.len() + 8);
            let reason = agent.quarantine.as_ref().and_then(|it| it.reason.as_ref());
            let bytes = texts.sum::<usize>()
                + agent.name.as_str().len()
                + reason.map_or(0, String::len)
                + agent.quota.as_ref().map_or(0, |_| TOLD_QUOTA)
                + agent.warnings.iter().map(|it| it.len() + 8).sum::<usize>()
                + 32;
            let fits = room > bytes;
            room -= if fits { bytes } else { 0 };
            fits
        };
        // What operators have to see comes first, and last what only has a quota.
        let rank =
            |agent: &AgentState| match agent.quarantine.is_none() && agent.warnings.is_empty() {
                false => 0,
                true if agent.runs != 0 || !agent.cgroups.is_empty() => 1,
                true => 2,
            };
        let governed = |agents: &[AgentState]| agents.iter().filter(|it| rank(it) < 2).count();
        let mut agents: Vec<AgentState> = agents.into_values().collect();
        agents.sort_by_key(rank);
        let all = governed(&agents);
        let agents: Vec<AgentState> = agents.into_iter().filter(fits).collect();
        let state = State {
            unlisted: all.saturating_sub(governed(&agents)),
            agents,
            attached,
            attached_more,
            programs: self
                .gate
                .programs()
                .iter()
                .map(|program| (program.name.to_owned(), program.verified_instructions))
                .collect(),
            policy_loaded: epoch_seconds(self.policy_loaded),
            oldest: self.oldest(),
            policy_error: self
                .policy_error
                .as_ref()
                .map(|error| error.chars().take(4096).collect()),
            leaves: self.ca.counts(),
            workers: self.workers,
            reloads: self.reloads,
        };
        self.mention(&ToWorker::State(Box::new(state)));
    }

    /// Nobody below this cgroup may use the control socket, or they may again.
    pub(super) fn tell_governed(&self, cgroup: String, governed: bool) {
        self.tell(&ToWorker::Governed { cgroup, governed });
    }

    /// The cgroups of [`Self::governed`] that are there, as many as a message has room for, and how many
    /// more there are.
    fn attached(&self) -> (Vec<String>, usize) {
        let paths = self.governed_paths().filter(|path| {
            let held = *path != self.config.paths.cgroup_root || self.root.id().is_some();
            held && !self.ungoverned.contains_key(*path) && path.exists()
        });
        let mut room = TOLD_ATTACHED;
        let mut more = 0;
        let fits = |path: &String| {
            let bytes = path.len() + 8;
            let fits = more == 0 && room >= bytes;
            room -= if fits { bytes } else { 0 };
            more += usize::from(!fits);
            fits
        };
        let attached = paths
            .filter_map(|path| self.shown(path))
            .filter(fits)
            .collect();
        (attached, more)
    }

    /// What operators should know of an agent, a sentence each.
    fn warnings(&self, agent: AgentId) -> Vec<String> {
        let mut warnings: Vec<String> = self.root.failed().map(str::to_owned).into_iter().collect();
        warnings.extend(self.ungoverned(agent));
        warnings.extend(self.unheld(agent));
        warnings.extend(self.residents.warnings(agent));
        warnings.extend(self.unbounded(agent));
        warnings
    }

    /// An agent's own directory may stay when its runs are gone: only what holds processes counts.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.subtrees
            .values()
            .filter(|subtree| populated(&subtree.path))
            .map(|subtree| subtree.since)
            .min()
    }

    pub(in super::super) fn tell(&self, message: &ToWorker) {
        self.tell_with(message, &[]);
    }

    /// Never waits. A worker that cannot be told is replaced by the supervisor.
    pub(super) fn tell_with(&self, message: &ToWorker, descriptors: &[BorrowedFd<'_>]) {
        let Some(worker) = &self.worker else {
            return;
        };
        let was_over = worker.is_over();
        if let Err(error) = worker.tell(message, descriptors)
            && !was_over
        {
            tracing::error!(%error, "the worker is not told any more");
        }
    }

    /// Says what is said again in a second: a full queue is no reason to wait.
    fn mention(&self, message: &ToWorker) {
        let Some(worker) = &self.worker else {
            return;
        };
        if let Err(error) = worker.mention(message) {
            tracing::warn!(%error, "the worker does not listen, or the state is too much to be told");
        }
    }
}
