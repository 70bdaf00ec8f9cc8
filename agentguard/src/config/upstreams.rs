//! Upstreams that are reached or verified in another way than others.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use agentguard_model::{HostName, Identity, UpstreamEntry};
use agentguard_policy::Diagnostic;
use agentguard_policy::yaml::At;
use agentguard_proxy::{check_authority, check_identity};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use schemars::JsonSchema;
use serde::Deserialize;

use super::file::Located;

/// Entries, at most.
const MAX_ENTRIES: usize = 64;
/// Names in one entry, at most.
const MAX_HOSTS: usize = 64;
/// Bytes of all certificates together, at most: they go to the worker in one message.
const MAX_BYTES: usize = 64 * 1024;

/// How some upstreams are reached and verified.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "`host`, and `ca`, `address`, `server_name`, or `client_certificate` with `client_key`"
)]
#[schemars(rename = "Upstream")]
pub(super) struct RawUpstream {
    /// Names: exact, or `*.example.org` for all names below `example.org`.
    #[schemars(length(min = 1, max = 64))]
    host: Vec<At<String>>,
    /// A file with the certificates of their authorities in PEM, relative to the directory of this
    /// file. They are trusted in addition to the system's.
    #[serde(default)]
    ca: Option<At<String>>,
    /// Where they are, in place of what the names resolve to: an address, with or without a port.
    #[serde(default)]
    address: Option<At<String>>,
    /// The name that is asked for and verified in TLS, in place of their own.
    #[serde(default)]
    server_name: Option<At<String>>,
    /// A file with the certificate that the guard shows where they ask for one, and those between it
    /// and its authority, in PEM.
    #[serde(default)]
    client_certificate: Option<At<String>>,
    /// A file with the key of that certificate, in PEM and not encrypted. The worker gets it.
    #[serde(default)]
    client_key: Option<At<String>>,
}

/// An entry, checked as far as the text allows.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    hosts: Vec<(HostName, bool)>,
    ca: Option<Located<PathBuf>>,
    address: Option<(IpAddr, Option<u16>)>,
    server_name: Option<HostName>,
    /// Certificate and key.
    identity: Option<(Located<PathBuf>, Located<PathBuf>)>,
}

/// Reads the entries of a file.
pub(super) fn check(
    file: &Path,
    field: Option<At<Vec<At<RawUpstream>>>>,
    faults: &mut Vec<Diagnostic>,
) -> Vec<Declared> {
    let list = Located::of(field, Vec::new);
    if list.value.len() > MAX_ENTRIES {
        faults.push(list.fault(
            file,
            format!("`upstreams` has more than {MAX_ENTRIES} entries"),
            "put names with the same authority into one entry",
        ));
    }
    let mut declared = Vec::new();
    for entry in list.value.iter().take(MAX_ENTRIES) {
        let entry_at = Located::at(entry.clone());
        let raw = &entry.value;
        if raw.host.is_empty() || raw.host.len() > MAX_HOSTS {
            faults.push(entry_at.fault(
                file,
                format!(
                    "`host` has {} names, and 1 to {MAX_HOSTS} make sense",
                    raw.host.len()
                ),
                "name the hosts: `host: [\"*.corp.example.com\"]`",
            ));
        }
        let mut check = Check { file, faults };
        let hosts = raw.host.iter().take(MAX_HOSTS);
        let hosts = hosts.filter_map(|host| check.host(host)).collect();
        let ca = raw.ca.as_ref().and_then(|ca| check.path("ca", ca));
        let address = raw.address.as_ref().and_then(|at| check.address(at));
        let server_name = raw.server_name.as_ref().and_then(|at| check.name(at));
        let identity = match (&raw.client_certificate, &raw.client_key) {
            (Some(certificate), Some(key)) => check
                .path("client_certificate", certificate)
                .zip(check.path("client_key", key)),
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                check.fault(
                    one,
                    "`client_certificate` and `client_key` go together".to_owned(),
                    "name both files",
                );
                None
            }
        };
        let says_nothing = raw.ca.is_none()
            && raw.address.is_none()
            && raw.server_name.is_none()
            && raw.client_certificate.is_none()
            && raw.client_key.is_none();
        if says_nothing {
            faults.push(entry_at.fault(
                file,
                "the entry says nothing of its hosts".to_owned(),
                "add `ca`, `address`, `server_name`, or `client_certificate` and `client_key`",
            ));
        }
        declared.push(Declared {
            hosts,
            ca,
            address,
            server_name,
            identity,
        });
    }
    declared
}

/// Collects what is wrong with the values of an entry.
struct Check<'a> {
    file: &'a Path,
    faults: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    fn fault(&mut self, at: &At<String>, message: String, hint: &str) {
        let at = Located::at(at.clone());
        self.faults.push(at.fault(self.file, message, hint));
    }

    fn host(&mut self, host: &At<String>) -> Option<(HostName, bool)> {
        let (name, below) = match host.value.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (host.value.as_str(), false),
        };
        match name.parse::<HostName>() {
            Ok(name) => Some((name, below)),
            Err(error) => {
                let hint = "write a name, or `*.` and a name for all names below it";
                self.fault(host, error.to_string(), hint);
                None
            }
        }
    }

    fn name(&mut self, name: &At<String>) -> Option<HostName> {
        match name.value.parse::<HostName>() {
            Ok(name) => Some(name),
            Err(error) => {
                self.fault(name, error.to_string(), "write one name, without `*.`");
                None
            }
        }
    }

    fn path(&mut self, key: &str, path: &At<String>) -> Option<Located<PathBuf>> {
        if path.value.is_empty() || path.value.contains('\0') {
            self.fault(path, format!("`{key}` is not a path"), "name a PEM file");
            return None;
        }
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        Some(Located::at(path.clone()).map(|path| directory.join(path)))
    }

    fn address(&mut self, address: &At<String>) -> Option<(IpAddr, Option<u16>)> {
        let text = address.value.as_str();
        let found = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
            (Ok(both), _) => Some((both.ip(), Some(both.port()))),
            (_, Ok(ip)) => Some((ip, None)),
            _ => None,
        };
        match found {
            Some((ip, port)) if !ip.is_unspecified() && port != Some(0) => Some((ip, port)),
            _ => {
                self.fault(
                    address,
                    format!("`{text}` is no address to connect to"),
                    "write an address, with or without a port: \"192.0.2.1\", \"192.0.2.1:8443\", \"[2001:db8::1]:8443\"",
                );
                None
            }
        }
    }
}

/// Reads the files.
pub(super) fn look_up(
    file: &Path,
    declared: &[Declared],
    faults: &mut Vec<Diagnostic>,
) -> Vec<UpstreamEntry> {
    let mut bytes = 0;
    let mut upstreams = Vec::new();
    for entry in declared {
        let ca = entry.ca.as_ref().map(|ca| {
            let found = certificates(&ca.value).and_then(|certificates| {
                certificates
                    .iter()
                    .try_for_each(|one| check_authority(one))?;
                Ok(certificates)
            });
            found.map_err(|why| {
                let message = format!("cannot read authorities from {}: {why}", ca.value.display());
                ca.fault(
                    file,
                    message,
                    "name a PEM file with at least one CERTIFICATE",
                )
            })
        });
        let identity = entry.identity.as_ref().map(|(certificate, key)| {
            identity(&certificate.value, &key.value).map_err(|why| {
                let message = format!("cannot use the client's certificate: {why}");
                certificate.fault(
                    file,
                    message,
                    "name PEM files with a CERTIFICATE and its PRIVATE KEY, not encrypted",
                )
            })
        });
        let (ca, identity) = match (ca.transpose(), identity.transpose()) {
            (Ok(ca), Ok(identity)) => (ca.unwrap_or_default(), identity),
            (ca, identity) => {
                faults.extend(ca.err());
                faults.extend(identity.err());
                continue;
            }
        };
        bytes += ca.iter().map(Vec::len).sum::<usize>();
        bytes += identity.iter().map(size).sum::<usize>();
        if bytes > MAX_BYTES {
            let at = entry
                .ca
                .as_ref()
                .or(entry.identity.as_ref().map(|(at, _)| at));
            faults.extend(at.map(|at| {
                at.fault(
                    file,
                    format!("the certificates have more than {MAX_BYTES} bytes together"),
                    "name only the authorities that certify these hosts",
                )
            }));
            break;
        }
        upstreams.push(UpstreamEntry {
            hosts: entry.hosts.clone(),
            certificates: ca,
            address: entry.address,
            server_name: entry.server_name.clone(),
            identity,
        });
    }
    upstreams
}

fn size(identity: &Identity) -> usize {
    identity.key.len() + identity.chain.iter().map(Vec::len).sum::<usize>()
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        certificates.push(certificate.to_vec());
    }
    if certificates.is_empty() {
        return Err("it has no certificate".to_owned());
    }
    Ok(certificates)
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let told = |path: &Path, why: String| format!("{}: {why}", path.display());
    let chain = certificates(certificate).map_err(|why| told(certificate, why))?;
    let text = std::fs::read(key).map_err(|error| told(key, error.to_string()))?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|error| told(key, error.to_string()))?;
    let identity = Identity {
        chain,
        key: der.secret_der().to_vec(),
    };
    check_identity(&identity)?;
    Ok(identity)
}
