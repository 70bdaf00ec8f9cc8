//! What calls cost, with curl: what a provider reports of caches, of reasoning and of long input is charged to the token and
//! to the millionth of a dollar, at the prices that are built in, of the tier and the region that the call names.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it cannot go on, helpers included"
)]

#[path = "charged/cases.rs"]
mod cases;

use std::collections::BTreeMap;

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::{Guard, Origin, Output, World, address, wait_until};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::budgets::{calls, line};
use crate::providers::GEMINI;
use crate::room::{AGENT, LATE, Room};
use cases::{BATCHES, CHAT, Case, JSON, Used, cases, completion};

const OPENAI: &str = "api.openai.com";
const ANTHROPIC: &str = "api.anthropic.com";

fn world(name: &str) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10));
    World::new(name)
        .origin(origin.site(OPENAI).site(ANTHROPIC).site(GEMINI))
        .start()
}

fn open<'w>(world: &'w World, agents: &[impl AsRef<str>], budgets: &str) -> Result<Room<'w>> {
    let hosts = json!([OPENAI, ANTHROPIC, GEMINI]);
    let agents = agents.iter().map(|it| json!({ "name": it.as_ref() }));
    let agents: Value = agents.collect();
    let policy = format!(
        "
version: 1
agents: {agents}
rules:
  - id: models
    match: {{ host: {hosts}, port: [443] }}
    action: allow
    handling: inspect
budgets:
{budgets}
"
    );
    let upstreams = json!([{ "host": hosts, "ca": world.ca_file() }]);
    let guard = world.guard().policy(&policy);
    let guard = guard.setting("upstreams", upstreams).start()?;
    Ok(Room::of(world, guard))
}

/// A call of an agent's. Its provider answers this: of which type, and what.
fn call(
    room: &Room<'_>,
    agent: &str,
    url: &str,
    asks: &Value,
    answer: (&str, &str),
) -> Result<Output> {
    let hexadecimal: String = answer.1.bytes().map(|it| format!("{it:02x}")).collect();
    let answer = format!("x-answer: {} {hexadecimal}", answer.0);
    let asks = asks.to_string();
    let words = [
        "run",
        "--agent",
        agent,
        "--",
        "curl",
        "-sS",
        "--max-time",
        "20",
        "-w",
        "\n%{http_code} %header{x-should-retry}",
        "-H",
        "content-type: application/json",
        "-H",
        &answer,
        "-d",
        &asks,
        url,
    ];
    room.guard.cli().args(words).run()?.success()
}

/// What a model costs, as the command line tells an operator.
fn prices(guard: &Guard<'_>, provider: &str, model: &str) -> Value {
    let words = ["budget", "prices", "show", "--provider", provider, model];
    let told = guard.cli().args(words).args(["-o", "json"]).run().unwrap();
    serde_json::from_str(&told.success().unwrap().stdout).unwrap()
}

/// A price or a factor in millionths, to the digit.
fn millionths(price: &Value) -> u128 {
    let text = price.to_string();
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    assert!(part.len() <= 6, "{text}");
    format!("{whole}{part:0<6}").parse().unwrap()
}

const UNITS: [(&str, &str); 6] = [
    ("in", "input_tokens"),
    ("cached", "cached_tokens"),
    ("out", "output_tokens"),
    ("thought", "reasoning_tokens"),
    ("all", "tokens"),
    ("usd", "micro_usd"),
];

/// An account as the command line shows it, once it holds nothing.
fn account(guard: &Guard<'_>, name: &str) -> Result<Value> {
    let mut last = Value::Null;
    wait_until("nothing to be held", LATE, || {
        let show = guard.cli().args(["budget", "show", name, "-o", "json"]);
        last = serde_json::from_str(&show.run().ok()?.stdout).ok()?;
        (last["held"] == 0).then(|| last.clone())
    })
    .with_context(|| format!("{name}: {last:#}"))
}

/// What is told of a decision.
fn explained(guard: &Guard<'_>, decision: &Decision) -> String {
    let id = decision.id.to_string();
    let told = guard.cli().args(["explain", &id]).run().unwrap();
    told.success().unwrap().stdout
}

#[test]
fn what_is_reported_is_charged_at_the_prices_that_are_built_in() {
    let world = world("charged").unwrap();
    let budgets: String = UNITS
        .iter()
        .map(|(id, unit)| {
            let limit = match *unit {
                "micro_usd" => "$1000",
                _ => "100000000",
            };
            format!(
                "  - {{ id: {id}, unit: {unit}, limit: {limit}, window: lifetime, per: [model] }}\n"
            )
        })
        .collect();
    let room = open(&world, &[AGENT], &budgets).unwrap();
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for case in cases() {
        let asked = case.asked();
        let who = format!("{} {asked}", case.model);
        let (kind, answer) = &case.answer;
        let output = call(&room, AGENT, case.url, &asked, (kind, answer)).unwrap();
        assert_eq!(output.stdout, format!("{answer}\n200 "), "{who}");
        let decision = calls(&room, 1).unwrap().remove(0);

        let Used {
            input,
            cached,
            output,
            reasoning,
        } = case.used;
        let cost = case.cost(&room.guard);
        let amounts = [input, cached, output, reasoning, input + output, cost];
        let model = case.priced.unwrap_or(case.model);
        for ((id, _), amount) in UNITS.iter().zip(amounts) {
            let settled = line(&decision, id).unwrap();
            assert_eq!(settled.settled, Some(amount), "{who}: {settled:?}");
            assert_eq!(settled.scope, format!("model={model}"), "{who}");
            *sums.entry(format!("{id}/model={model}")).or_default() += amount;
        }
        // By which price is known before it leaves, and told of money alone.
        let of = case
            .priced
            .unwrap_or("unknown model, at the dearest price of each kind of token");
        for line in &decision.budget {
            let money = line.budget == "usd";
            assert_eq!(line.price_of.as_deref(), money.then_some(of), "{who}");
        }
        let told = explained(&room.guard, &decision);
        let its = told
            .lines()
            .find(|it| it.contains(&format!("usd of model={model}: ")));
        let its = its.unwrap_or_else(|| panic!("{who}: {told}"));
        assert!(its.contains(&format!("; priced as {of}; ")), "{who}: {its}");
    }
    assert!(sums.len() > 30, "{sums:?}");
    for (name, sum) in sums {
        let told = account(&room.guard, &name).unwrap();
        assert_eq!(told["used"], sum, "{name}: {told:#}");
    }
}

/// What it costs is not known before it is fetched, by whoever fetches it: so all that it may use is charged as it is sent.
#[test]
fn a_batch_is_charged_with_what_it_may_use_at_half_the_price() {
    let world = world("charged-batch").unwrap();
    let budgets = "
  - { id: usd, unit: micro_usd, limit: $1000, window: lifetime }
  - { id: all, unit: tokens, limit: 100000000, window: lifetime }
";
    let room = open(&world, &[AGENT], budgets).unwrap();
    let one = |name: &str| {
        let said = json!([{ "role": "user", "content": "Count to one." }]);
        let params = json!({ "model": "claude-sonnet-4-5", "max_tokens": 400, "messages": said });
        json!({ "custom_id": name, "params": params })
    };
    let asked = json!({ "requests": [one("a"), one("b"), one("c")] });
    let begun =
        json!({ "id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress" });
    let answer = begun.to_string();
    let output = call(&room, AGENT, BATCHES, &asked, (JSON, &answer)).unwrap();
    assert_eq!(output.stdout, format!("{answer}\n200 "));
    let decision = calls(&room, 1).unwrap().remove(0);
    let told = decision.action.llm.as_ref().unwrap();
    assert_eq!(told.model.as_deref(), Some("claude-sonnet-4-5"));
    // A token for each byte, and what is around the messages and the call.
    let input = u64::try_from(asked.to_string().len()).unwrap() + 3 * 64 + 128;
    let output = 3 * 400;
    let settled = |budget| line(&decision, budget).unwrap().settled;
    assert_eq!(settled("all"), Some(input + output));
    // Of a call that says nothing of caches it may all be put into one, for an hour.
    let prices = prices(&room.guard, "anthropic", "claude-sonnet-4-5");
    let price = |name: &str| u64::try_from(millionths(&prices[name])).unwrap();
    let whole = input * price("cache_write_long") + output * price("output");
    assert_eq!(millionths(&prices["batch"]), 500_000);
    assert_eq!(settled("usd"), Some((whole / 2).div_ceil(1_000_000)));
    for (name, used) in [("usd", settled("usd")), ("all", settled("all"))] {
        assert_eq!(
            account(&room.guard, name).unwrap()["used"],
            json!(used),
            "{name}"
        );
    }
}

/// Of a call that reads 990 tokens, 985 of them from a cache, and writes 990, of which 988 are not shown, an agent's budget is
/// spent but for less than any call needs: each agent has one, of another unit.
#[test]
fn a_budget_of_each_unit_that_is_spent_refuses_the_next_call() {
    let world = world("charged-spent").unwrap();
    let units = [
        ("input_tokens", "1000", Some(990)),
        ("cached_tokens", "1000", Some(985)),
        ("output_tokens", "1000", Some(990)),
        ("reasoning_tokens", "1000", Some(988)),
        ("tokens", "2000", Some(1_980)),
        ("micro_usd", "$0.00204", None),
        ("calls", "1", Some(1)),
    ];
    let agent = |unit: &str| unit.replace('_', "-");
    let budgets = units.iter().map(|(unit, limit, _)| {
        let agent = agent(unit);
        format!(
            "  - {{ id: {agent}, unit: {unit}, limit: {limit}, window: lifetime, agents: [{agent}], reason: Ask for more. }}\n"
        )
    });
    let agents = units.map(|(unit, ..)| agent(unit));
    let room = open(&world, &agents, &budgets.collect::<String>()).unwrap();
    let log = world.origin(OPENAI).unwrap().log();
    let arrived = || log.requests().unwrap().len();
    let case = Case {
        url: CHAT,
        asks: json!({}),
        answer: (
            JSON,
            completion(&json!({
                "prompt_tokens": 990, "completion_tokens": 990, "total_tokens": 1_980,
                "prompt_tokens_details": { "cached_tokens": 985 },
                "completion_tokens_details": { "reasoning_tokens": 988 },
            }))
            .to_string(),
        ),
        model: "gpt-5-mini",
        priced: None,
        used: Used::default(),
        costs: &[(5, "input"), (985, "cache_read"), (990, "output")],
        factors: &[],
    };
    for (unit, _, used) in units {
        let agent = agent(unit);
        let used = used.unwrap_or_else(|| case.cost(&room.guard));
        let goes = || {
            let (kind, answer) = &case.answer;
            call(&room, &agent, case.url, &case.asked(), (kind, answer)).unwrap()
        };
        let before = arrived();
        let first = goes();
        assert!(first.stdout.ends_with("\n200 "), "{unit}: {first}");
        let decision = calls(&room, 1).unwrap().remove(0);
        let settled = line(&decision, &agent).unwrap();
        assert_eq!(settled.settled, Some(used), "{settled:?}");
        assert_eq!(account(&room.guard, &agent).unwrap()["used"], used);

        let next = goes();
        assert!(next.stdout.ends_with("\n429 false"), "{unit}: {next}");
        for text in [&*agent, "Ask for more."] {
            assert!(next.stdout.contains(text), "{unit}: {text}: {next}");
        }
        let denial = calls(&room, 1).unwrap().remove(0);
        assert_eq!(denial.verdict, Verdict::Deny, "{unit}");
        assert_eq!(denial.reason.code, ReasonCode::BudgetExhausted, "{unit}");
        assert_eq!(denial.matched[0].rule, agent);
        assert_eq!(arrived(), before + 1, "{unit}");
        assert_eq!(account(&room.guard, &agent).unwrap()["used"], used);
    }
}
