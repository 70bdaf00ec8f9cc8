//! `connect(2)`: TCP is decided and redirected here; for UDP it sends nothing and decides nothing.
//!
//! The hook runs before the route look-up and before the source port is chosen, also for TCP Fast
//! Open, and for connects by io_uring.

use agentguard_common::address::Address;
use agentguard_common::event::reason;
use agentguard_common::map::{Listeners, SocketEntry, TCP, UDP, socket_class, socket_state};
use agentguard_common::verdict::{DNS_PORT, Effect, FlowVerdict};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use core::ffi::c_void;

use crate::decide::decide;
use crate::maps::{LISTENERS, SOCKETS};
use crate::seal::{is_destination, note_destination};
use crate::socket::transport;
use crate::{ALLOW, DENY, LOOPBACK_INDEX, agent, event, log, quota};

/// IPv4.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    connect::<V4>(&ctx, destination4(&ctx))
}

/// IPv6, and IPv4 in its mapped form.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    connect::<V6>(&ctx, destination6(&ctx))
}

#[inline(always)]
fn connect<const FAMILY: u32>(ctx: &SockAddrContext, destination: Address) -> i32 {
    let Some(entry) = socket_entry(ctx) else {
        return DENY;
    };
    let port = user_port(ctx);
    let Some(verdict) = dial(ctx, entry, destination, port) else {
        return DENY;
    };
    if entry.transport == UDP {
        // Only the resolver and names with direct handling are rewritten; the first datagram is
        // decided where it leaves (`packet`), so that a connect that sends nothing, as every
        // getaddrinfo makes one, is neither refused nor recorded. A query is: where nobody listens
        // for it there may be no route either, and then no datagram would tell of it.
        let unheard = verdict.reason == reason::NO_LISTENER && entry.dialled_port == DNS_PORT;
        if unheard || matches!(verdict.effect, Effect::Resolver | Effect::Real) {
            return match apply::<FAMILY>(ctx, entry, verdict, destination, port) {
                Ok(_) => ALLOW,
                Err(_) => {
                    event::flow(entry, true);
                    DENY
                }
            };
        }
        entry.state = socket_state::UNDECIDED;
        return ALLOW;
    }
    if entry.transport != TCP {
        return ALLOW;
    }
    if apply::<FAMILY>(ctx, entry, verdict, destination, port).is_err() {
        event::flow(entry, true);
        return DENY;
    }
    // Last, so that what is refused for another reason takes nothing.
    let mut told = event::Told::flow(entry, entry.reason, false);
    if !quota::begins(entry, verdict, &mut told) {
        entry.state = socket_state::NEW;
        return DENY;
    }
    if entry.state == socket_state::PASS
        && entry.reason != reason::LOCAL
        && !event::flow(entry, false)
    {
        entry.state = socket_state::UNDECIDED;
        return DENY;
    }
    ALLOW
}

/// The socket's entry; for a socket that the gate did not see being made, one made now if the
/// running task belongs to an agent.
#[inline(always)]
pub(crate) fn socket_entry(ctx: &SockAddrContext) -> Option<&'static mut SocketEntry> {
    let socket = socket_of(ctx);
    // SAFETY: the context's `sk` is a full socket in this program type.
    if let Some(entry) = unsafe { SOCKETS.get(socket) }
        && entry.cgroup != 0
    {
        return Some(entry);
    }
    let found = agent::of_task()?;
    // SAFETY: as above.
    let entry = unsafe { SOCKETS.create(socket) }?;
    entry.cgroup = found.cgroup;
    entry.agent = found.entry.agent;
    entry.run = found.entry.run;
    // SAFETY: fields and helpers of the context of this hook.
    unsafe {
        let sock_addr = ctx.sock_addr;
        entry.transport = transport((*sock_addr).type_, (*sock_addr).protocol);
        entry.netns = bpf_get_netns_cookie(ctx.as_ptr());
        entry.socket = bpf_get_socket_cookie(ctx.as_ptr());
    }
    Some(entry)
}

/// Decides, and notes in the socket's entry what was dialled by whom. `None`: the agent is gone.
#[inline(always)]
pub(crate) fn dial(
    ctx: &SockAddrContext,
    entry: &mut SocketEntry,
    destination: Address,
    port: u16,
) -> Option<FlowVerdict> {
    entry.dialled = destination;
    entry.dialled_port = port;
    agent::note_process(entry);
    // SAFETY: helper on the context of this hook.
    entry.netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    entry.generation = event::settings().map_or(0, |settings| settings.generation);
    let Some(found) = agent::by_cgroup(entry.cgroup) else {
        entry.reason = reason::NO_AGENT;
        entry.rule = 0;
        event::flow(entry, true);
        return None;
    };
    // SAFETY: the context of this hook.
    let verdict = unsafe {
        decide(
            ctx.as_ptr(),
            found,
            entry.netns,
            destination,
            port,
            entry.transport,
        )
    };
    entry.reason = verdict.reason;
    entry.rule = verdict.rule;
    log::verdict(entry, verdict.effect);
    Some(verdict)
}

/// Carries a verdict on `dialled` and its port out: rewrites the address where it says so, and notes where
/// packets may go, which it gives. Another thread may have dialled since, so nothing of this is read from the
/// entry. `Err`: refused, and why.
#[inline(always)]
pub(crate) fn apply<const FAMILY: u32>(
    ctx: &SockAddrContext,
    entry: &mut SocketEntry,
    verdict: FlowVerdict,
    dialled: Address,
    dialled_port: u16,
) -> Result<Noted, u8> {
    let class = match (verdict.effect, verdict.reason) {
        (Effect::Proxy | Effect::Resolver, _) => socket_class::GUARD,
        (_, reason::LOCAL) => socket_class::OWN,
        _ => socket_class::ALLOWED,
    };
    let (address, port, state) = match verdict.effect {
        Effect::Deny => {
            entry.state = socket_state::NEW;
            return Err(verdict.reason);
        }
        // The kernel takes "any" for loopback; say so, for the check on the packet.
        Effect::Pass if dialled.is_unspecified() => {
            (loopback_like(dialled), dialled_port, socket_state::PASS)
        }
        Effect::Pass => (dialled, dialled_port, socket_state::PASS),
        Effect::Real => {
            let real = crate::decide::real_address(entry.agent, dialled).ok_or(verdict.reason)?;
            (real, dialled_port, socket_state::PASS)
        }
        Effect::Proxy | Effect::Resolver => {
            let ours = listeners(entry.netns).ok_or(verdict.reason)?;
            if bound_elsewhere(ctx) {
                entry.reason = reason::DEVICE;
                entry.rule = 0;
                entry.state = socket_state::NEW;
                return Err(reason::DEVICE);
            }
            if verdict.effect == Effect::Proxy {
                (loopback_like(dialled), ours.proxy_port, socket_state::PROXY)
            } else {
                (
                    loopback_like(dialled),
                    ours.resolver_port,
                    socket_state::RESOLVER,
                )
            }
        }
    };
    // To where it sent before there is nothing new to tell.
    let class = if is_destination(entry, &address, port, class | socket_class::TOLD) {
        class | socket_class::TOLD
    } else {
        class
    };
    note_destination(entry, &address, port, class);
    entry.state = state;
    if address != dialled || port != dialled_port {
        rewrite::<FAMILY>(ctx, address, port);
    }
    Ok(Noted {
        address,
        port,
        class,
    })
}

/// Where packets may go: as it was noted in a socket's entry.
pub(crate) struct Noted {
    pub(crate) address: Address,
    pub(crate) port: u16,
    pub(crate) class: u8,
}

/// Whether the socket is bound to a device other than `lo`. Loopback addresses are not special to
/// such a socket: its packets would leave the host with one as their destination. What is bound
/// later, or for one datagram (`IP_PKTINFO`, `IP_UNICAST_IF`), is found at the packet.
#[inline(always)]
fn bound_elsewhere(ctx: &SockAddrContext) -> bool {
    let socket: *mut bpf_sock = socket_of(ctx).cast();
    // SAFETY: the context's `sk` is a full socket in this program type.
    let device = unsafe { (*socket).bound_dev_if };
    device != 0 && device != LOOPBACK_INDEX
}

#[inline(always)]
fn listeners(netns: u64) -> Option<&'static Listeners> {
    // SAFETY: user space replaces entries whole.
    unsafe { LISTENERS.get(netns) }
}

/// Loopback in the family of an address; a mapped address keeps its form.
#[inline(always)]
const fn loopback_like(address: Address) -> Address {
    if address.is_v4() {
        Address::LOOPBACK4
    } else {
        Address::LOOPBACK6
    }
}

/// The hook of an IPv4 call. The verifier lets such a program touch `user_ip4` and not `user_ip6`,
/// hence a family known at compile time.
pub(crate) const V4: u32 = 4;
/// The hook of an IPv6 call.
pub(crate) const V6: u32 = 6;

/// Writes address and port into the context, in the family of the call.
#[inline(always)]
pub(crate) fn rewrite<const FAMILY: u32>(ctx: &SockAddrContext, address: Address, port: u16) {
    let sock_addr: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context of this hook; the verifier wants constant offsets and word stores.
    unsafe {
        if FAMILY == V4 {
            (*sock_addr).user_ip4 = address.0[3];
        } else {
            (*sock_addr).user_ip6[0] = address.0[0];
            (*sock_addr).user_ip6[1] = address.0[1];
            (*sock_addr).user_ip6[2] = address.0[2];
            (*sock_addr).user_ip6[3] = address.0[3];
        }
        (*sock_addr).user_port = u32::from(port.to_be());
    }
}

/// Whether a socket's packets go elsewhere than it dialled.
#[inline(always)]
pub(crate) fn rewritten(entry: &SocketEntry) -> bool {
    entry.dialled != entry.effective || entry.dialled_port != entry.effective_port
}

/// The socket.
#[inline(always)]
pub(crate) fn socket_of(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: the context of this hook; `sk` is the only member of its union.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }.cast()
}

/// The address that an IPv4 call names.
#[inline(always)]
pub(crate) fn destination4(ctx: &SockAddrContext) -> Address {
    // SAFETY: the context of this hook.
    Address::from_v4_word(unsafe { (*ctx.sock_addr).user_ip4 })
}

/// The address that an IPv6 call names.
#[inline(always)]
pub(crate) fn destination6(ctx: &SockAddrContext) -> Address {
    let sock_addr = ctx.sock_addr;
    // SAFETY: the context of this hook; four word loads, as the verifier wants them.
    Address(unsafe {
        [
            (*sock_addr).user_ip6[0],
            (*sock_addr).user_ip6[1],
            (*sock_addr).user_ip6[2],
            (*sock_addr).user_ip6[3],
        ]
    })
}

/// The port that the call names: the low 16 bits of a word, in network order.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is the port")]
pub(crate) fn user_port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context of this hook.
    u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16)
}
