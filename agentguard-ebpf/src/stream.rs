//! TCP: publishes the original destination before the SYN leaves, and counts.

use agentguard_common::address::Address;
use agentguard_common::event::{kind, reason};
use agentguard_common::map::{SocketEntry, pending, socket_flag, socket_state};
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
    BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LAST_ACK, BPF_TCP_SYN_SENT,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use core::ptr::read_volatile;

use crate::maps::SOCKETS;
use crate::{event, origin};

const AF_INET: u32 = 2;
/// What a sockops program returns; the answer to a callback, where one is expected, is in `reply`.
const HANDLED: u32 = 1;

/// The callbacks that matter; all others keep their defaults.
#[sock_ops]
fn stream_callbacks(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_STATE_CB => state(&ctx),
        _ => {}
    }
    HANDLED
}

#[inline(always)]
fn entry(ctx: &SockOpsContext) -> Option<&'static mut SocketEntry> {
    // SAFETY: the context of this hook; `sk` is the only member of its union, null for a request
    // socket.
    unsafe { SOCKETS.get((*ctx.ops).__bindgen_anon_2.sk.cast()) }
}

/// The top of `tcp_connect()`: the source port is chosen, the SYN is not sent. The proxy cannot
/// accept before this, so it always finds the entry.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(entry) = entry(ctx) else {
        return;
    };
    match entry.state {
        socket_state::PROXY => {
            let (address, port) = (local_address(ctx), local_port(ctx));
            let known = origin::publish::<{ pending::CONNECTION }>(entry, &address, port);
            told_if_not(known, entry);
        }
        socket_state::RESOLVER => {
            let (address, port) = (local_address(ctx), local_port(ctx));
            let known = origin::publish::<{ pending::STREAM_QUERY }>(entry, &address, port);
            told_if_not(known, entry);
        }
        socket_state::PASS if entry.reason == reason::RULE_ALLOW => {}
        _ => return,
    }
    // The entry of a connection that was refused is deleted at its end, and a direct flow's bytes
    // are counted there. Without the callback the sweeper and the packet counters remain.
    let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG.cast_signed());
}

/// Tells of a connection of which the listener knows nothing. It goes on, since it is refused there at
/// once: a SYN that went nowhere would let the agent wait for minutes.
#[inline(always)]
fn told_if_not(known: bool, entry: &SocketEntry) {
    if !known {
        event::refuse(entry, &entry.dialled, entry.dialled_port, reason::MAP_FULL);
    }
}

#[inline(always)]
fn state(ctx: &SockOpsContext) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    if new != BPF_TCP_CLOSE {
        return;
    }
    let Some(entry) = entry(ctx) else {
        return;
    };
    match entry.state {
        // Refused before it was established. Established ones are the proxy's to delete: a client
        // that sends and closes is in this state seconds before a late accept.
        socket_state::PROXY if old == BPF_TCP_SYN_SENT => {
            let (address, port) = (local_address(ctx), local_port(ctx));
            origin::forget::<{ pending::CONNECTION }>(entry, &address, port);
        }
        socket_state::RESOLVER if old == BPF_TCP_SYN_SENT => {
            let (address, port) = (local_address(ctx), local_port(ctx));
            origin::forget::<{ pending::STREAM_QUERY }>(entry, &address, port);
        }
        socket_state::PASS if entry.reason == reason::RULE_ALLOW => {
            let (sent_bytes, received_bytes) = payload(ctx, entry, old);
            // SAFETY: a field of the context of this hook.
            let rtt = unsafe { (*ctx.ops).srtt_us };
            let told = event::Told {
                sent_bytes,
                received_bytes,
                // The kernel keeps eight times the smoothed time (tcp.h).
                rtt_us: rtt >> 3,
                local_port: local_port(ctx),
                kind: kind::CLOSED,
                ..event::Told::flow(entry, entry.reason, false)
            };
            event::tell(entry, &told);
        }
        _ => {}
    }
}

/// What the peer acknowledged and what it sent, at the end of a flow that was dialled. The kernel's
/// counters are differences of sequence numbers (RFC 4898, `ThruOctets`), in which the SYN that was
/// acknowledged and each FIN count for one.
#[inline(always)]
fn payload(ctx: &SockOpsContext, entry: &SocketEntry, old: u32) -> (u64, u64) {
    // SAFETY: fields of the context of this hook.
    let (acked, received, unacknowledged, next) = unsafe {
        (
            (*ctx.ops).bytes_acked,
            (*ctx.ops).bytes_received,
            (*ctx.ops).snd_una,
            (*ctx.ops).snd_nxt,
        )
    };
    // In FIN_WAIT2 our FIN is acknowledged by definition; of LAST_ACK and CLOSING the sequence
    // numbers tell, since a FIN is the last there is.
    let ours = old == BPF_TCP_FIN_WAIT2
        || ((old == BPF_TCP_LAST_ACK || old == BPF_TCP_CLOSING) && unacknowledged == next);
    // FIN_WAIT2 ends with the peer's FIN and without: only the packet shows which.
    let theirs = old == BPF_TCP_CLOSE_WAIT
        || old == BPF_TCP_LAST_ACK
        || old == BPF_TCP_CLOSING
        || (old == BPF_TCP_FIN_WAIT2 && entry.flags & socket_flag::PEER_FINISHED != 0);
    (
        acked.saturating_sub(1 + u64::from(ours)),
        received.saturating_sub(u64::from(theirs)),
    )
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a port has 16 bits")]
fn local_port(ctx: &SockOpsContext) -> u16 {
    ctx.local_port() as u16
}

/// The local address. Every word is loaded before the family is looked at, volatile: the compiler
/// would else merge loads of two arms into one at a computed offset, which the verifier refuses on
/// a context. The words of the other family are zero.
#[inline(always)]
fn local_address(ctx: &SockOpsContext) -> Address {
    let ops = ctx.ops;
    // SAFETY: fields of the context of this hook, one word each.
    let (v4, v6) = unsafe {
        (
            read_volatile(&raw const (*ops).local_ip4),
            [
                read_volatile(&raw const (*ops).local_ip6[0]),
                read_volatile(&raw const (*ops).local_ip6[1]),
                read_volatile(&raw const (*ops).local_ip6[2]),
                read_volatile(&raw const (*ops).local_ip6[3]),
            ],
        )
    };
    if ctx.family() == AF_INET {
        Address::from_v4_word(v4)
    } else {
        Address(v6)
    }
}
