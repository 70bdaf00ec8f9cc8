//! Bytes that are charged as they pass.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use agentguard_budget::{Asked, Embedded, Granted, HoldId, Ledger, More, Want};
use agentguard_model::budget::Budget;
use agentguard_model::{AgentId, ReasonCode, Verdict};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tempfile::TempDir;

use super::{Memory, client, deciding, last, target};
use crate::{Accounting, Decided, Decider, Grant, Spoken, Way};

const LIMIT: u64 = 3_000;

/// A ledger whose clock goes before.
struct Ahead {
    ledger: Embedded,
    /// By so many milliseconds.
    by: AtomicI64,
    reserved: AtomicUsize,
}

impl Ahead {
    fn at(&self, now: i64) -> i64 {
        now + self.by.load(Ordering::Relaxed)
    }
}

impl Ledger for Ahead {
    fn reserve<'a>(&'a self, want: &'a Want, now: i64) -> Asked<'a, Granted> {
        self.reserved.fetch_add(1, Ordering::Relaxed);
        self.ledger.reserve(want, self.at(now))
    }

    fn extend<'a>(
        &'a self,
        id: HoldId,
        more: More,
        budgets: &'a [Arc<Budget>],
        now: i64,
    ) -> Asked<'a, u64> {
        self.ledger.extend(id, more, budgets, self.at(now))
    }

    fn settle(&self, id: HoldId, used: Option<&[u64]>, now: i64) {
        self.ledger.settle(id, used, self.at(now));
    }
}

struct World {
    decider: Decider<Memory>,
    ledger: Arc<Ahead>,
    /// How often its agent was stopped.
    frozen: Arc<AtomicUsize>,
    _directory: TempDir,
}

impl World {
    fn new() -> Self {
        let policy = format!(
            "
version: 1
agents: [{{name: coder}}]
rules: [{{id: all, match: {{host: ['*.example']}}, action: allow}}]
budgets: [{{id: comes, unit: bytes_in, limit: {LIMIT}, window: day, per: [agent], reached: freeze}}]
"
        );
        let directory = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ahead {
            ledger: Embedded::open(directory.path(), Timestamp::now()).unwrap(),
            by: AtomicI64::new(0),
            reserved: AtomicUsize::new(0),
        });
        let frozen = Arc::new(AtomicUsize::new(0));
        let freezes = Arc::clone(&frozen);
        let accounting = Accounting::new(Arc::clone(&ledger) as Arc<dyn Ledger>);
        let accounting = accounting.freezing(Box::new(move |agent, budget| {
            assert_eq!((agent, budget), (AgentId(1), "comes"));
            freezes.fetch_add(1, Ordering::Relaxed);
        }));
        Self {
            decider: deciding(&policy).charging(Arc::new(accounting)),
            ledger,
            frozen,
            _directory: directory,
        }
    }

    async fn connection(&self) -> Decided {
        let target = target("api.example", 443);
        let client = client(1);
        let decided = self.decider.connection(&client, &target, &[], false);
        decided.await
    }

    /// Lets so many bytes come, unless it is denied before.
    async fn takes(&self, connection: &Decided, bytes: u64) -> Result<(), Decided> {
        let held = connection.held().unwrap();
        let (client, target) = (client(1), target("api.example", 443));
        let watch = Arc::downgrade(held);
        let spent = self
            .decider
            .bytes_spent(&client, &target, Spoken::Other, watch, || true);
        tokio::select! {
            denied = spent => Err(denied),
            () = take(held.grant(Way::In).unwrap(), bytes) => Ok(()),
        }
    }

    fn used(&self) -> Vec<u64> {
        let now = self.ledger.at(Timestamp::now().as_millisecond());
        let accounts = self.ledger.ledger.accounts(now);
        accounts.iter().map(|it| it.used).collect()
    }
}

async fn take(grant: &Arc<Grant>, mut bytes: u64) {
    while bytes > 0 {
        let room = poll_fn(|cx| grant.poll_room(cx)).await.min(bytes);
        grant.passes(room);
        bytes -= room;
    }
}

/// A connection may outlast the window in which it began.
#[tokio::test]
async fn what_passes_is_charged_to_the_window_of_then() {
    let world = World::new();
    let connection = world.connection().await;
    connection.held().unwrap().leaves();
    world.takes(&connection, LIMIT).await.unwrap();
    world.ledger.by.store(24 * 3_600_000, Ordering::Relaxed);
    let held = connection.held().unwrap();
    held.grant(Way::In).unwrap().ages();
    world.takes(&connection, LIMIT).await.unwrap();
    let denied = world.takes(&connection, 1).await.unwrap_err();
    assert_eq!(denied.reason.code, ReasonCode::BudgetExhausted);
    assert!(!denied.allowed);
    let lines = connection.held().unwrap().settle_passing();
    let amounts: Vec<_> = lines.iter().map(|it| (it.reserved, it.settled)).collect();
    assert_eq!(amounts, [(2 * LIMIT, Some(2 * LIMIT))]);
    assert_eq!(world.used(), [LIMIT, LIMIT], "one day, and the next");
}

/// What of several causes comes second denies nothing again.
#[tokio::test]
async fn what_is_denied_already_is_not_denied_again() {
    let world = World::new();
    let connection = world.connection().await;
    world.takes(&connection, LIMIT).await.unwrap();
    let held = connection.held().unwrap();
    let wants = take(held.grant(Way::In).unwrap(), 1);
    assert!(wants.now_or_never().is_none());
    let (client, target) = (client(1), target("api.example", 443));
    let watch = Arc::downgrade(held);
    let asked = AtomicBool::new(false);
    let second = || {
        asked.store(true, Ordering::Relaxed);
        false
    };
    let denying = world
        .decider
        .bytes_spent(&client, &target, Spoken::Other, watch, second);
    let later = async {
        while !asked.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = denying => panic!("it was denied before"),
        () = later => {}
    }
    assert_eq!(last(&world.decider).verdict, Verdict::Allow);
    assert_eq!(world.decider.recorder().decisions.lock().unwrap().len(), 1);
}

/// A connection that is open and idle holds the last byte, and keeps nobody from being stopped.
#[tokio::test]
async fn an_agent_is_stopped_where_the_last_of_its_budget_is_held() {
    let world = World::new();
    let idle = world.connection().await;
    let busy = world.connection().await;
    world.takes(&busy, LIMIT - 2).await.unwrap();
    let denied = world.takes(&busy, 2).await.unwrap_err();
    assert_eq!(denied.reason.code, ReasonCode::BudgetHeld);
    assert_eq!(world.frozen.load(Ordering::Relaxed), 1);
    drop(idle);
}

/// Where nothing but bytes is counted, there is nothing else to hold.
#[tokio::test]
async fn nothing_is_held_beside_what_is_counted() {
    let world = World::new();
    let connection = world.connection().await;
    assert_eq!(world.ledger.reserved.load(Ordering::Relaxed), 1);
    assert_eq!(connection.held().unwrap().lines().len(), 1);
    drop(connection);
    assert_eq!(world.used(), [0]);
}
