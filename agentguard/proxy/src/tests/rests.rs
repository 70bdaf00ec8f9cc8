//! Connections whose clients ask for nothing for a while, and keep no buffers meanwhile.

use std::sync::Arc;
use std::time::Duration;

use agentguard_model::Verdict;
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::http::{OK, get, read_response};
use super::inspect::{NAME, client, request, serve_one};
use super::{
    Plan, Rules, World, by_address, by_name, codes, read_all, read_some, read_until, settled, soon,
    write,
};
use crate::Limits;

const REST: Duration = Duration::from_millis(20);

/// Much longer than that.
const LONG: Duration = Duration::from_millis(200);

fn resting(plan: Plan) -> Plan {
    Plan {
        limits: Limits {
            rest: REST,
            ..Limits::default()
        },
        ..plan
    }
}

async fn rests(world: &World) {
    let rests = async {
        while world.shared.awake() > 0 {
            sleep(REST).await;
        }
    };
    soon(rests).await;
}

async fn ask(client: &mut TcpStream, upstream: &mut TcpStream) {
    write(client, get("/ok")).await;
    read_until(upstream, "\r\n\r\n").await;
    write(upstream, OK).await;
    let (head, body) = read_response(client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "ok");
}

/// A client whose first request was answered, and its upstream.
async fn begun(world: &World) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    read_response(&mut client).await;
    (client, upstream)
}

#[tokio::test]
async fn both_sides_go_on_where_they_were() {
    for plan in [by_name(Rules::Requests), by_address(Rules::Allow)] {
        let world = resting(plan).build().await;
        let (mut client, mut upstream) = begun(&world).await;
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let awake = tasks();
        for _ in 0..3 {
            rests(&world).await;
            // Nothing drives the upstream's side.
            assert_eq!(tasks(), awake - 1);
            ask(&mut client, &mut upstream).await;
            assert_eq!(world.shared.awake(), 1);
            assert_eq!(tasks(), awake);
        }
        // Many at once, and one behind them of which the end comes later.
        rests(&world).await;
        write(&mut client, get("/ok").repeat(3) + "GET /ok HT").await;
        for _ in 0..3 {
            read_until(&mut upstream, "\r\n\r\n").await;
            write(&mut upstream, OK).await;
            read_response(&mut client).await;
        }
        sleep(LONG).await;
        assert_eq!(world.shared.awake(), 1);
        write(&mut client, "TP/1.1\r\nHost: api.example\r\n\r\n").await;
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, OK).await;
        read_response(&mut client).await;
        let decisions = world.end().await;
        assert_eq!(decisions.len(), 8);
        assert!(decisions.iter().all(|it| it.verdict == Verdict::Allow));
    }
}

#[tokio::test]
async fn inside_tls_both_sides_go_on_where_they_were() {
    let world = resting(by_name(Rules::Inspect)).build().await;
    let config = world.upstreams.server(NAME, &["http/1.1"]);
    let serve = async {
        serve_one(world.accept().await, Arc::clone(&config)).await;
        world.accept().await
    };
    let talk = async {
        let stream = client(&world, world.authority.roots(), &["http/1.1"]).await;
        let io = TokioIo::new(stream.unwrap());
        let (mut sender, driver) = http1::handshake(io).await.unwrap();
        let driver = tokio::spawn(driver);
        for _ in 0..3 {
            let asked = request(Version::HTTP_11, Method::GET, "/ok", "");
            let response = soon(sender.send_request(asked)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            soon(response.into_body().collect()).await.unwrap();
            rests(&world).await;
        }
        drop(sender);
        soon(driver).await.unwrap().unwrap();
    };
    tokio::select! {
        () = talk => {}
        _ = serve => panic!("there is another connection"),
    }
    assert_eq!(world.end().await.len(), 3);
}

#[tokio::test]
async fn what_begins_in_pieces_or_cannot_be_read_is_what_it_was() {
    let world = resting(by_name(Rules::Requests)).build().await;
    let (mut client, mut upstream) = begun(&world).await;
    rests(&world).await;
    for piece in ["GET /ok HTTP/1.1\r\n", "Host: api.example\r\n", "\r\n"] {
        write(&mut client, piece).await;
        sleep(REST).await;
    }
    read_until(&mut upstream, "\r\n\r\n").await;
    write(&mut upstream, OK).await;
    read_response(&mut client).await;
    rests(&world).await;
    write(&mut client, "GET /ok HTTP/1.1\nHost: api.example\n\n").await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert_eq!(world.end().await.len(), 3);
}

#[tokio::test]
async fn an_answer_that_takes_its_time_is_waited_for() {
    let world = resting(by_name(Rules::Requests)).build().await;
    let (mut client, mut upstream) = begun(&world).await;
    write(&mut client, get("/ok")).await;
    read_until(&mut upstream, "\r\n\r\n").await;
    sleep(LONG).await;
    write(
        &mut upstream,
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\non",
    )
    .await;
    read_until(&mut client, "\r\n\r\non").await;
    sleep(LONG).await;
    assert_eq!(world.shared.awake(), 1);
    write(&mut upstream, "ce").await;
    assert_eq!(read_some(&mut client, 2).await, b"ce");
    rests(&world).await;
    world.end().await;
}

/// As much as hyper keeps to be written, and less than that.
const STEP: usize = 48 << 10;

/// Of so many, the kernel takes some whole, and others not. In between is one of which it takes a part, and hyper has the rest.
const SIZES: usize = 96;

/// What waits to be written is no rest.
#[tokio::test]
async fn an_answer_that_nobody_reads_is_kept_to_its_end() {
    let world = resting(by_name(Rules::Requests)).build().await;
    let mut clients = Vec::new();
    for size in (1..SIZES).map(|it| it * STEP) {
        let (mut client, mut upstream) = begun(&world).await;
        few(&client);
        write(&mut client, get("/ok")).await;
        read_until(&mut upstream, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        let answers = tokio::spawn(async move {
            write(&mut upstream, head).await;
            write(&mut upstream, vec![7; size]).await;
            upstream
        });
        clients.push((size, client, answers));
    }
    sleep(LONG).await;
    for (size, mut client, answers) in clients {
        read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(read_some(&mut client, size).await, vec![7; size]);
        let mut upstream = soon(answers).await.unwrap();
        ask(&mut client, &mut upstream).await;
    }
    rests(&world).await;
    world.end().await;
}

/// An answer may be encoded before all that was asked has come: hyper waits for the next request then, whether the answer
/// is written or not.
#[tokio::test]
async fn an_answer_that_came_early_is_kept_to_its_end() {
    let world = resting(by_name(Rules::Changed)).build().await;
    let mut clients = Vec::new();
    for size in (1..SIZES).map(|it| it * STEP) {
        let (mut client, mut upstream) = begun(&world).await;
        few(&client);
        let head = "POST /ok HTTP/1.1\r\nHost: api.example\r\nContent-Length: 4\r\n\r\n";
        write(&mut client, head).await;
        read_until(&mut upstream, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        let answers = tokio::spawn(async move {
            write(&mut upstream, head).await;
            write(&mut upstream, vec![7; size]).await;
            assert_eq!(read_some(&mut upstream, 4).await, b"late");
            upstream
        });
        clients.push((size, client, answers));
    }
    sleep(LONG).await;
    for (_, client, _) in &mut clients {
        write(client, "late").await;
    }
    sleep(LONG).await;
    for (size, mut client, answers) in clients {
        read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(read_some(&mut client, size).await, vec![7; size]);
        let mut upstream = soon(answers).await.unwrap();
        ask(&mut client, &mut upstream).await;
    }
    rests(&world).await;
    world.end().await;
}

/// An answer may come before the upstream has read what was asked: the rest of that is still to be written.
#[tokio::test]
async fn a_request_that_nobody_reads_is_kept_to_its_end() {
    let world = resting(by_name(Rules::Changed)).build().await;
    let mut upstreams = Vec::new();
    for size in (1..SIZES).map(|it| it * STEP) {
        let (mut client, mut upstream) = begun(&world).await;
        few(&upstream);
        let head =
            format!("POST /ok HTTP/1.1\r\nHost: api.example\r\nContent-Length: {size}\r\n\r\n");
        let asks = tokio::spawn(async move {
            write(&mut client, head).await;
            write(&mut client, vec![7; size]).await;
            read_response(&mut client).await;
            client
        });
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, OK).await;
        upstreams.push((size, upstream, asks));
    }
    sleep(LONG).await;
    for (size, mut upstream, asks) in upstreams {
        assert_eq!(read_some(&mut upstream, size).await, vec![7; size]);
        let mut client = soon(asks).await.unwrap();
        ask(&mut client, &mut upstream).await;
    }
    world.end().await;
}

/// The kernel keeps little for who reads on this side.
fn few(stream: &TcpStream) {
    SockRef::from(stream)
        .set_recv_buffer_size(64 << 10)
        .unwrap();
}

#[tokio::test]
async fn an_upstream_that_closes_meanwhile_is_replaced() {
    let world = resting(by_name(Rules::Requests)).build().await;
    let (mut client, mut upstream) = begun(&world).await;
    for says in [
        "",
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
    ] {
        rests(&world).await;
        write(&mut upstream, says).await;
        upstream.shutdown().await.unwrap();
        // The guard sees it at once, and leaves.
        let _ = read_all(&mut upstream).await;
        write(&mut client, get("/ok")).await;
        upstream = world.accept().await;
        read_until(&mut upstream, "\r\n\r\n").await;
        write(&mut upstream, OK).await;
        let (head, _) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    assert_eq!(world.end().await.len(), 3);
}

#[tokio::test]
async fn a_client_that_leaves_meanwhile_leaves_its_upstream_to_the_next() {
    let world = resting(by_name(Rules::Requests)).build().await;
    let (client, mut upstream) = begun(&world).await;
    rests(&world).await;
    drop(client);
    // It is put where the next one finds it.
    settled().await;
    let mut client = world.connect().await;
    ask(&mut client, &mut upstream).await;
    timeout(REST, world.upstream.accept()).await.unwrap_err();
    world.end().await;
}

#[tokio::test]
async fn it_ends_where_it_would_have_ended() {
    // Under another policy, so that the next request looks up where it may go.
    let world = resting(by_name(Rules::Requests)).build().await;
    let (mut client, _upstream) = begun(&world).await;
    rests(&world).await;
    world.change(Rules::Deny);
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let decisions = world.end().await;
    assert_eq!(codes(&decisions).len(), 2);

    // At shutdown.
    let world = resting(by_name(Rules::Requests)).build().await;
    let (mut client, _upstream) = begun(&world).await;
    rests(&world).await;
    world.shutdown.cancel();
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    world.end().await;

    // Once it has asked for nothing for too long.
    let plan = by_name(Rules::Requests);
    let limits = Limits {
        rest: REST,
        keep_alive: LONG,
        ..Limits::default()
    };
    let world = Plan { limits, ..plan }.build().await;
    let (mut client, mut upstream) = begun(&world).await;
    rests(&world).await;
    sleep(LONG / 2).await;
    ask(&mut client, &mut upstream).await;
    assert_eq!(read_all(&mut client).await.unwrap(), b"");
    assert!(timeout(REST, upstream.read_u8()).await.is_err());
    world.end().await;
}
