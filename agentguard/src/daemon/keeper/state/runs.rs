//! Runs: a place for each command, cleared away when nothing lives in it any more.

use std::collections::HashSet;
use std::path::Path;

use agentguard_common::map::listener_flag;
use agentguard_keeper::cgroup::{self, Cgroup};
use agentguard_keeper::message::ToWorker;
use agentguard_keeper::namespace::Isolated;
use agentguard_keeper::spawn::RunContext;
use agentguard_model::{AgentId, AgentName, Labels};
use anyhow::{Context as _, ensure};

use super::{Keeper, Prepared, Run, Subtree, left, listeners, ports};

/// How deep the cgroups of a run may lie below its agent's. A run of root makes cgroups in its own; they
/// are looked at, and removed when it is over.
const MAX_DEPTH: u32 = 32;
/// How many cgroups an agent may have, its runs among them.
const MAX_DESCENDANTS: u32 = 16_384;

/// How many runs of an agent may be there at once, what they left in the background among them: a new
/// worker is told of all.
pub(super) const MAX_RUNS: usize = 1024;
/// How many of those may have a network namespace of their own.
const MAX_ISOLATED: usize = 256;

impl Keeper {
    /// A cgroup, and perhaps a namespace, for a command of an agent.
    pub(in super::super) fn prepare(
        &mut self,
        name: &AgentName,
        context: RunContext,
        labels: Labels,
        isolate: bool,
    ) -> anyhow::Result<Prepared> {
        ensure!(self.serving, "the daemon is not ready yet");
        let agent = self.registry.number(name)?;
        let own_runs = || self.runs.values().filter(|run| run.agent == agent);
        ensure!(
            own_runs().count() < MAX_RUNS,
            "{name} has {MAX_RUNS} runs, and no more at once; hint: something of each goes on in the background: end it"
        );
        ensure!(
            !isolate || own_runs().filter(|run| run.isolated.is_some()).count() < MAX_ISOLATED,
            "{name} has {MAX_ISOLATED} isolated runs, and no more at once; hint: something of each goes on in the background: end it"
        );
        let run = self.registry.next_run()?;
        let path = self
            .config
            .paths
            .cgroup_root
            .join(name.as_str())
            .join(format!("run-{run}"));
        let own = self.config.paths.cgroup_root.join(name.as_str());
        let is_there = own.exists();
        let own = Cgroup::create(&own)?;
        if !is_there {
            self.made.insert(own.id, agent);
        }
        cgroup::bound(&own.path, MAX_DEPTH, MAX_DESCENDANTS)
            .with_context(|| format!("cannot bound the cgroups below {}", own.path.display()))?;
        if !self.subtrees.contains_key(&own.id) {
            self.enrol(own.id, Subtree::new(own.path, agent, 0))?;
        }
        let cgroup = Cgroup::create(&path)?;
        left::note(&path, &context, &labels)?;
        // With this one in it the root stays, and may be another than a second ago.
        self.hold_root()?;
        let isolated = isolate
            .then(|| Isolated::new(ports(&self.config)))
            .transpose()?;
        let netns = isolated
            .as_ref()
            .map(|isolated| isolated.handle.try_clone());
        let netns = netns.transpose()?;
        self.enrol(cgroup.id, Subtree::new(path.clone(), agent, run))?;
        // Last, for nothing takes it back where something fails.
        if let Some(isolated) = &isolated {
            let mut listeners = listeners(&self.config, &isolated.listening);
            listeners.flags |= listener_flag::NO_UPLINK;
            self.gate
                .put_listeners(isolated.listening.netns, &listeners)?;
        }
        let entry = Run {
            agent,
            context,
            labels,
            cgroup: path,
            id: cgroup.id,
            isolated,
            main: true,
        };
        self.tell_run(run, &entry);
        self.runs.insert(run, entry);
        Ok(Prepared { run, cgroup, netns })
    }

    /// The command of a run is over; what it left behind may go on.
    pub(in super::super) fn finished(&mut self, run: u32) {
        if let Some(run) = self.runs.get_mut(&run) {
            run.main = false;
        }
        // The others have their turn once a second, however many end meanwhile.
        if let Err(error) = self.clear_run(run) {
            tracing::warn!(error = format!("{error:#}"), "cannot clear away a run");
        }
    }

    /// Removes what was made for runs in which nothing lives any more.
    pub(super) fn clear_runs(&mut self) -> anyhow::Result<()> {
        let runs = self.runs.iter();
        let over: Vec<u32> = runs
            .filter(|(_, run)| !run.main)
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            self.clear_run(number)?;
        }
        self.clear_left_runs();
        self.clear_made()
    }

    /// Removes what was made for a run, if nothing of it lives any more.
    fn clear_run(&mut self, number: u32) -> anyhow::Result<()> {
        let Some(run) = self.runs.get(&number) else {
            return Ok(());
        };
        // A process that is being reaped holds its cgroup for a moment longer.
        if run.main || populated(&run.cgroup) || cgroup::remove(&run.cgroup).is_err() {
            return Ok(());
        }
        let Some(run) = self.runs.remove(&number) else {
            return Ok(());
        };
        // What fails, and cgroups that were below it, are seen to with the next look at all cgroups.
        let mut removed = self.gate.remove_agent(run.id);
        if removed.is_ok() {
            self.subtrees.remove(&run.id);
        }
        if let Some(isolated) = &run.isolated {
            let netns = isolated.listening.netns;
            removed = removed.and(self.gate.remove_listeners(netns));
            self.tell(&ToWorker::NoListeners { netns });
        }
        self.tell(&ToWorker::RunEnded { run: number });
        Ok(removed?)
    }

    /// Removes the empty cgroups of runs that an earlier daemon began.
    fn clear_left_runs(&self) {
        let root = &self.config.paths.cgroup_root;
        let own: HashSet<&Path> = self.runs.values().map(|run| &*run.cgroup).collect();
        for agent in cgroup::children(root) {
            for path in cgroup::children(&agent) {
                if left::number(&path).is_some() && !own.contains(&*path) && !populated(&path) {
                    // What is not empty after all stays.
                    let _ = cgroup::remove(&path);
                }
            }
        }
    }

    /// Removes the directories of agents that were made for runs, once there is none in them. One that was
    /// there before stays, and one that holds anything; so does one of an agent that is quarantined, which
    /// may be stopped.
    fn clear_made(&mut self) -> anyhow::Result<()> {
        let needed: HashSet<AgentId> = self.runs.values().map(|run| run.agent).collect();
        let idle = self
            .made
            .iter()
            .filter(|(_, agent)| !needed.contains(agent));
        let idle: Vec<u64> = idle.map(|(id, _)| *id).collect();
        for id in idle {
            let Some(subtree) = self.subtrees.get(&id) else {
                self.made.remove(&id);
                continue;
            };
            let adopted = self.registry.adopted().contains_key(&subtree.path);
            if adopted || self.is_quarantined(subtree.agent) {
                continue;
            }
            self.tell_last_resources(subtree.agent, &subtree.path);
            // The kernel removes none that holds a process or a cgroup.
            if std::fs::remove_dir(&subtree.path).is_ok() {
                self.made.remove(&id);
                self.gate.remove_agent(id)?;
                self.subtrees.remove(&id);
            }
        }
        Ok(())
    }
}

/// Whether a process lives there.
pub(super) fn populated(path: &Path) -> bool {
    Cgroup::open(path).is_ok_and(|cgroup| cgroup.populated())
}
