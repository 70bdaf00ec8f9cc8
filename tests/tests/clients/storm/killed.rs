//! A stream is under way when its daemon is killed.

use std::collections::BTreeMap;
use std::path::Path;

use agentguard_tests::{World, client, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::notes::{End, Told, accounts, notes, recorded};
use super::plan::Call;
use super::store::Store;
use super::{LATE, Storm, world};

/// Who is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Killed {
    /// All of it.
    Daemon,
    /// The half that has the ledger; the other replaces it.
    Worker,
}

fn worker(storm: &Storm<'_>) -> Option<Pid> {
    let status = storm.guard.cli().args(["status", "-o", "json"]).run();
    let status: serde_json::Value = serde_json::from_str(&status.ok()?.stdout).ok()?;
    Pid::from_raw(i32::try_from(status["worker_pid"].as_i64()?).ok()?)
}

fn kill(storm: &mut Storm<'_>, who: Killed) {
    if who == Killed::Daemon {
        storm.guard.kill().unwrap();
        return storm.guard.start().unwrap();
    }
    let old = worker(storm).unwrap();
    kill_process(old, Signal::KILL).unwrap();
    wait_until("another worker", LATE, || {
        worker(storm).filter(|new| *new != old)
    })
    .unwrap();
}

/// What accounts have, where they have something.
fn some(storm: &Storm<'_>, of: impl Fn(&Told) -> u64) -> BTreeMap<String, u64> {
    let accounts = accounts(&storm.guard).unwrap().into_iter();
    let some = accounts.map(|(name, it)| (name, of(&it)));
    some.filter(|it| it.1 > 0).collect()
}

/// A stream is under way when somebody is killed. `store`: where the ledger is.
fn killed<'w>(world: &'w World, python: &Path, store: &Store<'w>, who: Killed) {
    let mut storm = Storm::gathers(world, python, store, vec![Call::slow(1)]).unwrap();
    storm.begins(0).unwrap();
    let under_way = || (storm.provider.under_way().0 == 1).then_some(());
    wait_until("the stream", LATE, under_way).unwrap();
    let decision = recorded(&storm.guard).unwrap().remove(&1).unwrap();
    let mut lines = decision.budget.iter();
    let began = lines.find(|it| it.budget == "wide-agent-out").unwrap();
    // With its first word it reserves a part more, which lasts for longer than this.
    let reserved = wait_until("the second part", LATE, || {
        let held = some(&storm, |it| it.held);
        let more = held.get("wide-agent-out/agent=agent-00")? > &began.reserved;
        more.then_some(held)
    });
    let reserved = reserved.unwrap();
    let output = reserved["wide-agent-out/agent=agent-00"];
    assert!(
        (16..4_000).contains(&output),
        "a part of its limit: {reserved:#?}"
    );
    assert_eq!(some(&storm, |it| it.held), reserved);

    kill(&mut storm, who);
    storm.said("over", 1).unwrap();
    let note = notes(&storm.clients).remove(&1).unwrap();
    assert_eq!(note.end, End::Lost, "{note:?}");
    if let Store::Shared(_) = store {
        // Other hosts do not know whether it comes back.
        assert_eq!(some(&storm, |it| it.held), reserved);
        assert_eq!(some(&storm, |it| it.used), BTreeMap::new());
    }
    // Also what a second end finds is charged already.
    for _ in 0..3 {
        store.expires().unwrap();
        storm.settled().unwrap();
        let mut charged = reserved.clone();
        // What is at the same time is over.
        charged.retain(|name, _| !name.contains("at-once"));
        assert_eq!(some(&storm, |it| it.used), charged, "{who:?}");
        kill(&mut storm, who);
    }
    let bill = storm.provider.bills().remove(&1).unwrap();
    assert!(bill.output <= output, "{bill:?}");
}

#[test]
fn a_stream_whose_daemon_is_killed_is_charged_once_with_all_that_it_had_reserved() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for who in [Killed::Daemon, Killed::Worker] {
        let world = world("storm-killed").unwrap();
        killed(&world, &python, &Store::Embedded, who);
    }
}

#[test]
fn a_stream_whose_daemon_is_killed_is_held_in_redis_for_a_minute_and_charged_once() {
    let (Some(python), Some(_)) = (
        client::python().unwrap(),
        client::find("redis-server").unwrap(),
    ) else {
        return;
    };
    for who in [Killed::Daemon, Killed::Worker] {
        let world = world("storm-killed").unwrap();
        killed(&world, &python, &Store::shared(&world), who);
    }
}
