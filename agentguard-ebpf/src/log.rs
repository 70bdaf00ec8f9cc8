//! Debugging lines, off unless the loader says otherwise. The level is read-only data, which the
//! kernel knows when it verifies: what is off is dropped from the programs.
//!
//! Each line is a function of its own, because a program's frame has no room left for one, with no
//! more arguments than the kernel's calling convention has.

use agentguard_common::address::Address;
use agentguard_common::map::SocketEntry;
use agentguard_common::verdict::Effect;
use aya_log_ebpf::debug;
use aya_log_ebpf::macro_support::{Level, level_enabled};

/// The verdict on what a socket dialled.
#[inline(always)]
pub(crate) fn verdict(entry: &SocketEntry, effect: Effect) {
    if level_enabled(Level::Debug) {
        write_verdict(
            entry.agent,
            &entry.dialled,
            u32::from(entry.transport) << 16 | u32::from(entry.dialled_port),
            (effect as u32) << 8 | u32::from(entry.reason),
            entry.rule,
        );
    }
}

/// `ends` holds transport and port, `outcome` effect and reason.
#[inline(never)]
fn write_verdict(agent: u32, destination: &Address, ends: u32, outcome: u32, rule: u32) {
    debug!(
        &(),
        "agent {} to {:i} port {} transport {} effect {} reason {} rule {}",
        agent,
        destination.octets(),
        ends & 0xffff,
        ends >> 16,
        outcome >> 8,
        outcome & 0xff,
        rule
    );
}

/// A socket that no rule of the gate lets be made.
#[inline(always)]
pub(crate) fn socket(agent: u32, family: u32, socket_type: u32, protocol: u32, reason: u8) {
    if level_enabled(Level::Debug) {
        write_socket(agent, family, socket_type, protocol, u32::from(reason));
    }
}

#[inline(never)]
fn write_socket(agent: u32, family: u32, socket_type: u32, protocol: u32, reason: u32) {
    debug!(
        &(),
        "agent {} socket family {} type {} protocol {} reason {}",
        agent,
        family,
        socket_type,
        protocol,
        reason
    );
}
