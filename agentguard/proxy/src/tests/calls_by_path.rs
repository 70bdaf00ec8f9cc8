//! Calls of language models of which the path says the model, and whether the answer is a stream.

use agentguard_model::{ActionKind, ReasonCode, Verdict};
use futures_util::FutureExt as _;

use super::http::read_response;
use super::{Rules, by_name, codes, read_some, read_until, write};

fn call(method: &str, path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: api.example\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    )
}

/// Without `alt=sse` a stream is a list, which comes in pieces.
#[tokio::test]
async fn a_stream_that_is_a_list_is_read_as_it_comes() {
    let world = by_name(Rules::CallsByPath).build().await;
    let mut client = world.connect().await;
    let body = r#"{"contents":[],"generation_config":{"max_output_tokens":9}}"#;
    let path = "/v1/models/small%3AstreamGenerateContent";
    write(&mut client, call("POST", path, "", body)).await;
    let mut upstream = world.accept().await;
    // Sent as it came.
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert!(head.starts_with(&format!("POST {path} ")), "{head}");
    assert!(read_some(&mut upstream, body.len()).await == body.as_bytes());
    let fields = "Content-Type: application/json\r\nTransfer-Encoding: chunked";
    write(
        &mut upstream,
        format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"),
    )
    .await;
    let answer = "[{\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"name\":\"look\",\"args\":{}}}]}}]}\n,\r\n\
        {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":7,\"totalTokenCount\":9},\"modelVersion\":\"small-1\"}]";
    for piece in answer.as_bytes().chunks(50) {
        let piece = std::str::from_utf8(piece).unwrap();
        write(&mut upstream, format!("{:x}\r\n{piece}\r\n", piece.len())).await;
    }
    write(&mut upstream, "0\r\n\r\n").await;
    read_until(&mut client, "0\r\n\r\n").await;
    drop(client);
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [(Verdict::Allow, ReasonCode::RuleAllow)]);
    let llm = decisions[0].action.llm.as_ref().unwrap();
    assert_eq!(llm.model.as_deref(), Some("small"));
    assert_eq!((llm.stream, llm.max_output_tokens), (true, Some(9)));
    let told = decisions[0].outcome.as_ref().unwrap().llm.as_ref().unwrap();
    assert_eq!(told.model.as_deref(), Some("small-1"));
    assert_eq!(told.tool_calls[0].name, "look");
    let usage = told.usage.unwrap();
    assert_eq!(
        (usage.input_tokens, usage.output_tokens),
        (Some(7), Some(2))
    );
    assert_eq!(told.not_understood, None);
}

/// Google's servers take the method from a field, where there is one.
#[tokio::test]
async fn what_is_denied_by_its_path_is_denied_with_any_method_and_spelling() {
    let override_method = "X-HTTP-Method-Override: POST\r\n";
    let other = r#"{"model":"models/large"}"#;
    let twice = r#"{"tools":[],"generationConfig":{"maxOutputTokens":1,"max_output_tokens":2}}"#;
    for (method, path, fields, body, code) in [
        (
            "POST",
            "/v1/models/large:generateContent",
            "",
            "{}",
            ReasonCode::RuleDeny,
        ),
        (
            "POST",
            "/v1/Models%2FLarge%3agenerateContent",
            "",
            "{}",
            ReasonCode::RuleDeny,
        ),
        // What is not understood may be a call of that model.
        (
            "GET",
            "/v1/models/large:generateContent",
            override_method,
            "",
            ReasonCode::NotUnderstood,
        ),
        (
            "POST",
            "/v1/models/small:generateContent",
            "",
            other,
            ReasonCode::NotUnderstood,
        ),
        (
            "POST",
            "/v1/models/small:generateContent",
            "",
            twice,
            ReasonCode::NotUnderstood,
        ),
        (
            "POST",
            "/google.ai.generativelanguage.v1.GenerativeService/GenerateContent",
            "",
            "\u{0}\u{0}\u{0}\u{0}\u{1}x",
            ReasonCode::NotUnderstood,
        ),
        // Of this the path says the model, which no rule denies; nothing else is known.
        (
            "POST",
            "/v1/publishers/meta/models/llama:rawPredict",
            "",
            "{}",
            ReasonCode::NotUnderstood,
        ),
    ] {
        let world = by_name(Rules::CallsByPath).build().await;
        let mut client = world.connect().await;
        write(&mut client, call(method, path, fields, body)).await;
        let (head, answer) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{path} {head}");
        let shape = r#"{"error":{"code":403,"message":""#;
        assert!(answer.starts_with(shape), "{path} {answer}");
        assert!(answer.contains("PERMISSION_DENIED"), "{path} {answer}");
        assert!(world.upstream.accept().now_or_never().is_none(), "dialled");
        drop(client);
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [(Verdict::Deny, code)], "{path}");
        assert_eq!(decisions[0].action.kind, ActionKind::LlmCall);
    }
}

/// Also what a provider speaks beside its own form is refused in that.
#[tokio::test]
async fn a_refusal_has_the_form_of_what_was_called() {
    let world = by_name(Rules::CallsByPath).build().await;
    let mut client = world.connect().await;
    let body = r#"{"model":"large","messages":[]}"#;
    let path = "/v1beta/openai/chat/completions";
    write(&mut client, call("POST", path, "", body)).await;
    let (_, answer) = read_response(&mut client).await;
    assert!(
        answer.starts_with(r#"{"error":{"message":"Not this."#),
        "{answer}"
    );
    assert!(answer.contains("invalid_request_error"), "{answer}");
    drop(client);
    world.end().await;
}

/// What is kept at Google is fetched, looked for and deleted there as elsewhere. Where a request names another method than it
/// has, nobody knows which of these it is, and whether its answer tells what was kept.
#[tokio::test]
async fn what_google_keeps_is_fetched_and_deleted_but_by_no_other_method() {
    let list = "/v1beta/openai/chat/completions";
    let kept = "/v1beta/openai/chat/completions/c";
    let own = "/v1beta/interactions/i";
    let names = "X-HTTP-Method-Override: GET\r\n";
    let body = r#"{"model":"small","messages":[]}"#;
    for (method, path, fields, body, kind, allowed) in [
        ("GET", list, "", "", ActionKind::LlmCall, true),
        ("GET", kept, "", "", ActionKind::LlmCall, true),
        ("HEAD", list, "", "", ActionKind::HttpRequest, true),
        ("HEAD", kept, "", "", ActionKind::HttpRequest, true),
        ("DELETE", kept, "", "", ActionKind::HttpRequest, true),
        ("GET", own, "", "", ActionKind::LlmCall, true),
        ("DELETE", own, "", "", ActionKind::HttpRequest, true),
        ("POST", list, "", body, ActionKind::LlmCall, true),
        ("GET", kept, names, "", ActionKind::LlmCall, false),
        ("HEAD", kept, names, "", ActionKind::LlmCall, false),
        ("DELETE", kept, names, "", ActionKind::LlmCall, false),
        ("DELETE", own, names, "", ActionKind::LlmCall, false),
        (
            "DELETE",
            "/v1beta/interactions/i?%24httpMethod=GET",
            "",
            "",
            ActionKind::LlmCall,
            false,
        ),
        (
            "POST",
            kept,
            names,
            r#"{"metadata":null}"#,
            ActionKind::LlmCall,
            false,
        ),
        // A list of what is kept would be the answer.
        ("POST", list, names, body, ActionKind::LlmCall, false),
    ] {
        let world = by_name(Rules::CallsByPath).build().await;
        let mut client = world.connect().await;
        write(&mut client, call(method, path, fields, body)).await;
        if allowed {
            let mut upstream = world.accept().await;
            let head = read_until(&mut upstream, "\r\n\r\n").await;
            assert!(head.starts_with(&format!("{method} {path} ")), "{head}");
        } else {
            let head = read_until(&mut client, "\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 403 "), "{method} {path} {head}");
        }
        drop(client);
        let decisions = world.end().await;
        let expected = match allowed {
            true => (Verdict::Allow, ReasonCode::RuleAllow),
            false => (Verdict::Deny, ReasonCode::NotUnderstood),
        };
        assert_eq!(codes(&decisions), [expected], "{method} {path} {fields}");
        assert_eq!(decisions[0].action.kind, kind, "{method} {path} {fields}");
    }
}
