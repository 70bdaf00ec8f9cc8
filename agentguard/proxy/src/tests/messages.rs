//! Messages to servers of tools, which are read before they are decided.

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use futures_util::FutureExt as _;

use super::http::read_response;
use super::{Rules, by_name, codes, read_some, read_until, write};

fn post(body: &str, more: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: api.example\r\nAccept: application/json, text/event-stream\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    )
}

fn call(id: u32, tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    )
}

/// Sends a message, has the upstream answer it so, and gives what the client gets and what was decided.
async fn answered(body: &str, kind: &str, answer: &str) -> (String, String, Vec<Decision>) {
    let world = by_name(Rules::Tools).build().await;
    let mut client = world.connect().await;
    write(&mut client, post(body, "")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    assert!(read_some(&mut upstream, body.len()).await == body.as_bytes());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    );
    write(&mut upstream, answer).await;
    let (head, body) = read_response(&mut client).await;
    drop(client);
    (head, body, world.end().await)
}

#[tokio::test]
async fn a_call_is_sent_as_it_came_and_its_result_is_recorded() {
    let sent = call(7, "read", r#"{ "path" : "/data/x", "other": 1 }"#);
    let result = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}"#;
    let events = format!("event: message\ndata: {result}\n\n");
    for (kind, answer) in [("application/json", result), ("text/event-stream", &events)] {
        let (_, got, decisions) = answered(&sent, kind, answer).await;
        assert_eq!(got, answer);
        assert_eq!(codes(&decisions), [(Verdict::Allow, ReasonCode::RuleAllow)]);
        let action = &decisions[0].action;
        assert_eq!(action.kind, ActionKind::ToolCall);
        let tool = action.tool.as_ref().unwrap();
        assert_eq!(
            (tool.server.as_str(), tool.name.as_deref()),
            ("files", Some("read"))
        );
        // The one argument that a rule looks at; of the others the digest.
        assert_eq!(tool.values.len(), 1);
        assert_eq!(tool.values[0].values, ["/data/x"]);
        assert!(tool.arguments.as_ref().unwrap().starts_with("sha256:"));
        let told = decisions[0]
            .outcome
            .as_ref()
            .unwrap()
            .tool
            .as_ref()
            .unwrap();
        assert_eq!(told.results.len(), 1);
        assert!(told.results[0].is_error);
        assert_eq!(told.results[0].id.as_deref(), Some("7"));
    }
}

#[tokio::test]
async fn what_is_denied_is_an_answer_and_nothing_of_it_leaves() {
    let twice =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","name":"write"}}"#;
    for (body, more, status, code, kind, told) in [
        (
            call(7, "write", "{}"),
            "",
            200,
            ReasonCode::NoRule,
            ActionKind::ToolCall,
            r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"No rule allows"#,
        ),
        (
            call(7, "read", r#"{"path":"/etc"}"#),
            "",
            200,
            ReasonCode::NoRule,
            ActionKind::ToolCall,
            r#""isError":true"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"resources/read","params":{"uri":"x"}}"#
                .to_owned(),
            "",
            200,
            ReasonCode::NoRule,
            ActionKind::HttpRequest,
            r#"{"jsonrpc":"2.0","id":"a","error":{"code":403,"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":3,"result":{"role":"assistant","content":{},"model":"m"}}"#
                .to_owned(),
            "",
            403,
            ReasonCode::NoRule,
            ActionKind::HttpRequest,
            r#"{"jsonrpc":"2.0","id":null,"error":"#,
        ),
        (
            twice.to_owned(),
            "",
            403,
            ReasonCode::NotUnderstood,
            ActionKind::HttpRequest,
            r#"{"jsonrpc":"2.0","id":null,"error":"#,
        ),
        (
            call(7, "read", r#"{"path":"/data/x"}"#),
            "Mcp-Method: tools/call\r\nMcp-Name: write\r\n",
            403,
            ReasonCode::NotUnderstood,
            ActionKind::HttpRequest,
            r#"{"jsonrpc":"2.0","id":null,"error":"#,
        ),
        // Who decodes it as it says runs another tool.
        (
            call(
                7,
                "read",
                r#"{"path":"/data/+ACI-},+ACI-name+ACI-:+ACI-write+ACI-,+ACI-z+ACI-:{+ACI-k+ACI-:+ACI-"}"#,
            ),
            "Content-Type: application/json; charset=utf-7\r\n",
            403,
            ReasonCode::NotUnderstood,
            ActionKind::HttpRequest,
            r#"{"jsonrpc":"2.0","id":null,"error":"#,
        ),
    ] {
        let world = by_name(Rules::Tools).build().await;
        let mut client = world.connect().await;
        write(&mut client, post(&body, more)).await;
        let (head, answer) = read_response(&mut client).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(answer.contains(told), "{answer}");
        assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [(Verdict::Deny, code)], "{body}");
        assert_eq!(decisions[0].action.kind, kind);
        assert!(answer.contains(&decisions[0].id.to_string()), "{answer}");
    }
}

#[tokio::test]
async fn a_batch_is_decided_message_by_message() {
    let (one, two) = (
        call(1, "read", r#"{"path":"/data/1"}"#),
        call(2, "read", r#"{"path":"/data/2"}"#),
    );
    let answer = r#"[{"jsonrpc":"2.0","id":2,"result":{"isError":true}},{"jsonrpc":"2.0","id":1,"result":{}}]"#;
    let (_, got, decisions) = answered(&format!("[{one},{two}]"), "application/json", answer).await;
    assert_eq!(got, answer);
    let allowed = (Verdict::Allow, ReasonCode::RuleAllow);
    assert_eq!(codes(&decisions), [allowed, allowed]);
    for (decision, failed) in decisions.iter().zip([false, true]) {
        let outcome = decision.outcome.as_ref().unwrap();
        assert_eq!(outcome.status, Some(200));
        let results = &outcome.tool.as_ref().unwrap().results;
        assert_eq!(
            results.iter().map(|it| it.is_error).collect::<Vec<_>>(),
            [failed]
        );
    }

    let world = by_name(Rules::Tools).build().await;
    let mut client = world.connect().await;
    let body = format!("[{one},{},{two}]", call(9, "write", "{}"));
    write(&mut client, post(&body, "")).await;
    let (_, answer) = read_response(&mut client).await;
    for start in [
        r#"[{"jsonrpc":"2.0","id":1,"#,
        r#",{"jsonrpc":"2.0","id":9,"#,
        r#",{"jsonrpc":"2.0","id":2,"#,
    ] {
        assert!(answer.contains(start), "{answer}");
    }
    assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
    drop(client);
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [allowed, (Verdict::Deny, ReasonCode::NoRule), allowed]
    );
    for decision in [&decisions[0], &decisions[2]] {
        let error = decision.outcome.as_ref().unwrap().error.as_deref();
        assert_eq!(
            error,
            Some("another message of its batch was denied, so that none was sent")
        );
    }
}

#[tokio::test]
async fn a_list_of_tools_has_those_that_may_be_called() {
    let ask = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"write"},{"name":"read","inputSchema":{"a":1.0}},{"title":"x"}]}}"#;
    let shown =
        r#"{"id":1,"jsonrpc":"2.0","result":{"tools":[{"inputSchema":{"a":1.0},"name":"read"}]}}"#;
    let events = format!(": hello\n\nid: 4\nevent: message\ndata: {list}\n\n");
    let shown_events = format!(": hello\n\nid: 4\nevent: message\ndata: {shown}\n\n");
    for (kind, answer, expected) in [
        ("application/json", list, shown),
        ("text/event-stream", &events, &shown_events),
    ] {
        let (_, got, decisions) = answered(ask, kind, answer).await;
        assert_eq!(got, expected);
        let told = decisions[0]
            .outcome
            .as_ref()
            .unwrap()
            .tool
            .as_ref()
            .unwrap();
        assert_eq!(told.left_out, ["write", ""]);
        assert_eq!(told.listed, Some(1));
    }
    // What cannot be read lists nobody knows what.
    for (kind, answer) in [
        ("application/json", r#"{"result":{"tools":[],"tools":[]}}"#),
        ("text/event-stream", "data: {\"tools\":\n\n"),
        // For who splits lines as Python does, there is another event in the comment.
        (
            "text/event-stream",
            ": x\u{2028}data: {\"result\":{\"tools\":[]}}\ndata: {}\n\n",
        ),
        ("text/plain", list),
    ] {
        let (head, got, decisions) = answered(ask, kind, answer).await;
        let events = kind == "text/event-stream";
        let status = if events { 200 } else { 502 };
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        if events {
            // Who waits has an answer.
            let error = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{";
            assert!(got.starts_with(error), "{got}");
        }
        assert!(
            got.contains("the list of tools cannot be filtered"),
            "{got}"
        );
        let error = decisions[0]
            .outcome
            .as_ref()
            .unwrap()
            .error
            .as_ref()
            .unwrap();
        assert!(error.contains("cannot be filtered"), "{error}");
    }
}

/// A server may ask something of its client before it answers.
#[tokio::test]
async fn a_list_that_comes_by_a_stream_does_not_hold_what_comes_before_it() {
    let world = by_name(Rules::Tools).build().await;
    let mut client = world.connect().await;
    let ask = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    write(&mut client, post(ask, "")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, ask.len()).await;
    let chunk = |event: &str| format!("{:x}\r\n{event}\r\n", event.len());
    let asks = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"roots/list\"}\n\n";
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    write(&mut upstream, format!("{head}{}", chunk(asks))).await;
    read_until(&mut client, asks).await;
    let list = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"read\"},{\"name\":\"write\"}]}}\n\n";
    write(&mut upstream, chunk(list)).await;
    let got = read_until(&mut client, "\n\n").await;
    assert!(got.contains("read") && !got.contains("write"), "{got}");
    write(&mut upstream, "0\r\n\r\n").await;
    read_until(&mut client, "0\r\n\r\n").await;
    drop(client);
    let decisions = world.end().await;
    let told = decisions[0]
        .outcome
        .as_ref()
        .unwrap()
        .tool
        .as_ref()
        .unwrap();
    assert_eq!(
        (told.listed, told.left_out.as_slice()),
        (Some(1), &["write".to_owned()][..])
    );
}

#[tokio::test]
async fn streams_and_ends_of_sessions_pass_and_what_servers_ask_is_recorded() {
    let world = by_name(Rules::Tools).build().await;
    let mut client = world.connect().await;
    write(
        &mut client,
        "GET /mcp HTTP/1.1\r\nHost: api.example\r\nAccept: text/event-stream\r\n\r\n",
    )
    .await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    let events = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"sampling/createMessage\",\"params\":{}}\n\n";
    let fields = format!(
        "Content-Type: text/event-stream\r\nContent-Length: {}",
        events.len()
    );
    write(
        &mut upstream,
        format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{events}"),
    )
    .await;
    assert_eq!(read_response(&mut client).await.1, events);
    write(
        &mut client,
        "PUT /mcp HTTP/1.1\r\nHost: api.example\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    // Beside the server's paths it is plain HTTP.
    write(
        &mut client,
        "POST /other HTTP/1.1\r\nHost: api.example\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    read_response(&mut client).await;
    drop(client);
    let decisions = world.end().await;
    let kinds = [Verdict::Allow, Verdict::Deny, Verdict::Deny];
    assert_eq!(
        codes(&decisions).iter().map(|it| it.0).collect::<Vec<_>>(),
        kinds
    );
    let asked = &decisions[0]
        .outcome
        .as_ref()
        .unwrap()
        .tool
        .as_ref()
        .unwrap()
        .asked;
    assert_eq!(asked, &["sampling/createMessage"]);
    assert!(
        decisions[1]
            .action
            .tool
            .as_ref()
            .unwrap()
            .not_understood
            .is_some()
    );
    assert_eq!(decisions[2].action.tool, None);
}
