//! Opening connections to upstreams.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::Limits;

/// Probes begin after this much silence, since spliced connections may idle for ever.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often an unanswered probe is repeated.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// Opens a connection to the first address that answers, and says which that is. Each next address is tried beside the
/// others after a while, or at once when one fails (RFC 8305, 5).
///
/// # Errors
/// What each address answered, in one sentence.
pub(crate) async fn dial(
    addresses: &[SocketAddr],
    limits: &Limits,
) -> Result<(TcpStream, SocketAddr), String> {
    let mut waiting = addresses.iter().take(limits.dial_addresses);
    let mut attempts = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        match waiting.next() {
            Some(address) => attempts.push(attempt(*address, limits.dial_attempt)),
            None if attempts.is_empty() => break,
            None => {}
        }
        let next_is_due = async {
            if waiting.len() == 0 {
                std::future::pending::<()>().await;
            } else {
                sleep(limits.dial_stagger).await;
            }
        };
        tokio::select! {
            Some(attempted) = attempts.next() => match attempted {
                Ok(connected) => return Ok(connected),
                Err(failure) => failures.push(failure),
            },
            () = next_is_due => {}
        }
    }
    if failures.is_empty() {
        failures.push("it has no address".to_owned());
    }
    Err(failures.join("; "))
}

async fn attempt(address: SocketAddr, bound: Duration) -> Result<(TcpStream, SocketAddr), String> {
    match timeout(bound, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            tune(&stream).map_err(|error| format!("{address}: {error}"))?;
            Ok((stream, address))
        }
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address}: no answer in {bound:?}")),
    }
}

/// Sets what both legs need: no delay of small writes, and probes of silent peers.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
