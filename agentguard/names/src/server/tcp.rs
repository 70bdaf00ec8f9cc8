//! DNS over TCP (RFC 7766): messages behind two octets of length, many on one connection, answered
//! in the order in which they are done.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_model::{AgentId, Reason, ReasonCode, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Sender, Server};
use crate::port::Port;

/// The largest query read; a connection that announces a longer one is closed.
const MAX_QUERY: usize = 4096;
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<P: Port> Server<P> {
    /// Serves one listener in the namespace `netns` until `shutdown`, then finishes what was asked.
    pub async fn tcp(self, listener: TcpListener, netns: u64, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.shared.options.tcp_connections));
        let tasks = TaskTracker::new();
        let connections = Connections::default();
        loop {
            let accept = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = accept => accepted,
            };
            let (Ok(permit), Ok((stream, peer))) = (permit, accepted) else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let server = self.clone();
            let connections = connections.clone();
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                let _permit = permit;
                server
                    .connection(stream, netns, peer, &connections, shutdown)
                    .await;
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn connection(
        &self,
        stream: TcpStream,
        netns: u64,
        peer: SocketAddr,
        connections: &Connections,
        shutdown: CancellationToken,
    ) {
        let client = self.shared.port.client(netns, peer, Transport::Tcp);
        let agent = client.as_ref().map(|client| client.agent);
        let sender = Sender {
            netns,
            peer,
            transport: Transport::Tcp,
            client,
        };
        let limit = self.shared.options.tcp_connections_per_agent;
        let Some(_counted) = connections.count(agent, limit) else {
            let reason = Reason::new(
                ReasonCode::LimitReached,
                format!("the agent has {limit} DNS connections open"),
            );
            self.note(self.denied(&sender, reason, Instant::now()))
                .await;
            return;
        };
        let (reader, writer) = stream.into_split();
        let (answers, waiting) = mpsc::channel(self.shared.options.tcp_pipeline);
        let writing = tokio::spawn(write(writer, waiting, self.shared.options.tcp_idle));
        self.read(reader, Arc::new(sender), answers, shutdown).await;
        // Ends when the last answer is written, or the client does not take it.
        let _ = writing.await;
    }

    /// Reads queries until the client is done, idle or out of line.
    async fn read(
        &self,
        mut reader: OwnedReadHalf,
        sender: Arc<Sender>,
        answers: mpsc::Sender<Vec<u8>>,
        shutdown: CancellationToken,
    ) {
        let pipeline = Arc::new(Semaphore::new(self.shared.options.tcp_pipeline));
        loop {
            let Ok(permit) = Arc::clone(&pipeline).acquire_owned().await else {
                return;
            };
            let next = timeout(self.shared.options.tcp_idle, message(&mut reader));
            let query = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = answers.closed() => return,
                next = next => match next {
                    Ok(Ok(Some(query))) => query,
                    // Done, idle, broken: there is nobody to tell.
                    Ok(Ok(None) | Err(_)) | Err(_) => return,
                },
            };
            let (server, sender, answers) = (self.clone(), Arc::clone(&sender), answers.clone());
            // A task of its own: a client that hangs up does not undo what is being recorded.
            tokio::spawn(async move {
                let _permit = permit;
                if let Some(answer) = server.handle(&sender, &query).await {
                    // The writer is gone if the client is.
                    let _ = answers.send(answer).await;
                }
            });
        }
    }
}

/// One message; none at the end of the stream or where the length is out of bounds.
async fn message(reader: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let length = match reader.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MAX_QUERY {
        return Ok(None);
    }
    let mut query = vec![0; length];
    reader.read_exact(&mut query).await?;
    Ok(Some(query))
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut answers: mpsc::Receiver<Vec<u8>>,
    patience: Duration,
) {
    while let Some(answer) = answers.recv().await {
        let Ok(length) = u16::try_from(answer.len()) else {
            continue;
        };
        // One write: the length alone in a packet confuses some clients (RFC 7766 §8).
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        if !matches!(
            timeout(patience, writer.write_all(&framed)).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
    // The client may be gone already.
    let _ = writer.shutdown().await;
}

/// Open connections of each agent.
#[derive(Clone, Default)]
struct Connections {
    agents: Arc<Mutex<HashMap<Option<AgentId>, usize>>>,
}

struct Counted {
    connections: Connections,
    agent: Option<AgentId>,
}

impl Connections {
    fn count(&self, agent: Option<AgentId>, limit: usize) -> Option<Counted> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let open = agents.entry(agent).or_default();
        if *open >= limit {
            return None;
        }
        *open += 1;
        Some(Counted {
            connections: self.clone(),
            agent,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut agents = (self.connections.agents.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = agents.get_mut(&self.agent) {
            *open -= 1;
            if *open == 0 {
                agents.remove(&self.agent);
            }
        }
    }
}
