//! Who acts.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// The number of an agent, which keys the BPF maps. Never 0, stable while the state directory lives.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct AgentId(pub u32);

/// The name of an agent: 1 to 63 characters `a-z 0-9 . _ -`, the first one a letter or digit.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd)]
#[serde(try_from = "String")]
pub struct AgentName(#[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))] String);

/// The text is not an agent's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{0}` is not an agent name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit"
)]
pub struct InvalidName(String);

impl Serialize for AgentName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl AgentName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let valid = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for AgentName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> Self {
        name.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Labels of an agent: tenant, owner, workflow, purpose, …
pub type Labels = BTreeMap<String, String>;

/// An agent as a decision names it.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
}

/// How far the policy goes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Record only.
    Observe,
    /// Evaluate, and record what would have happened.
    Shadow,
    /// Refuse what the policy refuses.
    #[default]
    Enforce,
}

/// Who is behind an action, as far as it is known.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Context {
    /// The person the agent works for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// W3C trace id, 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

impl Context {
    /// How [`Self::user`] names a user of the host of whom only the number is known.
    #[must_use]
    pub fn user_of(uid: u32) -> String {
        format!("uid {uid}")
    }

    /// The number of a user that is named so.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.user.as_deref()?.strip_prefix("uid ")?.parse().ok()
    }
}

/// The process behind an action, as the kernel saw it at connect.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Process {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    /// The name of its main thread, at most 15 bytes.
    pub comm: String,
    /// The path it was executed from, where the kernel saw the execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::AgentName;

    #[test]
    fn names_that_could_confuse_a_path_or_a_table_are_refused() {
        for (text, valid) in [
            ("coder", true),
            ("coder-2.b_c", true),
            ("0", true),
            ("", false),
            (".", false),
            ("..", false),
            ("-x", false),
            ("a/b", false),
            ("Coder", false),
            ("a b", false),
            ("a\n", false),
        ] {
            assert_eq!(text.parse::<AgentName>().is_ok(), valid, "{text:?}");
        }
        assert!("a".repeat(63).parse::<AgentName>().is_ok());
        assert!("a".repeat(64).parse::<AgentName>().is_err());
    }
}
