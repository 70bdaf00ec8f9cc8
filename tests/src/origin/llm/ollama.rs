//! Ollama: its own chat and embeddings.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Content, Fault, Said, called};

pub(super) fn answer(path: &str, body: &[u8]) -> Result<Content, Fault> {
    let asked: Value = serde_json::from_slice(body)
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "invalid request"))?;
    let model = asked["model"].as_str().unwrap_or_default();
    if !model.starts_with("qwen3") {
        let message = format!("model '{model}' not found");
        return Err(refuse(StatusCode::NOT_FOUND, &message));
    }
    if path == "/api/embed" {
        let vectors = json!([[0.25, 0.5]]);
        return Ok(Content::Json(
            json!({ "model": model, "embeddings": vectors, "prompt_eval_count": 3 }),
        ));
    }
    let limit = &asked["options"]["num_predict"];
    let said = Said::on(&asked["messages"], &Value::Null, &[limit]);
    let tool = called(&asked["tools"][0]["function"]);
    let calls = |name: &str| json!([{ "id": "call_1", "function": { "index": 0, "name": name, "arguments": { "said": said.text() } } }]);
    let message = |message: Value| json!({ "model": model, "created_at": "2026-01-01T00:00:00Z", "message": message, "done": false });
    let end = |mut message: Value| {
        message["done"] = true.into();
        message["done_reason"] = if said.cut { "length" } else { "stop" }.into();
        message["total_duration"] = 1_000_000.into();
        message["prompt_eval_count"] = said.input_tokens.into();
        message["eval_count"] = said.output_tokens().into();
        message
    };
    if asked["stream"] == false {
        let said = match tool {
            Some(name) => {
                json!({ "role": "assistant", "content": "", "tool_calls": calls(name) })
            }
            None => json!({ "role": "assistant", "content": said.text() }),
        };
        return Ok(Content::Json(end(message(said))));
    }
    let mut lines: Vec<Value> = match tool {
        Some(name) => {
            let call = json!({ "role": "assistant", "content": "", "tool_calls": calls(name) });
            vec![message(call)]
        }
        None => {
            let words = said.words.iter();
            let words = words.map(|word| json!({ "role": "assistant", "content": word }));
            words.map(message).collect()
        }
    };
    lines.push(end(message(json!({ "role": "assistant", "content": "" }))));
    let lines = lines.iter().map(|line| format!("{line}\n").into());
    Ok(Content::Stream("application/x-ndjson", lines.collect()))
}

fn refuse(status: StatusCode, message: &str) -> Fault {
    Fault::new(status, json!({ "error": message }))
}
