//! Seals: see [`agentguard_common::seal`].

use agentguard_common::address::Address;
use agentguard_common::map::{SocketEntry, socket_flag};
use agentguard_common::seal::seal;

use crate::maps::SEAL_KEYS;

/// Notes where a socket's packets may go, under a seal. All values are the caller's own: what is read
/// back from the entry may be another thread's.
#[inline(always)]
pub(crate) fn note_destination(entry: &mut SocketEntry, address: &Address, port: u16, class: u8) {
    entry.effective = *address;
    entry.effective_port = port;
    entry.class = class;
    entry.seal = of(address, port, class);
}

/// Whether a socket's datagrams may go there, as one thread noted it.
#[inline(always)]
pub(crate) fn is_destination(entry: &SocketEntry, address: &Address, port: u16, class: u8) -> bool {
    entry.effective == *address
        && entry.effective_port == port
        && fits(entry.seal, address, port, class)
}

/// Notes who was let in unasked and may be answered.
#[inline(always)]
pub(crate) fn note_peer(entry: &mut SocketEntry, address: &Address, port: u16, own: bool) {
    entry.peer = *address;
    entry.peer_port = port;
    if own {
        entry.flags |= socket_flag::PEER_OWN;
    } else {
        entry.flags &= !socket_flag::PEER_OWN;
    }
    entry.peer_seal = of(address, port, u8::from(own));
}

/// Whether a socket may answer there, as one thread noted it.
#[inline(always)]
pub(crate) fn is_peer(entry: &SocketEntry, address: &Address, port: u16, own: bool) -> bool {
    entry.peer == *address
        && entry.peer_port == port
        && port != 0
        && fits(entry.peer_seal, address, port, u8::from(own))
}

#[inline(always)]
fn fits(noted: u64, address: &Address, port: u16, class: u8) -> bool {
    noted != 0 && noted == of(address, port, class)
}

/// A seal, never 0; without keys 0, which fits nothing.
#[inline(never)]
fn of(address: &Address, port: u16, class: u8) -> u64 {
    match SEAL_KEYS.get(0) {
        Some(keys) if keys.0[0][0] != 0 => seal(keys, address, port, class.into()) | 1,
        _ => 0,
    }
}
