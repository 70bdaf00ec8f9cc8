//! Soft limits of budgets: how much is used of what, looked at again and again.
//!
//! What is found is for [`Accounting::soft`], and is recorded once: when an account comes to its level, and when its
//! forecast says for the first time in a window that it will be spent. A worker that takes another's place records again
//! what holds when it begins.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_budget::{AnyLedger, Scope};
use agentguard_control::budgets::{Books, Found};
use agentguard_decision::{Accounting, Decider, Level, Recorder};
use agentguard_policy::BudgetRule;
use jiff::Timestamp;

/// How often it is looked: so late a soft limit may hold.
const LOOK: Duration = Duration::from_secs(2);

/// The same where hosts share their budgets: all accounts are asked for then.
const LOOK_SHARED: Duration = Duration::from_secs(30);

/// How often it is foretold.
const FORETELL: Duration = Duration::from_secs(60);

/// Of how many accounts forecasts are made at a time: the fullest.
const MAX_FORETOLD: usize = 256;

/// An account that is known to be at its level, or foretold to be spent, is so until so much less is used, in percent of
/// that: a window that slides would have it told again and again.
const BELOW: u64 = 90;

/// Which account, of which budget.
type Key = (Arc<str>, Scope);

/// What was told already.
#[derive(Default)]
struct Known {
    /// Those at their level, each with the beginning of the window.
    reached: HashMap<Key, i64>,
    /// Those that will be spent, each with the beginning of the window.
    foretold: HashMap<Key, i64>,
}

/// What is found in one look.
#[derive(Default)]
struct Look {
    /// Those at their level, each with whether that is new.
    reached: Vec<(Level, bool)>,
    /// Those of which it is new that they will be spent, and when.
    foretold: Vec<(Level, Timestamp)>,
    /// The accounts of budgets that have one for all others at its level.
    open: Vec<Key>,
}

/// Looks until it is dropped.
pub(super) async fn watch<R: Recorder>(
    decider: Decider<R>,
    ledger: AnyLedger,
    accounting: Arc<Accounting>,
) {
    let mut known = Known::default();
    let mut foretold: Option<Instant> = None;
    let shared = matches!(ledger, AnyLedger::Shared(_));
    let mut unforetold = false;
    let mut looks = tokio::time::interval(match &ledger {
        AnyLedger::Embedded(_) => LOOK,
        AnyLedger::Shared(_) => LOOK_SHARED,
    });
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let policy = decider.policies().current();
        if policy.budgets().iter().all(|rule| rule.soft.is_none()) {
            known = Known::default();
            accounting.soft([], []);
            continue;
        }
        let asks = |rule: &BudgetRule| rule.soft.is_some_and(|soft| soft.forecast);
        let foretells_none = shared && policy.budgets().iter().any(asks);
        if foretells_none && !unforetold {
            tracing::warn!(
                "the policy asks for forecasts of budgets (`soft: {{forecast: true}}`), which a ledger that hosts share does not have: none is made"
            );
        }
        unforetold = foretells_none;
        let now = Timestamp::now();
        // A ledger that is away is asked again; what was known of it holds.
        let Ok(listed) = ledger.accounts(now.as_millisecond()).await else {
            continue;
        };
        let foretells = foretold.is_none_or(|it| it.elapsed() >= FORETELL);
        foretold = foretold
            .filter(|_| !foretells)
            .or_else(|| Some(Instant::now()));
        let ledger = ledger.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let books = Books::of(&policy, &ledger, listed, now);
            let look = known.look(&books, foretells);
            (known, look)
        });
        let Ok((before, look)) = looking.await else {
            // It is begun anew, and what holds is told again.
            known = Known::default();
            continue;
        };
        known = before;
        let reached = look.reached.iter().map(|(level, _)| level.clone());
        accounting.soft(reached, look.open.iter().map(|(id, scope)| (id, scope)));
        let mut refused_once = false;
        for (level, _) in look.reached.iter().filter(|(_, new)| *new) {
            // A record that takes nothing is not asked for each of them.
            if refused_once {
                known.reached.remove(&key(level));
                continue;
            }
            if let Err(refused) = decider.soft_limit(level).await {
                tracing::warn!(%refused, budget = %level.budget.id, "that a soft limit is reached is not in the record; it is tried again");
                known.reached.remove(&key(level));
                refused_once = true;
            }
        }
        for (level, at) in &look.foretold {
            if let Err(refused) = decider.will_be_spent(level, *at).await {
                tracing::warn!(%refused, budget = %level.budget.id, "that a budget will be spent is not in the record; it is tried again");
                known.foretold.remove(&key(level));
            }
        }
    }
}

impl Known {
    fn look(&mut self, books: &Books<'_>, foretells: bool) -> Look {
        let all = books.fullest();
        let mut look = Look::default();
        let mut reached = HashMap::new();
        for found in &all {
            let Some(level) = level(found) else { continue };
            let (Some(soft), key) = (found.rule.and_then(|rule| rule.soft), key(&level)) else {
                continue;
            };
            let (used, limit) = (level.state.used, level.budget.limit);
            let was = self.reached.get(&key) == Some(&level.state.since);
            let stays = was && soft.is_reached(used.saturating_mul(100) / BELOW, limit);
            if soft.is_reached(used, limit) || stays {
                reached.insert(key, level.state.since);
            }
            if soft.is_reached(used, limit) {
                look.reached.push((level, !was));
            }
        }
        self.reached = reached;
        let others = Scope::others();
        let levels = look.reached.iter().map(|(level, _)| level);
        let others = levels.filter(|it| it.state.scope == others);
        let full: HashSet<_> = others.map(|it| it.budget.id.clone()).collect();
        if !full.is_empty() {
            let open = all.iter().filter_map(level).map(|it| key(&it));
            look.open = open.filter(|(id, _)| full.contains(id)).collect();
        }
        if foretells {
            self.foretell(books, &all, &mut look);
        }
        look
    }

    fn foretell(&mut self, books: &Books<'_>, all: &[Found<'_>], look: &mut Look) {
        let asks = |found: &&Found<'_>| {
            let soft = found.rule.and_then(|rule| rule.soft);
            soft.is_some_and(|soft| soft.forecast)
        };
        let mut foretold = HashMap::new();
        for found in all.iter().filter(asks).take(MAX_FORETOLD) {
            let Some(level) = level(found) else { continue };
            let (key, since) = (key(&level), level.state.since);
            if self.foretold.get(&key) == Some(&since) {
                foretold.insert(key, since);
                continue;
            }
            let Ok(Ok(forecast)) = books.forecast(found) else {
                continue;
            };
            let at = forecast.exhausted.and_then(|it| it.at);
            let Some(at) = at.and_then(|at| Timestamp::from_millisecond(at).ok()) else {
                continue;
            };
            foretold.insert(key, since);
            look.foretold.push((level, at));
        }
        self.foretold = foretold;
    }
}

fn key(level: &Level) -> Key {
    (level.budget.id.clone(), level.state.scope.clone())
}

/// None: nothing was charged to it in this window, or the policy does not have it.
fn level(found: &Found<'_>) -> Option<Level> {
    Some(Level {
        budget: found.rule?.budget.clone(),
        state: found.state?.clone(),
    })
}

#[cfg(test)]
mod tests;
