//! TLS with upstreams: always verified.

use std::net::SocketAddr;
use std::sync::Arc;

use agentguard_decision::Recorder;
use agentguard_model::{HostName, Identity, Reason, ReasonCode, UpstreamEntry};
use agentguard_protocol::authority::Host;
use agentguard_protocol::tunnel::Destination;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::sync::SetOnce;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use webpki::BorrowedCertRevocationList;

use crate::Port;
use crate::alpn::Offer;
use crate::connection::Flow;
use crate::outward::Outward;
use crate::via::Via;

/// Sessions that are kept for resumption, for each set of roots. The oldest go first.
const SESSIONS: usize = 1024;

/// Whether a certificate in DER can be an authority.
///
/// # Errors
/// Why not.
pub fn check_authority(certificate: &[u8]) -> Result<(), String> {
    RootCertStore::empty()
        .add(CertificateDer::from(certificate))
        .map_err(|error| error.to_string())
}

/// Whether a certificate and a key in DER belong together and can be shown.
///
/// # Errors
/// Why not.
pub fn check_identity(identity: &Identity) -> Result<(), String> {
    config(RootCertStore::empty(), &[], Some(identity)).map(drop)
}

/// Whether a list of revoked certificates in DER can be used.
///
/// # Errors
/// Why not.
pub fn check_revocations(list: &[u8]) -> Result<(), String> {
    BorrowedCertRevocationList::from_der(list)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Whom upstreams have to be certified by.
pub(crate) struct UpstreamTls {
    entries: Vec<Entry>,
    /// Made of some hundred certificates, meanwhile: a connection that needs it waits for it.
    configs: SetOnce<Configs>,
}

/// How some upstreams are reached and verified.
struct Entry {
    said: UpstreamEntry,
    via: Option<Arc<Via>>,
}

/// What to speak TLS with.
struct Configs {
    system: ClientConfig,
    /// In the order of the entries.
    entries: Vec<ClientConfig>,
}

impl UpstreamTls {
    /// Without the certificates: see [`Self::trust`].
    pub(crate) fn new(entries: Vec<UpstreamEntry>) -> Self {
        let entries = entries.into_iter().map(|said| Entry {
            via: said.proxy.clone().map(|proxy| Arc::new(Via::new(proxy))),
            said,
        });
        Self {
            entries: entries.collect(),
            configs: SetOnce::new(),
        }
    }

    /// Reads certificates and keys, the first time. Connections wait for that.
    ///
    /// # Errors
    /// One cannot be used.
    pub(crate) fn trust(&self, system: &[CertificateDer<'static>]) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        // A system's store has certificates that cannot be used; the others are.
        let (_, unusable) = roots.add_parsable_certificates(system.iter().cloned());
        if unusable > 0 {
            tracing::debug!(unusable, "some of the system's authorities cannot be used");
        }
        let entries = self.entries.iter().map(|Entry { said, .. }| {
            let mut roots = roots.clone();
            for certificate in &said.certificates {
                roots
                    .add(CertificateDer::from(certificate.clone()))
                    .map_err(|error| error.to_string())?;
            }
            config(roots, &said.revocations, said.identity.as_ref())
        });
        let entries = entries.collect::<Result<_, _>>()?;
        let system = config(roots, &[], None)?;
        // What was read first stays.
        let _ = self.configs.set(Configs { system, entries });
        Ok(())
    }

    /// The entry for a name.
    fn find(&self, name: Option<&HostName>) -> Option<&Entry> {
        self.entries.get(self.index(name)?)
    }

    /// Which entry that is.
    fn index(&self, name: Option<&HostName>) -> Option<usize> {
        let name = name?;
        self.entries
            .iter()
            .position(|entry| entry.said.is_for(name))
    }

    /// Where a name is, if that is configured.
    pub(crate) fn address(&self, name: &HostName, port: u16) -> Option<SocketAddr> {
        self.find(Some(name))?.said.place(port)
    }

    /// Whether a name is reached through a proxy.
    pub(crate) fn is_behind_proxy(&self, name: &HostName) -> bool {
        self.find(Some(name))
            .is_some_and(|entry| entry.via.is_some())
    }

    /// Through which proxy a name is reached, and where that has to go, if it is configured.
    pub(crate) fn via(&self, name: &HostName, port: u16) -> Option<(Arc<Via>, Destination)> {
        let entry = self.find(Some(name))?;
        let via = Arc::clone(entry.via.as_ref()?);
        let to = match entry.said.place(port) {
            Some(place) => Destination {
                host: Host::Ip(place.ip()),
                port: place.port(),
            },
            None => Destination {
                host: Host::Name(name.clone()),
                port,
            },
        };
        Some((via, to))
    }

    /// Opens a verified connection to where the flow goes, and says which address that is, if it is
    /// known.
    ///
    /// # Errors
    /// It cannot be reached, or it is not who it should be.
    pub(crate) async fn connect<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        offer: Offer,
    ) -> Result<(TlsStream<Outward>, Option<SocketAddr>), Reason> {
        let index = self.index(flow.target.host.as_ref());
        let found = index.and_then(|index| self.entries.get(index));
        let name = match found.and_then(|entry| entry.said.server_name.as_ref()) {
            Some(name) => verified(name)?,
            None => server_name(flow)?,
        };
        let bound = flow.guard.limits.dial;
        let configs = timeout(bound, self.configs.wait()).await.map_err(|_| {
            internal("the guard has not read its authorities' certificates in time")
        })?;
        let (stream, peer) = flow.dial().await?;
        let entry = index.and_then(|index| configs.entries.get(index));
        let mut config = entry.unwrap_or(&configs.system).clone();
        config.alpn_protocols = offer.protocols();
        let connector = TlsConnector::from(Arc::new(config));
        match timeout(bound, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok((stream, peer)),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err(Reason::new(
                ReasonCode::UpstreamUnreachable,
                format!("the upstream cannot be reached: no TLS handshake in {bound:?}"),
            )),
        }
    }
}

/// `revocations`: what they say nothing of is taken for not revoked; none of them may be out of date.
fn config(
    roots: RootCertStore,
    revocations: &[Vec<u8>],
    identity: Option<&Identity>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if roots.is_empty() {
        // No authority: everything is refused, one connection after the other.
        builder.with_root_certificates(roots)
    } else {
        let revocations = revocations.iter().cloned();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(revocations.map(CertificateRevocationListDer::from))
            .allow_unknown_revocation_status()
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| error.to_string())?;
        builder.with_webpki_verifier(verifier)
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { chain, key }) => {
            let chain = chain.iter().map(|one| CertificateDer::from(one.clone()));
            let key = PrivateKeyDer::try_from(key.clone()).map_err(str::to_owned)?;
            builder
                .with_client_auth_cert(chain.collect(), key)
                .map_err(|error| error.to_string())?
        }
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}

/// Who the upstream has to be: the name behind the address, or the bare address.
fn server_name<R: Recorder, P: Port>(flow: &Flow<R, P>) -> Result<ServerName<'static>, Reason> {
    match (&flow.target.host, flow.target.ip) {
        (Some(name), _) => verified(name),
        (None, Some(ip)) => Ok(ServerName::IpAddress(ip.into())),
        (None, None) => Err(internal("the connection goes nowhere")),
    }
}

fn verified(name: &HostName) -> Result<ServerName<'static>, Reason> {
    ServerName::try_from(name.as_str().to_owned())
        .map_err(|_| internal("the name cannot be verified in a certificate"))
}

fn internal(what: &str) -> Reason {
    Reason::new(ReasonCode::Internal, what.to_owned())
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
                "the upstream's certificate cannot be verified: {why}; {}",
                fix(why)
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

/// What to do about a certificate that cannot be verified.
fn fix(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Revoked => {
            "its authority has revoked it (`crl` under `upstreams` in the configuration): the server \
             needs another one"
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "bring the file that `crl` names under `upstreams` in the configuration up to date, and \
             restart the daemon"
        }
        _ => "if it is an authority of your own, name it under `upstreams` in the configuration",
    }
}
