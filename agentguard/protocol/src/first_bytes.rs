//! What a client speaks, from its first bytes.

/// What the start of a client's stream looks like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FirstBytes {
    /// A TLS record (RFC 8446, 5.1), or a hello of SSL 2.
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
    /// The same; most likely none of these, but the line may still come to be a request's. However long
    /// it is, a [`LineReader`] tells.
    Line,
}

/// With this many bytes [`classify`] always knows, or says [`FirstBytes::Line`].
pub const MOST_NEEDED: usize = MAX_BLANK + MAX_LINE + 1;

/// What a lenient server could know in lower case.
const METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT",
];

/// Servers skip empty lines before a request line (RFC 9112, 2.2), and some skip more, and more of it. So
/// much of it is waited for; no other protocol begins with more.
const MAX_BLANK: usize = 64;

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What stands in a request line and in few other first lines.
const HTTP_VERSION: &[u8] = b"HTTP/";
/// A longer line that begins with a method is a request's, and too long for one.
const MAX_LINE: usize = 16 * 1024;

/// Classifies the start of a client's stream. Any split of the stream gives the same answer.
///
/// What is classified here as HTTP or TLS must then be valid HTTP or TLS; it never falls back to
/// [`FirstBytes::Raw`], for what is raw is decided without its contents. So what a lenient server
/// could take for a request is HTTP here, and refused where it is not valid: a method in lower case or
/// of any letters, blank space in front of it, a tab behind it, any target in front of `HTTP/`. And so is TLS
/// what a server could take for it that looks away from a record's version.
#[must_use]
pub fn classify(bytes: &[u8]) -> FirstBytes {
    match bytes {
        [] => FirstBytes::NeedMore,
        [20..=22, ..] => classify_record(bytes),
        [128..=255, ..] => classify_ssl2(bytes),
        [first, ..] if is_token(*first) => classify_http(bytes),
        [first, ..] if is_blank(*first) => {
            let blank = bytes.iter().take_while(|b| is_blank(**b)).count();
            match bytes.get(blank..) {
                _ if blank > MAX_BLANK => FirstBytes::Http1,
                Some([first, ..]) if !is_token(*first) => FirstBytes::Raw,
                Some(line @ [_, ..]) => classify_request_line(line),
                _ => FirstBytes::Line,
            }
        }
        [4 | 5] => FirstBytes::NeedMore,
        // A greeting offers at least one method, a request of version 4 is one of two.
        [5, 1..=255, ..] => FirstBytes::Socks5,
        [4, 1 | 2, ..] => FirstBytes::Socks4,
        _ => FirstBytes::Raw,
    }
}

/// The type of a record, its version, its length (RFC 8446, 5.1). A handshake record of version 3.x is TLS,
/// whatever is behind. Other versions, which some servers look away from, and records that some let pass
/// in front of a hello are TLS where the rest is: other protocols begin with lengths.
fn classify_record(bytes: &[u8]) -> FirstBytes {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    let (kind, rest) = match bytes {
        [HANDSHAKE, 3, ..] => return FirstBytes::Tls,
        [kind, rest @ ..] => (*kind, rest),
        [] => return FirstBytes::NeedMore,
    };
    let fits = |at: usize, fits: bool| fits || rest.len() <= at;
    let byte = |at: usize| rest.get(at).copied().unwrap_or_default();
    let is_record = match kind {
        // At most 2^14 bytes, and some that nobody minds.
        HANDSHAKE => fits(2, byte(2) <= 0x41) && fits(4, byte(4) == CLIENT_HELLO),
        ALERT => fits(2, byte(2) == 0) && fits(3, byte(3) == 2),
        CHANGE_CIPHER_SPEC => {
            fits(2, byte(2) == 0) && fits(3, byte(3) == 1) && fits(4, byte(4) == 1)
        }
        _ => false,
    };
    match is_record && fits(0, byte(0) <= 15) {
        false => FirstBytes::Raw,
        true if rest.len() > 4 => FirstBytes::Tls,
        true => FirstBytes::NeedMore,
    }
}

/// A length with its first bit set, the type of a hello, and the version that it is for (RFC 5246, E.2).
fn classify_ssl2(bytes: &[u8]) -> FirstBytes {
    match bytes {
        [_, _, 1, 3, ..] | [_, _, 1, 0, 2, ..] => FirstBytes::Tls,
        [_] | [_, _] | [_, _, 1] | [_, _, 1, 0] => FirstBytes::NeedMore,
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

/// RFC 9110, 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A line that begins with a word.
fn classify_request_line(bytes: &[u8]) -> FirstBytes {
    let length = bytes.iter().take_while(|b| is_token(**b)).count();
    let (word, rest) = bytes.split_at(length);
    let begins = METHODS.iter().any(|method| {
        let begin = method.get(..word.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(word))
    });
    let is_method = METHODS.iter().any(|it| it.eq_ignore_ascii_case(word));
    let upper = !word.iter().any(u8::is_ascii_lowercase);
    // Some servers skip more than one.
    let blank = rest
        .iter()
        .take_while(|b| matches!(b, b' ' | b'\t'))
        .count();
    let target = rest.get(blank..).unwrap_or_default();
    // What stands in front of a request for servers that believe it.
    let is_proxy = [&b"CONNECT"[..], b"PROXY"]
        .iter()
        .any(|it| it.eq_ignore_ascii_case(word));
    match rest {
        [] if begins => FirstBytes::NeedMore,
        [] => FirstBytes::Line,
        [b' ' | b'\t', ..] if matches!(target, [b'/' | b'*', ..]) && (upper || is_method) => {
            FirstBytes::Http1
        }
        [b' ' | b'\t', ..] if !target.is_empty() && is_proxy => FirstBytes::Http1,
        [blank, ..] if is_blank(*blank) => {
            match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => classify_targets(word, rest.get(..end).unwrap_or_default()),
                None if is_method && bytes.len() > MAX_LINE => FirstBytes::Http1,
                // Others begin with another word, and wait for an answer to it.
                None if is_method => FirstBytes::NeedMore,
                None => FirstBytes::Line,
            }
        }
        _ => FirstBytes::Raw,
    }
}

/// Reads a line that began as [`FirstBytes::Line`], from its beginning and however long it is.
#[derive(Clone, Copy, Debug)]
pub struct LineReader(Place);

/// Where in a line the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Blank,
    Word,
    /// Behind the first word, and so much of [`HTTP_VERSION`] is there; none in the middle of another
    /// word.
    Behind(Option<usize>),
    Ended(bool),
}

impl Default for LineReader {
    fn default() -> Self {
        Self(Place::Blank)
    }
}

impl LineReader {
    /// Takes the next bytes, and says whether it is a request's line once that is known.
    pub fn push(&mut self, bytes: &[u8]) -> Option<bool> {
        for byte in bytes {
            self.0 = match self.0 {
                Place::Blank if is_blank(*byte) => Place::Blank,
                Place::Blank | Place::Word if is_token(*byte) => Place::Word,
                Place::Blank => Place::Ended(false),
                Place::Word | Place::Behind(_) if *byte == b'\n' => Place::Ended(false),
                Place::Word | Place::Behind(_) if is_blank(*byte) => Place::Behind(Some(0)),
                Place::Word => Place::Ended(false),
                Place::Behind(at) => match at.and_then(|at| Some((at, HTTP_VERSION.get(at)?))) {
                    Some((at, next)) if byte.eq_ignore_ascii_case(next) => {
                        if at + 1 == HTTP_VERSION.len() {
                            Place::Ended(true)
                        } else {
                            Place::Behind(Some(at + 1))
                        }
                    }
                    _ => Place::Behind(None),
                },
                ended @ Place::Ended(_) => ended,
            };
        }
        match self.0 {
            Place::Ended(is_request) => Some(is_request),
            _ => None,
        }
    }
}

/// What is behind the first word of a line.
fn classify_targets(word: &[u8], rest: &[u8]) -> FirstBytes {
    let mut words = rest.split(|byte| is_blank(*byte));
    let has_version = words.clone().any(|word| {
        let begin = word.get(..HTTP_VERSION.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(HTTP_VERSION))
    });
    // HTTP/0.9 has none. Other protocols get things, too, but nothing that is said to be elsewhere.
    let mut is_elsewhere = || {
        let target = words.find(|word| !word.is_empty());
        target.is_some_and(|target| target.windows(3).any(|three| three == b"://"))
    };
    if has_version || word.eq_ignore_ascii_case(b"GET") && is_elsewhere() {
        FirstBytes::Http1
    } else {
        FirstBytes::Raw
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FirstBytes, HTTP2_PREFACE, LineReader, MAX_LINE, classify, is_blank};

    #[test]
    fn real_protocols_are_told_apart() {
        for (bytes, expected) in [
            (&b""[..], FirstBytes::NeedMore),
            (b"G", FirstBytes::NeedMore),
            (b"GET ", FirstBytes::NeedMore),
            (b"GET /", FirstBytes::Http1),
            (b"OPTIONS * HTTP/1.1", FirstBytes::Http1),
            (b"GET http://a/", FirstBytes::NeedMore),
            (b"GET http://a/\r\n", FirstBytes::Http1),
            (b"GET HTTP://a/ HTTP/1.1\r\n", FirstBytes::Http1),
            (b"GET https://a/ HTTP/1.1\r\n", FirstBytes::Http1),
            (b"GET ws://a/ HTTP/1.1\r\n", FirstBytes::Http1),
            (b"GET x HTTP/1.1\n", FirstBytes::Http1),
            (b"GET ?x http/1.1\n", FirstBytes::Http1),
            (b"GET htt", FirstBytes::NeedMore),
            (b"X_Y /x HTTP/1.1\r\n", FirstBytes::Http1),
            (b"GET1 /x", FirstBytes::Http1),
            (b"purge /x", FirstBytes::Line),
            (b"purge /x HTTP/1.1\r\n", FirstBytes::Http1),
            (b"purge /x\r\n", FirstBytes::Raw),
            (b"DESCRIBE rtsp://a/b RTSP/1.0\r\n", FirstBytes::Raw),
            (b"CONNECT a:443 HTTP/1.1", FirstBytes::Http1),
            (b"M-SEARCH * HTTP/1.1", FirstBytes::Http1),
            (HTTP2_PREFACE, FirstBytes::Http2Preface),
            (b"PRI * HTTP/2", FirstBytes::NeedMore),
            (b"PRI /x", FirstBytes::Http1),
            (b"PRI * HTTP/1.1\r\n", FirstBytes::Http1),
            (b"get / HTTP/1.1", FirstBytes::Http1),
            (b"get key\r\n", FirstBytes::Raw),
            (b"Get /", FirstBytes::Http1),
            (b"hello", FirstBytes::Line),
            (b"Hello, ", FirstBytes::Raw),
            (b"hello you", FirstBytes::Line),
            (b"hello\n", FirstBytes::Raw),
            (b"GET key\r\n", FirstBytes::Raw),
            (b"he", FirstBytes::NeedMore),
            (b"ping", FirstBytes::Line),
            (b"connect a:443 HTTP/1.1", FirstBytes::Http1),
            (b"CONNECT\ta:443 HTTP/1.1", FirstBytes::Http1),
            (b" CONNECT a:443 HTTP/1.1", FirstBytes::Http1),
            (b"\r\n\r\n", FirstBytes::Line),
            (b"GET  /x\r\n", FirstBytes::Http1),
            (
                b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\n",
                FirstBytes::Http1,
            ),
            (b"\r\nEHLO client.example\r\n", FirstBytes::Raw),
            (b"\r\n\0", FirstBytes::Raw),
            (&[b'\n'; 64], FirstBytes::Line),
            (&[b'\n'; 65], FirstBytes::Http1),
            (&[b'a'; 20_000], FirstBytes::Line),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", FirstBytes::Raw),
            (b"SSH-2.0-OpenSSH_9.2p1", FirstBytes::Line),
            (b"EHLO client.example\r\n", FirstBytes::Raw),
            (b"HELO http\r\n", FirstBytes::Raw),
            (b"*1\r\n$4\r\nPING\r\n", FirstBytes::Raw),
            (b"PING\r\n", FirstBytes::Raw),
            (b"\r\nGET / HTTP/1.1", FirstBytes::Http1),
            (&[0x16], FirstBytes::NeedMore),
            (&[0x16, 3], FirstBytes::Tls),
            (&[0x16, 3, 1], FirstBytes::Tls),
            (&[0x16, 3, 3, 0, 0], FirstBytes::Tls),
            // Delimited messages of 22 bytes.
            (&[0x16, 10, 4, 116, 101], FirstBytes::Raw),
            (&[0x16, 10, 20, 18, 9, 8], FirstBytes::Raw),
            (&[0x16, 2, 1, 2, 0, 1], FirstBytes::Tls),
            (&[0x16, 2, 1], FirstBytes::NeedMore),
            (&[0x15, 3], FirstBytes::NeedMore),
            (&[0x15, 3, 1, 0, 2, 1], FirstBytes::Tls),
            (&[0x15, 2, 1, 0, 2, 1], FirstBytes::Tls),
            (&[0x15, 2, 1, 0, 3], FirstBytes::Raw),
            (&[0x14, 3, 3, 0, 1], FirstBytes::NeedMore),
            (&[0x14, 3, 3, 0, 1, 1], FirstBytes::Tls),
            (&[0x14, 16], FirstBytes::Raw),
            (&[0x17, 3, 3, 0, 2, 1], FirstBytes::Raw),
            // MongoDB: 789 bytes.
            (&[0x15, 3, 0, 0, 1, 0], FirstBytes::Raw),
            (&[5], FirstBytes::NeedMore),
            (&[5, 1], FirstBytes::Socks5),
            (&[5, 2, 0, 2], FirstBytes::Socks5),
            (&[4, 1, 0, 80], FirstBytes::Socks4),
            // Cassandra, and DCE/RPC.
            (&[4, 0, 0, 0, 1], FirstBytes::Raw),
            (&[5, 0, 0, 3, 16], FirstBytes::Raw),
            (&[0x16, 3, 9], FirstBytes::Tls),
            (&[0x80, 0x2e, 1, 3, 1], FirstBytes::Tls),
            (&[0x80, 0x2e, 1, 0, 2], FirstBytes::Tls),
            (&[0x80, 0x2e, 0, 0, 2], FirstBytes::Raw),
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

    #[test]
    fn a_method_with_a_line_too_long_is_a_request_and_too_long() {
        let line = [b"GET ".as_slice(), &[b'x'; MAX_LINE]].concat();
        assert_eq!(classify(&line[..MAX_LINE]), FirstBytes::NeedMore);
        assert_eq!(classify(&line), FirstBytes::Http1);
    }

    proptest! {
        #[test]
        fn a_line_is_read_on_as_it_was_begun(
            line in "[\r\n ]{0,3}[A-Za-z_1-]{1,30}([ \t](/|[a-z/]{0,9}|http|HTTP)){0,3}( HTTP/1.1)?[a-z:]?\n.{0,9}",
            size in 1_usize..9,
        ) {
            let line = line.as_bytes();
            let begun = (1..line.len()).any(|end| classify(&line[..end]) == FirstBytes::Line);
            let mut reader = LineReader::default();
            let read = line.chunks(size).find_map(|piece| reader.push(piece));
            let text = line.to_ascii_lowercase();
            let has_version = text.split(|byte| *byte == b'\n').any(|line| {
                line.windows(6).any(|six| is_blank(six[0]) && six[1..] == *b"http/")
            });
            if begun && (read == Some(true) || has_version) {
                prop_assert_eq!(classify(line), FirstBytes::Http1);
                prop_assert_eq!(read, Some(true));
            }
        }

        #[test]
        fn an_answer_once_given_stands(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            "[\r\n ]{0,3}(GET|PRI|CONNECT|[A-Za-z_1-]{1,30}) (/|\\*|http://|[a-z]{0,9}).{0,9}( HTTP/1.1)?\n?.{0,9}".prop_map(String::into_bytes),
        ]) {
            let whole = classify(&bytes);
            for end in 0..bytes.len() {
                let part = classify(&bytes[..end]);
                let open = [FirstBytes::NeedMore, FirstBytes::Line].contains(&part);
                prop_assert!(part == whole || open, "{end}");
            }
        }
    }
}
