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
/// now.
#[inline(always)]
pub(crate) fn begins(entry: &SocketEntry, verdict: FlowVerdict, told: &event::Told) -> bool {
    // SAFETY: references.
    unsafe { flow_begins(entry, told, verdict.pack()) != 0 }
}

/// [`begins`], of a packed verdict. A global function, which the verifier looks at once by itself: its callers go on
/// in two ways, and not in all that lead through it.
///
/// # Safety
/// Each pointer is null or points to what it says.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn flow_begins(
    entry: *const SocketEntry,
    told: *const event::Told,
    verdict: u64,
) -> u64 {
    // SAFETY: upheld by the caller.
    let (Some(entry), Some(told)) = (unsafe { (entry.as_ref(), told.as_ref()) }) else {
        return 0;
    };
    let verdict = FlowVerdict::unpack(verdict);
    if verdict.effect == Effect::Deny || verdict.reason == reason::LOCAL {
        return 1;
    }
    let Some(found) = agent::by_cgroup(entry.cgroup) else {
        return 0;
    };
    if found.flags & agent_flag::METERED == 0 {
        return 1;
    }
    let why = over_quota(found.agent, verdict.effect != Effect::Resolver);
    if why == 0 {
        return 1;
    }
    let enforced = found.mode == mode::ENFORCE;
    // The rule that allows it has no part in this.
    let told = event::Told {
        reason: (why & 0xff) as u8,
        rule: 0,
        denied: u8::from(enforced),
        ..*told
    };
    event::tell(entry, &told);
    u64::from(!enforced)
}

/// Counts a flow that begins, if it is one that has a rate: 0, or the reason for which it must not.
#[inline(always)]
fn over_quota(agent: u32, has_rate: bool) -> u64 {
    let Some((quota, usage)) = account(agent) else {
        return u64::from(reason::MAP_FULL);
    };
    // SAFETY: fields of an entry that was just found, aligned.
    let (sent, received, opened) = unsafe {
        (
            (&raw const (*usage).sent).read_volatile(),
            (&raw const (*usage).received).read_volatile(),
            &raw mut (*usage).opened_until_ns,
        )
    };
    if !quota.has_bytes_out(sent) {
        return u64::from(reason::QUOTA_SENT);
    }
    if !quota.has_bytes_in(received) {
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
