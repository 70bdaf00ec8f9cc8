//! The one upstream connection of a client connection.

use std::sync::{Mutex, PoisonError};

use agentguard_decision::Recorder;
use agentguard_model::{Reason, ReasonCode};
use agentguard_protocol::http1::{MAX_FIELDS, MAX_HEAD};
use agentguard_protocol::request::Scheme;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Port;
use crate::alpn::{Alpn, Offer};
use crate::connection::{Flow, READ};
use crate::http::body::RequestBody;
use crate::http::http2::{CONNECTION_WINDOW, STREAM_WINDOW};

/// A connection to the upstream, with the task that drives it. It ends with its owner.
pub(crate) struct Upstream<R: Recorder> {
    sender: Sender<R>,
    driver: JoinHandle<()>,
}

enum Sender<R: Recorder> {
    Http1(http1::SendRequest<RequestBody<R>>),
    Http2(http2::SendRequest<RequestBody<R>>),
}

impl<R: Recorder> Drop for Upstream<R> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why a request has no response.
pub(crate) enum SendFailed {
    /// There is no connection.
    Unreachable(Reason),
    /// The connection broke, and the request may have been seen.
    Broken(hyper::Error),
}

/// A request on its way, which comes back if nothing of it was sent.
type Unsent<R> = Request<RequestBody<R>>;

impl<R: Recorder> Upstream<R> {
    /// Speaks HTTP/1 on a connection.
    pub(crate) async fn http1(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> hyper::Result<Self> {
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_HEAD + READ)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upstream connection broke");
            }
        });
        Ok(Self {
            sender: Sender::Http1(sender),
            driver,
        })
    }

    /// Speaks HTTP/2 on a connection.
    pub(crate) async fn http2(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> hyper::Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream connection broke");
            }
        });
        Ok(Self {
            sender: Sender::Http2(sender),
            driver,
        })
    }

    /// Sends a request if the connection takes one.
    async fn try_send(
        &mut self,
        request: Unsent<R>,
    ) -> Result<Response<Incoming>, Result<Unsent<R>, SendFailed>> {
        let failed = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        failed.map_err(|mut failed| match failed.take_message() {
            Some(request) => Ok(request),
            None => Err(SendFailed::Broken(failed.into_error())),
        })
    }

    /// Another handle on a connection that carries many requests at once.
    fn another(&self) -> Option<http2::SendRequest<RequestBody<R>>> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(sender.clone()),
        }
    }

    async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }
}

/// The upstream's side of a client connection that speaks HTTP.
pub(crate) struct Leg<R: Recorder> {
    /// What the client's side is.
    pub(crate) scheme: Scheme,
    /// What both sides speak.
    pub(crate) version: Version,
    first: Mutex<First<R>>,
    /// The connection that all requests of HTTP/2 share. Held while it is opened, so that it is
    /// opened once.
    shared: tokio::sync::Mutex<Option<Upstream<R>>>,
}

/// What there is before the first request.
enum First<R: Recorder> {
    Connected(Upstream<R>),
    /// It was tried, and the first request is told so.
    Failed(Reason),
    Nothing,
}

impl<R: Recorder> Leg<R> {
    /// In the clear; opened with the first request.
    pub(crate) fn plain() -> Self {
        Self {
            scheme: Scheme::Http,
            version: Version::HTTP_11,
            first: Mutex::new(First::Nothing),
            shared: tokio::sync::Mutex::new(None),
        }
    }

    /// Inside TLS, where the upstream was asked before the client was answered.
    pub(crate) fn inside_tls(alpn: Alpn, connected: Result<Upstream<R>, Reason>) -> Self {
        Self {
            scheme: Scheme::Https,
            version: match alpn {
                Alpn::H2 => Version::HTTP_2,
                Alpn::Http1 | Alpn::None => Version::HTTP_11,
            },
            first: Mutex::new(match connected {
                Ok(upstream) => First::Connected(upstream),
                Err(reason) => First::Failed(reason),
            }),
            shared: tokio::sync::Mutex::new(None),
        }
    }

    /// The connection that was opened for the client's handshake, or why there is none. Once.
    fn take_first(&self) -> Result<Option<Upstream<R>>, Reason> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *first, First::Nothing) {
            First::Connected(upstream) => Ok(Some(upstream)),
            First::Failed(reason) => Err(reason),
            First::Nothing => Ok(None),
        }
    }

    async fn open<P: Port>(&self, flow: &Flow<R, P>) -> Result<Upstream<R>, SendFailed> {
        match self.take_first() {
            Ok(Some(upstream)) => return Ok(upstream),
            Ok(None) => {}
            Err(reason) => return Err(SendFailed::Unreachable(reason)),
        }
        let opened = match (self.scheme, self.version) {
            (Scheme::Http, _) => {
                let stream = flow.dial().await.map_err(SendFailed::Unreachable)?;
                Upstream::http1(stream).await
            }
            (Scheme::Https, version) => {
                let offer = if version == Version::HTTP_2 {
                    Offer::H2
                } else {
                    Offer::HTTP1
                };
                let (stream, chosen) = flow
                    .guard
                    .tls
                    .upstreams
                    .connect(flow, offer)
                    .await
                    .map_err(SendFailed::Unreachable)?;
                match (version, chosen) {
                    (Version::HTTP_2, Alpn::H2) => Upstream::http2(stream).await,
                    (Version::HTTP_2, _) => {
                        let message = "the upstream does not speak HTTP/2 any more";
                        let reason = Reason::new(ReasonCode::UpstreamUnreachable, message);
                        return Err(SendFailed::Unreachable(reason));
                    }
                    _ => Upstream::http1(stream).await,
                }
            }
        };
        opened.map_err(SendFailed::Broken)
    }

    /// Sends a request on `kept`, the connection of the request before, or on a new one, and keeps
    /// it. If the kept one turns out closed before anything was sent, a new one is opened once.
    pub(crate) async fn send<P: Port>(
        &self,
        flow: &Flow<R, P>,
        kept: &mut Option<Upstream<R>>,
        mut request: Unsent<R>,
    ) -> Result<Response<Incoming>, SendFailed> {
        let patience = flow.guard.limits.dial;
        if let Some(upstream) = kept
            && matches!(timeout(patience, upstream.ready()).await, Ok(true))
        {
            match upstream.try_send(request).await {
                Ok(response) => return Ok(response),
                Err(Ok(unsent)) => request = unsent,
                Err(Err(failed)) => return Err(failed),
            }
        }
        let upstream = kept.insert(self.open(flow).await?);
        match upstream.try_send(request).await {
            Ok(response) => Ok(response),
            Err(Err(failed)) => Err(failed),
            Err(Ok(_)) => Err(SendFailed::Unreachable(Reason::new(
                ReasonCode::UpstreamUnreachable,
                "the upstream closed the connection before it took the request",
            ))),
        }
    }

    /// Sends a request of HTTP/2 beside others, on the connection that they share. If that turns
    /// out closed before anything was sent, a new one is opened once.
    pub(crate) async fn send_beside<P: Port>(
        &self,
        flow: &Flow<R, P>,
        mut request: Unsent<R>,
    ) -> Result<Response<Incoming>, SendFailed> {
        for _ in 0..2 {
            let mut sender = self.shared(flow).await?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(SendFailed::Broken(failed.into_error())),
                },
            }
        }
        Err(SendFailed::Unreachable(Reason::new(
            ReasonCode::UpstreamUnreachable,
            "the upstream closed the connection before it took the request",
        )))
    }

    async fn shared<P: Port>(
        &self,
        flow: &Flow<R, P>,
    ) -> Result<http2::SendRequest<RequestBody<R>>, SendFailed> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().and_then(Upstream::another)
            && !sender.is_closed()
        {
            return Ok(sender);
        }
        let upstream = shared.insert(self.open(flow).await?);
        upstream.another().ok_or_else(|| {
            let message = "the upstream speaks another version of HTTP";
            SendFailed::Unreachable(Reason::new(ReasonCode::Internal, message))
        })
    }
}
