//! Holds an agent to its quota ([`agentguard_common::quota`]).
//!
//! Bytes are taken where a packet would pass, whatever it is part of: of a flow that goes directly, of one to the
//! proxy or the resolver, of a datagram, in either direction. What stays among the agent's own sockets is not
//! counted, since it reaches nobody. Connections, and flows of datagrams, are counted where they begin; queries to the
//! resolver have a bound of their own.

use agentguard_common::event::reason;
use agentguard_common::map::{AgentEntry, SocketEntry, UDP, agent_flag, mode, socket_state};
use agentguard_common::quota::{Counter, Quota, Usage, open, take};
use agentguard_common::verdict::{Effect, FlowVerdict};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::SkBuffContext;

use crate::event::{self, add, exchange};
use crate::maps::{QUOTAS, USAGE};
use crate::{agent, packet};

/// A number in a map's value.
struct Shared(*mut u64);

impl Counter for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: aligned, and in an entry that is not freed under a running program.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn add(&self, more: u64) -> u64 {
        // SAFETY: as above.
        unsafe { add(self.0, more) }
    }

    #[inline(always)]
    fn exchange(&self, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { exchange(self.0, old, new) }
    }
}

/// What an agent may use, and what it has used. `None`: it has the flag and no entry, and gets nothing.
#[inline(always)]
fn account(agent: u32) -> Option<(&'static Quota, *mut Usage)> {
    // SAFETY: the keeper replaces entries whole.
    let quota = unsafe { QUOTAS.get(agent) }?;
    Some((quota, USAGE.get_ptr_mut(agent)?))
}

/// Counts a packet that would pass. `false`: there are no bytes left for it, and it is dropped.
#[inline(never)]
pub(crate) fn passes<const OUTBOUND: bool>(
    ctx: &SkBuffContext,
    entry: &SocketEntry,
    found: &AgentEntry,
) -> bool {
    if packet::stays_with_agent::<OUTBOUND>(ctx, entry, found) {
        return true;
    }
    let Some((quota, usage)) = account(found.agent) else {
        return false;
    };
    // SAFETY: fields of an entry that was just found.
    let (sent, received) = unsafe { (&raw mut (*usage).sent, &raw mut (*usage).received) };
    // A query whose answer there would be no bytes for: who asks would wait for it, and ask again.
    let unanswered = OUTBOUND
        && entry.transport == UDP
        && entry.state == socket_state::RESOLVER
        && !quota.has_bytes_in(Shared(received).load());
    // SAFETY: as above.
    let (until, why, told) = unsafe {
        if OUTBOUND && !unanswered {
            (
                quota.sent_until,
                reason::QUOTA_SENT,
                &raw mut (*usage).told_sent,
            )
        } else {
            (
                quota.received_until,
                reason::QUOTA_RECEIVED,
                &raw mut (*usage).told_received,
            )
        }
    };
    let used = Shared(if OUTBOUND { sent } else { received });
    let bytes = u64::from(ctx.len());
    if !unanswered && take(&used, until, bytes) {
        return true;
    }
    let enforced = found.mode == mode::ENFORCE;
    if !enforced {
        used.add(bytes);
    } else if OUTBOUND && packet::is_reset(ctx) {
        // With it the other side, and the proxy, learn that the flow is over. It carries nothing.
        return true;
    }
    // Told once for each limit. SAFETY: as above.
    if unsafe { told.read_volatile() } != until {
        let told_of = event::Told {
            rule: 0,
            ..event::Told::flow(entry, why, enforced)
        };
        if event::tell(entry, &told_of) {
            // SAFETY: as above.
            unsafe { told.write_volatile(until) };
        }
    }
    !enforced
}

/// Counts a flow that a verdict lets begin, and tells of it where there is no room for it. `false`: it must not begin
/// now. `told`: what is told of it if it begins; it is used for the refusal too, since a frame has no room for two, and
/// is as it was afterwards.
#[inline(always)]
pub(crate) fn begins(entry: &SocketEntry, verdict: FlowVerdict, told: &mut event::Told) -> bool {
    let over = flow_begins(entry.cgroup, verdict.pack());
    if over == 0 {
        return true;
    }
    let enforced = over & ENFORCED != 0;
    // The rule that allows it has no part in this.
    told.reason = (over & 0xff) as u8;
    told.rule = 0;
    told.denied = u8::from(enforced);
    event::tell(entry, told);
    told.reason = verdict.reason;
    told.rule = verdict.rule;
    told.denied = 0;
    !enforced
}

/// A bit above a reason: it is refused, and not only told.
const ENFORCED: u64 = 1 << 8;

/// Counts a flow of the agent of a cgroup, of which a verdict is given packed: 0, or the reason for which it must not
/// begin, with [`ENFORCED`]. A global function, which the verifier looks at once by itself: its callers go on in two
/// ways, and not in all that lead through it. It calls no other, or `egress` and its functions would need more than
/// 512 bytes together on 6.1.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn flow_begins(cgroup: u64, verdict: u64) -> u64 {
    let verdict = FlowVerdict::unpack(verdict);
    if verdict.effect == Effect::Deny || verdict.reason == reason::LOCAL {
        return 0;
    }
    let Some(found) = agent::by_cgroup(cgroup) else {
        return u64::from(reason::NO_AGENT) | ENFORCED;
    };
    if found.flags & agent_flag::METERED == 0 {
        return 0;
    }
    let why = over_quota(found.agent, verdict.effect != Effect::Resolver);
    if why != 0 && found.mode == mode::ENFORCE {
        return why | ENFORCED;
    }
    why
}

/// Counts a flow that begins, if it is one that has a rate: 0, or the reason for which it must not.
#[inline(always)]
fn over_quota(agent: u32, has_rate: bool) -> u64 {
    let Some((quota, usage)) = account(agent) else {
        return u64::from(reason::MAP_FULL);
    };
    // SAFETY: fields of an entry that was just found, aligned.
    let (sent, received, opened, told) = unsafe {
        (
            (&raw const (*usage).sent).read_volatile(),
            (&raw const (*usage).received).read_volatile(),
            &raw mut (*usage).opened_until_ns,
            quota.is_told(
                (&raw const (*usage).told_sent).read_volatile(),
                (&raw const (*usage).told_received).read_volatile(),
            ),
        )
    };
    if told.0 || !quota.has_bytes_out(sent) {
        return u64::from(reason::QUOTA_SENT);
    }
    if told.1 || !quota.has_bytes_in(received) {
        return u64::from(reason::QUOTA_RECEIVED);
    }
    // SAFETY: helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if !has_rate || open(&Shared(opened), quota, now) {
        0
    } else {
        u64::from(reason::CONNECTION_RATE)
    }
}
