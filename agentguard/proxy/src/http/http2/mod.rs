//! HTTP/2, inside TLS or in the clear.
//!
//! Each stream is answered in a task of its own. A request that the h2 library finds malformed (RFC 9113,
//! 8.1.1) is a stream error: it never becomes a request, and its client sees the stream reset
//! ([`resets`]).

mod body;
mod client;
mod resets;

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use agentguard_decision::Recorder;
use agentguard_model::{ActionKind, ReasonCode};
use agentguard_protocol::http1::MAX_HEAD;
use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::{Method, Request, Response, header};
use http_body_util::Either;
use hyper::body::Body as _;
use tokio::time::{Instant, interval_at, sleep, timeout};

use crate::Port;
use crate::connection::Flow;
use crate::fair;
use crate::http::body::{Received, denial};
use crate::http::exchange::Exchange;
use crate::http::gated::Signals;
use crate::http::interims::Interims;
use crate::http::leg::Leg;
use crate::relay::ClientStream;

pub(crate) use body::Streamed;
pub(crate) use client::{Sender, handshake};
use resets::{Resets, Seen, Watched};

/// Requests at once on one connection. More wait at the client (RFC 9113, 5.1.2).
const STREAMS: u32 = 128;
/// Bytes of one request's body that may be under way, and of all of a connection's. The client
/// waits beyond it (RFC 9113, 5.2).
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes that wait for the other side, for each stream. Beyond it their source waits.
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
    let connection = Builder::new()
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(RESETS))
        .handshake::<_, Bytes>(stream);
    let idle = flow.guard.limits.keep_alive;
    let mut connection = match timeout(flow.guard.limits.head, connection).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return end(&flow, &resets, Err(error)).await,
        Err(_) => {
            let message = "the client did not finish its preface of HTTP/2 in time";
            let kind = ActionKind::HttpRequest;
            flow.refuse(kind, ReasonCode::ClientTimeout, message).await;
            return;
        }
    };
    let mut gone = pin!(gone(connection.ping_pong(), idle, flow.guard.limits.head));
    // As in HTTP/1.
    let mut drains = pin!(flow.drains());
    let mut looks = interval_at(Instant::now() + idle, idle);
    let mut requests = 0;
    let mut seen = 0;
    let mut draining = false;
    let mut given_up = false;
    let ended = loop {
        let ends = tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    requests += 1;
                    resets.accepted(respond.stream_id().as_u32());
                    fair::spawn(answer(Arc::clone(&exchange), request, respond));
                    false
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            },
            () = &mut drains, if !draining => true,
            seen = resets.next() => {
                record(&flow, seen).await;
                false
            }
            _ = looks.tick(), if !draining => {
                // Requests that are still answered end in peace; new ones open a connection.
                let was = std::mem::replace(&mut seen, requests);
                was == requests
            }
            () = &mut gone, if !given_up => {
                given_up = true;
                connection.abrupt_shutdown(Reason::NO_ERROR);
                false
            }
        };
        if ends {
            draining = true;
            connection.graceful_shutdown();
        }
    };
    end(&flow, &resets, ended).await;
    exchange.leave();
}

/// Ends when the client does not answer: asked each `idle`, it has `patience` to answer.
async fn gone(pings: Option<PingPong>, idle: Duration, patience: Duration) {
    let Some(mut pings) = pings else {
        return pending().await;
    };
    loop {
        sleep(idle).await;
        let answered = async {
            pings.send_ping(Ping::opaque())?;
            poll_fn(|cx| pings.poll_pong(cx)).await
        };
        match timeout(patience, answered).await {
            Ok(Ok(_)) => {}
            // The connection is over, and says so itself.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}

/// Answers one request, and says before what the upstream says before.
async fn answer<R: Recorder, P: Port>(
    exchange: Arc<Exchange<R, P>>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (parts, stream) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let body = Received::Http2(Streamed::new(stream, &parts.headers));
    let interims = Arc::new(Interims::default());
    let answering = exchange.handle(Request::from_parts(parts, body), &interims);
    let mut answering = pin!(answering);
    let response = loop {
        tokio::select! {
            biased;
            Some(interim) = interims.next() => say(&mut respond, interim),
            response = &mut answering => break response,
            reset = poll_fn(|cx| respond.poll_reset(cx)) => {
                return tracing::debug!(?reset, "the client takes its request back");
            }
        }
    };
    interims.over();
    while let Some(interim) = interims.next().await {
        say(&mut respond, interim);
    }
    let (mut parts, body) = response.into_parts();
    let mut ended = body.is_end_stream();
    if let (false, Some(length)) = (ended, body.size_hint().exact()) {
        let fields = parts.headers.entry(header::CONTENT_LENGTH);
        fields.or_insert(length.into());
    }
    // A refusal has content whatever was asked (RFC 9110, 9.3.2).
    ended |= head && matches!(body, Either::Right(_));
    match respond.send_response(Response::from_parts(parts, ()), ended) {
        Ok(_) if ended => {}
        Ok(stream) => {
            let denial = denial(&body);
            body::send(stream, body, denial).await;
        }
        Err(error) => {
            tracing::debug!(%error, "an answer cannot be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

fn say(respond: &mut SendResponse<Bytes>, interim: Response<()>) {
    if let Err(error) = respond.send_informational(interim) {
        tracing::debug!(%error, "an informational response cannot be sent");
    }
}

/// Records what is left to record when a connection is over.
async fn end<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    resets: &Resets,
    ended: Result<(), h2::Error>,
) {
    record(flow, resets.take()).await;
    let Err(error) = ended else {
        return;
    };
    match fault(&error) {
        Some((code, message)) => {
            flow.refuse(ActionKind::HttpRequest, code, message).await;
        }
        None => tracing::debug!(%error, "an HTTP/2 connection broke"),
    }
}

/// Records requests that never became any.
async fn record<R: Recorder, P: Port>(flow: &Flow<R, P>, seen: Seen) {
    const MALFORMED: &str = "a request of HTTP/2 is malformed; its stream was reset";
    const TOO_LARGE: &str = "the fields of a request of HTTP/2 are too large; it was answered 431";
    for (count, message) in [(seen.malformed, MALFORMED), (seen.too_large, TOO_LARGE)] {
        for _ in 0..count {
            let code = ReasonCode::HttpMalformed;
            flow.refuse(ActionKind::HttpRequest, code, message).await;
        }
    }
}

/// What a client did that ended its connection, if it was its fault.
fn fault(error: &h2::Error) -> Option<(ReasonCode, String)> {
    let reason = error.reason().filter(|_| error.is_library())?;
    let code = match reason {
        Reason::NO_ERROR => return None,
        Reason::ENHANCE_YOUR_CALM => ReasonCode::LimitReached,
        _ => ReasonCode::HttpMalformed,
    };
    let message = format!("the HTTP/2 connection was ended: {error}");
    Some((code, message))
}
