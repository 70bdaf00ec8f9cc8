//! Requests to agents, in each binding, and their cards.

mod answers;

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use futures_util::FutureExt as _;

use super::http::read_response;
use super::{Rules, by_name, codes, read_all, read_some, read_until, write};

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);

fn request(method: &str, path: &str, body: &str) -> String {
    let content = match body {
        "" => String::new(),
        body => format!(
            "A2A-Version: 1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: api.example\r\n{content}\r\n{body}")
}

/// Sends a request, has the agent answer it so, and gives what the client gets and what was decided.
async fn answered(
    sent: (&str, &str, &str),
    kind: &str,
    answer: &str,
) -> (String, String, Vec<Decision>) {
    answered_with("200 OK", sent, kind, answer).await
}

async fn answered_with(
    status: &str,
    (method, path, body): (&str, &str, &str),
    kind: &str,
    answer: &str,
) -> (String, String, Vec<Decision>) {
    let world = by_name(Rules::Agents).build().await;
    let mut client = world.connect().await;
    write(&mut client, request(method, path, body)).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    assert_eq!(read_some(&mut upstream, body.len()).await, body.as_bytes());
    let length = answer.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}");
    write(&mut upstream, format!("{head}\r\n\r\n{answer}")).await;
    let (head, body) = read_response(&mut client).await;
    drop(client);
    (head, body, world.end().await)
}

/// What the client is told of a request of which nothing leaves, and what was decided.
async fn refused(method: &str, path: &str, body: &str) -> (String, String, Vec<Decision>) {
    let world = by_name(Rules::Agents).build().await;
    let mut client = world.connect().await;
    write(&mut client, request(method, path, body)).await;
    let (head, answer) = read_response(&mut client).await;
    assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
    drop(client);
    (head, answer, world.end().await)
}

fn rpc(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":"q","method":"{method}","params":{params}}}"#)
}

const HELLO: &str = r#"{"message":{"messageId":"m","parts":[{"text":"hello"}]}}"#;
const SECRET: &str =
    r#"{"message":{"messageId":"m","parts":[{"text":"hello"},{"text":"a secret"}]}}"#;

#[tokio::test]
async fn one_rule_is_for_each_version_and_binding() {
    for (method, path, body, name) in [
        (
            "POST",
            "/planner/",
            rpc("SendMessage", HELLO),
            "SendMessage",
        ),
        (
            "POST",
            "/planner/",
            rpc("message/send", HELLO),
            "SendMessage",
        ),
        (
            "POST",
            "/planner/",
            rpc("tasks/get", r#"{"id":"t"}"#),
            "GetTask",
        ),
        (
            "POST",
            "/planner/x/message:stream",
            HELLO.to_owned(),
            "SendStreamingMessage",
        ),
        ("GET", "/planner/v1/tasks/t", String::new(), "GetTask"),
    ] {
        let events = "data: {}\n\n";
        let sent = (method, path, body.as_str());
        let (_, got, decisions) = answered(sent, "text/event-stream", events).await;
        assert_eq!(got, events);
        assert_eq!(codes(&decisions), [ALLOWED]);
        let action = &decisions[0].action;
        assert_eq!(action.kind, ActionKind::ToolCall);
        let tool = action.tool.as_ref().unwrap();
        assert_eq!(
            (tool.server.as_str(), tool.name.as_deref()),
            ("planner", Some(name))
        );
    }
}

#[tokio::test]
async fn what_is_denied_is_refused_in_the_form_that_was_asked_in() {
    let no_rule = (Verdict::Deny, ReasonCode::NoRule);
    let denied = (Verdict::Deny, ReasonCode::RuleDeny);
    let not_read = (Verdict::Deny, ReasonCode::NotUnderstood);
    let of_rpc = r#"{"jsonrpc":"2.0","id":"q","error":{"code":403,"message":"#;
    let unread = r#"{"jsonrpc":"2.0","id":null,"error":{"code":403,"#;
    let batch = format!("[{}]", rpc("SendMessage", HELLO));
    for (method, path, body, status, code, told) in [
        (
            "POST",
            "/planner/",
            rpc("CancelTask", "{}"),
            200,
            no_rule,
            of_rpc,
        ),
        (
            "POST",
            "/planner/",
            rpc("tasks/cancel", "{}"),
            200,
            no_rule,
            of_rpc,
        ),
        (
            "POST",
            "/planner/",
            rpc("message/send", SECRET),
            200,
            denied,
            of_rpc,
        ),
        (
            "POST",
            "/planner/",
            rpc("tools/call", "{}"),
            403,
            not_read,
            unread,
        ),
        ("POST", "/planner/", batch, 403, not_read, unread),
        (
            "POST",
            "/planner/v1/message:send",
            SECRET.to_owned(),
            403,
            denied,
            r#""error":{"code":403,"status":"PERMISSION_DENIED","message":"Not this. (agentguard"#,
        ),
        (
            "POST",
            "/planner/tasks/t:cancel",
            String::new(),
            403,
            no_rule,
            r#""detail":"#,
        ),
        (
            "GET",
            "/planner/",
            String::new(),
            403,
            not_read,
            r#""detail":"#,
        ),
        // What is read in two ways.
        (
            "POST",
            "/planner/message%3Asend",
            rpc("GetTask", "{}"),
            403,
            not_read,
            r#""detail":"#,
        ),
    ] {
        let (head, answer, decisions) = refused(method, path, &body).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path} {body}: {head}"
        );
        assert!(answer.contains(told), "{answer}");
        assert_eq!(codes(&decisions), [code], "{path} {body}");
    }
}

const CARD: &str = r#"{"name":"planner","version":"1"}"#;
const EVIL: &str = r#"{"name":"planner","description":"evil","version":"1"}"#;

/// What is said of cards: verdict, code and name.
fn said(decisions: &[Decision]) -> Vec<(Verdict, ReasonCode, Option<&str>)> {
    let of_cards = decisions
        .iter()
        .filter(|it| it.action.kind == ActionKind::ToolDefinition);
    let said = of_cards.map(|it| {
        let tool = it.action.tool.as_ref().unwrap();
        (it.verdict, it.reason.code, tool.name.as_deref())
    });
    said.collect()
}

#[tokio::test]
async fn a_card_passes_with_any_allowance_and_not_once_it_changed() {
    let extended = rpc("GetExtendedAgentCard", "{}");
    let result = |card: &str| format!(r#"{{"jsonrpc":"2.0","id":"q","result":{card}}}"#);
    for (method, path, body, name, whole, evil) in [
        (
            "GET",
            "/.well-known/agent-card.json",
            "",
            "agent_card",
            CARD.to_owned(),
            EVIL.to_owned(),
        ),
        (
            "GET",
            "/.well-known/agent.json",
            "",
            "agent_card",
            CARD.to_owned(),
            EVIL.to_owned(),
        ),
        (
            "GET",
            "/v1/card",
            "",
            "extended_agent_card_0.x",
            CARD.to_owned(),
            // Nothing but the whole document is the card here.
            format!(r#"{{"jsonrpc":"2.0","id":"q","result":{CARD},"description":"evil"}}"#),
        ),
        (
            "POST",
            "/",
            &extended,
            "extended_agent_card",
            result(CARD),
            result(EVIL),
        ),
    ] {
        // Whatever it says that it is.
        for kind in ["application/json", "text/plain"] {
            let held = format!("/planner{path}");
            let (_, got, decisions) = answered((method, &held, body), kind, &whole).await;
            assert_eq!(got, whole);
            assert!(said(&decisions).is_empty(), "{decisions:?}");

            let (head, got, decisions) = answered((method, &held, body), kind, &evil).await;
            let status = if body.is_empty() { "403" } else { "200" };
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(got.contains("is not what it was first seen as"), "{got}");
            assert!(!got.contains("evil"), "{got}");
            let changed = ReasonCode::ToolDefinitionChanged;
            assert_eq!(said(&decisions), [(Verdict::Deny, changed, Some(name))]);
            let mut outcomes = decisions.iter().filter_map(|it| it.outcome.as_ref());
            let error = outcomes.next().unwrap().error.as_ref().unwrap();
            assert!(
                error.contains(&format!("The card {name} of planner")),
                "{error}"
            );

            let told = format!("/guide{path}");
            let (_, got, decisions) = answered((method, &told, body), kind, &evil).await;
            assert_eq!(got, evil);
            assert_eq!(said(&decisions), [(Verdict::Allow, changed, Some(name))]);
        }
    }
}

/// The connection that brought the card goes on, as do all others: another time its client would be told to connect
/// again.
#[tokio::test]
async fn what_is_asked_behind_a_card_that_changed_is_told_so_on_the_same_connection() {
    let world = by_name(Rules::Agents).build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        request("GET", "/planner/.well-known/agent-card.json", ""),
    )
    .await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
    write(&mut upstream, format!("{head}{}\r\n\r\n{EVIL}", EVIL.len())).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let hello = rpc("SendMessage", HELLO);
    for _ in 0..2 {
        write(&mut client, request("POST", "/planner/", &hello)).await;
        let (head, got) = read_response(&mut client).await;
        assert!(!head.starts_with("HTTP/1.1 421 "), "{head}");
        assert!(got.contains("The card agent_card of planner"), "{got}");
    }
    drop((client, upstream));
    let decisions = world.end().await;
    let changed = ReasonCode::ToolDefinitionChanged;
    let calls = decisions.iter().filter(|it| it.reason.code == changed);
    assert_eq!(calls.count(), 3);
}

#[tokio::test]
async fn a_card_that_cannot_be_read_is_refused_or_told_of() {
    let twice = r#"{"name":"planner","name":"other"}"#;
    let path = "/.well-known/agent-card.json";
    for answer in [twice, "<html>", "data: {}\n\n"] {
        let held = format!("/planner{path}");
        let (_, got, decisions) = answered(("GET", &held, ""), "application/json", answer).await;
        assert!(got.contains("The card of planner is not compared"), "{got}");
        let unread = ReasonCode::NotUnderstood;
        assert_eq!(said(&decisions), [(Verdict::Deny, unread, None)]);
        let told = format!("/guide{path}");
        let (_, got, decisions) = answered(("GET", &told, ""), "application/json", answer).await;
        assert_eq!(got, answer);
        assert_eq!(said(&decisions), [(Verdict::Allow, unread, None)]);
    }
}

#[tokio::test]
async fn a_card_is_one_with_any_status_that_clients_take_for_success() {
    let sent = ("GET", "/planner/.well-known/agent-card.json", "");
    let json = "application/json";
    for (status, shown) in [
        ("202 Accepted", false),
        ("203 Non-Authoritative Information", false),
        ("206 Partial Content", false),
        ("404 Not Found", true),
    ] {
        let (_, got, decisions) = answered_with(status, sent, json, EVIL).await;
        assert_eq!(got == EVIL, shown, "{status} {got}");
        assert_eq!(said(&decisions).is_empty(), shown, "{status}");
    }
    // Nothing that is asked for besides is taken for a card.
    let call = rpc("SendMessage", HELLO);
    for sent in [
        ("POST", "/planner/", call.as_str()),
        ("GET", "/planner/tasks/t", ""),
    ] {
        let (_, got, decisions) = answered(sent, json, EVIL).await;
        assert_eq!(got, EVIL);
        assert!(said(&decisions).is_empty(), "{decisions:?}");
    }
}
