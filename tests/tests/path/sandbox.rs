//! What `run` hides of the host beside the network, with the real daemon: sockets of daemons, the
//! guard's own files, cgroups; and what it says and does where the kernel has no Landlock.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use agentguard_tests::{Guard, Puppet, World};
use serde_json::json;

use super::{free, puppet, world};

/// Sockets that something listens on, in places of their own.
struct Daemons {
    /// In the place of `/run/dbus`.
    bus: PathBuf,
    /// In the place of `/run/user`.
    users: PathBuf,
    /// As the configuration masks it.
    named: PathBuf,
    _listening: [UnixListener; 3],
}

impl Daemons {
    fn new(world: &World) -> Self {
        let path = |name: &str| world.directory().join(name);
        let (bus, users, named) = (path("bus"), path("users"), path("named.sock"));
        fs::create_dir(&bus).unwrap();
        fs::create_dir_all(users.join("0")).unwrap();
        let listening = [
            bus.join("system_bus_socket"),
            users.join("0/bus"),
            named.clone(),
        ];
        Self {
            _listening: listening.map(|path| UnixListener::bind(path).unwrap()),
            bus,
            users,
            named,
        }
    }

    /// A client that nobody governs, and that sees them as the daemon does.
    fn free(&self, world: &World) -> Puppet {
        Puppet::start(world, |words| {
            let mut words = words.into_iter();
            let program = words.next().unwrap();
            world
                .host()
                .command(program)
                .args(words)
                .cover(&self.bus, Path::new("/run/dbus"))
                .cover(&self.users, Path::new("/run/user"))
        })
        .unwrap()
    }
}

fn reach(path: impl AsRef<Path>) -> String {
    format!(
        "(make('u', socket.AF_UNIX, socket.SOCK_STREAM), of('u').connect('{}'))[0]",
        path.as_ref().display()
    )
}

#[test]
fn sockets_of_daemons_are_hidden_but_from_those_that_the_policy_lets_see_them() {
    let world = world("masked");
    let daemons = Daemons::new(&world);
    let [bus, user] = ["/run/dbus/system_bus_socket", "/run/user/0/bus"];
    let named = daemons.named.to_str().unwrap();
    let policy = format!(
        "
version: 1
agents:
  - name: coder
  - name: helper
    sandbox: {{unmasked_paths: [{bus}, {user}, {named}, {state}]}}
",
        state = world.directory().display(),
    );
    let pattern = world.directory().join("na*d.sock");
    let guard = world
        .guard()
        .policy(&policy)
        .setting("run", json!({"masked_paths": [pattern, "/no/such/path"]}))
        .cover(&daemons.bus, "/run/dbus")
        .cover(&daemons.users, "/run/user")
        .start()
        .unwrap();
    let mut without = daemons.free(&world);
    let mut client = puppet(&world, &guard, "coder");
    let mut helper = puppet(&world, &guard, "helper");
    for (path, error) in [
        (bus, "ENOENT"),
        ("/var/run/dbus/system_bus_socket", "ENOENT"),
        (user, "ENOENT"),
        // Root may open what nobody may.
        (named, "ECONNREFUSED"),
    ] {
        without.gives(&reach(path), "made");
        client.fails(&reach(path), error);
        helper.gives(&reach(path), "made");
    }
    // What a program keeps there while it runs has its place.
    client.gives("open('/run/user/0/x', 'w').write('x')", 1);
    assert!(!daemons.users.join("0/x").exists());

    // The guard's own is no policy's to show.
    let state = format!("os.listdir('{}')", guard.state_dir().display());
    let pins = format!("os.listdir('{}')", guard.bpffs().display());
    for client in [&mut client, &mut helper] {
        for own in [&state, &pins] {
            client.gives(own, json!([]));
        }
    }
    assert_ne!(without.ask(&state).unwrap(), json!([]));
}

#[test]
fn a_command_of_root_moves_into_no_cgroup_but_its_own() {
    let world = world("cgroups");
    let guard = world
        .guard()
        .policy("{version: 1, agents: [{name: coder}]}")
        .start()
        .unwrap();
    let above = guard.cgroup().parent().unwrap().join("cgroup.procs");
    let open = format!("open('{}', 'w').close()", above.display());
    free(&world).gives(&open, json!(null));
    puppet(&world, &guard, "coder").fails(&open, "EROFS");
}

/// Its own cgroup is root's to write, and what it makes there has to be removed when it is over.
#[test]
fn a_command_of_root_makes_no_more_cgroups_than_can_be_looked_at() {
    let world = world("deep");
    let guard = world
        .guard()
        .policy("{version: 1, agents: [{name: coder}]}")
        .start()
        .unwrap();
    let mut client = puppet(&world, &guard, "coder");
    client.gives("'it runs'", "it runs");
    let mut below = fs::read_dir(guard.cgroup().join("coder")).unwrap();
    let run = below.find_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        name.starts_with("run-").then_some(path)
    });
    let run = run.unwrap().display().to_string();
    let make = format!("[os.mkdir('{run}' + '/d' * depth) for depth in range(1, 32)] and 'made'");
    client.gives(&make, "made");
    client.fails(&format!("os.mkdir('{run}' + '/d' * 32)"), "EAGAIN");
}

/// Root may write most of them without any capability, and the kernel starts what some of them name
/// outside of every agent's cgroup.
#[test]
fn what_configures_the_kernel_is_read_only_for_a_command_of_root() {
    let world = world("kernel-files");
    let guard = world
        .guard()
        .policy("{version: 1, agents: [{name: coder}]}")
        .start()
        .unwrap();
    let mut client = puppet(&world, &guard, "coder");
    for path in ["/proc/sys/kernel/core_pattern", "/sys/kernel/profiling"] {
        let open = format!("os.close(os.open('{path}', os.O_WRONLY))");
        free(&world).gives(&open, json!(null));
        client.fails(&open, "EROFS");
    }
    // Its own.
    client.gives("open('/proc/self/oom_score_adj', 'w').write('1000')", 4);
    client.gives("'rw' in open('/proc/sys/kernel/ostype').read()", false);
}

/// A chroot's, say.
#[test]
fn another_view_of_the_kernel_is_read_only_for_a_command_of_root_and_shows_no_others() {
    let world = world("kernel-elsewhere");
    let place = world.directory().join("jail");
    for directory in ["proc", "sys"] {
        fs::create_dir_all(place.join(directory)).unwrap();
    }
    let path = world.directory().join("agentguard-elsewhere");
    let script = format!(
        r#"#!/bin/sh
if [ "$1" = daemon ]; then
    [ "$(readlink /proc/self/ns/mnt)" != "$(readlink /proc/1/ns/mnt)" ] || exit 1
    mount -t proc proc {place}/proc && mount -t sysfs sysfs {place}/sys || exit 1
fi
exec {} "$@"
"#,
        program().display(),
        place = place.display(),
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let guard = world
        .guard()
        .program(path)
        .policy("{version: 1, agents: [{name: coder}]}")
        .start()
        .unwrap();
    let mut client = puppet(&world, &guard, "coder");
    for path in ["proc/sys/kernel/core_pattern", "sys/kernel/profiling"] {
        let path = place.join(path);
        let open = format!("os.close(os.open('{}', os.O_WRONLY))", path.display());
        client.fails(&open, "EROFS");
    }
    let daemon = place.join(format!("proc/{}", guard.id().unwrap()));
    let shown = format!("os.path.exists('{}')", daemon.display());
    client.gives(&shown, false);
    let own = place.join("proc/self/status");
    client.gives(&format!("os.path.exists('{}')", own.display()), true);
}

/// As on hosts with systemd, where what is mounted in a copy of a mount comes to be in the mount too.
#[test]
fn what_is_mounted_for_a_run_is_mounted_nowhere_else() {
    let world = world("shared-mounts");
    let path = world.directory().join("agentguard-shared");
    let script = format!(
        r#"#!/bin/sh
if [ "$1" = daemon ]; then
    [ "$(readlink /proc/self/ns/mnt)" != "$(readlink /proc/1/ns/mnt)" ] || exit 1
    mount --make-rshared / || exit 1
fi
exec {} "$@"
"#,
        program().display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let guard = world
        .guard()
        .program(path)
        .policy("{version: 1, agents: [{name: coder}]}")
        .start()
        .unwrap();
    let directory = format!("{}/", world.directory().display());
    let mounts = || {
        let path = format!("/proc/{}/mountinfo", guard.id().unwrap());
        let all = fs::read_to_string(path).unwrap();
        // What other worlds mount comes and goes meanwhile: their namespaces, and what is in their directories.
        let of_others = |line: &str| {
            line.contains(" - nsfs ")
                || (line.contains("/agentguard-test-") && !line.contains(&directory))
        };
        let own = all.lines().filter(|line| !of_others(line));
        own.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = mounts();
    assert!(
        before.iter().any(|line| line.contains(" shared:")),
        "{before:?}"
    );
    guard
        .agent("coder", ["true"])
        .run()
        .unwrap()
        .success()
        .unwrap();
    let run = ["run", "--agent", "coder", "--user", "1000", "--", "true"];
    guard.cli().args(run).run().unwrap().success().unwrap();
    assert_eq!(mounts(), before);
}

/// The program under test.
fn program() -> PathBuf {
    let program = std::env::var("AGENTGUARD_BIN").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/agentguard").to_owned()
    });
    fs::canonicalize(program).unwrap()
}

/// A program that starts the guard on a kernel that seems to have no Landlock.
fn without_landlock(world: &World) -> PathBuf {
    let program = program();
    let path = world.directory().join("agentguard");
    let script = format!(
        r#"#!/usr/bin/python3
import ctypes, os, struct, sys
step = lambda *words: struct.pack("HBBI", *words)
# landlock_create_ruleset is 444 everywhere; ENOSYS.
steps = step(0x20, 0, 0, 0) + step(0x15, 0, 1, 444) + step(6, 0, 0, 0x50026) + step(6, 0, 0, 0x7fff0000)
code = ctypes.create_string_buffer(steps)
program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(code))
assert ctypes.CDLL(None).prctl(22, 2, program, 0, 0) == 0
os.execv("{program}", ["agentguard"] + sys.argv[1:])
"#,
        program = program.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn start<'w>(world: &'w World, strict: bool) -> Guard<'w> {
    world
        .guard()
        .program(without_landlock(world))
        .policy("{version: 1, agents: [{name: coder}]}")
        .setting("run", json!({"strict": strict}))
        .start()
        .unwrap()
}

#[test]
fn where_something_is_missing_it_is_said_and_the_rest_holds() {
    let world = world("no-landlock");
    let guard = start(&world, false);
    let status = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    assert!(status.stdout.contains("no Landlock: "), "{status}");
    assert!(guard.log().contains("the sandbox is not whole"));
    let run = guard.run("coder", ["strace", "true"]).unwrap();
    assert_ne!(run.code(), 0, "{run}");
    assert!(run.stderr.contains("Operation not permitted"), "{run}");
    assert_eq!(guard.run("coder", ["true"]).unwrap().code(), 0);
}

#[test]
fn a_strict_guard_runs_nothing_in_half_a_sandbox() {
    let world = world("strict");
    let guard = start(&world, true);
    let run = guard
        .run("coder", ["touch", "/tmp/agentguard-strict"])
        .unwrap();
    assert_eq!(run.code(), 1, "{run}");
    assert!(run.stderr.contains("`run` is strict: no Landlock"), "{run}");
    assert!(run.stderr.contains("hint: "), "{run}");
    assert!(!Path::new("/tmp/agentguard-strict").exists());
    drop(guard);
    // Here nothing is missing that the sandbox is made of. What another process hands in LSM programs refuse.
    let guard = world
        .guard()
        .policy("{version: 1, agents: [{name: coder}]}")
        .setting("run", json!({"strict": true}))
        .start()
        .unwrap();
    let status = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    let run = guard
        .run("coder", ["touch", "/tmp/agentguard-strict"])
        .unwrap();
    if status.stdout.contains("\"lsm_foreign_receive\"") {
        assert_eq!(run.code(), 0, "{run}");
        fs::remove_file("/tmp/agentguard-strict").unwrap();
        return;
    }
    assert_eq!(run.code(), 1, "{run}");
    let says = "`run` is strict: no LSM programs on sockets of others: a process outside";
    assert!(run.stderr.contains(says), "{run}");
    assert!(run.stderr.contains("hint: "), "{run}");
    assert!(!Path::new("/tmp/agentguard-strict").exists());
    let told = "agents use sockets that another process hands them";
    assert!(status.stdout.contains(told), "{status}");
}
