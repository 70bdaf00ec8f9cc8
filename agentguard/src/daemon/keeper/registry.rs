//! The numbers of agents, and the cgroups that were put under the gate by hand: what the keeper
//! remembers over restarts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use agentguard_model::{AgentId, AgentName};
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Run numbers set aside at once.
const RUN_BLOCK: u32 = 1024;

/// One JSON file, replaced as a whole.
#[derive(Debug)]
pub(super) struct Registry {
    path: PathBuf,
    contents: Contents,
    /// The last number that was given to a run.
    next_run: u32,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    /// A number is never given to another agent: records and pinned maps hold it.
    agents: BTreeMap<AgentName, u32>,
    /// Cgroup directories.
    adopted: BTreeMap<PathBuf, AgentName>,
    /// The last number that is set aside for runs.
    last_run: u32,
}

impl Registry {
    /// Reads the file, or begins one.
    pub(super) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let contents = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is damaged; hint: without it agents get new numbers; move it away to go on",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Contents::default(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let next_run = contents.last_run;
        Ok(Self {
            path,
            contents,
            next_run,
        })
    }

    /// The number of an agent, given for good if it has none yet.
    pub(super) fn number(&mut self, name: &AgentName) -> anyhow::Result<AgentId> {
        if let Some(number) = self.contents.agents.get(name) {
            return Ok(AgentId(*number));
        }
        let last = self.contents.agents.values().max().copied().unwrap_or(0);
        let Some(number) = last.checked_add(1) else {
            bail!("there are no numbers left for agents");
        };
        self.contents.agents.insert(name.clone(), number);
        self.save()?;
        Ok(AgentId(number))
    }

    /// The agent that a number stands for.
    pub(super) fn name(&self, id: AgentId) -> Option<&AgentName> {
        self.contents
            .agents
            .iter()
            .find(|(_, number)| **number == id.0)
            .map(|(name, _)| name)
    }

    /// A new number for a run. Numbers are set aside on disk by the block, so that a run costs no
    /// write and begins also where the disk is full.
    pub(super) fn next_run(&mut self) -> anyhow::Result<u32> {
        if self.next_run >= self.contents.last_run {
            let first = self.contents.last_run;
            self.contents.last_run = first.checked_add(RUN_BLOCK).unwrap_or(RUN_BLOCK);
            if let Err(error) = self.save() {
                self.contents.last_run = first;
                return Err(error);
            }
            self.next_run = self.contents.last_run - RUN_BLOCK;
        }
        self.next_run += 1;
        Ok(self.next_run)
    }

    /// Cgroups put under the gate by hand.
    pub(super) fn adopted(&self) -> &BTreeMap<PathBuf, AgentName> {
        &self.contents.adopted
    }

    /// Remembers one.
    pub(super) fn adopt(&mut self, cgroup: &Path, name: &AgentName) -> anyhow::Result<()> {
        self.contents
            .adopted
            .insert(cgroup.to_owned(), name.clone());
        self.save()
    }

    /// Forgets one.
    pub(super) fn forget(&mut self, cgroup: &Path) -> anyhow::Result<()> {
        self.contents.adopted.remove(cgroup);
        self.save()
    }

    fn save(&self) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", self.path.display());
        let directory = self.path.parent().with_context(failed)?;
        let temporary = self.path.with_extension("new");
        let mut file = fs::File::create(&temporary).with_context(failed)?;
        serde_json::to_writer(&mut file, &self.contents).with_context(failed)?;
        file.flush().with_context(failed)?;
        file.sync_all().with_context(failed)?;
        fs::rename(&temporary, &self.path).with_context(failed)?;
        fs::File::open(directory)
            .and_then(|directory| directory.sync_all())
            .with_context(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::Registry;

    #[test]
    fn numbers_are_never_given_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agents.json");
        let mut registry = Registry::open(path.clone()).unwrap();
        let coder = registry.number(&"coder".parse().unwrap()).unwrap();
        let helper = registry.number(&"helper".parse().unwrap()).unwrap();
        assert_ne!(coder, helper);
        let run = registry.next_run().unwrap();
        assert_eq!(registry.next_run().unwrap(), run + 1);
        let mut again = Registry::open(path).unwrap();
        assert_eq!(again.number(&"helper".parse().unwrap()).unwrap(), helper);
        assert_eq!(again.name(coder).unwrap().as_str(), "coder");
        assert!(again.next_run().unwrap() > run + 1);
    }

    #[test]
    fn a_damaged_file_is_not_taken_for_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agents.json");
        std::fs::write(&path, "{").unwrap();
        let error = Registry::open(path).unwrap_err();
        assert!(error.to_string().contains("is damaged"), "{error}");
    }
}
