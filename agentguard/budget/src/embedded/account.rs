//! One account: what was used, and what is held.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use agentguard_model::budget::{Budget, Reached, Unit};
use serde::{Deserialize, Serialize};

use crate::charge::{Balance, Charge};
use crate::period::{self, Period};
use crate::scope::Scope;

/// Into how many parts a sliding window is divided. What was used counts until the part that it is in has gone by as a
/// whole: for up to a sixtieth longer than the window is.
const PARTS: i64 = 60;

/// The most parts that are kept: those of a window, and as many again.
const MAX_PARTS: usize = 122;

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
    /// What was used in the parts of a sliding window, the oldest first.
    pub(crate) parts: VecDeque<(i64, u64)>,
    /// The places of [`Unit::Destinations`].
    pub(crate) places: HashSet<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) name: Name,
    pub(crate) kept: Kept,
    /// What is held for calls that are under way.
    pub(crate) held: u64,
    /// How long a part of its sliding window is, in milliseconds; 0 where it has none.
    part: i64,
    /// Whether something of [`Kept`] is not in the store.
    pub(crate) dirty: bool,
    /// In which journal its number stands.
    pub(crate) opened_in: Option<u64>,
}

impl Account {
    pub(crate) fn new(name: Name, kept: Kept) -> Self {
        let part = name
            .window
            .strip_prefix("sliding ")
            .and_then(|length| length.parse::<i64>().ok())
            .map_or(0, |length| (length / PARTS).max(1));
        Self {
            name,
            kept,
            held: 0,
            part,
            dirty: false,
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
        if self.part == 0 {
            return self.kept.used;
        }
        let oldest = self.oldest(now);
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
        if self.part == 0 {
            return self.kept.until;
        }
        let (oldest, limit) = (self.oldest(now), budget.limit);
        let mut used = self.used(now);
        let counts = self.kept.parts.iter().filter(|(part, _)| *part >= oldest);
        for (part, amount) in counts {
            used = used.saturating_sub(*amount);
            if used < limit {
                let gone = part.saturating_add(PARTS + 1);
                return Some(gone.saturating_mul(self.part));
            }
        }
        None
    }

    /// When a call on it has to end by the clock.
    pub(crate) fn deadline(&self, budget: &Budget) -> Option<i64> {
        let counts = budget.unit == Unit::WallTime && budget.reached == Reached::Deny;
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
        if self.name.unit == Unit::Destinations && self.kept.places.len() < places() {
            self.kept.places.insert(place);
            self.kept.used = u64::try_from(self.kept.places.len()).unwrap_or(u64::MAX);
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

    /// Somebody says what was used.
    pub(crate) fn set(&mut self, used: u64, now: i64) {
        self.kept.parts.clear();
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
            self.takes(used, now);
        }
        self.dirty = true;
    }

    fn takes(&mut self, used: u64, now: i64) {
        self.kept.used = self.kept.used.saturating_add(used);
        if self.part == 0 || used == 0 {
            return;
        }
        let part = now.div_euclid(self.part);
        // By their number and not by their age: a clock that jumps ahead and back again forgets nothing.
        while self.kept.parts.len() > MAX_PARTS {
            self.kept.parts.pop_front();
        }
        // A clock that went back has what is later than now at the end: it is charged there.
        match self.kept.parts.back_mut() {
            Some((last, sum)) if *last >= part => *sum = sum.saturating_add(used),
            _ => self.kept.parts.push_back((part, used)),
        }
    }

    /// The oldest part of a sliding window that counts.
    const fn oldest(&self, now: i64) -> i64 {
        now.div_euclid(self.part) - PARTS
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
