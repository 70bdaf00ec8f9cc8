//! Which account of a budget something is charged to.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use agentguard_model::budget::Dimension;
use serde::{Deserialize, Serialize};

/// The most bytes of one value. What is longer stands there by its beginning and a number for the rest, so that two long
/// ones are two.
const MAX_VALUE: usize = 128;

/// The values of a budget's dimensions: `agent=coder,user=ada`. Empty where a budget has one account for all.
///
/// Values may be what agents write: all but letters, digits and `- . _ / : @ +` of ASCII stands there in percent-encoding
/// (RFC 3986, 2.1). So no value looks like two, and a scope that an operator copies is one word to every shell, and no
/// command.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Scope(Arc<str>);

impl Scope {
    /// Of these values, each with its dimension. One that is not known is the empty one: whoever names nobody shares an
    /// account with all who do so.
    pub fn of<'a>(values: impl IntoIterator<Item = (&'a Dimension, &'a str)>) -> Self {
        let mut text = String::new();
        for (dimension, value) in values {
            if !text.is_empty() {
                text.push(',');
            }
            let _ = write!(text, "{dimension}=");
            push(&mut text, value);
        }
        Self(text.into())
    }

    /// Of a budget that has one account for all.
    #[must_use]
    pub fn all() -> Self {
        Self("".into())
    }

    /// Where there are too many accounts to have one more.
    #[must_use]
    pub fn others() -> Self {
        Self("(others)".into())
    }

    /// The same, for the calls of one agent, by its number.
    pub(crate) fn others_of(agent: u32) -> Self {
        Self(format!("(others of agent {agent})").into())
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of a dimension, as it is written. None: it does not tell the accounts of this budget apart.
    #[must_use]
    pub fn value(&self, dimension: &Dimension) -> Option<&str> {
        let dimension = dimension.to_string();
        self.0.split(',').find_map(|it| {
            let (name, value) = it.split_once('=')?;
            (name == dimension).then_some(value)
        })
    }
}

impl From<&str> for Scope {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn push(text: &mut String, value: &str) {
    let mut end = value.len().min(MAX_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let (shown, rest) = value.split_at(end);
    for byte in shown.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._/:@+".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    if !rest.is_empty() {
        let _ = write!(text, "%~{:08x}", crc32c::crc32c(value.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use agentguard_model::budget::Dimension;

    use super::{MAX_VALUE, Scope};

    #[test]
    fn no_value_looks_like_two() {
        let of = |agent: &str, model: &str| {
            Scope::of([(&Dimension::Agent, agent), (&Dimension::Model, model)])
        };
        assert_eq!(of("coder", "a-1").as_str(), "agent=coder,model=a-1");
        assert_eq!(
            of("coder", "x,agent=other").as_str(),
            "agent=coder,model=x%2Cagent%3Dother"
        );
        assert_eq!(of("coder", "").as_str(), "agent=coder,model=");
        assert_eq!(
            of("coder", "%2C é").as_str(),
            "agent=coder,model=%252C%20%C3%A9"
        );
    }

    #[test]
    fn what_an_agent_writes_is_no_command_where_it_is_copied() {
        let scope = Scope::of([
            (&Dimension::Model, "$(id);`id`|'\"*~&<>!#"),
            (&Dimension::Tool, "files/read.all_1"),
            (&Dimension::User, "ada@example:a+b-c"),
        ]);
        assert_eq!(
            scope.as_str(),
            "model=%24%28id%29%3B%60id%60%7C%27%22%2A%7E%26%3C%3E%21%23,tool=files/read.all_1,user=ada@example:a+b-c"
        );
        assert_eq!(scope.value(&Dimension::Tool), Some("files/read.all_1"));
        assert_eq!(scope.value(&Dimension::Agent), None);
        assert_eq!(Scope::all().value(&Dimension::Agent), None);
    }

    #[test]
    fn long_values_stay_apart_and_bounded() {
        let of = |model: String| Scope::of([(&Dimension::Model, model.as_str())]);
        let (one, other) = (of("é".repeat(4096) + "a"), of("é".repeat(4096) + "b"));
        assert_ne!(one, other);
        assert!(one.as_str().len() < 4 * MAX_VALUE);
    }
}
