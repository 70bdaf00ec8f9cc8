//! Policy documents, compiled rules and their evaluation.
//!
//! ```text
//! text ──yaml──▶ tree ──load::expand──▶ document ──load──▶ agents, rules ──index──▶ Policy ──▶ decide, decide_name
//!                                                                                     └──sweep──▶ kernel lines
//! ```
//! - `sources`: which documents there are: what one includes, and who reads it.
//! - [`yaml`]: an operator's files, every error in its place; the daemon's configuration too.
//! - `document`, `load`, `warn`: what is written → what cannot be wrong, and what was not meant. Variables and
//!   named lists are put into the tree (`load::expand`), so that nothing behind it knows of them.
//! - `request`, `protocols`, `llm`, `tool`: what rules see of a request, and what they say of it, of what shows none,
//!   of calls of language models and of messages to servers of tools; `providers`, `tool_servers`: where those go.
//! - `index`, `found`, `strategy`, `decide`, `name`, `explain`: which rules a flow meets, which of them count, and
//!   what follows.
//! - `circumstances`, `conditions`: who is behind it and when, and what rules say of that.
//! - `budget`: which budgets a call is charged to.
//! - `limit`: by which limits and breakers it is counted.
//! - `users`: who may run what, once somebody has looked their names up.
//! - `unread`: calls that cannot be read, and what becomes of them.
//! - `inspects`, `sizes`: where TLS is to be terminated, and when a growing request is decided again.
//! - `changes`: what a rule changes in requests that it allows.
//! - `recorded`, `secrets`: what of a request goes into the record, and what never does.
//! - [`table`], [`replay`], [`report`]: a policy on trial: tests beside it, what was recorded through
//!   it, and what its modes make of it.
//! - `sweep`, `kernel`: what the kernel can decide alone, as lines of its maps.
//!
//! The semantics are in `docs/policy.md`, whose examples run through this compiler.
//!
//! **Invariant:** no I/O and no clock: a [`Policy`] is a function of its documents, and a verdict
//! is a function of policy, agent and facts. What cannot be understood is refused at load.

#![forbid(unsafe_code)]

mod agent;
mod budget;
mod changes;
mod circumstances;
mod conditions;
mod decide;
mod diagnostic;
mod document;
mod explain;
mod flow;
mod found;
mod index;
mod inspects;
mod kernel;
mod limit;
mod llm;
mod load;
pub mod local;
mod name;
mod pattern;
mod policy;
mod protocols;
mod providers;
mod readings;
mod recorded;
pub mod replay;
pub mod report;
mod request;
mod routes;
mod rule;
mod secrets;
mod sentence;
mod sizes;
mod sources;
mod special;
mod steps;
mod strategy;
mod sweep;
pub mod table;
mod tool;
mod tool_servers;
mod unread;
mod users;
mod warn;
pub mod yaml;

pub use agent::{AgentPolicy, ResourcePolicy, SandboxPolicy};
pub use budget::{BudgetRule, Charged, Soft};
pub use changes::Changes;
pub use circumstances::{Circumstances, Switches};
pub use decide::{Facts, Ruling, RulingOutcome};
pub use diagnostic::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS, Severity};
pub use document::{
    Addresses, Listing, Local, LogLevel, NotUnderstood, OnAdoption, OnDaemonLoss, OnMissing,
    Pinning, RuleAction, schema,
};
pub use explain::{Condition, Consideration, Considered};
pub use limit::{BreakerRule, LimitRule, Says};
pub use load::{MAX_AGENTS, MAX_LIMIT, MAX_LIST, MAX_RULES, MAX_STRING, amount, is_exact_path};
pub use name::NameRuling;
pub use pattern::CgroupPattern;
pub use policy::{Policy, compile};
pub use request::{Assumed, Query, Request};
pub use routes::{Routed, Unrouted};
pub use rule::{RuleInfo, Seen};
pub use sources::{MAX_DOCUMENTS, Sources, Unreadable};
pub use strategy::Strategy;
pub use tool_servers::ToolServer;
pub use users::MAX_USERS;

/// A policy document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Document {
    /// The file, as the operator named it: it stands in messages and in decisions.
    pub path: String,
    /// What it says.
    pub text: String,
}

#[cfg(test)]
mod tests;
