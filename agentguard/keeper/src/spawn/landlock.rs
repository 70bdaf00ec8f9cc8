//! Landlock, as far as a run needs it: a command and all that comes of it are a domain, which reaches
//! no process outside: no ptrace, no `/proc/PID/mem`, no descriptor of another's, and from Linux 6.12
//! on (ABI 6) no signal and no abstract UNIX socket. Its own children it traces as before.
//!
//! Files are none of its business here: a domain that handles a right over files may not mount, and
//! older kernels know no domain that handles nothing at all.

use std::ffi::c_int;
use std::ptr;

use super::child::sys;

/// What of Landlock holds a run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Domain {
    /// Nothing.
    #[default]
    None,
    /// Processes outside cannot be looked into. Nothing inside may be mounted.
    Trace,
    /// As [`Self::Trace`], and outside are no signals and no abstract sockets. Mounts are free.
    Scoped,
}

/// ABI 2 (Linux 5.19) is the first in which files can still be moved between directories.
const TRACE_SINCE: u32 = 2;
/// ABI 6 (Linux 6.12).
pub(crate) const SCOPED_SINCE: u32 = 6;

impl Domain {
    /// The best that there is in this ABI, for a run that has to mount or not.
    #[must_use]
    pub const fn best(abi: u32, mounts: bool) -> Self {
        match abi {
            SCOPED_SINCE.. => Self::Scoped,
            TRACE_SINCE.. if !mounts => Self::Trace,
            _ => Self::None,
        }
    }
}

/// The version of the kernel's Landlock; 0 where there is none, or it is switched off.
#[must_use]
pub fn abi() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    let none = ptr::null::<Ruleset>();
    // SAFETY: with this flag and no attributes it is a question.
    let found = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(found).unwrap_or(0)
}

/// `struct landlock_ruleset_attr` of `linux/landlock.h`, ABI 6. Older kernels take a longer one than
/// theirs if the rest is zero.
#[repr(C)]
pub(crate) struct Ruleset {
    pub(crate) files: u64,
    pub(crate) network: u64,
    pub(crate) scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
pub(crate) struct Beneath {
    pub(crate) allowed: u64,
    pub(crate) directory: c_int,
}

const ACCESS_FS_REFER: u64 = 1 << 13;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;
/// Both: nothing is reached outside.
pub(crate) const SCOPES: u64 = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
pub(crate) const RULE_PATH_BENEATH: c_int = 1;

/// Holds the calling process and all that come of it to a domain of their own, for good.
///
/// # Safety
/// Only as part of [`super::child::become_monitor`], after `PR_SET_NO_NEW_PRIVS`.
pub(super) unsafe fn restrict(domain: Domain) -> Result<(), c_int> {
    let ruleset = match domain {
        Domain::None => return Ok(()),
        // Moving files between directories is the one right that every domain over files takes
        // away unless it is handled and given back: so that one is handled, and given for all.
        Domain::Trace => Ruleset {
            files: ACCESS_FS_REFER,
            network: 0,
            scoped: 0,
        },
        Domain::Scoped => Ruleset {
            files: 0,
            network: 0,
            scoped: SCOPES,
        },
    };
    // SAFETY: structures of the sizes that are said; the path is a C string. The descriptors close
    // with `execve`.
    unsafe {
        let created = sys!(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<Ruleset>(),
            0
        )?;
        if domain == Domain::Trace {
            let flags = libc::O_PATH | libc::O_CLOEXEC;
            let root = sys!(libc::SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), flags, 0)?;
            let rule = Beneath {
                allowed: ACCESS_FS_REFER,
                directory: c_int::try_from(root).unwrap_or(-1),
            };
            sys!(
                libc::SYS_landlock_add_rule,
                created,
                RULE_PATH_BENEATH,
                &raw const rule,
                0
            )?;
        }
        sys!(libc::SYS_landlock_restrict_self, created, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_as_good_as_the_kernel_and_does_not_take_mounts_from_those_that_need_them() {
        for (abi, mounts, best) in [
            (0, false, Domain::None),
            (1, false, Domain::None),
            (2, false, Domain::Trace),
            (5, false, Domain::Trace),
            (5, true, Domain::None),
            (6, true, Domain::Scoped),
            (7, false, Domain::Scoped),
        ] {
            assert_eq!(Domain::best(abi, mounts), best, "{abi}");
        }
    }
}
