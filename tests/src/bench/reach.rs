//! Whom our own clients connect to, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where a client goes.
#[derive(Clone, Debug, Args)]
pub(super) struct To {
    /// The site
    pub(super) site: String,
    /// Whom it trusts; what the variable `SSL_CERT_FILE` names if absent
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Where it connects to; where the site's name leads if absent
    #[arg(long)]
    to: Option<SocketAddr>,
    /// A proxy that is asked with CONNECT, in the place of that
    #[arg(long, conflicts_with = "to")]
    proxy: Option<SocketAddr>,
}

/// The same, once files are read and the name is known.
#[derive(Clone)]
pub(super) struct Reach {
    connector: TlsConnector,
    name: ServerName<'static>,
    to: SocketAddr,
    /// What is said to a proxy first.
    connect: Option<String>,
}

impl To {
    pub(super) async fn reach(&self) -> Result<Reach> {
        let mut roots = RootCertStore::empty();
        let named = || std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let ca = self.ca.clone().or_else(named);
        let ca = ca.context("nobody says whom to trust")?;
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let to = match self.to.or(self.proxy) {
            Some(to) => to,
            None => {
                let mut found = lookup_host((self.site.as_str(), 443)).await?;
                found.find(SocketAddr::is_ipv4).context("no address")?
            }
        };
        Ok(Reach {
            connector: TlsConnector::from(Arc::new(config)),
            name: ServerName::try_from(self.site.clone())?,
            to,
            connect: self.proxy.map(|_| {
                let site = &self.site;
                format!("CONNECT {site}:443 HTTP/1.1\r\nHost: {site}:443\r\n\r\n")
            }),
        })
    }
}

impl Reach {
    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.to).await;
        let mut stream = stream.with_context(|| format!("cannot connect to {}", self.to))?;
        stream.set_nodelay(true)?;
        if let Some(connect) = &self.connect {
            stream.write_all(connect.as_bytes()).await?;
            opened(&mut stream).await?;
        }
        Ok(self.connector.connect(self.name.clone(), stream).await?)
    }
}

/// Reads what a proxy says to CONNECT, behind which it says nothing before the client does.
async fn opened(stream: &mut TcpStream) -> Result<()> {
    let mut said = Vec::with_capacity(512);
    while !said.ends_with(b"\r\n\r\n") {
        let read = stream.read_buf(&mut said).await?;
        ensure!(read > 0, "the proxy hung up");
    }
    let said = String::from_utf8_lossy(&said);
    let mut words = said.split_whitespace();
    ensure!(words.nth(1) == Some("200"), "the proxy refused: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a client makes of what a proxy says, in pieces.
    async fn answered(pieces: &[&str]) -> Result<()> {
        let proxy = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(proxy.local_addr()?).await?;
        let (mut accepted, _) = proxy.accept().await?;
        for piece in pieces {
            accepted.write_all(piece.as_bytes()).await?;
        }
        drop(accepted);
        opened(&mut client).await
    }

    #[tokio::test]
    async fn a_proxy_has_opened_a_connection_where_it_says_200_to_the_end() {
        let heads = ["HTTP/1.1 200 Connection established\r\n", "Via: x\r\n\r\n"];
        assert!(answered(&heads).await.is_ok());
        let error = answered(&heads[..1]).await.unwrap_err();
        assert_eq!(error.to_string(), "the proxy hung up");
        let refused = answered(&["HTTP/1.1 503 200\r\n\r\n"]).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("the proxy refused: "), "{refused}");
    }
}
