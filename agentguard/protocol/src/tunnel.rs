//! What a client says to a proxy that it wants a tunnel from: CONNECT (RFC 9110, 9.3.6) and
//! SOCKS5 (RFC 1928).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::HttpMalformed;
use crate::authority::{Authority, Host};
use crate::http1::{Gate, MAX_HEAD, Position};

/// Where a tunnel is to lead.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Destination {
    /// The host.
    pub host: Host,
    /// The port, not 0.
    pub port: u16,
}

impl fmt::Display for Destination {
    /// In the form of CONNECT's target.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How far a message has been read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress<T> {
    /// It is not whole. The bound is [`MAX_HEAD`] for CONNECT, 262 bytes for SOCKS.
    NeedMore,
    /// It is; so many bytes belong to it.
    Done(T, usize),
}

/// Reads a CONNECT request from the start of a stream. Its fields are for the proxy and mean
/// nothing here; a body it cannot have (RFC 9110, 9.3.6).
///
/// # Errors
/// [`HttpMalformed`], as for other requests, and for a target that is not `host:port`.
pub fn read_connect(bytes: &[u8]) -> Result<Progress<Destination>, HttpMalformed> {
    const END: &[u8] = b"\r\n\r\n";
    let end = bytes.windows(END.len()).position(|window| window == END);
    let head = match end.and_then(|end| bytes.get(..end + END.len())) {
        Some(head) => head,
        // The gate finds at once what will never be whole.
        None => bytes,
    };
    let mut gate = Gate::default();
    gate.push(head);
    if let Some(refused) = gate.refused() {
        return Err(refused.why.clone());
    }
    if end.is_none() {
        return if bytes.len() > MAX_HEAD {
            Err(HttpMalformed::HeadTooLong)
        } else {
            Ok(Progress::NeedMore)
        };
    }
    if gate.position() != Position::BetweenRequests {
        return Err(HttpMalformed::Target("a request for a tunnel has no body"));
    }
    let mut fields = [httparse::EMPTY_HEADER; crate::http1::MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let (Ok(httparse::Status::Complete(_)), Some("CONNECT"), Some(target)) =
        (request.parse(head), request.method, request.path)
    else {
        return Err(HttpMalformed::RequestLine("it is no CONNECT"));
    };
    let Authority { host, port } = Authority::parse(target)?;
    let port = port.ok_or(HttpMalformed::Target("a tunnel's target needs a port"))?;
    Ok(Progress::Done(Destination { host, port }, head.len()))
}

/// What is wrong with a SOCKS message, or not carried.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SocksRefused {
    /// The message does not begin with 5.
    #[error("the message is not of SOCKS version 5 (RFC 1928)")]
    Version,
    /// The client wants to say who it is, which the guard knows already.
    #[error("the client offers no SOCKS5 without authentication (RFC 1928, 3)")]
    Authentication,
    /// BIND or UDP ASSOCIATE.
    #[error("the SOCKS5 command {0} is not carried, only CONNECT (RFC 1928, 4)")]
    Command(u8),
    /// An address of another kind than those of RFC 1928, or a name or port that cannot be one.
    #[error("the SOCKS5 address cannot be read (RFC 1928, 5)")]
    Address,
}

impl SocksRefused {
    /// The code of the reply (RFC 1928, 6).
    #[must_use]
    pub const fn reply(&self) -> u8 {
        match self {
            Self::Version | Self::Authentication => 1,
            Self::Command(_) => 7,
            Self::Address => 8,
        }
    }
}

/// What a client is told in place of an authentication (RFC 1928, 3).
pub const SOCKS_NO_AUTHENTICATION: [u8; 2] = [5, 0];
/// What it is told where it offers nothing that is acceptable.
pub const SOCKS_NOTHING_ACCEPTABLE: [u8; 2] = [5, 0xff];
/// The reply's code for a tunnel that is there (RFC 1928, 6).
pub const SOCKS_SUCCEEDED: u8 = 0;
/// For one that the rules do not allow.
pub const SOCKS_NOT_ALLOWED: u8 = 2;

/// For one whose host cannot be reached.
pub const SOCKS_HOST_UNREACHABLE: u8 = 4;

/// A reply (RFC 1928, 6). The address that was bound is nobody's affair.
#[must_use]
pub const fn socks_reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// Reads a greeting (RFC 1928, 3).
///
/// # Errors
/// [`SocksRefused`].
pub fn read_socks_greeting(bytes: &[u8]) -> Result<Progress<()>, SocksRefused> {
    let (count, methods) = match bytes {
        [] | [5] => return Ok(Progress::NeedMore),
        [5, count, methods @ ..] => (usize::from(*count), methods),
        _ => return Err(SocksRefused::Version),
    };
    match methods.get(..count) {
        None => Ok(Progress::NeedMore),
        Some(methods) if methods.contains(&0) => Ok(Progress::Done((), 2 + count)),
        Some(_) => Err(SocksRefused::Authentication),
    }
}

/// Reads a request (RFC 1928, 4).
///
/// # Errors
/// [`SocksRefused`].
pub fn read_socks_request(bytes: &[u8]) -> Result<Progress<Destination>, SocksRefused> {
    if bytes.first().is_some_and(|version| *version != 5) {
        return Err(SocksRefused::Version);
    }
    let &[_, command, _, kind, first, ..] = bytes else {
        return Ok(Progress::NeedMore);
    };
    if command != 1 {
        return Err(SocksRefused::Command(command));
    }
    let (begin, length) = match kind {
        1 => (4, 4),
        3 => (5, usize::from(first)),
        4 => (4, 16),
        _ => return Err(SocksRefused::Address),
    };
    let end = begin + length;
    let (Some(address), Some(&[high, low])) = (bytes.get(begin..end), bytes.get(end..end + 2))
    else {
        return Ok(Progress::NeedMore);
    };
    let host = match kind {
        3 => read_name(address),
        _ => read_address(address).map(Host::Ip),
    };
    match (host, u16::from_be_bytes([high, low])) {
        (Some(host), port @ 1..) => Ok(Progress::Done(Destination { host, port }, end + 2)),
        _ => Err(SocksRefused::Address),
    }
}

fn read_address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(octets).ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// A name; some clients put an address there.
fn read_name(bytes: &[u8]) -> Option<Host> {
    let text = std::str::from_utf8(bytes).ok()?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Host::Ip(ip));
    }
    match Authority::parse(text) {
        Ok(Authority { host, port: None }) => Some(host),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        Destination, Progress, SocksRefused, read_connect, read_socks_greeting, read_socks_request,
    };
    use crate::HttpMalformed;

    /// Where a message leads, and what is left.
    fn led<E>(read: Result<Progress<Destination>, E>, bytes: &[u8]) -> Result<(String, usize), E> {
        match read? {
            Progress::Done(destination, used) => Ok((destination.to_string(), bytes.len() - used)),
            Progress::NeedMore => Ok(("more".to_owned(), bytes.len())),
        }
    }

    #[test]
    fn connect_leads_to_host_and_port_rfc_9110_9_3_6() {
        let read = |text: &str| led(read_connect(text.as_bytes()), text.as_bytes());
        for (text, to, left) in [
            (
                "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n",
                "api.example:443",
                0,
            ),
            (
                "CONNECT API.Example.:22 HTTP/1.0\r\n\r\n\x16\x03",
                "api.example:22",
                2,
            ),
            (
                "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic YQ==\r\n\r\n",
                "[2001:db8::1]:443",
                0,
            ),
            (
                "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: x\r\n\r\n",
                "192.0.2.1:443",
                0,
            ),
            (
                "CONNECT api.example:443 HTTP/1.1\r\nHost: x\r\n",
                "more",
                43,
            ),
        ] {
            assert_eq!(read(text), Ok((to.to_owned(), left)), "{text:?}");
        }
        for (text, why) in [
            (
                "CONNECT api.example HTTP/1.1\r\nHost: x\r\n\r\n",
                HttpMalformed::Target("a tunnel's target needs a port"),
            ),
            (
                "CONNECT api.example:443 HTTP/1.1\nHost: x\r\n",
                HttpMalformed::BareLf,
            ),
            (
                "CONNECT api.example:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
                HttpMalformed::Target("a request for a tunnel has no body"),
            ),
            (
                "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                HttpMalformed::RequestLine("it is no CONNECT"),
            ),
        ] {
            assert_eq!(read(text), Err(why), "{text:?}");
        }
        assert!(read("CONNECT a@b:443 HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
        assert!(read("CONNECT /x:443 HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
        let long = format!("CONNECT a:1 HTTP/1.1\r\nA: {}", "x".repeat(70_000));
        assert_eq!(read(&long), Err(HttpMalformed::HeadTooLong));
    }

    #[test]
    fn socks_messages_rfc_1928() {
        for (bytes, expected) in [
            (&[5][..], Ok(Progress::NeedMore)),
            (&[5, 2, 2], Ok(Progress::NeedMore)),
            (&[5, 2, 2, 0], Ok(Progress::Done((), 4))),
            (&[5, 1, 0, 9, 9], Ok(Progress::Done((), 3))),
            (&[5, 1, 2], Err(SocksRefused::Authentication)),
            (&[4, 1, 0], Err(SocksRefused::Version)),
        ] {
            assert_eq!(read_socks_greeting(bytes), expected, "{bytes:?}");
        }
        let read = |bytes: &[u8]| led(read_socks_request(bytes), bytes);
        for (bytes, to, left) in [
            (&[5, 1, 0, 1, 192, 0, 2, 1, 1, 187][..], "192.0.2.1:443", 0),
            (
                b"\x05\x01\x00\x03\x0bapi.example\x01\xbb\x16",
                "api.example:443",
                1,
            ),
            (b"\x05\x01\x00\x03\x09192.0.2.1\x00\x16", "192.0.2.1:22", 0),
            (
                &[
                    5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80,
                ],
                "[2001:db8::1]:80",
                0,
            ),
            (b"\x05\x01\x00\x03\x0bapi.example\x01", "more", 17),
        ] {
            assert_eq!(read(bytes), Ok((to.to_owned(), left)), "{bytes:?}");
        }
        for (bytes, why) in [
            (&[5, 3, 0, 1, 0][..], SocksRefused::Command(3)),
            (&[5, 1, 0, 2, 0], SocksRefused::Address),
            (&[5, 1, 0, 1, 192, 0, 2, 1, 0, 0], SocksRefused::Address),
            (b"\x05\x01\x00\x03\x03a:1\x00\x01", SocksRefused::Address),
            (b"\x05\x01\x00\x03\x00\x00\x01", SocksRefused::Address),
            (&[4, 1, 0, 80, 1], SocksRefused::Version),
        ] {
            assert_eq!(read(bytes), Err(why), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_never_beyond_their_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let with = |first: &[u8]| [first, &bytes].concat();
            if let Ok(Progress::Done((), used)) = read_socks_greeting(&with(&[5])) {
                prop_assert!(used <= bytes.len() + 1);
            }
            if let Ok(Progress::Done(_, used)) = read_socks_request(&with(&[5, 1, 0])) {
                prop_assert!(used <= bytes.len() + 3);
            }
            if let Ok(Progress::Done(_, used)) = read_connect(&with(b"CONNECT ")) {
                prop_assert!(used <= bytes.len() + 8);
            }
        }
    }
}
