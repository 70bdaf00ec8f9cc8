//! Mounts that are made for one run, and what a path means in another mount namespace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

/// A view of the processes that shows nobody what it may not look into (`hidepid=ptraceable`, Linux
/// 5.8, `fs/proc/root.c`): neither other users' processes nor, in a Landlock domain, those outside
/// of the domain.
///
/// # Errors
/// What the system answers: an older kernel knows no such view, and some containers may not mount it.
pub fn processes() -> io::Result<OwnedFd> {
    view_of_processes(MountAttrFlags::empty())
}

/// As [`processes`], where nobody writes.
///
/// # Errors
/// As there.
pub fn processes_to_read() -> io::Result<OwnedFd> {
    view_of_processes(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

fn view_of_processes(more: MountAttrFlags) -> io::Result<OwnedFd> {
    let new = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(new.as_fd(), "hidepid", "ptraceable")?;
    mount(new.as_fd(), more)
}

/// An empty directory of a run's own, in memory. `mode` is for its top, which is root's.
///
/// # Errors
/// What the system answers.
pub fn empty(mode: &str) -> io::Result<OwnedFd> {
    let new = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(new.as_fd(), "mode", mode)?;
    // What lies in it counts as the memory of its writer's cgroup.
    fsconfig_set_string(new.as_fd(), "size", "64m")?;
    mount(new.as_fd(), MountAttrFlags::empty())
}

fn mount(new: BorrowedFd<'_>, more: MountAttrFlags) -> io::Result<OwnedFd> {
    fsconfig_create(new)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | more;
    Ok(fsmount(new, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Makes a directory in a mount of [`empty`], and those above it.
///
/// # Errors
/// What the system answers.
pub fn make_directory(mount: BorrowedFd<'_>, path: &Path, mode: Mode) -> io::Result<()> {
    for above in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
        if above.as_os_str().is_empty() {
            continue;
        }
        let wanted = if above == path {
            mode
        } else {
            Mode::from_raw_mode(0o755)
        };
        match rustix::fs::mkdirat(mount, above, wanted) {
            // Not as the keeper's umask has it.
            Ok(()) => rustix::fs::chmodat(mount, above, wanted, rustix::fs::AtFlags::empty())?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Makes an empty file in a mount of [`empty`], and the directories above it: something to mount on.
///
/// # Errors
/// What the system answers.
pub fn make_file(mount: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        make_directory(mount, above, Mode::from_raw_mode(0o755))?;
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(mount, path, flags, Mode::empty())?;
    Ok(())
}

/// Gives what was made to a user.
///
/// # Errors
/// What the system answers.
pub fn give(mount: BorrowedFd<'_>, path: &Path, uid: u32) -> io::Result<()> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let user = rustix::fs::Uid::from_raw(uid);
    Ok(rustix::fs::chownat(mount, path, Some(user), None, flags)?)
}

/// What the keeper calls the file of a descriptor. Whoever goes there has to see whether it is the
/// same file: the descriptor may be from other mounts.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> io::Result<CString> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(CString::new(path.into_os_string().into_vec())?)
}
