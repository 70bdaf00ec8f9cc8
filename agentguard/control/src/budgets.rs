//! Accounts of budgets, as they travel: how full they are, where their budgets stand, and how it goes on.
//!
//! [`Books`] puts what the ledger has beside what the policy says; `told` makes what travels of it.

mod books;
mod told;

use std::sync::Arc;

use agentguard_budget::{AnyLedger, Listed};
use agentguard_model::budget::{Reached, Unit};
use agentguard_model::{AgentName, Mode, Source};
use agentguard_policy::Policy;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Problem, ProblemCode};

pub use books::{Books, Found};

/// The accounts of one answer, at most: those of whose limit most is used and held. How many there are beside is told.
pub const MAX_TOLD: usize = 10_000;

/// The same of an answer with forecasts, for each of which up to 400 earlier windows are read.
pub const MAX_FORECAST: usize = 256;

/// The windows that ended of one account, at most: the latest.
pub const MAX_ENDED: usize = 12;

/// The longest name of an account that is looked for, in bytes.
pub const MAX_NAME: usize = 4096;

/// Which accounts are meant.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BudgetQuery {
    /// Those of this budget.
    pub budget: Option<String>,
    /// Those that something of this agent's may be charged to.
    pub agent: Option<AgentName>,
    /// With a forecast of each.
    pub forecast: bool,
}

/// The answer to `GET /v1/budgets`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct BudgetAccounts {
    /// By budgets, in the order of the policy; of each the fullest first. Those that the policy does not have any more
    /// stand at the end.
    pub accounts: Vec<BudgetAccount>,
    /// How many there are beside, that are less full than these.
    #[serde(default)]
    pub more: usize,
    /// How many there are beside, at which nobody has looked: of accounts that hosts share, 16,384 are looked at.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unread: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_none(count: &usize) -> bool {
    *count == 0
}

/// An account of a budget. Amounts are in its unit: `micro_usd` are millionths of a US dollar, `wall_time` are
/// milliseconds.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BudgetAccount {
    /// How it is called: the budget's id, and behind a `/` the scope, where the budget has several.
    pub account: String,
    /// The budget's id.
    pub budget: String,
    /// Which of its accounts: `agent=coder,user=ada`. Empty where it has one for all, and where there is none yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// What is counted.
    pub unit: Unit,
    /// For how long it counts: `minute`, `hour`, `day ZONE`, `week ZONE`, `month ZONE`, `sliding 3600s`, `lifetime`.
    pub window: String,
    /// How it is with the account.
    pub state: AccountState,
    /// How much there is in a window. Absent where the policy does not have the budget any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How much was used that counts now.
    pub used: u64,
    /// How much is held for calls that are under way.
    pub held: u64,
    /// What is left of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// How much of the limit is used and held, in percent, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    /// What of `used` was more than was held for it.
    pub overshoot: u64,
    /// When its window began. Absent where that has no beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    /// When its window ends. Absent where it does not end by the clock: a sliding window gives back bit by bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub resets: Option<Timestamp>,
    /// How the policy has the budget: where one account is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<BudgetInPolicy>,
    /// When it was charged first: where one account is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub first: Option<Timestamp>,
    /// When it was charged last: where one account is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last: Option<Timestamp>,
    /// Its windows that ended, the latest first and twelve at most: where one account is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<BudgetWindow>,
    /// How it goes on: where that was asked for and can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<BudgetForecast>,
    /// Why it was asked for and cannot be said, in a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_forecast: Option<String>,
}

/// How it is with an account.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// It was charged in the window that is under way.
    Open,
    /// Nothing was charged in the window that is under way.
    Unused,
    /// The policy does not have the budget any more, or has another unit or window: nothing is charged to it.
    LeftOver,
}

/// How the policy has a budget.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BudgetInPolicy {
    /// Where it stands.
    pub source: Source,
    /// How far it goes.
    pub mode: Mode,
    /// What becomes of a call for which nothing is left.
    pub reached: Reached,
    /// What tells its accounts apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per: Vec<String>,
    /// Its own sentence for the person whose call is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A window that ended.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BudgetWindow {
    /// When it began.
    #[schemars(with = "String")]
    pub since: Timestamp,
    /// When it ended.
    #[schemars(with = "String")]
    pub until: Timestamp,
    /// How much was used in it.
    pub used: u64,
}

/// How the use of an account goes on.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BudgetForecast {
    /// What is used in an hour, over the last quarter of a window.
    pub burn_rate: u64,
    /// The same since the window began.
    pub burn_rate_of_window: u64,
    /// When the limit is reached. Absent: not in this window, as far as can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted: Option<BudgetExhausted>,
    /// What is used when the window ends. Absent: it does not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_end: Option<BudgetAtEnd>,
    /// From what it is said.
    pub basis: ForecastBasis,
    /// From how many windows that ended, if from these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<u32>,
    /// How often the truth lies within an interval, in percent.
    pub confidence: u8,
}

/// When a limit is reached.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BudgetExhausted {
    /// Probably not before.
    #[schemars(with = "String")]
    pub earliest: Timestamp,
    /// Most likely. Absent: it is possible only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub at: Option<Timestamp>,
    /// Probably not after. Absent: perhaps never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub latest: Option<Timestamp>,
}

/// What is used when a window ends.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BudgetAtEnd {
    /// Probably not less.
    pub low: u64,
    /// The mean.
    pub expected: u64,
    /// Probably not more.
    pub high: u64,
}

/// From what a forecast is made.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ForecastBasis {
    /// What was used lately.
    Recent,
    /// Windows that ended.
    Seasonal,
    /// The clock: time passes as fast as ever.
    Clock,
}

impl BudgetQuery {
    /// Reads a query string.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut query = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            if seen.iter().any(|it| *it == key) {
                return Err(Problem::bad_request(format!("`{key}` is given twice")));
            }
            match &*key {
                "budget" => query.budget = Some(value.into_owned()),
                "agent" => {
                    let agent = value.parse();
                    let agent = agent.map_err(|error: agentguard_model::InvalidName| {
                        Problem::bad_request(error.to_string())
                    });
                    query.agent = Some(agent?);
                }
                "forecast" => {
                    query.forecast = match &*value {
                        "true" => true,
                        "false" => false,
                        _ => {
                            return Err(Problem::bad_request("`forecast` is `true` or `false`"));
                        }
                    };
                }
                _ => return Err(no_parameter(&key, "budget, agent and forecast are there")),
            }
            seen.push(key.into_owned());
        }
        Ok(query)
    }

    /// The query string that [`Self::parse`] reads back.
    #[must_use]
    pub fn to_query_string(&self) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        if let Some(budget) = &self.budget {
            out.append_pair("budget", budget);
        }
        if let Some(agent) = &self.agent {
            out.append_pair("agent", agent.as_str());
        }
        if self.forecast {
            out.append_pair("forecast", "true");
        }
        out.finish()
    }
}

/// The query string that asks for one account.
pub(crate) fn named(account: &str) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    out.append_pair("name", account);
    out.finish()
}

/// Many accounts.
pub(crate) async fn list(
    ledger: &AnyLedger,
    policy: Arc<Policy>,
    query: &str,
) -> Result<BudgetAccounts, Problem> {
    let query = BudgetQuery::parse(query)?;
    let now = Timestamp::now();
    let (ledger, listed) = (ledger.clone(), listed(ledger, now).await?);
    let look = move || Books::of(&policy, &ledger, listed, now).list(&query);
    looked(tokio::task::spawn_blocking(look).await)
}

/// One account, with all that there is to say of it.
pub(crate) async fn show(
    ledger: &AnyLedger,
    policy: Arc<Policy>,
    query: &str,
) -> Result<BudgetAccount, Problem> {
    let mut name = None;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if key != "name" {
            return Err(no_parameter(&key, "name is there"));
        }
        if name.replace(value.into_owned()).is_some() {
            return Err(Problem::bad_request("`name` is given twice"));
        }
    }
    let Some(name) = name else {
        return Err(Problem::bad_request("`name` has to be given"));
    };
    let now = Timestamp::now();
    let (ledger, listed) = (ledger.clone(), listed(ledger, now).await?);
    let look = move || Books::of(&policy, &ledger, listed, now).show(&name);
    looked(tokio::task::spawn_blocking(look).await)
}

/// The accounts of a ledger.
///
/// # Errors
/// It is away.
pub async fn listed(ledger: &AnyLedger, now: Timestamp) -> Result<Listed, Problem> {
    let listed = ledger.accounts(now.as_millisecond()).await;
    listed.map_err(|refused| {
        let message = format!("the accounts that hosts share cannot be read: {refused}");
        Problem::new(ProblemCode::Internal, message)
            .hint("`agentguard status` says since when; what is used meanwhile is charged once Redis is back")
    })
}

fn looked<T>(looked: Result<Result<T, Problem>, tokio::task::JoinError>) -> Result<T, Problem> {
    looked.unwrap_or_else(|died| Err(Problem::new(ProblemCode::Internal, died.to_string())))
}

fn no_parameter(key: &str, there: &str) -> Problem {
    let shown: String = key.chars().take(40).collect();
    Problem::bad_request(format!("there is no parameter `{shown}`")).hint(there)
}

#[cfg(test)]
mod tests;
