//! What an agent whose connections are inspected is given, so that its programs trust the guard.
//!
//! Two files that everybody can read, in a directory that only root writes to: our authorities, and
//! the system's with ours. Variables name them to the runtimes that look at one, and the second
//! covers the system's own in the command's mount namespace, for all the others. Java's stores are
//! covered the same way, each by a copy with ours added ([`java`]), and browsers get a policy
//! ([`browser`]).

mod browser;
mod java;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use agentguard_keeper::spawn::Overlay;
use anyhow::Context as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use browser::Cover;

/// Where systems keep all that they trust in one file: Debian, RHEL twice, SUSE, Alpine.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Variables that name a file of authorities to trust in addition.
const ADDED: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Variables that name the file of all authorities to trust.
const WHOLE: [&str; 14] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "BUNDLE_SSL_CA_CERT",
    "PERL_LWP_SSL_CA_FILE",
    "HEX_CACERTS_PATH",
];

/// What an agent is given.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Variables, for where the caller has not set them.
    pub(super) variables: Vec<(String, String)>,
    /// Files in the place of the system's.
    pub(super) overlays: Vec<Overlay>,
}

/// What was written beside our authorities.
struct Written {
    /// There is a bundle of the system's.
    whole: bool,
    /// Directories of browsers.
    covers: Vec<Cover>,
}

/// The files.
pub(super) struct Files {
    directory: PathBuf,
    system: Vec<PathBuf>,
    /// Java's.
    stores: Vec<PathBuf>,
    /// Directories of browsers' policies, whether they exist or not.
    policies: Vec<PathBuf>,
    /// Held while they are written.
    writing: Mutex<()>,
}

impl Files {
    /// Files in this directory, which need not be there yet.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            system: SYSTEM.iter().map(PathBuf::from).collect(),
            stores: java::stores(),
            policies: browser::directories(),
            writing: Mutex::default(),
        }
    }

    /// Brings the files up to date with these authorities and the system's, and says what to do with
    /// them. Where the system has no file, only what adds to a runtime's own trust is given: the rest
    /// would take away what the agent trusts for connections that are not inspected.
    pub(super) fn give(&self, ours: &str) -> anyhow::Result<Trust> {
        let written = self.write(ours)?;
        let mut trust = Trust::default();
        for cover in &written.covers {
            trust.overlays.extend(cover.overlays()?);
        }
        let mut set = |names: &[&str], path: &Path| {
            let path = path.display().to_string();
            let pairs = names.iter().map(|name| ((*name).to_owned(), path.clone()));
            trust.variables.extend(pairs);
        };
        set(&ADDED, &self.ours());
        if !written.whole {
            return Ok(trust);
        }
        let bundle = self.whole();
        set(&WHOLE, &bundle);
        for target in targets(&self.system) {
            trust.overlays.push(overlay(&bundle, target)?);
        }
        for (copy, target) in self.copies() {
            if copy.exists() {
                trust.overlays.push(overlay(&copy, target)?);
            }
        }
        Ok(trust)
    }

    /// As [`Self::give`], if the files were given to anybody.
    pub(super) fn renew(&self, ours: &str) -> anyhow::Result<()> {
        if self.ours().exists() {
            self.write(ours)?;
        }
        Ok(())
    }

    /// Our authorities.
    fn ours(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The system's and ours.
    fn whole(&self) -> PathBuf {
        self.directory.join("bundle.pem")
    }

    /// Java's stores, each behind the place of its copy with ours.
    fn copies(&self) -> Vec<(PathBuf, PathBuf)> {
        let stores = targets(&self.stores).into_iter().enumerate();
        let copy = |number| self.directory.join(format!("java-{number}.store"));
        stores
            .map(|(number, store)| (copy(number), store))
            .collect()
    }

    /// Of authorities in DER.
    fn write_copies(&self, ours: &[Vec<u8>]) -> anyhow::Result<()> {
        for (copy, store) in self.copies() {
            match java::with_authorities(&store, ours) {
                Some(contents) => replace(&copy, &contents)?,
                None => {
                    tracing::warn!(
                        store = %store.display(),
                        "Java programs do not trust the guard: their store has no known format, or not everybody may read it, or others than root may write it"
                    );
                    // That of another time would cover what is there now.
                    let _ = fs::remove_file(&copy);
                }
            }
        }
        Ok(())
    }

    /// Writes all of them.
    fn write(&self, ours: &str) -> anyhow::Result<Written> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        open_directory(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        replace(&self.ours(), ours.as_bytes())?;
        let certificates = certificates(ours)?;
        let covers = browser::covers(&self.policies, &self.directory);
        for cover in &covers {
            cover.write(&certificates)?;
        }
        let system = self.system.iter().find_map(|path| fs::read(path).ok());
        let Some(mut whole) = system else {
            tracing::warn!("this host has no file of trusted authorities that is known");
            return Ok(Written {
                whole: false,
                covers,
            });
        };
        if !whole.ends_with(b"\n") {
            whole.push(b'\n');
        }
        whole.extend_from_slice(ours.as_bytes());
        replace(&self.whole(), &whole)?;
        self.write_copies(&certificates)?;
        Ok(Written {
            whole: true,
            covers,
        })
    }
}

/// Certificates in PEM as DER.
fn certificates(pem: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .context("the authorities are not PEM")
}

/// Makes a directory that everybody may enter, whatever the daemon's umask is.
pub(super) fn open_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

/// Files, each once and without links: a mount covers no link.
fn targets(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut targets: Vec<PathBuf> = paths
        .iter()
        .filter_map(|path| fs::canonicalize(path).ok())
        .filter(|path| path.is_file())
        .collect();
    targets.sort();
    targets.dedup();
    targets
}

fn overlay(source: &Path, target: PathBuf) -> anyhow::Result<Overlay> {
    let source = fs::File::open(source)
        .with_context(|| format!("cannot read {}", source.display()))?
        .into();
    Ok(Overlay::new(source, target))
}

/// Replaces a file as a whole, if it says something else: who reads it meanwhile reads the old one
/// to its end.
fn replace(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    replace_by(path, &path.with_extension("new"), contents)
}

/// As [`replace`], by a temporary file at this path.
fn replace_by(path: &Path, temporary: &Path, contents: &[u8]) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|found| found == contents) {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(contents)?;
        fs::rename(temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{ADDED, Files, WHOLE};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::PathBuf;

    struct Host {
        directory: tempfile::TempDir,
    }

    impl Host {
        fn path(&self, name: &str) -> PathBuf {
            std::fs::canonicalize(self.directory.path())
                .unwrap()
                .join(name)
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.path(name)).unwrap()
        }

        /// A host whose system keeps its trust in these places.
        fn files(&self, system: &[&str]) -> Files {
            let mut files = Files::new(self.path("trust"));
            files.system = system.iter().map(|name| self.path(name)).collect();
            files.stores = Vec::new();
            files.policies = Vec::new();
            files
        }
    }

    fn host() -> Host {
        Host {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    #[test]
    fn the_systems_authorities_and_ours_are_given_in_the_place_of_the_systems() {
        let host = host();
        std::fs::write(host.path("debian"), "system").unwrap();
        std::fs::write(host.path("suse"), "other\n").unwrap();
        symlink(host.path("debian"), host.path("alpine")).unwrap();
        let files = host.files(&["missing", "debian", "suse", "alpine"]);
        let trust = files.give("ours\n").unwrap();
        assert_eq!(host.read("trust/ca.pem"), "ours\n");
        assert_eq!(host.read("trust/bundle.pem"), "system\nours\n");
        let targets = trust.overlays.iter().map(|overlay| overlay.target.clone());
        assert!(targets.eq([host.path("debian"), host.path("suse")]));
        let named = |names: &[&str], file| {
            let path = host.path(file).display().to_string();
            let pair = |name: &&str| ((*name).to_owned(), path.clone());
            names.iter().map(pair).collect::<Vec<_>>()
        };
        let variables = [
            named(&ADDED, "trust/ca.pem"),
            named(&WHOLE, "trust/bundle.pem"),
        ];
        assert_eq!(trust.variables, variables.concat());
        for (name, mode) in [
            ("trust", 0o755),
            ("trust/ca.pem", 0o644),
            ("trust/bundle.pem", 0o644),
        ] {
            let found = host.path(name).metadata().unwrap().permissions().mode();
            assert_eq!(found & 0o7777, mode, "{name}");
        }
    }

    #[test]
    fn java_s_stores_are_covered_by_copies_with_ours() {
        let host = host();
        std::fs::write(host.path("system"), "system\n").unwrap();
        let store = [&[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2][..], &[0; 24]].concat();
        std::fs::write(host.path("cacerts"), &store).unwrap();
        std::fs::write(host.path("other"), "PKCS #12").unwrap();
        symlink(host.path("cacerts"), host.path("link")).unwrap();
        let mut files = host.files(&["system"]);
        files.stores = ["cacerts", "link", "other", "missing"]
            .map(|name| host.path(name))
            .to_vec();
        let key = rcgen::KeyPair::generate().unwrap();
        let ours = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        let trust = files.give(&ours.pem()).unwrap();
        let targets = trust.overlays.iter().map(|overlay| overlay.target.clone());
        assert!(targets.eq([host.path("system"), host.path("cacerts")]));
        let copy = std::fs::read(host.path("trust/java-0.store")).unwrap();
        assert!(
            copy.windows(ours.der().len())
                .any(|part| part == ours.der().as_ref())
        );
        assert_eq!(std::fs::read(host.path("cacerts")).unwrap(), store);
    }

    #[test]
    fn files_change_with_what_they_are_made_of_and_stay_otherwise() {
        let host = host();
        std::fs::write(host.path("system"), "one\n").unwrap();
        let files = host.files(&["system"]);
        // Nobody was given any.
        files.renew("a\n").unwrap();
        assert!(!host.path("trust").exists());
        files.give("a\n").unwrap();
        let inode = |name| host.path(name).metadata().unwrap().ino();
        let before = (inode("trust/ca.pem"), inode("trust/bundle.pem"));
        files.give("a\n").unwrap();
        assert_eq!((inode("trust/ca.pem"), inode("trust/bundle.pem")), before);
        files.renew("a\nb\n").unwrap();
        assert_eq!(host.read("trust/bundle.pem"), "one\na\nb\n");
        std::fs::write(host.path("system"), "two\n").unwrap();
        files.give("b\n").unwrap();
        assert_eq!(host.read("trust/ca.pem"), "b\n");
        assert_eq!(host.read("trust/bundle.pem"), "two\nb\n");
    }

    #[test]
    fn without_the_systems_authorities_nothing_is_taken_from_the_agent() {
        let host = host();
        let trust = host.files(&["missing"]).give("ours\n").unwrap();
        let names: Vec<&str> = trust
            .variables
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ADDED);
        assert!(trust.overlays.is_empty());
        assert!(!host.path("trust/bundle.pem").exists());
    }
}
