//! Who may speak to the control socket.
//!
//! The host's root, and members of the guard's groups ([`agentguard_keeper::groups`]), and never a
//! process that is itself governed: an agent must not be a client of its own guard, whatever user it
//! runs as and whatever its groups. The kernel says who connected (`SO_PEERCRED`, `SO_PEERGROUPS`,
//! `SO_PEERPIDFD`), with what it had then; its cgroup is read from `/proc/PID/cgroup` while a pidfd shows that the process
//! still lives, so that the number cannot have passed to another process in between.
//!
//! A process can be moved into an agent's cgroup, and its cgroup can become an agent's, while it is
//! connected. So it is judged for each thing that it asks, and for each that it is told later ([`Asker`]).
//! A connection can be inherited and handed on, so what is asked has to be sent by the process that
//! connected: the kernel tells who sent each piece (`SCM_CREDENTIALS`). Only `CAP_SYS_ADMIN` over the
//! sender's pid namespace names another process there, and only one of that namespace.
//!
//! Kernels before 6.5 have no `SO_PEERPIDFD`. There the pidfd is opened by number, and a process
//! that began after the connection was accepted is refused; a number that passed to another process
//! between `connect` and `accept` is not noticed.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use agentguard_keeper::groups::Groups;
use agentguard_keeper::packet::{Packet, Peer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

/// `USER_HZ`: the unit of times in `/proc/PID/stat` on every architecture the guard runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What a peer may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rights {
    /// Its user.
    pub uid: u32,
    /// Everything.
    pub root: bool,
    /// Run the agents that list it, and read of them.
    pub run: bool,
    /// Read everything.
    pub read: bool,
    /// Quarantine agents and release them.
    pub approve: bool,
}

impl Rights {
    /// What the credentials of a process give it; `None`: nothing at all.
    fn of(peer: &Peer, groups: &Groups) -> Option<Self> {
        let root = peer.uid == 0;
        let member = |group: Option<u32>| {
            group.is_some_and(|gid| peer.gid == gid || peer.groups.contains(&gid))
        };
        let approve = root || member(groups.approve);
        let rights = Self {
            uid: peer.uid,
            root,
            run: root || member(groups.run),
            read: approve || member(groups.read),
            approve,
        };
        (rights.run || rights.read).then_some(rights)
    }
}

/// Why a peer is refused.
#[derive(Debug)]
pub enum Refusal {
    /// It neither runs as root nor has one of the guard's groups.
    NoMember {
        /// Its user.
        uid: u32,
        /// The groups that the host has.
        groups: Vec<&'static str>,
    },
    /// It runs inside a governed cgroup.
    Governed {
        /// Its cgroup.
        cgroup: String,
    },
    /// What was asked was sent by another process than the one that connected.
    Handed {
        /// Who connected.
        maker: u32,
        /// Who sent; `None`: it has no number in our pid namespace.
        sender: Option<u32>,
    },
    /// It is gone, or so young that its number may have belonged to another.
    Gone,
    /// Who it is could not be found out.
    Unknown(io::Error),
}

impl Refusal {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoMember { groups, .. } if groups.is_empty() => "run this as root".to_owned(),
            Self::NoMember { groups, .. } => format!(
                "run this as root, or become a member of {} and log in anew",
                groups.join(" or ")
            ),
            Self::Governed { .. } => "run this outside the agents' cgroups".to_owned(),
            Self::Handed { .. } => "connect from the process that asks".to_owned(),
            Self::Gone | Self::Unknown(_) => "stay connected until the answer is there".to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMember { uid, groups } if groups.is_empty() => {
                write!(f, "only root may use the guard, and this is user {uid}")
            }
            Self::NoMember { uid, groups } => write!(
                f,
                "only root and members of {} may use the guard, and this is user {uid}",
                groups.join(", ")
            ),
            Self::Governed { cgroup } => write!(
                f,
                "the caller runs as an agent (cgroup {cgroup}), and an agent may not ask its own guard"
            ),
            Self::Handed { maker, sender } => {
                match sender {
                    Some(sender) => write!(f, "process {sender} asks")?,
                    None => f.write_str("a process outside of this pid namespace asks")?,
                }
                write!(f, " over a connection that process {maker} made")
            }
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

/// The process at the other end of a connection, to be judged as often as it asks.
#[derive(Debug)]
pub struct Asker {
    peer: Peer,
    process: OwnedFd,
    /// Who else sent something on its connection.
    other: OnceLock<Option<u32>>,
}

impl Asker {
    /// Takes hold of the process that connected `socket`.
    ///
    /// # Errors
    /// [`Refusal::Gone`], [`Refusal::Unknown`].
    pub fn of(socket: OwnedFd, accepted: Accepted) -> Result<Self, Refusal> {
        let mut peer = Packet::from(socket).peer().map_err(Refusal::Unknown)?;
        let process = hold(peer.pid, peer.pidfd.take(), accepted)?;
        Ok(Self {
            peer,
            process,
            other: OnceLock::new(),
        })
    }

    /// Notes who sent what is read from its connection.
    pub(crate) fn hear(&self, sender: Option<u32>) {
        if sent_by(&self.peer, sender).is_err() {
            // The first is as good as any.
            let _ = self.other.set(sender);
        }
    }

    /// Its process id and its user.
    #[must_use]
    pub const fn process(&self) -> (u32, u32) {
        (self.peer.pid, self.peer.uid)
    }

    /// The cgroup that it is in now, as `/proc/PID/cgroup` shows it. For whom agents ask: whether it is governed is
    /// for the caller to say.
    ///
    /// # Errors
    /// [`Refusal`] but [`Refusal::NoMember`] and [`Refusal::Governed`].
    pub fn cgroup(&self) -> Result<String, Refusal> {
        let cgroup = cgroup(self.peer.pid, &self.process)?;
        match self.other.get() {
            Some(other) => sent_by(&self.peer, *other).map(|()| cgroup),
            None => Ok(cgroup),
        }
    }

    /// Decides what it may do now. `governed` are the governed cgroups as `/proc/PID/cgroup` writes
    /// them: absolute within the hierarchy. While none is known, nobody is served.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn judge(&self, governed: &[String], groups: &Groups) -> Result<Rights, Refusal> {
        let rights = rights(&self.peer, groups)?;
        ungoverned(self.peer.pid, &self.process, governed)?;
        if let Some(other) = self.other.get() {
            sent_by(&self.peer, *other)?;
        }
        Ok(rights)
    }
}

/// Whether a peer itself sent something. That the number is still its own, and so was before, is known
/// when it is judged after this.
///
/// # Errors
/// [`Refusal::Handed`].
pub fn sent_by(peer: &Peer, sender: Option<u32>) -> Result<(), Refusal> {
    if sender == Some(peer.pid) {
        return Ok(());
    }
    Err(Refusal::Handed {
        maker: peer.pid,
        sender,
    })
}

/// Decides what a peer may do now of which the kernel told already, as [`Asker::judge`].
///
/// # Errors
/// [`Refusal`].
pub fn judge(
    peer: &Peer,
    accepted: Accepted,
    governed: &[String],
    groups: &Groups,
) -> Result<Rights, Refusal> {
    let rights = rights(peer, groups)?;
    // Without its descriptor a process is looked at as on kernels that have none.
    let pidfd = peer.pidfd.as_ref().and_then(|fd| fd.try_clone().ok());
    let process = hold(peer.pid, pidfd, accepted)?;
    ungoverned(peer.pid, &process, governed)?;
    Ok(rights)
}

/// Decides what the process at the other end of a local stream may do, as [`judge`].
///
/// # Errors
/// [`Refusal`].
pub fn judge_stream(
    stream: OwnedFd,
    governed: &[String],
    groups: &Groups,
) -> Result<Rights, Refusal> {
    Asker::of(stream, Accepted::now())?.judge(governed, groups)
}

fn rights(peer: &Peer, groups: &Groups) -> Result<Rights, Refusal> {
    Rights::of(peer, groups).ok_or_else(|| Refusal::NoMember {
        uid: peer.uid,
        groups: groups.all().map(|(name, _)| name).collect(),
    })
}

/// Whether a process is in no governed cgroup.
fn ungoverned(pid: u32, process: &OwnedFd, governed: &[String]) -> Result<(), Refusal> {
    // A guard that governs nothing does not exist: there is the root of all agents at least.
    if governed.is_empty() {
        return Err(Refusal::Unknown(io::Error::other(
            "which cgroups are governed is not known yet",
        )));
    }
    let cgroup = cgroup(pid, process)?;
    match governed.iter().any(|top| is_within(&cgroup, top)) {
        true => Err(Refusal::Governed { cgroup }),
        false => Ok(()),
    }
}

/// The cgroup v2 that a process is in.
fn cgroup(pid: u32, process: &OwnedFd) -> Result<String, Refusal> {
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
    let none = || Refusal::Unknown(io::Error::other("it has no cgroup v2 membership"));
    unified(&text).map(str::to_owned).ok_or_else(none)
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
pub(crate) fn is_within(cgroup: &str, top: &str) -> bool {
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
    fn rights_are_those_of_the_groups_that_the_process_has() {
        let groups = Groups {
            run: Some(31),
            read: Some(32),
            approve: Some(33),
        };
        let rights = |uid, gid, others: &[u32], groups: &Groups| {
            let peer = Peer {
                pid: 1,
                uid,
                gid,
                groups: others.to_vec(),
                pidfd: None,
            };
            Rights::of(&peer, groups).map(|it| (it.root, it.run, it.read, it.approve))
        };
        for (uid, gid, others, expected) in [
            (0, 0, &[][..], Some((true, true, true, true))),
            (7, 7, &[], None),
            // Root's group is not root.
            (7, 0, &[0, 34], None),
            (7, 31, &[], Some((false, true, false, false))),
            (7, 7, &[9, 32], Some((false, false, true, false))),
            (7, 7, &[33], Some((false, false, true, true))),
            (7, 31, &[33], Some((false, true, true, true))),
        ] {
            assert_eq!(
                rights(uid, gid, others, &groups),
                expected,
                "{gid} {others:?}"
            );
            // Groups that the host does not have give nothing.
            let none = rights(uid, gid, others, &Groups::default());
            assert_eq!(none.is_some(), uid == 0);
        }
    }

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
        let asker = Asker::of(ours.into(), Accepted::now()).unwrap();
        match asker.judge(std::slice::from_ref(&own), &Groups::default()) {
            Err(Refusal::Governed { cgroup }) => assert_eq!(cgroup, own),
            Err(Refusal::NoMember { .. }) => assert!(!root),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn while_no_governed_cgroup_is_known_nobody_is_served() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let asker = Asker::of(ours.into(), Accepted::now()).unwrap();
        assert!(matches!(
            asker.judge(&[], &Groups::default()),
            Err(Refusal::Unknown(_) | Refusal::NoMember { .. })
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
