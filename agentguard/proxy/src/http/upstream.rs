//! The one upstream connection of a client connection.

use agentguard_decision::Recorder;
use agentguard_model::Reason;
use agentguard_protocol::http1::{MAX_FIELDS, MAX_HEAD};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Port;
use crate::connection::{Flow, READ};
use crate::http::body::RequestBody;

/// A connection to the upstream, with the task that drives it. It ends with its owner.
pub(crate) struct Upstream<R: Recorder> {
    sender: SendRequest<RequestBody<R>>,
    driver: JoinHandle<()>,
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

impl<R: Recorder> Upstream<R> {
    async fn open<P: Port>(flow: &Flow<R, P>) -> Result<Self, SendFailed> {
        let stream = flow.dial().await.map_err(SendFailed::Unreachable)?;
        Self::shake_hands(stream).await.map_err(SendFailed::Broken)
    }

    async fn shake_hands(stream: TcpStream) -> hyper::Result<Self> {
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
        Ok(Self { sender, driver })
    }

    /// Sends a request on `kept`, the connection of the request before, or on a new one, and keeps
    /// it. If the kept one turns out closed before anything was sent, a new one is opened once.
    pub(crate) async fn send<P: Port>(
        flow: &Flow<R, P>,
        kept: &mut Option<Self>,
        request: Request<RequestBody<R>>,
    ) -> Result<Response<Incoming>, SendFailed> {
        let mut unsent = Some(request);
        let patience = flow.guard.limits.dial;
        if let Some(upstream) = kept
            && matches!(timeout(patience, upstream.sender.ready()).await, Ok(Ok(())))
            && let Some(request) = unsent.take()
        {
            match upstream.sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut failed) => match failed.take_message() {
                    Some(request) => unsent = Some(request),
                    None => return Err(SendFailed::Broken(failed.into_error())),
                },
            }
        }
        let upstream = kept.insert(Self::open(flow).await?);
        match unsent {
            Some(request) => upstream
                .sender
                .try_send_request(request)
                .await
                .map_err(|failed| SendFailed::Broken(failed.into_error())),
            None => Err(SendFailed::Unreachable(Reason::new(
                agentguard_model::ReasonCode::Internal,
                "a request was lost",
            ))),
        }
    }
}
