//! Requests of HTTP/2 that the h2 library finds malformed (RFC 9113, 8.1.1), or too large (8.1.1 and 10.5.1).
//!
//! They never become requests: the library resets their streams, or answers 431, and tells nobody. What it
//! writes says so, so that is read. A stream that was accepted and on which an answer was written was a
//! request, and had its decision: clients such as curl end what they send short of its length once they
//! are refused, which is an error too.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Streams that were reset for the client's errors or refused for their size, and not told yet.
#[derive(Debug, Default)]
pub(crate) struct Resets {
    malformed: AtomicUsize,
    too_large: AtomicUsize,
    noticed: Notify,
    /// The latest streams that became requests. One before them that is answered would count as too large: there
    /// are fewer at once.
    accepted: Mutex<BTreeSet<u32>>,
}

/// How many there were of each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    pub(crate) malformed: usize,
    pub(crate) too_large: usize,
}

impl Resets {
    /// Notes that a stream became a request, before it is answered.
    pub(crate) fn accepted(&self, stream: u32) {
        insert(
            &mut self.accepted.lock().unwrap_or_else(PoisonError::into_inner),
            stream,
        );
    }

    /// Waits for the next ones.
    pub(crate) async fn next(&self) -> Seen {
        loop {
            let seen = self.take();
            if seen != Seen::default() {
                return seen;
            }
            self.noticed.notified().await;
        }
    }

    /// Those that were not told yet.
    pub(crate) fn take(&self) -> Seen {
        Seen {
            malformed: self.malformed.swap(0, Ordering::Relaxed),
            too_large: self.too_large.swap(0, Ordering::Relaxed),
        }
    }

    fn reset(&self, code: u32) {
        if is_fault(code) {
            self.malformed.fetch_add(1, Ordering::Relaxed);
            self.noticed.notify_one();
        }
    }

    /// Notes the first answer on a stream.
    fn answered(&self, stream: u32) {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if !accepted.contains(&stream) {
            self.too_large.fetch_add(1, Ordering::Relaxed);
            self.noticed.notify_one();
        }
    }
}

/// Adds one, and forgets the oldest beyond [`REMEMBERED`]. Whether it is new.
fn insert(streams: &mut BTreeSet<u32>, stream: u32) -> bool {
    let new = streams.insert(stream);
    if streams.len() > REMEMBERED {
        streams.pop_first();
    }
    new
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

/// How many streams are remembered as accepted and as answered, the latest. One before them that is reset would
/// count as none.
const REMEMBERED: usize = 1024;

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
                if kind == HEADERS && insert(&mut self.answered, stream) {
                    resets.answered(stream);
                }
                self.skip = length as usize;
                self.length = 0;
            } else if self.length == HEAD + CODE {
                if !self.answered.contains(&stream) {
                    resets.reset(u32::from_be_bytes([d, e, f, g]));
                }
                self.length = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, Resets, Seen};

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
            // It never was one, and was told so.
            frame(1, 9, &[3; 5]),
            frame(3, 9, &[0, 0, 0, 1]),
        ]
        .concat();
        for size in [1, 2, 3, 9, 10, 13, 100, bytes.len()] {
            let (mut frames, resets) = (Frames::default(), Resets::default());
            resets.accepted(3);
            for piece in bytes.chunks(size) {
                frames.push(piece, &resets);
            }
            let expected = Seen {
                malformed: 2,
                too_large: 1,
            };
            assert_eq!(resets.take(), expected, "in pieces of {size}");
        }
    }
}
