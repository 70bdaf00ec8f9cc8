//! dnsperf: an agent that asks for very many names, waiting for answers and without.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use agentguard_model::{ActionKind, Layer, ReasonCode, Verdict};
use agentguard_tests::{Output, address};

use crate::room::{AGENT, Program, SITE, world};

const POLICY: &str = "
version: 1
agents: [{ name: coder }]
rules:
  - { id: site, match: { host: [api.example.com], port: [443] }, action: allow }
";

/// How many queries there are: less than an agent's share of the record has at once.
const QUERIES: u32 = 2_000;

/// How many of an agent's may wait for their answers.
const BOUND: u32 = 512;

/// What it says in a line that begins so.
fn told(output: &Output, line: &str) -> u32 {
    let mut lines = output.stdout.lines();
    let value = lines.find_map(|it| it.trim().strip_prefix(line));
    assert!(value.is_some(), "no `{line}`: {output}");
    let value = value.unwrap_or_default().split_whitespace().next();
    value.unwrap().parse().unwrap()
}

#[test]
fn an_agent_asks_as_much_as_it_is_answered_and_is_told_what_waits_too_long() {
    let Some(dnsperf) = Program::find("dnsperf").unwrap() else {
        return;
    };
    let world = world("dnsperf").start().unwrap();
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut queries = String::new();
    for _ in 0..QUERIES {
        writeln!(queries, "{SITE} A").unwrap();
    }
    let file = world.directory().join("queries");
    fs::write(&file, queries).unwrap();
    let file = file.display().to_string();
    let [server, _] = address::NAME_SERVER.map(|ip| ip.to_string());
    // What its socket's buffer cannot hold is lost, and is not our affair.
    let asks = |at_once: &str| {
        let words = ["-s", &server, "-d", &file, "-n", "1", "-q", at_once];
        let words = [&words[..], &["-v", "-b", "4096"]].concat();
        let call = guard.agent(AGENT, dnsperf.words(&words));
        call.limit(Duration::from_secs(60)).run().unwrap()
    };
    let refusals = |output: &Output| {
        let said = [output.stdout.as_str(), &output.stderr].concat();
        said.matches("failed to send packet: Operation not permitted")
            .count()
    };

    // Four times as many as may wait, and of those never more than some.
    let ran = asks("400").success().unwrap();
    for line in ["Queries sent:", "Queries completed:"] {
        assert_eq!(told(&ran, line), QUERIES, "{ran}");
    }
    assert!(ran.stdout.contains("NOERROR 2000 (100.00%)"), "{ran}");
    assert_eq!(refusals(&ran), 0, "{ran}");
    let decisions = guard.verdicts().unwrap();
    let others = decisions
        .iter()
        .find(|it| it.reason.code != ReasonCode::RuleAllow);
    assert!(others.is_none(), "{others:?}");

    // All at once: what is sent is answered, and what is not is refused where it is sent, and told.
    let ran = asks("2000").success().unwrap();
    let sent = told(&ran, "Queries sent:");
    assert!((BOUND..QUERIES).contains(&sent), "{ran}");
    assert_eq!(told(&ran, "Queries completed:"), sent, "{ran}");
    assert_eq!(refusals(&ran), (QUERIES - sent) as usize, "{ran}");
    let refused = guard.wait_verdicts("the refusal is told", |all| {
        let refused = all.iter().find(|it| it.verdict == Verdict::Deny);
        refused.cloned()
    });
    let refused = refused.unwrap();
    let about = (
        refused.layer,
        refused.action.kind,
        refused.action.port,
        refused.reason.code,
    );
    let expected = (
        Layer::Kernel,
        ActionKind::Datagram,
        Some(53),
        ReasonCode::MapFull,
    );
    assert_eq!(about, expected, "{refused:?}");
    let sentence = &refused.reason.message;
    assert!(
        sentence.contains("wait for an answer as may (512)"),
        "{sentence}"
    );
    let explain = guard.cli().args(["explain", &refused.id.to_string()]);
    let explained = explain.run().unwrap().success().unwrap();
    assert!(
        explained.stdout.contains("without waiting for answers"),
        "{explained}"
    );
}
