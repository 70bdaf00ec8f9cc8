//! Whether changes are the same: by their digest, which can be recorded, and by the values that it leaves out.

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use agentguard_protocol::arguments;
use agentguard_protocol::json::Value;
use agentguard_protocol::json::edit::{Bounds, Operation};
use http::header::HeaderValue;

use super::Changes;

/// `sha256:` and the hexadecimal digest of what is changed, in this order and without the values that are set. None where
/// nothing is. By which rule it is changed does not matter.
pub(crate) fn digest(changes: &[Arc<Changes>]) -> Option<String> {
    let mut form = String::new();
    for of_rule in changes {
        for name in &of_rule.dropped {
            note(&mut form, "drop", &[name]);
        }
        for (name, _) in &of_rule.set {
            note(&mut form, "set", &[name]);
        }
    }
    // These do not meet fields, so that it does not matter which of the two a rule is for.
    for edits in changes.iter().map(|of_rule| &of_rule.edits) {
        for place in &edits.redact {
            note(&mut form, "redact", &[place]);
        }
        for (place, Bounds { least, most }) in &edits.clamp {
            let [least, most] = [least, most].map(|it| it.as_deref().unwrap_or_default());
            note(&mut form, "clamp", &[place, &least, &most]);
        }
        for operation in &edits.patch {
            match operation {
                Operation::Add(at, _) => note(&mut form, "add", &[at]),
                Operation::Remove(at) => note(&mut form, "remove", &[at]),
                Operation::Replace(at, _) => note(&mut form, "replace", &[at]),
                Operation::Move(from, to) => note(&mut form, "move", &[from, to]),
                Operation::Copy(from, to) => note(&mut form, "copy", &[from, to]),
                Operation::Test(at, _) => note(&mut form, "test", &[at]),
            }
        }
    }
    (!form.is_empty()).then(|| arguments::digest(&form))
}

/// Adds a change to a form: what it does, and each part of it behind its length in bytes.
fn note(form: &mut String, what: &str, parts: &[&dyn Display]) {
    form.push_str(what);
    for part in parts {
        let part = part.to_string();
        // A string takes everything.
        let _ = write!(form, " {}:{part}", part.len());
    }
    form.push('\n');
}

/// The values that changes set, in their order.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Values<'a> {
    fields: Vec<&'a HeaderValue>,
    contents: Vec<&'a Value>,
}

impl<'a> Values<'a> {
    pub(crate) fn of(changes: &'a [Arc<Changes>]) -> Self {
        let fields = changes.iter().flat_map(|of_rule| &of_rule.set);
        let patch = changes.iter().flat_map(|of_rule| &of_rule.edits.patch);
        Self {
            fields: fields.map(|(_, value)| value).collect(),
            contents: patch.filter_map(value).collect(),
        }
    }

    /// Whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.contents.is_empty()
    }
}

const fn value(operation: &Operation) -> Option<&Value> {
    match operation {
        Operation::Add(_, value) | Operation::Replace(_, value) | Operation::Test(_, value) => {
            Some(value)
        }
        Operation::Remove(_) | Operation::Move(..) | Operation::Copy(..) => None,
    }
}
