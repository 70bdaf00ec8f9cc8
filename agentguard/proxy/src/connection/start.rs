//! What a client shows first, and who carries the connection then.

use std::io;
use std::sync::Arc;

use ::http::Version;
use agentguard_decision::{Foreseen, Recorder};
use agentguard_model::Handling;
use agentguard_protocol::first_bytes::{FirstBytes, MOST_NEEDED, classify};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::unread::Doubt;
use super::{Flow, Onward, READ};
use crate::http::Leg;
use crate::replay::Replay;
use crate::{Port, http, tls, tunnel};

/// Ports on which the client always speaks first.
const WEB_PORTS: [u16; 2] = [80, 443];

/// What a client has shown so far.
pub(super) enum Start {
    Tls,
    Http1,
    Http2,
    Socks5,
    Socks4,
    /// Bytes of another protocol, or of none that will ever be recognised.
    Raw,
    /// The same, most likely: a line that has not ended in the time it had.
    Line,
    /// Nothing in the time it had.
    Silent,
    /// Bytes that could still become TLS or HTTP, in the time it had.
    Stuck,
    /// The end of the stream and no byte.
    Ended,
    /// The connection broke.
    Gone(io::Error),
}

impl<R: Recorder, P: Port> Flow<R, P> {
    /// Sees who carries a connection of which `bytes` have been read.
    pub(crate) async fn start(
        self: Arc<Self>,
        mut stream: TcpStream,
        mut bytes: Vec<u8>,
    ) -> Onward {
        let foreseen = self.guard.decider.foresee(&self.client, &self.target);
        let shown = self.look(&mut stream, foreseen, &mut bytes).await;
        // Where it may go depends on the policy, and the client can take its time.
        let this = if self.is_stale() {
            Arc::new(self.looked_up_again().await)
        } else {
            self
        };
        this.carry(shown, stream, bytes)
    }

    /// The same connection under the policy in force.
    pub(super) async fn looked_up_again(&self) -> Self {
        let again = Arc::clone(&self.guard).flow(self.origin.clone()).await;
        match self.inside {
            true => again.inside(),
            false => again,
        }
    }

    /// Passes it to who carries what it has shown.
    pub(super) fn carry(
        self: Arc<Self>,
        shown: Start,
        stream: TcpStream,
        bytes: Vec<u8>,
    ) -> Onward {
        let foreseen = self.guard.decider.foresee(&self.client, &self.target);
        match shown {
            Start::Tls => Onward::to(tls::run(self, stream, bytes)),
            Start::Http1 if bytes.starts_with(b"CONNECT ") && !self.inside => {
                Onward::to_last(tunnel::connect(self, stream, bytes))
            }
            Start::Socks5 if !self.inside => Onward::to_last(tunnel::socks(self, stream, bytes)),
            Start::Socks5 => {
                let message = "a proxy behind a proxy is not carried";
                Onward::to_last(tunnel::refuse(self, stream, message))
            }
            Start::Socks4 => {
                let message = "SOCKS4 is not carried; use SOCKS5";
                Onward::to_last(tunnel::refuse(self, stream, message))
            }
            Start::Http1 => {
                let leg = Leg::plain(Version::HTTP_11);
                Onward::to_last(http::run(self, stream, bytes, leg))
            }
            Start::Http2 => {
                let stream = Replay::new(bytes, stream);
                let leg = Leg::plain(Version::HTTP_2);
                Onward::to_last(http::run_http2(self, stream, leg))
            }
            Start::Raw => Onward::to_last(self.raw(stream, bytes, Doubt::None)),
            Start::Line => Onward::to_last(self.raw(stream, bytes, Doubt::Line)),
            Start::Stuck => Onward::to_last(self.time_out(stream)),
            Start::Silent | Start::Ended if needs_bytes(foreseen) => {
                Onward::to_last(self.time_out(stream))
            }
            Start::Silent => Onward::to(self.silent(stream)),
            Start::Ended => Onward::to_last(self.raw(stream, Vec::new(), Doubt::None)),
            Start::Gone(error) => Onward::to_last(self.gone(error)),
        }
    }

    /// Records what a client was allowed that is gone.
    async fn gone(self: Arc<Self>, error: io::Error) {
        let decided = self.connection().await;
        if decided.allowed {
            self.account(decided)
                .fail(format!("the client is gone: {error}"));
        }
    }

    /// Reads until it is clear what the client speaks. An upstream that speaks first must not wait
    /// for a client that waits for it: where the bytes change nothing, patience is short.
    pub(super) async fn look(
        &self,
        stream: &mut TcpStream,
        foreseen: Foreseen,
        bytes: &mut Vec<u8>,
    ) -> Start {
        let limits = &self.guard.limits;
        let needed = needs_bytes(foreseen);
        let hasty = !needed && !WEB_PORTS.contains(&self.target.port);
        let begun = Instant::now();
        loop {
            let shown = classify(bytes);
            match shown {
                FirstBytes::Tls => return Start::Tls,
                FirstBytes::Http1 => return Start::Http1,
                FirstBytes::Http2Preface => return Start::Http2,
                FirstBytes::Socks5 => return Start::Socks5,
                FirstBytes::Socks4 => return Start::Socks4,
                FirstBytes::Raw => return Start::Raw,
                FirstBytes::NeedMore | FirstBytes::Line => {}
            }
            let is_line = shown == FirstBytes::Line;
            if is_line && bytes.len() >= MOST_NEEDED {
                return Start::Line;
            }
            let patience = if hasty && bytes.is_empty() || !needed && is_line {
                limits.client_first
            } else {
                limits.head
            };
            bytes.reserve(READ);
            match timeout_at(begun + patience, stream.read_buf(bytes)).await {
                Ok(Ok(0)) if bytes.is_empty() => return Start::Ended,
                Ok(Ok(0)) => return Start::Raw,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Start::Gone(error),
                Err(_) if bytes.is_empty() => return Start::Silent,
                Err(_) if is_line => return Start::Line,
                Err(_) => return Start::Stuck,
            }
        }
    }
}

/// Whether nothing can be decided before the client has spoken.
fn needs_bytes(foreseen: Foreseen) -> bool {
    matches!(
        foreseen,
        Foreseen::NeedsRequest | Foreseen::Allow(Handling::Inspect)
    )
}
