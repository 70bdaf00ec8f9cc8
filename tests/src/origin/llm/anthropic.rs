//! Anthropic: Messages.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::{Content, Fault, Said, called, named, words};

pub(super) fn answer(fields: &HeaderMap, body: &[u8]) -> Result<Content, Fault> {
    said(&read(fields, body)?)
}

/// What a message would read.
pub(super) fn count(fields: &HeaderMap, body: &[u8]) -> Result<Content, Fault> {
    counted(&read(fields, body)?)
}

/// As [`count`], of what was read.
pub(super) fn counted(asked: &Value) -> Result<Content, Fault> {
    for field in ["model", "messages"] {
        if asked[field].is_null() {
            return Err(lacks(field));
        }
    }
    let tokens = said_in_message(asked).input_tokens;
    Ok(Content::Json(json!({ "input_tokens": tokens })))
}

fn read(fields: &HeaderMap, body: &[u8]) -> Result<Value, Fault> {
    if !fields.contains_key("x-api-key") && !fields.contains_key(header::AUTHORIZATION) {
        let kind = "authentication_error";
        let message = "x-api-key header is required";
        return Err(refuse(StatusCode::UNAUTHORIZED, kind, message));
    }
    let bad = |message| refuse(StatusCode::BAD_REQUEST, "invalid_request_error", message);
    if !fields.contains_key("anthropic-version") {
        return Err(bad("anthropic-version: header is required"));
    }
    serde_json::from_slice(body).map_err(|_| bad("The request body is not valid JSON"))
}

/// As [`answer`], of what was read.
pub(super) fn said(asked: &Value) -> Result<Content, Fault> {
    for field in ["model", "messages", "max_tokens"] {
        if asked[field].is_null() {
            return Err(lacks(field));
        }
    }
    let model = asked["model"].as_str().unwrap_or_default();
    if !model.starts_with("claude-") {
        let message = format!("model: {model}");
        return Err(refuse(StatusCode::NOT_FOUND, "not_found_error", &message));
    }
    Ok(if asked["stream"] == true {
        Content::Events(message_events(asked))
    } else {
        Content::Json(message(asked))
    })
}

fn refuse(status: StatusCode, kind: &str, message: &str) -> Fault {
    let told = json!({
        "type": "error",
        "error": { "type": kind, "message": message },
        "request_id": "req_1",
    });
    Fault { status, told }
}

fn lacks(field: &str) -> Fault {
    let message = format!("{field}: Field required");
    refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &message)
}

fn said_in_message(asked: &Value) -> Said {
    Said::on(
        &asked["messages"],
        &asked["system"],
        &[&asked["max_tokens"]],
    )
}

/// The tool that is called: one that is offered, as long as none has answered.
fn message_tool(asked: &Value) -> Option<&str> {
    let messages = asked["messages"].as_array().into_iter().flatten();
    let mut blocks = messages.flat_map(|it| it["content"].as_array().into_iter().flatten());
    let answered = blocks.any(|block| block["type"] == "tool_result");
    called(&asked["tools"][0]).filter(|_| !answered)
}

fn message_stop(asked: &Value, said: &Said) -> &'static str {
    match message_tool(asked) {
        Some(_) => "tool_use",
        None if said.cut => "max_tokens",
        None => "end_turn",
    }
}

fn message_call(name: &str, input: &Value) -> Value {
    json!({ "type": "tool_use", "id": "toolu_1", "name": name, "input": input })
}

fn message_object(
    asked: &Value,
    content: &[Value],
    stop: Option<&str>,
    said: &Said,
    written: usize,
) -> Value {
    json!({
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": content,
        "stop_reason": stop,
        "stop_sequence": null,
        "usage": {
            "input_tokens": said.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": { "ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0 },
            "output_tokens": written,
            "service_tier": "standard",
        },
    })
}

pub(super) fn message(asked: &Value) -> Value {
    let said = said_in_message(asked);
    let content = match message_tool(asked) {
        Some(name) => message_call(name, &json!({ "said": said.text() })),
        None => json!({ "type": "text", "text": said.text() }),
    };
    message_object(
        asked,
        &[content],
        Some(message_stop(asked, &said)),
        &said,
        said.output_tokens(),
    )
}

fn message_events(asked: &Value) -> Vec<Bytes> {
    message_values(asked).iter().map(named).collect()
}

pub(super) fn message_values(asked: &Value) -> Vec<Value> {
    let said = said_in_message(asked);
    let begin = message_object(asked, &[], None, &said, 1);
    let (block, deltas): (_, Vec<Value>) = match message_tool(asked) {
        Some(name) => {
            let arguments = json!({ "said": said.text() }).to_string();
            let pieces = words(&arguments).into_iter();
            let pieces = pieces.map(|it| json!({ "type": "input_json_delta", "partial_json": it }));
            (message_call(name, &json!({})), pieces.collect())
        }
        None => {
            let said = said.words.iter();
            let said = said.map(|word| json!({ "type": "text_delta", "text": word }));
            (json!({ "type": "text", "text": "" }), said.collect())
        }
    };
    let mut events = vec![
        json!({ "type": "message_start", "message": begin }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "ping" }),
    ];
    events.extend(
        deltas
            .into_iter()
            .map(|delta| json!({ "type": "content_block_delta", "index": 0, "delta": delta })),
    );
    let usage = json!({
        "input_tokens": said.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": said.output_tokens(),
    });
    let end = json!({ "stop_reason": message_stop(asked, &said), "stop_sequence": null });
    events.extend([
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": end, "usage": usage }),
        json!({ "type": "message_stop" }),
    ]);
    events
}
