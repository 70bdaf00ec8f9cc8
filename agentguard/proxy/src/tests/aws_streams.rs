//! Answers in AWS's event streams that are decided before they are passed on, message by message.

use agentguard_model::{ReasonCode, Verdict};
use agentguard_protocol::eventstream::{message, messages};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::asked_tools::refused;
use super::cut_out::cut;
use super::{Rules, World, by_name, codes, read_all, read_some, read_until, write};

const CONVERSE: &str = "/model/us.anthropic.claude-x/converse-stream";

const INVOKE: &str = "/model/us.anthropic.claude-x/invoke-with-response-stream";

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\n";

/// A call of which the upstream has got all.
async fn called(world: &World, path: &str) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    let body = match path {
        INVOKE => json!({ "anthropic_version": "x", "max_tokens": 9, "messages": [] }),
        _ => json!({ "messages": [] }),
    };
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.1\r\nHost: api.example\r\nContent-Length:");
    write(&mut client, format!("{head} {}\r\n\r\n{body}", body.len())).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, body.len()).await;
    (client, upstream)
}

fn event(kind: &str, data: &Value) -> Vec<u8> {
    let headers = [(":event-type", kind), (":message-type", "event")];
    message(&headers, data.to_string().as_bytes()).unwrap()
}

/// A text, a call of this tool, and the end.
fn events(path: &str, tool: &str) -> [Vec<u8>; 3] {
    if path == INVOKE {
        let chunk = |data: Value| {
            let bytes = STANDARD.encode(data.to_string());
            event("chunk", &json!({ "bytes": bytes }))
        };
        let block = |index: u64, block: Value| {
            chunk(json!({ "type": "content_block_start", "index": index, "content_block": block }))
        };
        let delta = json!({ "stop_reason": "tool_use" });
        return [
            block(0, json!({ "type": "text", "text": "x" })),
            block(
                1,
                json!({ "type": "tool_use", "id": "t", "name": tool, "input": {} }),
            ),
            chunk(json!({ "type": "message_delta", "delta": delta })),
        ];
    }
    let said = json!({ "contentBlockIndex": 0, "delta": { "text": "x" } });
    let call = json!({ "toolUse": { "toolUseId": "t", "name": tool } });
    let call = json!({ "contentBlockIndex": 1, "start": call });
    [
        event("contentBlockDelta", &said),
        event("contentBlockStart", &call),
        event("messageStop", &json!({ "stopReason": "tool_use" })),
    ]
}

async fn write_chunk(stream: &mut TcpStream, bytes: &[u8]) {
    write(stream, format!("{:x}\r\n", bytes.len())).await;
    write(stream, bytes).await;
    write(stream, "\r\n").await;
}

/// Chunks until there are so many bytes of them, or to the last.
async fn read_chunks(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let size = read_until(stream, "\r\n").await;
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let chunk = read_some(stream, size + 2).await;
        if size == 0 {
            break;
        }
        all.extend_from_slice(&chunk[..size]);
    }
    all
}

/// The denial for this reason, and nothing else.
fn denial(went: &[u8], reason: &str) {
    let [last] = messages(went).unwrap()[..] else {
        panic!("it is one message");
    };
    assert_eq!(last.head.message, Some("exception"));
    assert_eq!(last.head.exception, Some("validationException"));
    let told: Value = serde_json::from_slice(last.payload).unwrap();
    let told = told["message"].as_str().unwrap();
    assert!(told.starts_with(reason), "{told}");
    assert!(told.contains(" (agentguard explain "), "{told}");
}

/// Clients wait for the first one, and ask again.
#[tokio::test]
async fn a_message_does_not_wait_for_the_next() {
    for (rules, path) in [
        (Rules::AwsAsked, CONVERSE),
        (Rules::AwsCut, CONVERSE),
        (Rules::AwsAsked, INVOKE),
        (Rules::AwsCut, INVOKE),
    ] {
        let world = by_name(rules).build().await;
        let (mut client, mut upstream) = called(&world, path).await;
        let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
        write(&mut upstream, head).await;
        let head = read_until(&mut client, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        for event in events(path, "look") {
            write_chunk(&mut upstream, &event).await;
            assert_eq!(read_chunks(&mut client, event.len()).await, event);
        }
        write(&mut upstream, "0\r\n\r\n").await;
        read_until(&mut client, "0\r\n\r\n").await;
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [(Verdict::Allow, ReasonCode::RuleAllow)]);
        let outcome = decisions[0].outcome.as_ref().unwrap();
        let said = outcome.llm.as_ref().unwrap();
        assert_eq!(said.tool_calls[0].name, "look");
        assert_eq!((&outcome.messages, &outcome.error), (&None, &None));
    }
}

#[tokio::test]
async fn an_exception_is_the_end_of_a_stream() {
    for path in [CONVERSE, INVOKE] {
        let world = by_name(Rules::AwsAsked).build().await;
        let (mut client, mut upstream) = called(&world, path).await;
        let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
        write(&mut upstream, head).await;
        read_until(&mut client, "\r\n\r\n").await;
        let [said, asks, _] = events(path, "shell");
        write_chunk(&mut upstream, &said).await;
        assert_eq!(read_chunks(&mut client, said.len()).await, said);
        write_chunk(&mut upstream, &asks).await;
        let rest = read_chunks(&mut client, usize::MAX).await;
        denial(&rest, "No shell.");
        drop((client, upstream));
        refused(&world.end().await);
    }
}

/// In pieces of any size, with a length or without.
#[tokio::test]
async fn a_call_is_cut_out_of_a_stream_of_messages() {
    for (path, piece, counted) in [
        (CONVERSE, 1, false),
        (CONVERSE, 1000, true),
        (INVOKE, 1, true),
        (INVOKE, 1000, false),
    ] {
        let world = by_name(Rules::AwsCut).build().await;
        let (mut client, mut upstream) = called(&world, path).await;
        let events = events(path, "shell");
        let all = events.concat();
        if counted {
            let head = format!("{HEAD}Content-Length: {}\r\n\r\n", all.len());
            write(&mut upstream, head).await;
            for piece in all.chunks(piece) {
                write(&mut upstream, piece).await;
            }
        } else {
            let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
            write(&mut upstream, head).await;
            for piece in all.chunks(piece) {
                write_chunk(&mut upstream, piece).await;
            }
            write(&mut upstream, "0\r\n\r\n").await;
        }
        read_until(&mut client, "\r\n\r\n").await;
        let got = read_chunks(&mut client, usize::MAX).await;
        let said = got.strip_prefix(events[0].as_slice()).unwrap();
        let said = messages(said).unwrap().into_iter().map(|it| {
            let data: Value = serde_json::from_slice(it.payload).unwrap();
            let inner = data["bytes"]
                .as_str()
                .map(|it| STANDARD.decode(it).unwrap());
            inner.map_or(data, |it| serde_json::from_slice(&it).unwrap())
        });
        let said = said.map(|it| it.to_string()).collect::<String>();
        assert!(said.contains("No shell. (agentguard explain "), "{said}");
        assert!(said.contains("end_turn"), "{said}");
        assert!(!said.contains("\"shell\""), "{said}");
        drop((client, upstream));
        cut(&world.end().await);
    }
}

/// It may ask for anything.
#[tokio::test]
async fn a_message_that_cannot_be_read_ends_its_stream() {
    let [said, asks, over] = events(CONVERSE, "look");
    let mut changed = asks.clone();
    *changed.last_mut().unwrap() ^= 1;
    let text = "x".repeat(1024 * 1024);
    let long = json!({ "contentBlockIndex": 0, "delta": { "text": text } });
    let long = event("contentBlockDelta", &long);
    let unfinished = asks[..asks.len() - 1].to_vec();
    for (unread, rest) in [
        (changed, over.clone()),
        (long, over),
        (unfinished, Vec::new()),
    ] {
        for rules in [Rules::AwsAsked, Rules::AwsCut] {
            let world = by_name(rules).build().await;
            let (mut client, mut upstream) = called(&world, CONVERSE).await;
            let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
            write(&mut upstream, head).await;
            write_chunk(&mut upstream, &said).await;
            read_until(&mut client, "\r\n\r\n").await;
            assert_eq!(read_chunks(&mut client, said.len()).await, said);
            let sent = [unread.as_slice(), &rest].concat();
            let size = format!("{:x}\r\n", sent.len());
            let sent = [size.as_bytes(), &sent, b"\r\n0\r\n\r\n"].concat();
            let got = read_chunks(&mut client, usize::MAX);
            // The answer may be over before all of it is written.
            let (got, _) = tokio::join!(got, upstream.write_all(&sent));
            denial(&got, "No shell.");
            drop((client, upstream));
            let decisions = world.end().await;
            let allow = (Verdict::Allow, ReasonCode::RuleAllow);
            let deny = (Verdict::Deny, ReasonCode::RuleDeny);
            assert_eq!(codes(&decisions), [allow, deny]);
            assert!(decisions[1].action.llm.as_ref().unwrap().asks_unread);
        }
    }
}

/// Between two messages, also where another one has begun that waits to be whole; in the middle of one that goes on as it
/// comes it would be read as part of that.
#[tokio::test]
async fn a_stream_that_is_denied_now_ends_with_an_exception() {
    for (rules, begun, told) in [
        (Rules::AwsAsked, 0, true),
        (Rules::AwsAsked, 20, true),
        (Rules::AwsUnread, 0, true),
        (Rules::AwsUnread, 20, false),
    ] {
        let world = by_name(rules).build().await;
        let (mut client, mut upstream) = called(&world, CONVERSE).await;
        let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
        write(&mut upstream, head).await;
        let [said, more, _] = events(CONVERSE, "look");
        write_chunk(&mut upstream, &[&said, &more[..begun]].concat()).await;
        read_until(&mut client, "\r\n\r\n").await;
        let goes = if told { 0 } else { begun };
        let got = read_chunks(&mut client, said.len() + goes).await;
        assert_eq!(got.len(), said.len() + goes);
        world.change(Rules::Deny);
        if told {
            let rest = read_chunks(&mut client, usize::MAX).await;
            denial(&rest, "No rule");
        } else {
            assert_eq!(read_all(&mut client).await.unwrap_or_default(), b"");
        }
        drop((client, upstream));
        world.end().await;
    }
}
