//! Sessions of servers of tools.

use agentguard_model::{ClaimSource, ReasonCode, Verdict};

use super::http::read_response;
use super::{Rules, by_name, read_some, read_until, write};

fn asks(session: &str, body: &str) -> String {
    let session = match session {
        "" => String::new(),
        id => format!("Mcp-Session-Id: {id}\r\n"),
    };
    format!(
        "POST /mcp HTTP/1.1\r\nHost: api.example\r\nAccept: application/json, text/event-stream\r\n{session}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"read","arguments":{"path":"/data/a"}}}"#;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

/// The server gives one agent a session; another one that names it is refused, and the first goes on.
#[tokio::test]
async fn a_session_is_no_other_agent_s() {
    let world = by_name(Rules::Tools).build().await;
    let mut first = world.connect().await;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: s1\r\nContent-Length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    write(&mut first, asks("", INITIALIZE)).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, INITIALIZE.len()).await;
    write(&mut upstream, answer.clone()).await;
    let (head, _) = read_response(&mut first).await;
    assert!(head.contains("Mcp-Session-Id: s1"), "{head}");

    world.comes_from(2);
    let mut other = world.connect().await;
    write(&mut other, asks("s1", CALL)).await;
    // As agents show it to their model.
    let (_, body) = read_response(&mut other).await;
    assert!(
        body.contains(r#""isError":true"#) && body.contains("another agent's"),
        "{body}"
    );
    drop(other);

    write(&mut first, asks("s1", INITIALIZE)).await;
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert!(head.contains("Mcp-Session-Id: s1"), "{head}");
    read_some(&mut upstream, INITIALIZE.len()).await;
    write(&mut upstream, answer).await;
    let (head, _) = read_response(&mut first).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    drop(first);
    let decisions = world.end().await;
    // Whose a request is by its session, it says itself.
    let sessions = decisions.iter().map(|it| {
        let mut claims = it.action.claims.iter();
        let claim = claims.find(|it| it.source == ClaimSource::Mcp);
        claim.and_then(|it| it.context.session.clone())
    });
    let said: Vec<_> = sessions.flatten().collect();
    assert_eq!(said, ["s1"]);
    let denied: Vec<_> = decisions
        .iter()
        .filter(|it| it.verdict == Verdict::Deny)
        .collect();
    let [denied] = denied.as_slice() else {
        panic!("{decisions:#?}");
    };
    assert_eq!(denied.reason.code, ReasonCode::SessionNotOwn);
    assert!(denied.enforced);
}
