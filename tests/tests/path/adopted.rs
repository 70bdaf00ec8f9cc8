//! What an earlier daemon wrote down as adopted, and how much of it there may be.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentguard_tests::{Guard, Output, Puppet, World, leftover, wait_until};
use serde_json::{Map, Value, json};

use super::world;

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(20);

const POLICY: &str = "
version: 1
agents: [{name: coder}]
";

const CANARY: &str = "tcp('c', '192.0.2.66', 80)";

fn say(guard: &Guard<'_>, words: &[&str]) -> Output {
    guard.cli().args(words).run().unwrap()
}

/// A daemon that does not run yet, with these cgroups in its registry.
fn prepared<'w>(world: &'w World, cgroups: impl Fn(&Guard<'w>) -> Vec<PathBuf>) -> Guard<'w> {
    let guard = world.guard().policy(POLICY).prepare().unwrap();
    let adopted: Map<String, Value> = cgroups(&guard)
        .into_iter()
        .map(|path| (path.to_str().unwrap().to_owned(), "coder".into()))
        .collect();
    let directory = guard.state_dir().join("keeper");
    fs::create_dir_all(&directory).unwrap();
    let registry = json!({"version": 2, "agents": {"coder": 1}, "adopted": adopted, "last_run": 0});
    fs::write(directory.join("agents.json"), registry.to_string()).unwrap();
    guard
}

/// Their names alone are more than a message takes. Nobody in any of them is served.
#[test]
fn more_adopted_cgroups_than_fit_a_message_are_all_governed() {
    let world = world("adopted-many");
    let names = |guard: &Guard<'_>| -> Vec<PathBuf> {
        let jobs = guard.cgroup().join("jobs");
        (0..900)
            .map(|number| jobs.join(format!("{number:0>200}")))
            .collect()
    };
    let mut guard = prepared(&world, names);
    let cgroups = names(&guard);
    for cgroup in &cgroups {
        fs::create_dir_all(cgroup).unwrap();
    }
    guard.start().unwrap();
    let status = say(&guard, &["status", "-o", "json"]).success().unwrap();
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let gate = &status["gate"];
    let listed = gate["attached"].as_array().unwrap().len();
    let more = gate["attached_more"].as_u64().unwrap();
    assert_eq!(listed + usize::try_from(more).unwrap(), 1 + cgroups.len());
    let told = say(&guard, &["status"]).stdout;
    assert!(
        told.contains(&format!(" and {more} more; kernel")),
        "{told}"
    );
    let ask = |cgroup: &PathBuf| {
        let program = guard.program().as_os_str().to_owned();
        let words = [
            program,
            "--config".into(),
            guard.config().into(),
            "status".into(),
        ];
        guard.within(cgroup, words).run().unwrap()
    };
    for cgroup in [&cgroups[0], &cgroups[450], &cgroups[899]] {
        let told = ask(cgroup);
        assert_eq!(told.code(), 1, "{told}");
        let why = "an agent may not ask its own guard";
        assert!(told.stderr.contains(why), "{told}");
    }
    // What is taken off is an agent's no more.
    let last = cgroups[899].to_str().unwrap();
    let remove = ["agent", "remove", "coder", "--cgroup", last];
    say(&guard, &remove).success().unwrap();
    let told = ask(&leftover::cgroup_mount().unwrap());
    assert_eq!(told.code(), 0, "{told}");
}

#[test]
fn one_cgroup_more_than_there_may_be_is_not_adopted() {
    let world = world("adopted-bound");
    let mut guard = prepared(&world, |guard| {
        let gone = guard.cgroup().join("gone");
        (0..4096)
            .map(|number| gone.join(number.to_string()))
            .collect()
    });
    guard.start().unwrap();
    let one = guard.cgroup().join("one");
    fs::create_dir(&one).unwrap();
    let add = ["agent", "add", "coder", "--cgroup", one.to_str().unwrap()];
    let told = say(&guard, &add);
    assert_eq!(told.code(), 1, "{told}");
    let says = "4096 cgroups are added already, and at most 4096 can be";
    assert!(told.stderr.contains(says), "{told}");
    assert!(
        told.stderr.contains("hint: `agentguard agent remove"),
        "{told}"
    );
    let gone = guard.cgroup().join("gone/7");
    let remove = [
        "agent",
        "remove",
        "coder",
        "--cgroup",
        gone.to_str().unwrap(),
    ];
    say(&guard, &remove).success().unwrap();
    say(&guard, &add).success().unwrap();
}

#[test]
fn one_that_lies_deeper_than_the_gate_looks_is_told_at_the_start() {
    let world = world("adopted-deep");
    let mount = leftover::cgroup_mount().unwrap();
    let top = mount.join(format!("{}.deep", world.tag().directory()));
    let deep = (0..12).fold(top, |path, _| path.join("d"));
    fs::create_dir_all(&deep).unwrap();
    let mut guard = prepared(&world, |_| vec![deep.clone()]);
    guard.start().unwrap();
    let says =
        "is 13 levels below the root of all cgroups, and the gate looks for agents in the first 12";
    assert!(guard.log().contains(says), "{}", guard.log());
    wait_until("the warning", SOON, || {
        let shown = say(&guard, &["agent", "show", "coder"]).stdout;
        shown.contains(says).then_some(())
    })
    .unwrap();
    let mut client = Puppet::start(&world, |words| guard.within(&deep, words)).unwrap();
    client.fails(CANARY, "EPERM");
    assert_eq!(guard.log().matches(says).count(), 1);
}

/// Once a second it is looked for.
#[test]
fn a_cgroup_that_cannot_be_looked_for_is_told_once_and_when_it_can_be_again() {
    let world = world("adopted-unseen");
    let mount = leftover::cgroup_mount().unwrap();
    let top = mount.join(format!("{}.unseen", world.tag().directory()));
    let cgroup = top.join("job/one");
    fs::create_dir_all(&cgroup).unwrap();
    let mut guard = prepared(&world, |_| vec![cgroup.clone()]);
    guard.start().unwrap();
    // For the daemon a file is in the way.
    let instead = world.directory().join("instead");
    fs::create_dir(&instead).unwrap();
    fs::write(instead.join("job"), "").unwrap();
    let daemon = guard.id().unwrap().to_string();
    let enter = || world.host().command("nsenter").args(["-m", "-t", &daemon]);
    let cover = enter().args(["mount", "--bind"]).arg(&instead).arg(&top);
    cover.run().unwrap().success().unwrap();
    let says = "cannot see whether a cgroup is still there: cannot examine ";
    let told = |guard: &Guard<'_>, what: &str| guard.log().matches(what).count();
    wait_until("it is told", SOON, || {
        (told(&guard, says) > 0).then_some(())
    })
    .unwrap();
    let late = Instant::now() + Duration::from_secs(4);
    wait_until("some looks later", SOON, || {
        (Instant::now() >= late).then_some(())
    })
    .unwrap();
    assert_eq!(told(&guard, says), 1, "{}", guard.log());
    let uncover = enter().arg("umount").arg(&top);
    uncover.run().unwrap().success().unwrap();
    wait_until("it is told that it is over", SOON, || {
        (told(&guard, &format!("no longer so: {says}")) == 1).then_some(())
    })
    .unwrap();
}
