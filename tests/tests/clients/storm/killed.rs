//! A stream is under way when its daemon is killed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use agentguard_model::budget::Unit;
use agentguard_tests::{World, client, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::notes::{End, Told, accounts, notes, recorded};
use super::plan::Call;
use super::store::Store;
use super::{LATE, Storm, world};
use crate::redis::Redis;

/// What a provider is taken to have written behind what was reserved (`docs/budgets.md`).
const UNSEEN: u64 = 1_024;

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
    // What its provider writes until it notices, however little it was: nobody looks at it any more.
    let call = &storm.calls[0];
    let most = (output + UNSEEN).min(call.limit.unwrap());
    let mut charged = reserved;
    for account in call.accounts() {
        let of = |tokens| call.amount(account.unit, 0, tokens);
        if let Some(its) = charged.get_mut(&account.name) {
            *its += of(most) - of(output);
        }
    }
    // What is at the same time is over.
    charged.retain(|name, _| !name.contains("at-once"));
    // Also what a second end finds is charged already.
    for _ in 0..3 {
        store.expires().unwrap();
        storm.settled().unwrap();
        assert_eq!(some(&storm, |it| it.used), charged, "{who:?}");
        kill(&mut storm, who);
    }
    let bill = storm.provider.bills().remove(&1).unwrap();
    assert!(bill.output <= output, "it is slow: {bill:?}");
}

/// Two streams wait for each other when somebody is killed, and their provider has written on.
fn killed_waiting<'w>(world: &'w World, python: &Path, store: &Store<'w>, who: Killed) {
    let calls = vec![Call::greedy(1), Call::greedy(2)];
    let mut storm = Storm::gathers(world, python, store, calls).unwrap();
    storm.begins(0).unwrap();
    let wrote = || (storm.provider.wrote() == 2).then_some(());
    wait_until("far more to be written than passes", LATE, wrote).unwrap();
    let scarce = "tight-model-out/agent=agent-10,model=gpt-4o-mini";
    let before = accounts(&storm.guard).unwrap();
    let it = &before[scarce];
    assert_eq!((it.used, it.held), (0, it.limit), "nothing is left");

    kill(&mut storm, who);
    storm.said("over", 1).unwrap();
    let notes = notes(&storm.clients);
    for note in notes.values() {
        let waited = note.end == End::Lost && note.words < 1_000;
        assert!(waited, "{notes:?}");
    }
    storm.calms().unwrap();
    let bills = storm.provider.bills();
    let written: u64 = bills.values().map(|it| it.output).sum();
    assert!(written > it.limit, "{bills:?}");
    // Also what a second end finds is charged already.
    for _ in 0..2 {
        store.expires().unwrap();
        is_charged(&storm, &format!("{who:?}"));
        kill(&mut storm, who);
    }
}

/// All that was billed is charged, and no more than may be.
fn is_charged(storm: &Storm<'_>, what: &str) {
    let (bills, record) = (storm.provider.bills(), recorded(&storm.guard).unwrap());
    let told = storm.settled().unwrap();
    for account in storm.calls[0].accounts() {
        let (mut billed, mut bound) = (0, 0);
        for call in &storm.calls {
            let bill = &bills[&call.number];
            billed += call.amount(account.unit, bill.input, bill.output);
            let clamped = record[&call.number].budget[0].clamped;
            bound += call.bound(account.unit, clamped);
        }
        let used = told.get(&account.name).map_or(0, |it| it.used);
        let its = format!("{what}: {account:?}: {billed} ≤ {used} ≤ {bound}");
        // Of calls at the same time none is used up.
        let counts = account.unit != Unit::ConcurrentCalls;
        assert!(!counts || (billed..=bound).contains(&used), "{its}");
    }
}

/// A stream waits for a Redis that is away when somebody is killed, and its provider has written on. `first`: Redis is back
/// before the daemon is.
fn killed_away(world: &World, python: &Path, first: bool) {
    let mut redis = Redis::new(world);
    redis.start();
    let store = Store::Shared(RefCell::new(redis));
    let mut storm = Storm::gathers(world, python, &store, vec![Call::hasty(1)]).unwrap();
    storm.begins(0).unwrap();
    let under_way = || (storm.provider.under_way().0 == 1).then_some(());
    wait_until("the stream", LATE, under_way).unwrap();
    let Store::Shared(redis) = &store else {
        return;
    };
    redis.borrow_mut().kill();
    let wrote = || (storm.provider.wrote() == 1).then_some(());
    wait_until("far more to be written than passes", LATE, wrote).unwrap();
    storm.guard.kill().unwrap();
    if first {
        redis.borrow_mut().start();
        storm.guard.start().unwrap();
    } else {
        storm.guard.start().unwrap();
        redis.borrow_mut().start();
    }
    storm.said("over", 1).unwrap();
    let note = notes(&storm.clients).remove(&1).unwrap();
    assert_eq!(note.end, End::Lost, "{note:?}");
    storm.calms().unwrap();
    let bill = storm.provider.bills().remove(&1).unwrap();
    let began = recorded(&storm.guard).unwrap().remove(&1).unwrap();
    let known = began.budget.iter().find(|it| it.budget == "wide-agent-out");
    let known = known.unwrap().reserved + UNSEEN;
    assert!(bill.output > known, "{bill:?}: {known}");
    // It is charged once, also where another is killed.
    for round in 0..2 {
        // The old worker, which lives a moment longer, may have told a Redis that is back what it holds, and that expires.
        if first {
            store.expires().unwrap();
        }
        wait_until("nothing to be held", LATE, || {
            // It is asked for anew while Redis is away.
            let accounts = accounts(&storm.guard).ok()?;
            accounts.values().all(|it| it.held == 0).then_some(())
        })
        .unwrap();
        is_charged(&storm, &format!("{first}, {round}"));
        kill(&mut storm, Killed::Daemon);
    }
}

#[test]
fn a_stream_that_waits_for_an_absent_redis_when_its_daemon_is_killed_is_charged_what_was_written() {
    let (Some(python), Some(_)) = (
        client::python().unwrap(),
        client::find("redis-server").unwrap(),
    ) else {
        return;
    };
    for first in [false, true] {
        let world = world("storm-away").unwrap();
        killed_away(&world, &python, first);
    }
}

#[test]
fn streams_whose_daemon_is_killed_while_they_wait_are_charged_what_was_written_meanwhile() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for who in [Killed::Daemon, Killed::Worker] {
        let world = world("storm-waiting").unwrap();
        killed_waiting(&world, &python, &Store::Embedded, who);
    }
}

#[test]
fn streams_whose_daemon_is_killed_while_they_wait_are_charged_so_in_redis() {
    let (Some(python), Some(_)) = (
        client::python().unwrap(),
        client::find("redis-server").unwrap(),
    ) else {
        return;
    };
    let world = world("storm-waiting").unwrap();
    killed_waiting(&world, &python, &Store::shared(&world), Killed::Daemon);
}

#[test]
fn a_stream_whose_daemon_is_killed_is_charged_once_with_what_it_had_reserved_and_a_part_more() {
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
