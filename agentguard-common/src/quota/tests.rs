use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Counter, LEAST_BYTES, Quota, UNLIMITED, fits, open, opened, take};

impl Counter for AtomicU64 {
    fn load(&self) -> u64 {
        Self::load(self, Ordering::Acquire)
    }

    fn add(&self, more: u64) -> u64 {
        self.fetch_add(more, Ordering::AcqRel)
    }

    fn exchange(&self, old: u64, new: u64) -> bool {
        self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

const SECOND: u64 = 1_000_000_000;

/// So many connections a second, and at once.
const fn rate(per_second: u64, burst: u64) -> Quota {
    let interval_ns = SECOND / per_second;
    Quota {
        interval_ns,
        depth_ns: interval_ns * burst,
        ..Quota::NONE
    }
}

#[test]
fn bytes_are_taken_to_the_last_one_and_no_further() {
    let counter = AtomicU64::new(10);
    assert!(take(&counter, 100, 90));
    assert!(!take(&counter, 100, 1));
    assert!(take(&counter, 100, 0));
    assert_eq!(counter.into_inner(), 100);
    // A mark that was moved behind what was used leaves nothing, and takes nothing away.
    let counter = AtomicU64::new(100);
    assert!(!take(&counter, 50, 1));
    assert_eq!(counter.into_inner(), 100);
}

#[test]
fn without_a_limit_bytes_are_counted_all_the_same() {
    let counter = AtomicU64::new(u64::MAX - 5);
    assert!(take(&counter, UNLIMITED, 3));
    assert!(fits(&counter, UNLIMITED, u64::MAX));
    assert_eq!(counter.into_inner(), u64::MAX - 2);
}

#[test]
fn a_connection_needs_some_bytes_in_both_directions() {
    let quota = Quota {
        sent_until: 10_000,
        received_until: 20_000,
        ..Quota::NONE
    };
    assert!(quota.has_bytes(10_000 - LEAST_BYTES, 20_000 - LEAST_BYTES));
    assert!(!quota.has_bytes(10_001 - LEAST_BYTES, 0));
    assert!(!quota.has_bytes(0, 20_001 - LEAST_BYTES));
    assert!(!quota.has_bytes(u64::MAX, u64::MAX));
    assert!(Quota::NONE.has_bytes(1 << 62, 1 << 62));
    // What is left in one says nothing of the other.
    let spent = Quota {
        received_until: 0,
        ..Quota::NONE
    };
    assert!(spent.has_bytes_out(0) && !spent.has_bytes_in(0));
}

#[test]
fn a_burst_passes_at_once_and_what_comes_after_it_at_the_rate() {
    let quota = rate(10, 5);
    // Right after the host's start as ever after.
    for start in [0, 1, 3600 * SECOND] {
        let counter = AtomicU64::new(0);
        let passed = (0..9).filter(|_| open(&counter, &quota, start)).count();
        assert_eq!(passed, 5, "{start}");
        assert!(!open(&counter, &quota, start + SECOND / 10 - 1));
        assert!(open(&counter, &quota, start + SECOND / 10));
        assert!(!open(&counter, &quota, start + SECOND / 10));
        // However long nobody connected, no more than the burst is saved up.
        let later = start + 1000 * SECOND;
        let passed = (0..9).filter(|_| open(&counter, &quota, later)).count();
        assert_eq!(passed, 5, "{start}");
    }
}

#[test]
fn without_a_rate_every_connection_passes() {
    let counter = AtomicU64::new(7);
    assert!(open(&counter, &Quota::NONE, 0));
    assert_eq!(counter.into_inner(), 7);
}

#[test]
fn a_clock_at_its_end_lets_nothing_pass_and_does_not_wrap() {
    let quota = rate(10, 5);
    assert_eq!(opened(u64::MAX, &quota, u64::MAX - 1), Some(u64::MAX));
    assert_eq!(opened(u64::MAX, &quota, 0), None);
}

#[test]
fn processors_together_take_no_byte_too_many() {
    let counter = AtomicU64::new(0);
    let until = 1_000_000;
    let taken: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (1..=4_u64)
            .map(|size| {
                let counter = &counter;
                scope.spawn(move || {
                    let sizes = (0..20_000).map(|n| size * 97 + n % 1500);
                    sizes
                        .filter(|size| take(counter, until, *size))
                        .sum::<u64>()
                })
            })
            .collect();
        threads.into_iter().map(|it| it.join().unwrap()).sum()
    });
    assert!(taken <= until, "{taken}");
    // Nor are any lost: what is left is less than the smallest that was refused.
    assert_eq!(counter.into_inner(), taken);
    assert!(until - taken < 97, "{taken}");
}

#[test]
fn processors_together_open_no_connection_too_many_and_refuse_none_that_has_room() {
    let quota = rate(1000, 300);
    for start in [1, 5 * SECOND] {
        let counter = AtomicU64::new(0);
        let passed: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..200).filter(|_| open(&counter, &quota, start)).count()))
                .collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(passed, 300);
    }
}

proptest! {
    /// Whatever is asked for, in whatever pieces: what passed is what was counted, and no more than the mark.
    #[test]
    fn what_passes_is_what_is_counted(
        begin in 0..2000_u64,
        until in 0..4000_u64,
        sizes in prop::collection::vec(0..1000_u64, 0..40),
    ) {
        let counter = AtomicU64::new(begin);
        let mut used = begin;
        for size in sizes {
            let had_room = used + size <= until;
            prop_assert_eq!(take(&counter, until, size), had_room);
            used += if had_room { size } else { 0 };
            prop_assert_eq!(counter.load(Ordering::Relaxed), used);
        }
    }

    /// As a bucket of tokens that is filled drop by drop: in any time no more than the burst and what the rate
    /// gives in it, and no connection is refused while there is a whole token.
    #[test]
    fn the_rate_is_a_bucket_of_tokens(
        interval in 1..1000_u64,
        burst in 1..20_u64,
        start in 0..u64::MAX / 2,
        pauses in prop::collection::vec(0..5000_u64, 1..60),
    ) {
        let quota = Quota { interval_ns: interval, depth_ns: interval * burst, ..Quota::NONE };
        let counter = AtomicU64::new(0);
        // In parts of a token, of which `interval` are a whole one.
        let (mut now, mut parts) = (start, burst * interval);
        for pause in pauses {
            now += pause;
            parts = (parts + pause).min(burst * interval);
            let passes = open(&counter, &quota, now);
            prop_assert_eq!(passes, parts >= interval);
            parts -= if passes { interval } else { 0 };
        }
    }

    /// A processor whose clock is behind opens no more than one whose clock is right would.
    #[test]
    fn a_clock_that_is_behind_opens_no_more(
        interval in 1..1000_u64,
        burst in 1..20_u64,
        until in 0..10_000_u64,
        now in 0..10_000_u64,
        behind in 0..1000_u64,
    ) {
        let quota = Quota { interval_ns: interval, depth_ns: interval * burst, ..Quota::NONE };
        let late = now.saturating_sub(behind);
        if opened(until, &quota, late).is_some() {
            prop_assert!(opened(until, &quota, now).is_some());
        }
        // What is counted never goes back.
        if let Some(next) = opened(until, &quota, late) {
            prop_assert!(next > until);
        }
    }
}
