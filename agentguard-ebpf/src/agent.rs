//! Whose task, whose socket.

use agentguard_common::map::{AgentEntry, CGROUP_LEVELS, SocketEntry};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_skb_ancestor_cgroup_id,
    bpf_skb_cgroup_id,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};

use crate::maps::AGENTS;

/// Cgroup levels searched for an agent, counted from the root. An agent's own cgroup is never
/// deeper; its children may be. Below that a process belongs to no agent and gets nothing.
const LEVELS: i32 = CGROUP_LEVELS as i32;

/// An agent and the key it is stored under.
pub(crate) struct Found {
    pub(crate) cgroup: u64,
    pub(crate) entry: &'static AgentEntry,
}

/// The agent stored under a cgroup id.
#[inline(always)]
pub(crate) fn by_cgroup(cgroup: u64) -> Option<&'static AgentEntry> {
    // SAFETY: the keeper replaces entries whole; an entry read while it is replaced is one of the
    // two.
    unsafe { AGENTS.get(cgroup) }
}

/// The agent of the running task: the deepest of its cgroup and that one's ancestors which has one.
#[inline(always)]
pub(crate) fn of_task() -> Option<Found> {
    let cgroup = cgroup_of_task();
    by_cgroup(cgroup).map(|entry| Found { cgroup, entry })
}

/// The id of the cgroup that [`of_task`] finds, or 0. A global function, which the verifier looks at
/// once by itself.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn cgroup_of_task() -> u64 {
    // SAFETY: helper without arguments.
    let own = unsafe { bpf_get_current_cgroup_id() };
    if by_cgroup(own).is_some() {
        return own;
    }
    let mut level = LEVELS;
    while level > 0 {
        // SAFETY: helper on integers.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup != 0 && by_cgroup(cgroup).is_some() {
            return cgroup;
        }
        level -= 1;
    }
    0
}

/// The agent of a packet's socket, by the cgroup that the socket was made in.
///
/// # Safety
/// `skb` is the context of a `cgroup_skb` program.
#[inline(always)]
pub(crate) unsafe fn of_packet(skb: *mut __sk_buff) -> Option<Found> {
    // SAFETY: upheld by the caller.
    let own = unsafe { bpf_skb_cgroup_id(skb) };
    if let Some(entry) = by_cgroup(own) {
        return Some(Found { cgroup: own, entry });
    }
    let mut level = LEVELS;
    while level > 0 {
        // SAFETY: upheld by the caller.
        let cgroup = unsafe { bpf_skb_ancestor_cgroup_id(skb, level) };
        if cgroup != 0
            && let Some(entry) = by_cgroup(cgroup)
        {
            return Some(Found { cgroup, entry });
        }
        level -= 1;
    }
    None
}

/// Notes the running process in a socket's entry.
#[inline(always)]
pub(crate) fn note_process(entry: &mut SocketEntry) {
    entry.pid = pid();
    entry.uid = uid();
    entry.comm = bpf_get_current_comm().unwrap_or_default();
}

/// The running process (thread group).
#[inline(always)]
pub(crate) fn pid() -> u32 {
    // The high half is the thread group.
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The running user.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is the user")]
pub(crate) fn uid() -> u32 {
    bpf_get_current_uid_gid() as u32
}
