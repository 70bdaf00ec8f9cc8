//! What it costs to start a command by `agentguard run`, and how long nobody serves when the worker has ended.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::sample;
use crate::{Guard, Origin, Puppet, World, address, wait_until};

/// How often each is measured.
const ROUNDS: usize = 7;
/// Starts of each command in one round, which take turns.
const STARTS: &str = "40";
/// How often the worker of one daemon is killed: one that goes on dying is started later and later.
const KILLS: usize = 3;
/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(120);

const SITE: &str = "api.example.com";

const POLICY: &str = "
version: 1
agents: [{ name: coder }]
rules:
  - id: site
    match: { host: [api.example.com], port: [22] }
    action: allow
";

/// The client of [`starts`].
const STARTS_SCRIPT: &str = include_str!("../../clients/starts.py");

/// Measures, and prints each sample.
///
/// # Errors
/// A command failed, or the guard.
pub fn run() -> Result<()> {
    let world = World::new("bench")
        .origin(Origin::at(&address::origin(0x10)).site(SITE))
        .start()?;
    let mut guard = world.guard().policy(POLICY).start()?;
    for _ in 0..ROUNDS {
        starts(&world, &guard)?;
    }
    for _ in 0..ROUNDS {
        guard.stop()?;
        guard.start()?;
        restarts(&world, &guard)?;
    }
    Ok(())
}

/// `true` by itself, as an agent, and as one with a network namespace of its own.
fn starts(world: &World, guard: &Guard<'_>) -> Result<()> {
    let program = guard.program().to_str().context("a strange path")?;
    let run = [program, "run", "--agent", "coder"];
    let isolated = [&run[..], &["--isolate", "--", "true"]].concat();
    let run = [&run[..], &["--", "true"]].concat();
    let commands = json!([["true"], run, isolated]).to_string();
    let python = world.host().command("python3");
    let python = python.args(["-c", STARTS_SCRIPT, STARTS, &commands]);
    let python = python.env("AGENTGUARD_CONFIG", guard.config());
    let output = python.limit(LIMIT).run()?.success()?;
    let mut times = [const { Vec::new() }; 3];
    for line in output.stdout.lines() {
        let (place, taken) = line.split_once(' ').context("no figures")?;
        let place: usize = place.parse()?;
        let of = times.get_mut(place).context("no such command")?;
        of.push(taken.parse::<f64>()? / 1e6);
    }
    let mut figures = [(0.0, 0.0); 3];
    for (figure, times) in figures.iter_mut().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let at = |part: usize| times.get(times.len() * part / 100).copied();
        *figure = at(50).zip(at(99)).context("no times")?;
    }
    let [plain, run, isolated] = figures;
    for (case, figure) in [("run", run), ("run-isolated", isolated)] {
        for (subject, (p50, p99)) in [("unguarded", plain), ("agentguard", figure)] {
            sample(case, subject, "start_p50", "ms", p50);
            sample(case, subject, "start_p99", "ms", p99);
        }
        sample(case, "agentguard", "more_p50", "ms", figure.0 - plain.0);
        sample(case, "agentguard", "more_p99", "ms", figure.1 - plain.1);
    }
    Ok(())
}

/// From the end of a worker to the first name that the next one answers.
fn restarts(world: &World, guard: &Guard<'_>) -> Result<()> {
    let mut client = Puppet::start(world, |words| guard.agent("coder", words))?;
    let resolve = format!("resolve('{SITE}', 4)");
    let resolved = client.ask(&resolve)?;
    let first = resolved.get(0).and_then(Value::as_str);
    let first = first.context("the name is not answered")?.to_owned();
    for _ in 0..KILLS {
        let old = worker(guard).context("no worker")?;
        let pid = Pid::from_raw(old).context("no worker")?;
        let begun = Instant::now();
        kill_process(pid, Signal::KILL)?;
        // A query that it takes as it ends is lost, and asked again after seconds.
        let gone = || (!Path::new(&format!("/proc/{old}")).exists()).then_some(());
        wait_until("its end", LIMIT, gone)?;
        ensure!(
            client.ask(&resolve)? == json!([first]),
            "another address is answered"
        );
        let time = begun.elapsed().as_secs_f64() * 1e3;
        sample("worker-restart", "agentguard", "first_name", "ms", time);
        wait_until("another worker", LIMIT, || {
            worker(guard).filter(|new| *new != old)
        })?;
    }
    Ok(())
}

fn worker(guard: &Guard<'_>) -> Option<i32> {
    let status = guard.cli().args(["status", "-o", "json"]).run().ok()?;
    let status: Value = serde_json::from_str(&status.stdout).ok()?;
    i32::try_from(status.get("worker_pid")?.as_i64()?).ok()
}
