//! Runs that an earlier daemon began and that go on: who is behind them is noted on their cgroups.
//!
//! A rule about a workflow would not hold for a run of which nobody knows it, and its share of a rollout
//! would be drawn anew. The note lives as long as the cgroup, and only who has `CAP_SYS_ADMIN` on the host
//! writes it (`trusted.` in xattr(7)).

use std::path::Path;

use agentguard_keeper::cgroup::{self, Cgroup};
use agentguard_keeper::spawn::RunContext;
use agentguard_model::{AgentId, Labels};
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::runs::{MAX_RUNS, populated};
use super::{Keeper, Run, Subtree};

/// The version of the note.
const VERSION: u32 = 1;

/// Who is behind a run.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    version: u32,
    context: RunContext,
    labels: Labels,
}

/// Notes on a run's cgroup who is behind it.
pub(super) fn note(path: &Path, context: &RunContext, labels: &Labels) -> anyhow::Result<()> {
    let noted = Noted {
        version: VERSION,
        context: context.clone(),
        labels: labels.clone(),
    };
    cgroup::note_run(path, &serde_json::to_vec(&noted)?)
        .with_context(|| format!("cannot note on {} who is behind the run", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Noted> {
    let noted: Noted = serde_json::from_slice(&cgroup::noted_run(path)?)?;
    ensure!(
        noted.version == VERSION,
        "its version is {}, and this agentguard knows {VERSION}",
        noted.version
    );
    Ok(noted)
}

impl Keeper {
    /// Takes in the runs that go on from before this daemon.
    pub(super) fn find_left_runs(&mut self) {
        let root = &self.config.paths.cgroup_root;
        let agents: Vec<(AgentId, std::path::PathBuf)> = self
            .subtrees
            .values()
            .filter(|subtree| subtree.run == 0 && subtree.path.parent() == Some(root))
            .map(|subtree| (subtree.agent, subtree.path.clone()))
            .collect();
        for (agent, path) in agents {
            let mut runs = 0;
            for path in cgroup::children(&path) {
                let Some(number) = number(&path).filter(|_| populated(&path)) else {
                    continue;
                };
                runs += 1;
                let found = if runs <= MAX_RUNS {
                    self.take_in(number, agent, &path)
                } else {
                    Err(anyhow::anyhow!(
                        "there are more than {MAX_RUNS} of this agent"
                    ))
                };
                if let Err(error) = found {
                    tracing::warn!(
                        run = number,
                        error = format!("{error:#}"),
                        "nobody knows who is behind a run of an earlier daemon: rules about its context and its \
                         own labels do not hold for it"
                    );
                }
            }
        }
    }

    fn take_in(&mut self, number: u32, agent: AgentId, path: &Path) -> anyhow::Result<()> {
        let noted = read(path)?;
        let cgroup = Cgroup::open(path)?;
        let subtree = Subtree::new(path.to_owned(), agent, number);
        self.subtrees.insert(cgroup.id, subtree);
        let run = Run {
            agent,
            context: noted.context,
            labels: noted.labels,
            cgroup: path.to_owned(),
            id: cgroup.id,
            // The namespace is its own still, and has no way out: its listeners ended with that daemon.
            isolated: None,
            main: false,
        };
        self.runs.insert(number, run);
        Ok(())
    }
}

/// The number of a run, by the name of its cgroup.
pub(super) fn number(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("run-")?.parse().ok()
}
