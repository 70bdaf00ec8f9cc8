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

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
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
        self.change(|contents| {
            contents.agents.insert(name.clone(), number);
        })?;
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
            self.change(|contents| {
                let last = contents.last_run.checked_add(RUN_BLOCK);
                contents.last_run = last.unwrap_or(RUN_BLOCK);
            })?;
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
        self.change(|contents| {
            contents.adopted.insert(cgroup.to_owned(), name.clone());
        })
    }

    /// Forgets one.
    pub(super) fn forget(&mut self, cgroup: &Path) -> anyhow::Result<()> {
        self.change(|contents| {
            contents.adopted.remove(cgroup);
        })
    }

    /// Changes what is remembered, on disk first: what cannot be written has not changed.
    fn change(&mut self, change: impl FnOnce(&mut Contents)) -> anyhow::Result<()> {
        let mut contents = self.contents.clone();
        change(&mut contents);
        self.save(&contents)?;
        self.contents = contents;
        Ok(())
    }

    fn save(&self, contents: &Contents) -> anyhow::Result<()> {
        let failed = || {
            format!(
                "cannot write {}; hint: see whether its disk is full (df), then try again",
                self.path.display()
            )
        };
        let directory = self.path.parent().with_context(failed)?;
        let temporary = self.path.with_extension("new");
        let mut file = fs::File::create(&temporary).with_context(failed)?;
        serde_json::to_writer(&mut file, contents).with_context(failed)?;
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
    fn what_cannot_be_written_has_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("not-there-yet");
        let mut registry = Registry::open(place.join("agents.json")).unwrap();
        let coder = "coder".parse().unwrap();
        let cgroup = directory.path();
        assert!(registry.number(&coder).is_err());
        assert!(registry.number(&coder).is_err(), "as before");
        assert!(registry.adopt(cgroup, &coder).is_err());
        assert!(registry.adopted().is_empty());
        assert!(registry.next_run().is_err());

        std::fs::create_dir(&place).unwrap();
        let number = registry.number(&coder).unwrap();
        registry.adopt(cgroup, &coder).unwrap();
        std::fs::remove_dir_all(&place).unwrap();
        assert!(registry.forget(cgroup).is_err());
        assert_eq!(registry.adopted().len(), 1);
        assert_eq!(registry.name(number), Some(&coder));
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
