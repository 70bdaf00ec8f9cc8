//! The `bpf(2)` commands that aya has no call for.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// What a descriptor of a pinned map may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    /// Look up only (`BPF_F_RDONLY`).
    ReadOnly,
    /// Everything.
    ReadWrite,
}

/// The part of `union bpf_attr` that `BPF_OBJ_PIN` and `BPF_OBJ_GET` read.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_UPDATE` reads.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Opens what is pinned at a path.
pub(super) fn open_pinned(path: &Path, access: Access) -> io::Result<OwnedFd> {
    const BPF_F_RDONLY: u32 = 1 << 3;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Object {
        pathname: path.as_ptr().addr() as u64,
        bpf_fd: 0,
        file_flags: match access {
            Access::ReadOnly => BPF_F_RDONLY,
            Access::ReadWrite => 0,
        },
    };
    let fd = bpf(BPF_OBJ_GET, &attr)?;
    // SAFETY: the call made a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a cgroup and pins the link at a path. `attach_type` is one of `enum
/// bpf_attach_type`. For programs whose links aya cannot pin.
pub(super) fn attach_pinned(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    path: &Path,
) -> io::Result<()> {
    let link = bpf(
        BPF_LINK_CREATE,
        &LinkCreate {
            prog_fd: raw(program),
            target_fd: raw(cgroup),
            attach_type,
            flags: 0,
        },
    )?;
    // SAFETY: the call made a new descriptor that nobody else knows.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Object {
        pathname: path.as_ptr().addr() as u64,
        bpf_fd: raw(link.as_fd()),
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attr).map(drop)
}

/// Puts another program behind a link, in one step.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attr = LinkUpdate {
        link_fd: raw(link),
        new_prog_fd: raw(program),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &attr).map(drop)
}

/// Takes a link's program off what it is on, before this returns (Linux 5.9). A link of what is gone is off.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let attr = LinkDetach { link_fd: raw(link) };
    bpf(BPF_LINK_DETACH, &attr).map(drop)
}

/// A borrowed descriptor is never negative.
fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` as long as the size says; the kernel takes
    // what is missing for zero, and the pointers in it outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
