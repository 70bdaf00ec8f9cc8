//! Under a service manager, which alone writes above what it has delegated: the controllers that it has turned on are
//! used, and what it has not is told.

use std::fs;
use std::path::Path;

use agentguard_tests::{Guard, kernel, leftover, wait_until};
use rustix::fs::XattrFlags;

use super::waiting::disk;
use super::{FORKS, GREEDY, SOON, has_controllers, run, value};
use crate::world;

fn policy(device: &str) -> String {
    format!(
        "version: 1
agents:
  - {{name: coder, resources: {{memory: 64MiB, pids: 20}}}}
  - {{name: reader, resources: {{io: [{{device: {device}, read: 1MiB}}]}}}}
rules:
  - {{id: none, action: deny}}
"
    )
}

/// What a real load meets whose limits hold.
fn holds(guard: &Guard<'_>) {
    let beyond = run(guard, "coder", &["python3", "-c", GREEDY, "128"]);
    assert_eq!(beyond.code(), 137, "{beyond}");
    let bomb = run(guard, "coder", &["python3", "-c", FORKS]);
    assert!(bomb.stdout.starts_with("refused "), "{bomb}");
}

#[test]
fn under_a_service_manager_nothing_is_turned_on_but_in_what_it_has_delegated() {
    if !has_controllers() {
        kernel::absent("limits under a manager", "controllers in cgroup v2").unwrap();
        return;
    }
    let Some(disk) = disk() else {
        kernel::absent(
            "limits of devices",
            "disk that may be read and written by tests",
        )
        .unwrap();
        return;
    };
    let world = world("resources-managed");
    let policy = policy(disk.to_str().unwrap());
    // How hosts tell that systemd runs them (sd_booted(3)).
    let run_directory = world.directory().join("host-run");
    fs::create_dir_all(run_directory.join("systemd/system")).unwrap();
    let mount = leftover::cgroup_mount().unwrap();
    let control = |directory: &Path| directory.join("cgroup.subtree_control");
    fs::write(control(&mount), "+cpu +io +memory +pids").unwrap();
    let slice = mount.join(format!("{}.slice", world.tag().directory()));
    fs::create_dir(&slice).unwrap();
    fs::write(control(&slice), "+cpu +memory +pids").unwrap();
    let start = |agents: &str| {
        let root = slice.join(agents);
        let guard = world.guard().policy(&policy);
        let guard = guard.setting("cgroup_root", root.to_str().into());
        guard.cover(&run_directory, "/run").start().unwrap()
    };

    // What is turned on there holds, and nothing else is turned on.
    let guard = start("before");
    holds(&guard);
    let refused = run(&guard, "reader", &["true"]);
    assert_eq!(refused.code(), 1, "{refused}");
    for part in [
        "the controller `io` is not turned on for",
        "that cgroup is not the guard's to change",
        "hint: `Delegate=cpu io memory pids` in agentguard.service",
    ] {
        assert!(refused.stderr.contains(part), "{part} in:\n{refused}");
    }
    assert_eq!(value(&slice, "cgroup.subtree_control"), "cpu memory pids");
    drop(guard);

    // What systemd delegates it marks so.
    rustix::fs::setxattr(&slice, "trusted.delegate", b"1", XattrFlags::empty()).unwrap();
    let guard = start("delegated");
    holds(&guard);
    let mut reader = guard.agent("reader", ["sleep", "600"]).spawn().unwrap();
    let limits = slice.join("delegated/reader/io.max");
    let limited = || {
        let limits = fs::read_to_string(&limits).ok()?;
        limits.contains("rbps=1048576").then_some(())
    };
    wait_until("the limit of the device", SOON, limited).unwrap();
    reader.signal(rustix::process::Signal::TERM).unwrap();
    reader.wait(SOON).unwrap();
    assert_eq!(
        value(&slice, "cgroup.subtree_control"),
        "cpu io memory pids"
    );
}
