//! Upstreams that are reached or verified in another way than others.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use agentguard_model::{HostName, Identity, ProxyHost, UpstreamEntry, UpstreamProxy};
use agentguard_policy::Diagnostic;
use agentguard_policy::yaml::At;
use agentguard_protocol::authority::{Authority, Host};
use agentguard_proxy::{check_authority, check_identity, check_revocations};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use schemars::JsonSchema;
use serde::Deserialize;

use super::credentials;
use super::file::Located;

/// All names.
const ALL: &str = "*";
/// Entries, at most.
const MAX_ENTRIES: usize = 64;
/// Names in one entry, at most.
const MAX_HOSTS: usize = 64;
/// Bytes of all certificates and credentials together, at most: they go to the worker in one message.
const MAX_BYTES: usize = 64 * 1024;

/// How some upstreams are reached and verified.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "`host`, and `ca`, `crl`, `address`, `proxy`, `server_name`, or `client_certificate` with `client_key`"
)]
#[schemars(rename = "Upstream")]
pub(super) struct RawUpstream {
    /// Names: exact, `*.example.org` for all names below `example.org`, or `*` for all names.
    #[schemars(length(min = 1, max = 64))]
    host: Vec<At<String>>,
    /// A file with the certificates of their authorities in PEM, relative to the directory of this
    /// file. They are trusted in addition to the system's.
    #[serde(default)]
    ca: Option<At<String>>,
    /// A file with lists of revoked certificates (CRL) of their authorities in PEM.
    #[serde(default)]
    crl: Option<At<String>>,
    /// Where they are, in place of what the names resolve to: an address, with or without a port.
    #[serde(default)]
    address: Option<At<String>>,
    /// The HTTP proxy through which they are reached: `http://host:port`. It resolves the names.
    #[serde(default)]
    proxy: Option<At<String>>,
    /// A file with `user:password` for the proxy, that only root can read. The worker gets it.
    #[serde(default)]
    proxy_credentials: Option<At<String>>,
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
    everywhere: bool,
    ca: Option<Located<PathBuf>>,
    crl: Option<Located<PathBuf>>,
    address: Option<(IpAddr, Option<u16>)>,
    proxy: Option<(ProxyHost, u16)>,
    proxy_credentials: Option<Located<PathBuf>>,
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
        let (all, hosts): (Vec<_>, Vec<_>) = hosts.partition(|host| host.value == ALL);
        if let Some(all) = all.first() {
            check.everywhere(all, raw);
        }
        let hosts = hosts.into_iter();
        let hosts = hosts.filter_map(|host| check.host(host)).collect();
        let ca = raw.ca.as_ref().and_then(|ca| check.path("ca", ca));
        let crl = raw.crl.as_ref().and_then(|crl| check.path("crl", crl));
        let address = raw.address.as_ref().and_then(|at| check.address(at));
        let proxy = raw.proxy.as_ref().and_then(|at| check.proxy(at));
        let proxy_credentials = raw.proxy_credentials.as_ref();
        if let (Some(credentials), None) = (proxy_credentials, &raw.proxy) {
            let message = "`proxy_credentials` are for a `proxy`, and there is none".to_owned();
            check.fault(
                credentials,
                message,
                "name the proxy: `proxy: http://proxy.example.com:3128`",
            );
        }
        let proxy_credentials =
            proxy_credentials.and_then(|at| check.path("proxy_credentials", at));
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
            && raw.crl.is_none()
            && raw.address.is_none()
            && raw.proxy.is_none()
            && raw.proxy_credentials.is_none()
            && raw.server_name.is_none()
            && raw.client_certificate.is_none()
            && raw.client_key.is_none();
        if says_nothing {
            faults.push(entry_at.fault(
                file,
                "the entry says nothing of its hosts".to_owned(),
                "add `ca`, `crl`, `address`, `proxy`, `server_name`, or `client_certificate` and `client_key`",
            ));
        }
        declared.push(Declared {
            hosts,
            everywhere: !all.is_empty(),
            ca,
            crl,
            address,
            proxy,
            proxy_credentials,
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
                let hint = "write a name, `*.` and a name for all names below it, or `*` for all";
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

    /// Every name, of which not everything can be said.
    fn everywhere(&mut self, all: &At<String>, raw: &RawUpstream) {
        let one = [
            ("address", &raw.address),
            ("server_name", &raw.server_name),
            ("client_certificate", &raw.client_certificate),
        ];
        if let Some((key, _)) = one.iter().find(|(_, said)| said.is_some()) {
            self.fault(
                all,
                format!("`*` is every name, and `{key}` is for some"),
                "name the hosts; `*` goes with `proxy`, `ca` and `crl`",
            );
        }
    }

    fn path(&mut self, key: &str, path: &At<String>) -> Option<Located<PathBuf>> {
        if path.value.is_empty() || path.value.contains('\0') {
            self.fault(path, format!("`{key}` is not a path"), "name a file");
            return None;
        }
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        Some(Located::at(path.clone()).map(|path| directory.join(path)))
    }

    /// `http://host:port`, and nothing else.
    fn proxy(&mut self, proxy: &At<String>) -> Option<(ProxyHost, u16)> {
        let text = proxy.value.as_str();
        const HINT: &str =
            "write `http://` with a host and a port: \"http://proxy.example.com:3128\"";
        if text.starts_with("https://") {
            let message = "a proxy behind TLS (`https://`) is not spoken to".to_owned();
            self.fault(
                proxy,
                message,
                "name its port for clear HTTP, as `http://host:port`; what \
                runs through it is TLS all the same",
            );
            return None;
        }
        if text.contains('@') {
            // Not repeated: there may be a password in it.
            let message = "credentials have no place in the proxy's URL".to_owned();
            let hint = "put `user:password` into a file, and name that as `proxy_credentials`";
            self.fault(proxy, message, hint);
            return None;
        }
        let place = text.strip_prefix("http://");
        let place = place.map(|place| place.strip_suffix('/').unwrap_or(place));
        let found = place.and_then(|place| Authority::parse(place).ok());
        match found {
            Some(Authority {
                host,
                port: Some(port),
            }) if port != 0 => match host {
                Host::Name(name) => Some((ProxyHost::Name(name), port)),
                Host::Ip(ip) if !ip.is_unspecified() => Some((ProxyHost::Ip(ip), port)),
                Host::Ip(_) => {
                    self.fault(proxy, format!("`{text}` is no proxy to connect to"), HINT);
                    None
                }
            },
            _ => {
                self.fault(proxy, format!("`{text}` is not the URL of a proxy"), HINT);
                None
            }
        }
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
        let crl = entry.crl.as_ref().map(|crl| {
            revocations(&crl.value).map_err(|why| {
                let place = crl.value.display();
                crl.fault(
                    file,
                    format!("cannot read revoked certificates from {place}: {why}"),
                    "name a PEM file with at least one X509 CRL",
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
        let credentials = entry.proxy_credentials.as_ref().map(|path| {
            credentials::read(&path.value).map_err(|why| {
                let place = path.value.display();
                path.fault(
                    file,
                    format!("cannot take credentials from {place}: {why}"),
                    credentials::HINT,
                )
            })
        });
        let found = (
            ca.transpose(),
            crl.transpose(),
            identity.transpose(),
            credentials.transpose(),
        );
        let (ca, crl, identity, credentials) = match found {
            (Ok(ca), Ok(crl), Ok(identity), Ok(credentials)) => (
                ca.unwrap_or_default(),
                crl.unwrap_or_default(),
                identity,
                credentials,
            ),
            (ca, crl, identity, credentials) => {
                faults.extend(ca.err());
                faults.extend(crl.err());
                faults.extend(identity.err());
                faults.extend(credentials.err());
                continue;
            }
        };
        bytes += ca.iter().chain(&crl).map(Vec::len).sum::<usize>();
        bytes += identity.iter().map(size).sum::<usize>();
        bytes += credentials.iter().map(|one| one.0.len()).sum::<usize>();
        if bytes > MAX_BYTES {
            let at = entry
                .ca
                .as_ref()
                .or(entry.crl.as_ref())
                .or(entry.identity.as_ref().map(|(at, _)| at))
                .or(entry.proxy_credentials.as_ref());
            faults.extend(at.map(|at| {
                at.fault(
                    file,
                    format!(
                        "certificates and credentials have more than {MAX_BYTES} bytes together"
                    ),
                    "name only the authorities that certify these hosts",
                )
            }));
            break;
        }
        upstreams.push(UpstreamEntry {
            hosts: entry.hosts.clone(),
            everywhere: entry.everywhere,
            certificates: ca,
            revocations: crl,
            address: entry.address,
            proxy: entry.proxy.clone().map(|(host, port)| UpstreamProxy {
                host,
                port,
                credentials,
            }),
            server_name: entry.server_name.clone(),
            identity,
        });
    }
    upstreams
}

fn size(identity: &Identity) -> usize {
    identity.key.len() + identity.chain.iter().map(Vec::len).sum::<usize>()
}

pub(super) fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
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

fn revocations(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(&text) {
        let list = list.map_err(|error| error.to_string())?;
        check_revocations(&list)?;
        lists.push(list.to_vec());
    }
    if lists.is_empty() {
        return Err("it has no list".to_owned());
    }
    Ok(lists)
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
