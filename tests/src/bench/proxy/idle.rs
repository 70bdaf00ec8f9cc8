//! What an idle inspected connection keeps in memory, beside one through HAProxy; and the client that holds them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::fresh::answered;
use super::peers::{Peer, Peers};
use super::{FEW, SITE, Subject, guard};
use crate::bench::reach::{Reach, To};
use crate::bench::sample;
use crate::bench::taken::{anonymous, processes};
use crate::{Guard, Invocation, World, wait_until};

/// Its name among the cases.
pub(super) const CASE: &str = "idle-connection";

/// How many connections are idle.
const MANY: usize = 1_000;

/// How many there are once before, so that what the first ones bring with them is not in the figure.
const FIRST: usize = 32;

/// How long all of them may take to be open, or to end.
const LIMIT: Duration = Duration::from_secs(60);

/// How long memory has to be the same, and what is waited for that at most. A guard has connections rest after a second, and
/// gives back what they had within five.
const REST: Duration = Duration::from_secs(8);
const RESTLESS: Duration = Duration::from_secs(30);

/// How long the client holds connections where nobody ends it.
const HELD: Duration = Duration::from_secs(120);

/// How many connections the client opens at once.
const AT_ONCE: usize = 32;

/// Measures, and prints each sample: of a guard and a HAProxy just started each time, since what a process has once taken
/// it uses again.
pub(super) fn measure(
    world: &World,
    peers: &mut Peers,
    rounds: usize,
    subjects: &[Subject],
) -> Result<()> {
    for _ in 0..rounds.min(FEW) {
        for subject in subjects {
            let bytes = match subject {
                Subject::Guard => {
                    let guard = guard(world, super::FEW_RULES)?;
                    let [_, pid] = processes(&guard)?;
                    held_by(world, Some(&guard), pid)?
                }
                Subject::Peer(Peer::Haproxy) => {
                    peers.restart_haproxy(world)?;
                    let pids = peers.pids(Peer::Haproxy)?;
                    held_by(world, None, *pids.first().context("no HAProxy")?)?
                }
                other => bail!("idle connections through {} are not measured", other.name()),
            };
            let each = bytes / MANY as f64;
            sample(CASE, subject.name(), "memory_per_connection", "bytes", each);
        }
    }
    Ok(())
}

/// How many bytes a process has more, of its own and no file's, while all connections are idle.
fn held_by(world: &World, guard: Option<&Guard<'_>>, pid: u32) -> Result<f64> {
    hold(world, guard, FIRST, || Ok(()))?;
    let before = at_rest(pid)?;
    let after = hold(world, guard, MANY, || at_rest(pid))?;
    Ok((after - before) * 1024.0)
}

/// Does something while so many connections are idle, all of which have to be there still behind it.
fn hold<T>(
    world: &World,
    guard: Option<&Guard<'_>>,
    connections: usize,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let own = std::env::current_exe()?.display().to_string();
    let connections = connections.to_string();
    let words = [&own, "bench-idle", SITE, "/1k", &connections];
    let client: Invocation<'_> = match guard {
        Some(guard) => guard
            .cli()
            .args(["run", "--agent", "coder", "--"])
            .args(words),
        None => {
            let (program, arguments) = words.split_first().context("no program")?;
            let client = world.host().command(program).args(arguments);
            let client = client.arg("--ca").arg(world.ca_file());
            client.args(["--to", Peer::Haproxy.address()])
        }
    };
    let mut client = client.spawn()?;
    let open = || {
        let ended = client.ended().ok().flatten().is_some();
        let open = client.stdout().contains("idle\n");
        (open || ended).then_some(open && !ended)
    };
    let open = wait_until("idle connections", LIMIT, open);
    let open = open.with_context(|| client.stderr())?;
    ensure!(open, "the client ended: {}", client.stderr());
    let done = work()?;
    ensure!(
        client.ended()?.is_none() && client.stderr().is_empty(),
        "not all stayed open: {}",
        client.stderr()
    );
    client.signal(Signal::TERM)?;
    client.wait(LIMIT)?;
    Ok(done)
}

/// What a process holds, in KiB, once that does not change.
fn at_rest(pid: u32) -> Result<f64> {
    let began = Instant::now();
    let (mut kib, mut since) = (anonymous(pid)?, Instant::now());
    wait_until("memory at rest", RESTLESS + REST, || {
        let now = match anonymous(pid) {
            Ok(now) => now,
            Err(error) => return Some(Err(error)),
        };
        if now != kib {
            (kib, since) = (now, Instant::now());
        }
        let rests = since.elapsed() >= REST || began.elapsed() >= RESTLESS;
        rests.then_some(Ok(kib))
    })?
}

/// What the client holds.
#[derive(Clone, Debug, Args)]
pub struct Idle {
    #[command(flatten)]
    to: To,
    /// The path that each connection asks for once
    path: String,
    /// How many connections
    connections: usize,
}

/// Opens connections, sends a request on each, says `idle` and holds them until it is ended.
///
/// # Errors
/// One was not answered with 200, or was closed, or nobody ended it.
pub fn idle(asked: &Idle) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let reach = asked.to.reach().await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n\r\n",
            asked.path, asked.to.site
        );
        let open = (0..asked.connections).map(|_| opened(&reach, &request));
        let open = futures_util::stream::iter(open).buffer_unordered(AT_ONCE);
        let open: Vec<_> = open.try_collect().await?;
        println!("idle");
        let closed = open.into_iter().map(|mut stream| {
            Box::pin(async move {
                let read = stream.read(&mut [0]).await;
                anyhow::Error::msg(format!("a connection did not stay idle: {read:?}"))
            })
        });
        let closed = futures_util::future::select_all(closed);
        match tokio::time::timeout(HELD, closed).await {
            Ok((error, ..)) => Err(error),
            Err(_) => bail!("nobody ended this within {HELD:?}"),
        }
    })
}

/// A connection on which a request was answered.
async fn opened(reach: &Reach, request: &str) -> Result<TlsStream<TcpStream>> {
    let mut stream = reach.connect().await?;
    answered(&mut stream, request).await?;
    Ok(stream)
}
