//! The control socket from end to end, with a real record and a real policy, in one process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentguard_control::api::{
    AgentStatus, GateStatus, GuardStatus, LeafStatus, Line, Phase, PolicyStatus, ProblemCode,
    Quarantine, VerdictQuery,
};
use agentguard_control::{Client, ClientError, Sources, serve};
use agentguard_decision::Recorder;
use agentguard_keeper::groups::Groups;
use agentguard_keeper::packet::tell_senders;
use agentguard_model::{
    Action, ActionKind, Agent, AgentId, Context, Decision, DecisionId, Layer, Mode, Process,
    Reason, ReasonCode, Users, Verdict,
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
    users: watch::Sender<Arc<Users>>,
    guard: watch::Sender<GuardStatus>,
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
        let sources = Sources {
            record: record.clone(),
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
            governed,
            agents,
            users,
            guard,
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

/// The cgroup of this process, which is the peer of all its connections.
fn own_cgroup() -> String {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    own.unwrap().to_owned()
}

#[tokio::test]
async fn who_comes_to_be_governed_is_refused_on_the_connection_that_it_has() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let mut stream = tokio::net::UnixStream::connect(world.socket())
        .await
        .unwrap();
    let ask = b"GET /v1/agents HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
    world.governed.send_replace(vec![own_cgroup()]);
    stream.write_all(ask).await.unwrap();
    let mut rest = String::new();
    let end = Duration::from_secs(20);
    // It is refused, and the connection ends: what is asked behind that is not heard.
    tokio::time::timeout(end, stream.read_to_string(&mut rest))
        .await
        .unwrap()
        .unwrap();
    let (_, refusal) = rest.split_once("HTTP/1.1 403").unwrap();
    assert!(refusal.contains("\"code\":\"forbidden\""), "{refusal}");
    let why = "an agent may not ask its own guard";
    assert!(refusal.contains(why), "{refusal}");
}

#[tokio::test]
async fn who_comes_to_be_governed_follows_no_longer() {
    let world = World::new().await;
    let mut follow = (world.client().await.follow(&VerdictQuery::default()).await).unwrap();
    let new = |host| decision("coder", Verdict::Allow, ActionKind::Connect, host);
    let id = world.write(new("a.example")).await;
    match follow.next().await.unwrap() {
        Some(Line::Decision(decision)) => assert_eq!(decision.id, id),
        other => panic!("{other:?}"),
    }
    world.governed.send_replace(vec![own_cgroup()]);
    world.write(new("b.example")).await;
    match follow.next().await.unwrap() {
        Some(Line::Refused(problem)) => {
            assert_eq!(problem.code, ProblemCode::Forbidden);
            let why = "an agent may not ask its own guard";
            assert!(problem.message.contains(why), "{problem:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(follow.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_be_governed_does_not_wait_for_a_decision_to_hear_so() {
    let world = World::new().await;
    let mut follow = (world.client().await.follow(&VerdictQuery::default()).await).unwrap();
    world.governed.send_replace(vec![own_cgroup()]);
    let minute = Duration::from_secs(60);
    let last = tokio::time::timeout(minute, follow.next()).await.unwrap();
    assert!(matches!(last, Ok(Some(Line::Refused(_)))), "{last:?}");
    assert_eq!(follow.next().await.unwrap(), None);
}

/// The groups that the guard of these tests has.
const RUNNERS: u32 = 64_300;
const READERS: u32 = 64_301;
const APPROVERS: u32 = 64_302;
const GROUPS: Groups = Groups {
    run: Some(RUNNERS),
    read: Some(READERS),
    approve: Some(APPROVERS),
};

/// Another user than root: one that everybody has.
const NOBODY: u32 = 65_534;

/// Asks as another user: a thread becomes one and ends. Needs root, as everything that the guard does.
async fn ask_as(
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

/// This thread alone is another user's from now on: these are the kernel's calls.
fn become_user(uid: u32, gid: u32, groups: &[u32]) {
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

/// The status and the document of an answer.
fn read(answer: &str) -> (u16, serde_json::Value) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).expect(answer))
}

#[tokio::test]
async fn other_users_are_served_as_members_of_the_groups_that_may_read() {
    let world = World::new().await;
    for (gid, groups) in [(NOBODY, &[][..]), (NOBODY, &[4, 64_309])] {
        let answer = ask_as(&world, (NOBODY, gid), groups, "/v1/status").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        let told = "only root and members of agentguard-run, agentguard-read, agentguard-approve may use the guard, and this is user 65534";
        assert!(answer.contains(told), "{answer}");
        assert!(answer.contains("become a member of"), "{answer}");
    }
    for (gid, groups) in [
        (READERS, &[][..]),
        (NOBODY, &[4, READERS]),
        (APPROVERS, &[]),
        (NOBODY, &[APPROVERS, 4]),
        (RUNNERS, &[READERS]),
    ] {
        let (status, answer) = read(&ask_as(&world, (NOBODY, gid), groups, "/v1/status").await);
        assert_eq!(status, 200);
        assert_eq!(answer["agents"][0]["name"], "coder", "{answer}");
        assert!(answer.get("partial").is_none(), "{answer}");
    }
    // A member that is an agent is an agent, whatever its groups.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    world.governed.send_replace(vec![own.unwrap().to_owned()]);
    for gid in [RUNNERS, READERS, APPROVERS] {
        let others = &[RUNNERS, READERS, APPROVERS];
        let answer = ask_as(&world, (NOBODY, gid), others, "/v1/agents").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(
            answer.contains("an agent may not ask its own guard"),
            "{answer}"
        );
    }
}

/// Who may run what.
fn users(of: &[(&str, &[u32])]) -> Arc<Users> {
    let mut users = Users::default();
    for (agent, uids) in of {
        for uid in *uids {
            users.add(agent.parse().unwrap(), *uid);
        }
    }
    Arc::new(users)
}

/// A decision of a run of `coder` on somebody's behalf.
fn said(user: &str) -> Decision {
    let mut decision = decision("coder", Verdict::Deny, ActionKind::Connect, "a.example");
    decision.context.user = Some(user.to_owned());
    decision
}

#[tokio::test]
async fn who_may_run_some_agents_is_told_of_these_as_if_there_were_no_others() {
    let world = World::new().await;
    let quarantine = Quarantine {
        since: Timestamp::UNIX_EPOCH,
        uid: Some(0),
        reason: Some("for operators".into()),
        frozen: false,
    };
    let agents = ["coder", "secret"].map(|name| AgentStatus {
        name: name.parse().unwrap(),
        quarantine: Some(quarantine.clone()),
        cgroups: vec![format!("/sys/fs/cgroup/other/{name}")],
        ..agent_status()
    });
    world.agents.send_replace(agents.to_vec());
    world.guard.send_modify(|guard| {
        guard.gate.attached = ["coder", "secret"]
            .map(|name| format!("/sys/fs/cgroup/other/{name}"))
            .to_vec();
        guard.policy.refused = Some("p.yaml:7:1: error: agent `secret`".into());
    });
    world
        .users
        .send_replace(users(&[("coder", &[7]), ("secret", &[8])]));
    let mut ids = Vec::new();
    for agent in ["coder", "secret", "coder", "secret"] {
        let one = decision(agent, Verdict::Deny, ActionKind::Connect, "a.example");
        ids.push(world.write(one).await.to_string());
    }
    let mut deed = decision("coder", Verdict::Allow, ActionKind::Administration, "x");
    deed.layer = Layer::Operator;
    ids.push(world.write(deed).await.to_string());
    let mut nobodys = decision("coder", Verdict::Allow, ActionKind::Connect, "x");
    nobodys.agent = None;
    ids.push(world.write(nobodys).await.to_string());

    let ask = async |route: &str| {
        let answer = ask_as(&world, (7, 7), &[4, RUNNERS], route).await;
        assert!(!answer.contains("secret"), "{route}: {answer}");
        assert!(!answer.contains("for operators"), "{route}: {answer}");
        read(&answer)
    };
    let (status, answer) = ask("/v1/verdicts").await;
    let given: Vec<_> = answer["decisions"].as_array().unwrap().iter().collect();
    let given: Vec<_> = given.iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(
        (status, given),
        (200, vec![ids[0].as_str(), ids[2].as_str()])
    );
    let (status, answer) = ask("/v1/verdicts?limit=1").await;
    assert_eq!(
        (status, &answer["decisions"][0]["id"]),
        (200, &ids[2].as_str().into())
    );
    let (_, answer) = ask("/v1/agents").await;
    assert_eq!(answer["agents"].as_array().unwrap().len(), 1);
    assert_eq!(ask("/v1/agents/coder").await.0, 200);
    let (status, answer) = ask("/v1/status").await;
    assert_eq!((status, &answer["partial"]), (200, &true.into()));
    assert_eq!(
        answer["gate"]["attached"],
        serde_json::json!(["/sys/fs/cgroup/other/coder"])
    );
    assert_eq!(answer["record"]["entries"], 0);
    let (status, answer) = ask("/v1/policy").await;
    assert_eq!((status, &answer["code"]), (403, &"forbidden".into()));

    // What is another's, what is an operator's and what is nobody's is not there.
    for (n, id) in ids.iter().enumerate() {
        let (status, answer) = ask(&format!("/v1/verdicts/{id}")).await;
        assert_eq!(status, if n == 0 || n == 2 { 200 } else { 404 }, "{n}");
        if status == 404 {
            let nowhere = id.replace(|_: char| true, "0");
            let (_, other) = ask(&format!("/v1/verdicts/{nowhere}")).await;
            assert_eq!(
                answer.to_string().replace(id, "ID"),
                other.to_string().replace(&nowhere, "ID")
            );
            assert_eq!(answer["code"], "not_found");
        }
    }
    for route in [
        "/v1/agents/NAME",
        "/v1/verdicts?agent=NAME",
        "/v1/verdicts?agent=NAME&follow=true",
    ] {
        let of = async |name: &str| {
            let answer = ask_as(&world, (7, RUNNERS), &[], &route.replace("NAME", name)).await;
            let (status, answer) = read(&answer);
            (status, answer.to_string().replace(name, "NAME"))
        };
        let (status, answer) = of("secret").await;
        assert_eq!(
            (status, &answer),
            (404, &of("nobody-knows").await.1),
            "{route}"
        );
    }
    // Who may run nothing is told of nothing.
    let (status, answer) = read(&ask_as(&world, (9, 9), &[RUNNERS], "/v1/verdicts").await);
    assert_eq!(
        (status, answer),
        (200, serde_json::json!({"decisions": []}))
    );
    let (_, answer) = read(&ask_as(&world, (9, 9), &[RUNNERS], "/v1/agents").await);
    assert_eq!(answer, serde_json::json!({"agents": []}));
    // And who is listed but no member is refused.
    let (status, answer) = read(&ask_as(&world, (7, 7), &[4], "/v1/verdicts").await);
    assert_eq!((status, &answer["code"]), (403, &"forbidden".into()));
}

#[tokio::test]
async fn users_of_one_agent_do_not_read_what_the_others_ran() {
    let world = World::new().await;
    world.users.send_replace(users(&[("coder", &[7, 8])]));
    let process = |uid| {
        let mut decision = decision("coder", Verdict::Deny, ActionKind::Connect, "a.example");
        decision.process = Some(Process {
            pid: 1,
            uid,
            comm: "x".into(),
            exe: None,
        });
        decision
    };
    // By 7, by 8, by root, by a process of each without a run, and by nobody knows whom.
    let mut ids = Vec::new();
    for one in [
        said("uid 7"),
        said("uid 8"),
        process(7),
        process(8),
        process(0),
        decision("coder", Verdict::Deny, ActionKind::Connect, "a.example"),
        said("uid none"),
        Decision {
            process: process(0).process,
            ..said("night shift")
        },
    ] {
        ids.push(world.write(one).await.to_string());
    }
    let of = async |uid| {
        let answer = ask_as(&world, (uid, RUNNERS), &[], "/v1/verdicts").await;
        let (_, answer) = read(&answer);
        let given = answer["decisions"].as_array().unwrap().clone();
        let given = given.iter().map(|it| it["id"].as_str().unwrap().to_owned());
        given
            .map(|id| ids.iter().position(|it| *it == id).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(7).await, [0, 2, 4]);
    assert_eq!(of(8).await, [1, 3, 4]);
    // The only user of an agent reads all of it but what another one ran, who was listed then.
    world.users.send_replace(users(&[("coder", &[7])]));
    assert_eq!(of(7).await, [0, 2, 3, 4, 5, 6, 7]);
    assert!(of(8).await.is_empty());
}

#[tokio::test]
async fn a_followed_answer_ends_to_tell_of_an_agent_that_is_the_users_no_more() {
    let world = World::new().await;
    world
        .users
        .send_replace(users(&[("coder", &[7]), ("secret", &[8])]));
    let socket = world.socket();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let follower = std::thread::spawn(move || {
        become_user(7, 7, &[RUNNERS]);
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream
            .write_all(b"GET /v1/verdicts?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut head = true;
        for line in std::io::BufRead::lines(std::io::BufReader::new(stream)) {
            let Ok(line) = line else { return };
            // After the head, empty lines are those of chunks.
            if line.starts_with('{') || (head && line.is_empty()) {
                head = false;
                tell.send(line).unwrap();
            }
        }
    });
    let mut next = async || told.recv().await.unwrap();
    // The head's end: it follows from here on.
    assert_eq!(next().await, "");
    let write = async |agent: &str, host: &str| {
        let one = decision(agent, Verdict::Deny, ActionKind::Connect, host);
        world.write(one).await
    };
    write("secret", "one.example").await;
    write("coder", "two.example").await;
    let line = next().await;
    assert!(line.contains("two.example"), "{line}");
    // Another agent becomes its own, and the first another's.
    world
        .users
        .send_replace(users(&[("coder", &[8]), ("secret", &[7])]));
    write("coder", "three.example").await;
    write("secret", "four.example").await;
    let line = next().await;
    assert!(line.contains("four.example"), "{line}");
    world.shutdown.cancel();
    while told.recv().await.is_some() {}
    follower.join().unwrap();
}

#[tokio::test]
async fn one_user_does_not_keep_the_others_from_asking() {
    let world = World::new().await;
    let socket = world.socket();
    let (ready, waiting) = std::sync::mpsc::channel();
    let (done, end) = std::sync::mpsc::channel::<()>();
    let crowd = std::thread::spawn(move || {
        become_user(7, 7, &[RUNNERS]);
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
    let answer = ask_as(&world, (8, 8), &[READERS], "/v1/status").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(done);
    crowd.join().unwrap();
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
