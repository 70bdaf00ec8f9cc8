//! HTTP, in the clear or inside TLS, every request decided.
//!
//! hyper reads and writes both legs of HTTP/1; [`gated::Gated`] stands between the client's stream
//! and hyper and lets only unambiguous framing through. HTTP/2 ([`http2`]) has one framing, and is
//! spoken by the h2 library: hyper, above it, knows no informational responses and takes a stream that is
//! cancelled for one that has ended.
//! [`exchange::Exchange`] decides on each request and carries it, whatever version it came in; the
//! upstream speaks the same version, because the client was answered what the upstream chose.
//!
//! A stream that the gate refuses ends, for hyper, behind the last good request. Responses in
//! progress are finished, then the refusal is written behind them.
//!
//! What an upstream says before its answer (1xx, [`interims`]) goes to the client before the answer does.
//!
//! After 101 the connection speaks WebSocket ([`websocket`]).
//!
//! What a client connection leaves behind waits in the [`pool`] for the agent's next one.
//!
//! **Invariant:** no request reaches the upstream without a decision of its own; upstream
//! connections belong to one agent, and to one client connection at a time.

mod behind;
mod body;
mod call;
mod changed;
mod checked;
mod checks;
mod exchange;
mod framing;
mod gated;
mod growth;
mod held;
mod http2;
mod interims;
mod leg;
mod lent;
mod listed;
mod message;
mod metered;
mod pool;
mod reading;
mod said;
mod says;
mod sessions;
mod streams;
mod tongue;
mod unpacked;
mod upstream;
mod websocket;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use agentguard_decision::{Decided, Recorder};
use agentguard_model::{ActionKind, ReasonCode};
use agentguard_protocol::http1::{MAX_FIELDS, MAX_HEAD};
use agentguard_protocol::refusal::Refusal;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout};

use crate::Port;
use crate::connection::{Flow, READ};
use crate::http::body::Answer;
use crate::http::exchange::Exchange;
use crate::http::gated::{Gated, Signals, Stop};
use crate::http::interims::{Interims, http1_bytes};
use crate::relay::{ClientStream, part, reset_behind};
use crate::woken::OnceWoken;

pub(crate) use body::{BodyFailed, Received, add};
pub(crate) use http2::run as run_http2;
pub(crate) use leg::Leg;
pub(crate) use pool::{Key, Pool, Spoken, Wanted};
pub(crate) use says::Said;
pub(crate) use sessions::Sessions;
pub(crate) use streams::Streams;
pub(crate) use upstream::Upstream;

/// Carries a connection that begins with an HTTP/1 request line.
pub(crate) async fn run<R: Recorder, P: Port, S: ClientStream>(
    flow: Arc<Flow<R, P>>,
    stream: S,
    first: Vec<u8>,
    leg: Leg<R>,
) {
    let signals = Arc::new(Signals::default());
    let exchange = Arc::new(Exchange::new(Arc::clone(&flow), Arc::clone(&signals), leg));
    let mut gated = Gated::new(stream, &first, Arc::clone(&signals), &flow.guard.limits);
    drop(first);
    let service = service_fn({
        let (exchange, signals) = (Arc::clone(&exchange), Arc::clone(&signals));
        move |request| Box::pin(answer(Arc::clone(&exchange), Arc::clone(&signals), request))
    });
    let (mut draining, mut denied) = (false, false);
    let changing = Arc::clone(&flow);
    let mut denial = pin!(async {
        OnceWoken::new(changing.changed()).await;
        exchange.denied().await;
    });
    // What is under way is decided again by itself; what comes next begins with a look-up.
    let mut drains = pin!(changing.drains());
    // An answer that is denied breaks off in its body, unless the client takes nothing of what is before.
    let linger = flow.guard.limits.linger;
    let mut stuck = pin!(sleep(linger));
    let (served, read) = loop {
        let mut connection = http1::Builder::new()
            .half_close(true)
            .preserve_header_case(true)
            .auto_date_header(false)
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_HEAD + READ)
            .serve_connection(TokioIo::new(gated), service.clone());
        // How it ended. Nothing: it may rest.
        let served = loop {
            let serving = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
                Poll::Pending if signals.rests() => Poll::Ready(None),
                served => served.map(Some),
            });
            tokio::select! {
                biased;
                served = serving => break served,
                () = &mut denial, if !denied => {
                    (draining, denied) = (true, true);
                    stuck.as_mut().reset(Instant::now() + linger);
                    Pin::new(&mut connection).graceful_shutdown();
                }
                () = &mut stuck, if denied => {
                    exchange.leave();
                    return connection.into_parts().io.into_inner().into_inner().reset();
                }
                () = &mut drains, if !draining => {
                    draining = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        let parts = connection.into_parts();
        gated = parts.io.into_inner();
        let read = parts.read_buf;
        if let Some(served) = served {
            break (served, read);
        }
        gated.rests(&read);
        // It has the whole buffer of what was read.
        drop(read);
        if draining || !rest(&flow, &exchange, &mut gated, drains.as_mut()).await {
            break (Ok(()), Bytes::new());
        }
    };
    if let Some(tunnel) = exchange.take_tunnel() {
        return Box::pin(websocket::carry(flow, gated, &read, tunnel)).await;
    }
    exchange.leave();
    let mut goodbye = Vec::new();
    if let Some(stop) = signals.stop() {
        goodbye = Box::pin(refuse_rest(&flow, stop)).await;
    } else if let Err(error) = served {
        if error.is_parse() {
            // hyper has answered 400 itself: it was stricter than the gate.
            let message = format!("the request cannot be read: {error}");
            let code = ReasonCode::HttpMalformed;
            Box::pin(flow.refuse(ActionKind::HttpRequest, code, message)).await;
        } else {
            // A body that broke off must not look complete.
            tracing::debug!(%error, "an HTTP connection broke");
            return reset_behind(gated.into_inner().into_tcp()).await;
        }
    }
    let mut stream = gated.into_inner();
    let said = Box::pin(part(&mut stream, &goodbye));
    if timeout(flow.guard.limits.linger, said).await.is_err() {
        tracing::debug!("the client does not close");
    }
}

/// Keeps no more of a connection than it has to, until its client asks for something or goes. False: it is over before.
async fn rest<R: Recorder, P: Port, S: ClientStream>(
    flow: &Flow<R, P>,
    exchange: &Exchange<R, P>,
    gated: &mut Gated<S>,
    drains: Pin<&mut impl Future<Output = ()>>,
) -> bool {
    let _rest = flow.guard.carried.rests();
    exchange.rests();
    let goes_on = tokio::select! {
        // What went wrong is seen by who reads on.
        _ = poll_fn(|cx| {
            exchange.poll_rest(cx);
            gated.poll_passed(cx)
        }) => true,
        () = drains => false,
    };
    exchange.wakes();
    goes_on
}

/// Answers one request, and says before what the upstream says before.
async fn answer<R: Recorder, P: Port>(
    exchange: Arc<Exchange<R, P>>,
    signals: Arc<Signals>,
    request: Request<Incoming>,
) -> Result<Response<Answer<R>>, Infallible> {
    let interims = Arc::new(Interims::default());
    let answering = pin!(async {
        let request = request.map(Received::Http1);
        let response = exchange.handle(request, &interims).await;
        interims.over();
        response
    });
    let saying = pin!(async {
        while let Some(interim) = interims.next().await {
            signals.write_interim(http1_bytes(&interim)).await;
        }
    });
    let (response, ()) = tokio::join!(answering, saying);
    Ok(response)
}

/// Records the request that never became one, and says what to answer behind everything else.
async fn refuse_rest<R: Recorder, P: Port>(flow: &Flow<R, P>, stop: &Stop) -> Vec<u8> {
    let kind = ActionKind::HttpRequest;
    let (status, decided): (StatusCode, Decided) = match stop {
        // The request was decided already and has its answer or lost its upstream.
        Stop::Refused(refused) if refused.in_body => return Vec::new(),
        Stop::Refused(refused) => {
            let message = refused.why.to_string();
            let decided = flow.refuse(kind, ReasonCode::HttpMalformed, message);
            (refused.why.status(), decided.await)
        }
        Stop::TimedOut => {
            let message = "the client did not finish its request's head in time";
            let decided = flow.refuse(kind, ReasonCode::ClientTimeout, message);
            (StatusCode::REQUEST_TIMEOUT, decided.await)
        }
    };
    let refusal = Refusal {
        status,
        reason: &decided.reason,
        decision: decided.id,
        spent: decided.spent(),
        retry_after: decided.retry_after(),
    };
    refusal.last_bytes()
}
