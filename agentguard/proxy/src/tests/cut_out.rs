//! Tool calls that a rule has cut out of answers: the rest is passed on.

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::asked_tools::{STREAM, called, chunk, events, whole};
use super::http::read_response;
use super::turns::{create, event, open, passes, read_event};
use super::{Rules, by_name, codes, read_all, read_some, read_until, write};

/// The call was allowed and one of the calls that it was answered with denied; the answer has come to its end.
pub(super) fn cut(decisions: &[Decision]) {
    let allow = (Verdict::Allow, ReasonCode::RuleAllow);
    let deny = (Verdict::Deny, ReasonCode::RuleDeny);
    let calls: Vec<Decision> = decisions
        .iter()
        .filter(|it| it.action.kind == ActionKind::LlmCall)
        .cloned()
        .collect();
    assert_eq!(codes(&calls), [allow, deny]);
    assert_eq!(calls[1].action.llm.as_ref().unwrap().asks, ["shell"]);
    let outcome = calls[0].outcome.as_ref().unwrap();
    let said = outcome.llm.as_ref().unwrap();
    assert_eq!(said.tool_calls[0].name, "shell");
    assert_eq!(said.cut, ["shell"]);
    assert_eq!(outcome.error, None);
}

fn json_answer(body: &str) -> String {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"1\"\r\nContent-Digest: sha-256=:AA==:\r\nContent-Length:";
    format!("{head} {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_call_is_cut_out_of_a_whole_answer() {
    let world = by_name(Rules::CallsCut).build().await;
    let (mut client, mut upstream) = called(&world, false).await;
    write(&mut upstream, json_answer(&whole("shell"))).await;
    let (head, answer) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for of_what_came in ["etag", "digest"] {
        let head = head.to_ascii_lowercase();
        assert!(!head.contains(of_what_came), "{head}");
    }
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], json!("stop"));
    assert_eq!(choice["message"]["tool_calls"], Value::Null);
    let said = choice["message"]["content"].as_str().unwrap();
    assert!(said.starts_with("No shell. (agentguard explain "), "{said}");
    drop((client, upstream));
    cut(&world.end().await);
}

/// In pieces of any size, with a length or without; the last event may have no end.
#[tokio::test]
async fn a_call_is_cut_out_of_a_stream() {
    for (piece, counted) in [(1, false), (1000, false), (1, true), (1000, true)] {
        let world = by_name(Rules::CallsCut).build().await;
        let (mut client, mut upstream) = called(&world, true).await;
        let [said, asks, done] = events("shell");
        let all = [said.as_str(), &asks, &done].concat();
        if counted {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length:";
            write(&mut upstream, format!("{head} {}\r\n\r\n", all.len())).await;
        } else {
            write(&mut upstream, STREAM).await;
        }
        for piece in all.as_bytes().chunks(piece) {
            let piece = std::str::from_utf8(piece).unwrap();
            let piece = if counted {
                piece.to_owned()
            } else {
                chunk(piece)
            };
            write(&mut upstream, piece).await;
        }
        if !counted {
            write(&mut upstream, "0\r\n\r\n").await;
        }
        let got = read_until(&mut client, "0\r\n\r\n").await;
        assert!(got.contains("[DONE]"), "{got}");
        assert!(
            got.contains("\"content\":\"\\n\\nNo shell. (agentguard explain "),
            "{got}"
        );
        assert!(!got.contains("tool_calls"), "{got}");
        drop((client, upstream));
        cut(&world.end().await);
    }
}

/// What another rule refuses is refused as a whole, also behind what was cut out.
#[tokio::test]
async fn what_another_rule_refuses_is_not_cut_out() {
    let world = by_name(Rules::CallsCut).build().await;
    let (mut client, mut upstream) = called(&world, true).await;
    write(&mut upstream, STREAM).await;
    let ([said, cut, _], [_, refused, _]) = (events("shell"), events("format"));
    let refused = refused.replace("\"index\":0,\"type\"", "\"index\":1,\"type\"");
    for event in [said, cut, refused] {
        write(&mut upstream, chunk(&event)).await;
    }
    let got = read_until(&mut client, "0\r\n\r\n").await;
    assert!(got.contains("No shell."), "{got}");
    assert!(
        got.contains("data: {\"error\":{\"message\":\"No format."),
        "{got}"
    );
    assert!(!got.contains("tool_calls"), "{got}");
    drop((client, upstream));
    let decisions = world.end().await;
    let denied = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
    let reasons: Vec<&str> = denied.map(|it| it.reason.message.as_str()).collect();
    assert_eq!(reasons, ["No shell.", "No format."]);
    let said = decisions[0].outcome.as_ref().unwrap().llm.as_ref().unwrap();
    assert_eq!(said.cut, ["shell"]);
}

/// Where it cannot be cut out the answer is refused.
#[tokio::test]
async fn what_cannot_be_cut_out_is_refused() {
    let nameless = json!({ "choices": [{ "index": 0, "delta": {
        "tool_calls": [{ "index": 0, "function": { "arguments": "{}" } }] } }] });
    let unread = "{\"choices\":[],\"choices\":[]}".to_owned();
    for (kind, body) in [
        ("text/event-stream", format!("data: {nameless}\n\n")),
        ("application/json", unread),
        ("text/html", whole("shell")),
        ("text/event-stream", format!("{}\n\n", whole("shell"))),
    ] {
        let world = by_name(Rules::CallsCut).build().await;
        let (mut client, mut upstream) = called(&world, true).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length:");
        write(
            &mut upstream,
            format!("{head} {}\r\n\r\n{body}", body.len()),
        )
        .await;
        drop(upstream);
        client.shutdown().await.unwrap();
        let got = read_all(&mut client).await.unwrap_or_default();
        let got = String::from_utf8(got).unwrap();
        assert!(got.contains("No shell."), "{kind} {got}");
        assert!(!got.contains("choices"), "{kind} {got}");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(decisions[1].reason.code, ReasonCode::RuleDeny, "{kind}");
        assert!(decisions[1].action.llm.as_ref().unwrap().asks_unread);
    }
}

#[tokio::test]
async fn a_call_is_cut_out_on_a_websocket() {
    let world = by_name(Rules::CallsCut).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let call = create("small", "look");
    write(&mut client, &call).await;
    passes(&mut upstream, &call).await;
    let created = event(&json!({ "type": "response.created", "response": { "model": "m" } }));
    write(&mut upstream, &created).await;
    passes(&mut client, &created).await;
    let item = json!({ "type": "function_call", "id": "fc_1", "call_id": "c1", "name": "shell",
        "arguments": "{}" });
    let of = |kind: &str| event(&json!({ "type": kind, "output_index": 0, "item": item }));
    let more = json!({ "type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}" });
    write(&mut upstream, of("response.output_item.added")).await;
    write(&mut upstream, event(&more)).await;
    write(&mut upstream, of("response.output_item.done")).await;
    let completed = json!({ "type": "response.completed", "response": {
        "model": "m", "status": "completed", "output": [item] } });
    write(&mut upstream, event(&completed)).await;
    let mut kinds = Vec::new();
    let completed = loop {
        let event = read_event(&mut client).await;
        assert!(!event.to_string().contains("shell\""), "{event}");
        kinds.push(event["type"].as_str().unwrap().to_owned());
        if event["type"] == "response.completed" {
            break event;
        }
    };
    assert_eq!(
        kinds,
        [
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let said = &completed["response"]["output"][0]["content"][0]["text"];
    let said = said.as_str().unwrap();
    assert!(said.starts_with("No shell. (agentguard explain "), "{said}");
    // The connection goes on.
    write(&mut client, &call).await;
    passes(&mut upstream, &call).await;
    drop((client, upstream));
    let decisions = world.end().await;
    cut(&decisions[..decisions.len() - 1]);
}

/// What a stream says before and after passes as it came, byte for byte.
#[tokio::test]
async fn what_is_not_cut_passes_as_it_came() {
    let world = by_name(Rules::CallsCut).build().await;
    let (mut client, mut upstream) = called(&world, true).await;
    write(&mut upstream, STREAM).await;
    let [said, asks, done] = events("look");
    let all = [": a comment\n\n", &said, &asks, "id: 7\r", &done].concat();
    write(&mut upstream, format!("{}0\r\n\r\n", chunk(&all))).await;
    read_until(&mut client, "\r\n\r\n").await;
    let mut got = String::new();
    while got.len() < all.len() {
        let size = read_until(&mut client, "\r\n").await;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let piece = read_some(&mut client, size).await;
        got.push_str(std::str::from_utf8(&piece).unwrap());
        read_until(&mut client, "\r\n").await;
    }
    assert_eq!(got, all);
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [(Verdict::Allow, ReasonCode::RuleAllow)]);
}
