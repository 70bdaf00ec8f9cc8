//! Requests of HTTP/2 that the h2 library finds malformed (RFC 9113, 8.1.1).
//!
//! They never become requests: the library resets their streams and tells nobody. What it writes says
//! so, so that is read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Streams that were reset for the client's errors, and not told yet.
#[derive(Debug, Default)]
pub(crate) struct Resets {
    seen: AtomicUsize,
    /// Those that pass on what an upstream did, and are still to be written.
    passed_on: AtomicUsize,
    noticed: Notify,
}

impl Resets {
    /// An upstream reset its stream for this reason, and the client's will be.
    pub(crate) fn pass_on(&self, reason: h2::Reason) {
        if is_fault(reason.into()) {
            self.passed_on.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for the next ones.
    pub(crate) async fn next(&self) -> usize {
        loop {
            let seen = self.take();
            if seen > 0 {
                return seen;
            }
            self.noticed.notified().await;
        }
    }

    /// Those that were not told yet.
    pub(crate) fn take(&self) -> usize {
        self.seen.swap(0, Ordering::Relaxed)
    }

    fn see(&self, code: u32) {
        let one_less = |count: usize| count.checked_sub(1);
        if !is_fault(code)
            || self
                .passed_on
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
        {
            return;
        }
        self.seen.fetch_add(1, Ordering::Relaxed);
        self.noticed.notify_one();
    }
}

/// Whether a stream is reset with this code for what its other side did.
fn is_fault(code: u32) -> bool {
    use h2::Reason;
    [
        Reason::PROTOCOL_ERROR,
        Reason::FLOW_CONTROL_ERROR,
        Reason::FRAME_SIZE_ERROR,
    ]
    .contains(&Reason::from(code))
}

/// The client's side, with an eye on the frames that are written to it.
pub(crate) struct Watched<S> {
    inner: S,
    frames: Frames,
    resets: Arc<Resets>,
}

impl<S> Watched<S> {
    pub(crate) fn new(inner: S, resets: Arc<Resets>) -> Self {
        Self {
            inner,
            frames: Frames::default(),
            resets,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        let bytes = buf.get(..written).unwrap_or_default();
        this.frames.push(bytes, |code| this.resets.see(code));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let bytes = buf.get(..left.min(buf.len())).unwrap_or_default();
            left -= bytes.len();
            this.frames.push(bytes, |code| this.resets.see(code));
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Length, type, flags and stream of a frame (RFC 9113, 4.1).
const HEAD: usize = 9;
/// The type of RST_STREAM, which has 4 bytes: a code (RFC 9113, 6.4).
const RST_STREAM: u8 = 3;
const CODE: usize = 4;

/// Frames as they are written, of which only RST_STREAM is looked at.
#[derive(Debug, Default)]
struct Frames {
    /// What there is of a head, and behind one of RST_STREAM of its code.
    read: [u8; HEAD + CODE],
    length: usize,
    /// Bytes that are still to come of a frame.
    skip: usize,
}

impl Frames {
    /// Reads on, and gives `reset` the code of each RST_STREAM.
    fn push(&mut self, mut bytes: &[u8], mut reset: impl FnMut(u32)) {
        while let Some(byte) = bytes.first() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.read.get_mut(self.length) {
                *place = *byte;
            }
            self.length += 1;
            bytes = bytes.get(1..).unwrap_or_default();
            let [a, b, c, kind, _, _, _, _, _, code @ ..] = self.read;
            if kind == RST_STREAM && self.length == HEAD + CODE {
                reset(u32::from_be_bytes(code));
                self.length = 0;
            } else if kind != RST_STREAM && self.length == HEAD {
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.length = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
        [&head, payload].concat()
    }

    #[test]
    fn resets_are_seen_however_frames_are_cut() {
        let bytes = [
            frame(4, &[]),
            frame(3, &[0, 0, 0, 1]),
            frame(0, &[3; 300]),
            frame(1, &[3; 5]),
            frame(3, &[0, 0, 0, 8]),
            frame(3, &[0, 0, 1, 0]),
        ]
        .concat();
        for size in [1, 2, 3, 9, 10, 13, 100, bytes.len()] {
            let (mut frames, mut codes) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                frames.push(piece, |code| codes.push(code));
            }
            assert_eq!(codes, [1, 8, 256], "in pieces of {size}");
        }
    }
}
