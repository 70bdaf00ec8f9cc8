//! One certificate authority: a certificate that signs itself, and its key.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};
use serde::{Deserialize, Serialize};

use super::leaf::{LeafKey, SignError};
use crate::message::{LeafSubject, SignedLeaf};

/// How long an authority is valid: ten years, leap days aside.
const LIFE: u64 = 10 * 365 * 24 * 3600;

/// How long before its making a certificate is valid already, for clients whose clock is slow.
pub(super) const BACKDATED: u64 = 3600;

/// Characters of the host's name in the authority's, at most: a common name has 64 (RFC 5280,
/// appendix A.1, `ub-common-name`).
const HOST: usize = 32;

/// The last second that a certificate can name: the end of the year 9999.
const LAST: u64 = 253_402_300_799;

/// What is wrong with a stored authority.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// The file is not of the form that was written.
    #[error("it is not what was written there")]
    Form(#[from] serde_json::Error),
    /// It holds no authority, or they are out of order.
    #[error("it holds no authorities, or they are out of order")]
    Order,
    /// A private key cannot be read.
    #[error("the key of {subject} is not a P-256 key")]
    Key {
        /// The authority's common name.
        subject: String,
        /// What the key's parser says.
        #[source]
        source: rcgen::Error,
    },
    /// A certificate cannot be read.
    #[error("the certificate of {subject} is not one")]
    Certificate {
        /// The authority's common name.
        subject: String,
        /// What the parser says.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key are not of one pair.
    #[error("certificate and key of {subject} do not belong together")]
    Mismatch {
        /// The authority's common name.
        subject: String,
    },
}

/// An authority.
pub(super) struct Authority {
    stored: Stored,
    fingerprint: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The same as it lies on disk. Name and validity stand beside the certificate, which says the same:
/// nothing in the keeper parses X.509.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    subject: String,
    not_before: u64,
    not_after: u64,
    /// PEM.
    certificate: String,
    /// PKCS #8 in PEM.
    key: String,
}

impl Authority {
    /// Makes one with a new key. Its name has the host's, and a suffix that no other has: a client
    /// that trusts two of our authorities finds the right one by name.
    pub(super) fn make(host: &str, now: u64) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let serial = serial()?;
        let host: String = host
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c))
            .take(HOST)
            .collect();
        let suffix = hex(&serial).chars().take(8).collect::<String>();
        let subject = format!("AgentGuard CA {host} {suffix}");
        let (not_before, not_after) = (now.saturating_sub(BACKDATED), now.saturating_add(LIFE));
        let mut params = params(&subject);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        validity(&mut params, not_before, not_after);
        let certificate = params.self_signed(&key)?;
        let stored = Stored {
            subject,
            not_before,
            not_after,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        Ok(Self {
            stored,
            fingerprint: hex(digest(&SHA256, certificate.der()).as_ref()),
            issuer: Issuer::new(params, key),
        })
    }

    /// Takes one from disk.
    pub(super) fn restore(stored: Stored) -> Result<Self, Flaw> {
        let subject = || stored.subject.clone();
        let key = KeyPair::from_pem_and_sign_algo(&stored.key, &PKCS_ECDSA_P256_SHA256).map_err(
            |source| Flaw::Key {
                subject: subject(),
                source,
            },
        )?;
        let certificate =
            CertificateDer::from_pem_slice(stored.certificate.as_bytes()).map_err(|source| {
                Flaw::Certificate {
                    subject: subject(),
                    source,
                }
            })?;
        // A certificate holds its name and its public key as these bytes, and this one was written by
        // us: that tells one that belongs to another key.
        let holds = |part: &[u8]| certificate.windows(part.len()).any(|window| window == part);
        if stored.subject.is_empty()
            || !holds(stored.subject.as_bytes())
            || !holds(&key.subject_public_key_info())
        {
            return Err(Flaw::Mismatch { subject: subject() });
        }
        Ok(Self {
            fingerprint: hex(digest(&SHA256, &certificate).as_ref()),
            issuer: Issuer::new(params(&stored.subject), key),
            stored,
        })
    }

    /// Signs a leaf.
    pub(super) fn sign(
        &self,
        subject: &LeafSubject,
        key: &LeafKey,
        now: u64,
    ) -> Result<SignedLeaf, SignError> {
        if !(self.not_before()..self.not_after()).contains(&now) {
            return Err(SignError::Clock {
                subject: self.subject().to_owned(),
            });
        }
        super::leaf::sign(subject, key, self, now)
    }

    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Its common name.
    pub(super) fn subject(&self) -> &str {
        &self.stored.subject
    }

    pub(super) fn not_before(&self) -> u64 {
        self.stored.not_before
    }

    pub(super) fn not_after(&self) -> u64 {
        self.stored.not_after
    }

    /// The certificate.
    pub(super) fn pem(&self) -> &str {
        &self.stored.certificate
    }

    /// SHA-256 of the certificate in DER, in hexadecimal digits.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

/// What a certificate of this authority and its leaves have in common: the name, and what the key is
/// for.
fn params(subject: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Sets when a certificate is valid.
pub(super) fn validity(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let time =
        |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.min(LAST));
    params.not_before = time(not_before);
    params.not_after = time(not_after);
}

/// A random serial number that is positive and 16 bytes long.
pub(super) fn serial() -> Result<[u8; 16], rcgen::Error> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    let [first, ..] = &mut serial;
    *first = *first & 0x3f | 0x40;
    Ok(serial)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
