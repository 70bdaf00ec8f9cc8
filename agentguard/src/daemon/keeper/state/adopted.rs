//! Cgroups that were added by hand, wherever and whenever they are there.
//!
//! An operator adds a path. The cgroup there may be removed and made again, as service managers and
//! container engines do with each start, and it may not be there yet when the daemon starts. Whatever
//! is there is governed from the next look on; only an operator takes a path off the list.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use agentguard_keeper::cgroup::Cgroup;
use agentguard_keeper::gate::{Attachment, GateError};
use agentguard_keeper::message::{CLOSED_AT_ONCE, ToWorker};
use agentguard_keeper::sockets::{Connection, Destroyed};
use agentguard_model::{AgentId, AgentName};

use super::super::returned::{Returned, Waiting, Why};
use super::{Keeper, Subtree};

/// The time between two looks at the cgroups that hints ask for. Each second there is one anyway.
const HINTED: Duration = Duration::from_secs(1);

/// As many adopted cgroups that are not governed are told of one agent, and the number of all others.
const TOLD: usize = 4;

/// When hints are followed: the first at once, those right after it by the look of the next second.
#[derive(Debug, Default)]
pub(super) struct Hinted {
    last: Option<Instant>,
}

impl Hinted {
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= HINTED);
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// What became of an adopted cgroup.
enum Adoption {
    /// It is governed.
    Governed,
    /// It is governed by now, and was not before: what its processes have open is older.
    New(AgentId),
}

impl Keeper {
    /// Somebody met a cgroup that nobody knows: a hint, which an agent can cause as often as it likes.
    pub(in super::super) fn follow_subtrees(&mut self) -> anyhow::Result<()> {
        if self.hinted.is_due(Instant::now()) {
            self.follow_cgroups()?;
        }
        Ok(())
    }

    /// Governs what was added by hand, where it is there and not governed yet. What cannot be is told in
    /// the state, and tried again with the next look.
    pub(super) fn follow_adopted(&mut self) {
        let adopted = self.registry.adopted().clone();
        self.ungoverned.retain(|path, _| adopted.contains_key(path));
        for (path, name) in &adopted {
            let governed = self.govern_adopted(path, name).map(|adoption| {
                if let Adoption::New(agent) = adoption {
                    self.returned.push(Returned {
                        agent,
                        cgroup: path.clone(),
                        why: Why::CameBack,
                    });
                }
            });
            // An earlier version let it be added.
            let too_deep = self.too_deep(path).map(|why| {
                format!("{why}: nothing is allowed there, and nothing of it recorded as {name}'s")
            });
            match governed.and(too_deep.map_or(Ok(()), Err)) {
                Ok(()) => {
                    if self.ungoverned.remove(path).is_some() {
                        tracing::warn!(cgroup = %path.display(), agent = %name, "governed again");
                    }
                }
                Err(why) => {
                    if self.ungoverned.get(path) != Some(&why) {
                        tracing::warn!(agent = %name, "{why}");
                        self.ungoverned.insert(path.clone(), why);
                    }
                }
            }
        }
    }

    fn govern_adopted(&mut self, path: &Path, name: &AgentName) -> Result<Adoption, String> {
        let shown = path.display();
        let failed = |error: anyhow::Error| {
            format!("the adopted cgroup {shown} is not governed as it should be: {error:#}")
        };
        let cgroup = match Cgroup::open(path) {
            Ok(cgroup) => cgroup,
            Err(GateError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(format!(
                    "the adopted cgroup {shown} is not there now; it is governed within a second \
                     once it is made again"
                ));
            }
            Err(error) => return Err(failed(error.into())),
        };
        let agent = self.registry.number(name).map_err(failed)?;
        let below_root = path.starts_with(&self.config.paths.cgroup_root);
        let known = self.subtrees.get(&cgroup.id);
        let known = known.filter(|it| it.agent == agent && it.run == 0);
        let whole = |it: &Subtree| it.attached && self.gate.is_whole(cgroup.id).unwrap_or(false);
        if known.is_some_and(|it| below_root || whole(it)) {
            return Ok(Adoption::Governed);
        }
        let attached = self.govern(&cgroup, agent).map_err(failed)?;
        Ok(match attached {
            Some(Attachment::Attached) => Adoption::New(agent),
            // It had the gate before, from above or from an earlier daemon.
            Some(Attachment::Replaced) | None => Adoption::Governed,
        })
    }

    /// Makes a cgroup an agent's, and puts the gate on it where it is not below the root of all agents,
    /// which has it. The entry first: a process below the gate without one gets nothing.
    pub(super) fn govern(
        &mut self,
        cgroup: &Cgroup,
        agent: AgentId,
    ) -> anyhow::Result<Option<Attachment>> {
        let subtree = match self.subtrees.get(&cgroup.id) {
            Some(known) if known.agent == agent && known.run == 0 => Subtree {
                path: cgroup.path.clone(),
                ..known.clone()
            },
            _ => Subtree::new(cgroup.path.clone(), agent, 0),
        };
        self.enrol(cgroup.id, subtree)?;
        if cgroup.path.starts_with(&self.config.paths.cgroup_root) {
            return Ok(None);
        }
        let attachment = self.gate.attach(&cgroup.path)?;
        if let Some(subtree) = self.subtrees.get_mut(&cgroup.id) {
            subtree.attached = true;
        }
        Ok(Some(attachment))
    }

    /// What of an agent's adopted cgroups is not governed now, a sentence each.
    pub(super) fn ungoverned(&self, agent: AgentId) -> Vec<String> {
        let name = self.registry.name(agent);
        let adopted = self.registry.adopted();
        let ungoverned = self.ungoverned.iter();
        let mut own = ungoverned.filter(|(path, _)| name.is_some() && adopted.get(*path) == name);
        let mut told: Vec<String> = own
            .by_ref()
            .take(TOLD)
            .map(|(_, why)| why.clone())
            .collect();
        match own.count() {
            0 => {}
            more => told.push(format!(
                "{more} more of its adopted cgroups are not there, or not governed as they should be"
            )),
        }
        told
    }

    /// Cgroups in which something may be open that is older than the gate on them.
    pub(in super::super) fn returned(&mut self) -> &mut Waiting {
        &mut self.returned
    }

    /// Lets a connection go on that is older than its adoption, if it is of this cgroup and of no other
    /// agent. Not that of an agent that is quarantined.
    pub(in super::super) fn tolerate(
        &mut self,
        agent: AgentId,
        cgroup: u64,
        connection: &Connection,
    ) -> bool {
        if self.is_quarantined(agent) {
            return false;
        }
        match self.gate.keep_connection(connection, cgroup, agent.0) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(%error, "a connection that is tolerated is closed: the gate does not take it");
                false
            }
        }
    }

    /// Whether a UNIX socket of this name outside is refused to an agent. Where that cannot be told, it is.
    pub(in super::super) fn refuses_unix(&self, agent: AgentId, name: &[u8]) -> bool {
        self.gate.refuses_unix(agent.0, name).unwrap_or(true)
    }

    /// Whether a connection goes on by [`Self::tolerate`]. Where that cannot be told, it does.
    pub(in super::super) fn is_tolerated(&self, connection: &Connection) -> bool {
        self.gate.keeps(connection).unwrap_or(true)
    }

    /// What was open before the gate was closed: it is recorded.
    pub(in super::super) fn note_closed(&self, agent: AgentId, closed: &Destroyed) {
        for sockets in closed.told.chunks(CLOSED_AT_ONCE) {
            self.tell(&ToWorker::Closed {
                agent,
                sockets: sockets.to_vec(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, HINTED, Hinted, Instant};

    #[test]
    fn the_first_hint_is_followed_at_once_and_a_flood_of_them_once_a_second() {
        let mut hinted = Hinted::default();
        let start = Instant::now();
        assert!(hinted.is_due(start));
        let later = |part: u32| start + HINTED * part / 20;
        let followed = (0..100).filter(|part| hinted.is_due(later(*part))).count();
        assert_eq!(followed, 4, "in the five seconds after the first");
        assert!(hinted.is_due(start + Duration::from_secs(60)));
    }
}
