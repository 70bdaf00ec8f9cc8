//! Origin servers: what the agents want to reach.
//!
//! An [`Origin`] is one machine of the internet namespace: some addresses, and the sites that
//! answer on them, each with its own certificate. It speaks HTTP/1.1 on port 80, TLS 1.2 and 1.3
//! with HTTP/1.1 and HTTP/2 on port 443, and the raw protocols of [`port`]. How an HTTP resource
//! behaves is in its path, see [`http`]; the paths of LLM APIs are answered as their providers do. What arrived can be read back from the running [`Server`].

pub mod http;
mod llm;
mod log;
mod raw;
mod tls;

use std::io::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

pub use log::{Connection, Log, Request};
pub use raw::{BANNER, port};
pub use tls::Tls;

use crate::ca::Ca;
use crate::namespace::Runtime;

/// One machine of the internet.
#[derive(Clone, Debug)]
pub struct Origin {
    addresses: Vec<IpAddr>,
    sites: Vec<Site>,
    files: Option<PathBuf>,
    left: Vec<u16>,
}

#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) expired: bool,
}

impl Origin {
    /// A machine with these addresses.
    pub fn at(addresses: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            sites: Vec::new(),
            files: None,
            left: Vec::new(),
        }
    }

    /// Leaves a port to a server of the test's own.
    #[must_use]
    pub fn leave(mut self, port: u16) -> Self {
        self.left.push(port);
        self
    }

    /// A site on it: its name gets a certificate, and the machine's addresses in the DNS. The first
    /// one is what a client without SNI gets.
    #[must_use]
    pub fn site(mut self, name: &str) -> Self {
        self.sites.push(Site {
            name: name.to_owned(),
            expired: false,
        });
        self
    }

    /// A site whose certificate is out of date.
    #[must_use]
    pub fn expired_site(mut self, name: &str) -> Self {
        self.sites.push(Site {
            name: name.to_owned(),
            expired: true,
        });
        self
    }

    /// What is below `/files/`.
    #[must_use]
    pub fn files(mut self, directory: impl Into<PathBuf>) -> Self {
        self.files = Some(directory.into());
        self
    }

    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub(crate) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Starts it on addresses that the runtime's namespace has.
    ///
    /// # Errors
    /// A port is taken, or a name cannot be certified.
    pub(crate) fn start(self, runtime: &Runtime, ca: &Ca) -> Result<Server> {
        let shared = Arc::new(Shared {
            log: Log::default(),
            acceptor: tls::acceptor(&self.sites, &self.addresses, ca)?,
            files: self.files,
        });
        for &address in &self.addresses {
            for (port, service) in services().filter(|(port, _)| !self.left.contains(port)) {
                let bound = runtime.run(TcpListener::bind((address, port)))?;
                let listener = bound.with_context(|| format!("no server on {address}:{port}"))?;
                runtime.spawn(accept(listener, service, Arc::clone(&shared)));
            }
            let bound = runtime.run(UdpSocket::bind((address, port::ECHO)))?;
            let socket = bound.with_context(|| format!("no UDP server on {address}"))?;
            runtime.spawn(raw::echo_datagrams(socket, Arc::clone(&shared)));
        }
        Ok(Server {
            addresses: self.addresses,
            sites: self.sites.into_iter().map(|site| site.name).collect(),
            shared,
        })
    }
}

/// What the tasks of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    log: Log,
    acceptor: tls::Acceptor,
    files: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
enum Service {
    Http,
    Https,
    Raw(raw::Behaviour),
}

fn services() -> impl Iterator<Item = (u16, Service)> {
    [(port::HTTP, Service::Http), (port::HTTPS, Service::Https)]
        .into_iter()
        .chain(raw::BEHAVIOURS.map(|(port, behaviour)| (port, Service::Raw(behaviour))))
}

async fn accept(listener: TcpListener, service: Service, shared: Arc<Shared>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        // How a connection ends is in the log; the client has its own opinion of it.
        tokio::spawn(async move { drop(serve(stream, peer, service, &shared).await) });
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    service: Service,
    shared: &Arc<Shared>,
) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let entry = shared.log.connection(local, peer, false);
    let abort = http::Abort::of(&stream)?;
    let h2 = matches!(service, Service::Http) && http::begins_http2(&stream).await?;
    let stream = log::Counted::new(stream, entry);
    match service {
        Service::Http => {
            let who = http::Client::plain(local, peer);
            http::serve(stream, h2, who, abort, Arc::clone(shared)).await
        }
        Service::Https => {
            let stream = shared.acceptor.accept(stream).await?;
            let tls = Tls::of(stream.get_ref().1);
            let h2 = tls.alpn.as_deref() == Some("h2");
            let who = http::Client::secure(local, peer, tls);
            http::serve(stream, h2, who, abort, Arc::clone(shared)).await
        }
        Service::Raw(behaviour) => raw::serve(stream, behaviour, &abort).await,
    }
}

/// A running origin. It ends with the runtime it was started on.
#[derive(Clone, Debug)]
pub struct Server {
    addresses: Vec<IpAddr>,
    sites: Vec<String>,
    shared: Arc<Shared>,
}

impl Server {
    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The names of its sites.
    pub fn sites(&self) -> &[String] {
        &self.sites
    }

    /// What arrived.
    pub fn log(&self) -> &Log {
        &self.shared.log
    }
}
