//! Which families sockets have: what no cgroup hook sees.
//!
//! LSM programs run for every task of the machine: whoever is no agent's passes, as soon as that can be
//! told. `IORING_OP_SOCKET` and `SOCK_PACKET` over AF_INET come here too, the latter as AF_PACKET
//! (`net/socket.c`, `__sock_create`).

use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::{LSM_PROBE, mode};
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;

use crate::maps::LSM_SEEN;
use crate::{agent, event, log};

/// Return value of an LSM program that lets pass.
pub(crate) const PASS: i32 = 0;
/// Return value of one that refuses: `-EPERM`.
pub(crate) const REFUSE: i32 = -1;

/// `linux/socket.h`.
pub(crate) const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
/// `linux/netlink.h`. Links, addresses and routes: what `getifaddrs` asks. Others tell of the sockets of
/// other programs (`NETLINK_SOCK_DIAG`), or change the host.
const NETLINK_ROUTE: u32 = 0;

/// `socket(2)`, `socketpair(2)`: only UNIX, IP, whose kinds `sock_create` tells apart, and a little
/// netlink. Arguments: family, type, protocol, whether the kernel makes it for itself.
#[lsm(hook = "socket_create")]
fn lsm_socket_create(ctx: LsmContext) -> i32 {
    let (family, protocol): (u32, u32) = (ctx.arg(0), ctx.arg(2));
    if family == AF_UNIX && protocol == LSM_PROBE {
        seen();
    }
    if family == AF_UNIX
        || family == AF_INET
        || family == AF_INET6
        || (family == AF_NETLINK && protocol == NETLINK_ROUTE)
        || ctx.arg::<u32>(3) != 0
    {
        return PASS;
    }
    let Some(found) = agent::of_task() else {
        return PASS;
    };
    let socket_type: u32 = ctx.arg(1);
    let enforced = found.entry.mode == mode::ENFORCE;
    log::socket(
        found.entry.agent,
        family,
        socket_type,
        protocol,
        reason::SOCKET_TYPE,
    );
    event::emit(refusal(
        &found,
        reason::SOCKET_TYPE,
        family,
        socket_type,
        protocol,
        enforced,
    ));
    if enforced { REFUSE } else { PASS }
}

/// The event of a refusal to the running task.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "socket(2) takes values far below 65536"
)]
pub(crate) fn refusal(
    found: &agent::Found,
    why: u8,
    family: u32,
    socket_type: u32,
    protocol: u32,
    denied: bool,
) -> Event {
    Event {
        kind: kind::SOCKET,
        reason: why,
        denied: u8::from(denied),
        agent: found.entry.agent,
        run: found.entry.run,
        pid: agent::pid(),
        uid: agent::uid(),
        comm: bpf_get_current_comm().unwrap_or_default(),
        family: family as u16,
        socket_type: socket_type as u16,
        protocol: protocol as u16,
        ..Event::default()
    }
}

/// The kernel may take LSM programs and never run them: the loader asks.
#[inline(always)]
fn seen() {
    if let Some(seen) = LSM_SEEN.get_ptr_mut(0) {
        // SAFETY: an element of a map; all who write write the same.
        unsafe { seen.write(1) };
    }
}
