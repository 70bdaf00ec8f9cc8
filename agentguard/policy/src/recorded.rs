//! What of a request goes into the record: what a rule looks at, unless it is a secret by its name
//! ([`is_secret`]). Anything else may be a secret too.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use agentguard_model::{Argument, Tool};
use agentguard_protocol::json::same_name;
use http::HeaderMap;
use http::header::HeaderName;

use crate::policy::Policy;
use crate::request::Query;
use crate::rule::Rule;
use crate::secrets::is_secret;

/// The most characters of a query, and of one header field, that are recorded. Of what is longer,
/// the rest is left out, and `…` stands for it.
const MAX_RECORDED: usize = 512;

/// The most entries of an argument that is a list that are recorded.
const MAX_ENTRIES: usize = 16;

/// What stands for what is left out.
pub(crate) const CUT: &str = "…";

/// The names of everything that one of a policy's rules looks at.
#[derive(Debug)]
pub(crate) struct LookedAt {
    parameters: HashSet<String>,
    fields: HashSet<HeaderName>,
    /// Arguments of calls of tools, by JSON Pointer. Sorted.
    arguments: BTreeSet<String>,
}

impl LookedAt {
    pub(crate) fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter()
    }

    pub(crate) fn by(rules: &[Rule]) -> Self {
        let mut looked_at = Self {
            parameters: HashSet::new(),
            fields: HashSet::new(),
            arguments: BTreeSet::new(),
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
            let tool = rule.request.tool.iter();
            let arguments = tool.flat_map(|tool| &tool.arguments);
            looked_at
                .arguments
                .extend(arguments.map(|(pointer, _)| pointer.clone()));
            if let Some(when) = &rule.conditions.when {
                looked_at.arguments.extend(when.arguments().iter().cloned());
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

    /// The arguments of calls of tools that a rule looks at, by JSON Pointer.
    pub fn looked_at_arguments(&self) -> impl Iterator<Item = &str> {
        self.looked_at().arguments.iter().map(String::as_str)
    }

    /// A message to a server of tools as it is recorded: of its arguments those that a rule looks at. Of a secret the
    /// record has that it was there: `…`.
    #[must_use]
    pub fn recorded_tool(&self, tool: &Tool) -> Tool {
        let known = |it: &&Argument| {
            let mut looked_at = self.looked_at().arguments.iter();
            looked_at.any(|pointer| same_name(pointer, &it.pointer))
        };
        let told = |argument: &Argument| {
            let mut names = argument.pointer.split('/');
            if names.any(is_secret) {
                return vec![CUT.to_owned()];
            }
            let values = argument.values.iter();
            let mut told: Vec<_> = values.take(MAX_ENTRIES).map(|it| bounded(it)).collect();
            if argument.values.len() > MAX_ENTRIES {
                told.push(CUT.to_owned());
            }
            told
        };
        let values = tool.values.iter().filter(known);
        Tool {
            values: values
                .map(|it| Argument {
                    values: told(it),
                    pointer: bounded(&it.pointer),
                })
                .collect(),
            ..tool.clone()
        }
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
