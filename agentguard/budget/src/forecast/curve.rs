//! What an account will have used, from now on: by how much, and when its limit is reached.

use super::course::{Counts, Course, PARTS};
use super::number::{amount, of, span, time};
use super::{Estimate, Exhaustion};

/// The most points of a curve.
const POINTS: u16 = 64;
/// For how many times as long as it was looked at the future of what never ends is told.
const AHEAD: f64 = 10.0;

/// What will be used beside what is used now, until some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Flow {
    pub(super) low: f64,
    pub(super) expected: f64,
    pub(super) high: f64,
}

/// The times that are looked at: each so many milliseconds from now, the first one none.
pub(super) fn times(course: &Course, part: f64, observed: f64) -> Vec<f64> {
    let (end, evenly) = match course.counts {
        Counts::Until(end) => (span(end.saturating_sub(course.now)), true),
        Counts::For(length) => (span(length), true),
        Counts::Always => (AHEAD * observed, false),
    };
    if evenly {
        // From the end back, so that they are where the parts of windows end.
        let step = part.max(end / f64::from(POINTS));
        let steps = (0..POINTS).map(|it| end - f64::from(it) * step);
        let mut times: Vec<f64> = steps.take_while(|it| *it > 0.0).collect();
        times.push(0.0);
        times.reverse();
        return times;
    }
    // Closer together where they are near.
    let steps = (0..=POINTS).map(|it| (f64::from(it) / f64::from(POINTS)).powi(2));
    steps.map(|it| it * end).collect()
}

/// What of the use until now counts from each of these times on, until the next.
fn counts_then(course: &Course, times: &[f64]) -> Vec<f64> {
    let used = of(course.used);
    let Counts::For(length) = course.counts else {
        return vec![used; times.len()];
    };
    // A part counts until it has gone by as a whole.
    let (now, length) = (span(course.now), span(length));
    let part = span(course.spread.part);
    let parts: Vec<(f64, f64)> = course
        .spread
        .parts()
        .map(|(begin, amount)| (span(begin) + part + length - now, of(amount)))
        .collect();
    let counts = |after: f64| -> f64 {
        let left = parts.iter().filter(|(gone, _)| *gone > after);
        left.map(|(_, amount)| amount).sum()
    };
    let mut all: Vec<f64> = times.iter().map(|it| counts(*it).min(used)).collect();
    if let Some(first) = all.first_mut() {
        *first = used;
    }
    all
}

/// What is used when the window ends, and when the limit is reached.
pub(super) fn ends(
    course: &Course,
    times: &[f64],
    flows: &[Flow],
) -> (Option<Estimate>, Option<Exhaustion>) {
    let counts = counts_then(course, times);
    let committed = course.used.saturating_add(course.held);
    let at_end = match (course.counts, counts.last(), flows.last()) {
        (Counts::Until(_), Some(counts), Some(flow)) => {
            let [low, expected, high] =
                [flow.low, flow.expected, flow.high].map(|it| amount(counts + it));
            Some(Estimate {
                low,
                expected,
                // Calls that are under way may use all that is held for them.
                high: high.max(committed),
            })
        }
        // When what is used now counts no more.
        (Counts::For(_), _, Some(flow)) => Some(Estimate {
            low: amount(flow.low),
            expected: amount(flow.expected),
            high: amount(flow.high),
        }),
        _ => None,
    };
    let reaches = |which: fn(&Flow) -> f64| {
        let after = crossing(of(course.limit), times, &counts, flows, which)?;
        Some(time(course.now, after))
    };
    let (earliest, at, latest) = (
        reaches(|flow| flow.high),
        reaches(|flow| flow.expected),
        reaches(|flow| flow.low),
    );
    let earliest = match committed >= course.limit {
        true => Some(course.now),
        false => earliest,
    };
    let reached = earliest.map(|earliest| Exhaustion {
        earliest,
        at,
        latest,
    });
    (at_end, reached)
}

/// How long from now it is until the limit is reached. None: not within these times.
fn crossing(
    limit: f64,
    times: &[f64],
    counts: &[f64],
    flows: &[Flow],
    which: fn(&Flow) -> f64,
) -> Option<f64> {
    let points: Vec<(f64, f64, f64)> = times
        .iter()
        .zip(counts)
        .zip(flows)
        .map(|((time, counts), flow)| (*time, *counts, which(flow)))
        .collect();
    if points
        .first()
        .is_some_and(|(_, counts, _)| *counts >= limit)
    {
        return Some(0.0);
    }
    points.windows(2).find_map(|pair| {
        let [(begin, counts, before), (end, _, after)] = *pair else {
            return None;
        };
        let (from, to) = (counts + before, counts + after);
        if from >= limit {
            return Some(begin);
        }
        (to >= limit)
            .then(|| begin + (end - begin) * ((limit - from) / (to - from)).clamp(0.0, 1.0))
    })
}

/// How long a part is: of a window of the calendar, or as the account has it. None: it has none.
pub(super) fn part(course: &Course) -> Option<f64> {
    let part = match course.counts {
        Counts::Until(end) => {
            span(end.checked_sub(course.begin)?) / span(i64::try_from(PARTS).ok()?)
        }
        Counts::For(_) | Counts::Always => span(course.spread.part),
    };
    (part >= 1.0).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::{Flow, crossing};

    #[test]
    fn a_limit_is_reached_between_two_points_and_what_goes_by_makes_room() {
        let flow = |expected: f64| Flow {
            low: 0.0,
            expected,
            high: expected,
        };
        let flows = [flow(0.0), flow(10.0), flow(20.0)];
        let reached = |limit, counts: [f64; 3]| {
            crossing(limit, &[0.0, 100.0, 200.0], &counts, &flows, |it| {
                it.expected
            })
        };
        assert_eq!(reached(65.0, [50.0; 3]), Some(150.0));
        assert_eq!(reached(50.0, [50.0; 3]), Some(0.0));
        assert_eq!(reached(71.0, [50.0; 3]), None);
        assert_eq!(reached(65.0, [50.0, 0.0, 0.0]), None);
        assert_eq!(reached(60.0, [50.0, 0.0, 0.0]), Some(100.0));
    }
}
