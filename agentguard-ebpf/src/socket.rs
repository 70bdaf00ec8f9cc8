//! Which sockets exist, whose they are, and in whose name they send.

use agentguard_common::address::Address;
use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::{TCP, UDP, mode};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;

use crate::maps::{LISTENERS, SOCKETS};
use crate::{ALLOW, DENY, agent, event, log};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// [`TCP`], [`UDP`], or 0 for anything else: raw, ping, SCTP, DCCP, UDP-Lite, MPTCP, L2TP, …
#[inline(always)]
pub(crate) const fn transport(socket_type: u32, protocol: u32) -> u8 {
    match (socket_type, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) => TCP,
        (SOCK_DGRAM, IPPROTO_UDP) => UDP,
        _ => 0,
    }
}

/// A socket is made: only TCP and UDP over IP, only for an agent.
#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context of this hook is a valid `bpf_sock`.
    let (family, socket_type, protocol) =
        unsafe { ((*ctx.sock).family, (*ctx.sock).type_, (*ctx.sock).protocol) };
    let transport = transport(socket_type, protocol);
    let Some(found) = agent::of_task() else {
        refuse(
            &ctx,
            0,
            reason::NO_AGENT,
            family,
            socket_type,
            protocol,
            true,
        );
        return DENY;
    };
    if transport == 0 || (family != AF_INET && family != AF_INET6) {
        let enforced = found.entry.mode == mode::ENFORCE;
        refuse(
            &ctx,
            found.entry.agent,
            reason::SOCKET_TYPE,
            family,
            socket_type,
            protocol,
            enforced,
        );
        if enforced {
            return DENY;
        }
    }
    // SAFETY: the context of this hook is the socket.
    let Some(entry) = (unsafe { SOCKETS.create(ctx.as_ptr()) }) else {
        return DENY;
    };
    entry.cgroup = found.cgroup;
    entry.agent = found.entry.agent;
    entry.run = found.entry.run;
    entry.transport = transport;
    // SAFETY: helpers on the context of this hook.
    unsafe {
        entry.netns = bpf_get_netns_cookie(ctx.as_ptr());
        entry.socket = bpf_get_socket_cookie(ctx.as_ptr());
    }
    agent::note_process(entry);
    ALLOW
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "socket(2) takes values far below 65536"
)]
fn refuse(
    ctx: &SockContext,
    agent: u32,
    why: u8,
    family: u32,
    socket_type: u32,
    protocol: u32,
    denied: bool,
) {
    log::socket(agent, family, socket_type, protocol, why);
    event::emit(Event {
        kind: kind::SOCKET,
        reason: why,
        denied: u8::from(denied),
        agent,
        // SAFETY: helper on the context of this hook.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        pid: agent::pid(),
        uid: agent::uid(),
        comm: bpf_get_current_comm().unwrap_or_default(),
        family: family as u16,
        socket_type: socket_type as u16,
        protocol: protocol as u16,
        ..Event::default()
    });
}

/// A socket got its local address. Never a port of the guard's, also where no daemon listens: its
/// listeners outlive no daemon, and what is sent to it comes to whoever is there. Of a UDP socket the
/// address is noted: `packet` lets it send in no other's name.
#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    // SAFETY: the context of this hook is a valid `bpf_sock`.
    let address = Address::from_v4_word(unsafe { (*ctx.sock).src_ip4 });
    bound(&ctx, address)
}

/// As [`post_bind4`].
#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    // SAFETY: the context of this hook is a valid `bpf_sock`.
    let words = unsafe {
        let socket = ctx.sock;
        [
            (*socket).src_ip6[0],
            (*socket).src_ip6[1],
            (*socket).src_ip6[2],
            (*socket).src_ip6[3],
        ]
    };
    bound(&ctx, Address(words))
}

/// Whether the guard's listeners of a network namespace have a port, or had it while there was a daemon.
#[inline(always)]
pub(crate) fn is_guards(netns: u64, port: u16) -> bool {
    // SAFETY: user space replaces entries whole.
    let ours = unsafe { LISTENERS.get(netns) };
    ours.is_some_and(|ours| ours.proxy_port == port || ours.resolver_port == port)
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a port has 16 bits, in host byte order"
)]
fn bound(ctx: &SockContext, address: Address) -> i32 {
    // SAFETY: the context of this hook is the socket.
    let Some(entry) = (unsafe { SOCKETS.get(ctx.as_ptr()) }) else {
        return DENY;
    };
    // SAFETY: the context of this hook is a valid `bpf_sock`.
    let port = unsafe { (*ctx.sock).src_port } as u16;
    if is_guards(entry.netns, port) {
        let told = event::Told {
            remote: address,
            remote_port: port,
            local_port: port,
            rule: 0,
            kind: kind::INBOUND,
            ..event::Told::flow(entry, reason::GUARD, true)
        };
        event::tell(entry, &told);
        return DENY;
    }
    if entry.transport == UDP {
        entry.bound = address;
    }
    ALLOW
}
