//! TLS that ends here, so that what is inside can be decided.
//!
//! ClientHello → the upstream is asked, with what the client offers and the guard carries → the
//! client is answered what the upstream chose → HTTP, each request decided. Where the upstream
//! cannot be had, the client is answered all the same and each request is told why: a problem
//! document says more than an alert.
//!
//! **Invariant:** before a request is allowed the upstream sees a handshake for the name that was
//! allowed, and nothing of the client's.

use std::pin::pin;
use std::sync::Arc;

use agentguard_decision::{Decided, Recorder};
use agentguard_model::{ActionKind, Reason, ReasonCode, UpstreamEntry};
use agentguard_protocol::alert::Alert;
use agentguard_protocol::first_bytes::{FirstBytes, MOST_NEEDED, classify};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncReadExt, split};
use tokio::net::TcpStream;
use tokio::sync::SetOnce;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::Port;
use crate::alpn::{Alpn, Offer};
use crate::connection::{Flow, Onward, READ};
use crate::http::{self, Leg, Upstream, Wanted};
use crate::leaves::{Leaves, Subject};
use crate::relay::{ClientStream as _, relay};
use crate::replay::Replay;
use crate::tls::say;
use crate::upstream_tls::UpstreamTls;

/// What TLS is made of on both sides. One for all listeners: names are signed once.
pub struct Tls {
    /// A connection that needs it waits for it.
    pub(crate) leaves: SetOnce<Leaves>,
    pub(crate) upstreams: UpstreamTls,
}

impl Tls {
    /// Upstreams are reached and verified as an entry says: the first that names them. The rest takes a while
    /// and is told later ([`crate::Shared::trust`]).
    #[must_use]
    pub fn new(entries: Vec<UpstreamEntry>) -> Self {
        Self {
            leaves: SetOnce::new(),
            upstreams: UpstreamTls::new(entries),
        }
    }

    /// Makes the leaves' key, and reads whom upstreams have to be certified by.
    ///
    /// # Errors
    /// No key can be made, or a certificate or a key cannot be read.
    pub(crate) fn trust(&self, system: &[CertificateDer<'static>]) -> Result<(), String> {
        // What was made first stays.
        let _ = self.leaves.set(Leaves::new()?);
        self.upstreams.trust(system)
    }
}

/// Inspects a connection whose hello is for the name behind the address. `offer`: what it offers that can be inspected.
pub(crate) async fn run<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    stream: TcpStream,
    first: Vec<u8>,
    offer: Option<Offer>,
) -> Onward {
    let Some(offer) = offer else {
        let message =
            "the client offers no application protocol that can be inspected (h2, http/1.1)";
        refuse(&flow, ReasonCode::ProtocolNotSupported, message).await;
        return Onward::to_last(say(flow, stream, Alert::NoApplicationProtocol));
    };
    let (alpn, upstream) = match Box::pin(ask(&flow, offer)).await {
        Ok(upstream) => match offer.answer(upstream.alpn()) {
            Some(answer) => (answer, Ok(upstream)),
            None => {
                let message =
                    "the upstream does not speak HTTP/2, and the client speaks nothing else";
                refuse(&flow, ReasonCode::ProtocolNotSupported, message).await;
                return Onward::to_last(say(flow, stream, Alert::NoApplicationProtocol));
            }
        },
        Err(reason) => (offer.alone(), Err(reason)),
    };
    let config = match Box::pin(config(&flow, alpn)).await {
        Ok(config) => config,
        Err(reason) => {
            refuse(&flow, reason.code, reason.message).await;
            return Onward::to_last(say(flow, stream, Alert::InternalError));
        }
    };
    let shaking = TlsAcceptor::from(config).accept(Replay::new(first, stream));
    let stream = match timeout(flow.guard.limits.head, shaking).await {
        Ok(Ok(stream)) => Box::new(stream),
        Ok(Err(error)) => {
            let message = distrust(&error, &flow.target.host);
            refuse(&flow, ReasonCode::ClientDistrusts, message).await;
            return Onward::OVER;
        }
        Err(_) => {
            let message = "the client did not finish its TLS handshake in time";
            refuse(&flow, ReasonCode::ClientTimeout, message).await;
            return Onward::OVER;
        }
    };
    let leg = Leg::inside_tls(alpn, upstream);
    match alpn {
        Alpn::H2 => Onward::to_last(http::run_http2(flow, stream, leg)),
        Alpn::Http1 | Alpn::None => Onward::to(inside(flow, stream, leg)),
    }
}

/// The upstream's side: one that waits, or a new one.
async fn ask<R: Recorder, P: Port>(flow: &Flow<R, P>, offer: Offer) -> Result<Upstream<R>, Reason> {
    match flow.guard.pool.take(flow, Wanted::Tls(offer))? {
        Some(upstream) => Ok(upstream),
        None => Upstream::inside_tls(flow, offer).await,
    }
}

async fn config<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    alpn: Alpn,
) -> Result<Arc<ServerConfig>, Reason> {
    let subject = match (&flow.target.host, flow.target.ip) {
        (Some(name), _) => Subject::Name(name.clone()),
        (None, Some(ip)) => Subject::Ip(ip),
        (None, None) => {
            let message = "the connection goes nowhere";
            return Err(Reason::new(ReasonCode::Internal, message));
        }
    };
    let making = flow.guard.tls.leaves.wait();
    let leaves = timeout(flow.guard.limits.dial, making).await.map_err(|_| {
        let message = "the guard has not made its key in time";
        Reason::new(ReasonCode::Internal, message)
    })?;
    let agent = flow.client.agent;
    leaves
        .config(flow.guard.port.as_ref(), agent, &subject, alpn)
        .await
}

/// What is inside, where it should be HTTP/1.
async fn inside<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    mut stream: Box<TlsStream<Replay>>,
    leg: Leg<R>,
) -> Onward {
    let mut bytes = Vec::new();
    // Nothing may come for long; what has begun has to go on.
    let mut until = Instant::now() + flow.guard.limits.keep_alive;
    loop {
        bytes.reserve(READ);
        let read = match timeout_at(until, stream.read_buf(&mut bytes)).await {
            Ok(Ok(read)) => read,
            // Nothing was asked for, so there is nothing to decide.
            Ok(Err(_)) | Err(_) if bytes.is_empty() => return Onward::OVER,
            Ok(Err(_)) | Err(_) => 0,
        };
        match classify(&bytes) {
            FirstBytes::Http1 => return Onward::to_last(http::run(flow, stream, bytes, leg)),
            FirstBytes::Line if bytes.len() >= MOST_NEEDED => {
                return Onward::to_last(pass(flow, stream, bytes, leg));
            }
            FirstBytes::NeedMore | FirstBytes::Line if read > 0 => {
                until = until.min(Instant::now() + flow.guard.limits.head);
            }
            FirstBytes::NeedMore if bytes.is_empty() => return Onward::OVER,
            _ => return Onward::to_last(pass(flow, stream, bytes, leg)),
        }
    }
}

/// Bytes that nobody understands: what the policy wants inspected cannot be. An agent that is only
/// observed goes on.
async fn pass<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    stream: Box<TlsStream<Replay>>,
    bytes: Vec<u8>,
    leg: Leg<R>,
) {
    let decided = flow.connection().await;
    if !decided.allowed {
        return stream.reset();
    }
    // The one that was opened speaks HTTP.
    drop(leg);
    carry(&flow, stream, &bytes, decided).await;
}

async fn carry<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    stream: Box<TlsStream<Replay>>,
    bytes: &[u8],
    decided: Decided,
) {
    let account = flow.account(decided);
    let upstream = flow.guard.tls.upstreams.connect(flow, Offer::NOTHING);
    let upstream = match upstream.await {
        Ok((upstream, _)) => upstream,
        Err(reason) => {
            account.fail(reason.message);
            return stream.reset();
        }
    };
    let (mut reader, mut writer) = split(stream);
    let buffer = flow.guard.limits.buffer;
    let over = {
        let client = (&mut reader, &mut writer);
        let going = pin!(relay(
            client,
            split(upstream),
            bytes,
            buffer,
            account.counts()
        ));
        flow.unless_revoked(&account, going)
            .await
            .unwrap_or_else(|over| over)
    };
    over.end(&account, reader.unsplit(writer), None);
}

async fn refuse<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    code: ReasonCode,
    message: impl Into<String>,
) {
    Box::pin(flow.refuse(ActionKind::Connect, code, message)).await;
}

/// Why a client left the handshake, and what to do about it.
fn distrust(error: &std::io::Error, name: &Option<agentguard_model::HostName>) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let what = match name {
        Some(name) => name.to_string(),
        None => "this address".to_owned(),
    };
    let advice = format!(
        "give it the guard's CA (`agentguard ca export`), or let the rule that allows {what} say \
         `handling: splice`"
    );
    match inner {
        Some(rustls::Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate),
        )) => format!("the client does not trust the guard's certificate ({alert:?}): {advice}"),
        Some(why) => format!("the TLS handshake with the client failed: {why}"),
        None => format!(
            "the client broke off the TLS handshake, as one does that does not trust the guard's \
             certificate: {advice}"
        ),
    }
}
