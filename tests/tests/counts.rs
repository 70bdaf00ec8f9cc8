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

#[test]
fn the_counts_of_a_thousand_mixed_attempts_add_up_to_a_thousand() {
    if client::find("python3").unwrap().is_none() {
        return;
    }
    let here = Origin::at(&address::origin(0x10));
    let there = Origin::at(&address::origin(0x20));
    let world = World::new("counts")
        .origin(here.site("api.example.com").site("direct.example.com"))
        .origin(
            there
                .site("www.paste.example")
                .site("elsewhere.example.net"),
        )
        .start()
        .unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mixed.py");
    let script = script.to_str().unwrap();
    let mixed = guard.agent("coder", ["python3", script]);
    let output = mixed.limit(Duration::from_secs(120)).run().unwrap();
    let output = output.success().unwrap();
    let attempted: Tally = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(attempted.values().sum::<u64>(), 1000, "{attempted:?}");

    // Kernel decisions come after their effect, and counts of identical denials later still.
    let mut recorded = Vec::new();
    let waited = wait_until("the counts", Duration::from_secs(15), || {
        recorded = match all(&guard) {
            Ok(decisions) => decisions,
            Err(error) => return Some(Err(error)),
        };
        difference(&attempted, &tally(&recorded))
            .is_empty()
            .then_some(Ok(()))
    });
    let differ = difference(&attempted, &tally(&recorded)).join("\n");
    waited
        .and_then(|waited| waited)
        .with_context(|| format!("{differ}\n{}", guard.log()))
        .unwrap();

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
