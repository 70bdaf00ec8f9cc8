//! A connection to an upstream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use agentguard_decision::Cut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::carried::One;
use crate::relay;
use crate::woken::OnceWoken;

/// One that belongs to an agent, and ends when that is quarantined, whoever holds it: the task that
/// drives it finds an error. What it has taken and not sent yet goes with it.
#[derive(Debug)]
pub(crate) struct Outward {
    stream: TcpStream,
    /// Cancelled before it ends: from then on a close is a reset.
    quarantined: CancellationToken,
    waits: Pin<Box<OnceWoken<WaitForCancellationFutureOwned>>>,
    /// Whether that is over: from then on nothing is read or written.
    cut: bool,
    // Dropped when the stream is closed.
    _one: One,
}

impl Outward {
    /// `cut`: the agent's.
    pub(crate) fn new(stream: TcpStream, cut: Cut, one: One) -> Self {
        Self {
            stream,
            waits: Box::pin(OnceWoken::new(cut.now.cancelled_owned())),
            cut: false,
            quarantined: cut.quarantined,
            _one: one,
        }
    }

    /// Both directions. They do not notice a quarantine: whoever uses them waits for it.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        self.stream.split()
    }

    /// Waits for bytes and looks at them; they stay.
    pub(crate) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.peek(buffer).await
    }

    /// Closes it so that the upstream sees a reset.
    pub(crate) fn reset(self) {
        relay::abort(&self.stream);
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.cut = self.cut || self.waits.as_mut().poll(cx).is_ready();
        match self.cut {
            true => Err(quarantined()),
            false => Ok(()),
        }
    }
}

fn quarantined() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the agent is quarantined")
}

impl Drop for Outward {
    fn drop(&mut self) {
        // An orderly close would send what waits in the kernel. Who ends because the decision says so does
        // not wait for the rest to end.
        if self.quarantined.is_cancelled() {
            relay::abort(&self.stream);
        }
    }
}

impl AsyncRead for Outward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_cut(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Outward {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_cut(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As when it is dropped, and sooner than the rest: whoever ends in good order because the decision says
        // so would have the kernel send what waits there.
        if self.quarantined.is_cancelled() {
            return Poll::Ready(Err(quarantined()));
        }
        self.is_cut(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Arc;

    use agentguard_decision::Cut;
    use agentguard_model::AgentId;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::Outward;
    use crate::carried::Carried;

    /// A connection, and its other end.
    async fn outward(cut: Cut) -> (Outward, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap());
        let (stream, accepted) = tokio::join!(stream, listener.accept());
        let one = Arc::new(Carried::default()).one(AgentId(1));
        let outward = Outward::new(stream.unwrap(), cut, one);
        (outward, accepted.unwrap().0)
    }

    /// Whoever asks, and however often.
    #[tokio::test]
    async fn nothing_is_read_or_written_once_it_is_to_end() {
        let cut = Cut::default();
        let (mut outward, mut peer) = outward(cut.clone()).await;
        outward.write_all(b"before").await.unwrap();
        peer.write_all(b"answer").await.unwrap();
        cut.now.cancel();
        for _ in 0..3 {
            let read = outward.read(&mut [0; 16]).await;
            assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionAborted);
            let written = outward.write(b"behind").await;
            assert_eq!(written.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        }
        drop(outward);
        let mut came = Vec::new();
        let ended = peer.read_to_end(&mut came).await;
        assert_eq!(came, b"before", "{ended:?}");
    }

    /// Also before it is told to end: a decision may end it first.
    #[tokio::test]
    async fn what_is_closed_once_its_agent_is_quarantined_is_reset() {
        for quarantined in [false, true] {
            let cut = Cut::default();
            let (mut outward, mut peer) = outward(cut.clone()).await;
            if quarantined {
                cut.quarantined.cancel();
            }
            let ended = outward.shutdown().await;
            assert_eq!(ended.is_err(), quarantined);
            drop(outward);
            let end = peer.read(&mut [0]).await.map_err(|error| error.kind());
            let expected = match quarantined {
                true => Err(ErrorKind::ConnectionReset),
                false => Ok(0),
            };
            assert_eq!(end, expected);
        }
    }
}
