//! One connection to Redis, which carries the commands of many calls at the same time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::Options;
use super::wire::{self, Reply};

/// What is executed for each operation.
const SCRIPT: &str = include_str!("ledger.lua");
/// Commands that wait for the connection, at most: those of more calls wait for room.
const WAITING: usize = 1024;
/// How much longer than an answer it may take until a connection is ready for the first command: names are resolved, TLS
/// is spoken, and the script is sent.
const OPENING: u32 = 8;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Lost {
    /// Nothing came in time, or the connection ended.
    #[error("{0}")]
    Silent(String),
    /// What came is no answer to what was asked: it loads its data, takes no writes, has no memory left, …
    #[error("{0}")]
    Unfit(String),
    /// Another node of the cluster has the keys: at this address.
    #[error("the keys are at {0}")]
    Moved(String),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    commands: mpsc::Sender<Command>,
    /// Whoever reads and writes; ends with this.
    task: JoinHandle<()>,
    script: String,
    /// Which of the connections of this process it is.
    pub(super) generation: u64,
    timeout: Duration,
}

#[derive(Debug)]
struct Command {
    bytes: Vec<u8>,
    answer: oneshot::Sender<Reply>,
}

/// An operation: the keys that it is about, and what the script is told.
#[derive(Debug, Default)]
pub(super) struct Operation {
    pub(super) keys: Vec<Arc<str>>,
    pub(super) arguments: Vec<String>,
}

impl Link {
    /// Connects, says who this is, and has the script known.
    ///
    /// # Errors
    /// In words for whoever operates it.
    pub(super) async fn open(
        options: &Options,
        address: &str,
        generation: u64,
    ) -> Result<Self, Lost> {
        let opening = Self::opens(options, address, generation);
        let patience = options.timeout.saturating_mul(OPENING);
        match tokio::time::timeout(patience, opening).await {
            Ok(link) => link,
            Err(_) => Err(Lost::Silent(format!(
                "no connection to {address} within {} ms",
                patience.as_millis()
            ))),
        }
    }

    async fn opens(options: &Options, address: &str, generation: u64) -> Result<Self, Lost> {
        let silent = |error: io::Error| Lost::Silent(format!("{address}: {error}"));
        let stream = TcpStream::connect(address).await.map_err(silent)?;
        stream.set_nodelay(true).map_err(silent)?;
        let (commands, taken) = mpsc::channel(WAITING);
        let task = match &options.tls {
            None => tokio::spawn(carry(stream, taken)),
            Some(tls) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|_| Lost::Silent(format!("{address}: no name for TLS")))?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                tokio::spawn(carry(stream.await.map_err(silent)?, taken))
            }
        };
        let mut link = Self {
            commands,
            task,
            script: String::new(),
            generation,
            timeout: options.timeout,
        };
        if let Some(password) = &options.password {
            let words = [Some("AUTH"), options.username.as_deref(), Some(&password.0)];
            let words: Vec<&[u8]> = words.into_iter().flatten().map(str::as_bytes).collect();
            fit(link.ask(&words).await?)?;
        }
        let words = ["SCRIPT", "LOAD", SCRIPT].map(str::as_bytes);
        match fit(link.ask(&words).await?)? {
            Reply::Text(digest) => link.script = String::from_utf8_lossy(&digest).into_owned(),
            _ => return Err(Lost::Unfit("it loads no script".to_owned())),
        }
        Ok(link)
    }

    /// Has an operation done, in one round trip.
    ///
    /// # Errors
    /// Whether it was done is not known then, but for [`Lost::Moved`].
    pub(super) async fn run(&self, operation: &Operation) -> Result<Vec<Reply>, Lost> {
        let keys = operation.keys.len().to_string();
        let words = |head: [&'static str; 1], script: &str| {
            let mut bytes = Vec::with_capacity(1024);
            let head = head.iter().map(|it| it.as_bytes());
            let fixed = head.chain([script.as_bytes(), keys.as_bytes()]);
            let keys = operation.keys.iter().map(|it| it.as_bytes());
            let arguments = operation.arguments.iter().map(String::as_bytes);
            let all: Vec<&[u8]> = fixed.chain(keys).chain(arguments).collect();
            wire::command(&mut bytes, all.into_iter());
            bytes
        };
        let mut reply = self.send(words(["EVALSHA"], &self.script)).await?;
        if matches!(&reply, Reply::Error(text) if text.starts_with("NOSCRIPT")) {
            // Somebody had it forget its scripts. This has it known again.
            reply = self.send(words(["EVAL"], SCRIPT)).await?;
        }
        match fit(reply)? {
            Reply::Array(items) => Ok(items),
            _ => Err(Lost::Unfit("it answers something else".to_owned())),
        }
    }

    /// Waits until the connection has ended: whoever reads it is gone.
    pub(super) async fn ended(&self) {
        self.commands.closed().await;
    }

    async fn ask(&self, words: &[&[u8]]) -> Result<Reply, Lost> {
        let mut bytes = Vec::new();
        wire::command(&mut bytes, words.iter().copied());
        self.send(bytes).await
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<Reply, Lost> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            let sent = self.commands.send(Command { bytes, answer }).await;
            sent.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Lost::Silent("the connection ended".to_owned())),
            Err(_) => Err(Lost::Silent(format!(
                "no answer within {} ms",
                self.timeout.as_millis()
            ))),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Errors are none of the answers that we ask for.
fn fit(reply: Reply) -> Result<Reply, Lost> {
    let Reply::Error(text) = reply else {
        return Ok(reply);
    };
    let mut words = text.split(' ');
    if let (Some("MOVED"), Some(_), Some(address)) = (words.next(), words.next(), words.next()) {
        return Err(Lost::Moved(address.to_owned()));
    }
    // So it answers a script of more than 16 KiB before it knows who this is.
    if text.contains("unauthenticated bulk length") {
        let told = "it says `NOAUTH Authentication required.`";
        return Err(Lost::Unfit(told.to_owned()));
    }
    // It may repeat what it was told, keys and arguments, which agents write: the beginning says what it is.
    let told = text.chars().filter(|it| !it.is_control()).take(120);
    Err(Lost::Unfit(format!(
        "it says `{}`",
        told.collect::<String>()
    )))
}

/// Writes commands as they come, and hands each its answer: those come in the same order.
async fn carry(stream: impl AsyncRead + AsyncWrite + Send, mut commands: mpsc::Receiver<Command>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut waiting: VecDeque<oneshot::Sender<Reply>> = VecDeque::new();
    let mut came = Vec::with_capacity(4096);
    let mut goes = Vec::with_capacity(4096);
    loop {
        tokio::select! {
            command = commands.recv(), if waiting.len() < WAITING => {
                let Some(command) = command else { return };
                goes.clear();
                let mut next = Some(command);
                // What waits already goes with it, so that many calls take few packets.
                while let Some(command) = next {
                    goes.extend_from_slice(&command.bytes);
                    waiting.push_back(command.answer);
                    next = match waiting.len() < WAITING {
                        true => commands.try_recv().ok(),
                        false => None,
                    };
                }
                // TLS keeps back what is not flushed.
                if writer.write_all(&goes).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
            read = reader.read_buf(&mut came) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
                let mut done = 0;
                while let Some(rest) = came.get(done..)
                    && !rest.is_empty()
                {
                    match wire::reply(rest) {
                        Ok(None) => break,
                        Ok(Some((reply, length))) => {
                            done += length;
                            let Some(answer) = waiting.pop_front() else { return };
                            // Whoever asked has given up: the answer is taken all the same.
                            let _ = answer.send(reply);
                        }
                        Err(_) => return,
                    }
                }
                came.drain(..done);
            }
        }
    }
}
