//! Bodies on their way, counted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use agentguard_decision::Recorder;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::account::Account;
use crate::connection::Revoked;
use crate::relay::revoked;

/// What the client is answered.
pub(crate) type Answer<R> = Either<ResponseBody<R>, Full<Bytes>>;

/// Holds a body back until the upstream wants it (RFC 9110, 10.1.1).
pub(crate) struct GoAhead {
    wanted: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl GoAhead {
    /// Opens when `wanted` is notified or `patience` is over.
    pub(crate) fn new(wanted: Arc<Notify>, patience: Sleep) -> Self {
        Self {
            wanted: Box::pin(async move {
                tokio::select! {
                    () = wanted.notified() => {}
                    () = patience => {}
                }
            }),
        }
    }
}

/// A request's body.
pub(crate) struct RequestBody<R: Recorder> {
    inner: Incoming,
    account: Arc<Account<R>>,
    go_ahead: Option<GoAhead>,
}

impl<R: Recorder> RequestBody<R> {
    pub(crate) fn new(
        inner: Incoming,
        account: Arc<Account<R>>,
        go_ahead: Option<GoAhead>,
    ) -> Self {
        Self {
            inner,
            account,
            go_ahead,
        }
    }
}

impl<R: Recorder> Body for RequestBody<R> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(go_ahead) = &mut this.go_ahead {
            // Polling the client's body makes hyper tell the client to go ahead.
            ready!(go_ahead.wanted.as_mut().poll(cx));
            this.go_ahead = None;
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.account
                .sent
                .fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Why a response has no more body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFailed {
    /// The upstream's fault.
    #[error(transparent)]
    Upstream(hyper::Error),
    /// The policy does not allow the request any more.
    #[error("the policy changed")]
    Revoked,
}

/// A response's body. It breaks off where the policy comes to deny the request.
pub(crate) struct ResponseBody<R: Recorder> {
    inner: Incoming,
    account: Arc<Account<R>>,
    revoked: Revoked,
    ended: bool,
}

impl<R: Recorder> ResponseBody<R> {
    pub(crate) fn new(inner: Incoming, account: Arc<Account<R>>, revoked: Revoked) -> Self {
        let ended = inner.is_end_stream();
        Self {
            inner,
            account,
            revoked,
            ended,
        }
    }
}

impl<R: Recorder> Body for ResponseBody<R> {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        if !this.ended
            && let Poll::Ready(denied) = this.revoked.as_mut().poll(cx)
        {
            this.ended = true;
            this.account.fail(revoked(&denied));
            return Poll::Ready(Some(Err(BodyFailed::Revoked)));
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.account
                        .received
                        .fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                this.ended = this.inner.is_end_stream() || frame.is_trailers();
            }
            Some(Err(error)) => {
                this.ended = true;
                this.account
                    .fail(format!("the upstream broke off its answer: {error}"));
            }
            None => this.ended = true,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyFailed::Upstream)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<R: Recorder> Drop for ResponseBody<R> {
    fn drop(&mut self) {
        if !self.ended {
            self.account
                .fail("the client went away before the end of the answer");
        }
    }
}
