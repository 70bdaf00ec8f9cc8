//! The control API: how operators and programs ask the guard what it does.
//!
//! HTTP/1.1 and JSON over a unix socket. [`serve`] answers in the worker, from [`Sources`] that the
//! wiring fills; [`Client`] asks, in the command line. [`api`] is what travels. Who may ask is
//! decided in `peer`, by what the kernel says of the process at the other end, and what of it they are
//! told in `scope`. `heard` notes who sends on a connection. `seats` keeps one user from taking all the
//! places, and `sparing` from filling the log.
//!
//! **Invariant:** nothing here changes the guard. What does (agents, reloads, runs) goes to the
//! keeper's own socket, so that a worker that was taken over cannot ungovern an agent. No process in
//! a governed cgroup is served, whatever user it runs as. Every answer, request and connection is
//! bounded; a slow reader costs one page and loses nothing silently.

#![forbid(unsafe_code)]

pub mod api;
pub mod budgets;
mod client;
pub mod heard;
pub mod limits;
pub mod peer;
mod scope;
pub mod seats;
mod server;
pub mod sparing;
pub mod tools;

pub use client::{Client, ClientError, Follow, how_to_start};
pub use server::{Sources, serve};
