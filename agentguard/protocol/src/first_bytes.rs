//! What a client speaks, from its first bytes.

/// What the start of a client's stream looks like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FirstBytes {
    /// A TLS record with a handshake message (RFC 8446, 5.1).
    Tls,
    /// An HTTP/1 request line (RFC 9112, 3).
    Http1,
    /// The HTTP/2 connection preface (RFC 9113, 3.4).
    Http2Preface,
    /// A SOCKS5 greeting (RFC 1928, 3).
    Socks5,
    /// A SOCKS4 request.
    Socks4,
    /// None of these.
    Raw,
    /// Too few bytes to tell. Never more than [`MOST_NEEDED`] are needed.
    NeedMore,
}

/// With this many bytes [`classify`] always knows.
pub const MOST_NEEDED: usize = MAX_BLANK + MAX_METHOD + 1 + HTTP_SCHEME.len();

/// What a lenient server could know in lower case.
const METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT",
];

/// More blank space before a request line is no request. Servers skip empty lines (RFC 9112, 2.2), and
/// some skip more.
const MAX_BLANK: usize = 64;

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HTTP_SCHEME: &[u8] = b"http://";
/// A longer word in front of a space is no method.
const MAX_METHOD: usize = 24;

/// Classifies the start of a client's stream. Any split of the stream gives the same answer.
///
/// What is classified here as HTTP or TLS must then be valid HTTP or TLS; it never falls back to
/// [`FirstBytes::Raw`], for what is raw is decided without its contents. So what a lenient server
/// could take for a request is HTTP here, and refused where it is not valid: a method in lower case,
/// blank space in front of it, a tab behind it.
#[must_use]
pub fn classify(bytes: &[u8]) -> FirstBytes {
    match bytes {
        [] => FirstBytes::NeedMore,
        [0x16, rest @ ..] => classify_tls(rest),
        [first, ..] if first.is_ascii_uppercase() => classify_http(bytes),
        [first, ..] if first.is_ascii_lowercase() || is_blank(*first) => {
            let blank = bytes.iter().take_while(|b| is_blank(**b)).count();
            match bytes.get(blank..) {
                Some([]) if blank < MAX_BLANK => FirstBytes::NeedMore,
                Some(line) if blank <= MAX_BLANK => classify_request_line(line),
                _ => FirstBytes::Raw,
            }
        }
        [4 | 5] => FirstBytes::NeedMore,
        // A greeting offers at least one method, a request of version 4 is one of two.
        [5, 1..=255, ..] => FirstBytes::Socks5,
        [4, 1 | 2, ..] => FirstBytes::Socks4,
        _ => FirstBytes::Raw,
    }
}

/// The five bytes after the content type: version 3.x, length, handshake type. A record that is
/// too short or too long for a hello is still TLS, and malformed.
fn classify_tls(rest: &[u8]) -> FirstBytes {
    match rest {
        [] | [3] => FirstBytes::NeedMore,
        [3, minor, ..] if *minor <= 4 => FirstBytes::Tls,
        _ => FirstBytes::Raw,
    }
}

fn classify_http(bytes: &[u8]) -> FirstBytes {
    let shared = bytes
        .iter()
        .zip(HTTP2_PREFACE)
        .take_while(|(a, b)| a == b)
        .count();
    // `PRI` is reserved (RFC 9113, 3.4): nobody's method from its space on.
    if shared > 3 && (shared == bytes.len() || shared == HTTP2_PREFACE.len()) {
        return if shared == HTTP2_PREFACE.len() {
            FirstBytes::Http2Preface
        } else {
            FirstBytes::NeedMore
        };
    }
    classify_request_line(bytes)
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)
}

fn classify_request_line(bytes: &[u8]) -> FirstBytes {
    let word = bytes
        .iter()
        .take_while(|b| b.is_ascii_alphabetic() || **b == b'-')
        .count();
    if word == 0 {
        return FirstBytes::Raw;
    }
    // Other protocols begin with words in lower case, and wait for an answer to them.
    let known = |method: &&[u8]| match (bytes.get(..word), word == bytes.len()) {
        (Some(word), true) => method
            .get(..word.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(word)),
        (Some(word), false) => method.eq_ignore_ascii_case(word),
        (None, _) => false,
    };
    let lower = bytes.iter().take(word).any(u8::is_ascii_lowercase);
    if lower && !METHODS.iter().any(known) {
        return FirstBytes::Raw;
    }
    if word > MAX_METHOD {
        return FirstBytes::Raw;
    }
    let (Some(method), Some(rest)) = (bytes.get(..word), bytes.get(word..)) else {
        return FirstBytes::Raw;
    };
    match rest {
        [] | [b' ' | b'\t'] => FirstBytes::NeedMore,
        [b' ' | b'\t', b'/' | b'*', ..] => FirstBytes::Http1,
        [b' ' | b'\t', ..] if method.eq_ignore_ascii_case(b"CONNECT") => FirstBytes::Http1,
        [b' ' | b'\t', target @ ..] => {
            let start = target.get(..HTTP_SCHEME.len()).unwrap_or(target);
            let prefix = HTTP_SCHEME.get(..start.len()).unwrap_or(HTTP_SCHEME);
            if !start.eq_ignore_ascii_case(prefix) {
                FirstBytes::Raw
            } else if start.len() < HTTP_SCHEME.len() {
                FirstBytes::NeedMore
            } else {
                FirstBytes::Http1
            }
        }
        _ => FirstBytes::Raw,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FirstBytes, HTTP2_PREFACE, MOST_NEEDED, classify};

    #[test]
    fn real_protocols_are_told_apart() {
        for (bytes, expected) in [
            (&b""[..], FirstBytes::NeedMore),
            (b"G", FirstBytes::NeedMore),
            (b"GET ", FirstBytes::NeedMore),
            (b"GET /", FirstBytes::Http1),
            (b"OPTIONS * HTTP/1.1", FirstBytes::Http1),
            (b"GET http://a/", FirstBytes::Http1),
            (b"GET HTTP://a/", FirstBytes::Http1),
            (b"GET htt", FirstBytes::NeedMore),
            (b"CONNECT a:443 HTTP/1.1", FirstBytes::Http1),
            (b"M-SEARCH * HTTP/1.1", FirstBytes::Http1),
            (HTTP2_PREFACE, FirstBytes::Http2Preface),
            (b"PRI * HTTP/2", FirstBytes::NeedMore),
            (b"PRI /x", FirstBytes::Http1),
            (b"PRI * HTTP/1.1\r\n", FirstBytes::Http1),
            (b"get / HTTP/1.1", FirstBytes::Http1),
            (b"get key\r\n", FirstBytes::Raw),
            (b"Get /", FirstBytes::Http1),
            (b"hello", FirstBytes::Raw),
            (b"Hello", FirstBytes::Raw),
            (b"he", FirstBytes::NeedMore),
            (b"ping", FirstBytes::Raw),
            (b"connect a:443 HTTP/1.1", FirstBytes::Http1),
            (b"CONNECT\ta:443 HTTP/1.1", FirstBytes::Http1),
            (b" CONNECT a:443 HTTP/1.1", FirstBytes::Http1),
            (b"\r\n\r\n", FirstBytes::NeedMore),
            (b"\r\nEHLO client.example\r\n", FirstBytes::Raw),
            (b"\r\n\0", FirstBytes::Raw),
            (&[b'\n'; 65], FirstBytes::Raw),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", FirstBytes::Raw),
            (b"EHLO client.example\r\n", FirstBytes::Raw),
            (b"HELO http\r\n", FirstBytes::Raw),
            (b"*1\r\n$4\r\nPING\r\n", FirstBytes::Raw),
            (b"PING\r\n", FirstBytes::Raw),
            (b"\r\nGET / HTTP/1.1", FirstBytes::Http1),
            (&[0x16], FirstBytes::NeedMore),
            (&[0x16, 3], FirstBytes::NeedMore),
            (&[0x16, 3, 1], FirstBytes::Tls),
            (&[0x16, 3, 3, 0, 0], FirstBytes::Tls),
            (&[0x16, 2, 1], FirstBytes::Raw),
            (&[5], FirstBytes::NeedMore),
            (&[5, 1], FirstBytes::Socks5),
            (&[5, 2, 0, 2], FirstBytes::Socks5),
            (&[4, 1, 0, 80], FirstBytes::Socks4),
            // Cassandra, and DCE/RPC.
            (&[4, 0, 0, 0, 1], FirstBytes::Raw),
            (&[5, 0, 0, 3, 16], FirstBytes::Raw),
            (&[0x16, 3, 9], FirstBytes::Raw),
            (&[0x80, 0x2e, 1, 3, 1], FirstBytes::Raw),
            (&[0, 0, 0, 8, 4, 210, 22, 47], FirstBytes::Raw),
        ] {
            assert_eq!(
                classify(bytes),
                expected,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    proptest! {
        #[test]
        fn an_answer_once_given_stands(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            "[\r\n ]{0,3}(GET|PRI|CONNECT|[A-Za-z-]{1,30}) (/|\\*|http://|[a-z]{0,9}).{0,20}".prop_map(String::into_bytes),
        ]) {
            let whole = classify(&bytes);
            for end in 0..bytes.len() {
                let part = classify(&bytes[..end]);
                prop_assert!(part == whole || part == FirstBytes::NeedMore, "{end}");
            }
            if bytes.len() >= MOST_NEEDED {
                prop_assert_ne!(whole, FirstBytes::NeedMore);
            }
        }
    }
}
