//! Quarantine: an agent that nothing leaves and nothing reaches, whatever the policy says.
//!
//! The kernel first, so that the next packet is dropped; then the disk; then those who wait are told:
//! the worker, which ends what is under way, and the owners of sockets. [`Keeper::quarantine`] does what
//! needs the keeper's lock, [`Cut::finish`] what waits.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentguard_common::map::agent_flag;
use agentguard_keeper::message::{Deed, Done, MAX_REASON, Quarantine, ToWorker};
use agentguard_keeper::{cgroup, sockets};
use agentguard_model::{AgentId, AgentName};
use anyhow::bail;
use jiff::Timestamp;

use super::super::registry::By;
use super::super::taken::Cuts;
use super::{Keeper, epoch_seconds};

/// How long the worker may take to end what is under way for an agent. Then it is replaced.
const CUT: Duration = Duration::from_secs(5);

/// A quarantine that holds in the kernel, and what is still to be done without the lock.
pub(in super::super) struct Cut {
    name: AgentName,
    /// What was done, for a person.
    done: String,
    /// What could not be done.
    failures: Vec<String>,
    /// Why a restart of the host would forget it.
    unwritten: Option<anyhow::Error>,
    cgroups: Vec<PathBuf>,
    namespaces: Vec<OwnedFd>,
    /// What the worker answers with.
    worker: Option<Asked>,
}

/// A question to the worker.
pub(in super::super) struct Asked {
    number: u32,
    cuts: Arc<Cuts>,
}

impl Asked {
    /// Waits until the worker has done it. `false`: not in time.
    pub(in super::super) fn wait(&self) -> bool {
        self.cuts.wait(self.number, CUT)
    }
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
        uid: u32,
    ) -> anyhow::Result<Cut> {
        self.known(name)?;
        if reason
            .as_ref()
            .is_some_and(|reason| reason.chars().count() > MAX_REASON)
        {
            bail!("a reason has at most {MAX_REASON} characters; hint: name a ticket");
        }
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
                uid: Some(uid),
                reason,
                frozen: freeze,
            },
        };
        let mut failures = self.flag(name, true);
        let frozen = quarantine.frozen;
        let is_new = before.as_ref() != Some(&quarantine);
        let by = is_new.then(|| By {
            uid,
            time: now,
            agent: Some(name.clone()),
        });
        let unwritten = self.registry.quarantine(name, quarantine, by).err();
        if frozen {
            failures.extend(self.freeze(name, true));
        }
        if is_new {
            tracing::warn!(agent = %name, uid, frozen, "quarantined");
            self.tell_last_deed();
        }
        self.tell_state();
        let worker = self.tell_quarantine(name, true);
        let (cgroups, namespaces) = self.home(name);
        Ok(Cut {
            name: name.clone(),
            done: match before.filter(|_| !is_new) {
                Some(before) => format!("{name} is quarantined already, {}", told(&before)),
                None if frozen => format!("{name} is quarantined and its processes are stopped"),
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
            return Ok((format!("{name} is not quarantined"), None));
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
        let mut failures = self.flag(name, false);
        if quarantine.frozen {
            failures.extend(self.freeze(name, false));
        }
        if failures.is_empty() {
            Ok((format!("{name} is released, {}", was(&quarantine)), worker))
        } else {
            bail!(
                "{name} is released, but not everywhere: {}; hint: run it again, or restart the daemon",
                failures.join("; ")
            )
        }
    }

    /// Why an agent may not run.
    pub(in super::super) fn quarantine_of(&self, name: &AgentName) -> Option<String> {
        let quarantine = self.registry.quarantined().get(name)?;
        Some(format!("{name} is quarantined, {}", told(quarantine)))
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
                Some(mut entry) => {
                    if quarantined {
                        entry.flags |= agent_flag::QUARANTINED;
                    } else {
                        entry.flags &= !agent_flag::QUARANTINED;
                    }
                    self.gate.put_agent(*id, &entry)
                }
                // Without an entry it gets nothing.
                None => Ok(()),
            });
            if let Err(error) = written {
                let error = anyhow::Error::new(error);
                failures.push(format!("{}: {error:#}", subtree.path.display()));
            }
        }
        failures
    }

    /// Stops an agent's processes, or lets them go on. What fails is told.
    fn freeze(&self, name: &AgentName, frozen: bool) -> Vec<String> {
        let mine = self.subtrees.values().filter(|subtree| {
            // A run's cgroup is below its agent's.
            self.registry.name(subtree.agent) == Some(name) && subtree.run == 0
        });
        let what = if frozen { "stop" } else { "let go on" };
        mine.filter_map(|subtree| {
            let error = cgroup::freeze(&subtree.path, frozen).err()?;
            let path = subtree.path.display();
            Some(format!("cannot {what} the processes of {path}: {error}"))
        })
        .collect()
    }

    /// Stops what a quarantine that stops processes is about, after a start.
    pub(super) fn freeze_again(&self) {
        for (name, quarantine) in self.registry.quarantined() {
            if quarantine.frozen {
                for failure in self.freeze(name, true) {
                    tracing::error!(agent = %name, "{failure}");
                }
            }
        }
    }

    /// Stops the processes of a subtree that came to a quarantined agent.
    pub(super) fn freeze_new(&self, agent: AgentId, path: &std::path::Path) {
        let quarantine = self
            .registry
            .name(agent)
            .and_then(|name| self.registry.quarantined().get(name));
        if quarantine.is_some_and(|quarantine| quarantine.frozen)
            && let Err(error) = cgroup::freeze(path, true)
        {
            tracing::error!(cgroup = %path.display(), %error, "cannot stop its processes");
        }
    }

    /// Takes what the kernel has quarantined for quarantined, though nothing of it was written: the
    /// disk was full, or the keeper ended in between.
    pub(super) fn believe_the_kernel(&mut self) -> anyhow::Result<()> {
        for (_, entry) in self.gate.agents()? {
            if entry.flags & agent_flag::QUARANTINED == 0 {
                continue;
            }
            let Some(name) = self.registry.name(AgentId(entry.agent)).cloned() else {
                continue;
            };
            if self.registry.quarantined().contains_key(&name) {
                continue;
            }
            tracing::warn!(agent = %name, "quarantined in the kernel, and not in writing: it stays so");
            let quarantine = Quarantine {
                since: epoch_seconds(SystemTime::now()),
                uid: None,
                reason: None,
                frozen: false,
            };
            if let Err(error) = self.registry.quarantine(&name, quarantine, None) {
                tracing::error!(
                    error = format!("{error:#}"),
                    "a quarantine is not in writing"
                );
            }
        }
        Ok(())
    }

    /// Where an agent lives: its cgroups, and the namespaces that were made for it.
    fn home(&self, name: &AgentName) -> (Vec<PathBuf>, Vec<OwnedFd>) {
        let is = |agent: AgentId| self.registry.name(agent) == Some(name);
        let subtrees = self.subtrees.values();
        let cgroups = subtrees
            .filter(|subtree| is(subtree.agent) && subtree.run == 0)
            .map(|subtree| subtree.path.clone())
            .collect();
        let isolated = self.runs.values().filter(|run| is(run.agent));
        let namespaces = isolated
            .filter_map(|run| run.isolated.as_ref()?.handle.try_clone().ok())
            .collect();
        (cgroups, namespaces)
    }

    /// Tells the worker, and what it will answer with. `None`: there is no worker.
    pub(super) fn tell_quarantine(&self, name: &AgentName, quarantined: bool) -> Option<Asked> {
        // One that has no number never ran.
        let agent = self.registry.known_number(name)?;
        self.worker.as_ref()?;
        let cuts = self.cuts.clone();
        let number = cuts.next();
        self.tell(&ToWorker::Agent {
            id: agent,
            name: name.clone(),
        });
        self.tell(&ToWorker::Quarantine {
            number,
            agent,
            quarantined,
        });
        Some(Asked { number, cuts })
    }

    /// The worker has done what [`Self::tell_quarantine`] told it.
    pub(in super::super) fn cuts(&self) -> Arc<Cuts> {
        self.cuts.clone()
    }

    /// Tells the worker what was done and is not in the record yet.
    pub(super) fn tell_deeds(&self) {
        for deed in self.registry.deeds() {
            self.tell_deed(deed);
        }
    }

    fn tell_last_deed(&self) {
        if let Some(deed) = self.registry.deeds().last() {
            self.tell_deed(deed);
        }
    }

    /// Notes what was done for the record. Where it cannot be written down it is told all the same.
    pub(in super::super) fn note_deed(&mut self, by: By, done: Done) {
        if let Err(error) = self.registry.note(by, done) {
            tracing::error!(error = format!("{error:#}"), "a change is not in writing");
        }
        self.tell_last_deed();
    }

    fn tell_deed(&self, deed: &Deed) {
        self.tell(&ToWorker::Deed(Box::new(deed.clone())));
    }

    /// What was done is in the record.
    pub(in super::super) fn recorded(&mut self, number: u64) -> anyhow::Result<()> {
        self.registry.recorded(number)
    }
}

impl Cut {
    /// Ends the agent's sockets and waits for the worker. `give_up`: the worker does not do it.
    ///
    /// # Errors
    /// It is done, and could not be written down.
    pub(in super::super) fn finish(mut self, give_up: impl FnOnce()) -> anyhow::Result<String> {
        let destroyed = sockets::destroy(&self.cgroups, self.namespaces);
        self.failures.extend(destroyed.failures);
        if self.worker.is_some_and(|asked| !asked.wait()) {
            give_up();
            self.failures
                .push("the worker did not end what was under way, and is replaced".to_owned());
        }
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
        for failure in &self.failures {
            text.push_str(&format!("\n{failure}"));
        }
        match self.unwritten {
            None => Ok(text),
            Some(error) => {
                // The hint of the error is about the disk.
                Err(error.context(format!(
                    "{text}\na restart of the host would forget it, for it could not be written down"
                )))
            }
        }
    }
}

/// Since when, by whom and why.
fn told(quarantine: &Quarantine) -> String {
    let mut words = format!("since {}", moment(quarantine.since));
    if let Some(uid) = quarantine.uid {
        words.push_str(&format!(", by uid {uid}"));
    }
    if let Some(reason) = &quarantine.reason {
        words.push_str(&format!(": {reason}"));
    }
    words
}

fn was(quarantine: &Quarantine) -> String {
    format!("after a quarantine since {}", moment(quarantine.since))
}

fn moment(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| "?".to_owned(), |time| time.to_string())
}
