//! What servers of tools ask their clients in the middle of a call, and what these answer; and the older HTTP+SSE, where all
//! answers come by one stream.

use agentguard_model::{ActionKind, Decision, ReasonCode, Tool, Verdict};
use tokio::net::TcpStream;

use super::http::read_response;
use super::{Rules, World, by_name, codes, read_some, read_until, write};

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const DENIED: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::RuleDeny);
const NO_RULE: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::NoRule);

const ACCEPT: &str = "Accept: application/json, text/event-stream\r\n";

fn post(target: &str, body: &str, fields: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    )
}

fn call(tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"path":"/data/x"}}}}}}"#
    )
}

/// An event of a server's, in a chunk.
fn said(message: &str) -> String {
    let event = format!("event: message\ndata: {message}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// Reads a message that the upstream gets.
async fn came(upstream: &mut TcpStream, body: &str) {
    read_until(upstream, "\r\n\r\n").await;
    let got = read_some(upstream, body.len()).await;
    assert_eq!(String::from_utf8(got).unwrap(), body);
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn tool(decision: &Decision) -> &Tool {
    decision.action.tool.as_ref().unwrap()
}

/// A call in the middle of which the server asks this, and waits.
async fn asked(world: &World, question: &str) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    let body = call("read");
    write(&mut client, post("/mcp", &body, ACCEPT)).await;
    let mut upstream = world.accept().await;
    came(&mut upstream, &body).await;
    write(&mut upstream, format!("{STREAM}{}", said(question))).await;
    let got = read_until(&mut client, "\n\n").await;
    assert!(got.ends_with(&format!("data: {question}\n\n")), "{got}");
    (client, upstream)
}

/// The call comes to its end.
async fn goes_on(client: &mut TcpStream, upstream: &mut TcpStream) {
    let result = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
    write(upstream, format!("{}0\r\n\r\n", said(result))).await;
    let got = read_until(client, "\r\n0\r\n\r\n").await;
    assert!(got.contains(result), "{got}");
}

#[tokio::test]
async fn an_answer_to_what_a_server_asks_passes_where_it_is_allowed() {
    let world = by_name(Rules::AskedBack).build().await;
    let question =
        r#"{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{"messages":[]}}"#;
    let (mut client, mut upstream) = asked(&world, question).await;
    let answer = r#"{"jsonrpc":"2.0","id":3,"result":{"role":"assistant","content":{"type":"text","text":"x"},"model":"m"}}"#;
    let mut beside = world.connect().await;
    write(&mut beside, post("/mcp", answer, ACCEPT)).await;
    let mut second = world.accept().await;
    came(&mut second, answer).await;
    write(
        &mut second,
        "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let (head, _) = read_response(&mut beside).await;
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    goes_on(&mut client, &mut upstream).await;
    drop((client, upstream, beside, second));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED, ALLOWED]);
    assert_eq!(tool(&decisions[0]).name.as_deref(), Some("read"));
    let outcome = decisions[0].outcome.as_ref().unwrap();
    let told = outcome.tool.as_ref().unwrap();
    assert_eq!(told.asked, ["sampling/createMessage"]);
    assert_eq!(told.results.len(), 1);
    // The answer is a decision of its own.
    assert_eq!(tool(&decisions[1]).answers, ["sampling/createMessage"]);
    assert_eq!(tool(&decisions[1]).method, None);
    assert_eq!(decisions[1].matched[0].rule, "sampling");
    assert_eq!(decisions[1].outcome.as_ref().unwrap().status, Some(202));
}

#[tokio::test]
async fn an_answer_that_is_denied_does_not_come_to_the_server() {
    // One that could answer a question for the roots as well is denied for that it may be.
    for (answer, code) in [
        (
            r#"{"jsonrpc":"2.0","id":3,"result":{"action":"accept","content":{"key":"k"}}}"#,
            DENIED,
        ),
        (
            r#"{"jsonrpc":"2.0","id":3,"result":{"action":"decline"}}"#,
            DENIED,
        ),
        (
            r#"{"jsonrpc":"2.0","id":3,"result":{"roots":[{"uri":"file:///"}]}}"#,
            NO_RULE,
        ),
    ] {
        let world = by_name(Rules::AskedBack).build().await;
        let question = r#"{"jsonrpc":"2.0","id":3,"method":"elicitation/create","params":{"message":"Your key?"}}"#;
        let (mut client, mut upstream) = asked(&world, question).await;
        let mut beside = world.connect().await;
        write(&mut beside, post("/mcp", answer, ACCEPT)).await;
        let (head, told) = read_response(&mut beside).await;
        // It is no question, which would have an answer.
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(
            told.starts_with(r#"{"jsonrpc":"2.0","id":null,"error":{"code":403,"#),
            "{told}"
        );
        // The call goes on.
        goes_on(&mut client, &mut upstream).await;
        drop((client, upstream, beside));
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [ALLOWED, code], "{answer}");
        assert!(!tool(&decisions[1]).answers.is_empty(), "{answer}");
        assert!(told.contains(&decisions[1].id.to_string()), "{told}");
        let outcome = decisions[0].outcome.as_ref().unwrap();
        let asked = &outcome.tool.as_ref().unwrap().asked;
        assert_eq!(asked, &["elicitation/create"]);
    }
}

/// A stream of HTTP+SSE, to which belongs what is posted to `/mcp?session_id=s`, and what its server says behind that.
async fn opened(world: &World, more: &str) -> (TcpStream, TcpStream) {
    let mut stream = world.connect().await;
    let opens = "GET /mcp HTTP/1.1\r\nHost: api.example\r\nAccept: text/event-stream\r\n\r\n";
    write(&mut stream, opens).await;
    let mut events = world.accept().await;
    read_until(&mut events, "\r\n\r\n").await;
    let endpoint = format!(
        ": welcome\n\nretry: 3000\n\nid: 1\nevent: endpoint\ndata: /mcp?session_id=s\n\n{more}"
    );
    let endpoint = format!("{:x}\r\n{endpoint}\r\n", endpoint.len());
    write(&mut events, format!("{STREAM}{endpoint}")).await;
    read_until(&mut stream, "session_id=s\n\n").await;
    (stream, events)
}

/// As the clients of 2024-11-05 do: they take any answer.
const ANY: &str = "Accept: */*\r\n";

/// Its clients look at nothing of what they post but the status, and some end the session for one that is an error.
#[tokio::test]
async fn a_call_by_the_older_http_and_sse_is_refused_by_its_stream_which_goes_on() {
    let world = by_name(Rules::AskedBack).build().await;
    // In the midst of what the server says nothing else is said.
    let (mut stream, mut events) = opened(&world, "event: message\n").await;
    let mut client = world.connect().await;
    write(&mut client, post("/mcp?session_id=s", &call("write"), ANY)).await;
    let (head, accepted) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    assert_eq!(accepted, "Accepted");
    let asked = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let rest = format!("data: {asked}\n\n");
    write(&mut events, format!("{:x}\r\n{rest}\r\n", rest.len())).await;
    let told = read_until(&mut stream, "\"isError\":true").await;
    let told = told + &read_until(&mut stream, "\n\n").await;
    let (ping, refused) = (told.find(asked).unwrap(), told.find("\"isError\"").unwrap());
    assert!(ping < refused, "{told}");
    assert!(
        told.contains(
            r#"data: {"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"No rule"#
        ),
        "{told}"
    );

    // What waits for no answer is told in the log that clients show.
    let answer = r#"{"jsonrpc":"2.0","id":3,"result":{"action":"decline"}}"#;
    write(&mut client, post("/mcp?session_id=s", answer, ANY)).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    let logged = read_until(&mut stream, "\n\n").await;
    assert!(logged.contains(r#""method":"notifications/message","params":{"level":"error","logger":"agentguard","data":{"message":"Tell it nothing."#), "{logged}");

    let body = call("read");
    write(&mut client, post("/mcp?session_id=s", &body, ANY)).await;
    let mut upstream = world.accept().await;
    came(&mut upstream, &body).await;
    write(
        &mut upstream,
        "HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted",
    )
    .await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    let result = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}"#;
    write(&mut events, format!("{}0\r\n\r\n", said(result))).await;
    let got = read_until(&mut stream, "\r\n0\r\n\r\n").await;
    assert!(got.contains(result), "{got}");
    drop((stream, events, client, upstream));

    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED, NO_RULE, DENIED, ALLOWED]);
    assert_eq!(decisions[1].action.kind, ActionKind::ToolCall);
    assert_eq!(tool(&decisions[1]).name.as_deref(), Some("write"));
    assert!(told.contains(&decisions[1].id.to_string()), "{told}");
    assert!(logged.contains(&decisions[2].id.to_string()), "{logged}");
    // The results are with the stream by which its client had them: the refusal, and the server's.
    let told = decisions[0].outcome.as_ref().unwrap();
    let results = &told.tool.as_ref().unwrap().results;
    let results: Vec<_> = results
        .iter()
        .map(|it| (it.id.as_deref(), it.is_error))
        .collect();
    assert_eq!(results, [(Some("7"), true), (Some("7"), true)]);
    assert_eq!(decisions[3].outcome.as_ref().unwrap().status, Some(202));
}

/// To whom no stream belongs, or one that is over, is refused with a status.
#[tokio::test]
async fn a_stream_of_http_and_sse_tells_its_own_agent_alone_and_while_it_lasts() {
    let world = by_name(Rules::AskedBack).build().await;
    let (mut stream, mut events) = opened(&world, "").await;
    let refused = async |target: &str, client: &mut TcpStream| {
        write(client, post(target, &call("write"), ANY)).await;
        let (head, told) = read_response(client).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(
            told.starts_with(r#"{"jsonrpc":"2.0","id":7,"error":{"code":403,"#),
            "{told}"
        );
    };
    let mut client = world.connect().await;
    refused("/mcp?session_id=t", &mut client).await;
    world.comes_from(2);
    let mut other = world.connect().await;
    refused("/mcp?session_id=s", &mut other).await;
    // Of what cannot be read nobody knows what waits for it.
    world.comes_from(1);
    let mut own = world.connect().await;
    write(&mut own, post("/mcp?session_id=s", "{}", ANY)).await;
    let (head, _) = read_response(&mut own).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    // One that is long, as of a batch, is not kept until its client reads.
    let refusal = async |body: &str, client: &mut TcpStream| {
        write(client, post("/mcp?session_id=s", body, ANY)).await;
        let (head, _) = read_response(client).await;
        head.split(' ').nth(1).unwrap().to_owned()
    };
    let calls: Vec<_> = (100..164)
        .map(|id| call("write").replace(":7,", &format!(":{id},")))
        .collect();
    let long = format!("[{}]", calls.join(","));
    assert_eq!(refusal(&long, &mut own).await, "403");
    assert_eq!(refusal(&call("write"), &mut own).await, "202");
    read_until(&mut stream, "\"isError\":true").await;
    write(&mut events, "0\r\n\r\n").await;
    read_until(&mut stream, "0\r\n\r\n").await;
    refused("/mcp?session_id=s", &mut client).await;
    drop((stream, events, client, other, own));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions)[0], ALLOWED);
    // The stream, four calls, what cannot be read, and the messages of the batch each.
    assert_eq!(decisions.len(), 6 + 64);
}
