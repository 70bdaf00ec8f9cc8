//! Answers that are event streams.

use std::io::Write as _;

use agentguard_model::{Decision, Messages};
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::http::get;
use super::{Rules, World, assert_reset, by_name, read_some, read_until, write};

/// A request whose answer begins with these fields.
async fn answering(world: &World, fields: &str) -> (TcpStream, TcpStream) {
    let mut client = world.connect().await;
    write(&mut client, get("/ok")).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    write(
        &mut upstream,
        format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"),
    )
    .await;
    read_until(&mut client, "\r\n\r\n").await;
    (client, upstream)
}

/// Sends a piece, and waits until it has passed as it is.
async fn pass(upstream: &mut TcpStream, client: &mut TcpStream, piece: &[u8]) {
    write(upstream, piece).await;
    // In a chunk of HTTP/1.1.
    let chunk = [format!("{:X}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    assert_eq!(read_some(client, chunk.len()).await, chunk);
}

fn received(decision: &Decision) -> Option<u64> {
    let messages = decision.outcome.as_ref().unwrap().messages;
    messages.map(|Messages { sent, received }| {
        assert_eq!(sent, 0);
        received
    })
}

fn error(decision: &Decision) -> &str {
    let outcome = decision.outcome.as_ref().unwrap();
    outcome.error.as_deref().unwrap_or_default()
}

const STREAM: &str = "Content-Type: text/Event-Stream; charset=utf-8";

/// Writes pieces that are flushed one by one.
fn gzip(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let mut coded: Vec<Vec<u8>> = pieces
        .iter()
        .map(|piece| {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
            std::mem::take(encoder.get_mut())
        })
        .collect();
    coded.push(encoder.finish().unwrap());
    coded
}

#[tokio::test]
async fn events_pass_as_they_come_and_are_counted() {
    let pieces: [&[u8]; 5] = [
        b"data: 1\n\n",
        b": ping\n\n",
        b"event: a\nda",
        b"ta: 2\n\n",
        b"data: x",
    ];
    for fields in [
        STREAM.to_owned(),
        format!("{STREAM}\r\nContent-Encoding: gzip"),
    ] {
        let world = by_name(Rules::Requests).build().await;
        let (mut client, mut upstream) = answering(&world, &fields).await;
        let coded = match fields == STREAM {
            true => pieces.iter().map(|piece| piece.to_vec()).collect(),
            false => gzip(&pieces),
        };
        for piece in coded {
            pass(&mut upstream, &mut client, &piece).await;
        }
        upstream.shutdown().await.unwrap();
        read_until(&mut client, "0\r\n\r\n").await;
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!(received(&decisions[0]), Some(2), "{fields}");
        assert_eq!(error(&decisions[0]), "");
    }
}

/// A piece that is read bit by bit passes as a whole.
#[tokio::test]
async fn a_large_piece_of_a_coded_stream_passes_as_it_came() {
    const COUNT: u64 = 5000;
    let number = |seed: u64| (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let events: String = (0..COUNT)
        .map(|seed| format!("data: {:x}\n\n", number(seed)))
        .collect();
    let coded = gzip(&[events.as_bytes()]).concat();
    assert!(coded.len() > 40_000, "{}", coded.len());
    let world = by_name(Rules::Requests).build().await;
    let fields = format!("{STREAM}\r\nContent-Encoding: gzip");
    let (mut client, mut upstream) = answering(&world, &fields).await;
    let reading = async {
        let mut said = Vec::new();
        while said.len() < coded.len() {
            let head = read_until(&mut client, "\r\n").await;
            let length = usize::from_str_radix(head.trim_end(), 16).unwrap();
            said.extend(read_some(&mut client, length).await);
            read_until(&mut client, "\r\n").await;
        }
        said
    };
    let (said, ()) = tokio::join!(reading, write(&mut upstream, &coded));
    assert!(said == coded);
    upstream.shutdown().await.unwrap();
    read_until(&mut client, "0\r\n\r\n").await;
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(received(&decisions[0]), Some(COUNT));
    assert_eq!(error(&decisions[0]), "");
}

#[tokio::test]
async fn an_event_stream_that_is_a_bomb_or_broken_is_cut() {
    let bomb = gzip(&[&vec![b'\n'; 64 << 20]]).concat();
    for (body, why) in [
        (&bomb[..], "more than is allowed"),
        (b"no gzip", "not gzip"),
    ] {
        let world = by_name(Rules::Requests).build().await;
        let fields = format!("{STREAM}\r\nContent-Encoding: gzip");
        let (mut client, mut upstream) = answering(&world, &fields).await;
        write(&mut upstream, body).await;
        assert_reset(&mut client).await;
        drop(upstream);
        let decisions = world.end().await;
        assert!(error(&decisions[0]).contains(why), "{decisions:#?}");
    }
}

/// Nobody reads them.
#[tokio::test]
async fn answers_of_other_kinds_and_codings_pass_as_they_are() {
    let coded = |coding: &str| format!("{STREAM}\r\nContent-Encoding: {coding}");
    let text = "Content-Type: text/plain\r\nContent-Encoding: gzip".to_owned();
    for fields in [text, coded("compress"), coded("br, br, br, br, br")] {
        let world = by_name(Rules::Requests).build().await;
        let (mut client, mut upstream) = answering(&world, &fields).await;
        pass(&mut upstream, &mut client, b"data: 1\n\n").await;
        upstream.shutdown().await.unwrap();
        read_until(&mut client, "0\r\n\r\n").await;
        drop((client, upstream));
        let decisions = world.end().await;
        assert_eq!((received(&decisions[0]), error(&decisions[0])), (None, ""));
    }
}

#[tokio::test]
async fn a_coding_that_ends_too_early_is_told() {
    let world = by_name(Rules::Requests).build().await;
    let fields = format!("{STREAM}\r\nContent-Encoding: gzip");
    let (mut client, mut upstream) = answering(&world, &fields).await;
    pass(&mut upstream, &mut client, &gzip(&[b"data: 1\n\n"])[0]).await;
    upstream.shutdown().await.unwrap();
    read_until(&mut client, "0\r\n\r\n").await;
    drop((client, upstream));
    let decisions = world.end().await;
    assert_eq!(received(&decisions[0]), Some(1));
    assert!(
        error(&decisions[0]).contains("ends in the middle"),
        "{decisions:#?}"
    );
}
