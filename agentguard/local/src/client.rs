//! Asks the guard, as an agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::{Answer, CAME, Came, LONG, MAX_LINE, Problem, SENT};

/// How long one answer may take, in all.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// Bytes of one answer, at most: a message in the place of one, as text in JSON.
const MAX_ANSWER: usize = 7 * MAX_LINE;

/// Asks about the messages of one server of tools, one after the other.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    server: String,
    /// Kept from one question to the next. None before the first, and after one that failed.
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// Why there is no answer. Whoever asked does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nobody can be asked.
    #[error("the guard cannot be asked at {}: {source}", socket.display())]
    Connection {
        /// The socket.
        socket: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The guard did not answer in time.
    #[error("the guard does not answer at {}", socket.display())]
    Silent {
        /// The socket.
        socket: PathBuf,
    },
    /// The guard decides nothing for this caller.
    #[error("the guard does not decide: {0}")]
    Refused(String),
    /// What came is not an answer.
    #[error("the answer of the guard cannot be read: {0}")]
    Answer(String),
}

impl Client {
    /// Asks at this socket about the server of this name.
    #[must_use]
    pub fn new(socket: &Path, server: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            server: server.to_owned(),
            sender: None,
        }
    }

    /// Whether a message may go to the server.
    ///
    /// # Errors
    /// [`Unanswered`]: it may not.
    pub async fn sent(&mut self, line: Bytes) -> Result<Answer, Unanswered> {
        self.ask(SENT, line).await
    }

    /// Has a message refused that is longer than [`MAX_LINE`]. `id`: of what it asks, as it is written in JSON, if that is
    /// known.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn long(&mut self, id: Option<&str>) -> Result<Answer, Unanswered> {
        let id = id.unwrap_or_default().to_owned();
        self.ask(LONG, id.into()).await
    }

    /// What becomes of a message that came from the server.
    ///
    /// # Errors
    /// [`Unanswered`]: it is not passed on.
    pub async fn came(&mut self, line: Bytes) -> Result<Came, Unanswered> {
        self.ask(CAME, line).await
    }

    async fn ask<T: DeserializeOwned>(&mut self, path: &str, line: Bytes) -> Result<T, Unanswered> {
        let asked = timeout(ANSWER_TIME, self.send(path, line)).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(Unanswered::Silent {
                socket: self.socket.clone(),
            })
        });
        if answer.is_err() {
            self.sender = None;
        }
        let bytes = answer?;
        serde_json::from_slice(&bytes).map_err(|error| Unanswered::Answer(error.to_string()))
    }

    async fn send(&mut self, path: &str, line: Bytes) -> Result<Bytes, Unanswered> {
        let socket = self.socket.clone();
        let failed = |source: io::Error| Unanswered::Connection {
            socket: socket.clone(),
            source,
        };
        let broken = |error: hyper::Error| failed(io::Error::other(error));
        // One that a restart of the daemon has closed is made anew: nothing was asked over it.
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => connect(&self.socket).await.map_err(failed)?,
        };
        let request = Request::post(format!("{path}?server={}", self.server))
            .header(hyper::header::HOST, "agentguard")
            .body(Full::new(line))
            .map_err(|error| Unanswered::Answer(error.to_string()))?;
        if sender.ready().await.is_err() {
            sender = connect(&self.socket).await.map_err(failed)?;
            sender.ready().await.map_err(broken)?;
        }
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body.map_err(|error| Unanswered::Answer(error.to_string()))?;
        let bytes = body.to_bytes();
        if status != StatusCode::OK {
            return Err(match serde_json::from_slice::<Problem>(&bytes) {
                Ok(problem) => Unanswered::Refused(problem.message),
                Err(_) => Unanswered::Answer(format!("HTTP status {status}")),
            });
        }
        self.sender = Some(sender);
        Ok(bytes)
    }
}

async fn connect(socket: &Path) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = UnixStream::connect(socket).await?;
    let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the guard ended");
        }
    });
    Ok(sender)
}
