//! Calls of tools in other forms than MCP: requests of HTTP ([`http`]), gRPC ([`grpc`]), GraphQL ([`graphql`]), JSON-RPC ([`json_rpc`]), and
//! of agents to agents ([`a2a`]).
//!
//! Each becomes a call with a name and arguments, as rules look at them. What two servers could read in two ways is
//! not understood: nothing is chosen.

pub mod a2a;
pub mod graphql;
pub mod grpc;
pub mod http;
pub mod json_rpc;
mod media;
mod multipart;
#[cfg(test)]
mod tests;
mod urlencoded;

use agentguard_model::{ArgumentType, Tool};

use crate::arguments::{TooLong, digest, values};
use crate::json::Value;
use crate::mcp::CALL;
use crate::{json, jsonrpc};

/// The most fields that a query, or a form, has.
pub const MAX_FIELDS: usize = 4096;

/// Why a request is no call that is understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotUnderstood {
    /// It is not JSON that can be read in one way only.
    #[error(transparent)]
    Json(#[from] json::Fault),
    /// It is no message of JSON-RPC.
    #[error(transparent)]
    JsonRpc(#[from] jsonrpc::Fault),
    /// Its document of GraphQL.
    #[error(transparent)]
    GraphQl(#[from] graphql::Fault),
    /// Arguments that rules look at.
    #[error(transparent)]
    Values(#[from] TooLong),
    /// An answer where something is to be asked for.
    #[error("it is an answer, and servers of JSON-RPC ask for nothing")]
    Answer,
    /// The content is JSON, and has no names for arguments.
    #[error("its content is no JSON object")]
    NoObject,
    /// Content of which it is not known what it is: its type is not there, there twice, or none that is read.
    #[error("its `Content-Type` is none that is read, or not there")]
    Type,
    /// It says that its text is something else than UTF-8.
    #[error("its content says that it is no UTF-8")]
    Charset,
    /// Texts that are not UTF-8.
    #[error("`{0}` is no UTF-8 once it is decoded")]
    NotUtf8(&'static str),
    /// `%` without two hexadecimal digits.
    #[error("`{0}` has a `%` without two hexadecimal digits")]
    Escape(&'static str),
    /// Some servers take it for the end of a field.
    #[error("`{0}` has a `;`, at which some servers begin another field")]
    Semicolon(&'static str),
    /// A field's name that some servers take for a part of another one.
    #[error(
        "`{0}` has a field without a name, or with one that some servers read in another way: with brackets, spaces or control characters"
    )]
    Name(&'static str),
    /// An argument is there twice: servers differ in which one they take.
    #[error("an argument is there twice")]
    Twice,
    /// [`MAX_FIELDS`].
    #[error("it has more than {MAX_FIELDS} fields")]
    Fields,
    /// An argument that is not of the type that it has, in one form that all servers read as the same.
    #[error("the argument `{name}` is no `{kind}`, as `types` of its tool has it: {}", kind.form())]
    Mistyped {
        /// Its name, as the policy has it.
        name: Box<str>,
        /// The type.
        kind: ArgumentType,
    },
    /// It takes more memory than there is for it.
    #[error("its content takes more memory than there is for it")]
    Large,
    /// Some servers go by another method, or another path, than it is sent with.
    #[error("`{0}` has some servers go by another method or path than that of the request")]
    Override(&'static str),
    /// The parts of a form.
    #[error("the form is not in parts that can be read in one way only: {0}")]
    Parts(&'static str),
    /// It is none of A2A's operations.
    #[error("it is no operation of A2A that is known")]
    Operation,
    /// Servers differ in which operation it is.
    #[error("some servers may take it for another operation")]
    Operations,
    /// A2A has no batches.
    #[error("it is a batch, and A2A has none")]
    Batch,
    /// What JSON-RPC has not, or has to have.
    #[error("a request of A2A has an `id`, and no members but those of JSON-RPC")]
    Envelope,
    /// Some servers read two spellings of a member.
    #[error("`{0}` is written in another way than A2A has it in JSON")]
    Spelling(&'static str),
    /// Content where none belongs.
    #[error("it has content, which requests of its method have not")]
    Content,
    /// It is no request of the form that its server is spoken to in.
    #[error("it is no call of {0}")]
    Form(&'static str),
}

/// A call of a tool with its arguments, of which those are told that `pointers` point to.
fn call(
    server: &str,
    name: &str,
    arguments: &Value,
    pointers: &[&str],
) -> Result<Tool, NotUnderstood> {
    Ok(Tool {
        arguments: Some(digest(&arguments.canonical())),
        values: values(arguments, pointers)?,
        ..named(server, name)
    })
}

/// A call of which the arguments are not read.
fn named(server: &str, name: &str) -> Tool {
    Tool {
        server: server.to_owned(),
        name: Some(name.to_owned()),
        method: Some(CALL.to_owned()),
        ..Tool::default()
    }
}
