//! What is done before a budget is spent: what is told of it, and how long calls are held up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_budget::{Charge, Scope, State};
use agentguard_model::budget::{Budget, Dimension, Spent, Window};
use agentguard_model::{
    Action, ActionKind, Agent, DecisionId, Layer, Matched, Mode, Reason, ReasonCode, Verdict,
};
use agentguard_policy::{AgentPolicy, BudgetRule, Policy};
use jiff::Timestamp;

use super::{Accounting, ENGINE};
use crate::decider::{Decider, Draft};
use crate::port::{RecordRefused, Recorder};

/// An account of which so much is used that the soft limit of its budget holds.
#[derive(Clone, Debug)]
pub struct Level {
    /// Its budget.
    pub budget: Arc<Budget>,
    /// As the ledger has it.
    pub state: State,
}

/// Those of a moment, by budget and scope.
#[derive(Debug, Default)]
pub(super) struct Levels {
    levels: HashMap<(Arc<str>, Scope), Arc<Level>>,
    /// Of budgets whose account for all others is at its level: those that have one of their own.
    own: HashMap<Arc<str>, HashSet<Scope>>,
}

impl Levels {
    /// The account that a charge is to, if it is at its level. One that has none of its own is charged with all others.
    fn of(&self, charge: &Charge) -> Option<&Arc<Level>> {
        let id = &charge.budget.id;
        let level = self.levels.get(&(Arc::clone(id), charge.scope.clone()));
        level.or_else(|| {
            let own = self.own.get(id)?;
            let is_other = !own.contains(&charge.scope);
            is_other.then(|| self.levels.get(&(Arc::clone(id), Scope::others())))?
        })
    }
}

/// What soft limits have to say of a call.
#[derive(Debug, Default)]
pub(super) struct Softly {
    /// For how long it waits.
    pub(super) slow: Option<Duration>,
    /// What its answer tells of.
    pub(super) told: Vec<Arc<Level>>,
}

impl Level {
    fn spent(&self) -> Spent {
        Spent {
            budget: self.budget.id.to_string(),
            scope: self.state.scope.to_string(),
            unit: self.budget.unit,
            limit: self.budget.limit,
            used: self.state.used,
            held: self.state.held,
            resets_at: self
                .state
                .until
                .and_then(|it| Timestamp::from_millisecond(it).ok()),
            retry_after: None,
        }
    }

    /// An item of the field `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10, 3): its quota, and its window in
    /// seconds where that has a length.
    #[must_use]
    pub fn policy(&self) -> String {
        let (id, limit) = (&self.budget.id, self.budget.limit);
        let window = match self.budget.window {
            Window::Minute => 60,
            Window::Hour => 3600,
            Window::Day => 86_400,
            Window::Week => 7 * 86_400,
            Window::Month => match (self.state.since, self.state.until) {
                (since, Some(until)) => until.saturating_sub(since) / 1000,
                _ => 30 * 86_400,
            },
            Window::Sliding(length) => i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
            Window::Lifetime => return format!("\"{id}\";q={limit}"),
        };
        format!("\"{id}\";q={limit};w={window}")
    }

    /// An item of the field `RateLimit` (the same, 4): what is left, and in how many seconds there is more.
    #[must_use]
    pub fn left(&self) -> String {
        let now = Timestamp::now();
        let taken = self.state.used.saturating_add(self.state.held);
        let left = self.budget.limit.saturating_sub(taken);
        let id = &self.budget.id;
        match self.state.until {
            Some(until) => {
                let ahead = until.saturating_sub(now.as_millisecond()).max(0);
                format!("\"{id}\";r={left};t={}", ahead.div_euclid(1000) + 1)
            }
            None => format!("\"{id}\";r={left}"),
        }
    }
}

impl Accounting {
    /// From now on the soft limits of these accounts hold, and of no others. `open`: the accounts that there are, by the
    /// budget's id.
    pub fn soft<'a>(
        &self,
        levels: impl IntoIterator<Item = Level>,
        open: impl IntoIterator<Item = (&'a Arc<str>, &'a Scope)>,
    ) {
        let levels = levels.into_iter().map(|level| {
            let key = (Arc::clone(&level.budget.id), level.state.scope.clone());
            (key, Arc::new(level))
        });
        let levels: HashMap<_, _> = levels.collect();
        let others = levels.keys().filter(|(_, scope)| *scope == Scope::others());
        let mut own: HashMap<Arc<str>, HashSet<Scope>> = others
            .map(|(id, _)| (Arc::clone(id), HashSet::new()))
            .collect();
        if !own.is_empty() {
            for (id, scope) in open {
                if let Some(own) = own.get_mut(id) {
                    own.insert(scope.clone());
                }
            }
        }
        self.levels.store(Arc::new(Levels { levels, own }));
    }

    /// What soft limits have to say of a call with these charges, each of its rule. On paper they say nothing.
    pub(super) fn softly(
        &self,
        agent: &AgentPolicy,
        rules: &[&BudgetRule],
        charges: &[Charge],
    ) -> Softly {
        let (levels, now) = (self.levels.load(), Timestamp::now().as_millisecond());
        let mut softly = Softly::default();
        for (rule, charge) in rules.iter().zip(charges) {
            let Some(soft) = rule.soft.filter(|_| rule.is_enforced(agent)) else {
                continue;
            };
            // What is known of a window that has ended says nothing of the next.
            let is_under_way = |it: &&Arc<Level>| it.state.until.is_none_or(|until| until > now);
            let Some(level) = levels.of(charge).filter(is_under_way) else {
                continue;
            };
            softly.slow = softly.slow.max(soft.slow);
            if soft.header {
                softly.told.push(Arc::clone(level));
            }
        }
        softly
    }
}

impl<R: Recorder> Decider<R> {
    /// Records that so much of an account is used that its soft limit holds.
    ///
    /// # Errors
    /// It could not be recorded.
    pub async fn soft_limit(&self, level: &Level) -> Result<DecisionId, RecordRefused> {
        let share = share(level);
        let message = format!(
            "So much is used that it is told of ({share} %): {}.",
            level.spent()
        );
        self.told(level, ReasonCode::BudgetSoftLimit, message).await
    }

    /// Records that an account will be spent before its window ends, as it goes on.
    ///
    /// # Errors
    /// It could not be recorded.
    pub async fn will_be_spent(
        &self,
        level: &Level,
        at: Timestamp,
    ) -> Result<DecisionId, RecordRefused> {
        let message = format!(
            "As it goes on, this will be spent at about {}, before its window ends: {}.",
            at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            level.spent()
        );
        self.told(level, ReasonCode::BudgetForecast, message).await
    }

    async fn told(
        &self,
        level: &Level,
        code: ReasonCode,
        message: String,
    ) -> Result<DecisionId, RecordRefused> {
        let policy = self.policies().current();
        let scope = level.state.scope.as_str();
        let account = match scope {
            "" => level.budget.id.to_string(),
            scope => format!("{}/{scope}", level.budget.id),
        };
        let rule = policy.budget(&level.budget.id);
        let mut decision = self.decision(
            &policy,
            Draft {
                client: None,
                layer: Layer::Proxy,
                action: Action {
                    method: Some(account),
                    ..Action::new(ActionKind::Budget)
                },
                verdict: Verdict::Allow,
                enforced: true,
                mode: rule.map_or(Mode::Enforce, |rule| rule.mode),
                reason: Reason::new(code, message),
                matched: rule.map(matched).into_iter().collect(),
                count: 1,
                started: Instant::now(),
            },
        );
        decision.agent = agent(&policy, level);
        self.recorder().write(decision).await
    }
}

/// How much of a limit is used, in percent.
fn share(level: &Level) -> u64 {
    let used = u128::from(level.state.used) * 100;
    let share = used.checked_div(u128::from(level.budget.limit));
    share.and_then(|it| u64::try_from(it).ok()).unwrap_or(100)
}

fn matched(rule: &BudgetRule) -> Matched {
    Matched {
        engine: ENGINE.to_owned(),
        rule: rule.budget.id.to_string(),
        source: rule.source.clone(),
        on_paper: None,
    }
}

/// The agent whose account it is, where each has its own.
fn agent(policy: &Policy, level: &Level) -> Option<Agent> {
    let name = level.state.scope.value(&Dimension::Agent)?.parse().ok()?;
    let labels = policy.agent(&name).map(|agent| agent.labels.clone());
    Some(Agent {
        name,
        labels: labels.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentguard_budget::{Charge, Embedded, Ledger, Scope, State, Terms, Want};
    use agentguard_policy::{Document, compile};
    use jiff::Timestamp;

    use super::Level;
    use crate::Accounting;

    const POLICY: &str = "version: 1
agents: [{ name: coder }]
rules: []
budgets:
  - { id: each, unit: calls, limit: 10, window: lifetime, per: [user], soft: { at: 50%, header: true, slow: 1s } }
";

    /// Who has an account of its own is not slowed by that of others; who has none is.
    #[test]
    fn soft_limits_hold_for_who_is_charged_with_all_others() {
        let directory = tempfile::TempDir::new().unwrap();
        let ledger = Embedded::open(directory.path(), Timestamp::now()).unwrap();
        let policy = compile(&[Document {
            path: "policy.yaml".into(),
            text: POLICY.into(),
        }]);
        let policy = policy.unwrap();
        let rule = &policy.budgets()[0];
        let agent = policy.agent(&"coder".parse().unwrap()).unwrap();
        let charge = |scope: Scope| Charge {
            budget: Arc::clone(&rule.budget),
            scope,
            terms: Terms {
                fixed: 6,
                per_million: 0,
            },
            place: 1,
        };
        let user = |name: &str| Scope::from(format!("user={name}").as_str());
        let now = Timestamp::now().as_millisecond();
        for scope in [Scope::others(), user("ada")] {
            let want = Want {
                charges: vec![charge(scope)],
                ..Want::default()
            };
            ledger.reserves(&want, now).unwrap();
        }
        let states: Vec<State> = ledger.accounts(now);
        let level = |scope: &Scope| Level {
            budget: Arc::clone(&rule.budget),
            state: states.iter().find(|it| it.scope == *scope).unwrap().clone(),
        };
        let accounting = Accounting::new(Arc::new(ledger) as Arc<dyn Ledger>);
        let slows = |name: &str| {
            let charges = [charge(user(name))];
            let softly = accounting.softly(agent, &[rule], &charges);
            assert_eq!(softly.slow.is_some(), softly.told.len() == 1);
            softly.slow.is_some()
        };
        let open = || states.iter().map(|it| (&it.budget, &it.scope));
        accounting.soft([level(&Scope::others())], open());
        assert_eq!(["ada", "bob"].map(slows), [false, true]);
        // Its own level alone says nothing of others.
        accounting.soft([level(&user("ada"))], open());
        assert_eq!(["ada", "bob"].map(slows), [true, false]);
        accounting.soft([], open());
        assert_eq!(["ada", "bob"].map(slows), [false, false]);
    }
}
