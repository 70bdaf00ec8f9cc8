//! Somebody has taken the worker over: it is still confined.
//!
//! A debug build's worker attempts what a variable names in place of its work (the keeper's
//! `worker::hostile`), and `agentguard worker` does the same for whoever runs it: what the confinement
//! refuses is shown to be possible for root without it.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentguard_tests::origin::BANNER;
use agentguard_tests::{Guard, Origin, Output, Puppet, World, address, leftover, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const VARIABLE: &str = "AGENTGUARD_TEST_WORKER";
const SITE: &str = "api.example.com";
const LIMIT: Duration = Duration::from_secs(15);

const POLICY: &str = "
version: 1
agents:
  - {name: coder}
  - {name: helper}
rules:
  - id: inspected
    agents: [coder]
    match: {host: [api.example.com], port: [443]}
    action: allow
    handling: inspect
  - id: spliced
    agents: [coder]
    match: {host: [api.example.com], port: [22]}
    action: allow
  - id: real
    agents: [coder]
    match: {host: [real.example.com], port: [22]}
    action: allow
    addresses: real
    handling: splice
";

fn world(name: &str) -> World {
    World::new(name)
        .origin(Origin::at(&address::origin(0x10)).site(SITE))
        .start()
        .unwrap()
}

/// Whether the program under test has the hook. One for production has not, and then there is nothing
/// to see.
fn has_hook() -> bool {
    let program = std::env::var_os("AGENTGUARD_BIN").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/debug/agentguard"
            ))
        },
        PathBuf::from,
    );
    let program = std::fs::read(program).unwrap();
    let name = VARIABLE.as_bytes();
    let found = program.windows(name.len()).any(|window| window == name);
    assert!(
        found || std::env::var_os("AGENTGUARD_REQUIRE_ALL").is_none(),
        "needs a debug build, and nothing may be skipped"
    );
    if !found {
        println!("skipped: needs a debug build");
    }
    found
}

/// What became of each attempt that is not the process's last: done, or why not.
fn outcomes(output: &Output) -> BTreeMap<String, Result<(), String>> {
    let mut outcomes = BTreeMap::new();
    for line in output.stderr.lines() {
        let Some(line) = line.strip_prefix("hostile ") else {
            continue;
        };
        if let Some(attempt) = line.strip_suffix(": done") {
            outcomes.insert(attempt.to_owned(), Ok(()));
        } else if let Some((attempt, why)) = line.split_once(": refused: ") {
            outcomes.insert(attempt.to_owned(), Err(why.to_owned()));
        }
    }
    outcomes
}

/// A daemon whose worker attempts this. It ends with its worker, which does not serve.
fn in_worker(guard: &Guard<'_>, attempts: &[String]) -> Output {
    let daemon = guard.cli().arg("daemon").env(VARIABLE, attempts.join(";"));
    let output = daemon.run().unwrap();
    assert_eq!(output.code(), 1, "{output}");
    let before = "the worker ended before it served";
    assert!(output.stderr.contains(before), "{output}");
    output
}

/// The same by root, in mounts of its own so that none stays.
fn freely(world: &World, attempts: &[String]) -> Output {
    let program = std::env::var_os("AGENTGUARD_BIN").unwrap_or_else(|| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/agentguard").into()
    });
    let free = world.host().command("unshare").args(["--mount", "--"]);
    let free = free.arg(program).arg("worker");
    let free = free.env(VARIABLE, format!("free;{}", attempts.join(";")));
    free.run().unwrap()
}

fn words(attempts: &[&str]) -> Vec<String> {
    attempts
        .iter()
        .map(|attempt| (*attempt).to_owned())
        .collect()
}

#[test]
fn a_worker_that_was_taken_over_reaches_nothing_of_the_host_or_of_the_keeper() {
    if !has_hook() {
        return;
    }
    let world = world("hostile");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let (state, bpffs) = (guard.state_dir(), guard.bpffs().to_owned());
    let (policy, run) = (guard.policy(), guard.runtime_dir());
    let socket = run.join("control.sock");
    let ca = std::fs::read_dir(state.join("keeper/ca")).unwrap();
    let ca = ca.map(|file| file.unwrap().path()).next().unwrap();
    // Below the directory of the ABI's version.
    let pins = std::fs::read_dir(&bpffs).unwrap();
    let pins = pins.map(|pins| pins.unwrap().path().join("NAMES"));
    let names = pins.into_iter().find(|pin| pin.exists()).unwrap();
    let neighbour = world.directory().join("neighbour.sock");
    let _neighbour = std::os::unix::net::UnixListener::bind(&neighbour).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&neighbour, open).unwrap();
    let attempts = |keeper: &str| {
        vec![
            "load-program".to_owned(),
            format!("pin={}", names.display()),
            format!("update={}", names.display()),
            format!("read={}", ca.display()),
            format!("look={}", state.join("keeper").display()),
            format!("look={}", bpffs.display()),
            format!("write={}", policy.display()),
            format!("create={}", state.join("keeper/new").display()),
            format!("connect={}", socket.display()),
            format!("connect={}", neighbour.display()),
            format!("read=/proc/{keeper}/mem"),
            format!("look=/proc/{keeper}/fd"),
            format!("signal={keeper}"),
            "read=/proc/kallsyms".to_owned(),
            "look=/home".to_owned(),
            "look=/dev".to_owned(),
            "look=/sys/fs".to_owned(),
            "look=/run".to_owned(),
            format!("look={}", run.display()),
            "packets".to_owned(),
            "raw".to_owned(),
            "netlink".to_owned(),
            "code".to_owned(),
        ]
    };
    // Without the confinement all of it is possible. A byte of another's memory is not read at its
    // first address, and this machine's `/home` may be empty.
    let keeper = guard.id().unwrap().to_string();
    let free = freely(&world, &attempts(&keeper));
    assert_eq!(free.code(), 0, "{free}");
    for (attempt, outcome) in outcomes(&free) {
        let elsewhere = attempt == "look=/home" || attempt.ends_with("/mem");
        assert!(outcome.is_ok() || elsewhere, "{attempt}: {outcome:?}");
    }
    std::fs::remove_file(state.join("keeper/new")).unwrap();
    guard.stop().unwrap();

    // What it may: its own files, the host's certificates and names, all that a program does.
    let may = [
        format!("create={}", state.join("record/new").display()),
        format!("create={}", state.join("names/new").display()),
        "look=/etc/ssl/certs".to_owned(),
        "read=/etc/hosts".to_owned(),
        "read=/etc/resolv.conf".to_owned(),
        "look=/usr/share".to_owned(),
        "read=/proc/self/maps".to_owned(),
        "read=/proc/{keeper}/cgroup".to_owned(),
        "work".to_owned(),
    ];
    let may_not = attempts("{keeper}");
    let output = in_worker(&guard, &[&may[..], &may_not].concat());
    let outcomes = outcomes(&output);
    assert_eq!(outcomes.len(), may.len() + may_not.len(), "{output}");
    let refused = outcomes.values().filter(|outcome| outcome.is_err()).count();
    assert_eq!(refused, may_not.len(), "{output}");
    let pid = outcomes.keys().find_map(|attempt| {
        let pid = attempt.strip_prefix("signal=")?;
        pid.parse::<u32>().ok()
    });
    for attempt in &may {
        let attempt = attempt.replace("{keeper}", &pid.unwrap().to_string());
        assert_eq!(outcomes[&attempt], Ok(()), "{attempt}");
    }
}

/// What its mounts, its user and its system calls leave to it, and Landlock does not.
#[test]
fn what_the_worker_s_domain_refuses_nothing_else_would() {
    if !has_hook() {
        return;
    }
    let world = world("domain");
    let guard = world.guard().policy(POLICY).prepare().unwrap();
    let doctor = guard.cli().args(["doctor", "-o", "json"]).run().unwrap();
    let doctor: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
    let mut checks = doctor.as_array().unwrap().iter();
    let found = checks.find(|check| check["name"] == "landlock");
    let found = found.and_then(|check| check["found"].as_str());
    let version = found.and_then(|found| found.strip_prefix("version "));
    let version = version.and_then(|found| found.split(',').next());
    let version: u32 = version.map_or(0, |version| version.parse().unwrap());
    // A place of the host's that nobody hides.
    let place = tempfile::tempdir_in("/").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(place.path(), open).unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, "anybody's").unwrap();
    let attempts = [
        format!("read={}", file.display()),
        format!("look={}", place.path().display()),
        "listen=127.0.0.1:0".to_owned(),
    ];
    let free = freely(&world, &attempts);
    assert_eq!(free.code(), 0, "{free}");
    assert!(outcomes(&free).values().all(Result::is_ok), "{free}");

    let output = in_worker(&guard, &attempts);
    let outcomes = outcomes(&output);
    assert_eq!(outcomes.len(), attempts.len(), "{output}");
    for (attempt, since) in attempts.iter().zip([1, 1, 4]) {
        assert_eq!(outcomes[attempt].is_err(), version >= since, "{output}");
    }
}

#[test]
fn what_only_another_s_code_would_call_ends_the_worker_and_is_told() {
    if !has_hook() {
        return;
    }
    let world = world("never");
    let guard = world.guard().policy(POLICY).prepare().unwrap();
    let place = world.directory().join("place");
    std::fs::create_dir(&place).unwrap();
    let mount = format!("mount={}", place.display());
    let hardly = ["exec=/bin/true", "x32"];
    for attempt in [
        "exec=/bin/true",
        "setuid",
        "unshare",
        &mount,
        "ptrace={keeper}",
        "fork",
        "keys",
        "x32",
    ] {
        // The program that is executed says nothing, and kernels without x32 refuse its calls. The
        // shell's child traces its own parent.
        let free = freely(&world, &words(&[attempt]));
        assert_eq!(free.code(), 0, "{free}");
        let free = outcomes(&free);
        let possible = free.values().all(Result::is_ok);
        assert!(possible || hardly.contains(&attempt), "{attempt}: {free:?}");

        let output = in_worker(&guard, &words(&["nothing", attempt, "nothing"]));
        let outcomes = outcomes(&output);
        assert_eq!(outcomes.len(), 1, "{attempt}: {output}");
        assert!(output.stderr.contains("SIGSYS"), "{attempt}: {output}");
        let told = "a system call that it never makes";
        assert!(output.stderr.contains(told), "{attempt}: {output}");
    }
    // One that fails by itself is not taken for that.
    let output = in_worker(&guard, &words(&["abort"]));
    assert!(output.stderr.contains("SIGABRT"), "{output}");
    assert!(!output.stderr.contains("it never makes"), "{output}");
}

#[test]
fn a_worker_that_was_taken_over_widens_no_verdict_and_impersonates_nobody() {
    if !has_hook() {
        return;
    }
    let world = world("wider");
    let guard = world.guard().policy(POLICY).prepare().unwrap();
    // Agent 1 is `coder`, agent 2 `helper`, agent 3 nobody.
    let may = [
        "publish=1,api.example.com,198.18.9.9,203.0.113.16",
        "publish=1,real.example.com,198.18.9.9,203.0.113.16",
        "sign=1,api.example.com",
    ];
    let may_not = [
        // Names, and agents.
        "publish=1,evil.example.com,198.18.9.9,203.0.113.16",
        "publish=2,api.example.com,198.18.9.9,203.0.113.16",
        "publish=3,api.example.com,198.18.9.9,203.0.113.16",
        // An address of another kind for a name: not virtual, and where the guard forbids.
        "publish=1,api.example.com,192.0.2.66,203.0.113.16",
        "publish=1,api.example.com,198.18.9.9,127.0.0.1",
        "publish=1,api.example.com,198.18.9.9,169.254.169.254",
        "publish=1,real.example.com,198.18.9.9,10.0.0.1",
        "publish=1,real.example.com,198.18.9.9,198.18.9.8",
        // Certificates.
        "sign=1,real.example.com",
        "sign=1,evil.example.com",
        "sign=2,api.example.com",
        "sign=3,api.example.com",
        // The maps that it can read are not to be written: each agent's counters, who runs what.
        "update-own",
    ];
    let output = in_worker(&guard, &words(&[&may[..], &may_not].concat()));
    let outcomes = outcomes(&output);
    assert_eq!(outcomes.len(), may.len() + may_not.len(), "{output}");
    for attempt in may {
        assert_eq!(outcomes[attempt], Ok(()), "{attempt}");
    }
    for attempt in may_not {
        assert!(outcomes[attempt].is_err(), "{attempt}: {output}");
    }
}

/// Whether the gate holds an answered address, by its first key. `BPF_OBJ_GET`, `BPF_MAP_GET_NEXT_KEY`.
const ANY_NAME: &str = "
import ctypes, os, struct, sys
call = ctypes.CDLL(None, use_errno=True).syscall
def bpf(command, *fields):
    attributes = struct.pack('QQQQ', *fields)
    result = call(321, command, attributes, len(attributes))
    return result if result >= 0 else -ctypes.get_errno()
path, key = ctypes.create_string_buffer(os.fsencode(sys.argv[1])), ctypes.create_string_buffer(64)
map = bpf(7, ctypes.addressof(path), 0, 0, 0)
assert map >= 0, map
found = bpf(4, map, 0, ctypes.addressof(key), 0)
assert found in (0, -2), found
print(found == 0)
";

/// All kinds of messages and bytes that are none, thousands of them; the keeper neither ends nor grants, and
/// the worker after that one serves.
#[test]
fn whatever_a_worker_says_the_keeper_goes_on_and_grants_nothing() {
    if !has_hook() {
        return;
    }
    let world = world("babble");
    let once = world.directory().join("guard-1/state/record/once");
    let attempts = format!("once={};babble=4", once.display());
    let guard = world.guard().policy(POLICY).env(VARIABLE, &attempts);
    let guard = guard.start().unwrap();
    let daemon = guard.id().unwrap();
    wait_until("the next worker", LIMIT, || {
        let status = guard.cli().arg("status").run().ok()?;
        (guard.log().contains("starting another") && status.code() == 0).then_some(())
    })
    .unwrap();
    let log = guard.log();
    assert!(log.contains("hostile babble=4: done"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(guard.id().unwrap(), daemon);
    // What operators order is not a worker's to say.
    let registry = guard.state_dir().join("keeper/agents.json");
    let registry = std::fs::read_to_string(registry).unwrap();
    assert!(registry.contains("\"agents\":"), "{registry}");
    for order in ["quarantined", "switches", "deeds"] {
        assert!(!registry.contains(order), "{registry}");
    }

    let names = std::fs::read_dir(guard.bpffs()).unwrap();
    let mut names = names.map(|pins| pins.unwrap().path().join("NAMES"));
    let names = names.find(|pin| pin.exists()).unwrap();
    let any_name = || {
        let python = world.host().command("python3").args(["-c", ANY_NAME]);
        let output = python.arg(&names).run().unwrap().success().unwrap();
        output.stdout.trim() == "True"
    };
    assert!(!any_name());
    let mut client = Puppet::start(&world, |words| guard.agent("coder", words)).unwrap();
    for address in ["198.18.9.9", "203.0.113.16", "10.0.0.1", "169.254.169.254"] {
        client.fails(&format!("tcp('x', '{address}', 443)"), "EPERM");
    }
    let resolved = client.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    let address = resolved[0].as_str().unwrap();
    assert!(any_name());
    client.gives(&format!("tcp('c', '{address}', 22)"), json!([address, 22]));
    client.gives("of('c').recv(27).decode()", BANNER);
}

/// How soon is what `cargo xtask bench run` measures.
#[test]
fn another_worker_serves_in_the_place_of_one_that_was_ended() {
    let world = world("again");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = Puppet::start(&world, |words| guard.agent("coder", words)).unwrap();
    let resolve = format!("resolve('{SITE}', 4)");
    let address = client.ask(&resolve).unwrap()[0]
        .as_str()
        .unwrap()
        .to_owned();
    let status = || {
        let status = guard.cli().args(["status", "-o", "json"]).run().ok()?;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
        i32::try_from(status["worker_pid"].as_i64()?).ok()
    };
    let mut old = status().unwrap();
    // As a system call would end it, and as anything else would.
    for signal in [Signal::SYS, Signal::KILL, Signal::KILL, Signal::ABORT] {
        let begun = Instant::now();
        kill_process(Pid::from_raw(old).unwrap(), signal).unwrap();
        // A query that it takes as it ends is lost, and asked again after seconds.
        let gone = || (!Path::new(&format!("/proc/{old}")).exists()).then_some(());
        wait_until("its end", LIMIT, gone).unwrap();
        // The listeners are the keeper's: what is asked meanwhile waits, and is answered.
        client.gives(&resolve, json!([address]));
        let name = begun.elapsed();
        client.gives(&format!("tcp('c', '{address}', 22)"), json!([address, 22]));
        client.gives("of('c').recv(27).decode()", BANNER);
        client.gives("close('c')", "closed");
        println!(
            "{signal:?}: a name after {name:?}, a flow after {:?}",
            begun.elapsed()
        );
        let new = wait_until("another worker", LIMIT, || {
            status().filter(|new| *new != old)
        });
        old = new.unwrap();
    }
    let log = guard.log();
    let told = log.matches("a system call that it never makes").count();
    assert_eq!(told, 1, "{log}");
    assert_eq!(log.matches("starting another").count(), 4, "{log}");
}

/// Neither a process nor a thread can be had for a while: here since its cgroup may have no more of them.
#[test]
fn a_daemon_that_can_start_no_worker_goes_on_until_it_can() {
    let world = world("worker-again");
    let mut guard = world.guard().policy(POLICY).start().unwrap();
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let mut client = Puppet::start(&world, |words| guard.within(&cgroup, words)).unwrap();
    client.ask(&format!("resolve('{SITE}', 4)")).unwrap()[0]
        .as_str()
        .unwrap();
    let daemon = guard.id().unwrap().to_string();
    let place = processes(&world);
    std::fs::write(place.join("cgroup.procs"), &daemon).unwrap();
    let limit = |most: &str| std::fs::write(place.join("pids.max"), most);
    let status = guard.cli().args(["status", "-o", "json"]).run().unwrap();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let old = i32::try_from(status["worker_pid"].as_i64().unwrap()).unwrap();
    limit("1").unwrap();
    kill_process(Pid::from_raw(old).unwrap(), Signal::KILL).unwrap();
    let said = "no worker can be started; it is tried again";
    wait_until("a second try", LIMIT, || {
        (guard.log().matches(said).count() >= 2).then_some(())
    })
    .unwrap();
    client.fails("tcp('d', '192.0.2.66', 80)", "EPERM");
    assert_eq!(guard.id().unwrap().to_string(), daemon);

    limit("max").unwrap();
    wait_until("another worker", LIMIT, || {
        let status = guard.cli().args(["status", "-o", "json"]).run().ok()?;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
        (status["worker_pid"].as_i64()? != i64::from(old)).then_some(())
    })
    .unwrap();
    client.ask(&format!("resolve('{SITE}', 4)")).unwrap()[0]
        .as_str()
        .unwrap();
    assert!(guard.stop().unwrap().status.success());
    wait_until("the cgroup to be empty", LIMIT, || {
        std::fs::remove_dir(&place).ok()
    })
    .unwrap();
}

/// A cgroup that bounds how many processes and threads are in it, where that hierarchy is: in the first version's
/// of its own, or in the second's.
fn processes(world: &World) -> PathBuf {
    let own = PathBuf::from("/sys/fs/cgroup/pids");
    let mount = match own.join("cgroup.procs").exists() {
        true => own,
        false => leftover::cgroup_mount().unwrap(),
    };
    let control = mount.join("cgroup.subtree_control");
    if control.exists() {
        std::fs::write(control, "+pids").unwrap();
    }
    let place = mount.join(format!("{}.pids", world.tag().directory()));
    std::fs::create_dir(&place).unwrap();
    place
}
