//! Cohere's Chat, version 2.

use std::collections::BTreeSet;

use super::{
    Cuts, Event, Fate, Form, MAX_TOOL_CALLS, Uncut, items, number, object, remove, say, stops, text,
};
use crate::json::Value;

#[derive(Debug, Default)]
pub(super) struct Cohere {
    /// Which calls were cut out.
    cut: BTreeSet<u64>,
    /// Whether a call goes on.
    kept: bool,
    /// How many parts of content there were: the next one has this place.
    parts: u64,
}

/// What ends with tool calls, and what does without.
const STOPS: ([&str; 1], &str) = (["TOOL_CALL"], "COMPLETE");

impl Cohere {
    fn stops(&self, object: &mut Value) -> bool {
        let (with_calls, without) = STOPS;
        let none_is_left = !self.cut.is_empty() && !self.kept;
        none_is_left && stops(object, "finish_reason", &with_calls, without)
    }
}

/// Version 1 has its calls elsewhere, and is not written anew.
fn is_of_before(cuts: &Cuts, document: &mut Value) -> bool {
    let calls = items(document, "tool_calls");
    let mut names = calls
        .iter()
        .map(|call| call.get("name").and_then(Value::text));
    names.any(|name| cuts.of(name.unwrap_or_default()).is_some())
}

fn name(call: &Value) -> &str {
    let function = call.get("function");
    let name = function.and_then(|it| it.get("name")?.text());
    name.unwrap_or_default()
}

impl Form for Cohere {
    fn document(&mut self, cuts: &Cuts, document: &mut Value) -> Result<bool, Uncut> {
        if is_of_before(cuts, document) {
            return Err(Uncut::Form);
        }
        let mut sentences = Vec::new();
        if let Some(message) = document.get_mut("message") {
            let mut none = false;
            if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
                let mut index = 0;
                calls.retain(|call| {
                    let sentence = cuts.of(name(call));
                    match sentence {
                        Some(_) => _ = self.cut.insert(index),
                        None => self.kept = true,
                    }
                    index += 1;
                    sentences.extend(sentence);
                    sentence.is_none()
                });
                none = calls.is_empty();
            }
            if !sentences.is_empty() && none {
                remove(message, "tool_calls");
            }
            if !sentences.is_empty() && !matches!(message.get("content"), Some(Value::Array(_))) {
                super::set(message, "content", Value::Array(Vec::new()));
            }
            for sentence in &sentences {
                say(message, sentence, false);
            }
        }
        self.stops(document);
        Ok(!sentences.is_empty())
    }

    fn event(&mut self, cuts: &Cuts, mut event: Event) -> Result<Fate, Uncut> {
        let kind = event.kind().to_owned();
        let data = &mut event.data;
        if is_of_before(cuts, data) {
            return Err(Uncut::Form);
        }
        let index = number(data.get("index")).unwrap_or_default();
        match kind.as_str() {
            "content-start" => {
                self.parts = self.parts.max(index.saturating_add(1));
                Ok(Fate::Goes)
            }
            "tool-call-start" => {
                let message = data.get("delta").and_then(|delta| delta.get("message"));
                let call = message.and_then(|message| message.get("tool_calls"));
                let called = call.map(name).unwrap_or_default();
                let Some(sentence) = cuts.of(called) else {
                    self.kept = true;
                    return Ok(Fate::Goes);
                };
                if self.cut.len() >= MAX_TOOL_CALLS {
                    return Err(Uncut::Many);
                }
                self.cut.insert(index);
                let events = self.said(&event, sentence);
                Ok(Fate::Instead(events))
            }
            "tool-call-delta" | "tool-call-end" if self.cut.contains(&index) => {
                Ok(Fate::Instead(Vec::new()))
            }
            "message-end" => {
                let delta = data.get_mut("delta");
                let changed = delta.is_some_and(|it| self.stops(it));
                Ok(Fate::of(event, changed))
            }
            _ => Ok(Fate::Goes),
        }
    }
}

impl Cohere {
    /// A part of content that is whole.
    fn said(&mut self, event: &Event, sentence: &str) -> Vec<Event> {
        let index = Value::Number(self.parts.to_string().into());
        self.parts = self.parts.saturating_add(1);
        let of = |kind: &str, content: Option<Value>| {
            let mut data = object([("type", text(kind)), ("index", index.clone())]);
            if let Some(content) = content {
                let message = object([("content", content)]);
                super::set(&mut data, "delta", object([("message", message)]));
            }
            let kind = match event.kind.is_empty() {
                true => String::new(),
                false => kind.to_owned(),
            };
            Event { kind, data }
        };
        let begins = object([("type", text("text")), ("text", text(""))]);
        let more = object([("text", text(sentence))]);
        vec![
            of("content-start", Some(begins)),
            of("content-delta", Some(more)),
            of("content-end", None),
        ]
    }
}
