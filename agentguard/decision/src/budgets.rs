//! What calls are charged with before they leave, and what they have used in the end.
//!
//! A call that the policy allows reserves from all of its budgets at once, or is refused. Where all that it writes is seen,
//! it reserves a part of its limit at a time, and more as it is written. What is known of its use when it is over is
//! settled; where nothing is, it has used all that was reserved.

mod bytes;
mod counted;
mod held;
mod scopes;
mod soft;
mod under_way;

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_budget::prices::{Caches, Priced, Prices, Served};
use agentguard_budget::tokens::Counted;
use agentguard_budget::{
    Charge, Dearest, Estimate, Granted, Ledger, ModelFacts, Refused, Short, Terms, Want,
};
use agentguard_model::budget::{Budget, Reached, Spent, Unit};
use agentguard_model::{
    AgentId, BudgetLine, Demand, Llm, Matched, Mode, Reason, ReasonCode, Verdict,
};
use agentguard_policy::{
    AgentPolicy, BudgetRule, Charged, Policy, Request, Ruling, RulingOutcome, Seen,
};
use arc_swap::ArcSwap;
use jiff::Timestamp;

pub use bytes::{Grant, Way};
pub(crate) use held::UNBILLED;
pub use held::{Held, Used};
pub use soft::Level;

use crate::decider::Decider;
use crate::port::{Client, Recorder, Says, Target};
use bytes::Passing;
use counted::{Counting, Turns};
use held::Pricing;
pub(crate) use scopes::Behind;
use soft::Levels;

/// How many tokens of visible output are reserved at a time, at most. What a call has when it breaks off counts as used, so
/// that this is what a client that goes away pays for at most beyond what came. See [`Held::saw`] for what its provider
/// writes on.
pub const SLICE: u64 = 1024;

/// How many a call begins with, and how many are reserved at a time, at least, where little is left for several.
const FIRST: u64 = 256;

/// For how long a call waits for what others hold, before it leaves and while it is under way. They mostly use less.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it asks meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

/// How often it is asked whether a call that has reached its time may go on, in milliseconds.
const AT_THE_CLOCK: i64 = 1000;

/// With fewer tokens left a call does not begin: some providers refuse a lower limit, and no answer has fewer.
const LEAST: u64 = 16;

/// When a client that is refused since others hold what is left is to come again, in seconds: calls end within moments.
const HELD_FOR: u64 = 2;

/// The engine's name in [`Matched`].
const ENGINE: &str = "budget";

/// Where budgets are kept, and what models cost.
pub struct Accounting {
    ledger: Arc<dyn Ledger>,
    prices: ArcSwap<Prices>,
    levels: ArcSwap<Levels>,
    /// Whose call is counted.
    turns: Turns,
    freezer: Option<Freezer>,
}

/// Has an agent stopped whose budget is spent: the agent, and the budget's id. It does not wait.
pub type Freezer = Box<dyn Fn(AgentId, &str) + Send + Sync>;

impl std::fmt::Debug for Accounting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounting").finish_non_exhaustive()
    }
}

/// What becomes of what the policy allows.
pub(crate) enum Charging {
    /// Nothing is charged for it.
    Free,
    /// It holds this.
    Held(Arc<Held>),
    /// A budget has too little.
    Refused(Box<Denial>),
}

/// Why a budget or a limit refuses.
pub(crate) struct Denial {
    pub(crate) reason: Reason,
    pub(crate) matched: Vec<Matched>,
    /// The account that has too little; none where nothing could be asked.
    pub(crate) spent: Option<Box<Spent>>,
    /// In how many seconds its client may come again, where something else than a budget says so.
    pub(crate) retry_after: Option<u64>,
}

impl Denial {
    /// The budget that refuses, as a policy has it.
    fn rule<'a>(&self, policy: &'a Policy) -> Option<&'a BudgetRule> {
        policy.budget(&self.spent.as_ref()?.budget)
    }

    /// As a ruling, in the place of one that allows.
    pub(crate) fn ruling(self) -> Ruling {
        Ruling {
            outcome: RulingOutcome::Deny,
            verdict: Verdict::Deny,
            enforced: true,
            mode: Mode::Enforce,
            reason: self.reason,
            matched: self.matched,
            changes: Vec::new(),
            on_paper: Vec::new(),
            captures: false,
            cuts: false,
        }
    }
}

impl Accounting {
    /// With this ledger, and the prices that are built in.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            prices: ArcSwap::from_pointee(Prices::built_in().clone()),
            levels: ArcSwap::default(),
            turns: Turns::default(),
            freezer: None,
        }
    }

    /// The same, that has agents stopped where a budget is spent for which its policy says so.
    #[must_use]
    pub fn freezing(mut self, freezer: Freezer) -> Self {
        self.freezer = Some(freezer);
        self
    }

    /// Has an agent stopped that is refused by a budget that is spent, if its policy says so. One of which more than a
    /// hundredth is left is not: there was too little for this call, which may never have used what it might have.
    fn freeze(&self, agent: AgentId, denial: &Denial, rule: Option<&BudgetRule>) {
        let is_spent = |it: &Spent| it.limit.saturating_sub(it.used) <= it.limit / 100;
        // What others hold of the last of it is little, and may be for long: a connection holds a byte while it is open.
        let has_too_little = matches!(
            denial.reason.code,
            ReasonCode::BudgetExhausted | ReasonCode::BudgetHeld
        );
        let spent = has_too_little && denial.spent.as_deref().is_some_and(is_spent);
        let rule = rule.filter(|rule| spent && rule.budget.reached == Reached::Freeze);
        if let (Some(rule), Some(freezer)) = (rule, &self.freezer) {
            freezer(agent, &rule.budget.id);
        }
    }

    /// Reserves, and waits for a moment where others hold what is left: before it has less than it wants, and before it has
    /// nothing. Before all of that it is counted, where it may be less than it was taken for; then that is what it wants.
    async fn reserve(
        &self,
        want: &mut Want,
        counting: &mut Counting<'_>,
    ) -> Result<Granted, Refused> {
        if want.charges.is_empty() {
            return Ok(Granted::nothing());
        }
        let patience = Instant::now() + PATIENCE;
        let least = std::mem::replace(&mut want.least, want.tokens);
        loop {
            let now = Timestamp::now().as_millisecond();
            let reserved = self.ledger.reserve(want, now).await;
            if counting.may_help(want, least, &reserved) {
                let short = match reserved {
                    Ok(granted) => {
                        // Nobody is to wait for it meanwhile, and nobody else would give it back. Where hosts share the
                        // ledger, that has heard of it in a moment.
                        let nothing = vec![0; want.charges.len()];
                        self.ledger.settle(granted.id, Some(&nothing), now);
                        tokio::time::sleep(AGAIN).await;
                        None
                    }
                    Err(Refused::Short(short)) => Some(short),
                    Err(_) => None,
                };
                counting.count(want, least, short).await;
                continue;
            }
            let late = Instant::now() >= patience;
            match reserved {
                Err(Refused::Short(_)) if want.least > least && (late || !may_pass(&reserved)) => {
                    want.least = least;
                }
                // While Redis is away there may be enough of what was drawn in advance for less.
                Err(Refused::LeaseSpent(_)) if want.least > least => want.least = least,
                reserved if late || !may_pass(&reserved) => return reserved,
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// The model of a call by the name of its price, where it has one.
    pub(crate) fn named(&self, llm: &Llm) -> Option<String> {
        let prices = self.prices.load();
        named(&prices.of(&llm.provider, llm.model.as_deref()?))
    }

    /// From now on models cost this.
    pub fn price(&self, prices: Arc<Prices>) {
        self.prices.store(prices);
    }
}

/// What is known of a call of a language model before it leaves.
struct Asks {
    estimate: Estimate,
    price: Dearest,
    pricing: Pricing,
    /// The model that its name is one of many names for, where that is known.
    named: Option<String>,
    /// Whether its provider bills what it filters (Azure's "Content filtering").
    bills_filtered: bool,
}

impl Asks {
    fn of(prices: &Arc<Prices>, llm: &Llm, demand: &Demand, target: &Target, bytes: u64) -> Self {
        Self::counting(prices, llm, demand, target, bytes, None)
    }

    /// The same of a call that has been counted, where it has.
    fn counting(
        prices: &Arc<Prices>,
        llm: &Llm,
        demand: &Demand,
        target: &Target,
        bytes: u64,
        counted: Option<Counted>,
    ) -> Self {
        let priced = prices.of(&llm.provider, llm.model.as_deref().unwrap_or_default());
        let mut served = Served::of(demand);
        served.regional |= is_regional(target);
        let caches = Caches::of(demand);
        let facts = ModelFacts::of(priced.rate);
        let estimate = Estimate::counting(llm, demand, bytes, counted, &facts);
        Self {
            price: Dearest::of(priced.rate, served, caches, estimate.input),
            estimate,
            named: named(&priced),
            bills_filtered: llm.provider == "azure_openai",
            pricing: Pricing::of(&priced, served, caches),
        }
    }
}

/// The model that has a price, by its name there. None: it is not known, or has that of all.
fn named(priced: &Priced<'_>) -> Option<String> {
    (priced.known && priced.name != ANY).then(|| priced.name.to_owned())
}

impl Pricing {
    fn of(priced: &Priced<'_>, served: Served, caches: Caches) -> Self {
        Self {
            rate: priced.rate.clone(),
            served,
            caches,
            of: match priced.known {
                true => priced.name.to_owned(),
                false => UNKNOWN.to_owned(),
            },
        }
    }
}

/// Hosts of providers that have one for each region below their own, and take more there: OpenAI's "Data residency" and
/// xAI's "Regional Endpoints".
const REGIONS: [&str; 2] = [".api.openai.com", ".api.x.ai"];

/// Whether what is sent there is served in one region alone.
fn is_regional(target: &Target) -> bool {
    let host = target.host.as_ref();
    host.is_some_and(|host| REGIONS.iter().any(|it| host.as_str().ends_with(it)))
}

/// What a provider's models cost that have no price of their own.
const ANY: &str = "*";

/// In the place of the model's name whose price is charged, where nobody knows it.
const UNKNOWN: &str = "unknown model, at the dearest price of each kind of token";

impl<R: Recorder> Decider<R> {
    /// Charges what the policy allows. `demand` is that of a call of a language model, and `says` its content; `carries`: how
    /// many bytes of content it has by itself, as far as that is known; none where it is a message of what has.
    pub(crate) async fn charge(
        &self,
        policy: &Policy,
        client: &Client,
        target: &Target,
        seen: Seen<'_>,
        said: (&Demand, Option<&dyn Says>, Option<u64>),
    ) -> Charging {
        match self.accounting() {
            // Mostly there is something to do or not by the policy, and a future is as large as all that it may do.
            Some(accounting) if !policy.budgets().is_empty() => {
                Box::pin(self.charge_by(accounting, policy, client, target, seen, said)).await
            }
            _ => Charging::Free,
        }
    }

    async fn charge_by(
        &self,
        accounting: &Accounting,
        policy: &Policy,
        client: &Client,
        target: &Target,
        seen: Seen<'_>,
        (demand, says, carries): (&Demand, Option<&dyn Says>, Option<u64>),
    ) -> Charging {
        let nothing = Request::new("", "");
        let request = match &seen {
            Seen::Request(request) => request,
            _ => &nothing,
        };
        let Ok(agent) = self.agent(policy, client.agent) else {
            return Charging::Free;
        };
        let charged = Charged::of(request);
        let rules = policy.budgets().iter();
        let rules = rules.filter(|it| it.is_charged(agent, charged));
        // What opens a connection for calls is none itself, and carries them.
        let counts = |unit: Unit| match unit.is_bytes() {
            true => carries.is_some(),
            false => !request.opens_calls,
        };
        let rules: Vec<&BudgetRule> = rules.filter(|it| counts(it.budget.unit)).collect();
        if rules.is_empty() {
            return Charging::Free;
        }
        let (named, mut context) = self.directory().describe(client.agent, client.run, policy);
        for claim in agent.trusted(request.claims) {
            context.fill(&claim.context);
        }
        let prices = accounting.prices.load_full();
        let asks = match charged {
            Charged::Llm(llm) => Some(Asks::of(&prices, llm, demand, target, request.body)),
            Charged::Tool(_) | Charged::Other => None,
        };
        let behind = Behind {
            agent: named.as_ref(),
            context: &context,
            target,
            charged,
            model: asks.as_ref().and_then(|it| it.named.as_deref()),
        };
        let charges = rules.iter().map(|rule| Charge {
            budget: in_force(rule, agent),
            scope: behind.scope(&rule.budget.per),
            terms: terms(rule.budget.unit, asks.as_ref()),
            place: behind.place(),
        });
        let charges: Vec<Charge> = charges.collect();
        let softly = accounting.softly(agent, &rules, &charges);
        if let Some(slow) = softly.slow {
            tokio::time::sleep(slow).await;
        }
        let charges = rules.into_iter().zip(charges);
        let (bytes, calls): (Vec<_>, Vec<_>) =
            charges.partition(|(rule, _)| rule.budget.unit.is_bytes());
        let (rules, charges): (Vec<&BudgetRule>, Vec<Charge>) = calls.into_iter().unzip();
        let passing = match bytes.is_empty() {
            true => None,
            false => match Passing::begins(accounting, bytes, request, carries).await {
                Ok(passing) => Some(passing),
                Err(denial) => {
                    accounting.freeze(client.agent, &denial, denial.rule(policy));
                    return Charging::Refused(Box::new(denial));
                }
            },
        };
        // Where nothing but bytes is charged it is no matter what it has a model write.
        let asks = asks.filter(|_| !charges.is_empty());
        let mut want = want(charges, asks.as_ref().map(|it| &it.estimate));
        let mut counting = Counting {
            turns: &accounting.turns,
            agent: client.agent,
            prices: &prices,
            llm: match charged {
                Charged::Llm(llm) => Some(llm),
                Charged::Tool(_) | Charged::Other => None,
            },
            demand,
            target,
            bytes: request.body,
            says,
            asks,
            tried: false,
        };
        match accounting.reserve(&mut want, &mut counting).await {
            Ok(granted) => {
                let asks = counting.asks;
                let held = Held::new(&accounting.ledger, want, granted, asks).telling(softly.told);
                Charging::Held(Arc::new(held.carrying(passing)))
            }
            Err(refused) => {
                if let Some(passing) = passing {
                    passing.ends();
                }
                let rule = |place: usize| rules.get(place).copied();
                let denial = denial(refused, rule, &want);
                accounting.freeze(client.agent, &denial, denial.rule(policy));
                Charging::Refused(Box::new(denial))
            }
        }
    }
}

/// The budget of a rule as it holds for an agent: on paper it limits nothing.
fn in_force(rule: &BudgetRule, agent: &AgentPolicy) -> Arc<Budget> {
    if rule.is_enforced(agent) {
        return Arc::clone(&rule.budget);
    }
    Arc::new(Budget {
        reached: Reached::Alert,
        ..(*rule.budget).clone()
    })
}

fn terms(unit: Unit, asks: Option<&Asks>) -> Terms {
    match (unit, asks) {
        (unit, _) if unit.is_bytes() => bytes::TERMS,
        (_, Some(asks)) => asks.estimate.terms(unit, asks.price),
        (Unit::ToolCalls, None) => Terms {
            fixed: 1,
            per_million: 0,
        },
        (_, None) => Terms::default(),
    }
}

/// What a call reserves before it leaves.
fn want(charges: Vec<Charge>, estimate: Option<&Estimate>) -> Want {
    let (tokens, least, most) = match estimate {
        None => (0, 0, 0),
        Some(estimate) => {
            let first = match estimate.visible {
                true => estimate.output.min(FIRST),
                false => estimate.output,
            };
            let least = first.min(LEAST.saturating_mul(estimate.answers));
            (first, least, estimate.output)
        }
    };
    Want {
        charges,
        tokens,
        least,
        most,
    }
}

/// Whether there may be enough in a moment.
fn may_pass<T>(asked: &Result<T, Refused>) -> bool {
    matches!(asked, Err(Refused::Short(short)) if short.may_pass())
}

/// Whether the ledger that hosts share does not answer.
const fn is_away<T>(asked: &Result<T, Refused>) -> bool {
    matches!(asked, Err(Refused::Away(_) | Refused::LeaseSpent(_)))
}

/// Why a ledger refused, for the person whose call it was.
fn denial<'a>(
    refused: Refused,
    rule: impl Fn(usize) -> Option<&'a BudgetRule>,
    want: &Want,
) -> Denial {
    let short = match refused {
        Refused::Short(short) => short,
        // Where it is and what is wrong with it is not for the agent: `agentguard status` and the log say it.
        Refused::Away(_) => return unwritten("the ledger that hosts share does not answer"),
        Refused::LeaseSpent(_) => {
            return unwritten(
                "the ledger that hosts share does not answer, and too little is left of what was drawn from it in advance",
            );
        }
        other => return unwritten(&other.to_string()),
    };
    let (Some(rule), Some(charge)) = (rule(short.charge), want.charges.get(short.charge)) else {
        return unwritten("a budget of it is not there any more");
    };
    let code = match short.may_pass() {
        true => ReasonCode::BudgetHeld,
        false => ReasonCode::BudgetExhausted,
    };
    let matched = Matched {
        engine: ENGINE.to_owned(),
        rule: rule.budget.id.to_string(),
        source: rule.source.clone(),
        on_paper: None,
    };
    let balance = short.balance;
    let resets_at = balance
        .resets
        .and_then(|it| Timestamp::from_millisecond(it).ok());
    let spent = Spent {
        budget: rule.budget.id.to_string(),
        scope: charge.scope.to_string(),
        unit: rule.budget.unit,
        limit: balance.limit,
        used: balance.used,
        held: balance.held,
        resets_at,
        retry_after: short.may_pass().then_some(HELD_FOR),
    };
    Denial {
        reason: Reason::new(code, sentence(&short, rule, &spent)),
        matched: vec![matched],
        spent: Some(Box::new(spent)),
        retry_after: None,
    }
}

fn unwritten(why: &str) -> Denial {
    let message =
        format!("What this would use cannot be written down, so that it does not go: {why}.");
    Denial {
        reason: Reason::new(ReasonCode::LedgerFailed, message),
        matched: Vec::new(),
        spent: None,
        retry_after: None,
    }
}

fn sentence(short: &Short, rule: &BudgetRule, spent: &Spent) -> String {
    let needed = rule.budget.unit.amount(short.needed);
    let mut text = format!("Too little is left for this, which needs {needed} at least: {spent}.");
    if let Some(reason) = &rule.reason {
        text.push(' ');
        text.push_str(reason);
    }
    text
}

/// A budget's part in a decision.
pub(crate) fn line(charge: &Charge, reserved: u64) -> BudgetLine {
    BudgetLine {
        budget: charge.budget.id.to_string(),
        scope: charge.scope.to_string(),
        unit: charge.budget.unit,
        reserved,
        settled: None,
        overshoot: None,
        clamped: None,
        over: false,
        price_of: None,
        overshoot_cause: None,
        hidden: false,
        counted: false,
    }
}

#[cfg(test)]
mod tests;
