//! What travels: HTTP/1.1 over the socket where agents ask. A message is the content of a request, as it stands on its
//! line; the server of tools is in the query, `?server=NAME`.

use agentguard_model::{DecisionId, Reason};
use serde::{Deserialize, Serialize};

/// A message on its way to a server of tools. Answered with [`Answer`].
pub const SENT: &str = "/v1/sent";

/// A message that came from one. Answered with [`Came`].
pub const CAME: &str = "/v1/came";

/// That a message on its way to a server is longer than [`MAX_LINE`]: it is refused. Its content is the id of
/// what is asked, as it is written in JSON, if that is known; answered with [`Answer`].
pub const LONG: &str = "/v1/long";

/// The most bytes of a message. A longer one is refused.
pub const MAX_LINE: usize = 4 * 1024 * 1024;

/// The most characters of a server's name.
pub const MAX_NAME: usize = 63;

/// What was decided.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// Whether the message may go on.
    pub allowed: bool,
    /// The decision; of a batch the one that counts. Absent where the record refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionId>,
    /// Why.
    pub reason: Reason,
    /// What goes on in its place, if not itself: what rules change in it is changed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<String>,
    /// What its sender is told in the place of the server's answer, where it waits for one: a message of JSON-RPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

/// What is to be done with a message that came from a server.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Came {
    /// What is passed on in its place, if not itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

/// Why nothing was decided.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// Why, and what to do.
    pub message: String,
}
