//! The course of scopes, also of those without a budget, from what was recorded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agentguard_model::budget::Window;

use super::course::{Counts, Course, Ended, MAX_ENDED, PARTS, Spread};
use crate::period::{self, Period};
use crate::scope::Scope;

/// The most scopes that are told apart. What has another one is told of as `(others)`.
pub const MAX_SCOPES: usize = 16_384;
/// The most windows that are kept of all scopes, as far as each keeps its latest [`FEWEST`].
const MAX_WINDOWS: usize = 65_536;
/// The fewest windows that are kept of one.
const FEWEST: usize = 8;
/// Parts of a window that slides.
const SLIDING: i64 = 60;
/// How long a part is where nothing ends: an hour.
const HOUR: i64 = 3_600_000;
/// The most parts that are kept where windows do not end by the calendar.
const MOST: usize = 168;

/// What was recorded, as if there were a budget with this window.
///
/// Decisions may come in any order. What is later than now counts in no course; of each scope the latest windows are
/// kept, [`MAX_ENDED`] at most, fewer where there are more than 163 scopes, and of windows that do not end by the calendar the latest 168 parts.
#[derive(Debug)]
pub struct Record {
    window: Window,
    zone: Option<Arc<str>>,
    now: i64,
    /// Windows of the calendar that something was in, by their beginnings.
    periods: BTreeMap<i64, i64>,
    /// The one that the last decision was in.
    last: Period,
    scopes: HashMap<Scope, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    first: i64,
    used: u64,
    /// By the beginnings of their windows.
    windows: BTreeMap<i64, Ended>,
    /// By their numbers, where there are none.
    parts: BTreeMap<i64, u64>,
}

impl Record {
    /// Nothing yet. `zone`: where days, weeks and months begin, an IANA time zone; UTC where absent or unknown.
    #[must_use]
    pub fn new(window: Window, zone: Option<Arc<str>>, now: i64) -> Self {
        let known = zone.filter(|it| jiff::tz::TimeZone::get(it).is_ok());
        Self {
            window,
            zone: known,
            now,
            periods: BTreeMap::new(),
            last: Period {
                since: 0,
                until: Some(0),
            },
            scopes: HashMap::new(),
        }
    }

    /// Adds decisions: when each was, in milliseconds of the Unix time, in which scope, and what it used.
    pub fn add<'a>(&mut self, decisions: impl IntoIterator<Item = (i64, &'a Scope, u64)>) {
        for (at, scope, amount) in decisions {
            if at <= self.now && amount > 0 {
                self.one(at, scope, amount);
            }
        }
    }

    fn one(&mut self, at: i64, scope: &Scope, amount: u64) {
        let division = match self.window {
            Window::Sliding(length) => Err((period::millis(length) / SLIDING).max(1)),
            Window::Lifetime => Err(HOUR),
            Window::Minute | Window::Hour | Window::Day | Window::Week | Window::Month => {
                Ok(self.period(at))
            }
        };
        let most = (MAX_WINDOWS / self.scopes.len().max(1)).clamp(FEWEST, MAX_ENDED);
        let tally = self.tally(scope);
        tally.used = tally.used.saturating_add(amount);
        tally.first = tally.first.min(at);
        match division {
            Ok(Period {
                since,
                until: Some(until),
            }) => {
                tally.window(at, (since, until), amount);
                while tally.windows.len() > most {
                    tally.windows.pop_first();
                }
            }
            // Beyond the calendar.
            Ok(Period { until: None, .. }) => {}
            Err(part) => {
                let sum = tally.parts.entry(at.div_euclid(part)).or_default();
                *sum = sum.saturating_add(amount);
                if tally.parts.len() > MOST {
                    tally.parts.pop_first();
                }
            }
        }
    }

    fn tally(&mut self, scope: &Scope) -> &mut Tally {
        let room = self.scopes.len() < MAX_SCOPES || self.scopes.contains_key(scope);
        let scope = match room {
            true => scope.clone(),
            false => Scope::others(),
        };
        self.scopes.entry(scope).or_insert_with(|| Tally {
            first: i64::MAX,
            ..Tally::default()
        })
    }

    /// The window of the calendar that a moment is in, which takes long to compute and is asked for a million times.
    fn period(&mut self, at: i64) -> Period {
        if self.last.holds(at) {
            return self.last;
        }
        let before = self.periods.range(..=at).next_back();
        let known = before.map(|(since, until)| Period {
            since: *since,
            until: Some(*until),
        });
        let period = match known.filter(|it| it.holds(at)) {
            Some(known) => known,
            None => Period::of_window(self.window, self.zone.as_deref(), at),
        };
        // What has no end holds every other moment, too.
        let Some(until) = period.until else {
            return period;
        };
        // What is computed again is the same.
        if self.periods.len() >= MAX_ENDED * 4 {
            self.periods.clear();
        }
        self.periods.insert(period.since, until);
        self.last = period;
        period
    }

    /// The course of each scope until now, without a limit: for [`super::Forecast::of`].
    #[must_use]
    pub fn courses(self) -> HashMap<Scope, Course> {
        let Self {
            window,
            zone,
            now,
            scopes,
            ..
        } = self;
        let current = Period::of_window(window, zone.as_deref(), now);
        let course =
            |(scope, tally): (Scope, Tally)| Some((scope, tally.course(window, current, now)?));
        scopes.into_iter().filter_map(course).collect()
    }
}

impl Tally {
    fn window(&mut self, at: i64, (since, until): (i64, i64), amount: u64) {
        let window = self.windows.entry(since).or_insert_with(|| Ended {
            since,
            until,
            used: 0,
            parts: vec![0; PARTS],
        });
        let part = part((since, until));
        let place = at.saturating_sub(since).div_euclid(part);
        let place = usize::try_from(place).unwrap_or(0).min(PARTS - 1);
        window.used = window.used.saturating_add(amount);
        if let Some(sum) = window.parts.get_mut(place) {
            *sum = sum.saturating_add(amount);
        }
    }

    fn course(mut self, window: Window, current: Period, now: i64) -> Option<Course> {
        let none = Course {
            limit: None,
            begin: self.first,
            counts: Counts::Always,
            now,
            used: self.used,
            held: 0,
            spread: Spread::default(),
            ended: Vec::new(),
        };
        let noted = self.parts.iter().map(|(number, amount)| (*number, *amount));
        Some(match (window, current.until) {
            (Window::Sliding(length), _) => {
                let length = period::millis(length);
                let part = (length / SLIDING).max(1);
                let oldest = now.div_euclid(part) - SLIDING;
                let counts = self.parts.range(oldest..).map(|(_, amount)| *amount);
                Course {
                    counts: Counts::For(length),
                    used: counts.fold(0, u64::saturating_add),
                    spread: Spread::of((0, part), oldest - SLIDING, noted),
                    ..none
                }
            }
            (Window::Lifetime, _) => {
                let oldest = now.div_euclid(HOUR) - i64::try_from(MOST).unwrap_or(0);
                Course {
                    spread: Spread::of((0, HOUR), oldest, noted),
                    ..none
                }
            }
            (_, Some(until)) => {
                let this = self.windows.remove(&current.since).unwrap_or_default();
                Course {
                    begin: current.since,
                    counts: Counts::Until(until),
                    used: this.used,
                    spread: Spread {
                        since: current.since,
                        part: part((current.since, until)),
                        amounts: this.parts,
                    },
                    ended: self.windows.into_values().collect(),
                    ..none
                }
            }
            (_, None) => return None,
        })
    }
}

/// How long a part of a window of the calendar is, in milliseconds.
pub(crate) fn part((since, until): (i64, i64)) -> i64 {
    let length = until.saturating_sub(since);
    let parts = i64::try_from(PARTS).unwrap_or(1);
    length.saturating_add(parts - 1).div_euclid(parts).max(1)
}

#[cfg(test)]
mod tests {
    use agentguard_model::budget::{Dimension, Window};

    use super::{FEWEST, MAX_SCOPES, Record};
    use crate::scope::Scope;

    const NOW: i64 = 1_795_860_000_000;
    const DAY: i64 = 86_400_000;

    fn scope(name: &str) -> Scope {
        Scope::of([(&Dimension::Agent, name)])
    }

    #[test]
    fn scopes_beyond_the_bound_are_one_and_have_fewer_windows() {
        let mut record = Record::new(Window::Day, None, NOW);
        for number in 0..MAX_SCOPES + 10 {
            let scope = scope(&format!("a{number}"));
            record.add([(NOW, &scope, 1), (NOW - DAY, &scope, 1)]);
        }
        let last = scope("a16383");
        record.add((0..100).map(|day| (NOW - day * DAY, &last, 1)));
        let courses = record.courses();
        assert_eq!(courses.len(), MAX_SCOPES + 1);
        assert_eq!(courses[&Scope::others()].used, 10);
        assert_eq!(courses[&last].ended.len(), FEWEST - 1);
    }

    #[test]
    fn what_never_ends_keeps_the_last_week() {
        let mut record = Record::new(Window::Lifetime, None, NOW);
        let scope = scope("a");
        record.add((0..1000).map(|hour| (NOW - hour * 3_600_000, &scope, 2)));
        record.add([
            (i64::MIN, &scope, 1),
            (i64::MAX, &scope, 1),
            (NOW, &scope, 0),
        ]);
        let courses = record.courses();
        let course = &courses[&scope];
        assert_eq!((course.used, course.begin), (2001, i64::MIN));
        assert_eq!(course.spread.amounts, vec![2; 168]);
    }

    #[test]
    fn times_that_no_calendar_has_count_nowhere() {
        let mut record = Record::new(Window::Month, Some("Nowhere/Land".into()), NOW);
        let scope = scope("a");
        record.add([(i64::MIN, &scope, 7), (NOW, &scope, 5)]);
        let courses = record.courses();
        assert_eq!((courses[&scope].used, courses[&scope].ended.len()), (5, 0));
    }
}
