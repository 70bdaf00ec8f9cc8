//! What the ledger has, beside what the policy says: which accounts there are, and which one is meant.

use std::cmp::Reverse;

use agentguard_budget::forecast::Ended;
use agentguard_budget::{AnyLedger, Listed, Scope, State};
use agentguard_model::budget::{Dimension, Unit};
use agentguard_policy::{BudgetRule, Policy};
use jiff::Timestamp;

use super::told;
use super::{
    BudgetAccount, BudgetAccounts, BudgetQuery, MAX_ENDED, MAX_FORECAST, MAX_NAME, MAX_TOLD,
};
use crate::api::{Problem, ProblemCode};

/// How many names are told where one is not there.
const NEAREST: usize = 3;

/// Why there is no forecast from a ledger that hosts share.
const NO_HISTORY: &str = "the Redis that hosts share keeps how much was used, and not when, so that nothing can be foretold";

/// How like it they are, at least (Jaro and Winkler).
const LIKE: f64 = 0.7;

/// Longer names are no typing errors, and the comparison is quadratic in their length.
const COMPARED: usize = 200;

/// The accounts of a moment.
#[derive(Debug)]
pub struct Books<'a> {
    policy: &'a Policy,
    ledger: &'a AnyLedger,
    /// Those whose window is under way.
    states: Vec<State>,
    /// Those of windows that ended, of a ledger that has no other history.
    ended: Vec<State>,
    /// How many there are beside.
    unread: usize,
    now: i64,
}

/// An account: of a budget of the policy, or one that is left over.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The budget, if the policy has it as the account is.
    pub rule: Option<&'a BudgetRule>,
    /// The account. None: nothing was charged to it in this window.
    pub state: Option<&'a State>,
    /// Which account of the budget; none where each has its own and there is none yet.
    pub scope: Option<Scope>,
    /// The budget's place in the policy, behind all where it has none.
    place: usize,
}

impl<'a> Books<'a> {
    /// As they are: `listed` are those of the ledger at this time.
    #[must_use]
    pub fn of(policy: &'a Policy, ledger: &'a AnyLedger, listed: Listed, now: Timestamp) -> Self {
        let now = now.as_millisecond();
        let all = listed.states.into_iter();
        let (states, ended) = all.partition(|it| it.holds(now));
        Self {
            policy,
            ledger,
            states,
            ended,
            unread: listed.unread,
            now,
        }
    }

    /// All accounts, the fullest first: also one for each budget that has none yet.
    #[must_use]
    pub fn fullest(&self) -> Vec<Found<'_>> {
        let rules = self.policy.budgets();
        let mut used = vec![false; rules.len()];
        let mut all: Vec<Found<'_>> = Vec::with_capacity(self.states.len());
        for state in &self.states {
            let place = rules.iter().position(|it| state.is_of(&it.budget));
            if let Some(used) = place.and_then(|place| used.get_mut(place)) {
                *used = true;
            }
            all.push(Found {
                rule: place.and_then(|place| rules.get(place)),
                state: Some(state),
                scope: Some(state.scope.clone()),
                place: place.unwrap_or(rules.len()),
            });
        }
        for (place, rule) in rules.iter().enumerate() {
            if used.get(place) == Some(&false) {
                all.push(self.unused(rule, place));
            }
        }
        all.sort_by_cached_key(|it| (Reverse(it.full()), it.place, it.name()));
        all
    }

    /// Those that a query means.
    ///
    /// # Errors
    /// There is no such budget or agent, or the ledger cannot be read.
    pub fn list(&self, query: &BudgetQuery) -> Result<BudgetAccounts, Problem> {
        let mut all = self.fullest();
        if let Some(budget) = &query.budget {
            all.retain(|it| it.budget() == budget);
            if all.is_empty() {
                return Err(self.no_budget(budget));
            }
        }
        if let Some(agent) = &query.agent {
            let known = self.policy.agent(agent);
            all.retain(|it| match it.scope.as_ref().and_then(agent_of) {
                Some(named) => named == agent.as_str(),
                None => it
                    .rule
                    .is_some_and(|rule| known.is_some_and(|agent| rule.is_for(agent))),
            });
            if all.is_empty() && known.is_none() {
                let message = format!("the policy has no agent `{agent}`, and no account names it");
                return Err(Problem::new(ProblemCode::NotFound, message)
                    .hint("`agentguard agent list` lists those that are there"));
            }
        }
        let most = if query.forecast {
            MAX_FORECAST
        } else {
            MAX_TOLD
        };
        let more = all.len().saturating_sub(most);
        all.truncate(most);
        // What is left over stands at the end; otherwise they are in order already.
        all.sort_by_key(|it| it.place);
        let accounts = all.iter().map(|found| match query.forecast {
            true => self.foretold(found),
            false => Ok(told::account(found, self.now)),
        });
        Ok(BudgetAccounts {
            accounts: accounts.collect::<Result<_, _>>()?,
            more,
            unread: self.unread,
        })
    }

    /// One account, with all that there is to say of it.
    ///
    /// # Errors
    /// There is none of this name, or the ledger cannot be read.
    pub fn show(&self, name: &str) -> Result<BudgetAccount, Problem> {
        let found = self.find(name)?;
        let mut account = self.foretold(&found)?;
        told::details(&mut account, &found);
        if let (Some(rule), Some(scope)) = (found.rule, &found.scope) {
            account.ended = told::windows(&self.ended(rule, scope, MAX_ENDED)?);
        }
        Ok(account)
    }

    /// The account of a name: `ID` or `ID/SCOPE`.
    ///
    /// # Errors
    /// There is none, or the ledger cannot be read.
    pub fn find(&self, name: &str) -> Result<Found<'_>, Problem> {
        if name.len() > MAX_NAME {
            return Err(Problem::bad_request(format!(
                "a name of an account has at most {MAX_NAME} bytes"
            )));
        }
        let (id, scope) = name.split_once('/').unwrap_or((name, ""));
        let rules = self.policy.budgets();
        let place = rules.iter().position(|it| &*it.budget.id == id);
        let rule = place.and_then(|place| rules.get(place));
        let scope = Scope::from(scope);
        let is_it = |it: &&State| &*it.budget == id && it.scope == scope;
        let is_current = |it: &&State| rule.is_some_and(|rule| it.is_of(&rule.budget));
        let mut named = self.states.iter().filter(is_it);
        if let Some(state) = named.clone().find(is_current) {
            return Ok(Found {
                rule,
                state: Some(state),
                scope: Some(scope),
                place: place.unwrap_or(rules.len()),
            });
        }
        if let Some(rule) = rule {
            let one_for_all = rule.budget.per.is_empty() && scope == Scope::all();
            if one_for_all || !self.ended(rule, &scope, 1)?.is_empty() {
                return Ok(Found {
                    rule: Some(rule),
                    state: None,
                    scope: Some(scope),
                    place: place.unwrap_or(rules.len()),
                });
            }
        }
        // One that was left over by more than one change is the one that was charged last.
        let left_over = named.by_ref().max_by_key(|it| it.last);
        left_over
            .map(|state| Found {
                rule: None,
                state: Some(state),
                scope: Some(scope),
                place: rules.len(),
            })
            .ok_or_else(|| self.no_account(name, rule))
    }

    /// The windows of an account that ended, the latest first: of a Redis those of the last two days.
    fn ended(&self, rule: &BudgetRule, scope: &Scope, most: usize) -> Result<Vec<Ended>, Problem> {
        if let Some(history) = self.ledger.history() {
            let ended = history.ended(&rule.budget, scope, most, self.now);
            return ended.map_err(|error| unread(&error));
        }
        let its = self.ended.iter().filter(|it| {
            let over = it.until.is_some_and(|until| until <= self.now);
            over && it.scope == *scope && it.is_of(&rule.budget)
        });
        let window = |it: &State| {
            Some(Ended {
                since: it.since,
                until: it.until?,
                used: it.used,
                parts: Vec::new(),
            })
        };
        let mut ended: Vec<Ended> = its.filter_map(window).collect();
        ended.sort_by_key(|it| Reverse(it.since));
        ended.truncate(most);
        Ok(ended)
    }

    fn unused(&self, rule: &'a BudgetRule, place: usize) -> Found<'a> {
        Found {
            rule: Some(rule),
            state: None,
            scope: rule.budget.per.is_empty().then(Scope::all),
            place,
        }
    }

    fn foretold(&self, found: &Found<'_>) -> Result<BudgetAccount, Problem> {
        let mut account = told::account(found, self.now);
        match self.forecast(found)? {
            Ok(forecast) => account.forecast = Some(told::forecast(&forecast)),
            Err(why) => account.no_forecast = Some(why.to_owned()),
        }
        Ok(account)
    }

    /// How it goes on; or why that cannot be said.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn forecast(
        &self,
        found: &Found<'_>,
    ) -> Result<Result<agentguard_budget::Forecast, &'static str>, Problem> {
        use agentguard_budget::Forecast;
        let Some(rule) = found.rule else {
            return Ok(Err("nothing is charged to it: the policy does not have it"));
        };
        let Some(scope) = &found.scope else {
            return Ok(Err("nothing was charged to the budget yet"));
        };
        let budget = &rule.budget;
        match budget.unit {
            Unit::ConcurrentCalls => {
                return Ok(Err("calls at the same time are not used up"));
            }
            Unit::WallTime => {
                let state = found.state.filter(|it| it.used > 0);
                return Ok(
                    state.map_or(Err("its time begins with the next call"), |state| {
                        let (limit, used) = (budget.limit, state.used);
                        Ok(Forecast::of_time(limit, used, self.now, state.until))
                    }),
                );
            }
            _ => {}
        }
        let Some(history) = self.ledger.history() else {
            return Ok(Err(NO_HISTORY));
        };
        let course = history.course(budget, scope, self.now);
        let course = course.map_err(|error| unread(&error))?;
        let forecast = course.and_then(|course| Forecast::of(&course));
        Ok(forecast.ok_or("too little is known: nothing was used lately, or the window has just begun and too few ended before it"))
    }

    fn no_budget(&self, id: &str) -> Problem {
        let rules = self.policy.budgets().iter();
        let names: Vec<String> = rules.map(|it| it.budget.id.to_string()).collect();
        let message = format!("there is no budget `{}`", shown(id));
        Problem::new(ProblemCode::NotFound, message).hint(hint(id, &names))
    }

    fn no_account(&self, name: &str, rule: Option<&BudgetRule>) -> Problem {
        let all = self.fullest();
        let there = all.iter().filter(|it| it.scope.is_some());
        let names = there.clone().map(Found::name);
        let own: Vec<String> = match rule {
            Some(rule) => there
                .filter(|it| it.budget() == &*rule.budget.id)
                .map(Found::name)
                .collect(),
            None => Vec::new(),
        };
        let message = match rule {
            None => format!("there is no account `{}`", shown(name)),
            Some(_) if own.is_empty() => format!(
                "nothing was charged to `{}` in the window that is under way, nor in an earlier one",
                shown(name)
            ),
            Some(rule) if !name.contains('/') && !rule.budget.per.is_empty() => {
                let per: Vec<String> = rule.budget.per.iter().map(ToString::to_string).collect();
                format!(
                    "`{}` has an account for each {}",
                    shown(name),
                    per.join(" and ")
                )
            }
            Some(_) => format!("nothing was charged to `{}`", shown(name)),
        };
        let names: Vec<String> = if own.is_empty() { names.collect() } else { own };
        Problem::new(ProblemCode::NotFound, message).hint(hint(name, &names))
    }
}

impl Found<'_> {
    /// The budget's id.
    #[must_use]
    pub fn budget(&self) -> &str {
        match (self.rule, self.state) {
            (Some(rule), _) => &rule.budget.id,
            (None, Some(state)) => &state.budget,
            (None, None) => "",
        }
    }

    /// How it is called.
    #[must_use]
    pub fn name(&self) -> String {
        match self.scope.as_ref().map(Scope::as_str) {
            None | Some("") => self.budget().to_owned(),
            Some(scope) => format!("{}/{scope}", self.budget()),
        }
    }

    /// How much of its limit is used and held, in millionths. None: it has none.
    #[must_use]
    pub fn full(&self) -> Option<u64> {
        let limit = u128::from(self.rule?.budget.limit);
        let taken = self
            .state
            .map_or(0, |state| state.used.saturating_add(state.held));
        let full = (u128::from(taken) * 1_000_000).checked_div(limit)?;
        Some(u64::try_from(full).unwrap_or(u64::MAX))
    }
}

/// The agent that a scope names.
fn agent_of(scope: &Scope) -> Option<&str> {
    scope.value(&Dimension::Agent)
}

fn hint(name: &str, names: &[String]) -> String {
    let near = nearest(name, names);
    match near.split_last() {
        None => "`agentguard budget list` has those that are there".to_owned(),
        Some((one, [])) => format!("did you mean `{one}`? `agentguard budget list` has all"),
        Some((last, others)) => format!(
            "did you mean `{}` or `{last}`? `agentguard budget list` has all",
            others.join("`, `")
        ),
    }
}

/// The names most like one, the most like first.
fn nearest<'n>(name: &str, names: &'n [String]) -> Vec<&'n str> {
    if name.len() > COMPARED {
        return Vec::new();
    }
    let short = names.iter().filter(|it| it.len() <= COMPARED);
    let mut like: Vec<(f64, &str)> = short
        .map(|it| (strsim::jaro_winkler(name, it), it.as_str()))
        .filter(|(like, _)| *like >= LIKE)
        .collect();
    like.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
    like.truncate(NEAREST);
    like.into_iter().map(|(_, name)| name).collect()
}

/// What somebody wrote, for a message: harmless and bounded.
fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

fn unread(error: &std::io::Error) -> Problem {
    let message = format!("the ledger cannot be read: {error}");
    Problem::new(ProblemCode::Internal, message)
        .hint("look at the daemon's log: journalctl -u agentguard")
}
