//! What is decided by its contents, and begins as if it were something else.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::{ActionKind, ReasonCode, Verdict};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, NamedGroup, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::http::{OK, get, read_response};
use super::inspect::NAME;
use super::tls::hello;
use super::{
    Rules, World, allowed, assert_reset, by_name, codes, read_all, read_some, read_until, settled,
    soon, write,
};

const OTHER: &str = "Host: other.example\r\n\r\n";

/// A request for another name of the same server.
fn elsewhere(line: &str) -> String {
    format!("{line}\r\n{OTHER}")
}

#[tokio::test]
async fn what_a_lenient_server_could_take_for_a_request_is_decided_as_one() {
    let blank = "\r\n".repeat(200);
    let long = "X".repeat(20_000);
    for line in [
        "GET https://other.example/ HTTP/1.1".to_owned(),
        "GET ws://other.example/ HTTP/1.1".to_owned(),
        "GET ftp://other.example/ HTTP/1.1".to_owned(),
        "GET x HTTP/1.1".to_owned(),
        "GET ?x HTTP/1.1".to_owned(),
        "X_Y /x HTTP/1.1".to_owned(),
        "GET1 /x HTTP/1.1".to_owned(),
        "purge /x HTTP/1.1".to_owned(),
        "purge\t/x\tHTTP/1.1".to_owned(),
        format!("{blank}GET /x HTTP/1.1"),
        format!("{long} /x HTTP/1.1"),
        "GET https://other.example/".to_owned(),
    ] {
        for size in [1, usize::MAX] {
            let mut plan = by_name(Rules::Allow);
            // Whoever sends byte by byte may take its time.
            plan.limits.client_first = Duration::from_secs(5);
            let world = plan.build().await;
            let mut client = world.connect().await;
            client.set_nodelay(true).unwrap();
            let sending = async {
                for piece in elsewhere(&line).as_bytes().chunks(size.min(1 << 20)) {
                    // It may be refused before the end.
                    let _ = client.write_all(piece).await;
                }
                let _ = read_all(&mut client).await;
            };
            let hearing = async {
                // Nobody may come.
                let (mut upstream, _) = world.upstream.accept().await.unwrap();
                let mut said = Vec::new();
                let _ = upstream.read_to_end(&mut said).await;
                // A line that is carried breaks off where it comes to be a request's.
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(!said.contains("HTTP/"), "{said}");
                pending::<()>().await;
            };
            tokio::select! {
                () = soon(sending) => {}
                () = hearing => {}
            }
            let shown = line.get(..40).unwrap_or(&line).escape_debug().to_string();
            drop(client);
            let decisions = world.end().await;
            let last = decisions.last().unwrap();
            assert_eq!(last.verdict, Verdict::Deny, "{shown}: {decisions:#?}");
        }
    }
}

/// Where the policy allows the connection whatever it says, a client is not waited for without an end.
#[tokio::test]
async fn a_client_that_was_silent_is_looked_at_when_it_speaks() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.client_first = Duration::from_millis(20);
    let world = plan.build().await;
    for (line, status) in [("GET /ok HTTP/1.1", 200), ("GET /ok HTTP/1.1", 421)] {
        let mut client = world.connect().await;
        // The upstream is dialled: it may speak first.
        let mut first = world.accept().await;
        let host = if status == 200 { NAME } else { "other.example" };
        write(&mut client, format!("{line}\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(read_all(&mut first).await.unwrap(), b"");
        let answering = async {
            if status == 200 {
                let mut upstream = world.accept().await;
                read_until(&mut upstream, "\r\n\r\n").await;
                write(&mut upstream, OK).await;
            }
        };
        let ((head, _), ()) = tokio::join!(read_response(&mut client), answering);
        let expected = format!("HTTP/1.1 {status} ");
        assert!(head.starts_with(&expected), "{head}");
    }
    // One that speaks what nobody reads is carried on the connection that there is.
    let mut client = world.connect().await;
    let mut upstream = world.accept().await;
    write(&mut client, "\0raw").await;
    assert_eq!(read_some(&mut upstream, 4).await, b"\0raw");
    write(&mut upstream, "heard").await;
    assert_eq!(read_some(&mut client, 5).await, b"heard");
    drop((client, upstream));
    let decisions = world.end().await;
    let kinds: Vec<_> = decisions.iter().map(|d| d.action.kind).collect();
    let (connect, request) = (ActionKind::Connect, ActionKind::HttpRequest);
    assert_eq!(kinds, [connect, request, connect, request, connect]);
    assert_eq!(allowed(&decisions), [true, true, true, false, true]);
}

#[tokio::test]
async fn a_line_that_is_carried_breaks_off_where_it_comes_to_be_a_request() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.client_first = Duration::from_millis(20);
    let world = plan.build().await;
    // A word, and an answer to it without the end of its line.
    let mut client = world.connect().await;
    write(&mut client, "hello").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 5).await, b"hello");
    write(&mut upstream, "you").await;
    assert_eq!(read_some(&mut client, 3).await, b"you");
    write(&mut client, " there\nHTTP/1.1 is a protocol\n").await;
    read_until(&mut upstream, "protocol\n").await;
    drop((client, upstream));
    // A request that takes its time.
    let mut client = world.connect().await;
    write(&mut client, "x_y /secret").await;
    let mut upstream = world.accept().await;
    read_some(&mut upstream, 11).await;
    write(&mut client, elsewhere(" HTTP/1.1")).await;
    assert_reset(&mut client).await;
    let mut rest = Vec::new();
    let _ = soon(upstream.read_to_end(&mut rest)).await;
    assert_eq!(String::from_utf8_lossy(&rest), "");
    drop(client);
    let allow = (Verdict::Allow, ReasonCode::RuleAllow);
    let late = (Verdict::Deny, ReasonCode::ClientTimeout);
    assert_eq!(codes(&world.end().await), [allow, allow, late]);
}

/// Servers look away from the version of a record (RFC 8446, 5.1), and some from what is in front.
#[tokio::test]
async fn a_hello_in_other_records_is_read_all_the_same() {
    let patched = |at: usize, byte: u8| {
        let mut bytes = hello("other.example");
        bytes[at] = byte;
        bytes
    };
    let warned = [&[21, 3, 1, 0, 2, 1, 0][..], &hello("other.example")].concat();
    let changed = [&[20, 3, 1, 0, 1, 1][..], &hello("other.example")].concat();
    let mut ssl2 = vec![0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10];
    ssl2.resize(0x30, 7);
    for bytes in [
        patched(2, 5),
        patched(2, 6),
        patched(2, 255),
        patched(1, 4),
        warned,
        changed,
        ssl2,
    ] {
        let world = by_name(Rules::Allow).build().await;
        let mut client = world.connect().await;
        write(&mut client, &bytes).await;
        let _ = read_all(&mut client).await;
        drop(client);
        let decisions = world.end().await;
        assert_eq!(decisions.len(), 1, "{decisions:#?}");
        assert_eq!(decisions[0].verdict, Verdict::Deny, "{:x?}", &bytes[..6]);
    }
}

/// Two sides of TLS 1.3 that need a second hello: the client has a share of another group than the
/// server's only one.
fn retrying(world: &World) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let only = |config: &CryptoProvider, groups: &[NamedGroup]| {
        let mut provider = config.clone();
        let group = |name: &NamedGroup| {
            let mut all = config.kx_groups.iter();
            *all.find(|group| group.name() == *name).unwrap()
        };
        provider.kx_groups = groups.iter().map(group).collect();
        Arc::new(provider)
    };
    let mut server = (*world.upstreams.server(NAME, &[])).clone();
    let both = [NamedGroup::X25519, NamedGroup::secp256r1];
    let provider = only(server.crypto_provider(), &both);
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(world.upstreams.roots())
        .with_no_client_auth();
    let provider = only(server.crypto_provider(), &both[1..]);
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth();
    server = builder.with_cert_resolver(Arc::clone(&server.cert_resolver));
    (Arc::new(client), Arc::new(server))
}

fn client_of(config: &Arc<ClientConfig>, name: &str) -> (ClientConnection, Vec<u8>) {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    (client, hello)
}

#[tokio::test]
async fn a_server_that_asks_for_a_second_hello_gets_it() {
    let world = by_name(Rules::Allow).build().await;
    let (client, server) = retrying(&world);
    let name = ServerName::try_from(NAME).unwrap();
    let shaking = async {
        let stream = world.connect().await;
        soon(TlsConnector::from(client).connect(name, stream)).await
    };
    let accepting = async {
        let stream = world.accept().await;
        soon(TlsAcceptor::from(server).accept(stream)).await
    };
    let (client, server) = tokio::join!(shaking, accepting);
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    let kind = server.get_ref().1.handshake_kind();
    let retried = rustls::HandshakeKind::FullWithHelloRetryRequest;
    assert_eq!(kind, Some(retried));
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 5];
    soon(server.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");
    drop((client, server));
    let allow = (Verdict::Allow, ReasonCode::RuleAllow);
    assert_eq!(codes(&world.end().await), [allow]);
}

/// RFC 8446, 4.1.2: it may not be changed, and servers take the name that is in it.
#[tokio::test]
async fn a_second_hello_has_the_name_of_the_first() {
    for pipelined in [false, true] {
        let world = by_name(Rules::Allow).build().await;
        let (client, server) = retrying(&world);
        let (_, first) = client_of(&client, NAME);
        let (mut second, other) = client_of(&client, "other.example");
        let retry = |hello: &[u8]| {
            let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
            server.read_tls(&mut &*hello).unwrap();
            server.process_new_packets().unwrap();
            let mut retry = Vec::new();
            server.write_tls(&mut retry).unwrap();
            retry
        };
        second.read_tls(&mut &*retry(&other)).unwrap();
        second.process_new_packets().unwrap();
        let mut again = Vec::new();
        second.write_tls(&mut again).unwrap();
        let mut stream = world.connect().await;
        let early = if pipelined { &again[..] } else { &[] };
        write(&mut stream, [&first, early].concat()).await;
        let mut upstream = world.accept().await;
        assert_eq!(read_some(&mut upstream, first.len()).await, first);
        let retry = retry(&first);
        write(&mut upstream, &retry).await;
        read_some(&mut stream, retry.len()).await;
        if !pipelined {
            write(&mut stream, &again).await;
        }
        let mut rest = Vec::new();
        let _ = soon(upstream.read_to_end(&mut rest)).await;
        // A change of ciphers that is none may pass.
        assert!(!rest.contains(&22), "{rest:x?}");
        drop(stream);
        let decisions = world.end().await;
        let allow = (Verdict::Allow, ReasonCode::RuleAllow);
        let deny = (Verdict::Deny, ReasonCode::NameMismatch);
        assert_eq!(codes(&decisions), [allow, deny]);
        let message = &decisions[1].reason.message;
        assert!(message.contains("`other.example`"), "{message}");
    }
}

#[tokio::test]
async fn a_request_for_elsewhere_is_read_inside_tls_too() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["http/1.1"]);
    let shaking = super::inspect::client(&world, world.authority.roots(), &["http/1.1"]);
    let upstream = async { TlsAcceptor::from(config).accept(world.accept().await).await };
    let (client, upstream) = tokio::join!(shaking, upstream);
    let (mut client, mut upstream) = (client.unwrap(), upstream.unwrap());
    let line = format!("GET https://{NAME}/ok HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    client.write_all(line.as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    let mut asked = vec![0; get("/ok").len()];
    soon(upstream.read_exact(&mut asked)).await.unwrap();
    assert!(asked.starts_with(b"GET /ok HTTP/1.1\r\n"));
    drop((client, upstream));
    assert_eq!(allowed(&world.end().await), [true]);
}

/// A line that does not end is no reason to keep all of it.
#[tokio::test]
async fn a_line_inside_tls_is_read_so_far_and_no_further() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["http/1.1"]);
    let shaking = super::inspect::client(&world, world.authority.roots(), &["http/1.1"]);
    let upstream = async { TlsAcceptor::from(config).accept(world.accept().await).await };
    let (client, upstream) = tokio::join!(shaking, upstream);
    let mut client = client.unwrap();
    let mut taken = 0;
    while soon(client.write_all(&[b'a'; 1 << 16])).await.is_ok() {
        taken += 1 << 16;
        assert!(taken < 32 << 20, "nothing ends it");
    }
    drop((client, upstream));
    let denied = (Verdict::Deny, ReasonCode::NeedsInspection);
    assert_eq!(codes(&world.end().await), [denied]);
}

/// Servers of HTTP/2 say their settings before they have read anything.
#[tokio::test]
async fn http2_behind_a_client_s_silence_is_read() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.client_first = Duration::from_millis(20);
    let world = plan.build().await;
    let stream = world.connect().await;
    let mut first = world.accept().await;
    write(&mut first, [0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    settled().await;
    let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    let target = format!("http://other.example:{}/secret", world.port());
    let request = ::http::Request::get(target).body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let status = soon(answer).await.unwrap().status();
    assert_eq!(status, ::http::StatusCode::MISDIRECTED_REQUEST);
    drop(client);
    assert_eq!(allowed(&world.end().await), [true, false]);
}

#[tokio::test]
async fn a_silent_client_that_is_gone_or_says_nothing_much_is_carried_as_before() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.client_first = Duration::from_millis(20);
    let world = plan.build().await;
    let client = world.connect().await;
    let mut upstream = world.accept().await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_reset(&mut upstream).await;
    let mut client = world.connect().await;
    let mut upstream = world.accept().await;
    write(&mut client, "\r\n").await;
    assert_eq!(read_some(&mut upstream, 2).await, b"\r\n");
    drop((client, upstream));
    let decisions = world.end().await;
    let error = decisions[0].outcome.clone().unwrap().error.unwrap();
    assert!(error.contains("the client is gone"), "{error}");
}

/// Its server has left, and nothing that it held back keeps it.
#[tokio::test]
async fn a_client_that_says_much_before_its_server_has_answered_is_ended() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let first = hello(NAME);
    let held = [&[22, 3, 3, 0x3e, 0x80][..], &[7; 0x3e80]].concat();
    write(&mut client, [&first[..], &held, &held].concat()).await;
    let _upstream = world.accept().await;
    let _ = read_all(&mut client).await;
    let over = |d: &[agentguard_model::Decision]| d[0].outcome.is_some();
    world.until(over).await;
    let mut client = world.connect().await;
    write(&mut client, [&first[..], &held[..100]].concat()).await;
    let mut upstream = world.accept().await;
    read_some(&mut upstream, first.len()).await;
    write(&mut upstream, [21, 3, 3, 0, 2, 2, 40]).await;
    drop(upstream);
    let _ = read_all(&mut client).await;
    drop(client);
    let decisions = world.end().await;
    let malformed = (Verdict::Deny, ReasonCode::TlsMalformed);
    assert_eq!(codes(&decisions)[1], malformed);
}
