//! The worker's Landlock domain: a second layer under its mounts and its system calls.
//!
//! What it may open is said here once more, by directories: to read, what every program reads; to write, its
//! own. Nothing is executed; no sockets, devices, links or pipes are made; it binds no TCP port, and from
//! Linux 6.12 on (ABI 6) reaches no process outside with a signal or by an abstract UNIX socket. What its
//! system call filter refuses as well stays refused if that has a hole.
//!
//! The keeper makes the ruleset, since it knows the directories, where the worker will be: rules are about
//! files, and `/proc` is another one there. The worker inherits the descriptor, restricts itself before it
//! reads its first message, and closes it.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::spawn::landlock::{Beneath, RULE_PATH_BENEATH, Ruleset, SCOPED_SINCE, SCOPES, abi};

/// The environment variable that says the descriptor.
pub(super) const VARIABLE: &str = "AGENTGUARD_WORKER_DOMAIN";

/// What the worker reads, where it exists: libraries, names, certificates, time zones, which cgroup a
/// client is in, how many processors there are. Where the mounts show less, that is all.
const READ: [&str; 8] = [
    "/etc",
    "/gnu/store",
    "/lib",
    "/lib64",
    "/nix/store",
    "/opt",
    "/proc",
    "/usr",
];

/// `LANDLOCK_ACCESS_FS_*` of `linux/landlock.h`.
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
/// `LANDLOCK_ACCESS_NET_BIND_TCP`. It connects wherever a decision leads.
const BIND_TCP: u64 = 1;

const READING: u64 = READ_FILE | READ_DIR;
const OWNING: u64 =
    READING | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE;
/// What a rule on a file that is no directory may give.
const OF_FILES: u64 = WRITE_FILE | READ_FILE | TRUNCATE;

/// All rights over files that an ABI knows.
const fn files(abi: u32) -> u64 {
    let known = match abi {
        0 => 0,
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << known) - 1
}

/// What is taken away unless a rule gives it.
const fn ruleset(abi: u32) -> Ruleset {
    Ruleset {
        files: files(abi),
        network: if abi >= 4 { BIND_TCP } else { 0 },
        scoped: if abi >= SCOPED_SINCE { SCOPES } else { 0 },
    }
}

/// Makes the ruleset, in the worker's mounts; `None` where the kernel has no Landlock.
///
/// # Errors
/// The system calls'.
pub(super) fn make<'a>(
    own: impl Iterator<Item = &'a Path>,
    shown: impl Iterator<Item = &'a Path>,
) -> io::Result<Option<OwnedFd>> {
    let abi = abi();
    if abi == 0 {
        return Ok(None);
    }
    let attributes = ruleset(abi);
    // SAFETY: a structure of the size that is said; older kernels take one whose rest is zero.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of::<Ruleset>(),
            0,
        )
    };
    // SAFETY: the kernel has just made this descriptor (close-on-exec), and nobody else knows it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(descriptor(made)?) };
    for path in READ.iter().map(Path::new).chain(shown) {
        allow(&ruleset, path, READING)?;
    }
    for path in own {
        allow(&ruleset, path, OWNING & attributes.files)?;
    }
    // A panic's backtrace has names from there.
    allow(&ruleset, Path::new("/proc/self/exe"), READ_FILE)?;
    Ok(Some(ruleset))
}

fn descriptor(made: libc::c_long) -> io::Result<RawFd> {
    RawFd::try_from(made)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)
}

/// Gives rights over what is below a path, if it is there.
fn allow(ruleset: &OwnedFd, path: &Path, allowed: u64) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(place) => place,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mode = rustix::fs::fstat(&place)?.st_mode;
    let allowed = match FileType::from_raw_mode(mode) {
        FileType::Directory => allowed,
        _ => allowed & OF_FILES,
    };
    let rule = Beneath {
        allowed,
        directory: place.as_raw_fd(),
    };
    // SAFETY: a structure of the kind that is said, and descriptors that are open.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0,
        )
    };
    descriptor(added).map(drop)
}

/// Holds this thread, and all it starts, to the ruleset that the keeper left; for good. Nothing where the
/// keeper left none.
///
/// # Errors
/// The system call's; [`io::ErrorKind::InvalidInput`] if what was left is no descriptor.
pub(super) fn restrict() -> io::Result<()> {
    let Ok(said) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    let ruleset: c_int = said.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: numbers alone. The descriptor is the keeper's word; nothing here has opened one yet that
    // could be meant by it and is needed.
    let restricted = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) };
    descriptor(restricted)?;
    // SAFETY: it was inherited for this, and nothing else has its number.
    drop(unsafe { OwnedFd::from_raw_fd(ruleset) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{OWNING, SCOPES, files, ruleset};

    #[test]
    fn each_kernel_takes_away_all_that_it_knows() {
        for (abi, files, network, scoped) in [
            (1, 0x1fff, 0, 0),
            (2, 0x3fff, 0, 0),
            (3, 0x7fff, 0, 0),
            (4, 0x7fff, 1, 0),
            (5, 0xffff, 1, 0),
            (6, 0xffff, 1, SCOPES),
            (9, 0xffff, 1, SCOPES),
        ] {
            let ruleset = ruleset(abi);
            let found = (ruleset.files, ruleset.network, ruleset.scoped);
            assert_eq!(found, (files, network, scoped), "{abi}");
        }
    }

    #[test]
    fn what_it_owns_is_neither_executed_nor_made_into_anything_but_files() {
        // EXECUTE, MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, IOCTL_DEV.
        for never in [0, 6, 9, 10, 11, 12, 15] {
            assert_eq!(OWNING & (1 << never), 0, "{never}");
            assert_ne!(files(5) & (1 << never), 0, "{never}");
        }
    }
}
