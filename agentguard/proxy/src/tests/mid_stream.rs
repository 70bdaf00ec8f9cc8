//! Streams that must stop in the middle, of the providers that have other forms than OpenAI's, Anthropic's and AWS's: each
//! ends with what its clients take for an error, and the connection is as it was.

use agentguard_model::{ActionKind, Decision};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::asked_tools::{chunk, refused};
use super::{Rules, World, by_name, read_some, read_until, write};

const GEMINI: &str = "/v1beta/models/small:streamGenerateContent?alt=sse";
pub(super) const GEMINI_LIST: &str = "/v1beta/models/small:streamGenerateContent";

/// A form in which a stream comes.
pub(super) struct Form {
    pub(super) rules: Rules,
    pub(super) path: &'static str,
    call: Value,
    kind: &'static str,
    /// What comes first, and what asks for `shell`.
    pub(super) events: [String; 2],
    /// How the last event begins, behind which comes the reason.
    error: &'static str,
    /// How it ends.
    end: &'static str,
}

pub(super) fn forms() -> Vec<Form> {
    let sse = |event: Value| format!("data: {event}\r\n\r\n");
    let named = |event: Value| {
        let kind = event["type"].as_str().unwrap();
        format!("event: {kind}\ndata: {event}\n\n")
    };
    let line = |event: Value| format!("{event}\n");
    let gemini = |part: Value| json!({ "candidates": [{ "content": { "parts": [part] } }] });
    let calls =
        json!({ "id": "t", "type": "function", "function": { "name": "shell", "arguments": "" } });
    let ollama = |message: Value| json!({ "model": "small-1", "message": message, "done": false });
    vec![
        Form {
            rules: Rules::GeminiAsked,
            path: GEMINI,
            call: json!({ "contents": [] }),
            kind: "text/event-stream",
            events: [
                sse(gemini(json!({ "text": "x" }))),
                sse(gemini(
                    json!({ "functionCall": { "name": "shell", "args": {} } }),
                )),
            ],
            error: r#"data: {"error":{"code":403,"message":""#,
            end: "\",\"status\":\"PERMISSION_DENIED\"}}\n\n",
        },
        Form {
            rules: Rules::GeminiAsked,
            path: GEMINI_LIST,
            call: json!({ "contents": [] }),
            kind: "application/json",
            events: [
                format!("[{}", gemini(json!({ "text": "x" }))),
                format!(
                    ",\r\n{}",
                    gemini(json!({ "functionCall": { "name": "shell", "args": {} } }))
                ),
            ],
            error: r#",{"error":{"code":403,"message":""#,
            end: "\",\"status\":\"PERMISSION_DENIED\"}}]",
        },
        Form {
            rules: Rules::CohereAsked,
            path: "/v2/chat",
            call: json!({ "model": "small", "stream": true, "messages": [] }),
            kind: "text/event-stream",
            events: [
                named(json!({ "type": "content-delta", "index": 0,
                    "delta": { "message": { "content": { "text": "x" } } } })),
                named(json!({ "type": "tool-call-start", "index": 0,
                    "delta": { "message": { "tool_calls": calls } } })),
            ],
            error: "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"ERROR\",\"error\":\"",
            end: "\"}}\n\n",
        },
        Form {
            rules: Rules::OllamaAsked,
            path: "/api/chat",
            call: json!({ "model": "small", "messages": [] }),
            kind: "application/x-ndjson",
            events: [
                line(ollama(json!({ "role": "assistant", "content": "x" }))),
                line(ollama(json!({ "role": "assistant", "content": "",
                    "tool_calls": [{ "function": { "name": "shell", "arguments": {} } }] }))),
            ],
            error: r#"{"error":""#,
            end: "\"}\n",
        },
    ]
}

/// A call of which the upstream has got all, and begun to answer.
pub(super) async fn begun(world: &World, form: &Form) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    let body = form.call.to_string();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: api.example\r\nContent-Length: {}\r\n\r\n",
        form.path,
        body.len()
    );
    write(&mut client, format!("{head}{body}")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, body.len()).await;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        form.kind
    );
    write(&mut upstream, format!("{head}{}", chunk(&form.events[0]))).await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(read_chunk(&mut client).await, form.events[0]);
    (client, upstream)
}

pub(super) async fn read_chunk(client: &mut TcpStream) -> String {
    let size = read_until(client, "\r\n").await;
    let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
    let chunk = read_some(client, size + 2).await;
    String::from_utf8(chunk[..size].to_vec()).unwrap()
}

/// The rest of the answer is one event, which is the error for this reason, and its end.
pub(super) async fn ends(client: &mut TcpStream, form: &Form, reason: &str) {
    let last = read_chunk(client).await;
    assert!(last.starts_with(form.error), "{last}");
    assert!(last.ends_with(form.end), "{last}");
    assert!(last.contains(reason), "{last}");
    assert!(last.contains("(agentguard explain "), "{last}");
    assert!(!last.contains(r#""shell""#), "{last}");
    let data = match form.path {
        GEMINI_LIST => format!("{}{last}", form.events[0]),
        _ => last.rsplit("data: ").next().unwrap().to_owned(),
    };
    let _: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(read_until(client, "\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn a_stream_that_asks_for_what_is_denied_ends_with_an_error_of_its_provider_s() {
    for form in forms() {
        let world = by_name(form.rules).build().await;
        let (mut client, mut upstream) = begun(&world, &form).await;
        write(&mut upstream, chunk(&form.events[1])).await;
        ends(&mut client, &form, "No shell.").await;
        drop((client, upstream));
        refused(&world.end().await);
    }
}

/// The call's own record says by which decision it ended.
pub(super) fn ended(decisions: &[Decision]) {
    let mut calls = decisions
        .iter()
        .filter(|it| it.action.kind == ActionKind::LlmCall);
    let outcome = calls.next().unwrap().outcome.as_ref().unwrap();
    let error = outcome.error.as_deref().unwrap();
    assert!(error.starts_with("ended by decision "), "{error}");
}

#[tokio::test]
async fn a_stream_that_the_policy_comes_to_deny_ends_with_an_error_of_its_provider_s() {
    for form in forms() {
        let world = by_name(form.rules).build().await;
        let (mut client, upstream) = begun(&world, &form).await;
        world.change(Rules::Deny);
        ends(&mut client, &form, "No rule ").await;
        drop((client, upstream));
        ended(&world.end().await);
    }
}
