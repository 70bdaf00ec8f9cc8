//! Calls of language models, which are read before they are decided.

use std::io::Write as _;

use agentguard_model::{ActionKind, ClaimSource, ReasonCode, Verdict};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::FutureExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::http::read_response;
use super::{Rules, by_name, codes, read_all, read_some, read_until, write};

fn call(fields: &str) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nHost: api.example\r\n{fields}\r\n")
}

pub(super) fn sized(body: &[u8], more: &str) -> Vec<u8> {
    let length = format!("Content-Length: {}\r\n{more}", body.len());
    let mut message = call(&length).into_bytes();
    message.extend_from_slice(body);
    message
}

pub(super) fn packed(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A call of more than one piece that is held.
fn long(model: &str, tool: &str) -> String {
    let said = "word ".repeat(60_000);
    format!(
        r#"{{"messages":[{{"role":"user","content":"{said}"}}],"tools":[{{"type":"function","function":{{"name":"{tool}"}}}}],"model":"{model}"}}"#
    )
}

const ANSWER: &str = r#"{"model":"small-1","choices":[{"index":0,"finish_reason":"stop","message":{"content":"x"}}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;

#[tokio::test]
async fn a_call_is_sent_as_it_came_once_it_was_read() {
    let plain = long("small", "look").into_bytes();
    for (body, coding) in [
        (plain.clone(), ""),
        (packed(&plain), "Content-Encoding: gzip\r\n"),
    ] {
        let world = by_name(Rules::Calls).build().await;
        let mut client = world.connect().await;
        write(&mut client, sized(&body, coding)).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        assert!(read_some(&mut upstream, body.len()).await == body);
        let fields = "Content-Type: application/json\r\nContent-Length:";
        let answer = format!(
            "HTTP/1.1 200 OK\r\n{fields} {}\r\n\r\n{ANSWER}",
            ANSWER.len()
        );
        write(&mut upstream, answer).await;
        assert_eq!(read_response(&mut client).await.1, ANSWER);
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [(Verdict::Allow, ReasonCode::RuleAllow)]);
        let action = &decisions[0].action;
        assert_eq!(action.kind, ActionKind::LlmCall);
        let llm = action.llm.as_ref().unwrap();
        assert_eq!(llm.provider, "ours");
        assert_eq!(llm.model.as_deref(), Some("small"));
        assert_eq!(llm.tools, ["look"]);
        // Packed content counts as what is in it.
        assert_eq!(action.body, Some(plain.len() as u64));
        let told = decisions[0].outcome.as_ref().unwrap().llm.as_ref().unwrap();
        assert_eq!(told.model.as_deref(), Some("small-1"));
        assert_eq!(told.usage.unwrap().input_tokens, Some(7));
        assert_eq!(told.finish_reason.as_deref(), Some("stop"));
    }
}

/// As `curl -d` sends it.
#[tokio::test]
async fn json_that_is_said_to_be_a_form_passes_where_its_server_reads_no_forms() {
    let body = r#"{"model":"small","prompt":"a & b; c"}"#;
    for (path, passes) in [("/api/generate", true), ("/v1/completions", false)] {
        let world = by_name(Rules::OllamaAsked).build().await;
        let mut client = world.connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: api.example\r\n");
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        let length = body.len();
        write(
            &mut client,
            format!("{head}{kind}Content-Length: {length}\r\n\r\n{body}"),
        )
        .await;
        if passes {
            let mut upstream = world.accept().await;
            read_until(&mut upstream, "\r\n\r\n").await;
            assert!(read_some(&mut upstream, length).await == body.as_bytes());
            write(
                &mut upstream,
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
        }
        let (head, _) = read_response(&mut client).await;
        let status = if passes { "200" } else { "403" };
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        drop(client);
        let expected = match passes {
            true => (Verdict::Allow, ReasonCode::RuleAllow),
            false => (Verdict::Deny, ReasonCode::NotUnderstood),
        };
        assert_eq!(codes(&world.end().await), [expected]);
    }
}

/// What is signed would not be taken with another value.
#[tokio::test]
async fn an_answer_without_a_coding_is_asked_for_where_that_is_not_signed() {
    let signed = |names: &str| {
        format!(
            "Accept-Encoding: gzip\r\nAuthorization: AWS4-HMAC-SHA256 Credential=x, SignedHeaders={names}, Signature=y\r\n"
        )
    };
    for (path, fields, sent) in [
        ("", "Accept-Encoding: gzip\r\n".to_owned(), "identity"),
        ("", signed("accept;host"), "identity"),
        ("", signed("accept;accept-encoding;host"), "gzip"),
        (
            "?X-Amz-SignedHeaders=accept-encoding%3Bhost",
            "Accept-Encoding: gzip\r\n".to_owned(),
            "gzip",
        ),
    ] {
        let world = by_name(Rules::Calls).build().await;
        let mut client = world.connect().await;
        let body = br#"{"model":"small"}"#;
        let message = String::from_utf8(sized(body, &fields)).unwrap();
        let target = format!("/v1/chat/completions{path} ");
        write(
            &mut client,
            message.replace("/v1/chat/completions ", &target),
        )
        .await;
        let mut upstream = world.accept().await;
        let head = read_until(&mut upstream, "\r\n\r\n").await;
        let field = format!("accept-encoding: {sent}\r\n");
        assert!(
            head.to_ascii_lowercase().contains(&field),
            "{fields} {head}"
        );
        drop((client, upstream));
        world.end().await;
    }
}

#[tokio::test]
async fn what_is_denied_is_told_in_the_providers_form_and_nothing_of_it_leaves() {
    let other = long("large", "look");
    let shell = long("small", "shell");
    let twice = r#"{"model":"small","model":"large"}"#;
    for (body, code, told) in [
        (other.as_str(), ReasonCode::NoRule, "No rule allows"),
        (&shell, ReasonCode::RuleDeny, "No shell."),
        // What cannot be read in one way only may offer it, and no rule is to blame.
        (twice, ReasonCode::NotUnderstood, "cannot be read"),
        ("{}", ReasonCode::NoRule, "No rule allows"),
    ] {
        let world = by_name(Rules::Calls).build().await;
        let mut client = world.connect().await;
        if body.len() < 100 {
            write(&mut client, call("Transfer-Encoding: chunked\r\n")).await;
            for byte in body.chars() {
                write(&mut client, format!("1\r\n{byte}\r\n")).await;
            }
            write(&mut client, "0\r\n\r\n").await;
        } else {
            write(&mut client, sized(body.as_bytes(), "")).await;
        }
        let (head, answer) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(answer.starts_with(r#"{"error":{"message":""#), "{answer}");
        assert!(answer.contains(told), "{answer}");
        assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [(Verdict::Deny, code)]);
        assert_eq!(decisions[0].action.kind, ActionKind::LlmCall);
        assert!(answer.contains(&decisions[0].id.to_string()), "{answer}");
    }
}

/// Nothing was decided: nothing of it has left.
#[tokio::test]
async fn a_client_that_breaks_off_its_call_has_sent_nothing() {
    let world = by_name(Rules::Calls).build().await;
    let mut client = world.connect().await;
    write(&mut client, call("Content-Length: 100\r\n")).await;
    write(&mut client, r#"{"model":"small""#).await;
    client.shutdown().await.unwrap();
    // The proxy has ended the connection.
    let _ = read_all(&mut client).await;
    assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
    drop(client);
    let decisions = world.end().await;
    assert!(decisions.iter().all(|it| it.verdict == Verdict::Deny));
}

#[tokio::test]
async fn a_call_that_is_framed_in_two_ways_is_refused() {
    let world = by_name(Rules::Calls).build().await;
    let mut client = world.connect().await;
    write(&mut client, call("Transfer-Encoding: chunked\r\n")).await;
    write(&mut client, "2\r\n{}\r\nx\r\n").await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    drop(client);
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [(Verdict::Deny, ReasonCode::HttpMalformed)]
    );
    assert_eq!(decisions[0].action.kind, ActionKind::LlmCall);
}

/// One for calls that nobody reads there, and one that no rule allows.
#[tokio::test]
async fn a_handshake_of_websocket_to_where_calls_go_is_told_to_use_https() {
    for (rules, path, code) in [
        (
            Rules::CallsUnread,
            "/v1/chat/completions",
            ReasonCode::NotUnderstood,
        ),
        (Rules::CallsByPost, "/v1/responses", ReasonCode::NoRule),
        // Which model its calls would be for is not known.
        (
            Rules::Calls,
            "/v1/responses?model=large",
            ReasonCode::NotUnderstood,
        ),
        (
            Rules::Calls,
            "/engines/large/responses",
            ReasonCode::NotUnderstood,
        ),
    ] {
        let world = by_name(rules).build().await;
        let mut client = world.connect().await;
        let handshake = format!(
            "GET {path} HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        write(&mut client, handshake).await;
        let (head, answer) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
        let fields = head.to_ascii_lowercase();
        assert!(fields.contains("\r\nupgrade: http/1.1\r\n"), "{head}");
        assert!(answer.contains("agentguard explain"), "{answer}");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [(Verdict::Deny, code)]);
    }
}

/// A streamed call, with what its server has said of the answer.
async fn streamed(world: &super::World, fields: &str, said: &str) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    let body = br#"{"model":"small","stream":true}"#;
    write(&mut client, sized(body, "Accept-Encoding: br, gzip\r\n")).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\naccept-encoding: identity\r\n"), "{head}");
    read_some(&mut upstream, body.len()).await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{fields}\r\n\r\n");
    write(&mut upstream, format!("{head}{said}")).await;
    read_until(&mut client, "\r\n\r\n").await;
    (client, upstream)
}

#[tokio::test]
async fn a_stream_that_is_denied_now_ends_with_an_error_of_its_provider_s() {
    let world = by_name(Rules::Calls).build().await;
    let event = "data: {\"choices\":[]}\n\n";
    let said = format!("{:x}\r\n{event}\r\n", event.len());
    let (mut client, upstream) = streamed(&world, "Transfer-Encoding: chunked", &said).await;
    read_until(&mut client, "\n\n\r\n").await;
    world.change(Rules::Deny);
    let rest = read_all(&mut client).await.unwrap();
    let rest = String::from_utf8(rest).unwrap();
    assert!(
        rest.contains("data: {\"error\":{\"message\":\"No rule"),
        "{rest}"
    );
    // Which is the end of the answer, and not of the connection.
    assert!(rest.ends_with("\n\n\r\n0\r\n\r\n"), "{rest}");
    drop((client, upstream));
    let decisions = world.end().await;
    let error = decisions[0].outcome.as_ref().unwrap().error.as_deref();
    assert!(
        error.unwrap().starts_with("ended by decision "),
        "{error:?}"
    );
}

/// Nobody would take it for an error there.
#[tokio::test]
async fn in_the_middle_of_an_event_or_of_a_counted_answer_no_error_can_be_said() {
    let event = "data: {\"choices\":[]}\n\n";
    for (fields, said) in [
        (
            "Transfer-Encoding: chunked",
            "8\r\ndata: {\"\r\n".to_owned(),
        ),
        ("Content-Length: 1000", event.to_owned()),
    ] {
        let world = by_name(Rules::Calls).build().await;
        let (mut client, upstream) = streamed(&world, fields, &said).await;
        read_some(&mut client, said.len()).await;
        world.change(Rules::Deny);
        let rest = read_all(&mut client).await;
        let rest = rest.unwrap_or_default();
        assert!(!String::from_utf8(rest).unwrap().contains("error"));
        drop((client, upstream));
        world.end().await;
    }
}

/// What is claimed is recorded, and counts for nothing unless the policy says so.
#[tokio::test]
async fn whom_a_call_says_that_it_is_for_is_in_the_record() {
    let world = by_name(Rules::Calls).build().await;
    let mut client = world.connect().await;
    let body = br#"{"model":"large","user":"ann"}"#;
    write(
        &mut client,
        sized(body, "Baggage: user.id=bob,session.id=s-1\r\n"),
    )
    .await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    drop(client);
    let decisions = world.end().await;
    let claims = &decisions[0].action.claims;
    let said: Vec<_> = claims
        .iter()
        .map(|it| (it.source, it.context.user.as_deref(), it.trusted))
        .collect();
    assert_eq!(
        said,
        [
            (ClaimSource::Baggage, Some("bob"), false),
            (ClaimSource::Llm, Some("ann"), false)
        ]
    );
    assert_eq!(claims[0].context.session.as_deref(), Some("s-1"));
    assert!(decisions[0].context.is_empty());
}
