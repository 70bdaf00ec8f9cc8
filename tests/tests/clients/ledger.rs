//! The ledger of one host, whose journal was damaged while no daemon ran.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::fs;
use std::path::{Path, PathBuf};

use agentguard_tests::{Guard, Origin, World, address, client};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::inspected::inspected;
use crate::room::Room;

const OPENAI: &str = "api.openai.com";

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: models
    match: { host: [api.openai.com], port: [443] }
    action: allow
    handling: inspect
budgets:
  - { id: calls, unit: calls, limit: 100, window: lifetime }
";

fn status(guard: &Guard<'_>) -> Value {
    let output = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

fn used(guard: &Guard<'_>) -> Value {
    let list = guard.cli().args(["budget", "list", "-o", "json"]).run();
    let list: Value = serde_json::from_str(&list.unwrap().stdout).unwrap();
    list[0]["used"].clone()
}

/// Kills the worker, and then its keeper, which would start another: a worker whose keeper is gone ends in good order, and
/// leaves no journal.
fn kill(guard: &mut Guard<'_>) {
    let worker = status(guard)["worker_pid"].as_i64().unwrap();
    let worker = Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
    guard.signal(Signal::STOP).unwrap();
    kill_process(worker, Signal::KILL).unwrap();
    guard.kill().unwrap();
}

/// The journal that has something in it.
fn journal(state: &Path) -> PathBuf {
    let files = fs::read_dir(state.join("budget")).unwrap();
    let mut files = files.map(|it| it.unwrap().path());
    let is_it = |it: &PathBuf| {
        let named = it
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("journal.");
        named && it.metadata().unwrap().len() > 0
    };
    files.find(is_it).unwrap()
}

#[test]
fn a_damaged_journal_is_told_and_what_is_behind_it_counts() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let origin = Origin::at(&address::origin(0x10));
    let world = World::new("ledger-damage").origin(origin.site(OPENAI));
    let world = world.start().unwrap();
    let upstreams = json!([{ "host": [OPENAI], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    let mut room = Room::of(&world, guard.start().unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/budget_sdk.py");
    let words = ["openai", "gpt-4o", "10", "100", "plain", "4"].map(PathBuf::from);
    let words: Vec<PathBuf> = [python, script].into_iter().chain(words).collect();
    let told = inspected(&room, &words).run().unwrap().success().unwrap();
    assert_eq!(told.stdout, "10 stop 10\n".repeat(4));
    assert!(status(&room.guard)["ledger"]["problems"].is_null());
    kill(&mut room.guard);

    // The frame behind the first, in which the account is named, is that of the first call.
    let journal = journal(&room.guard.state_dir());
    let mut bytes = fs::read(&journal).unwrap();
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let second = 8 + usize::try_from(length).unwrap();
    bytes[second + 9] ^= 0xff;
    fs::write(&journal, bytes).unwrap();
    room.guard.start().unwrap();
    assert_eq!(used(&room.guard), 3);
    let problem = status(&room.guard)["ledger"]["problems"][0].clone();
    let problem = problem.as_str().unwrap();
    for part in [
        "the ledger's journal was damaged: ",
        &format!("from byte {second} on"),
        "reservations of up to 1 calls",
        "budget/damaged.",
        "agentguard budget set",
    ] {
        assert!(problem.contains(part), "{part}: {problem}");
        assert!(room.guard.log().contains(part), "{}", room.guard.log());
    }
    let said = room.guard.cli().arg("status").run().unwrap();
    assert!(said.stdout.contains("not everything of the daemon works"));
    assert!(said.stdout.contains("journal was damaged"), "{said}");

    // The operator sets what is missing; the next start is in good order.
    let set = room.guard.cli().args(["budget", "set", "calls", "4"]).run();
    assert_eq!(set.unwrap().code(), 0);
    room.guard.kill().unwrap();
    room.guard.start().unwrap();
    assert_eq!(used(&room.guard), 4);
    assert!(status(&room.guard)["ledger"]["problems"].is_null());
}
