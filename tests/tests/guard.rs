//! The guard's harness itself, with a daemon that is a script: what it starts, waits for, reads and
//! removes. What the real daemon does is in the other tests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use agentguard_model::{ActionKind, Verdict};
use agentguard_tests::{Guard, World, leftover, wait_until};
use anyhow::{Context as _, Result};

/// Speaks sd_notify and the command line, and governs nothing.
const SCRIPT: &str = r#"#!/usr/bin/env python3
import json, os, signal, socket, subprocess, sys
words = sys.argv[1:]
if words[0] == "daemon":
    config = json.load(open(words[2]))
    if os.environ.get("FAIL"):
        sys.exit("cannot do it")
    os.makedirs(config["cgroup_root"], exist_ok=True)
    agent = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    open(config["cgroup_root"] + "/cgroup.procs", "w").write(str(agent.pid))
    open(os.environ["AGENT_FILE"], "w").write(str(agent.pid))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.sendto(b"STATUS=on the way", os.environ["NOTIFY_SOCKET"])
    notify.sendto(b"MAINPID=1\nREADY=1", os.environ["NOTIFY_SOCKET"])
    print("policy:", open(os.path.dirname(words[2]) + "/policy.yaml").read(), flush=True)
    while True:
        signal.pause()
elif words[0] == "run":
    print(json.dumps([words, os.environ["AGENTGUARD_CONFIG"], os.environ["SSL_CERT_FILE"]]))
    sys.exit(7)
elif words == ["verdicts", "-o", "jsonl"]:
    print(os.environ["DECISION"])
"#;

fn script(world: &World) -> Result<PathBuf> {
    let path = world.directory().join("agentguard");
    fs::write(&path, SCRIPT)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn start<'w>(world: &'w World) -> Result<Guard<'w>> {
    let guard = world.guard().program(script(world)?).policy("version: 1\n");
    let agent = world.directory().join("agent");
    guard
        .env("AGENT_FILE", agent.to_str().context("a strange path")?)
        .start()
}

#[test]
fn it_waits_until_the_daemon_is_ready_and_ends_it_as_systemd_does() {
    let world = World::new("ready").start().unwrap();
    let mut guard = start(&world).unwrap();
    let said = wait_until("its words", Duration::from_secs(5), || {
        guard.log().contains("policy: version: 1").then_some(())
    });
    assert!(said.is_ok(), "{}", guard.log());

    let run = guard.run("coder", ["curl", "--help"]).unwrap();
    assert_eq!(run.code(), 7);
    let told: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let words = serde_json::json!(["run", "--agent", "coder", "--", "curl", "--help"]);
    assert_eq!(told[0], words);
    assert_eq!(told[1], guard.config().to_str().unwrap());
    assert_eq!(told[2], world.ca_file().to_str().unwrap());

    let ended = guard.stop().unwrap();
    assert!(ended.status.success(), "{ended}");
    assert!(ended.stdout.contains("policy: version: 1"), "{ended}");
    guard.start().unwrap();
    guard.kill().unwrap();
    assert!(guard.id().is_err());
}

#[test]
fn decisions_are_read_as_the_published_type() {
    let world = World::new("verdicts").start().unwrap();
    let guard = start(&world).unwrap();
    let decision = serde_json::json!({
        "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "time": "2026-01-01T00:00:00Z", "context": {},
        "layer": "kernel", "action": {"kind": "connect", "ip": "192.0.2.66", "port": 80},
        "verdict": "deny", "enforced": true, "mode": "enforce",
        "reason": {"code": "no_rule", "message": "no rule allows it"},
        "count": 1, "latency_us": 3, "policy_version": "0123456789ab",
    });
    let cli = guard.cli().args(["verdicts", "-o", "jsonl"]);
    let printed = cli.env("DECISION", decision.to_string()).run().unwrap();
    let read = agentguard_tests::decisions(&printed.stdout).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].verdict, Verdict::Deny);
    assert_eq!(read[0].action.kind, ActionKind::Connect);

    let error = agentguard_tests::decisions("{}\n").unwrap_err().to_string();
    assert_eq!(error, "not a decision: {}");
}

#[test]
fn a_daemon_that_ends_at_once_is_an_error_with_its_words() {
    let world = World::new("fails").start().unwrap();
    let guard = world.guard().program(script(&world).unwrap());
    let error = guard.env("FAIL", "1").start().unwrap_err().to_string();
    assert!(error.contains("exit status: 1"), "{error}");
    assert!(error.contains("cannot do it"), "{error}");
}

#[test]
fn a_dropped_guard_takes_agents_cgroups_and_mounts_along() {
    let world = World::new("drop").start().unwrap();
    let before = leftover::of(world.tag()).unwrap();
    let guard = start(&world).unwrap();
    let agent = fs::read_to_string(world.directory().join("agent")).unwrap();
    let cgroup = guard.cgroup().to_owned();
    assert!(cgroup.is_dir());
    assert!(leftover::of(world.tag()).unwrap().len() > before.len());

    drop(guard);
    assert!(!cgroup.exists());
    assert_eq!(leftover::of(world.tag()).unwrap(), before);
    let status = fs::read_to_string(format!("/proc/{agent}/stat")).unwrap_or_default();
    assert!(status.is_empty() || status.contains(") Z "), "{status}");
}
