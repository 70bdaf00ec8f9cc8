//! What is kept of contents.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most bytes that are kept of a content, decoded. Of a longer one its beginning is.
pub const MAX_KEPT: usize = 64 * 1024;

/// What was kept of what passed under a decision.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Contents {
    /// What was sent on, as rules changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Content>,
    /// What came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Content>,
}

impl Contents {
    /// Whether nothing is there.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.request.is_none() && self.response.is_none()
    }
}

/// Content, without its coding.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Content {
    /// What it is, as far as it was kept.
    #[serde(flatten)]
    pub kept: Kept,
    /// How much passed, in bytes, as it was sent.
    pub size: u64,
    /// Whether there was more than is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The bytes of a content.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// They are UTF-8.
    Text(String),
    /// They are not: in base64 (RFC 4648, 4).
    Base64(String),
}
