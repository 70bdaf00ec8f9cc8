//! Upstreams that are certified by authorities which the system does not know.

use std::path::{Path, PathBuf};

use agentguard_model::HostName;
use agentguard_policy::Diagnostic;
use agentguard_policy::yaml::At;
use agentguard_proxy::ExtraRoots;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::Deserialize;

use super::file::Located;

/// Entries, at most.
const MAX_ENTRIES: usize = 64;
/// Names in one entry, at most.
const MAX_HOSTS: usize = 64;
/// Bytes of all certificates together, at most: they go to the worker in one message.
const MAX_BYTES: usize = 64 * 1024;

/// Upstreams and whom they are certified by.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`host` and `ca`")]
#[schemars(rename = "Upstream")]
pub(super) struct RawUpstream {
    /// Names: exact, or `*.example.org` for all names below `example.org`.
    #[schemars(length(min = 1, max = 64))]
    host: Vec<At<String>>,
    /// A file with the certificates of their authorities in PEM, relative to the directory of this
    /// file. They are trusted in addition to the system's.
    ca: At<String>,
}

/// An entry, checked as far as the text allows.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    hosts: Vec<(HostName, bool)>,
    ca: Located<PathBuf>,
}

/// An entry with its certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Upstream {
    /// Names, and whether all names below are meant instead.
    pub(crate) hosts: Vec<(HostName, bool)>,
    /// In DER.
    pub(crate) certificates: Vec<Vec<u8>>,
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
        let mut hosts = Vec::new();
        for host in raw.host.iter().take(MAX_HOSTS) {
            let (name, below) = match host.value.strip_prefix("*.") {
                Some(suffix) => (suffix, true),
                None => (host.value.as_str(), false),
            };
            match name.parse::<HostName>() {
                Ok(name) => hosts.push((name, below)),
                Err(error) => {
                    let host = Located::at(host.clone());
                    faults.push(host.fault(
                        file,
                        error.to_string(),
                        "write a name, or `*.` and a name for all names below it",
                    ));
                }
            }
        }
        let ca = Located::at(raw.ca.clone());
        if ca.value.is_empty() || ca.value.contains('\0') {
            faults.push(ca.fault(file, "`ca` is not a path".into(), "name a PEM file"));
        }
        declared.push(Declared {
            hosts,
            ca: ca.map(|ca| file.parent().unwrap_or(Path::new("/")).join(ca)),
        });
    }
    declared
}

/// Reads the certificates.
pub(super) fn look_up(
    file: &Path,
    declared: &[Declared],
    faults: &mut Vec<Diagnostic>,
) -> Vec<Upstream> {
    let mut bytes = 0;
    let mut upstreams = Vec::new();
    for entry in declared {
        match certificates(&entry.ca.value) {
            Ok(certificates) => {
                bytes += certificates.iter().map(Vec::len).sum::<usize>();
                if bytes > MAX_BYTES {
                    faults.push(entry.ca.fault(
                        file,
                        format!("the certificates have more than {MAX_BYTES} bytes together"),
                        "name only the authorities that certify these hosts",
                    ));
                    break;
                }
                upstreams.push(Upstream {
                    hosts: entry.hosts.clone(),
                    certificates,
                });
            }
            Err(why) => faults.push(entry.ca.fault(
                file,
                format!(
                    "cannot read authorities from {}: {why}",
                    entry.ca.value.display()
                ),
                "name a PEM file with at least one CERTIFICATE",
            )),
        }
    }
    upstreams
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        ExtraRoots::check(&certificate)?;
        certificates.push(certificate.to_vec());
    }
    if certificates.is_empty() {
        return Err("it has no certificate".to_owned());
    }
    Ok(certificates)
}
