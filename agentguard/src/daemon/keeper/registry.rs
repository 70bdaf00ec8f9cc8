//! The numbers of agents, the cgroups that were put under the gate by hand, who is quarantined, which
//! switches operators have set, and what was done and is not in the record yet: what the keeper remembers
//! over restarts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use agentguard_keeper::message::{Deed, Done, MAX_SWITCHES, Quarantine, Switch};
use agentguard_model::{AgentId, AgentName};
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Run numbers set aside at once.
const RUN_BLOCK: u32 = 1024;

/// Deeds that wait for a worker to record them. While there are so many, none is done that makes the
/// guard allow more; one that makes it allow less is done, and the oldest is forgotten.
const DEEDS: usize = 1024;

/// Cgroups that are put under the gate by hand, at most.
const ADOPTED: usize = 4096;
/// Bytes of their paths, so that a new worker can be told all of them.
const ADOPTED_BYTES: usize = 4 * 1024 * 1024;

/// The version of the file. One without a number is the first, from before there was one.
const VERSION: u32 = 3;

/// One JSON file, replaced as a whole.
#[derive(Debug)]
pub(super) struct Registry {
    path: PathBuf,
    contents: Contents,
    /// The agents by their numbers.
    names: HashMap<u32, AgentName>,
    /// Whether the file does not have all of it.
    unwritten: bool,
    /// The last number that was given to a run.
    next_run: u32,
    #[cfg(test)]
    writes: std::cell::Cell<u32>,
}

/// What the file says of itself, whatever else is in it.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    version: u32,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    version: u32,
    /// A number is never given to another agent: records and pinned maps hold it.
    agents: BTreeMap<AgentName, u32>,
    /// Cgroup directories.
    adopted: BTreeMap<PathBuf, AgentName>,
    /// The last number that is set aside for runs.
    last_run: u32,
    /// Who is quarantined.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    quarantined: BTreeMap<AgentName, Quarantine>,
    /// Cgroups whose processes a quarantine stopped and nobody has let go on, and whose they were then:
    /// by now they may be another's, or nobody's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    stopped: BTreeMap<PathBuf, AgentName>,
    /// Who was released, and may still be cut off in the kernel.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    unreleased: BTreeSet<AgentName>,
    /// The switches that operators have set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    switches: BTreeMap<String, Switch>,
    /// What was done and is not in the record yet, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deeds: Vec<Deed>,
    /// The last number of a deed.
    #[serde(default, skip_serializing_if = "is_zero")]
    last_deed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Who did something, to whom and when.
#[derive(Clone, Debug)]
pub(super) struct By {
    /// In the initial user namespace.
    pub(super) uid: u32,
    /// Seconds since the epoch.
    pub(super) time: u64,
    pub(super) agent: Option<AgentName>,
}

impl Registry {
    /// Reads the file, or begins one.
    pub(super) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let mut contents = match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Contents::default(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        contents.version = VERSION;
        let next_run = contents.last_run;
        let numbered = contents.agents.iter();
        let names = numbered.map(|(name, number)| (*number, name.clone()));
        Ok(Self {
            path,
            names: names.collect(),
            contents,
            unwritten: false,
            next_run,
            #[cfg(test)]
            writes: std::cell::Cell::default(),
        })
    }

    /// The number of an agent, given for good if it has none yet.
    pub(super) fn number(&mut self, name: &AgentName) -> anyhow::Result<AgentId> {
        if let Some(number) = self.known_number(name) {
            return Ok(number);
        }
        self.number_all([name])?;
        let given = self.known_number(name);
        given.with_context(|| format!("{name} was given no number"))
    }

    /// Gives each of these that has none yet a number, for good. The file is written once, however many
    /// they are.
    pub(super) fn number_all<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a AgentName>,
    ) -> anyhow::Result<()> {
        let mut last = self.contents.agents.values().max().copied().unwrap_or(0);
        let mut given = BTreeMap::new();
        for name in names {
            if self.knows(name) || given.contains_key(name) {
                continue;
            }
            let Some(number) = last.checked_add(1) else {
                bail!("there are no numbers left for agents");
            };
            given.insert(name.clone(), number);
            last = number;
        }
        if given.is_empty() {
            return Ok(());
        }
        self.change(|contents| contents.agents.extend(given.clone()))?;
        let named = given.into_iter().map(|(name, number)| (number, name));
        self.names.extend(named);
        Ok(())
    }

    /// The number of an agent, if it has one.
    pub(super) fn known_number(&self, name: &AgentName) -> Option<AgentId> {
        self.contents.agents.get(name).copied().map(AgentId)
    }

    /// The agent that a number stands for.
    pub(super) fn name(&self, id: AgentId) -> Option<&AgentName> {
        self.names.get(&id.0)
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

    /// Whether one more can be put under the gate by hand.
    ///
    /// # Errors
    /// There are too many: each is looked at every second.
    pub(super) fn has_room_to_adopt(&self, cgroup: &Path) -> anyhow::Result<()> {
        let adopted = &self.contents.adopted;
        let bytes: usize = adopted.keys().map(|path| path.as_os_str().len()).sum();
        if adopted.len() >= ADOPTED || bytes + cgroup.as_os_str().len() > ADOPTED_BYTES {
            bail!(
                "{} cgroups are added already, and at most {ADOPTED} can be, with paths of {} KiB in \
                 all; hint: `agentguard agent remove NAME --cgroup PATH` takes off those that do not come \
                 back; or add one above several",
                adopted.len(),
                ADOPTED_BYTES / 1024
            );
        }
        Ok(())
    }

    /// Remembers one.
    pub(super) fn adopt(&mut self, cgroup: &Path, name: &AgentName) -> anyhow::Result<()> {
        self.change(|contents| {
            contents.adopted.insert(cgroup.to_owned(), name.clone());
        })
    }

    /// Forgets some.
    pub(super) fn forget(&mut self, cgroups: &[PathBuf]) -> anyhow::Result<()> {
        self.change(|contents| {
            for cgroup in cgroups {
                contents.adopted.remove(cgroup);
            }
        })
    }

    /// Writes the file whether or not it has everything.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn rewrite(&mut self) -> anyhow::Result<()> {
        self.unwritten = true;
        self.write()
    }

    /// Who is quarantined.
    pub(super) fn quarantined(&self) -> &BTreeMap<AgentName, Quarantine> {
        &self.contents.quarantined
    }

    /// Whether this agent was ever given a number.
    pub(super) fn knows(&self, name: &AgentName) -> bool {
        self.contents.agents.contains_key(name)
    }

    /// Quarantines an agent, for good. `by`: who does it now, for the record. This holds at once, also
    /// if it cannot be written: then it is written with the next change.
    ///
    /// # Errors
    /// It cannot be written, and would be forgotten by a restart of the host.
    pub(super) fn quarantine(
        &mut self,
        name: &AgentName,
        quarantine: Quarantine,
        by: Option<By>,
    ) -> anyhow::Result<()> {
        let contents = &mut self.contents;
        if let Some(by) = by {
            contents.make_room();
            let done = Done::Quarantined {
                reason: quarantine.reason.clone(),
                frozen: quarantine.frozen,
            };
            contents.note(by, done);
        }
        contents.quarantined.insert(name.clone(), quarantine);
        contents.unreleased.remove(name);
        self.unwritten = true;
        self.write()
    }

    /// Cgroups that were stopped and not let go on, and by whose quarantine.
    pub(super) fn stopped(&self) -> &BTreeMap<PathBuf, AgentName> {
        &self.contents.stopped
    }

    /// Remembers that a cgroup is stopped, by the last quarantine that did. Written with the next change, or by [`Self::write`].
    pub(super) fn note_stopped(&mut self, cgroup: &Path, name: &AgentName) {
        if self.contents.stopped.get(cgroup) != Some(name) {
            let stopped = &mut self.contents.stopped;
            stopped.insert(cgroup.to_owned(), name.clone());
            self.unwritten = true;
        }
    }

    /// A stopped cgroup was let go on, or is gone. Written as [`Self::note_stopped`].
    pub(super) fn forget_stopped(&mut self, cgroup: &Path) {
        self.unwritten |= self.contents.stopped.remove(cgroup).is_some();
    }

    /// Writes what the file does not have yet.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&mut self) -> anyhow::Result<()> {
        if self.unwritten {
            self.save(&self.contents)?;
            self.unwritten = false;
        }
        Ok(())
    }

    /// Notes what was done already and makes the guard allow less. It is noted also if it cannot be
    /// written: then it is written with the next change.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn note(&mut self, by: By, done: Done) -> anyhow::Result<()> {
        self.contents.make_room();
        self.contents.note(by, done);
        self.unwritten = true;
        self.write()
    }

    /// Ends a quarantine. The agent is among [`Self::unreleased`] until [`Self::released`].
    ///
    /// # Errors
    /// It cannot be written, or told: then the agent stays quarantined.
    pub(super) fn release(&mut self, name: &AgentName, by: By) -> anyhow::Result<()> {
        self.has_room_for_deeds()?;
        self.change(|contents| {
            contents.quarantined.remove(name);
            contents.unreleased.insert(name.clone());
            contents.note(by, Done::Released);
        })
    }

    /// Who was released, and may still be cut off in the kernel: what that says is not a quarantine.
    pub(super) fn unreleased(&self) -> &BTreeSet<AgentName> {
        &self.contents.unreleased
    }

    /// The kernel has it too. Written as [`Self::note_stopped`].
    pub(super) fn released(&mut self, name: &AgentName) {
        self.unwritten |= self.contents.unreleased.remove(name);
    }

    /// The switches that operators have set, also those that no policy declares any more.
    pub(super) fn switches(&self) -> &BTreeMap<String, Switch> {
        &self.contents.switches
    }

    /// Sets a switch; `None` leaves it to the policy. `reason`: why now, for the record.
    ///
    /// # Errors
    /// There are too many, it cannot be written, or told: then it is as before. What a switch makes the
    /// guard do is not known here: it may allow more.
    pub(super) fn switch(
        &mut self,
        name: &str,
        set: Option<Switch>,
        by: By,
        reason: Option<String>,
    ) -> anyhow::Result<()> {
        let switches = &self.contents.switches;
        if set.is_some() && !switches.contains_key(name) && switches.len() >= MAX_SWITCHES {
            bail!(
                "{MAX_SWITCHES} switches are set already, and no more can be; hint: leave some to the                  policy: `agentguard policy switch NAME default`"
            );
        }
        self.has_room_for_deeds()?;
        self.change(|contents| {
            let on = set.as_ref().map(|set| set.on);
            match set {
                Some(set) => contents.switches.insert(name.to_owned(), set),
                None => contents.switches.remove(name),
            };
            let name = name.to_owned();
            contents.note(by, Done::Switched { name, on, reason });
        })
    }

    /// Notes that the gate is about to be taken off everything.
    ///
    /// # Errors
    /// It cannot be written: then it must not be done.
    pub(super) fn detached(&mut self, by: By, cgroups: u32) -> anyhow::Result<()> {
        self.has_room_for_deeds()?;
        self.change(|contents| contents.note(by, Done::Detached { cgroups }))
    }

    fn has_room_for_deeds(&self) -> anyhow::Result<()> {
        if self.contents.deeds.len() >= DEEDS {
            bail!(
                "{DEEDS} changes wait for the record already, which takes none; hint: see what is \
                 wrong with it: `agentguard status`"
            );
        }
        Ok(())
    }

    /// What was done and is not in the record yet, the oldest first.
    pub(super) fn deeds(&self) -> &[Deed] {
        &self.contents.deeds
    }

    /// It is in the record by now.
    pub(super) fn recorded(&mut self, number: u64) -> anyhow::Result<()> {
        if !self.contents.deeds.iter().any(|deed| deed.number == number) {
            return Ok(());
        }
        self.change(|contents| contents.deeds.retain(|deed| deed.number != number))
    }

    /// Changes what is remembered, on disk first: what cannot be written has not changed. What changes
    /// nothing is not written.
    fn change(&mut self, change: impl FnOnce(&mut Contents)) -> anyhow::Result<()> {
        let mut contents = self.contents.clone();
        change(&mut contents);
        if contents != self.contents || self.unwritten {
            self.save(&contents)?;
            self.contents = contents;
            self.unwritten = false;
        }
        Ok(())
    }

    fn save(&self, contents: &Contents) -> anyhow::Result<()> {
        let failed = || {
            format!(
                "cannot write {}; hint: see whether its disk is full or read-only (df, findmnt), then try again",
                self.path.display()
            )
        };
        #[cfg(test)]
        self.writes.set(self.writes.get() + 1);
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

fn parse(path: &Path, bytes: &[u8]) -> anyhow::Result<Contents> {
    let shown = path.display();
    let damaged = || {
        format!(
            "{shown} is damaged; hint: what was under the gate stays so; put a copy of it from a backup \
             in its place, or move it away: then agents get new numbers, and what was added, quarantined \
             and switched is so to be again (`agentguard agent add`, `quarantine`, `policy switch`)"
        )
    };
    let head: Head = serde_json::from_slice(bytes).with_context(damaged)?;
    if head.version > VERSION {
        bail!(
            "{shown} is of version {}, and this agentguard knows versions up to {VERSION}; hint: a newer \
             agentguard wrote it: start that one, or put a copy from before the upgrade in its place",
            head.version
        );
    }
    serde_json::from_slice(bytes).with_context(damaged)
}

impl Contents {
    fn make_room(&mut self) {
        if self.deeds.len() >= DEEDS {
            tracing::error!(
                limit = DEEDS,
                "too many changes wait for the record; the oldest is forgotten"
            );
            self.deeds.remove(0);
        }
    }

    fn note(&mut self, by: By, done: Done) {
        self.last_deed = self.last_deed.saturating_add(1);
        self.deeds.push(Deed {
            number: self.last_deed,
            time: by.time,
            uid: by.uid,
            agent: by.agent,
            done,
        });
    }
}

#[cfg(test)]
mod tests;
