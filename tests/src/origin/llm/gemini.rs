//! Google: Gemini's `generateContent`, counts and embeddings.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

use super::{Content, Fault, Said, called};

pub(super) fn answer(target: &Uri, fields: &HeaderMap, body: &[u8]) -> Result<Content, Fault> {
    if !fields.contains_key("x-goog-api-key") {
        return Err(unregistered());
    }
    content(target, body)
}

/// What is refused without a key.
pub(super) fn unregistered() -> Fault {
    let message = "Method doesn't allow unregistered callers.";
    refuse(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message)
}

/// As [`answer`], of who has a key.
pub(super) fn content(target: &Uri, body: &[u8]) -> Result<Content, Fault> {
    let asked: Value = serde_json::from_slice(body).map_err(|_| {
        let message = "Invalid JSON payload received.";
        refuse(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
    })?;
    let last = target.path().rsplit('/').next().unwrap_or_default();
    let (model, method) = last.rsplit_once(':').unwrap_or((last, ""));
    if !model.starts_with("gemini-") {
        let message = format!("models/{model} is not found for API version v1beta.");
        return Err(refuse(StatusCode::NOT_FOUND, "NOT_FOUND", &message));
    }
    let said = said(&asked);
    Ok(match method {
        "generateContent" => {
            let parts = match called(&asked["tools"][0]["functionDeclarations"][0]) {
                Some(name) => call(name, &said),
                None => json!([{ "text": said.text() }]),
            };
            Content::Json(response(model, &parts, true, &asked, &said))
        }
        "streamGenerateContent" => {
            let responses = responses(model, &asked, &said);
            match target.query() {
                Some(query) if query.split('&').any(|it| it == "alt=sse") => Content::Stream(
                    "text/event-stream",
                    responses
                        .iter()
                        .map(|response| format!("data: {response}\r\n\r\n").into())
                        .collect(),
                ),
                _ => Content::Stream("application/json; charset=UTF-8", list(&responses)),
            }
        }
        "countTokens" => Content::Json(json!({ "totalTokens": said.input_tokens })),
        "batchEmbedContents" => {
            let asked = asked["requests"].as_array().map_or(0, Vec::len);
            let vectors = vec![json!({ "values": [0.25, 0.5] }); asked];
            Content::Json(json!({ "embeddings": vectors }))
        }
        _ => {
            return Err(refuse(StatusCode::NOT_FOUND, "NOT_FOUND", "Not found."));
        }
    })
}

/// Responses as one list, in pieces as Google's servers write it.
fn list(responses: &[Value]) -> Vec<Bytes> {
    let pieces = responses.iter().enumerate();
    let pieces = pieces.map(|(at, response)| {
        let before = if at == 0 { "[" } else { ",\r\n" };
        format!("{before}{response}\n").into()
    });
    pieces.chain(["]\n".into()]).collect()
}

pub(super) fn refuse(status: StatusCode, name: &str, message: &str) -> Fault {
    let told = json!({ "error": { "code": status.as_u16(), "message": message, "status": name } });
    Fault::new(status, told)
}

fn said(asked: &Value) -> Said {
    let none = Vec::new();
    let contents = asked["contents"].as_array().unwrap_or(&none);
    let messages: Vec<_> = contents
        .iter()
        .map(|content| json!({ "role": content["role"], "content": content["parts"] }))
        .collect();
    let limit = &asked["generationConfig"]["maxOutputTokens"];
    Said::on(&Value::from(messages), &Value::Null, &[limit])
}

fn call(name: &str, said: &Said) -> Value {
    json!([{ "functionCall": { "name": name, "args": { "said": said.text() }, "id": "call_1" } }])
}

/// One response; the last has all that was counted. A word of what is read is cached, and two thoughts are had unless
/// none may be.
fn response(model: &str, parts: &Value, last: bool, asked: &Value, said: &Said) -> Value {
    let (read, written) = (said.input_tokens, said.output_tokens());
    let thinking = &asked["generationConfig"]["thinkingConfig"];
    // Google's SDK has one name, and others have the other.
    let none = thinking["thinkingBudget"] == 0 || thinking["thinking_budget"] == 0;
    let thoughts = if none { 0 } else { 2 };
    let mut candidate = json!({ "content": { "parts": parts, "role": "model" }, "index": 0 });
    let mut usage = json!({ "promptTokenCount": read, "totalTokenCount": read });
    if last {
        candidate["finishReason"] = if said.cut { "MAX_TOKENS" } else { "STOP" }.into();
        usage = json!({
            "promptTokenCount": read,
            "cachedContentTokenCount": 1,
            "candidatesTokenCount": written,
            "thoughtsTokenCount": thoughts,
            "totalTokenCount": read + written + thoughts,
            "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": read }],
        });
    }
    json!({ "candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "r" })
}

fn responses(model: &str, asked: &Value, said: &Said) -> Vec<Value> {
    let parts: Vec<Value> = match called(&asked["tools"][0]["functionDeclarations"][0]) {
        Some(name) => vec![json!([{ "text": "Let me see." }]), call(name, said)],
        None => {
            let words = said.words.iter();
            words.map(|word| json!([{ "text": word }])).collect()
        }
    };
    let count = parts.len();
    let parts = parts.iter().enumerate();
    parts
        .map(|(at, parts)| response(model, parts, at + 1 == count, asked, said))
        .collect()
}
