//! Which devices an agent gets.

use agentguard_common::device::{ANY_MINOR, DeviceKey, is_way_out};
use agentguard_common::event::{Event, kind, reason};
use agentguard_common::map::mode;
use aya_ebpf::bindings::{BPF_DEVCG_ACC_MKNOD, BPF_DEVCG_DEV_CHAR};
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::macros::cgroup_device;
use aya_ebpf::programs::DeviceContext;

use crate::maps::DEVICES;
use crate::{ALLOW, DENY, agent, event};

/// A device is opened, or its node is made (`security/device_cgroup.c`, `devcgroup_check_permission`).
/// To make a node is to open nothing: archives and system images have them.
#[cgroup_device]
fn device(ctx: DeviceContext) -> i32 {
    // SAFETY: the context of this hook is a valid `bpf_cgroup_dev_ctx`.
    let (access, major, minor) = unsafe {
        (
            (*ctx.device).access_type,
            (*ctx.device).major,
            (*ctx.device).minor,
        )
    };
    let (kind, wanted) = (access & 0xffff, access >> 16);
    if kind != BPF_DEVCG_DEV_CHAR || wanted == BPF_DEVCG_ACC_MKNOD {
        return ALLOW;
    }
    let dynamic = dynamic(major, minor);
    if dynamic == 0 && !is_way_out(major, minor) {
        return ALLOW;
    }
    let found = agent::of_task();
    let enforced = found
        .as_ref()
        .is_none_or(|found| found.entry.mode == mode::ENFORCE);
    event::emit(refusal(found, major, minor, dynamic, enforced));
    if enforced { DENY } else { ALLOW }
}

/// Which of the drivers whose numbers this host has given out, or 0.
#[inline(always)]
fn dynamic(major: u32, minor: u32) -> u32 {
    for minor in [minor, ANY_MINOR] {
        // SAFETY: user space replaces entries whole, and a number is read at once.
        if let Some(place) = unsafe { DEVICES.get(DeviceKey { major, minor }) } {
            return *place;
        }
    }
    0
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "all that is refused has smaller numbers, but for minors of whole drivers, which nobody reads"
)]
fn refusal(
    found: Option<agent::Found>,
    major: u32,
    minor: u32,
    dynamic: u32,
    denied: bool,
) -> Event {
    let (agent, run) = found.map_or((0, 0), |found| (found.entry.agent, found.entry.run));
    Event {
        kind: kind::DEVICE,
        reason: reason::DEVICE_FILE,
        denied: u8::from(denied),
        agent,
        run,
        pid: agent::pid(),
        uid: agent::uid(),
        comm: bpf_get_current_comm().unwrap_or_default(),
        family: major as u16,
        socket_type: minor as u16,
        protocol: dynamic as u16,
        ..Event::default()
    }
}
