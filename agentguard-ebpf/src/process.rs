//! Which program a governed process runs, as the kernel saw it being executed.
//!
//! `/proc/PID/exe` would come too late: a client whose connect was refused is gone before anyone
//! can look.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;

use crate::agent;
use crate::maps::{EXE_SCRATCH, PROCESSES};

/// Offset of `filename` in `sched_process_exec`: a `__data_loc`, whose low half is the offset of
/// the text in the record.
const EXEC_FILENAME: usize = 8;

/// Offset of `child_pid` in `sched_process_fork`, set by the loader from the running kernel's
/// format file: it moved when the names before it became dynamic.
#[unsafe(no_mangle)]
static FORK_CHILD_PID: u64 = 44;

/// A process executes a program.
#[tracepoint]
fn process_exec(ctx: TracePointContext) -> u32 {
    // What cannot be read is not known; nothing else depends on it.
    let _ = note_exec(&ctx);
    0
}

#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value the path would not fit on the stack"
)]
fn note_exec(ctx: &TracePointContext) -> Option<()> {
    agent::of_task()?;
    // SAFETY: the offset lies in the record of this tracepoint.
    let location: u32 = unsafe { ctx.read_at(EXEC_FILENAME) }.ok()?;
    let scratch = EXE_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this processor's slot; a tracepoint program is not interrupted by itself.
    let exe = unsafe { &mut *scratch };
    exe.path = [0; agentguard_common::map::EXE_LEN];
    let text = ctx
        .as_ptr()
        .cast::<u8>()
        .wrapping_add((location & 0xffff) as usize);
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel_str_bytes(text, &mut exe.path) }.ok()?;
    PROCESSES
        .insert(agent::pid(), &*exe, u64::from(BPF_ANY))
        .ok()
}

/// A process forks: the child runs what its parent runs, and what that is nobody knows where the parent's
/// is not known or was crowded out. For a new thread the entry is never read.
#[tracepoint]
fn process_fork(ctx: TracePointContext) -> u32 {
    let _ = note_fork(&ctx);
    0
}

#[inline(always)]
fn note_fork(ctx: &TracePointContext) -> Option<()> {
    // SAFETY: a static that only the loader writes.
    let offset = unsafe { core::ptr::read_volatile(&raw const FORK_CHILD_PID) };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the target has 64-bit pointers"
    )]
    let field = ctx.as_ptr().cast::<u8>().wrapping_add(offset as usize);
    // SAFETY: the helper checks the address.
    let child: u32 = unsafe { bpf_probe_read_kernel(field.cast()) }.ok()?;
    // SAFETY: entries are replaced whole.
    match unsafe { PROCESSES.get(agent::pid()) } {
        Some(parent) => PROCESSES.insert(child, parent, u64::from(BPF_ANY)).ok(),
        // Nor is it what the last process of its number ran.
        None => PROCESSES.remove(child).ok(),
    }
}
