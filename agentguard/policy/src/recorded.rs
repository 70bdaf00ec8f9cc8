//! What of a request goes into the record: what a rule looks at, unless it is a secret by its name
//! ([`is_secret`]). Anything else may be a secret too.

use std::collections::{BTreeMap, HashSet};

use http::HeaderMap;
use http::header::HeaderName;

use crate::policy::Policy;
use crate::request::Query;
use crate::rule::Rule;
use crate::secrets::is_secret;

/// The most characters of a query, and of one header field, that are recorded. Of what is longer,
/// the rest is left out, and `…` stands for it.
const MAX_RECORDED: usize = 512;

/// What stands for what is left out.
pub(crate) const CUT: &str = "…";

/// The names of everything that one of a policy's rules looks at.
#[derive(Debug)]
pub(crate) struct LookedAt {
    parameters: HashSet<String>,
    fields: HashSet<HeaderName>,
}

impl LookedAt {
    pub(crate) fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter()
    }

    pub(crate) fn by(rules: &[Rule]) -> Self {
        let mut looked_at = Self {
            parameters: HashSet::new(),
            fields: HashSet::new(),
        };
        for rule in rules {
            let query = rule.request.query.iter();
            looked_at
                .parameters
                .extend(query.map(|(name, _)| name.clone()));
            let fields = rule.request.fields.iter();
            looked_at
                .fields
                .extend(fields.map(|(name, _)| name.clone()));
            if let Some(when) = &rule.conditions.when {
                looked_at
                    .parameters
                    .extend(when.parameters().iter().cloned());
                looked_at.fields.extend(when.fields().iter().cloned());
            }
        }
        looked_at
    }
}

impl Policy {
    /// The header fields that a rule looks at: those that are recorded. Sorted.
    #[must_use]
    pub fn looked_at_fields(&self) -> Vec<String> {
        let fields = self.looked_at().fields();
        let mut names: Vec<_> = fields.map(|name| name.as_str().to_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Whether a rule looks at a header field of this name.
    #[must_use]
    pub fn looks_at_field(&self, name: &HeaderName) -> bool {
        self.looked_at().fields.contains(name)
    }

    /// A query as it is recorded: secrets, and parameters that no rule looks at, without their values.
    #[must_use]
    pub fn recorded_query(&self, query: &Query) -> String {
        let shown = |name: &str| self.looked_at().parameters.contains(name) && !is_secret(name);
        bounded(&query.redacted(shown))
    }

    /// The header fields that a rule looks at, each with all its values. Of a secret the record has that
    /// it was there: `…`.
    #[must_use]
    pub fn recorded_fields(&self, fields: &HeaderMap) -> BTreeMap<String, String> {
        let names = self.looked_at().fields.iter();
        names
            .filter(|name| fields.contains_key(*name))
            .map(|name| {
                if is_secret(name.as_str()) {
                    return (name.as_str().to_owned(), CUT.to_owned());
                }
                let values = fields.get_all(name).iter();
                let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
                let joined = values.collect::<Vec<_>>().join(", ");
                (name.as_str().to_owned(), bounded(&joined))
            })
            .collect()
    }
}

fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_RECORDED) {
        Some((end, _)) => format!("{}{CUT}", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Whether a recorded text is only the beginning of what was sent.
pub(crate) fn is_cut(recorded: &str) -> bool {
    recorded.ends_with(CUT) && recorded.chars().nth(MAX_RECORDED).is_some()
}
