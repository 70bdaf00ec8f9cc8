//! DNS over UDP.

use std::net::SocketAddr;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{io, thread};

use agentguard_model::Transport;
use futures_util::FutureExt as _;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Server;
use crate::port::Port;

/// The largest query read; a longer one is cut and then malformed. Queries are one name.
const MAX_QUERY: usize = 4096;
/// The pause after a socket error. None is known that a client can cause; if one stays, it must not
/// take the processor from everybody else.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// How many read one socket at most. All that have nothing to do wake for a datagram, and one of them has it.
const READERS: usize = 2;
/// How many queries a reader takes at once, where they are there and nobody else is free for them. They are recorded with
/// one write; the first of them is answered after that, some 10 µs later for each of the others. No more than an agent may
/// have refusals that wait for the record (`load.rs`), or what is beyond its bound would be dropped by chance.
const TOGETHER: usize = 8;

/// A descriptor of a socket for each reader that it gets: as many as there are processors, up to [`READERS`].
///
/// # Errors
/// There are no descriptors left, or no reactor to wait for them.
pub fn readers(socket: &std::net::UdpSocket) -> io::Result<Vec<UdpSocket>> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let readers = 0..processors.min(READERS);
    readers
        .map(|_| UdpSocket::from_std(socket.try_clone()?))
        .collect()
}

impl<P: Port> Server<P> {
    /// Serves one socket in the namespace `netns` until `shutdown`, then finishes what is under
    /// way. Each of its descriptors is read by itself, so that a query does not wait for the answer to another one.
    /// An error of the socket (a client that is gone) ends nothing.
    pub async fn udp(self, sockets: Vec<UdpSocket>, netns: u64, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.shared.options.udp_in_flight));
        let tasks = TaskTracker::new();
        let free = Arc::new(AtomicUsize::new(sockets.len()));
        // They end with this.
        let mut readers = JoinSet::new();
        for socket in sockets {
            let reader = Reader {
                server: self.clone(),
                socket: Arc::new(socket),
                netns,
                permits: Arc::clone(&permits),
                tasks: tasks.clone(),
                free: Arc::clone(&free),
            };
            readers.spawn(reader.run(shutdown.clone()));
        }
        while readers.join_next().await.is_some() {}
        tasks.close();
        tasks.wait().await;
    }
}

/// One of those that read a socket.
struct Reader<P: Port> {
    server: Server<P>,
    socket: Arc<UdpSocket>,
    netns: u64,
    permits: Arc<Semaphore>,
    /// For answers that wait for something.
    tasks: TaskTracker,
    /// How many of them have nothing to answer.
    free: Arc<AtomicUsize>,
}

/// A query as it came, with its place among those that are under way.
struct Came {
    query: Vec<u8>,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
}

impl<P: Port> Reader<P> {
    /// Answers what it reads until `shutdown`.
    async fn run(self, shutdown: CancellationToken) {
        let mut buffer = vec![0; MAX_QUERY];
        loop {
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                first = self.next(&mut buffer) => first,
            };
            self.free.fetch_sub(1, Ordering::Relaxed);
            match first {
                Some(first) => {
                    self.answer(self.and_others(first, &mut buffer));
                    // With what a task may do in a turn, all of the next ones are asked as well.
                    yield_now().await;
                }
                None => sleep(ERROR_PAUSE).await,
            }
            self.free.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for a query. None: the socket has an error.
    async fn next(&self, buffer: &mut [u8]) -> Option<Came> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        let received = self.socket.recv_from(buffer).await;
        Came::of(buffer, received.ok()?, permit)
    }

    /// This one, with those that are there, as long as nobody is free for them.
    fn and_others(&self, first: Came, buffer: &mut [u8]) -> Vec<Came> {
        let mut came = vec![first];
        while came.len() < TOGETHER
            && self.free.load(Ordering::Relaxed) == 0
            && let Some(another) = self.another(buffer)
        {
            came.push(another);
        }
        came
    }

    /// One more that is there, if there is a place for it.
    fn another(&self, buffer: &mut [u8]) -> Option<Came> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let received = self.socket.try_recv_from(buffer).ok()?;
        Came::of(buffer, received, permit)
    }

    /// What is known is answered at once. What waits for something has a task of its own, which asks again for what it waits
    /// for.
    fn answer(&self, came: Vec<Came>) {
        let answering = came.into_iter().map(|came| Box::pin(self.answering(came)));
        let mut answering: Vec<_> = answering.collect();
        let port = &self.server.shared.port;
        // One that panics at its end is told of by who waits for it.
        let asks = AssertUnwindSafe(|| port.together(|| answering.retain_mut(is_under_way)));
        let _ = catch_unwind(asks);
        // Mostly it has waited for its record alone.
        answering.retain_mut(is_under_way);
        for rest in answering {
            self.tasks.spawn(rest);
        }
    }

    fn answering(&self, came: Came) -> impl Future<Output = ()> + use<P> {
        let (server, socket, netns) = (self.server.clone(), Arc::clone(&self.socket), self.netns);
        async move {
            let (peer, _permit) = (came.peer, came.permit);
            let answer = server.answer(netns, peer, Transport::Udp, &came.query);
            if let Some(answer) = answer.await
                && let Err(error) = socket.send_to(&answer, peer).await
            {
                tracing::debug!(%peer, %error, "a DNS answer could not be sent");
            }
        }
    }
}

impl Came {
    fn of(
        buffer: &[u8],
        (length, peer): (usize, SocketAddr),
        permit: OwnedSemaphorePermit,
    ) -> Option<Self> {
        let query = buffer.get(..length)?.to_vec();
        Some(Self {
            query,
            peer,
            permit,
        })
    }
}

/// Whether it goes on, once it was asked. One that panics is over, and ends nothing for the others.
fn is_under_way(answering: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
    let once = AssertUnwindSafe(|| answering.as_mut().now_or_never());
    matches!(catch_unwind(once), Ok(None))
}
