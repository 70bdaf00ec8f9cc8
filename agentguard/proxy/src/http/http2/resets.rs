//! Requests of HTTP/2 that the h2 library finds malformed (RFC 9113, 8.1.1).
//!
//! They never become requests: the library resets their streams and tells nobody. What it writes says
//! so, so that is read. A stream on which an answer was written was a request, and had its decision: clients
//! such as curl end what they send short of its length once they are refused, which is an error too.

use std::collections::BTreeSet;
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
    noticed: Notify,
}

impl Resets {
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
        if is_fault(code) {
            self.seen.fetch_add(1, Ordering::Relaxed);
            self.noticed.notify_one();
        }
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
        this.frames.push(bytes, &this.resets);
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
            this.frames.push(bytes, &this.resets);
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
const HEADERS: u8 = 1;
/// Has 4 bytes: a code (RFC 9113, 6.4).
const RST_STREAM: u8 = 3;
const CODE: usize = 4;

/// How many streams are remembered as answered, the latest. One before them that is reset would count
/// as none.
const ANSWERED: usize = 1024;

/// Frames as they are written.
#[derive(Debug, Default)]
struct Frames {
    /// What there is of a head, and behind one of RST_STREAM of its code.
    read: [u8; HEAD + CODE],
    length: usize,
    /// Bytes that are still to come of a frame.
    skip: usize,
    answered: BTreeSet<u32>,
}

impl Frames {
    /// Reads on, and tells of the resets of streams that were not answered.
    fn push(&mut self, mut bytes: &[u8], resets: &Resets) {
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
            let [a, b, c, kind, _, stream @ .., _, _, _, _] = self.read;
            let [.., d, e, f, g] = self.read;
            let (length, stream) = (u32::from_be_bytes([0, a, b, c]), u32::from_be_bytes(stream));
            if self.length == HEAD && kind != RST_STREAM {
                if kind == HEADERS {
                    self.answer(stream);
                }
                self.skip = length as usize;
                self.length = 0;
            } else if self.length == HEAD + CODE {
                if !self.answered.contains(&stream) {
                    resets.see(u32::from_be_bytes([d, e, f, g]));
                }
                self.length = 0;
            }
        }
    }

    fn answer(&mut self, stream: u32) {
        self.answered.insert(stream);
        if self.answered.len() > ANSWERED {
            self.answered.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, Resets};

    fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, 0, 0, 0, 0, stream];
        [&head, payload].concat()
    }

    #[test]
    fn resets_of_what_was_not_answered_are_seen_however_frames_are_cut() {
        let bytes = [
            frame(4, 0, &[]),
            frame(3, 1, &[0, 0, 0, 1]),
            frame(0, 3, &[3; 300]),
            frame(1, 3, &[3; 5]),
            // It was a request.
            frame(3, 3, &[0, 0, 0, 1]),
            // Nobody's fault.
            frame(3, 5, &[0, 0, 0, 8]),
            frame(3, 7, &[0, 0, 0, 3]),
        ]
        .concat();
        for size in [1, 2, 3, 9, 10, 13, 100, bytes.len()] {
            let (mut frames, resets) = (Frames::default(), Resets::default());
            for piece in bytes.chunks(size) {
                frames.push(piece, &resets);
            }
            assert_eq!(resets.take(), 2, "in pieces of {size}");
        }
    }
}
