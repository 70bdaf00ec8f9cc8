//! Whom our own clients connect to, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
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
}

/// The same, once files are read and the name is known.
#[derive(Clone)]
pub(super) struct Reach {
    connector: TlsConnector,
    name: ServerName<'static>,
    to: SocketAddr,
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
        let to = match self.to {
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
        })
    }
}

impl Reach {
    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.to).await;
        let stream = stream.with_context(|| format!("cannot connect to {}", self.to))?;
        stream.set_nodelay(true)?;
        Ok(self.connector.connect(self.name.clone(), stream).await?)
    }
}
