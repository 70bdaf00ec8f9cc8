//! Signals of the keeper, waited for in one place.

use std::io;
use std::time::Duration;

/// What the keeper is told by signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// Stop (`SIGTERM`, `SIGINT`).
    Stop,
    /// Read the policy again (`SIGHUP`).
    Reload,
    /// A child ended (`SIGCHLD`).
    Child,
}

/// The signals, blocked in this thread and in all it starts from now on.
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks them. To be called before any other thread exists: one that has them unblocked would
    /// get them.
    ///
    /// # Errors
    /// The system call's.
    pub fn block() -> io::Result<Self> {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is initialised by `sigemptyset` before anything reads it.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            set.assume_init()
        };
        // SAFETY: the set is initialised; the old mask is not asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        Ok(Self { set })
    }

    /// Waits for the next one, at most this long.
    #[must_use]
    pub fn wait(&self, within: Duration) -> Option<Signal> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(within.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: within.subsec_nanos().into(),
        };
        // SAFETY: the set is initialised; no information is asked for beside the number.
        let signal = unsafe {
            libc::sigtimedwait(
                &raw const self.set,
                std::ptr::null_mut(),
                &raw const timeout,
            )
        };
        match signal {
            libc::SIGTERM | libc::SIGINT => Some(Signal::Stop),
            libc::SIGHUP => Some(Signal::Reload),
            libc::SIGCHLD => Some(Signal::Child),
            // The time is up, or a debugger's stop ended the wait.
            _ => None,
        }
    }
}
