//! Quarantine: an agent that nothing leaves and nothing reaches, whatever the policy says.
//!
//! The kernel first, so that the next packet is dropped; then the worker, which ends what is under way;
//! then the disk; then the owners of sockets. [`Keeper::quarantine`] does what needs the keeper's lock,
//! [`Cut::finish`] what waits. What the kernel did not do is told, and done again each second until it
//! has: [`Keeper::hold_quarantines`].

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agentguard_common::map::agent_flag;
use agentguard_keeper::gate::OtherVersion;
use agentguard_keeper::message::{Quarantine, ToWorker};
use agentguard_keeper::{cgroup, sockets};
use agentguard_model::{AgentId, AgentName};
use anyhow::{anyhow, bail};

use super::super::registry::By;
use super::orders::{self, Asked, moment};
use super::{Keeper, epoch_seconds};

/// A quarantine that holds in the kernel, and what is still to be done without the lock.
pub(in super::super) struct Cut {
    name: AgentName,
    /// What was done, for a person.
    done: String,
    /// What the kernel did not do yet.
    failures: Vec<String>,
    /// Why a restart of the host would forget it, and one of the daemon who ordered it, when and why.
    unwritten: Option<anyhow::Error>,
    cgroups: Vec<PathBuf>,
    namespaces: Vec<OwnedFd>,
    /// What the worker answers with.
    worker: Option<Asked>,
}

impl Keeper {
    /// Quarantines an agent; again, with what is new about it. `uid`: who orders it.
    ///
    /// # Errors
    /// There is no such agent, or the reason is too long.
    pub(in super::super) fn quarantine(
        &mut self,
        name: &AgentName,
        reason: Option<String>,
        freeze: bool,
        uid: Option<u32>,
    ) -> anyhow::Result<Cut> {
        self.known(name)?;
        orders::bounded(reason.as_deref())?;
        let now = epoch_seconds(SystemTime::now());
        let before = self.registry.quarantined().get(name).cloned();
        let quarantine = match &before {
            Some(before) => Quarantine {
                reason: reason.or_else(|| before.reason.clone()),
                frozen: before.frozen || freeze,
                ..before.clone()
            },
            None => Quarantine {
                since: now,
                uid,
                reason,
                frozen: freeze,
            },
        };
        let mut failures = self.flag(name, true);
        let worker = self.tell_quarantine(name, true);
        let frozen = quarantine.frozen;
        if frozen {
            self.note_to_stop(name);
        }
        let is_new = before.as_ref() != Some(&quarantine);
        let by = is_new.then(|| By {
            // What nobody ordered is done by this process.
            uid: uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
            time: now,
            agent: Some(name.clone()),
        });
        let unwritten = self.registry.quarantine(name, quarantine, by).err();
        // Behind what is written, so that whatever is stopped is let go on by somebody.
        if frozen {
            failures.extend(self.freeze(name));
        }
        self.note_unheld(name, failures.clone());
        if is_new {
            tracing::warn!(agent = %name, uid, frozen, "quarantined");
            self.tell_last_deed();
        }
        self.tell_state();
        let (cgroups, namespaces) = self.home(name);
        Ok(Cut {
            name: name.clone(),
            done: match before.filter(|_| !is_new) {
                Some(before) => format!("{name} is quarantined already, {}", told(&before)),
                None if frozen && failures.is_empty() => {
                    format!("{name} is quarantined and its processes are stopped")
                }
                None => format!("{name} is quarantined"),
            },
            failures,
            unwritten,
            cgroups,
            namespaces,
            worker,
        })
    }

    /// Lets an agent go on under the policy. With what the worker is to answer.
    ///
    /// # Errors
    /// There is no such agent, or it cannot be written down: then it stays quarantined.
    pub(in super::super) fn release_quarantined(
        &mut self,
        name: &AgentName,
        uid: u32,
    ) -> anyhow::Result<(String, Option<Asked>)> {
        self.known(name)?;
        let Some(quarantine) = self.registry.quarantined().get(name).cloned() else {
            // An earlier release may not have been done everywhere.
            let failures = self.let_go(name);
            if failures.is_empty() {
                return Ok((format!("{name} is not quarantined"), None));
            }
            return Err(not_everywhere(name, &failures));
        };
        let by = By {
            uid,
            time: epoch_seconds(SystemTime::now()),
            agent: Some(name.clone()),
        };
        self.registry.release(name, by)?;
        tracing::warn!(agent = %name, uid, "released from quarantine");
        self.tell_last_deed();
        self.tell_state();
        // The worker before the kernel: what comes through the gate again is allowed there again.
        let worker = self.tell_quarantine(name, false);
        let failures = self.let_go(name);
        self.write_down();
        self.tell_state();
        if failures.is_empty() {
            let mut text = format!("{name} is released, {}", was(&quarantine));
            if quarantine.frozen {
                for path in self.own_cgroups(name) {
                    if cgroup::is_frozen(&path).unwrap_or(false) {
                        text.push_str(&format!(
                            "\n{} was stopped before the quarantine, and stays so: write 0 to its \
                             cgroup.freeze to let it go on",
                            path.display()
                        ));
                    }
                }
            }
            Ok((text, worker))
        } else {
            Err(not_everywhere(name, &failures))
        }
    }

    /// Takes the kernel's part of a quarantine off an agent. What fails is told, and tried again by
    /// [`Self::hold_quarantines`].
    fn let_go(&mut self, name: &AgentName) -> Vec<String> {
        let mut failures = self.flag(name, false);
        if failures.is_empty() && self.is_alone() {
            self.registry.released(name);
        }
        failures.extend(self.thaw(name));
        self.note_unheld(name, failures.clone());
        failures
    }

    /// Does again what quarantines ask of the kernel wherever it is not so: what could not be done before,
    /// and what somebody else undid. The same for what releases left. Once a second, and at the start.
    pub(super) fn hold_quarantines(&mut self) {
        let quarantined = self.registry.quarantined().iter();
        let held: Vec<(AgentName, bool)> = quarantined
            .map(|(name, quarantine)| (name.clone(), quarantine.frozen))
            .collect();
        for (name, frozen) in &held {
            let mut failures = self.flag(name, true);
            if *frozen {
                failures.extend(self.freeze(name));
            } else {
                failures.extend(self.thaw(name));
            }
            self.note_unheld(name, failures);
        }
        let left = self.registry.stopped().values();
        let left: BTreeSet<AgentName> = left.chain(self.registry.unreleased()).cloned().collect();
        for name in left {
            if !self.registry.quarantined().contains_key(&name) {
                self.let_go(&name);
            }
        }
        self.write_down();
    }

    /// Writes what could not be written when it was done.
    fn write_down(&mut self) {
        let written = self.registry.write();
        if written.is_ok() != self.is_written {
            match &written {
                Ok(()) => tracing::info!("everything is in writing again"),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "not in writing; it is tried again every second"
                ),
            }
        }
        self.is_written = written.is_ok();
    }

    fn note_unheld(&mut self, name: &AgentName, failures: Vec<String>) {
        if failures.is_empty() {
            self.unheld.remove(name);
        } else if self.unheld.get(name) != Some(&failures) {
            tracing::error!(agent = %name, "not done in the kernel: {}", failures.join("; "));
            self.unheld.insert(name.clone(), failures);
        }
    }

    /// What the kernel did not do of an agent's quarantine, or of the end of it.
    pub(super) fn unheld(&self, agent: AgentId) -> Vec<String> {
        let name = self.registry.name(agent);
        let unheld = name.and_then(|name| self.unheld.get(name));
        let again = |what: &String| format!("{what}; it is tried again every second");
        unheld.into_iter().flatten().map(again).collect()
    }

    /// Why an agent may not run.
    pub(in super::super) fn quarantine_of(&self, name: &AgentName) -> Option<String> {
        let quarantine = self.registry.quarantined().get(name)?;
        Some(format!("{name} is quarantined, {}", told(quarantine)))
    }

    /// Why an agent is quarantined, as far as somebody said it.
    pub(in super::super) fn reason_of(&self, name: &AgentName) -> Option<&str> {
        self.registry.quarantined().get(name)?.reason.as_deref()
    }

    /// Whether a quarantine has an agent's processes stopped.
    pub(in super::super) fn is_stopped(&self, name: &AgentName) -> bool {
        let quarantine = self.registry.quarantined().get(name);
        quarantine.is_some_and(|quarantine| quarantine.frozen)
    }

    /// The name of an agent, by its number.
    pub(in super::super) fn name_of(&self, agent: AgentId) -> Option<AgentName> {
        self.registry.name(agent).cloned()
    }

    /// Whether an agent is quarantined, by its number.
    pub(in super::super) fn is_quarantined(&self, agent: AgentId) -> bool {
        super::subtrees::is_quarantined(&self.registry, agent)
    }

    fn known(&self, name: &AgentName) -> anyhow::Result<()> {
        // One that the policy has no more may still run.
        if self.policy.agent(name).is_none() && !self.registry.knows(name) {
            bail!("there is no agent {name}; hint: see `agentguard agent list`");
        }
        Ok(())
    }

    /// Writes the kernel's flag into every entry of an agent. What fails is told.
    fn flag(&mut self, name: &AgentName, quarantined: bool) -> Vec<String> {
        let mut failures = Vec::new();
        for (id, subtree) in &self.subtrees {
            if self.registry.name(subtree.agent) != Some(name) {
                continue;
            }
            let written = self.gate.agent(*id).and_then(|entry| match entry {
                Some(entry) if (entry.flags & agent_flag::QUARANTINED != 0) == quarantined => {
                    Ok(())
                }
                Some(mut entry) => {
                    entry.flags ^= agent_flag::QUARANTINED;
                    self.gate.put_agent(*id, &entry)
                }
                // Without an entry it gets nothing.
                None => Ok(()),
            });
            if let Err(error) = written {
                let error = anyhow::Error::new(error);
                let what = if quarantined { "cut off" } else { "let go on" };
                failures.push(format!(
                    "cannot {what} {}: {error:#}",
                    subtree.path.display()
                ));
            }
        }
        failures
    }

    /// Stops an agent's processes where they are not yet, and writes down before where. What fails is told.
    fn freeze(&mut self, name: &AgentName) -> Vec<String> {
        self.note_to_stop(name);
        self.write_down();
        let stopped = self.registry.stopped();
        self.own_cgroups(name)
            .iter()
            .filter(|path| stopped.get(*path) == Some(name))
            .filter_map(|path| freeze_one(path).err())
            .collect()
    }

    /// Lets go on what quarantines of an agent stopped, whosever it is by now. What fails is told.
    fn thaw(&mut self, name: &AgentName) -> Vec<String> {
        let stopped = self.registry.stopped().iter();
        let stopped: Vec<PathBuf> = stopped
            .filter(|(_, whose)| *whose == name)
            .map(|(path, _)| path.clone())
            .collect();
        let mut failures = Vec::new();
        for path in stopped {
            match cgroup::freeze(&path, false) {
                // With the cgroup went what was stopped.
                Err(error) if error.kind() != ErrorKind::NotFound => failures.push(format!(
                    "cannot let go on the processes of {}: {error}",
                    path.display()
                )),
                _ => self.registry.forget_stopped(&path),
            }
        }
        failures
    }

    fn note_to_stop(&mut self, name: &AgentName) {
        for path in self.own_cgroups(name) {
            self.note_one_to_stop(&path, name);
        }
    }

    /// What is stopped already, and not by a quarantine, stays so when one ends: it is not noted.
    fn note_one_to_stop(&mut self, path: &Path, name: &AgentName) {
        if self.registry.stopped().contains_key(path) || !cgroup::is_frozen(path).unwrap_or(false) {
            self.registry.note_stopped(path, name);
        }
    }

    /// The cgroups of an agent; a run's is below one of them.
    fn own_cgroups(&self, name: &AgentName) -> Vec<PathBuf> {
        let subtrees = self.subtrees.values();
        subtrees
            .filter(|it| self.registry.name(it.agent) == Some(name) && it.run == 0)
            .map(|subtree| subtree.path.clone())
            .collect()
    }

    /// Stops the processes of a subtree that came to a quarantined agent. What fails is done again by
    /// [`Self::hold_quarantines`].
    pub(super) fn freeze_new(&mut self, agent: AgentId, path: &Path) {
        let Some(name) = self.registry.name(agent).cloned() else {
            return;
        };
        let quarantine = self.registry.quarantined().get(&name);
        if quarantine.is_some_and(|quarantine| quarantine.frozen) {
            self.note_one_to_stop(path, &name);
            self.write_down();
            if self.registry.stopped().get(path) == Some(&name)
                && let Err(error) = freeze_one(path)
            {
                tracing::error!("{error}");
            }
        }
    }

    /// Takes what the kernel has quarantined for quarantined, though nothing of it was written: the
    /// disk was full, or the keeper ended in between. Also by the word of a gate of another version.
    pub(super) fn believe_the_kernel(&mut self, others: &[OtherVersion]) -> anyhow::Result<()> {
        let mut agents = self.gate.agents()?;
        for other in others {
            match self.gate.agents_of(other) {
                Ok(more) => agents.extend(more),
                Err(error) => tracing::error!(
                    abi = other.abi,
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "cannot see whom the gate of another version has quarantined; whom this daemon's \
                     registry has stays so"
                ),
            }
        }
        for (id, entry) in agents {
            if entry.flags & agent_flag::QUARANTINED == 0 {
                continue;
            }
            let numbered = self.registry.name(AgentId(entry.agent)).cloned();
            if let Some(name) = &numbered
                && self.registry.quarantined().contains_key(name)
            {
                continue;
            }
            // Where the registry was lost, numbers stand for others by now; where it was not, both are
            // the same but for a cgroup that the policy gave to another agent.
            let owner = self.subtrees.get(&id).map(|subtree| subtree.agent);
            let owner = owner.and_then(|agent| self.registry.name(agent)).cloned();
            let names: BTreeSet<AgentName> = numbered.into_iter().chain(owner).collect();
            for name in names {
                self.believe_quarantined(&name);
            }
        }
        Ok(())
    }

    fn believe_quarantined(&mut self, name: &AgentName) {
        if self.registry.quarantined().contains_key(name) {
            return;
        }
        if self.registry.unreleased().contains(name) {
            tracing::warn!(agent = %name, "released, and not in the kernel yet: it is now");
            return;
        }
        tracing::warn!(agent = %name, "quarantined in the kernel, and not in writing: it stays so");
        let mut stopped = self.own_cgroups(name);
        stopped.retain(|path| cgroup::is_frozen(path).unwrap_or(false));
        // They were stopped with it, as far as anybody knows, and go on with its end.
        for path in &stopped {
            self.registry.note_stopped(path, name);
        }
        let quarantine = Quarantine {
            since: epoch_seconds(SystemTime::now()),
            uid: None,
            reason: None,
            frozen: !stopped.is_empty(),
        };
        if let Err(error) = self.registry.quarantine(name, quarantine, None) {
            tracing::error!(
                error = format!("{error:#}"),
                "a quarantine is not in writing"
            );
        }
    }

    /// Where an agent lives: its cgroups, and the namespaces that were made for it.
    fn home(&self, name: &AgentName) -> (Vec<PathBuf>, Vec<OwnedFd>) {
        let is = |agent: AgentId| self.registry.name(agent) == Some(name);
        let isolated = self.runs.values().filter(|run| is(run.agent));
        let namespaces = isolated
            .filter_map(|run| run.isolated.as_ref()?.handle.try_clone().ok())
            .collect();
        (self.own_cgroups(name), namespaces)
    }

    /// Tells the worker, and what it will answer with. `None`: there is no worker.
    pub(super) fn tell_quarantine(&self, name: &AgentName, quarantined: bool) -> Option<Asked> {
        // One that has no number never ran.
        let agent = self.registry.known_number(name)?;
        self.tell(&ToWorker::Agent {
            id: agent,
            name: name.clone(),
        });
        self.ask_worker(|number| ToWorker::Quarantine {
            number,
            agent,
            quarantined,
        })
    }
}

impl Cut {
    /// Ends the agent's sockets and waits for the worker. `give_up`: the worker does not do it.
    ///
    /// # Errors
    /// The kernel did not do all of it yet, or it could not be written down. It holds all the same
    /// wherever the error does not say otherwise.
    pub(in super::super) fn finish(self, give_up: impl FnOnce()) -> anyhow::Result<String> {
        let destroyed = sockets::destroy(&self.cgroups, self.namespaces);
        let sockets = destroyed.sockets;
        let mut text = format!(
            "{}; {sockets} open {} ended; `agentguard agent release {}` undoes it",
            self.done,
            if sockets == 1 {
                "socket was"
            } else {
                "sockets were"
            },
            self.name
        );
        for failure in &destroyed.failures {
            text.push_str(&format!("\n{failure}"));
        }
        if self.worker.is_some_and(|asked| !asked.wait()) {
            give_up();
            text.push_str("\nthe worker did not end what was under way, and is replaced");
        }
        for failure in &self.failures {
            text.push_str(&format!(
                "\nnot done yet, and tried again every second: {failure}"
            ));
        }
        match self.unwritten {
            None if self.failures.is_empty() => Ok(text),
            None => bail!(
                "{text}; hint: `agentguard agent show {}` tells what is still not done, and nothing \
                 once it is",
                self.name
            ),
            Some(error) => {
                // The hint of the error is about the disk.
                Err(error.context(format!(
                    "{text}\nit could not be written down, which is tried again every second: until it is, a \
                     restart of the daemon forgets who ordered it, when and why, so that the record will not \
                     have that either, and a restart of the host forgets the quarantine itself"
                )))
            }
        }
    }
}

/// Stops the processes of a cgroup, unless they are. One that is gone has none.
fn freeze_one(path: &Path) -> Result<(), String> {
    // What cannot be read may still be written.
    if cgroup::is_frozen(path).unwrap_or(false) {
        return Ok(());
    }
    match cgroup::freeze(path, true) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(format!(
            "cannot stop the processes of {}: {error}",
            path.display()
        )),
        _ => Ok(()),
    }
}

fn not_everywhere(name: &AgentName, failures: &[String]) -> anyhow::Error {
    anyhow!(
        "{name} is released, but not everywhere yet: {}; hint: it is tried again every second; \
         `agentguard agent show {name}` tells what is still not done, and nothing once it is",
        failures.join("; ")
    )
}

/// Since when, by whom and why.
fn told(quarantine: &Quarantine) -> String {
    orders::told(
        quarantine.since,
        quarantine.uid,
        quarantine.reason.as_deref(),
    )
}

fn was(quarantine: &Quarantine) -> String {
    format!("after a quarantine since {}", moment(quarantine.since))
}
