//! Seals on what the gate notes of a datagram socket.
//!
//! Several threads can send over one socket at once, and nothing orders what the hooks write for them into
//! its entry: an address of one and a port of the other would be a destination that nobody allowed. A
//! seal is over all that belongs together and is written as one word; what does not fit its seal is not
//! believed, and decided anew.
//!
//! The agent chooses what is sealed and must not find two that have one seal, so the keys are secret.
//! Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): for two
//! messages of five 32-bit words, the chance that they agree in 32 bits is 2^-32 whatever they are;
//! two of them with keys of their own make a seal.

use crate::address::Address;

/// Secret random numbers, the same for as long as the gate is there. Array `SEAL_KEYS` of one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SealKeys(pub [[u64; 6]; 2]);

/// The seal of an address and port, and of what else belongs to them.
#[inline(always)]
#[must_use]
pub fn seal(keys: &SealKeys, address: &Address, port: u16, what: u16) -> u64 {
    let SealKeys([high, low]) = keys;
    let last = u32::from(port) << 16 | u32::from(what);
    hash(high, address, last) & !0xffff_ffff | hash(low, address, last) >> 32
}

#[inline(always)]
fn hash(keys: &[u64; 6], address: &Address, last: u32) -> u64 {
    let [a, b, c, d] = address.0;
    let [first, ka, kb, kc, kd, kl] = *keys;
    first
        .wrapping_add(ka.wrapping_mul(a.into()))
        .wrapping_add(kb.wrapping_mul(b.into()))
        .wrapping_add(kc.wrapping_mul(c.into()))
        .wrapping_add(kd.wrapping_mul(d.into()))
        .wrapping_add(kl.wrapping_mul(last.into()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::vec::Vec;

    use super::{SealKeys, seal};
    use crate::address::Address;

    /// Numbers without a pattern (SplitMix64).
    fn keys() -> SealKeys {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        };
        SealKeys([[0; 6]; 2].map(|row| row.map(|_| next())))
    }

    #[test]
    fn whatever_is_exchanged_between_two_breaks_the_seal() {
        let keys = keys();
        let addresses = [1, 2, 0x0100_0000, u32::MAX].map(Address::from_v4_word);
        let mut seals = HashSet::new();
        let mut all = Vec::new();
        for address in addresses {
            for port in [0, 53, 443, 0x3500, u16::MAX] {
                for what in [0, 1, 0x0102, u16::MAX] {
                    let seal = seal(&keys, &address, port, what);
                    all.push(seal);
                    seals.insert(seal);
                    assert_ne!(seal, 0);
                }
            }
        }
        assert_eq!(seals.len(), all.len());
        let halves: HashSet<u64> = all.iter().map(|seal| seal >> 32).collect();
        assert_eq!(
            halves.len(),
            all.len(),
            "the upper half alone tells them apart"
        );
    }

    #[test]
    fn every_key_counts() {
        let address = Address([1, 2, 3, 4]);
        let mut zero = SealKeys::default();
        assert_eq!(seal(&zero, &address, 5, 6), 0);
        for row in 0..2 {
            for column in 0..6 {
                zero.0[row][column] = 1 << 40;
                assert_ne!(seal(&zero, &address, 5, 6), 0, "{row} {column}");
                zero.0[row][column] = 0;
            }
        }
    }
}
