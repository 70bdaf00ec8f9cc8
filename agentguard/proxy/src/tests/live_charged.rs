//! What sessions of Realtime are charged, and what becomes of them where nothing is left.

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use agentguard_policy::{Document, compile};
use serde_json::{Value, json};

use super::live::{audio, goes, open, refused, response, says, update, updated};
use super::turns::read_event;
use super::websocket::closed;
use super::{Rules, World, by_name};

/// There are so many tokens of output.
async fn world(limit: u64) -> World {
    world_with(limit, "").await
}

async fn world_with(limit: u64, more: &str) -> World {
    let world = by_name(Rules::CallsEach).build().await;
    let text = format!(
        "version: 1
providers: [{{ name: ours, api: openai, hosts: [api.example] }}]
agents: [{{ name: tester }}]
rules:
  - {{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], match: {{ host: [api.example] }} }}
budgets:
  - {{ id: out, unit: output_tokens, limit: {limit}, window: day }}
  - {{ id: in, unit: input_tokens, limit: 1000000000, window: day }}
{more}"
    );
    let path = "policy.yaml".to_owned();
    let policy = compile(&[Document { path, text }]).unwrap_or_else(|it| panic!("{it}"));
    world.policies.put(2, policy);
    world
}

/// What each decision has reserved, and was charged with in the end: of output and of input.
fn charged(decisions: &[Decision]) -> Vec<[(u64, Option<u64>); 2]> {
    let calls = decisions.iter();
    let calls = calls.filter(|it| it.action.kind == ActionKind::LlmCall);
    let lines = calls.filter_map(|it| {
        let outcome = it.outcome.as_ref()?;
        let line = |at: usize| {
            let settled = outcome.budget.get(at).and_then(|it| it.settled);
            Some((it.budget.get(at)?.reserved, settled))
        };
        Some([line(0)?, line(1)?])
    });
    lines.collect()
}

/// A response with so many tokens, in place of what the others have.
fn used(id: &str, output: u64) -> [Value; 3] {
    let mut events = response(id, 7, "look");
    events[2]["response"]["usage"]["output_tokens"] = json!(output);
    events
}

/// Each is charged as it is over, and the next has its part before it comes.
#[tokio::test]
async fn what_a_server_makes_by_itself_is_charged_each_and_ends_with_what_is_left() {
    let world = world(100).await;
    let (mut client, mut upstream) = open(&world).await;
    goes(&mut client, &mut upstream, &update(&["look"], 50)).await;
    says(&mut upstream, &mut client, &updated(&["look"], 50)).await;
    goes(&mut client, &mut upstream, &audio()).await;
    for (id, output) in [("r1", 20), ("r2", 25)] {
        for event in used(id, output) {
            says(&mut upstream, &mut client, &event).await;
        }
    }
    // So much as the next may have is not left behind this.
    for event in used("r3", 10) {
        says(&mut upstream, &mut client, &event).await;
    }
    let error = read_event(&mut client).await;
    assert_eq!(error["type"], "error", "{error}");
    assert_eq!(error["error"]["reason"], "budget_exhausted", "{error}");
    let (code, _) = closed(&mut client).await;
    assert_eq!(code, 1008);
    drop((client, upstream));
    let decisions = world.end().await;
    let charged = charged(&decisions);
    let output: Vec<_> = charged.iter().map(|[output, _]| *output).collect();
    let [made @ .., last] = &output[..] else {
        panic!("{output:?}");
    };
    assert_eq!(made, [(50, Some(20)), (50, Some(25)), (50, Some(10))]);
    // Less than the next may have is not taken.
    assert_eq!(*last, (45, None));
    // All of its conversation may be read for each.
    for [_, (reserved, settled)] in &charged[..3] {
        assert!(*reserved >= 32_000, "{reserved}");
        assert_eq!(*settled, Some(7));
    }
    let last = decisions.last().unwrap();
    assert_eq!(
        (last.verdict, last.reason.code),
        (Verdict::Deny, ReasonCode::BudgetExhausted)
    );
}

/// What a client asks for is refused for itself where too little is left, and the session goes on.
#[tokio::test]
async fn a_response_that_a_client_asks_for_is_refused_and_the_session_goes_on() {
    let world = world(100).await;
    let (mut client, mut upstream) = open(&world).await;
    goes(&mut client, &mut upstream, &update(&["look"], 50)).await;
    says(&mut upstream, &mut client, &updated(&["look"], 50)).await;
    let asks = |limit: u64| json!({ "type": "response.create", "event_id": "event_9", "response": { "max_output_tokens": limit } });
    goes(&mut client, &mut upstream, &asks(40)).await;
    for event in used("r1", 30) {
        says(&mut upstream, &mut client, &event).await;
    }
    let error = refused(&mut client, &asks(40)).await;
    assert_eq!(error["error"]["event_id"], "event_9", "{error}");
    // The session itself holds the rest, which may come back.
    assert_eq!(error["error"]["reason"], "budget_held", "{error}");
    goes(&mut client, &mut upstream, &asks(20)).await;
    for event in used("r2", 20) {
        says(&mut upstream, &mut client, &event).await;
    }
    goes(&mut client, &mut upstream, &audio()).await;
    drop((client, upstream));
    let decisions = world.end().await;
    let output: Vec<_> = charged(&decisions)
        .iter()
        .map(|[output, _]| *output)
        .collect();
    // The server has made none by itself.
    assert_eq!(
        output,
        [(50, None), (40, Some(30)), (20, None), (20, Some(20))]
    );
}

/// What is refused so takes nothing of a rate.
#[tokio::test]
async fn a_response_that_is_refused_may_be_asked_for_again() {
    let rate = "limits: [{ id: burst, rate: { calls: 2, every: 1h } }]\n";
    let world = world_with(100, rate).await;
    let (mut client, mut upstream) = open(&world).await;
    goes(&mut client, &mut upstream, &update(&["look"], 50)).await;
    says(&mut upstream, &mut client, &updated(&["look"], 50)).await;
    let asks = json!({ "type": "response.create", "response": { "max_output_tokens": 60 } });
    for _ in 0..3 {
        let error = refused(&mut client, &asks).await;
        assert_eq!(error["error"]["reason"], "budget_held", "{error}");
    }
    let asks = json!({ "type": "response.create", "response": { "max_output_tokens": 20 } });
    goes(&mut client, &mut upstream, &asks).await;
    for event in used("r1", 10) {
        says(&mut upstream, &mut client, &event).await;
    }
    let error = refused(&mut client, &asks).await;
    assert_eq!(error["error"]["reason"], "rate_limited", "{error}");
    drop((client, upstream));
    world.end().await;
}
