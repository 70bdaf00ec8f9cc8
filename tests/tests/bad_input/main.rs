//! What is malformed, hostile or full: it is refused with words, recorded, and harms nobody.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it cannot go on, helpers included"
)]

mod calls;
mod disk;
mod keeper_socket;
mod protocols;
mod start;

use agentguard_tests::{Guard, Origin, Puppet, World, address};
use serde_json::Value;

pub(crate) const SITE: &str = "api.example.com";

pub(crate) fn world(name: &str) -> World {
    World::new(name)
        .origin(Origin::at(&address::origin(0x10)).site(SITE))
        .start()
        .unwrap()
}

pub(crate) fn puppet(world: &World, guard: &Guard<'_>, agent: &str) -> Puppet {
    Puppet::start(world, |words| guard.agent(agent, words)).unwrap()
}

pub(crate) fn status(guard: &Guard<'_>) -> Value {
    let status = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    serde_json::from_str(&status.success().unwrap().stdout).unwrap()
}

/// The daemon's processes: one that was harmed has been replaced.
pub(crate) fn processes(guard: &Guard<'_>) -> [Value; 2] {
    let status = status(guard);
    ["keeper_pid", "worker_pid"].map(|name| status[name].clone())
}
