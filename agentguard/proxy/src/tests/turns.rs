//! Calls on a WebSocket of Responses, each of which is decided by itself.

use std::time::Duration;

use agentguard_model::{ActionKind, Decision, LlmAnswer, ReasonCode, Verdict};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::websocket::{SWITCH, closed, frame, masked};
use super::{Rules, World, by_name, codes, read_some, read_until, soon, write};

const HANDSHAKE: &str = "GET /v1/responses HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

pub(super) async fn open(world: &World) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    write(&mut client, HANDSHAKE).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    // What is left out of deflated messages would be missed.
    let head = head.to_ascii_lowercase();
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    write(&mut upstream, SWITCH).await;
    read_until(&mut client, "\r\n\r\n").await;
    (client, upstream)
}

pub(super) fn create(model: &str, tool: &str) -> Vec<u8> {
    let call = json!({ "type": "response.create", "model": model, "input": "hi",
        "tools": [{ "type": "function", "name": tool }] });
    masked(0x81, call.to_string())
}

/// What the upstream gets of it.
pub(super) async fn passes(upstream: &mut TcpStream, message: &[u8]) {
    let got = read_some(upstream, message.len()).await;
    assert_eq!(got, message);
}

pub(super) fn event(event: &Value) -> Vec<u8> {
    frame(0x81, event.to_string())
}

/// An answer's events.
fn answer(model: &str, input: u64) -> [Vec<u8>; 3] {
    let item =
        json!({ "type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}" });
    [
        json!({ "type": "response.created", "response": { "model": model, "status": "in_progress" } }),
        json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
        json!({ "type": "response.completed", "response": { "model": model, "status": "completed",
            "usage": { "input_tokens": input, "output_tokens": 2 } } }),
    ]
    .map(|it| event(&it))
}

/// Reads a short text of a server's, and gives it as JSON.
pub(super) async fn read_event(client: &mut TcpStream) -> Value {
    let head = read_some(client, 2).await;
    assert_eq!(head[0], 0x81);
    let length = match head[1] {
        126 => usize::from(soon(client.read_u16()).await.unwrap()),
        short => usize::from(short),
    };
    let text = read_some(client, length).await;
    serde_json::from_slice(&text).unwrap()
}

fn said(decision: &Decision) -> &LlmAnswer {
    let outcome = decision.outcome.as_ref().unwrap();
    outcome.llm.as_ref().unwrap()
}

fn calls(decisions: &[Decision]) -> Vec<&Decision> {
    let calls = decisions.iter();
    calls
        .filter(|it| it.action.kind == ActionKind::LlmCall)
        .collect()
}

#[tokio::test]
async fn each_call_is_decided_and_the_connection_goes_on() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, mut upstream) = open(&world).await;
    for input in [7, 8] {
        let call = create("small", "look");
        write(&mut client, &call).await;
        passes(&mut upstream, &call).await;
        for event in answer("small-1", input) {
            write(&mut upstream, &event).await;
            passes(&mut client, &event).await;
        }
        // Nothing of these leaves.
        for (model, tool) in [("large", "look"), ("small", "shell")] {
            write(&mut client, create(model, tool)).await;
            let refused = read_event(&mut client).await;
            assert_eq!(refused["type"], "error");
            assert_eq!(refused["status"], 403);
            let message = refused["error"]["message"].as_str().unwrap();
            assert!(message.contains("agentguard explain"), "{message}");
        }
        let steer = masked(0x81, r#"{"type":"response.steer","input":[]}"#);
        write(&mut client, &steer).await;
        passes(&mut upstream, &steer).await;
    }
    drop((client, upstream));
    let decisions = world.end().await;
    let opened = &decisions[0];
    assert_eq!(opened.action.kind, ActionKind::HttpRequest);
    assert!(opened.action.websocket);
    assert_eq!(opened.action.llm.as_ref().unwrap().provider, "ours");
    let messages = opened.outcome.as_ref().unwrap().messages.unwrap();
    assert_eq!((messages.sent, messages.received), (4, 6));
    let allow = (Verdict::Allow, ReasonCode::RuleAllow);
    let no_rule = (Verdict::Deny, ReasonCode::NoRule);
    let shell = (Verdict::Deny, ReasonCode::RuleDeny);
    assert_eq!(
        codes(&decisions),
        [allow, allow, no_rule, shell, allow, no_rule, shell]
    );
    for (at, input) in [(1, 7), (4, 8)] {
        let action = &decisions[at].action;
        assert_eq!(action.kind, ActionKind::LlmCall);
        let llm = action.llm.as_ref().unwrap();
        assert_eq!((llm.model.as_deref(), llm.stream), (Some("small"), true));
        assert_eq!(llm.tools, ["look"]);
        let said = said(&decisions[at]);
        assert_eq!(said.model.as_deref(), Some("small-1"));
        assert_eq!(said.usage.unwrap().input_tokens, Some(input));
        assert_eq!(said.tool_calls[0].name, "look");
        assert_eq!(said.finish_reason.as_deref(), Some("completed"));
        let outcome = decisions[at].outcome.as_ref().unwrap();
        assert!(outcome.bytes.sent > 0 && outcome.bytes.received > 0);
        assert_eq!(outcome.error, None);
    }
}

/// In any pieces of messages and bytes.
#[tokio::test]
async fn a_call_in_pieces_waits_until_it_is_whole() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let text =
        json!({ "input": "word ".repeat(60_000), "type": "response.create", "model": "small" });
    let text = text.to_string();
    let (one, two) = text.split_at(100_000);
    let ping = masked(0x89, "?");
    let parts = [masked(0x01, one), ping.clone(), masked(0x80, two)];
    write(&mut client, &parts[0]).await;
    write(&mut client, &parts[1]).await;
    // What is between its frames goes first.
    passes(&mut upstream, &ping).await;
    let (last, rest) = parts[2].split_at(parts[2].len() - 1);
    write(&mut client, last).await;
    super::settled().await;
    let mut byte = [0];
    assert!(upstream.try_read(&mut byte).is_err(), "it has left");
    write(&mut client, rest).await;
    passes(&mut upstream, &parts[0]).await;
    passes(&mut upstream, &parts[2]).await;
    drop((client, upstream));
    let decisions = world.end().await;
    let call = calls(&decisions)[0];
    assert_eq!(call.action.body, Some(text.len() as u64));
    let error = call.outcome.as_ref().unwrap().error.as_deref();
    assert_eq!(error, Some("the connection was over before the answer was"));
}

#[tokio::test]
async fn a_message_that_is_not_understood_is_refused_whatever_rules_allow() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, upstream) = open(&world).await;
    for message in [
        masked(0x81, r#"{"type":"session.update"}"#),
        masked(
            0x81,
            r#"{"type":"response.create","model":"large","model":"small"}"#,
        ),
        masked(0x81, "{"),
        masked(0x82, r#"{"type":"response.create","model":"small"}"#),
    ] {
        write(&mut client, message).await;
        let refused = read_event(&mut client).await;
        assert_eq!(refused["error"]["code"], "not_understood");
    }
    drop((client, upstream));
    let decisions = world.end().await;
    for call in calls(&decisions) {
        let llm = call.action.llm.as_ref().unwrap();
        assert!(llm.not_understood.is_some(), "{llm:?}");
    }
    assert_eq!(calls(&decisions).len(), 4);

    let world = by_name(Rules::CallsUnread).build().await;
    let (mut client, upstream) = open(&world).await;
    write(&mut client, masked(0x81, "{")).await;
    let refused = read_event(&mut client).await;
    assert_eq!(refused["error"]["code"], "not_understood");
    drop((client, upstream));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_come_to_its_end_ends_the_connection() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, upstream) = open(&world).await;
    write(&mut client, masked(0x01, "{")).await;
    // The clock stands still and goes on when nothing else does: what reads waits for less than a call may take.
    tokio::time::sleep(Duration::from_secs(61)).await;
    let (code, reason) = closed(&mut client).await;
    assert_eq!(code, 1008);
    assert!(reason.contains("in time"), "{reason}");
    drop((client, upstream));
    let decisions = world.end().await;
    let last = decisions.last().unwrap();
    assert_eq!(last.reason.code, ReasonCode::ClientTimeout);
}

#[tokio::test]
async fn a_call_that_the_policy_comes_to_deny_ends_in_an_error_and_the_connection() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let call = create("small", "look");
    write(&mut client, &call).await;
    passes(&mut upstream, &call).await;
    let [created, ..] = answer("small-1", 7);
    write(&mut upstream, &created).await;
    passes(&mut client, &created).await;
    world.change(Rules::CallsByPost);
    let refused = read_event(&mut client).await;
    assert_eq!(refused["type"], "error");
    let (code, _) = closed(&mut client).await;
    assert_eq!(code, 1008);
    drop((client, upstream));
    let decisions = world.end().await;
    let call = calls(&decisions)[0];
    assert_eq!(said(call).model.as_deref(), Some("small-1"));
    let error = call.outcome.as_ref().unwrap().error.as_deref();
    assert!(
        error.unwrap().starts_with("ended by decision "),
        "{error:?}"
    );
}

/// An answer that its server does not end is over where the next one begins.
#[tokio::test]
async fn answers_belong_to_the_calls_in_their_order() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, mut upstream) = open(&world).await;
    for _ in 0..2 {
        let call = create("small", "look");
        write(&mut client, &call).await;
        passes(&mut upstream, &call).await;
    }
    let [created, ..] = answer("first", 1);
    let [second, _, completed] = answer("second", 2);
    let failed = event(&json!({ "type": "error", "status": 400, "error": { "code": "late" } }));
    for event in [created, second, completed, failed] {
        write(&mut upstream, &event).await;
        passes(&mut client, &event).await;
    }
    drop((client, upstream));
    let decisions = world.end().await;
    let calls = calls(&decisions);
    let error = calls[0].outcome.as_ref().unwrap().error.as_deref();
    assert_eq!(error, Some("its answer was not ended"));
    assert_eq!(said(calls[1]).usage.unwrap().input_tokens, Some(2));
    assert_eq!(calls[1].outcome.as_ref().unwrap().error, None);
}

#[tokio::test]
async fn one_client_has_no_end_of_calls_under_way() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, upstream) = open(&world).await;
    for _ in 0..17 {
        write(&mut client, create("small", "look")).await;
    }
    let refused = read_event(&mut client).await;
    assert_eq!(refused["error"]["code"], "limit_reached");
    let (code, _) = closed(&mut client).await;
    assert_eq!(code, 1008);
    drop((client, upstream));
    let decisions = world.end().await;
    let last = decisions.last().unwrap();
    assert_eq!(last.reason.code, ReasonCode::LimitReached);
}

/// A call that may name a lane.
fn call_in(lane: Option<&str>, model: &str) -> Vec<u8> {
    let mut call = json!({ "type": "response.create", "model": model, "input": "hi",
        "tools": [{ "type": "function", "name": "look" }] });
    if let Some(lane) = lane {
        call["stream_id"] = lane.into();
    }
    masked(0x81, call.to_string())
}

fn steer() -> Vec<u8> {
    let steer = json!({ "type": "response.steer", "previous_response_id": "r1", "input": "go on" });
    masked(0x81, steer.to_string())
}

/// An event of a server's that may be in a lane.
fn in_lane(lane: Option<&str>, mut event: Value) -> Value {
    if let Some(lane) = lane {
        event["stream_id"] = lane.into();
    }
    event
}

fn created(lane: Option<&str>, id: &str) -> Value {
    let response = json!({ "id": id, "model": id, "status": "in_progress" });
    in_lane(
        lane,
        json!({ "type": "response.created", "response": response }),
    )
}

fn asks(lane: Option<&str>, tool: &str) -> Value {
    let item = json!({ "type": "function_call", "id": "fc_1", "call_id": "c1", "name": tool, "arguments": "{}" });
    let done = json!({ "type": "response.output_item.done", "output_index": 0, "item": item });
    in_lane(lane, done)
}

fn completed(lane: Option<&str>, id: &str, input: u64) -> Value {
    let response = json!({ "id": id, "model": id, "status": "completed",
        "usage": { "input_tokens": input, "output_tokens": 2 } });
    in_lane(
        lane,
        json!({ "type": "response.completed", "response": response }),
    )
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

    async fn sends(&mut self, message: &[u8]) {
        write(&mut self.client, message).await;
        passes(&mut self.upstream, message).await;
    }

    /// Events that the client gets as they were sent.
    async fn hears(&mut self, events: &[Value]) {
        for told in events {
            let told = event(told);
            write(&mut self.upstream, &told).await;
            passes(&mut self.client, &told).await;
        }
    }

    /// One in the place of which there is an error; the connection ends behind it.
    async fn is_refused(&mut self, told: &Value) -> String {
        write(&mut self.upstream, event(told)).await;
        let refused = read_event(&mut self.client).await;
        assert_eq!(refused["type"], "error", "{told}");
        let (code, reason) = closed(&mut self.client).await;
        assert_eq!(code, 1008, "{told}");
        reason
    }

    async fn part(self, world: World) -> Vec<Decision> {
        drop(self);
        world.end().await
    }
}

/// What was asked for in which model, what came of it in which, and how many tokens went into that.
fn told(decision: &Decision) -> (Option<&str>, Option<&str>, Option<u64>) {
    let asked = decision.action.llm.as_ref().unwrap().model.as_deref();
    let said = said(decision);
    let input = said.usage.and_then(|usage| usage.input_tokens);
    (asked, said.model.as_deref(), input)
}

const A: Option<&str> = Some("a");
const B: Option<&str> = Some("b");

#[tokio::test]
async fn answers_of_several_lanes_come_at_the_same_time() {
    let world = by_name(Rules::CallsAskedOfSmall).build().await;
    let mut sides = Sides::of(&world).await;
    for (lane, model) in [(A, "small"), (B, "large"), (None, "other"), (B, "large")] {
        sides.sends(&call_in(lane, model)).await;
    }
    sides
        .hears(&[
            created(B, "b1"),
            created(A, "a1"),
            created(None, "n1"),
            asks(A, "look"),
            asks(B, "shell"),
            completed(A, "a1", 7),
            completed(B, "b1", 8),
            created(B, "b2"),
            asks(None, "shell"),
            completed(None, "n1", 9),
            completed(B, "b2", 10),
        ])
        .await;
    // Each is asked about as what its call was.
    sides.sends(&call_in(A, "small")).await;
    sides.sends(&call_in(B, "large")).await;
    sides.hears(&[created(B, "b3"), created(A, "a2")]).await;
    let reason = sides.is_refused(&asks(A, "shell")).await;
    assert!(reason.contains("No shell."), "{reason}");
    let decisions = sides.part(world).await;
    let calls = calls(&decisions);
    for (call, expected) in calls.iter().zip([
        (Some("small"), Some("a1"), Some(7)),
        (Some("large"), Some("b1"), Some(8)),
        (Some("other"), Some("n1"), Some(9)),
        (Some("large"), Some("b2"), Some(10)),
        (Some("small"), Some("a2"), None),
        (Some("large"), Some("b3"), None),
    ]) {
        assert_eq!(told(call), expected);
    }
    let asked: Vec<usize> = calls[..6]
        .iter()
        .map(|call| said(call).tool_calls.len())
        .collect();
    assert_eq!(asked, [1, 1, 1, 0, 1, 0]);
    for call in &calls[..4] {
        let outcome = call.outcome.as_ref().unwrap();
        assert_eq!(outcome.error, None);
        assert!(outcome.bytes.received > 0);
    }
    let denied = calls[6].action.llm.as_ref().unwrap();
    assert_eq!(denied.model.as_deref(), Some("small"));
    assert_eq!(denied.asks, ["shell"]);
    assert_eq!(calls.len(), 7);
}

#[tokio::test]
async fn what_stands_in_the_place_of_a_call_is_in_its_lane() {
    let world = by_name(Rules::CallsCut).build().await;
    let mut sides = Sides::of(&world).await;
    for lane in [A, B] {
        sides.sends(&call_in(lane, "small")).await;
    }
    sides.hears(&[created(A, "a1"), created(B, "b1")]).await;
    write(&mut sides.upstream, event(&asks(B, "shell"))).await;
    loop {
        let event = read_event(&mut sides.client).await;
        assert_eq!(event["stream_id"], "b", "{event}");
        if event["type"] == "response.output_item.done" {
            break;
        }
    }
    sides
        .hears(&[
            asks(A, "look"),
            completed(B, "b1", 8),
            completed(A, "a1", 7),
        ])
        .await;
    let decisions = sides.part(world).await;
    let calls = calls(&decisions);
    assert_eq!(said(calls[0]).cut, [""; 0]);
    assert_eq!(said(calls[1]).cut, ["shell"]);
}

/// One that names none, while calls in lanes are under way alone, is for these in their order.
#[tokio::test]
async fn a_server_may_know_of_no_lanes() {
    let world = by_name(Rules::CallsAskedOfSmall).build().await;
    let mut sides = Sides::of(&world).await;
    for (lane, model) in [(A, "large"), (B, "small")] {
        sides.sends(&call_in(lane, model)).await;
    }
    sides
        .hears(&[
            created(None, "a1"),
            asks(None, "shell"),
            completed(None, "a1", 7),
            created(None, "b1"),
        ])
        .await;
    sides.is_refused(&asks(None, "shell")).await;
    let decisions = sides.part(world).await;
    let calls = calls(&decisions);
    assert_eq!(told(calls[0]), (Some("large"), Some("a1"), Some(7)));
    assert_eq!(told(calls[1]), (Some("small"), Some("b1"), None));
}

#[tokio::test]
async fn a_response_without_a_call_is_decided_as_another_call() {
    for lane in [None, A] {
        let world = by_name(Rules::CallsAsked).build().await;
        let mut sides = Sides::of(&world).await;
        sides.sends(&call_in(lane, "small")).await;
        sides.hears(&[created(lane, "r1")]).await;
        sides.sends(&steer()).await;
        let accepted = in_lane(lane, json!({ "type": "response.steer.accepted" }));
        // Nothing of these is told of an answer, nor waits for one.
        let between = json!({ "type": "codex.rate_limits" });
        sides
            .hears(&[
                accepted.clone(),
                completed(lane, "r1", 7),
                accepted,
                between,
                created(lane, "r2"),
                asks(lane, "look"),
                completed(lane, "r2", 80_000),
                created(lane, "r3"),
            ])
            .await;
        let reason = sides.is_refused(&asks(lane, "shell")).await;
        assert!(reason.contains("No shell."), "{reason}");
        let decisions = sides.part(world).await;
        let calls = calls(&decisions);
        for (call, (id, input)) in
            calls
                .iter()
                .zip([("r1", Some(7)), ("r2", Some(80_000)), ("r3", None)])
        {
            assert_eq!(told(call), (Some("small"), Some(id), input));
            assert_eq!(call.action.llm.as_ref().unwrap().tools, ["look"]);
            assert_eq!(call.verdict, Verdict::Allow);
        }
        assert_eq!(said(calls[1]).tool_calls[0].name, "look");
        assert_eq!(calls[3].action.llm.as_ref().unwrap().asks, ["shell"]);
        assert_eq!(calls.len(), 4);
    }
}

#[tokio::test]
async fn a_response_without_a_call_may_be_denied_by_now() {
    let world = by_name(Rules::CallsAsked).build().await;
    let mut sides = Sides::of(&world).await;
    sides.sends(&call_in(None, "small")).await;
    sides
        .hears(&[created(None, "r1"), completed(None, "r1", 7)])
        .await;
    world.change(Rules::CallsAskedOfLarge);
    let reason = sides.is_refused(&created(None, "r2")).await;
    assert!(reason.contains("agentguard explain"), "{reason}");
    let decisions = sides.part(world).await;
    let last = calls(&decisions)[1];
    assert_eq!(
        (last.verdict, last.reason.code),
        (Verdict::Deny, ReasonCode::NoRule)
    );
}

/// What begins while a call waits behind a `response.steer` may be the answer to either; and so may what comes from a server
/// that has named no lane.
#[tokio::test]
async fn an_answer_has_to_pass_for_each_call_that_it_may_be_for() {
    for steered in [true, false] {
        let world = by_name(Rules::CallsAskedOfSmall).build().await;
        let mut sides = Sides::of(&world).await;
        sides.sends(&call_in(A, "small")).await;
        sides.hears(&[created(A, "r1")]).await;
        if steered {
            sides.sends(&steer()).await;
        }
        for _ in 0..2 {
            sides.sends(&call_in(A, "large")).await;
        }
        sides
            .hears(&[completed(A, "r1", 1), created(A, "r2"), asks(A, "look")])
            .await;
        if steered {
            sides.is_refused(&asks(A, "shell")).await;
        } else {
            sides
                .hears(&[asks(A, "look"), completed(A, "r2", 2), created(A, "r3")])
                .await;
            sides.hears(&[asks(A, "shell")]).await;
        }
        let decisions = sides.part(world).await;
        let last = *calls(&decisions).last().unwrap();
        let denied = (
            last.verdict,
            last.action.llm.as_ref().unwrap().model.as_deref(),
        );
        let expected = match steered {
            true => (Verdict::Deny, Some("small")),
            false => (Verdict::Allow, Some("large")),
        };
        assert_eq!(denied, expected);
    }

    for (first, second) in [(A, None), (None, A)] {
        let world = by_name(Rules::CallsAskedOfSmall).build().await;
        let mut sides = Sides::of(&world).await;
        sides.sends(&call_in(first, "small")).await;
        sides.sends(&call_in(second, "large")).await;
        sides.hears(&[created(None, "r1")]).await;
        sides.is_refused(&asks(None, "shell")).await;
        sides.part(world).await;
    }
}

#[tokio::test]
async fn nothing_of_a_response_that_no_call_is_known_of_passes_unread() {
    let unreadable = json!([]);
    for told in [
        created(Some("z"), "r1"),
        asks(Some("z"), "look"),
        completed(Some("z"), "r1", 7),
        unreadable,
        json!({ "type": "response.created", "stream_id": 7 }),
    ] {
        for calls_before in [0, 1] {
            let world = by_name(Rules::CallsAsked).build().await;
            let mut sides = Sides::of(&world).await;
            for _ in 0..calls_before {
                sides.sends(&call_in(A, "small")).await;
            }
            // These are of no response.
            let failed = json!({ "type": "error", "stream_id": "z", "error": { "code": "x" } });
            let limits = json!({ "type": "codex.rate_limits" });
            sides.hears(&[failed, limits]).await;
            let reason = sides.is_refused(&told).await;
            assert!(reason.contains("agentguard explain"), "{reason}");
            let decisions = sides.part(world).await;
            let last = *calls(&decisions).last().unwrap();
            assert_eq!(last.verdict, Verdict::Deny, "{told}");
            assert!(last.action.llm.as_ref().unwrap().asks_unread, "{told}");
        }
    }

    let world = by_name(Rules::Calls).build().await;
    let mut sides = Sides::of(&world).await;
    for input in [7, 8] {
        let lane = Some("z");
        sides
            .hears(&[
                created(lane, "r1"),
                asks(lane, "shell"),
                completed(lane, "r1", input),
            ])
            .await;
    }
    let decisions = sides.part(world).await;
    assert_eq!(decisions.len(), 1);
    let said = said(&decisions[0]);
    assert_eq!(said.usage.unwrap().input_tokens, Some(15));
    assert_eq!(said.tool_calls.len(), 2);
}

/// An error may be about something else than the answer that is under way, which goes on.
#[tokio::test]
async fn an_error_without_a_response_does_not_have_its_call_forgotten() {
    let world = by_name(Rules::CallsAskedOfSmall).build().await;
    let mut sides = Sides::of(&world).await;
    sides.sends(&call_in(None, "small")).await;
    sides.hears(&[created(None, "r1")]).await;
    sides.sends(&call_in(None, "large")).await;
    let error = json!({ "type": "error", "error": { "code": "response_already_in_flight" } });
    sides.hears(&[error]).await;
    let reason = sides.is_refused(&asks(None, "shell")).await;
    assert!(reason.contains("No shell."), "{reason}");
    sides.part(world).await;
}

#[tokio::test]
async fn lanes_are_known_for_a_while() {
    let world = by_name(Rules::CallsAsked).build().await;
    let mut sides = Sides::of(&world).await;
    let lanes: Vec<String> = (0..17).map(|lane| lane.to_string()).collect();
    for lane in &lanes {
        let lane = Some(lane.as_str());
        sides.sends(&call_in(lane, "small")).await;
        sides
            .hears(&[created(lane, "r1"), completed(lane, "r1", 7)])
            .await;
    }
    let known = Some(lanes[1].as_str());
    sides
        .hears(&[created(known, "r2"), completed(known, "r2", 8)])
        .await;
    sides.is_refused(&created(Some("0"), "r2")).await;
    let decisions = sides.part(world).await;
    let calls = calls(&decisions);
    assert_eq!(told(calls[17]), (Some("small"), Some("r2"), Some(8)));
    assert!(calls[18].action.llm.as_ref().unwrap().asks_unread);
}

/// Behind that many the call that an answer is for may not be known any more.
#[tokio::test]
async fn an_answer_behind_too_many_steers_may_be_for_any_call() {
    for (steers, passes) in [(16, true), (17, false)] {
        let world = by_name(Rules::CallsAskedOfSmall).build().await;
        let mut sides = Sides::of(&world).await;
        sides.sends(&call_in(None, "large")).await;
        for _ in 0..steers {
            sides.sends(&steer()).await;
        }
        sides.hears(&[created(None, "r1")]).await;
        match passes {
            true => sides.hears(&[asks(None, "shell")]).await,
            false => _ = sides.is_refused(&asks(None, "shell")).await,
        }
        sides.part(world).await;
    }
}

#[tokio::test]
async fn a_call_that_cannot_be_read_may_be_in_any_lane() {
    for (unread, passes) in [(false, true), (true, false)] {
        let world = by_name(Rules::CallsAskedOfAny).build().await;
        let mut sides = Sides::of(&world).await;
        sides.sends(&call_in(A, "large")).await;
        sides
            .hears(&[created(A, "r1"), completed(A, "r1", 7)])
            .await;
        if unread {
            let twice =
                r#"{"type":"response.create","stream_id":"a","model":"large","model":"small"}"#;
            sides.sends(&masked(0x81, twice)).await;
        }
        sides.hears(&[created(A, "r2")]).await;
        match passes {
            true => sides.hears(&[asks(A, "shell")]).await,
            false => _ = sides.is_refused(&asks(A, "shell")).await,
        }
        sides.part(world).await;
    }
}

/// What an error counts for takes nothing from what is counted already.
#[tokio::test]
async fn an_error_does_not_have_steers_forgotten() {
    for fails in [false, true] {
        let world = by_name(Rules::CallsAskedOfSmall).build().await;
        let mut sides = Sides::of(&world).await;
        sides.sends(&call_in(None, "small")).await;
        sides
            .hears(&[created(None, "s"), completed(None, "s", 1)])
            .await;
        for _ in 0..40 {
            sides.sends(&steer()).await;
        }
        for call in 0..17 {
            let id = format!("l{call}");
            sides.sends(&call_in(None, "large")).await;
            sides
                .hears(&[created(None, &id), completed(None, &id, 1)])
                .await;
        }
        sides.sends(&call_in(None, "large")).await;
        sides.hears(&[created(None, "e")]).await;
        if fails {
            let error =
                json!({ "type": "error", "error": { "code": "response_already_in_flight" } });
            sides.hears(&[error]).await;
        } else {
            sides.hears(&[completed(None, "e", 1)]).await;
        }
        // One goes on without a call.
        sides
            .hears(&[created(None, "f"), completed(None, "f", 1)])
            .await;
        sides.sends(&call_in(None, "large")).await;
        sides.hears(&[created(None, "g")]).await;
        sides.is_refused(&asks(None, "shell")).await;
        sides.part(world).await;
    }
}
