//! Agent, flow, action, context, verdict, reason, decision: the words that every room shares.
//!
//! Plain data with serde, no I/O. A [`Decision`] is the unit of record and of `explain`; its JSON
//! form is a documented, stable schema.
//!
//! **Invariant:** this room knows no other room.

mod action;
mod agent;
mod argument_type;
pub mod budget;
mod claims;
pub mod contents;
mod decision;
mod host;
pub mod ledger;
pub mod limit;
mod llm;
mod path;
mod pin;
mod quota;
mod reason;
pub mod record;
mod resources;
pub mod special;
mod telemetry;
mod tool;
mod trace;
mod upstream;
mod users;

pub use action::{Action, ActionKind, Bytes, Messages, Transport};
pub use agent::{Agent, AgentId, AgentName, Context, InvalidName, Labels, Mode, Process};
pub use argument_type::ArgumentType;
pub use claims::{Claim, ClaimSource};
pub use decision::{
    BudgetLine, COUNTED_TOGETHER, Changed, Decision, DecisionId, Finding, InvalidDecisionId, Layer,
    Matched, Outcome, OvershootCause, Source, Verdict,
};
pub use host::{HostName, InvalidHost};
pub use llm::{AskedTool, Demand, Llm, LlmAnswer, LlmApi, LlmOperation, Provider, Usage};
pub use path::{AmbiguousPath, CanonicalPath};
pub use pin::{
    ChangedPart, MAX_PINNED, MAX_PINNED_NAME, PinAccepted, PinOther, Sight, ToolChange,
    ToolDefinition, ToolPin, ToolPinned,
};
pub use quota::{ConnectionRate, Quota, QuotaWindow};
pub use reason::{Reason, ReasonCode};
pub use resources::{
    Awaited, BlockDevice, CpuUsage, IoLimit, IoUsage, MemoryUsage, MilliCpus, Percent, PidsUsage,
    Pressure, PressureUsage, ResourceEvent, ResourceLimits, ResourceUsage,
};
pub use telemetry::{Endpoint, Header, Otlp, Telemetry};
pub use tool::{AgentAnswer, Argument, Tool, ToolAnswer, ToolApi, ToolResult};
pub use trace::{InvalidTraceParent, TraceParent};
pub use upstream::{Identity, ProxyCredentials, ProxyHost, UpstreamEntry, UpstreamProxy};
pub use users::Users;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an allowed flow is carried.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// Kernel only, no proxy hop.
    Direct,
    /// The proxy checks SNI against the name, then passes bytes untouched.
    Splice,
    /// TLS is terminated and every request decided.
    Inspect,
}
