//! A certificate authority of a test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use agentguard_model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType,
    SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig};

use crate::{Leaf, Subject};

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    signed: AtomicUsize,
}

/// A key as it stands behind the 26 bytes that say which kind it is (RFC 5480, 2).
struct P256(Vec<u8>);

impl PublicKeyData for P256 {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            signed: AtomicUsize::new(0),
        }
    }

    pub(super) fn certificate(&self) -> Vec<u8> {
        self.certificate.clone()
    }

    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.certificate())).unwrap();
        roots
    }

    /// How many it has signed.
    pub(super) fn signed(&self) -> usize {
        self.signed.load(Ordering::Relaxed)
    }

    pub(super) fn sign(&self, subject: &Subject, public_key: &[u8]) -> Leaf {
        self.signed.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match subject {
            Subject::Name(name) => SanType::DnsName(name.as_str().try_into().unwrap()),
            Subject::Ip(ip) => SanType::IpAddress(*ip),
        }];
        let key = P256(public_key[26..].to_vec());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            certificate: certificate.der().to_vec(),
            not_after: SystemTime::now() + Duration::from_secs(24 * 3600),
        }
    }

    /// A certificate for a name, and its key, in DER.
    pub(super) fn identity(&self, name: &str) -> Identity {
        self.identity_of(name, CertificateParams::default())
    }

    fn identity_of(&self, name: &str, mut params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![certificate.der().to_vec()],
            key: key.serialize_der(),
        }
    }

    /// A server for a name.
    pub(super) fn server(&self, name: &str, protocols: &[&str]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder().with_no_client_auth();
        serve(self.identity(name), protocols, builder)
    }

    /// A server whose certificate is valid between the beginnings of two years.
    pub(super) fn server_between(&self, name: &str, from: i32, to: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let builder = ServerConfig::builder().with_no_client_auth();
        serve(self.identity_of(name, params), &["http/1.1"], builder)
    }

    /// A server whose certificate has this serial number.
    pub(super) fn server_numbered(&self, name: &str, serial: u64) -> Arc<ServerConfig> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial.into());
        let builder = ServerConfig::builder().with_no_client_auth();
        serve(self.identity_of(name, params), &["http/1.1"], builder)
    }

    /// What it has revoked, valid until the beginning of a year.
    pub(super) fn revocations(&self, serials: &[u64], until: i32) -> Vec<u8> {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(until, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// A server that knows its clients: those with a certificate of this authority's.
    pub(super) fn strict_server(&self, name: &str, protocols: &[&str]) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder(Arc::new(self.roots()));
        let verifier = verifier.build().unwrap();
        let builder = ServerConfig::builder().with_client_cert_verifier(verifier);
        serve(self.identity(name), protocols, builder)
    }
}

fn serve(
    Identity { chain, key }: Identity,
    protocols: &[&str],
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
) -> Arc<ServerConfig> {
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivatePkcs8KeyDer::from(key);
    let mut config = builder.with_single_cert(chain, key.into()).unwrap();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}
