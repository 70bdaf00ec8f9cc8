//! Certificates for the names that are inspected, and what TLS with an agent is made of.
//!
//! The keeper signs; here is one P-256 key of this process, never the authority's, and a cache of
//! what was signed for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentguard_model::{AgentId, HostName, Reason, ReasonCode};
use quick_cache::sync::Cache;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Port;
use crate::alpn::Alpn;

/// Names whose certificates are kept. Beyond it those that were used least are signed anew.
const CACHED: usize = 4096;

/// A certificate is renewed this long before it ends, so that none ends under a client that has
/// just begun.
const EARLY: Duration = Duration::from_secs(6 * 3600);

/// Whom a certificate is for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    /// A name.
    Name(HostName),
    /// A bare address.
    Ip(IpAddr),
}

/// A certificate that the keeper signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// In DER.
    pub certificate: Vec<u8>,
    /// When it ends.
    pub not_after: SystemTime,
}

/// What the guard shows to agents in place of a server.
pub(crate) struct Leaves {
    provider: Arc<CryptoProvider>,
    key: PrivateKeyDer<'static>,
    public_key: Vec<u8>,
    cache: Cache<Subject, Arc<Signed>>,
}

/// A name's configurations, one for each protocol that may be agreed upon.
struct Signed {
    renew: SystemTime,
    configs: [(Alpn, Arc<ServerConfig>); 3],
}

impl Leaves {
    /// Makes the key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn new() -> Result<Self, String> {
        let pair = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
        Ok(Self {
            provider: Arc::new(aws_lc_rs::default_provider()),
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()).into(),
            public_key: rcgen::PublicKeyData::subject_public_key_info(&pair),
            cache: Cache::new(CACHED),
        })
    }

    /// What to speak TLS with, as `subject`. Signed once, however many ask at the same time.
    ///
    /// # Errors
    /// Why the keeper does not sign.
    pub(crate) async fn config<P: Port>(
        &self,
        port: &P,
        agent: AgentId,
        subject: &Subject,
        alpn: Alpn,
    ) -> Result<Arc<ServerConfig>, Reason> {
        self.cache
            .remove_if(subject, |signed| signed.renew <= SystemTime::now());
        let signing = async {
            let leaf = port.sign(agent, subject, &self.public_key).await?;
            self.signed(leaf).map(Arc::new).map_err(|error| {
                Reason::new(
                    ReasonCode::Internal,
                    format!("the signed certificate cannot be used: {error}"),
                )
            })
        };
        let signed = self.cache.get_or_insert_async(subject, signing).await?;
        let config = signed.configs.iter().find(|(own, _)| *own == alpn);
        config
            .map(|(_, config)| Arc::clone(config))
            .ok_or_else(|| Reason::new(ReasonCode::Internal, "a protocol has no configuration"))
    }

    fn signed(&self, leaf: Leaf) -> Result<Signed, rustls::Error> {
        let chain = vec![CertificateDer::from(leaf.certificate)];
        let mut base = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, self.key.clone_key())?;
        // Keys of its own: a session that was agreed on as one name is none for another, and none
        // goes on once the certificate that was shown in it has been renewed.
        base.ticketer = aws_lc_rs::Ticketer::new()?;
        let config = |alpn: Alpn| {
            let mut config = base.clone();
            config.alpn_protocols = alpn.protocols();
            (alpn, Arc::new(config))
        };
        let configs = [Alpn::H2, Alpn::Http1, Alpn::None].map(config);
        let renew = leaf.not_after.checked_sub(EARLY);
        Ok(Signed {
            renew: renew.unwrap_or(SystemTime::UNIX_EPOCH),
            configs,
        })
    }
}
