//! A stream is under way when its daemon is killed.

use std::collections::BTreeMap;

use agentguard_tests::{client, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::notes::{End, accounts, notes, recorded};
use super::plan::Call;
use super::{EMBEDDED, LATE, Storm, world};

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

#[test]
fn a_stream_whose_daemon_is_killed_is_charged_once_with_all_that_it_had_reserved() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    for who in [Killed::Daemon, Killed::Worker] {
        let world = world("storm-killed").unwrap();
        let mut storm = Storm::gathers(&world, &python, &EMBEDDED, vec![Call::slow(1)]).unwrap();
        storm.begins(0).unwrap();
        let under_way = || (storm.provider.under_way().0 == 1).then_some(());
        wait_until("the stream", LATE, under_way).unwrap();
        let decision = recorded(&storm.guard).unwrap().remove(&1).unwrap();
        let reserved: BTreeMap<String, u64> = decision
            .budget
            .iter()
            .map(|it| (format!("{}/{}", it.budget, it.scope), it.reserved))
            .collect();
        let output = reserved["wide-agent-out/agent=agent-00"];
        assert!(
            (16..4_000).contains(&output),
            "a part of its limit: {reserved:#?}"
        );
        let held: BTreeMap<String, u64> = accounts(&storm.guard)
            .unwrap()
            .into_iter()
            .filter_map(|(name, it)| (it.held > 0).then_some((name, it.held)))
            .collect();
        assert_eq!(held, reserved);

        kill(&mut storm, who);
        storm.said("over", 1).unwrap();
        let note = notes(&storm.clients).remove(&1).unwrap();
        assert_eq!(note.end, End::Lost, "{note:?}");
        // Also what a second end finds is charged already.
        for _ in 0..3 {
            let used: BTreeMap<String, u64> = storm
                .settled()
                .unwrap()
                .into_iter()
                .filter_map(|(name, it)| (it.used > 0).then_some((name, it.used)))
                .collect();
            let mut charged = reserved.clone();
            // What is at the same time is over.
            charged.retain(|name, _| !name.contains("at-once"));
            assert_eq!(used, charged, "{who:?}");
            kill(&mut storm, who);
        }
        let bill = storm.provider.bills().remove(&1).unwrap();
        assert!(bill.output <= output, "{bill:?}");
    }
}
