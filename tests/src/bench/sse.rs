//! What inspection adds to a stream of events that a model answers with, beside HAProxy, which ends TLS on both sides
//! too and reads nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::sample;
use crate::{Guard, Origin, Process, World, address, wait_until};

const SITE: &str = "api.openai.com";

/// The call is read, and so is each event of its answer.
const POLICY: &str = "
version: 1
agents: [{ name: coder }]
rules:
  - id: calls
    match: { host: [api.openai.com], port: [443], llm: { model: [\"gpt-*\"] } }
    action: allow
    handling: inspect
";

/// The client.
const STREAM: &str = include_str!("../../clients/stream.py");

/// How often each is measured, each taking its turn at being first.
const ROUNDS: usize = 9;

/// How many streams a client opens in a round.
const STREAMS: usize = 40;
/// How many events one has.
const EVENTS: usize = 5;

/// Where HAProxy listens, on the host's loopback.
const PORT: &str = "8443";

/// How long one client may take.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
enum Way {
    Direct,
    Haproxy,
    Guard,
}

/// Medians of one client's streams, in microseconds.
#[derive(Clone, Copy)]
struct Times {
    /// Until the address is found, of a name where the guard is in between. It is in neither of the others.
    found: f64,
    first: f64,
    event: f64,
}

/// Measures, and prints each sample.
///
/// # Errors
/// A client failed, HAProxy, or the guard.
pub fn sse() -> Result<()> {
    let world = World::new("bench")
        .origin(Origin::at(&address::origin(0x10)).site(SITE))
        .start()?;
    let upstreams = json!([{ "host": [SITE], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    let guard = guard.start()?;
    let mut haproxy = haproxy(&world)?;
    let measured = rounds(&world, &guard);
    haproxy.signal(Signal::TERM)?;
    haproxy.wait(LIMIT)?;
    measured
}

fn rounds(world: &World, guard: &Guard<'_>) -> Result<()> {
    // The first calls of each fill what is kept for later ones.
    for way in [Way::Direct, Way::Haproxy, Way::Guard] {
        stream(world, guard, way)?;
    }
    for round in 0..ROUNDS {
        let mut ways = [Way::Direct, Way::Haproxy, Way::Guard];
        ways.rotate_left(round % 3);
        let (mut direct, mut through) = (None, Vec::new());
        for way in ways {
            let times = stream(world, guard, way)?;
            match way {
                Way::Direct => direct = Some(times),
                Way::Haproxy => through.push(("haproxy", times)),
                Way::Guard => {
                    sample("sse", "agentguard", "name_found", "us", times.found);
                    through.push(("agentguard", times));
                }
            }
        }
        let direct = direct.context("no client went directly")?;
        sample("sse", "direct", "first_event", "us", direct.first);
        sample("sse", "direct", "event_delay", "us", direct.event);
        for (subject, times) in through {
            let (first, event) = (times.first - direct.first, times.event - direct.event);
            sample("sse", subject, "first_event_added", "us", first);
            sample("sse", subject, "event_delay_added", "us", event);
        }
    }
    Ok(())
}

/// What one client's streams take.
fn stream(world: &World, guard: &Guard<'_>, way: Way) -> Result<Times> {
    let origin = address::origin(0x10).map(|ip| ip.to_string());
    let [origin, _] = &origin;
    let (address, port) = match way {
        Way::Direct => (origin.as_str(), "443"),
        Way::Haproxy => ("127.0.0.1", PORT),
        Way::Guard => (SITE, "443"),
    };
    let streams = STREAMS.to_string();
    let words = ["-c", STREAM, SITE, address, port, &streams];
    let call = match way {
        Way::Guard => {
            let run = ["run", "--agent", "coder", "--", "python3"];
            guard.cli().args(run).args(words)
        }
        Way::Direct | Way::Haproxy => {
            let call = world.host().command("python3").args(words);
            let trust = world.trust().into_iter();
            trust.fold(call, |call, (name, file)| call.env(name, file))
        }
    };
    let output = call.limit(LIMIT).run()?.success()?;
    let told: Value = serde_json::from_str(&output.stdout)?;
    let figure = |name: &str| {
        let figure = told.get(name).and_then(Value::as_f64);
        figure.with_context(|| format!("no `{name}` in {told}"))
    };
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    let all = (STREAMS * EVENTS) as f64;
    ensure!(figure("events")? == all, "not all events: {told}");
    Ok(Times {
        found: figure("found")?,
        first: figure("first")?,
        event: figure("event")?,
    })
}

/// HAProxy in the host, before the same origin: it has a certificate for its name, and verifies the origin's.
fn haproxy(world: &World) -> Result<Process> {
    let directory = world.directory();
    let (certificate, key) = world.ca().certify_pem(&[SITE.to_owned()])?;
    let both = directory.join("haproxy.pem");
    fs::write(&both, certificate + &key)?;
    let [origin, _] = address::origin(0x10);
    let (both, ca) = (both.display(), world.ca_file().display());
    let configuration = format!(
        "global
    maxconn 1000
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{PORT} ssl crt {both}
    default_backend origin
backend origin
    http-reuse always
    server origin {origin}:443 ssl verify required ca-file {ca} sni str({SITE}) verifyhost {SITE}
"
    );
    let file = directory.join("haproxy.cfg");
    fs::write(&file, configuration)?;
    let mut haproxy = world.host().command("haproxy");
    haproxy = haproxy.args([Path::new("-db"), Path::new("-f"), &file]);
    let mut haproxy = haproxy.spawn()?;
    let listens = || {
        let ended = haproxy.ended().ok().flatten();
        let connect = || std::net::TcpStream::connect(format!("127.0.0.1:{PORT}"));
        let reached = world.host().enter(connect).is_ok_and(|it| it.is_ok());
        (reached || ended.is_some()).then_some(reached)
    };
    let listens = wait_until("HAProxy", Duration::from_secs(10), listens);
    ensure!(listens.unwrap_or_default(), "{}", haproxy.stderr());
    Ok(haproxy)
}
