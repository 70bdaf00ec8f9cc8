//! TLS that ends at the guard.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::{ActionKind, ReasonCode, Verdict};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Rules, World, by_name, codes, read_all, soon, write};

pub(super) const NAME: &str = "api.example";

/// Shakes hands with the guard.
pub(super) async fn client(
    world: &World,
    roots: RootCertStore,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = world.connect().await;
    soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

fn agreed(stream: &TlsStream<TcpStream>) -> Option<String> {
    let protocol = stream.get_ref().1.alpn_protocol()?;
    Some(String::from_utf8(protocol.to_vec()).unwrap())
}

/// An upstream that says what it was asked for, with a trailer.
pub(super) async fn answer(request: Request<Incoming>) -> Result<Response<Said>, Infallible> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await.unwrap();
    let trailer = collected
        .trailers()
        .and_then(|trailers| trailers.get("x-sum").cloned());
    let host = parts
        .headers
        .get("host")
        .map(|host| host.to_str().unwrap().to_owned())
        .or_else(|| parts.uri.authority().map(ToString::to_string));
    let text = format!(
        "{} {} {} {} {:?} {}",
        parts.method,
        parts.uri.path(),
        host.unwrap(),
        collected.to_bytes().len(),
        parts.version,
        trailer.map_or_else(String::new, |sum| sum.to_str().unwrap().to_owned()),
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("x-answered", "yes".parse().unwrap());
    let frames = [
        Ok(Frame::data(Bytes::from(text))),
        Ok(Frame::trailers(trailers)),
    ];
    let body: Said = StreamBody::new(stream::iter(frames));
    Ok(Response::builder()
        .header("trailer", "x-answered")
        .body(body)
        .unwrap())
}

pub(super) type Said =
    StreamBody<stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;

/// Serves one connection of the upstream, in what was agreed upon.
pub(super) async fn serve_one(stream: TcpStream, config: Arc<ServerConfig>) {
    let stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
    serve_inside(stream).await;
}

/// Serves one whose handshake is over.
pub(super) async fn serve_inside(stream: tokio_rustls::server::TlsStream<TcpStream>) {
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    // How it ends is the client's affair.
    if h2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(io, service_fn(answer)).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(io, service_fn(answer)).await;
    }
}

pub(super) fn request(
    version: Version,
    method: Method,
    target: &str,
    body: &str,
) -> Request<Full<Bytes>> {
    let builder = Request::builder().method(method).version(version);
    let builder = if version == Version::HTTP_2 {
        builder.uri(format!("https://{NAME}{target}"))
    } else {
        builder
            .uri(target)
            .header("host", NAME)
            .header("te", "trailers")
    };
    let body = Full::new(Bytes::from(body.to_owned()));
    builder.body(body).unwrap()
}

pub(super) async fn text(response: Response<Incoming>) -> (StatusCode, String, Option<HeaderMap>) {
    let status = response.status();
    let collected = soon(response.into_body().collect()).await.unwrap();
    let trailers = collected.trailers().cloned();
    let text = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
    (status, text, trailers)
}

#[tokio::test]
async fn each_request_inside_http1_is_decided_and_the_connection_goes_on() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["h2", "http/1.1"]);
    let talking = async {
        let stream = client(&world, world.authority.roots(), &["http/1.1"])
            .await
            .unwrap();
        assert_eq!(agreed(&stream).as_deref(), Some("http/1.1"));
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        let mut answers = Vec::new();
        for (method, target) in [
            (Method::GET, "/ok/1"),
            (Method::DELETE, "/ok/1"),
            (Method::POST, "/ok/../other"),
            (Method::POST, "/ok/2?q=1"),
        ] {
            let request = request(Version::HTTP_11, method, target, "body");
            soon(sender.ready()).await.unwrap();
            answers.push(text(soon(sender.send_request(request)).await.unwrap()).await);
        }
        answers
    };
    let upstream = async {
        let stream = world.accept().await;
        tokio::spawn(serve_one(stream, config));
    };
    let (answers, ()) = tokio::join!(talking, upstream);
    let statuses: Vec<u16> = answers.iter().map(|(status, ..)| status.as_u16()).collect();
    assert_eq!(statuses, [200, 403, 403, 200]);
    assert_eq!(answers[0].1, format!("GET /ok/1 {NAME} 4 HTTP/1.1 "));
    assert_eq!(answers[3].1, format!("POST /ok/2 {NAME} 4 HTTP/1.1 "));
    let trailers = answers[0].2.as_ref().unwrap();
    assert_eq!(trailers.get("x-answered").unwrap(), "yes");
    assert!(
        answers[1].1.contains("no_rule") || answers[1].1.contains("rule"),
        "{}",
        answers[1].1
    );
    let decisions = world.end().await;
    let paths: Vec<_> = decisions
        .iter()
        .map(|d| (d.verdict, d.action.kind, d.action.path.as_deref().unwrap()))
        .collect();
    let kind = ActionKind::HttpRequest;
    assert_eq!(
        paths,
        [
            (Verdict::Allow, kind, "/ok/1"),
            (Verdict::Deny, kind, "/ok/1"),
            (Verdict::Deny, kind, "/other"),
            (Verdict::Allow, kind, "/ok/2"),
        ]
    );
    assert!(decisions.iter().all(|decision| decision.action.tls));
}

#[tokio::test]
async fn streams_of_http2_share_one_upstream_connection() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["h2", "http/1.1"]);
    let talking = async {
        let stream = client(&world, world.authority.roots(), &["h2", "http/1.1"])
            .await
            .unwrap();
        assert_eq!(agreed(&stream).as_deref(), Some("h2"));
        let io = TokioIo::new(stream);
        let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(driver);
        let ask = |method: Method, target: &'static str| {
            let mut sender = sender.clone();
            async move {
                let request = request(Version::HTTP_2, method, target, "12345");
                text(soon(sender.send_request(request)).await.unwrap()).await
            }
        };
        tokio::join!(
            ask(Method::GET, "/ok/1"),
            ask(Method::POST, "/ok/2"),
            ask(Method::PUT, "/ok/3"),
            ask(Method::GET, "/ok/%2e%2e/x"),
        )
    };
    let upstream = async {
        let stream = world.accept().await;
        tokio::spawn(serve_one(stream, config));
    };
    let ((one, two, three, four), ()) = tokio::join!(talking, upstream);
    assert_eq!(one.0, StatusCode::OK);
    assert_eq!(one.1, format!("GET /ok/1 {NAME} 5 HTTP/2.0 "));
    assert_eq!(one.2.unwrap().get("x-answered").unwrap(), "yes");
    assert_eq!(two.1, format!("POST /ok/2 {NAME} 5 HTTP/2.0 "));
    assert_eq!(three.0, StatusCode::FORBIDDEN);
    assert_eq!(four.0, StatusCode::FORBIDDEN);
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 4, "{decisions:#?}");
}

#[tokio::test]
async fn a_refused_body_of_http2_is_taken_to_its_end() {
    // Far more than a stream's window: the client waits for room again and again.
    const PIECES: usize = 64;
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["h2"]);
    let sent = Arc::new(Notify::new());
    let talking = async {
        let stream = client(&world, world.authority.roots(), &["h2"])
            .await
            .unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(driver);
        let pieces = stream::unfold((PIECES, Arc::clone(&sent)), |(left, sent)| async move {
            if left == 0 {
                sent.notify_one();
                return None;
            }
            let piece = Frame::data(Bytes::from(vec![b'x'; 64 * 1024]));
            Some((Ok::<_, Infallible>(piece), (left - 1, sent)))
        });
        let request = Request::put(format!("https://{NAME}/ok"));
        let request = request.body(StreamBody::new(Box::pin(pieces))).unwrap();
        let answer = text(soon(sender.send_request(request)).await.unwrap()).await;
        soon(sent.notified()).await;
        answer
    };
    let upstream = async {
        let stream = world.accept().await;
        TlsAcceptor::from(config).accept(stream).await
    };
    let (answer, _upstream) = tokio::join!(talking, upstream);
    assert_eq!(answer.0, StatusCode::FORBIDDEN, "{}", answer.1);
    world.end().await;
}

#[tokio::test]
async fn the_client_is_answered_what_the_upstream_speaks() {
    let world = by_name(Rules::Inspect).build().await;
    for (client_speaks, upstream_speaks, expected) in [
        (&["h2", "http/1.1"][..], &["http/1.1"][..], Some("http/1.1")),
        (&["h2", "http/1.1"], &[], Some("http/1.1")),
        (&["h2"], &["h2"], Some("h2")),
        (&[], &["h2", "http/1.1"], None),
    ] {
        let config = world.upstreams.server(NAME, upstream_speaks);
        let shaking = client(&world, world.authority.roots(), client_speaks);
        let upstream = async {
            let stream = world.accept().await;
            TlsAcceptor::from(config).accept(stream).await.unwrap()
        };
        let (stream, _upstream) = tokio::join!(shaking, upstream);
        assert_eq!(agreed(&stream.unwrap()).as_deref(), expected);
    }
    // Signed once for all of them.
    assert_eq!(world.authority.signed(), 1);
}

#[tokio::test]
async fn protocols_that_cannot_be_inspected_are_refused_in_the_handshake() {
    let world = by_name(Rules::Inspect).build().await;
    let error = client(&world, world.authority.roots(), &["imap"])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
    // An upstream that negotiates nothing speaks HTTP/1.1.
    let config = world.upstreams.server(NAME, &[]);
    let shaking = client(&world, world.authority.roots(), &["h2"]);
    let upstream = async {
        let stream = world.accept().await;
        TlsAcceptor::from(config).accept(stream).await
    };
    let (shaken, _) = tokio::join!(shaking, upstream);
    assert!(shaken.is_err());
    let code = ReasonCode::ProtocolNotSupported;
    assert_eq!(codes(&world.end().await), [(Verdict::Deny, code); 2]);
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_guard_is_told_what_to_do() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["http/1.1"]);
    let shaking = client(&world, world.upstreams.roots(), &["http/1.1"]);
    let upstream = async {
        let stream = world.accept().await;
        TlsAcceptor::from(config).accept(stream).await
    };
    let (shaken, _) = tokio::join!(shaking, upstream);
    assert!(shaken.is_err());
    let decisions = world.until(|decisions| !decisions.is_empty()).await;
    assert_eq!(
        codes(&decisions),
        [(Verdict::Deny, ReasonCode::ClientDistrusts)]
    );
    let message = &decisions[0].reason.message;
    assert!(message.contains("agentguard ca export"), "{message}");
    assert!(message.contains("handling: splice"), "{message}");
    world.end().await;
}

#[tokio::test]
async fn an_upstream_that_cannot_be_verified_is_a_502_that_says_so() {
    let world = by_name(Rules::Inspect).build().await;
    // The guard's own authority is no authority for upstreams; nor does another name's do.
    let foreign = world.authority.server(NAME, &["http/1.1"]);
    let misnamed = world.upstreams.server("other.example", &["http/1.1"]);
    for config in [foreign, misnamed] {
        let talking = async {
            let stream = client(&world, world.authority.roots(), &["h2", "http/1.1"]).await;
            let io = TokioIo::new(stream.unwrap());
            let (mut sender, driver) = http1::handshake(io).await.unwrap();
            tokio::spawn(driver);
            let request = request(Version::HTTP_11, Method::GET, "/ok", "");
            text(soon(sender.send_request(request)).await.unwrap()).await
        };
        let upstream = async {
            let stream = world.accept().await;
            assert!(TlsAcceptor::from(config).accept(stream).await.is_err());
        };
        let (answer, ()) = tokio::join!(talking, upstream);
        assert_eq!(answer.0, StatusCode::BAD_GATEWAY, "{}", answer.1);
        assert!(answer.1.contains("upstream_untrusted"), "{}", answer.1);
    }
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 2);
    let error = decisions[0]
        .outcome
        .as_ref()
        .unwrap()
        .error
        .as_ref()
        .unwrap();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn an_upstream_that_leaves_without_an_end_of_tls_is_told_in_plain_words() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["http/1.1"]);
    let talking = async {
        let stream = client(&world, world.authority.roots(), &["http/1.1"]).await;
        let io = TokioIo::new(stream.unwrap());
        let (mut sender, driver) = http1::handshake(io).await.unwrap();
        tokio::spawn(driver);
        let request = request(Version::HTTP_11, Method::GET, "/ok", "");
        text(soon(sender.send_request(request)).await.unwrap()).await
    };
    let upstream = async {
        let stream = world.accept().await;
        let mut stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(soon(stream.read_u8()).await.unwrap());
        }
    };
    let (answer, ()) = tokio::join!(talking, upstream);
    assert_eq!(answer.0, StatusCode::BAD_GATEWAY, "{}", answer.1);
    let decisions = world.end().await;
    let outcome = decisions[0].outcome.as_ref().unwrap();
    for told in [&answer.1, outcome.error.as_ref().unwrap()] {
        assert!(
            told.contains("it closed the connection without an end of TLS"),
            "{told}"
        );
        assert!(!told.contains("docs.rs"), "{told}");
    }
}

#[tokio::test]
async fn what_is_no_http_inside_is_refused() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &[]);
    let talking = async {
        let mut stream = client(&world, world.authority.roots(), &[]).await.unwrap();
        AsyncWriteExt::write_all(&mut stream, b"\x00\x01hello there\n")
            .await
            .unwrap();
        stream.read(&mut [0; 16]).await
    };
    let upstream = async {
        let stream = world.accept().await;
        let mut stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        all
    };
    let (read, sent) = tokio::join!(talking, upstream);
    assert!(read.is_err() || read.is_ok_and(|count| count == 0));
    assert_eq!(sent, b"", "nothing leaves");
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [(Verdict::Deny, ReasonCode::NeedsInspection)]
    );
}

#[tokio::test]
async fn another_server_name_or_authority_than_the_address_stands_for_is_refused() {
    let world = by_name(Rules::Inspect).build().await;
    // In the handshake.
    let config = ClientConfig::builder()
        .with_root_certificates(world.authority.roots())
        .with_no_client_auth();
    let name = ServerName::try_from("other.example").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = world.connect().await;
    assert!(soon(connector.connect(name, stream)).await.is_err());
    // And in a request.
    let config = world.upstreams.server(NAME, &["h2", "http/1.1"]);
    let talking = async {
        let stream = client(&world, world.authority.roots(), &["h2"])
            .await
            .unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(driver);
        let request = Request::builder().uri("https://other.example/ok");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        text(soon(sender.send_request(request)).await.unwrap()).await
    };
    let upstream = async {
        let stream = world.accept().await;
        TlsAcceptor::from(config).accept(stream).await
    };
    let (answer, _upstream) = tokio::join!(talking, upstream);
    assert_eq!(answer.0, StatusCode::MISDIRECTED_REQUEST, "{}", answer.1);
    let code = ReasonCode::NameMismatch;
    assert_eq!(codes(&world.end().await), [(Verdict::Deny, code); 2]);
}

#[tokio::test]
async fn a_plain_request_to_the_same_name_is_decided_by_the_same_rule() {
    let world = by_name(Rules::Inspect).build().await;
    let mut stream = world.connect().await;
    write(
        &mut stream,
        "PUT /ok HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    let answer = read_all(&mut stream).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 403 "));
    world.end().await;
}

#[tokio::test]
async fn a_call_of_grpc_is_refused_in_grpc() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["h2"]);
    let shaking = client(&world, world.authority.roots(), &["h2"]);
    let upstream = async {
        let stream = world.accept().await;
        tokio::spawn(serve_one(stream, config));
    };
    let (stream, ()) = tokio::join!(shaking, upstream);
    let io = TokioIo::new(stream.unwrap());
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    let mut call = request(Version::HTTP_2, Method::POST, "/pkg.Service/Call", "");
    let kind = "application/grpc+proto".parse().unwrap();
    call.headers_mut().insert("content-type", kind);
    let response = soon(sender.send_request(call)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let told = |name| response.headers().get(name).unwrap().to_str().unwrap();
    assert_eq!(told("grpc-status"), "7");
    let message = told("grpc-message").to_owned();
    drop(response);
    let decisions = world.end().await;
    assert!(message.contains(&decisions[0].id.to_string()), "{message}");
}

#[tokio::test]
async fn git_is_told_in_text_and_goes_on() {
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["http/1.1"]);
    let shaking = client(&world, world.authority.roots(), &["http/1.1"]);
    let upstream = async {
        let stream = world.accept().await;
        tokio::spawn(serve_one(stream, config));
    };
    let (stream, ()) = tokio::join!(shaking, upstream);
    let io = TokioIo::new(stream.unwrap());
    let (mut sender, driver) = http1::handshake(io).await.unwrap();
    tokio::spawn(driver);
    let mut answers = Vec::new();
    for target in ["/a.git/info/refs?service=git-receive-pack", "/ok/info/refs"] {
        let request = request(Version::HTTP_11, Method::GET, target, "");
        soon(sender.ready()).await.unwrap();
        let answer = soon(sender.send_request(request)).await.unwrap();
        let kind = answer.headers().get("content-type").cloned();
        answers.push((kind, text(answer).await));
    }
    drop(sender);
    let decisions = world.end().await;
    let (kind, (status, said, _)) = &answers[0];
    assert_eq!(*status, StatusCode::FORBIDDEN);
    assert_eq!(kind.as_ref().unwrap(), "text/plain; charset=utf-8");
    let (id, why) = (decisions[0].id, &decisions[0].reason.message);
    assert_eq!(*said, format!("{why} (agentguard explain {id})\n"));
    assert_eq!(answers[1].1.0, StatusCode::OK);
}

/// What two servers could read differently is refused inside TLS as it is in the clear.
#[tokio::test]
async fn what_has_two_readings_is_refused_inside_tls_too() {
    let host = format!("Host: {NAME}\r\n");
    for request in [
        format!(
            "POST /ok HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("POST /ok HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        format!("POST /ok HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("POST /ok HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("GET /ok HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n"),
        format!("GET /ok HTTP/1.1\n{host}\r\n"),
        format!("GET /ok HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"),
        format!("GET http://{NAME}/ok HTTP/1.1\r\n{host}\r\n"),
    ] {
        let mut plan = by_name(Rules::Inspect);
        // The client reads to the end.
        plan.limits.linger = Duration::from_millis(50);
        let world = plan.build().await;
        let config = world.upstreams.server(NAME, &["http/1.1"]);
        let shaking = client(&world, world.authority.roots(), &["http/1.1"]);
        let upstream = async {
            let stream = world.accept().await;
            tokio::spawn(serve_one(stream, config));
        };
        let (stream, ()) = tokio::join!(shaking, upstream);
        let mut stream = stream.unwrap();
        soon(stream.write_all(request.as_bytes())).await.unwrap();
        let mut told = Vec::new();
        // Whether TLS is closed in words is another matter.
        let _ = soon(stream.read_to_end(&mut told)).await;
        let told = String::from_utf8_lossy(&told);
        assert!(told.starts_with("HTTP/1.1 400 "), "{request:?}: {told}");
        let refused = (Verdict::Deny, ReasonCode::HttpMalformed);
        assert_eq!(codes(&world.end().await), [refused], "{request:?}");
    }
}
