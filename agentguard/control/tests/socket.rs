//! The control socket from end to end, with a real record and a real policy, in one process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentguard_control::api::{
    AgentStatus, GateStatus, GuardStatus, LeafStatus, Line, Phase, PolicyStatus, ProblemCode,
    VerdictQuery,
};
use agentguard_control::{Client, ClientError, Sources, serve};
use agentguard_decision::Recorder;
use agentguard_model::{
    Action, ActionKind, Agent, AgentId, Context, Decision, DecisionId, Layer, Mode, Reason,
    ReasonCode, Verdict,
};
use agentguard_policy::{Document, compile};
use agentguard_record::{Options, Record};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

const POLICY: &str = "\
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
";

/// A control socket that serves.
struct World {
    dir: tempfile::TempDir,
    record: Record,
    governed: watch::Sender<Vec<String>>,
    agents: watch::Sender<Vec<AgentStatus>>,
    _guard: watch::Sender<GuardStatus>,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::open(&dir.path().join("record"), Options::default()).unwrap();
        let policy = compile(&[Document {
            path: "policy.yaml".into(),
            text: POLICY.into(),
        }])
        .unwrap();
        let (governed, governed_seen) = watch::channel(vec!["/agentguard-test-of-nobody".into()]);
        let (agents, agents_seen) = watch::channel(vec![agent_status()]);
        let (guard, guard_seen) = watch::channel(guard_status());
        let shutdown = CancellationToken::new();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        // The test that calls as another user must reach it: who may ask is decided by the server.
        for path in [dir.path().to_owned(), dir.path().join("control.sock")] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let sources = Sources {
            record: record.clone(),
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            agents: agents_seen,
            guard: guard_seen,
            governed: governed_seen,
            readers: Some(READERS),
        };
        let server = tokio::spawn(serve(listener, sources, shutdown.clone()));
        Self {
            dir,
            record,
            governed,
            agents,
            _guard: guard,
            shutdown,
            server,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.unwrap()
    }

    async fn write(&self, decision: Decision) -> DecisionId {
        self.record.write(decision).await.unwrap()
    }

    /// Sends bytes as they are, and gives everything that comes back.
    async fn raw(&self, bytes: &'static str) -> String {
        let socket = self.socket();
        tokio::task::spawn_blocking(move || exchange(&socket, bytes))
            .await
            .unwrap()
    }
}

fn exchange(socket: &std::path::Path, bytes: &str) -> String {
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
fn next_id() -> DecisionId {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    DecisionId(Ulid::from_parts(1_800_000_000_000 + count, 0))
}

fn agent_status() -> AgentStatus {
    AgentStatus {
        name: "coder".parse().unwrap(),
        id: Some(AgentId(1)),
        labels: [("tenant".to_owned(), "acme".to_owned())].into(),
        mode: Mode::Shadow,
        cgroups: vec!["/sys/fs/cgroup/agentguard/coder".into()],
        runs: 1,
        quarantine: None,
        warnings: Vec::new(),
    }
}

fn guard_status() -> GuardStatus {
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
        listeners: Vec::new(),
        degraded: Vec::new(),
        leaves: LeafStatus::default(),
    }
}

fn decision(agent: &str, verdict: Verdict, kind: ActionKind, host: &str) -> Decision {
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
        budget: Vec::new(),
        findings: Vec::new(),
        count: 1,
        last: None,
        latency_us: 1,
        policy_version: "0123456789ab".into(),
        outcome: None,
    }
}

#[tokio::test]
async fn verdicts_are_filtered_and_the_newest_are_given_newest_last() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for (agent, verdict, kind, host) in [
        ("coder", Verdict::Allow, ActionKind::Connect, "a.example"),
        ("coder", Verdict::Deny, ActionKind::Connect, "b.example"),
        ("coder", Verdict::Deny, ActionKind::DnsQuery, "c.example"),
        ("tester", Verdict::Deny, ActionKind::Connect, "d.example"),
    ] {
        ids.push(world.write(decision(agent, verdict, kind, host)).await);
    }
    let mut client = world.client().await;
    let all = VerdictQuery::default();
    for (query, expected) in [
        (all.clone(), vec![0, 1, 2, 3]),
        (
            VerdictQuery {
                limit: Some(2),
                ..all.clone()
            },
            vec![2, 3],
        ),
        (
            VerdictQuery {
                agent: Some("coder".parse().unwrap()),
                verdict: Some(Verdict::Deny),
                ..all.clone()
            },
            vec![1, 2],
        ),
        (
            VerdictQuery {
                kind: Some(ActionKind::DnsQuery),
                ..all.clone()
            },
            vec![2],
        ),
        (
            VerdictQuery {
                since: Some("2200-01-01T00:00:00Z".parse().unwrap()),
                ..all.clone()
            },
            vec![],
        ),
    ] {
        let got: Vec<DecisionId> = client
            .verdicts(&query)
            .await
            .unwrap()
            .iter()
            .map(|decision| decision.id)
            .collect();
        let expected: Vec<DecisionId> = expected.into_iter().map(|n: usize| ids[n]).collect();
        assert_eq!(got, expected, "{query:?}");
    }
}

#[tokio::test]
async fn one_decision_is_found_by_its_id_and_no_other() {
    let world = World::new().await;
    let id = world
        .write(decision(
            "coder",
            Verdict::Deny,
            ActionKind::Connect,
            "a.example",
        ))
        .await;
    let mut client = world.client().await;
    let found = client.decision(id).await.unwrap();
    assert_eq!((found.id, found.action.port), (id, Some(443)));
    let Err(ClientError::Refused(problem)) = client.decision(DecisionId(Ulid::nil())).await else {
        panic!("found what is not there");
    };
    assert_eq!(problem.code, ProblemCode::NotFound);
    assert!(problem.hint.is_some());
}

#[tokio::test]
async fn agents_policy_and_status_are_those_of_the_wiring() {
    let world = World::new().await;
    let mut client = world.client().await;
    assert_eq!(client.agents().await.unwrap(), [agent_status()]);
    let coder = "coder".parse().unwrap();
    assert_eq!(client.agent(&coder).await.unwrap(), agent_status());
    world.agents.send_modify(|agents| agents[0].runs = 7);
    assert_eq!(client.agent(&coder).await.unwrap().runs, 7);
    let Err(ClientError::Refused(problem)) = client.agent(&"ghost".parse().unwrap()).await else {
        panic!("found what is not there");
    };
    assert_eq!(problem.message, "there is no agent `ghost`");

    let policy = client.policy().await.unwrap();
    assert_eq!(policy.status.version.len(), 12);
    assert_ne!(policy.status.version, "not yet told");
    let rules: Vec<(&str, Verdict, u32)> = policy
        .rules
        .iter()
        .map(|rule| (rule.id.as_str(), rule.action, rule.source.line))
        .collect();
    assert_eq!(
        rules,
        [
            ("docs", Verdict::Allow, 7),
            ("no-deletes", Verdict::Deny, 12)
        ]
    );
    assert_eq!(
        policy.rules[1].reason.as_deref(),
        Some("nothing is deleted here")
    );
    assert_eq!(policy.agents[0].mode, Mode::Shadow);

    let status = client.status().await.unwrap();
    assert!(status.healthy());
    assert_eq!(status.guard, guard_status());
    assert_eq!(status.record.degraded, None);
}

#[tokio::test]
async fn a_follower_gets_the_past_it_asked_for_then_what_comes_and_then_the_end() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for host in ["a.example", "b.example"] {
        let new = decision("coder", Verdict::Allow, ActionKind::Connect, host);
        ids.push(world.write(new).await);
    }
    let query = VerdictQuery {
        agent: Some("coder".parse().unwrap()),
        limit: Some(1),
        ..VerdictQuery::default()
    };
    let mut follow = world.client().await.follow(&query).await.unwrap();
    let mut next = async || match follow.next().await.unwrap() {
        Some(Line::Decision(decision)) => Some(decision.id),
        Some(other) => panic!("{other:?}"),
        None => None,
    };
    assert_eq!(next().await, Some(ids[1]));
    let others = decision("tester", Verdict::Allow, ActionKind::Connect, "c.example");
    world.write(others).await;
    let new = decision("coder", Verdict::Allow, ActionKind::Connect, "d.example");
    let id = world.write(new).await;
    assert_eq!(next().await, Some(id));
    world.shutdown.cancel();
    assert_eq!(next().await, None);
    tokio::time::timeout(Duration::from_secs(10), world.server)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_slow_follower_loses_nothing() {
    let world = World::new().await;
    let mut follow = world
        .client()
        .await
        .follow(&VerdictQuery::default())
        .await
        .unwrap();
    // More than the sockets' buffers and one page hold, all written before the first is read.
    let mut written = Vec::new();
    for n in 0..2000 {
        let host = format!("h{n}.example");
        let mut new = decision("coder", Verdict::Allow, ActionKind::Connect, &host);
        new.action.path = Some("x".repeat(1000));
        written.push(new.id);
        world.write(new).await;
    }
    for id in written {
        match follow.next().await.unwrap() {
            Some(Line::Decision(decision)) => assert_eq!(decision.id, id),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_follower_hears_a_heartbeat() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let mut stream = tokio::net::UnixStream::connect(world.socket())
        .await
        .unwrap();
    stream
        .write_all(b"GET /v1/verdicts?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let began = tokio::time::Instant::now();
    let mut got = Vec::new();
    // Two heartbeats as chunks of one byte.
    while String::from_utf8_lossy(&got).matches("1\r\n\n\r\n").count() < 2 {
        let mut buffer = [0; 1024];
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "it ended");
        got.extend_from_slice(&buffer[..n]);
    }
    assert!(began.elapsed() >= Duration::from_secs(30));
    assert!(String::from_utf8_lossy(&got).contains("application/x-ndjson"));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_the_server_goes_on() {
    let world = World::new().await;
    let long: &'static str = Box::leak(
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(40_000)).into_boxed_str(),
    );
    for (request, status, says) in [
        (
            "GET /v1/verdicts?agnet=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "400",
            "there is no parameter `agnet`",
        ),
        (
            "GET /v1/verdicts/nonsense HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "400",
            "`nonsense` is not a decision id",
        ),
        (
            "GET /v2/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "404",
            "there is no such route",
        ),
        (
            "DELETE /v1/agents/coder HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "405",
            "changes are made through the keeper",
        ),
        ("\u{0}\u{1}\r\n\r\n", "400", ""),
        (long, "4", ""),
    ] {
        let answer = world.raw(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(says), "{answer}");
    }
    assert_eq!(world.client().await.agents().await.unwrap().len(), 1);
}

#[tokio::test]
async fn root_inside_an_agent_is_refused_every_question() {
    let world = World::new().await;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap();
    world.governed.send_replace(vec![own.to_owned()]);
    for route in ["/v1/status", "/v1/verdicts?follow=true", "/v1/nonsense"] {
        let request = format!("GET {route} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = world.raw(Box::leak(request.into_boxed_str())).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(
            answer.contains("an agent may not ask its own guard"),
            "{answer}"
        );
    }
    let Err(ClientError::Refused(problem)) = world.client().await.status().await else {
        panic!("it answered");
    };
    assert_eq!(problem.code, ProblemCode::Forbidden);
    world
        .governed
        .send_replace(vec!["/agentguard-test-of-nobody".into()]);
    assert!(world.client().await.status().await.is_ok());
}

/// The number of the group that may read.
const READERS: u32 = 64_301;

/// Asks as another user: a thread becomes one and ends. Needs root, as everything that the guard does.
async fn ask_as(world: &World, gid: u32, groups: &'static [u32]) -> String {
    let socket = world.socket();
    let caller = move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        let gid = rustix::process::Gid::from_raw(gid);
        let groups: Vec<_> = groups
            .iter()
            .map(|group| rustix::process::Gid::from_raw(*group))
            .collect();
        // The kernel's calls, which change this thread alone.
        rustix::thread::set_thread_groups(&groups).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        exchange(&socket, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
    };
    tokio::task::spawn_blocking(|| std::thread::spawn(caller).join().unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn other_users_are_served_as_members_of_the_group_that_may_read() {
    let world = World::new().await;
    for (gid, groups) in [(65534, &[][..]), (65534, &[4, 64_302])] {
        let answer = ask_as(&world, gid, groups).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        let told = "only root and the group agentguard-read may read from the guard, and this is user 65534";
        assert!(answer.contains(told), "{answer}");
        assert!(answer.contains("become a member of the group"), "{answer}");
    }
    for (gid, groups) in [(READERS, &[][..]), (65534, &[4, READERS])] {
        let answer = ask_as(&world, gid, groups).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // A member that is an agent is an agent.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    world.governed.send_replace(vec![own.unwrap().to_owned()]);
    let answer = ask_as(&world, READERS, &[]).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(
        answer.contains("an agent may not ask its own guard"),
        "{answer}"
    );
}

#[tokio::test]
async fn other_users_do_not_keep_root_from_asking() {
    let world = World::new().await;
    let socket = world.socket();
    let (ready, waiting) = std::sync::mpsc::channel();
    let (done, end) = std::sync::mpsc::channel::<()>();
    let crowd = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        // Far more than there are seats, and they say nothing.
        let open: Vec<_> = (0..200)
            .map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap())
            .collect();
        ready.send(()).unwrap();
        let _ = end.recv();
        drop(open);
    });
    tokio::task::spawn_blocking(move || waiting.recv().unwrap())
        .await
        .unwrap();
    assert!(world.client().await.status().await.is_ok());
    drop(done);
    crowd.join().unwrap();
}

#[tokio::test]
async fn without_a_daemon_the_client_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let missing = Client::connect(&path).await.unwrap_err();
    // A socket that was left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = Client::connect(&path).await.unwrap_err();
    for error in [missing, stale] {
        assert_eq!(
            error.to_string(),
            format!("no daemon at {}", path.display())
        );
        let hint = error.hint().unwrap();
        assert!(hint.starts_with("start one with `systemctl start agentguard` or"));
    }
}
