//! The gate on the root of all agents. Whoever is root can remove that cgroup while it is empty, and the
//! gate's pins at any time: both are put back, and agents that are told of are not said to be governed
//! meanwhile.

use agentguard_keeper::cgroup::Cgroup;
use agentguard_keeper::gate::{Attachment, mark};
use anyhow::{Context as _, bail};

use super::super::returned::{Returned, Why};
use super::{Keeper, runs};
use crate::config::Paths;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Root {
    /// The cgroup that has the gate, by its id.
    held: Option<u64>,
    /// Why there is none: a sentence.
    failed: Option<String>,
    /// Whether the gate has come since cgroups were looked for: processes of those that are found next may be
    /// older than it.
    is_new: bool,
}

impl Root {
    /// The cgroup that has the gate.
    pub(super) fn id(&self) -> Option<u64> {
        self.held
    }

    /// Why nothing below is governed as it should be.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }
}

/// Makes sure that no other daemon's gate is on the root of all agents.
///
/// # Errors
/// It is: this one would refuse that one's agents, and that one this one's.
pub(super) fn refuse_another_gate(paths: &Paths) -> anyhow::Result<()> {
    let cgroup = &paths.cgroup_root;
    match mark::other(cgroup, &paths.bpffs) {
        Ok(None) => Ok(()),
        Ok(Some(other)) => bail!(
            "another gate is on {}, pinned under {}: two would refuse each other's agents; hint: give each \
             daemon a `cgroup_root` of its own, or stop the other one and take its gate off (`agentguard \
             daemon --detach-all` with its configuration)",
            cgroup.display(),
            other.display()
        ),
        Err(error) => {
            tracing::debug!(%error, cgroup = %cgroup.display(), "cannot see whose gate is there");
            Ok(())
        }
    }
}

impl Keeper {
    /// Makes the root of all agents and puts the gate on it, where either is not so.
    ///
    /// # Errors
    /// Then nothing is to run below it; it can be repeated.
    pub(super) fn hold_root(&mut self) -> anyhow::Result<()> {
        let held = self.put_on_root();
        let path = self.config.paths.cgroup_root.display();
        let failed = held.as_ref().err().map(|error| {
            format!("the gate is not on {path}: {error:#}; nothing is run there until it is")
        });
        self.root.failed = failed;
        held.with_context(|| format!("the gate is not on {path}"))
    }

    fn put_on_root(&mut self) -> anyhow::Result<()> {
        let root = Cgroup::create(&self.config.paths.cgroup_root)?;
        let before = self.root.held.take();
        if before == Some(root.id) && self.gate.is_whole(root.id)? {
            self.root.held = before;
            return Ok(());
        }
        refuse_another_gate(&self.config.paths)?;
        let attachment = self.gate.attach(&root.path)?;
        self.root.held = Some(root.id);
        let cgroup = root.path.display();
        if let Err(error) = mark::write(&root.path, &self.config.paths.bpffs) {
            tracing::debug!(%error, %cgroup, "another daemon cannot see whose gate this is");
        }
        match before {
            None => tracing::info!(%cgroup, ?attachment, "the gate is up"),
            Some(id) if id == root.id => tracing::error!(
                %cgroup,
                "the gate's pins were removed: agents below were not governed for up to a second; they \
                 are again, and what they opened meanwhile is closed"
            ),
            Some(_) => tracing::warn!(
                %cgroup,
                "the root of all agents was removed and made again: the gate is on it again"
            ),
        }
        if attachment == Attachment::Attached {
            self.root.is_new = true;
            self.close_older(|_| true);
        }
        Ok(())
    }

    /// As [`Self::close_older`], of cgroups that were found just now, where the gate was put up since the last
    /// ones were.
    pub(super) fn close_older_found(&mut self, found: &[u64]) {
        if std::mem::take(&mut self.root.is_new) {
            self.close_older(|id| found.contains(id));
        }
    }

    /// What agents below the root have open is older than the gate on it. Of those cgroups that are chosen by
    /// their ids.
    fn close_older(&mut self, chosen: impl Fn(&u64) -> bool) {
        let root = &self.config.paths.cgroup_root;
        for (id, subtree) in &self.subtrees {
            if chosen(id)
                && subtree.run == 0
                && subtree.path.starts_with(root)
                && runs::populated(&subtree.path)
            {
                self.returned.push(Returned {
                    agent: subtree.agent,
                    cgroup: subtree.path.clone(),
                    why: Why::NewGate,
                });
            }
        }
    }
}
