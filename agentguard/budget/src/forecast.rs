//! How what is used goes on: how fast, until when it lasts, and how much it will have been.
//!
//! Two methods, each with an interval in which the truth lies four times of five, if the future is like the past:
//!
//! - **Recent**, where there is nothing better: the rate of the last quarter of a window (of a week, for what never ends)
//!   goes on. The interval has both chances, that of what comes and that of what was looked at, by the variance of the
//!   parts; of their sums, where those vary more, since calls come in bursts. Amounts are taken as gamma distributed: never
//!   negative, and more often small than large. A normal distribution would have cheap scopes give something back.
//! - **Seasonal**, from [four](seasonal) ended windows on: what earlier windows used from this time on, times how this one
//!   compares with them until now. A working day is not used up evenly, so a rate is wrong at each time of it. What is
//!   compared has a fifth of a whole window beside it on both sides: else the first call of a day would say ten times as
//!   much, or nothing. Days are compared with the same weekday, hours with the same hour, once three of them ended.
//!   The interval comes from how well each of these windows would have been foretold by the others: no assumption about
//!   why they differ. A rise that no earlier window had counts in its upper bound for two more hours of a day.
//!
//! What is held for calls under way counts in upper bounds only: most of it comes back.

mod course;
mod curve;
mod number;
mod recent;
mod seasonal;

use serde::{Deserialize, Serialize};

pub(crate) use course::part;
pub use course::{Counts, Course, Ended, MAX_ENDED, PARTS, Spread};

use curve::Flow;
use number::{amount, of, span};
use recent::Rate;
use seasonal::Windows;

/// How often the truth lies within an interval, in percent.
pub const CONFIDENCE: u8 = 80;

/// Milliseconds of an hour.
const HOUR: f64 = 3_600_000.0;
/// Over how many parts the recent rate is told.
const LATELY: usize = 12;
/// For how many parts a rate that is new is thought to go on.
const GOES_ON: u8 = 4;

/// How the use of an account goes on. Amounts are in the budget's unit, times milliseconds of the Unix time.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Forecast {
    /// How fast it is used.
    pub burn_rate: BurnRate,
    /// When the limit is reached. None: not in this window, as far as can be said.
    pub exhausted: Option<Exhaustion>,
    /// What is used when the window ends; of one that slides, when what is used now counts no more. None: it does not end.
    pub at_end: Option<Estimate>,
    /// From what it is said.
    pub basis: Basis,
    /// How often the truth lies within an interval, in percent.
    pub confidence: u8,
}

/// What is used in an hour, to the nearest integer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BurnRate {
    /// Over the last quarter of a window.
    pub recent: u64,
    /// Since the window began.
    pub window: u64,
}

/// When a limit is reached. Never before now.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Exhaustion {
    /// Probably not before.
    pub earliest: i64,
    /// Most likely. None: it is possible only.
    pub at: Option<i64>,
    /// Probably not after. None: perhaps never.
    pub latest: Option<i64>,
}

/// An amount to come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Estimate {
    /// Probably not less.
    pub low: u64,
    /// The mean.
    pub expected: u64,
    /// Probably not more.
    pub high: u64,
}

/// From what a forecast is made.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// What was used lately.
    Recent,
    /// So many ended windows.
    Seasonal {
        /// How many.
        windows: u32,
    },
    /// The clock: time passes as fast as ever.
    Clock,
}

impl Forecast {
    /// From how an account was used until now. None: nothing can be said, since nothing was used, the window has just
    /// begun and too few ended before it, or the times make no sense.
    #[must_use]
    pub fn of(course: &Course) -> Option<Self> {
        let now = course.now;
        let ended = matches!(course.counts, Counts::Until(end) if end <= now);
        let none = matches!(course.counts, Counts::For(length) if length <= 0);
        if ended || none || now < course.begin {
            return None;
        }
        let part = curve::part(course)?;
        let (times, flows, basis) = match Windows::of(course) {
            Some(windows) => {
                let times = curve::times(course, part, part);
                let flows = seasonal(course, &windows, part, &times);
                let windows = u32::try_from(windows.count()).unwrap_or(u32::MAX);
                (times, flows, Basis::Seasonal { windows })
            }
            None => {
                let rate = Rate::of(course, part)?;
                let times = curve::times(course, part, rate.observed);
                let flows = times.iter().map(|time| rate.flow(*time)).collect();
                (times, flows, Basis::Recent)
            }
        };
        let (at_end, exhausted) = curve::ends(course, &times, &rising(flows));
        Some(Self {
            burn_rate: BurnRate {
                recent: amount(HOUR * Rate::lately(course, part, LATELY)),
                window: whole_window(course),
            },
            exhausted,
            at_end,
            basis,
            confidence: CONFIDENCE,
        })
    }

    /// Of time, in milliseconds, which passes by itself: as a budget of it is used up.
    #[must_use]
    pub fn of_time(limit: u64, used: u64, now: i64, until: Option<i64>) -> Self {
        let left = i64::try_from(limit.saturating_sub(used)).unwrap_or(i64::MAX);
        let over = Some(now.saturating_add(left));
        let over = over.filter(|over| until.is_none_or(|until| *over <= until));
        let end = until.map(|until| u64::try_from(until.saturating_sub(now)).unwrap_or(0));
        let end = end.map(|rest| used.saturating_add(rest));
        let hour = amount(HOUR);
        Self {
            burn_rate: BurnRate {
                recent: hour,
                window: hour,
            },
            exhausted: over.map(|over| Exhaustion {
                earliest: over,
                at: Some(over),
                latest: Some(over),
            }),
            at_end: end.map(|end| Estimate {
                low: end,
                expected: end,
                high: end,
            }),
            basis: Basis::Clock,
            confidence: 100,
        }
    }
}

fn seasonal(course: &Course, windows: &Windows, part: f64, times: &[f64]) -> Vec<Flow> {
    let used = course.spread.parts().map(|(_, amount)| of(amount)).sum();
    let from = seasonal::place(course, part, 0.0);
    let new = Rate::lately(course, part, usize::from(GOES_ON));
    let flow = |time: &f64| {
        let flow = windows.flow(used, from, seasonal::place(course, part, *time));
        let goes_on = new * time.min(f64::from(GOES_ON) * part);
        Flow {
            high: flow.high.max(goes_on),
            ..flow
        }
    };
    times.iter().map(flow).collect()
}

/// Nothing is given back: each bound is at least what it was before.
fn rising(mut flows: Vec<Flow>) -> Vec<Flow> {
    let mut last = Flow::default();
    for flow in &mut flows {
        flow.low = flow.low.max(last.low);
        flow.expected = flow.expected.max(last.expected).max(flow.low);
        flow.high = flow.high.max(last.high).max(flow.expected);
        last = *flow;
    }
    flows
}

fn whole_window(course: &Course) -> u64 {
    let since = span(course.now.saturating_sub(course.begin));
    let time = match course.counts {
        Counts::For(length) => since.min(span(length)),
        Counts::Until(_) | Counts::Always => since,
    };
    match time > 0.0 {
        true => amount(HOUR * of(course.used) / time),
        false => 0,
    }
}

#[cfg(test)]
mod tests;
