//! Amazon Bedrock: Converse for all models, and Invoke for those of Anthropic.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Crc;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::{Answer, Content, Fault, Said, anthropic, called};

const EVENTS: &str = "application/vnd.amazon.eventstream";

pub(super) fn answer(path: &str, fields: &HeaderMap, body: &[u8]) -> Answer {
    let number = "x-amzn-requestid";
    match said(path, fields, body) {
        Ok((content, counted)) => {
            let counted = counted.map(|(input, output)| {
                [
                    ("x-amzn-bedrock-input-token-count", input.to_string()),
                    ("x-amzn-bedrock-output-token-count", output.to_string()),
                ]
            });
            Answer {
                status: StatusCode::OK,
                number,
                fields: counted.into_iter().flatten().collect(),
                content,
            }
        }
        Err((kind, Fault { status, told })) => Answer {
            status,
            number,
            fields: vec![(
                "x-amzn-errortype",
                format!("{kind}:http://internal.amazon.com/coral/"),
            )],
            content: Content::Json(told),
        },
    }
}

/// An answer, and what of it stands in its fields: tokens read and written.
type Answered = (Content, Option<(usize, usize)>);

fn said(path: &str, fields: &HeaderMap, body: &[u8]) -> Result<Answered, (&'static str, Fault)> {
    let who = fields.get(header::AUTHORIZATION);
    let who = who.and_then(|who| who.to_str().ok()).unwrap_or_default();
    // Signed, or with an API key of Bedrock's, which signs nothing.
    if !who.starts_with("AWS4-HMAC-SHA256 ") && !who.starts_with("Bearer ") {
        let message = "Missing Authentication Token";
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "AccessDeniedException",
            message,
        ));
    }
    let mut asked: Value = serde_json::from_slice(body).map_err(|_| {
        refuse(
            StatusCode::BAD_REQUEST,
            "ValidationException",
            "Malformed input request.",
        )
    })?;
    let rest = path.strip_prefix("/model/").unwrap_or_default();
    let (model, method) = rest.split_once('/').unwrap_or((rest, ""));
    if !model.starts_with("anthropic.claude-") && !model.starts_with("us.anthropic.claude-") {
        let message = "The provided model identifier is invalid.";
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "ValidationException",
            message,
        ));
    }
    let conversation = Said::on(
        &asked["messages"],
        &Value::Null,
        &[&asked["inferenceConfig"]["maxTokens"]],
    );
    Ok(match method {
        "converse" => (Content::Json(converse(&asked, &conversation)), None),
        "converse-stream" => {
            let events = converse_events(&asked, &conversation);
            let events = events.iter().map(|(kind, event)| message(kind, event));
            (Content::Stream(EVENTS, events.collect()), None)
        }
        "invoke" => {
            asked["model"] = "claude-x".into();
            let message = anthropic::message(&asked);
            let count = |name: &str| {
                let count = message["usage"][name].as_u64();
                count
                    .and_then(|count| usize::try_from(count).ok())
                    .unwrap_or_default()
            };
            let counted = (count("input_tokens"), count("output_tokens"));
            (Content::Json(message), Some(counted))
        }
        "invoke-with-response-stream" => {
            asked["model"] = "claude-x".into();
            let mut events = anthropic::message_values(&asked);
            if let Some(last) = events.last_mut() {
                last["amazon-bedrock-invocationMetrics"] = json!({
                    "inputTokenCount": conversation.input_tokens,
                    "outputTokenCount": conversation.output_tokens(),
                    "invocationLatency": 7,
                    "firstByteLatency": 3,
                });
            }
            let events = events.iter().map(|event| {
                let bytes = STANDARD.encode(event.to_string());
                message("chunk", &json!({ "bytes": bytes, "p": "abcdefgh" }))
            });
            (Content::Stream(EVENTS, events.collect()), None)
        }
        _ => {
            let (status, kind) = (StatusCode::NOT_FOUND, "UnknownOperationException");
            return Err(refuse(status, kind, "Unknown operation."));
        }
    })
}

fn refuse(status: StatusCode, kind: &'static str, message: &str) -> (&'static str, Fault) {
    (kind, Fault::new(status, json!({ "message": message })))
}

/// What was counted: a word of what was read came from a cache, which is counted apart.
fn usage(said: &Said) -> Value {
    let (read, written) = (said.input_tokens, said.output_tokens());
    json!({ "inputTokens": read - 1, "outputTokens": written, "totalTokens": read + written,
        "cacheReadInputTokens": 1, "cacheWriteInputTokens": 0 })
}

fn tool(asked: &Value) -> Option<&str> {
    called(&asked["toolConfig"]["tools"][0]["toolSpec"])
}

fn stop(asked: &Value, said: &Said) -> &'static str {
    match tool(asked) {
        Some(_) => "tool_use",
        None if said.cut => "max_tokens",
        None => "end_turn",
    }
}

fn converse(asked: &Value, said: &Said) -> Value {
    let content = match tool(asked) {
        Some(name) => {
            json!({ "toolUse": { "toolUseId": "call_1", "name": name, "input": { "said": said.text() } } })
        }
        None => json!({ "text": said.text() }),
    };
    json!({ "output": { "message": { "role": "assistant", "content": [content] } }, "stopReason": stop(asked, said),
        "usage": usage(said), "metrics": { "latencyMs": 7 } })
}

fn converse_events(asked: &Value, said: &Said) -> Vec<(&'static str, Value)> {
    let mut events = vec![("messageStart", json!({ "role": "assistant", "p": "abcd" }))];
    let delta = |delta: Value| {
        let delta = json!({ "contentBlockIndex": 0, "delta": delta, "p": "abc" });
        ("contentBlockDelta", delta)
    };
    match tool(asked) {
        Some(name) => {
            let start = json!({ "toolUse": { "toolUseId": "call_1", "name": name } });
            let start = json!({ "contentBlockIndex": 0, "start": start });
            events.push(("contentBlockStart", start));
            let arguments = json!({ "said": said.text() }).to_string();
            let (one, two) = arguments.split_at(arguments.len() / 2);
            for piece in [one, two] {
                events.push(delta(json!({ "toolUse": { "input": piece } })));
            }
        }
        None => {
            let words = said.words.iter();
            events.extend(words.map(|word| delta(json!({ "text": word }))));
        }
    }
    events.extend([
        ("contentBlockStop", json!({ "contentBlockIndex": 0 })),
        ("messageStop", json!({ "stopReason": stop(asked, said) })),
        (
            "metadata",
            json!({ "usage": usage(said), "metrics": { "latencyMs": 7 } }),
        ),
    ]);
    events
}

/// A message of AWS's event stream.
fn message(kind: &str, payload: &Value) -> Bytes {
    let payload = payload.to_string();
    let mut headers = Vec::new();
    for (name, value) in [
        (":event-type", kind),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ] {
        // None of these is longer than a byte says.
        headers.push(u8::try_from(name.len()).unwrap_or_default());
        headers.extend(name.as_bytes());
        headers.push(7);
        headers.extend(u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
        headers.extend(value.as_bytes());
    }
    let length = |length: usize| u32::try_from(length).unwrap_or_default().to_be_bytes();
    let mut message = length(16 + headers.len() + payload.len()).to_vec();
    message.extend(length(headers.len()));
    let checksum = |bytes: &[u8]| {
        let mut checksum = Crc::new();
        checksum.update(bytes);
        checksum.sum().to_be_bytes()
    };
    message.extend(checksum(&message));
    message.extend(headers);
    message.extend(payload.as_bytes());
    message.extend(checksum(&message));
    message.into()
}
