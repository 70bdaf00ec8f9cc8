//! Clients of HTTP/2 that want the guard to work or to remember more than they do.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentguard_model::ReasonCode;
use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::frames::{
    CONTINUATION, END_HEADERS, HEADERS, Hostile, PING, RST_STREAM, SETTINGS, field, fields, frame,
    get, others_are_unharmed, request,
};
use super::inspect::NAME;
use super::{Rules, by_name, soon};

/// What the guard's sockets may hold of what nobody reads.
const SOCKETS: usize = 8 << 20;

/// Sends one after the other until the guard ends the connection or reads no further; how many.
async fn flood(hostile: &mut Hostile, most: usize, next: impl Fn(usize) -> Vec<u8>) -> usize {
    for number in 0..most {
        let bytes = next(number);
        let said = timeout(Duration::from_secs(2), hostile.say_now(&bytes));
        if !matches!(said.await, Ok(Ok(()))) {
            return number;
        }
    }
    most
}

#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection_cve_2023_44487() {
    const MOST: usize = 20_000;
    let world = by_name(Rules::Inspect).build().await;
    let mut hostile = Hostile::connect(&world).await;
    let mut sent = 0;
    let outcome = loop {
        sent += flood(&mut hostile, MOST - sent, |number| {
            let id = u32::try_from(2 * (sent + number) + 1).unwrap();
            [get(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
        })
        .await;
        assert!(sent < MOST, "all of them were taken");
        let outcome = async {
            loop {
                let outcome = hostile.outcome().await;
                if outcome == "closed" || outcome.starts_with("goaway") {
                    return outcome;
                }
            }
        };
        // It may have waited for its client to read, which it has now.
        if let Ok(outcome) = timeout(Duration::from_secs(2), outcome).await {
            break outcome;
        }
        sent += 1;
    };
    assert!(
        ["goaway 11", "closed"].contains(&outcome.as_str()),
        "{outcome}"
    );
    others_are_unharmed(&world).await;
    hostile.end();
    let decisions = world.end().await;
    let limited = decisions
        .iter()
        .filter(|decision| decision.reason.code == ReasonCode::LimitReached);
    assert_eq!(limited.count(), 1);
    assert!(
        decisions.len() < 2 * sent + 2,
        "{} decisions",
        decisions.len()
    );
}

/// In large pieces or in many empty ones.
#[tokio::test]
async fn a_field_block_without_end_ends_the_connection() {
    for piece in [
        frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(16_000))),
        frame(CONTINUATION, 0, 1, &[]).repeat(100),
    ] {
        let world = by_name(Rules::Inspect).build().await;
        let mut hostile = Hostile::connect(&world).await;
        hostile.say(&frame(HEADERS, 0, 1, &[])).await.unwrap();
        let sent = flood(&mut hostile, 500_000, |_| piece.clone()).await;
        assert!(sent * piece.len() < SOCKETS, "{sent} pieces were taken");
        others_are_unharmed(&world).await;
        hostile.end();
    }
}

#[tokio::test]
async fn what_asks_for_an_answer_and_does_not_read_it_is_not_read_on() {
    for (what, piece) in [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])),
    ] {
        let world = by_name(Rules::Inspect).build().await;
        let mut hostile = Hostile::connect(&world).await;
        let many = piece.repeat(1000);
        let sent = flood(&mut hostile, 100_000, |_| many.clone()).await;
        assert!(sent * many.len() < 2 * SOCKETS, "{what}: {sent} were taken");
        others_are_unharmed(&world).await;
        hostile.end();
    }
}

/// A few bytes that stand for many (RFC 7541, 6.1): one field in the table, named again and again.
#[tokio::test]
async fn a_bomb_of_fields_is_refused() {
    let world = by_name(Rules::Inspect).build().await;
    let mut hostile = Hostile::connect(&world).await;
    let mut entry = field("x", &"y".repeat(3_500));
    // Literal with incremental indexing (RFC 7541, 6.2.1): it becomes entry 62.
    if let Some(kind) = entry.first_mut() {
        *kind = 0x40;
    }
    let start = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", NAME),
        (":path", "/ok"),
    ];
    let block = [fields(&start), entry, vec![0x80 | 62; 12_000]].concat();
    hostile
        .say(&frame(HEADERS, END_HEADERS | 1, 1, &block))
        .await
        .unwrap();
    let outcome = hostile.outcome().await;
    assert_ne!(outcome, "closed");
    hostile.end();
    let decisions = world.end().await;
    assert!(!decisions.is_empty());
    assert!(
        decisions.iter().all(|decision| decision.outcome.is_none()),
        "{decisions:#?}"
    );
}

/// A client that asks for much and takes nothing (RFC 9113, 10.5): the upstream waits too.
#[tokio::test]
async fn an_answer_that_is_not_taken_is_not_fetched() {
    const PIECE: usize = 16 << 10;
    let world = by_name(Rules::Inspect).build().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let endless = Arc::clone(&sent);
    let mut hostile = Hostile::connect_to(&world, async move |stream, config| {
        let stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
        let service = service_fn(move |_| {
            let sent = Arc::clone(&endless);
            let body = stream::repeat_with(move || {
                sent.fetch_add(PIECE, Ordering::Relaxed);
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; PIECE])))
            });
            async { Ok::<_, Infallible>(Response::new(StreamBody::new(body))) }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await;
    // INITIAL_WINDOW_SIZE of 0: no byte of an answer may be sent.
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let asks: Vec<u8> = (0..64).flat_map(|n| request(2 * n + 1, &[])).collect();
    hostile.say(&[settings, asks].concat()).await.unwrap();
    let settled = soon(async {
        let mut before = 0;
        loop {
            // The guard answers each, and does in between what else it can.
            for _ in 0..200 {
                hostile.ping().await;
            }
            let now = sent.load(Ordering::Relaxed);
            if now == before && now > 0 {
                return now;
            }
            before = now;
        }
    })
    .await;
    // The connection's window, what hyper holds of each stream, and the upstream's own buffers.
    assert!(settled < 64 << 20, "{settled} bytes");
    others_are_unharmed(&world).await;
    hostile.end();
}
