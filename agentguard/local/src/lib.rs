//! Tools on the agent's own host: programs that speak the Model Context Protocol over standard input and output, and
//! what an agent's own hooks ask about.
//!
//! Agents ask over a UNIX socket of its own, which is all that an agent may ask of its guard: whether this message may
//! go on. [`serve`] answers in the worker, with [`session`] deciding; [`Client`] asks, in `agentguard mcp wrap` and
//! `agentguard hook`; [`api`] is what travels.
//!
//! **Invariant:** who asks is what the kernel says of the process at the other end, never what it says itself. An
//! answer says what is decided of the message that was asked about, and nothing else of policy or record. Questions
//! are bounded in size, in number at once for each agent, and one at a time on a connection.

#![forbid(unsafe_code)]

pub mod api;
mod client;
mod room;
mod server;
mod session;

pub use client::{Client, Unanswered};
pub use server::{Port, serve};
