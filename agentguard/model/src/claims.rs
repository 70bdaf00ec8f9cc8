//! What a request says itself of whom it is for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Context;

/// Where a request says it.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ClaimSource {
    /// In the header field `baggage` (W3C Baggage): `user.id`, `session.id`, `workflow`, `purpose`.
    Baggage,
    /// In a call of a language model: `user` or `safety_identifier` (`OpenAI`), `metadata.user_id` (Anthropic).
    Llm,
    /// In a session that a server of tools has begun (`Mcp-Session-Id`): its id is the session.
    Mcp,
    /// In the header field `traceparent` (W3C Trace Context): the trace.
    Traceparent,
}

/// What a request says itself, as the agent wrote it: it may be anything.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Claim {
    /// Where.
    pub source: ClaimSource,
    /// What.
    pub context: Context,
    /// Whether the policy takes it for true where the run does not say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusted: bool,
}

impl Context {
    /// Takes from another what this one does not say.
    pub fn fill(&mut self, other: &Self) {
        let pairs = [
            (&mut self.user, &other.user),
            (&mut self.session, &other.session),
            (&mut self.workflow, &other.workflow),
            (&mut self.purpose, &other.purpose),
            (&mut self.trace_id, &other.trace_id),
        ];
        for (own, other) in pairs {
            if own.is_none() {
                own.clone_from(other);
            }
        }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
