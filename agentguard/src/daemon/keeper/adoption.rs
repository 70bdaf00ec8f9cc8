//! `agent add`: a workload that runs already is put under the gate.
//!
//! The gate first, so that nothing new begins without it; then the guard listens where the workload
//! lives; then what it has open is ended, so that its programs see an error and not a silence: nobody
//! decided on that, and the gate lets none of it through. Where the policy tolerates them, established
//! TCP connections are made known to the gate instead, and go on.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use agentguard_keeper::home::{Known, Look, Past};
use agentguard_keeper::message::{CLOSED_AT_ONCE, Done, ToWorker};
use agentguard_keeper::sockets;
use agentguard_model::{AgentId, AgentName};
use agentguard_policy::{OnAdoption, OnMissing};
use anyhow::bail;

use super::registry::By;
use super::residents;
use super::state::{Keeper, epoch_seconds};
use super::{Shared, lock, resources};

/// A cgroup that is under the gate by now.
pub(super) struct Adopted {
    pub(super) agent: AgentId,
    pub(super) path: PathBuf,
    /// The cgroup's id, which is the agent's key in the gate.
    pub(super) cgroup: u64,
    /// Whether it was not before.
    pub(super) is_new: bool,
}

/// Puts a cgroup under the gate and ends what is open there. With what was done, for a person.
///
/// # Errors
/// It cannot be governed; or `run` is strict, and what lives there can get around the gate or is not
/// looked through to the end.
pub(super) fn adopt(
    keeper: &Shared,
    name: &AgentName,
    path: &Path,
    uid: u32,
) -> anyhow::Result<String> {
    let strict = lock(keeper).is_strict();
    if strict {
        if tolerates(keeper, name) {
            bail!(
                "the policy tolerates what {name} has open when it is adopted, on which nobody decided, and \
                 `run` is strict; hint: `on_adoption: close` for this agent, or `run: {{strict: false}}` in \
                 the configuration"
            );
        }
        let known = lock(keeper).known_of_host();
        contained(path, known)?;
    }
    bounded(keeper, name, path)?;
    let adopted = lock(keeper).adopt(name, path)?;
    residents::look_at(keeper, adopted.agent);
    let mut text = format!("{} is governed as {name}", adopted.path.display());
    if adopted.is_new {
        let closed = if tolerates(keeper, name) {
            sockets::destroy_held_except(std::slice::from_ref(&adopted.path), &|connection| {
                lock(keeper).tolerate(adopted.agent, adopted.cgroup, connection)
            })
        } else {
            sockets::destroy_held(std::slice::from_ref(&adopted.path))
        };
        text.push_str(&match closed.kept {
            0 => String::new(),
            1 => "; 1 connection was found in it and goes on".to_owned(),
            more => format!("; {more} connections were found in it and go on"),
        });
        text.push_str(&match closed.sockets {
            0 if closed.kept > 0 => "; nothing else was open in it".to_owned(),
            0 => "; no open socket was found in it".to_owned(),
            1 => "; 1 open socket was found in it and closed".to_owned(),
            more => format!("; {more} open sockets were found in it and closed"),
        });
        let shut = sockets::shut_local(&adopted.path, &|name| {
            lock(keeper).refuses_unix(adopted.agent, name)
        });
        text.push_str(&match shut.connections {
            0 => String::new(),
            1 => "; 1 connection to a UNIX socket that agents do not reach was closed".to_owned(),
            more => {
                format!("; {more} connections to UNIX sockets that agents do not reach were closed")
            }
        });
        for failure in closed.failures.iter().chain(&shut.failures) {
            text.push_str(&format!("\n{failure}"));
        }
        lock(keeper).note_adopted(&adopted, name, &closed, uid);
        lock(keeper).tell_shut(adopted.agent, &shut);
        if strict && !(closed.failures.is_empty() && shut.failures.is_empty()) {
            // Without the gate it would be free again.
            lock(keeper).tell_state();
            bail!(
                "{text}\n`run` is strict, and what is open in it was not all closed; hint: the gate stays \
                 on it: end what runs there, or `agentguard agent remove {name}` and start anew"
            );
        }
    } else {
        text.push_str(", as it was before");
        if !tolerates(keeper, name) {
            text.push_str(&end_tolerated(keeper, &adopted, name, uid));
        }
    }
    resources::look_now(keeper);
    let keeper = lock(keeper);
    let warnings = keeper.residents().warnings(adopted.agent);
    for warning in warnings.into_iter().chain(keeper.unbounded(adopted.agent)) {
        text.push_str(&format!("\n{warning}"));
    }
    keeper.tell_state();
    Ok(text)
}

/// Ends what goes on by a policy that is not in force any more. With what was done, for a person.
fn end_tolerated(keeper: &Shared, adopted: &Adopted, name: &AgentName, uid: u32) -> String {
    let ended = sockets::destroy_connections(std::slice::from_ref(&adopted.path), &|connection| {
        lock(keeper).is_tolerated(connection)
    });
    if ended.sockets > 0 {
        lock(keeper).note_adopted(adopted, name, &ended, uid);
    }
    let mut text = match ended.sockets {
        0 => String::new(),
        1 => "; 1 connection that was tolerated is closed".to_owned(),
        more => format!("; {more} connections that were tolerated are closed"),
    };
    for failure in &ended.failures {
        text.push_str(&format!("\n{failure}"));
    }
    text
}

/// Whether the policy lets connections of an agent's go on that are older than its adoption.
fn tolerates(keeper: &Shared, name: &AgentName) -> bool {
    lock(keeper)
        .policy()
        .agent(name)
        .is_some_and(|agent| agent.on_adoption == OnAdoption::Tolerate)
}

/// Whether a cgroup can be held to the limits of an agent. One that is not there is told later.
fn bounded(keeper: &Shared, name: &AgentName, path: &Path) -> anyhow::Result<()> {
    let (limits, missing) = lock(keeper).limits_of(name);
    let Ok(path) = path.canonicalize() else {
        return Ok(());
    };
    if limits.is_empty() || missing == OnMissing::Warn {
        return Ok(());
    }
    let lacks = resources::lacks(keeper, &path, &limits);
    if let Some(first) = lacks.first() {
        let what: Vec<&str> = lacks.iter().map(|lack| lack.what.as_str()).collect();
        bail!(
            "it cannot be held to the limits of {name}: {}; hint: {}; or `resources: {{missing: warn}}` for this \
             agent in the policy",
            what.join("; "),
            first.hint
        );
    }
    Ok(())
}

/// Whether nothing in a cgroup can get around the gate: only what was looked at to the end can be said to.
fn contained(path: &Path, known: Known) -> anyhow::Result<()> {
    let mut look = Look::new(vec![path.to_owned()], true).with_descriptors(known);
    let finished = look.advance(Instant::now() + residents::PATIENCE);
    let uncontained = look.uncontained().unwrap_or_default();
    if !uncontained.is_empty() {
        bail!(
            "what runs in {} is not contained, and `run` is strict: {}; hint: start it without these \
             capabilities, and without what it has open there, or set `run: {{strict: false}}` in the configuration",
            path.display(),
            uncontained.join("; ")
        );
    }
    let mut omitted = look.omitted();
    if !finished {
        omitted.push(residents::too_long(residents::PATIENCE));
    }
    for more in sockets::unseen(path) {
        if !omitted.contains(&more) {
            omitted.push(more);
        }
    }
    if !omitted.is_empty() {
        bail!(
            "what runs in {} was not looked through to the end, and `run` is strict: {}; hint: bound it \
             (`pids.max`, `cgroup.max.descendants`), or set `run: {{strict: false}}` in the configuration",
            path.display(),
            omitted.join("; ")
        );
    }
    Ok(())
}

impl Keeper {
    /// Has recorded which local connections were closed.
    pub(super) fn tell_shut(&self, agent: AgentId, shut: &sockets::Shut) {
        for peers in shut.told.chunks(CLOSED_AT_ONCE) {
            self.tell(&ToWorker::Shut {
                agent,
                peers: peers.to_vec(),
            });
        }
    }

    /// Has it recorded: each socket up to a bound, and the adoption with the number of all.
    fn note_adopted(
        &mut self,
        adopted: &Adopted,
        name: &AgentName,
        closed: &sockets::Destroyed,
        uid: u32,
    ) {
        for sockets in closed.told.chunks(CLOSED_AT_ONCE) {
            self.tell(&ToWorker::Closed {
                agent: adopted.agent,
                sockets: sockets.to_vec(),
            });
        }
        for sockets in closed.told_kept.chunks(CLOSED_AT_ONCE) {
            self.tell(&ToWorker::Tolerated {
                agent: adopted.agent,
                sockets: sockets.to_vec(),
            });
        }
        // At most a few kinds.
        let past = self.residents().past.get(&adopted.agent);
        let past = past.cloned().unwrap_or_default();
        if !past.is_empty() {
            self.tell(&ToWorker::Past {
                agent: adopted.agent,
                past: past.clone(),
            });
        }
        let by = By {
            uid,
            time: epoch_seconds(SystemTime::now()),
            agent: Some(name.clone()),
        };
        let done = Done::Adopted {
            cgroup: adopted.path.display().to_string(),
            closed: u32::try_from(closed.sockets).unwrap_or(u32::MAX),
            tolerated: u32::try_from(closed.kept).unwrap_or(u32::MAX),
            past: past.iter().map(Past::what).collect(),
        };
        self.note_deed(by, done);
    }
}
