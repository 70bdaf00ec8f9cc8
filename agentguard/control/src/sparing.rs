//! Lines of the log that anybody who connects can cause: so many a second, and how many more there were.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind in one [`SPAN`].
const LINES: u32 = 3;
/// What they are counted over. It begins with a line.
const SPAN: Duration = Duration::from_secs(1);

/// Lines of one kind: three a second. Further ones are left out, and told of with the next one.
#[derive(Debug)]
pub struct Sparing(Mutex<Told>);

#[derive(Debug)]
struct Told {
    /// When the span began, and how many lines it has; `None` before the first.
    span: Option<(Instant, u32)>,
    /// How many were left out and not told of.
    left_out: u64,
}

impl Sparing {
    /// Nothing was told yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Told {
            span: None,
            left_out: 0,
        }))
    }

    /// Whether a line may be told now, and how many were left out before it; `None`: this one is left out.
    #[must_use]
    pub fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let span = match told.span {
            Some((began, lines)) if now.saturating_duration_since(began) < SPAN => {
                if lines >= LINES {
                    told.left_out = told.left_out.saturating_add(1);
                    return None;
                }
                (began, lines + 1)
            }
            _ => (now, 1),
        };
        told.span = Some(span);
        Some(std::mem::take(&mut told.left_out))
    }
}

impl Default for Sparing {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{LINES, Sparing};

    #[test]
    fn a_flood_is_a_few_lines_a_second_that_tell_of_the_others() {
        let sparing = Sparing::new();
        let start = Instant::now();
        // 1,600 a second, for ten seconds.
        let turns: Vec<u64> = (0..16_000)
            .filter_map(|step| sparing.turn_at(start + Duration::from_micros(625) * step))
            .collect();
        assert_eq!(turns.len(), 10 * LINES as usize);
        let lines = turns.len() as u64;
        // What follows the last line is told with the next one.
        let later = sparing.turn_at(start + Duration::from_secs(60)).unwrap();
        assert_eq!(turns.iter().sum::<u64>() + later + lines, 16_000);
    }

    #[test]
    fn what_is_rare_is_told_each_time() {
        let sparing = Sparing::new();
        let start = Instant::now();
        for step in 0..100 {
            let now = start + Duration::from_millis(400) * step;
            assert_eq!(sparing.turn_at(now), Some(0));
        }
    }

    #[test]
    fn a_clock_that_is_behind_lets_no_more_through() {
        let sparing = Sparing::new();
        let start = Instant::now() + Duration::from_secs(5);
        let turns = (0..100)
            .filter(|_| sparing.turn_at(start).is_some())
            .count();
        assert_eq!(turns, LINES as usize);
        let behind = start.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(sparing.turn_at(behind), None);
    }
}
