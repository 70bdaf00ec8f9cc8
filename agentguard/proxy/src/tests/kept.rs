//! Contents that rules have kept.

use agentguard_model::DecisionId;
use agentguard_model::contents::{Content, Contents, Kept};
use serde_json::json;

use super::calls::packed;
use super::http::read_response;
use super::turns::{event, open};
use super::websocket::masked;
use super::{Rules, World, by_name, read_some, read_until, write};

/// Ends the world, and gives what was kept, in the order of the decisions.
async fn kept(world: World) -> Vec<(Option<String>, Option<String>)> {
    let log = world.log.clone();
    let decisions = world.end().await;
    let all = log.contents.lock().unwrap();
    let of = |id: DecisionId| {
        let mut own = all.iter().filter(|(of, _)| *of == id);
        let contents = own.next().map(|(_, contents)| contents);
        assert!(own.next().is_none(), "twice");
        let said = |content: &Option<Content>| match content.as_ref().map(|it| &it.kept) {
            Some(Kept::Text(text)) => Some(text.clone()),
            Some(Kept::Base64(_)) => panic!("no text"),
            None => None,
        };
        let nothing = Contents::default();
        let contents = contents.unwrap_or(&nothing);
        (said(&contents.request), said(&contents.response))
    };
    decisions.iter().map(|it| of(it.id)).collect()
}

async fn exchange(world: &World, request: &[u8], sent: usize, answer: &[u8]) {
    let mut client = world.connect().await;
    write(&mut client, request).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, sent).await;
    write(&mut upstream, answer).await;
    read_response(&mut client).await;
}

fn post(path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: api.example\r\nContent-Length: {}\r\n{more}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn what_passes_is_kept_without_its_coding() {
    let world = by_name(Rules::Kept).build().await;
    let (sent, answer) = (packed(b"what is sent"), packed(b"what is answered"));
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    let request = post("/upload", "Content-Encoding: gzip\r\n", &sent);
    let answer = [head.as_bytes(), &answer].concat();
    let mut client = world.connect().await;
    write(&mut client, request).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    read_some(&mut upstream, sent.len()).await;
    write(&mut upstream, &answer).await;
    read_until(&mut client, "\r\n\r\n").await;
    read_some(&mut client, answer.len() - head.len()).await;
    drop((client, upstream));
    let kept = kept(world).await;
    assert_eq!(kept, [(some("what is sent"), some("what is answered"))]);
}

/// Of a call as a rule changed it.
#[tokio::test]
async fn a_call_is_kept_as_it_was_sent() {
    let world = by_name(Rules::Kept).build().await;
    let call = r#"{"model":"small","user":"me","messages":[]}"#;
    let changed = r#"{"model":"small","user":"[redacted]","messages":[]}"#;
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let request = post("/v1/chat/completions", "", call.as_bytes());
    exchange(&world, &request, changed.len(), answer.as_bytes()).await;
    assert_eq!(kept(world).await, [(some(changed), some("{}"))]);
}

#[tokio::test]
async fn what_has_no_content_has_none_kept() {
    let world = by_name(Rules::Kept).build().await;
    let request = b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    exchange(&world, request, 0, answer).await;
    assert_eq!(kept(world).await, [(None, None)]);
}

/// Each message of a batch stands for itself, and what it came in is that of all of them.
#[tokio::test]
async fn a_batch_is_kept_for_each_of_its_messages() {
    let world = by_name(Rules::Kept).build().await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
    let other = call.replace(":1,", ":2,");
    let batch = format!("[{call},{other}]");
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]";
    let request = post("/told", "", batch.as_bytes());
    exchange(&world, &request, batch.len(), answer.as_bytes()).await;
    let own = (some(&batch), some("[]"));
    assert_eq!(kept(world).await, [own.clone(), own]);
}

#[tokio::test]
async fn calls_of_a_connection_are_kept_one_by_one() {
    let world = by_name(Rules::Kept).build().await;
    let (mut client, mut upstream) = open(&world).await;
    let call = r#"{"type":"response.create","model":"small","input":"hi"}"#;
    let changed = call;
    let done = json!({ "type": "response.completed", "response": { "status": "completed" } });
    for _ in 0..2 {
        write(&mut client, masked(0x81, call)).await;
        read_some(&mut upstream, 6 + changed.len()).await;
        let event = event(&done);
        write(&mut upstream, &event).await;
        read_some(&mut client, event.len()).await;
    }
    drop((client, upstream));
    let kept = kept(world).await;
    let own = (some(changed), Some(done.to_string()));
    assert_eq!(kept, [(None, None), own.clone(), own]);
}

/// Of what is not to be kept nothing is.
#[tokio::test]
async fn without_a_rule_nothing_is_kept() {
    let world = by_name(Rules::CallsUnread).build().await;
    let request = post("/upload", "", b"what is sent");
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    exchange(&world, &request, 12, answer).await;
    let log = world.log.clone();
    world.end().await;
    assert!(log.contents.lock().unwrap().is_empty());
}
