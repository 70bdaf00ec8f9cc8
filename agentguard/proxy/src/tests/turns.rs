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
async fn a_message_that_is_not_understood_is_refused_or_not_looked_at_as_the_agent_may() {
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
