//! Tools that are not what they were first seen as.

use std::sync::atomic::{AtomicBool, Ordering};

use agentguard_decision::{Compared, Pins};
use agentguard_model::{
    ActionKind, ChangedPart, Decision, ReasonCode, Sight, ToolChange, ToolDefinition, Verdict,
};
use futures_util::FutureExt as _;

use super::http::read_response;
use super::{Rules, by_name, read_some, read_until, write};

/// A tool with `evil` in its definition is not what it was, and one with `large` is not compared. The card is held from the
/// first time on that it is not what it was.
#[derive(Debug, Default)]
pub(super) struct Seen(AtomicBool);

impl Pins for Seen {
    fn is_held(&self, _: &str, tool: &str) -> bool {
        tool == "read" || tool == "agent_card" && self.0.load(Ordering::Relaxed)
    }

    fn compare(&self, _: &str, listed: Vec<ToolDefinition>) -> Compared {
        let sight = |tool: ToolDefinition| {
            if tool.text.contains("evil") {
                self.0
                    .fetch_or(tool.name == "agent_card", Ordering::Relaxed);
                let change = ToolChange {
                    parts: vec![ChangedPart {
                        pointer: "/description".to_owned(),
                        before: None,
                        after: Some("\"evil\"".to_owned()),
                    }],
                    ..ToolChange::default()
                };
                Sight::Changed {
                    change: Box::new(change),
                    again: false,
                }
            } else if tool.text.contains("large") {
                Sight::NotPinned("it is large".to_owned())
            } else {
                Sight::Same
            }
        };
        Box::pin(std::future::ready(listed.into_iter().map(sight).collect()))
    }
}

const ASK: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

fn list(tools: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{"name":"a"}}{tools}],"nextCursor":"2"}}}}"#
    )
}

const EVIL: &str = r#",{"name":"b","description":"evil"},{"name":"c","description":"large"}"#;

/// Asks one of the servers, has the upstream answer so, and gives what the client gets and what was decided.
async fn answered(
    path: &str,
    body: &str,
    kind: &str,
    answer: &str,
) -> (String, String, Vec<Decision>) {
    let world = by_name(Rules::Tools).build().await;
    let mut client = world.connect().await;
    let request = match body {
        "" => format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n\r\n"),
        body => format!(
            "POST {path} HTTP/1.1\r\nHost: api.example\r\nAccept: application/json, text/event-stream\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    };
    write(&mut client, request).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert!(head.contains("accept-encoding: identity"), "{head}");
    read_some(&mut upstream, body.len()).await;
    let length = answer.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}");
    write(&mut upstream, format!("{head}\r\n\r\n{answer}")).await;
    let (head, body) = read_response(&mut client).await;
    drop(client);
    (head, body, world.end().await)
}

/// What is said of tools: verdict, code and tool.
fn said(decisions: &[Decision]) -> Vec<(Verdict, ReasonCode, Option<&str>)> {
    let of_tools = decisions
        .iter()
        .filter(|it| it.action.kind == ActionKind::ToolDefinition);
    let said = of_tools.map(|it| {
        let tool = it.action.tool.as_ref().unwrap();
        (it.verdict, it.reason.code, tool.name.as_deref())
    });
    said.collect()
}

#[tokio::test]
async fn what_changed_is_left_out_or_told_of_by_whatever_answer_it_comes() {
    use ReasonCode::{ToolDefinitionChanged, ToolNotPinned};
    let (whole, rest) = (list(EVIL), list(""));
    let events = |list: &str| {
        format!(": hello\n\ndata: {{\"method\":\"x\"}}\n\nevent: message\nid: 4\ndata: {list}\n\n")
    };
    let written = r#"{"id":1,"jsonrpc":"2.0","result":{"nextCursor":"2","tools":[{"name":"a"}]}}"#;
    for (body, kind, answer) in [
        (ASK, "application/json", whole.clone()),
        (ASK, "text/event-stream", events(&whole)),
        // Clients take an answer from wherever it comes.
        (PING, "application/json", whole.clone()),
        (PING, "text/event-stream", events(&whole)),
        ("", "text/event-stream", events(&whole)),
        (
            "",
            "text/event-stream",
            events(&whole).trim_end().to_owned(),
        ),
    ] {
        let (_, got, decisions) = answered("/held", body, kind, &answer).await;
        assert!(got.contains(written), "{kind} {got}");
        assert!(!got.contains("evil") && !got.contains("large"), "{got}");
        assert_eq!(
            said(&decisions),
            [
                (Verdict::Deny, ToolDefinitionChanged, Some("b")),
                (Verdict::Deny, ToolNotPinned, Some("c"))
            ]
        );
        let mut outcomes = decisions.iter().filter_map(|it| it.outcome.as_ref());
        let told = outcomes.next().unwrap().tool.as_ref().unwrap();
        assert_eq!(told.left_out, ["b", "c"]);

        let (_, got, decisions) = answered("/told", body, kind, &answer).await;
        assert_eq!(got, answer);
        assert_eq!(
            said(&decisions),
            [
                (Verdict::Allow, ToolDefinitionChanged, Some("b")),
                (Verdict::Allow, ToolNotPinned, Some("c"))
            ]
        );
        let changed = decisions
            .iter()
            .find_map(|it| it.action.tool.as_ref()?.change.as_ref());
        assert_eq!(changed.unwrap().parts[0].pointer, "/description");
    }
    for (body, kind, answer) in [
        (ASK, "application/json", rest.clone()),
        (PING, "text/event-stream", events(&rest)),
        (
            "",
            "text/event-stream",
            "data: {\"result\":{\"content\":\"tools\"}}\n\n".to_owned(),
        ),
    ] {
        let (_, got, decisions) = answered("/held", body, kind, &answer).await;
        assert_eq!(got, answer);
        assert!(said(&decisions).is_empty(), "{decisions:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_and_may_list_tools_is_refused_or_told_of() {
    let twice = r#"{"id":1,"result":{"tools":[],"tools":[{"name":"b"}]}}"#;
    let event = format!("data: {twice}\n\n");
    for (body, kind, answer) in [
        (ASK, "application/json", twice),
        (ASK, "text/plain", "tools"),
        (PING, "application/json", twice),
        (ASK, "text/event-stream", &event),
        ("", "text/event-stream", &event),
        // What is read here is not what such a client reads.
        (ASK, "application/json; charset=utf-7", &list(EVIL)),
        (ASK, "text/event-stream; charset=utf-7", &event),
        ("", "text/event-stream; charset=utf-7", &event),
    ] {
        let told = [(Verdict::Deny, ReasonCode::NotUnderstood, None)];
        if !body.is_empty() {
            let (_, got, decisions) = answered("/held", body, kind, answer).await;
            assert!(
                got.contains("are not compared with what they were first seen as"),
                "{got}"
            );
            assert_eq!(said(&decisions), told, "{kind}");
        }
        let (_, got, decisions) = answered("/told", body, kind, answer).await;
        assert_eq!(got, answer);
        let told = told.map(|(_, code, tool)| (Verdict::Allow, code, tool));
        assert_eq!(said(&decisions), told, "{kind}");
    }
}

/// Clients take a stream for one whatever its type is.
#[tokio::test]
async fn an_answer_of_another_type_may_list_tools_and_one_without_content_does_not() {
    let stream = format!("data: {}\n\n", list(EVIL));
    for body in ["", PING] {
        let (_, got, decisions) = answered("/held", body, "text/plain", &stream).await;
        assert!(!got.contains("evil"), "{got}");
        let told = [(Verdict::Deny, ReasonCode::NotUnderstood, None)];
        assert_eq!(said(&decisions), told);
        let (head, _, decisions) = answered("/held", body, "text/plain", "").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(said(&decisions).is_empty(), "{decisions:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_before_what_cannot_be_read_and_may_list_tools() {
    let world = by_name(Rules::Tools).build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        "GET /held HTTP/1.1\r\nHost: api.example\r\n\r\n",
    )
    .await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    write(&mut upstream, format!("{head}data: 1\n\n")).await;
    read_until(&mut client, "data: 1\n\n").await;
    write(&mut upstream, "data: {\"tools\"\n\n").await;
    let mut rest = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut client, &mut rest).await;
    assert!(
        !String::from_utf8_lossy(&rest).contains("tools"),
        "{ended:?}"
    );
    let decisions = world.end().await;
    assert_eq!(
        said(&decisions),
        [(Verdict::Deny, ReasonCode::NotUnderstood, None)]
    );
}

#[tokio::test]
async fn a_call_of_a_tool_that_is_held_is_refused() {
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{"path":"/data/x"}}}"#;
    let world = by_name(Rules::Tools).build().await;
    let mut client = world.connect().await;
    let length = call.len();
    let request = format!(
        "POST /held HTTP/1.1\r\nHost: api.example\r\nAccept: text/event-stream\r\nContent-Length: {length}\r\n\r\n{call}"
    );
    write(&mut client, request).await;
    let (_, got) = read_response(&mut client).await;
    assert!(got.contains(r#""isError":true"#), "{got}");
    assert!(got.contains("is not what it was first seen as"), "{got}");
    assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
    drop(client);
    let decisions = world.end().await;
    let [decision] = decisions.as_slice() else {
        panic!("{decisions:?}");
    };
    assert_eq!(
        (decision.verdict, decision.enforced, decision.reason.code),
        (Verdict::Deny, true, ReasonCode::ToolDefinitionChanged)
    );
    assert_eq!(decision.action.kind, ActionKind::ToolCall);
}
