use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentguard_budget::Scope;
use agentguard_budget::limits::{Ask, By, Call, Went};
use agentguard_decision::{Decider, Directory, Policies, RecordRefused, Recorder};
use agentguard_keeper::message::LimitOrder;
use agentguard_model::budget::Dimension;
use agentguard_model::contents::Contents;
use agentguard_model::limit::{Breaker, Circuit, Limit, LimitKind, Rate};
use agentguard_model::{
    ActionKind, AgentName, Decision, DecisionId, Layer, Outcome, Reason, ReasonCode,
};
use agentguard_policy::{Document, compile};

use super::obey;

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
    record: Memory,
    decider: Decider<Memory>,
}

impl World {
    fn new(full: bool) -> Self {
        let policy = compile(&[Document {
            path: "policy.yaml".into(),
            text: "version: 1\nagents: [{ name: coder }]\nrules: []\n".into(),
        }]);
        let record = Memory {
            full,
            ..Memory::default()
        };
        let decider = Decider::new(
            Arc::new(Policies::new(1, policy.unwrap())),
            Arc::new(Directory::default()),
            Arc::new(record.clone()),
        );
        Self { record, decider }
    }

    /// Whether one more of this agent's may go, which is counted.
    fn goes(&self, by: &By, agent: &str, went: Went) -> bool {
        let ask = Ask {
            by: by.clone(),
            scope: Scope::of([(&Dimension::Agent, agent)]),
            on_paper: false,
        };
        let asks = vec![ask];
        let admitted = self.decider.limits().admit(asks, Call::default(), 3);
        admitted.map(|it| it.ticket.ended(went, &[])).is_ok()
    }

    async fn order(&self, account: &str) -> Result<String, String> {
        let order = LimitOrder {
            account: account.to_owned(),
            reason: Some("ticket 42".to_owned()),
        };
        obey(order, 7, &self.decider).await
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn limit(id: &str, kind: LimitKind) -> By {
    By::Limit(Arc::new(Limit {
        id: id.into(),
        kind,
        per: [Dimension::Agent].into(),
    }))
}

fn burst() -> By {
    limit(
        "burst",
        LimitKind::Rate(Rate {
            calls: 1,
            every: HOUR,
            burst: 1,
        }),
    )
}

fn upstreams() -> By {
    By::Breaker(Arc::new(Breaker {
        id: "upstreams".into(),
        circuit: Circuit::Upstream,
        per: [].into(),
        failures: 1,
        of: 1,
        within: HOUR,
        wait: HOUR,
        probes: 1,
    }))
}

#[tokio::test]
async fn what_an_operator_wants_is_recorded_and_done() {
    let world = World::new(false);
    for agent in ["coder", "other"] {
        assert!(world.goes(&burst(), agent, Went::Well));
        assert!(!world.goes(&burst(), agent, Went::Well));
        assert!(world.goes(&upstreams(), agent, Went::Failed));
        assert!(!world.goes(&upstreams(), agent, Went::Failed));
    }
    let done = world.order("burst/agent=coder").await.unwrap();
    assert_eq!(done, "burst/agent=coder counts from the beginning");
    assert!(!world.goes(&burst(), "other", Went::Well));
    assert!(world.goes(&burst(), "coder", Went::Well));
    let done = world.order("burst").await.unwrap();
    assert_eq!(
        done,
        "burst counts from the beginning in all of its 2 accounts"
    );
    assert!(world.goes(&burst(), "other", Went::Well));
    let done = world.order("upstreams/agent=other").await.unwrap();
    assert_eq!(done, "the circuit upstreams/agent=other is closed");
    assert!(world.goes(&upstreams(), "other", Went::Well));
    assert!(!world.goes(&upstreams(), "coder", Went::Well));
    let decisions = world.record.decisions.lock().unwrap();
    let told: Vec<_> = decisions
        .iter()
        .map(|it| {
            assert_eq!(
                (it.layer, it.action.kind),
                (Layer::Operator, ActionKind::Administration)
            );
            assert_eq!(it.action.method.as_deref(), Some("limit_reset"));
            assert_eq!(it.context.uid(), Some(7));
            let agent = it.agent.as_ref().map(|it| it.name.as_str());
            (agent, it.reason.message.as_str())
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                Some("coder"),
                "burst/agent=coder counts from the beginning, by uid 7: ticket 42"
            ),
            (
                None,
                "burst counts from the beginning in all of its 2 accounts, by uid 7: ticket 42"
            ),
            (
                Some("other"),
                "the circuit upstreams/agent=other is closed, by uid 7: ticket 42"
            ),
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let world = World::new(true);
    assert!(world.goes(&burst(), "coder", Went::Well));
    let refused = world.order("burst").await.unwrap_err();
    assert!(
        refused.starts_with("it cannot be recorded, so it is not done"),
        "{refused}"
    );
    assert!(!world.goes(&burst(), "coder", Went::Well));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_not_recorded() {
    let world = World::new(false);
    assert!(world.goes(&burst(), "coder", Went::Well));
    let deep = limit(
        "deep",
        LimitKind::Depth {
            calls: 4,
            agents: 4,
        },
    );
    let ask = Ask {
        by: deep,
        scope: Scope::all(),
        on_paper: false,
    };
    let limits = world.decider.limits();
    let _under_way = limits.admit(vec![ask], Call::default(), 3).unwrap();
    for (account, says) in [
        ("other", "nothing was counted by a limit or breaker `other`"),
        ("", "nothing was counted by a limit or breaker ``"),
        ("burst/", "nothing was counted in the account `` of `burst`"),
        (
            "burst/agent=\u{1b}x",
            "nothing was counted in the account `agent=\\u{1b}x` of `burst`",
        ),
        ("deep", "`deep` counts calls that are under way"),
    ] {
        let refused = world.order(account).await.unwrap_err();
        assert!(refused.starts_with(says), "{refused}");
    }
    assert!(world.record.decisions.lock().unwrap().is_empty());
}
