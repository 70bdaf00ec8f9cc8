//! Messages on WebSockets (RFC 6455) that are echoed: the client and the origin.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio_rustls::TlsAcceptor;

use super::fresh::head;
use crate::bench::reach::{Reach, To};

/// The key of each handshake, and what it is answered with: the example of RFC 6455, 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What each message of the client is masked with (RFC 6455, 5.3).
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The kinds of frames that come here (RFC 6455, 5.2).
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;

/// The longest head of a request or an answer.
const HEAD: usize = 16 << 10;

/// What the client sends.
#[derive(Clone, Debug, Args)]
pub struct Echo {
    #[command(flatten)]
    to: To,
    /// How long a message is, in bytes
    bytes: usize,
    /// How many messages
    messages: usize,
    /// On how many connections, one after the other on each
    connections: usize,
}

/// Sends messages, each once the one before has come back, and prints how long they took.
///
/// # Errors
/// One did not come back as it was.
pub fn echo(asked: &Echo) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Arc::new(Client {
            reach: asked.to.reach().await?,
            site: asked.to.site.clone(),
            message: (0..=u8::MAX).cycle().take(asked.bytes).collect(),
            // What a division leaves over is sent too, so that there are at least as many.
            each: asked.messages.div_ceil(asked.connections.max(1)),
            open: Barrier::new(asked.connections + 1),
        });
        let several = (0..asked.connections).map(|_| tokio::spawn(Arc::clone(&client).go()));
        let several: Vec<_> = several.collect();
        client.open.wait().await;
        let began = Instant::now();
        let mut times = Vec::with_capacity(asked.messages);
        for one in several {
            times.extend(one.await??);
        }
        let seconds = began.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        let part = |part: usize| times.get(times.len() * part / 100);
        println!(
            "{}",
            json!({ "requests": times.len(), "seconds": seconds, "p50": part(50), "p99": part(99) })
        );
        Ok(())
    })
}

struct Client {
    reach: Reach,
    site: String,
    message: Vec<u8>,
    each: usize,
    /// All begin once all are connected.
    open: Barrier,
}

impl Client {
    /// Each message there and back: how many microseconds each took.
    async fn go(self: Arc<Self>) -> Result<Vec<f64>> {
        let opened = self.open().await;
        // Also where it failed, or the others would wait for ever.
        self.open.wait().await;
        let mut stream = opened?;
        let mut sent = Vec::with_capacity(self.message.len() + 14);
        let mut times = Vec::with_capacity(self.each);
        for _ in 0..self.each {
            let began = Instant::now();
            frame(&mut sent, &self.message, Some(MASK));
            stream.write_all(&sent).await?;
            stream.flush().await?;
            let echoed = message(&mut stream).await?.context("it was closed")?;
            ensure!(echoed == self.message, "another message came back");
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }

    async fn open(&self) -> Result<BufReader<tokio_rustls::client::TlsStream<TcpStream>>> {
        let mut stream = BufReader::new(self.reach.connect().await?);
        let request = format!(
            "GET /echo HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            self.site
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let answer = read_head(&mut stream).await?;
        let accepted = answer.starts_with("HTTP/1.1 101 ") && answer.contains(ACCEPT);
        ensure!(accepted, "no WebSocket: {answer}");
        Ok(stream)
    }
}

/// What the origin needs.
#[derive(Clone, Debug, Args)]
pub struct Echoes {
    /// Where it listens
    listen: SocketAddr,
    /// Its certificate and key
    chain: PathBuf,
}

/// Sends back what comes, until it is ended.
///
/// # Errors
/// It cannot listen.
pub fn echoes(asked: &Echoes) -> Result<()> {
    let certificates = CertificateDer::pem_file_iter(&asked.chain)?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&asked.chain)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(asked.listen).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Whoever only looks whether this listens says nothing.
                if let Err(error) = answer(stream, acceptor).await {
                    eprintln!("{error:#}");
                }
            });
        }
    })
}

async fn answer(stream: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let request = read_head(&mut stream).await?;
    ensure!(request.contains(KEY), "another key: {request}");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    let mut sent = Vec::new();
    while let Some(message) = message(&mut stream).await? {
        frame(&mut sent, &message, None);
        stream.write_all(&sent).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// A head, as text, without what is behind it, which stays to be read.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<String> {
    let mut read = Vec::with_capacity(1_024);
    while head(&read).is_none() {
        ensure!(read.len() < HEAD, "too long a head");
        read.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// Writes a message in one frame.
fn frame(into: &mut Vec<u8>, message: &[u8], mask: Option<[u8; 4]>) {
    into.clear();
    let masked = if mask.is_some() { 0x80 } else { 0 };
    into.push(0x80 | BINARY);
    match (u8::try_from(message.len()), u16::try_from(message.len())) {
        (Ok(length @ ..=125), _) => into.push(masked | length),
        (_, Ok(length)) => {
            into.push(masked | 126);
            into.extend(length.to_be_bytes());
        }
        (_, Err(_)) => {
            into.push(masked | 127);
            into.extend((message.len() as u64).to_be_bytes());
        }
    }
    into.extend(mask.into_iter().flatten());
    let begin = into.len();
    into.extend(message);
    if let Some(mask) = mask {
        unmask(into.get_mut(begin..).unwrap_or_default(), mask);
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in bytes.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The next message, of however many frames; none where the stream ends before it.
async fn message(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    loop {
        let Ok(first) = stream.read_u8().await else {
            ensure!(message.is_empty(), "a part of a message");
            return Ok(None);
        };
        let (last, kind) = (first & 0x80 != 0, first & 0x0f);
        if ![CONTINUATION, BINARY].contains(&kind) {
            bail!("a frame of kind {kind}");
        }
        let second = stream.read_u8().await?;
        let length = match second & 0x7f {
            126 => stream.read_u16().await?.into(),
            127 => stream.read_u64().await?,
            few => few.into(),
        };
        ensure!(length <= 1 << 20, "a frame of {length} bytes");
        let mut mask = None;
        if second & 0x80 != 0 {
            mask = Some(stream.read_u32().await?.to_be_bytes());
        }
        let begin = message.len();
        message.resize(begin + usize::try_from(length)?, 0);
        let frame = message.get_mut(begin..).unwrap_or_default();
        stream.read_exact(frame).await?;
        if let Some(mask) = mask {
            unmask(frame, mask);
        }
        if last {
            return Ok(Some(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_framed_is_read_again_masked_or_not_and_of_any_length() {
        for length in [0, 1, 125, 126, 1_000, 65_535, 65_536] {
            let sent: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            for mask in [None, Some(MASK)] {
                let mut framed = Vec::new();
                frame(&mut framed, &sent, mask);
                let mut stream = std::io::Cursor::new(framed);
                assert_eq!(message(&mut stream).await.unwrap(), Some(sent.clone()));
                assert_eq!(message(&mut stream).await.unwrap(), None);
            }
        }
    }

    #[tokio::test]
    async fn a_message_of_two_frames_is_one_and_a_part_of_one_is_none() {
        let frames = [BINARY, 2, b'a', b'b', 0x80 | CONTINUATION, 1, b'c'];
        let mut stream = std::io::Cursor::new(frames.to_vec());
        assert_eq!(message(&mut stream).await.unwrap().unwrap(), b"abc");
        for cut in [4, 5, 6] {
            let mut stream = std::io::Cursor::new(frames[..cut].to_vec());
            assert!(message(&mut stream).await.is_err(), "{cut}");
        }
        let mut closing = std::io::Cursor::new(vec![0x88, 0]);
        assert!(message(&mut closing).await.is_err());
    }
}
