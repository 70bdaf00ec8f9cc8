//! TLS sessions that go on in a later connection, on both sides of the guard.

use std::sync::Arc;

use agentguard_model::{ReasonCode, Verdict};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::inspect::{NAME, serve_inside};
use super::{Rules, World, by_name, codes, soon};

const OTHER: &str = "other.example";

/// A client that keeps its sessions, and trusts the guard and upstreams alike.
fn client(
    world: &World,
    protocol: &str,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = world.authority.roots();
    roots.extend(world.upstreams.roots().roots);
    let mut config = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    config
}

/// What the two sides of a connection came to. It stays open, so that the next one finds none that waits.
struct Visit {
    client: HandshakeKind,
    /// None where one that waited was taken.
    upstream: Option<HandshakeKind>,
    /// Whom the client believes to speak to.
    shown: Vec<u8>,
    status: StatusCode,
    /// Until when both connections stay open.
    _open: Box<dyn std::any::Any>,
}

async fn shake(
    world: &World,
    client: &Arc<ClientConfig>,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = world.connect().await;
    let name = ServerName::try_from(name).unwrap();
    soon(TlsConnector::from(Arc::clone(client)).connect(name, stream)).await
}

/// Asks on a connection of its own. Sessions for later arrive before an answer's end.
async fn visit(
    world: &World,
    client: &Arc<ClientConfig>,
    upstream: &Arc<ServerConfig>,
    name: &'static str,
    path: &str,
) -> Visit {
    let asking = async {
        let stream = shake(world, client, name).await.unwrap();
        let connection = stream.get_ref().1;
        let kind = connection.handshake_kind().unwrap();
        let shown = connection.peer_certificates().unwrap()[0].to_vec();
        let h2 = connection.alpn_protocol() == Some(b"h2");
        let (status, open) = ask(stream, h2, name, path).await;
        (kind, shown, status, open)
    };
    let serving = async {
        let stream = world.accept().await;
        let accepting = TlsAcceptor::from(Arc::clone(upstream)).accept(stream);
        let stream = soon(accepting).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        tokio::spawn(serve_inside(stream));
        kind
    };
    tokio::pin!(asking);
    let ((client, shown, status, open), upstream) = tokio::select! {
        asked = &mut asking => (asked, None),
        kind = serving => (asking.await, Some(kind)),
    };
    Visit {
        client,
        upstream,
        shown,
        status,
        _open: open,
    }
}

async fn ask(
    stream: TlsStream<TcpStream>,
    h2: bool,
    name: &str,
    path: &str,
) -> (StatusCode, Box<dyn std::any::Any>) {
    let io = TokioIo::new(stream);
    let body = Full::<Bytes>::default();
    if h2 {
        let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(driver);
        let request = Request::get(format!("https://{name}{path}")).body(body);
        let answer = soon(sender.send_request(request.unwrap())).await.unwrap();
        let status = answer.status();
        soon(answer.into_body().collect()).await.unwrap();
        (status, Box::new(sender))
    } else {
        let (mut sender, driver) = http1::handshake(io).await.unwrap();
        tokio::spawn(driver);
        let request = Request::get(path).header("host", name).body(body);
        let answer = soon(sender.send_request(request.unwrap())).await.unwrap();
        let status = answer.status();
        soon(answer.into_body().collect()).await.unwrap();
        (status, Box::new(sender))
    }
}

const FULL: HandshakeKind = HandshakeKind::Full;
const RESUMED: HandshakeKind = HandshakeKind::Resumed;

#[tokio::test]
async fn a_client_that_comes_again_resumes_and_so_does_the_guard_at_the_upstream() {
    for protocol in ["http/1.1", "h2"] {
        for version in [&TLS13, &TLS12] {
            let world = by_name(Rules::Inspect).build().await;
            let client = Arc::new(client(&world, protocol, version));
            let upstream = world.upstreams.server(NAME, &[protocol]);
            let mut open = Vec::new();
            for expected in [FULL, RESUMED, RESUMED] {
                let visit = visit(&world, &client, &upstream, NAME, "/ok").await;
                let what = format!("{protocol} {version:?}");
                assert_eq!(visit.client, expected, "{what}");
                assert_eq!(visit.upstream, Some(expected), "{what}");
                assert_eq!(visit.status, StatusCode::OK, "{what}");
                open.push(visit);
            }
            let refused = visit(&world, &client, &upstream, NAME, "/other").await;
            assert_eq!(refused.client, RESUMED);
            assert_eq!(refused.status, StatusCode::FORBIDDEN);
            drop((open, refused));
            let decisions = codes(&world.end().await);
            let allow = (Verdict::Allow, ReasonCode::RuleAllow);
            assert_eq!(decisions[..3], [allow; 3]);
            assert_eq!(decisions[3..], [(Verdict::Deny, ReasonCode::NoRule)]);
        }
    }
}

/// A client's store that gives every server the sessions of all.
#[derive(Debug)]
struct Nameless(ClientSessionMemoryCache);

/// The one name that it knows.
fn any() -> ServerName<'static> {
    ServerName::try_from("any").unwrap()
}

impl ClientSessionStore for Nameless {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(any(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&any())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(any(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&any())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&any());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(any(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&any())
    }
}

/// Nor where the client names none in its hello.
#[tokio::test]
async fn a_session_for_one_name_is_none_for_another() {
    for (version, named) in [
        (&TLS13, true),
        (&TLS12, true),
        (&TLS13, false),
        (&TLS12, false),
    ] {
        let world = by_name(Rules::ButPostToOneAddress).build().await;
        let mut client = client(&world, "http/1.1", version);
        let store = Nameless(ClientSessionMemoryCache::new(8));
        client.resumption = Resumption::store(Arc::new(store));
        client.enable_sni = named;
        let client = Arc::new(client);
        let here = world.upstreams.server(NAME, &["http/1.1"]);
        let there = world.upstreams.server(OTHER, &["http/1.1"]);
        let first = visit(&world, &client, &here, NAME, "/ok").await;
        world.leads_to(OTHER);
        let other = visit(&world, &client, &there, OTHER, "/ok").await;
        assert_eq!(
            (other.client, other.upstream),
            (FULL, Some(FULL)),
            "{version:?}"
        );
        assert_ne!(first.shown, other.shown);
        // The store is one that resumes.
        let again = visit(&world, &client, &there, OTHER, "/ok").await;
        assert_eq!(
            (again.client, again.upstream),
            (RESUMED, Some(RESUMED)),
            "{version:?}"
        );
        assert_eq!(again.shown, other.shown);
        drop((first, other, again));
        world.end().await;
    }
}

#[tokio::test]
async fn a_session_does_not_outlive_what_the_policy_says_of_its_connections() {
    for version in [&TLS13, &TLS12] {
        let world = by_name(Rules::Inspect).build().await;
        let client = Arc::new(client(&world, "http/1.1", version));
        let upstream = world.upstreams.server(NAME, &["http/1.1"]);
        // With tickets of its own: in TLS 1.2 this client would mix the guard's with its session.
        let mut upstream = ServerConfig::clone(&upstream);
        upstream.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        let upstream = Arc::new(upstream);
        let inspected = visit(&world, &client, &upstream, NAME, "/ok/1").await;
        assert_eq!((inspected.client, inspected.status), (FULL, StatusCode::OK));

        // The session goes on; what it carries is decided by the policy of now.
        world.change(Rules::InspectLess);
        let less = visit(&world, &client, &upstream, NAME, "/ok/1").await;
        assert_eq!((less.client, less.status), (RESUMED, StatusCode::FORBIDDEN));
        assert_eq!(less.shown, inspected.shown);

        // What is not inspected any more is the upstream's to answer, which knows no session of the
        // guard's with the client.
        world.change(Rules::Allow);
        let spliced = visit(&world, &client, &upstream, NAME, "/other").await;
        assert_eq!((spliced.client, spliced.status), (FULL, StatusCode::OK));
        assert_ne!(spliced.shown, inspected.shown);
        let again = visit(&world, &client, &upstream, NAME, "/other").await;
        assert_eq!(
            (again.client, again.upstream),
            (RESUMED, Some(RESUMED)),
            "{version:?}"
        );
        assert_eq!(again.shown, spliced.shown);

        // And the upstream's sessions open nothing that is inspected from now on.
        world.change(Rules::Inspect);
        let back = visit(&world, &client, &upstream, NAME, "/other").await;
        assert_eq!((back.client, back.status), (FULL, StatusCode::FORBIDDEN));
        assert_eq!(back.shown, inspected.shown);

        world.change(Rules::Deny);
        let error = shake(&world, &client, NAME).await.unwrap_err();
        assert!(error.to_string().contains("AccessDenied"), "{error}");
        drop((inspected, less, spliced, again, back));
        world.end().await;
    }
}
