//! What a command inherits from its caller, as a child does from its parent: limits, niceness,
//! processors, the score for the out-of-memory killer. Read from the caller's process rather than
//! from its message, so that nobody can claim more than it has; and never from the keeper, whose
//! own are those of a protected daemon.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::message::Refusal;
use crate::packet::Peer;

/// All resources of `getrlimit`, `RLIMIT_CPU` (0) to `RLIMIT_RTTIME` (15).
const RESOURCES: std::ops::Range<u32> = 0..16;

/// Enough for 8192 processors (`CONFIG_NR_CPUS` of the large kernels); with more, the command may use all.
const AFFINITY: usize = 1024;

/// A copy of what a process passes on to its children.
#[derive(Debug)]
pub(super) struct Inherited {
    /// Resource and limits.
    pub(super) limits: Vec<(u32, libc::rlimit64)>,
    /// Niceness, -20 to 19.
    pub(super) nice: libc::c_int,
    /// The processors it may use, as `sched_setaffinity` takes them.
    pub(super) affinity: Option<Vec<u8>>,
    /// The text of `oom_score_adj`.
    pub(super) oom: Vec<u8>,
}

/// Reads them from the peer's process.
pub(super) fn of(peer: &Peer) -> Result<Inherited, Refusal> {
    let read = read(peer.pid).map_err(|error| {
        Refusal::new(format!(
            "cannot read the limits of the calling process: {error}"
        ))
    })?;
    // A pid is only as good as the process that still has it.
    if peer.pidfd.as_ref().is_some_and(|fd| has_ended(fd.as_fd())) {
        return Err(Refusal::new("the calling process has ended"));
    }
    Ok(read)
}

/// Whether the process of a pidfd has ended.
pub(super) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut poll = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&now))) != Ok(0)
}

fn read(pid: u32) -> io::Result<Inherited> {
    for namespace in ["user", "pid"] {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{namespace}"))?;
        let ours = std::fs::read_link(format!("/proc/self/ns/{namespace}"))?;
        if theirs != ours {
            return Err(io::Error::other(format!(
                "it is in another {namespace} namespace; register a container with `agentguard agent add`"
            )));
        }
    }
    let id = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let process = rustix::process::Pid::from_raw(id);
    Ok(Inherited {
        limits: limits(pid)?,
        nice: rustix::process::getpriority_process(process)?,
        affinity: affinity(id),
        oom: std::fs::read(format!("/proc/{pid}/oom_score_adj"))?,
    })
}

/// From `/proc/PID/limits`: unlike `prlimit`, reading it takes no capability that a keeper in a
/// container may lack. A line for each resource, in the order of their numbers, after a headline; the
/// name is padded to 25 characters.
fn limits(pid: u32) -> io::Result<Vec<(u32, libc::rlimit64)>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let limits: Option<Vec<_>> = RESOURCES.zip(text.lines().skip(1)).map(limit).collect();
    limits
        .filter(|limits| limits.len() == RESOURCES.len())
        .ok_or_else(|| io::Error::other("its limits are not in the known form"))
}

fn limit((resource, line): (u32, &str)) -> Option<(u32, libc::rlimit64)> {
    let value = |text: &str| match text {
        "unlimited" => Some(libc::RLIM64_INFINITY),
        number => number.parse().ok(),
    };
    let mut values = line.get(25..)?.split_ascii_whitespace();
    let limit = libc::rlimit64 {
        rlim_cur: value(values.next()?)?,
        rlim_max: value(values.next()?)?,
    };
    Some((resource, limit))
}

fn affinity(pid: libc::pid_t) -> Option<Vec<u8>> {
    let mut mask = vec![0_u8; AFFINITY];
    // SAFETY: `mask` is writable for its length.
    let length = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            pid,
            mask.len(),
            mask.as_mut_ptr(),
        )
    };
    mask.truncate(usize::try_from(length).ok()?);
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_peer_and_a_dead_peer_has_none() {
        let (a, _b) = crate::packet::pair().unwrap();
        let peer = a.peer().unwrap();
        let inherited = of(&peer).unwrap();
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let (_, limit) = inherited.limits[7];
        assert_eq!(Some(limit.rlim_cur), files.current);
        assert_eq!(inherited.limits.len(), 16);
        assert!(inherited.affinity.is_some_and(|mask| !mask.is_empty()));

        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        child.wait().unwrap();
        let dead = Peer {
            pidfd: Some(pidfd.unwrap()),
            ..peer
        };
        let refusal = of(&dead).unwrap_err();
        assert_eq!(refusal.message, "the calling process has ended");
    }
}
