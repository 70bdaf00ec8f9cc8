//! Which addresses are free.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::store::{OpenError, Store};
use super::{Held, Pair, Range};

/// Names whose addresses are taken back at once.
pub(super) const RECLAIM_BATCH: usize = 1024;
/// Seconds after a search that found nothing to take back.
pub(super) const RECLAIM_PAUSE: u64 = 60;

/// The prefix of the virtual IPv6 addresses, `fd41:6775:6172:6400::/64`.
const PREFIX6: u128 = 0xfd41_6775_6172_6400 << 64;
/// `::0` to `::ff` of the prefix are the guard's own.
const FIRST6: u64 = 0x100;

/// The free addresses, and how many each agent's names use.
pub(super) struct Pool {
    range: Range,
    /// The next IPv4 address that was never given out, if there is one.
    next4: Option<Ipv4Addr>,
    /// Those that were, and are free again; the longest free first.
    free4: VecDeque<Ipv4Addr>,
    /// The next interface identifier. Never goes back.
    next6: u64,
    capacity: u32,
    per_agent: HashMap<u32, u32>,
    reclaim_after: u64,
}

impl Pool {
    /// What the store holds, checked, and what is left beside it.
    pub(super) fn load(store: &Store, range: Range) -> Result<(Vec<Arc<Held>>, Self), OpenError> {
        let (rows, counters) = store.load()?;
        let mut used = HashSet::with_capacity(rows.len());
        let mut used6 = HashSet::with_capacity(rows.len());
        let mut per_agent: HashMap<u32, u32> = HashMap::new();
        let mut held = Vec::with_capacity(rows.len());
        for row in rows {
            let given = usable(row.v4) && range.first <= row.v4 && row.v4 <= range.last;
            if !given || counters.next4.is_some_and(|next| row.v4 >= next) {
                return Err(store.inconsistent(format!(
                    "{} has {}, which was never given out",
                    row.name, row.v4
                )));
            }
            if row.v6 < FIRST6 || row.v6 >= counters.next6 {
                return Err(store.inconsistent(format!(
                    "{} has the IPv6 number {:#x}, which was never given out",
                    row.name, row.v6
                )));
            }
            if !used.insert(row.v4) || !used6.insert(row.v6) {
                return Err(
                    store.inconsistent(format!("{} shares an address with another name", row.name))
                );
            }
            *per_agent.entry(row.owner).or_default() += 1;
            held.push(Arc::new(Held {
                name: row.name,
                pair: Pair {
                    v4: row.v4,
                    v6: address6(row.v6),
                },
                owner: row.owner,
                stored: AtomicU64::new(row.answered),
            }));
        }
        let mut free4 = VecDeque::new();
        let mut capacity = 0;
        let mut at = usable_from(range.first, range.last);
        while let Some(v4) = at {
            capacity += 1;
            if counters.next4.is_none_or(|next| v4 < next) && !used.contains(&v4) {
                free4.push_back(v4);
            }
            at = after(v4, range.last);
        }
        let pool = Self {
            range,
            next4: counters.next4,
            free4,
            next6: counters.next6,
            capacity,
            per_agent,
            reclaim_after: 0,
        };
        Ok((held, pool))
    }

    /// The counters of an empty database.
    pub(super) fn first(range: Range) -> (Option<Ipv4Addr>, u64) {
        (usable_from(range.first, range.last), FIRST6)
    }

    pub(super) const fn counters(&self) -> (Option<Ipv4Addr>, u64) {
        (self.next4, self.next6)
    }

    /// A pair for a name of `agent`, counted as its. Fresh addresses before used ones.
    pub(super) fn take(&mut self, agent: u32) -> Option<Pair> {
        // 2⁶⁴ names are not reached; if they were, there would be no address either.
        let next6 = self.next6.checked_add(1)?;
        let v4 = match self.next4 {
            Some(v4) => {
                self.next4 = after(v4, self.range.last);
                v4
            }
            None => self.free4.pop_front()?,
        };
        let v6 = address6(self.next6);
        self.next6 = next6;
        *self.per_agent.entry(agent).or_default() += 1;
        Some(Pair { v4, v6 })
    }

    /// Takes back what a name had.
    pub(super) fn give_back(&mut self, held: &Held) {
        self.free4.push_back(held.pair.v4);
        if let Some(count) = self.per_agent.get_mut(&held.owner) {
            *count -= 1;
            if *count == 0 {
                self.per_agent.remove(&held.owner);
            }
        }
    }

    pub(super) fn names_of(&self, agent: u32) -> u32 {
        self.per_agent.get(&agent).copied().unwrap_or_default()
    }

    /// How many names can have addresses.
    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) const fn may_reclaim(&self, now: u64) -> bool {
        now >= self.reclaim_after
    }

    pub(super) const fn pause_reclaim(&mut self, now: u64) {
        self.reclaim_after = now.saturating_add(RECLAIM_PAUSE);
    }
}

/// Addresses that look like a network's or a broadcast's are not given out: clients refuse them.
const fn usable(v4: Ipv4Addr) -> bool {
    let [.., last] = v4.octets();
    last != 0 && last != 255
}

fn usable_from(mut v4: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Addr> {
    while v4 <= last {
        if usable(v4) {
            return Some(v4);
        }
        v4 = Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?);
    }
    None
}

fn after(v4: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Addr> {
    usable_from(Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?), last)
}

pub(super) fn address6(number: u64) -> Ipv6Addr {
    Ipv6Addr::from_bits(PREFIX6 | u128::from(number))
}

/// The interface identifier of an address that [`address6`] made.
pub(super) fn number6(v6: Ipv6Addr) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = v6.octets();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
