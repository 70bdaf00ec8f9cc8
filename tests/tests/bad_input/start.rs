//! A daemon that cannot start says why and what to do, and leaves the others alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use agentguard_tests::{Guard, Output, Puppet};
use serde_json::json;

use super::{processes, world};

const POLICY: &str = "version: 1\nagents: [{name: coder}]\nrules: []\n";

/// The program under test.
fn program() -> PathBuf {
    std::env::var_os("AGENTGUARD_BIN").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/agentguard").into(),
        PathBuf::from,
    )
}

fn daemon(guard: &Guard<'_>) -> Output {
    guard.cli().arg("daemon").run().unwrap()
}

#[test]
fn a_wrong_configuration_or_policy_is_told_with_its_place_and_a_hint() {
    let world = world("config");
    let guard = world.guard().policy(POLICY).prepare().unwrap();
    let good = fs::read_to_string(guard.config()).unwrap();
    let unknown = good.replace("\"resolvers\"", "\"resolver\"");
    let line = 1 + unknown
        .lines()
        .position(|line| line.contains("\"resolver\""))
        .unwrap();
    for (config, place, says, hint) in [
        (
            unknown,
            format!("{line}:3"),
            "unknown key `resolver`",
            "did you mean `resolvers`?",
        ),
        (
            "state_dir: [\n".to_owned(),
            "1:12".to_owned(),
            "unclosed bracket",
            "",
        ),
        (
            "proxy_port: many\n".to_owned(),
            "1:13".to_owned(),
            "expected a whole number from 0 to 65535, found the text `many`",
            "",
        ),
    ] {
        fs::write(guard.config(), config).unwrap();
        let told = daemon(&guard);
        assert_eq!(told.code(), 2, "{told}");
        let place = format!("{}:{place}: error: ", guard.config().display());
        assert!(told.stderr.contains(&place), "{place} in {told}");
        assert!(told.stderr.contains(says), "{told}");
        assert!(told.stderr.contains(hint), "{told}");
        assert_eq!(told.stdout, "", "{told}");
    }

    fs::remove_file(guard.config()).unwrap();
    let told = daemon(&guard);
    assert_eq!(told.code(), 2, "{told}");
    assert!(
        told.stderr.contains("cannot read the configuration"),
        "{told}"
    );
    assert!(told.stderr.contains("hint: "), "{told}");

    fs::write(guard.config(), good).unwrap();
    fs::write(guard.policy(), "version: 1\nagent: []\n").unwrap();
    let told = daemon(&guard);
    assert_eq!(told.code(), 2, "{told}");
    let place = format!(
        "{}:2:1: error: unknown key `agent`",
        guard.policy().display()
    );
    assert!(told.stderr.contains(&place), "{told}");
    assert!(
        told.stderr.contains("hint: did you mean `agents`"),
        "{told}"
    );

    fs::write(guard.policy(), b"version: 1\nagents: []\n# \xff\n").unwrap();
    let told = daemon(&guard);
    assert_eq!(told.code(), 2, "{told}");
    let place = format!("{}:3:3: error: ", guard.policy().display());
    assert!(told.stderr.contains(&place), "{told}");

    fs::remove_file(guard.policy()).unwrap();
    let told = daemon(&guard);
    assert_eq!(told.code(), 2, "{told}");
    assert!(told.stderr.contains("cannot read the policy"), "{told}");
    assert!(told.stderr.contains("hint: "), "{told}");
}

/// As the unit in `dist/` has it.
/// Whoever writes there opens the guard.
#[test]
fn what_others_than_root_can_change_is_refused() {
    let world = world("exposed");
    let guard = world.guard().policy(POLICY).prepare().unwrap();
    let config = guard.config();
    let good = fs::read_to_string(&config).unwrap();
    let refused = |says: &str, code| {
        let told = daemon(&guard);
        assert_eq!(told.code(), code, "{told}");
        assert!(told.stderr.contains(says), "{told}");
        assert!(told.stderr.contains("hint: ch"), "{told}");
    };
    for (key, says) in [
        (
            "state_dir",
            "the state_dir /tmp can be written by everybody",
        ),
        ("runtime_dir", "belongs to user 12345"),
    ] {
        let theirs = config.with_file_name("theirs");
        fs::create_dir_all(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(12345), None).unwrap();
        let mut settings: serde_json::Value = serde_json::from_str(&good).unwrap();
        settings[key] = match key {
            "state_dir" => json!("/tmp"),
            _ => json!(theirs.join("run")),
        };
        fs::write(&config, settings.to_string()).unwrap();
        refused(says, 2);
    }
    fs::write(&config, good).unwrap();
    for file in [config, guard.policy()] {
        let before = fs::metadata(&file).unwrap().permissions();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        refused("can be written by everybody (mode 0666)", 2);
        fs::set_permissions(&file, before).unwrap();
    }
}

/// The policy in force stays.
#[test]
fn a_policy_that_others_than_root_can_change_is_not_taken() {
    let world = world("writable");
    let guard = world.guard().policy(POLICY).start().unwrap();
    std::os::unix::fs::chown(guard.policy(), Some(12345), None).unwrap();
    let told = guard.cli().args(["policy", "reload"]).run().unwrap();
    assert_eq!(told.code(), 2, "{told}");
    assert!(told.stderr.contains("belongs to user 12345"), "{told}");
    assert!(told.stderr.contains("\n  hint: chown root"), "{told}");
    guard.run("coder", ["true"]).unwrap().success().unwrap();
}

/// They are still governed, and an operator may not have meant that.
#[test]
fn agents_that_a_new_policy_has_no_more_are_told() {
    let world = world("undeclared");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = super::puppet(&world, &guard, "coder");
    client.gives("1", json!(1));
    let without = POLICY.replace("coder", "helper");
    fs::write(guard.policy(), without).unwrap();
    let told = guard.cli().args(["policy", "reload"]).run().unwrap();
    assert_eq!(told.code(), 0, "{told}");
    let says = "not in it, though they have cgroups, and so given nothing: coder";
    assert!(told.to_string().contains(says), "{told}");
    let listed =
        agentguard_tests::wait_until("no policy", std::time::Duration::from_secs(15), || {
            let listed = guard.cli().args(["agent", "list"]).run().ok()?;
            let coder = listed
                .stdout
                .lines()
                .find(|line| line.starts_with("coder"))?;
            coder.contains("no policy").then_some(())
        });
    listed.unwrap();
}

#[test]
fn a_narrow_umask_changes_no_directory_s_mode() {
    let world = world("umask");
    let script = world.directory().join("narrow");
    let text = format!(
        "#!/bin/sh\numask 077\nexec {} \"$@\"\n",
        program().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let state = world.directory().join("deep/state");
    let guard = world.guard().policy(POLICY).program(&script);
    let guard = guard.setting("state_dir", json!(state)).start();
    let guard = guard.unwrap();
    for directory in [&state, &guard.runtime_dir()] {
        let mode = fs::metadata(directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{}", directory.display());
    }
    guard.run("coder", ["true"]).unwrap().success().unwrap();
}

#[test]
fn no_agent_runs_as_the_guard_s_own_user() {
    let world = world("own-user");
    let guard = world.guard().policy(POLICY);
    let guard = guard.setting("worker_user", json!("nobody")).start();
    let guard = guard.unwrap();
    let run = ["run", "--agent", "coder", "--user", "nobody", "--", "true"];
    let run = guard.cli().args(run).run().unwrap();
    assert_eq!(run.code(), 1, "{run}");
    assert!(run.stderr.contains("the guard's own user"), "{run}");
    assert!(run.stderr.contains("hint: "), "{run}");
}

#[test]
fn who_is_not_root_is_told_to_be() {
    let world = world("not-root");
    let guard = world.guard().policy(POLICY).prepare().unwrap();
    // Where everybody may read it.
    let copy = world.directory().join("agentguard");
    fs::copy(program(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = world.host().command("setpriv");
    let nobody = nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let told = nobody
        .arg(&copy)
        .args(["daemon", "--config"])
        .arg(guard.config())
        .run()
        .unwrap();
    assert_eq!(told.code(), 1, "{told}");
    assert!(told.stderr.contains("must be started as root"), "{told}");
    assert!(told.stderr.contains("hint: "), "{told}");
}

#[test]
fn a_directory_that_is_no_bpffs_is_refused() {
    let world = world("no-bpffs");
    let directory = world.directory().join("plain");
    fs::create_dir(&directory).unwrap();
    let guard = world
        .guard()
        .policy(POLICY)
        .setting("bpffs", json!(directory))
        .prepare()
        .unwrap();
    let told = daemon(&guard);
    assert_ne!(told.code(), 0, "{told}");
    assert!(told.stderr.contains("plain"), "{told}");
    assert!(told.stderr.contains("bpf"), "{told}");
    assert!(told.stderr.contains("hint: "), "{told}");
    assert!(!guard.cgroup().exists(), "something was governed");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let world = world("port-taken");
    let mut other = Puppet::start(&world, |words| {
        let mut words = words.into_iter();
        let program = words.next().unwrap();
        world.host().command(program).args(words)
    })
    .unwrap();
    let guard = world.guard().policy(POLICY).prepare().unwrap();
    for (address, port) in [("127.0.0.1", 15001), ("::1", 15001), ("127.0.0.1", 15053)] {
        other.gives(&format!("listen('l', '{address}', {port})"), port);
        let told = daemon(&guard);
        assert_eq!(told.code(), 1, "{told}");
        assert!(told.stderr.contains(&port.to_string()), "{told}");
        assert!(told.stderr.contains("in use"), "{told}");
        assert!(told.stderr.contains("hint: "), "{told}");
        other.gives("close('l')", "closed");
    }
}

#[test]
fn a_second_daemon_gives_way_and_the_first_goes_on() {
    let world = world("second");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let before = processes(&guard);
    let told = daemon(&guard);
    assert_eq!(told.code(), 1, "{told}");
    assert!(told.stderr.contains("another daemon runs"), "{told}");
    assert!(told.stderr.contains("hint: "), "{told}");
    assert_eq!(processes(&guard), before);

    // Nor does one that has directories and ports of its own share the gate.
    let config = guard.config();
    let good = fs::read_to_string(&config).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&good).unwrap();
    for directory in ["state_dir", "runtime_dir"] {
        other[directory] = json!(config.with_file_name(format!("other-{directory}")));
    }
    other["proxy_port"] = json!(16001);
    other["resolver_port"] = json!(16053);
    fs::write(&config, other.to_string()).unwrap();
    let told = daemon(&guard);
    assert_eq!(told.code(), 1, "{told}");
    let says = format!(
        "another daemon runs with {}",
        other["bpffs"].as_str().unwrap()
    );
    assert!(told.stderr.contains(&says), "{told}");
    fs::write(&config, good).unwrap();
    guard.run("coder", ["true"]).unwrap().success().unwrap();
}

/// Neither gate knows the other's agents.
#[test]
fn a_daemon_with_another_bpffs_does_not_put_a_second_gate_on_the_same_cgroups() {
    let world = world("twogates");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let config = guard.config();
    let good = fs::read_to_string(&config).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&good).unwrap();
    for directory in ["state_dir", "runtime_dir"] {
        other[directory] = json!(config.with_file_name(format!("other-{directory}")));
    }
    let bpffs = other["bpffs"].as_str().unwrap().to_owned();
    let second = PathBuf::from(&bpffs).join("second");
    other["bpffs"] = json!(second);
    other["proxy_port"] = json!(16001);
    other["resolver_port"] = json!(16053);
    fs::write(&config, other.to_string()).unwrap();
    let told = daemon(&guard);
    fs::write(&config, good).unwrap();
    fs::remove_dir(&second).unwrap();
    assert_eq!(told.code(), 1, "{told}");
    let says = format!(
        "another gate is on {}, pinned under {bpffs}",
        other["cgroup_root"].as_str().unwrap()
    );
    assert!(told.stderr.contains(&says), "{told}");
    assert!(told.stderr.contains("--detach-all"), "{told}");
    guard.run("coder", ["true"]).unwrap().success().unwrap();
}

/// An agent that could hold the lock would keep the next daemon from starting.
#[test]
fn nobody_but_root_can_hold_a_daemons_locks() {
    let world = world("locks");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let bpffs = guard.config().with_file_name("bpf");
    for path in [guard.runtime_dir().join("lock"), bpffs.clone()] {
        let nobody = |words: &[&str]| {
            let run = ["run", "--agent", "coder", "--user", "nobody", "--"];
            let run = guard.cli().args(run).args(words);
            run.arg(&path).run().unwrap()
        };
        let seen = nobody(&["stat", "-c", "%d:%i"]).success().unwrap();
        let told = nobody(&["sh", "-c", "exec 9<\"$0\" && flock -n 9"]);
        // What a run sees in the place of a masked directory it may lock as it likes.
        let own = fs::metadata(&path).unwrap();
        if seen.stdout.trim() == format!("{}:{}", own.dev(), own.ino()) {
            assert!(told.stderr.contains("Permission denied"), "{told}");
        } else {
            assert_eq!(path, bpffs, "{seen}");
        }
    }
}
