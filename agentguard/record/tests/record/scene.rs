//! What the tests share: decisions, options, and waiting for a condition.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agentguard_decision::Recorder;
use agentguard_model::{
    Action, ActionKind, Agent, Context, Decision, DecisionId, Labels, Layer, Mode, Reason,
    ReasonCode, Transport, Verdict,
};
use agentguard_record::{Options, Query, Quota, Record};
use jiff::Timestamp;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use ulid::Ulid;

/// An id that is higher than those before it; across processes they differ.
fn next_id() -> DecisionId {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let random = (u128::from(number) << 32) | u128::from(std::process::id());
    DecisionId(Ulid::from_parts(ms, random))
}

/// A decision on a connection to a port.
pub(crate) fn decision(agent: &str, verdict: Verdict, port: u16) -> Box<Decision> {
    let mut action = Action::new(ActionKind::Connect);
    action.transport = Some(Transport::Tcp);
    action.host = Some("api.example".parse().unwrap());
    action.port = Some(port);
    let code = match verdict {
        Verdict::Deny => ReasonCode::NoRule,
        _ => ReasonCode::RuleAllow,
    };
    Box::new(Decision {
        id: next_id(),
        time: Timestamp::now(),
        agent: Some(Agent {
            name: agent.parse().unwrap(),
            labels: Labels::new(),
        }),
        context: Context::default(),
        process: None,
        layer: Layer::Proxy,
        action,
        verdict,
        enforced: true,
        mode: Mode::Enforce,
        reason: Reason::new(code, "because"),
        matched: Vec::new(),
        changes: None,
        budget: Vec::new(),
        findings: Vec::new(),
        count: 1,
        last: None,
        latency_us: 1,
        trace_parent: None,
        policy_version: "0123456789ab".to_owned(),
        outcome: None,
    })
}

pub(crate) fn allow(agent: &str) -> Box<Decision> {
    decision(agent, Verdict::Allow, 443)
}

pub(crate) fn deny(agent: &str, port: u16) -> Box<Decision> {
    decision(agent, Verdict::Deny, port)
}

/// The same once more.
pub(crate) fn again(decision: &Decision) -> Box<Decision> {
    Box::new(Decision {
        id: next_id(),
        time: Timestamp::now(),
        ..decision.clone()
    })
}

/// Options under which nothing is refused.
pub(crate) fn generous() -> Options {
    Options {
        quota: Quota {
            entries_per_second: 1_000_000_000,
            burst: 1_000_000_000,
            bytes_per_day: u64::MAX,
        },
        ..Options::default()
    }
}

pub(crate) fn open(dir: &Path) -> Record {
    Record::open(dir, generous()).unwrap()
}

pub(crate) fn newest(limit: usize) -> Query {
    Query {
        limit,
        ..Query::default()
    }
}

/// Everything, however much it is: page by page, the newest last.
pub(crate) async fn everything(record: &Record) -> Vec<Decision> {
    let mut pages = Vec::new();
    let mut query = newest(1_000);
    loop {
        let page = record.query(query.clone()).await.unwrap();
        let Some(first) = page.first() else {
            break;
        };
        query.before = Some(first.id);
        pages.push(page);
    }
    pages.into_iter().rev().flatten().collect()
}

pub(crate) fn sum(decisions: &[Decision]) -> u64 {
    decisions.iter().map(|decision| decision.count).sum()
}

/// Writes allows until there are that many; their ids.
pub(crate) async fn write_allows(record: &Record, agent: &str, number: usize) -> Vec<DecisionId> {
    let mut ids = Vec::new();
    for _ in 0..number {
        ids.push(record.write(allow(agent)).await.unwrap());
    }
    ids
}

/// Waits for a condition, ten seconds at most.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the index has everything.
pub(crate) async fn until_indexed(record: &Record) {
    until("everything is indexed", async || {
        record.status().index_lag == 0
    })
    .await;
}

/// What the index of a closed record says of entries.
pub(crate) fn indexed(dir: &Path) -> Vec<String> {
    let index = Database::open(dir.join("index.redb")).unwrap();
    let txn = index.begin_read().unwrap();
    let mut said = Vec::new();
    let decisions = TableDefinition::<u128, (u64, u64, &str, &str, &str)>::new("decisions");
    for row in txn.open_table(decisions).unwrap().iter().unwrap() {
        let (id, row) = row.unwrap();
        said.push(format!("{} {:?}", id.value(), row.value()));
    }
    let by_agent = TableDefinition::<(&str, u128), (u64, u64, &str, &str)>::new("by_agent");
    for row in txn.open_table(by_agent).unwrap().iter().unwrap() {
        let (key, row) = row.unwrap();
        said.push(format!("{:?} {:?}", key.value(), row.value()));
    }
    let updates = TableDefinition::<(u128, u8), (u64, u64)>::new("updates");
    for row in txn.open_table(updates).unwrap().iter().unwrap() {
        let (key, row) = row.unwrap();
        said.push(format!("{:?} {:?}", key.value(), row.value()));
    }
    let notices = TableDefinition::<u64, (u64, u64)>::new("notices");
    for row in txn.open_table(notices).unwrap().iter().unwrap() {
        let (number, row) = row.unwrap();
        said.push(format!("{} {:?}", number.value(), row.value()));
    }
    said
}

/// The index that a closed record has is the one that is made of its log.
pub(crate) async fn index_is_right(dir: &Path, options: Options) {
    let by_writing = indexed(dir);
    std::fs::remove_file(dir.join("index.redb")).unwrap();
    let record = Record::open(dir, options).unwrap();
    until_indexed(&record).await;
    record.close().await;
    assert_eq!(by_writing, indexed(dir));
}
