//! The command's half of what runs between `clone3` and `execve`: from the fork to its program. As bound
//! as [`super::child`]: nothing here allocates, locks or panics.

use std::ptr;

use super::child::{Prepared, SIGNAL_SET, TERMINAL, WIRE, exit, report, reset_signals, sys};
use super::landlock;
use super::message::Stage;
use super::wire::Record;

/// The other side of the fork: becomes the command's program.
///
/// # Safety
/// Only in the process that [`super::child::become_monitor`] has just forked, with what it was given.
pub(super) unsafe fn become_command(prepared: &Prepared<'_>) -> ! {
    // SAFETY: as promised to `become_monitor`.
    unsafe {
        let _ = sys!(libc::SYS_setpgid, 0, 0);
        if prepared.terminal >= 0
            && prepared.foreground
            && let Ok(pid) = sys!(libc::SYS_getpid)
        {
            let group = libc::pid_t::try_from(pid).unwrap_or(0);
            // SIGTTOU, which this raises in the background, is blocked.
            let _ = sys!(libc::SYS_ioctl, TERMINAL, libc::TIOCSPGRP, &raw const group);
        }
        reset_signals(prepared.ignored);
        if let Err(errno) = landlock::restrict(prepared.domain) {
            report(WIRE, Record::Failed(Stage::Landlock as i32, errno));
            exit(1);
        }
        if let Some(filter) = &prepared.filter {
            let mode = libc::SECCOMP_SET_MODE_FILTER;
            if let Err(errno) = sys!(libc::SYS_seccomp, mode, 0, &raw const *filter) {
                report(WIRE, Record::Failed(Stage::Seccomp as i32, errno));
                exit(1);
            }
        }
        let none: u64 = 0;
        let (set, old) = (&raw const none, ptr::null_mut::<u64>());
        let _ = sys!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            set,
            old,
            SIGNAL_SET
        );
        let errno = execute(prepared);
        report(WIRE, Record::Failed(Stage::Execute as i32, errno));
        exit(if errno == libc::ENOENT { 127 } else { 126 })
    }
}

/// execvpe(3) without its allocations. Returns only the errno of a failure.
unsafe fn execute(prepared: &Prepared<'_>) -> libc::c_int {
    let mut failure = libc::ENOENT;
    for candidate in prepared.candidates {
        // SAFETY: C strings and NULL-terminated arrays of them.
        let result = unsafe {
            sys!(
                libc::SYS_execve,
                *candidate,
                prepared.arguments,
                prepared.environment
            )
        };
        match result {
            // A script without `#!`.
            Err(libc::ENOEXEC) => {
                // SAFETY: `script` has at least two places before its NULL.
                let result = unsafe {
                    *prepared.script.add(1) = *candidate;
                    let shell = c"/bin/sh".as_ptr();
                    sys!(
                        libc::SYS_execve,
                        shell,
                        prepared.script,
                        prepared.environment
                    )
                };
                return result.err().unwrap_or(libc::ENOEXEC);
            }
            // Another directory may have one that may be executed. A directory that cannot be searched
            // has none, as shells see it.
            Err(libc::EACCES) => {
                // SAFETY: a C string.
                let there =
                    unsafe { sys!(libc::SYS_faccessat, libc::AT_FDCWD, *candidate, libc::F_OK) };
                if there.is_ok() || prepared.candidates.len() == 1 {
                    failure = libc::EACCES;
                }
            }
            Err(libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT)
            | Ok(_) => {}
            Err(errno) => return errno,
        }
    }
    failure
}
