//! The guard's own process, policy and cgroup, where commands and operators could get in its way.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use agentguard_tests::{Guard, World, leftover, wait_until};
use serde_json::Value;

use super::world;

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

const POLICY: &str = "
version: 1
agents: [{name: coder}]
";

fn foreign(world: &World, kind: &str) -> PathBuf {
    let mount = leftover::cgroup_mount().unwrap();
    mount.join(format!("{}.{kind}", world.tag().directory()))
}

fn processes(guard: &Guard<'_>) -> [i64; 2] {
    let status = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    ["keeper_pid", "worker_pid"].map(|name| status[name].as_i64().unwrap())
}

/// A keeper that may have no more descriptors, or may write no file, quarantines nobody.
#[test]
fn a_command_of_root_lowers_no_limit_of_the_guards() {
    let world = world("limits");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let of_keeper = |guard: &Guard<'_>| {
        fs::read_to_string(format!("/proc/{}/limits", processes(guard)[0])).unwrap()
    };
    let before = of_keeper(&guard);
    for process in processes(&guard) {
        let script = format!(
            "import resource
for limit in range(16):
    try:
        resource.prlimit({process}, limit, (1, 1))
        print('lowered')
    except PermissionError:
        print('refused')
resource.prlimit(0, resource.RLIMIT_NOFILE, (64, 64))"
        );
        let tried = guard.agent("coder", ["python3", "-c", &script]);
        let tried = tried.run().unwrap().success().unwrap();
        assert_eq!(tried.stdout, "refused\n".repeat(16));
    }
    assert_eq!(of_keeper(&guard), before);
}

#[test]
fn a_cgroup_that_holds_the_guard_is_no_agents() {
    let world = world("itself");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let above = foreign(&world, "above");
    let own = above.join("guard.service");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("cgroup.procs"), processes(&guard)[0].to_string()).unwrap();
    for path in [&above, &own] {
        let words = ["agent", "add", "coder", "--cgroup", path.to_str().unwrap()];
        let refused = guard.cli().args(words).run().unwrap();
        assert_ne!(refused.status.code(), Some(0));
        assert!(
            refused.stderr.contains("the guard itself runs in"),
            "{refused:?}"
        );
    }
    guard.stop().unwrap();

    // It was added while the guard ran elsewhere.
    guard.start().unwrap();
    let words = ["agent", "add", "coder", "--cgroup", above.to_str().unwrap()];
    guard.cli().args(words).run().unwrap().success().unwrap();
    guard.stop().unwrap();
    let inside = guard.within(&own, [guard.program()]);
    let inside = inside.args(["daemon", "--config"]).arg(guard.config());
    let refused = inside.run().unwrap();
    assert!(
        refused.stderr.contains("the guard itself runs in"),
        "{refused:?}"
    );
    assert!(
        refused.stderr.contains("hint: start it in another"),
        "{refused:?}"
    );
    guard.start().unwrap();
}

/// What lies outside of the root has no gate, and would not get one.
#[test]
fn a_pattern_for_what_lies_outside_of_the_root_is_refused() {
    let world = world("outside");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let mount = leftover::cgroup_mount().unwrap();
    let below = guard.cgroup().join("team/*").display().to_string();
    let outside = mount.join("some.slice/**").display().to_string();
    let policy =
        |pattern: &str| format!("version: 1\nagents: [{{name: coder, cgroup: ['{pattern}']}}]\n");
    fs::write(guard.policy(), policy(&outside)).unwrap();
    let reload = guard.cli().args(["policy", "reload"]).run().unwrap();
    assert_ne!(reload.status.code(), Some(0));
    for part in [
        &*outside,
        "coder",
        "`cgroup_root`",
        "agentguard agent add coder",
    ] {
        assert!(reload.stderr.contains(part), "{part}: {reload:?}");
    }
    guard.stop().unwrap();
    assert!(
        guard
            .start()
            .unwrap_err()
            .to_string()
            .contains("would not be governed")
    );
    let _ = guard.stop();
    fs::write(guard.policy(), policy(&below)).unwrap();
    guard.start().unwrap();
}

/// As on a file system whose server is away.
#[test]
fn a_policy_that_cannot_be_read_to_its_end_holds_up_nothing_else() {
    let world = world("slow-policy");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let text = fs::read_to_string(guard.policy()).unwrap();
    fs::remove_file(guard.policy()).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(guard.policy())
        .status();
    assert!(made.unwrap().success());
    let reload = guard.cli().args(["policy", "reload"]).spawn().unwrap();
    guard.signal(rustix::process::Signal::HUP).unwrap();
    for words in [
        ["agent", "quarantine", "coder"],
        ["agent", "release", "coder"],
    ] {
        let done = guard.cli().args(words).limit(SOON).run().unwrap();
        done.success().unwrap();
    }
    // Whoever waits reads nothing in the end, and keeps nobody from reading what is there then.
    let empty = guard.policy().with_extension("fifo");
    fs::rename(guard.policy(), &empty).unwrap();
    fs::write(guard.policy(), &text).unwrap();
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    wait_until("both to be told", SOON, || {
        // Where nobody reads it any more, this is an error.
        let _ = fs::OpenOptions::new()
            .write(true)
            .custom_flags(nonblocking)
            .open(&empty);
        (guard.log().matches("policy not taken").count() == 2).then_some(())
    })
    .unwrap();
    drop(reload);
    let again = guard.cli().args(["policy", "reload"]).run().unwrap();
    again.success().unwrap();
}
