//! Who waits: for memory above `memory.high`, for a device above `io.max`, for processors. What comes of it is measured,
//! shown and recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::{Guard, Process, World, kernel, wait_until};
use anyhow::Context as _;
use serde_json::{Value, json};

use super::{BUSY, SOON, by_kernel, has_controllers, run, show, value};
use crate::{agent, world};

/// How long a share of ten seconds takes to become large, and to be looked at.
const WHILE: Duration = Duration::from_secs(60);

/// The serial number of the disk that the machines of `cargo xtask vm-test` have for this.
const DISK: &str = "agentguard-test";

const POLICY: &str = "version: 1
agents:
  - name: eater
    resources: {memory_high: 32MiB, memory: 512MiB, pids: 100}
  - name: reader
    resources:
      io: [{device: DISK, read: 1MiB}]
  - name: helper
rules:
  - id: none
    action: deny
";

/// Takes a MiB after the other, as many as it is told, and says for each that it has it.
const EATER: &str = "
import sys
held = []
for number in range(int(sys.argv[1])):
    held.append(b'x' * (1 << 20))
    print('held', number + 1, flush=True)
";

/// Reads so many MiB of a device, past the page cache, and says how many seconds that took. A MiB at once, so that it
/// waits for the device and not, as often as it has something, for a processor that others use. Then it stays for so many
/// seconds: what is asked of an agent of which nothing runs is not told, and machines are slow or fast.
const READER: &str = "
import mmap, os, sys, time
device = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
page = mmap.mmap(-1, 1 << 20)
begun = time.monotonic()
for _ in range(int(sys.argv[2])):
    assert os.readv(device, [page]) == 1 << 20
print(time.monotonic() - begun, flush=True)
time.sleep(int(sys.argv[3]))
";

/// Where Prometheus would ask.
const FIGURES: &str = "127.0.0.1:9464";

/// Asks there, with what each of these machines has.
const SCRAPE: &str = r"
import socket, sys
address, port = sys.argv[1].split(':')
asking = socket.create_connection((address, int(port)))
asking.sendall(b'GET /metrics HTTP/1.0\r\n\r\n')
sys.stdout.buffer.write(asking.makefile('rb').read())
";

/// How many MiB of the device are read.
const READ: u32 = 24;

/// Whether the kernel tells of pressure.
fn has_pressure() -> bool {
    Path::new("/proc/pressure/memory").exists()
}

/// The disk that tests may have.
pub(super) fn disk() -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/block").ok()?;
    let is_ours = |path: &Path| {
        let serial = fs::read_to_string(path.join("serial"));
        serial.is_ok_and(|it| it.trim() == DISK)
    };
    let mut found = entries.flatten().filter(|it| is_ours(&it.path()));
    Some(Path::new("/dev").join(found.next()?.file_name()))
}

/// The decision of this reason about an agent, which was an allowance.
fn told(decisions: &[Decision], name: &str, code: ReasonCode) -> Option<Decision> {
    let mut found = decisions.iter();
    let found = found.find(|it| agent(it) == Some(name) && it.reason.code == code);
    found.cloned().inspect(|it| {
        by_kernel(it);
        assert_eq!((it.verdict, it.count), (Verdict::Allow, 1), "{it:?}");
    })
}

/// Waits for [`told`], with its `file` and a part of its sentence.
fn wait_told(guard: &Guard<'_>, name: &str, code: ReasonCode, file: &str, part: &str) {
    let found = || {
        let decisions = guard.verdicts().unwrap();
        told(&decisions, name, code)
    };
    let what = format!("{code} of {name}");
    let found = wait_until(&what, WHILE, found);
    let found = found.with_context(|| show(guard, name).to_string());
    let found = found.unwrap();
    assert_eq!(found.action.method.as_deref(), Some(file));
    assert!(found.reason.message.contains(part), "{found:?}");
    println!("{}", found.reason.message);
}

/// What `agent show` says of the waits for a resource: microseconds.
fn waited(guard: &Guard<'_>, name: &str, resource: &str) -> Option<u64> {
    show(guard, name)["resources"]["pressure"][resource]["some_us"].as_u64()
}

fn telemetry() -> Value {
    json!({ "prometheus": { "listen": FIGURES } })
}

/// The figures of agents, by name and labels.
fn figures(world: &World) -> BTreeMap<String, f64> {
    let command = world.host().command("python3");
    let scraped = command.args(["-c", SCRAPE, FIGURES]).run();
    let text = scraped.unwrap().success().unwrap().stdout;
    let lines = text
        .lines()
        .filter(|it| it.starts_with("agentguard_agent_"));
    let figures = lines.filter_map(|it| it.rsplit_once(' '));
    figures
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

fn kill(mut process: Process) {
    process.signal(rustix::process::Signal::KILL).unwrap();
    process.wait(SOON).unwrap();
}

#[test]
fn who_is_slowed_down_at_a_limit_waits_and_that_is_shown_and_recorded() {
    if !has_controllers() {
        kernel::absent("limits of resources", "controllers in cgroup v2").unwrap();
        return;
    }
    if !has_pressure() {
        kernel::absent("waiting", "pressure stall information").unwrap();
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
    let disk = disk.to_str().unwrap();
    let world = world("resources-waiting");
    let policy = POLICY.replace("DISK", disk);
    let guard = world.guard().policy(&policy);
    let guard = guard.setting("telemetry", telemetry()).start().unwrap();

    // Whoever has no limit.
    let begun = Instant::now();
    let free = run(&guard, "helper", &["python3", "-c", EATER, "64"]);
    let took = begun.elapsed();
    assert!(free.stdout.ends_with("\nheld 64\n"), "{free}");
    let count = READ.to_string();
    let read = |stays| ["python3", "-c", READER, disk, &count, stays];
    let free = run(&guard, "helper", &read("0"));
    let seconds = |stdout: &str| stdout.trim().parse::<f64>();
    let unheld = seconds(&free.stdout).unwrap_or_else(|_| panic!("{free}"));

    // Both wait at once, each for something else.
    let eats = ["python3", "-c", EATER, "256"];
    let eater = guard.agent("eater", eats).spawn().unwrap();
    let begun = Instant::now();
    let reader = guard.agent("reader", read("600")).spawn().unwrap();
    wait_told(
        &guard,
        "eater",
        ReasonCode::ResourcePressure,
        "memory.pressure",
        "Something of the agent waited for memory for ",
    );
    wait_told(
        &guard,
        "eater",
        ReasonCode::MemoryHigh,
        "memory.high",
        "it may have 32 MiB.",
    );
    wait_told(
        &guard,
        "reader",
        ReasonCode::ResourcePressure,
        "io.pressure",
        "This is recorded from 50.00 % on",
    );

    // Slowed down, and not killed: it has gone on, and is far from what it would have by now.
    let over = || (begun.elapsed() >= took * 4).then_some(());
    wait_until("that time", WHILE, over).unwrap();
    let shown = show(&guard, "eater");
    let memory = &shown["resources"]["memory"];
    println!(
        "{took:?} for 64 MiB without a limit; after {:?} with one: {memory}",
        begun.elapsed()
    );
    let has = memory["current"].as_u64().unwrap();
    assert!((32 << 20..192 << 20).contains(&has), "{shown}");
    assert!(memory["above_high"].as_u64().unwrap() > 0, "{shown}");
    assert_eq!(
        (&memory["high"], &memory["oom_kills"]),
        (&(32 << 20).into(), &0.into())
    );
    assert!(eater.stdout().contains("held 20\n") && !eater.stdout().contains("held 192\n"));
    assert!(
        waited(&guard, "eater", "memory").unwrap() > 1_000_000,
        "{shown}"
    );
    // The controller is off in nobody's cgroup, and pressure is everybody's.
    assert!(
        shown["resources"]["pressure"]["cpu"]["some_us"].is_u64(),
        "{shown}"
    );

    // A second for each MiB, where the disk itself takes no time.
    let own = guard.cgroup().join("reader");
    assert!(value(&own, "io.max").contains("rbps=1048576"));
    assert!(waited(&guard, "reader", "io").unwrap() > 1_000_000);
    println!("the reader waits: {}", value(&own, "io.pressure"));
    let figures = figures(&world);
    for (figure, least) in [
        (
            r#"agentguard_agent_waiting_seconds{agent="eater",resource="memory"}"#,
            1.0,
        ),
        (
            r#"agentguard_agent_waiting_seconds{agent="reader",resource="io"}"#,
            1.0,
        ),
        (r#"agentguard_agent_memory_slowed{agent="eater"}"#, 1.0),
        (
            r#"agentguard_agent_devices_bytes{agent="reader",direction="read"}"#,
            1_048_576.0,
        ),
    ] {
        let told = figures.get(figure).copied();
        assert!(told.is_some_and(|it| it >= least), "{figure}: {told:?}");
    }
    for figure in [
        r#"agentguard_agent_memory_kills{agent="eater"}"#,
        r#"agentguard_agent_tasks_refused{agent="eater"}"#,
    ] {
        assert_eq!(figures.get(figure), Some(&0.0), "{figure}");
    }
    let has_read = || seconds(reader.stdout().strip_suffix('\n')?).ok();
    let held = wait_until("all that is to be read", WHILE, has_read).unwrap();
    println!("{READ} MiB in {unheld:.1} s without a limit, in {held:.1} s with one of 1 MiB/s");
    assert!(held > 0.8 * f64::from(READ) && held < 3.0 * f64::from(READ));
    assert!(unheld < held / 3.0);
    for process in [eater, reader] {
        kill(process);
    }

    // Told once, for as long as it went on.
    let decisions = guard.verdicts().unwrap();
    let pressed = |name| {
        let of = |it: &&Decision| agent(it) == Some(name);
        let all = decisions.iter().filter(of);
        all.filter(|it| it.reason.code == ReasonCode::ResourcePressure)
            .filter(|it| it.action.method.as_deref() != Some("cpu.pressure"))
            .count()
    };
    assert_eq!(
        (pressed("eater"), pressed("reader"), pressed("helper")),
        (1, 1, 0)
    );
}

#[test]
fn who_waits_for_processors_for_long_is_told_of_once() {
    if !has_pressure() {
        kernel::absent("waiting", "pressure stall information").unwrap();
        return;
    }
    let world = world("resources-busy");
    let policy = "version: 1\nagents:\n  - name: coder\n";
    let guard = world.guard().policy(policy);
    let guard = guard.setting("telemetry", telemetry()).start().unwrap();
    // More than there are processors, so that one waits always.
    let processors = std::thread::available_parallelism().unwrap().get();
    let busy = |_| {
        let words = ["python3", "-c", BUSY, "600"];
        guard.agent("coder", words).spawn().unwrap()
    };
    let all: Vec<Process> = (0..2 * processors).map(busy).collect();
    wait_told(
        &guard,
        "coder",
        ReasonCode::ResourcePressure,
        "cpu.pressure",
        "waited for processors for ",
    );
    assert!(waited(&guard, "coder", "cpu").unwrap() > 5_000_000);
    let figure = r#"agentguard_agent_waiting_seconds{agent="coder",resource="cpu"}"#;
    let told = figures(&world).get(figure).copied();
    assert!(told.is_some_and(|it| it > 5.0), "{told:?}");
    // Some more looks, and it is told no other time.
    let before = waited(&guard, "coder", "cpu").unwrap();
    let more = || (waited(&guard, "coder", "cpu")? > before + 5_000_000).then_some(());
    wait_until("it waits on", WHILE, more).unwrap();
    for process in all {
        kill(process);
    }
    let decisions = guard.verdicts().unwrap();
    let pressed = |it: &&Decision| it.reason.code == ReasonCode::ResourcePressure;
    assert_eq!(decisions.iter().filter(pressed).count(), 1);
}
