//! What the record has of what agents answer.

use agentguard_model::{AgentAnswer, Outcome, ToolAnswer, ToolResult};

use super::*;

const TASK: &str = r#"{"task":{"id":"t","contextId":"c","status":{"state":"TASK_STATE_SUBMITTED"},"artifacts":[]}}"#;
const WORKS: &str =
    r#"{"statusUpdate":{"taskId":"t","contextId":"c","status":{"state":"TASK_STATE_WORKING"}}}"#;
const PIECE: &str = r#"{"artifactUpdate":{"taskId":"t","artifact":{"artifactId":"a"}}}"#;
const DONE: &str = r#"{"statusUpdate":{"taskId":"t","status":{"state":"TASK_STATE_COMPLETED"}}}"#;

fn result(payload: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":"q","result":{payload}}}"#)
}

fn events(events: &[String]) -> String {
    events.iter().map(|it| format!("data: {it}\n\n")).collect()
}

fn outcome(decisions: &[Decision]) -> &Outcome {
    decisions[0].outcome.as_ref().unwrap()
}

fn told(decisions: &[Decision]) -> &ToolAnswer {
    outcome(decisions).tool.as_ref().unwrap()
}

fn task(state: &str) -> AgentAnswer {
    AgentAnswer {
        task: Some("t".to_owned()),
        context: Some("c".to_owned()),
        state: Some(state.to_owned()),
        ..AgentAnswer::default()
    }
}

#[tokio::test]
async fn what_came_of_a_task_is_recorded_and_passes_as_it_came() {
    let all = [TASK, WORKS, PIECE, DONE];
    let of_rpc = events(&all.map(result));
    let of_http = events(&all.map(str::to_owned));
    let stream = rpc("SendStreamingMessage", HELLO);
    let send = rpc("message/send", HELLO);
    let answer = AgentAnswer {
        artifacts: 1,
        updates: 2,
        ..task("TASK_STATE_COMPLETED")
    };
    let old = r#"{"kind":"task","id":"t","contextId":"c","status":{"state":"input-required"}}"#;
    let json = "application/json";
    let sse = "text/event-stream";
    for (path, body, kind, content, expected, id) in [
        (
            "/planner/",
            stream.as_str(),
            sse,
            of_rpc,
            answer.clone(),
            true,
        ),
        (
            "/planner/message:stream",
            HELLO,
            sse,
            of_http,
            answer,
            false,
        ),
        (
            "/planner/",
            &send,
            json,
            result(old),
            task("TASK_STATE_INPUT_REQUIRED"),
            true,
        ),
        (
            "/planner/v1/message:send",
            HELLO,
            json,
            TASK.to_owned(),
            task("TASK_STATE_SUBMITTED"),
            false,
        ),
    ] {
        let (_, got, decisions) = answered(("POST", path, body), kind, &content).await;
        assert_eq!(got, content);
        let told = told(&decisions);
        let result = ToolResult {
            id: id.then(|| "\"q\"".to_owned()),
            incomplete: expected.state.as_deref() == Some("TASK_STATE_INPUT_REQUIRED"),
            ..ToolResult::default()
        };
        assert_eq!(told.results, [result], "{path}");
        assert_eq!(told.agent.as_deref(), Some(&expected), "{path}");
        assert_eq!(told.not_understood, None);
        let streams = outcome(&decisions).messages.as_ref().map(|it| it.received);
        assert_eq!(streams, (kind == sse).then_some(4), "{path}");
    }
}

#[tokio::test]
async fn errors_are_recorded_with_their_codes_and_reasons() {
    let details = r#"[{"reason":"TASK_NOT_FOUND","domain":"a2a-protocol.org"}]"#;
    let of_rpc = format!(
        r#"{{"jsonrpc":"2.0","id":"q","error":{{"code":-32001,"message":"no","data":{details}}}}}"#
    );
    let of_http = format!(r#"{{"error":{{"code":404,"status":"NOT_FOUND","details":{details}}}}}"#);
    let problem = r#"{"type":"about:blank","status":503}"#.to_owned();
    let ask = rpc("GetTask", r#"{"id":"t"}"#);
    let json = "application/json";
    for (sent, status, kind, content, code, reason) in [
        (
            ("POST", "/planner/", ask.as_str()),
            "200 OK",
            json,
            of_rpc,
            -32001,
            "TASK_NOT_FOUND",
        ),
        (
            ("GET", "/planner/tasks/t", ""),
            "404 Not Found",
            json,
            of_http,
            404,
            "TASK_NOT_FOUND",
        ),
        (
            ("GET", "/planner/tasks/t", ""),
            "503 Service Unavailable",
            "application/problem+json",
            problem,
            503,
            "about:blank",
        ),
    ] {
        let (_, got, decisions) = answered_with(status, sent, kind, &content).await;
        assert_eq!(got, content);
        let told = told(&decisions);
        assert_eq!(told.results[0].error, Some(code));
        let agent = told.agent.as_ref().unwrap();
        assert_eq!(agent.reason.as_deref(), Some(reason));
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_recorded_as_far_as_it_came() {
    let world = by_name(Rules::Agents).build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        request("POST", "/planner/message:stream", HELLO),
    )
    .await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, HELLO.len()).await;
    let whole = events(&[TASK.to_owned(), WORKS.to_owned(), DONE.to_owned()]);
    let part = &whole[..whole.len() - 12];
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream";
    let length = whole.len();
    write(
        &mut upstream,
        format!("{head}\r\nContent-Length: {length}\r\n\r\n{part}"),
    )
    .await;
    drop(upstream);
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let got = read_some(&mut client, part.len()).await;
    assert_eq!(got, part.as_bytes());
    drop(client);
    let decisions = world.end().await;
    let told = told(&decisions);
    let expected = AgentAnswer {
        updates: 1,
        ..task("TASK_STATE_WORKING")
    };
    assert_eq!(told.agent.as_deref(), Some(&expected));
    let why = told.not_understood.as_deref().unwrap_or_default();
    assert!(why.contains("in the middle of an event"), "{why}");
    assert!(outcome(&decisions).error.is_some());
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_passes() {
    let ask = rpc("GetTask", r#"{"id":"t"}"#);
    let twice = r#"{"jsonrpc":"2.0","id":"q","id":"q","result":{}}"#;
    for (kind, content, why) in [
        ("application/json", twice, "twice"),
        ("text/html", "<html>", "its type is `text/html`"),
    ] {
        let sent = ("POST", "/planner/", ask.as_str());
        let (_, got, decisions) = answered(sent, kind, content).await;
        assert_eq!(got, content);
        let told = told(&decisions).not_understood.as_deref();
        assert!(told.is_some_and(|it| it.contains(why)), "{told:?}");
    }
}

#[tokio::test]
async fn a_stream_that_is_under_way_ends_where_its_agents_card_changes() {
    let world = by_name(Rules::Agents).build().await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type";
    let mut client = world.connect().await;
    write(
        &mut client,
        request("POST", "/planner/message:stream", HELLO),
    )
    .await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, HELLO.len()).await;
    let begun = events(&[TASK.to_owned()]);
    write(
        &mut upstream,
        format!("{head}: text/event-stream\r\n\r\n{begun}"),
    )
    .await;
    read_until(&mut client, &begun).await;

    let mut another = world.connect().await;
    let path = "/planner/.well-known/agent-card.json";
    write(&mut another, request("GET", path, "")).await;
    let mut card = world.accept().await;
    read_until(&mut card, "\r\n\r\n").await;
    let length = EVIL.len();
    let json = "application/json";
    write(
        &mut card,
        format!("{head}: {json}\r\nContent-Length: {length}\r\n\r\n{EVIL}"),
    )
    .await;
    let (refused, _) = read_response(&mut another).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    // The stream ends, and not as one that is over.
    let rest = read_all(&mut client).await.unwrap_or_default();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");

    let mut third = world.connect().await;
    write(&mut third, request("GET", "/planner/tasks/t", "")).await;
    let (refused, why) = read_response(&mut third).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(why.contains("The card agent_card of planner"), "{why}");
    drop((client, another, third));
    let decisions = world.end().await;
    let calls = decisions
        .iter()
        .filter(|it| it.action.kind == ActionKind::ToolCall);
    let calls: Vec<_> = calls.map(|it| (it.verdict, it.reason.code)).collect();
    let changed = (Verdict::Deny, ReasonCode::ToolDefinitionChanged);
    assert_eq!(calls, [ALLOWED, changed, changed]);
    let told = decisions[0].outcome.as_ref().unwrap();
    let agent = told.tool.as_ref().and_then(|it| it.agent.as_deref());
    assert_eq!(agent, Some(&task("TASK_STATE_SUBMITTED")));
}
