//! Requests with a content, the same bytes each, of which the guard reads more or less: as a call of a language model, where
//! the policy says that the site is one's; and with contents kept, where a rule says so.
//!
//! What is decided is recorded, always: there is nothing to compare that with.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::Guard;

/// Where requests go.
pub(super) const PATH: &str = "/v1/chat/completions";

/// How long a content is, and an answer.
pub(super) const BYTES: u64 = 1_000;

/// What the guard does otherwise with the same load.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Otherwise {
    /// The site for which it does.
    pub(super) site: &'static str,
    /// Its name beside all others.
    pub(super) case: &'static str,
    /// Its name beside the guard that does not.
    pub(super) question: &'static str,
    /// What that one is called there.
    pub(super) without: &'static str,
}

/// Call and answer are read.
pub(super) const DECODED: Otherwise = Otherwise {
    site: "models.example.com",
    case: "post-decoded",
    question: "decoding",
    without: "not_decoded",
};

/// Both contents are kept, as far as that is possible.
pub(super) const KEPT: Otherwise = Otherwise {
    site: "kept.example.com",
    case: "post-kept",
    question: "keeping",
    without: "not_kept",
};

/// By which a site is one of models.
pub(super) const PROVIDERS: &str =
    "providers: [{ name: ours, api: openai, hosts: [models.example.com] }]\n";

/// The last rules of the policy.
pub(super) const ALLOWED: &str = "
  - id: decoded
    match: { host: [models.example.com], port: [443], llm: { model: ['gpt-*'] } }
    action: allow
    handling: inspect
  - id: kept
    match: { host: [kept.example.com], port: [443], method: [POST] }
    action: allow
    handling: inspect
    obligations: { capture_body: true }
  - id: posted
    match: { host: [bench.example.com], port: [443], method: [POST] }
    action: allow
    handling: inspect
";

/// Where the content is that the client sends.
pub(super) fn file(directory: &Path) -> PathBuf {
    directory.join("call.json")
}

/// A call, as [`BYTES`] says.
pub(super) fn call() -> String {
    filled(|text| {
        json!({
            "model": "gpt-5",
            "max_completion_tokens": 500,
            "messages": [
                { "role": "system", "content": "Answer in a word." },
                { "role": "user", "content": text },
            ],
        })
    })
}

/// An answer, of the same length.
pub(super) fn answer() -> String {
    filled(|text| {
        json!({
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_750_000_000,
            "model": "gpt-5",
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": text },
                "finish_reason": "stop",
            }],
            "usage": { "prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300 },
        })
    })
}

/// A document with a text in it that makes it as long as it has to be.
fn filled(document: impl Fn(&str) -> Value) -> String {
    let short = document("").to_string();
    let length = usize::try_from(BYTES).unwrap_or_default();
    let text = "one word after the other ".repeat(length / 20);
    let left = length.saturating_sub(short.len());
    document(text.get(..left).unwrap_or_default()).to_string()
}

/// How many contents the guard has not kept, since too many were waiting to be written.
pub(super) fn left_out(guard: &Guard<'_>) -> Result<f64> {
    let status = guard.cli().args(["status", "-o", "json"]).run()?;
    let status: Value = serde_json::from_str(&status.success()?.stdout)?;
    let left_out = status.pointer("/record/contents_left_out");
    let left_out = left_out.and_then(Value::as_f64);
    left_out.with_context(|| format!("no contents in {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_as_long_as_is_said_and_can_stand_in_a_configuration_of_nginx() {
        for document in [call(), answer()] {
            assert_eq!(u64::try_from(document.len()).unwrap(), BYTES, "{document}");
            assert!(serde_json::from_str::<Value>(&document).is_ok());
            assert!(!document.contains(['\'', '$', '\\']), "{document}");
        }
    }
}
