//! The record against the attempts: whatever an agent tries, and however often, the counts of its
//! decisions add up to exactly that.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use agentguard_model::{ActionKind, Decision, Verdict};
use agentguard_tests::{Guard, Origin, World, address, client, decisions, wait_until};
use anyhow::{Context as _, Result};

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: tls
    match: { host: [api.example.com], port: [443] }
    action: allow
  - id: read-only
    match: { host: [api.example.com], port: [80], method: [GET] }
    action: allow
  - id: direct
    match: { host: [direct.example.com], port: [7], transport: [tcp, udp] }
    action: allow
    handling: direct
  - id: no-paste-sites
    match: { host: ['*.paste.example'] }
    action: deny
";

/// How often what was attempted: `KIND VERDICT PLACE`, as the script says it.
type Tally = BTreeMap<String, u64>;

fn all(guard: &Guard<'_>) -> Result<Vec<Decision>> {
    let cli = guard.cli();
    let verdicts = cli.args(["verdicts", "-o", "jsonl", "--limit", "10000"]);
    decisions(&verdicts.run()?.success()?.stdout)
}

fn key(decision: &Decision) -> String {
    let action = &decision.action;
    let kind = match action.kind {
        ActionKind::Connect => "connect",
        ActionKind::Datagram => "datagram",
        ActionKind::DnsQuery => "dns_query",
        ActionKind::HttpRequest => "http_request",
        _ => "something else",
    };
    let place = match (&action.host, action.ip) {
        (Some(host), _) => host.to_string(),
        (None, Some(ip)) if ip.is_ipv6() => format!("[{ip}]"),
        (None, Some(ip)) => ip.to_string(),
        (None, None) => "nowhere".to_owned(),
    };
    let port = action.port.unwrap_or_default();
    format!("{kind} {} {place}:{port}", decision.verdict)
}

fn tally(decisions: &[Decision]) -> Tally {
    decisions.iter().fold(Tally::new(), |mut tally, decision| {
        *tally.entry(key(decision)).or_default() += decision.count;
        tally
    })
}

/// What differs, as lines.
fn difference(attempted: &Tally, recorded: &Tally) -> Vec<String> {
    let keys = attempted.keys().chain(recorded.keys());
    let mut lines: Vec<_> = keys
        .filter(|key| attempted.get(*key) != recorded.get(*key))
        .map(|key| {
            let count = |tally: &Tally| tally.get(key).copied().unwrap_or_default();
            let (attempted, recorded) = (count(attempted), count(recorded));
            format!("{key}: {attempted} attempted, {recorded} recorded")
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Waits until the counts in the record are those of the attempts. Kernel decisions come after
/// their effect, and counts of identical denials later still.
fn settle(guard: &Guard<'_>, attempted: &Tally) -> Result<()> {
    let mut differ = Vec::new();
    let waited = wait_until("the counts", Duration::from_secs(15), || {
        let recorded = match all(guard) {
            Ok(recorded) => recorded,
            Err(error) => return Some(Err(error)),
        };
        differ = difference(attempted, &tally(&recorded));
        differ.is_empty().then_some(Ok(()))
    });
    waited
        .and_then(|waited| waited)
        .with_context(|| format!("{}\n{}", differ.join("\n"), guard.log()))
}

fn world(name: &str) -> Result<World> {
    let here = Origin::at(&address::origin(0x10));
    let there = Origin::at(&address::origin(0x20));
    World::new(name)
        .origin(here.site("api.example.com").site("direct.example.com"))
        .origin(
            there
                .site("www.paste.example")
                .site("elsewhere.example.net"),
        )
        .start()
}

#[test]
fn the_counts_of_a_thousand_mixed_attempts_add_up_to_a_thousand() {
    if client::find("python3").unwrap().is_none() {
        return;
    }
    let world = world("counts").unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mixed.py");
    let script = script.to_str().unwrap();
    let mixed = guard.agent("coder", ["python3", script]);
    let output = mixed.limit(Duration::from_secs(120)).run().unwrap();
    let output = output.success().unwrap();
    let attempted: Tally = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(attempted.values().sum::<u64>(), 1000, "{attempted:?}");

    settle(&guard, &attempted).unwrap();

    // One more of the kernel, whose events keep their order: no late one was missing.
    let last = guard.run("coder", ["bash", "-c", "exec 3<>/dev/tcp/192.0.2.66/9"]);
    assert_eq!(last.unwrap().code(), 1);
    let mut expected = attempted;
    expected.insert("connect deny 192.0.2.66:9".to_owned(), 1);
    let recorded = guard
        .wait_verdicts("the last one", |_| {
            let recorded = all(&guard).ok()?;
            recorded
                .iter()
                .any(|decision| decision.action.port == Some(9))
                .then_some(recorded)
        })
        .unwrap();
    let differ = difference(&expected, &tally(&recorded));
    assert!(differ.is_empty(), "{}", differ.join("\n"));

    // Repeated denials were counted together, allowances never.
    let together: Vec<_> = recorded.iter().filter(|it| it.count > 1).collect();
    assert!(together.iter().any(|it| it.count > 20), "{together:?}");
    assert!(together.iter().all(|it| it.verdict == Verdict::Deny));
    assert!(recorded.iter().all(|it| it.enforced));

    let status = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    for none in ["gaps", "refused", "refused_by_quota"] {
        assert_eq!(status["record"][none], 0, "{none}: {status}");
    }
    assert_eq!(world.canary().unwrap(), 0);
    let log = world.origin("api.example.com").unwrap().log();
    let requests = log.requests().unwrap().len();
    // One over each TLS connection, and those in the clear that were allowed.
    assert_eq!(requests, 90 + 90 + 2 * 20);
}

const REPEATED: &str = r#"
import socket
direct = socket.getaddrinfo("direct.example.com", 7, socket.AF_INET)[0][4]
raw = socket.getaddrinfo("api.example.com", 443, socket.AF_INET)[0][4]

def attempts(work, places):
    for place in places:
        try:
            work(place)
        except PermissionError:
            pass

def denied(port):
    return "192.0.2.66", port

with socket.socket() as s:
    attempts(s.connect, [denied(1), denied(1), denied(1), raw])
with socket.socket(type=socket.SOCK_DGRAM) as s:
    def send(place):
        s.sendto(b"x", place)
        assert s.recv(9) == b"x"
    attempts(send, [denied(2), denied(2), direct, direct, denied(2), direct])
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.connect(denied(3))
    attempts(s.send, [b"x"] * 3)
with socket.socket(type=socket.SOCK_DGRAM) as s:
    def send_connected(place):
        s.connect(place)
        for _ in range(2):
            s.send(b"x")
            assert s.recv(9) == b"x"
    attempts(send_connected, [denied(4), direct, denied(4)])
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.connect(denied(5))
    assert s.getpeername() == denied(5)
"#;

/// Each denied call is an attempt; so is each flow that passes, however many datagrams it has. A
/// datagram socket's `connect` sends nothing and is none.
#[test]
fn what_is_one_attempt_does_not_depend_on_how_often_a_socket_is_used() {
    if client::find("python3").unwrap().is_none() {
        return;
    }
    let world = world("repeated").unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let output = guard.run("coder", ["python3", "-c", REPEATED]).unwrap();
    output.success().unwrap();
    let attempted: Tally = [
        ("dns_query allow direct.example.com:53", 1),
        ("dns_query allow api.example.com:53", 1),
        ("connect deny 192.0.2.66:1", 3),
        ("connect allow api.example.com:443", 1),
        ("datagram deny 192.0.2.66:2", 3),
        // Back to a destination after another one is another flow; and one of the connected socket.
        ("datagram allow direct.example.com:7", 2 + 1),
        ("datagram deny 192.0.2.66:3", 3),
        ("datagram deny 192.0.2.66:4", 2),
    ]
    .map(|(key, count)| (key.to_owned(), count))
    .into();
    settle(&guard, &attempted).unwrap();
    assert_eq!(world.canary().unwrap(), 0);
}
