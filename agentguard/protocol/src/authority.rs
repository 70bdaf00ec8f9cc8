//! Whom a request is for, in one spelling.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use agentguard_model::{HostName, InvalidHost};

/// The host of an authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Host {
    /// A name: lower case, A-labels, no trailing dot.
    Name(HostName),
    /// An address.
    Ip(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// `host[:port]` (RFC 9110, 4.2), without user information.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, where one is given. A default port that is written out is kept here:
    /// [`Authority::is_for_port`] knows what it means.
    pub port: Option<u16>,
}

/// The text is not an authority.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidAuthority {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// It carries user information, which no client sends in a request (RFC 9110, 4.2.4).
    #[error("it carries user information (RFC 9110, 4.2.4)")]
    UserInformation,
    /// Characters other than those of RFC 3986, or percent-encoding, which no two servers decode
    /// alike in a host.
    #[error("it has a character that does not belong in a host")]
    Characters,
    /// The port is not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// The address between brackets is not an IPv6 address.
    #[error("it has no IPv6 address between its brackets")]
    Ipv6,
    /// The host is neither a name nor an address.
    #[error("{0}")]
    Host(#[from] InvalidHost),
}

impl Authority {
    /// Reads an authority. Names are normalised; an IPv4 address must be four decimal numbers.
    ///
    /// # Errors
    /// [`InvalidAuthority`].
    pub fn parse(text: &str) -> Result<Self, InvalidAuthority> {
        if text.is_empty() {
            return Err(InvalidAuthority::Empty);
        }
        if text.contains('@') {
            return Err(InvalidAuthority::UserInformation);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once(']').ok_or(InvalidAuthority::Ipv6)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| InvalidAuthority::Ipv6)?;
            let port = match port {
                "" => None,
                port => Some(parse_port(
                    port.strip_prefix(':').ok_or(InvalidAuthority::Port)?,
                )?),
            };
            return Ok(Self {
                host: Host::Ip(IpAddr::V6(ip)),
                port,
            });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        if !host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return Err(InvalidAuthority::Characters);
        }
        let host = match host.parse() {
            Ok(ip) => Host::Ip(IpAddr::V4(ip)),
            Err(_) => Host::Name(host.parse()?),
        };
        Ok(Self { host, port })
    }

    /// Whether this authority can be meant for `port`: it names that port or none. A missing port
    /// is taken for any, because clients behind port forwarding leave it out and no decision
    /// depends on it.
    #[must_use]
    pub fn is_for_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }

    /// The one spelling of this authority for a connection whose default port is `default`.
    #[must_use]
    pub fn normal(&self, default: u16) -> String {
        match self.port {
            Some(port) if port != default => format!("{}:{port}", self.host),
            _ => self.host.to_string(),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidAuthority> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(InvalidAuthority::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::Authority;

    #[test]
    fn one_spelling_for_each_authority_rfc_9110_4_2_3() {
        for (text, normal) in [
            ("Example.COM", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com:80", Some("example.com")),
            ("example.com:8080", Some("example.com:8080")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("[2001:DB8::1]", Some("[2001:db8::1]")),
            ("[2001:db8::1]:8080", Some("[2001:db8::1]:8080")),
            ("", None),
            (":80", None),
            ("example.com:", None),
            ("example.com:0", None),
            ("example.com:+80", None),
            ("example.com:65536", None),
            ("example.com:80:80", None),
            ("user@example.com", None),
            ("exam%70le.com", None),
            ("example.com/x", None),
            ("example.com other.example", None),
            ("example.com,other.example", None),
            ("bücher.example", None),
            ("0x7f.1", None),
            ("127.1", None),
            ("2130706433", None),
            ("2001:db8::1", None),
            ("[fe80::1%eth0]", None),
            ("[::1", None),
            ("[::1]80", None),
        ] {
            let got = Authority::parse(text).ok().map(|a| a.normal(80));
            assert_eq!(got.as_deref(), normal, "{text:?}");
        }
    }
}
