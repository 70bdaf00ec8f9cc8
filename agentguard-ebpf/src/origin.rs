//! Where redirected connections and queries were meant to go: what the proxy and the resolver find.
//!
//! Each agent has slots of its own ([`pending`]), and an origin is published only with one. So one
//! agent that connects and queries without end fills its own slots and not the maps, in which all
//! others have their place. A slot whose origin was read, given up, or is old is free again.

use agentguard_common::address::Address;
use agentguard_common::map::{Origin, OriginKey, SlotKey, SocketEntry, TCP, UDP, pending};
use aya_ebpf::bindings::{BPF_ANY, BPF_EXIST};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use core::mem::transmute;

use crate::event::{add, add_one, exchange, exchange_word};
use crate::maps::{BUDGETS, ORIGINS, Origins, QUERIES, SLOTS};

/// How many slots are looked at for a free one: some are held longer than those around them. And how often a
/// number is read anew that another processor has changed.
const PROBES: u32 = 4;

/// Notes where a redirected socket was to go, under the address the listener will see, as one of
/// [`pending`]. `false`: all the agent's slots are taken, or the map is full. Then the listener finds
/// nothing, and refuses.
#[inline(always)]
pub(crate) fn publish<const KIND: u32>(entry: &SocketEntry, address: &Address, port: u16) -> bool {
    let key = key::<KIND>(entry.netns, *address, port);
    // SAFETY: see `claim`.
    let known = unsafe { map::<KIND>().get(key) }
        .filter(|known| known.agent == entry.agent)
        .map(|known| (known.slot, unanswered::<KIND>(known)));
    // A port that asks again keeps its slot. Only while it has it: the origin may go meanwhile.
    if let Some((slot, unanswered)) = known
        && note::<KIND>(entry, &key, slot, unanswered, u64::from(BPF_EXIST))
    {
        return true;
    }
    let slot = claim::<KIND>(entry.agent, &key);
    if slot != NO_SLOT && note::<KIND>(entry, &key, slot, 0, u64::from(BPF_ANY)) {
        return true;
    }
    // Who had the port before must not stand for this one.
    let _ = map::<KIND>().remove(key);
    false
}

/// How many queries of a port wait for their answers in this period. Those of earlier ones have no part in it.
#[inline(never)]
fn unanswered<const KIND: u32>(known: &Origin) -> u32 {
    if KIND != pending::QUERY {
        return 0;
    }
    let Some(budget) = BUDGETS.get_ptr_mut(known.agent) else {
        return 0;
    };
    // SAFETY: a number in a map's value, aligned.
    let since = unsafe { (&raw const (*budget).asked_since).read_volatile() };
    if known.published_ns >= since {
        known.unanswered
    } else {
        0
    }
}

/// Forgets the origin of a connection that was given up before it was established.
#[inline(always)]
pub(crate) fn forget<const KIND: u32>(entry: &SocketEntry, address: &Address, port: u16) {
    let key = key::<KIND>(entry.netns, *address, port);
    // SAFETY: see `claim`.
    let Some(known) = (unsafe { map::<KIND>().get(key) }) else {
        return;
    };
    if known.agent == entry.agent {
        let slot = SlotKey {
            agent: known.agent,
            slot: known.slot,
        };
        let _ = SLOTS.remove(slot);
        let _ = map::<KIND>().remove(key);
    }
}

/// Whether a query of so many bytes may go to the resolver now: those of all agents wait in one buffer, and
/// what no longer fits there is lost, whosever it is. So nobody may have more there than a part of it. A
/// function of its own, as [`note`] is.
#[inline(never)]
pub(crate) fn may_ask(agent: u32, length: u32) -> bool {
    if length > pending::LONGEST_QUERY {
        return false;
    }
    let Some(budget) = BUDGETS.get_ptr_mut(agent) else {
        return false;
    };
    // SAFETY: helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: numbers in a map's value, aligned. Two processors that begin a period at once can at worst
    // let through what one period has twice, and each of them one query more than there is room for.
    unsafe {
        let since = &raw mut (*budget).asked_since;
        let asked = &raw mut (*budget).asked;
        if now.saturating_sub(since.read_volatile()) >= pending::ASKED_NS {
            since.write_volatile(now);
            asked.write_volatile(0);
        }
        // What is refused takes nothing: who asks too much at once would else wait for the next period.
        let fits = asked.read_volatile() < pending::ASKED_BYTES;
        if fits {
            add(asked, pending::buffered(length));
        }
        fits
    }
}

/// An answer of the resolver's to this port: a query was read, and there is room for another one. Only for one that was
/// asked, in this period: in a network namespace of its own an agent can make answers of anything.
#[inline(never)]
pub(crate) fn answered(entry: &SocketEntry, address: &Address, port: u16) {
    let key = key::<{ pending::QUERY }>(entry.netns, *address, port);
    let Some(known) = QUERIES.get_ptr_mut(key) else {
        return;
    };
    let Some(budget) = BUDGETS.get_ptr_mut(entry.agent) else {
        return;
    };
    // SAFETY: numbers in maps' values, aligned. Where another processor counts at the same time, this one does not:
    // then the slot is held for longer, and the room comes with the next period.
    let gives_room = unsafe {
        let unanswered = &raw mut (*known).unanswered;
        let count = unanswered.read_volatile();
        (*known).agent == entry.agent
            && count > 0
            && exchange_word(unanswered, count, count - 1)
            && (*known).published_ns >= (&raw const (*budget).asked_since).read_volatile()
    };
    if !gives_room {
        return;
    }
    // SAFETY: as above.
    let asked = unsafe { &raw mut (*budget).asked };
    let mut tried = 0;
    while tried < PROBES {
        tried += 1;
        // SAFETY: as above. Never below zero: the query may be of an earlier period.
        let before = unsafe { asked.read_volatile() };
        let after = before.saturating_sub(pending::ANSWERED_BYTES);
        // SAFETY: as above.
        if unsafe { exchange(asked, before, after) } {
            return;
        }
    }
}

/// What no slot is called.
const NO_SLOT: u32 = u32::MAX;

/// A function of its own: inlined into `egress`, the entry takes more of its frame than there is. `unanswered`: how
/// many queries of the port are not answered beside this one.
#[inline(never)]
fn note<const KIND: u32>(
    entry: &SocketEntry,
    key: &OriginKey,
    slot: u32,
    unanswered: u32,
    flags: u64,
) -> bool {
    let origin = Origin {
        // SAFETY: helper without arguments.
        published_ns: unsafe { bpf_ktime_get_ns() },
        socket: entry.socket,
        destination: entry.dialled,
        agent: entry.agent,
        pid: entry.pid,
        uid: entry.uid,
        generation: entry.generation,
        comm: entry.comm,
        port: entry.dialled_port,
        reason: entry.reason,
        _pad: 0,
        run: entry.run,
        slot,
        unanswered: if KIND == pending::QUERY {
            unanswered.saturating_add(1)
        } else {
            0
        },
    };
    map::<KIND>().insert(key, origin, flags).is_ok()
}

/// Takes a slot of the agent's for a key. Processors that do so at once try different ones.
#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low bits are the slot's number"
)]
fn claim<const KIND: u32>(agent: u32, key: &OriginKey) -> u32 {
    let Some(budget) = BUDGETS.get_ptr_mut(agent) else {
        return NO_SLOT;
    };
    // SAFETY: helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut tried = 0;
    while tried < PROBES {
        tried += 1;
        // SAFETY: one of the numbers in a map's value, aligned; there is one for each kind.
        let number = unsafe {
            let next = (&raw mut (*budget).next).cast::<u64>();
            add_one(next.add(KIND as usize))
        };
        let slot = SlotKey {
            agent,
            slot: KIND << 16 | (number as u32 & (pending::slots(KIND) - 1)),
        };
        if is_free::<KIND>(&slot, now) {
            return match SLOTS.insert(slot, key, u64::from(BPF_ANY)) {
                Ok(()) => slot.slot,
                Err(_) => NO_SLOT,
            };
        }
    }
    NO_SLOT
}

/// Whether nothing holds a slot. What has held it for too long is forgotten.
#[inline(always)]
fn is_free<const KIND: u32>(slot: &SlotKey, now: u64) -> bool {
    // SAFETY: here and below: values are replaced whole and not freed under a running program. What
    // another processor or the worker removes meanwhile was removed a moment earlier or later.
    let Some(held) = (unsafe { SLOTS.get(slot) }) else {
        return true;
    };
    // SAFETY: as above.
    let Some(origin) = (unsafe { map::<KIND>().get(held) }) else {
        return true;
    };
    if origin.agent != slot.agent || origin.slot != slot.slot {
        return true;
    }
    let (held_ns, answered) = if KIND == pending::QUERY {
        (pending::QUERY_HELD_NS, origin.unanswered == 0)
    } else {
        (pending::CONNECTION_HELD_NS, false)
    };
    if !answered && now.saturating_sub(origin.published_ns) < held_ns {
        return false;
    }
    let _ = map::<KIND>().remove(held);
    true
}

#[inline(always)]
fn map<const KIND: u32>() -> &'static Origins {
    if KIND == pending::CONNECTION {
        &ORIGINS
    } else {
        &QUERIES
    }
}

#[inline(always)]
fn key<const KIND: u32>(netns: u64, address: Address, port: u16) -> OriginKey {
    let transport = if KIND == pending::QUERY { UDP } else { TCP };
    let key = Words {
        netns,
        address,
        rest: u64::from(port) | u64::from(transport) << 16,
    };
    // SAFETY: the same size and alignment, and an `OriginKey` is valid whatever its bytes are; the
    // target's byte order puts port, transport and padding at the places that they have there.
    unsafe { transmute::<Words, OriginKey>(key) }
}

/// An [`OriginKey`] whose last bytes are written as one word. Five bytes of padding by themselves are
/// zeroed by a call of `memset`, and on 6.1 every call takes 32 bytes at least of the 512 that `egress` and
/// its functions have together (`check_max_stack_depth`).
#[repr(C)]
struct Words {
    netns: u64,
    address: Address,
    rest: u64,
}
