//! Host names in one spelling.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// A DNS host name in its one normal form: lower case, A-labels (RFC 5890), no trailing dot, at
/// most 253 octets, each label 1 to 63 octets of `a-z 0-9 - _`. Never an IP address.
///
/// Underscores are allowed: service names under which real hosts are found carry them.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd)]
#[serde(try_from = "String")]
pub struct HostName(
    // Counted: each decision has one of its connection's.
    Arc<str>,
);

/// The text is not a host name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{text}` is not a host name: {why}")]
pub struct InvalidHost {
    text: String,
    why: &'static str,
}

impl InvalidHost {
    /// What is wrong with it.
    #[must_use]
    pub const fn why(&self) -> &'static str {
        self.why
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name ends in `.suffix`, at a label boundary; a name is not below itself.
    #[must_use]
    pub fn is_below(&self, suffix: &HostName) -> bool {
        self.0
            .strip_suffix(suffix.as_str())
            .is_some_and(|head| head.ends_with('.'))
    }
}

impl FromStr for HostName {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let refuse = |why| InvalidHost {
            text: text.chars().take(80).collect(),
            why,
        };
        let bare = text.strip_suffix('.').unwrap_or(text);
        let ascii = if bare.is_ascii() {
            bare.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_cow(bare.as_bytes(), idna::AsciiDenyList::EMPTY)
                .map_err(|_| refuse("it has no A-label form (RFC 5890)"))?
                .into_owned()
        };
        if ascii.is_empty() {
            return Err(refuse("it is empty"));
        }
        if ascii.len() > 253 {
            return Err(refuse("it is longer than 253 octets"));
        }
        for label in ascii.split('.') {
            if label.is_empty() {
                return Err(refuse("it has an empty label"));
            }
            if label.len() > 63 {
                return Err(refuse("a label is longer than 63 octets"));
            }
            let valid =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
            if !label.bytes().all(valid) {
                return Err(refuse("a label has a character other than a-z 0-9 - _"));
            }
        }
        // The last label of a name is never a number; what looks like one is an address to some
        // parser (WHATWG URL, "ends in a number").
        let last = ascii.rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|b| b.is_ascii_digit())
            || last
                .strip_prefix("0x")
                .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if ascii.parse::<IpAddr>().is_ok() || number {
            return Err(refuse("it is an address, or could be read as one"));
        }
        Ok(Self(ascii.into()))
    }
}

impl TryFrom<String> for HostName {
    type Error = InvalidHost;

    fn try_from(text: String) -> Result<Self, InvalidHost> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::HostName;

    #[test]
    fn one_spelling() {
        for (text, normal) in [
            ("Example.COM.", Some("example.com")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("_acme.example", Some("_acme.example")),
            ("a", Some("a")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("a b", None),
            ("a\0.b", None),
            ("192.0.2.1", None),
            ("0x7f.1", None),
            ("1", None),
            ("::1", None),
            ("*.example", None),
        ] {
            let got = text.parse::<HostName>();
            assert_eq!(got.as_ref().map(HostName::as_str).ok(), normal, "{text:?}");
        }
        assert!(
            format!("{}.example", "a".repeat(64))
                .parse::<HostName>()
                .is_err()
        );
        assert!("a.".repeat(127).parse::<HostName>().is_ok());
        assert!("a.".repeat(128).parse::<HostName>().is_err());
    }

    #[test]
    fn below_is_at_a_label_boundary() {
        let suffix: HostName = "example.com".parse().unwrap();
        for (text, below) in [
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            ("badexample.com", false),
        ] {
            let name: HostName = text.parse().unwrap();
            assert_eq!(name.is_below(&suffix), below, "{text}");
        }
    }
}
