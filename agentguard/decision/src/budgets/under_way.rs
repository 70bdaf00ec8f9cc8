//! Calls that are under way: more is reserved for them, and they end where there is no more.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use agentguard_budget::prices::{Caches, Served};
use agentguard_budget::{Refused, Want};
use agentguard_model::budget::Budget;
use agentguard_model::{Reason, ReasonCode};
use agentguard_policy::{Policy, Seen};
use jiff::Timestamp;

use super::held::{Held, Pricing};
use super::{
    AGAIN, AT_THE_CLOCK, Denial, PATIENCE, denial, in_force, is_away, may_pass, unwritten,
};
use crate::again::Changes;
use crate::asked::Asked;
use crate::decider::Decider;
use crate::port::{Client, Decided, Recorder, Target};

impl<R: Recorder> Decider<R> {
    /// What comes as the answer to a call may be that to this other one, of which nothing is known where there is none: it
    /// costs what the dearer of them does.
    pub fn may_be_for(&self, held: &Held, other: Option<&Asked>) {
        let Some(accounting) = self.accounting() else {
            return;
        };
        let llm = other.and_then(|it| it.seen().llm);
        let named = llm.and_then(|it| it.model.as_deref()).unwrap_or_default();
        let provider = llm.map_or("", |it| it.provider.as_str());
        let prices = accounting.prices.load_full();
        let priced = prices.of(provider, named);
        let caches = other.map_or(Caches::Unknown, |it| Caches::of(it.demand()));
        let mut served = other.map_or_else(Served::default, |it| Served::of(it.demand()));
        // They are on one connection.
        served.regional |= held.is_regional();
        held.may_cost(Pricing::of(&priced, served, caches));
    }

    /// Reserves more for a call that has written so many tokens, where that has become too little. What is denied is
    /// recorded, and ends: `asked` is the call.
    pub async fn written(
        &self,
        client: &Client,
        target: &Target,
        asked: &Asked,
        held: &Held,
        tokens: u64,
    ) -> Option<Decided> {
        if !held.runs_out(tokens) {
            return None;
        }
        let started = Instant::now();
        let policy = self.policies().current();
        let budgets = self.budgets_now(&policy, client, held.want());
        let patience = Instant::now() + PATIENCE;
        let refused = loop {
            let extended = held.extend(tokens, &budgets).await;
            if tokens <= held.tokens() {
                return None;
            }
            if extended.is_ok() {
                // A part of what it needs: what is missing is told by who is asked for that.
                continue;
            }
            // A ledger that is away may be back in a moment, and a stream that is cut is paid for in vain.
            let may_pass = may_pass(&extended) || is_away(&extended);
            if !may_pass || Instant::now() >= patience {
                break extended.err();
            }
            tokio::time::sleep(AGAIN).await;
        };
        let about = (client, target, Seen::Request(asked.seen()));
        let cut = self.cut(&policy, about, held.want(), refused, started);
        Some(Box::pin(cut).await)
    }

    /// Waits until the time is over that a call has which is under way. Then records that denial and gives it; never
    /// before. `ruled` is told of it before it is recorded.
    ///
    /// # Cancel safety
    /// A dropped future may have recorded the denial.
    pub async fn expired(
        &self,
        mut changes: Changes,
        client: &Client,
        target: &Target,
        asked: &Asked,
        held: Weak<Held>,
        ruled: impl Fn() -> bool,
    ) -> Decided {
        let deadline = held.upgrade().and_then(|held| held.deadline());
        let Some(mut deadline) = deadline else {
            return std::future::pending().await;
        };
        loop {
            let now = Timestamp::now().as_millisecond();
            let left = u64::try_from(deadline.saturating_sub(now)).unwrap_or(0);
            // Limits may have become other ones.
            let _ = tokio::time::timeout(Duration::from_millis(left), changes.next()).await;
            let Some(held) = held.upgrade() else {
                return std::future::pending().await;
            };
            let started = Instant::now();
            let policy = self.policies().current();
            let budgets = self.budgets_now(&policy, client, held.want());
            if let Some(refused) = held.too_late(&budgets).await {
                if !ruled() {
                    return std::future::pending().await;
                }
                let about = (client, target, Seen::Request(asked.seen()));
                let cut = self.cut(&policy, about, held.want(), Some(refused), started);
                return Box::pin(cut).await;
            }
            // A limit that was changed ends it at another time. Where that has come, it has more by an operator: it is asked
            // again in a moment.
            let next = Timestamp::now().as_millisecond() + AT_THE_CLOCK;
            let end = held.deadline_by(&budgets);
            deadline = end.map_or(i64::MAX, |(_, end)| end).max(next);
        }
    }

    /// The budgets of a call that is under way as they are now. A limit that was changed holds for it, too; one that is
    /// gone holds as it was.
    pub(super) fn budgets_now(
        &self,
        policy: &Policy,
        client: &Client,
        want: &Want,
    ) -> Vec<Arc<Budget>> {
        let agent = self.agent(policy, client.agent);
        let budgets = want.charges.iter().map(|charge| {
            let rule = policy.budget(&charge.budget.id);
            let rule = rule.filter(|it| it.budget.unit == charge.budget.unit);
            match (rule, &agent) {
                (Some(rule), Ok(agent)) => in_force(rule, agent),
                _ => Arc::clone(&charge.budget),
            }
        });
        budgets.collect()
    }

    /// Records that what was under way may not go on.
    pub(super) async fn cut(
        &self,
        policy: &Policy,
        (client, target, seen): (&Client, &Target, Seen<'_>),
        want: &Want,
        refused: Option<Refused>,
        started: Instant,
    ) -> Decided {
        let of = |place: usize| {
            let charge = want.charges.get(place)?;
            policy.budget(&charge.budget.id)
        };
        let mut denial = match refused {
            Some(refused) => denial(refused, of, want),
            // Less than it has written already.
            None => unwritten("too little is left of its budgets"),
        };
        if let Some(accounting) = self.accounting() {
            accounting.freeze(client.agent, &denial, denial.rule(policy));
        }
        denial.reason.message.push_str(" (this was under way)");
        let spent = denial.spent.take();
        let ruling = denial.ruling();
        let concluding = self.conclude_ruling(policy, client, target, seen, ruling, started);
        concluding.await.for_want_of(spent)
    }

    /// Refuses a call that has too little left, and whose limit cannot be lowered to that, for this reason. It holds nothing
    /// any more then. Where others hold what it needs, it may be enough in a moment.
    pub async fn not_lowered(
        &self,
        client: &Client,
        target: &Target,
        asked: &Asked,
        held: &Held,
        why: &str,
    ) -> Decided {
        let started = Instant::now();
        held.release();
        let policy = self.policies().current();
        let whole = held.whole();
        let want = Want {
            tokens: whole,
            least: whole,
            ..held.want().clone()
        };
        let refused = self.has_not(&want).await;
        let of = |place: usize| policy.budget(&want.charges.get(place)?.budget.id);
        let mut denied = match refused {
            Some(refused) => denial(refused, of, &want),
            // It came back meanwhile.
            None => Denial {
                retry_after: None,
                reason: Reason::new(
                    ReasonCode::BudgetHeld,
                    "Too little was left for this, since other calls held it.",
                ),
                matched: Vec::new(),
                spent: None,
            },
        };
        let more = format!(" The limit of this call cannot be lowered to what is left: {why}.");
        if let Some(accounting) = self.accounting() {
            accounting.freeze(client.agent, &denied, denied.rule(&policy));
        }
        denied.reason.message.push_str(&more);
        let seen = Seen::Request(asked.seen());
        let spent = denied.spent.take();
        let ruling = denied.ruling();
        let concluding = self.conclude_ruling(&policy, client, target, seen, ruling, started);
        concluding.await.for_want_of(spent)
    }

    /// Why there is not so much. Nothing is held for it then.
    async fn has_not(&self, want: &Want) -> Option<Refused> {
        let ledger = &self.accounting()?.ledger;
        let now = Timestamp::now().as_millisecond();
        match ledger.reserve(want, now).await {
            Err(refused) => Some(refused),
            Ok(granted) => {
                ledger.settle(granted.id, Some(&vec![0; want.charges.len()]), now);
                None
            }
        }
    }
}
