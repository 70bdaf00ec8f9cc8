//! The worker's process: this same program again, with less power.
//!
//! It gets one end of a socket pair as its standard input, and nothing else but what comes through
//! that. Its user and groups are its own before it executes; it drops the rest itself
//! ([`renounce`]).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::packet::{self, Packet};

/// The user and group that the worker runs as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkerUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Environment variables that the worker inherits: what it logs, and how it is debugged.
const KEPT: [&str; 3] = ["RUST_LOG", "RUST_BACKTRACE", "NO_COLOR"];

/// Starts a worker.
///
/// # Errors
/// The system calls'.
pub fn start(user: WorkerUser) -> io::Result<(Child, Packet)> {
    let (ours, theirs) = packet::pair()?;
    let kept = KEPT
        .into_iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (name, value)));
    let child = Command::new("/proc/self/exe")
        .arg0("agentguard-worker")
        .arg("worker")
        .env_clear()
        .envs(kept)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        // The groups of the keeper go with its user (std calls setgroups).
        .uid(user.uid)
        .gid(user.gid)
        .spawn()?;
    Ok((child, ours))
}

/// Gives up, for this process and for good, what a change of user leaves: capabilities, and the
/// chance to gain any by executing something. Ends with the keeper.
///
/// # Errors
/// The system calls'.
pub fn renounce() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    // What it writes is nobody else's to read.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    )?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// The keeper's end, from the worker's standard input.
///
/// # Errors
/// The system calls'; [`io::ErrorKind::InvalidInput`] if it is not a socket of that kind.
pub fn keeper() -> io::Result<Packet> {
    let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    if rustix::net::sockopt::socket_type(&fd)? != rustix::net::SocketType::SEQPACKET {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Packet::from(fd))
}
