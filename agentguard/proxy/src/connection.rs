//! One connection, from its origin to its decision.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::http::Version;
use agentguard_decision::{Asked, Changes, Client, Decided, Decider, Foreseen, Recorder, Target};
use agentguard_model::{ActionKind, Handling, Reason, ReasonCode};
use agentguard_protocol::first_bytes::{FirstBytes, LineReader, MOST_NEEDED, classify};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::carried::Carried;
use crate::decoders::Decoders;
use crate::dial::{dial, tune};
use crate::health::Health;
use crate::http::{Key, Leg, Pool, Spoken};
use crate::late::Doubted;
use crate::outward::Outward;
use crate::relay::{Over, relay, reset};
use crate::replay::Replay;
use crate::revoked::{Revoked, Ruled, unless};
use crate::route::{Route, locate};
use crate::seats::{Refusal, Seat, Seats};
use crate::{Limits, Origin, Port, Tls, http, tls, tunnel};

/// The most that is read at once before a connection is decided.
pub(crate) const READ: usize = 16 * 1024;

/// Ports on which the client always speaks first.
const WEB_PORTS: [u16; 2] = [80, 443];

/// What all connections of one listener share.
pub(crate) struct Guard<R: Recorder, P: Port> {
    pub(crate) decider: Decider<R>,
    pub(crate) port: Arc<P>,
    pub(crate) limits: Limits,
    pub(crate) seats: Arc<Seats>,
    pub(crate) tls: Arc<Tls>,
    pub(crate) pool: Arc<Pool<R>>,
    pub(crate) health: Arc<Health>,
    pub(crate) decoders: Arc<Decoders>,
    pub(crate) carried: Arc<Carried>,
    pub(crate) shutdown: CancellationToken,
}

/// One connection's facts, as the kernel told them.
pub(crate) struct Flow<R: Recorder, P: Port> {
    pub(crate) guard: Arc<Guard<R, P>>,
    pub(crate) client: Client,
    pub(crate) target: Target,
    /// What was dialled, to look it up again.
    origin: Origin,
    /// The address that was dialled last, where a name stands behind the connection, and nobody
    /// has configured it.
    dialled: Mutex<Option<IpAddr>>,
    /// Whether it runs through a tunnel that the client asked for.
    inside: bool,
    /// Of the policy, since it was looked up where the connection may go.
    changes: Changes,
    /// Where it may go.
    route: Result<Route, Reason>,
}

/// Whether a client that is carried unread may still turn out to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Doubt {
    None,
    /// By the line that it has begun.
    Line,
}

/// What a client has shown so far.
enum Start {
    Tls,
    Http1,
    Http2,
    Socks5,
    Socks4,
    /// Bytes of another protocol, or of none that will ever be recognised.
    Raw,
    /// The same, most likely: a line that has not ended in the time it had.
    Line,
    /// Nothing in the time it had.
    Silent,
    /// Bytes that could still become TLS or HTTP, in the time it had.
    Stuck,
    /// The end of the stream and no byte.
    Ended,
    /// The connection broke.
    Gone(io::Error),
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
    let _carried = guard.carried.one(agent);
    let cut = guard.decider.directory().cut_of(agent);
    let patience = guard.limits.cut;
    tokio::select! {
        () = carry(guard, stream, origin) => {}
        // What has a decision says first why it ends. Its upstream is gone already.
        () = async { cut.cancelled().await; sleep(patience).await } => {}
    }
}

async fn carry<R: Recorder, P: Port>(guard: Arc<Guard<R, P>>, stream: TcpStream, origin: Origin) {
    let flow = Arc::new(guard.flow(origin).await);
    flow.start(stream, Vec::new()).await;
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
        let changes = self.decider.changes();
        let (target, route) = locate(&self, &origin).await;
        Flow {
            guard: self,
            client: origin.client.clone(),
            target,
            origin,
            dialled: Mutex::new(None),
            inside: false,
            changes,
            route,
        }
    }
}

impl<R: Recorder, P: Port> Flow<R, P> {
    /// As one that runs through a tunnel.
    pub(crate) fn inside(self) -> Self {
        Self {
            inside: true,
            ..self
        }
    }

    /// Carries a connection of which `bytes` have been read.
    pub(crate) async fn start(self: Arc<Self>, mut stream: TcpStream, mut bytes: Vec<u8>) {
        let foreseen = self.guard.decider.foresee(&self.client, &self.target);
        let shown = self.look(&mut stream, foreseen, &mut bytes).await;
        // Where it may go depends on the policy, and the client can take its time.
        let this = if self.is_stale() {
            Arc::new(self.looked_up_again().await)
        } else {
            self
        };
        this.carry(shown, stream, bytes).await;
    }

    /// The same connection under the policy in force.
    async fn looked_up_again(&self) -> Self {
        let guard = Arc::clone(&self.guard);
        Self {
            inside: self.inside,
            ..guard.flow(self.origin.clone()).await
        }
    }

    /// Whether the policy has changed since it was looked up where this may go.
    pub(crate) fn is_stale(&self) -> bool {
        self.changes.came()
    }

    /// Waits until that is so.
    pub(crate) async fn stale(&self) {
        self.changes.clone().next().await;
    }

    /// Each way is boxed: a connection keeps what its own takes, and the stack holds none of them as a
    /// whole.
    async fn carry(self: Arc<Self>, shown: Start, stream: TcpStream, bytes: Vec<u8>) {
        let foreseen = self.guard.decider.foresee(&self.client, &self.target);
        match shown {
            Start::Tls => Box::pin(tls::run(self, stream, bytes)).await,
            Start::Http1 if bytes.starts_with(b"CONNECT ") && !self.inside => {
                Box::pin(tunnel::connect(self, stream, bytes)).await;
            }
            Start::Socks5 if !self.inside => Box::pin(tunnel::socks(self, stream, bytes)).await,
            Start::Socks5 => {
                let message = "a proxy behind a proxy is not carried";
                tunnel::refuse(&self, stream, message).await;
            }
            Start::Socks4 => {
                let message = "SOCKS4 is not carried; use SOCKS5";
                tunnel::refuse(&self, stream, message).await;
            }
            Start::Http1 => {
                let leg = Leg::plain(Version::HTTP_11);
                Box::pin(http::run(self, stream, &bytes, leg)).await;
            }
            Start::Http2 => {
                let stream = Replay::new(bytes, stream);
                let leg = Leg::plain(Version::HTTP_2);
                Box::pin(http::run_http2(self, stream, leg)).await;
            }
            Start::Raw => Box::pin(self.raw(stream, &bytes, Doubt::None)).await,
            Start::Line => Box::pin(self.raw(stream, &bytes, Doubt::Line)).await,
            Start::Stuck => self.time_out(stream).await,
            Start::Silent | Start::Ended if needs_bytes(foreseen) => self.time_out(stream).await,
            Start::Silent => Box::pin(self.silent(stream)).await,
            Start::Ended => Box::pin(self.raw(stream, &[], Doubt::None)).await,
            Start::Gone(error) => {
                let decided = self.connection().await;
                if decided.allowed {
                    self.account(decided)
                        .fail(format!("the client is gone: {error}"));
                }
            }
        }
    }

    /// Reads until it is clear what the client speaks. An upstream that speaks first must not wait
    /// for a client that waits for it: where the bytes change nothing, patience is short.
    async fn look(&self, stream: &mut TcpStream, foreseen: Foreseen, bytes: &mut Vec<u8>) -> Start {
        let limits = &self.guard.limits;
        let needed = needs_bytes(foreseen);
        let hasty = !needed && !WEB_PORTS.contains(&self.target.port);
        let begun = Instant::now();
        loop {
            let shown = classify(bytes);
            match shown {
                FirstBytes::Tls => return Start::Tls,
                FirstBytes::Http1 => return Start::Http1,
                FirstBytes::Http2Preface => return Start::Http2,
                FirstBytes::Socks5 => return Start::Socks5,
                FirstBytes::Socks4 => return Start::Socks4,
                FirstBytes::Raw => return Start::Raw,
                FirstBytes::NeedMore | FirstBytes::Line => {}
            }
            let is_line = shown == FirstBytes::Line;
            if is_line && bytes.len() >= MOST_NEEDED {
                return Start::Line;
            }
            let patience = if hasty && bytes.is_empty() || !needed && is_line {
                limits.client_first
            } else {
                limits.head
            };
            bytes.reserve(READ);
            match timeout_at(begun + patience, stream.read_buf(bytes)).await {
                Ok(Ok(0)) if bytes.is_empty() => return Start::Ended,
                Ok(Ok(0)) => return Start::Raw,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Start::Gone(error),
                Err(_) if bytes.is_empty() => return Start::Silent,
                Err(_) if is_line => return Start::Line,
                Err(_) => return Start::Stuck,
            }
        }
    }

    /// Bytes that nothing here understands, and connections without any.
    async fn raw(&self, stream: TcpStream, bytes: &[u8], doubt: Doubt) {
        let decided = self.connection().await;
        if !decided.allowed {
            return reset(stream);
        }
        let account = self.account(decided);
        if let Some((stream, upstream)) = self.reach(stream, &account).await {
            self.join(stream, upstream, bytes, doubt, &account).await;
        }
    }

    /// A connection whose client waits, maybe for its upstream to speak first. If it is the client after all,
    /// what it says is looked at as if it had not waited.
    async fn silent(self: Arc<Self>, stream: TcpStream) {
        let decided = self.connection().await;
        if !decided.allowed {
            return reset(stream);
        }
        let account = self.account(decided);
        let Some((mut stream, upstream)) = self.reach(stream, &account).await else {
            return;
        };
        let mut bytes = Vec::new();
        let looked = {
            let looking = pin!(async {
                let (mut first, mut again, mut head) = ([0], [0], [0; 9]);
                let spoken = tokio::select! {
                    spoken = stream.peek(&mut first) => spoken,
                    said = upstream.peek(&mut head) => match said {
                        // A server of HTTP/2 does not wait for its client (RFC 9113, 3.4), nor the client for
                        // it.
                        Ok(9) if is_settings(head) => stream.peek(&mut again).await,
                        _ => return Start::Raw,
                    },
                };
                if let Err(error) = spoken {
                    return Start::Gone(error);
                }
                let foreseen = self.guard.decider.foresee(&self.client, &self.target);
                self.look(&mut stream, foreseen, &mut bytes).await
            });
            self.unless_revoked(looking).await
        };
        let doubt = match looked {
            Err(over) => return over.end(&account, stream, Some(upstream)),
            Ok(Start::Raw | Start::Silent | Start::Ended) => Doubt::None,
            Ok(Start::Line) => Doubt::Line,
            Ok(Start::Gone(error)) => {
                account.fail(format!("the client is gone: {error}"));
                return upstream.reset();
            }
            Ok(shown) => {
                drop((upstream, account));
                let this = if self.is_stale() {
                    Arc::new(self.looked_up_again().await)
                } else {
                    self
                };
                return this.carry(shown, stream, bytes).await;
            }
        };
        self.join(stream, upstream, &bytes, doubt, &account).await;
    }

    /// Opens the upstream of a connection that is carried untouched. None: it is over.
    pub(crate) async fn reach(
        &self,
        stream: TcpStream,
        account: &Account<R>,
    ) -> Option<(TcpStream, Outward)> {
        match self.dial().await {
            Ok((upstream, _)) => Some((stream, upstream)),
            Err(reason) => {
                account.fail(reason.message);
                reset(stream);
                None
            }
        }
    }

    /// Carries a connection untouched.
    async fn join(
        &self,
        mut stream: TcpStream,
        mut upstream: Outward,
        bytes: &[u8],
        doubt: Doubt,
        account: &Account<R>,
    ) {
        let is_request = AtomicBool::new(false);
        let buffer = self.guard.limits.buffer;
        let line = (doubt == Doubt::Line).then(|| {
            let mut line = LineReader::default();
            line.push(bytes);
            line
        });
        let over = {
            let (reader, writer) = stream.split();
            let client = (Doubted::new(reader, line, &is_request), writer);
            let going = pin!(relay(
                client,
                upstream.split(),
                bytes,
                buffer,
                account.counts()
            ));
            self.unless_revoked(going).await.unwrap_or_else(|over| over)
        };
        if !is_request.load(Ordering::Relaxed) {
            return over.end(account, stream, Some(upstream));
        }
        let message = "the client took so long for its first line that it was carried unread, and then it \
                       was a request; a request's line has to come at once";
        let denied = self.refuse(ActionKind::Connect, ReasonCode::ClientTimeout, message);
        Over::revoked(&denied.await).end(account, stream, Some(upstream));
    }

    pub(crate) async fn time_out(&self, stream: TcpStream) {
        let message = "the client did not send what a decision needs in time";
        self.refuse(ActionKind::Connect, ReasonCode::ClientTimeout, message)
            .await;
        reset(stream);
    }

    /// Decides the connection as a whole.
    pub(crate) async fn connection(&self) -> Decided {
        let decider = &self.guard.decider;
        decider.connection(&self.client, &self.target).await
    }

    /// Goes on with the connection, which the policy allowed, until it is over or denied. A denial is
    /// recorded.
    pub(crate) async fn unless_revoked<T>(
        &self,
        going: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Over> {
        let (changes, ruled) = (self.changes.clone(), Ruled::default());
        let decider = &self.guard.decider;
        let (reached, closed) = (|| self.reached(), || self.closed());
        let denied = decider.revoked(changes, &self.client, reached, closed, None, || ruled.set());
        let over = unless(&ruled, pin!(denied), going).await;
        over.map_err(|denied| Over::revoked(&denied))
    }

    /// Why the address that was dialled may not be used any more.
    fn closed(&self) -> Option<Reason> {
        let dialled = *self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, ip) = (self.target.host.as_ref()?, dialled?);
        self.guard.port.closed(self.client.agent, name, ip)
    }

    /// The target, with the address that a rule on addresses would be about by now.
    fn reached(&self) -> Target {
        let dialled = *self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        Target {
            ip: self.target.ip.or(dialled),
            ..self.target.clone()
        }
    }

    /// Decides a request.
    pub(crate) async fn request(&self, asked: &Asked) -> Decided {
        let (decider, behind) = (&self.guard.decider, self.behind());
        let decided = decider.request(&self.client, &self.target, &behind, asked);
        decided.await
    }

    /// The addresses behind the name: the one that was dialled, or those that may be. None where the
    /// name is configured to be elsewhere.
    pub(crate) fn behind(&self) -> Vec<IpAddr> {
        let dialled = *self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        match (dialled, &self.route) {
            (Some(ip), _) => vec![ip],
            (None, Ok(Route::To(addresses))) => addresses.iter().map(SocketAddr::ip).collect(),
            (None, _) => Vec::new(),
        }
    }

    /// Waits until the policy denies a request, which it allowed, and records that. `changes` is
    /// from before that decision.
    pub(crate) fn request_revoked(
        self: &Arc<Self>,
        changes: Changes,
        asked: Arc<Asked>,
    ) -> Revoked {
        let flow = Arc::clone(self);
        Revoked::new(|ruled| async move {
            let decider = &flow.guard.decider;
            let (reached, closed) = (|| flow.reached(), || flow.closed());
            let (client, asked) = (&flow.client, Some(&*asked));
            decider
                .revoked(changes, client, reached, closed, asked, || ruled.set())
                .await
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
        Account::new(self.guard.decider.clone(), decided)
    }

    /// Whether one of the addresses that it may go to is such.
    pub(crate) fn leads_to(&self, such: impl Fn(IpAddr) -> bool) -> bool {
        let routes = self.route.as_ref().into_iter();
        let mut addresses = routes.flat_map(Route::addresses);
        addresses.any(|address| such(address.ip().to_canonical()))
    }

    /// Why it can be dialled nowhere, if that is known already.
    pub(crate) fn unreachable(&self) -> Option<Reason> {
        self.route.as_ref().err().cloned()
    }

    /// Dials where this connection goes: what the name resolves to, or the address that was
    /// dialled. Nothing that the client says plays a part.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(crate) async fn dial(&self) -> Result<(Outward, Option<SocketAddr>), Reason> {
        let (limits, health) = (&self.guard.limits, &self.guard.health);
        let route = self.route.clone()?;
        let dialled = async {
            if let Route::Through(via, to) = &route {
                return Ok((via.open(to, limits, health).await?, None));
            }
            let dialled = dial(route.addresses(), limits, health).await;
            let (stream, peer) = dialled.map_err(|why| unreachable(&why))?;
            Ok((stream, Some(peer)))
        };
        let (stream, peer) = match timeout(limits.dial, dialled).await {
            Ok(dialled) => dialled?,
            Err(_) => return Err(unreachable(&route.silent(limits.dial))),
        };
        self.goes_to(peer)?;
        let agent = self.client.agent;
        let cut = self.guard.decider.directory().cut_of(agent);
        let stream = Outward::new(stream, cut, self.guard.carried.one(agent));
        Ok((stream, peer))
    }

    /// Notes the address that a connection of it goes to from now on, where it is known.
    ///
    /// # Errors
    /// The policy has changed since it was looked up where it may go.
    pub(crate) fn goes_to(&self, peer: Option<SocketAddr>) -> Result<(), Reason> {
        if let (Ok(Route::To(_)), Some(peer)) = (&self.route, peer) {
            let address = peer.ip().to_canonical();
            *self.dialled.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
        }
        // A change from here on finds the address that was dialled; one before was about none.
        if self.is_stale() {
            let message = "the policy changed while the upstream was dialled: connect again";
            return Err(Reason::new(ReasonCode::PolicyChanged, message));
        }
        Ok(())
    }

    /// Whether it may go where a connection goes, by the look-up that it has made.
    pub(crate) fn may_go_to(&self, peer: Option<SocketAddr>) -> bool {
        match (&self.route, peer) {
            (Ok(Route::Through(..)), None) => true,
            (Ok(route), Some(peer)) => route.addresses().contains(&peer),
            _ => false,
        }
    }

    /// What an upstream connection that it has opened is known by.
    pub(crate) fn key(&self, peer: Option<SocketAddr>, spoken: Spoken) -> Key {
        Key {
            agent: self.client.agent,
            host: self.target.host.clone(),
            port: self.target.port,
            peer,
            spoken,
        }
    }
}

/// Whether a frame of HTTP/2 with this head is one of settings of the connection (RFC 9113, 4.1 and 6.5).
const fn is_settings(head: [u8; 9]) -> bool {
    const SETTINGS: u8 = 4;
    matches!(head, [_, _, _, SETTINGS, _, 0, 0, 0, 0])
}

/// Whether nothing can be decided before the client has spoken.
fn needs_bytes(foreseen: Foreseen) -> bool {
    matches!(
        foreseen,
        Foreseen::NeedsRequest | Foreseen::Allow(Handling::Inspect)
    )
}

pub(crate) fn unreachable(why: &str) -> Reason {
    let message = format!("the upstream cannot be reached: {why}");
    Reason::new(ReasonCode::UpstreamUnreachable, message)
}
