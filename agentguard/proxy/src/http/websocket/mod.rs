//! WebSocket after its handshake: frames in both directions, read and passed on as they come.
//!
//! What passes is what came, byte for byte, once it is known to be a frame: a small one as a whole, of
//! a large one what is there. A side that sends something else ends the connection, and so does the
//! policy when it comes to deny it; both sides are told in a Close frame, the client with the
//! reason and the decision's id. In the middle of a large frame a Close frame would be taken for its
//! payload: there the client sees a reset.
//!
//! [`hold`] is where a client's message can be decided on before it leaves. [`turns`] reads connections on which
//! messages are calls of a language model.

mod hold;
mod lane;
#[cfg(test)]
mod tests;
mod turns;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use agentguard_decision::{Decided, Recorder, Way};
use agentguard_model::{ActionKind, DecisionId, ReasonCode};
use agentguard_protocol::websocket::{Assembler, Side, Violation, close};
use hyper_util::rt::TokioIo;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, sink, split,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::Port;
use crate::connection::Flow;
use crate::http::behind::MOMENT;
use crate::http::exchange::Tunnel;
use crate::http::gated::Gated;
use crate::http::growth::Judge;
use crate::http::websocket::hold::{SizeHold, Sizes, Unruled};
use crate::http::websocket::lane::{Lane, Out};
use crate::http::websocket::turns::{Answers, Calls, Turns};
use crate::passing::{Metered, room};
use crate::relay::{self, ClientStream, MAX_LINGER, Over, both, part};
use crate::revoked::Revoked;

/// Why a connection is over before its sides have ended it.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// This side sent what is no WebSocket.
    Malformed(Side, Violation),
    /// The policy does not allow it, or not any more.
    Denied(Decided),
}

/// Whether both sides have sent their Close frames.
#[derive(Debug, Default)]
struct Closes {
    sides: AtomicU8,
    both: Notify,
}

impl Closes {
    fn one(&self) {
        if self.sides.fetch_add(1, Ordering::AcqRel) == 1 {
            self.both.notify_one();
        }
    }
}

/// Carries a connection that speaks WebSocket after 101. `replay` is what the client has sent already.
pub(super) async fn carry<R: Recorder, P: Port, S: ClientStream>(
    flow: Arc<Flow<R, P>>,
    gated: Gated<S>,
    replay: &[u8],
    tunnel: Tunnel<R>,
) {
    let Tunnel {
        upgrade,
        agreed,
        upstream,
        account,
        asked,
        mut revoked,
    } = tunnel;
    let upgraded = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            account.fail(format!("the upstream is gone: {error}"));
            return gated.into_inner().reset();
        }
    };
    let buffer = flow.guard.limits.buffer;
    let messages = account.messages();
    let [grant_out, grant_in] = [Way::Out, Way::In].map(|way| account.decided().held()?.grant(way));
    let closes = Closes::default();
    let mut client = Ends::new(gated, &account.received);
    let mut server = Ends::new(upgraded, &account.sent);
    let turns = asked.calls_to_come().map(|unread| {
        let (handshake, opened) = (Arc::clone(&asked), Arc::clone(&account));
        Turns::new(Arc::clone(&flow), handshake, opened, unread.clone())
    });
    // Whether something may be said to the client between two messages.
    let mut between = true;
    // Whether its server may write what is billed, and goes nowhere.
    let mut billed = false;
    let over = {
        let mut up = Lane::new(Side::Client, agreed.deflate, buffer, replay);
        let mut down = Lane::new(Side::Server, agreed.deflate, buffer, &[]);
        let (client, server) = (&mut client, &mut server);
        let from_client = &mut Metered::new(&mut client.reader, grant_out);
        let from_server = &mut Metered::new(&mut server.reader, grant_in);
        if let Some(turns) = &turns {
            let (mut calls, mut answers) = (Calls::new(turns), Answers::new(turns));
            let over = {
                let up = async {
                    room(grant_out, replay).await;
                    let (out, sent) = (&mut server.out, &messages.sent);
                    up.run(from_client, out, &mut calls, sent, &closes).await
                };
                let down = down.run(
                    from_server,
                    &mut client.out,
                    &mut answers,
                    &messages.received,
                    &closes,
                );
                let going = pin!(both(up, down));
                let going = pin!(turns.unless_denied(going));
                let going =
                    pin!(async { going.await.unwrap_or_else(|it| Err(Stopped::Denied(it))) });
                until_over(&closes, &mut revoked, going).await
            };
            let why = match &over {
                Err(Stopped::Denied(denied)) => relay::revoked(denied),
                _ => turns::NOT_ENDED.to_owned(),
            };
            billed = turns.breaks(&why);
            if billed {
                // What has come already of what is counted is billed, and goes nowhere.
                let nowhere = AtomicU64::new(0);
                let mut out = Out::new(sink(), &nowhere);
                from_server.unmetered();
                let behind = down.run(from_server, &mut out, &mut answers, &nowhere, &closes);
                if timeout(MOMENT, behind).await.is_err() {
                    tracing::debug!("a server writes on behind the end of a WebSocket");
                }
            }
            between = answers.is_between();
            over
        } else {
            let judge: Arc<dyn Judge> = flow.clone();
            let rule = || Sizes::new(Arc::clone(&judge), &asked);
            // Nobody reads what a message says: it is held as it came.
            let assembler = Assembler::new(0, agreed.client_takeover);
            let mut hold = SizeHold::new(rule, assembler, agreed.client_takeover);
            let mut unheld = SizeHold::new(|| Unruled, Assembler::new(0, false), false);
            let up = async {
                room(grant_out, replay).await;
                let (out, sent) = (&mut server.out, &messages.sent);
                up.run(from_client, out, &mut hold, sent, &closes).await
            };
            let down = down.run(
                from_server,
                &mut client.out,
                &mut unheld,
                &messages.received,
                &closes,
            );
            until_over(&closes, &mut revoked, pin!(both(up, down))).await
        }
    };
    let linger = flow.guard.limits.linger;
    match over {
        Ok(Some(Over {
            reset_client,
            error,
            ..
        })) => {
            if let Some(error) = error {
                account.fail(error);
            }
            if reset_client {
                client.into_inner().into_inner().reset();
            }
        }
        // The server is to close first (RFC 6455, 7.1.1), but whoever does.
        Ok(None) => {
            let one = async {
                tokio::select! {
                    () = drain(&mut server.reader) => {}
                    () = drain(&mut client.reader) => {}
                }
            };
            if timeout(linger, one).await.is_err() {
                tracing::debug!("nobody closes a WebSocket after its Close frames");
            }
            let client = say(client.into_inner(), &[], linger);
            tokio::join!(client, say(server.into_inner(), &[], linger));
        }
        Err(stopped) => {
            let turns = turns.as_ref().filter(|_| between);
            let goodbyes = explain(&flow, &account, stopped, turns).await;
            let client = async {
                match client.goodbye(&goodbyes.client) {
                    Ok((stream, bytes)) => say(stream, &bytes, linger).await,
                    Err(stream) => stream.into_inner().reset(),
                }
            };
            let server = async {
                match server.goodbye(&goodbyes.server) {
                    Ok((stream, bytes)) if billed => leave(stream, &bytes, linger).await,
                    Ok((stream, bytes)) => say(stream, &bytes, linger).await,
                    Err(_) => {}
                }
            };
            tokio::join!(client, server);
        }
    }
    if let Some(turns) = turns {
        turns.close();
    }
    drop(upstream);
}

/// Waits until both sides have ended it, or it is stopped. None: both have sent their Close frames.
async fn until_over(
    closes: &Closes,
    revoked: &mut Revoked,
    going: Pin<&mut impl Future<Output = Result<Over, Stopped>>>,
) -> Result<Option<Over>, Stopped> {
    tokio::select! {
        biased;
        () = closes.both.notified() => Ok(None),
        over = revoked.unless(going) => match over {
            Ok(over) => over.map(Some),
            Err(denied) => Err(Stopped::Denied(denied)),
        },
    }
}

/// What each side is told.
struct Goodbyes {
    client: Vec<u8>,
    server: Vec<u8>,
}

/// Records why a connection is over, and says it to both sides. `turns`: to whose calls an error may be said.
async fn explain<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    account: &crate::account::Account<R>,
    stopped: Stopped,
    turns: Option<&Turns<R, P>>,
) -> Goodbyes {
    let refuse =
        async |code, message: String| flow.refuse(ActionKind::HttpRequest, code, message).await;
    let (code, denied, server) = match stopped {
        Stopped::Malformed(Side::Server, violation) => {
            let message = format!("the upstream's WebSocket cannot be carried: {violation}");
            account.fail(message.clone());
            return Goodbyes {
                client: told(close::INTERNAL_ERROR, &message, account.decided().id),
                server: close::frame(Side::Client, violation.code(), &violation.to_string(), ""),
            };
        }
        Stopped::Malformed(Side::Client, violation) => {
            let message = format!("the WebSocket cannot be carried: {violation}");
            let denied = refuse(ReasonCode::HttpMalformed, message).await;
            (violation.code(), denied, close::GOING_AWAY)
        }
        Stopped::Denied(denied) => (close::POLICY_VIOLATION, denied, close::GOING_AWAY),
    };
    let error = relay::revoked(&denied);
    let mut client = Vec::new();
    if let Some(turns) = turns.filter(|turns| turns.end(&error)) {
        client = turns.refusal(&denied, None);
    }
    client.extend(told(code, &denied.reason.message, denied.id));
    account.fail(error);
    Goodbyes {
        client,
        server: close::frame(Side::Client, server, "", ""),
    }
}

/// A Close frame for the client.
fn told(code: u16, message: &str, id: Option<DecisionId>) -> Vec<u8> {
    let behind = id.map(|id| format!(" (agentguard explain {id})"));
    close::frame(
        Side::Server,
        code,
        message,
        behind.as_deref().unwrap_or_default(),
    )
}

/// A connection's two ends.
struct Ends<'a, S> {
    reader: ReadHalf<S>,
    out: Out<'a, WriteHalf<S>>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Ends<'a, S> {
    fn new(stream: S, written: &'a AtomicU64) -> Self {
        let (reader, writer) = split(stream);
        Self {
            reader,
            out: Out::new(writer, written),
        }
    }

    fn into_inner(self) -> S {
        self.reader.unsplit(self.out.into_inner().0)
    }

    /// The connection, and what is to be said on it last: what has not been written yet, and the Close
    /// frame if there has been none. As an error where that cannot be said in the middle of a frame.
    fn goodbye(self, close: &[u8]) -> Result<(S, Vec<u8>), S> {
        let (in_frame, closed) = (self.out.is_in_frame(), self.out.is_closed());
        let (writer, mut bytes) = self.out.into_inner();
        let stream = self.reader.unsplit(writer);
        if in_frame {
            return Err(stream);
        }
        if !closed {
            bytes.extend_from_slice(close);
        }
        Ok((stream, bytes))
    }
}

/// Says goodbye, and waits a moment for the other side to have read it.
async fn say(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: &[u8],
    linger: std::time::Duration,
) {
    if timeout(linger, part(&mut stream, bytes)).await.is_err() {
        tracing::debug!("the other side of a WebSocket does not close");
    }
}

/// Says goodbye, and is gone: whoever writes on bills that, and notices it so at the latest.
async fn leave(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: &[u8],
    linger: std::time::Duration,
) {
    let said = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await
    };
    if !matches!(timeout(linger, said).await, Ok(Ok(()))) {
        tracing::debug!("the server of a WebSocket does not read its end");
    }
}

/// Reads up to the end, and drops what is read.
async fn drain(reader: &mut (impl AsyncRead + Unpin)) {
    let mut left = MAX_LINGER;
    let mut scratch = [0; 4096];
    while left > 0 {
        match reader.read(&mut scratch).await {
            Ok(0) | Err(_) => break,
            Ok(read) => left = left.saturating_sub(read),
        }
    }
}
