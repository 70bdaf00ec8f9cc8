//! DNS over TCP (RFC 7766): messages behind two octets of length, many on one connection, answered
//! in the order in which they are done.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_model::{Reason, ReasonCode, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::load::{Admission, Load, Refusing};
use super::{Options, Sender, Server};
use crate::port::Port;

/// The largest query read; a connection that announces a longer one is closed.
const MAX_QUERY: usize = 4096;
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<P: Port> Server<P> {
    /// Serves one listener in the namespace `netns` until `shutdown`, then finishes what was asked.
    ///
    /// Accepting never waits: a connection beyond a bound is refused while there is a place to record
    /// that in, and beyond those reset and counted.
    pub async fn tcp(self, listener: TcpListener, netns: u64, shutdown: CancellationToken) {
        let options = &self.shared.options;
        let load = Load::new(options.tcp_connections, options.tcp_connections_per_agent);
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let sender = Sender {
                netns,
                peer,
                transport: Transport::Tcp,
                client: self.shared.port.client(netns, peer, Transport::Tcp),
            };
            let server = self.clone();
            match load.admit(&sender) {
                Admission::Work(working) => {
                    let shutdown = shutdown.clone();
                    tasks.spawn(async move {
                        let _working = working;
                        server.connection(stream, sender, shutdown).await;
                    });
                }
                Admission::Refuse(refusing) => {
                    tasks.spawn(async move { server.turn_away(stream, &sender, refusing).await });
                }
                Admission::Drop => reset(stream),
            }
        }
        tasks.close();
        tasks.wait().await;
        let unrecorded = load.unrecorded();
        if unrecorded > 0 {
            tracing::warn!(
                unrecorded,
                "DNS connections were refused and are not in the record"
            );
        }
    }

    /// Records that a connection is one too many, then closes it.
    async fn turn_away(&self, stream: TcpStream, sender: &Sender, refusing: Refusing) {
        let started = Instant::now();
        let Options {
            tcp_connections: all,
            tcp_connections_per_agent: own,
            ..
        } = self.shared.options;
        let reason = Reason::new(
            ReasonCode::LimitReached,
            format!("the agent has {own} DNS connections open, or all agents here have {all}"),
        );
        self.note(self.denied(sender, reason.clone(), started))
            .await;
        drop(stream);
        self.leave(refusing, &reason, started).await;
    }

    async fn connection(&self, stream: TcpStream, sender: Sender, shutdown: CancellationToken) {
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

/// Closes a connection so that its peer sees a reset (RFC 9293, 3.10.4: abort), and nothing of it is
/// left to wait for.
fn reset(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a DNS connection is closed instead of reset");
    }
    drop(stream);
}
