//! What a forecast is made from: how what was used is spread over its window, and over those that have ended.

use serde::{Deserialize, Serialize};

/// Into how many equal parts a window of the calendar is divided: half hours of a day.
pub const PARTS: usize = 48;
/// The most parts of a [`Spread`] that are read, the latest ones.
pub(crate) const MAX_SPREAD: usize = 1024;
/// The most windows that a forecast looks back on.
pub const MAX_ENDED: usize = 400;

/// What was used in equal parts of time, one behind the other.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Spread {
    /// When the first part begins, in milliseconds of the Unix time.
    pub since: i64,
    /// How long each is, in milliseconds.
    pub part: i64,
    /// What was used in each, in the budget's unit. Nothing in those that are not there.
    pub amounts: Vec<u64>,
}

impl Spread {
    /// From what is noted of some parts, each with its number: part 0 begins at `origin`. None before the part `oldest`.
    pub(crate) fn of(
        (origin, part): (i64, i64),
        oldest: i64,
        noted: impl IntoIterator<Item = (i64, u64)>,
    ) -> Self {
        let mut first = None;
        let mut amounts: Vec<u64> = Vec::new();
        for (number, amount) in noted {
            if number < oldest {
                continue;
            }
            let first = *first.get_or_insert(number);
            let place = usize::try_from(number.saturating_sub(first)).unwrap_or(0);
            if place >= MAX_SPREAD {
                break;
            }
            if amounts.len() <= place {
                amounts.resize(place + 1, 0);
            }
            if let Some(there) = amounts.get_mut(place) {
                *there = there.saturating_add(amount);
            }
        }
        let begins = first.unwrap_or(0).saturating_mul(part);
        Self {
            since: origin.saturating_add(begins),
            part,
            amounts,
        }
    }

    /// Its parts: when each begins, and what was used in it.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (i64, u64)> {
        let skipped = self.amounts.len().saturating_sub(MAX_SPREAD);
        let begins = (0_i64..).map(|it| it.saturating_mul(self.part).saturating_add(self.since));
        begins.zip(self.amounts.iter().copied()).skip(skipped)
    }
}

/// A window that has ended.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ended {
    /// When it began, in milliseconds of the Unix time.
    pub since: i64,
    /// When it ended.
    pub until: i64,
    /// How much was used in it.
    pub used: u64,
    /// What of it in each of [`PARTS`] equal parts. Nothing in those at the end that are not there.
    pub parts: Vec<u64>,
}

/// For how long what was used counts, as the clock has it now.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// Until then: a window of the calendar.
    Until(i64),
    /// For so many milliseconds behind its use.
    For(i64),
    /// For ever.
    Always,
}

/// How an account has been used until now. Times are milliseconds of the Unix time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Course {
    /// How much there is.
    pub limit: u64,
    /// When the window began; without one of the calendar, when something was used first.
    pub begin: i64,
    /// For how long it counts.
    pub counts: Counts,
    /// Now.
    pub now: i64,
    /// How much was used that counts.
    pub used: u64,
    /// How much is held for calls that are under way.
    pub held: u64,
    /// When it was used. What an operator set as used is in none of its parts.
    pub spread: Spread,
    /// Windows of the calendar that ended, in any order; the latest [`MAX_ENDED`] are looked at.
    pub ended: Vec<Ended>,
}

/// How long a part of a window of the calendar is, in milliseconds.
pub(crate) fn part((since, until): (i64, i64)) -> i64 {
    let length = until.saturating_sub(since);
    let parts = i64::try_from(PARTS).unwrap_or(1);
    length.saturating_add(parts - 1).div_euclid(parts).max(1)
}
