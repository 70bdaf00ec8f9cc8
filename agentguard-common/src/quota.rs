//! What an agent may use of the network: bytes up to a mark, and connections at a rate.
//!
//! The keeper writes the marks ([`Quota`]) and the kernel counts ([`Usage`]), each in a map of its own, so that
//! neither ever writes what the other has written: a limit that changes loses nothing of what was used, and a new
//! window is a mark that is further on. Nothing is set back to zero while packets are on their way.
//!
//! Processors count at the same time. Bytes are added and, where they were too many, taken back: never do more
//! pass than the mark says, and at the very end of it a packet may be refused for which another one's bytes, taken
//! back a moment later, left no room. Connections are counted in one word that is exchanged as a whole, so that
//! neither one too many passes nor one is refused for which there was room.

/// How far an agent may go. Hash map `QUOTAS`, key: agent (`u32`). Written by the keeper alone, and as a whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    /// What [`Usage::sent`] may come to, or [`UNLIMITED`].
    pub sent_until: u64,
    /// What [`Usage::received`] may come to, or [`UNLIMITED`].
    pub received_until: u64,
    /// How many ns of the steady rate a connection takes; 0: there is no rate.
    pub interval_ns: u64,
    /// How many ns of it may be taken at once: the burst, times [`Self::interval_ns`].
    pub depth_ns: u64,
}

/// No limit.
pub const UNLIMITED: u64 = u64::MAX;

/// A new connection is refused where fewer bytes than this are left in one of the directions: it could be opened
/// and be of no use, and its program would wait in silence instead of seeing an error.
pub const LEAST_BYTES: u64 = 4096;

impl Quota {
    /// Nothing is limited.
    pub const NONE: Self = Self {
        sent_until: UNLIMITED,
        received_until: UNLIMITED,
        interval_ns: 0,
        depth_ns: 0,
    };

    /// Whether there are bytes for a new connection.
    #[inline(always)]
    #[must_use]
    pub const fn has_bytes(&self, sent: u64, received: u64) -> bool {
        self.has_bytes_out(sent) && self.has_bytes_in(received)
    }

    /// As [`Self::has_bytes`], of what leaves.
    #[inline(always)]
    #[must_use]
    pub const fn has_bytes_out(&self, sent: u64) -> bool {
        sent.saturating_add(LEAST_BYTES) <= self.sent_until
    }

    /// As [`Self::has_bytes`], of what arrives.
    #[inline(always)]
    #[must_use]
    pub const fn has_bytes_in(&self, received: u64) -> bool {
        received.saturating_add(LEAST_BYTES) <= self.received_until
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self::NONE
    }
}

/// What an agent has used since the entry was made. Hash map `USAGE`, key: agent (`u32`). The keeper makes the
/// entry and removes it; the kernel counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// When the keeper made it, by the host's clock, in ns since the epoch: tells one entry from another. The kernel
    /// does not touch it.
    pub born_ns: u64,
    /// Bytes that left, IP headers included. It may stand a moment above what passed: see [`take`].
    pub sent: u64,
    /// Bytes that arrived, likewise.
    pub received: u64,
    /// Until when the connections that were opened take up the steady rate, by the monotonic clock, in ns.
    pub opened_until_ns: u64,
    /// The [`Quota::sent_until`] for which a refusal was told.
    pub told_sent: u64,
    /// The [`Quota::received_until`] for which a refusal was told.
    pub told_received: u64,
}

impl Quota {
    /// Whether a packet was refused and told by what is allowed now: since it is larger than what is left, nothing is
    /// begun any more, however little that is. What leaves, and what arrives.
    #[inline(always)]
    #[must_use]
    pub const fn is_told(&self, told_sent: u64, told_received: u64) -> (bool, bool) {
        (
            self.sent_until != UNLIMITED && told_sent == self.sent_until,
            self.received_until != UNLIMITED && told_received == self.received_until,
        )
    }
}

/// A number that processors share.
pub trait Counter {
    /// What it is.
    fn load(&self) -> u64;
    /// Adds, wrapping, and gives what it was before.
    fn add(&self, more: u64) -> u64;
    /// Makes it `new` if it is `old`: whether it was.
    fn exchange(&self, old: u64, new: u64) -> bool;
}

/// Takes bytes, if there are so many left up to a mark. Never more than that are taken, whatever others do at the
/// same time. What was too much is taken back: for that moment the counter stands too high.
#[inline(always)]
#[must_use]
pub fn take(counter: &impl Counter, until: u64, bytes: u64) -> bool {
    if !fits(counter, until, bytes) {
        return false;
    }
    let before = counter.add(bytes);
    let fits = before.saturating_add(bytes) <= until;
    if !fits {
        counter.add(bytes.wrapping_neg());
    }
    fits
}

/// Whether there are so many bytes left up to a mark, now.
#[inline(always)]
#[must_use]
pub fn fits(counter: &impl Counter, until: u64, bytes: u64) -> bool {
    counter.load().saturating_add(bytes) <= until
}

/// How often a connection is counted anew because another processor counted one meanwhile. So many processors would
/// have to get in before it, one after the other; then it is refused.
pub const TRIES: u32 = 16;

/// Counts a connection at a moment of the monotonic clock, if the rate has room for it.
#[inline(always)]
#[must_use]
pub fn open(counter: &impl Counter, quota: &Quota, now_ns: u64) -> bool {
    if quota.interval_ns == 0 {
        return true;
    }
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        let until = counter.load();
        let Some(next) = opened(until, quota, now_ns) else {
            return false;
        };
        if counter.exchange(until, next) {
            return true;
        }
    }
    false
}

/// Until when connections take up the rate with one more, or `None` if there is no room for it: the generic cell
/// rate algorithm (ITU-T I.371, annex A), in which a bucket of tokens is one moment in time.
///
/// A clock that is behind what another processor saw finds less room, never more.
#[inline(always)]
#[must_use]
pub const fn opened(until_ns: u64, quota: &Quota, now_ns: u64) -> Option<u64> {
    let begin = if until_ns > now_ns { until_ns } else { now_ns };
    let next = begin.saturating_add(quota.interval_ns);
    if next > now_ns.saturating_add(quota.depth_ns) {
        return None;
    }
    Some(next)
}

#[cfg(test)]
mod tests;
