//! Accepting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agentguard_decision::{Decider, Recorder};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{self, Guard};
use crate::fair::Fair;
use crate::relay::reset;
use crate::seats::{Entry, Seats};
use crate::woken::OnceWoken;
use crate::{Port, Shared};

/// How long to wait after the system refused to accept, for want of descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the connections that come in at `listener`, which stands in network namespace `netns`.
///
/// When `shutdown` is cancelled, it stops accepting, lets idle HTTP connections go, and returns once
/// every connection is over, at the latest after [`Limits::drain`].
///
/// # Cancel safety
/// Dropping the future stops accepting; connections that were accepted go on.
pub async fn serve<R: Recorder, P: Port>(
    listener: TcpListener,
    netns: u64,
    decider: Decider<R>,
    port: Arc<P>,
    shared: Arc<Shared<R>>,
    shutdown: CancellationToken,
) {
    let limits = shared.limits.clone();
    let seats = Seats::new(&limits);
    let drain = limits.drain;
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let guard = Arc::new(Guard {
        decider: Arc::new(decider),
        port,
        tls: Arc::clone(&shared.tls),
        pool: Arc::clone(&shared.pool),
        health: Arc::clone(&shared.health),
        decoders: Arc::clone(&shared.decoders),
        carried: Arc::clone(&shared.carried),
        sessions: Arc::clone(&shared.sessions),
        streams: Arc::clone(&shared.streams),
        limits,
        seats,
        shutdown: shutdown.clone(),
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let Some((stream, peer)) = accepted else {
            continue;
        };
        let origin = guard.port.origin(netns, peer);
        let entry = guard
            .seats
            .enter(origin.as_ref().map(|origin| &origin.client));
        let guard = Arc::clone(&guard);
        let cut = cut.clone();
        match (entry, origin) {
            (Entry::Seat(seat), Some(origin)) => {
                let agent = origin.client.agent;
                let quarantined = guard.decider.directory().cut_of(agent).now;
                let cuts = [quarantined, cut.clone()];
                let (carries, counted) = shared.loops.least_busy();
                let carried = async move {
                    let _counted = counted;
                    // From the reactor that accepted it to the one that carries it.
                    let stream = match stream.into_std().and_then(TcpStream::from_std) {
                        Ok(stream) => stream,
                        Err(error) => return connection::lost(&guard, &origin, &error).await,
                    };
                    tokio::select! {
                        () = connection::run(guard, stream, origin, seat) => {}
                        () = OnceWoken::new(cut.cancelled()) => {}
                    }
                };
                let carried = Fair::new(agent, Some(cuts), carried);
                connections.spawn_on(carried, carries);
            }
            (Entry::Refusal(place), origin) => {
                connections.spawn(async move {
                    tokio::select! {
                        () = connection::refuse(guard, stream, peer, origin, place) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
            (Entry::Seat(_), None) | (Entry::Missed, _) => reset(stream),
        }
    }
    drop(listener);
    connections.close();
    if timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "connections are cut after {drain:?}"
        );
        cut.cancel();
        connections.wait().await;
    }
    let unrecorded = guard.seats.unrecorded();
    if unrecorded > 0 {
        tracing::warn!(
            unrecorded,
            "connections were refused and are not in the record"
        );
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        // The client was gone first (accept(2), "Error handling").
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => None,
        Err(error) => {
            tracing::error!(%error, "a connection cannot be accepted");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
