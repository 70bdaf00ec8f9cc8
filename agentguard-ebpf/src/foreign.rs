//! What belongs to somebody else: IP sockets that were made outside of the agent, and processes.
//!
//! The hooks of a cgroup follow the cgroup that a socket was made in, whoever uses it later: moved into
//! the agent with its process, or handed in (`SCM_RIGHTS`, `pidfd_getfd(2)`). So here the running task's
//! agent is compared with the one of the socket's cgroup. Sockets that the kernel made for itself, as
//! those of network file systems, have no file and are left alone.
//!
//! What is neither IP, UNIX nor netlink no agent makes (`lsm`). One that has such a socket has it from before its
//! cgroup had the gate, or from a time when it was only watched: it is refused wherever it was made.
//!
//! The kernel's structures are read at offsets that the loader takes from the running kernel's BTF. What
//! cannot be read is nobody's, and refused.

use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::mode;
use aya_ebpf::bindings::file;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_sock_from_file};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_probe_read_kernel};
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

use crate::lsm::{PASS, REFUSE, refusal};
use crate::option::refused;
use crate::unix::{SOCKET_SK, at};
use crate::{agent, event};

/// Offset of `file` in `struct socket`, set by the loader, as are all below.
#[unsafe(no_mangle)]
static SOCKET_FILE: u64 = 16;
/// Of `skc_family` in `struct sock_common`, with which a `struct sock` begins.
#[unsafe(no_mangle)]
static SOCK_FAMILY: u64 = 16;
/// Of `sk_type` in `struct sock`.
#[unsafe(no_mangle)]
static SOCK_TYPE: u64 = 516;
/// Of `sk_protocol` in `struct sock`.
#[unsafe(no_mangle)]
static SOCK_PROTOCOL: u64 = 518;
/// Of `sk_cgrp_data` in `struct sock`, which begins with a `struct cgroup *`.
#[unsafe(no_mangle)]
static SOCK_CGROUP: u64 = 672;
/// Of `kn` in `struct cgroup`.
#[unsafe(no_mangle)]
static CGROUP_KN: u64 = 248;
/// Of `self` in `struct cgroup`: a `struct cgroup_subsys_state`.
#[unsafe(no_mangle)]
static CGROUP_SELF: u64 = 0;
/// Of `parent` in `struct cgroup_subsys_state`.
#[unsafe(no_mangle)]
static CSS_PARENT: u64 = 16;
/// Of `id` in `struct kernfs_node`.
#[unsafe(no_mangle)]
static KERNFS_ID: u64 = 96;
/// Of `cgroups` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_CGROUPS: u64 = 3000;
/// Of `tgid` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_TGID: u64 = 1500;
/// Of `dfl_cgrp` in `struct css_set`.
#[unsafe(no_mangle)]
static CSS_SET_CGROUP: u64 = 120;

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_NETLINK: u16 = 16;
/// `linux/ptrace.h`: who asks only wants to know what may be shown, and nobody is told.
const PTRACE_MODE_NOAUDIT: u32 = 4;
/// How many levels above a cgroup an agent is looked for. Below that, nobody's.
const STEPS: u32 = 24;

/// Data is sent, by whatever call. Arguments: the `struct socket`, the message, its size.
#[lsm(hook = "socket_sendmsg")]
fn lsm_foreign_send(ctx: LsmContext) -> i32 {
    judge(ctx.arg(0))
}

/// `connect(2)`. Arguments: the `struct socket`, the address, its length.
#[lsm(hook = "socket_connect")]
fn lsm_foreign_dial(ctx: LsmContext) -> i32 {
    judge(ctx.arg(0))
}

/// `listen(2)`. Arguments: the `struct socket`, the backlog.
#[lsm(hook = "socket_listen")]
fn lsm_foreign_listen(ctx: LsmContext) -> i32 {
    judge(ctx.arg(0))
}

/// `setsockopt(2)`, where it is what agents do not set ([`crate::option`]). Arguments: the `struct socket`, the level,
/// the option.
#[lsm(hook = "socket_setsockopt")]
fn lsm_foreign_option(ctx: LsmContext) -> i32 {
    if refused(ctx.arg(1), ctx.arg(2)).is_some() {
        judge(ctx.arg(0))
    } else {
        PASS
    }
}

/// A descriptor comes in from another process. Argument: the `struct file`. Kernels before 6.5 do not
/// ask `socket_sendmsg` for `sendfile(2)` and `splice(2)`.
#[lsm(hook = "file_receive")]
fn lsm_foreign_receive(ctx: LsmContext) -> i32 {
    let received: *mut file = ctx.arg(0);
    // SAFETY: the argument is a file that the kernel holds while it asks.
    let socket = unsafe { bpf_sock_from_file(received) };
    if socket.is_null() {
        return PASS;
    }
    judge(socket.cast())
}

/// A process is looked into or taken over: `ptrace(2)`, `/proc/PID/mem`, `process_vm_writev(2)`,
/// `pidfd_getfd(2)`. Arguments: the `struct task_struct`, the mode. A process's own threads are not asked
/// about (`kernel/ptrace.c`, `__ptrace_may_access`).
#[lsm(hook = "ptrace_access_check")]
fn lsm_foreign_process(ctx: LsmContext) -> i32 {
    let Some(found) = agent::of_task() else {
        return PASS;
    };
    let task: *const u8 = ctx.arg(0);
    let set: *const u8 = pointer(task, &raw const TASK_CGROUPS);
    let cgroup = pointer(set, &raw const CSS_SET_CGROUP);
    if agent_of(cgroup) == found.entry.agent {
        return PASS;
    }
    let enforced = found.entry.mode == mode::ENFORCE;
    if ctx.arg::<u32>(1) & PTRACE_MODE_NOAUDIT == 0 {
        event::emit(Event {
            kind: kind::PROCESS,
            reason: reason::PROCESS,
            denied: u8::from(enforced),
            agent: found.entry.agent,
            run: found.entry.run,
            pid: agent::pid(),
            uid: agent::uid(),
            comm: bpf_get_current_comm().unwrap_or_default(),
            socket: u64::from(read::<u32>(task, &raw const TASK_TGID)),
            ..Event::default()
        });
    }
    if enforced { REFUSE } else { PASS }
}

/// Whether the running task may use a `struct socket`.
#[inline(always)]
fn judge(socket: *const u8) -> i32 {
    let sock = pointer(socket, &raw const SOCKET_SK);
    let family: u16 = read(sock, &raw const SOCK_FAMILY);
    // UNIX sockets have programs of their own; container runtimes hand netlink ones on.
    if family == AF_UNIX
        || family == AF_NETLINK
        || pointer(socket, &raw const SOCKET_FILE).is_null()
    {
        return PASS;
    }
    let cgroup = pointer(sock, &raw const SOCK_CGROUP);
    let ip = family == AF_INET || family == AF_INET6;
    // Most sockets are used where they were made, by agents and by others.
    // SAFETY: helper without arguments.
    if ip && id_of(cgroup) == unsafe { bpf_get_current_cgroup_id() } {
        return PASS;
    }
    let Some(found) = agent::of_task() else {
        return PASS;
    };
    if ip && agent_of(cgroup) == found.entry.agent {
        return PASS;
    }
    let enforced = found.entry.mode == mode::ENFORCE;
    event::emit(refusal(
        &found,
        reason::UNKNOWN_SOCKET,
        u32::from(family),
        u32::from(read::<u16>(sock, &raw const SOCK_TYPE)),
        u32::from(read::<u16>(sock, &raw const SOCK_PROTOCOL)),
        enforced,
    ));
    if enforced { REFUSE } else { PASS }
}

/// The agent of a `struct cgroup`: that of the deepest of it and its ancestors which has one; 0: none.
#[inline(always)]
fn agent_of(cgroup: *const u8) -> u32 {
    let mut cgroup = cgroup;
    let mut steps = 0;
    while steps < STEPS && !cgroup.is_null() {
        if let Some(entry) = agent::by_cgroup(id_of(cgroup)) {
            return entry.agent;
        }
        let own = cgroup.wrapping_add(at(&raw const CGROUP_SELF));
        let parent = pointer(own, &raw const CSS_PARENT);
        if parent.is_null() {
            return 0;
        }
        cgroup = parent.wrapping_sub(at(&raw const CGROUP_SELF));
        steps += 1;
    }
    0
}

/// The id of a `struct cgroup`; 0: it cannot be read.
#[inline(always)]
fn id_of(cgroup: *const u8) -> u64 {
    read(pointer(cgroup, &raw const CGROUP_KN), &raw const KERNFS_ID)
}

/// A member that is a pointer; null: it cannot be read.
#[inline(always)]
fn pointer(structure: *const u8, offset: *const u64) -> *const u8 {
    core::ptr::with_exposed_provenance(read::<usize>(structure, offset))
}

/// A member that is a number; 0: it cannot be read.
#[inline(always)]
fn read<T: Default>(structure: *const u8, offset: *const u64) -> T {
    if structure.is_null() {
        return T::default();
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(structure.wrapping_add(at(offset)).cast::<T>()) }
        .unwrap_or_default()
}
