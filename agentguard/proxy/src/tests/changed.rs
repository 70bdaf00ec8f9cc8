//! Contents that are sent on as rules change them.

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use futures_util::FutureExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::calls::packed;
use super::http::read_response;
use super::turns::{open, passes, read_event};
use super::websocket::masked;
use super::{Rules, by_name, codes, read_some, read_until, soon, write};

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Modify, ReasonCode::RuleModify);
const OPENED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const REFUSED: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::NotChanged);

fn request(path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// What the upstream gets of a request: its head and its content; and what was decided.
async fn sent(path: &str, fields: &str, body: &[u8]) -> (String, String, Vec<Decision>) {
    let world = by_name(Rules::Edited).build().await;
    let mut client = world.connect().await;
    write(&mut client, request(path, fields, body)).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n")
        .await
        .to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let body = String::from_utf8(read_some(&mut upstream, length).await).unwrap();
    write(&mut upstream, "HTTP/1.1 204 No Content\r\n\r\n").await;
    if fields.contains("Expect") {
        let go_on = read_until(&mut client, "\r\n\r\n").await;
        assert!(go_on.starts_with("HTTP/1.1 100 "), "{go_on}");
    }
    let (answer, _) = read_response(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    drop(client);
    (head, body, world.end().await)
}

/// What the client is told of a request of which nothing leaves, and what was decided.
async fn refused(path: &str, fields: &str, body: &[u8]) -> (String, Vec<Decision>) {
    let world = by_name(Rules::Edited).build().await;
    let mut client = world.connect().await;
    write(&mut client, request(path, fields, body)).await;
    let (_, answer) = read_response(&mut client).await;
    assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
    drop(client);
    (answer, world.end().await)
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_call_is_sent_with_what_the_rule_changes_and_all_else_as_it_was() {
    let call = br#"{ "model": "small", "Metadata": {"user": "me"}, "max_tokens": 5000,
        "messages": [{"role": "user", "name": "me", "content": "caf\u00e9 \n"}, {"role": "user", "content": 1.0}]}"#;
    let changed = r#"{"model":"small","Metadata":"[redacted]","max_tokens":100,"messages":[{"role":"user","name":"[redacted]","content":"café \n"},{"role":"user","content":1.0}],"store":false}"#;
    let packed = packed(call);
    for (fields, body) in [
        ("Content-Digest: sha-256=:x:\r\nX-Other: 1\r\n", &call[..]),
        ("Content-Encoding: gzip\r\nX-Other: 1\r\n", &packed[..]),
        ("Expect: 100-continue\r\nX-Other: 1\r\n", &call[..]),
    ] {
        let (head, got, decisions) = sent(CHAT, fields, body).await;
        assert_eq!(got, changed);
        assert!(head.contains("x-other: 1\r\n"), "{head}");
        for gone in ["content-digest", "content-encoding", "expect"] {
            assert!(!head.contains(gone), "{head}");
        }
        assert_eq!(codes(&decisions), [ALLOWED]);
        assert_eq!(
            decisions[0].reason.message.split_once(", ").unwrap().1,
            "with `/metadata` redacted, with `/messages/*/name` redacted, with `/max_tokens` at most 100, with `/n` at most 3, with `/store` added."
        );
        let bytes = decisions[0].outcome.as_ref().unwrap().bytes;
        assert_eq!(bytes.sent, changed.len() as u64);
    }
}

#[tokio::test]
async fn what_cannot_be_changed_is_not_sent() {
    let call = br#"{"model":"small","messages":[]}"#;
    let text = br#"{"model":"small","messages":[],"n":"9"}"#;
    let signed = "Authorization: aws4-hmac-sha256 Credential=x\r\n";
    for (path, fields, body, told) in [
        (CHAT, "", &text[..], "`/n` is not a number"),
        (CHAT, signed, call, "it is signed"),
        (CHAT, "Signature-Input: a=()\r\n", call, "it is signed"),
        (
            "/v1/chat/completions?a=1&X-Amz-Signature=x",
            "",
            call,
            "it is signed",
        ),
    ] {
        let (answer, decisions) = refused(path, fields, body).await;
        assert!(answer.contains(told), "{answer}");
        assert_eq!(codes(&decisions), [ALLOWED, REFUSED]);
        assert_eq!(decisions[1].action.kind, ActionKind::LlmCall);
        let outcome = decisions[0].outcome.as_ref().unwrap();
        assert!(outcome.error.as_ref().unwrap().contains(told));
        assert!(answer.contains(&decisions[1].id.to_string()), "{answer}");
    }
}

fn message(id: u32, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"read","arguments":{arguments}}}}}"#
    )
}

#[tokio::test]
async fn arguments_of_tools_are_changed_in_each_message() {
    let list = r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":{"token":"t"}}"#;
    let batch = format!(
        "[{},{list},{}]",
        message(1, r#"{"token":"t","limit":10}"#),
        message(2, r#"{"limit":0}"#)
    );
    let changed = format!(
        "[{},{list},{}]",
        message(1, r#"{"token":"[redacted]","limit":9}"#),
        message(2, r#"{"limit":1}"#)
    );
    let rpc = r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"Token":"t"}}"#;
    for (path, body, after, count) in [
        ("/mcp", batch.as_str(), changed.as_str(), 3),
        (
            "/rpc",
            rpc,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"Token":"[redacted]"}}"#,
            1,
        ),
        (
            "/tracker/x/issues?page=2",
            r#"{"token":"t"}"#,
            r#"{"token":"[redacted]"}"#,
            1,
        ),
        // A number with a type is bounded as any other.
        ("/tracker/x/issues", r#"{"limit":10}"#, r#"{"limit":9}"#, 1),
        ("/tracker/x/issues", "", "", 1),
        (
            "/guide/rpc",
            r#"{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"token":"t","limit":10}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"token":"[redacted]","limit":9}}"#,
            1,
        ),
        (
            "/guide/v1/message:send",
            r#"{"token":"t","message":{"parts":[]}}"#,
            r#"{"token":"[redacted]","message":{"parts":[]}}"#,
            1,
        ),
    ] {
        let (_, got, decisions) = sent(path, "", body.as_bytes()).await;
        assert_eq!(got, after, "{path}");
        assert_eq!(decisions.len(), count, "{path}");
        let calls = decisions.iter().filter(|it| it.verdict == Verdict::Modify);
        assert!(calls.count() >= 1, "{decisions:#?}");
    }
}

#[tokio::test]
async fn arguments_that_stand_elsewhere_are_not_sent() {
    let graph = r#"{"query":"{ repository(token: \"t\") { id } }"}"#;
    let call = message(1, r#"{"token":"t"}"#);
    for (path, fields, body, told) in [
        ("/tracker/x/issues?Token=t", "", "{}", "in the target"),
        ("/tracker/by-token/t/x", "", "{}", "in the target"),
        // Whether it is a text or has a type.
        ("/tracker/x/issues?limit=10", "", "{}", "in the target"),
        ("/guide/tasks/1:cancel?token=t", "", "{}", "in the target"),
        (
            "/guide/v1/message:send",
            "",
            r#"{"message":{"content":[]}}"#,
            "where 0.3 has them",
        ),
        ("/graphql", "", graph, "GraphQL and gRPC"),
        (
            "/mcp",
            "Mcp-Param-Token: t\\r\\n",
            &call,
            "fields `mcp-param-",
        ),
    ] {
        let fields = fields.replace("\\r\\n", "\r\n");
        let (answer, decisions) = refused(path, &fields, body.as_bytes()).await;
        assert!(answer.contains(told), "{path}: {answer}");
        assert_eq!(codes(&decisions), [ALLOWED, REFUSED], "{path}");
        assert_eq!(decisions[1].action.kind, ActionKind::ToolCall);
    }
    // A form is read as one. What is JSON as well cannot be read.
    let unread = (Verdict::Deny, ReasonCode::NotUnderstood);
    for (form, told, expected) in [
        ("token=t", "it is a form", vec![ALLOWED, REFUSED]),
        ("limit=10", "it is a form", vec![ALLOWED, REFUSED]),
        (
            "limit=ten",
            "the argument `limit` is no `integer`",
            vec![unread],
        ),
        ("\"&token=t&x=\"", "cannot be read", vec![unread]),
        ("{\"a\":\"=1&token=t&x=\"}", "cannot be read", vec![unread]),
    ] {
        let world = by_name(Rules::Edited).build().await;
        let mut client = world.connect().await;
        let head = format!(
            "POST /tracker/x/issues HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        write(&mut client, head).await;
        let (_, answer) = read_response(&mut client).await;
        assert!(answer.contains(told), "{answer}");
        drop(client);
        assert_eq!(codes(&world.end().await), expected);
    }
}

/// What some servers take for a name is put out, too; and what is called in another case is not understood.
#[tokio::test]
async fn names_are_those_that_some_server_takes_for_them() {
    let call = message(1, "{\"to\u{212a}en\":\"t\"}");
    let (_, got, _) = sent("/mcp", "", call.as_bytes()).await;
    assert!(got.contains("\u{212a}en\":\"[redacted]\""), "{got}");
    let call = message(1, "{}").replace("arguments", "argument\u{17f}");
    let (_, decisions) = refused("/mcp", "", call.as_bytes()).await;
    assert_eq!(decisions[0].verdict, Verdict::Deny);
    let tool = decisions[0].action.tool.as_ref().unwrap();
    let why = tool.not_understood.as_ref().unwrap();
    assert!(why.contains("another case"), "{why}");
}

/// What is changed in the fields for one message is so for the request that it came in.
#[tokio::test]
async fn fields_are_changed_for_whichever_message_of_a_batch_asks_for_it() {
    let other = message(1, "{}").replace("read", "other");
    let send = message(2, "{}").replace("read", "send");
    for batch in [format!("[{send},{other}]"), format!("[{other},{send}]")] {
        let world = by_name(Rules::Fields).build().await;
        let mut client = world.connect().await;
        write(
            &mut client,
            request("/mcp", "Cookie: a=1\r\n", batch.as_bytes()),
        )
        .await;
        let mut upstream = world.accept().await;
        let head = read_until(&mut upstream, "\r\n\r\n").await;
        assert!(!head.to_ascii_lowercase().contains("cookie"), "{head}");
        read_some(&mut upstream, batch.len()).await;
        write(
            &mut upstream,
            "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        read_response(&mut client).await;
        drop(client);
        world.end().await;
    }
}

/// Reads a masked text of up to 125 bytes, or one of up to 64 KiB.
async fn read_text(stream: &mut TcpStream) -> String {
    let head = read_some(stream, 2).await;
    assert_eq!(head[0], 0x81);
    let length = match head[1] & 0x7f {
        126 => usize::from(soon(stream.read_u16()).await.unwrap()),
        short => usize::from(short),
    };
    assert_eq!(head[1] & 0x80, 0x80);
    let mask = read_some(stream, 4).await;
    let text = read_some(stream, length).await;
    let plain = text.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b);
    String::from_utf8(plain.collect()).unwrap()
}

#[tokio::test]
async fn calls_of_a_connection_are_changed_one_by_one() {
    let world = by_name(Rules::Edited).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let call = r#"{"type":"response.create","model":"small","input":"hi","metadata":{"a":1}}"#;
    let changed = r#"{"type":"response.create","model":"small","input":"hi","metadata":"[redacted]","store":false}"#;
    // In one piece, and in two with a ping between them.
    write(&mut client, masked(0x81, call)).await;
    assert_eq!(read_text(&mut upstream).await, changed);
    let steer = masked(0x81, r#"{"type":"response.steer","metadata":[]}"#);
    write(&mut client, &steer).await;
    passes(&mut upstream, &steer).await;
    let ping = masked(0x89, "x");
    let (one, two) = call.split_at(30);
    let pieces = [masked(0x01, one), ping.clone(), masked(0x80, two)].concat();
    write(&mut client, pieces).await;
    passes(&mut upstream, &ping).await;
    assert_eq!(read_text(&mut upstream).await, changed);
    let wrong = r#"{"type":"response.create","model":"small","input":"hi","n":"9"}"#;
    write(&mut client, masked(0x81, wrong)).await;
    let refused = read_event(&mut client).await;
    let told = refused["error"]["message"].as_str().unwrap();
    assert!(told.contains("is not a number"), "{told}");
    // The connection goes on.
    write(&mut client, masked(0x81, call)).await;
    assert_eq!(read_text(&mut upstream).await, changed);
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [OPENED, ALLOWED, ALLOWED, ALLOWED, REFUSED, ALLOWED]
    );
}

/// A rule for all calls is one for answers that are fetched, too, which have nothing in them that could be changed.
#[tokio::test]
async fn answers_are_fetched_under_a_rule_that_changes_calls() {
    for path in ["/v1/responses/r_1", "/v1/chat/completions"] {
        let world = by_name(Rules::Edited).build().await;
        let mut client = world.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n\r\n");
        write(&mut client, head).await;
        let mut upstream = world.accept().await;
        let sent = read_until(&mut upstream, "\r\n\r\n").await;
        assert!(sent.starts_with(&format!("GET {path} ")), "{sent}");
        drop((client, upstream));
        let allowed = (Verdict::Modify, ReasonCode::RuleModify);
        assert_eq!(codes(&world.end().await), [allowed], "{path}");
    }
}
