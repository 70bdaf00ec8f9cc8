//! Going out through an HTTP proxy, where a host reaches the outside only through one.
//!
//! The proxy is asked for a tunnel (CONNECT: RFC 9110, 9.3.6) to the name that was decided, with its
//! port, and goes there by its own look-up. What runs inside is what would have run on a connection
//! of the guard's own: TLS is verified for the name as ever. As with an address of the
//! configuration, the operator vouches for where it leads.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use agentguard_model::{ProxyHost, Reason, ReasonCode, UpstreamProxy};
use agentguard_protocol::proxy_answer::{AnswerMalformed, MAX_ANSWER, read_answer};
use agentguard_protocol::tunnel::{Destination, Progress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Limits;
use crate::dial::dial;
use crate::health::Health;

/// How long the addresses of a proxy's name are taken for its own. The host's resolver, which is
/// asked, does not say how long they hold.
const LOOKED_UP_FOR: Duration = Duration::from_secs(30);
/// The most of an answer that is looked at in one piece.
const PIECE: usize = 2048;

/// A proxy, and where it was found.
pub(crate) struct Via {
    proxy: UpstreamProxy,
    /// Held while its name is looked up, so that this happens once.
    found: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("its name cannot be resolved by this host: {0}")]
    Unknown(io::Error),
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it broke off: {0}")]
    Broken(#[from] io::Error),
    #[error("{0}; is it an HTTP proxy, and not behind TLS?")]
    Malformed(#[from] AnswerMalformed),
    #[error("it wants credentials (407): name a file with them as `proxy_credentials`")]
    WantsCredentials,
    #[error("it does not take the credentials in `proxy_credentials` (407)")]
    WrongCredentials,
    #[error("it refuses to go there (403): whoever runs it has to allow that")]
    Forbidden,
    #[error("it cannot go there ({0})")]
    CannotGo(u16),
    #[error("it answered {0} to CONNECT")]
    Refused(u16),
}

impl Via {
    pub(crate) fn new(proxy: UpstreamProxy) -> Self {
        Self {
            proxy,
            found: Mutex::new(None),
        }
    }

    /// Opens a tunnel: what is read from it comes from behind the proxy. Takes as long as it takes.
    ///
    /// # Errors
    /// Why there is none: which proxy, what it said, what to do.
    pub(crate) async fn open(
        &self,
        to: &Destination,
        limits: &Limits,
        health: &Health,
    ) -> Result<TcpStream, Reason> {
        let opened = self.ask(to, limits, health).await;
        opened.map_err(|failed| {
            let Self { proxy, .. } = self;
            let message = format!("no tunnel to {to} through the proxy {proxy}: {failed}");
            Reason::new(ReasonCode::UpstreamUnreachable, message)
        })
    }

    /// As it is configured, for who waited for it in vain.
    pub(crate) fn name(&self) -> &UpstreamProxy {
        &self.proxy
    }

    async fn ask(
        &self,
        to: &Destination,
        limits: &Limits,
        health: &Health,
    ) -> Result<TcpStream, Failed> {
        let addresses = self.addresses().await.map_err(Failed::Unknown)?;
        let dialled = dial(&addresses, limits, health).await;
        let (mut stream, _) = dialled.map_err(Failed::Unreachable)?;
        stream.write_all(self.request(to).as_bytes()).await?;
        match answer(&mut stream).await? {
            200..=299 => Ok(stream),
            407 if self.proxy.credentials.is_none() => Err(Failed::WantsCredentials),
            407 => Err(Failed::WrongCredentials),
            403 => Err(Failed::Forbidden),
            status @ (502..=504) => Err(Failed::CannotGo(status)),
            status => Err(Failed::Refused(status)),
        }
    }

    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let port = self.proxy.port;
        let name = match &self.proxy.host {
            ProxyHost::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, port)]),
            ProxyHost::Name(name) => name,
        };
        let mut found = self.found.lock().await;
        if let Some((at, addresses)) = &*found
            && at.elapsed() < LOOKED_UP_FOR
        {
            return Ok(addresses.clone());
        }
        let addresses: Vec<SocketAddr> = lookup_host((name.as_str(), port)).await?.collect();
        *found = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }

    fn request(&self, to: &Destination) -> String {
        let credentials = match &self.proxy.credentials {
            Some(credentials) => format!("Proxy-Authorization: {}\r\n", credentials.0),
            None => String::new(),
        };
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{credentials}\r\n")
    }
}

/// The status of the proxy's answer. Nothing behind its head is taken off the stream.
async fn answer(stream: &mut TcpStream) -> Result<u16, Failed> {
    let mut head = Vec::new();
    let mut skipped = 0;
    let mut piece = [0; PIECE];
    loop {
        let before = head.len();
        let seen = stream.peek(&mut piece).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        head.extend(piece.iter().take(seen));
        let (status, used) = match read_answer(&head)? {
            Progress::Done(status, used) => (Some(status), used.saturating_sub(before)),
            Progress::NeedMore => (None, seen),
        };
        if let Some(taken) = piece.get_mut(..used) {
            stream.read_exact(taken).await?;
        }
        match status {
            // An interim answer (RFC 9110, 15.2): the one that counts comes behind it.
            Some(100..=199) => {
                skipped += before + used;
                if skipped > MAX_ANSWER {
                    return Err(AnswerMalformed::TooLong.into());
                }
                head.clear();
            }
            Some(status) => return Ok(status),
            None => {}
        }
    }
}
