//! The disk under the record is full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_model::{ReasonCode, Verdict};
use agentguard_tests::{Guard, Puppet, World, address, leftover, wait_until};
use rustix::mount::{MountFlags, mount};
use serde_json::json;

use super::{SITE, processes, puppet, status, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: api
    match: {host: [api.example.com], port: [22, 80]}
    action: allow
  - id: direct
    match: {cidr: [203.0.113.16/32], port: [7]}
    action: allow
    handling: direct
";

/// A file system for the state, which the world unmounts.
fn small_disk(world: &World) -> PathBuf {
    let state = world.directory().join("small");
    fs::create_dir(&state).unwrap();
    let size = c"size=24m,mode=755";
    mount("tmpfs", &state, "tmpfs", MountFlags::empty(), size).unwrap();
    state
}

/// Takes all of its room, by a file that gives it back when it is removed.
fn fill(state: &Path) -> PathBuf {
    let filler = state.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    filler
}

/// How long the record may take to notice.
const LIMIT: Duration = Duration::from_secs(20);

/// A refusal of the command line says that nothing changed: so it is, also where nothing can be written.
#[test]
fn what_cannot_be_remembered_does_not_change_what_is_governed() {
    let world = world("disk-full-agents");
    let state = small_disk(&world);
    let guard = world.guard().policy(POLICY);
    let guard = guard.setting("state_dir", json!(state)).start().unwrap();
    let mount_point = leftover::cgroup_mount().unwrap();
    let foreign = |name: &str| {
        let tag = world.tag().directory();
        let path = mount_point.join(format!("{tag}.foreign-{name}"));
        fs::create_dir(&path).unwrap();
        path
    };
    let (added, other) = (foreign("a"), foreign("b"));
    let agent = |words: &[&str]| guard.cli().arg("agent").args(words).run().unwrap();
    let add = |path: &Path| agent(&["add", "coder", "--cgroup", path.to_str().unwrap()]);
    add(&added).success().unwrap();
    let inside =
        |cgroup: &Path| Puppet::start(&world, |words| guard.within(cgroup, words)).unwrap();
    let (mut governed, mut free) = (inside(&added), inside(&other));
    let dial = "tcp('c', '192.0.2.66', 80)";
    governed.fails(dial, "EPERM");
    free.fails(dial, "ECONNREFUSED");

    let filler = fill(&state);
    for refused in [agent(&["remove", "coder"]), add(&other)] {
        assert_eq!(refused.code(), 1, "{refused}");
        assert!(refused.stderr.contains("agents.json"), "{refused}");
        assert!(refused.stderr.contains("hint: "), "{refused}");
        governed.fails(dial, "EPERM");
        free.fails(dial, "ECONNREFUSED");
    }

    fs::remove_file(filler).unwrap();
    agent(&["remove", "coder"]).success().unwrap();
    governed.fails(dial, "ECONNREFUSED");
}

/// An agent may have filled it: it is cut off all the same.
#[test]
fn an_agent_is_quarantined_also_where_that_cannot_be_written_down() {
    let world = world("disk-full-quarantine");
    let state = small_disk(&world);
    let guard = world.guard().policy(POLICY);
    let mut guard = guard.setting("state_dir", json!(state)).start().unwrap();
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let mut client = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
    let [four, _] = address::origin(0x10);
    let dial = format!("tcp('c', '{four}', 7)");
    client.gives(&dial, json!([four.to_string(), 7]));
    let agent = |guard: &Guard<'_>, verb: &str| {
        let call = guard.cli().args(["agent", verb, "coder"]);
        call.run().unwrap()
    };

    let filler = fill(&state);
    let refused = agent(&guard, "quarantine");
    assert_eq!(refused.code(), 1, "{refused}");
    for told in [
        "coder is quarantined; 1 open socket was ended",
        "a restart of the daemon forgets who ordered it, when and why",
        "a restart of the host forgets the quarantine itself",
        "agents.json",
        "hint: ",
    ] {
        assert!(refused.stderr.contains(told), "{refused}");
    }
    client.fails("hear('c')", "ECONNABORTED");
    client.fails(&dial, "EPERM");
    // A release cannot be written either.
    assert_eq!(agent(&guard, "release").code(), 1);
    client.fails(&dial, "EPERM");
    // The kernel remembers it for the next keeper.
    guard.kill().unwrap();
    guard.start().unwrap();
    client.fails(&dial, "EPERM");
    fs::remove_file(filler).unwrap();
    let shown = guard.cli().args(["agent", "show", "coder"]).run().unwrap();
    assert!(shown.stdout.contains("quarantined since "), "{shown}");
    agent(&guard, "release").success().unwrap();
    client.gives(&dial, json!([four.to_string(), 7]));
}

/// Somebody has to be there who says what is wrong.
#[test]
fn a_daemon_starts_on_a_full_disk_and_says_so() {
    let world = world("disk-full-start");
    let state = small_disk(&world);
    let guard = world.guard().policy(POLICY);
    let mut guard = guard.setting("state_dir", json!(state)).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    guard.kill().unwrap();
    let filler = fill(&state);

    guard.start().unwrap();
    let degraded = wait_until("the record to be degraded", LIMIT, || {
        client.ask(&format!("get('{SITE}')")).ok();
        let status = status(&guard);
        status["record"]["degraded"]["error"]
            .is_string()
            .then_some(())
    });
    degraded.unwrap();
    client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    fs::remove_file(filler).unwrap();
}

#[test]
fn what_cannot_be_recorded_is_denied_and_nothing_recorded_is_lost() {
    let world = world("disk-full");
    let state = small_disk(&world);
    let guard = world
        .guard()
        .policy(POLICY)
        .setting("state_dir", json!(state))
        .start()
        .unwrap();
    let mut client = puppet(&world, &guard, "coder");
    for _ in 0..5 {
        client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    }
    let found = client.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    let dialled = found[0].as_str().unwrap().to_owned();
    let made = client.ask("tcp('d', '203.0.113.16', 7)").unwrap();
    assert_ne!(made, json!({"error": "EPERM"}));
    let before = guard.verdicts().unwrap();
    let running = processes(&guard);
    assert!(before.len() >= 5);

    let filler = fill(&state);

    // What the record has reserved for itself may last for a while; then everything is denied.
    let origin = world.origin(SITE).unwrap();
    let mut allowed = 0;
    let order = format!("talk('{dialled}', 80, '{}')", request("/full"));
    let refused = wait_until("a refusal", LIMIT, || {
        let answer = client.ask(&order).unwrap();
        match answer[0].as_str()?.starts_with("HTTP/1.1 200 ") {
            true => {
                allowed += 1;
                None
            }
            false => Some(answer),
        }
    });
    let refused = refused.unwrap();
    assert!(
        refused[0].as_str().unwrap().contains("record_failed"),
        "{refused}"
    );
    let arrived = origin.log().requests().unwrap().len();
    for _ in 0..5 {
        let refused = client.ask(&order).unwrap();
        assert!(
            refused[0].as_str().unwrap().contains("record_failed"),
            "{refused}"
        );
        let raw = client.ask(&format!("talk('{dialled}', 22, '00')")).unwrap();
        assert_eq!(raw[0], "", "{raw}");
        let name = client.ask(&format!("resolve('{SITE}', 6)")).unwrap();
        assert_eq!(name, json!({"error": "EAI_AGAIN"}));
        client.fails("tcp('c', '192.0.2.66', 80)", "EPERM");
    }
    assert_eq!(origin.log().requests().unwrap().len(), arrived);
    // The kernel decides by itself what goes directly: it too is told within a moment.
    let ended = wait_until("direct flows to end", LIMIT, || {
        let made = client.ask("tcp('d', '203.0.113.16', 7)").unwrap();
        (made == json!({"error": "EPERM"})).then_some(())
    });
    ended.unwrap();
    // A small entry can still find room in the last block, until the next large one does not.
    let degraded = wait_until("a record that says what is wrong", LIMIT, || {
        client.ask(&order).unwrap();
        let status = status(&guard);
        let told = status["record"]["degraded"]["error"].is_string();
        told.then_some(status)
    });
    let degraded = degraded.unwrap();
    assert!(
        degraded["record"]["refused"].as_u64().unwrap() >= 10,
        "{degraded}"
    );
    let words = guard.cli().arg("status").run().unwrap();
    assert!(
        words.stdout.contains("what cannot be recorded is denied"),
        "{words}"
    );
    // What was recorded can still be asked for.
    let ids = |decisions: &[agentguard_model::Decision]| {
        let ids: Vec<_> = decisions.iter().map(|decision| decision.id).collect();
        ids
    };
    let during = guard.verdicts().unwrap();
    assert_eq!(ids(&during[..before.len()]), ids(&before));

    fs::remove_file(filler).unwrap();
    let well = wait_until("the record to recover", LIMIT, || {
        let answer = client.ask(&order).unwrap();
        let answer = answer[0].as_str()?;
        answer.starts_with("HTTP/1.1 200 ").then_some(())
    });
    well.unwrap();
    let again = wait_until("direct flows to begin again", LIMIT, || {
        let made = client.ask("tcp('d', '203.0.113.16', 7)").unwrap();
        (made != json!({"error": "EPERM"})).then_some(made)
    });
    again.unwrap();
    assert_eq!(
        status(&guard)["record"].get("degraded"),
        None.or(Some(&json!(null)))
    );
    assert_eq!(processes(&guard), running);
    let after = guard.verdicts().unwrap();
    for decision in &before {
        let kept = after.iter().find(|other| other.id == decision.id);
        assert!(kept.is_some(), "lost: {decision:?}");
    }
    // Every request that the origin saw is in the record.
    let requests = after
        .iter()
        .filter(|decision| {
            decision.action.method.as_deref() == Some("GET") && decision.verdict == Verdict::Allow
        })
        .map(|decision| decision.count)
        .sum::<u64>();
    let seen = u64::try_from(origin.log().requests().unwrap().len()).unwrap();
    assert_eq!(requests, seen);
    assert!(
        after
            .iter()
            .all(|decision| decision.reason.code != ReasonCode::Internal)
    );
    assert_eq!(world.arrivals(address::CANARY[0]).unwrap(), 0);
}

fn request(path: &str) -> String {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n");
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
