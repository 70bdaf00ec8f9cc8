//! Which cgroup is whose.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use agentguard_common::map::{AgentEntry, CGROUP_LEVELS, agent_flag, mode};
use agentguard_keeper::cgroup::{self, Cgroup};
use agentguard_keeper::gate::{Attachment, Gate, GateError};
use agentguard_keeper::message::ToWorker;
use agentguard_model::{AgentId, AgentName, Mode};
use agentguard_policy::{AgentPolicy, Local, OnDaemonLoss, Policy};
use anyhow::{Context as _, bail};

use super::super::adoption::Adopted;
use super::super::profiles::{NOTHING, Profiles};
use super::super::registry::Registry;
use super::complaints::Complaints;
use super::{Keeper, Subtree};

/// Levels below `cgroup_root` that are searched for the policy's cgroup patterns.
const PATTERN_DEPTH: usize = 6;
/// Cgroups looked at in one search; beyond it the rest stays without an agent, and is refused.
const PATTERN_CGROUPS: usize = 20_000;

impl Keeper {
    /// Gives cgroups below the root to the agents they belong to: the directory of an agent's own
    /// name, and what the policy's patterns match. What is below an agent's cgroup is that agent's,
    /// whatever the agent calls it.
    pub(super) fn find_subtrees(&mut self, complaints: &mut Complaints) {
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
                    complaints.add(format!(
                        "there are more than {PATTERN_CGROUPS} cgroups to look at; the rest belongs to no \
                         agent"
                    ));
                    return;
                }
                match owner(&policy, &root, &path) {
                    Some(agent) => {
                        if let Err(error) = self.own(&path, &agent.name) {
                            complaints.add(format!("cannot govern {}: {error:#}", path.display()));
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
        let mut complaints = Complaints::default();
        let mut gone = |(id, subtree): (&u64, &Subtree)| match cgroup::is_gone(&subtree.path, *id) {
            Ok(gone) => gone.then_some(*id),
            Err(error) => {
                let error = anyhow::Error::new(error);
                complaints.add(format!(
                    "cannot see whether a cgroup is still there: {error:#}"
                ));
                None
            }
        };
        let gone: Vec<u64> = self.subtrees.iter().filter_map(&mut gone).collect();
        for id in gone {
            match self.gate.remove_agent(id) {
                Ok(()) => drop(self.subtrees.remove(&id)),
                Err(error) => followed = followed.and(Err(error.into())),
            }
        }
        // The gate stays on a removed cgroup for as long as a socket of it lives, and refuses it.
        let (subtrees, root) = (&self.subtrees, self.root.id());
        let governed = |id| subtrees.contains_key(&id) || root == Some(id);
        let cleared = self.gate.clear_removed(governed);
        if let Err(error) = cleared {
            followed = followed.and(Err(error.into()));
        }
        // Before the policy's patterns find them.
        self.follow_adopted();
        let before: HashSet<u64> = self.subtrees.keys().copied().collect();
        self.find_subtrees(&mut complaints);
        self.complaints.replace(complaints);
        let new: Vec<u64> = self
            .subtrees
            .keys()
            .filter(|id| !before.contains(id))
            .copied()
            .collect();
        for &id in &new {
            if let Some(subtree) = self.subtrees.remove(&id) {
                followed = followed.and(self.enrol(id, subtree));
            }
        }
        self.close_older_found(&new);
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
    ///
    /// # Errors
    /// Some entries are as they were, and some as the policy has it: see [`Self::rewrite_agents`].
    pub(super) fn write_agents(&mut self) -> anyhow::Result<()> {
        let mut profiles = Profiles::after(&self.profiles);
        let written = self.write_entries(&mut profiles);
        if written.is_err() {
            // Some agents have these sets, until they are given others.
            self.profiles.skip(&profiles);
            return written;
        }
        profiles.remove_others(&mut self.gate)?;
        self.profiles = profiles;
        Ok(())
    }

    /// Writes every subtree's entry as the policy had it before [`Self::write_agents`] failed: the sets of
    /// rules are there still, so that it needs no room.
    pub(super) fn rewrite_agents(&mut self) -> anyhow::Result<()> {
        let mut profiles = std::mem::take(&mut self.profiles);
        let written = self.write_entries(&mut profiles);
        self.profiles = profiles;
        written?;
        Ok(self.profiles.remove_others(&mut self.gate)?)
    }

    fn write_entries(&mut self, profiles: &mut Profiles) -> anyhow::Result<()> {
        let policy = self.policy.clone();
        for (id, subtree) in &self.subtrees {
            let agent = self
                .registry
                .name(subtree.agent)
                .and_then(|name| policy.agent(name));
            let mut entry = agent_entry(profiles, &mut self.gate, &policy, agent, subtree)?;
            if is_quarantined(&self.registry, subtree.agent) {
                entry.flags |= agent_flag::QUARANTINED;
            }
            self.gate.put_agent(*id, &entry)?;
        }
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
        if let Some(too_deep) = self.too_deep(&path) {
            bail!("{too_deep}; hint: adopt one above it");
        }
        if let Some(own) = holds_the_guard(&self.mount, &path) {
            bail!(
                "{own}; hint: adopt the services beside it, each by its own cgroup, or move the guard elsewhere"
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
        if !known {
            self.registry.has_room_to_adopt(&path)?;
        }
        self.registry.adopt(&path, name)?;
        let shown = self.shown(&path);
        if let Some(shown) = &shown {
            self.tell_governed(shown.clone(), true);
        }
        let attachment = match self.govern(&cgroup, id) {
            Ok(attachment) => attachment,
            Err(error) => {
                if !known {
                    self.subtrees.remove(&cgroup.id);
                    // What stays of it refuses; it is told what could not be done first.
                    let _ = self.gate.remove_agent(cgroup.id);
                    let _ = self.registry.forget(std::slice::from_ref(&path));
                    if let Some(shown) = shown {
                        self.tell_governed(shown, false);
                    }
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

    /// Why the gate does not know whose a cgroup is, if that is because of how deep it lies.
    pub(super) fn too_deep(&self, path: &Path) -> Option<String> {
        // Where a cgroup namespace hides levels above the mount, fewer are counted than there are.
        let level = path
            .components()
            .count()
            .saturating_sub(self.mount.components().count());
        (level > usize::from(CGROUP_LEVELS)).then(|| {
            format!(
                "{} is {level} levels below the root of all cgroups, and the gate looks for agents in the \
                 first {CGROUP_LEVELS}",
                path.display()
            )
        })
    }

    /// Takes the gate off what [`Self::adopt`] put under it, or of one cgroup alone. The list last: a
    /// daemon that ends in between governs all of it again.
    ///
    /// # Errors
    /// What was not removed, which is governed on, and what was.
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
        // Where the list cannot be written, nothing is done.
        self.registry.rewrite()?;
        let mut kept = BTreeMap::new();
        for path in &paths {
            if let Err(error) = self.let_out(path) {
                kept.insert(path.clone(), format!("{error:#}"));
            }
        }
        let mut gone = paths;
        gone.retain(|path| !kept.contains_key(path));
        if let Err(error) = self.registry.forget(&gone) {
            let error = format!("{error:#}");
            kept.extend(gone.drain(..).map(|path| (path, error.clone())));
        }
        for path in &gone {
            self.ungoverned.remove(path);
            if let Some(shown) = self.shown(path) {
                self.tell_governed(shown, false);
            }
        }
        if !kept.is_empty() {
            // What was taken off of it comes back at once, so that nothing is governed by half.
            self.follow_adopted();
        }
        self.tell_state();
        let mut text = removed(name, &gone, &self.config.paths.cgroup_root);
        if kept.is_empty() {
            return Ok(text);
        }
        if text.is_empty() {
            text = format!("nothing was removed of {name}");
        }
        let kept: Vec<String> = kept
            .iter()
            .map(|(path, why)| match self.ungoverned.get(path) {
                Some(more) => format!("{}: {why}; {more}", path.display()),
                None => format!("{}: {why}", path.display()),
            })
            .collect();
        bail!(
            "{text}; not removed, and governed on: {}; hint: give the command again once that is mended",
            kept.join("; ").replace("; hint: ", ", ")
        )
    }

    /// Takes the gate off what is at a path.
    ///
    /// # Errors
    /// Some of it may be off: it is governed on, and put back with the next look.
    fn let_out(&mut self, path: &Path) -> Result<(), GateError> {
        let outside = !path.starts_with(&self.config.paths.cgroup_root);
        let at = |(_, subtree): &(&u64, &Subtree)| subtree.path == *path;
        let ids: Vec<u64> = self.subtrees.iter().filter(at).map(|(id, _)| *id).collect();
        for id in ids {
            let detached = match outside {
                true => self.gate.detach(id),
                false => Ok(()),
            };
            if let Err(error) = detached.and_then(|()| self.gate.remove_agent(id)) {
                if let Some(subtree) = self.subtrees.get_mut(&id) {
                    subtree.attached = false;
                }
                return Err(error);
            }
            self.subtrees.remove(&id);
        }
        Ok(())
    }

    /// The roots of what is under the gate, as `/proc/PID/cgroup` shows them; also where there is none
    /// now, or it is not governed yet.
    pub(in crate::daemon::keeper) fn governed(&self) -> Vec<String> {
        let paths = self.governed_paths();
        paths.filter_map(|path| self.shown(path)).collect()
    }

    pub(super) fn governed_paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.config.paths.cgroup_root)
            .chain(self.registry.adopted().keys())
            .map(PathBuf::as_path)
    }

    /// Whose a cgroup is, as `/proc/PID/cgroup` shows it: the agent, and the number of the run, or 0.
    pub(in crate::daemon::keeper) fn whose(&self, cgroup: &str) -> Option<(AgentId, u32)> {
        let path = self.mount.join(cgroup.strip_prefix('/')?);
        let around = self
            .subtrees
            .values()
            .filter(|it| path.starts_with(&it.path));
        let nearest = around.max_by_key(|it| it.path.components().count())?;
        Some((nearest.agent, nearest.run))
    }

    /// A cgroup's path as `/proc/PID/cgroup` shows it. Those that are adopted were checked to be below the
    /// mount.
    pub(super) fn shown(&self, path: &Path) -> Option<String> {
        let path = path.strip_prefix(&self.mount).ok()?;
        Some(format!("/{}", path.display()))
    }
}

/// What is no longer governed, for a person; nothing where that is nothing.
fn removed(name: &AgentName, gone: &[PathBuf], root: &Path) -> String {
    if gone.is_empty() {
        return String::new();
    }
    let listed: Vec<String> = gone.iter().map(|path| path.display().to_string()).collect();
    let now = if gone.iter().any(|path| path.starts_with(root)) {
        "; what is below the root of all agents gets nothing now"
    } else {
        ""
    };
    format!("no longer governed as {name}: {}{now}", listed.join(", "))
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

/// Why a cgroup can be no agent's, if the guard itself runs there: its sockets would be an agent's, and a
/// quarantine would stop it.
pub(super) fn holds_the_guard(mount: &Path, path: &Path) -> Option<String> {
    let own = cgroup::own(mount)?;
    let (shown, path_shown) = (own.display(), path.display());
    own.starts_with(path)
        .then(|| format!("the guard itself runs in {shown}, in or below {path_shown}"))
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
    if agent.quota.is_some() {
        entry.flags |= agent_flag::METERED;
    }
    if agent.local == Local::Own {
        entry.flags |= agent_flag::LOCAL_OWN;
    }
    // Nobody could try the guard if the daemon's end stopped what it only watches.
    if agent.on_daemon_loss == OnDaemonLoss::Keep || agent.mode != Mode::Enforce {
        entry.flags |= agent_flag::KEEP_ON_LOSS;
    }
    Ok(entry)
}
