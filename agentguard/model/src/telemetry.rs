//! Where the guard's figures and traces go, as the configuration says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is told to outside. Nothing, by default.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Telemetry {
    /// Where Prometheus finds the figures, as the configuration writes it; the keeper listens there.
    pub prometheus: Option<String>,
    /// The collector that they are sent to.
    pub otlp: Option<Otlp>,
}

/// A collector that speaks OTLP over HTTP with Protobuf.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Otlp {
    /// Where it is.
    pub endpoint: Endpoint,
    /// What is sent along with each request.
    pub headers: Vec<Header>,
    /// Authorities beyond the system's, in DER.
    pub certificates: Vec<Vec<u8>>,
    /// How often the figures are sent.
    pub interval: Duration,
    /// What is said of this guard beside its name, version and host.
    pub resource: BTreeMap<String, String>,
}

/// A collector's address: `http://` or `https://`, host, port, and the path before `/v1/…`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Endpoint {
    /// Whether over TLS.
    pub tls: bool,
    /// A name or an address; one of IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Empty, or with a slash at its beginning and none at its end.
    pub path: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Endpoint {
    /// Host and port, as `Host` has them.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// A header field that the collector is shown.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value: a secret.
    pub value: String,
}

/// Without the value.
impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_struct("Header");
        told.field("name", &self.name).finish_non_exhaustive()
    }
}
