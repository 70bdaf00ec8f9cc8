//! The system calls that the worker may make.
//!
//! An allow-list of what this program, its libraries and the C library under them really use. A call
//! that is not in it fails with `EPERM`, silently: libraries probe, and go on. One of [`NEVER`] ends the
//! worker with `SIGSYS`: no library makes it, so whoever does has taken the worker over. The kernel logs
//! it, and so does the keeper, which starts another worker.

use std::io;

use crate::seccomp::{Condition, Fate, Filter, Rules, is, is_zero, masked};

/// Memory, threads, time, signals of its own.
const PROCESS: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mlock,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Files: of the record, of names, and what all may read. What it may reach is up to the mounts and to
/// the files' modes.
const FILES: &[libc::c_long] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What the C library calls on x86_64 under its old names.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_lstat,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
/// `asm-generic/unistd.h`; libc does not name it there.
#[cfg(target_arch = "aarch64")]
const OLD: &[libc::c_long] = &[
    38, // renameat
];

/// Sockets and waiting for them. Which sockets can be made is below.
const SOCKETS: &[libc::c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_pidfd_open,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // From socket to socket, through a pipe.
    libc::SYS_splice,
];

/// What only somebody else's code would call: other programs and their memory, other users, mounts and
/// namespaces, keys, the kernel itself.
pub(super) const NEVER: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// The elements of maps whose descriptors it has, and what kind of map one is (`linux/bpf.h`).
const BPF_COMMANDS: [u32; 5] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    15, // BPF_OBJ_GET_INFO_BY_FD
];

/// How a thread is made: all of the process shared, and nothing new.
const THREAD: u32 = bits(
    libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD,
);
const NAMESPACES: u32 = bits(
    libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_PTRACE,
);

/// `SOCK_TYPE_MASK` of `linux/net.h`: the rest are flags.
const SOCKET_TYPE: u32 = 0xf;

/// `linux/prctl.h`: threads are named, memory is by a newer C library, and the auxiliary vector is read.
const PRCTLS: [u32; 3] = [
    bits(libc::PR_SET_NAME),
    0x5356_4d41, // PR_SET_VMA
    0x4155_5856, // PR_GET_AUXV
];

/// Of `fcntl`'s neighbours, what the standard library asks of descriptors.
const IOCTLS: [u32; 4] = [
    0x5401, // TCGETS: is it a terminal?
    0x5421, // FIONBIO
    0x5451, // FIOCLEX
    0x541b, // FIONREAD
];

const fn bits(flags: libc::c_int) -> u32 {
    flags.cast_unsigned()
}

/// The filter for this process.
pub(super) fn filter() -> Filter {
    let eperm = Fate::Refuse(libc::EPERM);
    let own = std::process::id();
    let mut rules = Rules::default();
    for command in BPF_COMMANDS {
        rules = rules.when(libc::SYS_bpf, &[is(0, command)], Fate::Allow);
    }
    rules = rules
        // The C library falls back to `clone`, whose flags can be seen.
        .on(&[libc::SYS_clone3], Fate::Refuse(libc::ENOSYS))
        .when(
            libc::SYS_clone,
            &[masked(0, THREAD | NAMESPACES, THREAD)],
            Fate::Allow,
        )
        .on(&[libc::SYS_clone], Fate::Kill);
    // No code but what was there at the start, and none that can be written.
    let execute = bits(libc::PROT_EXEC);
    rules = rules
        .when(libc::SYS_mmap, &[masked(2, execute, 0)], Fate::Allow)
        .when(libc::SYS_mprotect, &[masked(2, execute, 0)], Fate::Allow);
    // Internet sockets of two kinds. Of local ones only pairs of streams: they are connected, and
    // cannot be to anything else; the others that it has it was given.
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let conditions = [is(0, bits(family)), masked(1, SOCKET_TYPE, bits(kind))];
            rules = rules.when(libc::SYS_socket, &conditions, Fate::Allow);
        }
    }
    rules = rules.when(
        libc::SYS_socketpair,
        &[
            is(0, bits(libc::AF_UNIX)),
            masked(1, SOCKET_TYPE, bits(libc::SOCK_STREAM)),
        ],
        Fate::Allow,
    );
    // To itself only, which is how it aborts.
    rules = rules.when(libc::SYS_tgkill, &[is(0, own)], Fate::Allow);
    for option in PRCTLS {
        rules = rules.when(libc::SYS_prctl, &[is(0, option)], Fate::Allow);
    }
    for request in IOCTLS {
        rules = rules.when(libc::SYS_ioctl, &[is(1, request)], Fate::Allow);
    }
    // Its own limits, to read.
    let [low, high] = is_zero(2);
    let read: [Condition; 3] = [is(0, 0), low, high];
    rules = rules.when(libc::SYS_prlimit64, &read, Fate::Allow);
    rules
        .on(SOCKETS, Fate::Allow)
        .on(FILES, Fate::Allow)
        .on(PROCESS, Fate::Allow)
        .on(OLD, Fate::Allow)
        .on(NEVER, Fate::Kill)
        .filter(eperm)
}

/// Puts this process under [`filter`].
///
/// # Errors
/// The system call's.
pub(super) fn confine() -> io::Result<()> {
    filter().apply()
}
