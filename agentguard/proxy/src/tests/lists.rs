//! Google's stream without `alt=sse`, which is one list: where it must stop in the middle it ends with an item that is the
//! error, and with its bracket.

use agentguard_model::{ReasonCode, Verdict};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, Response};
use serde_json::{Value, json};
use std::io::Write as _;
use tokio::net::TcpStream;

use super::asked_tools::{chunk, refused};
use super::inspect::NAME;
use super::mid_stream::{ended, read_chunk};
use super::{Rules, World, by_name, codes, cut_out, read_all, read_some, read_until, soon, write};

/// Of a model that shows all that it writes, so that this is counted.
const PATH: &str = "/v1beta/models/gemini-2.0-flash:streamGenerateContent";

const CHUNKED: &str = "Transfer-Encoding: chunked";

/// The upstream has got the call, and answers with these fields and the beginning of a list.
async fn begun(world: &World, fields: &str, beginning: &[u8]) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    let call = json!({ "generationConfig": { "maxOutputTokens": 64000 } }).to_string();
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: api.example\r\nContent-Length:");
    write(&mut client, format!("{head} {}\r\n\r\n{call}", call.len())).await;
    let mut upstream = world.accept().await;
    // Of a budget's call the limit may be lower.
    read_until(&mut upstream, "}}").await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}\r\n\r\n");
    write(&mut upstream, [head.as_bytes(), beginning].concat()).await;
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    (client, upstream)
}

fn item(part: &Value) -> Value {
    json!({ "candidates": [{ "content": { "parts": [part] } }] })
}

fn text() -> Value {
    item(&json!({ "text": "one, two, three" }))
}

fn calls(tool: &str) -> Value {
    item(&json!({ "functionCall": { "name": tool, "args": {} } }))
}

/// The last of these items is the error for this reason, with this status.
fn is_error(list: &Value, status: (u16, &str), reason: &str) {
    let error = &list.as_array().unwrap().last().unwrap()["error"];
    assert_eq!(error["code"], status.0, "{list}");
    assert_eq!(error["status"], status.1, "{list}");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with(reason), "{message}");
    assert!(message.contains("(agentguard explain "), "{message}");
}

/// The chunks up to the end of the answer.
async fn read_chunks(client: &mut TcpStream) -> String {
    let mut all = String::new();
    loop {
        let chunk = read_chunk(client).await;
        if chunk.is_empty() {
            return all;
        }
        all += &chunk;
    }
}

#[tokio::test]
async fn a_list_ends_with_an_error_wherever_it_stands_between_items() {
    let item = text();
    for (beginning, items) in [
        (String::new(), 0),
        ("[".to_owned(), 0),
        ("[\r\n".to_owned(), 0),
        (format!("[{item}"), 1),
        (format!("[{item}\n"), 1),
        (format!("[{item},\r\n"), 1),
        (format!("[{item},{item}"), 2),
    ] {
        let world = by_name(Rules::CallsByPath).build().await;
        let came = match beginning.as_str() {
            "" => String::new(),
            some => chunk(some),
        };
        let (mut client, upstream) = begun(&world, CHUNKED, came.as_bytes()).await;
        if !came.is_empty() {
            assert_eq!(read_chunk(&mut client).await, beginning);
        }
        world.change(Rules::Deny);
        let rest = read_chunks(&mut client).await;
        let list: Value = serde_json::from_str(&format!("{beginning}{rest}")).unwrap();
        assert_eq!(list.as_array().unwrap().len(), items + 1, "{list}");
        is_error(&list, (403, "PERMISSION_DENIED"), "No rule ");
        drop((client, upstream));
        ended(&world.end().await);
    }
}

/// Behind its bracket the client has all of it.
#[tokio::test]
async fn a_list_that_has_its_end_ends() {
    let world = by_name(Rules::CallsByPath).build().await;
    let whole = format!("[{}]", text());
    let (mut client, upstream) = begun(&world, CHUNKED, chunk(&whole).as_bytes()).await;
    assert_eq!(read_chunk(&mut client).await, whole);
    world.change(Rules::Deny);
    assert_eq!(read_chunks(&mut client).await, "");
    drop((client, upstream));
    ended(&world.end().await);
}

/// Within an item there is no place for an error, nor within a coding: it breaks off, which no client takes for a whole one.
#[tokio::test]
async fn a_list_breaks_off_within_an_item() {
    let half = r#"[{"candidates":[{"content":{}}]"#;
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    write!(packed, "[{}", text()).unwrap();
    packed.flush().unwrap();
    let packed = packed.get_ref().clone();
    for (fields, beginning) in [
        (CHUNKED.to_owned(), half.as_bytes().to_vec()),
        (
            CHUNKED.to_owned(),
            br#"[{"candidates":[]},{"candidates":[],"candidates":[]}"#.to_vec(),
        ),
        (format!("{CHUNKED}\r\nContent-Encoding: gzip"), packed),
    ] {
        let world = by_name(Rules::CallsByPath).build().await;
        let size = format!("{:X}\r\n", beginning.len());
        let came = [size.as_bytes(), &beginning, b"\r\n"].concat();
        let (mut client, upstream) = begun(&world, &fields, &came).await;
        assert_eq!(read_some(&mut client, came.len()).await, came);
        world.change(Rules::Deny);
        let rest = read_all(&mut client).await.unwrap_or_default();
        assert!(rest.is_empty(), "{rest:?}");
        drop((client, upstream));
        ended(&world.end().await);
    }
}

/// Its length was told before it by its server, and is not by the guard: it may come to be another.
#[tokio::test]
async fn a_list_of_a_told_length_ends_with_an_error_as_well() {
    let list = format!("[{},\n{}]", text(), calls("shell"));
    let length = format!("Content-Length: {}", list.len());
    for (rules, came) in [
        (Rules::GeminiAsked, list.len()),
        (Rules::CallsByPath, list.find('\n').unwrap()),
    ] {
        let world = by_name(rules).build().await;
        let (mut client, upstream) = begun(&world, &length, &list.as_bytes()[..came]).await;
        let first = read_chunk(&mut client).await;
        assert!(list.starts_with(&first), "{first}");
        let reason = match rules {
            Rules::GeminiAsked => "No shell.",
            _ => {
                world.change(Rules::Deny);
                "No rule "
            }
        };
        let rest = read_chunks(&mut client).await;
        let told: Value = serde_json::from_str(&format!("{first}{rest}")).unwrap();
        assert_eq!(told.as_array().unwrap().len(), 2, "{told}");
        is_error(&told, (403, "PERMISSION_DENIED"), reason);
        drop((client, upstream));
        world.end().await;
    }
}

/// Where rules look at what is asked for, an item goes on as it comes, and the list ends before the one that asks.
#[tokio::test]
async fn a_list_that_asks_for_what_is_denied_ends_with_an_error_over_http2() {
    let world = by_name(Rules::GeminiAsked).build().await;
    let (mut client, driver) = h2::client::handshake(world.connect().await).await.unwrap();
    tokio::spawn(driver);
    let target = format!("http://{NAME}:{}{PATH}", world.port());
    let request = Request::post(target).body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"{}"), true).unwrap();
    let mut upstream = h2::server::handshake(world.accept().await).await.unwrap();
    let (_, mut respond) = soon(upstream.accept()).await.unwrap().unwrap();
    let serving = tokio::spawn(async move { while upstream.accept().await.is_some() {} });
    let head = Response::builder().header("content-type", "application/json");
    let head = head.body(()).unwrap();
    let mut writing = respond.send_response(head, false).unwrap();
    let mut all = Vec::new();
    let first = format!("[{}", text());
    writing.send_data(first.clone().into(), false).unwrap();
    let mut read = soon(answer).await.unwrap().into_body();
    all.extend(soon(read.data()).await.unwrap().unwrap());
    assert_eq!(all, first.as_bytes());
    writing
        .send_data(format!(",{}", calls("shell")).into(), false)
        .unwrap();
    // It ends as any does, and is not reset.
    while let Some(data) = soon(read.data()).await {
        all.extend(data.unwrap());
    }
    assert!(read.is_end_stream());
    let list: Value = serde_json::from_slice(&all).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");
    is_error(&list, (403, "PERMISSION_DENIED"), "No shell.");
    drop((client, read, body));
    serving.abort();
    refused(&world.end().await);
}

#[tokio::test]
async fn a_list_ends_with_an_error_where_its_budget_does() {
    let world = by_name(Rules::GeminiFew).build().await;
    let came = format!("[{}", text()) + &format!(",\n{}", text()).repeat(899);
    let (mut client, upstream) = begun(&world, CHUNKED, chunk(&came).as_bytes()).await;
    let list: Value = serde_json::from_str(&read_chunks(&mut client).await).unwrap();
    let items = list.as_array().unwrap();
    // By its bytes, as nothing else is known of this model's tokens.
    assert!((2..=150).contains(&items.len()), "{}", items.len());
    assert!(items[..items.len() - 1].iter().all(|it| *it == text()));
    is_error(&list, (429, "RESOURCE_EXHAUSTED"), "");
    let details = items.last().unwrap()["error"]["details"].to_string();
    assert!(details.contains("google.rpc.QuotaFailure"), "{details}");
    drop((client, upstream));
    let decisions = world.end().await;
    let denied = decisions.iter().find(|it| it.verdict == Verdict::Deny);
    assert_eq!(denied.unwrap().reason.code, ReasonCode::BudgetExhausted);
    let line = &decisions[0].outcome.as_ref().unwrap().budget[0];
    assert!(line.settled.unwrap() >= 300, "{line:?}");
}

/// What is left is a list, as it comes: in pieces of any size, with a length or without.
#[tokio::test]
async fn a_call_is_cut_out_of_a_list() {
    let list = json!([text(), calls("shell"), text()]);
    for (piece, counted) in [(1, false), (1000, false), (1, true), (1000, true)] {
        let world = by_name(Rules::GeminiCut).build().await;
        let came = list.to_string();
        let length = format!("Content-Length: {}", came.len());
        let fields = if counted { &length } else { CHUNKED };
        let (mut client, mut upstream) = begun(&world, fields, b"").await;
        for piece in came.as_bytes().chunks(piece) {
            let piece = std::str::from_utf8(piece).unwrap();
            let piece = match counted {
                true => piece.to_owned(),
                false => chunk(piece),
            };
            write(&mut upstream, piece).await;
        }
        if !counted {
            write(&mut upstream, "0\r\n\r\n").await;
        }
        let got: Value = serde_json::from_str(&read_chunks(&mut client).await).unwrap();
        let part = &got[1]["candidates"][0]["content"]["parts"][0]["text"];
        assert!(
            part.as_str()
                .unwrap()
                .starts_with("No shell. (agentguard explain "),
            "{got}"
        );
        assert_eq!((&got[0], &got[2]), (&text(), &text()));
        assert_eq!(got.as_array().unwrap().len(), 3);
        drop((client, upstream));
        cut_out::cut(&world.end().await);
    }
}

/// An answer that is no list, in the place of one, is one document.
#[tokio::test]
async fn a_document_in_the_place_of_a_list_passes_or_does_not() {
    let call = calls("shell").to_string();
    for (rules, error) in [(Rules::CallsByPath, false), (Rules::GeminiAsked, true)] {
        let world = by_name(rules).build().await;
        let answer = chunk(&call) + "0\r\n\r\n";
        let (mut client, upstream) = begun(&world, CHUNKED, answer.as_bytes()).await;
        let told = read_chunks(&mut client).await;
        if error {
            is_error(
                &serde_json::from_str(&told).unwrap(),
                (403, "PERMISSION_DENIED"),
                "No shell.",
            );
        } else {
            assert_eq!(told, call);
        }
        drop((client, upstream));
        let decisions = world.end().await;
        let first = codes(&decisions)[0];
        assert_eq!(first, (Verdict::Allow, ReasonCode::RuleAllow));
    }
}
