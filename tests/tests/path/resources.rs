//! What agents may take of the host: limits that hold against real load where the kernel's cgroup v2 has the
//! controllers, and clear words where it has not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentguard_model::{ActionKind, Decision, Layer, ReasonCode, Verdict};
use agentguard_tests::{Guard, Output, World, kernel, leftover, wait_until};
use serde_json::Value;

use super::{agent, world};

mod managed;
mod waiting;

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(20);

/// The controllers that limits need.
const NEEDED: [&str; 4] = ["cpu", "io", "memory", "pids"];

fn policy(resources: &str) -> String {
    format!(
        "version: 1\nagents:\n  - name: coder\n{resources}  - name: helper\nrules:\n  - id: none\n    action: deny\n"
    )
}

/// Whether cgroup v2 has the controllers on this host.
fn has_controllers() -> bool {
    let mount = leftover::cgroup_mount().unwrap();
    let list = fs::read_to_string(mount.join("cgroup.controllers")).unwrap();
    NEEDED
        .iter()
        .all(|it| list.split_whitespace().any(|has| has == *it))
}

fn run(guard: &Guard<'_>, agent: &str, words: &[&str]) -> Output {
    guard.run(agent, words).unwrap()
}

fn show(guard: &Guard<'_>, agent: &str) -> Value {
    let show = guard.cli().args(["agent", "show", agent, "-o", "json"]);
    let shown = show.run().unwrap().success().unwrap();
    serde_json::from_str(&shown.stdout).unwrap()
}

fn reload(guard: &Guard<'_>, resources: &str) -> Output {
    fs::write(guard.policy(), policy(resources)).unwrap();
    let reload = guard.cli().args(["policy", "reload"]);
    reload.run().unwrap().success().unwrap()
}

#[test]
fn where_a_controller_is_missing_nothing_is_run_that_could_not_be_held_to_its_limits() {
    if has_controllers() {
        println!(
            "skipped: this host's cgroup v2 has every controller; what is missing is tested where one is"
        );
        return;
    }
    let world = world("resources-missing");
    let limits = "    resources: {cpu: 1.5, memory: 64MiB, pids: 20}\n";
    let guard = world.guard().policy(&policy(limits)).start().unwrap();
    let refused = run(&guard, "coder", &["true"]);
    assert_eq!(refused.code(), 1, "{refused}");
    for part in [
        "coder cannot be held to its limits: ",
        "the controller `memory` is not there for",
        "the controller `pids`",
        "\nhint: ",
        "or `resources: {missing: warn}` for this agent",
    ] {
        assert!(refused.stderr.contains(part), "{part} in:\n{refused}");
    }
    // Nobody else is kept from anything, and nothing is left behind.
    let other = run(&guard, "helper", &["true"]);
    assert_eq!(other.code(), 0, "{other}");
    let gone = || (!guard.cgroup().join("coder").exists()).then_some(());
    wait_until("its cgroup goes", SOON, gone).unwrap();

    // A cgroup that is there is not taken in either.
    let foreign = foreign(&world);
    let path = foreign.to_str().unwrap();
    let add = ["agent", "add", "coder", "--cgroup", path];
    let added = guard.cli().args(add).run().unwrap();
    assert_eq!(added.code(), 1, "{added}");
    assert!(
        added
            .stderr
            .contains("it cannot be held to the limits of coder: the controller"),
        "{added}"
    );
    let doctor = guard.cli().args(["doctor", "-o", "json"]).run().unwrap();
    let checks: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let check = checks.as_array().unwrap().iter();
    let check = check.into_iter().find(|it| it["name"] == "resources");
    let check = check.unwrap();
    assert_eq!(check["level"], "degraded", "{check}");
    assert_eq!(check["meaning"], "nothing is run as coder");

    // The policy can have it otherwise, and operators are told.
    reload(&guard, "    resources: {memory: 64MiB, missing: warn}\n");
    let mut sleeper = guard.agent("coder", ["sleep", "600"]).spawn().unwrap();
    let warned = || {
        let shown = show(&guard, "coder");
        let warning = shown["warnings"].as_array()?.first()?.as_str()?.to_owned();
        (warning.starts_with("not held to its limits: the controller `memory`")
            && shown["resources"]["memory"].is_null()
            && shown["resources"]["cpu"]["used_us"].is_u64())
        .then_some(())
    };
    wait_until("the warning", SOON, warned).unwrap();
    let again = reload(&guard, "    resources: {pids: 20, missing: warn}\n");
    assert!(
        again
            .stderr
            .contains("coder is not held to its limits: the controller `pids`"),
        "{again}"
    );
    // What only watches is held to nothing, and lacks nothing.
    reload(&guard, "    mode: observe\n    resources: {pids: 20}\n");
    let nothing = || show(&guard, "coder")["warnings"].is_null().then_some(());
    wait_until("the warning goes", SOON, nothing).unwrap();
    sleeper.signal(rustix::process::Signal::TERM).unwrap();
    sleeper.wait(SOON).unwrap();
}

/// A cgroup of somebody else's, which the world removes.
fn foreign(world: &World) -> PathBuf {
    let mount = leftover::cgroup_mount().unwrap();
    let path = mount.join(format!("{}.foreign", world.tag().directory()));
    fs::create_dir(&path).unwrap();
    path
}

/// Says `busy` when it has begun, and keeps a processor busy for so many seconds.
const BUSY: &str = "
import sys, time
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    pass
";

/// Uses as many MiB of memory as it is told.
const GREEDY: &str = "
import sys
held = [b'x' * (1 << 20) for _ in range(int(sys.argv[1]))]
print('held', len(held))
";

/// Begins processes until that is refused, and says how many there were.
const FORKS: &str = "
import os, signal
children = []
try:
    while len(children) < 100:
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        children.append(child)
    print('begun', len(children))
except BlockingIOError:
    print('refused', len(children))
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
";

/// The processor time of an agent's own cgroup, while something runs there.
fn used(guard: &Guard<'_>, agent: &str) -> Duration {
    let stat = fs::read_to_string(guard.cgroup().join(agent).join("cpu.stat")).unwrap();
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    let used = lines.find(|(name, _)| *name == "usage_usec").unwrap().1;
    Duration::from_micros(used.parse().unwrap())
}

/// Which part of a processor an agent gets that wants two.
fn share(guard: &Guard<'_>, agent: &str) -> f64 {
    let busy = || {
        let words = ["python3", "-c", BUSY, "600"];
        guard.agent(agent, words).spawn().unwrap()
    };
    let mut both = [busy(), busy()];
    let begun = wait_until("it is busy", SOON, || {
        let there = guard.cgroup().join(agent).join("cpu.stat").exists();
        (there && used(guard, agent) > Duration::from_millis(400)).then(Instant::now)
    });
    let (begun, before) = (begun.unwrap(), used(guard, agent));
    // Long enough for the periods of a tenth of a second, as real time has to pass.
    let over = || (begun.elapsed() >= Duration::from_secs(4)).then_some(());
    wait_until("that time", SOON, over).unwrap();
    let share = (used(guard, agent) - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    for one in &mut both {
        one.signal(rustix::process::Signal::KILL).unwrap();
    }
    for one in both {
        one.wait(SOON).unwrap();
    }
    let idle = || {
        let mut runs = fs::read_dir(guard.cgroup().join(agent))
            .into_iter()
            .flatten();
        let run = |it: std::io::Result<fs::DirEntry>| it.is_ok_and(|it| it.path().is_dir());
        (!runs.any(run)).then_some(())
    };
    // A client that is killed takes its command with it.
    wait_until("its runs end", SOON, idle).unwrap();
    share
}

fn met(decisions: &[Decision], code: ReasonCode) -> Option<Decision> {
    let found = decisions.iter().find(|it| it.reason.code == code);
    found.cloned().inspect(|it| {
        assert_eq!(agent(it), Some("coder"));
        by_kernel(it);
    })
}

/// Holds it against what every decision is that the kernel made of a resource.
fn by_kernel(it: &Decision) {
    assert_eq!(
        (it.layer, it.action.kind),
        (Layer::Kernel, ActionKind::Resource)
    );
    assert!(it.enforced);
}

fn value(cgroup: &Path, file: &str) -> String {
    fs::read_to_string(cgroup.join(file))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn limits_hold_against_real_load_and_what_meets_them_is_recorded() {
    if !has_controllers() {
        kernel::absent("limits of resources", "controllers in cgroup v2").unwrap();
        return;
    }
    let world = world("resources");
    let limits = "    resources: {cpu: 0.25, memory: 64MiB, pids: 20}\n";
    let guard = world.guard().policy(&policy(limits)).start().unwrap();

    // Processors: two that want all of one get a quarter together; whoever has no limit gets more.
    let (held, free) = (share(&guard, "coder"), share(&guard, "helper"));
    println!("of a processor: {held:.2} with a limit of 0.25, {free:.2} without one");
    assert!(held > 0.05 && held < 0.4, "{held}");
    assert!(free > 0.5, "{free}");
    let throttled = guard
        .wait_verdicts("being held up", |decisions| {
            met(decisions, ReasonCode::CpuThrottled)
        })
        .unwrap();
    assert_eq!(throttled.verdict, Verdict::Allow);
    assert!(
        throttled.reason.message.contains("it may use 0.25"),
        "{throttled:?}"
    );

    // Memory: what is within the limit is had, and who wants more is killed.
    let within = run(&guard, "coder", &["python3", "-c", GREEDY, "16"]);
    assert_eq!(within.stdout, "held 16\n", "{within}");
    let beyond = run(&guard, "coder", &["python3", "-c", GREEDY, "128"]);
    assert_eq!(
        (beyond.code(), beyond.stdout.as_str()),
        (137, ""),
        "{beyond}"
    );
    let killed = guard
        .wait_verdicts("the kill", |decisions| {
            met(decisions, ReasonCode::OutOfMemory)
        })
        .unwrap();
    assert_eq!((killed.verdict, killed.count), (Verdict::Deny, 1));
    assert_eq!(
        killed.reason.message,
        "The kernel killed a process of the agent for want of memory: it may use 64 MiB."
    );

    // Processes: what a bomb may have is little less than twenty, since what began it counts.
    let bomb = run(&guard, "coder", &["python3", "-c", FORKS]);
    let begun = bomb.stdout.strip_prefix("refused ").map(str::trim_end);
    let begun: u32 = begun.and_then(|it| it.parse().ok()).unwrap_or_default();
    assert!((16..20).contains(&begun), "{bomb}");
    let refused = guard
        .wait_verdicts("the refusal", |decisions| {
            met(decisions, ReasonCode::PidsLimit)
        })
        .unwrap();
    assert_eq!(refused.verdict, Verdict::Deny);
    assert!(
        refused.reason.message.ends_with("it may have 20."),
        "{refused:?}"
    );
    let free = run(&guard, "helper", &["python3", "-c", FORKS]);
    assert_eq!(free.stdout, "begun 100\n", "{free}");

    // What is taken is told, with its limits; and what the policy does not limit any more is free again.
    let mut sleeper = guard.agent("coder", ["sleep", "600"]).spawn().unwrap();
    let told = || {
        let shown = show(&guard, "coder")["resources"].clone();
        (shown["pids"]["current"].as_u64()? > 0).then_some(shown)
    };
    let told = wait_until("what it takes", SOON, told).unwrap();
    assert_eq!(told["cpu"]["limit_milli"], 250);
    assert_eq!(told["memory"]["max"], 64 << 20);
    assert_eq!(told["pids"]["max"], 20);
    assert!(told["memory"]["current"].as_u64().unwrap() > 0, "{told}");
    let own = guard.cgroup().join("coder");
    assert_eq!(value(&own, "cpu.max"), "25000 100000");
    fs::write(own.join("pids.max"), "max").unwrap();
    let back = || (value(&own, "pids.max") == "20").then_some(());
    wait_until("a limit that was taken off is there again", SOON, back).unwrap();
    reload(&guard, "    resources: {pids: 30}\n");
    let files = ["cpu.max", "memory.max", "pids.max"].map(|it| value(&own, it));
    assert_eq!(files, ["max 100000", "max", "30"]);
    reload(&guard, "    mode: observe\n    resources: {pids: 30}\n");
    assert_eq!(value(&own, "pids.max"), "max");
    sleeper.signal(rustix::process::Signal::TERM).unwrap();
    sleeper.wait(SOON).unwrap();

    // Somebody else's cgroup has the lesser of two limits, and its own back in the end.
    reload(&guard, "    resources: {pids: 20, memory: 64MiB}\n");
    let foreign = foreign(&world);
    fs::write(foreign.join("pids.max"), "500").unwrap();
    fs::write(foreign.join("memory.max"), "33554432").unwrap();
    let path = foreign.to_str().unwrap();
    let add = ["agent", "add", "coder", "--cgroup", path];
    guard.cli().args(add).run().unwrap().success().unwrap();
    let files = || ["pids.max", "memory.max"].map(|it| value(&foreign, it));
    assert_eq!(files(), ["20", "33554432"]);
    let remove = ["agent", "remove", "coder"];
    guard.cli().args(remove).run().unwrap().success().unwrap();
    assert_eq!(files(), ["500", "33554432"]);
}
