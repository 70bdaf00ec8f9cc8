//! What ledgers should do, in the plainest words, and random steps that try it.

use std::collections::HashMap;
use std::sync::Arc;

use agentguard_model::budget::{Budget, Dimension, Reached, Unit, Window};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::charge::{Charge, Granted, HoldId, More, Short, Terms, Want};
use crate::ledger::Refused;
use crate::scope::Scope;

/// 2026-11-28T10:00:00Z.
pub(crate) const NOW: i64 = 1_795_860_000_000;

pub(crate) fn budget(id: &str, unit: Unit, limit: u64, window: Window) -> Arc<Budget> {
    Arc::new(Budget {
        id: id.into(),
        unit,
        limit,
        window,
        zone: None,
        per: Box::new([Dimension::Agent]),
        reached: Reached::Deny,
        on_loss: None,
    })
}

pub(crate) fn charge(budget: &Arc<Budget>, agent: &str, fixed: u64, per_million: u64) -> Charge {
    Charge {
        budget: Arc::clone(budget),
        scope: Scope::of([(&Dimension::Agent, agent)]),
        terms: Terms { fixed, per_million },
        place: 0,
    }
}

pub(crate) fn want(charges: Vec<Charge>, tokens: u64, least: u64) -> Want {
    Want {
        charges,
        tokens,
        least,
        most: 0,
    }
}

pub(crate) fn short<T: std::fmt::Debug>(result: Result<T, Refused>) -> Short {
    match result {
        Err(Refused::Short(short)) => short,
        other => panic!("not short: {other:?}"),
    }
}

/// A ledger that is tried.
pub(crate) trait Subject {
    fn reserve(&mut self, want: &Want, now: i64) -> Result<Granted, Refused>;
    fn extend(
        &mut self,
        id: HoldId,
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<u64, Refused>;
    fn settle(&mut self, id: HoldId, used: Option<&[u64]>, now: i64);
    /// What it does now and then by itself.
    fn pauses(&mut self);
    /// The process ends at once, and another one begins.
    fn dies(&mut self);
    /// What the only account of a budget has.
    fn used_and_held(&mut self, budget: &Budget) -> (u64, u64);
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Reserve {
        which: u8,
        fixed: u64,
        rate: u64,
        tokens: u64,
        least: u64,
        most: u64,
    },
    Extend {
        which: usize,
        more: u64,
        most: Option<u64>,
    },
    Settle {
        which: usize,
        used: Option<u64>,
    },
    Pause,
    Die,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u8..8, 0_u64..200, 0_u64..3_000_000, 0_u64..400, 0_u64..50, 0_u64..3000).prop_map(
            |(which, fixed, rate, tokens, least, most)| Step::Reserve { which, fixed, rate, tokens, least, most }
        ),
        3 => (any::<usize>(), 1_u64..300, proptest::option::of(0_u64..3000))
            .prop_map(|(which, more, most)| Step::Extend { which, more, most }),
        4 => (any::<usize>(), proptest::option::of(0_u64..500)).prop_map(|(which, used)| Step::Settle { which, used }),
        1 => Just(Step::Pause),
        1 => Just(Step::Die),
    ]
}

/// What a call holds.
#[derive(Clone)]
struct Held {
    id: HoldId,
    /// Of which accounts.
    parts: Vec<(usize, Terms)>,
    /// For how many tokens.
    tokens: u64,
    /// And how many its provider may have written when its process dies.
    owes: u64,
}

/// A second's worth more than is reserved, and no more than it may.
fn owes(reserved: u64, most: u64) -> u64 {
    most.min(reserved + 1024)
}

#[derive(Default)]
struct Model {
    used: HashMap<usize, u64>,
    holds: Vec<Held>,
}

impl Model {
    fn held(&self, account: usize) -> u64 {
        let of = |held: &Held| {
            let its = held.parts.iter().filter(|(it, _)| *it == account);
            its.map(|(_, terms)| terms.amount(held.tokens)).sum::<u64>()
        };
        self.holds.iter().map(of).sum()
    }

    fn left(&self, account: usize, limit: u64) -> u64 {
        let used = self.used.get(&account).copied().unwrap_or(0);
        limit.saturating_sub(used + self.held(account))
    }

    /// It is over, and has used so much; none: nobody knows.
    fn ends(&mut self, held: Held, used: Option<u64>) {
        let most = held.tokens.max(held.owes);
        for (account, terms) in held.parts {
            *self.used.entry(account).or_default() += used.unwrap_or(terms.amount(most));
        }
    }
}

/// Takes a ledger through steps, beside the model.
pub(crate) fn follows(subject: &mut impl Subject, steps: &[Step]) -> Result<(), TestCaseError> {
    let limits = [1000_u64, 600, 2000];
    let budgets: Vec<_> = limits
        .iter()
        .enumerate()
        .map(|(place, limit)| budget(&format!("b{place}"), Unit::Tokens, *limit, Window::Day))
        .collect();
    let mut model = Model::default();
    for step in steps.iter().cloned() {
        match step {
            Step::Reserve {
                which,
                fixed,
                rate,
                tokens,
                least,
                most,
            } => {
                let terms = Terms {
                    fixed,
                    per_million: rate,
                };
                let chosen: Vec<usize> = (0..3).filter(|bit| which & (1 << bit) != 0).collect();
                let charges = chosen
                    .iter()
                    .map(|it| charge(&budgets[*it], "a", fixed, rate))
                    .collect();
                let rooms: Option<Vec<u64>> = chosen
                    .iter()
                    .map(|it| terms.tokens(model.left(*it, limits[*it])))
                    .collect();
                let room = rooms.map(|it| it.into_iter().min().unwrap_or(u64::MAX));
                let wanted = room
                    .filter(|room| *room >= least.min(tokens))
                    .map(|room| tokens.min(room));
                let wants = Want {
                    most,
                    ..want(charges, tokens, least)
                };
                let got = subject.reserve(&wants, NOW);
                prop_assert_eq!(got.as_ref().ok().map(|it| it.tokens), wanted);
                if let Ok(granted) = got {
                    let parts = chosen.iter().map(|it| (*it, terms)).collect();
                    model.holds.push(Held {
                        id: granted.id,
                        parts,
                        tokens: granted.tokens,
                        // What it has no room for is no limit of its.
                        owes: owes(granted.tokens, most.min(room.unwrap_or(0))),
                    });
                }
            }
            Step::Extend {
                which,
                more,
                most: limit,
            } if !model.holds.is_empty() => {
                let place = which % model.holds.len();
                let Held {
                    id, parts, tokens, ..
                } = model.holds[place].clone();
                // Where others have overdrawn an account, not even what costs nothing more goes on.
                let can = |extra: u64| {
                    parts.iter().all(|(it, terms)| {
                        let used = model.used.get(it).copied().unwrap_or(0);
                        let others = model.held(*it) - terms.amount(tokens);
                        terms.amount(tokens + extra) + used + others <= limits[*it]
                    })
                };
                let most = (0..=more).rev().find(|extra| can(*extra)).unwrap_or(0);
                let its: Vec<_> = parts.iter().map(|(it, _)| budgets[*it].clone()).collect();
                let asked = More {
                    tokens: more,
                    most: limit,
                };
                let got = subject.extend(id, asked, &its, NOW).ok();
                prop_assert_eq!(got, (most > 0).then_some(most));
                model.holds[place].tokens += most;
                if let Some(limit) = limit {
                    let held = &mut model.holds[place];
                    held.owes = match most > 0 {
                        true => owes(held.tokens, limit),
                        false => limit,
                    };
                }
            }
            Step::Settle { which, used } if !model.holds.is_empty() => {
                let held = model.holds.swap_remove(which % model.holds.len());
                let amounts = used.map(|used| vec![used; held.parts.len()]);
                subject.settle(held.id, amounts.as_deref(), NOW);
                model.ends(held, used);
            }
            Step::Pause => subject.pauses(),
            Step::Die => {
                subject.dies();
                for held in std::mem::take(&mut model.holds) {
                    model.ends(held, None);
                }
            }
            Step::Extend { .. } | Step::Settle { .. } => {}
        }
        for (place, budget) in budgets.iter().enumerate() {
            let used = model.used.get(&place).copied().unwrap_or(0);
            prop_assert_eq!(subject.used_and_held(budget), (used, model.held(place)));
        }
    }
    Ok(())
}
