//! Content that grows beyond what a rule allows.

use std::convert::Infallible;
use std::io::Write as _;

use agentguard_model::{Decision, ReasonCode, Verdict};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::http::{OK, read_response};
use super::inspect::{NAME, client};
use super::{Rules, World, by_name, codes, read_all, read_some, read_until, soon, write};

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const DENIED: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::RuleDeny);
const UNKNOWN: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::NeedsInspection);

fn post(fields: &str) -> String {
    format!("POST /ok HTTP/1.1\r\nHost: api.example\r\n{fields}\r\n")
}

fn chunk(data: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The end of a request that was allowed and then cut: refused in words, with the second decision.
async fn cut(world: World, client: &mut TcpStream) -> Vec<Decision> {
    let (head, body) = read_response(client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let decisions = world.end().await;
    let [allowed, denied] = decisions.as_slice() else {
        panic!("{decisions:#?}");
    };
    assert!(body.contains(&denied.id.to_string()), "{body}");
    let error = allowed.outcome.as_ref().unwrap().error.as_ref().unwrap();
    assert!(error.contains(&denied.id.to_string()), "{error}");
    decisions
}

#[tokio::test]
async fn what_announces_too_much_is_refused_before_it_leaves() {
    let world = by_name(Rules::Sized).build().await;
    let mut client = world.connect().await;
    write(&mut client, post("Content-Length: 1001\r\n")).await;
    let (head, body) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(body.contains("Not so much."), "{body}");
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [DENIED]);
    assert_eq!(decisions[0].action.body, Some(1001));
}

#[tokio::test]
async fn what_comes_to_too_much_is_cut_there() {
    let world = by_name(Rules::Sized).build().await;
    let mut client = world.connect().await;
    write(&mut client, post("Transfer-Encoding: chunked\r\n")).await;
    write(&mut client, chunk(&[b'a'; 1000])).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, &"a".repeat(1000)).await;
    write(&mut client, chunk(b"b")).await;
    let decisions = cut(world, &mut client).await;
    assert_eq!(codes(&decisions), [ALLOWED, DENIED]);
    assert_eq!(decisions[1].action.body, Some(1001));
    // Neither the byte too much nor an end.
    let rest = read_all(&mut upstream).await.unwrap_or_default();
    assert_eq!(String::from_utf8(rest).unwrap(), "\r\n");
}

#[tokio::test]
async fn what_is_packed_counts_as_what_is_in_it() {
    for (content, fits) in [(1000, true), (1001, false), (64 << 20, false)] {
        let world = by_name(Rules::Sized).build().await;
        let mut client = world.connect().await;
        let packed = packed(&vec![0; content]);
        // Of a bomb the beginning says enough, and does not announce too much.
        let sent = &packed[..packed.len().min(900)];
        let length = format!(
            "Content-Length: {}\r\nContent-Encoding: gzip\r\n",
            sent.len()
        );
        write(&mut client, post(&length)).await;
        write(&mut client, sent).await;
        if fits {
            let mut upstream = world.accept().await;
            let head = read_until(&mut upstream, "\r\n\r\n").await;
            assert!(head.contains("Content-Encoding: gzip"), "{head}");
            assert_eq!(read_some(&mut upstream, sent.len()).await, sent);
            write(&mut upstream, OK).await;
            assert_eq!(read_response(&mut client).await.1, "ok");
            drop(client);
            assert_eq!(codes(&world.end().await), [ALLOWED]);
        } else {
            let decisions = cut(world, &mut client).await;
            assert_eq!(codes(&decisions), [ALLOWED, DENIED], "{content}");
            assert!(decisions[1].action.body > Some(1000), "{decisions:#?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_unpacked_may_be_anything() {
    let truncated = packed(b"hello");
    let truncated = &truncated[..truncated.len() - 1];
    for (coding, content) in [("gzip", &b"hello"[..]), ("gzip", truncated)] {
        let world = by_name(Rules::Sized).build().await;
        let mut client = world.connect().await;
        let length = format!(
            "Content-Length: {}\r\nContent-Encoding: {coding}\r\n",
            content.len()
        );
        write(&mut client, post(&length)).await;
        write(&mut client, content).await;
        let decisions = cut(world, &mut client).await;
        assert_eq!(codes(&decisions), [ALLOWED, UNKNOWN], "{coding}");
        let message = &decisions[1].reason.message;
        assert!(
            message.starts_with("Rule large has to see how much"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn what_nobody_can_unpack_is_refused_before_it_leaves() {
    for coding in ["compress", "gzip, br"] {
        let world = by_name(Rules::Sized).build().await;
        let mut client = world.connect().await;
        let length = format!("Content-Length: 5\r\nContent-Encoding: {coding}\r\n");
        write(&mut client, post(&length)).await;
        write(&mut client, "hello").await;
        let (head, body) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(body.contains("has to see how much"), "{body}");
        assert_eq!(codes(&world.end().await), [UNKNOWN], "{coding}");
    }
}

#[tokio::test]
async fn trailers_count_too() {
    let world = by_name(Rules::Sized).build().await;
    let mut client = world.connect().await;
    write(&mut client, post("Transfer-Encoding: chunked\r\n")).await;
    write(&mut client, chunk(&[b'a'; 900])).await;
    write(
        &mut client,
        format!("0\r\nX-Long: {}\r\n\r\n", "b".repeat(100)),
    )
    .await;
    let decisions = cut(world, &mut client).await;
    assert_eq!(codes(&decisions), [ALLOWED, DENIED]);
    assert_eq!(decisions[1].action.body, Some(1006));
}

/// A decoder of br remembers up to 16 MiB, from a few bytes on.
#[tokio::test]
async fn an_agent_has_so_much_unpacked_at_once() {
    let world = by_name(Rules::Sized).build().await;
    let mut clients = Vec::new();
    for _ in 0..9 {
        let mut client = world.connect().await;
        let fields = "Transfer-Encoding: chunked\r\nContent-Encoding: br\r\n";
        write(&mut client, post(fields)).await;
        clients.push(client);
        let begun = clients.len();
        world.until(|decisions| decisions.len() >= begun).await;
    }
    let last = clients.last_mut().unwrap();
    let (head, body) = read_response(last).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(body.contains("unpacked at once"), "{body}");
    drop(clients);
    let decisions = codes(&world.end().await);
    assert_eq!(decisions[..8], [ALLOWED; 8]);
    assert_eq!(decisions[8], UNKNOWN);
}

#[tokio::test]
async fn where_no_rule_speaks_of_sizes_nothing_is_unpacked() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    let fields = "Content-Length: 5\r\nContent-Encoding: compress\r\n\r\nhello";
    write(&mut client, post(fields).trim_end()).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\nhello").await;
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    drop(client);
    assert_eq!(codes(&world.end().await), [ALLOWED]);
}

#[tokio::test]
async fn a_size_that_a_later_policy_speaks_of_counts_what_was_sent_before() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, post("Transfer-Encoding: chunked\r\n")).await;
    write(&mut client, chunk(&[b'a'; 1000])).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, &"a".repeat(1000)).await;
    world.change(Rules::Sized);
    write(&mut client, chunk(b"b")).await;
    let decisions = cut(world, &mut client).await;
    assert_eq!(codes(&decisions), [ALLOWED, DENIED]);
    assert_eq!(decisions[1].action.body, Some(1001));
}

/// What was not unpacked from its beginning may be anything, and that does not wait for more of it.
#[tokio::test]
async fn packed_content_that_is_under_way_when_a_policy_speaks_of_sizes_is_cut() {
    for ends in [false, true] {
        let world = by_name(Rules::Allow).build().await;
        let mut client = world.connect().await;
        let fields = "Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n";
        write(&mut client, post(fields)).await;
        let content = packed(&[b'a'; 5000]);
        write(&mut client, chunk(&content)).await;
        let mut upstream = world.accept().await;
        let head = read_until(&mut upstream, "\r\n\r\n").await;
        assert!(head.contains("gzip"), "{head}");
        read_some(&mut upstream, chunk(&content).len()).await;
        world.change(Rules::Sized);
        if ends {
            write(&mut client, "0\r\n\r\n").await;
        }
        let decisions = cut(world, &mut client).await;
        assert_eq!(codes(&decisions), [ALLOWED, UNKNOWN]);
    }
}

#[tokio::test]
async fn a_stream_of_http2_that_comes_to_too_much_is_refused_and_the_others_go_on() {
    let world = by_name(Rules::Sized).build().await;
    let config = world.upstreams.server(NAME, &["h2"]);
    let shaking = client(&world, world.authority.roots(), &["h2"]);
    let upstream = async { TlsAcceptor::from(config).accept(world.accept().await).await };
    let (stream, upstream) = tokio::join!(shaking, upstream);
    let collect = service_fn(|request: http::Request<hyper::body::Incoming>| async {
        let content = request.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>(http::Response::new(http_body_util::Full::new(content)))
    });
    let serving = tokio::spawn(async move {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let io = TokioIo::new(upstream.unwrap());
        let _ = builder.serve_connection(io, collect).await;
    });
    let io = TokioIo::new(stream.unwrap());
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    let mut answers = Vec::new();
    for pieces in [2, 1] {
        let body = stream::iter(
            (0..pieces).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; 1000])))),
        );
        let request = http::Request::post(format!("https://{NAME}/ok"));
        let request = request.body(StreamBody::new(body)).unwrap();
        answers.push(sender.send_request(request));
    }
    let mut told = Vec::new();
    for answer in answers {
        let answer = soon(answer).await.unwrap();
        let status = answer.status();
        told.push((
            status,
            answer.into_body().collect().await.unwrap().to_bytes().len(),
        ));
    }
    assert_eq!(told[0].0, StatusCode::FORBIDDEN);
    assert_eq!(told[1], (StatusCode::OK, 1000));
    drop(sender);
    let mut codes = codes(&world.end().await);
    codes.sort_by_key(|(verdict, _)| format!("{verdict}"));
    assert_eq!(codes, [ALLOWED, ALLOWED, DENIED]);
    serving.abort();
}
