//! Vertex AI: Gemini's API and Anthropic's, by projects and with tokens of Google's.

use http::{HeaderMap, StatusCode, Uri, header};
use serde_json::Value;

use super::{Content, Fault, anthropic, gemini};

/// Whether a path is one of its.
pub(super) fn is(path: &str) -> bool {
    let mut segments = path.split('/').skip(2);
    segments.next() == Some("projects") && path.contains("/publishers/")
}

pub(super) fn answer(target: &Uri, fields: &HeaderMap, body: &[u8]) -> Result<Content, Fault> {
    let token = fields.get(header::AUTHORIZATION);
    if !token.is_some_and(|it| it.as_bytes().starts_with(b"Bearer ")) {
        return Err(gemini::unregistered());
    }
    let path = target.path();
    let Some((_, called)) = path.split_once("/publishers/anthropic/models/") else {
        return gemini::content(target, body);
    };
    let mut asked: Value = serde_json::from_slice(body).unwrap_or_default();
    // What is a field of the request elsewhere is a member of the content here.
    if !asked["anthropic_version"].is_string() {
        let message = "anthropic_version: Field required";
        let status = StatusCode::BAD_REQUEST;
        return Err(gemini::refuse(status, "INVALID_ARGUMENT", message));
    }
    if called == "count-tokens:rawPredict" {
        return anthropic::counted(&asked);
    }
    // The path says the model, and whether the answer is a stream; clients say that in the content as well.
    let (model, method) = called.split_once(':').unwrap_or((called, ""));
    let stream = match method {
        "rawPredict" => false,
        "streamRawPredict" => true,
        _ => {
            let status = StatusCode::NOT_FOUND;
            return Err(gemini::refuse(status, "NOT_FOUND", "Not found."));
        }
    };
    asked["model"] = model.into();
    asked["stream"] = stream.into();
    anthropic::said(&asked)
}
