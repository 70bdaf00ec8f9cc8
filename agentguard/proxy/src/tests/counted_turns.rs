//! Calls on a WebSocket of Responses whose tokens are counted as they are written: each has a part of its budget at a time.

use std::time::Duration;

use agentguard_decision::SLICE;
use agentguard_model::{ActionKind, BudgetLine, Decision, OvershootCause, ReasonCode, Verdict};
use agentguard_policy::{Document, compile};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::turns::{event, open, passes, read_event};
use super::websocket::{closed, masked};
use super::{Plan, Rules, World, by_name, read_some, soon, write};

/// Each model has so many tokens of output.
async fn world(limit: u64) -> World {
    world_of(by_name(Rules::CallsEach), limit).await
}

async fn world_of(plan: Plan, limit: u64) -> World {
    let world = plan.build().await;
    let policy = format!(
        "version: 1
providers: [{{ name: ours, api: openai, hosts: [api.example] }}]
agents: [{{ name: tester }}]
rules:
  - {{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], match: {{ host: [api.example] }} }}
budgets: [{{ id: out, unit: output_tokens, limit: {limit}, window: day, per: [model] }}]
"
    );
    let path = "policy.yaml".to_owned();
    let policy = compile(&[Document { path, text: policy }]).unwrap_or_else(|it| panic!("{it}"));
    world.policies.put(2, policy);
    world
}

/// A client and its server.
struct Sides {
    client: TcpStream,
    upstream: TcpStream,
}

impl Sides {
    async fn of(world: &World) -> Self {
        let (client, upstream) = open(world).await;
        Self { client, upstream }
    }

    /// The client calls, and may have so many tokens for it. What the server gets.
    async fn calls(&mut self, lane: &str, model: &str, limit: u64) -> Value {
        self.sends(lane, model, limit).await;
        read_message(&mut self.upstream).await
    }

    async fn sends(&mut self, lane: &str, model: &str, limit: u64) {
        let call = json!({ "type": "response.create", "stream_id": lane, "model": model, "input": "hi",
            "max_output_tokens": limit });
        write(&mut self.client, masked(0x81, call.to_string())).await;
    }

    async fn says(&mut self, said: &Value) {
        write(&mut self.upstream, event(said)).await;
    }

    /// The client gets it as it was sent.
    async fn hears(&mut self, said: &Value) {
        let said = event(said);
        write(&mut self.upstream, &said).await;
        passes(&mut self.client, &said).await;
    }

    /// An answer that uses so many tokens, of which the client gets all.
    async fn answers(&mut self, lane: &str, id: &str, tokens: usize) {
        self.hears(&created(lane, id)).await;
        self.hears(&words(lane, tokens)).await;
        self.hears(&completed(lane, id, tokens)).await;
    }

    async fn is_refused(&mut self, lane: &str, reason: &str) -> Value {
        let refused = read_event(&mut self.client).await;
        assert_eq!(refused["type"], "error", "{refused}");
        assert_eq!(refused["stream_id"], lane, "{refused}");
        assert_eq!(refused["error"]["reason"], reason, "{refused}");
        refused
    }

    async fn part(self, world: World) -> Vec<Decision> {
        drop(self);
        world.end().await
    }
}

/// Reads a text of a client's, which is masked, and gives it as JSON.
async fn read_message(upstream: &mut TcpStream) -> Value {
    let head = read_some(upstream, 2).await;
    assert_eq!(head[0], 0x81);
    let length = match head[1] & 0x7f {
        126 => usize::from(soon(upstream.read_u16()).await.unwrap()),
        short => usize::from(short),
    };
    let mask = read_some(upstream, 4).await;
    let mut text = read_some(upstream, length).await;
    for (byte, mask) in text.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    serde_json::from_slice(&text).unwrap()
}

fn created(lane: &str, id: &str) -> Value {
    json!({ "type": "response.created", "stream_id": lane, "response": { "id": id, "status": "in_progress" } })
}

/// So many tokens.
fn words(lane: &str, tokens: usize) -> Value {
    json!({ "type": "response.output_text.delta", "stream_id": lane, "output_index": 0, "delta": " one".repeat(tokens) })
}

fn completed(lane: &str, id: &str, tokens: usize) -> Value {
    json!({ "type": "response.completed", "stream_id": lane, "response": { "id": id, "status": "completed",
        "usage": { "input_tokens": 9, "output_tokens": tokens } } })
}

/// What each call is charged with in the end.
fn charged(decisions: &[Decision]) -> Vec<BudgetLine> {
    let calls = decisions.iter();
    let calls = calls.filter(|it| it.action.kind == ActionKind::LlmCall);
    let charged = calls.filter_map(|it| it.outcome.as_ref()?.budget.first().cloned());
    charged.collect()
}

fn settled(decisions: &[Decision]) -> Vec<u64> {
    charged(decisions)
        .iter()
        .filter_map(|it| it.settled)
        .collect()
}

#[tokio::test]
async fn a_turn_that_a_budget_refuses_leaves_the_connection_to_others() {
    let world = world(300).await;
    let mut sides = Sides::of(&world).await;
    let got = sides.calls("a", "gpt-4o", 64_000).await;
    assert_eq!(got["max_output_tokens"], 300);
    sides.answers("a", "r1", 300).await;
    sides.sends("a", "gpt-4o", 100).await;
    sides.is_refused("a", "budget_exhausted").await;
    // Another model has a budget of its own.
    for lane in ["a", "b"] {
        sides.calls(lane, "gpt-4.1-mini", 100).await;
        sides.answers(lane, "r2", 50).await;
    }
    let decisions = sides.part(world).await;
    assert_eq!(settled(&decisions), [300, 50, 50]);
    let denied: Vec<_> = decisions
        .iter()
        .filter(|it| it.verdict == Verdict::Deny)
        .collect();
    assert_eq!(denied.len(), 1);
    assert_eq!(denied[0].reason.code, ReasonCode::BudgetExhausted);
}

/// Each may have all that is left as it begins, and holds a part of it.
#[tokio::test]
async fn an_answer_whose_budget_ends_is_cut_and_the_connection_goes_on() {
    let world = world(2000).await;
    let mut sides = Sides::of(&world).await;
    for lane in ["a", "b"] {
        let got = sides.calls(lane, "gpt-4o", 64_000).await;
        assert!(got["max_output_tokens"].as_u64().unwrap() > 1500, "{got}");
    }
    sides.hears(&created("b", "b1")).await;
    sides.answers("a", "a1", 1500).await;
    sides.hears(&words("b", 300)).await;
    sides.says(&words("b", 300)).await;
    let refused = sides.is_refused("b", "budget_exhausted").await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("under way"), "{message}");
    // What its provider writes on goes nowhere; what is about the connection does, and calls of other budgets go on.
    sides.says(&words("b", 100)).await;
    sides.hears(&json!({ "type": "codex.rate_limits" })).await;
    sides.calls("a", "gpt-4.1-mini", 100).await;
    sides.hears(&created("a", "a2")).await;
    sides.says(&words("b", 100)).await;
    sides.hears(&words("a", 50)).await;
    sides.says(&completed("b", "b1", 800)).await;
    sides.hears(&completed("a", "a2", 50)).await;
    // In its lane, too.
    sides.calls("b", "gpt-4.1-mini", 100).await;
    sides.answers("b", "b2", 60).await;
    let decisions = sides.part(world).await;
    assert_eq!(settled(&decisions), [1500, 800, 50, 60]);
    let cut = &charged(&decisions)[1];
    assert!(cut.overshoot.is_some_and(|it| it >= 300), "{cut:?}");
    assert_eq!(cut.overshoot_cause, Some(OvershootCause::WrittenBehind));
    let cut = decisions
        .iter()
        .filter(|it| it.action.kind == ActionKind::LlmCall);
    let cut = cut.clone().nth(1).unwrap().outcome.clone().unwrap();
    assert!(cut.error.unwrap().starts_with("ended by decision "));
    assert_eq!(
        decisions
            .iter()
            .filter(|it| it.verdict == Verdict::Deny)
            .count(),
        1
    );
}

/// Nothing else has it stop, and nothing is waited for: who does not read that it is over writes on, and bills it.
#[tokio::test]
async fn the_connection_ends_where_a_provider_writes_on_behind_a_cut() {
    let mut plan = by_name(Rules::CallsEach);
    plan.limits.linger = Duration::from_secs(3600);
    let world = world_of(plan, 2000).await;
    let mut sides = Sides::of(&world).await;
    for lane in ["a", "b"] {
        sides.calls(lane, "gpt-4o", 64_000).await;
    }
    sides.answers("a", "a1", 1500).await;
    sides.hears(&created("b", "b1")).await;
    sides.hears(&words("b", 300)).await;
    sides.says(&words("b", 300)).await;
    sides.is_refused("b", "budget_exhausted").await;
    sides.calls("c", "gpt-4.1-mini", 5000).await;
    sides.hears(&created("c", "c1")).await;
    sides.says(&words("b", 1000)).await;
    sides.hears(&words("c", 10)).await;
    sides.says(&words("b", 100)).await;
    // What is under way beside it is told, too.
    let error = read_event(&mut sides.client).await;
    assert_eq!(error["error"]["reason"], "budget_exhausted", "{error}");
    let (code, _) = closed(&mut sides.client).await;
    assert_eq!(code, 1008);
    let on = event(&words("b", 10));
    soon(async {
        while sides.upstream.write_all(&on).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let decisions = sides.part(world).await;
    let [first, cut, beside] = settled(&decisions)[..] else {
        panic!("{decisions:#?}");
    };
    assert_eq!(first, 1500);
    assert!((1700..=2000).contains(&cut), "{cut}");
    assert!((10..=300).contains(&beside), "{beside}");
}

/// Of what is not English, older models write far more tokens than those that came later: a number that may be right of
/// one is far too low of the other.
#[tokio::test]
async fn what_is_written_is_counted_by_the_tokenizer_of_its_model() {
    for (model, expected) in [("gpt-4o", 200..=200), ("gpt-4-turbo", 550..=600)] {
        let world = world(10_000).await;
        let mut sides = Sides::of(&world).await;
        sides.calls("a", model, 600).await;
        sides.hears(&created("a", "a1")).await;
        // 14 tokens for GPT-4, and 4 for GPT-4o.
        for _ in 0..40 {
            let said = json!({ "type": "response.output_text.delta", "stream_id": "a", "output_index": 0,
                "delta": "नमस्ते दुनिया " });
            sides.hears(&said).await;
        }
        sides.hears(&completed("a", "a1", 200)).await;
        let decisions = sides.part(world).await;
        let [charged] = settled(&decisions)[..] else {
            panic!("{decisions:#?}");
        };
        assert!(expected.contains(&charged), "{model}: {charged}");
    }
}

/// A client whose calls may use much and use little spends nearly all of a small budget: one after the other, and at once.
#[tokio::test]
async fn what_turns_may_use_and_do_not_stops_none() {
    for most in [1, 5] {
        let world = world(10_000).await;
        let mut sides = Sides::of(&world).await;
        let mut used = 0;
        while used < 9_600 {
            // Of what is left each holds a part, so that not as many can begin in the end.
            let at_once = if used < 8_000 { most } else { 1 };
            let lanes: Vec<String> = (0..at_once).map(|lane| lane.to_string()).collect();
            for lane in &lanes {
                sides.calls(lane, "gpt-4o", 64_000).await;
            }
            for lane in &lanes {
                sides.hears(&created(lane, &format!("r{lane}{used}"))).await;
                sides.hears(&words(lane, 150)).await;
            }
            for lane in &lanes {
                sides.hears(&words(lane, 50)).await;
                sides
                    .hears(&completed(lane, &format!("r{lane}{used}"), 200))
                    .await;
                used += 200;
            }
        }
        let decisions = sides.part(world).await;
        assert!(decisions.iter().all(|it| it.verdict == Verdict::Allow));
        assert_eq!(settled(&decisions).iter().sum::<u64>(), used);
    }
}

/// Nobody looks at what has come of it, and its provider writes on: as where it dies without a word.
#[test]
fn a_turn_whose_daemon_ends_is_charged_with_what_was_reserved_and_a_part_more() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, sides) = runtime.block_on(async {
        let world = world(100_000).await;
        let mut sides = Sides::of(&world).await;
        sides.calls("a", "gpt-4o", 64_000).await;
        sides.hears(&created("a", "a1")).await;
        sides.hears(&words("a", 10)).await;
        (world, sides)
    });
    drop(runtime);
    let decisions = world.log.decisions.lock().unwrap().clone();
    let [charged] = settled(&decisions)[..] else {
        panic!("{decisions:#?}");
    };
    // With its first words it has reserved a part more.
    assert_eq!(charged, 10 + SLICE + 1024, "{decisions:#?}");
    drop(sides);
}

/// It is billed, and on its way when nobody reads it any more.
#[tokio::test]
async fn what_was_written_already_is_charged_to_who_leaves() {
    for ends in [false, true] {
        let world = world(100_000).await;
        let mut sides = Sides::of(&world).await;
        sides.calls("a", "gpt-4o", 64_000).await;
        sides.hears(&created("a", "a1")).await;
        sides.hears(&words("a", 10)).await;
        let Sides {
            client,
            mut upstream,
        } = sides;
        for _ in 0..30 {
            write(&mut upstream, event(&words("a", 100))).await;
        }
        drop(client);
        if ends {
            write(&mut upstream, event(&completed("a", "a1", 3007))).await;
        }
        let ended = |decisions: &[Decision]| !settled(decisions).is_empty();
        let decisions = world.until(ended).await;
        let [charged] = settled(&decisions)[..] else {
            panic!("{decisions:#?}");
        };
        match ends {
            true => assert_eq!(charged, 3007),
            false => assert!((3010..=6020).contains(&charged), "{charged}"),
        }
        let call = decisions
            .iter()
            .find(|it| it.action.kind == ActionKind::LlmCall);
        let error = call.unwrap().outcome.clone().unwrap().error.unwrap();
        assert!(error.contains("the connection was over"), "{error}");
        drop(upstream);
        world.end().await;
    }
}

/// An event that is too long to be held may be of any answer: all that calls may write is reserved before it goes on.
#[tokio::test]
async fn nothing_of_an_event_that_is_too_long_goes_on_uncounted() {
    let long = json!({ "type": "response.completed", "stream_id": "a", "padding": " ".repeat(1_200_000),
        "response": { "id": "a1", "status": "completed", "usage": { "input_tokens": 9, "output_tokens": 5 } } });
    for (limit, goes) in [(2000, true), (400, false)] {
        let world = world(2100).await;
        let mut sides = Sides::of(&world).await;
        sides.calls("a", "gpt-4o", limit).await;
        if !goes {
            // Another one has what is left.
            sides.calls("b", "gpt-4o", 2000).await;
            sides.hears(&created("b", "b1")).await;
            sides.hears(&words("b", 1500)).await;
        }
        sides.hears(&created("a", "a1")).await;
        let long = event(&long);
        let (mut client, mut upstream) = (sides.client, sides.upstream);
        let writing = tokio::spawn(async move {
            write(&mut upstream, &long).await;
            upstream
        });
        match goes {
            true => {
                let mut got = vec![0; 1_200_000];
                soon(client.read_exact(&mut got)).await.unwrap();
            }
            false => {
                // For a while it waits for what the other one holds.
                let mut head = [0; 2];
                let read = client.read_exact(&mut head);
                tokio::time::timeout(Duration::from_secs(20), read)
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!((head[0], head[1]), (0x81, 126));
            }
        }
        drop((client, writing));
        world.end().await;
    }
}
