//! Where figures and traces go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use agentguard_model::{Endpoint, Header, Otlp, Telemetry};
use agentguard_policy::Diagnostic;
use agentguard_policy::yaml::At;
use agentguard_protocol::authority::{Authority, Host};
use agentguard_proxy::check_authority;
use schemars::JsonSchema;
use serde::Deserialize;

use super::credentials;
use super::file::Located;
use super::upstreams::certificates;

/// Bytes of a socket's path, at most: a unix socket's path holds 107.
const MAX_PATH: usize = 100;
/// Bytes of certificates and headers together, at most: they go to the worker in one message.
const MAX_BYTES: usize = 16 * 1024;
/// Entries of `resource`, at most, and bytes of each key and value.
const MAX_RESOURCE: (usize, usize) = (32, 256);
/// Seconds between figures that are sent, where nothing is said, and at most.
const INTERVAL: (u64, u64) = (30, 3600);
/// The port of OTLP over HTTP.
const PORT: u16 = 4318;

const LISTEN_HINT: &str = "write an address and a port, as 127.0.0.1:9464, or the path of a socket, as /run/agentguard/metrics.sock";
const ENDPOINT_HINT: &str =
    "write `https://` or `http://`, a host, and a port: \"https://collector.example.com:4318\"";
const HEADERS_HINT: &str =
    "put lines `name: value` into a file of root's with mode 0600, and name that";

/// What is told to outside, in figures and traces. Default: nothing.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`prometheus`, `otlp`")]
#[schemars(rename = "Telemetry")]
pub(super) struct RawTelemetry {
    /// Figures for Prometheus, at `/metrics`.
    #[serde(default)]
    prometheus: Option<RawPrometheus>,
    /// Figures, and spans of calls, for a collector that speaks OTLP over HTTP.
    #[serde(default)]
    otlp: Option<RawOtlp>,
}

/// Figures for Prometheus.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`listen`")]
#[schemars(rename = "Prometheus")]
struct RawPrometheus {
    /// Where they are found: an address with a port, as `127.0.0.1:9464`, or the absolute path of a UNIX socket.
    listen: At<String>,
}

/// A collector.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "`endpoint`, and `headers_file`, `ca`, `interval` or `resource`"
)]
#[schemars(rename = "Otlp")]
struct RawOtlp {
    /// Where it is: `http://` or `https://`, host, port (4318, if none is said), and the path before `/v1/metrics`
    /// and `/v1/traces`.
    endpoint: At<String>,
    /// A file with lines `name: value`, header fields that go with each request, that only root can read. The
    /// worker gets it.
    #[serde(default)]
    headers_file: Option<At<String>>,
    /// A file with the certificates of its authorities in PEM. They are trusted in addition to the system's.
    #[serde(default)]
    ca: Option<At<String>>,
    /// How often figures are sent, in seconds. Default: 30.
    #[serde(default)]
    #[schemars(range(min = 1, max = 3600))]
    interval: Option<At<u64>>,
    /// What is said of this guard beside `service.name`, `service.version` and `host.name`, or in their place.
    #[serde(default)]
    #[schemars(length(max = 32))]
    resource: Option<At<BTreeMap<String, String>>>,
}

/// The same, checked as far as the text allows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    pub(crate) prometheus: Option<String>,
    otlp: Option<DeclaredOtlp>,
}

#[derive(Clone, Debug)]
struct DeclaredOtlp {
    endpoint: Endpoint,
    headers: Option<Located<PathBuf>>,
    ca: Option<Located<PathBuf>>,
    interval: Duration,
    resource: BTreeMap<String, String>,
}

impl Declared {
    /// Where the collector is.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.otlp.as_ref().map(|otlp| &otlp.endpoint)
    }
}

/// Reads the key's value.
pub(super) fn check(file: &Path, raw: RawTelemetry, faults: &mut Vec<Diagnostic>) -> Declared {
    let mut check = Check { file, faults };
    Declared {
        prometheus: raw.prometheus.and_then(|raw| check.listen(raw.listen)),
        otlp: raw.otlp.and_then(|raw| check.otlp(raw)),
    }
}

struct Check<'a> {
    file: &'a Path,
    faults: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    fn fault<T>(&mut self, at: &Located<T>, message: impl Into<String>, hint: &str) {
        self.faults.push(at.fault(self.file, message.into(), hint));
    }

    fn listen(&mut self, listen: At<String>) -> Option<String> {
        let at = Located::at(listen);
        let text = at.value.clone();
        let path = Path::new(&text);
        if path.is_absolute() {
            let plain = !text.contains('\0')
                && path.file_name().is_some()
                && !path.components().any(|part| part == Component::ParentDir);
            if !plain {
                self.fault(&at, "`listen` is not the path of a socket", LISTEN_HINT);
                return None;
            }
            if text.len() > MAX_PATH {
                let message = format!(
                    "`listen` is longer than {MAX_PATH} bytes, and a socket's path has no room for that"
                );
                self.fault(&at, message, "choose a shorter path");
                return None;
            }
            return Some(text);
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 && !address.ip().is_multicast() => Some(text),
            _ => {
                let shown: String = text.chars().take(80).collect();
                self.fault(&at, format!("nothing can listen at `{shown}`"), LISTEN_HINT);
                None
            }
        }
    }

    fn otlp(&mut self, raw: RawOtlp) -> Option<DeclaredOtlp> {
        let headers = raw
            .headers_file
            .and_then(|path| self.path("headers_file", path));
        let ca = raw.ca.and_then(|path| self.path("ca", path));
        let interval = self.interval(raw.interval);
        let resource = self.resource(raw.resource);
        let endpoint = Located::at(raw.endpoint);
        let found = match read_endpoint(&endpoint.value) {
            Ok(found) => found,
            Err(message) => {
                self.fault(&endpoint, message, ENDPOINT_HINT);
                return None;
            }
        };
        if let (Some(ca), false) = (&ca, found.tls) {
            let message = "`ca` is for TLS, and `endpoint` begins with `http://`";
            self.fault(ca, message, "begin it with `https://`, or leave `ca` out");
        }
        Some(DeclaredOtlp {
            endpoint: found,
            headers,
            ca,
            interval,
            resource,
        })
    }

    fn interval(&mut self, raw: Option<At<u64>>) -> Duration {
        let (default, most) = INTERVAL;
        let interval = Located::of(raw, || default);
        if !(1..=most).contains(&interval.value) {
            let message = format!("`interval` is {} seconds", interval.value);
            let hint = format!("choose 1 to {most}, or leave it out for {default}");
            self.fault(&interval, message, &hint);
        }
        Duration::from_secs(interval.value)
    }

    fn resource(&mut self, raw: Option<At<BTreeMap<String, String>>>) -> BTreeMap<String, String> {
        let resource = Located::of(raw, BTreeMap::new);
        let (entries, bytes) = MAX_RESOURCE;
        let fits = |text: &String| !text.is_empty() && text.len() <= bytes;
        let fit = resource
            .value
            .iter()
            .all(|(key, value)| fits(key) && fits(value));
        if resource.value.len() > entries || !fit {
            let message = format!(
                "`resource` has more than {entries} entries, or an empty one, or one with more than {bytes} bytes"
            );
            self.fault(
                &resource,
                message,
                "write a few, as `deployment.environment.name: production`",
            );
        }
        resource.value
    }

    fn path(&mut self, key: &str, path: At<String>) -> Option<Located<PathBuf>> {
        let at = Located::at(path);
        if at.value.is_empty() || at.value.contains('\0') {
            self.fault(&at, format!("`{key}` is not a path"), "name a file");
            return None;
        }
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        Some(at.map(|path| directory.join(path)))
    }
}

/// The address of a collector.
///
/// # Errors
/// What is wrong with it. It is not repeated where it may have a password in it.
fn read_endpoint(text: &str) -> Result<Endpoint, String> {
    if text.contains('@') {
        return Err(
            "credentials have no place in `endpoint`: they stand in `headers_file`".to_owned(),
        );
    }
    let shown: String = text.chars().take(80).collect();
    let wrong = || format!("`{shown}` is not the address of a collector");
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(wrong()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = path.trim_end_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    if !path.bytes().all(plain) {
        return Err(wrong());
    }
    for signal in ["/v1/metrics", "/v1/traces"] {
        if path.ends_with(signal) {
            return Err(format!(
                "`endpoint` ends in `{signal}`, which is put behind it"
            ));
        }
    }
    let authority = Authority::parse(authority).map_err(|_| wrong())?;
    let host = match authority.host {
        Host::Name(name) => name.to_string(),
        Host::Ip(ip) if ip.is_unspecified() || ip.is_multicast() => return Err(wrong()),
        Host::Ip(ip) => ip.to_string(),
    };
    match authority.port.unwrap_or(PORT) {
        0 => Err(wrong()),
        port => Ok(Endpoint {
            tls,
            host,
            port,
            path: path.to_owned(),
        }),
    }
}

/// Reads the files that it names.
pub(super) fn look_up(file: &Path, declared: &Declared, faults: &mut Vec<Diagnostic>) -> Telemetry {
    let otlp = declared.otlp.as_ref().map(|otlp| {
        let headers = otlp.headers.as_ref().map(|path| {
            credentials::text(&path.value)
                .and_then(|text| read_headers(&text))
                .map_err(|why| {
                    let message =
                        format!("cannot take headers from {}: {why}", path.value.display());
                    path.fault(file, message, HEADERS_HINT)
                })
        });
        let authorities = otlp.ca.as_ref().map(|path| {
            let found = certificates(&path.value).and_then(|found| {
                found.iter().try_for_each(|one| check_authority(one))?;
                match found.iter().map(Vec::len).sum::<usize>() <= MAX_BYTES {
                    true => Ok(found),
                    false => Err(format!("they have more than {MAX_BYTES} bytes together")),
                }
            });
            found.map_err(|why| {
                let message = format!(
                    "cannot read authorities from {}: {why}",
                    path.value.display()
                );
                path.fault(
                    file,
                    message,
                    "name a PEM file with at least one CERTIFICATE",
                )
            })
        });
        let mut take = |fault: Diagnostic| faults.push(fault);
        Otlp {
            endpoint: otlp.endpoint.clone(),
            headers: headers
                .transpose()
                .map_err(&mut take)
                .ok()
                .flatten()
                .unwrap_or_default(),
            certificates: authorities
                .transpose()
                .map_err(&mut take)
                .ok()
                .flatten()
                .unwrap_or_default(),
            interval: otlp.interval,
            resource: otlp.resource.clone(),
        }
    });
    Telemetry {
        prometheus: declared.prometheus.clone(),
        otlp,
    }
}

/// Header fields, one in a line. Those that belong to a request itself are refused.
fn read_headers(text: &str) -> Result<Vec<Header>, String> {
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let read = lines.map(|(index, line)| {
        // Not repeated: there is a secret in it.
        let wrong = |what: &str| format!("line {} {what}", index + 1);
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| wrong("is not `name: value`"))?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(wrong("does not begin with the name of a header field"));
        }
        let own = [
            "host",
            "content-type",
            "content-length",
            "transfer-encoding",
            "connection",
            "user-agent",
        ];
        if own.contains(&name.as_str()) {
            return Err(wrong("has a header field that the guard writes itself"));
        }
        if value.is_empty()
            || !value
                .bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic())
        {
            return Err(wrong("has no value, or one that is not plain ASCII"));
        }
        Ok(Header {
            name,
            value: value.to_owned(),
        })
    });
    let headers: Vec<Header> = read.collect::<Result<_, _>>()?;
    match headers.is_empty() {
        true => Err("it has no line `name: value`".to_owned()),
        false => Ok(headers),
    }
}

#[cfg(test)]
mod tests {
    use super::{read_endpoint, read_headers};

    #[test]
    fn an_endpoint_is_a_url_without_what_has_no_place_there() {
        for (text, shown) in [
            (
                "https://collector.example.com:4318",
                "https://collector.example.com:4318",
            ),
            ("http://192.0.2.7", "http://192.0.2.7:4318"),
            (
                "https://[2001:db8::7]:443/otlp/",
                "https://[2001:db8::7]:443/otlp",
            ),
            (
                "http://Collector.Example/a/b",
                "http://collector.example:4318/a/b",
            ),
        ] {
            assert_eq!(read_endpoint(text).unwrap().to_string(), shown);
        }
        for (text, told) in [
            ("collector:4318", "is not the address"),
            ("grpc://collector:4317", "is not the address"),
            ("https://", "is not the address"),
            ("https://collector:0", "is not the address"),
            ("http://0.0.0.0:1", "is not the address"),
            ("https://collector/a?b=c", "is not the address"),
            ("https://collector/v1/traces", "ends in `/v1/traces`"),
            ("https://me:secret@collector", "stand in `headers_file`"),
        ] {
            let why = read_endpoint(text).unwrap_err();
            assert!(why.contains(told) && !why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn headers_are_lines_and_no_fault_repeats_a_secret() {
        let headers = read_headers("Authorization: Bearer a:b c\n\nx-scope: 1\r\n").unwrap();
        let told: Vec<_> = headers
            .iter()
            .map(|it| (it.name.as_str(), it.value.as_str()))
            .collect();
        assert_eq!(told, [("authorization", "Bearer a:b c"), ("x-scope", "1")]);
        assert!(!format!("{headers:?}").contains("Bearer"));
        for (text, told) in [
            ("", "no line"),
            ("secret", "line 1 is not"),
            ("a: secret\nb b: secret\n", "line 2 does not begin"),
            ("Host: secret", "line 1 has a header field that the guard"),
            ("a: \u{e9}secret", "plain ASCII"),
            ("a:", "no value"),
        ] {
            let why = read_headers(text).unwrap_err();
            assert!(why.contains(told) && !why.contains("secret"), "{why}");
        }
    }
}
