//! TLS: the hello is read. Where the policy inspects, TLS ends here ([`crate::inspect`]); else the
//! rest passes untouched.

use std::sync::Arc;

use agentguard_decision::{Decided, Recorder};
use agentguard_model::{ActionKind, ReasonCode};
use agentguard_protocol::alert::Alert;
use agentguard_protocol::client_hello::{Hello, HelloReader, Progress, TlsMalformed};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{Flow, READ};
use crate::relay::{part, reset};
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
) {
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
        return inspect::run(flow, stream, reader.into_bytes(), hello).await;
    }
    let (decided, alert) = decide(&flow, hello).await;
    match (decided.allowed, alert) {
        (true, _) => flow.splice(stream, &reader.into_bytes(), decided).await,
        (false, None) => reset(stream),
        (false, Some(alert)) => say(&flow, stream, alert).await,
    }
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
    flow: &Flow<R, P>,
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
    (flow.connection().await, Some(Alert::AccessDenied))
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
