//! The upstream's side of one client connection.
//!
//! A request goes out on the connection of the one before, on one that was opened for the client's
//! handshake, on one that waits in the pool, or on a new one, in this order. If one that was used
//! before turns out closed before anything was sent, a new one is opened once; what may have been
//! seen is not sent again.

use std::sync::{Mutex, PoisonError};

use agentguard_decision::Recorder;
use agentguard_model::{Reason, ReasonCode};
use agentguard_protocol::request::Scheme;
use http::{Response, Version};
use tokio::time::timeout;

use crate::Port;
use crate::alpn::{Alpn, Offer};
use crate::connection::Flow;
use crate::http::body::Received;
use crate::http::pool::Wanted;
use crate::http::upstream::{Handle, SendFailed, Unsent, Upstream};

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
    pub(crate) fn plain(version: Version) -> Self {
        Self {
            scheme: Scheme::Http,
            version,
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

    /// Sends a request on `kept`, the connection of the request before, or on another one, and keeps
    /// it.
    pub(crate) async fn send<P: Port>(
        &self,
        flow: &Flow<R, P>,
        kept: &mut Option<Upstream<R>>,
        mut request: Unsent<R>,
    ) -> Result<Response<Received>, SendFailed> {
        let patience = flow.guard.limits.dial;
        if let Some(upstream) = kept
            && !upstream.is_ready()
            && !matches!(timeout(patience, upstream.ready()).await, Ok(true))
        {
            *kept = None;
        }
        if kept.is_none() {
            *kept = self.waiting(flow)?;
        }
        if let Some(upstream) = kept {
            match upstream.try_send(request).await {
                Ok(response) => return Ok(response),
                Err(Ok(unsent)) => request = unsent,
                Err(Err(failed)) => return Err(failed),
            }
        }
        let upstream = kept.insert(Box::pin(self.open(flow)).await?);
        match upstream.try_send(request).await {
            Ok(response) => Ok(response),
            Err(Err(failed)) => Err(failed),
            Err(Ok(_)) => Err(closed()),
        }
    }

    /// Sends a request of HTTP/2 beside others, on the connection that they share.
    pub(crate) async fn send_beside<P: Port>(
        &self,
        flow: &Flow<R, P>,
        mut request: Unsent<R>,
    ) -> Result<Response<Received>, SendFailed> {
        for attempt in 0..2 {
            let mut handle = self.shared(flow, attempt == 0).await?;
            match handle.try_send(request).await {
                Ok(response) => return Ok(response),
                Err(Ok(unsent)) => request = unsent,
                Err(Err(failed)) => return Err(failed),
            }
        }
        Err(closed())
    }

    /// The connection that all requests share, or `may_wait`: one that was there before, or a new one.
    async fn shared<P: Port>(
        &self,
        flow: &Flow<R, P>,
        may_wait: bool,
    ) -> Result<Handle<R>, SendFailed> {
        let mut shared = self.shared.lock().await;
        if let Some(handle) = shared.as_ref().and_then(Upstream::another) {
            return Ok(handle);
        }
        let used = if may_wait { self.waiting(flow)? } else { None };
        let upstream = match used {
            Some(upstream) => upstream,
            None => Box::pin(self.open(flow)).await?,
        };
        shared.insert(upstream).another().ok_or_else(closed)
    }

    /// The connection that was opened for the client's handshake, or one from the pool.
    fn waiting<P: Port>(&self, flow: &Flow<R, P>) -> Result<Option<Upstream<R>>, SendFailed> {
        let first = self.take_first();
        let waiting = match first {
            Ok(None) => flow.guard.pool.take(flow, self.wanted()),
            first => first,
        };
        waiting.map_err(SendFailed::Unreachable)
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

    /// What the client was answered has to be spoken.
    fn wanted(&self) -> Wanted {
        match (self.scheme, self.version) {
            (Scheme::Http, version) => Wanted::Clear(version),
            (Scheme::Https, Version::HTTP_2) => Wanted::Tls(Offer::H2),
            (Scheme::Https, _) => Wanted::Tls(Offer::HTTP1),
        }
    }

    /// A new connection.
    async fn open<P: Port>(&self, flow: &Flow<R, P>) -> Result<Upstream<R>, SendFailed> {
        let opened = match self.wanted() {
            Wanted::Clear(version) => Upstream::in_clear(flow, version).await,
            Wanted::Tls(offer) => Upstream::inside_tls(flow, offer).await,
        };
        let upstream = opened.map_err(SendFailed::Unreachable)?;
        if self.version == Version::HTTP_2 && upstream.another().is_none() {
            return Err(unreachable("the upstream does not speak HTTP/2 any more"));
        }
        Ok(upstream)
    }

    /// Leaves the connections to the agent's next client connections: `kept`, the last one of
    /// HTTP/1, and the one that requests of HTTP/2 shared.
    pub(crate) fn leave<P: Port>(&self, flow: &Flow<R, P>, kept: Option<Upstream<R>>) {
        // Locked only by a request that has not got its connection yet.
        let shared = self.shared.try_lock().ok();
        let shared = shared.and_then(|mut shared| shared.take());
        for upstream in kept.into_iter().chain(shared) {
            flow.guard.pool.keep(flow, upstream);
        }
    }
}

fn closed() -> SendFailed {
    unreachable("the upstream closed the connection before it took the request")
}

fn unreachable(message: &str) -> SendFailed {
    let reason = Reason::new(ReasonCode::UpstreamUnreachable, message);
    SendFailed::Unreachable(reason)
}
