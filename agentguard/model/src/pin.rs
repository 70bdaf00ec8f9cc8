//! Definitions of tools, as servers list them, and how they differ from what they were first seen as.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most bytes of a tool's name that is pinned. A longer one is not pinned.
pub const MAX_PINNED_NAME: usize = 256;

/// The most bytes of a definition that is pinned, in its canonical form. A larger one is not pinned.
pub const MAX_PINNED: usize = 64 * 1024;

/// The definition of a tool: the whole entry of a list of tools.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ToolDefinition {
    /// The tool's name. Empty where the entry has none.
    pub name: String,
    /// The canonical form (RFC 8785, but that numbers stay as they are written).
    pub text: String,
}

/// What a definition is, compared with the one that its tool is pinned to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sight {
    /// The first one of its tool: the tool is pinned to it now.
    First,
    /// The same.
    Same,
    /// The same, and another one was listed before, which nobody has accepted or sent away.
    Held,
    /// Another one.
    Changed {
        /// How it differs.
        change: Box<ToolChange>,
        /// Whether it is the one that was listed last, too.
        again: bool,
    },
    /// It was not compared, or could not be kept: why.
    NotPinned(String),
}

/// How the definition of a tool differs from the one that the tool is pinned to.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct ToolChange {
    /// `sha256:` and the hexadecimal digest of the definition that the tool is pinned to, in its canonical form
    /// (RFC 8785, but that numbers stay as they are written).
    pub before: String,
    /// That of the definition that was listed.
    pub after: String,
    /// The parts that differ, in the order of their pointers.
    pub parts: Vec<ChangedPart>,
    /// How many more differ.
    #[serde(default, skip_serializing_if = "is_none")]
    pub more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
const fn is_none(more: &u64) -> bool {
    *more == 0
}

/// A part of a definition that is not what it was.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct ChangedPart {
    /// Where it stands in the definition: a JSON Pointer (RFC 6901).
    pub pointer: String,
    /// What it was, in canonical JSON; absent where it was not there. `…` at its end stands for what is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it is, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What a tool is pinned to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ToolPin {
    /// The server, as the policy calls it.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// `sha256:` and the hexadecimal digest of its definition, in canonical form.
    pub digest: String,
    /// When it was first listed so, or accepted.
    pub since: Timestamp,
    /// Who accepted it, where it is not what was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<PinAccepted>,
    /// Another definition, with which it was listed since: the tool is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<PinOther>,
}

/// Who accepted a definition.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PinAccepted {
    /// The user id of who did, in the initial user namespace.
    pub uid: u32,
    /// When.
    pub time: Timestamp,
    /// Why, as they said.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Another definition than a tool is pinned to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PinOther {
    /// Its digest.
    pub digest: String,
    /// When it was first listed.
    pub since: Timestamp,
    /// Whether its text is there, so that it can be accepted.
    pub kept: bool,
    /// Whether the definition that the tool is pinned to was listed again since.
    pub back: bool,
}

/// A pin with its definitions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ToolPinned {
    /// What is pinned.
    #[serde(flatten)]
    pub pin: ToolPin,
    /// The definition, in canonical form.
    pub definition: String,
    /// The other one, where there is one whose text is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_definition: Option<String>,
    /// How that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ToolChange>,
}
