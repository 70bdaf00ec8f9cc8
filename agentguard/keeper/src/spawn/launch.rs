//! Makes the process of a run in its cgroup: everything the child will need is prepared here,
//! because the child itself may not even allocate.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::ptr;

use rustix::process::{WaitId, WaitIdOptions};

use super::child::{self, Prepared};
use super::confine::{self, SeccompFilter};
use super::landlock::Domain;
use super::mounts;
use super::plan::SpawnPlan;
use super::wire;

/// A file or directory that the command sees in another's place.
#[derive(Debug)]
pub struct Overlay {
    /// What it sees.
    pub source: Source,
    /// Where; it must exist and be of the same kind. No link.
    pub target: PathBuf,
    /// Nothing is done where the target is not there any more; otherwise the run fails.
    pub optional: bool,
}

/// What a command sees in another's place.
#[derive(Debug)]
pub enum Source {
    /// The file or directory at this descriptor, which may be of `O_PATH`, read-only.
    ReadOnly(OwnedFd),
    /// The directory at this descriptor with all that is mounted below it, read-only.
    ReadOnlyTree(OwnedFd),
    /// A file or directory, to be written as the file modes allow.
    Writable(OwnedFd),
    /// A mount that is attached nowhere yet.
    Mount(OwnedFd),
}

impl Overlay {
    /// A file or directory in another's place, read-only.
    #[must_use]
    pub const fn new(source: OwnedFd, target: PathBuf) -> Self {
        Self {
            source: Source::ReadOnly(source),
            target,
            optional: false,
        }
    }
}

/// Where a command runs.
pub(super) struct Place<'a> {
    /// The run's cgroup directory.
    pub(super) cgroup: BorrowedFd<'a>,
    /// The network namespace, if it is another than the keeper's.
    pub(super) network: Option<BorrowedFd<'a>>,
    /// What it sees in another's place.
    pub(super) overlays: &'a [Overlay],
    /// The system calls it may make.
    pub(super) seccomp: Option<&'a SeccompFilter>,
    /// The processes it may reach.
    pub(super) domain: Domain,
    /// The slave of its terminal.
    pub(super) terminal: Option<BorrowedFd<'a>>,
}

/// A command that was launched, as its monitor.
pub(super) struct Monitor {
    /// The monitor's process.
    pub(super) pidfd: OwnedFd,
    /// The keeper's end of the wire to it.
    pub(super) wire: OwnedFd,
}

impl Monitor {
    /// Waits until the monitor has ended, and frees its pid.
    pub(super) fn reap(&self) {
        // Its end sends no signal, so that the keeper's own children are told apart (`__WALL`).
        let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(WALL);
        let _ = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
        });
    }
}

/// `__WALL` of `linux/wait.h`: children of every kind.
const WALL: u32 = 0x4000_0000;

/// `struct clone_args` of `linux/sched.h`.
#[derive(Default)]
#[repr(C)]
pub(super) struct CloneArguments {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    pub(super) cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts a plan's command in its place.
///
/// # Errors
/// What the system answers. What fails later, in the child, comes over the wire.
pub(super) fn launch(plan: &SpawnPlan, place: &Place<'_>) -> io::Result<Monitor> {
    let (ours, theirs) = wire::pair()?;
    let trees = place
        .overlays
        .iter()
        .filter_map(|overlay| match detach(&overlay.source) {
            // What the host has unmounted since it was looked for is not there for the run either.
            Err(error) if overlay.optional && is_unmounted(&overlay.source, &error) => None,
            tree => Some((tree, overlay)),
        })
        .map(|(tree, overlay)| {
            let failed = |error: io::Error| {
                let target = overlay.target.display();
                io::Error::new(
                    error.kind(),
                    format!("cannot copy what lies over {target}: {error}"),
                )
            };
            Ok((tree.map_err(failed)?, target(overlay)?, overlay.optional))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let mounts: Vec<(RawFd, &CStr, bool)> = trees
        .iter()
        .map(|(tree, target, optional)| (tree.as_raw_fd(), target.as_c_str(), *optional))
        .collect();
    let directory_path = mounts::path_of(plan.directory.as_fd())?;
    let candidates = plan.candidates();
    let candidate_pointers: Vec<_> = candidates.iter().map(|path| path.as_ptr()).collect();
    let arguments = pointers(&plan.arguments);
    let environment = pointers(&plan.environment);
    // `/bin/sh`, the script's path, the command's arguments after its name, NULL.
    let mut script = vec![c"/bin/sh".as_ptr(), ptr::null()];
    script.extend(arguments.iter().skip(1));
    let number = |fd: Option<BorrowedFd<'_>>| fd.map_or(-1, |fd| fd.as_raw_fd());
    let terminal = number(place.terminal);
    let stdio = |fd: &Option<OwnedFd>| fd.as_ref().map_or(terminal, AsRawFd::as_raw_fd);
    let [input, output, error] = &plan.stdio;
    let prepared = Prepared {
        stdio: [stdio(input), stdio(output), stdio(error)],
        wire: theirs.as_raw_fd(),
        terminal,
        directory: plan.directory.as_raw_fd(),
        directory_path: &directory_path,
        network: number(place.network),
        mounts: &mounts,
        foreground: plan.terminal.as_ref().is_some_and(|t| t.foreground),
        oom: &plan.inherited.oom,
        nice: plan.inherited.nice,
        affinity: plan.inherited.affinity.as_deref().unwrap_or_default(),
        limits: &plan.inherited.limits,
        uid: plan.credentials.uid,
        gid: plan.credentials.gid,
        groups: &plan.credentials.groups,
        capabilities: confine::capabilities(plan.credentials.uid),
        umask: plan.umask,
        ignored: plan.ignored,
        filter: place.seccomp.map(SeccompFilter::as_raw),
        domain: place.domain,
        stack_top: stack_top()?,
        candidates: &candidate_pointers,
        arguments: arguments.as_ptr(),
        script: script.as_mut_ptr(),
        environment: environment.as_ptr(),
    };
    let pidfd = clone_into(place.cgroup, &prepared)?;
    Ok(Monitor { pidfd, wire: ours })
}

/// Makes the child and lets it run; only the keeper returns.
fn clone_into(cgroup: BorrowedFd<'_>, prepared: &Prepared<'_>) -> io::Result<OwnedFd> {
    let mut pidfd: RawFd = -1;
    let arguments = CloneArguments {
        flags: CLONE_PIDFD | CLONE_INTO_CGROUP,
        pidfd: u64::try_from((&raw mut pidfd).addr()).map_err(io::Error::other)?,
        cgroup: u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        ..CloneArguments::default()
    };
    let all = !0_u64;
    let mut before = 0_u64;
    let set = |new: *const u64, old: *mut u64| {
        // SAFETY: both are null or point at a kernel signal set. Raw, because libc would keep its
        // own signals unblocked, and their handlers must not run in the child either.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                new,
                old,
                size_of::<u64>(),
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    set(&raw const all, &raw mut before)?;
    // SAFETY: like fork(2): no shared memory, no other stack, so both sides return here, each with
    // its own copy of everything. `arguments` is what this version of `clone_args` has.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of_val(&arguments),
        )
    };
    let failure = io::Error::last_os_error();
    if pid == 0 {
        // SAFETY: we are the new process, all signals are blocked, `prepared` is our copy.
        unsafe { child::become_monitor(prepared) }
    }
    set(&raw const before, ptr::null_mut())?;
    if pid < 0 {
        return Err(failure);
    }
    // SAFETY: the kernel has installed this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// The end of this thread's stack, libc's thread block included.
fn stack_top() -> io::Result<usize> {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::zeroed();
    let mut low = ptr::null_mut();
    let mut size = 0;
    // SAFETY: the attributes are initialised by the first call, read by the second and freed by the
    // third; the other pointers are writable.
    let result = unsafe {
        match libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) {
            0 => {
                let result =
                    libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
                libc::pthread_attr_destroy(attributes.as_mut_ptr());
                result
            }
            error => error,
        }
    };
    if result == 0 {
        Ok(low.addr().saturating_add(size))
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

/// The strings' addresses, and a NULL.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

fn target(overlay: &Overlay) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(overlay.target.as_os_str().as_bytes())?)
}

/// Whether a mount could not be copied because it is no longer one of the keeper's: by its number, for what
/// may not be copied gives the same error (`fs/namespace.c`, `__do_loopback`).
fn is_unmounted(source: &Source, error: &io::Error) -> bool {
    let fd = match source {
        Source::ReadOnly(fd) | Source::ReadOnlyTree(fd) | Source::Writable(fd) => fd.as_raw_fd(),
        Source::Mount(_) => return false,
    };
    if error.raw_os_error() != Some(libc::EINVAL) {
        return false;
    }
    let read =
        |path: &str| std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    let (Ok(info), Ok(mounts)) = (
        read(&format!("/proc/thread-self/fdinfo/{fd}")),
        read("/proc/thread-self/mountinfo"),
    ) else {
        return false;
    };
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    number.is_some_and(|number| !is_listed(&mounts, number.trim()))
}

/// Whether a mount is in `mountinfo` (proc(5)): its number stands first in its line.
fn is_listed(mounts: &str, number: &str) -> bool {
    let mut numbers = mounts.lines().filter_map(|line| line.split(' ').next());
    numbers.any(|other| other == number)
}

/// A copy of the mount at `source`, which is attached nowhere yet: it can then be attached in a mount
/// namespace that `source` does not belong to.
fn detach(source: &Source) -> io::Result<OwnedFd> {
    use rustix::mount::OpenTreeFlags;
    let (source, access, recursive) = match source {
        Source::ReadOnly(source) => (source, MOUNT_ATTR_RDONLY, false),
        Source::ReadOnlyTree(source) => (source, MOUNT_ATTR_RDONLY, true),
        Source::Writable(source) => (source, 0, false),
        Source::Mount(mount) => return mount.try_clone(),
    };
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mut attributes_of = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
        attributes_of |= libc::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(source, "", flags)?;
    let attributes = MountAttributes {
        set: access | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        // The copy of a shared mount is its peer: what is attached into it would come to be on the host.
        propagation: libc::MS_SLAVE,
        ..MountAttributes::default()
    };
    // SAFETY: the path is a C string, `attributes` is readable for its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            attributes_of,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 {
        Ok(tree)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `linux/mount.h`.
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;

/// `struct mount_attr` of `linux/mount.h`.
#[derive(Default)]
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}
