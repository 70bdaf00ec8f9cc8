//! Packets of the agents' sockets, both ways: the authority behind the socket hooks.
//!
//! Outbound: a TCP SYN must go where `connect` sent it; a datagram goes where `sendmsg` allowed it,
//! or is decided here. Inbound: a new flow over loopback from an address of this host is let in
//! (other agents are stopped at their own connect, ungoverned local processes are trusted), any
//! other only where an allowed destination answers. What goes to a loopback address leaves by `lo` alone. Quarantine stops
//! everything at the next packet.

use agentguard_common::address::Address;
use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::{
    AgentEntry, SocketEntry, TCP, UDP, agent_flag, listener_flag, mode, pending, socket_class,
    socket_flag, socket_state,
};
use agentguard_common::verdict::Effect;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;

use crate::decide::{decide, is_own, real_address};
use crate::maps::{COUNTERS, LISTENERS, SOCKETS};
use crate::seal::{is_destination, is_peer, note_destination, note_peer};
use crate::socket::is_guards;
use crate::{ALLOW, DENY, LOOPBACK_INDEX, agent, event, log, origin, quota};

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_HOPOPTS: u8 = 0;
/// The beginning of the option that says how long a packet is for whose length IPv6 has no room, and of the header that it
/// comes in, of eight bytes (RFC 2675, 2).
const JUMBO: [u8; 3] = [0, 0xc2, 4];
const JUMBO_HEADER: usize = 8;
/// The longest packet without it: what IPv6 has room for (`IPV6_MAXPLEN`), behind both headers.
const LONGEST_WITHOUT: u32 = 65_535 + 40 + 8;
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;
/// Where the flags are in a header of TCP.
const TCP_FLAGS: usize = 13;
/// The first byte of a header of IPv4 without options.
const IPV4_PLAIN: u8 = 0x45;
/// The longest reset, in bytes: the headers of IPv6 and TCP, and the options of an established connection.
const LONGEST_RESET: u32 = 40 + 20 + 20;

/// A packet leaves.
#[cgroup_skb]
fn egress(ctx: SkBuffContext) -> i32 {
    judge::<true>(&ctx)
}

/// A packet arrives.
#[cgroup_skb]
fn ingress(ctx: SkBuffContext) -> i32 {
    judge::<false>(&ctx)
}

#[inline(always)]
fn judge<const OUTBOUND: bool>(ctx: &SkBuffContext) -> i32 {
    let Some(entry) = entry_of(ctx) else {
        return refuse_unknown::<OUTBOUND>(ctx);
    };
    // What a run or an agent leaves behind when it is forgotten goes nowhere, without a word.
    let Some(found) = agent::by_cgroup(entry.cgroup) else {
        return DENY;
    };
    let passes = judge_known::<OUTBOUND>(ctx, entry, found)
        && (found.flags & agent_flag::METERED == 0 || quota::passes::<OUTBOUND>(ctx, entry, found));
    count(found.agent, ctx.len(), OUTBOUND, passes);
    if passes { ALLOW } else { DENY }
}

/// What a socket's entry and agent say of its packet. A function of its own, as [`refuse_unknown`]
/// is: what both need does not fit into one frame.
#[inline(never)]
fn judge_known<const OUTBOUND: bool>(
    ctx: &SkBuffContext,
    entry: &mut SocketEntry,
    found: &AgentEntry,
) -> bool {
    found.flags & agent_flag::QUARANTINED == 0
        && match parse(ctx, OUTBOUND) {
            Some(packet) if OUTBOUND => leaves(ctx, entry, found, &packet),
            Some(packet) => enters(ctx, entry, found, &packet),
            None => other(entry, found, OUTBOUND),
        }
}

/// The socket's entry. A socket that the gate did not see being made has none.
#[inline(always)]
fn entry_of(ctx: &SkBuffContext) -> Option<&'static mut SocketEntry> {
    // SAFETY: the context of this hook; `sk` is the only member of its union.
    let socket: *mut bpf_sock = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    // SAFETY: a socket pointer from the context, checked for null.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    // SAFETY: the helper above gave a full socket or null.
    unsafe { SOCKETS.get(socket.cast()) }.filter(|entry| entry.cgroup != 0)
}

/// Tells of a packet of a socket that the gate did not see being made: its headers are all there is.
#[inline(never)]
fn refuse_unknown<const OUTBOUND: bool>(ctx: &SkBuffContext) -> i32 {
    // SAFETY: the context of this hook.
    let agent = unsafe { agent::of_packet(ctx.skb.skb) }.map_or(0, |found| found.entry.agent);
    let mut event = Event {
        kind: if OUTBOUND { kind::FLOW } else { kind::INBOUND },
        reason: if agent == 0 {
            reason::NO_AGENT
        } else {
            reason::UNKNOWN_SOCKET
        },
        denied: 1,
        agent,
        ..Event::default()
    };
    if let Some(packet) = parse(ctx, OUTBOUND) {
        event.protocol = event::protocol(packet.transport);
        (event.remote, event.remote_port, event.local_port) = if OUTBOUND {
            (
                packet.destination,
                packet.destination_port,
                packet.source_port,
            )
        } else {
            (packet.source, packet.source_port, packet.destination_port)
        };
    }
    event::emit(event);
    DENY
}

/// What the gate reads of a packet.
struct Packet {
    source: Address,
    destination: Address,
    source_port: u16,
    destination_port: u16,
    transport: u8,
    opens: bool,
    synchronizes: bool,
    finishes: bool,
}

/// Reads the headers. `None`: not TCP or UDP right behind an IP header (of IPv6 there may be one between that says how
/// long the packet is), or a fragment without its ports. Nor what leaves with IPv4 options: a source route, set on an established connection, sends
/// its packets to another address than the one that was decided.
#[inline(always)]
fn parse(ctx: &SkBuffContext, outbound: bool) -> Option<Packet> {
    let first: u8 = ctx.load(0).ok()?;
    let (source, destination, protocol, offset) = match first >> 4 {
        4 => {
            let header = usize::from(first & 0x0f) * 4;
            let fragment = u16::from_be(ctx.load::<u16>(6).ok()?);
            // The offset of a fragment that is not the first.
            if header < 20 || (outbound && header > 20) || fragment & 0x1fff != 0 {
                return None;
            }
            (
                Address::from_v4_word(ctx.load(12).ok()?),
                Address::from_v4_word(ctx.load(16).ok()?),
                ctx.load::<u8>(9).ok()?,
                header,
            )
        }
        6 => {
            let next: u8 = ctx.load(6).ok()?;
            let (protocol, offset) = if next == IPPROTO_HOPOPTS {
                (within_jumbo(ctx)?, 40 + JUMBO_HEADER)
            } else {
                (next, 40)
            };
            let (from, to) = (Address(ctx.load(8).ok()?), Address(ctx.load(24).ok()?));
            (from, to, protocol, offset)
        }
        _ => return None,
    };
    let (transport, opens, synchronizes, finishes) = match protocol {
        IPPROTO_TCP => {
            let flags: u8 = ctx.load(offset + 13).ok()?;
            let opens = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            let synchronizes = flags & TCP_SYN != 0;
            (TCP, opens, synchronizes, flags & TCP_FIN != 0)
        }
        IPPROTO_UDP => (UDP, false, false, false),
        _ => return None,
    };
    Some(Packet {
        source,
        destination,
        source_port: u16::from_be(ctx.load(offset).ok()?),
        destination_port: u16::from_be(ctx.load(offset + 2).ok()?),
        transport,
        opens,
        synchronizes,
        finishes,
    })
}

/// What is in a packet of IPv6 that is longer than that has room for. The kernel makes them of what a connection of TCP
/// sends at once, and takes them apart where a device wants that: over loopback, where a segment is nearly that long, whatever
/// sends more than one (`ip6_xmit` since Linux 5.19). `None`: any other header of that kind.
#[inline(always)]
fn within_jumbo(ctx: &SkBuffContext) -> Option<u8> {
    let [protocol, option @ ..]: [u8; 4] = ctx.load(40).ok()?;
    (option == JUMBO && protocol == IPPROTO_TCP && ctx.len() > LONGEST_WITHOUT).then_some(protocol)
}

#[inline(always)]
fn leaves(
    ctx: &SkBuffContext,
    entry: &mut SocketEntry,
    found: &AgentEntry,
    packet: &Packet,
) -> bool {
    // What was sent to us, or to a port of the agent's own, stays on this host: a socket that is
    // bound to a device takes loopback addresses there, and our neighbours would hear it.
    // SAFETY: the context of this hook.
    if packet.destination.is_loopback() && unsafe { (*ctx.skb.skb).ifindex } != LOOPBACK_INDEX {
        let told = event::Told {
            rule: 0,
            ..event::Told::flow(entry, reason::DEVICE, true)
        };
        event::tell(entry, &told);
        return false;
    }
    if packet.transport == TCP && !packet.opens {
        return !is_undecided(ctx, entry, packet) || {
            let why = reason::UNKNOWN_SOCKET;
            event::refuse(entry, &packet.destination, packet.destination_port, why);
            false
        };
    }
    let (to, port, noted) = (&packet.destination, packet.destination_port, entry.class);
    let dialled = entry.state >= socket_state::PASS && is_destination(entry, to, port, noted);
    let class = noted & !socket_class::TOLD;
    // What was the agent's own when it was dialled, or when it sent, may be a service of the host's
    // by now; also when a SYN is repeated. One look-up for both: the frame has no room for more.
    let (dialled_own, peer_own) = (
        class == socket_class::OWN,
        entry.flags & socket_flag::PEER_OWN != 0,
    );
    let own = (dialled_own || peer_own) && reaches_own(ctx, found, packet);
    let decided = dialled
        && (own || !dialled_own)
        && (class != socket_class::GUARD || reaches_guard(entry.netns, packet));
    if packet.transport == TCP {
        if !decided {
            let why = if dialled {
                reason::LOOPBACK
            } else {
                reason::UNKNOWN_SOCKET
            };
            event::refuse(entry, &packet.destination, packet.destination_port, why);
        }
        return decided;
    }
    // Of the guard's, datagrams reach the resolver alone.
    let asks = decided && class == socket_class::GUARD;
    if pretends(ctx, entry, found, packet, asks) {
        event::refuse(
            entry,
            &packet.destination,
            packet.destination_port,
            reason::UNPARSABLE,
        );
        return false;
    }
    if decided {
        if asks {
            let from = (&packet.source, packet.source_port);
            let known = is_one(ctx)
                && origin::may_ask(entry.agent, ctx.len())
                && origin::publish::<{ pending::QUERY }>(entry, from.0, from.1);
            if !known {
                event::refuse(entry, &entry.dialled, entry.dialled_port, reason::MAP_FULL);
            }
            return known;
        }
        if class == socket_class::OWN || noted & socket_class::TOLD != 0 {
            return true;
        }
    }
    // Who was let in came over `lo`, by whatever address: another device leads to somebody else.
    // SAFETY: the context of this hook.
    let here = unsafe { (*ctx.skb.skb).ifindex } == LOOPBACK_INDEX;
    let answers = !decided && here && is_peer(entry, to, port, peer_own) && (own || !peer_own);
    answers || first_datagram(ctx, entry, found, packet, decided)
}

/// Whether a packet is of a TCP connection that its own socket dialled and nobody decided on: the socket was
/// made under the gate, or while the gate was put up or taken off, and dialled when it was not there. What
/// was accepted has the entry of another socket, and what listens answers with a SYN alone.
#[inline(always)]
fn is_undecided(ctx: &SkBuffContext, entry: &SocketEntry, packet: &Packet) -> bool {
    entry.state == socket_state::NEW
        && entry.reason != reason::TOLERATED
        && !packet.synchronizes
        // SAFETY: helper on the context of this hook.
        && unsafe { bpf_get_socket_cookie(ctx.as_ptr()) } == entry.socket
}

/// Whether the guard listens where a redirected packet goes, now: it may have begun with another port
/// since, and the one that it left is anybody's. Datagrams are the resolver's alone.
#[inline(never)]
fn reaches_guard(netns: u64, packet: &Packet) -> bool {
    // SAFETY: user space replaces entries whole.
    let Some(ours) = (unsafe { LISTENERS.get(netns) }) else {
        return false;
    };
    let port = packet.destination_port;
    let listens = packet.destination.is_v4() || ours.flags & listener_flag::V6 != 0;
    listens && (port == ours.resolver_port || (packet.transport == TCP && port == ours.proxy_port))
}

/// Whether a datagram is one in one piece. Not many that the kernel will take apart (`UDP_SEGMENT`): 64 of
/// them or more, each of which takes its own room where it waits. Nor one of the sender's own pages
/// (`MSG_ZEROCOPY`), which take the room of whole pages there however little is in each.
#[inline(always)]
fn is_one(ctx: &SkBuffContext) -> bool {
    let packet = ctx.skb.skb;
    // SAFETY: the context of this hook. The two are pointers to the first piece and its end, of 64 bits once
    // they are loaded.
    let (segments, first, length) = unsafe {
        let first = (*packet).data_end as usize - (*packet).data as usize;
        ((*packet).gso_segs, first, (*packet).len as usize)
    };
    segments <= 1 && first >= length
}

/// Whether a packet will reach a socket of the same agent, now.
#[inline(always)]
fn reaches_own(ctx: &SkBuffContext, found: &AgentEntry, packet: &Packet) -> bool {
    let at = (&packet.destination, packet.destination_port);
    let from = (&packet.source, packet.source_port);
    // SAFETY: the context of this hook.
    unsafe { is_own(ctx.as_ptr(), found.agent, at, from, packet.transport) }
}

/// Whether the socket that a packet's receiver would answer to is the same agent's, now.
#[inline(always)]
fn comes_from_own(ctx: &SkBuffContext, found: &AgentEntry, packet: &Packet) -> bool {
    let at = (&packet.source, packet.source_port);
    let from = (&packet.destination, packet.destination_port);
    // SAFETY: the context of this hook.
    unsafe { is_own(ctx.as_ptr(), found.agent, at, from, packet.transport) }
}

/// Whether a packet goes from one socket of the agent's to another of its own, which nobody else gets to see. Of
/// the guard's sockets none is; for others the kernel is asked, packet by packet.
#[inline(always)]
pub(crate) fn stays_with_agent<const OUTBOUND: bool>(
    ctx: &SkBuffContext,
    entry: &SocketEntry,
    found: &AgentEntry,
) -> bool {
    // SAFETY: the context of this hook.
    let here = unsafe { (*ctx.skb.skb).ifindex } == LOOPBACK_INDEX;
    if !here || entry.class & !socket_class::TOLD == socket_class::GUARD {
        return false;
    }
    match parse(ctx, OUTBOUND) {
        Some(packet) if OUTBOUND => reaches_own(ctx, found, &packet),
        Some(packet) => comes_from_own(ctx, found, &packet),
        None => false,
    }
}

/// Whether a packet only says that its connection is over: a reset of TCP without contents.
#[inline(always)]
pub(crate) fn is_reset(ctx: &SkBuffContext) -> bool {
    let header = |at: usize| ctx.load::<u8>(at).unwrap_or_default();
    let (protocol, flags) = match header(0) {
        IPV4_PLAIN => (header(9), header(20 + TCP_FLAGS)),
        first if first >> 4 == 6 => (header(6), header(40 + TCP_FLAGS)),
        _ => return false,
    };
    protocol == IPPROTO_TCP && flags & TCP_RST != 0 && ctx.len() <= LONGEST_RESET
}

/// Whether a datagram says another sender (`IP_PKTINFO`) than the one that was bound: somebody else's,
/// in whose place the receiver would answer. A socket that is bound to every address shares its port
/// with those on one of them. Whose a query is the resolver knows by its sender alone.
#[inline(always)]
fn pretends(
    ctx: &SkBuffContext,
    entry: &SocketEntry,
    found: &AgentEntry,
    packet: &Packet,
    asks: bool,
) -> bool {
    if !entry.bound.is_unspecified() && entry.bound != packet.source {
        return true;
    }
    // A socket from before the gate may have any address of IPv6, and be answered there (`option`).
    if asks && !packet.source.is_v4() && !packet.source.is_loopback() {
        return true;
    }
    (asks || packet.source.is_loopback()) && !comes_from_own(ctx, found, packet)
}

/// What a packet's first destination was called: the name that was dialled if it leads to where the packet
/// goes, else the destination. Another thread may have dialled since.
#[inline(always)]
fn dialled_for(entry: &SocketEntry, packet: &Packet) -> Address {
    let dialled = entry.dialled;
    match real_address(entry.agent, dialled) {
        Some(real) if real == packet.destination => dialled,
        _ => packet.destination,
    }
}

/// Connected UDP reaches no socket hook when it sends: its first datagram is decided here, also where
/// `connect` has sent it to a name's real address.
#[inline(always)]
fn first_datagram(
    ctx: &SkBuffContext,
    entry: &mut SocketEntry,
    found: &AgentEntry,
    packet: &Packet,
    rewritten: bool,
) -> bool {
    let dialled = if rewritten {
        dialled_for(entry, packet)
    } else {
        packet.destination
    };
    entry.dialled = dialled;
    entry.dialled_port = packet.destination_port;
    entry.generation = event::settings().map_or(0, |settings| settings.generation);
    // SAFETY: the context of this hook.
    let verdict = unsafe {
        decide(
            ctx.as_ptr(),
            found,
            entry.netns,
            dialled,
            packet.destination_port,
            UDP,
        )
    };
    entry.rule = verdict.rule;
    entry.reason = verdict.reason;
    log::verdict(entry, verdict.effect);
    let there = verdict.effect == Effect::Real && dialled != packet.destination;
    if verdict.effect != Effect::Pass && !there {
        // Too late to send it elsewhere: what `connect` did not rewrite stays here.
        let why = if verdict.effect == Effect::Deny {
            verdict.reason
        } else {
            reason::DATAGRAM
        };
        // Where `connect` sent it the next one is decided again: by that address alone nothing would be.
        if !rewritten {
            entry.state = socket_state::UNDECIDED;
        }
        event::refuse(entry, &packet.destination, packet.destination_port, why);
        return false;
    }
    entry.state = socket_state::PASS;
    if verdict.reason == reason::LOCAL {
        let class = socket_class::OWN;
        note_destination(entry, &packet.destination, packet.destination_port, class);
        return true;
    }
    let mut told = event::Told {
        remote: dialled,
        remote_port: packet.destination_port,
        rule: verdict.rule,
        ..event::Told::flow(entry, verdict.reason, false)
    };
    if !quota::begins(entry, verdict, &mut told) {
        // The next one is decided anew: there may be room for it.
        entry.state = socket_state::UNDECIDED;
        return false;
    }
    passes_told(entry, packet, &told)
}

/// Tells of an allowed flow with its first datagram. `false`: it cannot be told, and does not pass.
#[inline(always)]
fn passes_told(entry: &mut SocketEntry, packet: &Packet, told: &event::Told) -> bool {
    let class = socket_class::ALLOWED | socket_class::TOLD;
    let passes = event::tell(entry, told);
    if passes {
        note_destination(entry, &packet.destination, packet.destination_port, class);
    }
    passes
}

#[inline(always)]
fn enters(
    ctx: &SkBuffContext,
    entry: &mut SocketEntry,
    found: &AgentEntry,
    packet: &Packet,
) -> bool {
    if packet.transport == TCP && !packet.opens {
        if packet.finishes {
            entry.flags |= socket_flag::PEER_FINISHED;
        }
        return true;
    }
    let answer = packet.transport == UDP
        && is_destination(entry, &packet.source, packet.source_port, entry.class);
    if answer {
        if entry.class & !socket_class::TOLD == socket_class::GUARD {
            origin::answered(entry, &packet.destination, packet.destination_port);
        }
        return true;
    }
    // Others were sent to the guard there, and nobody else's are its ports: a socket that the kernel
    // gave one of them by itself, or from before the gate.
    if is_guards(entry.netns, packet.destination_port) {
        let told = event::Told {
            remote: packet.source,
            remote_port: packet.source_port,
            local_port: packet.destination_port,
            rule: 0,
            kind: kind::INBOUND,
            ..event::Told::flow(entry, reason::GUARD, true)
        };
        event::tell(entry, &told);
        return false;
    }
    // The host may let the sender be any (`ip_nonlocal_bind`): who is answered has to be here.
    let here = (packet.source.is_loopback() && !packet.source.is_unspecified())
        || packet.source == packet.destination;
    // SAFETY: the context of this hook.
    if here && unsafe { (*ctx.skb.skb).ifindex } == LOOPBACK_INDEX {
        if packet.transport == UDP {
            // The resolver is asked by a name of its own: an answer to it would be a query of nobody's.
            if !is_guards(entry.netns, packet.source_port) {
                let own = comes_from_own(ctx, found, packet);
                note_peer(entry, &packet.source, packet.source_port, own);
            }
        }
        return true;
    }
    if packet.transport == UDP {
        // A socket that talks to several allowed destinations remembers only the last one.
        // SAFETY: the context of this hook.
        let verdict = unsafe {
            decide(
                ctx.as_ptr(),
                found,
                entry.netns,
                packet.source,
                packet.source_port,
                UDP,
            )
        };
        if verdict.effect == Effect::Pass && verdict.reason == reason::RULE_ALLOW {
            return true;
        }
    }
    let enforced = found.mode == mode::ENFORCE;
    let told = event::Told {
        remote: packet.source,
        remote_port: packet.source_port,
        local_port: packet.destination_port,
        rule: 0,
        kind: kind::INBOUND,
        ..event::Told::flow(entry, reason::INBOUND, enforced)
    };
    event::tell(entry, &told);
    !enforced
}

/// Neither TCP nor UDP, or unreadable.
#[inline(always)]
fn other(entry: &SocketEntry, found: &AgentEntry, outbound: bool) -> bool {
    let enforced = found.mode == mode::ENFORCE || entry.transport != 0;
    let told = event::Told {
        rule: 0,
        kind: if outbound { kind::FLOW } else { kind::INBOUND },
        ..event::Told::flow(entry, reason::UNPARSABLE, enforced)
    };
    event::tell(entry, &told);
    !enforced
}

/// Adds to the agent's counters of this processor, which the keeper made with the agent.
#[inline(always)]
fn count(agent: u32, bytes: u32, outbound: bool, passes: bool) {
    let Some(counters) = COUNTERS.get_ptr_mut(agent) else {
        return;
    };
    let bytes = u64::from(bytes);
    // SAFETY: this processor's slot; an interrupting program can at worst lose an addition.
    unsafe {
        if !passes {
            (*counters).denied += 1;
        } else if outbound {
            (*counters).sent_bytes += bytes;
        } else {
            (*counters).received_bytes += bytes;
        }
    }
}
