//! Bytes in both directions, untouched.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use agentguard_decision::{Decided, Held, Recorder, Way};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use crate::account::Account;
use crate::outward::Outward;
use crate::passing::{Metered, room};
use crate::pump::{Ended, Sink, Source, pump};
use crate::replay::Replay;

/// How long a peer may take what is before a reset.
const TAKES: Duration = Duration::from_millis(500);

/// When it is looked first whether it has, and how much later the next time at most: each time is twice the last.
const LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(32);

/// How the exchange ended, and with it what each side must see.
#[derive(Debug)]
pub(crate) struct Over {
    /// The client must see a reset, because the upstream was reset.
    pub(crate) reset_client: bool,
    /// The upstream must see a reset, because the client was reset.
    pub(crate) reset_upstream: bool,
    /// What went wrong, if something did.
    pub(crate) error: Option<String>,
}

impl Over {
    /// The policy does not allow it any more.
    pub(crate) fn revoked(denied: &Decided) -> Self {
        Self {
            reset_client: true,
            reset_upstream: true,
            error: Some(revoked(denied)),
        }
    }
}

impl Over {
    /// Ends both sides as it says.
    pub(crate) fn end<R: Recorder>(
        self,
        account: &Account<R>,
        client: impl ClientStream,
        upstream: Option<Outward>,
    ) {
        if let Some(error) = self.error {
            account.fail(error);
        }
        if self.reset_client {
            client.reset();
        }
        if let Some(upstream) = upstream.filter(|_| self.reset_upstream) {
            upstream.reset();
        }
    }
}

/// What an outcome says of an action that a later decision ended.
pub(crate) fn revoked(denied: &Decided) -> String {
    match denied.id {
        Some(id) => format!("ended by decision {id}: {}", denied.reason.message),
        None => format!("ended: {}", denied.reason.message),
    }
}

/// What the relay counts.
pub(crate) struct Counts<'a> {
    /// Bytes to the upstream.
    pub(crate) sent: &'a AtomicU64,
    /// Bytes to the client.
    pub(crate) received: &'a AtomicU64,
    /// What it holds of budgets, which may count bytes.
    pub(crate) held: Option<&'a Held>,
}

/// Carries both directions until both are done. Each holds one buffer of `buffer` bytes and reads no further while it
/// cannot write.
pub(crate) async fn relay(
    client: (impl Source, impl Sink),
    upstream: (impl Source, impl Sink),
    replay: &[u8],
    buffer: usize,
    counts: Counts<'_>,
) -> Over {
    let [grant_out, grant_in] = [Way::Out, Way::In].map(|way| counts.held?.grant(way));
    let from_client = Metered::new(client.0, grant_out);
    let from_server = Metered::new(upstream.0, grant_in);
    let up = async {
        room(grant_out, replay).await;
        pump(from_client, upstream.1, replay, buffer, counts.sent).await
    };
    let down = pump(from_server, client.1, &[], buffer, counts.received);
    let Ok(over) = both::<Infallible>(async { Ok(up.await) }, async { Ok(down.await) }).await;
    over
}

/// Waits until both directions are done, or one says why they are over.
///
/// An end of stream is passed on alone: the other direction goes on (RFC 9293, 3.6). When one side
/// turns out gone while it is read, the exchange is over. When it turns out gone while it is
/// written to, what it had sent before is still carried: a client that sends, closes and leaves has
/// its bytes delivered.
pub(crate) async fn both<E>(
    up: impl Future<Output = Result<Ended, E>>,
    down: impl Future<Output = Result<Ended, E>>,
) -> Result<Over, E> {
    tokio::pin!(up, down);
    let (mut up_ended, mut down_ended) = (None, None);
    loop {
        tokio::select! {
            ended = &mut up, if up_ended.is_none() => {
                let ended = ended?;
                if let Ended::ReadFailed(error) = ended {
                    return Ok(Over {
                        reset_client: false,
                        reset_upstream: true,
                        error: Some(format!("the client is gone: {error}")),
                    });
                }
                up_ended = Some(ended);
            }
            ended = &mut down, if down_ended.is_none() => {
                let ended = ended?;
                if let Ended::ReadFailed(error) = ended {
                    return Ok(Over {
                        reset_client: true,
                        reset_upstream: false,
                        error: Some(format!("the upstream is gone: {error}")),
                    });
                }
                down_ended = Some(ended);
            }
            else => break,
        }
    }
    // A write that finds a reset takes the error with it, and the next read finds a mere end.
    let reset = |ended: &Option<Ended>| match ended {
        Some(Ended::WriteFailed(error)) => error.kind() == io::ErrorKind::ConnectionReset,
        _ => false,
    };
    let told = |ended: &Option<Ended>, who: &str| match ended {
        Some(Ended::WriteFailed(error)) => Some(format!("the {who} is gone: {error}")),
        _ => None,
    };
    Ok(Over {
        reset_client: reset(&up_ended),
        reset_upstream: reset(&down_ended) && !matches!(up_ended, Some(Ended::Finished)),
        error: told(&up_ended, "upstream").or_else(|| told(&down_ended, "client")),
    })
}

/// A client's end of a connection, in the clear or inside TLS.
pub(crate) trait ClientStream:
    AsyncRead + AsyncWrite + Send + Sized + Unpin + 'static
{
    /// What it runs over. What was not read of it or not written to it yet is gone.
    fn into_tcp(self) -> TcpStream;

    /// Closes it so that the client sees a reset (RFC 9293, 3.10.4: abort).
    fn reset(self) {
        reset(self.into_tcp());
    }
}

impl ClientStream for TcpStream {
    fn into_tcp(self) -> TcpStream {
        self
    }
}

impl ClientStream for Replay {
    fn into_tcp(self) -> TcpStream {
        self.into_inner()
    }
}

/// In a place of its own: it is large, and goes from hand to hand.
impl ClientStream for Box<TlsStream<Replay>> {
    fn into_tcp(self) -> TcpStream {
        self.into_inner().0.into_inner()
    }
}

/// Closes a connection so that its peer sees a reset (RFC 9293, 3.10.4: abort).
pub(crate) fn reset(stream: TcpStream) {
    abort(&stream);
    drop(stream);
}

/// As [`reset`], behind what was written before: that was allowed, and a budget may have paid for it. A reset by itself
/// would drop what waits in the kernel. A peer that does not take it is waited for no longer than [`TAKES`].
///
/// # Cancel safety
/// Dropping the future resets at once.
pub(crate) async fn reset_behind(stream: TcpStream) {
    abort(&stream);
    // A socket of which more than that waits is not writable then (tcp(7)).
    if SockRef::from(&stream).set_tcp_notsent_lowat(1).is_ok() {
        let taken = async {
            let mut look = LOOK;
            while !is_writable(&stream) {
                sleep(look).await;
                look = LAST_LOOK.min(look * 2);
            }
        };
        if timeout(TAKES, taken).await.is_err() {
            tracing::debug!("the client does not take what is before a reset");
        }
    }
}

/// Also where that cannot be found out.
fn is_writable(stream: &TcpStream) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::OUT)];
    poll(&mut asked, Some(&Timespec::default())) != Ok(0)
}

/// When this is closed, its peer sees a reset, and what waits to be sent is dropped.
pub(crate) fn abort(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection is closed instead of reset");
    }
}

/// Says goodbye with `bytes` and reads on for a moment: closing with unread bytes would reset the
/// connection and take what was said with it. What is read is dropped; the bound is the caller's
/// time-out and [`MAX_LINGER`].
pub(crate) async fn part(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) {
    let said = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut left = MAX_LINGER;
        let mut scratch = [0; 4096];
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    if let Err(error) = said.await {
        tracing::debug!(%error, "the client left before its refusal");
    }
}

/// The most bytes that are read and dropped after a refusal. Then the connection is closed. Clients
/// such as Python's send a whole body before they read: this is more than LLM APIs take in a request.
pub(crate) const MAX_LINGER: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{sleep, timeout};

    use super::{Counts, LOOK, TAKES, relay, reset, reset_behind};

    /// A connection of which one side has written what the kernel takes, and how much; and the other side.
    async fn filled() -> (TcpStream, usize, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.unwrap();
        let mut written = 0;
        loop {
            stream.writable().await.unwrap();
            match stream.try_write(&[7; 65_536]) {
                Ok(more) => written += more,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return (stream, written, peer.unwrap());
                }
            }
        }
    }

    /// Reads to the end, which is a reset, from a moment later on; how much came.
    async fn read(mut peer: TcpStream) -> usize {
        sleep(LOOK * 20).await;
        let mut came = Vec::new();
        let ended = peer.read_to_end(&mut came).await.unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
        came.len()
    }

    #[tokio::test]
    async fn what_was_written_is_taken_before_a_reset() {
        let (stream, written, peer) = filled().await;
        let reads = tokio::spawn(read(peer));
        reset(stream);
        assert!(reads.await.unwrap() < written);

        let (stream, written, peer) = filled().await;
        let reads = tokio::spawn(read(peer));
        reset_behind(stream).await;
        assert_eq!(reads.await.unwrap(), written);

        // Who takes nothing is reset all the same.
        let (stream, written, peer) = filled().await;
        let begun = Instant::now();
        reset_behind(stream).await;
        assert!(begun.elapsed() >= TAKES);
        assert!(read(peer).await < written);

        // And where nobody waits for it any more.
        let (stream, written, peer) = filled().await;
        assert!(timeout(LOOK, reset_behind(stream)).await.is_err());
        assert!(read(peer).await < written);
    }

    #[tokio::test]
    async fn a_slow_reader_stops_the_writer_and_memory_stays_bounded() {
        const PIPE: usize = 1024;
        const BUFFER: usize = 4096;
        let (mut client, client_side) = duplex(PIPE);
        let (mut upstream, upstream_side) = duplex(PIPE);
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let counts = Counts {
            sent: &sent,
            received: &received,
            held: None,
        };
        let relayed = relay(
            split(client_side),
            split(upstream_side),
            b"first ",
            BUFFER,
            counts,
        );
        tokio::pin!(relayed);
        // Nobody reads at the upstream: what fits in between is taken, and no more.
        let mut accepted = 0;
        loop {
            let idle = async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                _ = &mut relayed => panic!("the relay ended"),
                written = client.write(&[7; 512]) => accepted += written.unwrap(),
                () = idle => break,
            }
            assert!(accepted <= 2 * PIPE + BUFFER, "nothing stops the client");
        }
        assert!(accepted >= PIPE);
        // Once it is read, everything arrives, in order.
        let reading = async {
            client.shutdown().await.unwrap();
            let mut all = Vec::new();
            upstream.read_to_end(&mut all).await.unwrap();
            upstream.shutdown().await.unwrap();
            all
        };
        let (over, all) = tokio::join!(relayed, reading);
        assert!(all.starts_with(b"first \x07"));
        assert!(over.error.is_none());
        assert_eq!(sent.load(Ordering::Relaxed), all.len() as u64);
    }
}
