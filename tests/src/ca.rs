//! The certificate authority that the world's origins are certified by.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority. Its key is made for each world and is never written by it.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    /// # Errors
    /// The key cannot be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "AgentGuard test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("cannot make a key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("cannot sign the CA")?;
        Ok(Self { issuer })
    }

    /// Its certificate, for a client's trust store.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its key in PEM, for a program that makes certificates of its own by it.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for a server that is known by these names or addresses.
    ///
    /// # Errors
    /// A name cannot stand in a certificate.
    pub fn certify(&self, names: &[String]) -> Result<Arc<CertifiedKey>> {
        self.sign(&server(names)?)
    }

    /// As [`Ca::certify`], in PEM, for a server that is a program of its own: its certificate and its
    /// key.
    ///
    /// # Errors
    /// As [`Ca::certify`].
    pub fn certify_pem(&self, names: &[String]) -> Result<(String, String)> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = server(names)?
            .signed_by(&key, &self.issuer)
            .context("cannot sign a certificate")?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// A certificate whose time is over.
    ///
    /// # Errors
    /// As [`Ca::certify`].
    pub fn certify_expired(&self, names: &[String]) -> Result<Arc<CertifiedKey>> {
        let mut params = CertificateParams::new(names)
            .with_context(|| format!("cannot certify {}", names.join(", ")))?;
        params.use_authority_key_identifier_extension = true;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Arc<CertifiedKey>> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("cannot sign a certificate")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = aws_lc_rs::sign::any_ecdsa_type(&key).context("cannot load a key")?;
        let chain = vec![certificate.der().clone()];
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }
}

fn server(names: &[String]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)
        .with_context(|| format!("cannot certify {}", names.join(", ")))?;
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}
