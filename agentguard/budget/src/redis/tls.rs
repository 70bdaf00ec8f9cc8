//! With whom TLS is spoken.

use std::sync::Arc;

use agentguard_model::ledger::SharedLedger;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

/// For a Redis that is certified by one of `system` or of its own authorities.
///
/// # Errors
/// A certificate cannot be an authority.
pub fn tls(
    ledger: &SharedLedger,
    system: &[CertificateDer<'static>],
) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    // A system's store has certificates that cannot be used; the others are.
    roots.add_parsable_certificates(system.iter().cloned());
    for certificate in &ledger.certificates {
        let added = roots.add(CertificateDer::from(certificate.clone()));
        added.map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
