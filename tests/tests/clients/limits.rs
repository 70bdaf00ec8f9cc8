//! Limits and breakers: SDKs wait for a rate as long as they are told to and then succeed, a loop is stopped, and what
//! fails is left alone until it works again.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::{Origin, World, address, client, wait_until};
use anyhow::Result;
use serde_json::json;

use crate::budgets::calls;
use crate::inspected::inspected;
use crate::providers::{BEDROCK, COHERE};
use crate::room::{LATE, Room, SITE};
use crate::sdks::{HAIKU, Sdk};
use crate::serving::trusting;
use crate::{mcp, room, sdks};

const OPENAI: &str = "api.openai.com";
const ANTHROPIC: &str = "api.anthropic.com";

/// What was refused of what goes to a host, once there is so much: an entry for each attempt.
fn refused(room: &Room<'_>, host: &str, count: u64) -> Result<Vec<Decision>> {
    let is_there = |it: &Decision| {
        it.action
            .host
            .as_ref()
            .is_some_and(|it| it.as_str() == host)
    };
    let mut denied = Vec::new();
    wait_until("the denials", LATE, || {
        denied = room.new_decisions().ok()?;
        denied.retain(|it| it.verdict == Verdict::Deny && is_there(it));
        let all: u64 = denied.iter().map(|it| it.count).sum();
        (all >= count).then_some(())
    })?;
    let all: u64 = denied.iter().map(|it| it.count).sum();
    assert_eq!(all, count, "{denied:#?}");
    Ok(denied)
}

#[test]
fn sdks_try_a_rate_limit_again_at_the_right_time() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let origin = Origin::at(&address::origin(0x10));
    let world = World::new("limit-rate")
        .origin(origin.site(OPENAI).site(ANTHROPIC))
        .start()
        .unwrap();
    let policy = format!(
        "
version: 1
agents:
  - name: coder
rules:
  - id: models
    match: {{ host: [{OPENAI}, {ANTHROPIC}], port: [443] }}
    action: allow
    handling: inspect
limits:
  - {{ id: burst, rate: {{ calls: 20, every: 1m, burst: 2 }}, llm: {{}}, per: [provider] }}
"
    );
    let upstreams = json!([{ "host": [OPENAI, ANTHROPIC], "ca": world.ca_file() }]);
    let guard = world.guard().policy(&policy);
    let room = Room::of(
        &world,
        guard.setting("upstreams", upstreams).start().unwrap(),
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/budget_sdk.py");
    for (call, host) in [
        ("openai gpt-4o 5 100 plain 4", OPENAI),
        ("anthropic claude-haiku-4-5 5 100 stream 4", ANTHROPIC),
    ] {
        let words: Vec<OsString> = [python.clone().into(), script.clone().into()]
            .into_iter()
            .chain(call.split(' ').map(OsString::from))
            .collect();
        let started = Instant::now();
        let output = inspected(&room, &words).run().unwrap().success().unwrap();
        let took = started.elapsed();
        let told: Vec<&str> = output.stdout.lines().collect();
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|it| it.starts_with("5 ")), "{told:#?}");
        // Two at once, and one in each 3 s after that.
        assert!(took >= Duration::from_secs(5), "{took:?}");
        let arrived = world.origin(host).unwrap().log().requests().unwrap();
        let arrived = arrived
            .iter()
            .filter(|it| it.host.as_deref() == Some(host))
            .count();
        assert_eq!(arrived, 4);
        // Each of the other two was refused once: when it came again it was time.
        let denied = refused(&room, host, 2).unwrap();
        for denial in &denied {
            assert_eq!(denial.reason.code, ReasonCode::RateLimited);
            assert_eq!(denial.matched[0].rule, "burst");
        }
    }
}

/// The seconds behind the only one of these words in a line.
fn seconds(line: &str, word: &str) -> Option<f64> {
    let (_, rest) = line.split_once(&format!(" {word} "))?;
    assert!(!rest.contains(word), "more than once: {line}");
    rest.split(' ').next()?.parse().ok()
}

/// The first of two calls passes. The other is refused once, and its SDK comes again by itself, no sooner than it was told.
#[test]
fn further_sdks_wait_for_a_rate_as_long_as_they_are_told() {
    let world = sdks::world("limit-told").unwrap();
    let limits = "
limits:
  - { id: slow, rate: { calls: 15, every: 1m, burst: 1 }, llm: {}, per: [host, model] }
";
    let room = sdks::open(&world, limits).unwrap();
    let older = "anthropic.claude-3-haiku-20240307-v1:0";
    for (sdk, mode) in [
        (Sdk::python("bedrock", BEDROCK, HAIKU), "standard"),
        (Sdk::python("bedrock", BEDROCK, older), "adaptive"),
        (Sdk::python("cohere", COHERE, "command-a-03-2025"), ""),
        (Sdk::node("openai", OPENAI, "gpt-4o"), ""),
        (Sdk::node("responses", OPENAI, "gpt-4.1"), ""),
        (Sdk::node("anthropic", ANTHROPIC, "claude-haiku-4-5"), ""),
    ] {
        let Some(words) = sdk.words("5 100 patient 2").unwrap() else {
            return;
        };
        let origin = world.origin(sdk.host).unwrap();
        let arrived = || origin.log().requests().unwrap().len();
        let before = arrived();
        let call = inspected(&room, &words).env("AWS_RETRY_MODE", mode);
        let output = call.run().unwrap().success().unwrap();
        let told: Vec<&str> = output.stdout.lines().collect();
        let [passed, patient] = told[..] else {
            panic!("{sdk:?}: {output}");
        };
        assert!(told.iter().all(|it| it.starts_with("5 ")), "{output}");
        assert_eq!(seconds(passed, "slept"), None, "{sdk:?}: {output}");
        let slept = seconds(patient, "slept").unwrap();
        // Those of Python sleep for what they are told, which is whole seconds. Their own times are none.
        let told = seconds(patient, "told").unwrap_or(slept);
        assert!(
            told >= 1.0 && told.fract() == 0.0 && slept >= told,
            "{sdk:?}: {output}"
        );
        assert_eq!(arrived(), before + 2, "{sdk:?}");
        let calls = calls(&room, 3).unwrap();
        let [first, refused, second] = &calls[..] else {
            panic!("{sdk:?}: {calls:#?}");
        };
        for passed in [first, second] {
            assert_eq!(passed.verdict, Verdict::Allow, "{sdk:?}: {passed:#?}");
        }
        assert_eq!(
            (refused.verdict, refused.count, refused.reason.code),
            (Verdict::Deny, 1, ReasonCode::RateLimited)
        );
        assert_eq!(refused.matched[0].rule, "slow");
        let later = |from: &Decision| second.time.duration_since(from.time).as_secs_f64();
        // A timer may be some milliseconds early.
        assert!(later(refused) > told - 0.05, "{sdk:?}: {calls:#?}");
        assert!(later(first) > 4.0 - 0.05, "{sdk:?}: {calls:#?}");
    }
    room.close().unwrap();
}

#[test]
fn a_loop_of_the_same_tool_call_is_stopped() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let host = mcp::HOST;
    let (world, _server) = mcp::world("limit-loop", &python).unwrap();
    let policy = format!(
        "
version: 1
tool_servers:
  - {{ name: files, api: mcp, hosts: [{host}], paths: [/mcp] }}
agents:
  - name: coder
rules:
  - {{ id: all, match: {{ host: [{host}], port: [8443] }}, action: allow, handling: inspect }}
limits:
  - {{ id: loops, repeats: {{ calls: 3, within: 1h }}, per: [agent], reason: Stop and think. }}
"
    );
    let room = trusting(&world, host, &policy).unwrap();
    let what = ["read=/data/a"; 5];
    let output = mcp::governed(&room, &python, "stateless", &what).unwrap();
    assert_eq!(
        output.stdout.matches("Stop and think.").count(),
        2,
        "{output:?}"
    );
    let denied = refused(&room, host, 2).unwrap();
    for denial in &denied {
        assert_eq!(denial.reason.code, ReasonCode::RepeatedCall);
        assert_eq!(denial.matched[0].rule, "loops");
    }
    // Another call goes on, and that one still does not.
    let what = ["read=/data/b", "read=/data/a"];
    let output = mcp::governed(&room, &python, "stateless", &what).unwrap();
    assert_eq!(
        output.stdout.matches("Stop and think.").count(),
        1,
        "{output:?}"
    );
}

#[test]
fn a_circuit_opens_is_tried_and_closes() {
    let world = room::world("limit-breaker").start().unwrap();
    let policy = format!(
        "
version: 1
agents:
  - name: coder
rules:
  - {{ id: all, match: {{ host: [{SITE}], port: [443] }}, action: allow, handling: inspect }}
breakers:
  - {{ id: upstreams, circuit: upstream, failures: 2, wait: 3s }}
"
    );
    let upstreams = json!([{ "host": ["*.example.com"], "ca": world.ca_file() }]);
    let guard = world.guard().policy(&policy);
    let room = Room::of(
        &world,
        guard.setting("upstreams", upstreams).start().unwrap(),
    );
    // The status, and when to come again.
    let get = |path: &str| {
        let url = format!("https://{SITE}{path}");
        let told = "%{http_code} %header{retry-after} %header{x-agentguard-decision}";
        let words = ["curl", "-sS", "-o", "/dev/null", "-w", told, &url];
        let output = inspected(&room, &words).run().unwrap().success().unwrap();
        let mut words = output.stdout.split(' ').map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        (next(), next(), !next().is_empty())
    };
    let passed = |path, status: &str| {
        assert_eq!(get(path), (status.to_owned(), String::new(), false));
    };
    // From the guard, and in at most so many seconds.
    let open = || {
        let (status, wait, own) = get("/");
        assert_eq!((&*status, own), ("503", true));
        let seconds: u64 = wait.parse().unwrap();
        assert!((1..=3).contains(&seconds), "{wait}");
        Instant::now() + Duration::from_secs(seconds)
    };
    // What is told is when it is tried: there is nothing else to wait for.
    let comes = |time: Instant| {
        let is_there = || (Instant::now() >= time).then_some(());
        wait_until("the time that was told", LATE, is_there).unwrap();
    };
    passed("/", "200");
    passed("/status/404", "404");
    passed("/status/503", "503");
    passed("/status/500", "500");
    comes(open());
    passed("/status/502", "502");
    comes(open());
    for _ in 0..3 {
        passed("/", "200");
    }
    let denied = refused(&room, SITE, 2).unwrap();
    for denial in &denied {
        assert_eq!(denial.reason.code, ReasonCode::CircuitOpen);
        assert_eq!(denial.matched[0].engine, "breaker");
    }
}
