//! What goes wrong at the worst moment: processes of the guard are killed while agents do not stop to
//! try, and agents ask for more than there is.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it cannot go on, helpers included"
)]

mod flood;
mod kill;
mod many;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agentguard_tests::{Guard, Origin, Puppet, World, address, client};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SITE: &str = "api.example.com";

/// How long the guard may take for what it does by itself, on a machine that others use too.
const LIMIT: Duration = Duration::from_secs(30);

/// A world with one site.
fn world(name: &str) -> World {
    World::new(name)
        .origin(Origin::at(&address::origin(0x10)).site(SITE))
        .start()
        .unwrap()
}

/// A program of `tests/escapes`, where every user may execute it; none where there is no compiler,
/// which is told.
fn program(world: &World, name: &str) -> Option<PathBuf> {
    let program = world.directory().join(name);
    if let Some(compiled) = std::env::var_os("AGENTGUARD_ESCAPES") {
        fs::copy(Path::new(&compiled).join(name), &program).unwrap();
        return Some(program);
    }
    let compiler = client::find("cc").unwrap()?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("escapes");
    let compiled = Command::new(compiler)
        .args(["-std=gnu17", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(sources.join(name).with_extension("c"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{name}: {said}");
    Some(program)
}

/// A client in an agent's cgroup that asks again soon for a name.
fn settled(world: &World, guard: &Guard<'_>, agent: &str) -> Puppet {
    let cgroup = guard.agent_cgroup(agent).unwrap();
    let impatient = ("RES_OPTIONS", "timeout:1 attempts:4");
    Puppet::start(world, |words| {
        guard.within(&cgroup, words).env(impatient.0, impatient.1)
    })
    .unwrap()
}

fn status(guard: &Guard<'_>) -> Option<Value> {
    let status = guard.cli().args(["status", "-o", "json"]).run().ok()?;
    serde_json::from_str(&status.stdout).ok()
}

fn worker(guard: &Guard<'_>) -> Option<u32> {
    u32::try_from(status(guard)?["worker_pid"].as_u64()?).ok()
}

/// Sends a signal to a process that may be gone.
fn signal(process: u32, signal: Signal) {
    let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    let _ = kill_process(process, signal);
}
