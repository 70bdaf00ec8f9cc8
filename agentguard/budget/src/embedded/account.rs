//! One account: what was used, and what is held.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use agentguard_model::budget::{Budget, Unit};
use serde::{Deserialize, Serialize};

use crate::charge::{Balance, Charge};
use crate::forecast::{self, Ended, Spread};
use crate::period::{self, Period};
use crate::scope::Scope;

/// Into how many parts a sliding window is divided. What was used counts until the part that it is in has gone by as a
/// whole: for up to a sixtieth longer than the window is.
const PARTS: i64 = 60;

/// The most parts that are kept of a sliding window: its own, and as many again.
const MAX_PARTS: usize = 122;

/// The most parts that are kept where there is no window: of a week, once each is an hour.
const MAX_LIFE: usize = 168;
/// How long a part is where there is no window, at first: a minute. Whenever there are too many, each becomes twice as
/// long, until it is an hour: a session of minutes is told as well as an agent that runs for ever.
const MINUTE: i64 = 60_000;
/// And at last: 64 minutes.
const LONGEST: i64 = 64 * MINUTE;

/// The last part of a window of the calendar.
const LAST: i64 = 47;
const _: () = assert!(forecast::PARTS == 48, "as many as are numbered to the last");

/// The most places of one account of [`Unit::Destinations`]. There is no limit above that.
pub const MAX_PLACES: u64 = 10_000;

/// What an account goes by.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Name {
    pub(crate) budget: Arc<str>,
    pub(crate) unit: Unit,
    /// As [`period::name`] says it.
    pub(crate) window: Arc<str>,
    pub(crate) scope: Scope,
    /// When its window began; 0 where that has no beginning.
    pub(crate) since: i64,
}

/// What is kept of one over a restart.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Kept {
    /// When its window ends, where it does.
    pub(crate) until: Option<i64>,
    /// How much was used; in a sliding window, ever.
    pub(crate) used: u64,
    /// What of that was more than was held for it.
    pub(crate) overshoot: u64,
    /// When it was charged first, and last.
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// What was used in the parts of time, each with its number, the oldest first. They are what a sliding window counts
    /// by, and what a forecast is made from: those of a window of the calendar are numbered from its beginning.
    pub(crate) parts: VecDeque<(i64, u64)>,
    /// How long a part is where there is no window, in milliseconds; else 0.
    pub(crate) part: i64,
    /// The places of [`Unit::Destinations`].
    pub(crate) places: HashSet<u64>,
}

/// How the time of an account is divided into parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Division {
    /// Those of a window of the calendar, of so many milliseconds each.
    Calendar(i64),
    /// Those of a sliding window.
    Sliding(i64),
    /// As [`Kept::part`] says.
    Life,
}

#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) name: Name,
    pub(crate) kept: Kept,
    /// What is held for calls that are under way.
    pub(crate) held: u64,
    /// How its time is divided.
    division: Division,
    /// Whether something of [`Kept`] is not in the store.
    pub(crate) dirty: bool,
    /// Whether it is one of those that may be open: until its window was seen to be over.
    pub(crate) counted: bool,
    /// In which journal its number stands.
    pub(crate) opened_in: Option<u64>,
}

impl Account {
    pub(crate) fn new(name: Name, mut kept: Kept) -> Self {
        let sliding = name
            .window
            .strip_prefix("sliding ")
            .and_then(|length| length.parse::<i64>().ok());
        let division = match (sliding, kept.until) {
            (Some(length), _) => Division::Sliding((length / PARTS).max(1)),
            (None, Some(until)) => Division::Calendar(forecast::part((name.since, until))),
            (None, None) => {
                kept.part = kept.part.clamp(MINUTE, LONGEST);
                Division::Life
            }
        };
        Self {
            name,
            kept,
            held: 0,
            division,
            dirty: false,
            counted: true,
            opened_in: None,
        }
    }

    /// How a new one is called.
    pub(crate) fn name(budget: &Budget, scope: Scope, period: Period) -> Name {
        Name {
            budget: Arc::clone(&budget.id),
            unit: budget.unit,
            window: period::name(budget).into(),
            scope,
            since: period.since,
        }
    }

    /// Whether it is the account of this budget: one that was changed in its unit or window has others.
    pub(crate) fn is_of(&self, budget: &Budget) -> bool {
        self.name.unit == budget.unit && period::is_named(budget, &self.name.window)
    }

    pub(crate) const fn period(&self) -> Period {
        Period {
            since: self.name.since,
            until: self.kept.until,
        }
    }

    /// What was used that counts now.
    pub(crate) fn used(&self, now: i64) -> u64 {
        if self.name.unit == Unit::WallTime {
            return self.elapsed(now);
        }
        let Division::Sliding(part) = self.division else {
            return self.kept.used;
        };
        let oldest = oldest(part, now);
        let parts = self.kept.parts.iter().filter(|(part, _)| *part >= oldest);
        parts.fold(0, |sum, (_, used)| sum.saturating_add(*used))
    }

    /// What it has, of this limit.
    pub(crate) fn balance(&self, limit: u64, now: i64) -> Balance {
        Balance {
            limit,
            used: self.used(now),
            held: self.held,
            resets: self.kept.until,
        }
    }

    /// How much of its limit a charge has it hold, and for how many tokens there is room. None: not even for the first.
    pub(crate) fn room(&self, charge: &Charge, now: i64) -> Option<u64> {
        let limit = charge.budget.limit;
        match charge.budget.unit {
            Unit::WallTime => (self.elapsed(now) < limit).then_some(u64::MAX),
            Unit::Destinations => {
                let known = self.kept.places.contains(&charge.place);
                let room = self.kept.used < limit.min(MAX_PLACES);
                (known || room).then_some(u64::MAX)
            }
            _ => charge.terms.tokens(self.balance(limit, now).left()),
        }
    }

    /// Whether nothing is left of what is not held: time, or room for another place.
    pub(crate) fn is_over(&self, budget: &Budget, now: i64) -> bool {
        budget.unit == Unit::WallTime && self.elapsed(now) >= budget.limit
    }

    /// When there is something again, where the clock says it: in a sliding window, when the oldest of it goes by.
    pub(crate) fn resets(&self, budget: &Budget, now: i64) -> Option<i64> {
        let Division::Sliding(length) = self.division else {
            return self.kept.until;
        };
        let (oldest, limit) = (oldest(length, now), budget.limit);
        let mut used = self.used(now);
        let counts = self.kept.parts.iter().filter(|(part, _)| *part >= oldest);
        for (part, amount) in counts {
            used = used.saturating_sub(*amount);
            if used < limit {
                let gone = part.saturating_add(PARTS + 1);
                return Some(gone.saturating_mul(length));
            }
        }
        None
    }

    /// When a call on it has to end by the clock.
    pub(crate) fn deadline(&self, budget: &Budget) -> Option<i64> {
        let counts = budget.unit == Unit::WallTime && budget.reached.limits();
        let limit = i64::try_from(budget.limit).unwrap_or(i64::MAX);
        counts.then(|| self.kept.first.saturating_add(limit))
    }

    /// A call begins.
    pub(crate) fn begins(&mut self, place: u64, held: u64, now: i64) {
        if self.kept.first == 0 {
            self.kept.first = now;
        }
        self.kept.last = self.kept.last.max(now);
        self.held = self.held.saturating_add(held);
        if self.name.unit == Unit::Destinations
            && self.kept.places.len() < places()
            && self.kept.places.insert(place)
        {
            self.kept.used = u64::try_from(self.kept.places.len()).unwrap_or(u64::MAX);
            self.note(1, now);
        }
        self.dirty = true;
    }

    /// It may use more.
    pub(crate) const fn goes_on(&mut self, more: u64) {
        self.held = self.held.saturating_add(more);
    }

    /// It is over.
    pub(crate) fn ends(&mut self, held: u64, used: u64, now: i64) {
        self.held = self.held.saturating_sub(held);
        self.kept.last = self.kept.last.max(now);
        self.dirty = true;
        if self.name.unit == Unit::ConcurrentCalls || !self.name.unit.is_held() {
            return;
        }
        let more = used.saturating_sub(held);
        self.kept.overshoot = self.kept.overshoot.saturating_add(more);
        self.takes(used, now);
    }

    /// Somebody says what was used. When it was used stays as it is, where nothing is counted by that. Of calls at the same
    /// time nothing is used up, whatever is said.
    pub(crate) fn set(&mut self, used: u64, now: i64) {
        let used = match self.name.unit {
            Unit::ConcurrentCalls => 0,
            _ => used,
        };
        self.kept.places.clear();
        self.kept.used = 0;
        self.kept.overshoot = 0;
        if self.name.unit == Unit::WallTime {
            let used = i64::try_from(used).unwrap_or(i64::MAX);
            self.kept.first = match used {
                0 => 0,
                used => now.saturating_sub(used),
            };
        } else if self.name.unit != Unit::Destinations {
            self.kept.used = used;
            if let Division::Sliding(_) = self.division {
                self.kept.parts.clear();
                self.note(used, now);
            }
        }
        self.dirty = true;
    }

    /// When what was used was used, until now.
    pub(crate) fn spread(&self, now: i64) -> Spread {
        let noted = self.kept.parts.iter().copied();
        match self.division {
            Division::Calendar(part) => Spread::of((self.name.since, part), 0, noted),
            Division::Sliding(part) => Spread::of((0, part), oldest(part, now) - PARTS, noted),
            Division::Life => Spread::of((0, self.kept.part), i64::MIN, noted),
        }
    }

    /// Whether nothing was ever charged to it that is known by now, so that one that is opened anew is as this one.
    pub(crate) fn is_blank(&self) -> bool {
        let nothing = self.kept.used == 0 && self.kept.overshoot == 0 && self.held == 0;
        nothing && self.kept.parts.is_empty() && self.name.unit != Unit::WallTime
    }

    /// The window as it ended. None: it does not, by the clock.
    pub(crate) fn ended(&self) -> Option<Ended> {
        let until = self.kept.until?;
        let mut parts = Vec::new();
        for (number, amount) in &self.kept.parts {
            let place = usize::try_from(*number).unwrap_or(0);
            let place = place.min(forecast::PARTS - 1);
            if parts.len() <= place {
                parts.resize(place + 1, 0_u64);
            }
            if let Some(sum) = parts.get_mut(place) {
                *sum = sum.saturating_add(*amount);
            }
        }
        Some(Ended {
            since: self.name.since,
            until,
            used: self.kept.used,
            parts,
        })
    }

    fn takes(&mut self, used: u64, now: i64) {
        self.kept.used = self.kept.used.saturating_add(used);
        if used > 0 {
            self.note(used, now);
        }
    }

    /// Notes when something was used.
    fn note(&mut self, used: u64, now: i64) {
        let (part, most) = match self.division {
            // What began in a window and ends behind it is of its last part.
            Division::Calendar(length) => {
                let part = now.saturating_sub(self.name.since).div_euclid(length);
                (part.clamp(0, LAST), usize::MAX)
            }
            Division::Sliding(length) => (now.div_euclid(length), MAX_PARTS),
            Division::Life => {
                self.lengthen(now);
                (now.div_euclid(self.kept.part), MAX_LIFE)
            }
        };
        // By their number and not by their age: a clock that jumps ahead and back again forgets nothing.
        while self.kept.parts.len() > most {
            self.kept.parts.pop_front();
        }
        // A clock that went back has what is later than now at the end: it is charged there.
        match self.kept.parts.back_mut() {
            Some((last, sum)) if *last >= part => *sum = sum.saturating_add(used),
            _ => self.kept.parts.push_back((part, used)),
        }
    }

    /// Makes parts longer where they are too many until now.
    fn lengthen(&mut self, now: i64) {
        let most = i64::try_from(MAX_LIFE).unwrap_or(i64::MAX);
        let Some((mut first, _)) = self.kept.parts.front().copied() else {
            return;
        };
        while self.kept.part < LONGEST
            && now.div_euclid(self.kept.part).saturating_sub(first) >= most
        {
            self.kept.part *= 2;
            first = first.div_euclid(2);
            let mut wider: VecDeque<(i64, u64)> = VecDeque::new();
            for (number, amount) in self.kept.parts.drain(..) {
                let number = number.div_euclid(2);
                match wider.back_mut() {
                    Some((last, sum)) if *last == number => *sum = sum.saturating_add(amount),
                    _ => wider.push_back((number, amount)),
                }
            }
            self.kept.parts = wider;
        }
    }

    fn elapsed(&self, now: i64) -> u64 {
        match self.kept.first {
            0 => 0,
            first => u64::try_from(now.saturating_sub(first)).unwrap_or(0),
        }
    }
}

fn places() -> usize {
    usize::try_from(MAX_PLACES).unwrap_or(usize::MAX)
}

/// The oldest part of a sliding window that counts.
const fn oldest(part: i64, now: i64) -> i64 {
    now.div_euclid(part) - PARTS
}
