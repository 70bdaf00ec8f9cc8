//! TLS, spliced: the hello is read, the rest passes untouched. A policy that asks to inspect is
//! refused when it is loaded, so every TLS connection that is allowed may pass like this.

use agentguard_decision::{Decided, Recorder};
use agentguard_model::{ActionKind, ReasonCode};
use agentguard_protocol::alert::Alert;
use agentguard_protocol::client_hello::{Hello, HelloReader, Progress, TlsMalformed};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::Port;
use crate::connection::{Flow, READ};
use crate::relay::{part, reset};

/// Why there is no hello.
enum NoHello {
    Malformed(TlsMalformed),
    TimedOut,
}

/// Carries a connection that begins with TLS records.
pub(crate) async fn run<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    mut stream: TcpStream,
    first: Vec<u8>,
) {
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
    let (decided, alert) = decide(flow, hello).await;
    match (decided.allowed, alert) {
        (true, _) => flow.splice(stream, &reader.into_bytes(), decided).await,
        (false, None) => reset(stream),
        (false, Some(alert)) => {
            let record = alert.record();
            let said = part(&mut stream, &record);
            if timeout(flow.guard.limits.linger, said).await.is_err() {
                tracing::debug!("the client does not close after its alert");
            }
        }
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
    // Without a server name, the name behind the address stands in. For a bare address nothing
    // vouches for the server name: the decision is on the address alone.
    if let (Some(name), Some(claimed)) = (&flow.target.host, &hello.server_name)
        && name != claimed
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
