//! The one spelling of a path, so that a rule and a server read the same one.
//!
//! What every server reads alike is normalised (RFC 3986, 6.2.2): unreserved characters are
//! decoded, other escapes are written in upper case, dot segments are resolved, and characters that
//! do not belong in a path are encoded. Runs of slashes become one, because most servers do so. What
//! servers read differently is refused: see [`AmbiguousPath`]. An encoded slash stays encoded, since
//! real clients name things with it (`/@scope%2Fname`).
//!
//! **Invariant:** the canonical path is its own canonical path, and it is what is sent.

use std::fmt;

/// A canonical path. It begins with `/`, or is `*`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CanonicalPath(String);

/// Why a path has more than one reading.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AmbiguousPath {
    /// It does not begin with a slash.
    #[error("it does not begin with `/`")]
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    #[error("it has a `%` without two hexadecimal digits")]
    BrokenEscape,
    /// An escape of an escape: some servers decode twice.
    #[error("it has an escaped escape (`%25` and two hexadecimal digits)")]
    DoubleEscape,
    /// A control character, raw or escaped.
    #[error("it has a control character")]
    Control,
    /// A backslash, raw or escaped: some servers take it for a slash.
    #[error("it has a backslash")]
    Backslash,
    /// A semicolon: some servers cut the segment there.
    #[error("it has a `;`, at which some servers cut a segment")]
    Semicolon,
    /// `.` or `..` beside an encoded slash: some servers resolve it.
    #[error("it has a dot segment beside an encoded slash")]
    EncodedDotSegment,
    /// Bytes that are not UTF-8 once they are decoded, overlong forms among them.
    #[error("it is not UTF-8 once it is decoded")]
    NotUtf8,
    /// A raw byte outside ASCII, a space, or `?` and `#`, which end a path.
    #[error("it has a character that cannot stand in a path")]
    Characters,
}

impl CanonicalPath {
    /// The path `*` of `OPTIONS *` (RFC 9112, 3.2.4).
    #[must_use]
    pub fn asterisk() -> Self {
        Self("*".to_owned())
    }

    /// Canonicalises the path of a request target, without its query.
    ///
    /// # Errors
    /// [`AmbiguousPath`].
    pub fn parse(path: &str) -> Result<Self, AmbiguousPath> {
        match is_canonical(path) {
            true => Ok(Self(path.to_owned())),
            false => Self::canonicalise(path),
        }
    }

    fn canonicalise(path: &str) -> Result<Self, AmbiguousPath> {
        let path = path.strip_prefix('/').ok_or(AmbiguousPath::NotAbsolute)?;
        if std::str::from_utf8(&decode(path.as_bytes())?).is_err() {
            return Err(AmbiguousPath::NotUtf8);
        }
        let mut segments: Vec<String> = Vec::new();
        let mut directory = true;
        for raw in path.split('/') {
            let segment = normal_segment(raw.as_bytes())?;
            directory = true;
            match segment.as_str() {
                "" | "." => {}
                ".." => {
                    segments.pop();
                }
                _ if segment.split("%2F").any(|part| part == "." || part == "..") => {
                    return Err(AmbiguousPath::EncodedDotSegment);
                }
                _ => {
                    segments.push(segment);
                    directory = false;
                }
            }
        }
        let mut canonical = String::with_capacity(path.len() + 1);
        for segment in &segments {
            canonical.push('/');
            canonical.push_str(segment);
        }
        if directory {
            canonical.push('/');
        }
        Ok(Self(canonical))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The byte that an escape at the start of `bytes` stands for.
fn escape(bytes: &[u8]) -> Option<u8> {
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    match bytes {
        [b'%', high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

fn decode(mut bytes: &[u8]) -> Result<Vec<u8>, AmbiguousPath> {
    let mut decoded = Vec::with_capacity(bytes.len());
    while let [first, rest @ ..] = bytes {
        if *first == b'%' {
            decoded.push(escape(bytes).ok_or(AmbiguousPath::BrokenEscape)?);
            bytes = bytes.get(3..).unwrap_or_default();
        } else {
            decoded.push(*first);
            bytes = rest;
        }
    }
    Ok(decoded)
}

fn normal_segment(mut bytes: &[u8]) -> Result<String, AmbiguousPath> {
    let mut normal = String::with_capacity(bytes.len());
    while let [first, rest @ ..] = bytes {
        if *first == b'%' {
            let byte = escape(bytes).ok_or(AmbiguousPath::BrokenEscape)?;
            bytes = bytes.get(3..).unwrap_or_default();
            match byte {
                0..=0x1f | 0x7f => return Err(AmbiguousPath::Control),
                b'\\' => return Err(AmbiguousPath::Backslash),
                b'%' if starts_with_hex(bytes) => return Err(AmbiguousPath::DoubleEscape),
                _ if is_unreserved(byte) => normal.push(char::from(byte)),
                _ => push_escape(&mut normal, byte),
            }
        } else {
            bytes = rest;
            match *first {
                0..=0x1f | 0x7f => return Err(AmbiguousPath::Control),
                b'\\' => return Err(AmbiguousPath::Backslash),
                b';' => return Err(AmbiguousPath::Semicolon),
                b' ' | b'?' | b'#' | 0x80.. => return Err(AmbiguousPath::Characters),
                byte if stands(byte) => {
                    normal.push(char::from(byte));
                }
                byte => push_escape(&mut normal, byte),
            }
        }
    }
    Ok(normal)
}

/// Whether what follows an encoded `%` would make it an escape once more. The digits may be encoded
/// themselves.
fn starts_with_hex(bytes: &[u8]) -> bool {
    let first = next_decoded(bytes);
    let second = first.and_then(|(_, rest)| next_decoded(rest));
    [first, second]
        .iter()
        .all(|digit| digit.is_some_and(|(byte, _)| byte.is_ascii_hexdigit()))
}

fn next_decoded(bytes: &[u8]) -> Option<(u8, &[u8])> {
    match (escape(bytes), bytes) {
        (Some(byte), _) => Some((byte, bytes.get(3..)?)),
        (None, [first, rest @ ..]) => Some((*first, rest)),
        (None, []) => None,
    }
}

/// RFC 3986, 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a byte stands in a segment as it is.
const fn stands(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        )
}

/// Whether a path is canonical at first sight, as nearly all are: nothing in it is encoded, no segment is empty or begins
/// with a dot.
fn is_canonical(path: &str) -> bool {
    let mut before = None;
    for byte in path.bytes() {
        let fits = match (before, byte) {
            (None, b'/') => true,
            (None, _) | (Some(b'/'), b'/' | b'.') => false,
            (Some(_), byte) => byte == b'/' || stands(byte),
        };
        if !fits {
            return false;
        }
        before = Some(byte);
    }
    before.is_some()
}

fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    text.push('%');
    for digit in [byte >> 4, byte & 15] {
        text.push(DIGITS.get(usize::from(digit)).copied().unwrap_or('0'));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{AmbiguousPath, CanonicalPath};

    #[test]
    fn what_every_server_reads_alike_has_one_spelling_rfc_3986_6_2_2() {
        for (path, canonical) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("//a///b", "/a/b"),
            ("/a//", "/a/"),
            ("/./a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/../../etc", "/etc"),
            ("/%2e%2E/a", "/a"),
            ("/a/%2e./b", "/b"),
            ("/%61dmin", "/admin"),
            ("/%7Euser/-_", "/~user/-_"),
            ("/a%2fb", "/a%2Fb"),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/a%3bb", "/a%3Bb"),
            ("/100%25", "/100%25"),
            ("/100%25/x", "/100%25/x"),
            ("/%25z", "/%25z"),
            ("/b%C3%BCcher", "/b%C3%BCcher"),
            ("/b%c3%bccher", "/b%C3%BCcher"),
            ("/a|b{c}\"<>^`[d]", "/a%7Cb%7Bc%7D%22%3C%3E%5E%60%5Bd%5D"),
            ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
            ("/...", "/..."),
            ("/.hidden", "/.hidden"),
        ] {
            let got = CanonicalPath::parse(path);
            assert_eq!(
                got.as_ref().map(CanonicalPath::as_str),
                Ok(canonical),
                "{path:?}"
            );
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for (path, why) in [
            ("", AmbiguousPath::NotAbsolute),
            ("a", AmbiguousPath::NotAbsolute),
            ("*", AmbiguousPath::NotAbsolute),
            ("/%", AmbiguousPath::BrokenEscape),
            ("/%zz", AmbiguousPath::BrokenEscape),
            ("/%+1", AmbiguousPath::BrokenEscape),
            ("/%252e%252e/", AmbiguousPath::DoubleEscape),
            ("/%2525", AmbiguousPath::DoubleEscape),
            ("/%25%32%65", AmbiguousPath::DoubleEscape),
            ("/%00", AmbiguousPath::Control),
            ("/a%0d%0ab", AmbiguousPath::Control),
            ("/a\tb", AmbiguousPath::Control),
            ("/..\\admin", AmbiguousPath::Backslash),
            ("/..%5cadmin", AmbiguousPath::Backslash),
            ("/admin;x=1", AmbiguousPath::Semicolon),
            ("/a/..;/b", AmbiguousPath::Semicolon),
            ("/a/..%2fb", AmbiguousPath::EncodedDotSegment),
            ("/a/%2e%2e%2fb", AmbiguousPath::EncodedDotSegment),
            ("/a/x%2f..%2fb", AmbiguousPath::EncodedDotSegment),
            ("/a/x%2F.", AmbiguousPath::EncodedDotSegment),
            ("/%c0%ae%c0%ae/", AmbiguousPath::NotUtf8),
            ("/%e9", AmbiguousPath::NotUtf8),
            ("/bücher", AmbiguousPath::Characters),
            ("/a b", AmbiguousPath::Characters),
            ("/a#b", AmbiguousPath::Characters),
        ] {
            assert_eq!(CanonicalPath::parse(path), Err(why), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_canonical_at_first_sight_is(path in "[a/]?([a-zA-Z0-9~_./!$&'()*+,=:@ ?#;\\-]|//|/\\.|%2f){0,12}") {
            prop_assert_eq!(CanonicalPath::parse(&path), CanonicalPath::canonicalise(&path));
        }

        #[test]
        fn a_canonical_path_is_its_own(path in "/([a-z./%;:@\\\\-]|%2[0-9a-fA-F]|%[0-9a-f]{2}){0,30}") {
            if let Ok(once) = CanonicalPath::parse(&path) {
                prop_assert_eq!(CanonicalPath::parse(once.as_str()), Ok(once.clone()));
                let shown = once.as_str();
                prop_assert!(shown.starts_with('/'));
                prop_assert!(!shown.contains("//"));
                prop_assert!(!shown.split('/').any(|s| s == "." || s == ".."));
            }
        }
    }
}
