//! Requests for answers to calls that were made before, and what is sent in the place of such an answer.

use agentguard_model::{LlmOperation, ReasonCode, Verdict};

use super::asked_tools::whole;
use super::http::read_response;
use super::{Rules, by_name, codes, read_some, read_until, write};

const ALLOW: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const DENY: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::RuleDeny);
const NONE: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::NoRule);
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    let size = match body.len() {
        0 => String::new(),
        size => format!("Content-Length: {size}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: api.example\r\n{fields}{size}\r\n{body}")
}

/// As `client.chat.completions.update(id, metadata=…)` of `OpenAI`'s SDK: the whole answer is told again.
#[tokio::test]
async fn metadata_of_an_answer_is_changed_and_the_answer_read() {
    let body = r#"{"metadata":{"a":"b"}}"#;
    for (tool, expected) in [("look", &[ALLOW][..]), ("shell", &[ALLOW, DENY])] {
        let world = by_name(Rules::CallsAsked).build().await;
        let mut client = world.connect().await;
        let sent = request("POST", "/v1/chat/completions/c_1", "", body);
        write(&mut client, sent).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        assert_eq!(read_some(&mut upstream, body.len()).await, body.as_bytes());
        let answer = whole(tool);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        write(&mut upstream, format!("{head}{answer}")).await;
        let (_, got) = read_response(&mut client).await;
        assert_eq!(got == answer, tool == "look", "{got}");
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), expected, "{tool}");
        let llm = decisions[0].action.llm.as_ref().unwrap();
        assert_eq!(
            (llm.operation, &llm.model, &llm.not_understood),
            (LlmOperation::Retrieval, &None, &None)
        );
    }
}

/// An allowance of answers that are fetched is none of what else is sent there, whatever cannot be read.
#[tokio::test]
async fn what_is_sent_in_the_place_of_an_answer_is_no_retrieval() {
    let call = r#"{"model":"large","metadata":{}}"#;
    let metadata = r#"{"metadata":null}"#;
    for (sent, expected) in [
        (request("GET", "/v1/responses/r", "", ""), None),
        (
            request("POST", "/v1/chat/completions/c", "", metadata),
            None,
        ),
        (request("GET", "/v1/chat/completions", "", ""), None),
        (
            request("GET", "/v1/chat/completions/c/messages", "", ""),
            None,
        ),
        (request("GET", "/v1/conversations/c/items", "", ""), None),
        (
            request("GET", "/v1/chat/deferred-completion/d", "", ""),
            None,
        ),
        (
            request("GET", "/v1/conversations/c/items", UPGRADE, ""),
            Some(LlmOperation::Chat),
        ),
        (
            request("POST", "/v1/chat/completions/batch", "", call),
            Some(LlmOperation::Chat),
        ),
        (
            request("POST", "/v1/chat/completions/c?model=x", "", metadata),
            Some(LlmOperation::Chat),
        ),
        (
            request("PUT", "/v1/chat/completions/c", "", metadata),
            Some(LlmOperation::Chat),
        ),
        (
            request("POST", "/v1/responses/r", "", metadata),
            Some(LlmOperation::Chat),
        ),
        (
            request("GET", "/v1/responses/r/cancel", "", ""),
            Some(LlmOperation::Chat),
        ),
        (
            request("POST", "/v1/messages/batches/b/results", "", call),
            Some(LlmOperation::Chat),
        ),
        (
            request("GET", "/v1/responses/r", UPGRADE, ""),
            Some(LlmOperation::Chat),
        ),
        (
            request("GET", "/v1/chat/completions/c", UPGRADE, ""),
            Some(LlmOperation::Chat),
        ),
    ] {
        let world = by_name(Rules::CallsFetched).build().await;
        let mut client = world.connect().await;
        write(&mut client, &sent).await;
        if expected.is_none() {
            let mut upstream = world.accept().await;
            read_until(&mut upstream, "\r\n\r\n").await;
        } else {
            let (head, _) = read_response(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 4"), "{sent} {head}");
        }
        drop(client);
        let decisions = world.end().await;
        let code = if expected.is_none() { ALLOW } else { NONE };
        assert_eq!(codes(&decisions), [code], "{sent}");
        let llm = decisions[0].action.llm.as_ref().unwrap();
        let operation = expected.unwrap_or(LlmOperation::Retrieval);
        assert_eq!(llm.operation, operation, "{sent}");
        let not_understood = llm.not_understood.is_some();
        assert_eq!(not_understood, expected.is_some(), "{sent}");
    }
}
