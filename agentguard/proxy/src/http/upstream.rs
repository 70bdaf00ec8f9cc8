//! One connection to an upstream.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::Duration;

use agentguard_decision::Recorder;
use agentguard_model::{Reason, ReasonCode};
use agentguard_protocol::http1::{MAX_FIELDS, MAX_HEAD};
use agentguard_protocol::persistence::{binds_connection, kept_for};
use futures_util::FutureExt as _;
use futures_util::task::noop_waker_ref;
use http::{HeaderMap, Request, Response, Version};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::Port;
use crate::alpn::{Alpn, Offer};
use crate::connection::{Flow, READ};
use crate::fair;
use crate::http::body::{Received, RequestBody};
use crate::http::exchange::chain;
use crate::http::http2;
use crate::http::lent::{Lender, Wire, lend};
use crate::http::pool::{Key, Spoken};

/// A connection to the upstream, with the task that drives it. It ends with its owner.
pub(crate) struct Upstream<R: Recorder> {
    pub(crate) key: Key,
    /// The thread of the loop that has its socket: who uses it on another one wakes that with each step, and is woken.
    on: ThreadId,
    handle: Handle<R>,
    /// Cancelled when the connection is over.
    gone: CancellationToken,
    /// Of HTTP/1. One of HTTP/2 carries what is under way on it to its end, and ends when nobody has a
    /// handle any more.
    driver: Option<Driver>,
}

/// What drives a connection of HTTP/1, and has its stream as long as it does.
struct Driver {
    lender: Lender,
    /// Where the task is.
    on: ThreadId,
    _task: AbortOnDropHandle<()>,
}

/// What requests are sent with.
pub(crate) struct Handle<R: Recorder> {
    sender: Sender<R>,
    seen: Arc<Seen>,
}

enum Sender<R: Recorder> {
    Http1(http1::SendRequest<SentBody<R>>),
    Http2(http2::Sender),
    /// Nothing for now: what is left of one of HTTP/1 is its stream ([`Upstream::rests`]).
    Rests(Wire),
}

/// What passed that matters for who may use the connection next.
#[derive(Default)]
struct Seen {
    /// Authentication that holds for the connection.
    bound: AtomicBool,
    /// How long the upstream keeps it without a request, in seconds and one more; 0: it did not say.
    kept_for: AtomicU32,
}

/// Why a request has no response.
pub(crate) enum SendFailed {
    /// There is no connection.
    Unreachable(Reason),
    /// The connection broke, and the request may have been seen.
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// A request on its way, which comes back if nothing of it was sent.
pub(crate) type Unsent<R> = Request<SentBody<R>>;

/// Boxed: each connection of HTTP/1 has room for 32 requests that are sent on it (tokio's channel in hyper), though none but
/// one ever is.
type SentBody<R> = Box<RequestBody<R>>;

impl<R: Recorder> Upstream<R> {
    /// Opens a connection in the clear.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(crate) async fn in_clear<P: Port>(
        flow: &Flow<R, P>,
        version: Version,
    ) -> Result<Self, Reason> {
        let (stream, peer) = flow.dial().await?;
        let key = flow.key(peer, Spoken::Clear(version));
        match version {
            Version::HTTP_2 => Self::http2(stream, key, flow.guard.limits.linger).await,
            _ => Self::http1(Box::new(stream), key),
        }
    }

    /// Opens a verified connection inside TLS.
    ///
    /// # Errors
    /// It cannot be reached, or it is not who it should be.
    pub(crate) async fn inside_tls<P: Port>(
        flow: &Flow<R, P>,
        offer: Offer,
    ) -> Result<Self, Reason> {
        let (stream, peer) = flow.guard.tls.upstreams.connect(flow, offer).await?;
        let chosen = Alpn::chosen(stream.get_ref().1.alpn_protocol());
        let key = flow.key(peer, Spoken::Tls { offer, chosen });
        match chosen {
            Alpn::H2 => Self::http2(stream, key, flow.guard.limits.linger).await,
            Alpn::Http1 | Alpn::None => Self::http1(Box::new(stream), key),
        }
    }

    /// Speaks HTTP/1 on a connection.
    fn http1(wire: Wire, key: Key) -> Result<Self, Reason> {
        let (sender, gone, driver) = begin(wire).ok_or_else(|| {
            let message = "no HTTP/1 can be spoken with the upstream";
            Reason::new(ReasonCode::Internal, message)
        })?;
        Ok(Self::new(Sender::Http1(sender), key, gone, Some(driver)))
    }

    /// Speaks HTTP/2 on a connection.
    async fn http2(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        key: Key,
        linger: Duration,
    ) -> Result<Self, Reason> {
        let shaken = http2::handshake(stream, linger).await;
        let (sender, connection) = shaken.map_err(|error| broke(&error))?;
        let (gone, _) = drive(connection);
        Ok(Self::new(Sender::Http2(sender), key, gone, None))
    }

    fn new(sender: Sender<R>, key: Key, gone: CancellationToken, driver: Option<Driver>) -> Self {
        Self {
            key,
            on: thread::current().id(),
            handle: Handle {
                sender,
                seen: Arc::default(),
            },
            gone,
            driver,
        }
    }

    /// Whether it is of the loop that asks, and what drives it is there too.
    pub(crate) fn is_here(&self) -> bool {
        let here = thread::current().id();
        let driven = self.driver.as_ref().is_none_or(|driver| driver.on == here);
        self.on == here && driven
    }

    /// What the upstream chose, inside TLS.
    pub(crate) fn alpn(&self) -> Alpn {
        match self.key.spoken {
            Spoken::Clear(_) => Alpn::None,
            Spoken::Tls { chosen, .. } => chosen,
        }
    }

    /// Sends a request if the connection takes one.
    pub(crate) async fn try_send(
        &mut self,
        request: Unsent<R>,
    ) -> Result<Response<Received>, Result<Unsent<R>, SendFailed>> {
        self.handle.try_send(request).await
    }

    /// Another handle on a connection that carries many requests at once and is not closed.
    pub(crate) fn another(&self) -> Option<Handle<R>> {
        match &self.handle.sender {
            Sender::Http2(sender) if !sender.is_closed() => Some(Handle {
                sender: Sender::Http2(sender.clone()),
                seen: Arc::clone(&self.handle.seen),
            }),
            _ => None,
        }
    }

    /// Waits until the answer before is over; false if the connection is closed then.
    pub(crate) async fn ready(&mut self) -> bool {
        match &mut self.handle.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => !sender.is_closed(),
            Sender::Rests(_) => false,
        }
    }

    /// Whether it takes a request now.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.handle.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => !sender.is_closed(),
            Sender::Rests(_) => false,
        }
    }

    /// Keeps no more of a connection of HTTP/1 than its stream, until it is woken. One on which anything is under way stays
    /// as it is.
    pub(crate) fn rests(&mut self) {
        let Some(driver) = self.driver.as_ref().filter(|_| self.is_ready()) else {
            return;
        };
        if let Some(wire) = driver.lender.take() {
            self.handle.sender = Sender::Rests(wire);
            self.driver = None;
        }
    }

    /// Waits until one that rests has come to its end. Others are not waited for.
    pub(crate) fn poll_ends(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.handle.sender {
            Sender::Rests(wire) => poll_says(wire, cx),
            Sender::Http1(_) | Sender::Http2(_) => Poll::Pending,
        }
    }

    /// Has one that rests take requests again. One that has ended meanwhile, or has said anything, takes none any more.
    pub(crate) fn wake(&mut self) {
        if !matches!(self.handle.sender, Sender::Rests(_)) {
            return;
        }
        let ended = Sender::Rests(Box::new(tokio::io::empty()));
        let Sender::Rests(mut wire) = mem::replace(&mut self.handle.sender, ended) else {
            return;
        };
        let mut cx = Context::from_waker(noop_waker_ref());
        if poll_says(&mut wire, &mut cx).is_ready() {
            return;
        }
        if let Some((sender, gone, driver)) = begin(wire) {
            self.handle.sender = Sender::Http1(sender);
            self.gone = gone;
            self.driver = Some(driver);
        }
    }

    /// Cancelled when it is over.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// How long another client connection may be waited for, `at_most` so long. `None`: none may use
    /// it.
    pub(crate) fn may_wait(&self, at_most: Duration) -> Option<Duration> {
        let seen = &self.handle.seen;
        if seen.bound.load(Ordering::Relaxed) {
            return None;
        }
        let wait = match seen.kept_for.load(Ordering::Relaxed) {
            0 => at_most,
            // A second less than it said: what is sent when it closes is lost.
            seconds => at_most.min(Duration::from_secs(seconds.saturating_sub(2).into())),
        };
        (!wait.is_zero()).then_some(wait)
    }
}

impl<R: Recorder> Handle<R> {
    /// Sends a request if the connection takes one.
    pub(crate) async fn try_send(
        &mut self,
        request: Unsent<R>,
    ) -> Result<Response<Received>, Result<Unsent<R>, SendFailed>> {
        self.seen.note(request.headers());
        let sent = match &mut self.sender {
            Sender::Http1(sender) => match sender.try_send_request(request).await {
                Ok(response) => Ok(response.map(Received::Http1)),
                Err(mut failed) => Err(match failed.take_message() {
                    Some(request) => Ok(request),
                    None => Err(SendFailed::Broken(failed.into_error().into())),
                }),
            },
            Sender::Http2(sender) => Box::pin(sender.try_send(request)).await,
            Sender::Rests(_) => Err(Ok(request)),
        };
        if let Ok(response) = &sent {
            self.seen.note(response.headers());
        }
        sent
    }
}

/// Begins to speak HTTP/1 on a connection: with what requests are sent, what is cancelled when it is over, and what has it
/// go on.
fn begin<R: Recorder>(
    wire: Wire,
) -> Option<(http1::SendRequest<SentBody<R>>, CancellationToken, Driver)> {
    let (lender, borrowed) = lend(wire);
    let begun = http1::Builder::new()
        .preserve_header_case(true)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD + READ)
        .handshake(TokioIo::new(borrowed));
    // Nothing is said first, so that nothing is waited for.
    let (sender, connection) = begun.now_or_never()?.ok()?;
    let (gone, task) = drive(connection.with_upgrades());
    let task = AbortOnDropHandle::new(task);
    Some((
        sender,
        gone,
        Driver {
            lender,
            on: thread::current().id(),
            _task: task,
        },
    ))
}

/// Waits until a stream has something to say, or has ended: nobody has asked it for anything.
fn poll_says(wire: &mut Wire, cx: &mut Context<'_>) -> Poll<()> {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    Pin::new(wire).poll_read(cx, &mut byte).map(drop)
}

/// Drives a connection to its end. What is answered with is cancelled then.
fn drive<E: std::error::Error>(
    connection: impl Future<Output = Result<(), E>> + Send + 'static,
) -> (CancellationToken, JoinHandle<()>) {
    let gone = CancellationToken::new();
    let over = gone.clone().drop_guard();
    let driver = fair::spawn(async move {
        let _over = over;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection broke");
        }
    });
    (gone, driver)
}

impl Seen {
    /// Looks at a head of either direction.
    fn note(&self, fields: &HeaderMap) {
        if binds_connection(fields) {
            self.bound.store(true, Ordering::Relaxed);
        }
        if let Some(kept) = kept_for(fields) {
            let seconds = u32::try_from(kept.as_secs()).unwrap_or(u32::MAX);
            self.kept_for
                .store(seconds.saturating_add(1), Ordering::Relaxed);
        }
    }
}

fn broke(error: &dyn std::error::Error) -> Reason {
    let message = format!("the upstream broke off: {}", chain(error));
    Reason::new(ReasonCode::UpstreamUnreachable, message)
}
