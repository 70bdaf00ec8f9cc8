//! Cohere: Chat and Embed, version 2.

use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::{Content, Fault, Said, called, named};

pub(super) fn answer(path: &str, fields: &HeaderMap, body: &[u8]) -> Result<Content, Fault> {
    if !fields.contains_key(header::AUTHORIZATION) {
        return Err(refuse(StatusCode::UNAUTHORIZED, "no api key supplied"));
    }
    let asked: Value = serde_json::from_slice(body)
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "invalid json syntax"))?;
    let model = asked["model"].as_str().unwrap_or_default();
    if !model.starts_with("command-") && !model.starts_with("embed-") {
        let message = format!("model '{model}' not found, make sure the correct model ID was used");
        return Err(refuse(StatusCode::NOT_FOUND, &message));
    }
    if path == "/v2/embed" {
        let embeddings = json!({ "float": [[0.25, 0.5]] });
        let meta =
            json!({ "api_version": { "version": "2" }, "billed_units": { "input_tokens": 3 } });
        return Ok(Content::Json(
            json!({ "id": "e", "embeddings": embeddings, "texts": asked["texts"], "meta": meta }),
        ));
    }
    let said = Said::on(&asked["messages"], &Value::Null, &[&asked["max_tokens"]]);
    let tool = called(&asked["tools"][0]["function"]);
    // More is read than is paid for.
    let usage = json!({
        "billed_units": { "input_tokens": said.input_tokens, "output_tokens": said.output_tokens() },
        "tokens": { "input_tokens": said.input_tokens + 70, "output_tokens": said.output_tokens() + 2 },
    });
    let finish = match tool {
        Some(_) => "TOOL_CALL",
        None if said.cut => "MAX_TOKENS",
        None => "COMPLETE",
    };
    let call = |name: &str, arguments: &str| json!({ "id": "call_1", "type": "function", "function": { "name": name, "arguments": arguments } });
    let arguments = json!({ "said": said.text() }).to_string();
    if asked["stream"] != true {
        let message = match tool {
            Some(name) => {
                json!({ "role": "assistant", "tool_plan": "I call.", "tool_calls": [call(name, &arguments)] })
            }
            None => {
                json!({ "role": "assistant", "content": [{ "type": "text", "text": said.text() }] })
            }
        };
        return Ok(Content::Json(
            json!({ "id": "c", "message": message, "finish_reason": finish, "usage": usage }),
        ));
    }
    let begin = json!({ "role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": [] });
    let mut events =
        vec![json!({ "type": "message-start", "id": "c", "delta": { "message": begin } })];
    match tool {
        Some(name) => {
            let more = |delta: Value| json!({ "message": { "tool_calls": delta } });
            let delta = |piece: &str| json!({ "type": "tool-call-delta", "index": 0, "delta": more(json!({ "function": { "arguments": piece } })) });
            let (one, two) = arguments.split_at(arguments.len() / 2);
            events.extend([
                json!({ "type": "tool-call-start", "index": 0, "delta": more(call(name, "")) }),
                delta(one),
                delta(two),
                json!({ "type": "tool-call-end", "index": 0 }),
            ]);
        }
        None => {
            let content = |content: Value| json!({ "message": { "content": content } });
            events.push(json!({ "type": "content-start", "index": 0, "delta": content(json!({ "type": "text", "text": "" })) }));
            events.extend(said.words.iter().map(|word| json!({ "type": "content-delta", "index": 0, "delta": content(json!({ "text": word })) })));
            events.push(json!({ "type": "content-end", "index": 0 }));
        }
    }
    let end = json!({ "finish_reason": finish, "usage": usage });
    events.push(json!({ "type": "message-end", "delta": end }));
    let events = events.iter().map(named).collect();
    Ok(Content::Stream("text/event-stream", events))
}

fn refuse(status: StatusCode, message: &str) -> Fault {
    Fault::new(status, json!({ "id": "x", "message": message }))
}
