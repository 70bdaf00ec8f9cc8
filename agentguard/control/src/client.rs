//! Asks the guard, from the same machine.
//!
//! What answers is the worker, which reads hostile bytes and is not trusted by root: an answer has
//! a bound in bytes and in time, and is parsed into the same types that the server serialises.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_keeper::groups::{APPROVE, READ, RUN};
use agentguard_model::contents::Contents;
use agentguard_model::{AgentName, Decision, DecisionId, ToolPin, ToolPinned};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::{AgentStatus, Agents, Line, PolicyView, Problem, Status, VerdictQuery, Verdicts};
use crate::budgets::{self, BudgetAccount, BudgetAccounts, BudgetQuery};
use crate::limits::LimitAccounts;
use crate::tools::{ToolPins, ToolQuery};

/// How long one answer may take, in all. Following is exempt; there a heartbeat must arrive in time.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// How long a followed answer may be silent: three heartbeats.
const SILENCE: Duration = Duration::from_secs(3 * crate::server::HEARTBEAT.as_secs());

/// Bytes of one answer, at most; a longer one is [`ClientError::Answer`].
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Bytes of one followed line, at most; a longer one is [`ClientError::Answer`].
const MAX_LINE: usize = 1024 * 1024;

/// A connection to the guard.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    sender: SendRequest<Empty<Bytes>>,
}

/// Why the guard did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no daemon at {}", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is there and this user may not open it.
    #[error("not allowed to open {}", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection failed.
    #[error("the connection to the daemon at {} failed", path.display())]
    Connection {
        /// The socket.
        path: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The guard did not answer in time.
    #[error("the daemon at {} does not answer", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The guard refused.
    #[error("{}", .0.message)]
    Refused(Problem),
    /// What came is not an answer: another version, or something else listens there.
    #[error("cannot read the daemon's answer: {0}")]
    Answer(String),
}

/// What to do where there is no daemon: to whoever asked it, and to whoever wanted a command run.
/// `config` is the configuration that was named to the asking command, if one was.
#[must_use]
pub fn how_to_start(config: Option<&Path>) -> String {
    let start = match config {
        // The service may run with another one.
        Some(file) => format!("`agentguard daemon --config {}`", file.display()),
        None => "`systemctl start agentguard` or `agentguard daemon`".to_owned(),
    };
    format!(
        "start one with {start}; if it runs with another configuration, name that with --config"
    )
}

impl ClientError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoDaemon { .. } => Some(how_to_start(None)),
            Self::NotAllowed { .. } => Some(format!(
                "run the command as root, or as a member of {READ}, {APPROVE} or {RUN}, where the host \
                 has them; whoever became one has to log in anew"
            )),
            Self::Silent { .. } | Self::Connection { .. } => {
                Some("look at the daemon's log: journalctl -u agentguard".into())
            }
            Self::Refused(problem) => problem.hint.clone(),
            Self::Answer(_) => {
                Some("the daemon may be of another version: restart it after an upgrade".into())
            }
        }
    }
}

impl Client {
    /// Connects to the guard's control socket.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`], [`ClientError::NotAllowed`], [`ClientError::Connection`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| unreached(path, source))?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ClientError::Connection {
                path: path.to_owned(),
                source: io::Error::other(error),
            })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the control connection ended");
            }
        });
        Ok(Self {
            path: path.to_owned(),
            sender,
        })
    }

    /// The decisions that a query selects, newest last. [`VerdictQuery::follow`] is not looked at.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn verdicts(&mut self, query: &VerdictQuery) -> Result<Vec<Decision>, ClientError> {
        let query = VerdictQuery {
            follow: false,
            ..query.clone()
        };
        let answer: Verdicts = self
            .ask(&format!("/v1/verdicts?{}", query.to_query_string()))
            .await?;
        Ok(answer.decisions)
    }

    /// The decisions that a query selects, and then new ones as they are recorded.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow(mut self, query: &VerdictQuery) -> Result<Follow, ClientError> {
        let query = VerdictQuery {
            follow: true,
            ..query.clone()
        };
        let response = self
            .send(&format!("/v1/verdicts?{}", query.to_query_string()))
            .await?;
        Ok(Follow {
            path: self.path,
            _sender: self.sender,
            body: response.into_body(),
            partial: BytesMut::new(),
            lines: VecDeque::new(),
        })
    }

    /// One decision.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`crate::api::ProblemCode::NotFound`] if there is none of this id.
    pub async fn decision(&mut self, id: DecisionId) -> Result<Decision, ClientError> {
        self.ask(&format!("/v1/verdicts/{id}")).await
    }

    /// What was kept of what passed under a decision.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`crate::api::ProblemCode::NotFound`] if nothing was.
    pub async fn contents(&mut self, id: DecisionId) -> Result<Contents, ClientError> {
        self.ask(&format!("/v1/verdicts/{id}/contents")).await
    }

    /// All agents.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn agents(&mut self) -> Result<Vec<AgentStatus>, ClientError> {
        let answer: Agents = self.ask("/v1/agents").await?;
        Ok(answer.agents)
    }

    /// One agent.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`crate::api::ProblemCode::NotFound`] if there is none of this name.
    pub async fn agent(&mut self, name: &AgentName) -> Result<AgentStatus, ClientError> {
        self.ask(&format!("/v1/agents/{name}")).await
    }

    /// The policy in force.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy(&mut self) -> Result<PolicyView, ClientError> {
        self.ask("/v1/policy").await
    }

    /// What tools are pinned to, by server and tool.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tools(&mut self, query: &ToolQuery) -> Result<Vec<ToolPin>, ClientError> {
        let answer: ToolPins = self
            .ask(&format!("/v1/tools?{}", query.to_query_string()))
            .await?;
        Ok(answer.pins)
    }

    /// What one tool is pinned to, with its definitions.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`crate::api::ProblemCode::NotFound`] if it is not.
    pub async fn tool(&mut self, query: &ToolQuery) -> Result<ToolPinned, ClientError> {
        let query = query.to_query_string();
        self.ask(&format!("/v1/tools/definition?{query}")).await
    }

    /// Accounts of budgets.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn budgets(&mut self, query: &BudgetQuery) -> Result<BudgetAccounts, ClientError> {
        let query = query.to_query_string();
        self.ask(&format!("/v1/budgets?{query}")).await
    }

    /// Accounts of limits, and circuits of breakers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn limits(&mut self) -> Result<LimitAccounts, ClientError> {
        self.ask("/v1/limits").await
    }

    /// One account of a budget, by its name, with all that there is to say of it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with [`crate::api::ProblemCode::NotFound`] if there is none.
    pub async fn budget(&mut self, account: &str) -> Result<BudgetAccount, ClientError> {
        let query = budgets::named(account);
        self.ask(&format!("/v1/budgets/account?{query}")).await
    }

    /// The guard's health.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.ask("/v1/status").await
    }

    async fn ask<T: DeserializeOwned>(&mut self, target: &str) -> Result<T, ClientError> {
        let path = self.path.clone();
        let answer = async {
            let body = self.send(target).await?.into_body();
            collect(body).await
        };
        let bytes = timeout(ANSWER_TIME, answer)
            .await
            .map_err(|_| ClientError::Silent { path })??;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer(error.to_string()))
    }

    /// Sends a request; an answer that refuses is an error.
    async fn send(&mut self, target: &str) -> Result<Response<Incoming>, ClientError> {
        let failed = |error: hyper::Error| ClientError::Connection {
            path: self.path.clone(),
            source: io::Error::other(error),
        };
        let request = Request::get(target)
            .header(hyper::header::HOST, "agentguard")
            .body(Empty::new())
            .map_err(|error| ClientError::Answer(error.to_string()))?;
        let response = timeout(ANSWER_TIME, async {
            // After an earlier answer the connection needs a moment to be ready again.
            self.sender.ready().await?;
            self.sender.send_request(request).await
        })
        .await
        .map_err(|_| ClientError::Silent {
            path: self.path.clone(),
        })?
        .map_err(failed)?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let bytes = collect(response.into_body()).await?;
        Err(match serde_json::from_slice(&bytes) {
            Ok(problem) => ClientError::Refused(problem),
            Err(_) => ClientError::Answer(format!("HTTP status {status}")),
        })
    }
}

/// A followed answer.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    /// The connection ends with its sender.
    _sender: SendRequest<Empty<Bytes>>,
    body: Incoming,
    partial: BytesMut,
    lines: VecDeque<Line>,
}

impl Follow {
    /// The next line; `None` when the guard ends the answer: it goes away, or has said in the last line
    /// why it refuses to go on.
    ///
    /// # Errors
    /// [`ClientError::Silent`] if not even a heartbeat came in time; [`ClientError::Connection`];
    /// [`ClientError::Answer`].
    ///
    /// # Cancel safety
    /// A dropped future loses no line.
    pub async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            let frame =
                timeout(SILENCE, self.body.frame())
                    .await
                    .map_err(|_| ClientError::Silent {
                        path: self.path.clone(),
                    })?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| ClientError::Connection {
                path: self.path.clone(),
                source: io::Error::other(error),
            })?;
            if let Ok(data) = frame.into_data() {
                self.partial.extend_from_slice(&data);
                self.split()?;
            }
        }
    }

    /// Takes whole lines out of what has arrived.
    fn split(&mut self) -> Result<(), ClientError> {
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line = self.partial.split_to(end + 1);
            let line = line.trim_ascii();
            if !line.is_empty() {
                let line = serde_json::from_slice(line)
                    .map_err(|error| ClientError::Answer(error.to_string()))?;
                self.lines.push_back(line);
            }
        }
        if self.partial.len() > MAX_LINE {
            return Err(ClientError::Answer(format!(
                "a line is longer than {MAX_LINE} bytes"
            )));
        }
        Ok(())
    }
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| ClientError::Answer(error.to_string()))
}

fn unreached(path: &Path, source: io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NoDaemon { path }
        }
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path },
        _ => ClientError::Connection { path, source },
    }
}
