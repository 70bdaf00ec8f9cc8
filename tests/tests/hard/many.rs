//! More agents than a host has at once: each is there for a moment.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::Duration;

use agentguard_tests::{Guard, Process, Puppet, address, wait_until};
use serde_json::{Value, json};

use crate::{LIMIT, program, settled, status, world};

/// Of a policy.
const AGENTS: usize = 10_000;
/// Runs, each of an agent of its own.
const RUNS: usize = 300;
/// Of them at once.
const AT_ONCE: usize = 6;
/// How long so many may take that come one after the other.
const SWARM: Duration = Duration::from_secs(180);

fn name(number: usize) -> String {
    format!("agent-{number}")
}

/// What a process has open.
fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

fn listed(guard: &Guard<'_>) -> Vec<Value> {
    let list = guard.cli().args(["agent", "list", "-o", "jsonl"]);
    let list = list.run().unwrap().success().unwrap();
    let lines = list.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What is there for agents: directories, namespaces that are listened in, descriptors of the keeper's.
fn held(guard: &Guard<'_>, keeper: u32) -> (usize, usize, usize) {
    let children = fs::read_dir(guard.cgroup()).unwrap().flatten();
    let directories = children.filter(|it| it.path().is_dir()).count();
    let listeners = status(guard).map_or(0, |it| it["listeners"].as_array().unwrap().len());
    (directories, listeners, descriptors(keeper))
}

/// A policy of [`AGENTS`] agents, some of which have rules of their own.
fn everybody(more: &str) -> String {
    let agents: String = (0..AGENTS)
        .map(|number| format!("  - name: {}\n", name(number)))
        .collect();
    let rules: String = (0..AGENTS)
        .step_by(10)
        .map(|number| {
            let own = format!("10.{}.{}.0/24", number / 256, number % 256);
            let agent = name(number);
            format!("  - {{id: own-{number}, agents: [{agent}], match: {{cidr: [{own}]}}, action: allow}}\n")
        })
        .collect();
    format!("version: 1\nagents:\n{agents}rules:\n{more}{rules}")
}

#[test]
fn agents_that_run_for_a_moment_are_refused_like_any_and_leave_nothing_behind() {
    let world = world("many");
    let Some(program) = program(&world, "flood") else {
        return;
    };
    let guard = world.guard().policy(&everybody("")).start().unwrap();
    let keeper = u32::try_from(status(&guard).unwrap()["keeper_pid"].as_u64().unwrap()).unwrap();
    let before = held(&guard, keeper);
    assert_eq!(before.0, 0);

    let [canary, _] = address::CANARY.map(|ip| ip.to_string());
    let program = program.display().to_string();
    let ended = |run: Process| {
        let output = run.wait(LIMIT).unwrap().success().unwrap();
        assert_eq!(output.stdout.trim(), "0 1");
    };
    let mut running = VecDeque::new();
    for run in 0..RUNS {
        if running.len() == AT_ONCE {
            running.pop_front().map(ended);
        }
        let agent = name(run * (AGENTS / RUNS));
        let isolate = (run % 10 == 0).then_some("--isolate");
        let words = ["run", "--agent", &agent].into_iter().chain(isolate);
        let flood = [&program, &canary, "9", "escapeflood", "connect", "1", "1"];
        let words = words.chain(["--"]).chain(flood);
        running.push_back(guard.cli().args(words).spawn().unwrap());
    }
    running.into_iter().for_each(ended);
    wait_until("nothing is left", LIMIT, || {
        (held(&guard, keeper) == before).then_some(())
    })
    .unwrap_or_else(|_| panic!("{:?}, {before:?} before", held(&guard, keeper)));
    let listed = listed(&guard);
    assert_eq!(listed.len(), AGENTS);
    let numbered = listed.iter().filter(|agent| !agent["id"].is_null());
    assert!(numbered.count() <= RUNS);
    assert!(listed.iter().all(|agent| agent["runs"] == 0), "{listed:?}");
    assert_eq!(world.canary().unwrap(), 0);
}

/// Every agent of the policy comes once, in a cgroup that is there for some milliseconds, whether the guard has
/// seen it by then or not.
#[test]
fn all_of_ten_thousand_agents_come_once_and_none_gets_out() {
    let world = world("swarm");
    let Some(program) = program(&world, "swarm") else {
        return;
    };
    let guard = world.guard().policy(&everybody(ECHO)).start().unwrap();
    let keeper = u32::try_from(status(&guard).unwrap()["keeper_pid"].as_u64().unwrap()).unwrap();
    let [canary, _] = address::CANARY.map(|ip| ip.to_string());
    let swarm = |cgroup: &Path, count: usize| {
        let host = world.host().command(&program);
        let told = [canary.clone(), "9".into(), "escapeswarm".into()];
        let host = host.args(&told).arg(cgroup).args([count.to_string()]);
        host.limit(SWARM).spawn().unwrap()
    };
    let said = |swarm: Process| {
        let output = swarm.wait(SWARM).unwrap().success().unwrap();
        output.stdout.trim().to_owned()
    };
    // Where nobody is governed they all get out.
    let name = guard.cgroup().file_name().unwrap().to_str().unwrap();
    let elsewhere = guard.cgroup().with_file_name(format!("{name}.elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let free = said(swarm(&elsewhere, 3));
    fs::remove_dir(&elsewhere).unwrap();
    assert_eq!(free, "3 0");
    let seen = world.canary().unwrap();
    assert!(seen >= 3, "{seen}");

    let mut other = settled(&world, &guard, &format!("agent-{}", AGENTS - 1));
    let [four, _] = address::origin(0x10);
    let dial = format!("tcp('d', '{four}', 7)");
    other.gives(&dial, json!([four.to_string(), 7]));
    let before = held(&guard, keeper);
    // That one is there already.
    let mut swarming = swarm(guard.cgroup(), AGENTS - 1);
    let mut served = 0;
    while swarming.ended().unwrap().is_none() {
        other.gives(&dial, json!([four.to_string(), 7]));
        served += 1;
    }
    assert_eq!(said(swarming), format!("0 {}", AGENTS - 1));
    assert!(served > 0);
    wait_until("nothing is left", LIMIT, || {
        (held(&guard, keeper) == before).then_some(())
    })
    .unwrap_or_else(|_| panic!("{:?}, {before:?} before", held(&guard, keeper)));
    assert_eq!(world.canary().unwrap(), seen);
}

/// A policy of agents with rules of their own for so many ranges each, all of which are written to the gate.
fn ranges(agents: &[&str], each: usize, allowed: &str) -> String {
    let named: String = agents
        .iter()
        .map(|name| format!("  - name: {name}\n"))
        .collect();
    let own = agents.iter().enumerate().map(|(number, name)| {
        format!(
            "  - {{id: own-{name}, agents: [{name}], match: {{cidr: [172.16.{number}.1/32]}}, action: allow}}\n"
        )
    });
    let all: Vec<usize> = (0..each).collect();
    let shared = all.chunks(4000).enumerate().map(|(number, chunk)| {
        let address = |it: &usize| format!("10.{}.{}.{}/32", it >> 16, it >> 8 & 255, it & 255);
        let list: Vec<String> = chunk.iter().map(address).collect();
        let list = list.join(", ");
        format!(
            "  - {{id: shared-{number}, match: {{cidr: [{list}], port: [9]}}, action: allow}}\n"
        )
    });
    let rules: String = own.chain(shared).collect();
    format!("version: 1\nagents:\n{named}rules:\n{allowed}{rules}")
}

const ECHO: &str = "  - {id: echo, match: {cidr: [203.0.113.16/32], port: [7]}, action: allow, handling: direct}\n";

/// What the gate holds of the new policy and of the old one stands side by side for a moment.
#[test]
fn a_policy_that_the_gate_has_no_room_for_leaves_the_old_one_in_force() {
    let world = world("room");
    let agents = ["a", "b", "c", "d"];
    let many = 36_000;
    let guard = world
        .guard()
        .policy(&ranges(&agents, many, ECHO))
        .start()
        .unwrap();
    let mut clients = agents.map(|agent| settled(&world, &guard, agent));
    let [four, _] = address::origin(0x10);
    let dial = format!("tcp('d', '{four}', 7)");
    // So many ranges take the keeper a while, which it has no sign of life for meanwhile.
    let passes = |client: &mut Puppet| {
        wait_until("it passes", LIMIT, || {
            (client.ask(&dial).unwrap() == json!([four.to_string(), 7])).then_some(())
        })
        .unwrap();
    };
    clients.iter_mut().for_each(passes);
    let in_force = |guard: &Guard<'_>| status(guard).unwrap()["policy"]["version"].clone();
    let before = in_force(&guard);

    let reload = || guard.cli().args(["policy", "reload"]).run().unwrap();
    fs::write(guard.policy(), ranges(&agents, many + 1, "")).unwrap();
    let refused = reload();
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(refused.stderr.contains("NETWORKS is full"), "{refused}");
    assert_eq!(in_force(&guard), before);
    clients.iter_mut().for_each(passes);
    // Again, with what the last attempt left out of the way.
    assert_eq!(reload().code(), 1);
    fs::write(guard.policy(), ranges(&agents, 10, "")).unwrap();
    reload().success().unwrap();
    for client in &mut clients {
        client.fails(&dial, "EPERM");
    }
    assert_eq!(world.canary().unwrap(), 0);
}
