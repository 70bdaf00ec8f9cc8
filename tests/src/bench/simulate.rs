//! What it takes to have recorded decisions taken by another policy.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::sample;
use crate::{Guard, World};

/// How many decisions are recorded: the most that `simulate` looks at.
const RECORDED: u32 = 1_000_000;
/// How often each is measured.
const ROUNDS: usize = 5;
/// How many rules the other policies have; the fewest are the baseline.
const RULES: [(u32, &str); 2] = [(10, "ten_rules"), (1_000, "agentguard")];
/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(300);

const POLICY: &str = "
version: 1
agents: [{ name: coder }]
rules:
  - { id: none, match: { host: [api.example.com] }, action: deny }
";

/// Measures, and prints each sample. `fill` makes a record of many decisions.
///
/// # Errors
/// The guard failed, or did not look at all of them.
pub fn simulate(fill: &Path) -> Result<()> {
    let world = World::new("bench").start()?;
    let mut guard = world.guard().policy(POLICY).start()?;
    guard.stop()?;
    let record = guard.state_dir().join("record");
    let filled = world.host().command(fill);
    let filled = filled.args([&record.display().to_string(), &RECORDED.to_string()]);
    filled.limit(LIMIT).run()?.success()?;
    guard.start()?;
    for (rules, _) in RULES {
        std::fs::write(guard.config().with_file_name(file(rules)), policy(rules))?;
    }
    for _ in 0..ROUNDS {
        for (rules, subject) in RULES {
            let rate = rate(&guard, rules)?;
            sample("simulate-1000000", subject, "decisions_per_s", "1/s", rate);
        }
    }
    Ok(())
}

fn file(rules: u32) -> String {
    format!("with-{rules}.yaml")
}

/// Every other rule is about requests, so that what was inside TLS is looked at.
fn policy(rules: u32) -> String {
    let mut text = "version: 1\nagents: [{name: coder}]\nrules:\n".to_owned();
    for n in 0..rules {
        let more = if n % 2 == 0 {
            ", method: [GET]}, handling: inspect"
        } else {
            "}"
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  - {{id: r{n}, match: {{host: [h{n}.example], port: [443]{more}, action: allow}}"
        );
    }
    text
}

/// How many decisions a second are replayed.
fn rate(guard: &Guard<'_>, rules: u32) -> Result<f64> {
    let policy = guard.config().with_file_name(file(rules));
    let policy = policy.to_str().context("a strange path")?;
    let begun = Instant::now();
    let command = guard.cli().limit(LIMIT);
    let command = command.args(["policy", "simulate", "--policy", policy]);
    let output = command.args(["--since", "2h", "-o", "json"]).run()?;
    let taken = begun.elapsed().as_secs_f64();
    let told: Value = serde_json::from_str(&output.success()?.stdout)?;
    let decisions = told.get("decisions").and_then(Value::as_u64);
    ensure!(
        decisions >= Some(u64::from(RECORDED)),
        "{decisions:?} of {RECORDED} were looked at"
    );
    Ok(f64::from(RECORDED) / taken)
}
