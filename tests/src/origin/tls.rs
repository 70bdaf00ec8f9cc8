//! TLS at an origin.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};
use tokio_rustls::TlsAcceptor;

use super::Site;
use crate::ca::Ca;

/// What client and origin agreed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// `TLSv1_2` or `TLSv1_3`.
    pub version: String,
    /// The name that the client asked for.
    pub sni: Option<String>,
    /// The protocol inside.
    pub alpn: Option<String>,
}

impl Tls {
    pub(super) fn of(connection: &ServerConnection) -> Self {
        Self {
            version: connection
                .protocol_version()
                .map(|version| format!("{version:?}"))
                .unwrap_or_default(),
            sni: connection.server_name().map(str::to_owned),
            alpn: connection
                .alpn_protocol()
                .map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
        }
    }
}

pub(super) type Acceptor = DebugAcceptor;

/// A [`TlsAcceptor`] that can be printed.
#[derive(Clone)]
pub(super) struct DebugAcceptor(TlsAcceptor);

impl std::fmt::Debug for DebugAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl std::ops::Deref for DebugAcceptor {
    type Target = TlsAcceptor;

    fn deref(&self) -> &TlsAcceptor {
        &self.0
    }
}

/// Certificates by SNI; without one that we know, the first site's.
#[derive(Debug)]
struct Certificates {
    first: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let known = hello.server_name().and_then(|name| self.by_name.get(name));
        Some(Arc::clone(known.unwrap_or(&self.first)))
    }
}

pub(super) fn acceptor(sites: &[Site], addresses: &[IpAddr], ca: &Ca) -> Result<Acceptor> {
    let mut by_name = HashMap::new();
    for site in sites {
        let names = [site.name.clone()];
        let key = if site.expired {
            ca.certify_expired(&names)?
        } else {
            ca.certify(&names)?
        };
        by_name.insert(site.name.clone(), key);
    }
    let first = match sites.first().and_then(|site| by_name.get(&site.name)) {
        Some(key) => Arc::clone(key),
        None => ca.certify(&addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>())?,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
        .context("no TLS versions")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates { first, by_name }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(DebugAcceptor(TlsAcceptor::from(Arc::new(config))))
}
