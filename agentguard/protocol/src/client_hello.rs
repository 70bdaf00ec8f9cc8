//! The first message of a TLS client, out of records of any shape.
//!
//! rustls decides whether the hello is valid; the extensions that rustls does not show (a server
//! name that it would ignore, Encrypted Client Hello) are read beside it from the same bytes. Where
//! the two do not agree on the server name the hello is refused.
//!
//! **Invariant:** at most [`MAX_HELLO`] bytes are kept, and every byte that came in is still there
//! to be replayed.

use std::fmt;

use agentguard_model::HostName;
use rustls::server::Acceptor;

/// The most bytes a hello may take, record headers included: what a handshake message of 64 KiB
/// needs in records of any sensible size. Reaching it is [`TlsMalformed::TooLong`].
pub const MAX_HELLO: usize = 64 * 1024;

/// What a hello says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// The server name (RFC 6066, 3), normalised; `None` if the client sent none.
    pub server_name: Option<HostName>,
    /// The application protocols that the client offers (RFC 7301), in its order.
    pub alpn: Vec<Vec<u8>>,
    /// Whether the Encrypted Client Hello extension is there (RFC 9849). Browsers also send it
    /// filled with noise, so that its presence alone says nothing.
    pub ech: bool,
}

/// How far the reading of a hello came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress {
    /// More bytes are needed.
    NeedMore,
    /// It is there.
    Hello(Hello),
}

/// Why a hello is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TlsMalformed {
    /// It takes more than [`MAX_HELLO`] bytes.
    #[error("the ClientHello is longer than {MAX_HELLO} bytes")]
    TooLong,
    /// The stream ended before the hello did.
    #[error("the stream ended inside the ClientHello")]
    Truncated,
    /// The bytes are not handshake records (RFC 8446, 5.1).
    #[error("the bytes are not TLS handshake records (RFC 8446, 5.1)")]
    Record,
    /// The hello itself cannot be read, says rustls.
    #[error("the ClientHello cannot be read: {0}")]
    Hello(String),
    /// The server name is an address or no host name at all (RFC 6066, 3).
    #[error("the server name `{0}` is not a host name (RFC 6066, 3)")]
    ServerName(String),
}

/// Reads a hello from a stream, in pieces of any size.
#[derive(Default)]
pub struct HelloReader {
    acceptor: Acceptor,
    bytes: Vec<u8>,
    records: Records,
}

impl fmt::Debug for HelloReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelloReader")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl HelloReader {
    /// Takes the next bytes of the stream. Bytes behind the hello are kept, too. To be called no
    /// more after it gave anything but [`Progress::NeedMore`].
    ///
    /// # Errors
    /// [`TlsMalformed`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Progress, TlsMalformed> {
        self.bytes.extend_from_slice(bytes);
        let whole = self.records.advance(&self.bytes)?;
        while !bytes.is_empty() {
            // rustls takes as much as its own buffer holds and must be asked in between.
            let before = bytes.len();
            self.acceptor
                .read_tls(&mut bytes)
                .map_err(|error| TlsMalformed::Hello(error.to_string()))?;
            let accepted = self
                .acceptor
                .accept()
                .map_err(|(error, _)| TlsMalformed::Hello(error.to_string()))?;
            if let Some(accepted) = accepted {
                let hello = accepted.client_hello();
                return self.finish(hello.server_name()).map(Progress::Hello);
            }
            if bytes.len() == before {
                break;
            }
        }
        if whole {
            return Err(TlsMalformed::Hello("it ends early".to_owned()));
        }
        if self.bytes.len() > MAX_HELLO {
            return Err(TlsMalformed::TooLong);
        }
        Ok(Progress::NeedMore)
    }

    /// Every byte that came in, to be replayed to the upstream.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The bytes up to the end of the hello, and those behind it.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        let mut hello = self.bytes;
        let rest = hello.split_off(self.records.at.min(hello.len()));
        (hello, rest)
    }

    fn finish(&self, accepted_name: Option<&str>) -> Result<Hello, TlsMalformed> {
        let body = self
            .records
            .body()
            .ok_or_else(|| TlsMalformed::Hello("it is not the first message".to_owned()))?;
        if self.records.handshake.len() > 4 + body.len() {
            let why = "there is more than a hello in its records".to_owned();
            return Err(TlsMalformed::Hello(why));
        }
        let own = Extensions::read(body)
            .ok_or_else(|| TlsMalformed::Hello("its extensions cannot be read".to_owned()))?;
        let server_name = own
            .server_name
            .map(|raw| {
                let shown = || {
                    let start = raw.escape_ascii().take(80).map(char::from).collect();
                    TlsMalformed::ServerName(start)
                };
                let text = std::str::from_utf8(raw).map_err(|_| shown())?;
                if !text.is_ascii() {
                    return Err(shown());
                }
                text.parse::<HostName>().map_err(|_| shown())
            })
            .transpose()?;
        let accepted_name = accepted_name.map(str::parse::<HostName>).transpose();
        if accepted_name != Ok(server_name.clone()) {
            return Err(TlsMalformed::Hello(
                "its server name has two readings".to_owned(),
            ));
        }
        Ok(Hello {
            server_name,
            alpn: own.alpn,
            ech: own.ech,
        })
    }
}

/// The handshake bytes inside the records that came in so far (RFC 8446, 5.1).
#[derive(Default)]
struct Records {
    /// How much of the stream is consumed.
    at: usize,
    handshake: Vec<u8>,
}

impl Records {
    /// Consumes whole records from `stream` until the first message is complete, and tells whether
    /// it is.
    fn advance(&mut self, stream: &[u8]) -> Result<bool, TlsMalformed> {
        while self.body().is_none() {
            let rest = stream.get(self.at..).unwrap_or_default();
            let (kind, header) = match rest {
                [kind, 3, _, high, low, ..] => (*kind, [*high, *low]),
                [_, version, ..] if *version != 3 => return Err(TlsMalformed::Record),
                _ => return Ok(false),
            };
            let length = usize::from(u16::from_be_bytes(header));
            // Only handshake records, none empty, none longer than a plaintext may be.
            if kind != 22 || length == 0 || length > 1 << 14 {
                return Err(TlsMalformed::Record);
            }
            let Some(fragment) = rest.get(5..5 + length) else {
                return Ok(false);
            };
            self.handshake.extend_from_slice(fragment);
            self.at += 5 + length;
        }
        Ok(true)
    }

    /// The body of the first message, if it is complete and a ClientHello.
    fn body(&self) -> Option<&[u8]> {
        match self.handshake.as_slice() {
            [1, a, b, c, body @ ..] => {
                let length = u32::from_be_bytes([0, *a, *b, *c]);
                body.get(..usize::try_from(length).ok()?)
            }
            _ => None,
        }
    }
}

/// What is read beside rustls (RFC 8446, 4.1.2).
struct Extensions<'a> {
    server_name: Option<&'a [u8]>,
    alpn: Vec<Vec<u8>>,
    ech: bool,
}

impl<'a> Extensions<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut found = Self {
            server_name: None,
            alpn: Vec::new(),
            ech: false,
        };
        let mut rest = body.get(2 + 32..)?;
        take_vector::<1>(&mut rest)?;
        take_vector::<2>(&mut rest)?;
        take_vector::<1>(&mut rest)?;
        if rest.is_empty() {
            return Some(found);
        }
        let mut extensions = take_vector::<2>(&mut rest)?;
        while !extensions.is_empty() {
            let kind = take_number::<2>(&mut extensions)?;
            let mut data = take_vector::<2>(&mut extensions)?;
            match kind {
                0 => {
                    let mut names = take_vector::<2>(&mut data)?;
                    // A list with one host name (type 0) and nothing else (RFC 6066, 3).
                    if take_number::<1>(&mut names)? != 0 {
                        return None;
                    }
                    found.server_name = Some(take_vector::<2>(&mut names)?);
                    if !names.is_empty() {
                        return None;
                    }
                }
                16 => {
                    let mut protocols = take_vector::<2>(&mut data)?;
                    while !protocols.is_empty() {
                        found.alpn.push(take_vector::<1>(&mut protocols)?.to_vec());
                    }
                }
                0xfe0d => found.ech = true,
                _ => {}
            }
        }
        Some(found)
    }
}

/// A number of `N` bytes.
fn take_number<const N: usize>(bytes: &mut &[u8]) -> Option<usize> {
    let (number, rest) = bytes.split_at_checked(N)?;
    *bytes = rest;
    Some(
        number
            .iter()
            .fold(0, |sum, byte| (sum << 8) | usize::from(*byte)),
    )
}

/// A vector behind its length of `N` bytes.
fn take_vector<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_number::<N>(bytes)?;
    let (vector, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(vector)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::{Hello, HelloReader, MAX_HELLO, Progress, TlsMalformed};

    fn real_hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn vector<const N: usize>(bytes: &[u8]) -> Vec<u8> {
        let length = bytes.len().to_be_bytes();
        [&length[length.len() - N..], bytes].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector::<2>(data)].concat()
    }

    fn server_name(name: &[u8]) -> Vec<u8> {
        extension(0, &vector::<2>(&[&[0][..], &vector::<2>(name)].concat()))
    }

    /// A hello written by hand, as a handshake message without records.
    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let groups = extension(10, &vector::<2>(&[0, 29]));
        let schemes = extension(13, &vector::<2>(&[4, 3]));
        let extensions = [&extensions.concat()[..], &groups, &schemes].concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector::<1>(&[]),
            &vector::<2>(&[0xc0, 0x2b]),
            &vector::<1>(&[0]),
            &vector::<2>(&extensions),
        ]
        .concat();
        [&[1][..], &vector::<3>(&body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1][..], &vector::<2>(part)].concat())
            .collect()
    }

    fn read(bytes: &[u8]) -> Result<Progress, TlsMalformed> {
        HelloReader::default().push(bytes)
    }

    fn hello(bytes: &[u8]) -> Hello {
        match read(bytes) {
            Ok(Progress::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_real_hello_byte_by_byte_with_its_bytes_kept() {
        let bytes = real_hello("Api.Example", &["h2", "http/1.1"]);
        let mut reader = HelloReader::default();
        for (at, byte) in bytes.iter().enumerate() {
            match reader.push(&[*byte]).unwrap() {
                Progress::NeedMore => assert!(at + 1 < bytes.len()),
                Progress::Hello(hello) => {
                    assert_eq!(at + 1, bytes.len());
                    assert_eq!(hello.server_name, Some("api.example".parse().unwrap()));
                    assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
                    assert!(!hello.ech);
                }
            }
        }
        let (hello, rest) = reader.into_parts();
        assert_eq!([hello, rest].concat(), bytes);
    }

    #[test]
    fn a_hello_to_an_address_has_no_server_name_rfc_6066_3() {
        assert_eq!(hello(&real_hello("192.0.2.1", &[])).server_name, None);
    }

    #[test]
    fn one_byte_per_record_rfc_8446_5_1() {
        let message = message(&[server_name(b"a.example")]);
        let got = hello(&records(&message, 1));
        assert_eq!(got.server_name, Some("a.example".parse().unwrap()));
    }

    #[test]
    fn a_hello_of_post_quantum_size_in_small_records() {
        // The size of several hybrid key shares, far beyond any fixed peek.
        let padding = extension(21, &vec![0; 12_000]);
        let message = message(&[server_name(b"a.example"), padding]);
        for size in [512, 1400, 16_384] {
            let got = hello(&records(&message, size));
            assert_eq!(got.server_name, Some("a.example".parse().unwrap()));
        }
    }

    #[test]
    fn encrypted_client_hello_is_seen_beside_the_outer_name() {
        let outer = [
            &[0, 0, 1, 0, 1, 9][..],
            &vector::<2>(&[7; 32]),
            &vector::<2>(&[8; 64]),
        ]
        .concat();
        let message = message(&[server_name(b"a.example"), extension(0xfe0d, &outer)]);
        let got = hello(&records(&message, 16_384));
        assert!(got.ech);
        assert_eq!(got.server_name, Some("a.example".parse().unwrap()));
    }

    #[test]
    fn absurd_server_names_are_refused() {
        for name in [
            &b"192.0.2.1"[..],
            b"2001:db8::1",
            b"0x7f.1",
            b"",
            b"a..b",
            b"a\0.example",
            b"a.example:443",
            b"a.example/",
            b"*.example",
            b"b\xc3\xbccher.example",
            &[b'a'; 64],
            &[b'a'; 300],
        ] {
            let bytes = records(&message(&[server_name(name)]), 16_384);
            let got = read(&bytes);
            assert!(
                matches!(
                    got,
                    Err(TlsMalformed::ServerName(_) | TlsMalformed::Hello(_))
                ),
                "{}: {got:?}",
                name.escape_ascii()
            );
        }
    }

    #[test]
    fn two_server_names_are_refused() {
        let one = [&[0][..], &vector::<2>(b"a.example")].concat();
        let two = [&[0][..], &vector::<2>(b"b.example")].concat();
        let both = extension(0, &vector::<2>(&[one, two].concat()));
        for extensions in [
            vec![both],
            vec![server_name(b"a.example"), server_name(b"b.example")],
        ] {
            let got = read(&records(&message(&extensions), 16_384));
            assert!(matches!(got, Err(TlsMalformed::Hello(_))), "{got:?}");
        }
    }

    #[test]
    fn broken_records_are_refused() {
        let good = records(&message(&[server_name(b"a.example")]), 16_384);
        let mut other_type = good.clone();
        other_type[0] = 23;
        let mut other_version = good;
        other_version[1] = 2;
        for (bytes, expected) in [
            (other_type, TlsMalformed::Record),
            (other_version, TlsMalformed::Record),
            (vec![22, 3, 1, 0, 0], TlsMalformed::Record),
            (vec![22, 3, 1, 0xff, 0xff], TlsMalformed::Record),
        ] {
            assert_eq!(read(&bytes), Err(expected));
        }
        let server_hello = records(&[&[2][..], &vector::<3>(&[0; 40])].concat(), 16_384);
        assert!(read(&server_hello).is_err());
    }

    #[test]
    fn an_endless_hello_is_refused_at_the_bound() {
        let message = [&[1, 0xff, 0xff, 0xff][..], &[0; 2 * MAX_HELLO]].concat();
        let bytes = records(&message, 1000);
        let mut reader = HelloReader::default();
        let mut pushed = 0;
        let refused = bytes.chunks(997).find_map(|part| {
            pushed += part.len();
            reader.push(part).err()
        });
        assert!(refused.is_some());
        assert!(pushed <= MAX_HELLO + 997, "{pushed}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            let _ = read(&records(&bytes, 60));
            let _ = read(&records(&[&[1][..], &vector::<3>(&bytes)].concat(), 60));
        }

        #[test]
        fn any_split_reads_the_same(
            record in 1_usize..400,
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            flip in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
        ) {
            let mut message = message(&[server_name(b"a.example"), extension(21, &[0; 300])]);
            if let Some((at, value)) = flip {
                let at = at.index(message.len());
                message[at] = value;
            }
            let bytes = records(&message, record);
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut reader = HelloReader::default();
            let mut from = 0;
            let mut split = Ok(Progress::NeedMore);
            for to in cuts {
                if split != Ok(Progress::NeedMore) {
                    break;
                }
                split = reader.push(&bytes[from..to]);
                from = to;
            }
            prop_assert_eq!(split.is_err(), read(&bytes).is_err());
            if let (Ok(split), Ok(whole)) = (split, read(&bytes)) {
                prop_assert_eq!(split, whole);
            }
        }
    }
}
