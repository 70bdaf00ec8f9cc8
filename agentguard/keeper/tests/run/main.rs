//! `agentguard run` for real: a keeper with a fake host, the real client, real shells on real
//! terminals. Needs root and cgroup v2; without, each test says so and counts as skipped.

mod job_control;
mod limits;
mod plain;
mod world;
