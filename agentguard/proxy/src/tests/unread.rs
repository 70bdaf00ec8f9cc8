//! What cannot be read: refused, or left to the rules, as the policy says; and in the record both times.

use agentguard_model::{Action, ActionKind, Decision, ReasonCode, Verdict};
use futures_util::FutureExt as _;
use serde_json::json;

use super::http::read_response;
use super::turns::{open, passes, read_event};
use super::websocket::masked;
use super::{Rules, by_name, codes, live, read_some, read_until, write};

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const REFUSED: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::NotUnderstood);

/// Something that is sent, and what stands in a refusal of it.
struct Case {
    path: &'static str,
    fields: &'static str,
    body: Vec<u8>,
    kind: ActionKind,
    status: u16,
    told: &'static str,
}

fn case(path: &'static str, body: impl AsRef<[u8]>) -> Case {
    let (kind, told) = match path {
        "/v1/chat/completions" | "/v1/messages" | "/v1/responses" => {
            (ActionKind::LlmCall, r#"{"error":{"message":""#)
        }
        "/graphql" => (
            ActionKind::HttpRequest,
            r#"{"errors":[{"extensions":{"code":"not_understood","#,
        ),
        _ => (
            ActionKind::HttpRequest,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":403,"message":""#,
        ),
    };
    Case {
        path,
        fields: "Content-Type: application/json\r\n",
        body: body.as_ref().to_vec(),
        kind,
        // Its clients look into no other answer.
        status: if path == "/graphql" { 200 } else { 403 },
        told,
    }
}

fn nested(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"model":"small","jsonrpc":"2.0","id":1,"method":"x","params":{open}{close}}}"#)
}

fn cases() -> Vec<Case> {
    let chat = "/v1/chat/completions";
    let mut cases = vec![
        case(chat, r#"{"model":"small","model":"large"}"#),
        case(chat, r#"{"model":"small","Model":"large"}"#),
        case(chat, r#"{"model":"small""#),
        case(chat, b"{\"model\":\"sm\xffall\"}"),
        case(chat, nested(100_000)),
        case(chat, ""),
        case("/v1/responses", "model=small"),
        Case {
            told: r#"{"type":"error","error":{"type":"permission_error","message":""#,
            ..case("/v1/messages", r#"{"model":"small","model":"large"}"#)
        },
        Case {
            fields: "Content-Type: application/json; charset=utf-7\r\n",
            ..case(chat, r#"{"model":"small"}"#)
        },
        // As the form that it says it is, it asks for another model.
        Case {
            fields: "Content-Type: application/x-www-form-urlencoded\r\n",
            ..case(chat, r#"{"model":"small","user":"&model=large&x="}"#)
        },
        Case {
            fields: "Content-Encoding: compress\r\n",
            ..case(chat, r#"{"model":"small"}"#)
        },
        Case {
            fields: "Content-Encoding: gzip\r\n",
            ..case(chat, r#"{"model":"small"}"#)
        },
        case("/graphql", r#"{"query":"{ a "}"#),
        case("/graphql", r#"{"query":"{a}","query":"{b}"}"#),
        // What is a member of no tool there.
        Case {
            told: r#""detail":"#,
            ..case("/tracker/none", "{}")
        },
    ];
    // A server of tools, one of JSON-RPC and an agent.
    for path in ["/mcp", "/rpc", "/planner/"] {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"id":"a","id":"b"}}"#;
        cases.extend([
            case(path, call),
            case(path, r#"{"jsonrpc":"2.0","id":1,"#),
            case(path, r#"{"id":1,"method":"tasks/get"}"#),
            case(path, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"),
            case(path, nested(100_000)),
            Case {
                fields: "Content-Encoding: compress\r\n",
                ..case(
                    path,
                    r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"id":"a"}}"#,
                )
            },
        ]);
    }
    cases.push(case(
        "/planner/",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
    ));
    cases
}

impl Case {
    fn request(&self) -> Vec<u8> {
        let mut request = format!(
            "POST {} HTTP/1.1\r\nHost: api.example\r\nContent-Length: {}\r\n{}\r\n",
            self.path,
            self.body.len(),
            self.fields
        )
        .into_bytes();
        request.extend_from_slice(&self.body);
        request
    }

    /// What it is, for who reads that a test failed.
    fn name(&self) -> String {
        let body: String = String::from_utf8_lossy(&self.body)
            .chars()
            .take(80)
            .collect();
        format!("{} {}{body}", self.path, self.fields)
    }
}

/// Why it was not understood.
fn why(action: &Action) -> Option<&str> {
    let of_call = action.llm.as_ref().map(|it| &it.not_understood);
    let of_tool = action.tool.as_ref().map(|it| &it.not_understood);
    of_call.or(of_tool)?.as_deref()
}

fn recorded(case: &Case, decisions: &[Decision]) {
    let [decision] = decisions else {
        panic!("{}: {decisions:#?}", case.name());
    };
    assert_eq!(decision.action.kind, case.kind, "{}", case.name());
    let why = why(&decision.action);
    assert!(why.is_some_and(|why| !why.is_empty()), "{}", case.name());
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_unless_the_policy_leaves_it_to_the_rules() {
    for case in cases() {
        let name = case.name();
        let world = by_name(Rules::CallsUnread).build().await;
        let mut client = world.connect().await;
        write(&mut client, case.request()).await;
        let (head, answer) = read_response(&mut client).await;
        let status = format!("HTTP/1.1 {} ", case.status);
        assert!(head.starts_with(&status), "{name}: {head}");
        assert!(answer.contains(case.told), "{name}: {answer}");
        assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [REFUSED], "{name}");
        let id = decisions[0].id.to_string();
        assert!(answer.contains(&id), "{name}: {answer}");
        recorded(&case, &decisions);
    }
}

/// It comes as it was sent, to its last byte, and its answer passes.
#[tokio::test]
async fn what_cannot_be_read_passes_where_the_policy_leaves_it_to_the_rules() {
    for case in cases() {
        let name = case.name();
        let world = by_name(Rules::CallsUnreadAllowed).build().await;
        let mut client = world.connect().await;
        write(&mut client, case.request()).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        let got = read_some(&mut upstream, case.body.len()).await;
        assert!(got == case.body, "{name}");
        let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno";
        write(&mut upstream, answer).await;
        let (head, answer) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{name}: {head}");
        assert_eq!(answer, "no", "{name}");
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [ALLOWED], "{name}");
        let outcome = decisions[0].outcome.as_ref().unwrap();
        assert_eq!(outcome.status, Some(400), "{name}");
        recorded(&case, &decisions);
    }
}

/// On a WebSocket, where a call is a message, and the connection goes on.
#[tokio::test]
async fn a_message_that_cannot_be_read_passes_where_the_policy_leaves_it_to_the_rules() {
    let twice = r#"{"type":"response.create","model":"large","model":"small"}"#;
    for message in [
        masked(0x81, r#"{"type":"session.update"}"#),
        masked(0x81, twice),
        masked(0x81, "{"),
        masked(0x82, r#"{"type":"response.create","model":"small"}"#),
    ] {
        let world = by_name(Rules::CallsUnreadAllowed).build().await;
        let (mut client, mut upstream) = open(&world).await;
        write(&mut client, &message).await;
        passes(&mut upstream, &message).await;
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [ALLOWED, ALLOWED]);
        assert_eq!(decisions[1].action.kind, ActionKind::LlmCall);
        assert!(why(&decisions[1].action).is_some(), "{decisions:#?}");
    }
    let world = by_name(Rules::CallsUnread).build().await;
    let (mut client, upstream) = open(&world).await;
    write(&mut client, masked(0x81, twice)).await;
    let refused = read_event(&mut client).await;
    assert_eq!(refused["error"]["code"], "not_understood");
    drop((client, upstream));
    assert_eq!(codes(&world.end().await), [ALLOWED, REFUSED]);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_passes_where_the_policy_leaves_it_to_the_rules() {
    for event in [
        json!({ "type": "later.than.this" }),
        json!({ "type": "transcription_session.update", "session": {} }),
        json!({ "type": "session.update", "session": { "model": "large" } }),
    ] {
        let world = by_name(Rules::CallsUnreadAllowed).build().await;
        let (mut client, mut upstream) = live::open(&world).await;
        live::goes(&mut client, &mut upstream, &event).await;
        drop((client, upstream));
        let decisions = world.end().await;
        let calls = live::calls(&decisions);
        let unread = calls.iter().find(|it| why(&it.action).is_some());
        let unread = unread.unwrap_or_else(|| panic!("{decisions:#?}"));
        assert_eq!(unread.verdict, Verdict::Allow);
        assert_eq!(unread.action.llm.as_ref().unwrap().model, None);
    }
}
