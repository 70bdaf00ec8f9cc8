//! A steady load for long, under which the guard may not grow: requests, new connections, streams of events, queries for
//! names, and what is denied, each by an agent of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::process::Signal;
use serde_json::json;

use super::sample;
use super::scale::{SITE, all_went_well, client_of, figure, guard, open, origin, raise_files};
use super::taken::{anonymous, descriptors, disk, processes, rest, threads};
use crate::{Guard, Origin, Process, Puppet, World, address};

/// How long it goes on.
#[derive(Args, Clone, Debug)]
pub struct Soak {
    /// How many minutes
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..))]
    minutes: u32,
}

const MODEL: &str = "api.openai.com";

const RULES: &str = "
rules:
  - id: site
    match: { host: [bench.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
  - id: calls
    match: { host: [api.openai.com], port: [443], llm: { model: [\"gpt-*\"] } }
    action: allow
    handling: inspect
  - id: names
    match: { host: ['*.names.example.com'], port: [443] }
    action: allow
";

const AGENTS: [&str; 5] = ["requests", "connections", "streams", "names", "denied"];

/// The clients of which no answers are waited for.
const STREAM: &str = include_str!("../../clients/stream.py");
const STEADY: &str = include_str!("../../clients/steady.py");

/// How many names are asked for.
const NAMES: usize = 50;

/// From one sample to the next.
const APART: Duration = Duration::from_secs(15);

/// What is sent meanwhile: on each of some connections four requests a second, and four new connections a second.
const CONNECTIONS: usize = 20;
const REQUESTS: &str = "pace 4 14";
const DIALS: &str = "dial 56 14";

/// How much keeper and worker each may hold more at the end than after the first quarter, in KiB, and how many descriptors
/// more they may have open. Of the samples after the first quarter the median of the first third is compared with that of
/// the last third.
const MEMORY: f64 = 16.0 * 1024.0;
const DESCRIPTORS: f64 = 32.0;

/// How long the origin may take to end.
const LIMIT: Duration = Duration::from_secs(20);

/// Goes on for so long, and prints each sample.
///
/// # Errors
/// Keeper or worker hold more than they may, a worker has ended, or a client came to another end than it should have.
pub fn soak(asked: &Soak) -> Result<()> {
    raise_files()?;
    let machine = Origin::at(&address::origin(0x10)).leave(443).site(SITE);
    let world = World::new("soak")
        .origin(machine)
        .origin(Origin::at(&address::origin(0x11)).site(MODEL))
        .zone(|zone| {
            let addresses = address::origin(0x10);
            (0..NAMES).fold(zone, |zone, number| {
                zone.address(&format!("name-{number}.names.example.com"), &addresses)
            })
        })
        .start()?;
    let mut origin = origin(&world)?;
    let went = load(&world, Duration::from_secs(60) * asked.minutes);
    origin.signal(Signal::TERM)?;
    origin.wait(LIMIT)?;
    went
}

fn load(world: &World, during: Duration) -> Result<()> {
    let upstreams = json!([{ "host": [SITE, MODEL], "ca": world.ca_file() }]);
    let guard = guard(world, AGENTS.map(str::to_owned), RULES);
    let guard = guard.setting("upstreams", upstreams).start()?;
    let client = |agent| {
        let run = ["run", "--agent", agent, "--"];
        client_of(world, SITE, &[], |words| guard.cli().args(run).args(words))
    };
    let python = |agent, script, words: &[&str]| {
        let run = ["run", "--agent", agent, "--", "python3", "-c", script];
        guard.cli().args(run).args(words).spawn()
    };
    let mut load = Load {
        guard: &guard,
        requests: client("requests")?,
        connections: client("connections")?,
        others: [
            python("streams", STREAM, &[MODEL, MODEL, "443", "1000000"])?,
            python("names", STEADY, &["names", SITE])?,
            python("denied", STEADY, &["denied", SITE])?,
        ],
    };
    open(&mut load.requests, CONNECTIONS)?;
    let began = Instant::now();
    let processes = processes(&guard)?;
    let mut taken = Vec::new();
    while began.elapsed() < during {
        taken.push(load.interval(processes)?);
    }
    judge(&taken)
}

/// What was taken at one moment, of keeper and worker.
#[derive(Clone, Copy)]
struct Taken {
    memory: [f64; 2],
    descriptors: [f64; 2],
}

struct Load<'w> {
    guard: &'w Guard<'w>,
    requests: Puppet,
    connections: Puppet,
    others: [Process; 3],
}

impl Load<'_> {
    /// Has clients send for a while, and looks.
    fn interval(&mut self, of: [u32; 2]) -> Result<Taken> {
        let next = Instant::now() + APART;
        self.requests.begin(REQUESTS)?;
        self.connections.begin(DIALS)?;
        let requests = all_went_well(self.requests.answer(REQUESTS)?)?;
        let connections = all_went_well(self.connections.answer(DIALS)?)?;
        for other in &mut self.others {
            if other.ended()?.is_some() {
                bail!("a client ended: {}", other.stderr());
            }
        }
        let now = processes(self.guard)?;
        ensure!(now == of, "another worker: {now:?} after {of:?}");
        let told =
            |metric: &str, unit: &str, value| sample("soak", "agentguard", metric, unit, value);
        told("request_p99", "us", figure(&requests, "p99")?);
        told("connection_p99", "us", figure(&connections, "p99")?);
        told(
            "record",
            "kib",
            disk(&self.guard.state_dir().join("record"))?,
        );
        let taken = Taken {
            memory: both(of, anonymous)?,
            descriptors: both(of, descriptors)?,
        };
        let threads = both(of, threads)?;
        for (metric, unit, [keeper, worker]) in [
            ("memory", "kib", taken.memory),
            ("descriptors", "count", taken.descriptors),
            ("threads", "count", threads),
        ] {
            told(&format!("keeper_{metric}"), unit, keeper);
            told(&format!("worker_{metric}"), unit, worker);
        }
        rest(next);
        Ok(taken)
    }
}

fn both(of: [u32; 2], figure: impl Fn(u32) -> Result<f64>) -> Result<[f64; 2]> {
    let [keeper, worker] = of;
    Ok([figure(keeper)?, figure(worker)?])
}

/// Whether keeper and worker have grown.
fn judge(taken: &[Taken]) -> Result<()> {
    let after = taken.get(taken.len() / 4..).unwrap_or_default();
    let third = after.len() / 3;
    let begin = after.get(..third).unwrap_or_default();
    let end = after.get(after.len() - third..).unwrap_or_default();
    for (place, process) in ["keeper", "worker"].into_iter().enumerate() {
        type Figure = fn(&Taken) -> &[f64; 2];
        let figures: [(&str, f64, Figure); 2] = [
            ("KiB of memory", MEMORY, |taken| &taken.memory),
            ("descriptors", DESCRIPTORS, |taken| &taken.descriptors),
        ];
        for (what, most, of) in figures {
            let of = |taken: &Taken| of(taken).get(place).copied().unwrap_or_default();
            let (first, last) = (median(begin, of)?, median(end, of)?);
            ensure!(
                last - first <= most,
                "the {process} has grown from {first} to {last} {what}"
            );
            eprintln!("soak: the {process} had {first} {what}, and at the end {last}");
        }
    }
    Ok(())
}

fn median(taken: &[Taken], of: impl Fn(&Taken) -> f64) -> Result<f64> {
    let mut values: Vec<f64> = taken.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("no samples")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growing(by: f64) -> Vec<Taken> {
        let taken = |number: u32| Taken {
            memory: [1_000.0, 50_000.0 + by * f64::from(number)],
            descriptors: [20.0, 100.0],
        };
        (0..40).map(taken).collect()
    }

    #[test]
    fn growth_after_the_first_quarter_is_an_error_and_before_it_is_none() {
        assert!(judge(&growing(0.0)).is_ok());
        let error = judge(&growing(1_000.0)).unwrap_err();
        assert!(
            error.to_string().starts_with("the worker has grown from "),
            "{error}"
        );
        let mut early = growing(0.0);
        for taken in early.iter_mut().take(9) {
            taken.memory = [1_000.0, 9_000.0];
        }
        assert!(judge(&early).is_ok());
    }
}
