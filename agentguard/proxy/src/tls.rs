//! TLS: the hello is read. Where the policy inspects, TLS ends here ([`crate::inspect`]); else the
//! rest passes untouched.

use std::pin::pin;
use std::sync::Arc;

use agentguard_decision::{Decided, Recorder};
use agentguard_model::{ActionKind, HostName, ReasonCode};
use agentguard_protocol::alert::Alert;
use agentguard_protocol::client_hello::{Hello, HelloReader, Progress, TlsMalformed};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::alpn::Offer;
use crate::connection::{Flow, Onward, READ};
use crate::relay::{Over, part, relay, reset};
use crate::second_hello::{Client, Hellos, Refused, Server};
use crate::{Port, inspect};

/// Why there is no hello.
enum NoHello {
    Malformed(TlsMalformed),
    TimedOut,
}

/// Carries a connection that begins with TLS records.
pub(crate) async fn run<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    stream: TcpStream,
    first: Vec<u8>,
) -> Onward {
    let mut stream = stream;
    let mut reader = HelloReader::default();
    let read = timeout_at(
        Instant::now() + flow.guard.limits.head,
        read_hello(&mut stream, &mut reader, first),
    );
    let hello = match read.await {
        Ok(Ok(hello)) => Ok(hello),
        Ok(Err(malformed)) => Err(NoHello::Malformed(malformed)),
        Err(_) => Err(NoHello::TimedOut),
    };
    if let Ok(hello) = &hello
        && is_for_target(&flow, hello)
        && flow.guard.decider.inspects(&flow.client, &flow.target)
    {
        let offer = Offer::of(&hello.alpn);
        return Onward::to(inspect::run(flow, stream, reader.into_bytes(), offer));
    }
    let name = hello.as_ref().ok().and_then(|it| it.server_name.clone());
    let (decided, alert) = decide(&flow, hello).await;
    match (decided.allowed, alert) {
        (true, _) => {
            let (first, rest) = reader.into_parts();
            Onward::to_last(splice(flow, stream, (first, rest), name, decided))
        }
        (false, None) => {
            reset(stream);
            Onward::OVER
        }
        (false, Some(alert)) => Onward::to_last(say(flow, stream, alert)),
    }
}

/// Carries a decided connection untouched: its first hello and what was read behind it, and a second one if the
/// server asks for that and it has the same `name`.
async fn splice<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    stream: TcpStream,
    (hello, rest): (Vec<u8>, Vec<u8>),
    name: Option<HostName>,
    decided: Decided,
) {
    let account = flow.account(decided);
    let Some((mut stream, mut upstream)) = flow.reach(stream, &account).await else {
        return;
    };
    let hellos = Hellos::default();
    let over = {
        let (from_client, to_client) = stream.split();
        let (from_server, to_server) = upstream.split();
        let client = Client::new(from_client, &rest, name, &hellos);
        let server = Server::new(from_server, &hellos);
        let buffer = flow.guard.limits.buffer;
        let (client, server) = ((client, to_client), (server, to_server));
        let going = pin!(relay(client, server, &hello, buffer, account.counts()));
        flow.unless_revoked(&account, going)
            .await
            .unwrap_or_else(|over| over)
    };
    let (code, message) = match hellos.refused() {
        None => return over.end(&account, stream, Some(upstream)),
        Some(Refused::Malformed(why)) => (ReasonCode::TlsMalformed, why.to_string()),
        Some(Refused::Name(second)) => {
            let second = second.map_or_else(|| "none".to_owned(), |name| format!("`{name}`"));
            let message = format!(
                "the TLS server name of the second ClientHello is {second}, and not that of the first one \
                 (RFC 8446, 4.1.2)"
            );
            (ReasonCode::NameMismatch, message)
        }
    };
    let denied = flow.refuse(ActionKind::Connect, code, message).await;
    Over::revoked(&denied).end(&account, stream, Some(upstream));
}

/// Whether the server name is the name behind the address. Without a server name, the name behind
/// the address stands in. For a bare address nothing vouches for the server name: what is decided
/// is the address alone.
fn is_for_target<R: Recorder, P: Port>(flow: &Flow<R, P>, hello: &Hello) -> bool {
    match (&flow.target.host, &hello.server_name) {
        (Some(name), Some(claimed)) => name == claimed,
        _ => true,
    }
}

/// Refuses a client before any key is agreed.
pub(crate) async fn say<R: Recorder, P: Port>(
    flow: Arc<Flow<R, P>>,
    mut stream: TcpStream,
    alert: Alert,
) {
    let record = alert.record();
    let said = part(&mut stream, &record);
    if timeout(flow.guard.limits.linger, said).await.is_err() {
        tracing::debug!("the client does not close after its alert");
    }
}

/// One decision, and what to tell the client if it is a denial.
async fn decide<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    hello: Result<Hello, NoHello>,
) -> (Decided, Option<Alert>) {
    let connect = ActionKind::Connect;
    let hello = match hello {
        Ok(hello) => hello,
        Err(NoHello::Malformed(why)) => {
            let refused = flow.refuse(connect, ReasonCode::TlsMalformed, why.to_string());
            return (refused.await, Some(Alert::DecodeError));
        }
        Err(NoHello::TimedOut) => {
            let message = "the client did not finish its ClientHello in time";
            let refused = flow.refuse(connect, ReasonCode::ClientTimeout, message);
            return (refused.await, None);
        }
    };
    if let (Some(name), Some(claimed)) = (&flow.target.host, &hello.server_name)
        && !is_for_target(flow, &hello)
    {
        let message = format!(
            "the TLS server name is `{claimed}`, but the address that was dialled stands for `{name}`"
        );
        let refused = flow.refuse(connect, ReasonCode::NameMismatch, message);
        return (refused.await, Some(Alert::UnrecognizedName));
    }
    (flow.tls().await, Some(Alert::AccessDenied))
}

async fn read_hello(
    stream: &mut TcpStream,
    reader: &mut HelloReader,
    mut piece: Vec<u8>,
) -> Result<Hello, TlsMalformed> {
    loop {
        if let Progress::Hello(hello) = reader.push(&piece)? {
            return Ok(hello);
        }
        piece.clear();
        piece.reserve(READ);
        match stream.read_buf(&mut piece).await {
            Ok(read) if read > 0 => {}
            _ => return Err(TlsMalformed::Truncated),
        }
    }
}
