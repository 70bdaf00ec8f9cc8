//! What accounts are called where several hosts share them.

use std::collections::HashMap;
use std::sync::Arc;

use agentguard_model::budget::{Budget, Reached, Unit};
use serde::Deserialize as _;
use serde::de::value::StrDeserializer;

use crate::charge::Charge;
use crate::embedded::{FORGOTTEN, MAX_ACCOUNTS, State};
use crate::period::{self, Period};
use crate::scope::Scope;

/// Windows that ended so long ago are forgotten: two days, in milliseconds. Until then a call that began in one is settled
/// there, and a clock that went back finds it.
const ENDED: i64 = 2 * 86_400_000;
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
            _ => "h",
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
    /// By budget and scope.
    current: HashMap<(Arc<str>, Scope), Arc<Account>>,
}

impl Accounts {
    /// The account that a charge is for. Of more than [`MAX_ACCOUNTS`] that are open on this host, the rest is one for all
    /// others of its budget: agents can name as many models as they like, and Redis has to keep them.
    pub(super) fn of(&mut self, prefix: &str, charge: &Charge, now: i64) -> Arc<Account> {
        let budget = &charge.budget;
        let key = (Arc::clone(&budget.id), charge.scope.clone());
        if let Some(known) = self.current.get(&key)
            && known.is_of(budget, now)
        {
            return Arc::clone(known);
        }
        let period = Period::of(budget, now);
        if self.current.len() >= MAX_ACCOUNTS && !self.current.contains_key(&key) {
            self.current.retain(|_, it| it.period.holds(now));
            if self.current.len() >= MAX_ACCOUNTS {
                return Arc::new(Account::new(prefix, budget, &Scope::others(), period));
            }
        }
        let account = Arc::new(Account::new(prefix, budget, &charge.scope, period));
        self.current.insert(key, Arc::clone(&account));
        account
    }
}
