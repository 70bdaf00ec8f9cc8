//! Requests to the privileged half that no client would make.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentguard_tests::wait_until;

use super::{processes, world};

const POLICY: &str = "version: 1\nagents: [{name: coder}]\nrules: []\n";

fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[test]
fn hostile_requests_are_refused_and_the_keeper_is_unharmed() {
    let world = world("hostile-run");
    let guard = world.guard().policy(POLICY).start().unwrap();
    guard.run("coder", ["true"]).unwrap().success().unwrap();
    let before = processes(&guard);
    let keeper = guard.id().unwrap();
    let open = descriptors(keeper);

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/hostile_run.py");
    let hostile = world.host().command("python3").arg(script);
    let said = hostile
        .arg(guard.runtime_dir().join("keeper.sock"))
        .limit(Duration::from_secs(60))
        .run()
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(said.stdout.lines().count(), 19, "{said}");
    for line in said.stdout.lines() {
        let (what, answer) = line.split_once(" -> ").unwrap();
        // A refusal has words; `Started` is one byte.
        assert!(answer.len() > 20, "{what}: {answer}");
    }

    assert_eq!(processes(&guard), before);
    assert_eq!(guard.id().unwrap(), keeper);
    guard.run("coder", ["true"]).unwrap().success().unwrap();
    let closed = wait_until("all descriptors closed", Duration::from_secs(10), || {
        (descriptors(keeper) <= open).then_some(())
    });
    assert!(
        closed.is_ok(),
        "{} are open, {open} were",
        descriptors(keeper)
    );
    // Nothing was prepared for what was refused.
    let left = wait_until("no cgroups of runs", Duration::from_secs(10), || {
        let entries = fs::read_dir(guard.cgroup().join("coder")).ok()?;
        let runs = entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()));
        (runs.count() == 0).then_some(())
    });
    left.unwrap();
}
