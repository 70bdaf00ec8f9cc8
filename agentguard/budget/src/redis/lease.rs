//! What was drawn in advance, for the time when Redis is away.
//!
//! A lease is a hold of one account that no call has: others cannot spend it, and it is charged in full if this host dies.
//! While Redis is there nothing of it is spent. When it comes back, what was spent is settled and what is under way is held
//! there, and only then the lease is given back as a whole: for a moment both count, and at no moment neither.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use agentguard_model::budget::{Budget, Reached, Unit};

use super::account::Account;
use super::script::{Held, Spent};
use super::state::Part;
use crate::charge::Charge;

/// Accounts that have one, at most: of others nothing can be spent while Redis is away.
const MAX_LEASES: usize = 1024;
/// Places of one account that are known here, at most.
const MAX_PLACES: usize = 1024;
/// What was not charged for so long is given back, in milliseconds.
const IDLE: i64 = 600_000;

#[derive(Debug)]
struct Lease {
    account: Arc<Account>,
    budget: Arc<Budget>,
    /// Under which number, once it is drawn.
    hold: Option<u64>,
    /// How much was drawn.
    amount: u64,
    /// How much of it was taken since.
    taken: u64,
    /// Something that was spent of it will never be settled.
    spoiled: bool,
    /// Whether it is to be drawn.
    wanted: bool,
    /// When the account was charged first.
    first: i64,
    /// When it was charged last by this host.
    last: i64,
    /// Places that are known to count already.
    places: HashSet<u64>,
}

/// By the accounts' keys.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<Arc<str>, Lease>);

impl Leases {
    /// Redis has charged an account. Whether something is to be drawn.
    pub(super) fn uses(
        &mut self,
        account: &Arc<Account>,
        charge: &Charge,
        first: i64,
        now: i64,
    ) -> bool {
        if charge.budget.reached == Reached::Alert {
            return false;
        }
        let full = self.0.len() >= MAX_LEASES;
        if full && !self.0.contains_key(&account.hash) {
            return false;
        }
        let lease = self.0.entry(Arc::clone(&account.hash));
        let lease = lease.or_insert_with(|| Lease {
            account: Arc::clone(account),
            budget: Arc::clone(&charge.budget),
            hold: None,
            amount: 0,
            taken: 0,
            spoiled: false,
            wanted: account.unit.is_held(),
            first,
            last: now,
            places: HashSet::new(),
        });
        lease.last = lease.last.max(now);
        lease.first = first;
        if account.unit == Unit::Destinations && lease.places.len() < MAX_PLACES {
            lease.places.insert(charge.place);
        }
        if !Arc::ptr_eq(&lease.budget, &charge.budget) {
            lease.budget = Arc::clone(&charge.budget);
        }
        lease.wanted
    }

    /// One that is to be drawn, told once until the next [`Self::forgets`].
    pub(super) fn wanted(&mut self) -> Option<(Arc<Account>, Arc<Budget>)> {
        let lease = self.0.values_mut().find(|lease| lease.wanted)?;
        lease.wanted = false;
        Some((Arc::clone(&lease.account), Arc::clone(&lease.budget)))
    }

    /// So much was drawn.
    pub(super) fn draws(&mut self, account: &Account, hold: u64, amount: u64) {
        if let Some(lease) = self.0.get_mut(&account.hash) {
            (lease.hold, lease.amount, lease.taken) = (Some(hold), amount, 0);
        }
    }

    /// For how many tokens there is room. None: nothing is known of the account here, or not even the first fits.
    pub(super) fn room(&self, account: &Account, charge: &Charge, now: i64) -> Option<u64> {
        let lease = self.0.get(&account.hash)?;
        let limit = charge.budget.limit;
        match account.unit {
            Unit::WallTime => {
                let elapsed = u64::try_from(now.saturating_sub(lease.first)).unwrap_or(0);
                (elapsed < limit).then_some(u64::MAX)
            }
            Unit::Destinations => lease.places.contains(&charge.place).then_some(u64::MAX),
            _ => charge.terms.tokens(self.left(account)?),
        }
    }

    /// What is left of what was drawn of an account.
    pub(super) fn left(&self, account: &Account) -> Option<u64> {
        let lease = self.0.get(&account.hash)?;
        Some(lease.amount.saturating_sub(lease.taken))
    }

    pub(super) fn first(&self, account: &Account) -> Option<i64> {
        self.0.get(&account.hash).map(|lease| lease.first)
    }

    /// A call takes so much.
    pub(super) fn takes(&mut self, account: &Account, amount: u64) {
        if let Some(lease) = self.0.get_mut(&account.hash) {
            lease.taken = lease.taken.saturating_add(amount);
        }
    }

    /// A call that took something is over and has used so much in all. `lost`: it will not be settled.
    pub(super) fn settles(&mut self, part: &Part, used: u64, lost: bool) {
        let Some(lease) = self.0.get_mut(&part.account.hash) else {
            return;
        };
        if part.leased == 0 {
            return;
        }
        let spent = match part.account.unit {
            Unit::ConcurrentCalls => 0,
            _ => used.saturating_sub(part.held.saturating_sub(part.leased)),
        };
        let others = lease.taken.saturating_sub(part.leased);
        lease.taken = others.saturating_add(spent);
        lease.spoiled |= lost;
    }

    /// All that was drawn, for it to be renewed.
    pub(super) fn held(&self) -> impl Iterator<Item = Held> {
        self.0.values().filter_map(|lease| {
            Some(Held {
                account: Arc::clone(&lease.account),
                hold: lease.hold?,
                place: 0,
                amount: lease.amount,
                owes: 0,
            })
        })
    }

    /// How many there are.
    pub(super) fn drawn(&self) -> usize {
        let drawn = self.0.values().filter(|lease| lease.amount > 0);
        drawn.count()
    }

    /// Gives all back. They are drawn anew for accounts that are charged again.
    pub(super) fn gives_back(&mut self) -> Vec<(u64, Spent)> {
        self.0.values_mut().filter_map(Lease::gives_back).collect()
    }

    /// Gives back that of an account in which too little is left: this host's own calls come before what it may need later.
    /// It is not drawn anew before the next [`Self::forgets`].
    pub(super) fn yields(&mut self, account: &Account) -> Option<(u64, Spent)> {
        let lease = self.0.get_mut(&account.hash)?;
        let given = lease.gives_back();
        lease.wanted = false;
        given
    }

    /// Gives back those that are not used any more, or whose window is over.
    pub(super) fn forgets(&mut self, now: i64) -> Vec<(u64, Spent)> {
        let mut given = Vec::new();
        self.0.retain(|_, lease| {
            let used = lease.last.saturating_add(IDLE) > now && lease.account.period.holds(now);
            match used {
                // Where there was nothing left there may be now.
                true => lease.wanted |= lease.amount == 0 && lease.account.unit.is_held(),
                false => given.extend(lease.gives_back()),
            }
            used
        });
        given
    }
}

impl Lease {
    fn gives_back(&mut self) -> Option<(u64, Spent)> {
        let spent = Spent {
            account: Arc::clone(&self.account),
            held: self.amount,
            covered: 0,
            used: (!self.spoiled).then_some(0),
        };
        let hold = self.hold.take();
        (self.amount, self.taken, self.spoiled) = (0, 0, false);
        self.wanted = self.account.unit.is_held();
        Some((hold?, spent))
    }
}
