//! Signals as a client of `run` needs them: received in its loop, and given to itself, so that the
//! shell sees the client stop and end as the command did.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::message::RELAYED;

/// Signals that would end the client without a chance to restore the terminal.
const FATAL: [libc::c_int; 4] = [libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF, libc::SIGXCPU];

/// Receives [`RELAYED`] and a few fatal signals as descriptors do. Signals that were ignored when the
/// program began stay ignored (`nohup`).
///
/// For a program with one thread: others would still be interrupted.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Begins to receive.
    ///
    /// # Errors
    /// What `signalfd` answers.
    pub fn receive() -> io::Result<Self> {
        let ignored = ignored()?;
        let wanted = RELAYED.iter().chain(&FATAL).copied();
        let set = set(wanted.filter(|signal| ignored & super::plan::bit(*signal) == 0));
        mask(libc::SIG_BLOCK, &set)?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: `set` is a signal set.
        let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: the kernel has just installed this descriptor for us alone.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }

    /// The next signal that has arrived, without waiting.
    #[must_use]
    pub fn take(&mut self) -> Option<i32> {
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut bytes) {
            // `ssi_signo` comes first.
            Ok(_) => {
                let number = bytes.first_chunk().copied().map(u32::from_ne_bytes);
                number.and_then(|number| i32::try_from(number).ok())
            }
            Err(_) => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whom a signal that the client gives itself also reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// Only the client.
    Own,
    /// Its whole process group, as a signal that the terminal sends.
    Group,
}

/// Stops this process by a signal, and returns once it was continued; the `SIGCONT` that did it is
/// taken, so that it is not taken for another. In an orphaned process group
/// only `SIGSTOP` stops: then it returns at once, as the system discards the others.
///
/// # Errors
/// What `kill` answers.
pub fn stop(signal: i32, reach: Reach) -> io::Result<()> {
    default_action(signal)?;
    send(signal, reach)?;
    // Pending until here if it is one that we receive: now it acts.
    let one = set([signal]);
    mask(libc::SIG_UNBLOCK, &one)?;
    mask(libc::SIG_BLOCK, &one)?;
    let continued = set([libc::SIGCONT]);
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the set and the time are readable; who sent it is not asked for.
    unsafe { libc::sigtimedwait(&raw const continued, ptr::null_mut(), &raw const now) };
    Ok(())
}

/// Ends this process by a signal, as the command ended, so that a shell which waits for us knows;
/// without a core file. Returns only if the signal does not end a process.
pub fn die(signal: i32, reach: Reach) {
    let no_core = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: plain values; the structure is readable.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
    }
    let _ = default_action(signal)
        .and_then(|()| send(signal, reach))
        .and_then(|()| mask(libc::SIG_UNBLOCK, &set([signal])));
}

/// The signals that this process ignores, bit `n - 1` for signal `n`.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn ignored() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/self/status has no SigIgn"))
}

fn send(signal: i32, reach: Reach) -> io::Result<()> {
    let target = match reach {
        Reach::Own => rustix::process::getpid().as_raw_nonzero().get(),
        Reach::Group => 0,
    };
    // SAFETY: plain numbers.
    result(unsafe { libc::kill(target, signal) })
}

fn default_action(signal: i32) -> io::Result<()> {
    // SAFETY: zeros are a valid `sigaction`: default action, no flags, empty mask.
    let action: libc::sigaction = unsafe { std::mem::zeroed() };
    if signal == libc::SIGSTOP || signal == libc::SIGKILL {
        return Ok(());
    }
    // SAFETY: `action` is readable; the old one is not asked for.
    result(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })
}

fn mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is readable; the old one is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn set(signals: impl IntoIterator<Item = libc::c_int>) -> libc::sigset_t {
    // SAFETY: `sigset_t` is integers; both calls only write into it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
