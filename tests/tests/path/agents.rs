//! Agents that were there before: `agent add` and `remove`, and what an agent may not ask.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agentguard_model::{ReasonCode, Verdict};
use agentguard_tests::{Guard, Puppet, World, leftover, wait_until};
use serde_json::Value;

use super::{SITE, agent, puppet, world};

const POLICY: &str = "
version: 1
agents:
  - {name: coder, labels: {team: web}}
  - {name: helper, mode: shadow}
rules:
  - id: api
    match: {host: [api.example.com], port: [80]}
    action: allow
";

/// A cgroup of somebody else's, which the world removes.
fn foreign(world: &World) -> PathBuf {
    let mount = leftover::cgroup_mount().unwrap();
    let path = mount.join(format!("{}.foreign", world.tag().directory()));
    fs::create_dir(&path).unwrap();
    path
}

fn agents(guard: &Guard<'_>) -> Vec<Value> {
    let list = guard.cli().args(["agent", "list", "-o", "jsonl"]);
    let list = list.run().unwrap().success().unwrap();
    let lines = list.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_cgroup_outside_the_root_is_governed_once_added_and_free_once_removed() {
    let world = world("foreign");
    let cgroup = foreign(&world);
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    let before = world.canary().unwrap();
    assert!(before > 0);

    let path = cgroup.to_str().unwrap();
    let add = ["agent", "add", "coder", "--cgroup", path];
    guard.cli().args(add).run().unwrap().success().unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    assert_eq!(world.canary().unwrap(), before);
    let denied = guard
        .wait_verdicts("the denial", |decisions| {
            let denied = decisions
                .iter()
                .find(|decision| decision.verdict == Verdict::Deny);
            denied.cloned()
        })
        .unwrap();
    assert_eq!(agent(&denied), Some("coder"));
    assert_eq!(denied.reason.code, ReasonCode::NoRule);
    let shown = wait_until("it in the list", Duration::from_secs(5), || {
        let coder = agents(&guard)
            .into_iter()
            .find(|agent| agent["name"] == "coder")?;
        coder["cgroups"]
            .as_array()?
            .iter()
            .any(|cgroup| cgroup == path)
            .then_some(coder)
    });
    assert_eq!(shown.unwrap()["labels"]["team"], "web");
    // Governed from outside the root as well, it is no client of the guard.
    let status = guard.within(&cgroup, status_words(&guard)).run().unwrap();
    assert_eq!(status.code(), 1, "{status}");
    assert!(status.stderr.contains("agent"), "{status}");

    // It stays so over a restart.
    guard.stop().unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    guard.start().unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    assert_eq!(world.canary().unwrap(), before);

    let remove = guard.cli().args(["agent", "remove", "coder"]);
    remove.run().unwrap().success().unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    assert!(world.canary().unwrap() > before);
    let again = guard
        .cli()
        .args(["agent", "remove", "coder"])
        .run()
        .unwrap();
    assert_eq!(again.code(), 1, "{again}");
    assert!(
        again.stderr.contains("no cgroup was added as coder"),
        "{again}"
    );
}

#[test]
fn what_cannot_be_added_is_refused_with_the_reason() {
    let world = world("foreign-bad");
    let cgroup = foreign(&world);
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mount = leftover::cgroup_mount().unwrap();
    // Deeper than the gate looks for agents.
    let deep = cgroup.join("1/2/3/4/5/6/7/8/9/10/11/12");
    fs::create_dir_all(&deep).unwrap();
    let deep = deep.to_str().unwrap();
    let (cgroup, root, mount) = (
        cgroup.to_str().unwrap(),
        guard.cgroup().to_str().unwrap(),
        mount.to_str().unwrap(),
    );
    for (name, path, says) in [
        ("nobody", cgroup, "the policy has no agent nobody"),
        ("coder", root, "is the root of all agents"),
        ("coder", mount, "is the root of all cgroups"),
        ("coder", deep, "the gate looks for agents in the first 12"),
        ("coder", "/tmp", "is not a cgroup of version 2"),
        ("coder", "/nowhere", "cannot find the cgroup /nowhere"),
    ] {
        let add = guard
            .cli()
            .args(["agent", "add", name, "--cgroup", path])
            .run()
            .unwrap();
        assert_eq!(add.code(), 1, "{add}");
        assert!(add.stderr.contains(says), "{add}");
    }
}

#[test]
fn the_list_has_every_agent_of_the_policy_and_what_runs() {
    let world = world("list");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let _client = puppet(&world, &guard, "coder");
    let found = wait_until("the run", Duration::from_secs(5), || {
        let agents = agents(&guard);
        let coder = agents.iter().find(|agent| agent["name"] == "coder")?;
        (coder["runs"] == 1).then_some(agents)
    });
    let found = found.unwrap();
    let gist: Vec<_> = found
        .iter()
        .map(|agent| {
            (
                agent["name"].as_str(),
                agent["mode"].as_str(),
                agent["runs"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        gist,
        [
            (Some("coder"), Some("enforce"), Some(1)),
            (Some("helper"), Some("shadow"), Some(0)),
        ]
    );
    let table = guard.cli().args(["agent", "list"]).run().unwrap();
    let table = table.success().unwrap().stdout;
    assert!(
        table.contains("coder") && table.contains("helper"),
        "{table}"
    );
}

fn status_words(guard: &Guard<'_>) -> Vec<String> {
    vec![
        std::env::var("AGENTGUARD_BIN").unwrap_or_else(|_| {
            concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/agentguard").to_owned()
        }),
        "--config".to_owned(),
        guard.config().display().to_string(),
        "status".to_owned(),
    ]
}

/// An agent may run as root, and still is no client of its own guard.
#[test]
fn an_agent_cannot_ask_or_change_its_guard_even_as_root() {
    let world = world("own-guard");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let before = guard.cli().args(["agent", "list"]).run().unwrap().stdout;
    let with = |verb: &[&str]| {
        let mut words = status_words(&guard);
        words.pop();
        words.extend(verb.iter().map(|word| (*word).to_owned()));
        guard.run("coder", words).unwrap()
    };
    for verb in [
        vec!["status"],
        vec!["verdicts"],
        vec!["agent", "list"],
        vec!["policy", "show"],
        vec!["policy", "reload"],
        vec!["agent", "remove", "coder"],
        vec!["agent", "quarantine", "helper"],
        vec!["agent", "release", "coder"],
        vec![
            "agent",
            "add",
            "helper",
            "--cgroup",
            guard.cgroup().to_str().unwrap(),
        ],
        vec!["run", "--agent", "helper", "--", "true"],
    ] {
        let refused = with(&verb);
        assert_eq!(refused.code(), 1, "{refused}");
        assert_eq!(refused.stdout, "", "{refused}");
        let words = &refused.stderr;
        assert!(words.contains("may not ask its own guard"), "{refused}");
    }
    // The sockets are not reached by hand either, also from a cgroup further down.
    let mut client = puppet(&world, &guard, "coder");
    let run = guard.runtime_dir();
    let ask = format!(
        "(make('c', socket.AF_UNIX, socket.SOCK_STREAM), of('c').connect('{}'), \
         say('c', 'GET /v1/status HTTP/1.1\\r\\nHost: guard\\r\\nConnection: close\\r\\n\\r\\n'), hear_all('c'))[3]",
        run.join("control.sock").display()
    );
    let answer = client.ask(&ask).unwrap();
    assert!(
        answer.as_str().unwrap().starts_with("HTTP/1.1 403 "),
        "{answer}"
    );
    let reload = format!(
        "(make('k', socket.AF_UNIX, socket.SOCK_SEQPACKET), of('k').connect('{}'), \
         of('k').send(bytes([3])), hear('k'))[3]",
        run.join("keeper.sock").display()
    );
    let answer = client.ask(&reload).unwrap();
    assert!(
        answer.as_str().unwrap().contains("its own guard"),
        "{answer}"
    );
    let after = guard.cli().args(["agent", "list"]).run().unwrap().stdout;
    assert_eq!(before.lines().count(), after.lines().count());
}
