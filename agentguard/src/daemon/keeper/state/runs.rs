//! Runs: a place for each command, cleared away when nothing lives in it any more.

use std::path::Path;

use agentguard_common::map::listener_flag;
use agentguard_keeper::cgroup::{self, Cgroup};
use agentguard_keeper::message::ToWorker;
use agentguard_keeper::namespace::Isolated;
use agentguard_keeper::spawn::RunContext;
use agentguard_model::{AgentName, Labels};
use anyhow::ensure;

use super::{Keeper, Prepared, Run, Subtree, listeners, ports};

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
        let run = self.registry.next_run()?;
        let path = self
            .config
            .paths
            .cgroup_root
            .join(name.as_str())
            .join(format!("run-{run}"));
        let own = Cgroup::create(&self.config.paths.cgroup_root.join(name.as_str()))?;
        if !self.subtrees.contains_key(&own.id) {
            self.enrol(own.id, Subtree::new(own.path, agent, 0))?;
        }
        let cgroup = Cgroup::create(&path)?;
        let isolated = isolate
            .then(|| Isolated::new(ports(&self.config)))
            .transpose()?;
        let netns = match &isolated {
            Some(isolated) => {
                let mut listeners = listeners(&self.config, &isolated.listening);
                listeners.flags |= listener_flag::NO_UPLINK;
                self.gate
                    .put_listeners(isolated.listening.netns, &listeners)?;
                Some(isolated.handle.try_clone()?)
            }
            None => None,
        };
        self.enrol(cgroup.id, Subtree::new(path.clone(), agent, run))?;
        let entry = Run {
            agent,
            context,
            labels,
            cgroup: path,
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
        if let Err(error) = self.clear_runs() {
            tracing::warn!(error = format!("{error:#}"), "cannot clear away a run");
        }
    }

    /// Removes the cgroups of runs in which nothing lives any more.
    pub(super) fn clear_runs(&mut self) -> anyhow::Result<()> {
        let over: Vec<u32> = self
            .runs
            .iter()
            .filter(|(_, run)| !run.main && !populated(&run.cgroup))
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            let Some(run) = self.runs.get(&number) else {
                continue;
            };
            // A process that is being reaped holds its cgroup for a moment longer.
            if cgroup::remove(&run.cgroup).is_err() {
                continue;
            }
            let Some(run) = self.runs.remove(&number) else {
                continue;
            };
            let ids: Vec<u64> = self
                .subtrees
                .iter()
                .filter(|(_, subtree)| subtree.path.starts_with(&run.cgroup))
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                self.gate.remove_agent(id)?;
                self.subtrees.remove(&id);
            }
            if let Some(isolated) = &run.isolated {
                let netns = isolated.listening.netns;
                self.gate.remove_listeners(netns)?;
                self.tell(&ToWorker::NoListeners { netns });
            }
            self.tell(&ToWorker::RunEnded { run: number });
        }
        self.clear_left_runs();
        Ok(())
    }

    /// Removes the empty cgroups of runs that an earlier daemon began.
    fn clear_left_runs(&self) {
        let root = &self.config.paths.cgroup_root;
        let own = |path: &Path| self.runs.values().any(|run| run.cgroup == path);
        for agent in cgroup::children(root) {
            for path in cgroup::children(&agent) {
                let name = path.file_name().and_then(|name| name.to_str());
                let left = name
                    .and_then(|name| name.strip_prefix("run-"))
                    .is_some_and(|number| number.parse::<u32>().is_ok());
                if left && !own(&path) && !populated(&path) {
                    // What is not empty after all stays.
                    let _ = cgroup::remove(&path);
                }
            }
        }
    }
}

/// Whether a process lives there.
pub(super) fn populated(path: &Path) -> bool {
    Cgroup::open(path).is_ok_and(|cgroup| cgroup.populated())
}
