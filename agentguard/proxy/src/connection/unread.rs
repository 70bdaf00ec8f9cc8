//! Connections that are carried untouched, because nothing here understands them or nothing is said.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentguard_decision::Recorder;
use agentguard_model::{ActionKind, ReasonCode};
use agentguard_protocol::first_bytes::LineReader;
use tokio::net::TcpStream;

use super::start::Start;
use super::{Flow, Onward};
use crate::Port;
use crate::account::Account;
use crate::late::Doubted;
use crate::outward::Outward;
use crate::relay::{Over, relay, reset};

/// Whether a client that is carried unread may still turn out to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Doubt {
    None,
    /// By the line that it has begun.
    Line,
}

impl<R: Recorder, P: Port> Flow<R, P> {
    /// Bytes that nothing here understands, and connections without any.
    pub(super) async fn raw(self: Arc<Self>, stream: TcpStream, bytes: Vec<u8>, doubt: Doubt) {
        let decided = self.connection().await;
        if !decided.allowed {
            return reset(stream);
        }
        let account = self.account(decided);
        if let Some((stream, upstream)) = self.reach(stream, &account).await {
            self.join(stream, upstream, &bytes, doubt, &account).await;
        }
    }

    /// A connection whose client waits, maybe for its upstream to speak first. If it is the client after all,
    /// what it says is looked at as if it had not waited.
    pub(super) async fn silent(self: Arc<Self>, stream: TcpStream) -> Onward {
        let decided = self.connection().await;
        if !decided.allowed {
            reset(stream);
            return Onward::OVER;
        }
        let account = self.account(decided);
        let Some((mut stream, upstream)) = self.reach(stream, &account).await else {
            return Onward::OVER;
        };
        let mut bytes = Vec::new();
        let looked = {
            let looking = pin!(async {
                let (mut first, mut again, mut head) = ([0], [0], [0; 9]);
                let spoken = tokio::select! {
                    spoken = stream.peek(&mut first) => spoken,
                    said = upstream.peek(&mut head) => match said {
                        // A server of HTTP/2 does not wait for its client (RFC 9113, 3.4), nor the client for
                        // it.
                        Ok(9) if is_settings(head) => stream.peek(&mut again).await,
                        _ => return Start::Raw,
                    },
                };
                if let Err(error) = spoken {
                    return Start::Gone(error);
                }
                let foreseen = self.guard.decider.foresee(&self.client, &self.target);
                self.look(&mut stream, foreseen, &mut bytes).await
            });
            self.unless_revoked(&account, looking).await
        };
        let doubt = match looked {
            Err(over) => {
                over.end(&account, stream, Some(upstream));
                return Onward::OVER;
            }
            Ok(Start::Raw | Start::Silent | Start::Ended) => Doubt::None,
            Ok(Start::Line) => Doubt::Line,
            Ok(Start::Gone(error)) => {
                account.fail(format!("the client is gone: {error}"));
                upstream.reset();
                return Onward::OVER;
            }
            Ok(shown) => {
                drop((upstream, account));
                let this = if self.is_stale() {
                    Arc::new(self.looked_up_again().await)
                } else {
                    self
                };
                return this.carry(shown, stream, bytes);
            }
        };
        self.join(stream, upstream, &bytes, doubt, &account).await;
        Onward::OVER
    }

    /// Opens the upstream of a connection that is carried untouched. None: it is over.
    pub(crate) async fn reach(
        &self,
        stream: TcpStream,
        account: &Account<R>,
    ) -> Option<(TcpStream, Outward)> {
        match self.dial().await {
            Ok((upstream, _)) => Some((stream, upstream)),
            Err(reason) => {
                account.fail(reason.message);
                reset(stream);
                None
            }
        }
    }

    /// Carries a connection untouched.
    async fn join(
        &self,
        mut stream: TcpStream,
        mut upstream: Outward,
        bytes: &[u8],
        doubt: Doubt,
        account: &Account<R>,
    ) {
        let is_request = AtomicBool::new(false);
        let buffer = self.guard.limits.buffer;
        let line = (doubt == Doubt::Line).then(|| {
            let mut line = LineReader::default();
            line.push(bytes);
            line
        });
        let over = {
            let (reader, writer) = stream.split();
            let client = (Doubted::new(reader, line, &is_request), writer);
            let going = pin!(relay(
                client,
                upstream.split(),
                bytes,
                buffer,
                account.counts()
            ));
            self.unless_revoked(account, going)
                .await
                .unwrap_or_else(|over| over)
        };
        if !is_request.load(Ordering::Relaxed) {
            return over.end(account, stream, Some(upstream));
        }
        let message = "the client took so long for its first line that it was carried unread, and then it \
                       was a request; a request's line has to come at once";
        let denied = self.refuse(ActionKind::Connect, ReasonCode::ClientTimeout, message);
        Over::revoked(&denied.await).end(account, stream, Some(upstream));
    }
}

/// Whether a frame of HTTP/2 with this head is one of settings of the connection (RFC 9113, 4.1 and 6.5).
const fn is_settings(head: [u8; 9]) -> bool {
    const SETTINGS: u8 = 4;
    matches!(head, [_, _, _, SETTINGS, _, 0, 0, 0, 0])
}
