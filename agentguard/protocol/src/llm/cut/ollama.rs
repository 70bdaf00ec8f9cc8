//! Ollama's own chat: one document, or a line for each piece of one.

use super::{Cuts, Form, Uncut, remove, say};
use crate::json::Value;

#[derive(Debug)]
pub(super) struct Ollama;

impl Form for Ollama {
    fn document(&mut self, cuts: &Cuts, document: &mut Value) -> Result<bool, Uncut> {
        let Some(message) = document.get_mut("message") else {
            return Ok(false);
        };
        let Some(Value::Array(calls)) = message.get_mut("tool_calls") else {
            return Ok(false);
        };
        // Each comes whole, and without a place.
        let mut sentences = Vec::new();
        calls.retain(|call| {
            let function = call.get("function");
            let name = function.and_then(|it| it.get("name")?.text());
            let sentence = cuts.of(name.unwrap_or_default());
            sentences.extend(sentence);
            sentence.is_none()
        });
        if !sentences.is_empty() && calls.is_empty() {
            remove(message, "tool_calls");
        }
        for sentence in &sentences {
            say(message, sentence, false);
        }
        Ok(!sentences.is_empty())
    }
}
