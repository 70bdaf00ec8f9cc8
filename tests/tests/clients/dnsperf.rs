//! dnsperf: an agent that asks for very many names.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use agentguard_model::ReasonCode;
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

/// What it says in a line that begins so.
fn told(output: &Output, line: &str) -> u32 {
    let mut lines = output.stdout.lines();
    let value = lines.find_map(|it| it.trim().strip_prefix(line));
    assert!(value.is_some(), "no `{line}`: {output}");
    let value = value.unwrap_or_default().split_whitespace().next();
    value.unwrap().parse().unwrap()
}

#[test]
fn an_agent_asks_as_much_as_it_is_answered() {
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

    // Four times as many as may wait for an answer (512), of which never more than some do.
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
}
