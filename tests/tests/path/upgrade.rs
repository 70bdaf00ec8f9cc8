//! A daemon starts where another version's gate is: an upgrade, or the way back. The other version is
//! played by this one: its maps are renamed, which its programs do not notice.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agentguard_model::ReasonCode;
use agentguard_tests::{Guard, address, wait_until};
use serde_json::{Value, json};

use super::{SITE, agent, mighty, world};

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

const POLICY: &str = "
version: 1
agents: [{name: coder}, {name: helper}, {name: third}]
rules:
  - id: api
    match: {host: [api.example.com], port: [80]}
    action: allow
  - id: direct
    match: {cidr: [203.0.113.32/32], port: [7], transport: [tcp, udp]}
    action: allow
    handling: direct
";

const CANARY: &str = "tcp('c', '192.0.2.66', 80)";

/// The directories of maps: `v` and the version.
fn versions(guard: &Guard<'_>) -> Vec<PathBuf> {
    let pins = fs::read_dir(guard.bpffs()).unwrap();
    let pins = pins.map(|pin| pin.unwrap().path());
    let is_maps = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix('v'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    pins.filter(is_maps).collect()
}

/// The registry forgets who is quarantined: only the kernel knows.
fn forget_quarantine(guard: &Guard<'_>, agent: &str) {
    let path = guard.state_dir().join("keeper/agents.json");
    let mut registry: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let quarantined = registry["quarantined"].as_object_mut().unwrap();
    quarantined.remove(agent).unwrap();
    fs::write(path, registry.to_string()).unwrap();
}

fn quarantined(guard: &Guard<'_>, agent: &str) -> bool {
    let show = guard.cli().args(["agent", "show", agent, "-o", "json"]);
    let shown: Value = serde_json::from_str(&show.run().unwrap().stdout).unwrap();
    !shown["quarantine"].is_null()
}

fn through_another_version(name: &str, other: &str) {
    let world = world(name);
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let [four, _] = address::origin(0x20);
    let mut clients = ["coder", "helper", "third"].map(|agent| mighty(&world, &guard, agent));
    let dial = format!("tcp('old', '{four}', 7)");
    for client in &mut clients {
        client.gives(&dial, json!([four.to_string(), 7]));
        client.gives("echo('old', 'hello')", "hello");
    }
    let [coder, helper, third] = &mut clients;
    for name in ["helper", "third"] {
        let words = ["agent", "quarantine", name];
        guard.cli().args(words).run().unwrap().success().unwrap();
    }
    guard.kill().unwrap();
    forget_quarantine(&guard, "third");
    let [ours] = versions(&guard).try_into().unwrap();
    let theirs = guard.bpffs().join(other);
    fs::rename(&ours, &theirs).unwrap();
    let canary = world.canary().unwrap();
    coder.fails(CANARY, "EPERM");

    guard.start().unwrap();
    // Its program does not wait for an answer for ever.
    coder.fails("hear('old')", "ECONNABORTED");
    coder.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    coder.gives(&dial, json!([four.to_string(), 7]));
    coder.gives("echo('old', 'again')", "again");
    for client in [helper, third] {
        client.fails(&dial, "EPERM");
    }
    assert!(["helper", "third"].map(|it| quarantined(&guard, it)) == [true; 2]);
    assert!(!quarantined(&guard, "coder"));
    for client in &mut clients {
        client.fails(CANARY, "EPERM");
    }
    assert_eq!(world.canary().unwrap(), canary);
    let closed = guard.wait_verdicts("what was closed", |decisions| {
        let closed = decisions.iter().find(|decision| {
            agent(decision) == Some("coder")
                && decision.reason.code == ReasonCode::SocketUnknown
                && decision
                    .reason
                    .message
                    .contains("before its cgroup had this gate")
        });
        closed.cloned()
    });
    assert_eq!(closed.unwrap().action.port, Some(7));
    wait_until("the end of the other version's maps", SOON, || {
        (versions(&guard) == [ours.clone()]).then_some(())
    })
    .unwrap();
    // What it has open now is this version's own.
    clients[0].gives("echo('old', 'still')", "still");
    guard.stop().unwrap();
    guard.start().unwrap();
    clients[0].gives("echo('old', 'as ever')", "as ever");
}

#[test]
fn an_upgrade_closes_what_was_open_and_keeps_who_is_quarantined() {
    through_another_version("upgrade", "v1");
}

#[test]
fn the_way_back_from_a_newer_version_is_the_same() {
    through_another_version("downgrade", "v1000");
}

/// What the other version's maps say of a quarantine is old by then, and they are there still.
#[test]
fn a_release_holds_though_the_daemon_is_killed_before_the_other_version_is_gone() {
    let world = world("upgrade-release");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = mighty(&world, &guard, "helper");
    let cli = |guard: &Guard<'_>, words: [&str; 3]| {
        guard.cli().args(words).run().unwrap().success().unwrap();
    };
    cli(&guard, ["agent", "quarantine", "helper"]);
    guard.kill().unwrap();
    let [ours] = versions(&guard).try_into().unwrap();
    let theirs = guard.bpffs().join("v1");
    fs::rename(&ours, &theirs).unwrap();
    // A link that cannot be removed, so that nothing of the other version is.
    let links = fs::read_dir(guard.bpffs().join("links")).unwrap();
    let links = links.map(|entry| entry.unwrap().path());
    let stuck: Vec<PathBuf> = links.map(|links| links.join("stuck")).collect();
    for directory in &stuck {
        fs::create_dir(directory).unwrap();
    }

    guard.start().unwrap();
    client.fails(&format!("get('{SITE}')"), "EAI_AGAIN");
    cli(&guard, ["agent", "release", "helper"]);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    guard.kill().unwrap();
    assert!(theirs.exists());
    guard.start().unwrap();
    assert!(!quarantined(&guard, "helper"));
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    for directory in &stuck {
        fs::remove_dir(directory).unwrap();
    }
    wait_until("the end of the other version's maps", SOON, || {
        (versions(&guard) == [ours.clone()]).then_some(())
    })
    .unwrap();
    // By now there is nothing but the registry to go by.
    cli(&guard, ["agent", "quarantine", "helper"]);
    guard.kill().unwrap();
    guard.start().unwrap();
    assert!(quarantined(&guard, "helper"));
}

#[test]
fn a_registry_of_a_newer_version_is_refused_and_the_gate_stays_as_it_is() {
    let world = world("newer");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = mighty(&world, &guard, "coder");
    guard.stop().unwrap();
    let [ours] = versions(&guard).try_into().unwrap();
    let newer = guard.bpffs().join("v1000");
    fs::rename(&ours, &newer).unwrap();
    let path = guard.state_dir().join("keeper/agents.json");
    let registry = fs::read(&path).unwrap();
    fs::write(&path, json!({"version": 1000}).to_string()).unwrap();
    let refused = guard.start().unwrap_err().to_string();
    assert!(refused.contains("is of version 1000"), "{refused}");
    assert!(refused.contains("start that one"), "{refused}");
    assert_eq!(versions(&guard), [newer]);
    client.fails(CANARY, "EPERM");
    assert_eq!(world.canary().unwrap(), 0);
    fs::write(&path, registry).unwrap();
    // It has ended by itself.
    let _ = guard.stop();
    guard.start().unwrap();
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
}
