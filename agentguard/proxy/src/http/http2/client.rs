//! The upstream's side of HTTP/2.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use agentguard_decision::Recorder;
use agentguard_protocol::http1::MAX_HEAD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{Request, Response};
use hyper::body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fair;
use crate::http::body::Received;
use crate::http::http2::body::{Streamed, send};
use crate::http::http2::{CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW};
use crate::http::interims::Interims;
use crate::http::upstream::{SendFailed, Unsent};

/// How many requests of one connection may be given up before their answers. Beyond it another one is
/// opened: what the library has queued of them it keeps until it could be sent.
const GIVEN_UP: usize = 128;

/// How often it is looked whether the upstream takes more requests at once than it said before.
const LOOK: Duration = Duration::from_millis(100);

/// A handle on a connection that carries many requests at once.
#[derive(Clone)]
pub(crate) struct Sender {
    connection: Arc<Connection>,
}

/// What the handles and the requests of a connection share.
struct Connection {
    /// Held by who sends a request next. The library queues what the upstream does not take yet, and sends
    /// that later even if it was given up: nothing is given to it before there is a place.
    requests: tokio::sync::Mutex<SendRequest<Bytes>>,
    /// Another one, to look at.
    looks: SendRequest<Bytes>,
    live: AtomicUsize,
    given_up: AtomicUsize,
    freed: Notify,
    /// Tells the driver that nobody is left.
    _left: DropGuard,
}

/// The place of one request, until its body and its answer's are over.
pub(crate) struct Place(Arc<Connection>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

/// Counts a request that is given up before its answer.
struct Awaited<'a>(Option<&'a Connection>);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Speaks HTTP/2 on a connection. The future drives it until all its handles are dropped and its
/// answers are over; what cannot be written then within `linger` is dropped with it.
///
/// # Errors
/// The connection broke.
pub(crate) async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    linger: Duration,
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
    let left = CancellationToken::new();
    let driver = {
        let left = left.clone();
        async move {
            let mut connection = pin!(connection);
            tokio::select! {
                over = &mut connection => return over,
                () = left.cancelled() => {}
            }
            timeout(linger, connection).await.unwrap_or(Ok(()))
        }
    };
    let connection = Arc::new(Connection {
        looks: requests.clone(),
        requests: tokio::sync::Mutex::new(requests),
        live: AtomicUsize::new(0),
        given_up: AtomicUsize::new(0),
        freed: Notify::new(),
        _left: left.drop_guard(),
    });
    Ok((Sender { connection }, driver))
}

impl Connection {
    fn is_closed(&self) -> bool {
        let mut requests = self.looks.clone();
        let ready = poll_fn(|cx| requests.poll_ready(cx)).now_or_never();
        let given_up = self.given_up.load(Ordering::Relaxed);
        matches!(ready, Some(Err(_))) || given_up >= GIVEN_UP
    }

    /// Waits until the upstream takes one more request. None: no more can be sent.
    async fn place(self: &Arc<Self>) -> Option<Place> {
        while !self.is_closed() {
            // Only who holds the lock on `requests` makes it more.
            if self.live.load(Ordering::Acquire) < self.looks.current_max_send_streams() {
                self.live.fetch_add(1, Ordering::AcqRel);
                return Some(Place(Arc::clone(self)));
            }
            let _ = timeout(LOOK, self.freed.notified()).await;
        }
        None
    }
}

impl Sender {
    /// Whether no more requests can be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Sends a request once the connection takes one, and waits for the head of its answer. What of the
    /// request's body is not sent by then is sent beside the answer.
    pub(crate) async fn try_send<R: Recorder>(
        &mut self,
        request: Unsent<R>,
    ) -> Result<Response<Received>, Result<Unsent<R>, SendFailed>> {
        let connection = &self.connection;
        let mut requests = connection.requests.lock().await;
        let Some(place) = connection.place().await else {
            return Err(Ok(request));
        };
        if poll_fn(|cx| requests.poll_ready(cx)).await.is_err() {
            return Err(Ok(request));
        }
        let (mut parts, body) = request.into_parts();
        let interims = parts.extensions.remove::<Arc<Interims>>();
        let ended = body.is_end_stream();
        let denial = body.denial();
        let sent = requests.send_request(Request::from_parts(parts, ()), ended);
        drop(requests);
        let (answer, stream) = sent.map_err(broken)?;
        let place = Arc::new(place);
        let mut sending = (!ended).then(|| {
            let place = Arc::clone(&place);
            Box::pin(async move {
                let _place = place;
                send(stream, body, denial).await;
            })
        });
        let mut awaited = Awaited(Some(connection));
        let mut answering = pin!(answered(answer, interims));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answering => break answer,
                () = poll_fn(|cx| poll_sending(&mut sending, cx)) => sending = None,
            }
        };
        awaited.0 = None;
        let (parts, stream) = answer.map_err(broken)?.into_parts();
        if let Some(sending) = sending {
            fair::spawn(sending);
        }
        let body = Streamed::new(stream, &parts.headers).in_place(place);
        Ok(Response::from_parts(parts, Received::Http2(body)))
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
) -> Result<Response<RecvStream>, h2::Error> {
    while let Some(interim) = poll_fn(|cx| answer.poll_informational(cx)).await {
        let (parts, ()) = interim?.into_parts();
        if let Some(interims) = &interims {
            interims.put(parts.status, parts.headers);
        }
        // Others come first, however many there are.
        tokio::task::consume_budget().await;
    }
    answer.await
}

fn broken<T>(error: h2::Error) -> Result<T, SendFailed> {
    Err(SendFailed::Broken(error.into()))
}
