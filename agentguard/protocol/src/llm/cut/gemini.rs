//! Gemini's `generateContent` and its like.

use std::collections::BTreeMap;

use super::{
    Cuts, Event, Fate, Form, MAX_TOOL_CALLS, Uncut, items, number, object, remove, set, text,
};
use crate::json::Value;

#[derive(Debug, Default)]
pub(super) struct Gemini {
    candidates: BTreeMap<u64, Candidate>,
}

#[derive(Debug, Default)]
struct Candidate {
    /// Whether the call that was told last was cut out: more of one has no name (Vertex AI).
    cut: bool,
    /// The signature of a call that was cut out. Of calls that are asked for together the first has it, and what is
    /// sent back has to begin with it (Gemini API, "Thought signatures").
    signature: Option<Value>,
}

/// The member that has a signature, in both spellings.
const SIGNATURE: [&str; 2] = ["thoughtSignature", "thought_signature"];

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

    fn event(&mut self, cuts: &Cuts, mut event: Event) -> Result<Fate, Uncut> {
        let changed = self.document(cuts, &mut event.data)?;
        if changed && is_empty(&event.data) {
            return Ok(Fate::Instead(Vec::new()));
        }
        Ok(Fate::of(event, changed))
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
            if self.candidates.len() >= MAX_TOOL_CALLS && !self.candidates.contains_key(&index) {
                return Err(Uncut::Many);
            }
            let state = self.candidates.entry(index).or_default();
            let (kept, cut) = state.parts(cuts, std::mem::take(parts))?;
            changed |= cut;
            let none = cut && kept.is_empty();
            *parts = kept;
            if none {
                // Clients take a content without parts for a broken one.
                remove(candidate, "content");
            }
        }
        Ok(changed)
    }
}

impl Candidate {
    /// The parts that go on, and whether they are others than came.
    fn parts(&mut self, cuts: &Cuts, parts: Vec<Value>) -> Result<(Vec<Value>, bool), Uncut> {
        let (mut kept, mut changed) = (Vec::with_capacity(parts.len()), false);
        for mut part in parts {
            match cut(cuts, &part, &mut self.cut)? {
                Cut::No => {
                    changed |= self.sign(&mut part);
                    kept.push(part);
                }
                Cut::Yes(sentence) => {
                    changed = true;
                    let signature = SIGNATURE.iter().find_map(|name| part.get(name));
                    self.signature = self.signature.take().or(signature.cloned());
                    kept.push(object([("text", text(sentence))]));
                }
                Cut::More => changed = true,
            }
        }
        Ok((kept, changed))
    }

    /// Gives a call the signature of those before it, where it has none. Whether it did.
    fn sign(&mut self, part: &mut Value) -> bool {
        if called(part).is_none() {
            return false;
        }
        let signed = SIGNATURE.iter().any(|name| part.get(name).is_some());
        let [name, _] = SIGNATURE;
        match self.signature.take() {
            Some(signature) if !signed => {
                set(part, name, signature);
                true
            }
            _ => false,
        }
    }
}

/// Whether nothing is left that an event says.
fn is_empty(event: &Value) -> bool {
    let says_nothing = |candidate: &Value| {
        let mut members = candidate.members().iter();
        members.all(|(name, _)| **name == *"index")
    };
    let candidates = match event.get("candidates") {
        Some(Value::Array(candidates)) => candidates.as_slice(),
        _ => return false,
    };
    event.get("usageMetadata").is_none() && candidates.iter().all(says_nothing)
}

/// The call that a part is, as the API writes it, and as some clients read it, too.
fn called(part: &Value) -> Option<&Value> {
    let call = part.get("functionCall");
    call.or_else(|| part.get("function_call"))
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
    let code = part.get("executableCode");
    let code = code.or_else(|| part.get("executable_code"));
    if code.is_some() && cuts.of("codeExecution").is_some() {
        return Err(Uncut::Provider);
    }
    let Some(call) = called(part) else {
        return Ok(Cut::No);
    };
    let Some(name) = call.get("name").and_then(Value::text) else {
        return Ok(if *last { Cut::More } else { Cut::No });
    };
    let sentence = cuts.of(name);
    *last = sentence.is_some();
    Ok(sentence.map_or(Cut::No, Cut::Yes))
}
