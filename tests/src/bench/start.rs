//! From the start of the daemon until it enforces, beside that of HAProxy until it listens.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::sample;
use crate::{Guard, Invocation, Process, World, address};

/// How often each is started, each taking its turn at being first.
const ROUNDS: usize = 10;

/// How long one may take to start or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// How long a port or a process is left alone between two looks.
const PAUSE: Duration = Duration::from_micros(500);

const SITE: &str = "bench.example.com";

/// Where HAProxy listens, on the host's loopback.
const PORT: u16 = 8443;

const POLICY: &str = "
version: 1
agents: [{ name: coder }]
rules:
  - id: site
    match: { host: [bench.example.com], port: [443] }
    action: allow
    handling: inspect
";

/// Who is started.
#[derive(Clone, Copy)]
enum Subject {
    /// A program that does nothing. What it takes until its end is what the world takes to start any.
    Nothing,
    Guard,
    Haproxy,
}

/// Measures, and prints each sample.
///
/// # Errors
/// HAProxy does not start, or the guard.
pub fn start() -> Result<()> {
    let world = World::new("bench").start()?;
    // The first start makes keys and files that later ones find.
    let mut guard = world.guard().policy(POLICY).start()?;
    let file = configuration(&world)?;
    haproxy(&world, &file)?;
    let mut subjects = [Subject::Nothing, Subject::Guard, Subject::Haproxy];
    for _ in 0..ROUNDS {
        subjects.rotate_left(1);
        let (mut launched, mut served) = (Duration::ZERO, Vec::new());
        for subject in subjects {
            match subject {
                Subject::Nothing => launched = nothing(&world)?,
                Subject::Guard => served.push(("agentguard", restarted(&mut guard)?)),
                Subject::Haproxy => served.push(("haproxy", haproxy(&world, &file)?)),
            }
        }
        for (subject, took) in served {
            let millis = took.saturating_sub(launched).as_secs_f64() * 1e3;
            sample("start", subject, "time_to_serve", "ms", millis);
        }
    }
    Ok(())
}

/// A start with nothing in the kernel of the run before. The daemon says that it is ready when its gate is attached and
/// its worker serves.
fn restarted(guard: &mut Guard<'_>) -> Result<Duration> {
    guard.stop()?;
    let detach = guard.cli().args(["daemon", "--detach-all"]);
    detach.run()?.success()?;
    let began = Instant::now();
    guard.start()?;
    Ok(began.elapsed())
}

/// One that ends TLS on both sides.
fn configuration(world: &World) -> Result<PathBuf> {
    let (certificate, key) = world.ca().certify_pem(&[SITE.to_owned()])?;
    let chain = world.directory().join("chain.pem");
    fs::write(&chain, certificate + &key)?;
    let [origin, _] = address::origin(0x10);
    let (chain, ca) = (chain.display(), world.ca_file().display());
    let configuration = format!(
        "global
    maxconn 4000
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{PORT} ssl crt {chain}
    default_backend origin
backend origin
    server origin {origin}:443 ssl verify required ca-file {ca} sni str({SITE}) verifyhost {SITE}
"
    );
    let file = world.directory().join("haproxy.cfg");
    fs::write(&file, configuration)?;
    Ok(file)
}

fn nothing(world: &World) -> Result<Duration> {
    let (took, process) = timed(world.host().command("true"), world, |process| {
        Ok(process.ended()?.is_some())
    })?;
    process.wait(LIMIT)?.success()?;
    Ok(took)
}

fn haproxy(world: &World, file: &Path) -> Result<Duration> {
    let command = world.host().command("haproxy");
    let command = command.args([Path::new("-db"), Path::new("-f"), file]);
    let (took, mut process) = timed(command, world, |process| {
        let ended = process.ended()?;
        ensure!(ended.is_none(), "HAProxy ended: {}", process.stderr());
        Ok(TcpStream::connect(("127.0.0.1", PORT)).is_ok())
    })?;
    process.signal(Signal::TERM)?;
    process.wait(LIMIT)?;
    Ok(took)
}

/// How long a program takes from its start until this is so, which is looked at from the host.
fn timed(
    command: Invocation<'_>,
    world: &World,
    mut so: impl FnMut(&mut Process) -> Result<bool> + Send,
) -> Result<(Duration, Process)> {
    let began = Instant::now();
    let mut process = command.spawn()?;
    let took = world.host().enter(|| {
        while !so(&mut process)? {
            ensure!(began.elapsed() < LIMIT, "not within {LIMIT:?}");
            thread::park_timeout(PAUSE);
        }
        Ok(began.elapsed())
    })??;
    Ok((took, process))
}
