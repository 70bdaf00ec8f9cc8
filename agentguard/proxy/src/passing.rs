//! Bytes that pass where budgets count them: no more than was reserved.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use agentguard_decision::Grant;
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::http::{BodyFailed, Received, add};
use crate::pump::Source;

/// Waits until there is room for bytes that were read already, and takes it. `grant`: none where nothing is counted.
pub(crate) async fn room(grant: Option<&Arc<Grant>>, bytes: &[u8]) {
    let Some(grant) = grant else {
        return;
    };
    let mut left = bytes.len() as u64;
    while left > 0 {
        let room = poll_fn(|cx| grant.poll_room(cx)).await.min(left);
        grant.passes(room);
        left -= room;
    }
}

/// A stream that is read as far as there is room.
pub(crate) struct Metered<S> {
    stream: S,
    grant: Option<Arc<Grant>>,
    /// A byte that was read where there was no room, to see whether anything comes.
    ahead: Option<u8>,
}

impl<S> Metered<S> {
    /// `grant`: none where nothing is counted.
    pub(crate) fn new(stream: S, grant: Option<&Arc<Grant>>) -> Self {
        Self {
            stream,
            grant: grant.cloned(),
            ahead: None,
        }
    }

    /// From now on nothing of it passes, so that nothing counts it.
    pub(crate) fn unmetered(&mut self) {
        self.unwanted();
        self.grant = None;
    }

    fn unwanted(&self) {
        if let Some(grant) = &self.grant {
            grant.unwanted();
        }
    }
}

impl<S: Source> Source for Metered<S> {
    fn socket(&self) -> Option<&TcpStream> {
        match (&self.grant, self.ahead) {
            (None, None) => self.stream.socket(),
            _ => None,
        }
    }
}

impl<S> Drop for Metered<S> {
    fn drop(&mut self) {
        self.unwanted();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let Some(grant) = &this.grant else {
            return match this.ahead.take() {
                Some(byte) => {
                    buf.put_slice(&[byte]);
                    Poll::Ready(Ok(()))
                }
                None => Pin::new(&mut this.stream).poll_read(cx, buf),
            };
        };
        let mut stream = Pin::new(&mut this.stream);
        if !grant.has_room() && this.ahead.is_none() {
            // What ends with the last byte that is left wants no more.
            let mut byte = [0];
            let mut one = ReadBuf::new(&mut byte);
            ready!(stream.as_mut().poll_read(cx, &mut one))?;
            match one.filled().first() {
                Some(byte) => this.ahead = Some(*byte),
                None => return Poll::Ready(Ok(())),
            }
        }
        let room = ready!(grant.poll_room(cx));
        if let Some(byte) = this.ahead.take() {
            buf.put_slice(&[byte]);
            grant.passes(1);
            return Poll::Ready(Ok(()));
        }
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let room = room.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(stream.poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        grant.passes(read as u64);
        Poll::Ready(Ok(()))
    }
}

/// A body that goes on as far as there is room.
pub(crate) struct Paced {
    inner: Received,
    /// None: nothing of it passes any more, so that nothing counts it.
    grant: Option<Arc<Grant>>,
    /// What has come, and waits for room.
    waits: Bytes,
    /// Trailers behind that, and how many of their bytes have no room yet.
    trailers: Option<(HeaderMap, u64)>,
}

/// The same body, which goes on as there is room. `grant`: none where nothing is counted.
pub(crate) fn paced(inner: Received, grant: Option<&Arc<Grant>>) -> Received {
    let Some(grant) = grant else {
        return inner;
    };
    Received::Paced(Box::new(Paced {
        inner,
        grant: Some(Arc::clone(grant)),
        waits: Bytes::new(),
        trailers: None,
    }))
}

impl Paced {
    /// From now on nothing of it passes, so that nothing counts it.
    pub(crate) fn unpaced(&mut self) {
        self.unwanted();
        self.grant = None;
    }

    fn unwanted(&self) {
        if let Some(grant) = &self.grant {
            grant.unwanted();
        }
    }

    /// Takes room for up to so many bytes, once there is any.
    fn poll_take(&self, cx: &Context<'_>, bytes: u64) -> Poll<u64> {
        let Some(grant) = &self.grant else {
            return Poll::Ready(bytes);
        };
        let room = ready!(grant.poll_room(cx)).min(bytes);
        grant.passes(room);
        Poll::Ready(room)
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.unwanted();
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        if this.waits.is_empty() && this.trailers.is_none() {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(data) => this.waits = data,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let size = size_of(&trailers);
                        this.trailers = Some((trailers, size));
                    }
                },
                other => return Poll::Ready(other),
            }
        }
        while let Some((_, left)) = this.trailers.as_ref().filter(|(_, left)| *left > 0) {
            let room = ready!(this.poll_take(cx, *left));
            if let Some((_, left)) = &mut this.trailers {
                *left -= room;
            }
        }
        if let Some((trailers, _)) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let room = ready!(this.poll_take(cx, this.waits.len() as u64));
        let part = this
            .waits
            .split_to(usize::try_from(room).unwrap_or(usize::MAX));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.waits.is_empty() && self.trailers.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        add(&mut hint, self.waits.len());
        hint
    }
}

/// As many bytes as trailers are in HTTP/1: with `: ` and the end of the line.
fn size_of(trailers: &HeaderMap) -> u64 {
    let sizes = trailers.iter();
    let sizes = sizes.map(|(name, value)| name.as_str().len() + value.len() + 4);
    sizes.sum::<usize>() as u64
}
