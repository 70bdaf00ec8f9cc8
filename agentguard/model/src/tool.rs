//! Messages to servers of tools: calls, and what goes with them; and what comes of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ToolChange;

/// The form in which a server of tools is spoken to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolApi {
    /// The Model Context Protocol, over HTTP.
    Mcp,
    /// The Model Context Protocol with a program that the agent starts, over its standard input and output.
    McpStdio,
    /// Hooks of the agent's own program, which asks before it uses a tool of its own.
    Hook,
    /// Requests of HTTP, each of which is a call of a tool by its method and its path.
    Http,
    /// gRPC: each request calls a method of a service.
    Grpc,
    /// JSON-RPC 2.0, over HTTP.
    JsonRpc,
    /// Agent2Agent (A2A), 1.0 and 0.x, over JSON-RPC and over HTTP+JSON: each operation is a call.
    A2a,
    /// GraphQL, over HTTP: each field at the top of an operation is a call.
    Graphql,
}

impl ToolApi {
    /// Whether such a server has no place in the network, so that the agent's host asks the guard itself.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::McpStdio | Self::Hook)
    }

    /// Whether it is spoken to in the Model Context Protocol, so that it lists its tools.
    #[must_use]
    pub const fn is_mcp(self) -> bool {
        matches!(self, Self::Mcp | Self::McpStdio)
    }

    /// Whether it tells clients what it is, which can be compared with what it first told: its tools, or its card.
    #[must_use]
    pub const fn is_pinned(self) -> bool {
        self.is_mcp() || matches!(self, Self::A2a)
    }
}

/// A message to a server of tools: a call of a tool, or what goes with calls.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Tool {
    /// The server, as the policy calls it.
    pub server: String,
    /// The tool that is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is asked for: the method of MCP; of a call in any form it is `tools/call`. Absent of what asks for nothing: an answer, and the requests of
    /// HTTP that open a stream or end a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Which requests of the server it answers, or could: the methods of those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// Its id, as it is written in JSON. Absent of what wants no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The version of the protocol, where the message says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `sha256:` and the hexadecimal digest of the arguments in their canonical form (RFC 8785, but that numbers
    /// stay as they are written).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// The arguments that a rule of the policy looks at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Argument>,
    /// Why the message could not be read, where it went on all the same: then nothing else is known of it but the
    /// server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_understood: Option<String>,
    /// How its definition differs from the one that the tool was first seen with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Box<ToolChange>>,
}

/// An argument of a call.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Argument {
    /// Where it stands in the arguments: a JSON Pointer (RFC 6901).
    pub pointer: String,
    /// What it is: a string as itself, anything else in the canonical form. Of a list, each of its entries; `…`
    /// stands for what is not recorded.
    pub values: Vec<String>,
}

/// What came of a message to a server of tools.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct ToolAnswer {
    /// The answers that came, in their order. Where one stream has the answers of many requests, they are with
    /// the stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ToolResult>,
    /// What the server asks of the client: the methods, in their order, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
    /// How many tools it lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<u64>,
    /// The tools that were taken out of a list, since the policy allows no call of them, or since they
    /// are not what they were pinned to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What another agent said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Box<AgentAnswer>>,
    /// Why the answer could not be read to its end, where it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_understood: Option<String>,
    /// What the results say, as a number that is the same for the same, where that was read. Not recorded.
    #[serde(skip)]
    pub content: Option<u64>,
}

/// What an agent said to another one that asked it over Agent2Agent.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct AgentAnswer {
    /// The id of the task that it is about; `…` stands for one of more than 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The id of the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The state of the task by the name of 1.0 (`TASK_STATE_COMPLETED`): of several that a stream tells, the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The reason of an error (`TASK_NOT_FOUND`), or the type of a problem document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many messages it answered with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub messages: u64,
    /// How many artifacts, and pieces of one, came.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub artifacts: u64,
    /// How often a stream told the task's state.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub updates: u64,
    /// How many tasks it lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The answer to one request.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct ToolResult {
    /// The id of the request, as it is written in JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The code of an error of JSON-RPC, or of one of HTTP+JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<i64>,
    /// Whether the tool says that it failed (`isError`), or the agent that a task failed or is rejected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
    /// Whether the server wants to know more before it answers (`input_required`, `TASK_STATE_INPUT_REQUIRED`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}
