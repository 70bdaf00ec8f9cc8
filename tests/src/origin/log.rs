//! What arrived at an origin.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::Tls;

/// How many connections and requests are kept each. Later ones are served all the same; reading
/// the log then fails.
const KEPT: usize = 1 << 16;

/// How much is kept of what a call asks for.
const ASKED: usize = 4 << 10;

/// A connection, or for UDP the datagrams of one peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// The address and port that the client dialled.
    pub local: SocketAddr,
    /// The client.
    pub peer: SocketAddr,
    /// Whether it is UDP.
    pub udp: bool,
    /// Bytes that came, on top of TCP or UDP: with TLS, its records.
    pub received: u64,
    /// Bytes that went; a client may have them a moment before they are counted.
    pub sent: u64,
    /// Whether it is still open.
    pub open: bool,
}

/// An HTTP request whose head has arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// The address and port that the client dialled.
    pub local: SocketAddr,
    /// The client.
    pub peer: SocketAddr,
    /// What TLS agreed on; none on port 80.
    pub tls: Option<Tls>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// The method.
    pub method: String,
    /// The target as it came: path and query, or an absolute URI.
    pub target: String,
    /// The `Host` field or the `:authority`.
    pub host: Option<String>,
    /// All fields in order, with lower-case names; values that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// How much of the body has arrived.
    pub body: u64,
    /// What was asked of an LLM API, up to 4 KiB of it; empty where there is more to come, and of other requests.
    pub asked: String,
}

impl Request {
    /// The value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The log of one origin.
#[derive(Debug, Default)]
pub struct Log {
    connections: Mutex<Kept<Arc<Entry>>>,
    requests: Mutex<Kept<(Request, Arc<Body>)>>,
    arrivals: watch::Sender<u64>,
}

/// What has come of the body of a request.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: AtomicU64,
    asked: OnceLock<String>,
}

impl Body {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(count(bytes), Ordering::Relaxed);
    }

    /// It has come to its end, and is a call.
    pub(super) fn asks(&self, call: &[u8]) {
        let call = call.get(..ASKED).unwrap_or(call);
        self.asked
            .get_or_init(|| String::from_utf8_lossy(call).into_owned());
    }
}

#[derive(Debug)]
struct Kept<T> {
    items: Vec<T>,
    overflow: bool,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            overflow: false,
        }
    }
}

impl<T> Kept<T> {
    fn add(&mut self, item: T) {
        if self.items.len() < KEPT {
            self.items.push(item);
        } else {
            self.overflow = true;
        }
    }

    fn read<R>(&self, read: impl Fn(&T) -> R) -> Result<Vec<R>> {
        if self.overflow {
            bail!("more than {KEPT} entries in an origin's log");
        }
        Ok(self.items.iter().map(read).collect())
    }
}

/// The live counters of a connection.
#[derive(Debug)]
pub(super) struct Entry {
    local: SocketAddr,
    peer: SocketAddr,
    udp: bool,
    received: AtomicU64,
    sent: AtomicU64,
    closed: AtomicBool,
}

impl Entry {
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(count(bytes), Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(count(bytes), Ordering::Relaxed);
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Log {
    /// The connections, in the order of their arrival.
    ///
    /// # Errors
    /// There were more than are kept.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        let connections = self.connections.lock();
        let connections = connections.unwrap_or_else(PoisonError::into_inner);
        connections.read(|entry| Connection {
            local: entry.local,
            peer: entry.peer,
            udp: entry.udp,
            received: entry.received.load(Ordering::Relaxed),
            sent: entry.sent.load(Ordering::Relaxed),
            open: !entry.closed.load(Ordering::Relaxed),
        })
    }

    /// The HTTP requests, in the order of their arrival.
    ///
    /// # Errors
    /// There were more than are kept.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let requests = self.requests.lock();
        let requests = requests.unwrap_or_else(PoisonError::into_inner);
        requests.read(|(request, body)| Request {
            body: body.bytes(),
            asked: body.asked.get().cloned().unwrap_or_default(),
            ..request.clone()
        })
    }

    pub(super) fn connection(&self, local: SocketAddr, peer: SocketAddr, udp: bool) -> Arc<Entry> {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let same = |entry: &&Arc<Entry>| entry.local == local && entry.peer == peer;
        if let (true, Some(entry)) = (udp, connections.items.iter().find(same)) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry {
            local,
            peer,
            udp,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            closed: AtomicBool::new(udp),
        });
        connections.add(Arc::clone(&entry));
        entry
    }

    /// Adds a request, and gives what is to be told of its body.
    pub(super) fn request(&self, request: Request) -> Arc<Body> {
        let body = Arc::<Body>::default();
        let requests = self.requests.lock();
        let mut requests = requests.unwrap_or_else(PoisonError::into_inner);
        requests.add((request, Arc::clone(&body)));
        self.arrivals.send_modify(|count| *count += 1);
        body
    }

    /// Changes with every request that arrives from now on.
    pub(super) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }
}

/// A stream that counts what goes through it.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    entry: Arc<Entry>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, entry: Arc<Entry>) -> Self {
        Self { stream, entry }
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.entry.closed.store(true, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.entry.received(buffer.filled().len() - before);
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(length)) = done {
            self.entry.sent(length);
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
