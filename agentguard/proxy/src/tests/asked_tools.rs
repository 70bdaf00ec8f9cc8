//! Answers that ask for tools that a rule denies: they are not passed on.

use agentguard_model::{ActionKind, Decision, LlmOperation, ReasonCode, Verdict};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::calls::sized;
use super::http::read_response;
use super::turns::{create, event, open, passes, read_event};
use super::websocket::closed;
use super::{Rules, World, by_name, codes, read_all, read_some, read_until, write};

/// A call of which the upstream has got all.
pub(super) async fn called(world: &World, stream: bool) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    let body = json!({ "model": "small", "stream": stream }).to_string();
    write(&mut client, sized(body.as_bytes(), "")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, body.len()).await;
    (client, upstream)
}

pub(super) fn whole(tool: &str) -> String {
    let call =
        json!({ "id": "c1", "type": "function", "function": { "name": tool, "arguments": "{}" } });
    let message = json!({ "role": "assistant", "tool_calls": [call] });
    json!({ "model": "small-1", "choices": [{ "index": 0, "finish_reason": "tool_calls", "message": message }] })
        .to_string()
}

/// An event that says something, and one that asks for a tool.
pub(super) fn events(tool: &str) -> [String; 3] {
    let text = json!({ "choices": [{ "index": 0, "delta": { "content": "x" } }] });
    let call = json!({ "index": 0, "id": "c1", "type": "function", "function": { "name": tool, "arguments": "{}" } });
    let asks = json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [call] } }] });
    [
        format!("data: {text}\n\n"),
        format!("data: {asks}\r\n\r\n"),
        "data: [DONE]\n\n".to_owned(),
    ]
}

pub(super) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

pub(super) const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The call was allowed, and its answer denied, which both are in the record.
pub(super) fn refused(decisions: &[Decision]) {
    let allow = (Verdict::Allow, ReasonCode::RuleAllow);
    let deny = (Verdict::Deny, ReasonCode::RuleDeny);
    let calls: Vec<Decision> = decisions
        .iter()
        .filter(|it| it.action.kind == ActionKind::LlmCall)
        .cloned()
        .collect();
    assert_eq!(codes(&calls), [allow, deny]);
    assert_eq!(calls[1].action.llm.as_ref().unwrap().asks, ["shell"]);
    assert_eq!(calls[1].reason.message, "No shell.");
    let outcome = calls[0].outcome.as_ref().unwrap();
    let said = outcome.llm.as_ref().unwrap();
    assert_eq!(said.tool_calls[0].name, "shell");
    let error = outcome.error.as_deref().unwrap();
    assert!(error.starts_with("ended by decision "), "{error}");
}

#[tokio::test]
async fn a_whole_answer_is_refused() {
    for (tool, denied) in [("look", false), ("Shell", true), ("shell", true)] {
        let world = by_name(Rules::CallsAsked).build().await;
        let (mut client, mut upstream) = called(&world, false).await;
        let body = whole(tool);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        write(&mut upstream, format!("{head}{body}")).await;
        let (head, answer) = read_response(&mut client).await;
        if denied {
            assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
            assert!(
                answer.contains("\"message\":\"No shell. (agentguard explain"),
                "{answer}"
            );
        } else {
            assert_eq!(answer, body);
        }
        drop((client, upstream));
        let decisions = world.end().await;
        if tool == "shell" {
            refused(&decisions);
        }
        assert_eq!(decisions.len(), if denied { 2 } else { 1 });
    }
}

/// In pieces of any size, up to the event that asks.
/// Also where it is fetched later, by its id, and where another API than the provider's own answers.
#[tokio::test]
async fn an_answer_that_is_fetched_later_is_refused() {
    let item = json!({ "type": "function_call", "id": "fc", "call_id": "c", "name": "shell", "arguments": "{}" });
    let response = json!({ "id": "resp_1", "status": "completed", "output": [&item] }).to_string();
    let event = json!({ "type": "response.output_item.done", "output_index": 0, "item": &item });
    let message =
        json!({ "content": [{ "type": "tool_use", "id": "t", "name": "shell", "input": {} }] });
    let batch = json!({ "custom_id": "a", "result": { "type": "succeeded", "message": message } });
    for (method, path, kind, answer, asks) in [
        (
            "GET",
            "/v1/responses/resp_1",
            "application/json",
            response,
            true,
        ),
        (
            "GET",
            "/v1/responses/resp_1?stream=true",
            "text/event-stream",
            format!("data: {event}\n\n"),
            true,
        ),
        (
            "GET",
            "/v1/chat/completions/c_1",
            "application/json",
            whole("shell"),
            true,
        ),
        (
            "GET",
            "/v1/chat/deferred-completion/d_1",
            "application/json",
            whole("shell"),
            true,
        ),
        (
            "GET",
            "/v1/chat/completions",
            "application/json",
            json!({ "object": "list", "data": [] }).to_string(),
            false,
        ),
        (
            "GET",
            "/v1/conversations/c_1/items",
            "application/json",
            json!({ "object": "list", "data": [item] }).to_string(),
            false,
        ),
        (
            "POST",
            "/anthropic/v1/messages",
            "application/json",
            message.to_string(),
            true,
        ),
        (
            "GET",
            "/v1/messages/batches/b/results",
            "application/x-jsonl",
            format!("{batch}\n"),
            false,
        ),
    ] {
        let world = by_name(Rules::CallsAsked).build().await;
        let mut client = world.connect().await;
        let body = if method == "POST" {
            r#"{"model":"small"}"#
        } else {
            ""
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: api.example\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        write(&mut client, format!("{head}{body}")).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        read_some(&mut upstream, body.len()).await;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        write(&mut upstream, format!("{head}{answer}")).await;
        drop(upstream);
        client.shutdown().await.unwrap();
        let got = read_all(&mut client).await.unwrap_or_default();
        let got = String::from_utf8(got).unwrap();
        assert!(!got.contains(r#""shell""#), "{path} {got}");
        drop(client);
        let decisions = world.end().await;
        let allow = (Verdict::Allow, ReasonCode::RuleAllow);
        let deny = (Verdict::Deny, ReasonCode::RuleDeny);
        assert_eq!(codes(&decisions), [allow, deny], "{path}");
        let [call, denied] = decisions.as_slice() else {
            panic!("{decisions:?}");
        };
        let operation = call.action.llm.as_ref().unwrap().operation;
        assert_eq!(
            operation == LlmOperation::Retrieval,
            method == "GET",
            "{path}"
        );
        let llm = denied.action.llm.as_ref().unwrap();
        assert_eq!(
            (llm.asks.is_empty(), llm.asks_unread),
            (!asks, !asks),
            "{path}"
        );
    }
}

/// What is sent to where an answer is, by its id, may be a call of another server's: it is not read.
#[tokio::test]
async fn what_is_sent_in_the_place_of_an_answer_is_a_call_that_cannot_be_read() {
    let world = by_name(Rules::CallsAsked).build().await;
    let mut client = world.connect().await;
    let body = r#"{"model":"large","max_tokens":100000}"#;
    let head = format!(
        "POST /v1/chat/completions/batch HTTP/1.1\r\nHost: api.example\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    write(&mut client, head).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    drop(client);
    let denied = (Verdict::Deny, ReasonCode::NotUnderstood);
    assert_eq!(codes(&world.end().await), [denied]);
}

#[tokio::test]
async fn a_stream_ends_before_the_event_that_asks() {
    for (tool, piece) in [("look", 1), ("look", 1000), ("shell", 1), ("shell", 1000)] {
        let world = by_name(Rules::CallsAsked).build().await;
        let (mut client, mut upstream) = called(&world, true).await;
        write(&mut upstream, STREAM).await;
        let [said, asks, done] = events(tool);
        let all = [said.as_str(), &asks, &done].concat();
        for piece in all.as_bytes().chunks(piece) {
            write(&mut upstream, chunk(std::str::from_utf8(piece).unwrap())).await;
        }
        write(&mut upstream, "0\r\n\r\n").await;
        if tool == "look" {
            let mut got = String::new();
            read_until(&mut client, "\r\n\r\n").await;
            while got.len() < all.len() {
                let size = read_until(&mut client, "\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let piece = read_some(&mut client, size).await;
                got.push_str(std::str::from_utf8(&piece).unwrap());
                read_until(&mut client, "\r\n").await;
            }
            assert_eq!(got, all);
            read_until(&mut client, "0\r\n\r\n").await;
        } else {
            read_until(&mut client, "No shell.").await;
        }
        drop((client, upstream));
        let decisions = world.end().await;
        match tool {
            "shell" => refused(&decisions),
            _ => assert_eq!(codes(&decisions), [(Verdict::Allow, ReasonCode::RuleAllow)]),
        }
    }
}

#[tokio::test]
async fn the_error_is_the_end_of_a_stream() {
    let world = by_name(Rules::CallsAsked).build().await;
    let (mut client, mut upstream) = called(&world, true).await;
    let [said, asks, _] = events("shell");
    write(
        &mut upstream,
        format!("{STREAM}{}{}", chunk(&said), chunk(&asks)),
    )
    .await;
    read_until(&mut client, "\r\n\r\n").await;
    let first = chunk(&said);
    assert_eq!(read_some(&mut client, first.len()).await, first.as_bytes());
    let rest = read_until(&mut client, "0\r\n\r\n").await;
    assert!(
        rest.contains("data: {\"error\":{\"message\":\"No shell."),
        "{rest}"
    );
    assert!(!rest.contains("tool_calls"), "{rest}");
    drop((client, upstream));
    refused(&world.end().await);
}

/// It may ask for anything.
#[tokio::test]
async fn an_answer_that_cannot_be_read_is_refused() {
    for (kind, body) in [
        (
            "application/json",
            "{\"choices\":[],\"choices\":[]}".to_owned(),
        ),
        ("application/json", "{".to_owned()),
        ("text/html", whole("look")),
        ("application/json; charset=utf-7", whole("look")),
        (
            "text/event-stream; charset=utf-16",
            "data: {\"choices\":[]}\n\n".to_owned(),
        ),
        ("application/json\r\nContent-Encoding: gzip", whole("look")),
        (
            "text/event-stream\r\nContent-Encoding: gzip",
            "x".to_owned(),
        ),
        (
            "text/event-stream",
            "data: {\"choices\":1,\"choices\":2}\n\n".to_owned(),
        ),
    ] {
        let world = by_name(Rules::CallsAsked).build().await;
        let (mut client, mut upstream) = called(&world, true).await;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        write(&mut upstream, format!("{head}{body}")).await;
        drop(upstream);
        client.shutdown().await.unwrap();
        // A refusal; or what was begun breaks off, and nothing of it comes.
        let got = read_all(&mut client).await.unwrap_or_default();
        let got = String::from_utf8(got).unwrap();
        assert!(!got.contains("choices"), "{kind} {got}");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(decisions[1].reason.code, ReasonCode::RuleDeny, "{kind}");
        assert!(decisions[1].action.llm.as_ref().unwrap().asks_unread);
    }
}

#[tokio::test]
async fn an_answer_on_a_websocket_ends_before_the_event_that_asks() {
    let world = by_name(Rules::CallsAsked).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let call = create("small", "look");
    write(&mut client, &call).await;
    passes(&mut upstream, &call).await;
    let created = event(&json!({ "type": "response.created", "response": { "model": "m" } }));
    write(&mut upstream, &created).await;
    passes(&mut client, &created).await;
    let item =
        json!({ "type": "function_call", "call_id": "c1", "name": "shell", "arguments": "{}" });
    let asks =
        event(&json!({ "type": "response.output_item.done", "output_index": 0, "item": item }));
    write(&mut upstream, &asks).await;
    let refused_event = read_event(&mut client).await;
    assert_eq!(refused_event["type"], "error");
    let (code, reason) = closed(&mut client).await;
    assert_eq!(code, 1008);
    assert!(reason.contains("No shell."), "{reason}");
    drop((client, upstream));
    refused(&world.end().await);
}
