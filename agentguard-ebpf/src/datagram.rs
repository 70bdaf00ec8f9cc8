//! `sendmsg(2)` with an address and `recvmsg(2)`: unconnected UDP, and DNS to the resolver and back.
//!
//! Each call with an address is decided; a flow is recorded once while its destination stays the
//! same. Replies from a rewritten destination seem to come from the one that was dialled, or
//! resolvers would drop them.

use agentguard_common::address::Address;
use agentguard_common::event::reason;
use agentguard_common::map::{UDP, socket_class, socket_flag, socket_state};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::connect::{
    V4, V6, apply, destination4, destination6, dial, rewrite, rewritten, socket_entry, socket_of,
    user_port,
};
use crate::maps::SOCKETS;
use crate::seal::{is_peer, note_destination};
use crate::{ALLOW, DENY, event, quota};

/// A datagram with an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send::<V4>(&ctx, destination4(&ctx))
}

/// A datagram with an IPv6 address, or an IPv4 one in its mapped form.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send::<V6>(&ctx, destination6(&ctx))
}

#[inline(always)]
fn send<const FAMILY: u32>(ctx: &SockAddrContext, destination: Address) -> i32 {
    let Some(entry) = socket_entry(ctx) else {
        return DENY;
    };
    let port = user_port(ctx);
    // An answer to the peer that was let in last needs no rule.
    let own = entry.flags & socket_flag::PEER_OWN != 0;
    if entry.transport == UDP && is_peer(entry, &destination, port, own) {
        return ALLOW;
    }
    // The kernel sends what a v4-mapped socket is connected to with an address: the one that
    // `connect` wrote. The verdict on it was given there, and its packets are watched.
    if entry.state >= socket_state::PASS
        && entry.effective == destination
        && entry.effective_port == port
        && rewritten(entry)
    {
        return ALLOW;
    }
    let same = entry.dialled == destination && entry.dialled_port == port;
    let Some(verdict) = dial(ctx, entry, destination, port) else {
        return DENY;
    };
    if entry.transport != UDP {
        return ALLOW;
    }
    // Nor is what is told read back from the entry.
    let (rule, why) = (verdict.rule, verdict.reason);
    let noted = apply::<FAMILY>(ctx, entry, verdict, destination, port);
    let (why, denied) = match noted {
        Ok(_) => (why, false),
        Err(why) => (why, true),
    };
    let mut told = event::Told {
        remote: destination,
        remote_port: port,
        rule: if why == reason::DEVICE { 0 } else { rule },
        ..event::Told::flow(entry, why, denied)
    };
    let Ok(noted) = noted else {
        event::tell(entry, &told);
        return DENY;
    };
    let known = same && noted.class & socket_class::TOLD != 0;
    if noted.class & !socket_class::TOLD == socket_class::ALLOWED && !known {
        if !quota::begins(entry, verdict, &mut told) || !event::tell(entry, &told) {
            entry.state = socket_state::UNDECIDED;
            return DENY;
        }
        let class = noted.class | socket_class::TOLD;
        note_destination(entry, &noted.address, noted.port, class);
    }
    ALLOW
}

/// The source of an IPv4 datagram.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    receive::<V4>(&ctx, destination4(&ctx))
}

/// The source of an IPv6 datagram.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    receive::<V6>(&ctx, destination6(&ctx))
}

#[inline(always)]
fn receive<const FAMILY: u32>(ctx: &SockAddrContext, source: Address) -> i32 {
    // SAFETY: the context's `sk` is a full socket in this program type.
    if let Some(entry) = unsafe { SOCKETS.get(socket_of(ctx)) }
        && entry.effective == source
        && entry.effective_port == user_port(ctx)
        && rewritten(entry)
    {
        rewrite::<FAMILY>(ctx, entry.dialled, entry.dialled_port);
    }
    // A program of this type that returns anything else is refused at load.
    ALLOW
}
