//! Protocols that are not HTTP.

use std::io::Error;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::Shared;
use super::http::Abort;

/// What an origin serves on which port.
pub mod port {
    /// Echo, over TCP and UDP.
    pub const ECHO: u16 = 7;
    /// Reads to the client's end of data, then says how many bytes it was, and ends: for clients
    /// that close their half first.
    pub const COUNT: u16 = 9;
    /// Says one line, closes its own half at once, and reads on: for servers that close first.
    pub const FAREWELL: u16 = 13;
    /// Writes without end as fast as it can: for back-pressure.
    pub const FLOOD: u16 = 19;
    /// Speaks first, as SSH does ([`BANNER`](super::BANNER)), then echoes.
    pub const BANNER: u16 = 22;
    /// HTTP/1.1.
    pub const HTTP: u16 = 80;
    /// Reads one byte, then resets.
    pub const RESET: u16 = 101;
    /// Accepts, and then neither reads nor writes.
    pub const SILENCE: u16 = 102;
    /// HTTP/1.1 and HTTP/2 over TLS 1.2 and 1.3.
    pub const HTTPS: u16 = 443;
}

/// The first line of [`port::BANNER`].
pub const BANNER: &str = "SSH-2.0-AgentGuard_Origin\r\n";

#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    Echo,
    Count,
    Farewell,
    Flood,
    Banner,
    Reset,
    Silence,
}

pub(super) const BEHAVIOURS: [(u16, Behaviour); 7] = [
    (port::ECHO, Behaviour::Echo),
    (port::COUNT, Behaviour::Count),
    (port::FAREWELL, Behaviour::Farewell),
    (port::FLOOD, Behaviour::Flood),
    (port::BANNER, Behaviour::Banner),
    (port::RESET, Behaviour::Reset),
    (port::SILENCE, Behaviour::Silence),
];

pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    behaviour: Behaviour,
    abort: &Abort,
) -> Result<(), Error> {
    match behaviour {
        Behaviour::Echo => echo(&mut stream).await,
        Behaviour::Banner => {
            stream.write_all(BANNER.as_bytes()).await?;
            echo(&mut stream).await
        }
        Behaviour::Count => {
            let bytes = drain(&mut stream).await?;
            stream
                .write_all(format!("received {bytes} bytes\n").as_bytes())
                .await?;
            stream.shutdown().await
        }
        Behaviour::Farewell => {
            stream.write_all(b"farewell\n").await?;
            stream.shutdown().await?;
            drain(&mut stream).await.map(drop)
        }
        Behaviour::Flood => loop {
            stream.write_all(&[b'x'; 16 << 10]).await?;
        },
        Behaviour::Reset => {
            stream.read_u8().await?;
            abort.reset_on_close()
        }
        Behaviour::Silence => std::future::pending().await,
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<(), Error> {
    let mut buffer = [0; 16 << 10];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        let echoed = buffer.get(..length).unwrap_or_default();
        stream.write_all(echoed).await?;
    }
}

async fn drain<S: AsyncRead + Unpin>(stream: &mut S) -> Result<u64, Error> {
    tokio::io::copy(stream, &mut tokio::io::sink()).await
}

pub(super) async fn echo_datagrams(socket: UdpSocket, shared: Arc<Shared>) {
    let Ok(local) = socket.local_addr() else {
        return;
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        // An error is a client's closed port (ECONNREFUSED of an earlier answer).
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let entry = shared.log.connection(local, peer, true);
        entry.received(length);
        // Counted before it goes: the client may read the log as soon as it has the answer.
        entry.sent(length);
        let datagram = buffer.get(..length).unwrap_or_default();
        // A lost answer is what UDP promises.
        let _ = socket.send_to(datagram, peer).await;
    }
}
