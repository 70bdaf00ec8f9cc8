//! What a rule changes in the requests that it allows.

mod digest;

use std::sync::Arc;

use agentguard_protocol::json::edit::{Bounds, Edits, Operation};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

pub(crate) use digest::{Values, digest};

/// Changes to a request before it is sent on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Fields that are taken out.
    pub(crate) dropped: Vec<HeaderName>,
    /// Fields that it has then, each once, whatever it had.
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
    /// What its content has then: a call's of a language model, or the arguments of a tool's.
    pub(crate) edits: Edits,
}

impl Changes {
    /// Changes the fields of a request.
    pub fn apply(&self, fields: &mut HeaderMap) {
        for name in &self.dropped {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.insert(name.clone(), value.clone());
        }
    }

    /// Whether it changes a field.
    #[must_use]
    pub fn touches(&self, name: &HeaderName) -> bool {
        let mut set = self.set.iter().map(|(name, _)| name);
        self.dropped.contains(name) || set.any(|it| it == name)
    }

    /// What is changed in its content, if anything is.
    #[must_use]
    pub fn edits(&self) -> Option<&Edits> {
        (!self.edits.is_empty()).then_some(&self.edits)
    }

    /// Whether it changes fields.
    #[must_use]
    pub fn changes_fields(&self) -> bool {
        !self.dropped.is_empty() || !self.set.is_empty()
    }

    /// What it changes where there are fields, or contents, or both to change; none where that is nothing.
    pub(crate) fn made(self: &Arc<Self>, fields: bool, contents: bool) -> Option<Arc<Self>> {
        let (of_fields, of_contents) = (self.changes_fields(), !self.edits.is_empty());
        match (fields || !of_fields, contents || !of_contents) {
            (true, true) => Some(Arc::clone(self)),
            (true, false) => of_fields.then(|| {
                Arc::new(Self {
                    edits: Edits::default(),
                    ..Self::clone(self)
                })
            }),
            (false, true) => of_contents.then(|| {
                Arc::new(Self {
                    edits: self.edits.clone(),
                    ..Self::default()
                })
            }),
            (false, false) => None,
        }
    }

    /// Whether it changes fields as `other` does.
    #[must_use]
    pub fn has_fields_of(&self, other: &Self) -> bool {
        self.dropped == other.dropped && self.set == other.set
    }

    /// What is changed, one by one, without values: they may be secrets.
    pub(crate) fn told(&self) -> impl Iterator<Item = String> {
        let dropped = self.dropped.iter().map(|name| format!("without `{name}`"));
        let set = self.set.iter();
        let set = set.map(|(name, _)| format!("with another `{name}`"));
        let redacted = self.edits.redact.iter();
        let redacted = redacted.map(|place| format!("with `{place}` redacted"));
        let clamped = self.edits.clamp.iter();
        let clamped = clamped.map(|(place, bounds)| format!("with `{place}` {}", within(bounds)));
        let patched = self.edits.patch.iter().map(patched);
        dropped
            .chain(set)
            .chain(redacted)
            .chain(clamped)
            .chain(patched)
    }
}

fn within(bounds: &Bounds) -> String {
    match (&bounds.least, &bounds.most) {
        (Some(least), Some(most)) => format!("from {least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "as it is".to_owned(),
    }
}

fn patched(operation: &Operation) -> String {
    match operation {
        Operation::Add(at, _) => format!("with `{at}` added"),
        Operation::Remove(at) => format!("without `{at}`"),
        Operation::Replace(at, _) => format!("with another `{at}`"),
        Operation::Move(from, to) => format!("with `{from}` moved to `{to}`"),
        Operation::Copy(from, to) => format!("with `{from}` copied to `{to}`"),
        Operation::Test(at, _) => format!("with `{at}` tested"),
    }
}
