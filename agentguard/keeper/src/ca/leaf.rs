//! What is signed: a certificate for one name or one address.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};

use super::authority::{Authority, BACKDATED, serial, validity};
use crate::message::{LeafSubject, SignedLeaf};

/// How long a leaf lives, in seconds.
pub(super) const LIFE: u64 = 24 * 3600;

/// Characters of a common name, at most (RFC 5280, appendix A.1, `ub-common-name`).
const COMMON_NAME: usize = 64;

/// `SubjectPublicKeyInfo` of a P-256 key (RFC 5480, section 2), up to the point itself. DER has one
/// form for it, so nothing needs to be parsed.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a leaf was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The worker asks for more than clients could need.
    #[error("more leaves are asked for than are signed in this time")]
    TooFast,
    /// The policy does not have it inspected.
    #[error("the policy does not inspect {0}")]
    NotInspected(LeafSubject),
    /// The public key is none that leaves are signed for.
    #[error("the public key is not a P-256 key in DER")]
    Key,
    /// The authority is not valid now.
    #[error("{subject} is not valid at this time; is the clock right?")]
    Clock {
        /// The authority's common name.
        subject: String,
    },
    /// The certificate could not be made.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A public key that a leaf may be for.
pub(super) struct LeafKey {
    /// The uncompressed point.
    point: [u8; 65],
}

impl LeafKey {
    /// Takes a `SubjectPublicKeyInfo` in DER.
    ///
    /// # Errors
    /// [`SignError::Key`]: another kind of key, another encoding, a point that is not on the curve.
    pub(super) fn read(info: &[u8]) -> Result<Self, SignError> {
        let point = info.strip_prefix(&P256).ok_or(SignError::Key)?;
        let point = point.try_into().map_err(|_| SignError::Key)?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).map_err(|_| SignError::Key)?;
        Ok(Self { point })
    }
}

impl PublicKeyData for LeafKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Signs with an authority that is valid now.
pub(super) fn sign(
    subject: &LeafSubject,
    key: &LeafKey,
    authority: &Authority,
    now: u64,
) -> Result<SignedLeaf, SignError> {
    let not_before = now.saturating_sub(BACKDATED).max(authority.not_before());
    let not_after = now.saturating_add(LIFE).min(authority.not_after());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let common_name = subject.to_string();
    // For people and for clients that show it; where it is missing the alternative name is critical.
    if common_name.len() <= COMMON_NAME {
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
    }
    params.subject_alt_names = vec![match subject {
        LeafSubject::Name(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
        LeafSubject::Ip(address) => SanType::IpAddress(*address),
    }];
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    // Said outright, which also adds the subject's key identifier.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, not_before, not_after);
    let certificate = params.signed_by(key, authority.issuer())?;
    Ok(SignedLeaf {
        certificate: certificate.der().to_vec(),
        not_after,
    })
}
