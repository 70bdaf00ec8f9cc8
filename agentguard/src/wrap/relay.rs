//! Messages in both directions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use agentguard_local::Client;
use agentguard_local::api::MAX_LINE;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Mutex;

use super::lines::{Line, Lines};
use super::refusal;

/// How long the last words of a server that has ended may take.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why a relay stops before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// The server says more than is looked at.
    #[error("the server sent a message of more than {} MiB, which is not read, so that nothing of it is passed on", MAX_LINE >> 20)]
    Long,
    /// One of the four ends cannot be read, or written to.
    #[error("a message cannot be relayed: {0}")]
    Broken(#[from] io::Error),
}

/// Relays until the server's output ends. `up`: what the client sends, and where it goes; `down`: what the server sends,
/// and where that goes. When the client's end is there, the server's input is closed.
///
/// # Errors
/// [`Stopped`]: the server is to be ended.
pub(super) async fn relay(
    client: Client,
    up: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    down: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
) -> Result<(), Stopped> {
    // One question after the other, and one writer after the other.
    let client = Arc::new(Mutex::new(client));
    let output = Arc::new(Mutex::new(down.1));
    let upwards = send(&client, Lines::of(up.0), up.1, &output);
    let downwards = receive(&client, Lines::of(down.0), &output);
    let mut upwards = std::pin::pin!(upwards);
    let mut downwards = std::pin::pin!(downwards);
    tokio::select! {
        sent = &mut upwards => {
            sent?;
            downwards.await
        }
        received = &mut downwards => received,
    }
}

/// What the client sends. One that cannot be written to the server any more is read on, so that it is answered.
pub(super) async fn send<R: AsyncRead + Unpin, W: AsyncWrite + Unpin, O: AsyncWrite + Unpin>(
    client: &Mutex<Client>,
    mut lines: Lines<R>,
    mut server: W,
    output: &Mutex<O>,
) -> Result<(), Stopped> {
    while let Some(line) = lines.next().await? {
        let mut asking = client.lock().await;
        let answered = match &line {
            Line::Message(line) => asking.sent(line.clone()).await,
            Line::Long(id) => asking.long(id.as_deref()).await,
        };
        drop(asking);
        let instead = match (answered, line) {
            (Ok(answer), Line::Message(line)) if answer.allowed => {
                let line = answer.changed.map_or(line, Into::into);
                match write(&mut server, &line).await {
                    // Its end is waited for by who started it.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written?,
                }
                continue;
            }
            (Ok(answer), _) => answer.instead,
            (Err(why), Line::Message(line)) => refusal::undecided(&line, &why),
            (Err(why), Line::Long(id)) => Some(refusal::unread(id.as_deref(), &why)),
        };
        if let Some(instead) = instead {
            write(&mut *output.lock().await, instead.as_bytes()).await?;
        }
    }
    // Dropped, the server's input is closed.
    Ok(())
}

/// What the server sends, and where that goes.
pub(super) async fn receive<R: AsyncRead + Unpin, O: AsyncWrite + Unpin>(
    client: &Mutex<Client>,
    mut lines: Lines<R>,
    output: &Mutex<O>,
) -> Result<(), Stopped> {
    while let Some(line) = lines.next().await? {
        let Line::Message(line) = line else {
            return Err(Stopped::Long);
        };
        let came = client.lock().await.came(line.clone()).await;
        let told = match came {
            Ok(came) => vec![came.instead.map_or(line, Into::into)],
            Err(why) => refusal::unpassed(&line, &why)
                .into_iter()
                .map(Into::into)
                .collect(),
        };
        let mut output = output.lock().await;
        for line in told {
            write(&mut *output, &line).await?;
        }
    }
    Ok(())
}

/// A message on its line.
async fn write(to: &mut (impl AsyncWrite + Unpin), line: &[u8]) -> io::Result<()> {
    to.write_all(line).await?;
    to.write_all(b"\n").await?;
    to.flush().await
}
