//! Tunnels that an agent asks a proxy for: CONNECT (RFC 9110, 9.3.6) and SOCKS5 (RFC 1928).
//!
//! The request is decided on the proxy that was dialled, as one with the method CONNECT. Where it
//! wants to go is then decided as if it had been dialled, and the guard goes there itself, from its
//! own look-up of the name: the proxy is not used, so that it is no way past the rules. Inside, the
//! connection begins anew, with TLS, HTTP or anything else.
//!
//! **Invariant:** a tunnel leads where a connection of the same agent could have gone, and never to
//! loopback: that would be the guard's own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;

use agentguard_decision::{Asked, Decided, Foreseen, Recorder};
use agentguard_model::{ActionKind, Reason, ReasonCode};
use agentguard_protocol::authority::Host;
use agentguard_protocol::refusal::Refusal;
use agentguard_protocol::tunnel::{
    Destination, Progress, SOCKS_HOST_UNREACHABLE, SOCKS_NO_AUTHENTICATION, SOCKS_NOT_ALLOWED,
    SOCKS_NOTHING_ACCEPTABLE, SOCKS_SUCCEEDED, SocksRefused, read_connect, read_socks_greeting,
    read_socks_request, socks_reply,
};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::account::Account;
use crate::connection::{Flow, READ};
use crate::relay::{part, reset, revoked};
use crate::revoked::Revoked;
use crate::{Origin, Port};

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Carries a connection that begins with a CONNECT request.
pub(crate) async fn connect<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    mut stream: TcpStream,
    mut bytes: Vec<u8>,
) {
    let kind = ActionKind::HttpRequest;
    let (status, decided) = match read(&flow, &mut stream, &mut bytes, read_connect).await {
        Ok(destination) => match open(&flow, &destination).await {
            Ok(tunnel) => return tunnel.carry(stream, bytes, ESTABLISHED).await,
            Err(NotOpened::Denied(decided)) => (StatusCode::FORBIDDEN, decided),
            Err(NotOpened::Unreachable(decided)) => (StatusCode::BAD_GATEWAY, decided),
        },
        Err(NotRead::Refused(why)) => {
            let refused = flow.refuse(kind, ReasonCode::HttpMalformed, why.to_string());
            (why.status(), refused.await)
        }
        Err(NotRead::TimedOut) => {
            let message = "the client did not finish its request's head in time";
            let refused = flow.refuse(kind, ReasonCode::ClientTimeout, message);
            (StatusCode::REQUEST_TIMEOUT, refused.await)
        }
        Err(NotRead::Gone(error)) => return left(&flow, &error).await,
    };
    let refusal = Refusal {
        status,
        reason: &decided.reason,
        decision: decided.id,
        spent: decided.spent(),
        retry_after: decided.retry_after(),
    };
    say_last(&flow, stream, &refusal.last_bytes()).await;
}

/// Carries a connection that begins with a SOCKS5 greeting.
pub(crate) async fn socks<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    mut stream: TcpStream,
    mut bytes: Vec<u8>,
) {
    let shaken = async {
        read(&flow, &mut stream, &mut bytes, read_socks_greeting).await?;
        stream.write_all(&SOCKS_NO_AUTHENTICATION).await?;
        read(&flow, &mut stream, &mut bytes, read_socks_request).await
    };
    match shaken.await {
        Ok(destination) => match open(&flow, &destination).await {
            Ok(tunnel) => {
                let succeeded = socks_reply(SOCKS_SUCCEEDED);
                tunnel.carry(stream, bytes, &succeeded).await;
            }
            Err(NotOpened::Denied(_)) => {
                say_last(&flow, stream, &socks_reply(SOCKS_NOT_ALLOWED)).await;
            }
            Err(NotOpened::Unreachable(_)) => {
                say_last(&flow, stream, &socks_reply(SOCKS_HOST_UNREACHABLE)).await;
            }
        },
        Err(NotRead::Refused(why)) => {
            let code = ReasonCode::ProtocolNotSupported;
            flow.refuse(ActionKind::Connect, code, why.to_string())
                .await;
            match why {
                SocksRefused::Authentication => {
                    say_last(&flow, stream, &SOCKS_NOTHING_ACCEPTABLE).await;
                }
                why => say_last(&flow, stream, &socks_reply(why.reply())).await,
            }
        }
        Err(NotRead::TimedOut) => flow.time_out(stream).await,
        Err(NotRead::Gone(error)) => left(&flow, &error).await,
    }
}

/// Records that the client left before it said where to go.
async fn left<R: Recorder, P: Port>(flow: &Flow<R, P>, error: &io::Error) {
    let message = format!("the client left before it said where to go: {error}");
    flow.refuse(ActionKind::Connect, ReasonCode::ClientTimeout, message)
        .await;
}

/// Why there is no message.
enum NotRead<E> {
    Refused(E),
    TimedOut,
    Gone(io::Error),
}

impl<E> From<io::Error> for NotRead<E> {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// Reads a message and takes it off `bytes`, which are what was read before.
async fn read<T, E, R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    reader: impl Fn(&[u8]) -> Result<Progress<T>, E>,
) -> Result<T, NotRead<E>> {
    let until = Instant::now() + flow.guard.limits.head;
    loop {
        match reader(bytes).map_err(NotRead::Refused)? {
            Progress::Done(message, used) => {
                bytes.drain(..used.min(bytes.len()));
                return Ok(message);
            }
            Progress::NeedMore => bytes.reserve(READ),
        }
        match timeout_at(until, stream.read_buf(bytes)).await {
            Ok(Ok(0)) => return Err(NotRead::Gone(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => read?,
            Err(_) => return Err(NotRead::TimedOut),
        };
    }
}

/// A tunnel that the policy allows.
struct Tunnel<R: Recorder, P: Port> {
    /// Of the request to the proxy.
    account: Account<R>,
    revoked: Revoked,
    inside: Arc<Flow<R, P>>,
}

/// Why there is no tunnel. Recorded.
enum NotOpened {
    Denied(Decided),
    /// It is allowed, and its name has no address.
    Unreachable(Decided),
}

/// Decides on a tunnel: that the proxy is asked for it, and then where it leads.
async fn open<R: Recorder, P: Port>(
    flow: &Arc<Flow<R, P>>,
    destination: &Destination,
) -> Result<Tunnel<R, P>, NotOpened> {
    let decider = &flow.guard.decider;
    let (changes, to) = (decider.changes(), destination.to_string());
    let asked = Arc::new(Asked::tunnel(Method::CONNECT.as_str(), &to));
    let decided = flow.request(&asked).await;
    if !decided.allowed {
        return Err(NotOpened::Denied(decided));
    }
    let account = flow.account(decided);
    account.answered(StatusCode::OK);
    let denied = |denied: Decided| {
        account.answered(StatusCode::FORBIDDEN);
        account.fail(revoked(&denied));
        NotOpened::Denied(denied)
    };
    let inside = match lead(flow, destination).await {
        Ok(inside) => Arc::new(inside),
        Err(refused) => return Err(denied(refused)),
    };
    if decider.foresee(&inside.client, &inside.target) == Foreseen::Deny {
        let decided = inside.connection().await;
        if !decided.allowed {
            return Err(denied(decided));
        }
    }
    if let Some(reason) = inside.unreachable() {
        let mut decided = inside.connection().await;
        if !decided.allowed {
            return Err(denied(decided));
        }
        inside.account(decided.clone()).fail(&reason.message);
        account.answered(StatusCode::BAD_GATEWAY);
        decided.reason = reason;
        return Err(NotOpened::Unreachable(decided));
    }
    Ok(Tunnel {
        revoked: flow.request_revoked(changes, asked, account.decided().held()),
        account,
        inside,
    })
}

/// Leads to the guard's resolver, whoever is dialled.
const DNS: u16 = 53;

/// The flow inside a tunnel.
async fn lead<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    destination: &Destination,
) -> Result<Flow<R, P>, Decided> {
    let Destination { host, port } = destination;
    let agent = flow.client.agent;
    let (ip, name) = match host {
        Host::Name(name) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Some(name.clone())),
        Host::Ip(ip) => (ip.to_canonical(), flow.guard.port.name_behind(agent, *ip)),
    };
    let inside = flow.guard.clone().flow(Origin {
        client: flow.client.clone(),
        destination: SocketAddr::new(ip, *port),
        name,
    });
    let inside = inside.await.inside();
    let refused = if *port == DNS {
        let message = "names are asked of the guard's resolver, and not through a proxy".to_owned();
        Some(Reason::new(ReasonCode::ProtocolNotSupported, message))
    } else {
        // This host's own; and a name that is answered with what the guard against rebinding keeps closed.
        let closed = [
            ReasonCode::LoopbackNotOwn,
            ReasonCode::Rebinding,
            ReasonCode::MetadataService,
        ];
        inside
            .unreachable()
            .filter(|reason| closed.contains(&reason.code))
    };
    match refused {
        Some(Reason { code, message, .. }) => {
            Err(inside.refuse(ActionKind::Connect, code, message).await)
        }
        None => Ok(inside),
    }
}

impl<R: Recorder, P: Port> Tunnel<R, P> {
    /// Says that it is there, and carries what is inside. A future with a name of its own: one
    /// connection begins inside the other.
    fn carry<'a>(
        mut self,
        mut stream: TcpStream,
        early: Vec<u8>,
        opened: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if let Err(error) = stream.write_all(opened).await {
                return self.account.fail(format!("the client is gone: {error}"));
            }
            let inside = async { self.inside.start(stream, early).await.go().await };
            if let Err(denied) = self.revoked.unless(pin!(inside)).await {
                self.account.fail(revoked(&denied));
            }
        })
    }
}

/// Says something and closes.
async fn say_last<R: Recorder, P: Port>(flow: &Flow<R, P>, mut stream: TcpStream, bytes: &[u8]) {
    let said = part(&mut stream, bytes);
    if timeout(flow.guard.limits.linger, said).await.is_err() {
        tracing::debug!("the client does not close after its refusal");
    }
}

/// Refuses what cannot be carried.
pub(crate) async fn refuse<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    stream: TcpStream,
    message: &'static str,
) {
    let code = ReasonCode::ProtocolNotSupported;
    flow.refuse(ActionKind::Connect, code, message).await;
    reset(stream);
}
