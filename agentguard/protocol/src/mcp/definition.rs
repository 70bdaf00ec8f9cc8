//! Definitions of tools, compared: where one differs from another.

use std::collections::BTreeSet;

use agentguard_model::ChangedPart;

use crate::json::Value;

/// The most parts that are told of two definitions. Those behind are counted.
pub const MAX_PARTS: usize = 16;

/// The most characters that are shown of a part, and of its pointer.
pub const MAX_SHOWN: usize = 2000;

/// The most that a definition may take while it is compared ([`Value::read`]). One that takes more is shown as a whole.
const MAX_COMPARED: usize = 8 * 1024 * 1024;

/// The most characters on each side of where two long parts begin to differ, before that place.
const AROUND: usize = 100;

/// The parts in which a definition differs from what it was, both in canonical form: at most [`MAX_PARTS`], in the
/// order of their pointers, and how many more there are. Objects are compared member by member and lists of one length
/// entry by entry; of a part that is long on both sides the text is shown from shortly before where it begins to
/// differ.
#[must_use]
pub fn parts(before: &str, after: &str) -> (Vec<ChangedPart>, u64) {
    let mut found = Found::default();
    match (read(before), read(after)) {
        (Some(before), Some(after)) => found.compare("", Some(&before), Some(&after)),
        // Nothing that was kept is so; a text that differs is shown all the same.
        _ if before != after => found.differ("", Some(before), Some(after)),
        _ => {}
    }
    (found.parts, found.more)
}

fn read(text: &str) -> Option<Value> {
    Value::read(text.as_bytes(), MAX_COMPARED).ok()
}

#[derive(Default)]
struct Found {
    parts: Vec<ChangedPart>,
    more: u64,
}

impl Found {
    /// `at`: the pointer to both. They are nested no deeper than a scanner reads ([`crate::json::MAX_DEPTH`]).
    fn compare(&mut self, at: &str, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                let names = old.iter().chain(new).map(|(name, _)| &**name);
                let names: BTreeSet<&str> = names.collect();
                for name in names {
                    let (old, new) = (
                        before.and_then(|it| it.get(name)),
                        after.and_then(|it| it.get(name)),
                    );
                    if old != new {
                        let step = name.replace('~', "~0").replace('/', "~1");
                        self.compare(&format!("{at}/{step}"), old, new);
                    }
                }
            }
            (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
                for (n, (old, new)) in old.iter().zip(new).enumerate() {
                    if old != new {
                        self.compare(&format!("{at}/{n}"), Some(old), Some(new));
                    }
                }
            }
            (before, after) => {
                let [before, after] = [before, after].map(|it| it.map(Value::canonical));
                // Members have no order.
                if before != after {
                    self.differ(at, before.as_deref(), after.as_deref());
                }
            }
        }
    }

    fn differ(&mut self, at: &str, before: Option<&str>, after: Option<&str>) {
        if self.parts.len() >= MAX_PARTS {
            self.more = self.more.saturating_add(1);
            return;
        }
        let from = match (before, after) {
            (Some(before), Some(after)) => first_difference(before, after),
            _ => 0,
        };
        self.parts.push(ChangedPart {
            pointer: shown(at, 0),
            before: before.map(|text| shown(text, from)),
            after: after.map(|text| shown(text, from)),
        });
    }
}

/// How many characters two texts begin with alike.
fn first_difference(before: &str, after: &str) -> usize {
    let both = before.chars().zip(after.chars());
    both.take_while(|(before, after)| before == after).count()
}

/// A text as far as it is shown, with `…` for what is left out at its ends. One that does not fit begins shortly before
/// its character `from`.
fn shown(text: &str, from: usize) -> String {
    let size = text.chars().count();
    if size <= MAX_SHOWN {
        return text.to_owned();
    }
    let from = from.saturating_sub(AROUND).min(size - MAX_SHOWN);
    let mut told = String::new();
    if from > 0 {
        told.push('…');
    }
    told.extend(text.chars().skip(from).take(MAX_SHOWN));
    if from + MAX_SHOWN < size {
        told.push('…');
    }
    told
}

#[cfg(test)]
mod tests;
