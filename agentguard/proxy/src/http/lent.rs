//! A stream that is lent to hyper, and can be taken back: hyper keeps 8 KB for reading and as much for writing on each
//! connection as long as it has one, whether anything is said on it or not.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is lent.
pub(super) type Wire = Box<dyn Duplex>;

/// A stream, in the clear or inside TLS.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Who has lent a stream. It closes with who has it.
pub(super) struct Lender(Weak<Mutex<Lent>>);

/// The stream as hyper has it. Once it was taken back, nothing is read or written.
pub(super) struct Borrowed(Arc<Mutex<Lent>>);

struct Lent {
    wire: Option<Wire>,
    /// Whether anything was written and is not known to be on its way: hyper asks for a flush once it has given all that
    /// it had, and no sooner.
    unwritten: bool,
}

/// Lends a stream.
pub(super) fn lend(wire: Wire) -> (Lender, Borrowed) {
    let lent = Arc::new(Mutex::new(Lent {
        wire: Some(wire),
        unwritten: false,
    }));
    (Lender(Arc::downgrade(&lent)), Borrowed(lent))
}

impl Lender {
    /// Takes it back, of a connection that is between two requests; unless something of the last one is still to be written.
    pub(super) fn take(&self) -> Option<Wire> {
        let lent = self.0.upgrade()?;
        let mut lent = lock(&lent);
        if lent.unwritten {
            return None;
        }
        lent.wire.take()
    }
}

impl Borrowed {
    /// Does something with the stream.
    fn with<T>(
        &self,
        work: impl FnOnce(Pin<&mut Wire>, &mut bool) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut lent = lock(&self.0);
        let Lent { wire, unwritten } = &mut *lent;
        match wire {
            Some(wire) => work(Pin::new(wire), unwritten),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

fn lock(lent: &Mutex<Lent>) -> MutexGuard<'_, Lent> {
    lent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Borrowed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|wire, _| wire.poll_read(cx, buf))
    }
}

impl AsyncWrite for Borrowed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|wire, unwritten| {
            *unwritten = true;
            wire.poll_write(cx, buf)
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|wire, unwritten| {
            *unwritten = true;
            wire.poll_write_vectored(cx, bufs)
        })
    }

    fn is_write_vectored(&self) -> bool {
        let lent = lock(&self.0);
        lent.wire.as_ref().is_some_and(|it| it.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|wire, unwritten| {
            let flushed = wire.poll_flush(cx);
            *unwritten &= !matches!(flushed, Poll::Ready(Ok(())));
            flushed
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|wire, _| wire.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::lend;

    #[tokio::test]
    async fn it_is_taken_back_once_all_is_written_and_then_nobody_else_has_it() {
        let (mut far, near) = duplex(64);
        let (lender, mut borrowed) = lend(Box::new(near));
        borrowed.write_all(b"one").await.unwrap();
        assert!(lender.take().is_none());
        borrowed.flush().await.unwrap();
        let mut wire = lender.take().unwrap();
        assert!(lender.take().is_none());
        assert!(borrowed.write(b"lost").await.is_err());
        assert!(borrowed.read(&mut [0]).await.is_err());
        wire.write_all(b" two").await.unwrap();
        drop(wire);
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"one two");

        let (mut far, near) = duplex(64);
        let (lender, borrowed) = lend(Box::new(near));
        drop(borrowed);
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
        assert!(lender.take().is_none());
    }
}
