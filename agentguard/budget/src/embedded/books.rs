//! All accounts, and all that is held, in memory. What changes them is noted in the journal first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use agentguard_model::budget::{Budget, Reached};

use crate::charge::{self, Balance, Charge, Granted, HoldId, More, Short, Want};
use crate::embedded::FORGOTTEN;
use crate::embedded::account::{Account, Kept, Name};
use crate::embedded::journal::{Entry, Journal, Part};
use crate::embedded::store::Named;
use crate::forecast::Ended;
use crate::ledger::Refused;
use crate::period::Period;
use crate::scope::Scope;

/// The most accounts that are open at the same time. What would be one more is charged to one account for all others of
/// its budget: agents can name as many models as they like.
pub(crate) const MAX_ACCOUNTS: usize = 16_384;

/// The most that are open of one budget: who names what nobody has heard of takes no more than these.
pub(crate) const MAX_OF_ONE: usize = MAX_ACCOUNTS / 2;

/// Once so many are open, a budget opens no more that has [`FEW`].
const MANY: usize = MAX_ACCOUNTS / 4 * 3;

/// See [`MANY`].
const FEW: usize = 64;

/// The most numbers that are given before those are given again which the journal has for closed accounts: none reaches
/// that whose checkpoints can be made.
const MAX_NUMBERS: usize = MAX_ACCOUNTS * 4;

/// How often accounts are looked for that nothing was charged to, where there are too many: each second, in milliseconds.
const LOOKS: i64 = 1000;

/// What a call holds.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) parts: Vec<Part>,
    /// How many tokens it may write.
    tokens: u64,
    /// How many its provider may have written in all when this process dies, if that is more.
    owes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    /// By their numbers.
    accounts: Vec<Option<Account>>,
    /// The numbers that no account has, nor one that was closed since the journal began.
    free: Vec<u32>,
    /// Those of accounts that were closed since: the journal has them as those of the closed ones. The oldest first.
    freed: VecDeque<u32>,
    names: HashMap<Name, u32>,
    /// By budget and scope: what is charged now.
    current: HashMap<(Arc<str>, Scope), u32>,
    holds: HashMap<HoldId, Hold>,
    last: u64,
    counts: Counts,
    /// When accounts that nothing was charged to were looked for last.
    looked: i64,
}

/// How many accounts are open.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Of each budget that has any.
    each: HashMap<Arc<str>, usize>,
}

impl Counts {
    fn begins(&mut self, budget: &Arc<str>) {
        self.all += 1;
        *self.each.entry(Arc::clone(budget)).or_default() += 1;
    }

    fn ends(&mut self, budget: &Arc<str>) {
        self.all = self.all.saturating_sub(1);
        if let Some(count) = self.each.get_mut(budget) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.each.remove(budget);
            }
        }
    }
}

/// The account that a charge is for.
enum Place {
    Open(u32),
    /// It is opened once the call is charged: what is refused opens none. Boxed, since most are open.
    New(Box<Account>),
}

impl Books {
    /// Checks, notes and charges.
    pub(crate) fn reserve(
        &mut self,
        want: &Want,
        now: i64,
        (journal, generation): (&mut Journal, u64),
    ) -> Result<Granted, Refused> {
        // Before any is found: what is closed once it was found is neither asked nor charged.
        if want
            .charges
            .iter()
            .any(|charge| self.is_full(&charge.budget.id))
        {
            self.makes_room(now);
        }
        let mut places = Vec::with_capacity(want.charges.len());
        for charge in &want.charges {
            let place = self.place(charge, now);
            places.push(place);
        }
        let (room, over) = self.room(want, &places, now).map_err(Refused::Short)?;
        let numbers: Vec<u32> = places
            .into_iter()
            .zip(&want.charges)
            .map(|(place, charge)| self.charged(place, charge, (journal, generation)))
            .collect();
        let tokens = want.tokens.min(room);
        let parts: Vec<Part> = numbers
            .iter()
            .zip(&want.charges)
            .map(|(number, charge)| Part {
                account: *number,
                terms: charge.terms,
                place: charge.place,
                held: match charge.budget.unit.is_held() {
                    true => charge.terms.amount(tokens),
                    false => 0,
                },
            })
            .collect();
        self.last += 1;
        let id = HoldId(self.last);
        let held = parts.iter().map(|part| part.held).collect();
        let entry = Entry::Holds {
            id,
            at: now,
            parts,
            tokens,
        };
        let owes = charge::owes(tokens, want.most.min(room));
        let waiting = journal.waiting();
        journal.note(&entry);
        if owes > 0 {
            journal.note(&Entry::Owes { id, tokens: owes });
        }
        if let Err(error) = journal.write() {
            journal.forget(waiting);
            return Err(Refused::Unwritten(error));
        }
        if let Entry::Holds { parts, .. } = entry {
            self.hold(id, parts, tokens, now);
            self.owes(id, owes);
        }
        let deadlines = numbers.iter().zip(&want.charges);
        let deadlines = deadlines
            .filter_map(|(number, charge)| self.account(*number)?.deadline(&charge.budget));
        Ok(Granted {
            id,
            tokens,
            room,
            held,
            over,
            deadline: deadlines.min(),
        })
    }

    /// For how many tokens there is room in all accounts that limit, and which of the others have none.
    fn room(&self, want: &Want, places: &[Place], now: i64) -> Result<(u64, Vec<usize>), Short> {
        let mut over = Vec::new();
        let (mut room, mut narrowest) = (u64::MAX, 0);
        for (place, (at, charge)) in places.iter().zip(&want.charges).enumerate() {
            let Some(account) = self.at(at) else {
                continue;
            };
            let its = account.room(charge, now);
            if charge.budget.reached == Reached::Alert {
                if its.is_none_or(|its| its < want.tokens) {
                    over.push(place);
                }
                continue;
            }
            let Some(its) = its else {
                return Err(short(place, account, charge, want.least, now));
            };
            if its < room {
                (room, narrowest) = (its, place);
            }
        }
        if room < want.least.min(want.tokens)
            && let (Some(at), Some(charge)) = (places.get(narrowest), want.charges.get(narrowest))
            && let Some(account) = self.at(at)
        {
            return Err(short(narrowest, account, charge, want.least, now));
        }
        Ok((room, over))
    }

    /// Checks, notes and charges more. `budgets`: as they are now. What is short notes what may be written meanwhile.
    pub(crate) fn extend(
        &mut self,
        id: HoldId,
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
        journal: &mut Journal,
    ) -> Result<u64, Refused> {
        let hold = self.holds.get(&id).ok_or(Refused::Settled)?;
        let (had, owed) = (hold.tokens, hold.owes);
        let wanted = had.saturating_add(more.tokens);
        let mut total = wanted;
        let mut narrowest = None;
        for (place, (part, budget)) in hold.parts.iter().zip(budgets).enumerate() {
            let Some(account) = self.account(part.account) else {
                continue;
            };
            if budget.reached == Reached::Alert {
                continue;
            }
            let balance = account.balance(budget.limit, now);
            let its = match budget.unit.is_held() {
                true => {
                    // What it holds already is its own.
                    let own = balance.left_beside(part.held);
                    part.terms.tokens(own).unwrap_or(0)
                }
                false if account.is_over(budget, now) => 0,
                false => u64::MAX,
            };
            // Time that is over is what is told where there is nothing of several: it does not come back.
            if its < total || its == total && account.is_over(budget, now) {
                total = its;
                let resets = account.resets(budget, now);
                narrowest = Some((place, Balance { resets, ..balance }, part.terms));
            }
        }
        let waiting = journal.waiting();
        let short = match narrowest {
            Some((charge, balance, terms)) if total <= had && more.tokens > 0 => {
                let needed = terms.amount(had.saturating_add(1));
                Some(Short {
                    charge,
                    balance,
                    needed: needed.saturating_sub(terms.amount(had)),
                })
            }
            _ => None,
        };
        // Noted once, and not each time that it asks again.
        let owes = match (&short, more.most) {
            (_, None) => owed,
            (Some(_), Some(most)) => most,
            (None, Some(most)) => charge::owes(total, most),
        };
        if short.is_none() {
            journal.note(&Entry::Extends { id, tokens: total });
        }
        // Behind it: of what is written by half too much counts, and not too little.
        if owes != owed {
            journal.note(&Entry::Owes { id, tokens: owes });
        }
        if journal.waiting() > waiting
            && let Err(error) = journal.write()
        {
            journal.forget(waiting);
            return Err(Refused::Unwritten(error));
        }
        self.owes(id, owes);
        if let Some(short) = short {
            return Err(Refused::Short(short));
        }
        self.extended(id, total);
        Ok(total.saturating_sub(had))
    }

    /// Notes what calls may owe in a journal that does not have it: the database has only what they hold.
    pub(crate) fn owing(&self, journal: &mut Journal) {
        for (id, hold) in self.holds.iter().filter(|(_, hold)| hold.owes > 0) {
            let (id, tokens) = (*id, hold.owes);
            journal.note(&Entry::Owes { id, tokens });
        }
    }

    /// Notes and charges what was used. What cannot be written waits in the journal.
    pub(crate) fn settle(
        &mut self,
        id: HoldId,
        used: Option<&[u64]>,
        now: i64,
        journal: &mut Journal,
    ) {
        if !self.holds.contains_key(&id) {
            return;
        }
        journal.note(&Entry::Settles {
            id,
            at: now,
            used: used.map(<[u64]>::to_vec),
        });
        // With the next thing that can be written, otherwise: until then nothing more is let out.
        let _ = journal.write();
        self.settled(id, used, now);
    }

    /// Notes and charges what somebody says that an account has used. None of this name: nothing happens.
    pub(crate) fn set(
        &mut self,
        name: &Name,
        used: u64,
        now: i64,
        (journal, generation): (&mut Journal, u64),
    ) -> Result<bool, Refused> {
        let Some(account) = self.names.get(name).copied() else {
            return Ok(false);
        };
        self.opened(account, (journal, generation));
        let waiting = journal.waiting();
        let at = now;
        journal.note(&Entry::Sets { account, at, used });
        if let Err(error) = journal.write() {
            journal.forget(waiting);
            return Err(Refused::Unwritten(error));
        }
        self.sets(account, used, now);
        Ok(true)
    }

    /// The account that a charge is for.
    fn place(&mut self, charge: &Charge, now: i64) -> Place {
        let key = (Arc::clone(&charge.budget.id), charge.scope.clone());
        let is_it =
            |account: &Account| account.is_of(&charge.budget) && account.period().holds(now);
        let known = self.current.get(&key).copied();
        let known = known.filter(|number| self.account(*number).is_some_and(is_it));
        if let Some(number) = known {
            return Place::Open(number);
        }
        let period = Period::of(&charge.budget, now);
        let mut name = Account::name(&charge.budget, charge.scope.clone(), period);
        if let Some(number) = self.names.get(&name).copied() {
            self.current.insert(key, number);
            return Place::Open(number);
        }
        if self.is_full(&name.budget) {
            name.scope = Scope::others();
        }
        match self.names.get(&name) {
            Some(number) => Place::Open(*number),
            None => {
                let kept = Kept {
                    until: period.until,
                    ..Kept::default()
                };
                Place::New(Box::new(Account::new(name, kept)))
            }
        }
    }

    /// The number of the account that a charge is for, which is open then.
    fn charged(&mut self, place: Place, charge: &Charge, journal: (&mut Journal, u64)) -> u32 {
        let number = match place {
            Place::Open(number) => number,
            Place::New(account) => {
                let Account { name, kept, .. } = *account;
                let is_its_own = name.scope == charge.scope;
                let number = self.open(name, kept.until);
                if is_its_own {
                    let key = (Arc::clone(&charge.budget.id), charge.scope.clone());
                    self.current.insert(key, number);
                }
                number
            }
        };
        self.opened(number, journal);
        number
    }

    fn at<'a>(&'a self, place: &'a Place) -> Option<&'a Account> {
        match place {
            Place::Open(number) => self.account(*number),
            Place::New(account) => Some(account),
        }
    }

    /// Whether a budget opens no more accounts: what would be one more is charged to that for all others.
    fn is_full(&self, budget: &Arc<str>) -> bool {
        let (all, own) = (self.counts.all, self.counts.each.get(budget).copied());
        let own = own.unwrap_or_default();
        // Those whose windows are over are kept until the next checkpoint, and take memory until then.
        let most = self.names.len() >= MAX_NUMBERS;
        most || all >= MAX_ACCOUNTS || own >= MAX_OF_ONE || all >= MANY && own >= FEW
    }

    /// Closes accounts that nothing was charged to in the end: a model that no provider has costs nothing. Those whose
    /// windows are over are none that are open any more.
    fn makes_room(&mut self, now: i64) {
        if now.abs_diff(self.looked) < LOOKS.unsigned_abs() {
            return;
        }
        self.looked = now;
        for account in self.accounts.iter_mut().flatten() {
            let over = account.kept.until.is_some_and(|until| until <= now);
            if over && std::mem::take(&mut account.counted) {
                self.counts.ends(&account.name.budget);
            }
        }
        self.close(|account| account.is_blank());
    }

    /// Notes the number of an account in a journal that does not have it.
    fn opened(&mut self, number: u32, (journal, generation): (&mut Journal, u64)) {
        let Some(Some(account)) = self.accounts.get_mut(number as usize) else {
            return;
        };
        if account.opened_in != Some(generation) {
            account.opened_in = Some(generation);
            journal.note(&Entry::Opens {
                account: number,
                name: account.name.clone(),
                until: account.kept.until,
            });
        }
    }

    // What follows is what entries do, in this process and in the next one.

    /// The number of the account of this name, which is there then.
    pub(crate) fn open(&mut self, name: Name, until: Option<i64>) -> u32 {
        if let Some(number) = self.names.get(&name) {
            return *number;
        }
        let kept = Kept {
            until,
            ..Kept::default()
        };
        self.put(name, kept)
    }

    /// An account as it was left.
    pub(crate) fn put(&mut self, name: Name, kept: Kept) -> u32 {
        let account = Some(Account::new(name.clone(), kept));
        let free = match self.accounts.len() < MAX_NUMBERS {
            true => self.free.pop(),
            false => self.free.pop().or_else(|| self.freed.pop_front()),
        };
        let number = match free {
            Some(number) => number,
            None => {
                self.accounts.push(None);
                u32::try_from(self.accounts.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(place) = self.accounts.get_mut(number as usize) {
            *place = account;
        }
        self.counts.begins(&name.budget);
        self.names.insert(name, number);
        number
    }

    pub(crate) fn hold(&mut self, id: HoldId, parts: Vec<Part>, tokens: u64, now: i64) {
        for part in &parts {
            if let Some(Some(account)) = self.accounts.get_mut(part.account as usize) {
                account.begins(part.place, part.held, now);
            }
        }
        let owes = 0;
        let hold = Hold {
            parts,
            tokens,
            owes,
        };
        self.holds.insert(id, hold);
    }

    pub(crate) fn owes(&mut self, id: HoldId, tokens: u64) {
        if let Some(hold) = self.holds.get_mut(&id) {
            hold.owes = tokens;
        }
    }

    pub(crate) fn extended(&mut self, id: HoldId, tokens: u64) {
        let Some(hold) = self.holds.get_mut(&id) else {
            return;
        };
        hold.tokens = tokens;
        for part in &mut hold.parts {
            let Some(Some(account)) = self.accounts.get_mut(part.account as usize) else {
                continue;
            };
            if account.name.unit.is_held() {
                let held = part.terms.amount(tokens);
                account.goes_on(held.saturating_sub(part.held));
                part.held = part.held.max(held);
            }
        }
    }

    pub(crate) fn settled(&mut self, id: HoldId, used: Option<&[u64]>, now: i64) {
        let Some(hold) = self.holds.remove(&id) else {
            return;
        };
        for (place, part) in hold.parts.iter().enumerate() {
            if let Some(Some(account)) = self.accounts.get_mut(part.account as usize) {
                let used = used.and_then(|used| used.get(place).copied());
                let used = used.unwrap_or_else(|| match hold.owes {
                    0 => part.held,
                    owes => part.held.max(part.terms.amount(owes)),
                });
                account.ends(part.held, used, now);
            }
        }
    }

    pub(crate) fn sets(&mut self, account: u32, used: u64, now: i64) {
        if let Some(Some(account)) = self.accounts.get_mut(account as usize) {
            account.set(used, now);
        }
    }

    // What is kept.

    /// All that is held, by the names of the accounts.
    pub(crate) fn named(&self) -> Vec<Named<Part>> {
        let parts = |hold: &Hold| {
            let named = |part: &Part| Some((self.account(part.account)?.name.clone(), *part));
            hold.parts.iter().filter_map(named).collect()
        };
        let holds = self.holds.iter();
        holds
            .map(|(id, hold)| (*id, hold.tokens, parts(hold)))
            .collect()
    }

    /// Whether something is held under this number.
    pub(crate) fn holds(&self, id: HoldId) -> bool {
        self.holds.contains_key(&id)
    }

    /// The numbers of what is held.
    pub(crate) fn held(&self) -> Vec<HoldId> {
        self.holds.keys().copied().collect()
    }

    /// The accounts that changed since they were asked for last.
    pub(crate) fn changed(&mut self) -> Vec<(Name, Kept)> {
        let accounts = self.accounts.iter_mut().flatten();
        let changed = accounts.filter_map(|account| {
            let dirty = std::mem::take(&mut account.dirty);
            dirty.then(|| (account.name.clone(), account.kept.clone()))
        });
        changed.collect()
    }

    /// They could not be written.
    pub(crate) fn unwritten(&mut self, names: &[(Name, Kept)]) {
        for (name, _) in names {
            if let Some(number) = self.names.get(name)
                && let Some(Some(account)) = self.accounts.get_mut(*number as usize)
            {
                account.dirty = true;
            }
        }
    }

    /// Takes out accounts that are in the store as they are, and whose window is over, or that were not charged for long
    /// where it has no end.
    pub(crate) fn retire(&mut self, now: i64) -> Vec<(Name, Ended)> {
        let closed = self.close(|account| {
            let over = match account.kept.until {
                Some(until) => until <= now,
                None => account.kept.last.saturating_add(FORGOTTEN) < now,
            };
            over && !account.dirty
        });
        let ended = closed.into_iter().filter_map(|account| {
            let ended = account.ended()?;
            Some((account.name, ended))
        });
        ended.collect()
    }

    /// Takes out accounts of which nothing is held.
    fn close(&mut self, which: impl Fn(&Account) -> bool) -> Vec<Account> {
        let mut closed = Vec::new();
        let held: HashSet<u32> = self
            .holds
            .values()
            .flat_map(|hold| hold.parts.iter().map(|part| part.account))
            .collect();
        for (number, place) in (0_u32..).zip(&mut self.accounts) {
            if held.contains(&number) {
                continue;
            }
            let closes = |account: &mut Account| account.held == 0 && which(account);
            if let Some(account) = place.take_if(closes) {
                self.names.remove(&account.name);
                self.freed.push_back(number);
                if account.counted {
                    self.counts.ends(&account.name.budget);
                }
                closed.push(account);
            }
        }
        let (accounts, names) = (&self.accounts, &self.names);
        self.current.retain(|(budget, scope), number| {
            let account = accounts.get(*number as usize).and_then(Option::as_ref);
            account.is_some_and(|account| {
                account.name.budget == *budget
                    && account.name.scope == *scope
                    && names.get(&account.name) == Some(number)
            })
        });
        closed
    }

    /// Takes out accounts without an end that nobody has charged since, and that hold nothing.
    pub(crate) fn forget(&mut self, since: i64) -> Vec<Name> {
        let old = |account: &Account| {
            let endless = account.kept.until.is_none();
            endless && account.held == 0 && account.kept.last < since
        };
        let mut gone = Vec::new();
        for (number, place) in (0_u32..).zip(&mut self.accounts) {
            if let Some(account) = place.take_if(|account| old(account)) {
                self.names.remove(&account.name);
                self.freed.push_back(number);
                if account.counted {
                    self.counts.ends(&account.name.budget);
                }
                gone.push(account.name);
            }
        }
        gone
    }

    /// Another journal begins, which has no numbers yet.
    pub(crate) fn renumbers(&mut self) {
        self.free.extend(self.freed.drain(..));
    }

    /// The account of this name.
    pub(crate) fn named_so(&self, name: &Name) -> Option<&Account> {
        self.account(*self.names.get(name)?)
    }

    /// All accounts.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter().flatten()
    }

    /// How many numbers were given so far.
    #[cfg(test)]
    pub(crate) fn numbers(&self) -> usize {
        self.accounts.len()
    }

    fn account(&self, number: u32) -> Option<&Account> {
        self.accounts.get(number as usize)?.as_ref()
    }
}

fn short(place: usize, account: &Account, charge: &Charge, least: u64, now: i64) -> Short {
    Short {
        charge: place,
        balance: Balance {
            resets: account.resets(&charge.budget, now),
            ..account.balance(charge.budget.limit, now)
        },
        needed: match charge.budget.unit.is_held() {
            true => charge.terms.amount(least),
            false => 1,
        },
    }
}
