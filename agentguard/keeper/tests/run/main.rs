//! `agentguard run` for real: a keeper with a fake host, the real client, real shells on real
//! terminals. Needs root and cgroup v2; without, each test says so and counts as skipped.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own world fails loudly; clippy only knows functions marked as tests"
)]

mod job_control;
mod limits;
mod plain;
mod sandbox;
mod senders;
mod world;
