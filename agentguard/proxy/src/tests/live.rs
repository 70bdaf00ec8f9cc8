//! Sessions of Realtime, what each is given, and what is said in it.

use agentguard_model::{ActionKind, Decision, LlmAnswer, LlmOperation, ReasonCode, Verdict};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::turns::{event, passes, read_event};
use super::websocket::{SWITCH, closed, masked};
use super::{Rules, World, by_name, codes, read_until, write};

pub(super) const ALLOW: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const DENY: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::RuleDeny);

fn handshake(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
}

/// Opens a connection on which the server has not said anything.
pub(super) async fn silent(world: &World) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    write(&mut client, handshake("/v1/realtime?model=small")).await;
    let mut upstream = world.accept().await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert!(!head.to_ascii_lowercase().contains("extensions"), "{head}");
    write(&mut upstream, SWITCH).await;
    read_until(&mut client, "\r\n\r\n").await;
    (client, upstream)
}

fn session(kind: &str, tools: &[&str], limit: &Value) -> Value {
    let tools = tools
        .iter()
        .map(|name| json!({ "type": "function", "name": name }));
    json!({ "type": kind, "session": { "type": "realtime", "model": "small-1", "tools": tools.collect::<Vec<_>>(),
        "max_output_tokens": limit } })
}

/// The server says something.
pub(super) async fn says(upstream: &mut TcpStream, client: &mut TcpStream, said: &Value) {
    let event = event(said);
    write(upstream, &event).await;
    passes(client, &event).await;
}

/// The client says something, which the server hears.
pub(super) async fn goes(client: &mut TcpStream, upstream: &mut TcpStream, said: &Value) {
    let message = masked(0x81, said.to_string());
    write(client, &message).await;
    passes(upstream, &message).await;
}

/// The client says something, and is refused.
pub(super) async fn refused(client: &mut TcpStream, said: &Value) -> Value {
    write(client, masked(0x81, said.to_string())).await;
    let refused = read_event(client).await;
    assert_eq!(refused["type"], "error", "{refused}");
    refused
}

/// Opens a session that the server has begun.
pub(super) async fn open(world: &World) -> (TcpStream, TcpStream) {
    let (mut client, mut upstream) = silent(world).await;
    let created = session("session.created", &[], &json!("inf"));
    says(&mut upstream, &mut client, &created).await;
    (client, upstream)
}

pub(super) fn update(tools: &[&str], limit: u64) -> Value {
    let mut update = session("session.update", tools, &json!(limit));
    update["session"]["model"] = json!("small");
    update
}

pub(super) fn updated(tools: &[&str], limit: u64) -> Value {
    session("session.updated", tools, &json!(limit))
}

pub(super) fn audio() -> Value {
    json!({ "type": "input_audio_buffer.append", "audio": "AAAA" })
}

/// The events of a response that calls a tool.
pub(super) fn response(id: &str, input: u64, tool: &str) -> [Value; 3] {
    let item = json!({ "id": "item_1", "type": "function_call", "name": tool, "call_id": "c1", "arguments": "{}" });
    let usage = json!({ "input_tokens": input, "output_tokens": 2,
        "input_token_details": { "cached_tokens": 1 } });
    [
        json!({ "type": "response.created", "response": { "id": id, "status": "in_progress" } }),
        json!({ "type": "response.output_item.done", "response_id": id, "output_index": 0, "item": item }),
        json!({ "type": "response.done", "response": { "id": id, "status": "completed", "usage": usage } }),
    ]
}

pub(super) fn calls(decisions: &[Decision]) -> Vec<&Decision> {
    let calls = decisions.iter();
    calls
        .filter(|it| it.action.kind == ActionKind::LlmCall)
        .collect()
}

pub(super) fn said(decision: &Decision) -> &LlmAnswer {
    let outcome = decision.outcome.as_ref().unwrap();
    outcome.llm.as_ref().unwrap()
}

pub(super) fn input(decision: &Decision) -> Option<u64> {
    said(decision).usage.unwrap().input_tokens
}

pub(super) fn error(decision: &Decision) -> Option<&str> {
    decision.outcome.as_ref().unwrap().error.as_deref()
}

#[tokio::test]
async fn what_a_session_is_given_and_each_response_are_decided() {
    let world = by_name(Rules::Live).build().await;
    let (mut client, mut upstream) = open(&world).await;
    // Nothing of this leaves.
    let mut no = update(&["shell"], 50);
    no["event_id"] = json!("event_7");
    let error = refused(&mut client, &no).await;
    assert_eq!(error["error"]["code"], "rule_deny");
    assert_eq!(error["error"]["event_id"], "event_7");
    let id = error["event_id"].as_str().unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("No shell."), "{message}");
    assert!(
        message.contains(id.strip_prefix("event_").unwrap()),
        "{message}"
    );
    goes(&mut client, &mut upstream, &update(&["look"], 50)).await;
    says(&mut upstream, &mut client, &updated(&["look"], 50)).await;
    // The server makes some by itself.
    for (id, input) in [("r1", 7), ("r2", 8)] {
        goes(&mut client, &mut upstream, &audio()).await;
        for event in response(id, input, "look") {
            says(&mut upstream, &mut client, &event).await;
        }
    }
    let create = json!({ "type": "response.create" });
    let own =
        json!({ "type": "response.create", "response": { "max_output_tokens": 9, "tools": [] } });
    for (create, id, input) in [(create, "r3", 9), (own, "r4", 10)] {
        goes(&mut client, &mut upstream, &create).await;
        for event in response(id, input, "look") {
            says(&mut upstream, &mut client, &event).await;
        }
    }
    for no in [
        json!({ "type": "response.create", "response": { "max_output_tokens": "inf" } }),
        json!({ "type": "response.create", "response": { "tools": [{ "type": "function", "name": "shell" }] } }),
        json!({ "type": "conversation.item.create", "item": { "type": "mcp_list_tools", "tools": [{ "name": "shell" }] } }),
    ] {
        refused(&mut client, &no).await;
    }
    goes(&mut client, &mut upstream, &audio()).await;
    drop((client, upstream));
    let decisions = world.end().await;
    let opened = &decisions[0].action;
    assert_eq!(opened.kind, ActionKind::HttpRequest);
    assert_eq!(opened.llm.as_ref().unwrap().model.as_deref(), Some("small"));
    assert_eq!(
        codes(&decisions),
        [ALLOW, DENY, ALLOW, ALLOW, ALLOW, DENY, DENY, DENY]
    );
    let calls = calls(&decisions);
    for call in &calls {
        let llm = call.action.llm.as_ref().unwrap();
        assert_eq!(llm.operation, LlmOperation::Realtime);
        assert_eq!((llm.model.as_deref(), llm.stream), (Some("small"), true));
        assert_eq!(llm.not_understood, None);
    }
    let offers = |at: usize| {
        let llm = calls[at].action.llm.as_ref().unwrap();
        (llm.tools.join(","), llm.max_output_tokens)
    };
    assert_eq!(offers(1), ("look".to_owned(), Some(50)));
    assert_eq!(offers(2), ("look".to_owned(), Some(50)));
    assert_eq!(offers(3), (String::new(), Some(9)));
    assert_eq!(offers(4), ("look".to_owned(), None));
    assert_eq!(offers(6), ("look,shell".to_owned(), Some(50)));
    let inputs: Vec<_> = [1, 2, 3].map(|at| input(calls[at])).into();
    assert_eq!(inputs, [Some(15), Some(9), Some(10)]);
    let session = said(calls[1]);
    assert_eq!(session.model.as_deref(), Some("small-1"));
    assert_eq!(session.tool_calls.len(), 2);
    assert_eq!(session.usage.unwrap().cache_read_tokens, Some(2));
    let asked = said(calls[2]);
    assert_eq!(asked.tool_calls[0].name, "look");
    assert_eq!(asked.finish_reason.as_deref(), Some("completed"));
    for at in [1, 2, 3] {
        assert_eq!(self::error(calls[at]), None);
        let bytes = &calls[at].outcome.as_ref().unwrap().bytes;
        assert!(bytes.sent > 0 && bytes.received > 0);
    }
}

#[tokio::test]
async fn a_session_is_opened_where_its_model_may_be_called() {
    for (target, code, unread) in [
        ("/v1/realtime?model=large", ReasonCode::NoRule, false),
        (
            "/v1/realtime?call_id=rtc_1",
            ReasonCode::NotUnderstood,
            true,
        ),
        (
            "/v1/realtime?model=small&intent=x",
            ReasonCode::NotUnderstood,
            true,
        ),
        (
            "/v1/realtime/translations?model=small",
            ReasonCode::NotUnderstood,
            true,
        ),
    ] {
        let world = by_name(Rules::Live).build().await;
        let mut client = world.connect().await;
        write(&mut client, handshake(target)).await;
        let head = read_until(&mut client, "\r\n\r\n").await;
        let refused = match target.contains("translations") {
            true => "HTTP/1.1 426 ",
            false => "HTTP/1.1 403 ",
        };
        assert!(head.starts_with(refused), "{target} {head}");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [(Verdict::Deny, code)], "{target}");
        let llm = decisions[0].action.llm.as_ref().unwrap();
        assert_eq!(llm.not_understood.is_some(), unread, "{target}");
    }
}

/// Then it is known what is in force.
#[tokio::test]
async fn what_follows_an_update_waits_for_what_the_server_makes_of_it() {
    let world = by_name(Rules::Live).build().await;
    let (mut client, mut upstream) = open(&world).await;
    goes(&mut client, &mut upstream, &update(&["look"], 50)).await;
    let messages =
        [audio(), json!({ "type": "response.create" })].map(|it| masked(0x81, it.to_string()));
    for message in &messages {
        write(&mut client, message).await;
    }
    super::settled().await;
    let mut byte = [0];
    assert!(upstream.try_read(&mut byte).is_err(), "it has left");
    says(&mut upstream, &mut client, &updated(&["look"], 50)).await;
    for message in &messages {
        passes(&mut upstream, message).await;
    }
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOW; 3]);
    let offered = &decisions[2].action.llm.as_ref().unwrap();
    assert_eq!(
        (offered.tools.join(","), offered.max_output_tokens),
        ("look".to_owned(), Some(50))
    );
    let over = "the connection was over before the answer was";
    assert_eq!(error(&decisions[2]), Some(over));
    assert_eq!(error(&decisions[1]), None);
}

/// What was in force before is, then.
#[tokio::test]
async fn an_update_that_the_server_does_not_take_gives_nothing() {
    let world = by_name(Rules::Live).build().await;
    let (mut client, mut upstream) = open(&world).await;
    goes(&mut client, &mut upstream, &update(&["look"], 50)).await;
    let wrong = json!({ "type": "error", "error": { "code": "invalid_value", "event_id": null } });
    says(&mut upstream, &mut client, &wrong).await;
    for no in [audio(), json!({ "type": "response.create" })] {
        let refused = refused(&mut client, &no).await;
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("Too long."), "{message}");
    }
    let own = json!({ "type": "response.create", "response": { "max_output_tokens": 9 } });
    goes(&mut client, &mut upstream, &own).await;
    goes(&mut client, &mut upstream, &update(&[], 60)).await;
    says(&mut upstream, &mut client, &updated(&[], 60)).await;
    goes(&mut client, &mut upstream, &audio()).await;
    goes(
        &mut client,
        &mut upstream,
        &json!({ "type": "response.create" }),
    )
    .await;
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [ALLOW, ALLOW, DENY, DENY, ALLOW, ALLOW, ALLOW]
    );
    let tools = |at: usize| decisions[at].action.llm.as_ref().unwrap().tools.join(",");
    // What is not known not to be in force counts.
    assert_eq!(
        [2, 3, 4, 5, 6].map(tools),
        ["look", "look", "look", "", "look"]
    );
}

#[tokio::test]
async fn what_a_session_has_by_itself_is_decided_before_anything_goes_to_it() {
    let world = by_name(Rules::Live).build().await;
    let (mut client, upstream) = open(&world).await;
    let item = json!({ "type": "conversation.item.create", "item": { "type": "message" } });
    for no in [audio(), item] {
        refused(&mut client, &no).await;
    }
    drop((client, upstream));
    assert_eq!(codes(&world.end().await), [ALLOW, DENY, DENY]);

    let world = by_name(Rules::Calls).build().await;
    let (mut client, mut upstream) = open(&world).await;
    for _ in 0..2 {
        goes(&mut client, &mut upstream, &audio()).await;
    }
    for event in response("r1", 7, "look") {
        says(&mut upstream, &mut client, &event).await;
    }
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOW, ALLOW]);
    assert_eq!(input(&decisions[1]), Some(7));
    let sent = decisions[1].outcome.as_ref().unwrap().bytes.sent;
    assert_eq!(sent, 2 * audio().to_string().len() as u64);
}

/// By a stored prompt, or with the key of a session that was prepared.
#[tokio::test]
async fn what_the_server_says_that_is_offered_is_decided_too() {
    let world = by_name(Rules::Live).build().await;
    let (mut client, mut upstream) = silent(&world).await;
    let created = session("session.created", &["shell"], &json!(10));
    says(&mut upstream, &mut client, &created).await;
    let error = refused(&mut client, &audio()).await;
    assert_eq!(error["error"]["code"], "rule_deny");
    goes(&mut client, &mut upstream, &update(&["look"], 50)).await;
    says(&mut upstream, &mut client, &updated(&["look"], 50)).await;
    goes(&mut client, &mut upstream, &audio()).await;
    write(&mut upstream, event(&updated(&["look", "shell"], 50))).await;
    let mut ended = read_event(&mut client).await;
    if ended["type"] == "session.updated" {
        ended = read_event(&mut client).await;
    }
    assert_eq!(ended["error"]["code"], "rule_deny");
    let (code, _) = closed(&mut client).await;
    assert_eq!(code, 1008);
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOW, DENY, ALLOW, DENY]);
    assert!(
        self::error(&decisions[2])
            .unwrap()
            .starts_with("ended by decision ")
    );
}

#[tokio::test]
async fn an_event_that_is_not_understood_is_refused_whatever_rules_allow() {
    let world = by_name(Rules::Calls).build().await;
    let (mut client, upstream) = open(&world).await;
    for message in [
        masked(
            0x81,
            r#"{"type":"transcription_session.update","session":{}}"#,
        ),
        masked(
            0x81,
            r#"{"type":"session.update","session":{"type":"transcription"}}"#,
        ),
        masked(
            0x81,
            r#"{"type":"session.update","session":{"model":"large"}}"#,
        ),
        masked(
            0x81,
            r#"{"type":"session.update","session":{"tools":[],"tools":[]}}"#,
        ),
        masked(0x81, r#"{"type":"later.than.this"}"#),
        masked(0x81, "{"),
        masked(0x82, r#"{"type":"response.create"}"#),
    ] {
        write(&mut client, message).await;
        let refused = read_event(&mut client).await;
        assert_eq!(refused["error"]["code"], "not_understood");
    }
    drop((client, upstream));
    let decisions = world.end().await;
    let calls = calls(&decisions);
    assert_eq!(calls.len(), 7);
    for call in calls {
        let llm = call.action.llm.as_ref().unwrap();
        assert!(llm.not_understood.is_some(), "{llm:?}");
        assert_eq!(llm.model, None);
    }

    let world = by_name(Rules::CallsUnread).build().await;
    let (mut client, upstream) = open(&world).await;
    let error = refused(&mut client, &json!({ "type": "later.than.this" })).await;
    assert_eq!(error["error"]["code"], "not_understood");
    drop((client, upstream));
    world.end().await;
}

#[tokio::test]
async fn a_session_that_the_policy_comes_to_deny_ends_in_an_error() {
    let world = by_name(Rules::Live).build().await;
    let (mut client, mut upstream) = open(&world).await;
    goes(&mut client, &mut upstream, &update(&["look"], 50)).await;
    says(&mut upstream, &mut client, &updated(&["look"], 50)).await;
    let create = json!({ "type": "response.create" });
    goes(&mut client, &mut upstream, &create).await;
    let [created, ..] = response("r1", 7, "look");
    says(&mut upstream, &mut client, &created).await;
    world.change(Rules::CallsByPost);
    let ended = read_event(&mut client).await;
    assert_eq!(ended["type"], "error");
    assert!(ended["error"]["event_id"].is_null(), "{ended}");
    let (code, _) = closed(&mut client).await;
    assert_eq!(code, 1008);
    drop((client, upstream));
    let decisions = world.end().await;
    for call in &calls(&decisions)[..2] {
        assert!(error(call).unwrap().starts_with("ended by decision "));
    }
}
