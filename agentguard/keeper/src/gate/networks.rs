//! The address rules of a profile, replaced as a whole.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use agentguard_common::address::Address;
use agentguard_common::map::{NetworkEntry, NetworkKey, PortRules};
use aya::maps::lpm_trie::Key;

use super::{Gate, GateError, ignore_absent, map_error};

/// Bits of the profile, which come before those of the address.
const PROFILE_BITS: u32 = 32;
/// Bits before an IPv4 address in its mapped form.
const MAPPED_BITS: u32 = 96;

/// A key of `NETWORKS`: the length of its prefix, in bits, and the rest.
pub(super) type Range = (u32, NetworkKey);

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

impl Hash for Network {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.address, self.prefix).hash(state);
        for line in &self.rules {
            (line.rule, line.first, line.last).hash(state);
        }
    }
}

impl Gate {
    /// Removes the address rules of every profile but these.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn keep_networks(&mut self, profiles: &[u32]) -> Result<(), GateError> {
        let kept: HashSet<u32> = profiles.iter().copied().collect();
        let others = self.ranges.keys().copied();
        for profile in others.filter(|it| !kept.contains(it)).collect::<Vec<_>>() {
            self.keep_ranges(profile, &HashSet::new())?;
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
            self.patience
                .write(|| self.networks.insert(&key, entry, 0))
                .map_err(map_error("write", "NETWORKS"))?;
            let range = (key.prefix_len(), key.data());
            self.ranges.entry(profile).or_default().insert(range);
            kept.insert(range);
        }
        self.keep_ranges(profile, &kept)
    }

    /// Finds what an earlier daemon left. Later the map is not read any more, which takes the longer the
    /// more profiles there are.
    pub(super) fn take_over_networks(&mut self) -> Result<(), GateError> {
        for key in self.networks.keys() {
            let key = key.map_err(map_error("read", "NETWORKS"))?;
            let range = (key.prefix_len(), key.data());
            self.ranges
                .entry(range.1.profile)
                .or_default()
                .insert(range);
        }
        Ok(())
    }

    fn keep_ranges(&mut self, profile: u32, kept: &HashSet<Range>) -> Result<(), GateError> {
        let Some(present) = self.ranges.get_mut(&profile) else {
            return Ok(());
        };
        for range in present.difference(kept).copied().collect::<Vec<_>>() {
            let key = Key::new(range.0, range.1);
            ignore_absent(self.networks.remove(&key), "NETWORKS")?;
            present.remove(&range);
        }
        if present.is_empty() {
            self.ranges.remove(&profile);
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
