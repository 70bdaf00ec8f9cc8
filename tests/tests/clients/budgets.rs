//! Budgets, with the providers' SDKs: what is charged is what the provider reports, a spent budget is told and not tried
//! again, and a careful agent is never stopped by what others only might use.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use agentguard_model::budget::Unit;
use agentguard_model::{BudgetLine, Decision, ReasonCode, Verdict};
use agentguard_tests::{Origin, Output, World, address, client, wait_until};
use anyhow::{Context as _, Result};
use serde_json::json;

use crate::inspected::inspected;
use crate::providers::GEMINI;
use crate::room::{LATE, Room};

/// How long many calls may take.
const PATIENCE: Duration = Duration::from_secs(90);

const OPENAI: &str = "api.openai.com";
const ANTHROPIC: &str = "api.anthropic.com";

fn world(name: &str) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10));
    World::new(name)
        .origin(origin.site(OPENAI).site(ANTHROPIC).site(GEMINI))
        .start()
}

fn policy(budgets: &str) -> String {
    format!(
        "
version: 1
agents:
  - name: coder
    labels: {{ tenant: acme }}
rules:
  - id: models
    match: {{ host: [{OPENAI}, {ANTHROPIC}, {GEMINI}], port: [443] }}
    action: allow
    handling: inspect
budgets:
{budgets}
"
    )
}

fn open<'w>(world: &'w World, budgets: &str) -> Result<Room<'w>> {
    let upstreams = json!([{ "host": [OPENAI, ANTHROPIC, GEMINI], "ca": world.ca_file() }]);
    let guard = world.guard().policy(&policy(budgets));
    Ok(Room::of(
        world,
        guard.setting("upstreams", upstreams).start()?,
    ))
}

/// The words that make the script make its calls.
fn words(python: &Path, calls: &str) -> Vec<OsString> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/budget_sdk.py");
    let words = calls.split(' ').map(OsString::from);
    [python.into(), script.into()]
        .into_iter()
        .chain(words)
        .collect()
}

/// What the script says of its calls.
fn lines(room: &Room<'_>, python: &Path, calls: &str) -> Result<Vec<String>> {
    let call = inspected(room, &words(python, calls)).limit(PATIENCE);
    let output: Output = call.run()?.success()?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

/// The calls of the record since it was looked at last, once so many have ended.
pub(crate) fn calls(room: &Room<'_>, count: usize) -> Result<Vec<Decision>> {
    let mut found = Vec::new();
    wait_until("the calls", LATE, || {
        let new = match room.new_decisions() {
            Ok(new) => new,
            Err(error) => return Some(Err(error)),
        };
        let all = new.len();
        found = new;
        found.retain(|it| it.action.llm.is_some());
        let ended = |it: &Decision| it.verdict == Verdict::Deny || it.outcome.is_some();
        (found.len() == count && found.iter().all(ended)).then_some(Ok(all))
    })
    .and_then(|all| room.settled(all?))
    .with_context(|| format!("{found:#?}"))?;
    Ok(found)
}

/// What a call has used of a budget.
pub(crate) fn line<'d>(decision: &'d Decision, budget: &str) -> Result<&'d BudgetLine> {
    let outcome = decision.outcome.as_ref().context("no outcome")?;
    let mut lines = outcome.budget.iter();
    lines
        .find(|it| it.budget == budget)
        .with_context(|| format!("no line: {outcome:?}"))
}

#[test]
fn what_is_charged_is_what_the_provider_reports() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-usage").unwrap();
    let budgets = "
  - { id: all, unit: tokens, limit: 100000000, window: day }
  - { id: out, unit: output_tokens, limit: 100000000, window: month, per: [agent, label.tenant, model] }
  - { id: in, unit: input_tokens, limit: 100000000, window: sliding, length: 1h, per: [host] }
  - { id: calls, unit: calls, limit: 1000, window: lifetime, per: [provider] }
  - { id: at-once, unit: concurrent_calls, limit: 10, window: lifetime }
";
    let room = open(&world, budgets).unwrap();
    for (call, scopes) in [
        (
            "openai gpt-4o 40 500 plain 2",
            [
                "agent=coder,label.tenant=acme,model=gpt-4o",
                "host=api.openai.com",
                "provider=openai",
            ],
        ),
        (
            "openai gpt-4o 300 64000 stream 2",
            [
                "agent=coder,label.tenant=acme,model=gpt-4o",
                "host=api.openai.com",
                "provider=openai",
            ],
        ),
        (
            "responses gpt-5-mini 40 500 stream 1",
            [
                "agent=coder,label.tenant=acme,model=gpt-5-mini",
                "host=api.openai.com",
                "provider=openai",
            ],
        ),
        (
            "anthropic claude-haiku-4-5 40 500 stream 2",
            [
                "agent=coder,label.tenant=acme,model=claude-haiku-4-5",
                "host=api.anthropic.com",
                "provider=anthropic",
            ],
        ),
        (
            "anthropic claude-haiku-4-5 40 500 plain 1",
            [
                "agent=coder,label.tenant=acme,model=claude-haiku-4-5",
                "host=api.anthropic.com",
                "provider=anthropic",
            ],
        ),
    ] {
        let told = lines(&room, &python, call).unwrap();
        let decisions = calls(&room, told.len()).unwrap();
        for decision in &decisions {
            let outcome = decision.outcome.as_ref().unwrap();
            let usage = outcome.llm.as_ref().unwrap().usage.unwrap();
            let (input, output) = (usage.input_tokens.unwrap(), usage.output_tokens.unwrap());
            let settled = |budget| line(decision, budget).unwrap().settled;
            assert_eq!(settled("all"), Some(input + output), "{call}");
            assert_eq!(settled("out"), Some(output));
            assert_eq!(settled("in"), Some(input));
            assert_eq!(settled("calls"), Some(1));
            assert_eq!(settled("at-once"), Some(0));
            assert_eq!(line(decision, "out").unwrap().unit, Unit::OutputTokens);
            for (budget, scope) in ["out", "in", "calls"].iter().zip(scopes) {
                assert_eq!(line(decision, budget).unwrap().scope, scope);
            }
            assert!(
                decision
                    .budget
                    .iter()
                    .all(|it| it.settled.is_none() && it.clamped.is_none())
            );
            // Before it leaves no more is known than what it may use, and what is reserved is never less than what is used.
            for line in &outcome.budget {
                assert_eq!(line.overshoot, None, "{line:?}");
                assert!(
                    line.settled.unwrap() <= line.reserved || line.unit == Unit::ConcurrentCalls
                );
            }
        }
    }
}

/// 5,000 words are 20,000 bytes, and for GPT as many tokens as words. Of Claude nobody knows how many.
#[test]
fn a_long_prompt_that_fits_by_its_tokens_and_not_by_its_bytes_goes_where_they_can_be_counted() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-counted").unwrap();
    let budgets = "
  - { id: all, unit: tokens, limit: 12000, window: day, per: [model] }
";
    let room = open(&world, budgets).unwrap();
    for (call, said) in [
        ("openai gpt-4o 5000 100 plain 1", "100 length 100"),
        ("openai gpt-4o-mini 5000 100 stream 1", "100 length 100"),
        // By the tokenizer of older models.
        ("openai gpt-4-turbo 5000 100 stream 1", "100 length 100"),
        ("responses gpt-4.1 5000 100 stream 1", "100 incomplete 100"),
    ] {
        assert_eq!(lines(&room, &python, call).unwrap(), [said], "{call}");
        let decision = calls(&room, 1).unwrap().remove(0);
        let reserved = &decision.budget[0];
        assert!(
            reserved.counted && reserved.clamped.is_none(),
            "{reserved:?}"
        );
        let usage = decision.outcome.as_ref().unwrap().llm.as_ref().unwrap();
        let usage = usage.usage.unwrap();
        let used = usage.input_tokens.unwrap() + usage.output_tokens.unwrap();
        let line = line(&decision, "all").unwrap();
        assert_eq!((line.settled, line.overshoot), (Some(used), None), "{call}");
        assert!((used..6_000).contains(&line.reserved), "{line:?}");
        assert!(line.counted, "{line:?}");
    }
    let origin = world.origin(ANTHROPIC).unwrap();
    let arrived = || origin.log().requests().unwrap().len();
    let before = arrived();
    let call = "anthropic claude-haiku-4-5 5000 100 plain 1";
    let told = lines(&room, &python, call).unwrap().remove(0);
    assert!(told.starts_with("RateLimitError 429 "), "{told}");
    let decision = calls(&room, 1).unwrap().remove(0);
    assert_eq!(decision.reason.code, ReasonCode::BudgetExhausted);
    assert_eq!(arrived(), before);
}

#[test]
fn a_spent_budget_is_told_and_not_tried_again() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-spent").unwrap();
    let budgets = "
  - { id: three, unit: calls, limit: 3, window: day, per: [provider], reason: Ask the platform team for more. }
";
    let room = open(&world, budgets).unwrap();
    for (api, host, model, error) in [
        ("openai", OPENAI, "gpt-4o", "RateLimitError 429 "),
        (
            "anthropic",
            ANTHROPIC,
            "claude-haiku-4-5",
            "RateLimitError 429 ",
        ),
        ("genai", GEMINI, "gemini-2.5-flash", "ClientError 429 "),
    ] {
        let arrived = || world.origin(host).unwrap().log().requests().unwrap().len();
        let before = arrived();
        let told = lines(&room, &python, &format!("{api} {model} 10 100 stream 5")).unwrap();
        let (passed, refused) = told.split_at(3);
        assert!(passed.iter().all(|it| it.starts_with("10 ")), "{told:#?}");
        for line in refused {
            assert!(line.starts_with(error), "{line}");
            assert!(
                line.contains("three") && line.contains("Ask the platform team"),
                "{line}"
            );
        }
        assert_eq!(arrived(), before + 3);
        // Of the two that were refused none was tried again.
        let is_denied = |it: &Decision| {
            let there = it.action.host.as_ref().map(|it| it.as_str() == host);
            it.verdict == Verdict::Deny && there == Some(true)
        };
        let mut denied = Vec::new();
        let waited = wait_until("the denials", LATE, || {
            denied = room.new_decisions().ok()?;
            denied.retain(is_denied);
            let count: u64 = denied.iter().map(|it| it.count).sum();
            (count >= 2).then_some(count)
        });
        assert_eq!(waited.unwrap(), 2, "{denied:#?}");
        for denial in &denied {
            assert_eq!(denial.reason.code, ReasonCode::BudgetExhausted);
            assert_eq!(denial.matched[0].rule, "three");
        }
    }
}

/// Two streams, of which one may be under way at a time: the other is refused in the end, and comes again when it was told to.
#[test]
fn what_is_held_is_tried_again_when_it_was_said_to_be_worth_it() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-held").unwrap();
    let budgets = "
  - { id: at-once, unit: concurrent_calls, limit: 1, window: lifetime }
";
    let room = open(&world, budgets).unwrap();
    // Google's has times of its own.
    for (api, model, said) in [
        ("openai", "gpt-4o", Some("slept 2.0")),
        ("anthropic", "claude-haiku-4-5", Some("slept 2.0")),
        ("genai", "gemini-2.5-flash", None),
    ] {
        // A word takes 10 ms: longer than a call waits at the guard, and not much longer.
        let told = lines(
            &room,
            &python,
            &format!("{api} {model} 600 1000 patient 2 2"),
        )
        .unwrap();
        assert!(told.iter().all(|it| it.starts_with("600 ")), "{told:#?}");
        let mut sleeps: Vec<&str> = told
            .iter()
            .flat_map(|it| {
                it.match_indices("slept ")
                    .map(|(at, _)| &it[at..it.len().min(at + 9)])
            })
            .collect();
        let count = u64::try_from(sleeps.len()).unwrap();
        sleeps.retain(|it| said.is_some_and(|said| *it != said));
        assert!(count >= 1 && sleeps.is_empty(), "{told:#?}");
        // As often as it was refused, which is not often: it waits at the guard first.
        let denied = wait_until("the denials", LATE, || {
            let mut denied = room.new_decisions().ok()?;
            denied.retain(|it| it.verdict == Verdict::Deny);
            let held = denied
                .iter()
                .all(|it| it.reason.code == ReasonCode::BudgetHeld);
            let sum: u64 = denied.iter().map(|it| it.count).sum();
            (held && sum == count).then_some(sum)
        });
        assert!(denied.unwrap() <= 3, "{told:#?}");
        let all = room.new_decisions().unwrap().len();
        room.settled(all).unwrap();
    }
}

/// Without being told to try again, Google's shows it to its user.
#[test]
fn what_is_held_is_told_where_nobody_tries_again() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-held-told").unwrap();
    let budgets = "
  - { id: at-once, unit: concurrent_calls, limit: 1, window: lifetime, reason: One at a time. }
";
    let room = open(&world, budgets).unwrap();
    let told = lines(&room, &python, "genai gemini-2.5-flash 900 1000 stream 2 2").unwrap();
    let refused: Vec<_> = told.iter().filter(|it| !it.starts_with("900 ")).collect();
    let [refused] = refused.as_slice() else {
        panic!("{told:#?}");
    };
    assert!(refused.starts_with("ClientError 429 "), "{refused}");
    for text in ["at-once", "One at a time", "try again in 2 s", "2s"] {
        assert!(refused.contains(text), "{text}: {refused}");
    }
}

/// Each call may write 64,000 tokens and writes 200. Of what counts its input, too, a budget is small that has no more than
/// twenty times what is reserved for that.
#[test]
fn a_careful_agent_spends_all_of_a_small_budget() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for (unit, limit, call) in [
        (
            Unit::OutputTokens,
            5_000,
            "openai gpt-4o 200 64000 stream 28 4",
        ),
        (Unit::Tokens, 30_000, "openai gpt-4o 200 64000 stream 90 4"),
        (
            Unit::MicroUsd,
            70_000,
            "openai gpt-4o 200 64000 stream 40 4",
        ),
        (
            Unit::Tokens,
            30_000,
            "anthropic claude-haiku-4-5 200 64000 stream 90 4",
        ),
    ] {
        let world = world("budget-careful").unwrap();
        let limited = match unit {
            Unit::MicroUsd => format!("'$0.{:02}'", limit / 10_000),
            _ => limit.to_string(),
        };
        let budgets = format!(
            "
  - {{ id: small, unit: {unit}, limit: {limited}, window: day }}
"
        );
        let room = open(&world, &budgets).unwrap();
        let told = lines(&room, &python, call).unwrap();
        let refused = |it: &Decision| it.action.llm.is_some() && it.verdict == Verdict::Deny;
        let ended = |it: &Decision| it.action.llm.is_none() || it.outcome.is_some();
        let decisions = wait_until("the calls", LATE, || {
            let new = room.new_decisions().ok()?;
            let whole = new.iter().all(|it| refused(it) || ended(it));
            (whole && new.iter().any(refused)).then_some(new)
        });
        let decisions = decisions.unwrap();
        let used = decisions.iter().filter(|it| it.outcome.is_some());
        let used: u64 = used.filter_map(|it| line(it, "small").ok()?.settled).sum();
        assert!(
            (limit * 95 / 100..=limit).contains(&used),
            "{used} of {limit} {unit}: {told:#?}"
        );
    }
}

#[test]
fn a_limit_is_lowered_to_what_is_left_and_said_so() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-clamp").unwrap();
    let budgets = "
  - { id: small, unit: output_tokens, limit: 100, window: day, per: [provider] }
";
    let room = open(&world, budgets).unwrap();
    for (call, ended) in [
        ("openai gpt-4o 150 5000 plain 1", "100 length 100"),
        (
            "anthropic claude-haiku-4-5 150 5000 stream 1",
            "100 max_tokens 100",
        ),
    ] {
        let told = lines(&room, &python, call).unwrap();
        assert_eq!(told, [ended]);
        let decisions = calls(&room, 1).unwrap();
        assert_eq!(decisions[0].budget[0].clamped, Some(100));
        assert_eq!(line(&decisions[0], "small").unwrap().settled, Some(100));
    }
}

#[test]
fn streams_that_share_a_budget_are_cut_where_it_ends() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-cut").unwrap();
    let budgets = "
  - { id: shared, unit: output_tokens, limit: 2200, window: day, reason: Ask the platform team for more. }
";
    let room = open(&world, budgets).unwrap();
    let told = lines(&room, &python, "openai gpt-4o 1500 64000 stream 2 2").unwrap();
    let cut: Vec<_> = told.iter().filter(|it| it.contains("APIError")).collect();
    assert!(!cut.is_empty(), "{told:#?}");
    assert!(
        cut.iter()
            .all(|it| it.contains("shared") && it.contains("Ask the platform team")),
        "{told:#?}"
    );
    // What was delivered is counted by the provider's own tokenizer: a word is one.
    let delivered = told.iter().map(|it| {
        let behind = it.rsplit_once(" behind ");
        let words = behind.map_or(it.as_str(), |(_, words)| words);
        words.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    let delivered: u64 = delivered.sum();
    assert!((1500..=2200).contains(&delivered), "{told:#?}");
    // What the provider has written meanwhile is billed all the same.
    let decisions = calls(&room, 2 + cut.len()).unwrap();
    let used: u64 = decisions
        .iter()
        .filter(|it| it.verdict == Verdict::Allow)
        .map(|it| line(it, "shared").unwrap().settled.unwrap())
        .sum();
    assert!(used >= delivered, "{used} {delivered}");
    let denied: Vec<_> = decisions
        .iter()
        .filter(|it| it.verdict == Verdict::Deny)
        .collect();
    assert_eq!(denied.len(), cut.len());
    for denial in denied {
        let code = denial.reason.code;
        assert!(
            matches!(code, ReasonCode::BudgetExhausted | ReasonCode::BudgetHeld),
            "{code}"
        );
        assert!(denial.reason.message.contains("under way"), "{denial:?}");
    }
    let arrived = world.origin(OPENAI).unwrap().log().requests().unwrap();
    assert_eq!(arrived.len(), 2, "none was tried again: {arrived:#?}");
}

#[test]
fn a_client_that_goes_away_pays_what_was_reserved_so_far() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-leave").unwrap();
    let budgets = "
  - { id: day, unit: output_tokens, limit: 10000, window: day }
  - { id: at-once, unit: concurrent_calls, limit: 1, window: lifetime }
";
    let room = open(&world, budgets).unwrap();
    let told = lines(&room, &python, "openai gpt-4o 1500 64000 leave 1").unwrap();
    assert!(told[0].contains(" left "), "{told:#?}");
    let decisions = calls(&room, 1).unwrap();
    let day = line(&decisions[0], "day").unwrap();
    let (settled, delivered) = (day.settled.unwrap(), told[0].split(' ').next().unwrap());
    assert!(settled >= day.reserved, "{day:?}");
    assert!(
        settled >= delivered.parse().unwrap() && settled < 3000,
        "{day:?}"
    );
    assert_eq!(line(&decisions[0], "at-once").unwrap().settled, Some(0));
    // Nobody holds it any more: the next one has the place, and the rest of the day.
    let told = lines(&room, &python, "openai gpt-4o 20 10000 plain 1").unwrap();
    assert_eq!(told, ["20 stop 20"]);
    let decisions = calls(&room, 1).unwrap();
    assert_eq!(decisions[0].budget[0].clamped, Some(10_000 - settled));
}

#[test]
fn an_operator_says_what_counts_as_used_and_calls_go_on() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("budget-operator").unwrap();
    let budgets = "
  - { id: three, unit: calls, limit: 3, window: day, per: [provider] }
";
    let room = open(&world, budgets).unwrap();
    let cli = |words: &[&str]| room.guard.cli().args(words).run().unwrap();
    let account = "three/provider=openai";
    // How many of so many calls pass.
    let passed = |calls: usize| {
        let told = lines(
            &room,
            &python,
            &format!("openai gpt-4o 10 100 plain {calls}"),
        )
        .unwrap();
        told.iter().filter(|it| it.starts_with("10 ")).count()
    };
    // A call is settled once its answer has ended, which the client does not wait for.
    let has = |used: u64| {
        wait_until("the account", LATE, || {
            let told = cli(&["budget", "list", "-o", "json"]);
            let told: serde_json::Value = serde_json::from_str(&told.stdout).ok()?;
            let it = told
                .as_array()?
                .iter()
                .find(|it| it["account"] == account)?;
            (it["used"] == used && it["held"] == 0 && it["limit"] == 3).then_some(())
        })
        .unwrap();
    };
    let told = cli(&["budget", "reset", account]);
    assert_eq!(told.code(), 1, "{told}");
    assert!(told.stderr.contains("nothing was charged"), "{told}");
    assert_eq!(passed(4), 3);
    has(3);
    let told = cli(&["budget", "reset", account, "--reason", "ticket 42"]);
    assert_eq!(told.code(), 0, "{told}");
    has(0);
    assert_eq!(passed(2), 2);
    has(2);
    let told = cli(&["budget", "set", account, "1"]);
    assert!(told.stderr.contains("it was 2 calls"), "{told}");
    assert_eq!(passed(3), 2);
    has(3);
    let told = cli(&["budget", "show", account]);
    assert!(
        told.stdout.contains("used      3 calls of 3 calls (100 %"),
        "{told}"
    );
    let deeds = |decisions: &[Decision]| {
        let deeds = decisions.iter().filter_map(|it| {
            let done = it.action.method.as_deref()?;
            let budget = done.starts_with("budget_");
            budget.then(|| (done.to_owned(), it.reason.message.clone()))
        });
        let deeds: Vec<_> = deeds.collect();
        (deeds.len() == 2).then_some(deeds)
    };
    let deeds = room.guard.wait_verdicts("what was done", deeds).unwrap();
    assert_eq!(deeds[0].0, "budget_reset");
    assert!(
        deeds[0].1.ends_with("it was 3 calls, by uid 0: ticket 42"),
        "{deeds:?}"
    );
    assert_eq!(deeds[1].0, "budget_set");
}
