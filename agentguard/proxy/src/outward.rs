//! A connection to an upstream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::carried::One;
use crate::relay;

/// One that belongs to an agent, and ends when that is quarantined, whoever holds it: the task that
/// drives it finds an error. What it has taken and not sent yet goes with it.
#[derive(Debug)]
pub(crate) struct Outward {
    stream: TcpStream,
    cut: CancellationToken,
    waits: Pin<Box<WaitForCancellationFutureOwned>>,
    // Dropped when the stream is closed.
    _one: One,
}

impl Outward {
    /// `cut`: cancelled when the agent is quarantined.
    pub(crate) fn new(stream: TcpStream, cut: CancellationToken, one: One) -> Self {
        Self {
            stream,
            waits: Box::pin(cut.clone().cancelled_owned()),
            cut,
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
        match self.waits.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the agent is quarantined",
            )),
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for Outward {
    fn drop(&mut self) {
        // An orderly close would send what waits in the kernel.
        if self.cut.is_cancelled() {
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
        self.is_cut(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
