//! The command line as scripts and people see it: whole outputs, and exit codes.
//!
//! What needs an answer asks a control socket that this process serves, with a real record and a
//! real policy, or a keeper of a few lines.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod budget;
mod daemon;
mod files;
mod help;
mod limits;
mod openapi;
mod policies;
mod tools;
mod trial;
mod world;
mod wrap;
