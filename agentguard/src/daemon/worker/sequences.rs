//! The numbers of the kernel's events, and which are missing.
//!
//! Each processor numbers its events. A program that is interrupted by another between taking its
//! number and writing its event puts them into the ring buffer the other way round, so a number that
//! is not there yet is given a moment to come.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// How long a number may be late.
const LATE: Duration = Duration::from_secs(1);

/// Ranges of one processor that are waited for. Beyond it the oldest is told as a gap at once.
const WAITED_FOR: usize = 64;

/// Numbers that did not come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Missing {
    pub(super) cpu: u32,
    pub(super) numbers: RangeInclusive<u64>,
}

/// All processors.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    processors: HashMap<u32, Processor>,
}

#[derive(Debug)]
struct Processor {
    highest: u64,
    waited_for: Vec<(RangeInclusive<u64>, Instant)>,
}

impl Sequences {
    /// A number came. The first one of a processor is taken as it is: what came before belongs to an
    /// earlier worker. Gives a range that is not waited for any longer.
    pub(super) fn came(&mut self, cpu: u32, number: u64, now: Instant) -> Option<Missing> {
        let Some(processor) = self.processors.get_mut(&cpu) else {
            let first = Processor {
                highest: number,
                waited_for: Vec::new(),
            };
            self.processors.insert(cpu, first);
            return None;
        };
        if number <= processor.highest {
            processor.late(number);
            return None;
        }
        if number > processor.highest + 1 {
            let missing = processor.highest + 1..=number - 1;
            processor.waited_for.push((missing, now));
        }
        processor.highest = number;
        (processor.waited_for.len() > WAITED_FOR).then(|| Missing {
            cpu,
            numbers: processor.waited_for.remove(0).0,
        })
    }

    /// The numbers that will not come any more.
    pub(super) fn given_up(&mut self, now: Instant) -> Vec<Missing> {
        let mut missing = Vec::new();
        for (cpu, processor) in &mut self.processors {
            processor.waited_for.retain(|(numbers, since)| {
                let over = now.duration_since(*since) >= LATE;
                if over {
                    missing.push(Missing {
                        cpu: *cpu,
                        numbers: numbers.clone(),
                    });
                }
                !over
            });
        }
        missing
    }
}

impl Processor {
    /// Takes a number out of what is waited for.
    fn late(&mut self, number: u64) {
        let Some(index) = self
            .waited_for
            .iter()
            .position(|(numbers, _)| numbers.contains(&number))
        else {
            return;
        };
        let (numbers, since) = self.waited_for.swap_remove(index);
        if *numbers.start() < number {
            self.waited_for.push((*numbers.start()..=number - 1, since));
        }
        if number < *numbers.end() {
            self.waited_for.push((number + 1..=*numbers.end(), since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LATE, Missing, Sequences, WAITED_FOR};
    use std::time::Instant;

    #[test]
    fn numbers_in_the_other_order_are_no_gap() {
        let (mut sequences, now) = (Sequences::default(), Instant::now());
        for number in [4, 6, 5, 7, 10, 9, 8, 11] {
            assert_eq!(sequences.came(0, number, now), None);
        }
        assert_eq!(sequences.given_up(now + LATE), []);
    }

    #[test]
    fn what_does_not_come_is_told_once_and_exactly() {
        let (mut sequences, now) = (Sequences::default(), Instant::now());
        for number in [1, 9, 5] {
            assert_eq!(sequences.came(3, number, now), None);
        }
        // Another processor's numbers are its own.
        assert_eq!(sequences.came(4, 100, now), None);
        assert_eq!(sequences.given_up(now), []);
        let missing = |numbers| Missing { cpu: 3, numbers };
        assert_eq!(
            sequences.given_up(now + LATE),
            [missing(2..=4), missing(6..=8)]
        );
        assert_eq!(sequences.given_up(now + 2 * LATE), []);
    }

    #[test]
    fn what_is_waited_for_is_bounded() {
        let (mut sequences, now) = (Sequences::default(), Instant::now());
        let mut told = 0;
        for number in (1..).step_by(2).take(WAITED_FOR + 11) {
            told += usize::from(sequences.came(0, number, now).is_some());
        }
        assert_eq!(told, 10);
        assert_eq!(sequences.given_up(now + LATE).len(), WAITED_FOR);
    }
}
