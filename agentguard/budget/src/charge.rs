//! What a call is charged with.

use std::sync::Arc;

use agentguard_model::budget::Budget;
use serde::{Deserialize, Serialize};

use crate::scope::Scope;

/// Tokens in the unit of [`Terms::per_million`].
const MILLION: u128 = 1_000_000;

/// What one account is charged with for a call that writes some number of tokens, in the budget's unit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Terms {
    /// Whatever it writes.
    pub fixed: u64,
    /// For each million tokens beside.
    pub per_million: u64,
}

impl Terms {
    /// For so many tokens, rounded up.
    #[must_use]
    pub fn amount(self, tokens: u64) -> u64 {
        let written = (u128::from(self.per_million) * u128::from(tokens)).div_ceil(MILLION);
        let all = written + u128::from(self.fixed);
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// For how many tokens this much is enough. None: not even for none.
    #[must_use]
    pub fn tokens(self, left: u64) -> Option<u64> {
        let left = u128::from(left.checked_sub(self.fixed)?) * MILLION;
        let tokens = left.checked_div(u128::from(self.per_million));
        Some(
            tokens
                .and_then(|it| u64::try_from(it).ok())
                .unwrap_or(u64::MAX),
        )
    }
}

/// One account that a call is charged to.
#[derive(Clone, Debug)]
pub struct Charge {
    /// Of which budget.
    pub budget: Arc<Budget>,
    /// Which of its accounts.
    pub scope: Scope,
    /// With how much.
    pub terms: Terms,
    /// Where it goes, for destinations: a number that is the same for the same place.
    pub place: u64,
}

/// What a call needs before it leaves.
#[derive(Clone, Debug, Default)]
pub struct Want {
    /// The accounts, each once.
    pub charges: Vec<Charge>,
    /// How many tokens it may write until more are asked for.
    pub tokens: u64,
    /// With fewer it does not go. At most [`Self::tokens`].
    pub least: u64,
    /// How many its provider may write in all, where no more than [`Self::tokens`] are reserved at first; 0: no more.
    pub most: u64,
}

/// How many tokens a provider is taken to have written beyond what was reserved, should this process die: what had come
/// and was not looked at yet, and what it wrote on until it noticed that nobody reads.
pub const UNSEEN: u64 = 1024;

/// How many tokens a call may have written in all when this process dies, of which so many are reserved, and which may
/// write so many at most. 0: no more than is reserved.
pub(crate) fn owes(reserved: u64, most: u64) -> u64 {
    let may = reserved.saturating_add(UNSEEN).min(most);
    if may > reserved { may } else { 0 }
}

/// What a call needs to go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct More {
    /// How many tokens more it is to write, at most.
    pub tokens: u64,
    /// How many its provider may write in all: where there is not even one more, it waits, and that is written meanwhile.
    /// None: as was said before.
    pub most: Option<u64>,
}

impl From<u64> for More {
    /// So many, without waiting.
    fn from(tokens: u64) -> Self {
        Self { tokens, most: None }
    }
}

/// The number of a reservation that is held. None has 0.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct HoldId(pub u64);

/// What was reserved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Granted {
    /// Under which number.
    pub id: HoldId,
    /// How many tokens may be written.
    pub tokens: u64,
    /// How many there would have been, had as many been asked for.
    pub room: u64,
    /// What each account holds for it, in the order of the charges.
    pub held: Vec<u64>,
    /// Those whose limit is reached, and who only tell of it, by their place among the charges.
    pub over: Vec<usize>,
    /// When the call has to end, in milliseconds of the Unix time.
    pub deadline: Option<i64>,
}

impl Granted {
    /// What is granted where nothing is charged: no ledger has it.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            id: HoldId(0),
            tokens: 0,
            room: u64::MAX,
            held: Vec::new(),
            over: Vec::new(),
            deadline: None,
        }
    }
}

/// What an account has.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Balance {
    /// How much there is in a window.
    pub limit: u64,
    /// How much of it was used.
    pub used: u64,
    /// How much is held for calls that are under way.
    pub held: u64,
    /// When the window ends, in milliseconds of the Unix time. None: not by the clock, or bit by bit.
    pub resets: Option<i64>,
}

impl Balance {
    /// What is left.
    #[must_use]
    pub const fn left(&self) -> u64 {
        let taken = self.used.saturating_add(self.held);
        self.limit.saturating_sub(taken)
    }

    /// What is left for whom this much is held already.
    pub(crate) const fn left_beside(&self, own: u64) -> u64 {
        let others = self.held.saturating_sub(own);
        self.limit.saturating_sub(self.used.saturating_add(others))
    }
}

/// An account has too little.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Short {
    /// Which one, by its place among the charges.
    pub charge: usize,
    /// What it has.
    pub balance: Balance,
    /// How much was asked for, at least.
    pub needed: u64,
}

impl Short {
    /// Whether it is enough once calls that are under way have used less than is held for them.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        // Whoever is short needs something; of time that is not told.
        let needed = if self.needed == 0 { 1 } else { self.needed };
        self.balance.used.saturating_add(needed) <= self.balance.limit
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Balance, Short, Terms};

    #[test]
    fn what_is_used_to_the_last_does_not_pass() {
        let short = |used, needed| Short {
            charge: 0,
            balance: Balance {
                limit: 1000,
                used,
                ..Balance::default()
            },
            needed,
        };
        assert!(short(999, 1).may_pass());
        assert!(!short(999, 2).may_pass());
        assert!(!short(1000, 0).may_pass(), "time that is over");
    }

    proptest! {
        #[test]
        fn tokens_are_the_most_that_fit(fixed in 0_u64..1 << 40, per_million in 0_u64..1 << 40, left in any::<u64>()) {
            let terms = Terms { fixed, per_million };
            match terms.tokens(left) {
                None => prop_assert!(terms.amount(0) > left),
                Some(tokens) => {
                    prop_assert!(terms.amount(tokens) <= left);
                    let more = tokens.saturating_add(1);
                    prop_assert!(more == tokens || per_million == 0 || terms.amount(more) > left);
                }
            }
        }

        #[test]
        fn amounts_never_wrap(fixed: u64, per_million: u64, tokens: u64) {
            let terms = Terms { fixed, per_million };
            prop_assert!(terms.amount(tokens) >= fixed);
            prop_assert!(terms.amount(tokens) >= terms.amount(tokens / 2));
        }
    }
}
