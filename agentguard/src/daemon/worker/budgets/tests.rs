use std::sync::{Arc, Mutex};

use agentguard_budget::{AnyLedger, Charge, Embedded, Ledger as _, Scope, Terms, Want};
use agentguard_decision::{Decider, Directory, Policies, RecordRefused, Recorder};
use agentguard_keeper::message::BudgetOrder;
use agentguard_model::contents::Contents;
use agentguard_model::{
    ActionKind, AgentName, Decision, DecisionId, Layer, Outcome, Reason, ReasonCode,
};
use agentguard_policy::{Document, compile};
use jiff::Timestamp;
use tempfile::TempDir;

use super::{Figures, obey};

const POLICY: &str = "\
version: 1
agents:
  - name: coder
rules: []
budgets:
  - { id: team, unit: micro_usd, limit: $5, window: lifetime, per: [agent, user] }
  - { id: time, unit: wall_time, limit: 1h, window: lifetime }
  - { id: at-once, unit: concurrent_calls, limit: 4, window: lifetime }
  - { id: places, unit: destinations, limit: 4, window: lifetime }
  - { id: day, unit: calls, limit: 4, window: day }
";

/// What was recorded; or nothing can be.
#[derive(Clone, Default)]
struct Memory {
    decisions: Arc<Mutex<Vec<Decision>>>,
    full: bool,
}

impl Recorder for Memory {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        if self.full {
            return Err(RecordRefused {
                reason: Reason::new(ReasonCode::RecordFailed, "the disk is full"),
            });
        }
        let id = decision.id;
        self.decisions.lock().unwrap().push(*decision);
        Ok(id)
    }

    fn outcome(&self, _: DecisionId, _: Outcome) {}

    fn contents(&self, _: DecisionId, _: &AgentName, _: Contents) {}
}

struct World {
    _directory: TempDir,
    ledger: Arc<Embedded>,
    policies: Arc<Policies>,
    record: Memory,
    decider: Decider<Memory>,
}

impl World {
    fn new(full: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let ledger = Embedded::open(directory.path(), Timestamp::now()).unwrap();
        let policy = compile(&[Document {
            path: "policy.yaml".into(),
            text: POLICY.into(),
        }]);
        let policies = Arc::new(Policies::new(1, policy.unwrap()));
        let record = Memory {
            full,
            ..Memory::default()
        };
        let decider = Decider::new(
            policies.clone(),
            Arc::new(Directory::default()),
            Arc::new(record.clone()),
        );
        Self {
            _directory: directory,
            ledger: Arc::new(ledger),
            policies,
            record,
            decider,
        }
    }

    /// A call that has used some of what it held, beside one that is under way.
    fn calls(&self, budget: &str, scope: &str, used: u64, held: u64) {
        let policy = self.policies.current();
        let now = Timestamp::now().as_millisecond();
        for amount in [used, held] {
            let charge = Charge {
                budget: policy.budget(budget).unwrap().budget.clone(),
                scope: Scope::from(scope),
                terms: Terms {
                    fixed: amount,
                    per_million: 0,
                },
                place: 1,
            };
            let want = Want {
                charges: vec![charge],
                ..Want::default()
            };
            let id = self.ledger.reserves(&want, now).unwrap().id;
            if amount == used {
                self.ledger.settle(id, Some(&[used]), now);
            }
        }
    }

    async fn order(&self, account: &str, used: Option<&str>) -> Result<String, String> {
        let order = BudgetOrder {
            account: account.to_owned(),
            used: used.map(str::to_owned),
            reason: Some("ticket 42".to_owned()),
        };
        let policy = self.policies.current();
        let ledger = AnyLedger::Embedded(self.ledger.clone());
        obey(order, 7, policy, ledger, &self.decider).await
    }

    /// What is used and held of all accounts of a budget.
    fn has(&self, budget: &str) -> Vec<(u64, u64)> {
        let states = self.ledger.accounts(Timestamp::now().as_millisecond());
        let of = states.iter().filter(|it| &*it.budget == budget);
        of.map(|it| (it.used, it.held)).collect()
    }
}

const ADA: &str = "agent=coder,user=ada";

#[tokio::test]
async fn what_an_operator_says_counts_and_is_recorded_and_what_is_held_stays_held() {
    let world = World::new(false);
    world.calls("team", ADA, 3_000_000, 250_000);
    let done = world
        .order("team/agent=coder,user=ada", Some("$1.50"))
        .await;
    assert_eq!(
        done.unwrap(),
        "team/agent=coder,user=ada counts as having used $1.50 from now on; it was $3.00"
    );
    assert_eq!(world.has("team"), [(1_500_000, 250_000)]);
    let done = world.order("team/agent=coder,user=ada", None).await;
    assert!(done.unwrap().contains(" used nothing from now on"));
    assert_eq!(world.has("team"), [(0, 250_000)]);
    let decisions = world.record.decisions.lock().unwrap();
    let told: Vec<_> = decisions
        .iter()
        .map(|it| {
            assert_eq!(
                (it.layer, it.action.kind),
                (Layer::Operator, ActionKind::Administration)
            );
            assert_eq!(it.agent.as_ref().unwrap().name.as_str(), "coder");
            assert_eq!(it.context.uid(), Some(7));
            (
                it.action.method.as_deref().unwrap(),
                it.reason.message.as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                "budget_set",
                "team/agent=coder,user=ada counts as having used $1.50 from now on; it was $3.00, by uid 7: ticket 42"
            ),
            (
                "budget_reset",
                "team/agent=coder,user=ada counts as having used nothing from now on; it was $1.50, by uid 7: ticket 42"
            ),
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let world = World::new(true);
    world.calls("team", ADA, 3_000_000, 1);
    let refused = world
        .order("team/agent=coder,user=ada", None)
        .await
        .unwrap_err();
    assert!(
        refused.starts_with("it cannot be recorded, so it is not done"),
        "{refused}"
    );
    assert_eq!(world.has("team"), [(3_000_000, 1)]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let world = World::new(false);
    world.calls("team", ADA, 3_000_000, 1);
    world.calls("at-once", "", 0, 1);
    world.calls("places", "", 0, 1);
    for (account, used, says) in [
        (
            "team",
            Some("$1"),
            "has an account for each agent and user; hint: did you mean `team/agent=coder,user=ada`?",
        ),
        (
            "team/agent=coder,user=ada",
            Some("1"),
            "`1` is no amount of `micro_usd`; hint: like `$25`",
        ),
        // What a shell makes of `$5`.
        (
            "team/agent=coder,user=ada",
            Some(""),
            "a shell takes `$` for a variable: '$25'",
        ),
        ("team/agent=coder,user=ada", Some("$-1"), "is no amount"),
        (
            "team/agent=coder,user=ada",
            Some("$99999999999"),
            "is more than there can be",
        ),
        (
            "at-once",
            None,
            "calls at the same time are held and not used",
        ),
        (
            "places",
            Some("3"),
            "a number names none; hint: `agentguard budget reset`",
        ),
        (
            "day",
            None,
            "nothing was charged to `day` in the window that is under way",
        ),
        ("nothing", None, "there is no account `nothing`"),
    ] {
        let refused = world.order(account, used).await.unwrap_err();
        assert!(refused.contains(says), "{account} {used:?}: {refused}");
    }
    assert_eq!(world.has("team"), [(3_000_000, 1)]);
    assert_eq!(world.has("places"), [(1, 0)]);
    assert!(world.record.decisions.lock().unwrap().is_empty());
    world.order("places", None).await.unwrap();
    assert_eq!(world.has("places"), [(0, 0)]);
}

#[tokio::test]
async fn time_is_set_as_any_other() {
    let world = World::new(false);
    world.calls("time", "", 0, 1);
    world.order("time", Some("30m")).await.unwrap();
    let (used, _) = world.has("time")[0];
    assert!((1_800_000..1_860_000).contains(&used), "{used}");
}

#[test]
fn figures_have_the_fullest_accounts_of_the_policy() {
    let world = World::new(false);
    world.calls("team", "agent=coder,user=bob", 1_000_000, 5);
    world.calls("team", ADA, 3_000_000, 250_000);
    world.calls("at-once", "", 0, 3);
    let figures = Figures::new(
        AnyLedger::Embedded(world.ledger.clone()),
        &Default::default(),
        &Default::default(),
    );
    let (told, count) = figures.vitals(&world.policies.current());
    assert_eq!(count, 3);
    let told: Vec<_> = told
        .iter()
        .map(|it| {
            (
                it.budget.as_str(),
                it.scope.as_str(),
                it.unit.as_str(),
                it.used,
                it.held,
                it.limit,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("at-once", "", "concurrent_calls", 0, 3, 4),
            ("team", ADA, "micro_usd", 3_000_000, 250_000, 5_000_000),
            (
                "team",
                "agent=coder,user=bob",
                "micro_usd",
                1_000_000,
                5,
                5_000_000
            ),
        ]
    );
}
