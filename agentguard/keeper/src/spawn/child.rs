//! What runs between `clone3` and `execve`: the keeper's new process becomes a monitor, forks the
//! command ([`super::command`]), and the command's program takes over.
//!
//! The keeper has many threads and this process has one: whatever lock another thread held is held
//! for ever here. So nothing in this file allocates, locks, panics or calls into libc beyond
//! `syscall` (libc's `setuid` would look for the keeper's threads, its `sigaction` may lock).
//! Everything it needs was prepared before, in [`Prepared`].
//!
//! The order matters. What needs root comes first (session, priority, namespaces, mounts, limits),
//! then the credentials go for good, then what the target user must be allowed to do itself (enter
//! the directory, execute the program). Landlock and the system call filter come last.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::ptr;

use super::command::become_command;
use super::landlock::Domain;
use super::message::Stage;
use super::monitor;
use super::wire::Record;

/// Calls the system: `Err` has the error number.
macro_rules! sys {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        let result = ::libc::syscall(
            $number
            $(, $crate::spawn::child::Word::word($argument))*
        );
        if result == -1 {
            Err(*::libc::__errno_location())
        } else {
            Ok(result)
        }
    }};
}
pub(crate) use sys;

/// What a system call takes: every argument fills a whole register.
pub(crate) trait Word {
    fn word(self) -> libc::c_long;
}

impl Word for i32 {
    fn word(self) -> libc::c_long {
        self.into()
    }
}

impl Word for u32 {
    fn word(self) -> libc::c_long {
        self.into()
    }
}

impl Word for i64 {
    fn word(self) -> libc::c_long {
        self
    }
}

impl Word for u64 {
    fn word(self) -> libc::c_long {
        self.cast_signed()
    }
}

impl Word for usize {
    fn word(self) -> libc::c_long {
        self.cast_signed() as libc::c_long
    }
}

impl<T> Word for *const T {
    fn word(self) -> libc::c_long {
        self.expose_provenance().word()
    }
}

impl<T> Word for *mut T {
    fn word(self) -> libc::c_long {
        self.expose_provenance().word()
    }
}

/// Where the descriptors of the monitor lie after [`arrange`].
pub(super) const WIRE: RawFd = 3;
pub(super) const TERMINAL: RawFd = 4;
const DIRECTORY: RawFd = 5;
const FIRST_FREE: libc::c_uint = 6;

/// Above all places that [`arrange`] fills, so that no copy lands on one.
const PARKING: libc::c_int = 32;

/// The size of the kernel's signal set, in bytes.
pub(super) const SIGNAL_SET: usize = 8;

/// All that the child needs. Descriptors are the keeper's numbers, -1 for none; pointers point into
/// what the caller of `clone3` keeps alive, of which the child has its own copy.
pub(super) struct Prepared<'a> {
    pub(super) stdio: [RawFd; 3],
    pub(super) wire: RawFd,
    pub(super) terminal: RawFd,
    pub(super) directory: RawFd,
    /// What the keeper calls the directory.
    pub(super) directory_path: &'a CStr,
    pub(super) network: RawFd,
    /// Detached mounts, where they go, and whether they may find no place.
    pub(super) mounts: &'a [(RawFd, &'a CStr, bool)],
    pub(super) foreground: bool,
    pub(super) oom: &'a [u8],
    pub(super) nice: libc::c_int,
    pub(super) affinity: &'a [u8],
    pub(super) limits: &'a [(u32, libc::rlimit64)],
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: &'a [u32],
    pub(super) capabilities: u64,
    pub(super) umask: u32,
    pub(super) ignored: u64,
    pub(super) domain: Domain,
    pub(super) filter: Option<libc::sock_fprog>,
    /// Where the stack of the launching thread ends, which the child goes on with.
    pub(super) stack_top: usize,
    /// The paths to try.
    pub(super) candidates: &'a [*const libc::c_char],
    /// NULL-terminated, at least one argument.
    pub(super) arguments: *const *const libc::c_char,
    /// NULL-terminated: `/bin/sh`, a place for the script's path, the arguments from the second on.
    pub(super) script: *mut *const libc::c_char,
    /// NULL-terminated.
    pub(super) environment: *const *const libc::c_char,
}

type Step = Result<(), (Stage, libc::c_int)>;

/// Becomes the monitor. Never returns.
///
/// # Safety
/// Only in the process that `clone3` has just made, without `CLONE_VM`, with all signals blocked;
/// all that `prepared` points to must be valid.
pub(super) unsafe fn become_monitor(prepared: &Prepared<'_>) -> ! {
    // SAFETY: as promised to us.
    unsafe {
        let mut wire = prepared.wire;
        let result = prepare(prepared, &mut wire);
        let forked = result.and_then(|descriptors| {
            fork()
                .map(|pid| (pid, descriptors))
                .map_err(|errno| (Stage::Fork, errno))
        });
        match forked {
            Ok((0, _)) => become_command(prepared),
            Ok((pid, (signals, maps))) => {
                // Whoever is first, parent or child: the group exists before it is signalled.
                let _ = sys!(libc::SYS_setpgid, pid, pid);
                for fd in [0, 1, 2, DIRECTORY] {
                    let _ = sys!(libc::SYS_close, fd);
                }
                let terminal = (prepared.terminal >= 0).then_some(TERMINAL);
                monitor::watch(pid, signals, maps, prepared.stack_top, terminal)
            }
            Err((stage, errno)) => {
                report(wire, Record::Failed(stage as i32, errno));
                report(wire, Record::Exited(1));
                exit(1)
            }
        }
    }
}

/// Sends a record to the keeper; if the keeper is gone, to nobody.
///
/// # Safety
/// Only as part of [`become_monitor`].
pub(super) unsafe fn report(wire: RawFd, record: Record) {
    let bytes = record.encode();
    // SAFETY: `bytes` is readable for its length.
    while let Err(libc::EINTR) = unsafe {
        sys!(
            libc::SYS_sendto,
            wire,
            bytes.as_ptr(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
            ptr::null::<u8>(),
            0
        )
    } {}
}

/// # Safety
/// Only as part of [`become_monitor`].
pub(super) unsafe fn exit(code: libc::c_int) -> ! {
    loop {
        // SAFETY: ends the process without running anything of it.
        let _ = unsafe { sys!(libc::SYS_exit_group, code) };
    }
}

/// All steps before the fork. Gives the descriptors of the signals and of the memory map.
unsafe fn prepare(
    prepared: &Prepared<'_>,
    wire: &mut RawFd,
) -> Result<(RawFd, RawFd), (Stage, libc::c_int)> {
    // SAFETY: as promised to `become_monitor`; each step only calls the system.
    unsafe {
        reset_signals(0);
        session(prepared)?;
        inherit(prepared)?;
        if prepared.network >= 0 {
            sys!(libc::SYS_setns, prepared.network, libc::CLONE_NEWNET).at(Stage::Network)?;
        }
        mounts(prepared)?;
        arrange(prepared)?;
        *wire = WIRE;
        let descriptors = watchers()?;
        for (resource, wanted) in prepared.limits {
            limit(*resource, *wanted).at(Stage::Limits)?;
        }
        // What root may not search (a file system of the user's own) the user may.
        let seen = directory(prepared);
        credentials(prepared)?;
        let _ = sys!(libc::SYS_umask, prepared.umask);
        if seen.is_err() {
            directory(prepared).map_err(|errno| (Stage::Directory, errno))?;
        }
        sys!(libc::SYS_fchdir, DIRECTORY).at(Stage::Directory)?;
        Ok(descriptors)
    }
}

trait At {
    fn at(self, stage: Stage) -> Step;
}

impl At for Result<libc::c_long, libc::c_int> {
    fn at(self, stage: Stage) -> Step {
        self.map(drop).map_err(|errno| (stage, errno))
    }
}

/// A session of its own, with the new terminal as its controlling one.
unsafe fn session(prepared: &Prepared<'_>) -> Step {
    // SAFETY: plain numbers.
    unsafe {
        sys!(libc::SYS_setsid).at(Stage::Session)?;
        if prepared.terminal >= 0 {
            sys!(libc::SYS_ioctl, prepared.terminal, libc::TIOCSCTTY, 0).at(Stage::Session)?;
        }
        // So that `ps` tells it from the keeper.
        let name = c"agentguard-run";
        let _ = sys!(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0);
    }
    Ok(())
}

/// What a child of the caller would have inherited from it; we were the keeper's child.
unsafe fn inherit(prepared: &Prepared<'_>) -> Step {
    let path = c"/proc/self/oom_score_adj";
    // SAFETY: the pointers are valid for their lengths; the path is a C string.
    unsafe {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let file = sys!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0)
            .map_err(|errno| (Stage::Inherit, errno))?;
        let text = prepared.oom;
        sys!(libc::SYS_write, file, text.as_ptr(), text.len()).at(Stage::Inherit)?;
        let _ = sys!(libc::SYS_close, file);
        sys!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, prepared.nice).at(Stage::Inherit)?;
        if !prepared.affinity.is_empty() {
            let mask = prepared.affinity;
            // A cpuset of the agent's cgroup may exclude all of these processors: it prevails.
            let _ = sys!(libc::SYS_sched_setaffinity, 0, mask.len(), mask.as_ptr());
        }
    }
    Ok(())
}

/// Mounts of its own, if there is something to mount. What the host mounts later still arrives,
/// nothing of ours leaves.
unsafe fn mounts(prepared: &Prepared<'_>) -> Step {
    if prepared.mounts.is_empty() {
        return Ok(());
    }
    // SAFETY: the paths are C strings, the other pointers null where the kernel allows it.
    unsafe {
        sys!(libc::SYS_unshare, libc::CLONE_NEWNS).at(Stage::Mounts)?;
        let (none, flags) = (ptr::null::<u8>(), libc::MS_REC | libc::MS_SLAVE);
        sys!(libc::SYS_mount, none, c"/".as_ptr(), none, flags, none).at(Stage::Mounts)?;
        for (tree, target, optional) in prepared.mounts {
            let moved = sys!(
                libc::SYS_move_mount,
                *tree,
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                MOVE_MOUNT_F_EMPTY_PATH
            );
            match moved {
                Err(libc::ENOENT) if *optional => {}
                moved => moved.at(Stage::Mounts)?,
            }
        }
    }
    Ok(())
}

/// `linux/mount.h`.
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

/// Puts the descriptors in their places and closes all others.
unsafe fn arrange(prepared: &Prepared<'_>) -> Step {
    let [input, output, error] = prepared.stdio;
    let mut places = [
        (input, 0, 0),
        (output, 1, 0),
        (error, 2, 0),
        (prepared.wire, WIRE, libc::O_CLOEXEC),
        (prepared.terminal, TERMINAL, libc::O_CLOEXEC),
        (prepared.directory, DIRECTORY, libc::O_CLOEXEC),
    ];
    // SAFETY: plain numbers; the descriptors are our copies of the keeper's.
    unsafe {
        for (fd, _, _) in &mut places {
            if *fd >= 0 {
                let copied = sys!(libc::SYS_fcntl, *fd, libc::F_DUPFD_CLOEXEC, PARKING)
                    .map_err(|errno| (Stage::Descriptors, errno))?;
                *fd = RawFd::try_from(copied).unwrap_or(-1);
            }
        }
        for (fd, place, flags) in places {
            if fd >= 0 {
                sys!(libc::SYS_dup3, fd, place, flags).at(Stage::Descriptors)?;
            } else {
                let _ = sys!(libc::SYS_close, place);
            }
        }
        sys!(libc::SYS_close_range, FIRST_FREE, libc::c_uint::MAX, 0).at(Stage::Descriptors)
    }
}

/// The current directory, as the command sees it. The caller's own descriptor leads into the caller's
/// mounts, and from there, by `..`, to all that is hidden from the command: it must not stay open.
/// ENOENT if there is another directory at the path, or none (any more).
unsafe fn directory(prepared: &Prepared<'_>) -> Result<(), libc::c_int> {
    if prepared.mounts.is_empty() {
        return Ok(());
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let path = prepared.directory_path;
    // SAFETY: the path is a C string; plain numbers.
    unsafe {
        let found = sys!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0)?;
        let same = identity(DIRECTORY)? == identity(found)?;
        let placed = if same {
            sys!(libc::SYS_dup3, found, DIRECTORY, libc::O_CLOEXEC).map(drop)
        } else {
            Err(libc::ENOENT)
        };
        let _ = sys!(libc::SYS_close, found);
        placed
    }
}

/// Device and inode of a descriptor.
unsafe fn identity(fd: impl Word) -> Result<(u64, u64), libc::c_int> {
    // SAFETY: all zeros is a valid `stat`, which libc declares as the kernel does on 64-bit machines.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        sys!(libc::SYS_fstat, fd, &raw mut stat)?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

/// What the monitor will read, opened now: later its limits may not allow it.
unsafe fn watchers() -> Result<(RawFd, RawFd), (Stage, libc::c_int)> {
    let children: u64 = 1 << (libc::SIGCHLD - 1);
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    let path = c"/proc/self/maps";
    // SAFETY: the mask is readable for its size; the path is a C string.
    let (signals, maps) = unsafe {
        (
            sys!(
                libc::SYS_signalfd4,
                -1,
                &raw const children,
                SIGNAL_SET,
                flags
            ),
            sys!(
                libc::SYS_openat,
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
                0
            ),
        )
    };
    let fd = |result: Result<libc::c_long, libc::c_int>| {
        let fd = result.map_err(|errno| (Stage::Descriptors, errno))?;
        RawFd::try_from(fd).map_err(|_| (Stage::Descriptors, libc::EBADF))
    };
    Ok((fd(signals)?, fd(maps)?))
}

/// Sets a limit. Where the keeper may not raise its own (it lacks `CAP_SYS_RESOURCE`), the command
/// gets as much of the caller's as the keeper has.
unsafe fn limit(resource: u32, wanted: libc::rlimit64) -> Result<libc::c_long, libc::c_int> {
    let none = ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the structures are readable or writable as the kernel uses them.
    unsafe {
        match sys!(libc::SYS_prlimit64, 0, resource, &raw const wanted, none) {
            Err(libc::EPERM) => {
                let mut own = wanted;
                let asked = none.cast_const();
                sys!(libc::SYS_prlimit64, 0, resource, asked, &raw mut own)?;
                let less = libc::rlimit64 {
                    rlim_cur: wanted.rlim_cur.min(own.rlim_max),
                    rlim_max: wanted.rlim_max.min(own.rlim_max),
                };
                sys!(libc::SYS_prlimit64, 0, resource, &raw const less, none)
            }
            result => result,
        }
    }
}

/// `linux/capability.h`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// One half of the capability sets: the lower or the upper 32.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `linux/keyctl.h`.
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives up everything that the target user does not have, for good.
unsafe fn credentials(prepared: &Prepared<'_>) -> Step {
    let stage = Stage::Credentials;
    let (uid, gid) = (prepared.uid, prepared.gid);
    // SAFETY: plain numbers, and pointers valid for their lengths.
    unsafe {
        for capability in 0..64 {
            if prepared.capabilities & (1_u64 << capability) == 0 {
                match sys!(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) {
                    Ok(_) => {}
                    // Beyond the last one that this kernel knows.
                    Err(libc::EINVAL) => break,
                    Err(errno) => return Err((stage, errno)),
                }
            }
        }
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
        sys!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, clear, 0, 0, 0).at(stage)?;
        let groups = prepared.groups;
        sys!(libc::SYS_setgroups, groups.len(), groups.as_ptr()).at(stage)?;
        sys!(libc::SYS_setresgid, gid, gid, gid).at(stage)?;
        sys!(libc::SYS_setresuid, uid, uid, uid).at(stage)?;

        let header = CapabilityHeader {
            version: CAPABILITY_VERSION_3,
            pid: 0,
        };
        let mut sets = [CapabilityHalf::default(); 2];
        sys!(libc::SYS_capget, &raw const header, sets.as_mut_ptr()).at(stage)?;
        let [low, high] = &mut sets;
        let [l0, l1, l2, l3, h0, h1, h2, h3] = prepared.capabilities.to_le_bytes();
        for (half, kept) in [
            (low, u32::from_le_bytes([l0, l1, l2, l3])),
            (high, u32::from_le_bytes([h0, h1, h2, h3])),
        ] {
            half.permitted &= kept;
            half.effective = half.permitted;
            half.inheritable = 0;
        }
        sys!(libc::SYS_capset, &raw const header, sets.as_ptr()).at(stage)?;
        sys!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).at(stage)?;

        // The keeper's session keyring is not the command's. Where keyctl does not exist or is
        // filtered for the keeper, it is for its children.
        let none = ptr::null::<u8>();
        match sys!(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, none, 0, 0, 0) {
            Ok(_) | Err(libc::ENOSYS | libc::EPERM) => {}
            Err(errno) => return Err((stage, errno)),
        }
        // Until it has forgotten the keeper's memory, nobody of the same user may look into it.
        sys!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0).at(stage)
    }
}

/// `SIGCHLD`: the monitor waits for the command in the usual way.
const EXIT_SIGNAL: u64 = 17;

unsafe fn fork() -> Result<libc::pid_t, libc::c_int> {
    let arguments = super::launch::CloneArguments {
        exit_signal: EXIT_SIGNAL,
        ..super::launch::CloneArguments::default()
    };
    // SAFETY: a plain fork: the child runs on its own copy of this stack.
    let pid = unsafe {
        sys!(
            libc::SYS_clone3,
            &raw const arguments,
            size_of_val(&arguments)
        )
    }?;
    libc::pid_t::try_from(pid).map_err(|_| libc::EINVAL)
}

/// Default dispositions for all signals, but `SIG_IGN` for those in the mask.
///
/// # Safety
/// Only as part of [`become_monitor`].
pub(super) unsafe fn reset_signals(ignored: u64) {
    for signal in 1..=64 {
        // The kernel's `struct sigaction`, of which the handler comes first on every 64-bit
        // architecture but mips; the rest is zero.
        let mut action = [0_usize; 8];
        if ignored & (1_u64 << (signal - 1)) != 0 {
            action = [libc::SIG_IGN, 0, 0, 0, 0, 0, 0, 0];
        }
        let old = ptr::null_mut::<usize>();
        // SAFETY: `action` is larger than the kernel's structure. SIGKILL and SIGSTOP answer EINVAL.
        let _ = unsafe {
            sys!(
                libc::SYS_rt_sigaction,
                signal,
                action.as_ptr(),
                old,
                SIGNAL_SET
            )
        };
    }
}
