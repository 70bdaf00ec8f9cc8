//! TLS with upstreams: always verified.

use std::sync::Arc;

use agentguard_decision::Recorder;
use agentguard_model::{HostName, Reason, ReasonCode};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Port;
use crate::alpn::{Alpn, Offer};
use crate::connection::Flow;

/// Sessions that are kept for resumption, for each set of roots. The oldest go first.
const SESSIONS: usize = 1024;

/// Authorities beyond the system's for some names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtraRoots {
    /// The names, exact, or `true` for all names below.
    pub hosts: Vec<(HostName, bool)>,
    /// The authorities' certificates, in DER.
    pub certificates: Vec<Vec<u8>>,
}

impl ExtraRoots {
    /// Whether a certificate in DER can be an authority.
    ///
    /// # Errors
    /// Why not.
    pub fn check(certificate: &[u8]) -> Result<(), String> {
        RootCertStore::empty()
            .add(CertificateDer::from(certificate))
            .map_err(|error| error.to_string())
    }

    fn are_for(&self, name: &HostName) -> bool {
        self.hosts.iter().any(|(host, below)| {
            if *below {
                name.is_below(host)
            } else {
                name == host
            }
        })
    }
}

/// Whom upstreams have to be certified by.
pub(crate) struct UpstreamTls {
    system: ClientConfig,
    extra: Vec<(ExtraRoots, ClientConfig)>,
}

impl UpstreamTls {
    /// Reads the authorities.
    ///
    /// # Errors
    /// One is no certificate.
    pub(crate) fn new(
        system: &[CertificateDer<'static>],
        extra: Vec<ExtraRoots>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // A system's store has certificates that cannot be used; the others are.
        let (_, unusable) = roots.add_parsable_certificates(system.iter().cloned());
        if unusable > 0 {
            tracing::debug!(unusable, "some of the system's authorities cannot be used");
        }
        let extra = extra.into_iter().map(|extra| {
            let mut roots = roots.clone();
            for certificate in &extra.certificates {
                roots
                    .add(CertificateDer::from(certificate.clone()))
                    .map_err(|error| error.to_string())?;
            }
            let config = config(roots)?;
            Ok::<_, String>((extra, config))
        });
        Ok(Self {
            extra: extra.collect::<Result<_, _>>()?,
            system: config(roots)?,
        })
    }

    /// Opens a verified connection to where the flow goes.
    ///
    /// # Errors
    /// It cannot be reached, or it is not who it should be.
    pub(crate) async fn connect<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        offer: Offer,
    ) -> Result<(TlsStream<TcpStream>, Alpn), Reason> {
        let name = server_name(flow)?;
        let stream = flow.dial().await?;
        let extra = flow.target.host.as_ref().and_then(|host| {
            let mut extra = self.extra.iter();
            extra.find(|(extra, _)| extra.are_for(host))
        });
        let mut config = extra.map_or(&self.system, |(_, config)| config).clone();
        config.alpn_protocols = offer.protocols();
        let connector = TlsConnector::from(Arc::new(config));
        let bound = flow.guard.limits.dial;
        match timeout(bound, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                let alpn = Alpn::chosen(stream.get_ref().1.alpn_protocol());
                Ok((stream, alpn))
            }
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err(Reason::new(
                ReasonCode::UpstreamUnreachable,
                format!("the upstream cannot be reached: no TLS handshake in {bound:?}"),
            )),
        }
    }
}

fn config(roots: RootCertStore) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if roots.is_empty() {
        // No authority: everything is refused, one connection after the other.
        builder.with_root_certificates(roots)
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| error.to_string())?;
        builder.with_webpki_verifier(verifier)
    };
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}

/// Who the upstream has to be: the name behind the address, or the bare address.
fn server_name<R: Recorder, P: Port>(flow: &Flow<R, P>) -> Result<ServerName<'static>, Reason> {
    let internal = |what: &str| Reason::new(ReasonCode::Internal, what.to_owned());
    match (&flow.target.host, flow.target.ip) {
        (Some(name), _) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|_| internal("the name cannot be verified in a certificate")),
        (None, Some(ip)) => Ok(ServerName::IpAddress(ip.into())),
        (None, None) => Err(internal("the connection goes nowhere")),
    }
}

/// What went wrong, and what to do where the certificate is at fault.
fn explain(error: &std::io::Error) -> Reason {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => Reason::new(
            ReasonCode::UpstreamUntrusted,
            format!(
                "the upstream's certificate cannot be verified: {why}; if it is an authority of \
                 your own, name it under `upstreams` in the configuration"
            ),
        ),
        Some(why) => Reason::new(
            ReasonCode::UpstreamUnreachable,
            format!("the upstream's TLS handshake failed: {why}"),
        ),
        None => Reason::new(
            ReasonCode::UpstreamUnreachable,
            format!("the upstream broke off the TLS handshake: {error}"),
        ),
    }
}
