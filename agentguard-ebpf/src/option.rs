//! `setsockopt(2)`: what makes the kernel send by itself, or elsewhere than it was asked.
//!
//! Whoever joins a multicast group, or says whom it hears there, makes the kernel tell the link (IGMP,
//! RFC 3376; MLD, RFC 3810): addresses of the agent's choice, in packets of no socket of its own, which
//! `packet` does not see. What leaves needs no look: it says nothing that was not joined.
//!
//! A socket that may be bound to an address which is not this host's has whoever answers it send there,
//! the guard's own listeners among them. Options for that need no right over IPv6 (`net/ipv6/ipv6_sockglue.c`,
//! `IPV6_FREEBIND`). And a program for the sockets that share a port (`SO_REUSEPORT`) sends a packet to
//! another one of them than the one that is found when the gate looks it up: without a packet the kernel
//! runs no such program (`net/core/sock_reuseport.c`, `reuseport_select_sock`).
//!
//! Only level and name are looked at, which nobody can change behind this program's back, and never the
//! value. io_uring's `SOCKET_URING_OP_SETSOCKOPT` comes here too (`net/socket.c`, `do_sock_setsockopt`).

use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::mode;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;

use crate::{ALLOW, DENY, agent, event};

/// `linux/socket.h`.
const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
const SOL_IPV6: i32 = 41;

/// `asm-generic/socket.h`.
const SO_ATTACH_REUSEPORT_CBPF: i32 = 51;
const SO_ATTACH_REUSEPORT_EBPF: i32 = 52;
/// `linux/in.h`.
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_UNBLOCK_SOURCE: i32 = 37;
const IP_BLOCK_SOURCE: i32 = 38;
const IP_ADD_SOURCE_MEMBERSHIP: i32 = 39;
const IP_MSFILTER: i32 = 41;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_BLOCK_SOURCE: i32 = 43;
const MCAST_UNBLOCK_SOURCE: i32 = 44;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
const MCAST_MSFILTER: i32 = 48;
/// `linux/in6.h`; `IPV6_ADD_MEMBERSHIP` is another name of the first. An anycast address has a
/// multicast group of its own, of 24 bits of it (RFC 4291, 2.7.1).
const IPV6_JOIN_GROUP: i32 = 20;
const IPV6_JOIN_ANYCAST: i32 = 27;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_FREEBIND: i32 = 78;

/// An option is set on an agent's socket.
#[cgroup_sockopt(setsockopt)]
fn setsockopt(ctx: SockoptContext) -> i32 {
    let option = ctx.sockopt;
    // SAFETY: the context of this hook is a valid `bpf_sockopt`. A length of 0 has the kernel take the
    // caller's own value, whole: of one longer than a page there is no more than a page here
    // (`kernel/bpf/cgroup.c`, `__cgroup_bpf_run_filter_setsockopt`).
    let (level, name) = unsafe {
        (*option).optlen = 0;
        ((*option).level, (*option).optname)
    };
    let Some(why) = refused(level, name) else {
        return ALLOW;
    };
    let found = agent::of_task();
    let (number, run, enforced) = match &found {
        Some(found) => (
            found.entry.agent,
            found.entry.run,
            found.entry.mode == mode::ENFORCE,
        ),
        None => (0, 0, true),
    };
    // SAFETY: as above; the hook is called for full sockets.
    let socket = unsafe { (*option).__bindgen_anon_1.sk };
    event::emit(told(&ctx, socket, why, number, run, enforced));
    if enforced { DENY } else { ALLOW }
}

/// Why agents do not set an option, if they do not.
#[inline(always)]
pub(crate) const fn refused(level: i32, name: i32) -> Option<u8> {
    if joins(level, name) {
        Some(reason::MULTICAST)
    } else if pretends(level, name) || steers(level, name) {
        Some(reason::OPTION)
    } else {
        None
    }
}

/// Whether an option lets a socket have an address that is not this host's.
const fn pretends(level: i32, name: i32) -> bool {
    match level {
        SOL_IP => matches!(name, IP_FREEBIND | IP_TRANSPARENT),
        SOL_IPV6 => matches!(name, IPV6_FREEBIND | IPV6_TRANSPARENT),
        _ => false,
    }
}

/// Whether an option chooses among the sockets of one port.
const fn steers(level: i32, name: i32) -> bool {
    level == SOL_SOCKET && matches!(name, SO_ATTACH_REUSEPORT_CBPF | SO_ATTACH_REUSEPORT_EBPF)
}

/// Whether an option makes the kernel report a group or a source.
#[inline(always)]
const fn joins(level: i32, name: i32) -> bool {
    let both = matches!(
        name,
        MCAST_JOIN_GROUP
            | MCAST_BLOCK_SOURCE
            | MCAST_UNBLOCK_SOURCE
            | MCAST_JOIN_SOURCE_GROUP
            | MCAST_MSFILTER
    );
    match level {
        SOL_IP => {
            both || matches!(
                name,
                IP_ADD_MEMBERSHIP
                    | IP_UNBLOCK_SOURCE
                    | IP_BLOCK_SOURCE
                    | IP_ADD_SOURCE_MEMBERSHIP
                    | IP_MSFILTER
            )
        }
        SOL_IPV6 => both || matches!(name, IPV6_JOIN_GROUP | IPV6_JOIN_ANYCAST),
        _ => false,
    }
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "socket(2) takes values far below 65536"
)]
fn told(
    ctx: &SockoptContext,
    socket: *mut bpf_sock,
    why: u8,
    agent: u32,
    run: u32,
    denied: bool,
) -> Event {
    // SAFETY: the hook is called for full sockets, whose fields the verifier reads for us.
    let (family, socket_type, protocol) =
        unsafe { ((*socket).family, (*socket).type_, (*socket).protocol) };
    Event {
        kind: kind::SOCKET,
        reason: why,
        denied: u8::from(denied),
        agent,
        run,
        // SAFETY: helper on the context of this hook.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        pid: agent::pid(),
        uid: agent::uid(),
        comm: bpf_get_current_comm().unwrap_or_default(),
        family: family as u16,
        socket_type: socket_type as u16,
        protocol: protocol as u16,
        ..Event::default()
    }
}
