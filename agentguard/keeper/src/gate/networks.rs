//! The address rules of a profile, replaced as a whole.

use std::collections::HashSet;
use std::net::IpAddr;

use agentguard_common::address::Address;
use agentguard_common::map::{NetworkEntry, NetworkKey, PortRules};
use aya::maps::lpm_trie::Key;

use super::{Gate, GateError, ignore_absent, map_error};

/// Bits of the profile, which come before those of the address.
const PROFILE_BITS: u32 = 32;
/// Bits before an IPv4 address in its mapped form.
const MAPPED_BITS: u32 = 96;

/// A range of addresses and its verdicts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    /// The network address.
    pub address: IpAddr,
    /// Length of the prefix, in the address's own family.
    pub prefix: u8,
    /// The verdicts.
    pub rules: PortRules,
}

impl Gate {
    /// Removes the address rules of every profile but these.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn keep_networks(&mut self, profiles: &[u32]) -> Result<(), GateError> {
        let present: Vec<Key<NetworkKey>> = self
            .networks
            .keys()
            .collect::<Result<_, _>>()
            .map_err(map_error("read", "NETWORKS"))?;
        for key in present {
            if !profiles.contains(&{ key.data().profile }) {
                ignore_absent(self.networks.remove(&key), "NETWORKS")?;
            }
        }
        Ok(())
    }

    /// Makes these the address rules of a profile.
    ///
    /// New entries are written before old ones go, so that no address is without its denial
    /// meanwhile; an allow that both have stays.
    ///
    /// # Errors
    /// [`GateError::Map`]; then old and new entries stand side by side, and the call can be
    /// repeated.
    pub fn put_networks(&mut self, profile: u32, networks: &[Network]) -> Result<(), GateError> {
        let mut kept = HashSet::new();
        for network in networks {
            let key = key(profile, network);
            let entry = NetworkEntry {
                rules: network.rules,
            };
            self.networks
                .insert(&key, entry, 0)
                .map_err(map_error("write", "NETWORKS"))?;
            kept.insert((key.prefix_len(), key.data()));
        }
        let present: Vec<Key<NetworkKey>> = self
            .networks
            .keys()
            .collect::<Result<_, _>>()
            .map_err(map_error("read", "NETWORKS"))?;
        for key in present {
            let data = key.data();
            if data.profile == profile && !kept.contains(&(key.prefix_len(), data)) {
                ignore_absent(self.networks.remove(&key), "NETWORKS")?;
            }
        }
        Ok(())
    }
}

fn key(profile: u32, network: &Network) -> Key<NetworkKey> {
    let before = match network.address {
        IpAddr::V4(_) => PROFILE_BITS + MAPPED_BITS,
        IpAddr::V6(_) => PROFILE_BITS,
    };
    Key::new(
        before + u32::from(network.prefix),
        NetworkKey {
            profile,
            address: Address::from(network.address),
        },
    )
}
