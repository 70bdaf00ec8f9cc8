//! What a rule changes in the requests that it allows.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// Changes to a request before it is sent on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Fields that are taken out.
    pub(crate) dropped: Vec<HeaderName>,
    /// Fields that it has then, each once, whatever it had.
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
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

    /// What is changed, without values: they may be secrets.
    pub(crate) fn told(&self) -> String {
        let dropped = self.dropped.iter().map(|name| format!("without `{name}`"));
        let set = self
            .set
            .iter()
            .map(|(name, _)| format!("with another `{name}`"));
        dropped.chain(set).collect::<Vec<_>>().join(", ")
    }
}
