//! Which cgroup is whose.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use agentguard_common::map::{AgentEntry, CGROUP_LEVELS, agent_flag, mode};
use agentguard_keeper::cgroup::{self, Cgroup};
use agentguard_keeper::gate::{Attachment, Gate};
use agentguard_keeper::message::ToWorker;
use agentguard_model::{AgentId, AgentName, Mode};
use agentguard_policy::{AgentPolicy, Local, OnDaemonLoss, Policy};
use anyhow::{Context as _, bail};

use super::super::adoption::Adopted;
use super::super::profiles::{NOTHING, Profiles};
use super::super::registry::Registry;
use super::{Keeper, Subtree};

/// Levels below `cgroup_root` that are searched for the policy's cgroup patterns.
const PATTERN_DEPTH: usize = 6;
/// Cgroups looked at in one search; beyond it the rest stays without an agent, and is refused.
const PATTERN_CGROUPS: usize = 20_000;

impl Keeper {
    /// Gives cgroups below the root to the agents they belong to: the directory of an agent's own
    /// name, and what the policy's patterns match. What is below an agent's cgroup is that agent's,
    /// whatever the agent calls it.
    pub(super) fn find_subtrees(&mut self) {
        let root = self.config.paths.cgroup_root.clone();
        let policy = self.policy.clone();
        let mut waiting = vec![(root.clone(), 0usize)];
        let mut seen = 0;
        while let Some((directory, depth)) = waiting.pop() {
            for path in cgroup::children(&directory) {
                // What is below is the agent's, whoever's names it bears.
                if self.registry.adopted().contains_key(&path) {
                    continue;
                }
                seen += 1;
                if seen > PATTERN_CGROUPS {
                    tracing::warn!(
                        limit = PATTERN_CGROUPS,
                        "too many cgroups to look at; the rest belongs to no agent"
                    );
                    return;
                }
                match owner(&policy, &root, &path) {
                    Some(agent) => {
                        if let Err(error) = self.own(&path, &agent.name) {
                            tracing::warn!(
                                cgroup = %path.display(),
                                error = format!("{error:#}"),
                                "cannot govern"
                            );
                        }
                    }
                    None if depth + 1 < PATTERN_DEPTH => waiting.push((path, depth + 1)),
                    None => {}
                }
            }
        }
    }

    /// Takes in cgroups that came and forgets those that went. What fails for one keeps no other from it,
    /// and is tried again with the next look.
    ///
    /// # Errors
    /// The first of them.
    pub(super) fn follow_cgroups(&mut self) -> anyhow::Result<()> {
        let mut followed = Ok(());
        let gone = |(id, subtree): (&u64, &Subtree)| match cgroup::is_gone(&subtree.path, *id) {
            Ok(gone) => gone.then_some(*id),
            Err(error) => {
                tracing::warn!(%error, "cannot see whether a cgroup is still there");
                None
            }
        };
        let gone: Vec<u64> = self.subtrees.iter().filter_map(gone).collect();
        for id in gone {
            match self.gate.remove_agent(id) {
                Ok(()) => drop(self.subtrees.remove(&id)),
                Err(error) => followed = followed.and(Err(error.into())),
            }
        }
        // The gate stays on a removed cgroup for as long as a socket of it lives, and refuses it.
        let subtrees = &self.subtrees;
        let cleared = self.gate.clear_removed(|id| subtrees.contains_key(&id));
        if let Err(error) = cleared {
            followed = followed.and(Err(error.into()));
        }
        // Before the policy's patterns find them.
        self.follow_adopted();
        let before: HashSet<u64> = self.subtrees.keys().copied().collect();
        self.find_subtrees();
        let new: Vec<u64> = self
            .subtrees
            .keys()
            .filter(|id| !before.contains(id))
            .copied()
            .collect();
        for id in new {
            if let Some(subtree) = self.subtrees.remove(&id) {
                followed = followed.and(self.enrol(id, subtree));
            }
        }
        followed
    }

    /// Notes a subtree; one that a run has already stays the run's.
    pub(super) fn own(&mut self, path: &Path, name: &AgentName) -> anyhow::Result<()> {
        let cgroup = Cgroup::open(path)?;
        if self.subtrees.contains_key(&cgroup.id) {
            return Ok(());
        }
        let agent = self.registry.number(name)?;
        self.subtrees
            .insert(cgroup.id, Subtree::new(path.to_owned(), agent, 0));
        Ok(())
    }

    /// Writes every subtree's entry as the policy has it.
    pub(super) fn write_agents(&mut self) -> anyhow::Result<()> {
        let policy = self.policy.clone();
        let mut profiles = Profiles::after(&self.profiles);
        for (id, subtree) in &self.subtrees {
            let agent = self
                .registry
                .name(subtree.agent)
                .and_then(|name| policy.agent(name));
            let mut entry = agent_entry(&mut profiles, &mut self.gate, &policy, agent, subtree)?;
            if is_quarantined(&self.registry, subtree.agent) {
                entry.flags |= agent_flag::QUARANTINED;
            }
            self.gate.put_agent(*id, &entry)?;
        }
        profiles.remove_others(&mut self.gate)?;
        self.profiles = profiles;
        Ok(())
    }

    /// Adds one subtree to the gate.
    pub(super) fn enrol(&mut self, id: u64, subtree: Subtree) -> anyhow::Result<()> {
        let policy = self.policy.clone();
        let agent = self
            .registry
            .name(subtree.agent)
            .and_then(|name| policy.agent(name));
        let mut entry = agent_entry(&mut self.profiles, &mut self.gate, &policy, agent, &subtree)?;
        if is_quarantined(&self.registry, subtree.agent) {
            entry.flags |= agent_flag::QUARANTINED;
            if subtree.run == 0 {
                self.freeze_new(subtree.agent, &subtree.path);
            }
        }
        self.gate.put_agent(id, &entry)?;
        self.subtrees.insert(id, subtree);
        Ok(())
    }

    /// Puts a cgroup that is there already under the gate.
    pub(in super::super) fn adopt(
        &mut self,
        name: &AgentName,
        path: &Path,
    ) -> anyhow::Result<Adopted> {
        if self.policy.agent(name).is_none() {
            bail!("the policy has no agent {name}; hint: add it under `agents:` and reload");
        }
        let path = std::fs::canonicalize(path)
            .with_context(|| format!("cannot find {}", path.display()))?;
        let cgroup = Cgroup::open(&path)?;
        if path == self.mount {
            bail!("{} is the root of all cgroups", path.display());
        }
        if !path.starts_with(&self.mount) {
            bail!(
                "{} is not below {}, where cgroup v2 is mounted",
                path.display(),
                self.mount.display()
            );
        }
        // Where a cgroup namespace hides levels above the mount, fewer are counted than there are.
        let level = path
            .components()
            .count()
            .saturating_sub(self.mount.components().count());
        if level > usize::from(CGROUP_LEVELS) {
            bail!(
                "{} is {level} levels below the root of all cgroups, and the gate looks for agents in the first {CGROUP_LEVELS}; hint: adopt one above it",
                path.display()
            );
        }
        let id = self.registry.number(name)?;
        let below_root = path.starts_with(&self.config.paths.cgroup_root);
        if path == self.config.paths.cgroup_root {
            bail!("{} is the root of all agents", path.display());
        }
        if let Some(other) =
            self.registry.adopted().keys().find(|other| {
                **other != path && (path.starts_with(other) || other.starts_with(&path))
            })
        {
            bail!(
                "{} is under the gate already: two gates on one path do not work",
                other.display()
            );
        }
        if !below_root && self.config.paths.cgroup_root.starts_with(&path) {
            bail!(
                "{} holds the root of all agents: two gates on one path do not work",
                path.display()
            );
        }
        let other = self.registry.adopted().get(&path);
        let held = self.subtrees.get(&cgroup.id);
        if other.is_some_and(|other| other != name) || held.is_some_and(|held| held.agent != id) {
            bail!(
                "{} belongs to another agent; hint: remove that one first",
                path.display()
            );
        }
        // Remembered first: what the gate holds after a restart, the registry knows.
        let known = self.registry.adopted().contains_key(&path);
        let is_new = !known && !self.subtrees.contains_key(&cgroup.id);
        self.registry.adopt(&path, name)?;
        let attachment = match self.govern(&cgroup, id) {
            Ok(attachment) => attachment,
            Err(error) => {
                if !known {
                    self.subtrees.remove(&cgroup.id);
                    // What stays of it refuses; it is told what could not be done first.
                    let _ = self.gate.remove_agent(cgroup.id);
                    let _ = self.registry.forget(&path);
                }
                return Err(error);
            }
        };
        // It may have been made again since the last look.
        let is_new = is_new || attachment == Some(Attachment::Attached);
        self.tell(&ToWorker::Agent {
            id,
            name: name.clone(),
        });
        self.tell_state();
        Ok(Adopted {
            agent: id,
            path,
            cgroup: cgroup.id,
            is_new,
        })
    }

    /// Takes the gate off what [`Self::adopt`] put under it, or of one cgroup alone.
    pub(in super::super) fn release(
        &mut self,
        name: &AgentName,
        only: Option<&Path>,
    ) -> anyhow::Result<String> {
        let paths: Vec<PathBuf> = self
            .registry
            .adopted()
            .iter()
            .filter(|(path, agent)| *agent == name && only.is_none_or(|only| only == *path))
            .map(|(path, _)| path.clone())
            .collect();
        if let (Some(only), true) = (only, paths.is_empty()) {
            bail!(
                "{} was not added as {name}; hint: `agentguard agent show {name}` lists what was",
                only.display()
            );
        }
        if paths.is_empty() {
            bail!("no cgroup was added as {name}; hint: see `agentguard agent list`");
        }
        if let Some(quarantined) = self.quarantine_of(name) {
            bail!(
                "{quarantined}: without the gate it would be free; hint: `agentguard agent release \
                 {name}` first"
            );
        }
        for path in &paths {
            self.registry.forget(path)?;
            self.ungoverned.remove(path);
            let ids: Vec<u64> = self
                .subtrees
                .iter()
                .filter(|(_, subtree)| subtree.path == *path)
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                let outside = !path.starts_with(&self.config.paths.cgroup_root);
                let detached = match outside {
                    true => self.gate.detach(id),
                    false => Ok(()),
                };
                if let Err(error) = detached.and_then(|()| self.gate.remove_agent(id)) {
                    // It is governed on, so that it can be removed again.
                    if let Some(subtree) = self.subtrees.get_mut(&id) {
                        subtree.attached = false;
                    }
                    if let Err(error) = self.registry.adopt(path, name) {
                        tracing::error!(error = format!("{error:#}"), "not in the list any more");
                    }
                    return Err(error.into());
                }
                self.subtrees.remove(&id);
            }
        }
        self.tell_state();
        let listed: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let now = if paths
            .iter()
            .any(|path| path.starts_with(&self.config.paths.cgroup_root))
        {
            "; what is below the root of all agents gets nothing now"
        } else {
            ""
        };
        Ok(format!(
            "no longer governed as {name}: {}{now}",
            listed.join(", ")
        ))
    }

    /// The roots of what is under the gate, as `/proc/PID/cgroup` shows them.
    pub(in crate::daemon::keeper) fn governed(&self) -> Vec<String> {
        // Both kinds were checked to be below the mount.
        std::iter::once(&self.config.paths.cgroup_root)
            .chain(self.registry.adopted().keys().filter(|path| path.exists()))
            .filter_map(|path| path.strip_prefix(&self.mount).ok())
            .map(|path| format!("/{}", path.display()))
            .collect()
    }
}

/// The agent of a cgroup below the root: the one whose name its directory right below the root has,
/// else the first whose pattern matches.
fn owner<'a>(policy: &'a Policy, root: &Path, path: &Path) -> Option<&'a AgentPolicy> {
    if path.parent() == Some(root)
        && let Some(agent) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<AgentName>().ok())
            .and_then(|name| policy.agent(&name))
    {
        return Some(agent);
    }
    let (root, path) = (root.to_str()?, path.to_str()?);
    policy.agents().iter().find(|agent| {
        agent
            .cgroups
            .iter()
            .any(|pattern| pattern.matches(root, path))
    })
}

pub(super) fn is_quarantined(registry: &Registry, agent: AgentId) -> bool {
    let name = registry.name(agent);
    name.is_some_and(|name| registry.quarantined().contains_key(name))
}

fn agent_entry(
    profiles: &mut Profiles,
    gate: &mut Gate,
    policy: &Policy,
    agent: Option<&AgentPolicy>,
    subtree: &Subtree,
) -> anyhow::Result<AgentEntry> {
    let mut entry = AgentEntry {
        agent: subtree.agent.0,
        profile: NOTHING,
        run: subtree.run,
        mode: mode::ENFORCE,
        flags: 0,
        _pad: 0,
    };
    let Some(agent) = agent else {
        return Ok(entry);
    };
    entry.profile = profiles.profile(gate, policy, agent)?;
    entry.mode = match agent.mode {
        Mode::Enforce => mode::ENFORCE,
        Mode::Shadow => mode::SHADOW,
        Mode::Observe => mode::OBSERVE,
    };
    if agent.local == Local::Own {
        entry.flags |= agent_flag::LOCAL_OWN;
    }
    // Nobody could try the guard if the daemon's end stopped what it only watches.
    if agent.on_daemon_loss == OnDaemonLoss::Keep || agent.mode != Mode::Enforce {
        entry.flags |= agent_flag::KEEP_ON_LOSS;
    }
    Ok(entry)
}
