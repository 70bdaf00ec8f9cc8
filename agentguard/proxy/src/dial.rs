//! Opening connections to upstreams.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::Limits;
use crate::health::Health;

/// Probes begin after this much silence, since spliced connections may idle for ever.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often an unanswered probe is repeated.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// Opens a connection to the first address that answers, and says which that is. Each next address is
/// tried beside the others after a while, or at once when one fails (RFC 8305, 5). Those that failed
/// lately are tried last, and so are from now on those that were overtaken.
///
/// # Errors
/// What each address answered, in one sentence.
pub(crate) async fn dial(
    addresses: &[SocketAddr],
    limits: &Limits,
    health: &Health,
) -> Result<(TcpStream, SocketAddr), String> {
    let addresses = health.order(addresses);
    let mut waiting = addresses.into_iter().take(limits.dial_addresses);
    let mut attempts = FuturesUnordered::new();
    let mut begun = Vec::new();
    let mut failures = Vec::new();
    loop {
        match waiting.next() {
            Some(address) => {
                begun.push((address, Instant::now()));
                attempts.push(async move {
                    let attempted = attempt(address, limits.dial_attempt).await;
                    (address, attempted)
                });
            }
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
            Some((address, attempted)) = attempts.next() => {
                begun.retain(|(other, _)| *other != address);
                match attempted {
                    Ok(stream) => {
                        health.answered(address);
                        let overtaken = begun.iter().filter(|(_, at)| at.elapsed() >= limits.dial_stagger);
                        overtaken.for_each(|(slow, _)| health.failed(*slow));
                        return Ok((stream, address));
                    }
                    Err(failure) => {
                        health.failed(address);
                        failures.push(failure);
                    }
                }
            }
            () = next_is_due => {}
        }
    }
    if failures.is_empty() {
        failures.push("it has no address".to_owned());
    }
    Err(failures.join("; "))
}

async fn attempt(address: SocketAddr, bound: Duration) -> Result<TcpStream, String> {
    match timeout(bound, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            tune(&stream).map_err(|error| format!("{address}: {error}"))?;
            Ok(stream)
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::dial;
    use crate::Limits;
    use crate::health::Health;
    use crate::tests::silent;

    fn limits(stagger: Duration) -> Limits {
        Limits {
            dial_stagger: stagger,
            ..Limits::default()
        }
    }

    #[tokio::test]
    async fn an_address_that_was_overtaken_is_not_waited_for_again() {
        let (dead, _hold) = silent().await;
        let living = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [dead, living.local_addr().unwrap()];
        let limits = [Duration::from_millis(20), Duration::from_secs(3600)].map(limits);
        let health = Health::new(limits[0].ill);
        for limits in limits {
            let dialled = dial(&addresses, &limits, &health);
            let dialled = timeout(Duration::from_secs(10), dialled).await;
            let (_, peer) = dialled.expect("the dead one is waited for").unwrap();
            assert_eq!(peer, addresses[1]);
        }
    }

    #[tokio::test]
    async fn those_that_all_failed_are_tried_all_the_same() {
        let listener = TcpListener::bind("127.0.0.77:0").await.unwrap();
        let gone = listener.local_addr().unwrap();
        drop(listener);
        let other = SocketAddr::from(([127, 0, 0, 78], gone.port()));
        let limits = limits(Duration::from_secs(3600));
        let health = Health::new(limits.ill);
        for _ in 0..2 {
            let told = dial(&[gone, other], &limits, &health).await.unwrap_err();
            let both = [gone, other].map(|address| told.contains(&address.to_string()));
            assert_eq!(both, [true, true], "{told}");
        }
        let back = TcpListener::bind(other).await.unwrap();
        let (_, peer) = dial(&[gone, other], &limits, &health).await.unwrap();
        assert_eq!(peer, back.local_addr().unwrap());
        assert_eq!(health.order(&[gone, other]), [other, gone]);
    }
}
