//! What is under way when the policy changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentguard_model::{Decision, ReasonCode, Verdict};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::http::{OK, get, read_response};
use super::inspect::{NAME, client, request};
use super::websocket;
use super::{
    DENIED, Rules, World, assert_reset, by_name, codes, read_all, read_some, read_until, settled,
    soon, write,
};

/// The allowance, and the denial that ended it, which its outcome names.
fn ended(decisions: &[Decision]) {
    assert_eq!(
        codes(decisions),
        [
            (Verdict::Allow, ReasonCode::RuleAllow),
            // No rule names it any more, and the upstreams here are on loopback.
            (Verdict::Deny, ReasonCode::LoopbackNotOwn)
        ]
    );
    let [allowed, denied] = decisions else {
        panic!("{decisions:#?}");
    };
    // The address is known by now.
    assert!(denied.action.ip.is_some(), "{denied:#?}");
    let place = |decision: &Decision| {
        let action = &decision.action;
        (action.kind, action.host.clone(), action.path.clone())
    };
    assert_eq!(place(allowed), place(denied));
    assert!(
        denied.reason.message.contains("the policy changed"),
        "{denied:#?}"
    );
    let outcome = allowed.outcome.as_ref().unwrap();
    let error = outcome.error.as_ref().unwrap();
    assert!(error.contains(&denied.id.to_string()), "{error}");
}

/// A request whose answer has begun.
async fn answering(world: &World) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(
        &mut upstream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n",
    )
    .await;
    read_until(&mut client, "data: 1\n\n").await;
    (client, upstream)
}

#[tokio::test]
async fn a_spliced_connection_that_is_denied_now_is_reset() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "\0hello").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 6).await, b"\0hello");
    world.change(Rules::Deny);
    assert_reset(&mut client).await;
    assert_reset(&mut upstream).await;
    ended(&world.end().await);
}

#[tokio::test]
async fn an_answer_that_is_denied_now_breaks_off() {
    let world = by_name(Rules::Requests).build().await;
    let (mut client, mut upstream) = answering(&world).await;
    world.change(Rules::Deny);
    assert_reset(&mut client).await;
    // Abandoned, however much is on its way.
    let _ = read_all(&mut upstream).await;
    ended(&world.end().await);
}

#[tokio::test]
async fn what_is_still_allowed_goes_on() {
    let world = by_name(Rules::Requests).build().await;
    let (mut client, mut upstream) = answering(&world).await;
    world.change(Rules::Allow);
    write(&mut upstream, "data: 2\n\n").await;
    read_until(&mut client, "data: 2\n\n").await;
    // It is looked at again with each change.
    world.change(Rules::Requests);
    write(&mut upstream, "data: 3\n\n").await;
    read_until(&mut client, "data: 3\n\n").await;
    world.change(Rules::Deny);
    assert_reset(&mut client).await;
    ended(&world.end().await);
}

#[tokio::test]
async fn a_request_that_is_denied_now_and_has_no_answer_yet_is_refused_in_words() {
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    world.change(Rules::Deny);
    let (head, body) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(read_all(&mut upstream).await.unwrap(), b"");

    // Nothing more comes on this connection; the next one is looked up anew.
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    world.change(Rules::Requests);
    let mut client = world.connect().await;
    write(&mut client, get("/ok/again")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    assert_eq!(read_response(&mut client).await.1, "ok");
    drop((client, upstream));
    let mut decisions = world.end().await;
    assert!(body.contains(&decisions[1].id.to_string()), "{body}");
    assert_eq!(decisions.pop().unwrap().verdict, Verdict::Allow);
    ended(&decisions);
}

/// Its answer is over, or nobody reads that, and the upload still ends.
#[tokio::test]
async fn an_upload_that_is_denied_now_ends_whatever_became_of_its_answer() {
    let endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for answer in [OK, endless] {
        let world = by_name(Rules::Inspect).build().await;
        let mut client = world.connect().await;
        let head = "POST /ok HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        write(&mut client, [head, "3\r\none\r\n"].concat()).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "one\r\n").await;
        write(&mut upstream, answer).await;
        if answer == endless {
            // More than anybody holds for a client that does not read.
            let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            let full = async {
                loop {
                    let said = upstream.write_all(piece.as_bytes());
                    let late = timeout(Duration::from_millis(500), said).await;
                    if late.is_err() {
                        return;
                    }
                }
            };
            soon(full).await;
        } else {
            read_response(&mut client).await;
        }
        world.change(Rules::Deny);
        let decisions = world.until(|decisions| decisions.len() == 2).await;
        // Whatever is sent now goes nowhere.
        let _ = client.write_all(b"3\r\ntwo\r\n").await;
        let mut rest = Vec::new();
        let _ = soon(upstream.read_to_end(&mut rest)).await;
        assert_eq!(String::from_utf8_lossy(&rest), "");
        drop(client);
        assert_eq!(decisions[1].verdict, Verdict::Deny);
        ended(&world.end().await);
    }
}

/// Its answer is over, and nothing of it moves, so that nobody asks whether it may.
#[tokio::test]
async fn an_upload_that_nobody_takes_any_more_is_denied_all_the_same() {
    let world = by_name(Rules::Inspect).build().await;
    let mut client = world.connect().await;
    let head = "POST /ok HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    write(&mut client, head).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    read_response(&mut client).await;
    let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let full = async {
        loop {
            let said = client.write_all(piece.as_bytes());
            let late = timeout(Duration::from_millis(500), said).await;
            if late.is_err() {
                return;
            }
        }
    };
    soon(full).await;
    world.change(Rules::Deny);
    let decisions = world.until(|decisions| decisions.len() == 2).await;
    assert_eq!(decisions[1].verdict, Verdict::Deny);
    drop((client, upstream));
    ended(&world.end().await);
}

/// However long the record takes, a denial holds from when it is ruled.
#[tokio::test]
async fn nothing_moves_while_a_denial_is_recorded() {
    let upload = "POST /ok HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let raw = "\0hello\r\n\r\n".to_owned();
    let more = websocket::masked(0x81, "more");
    for (begin, answer, more) in [
        (upload.to_owned(), OK, &b"4\r\nmore\r\n"[..]),
        (websocket::ask(""), websocket::SWITCH, &more),
        (raw, "hello\r\n\r\n", b"more"),
    ] {
        let world = by_name(Rules::Allow).build().await;
        let mut client = world.connect().await;
        write(&mut client, &begin).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, answer).await;
        read_until(&mut client, "\r\n\r\n").await;
        {
            let _disk = world.log.disk.write().await;
            world.change(Rules::Deny);
            write(&mut client, more).await;
            let moved = upstream.read_u8();
            let moved = timeout(Duration::from_millis(300), moved).await;
            assert!(moved.is_err(), "{begin:?}: {moved:?}");
        }
        world.until(|decisions| decisions.len() == 2).await;
        let mut rest = Vec::new();
        let _ = soon(upstream.read_to_end(&mut rest)).await;
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(!rest.contains("more"), "{rest:?}");
        drop(client);
        assert_eq!(world.end().await.len(), 2);
    }
}

/// Nothing moves in either direction, and the denial does not wait until something does.
#[tokio::test]
async fn an_answer_that_nobody_takes_is_denied_all_the_same() {
    let mut plan = by_name(Rules::Requests);
    plan.limits.linger = Duration::from_millis(50);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, "HTTP/1.1 200 OK\r\n\r\n").await;
    let piece = [b'x'; 0x10000];
    let full = async {
        loop {
            let said = upstream.write_all(&piece);
            let late = timeout(Duration::from_millis(500), said).await;
            if late.is_err() {
                return;
            }
        }
    };
    soon(full).await;
    // A change that denies nothing, and a record that takes its time.
    world.change(Rules::Requests);
    settled().await;
    {
        let _disk = world.log.disk.write().await;
        world.change(Rules::Deny);
        world.given(2).await;
        settled().await;
    }
    let over = |d: &[Decision]| d.len() == 2 && d[0].outcome.is_some();
    ended(&world.until(over).await);
    assert_reset(&mut client).await;
}

/// What the guard against rebinding keeps closed is no rule's affair.
#[tokio::test]
async fn a_connection_whose_address_is_closed_now_is_reset() {
    let world = by_name(Rules::Allow).build().await;
    let mut client = world.connect().await;
    write(&mut client, "\0hello").await;
    let mut upstream = world.accept().await;
    assert_eq!(read_some(&mut upstream, 6).await, b"\0hello");
    world.closed.store(true, Ordering::Relaxed);
    world.change(Rules::Allow);
    assert_reset(&mut client).await;
    let decisions = world.end().await;
    let closed = (Verdict::Deny, ReasonCode::Rebinding);
    assert_eq!(
        codes(&decisions),
        [(Verdict::Allow, ReasonCode::RuleAllow), closed]
    );
}

/// Where a connection may go is looked up when it is opened: after a change it is not used for more.
#[tokio::test]
async fn an_open_connection_is_closed_when_the_policy_changes_also_if_nothing_was_denied() {
    let world = by_name(Rules::Requests).build().await;
    // One that idles after a request, …
    let mut client = world.connect().await;
    write(&mut client, get("/no")).await;
    assert!(
        read_response(&mut client)
            .await
            .0
            .starts_with("HTTP/1.1 403 ")
    );
    // … and one that has not said anything yet.
    let mut silent = world.looked_up(2).await;
    world.change(Rules::Requests);
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    world.change(Rules::Deny);
    write(&mut silent, get("/ok")).await;
    assert!(
        read_response(&mut silent)
            .await
            .0
            .starts_with("HTTP/1.1 403 ")
    );
    drop((client, silent));
    let denied = (Verdict::Deny, ReasonCode::NoRule);
    assert_eq!(codes(&world.end().await), [denied, denied]);
}

/// A denial of the address holds for a connection that was looked up before it.
#[tokio::test]
async fn a_request_on_an_older_connection_does_not_reach_an_address_that_is_denied_now() {
    let mut plan = by_name(Rules::Allow);
    plan.addresses = Ok(vec![DENIED.parse().unwrap()]);
    let world = plan.build().await;
    let there = TcpListener::bind((DENIED, world.port())).await;
    let mut silent = world.looked_up(1).await;
    world.change(Rules::ButOneAddress);
    write(&mut silent, get("/ok")).await;
    let (head, _) = read_response(&mut silent).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    drop((silent, there));
    let denied = (Verdict::Deny, ReasonCode::RuleDeny);
    assert_eq!(codes(&world.end().await), [denied]);
}

#[tokio::test]
async fn a_websocket_that_is_denied_now_is_closed_in_words() {
    let world = by_name(Rules::Requests).build().await;
    let mut client = world.connect().await;
    write(&mut client, websocket::ask("")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    let hello = websocket::frame(0x81, "hello");
    write(
        &mut upstream,
        [websocket::SWITCH.as_bytes(), &hello].concat(),
    )
    .await;
    read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(read_some(&mut client, hello.len()).await, hello);
    world.change(Rules::Deny);
    let (code, reason) = websocket::closed(&mut client).await;
    assert_eq!(code, 1008);
    drop(client);
    let told = read_all(&mut upstream).await.unwrap();
    assert!(told.starts_with(&[0x88, 0x82]), "{told:x?}");
    let decisions = world.end().await;
    ended(&decisions);
    let id = decisions[1].id.to_string();
    assert!(
        reason.ends_with(&format!(" (agentguard explain {id})")),
        "{reason}"
    );
}

/// An upstream that answers each request with what is said from then on.
async fn repeat(io: TokioIo<TlsStream<TcpStream>>, say: broadcast::Sender<Bytes>) {
    let answer = service_fn(move |_| {
        let said = stream::unfold(say.subscribe(), |mut said| async move {
            let text = said.recv().await.ok()?;
            Some((Ok::<_, Infallible>(Frame::data(text)), said))
        });
        async { Ok::<_, Infallible>(Response::new(StreamBody::new(said))) }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // How it ends is the client's affair.
    let _ = builder.serve_connection(io, answer).await;
}

/// Of two answers on one connection of HTTP/2 the one that is denied now ends.
#[tokio::test]
async fn a_stream_of_http2_ends_alone() {
    let world = by_name(Rules::Inspect).build().await;
    let (say, _) = broadcast::channel(8);
    let config = world.upstreams.server(NAME, &["h2"]);
    let shaking = client(&world, world.authority.roots(), &["h2"]);
    let upstream = async { TlsAcceptor::from(config).accept(world.accept().await).await };
    let (stream, upstream) = tokio::join!(shaking, upstream);
    let upstream = tokio::spawn(repeat(TokioIo::new(upstream.unwrap()), say.clone()));
    let io = TokioIo::new(stream.unwrap());
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    let mut bodies = Vec::new();
    for path in ["/ok/no-more", "/ok"] {
        let request = request(Version::HTTP_2, Method::GET, path, "");
        let response = soon(sender.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        bodies.push(response.into_body());
    }
    let [mut ending, mut going] = <[Incoming; 2]>::try_from(bodies).unwrap();
    say.send("one".into()).unwrap();
    for body in [&mut ending, &mut going] {
        let frame = soon(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "one");
    }
    world.change(Rules::InspectLess);
    let error = soon(ending.frame()).await.unwrap().unwrap_err();
    assert!(format!("{error:?}").contains("Reset"), "{error:?}");
    say.send("two".into()).unwrap();
    let frame = soon(going.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "two");
    drop((ending, going, sender));
    let decisions = world.end().await;
    assert_eq!(decisions.len(), 3, "{decisions:#?}");
    ended(&[decisions[0].clone(), decisions[2].clone()]);
    upstream.abort();
}

/// Requests of one connection of HTTP/2 go on at several addresses: a denial of the first one counts, too.
#[tokio::test]
async fn a_stream_ends_whose_address_is_denied_though_another_one_was_dialled_since() {
    let mut plan = by_name(Rules::Allow);
    plan.upstream = DENIED.parse().unwrap();
    plan.addresses = Ok(vec![DENIED.parse().unwrap(), "127.0.0.77".parse().unwrap()]);
    let mut world = plan.build().await;
    let port = world.port();
    let (mut client, driver) = h2::client::handshake(world.connect().await).await.unwrap();
    tokio::spawn(driver);
    let ask = |path: &str| {
        let target = format!("http://api.example:{port}{path}");
        http::Request::get(target).body(()).unwrap()
    };
    let (first, _) = client.send_request(ask("/one"), true).unwrap();
    let mut upstream = h2::server::handshake(world.accept().await).await.unwrap();
    let (_, mut respond) = soon(upstream.accept()).await.unwrap().unwrap();
    let mut one = respond.send_response(Response::new(()), false).unwrap();
    one.send_data("a".into(), false).unwrap();
    // It takes no more, and nothing listens there any longer.
    upstream.graceful_shutdown();
    let serving = tokio::spawn(async move { while upstream.accept().await.is_some() {} });
    let mut answer = soon(first).await.unwrap().into_body();
    assert_eq!(soon(answer.data()).await.unwrap().unwrap(), "a");
    world.upstream = TcpListener::bind(("127.0.0.77", port)).await.unwrap();
    let second = loop {
        // The first connection's end may not have come yet.
        client = client.ready().await.unwrap();
        let (second, _) = client.send_request(ask("/two"), true).unwrap();
        if let Ok(accepted) = timeout(Duration::from_millis(500), world.upstream.accept()).await {
            break (second, accepted.unwrap().0);
        }
    };
    let mut upstream = h2::server::handshake(second.1).await.unwrap();
    let (_, mut respond) = soon(upstream.accept()).await.unwrap().unwrap();
    let two = respond.send_response(Response::new(()), false).unwrap();
    let going = tokio::spawn(async move { while upstream.accept().await.is_some() {} });
    soon(second.0).await.unwrap();
    world.change(Rules::ButOneAddress);
    assert!(soon(answer.data()).await.unwrap().is_err());
    drop((two, client, answer));
    serving.abort();
    going.abort();
    let decisions = world.end().await;
    let denied = decisions.iter().find(|it| it.verdict == Verdict::Deny);
    assert_eq!(denied.unwrap().action.ip, Some(DENIED.parse().unwrap()));
}

/// A rule on addresses is about the one that was dialled.
#[tokio::test]
async fn a_connection_whose_address_is_denied_now_is_reset() {
    let mut plan = by_name(Rules::Allow);
    plan.addresses = Ok(vec![DENIED.parse().unwrap()]);
    let world = plan.build().await;
    let there = TcpListener::bind((DENIED, world.port())).await.unwrap();
    let mut client = world.connect().await;
    write(&mut client, "\0hello").await;
    let (mut upstream, _) = soon(there.accept()).await.unwrap();
    assert_eq!(read_some(&mut upstream, 6).await, b"\0hello");
    world.change(Rules::ButOneAddress);
    assert_reset(&mut client).await;
    let decisions = world.end().await;
    assert_eq!(
        codes(&decisions),
        [
            (Verdict::Allow, ReasonCode::RuleAllow),
            (Verdict::Deny, ReasonCode::RuleDeny)
        ]
    );
    assert_eq!(decisions[1].action.ip, Some(DENIED.parse().unwrap()));
}

/// A client of HTTP/2 that is in the middle of a body gets its refusal, and room for the rest.
#[tokio::test]
async fn an_upload_that_is_denied_now_is_taken_to_its_end() {
    // Far more than a stream's window.
    const PIECES: usize = 64;
    let world = by_name(Rules::Inspect).build().await;
    let config = world.upstreams.server(NAME, &["h2"]);
    let shaking = client(&world, world.authority.roots(), &["h2"]);
    let upstream = async { TlsAcceptor::from(config).accept(world.accept().await).await };
    let (stream, upstream) = tokio::join!(shaking, upstream);
    // It takes the request and says nothing.
    let silent =
        service_fn(|_| std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>());
    let serving = tokio::spawn(async move {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder
            .serve_connection(TokioIo::new(upstream.unwrap()), silent)
            .await;
    });
    let io = TokioIo::new(stream.unwrap());
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(driver);
    let (begun, sent) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = (Arc::clone(&begun), Arc::clone(&sent));
    let pieces = stream::unfold((PIECES, told), |(left, told)| async move {
        if left == 0 {
            told.1.notify_one();
            return None;
        }
        told.0.notify_one();
        let piece = Frame::data(Bytes::from(vec![b'x'; 64 * 1024]));
        Some((Ok::<_, Infallible>(piece), (left - 1, told)))
    });
    let request = http::Request::post(format!("https://{NAME}/ok"));
    let request = request.body(StreamBody::new(Box::pin(pieces))).unwrap();
    let answer = tokio::spawn(async move { sender.send_request(request).await.unwrap().status() });
    soon(begun.notified()).await;
    world.until(|decisions| !decisions.is_empty()).await;
    world.change(Rules::Deny);
    assert_eq!(soon(answer).await.unwrap(), StatusCode::FORBIDDEN);
    soon(sent.notified()).await;
    serving.abort();
}
