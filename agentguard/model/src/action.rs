//! What is attempted.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Claim, HostName, Llm, Tool};

/// The kind of an action.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// A connection whose contents are not decoded.
    Connect,
    /// The first datagram to a destination.
    Datagram,
    /// A flow from outside to an agent's socket.
    Inbound,
    /// The making of a socket.
    Socket,
    /// The opening of a device.
    Device,
    /// The use of another process: tracing it, its memory, its descriptors.
    Process,
    /// The resolution of a name.
    DnsQuery,
    /// An HTTP request.
    HttpRequest,
    /// A call to a language model.
    LlmCall,
    /// A call to a tool.
    ToolCall,
    /// A tool as its server lists it: another definition than it was first seen with, or one that cannot be compared.
    ToolDefinition,
    /// What an agent takes of the host's memory, processes and processors, where it met a limit.
    Resource,
    /// A change to the guard itself: an agent quarantined or released, the gate taken off.
    Administration,
    /// A budget of which much is used, or will be.
    Budget,
}

/// What carries it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Bytes in both directions, payload only.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Bytes {
    /// From the agent.
    pub sent: u64,
    /// To the agent.
    pub received: u64,
}

/// Messages in both directions, each counted once it has passed as a whole.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Messages {
    /// From the agent.
    pub sent: u64,
    /// To the agent.
    pub received: u64,
}

/// One attempted thing, decoded as far as we can.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Action {
    /// What kind of thing.
    pub kind: ActionKind,
    /// What carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// The name it goes to, where a name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// The address the agent dialled, where it was not a virtual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The HTTP method; for a DNS query the record types asked for; for a socket its family, type
    /// and protocol; for a change to the guard what was done: `quarantine`, `release`, `switch`, `tools_accept`,
    /// `tools_forget`, `adopt`, `detach_all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path of an HTTP request, canonical, without the query; for a UNIX socket what its owner called
    /// it, an abstract name behind an `@`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The query of an HTTP request. Values of parameters that no rule of the policy looks at, or that
    /// are secrets by their names, are left out: `…` stands for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The header fields of an HTTP request that a rule of the policy looks at; `…` stands for the value
    /// of one that is a secret by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How many bytes of content an HTTP request was known to have when it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<u64>,
    /// Whether an HTTP request came inside TLS, which was opened; of a connection, whether it was TLS that
    /// was not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// Whether an HTTP request opened a WebSocket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub websocket: bool,
    /// The call of a tool, or what else is sent to a server of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Tool>,
    /// The call of a language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llm: Option<Llm>,
    /// What a request says itself of whom it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    /// How much was moved, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
}

impl Action {
    /// An action of which nothing but its kind is known.
    #[must_use]
    pub const fn new(kind: ActionKind) -> Self {
        Self {
            kind,
            transport: None,
            host: None,
            ip: None,
            port: None,
            method: None,
            path: None,
            query: None,
            headers: BTreeMap::new(),
            body: None,
            tls: false,
            websocket: false,
            tool: None,
            llm: None,
            claims: Vec::new(),
            bytes: None,
        }
    }
}
