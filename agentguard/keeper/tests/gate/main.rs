//! The gate on the running kernel, without the daemon: each test has a cgroup and a network namespace of
//! its own, and a gate that is empty. Needs root and cgroup v2; without, each test says so and counts as
//! skipped.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's own world fails loudly; clippy only knows functions marked as tests"
)]

mod client;
mod connects;
mod datagrams;
mod devices;
mod events;
mod foreign;
mod full;
mod inbound;
mod keeping;
mod lsm;
mod names;
mod networks;
mod older;
mod ports;
mod quotas;
mod shared;
mod sockets;
mod versions;
mod world;
