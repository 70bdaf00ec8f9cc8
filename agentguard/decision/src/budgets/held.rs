//! What a call holds of its budgets, until it is over.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use agentguard_budget::prices::{Caches, Rate, Served};
use agentguard_budget::tokens::Counter;
use agentguard_budget::{
    Charge, Estimate, Granted, HoldId, Ledger, More, Refused, UNSEEN, Want, used,
};
use agentguard_model::budget::{Budget, Unit};
use agentguard_model::{BudgetLine, OvershootCause, Usage};
use jiff::Timestamp;

use super::bytes::{Grant, Passing, Way};
use super::counted::is_of_input;
use super::{Asks, FIRST, Level, SLICE, line};

/// Of how many equal calls what is left has room for one part each.
const SHARE: u64 = 16;

/// For how long a provider is taken to write on at its pace, behind what was read last, before it has noticed that nobody
/// reads any more.
const UNNOTICED: Duration = Duration::from_secs(1);

/// What a call has used.
#[derive(Clone, Copy, Debug)]
pub enum Used<'a> {
    /// This much, as its provider says.
    Reported(&'a Usage),
    /// This much at least: it broke off behind that, or has no end.
    Broken(&'a Usage),
    /// All that it may write, of which its client has seen nothing.
    Whole,
    /// Nothing of what is counted in tokens: its provider refused it.
    Nothing,
    /// Nobody knows.
    Unknown,
}

/// What a call costs.
#[derive(Clone, Debug)]
pub(super) struct Pricing {
    pub(super) rate: Rate,
    pub(super) served: Served,
    pub(super) caches: Caches,
    /// The model whose price it is, or that it is none's.
    pub(super) of: String,
}

impl Pricing {
    /// What a use costs, in millionths of a dollar.
    fn cost(&self, usage: &Usage) -> u64 {
        self.rate.cost(usage, self.served, self.caches).0
    }
}

/// What a call holds of its budgets. It is settled once: by who knows what it has used, else when it is dropped. Until
/// [`Self::leaves`] it has used nothing then, and everything after that.
pub struct Held {
    ledger: Arc<dyn Ledger>,
    id: HoldId,
    want: Want,
    /// What each account holds.
    amounts: Mutex<Vec<u64>>,
    /// How many tokens it may write until more are asked for.
    tokens: AtomicU64,
    /// How many it was seen to write, where that is counted, and since when.
    seen: AtomicU64,
    /// How many of them its model's own tokenizer has counted.
    sure: AtomicU64,
    since: OnceLock<Instant>,
    /// How long it was seen to write, in milliseconds.
    lasted: AtomicU64,
    /// Whether it broke off: what was seen later is of what its provider wrote on.
    broke: AtomicBool,
    /// Whether what was written behind its end could not be looked at.
    unseen: AtomicBool,
    /// Whether nobody will look at what has come.
    unread: AtomicBool,
    /// Whether it has found nothing more, so that its provider writes on and nobody looks.
    waits: AtomicBool,
    /// For how many there was room when it began.
    room: u64,
    /// When it has to end by the clock, in milliseconds of the Unix time, as far as was known when it began.
    deadline: Option<i64>,
    /// The charges that have more than their budgets allow, which only tell of it.
    over: Vec<usize>,
    estimate: Option<Estimate>,
    /// What the call's limit of output is to be lowered to, of all answers together.
    clamp: Option<u64>,
    /// Of a call of a language model.
    pricing: Option<Pricing>,
    /// Of others whose answer it may be.
    also: Mutex<Vec<Pricing>>,
    /// Whether its provider bills what it filters.
    bills_filtered: bool,
    /// The accounts of which its answer tells how much is left.
    told: Vec<Arc<Level>>,
    /// What it carries, where budgets count that.
    passing: Option<Arc<Passing>>,
    left: AtomicBool,
    settled: OnceLock<Vec<BudgetLine>>,
}

impl Held {
    pub(super) fn new(
        ledger: &Arc<dyn Ledger>,
        want: Want,
        granted: Granted,
        asks: Option<Asks>,
    ) -> Self {
        let bills_filtered = asks.as_ref().is_some_and(|it| it.bills_filtered);
        let (estimate, pricing) = asks.map(|it| (it.estimate, it.pricing)).unzip();
        // What other calls hold may come back, and what they use does not: a part that is granted is no promise of more.
        let clamp = estimate.and_then(|estimate| {
            let tokens = match estimate.visible {
                true => granted.room,
                false => granted.tokens,
            };
            (tokens < estimate.output).then_some(tokens)
        });
        Self {
            ledger: Arc::clone(ledger),
            id: granted.id,
            want,
            amounts: Mutex::new(granted.held),
            tokens: AtomicU64::new(granted.tokens),
            seen: AtomicU64::new(0),
            sure: AtomicU64::new(0),
            since: OnceLock::new(),
            lasted: AtomicU64::new(0),
            broke: AtomicBool::new(false),
            unseen: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            room: granted.room,
            deadline: granted.deadline,
            over: granted.over,
            estimate,
            clamp,
            pricing,
            also: Mutex::default(),
            bills_filtered,
            told: Vec::new(),
            passing: None,
            left: AtomicBool::new(false),
            settled: OnceLock::new(),
        }
    }

    /// What the call's own limit of output has to be lowered to, of all answers together. None: it may stay.
    #[must_use]
    pub const fn clamp(&self) -> Option<u64> {
        self.clamp
    }

    /// The same, of whose answer these accounts are told.
    pub(super) fn telling(mut self, told: Vec<Arc<Level>>) -> Self {
        self.told = told;
        self
    }

    /// The same, which carries this.
    pub(super) fn carrying(mut self, passing: Option<Passing>) -> Self {
        self.passing = passing.map(Arc::new);
        self
    }

    /// What it carries, where budgets count that.
    #[must_use]
    pub const fn passing(&self) -> Option<&Arc<Passing>> {
        self.passing.as_ref()
    }

    /// What it carries one way, where budgets count that.
    #[must_use]
    pub fn grant(&self, way: Way) -> Option<&Arc<Grant>> {
        self.passing.as_ref()?.grant(way)
    }

    /// The accounts of which its answer tells how much is left.
    #[must_use]
    pub fn told(&self) -> &[Arc<Level>] {
        &self.told
    }

    /// The call leaves: from now on it may be billed.
    pub fn leaves(&self) {
        self.left.store(true, Ordering::Release);
        if let Some(passing) = &self.passing {
            passing.leaves();
        }
    }

    /// Whether it matters how many tokens its provider reports.
    #[must_use]
    pub fn is_of_tokens(&self) -> bool {
        let mut units = self.want.charges.iter().map(|it| it.budget.unit);
        units.any(|unit| {
            matches!(
                unit,
                Unit::Tokens
                    | Unit::InputTokens
                    | Unit::OutputTokens
                    | Unit::CachedTokens
                    | Unit::ReasoningTokens
                    | Unit::MicroUsd
            )
        })
    }

    /// Whether what it writes has to be counted, since only a part of it is reserved.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.estimate.is_some_and(|it| it.visible)
    }

    /// Whether it asks for one answer, so that all is over once that is.
    #[must_use]
    pub fn is_of_one_answer(&self) -> bool {
        self.estimate.is_some_and(|it| it.answers == 1)
    }

    /// The most that it may write, of all answers together.
    #[must_use]
    pub fn limit(&self) -> u64 {
        let Some(estimate) = &self.estimate else {
            return 0;
        };
        self.clamp.unwrap_or(estimate.output)
    }

    /// How much that was before anything was lowered.
    pub(super) fn whole(&self) -> u64 {
        self.estimate.map_or(0, |it| it.output)
    }

    /// Whether there is too little for a call that has written so many tokens to go on for long.
    #[must_use]
    pub fn runs_out(&self, written: u64) -> bool {
        let granted = self.tokens();
        granted < self.limit().max(written) && written.saturating_add(self.slice() / 2) > granted
    }

    /// How many tokens are reserved at a time: fewer where little was left when it began, so that several can go on.
    fn slice(&self) -> u64 {
        (self.room / SHARE).clamp(FIRST, SLICE)
    }

    /// Whether all that it may write is reserved, so that its provider ends it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.tokens() >= self.limit()
    }

    /// How many tokens it may write.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Acquire)
    }

    /// It was seen to have written so many tokens, of which so many are sure: its model's own tokenizer has counted them.
    pub fn saw(&self, tokens: u64, sure: u64) {
        let lasted = self.since.get_or_init(Instant::now).elapsed().as_millis();
        let lasted = u64::try_from(lasted).unwrap_or(u64::MAX);
        self.lasted.fetch_max(lasted, Ordering::AcqRel);
        self.sure.fetch_max(sure, Ordering::AcqRel);
        self.seen.fetch_max(tokens, Ordering::AcqRel);
    }

    /// How many tokens it was seen to have written, where these are counted.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Whether its provider may have counted this: no less than half of what is sure, since the two may differ a little, and
    /// what is billed may be less than what is shown. What lacks the number is not contradicted.
    #[must_use]
    pub fn may_be(&self, reported: &Usage) -> bool {
        let surely = self.sure.load(Ordering::Acquire);
        reported.output_tokens.is_none_or(|it| it >= surely / 2)
    }

    /// It broke off: what is seen from now on its provider has written before it noticed.
    pub fn breaks(&self) {
        self.broke.store(true, Ordering::Release);
    }

    /// What its provider has written behind its end cannot be looked at: it may be all that it may write.
    pub fn unseen(&self) {
        self.unseen.store(true, Ordering::Release);
    }

    /// What has come of it, and what its provider writes on, nobody will look at: as where this process dies.
    pub fn unread(&self) {
        self.unread.store(true, Ordering::Release);
    }

    /// How many tokens a call may have written that broke off: what was reserved, or what was seen of it up to now, and what its
    /// provider writes on at its pace before it notices, which is from now on.
    fn may_have_written(&self) -> u64 {
        let (reserved, limit) = (self.tokens(), self.limit());
        if self.unseen.load(Ordering::Acquire) {
            return reserved.max(limit);
        }
        let seen = self.seen();
        let lasted = Duration::from_millis(self.lasted.load(Ordering::Acquire));
        let more = at_pace(seen, lasted, UNNOTICED);
        // A provider that does not keep to the limit has written what was seen all the same, where that is counted and not
        // estimated, as the bytes of sounds are.
        let surely = self.sure.load(Ordering::Acquire);
        // As much as is charged when it is found that the process has died.
        let unread = match self.unread.load(Ordering::Acquire) {
            false => 0,
            true if self.waits.load(Ordering::Acquire) => limit,
            true => reserved.saturating_add(UNSEEN).min(limit),
        };
        seen.saturating_add(more)
            .min(limit)
            .max(surely)
            .max(unread)
            .max(reserved)
    }

    /// Reserves more for a call that has written so many tokens. `budgets`: those of its charges, as they are now. Where
    /// there is not more it may wait: its provider writes on meanwhile, up to its limit, and nobody looks.
    pub(super) async fn extend(
        &self,
        written: u64,
        budgets: &[Arc<Budget>],
    ) -> Result<(), Refused> {
        let granted = self.tokens();
        let wanted = written
            .saturating_add(self.slice())
            .min(self.limit().max(written));
        if wanted <= granted {
            return Ok(());
        }
        let more = More {
            tokens: wanted - granted,
            most: Some(self.limit().max(written)),
        };
        let now = Timestamp::now().as_millisecond();
        let got = self.ledger.extend(self.id, more, budgets, now).await;
        self.waits.store(got.is_err(), Ordering::Release);
        let got = got.map_err(|refused| self.beside_own(refused))?;
        let tokens = granted.saturating_add(got);
        self.tokens.store(tokens, Ordering::Release);
        let mut amounts = self.amounts.lock().unwrap_or_else(PoisonError::into_inner);
        for (amount, charge) in amounts.iter_mut().zip(&self.want.charges) {
            if charge.budget.unit.is_held() {
                *amount = charge.terms.amount(tokens);
            }
        }
        Ok(())
    }

    /// When it has to end by the clock.
    pub(super) const fn deadline(&self) -> Option<i64> {
        self.deadline
    }

    /// When it has to end by these budgets, as far as was known when it began, and by which of them: with several of time
    /// that may be too early, and is never too late. None: none of them limits it by the clock.
    pub(super) fn deadline_by(&self, budgets: &[Arc<Budget>]) -> Option<(usize, i64)> {
        let first = self.deadline?;
        let charges = self.want.charges.iter().zip(budgets).enumerate();
        let ends = charges.filter_map(|(place, (charge, budget))| {
            let counts = budget.unit == Unit::WallTime && budget.reached.limits();
            let [was, is] = [charge.budget.limit, budget.limit]
                .map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
            counts.then(|| (place, first.saturating_sub(was).saturating_add(is)))
        });
        ends.min_by_key(|(_, end)| *end)
    }

    /// Why it may not go on by the clock. None: it may, or is over. A ledger that does not answer lets nothing go on beyond
    /// what is known.
    pub(super) async fn too_late(&self, budgets: &[Arc<Budget>]) -> Option<Refused> {
        let now = Timestamp::now().as_millisecond();
        let asked = self.ledger.extend(self.id, 1.into(), budgets, now).await;
        match asked {
            Err(Refused::Short(short)) => {
                let unit = budgets.get(short.charge)?.unit;
                (unit == Unit::WallTime).then_some(Refused::Short(short))
            }
            // Which budget has ended is not known for sure, so that none is blamed.
            Err(away @ (Refused::Away(_) | Refused::LeaseSpent(_) | Refused::Unwritten(_))) => {
                let (_, end) = self.deadline_by(budgets)?;
                (end <= now).then_some(away)
            }
            Ok(_) | Err(Refused::Settled) => None,
        }
    }

    /// What it holds itself comes back to nobody while it goes on: for itself that is used.
    fn beside_own(&self, refused: Refused) -> Refused {
        let Refused::Short(mut short) = refused else {
            return refused;
        };
        let amounts = self.amounts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = amounts.get(short.charge).copied().unwrap_or_default();
        let own = own.min(short.balance.held);
        short.balance.held -= own;
        short.balance.used = short.balance.used.saturating_add(own);
        Refused::Short(short)
    }

    pub(super) const fn want(&self) -> &Want {
        &self.want
    }

    /// What is reserved, for the record.
    #[must_use]
    pub fn lines(&self) -> Vec<BudgetLine> {
        let mut lines = self.own_lines();
        lines.extend(self.passing.iter().flat_map(|it| it.lines()));
        lines
    }

    /// The same, without what it carries.
    fn own_lines(&self) -> Vec<BudgetLine> {
        let amounts = self.amounts.lock().unwrap_or_else(PoisonError::into_inner);
        let charges = self.want.charges.iter().zip(amounts.iter());
        let lines = charges
            .enumerate()
            .map(|(place, (charge, held))| BudgetLine {
                over: self.over.contains(&place),
                clamped: self.clamp,
                price_of: match (charge.budget.unit, &self.pricing) {
                    (Unit::MicroUsd, Some(pricing)) => Some(pricing.of.clone()),
                    _ => None,
                },
                // What is the same whatever it writes says nothing of that.
                hidden: charge.terms.per_million > 0 && self.estimate.is_some_and(|it| it.hidden),
                counted: is_of_input(charge.budget.unit)
                    && self.estimate.is_some_and(|it| it.counted),
                ..line(charge, *held)
            });
        lines.collect()
    }

    /// Whether it goes to where it is served in one region alone.
    pub(super) fn is_regional(&self) -> bool {
        self.pricing.as_ref().is_some_and(|it| it.served.regional)
    }

    /// What is told as its answer may be that of a call at this price.
    pub(super) fn may_cost(&self, pricing: Pricing) {
        let mut also = self.also.lock().unwrap_or_else(PoisonError::into_inner);
        also.push(pricing);
    }

    /// What a use of it costs, in millionths of a dollar: the dearest that it may be.
    fn cost(&self, usage: &Usage) -> Option<u64> {
        let own = self.own_cost(usage)?;
        let also = self.also.lock().unwrap_or_else(PoisonError::into_inner);
        let also = also.iter().map(|it| it.cost(usage));
        also.chain([own]).max()
    }

    /// What it costs at the price of its own model.
    fn own_cost(&self, usage: &Usage) -> Option<u64> {
        self.pricing.as_ref().map(|it| it.cost(usage))
    }

    /// Counts what it writes, as it comes.
    #[must_use]
    pub fn counter(&self) -> Counter {
        Counter::new(self.pricing.as_ref().and_then(|it| it.rate.tokenizer))
    }

    /// Says what was used, once; what was said first counts. Answers with what becomes of it.
    pub fn settle(&self, how: Used<'_>) -> &[BudgetLine] {
        self.settled.get_or_init(|| {
            let mut lines = self.own_lines();
            for (line, charge) in lines.iter_mut().zip(&self.want.charges) {
                let unit = charge.budget.unit;
                let known = match how {
                    Used::Reported(usage) => used(unit, usage, |usage| self.cost(usage)),
                    Used::Broken(usage) => {
                        let usage = self.broken(usage);
                        used(unit, &usage, |usage| self.cost(usage))
                    }
                    Used::Whole if unit.is_held() => Some(charge.terms.amount(self.limit())),
                    // A call is one whatever became of it.
                    Used::Nothing => used(unit, &NOTHING, |_| Some(0)),
                    // Calls are known whatever became of them.
                    Used::Unknown if self.is_counted() => {
                        let known = used(unit, &Usage::default(), |_| None);
                        known.or_else(|| Some(charge.terms.amount(self.may_have_written())))
                    }
                    Used::Unknown | Used::Whole => used(unit, &Usage::default(), |_| None),
                };
                let amount = known.unwrap_or(line.reserved);
                line.settled = Some(amount);
                line.overshoot = Some(amount.saturating_sub(line.reserved)).filter(|it| *it > 0);
                let cause = || self.overshoot_cause(how, charge, line.reserved);
                line.overshoot_cause = line.overshoot.map(|_| cause());
            }
            let amounts: Vec<u64> = lines.iter().filter_map(|line| line.settled).collect();
            let now = Timestamp::now().as_millisecond();
            self.ledger.settle(self.id, Some(&amounts), now);
            lines
        })
    }

    /// Says that nothing passes any more: what it carries goes on behind what is known of its use, as where its provider has
    /// refused it and reads on. Answers with what becomes of that.
    pub fn settle_passing(&self) -> Vec<BudgetLine> {
        let passing = self.passing.as_ref();
        passing.map(|it| it.settle()).unwrap_or_default()
    }

    /// Why it has used more of this than was reserved.
    fn overshoot_cause(&self, how: Used<'_>, charge: &Charge, reserved: u64) -> OvershootCause {
        let usage = match how {
            Used::Reported(usage) => Some(*usage),
            Used::Broken(usage) => Some(self.broken(usage)),
            Used::Whole => return OvershootCause::Withheld,
            Used::Nothing | Used::Unknown => None,
        };
        let own = usage.and_then(|it| self.own_cost(&it));
        if charge.budget.unit == Unit::MicroUsd && own.is_some_and(|it| it <= reserved) {
            return OvershootCause::OtherCall;
        }
        let written = charge.terms.per_million > 0;
        let reported = matches!(how, Used::Reported(_));
        match (written, reported, self.broke.load(Ordering::Acquire)) {
            (true, false, _) if self.unseen.load(Ordering::Acquire) => OvershootCause::Unseen,
            (true, false, _) => OvershootCause::WrittenBehind,
            // More than its limit is more than it may write, wherever it was cut.
            (true, true, true) if !self.is_whole() => OvershootCause::WrittenBehind,
            _ => OvershootCause::Reported,
        }
    }

    /// What a call may have used that broke off behind what was reported: what it has read is known, and what it may have
    /// written is [`Self::may_have_written`].
    fn broken(&self, reported: &Usage) -> Usage {
        let written = reported.output_tokens.unwrap_or_default();
        let written = written.max(self.may_have_written());
        Usage {
            output_tokens: Some(written),
            // Of what is seen as it is written nothing is reasoning but what was reported.
            reasoning_tokens: reported.reasoning_tokens.map(|it| match self.is_counted() {
                true => it,
                false => written,
            }),
            ..*reported
        }
    }

    /// Its provider has answered with this status. Whom it refuses it does not bill, but for content that is filtered: Azure
    /// does, and says so with 400. What breaks inside of a provider, or on the way there, may be billed by any.
    pub fn refused_with(&self, status: u16) {
        let refused = match status {
            400 | 408 => !self.bills_filtered,
            401..=499 | 503 | 529 => true,
            _ => false,
        };
        if refused {
            self.settle(Used::Nothing);
        }
    }

    /// Its provider has refused it in an error of this word, before anything came of it.
    pub fn refused_by(&self, word: &str) {
        if UNBILLED.contains(&word) && !self.bills_filtered {
            self.settle(Used::Nothing);
        }
    }

    /// Gives all of it back: it did not leave, and is no call.
    pub fn release(&self) {
        self.settled.get_or_init(|| {
            let nothing = vec![0; self.want.charges.len()];
            let now = Timestamp::now().as_millisecond();
            self.ledger.settle(self.id, Some(&nothing), now);
            if let Some(passing) = &self.passing {
                passing.ends();
            }
            Vec::new()
        });
    }
}

/// How many tokens a provider writes in a time that wrote so many in another. What came within less than [`UNNOTICED`] is no
/// pace.
fn at_pace(tokens: u64, lasted: Duration, time: Duration) -> u64 {
    let lasted = lasted.max(UNNOTICED).as_millis();
    let tokens = (u128::from(tokens) * time.as_millis()).div_ceil(lasted);
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// Errors with which a provider refuses a call before it is worked on, by their types and codes: those that come with a
/// status of 4xx otherwise, and where a provider has no room. What breaks inside of it may be billed.
pub(crate) const UNBILLED: [&str; 24] = [
    "authentication_error",
    "billing_error",
    "billing_hard_limit_reached",
    "context_length_exceeded",
    "conversation_already_has_active_response",
    "insufficient_quota",
    "invalid_api_key",
    "invalid_prompt",
    "invalid_request_error",
    "invalid_value",
    "missing_required_parameter",
    "model_not_found",
    "not_found_error",
    "overloaded_error",
    "permission_error",
    "previous_response_not_found",
    "rate_limit_error",
    "rate_limit_exceeded",
    "request_too_large",
    "server_is_overloaded",
    "unknown_parameter",
    "unsupported_value",
    "usage_limit_reached",
    "websocket_connection_limit_reached",
];

const NOTHING: Usage = Usage {
    input_tokens: Some(0),
    cache_read_tokens: None,
    cache_write_tokens: None,
    audio_input_tokens: None,
    output_tokens: Some(0),
    reasoning_tokens: None,
    audio_output_tokens: None,
    regional: false,
};

impl Drop for Held {
    fn drop(&mut self) {
        if self.left.load(Ordering::Acquire) {
            self.settle(Used::Unknown);
        } else {
            self.release();
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("id", &self.id)
            .field("tokens", &self.tokens())
            .field("clamp", &self.clamp)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
