//! Quarantines that stop processes: what they find stopped, and daemons that end half-way.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_tests::{Guard, Output, wait_until};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};

use super::{SITE, mighty, world};

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

const POLICY: &str = "
version: 1
agents: [{name: coder}, {name: helper, cgroup: ['jobs/*']}]
rules:
  - id: api
    match: {host: [api.example.com], port: [80]}
    action: allow
";

fn say(guard: &Guard<'_>, words: &[&str]) -> Output {
    guard.cli().args(words).run().unwrap()
}

fn freeze(cgroup: &Path, value: &str) {
    fs::write(cgroup.join("cgroup.freeze"), value).unwrap();
}

fn is_frozen(cgroup: &Path) -> bool {
    let value = fs::read_to_string(cgroup.join("cgroup.freeze")).unwrap();
    value.trim() == "1"
}

fn registry(guard: &Guard<'_>) -> PathBuf {
    guard.state_dir().join("keeper/agents.json")
}

#[test]
fn what_was_stopped_before_a_quarantine_stays_so_after_it() {
    let world = world("frozen-before");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let [before, after] = ["one", "two"].map(|name| guard.cgroup().join("jobs").join(name));
    for cgroup in [&before, &after] {
        fs::create_dir_all(cgroup).unwrap();
    }
    wait_until("they are the agent's", SOON, || {
        let shown = say(&guard, &["agent", "show", "helper"]).stdout;
        (shown.contains("jobs/one") && shown.contains("jobs/two")).then_some(())
    })
    .unwrap();
    freeze(&before, "1");
    say(&guard, &["agent", "quarantine", "helper", "--freeze"])
        .success()
        .unwrap();
    assert!(is_frozen(&before) && is_frozen(&after));
    guard.kill().unwrap();
    guard.start().unwrap();
    let released = say(&guard, &["agent", "release", "helper"])
        .success()
        .unwrap();
    assert!(is_frozen(&before) && !is_frozen(&after));
    let told = format!("{} was stopped before", before.display());
    assert!(released.stderr.contains(&told), "{released}");
    assert!(!released.stderr.contains("jobs/two"), "{released}");

    // What somebody lets go on while it is quarantined is stopped again, and then that is the quarantine's.
    say(&guard, &["agent", "quarantine", "helper", "--freeze"])
        .success()
        .unwrap();
    freeze(&before, "0");
    wait_until("it is stopped again", SOON, || {
        is_frozen(&before).then_some(())
    })
    .unwrap();
    let released = say(&guard, &["agent", "release", "helper"])
        .success()
        .unwrap();
    assert!(!is_frozen(&before), "{released}");
}

/// Whether a thread of a process waits for somebody to read from a pipe that it opens.
fn waits_for_a_reader(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.flatten().any(|thread| {
        let place = fs::read_to_string(thread.path().join("wchan")).unwrap_or_default();
        // `fs/pipe.c`.
        ["wait_for_partner", "fifo_open"].contains(&place.trim())
    })
}

/// A daemon that is killed while it writes has stopped nothing yet: nobody would let it go on.
#[test]
fn what_is_to_be_stopped_is_written_down_before_it_is() {
    let world = world("frozen-killed");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = mighty(&world, &guard, "coder");
    client.gives("1 + 1", 2);
    let cgroup = guard.cgroup().join("coder");
    say(&guard, &["agent", "quarantine", "coder"])
        .success()
        .unwrap();
    let pipe = registry(&guard).with_extension("new");
    wait_until("nothing is to be written any more", SOON, || {
        let written = fs::read_to_string(registry(&guard)).ok()?;
        (!written.contains("deeds") && !pipe.exists()).then_some(())
    })
    .unwrap();
    // The registry's next contents are written to a pipe that nobody reads.
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let again = guard
        .cli()
        .args(["agent", "quarantine", "coder", "--freeze"]);
    let again = again.spawn().unwrap();
    let daemon = guard.id().unwrap();
    wait_until("it writes", SOON, || {
        waits_for_a_reader(daemon).then_some(())
    })
    .unwrap();
    assert!(!is_frozen(&cgroup));
    guard.kill().unwrap();
    drop(again);
    fs::remove_file(&pipe).unwrap();
    guard.start().unwrap();
    assert!(!is_frozen(&cgroup));
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    say(&guard, &["agent", "quarantine", "coder", "--freeze"])
        .success()
        .unwrap();
    assert!(is_frozen(&cgroup));
    say(&guard, &["agent", "release", "coder"])
        .success()
        .unwrap();
    assert!(!is_frozen(&cgroup));
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
}

/// As a daemon leaves it that was killed between what it wrote and the kernel.
#[test]
fn a_release_that_was_written_and_not_done_is_done_by_the_next_daemon() {
    let world = world("frozen-released");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = mighty(&world, &guard, "coder");
    let cgroup = guard.cgroup().join("coder");
    say(&guard, &["agent", "quarantine", "coder", "--freeze"])
        .success()
        .unwrap();
    assert!(is_frozen(&cgroup));
    guard.kill().unwrap();
    let path = registry(&guard);
    let mut written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let quarantined = written["quarantined"].as_object_mut().unwrap();
    quarantined.remove("coder").unwrap();
    written["unreleased"] = json!(["coder"]);
    fs::write(&path, written.to_string()).unwrap();
    guard.start().unwrap();
    assert!(!is_frozen(&cgroup));
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    let shown = say(&guard, &["agent", "show", "coder", "-o", "json"]).stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["quarantine"].is_null(), "{shown}");
    wait_until("nothing is left of it in the registry", SOON, || {
        let written = fs::read_to_string(&path).ok()?;
        (!written.contains("unreleased") && !written.contains("stopped")).then_some(())
    })
    .unwrap();
}
