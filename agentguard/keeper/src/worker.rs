//! The worker's process: this same program again, with less power.
//!
//! It gets one end of a socket pair as its standard input, and nothing else but what comes through
//! that. Before it executes it has a user, groups and mounts of its own ([`mounts`]), no chance to gain
//! anything by executing something, and limits; it drops the rest itself, and confines itself to what it
//! may open and to the system calls that it makes ([`renounce`], `domain`, `calls`).

mod calls;
mod code;
mod domain;
mod freed;
#[cfg(debug_assertions)]
pub mod hostile;
mod jemalloc;
pub mod mounts;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::packet::{self, Packet};
use crate::spawn::child::sys;
pub use code::unmap_code;
pub use freed::{give_back, keep_little};
pub use jemalloc::keep_mapped;
use mounts::Mounts;

/// The user and group that the worker runs as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkerUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Environment variables that the worker inherits: what it logs, and how it is debugged.
const KEPT: &[&str] = &[
    "RUST_LOG",
    "RUST_BACKTRACE",
    "NO_COLOR",
    #[cfg(debug_assertions)]
    hostile::VARIABLE,
];

/// Where a program writes what it counts that is compiled to be trained (`cargo xtask build --trained`); the worker may,
/// too. All others are compiled without the variable, and have no such place.
pub const PROFILES: Option<&str> = option_env!("AGENTGUARD_PROFILES");

/// Threads of its user, at most: the runtime's, those for blocking calls (512) and its own are some
/// hundreds.
const MOST_THREADS: u64 = 4096;

/// The highest number that a capability can have.
const CAPABILITIES: u32 = 63;

/// Starts a worker.
///
/// # Errors
/// The system calls'.
pub fn start(user: WorkerUser, mounts: &Mounts) -> io::Result<(Child, Packet)> {
    let (ours, theirs) = packet::pair()?;
    let kept = KEPT
        .iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (name, value)));
    // Where processor time is limited by cgroups cannot be seen from where the worker is.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // What root has written is not its to add to.
    let profile = PROFILES.map(|directory| format!("{directory}/worker-%p.profraw"));
    let profile = profile.map(|path| ("LLVM_PROFILE_FILE", path));
    let domain = mounts.domain.as_ref();
    let domain = domain.map(|fd| (domain::VARIABLE, fd.as_raw_fd().to_string()));
    let place = Place {
        user,
        namespace: mounts.namespace.as_raw_fd(),
        root: mounts.root.as_raw_fd(),
        domain: mounts.domain.as_ref().map(OwnedFd::as_raw_fd),
        files: rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .maximum
            .unwrap_or(libc::RLIM64_INFINITY),
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("agentguard-worker")
        .arg("worker")
        .env_clear()
        .env("TOKIO_WORKER_THREADS", threads.to_string())
        .env(jemalloc::VARIABLE, jemalloc::shared_by(threads))
        .envs(kept)
        .envs(domain)
        .envs(profile)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null());
    // SAFETY: `take` only calls the system; it allocates, locks and panics nowhere.
    unsafe { command.pre_exec(move || place.take()) };
    Ok((command.spawn()?, ours))
}

/// Whether a worker ended because it made a system call that it never makes: it was taken over.
#[must_use]
pub fn was_hostile(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGSYS)
}

/// Where the worker executes. Plain numbers: this goes through `fork`.
#[derive(Clone, Copy)]
struct Place {
    user: WorkerUser,
    namespace: RawFd,
    root: RawFd,
    /// To be inherited.
    domain: Option<RawFd>,
    /// Open files, at most.
    files: u64,
}

impl Place {
    /// Puts this process there. Between `fork` and `execve` of a process with many threads: whatever
    /// lock another thread held is held for ever. The C library's own `setresuid` would look for
    /// threads.
    fn take(self) -> io::Result<()> {
        let errno = io::Error::from_raw_os_error;
        let WorkerUser { uid, gid } = self.user;
        // SAFETY: plain numbers, paths that are C strings, and a limit that is read.
        unsafe {
            sys!(libc::SYS_setns, self.namespace, libc::CLONE_NEWNS).map_err(errno)?;
            // The namespace's root; the keeper's own, if that is a directory of it.
            sys!(libc::SYS_fchdir, self.root).map_err(errno)?;
            sys!(libc::SYS_chroot, c".".as_ptr()).map_err(errno)?;
            for (resource, most) in [
                (libc::RLIMIT_CORE, 0),
                (libc::RLIMIT_NPROC, MOST_THREADS),
                (libc::RLIMIT_NOFILE, self.files),
            ] {
                let limit = libc::rlimit64 {
                    rlim_cur: most,
                    rlim_max: most,
                };
                let old = std::ptr::null_mut::<libc::rlimit64>();
                sys!(libc::SYS_prlimit64, 0, resource, &raw const limit, old).map_err(errno)?;
            }
            for capability in 0..=CAPABILITIES {
                // Beyond the last one there is nothing to drop.
                let dropped = sys!(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
                match dropped {
                    Ok(_) => {}
                    Err(libc::EINVAL) => break,
                    Err(error) => return Err(errno(error)),
                }
            }
            if let Some(domain) = self.domain {
                sys!(libc::SYS_fcntl, domain, libc::F_SETFD, 0).map_err(errno)?;
            }
            let none = std::ptr::null::<libc::gid_t>();
            sys!(libc::SYS_setgroups, 0, none).map_err(errno)?;
            sys!(libc::SYS_setresgid, gid, gid, gid).map_err(errno)?;
            sys!(libc::SYS_setresuid, uid, uid, uid).map_err(errno)?;
            sys!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).map_err(errno)?;
        }
        Ok(())
    }
}

/// Gives up, for this process and for good, what a change of user leaves: capabilities, files and ports
/// that are not its own, and every system call but those that it makes. To be called before there are other
/// threads. Ends with the keeper.
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
    domain::restrict()?;
    calls::confine()
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
