//! HTTP/2 stream by stream, in the clear, between two sides that see each frame's meaning.

use std::future::poll_fn;
use std::time::Duration;

use agentguard_model::{Decision, ReasonCode, Verdict};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::frames::{END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, fields, frame};
use super::inspect::NAME;
use super::{Rules, World, by_name, codes, read_all, settled, soon, write};

/// The client's side and the upstream's of one connection each.
struct Both {
    world: World,
    client: SendRequest<Bytes>,
    upstream: Connection<TcpStream, Bytes>,
    /// The answer to the request that opened the connections.
    first: ResponseFuture,
}

/// A request that is taken by the upstream.
struct Taken {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

fn asked(world: &World, method: &str, path: &str) -> Request<()> {
    let target = format!("http://{NAME}:{}{path}", world.port());
    let builder = Request::builder().method(method).uri(target);
    builder.body(()).unwrap()
}

impl Both {
    /// Connects with a request, which is taken by the upstream.
    async fn open(method: &str, ended: bool) -> (Self, SendStream<Bytes>, Taken) {
        let world = by_name(Rules::Allow).build().await;
        let stream = world.connect().await;
        let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(driver);
        let (first, body) = client
            .send_request(asked(&world, method, "/ok"), ended)
            .unwrap();
        let upstream = h2::server::handshake(world.accept().await).await.unwrap();
        let mut both = Self {
            world,
            client,
            upstream,
            first,
        };
        let taken = both.take().await;
        (both, body, taken)
    }

    async fn take(&mut self) -> Taken {
        let (request, respond) = soon(self.upstream.accept()).await.unwrap().unwrap();
        Taken { request, respond }
    }

    /// The upstream goes on while the test looks at something else.
    fn serve(mut upstream: Connection<TcpStream, Bytes>) -> JoinHandle<Option<Reason>> {
        tokio::spawn(async move {
            match upstream.accept().await {
                None => None,
                Some(Ok((request, _))) => panic!("{request:?}"),
                Some(Err(error)) => error.reason(),
            }
        })
    }
}

fn response(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

async fn interim(answer: &mut ResponseFuture) -> Option<Response<()>> {
    let interim = poll_fn(|cx| answer.poll_informational(cx));
    soon(interim).await.transpose().unwrap()
}

/// RFC 9110, 15.2 and RFC 9113, 8.1.
#[tokio::test]
async fn what_an_upstream_says_before_its_answer_is_passed_on() {
    let (both, _, mut taken) = Both::open("GET", true).await;
    let mut first = both.first;
    let serving = Both::serve(both.upstream);
    let mut hints = response(103);
    for (name, value) in [("link", "</a.css>"), ("link", "</b>")] {
        hints.headers_mut().append(name, value.parse().unwrap());
    }
    taken.respond.send_informational(response(102)).unwrap();
    let processing = interim(&mut first).await.unwrap();
    assert_eq!(processing.status(), StatusCode::PROCESSING);
    // Together with the answer.
    taken.respond.send_informational(hints.clone()).unwrap();
    taken.respond.send_informational(hints).unwrap();
    taken.respond.send_response(response(204), true).unwrap();
    for _ in 0..2 {
        let hints = interim(&mut first).await.unwrap();
        assert_eq!(hints.status(), StatusCode::EARLY_HINTS);
        let links: Vec<_> = hints.headers().get_all("link").iter().collect();
        assert_eq!(links, ["</a.css>", "</b>"]);
    }
    assert!(interim(&mut first).await.is_none());
    let answer = soon(first).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    serving.abort();
}

/// The library answers it, and it never becomes a request.
#[tokio::test]
async fn a_request_whose_fields_are_too_large_is_recorded() {
    let world = by_name(Rules::Allow).build().await;
    let stream = world.connect().await;
    let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    for size in [100, 70_000] {
        let mut request = asked(&world, "GET", "/ok");
        let much = "y".repeat(size).parse().unwrap();
        request.headers_mut().insert("x-much", much);
        let (answer, _) = client.send_request(request, true).unwrap();
        if size == 100 {
            let mut upstream = h2::server::handshake(world.accept().await).await.unwrap();
            let (_, mut respond) = soon(upstream.accept()).await.unwrap().unwrap();
            let serving = Both::serve(upstream);
            respond.send_response(response(204), true).unwrap();
            assert_eq!(soon(answer).await.unwrap().status(), StatusCode::NO_CONTENT);
            serving.abort();
        } else {
            let status = soon(answer).await.unwrap().status();
            assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
    }
    let allow = (Verdict::Allow, ReasonCode::RuleAllow);
    let malformed = (Verdict::Deny, ReasonCode::HttpMalformed);
    world.until(|decisions| decisions.len() == 2).await;
    drop(client);
    assert_eq!(codes(&world.end().await), [allow, malformed]);
}

/// RFC 9110, 9.3.2.
#[tokio::test]
async fn a_refusal_of_head_has_no_content() {
    let world = by_name(Rules::Deny).build().await;
    let stream = world.connect().await;
    let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    for method in ["GET", "HEAD"] {
        let (answer, _) = client
            .send_request(asked(&world, method, "/ok"), true)
            .unwrap();
        let answer = soon(answer).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert_eq!(answer.body().is_end_stream(), method == "HEAD");
        assert!(answer.headers().contains_key("content-length"));
    }
}

/// RFC 9110, 10.1.1.
#[tokio::test]
async fn a_client_that_waits_for_100_gets_the_upstream_s() {
    let world = by_name(Rules::Allow).build().await;
    let stream = world.connect().await;
    let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    let mut request = asked(&world, "POST", "/ok");
    let fields = request.headers_mut();
    fields.insert("expect", "100-continue".parse().unwrap());
    fields.insert("content-length", "4".parse().unwrap());
    let (mut answer, mut body) = client.send_request(request, false).unwrap();
    let mut upstream = h2::server::handshake(world.accept().await).await.unwrap();
    let (request, mut respond) = soon(upstream.accept()).await.unwrap().unwrap();
    let serving = Both::serve(upstream);
    assert_eq!(request.headers()["expect"], "100-continue");
    respond.send_informational(response(100)).unwrap();
    let go_on = interim(&mut answer).await.unwrap();
    assert_eq!(go_on.status(), StatusCode::CONTINUE);
    body.send_data("body".into(), true).unwrap();
    let mut sent = request.into_body();
    let data = soon(sent.data()).await.unwrap().unwrap();
    assert_eq!(data, "body");
    assert!(sent.is_end_stream());
    respond.send_response(response(200), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), StatusCode::OK);
    serving.abort();
}

/// A body that broke off must not look complete.
#[tokio::test]
async fn an_upload_that_its_client_cancels_does_not_end_for_the_upstream() {
    let (both, mut body, mut taken) = Both::open("POST", false).await;
    let serving = Both::serve(both.upstream);
    let mut sent = taken.request.into_body();
    body.send_data("begun".into(), false).unwrap();
    assert_eq!(soon(sent.data()).await.unwrap().unwrap(), "begun");
    body.send_reset(Reason::CANCEL);
    let error = soon(sent.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    let reset = poll_fn(|cx| taken.respond.poll_reset(cx));
    assert_eq!(soon(reset).await.unwrap(), Reason::CANCEL);
    serving.abort();
}

/// Also where the upload is all that is left of the exchange.
#[tokio::test]
async fn an_upload_that_is_cancelled_behind_its_answer_does_not_end_for_the_upstream() {
    let (both, mut body, mut taken) = Both::open("POST", false).await;
    let serving = Both::serve(both.upstream);
    let mut sent = taken.request.into_body();
    taken.respond.send_response(response(200), true).unwrap();
    assert!(soon(both.first).await.unwrap().body().is_end_stream());
    body.send_data("begun".into(), false).unwrap();
    assert_eq!(soon(sent.data()).await.unwrap().unwrap(), "begun");
    body.send_reset(Reason::CANCEL);
    assert!(soon(sent.data()).await.unwrap().is_err());
    serving.abort();
}

#[tokio::test]
async fn an_answer_that_the_upstream_cancels_does_not_end_for_the_client() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        let (both, _, mut taken) = Both::open("GET", true).await;
        let serving = Both::serve(both.upstream);
        let mut said = taken.respond.send_response(response(200), false).unwrap();
        said.send_data("begun".into(), false).unwrap();
        let mut answer = soon(both.first).await.unwrap().into_body();
        assert_eq!(soon(answer.data()).await.unwrap().unwrap(), "begun");
        said.send_reset(reason);
        let error = soon(answer.data()).await.unwrap().unwrap_err();
        assert_ne!(error.reason(), Some(Reason::NO_ERROR));
        let over = |outcome: &agentguard_model::Outcome| outcome.error.clone().unwrap();
        let decisions = both.world.until(|d| d[0].outcome.is_some()).await;
        let error = over(decisions[0].outcome.as_ref().unwrap());
        assert!(error.contains("the upstream broke off"), "{error}");
        serving.abort();
    }
}

/// GOAWAY ends what comes next, and nothing that is under way (RFC 9113, 6.8).
#[tokio::test]
async fn an_upstream_that_goes_away_finishes_what_it_took() {
    let (mut both, _, mut taken) = Both::open("GET", true).await;
    let mut said = taken.respond.send_response(response(200), false).unwrap();
    both.upstream.graceful_shutdown();
    let serving = Both::serve(both.upstream);
    let mut answer = soon(both.first).await.unwrap().into_body();
    said.send_data("begun".into(), false).unwrap();
    assert_eq!(soon(answer.data()).await.unwrap().unwrap(), "begun");
    // The next one is sent on another connection.
    let request = asked(&both.world, "GET", "/ok/2");
    let (second, _) = both.client.send_request(request, true).unwrap();
    let mut other = h2::server::handshake(both.world.accept().await)
        .await
        .unwrap();
    let (_, mut respond) = soon(other.accept()).await.unwrap().unwrap();
    let others = Both::serve(other);
    respond.send_response(response(204), true).unwrap();
    let status = soon(second).await.unwrap().status();
    assert_eq!(status, StatusCode::NO_CONTENT);
    said.send_data("ended".into(), true).unwrap();
    assert_eq!(soon(answer.data()).await.unwrap().unwrap(), "ended");
    assert!(answer.is_end_stream());
    assert_eq!(soon(serving).await.unwrap(), None);
    others.abort();
}

/// What is taken back is taken back from the upstream, too, before and behind its head.
#[tokio::test]
async fn a_request_that_is_taken_back_is_reset_upstream() {
    for answered in [false, true] {
        let (both, _, mut taken) = Both::open("GET", true).await;
        let serving = Both::serve(both.upstream);
        let reset = if answered {
            let mut said = taken.respond.send_response(response(200), false).unwrap();
            drop(soon(both.first).await.unwrap());
            soon(poll_fn(|cx| said.poll_reset(cx))).await
        } else {
            drop(both.first);
            soon(poll_fn(|cx| taken.respond.poll_reset(cx))).await
        };
        assert_eq!(reset.unwrap(), Reason::CANCEL);
        let decisions = both.world.until(|d| d[0].outcome.is_some()).await;
        let error = decisions[0].outcome.clone().unwrap().error.unwrap();
        let when = if answered {
            "the end of the answer"
        } else {
            "the answer"
        };
        assert_eq!(error, format!("the client went away before {when}"));
        serving.abort();
    }
}

/// More than a stream's window, in one piece.
fn much() -> Bytes {
    vec![b'x'; 1024 * 1024].into()
}

/// Nothing moves on a stream, and the denial does not wait until something does.
#[tokio::test]
async fn what_neither_side_takes_is_denied_all_the_same() {
    let (both, mut body, mut taken) = Both::open("POST", false).await;
    let serving = Both::serve(both.upstream);
    let mut said = taken.respond.send_response(response(200), false).unwrap();
    let answer = soon(both.first).await.unwrap();
    for stream in [&mut body, &mut said] {
        stream.send_data(much(), false).unwrap();
    }
    // The library sends what the windows have room for, and the guard takes what it has room for.
    let mut answer = answer;
    for receiving in [answer.body_mut(), taken.request.body_mut()] {
        while receiving.flow_control().available_capacity() > 0 {
            settled().await;
        }
    }
    settled().await;
    both.world.change(Rules::Deny);
    let over = |d: &[Decision]| d.len() == 2 && d[0].outcome.is_some();
    let decisions = both.world.until(over).await;
    let error = decisions[0].outcome.clone().unwrap().error.unwrap();
    assert!(error.contains(&decisions[1].id.to_string()), "{error}");
    for stream in [&mut body, &mut said] {
        let reset = poll_fn(|cx| stream.poll_reset(cx));
        soon(reset).await.unwrap();
    }
    drop(answer);
    serving.abort();
}

#[tokio::test]
async fn a_client_that_does_not_answer_a_ping_is_gone() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.keep_alive = Duration::from_millis(50);
    plan.limits.head = Duration::from_millis(50);
    let world = plan.build().await;
    let mut client = world.connect().await;
    let authority = format!("{NAME}:{}", world.port());
    let request = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", &authority),
        (":path", "/ok"),
    ];
    // One request is under way, so that the connection does not idle.
    let hello = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&request)),
    ];
    write(&mut client, hello.concat()).await;
    let said = read_all(&mut client).await.unwrap();
    let ping = frame(PING, 0, 0, &[0; 8]);
    let asked = said.windows(9).any(|head| *head == ping[..9]);
    assert!(asked, "{said:x?}");
    drop(client);
    let decisions = world.end().await;
    let error = decisions[0].outcome.as_ref().unwrap().error.as_ref();
    assert_eq!(error.unwrap(), "the client went away before the answer");
}

#[tokio::test]
async fn a_client_that_does_not_begin_is_refused() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.head = Duration::from_millis(50);
    let world = plan.build().await;
    let mut client = world.connect().await;
    write(&mut client, "PRI * HTTP/2.0\r\n\r\n").await;
    let _ = read_all(&mut client).await;
    drop(client);
    let late = (Verdict::Deny, ReasonCode::ClientTimeout);
    assert_eq!(codes(&world.end().await), [late]);
}

/// An upstream that takes one request at a time, and tells which it got.
async fn one_at_a_time(
    world: &World,
) -> tokio::sync::mpsc::UnboundedReceiver<(String, SendResponse<Bytes>)> {
    let mut upstream = h2::server::Builder::new()
        .max_concurrent_streams(1)
        .handshake::<_, Bytes>(world.accept().await)
        .await
        .unwrap();
    let mut pings = upstream.ping_pong().unwrap();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok((request, respond))) = upstream.accept().await {
            let _ = tell.send((request.uri().path().to_owned(), respond));
        }
    });
    // Who answers this has seen the settings before it.
    soon(pings.ping(h2::Ping::opaque())).await.unwrap();
    told
}

/// What the library has queued it sends later, whatever became of it.
#[tokio::test]
async fn a_request_that_waits_for_the_upstream_is_not_sent_once_it_is_denied_or_taken_back() {
    let world = by_name(Rules::Allow).build().await;
    let stream = world.connect().await;
    let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    let mut ask = |path: &str| {
        let request = asked(&world, "GET", path);
        client.send_request(request, true).unwrap().0
    };
    let first = ask("/ok/1");
    let mut upstream = one_at_a_time(&world).await;
    let (path, mut respond) = soon(upstream.recv()).await.unwrap();
    assert_eq!(path, "/ok/1");
    for number in 1..=20 {
        let taken_back = ask(&format!("/ok/back/{number}"));
        world.until(|d| d.len() == number + 1).await;
        drop(taken_back);
        world.until(|d| d[number].outcome.is_some()).await;
    }
    let denied = ask("/ok/denied");
    world.until(|d| d.len() == 22).await;
    let next = ask("/ok/next");
    world.until(|d| d.len() == 23).await;
    world.change(Rules::Deny);
    assert_eq!(soon(denied).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(soon(next).await.unwrap().status(), StatusCode::FORBIDDEN);
    // The place is free again.
    let _ = respond.send_response(response(200), true);
    let _ = soon(first).await;
    let more = tokio::time::timeout(Duration::from_millis(500), upstream.recv()).await;
    let path = more.ok().flatten().map(|(path, _)| path);
    assert_eq!(path, None);
}

#[tokio::test]
async fn requests_wait_for_their_turn_and_get_it() {
    let world = by_name(Rules::Allow).build().await;
    let stream = world.connect().await;
    let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    let mut ask = |number: usize| {
        let request = asked(&world, "GET", &format!("/ok/{number}"));
        client.send_request(request, true).unwrap().0
    };
    let mut answers = vec![ask(0)];
    let mut upstream = one_at_a_time(&world).await;
    let mut place = soon(upstream.recv()).await.unwrap().1;
    answers.extend((1..5).map(ask));
    for _ in 1..5 {
        place.send_response(response(204), true).unwrap();
        place = soon(upstream.recv()).await.unwrap().1;
    }
    place.send_response(response(204), true).unwrap();
    for answer in answers {
        assert_eq!(soon(answer).await.unwrap().status(), StatusCode::NO_CONTENT);
    }
}

/// An upstream that takes no bytes any more does not keep what nobody uses.
#[tokio::test]
async fn a_connection_that_is_left_ends_though_its_upstream_reads_nothing() {
    let mut plan = by_name(Rules::Allow);
    plan.limits.upstream_idle = Duration::from_millis(50);
    plan.limits.linger = Duration::from_millis(50);
    let world = plan.build().await;
    let stream = world.connect().await;
    let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(driver);
    let request = asked(&world, "POST", "/ok");
    let (first, mut body) = client.send_request(request, false).unwrap();
    let accepted = world.accept().await;
    let mut upstream = h2::server::Builder::new()
        .initial_window_size(1 << 30)
        .initial_connection_window_size(1 << 30)
        .handshake::<_, Bytes>(accepted)
        .await
        .unwrap();
    let taken = soon(upstream.accept()).await.unwrap().unwrap();
    // The windows are out, and then nothing is read.
    let _ = tokio::time::timeout(Duration::from_millis(200), upstream.accept()).await;
    let full = async {
        loop {
            body.reserve_capacity(1 << 16);
            let room = poll_fn(|cx| body.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_millis(500), room).await {
                Ok(room) => {
                    let room = room.unwrap().unwrap();
                    body.send_data(vec![0; room].into(), false).unwrap();
                }
                Err(_) => return,
            }
        }
    };
    soon(full).await;
    assert_eq!(sockets_to(world.port()), 1);
    driver.abort();
    drop((client, body, first));
    world.until(|d| d[0].outcome.is_some()).await;
    let gone = async {
        while sockets_to(world.port()) > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
    drop((taken, upstream));
}

/// How many sockets that somebody has are connected to this port: what the kernel still sends for none is
/// nobody's.
fn sockets_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let owned = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[2].ends_with(&remote) && fields[9] != "0"
    };
    table.lines().skip(1).filter(owned).count()
}
