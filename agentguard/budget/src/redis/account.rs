//! What accounts are called where several hosts share them.

use std::collections::HashMap;
use std::sync::Arc;

use agentguard_model::budget::{Budget, Reached, Unit};
use serde::Deserialize as _;
use serde::de::value::StrDeserializer;

use crate::charge::Charge;
use crate::embedded::{FORGOTTEN, MAX_ACCOUNTS, MAX_OF_ONE, State};
use crate::period::{self, Period};
use crate::scope::Scope;

/// The kind of accounts of which amounts are held, and used up.
pub(super) const AMOUNTS: &str = "h";
/// Windows that ended so long ago are forgotten: two days, in milliseconds. Until then a call that began in one is settled
/// there, and a clock that went back finds it.
const ENDED: i64 = 2 * 86_400_000;
/// An account that nobody has asked for in an hour gives its place away where there are too many, in milliseconds.
const IDLE: i64 = 3_600_000;
/// How often accounts are looked for that give their place away: each second, in milliseconds.
const LOOKS: u64 = 1000;
/// Bytes of a key, at most: those of a scope with as many dimensions as there are.
const MAX_KEY: usize = 32 * 1024;
/// Into how many parts a sliding window is divided, as in the ledger of one host.
const PARTS: i64 = 60;

/// An account.
#[derive(Debug)]
pub(super) struct Account {
    /// Its own key, which tells it apart from all others.
    pub(super) hash: Arc<str>,
    /// The key of the index of what it holds.
    pub(super) index: Arc<str>,
    pub(super) unit: Unit,
    /// How long a part of its sliding window is, in milliseconds; 0 where it has none.
    pub(super) part: i64,
    pub(super) period: Period,
    window: Box<str>,
}

impl Account {
    fn new(prefix: &str, budget: &Budget, scope: &Scope, period: Period) -> Self {
        let window = period::name(budget);
        Self::named(prefix, (&budget.id, budget.unit, &window), scope, period)
    }

    fn named(
        prefix: &str,
        (id, unit, window): (&str, Unit, &str),
        scope: &Scope,
        period: Period,
    ) -> Self {
        let part = window
            .strip_prefix("sliding ")
            .and_then(|length| length.parse::<i64>().ok())
            .map_or(0, |length| (length / PARTS).max(1));
        let since = period.since;
        // The scope is last: no other part has a `|` in it.
        let id = id.replace('%', "%25").replace('|', "%7C");
        let hash = format!("{prefix}a|{id}|{unit}|{window}|{since}|{scope}");
        let index = format!("{prefix}i|{id}|{unit}|{window}|{since}|{scope}");
        Self {
            hash: hash.into(),
            index: index.into(),
            unit,
            part,
            period,
            window: window.into(),
        }
    }

    /// That of which an operator was told.
    pub(super) fn of(prefix: &str, state: &State) -> Self {
        let period = Period {
            since: state.since,
            until: state.until,
        };
        let names = (&*state.budget, state.unit, &*state.window);
        Self::named(prefix, names, &state.scope, period)
    }

    /// The account of a key, of which budget it is, and which of its accounts. None: no key of ours.
    pub(super) fn read(prefix: &str, hash: &str) -> Option<(Self, Arc<str>, Scope)> {
        // Names of budgets and scopes have nothing else, and what is shown to people must not have.
        if hash.len() > MAX_KEY || !hash.bytes().all(|it| (b' '..=b'~').contains(&it)) {
            return None;
        }
        let rest = hash.strip_prefix(prefix)?.strip_prefix("a|")?;
        let mut words = rest.splitn(5, '|');
        let id = words.next()?.replace("%7C", "|").replace("%25", "%");
        let unit = Unit::deserialize(StrDeserializer::<serde::de::value::Error>::new(
            words.next()?,
        ));
        let unit = unit.ok()?;
        let (window, zone) = period::read_name(words.next()?)?;
        let since: i64 = words.next()?.parse().ok()?;
        let scope = Scope::from(words.next()?);
        let budget = Budget {
            id: id.as_str().into(),
            unit,
            limit: 0,
            window,
            zone: zone.map(Into::into),
            per: Box::default(),
            reached: Reached::Deny,
            on_loss: None,
        };
        let period = Period::of(&budget, since);
        if period.since != since {
            // Of a host that knows another calendar.
            return None;
        }
        let account = Self::new(prefix, &budget, &scope, period);
        Some((account, budget.id, scope))
    }

    /// In which window, as [`period::name`] says it.
    pub(super) fn window(&self) -> &str {
        &self.window
    }

    /// What the script does with it.
    pub(super) const fn kind(&self) -> &'static str {
        match self.unit {
            Unit::ConcurrentCalls => "c",
            Unit::Destinations => "d",
            Unit::WallTime => "w",
            _ => AMOUNTS,
        }
    }

    /// For how long Redis keeps it from now on, in milliseconds.
    pub(super) fn lasts(&self, now: i64) -> i64 {
        match self.period.until {
            Some(until) => until.saturating_sub(now).max(0).saturating_add(ENDED),
            None => FORGOTTEN,
        }
    }

    fn is_of(&self, budget: &Budget, now: i64) -> bool {
        self.unit == budget.unit && self.period.holds(now) && period::is_named(budget, &self.window)
    }
}

/// The accounts that this host charges, so that none is named anew for each call.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// By budget and scope, each with when it was asked for last.
    current: HashMap<(Arc<str>, Scope), (Arc<Account>, i64)>,
    /// How many of them each budget has.
    of_budgets: HashMap<Arc<str>, usize>,
    /// When room was made last.
    made_room: i64,
}

impl Accounts {
    /// The account that a charge is for. Of more than [`MAX_ACCOUNTS`] that are open on this host, or [`MAX_OF_ONE`] of one
    /// budget, the rest is one for all others of its budget: agents can name as many models as they like, and Redis has to
    /// keep them. One that was not asked for in [`IDLE`] gives its place away.
    pub(super) fn of(&mut self, prefix: &str, charge: &Charge, now: i64) -> Arc<Account> {
        let budget = &charge.budget;
        let key = (Arc::clone(&budget.id), charge.scope.clone());
        if let Some((known, last)) = self.current.get_mut(&key)
            && known.is_of(budget, now)
        {
            *last = now;
            return Arc::clone(known);
        }
        let period = Period::of(budget, now);
        let is_new = !self.current.contains_key(&key);
        if is_new && self.is_full(&budget.id) {
            self.make_room(now);
            if self.is_full(&budget.id) {
                return Arc::new(Account::new(prefix, budget, &Scope::others(), period));
            }
        }
        let account = Arc::new(Account::new(prefix, budget, &charge.scope, period));
        self.current.insert(key, (Arc::clone(&account), now));
        if is_new {
            *self.of_budgets.entry(Arc::clone(&budget.id)).or_default() += 1;
        }
        account
    }

    fn is_full(&self, budget: &Arc<str>) -> bool {
        let of_one = self.of_budgets.get(budget).copied().unwrap_or_default();
        self.current.len() >= MAX_ACCOUNTS || of_one >= MAX_OF_ONE
    }

    /// Forgets accounts whose window is over, and those that nobody asks for: Redis keeps what they have used. Each second at
    /// most, for all of them are looked at.
    fn make_room(&mut self, now: i64) {
        if now.abs_diff(self.made_room) < LOOKS {
            return;
        }
        self.made_room = now;
        self.current
            .retain(|_, (it, last)| it.period.holds(now) && last.saturating_add(IDLE) > now);
        self.of_budgets.clear();
        for (budget, _) in self.current.keys() {
            *self.of_budgets.entry(Arc::clone(budget)).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use agentguard_model::budget::{Dimension, Unit, Window};

    use super::{Accounts, IDLE};
    use crate::charge::{Charge, Terms};
    use crate::embedded::MAX_OF_ONE;
    use crate::model::budget;
    use crate::scope::Scope;

    fn charge(id: &str, model: &str) -> Charge {
        Charge {
            budget: budget(id, Unit::Calls, 10, Window::Lifetime),
            scope: Scope::of([(&Dimension::Model, model)]),
            terms: Terms::default(),
            place: 0,
        }
    }

    #[test]
    fn names_of_one_budget_leave_room_for_others_and_give_it_away_when_nobody_asks() {
        let mut accounts = Accounts::default();
        let now = 1_795_860_000_000;
        let mut hash = |id: &str, model: &str, now: i64| {
            let account = accounts.of("a", &charge(id, model), now);
            account.hash.to_string()
        };
        let first = hash("one", "m-0", now);
        for number in 1..MAX_OF_ONE {
            let own = hash("one", &format!("m-{number}"), now);
            assert!(!own.contains("(others)"), "{own}");
        }
        assert!(hash("one", "more", now).contains("(others)"));
        assert_eq!(hash("one", "m-0", now), first);
        assert!(!hash("two", "more", now).contains("(others)"));
        let later = now + IDLE;
        assert_eq!(hash("one", "m-0", later - 1), first);
        assert!(!hash("one", "more", later).contains("(others)"));
        assert_eq!(hash("one", "m-0", later), first);
    }
}
