//! What the worker sees of the file system: a mount namespace of its own.
//!
//! Everything is read-only and without devices but the directories that are its own. The directories in
//! which other programs keep sockets, devices, users' files and kernel interfaces are empty there, and
//! so are the guard's own: the keeper's state, its sockets, the pins. What the guard needs of the host
//! stays as it is and follows its changes: programs' libraries, `/etc`, certificates, time zones.
//!
//! The namespace is made once, on a thread that ends, and each worker enters it before it executes. The
//! host's changes of mounts arrive (a file system can be unmounted there), none of it leaves. Where the kernel
//! has Landlock, a `domain` says once more what is open there.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::domain;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change,
    move_mount, open_tree,
};
use rustix::thread::UnshareFlags;

/// Directories of which the worker sees nothing, where they exist.
const EMPTY: [&str; 12] = [
    "/boot",
    "/dev",
    "/home",
    "/lost+found",
    "/media",
    "/mnt",
    "/root",
    "/run",
    "/srv",
    "/sys",
    "/tmp",
    "/var",
];

/// What lies in one of those, and is needed: how many processors a map has values for, and where a
/// distribution keeps its authorities.
const KEPT: [&str; 2] = ["/sys/devices/system/cpu", "/var/lib/ca-certificates"];

/// The host's resolvers: a link into `/run`, on many hosts, to a file that is replaced.
const RESOLVERS: &str = "/etc/resolv.conf";

/// An empty file system, in which directories to mount on can be made.
const EMPTY_OPTIONS: &CStr = c"mode=755,size=64k,nr_inodes=256";

/// Of what is mounted here.
const SAFE: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Of processes, and nothing else: by it the worker learns which cgroup a client of the control socket
/// is in. That is also why other processes are not hidden.
const PROC_OPTIONS: &CStr = c"subset=pid";

/// Why there is no place for the worker.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}")]
pub struct MountsError {
    what: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> MountsError {
    let path = path.display().to_string();
    move |source| MountsError {
        what,
        path,
        source: source.into(),
    }
}

/// The guard's own directories.
#[derive(Debug)]
pub struct Directories<'a> {
    /// The worker's, to write in; below one of the others or not.
    pub own: &'a [PathBuf],
    /// Of which the worker sees nothing else.
    pub hidden: &'a [PathBuf],
}

/// A mount namespace for workers.
#[derive(Debug)]
pub struct Mounts {
    pub(super) namespace: OwnedFd,
    /// Its root directory.
    pub(super) root: OwnedFd,
    /// What it may open there, where the kernel has Landlock.
    pub(super) domain: Option<OwnedFd>,
}

impl Mounts {
    /// Makes it. The directories must exist.
    ///
    /// # Errors
    /// The system calls', with what they were for.
    pub fn new(directories: &Directories<'_>) -> Result<Self, MountsError> {
        let made = std::thread::scope(|scope| scope.spawn(|| make(directories)).join());
        match made {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// On a thread that ends, since it stands in the new namespace.
fn make(directories: &Directories<'_>) -> Result<Mounts, MountsError> {
    let top = Path::new("/");
    // SAFETY: only this thread's mounts, root and directory are left; no descriptor table changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
        .map_err(failed("make a mount namespace with", top))?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(top, flags).map_err(failed("keep to itself what is mounted below", top))?;
    // Copies of what stays writable, before all else is not; then of what lies in what is hidden.
    let mut shown = Vec::new();
    for path in directories.own {
        let copy = copy(path)?;
        attributes(&copy, 0, NO_SUID | NO_DEVICES | NO_EXEC)
            .map_err(failed("mount without programs", path))?;
        shown.push((path.clone(), copy));
    }
    attributes(
        &open(top)?,
        libc::AT_RECURSIVE,
        READ_ONLY | NO_SUID | NO_DEVICES,
    )
    .map_err(failed("mount read-only all below", top))?;
    for path in kept() {
        let copy = copy(&path)?;
        shown.push((path, copy));
    }
    mount(c"proc", c"/proc", c"proc", SAFE, PROC_OPTIONS)
        .map_err(failed("mount", Path::new("/proc")))?;
    let mut emptied = Vec::new();
    let hidden = directories.hidden.iter().map(PathBuf::as_path);
    for path in EMPTY.map(Path::new).into_iter().chain(hidden) {
        // A link leads into another, or stays what it is; what lies in another is gone with it.
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            mount(c"none", path, c"tmpfs", SAFE, EMPTY_OPTIONS).map_err(failed("hide", path))?;
            emptied.push(path);
        }
    }
    for (path, copy) in &shown {
        attach(copy, path)?;
    }
    for path in emptied {
        attributes(&open(path)?, 0, READ_ONLY).map_err(failed("mount read-only", path))?;
    }
    let own = directories.own.iter().map(PathBuf::as_path);
    let shown = shown.iter().map(|(path, _)| path.as_path());
    let kept = shown.filter(|path| !directories.own.iter().any(|own| own == path));
    let domain = domain::make(own, kept).map_err(failed("make a Landlock domain below", top))?;
    Ok(Mounts {
        domain,
        root: open(top)?,
        namespace: open_with(Path::new("/proc/thread-self/ns/mnt"), OFlags::RDONLY)?,
    })
}

/// What lies in a directory that is to be empty, and is needed.
fn kept() -> Vec<PathBuf> {
    let is_empty = |path: &Path| EMPTY.iter().any(|empty| path == Path::new(empty));
    let resolvers = fs::canonicalize(RESOLVERS).ok().and_then(|file| {
        // The file is replaced by others of its name: its directory is followed, unless that is all.
        let directory = file.parent()?.to_owned();
        Some(if is_empty(&directory) {
            file
        } else {
            directory
        })
    });
    let kept = KEPT.iter().map(PathBuf::from).chain(resolvers);
    kept.filter(|path| path.exists() && path.ancestors().skip(1).any(is_empty))
        .collect()
}

/// A mount of what is there, attached nowhere yet.
fn copy(path: &Path) -> Result<OwnedFd, MountsError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(rustix::fs::CWD, path, flags).map_err(failed("copy the mount of", path))
}

/// Attaches a copy, in a directory (or over a file) that is made where there is none.
fn attach(copy: &OwnedFd, path: &Path) -> Result<(), MountsError> {
    let stat = rustix::fs::fstat(copy).map_err(failed("look at", path))?;
    let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    let parent = if directory { Some(path) } else { path.parent() };
    let mut directories = fs::DirBuilder::new();
    directories.recursive(true).mode(0o755);
    directories
        .create(parent.unwrap_or(path))
        .and_then(|()| match directory || path.exists() {
            true => Ok(()),
            false => fs::File::create_new(path).map(drop),
        })
        .map_err(failed("make a place for", path))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(copy, "", rustix::fs::CWD, path, flags).map_err(failed("mount", path))
}

fn open(path: &Path) -> Result<OwnedFd, MountsError> {
    open_with(path, OFlags::PATH)
}

fn open_with(path: &Path, flags: OFlags) -> Result<OwnedFd, MountsError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", path))
}

/// `linux/mount.h`.
const READ_ONLY: u64 = 1;
const NO_SUID: u64 = 2;
const NO_DEVICES: u64 = 4;
const NO_EXEC: u64 = 8;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets attributes of the mount that a descriptor is of (mount_setattr(2), Linux 5.12).
fn attributes(mount: &OwnedFd, flags: libc::c_int, set: u64) -> io::Result<()> {
    let attributes = MountAttributes {
        set,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path is a C string, `attributes` is readable for its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
