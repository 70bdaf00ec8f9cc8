//! `agentguard run`, the keeper's half: a client asks, the keeper spawns.
//!
//! A request comes in (`message`, `strings`) and is checked whole before anything is done (`plan`,
//! `account`, `inherit`). The host (the rest of the keeper) admits it and gives it a cgroup. A pty is
//! made if the caller has a terminal (`terminal`). The command is launched into the cgroup (`launch`,
//! `child`) with what closes its ways out (`confine`, `profile`, `landlock`, `mounts`), under a monitor that gives it job control (`monitor`, `wire`). A thread per run
//! stays between client and monitor until the end (`session`).
//!
//! **Invariant:** a command never has more than its caller has: not a group, not a limit, not a
//! descriptor, not a byte of the keeper's memory; and no instruction of it runs outside its cgroup.

mod account;
pub(crate) mod child;
mod command;
mod confine;
mod inherit;
pub mod landlock;
mod launch;
pub mod message;
mod monitor;
pub mod mounts;
mod plan;
mod profile;
mod session;
pub mod signals;
pub mod strings;
pub mod terminal;
mod wire;

use std::os::fd::OwnedFd;

pub use account::{group, user};
pub use confine::{Instruction, SeccompFilter};
pub use landlock::Domain;
pub use launch::{Overlay, Source};
pub use message::{Refusal, RunContext, RunRequest};
pub use profile::Profile;
pub use session::{NO_MORE, serve};

use crate::packet::Peer;

/// What a run needs of the rest of the keeper.
pub trait Host: Send + Sync {
    /// Decides whether this peer may run this agent, and makes the run's place: its own cgroup, which
    /// the gate already governs. The request has been checked for form, not for rights; `uid` is the
    /// user that the command is to run as.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was made, nothing will be run.
    fn admit(&self, request: &RunRequest, peer: &Peer, uid: u32) -> Result<Admission, Refusal>;

    /// The command has ended or could not be started, and the run has no client any more. Processes
    /// that it left behind may go on in the run's cgroup.
    fn finished(&self, run: RunId);
}

/// The number of a run, which its host chooses.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RunId(pub u64);

/// A run may go on, and where.
pub struct Admission {
    /// The run.
    pub run: RunId,
    /// The directory of the run's own cgroup (v2). Everything in it is killed if the client goes away.
    pub cgroup: OwnedFd,
    /// The network namespace to enter; `None`: the keeper's own.
    pub network: Option<OwnedFd>,
    /// Environment variables to set, over those of the caller.
    pub environment: Vec<(String, String)>,
    /// Environment variables to set where the caller has not. The caller is told of those that it
    /// has set to something else than the path of an overlay, which stay as they are.
    pub defaults: Vec<(String, String)>,
    /// Files that the command sees in others' places.
    pub overlays: Vec<Overlay>,
    /// The system calls that the command may make.
    pub seccomp: Option<SeccompFilter>,
    /// The processes that it may reach.
    pub domain: Domain,
    /// Groups that it does not have, whatever they are called by now.
    pub without_groups: Vec<u32>,
}
