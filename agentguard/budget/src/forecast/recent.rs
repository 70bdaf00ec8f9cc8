//! As it went lately, so it goes on.

use super::course::{Counts, Course, MAX_SPREAD, PARTS};
use super::curve::Flow;
use super::number::{of, span, tenths};

/// How many parts are lately: a quarter of a window.
const LATELY: usize = 12;
/// With fewer whole parts nothing is said.
const FEWEST: usize = 4;
/// The most parts that are looked at where the last few say nothing, or there is no window to end.
const MOST: usize = 168;
/// Use that looks even varies by at least this part of itself from one part to the next: that it does not is chance.
const UNEVEN: f64 = 0.1;
/// Parts that have to be there to look at how many of them together vary.
const BLOCKS: usize = 6;

/// How much is used in a millisecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) mean: f64,
    /// The variance of what is used in a millisecond, as that of longer times is its multiple.
    variance: f64,
    /// For how long it was looked at, in milliseconds, and in how many parts.
    pub(super) observed: f64,
    freedom: f64,
}

/// What was used in whole parts before now, the oldest first, and in the one that is not over.
struct Observed {
    whole: Vec<f64>,
    begun: (f64, f64),
    part: f64,
}

impl Rate {
    /// As it is lately. None: nothing was used, or not for long enough.
    pub(super) fn of(course: &Course, part: f64) -> Option<Self> {
        let most = match course.counts {
            Counts::Until(_) | Counts::For(_) => LATELY,
            Counts::Always => MOST,
        };
        let seen = observe(course, part, MOST);
        let lately = seen.last(most).rate();
        lately
            .filter(|it| it.mean > 0.0)
            .or_else(|| seen.rate().filter(|it| it.mean > 0.0))
    }

    /// What is used in a millisecond over the last few parts, whether or not that allows a forecast.
    pub(super) fn lately(course: &Course, part: f64, parts: usize) -> f64 {
        let seen = observe(course, part, parts);
        let time = seen.time();
        match time > 0.0 {
            true => seen.sum() / time,
            false => 0.0,
        }
    }

    /// What is used within so many milliseconds.
    pub(super) fn flow(&self, time: f64) -> Flow {
        // What happens by chance from now on, and what happened by chance in what was looked at.
        let variance = self.variance * (time + time * time / self.observed);
        let expected = self.mean * time;
        let (low, high) = tenths(expected, variance, self.freedom);
        Flow {
            low,
            expected,
            high,
        }
    }
}

impl Observed {
    fn last(&self, parts: usize) -> Self {
        let from = self.whole.len().saturating_sub(parts);
        Self {
            whole: self.whole.iter().skip(from).copied().collect(),
            begun: self.begun,
            part: self.part,
        }
    }

    fn sum(&self) -> f64 {
        self.whole.iter().sum::<f64>() + self.begun.0
    }

    fn time(&self) -> f64 {
        of(self.whole.len() as u64) * self.part + self.begun.1
    }

    fn rate(&self) -> Option<Rate> {
        if self.whole.len() < FEWEST {
            return None;
        }
        let mean = self.sum() / self.time();
        // What is used comes in bursts that are longer than a part: then sums of two or four vary by more than two or
        // four times as much. The most counts.
        let blocks = [1, 2, 4].into_iter();
        let blocks = blocks.filter(|size| *size == 1 || self.whole.len() / size >= BLOCKS);
        let varies = blocks.map(|size| variance(&self.whole, size) / of(size as u64));
        let least = (UNEVEN * mean * self.part).powi(2);
        let most = varies.fold(least, f64::max);
        Some(Rate {
            mean,
            variance: most / self.part,
            observed: self.time(),
            freedom: of(self.whole.len() as u64) - 1.0,
        })
    }
}

/// How much the sums of so many parts each vary.
fn variance(parts: &[f64], size: usize) -> f64 {
    let sums: Vec<f64> = parts
        .rchunks_exact(size)
        .map(|it| it.iter().sum())
        .collect();
    let count = of(sums.len() as u64);
    if count < 2.0 {
        return 0.0;
    }
    let mean = sums.iter().sum::<f64>() / count;
    let squares = sums.iter().map(|it| (it - mean).powi(2));
    squares.sum::<f64>() / (count - 1.0)
}

/// What was used in the last parts, from the first on in which something was: nobody knows what was before.
fn observe(course: &Course, part: f64, most: usize) -> Observed {
    let now = span(course.now);
    let origin = match course.counts {
        Counts::Until(_) => span(course.begin),
        Counts::For(_) | Counts::Always => span(course.spread.since),
    };
    let most = most.min(MAX_SPREAD);
    let mut back = Back {
        now,
        current: origin + ((now - origin) / part).floor().max(0.0) * part,
        part,
        sums: vec![0.0; most + 1],
        first: f64::INFINITY,
    };
    let length = span(course.spread.part);
    for (begin, amount) in course.spread.parts() {
        back.add(span(begin), length, of(amount));
    }
    let farthest = back.current - of(most as u64) * part;
    for ended in course
        .ended
        .iter()
        .filter(|it| it.since < course.begin && it.used > 0)
    {
        // From its beginning on nothing is unknown.
        back.first = back.first.min(span(ended.since));
        if span(ended.until) <= farthest {
            continue;
        }
        let length = span(ended.until.saturating_sub(ended.since)) / of(PARTS as u64);
        for (place, amount) in (0_u16..).zip(ended.parts.iter().take(PARTS)) {
            back.add(
                span(ended.since) + f64::from(place) * length,
                length,
                of(*amount),
            );
        }
    }
    back.observed()
}

/// Sums of the parts before now.
struct Back {
    now: f64,
    /// When the part began that is not over.
    current: f64,
    part: f64,
    /// From the current one back.
    sums: Vec<f64>,
    /// From when on something is known.
    first: f64,
}

impl Back {
    /// Adds what was used within a time, as if evenly.
    fn add(&mut self, begin: f64, length: f64, amount: f64) {
        if amount <= 0.0 || begin > self.now {
            return;
        }
        self.first = self.first.min(begin);
        let end = (begin + length).min(self.now);
        let length = end - begin;
        for (place, sum) in (0_u16..).zip(&mut self.sums) {
            let from = self.current - f64::from(place) * self.part;
            let to = match place {
                0 => f64::INFINITY,
                _ => from + self.part,
            };
            if to <= begin {
                break;
            }
            let share = match length > 0.0 {
                true => ((end.min(to) - begin.max(from)) / length).clamp(0.0, 1.0),
                // Now.
                false => f64::from(u8::from(from <= begin)),
            };
            *sum += amount * share;
        }
    }

    fn observed(self) -> Observed {
        let begins = |place: u16| self.current - f64::from(place) * self.part;
        let whole = (0_u16..).zip(&self.sums).skip(1);
        // Half a millisecond, by which sums of fractions may be off.
        let mut whole: Vec<f64> = whole
            .take_while(|(place, _)| begins(*place) + self.part > self.first + 0.5)
            .map(|(_, sum)| *sum)
            .collect();
        whole.reverse();
        Observed {
            whole,
            begun: (
                self.sums.first().copied().unwrap_or(0.0),
                (self.now - self.current).clamp(0.0, self.part),
            ),
            part: self.part,
        }
    }
}
