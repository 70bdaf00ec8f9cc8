//! A control socket that serves, and who asks there.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentguard_budget::limits::Limits;
use agentguard_budget::{AnyLedger, Embedded};
use agentguard_control::api::{
    AgentStatus, GateStatus, GuardStatus, LeafStatus, LedgerStatus, Phase, PolicyStatus,
};
use agentguard_control::{Client, Sources, serve};
use agentguard_decision::Recorder;
use agentguard_keeper::groups::Groups;
use agentguard_keeper::packet::tell_senders;
use agentguard_model::{
    Action, ActionKind, Agent, AgentId, Context, Decision, DecisionId, Layer, Mode, Reason,
    ReasonCode, ResourceUsage, Users, Verdict,
};
use agentguard_pins::Pins;
use agentguard_policy::{Document, compile};
use agentguard_record::{Options, Record};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

pub(crate) const POLICY: &str = "\
version: 1
agents:
  - name: coder
    labels: {tenant: acme}
    mode: shadow
rules:
  - id: docs
    match:
      host: [docs.example]
      port: [443]
    action: allow
  - id: no-deletes
    match:
      host: [api.example]
      method: [DELETE]
    action: deny
    reason: nothing is deleted here
budgets:
  - { id: team, unit: tokens, limit: 1000, window: lifetime, per: [agent, user] }
";

/// The groups that the guard of these tests has.
pub(crate) const RUNNERS: u32 = 64_300;
pub(crate) const READERS: u32 = 64_301;
pub(crate) const APPROVERS: u32 = 64_302;
pub(crate) const GROUPS: Groups = Groups {
    run: Some(RUNNERS),
    read: Some(READERS),
    approve: Some(APPROVERS),
};

/// Another user than root: one that everybody has.
pub(crate) const NOBODY: u32 = 65_534;

/// A control socket that serves.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) record: Record,
    pub(crate) pins: Arc<Pins>,
    pub(crate) ledger: Arc<Embedded>,
    pub(crate) governed: watch::Sender<Vec<String>>,
    pub(crate) agents: watch::Sender<Vec<AgentStatus>>,
    pub(crate) users: watch::Sender<Arc<Users>>,
    pub(crate) guard: watch::Sender<GuardStatus>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) server: JoinHandle<()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::open(&dir.path().join("record"), Options::default()).unwrap();
        let policy = compile(&[Document {
            path: "policy.yaml".into(),
            text: POLICY.into(),
        }])
        .unwrap();
        let (users, users_seen) = watch::channel(Arc::default());
        let (governed, governed_seen) = watch::channel(vec!["/agentguard-test-of-nobody".into()]);
        let (agents, agents_seen) = watch::channel(vec![agent_status()]);
        let (guard, guard_seen) = watch::channel(guard_status());
        let shutdown = CancellationToken::new();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        tell_senders(listener.as_fd()).unwrap();
        // The test that calls as another user must reach it: who may ask is decided by the server.
        for path in [dir.path().to_owned(), dir.path().join("control.sock")] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let pins = Arc::new(Pins::open(&dir.path().join("tools.redb")).unwrap());
        let ledger = Embedded::open(&dir.path().join("budget"), Timestamp::now()).unwrap();
        let ledger = Arc::new(ledger);
        let sources = Sources {
            record: record.clone(),
            pins: pins.clone(),
            ledger: AnyLedger::Embedded(ledger.clone()),
            limits: Limits::default(),
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            agents: agents_seen,
            guard: guard_seen,
            governed: governed_seen,
            groups: GROUPS,
            users: users_seen,
        };
        let server = tokio::spawn(serve(listener, sources, shutdown.clone()));
        Self {
            dir,
            record,
            pins,
            ledger,
            governed,
            agents,
            users,
            guard,
            shutdown,
            server,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.unwrap()
    }

    pub(crate) async fn write(&self, decision: Decision) -> DecisionId {
        self.record.write(Box::new(decision)).await.unwrap()
    }

    /// Sends bytes as they are, and gives everything that comes back.
    pub(crate) async fn raw(&self, bytes: &'static str) -> String {
        let socket = self.socket();
        tokio::task::spawn_blocking(move || exchange(&socket, bytes))
            .await
            .unwrap()
    }
}

pub(crate) fn exchange(socket: &std::path::Path, bytes: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // A server that refuses early may have closed before it was all sent.
    let _ = stream.write_all(bytes.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// A new id, above all earlier ones: the record orders by id.
pub(crate) fn next_id() -> DecisionId {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    DecisionId(Ulid::from_parts(1_800_000_000_000 + count, 0))
}

pub(crate) fn agent_status() -> AgentStatus {
    AgentStatus {
        name: "coder".parse().unwrap(),
        id: Some(AgentId(1)),
        labels: [("tenant".to_owned(), "acme".to_owned())].into(),
        mode: Mode::Shadow,
        cgroups: vec!["/sys/fs/cgroup/agentguard/coder".into()],
        runs: 1,
        undeclared: false,
        quarantine: None,
        resources: Some(ResourceUsage::default()),
        quota: None,
        warnings: Vec::new(),
    }
}

pub(crate) fn guard_status() -> GuardStatus {
    GuardStatus {
        version: "0.0.0".into(),
        phase: Phase::Ready,
        keeper_pid: 1,
        worker_pid: 2,
        started: Timestamp::UNIX_EPOCH,
        gate: GateStatus {
            attached: vec!["/sys/fs/cgroup/agentguard".into()],
            ..GateStatus::default()
        },
        policy: PolicyStatus {
            version: "not yet told".into(),
            files: vec!["policy.yaml".into()],
            loaded: Timestamp::UNIX_EPOCH,
            refused: None,
        },
        prices: Default::default(),
        listeners: Vec::new(),
        degraded: Vec::new(),
        leaves: LeafStatus::default(),
        switches: Vec::new(),
        telemetry: None,
        ledger: LedgerStatus::default(),
    }
}

pub(crate) fn decision(agent: &str, verdict: Verdict, kind: ActionKind, host: &str) -> Decision {
    Decision {
        id: next_id(),
        time: Timestamp::now(),
        agent: Some(Agent {
            name: agent.parse().unwrap(),
            labels: [].into(),
        }),
        context: Context::default(),
        process: None,
        layer: Layer::Proxy,
        action: Action {
            host: Some(host.parse().unwrap()),
            port: Some(443),
            ..Action::new(kind)
        },
        verdict,
        enforced: true,
        mode: Mode::Enforce,
        reason: Reason::new(ReasonCode::NoRule, "no rule allows it"),
        matched: Vec::new(),
        changes: None,
        budget: Vec::new(),
        findings: Vec::new(),
        count: 1,
        last: None,
        latency_us: 1,
        trace_parent: None,
        policy_version: "0123456789ab".into(),
        outcome: None,
    }
}

/// The cgroup of this process, which is the peer of all its connections.
pub(crate) fn own_cgroup() -> String {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    own.unwrap().to_owned()
}

/// This thread alone is another user's from now on: these are the kernel's calls.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) {
    let uid = rustix::process::Uid::from_raw(uid);
    let gid = rustix::process::Gid::from_raw(gid);
    let groups: Vec<_> = groups
        .iter()
        .map(|group| rustix::process::Gid::from_raw(*group))
        .collect();
    rustix::thread::set_thread_groups(&groups).unwrap();
    rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
}

/// Asks as another user: a thread becomes one and ends. Needs root, as everything that the guard does.
pub(crate) async fn ask_as(
    world: &World,
    (uid, gid): (u32, u32),
    groups: &'static [u32],
    route: &str,
) -> String {
    let socket = world.socket();
    let request = format!("GET {route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let caller = move || {
        become_user(uid, gid, groups);
        exchange(&socket, &request)
    };
    tokio::task::spawn_blocking(|| std::thread::spawn(caller).join().unwrap())
        .await
        .unwrap()
}

/// The status and the document of an answer.
pub(crate) fn read(answer: &str) -> (u16, serde_json::Value) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).expect(answer))
}

/// Who may run what.
pub(crate) fn users(of: &[(&str, &[u32])]) -> Arc<Users> {
    let mut users = Users::default();
    for (agent, uids) in of {
        for uid in *uids {
            users.add(agent.parse().unwrap(), *uid);
        }
    }
    Arc::new(users)
}
