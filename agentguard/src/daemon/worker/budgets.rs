//! Accounts of budgets: what operators say that they have used, and how full they are for figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_budget::{AnyLedger, Listed, Refused, Scope, State};
use agentguard_control::api::Problem;
use agentguard_control::budgets::{Books, listed};
use agentguard_decision::{Change, Decider, Recorder};
use agentguard_keeper::message::BudgetOrder;
use agentguard_model::budget::{Dimension, Unit};
use agentguard_policy::{MAX_LIMIT, Policy, amount};
use agentguard_telemetry::{BudgetVitals, MAX_ACCOUNTS};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the accounts of a Redis are read for figures, at most.
const READ: Duration = Duration::from_secs(15);

/// The pause until they are read again, as a multiple of what reading them took.
const SHARE: u32 = 50;

/// Does what an operator wants: it is recorded, then done. With what was done, for a person; or why nothing was.
pub(super) async fn obey<R: Recorder>(
    order: BudgetOrder,
    uid: u32,
    policy: Arc<Policy>,
    ledger: AnyLedger,
    decider: &Decider<R>,
) -> Result<String, String> {
    let (reason, books, now) = (order.reason.clone(), ledger.clone(), Timestamp::now());
    let all = listed(&ledger, now).await.map_err(told)?;
    let said = move || said(&order, &Books::of(&policy, &books, all, now));
    let said = tokio::task::spawn_blocking(said).await;
    let said = said.map_err(|died| died.to_string())??;
    let why = reason.map(|reason| format!(": {reason}"));
    let recorded = decider.changed(Change {
        done: said.done.to_owned(),
        message: format!("{}, by uid {uid}{}", said.text, why.unwrap_or_default()),
        uid,
        agent: said
            .account
            .scope
            .value(&Dimension::Agent)
            .and_then(|it| it.parse().ok()),
    });
    recorded
        .await
        .map_err(|refused| format!("it cannot be recorded, so it is not done: {refused}"))?;
    let now = Timestamp::now().as_millisecond();
    match ledger.set(&said.account, said.used, now).await {
        Ok(true) => Ok(said.text),
        Ok(false) => Err(
            "its window has just ended; hint: `agentguard budget list` has the new one".to_owned(),
        ),
        Err(away @ Refused::Away(_)) => Err(format!(
            "whether it was done is not known: {away}; hint: `agentguard budget show` tells it once Redis is back"
        )),
        Err(error) => Err(error.to_string()),
    }
}

fn told(problem: Problem) -> String {
    let hint = problem.hint.map(|hint| format!("; hint: {hint}"));
    format!("{}{}", problem.message, hint.unwrap_or_default())
}

/// What an operator says of an account.
#[derive(Debug)]
struct Said {
    account: State,
    used: u64,
    /// What is done, in a word and in a sentence.
    done: &'static str,
    text: String,
}

fn said(order: &BudgetOrder, books: &Books<'_>) -> Result<Said, String> {
    let found = books.find(&order.account).map_err(told)?;
    let name = found.name();
    let Some(rule) = found.rule else {
        return Err(format!(
            "nothing is charged to `{name}`: the policy does not have the budget any more, or has another unit or window; \
             hint: `agentguard budget list` has those of the policy"
        ));
    };
    let Some(account) = found.state else {
        return Err(format!(
            "nothing was charged to `{name}` in the window that is under way, so that there is nothing to change"
        ));
    };
    let unit = rule.budget.unit;
    if unit == Unit::ConcurrentCalls {
        return Err(format!(
            "calls at the same time are held and not used, and what calls under way hold stays theirs: there is nothing \
             to change of `{name}`"
        ));
    }
    let (used, done, what) = match &order.used {
        None => (0, "budget_reset", "nothing".to_owned()),
        Some(text) => {
            let used = used(unit, text)?;
            (used, "budget_set", unit.amount(used))
        }
    };
    Ok(Said {
        text: format!(
            "{name} counts as having used {what} from now on; it was {}",
            unit.amount(account.used)
        ),
        account: account.clone(),
        used,
        done,
    })
}

fn used(unit: Unit, text: &str) -> Result<u64, String> {
    let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    let used = amount(unit, text.trim()).map_err(|like| {
        // A shell has put what its variable `5` is in the place of `$5`.
        let quoted = match unit {
            Unit::MicroUsd => "; in quotes, or a shell takes `$` for a variable: \'$25\'",
            _ => "",
        };
        format!("`{shown}` is no amount of `{unit}`; hint: {like}{quoted}")
    })?;
    if used > MAX_LIMIT {
        return Err(format!(
            "`{shown}` is more than there can be of `{unit}`; hint: at most {MAX_LIMIT}"
        ));
    }
    if unit == Unit::Destinations && used > 0 {
        return Err("destinations are counted by what they are, and a number names none; hint: `agentguard budget reset` forgets those that were counted".to_owned());
    }
    Ok(used)
}

/// Where figures of accounts come from.
#[derive(Debug)]
pub(super) struct Figures {
    ledger: AnyLedger,
    /// Those of Redis, as they were lately.
    lately: Arc<ArcSwap<Listed>>,
}

impl Figures {
    /// Of a Redis they are read from now on, again and again, until it is over.
    pub(super) fn new(ledger: AnyLedger, tasks: &TaskTracker, over: &CancellationToken) -> Self {
        let lately = Arc::<ArcSwap<Listed>>::default();
        if let AnyLedger::Shared(_) = ledger {
            let reads = reads(ledger.clone(), lately.clone());
            let over = over.clone();
            tasks.spawn(async move { over.run_until_cancelled(reads).await });
        }
        Self { ledger, lately }
    }

    /// The fullest accounts of the policy's budgets, and how many there are.
    pub(super) fn vitals(&self, policy: &Policy) -> (Vec<BudgetVitals>, u64) {
        let now = Timestamp::now();
        let listed = match &self.ledger {
            AnyLedger::Embedded(embedded) => Listed {
                states: embedded.accounts(now.as_millisecond()),
                unread: 0,
            },
            AnyLedger::Shared(_) => (**self.lately.load()).clone(),
        };
        let unread = u64::try_from(listed.unread).unwrap_or(u64::MAX);
        let (told, count) = vitals(&Books::of(policy, &self.ledger, listed, now));
        (told, count.saturating_add(unread))
    }
}

/// Reads the accounts of a Redis now and then. What cannot be read stays as it was; that it is away is a figure, too.
async fn reads(ledger: AnyLedger, lately: Arc<ArcSwap<Listed>>) {
    loop {
        let began = Instant::now();
        if let Ok(listed) = ledger.accounts(Timestamp::now().as_millisecond()).await {
            lately.store(Arc::new(listed));
        }
        // However many there are and however slow it is, it is not kept busy by this.
        tokio::time::sleep(READ.max(began.elapsed().saturating_mul(SHARE))).await;
    }
}

/// The fullest accounts of the policy's budgets, and how many there are.
fn vitals(books: &Books<'_>) -> (Vec<BudgetVitals>, u64) {
    let mut all = books.fullest();
    all.retain(|it| it.rule.is_some() && it.state.is_some());
    let told = all.iter().take(MAX_ACCOUNTS).filter_map(|it| {
        let (budget, state) = (&it.rule?.budget, it.state?);
        Some(BudgetVitals {
            budget: budget.id.to_string(),
            scope: it.scope.as_ref().map_or_else(String::new, Scope::to_string),
            unit: budget.unit.to_string(),
            used: state.used,
            held: state.held,
            limit: budget.limit,
        })
    });
    (told.collect(), u64::try_from(all.len()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
