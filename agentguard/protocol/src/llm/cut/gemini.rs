//! Gemini's `generateContent` and its like.

use std::collections::BTreeMap;

use super::{Cuts, Form, MAX_TOOL_CALLS, Uncut, items, number, object, text};
use crate::json::Value;

#[derive(Debug, Default)]
pub(super) struct Gemini {
    /// Of each candidate, whether the call that it told of last was cut out: more of one has no name (Vertex AI).
    last: BTreeMap<u64, bool>,
}

impl Form for Gemini {
    fn document(&mut self, cuts: &Cuts, document: &mut Value) -> Result<bool, Uncut> {
        if let Value::Array(responses) = document {
            let mut changed = false;
            for response in responses {
                changed |= self.response(cuts, response)?;
            }
            return Ok(changed);
        }
        self.response(cuts, document)
    }
}

impl Gemini {
    fn response(&mut self, cuts: &Cuts, response: &mut Value) -> Result<bool, Uncut> {
        let mut changed = false;
        let candidates = items(response, "candidates");
        for (position, candidate) in candidates.iter_mut().enumerate() {
            let index = number(candidate.get("index")).unwrap_or(position as u64);
            let content = candidate.get_mut("content");
            let Some(Value::Array(parts)) = content.and_then(|it| it.get_mut("parts")) else {
                continue;
            };
            if self.last.len() >= MAX_TOOL_CALLS && !self.last.contains_key(&index) {
                return Err(Uncut::Many);
            }
            let last = self.last.entry(index).or_default();
            let mut kept = Vec::with_capacity(parts.len());
            for part in std::mem::take(parts) {
                match cut(cuts, &part, last)? {
                    Cut::No => kept.push(part),
                    Cut::Yes(sentence) => {
                        changed = true;
                        kept.push(object([("text", text(sentence))]));
                    }
                    Cut::More => changed = true,
                }
            }
            *parts = kept;
        }
        Ok(changed)
    }
}

/// What becomes of a part.
enum Cut<'a> {
    No,
    /// This stands in its place.
    Yes(&'a str),
    /// It belongs to one that was cut out.
    More,
}

fn cut<'a>(cuts: &'a Cuts, part: &Value, last: &mut bool) -> Result<Cut<'a>, Uncut> {
    if part.get("executableCode").is_some() && cuts.of("codeExecution").is_some() {
        return Err(Uncut::Provider);
    }
    let Some(call) = part.get("functionCall") else {
        return Ok(Cut::No);
    };
    let Some(name) = call.get("name").and_then(Value::text) else {
        return Ok(if *last { Cut::More } else { Cut::No });
    };
    let sentence = cuts.of(name);
    *last = sentence.is_some();
    Ok(sentence.map_or(Cut::No, Cut::Yes))
}
