//! Tells user space.

use agentguard_common::address::Address;
use agentguard_common::event::{Event, UnixEvent, kind, reason};
use agentguard_common::map::{Settings, SocketEntry, UNIX_NAME};
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_CONS_POS, BPF_RB_PROD_POS};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_query};

use crate::maps::{BUDGETS, EVENTS, EVENTS_SIZE, SEQUENCE, SETTINGS};

/// What is filled of the ring buffer at most, in bytes, by what needs not be told for something to pass.
/// The rest is for flows that are allowed, which do not pass where they cannot be told: refusals must
/// not stop another's flows, nor what a policy that is only watched would have refused.
const UNNEEDED: u64 = EVENTS_SIZE as u64 / 4 * 3;

/// What an agent may write before the reader has come to where its share began, in bytes. So no more
/// than twice as much of what nobody has read is ever one agent's, a quarter of the ring buffer,
/// however much of what it does is told; while the reader keeps up nobody is held back. (Processors
/// that begin a share at once may each write one event more.)
const SHARE: u64 = EVENTS_SIZE as u64 / 8;

/// The kernel wakes the reader where it had read everything before this event, and not where it is behind:
/// then it reads on by itself (`kernel/bpf/ringbuf.c`, `bpf_ringbuf_commit`). To wake it for each would cost a
/// connection more than all that is decided about it.
const WAKE_IF_IDLE: u64 = 0;

const EVENT_SIZE: u32 = bytes::<Event>();
const UNIX_EVENT_SIZE: u32 = bytes::<UnixEvent>();

#[expect(clippy::cast_possible_truncation, reason = "events are small")]
const fn bytes<T>() -> u32 {
    size_of::<T>() as u32
}

/// What an event says of a socket beside what the socket's entry knows.
#[repr(C)]
pub(crate) struct Told {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) remote: Address,
    pub(crate) rule: u32,
    pub(crate) rtt_us: u32,
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
    pub(crate) kind: u8,
    pub(crate) reason: u8,
    pub(crate) denied: u8,
    pub(crate) _pad: u8,
}

impl Told {
    /// A flow to where the socket has dialled.
    #[inline(always)]
    pub(crate) fn flow(entry: &SocketEntry, why: u8, denied: bool) -> Self {
        Self {
            sent_bytes: 0,
            received_bytes: 0,
            remote: entry.dialled,
            rule: entry.rule,
            rtt_us: 0,
            remote_port: entry.dialled_port,
            local_port: 0,
            kind: kind::FLOW,
            reason: why,
            denied: u8::from(denied),
            _pad: 0,
        }
    }
}

/// The outbound verdict of a socket, as its entry has it. As [`emit`].
#[inline(always)]
pub(crate) fn flow(entry: &SocketEntry, denied: bool) -> bool {
    tell(entry, &Told::flow(entry, entry.reason, denied))
}

/// A flow of a socket that is refused.
#[inline(always)]
pub(crate) fn refuse(entry: &SocketEntry, remote: &Address, remote_port: u16, why: u8) {
    let told = Told {
        remote: *remote,
        remote_port,
        ..Told::flow(entry, why, true)
    };
    tell(entry, &told);
}

/// Sends an event of a socket. As [`emit`].
#[inline(always)]
pub(crate) fn tell(entry: &SocketEntry, told: &Told) -> bool {
    // SAFETY: references.
    unsafe { event_of_socket(entry, told) != 0 }
}

/// Writes an event in place: a program's frame has no room for one on 6.1. A global function, which the
/// verifier looks at once by itself.
///
/// # Safety
/// Each pointer is null or points to what it says.
#[inline(never)]
#[unsafe(no_mangle)]
unsafe extern "C" fn event_of_socket(entry: *const SocketEntry, told: *const Told) -> u64 {
    // SAFETY: upheld by the caller.
    let (Some(entry), Some(told)) = (unsafe { (entry.as_ref(), told.as_ref()) }) else {
        return 0;
    };
    let what = What {
        agent: entry.agent,
        kind: told.kind,
        reason: told.reason,
        denied: told.denied,
    };
    let Some(stamp) = stamp::<EVENT_SIZE>(&what) else {
        return 0;
    };
    let Some(mut record) = EVENTS.reserve_untyped::<Event>(0) else {
        return 0;
    };
    let place = record.as_mut_ptr();
    // SAFETY: the record is reserved for a whole `Event`, every field of which is written: one by one, or
    // they would be put together on the stack.
    unsafe {
        (&raw mut (*place).sequence).write(stamp.sequence);
        (&raw mut (*place).time_ns).write(stamp.time_ns);
        (&raw mut (*place).netns).write(entry.netns);
        (&raw mut (*place).socket).write(entry.socket);
        (&raw mut (*place).sent_bytes).write(told.sent_bytes);
        (&raw mut (*place).received_bytes).write(told.received_bytes);
        (&raw mut (*place).cpu).write(stamp.cpu);
        (&raw mut (*place).agent).write(entry.agent);
        (&raw mut (*place).rule).write(told.rule);
        (&raw mut (*place).generation).write(entry.generation);
        (&raw mut (*place).pid).write(entry.pid);
        (&raw mut (*place).uid).write(entry.uid);
        (&raw mut (*place).rtt_us).write(told.rtt_us);
        (&raw mut (*place).remote).write(told.remote);
        (&raw mut (*place).comm).write(entry.comm);
        (&raw mut (*place).remote_port).write(told.remote_port);
        (&raw mut (*place).local_port).write(told.local_port);
        (&raw mut (*place).family).write(0);
        (&raw mut (*place).socket_type).write(0);
        (&raw mut (*place).protocol).write(protocol(entry.transport));
        (&raw mut (*place).kind).write(told.kind);
        (&raw mut (*place).reason).write(told.reason);
        (&raw mut (*place).denied).write(told.denied);
        (&raw mut (*place)._pad).write([0; 3]);
        (&raw mut (*place).run).write(entry.run);
    }
    record.submit(WAKE_IF_IDLE);
    1
}

/// Sends an event. If there is no room for it, or its agent has used up its share, it is lost and its
/// number shows the gap: `false`. What is allowed and cannot be told is not to pass. For what needs not
/// be told there is less room ([`UNNEEDED`]).
#[inline(always)]
pub(crate) fn emit(mut event: Event) -> bool {
    let Some(stamp) = stamp::<EVENT_SIZE>(&What::of(&event)) else {
        return false;
    };
    stamp.on(&mut event);
    EVENTS.output(event, WAKE_IF_IDLE).is_ok()
}

/// As [`emit`], with the name of a UNIX socket: written in place, since a program's frame has no room
/// for it twice.
#[inline(always)]
pub(crate) fn emit_unix(mut event: Event, name: &[u8; UNIX_NAME], length: u32) -> bool {
    let Some(stamp) = stamp::<UNIX_EVENT_SIZE>(&What::of(&event)) else {
        return false;
    };
    stamp.on(&mut event);
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
    record.submit(WAKE_IF_IDLE);
    true
}

/// When and where an event happened, and its number there.
struct Stamp {
    sequence: u64,
    time_ns: u64,
    cpu: u32,
}

impl Stamp {
    #[inline(always)]
    fn on(&self, event: &mut Event) {
        event.sequence = self.sequence;
        event.time_ns = self.time_ns;
        event.cpu = self.cpu;
    }
}

/// What decides whether an event is told.
struct What {
    agent: u32,
    kind: u8,
    reason: u8,
    denied: u8,
}

impl What {
    #[inline(always)]
    const fn of(event: &Event) -> Self {
        Self {
            agent: event.agent,
            kind: event.kind,
            reason: event.reason,
            denied: event.denied,
        }
    }
}

/// Numbers an event of so many bytes. `None`: it is not to be told.
#[inline(always)]
fn stamp<const BYTES: u32>(event: &What) -> Option<Stamp> {
    let needed =
        event.denied == 0 && event.reason < reason::FIRST_DENIAL && event.kind != kind::CLOSED;
    // Of an agent that is gone its sockets may be left.
    let agent = if event.reason == reason::NO_AGENT {
        0
    } else {
        event.agent
    };
    let sequence = event_number(agent, BYTES | u32::from(needed) << 16);
    // SAFETY: helpers without arguments.
    let (cpu, time_ns) = unsafe { (bpf_get_smp_processor_id(), bpf_ktime_get_ns()) };
    (sequence != 0).then_some(Stamp {
        sequence,
        time_ns,
        cpu,
    })
}

/// The next number on this processor if the event may be told, else 0. `what`: its bytes, and above 16
/// bits 1 for what has to be told to pass. A global function, which the verifier looks at once by itself.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn event_number(agent: u32, what: u32) -> u64 {
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the pointer is to this processor's slot, 8-byte aligned.
    let sequence = unsafe { add_one(sequence) } + 1;
    if what >> 16 == 0 && ring(BPF_RB_AVAIL_DATA) >= UNNEEDED {
        return 0;
    }
    // Without a budget an event is one of those that belong to nobody.
    let Some(budget) = BUDGETS
        .get_ptr_mut(agent)
        .or_else(|| BUDGETS.get_ptr_mut(0))
    else {
        return 0;
    };
    // SAFETY: fields of a map's value, aligned.
    let used = unsafe {
        if ring(BPF_RB_CONS_POS) >= (&raw const (*budget).share_start).read_volatile() {
            (&raw mut (*budget).share_start).write_volatile(ring(BPF_RB_PROD_POS));
            (&raw mut (*budget).share_used).write_volatile(0);
        }
        add(&raw mut (*budget).share_used, u64::from(what & 0xffff))
    };
    if used < SHARE { sequence } else { 0 }
}

/// What `bpf_ringbuf_query` says of the ring buffer: positions count on without end, in bytes.
#[inline(always)]
fn ring(what: u32) -> u64 {
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: a ring buffer, of which the helper only reads.
    unsafe { bpf_ringbuf_query(ring, u64::from(what)) }
}

/// As [`add`], one.
///
/// # Safety
/// `value` is valid and aligned.
#[inline(always)]
pub(crate) unsafe fn add_one(value: *mut u64) -> u64 {
    // SAFETY: upheld by the caller.
    unsafe { add(value, 1) }
}

/// Adds and gives the value before. Atomic: a program on this processor can be interrupted by
/// another one.
///
/// # Safety
/// `value` is valid and aligned.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub(crate) unsafe fn add(value: *mut u64, more: u64) -> u64 {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    // SAFETY: upheld by the caller. The library's atomics leave read-modify-write operations out on
    // this target, although version 3 of its instruction set has them. Not relaxed: for that
    // ordering LLVM 22 chooses the instruction that gives nothing back, and takes what was added
    // for the value before.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(value, more) }
}

/// As on the kernel's target, for checks on the host.
///
/// # Safety
/// `value` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn add(value: *mut u64, more: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering};
    // SAFETY: upheld by the caller.
    unsafe { AtomicU64::from_ptr(value) }.fetch_add(more, Ordering::Relaxed)
}

/// Makes a value `new` if it is `old`: whether it was. Atomic, as [`add`].
///
/// # Safety
/// `value` is valid and aligned.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub(crate) unsafe fn exchange(value: *mut u64, old: u64, new: u64) -> bool {
    use core::intrinsics::{AtomicOrdering, atomic_cxchg};
    // SAFETY: upheld by the caller.
    let (_, was) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(
            value, old, new,
        )
    };
    was
}

/// As on the kernel's target, for checks on the host.
///
/// # Safety
/// `value` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn exchange(value: *mut u64, old: u64, new: u64) -> bool {
    use core::sync::atomic::{AtomicU64, Ordering};
    // SAFETY: upheld by the caller.
    unsafe { AtomicU64::from_ptr(value) }
        .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

/// Makes a value `new` if it is `old`: whether it was. Atomic, as [`add`].
///
/// # Safety
/// `value` is valid and aligned.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub(crate) unsafe fn exchange_word(value: *mut u32, old: u32, new: u32) -> bool {
    use core::intrinsics::{AtomicOrdering, atomic_cxchg};
    // SAFETY: upheld by the caller.
    let (_, was) = unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(
            value, old, new,
        )
    };
    was
}

/// As on the kernel's target, for checks on the host.
///
/// # Safety
/// `value` is valid and aligned.
#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn exchange_word(value: *mut u32, old: u32, new: u32) -> bool {
    use core::sync::atomic::{AtomicU32, Ordering};
    // SAFETY: upheld by the caller.
    unsafe { AtomicU32::from_ptr(value) }
        .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
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
