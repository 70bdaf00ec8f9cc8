//! Upstreams that are reached or verified in another way than others.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::HostName;

/// How some upstreams are reached and verified.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UpstreamEntry {
    /// Names, and whether all names below are meant instead.
    pub hosts: Vec<(HostName, bool)>,
    /// Whether every name is meant.
    pub everywhere: bool,
    /// The authorities that certify them, beside the system's, in DER.
    pub certificates: Vec<Vec<u8>>,
    /// Lists of certificates that their authorities have revoked (RFC 5280, 5), in DER.
    pub revocations: Vec<Vec<u8>>,
    /// Where they are, in place of what the names resolve to; without a port, at the one dialled.
    pub address: Option<(IpAddr, Option<u16>)>,
    /// The HTTP proxy through which they are reached.
    pub proxy: Option<UpstreamProxy>,
    /// The name that is asked for and verified in TLS, in place of their own.
    pub server_name: Option<HostName>,
    /// Who the guard says it is, where they ask.
    pub identity: Option<Identity>,
}

/// A certificate of a client's, with its key.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Identity {
    /// The certificate and those between it and its authority, in DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8, PKCS#1 or SEC1, in DER.
    pub key: Vec<u8>,
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// An HTTP proxy between this host and the outside, asked for tunnels in the clear.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UpstreamProxy {
    /// Where it is: a name that the host's resolver knows, or an address.
    pub host: ProxyHost,
    /// Its port, not 0.
    pub port: u16,
    /// What it is shown.
    pub credentials: Option<ProxyCredentials>,
}

/// Where a proxy is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ProxyHost {
    /// A name.
    Name(HostName),
    /// An address.
    Ip(IpAddr),
}

/// As it is configured, without the credentials.
impl fmt::Display for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ProxyHost::Name(name) => write!(f, "http://{name}:{}", self.port),
            ProxyHost::Ip(ip) => write!(f, "http://{}", SocketAddr::new(*ip, self.port)),
        }
    }
}

/// The value of `Proxy-Authorization`.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProxyCredentials(pub String);

/// Without the value.
impl fmt::Debug for ProxyCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProxyCredentials").finish_non_exhaustive()
    }
}

impl UpstreamEntry {
    /// Whether it is one of these.
    #[must_use]
    pub fn is_for(&self, name: &HostName) -> bool {
        let is_for = |(host, below): &(HostName, bool)| {
            if *below {
                name.is_below(host)
            } else {
                name == host
            }
        };
        self.everywhere || self.hosts.iter().any(is_for)
    }

    /// Where it is, if that is said, for who dials `port`.
    #[must_use]
    pub fn place(&self, port: u16) -> Option<SocketAddr> {
        let (ip, own) = self.address?;
        Some(SocketAddr::new(ip, own.unwrap_or(port)))
    }
}
