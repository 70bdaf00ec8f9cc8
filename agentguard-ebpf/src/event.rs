//! Tells user space.

use agentguard_common::event::{Event, UnixEvent, kind};
use agentguard_common::map::{Settings, SocketEntry, UNIX_NAME};
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_query};

use crate::maps::{EVENTS, EVENTS_SIZE, SEQUENCE, SETTINGS};

/// What refusals fill of the ring buffer at most, in bytes. The rest is for what is allowed, which does
/// not pass where it cannot be told: one agent's flood of refusals must not stop another's flows.
const REFUSALS: u64 = EVENTS_SIZE as u64 / 4 * 3;

/// An event that carries what a socket's entry knows.
#[inline(always)]
pub(crate) fn of_socket(entry: &SocketEntry, what: u8, why: u8, denied: bool) -> Event {
    Event {
        kind: what,
        reason: why,
        denied: u8::from(denied),
        rule: entry.rule,
        generation: entry.generation,
        agent: entry.agent,
        run: entry.run,
        netns: entry.netns,
        socket: entry.socket,
        pid: entry.pid,
        uid: entry.uid,
        comm: entry.comm,
        remote: entry.dialled,
        remote_port: entry.dialled_port,
        protocol: protocol(entry.transport),
        ..Event::default()
    }
}

/// The outbound verdict of a socket, as its entry has it. As [`emit`].
#[inline(always)]
pub(crate) fn flow(entry: &SocketEntry, denied: bool) -> bool {
    emit(of_socket(entry, kind::FLOW, entry.reason, denied))
}

/// Sends an event. If the ring buffer is full the event is lost and its number shows the gap: `false`.
/// What is allowed and cannot be told is not to pass. For refusals it is full earlier ([`REFUSALS`]).
#[inline(always)]
pub(crate) fn emit(mut event: Event) -> bool {
    // SAFETY: helpers without arguments.
    unsafe {
        event.cpu = bpf_get_smp_processor_id();
        event.time_ns = bpf_ktime_get_ns();
    }
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the pointer is to this processor's slot, 8-byte aligned.
    event.sequence = unsafe { add_one(sequence) } + 1;
    if event.denied != 0 && unread() >= REFUSALS {
        return false;
    }
    EVENTS.output(event, u64::from(BPF_RB_FORCE_WAKEUP)).is_ok()
}

/// As [`emit`], with the name of a UNIX socket: written in place, since a program's frame has no room
/// for it twice. Numbered as there and not in a function of both: that would leave a copy of the event in
/// the frame of `egress`, which is full on 6.1.
#[inline(always)]
pub(crate) fn emit_unix(mut event: Event, name: &[u8; UNIX_NAME], length: u32) -> bool {
    // SAFETY: helpers without arguments.
    unsafe {
        event.cpu = bpf_get_smp_processor_id();
        event.time_ns = bpf_ktime_get_ns();
    }
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the pointer is to this processor's slot, 8-byte aligned.
    event.sequence = unsafe { add_one(sequence) } + 1;
    if event.denied != 0 && unread() >= REFUSALS {
        return false;
    }
    let Some(mut record) = EVENTS.reserve_untyped::<UnixEvent>(0) else {
        return false;
    };
    let place = record.as_mut_ptr();
    // SAFETY: the record is reserved for a whole `UnixEvent`, every byte of which is written.
    unsafe {
        (&raw mut (*place).event).write(event);
        (&raw mut (*place).length).write(length);
        (&raw mut (*place).name).write(*name);
    }
    record.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    true
}

/// How many bytes of the ring buffer nobody has read yet.
#[inline(always)]
fn unread() -> u64 {
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: a ring buffer, of which the helper only reads.
    unsafe { bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) }
}

/// Adds one and gives the value before. Atomic: a program on this processor can be interrupted by
/// another one.
///
/// # Safety
/// `value` is valid and aligned.
#[inline(always)]
#[cfg(target_arch = "bpf")]
unsafe fn add_one(value: *mut u64) -> u64 {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    // SAFETY: upheld by the caller. The library's atomics leave read-modify-write operations out on
    // this target, although version 3 of its instruction set has them. Not relaxed: for that
    // ordering LLVM 22 chooses the instruction that gives nothing back, and takes what was added
    // for the value before.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(value, 1) }
}

/// As on the kernel's target, for checks on the host.
///
/// # Safety
/// `value` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
unsafe fn add_one(value: *mut u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};
    // SAFETY: upheld by the caller.
    unsafe { AtomicU64::from_ptr(value) }.fetch_add(1, Ordering::Relaxed)
}

/// The gate's settings.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

#[inline(always)]
pub(crate) const fn protocol(transport: u8) -> u16 {
    match transport {
        agentguard_common::map::TCP => 6,
        agentguard_common::map::UDP => 17,
        _ => 0,
    }
}
