//! HTTP/2, inside TLS or in the clear.
//!
//! A request that the h2 library finds malformed (RFC 9113, 8.1.1) is a stream error: it never
//! becomes a request, and its client sees the stream reset ([`super::resets`]).

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentguard_decision::Recorder;
use agentguard_model::{ActionKind, ReasonCode};
use agentguard_protocol::http1::MAX_HEAD;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, interval_at};

use crate::Port;
use crate::connection::Flow;
use crate::http::exchange::Exchange;
use crate::http::gated::Signals;
use crate::http::leg::Leg;
use crate::http::resets::{Resets, Watched};
use crate::relay::ClientStream;

/// Requests at once on one connection. More wait at the client (RFC 9113, 5.1.2).
const STREAMS: u32 = 128;
/// Bytes of one request's body that may be under way, and of all of a connection's. The client
/// waits beyond it (RFC 9113, 5.2).
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of answers that wait for the client, for each stream. Beyond it the upstream waits.
const SEND_BUFFER: usize = 32 * 1024;
/// Streams that the client opened and reset before they were looked at (CVE-2023-44487), and that
/// were reset for its errors. Beyond it the connection is closed with ENHANCE_YOUR_CALM.
const RESETS: usize = 32;

/// Carries a connection on which HTTP/2 was agreed upon.
pub(crate) async fn run<R: Recorder, P: Port, S: ClientStream>(
    flow: Arc<Flow<R, P>>,
    stream: S,
    leg: Leg<R>,
) {
    let signals = Arc::new(Signals::default());
    let resets = Arc::new(Resets::default());
    let stream = Watched::new(stream, Arc::clone(&resets));
    let exchange = Arc::new(Exchange::new(Arc::clone(&flow), signals, leg));
    let requests = Arc::new(AtomicUsize::new(0));
    let service = service_fn({
        let exchange = Arc::clone(&exchange);
        let requests = Arc::clone(&requests);
        move |request| {
            requests.fetch_add(1, Ordering::Relaxed);
            let exchange = Arc::clone(&exchange);
            async move { Ok::<_, Infallible>(exchange.handle(request, &Arc::default()).await) }
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .keep_alive_interval(flow.guard.limits.keep_alive)
        .keep_alive_timeout(flow.guard.limits.head)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let idle = flow.guard.limits.keep_alive;
    let mut looks = interval_at(Instant::now() + idle, idle);
    let mut seen = 0;
    let mut draining = false;
    let served = loop {
        tokio::select! {
            biased;
            served = &mut connection => break served,
            () = flow.guard.shutdown.cancelled(), if !draining => draining = true,
            count = resets.next() => record(&flow, count).await,
            // As in HTTP/1.
            () = flow.stale(), if !draining => draining = true,
            _ = looks.tick(), if !draining => {
                // Requests that are still answered end in peace; new ones open a connection.
                let now = requests.load(Ordering::Relaxed);
                draining = now == seen;
                seen = now;
            }
        }
        if draining {
            connection.as_mut().graceful_shutdown();
        }
    };
    record(&flow, resets.take()).await;
    exchange.leave();
    if let Err(error) = served {
        match fault(&error) {
            Some((code, message)) => {
                flow.refuse(ActionKind::HttpRequest, code, message).await;
            }
            None => tracing::debug!(%error, "an HTTP/2 connection broke"),
        }
    }
}

/// Records requests that were malformed.
async fn record<R: Recorder, P: Port>(flow: &Flow<R, P>, count: usize) {
    for _ in 0..count {
        let message = "a request of HTTP/2 is malformed; its stream was reset";
        flow.refuse(ActionKind::HttpRequest, ReasonCode::HttpMalformed, message)
            .await;
    }
}

/// What a client did that ended its connection, if it was its fault.
fn fault(error: &hyper::Error) -> Option<(ReasonCode, String)> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<h2::Error>()
            && cause.is_library()
            && let Some(reason) = cause.reason()
            && reason != h2::Reason::NO_ERROR
        {
            let code = match reason {
                h2::Reason::ENHANCE_YOUR_CALM => ReasonCode::LimitReached,
                _ => ReasonCode::HttpMalformed,
            };
            return Some((code, format!("the HTTP/2 connection was ended: {cause}")));
        }
        source = cause.source();
    }
    None
}
