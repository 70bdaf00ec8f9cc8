//! The upstream's side of HTTP/2.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use agentguard_decision::Recorder;
use agentguard_protocol::http1::MAX_HEAD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{Request, Response};
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::body::Received;
use crate::http::http2::body::{Streamed, send};
use crate::http::http2::{CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW};
use crate::http::interims::Interims;
use crate::http::upstream::{SendFailed, Unsent};

/// A handle on a connection that carries many requests at once.
#[derive(Clone)]
pub(crate) struct Sender {
    requests: SendRequest<Bytes>,
}

/// Speaks HTTP/2 on a connection. The future drives it until all its handles are dropped and its
/// answers are over.
///
/// # Errors
/// The connection broke.
pub(crate) async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(Sender, impl Future<Output = Result<(), h2::Error>>), h2::Error> {
    let (requests, connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        // Until the upstream has said how many it takes.
        .initial_max_send_streams(100)
        .enable_push(false)
        .handshake(stream)
        .await?;
    Ok((Sender { requests }, connection))
}

impl Sender {
    /// Whether no more requests can be sent.
    pub(crate) fn is_closed(&self) -> bool {
        let mut requests = self.requests.clone();
        let ready = poll_fn(|cx| requests.poll_ready(cx)).now_or_never();
        matches!(ready, Some(Err(_)))
    }

    /// Sends a request if the connection takes one, and waits for the head of its answer. What of the
    /// request's body is not sent by then is sent beside the answer.
    pub(crate) async fn try_send<R: Recorder>(
        &mut self,
        request: Unsent<R>,
    ) -> Result<Response<Received>, Result<Unsent<R>, SendFailed>> {
        // A handle waits for the stream that it opened: another one waits for none.
        let mut requests = self.requests.clone();
        if poll_fn(|cx| requests.poll_ready(cx)).await.is_err() {
            return Err(Ok(request));
        }
        let (mut parts, body) = request.into_parts();
        let interims = parts.extensions.remove::<Arc<Interims>>();
        let ended = body.is_end_stream();
        let denial = body.denial();
        let sent = requests.send_request(Request::from_parts(parts, ()), ended);
        let (answer, stream) = sent.map_err(broken)?;
        let mut sending = (!ended).then(|| {
            Box::pin(async move {
                // The upstream may take no more streams for now. What is wrong shows below.
                let _ = poll_fn(|cx| requests.poll_ready(cx)).await;
                send(stream, body, denial).await;
            })
        });
        let mut answering = pin!(answered(answer, interims));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answering => break answer,
                () = poll_fn(|cx| poll_sending(&mut sending, cx)) => sending = None,
            }
        };
        let answer = answer.map_err(broken)?;
        if let Some(sending) = sending {
            tokio::spawn(sending);
        }
        Ok(answer)
    }
}

fn poll_sending(
    sending: &mut Option<impl Future<Output = ()> + Unpin>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    match sending {
        Some(sending) => sending.poll_unpin(cx),
        None => Poll::Pending,
    }
}

/// Waits for the head of an answer. What comes before goes to `interims`.
async fn answered(
    mut answer: ResponseFuture,
    interims: Option<Arc<Interims>>,
) -> Result<Response<Received>, h2::Error> {
    while let Some(interim) = poll_fn(|cx| answer.poll_informational(cx)).await {
        let (parts, ()) = interim?.into_parts();
        if let Some(interims) = &interims {
            interims.put(parts.status, parts.headers);
        }
    }
    let (parts, stream) = answer.await?.into_parts();
    let body = Received::Http2(Streamed::new(stream, &parts.headers));
    Ok(Response::from_parts(parts, body))
}

fn broken<T>(error: h2::Error) -> Result<T, SendFailed> {
    Err(SendFailed::Broken(error.into()))
}
