//! Input that is counted, where its bytes are too many for what is left of a budget.
//!
//! A token is a byte at least, so that the bytes of a call are a bound of its tokens, and cost no time. That is enough
//! where there is plenty left. Where there is not, a call whose model has a public tokenizer is read once more, and what it
//! says is counted: before it waits for what others hold, before its limit of output is lowered, and before it is refused.
//! What is spent for certain costs no counting, for there are no texts of [`FEWEST`] bytes for each token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use agentguard_budget::prices::Prices;
use agentguard_budget::tokens::{Counted, InputCounter, Tokenizer};
use agentguard_budget::{Granted, Refused, Short, Want};
use agentguard_model::budget::Unit;
use agentguard_model::{AgentId, Demand, Llm};
use agentguard_protocol::llm::{Said, SaidReader};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Asks, terms};
use crate::port::{Says, Target};

/// The most bytes of a call that is counted. The bytes of a longer one stay its bound.
const MOST: u64 = 4 << 20;

/// How many bytes are counted until others have their turn.
const STEP: usize = 16 * 1024;

/// How many bytes a token stands for at most, of all texts that are worth to be counted.
const FEWEST: u64 = 8;

/// Whose turn it is to count: one call of each agent at a time, and the next waits for it. What an agent sends may be made
/// to be slow, and others are to have as much of the processors.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<AgentId, Weak<Semaphore>>>);

impl Turns {
    /// The turn of an agent.
    fn of(&self, agent: AgentId) -> Arc<Semaphore> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&agent).and_then(Weak::upgrade) {
            return turn;
        }
        // As many are left as have a call that is counted.
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        turns.insert(agent, Arc::downgrade(&turn));
        turn
    }
}

/// A call that may be counted, once.
pub(super) struct Counting<'a> {
    pub(super) turns: &'a Turns,
    pub(super) agent: AgentId,
    pub(super) prices: &'a Arc<Prices>,
    /// None: it is none of a language model.
    pub(super) llm: Option<&'a Llm>,
    pub(super) demand: &'a Demand,
    pub(super) target: &'a Target,
    /// How many bytes it has.
    pub(super) bytes: u64,
    /// What these are, where they are here.
    pub(super) says: Option<&'a dyn Says>,
    /// What is known of it by now.
    pub(super) asks: Option<Asks>,
    pub(super) tried: bool,
}

impl Counting<'_> {
    /// Whether counting may help a call of which a ledger has said this: it has too little by its bytes, and may have
    /// enough for `least` tokens of output; or its limit of output would be lowered far more than it may have to be.
    pub(super) fn may_help(
        &self,
        want: &Want,
        least: u64,
        asked: &Result<Granted, Refused>,
    ) -> bool {
        let Some(asks) = self.asks.as_ref().filter(|_| !self.tried) else {
            return false;
        };
        if self.says.is_none() || asks.pricing.rate.tokenizer.is_none() || self.bytes > MOST {
            return false;
        }
        let fewest = Counted {
            tokens: self.bytes.saturating_sub(self.demand.picture_bytes) / FEWEST,
            aside: self.demand.picture_bytes,
        };
        let spares = |fewest: &Asks| asks.estimate.input.saturating_sub(fewest.estimate.input);
        match asked {
            Err(Refused::Short(short)) => {
                let charge = want.charges.get(short.charge);
                let reads = charge.is_some_and(|it| is_of_input(it.budget.unit));
                reads && {
                    let fewest = self.asks(fewest);
                    fewest.is_some_and(|it| spares(&it) > 0 && fits(&it, want, least, short))
                }
            }
            Ok(granted) => {
                let output = asks.estimate.output;
                let is_lowered = asks.estimate.visible && granted.room < output;
                let mut charges = want.charges.iter();
                let reads = charges.any(|it| is_of_input(it.budget.unit));
                is_lowered && reads && {
                    let spared = self.asks(fewest).map_or(0, |it| spares(&it));
                    spared >= granted.room.min(output - granted.room)
                }
            }
            Err(_) => false,
        }
    }

    /// Counts it, and has `want` be what it needs by that. It stops where even what was counted so far does not fit into
    /// the account that was short.
    pub(super) async fn count(&mut self, want: &mut Want, least: u64, short: Option<Short>) {
        self.tried = true;
        let tokenizer = self.asks.as_ref().and_then(|it| it.pricing.rate.tokenizer);
        let (Some(tokenizer), Some(says)) = (tokenizer, self.says) else {
            return;
        };
        let may_fit = |counted| match (&short, self.asks(counted)) {
            (Some(short), Some(asks)) => fits(&asks, want, least, short),
            (_, asks) => asks.is_some(),
        };
        let turn = self.turns.of(self.agent);
        let turn: Option<SemaphorePermit<'_>> = turn.acquire().await.ok();
        let counted = counted(tokenizer, says, may_fit).await;
        drop(turn);
        let Some(counted) = counted else {
            return;
        };
        let before = self.asks.as_ref().map_or(0, |it| it.estimate.input);
        let asks = self.asks(counted);
        let Some(asks) = asks.filter(|it| it.estimate.input < before) else {
            return;
        };
        for charge in &mut want.charges {
            charge.terms = terms(charge.budget.unit, Some(&asks));
        }
        self.asks = Some(asks);
    }

    /// What it asks for if so much was counted.
    fn asks(&self, counted: Counted) -> Option<Asks> {
        let llm = self.llm?;
        let (demand, target) = (self.demand, self.target);
        let asks = Asks::counting(self.prices, llm, demand, target, self.bytes, Some(counted));
        Some(asks)
    }
}

/// Whether the account that was short has enough for this and so many tokens of output, at least once others have used
/// nothing of what they hold.
fn fits(asks: &Asks, want: &Want, least: u64, short: &Short) -> bool {
    let Some(charge) = want.charges.get(short.charge) else {
        return false;
    };
    let needed = terms(charge.budget.unit, Some(asks)).amount(least);
    let short = Short { needed, ..*short };
    short.may_pass()
}

/// Whether a budget of this unit is charged with what is read.
pub(super) const fn is_of_input(unit: Unit) -> bool {
    matches!(
        unit,
        Unit::InputTokens | Unit::CachedTokens | Unit::Tokens | Unit::MicroUsd
    )
}

/// Counts what a call says. None: `may_fit` says that it does not with what was counted so far, it is more than [`MOST`], or
/// no JSON.
async fn counted(
    tokenizer: Tokenizer,
    says: &dyn Says,
    may_fit: impl Fn(Counted) -> bool,
) -> Option<Counted> {
    let mut reader = SaidReader::default();
    let mut counter = InputCounter::new(tokenizer);
    let mut bytes = 0_u64;
    for piece in says.pieces() {
        for step in piece.chunks(STEP) {
            bytes = bytes.saturating_add(step.len() as u64);
            if bytes > MOST {
                return None;
            }
            reader
                .push(step, &mut |said| take(&mut counter, said))
                .ok()?;
            if !may_fit(counter.counted()) {
                return None;
            }
            tokio::task::yield_now().await;
        }
    }
    reader.finish(&mut |said| take(&mut counter, said)).ok()?;
    Some(counter.counted())
}

fn take(counter: &mut InputCounter, said: Said<'_>) {
    match said {
        Said::Value(name) => counter.value(name),
        Said::Text(piece) => counter.text(piece),
        Said::End => counter.ends(),
        Said::Aside(bytes) => counter.aside(bytes),
    }
}
