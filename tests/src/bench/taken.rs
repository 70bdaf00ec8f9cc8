//! What the guard's processes take of the machine, as the kernel says.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Guard;

/// How often it is looked where the least of a time is wanted.
const PAUSE: Duration = Duration::from_millis(200);

/// The keeper, and the worker that it has now.
pub(super) fn processes(guard: &Guard<'_>) -> Result<[u32; 2]> {
    let status = guard.cli().args(["status", "-o", "json"]).run()?;
    let status: Value = serde_json::from_str(&status.success()?.stdout)?;
    let worker = status.get("worker_pid").and_then(Value::as_u64);
    let worker = u32::try_from(worker.context("no worker")?)?;
    Ok([guard.id()?, worker])
}

/// What a process holds that is its own and no file's, such as the program's, in KiB.
pub(super) fn anonymous(pid: u32) -> Result<f64> {
    field(pid, "RssAnon:")
}

/// What a process holds in memory, with what it has of files, in KiB.
pub(super) fn resident(pid: u32) -> Result<f64> {
    field(pid, "VmRSS:")
}

/// How many threads it has.
pub(super) fn threads(pid: u32) -> Result<f64> {
    field(pid, "Threads:")
}

/// How many descriptors it has open.
pub(super) fn descriptors(pid: u32) -> Result<f64> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(f64::from(u32::try_from(open)?))
}

/// What the files below a directory have, in KiB. One that goes away meanwhile counts nothing.
pub(super) fn disk(directory: &Path) -> Result<f64> {
    let mut kib = 0.0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            kib += disk(&entry.path())?;
        } else {
            let whole = u32::try_from(metadata.len().div_ceil(1 << 10))?;
            kib += f64::from(whole);
        }
    }
    Ok(kib)
}

/// The least of some time, or the first figure that is at most `enough`: what is idle gives back as time goes by.
pub(super) fn least(
    during: Duration,
    enough: f64,
    mut look: impl FnMut() -> Result<f64>,
) -> Result<f64> {
    let until = Instant::now() + during;
    let mut least = look()?;
    while least > enough && Instant::now() < until {
        rest(Instant::now() + PAUSE);
        least = least.min(look()?);
    }
    Ok(least)
}

/// Lets time go by: what is measured is what happens in it.
pub(super) fn rest(until: Instant) {
    while let Some(left) = until.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        thread::park_timeout(left);
    }
}

fn field(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name));
    let value = value.with_context(|| format!("no {name}"))?;
    let number = value.split_whitespace().next().context("no number")?;
    Ok(number.parse()?)
}
