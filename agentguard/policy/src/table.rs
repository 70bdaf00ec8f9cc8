//! Table tests: what an agent attempts, and what should become of it, written beside a policy.
//!
//! ```text
//! text ──parse──▶ WrittenTable ──check──▶ Table ──run──▶ one TestResult a test
//!                     └─ which policy         └─ names that the policy has
//! ```
//! - `document`: the file as it is written; its schema.
//! - `load`: tests that cannot be wrong, every error in its place.
//! - `behind`: where it matters which address is behind a name.
//! - `calls`: requests that the guard reads as calls, though their tests do not say so.
//! - `run`: what the policy says, and whether it is what was expected.
//!
//! A test decides by [`Policy::decide`](crate::Policy::decide) and
//! [`Policy::decide_name`](crate::Policy::decide_name), as the guard does.

mod behind;
mod calls;
mod document;
mod load;
mod run;

use std::net::IpAddr;

use agentguard_model::{AgentName, AmbiguousPath, HostName, Llm, Tool};

use crate::flow::Flow;
use crate::request::Query;

pub use document::Expected;
pub use load::{MAX_TESTS, WrittenTable};
pub(crate) use run::deciding;
pub use run::{Expectation, Got, Near, TestResult};

/// The JSON Schema of a file of table tests, version 1.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(document::RawTable).into()
}

/// Tests that can be run against the policy that they were checked with.
#[derive(Debug)]
pub struct Table {
    tests: Vec<Test>,
}

/// One test.
#[derive(Debug)]
struct Test {
    name: String,
    line: u32,
    agent: AgentName,
    attempt: Attempt,
    expect: Expectation,
}

/// What is attempted.
#[derive(Debug)]
enum Attempt {
    /// A name is resolved; behind it is this address.
    Name(HostName, Option<IpAddr>),
    /// A flow begins.
    Flow(Flow),
    /// A flow shows no request and never will.
    Opaque(Flow),
    /// A request is sent.
    Request(Flow, Box<Sent>),
}

/// A request that is sent.
#[derive(Debug)]
struct Sent {
    method: String,
    /// As the proxy reads it, or why it refuses it.
    path: Result<String, AmbiguousPath>,
    query: Option<Query>,
    /// Absent where there are none that the destination gets: a tunnel's request ends at the guard.
    fields: Option<http::HeaderMap>,
    body: u64,
    websocket: bool,
    /// The call of a language model that it is.
    llm: Option<Llm>,
    /// As [`crate::Request::opens_calls`].
    opens_calls: bool,
    tool: Option<Tool>,
    /// Inside TLS.
    secure: bool,
}
