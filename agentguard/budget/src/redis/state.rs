//! What this host knows by itself: what its calls hold, what waits to be settled, and how it stands with Redis.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentguard_model::budget::{Budget, Reached, Unit};
use agentguard_model::ledger::OnLoss;
use jiff::Timestamp;
use tokio::sync::Notify;

use super::account::{AMOUNTS, Account, Accounts};
use super::lease::Leases;
use super::link::{Link, Lost};
use super::notes::Notes;
use super::script::{self, Held, Settlement, Spent};
use super::upkeep::batch;
use super::{MAX_WAITING, Names, Options};
use crate::charge::{self, Balance, Granted, HoldId, More, Short, Terms, Want};
use crate::ledger::Refused;

/// How it stands with the ledger that is shared.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// It is away: since when, in milliseconds of the Unix time, and why.
    pub away: Option<(i64, String)>,
    /// Calls that are over, and that it does not know of yet.
    pub waiting: usize,
    /// Those of which it never will: too many waited. They are charged in full.
    pub dropped: u64,
    /// Accounts of which something is drawn in advance.
    pub leased: usize,
    /// Calls that began, or went on, with what was drawn in advance.
    pub spent_away: u64,
}

/// What one account holds for a call.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) account: Arc<Account>,
    pub(super) terms: Terms,
    pub(super) held: u64,
    /// What of that comes from what was drawn in advance, and is not known to Redis.
    pub(super) leased: u64,
    /// What of it is charged with what was drawn in advance, should this process die: as [`Self::leased`], until that is given
    /// back.
    pub(super) covered: u64,
    /// When the account was charged first, as was known when the call began.
    pub(super) first: i64,
}

/// What a call holds.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) parts: Vec<Part>,
    pub(super) tokens: u64,
    /// How many its provider may have written in all when this host dies, if that is more.
    owes: u64,
    /// By which change it is something else than Redis knows; 0: by none.
    unknown: u64,
    /// What was noted last: what it owes, and of all its parts what they hold, and what of that is covered.
    noted: Option<[u64; 3]>,
}

/// What is to be drawn in advance: under which number, of which account, and how much.
#[derive(Debug)]
pub(super) struct Draw {
    pub(super) hold: u64,
    pub(super) account: Arc<Account>,
    pub(super) budget: Arc<Budget>,
    pub(super) chunk: u64,
    pub(super) now: i64,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) options: Options,
    pub(super) names: Names,
    state: Mutex<State>,
    /// There is something to be sent, or the connection was lost.
    pub(super) work: Notify,
}

#[derive(Debug, Default)]
struct State {
    accounts: Accounts,
    holds: HashMap<HoldId, Hold>,
    /// The number of the last hold.
    last: u64,
    /// That of the last settlement.
    sequence: u64,
    waits: VecDeque<Settlement>,
    link: Option<Arc<Link>>,
    moved: Option<String>,
    leases: Leases,
    /// Nothing is drawn any more.
    closing: bool,
    /// The latest time that was told.
    now: i64,
    standing: Standing,
    /// Where this process is to be outlived by what Redis does not know.
    notes: Option<Notes>,
    /// Whether something may be noted, or is to be told before anything is settled.
    is_noted: bool,
    /// How often what goes on has become something else than Redis knows, and how often when it was told last.
    changes: u64,
    told: u64,
    /// Of what other processes have left, how much could not be told, and why the rest is not.
    untold: (u64, Option<String>),
}

/// All that a call holds which is held, for [`script::renew`].
pub(super) fn held(id: HoldId, hold: &Hold) -> impl Iterator<Item = Held> {
    let held = move |(place, part): (usize, &Part)| Held {
        account: Arc::clone(&part.account),
        hold: id.0,
        place,
        amount: part.held,
        owes: script::amount(part.terms, hold.owes),
    };
    let parts = hold.parts.iter().enumerate();
    parts
        .filter(|(_, part)| part.account.unit.is_held())
        .map(held)
}

impl Hold {
    /// What is noted of it, so that nothing is noted twice.
    fn sum(&self) -> [u64; 3] {
        let sum = |of: fn(&Part) -> u64| self.parts.iter().map(of).fold(0, u64::saturating_add);
        [self.owes, sum(|it| it.held), sum(|it| it.covered)]
    }

    /// What it is charged with, should this process die.
    fn line(&self, id: HoldId, sequence: u64, at: i64) -> Settlement {
        let parts = self.parts.iter().map(|part| {
            let owes = match part.account.kind() {
                AMOUNTS => script::amount(part.terms, self.owes).max(part.held),
                _ => 0,
            };
            Spent {
                account: Arc::clone(&part.account),
                held: part.held,
                covered: part.covered,
                used: Some(owes),
            }
        });
        Settlement {
            sequence,
            hold: id.0,
            at,
            gives_back: false,
            parts: parts.collect(),
        }
    }

    fn new(parts: Vec<Part>, granted: &Granted, want: &Want) -> Self {
        let tokens = granted.tokens;
        Self {
            parts,
            tokens,
            owes: charge::owes(tokens, want.most.min(granted.room)),
            unknown: 0,
            noted: None,
        }
    }

    /// It may write so many tokens in all; `most`: as [`More::most`].
    fn grows(&mut self, total: u64, most: Option<u64>) {
        self.tokens = total;
        if let Some(most) = most {
            self.owes = charge::owes(total, most);
        }
    }
}

impl Inner {
    pub(super) fn new(options: Options, names: Names) -> Self {
        let state = State {
            standing: Standing {
                away: Some((now(), "it was not reached yet".to_owned())),
                ..Standing::default()
            },
            notes: options
                .notes
                .clone()
                .map(|directory| Notes::new(directory, &names.process, &options.prefix)),
            ..State::default()
        };
        Self {
            options,
            names,
            state: Mutex::new(state),
            work: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left halfway: what may panic comes before the first change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> Standing {
        let state = self.lock();
        Standing {
            waiting: state.waits.len(),
            leased: state.leases.drawn(),
            ..state.standing.clone()
        }
    }

    // What calls do.

    /// A number for a call, its accounts, and the connection, if there is one.
    pub(super) fn begins(
        &self,
        want: &Want,
        now: i64,
    ) -> (u64, Vec<Arc<Account>>, Option<Arc<Link>>) {
        let mut state = self.lock();
        state.now = state.now.max(now);
        state.last += 1;
        let prefix = &self.names.prefix;
        let charges = want.charges.iter();
        let accounts = charges.map(|charge| state.accounts.of(prefix, charge, now));
        let accounts = accounts.collect();
        (state.last, accounts, state.link.clone())
    }

    /// A call was let out.
    pub(super) fn holds(
        &self,
        mut parts: Vec<Part>,
        granted: &Granted,
        want: &Want,
        firsts: &[i64],
    ) {
        for (part, first) in parts.iter_mut().zip(firsts) {
            part.first = *first;
        }
        let mut state = self.lock();
        let mut wanted = false;
        let at = state.now;
        let charged = parts.iter().zip(&want.charges).zip(firsts);
        for ((part, charge), first) in charged {
            if let OnLoss::Lease(_) = self.options.on_loss.of(&charge.budget) {
                wanted |= state.leases.uses(&part.account, charge, *first, at);
            }
        }
        if wanted {
            self.work.notify_one();
        }
        let hold = Hold::new(parts, granted, want);
        state.holds.insert(granted.id, hold);
    }

    /// What a call holds, and the connection, if there is one. None: it was settled.
    pub(super) fn goes_on(&self, id: HoldId) -> Option<(Hold, Option<Arc<Link>>)> {
        let state = self.lock();
        let hold = state.holds.get(&id)?;
        Some((hold.clone(), state.link.clone()))
    }

    /// A call goes on that found nothing more, and waits.
    pub(super) fn waits(&self, id: HoldId, most: Option<u64>) {
        if let (Some(hold), Some(most)) = (self.lock().holds.get_mut(&id), most) {
            hold.owes = most;
        }
    }

    pub(super) fn extended(&self, id: HoldId, total: u64, most: Option<u64>) {
        if let Some(hold) = self.lock().holds.get_mut(&id) {
            hold.grows(total, most);
            for part in &mut hold.parts {
                if part.account.unit.is_held() {
                    part.held = part.held.max(script::amount(part.terms, total));
                }
            }
        }
    }

    /// A call is over.
    pub(super) fn settles(&self, id: HoldId, used: Option<&[u64]>, now: i64) {
        let mut state = self.lock();
        let Some(hold) = state.holds.remove(&id) else {
            return;
        };
        state.now = state.now.max(now);
        let used_of = |place: usize| used.and_then(|used| used.get(place).copied());
        let full = state.waits.len() >= MAX_WAITING;
        for (place, part) in hold.parts.iter().enumerate() {
            let used = used_of(place).unwrap_or(part.held);
            state.leases.settles(part, used, full);
        }
        if full {
            state.standing.dropped += 1;
            return;
        }
        let parts = hold.parts.iter().enumerate();
        let spent = parts.map(|(place, part)| Spent {
            account: Arc::clone(&part.account),
            held: part.held,
            covered: part.covered,
            used: used_of(place),
        });
        let spent = spent.collect();
        state.waits_for(id.0, now, spent);
        self.work.notify_one();
    }

    /// What may have been reserved for a call that does not begin.
    pub(super) fn gives_up(&self, hold: u64, accounts: &[Arc<Account>], now: i64) {
        let spent = accounts.iter().map(|account| Spent {
            account: Arc::clone(account),
            held: 0,
            covered: 0,
            used: Some(0),
        });
        let mut state = self.lock();
        if state.waits.len() < MAX_WAITING {
            let spent = spent.collect();
            state.waits_for(hold, now, spent);
        } else {
            state.standing.dropped += 1;
        }
        self.work.notify_one();
    }

    /// The connection.
    ///
    /// # Errors
    /// There is none: it is away.
    pub(super) fn link(&self) -> Result<Arc<Link>, Refused> {
        let state = self.lock();
        let why = || match &state.standing.away {
            Some((_, why)) => why.clone(),
            None => "it has just gone".to_owned(),
        };
        state.link.clone().ok_or_else(|| Refused::Away(why()))
    }

    // What calls do while Redis is away.

    /// As [`crate::Ledger::reserve`], with what was drawn in advance.
    pub(super) fn reserves_away(
        &self,
        want: &Want,
        accounts: &[Arc<Account>],
        now: i64,
    ) -> Result<Granted, Refused> {
        let mut state = self.lock();
        let why = self.may_spend(&state, want.charges.iter().map(|it| &it.budget))?;
        let mut room = u64::MAX;
        for (account, charge) in accounts.iter().zip(&want.charges) {
            if charge.budget.reached == Reached::Alert {
                continue;
            }
            let its = state.leases.room(account, charge, now);
            let its = its.ok_or_else(|| used_up(&why))?;
            room = room.min(its);
        }
        if room < want.least.min(want.tokens) {
            return Err(used_up(&why));
        }
        let tokens = want.tokens.min(room);
        let mut parts = super::parts(want, accounts, tokens);
        let mut firsts = Vec::new();
        for (part, charge) in parts.iter_mut().zip(&want.charges) {
            part.first = state.leases.first(&part.account).unwrap_or(now);
            firsts.push(part.first);
            if charge.budget.reached.limits() {
                (part.leased, part.covered) = (part.held, part.held);
                state.leases.takes(&part.account, part.held);
            }
        }
        state.last += 1;
        state.standing.spent_away += 1;
        let id = HoldId(state.last);
        let granted = Granted {
            id,
            tokens,
            room,
            held: parts.iter().map(|part| part.held).collect(),
            over: Vec::new(),
            deadline: super::deadline(&want.charges, &firsts),
        };
        state.holds.insert(id, Hold::new(parts, &granted, want));
        state.notes_hold(id);
        self.work.notify_one();
        Ok(granted)
    }

    /// As [`crate::Ledger::extend`], with what was drawn in advance. What it may owe from now on is noted: Redis cannot be
    /// told.
    pub(super) fn extends_away(
        &self,
        id: HoldId,
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<u64, Refused> {
        let mut state = self.lock();
        let got = self.goes_on_away(&mut state, id, more, budgets, now);
        if let (Err(Refused::Away(_) | Refused::LeaseSpent(_)), Some(most)) = (&got, more.most)
            && let Some(hold) = state.holds.get_mut(&id)
        {
            hold.owes = most;
        }
        state.notes_hold(id);
        self.work.notify_one();
        got
    }

    fn goes_on_away(
        &self,
        state: &mut State,
        id: HoldId,
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<u64, Refused> {
        let why = self.may_spend(state, budgets)?;
        let hold = state.holds.get_mut(&id).ok_or(Refused::Settled)?;
        let mut total = hold.tokens.saturating_add(more.tokens);
        for (place, (part, budget)) in hold.parts.iter().zip(budgets).enumerate() {
            // Time passes here as well, also where nothing is drawn of the account any more.
            let first = state.leases.first(&part.account).filter(|it| *it > 0);
            let first = first.unwrap_or(part.first);
            let elapsed = now.saturating_sub(first).max(0).unsigned_abs();
            let is_time = budget.reached.limits() && budget.unit == Unit::WallTime;
            if is_time && elapsed >= budget.limit {
                return Err(Refused::Short(Short {
                    charge: place,
                    balance: Balance {
                        limit: budget.limit,
                        used: elapsed,
                        held: 0,
                        resets: part.account.period.until,
                    },
                    needed: 1,
                }));
            }
            if budget.reached.limits() && budget.unit.is_held() {
                let left = state.leases.left(&part.account).unwrap_or(0);
                let its = part.terms.tokens(part.held.saturating_add(left));
                total = total.min(its.unwrap_or(0));
            }
        }
        if total <= hold.tokens && more.tokens > 0 {
            return Err(used_up(&why));
        }
        let granted = total.saturating_sub(hold.tokens);
        hold.grows(hold.tokens.max(total), more.most);
        for (part, budget) in hold.parts.iter_mut().zip(budgets) {
            if !part.account.unit.is_held() {
                continue;
            }
            let held = script::amount(part.terms, total).max(part.held);
            if budget.reached.limits() {
                state.leases.takes(&part.account, held - part.held);
                part.leased += held - part.held;
                part.covered += held - part.held;
            }
            part.held = held;
        }
        state.standing.spent_away += 1;
        Ok(granted)
    }

    /// Whether a call that these count may go on while it is away, and why it is.
    fn may_spend<'a>(
        &self,
        state: &State,
        budgets: impl IntoIterator<Item = &'a Arc<Budget>>,
    ) -> Result<String, Refused> {
        let why = match &state.standing.away {
            Some((_, why)) => why.clone(),
            // It came back in this moment.
            None => "it has just come back".to_owned(),
        };
        let mut budgets = budgets.into_iter();
        match budgets.any(|it| self.options.on_loss.of(it) == OnLoss::Deny) {
            true => Err(Refused::Away(why)),
            false => Ok(why),
        }
    }

    // What upkeep does.

    /// A connection is there: what is drawn in advance is given back, and what was spent of it is held, or settled, by
    /// Redis itself from now on.
    pub(super) fn comes_back(&self, link: &Arc<Link>) {
        let mut state = self.lock();
        state.link = Some(Arc::clone(link));
        state.standing.away = None;
        state.gives_back();
        for hold in state.holds.values_mut() {
            for part in &mut hold.parts {
                part.leased = 0;
            }
        }
    }

    /// Whether something goes on otherwise than Redis knows, so that it is told before anything is settled.
    pub(super) fn has_untold(&self) -> bool {
        self.lock().is_noted
    }

    /// All that goes on was told, and all that was over settled: it knows what it did not while it was away.
    pub(super) fn knows_all(&self, link: &Link) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.uses(link) || !state.is_noted {
            return;
        }
        for hold in state.holds.values_mut() {
            if hold.unknown <= state.told {
                (hold.unknown, hold.noted) = (0, None);
            }
        }
        // Something has changed meanwhile: once more.
        if state.changes > state.told {
            self.work.notify_one();
            return;
        }
        state.is_noted = false;
        if let Some(notes) = &mut state.notes {
            notes.forget();
        }
    }

    /// The connection is no good any more.
    pub(super) fn lost(&self, link: &Link, lost: &Lost) {
        let mut state = self.lock();
        if state.uses(link) {
            state.link = None;
            state.away(lost);
            state.notes_all();
        }
        self.work.notify_one();
    }

    /// There is none.
    pub(super) fn stays_away(&self, lost: &Lost) {
        let mut state = self.lock();
        state.away(lost);
        if state.notes.as_ref().is_some_and(Notes::is_due) {
            state.notes_all();
        }
    }

    /// Whether a connection is still the one that calls use.
    pub(super) fn is_used(&self, link: &Link) -> bool {
        self.lock().uses(link)
    }

    /// Of what another process has left, so many notes could not be told.
    pub(super) fn leaves(&self, untold: u64) {
        let (all, _) = &mut self.lock().untold;
        *all = all.saturating_add(untold);
    }

    /// Why what others have left is not told, if it is not.
    pub(super) fn reads(&self, failed: Option<String>) {
        self.lock().untold.1 = failed;
    }

    /// What is wrong, though calls go on: a sentence each.
    pub(super) fn troubles(&self) -> Vec<String> {
        let state = self.lock();
        let failed = state.notes.as_ref().and_then(Notes::failed);
        let failed = failed.map(|why| {
            format!(
                "what the Redis that is away has to know is not noted: {why}. Should this process die before it is back, \
                 calls are charged there as they were reserved. Look whether `state_dir` is full (df)"
            )
        });
        let (untold, unread) = &state.untold;
        let untold = (*untold > 0).then(|| {
            format!(
                "{untold} notes of earlier processes for Redis could not be read, or are older than what it remembers: what \
                 these calls held is charged there as it was reserved"
            )
        });
        let unread = unread.as_ref().map(|why| {
            format!("what an earlier process has noted for Redis cannot be told: {why}; it is tried again")
        });
        [failed, untold, unread].into_iter().flatten().collect()
    }

    /// Where the cluster says that the keys are, told once.
    pub(super) fn moved(&self) -> Option<String> {
        self.lock().moved.take()
    }

    /// All that is held, also in advance, and at what time.
    pub(super) fn held(&self) -> (Vec<Held>, i64) {
        let mut state = self.lock();
        state.told = state.changes;
        let holds = state.holds.iter();
        let mut all: Vec<Held> = holds.flat_map(|(id, hold)| held(*id, hold)).collect();
        all.extend(state.leases.held());
        (all, state.now)
    }

    /// The next settlements, as many as one command takes, and at what time.
    /// None where the connection is lost: what is noted since then is told by the next, in its order.
    pub(super) fn unsettled(&self, link: &Link) -> (Vec<Settlement>, i64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.uses(link) {
            return (Vec::new(), state.now);
        }
        let next = state.waits.iter().take(batch(&state.waits));
        let next: Vec<_> = next.cloned().collect();
        let given = next.iter().filter(|it| it.gives_back);
        let given = given.flat_map(|it| &it.parts);
        let given: HashSet<_> = given.map(|it| Arc::clone(&it.account.hash)).collect();
        if !given.is_empty() {
            state.uncovers(&given);
        }
        (next, state.now)
    }

    /// They were taken, up to this one.
    pub(super) fn settled(&self, sequence: u64) {
        let mut state = self.lock();
        while state
            .waits
            .front()
            .is_some_and(|it| it.sequence <= sequence)
        {
            state.waits.pop_front();
        }
    }

    /// What is to be drawn in advance next.
    pub(super) fn draws(&self) -> Option<Draw> {
        let mut state = self.lock();
        if state.closing {
            return None;
        }
        let (account, budget, percent) = loop {
            let (account, budget) = state.leases.wanted()?;
            // A new policy may have it otherwise.
            if let OnLoss::Lease(percent) = self.options.on_loss.of(&budget) {
                break (account, budget, percent);
            }
        };
        let hundredth = u128::from(budget.limit) * u128::from(percent) / 100;
        let chunk = u64::try_from(hundredth).unwrap_or(u64::MAX).max(1);
        state.last += 1;
        Some(Draw {
            hold: state.last,
            account,
            budget,
            chunk,
            now: state.now,
        })
    }

    /// So much was drawn.
    pub(super) fn drawn(&self, hold: u64, account: &Arc<Account>, amount: u64) {
        self.lock().leases.draws(account, hold, amount);
    }

    /// Gives back what was drawn of accounts that are not used any more, or whose window is over.
    pub(super) fn gives_back_old(&self) {
        let mut state = self.lock();
        let now = state.now;
        for given in state.leases.forgets(now) {
            state.gives(given);
        }
    }

    #[cfg(test)]
    pub(super) fn leases_know(&self, account: &Account) -> bool {
        self.lock().leases.first(account).is_some()
    }

    /// Too little is left of an account: what this host has drawn of it in advance is given back, so that a call that asks
    /// again in a moment finds it.
    pub(super) fn yields(&self, account: &Account) {
        let mut state = self.lock();
        if state.link.is_some()
            && let Some(given) = state.leases.yields(account)
        {
            state.gives(given);
            self.work.notify_one();
        }
    }

    /// Gives back all that was drawn, and draws nothing any more.
    pub(super) fn closes(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.gives_back();
        self.work.notify_one();
    }
}

impl State {
    fn away(&mut self, lost: &Lost) {
        let since = self.standing.away.take().map_or_else(now, |it| it.0);
        self.standing.away = Some((since, lost.to_string()));
        if let Lost::Moved(address) = lost {
            self.moved = Some(address.clone());
        }
    }

    fn waits_for(&mut self, hold: u64, at: i64, parts: Vec<Spent>) {
        self.sequence += 1;
        let settlement = Settlement {
            sequence: self.sequence,
            hold,
            at,
            gives_back: false,
            parts,
        };
        let notes = self.link.is_none();
        self.waits.push_back(settlement);
        if notes {
            self.notes_last();
        }
    }

    fn uses(&self, link: &Link) -> bool {
        let used = self.link.as_ref().map(|it| it.generation);
        used == Some(link.generation)
    }

    /// Notes what waits last.
    fn notes_last(&mut self) {
        self.is_noted = true;
        let (Some(notes), Some(last)) = (&mut self.notes, self.waits.back()) else {
            return;
        };
        if !notes.add(last) {
            self.notes_all();
        }
    }

    /// Notes what a call is that goes on, or waits, while Redis cannot be told.
    fn notes_hold(&mut self, id: HoldId) {
        let Some(hold) = self.holds.get_mut(&id) else {
            return;
        };
        self.changes += 1;
        (hold.unknown, self.is_noted) = (self.changes, true);
        // It has just come back, and is told.
        if self.link.is_some() || hold.noted == Some(hold.sum()) {
            return;
        }
        self.sequence += 1;
        let line = hold.line(id, self.sequence, self.now);
        let Some(notes) = &mut self.notes else { return };
        if !notes.add(&line) {
            self.notes_all();
        } else if notes.failed().is_none() {
            hold.noted = Some(hold.sum());
        }
    }

    /// Notes all that Redis may not know, and nothing else.
    fn notes_all(&mut self) {
        let Some(notes) = &mut self.notes else { return };
        let mut lines = Vec::new();
        for (id, hold) in &mut self.holds {
            if hold.unknown > 0 {
                self.sequence += 1;
                lines.push(hold.line(*id, self.sequence, self.now));
                hold.noted = Some(hold.sum());
            }
        }
        // What was drawn in advance is charged in full, and not given back.
        let over = self.waits.iter().filter(|it| !it.gives_back);
        let all: Vec<_> = over.chain(&lines).collect();
        if all.is_empty() {
            notes.forget();
            return;
        }
        self.is_noted = true;
        notes.rewrite(all);
        if notes.failed().is_some() {
            self.holds.values_mut().for_each(|hold| hold.noted = None);
        }
    }

    /// What was drawn in advance of these accounts is given back: from now on it covers nothing. Should that not arrive, it is
    /// charged beside what was spent of it, and not neither.
    fn uncovers(&mut self, given: &HashSet<Arc<str>>) {
        let holds = self.holds.values_mut().flat_map(|it| &mut it.parts);
        for part in holds.filter(|it| given.contains(&it.account.hash)) {
            part.covered = 0;
        }
        let over = self.waits.iter_mut().flat_map(|it| &mut it.parts);
        for spent in over.filter(|it| given.contains(&it.account.hash)) {
            spent.covered = 0;
        }
    }

    fn gives_back(&mut self) {
        for given in self.leases.gives_back() {
            self.gives(given);
        }
    }

    /// What was drawn in advance is given back.
    fn gives(&mut self, (hold, spent): (u64, Spent)) {
        self.sequence += 1;
        self.waits.push_back(Settlement {
            sequence: self.sequence,
            hold,
            at: self.now,
            gives_back: true,
            parts: vec![spent],
        });
    }
}

fn used_up(why: &str) -> Refused {
    Refused::LeaseSpent(why.to_owned())
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}
