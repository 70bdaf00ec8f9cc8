//! Who may speak to the control socket.
//!
//! The host's root, and members of one group that may read, and never a process that is itself
//! governed: an agent must not be a client of its own guard, whatever user it runs as. The kernel says who connected (`SO_PEERCRED`,
//! `SO_PEERPIDFD`); its cgroup is read from `/proc/PID/cgroup` while a pidfd shows that the process
//! still lives, so that the number cannot have passed to another process in between.
//!
//! Kernels before 6.5 have no `SO_PEERPIDFD`. There the pidfd is opened by number, and a process
//! that began after the connection was accepted is refused; a number that passed to another process
//! between `connect` and `accept` is not noticed.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use agentguard_keeper::packet::Packet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

/// `USER_HZ`: the unit of times in `/proc/PID/stat` on every architecture the guard runs on.
const TICKS_PER_SECOND: u64 = 100;

/// The group whose members may read everything on the control socket, where the host has it.
pub const READERS: &str = "agentguard-read";

/// Why a peer is refused.
#[derive(Debug)]
pub enum Refusal {
    /// It does not run as root.
    NotRoot {
        /// Its user.
        uid: u32,
    },
    /// It does not run as root, nor in the group that may read.
    NoReader {
        /// Its user.
        uid: u32,
    },
    /// It runs inside a governed cgroup.
    Governed {
        /// Its cgroup.
        cgroup: String,
    },
    /// It is gone, or so young that its number may have belonged to another.
    Gone,
    /// Who it is could not be found out.
    Unknown(io::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot { uid } => {
                write!(
                    f,
                    "only root may read from the guard, and this is user {uid}"
                )
            }
            Self::NoReader { uid } => write!(
                f,
                "only root and the group {READERS} may read from the guard, and this is user {uid}"
            ),
            Self::Governed { cgroup } => write!(
                f,
                "the caller runs as an agent (cgroup {cgroup}), and an agent may not ask its own guard"
            ),
            Self::Gone => f.write_str("the process that connected is gone"),
            Self::Unknown(error) => write!(f, "cannot find out who is calling: {error}"),
        }
    }
}

/// When a connection was accepted, on the clock that processes' start times are told in.
#[derive(Clone, Copy, Debug)]
pub struct Accepted(Duration);

impl Accepted {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        Self(Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        ))
    }
}

/// Decides whether the process at the other end of `socket` may be served. `governed` are the
/// governed cgroups as `/proc/PID/cgroup` writes them: absolute within the hierarchy. While none is
/// known, nobody is served. `readers` is the number of the group [`READERS`]; without it only root is
/// served. A member of it had it when it connected, as its own or among the others.
pub(crate) fn authorise(
    socket: OwnedFd,
    accepted: Accepted,
    governed: &[String],
    readers: Option<u32>,
) -> Result<(), Refusal> {
    let peer = Packet::from(socket).peer().map_err(Refusal::Unknown)?;
    match readers {
        Some(readers) if peer.uid != 0 => {
            if peer.gid != readers && !peer.groups.contains(&readers) {
                return Err(Refusal::NoReader { uid: peer.uid });
            }
            ungoverned(peer.pid, peer.pidfd, accepted, governed)
        }
        _ => judge(peer.uid, peer.pid, peer.pidfd, accepted, governed),
    }
}

/// The same for a peer of which the kernel told already: its user, its process, and a descriptor of
/// that very process where the kernel has such.
///
/// # Errors
/// [`Refusal`].
pub fn judge(
    uid: u32,
    pid: u32,
    pidfd: Option<OwnedFd>,
    accepted: Accepted,
    governed: &[String],
) -> Result<(), Refusal> {
    if uid != 0 {
        return Err(Refusal::NotRoot { uid });
    }
    ungoverned(pid, pidfd, accepted, governed)
}

/// Whether a process is in no governed cgroup.
fn ungoverned(
    pid: u32,
    pidfd: Option<OwnedFd>,
    accepted: Accepted,
    governed: &[String],
) -> Result<(), Refusal> {
    // A guard that governs nothing does not exist: there is the root of all agents at least.
    if governed.is_empty() {
        return Err(Refusal::Unknown(io::Error::other(
            "which cgroups are governed is not known yet",
        )));
    }
    let process = hold(pid, pidfd, accepted)?;
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| {
            match error.kind() {
                io::ErrorKind::NotFound => Refusal::Gone,
                _ => Refusal::Unknown(error),
            }
        })?;
    if !alive(process.as_fd()).map_err(Refusal::Unknown)? {
        return Err(Refusal::Gone);
    }
    match unified(&text) {
        None => Err(Refusal::Unknown(io::Error::other(
            "it has no cgroup v2 membership",
        ))),
        Some(cgroup) => match governed.iter().find(|top| is_within(cgroup, top)) {
            Some(_) => Err(Refusal::Governed {
                cgroup: cgroup.to_owned(),
            }),
            None => Ok(()),
        },
    }
}

/// A descriptor of the very process that connected.
fn hold(pid: u32, pidfd: Option<OwnedFd>, accepted: Accepted) -> Result<OwnedFd, Refusal> {
    if let Some(pidfd) = pidfd {
        return Ok(pidfd);
    }
    let number = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Refusal::Gone)?;
    let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(|errno| match errno {
        rustix::io::Errno::SRCH => Refusal::Gone,
        other => Refusal::Unknown(other.into()),
    })?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| Refusal::Gone)?;
    let began = start_ticks(&stat)
        .ok_or_else(|| Refusal::Unknown(io::Error::other("its start time cannot be read")))?;
    let ticks = u64::try_from(accepted.0.as_millis()).unwrap_or(u64::MAX) * TICKS_PER_SECOND / 1000;
    if began > ticks {
        return Err(Refusal::Gone);
    }
    Ok(pidfd)
}

/// Whether the process has not ended: a pidfd becomes readable when it does.
fn alive(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec::default()))? == 0)
}

/// The cgroup v2 path in the text of `/proc/PID/cgroup`: the line of hierarchy 0.
fn unified(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        // The kernel's mark of a cgroup that was removed while the process was in it.
        .map(|path| path.strip_suffix(" (deleted)").unwrap_or(path))
}

/// Whether `cgroup` is `top` or below it, at a path boundary.
fn is_within(cgroup: &str, top: &str) -> bool {
    cgroup
        .strip_prefix(top.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Field 22 of `/proc/PID/stat`: when the process began, in ticks since boot. The second field is
/// the process's name in parentheses, and a process chooses its name: count from the last `)`.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_cgroup_is_governed_at_a_path_boundary_only() {
        for (cgroup, top, within) in [
            ("/agentguard/coder", "/agentguard", true),
            ("/agentguard", "/agentguard", true),
            ("/agentguard", "/agentguard/", true),
            ("/agentguardian", "/agentguard", false),
            ("/other/agentguard", "/agentguard", false),
            ("/", "/agentguard", false),
            ("/anything", "/", true),
        ] {
            assert_eq!(is_within(cgroup, top), within, "{cgroup} in {top}");
        }
    }

    #[test]
    fn the_v2_line_is_found_beside_v1_hierarchies() {
        assert_eq!(
            unified("12:cpu:/a\n1:name=systemd:/b\n0::/c/d\n"),
            Some("/c/d")
        );
        assert_eq!(unified("0::/c (deleted)\n"), Some("/c"));
        assert_eq!(unified("12:cpu:/a\n"), None);
    }

    #[test]
    fn a_process_cannot_lie_about_its_age_by_its_name() {
        let stat = "7 (x) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 999) R 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(start_ticks(stat), Some(4242));
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(start_ticks(&own).unwrap() > 0);
    }

    #[test]
    fn a_peer_in_a_governed_cgroup_is_refused_even_as_root() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = unified(&own).unwrap().to_owned();
        let root = rustix::process::geteuid().is_root();
        match authorise(
            ours.into(),
            Accepted::now(),
            std::slice::from_ref(&own),
            None,
        ) {
            Err(Refusal::Governed { cgroup }) => assert_eq!(cgroup, own),
            Err(Refusal::NotRoot { .. }) => assert!(!root),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn while_no_governed_cgroup_is_known_nobody_is_served() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(matches!(
            authorise(ours.into(), Accepted::now(), &[], None),
            Err(Refusal::Unknown(_) | Refusal::NotRoot { .. })
        ));
    }

    #[test]
    fn without_a_pidfd_from_the_kernel_a_younger_process_is_not_taken_for_the_peer() {
        let own = std::process::id();
        assert!(hold(own, None, Accepted::now()).is_ok());
        let boot = Accepted(Duration::ZERO);
        assert!(matches!(hold(own, None, boot), Err(Refusal::Gone)));
    }

    #[test]
    fn a_process_that_ended_is_noticed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!alive(pidfd.as_fd()).unwrap());
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        assert!(alive(own.as_fd()).unwrap());
    }
}
