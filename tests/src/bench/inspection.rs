//! What inspection costs.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::sample;
use crate::{Guard, Invocation, Origin, Output, World, address};

/// Everything of one host, inspected or spliced. One agent for each case: each has a share of the
/// record, which no case is to use up.
const POLICY: &str = "
version: 1
agents:
  - { name: http1 }
  - { name: http2 }
  - { name: many }
  - { name: spliced }
rules:
  - id: inspected
    agents: [http1, http2, many]
    match: { host: [api.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
  - id: spliced
    agents: [spliced]
    match: { host: [api.example.com], port: [443] }
    action: allow
";

/// The client of [`connections`].
const HOLD: &str = include_str!("../../clients/hold.py");

/// How often each is measured.
const ROUNDS: usize = 5;
const GIB: u64 = 1 << 30;
const REQUESTS: usize = 500;
const CONNECTIONS: usize = 1_000;

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Who carries the bytes.
#[derive(Clone, Copy)]
enum Subject {
    /// Nobody: the same client outside the guard.
    Unguarded,
    Agent(&'static str),
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Unguarded => "unguarded",
            Self::Agent(_) => "agentguard",
        }
    }
}

/// Measures, and prints each sample.
///
/// # Errors
/// A client failed, or the guard.
pub fn inspection() -> Result<()> {
    let world = World::new("bench")
        .origin(Origin::at(&address::origin(0x10)).site("api.example.com"))
        .start()?;
    let upstreams = json!([{ "host": ["api.example.com"], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    let bench = Bench {
        world: &world,
        guard: guard.start()?,
    };
    bench.memory("idle", "resident", "VmRSS")?;
    bench.downloads()?;
    bench.requests()?;
    bench.connections()
}

struct Bench<'w> {
    world: &'w World,
    guard: Guard<'w>,
}

impl Bench<'_> {
    fn call(&self, subject: Subject, words: &[&str]) -> Result<Output> {
        let (program, arguments) = words.split_first().context("no program")?;
        let call: Invocation<'_> = match subject {
            Subject::Unguarded => {
                let call = self.world.host().command(program).args(arguments);
                let trust = self.world.trust().into_iter();
                trust.fold(call, |call, (name, file)| call.env(name, file))
            }
            Subject::Agent("spliced") => self.guard.agent("spliced", words),
            Subject::Agent(agent) => {
                let run = ["run", "--agent", agent, "--"];
                self.guard.cli().args(run).args(words)
            }
        };
        call.limit(LIMIT).run()?.success()
    }

    /// One GiB without a length.
    fn downloads(&self) -> Result<()> {
        let url = format!("https://api.example.com/chunked/{GIB}");
        let told = "%{speed_download} %{size_download}";
        for (case, agent, version) in [
            ("download_1g_spliced", "spliced", "--http2"),
            ("download_1g_inspected_h1", "http1", "--http1.1"),
            ("download_1g_inspected_h2", "http2", "--http2"),
        ] {
            self.forget_peak()?;
            for _ in 0..ROUNDS {
                for subject in [Subject::Unguarded, Subject::Agent(agent)] {
                    let words = ["curl", "-sSf", version, "-o", "/dev/null", "-w", told, &url];
                    let output = self.call(subject, &words)?;
                    let (speed, size) = output.stdout.split_once(' ').context("no figures")?;
                    ensure!(size.trim() == GIB.to_string(), "{size} bytes came");
                    let rate = speed.parse::<f64>()? / f64::from(1 << 20);
                    sample(case, subject.name(), "throughput", "mib_per_s", rate);
                }
            }
            self.memory(case, "peak_resident", "VmHWM")?;
        }
        Ok(())
    }

    /// Small requests, one after the other on one connection.
    fn requests(&self) -> Result<()> {
        let url = format!("https://api.example.com/bytes/100?[1-{REQUESTS}]");
        for (case, agent, version) in [
            ("get_100_spliced", "spliced", "--http2"),
            ("get_100_inspected_h1", "http1", "--http1.1"),
            ("get_100_inspected_h2", "http2", "--http2"),
        ] {
            for _ in 0..ROUNDS {
                for subject in [Subject::Unguarded, Subject::Agent(agent)] {
                    let told = "%{time_total}\n";
                    let words = ["curl", "-sSf", version, "-o", "/dev/null", "-w", told, &url];
                    let output = self.call(subject, &words)?;
                    let mut times = Vec::new();
                    for line in output.stdout.lines() {
                        times.push(line.parse::<f64>()? * 1e6);
                    }
                    ensure!(times.len() == REQUESTS, "{} answers", times.len());
                    times.sort_by(f64::total_cmp);
                    for (metric, part) in [("latency_p50", 50), ("latency_p99", 99)] {
                        let at = times.get(times.len() * part / 100);
                        let time = at.copied().context("no times")?;
                        sample(case, subject.name(), metric, "us", time);
                    }
                }
            }
        }
        Ok(())
    }

    /// Connections that are all open at once, each with an answer.
    fn connections(&self) -> Result<()> {
        let case = "connections_1000_inspected";
        let count = CONNECTIONS.to_string();
        self.forget_peak()?;
        for _ in 0..ROUNDS {
            for subject in [Subject::Unguarded, Subject::Agent("many")] {
                let output = self.call(subject, &["python3", "-c", HOLD, &count])?;
                let told: Value = serde_json::from_str(&output.stdout)?;
                if told.get("answered") != Some(&json!(CONNECTIONS)) {
                    bail!("not all were answered: {told}");
                }
                let seconds = told
                    .get("seconds")
                    .and_then(Value::as_f64)
                    .context("no time")?;
                sample(case, subject.name(), "all_answered", "s", seconds);
            }
        }
        self.memory(case, "peak_resident", "VmHWM")
    }

    fn worker(&self) -> Result<i64> {
        let status = self.guard.cli().args(["status", "-o", "json"]).run()?;
        let status: Value = serde_json::from_str(&status.success()?.stdout)?;
        let worker = status.get("worker_pid").and_then(Value::as_i64);
        worker.context("no worker")
    }

    /// Starts a new peak (`proc(5)`, `clear_refs`).
    fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(
            format!("/proc/{}/clear_refs", self.worker()?),
            "5",
        )?)
    }

    /// A field of the worker's `/proc/PID/status`.
    fn memory(&self, case: &str, metric: &str, field: &str) -> Result<()> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.worker()?))?;
        let value = status.lines().find_map(|line| {
            let value = line.strip_prefix(field)?.strip_prefix(':')?;
            value.trim().strip_suffix(" kB")?.parse::<f64>().ok()
        });
        let value = value.with_context(|| format!("no {field}"))?;
        sample(case, "agentguard", metric, "kib", value);
        Ok(())
    }
}
