//! How many leaves a worker may ask for: a token bucket.

use std::time::{Duration, Instant};

/// Leaves at once. A worker that starts asks for those of all names in use.
const BURST: u32 = 200;

/// The time in which one more may be asked for: 20 a second.
const PACE: Duration = Duration::from_millis(50);

/// Tokens, as the time that they took to gather.
pub(super) struct Bucket {
    saved: Duration,
    looked: Instant,
}

impl Bucket {
    /// A whole burst.
    pub(super) fn full(now: Instant) -> Self {
        Self {
            saved: PACE * BURST,
            looked: now,
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let gathered = now.saturating_duration_since(self.looked);
        self.looked = now;
        self.saved = self.saved.saturating_add(gathered).min(PACE * BURST);
        match self.saved.checked_sub(PACE) {
            Some(left) => {
                self.saved = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, Bucket, Duration, Instant, PACE};

    #[test]
    fn a_burst_passes_then_one_each_pace_and_no_more_than_a_burst_is_saved() {
        let mut now = Instant::now();
        let mut bucket = Bucket::full(now);
        let mut passing = |now| (0..2 * BURST).filter(|_| bucket.take(now)).count();
        assert_eq!(passing(now), 200);
        for (pause, passes) in [
            (PACE - Duration::from_millis(1), 0),
            (Duration::from_millis(1), 1),
            (Duration::from_secs(1), 20),
            (Duration::from_secs(3600), 200),
        ] {
            now += pause;
            assert_eq!(passing(now), passes, "{pause:?}");
        }
    }
}
