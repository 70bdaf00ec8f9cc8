//! Upstream connections that wait for the agent's next client connection.
//!
//! When a client connection has ended, what it leaves behind waits here, if it can be used again:
//! its last answer was read to the end, it was not upgraded, and no authentication was seen on it
//! that holds for a connection and not for a request.
//!
//! **Invariant:** a connection serves one agent all its life, and one client connection at a time. It
//! serves a client connection only if that may go, under the policy in force, to the very address
//! that it goes to, and would be answered the protocol that is spoken on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use agentguard_decision::Recorder;
use agentguard_model::{AgentId, HostName, Reason};
use http::Version;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::alpn::{Alpn, Offer};
use crate::connection::Flow;
use crate::fair;
use crate::http::upstream::Upstream;
use crate::{Limits, Port};

/// Whose an upstream connection is, where it goes and what is spoken on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Key {
    pub(crate) agent: AgentId,
    /// The name that was asked for and verified. Without one, the address was.
    pub(crate) host: Option<HostName>,
    /// The port that the client dialled.
    pub(crate) port: u16,
    /// Where it goes; none where a proxy goes there, which the name's entry says.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) spoken: Spoken,
}

/// What is spoken on an upstream connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Spoken {
    /// This version of HTTP in the clear. Of HTTP/2 nobody has asked the upstream (RFC 9113, 3.3).
    Clear(Version),
    /// What the upstream chose of an offer, inside TLS.
    Tls { offer: Offer, chosen: Alpn },
}

/// What a client connection wants to be spoken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wanted {
    Clear(Version),
    /// One of the client's offer.
    Tls(Offer),
}

impl Spoken {
    fn serves(self, wanted: Wanted) -> bool {
        match (self, wanted) {
            (Self::Clear(version), Wanted::Clear(wanted)) => version == wanted,
            (Self::Tls { offer, chosen }, Wanted::Tls(wanted)) => {
                wanted.is_served_by(offer, chosen)
            }
            _ => false,
        }
    }
}

impl Key {
    fn serves<R: Recorder, P: Port>(&self, flow: &Flow<R, P>, wanted: Wanted) -> bool {
        self.agent == flow.client.agent
            && self.host == flow.target.host
            && self.port == flow.target.port
            && flow.may_go_to(self.peer)
            && self.spoken.serves(wanted)
    }
}

/// The connections that wait. How many and how long is bounded in [`Limits`].
pub(crate) struct Pool<R: Recorder> {
    patience: Duration,
    idle: Duration,
    alike: usize,
    all: usize,
    /// A plain lock: held for a look through a few hundred entries at most.
    shelf: Mutex<Shelf<R>>,
}

struct Shelf<R: Recorder> {
    /// In the order in which they began to wait.
    waiting: BTreeMap<u64, Waiting<R>>,
    next: u64,
}

struct Waiting<R: Recorder> {
    upstream: Upstream<R>,
    /// Ends the wait.
    _watch: AbortOnDropHandle<()>,
}

impl<R: Recorder> Pool<R> {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            patience: limits.linger,
            idle: limits.upstream_idle,
            alike: limits.upstreams_idle_alike,
            all: limits.upstreams_idle,
            shelf: Mutex::new(Shelf {
                waiting: BTreeMap::new(),
                next: 0,
            }),
        }
    }

    /// A connection for this client connection, the one that began to wait last: of those on the client's own event loop,
    /// or else of all.
    ///
    /// # Errors
    /// The policy has changed since it was looked up where the client connection may go.
    pub(crate) fn take<P: Port>(
        &self,
        flow: &Flow<R, P>,
        wanted: Wanted,
    ) -> Result<Option<Upstream<R>>, Reason> {
        let found = {
            let mut shelf = self.shelf();
            let newest = shelf.waiting.iter().rev();
            let mut serve = newest.filter(|(_, Waiting { upstream, .. })| {
                upstream.is_ready() && upstream.key.serves(flow, wanted)
            });
            let first = serve.next();
            let here = first
                .into_iter()
                .chain(serve)
                .find(|(_, waiting)| waiting.upstream.is_here());
            let number = here.or(first).map(|(number, _)| *number);
            number.and_then(|number| shelf.waiting.remove(&number))
        };
        let Some(Waiting { upstream, .. }) = found else {
            return Ok(None);
        };
        flow.goes_to(upstream.key.peer)?;
        Ok(Some(upstream))
    }

    /// Keeps what a client connection of `flow` has left behind, once its last answer is over. Then
    /// it waits until it is taken, is gone or has waited too long, or until shutdown.
    pub(crate) fn keep<P: Port>(self: &Arc<Self>, flow: &Flow<R, P>, mut upstream: Upstream<R>) {
        let shutdown = flow.guard.shutdown.clone();
        let Some(idle) = upstream.may_wait(self.idle) else {
            return;
        };
        if shutdown.is_cancelled() {
            return;
        }
        if upstream.is_ready() {
            return self.put(upstream, idle, shutdown);
        }
        let pool = Arc::clone(self);
        fair::spawn(async move {
            if matches!(timeout(pool.patience, upstream.ready()).await, Ok(true)) {
                pool.put(upstream, idle, shutdown);
            }
        });
    }

    fn put(self: &Arc<Self>, upstream: Upstream<R>, idle: Duration, shutdown: CancellationToken) {
        let mut shelf = self.shelf();
        let number = shelf.next;
        shelf.next += 1;
        let gone = upstream.gone();
        let watch = watch(Arc::downgrade(self), number, idle, gone, shutdown);
        let key = upstream.key.clone();
        let waiting = Waiting {
            upstream,
            _watch: AbortOnDropHandle::new(fair::spawn(watch)),
        };
        shelf.waiting.insert(number, waiting);
        let like = |waiting: &&Waiting<R>| waiting.upstream.key == key;
        if shelf.waiting.values().filter(like).count() > self.alike {
            let mut oldest = shelf.waiting.iter();
            let oldest = oldest.find(|(_, waiting)| like(waiting));
            if let Some(number) = oldest.map(|(number, _)| *number) {
                shelf.waiting.remove(&number);
            }
        }
        if shelf.waiting.len() > self.all {
            shelf.waiting.pop_first();
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<R>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a connection's wait.
async fn watch<R: Recorder>(
    pool: Weak<Pool<R>>,
    number: u64,
    idle: Duration,
    gone: CancellationToken,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = sleep(idle) => {}
        () = gone.cancelled() => {}
        () = shutdown.cancelled() => {}
    }
    if let Some(pool) = pool.upgrade() {
        pool.shelf().waiting.remove(&number);
    }
}
