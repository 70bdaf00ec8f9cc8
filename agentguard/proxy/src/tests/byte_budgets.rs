//! What carries bytes, and how it ends where a budget of them has no more.

use std::future::poll_fn;

use agentguard_model::{Decision, ReasonCode, Verdict};
use bytes::Bytes;
use http::{Request, Response};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::websocket::{SWITCH, ask, closed, frame, masked};
use super::{Rules, World, by_name, codes, read_some, read_until, soon, write};

const LIMIT: u64 = 2_000;

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const SPENT: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::BudgetExhausted);

async fn world() -> World {
    by_name(Rules::Bytes).build().await
}

/// What the first decision was charged by a budget.
fn charged(decisions: &[Decision], budget: &str) -> u64 {
    let outcome = decisions[0].outcome.as_ref().unwrap();
    let line = outcome.budget.iter().find(|it| it.budget == budget);
    let line = line.unwrap();
    assert!(
        line.settled <= Some(line.reserved) && line.overshoot.is_none(),
        "{line:?}"
    );
    line.settled.unwrap()
}

/// All that comes until it ends, in whatever way.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), [0; 1024]);
    let reading = async {
        while let Ok(count) = stream.read(&mut part).await
            && count > 0
        {
            all.extend_from_slice(&part[..count]);
        }
    };
    soon(reading).await;
    all
}

/// A request to the upstream, which has its head.
async fn asked(world: &World, request: String) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    write(&mut client, request).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    (client, upstream)
}

#[tokio::test]
async fn an_answer_ends_at_the_last_byte_that_is_left_and_the_next_request_is_refused() {
    let world = world().await;
    let get = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";
    let (mut client, mut upstream) = asked(&world, get.to_owned()).await;
    write(
        &mut upstream,
        "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n",
    )
    .await;
    write(&mut upstream, [b'x'; 9000]).await;
    let came = String::from_utf8(rest(&mut client).await).unwrap();
    let came = came.split_once("\r\n\r\n").unwrap().1.len() as u64;
    assert!(came <= LIMIT, "{came}");
    let mut client = world.connect().await;
    write(&mut client, get).await;
    let told = read_until(&mut client, "\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 429 "), "{told}");
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED, SPENT, SPENT]);
    assert_eq!(charged(&decisions, "comes"), LIMIT);
    // The head of it, and nothing else.
    assert!((1..100).contains(&charged(&decisions, "leaves")));
}

#[tokio::test]
async fn trailers_are_bytes_as_well() {
    let world = world().await;
    let head = "POST / HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut client, mut upstream) = asked(&world, head.to_owned()).await;
    let content = "x".repeat(1_500);
    write(&mut client, format!("5dc\r\n{content}\r\n")).await;
    write(&mut client, format!("0\r\nx-more: {content}\r\n\r\n")).await;
    let came = String::from_utf8(rest(&mut upstream).await).unwrap();
    assert_eq!(came.matches('x').count(), content.len(), "{came}");
    assert!(
        !came.contains("x-more") && !came.ends_with("0\r\n\r\n"),
        "{came}"
    );
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED, SPENT]);
    assert_eq!(charged(&decisions, "leaves"), LIMIT);
}

#[tokio::test]
async fn a_websocket_is_closed_where_nothing_is_left_either_way() {
    for (leaves, budget) in [(true, "leaves"), (false, "comes")] {
        let world = world().await;
        let (mut client, mut upstream) = asked(&world, ask("")).await;
        write(&mut upstream, SWITCH).await;
        read_until(&mut client, "\r\n\r\n").await;
        let few = if leaves {
            masked(0x82, [1; 100])
        } else {
            frame(0x82, [1; 100])
        };
        let (from, to) = match leaves {
            true => (&mut client, &mut upstream),
            false => (&mut upstream, &mut client),
        };
        write(from, &few).await;
        assert_eq!(read_some(to, few.len()).await, few);
        write(from, few.repeat(40)).await;
        if leaves {
            assert_eq!(closed(&mut client).await.0, 1008);
        }
        let behind = rest(if leaves { &mut upstream } else { &mut client }).await;
        assert!((behind.len() as u64) < LIMIT, "{}", behind.len());
        let decisions = world.end().await;
        assert_eq!(codes(&decisions), [ALLOWED, SPENT], "{budget}");
        assert_eq!(charged(&decisions, budget), LIMIT);
    }
}

/// A server that refuses what it has seen the head of may read on, and its client send on.
#[tokio::test]
async fn what_goes_on_behind_a_refusal_is_counted() {
    let world = world().await;
    let head = "POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 1500\r\n\r\n";
    let (mut client, mut upstream) = asked(&world, head.to_owned()).await;
    let page = "y".repeat(1_200);
    write(
        &mut upstream,
        format!("HTTP/1.1 401 No\r\nContent-Length: 1200\r\n\r\n{page}"),
    )
    .await;
    let told = read_until(&mut client, &page).await;
    assert!(told.starts_with("HTTP/1.1 401 "), "{told}");
    write(&mut client, [b'x'; 1_500]).await;
    let came = soon(read_some(&mut upstream, 1_500)).await;
    assert_eq!(came, [b'x'; 1_500]);
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED]);
    assert_eq!(charged(&decisions, "comes"), 1_200);
    assert!((1_501..1_600).contains(&charged(&decisions, "leaves")));
}

/// What ends with the last byte that is left was not too much.
#[tokio::test]
async fn a_connection_that_ends_with_the_last_byte_is_not_cut() {
    let world = world().await;
    let mut client = world.connect().await;
    let mut upstream = world.accept().await;
    let page = vec![b'x'; usize::try_from(LIMIT).unwrap()];
    write(&mut upstream, &page).await;
    assert_eq!(soon(read_some(&mut client, page.len())).await, page);
    drop(upstream);
    assert_eq!(rest(&mut client).await, b"");
    drop(client);
    let decisions = world.end().await;
    assert_eq!(codes(&decisions), [ALLOWED]);
    assert_eq!(charged(&decisions, "comes"), LIMIT);
}

/// What is read of a client since nobody takes it leaves nobody.
#[tokio::test]
async fn what_an_upstream_does_not_take_is_not_counted() {
    let world = world().await;
    let stream = world.connect().await;
    let (mut sender, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    let request = Request::post(format!("http://api.example:{}/", world.port()))
        .body(())
        .unwrap();
    let (answer, mut body) = sender.send_request(request, false).unwrap();
    let mut upstream = h2::server::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(world.accept().await)
        .await
        .unwrap();
    let (_, mut answering) = soon(upstream.accept()).await.unwrap().unwrap();
    let refused = Response::builder().status(401).body(()).unwrap();
    answering.send_response(refused, true).unwrap();
    let serving = tokio::spawn(async move { upstream.accept().await.is_some() });
    assert_eq!(soon(answer).await.unwrap().status(), 401);
    // RFC 9113, 8.1.
    answering.send_reset(h2::Reason::NO_ERROR);
    // It is read on all the same, for clients that do not look at an answer before all is sent.
    let mut left = 4 << 20;
    while left > 0 {
        body.reserve_capacity(left);
        let room = soon(poll_fn(|cx| body.poll_capacity(cx))).await;
        let room = room.unwrap().unwrap().min(left);
        left -= room;
        body.send_data(vec![b'x'; room].into(), left == 0).unwrap();
    }
    drop((sender, body));
    let decisions = world.end().await;
    serving.abort();
    assert_eq!(codes(&decisions), [ALLOWED]);
    let left = charged(&decisions, "leaves");
    // What was on its way as it was refused.
    assert!(left < LIMIT, "{left}");
}
