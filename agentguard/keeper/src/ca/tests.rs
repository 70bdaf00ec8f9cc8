//! The authority as the keeper uses it, and its leaves as a client sees them.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{KeyPair, PublicKeyData as _};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, Error, RootCertStore};

use super::{Ca, CaError, OVERLAP, SignError};
use crate::message::{AuthorityState, LeafSubject, SignedLeaf};

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3600;

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ca")
    }

    fn file(&self) -> PathBuf {
        self.path().join("authorities.json")
    }

    fn open(&self, now: u64) -> Result<Ca, CaError> {
        Ca::open(&self.path(), "host.example", now)
    }

    /// The message and the hint of a refusal to open.
    fn refusal(&self, now: u64) -> (String, String) {
        let error = self.open(now).err().unwrap();
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        (message, error.hint())
    }
}

fn public_key() -> Vec<u8> {
    KeyPair::generate().unwrap().subject_public_key_info()
}

fn name(text: &str) -> LeafSubject {
    LeafSubject::Name(text.parse().unwrap())
}

fn ip(text: &str) -> LeafSubject {
    LeafSubject::Ip(text.parse().unwrap())
}

/// Verifies as a client does that trusts what is exported.
fn verify(bundle: &str, leaf: &SignedLeaf, server: &str, now: u64) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
        .build()
        .unwrap();
    verifier
        .verify_server_cert(
            &CertificateDer::from(leaf.certificate.as_slice()),
            &[],
            &ServerName::try_from(server.to_owned()).unwrap(),
            &[],
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
        )
        .map(drop)
}

#[test]
fn a_leaf_is_taken_for_its_own_name_or_address_and_for_a_day() {
    let bench = Bench::new();
    let ca = bench.open(NOW).unwrap();
    let bundle = ca.bundle(NOW);
    let long = format!("{0}.{0}.example", "a".repeat(60));
    for (subject, server, other) in [
        (name("api.example"), "api.example", "www.example"),
        (name("_x.api.example"), "_x.api.example", "api.example"),
        (name(&long), long.as_str(), "a.example"),
        (ip("192.0.2.1"), "192.0.2.1", "192.0.2.2"),
        (ip("2001:db8::1"), "2001:db8::1", "2001:db8::2"),
        (ip("192.0.2.1"), "192.0.2.1", "api.example"),
    ] {
        let leaf = ca.sign(&subject, &public_key(), NOW, || true).unwrap();
        assert_eq!(leaf.not_after, NOW + 24 * HOUR);
        for now in [NOW - HOUR, NOW, leaf.not_after] {
            assert_eq!(verify(&bundle, &leaf, server, now), Ok(()), "{subject}");
        }
        for now in [NOW - HOUR - 1, leaf.not_after + 1] {
            assert!(verify(&bundle, &leaf, server, now).is_err(), "{subject}");
        }
        assert!(matches!(
            verify(&bundle, &leaf, other, NOW),
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForNameContext { .. }
            ))
        ));
    }
}

#[test]
fn a_leaf_says_what_it_is_for() {
    let bench = Bench::new();
    let ca = bench.open(NOW).unwrap();
    let key = public_key();
    let sign = || {
        ca.sign(&ip("192.0.2.1"), &key, NOW, || true)
            .unwrap()
            .certificate
    };
    let has = |der: &[u8], part: &[u8]| der.windows(part.len()).any(|window| window == part);
    let leaf = sign();
    assert!(has(&leaf, &key));
    for (what, part) in [
        (
            "an address, and no name",
            &[0x30, 6, 0x87, 4, 192, 0, 2, 1][..],
        ),
        (
            "server authentication alone",
            &[0x04, 0x0c, 0x30, 0x0a, 0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1],
        ),
        (
            "digital signatures alone",
            &[0x55, 0x1d, 0x0f, 1, 1, 0xff, 4, 4, 3, 2, 7, 0x80],
        ),
        (
            "no authority",
            &[0x55, 0x1d, 0x13, 1, 1, 0xff, 4, 2, 0x30, 0],
        ),
        ("a serial number of 16 bytes", &[0xa0, 3, 2, 1, 2, 2, 16]),
    ] {
        assert!(has(&leaf, part), "{what}");
    }
    // Key identifiers: the subject's, and the authority's, which is its own subject's.
    let authority = CertificateDer::from_pem_slice(ca.bundle(NOW).as_bytes()).unwrap();
    let subject_id = [0x55, 0x1d, 0x0e];
    let at = authority
        .windows(3)
        .position(|part| part == subject_id)
        .unwrap();
    let id = &authority[at + 7..at + 27];
    assert!(has(
        &leaf,
        &[&[0x55, 0x1d, 0x23, 4, 24, 0x30, 22, 0x80, 20], id].concat()
    ));
    assert!(has(&leaf, &subject_id));
    // The authority: path length 0, certificates and revocation lists.
    assert!(has(
        &authority,
        &[
            0x55, 0x1d, 0x13, 1, 1, 0xff, 4, 8, 0x30, 6, 1, 1, 0xff, 2, 1, 0
        ]
    ));
    assert!(has(
        &authority,
        &[0x55, 0x1d, 0x0f, 1, 1, 0xff, 4, 4, 3, 2, 1, 6]
    ));
    assert_ne!(sign(), sign(), "the serial numbers are random");
}

#[test]
fn only_p256_keys_are_signed_for() {
    let bench = Bench::new();
    let ca = bench.open(NOW).unwrap();
    let good = public_key();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut off_curve = good.clone();
    off_curve[90] ^= 1;
    let mut compressed = good[..59].to_vec();
    (compressed[1], compressed[24], compressed[26]) = (0x39, 0x22, 2);
    for key in [
        Vec::new(),
        vec![0; 91],
        good[..90].to_vec(),
        [&good[..], &[0]].concat(),
        p384.subject_public_key_info(),
        ed25519.subject_public_key_info(),
        off_curve,
        compressed,
    ] {
        let refused = ca.sign(&name("api.example"), &key, NOW, || true);
        assert!(matches!(refused, Err(SignError::Key)), "{key:x?}");
    }
    assert!(ca.sign(&name("api.example"), &good, NOW, || true).is_ok());
    let counts = ca.counts();
    assert_eq!((counts.signed, counts.refused), (1, 8));
}

#[test]
fn what_the_policy_does_not_inspect_is_not_signed() {
    let bench = Bench::new();
    let ca = bench.open(NOW).unwrap();
    let refused = ca.sign(&name("api.example"), &public_key(), NOW, || false);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the policy does not inspect api.example"
    );
    assert_eq!(ca.counts().refused, 1);
}

#[test]
fn more_than_a_burst_is_refused() {
    let bench = Bench::new();
    let ca = bench.open(NOW).unwrap();
    let key = public_key();
    let refused = (0..1000)
        .filter_map(|_| ca.sign(&name("api.example"), &key, NOW, || true).err())
        .collect::<Vec<_>>();
    assert!(refused.iter().all(|why| matches!(why, SignError::TooFast)));
    // What is gathered meanwhile on a slow machine may pass too.
    assert!((1..=800).contains(&refused.len()), "{}", refused.len());
}

#[test]
fn a_leaf_is_never_valid_when_its_authority_is_not() {
    let bench = Bench::new();
    let ca = bench.open(NOW).unwrap();
    let [authority] = &ca.list(NOW)[..] else {
        panic!("not one authority");
    };
    let key = public_key();
    let late = authority.not_after - 10;
    let leaf = ca.sign(&name("api.example"), &key, late, || true).unwrap();
    assert_eq!(leaf.not_after, authority.not_after);
    for now in [authority.not_before - 1, authority.not_after] {
        let refused = ca.sign(&name("api.example"), &key, now, || true);
        assert!(matches!(refused, Err(SignError::Clock { .. })));
    }
}

#[test]
fn what_was_made_is_found_again() {
    let bench = Bench::new();
    let first = bench.open(NOW).unwrap();
    let leaf = first
        .sign(&name("api.example"), &public_key(), NOW, || true)
        .unwrap();
    let again = bench.open(NOW + HOUR).unwrap();
    assert_eq!(again.list(NOW), first.list(NOW));
    assert_eq!(
        verify(&again.bundle(NOW), &leaf, "api.example", NOW),
        Ok(())
    );
    let leaf = again
        .sign(&name("api.example"), &public_key(), NOW, || true)
        .unwrap();
    assert_eq!(
        verify(&first.bundle(NOW), &leaf, "api.example", NOW),
        Ok(())
    );
    let [authority] = &first.list(NOW)[..] else {
        panic!("not one authority");
    };
    assert!(authority.subject.starts_with("AgentGuard CA host.example "));
    assert_eq!(authority.fingerprint.len(), 64);
    assert_eq!(authority.not_before, NOW - HOUR);
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(bench.path()), mode(bench.file())), (0o700, 0o600));
}

#[test]
fn rotation_is_remembered_and_leaves_of_both_are_trusted() {
    let bench = Bench::new();
    let ca = bench.open(NOW).unwrap();
    ca.rotate(false, NOW).unwrap();
    assert!(matches!(
        ca.rotate(false, NOW),
        Err(CaError::Pending { minutes: 1440 })
    ));
    let states = |ca: &Ca, now| ca.list(now).iter().map(|a| a.state).collect::<Vec<_>>();
    let later = NOW + OVERLAP;
    let old = ca
        .sign(&name("api.example"), &public_key(), later - 1, || true)
        .unwrap();
    let ca = bench.open(later - 1).unwrap();
    assert_eq!(
        states(&ca, later - 1),
        [AuthorityState::Current, AuthorityState::Next]
    );
    assert_eq!(
        states(&ca, later),
        [AuthorityState::Previous, AuthorityState::Current]
    );
    let new = ca
        .sign(&name("api.example"), &public_key(), later, || true)
        .unwrap();
    for leaf in [&old, &new] {
        assert_eq!(
            verify(&ca.bundle(later), leaf, "api.example", later),
            Ok(())
        );
    }
    let over = old.not_after + 2;
    assert!(!ca.forget(over - 1).unwrap());
    assert!(ca.forget(over).unwrap());
    assert_eq!(states(&ca, over), [AuthorityState::Current]);
    assert_eq!(verify(&ca.bundle(over), &new, "api.example", later), Ok(()));
    assert!(verify(&ca.bundle(over), &old, "api.example", later).is_err());
    let again = bench.open(over).unwrap();
    assert_eq!(again.list(over), ca.list(over));
    let stored = std::fs::read_to_string(bench.file()).unwrap();
    assert_eq!(
        stored.matches("PRIVATE KEY-----\\n").count(),
        2,
        "one key, begun and ended"
    );
}

#[test]
fn what_others_could_reach_is_refused() {
    let bench = Bench::new();
    bench.open(NOW).unwrap();
    let above = bench.directory.path().to_owned();
    let (directory, file) = (bench.path(), bench.file());
    for (path, mode, refused) in [
        (&file, 0o640, true),
        (&file, 0o604, true),
        (&file, 0o600, false),
        (&file, 0o400, false),
        (&directory, 0o750, true),
        (&directory, 0o700, false),
        (&above, 0o770, true),
        (&above, 0o757, true),
        (&above, 0o755, false),
        (&above, 0o1777, false),
    ] {
        let set = |mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let before = path.metadata().unwrap().permissions().mode();
        set(mode);
        let result = bench.open(NOW);
        assert_eq!(
            matches!(result, Err(CaError::Exposed { .. })),
            refused,
            "{} {mode:o}",
            path.display()
        );
        assert_eq!(result.is_err(), refused);
        set(before);
    }
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let (message, hint) = bench.refusal(NOW);
    let shown = std::fs::canonicalize(&file).unwrap();
    let shown = shown.display();
    assert_eq!(
        message,
        format!(
            "the key of the certificate authority is not safe: {shown} is open to others, with mode 0644"
        )
    );
    assert!(hint.starts_with(&format!("chmod go= {shown}; ")), "{hint}");
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    bench.open(NOW).unwrap();
    for path in [
        bench.file(),
        bench.path(),
        bench.directory.path().to_owned(),
    ] {
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let (message, hint) = bench.refusal(NOW);
        assert!(message.ends_with("belongs to user 12345"), "{message}");
        assert!(hint.starts_with("chown root "), "{hint}");
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    bench.open(NOW).unwrap();
}

#[test]
fn links_are_not_followed() {
    let bench = Bench::new();
    bench.open(NOW).unwrap();
    let elsewhere = bench.directory.path().join("elsewhere");
    std::fs::rename(bench.file(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, bench.file()).unwrap();
    assert!(matches!(bench.open(NOW), Err(CaError::Exposed { .. })));
    std::fs::remove_dir_all(bench.path()).unwrap();
    std::fs::create_dir(elsewhere.with_extension("d")).unwrap();
    std::os::unix::fs::symlink(elsewhere.with_extension("d"), bench.path()).unwrap();
    assert!(matches!(bench.open(NOW), Err(CaError::Exposed { .. })));
}

#[test]
fn damage_is_told_and_nothing_is_made_in_its_place() {
    let bench = Bench::new();
    bench.open(NOW).unwrap();
    let good = std::fs::read_to_string(bench.file()).unwrap();
    let other = Bench::new();
    other.open(NOW).unwrap();
    let other = std::fs::read_to_string(other.file()).unwrap();
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("\"{name}\":")));
        line.unwrap().to_owned()
    };
    let swapped = |name| good.replace(&field(&good, name), &field(&other, name));
    for (text, told) in [
        (String::new(), "is not what was written there"),
        (
            good[..good.len() / 2].to_owned(),
            "is not what was written there",
        ),
        ("[]".to_owned(), "no authorities"),
        (swapped("key"), "do not belong together"),
        (swapped("certificate"), "do not belong together"),
        (swapped("subject"), "do not belong together"),
        (good.replace("MIGH", "AAAA"), "is not a P-256 key"),
        (good.replace("CERTIFICATE", "CERTIFICAT"), "is not one"),
        (
            good.replacen("\"subject\"", "\"surplus\"", 1),
            "is not what was written there",
        ),
    ] {
        std::fs::write(bench.file(), &text).unwrap();
        let (message, hint) = bench.refusal(NOW);
        assert!(message.contains("is damaged: "), "{message}");
        assert!(message.contains(told), "{message}");
        assert!(hint.contains("backup"), "{hint}");
        assert_eq!(std::fs::read_to_string(bench.file()).unwrap(), text);
    }
}

#[test]
fn an_authority_that_has_expired_is_told() {
    let bench = Bench::new();
    let not_after = bench.open(NOW).unwrap().list(NOW)[0].not_after;
    assert!(bench.open(not_after - 1).is_ok());
    let (message, hint) = bench.refusal(not_after + 49 * HOUR);
    assert!(message.contains("expired 2 days ago"), "{message}");
    assert!(hint.contains("clock"), "{hint}");
}

#[test]
fn a_mapped_address_is_named_as_the_client_names_it() {
    let bench = Bench::new();
    let ca = bench.open(NOW).unwrap();
    let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
    let leaf = ca
        .sign(&LeafSubject::Ip(mapped), &public_key(), NOW, || true)
        .unwrap();
    let bundle = ca.bundle(NOW);
    assert_eq!(verify(&bundle, &leaf, "::ffff:192.0.2.1", NOW), Ok(()));
}
