//! Bodies of HTTP/2, in and out.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use agentguard_decision::Recorder;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

use crate::http::body::{BodyFailed, Denial};
use crate::http::http2::client::Place;

/// A body as it comes.
///
/// Whatever ends its stream but its own end is an error, CANCEL and NO_ERROR too: a body that broke off must
/// not look complete.
pub(crate) struct Streamed {
    stream: RecvStream,
    /// What is left of the length that was announced, if one was.
    left: Option<u64>,
    data_over: bool,
    /// Of the request that it answers; upstream alone.
    _place: Option<Arc<Place>>,
}

impl Streamed {
    /// The body behind a head with these fields. The h2 library holds it to its announced length
    /// (RFC 9113, 8.1.1).
    pub(crate) fn new(stream: RecvStream, fields: &HeaderMap) -> Self {
        let length = fields.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            stream,
            left: length,
            data_over: false,
            _place: None,
        }
    }

    /// The same, which takes a place until it is dropped.
    pub(super) fn in_place(self, place: Arc<Place>) -> Self {
        Self {
            _place: Some(place),
            ..self
        }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        if !this.data_over {
            if let Some(data) = ready!(this.stream.poll_data(cx)) {
                let data = data?;
                let length = data.len();
                // The client's room is what we hold, and it leaves us with this.
                this.stream.flow_control().release_capacity(length)?;
                this.left = this.left.map(|left| left.saturating_sub(length as u64));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            this.data_over = true;
        }
        let trailers = ready!(this.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Sends a body to its end. Where it breaks off, or is denied while the other side takes nothing, the
/// stream is reset.
pub(super) async fn send<R: Recorder>(
    mut stream: SendStream<Bytes>,
    mut body: impl Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
    mut denial: Option<Denial<R>>,
) {
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = reset(&mut stream) => return,
        };
        let sent = match frame {
            None => stream.send_data(Bytes::new(), true),
            Some(Err(failed)) => {
                let failed = failed.into();
                tracing::debug!(%failed, "a body breaks off");
                return stream.send_reset(reason(&*failed));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    if !data.is_empty() && !has_room(&mut stream, denial.as_mut()).await {
                        return;
                    }
                    match stream.send_data(data, last) {
                        Ok(()) if !last => continue,
                        sent => sent,
                    }
                }
                Err(frame) => stream.send_trailers(frame.into_trailers().unwrap_or_default()),
            },
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a body finds its stream closed");
        }
        return;
    }
}

/// Waits until the other side takes data; false if it takes no more, or may not have more.
///
/// Room is asked for when there are data to send, and then for one byte (the library asks for the
/// rest): room that is reserved ahead is taken from the connection's other streams.
async fn has_room<R: Recorder>(
    stream: &mut SendStream<Bytes>,
    mut denial: Option<&mut Denial<R>>,
) -> bool {
    stream.reserve_capacity(1);
    poll_fn(|cx| {
        while stream.capacity() == 0 {
            if let Some(denial) = &mut denial
                && ready!(denial.poll(cx)).is_err()
            {
                stream.send_reset(reason(&BodyFailed::Revoked));
                return Poll::Ready(false);
            }
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(false);
            }
            if !matches!(ready!(stream.poll_capacity(cx)), Some(Ok(_))) {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    })
    .await
}

/// Waits until the other side has reset the stream, or the connection is gone.
async fn reset(stream: &mut SendStream<Bytes>) {
    let reset = poll_fn(|cx| stream.poll_reset(cx)).await;
    tracing::debug!(?reset, "a stream was reset");
}

/// What a stream is reset with where its body broke off.
fn reason(failed: &(dyn Error + Send + Sync + 'static)) -> Reason {
    let reason = match failed.downcast_ref() {
        Some(BodyFailed::Http2(error)) => error.reason(),
        _ => None,
    };
    // NO_ERROR would say that what came was enough (RFC 9113, 8.1).
    let reason = reason.filter(|reason| *reason != Reason::NO_ERROR);
    reason.unwrap_or(Reason::INTERNAL_ERROR)
}
