//! The Model Context Protocol over HTTP: which messages a client sends, and what comes back.
//!
//! Read are streamable HTTP (2025-03-26 to 2026-07-28) and the older HTTP+SSE (2024-11-05). Of a message everything
//! that rules look at is read in one way only; what a server might read in another is not understood.

mod answer;
mod claims;
mod definition;
mod list;
mod refusal;
mod request;
#[cfg(test)]
mod tests;

use crate::content::Undecodable;
use crate::{arguments, json, jsonrpc};

pub use crate::arguments::digest;
pub use answer::AnswerReader;
pub use claims::Claims;
pub use definition::{MAX_PARTS, MAX_SHOWN, parts};
pub use list::{List, ListFilter, MAX_LIST, may_list};
pub use refusal::{Questions, REFUSED};
pub use request::{MessageReader, Sent};

/// The versions that are understood, the oldest first.
pub const VERSIONS: [&str; 5] = [
    "2024-11-05",
    "2025-03-26",
    "2025-06-18",
    "2025-11-25",
    STATELESS,
];

/// The version from which on each message stands for itself, and says in fields of HTTP what it is.
pub const STATELESS: &str = "2026-07-28";

/// The method of a call.
pub const CALL: &str = "tools/call";

/// The method that lists tools.
pub const LIST: &str = "tools/list";

/// What servers ask of clients and is more than a sign of life.
pub const OF_CLIENTS: [&str; 3] = ["sampling/createMessage", "elicitation/create", "roots/list"];

/// The methods that clients call.
const METHODS: [&str; 25] = [
    "initialize",
    "ping",
    "server/discover",
    "subscriptions/listen",
    LIST,
    CALL,
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "tasks/get",
    "tasks/result",
    "tasks/list",
    "tasks/cancel",
    "tasks/update",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "notifications/tasks/status",
];

/// The most answers of one stream that are told of, and the most kinds of requests.
pub const MAX_TOLD: usize = 128;

/// Why a message, or an answer, is not understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotUnderstood {
    /// It is not JSON that can be read in one way only.
    #[error(transparent)]
    Json(#[from] json::Fault),
    /// It is no message of JSON-RPC.
    #[error(transparent)]
    JsonRpc(#[from] jsonrpc::Fault),
    /// Its content coding cannot be taken off.
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    /// A line of an event stream is none of one: see [`crate::sse::Pieces::is_odd`].
    #[error("a line of its event stream is neither a field nor a comment")]
    Line,
    /// A member has not the type that the protocol gives it.
    #[error("`{0}` is not what MCP has there")]
    Wrong(&'static str),
    /// A name differs in case from one that the protocol has.
    #[error("`{0}` is written in another case than MCP has it")]
    Case(&'static str),
    /// A field of HTTP is there twice, or is no text.
    #[error("the header field `{0}` is there twice, or is no text")]
    Field(&'static str),
    /// Field and content say two things: who looks at one sees another message than who looks at the other.
    #[error("the header field `{0}` does not say what the content does")]
    Disagree(&'static str),
    /// A field that the version asks for is not there.
    #[error("MCP {STATELESS} asks for the header field `{0}`")]
    Missing(&'static str),
    /// A version that is not known: what its messages mean is not known either.
    #[error("this version of MCP is not known")]
    Version,
    /// What the version does not have.
    #[error("MCP {STATELESS} has no {0}")]
    Gone(&'static str),
    /// Arguments that rules look at.
    #[error(transparent)]
    Values(#[from] arguments::TooLong),
    /// An answer is longer than is read.
    #[error("more answers came than are told of")]
    Told,
}
