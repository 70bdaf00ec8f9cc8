//! As it went in earlier windows from this time on, so it goes in this one.

use super::course::{Counts, Course, Ended, MAX_ENDED, PARTS};
use super::curve::Flow;
use super::number::{of, span, tenths};

/// With fewer windows nothing is said.
const FEWEST: usize = 4;
/// With so many that are of the same weekday, or the same hour of the day, only these are looked at.
const ALIKE: usize = 3;
/// The most windows that are looked at, the latest: what was long ago is another time.
const MOST: usize = 28;
/// The most of those that are alike.
const MOST_ALIKE: usize = 8;
/// How much of a whole earlier window stands beside what was used until now, when it is said how this window compares: its
/// first minutes say little.
const WEIGHT: f64 = 0.2;
/// The error is at least this part of what is expected: that earlier windows were more alike is chance.
const UNEVEN: f64 = 0.05;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Earlier windows, each as the sums of what was used until the end of each of its parts, from 0.
pub(super) struct Windows(Vec<Vec<f64>>);

impl Windows {
    /// Those that this one is compared with. None: too few ended, or nothing was used in them.
    pub(super) fn of(course: &Course) -> Option<Self> {
        let Counts::Until(end) = course.counts else {
            return None;
        };
        let length = end.checked_sub(course.begin).filter(|it| *it > 0)?;
        let all = whole(course, length);
        if all.len() < FEWEST {
            return None;
        }
        let alike: Vec<&Ended> = match cycle(length) {
            None => Vec::new(),
            Some((cycle, off)) => {
                let is_alike = |it: &&Ended| {
                    let apart = course.begin.saturating_sub(it.since).rem_euclid(cycle);
                    apart <= off || cycle - apart <= off
                };
                all.iter().filter(is_alike).take(MOST_ALIKE).collect()
            }
        };
        let chosen = match alike.len() >= ALIKE {
            true => alike,
            false => all.iter().take(MOST).collect(),
        };
        let sums: Vec<Vec<f64>> = chosen.into_iter().map(sums).collect();
        let used = |sums: &Vec<f64>| sums.last().is_some_and(|it| *it > 0.0);
        sums.iter().any(used).then_some(Self(sums))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// What is used between two places of this window, counted in parts from its beginning, where `used` is what was
    /// used until the first.
    pub(super) fn flow(&self, used: f64, from: f64, to: f64) -> Flow {
        let count = of(self.0.len() as u64);
        let each: Vec<[f64; 3]> = self
            .0
            .iter()
            .map(|sums| {
                let before = at(sums, from);
                let rest = (at(sums, to) - before).max(0.0);
                [before, rest, sums.last().copied().unwrap_or(0.0)]
            })
            .collect();
        let total = each
            .iter()
            .fold([0.0; 3], |[a, b, c], [x, y, z]| [a + x, b + y, c + z]);
        let expected = scaled(used, total, count);
        // By how much each of them would have been missed, had only the others been known.
        let missed = each.iter().map(|own| {
            let others = [total[0] - own[0], total[1] - own[1], total[2] - own[2]];
            (own[1] - scaled(own[0], others, count - 1.0)).powi(2)
        });
        let missed = missed.sum::<f64>() / count;
        let rest = total[1] / count;
        let scale = match rest > 0.0 {
            true => expected / rest,
            false => 0.0,
        };
        let variance = (missed * scale * scale).max((UNEVEN * expected).powi(2));
        let (low, high) = tenths(expected, variance, count - 1.0);
        Flow {
            low,
            expected,
            high,
        }
    }
}

/// What is used from now on, where `used` was until now, by the sums of so many windows: what was used until then, from
/// then on, and in all.
fn scaled(used: f64, [before, rest, all]: [f64; 3], count: f64) -> f64 {
    if count < 1.0 {
        return 0.0;
    }
    let weight = WEIGHT * all / count;
    let usual = before / count + weight;
    match usual > 0.0 {
        true => rest / count * ((used + weight) / usual),
        false => 0.0,
    }
}

/// The sum at a place between two parts.
fn at(sums: &[f64], place: f64) -> f64 {
    let mut below = 0.0;
    for (number, pair) in (0_u16..).zip(sums.windows(2)) {
        let [from, to] = *pair else { continue };
        let within = (place - f64::from(number)).clamp(0.0, 1.0);
        if within < 1.0 {
            return from + (to - from) * within;
        }
        below = to;
    }
    below
}

fn sums(ended: &Ended) -> Vec<f64> {
    let parts = ended.parts.iter().copied().chain(std::iter::repeat(0));
    let mut sum = 0.0;
    let mut sums = vec![0.0];
    sums.extend(parts.take(PARTS).map(|amount| {
        sum += of(amount);
        sum
    }));
    sums
}

/// The windows before this one, the latest first, also those in which nothing was used: an account is made when it is
/// charged. Without the very first, of which nobody knows whether it is whole.
fn whole(course: &Course, length: i64) -> Vec<Ended> {
    let before = |it: &&Ended| it.until <= course.begin && it.since < it.until;
    let mut known: Vec<&Ended> = course.ended.iter().filter(before).collect();
    known.sort_by_key(|it| std::cmp::Reverse(it.since));
    known.truncate(MAX_ENDED);
    let mut all = Vec::new();
    let mut next = course.begin;
    for ended in known {
        // A day may have 23 or 25 hours, and a month 28 days.
        while all.len() < MAX_ENDED && next.saturating_sub(ended.until) > length / 2 {
            let until = next;
            next = next.saturating_sub(length);
            all.push(Ended {
                since: next,
                until,
                ..Ended::default()
            });
        }
        if all.len() >= MAX_ENDED {
            return all;
        }
        next = ended.since;
        all.push(ended.clone());
    }
    if all.len() > FEWEST {
        all.pop();
    }
    all
}

/// After how long windows of this length are alike, and by how much they may be off: a zone's clock is set.
fn cycle(length: i64) -> Option<(i64, i64)> {
    match length {
        HOUR => Some((DAY, 0)),
        _ if (DAY - 3 * HOUR..=DAY + 3 * HOUR).contains(&length) => Some((7 * DAY, 3 * HOUR)),
        _ => None,
    }
}

/// At which of its parts a window is now.
pub(super) fn place(course: &Course, part: f64, later: f64) -> f64 {
    (span(course.now.saturating_sub(course.begin)) + later) / part
}
