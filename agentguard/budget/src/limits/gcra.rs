//! A rate by the generic cell rate algorithm (ITU-T I.371, "virtual scheduling"): its whole state is one time.
//!
//! Not the crate `governor`: its limiters charge when they are asked, one by one, so that a call that a second one refuses
//! has been charged by the first; and its keyed store has no bound, and counts by a clock of its own.

use std::time::Duration;

use agentguard_model::limit::Rate;

/// The time until which what was admitted takes, if it comes evenly, in nanoseconds; as of a rate that nothing used: 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Gcra(u64);

impl Gcra {
    /// How long one takes, in nanoseconds.
    fn interval(rate: Rate) -> u64 {
        (nanoseconds(rate.every) / u64::from(rate.calls.max(1))).max(1)
    }

    /// Holds for this rate from now on. What was counted under a stricter one may be far more than this one can come to: once
    /// that is loosened, it is as a rate that is used up now.
    pub(super) fn fit(&mut self, rate: Rate, now: u64) {
        let all = Self::interval(rate).saturating_mul(u64::from(rate.burst.max(1)));
        self.0 = self.0.min(now.saturating_add(all));
    }

    /// Whether one may come now.
    ///
    /// # Errors
    /// In how many nanoseconds one may, if none comes meanwhile.
    pub(super) fn admits(self, rate: Rate, now: u64) -> Result<(), u64> {
        let ahead = Self::interval(rate).saturating_mul(u64::from(rate.burst.max(1) - 1));
        match self.0.saturating_sub(ahead).checked_sub(now) {
            None | Some(0) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// One comes.
    pub(super) fn admit(&mut self, rate: Rate, now: u64) {
        self.0 = self.0.max(now).saturating_add(Self::interval(rate));
    }

    /// One that came has not gone on.
    pub(super) fn give_back(&mut self, rate: Rate) {
        self.0 = self.0.saturating_sub(Self::interval(rate));
    }

    /// From when on it is as if nothing had come.
    pub(super) const fn over(self) -> u64 {
        self.0
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agentguard_model::limit::Rate;
    use proptest::prelude::*;

    use super::Gcra;

    /// A bucket with `burst` tokens, which fills evenly: the simple model. In parts of a token, so that it is exact.
    struct Bucket {
        parts: u128,
        at: u64,
    }

    impl Bucket {
        fn full(rate: Rate) -> Self {
            Self {
                parts: u128::from(rate.burst) * Self::one(rate),
                at: 0,
            }
        }

        /// As many parts as one has: a nanosecond brings one.
        fn one(rate: Rate) -> u128 {
            rate.every.as_nanos() / u128::from(rate.calls)
        }

        fn takes(&mut self, rate: Rate, now: u64) -> bool {
            let one = Self::one(rate);
            let filled = self.parts + u128::from(now - self.at);
            self.parts = filled.min(u128::from(rate.burst) * one);
            self.at = now;
            let takes = self.parts >= one;
            if takes {
                self.parts -= one;
            }
            takes
        }
    }

    #[test]
    fn a_rate_that_is_loosened_waits_for_no_longer_than_if_it_were_used_up() {
        let day = Duration::from_secs(86_400);
        let strict = Rate {
            calls: 1,
            every: day,
            burst: 1,
        };
        let loose = Rate {
            calls: 60,
            every: Duration::from_secs(60),
            burst: 10,
        };
        let mut gcra = Gcra::default();
        gcra.admit(strict, 1);
        gcra.fit(loose, 1);
        assert_eq!(gcra.admits(loose, 1), Err(1_000_000_000));
        gcra.fit(loose, 1_000_000_001);
        assert!(gcra.admits(loose, 1_000_000_001).is_ok());
    }

    proptest! {
        #[test]
        fn it_is_a_bucket_that_fills_evenly(
            calls in 1_u32..50,
            every in 1_u64..100,
            burst in 1_u32..20,
            gaps in prop::collection::vec(prop_oneof![Just(0), 0_u64..2_000_000_000, 0_u64..100_000_000_000], 1..200),
        ) {
            let rate = Rate { calls, every: Duration::from_secs(every), burst };
            let (mut gcra, mut bucket) = (Gcra::default(), Bucket::full(rate));
            let mut now = 0;
            for gap in gaps {
                now += gap;
                // Of what it has counted itself nothing is too much.
                let before = gcra;
                gcra.fit(rate, now);
                prop_assert_eq!(gcra, before);
                let admits = gcra.admits(rate, now);
                prop_assert_eq!(admits.is_ok(), bucket.takes(rate, now));
                match admits {
                    Ok(()) => gcra.admit(rate, now),
                    // The wait is the least one, to the nanosecond.
                    Err(wait) => {
                        prop_assert!(wait > 0);
                        prop_assert!(gcra.admits(rate, now + wait).is_ok());
                        prop_assert!(gcra.admits(rate, now + wait - 1).is_err());
                    }
                }
                prop_assert!(gcra.over() <= now + Gcra::interval(rate) * u64::from(burst));
            }
        }
    }
}
