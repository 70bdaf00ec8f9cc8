//! Connections that are carried without a look inside, and turn out to speak HTTP after all.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use agentguard_protocol::first_bytes::LineReader;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::pump::Source;

/// A client's side that has begun a line, which is being carried. It breaks off where that comes to be a
/// request's.
pub(crate) struct Doubted<'a, R> {
    inner: R,
    /// None: there is no doubt any more.
    line: Option<LineReader>,
    is_request: &'a AtomicBool,
}

impl<'a, R> Doubted<'a, R> {
    /// `line` has what was read already; none: there is no doubt. Whether it was a request's is told in
    /// `is_request`.
    pub(crate) fn new(inner: R, line: Option<LineReader>, is_request: &'a AtomicBool) -> Self {
        Self {
            inner,
            line,
            is_request,
        }
    }
}

impl<R: Source> Source for Doubted<'_, R> {
    fn socket(&self) -> Option<&TcpStream> {
        match self.line {
            Some(_) => None,
            None => self.inner.socket(),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Doubted<'_, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let Some(line) = &mut this.line else {
            return Poll::Ready(Ok(()));
        };
        match line.push(buf.filled().get(before..).unwrap_or_default()) {
            None => {}
            Some(false) => this.line = None,
            Some(true) => {
                this.is_request.store(true, Ordering::Relaxed);
                buf.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}
