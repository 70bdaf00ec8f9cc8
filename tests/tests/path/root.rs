//! The root of all agents, and the gate's pins, are removed by somebody who is root, while the daemon runs and
//! while it does not.

use std::fs;
use std::time::Duration;

use agentguard_model::{Decision, ReasonCode};
use agentguard_tests::{Guard, Puppet, wait_until};
use anyhow::Context as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{SITE, mighty, world};

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: api
    match: {host: [api.example.com], port: [80]}
    action: allow
";

/// Its host refuses by itself.
const CANARY: &str = "tcp('c', '192.0.2.66', 80)";
const REACHED: &str = "ECONNREFUSED";

fn status(guard: &Guard<'_>) -> Value {
    let status = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    serde_json::from_str(&status.stdout).unwrap()
}

fn wait_refused(client: &mut Puppet) {
    let mut answers = Vec::new();
    let waited = wait_until("the gate to be there", SOON, || {
        let told = client.ask(CANARY).unwrap();
        let refused = told == json!({"error": "EPERM"});
        if answers.last() != Some(&told) {
            answers.push(told);
        }
        refused.then_some(())
    });
    waited.with_context(|| format!("{answers:?}")).unwrap();
}

#[test]
fn a_root_of_all_agents_that_is_made_again_has_the_gate_before_anything_runs_there() {
    let world = world("root-again");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let run = |line: &str| {
        let script =
            format!("import errno\nfrom socket import *\ns = socket()\ns.settimeout(5)\n{line}");
        guard
            .agent("coder", ["python3", "-c", &script])
            .run()
            .unwrap()
    };
    let dial = "print(errno.errorcode[s.connect_ex(('192.0.2.66', 80))])";
    for _ in 0..3 {
        wait_until("the root to be empty", SOON, || {
            fs::remove_dir(guard.cgroup()).ok()
        })
        .unwrap();
        let told = run(dial);
        assert_eq!(told.stdout.trim(), "EPERM", "{told:?}");
    }
    assert_eq!(world.canary().unwrap(), 0);

    // Nor does what somebody else puts there stay without it.
    wait_until("the root to be empty", SOON, || {
        fs::remove_dir(guard.cgroup()).ok()
    })
    .unwrap();
    let mut client = mighty(&world, &guard, "coder");
    wait_refused(&mut client);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    assert!(guard.log().contains("was removed and made again"));
}

/// Also where the daemon finds the root and an agent's cgroup below it at once.
#[test]
fn what_is_open_below_a_root_that_is_made_again_is_closed() {
    let world = world("root-open");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    guard.signal(Signal::STOP).unwrap();
    wait_until("the root to be empty", SOON, || {
        fs::remove_dir(guard.cgroup()).ok()
    })
    .unwrap();
    let cgroup = guard.cgroup().join("coder");
    fs::create_dir_all(&cgroup).unwrap();
    let mut client = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
    let [four, _] = agentguard_tests::address::origin(0x10);
    client.gives(
        &format!("tcp('old', '{four}', 7)"),
        json!([four.to_string(), 7]),
    );
    client.fails(CANARY, REACHED);
    guard.signal(Signal::CONT).unwrap();
    client.fails("hear('old')", "ECONNABORTED");
    client.fails(CANARY, "EPERM");
}

#[test]
fn pins_that_are_removed_while_the_daemon_runs_are_put_back() {
    let world = world("pins");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = mighty(&world, &guard, "coder");
    client.fails(CANARY, "EPERM");
    let attached = status(&guard)["gate"]["attached"].clone();
    assert_eq!(attached.as_array().unwrap().len(), 1, "{attached}");
    fs::remove_dir_all(guard.bpffs().join("links")).unwrap();
    wait_until("the gate to be put back", SOON, || {
        guard
            .log()
            .contains("the gate's pins were removed")
            .then_some(())
    })
    .unwrap();
    wait_refused(&mut client);
    let canary = world.canary().unwrap();
    client.fails(CANARY, "EPERM");
    assert_eq!(world.canary().unwrap(), canary);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    assert_eq!(status(&guard)["gate"]["attached"], attached);
}

/// The first daemon on a host whose agents' cgroups are there, as after `--detach-all`.
#[test]
fn what_is_open_when_the_gate_is_put_up_is_closed_and_recorded() {
    let world = world("first");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = mighty(&world, &guard, "coder");
    guard.stop().unwrap();
    let off = guard.cli().args(["daemon", "--detach-all"]);
    off.run().unwrap().success().unwrap();
    let [four, _] = agentguard_tests::address::origin(0x10);
    let dial = format!("tcp('old', '{four}', 7)");
    client.gives(&dial, json!([four.to_string(), 7]));
    client.gives("echo('old', 'hello')", "hello");
    client.fails(CANARY, REACHED);

    guard.start().unwrap();
    client.fails("hear('old')", "ECONNABORTED");
    client.fails(CANARY, "EPERM");
    let closed = guard.wait_verdicts("what was closed", |decisions| {
        let closed = |decision: &Decision| {
            let message = &decision.reason.message;
            decision.reason.code == ReasonCode::SocketUnknown
                && decision.action.port == Some(7)
                && message.contains("before its cgroup had this gate")
        };
        decisions.iter().any(closed).then_some(())
    });
    closed.unwrap();
}
