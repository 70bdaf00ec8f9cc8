//! Budgets that hosts share, in Debian's Redis: two daemons charge one account, and what becomes of calls while Redis is
//! away is what the configuration says.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::{Guard, Origin, World, address, client, wait_until};
use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::budgets::{calls as ended, line};
use crate::inspected::inspected;
use crate::redis::{Redis, ledger};
use crate::room::{LATE, Room};

const OPENAI: &str = "api.openai.com";
const ANTHROPIC: &str = "api.anthropic.com";

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: models
    match: { host: [api.openai.com], port: [443] }
    action: allow
    handling: inspect
budgets:
  - { id: calls, unit: calls, limit: 100, window: lifetime }
  - { id: few, unit: calls, limit: 6, window: lifetime, per: [model] }
  - { id: out, unit: output_tokens, limit: 100000, window: lifetime }
";

fn world(name: &str) -> World {
    let origin = Origin::at(&address::origin(0x10));
    World::new(name)
        .origin(origin.site(OPENAI).site(ANTHROPIC))
        .start()
        .unwrap()
}

/// A daemon of a host that shares its budgets; `number`: which one in this world.
fn host<'w>(world: &'w World, number: u16, more: &Value) -> Result<Room<'w>> {
    host_under(world, number, POLICY, more)
}

/// The same under another policy.
fn host_under<'w>(world: &'w World, number: u16, policy: &str, more: &Value) -> Result<Room<'w>> {
    let guard = world.guard().policy(policy);
    let guard = guard
        .setting(
            "upstreams",
            json!([{ "host": [OPENAI, ANTHROPIC], "ca": world.ca_file() }]),
        )
        .setting("ledger", ledger(world, more)?)
        .setting("proxy_port", json!(15_001 + 100 * number))
        .setting("resolver_port", json!(15_053 + 100 * number));
    Ok(Room::of(world, guard.start()?))
}

/// The words that make the script make calls.
fn script(python: &Path, words: [&str; 6]) -> Vec<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/budget_sdk.py");
    let words = words.map(PathBuf::from);
    [python.to_owned(), script]
        .into_iter()
        .chain(words)
        .collect()
}

/// What the script says of so many calls of a model, one after the other.
fn calls(room: &Room<'_>, python: &Path, model: &str, count: usize) -> Result<Vec<String>> {
    let count = count.to_string();
    let words = script(python, ["openai", model, "10", "100", "plain", &count]);
    let output = inspected(room, &words).run()?.success()?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

fn passed(told: &[String]) -> usize {
    told.iter().filter(|it| it.starts_with("10 ")).count()
}

fn asked(guard: &Guard<'_>, words: &[&str]) -> Option<Value> {
    let output = guard.cli().args(words).args(["-o", "json"]).run().ok()?;
    serde_json::from_str(&output.stdout).ok()
}

/// Waits until an account has used so much, and nothing of it is held but so much.
fn has(guard: &Guard<'_>, account: &str, used: u64, held: u64) {
    has_within(guard, account, used..=used, held);
}

/// The same, where so much is used at least and at most.
fn has_within(guard: &Guard<'_>, account: &str, used: RangeInclusive<u64>, held: u64) {
    let mut last = None;
    wait_until("the account", LATE, || {
        let told = asked(guard, &["budget", "list"])?;
        let mut all = told.as_array()?.iter();
        let it = all.find(|it| it["account"] == account)?.clone();
        let is_so = used.contains(&it["used"].as_u64()?) && it["held"] == held;
        last = Some(it);
        is_so.then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {last:#?}"));
}

fn redis_status(guard: &Guard<'_>) -> Option<Value> {
    Some(asked(guard, &["status"])?["ledger"]["redis"].clone())
}

/// Waits until a daemon says that Redis is away, or back.
fn is_away(guard: &Guard<'_>, away: bool) {
    wait_until("Redis is away or back", LATE, || {
        let status = redis_status(guard)?;
        (status["away_since"].is_string() == away).then_some(())
    })
    .unwrap();
}

/// Waits until the latest denial of the record has this code.
fn is_denied(room: &Room<'_>, code: ReasonCode) {
    let mut last = None;
    wait_until("the denial", LATE, || {
        let mut new = room.new_decisions().ok()?;
        new.retain(|it| it.verdict == Verdict::Deny);
        last = new.pop();
        last.as_ref().filter(|it| it.reason.code == code).map(drop)
    })
    .unwrap_or_else(|error| panic!("{error}: {last:#?}"));
}

#[test]
fn two_hosts_charge_one_account_and_refuse_while_nobody_answers() {
    let (Some(python), Some(_)) = (
        client::python().unwrap(),
        client::find("redis-server").unwrap(),
    ) else {
        return;
    };
    let world = world("shared-deny");
    let mut redis = Redis::new(&world);
    redis.start();
    let here = host(&world, 0, &json!({})).unwrap();
    let there = host(&world, 1, &json!({})).unwrap();
    assert_eq!(passed(&calls(&here, &python, "gpt-4o", 4).unwrap()), 4);
    // The other host has what is left.
    let told = calls(&there, &python, "gpt-4o", 3).unwrap();
    assert_eq!(passed(&told), 2, "{told:#?}");
    assert!(told[2].starts_with("RateLimitError 429 "), "{told:#?}");
    is_denied(&there, ReasonCode::BudgetExhausted);
    for room in [&here, &there] {
        has(&room.guard, "few/model=gpt-4o", 6, 0);
        has(&room.guard, "calls", 6, 0);
    }
    // What an operator says on one host counts on the other.
    let cli = |room: &Room<'_>, words: &[&str]| room.guard.cli().args(words).run().unwrap();
    let told = cli(&here, &["budget", "set", "few/model=gpt-4o", "5"]);
    assert_eq!(told.code(), 0, "{told}");
    let told = calls(&there, &python, "gpt-4o", 2).unwrap();
    assert_eq!(passed(&told), 1, "{told:#?}");
    let told = cli(&there, &["budget", "reset", "few/model=gpt-4o"]);
    assert!(told.stderr.contains("it was 6 calls"), "{told}");
    // What cannot be told is said in words.
    let told = cli(&here, &["budget", "forecast", "calls"]);
    assert!(told.stdout.contains("and not when"), "{told}");

    redis.kill();
    let before = world
        .origin(OPENAI)
        .unwrap()
        .log()
        .requests()
        .unwrap()
        .len();
    for room in [&here, &there] {
        let told = calls(room, &python, "gpt-4o", 1).unwrap();
        assert!(told[0].contains(" 503 "), "{told:#?}");
        assert!(
            told[0].contains("the ledger that hosts share does not answer")
                && !told[0].contains("127.0.0.1"),
            "{told:#?}"
        );
        is_denied(room, ReasonCode::LedgerFailed);
        is_away(&room.guard, true);
        let told = cli(room, &["status"]);
        assert!(
            told.stdout.contains("it is away since ")
                && told.stdout.contains("are refused meanwhile"),
            "{told}"
        );
        assert!(told.stdout.contains("not everything of the daemon works"));
        let told = cli(room, &["budget", "list"]);
        assert_ne!(told.code(), 0, "{told}");
        assert!(told.stderr.contains("cannot be read"), "{told}");
        let told = cli(room, &["budget", "reset", "calls"]);
        assert_ne!(told.code(), 0, "{told}");
        let log = room.guard.log();
        assert!(
            log.contains("in which hosts share their budgets, is away"),
            "{log}"
        );
    }
    let arrived = || {
        world
            .origin(OPENAI)
            .unwrap()
            .log()
            .requests()
            .unwrap()
            .len()
    };
    assert_eq!(arrived(), before, "nothing was let out");

    redis.start();
    for room in [&here, &there] {
        is_away(&room.guard, false);
        assert_eq!(passed(&calls(room, &python, "gpt-4o", 2).unwrap()), 2);
    }
    has(&here.guard, "few/model=gpt-4o", 4, 0);
    has(&there.guard, "calls", 11, 0);
}

#[test]
fn a_host_goes_on_with_what_it_has_drawn_and_no_more() {
    let (Some(python), Some(_)) = (
        client::python().unwrap(),
        client::find("redis-server").unwrap(),
    ) else {
        return;
    };
    let world = world("shared-lease");
    let mut redis = Redis::new(&world);
    let lease = json!({ "on_loss": "lease", "lease_percent": 50 });
    // It starts without it: nothing is drawn, so that nothing goes.
    let mut room = host(&world, 0, &lease).unwrap();
    is_away(&room.guard, true);
    let told = calls(&room, &python, "gpt-4o", 1).unwrap();
    assert!(
        told[0].contains(" 503 ") && told[0].contains("in advance"),
        "{told:#?}"
    );
    redis.start();
    is_away(&room.guard, false);
    assert_eq!(passed(&calls(&room, &python, "gpt-4o", 1).unwrap()), 1);
    // Half of each limit is drawn: 50 and 3.
    has(&room.guard, "calls", 1, 50);
    has(&room.guard, "few/model=gpt-4o", 1, 3);

    // It stands still, so that each call finds out by itself; and later it is ended.
    redis.signal(Signal::STOP);
    let told = calls(&room, &python, "gpt-4o", 4).unwrap();
    assert_eq!(passed(&told), 3, "{told:#?}");
    assert!(
        told[3].contains(" 503 ") && told[3].contains("in advance"),
        "{told:#?}"
    );
    is_denied(&room, ReasonCode::LedgerFailed);
    redis.kill();
    // Nothing was drawn for a model that was not asked before.
    let told = calls(&room, &python, "gpt-4o-mini", 1).unwrap();
    assert!(told[0].contains(" 503 "), "{told:#?}");

    redis.start();
    is_away(&room.guard, false);
    // What was spent is settled, once; and it is drawn anew, of what is left.
    has(&room.guard, "few/model=gpt-4o", 4, 2);
    // While Redis is there, what this host keeps for later is its own calls' to spend.
    let told = calls(&room, &python, "gpt-4o", 3).unwrap();
    assert_eq!(passed(&told), 2, "{told:#?}");
    is_denied(&room, ReasonCode::BudgetExhausted);
    has(&room.guard, "few/model=gpt-4o", 6, 0);
    let status = redis_status(&room.guard).unwrap();
    assert_eq!(
        (&status["spent_away"], &status["dropped"]),
        (&json!(3), &json!(0))
    );

    // A daemon that dies and comes back finds what was used as it was.
    room.guard.kill().unwrap();
    room.guard.start().unwrap();
    is_away(&room.guard, false);
    let status = redis_status(&room.guard).unwrap();
    assert_eq!(status["prefix"], "tests");
    let list = asked(&room.guard, &["budget", "list"]).unwrap();
    let few = list.as_array().unwrap().iter();
    let few = few
        .clone()
        .find(|it| it["account"] == "few/model=gpt-4o")
        .unwrap();
    let (used, held) = (few["used"].as_u64().unwrap(), few["held"].as_u64().unwrap());
    assert_eq!((used, held), (6, 0), "{few:#?}");
    let stop = room.guard.stop().unwrap();
    assert!(!stop.stderr.contains("panicked"), "{stop}");
}

#[test]
fn a_stream_waits_for_redis_for_a_moment_and_ends_without_it() {
    let (Some(python), Some(_)) = (
        client::python().unwrap(),
        client::find("redis-server").unwrap(),
    ) else {
        return;
    };
    let world = world("shared-stream");
    let mut redis = Redis::new(&world);
    redis.start();
    let room = host(&world, 0, &json!({})).unwrap();
    // A word each 50 ms: it needs more than it began with after some seconds.
    let stream = || {
        let words = script(&python, ["openai", "gpt-4o", "400", "64000", "slowly", "1"]);
        let call = inspected(&room, &words).spawn().unwrap();
        has(&room.guard, "out", 0, 256);
        call
    };
    let call = stream();
    redis.kill();
    // It has asked for more.
    is_away(&room.guard, true);
    redis.start();
    let output = call
        .wait(Duration::from_secs(60))
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(output.stdout, "400 stop 400\n");
    has(&room.guard, "out", 400, 0);

    let told = room.guard.cli().args(["budget", "reset", "out"]).run();
    assert_eq!(told.unwrap().code(), 0);
    let call = stream();
    redis.kill();
    let output = call
        .wait(Duration::from_secs(60))
        .unwrap()
        .success()
        .unwrap();
    assert!(
        output.stdout.contains("APIError") && output.stdout.contains("does not answer"),
        "{output}"
    );
    is_denied(&room, ReasonCode::LedgerFailed);
    redis.start();
    is_away(&room.guard, false);
    // It has used all that it held, and what its provider wrote on while it waited; and holds nothing any more.
    has_within(&room.guard, "out", 256..=400, 0);
    has(&room.guard, "calls", 2, 0);
}

const COUNTED: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: models
    match: { host: [api.openai.com, api.anthropic.com], port: [443] }
    action: allow
    handling: inspect
budgets:
  - { id: all, unit: tokens, limit: 12000, window: lifetime, per: [model] }
  - { id: small, unit: tokens, limit: 3000, window: lifetime, llm: { model: [gpt-4o-mini] } }
  - { id: tools, unit: tool_calls, limit: 1000, window: day, soft: { at: 90%, forecast: true } }
";

/// 5,000 words are 20,000 bytes, and for GPT as many tokens as words: two such prompts fit into what the hosts share, one of
/// each, and no third. Of Claude nobody knows how many tokens they are.
#[test]
fn a_long_prompt_is_counted_where_hosts_share_what_it_fits_into() {
    let (Some(python), Some(_)) = (
        client::python().unwrap(),
        client::find("redis-server").unwrap(),
    ) else {
        return;
    };
    let world = world("shared-counted");
    let mut redis = Redis::new(&world);
    redis.start();
    let hosts = [0, 1].map(|it| host_under(&world, it, COUNTED, &json!({})).unwrap());
    let [here, there] = &hosts;
    // What is asked for and cannot be had is said.
    for room in &hosts {
        let says = || {
            let log = room.guard.log();
            log.contains("which a ledger that hosts share does not have: none is made")
                .then_some(())
        };
        wait_until("that there are no forecasts", LATE, says).unwrap();
    }
    let arrived = || {
        let sites = [OPENAI, ANTHROPIC].map(|site| world.origin(site).unwrap());
        let requests = sites.map(|site| site.log().requests().unwrap().len());
        requests.iter().sum::<usize>()
    };
    let says = |room: &Room<'_>, call: &str| {
        let words: Vec<&str> = call.split(' ').collect();
        let words = script(&python, words.try_into().unwrap());
        let output = inspected(room, &words).run().unwrap().success().unwrap();
        output.stdout.trim_end().to_owned()
    };
    let mut sums = BTreeMap::new();
    for (room, model, call, said) in [
        (
            here,
            "gpt-4o",
            "openai gpt-4o 5000 100 plain 1",
            "100 length 100",
        ),
        (
            there,
            "gpt-4o",
            "openai gpt-4o 5000 100 stream 1",
            "100 length 100",
        ),
        (
            there,
            "gpt-4.1",
            "responses gpt-4.1 5000 100 stream 1",
            "100 incomplete 100",
        ),
        (
            here,
            "gpt-4.1",
            "responses gpt-4.1 5000 100 plain 1",
            "100 incomplete 100",
        ),
        // One that had room by its bytes, and would have been let write less than half of its limit.
        (
            there,
            "gpt-4o-mini",
            "openai gpt-4o-mini 425 2250 stream 1",
            "425 stop 425",
        ),
    ] {
        assert_eq!(says(room, call), said, "{call}");
        let decision = ended(room, 1).unwrap().remove(0);
        let usage = decision.outcome.as_ref().unwrap().llm.as_ref().unwrap();
        let usage = usage.usage.unwrap();
        let (input, output) = (usage.input_tokens.unwrap(), usage.output_tokens.unwrap());
        let used = input + output;
        for reserved in &decision.budget {
            assert!(
                reserved.counted && reserved.clamped.is_none(),
                "{call}: {reserved:?}"
            );
            let line = line(&decision, &reserved.budget).unwrap();
            assert_eq!((line.settled, line.overshoot), (Some(used), None), "{call}");
            assert!((used..used + 800).contains(&line.reserved), "{line:?}");
        }
        let account = format!("all/model={model}");
        let sum = sums.entry(account.clone()).or_insert(0);
        *sum += used;
        for room in &hosts {
            has(&room.guard, &account, *sum, 0);
        }
    }
    let refused = |room: &Room<'_>, model: &str, code: ReasonCode| {
        let is_it = |it: &Decision| {
            let its = it.action.llm.as_ref().and_then(|it| it.model.as_deref());
            it.verdict == Verdict::Deny && its == Some(model) && it.reason.code == code
        };
        wait_until("the denial", LATE, || {
            let new = room.new_decisions().ok()?;
            new.iter().any(is_it).then_some(())
        })
        .unwrap();
    };
    let before = arrived();
    for (room, model, call) in [
        (here, "gpt-4o", "openai gpt-4o 5000 100 plain 1"),
        (there, "gpt-4.1", "responses gpt-4.1 5000 100 stream 1"),
        (
            here,
            "claude-haiku-4-5",
            "anthropic claude-haiku-4-5 5000 100 plain 1",
        ),
    ] {
        let told = says(room, call);
        assert!(told.starts_with("RateLimitError 429 "), "{told}");
        refused(room, model, ReasonCode::BudgetExhausted);
    }
    // Nobody counts where nobody says how much is left.
    redis.kill();
    for room in &hosts {
        let told = says(room, "openai gpt-4.1-mini 5000 100 plain 1");
        assert!(told.contains(" 503 "), "{told}");
        refused(room, "gpt-4.1-mini", ReasonCode::LedgerFailed);
    }
    assert_eq!(arrived(), before, "nothing was let out");
    redis.start();
    for room in &hosts {
        is_away(&room.guard, false);
        for (account, sum) in &sums {
            has(&room.guard, account, *sum, 0);
        }
    }
}
