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

use crate::http::{BodyFailed, Received, add};

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
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(grant) = &this.grant else {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        };
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
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
    grant: Arc<Grant>,
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
        grant: Arc::clone(grant),
        waits: Bytes::new(),
        trailers: None,
    }))
}

impl Paced {
    /// What has not come yet, at its own pace.
    pub(crate) fn unpaced(self) -> Received {
        self.inner
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
        if let Some((_, left)) = &mut this.trailers {
            while *left > 0 {
                let room = ready!(this.grant.poll_room(cx)).min(*left);
                this.grant.passes(room);
                *left -= room;
            }
            let trailers = this.trailers.take();
            return Poll::Ready(trailers.map(|(trailers, _)| Ok(Frame::trailers(trailers))));
        }
        let room = usize::try_from(ready!(this.grant.poll_room(cx))).unwrap_or(usize::MAX);
        let part = this.waits.split_to(room.min(this.waits.len()));
        this.grant.passes(part.len() as u64);
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
