//! A client that opens a connection for each request, or for some, with TLS that goes on from an earlier one
//! (RFC 8446, 2.2).

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use rustls::HandshakeKind;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::bench::reach::{Reach, To};

/// What it asks for.
#[derive(Clone, Debug, Args)]
pub struct Fresh {
    #[command(flatten)]
    to: To,
    /// The path there
    path: String,
    /// How many requests
    requests: usize,
    /// How many at once
    at_once: usize,
    /// How many requests each connection has
    #[arg(long, default_value_t = 1)]
    each: usize,
}

/// Sends the requests, and prints how long they took.
///
/// # Errors
/// One was not answered with 200.
pub fn fresh(asked: &Fresh) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(send(asked))
}

async fn send(asked: &Fresh) -> Result<()> {
    let close = match asked.each {
        0 | 1 => "Connection: close\r\n",
        _ => "",
    };
    let client = Arc::new(Client {
        reach: asked.to.reach().await?,
        request: format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n{close}\r\n",
            asked.path, asked.to.site
        ),
        each: asked.each,
        left: AtomicUsize::new(asked.requests),
        resumed: AtomicUsize::new(0),
    });
    let began = Instant::now();
    let several = (0..asked.at_once).map(|_| tokio::spawn(Arc::clone(&client).go()));
    let several: Vec<_> = several.collect();
    let mut times = Vec::with_capacity(asked.requests);
    for one in several {
        times.extend(one.await??);
    }
    let seconds = began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let part = |part: usize| times.get(times.len() * part / 100);
    println!(
        "{}",
        json!({
            "requests": times.len(),
            "resumed": client.resumed.load(Ordering::Relaxed),
            "seconds": seconds,
            "p50": part(50),
            "p99": part(99),
        })
    );
    Ok(())
}

struct Client {
    reach: Reach,
    request: String,
    each: usize,
    left: AtomicUsize,
    resumed: AtomicUsize,
}

impl Client {
    /// One request after the other, while there are any: how many microseconds each took, the first on a connection with
    /// what that takes.
    async fn go(self: Arc<Self>) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        while self.is_next() {
            let began = Instant::now();
            if self.each <= 1 {
                self.ask().await?;
                times.push(began.elapsed().as_secs_f64() * 1e6);
                continue;
            }
            let mut stream = self.connect().await?;
            answered(&mut stream, &self.request).await?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
            for _ in 1..self.each {
                if !self.is_next() {
                    break;
                }
                let began = Instant::now();
                answered(&mut stream, &self.request).await?;
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        Ok(times)
    }

    /// Whether there is a request left, which is then the caller's.
    fn is_next(&self) -> bool {
        let next = |left: usize| left.checked_sub(1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.left.fetch_update(set, fetch, next).is_ok()
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let stream = self.reach.connect().await?;
        let kind = stream.get_ref().1.handshake_kind();
        if kind == Some(HandshakeKind::Resumed) {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(stream)
    }

    async fn ask(&self) -> Result<()> {
        let mut stream = self.connect().await?;
        stream.write_all(self.request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(2_048);
        match stream.read_to_end(&mut answer).await {
            // Not all say that TLS ends; whether the answer is whole is in its length.
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => {}
        }
        let head = String::from_utf8_lossy(answer.get(..64).unwrap_or(&answer)).into_owned();
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        ensure!(is_whole(&answer)?, "a part of an answer: {head}");
        Ok(())
    }
}

/// Sends a request on a connection that stays, and reads its answer, to its last byte.
pub(super) async fn answered(stream: &mut TlsStream<TcpStream>, request: &str) -> Result<()> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(2_048);
    while head(&answer).is_none() || !is_whole(&answer)? {
        let read = stream.read_buf(&mut answer).await?;
        ensure!(
            read > 0,
            "a part of an answer: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    ensure!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// Where the head of an answer ends, if it does.
pub(super) fn head(answer: &[u8]) -> Option<usize> {
    answer.windows(4).position(|end| end == b"\r\n\r\n")
}

/// Whether an answer has as many bytes behind its head as that says.
fn is_whole(answer: &[u8]) -> Result<bool> {
    let head = head(answer).context("no end of the head")?;
    let fields = String::from_utf8_lossy(answer.get(..head).unwrap_or_default()).into_owned();
    let length = fields.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("content-length");
        named.then(|| value.trim().parse::<usize>())
    });
    Ok(answer.len() - head - 4 == length.context("no length")??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_where_its_length_is_there() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert!(is_whole(whole).unwrap());
        assert!(!is_whole(&whole[..whole.len() - 1]).unwrap());
        assert!(is_whole(b"HTTP/1.1 200 OK\r\n\r\nabc").is_err());
        assert!(is_whole(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
