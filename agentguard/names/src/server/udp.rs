//! DNS over UDP.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use agentguard_model::Transport;
use futures_util::FutureExt as _;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
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
        // They end with this.
        let mut readers = JoinSet::new();
        for socket in sockets {
            let (permits, tasks) = (Arc::clone(&permits), tasks.clone());
            let read = self
                .clone()
                .read_datagrams(socket, netns, permits, tasks, shutdown.clone());
            readers.spawn(read);
        }
        while readers.join_next().await.is_some() {}
        tasks.close();
        tasks.wait().await;
    }

    /// Answers what it reads from a socket until `shutdown`. What waits for something goes to `tasks`.
    async fn read_datagrams(
        self,
        socket: UdpSocket,
        netns: u64,
        permits: Arc<Semaphore>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; MAX_QUERY];
        loop {
            let read = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, socket.recv_from(&mut buffer).await)
            };
            let (permit, received) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                read = read => read,
            };
            let (Ok(permit), Ok((length, peer))) = (permit, received) else {
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            };
            let query = buffer.get(..length).unwrap_or_default().to_vec();
            let (server, socket) = (self.clone(), Arc::clone(&socket));
            let mut answering = Box::pin(async move {
                let _permit = permit;
                let answer = server.answer(netns, peer, Transport::Udp, &query).await;
                if let Some(answer) = answer
                    && let Err(error) = socket.send_to(&answer, peer).await
                {
                    tracing::debug!(%peer, %error, "a DNS answer could not be sent");
                }
            });
            // What is known is answered at once. What waits for something has a task of its own, which asks again for what
            // it waits for.
            let once = AssertUnwindSafe(|| answering.as_mut().now_or_never());
            match catch_unwind(once) {
                Ok(Some(())) => {}
                Ok(None) => {
                    tasks.spawn(answering);
                }
                // Told by who panicked. One question ends nothing for the others.
                Err(_) => {}
            }
        }
    }
}
