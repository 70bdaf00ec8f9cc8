//! The gate: eBPF programs on the agents' cgroups.
//!
//! One file per hook. A hook fetches what the maps hold, calls
//! [`agentguard_common::verdict::flow_verdict`], and applies the answer.
//!
//! | file | hooks | job |
//! | --- | --- | --- |
//! | `socket` | `sock_create`, `post_bind4/6` | which sockets exist, whose they are, in whose name they send |
//! | `connect` | `connect4/6` | TCP verdicts, redirection; UDP connects decide nothing |
//! | `datagram` | `sendmsg4/6`, `recvmsg4/6` | unconnected UDP; replies seem to come from where they were asked |
//! | `peer` | `getpeername4/6` | the agent sees the address it dialled |
//! | `option` | `setsockopt` | no multicast group is joined: the kernel would tell the link |
//! | `stream` | `sockops` | publishes the original destination before the SYN leaves; byte counts |
//! | `packet` | `cgroup_skb` both ways | the authority: first datagrams, inbound flows, quarantine |
//! | `device` | `cgroup/dev` | which devices an agent opens |
//! | `quota` | no hook | bytes and connections of agents that have a quota, counted for `packet`, `connect` and `datagram` |
//! | `process` | `sched_process_exec`, `sched_process_fork` | which program a process runs |
//! | `lsm` | `socket_create` | which families sockets have; only where the kernel runs LSM programs |
//! | `unix` | `socket_post_create`, `unix_stream_connect`, `unix_may_send` | whose a UNIX socket is, and who may talk to it; likewise |
//! | `foreign` | `socket_sendmsg`, `socket_connect`, `socket_listen`, `socket_setsockopt`, `file_receive`, `ptrace_access_check` | sockets and processes of others; likewise |
//!
//! What this gate cannot see: sockets made before their cgroup was governed (their packets are
//! refused here, their owner sees a time-out), packets that no socket of the agent sends
//! (forwarding and tunnels set up with `CAP_NET_ADMIN`), and without LSM programs sockets of families
//! other than IP, which no cgroup hook sees being made.
//!
//! **Invariants:** a hook error denies; a missing entry denies; v4-mapped addresses are one with
//! their IPv4 form; nothing waits for user space.

// Off the kernel's target this is an empty program, so that the host's tools can check the rest.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "the one way to an atomic add on this target"
    )
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros call a hook with its context by value, which is a pointer"
)]

mod agent;
mod connect;
mod datagram;
mod decide;
mod device;
mod event;
mod foreign;
mod log;
mod lsm;
mod maps;
mod option;
mod origin;
mod packet;
mod peer;
mod process;
mod quota;
mod seal;
mod socket;
mod stream;
mod unix;

/// Return value of a cgroup hook that refuses with `EPERM`.
const DENY: i32 = 0;
/// Return value of a cgroup hook that lets pass.
const ALLOW: i32 = 1;
/// `lo` is the first device of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// `bpf_sk_storage_get` and other helpers are for programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
