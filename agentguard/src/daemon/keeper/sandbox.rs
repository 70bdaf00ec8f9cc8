//! What a run may not reach, beside the network: the system calls, the processes and the files that
//! lead around the gate.
//!
//! What the host has for it is asked once, when the daemon starts. What it lacks is told by `status`
//! and the log, or, with `run: {strict: true}`, is why nothing runs. What a run needs and cannot be
//! made (a mask, the filter) is always why that one does not run. One thing is the gate's to say: whether it
//! refuses sockets that another process hands in, which a sandbox of mounts and system calls cannot.

mod masks;
mod mounted;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use agentguard_keeper::cgroup::Cgroup;
use agentguard_keeper::spawn::landlock;
use agentguard_keeper::spawn::{Domain, Overlay, Profile, Refusal, SeccompFilter, Source, mounts};
use agentguard_policy::SandboxPolicy;
use anyhow::Context as _;

use crate::config::Config;
use masks::Masks;
pub(in crate::daemon::keeper) use masks::refused_sockets;
use mounted::Mounted;

/// The sandbox, as far as it is the same for all runs.
pub(super) struct Sandbox {
    masks: Masks,
    /// Where the cgroup hierarchy is mounted.
    cgroups: PathBuf,
    strict: bool,
    host: Host,
    /// Whether LSM programs refuse sockets that are handed in.
    refuses_handed: AtomicBool,
}

/// What this kernel has.
struct Host {
    /// The version of Landlock; 0: none.
    landlock: u32,
    /// Why no view of the agent's own processes can be mounted, if none can.
    processes: Option<String>,
}

/// Without LSM programs on the sockets of others. Receiving cannot be taken from programs, and Landlock knows no
/// sockets with a path.
const HANDED: &str = "no LSM programs on sockets of others: a process outside that shares a path, or a descriptor, with a command can hand it a socket of its own";

/// The sandbox of one run.
pub(super) struct Confinement {
    pub(super) overlays: Vec<Overlay>,
    pub(super) seccomp: SeccompFilter,
    pub(super) domain: Domain,
}

impl Sandbox {
    /// Asks the host, and makes the files that lie over masked ones.
    pub(super) fn open(config: &Config, cgroups: PathBuf) -> anyhow::Result<Self> {
        let host = Host {
            landlock: landlock::abi(),
            processes: mounts::processes().err().map(|error| error.to_string()),
        };
        let sandbox = Self {
            masks: Masks::open(config)?,
            cgroups,
            strict: config.run.strict,
            host,
            refuses_handed: AtomicBool::new(false),
        };
        for what in sandbox.lacks() {
            tracing::warn!(strict = sandbox.strict, "the sandbox is not whole: {what}");
        }
        Ok(sandbox)
    }

    /// Takes in whether the gate's LSM programs refuse sockets that are handed in. Until then none does.
    pub(super) fn note_gate(&self, refuses_handed: bool) {
        self.refuses_handed.store(refuses_handed, Ordering::Relaxed);
    }

    /// What the sandbox of every run lacks on this host, in sentences, but for what the gate lacks.
    pub(super) fn lacks(&self) -> Vec<String> {
        self.host.lacks(&SandboxPolicy::default())
    }

    /// For a run of this agent as this user.
    pub(super) fn confine(&self, agent: &SandboxPolicy, uid: u32) -> Result<Confinement, Refusal> {
        let mut lacks = self.host.lacks(agent);
        if !self.refuses_handed.load(Ordering::Relaxed) {
            lacks.push(HANDED.to_owned());
        }
        if self.strict && !lacks.is_empty() {
            let message = format!(
                "the sandbox is not whole, and `run` is strict: {}",
                lacks.join("; ")
            );
            return Err(Refusal::new(message).hint(
                "run a kernel that has all of it (see `agentguard doctor`), or set `run: {strict: false}` in the configuration",
            ));
        }
        self.make(agent, uid)
            .map_err(|error| Refusal::new(format!("cannot make the sandbox: {error:#}")))
    }

    fn make(&self, agent: &SandboxPolicy, uid: u32) -> anyhow::Result<Confinement> {
        let domain = self.host.domain(agent);
        let profile = Profile {
            user_namespaces: agent.user_namespaces,
            trace: domain != Domain::None,
        };
        let mounted = Mounted::read()?;
        let mut overlays = Vec::new();
        if self.host.processes.is_none() {
            overlays.push(Overlay {
                source: Source::Mount(mounts::processes().context("cannot mount /proc")?),
                target: "/proc".into(),
                optional: false,
            });
        }
        // Files of the kernel's ask for the user, not for a capability.
        if uid == 0 {
            overlays.extend(mounted::kernel_settings()?);
        }
        let hides = self.host.processes.is_none();
        if hides {
            overlays.extend(mounted.below_proc()?);
        }
        overlays.extend(mounted.elsewhere(hides, uid == 0)?);
        overlays.extend(
            self.masks
                .overlays(&agent.unmasked_paths, &mounted.of_hosts(), uid)?,
        );
        Ok(Confinement {
            overlays,
            seccomp: profile.filter().context("no system call filter")?,
            domain,
        })
    }

    /// All cgroups as they are, to be looked at; the run's own, and those below, to be changed.
    pub(super) fn cgroups(&self, own: &Cgroup) -> anyhow::Result<[Overlay; 2]> {
        let all = fs::File::open(&self.cgroups)
            .with_context(|| format!("cannot open {}", self.cgroups.display()))?;
        let directory = own.directory.try_clone().context("no descriptor is free")?;
        Ok([
            Overlay::new(all.into(), self.cgroups.clone()),
            Overlay {
                source: Source::Writable(directory.into()),
                target: own.path.clone(),
                optional: false,
            },
        ])
    }
}

impl Host {
    fn domain(&self, agent: &SandboxPolicy) -> Domain {
        Domain::best(self.landlock, agent.user_namespaces)
    }

    fn lacks(&self, agent: &SandboxPolicy) -> Vec<String> {
        let mut lacks = Vec::new();
        match self.domain(agent) {
            Domain::Scoped => {}
            Domain::Trace => lacks.push(
                "Landlock before Linux 6.12: a command can send signals to other processes of its user, and connect to abstract UNIX sockets".to_owned(),
            ),
            Domain::None => {
                let why = if self.landlock == 0 {
                    "no Landlock"
                } else {
                    "no Landlock for an agent that may make user namespaces, before Linux 6.12"
                };
                lacks.push(format!(
                    "{why}: a command can look into other processes of its user by /proc (not by ptrace, which is closed to it altogether), send signals to them, and connect to abstract UNIX sockets"
                ));
            }
        }
        if let Some(error) = &self.processes {
            lacks.push(format!(
                "/proc cannot be mounted so that it hides others' processes ({error}): a command sees the command lines of all processes of the host"
            ));
        }
        lacks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(landlock: u32) -> Host {
        Host {
            landlock,
            processes: None,
        }
    }

    #[test]
    fn a_host_lacks_what_its_kernel_has_not() {
        let nothing_open = SandboxPolicy::default();
        let namespaces = SandboxPolicy {
            user_namespaces: true,
            ..SandboxPolicy::default()
        };
        for (landlock, agent, begins) in [
            (7, &nothing_open, None),
            (7, &namespaces, None),
            (4, &nothing_open, Some("Landlock before Linux 6.12: ")),
            (
                4,
                &namespaces,
                Some("no Landlock for an agent that may make user namespaces, "),
            ),
            (0, &nothing_open, Some("no Landlock: ")),
        ] {
            let lacks = host(landlock).lacks(agent);
            assert_eq!(lacks.len(), usize::from(begins.is_some()), "{lacks:?}");
            assert!(
                lacks
                    .iter()
                    .all(|l| l.starts_with(begins.unwrap_or_default()))
            );
        }
        let mut blind = host(7);
        blind.processes = Some("EPERM".into());
        assert!(blind.lacks(&nothing_open)[0].starts_with("/proc cannot be mounted"));
    }
}
