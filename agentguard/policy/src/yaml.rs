//! YAML files of an operator: policy documents and the daemon's configuration.
//!
//! A file becomes a tree in which every node knows its place ([`tree`]), and the tree becomes the
//! type asked for ([`de`]). When a part of it does not fit, the part is noted, taken out and the
//! rest is read again, so that an operator sees all errors at once.
//!
//! **Invariant:** whatever the text, the work is bounded: 1 MiB of text, 64 levels, 300,000 nodes
//! after the expansion of aliases, [`MAX_DIAGNOSTICS`](crate::MAX_DIAGNOSTICS) passes.

mod de;
mod plain;
mod syntax;
mod tree;
mod within;

use std::collections::HashSet;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, SeqAccess, Visitor};

use crate::diagnostic::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS, Severity};

pub(crate) use tree::{Key, Node, Tree, Value};
pub(crate) use within::within;

/// The longest text that is read, in bytes. A longer one is refused.
pub const MAX_TEXT: usize = 1024 * 1024;

/// A place in a text.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1, in characters.
    pub column: u32,
    /// What stands there was put in from elsewhere: the number of the loader's note on that. 0: it
    /// was not.
    pub(crate) origin: u32,
}

impl Place {
    pub(crate) const fn at(line: u32, column: u32) -> Self {
        Self {
            line,
            column,
            origin: 0,
        }
    }
}

/// A value and where it stands. Only this room's deserializer can make one.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it begins.
    pub place: Place,
    /// The line where it ends.
    pub last_line: u32,
    /// Whether nothing is written in it: an empty list, or no keys.
    pub(crate) bare: bool,
}

/// What to do where nothing better can be said.
const READ_THE_SCHEMA: &str = "`agentguard schema` prints the form of each document";

impl<T> At<T> {
    /// The lines that it takes.
    pub(crate) const fn lines(&self) -> std::ops::RangeInclusive<u32> {
        self.place.line..=self.last_line
    }
}

/// The name under which [`At`] asks for a place.
const AT: &str = "agentguard_policy::yaml::At";

/// The name under which a number is asked for: one that is no whole one of 64 bits comes as the octets in which it is
/// written, since a double may be another one.
pub(crate) const NUMBER: &str = "agentguard_policy::yaml::NUMBER";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Parts<T> {
            type Value = At<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value with its place")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<At<T>, A::Error> {
                let missing = |n| serde::de::Error::invalid_length(n, &"6 parts");
                let line = parts.next_element()?.ok_or_else(|| missing(0))?;
                let column = parts.next_element()?.ok_or_else(|| missing(1))?;
                let last_line = parts.next_element()?.ok_or_else(|| missing(2))?;
                let origin = parts.next_element()?.ok_or_else(|| missing(3))?;
                let bare: u32 = parts.next_element()?.ok_or_else(|| missing(4))?;
                let value = parts.next_element()?.ok_or_else(|| missing(5))?;
                Ok(At {
                    value,
                    place: Place {
                        line,
                        column,
                        origin,
                    },
                    last_line,
                    bare: bare == 1,
                })
            }
        }

        deserializer.deserialize_tuple_struct(AT, 6, Parts(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Reads a text as a `T`, which should refuse unknown keys (`#[serde(deny_unknown_fields)]`) and
/// name itself (`#[serde(expecting = "…")]`). `path` stands in the messages.
///
/// # Errors
/// The first thing that is wrong; see [`parse_all`].
pub fn parse<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, Diagnostic> {
    parse_all(path, text).map_err(|found| {
        found.into_iter().next().unwrap_or_else(|| Diagnostic {
            severity: Severity::Error,
            path: path.to_owned(),
            line: 0,
            column: 0,
            message: "cannot be read".to_owned(),
            hint: READ_THE_SCHEMA.to_owned(),
        })
    })
}

/// As [`parse`], with all errors.
///
/// # Errors
/// Everything that is wrong with the text: bad YAML, unknown and duplicate keys, missing keys,
/// values of another type, and what is over a bound.
pub fn parse_all<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, Diagnostics> {
    let (value, found) = parse_lenient(path, text);
    match value {
        Some(value) if found.is_empty() => Ok(value),
        _ => Err(Diagnostics::new(found)),
    }
}

/// As [`parse_all`], and beside the errors what could be read without the parts that are wrong.
pub(crate) fn parse_lenient<T: DeserializeOwned>(
    path: &str,
    text: &str,
) -> (Option<T>, Vec<Diagnostic>) {
    let (tree, mut found) = tree(path, text);
    let value = tree.and_then(|tree| {
        let (value, more) = read(path, &tree);
        found.extend(more);
        value
    });
    found.sort_by_key(|d| (d.line, d.column));
    (value, found)
}

/// A text as a tree, if it is YAML, and what is wrong with its form.
pub(crate) fn tree(path: &str, text: &str) -> (Option<Tree>, Vec<Diagnostic>) {
    let (tree, faults) = tree::build(text);
    let found = faults
        .into_iter()
        .map(|fault| error(path, fault.place, fault.message, fault.hint))
        .collect();
    (tree, found)
}

/// Reads a tree as a `T`, as far as it is one, and says what is wrong with the rest.
pub(crate) fn read<T: DeserializeOwned>(path: &str, tree: &Tree) -> (Option<T>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let root = &tree.root;
    // Each pass takes one node out, so more passes than diagnostics are needed only where a
    // missing key is the consequence of an earlier one. The bound is for both.
    let mut removed = HashSet::new();
    for left in (0..2 * MAX_DIAGNOSTICS).rev() {
        match T::deserialize(de::NodeDeserializer::new(root, &removed)) {
            Ok(value) => return (Some(value), found),
            Err(fault) => {
                let (place, culprit) = fault.place_and_culprit(root);
                let consequence = fault.is_consequence();
                let told = error(path, place, fault.message, fault.hint);
                // What an alias stands for is told once.
                if !consequence && !found.contains(&told) {
                    found.push(told);
                }
                if culprit == root.id || !removed.insert(culprit) {
                    break;
                }
                if left == 0 {
                    let message = "more is wrong than is told at once";
                    let hint = "mend what is told first";
                    let place = Place::default();
                    found.push(error(path, place, message.to_owned(), hint.to_owned()));
                }
            }
        }
    }
    (None, found)
}

fn error(path: &str, place: Place, message: String, hint: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        path: path.to_owned(),
        line: place.line,
        column: place.column,
        message,
        hint,
    }
}

#[cfg(test)]
mod tests;
