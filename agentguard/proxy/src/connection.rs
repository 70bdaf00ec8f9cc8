//! One connection, from its origin to its decision: what it is known by and what is decided on it.
//! `start` reads what the client shows, and passes it `onward`; `unread` carries what nobody reads, `way` says where it goes.

mod onward;
mod start;
mod unread;
mod way;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use agentguard_decision::{
    Asked, Changes, Client, Decided, Decider, Held, Recorder, Says, Spoken, Target,
};
use agentguard_model::{ActionKind, Reason, ReasonCode};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::carried::Carried;
use crate::decoders::Decoders;
use crate::dial::tune;
use crate::health::Health;
use crate::http::{Pool, Sessions, Streams};
use crate::relay::{Over, reset};
use crate::revoked::{Revoked, Ruled, unless};
use crate::route::{Route, locate};
use crate::seats::{Refusal, Seat, Seats};
use crate::woken::OnceWoken;
use crate::{Limits, Origin, Port, Tls};

pub(crate) use onward::Onward;
pub(crate) use way::unreachable;

/// The most that is read at once before a connection is decided.
pub(crate) const READ: usize = 16 * 1024;

/// What all connections of one listener share.
pub(crate) struct Guard<R: Recorder, P: Port> {
    pub(crate) decider: Arc<Decider<R>>,
    pub(crate) port: Arc<P>,
    pub(crate) limits: Limits,
    pub(crate) seats: Arc<Seats>,
    pub(crate) tls: Arc<Tls>,
    pub(crate) pool: Arc<Pool<R>>,
    pub(crate) health: Arc<Health>,
    pub(crate) decoders: Arc<Decoders>,
    pub(crate) carried: Arc<Carried>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) shutdown: CancellationToken,
}

/// One connection's facts, as the kernel told them.
pub(crate) struct Flow<R: Recorder, P: Port> {
    pub(crate) guard: Arc<Guard<R, P>>,
    pub(crate) client: Client,
    pub(crate) target: Target,
    /// What was dialled, to look it up again.
    origin: Origin,
    /// The addresses that were dialled, where a name stands behind the connection, and nobody has configured it.
    /// Requests go on at several of them at once (HTTP/2).
    dialled: Mutex<Vec<IpAddr>>,
    /// Whether it runs through a tunnel that the client asked for.
    inside: bool,
    /// Whether it was decided as TLS that is not opened.
    tls: AtomicBool,
    /// Of the policy, since it was looked up where the connection may go: what is to be decided again.
    changes: Changes,
    /// The same: whether it may go elsewhere.
    ways: Changes,
    /// Cancelled when its agent is quarantined.
    quarantined: CancellationToken,
    /// Where it may go.
    route: Result<Route, Reason>,
}

/// Carries one accepted connection to its end.
pub(crate) async fn run<R: Recorder, P: Port>(
    guard: Arc<Guard<R, P>>,
    stream: TcpStream,
    origin: Origin,
    _seat: Seat,
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "a connection cannot be tuned");
    }
    let agent = origin.client.agent;
    let _carried = guard.carried.client(agent);
    let cut = guard.decider.directory().cut_of(agent).now;
    let patience = guard.limits.cut;
    // What has a decision says first why it ends. Its upstream is gone already.
    let cut = OnceWoken::new(async {
        cut.cancelled().await;
        sleep(patience).await;
    });
    tokio::select! {
        () = Onward::to(begin(guard, stream, origin)).go() => {}
        () = cut => {}
    }
}

async fn begin<R: Recorder, P: Port>(
    guard: Arc<Guard<R, P>>,
    stream: TcpStream,
    origin: Origin,
) -> Onward {
    let flow = Arc::new(guard.flow(origin).await);
    flow.start(stream, Vec::new()).await
}

/// Refuses a connection that has no place among those that are carried, or of which nobody knows whose
/// it is; and records those that had no place to be refused in. Nothing is looked up for it.
pub(crate) async fn refuse<R: Recorder, P: Port>(
    guard: Arc<Guard<R, P>>,
    stream: TcpStream,
    peer: SocketAddr,
    origin: Option<Origin>,
    place: Refusal,
) {
    let decider = &guard.decider;
    // Without the port: each of these has another one, and they would not be counted together.
    let peer = peer.ip();
    let unknown = || {
        let message = format!("a connection from {peer} did not come through the gate");
        Reason::new(ReasonCode::OriginUnknown, message)
    };
    let limit = |message| Reason::new(ReasonCode::LimitReached, message);
    match &origin {
        Some(origin) => {
            let target = origin.target();
            let reason = limit("too many connections are open at once");
            let kind = ActionKind::Connect;
            decider.refuse(&origin.client, &target, kind, reason).await;
        }
        None => {
            decider.refuse_unseen(None, unknown(), 1).await;
        }
    }
    reset(stream);
    let mut place = place;
    while let Some((kept, missed)) = place.leave() {
        place = kept;
        let reason = match &missed.client {
            Some(_) => limit("so many connections were opened that these were reset unseen"),
            None => unknown(),
        };
        let client = missed.client.as_ref();
        decider.refuse_unseen(client, reason, missed.count).await;
    }
}

/// Records a connection that the system does not let be carried. It is closed.
pub(crate) async fn lost<R: Recorder, P: Port>(
    guard: &Guard<R, P>,
    origin: &Origin,
    error: &io::Error,
) {
    let message = format!("the connection cannot be carried: {error}");
    let reason = Reason::new(ReasonCode::Internal, message);
    let (client, target) = (&origin.client, origin.target());
    let decided = guard
        .decider
        .refuse(client, &target, ActionKind::Connect, reason);
    decided.await;
}

impl Origin {
    /// Where it goes, as far as is known without a look-up.
    fn target(&self) -> Target {
        let named = self.name.is_some();
        Target {
            host: self.name.clone(),
            ip: (!named).then(|| self.destination.ip().to_canonical()),
            port: self.destination.port(),
        }
    }
}

impl<R: Recorder, P: Port> Guard<R, P> {
    /// The facts of a connection with this origin.
    pub(crate) async fn flow(self: Arc<Self>, origin: Origin) -> Flow<R, P> {
        let (changes, ways) = (self.decider.changes(), self.decider.ways());
        let cut = self.decider.directory().cut_of(origin.client.agent);
        let (target, route) = locate(&self, &origin).await;
        Flow {
            guard: self,
            client: origin.client.clone(),
            target,
            origin,
            dialled: Mutex::default(),
            inside: false,
            tls: AtomicBool::new(false),
            changes,
            ways,
            quarantined: cut.quarantined,
            route,
        }
    }
}

impl<R: Recorder, P: Port> Flow<R, P> {
    /// As one that runs through a tunnel, which never leads to this host's own, wherever its name leads by now.
    pub(crate) fn inside(self) -> Self {
        let own = self.leads_to(|ip| self.guard.port.is_own(ip));
        let route = match own {
            true => {
                let message = format!("{} is this host's own, and no proxy leads there", self.to());
                Err(Reason::new(ReasonCode::LoopbackNotOwn, message))
            }
            false => self.route,
        };
        Self {
            inside: true,
            route,
            ..self
        }
    }

    /// Where it goes, for a person.
    fn to(&self) -> String {
        let Target { host, port, .. } = &self.target;
        match (host, self.target.ip) {
            (Some(name), _) => format!("{name}:{port}"),
            (None, Some(ip)) => SocketAddr::new(ip, *port).to_string(),
            (None, None) => format!("port {port}"),
        }
    }

    /// Whether the policy has changed since it was looked up where this may go.
    pub(crate) fn is_stale(&self) -> bool {
        self.ways.came()
    }

    /// Waits until nothing new is to begin on the connection: until that is so, its agent is quarantined, or all ends.
    pub(crate) async fn drains(&self) {
        let mut ways = self.ways.clone();
        OnceWoken::new(async {
            tokio::select! {
                () = ways.next() => {}
                () = self.quarantined.cancelled() => {}
                () = self.guard.shutdown.cancelled() => {}
            }
        })
        .await;
    }

    /// Waits until what is under way is decided again.
    pub(crate) async fn changed(&self) {
        self.changes.clone().next().await;
    }

    pub(crate) async fn time_out(self: Arc<Self>, stream: TcpStream) {
        let message = "the client did not send what a decision needs in time";
        self.refuse(ActionKind::Connect, ReasonCode::ClientTimeout, message)
            .await;
        reset(stream);
    }

    /// Decides the connection as a whole, which is not TLS.
    pub(crate) async fn connection(&self) -> Decided {
        let decider = &self.guard.decider;
        let behind = self.behind();
        let decided = decider.connection(&self.client, &self.target, &behind, false);
        decided.await
    }

    /// Decides the connection as a whole, which is TLS that is not opened.
    pub(crate) async fn tls(&self) -> Decided {
        self.tls.store(true, Ordering::Relaxed);
        let decider = &self.guard.decider;
        let behind = self.behind();
        let decided = decider.connection(&self.client, &self.target, &behind, true);
        decided.await
    }

    /// Goes on with the connection, which the policy allowed, until it is over or denied. A denial is
    /// recorded.
    pub(crate) async fn unless_revoked<T>(
        &self,
        account: &Account<R>,
        going: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Over> {
        let (changes, ruled) = (self.changes.clone(), Ruled::default());
        let decider = &self.guard.decider;
        let (reached, closed) = (|| self.reached(), || self.closed());
        let spoken = if self.tls.load(Ordering::Relaxed) {
            Spoken::Tls
        } else {
            Spoken::Other
        };
        let held = account.decided().held().map(Arc::downgrade);
        let (client, target) = (&self.client, &self.target);
        let rules = || ruled.set();
        let spent = decider.bytes_spent(client, target, spoken, held.unwrap_or_default(), rules);
        let revoked = decider.revoked(changes, client, reached, closed, spoken, rules);
        let denied = async {
            tokio::select! {
                denied = revoked => denied,
                denied = spent => denied,
            }
        };
        let over = unless(&ruled, pin!(denied), going).await;
        over.map_err(|denied| Over::revoked(&denied))
    }

    /// Decides a request.
    pub(crate) async fn request(&self, asked: &Asked) -> Decided {
        self.request_saying(asked, None).await
    }

    /// The same, whose content is here.
    pub(crate) async fn request_saying(&self, asked: &Asked, says: Option<&dyn Says>) -> Decided {
        let (decider, behind) = (&self.guard.decider, self.behind());
        let (client, target) = (&self.client, &self.target);
        let decided = decider.request_saying(client, target, &behind, asked, says);
        decided.await
    }

    /// Waits until the policy denies a request, which it allowed, or the time of a budget is over, and records that.
    /// `changes` is from before that decision; `held`: what it holds of budgets.
    pub(crate) fn request_revoked(
        self: &Arc<Self>,
        changes: Changes,
        asked: Arc<Asked>,
        held: Option<&Arc<Held>>,
    ) -> Revoked {
        let flow = Arc::clone(self);
        let held = held.map(Arc::downgrade).unwrap_or_default();
        Revoked::new(|ruled| async move {
            let decider = &flow.guard.decider;
            let (reached, closed) = (|| flow.reached(), || flow.closed());
            let (client, target, ruled) = (&flow.client, &flow.target, || ruled.set());
            let spoken = Spoken::Request(&asked);
            let spent = decider.bytes_spent(client, target, spoken, held.clone(), ruled);
            let expired = decider.expired(changes.clone(), client, target, &asked, held, ruled);
            let revoked = decider.revoked(changes, client, reached, closed, spoken, ruled);
            tokio::select! {
                denied = revoked => denied,
                denied = expired => denied,
                denied = spent => denied,
            }
        })
    }

    /// Records a denial.
    pub(crate) async fn refuse(
        &self,
        kind: ActionKind,
        code: ReasonCode,
        message: impl Into<String>,
    ) -> Decided {
        let reason = Reason::new(code, message);
        let decider = &self.guard.decider;
        decider
            .refuse(&self.client, &self.target, kind, reason)
            .await
    }

    /// Opens the account of an allowed action.
    pub(crate) fn account(&self, decided: Decided) -> Account<R> {
        Account::new(Arc::clone(&self.guard.decider), decided)
    }
}
