//! For how long a connection may be used again, and whether for somebody else.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};

use crate::fields::tokens;

/// Schemes in which the request that ends the exchange speaks for all that follow on its connection
/// (RFC 4559, 6; MS-NTHT).
const BOUND: [&str; 2] = ["negotiate", "ntlm"];

/// Whether these fields, of a request or of a response, belong to such an authentication. What
/// merely looks like one counts as one.
#[must_use]
pub fn binds_connection(fields: &HeaderMap) -> bool {
    [
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::PROXY_AUTHENTICATE,
    ]
    .iter()
    .flat_map(|name| fields.get_all(name))
    .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
    .filter_map(|challenge| {
        let mut words = challenge.split(u8::is_ascii_whitespace);
        words.find(|word| !word.is_empty())
    })
    .any(|scheme| {
        BOUND
            .iter()
            .any(|bound| scheme.eq_ignore_ascii_case(bound.as_bytes()))
    })
}

/// How long an upstream of HTTP/1 says that it keeps an idle connection (`Keep-Alive: timeout=5`, in
/// seconds; RFC 2068, 19.7.1.1).
#[must_use]
pub fn kept_for(fields: &HeaderMap) -> Option<Duration> {
    let name = HeaderName::from_static("keep-alive");
    let mut parameters = tokens(fields, &name);
    let seconds = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        (name.trim_end() == "timeout").then(|| value.trim_start().parse::<u32>().ok())?
    })?;
    Some(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::{HeaderMap, HeaderName, HeaderValue};

    use super::{binds_connection, kept_for};

    #[test]
    fn negotiate_and_ntlm_bind_a_connection_rfc_4559_6() {
        for (field, value, binds) in [
            ("www-authenticate", "Negotiate", true),
            ("www-authenticate", "Basic realm=\"x\", NTLM", true),
            ("www-authenticate", "Digest realm=\"x\",nonce=\"y\"", false),
            ("www-authenticate", "Negotiable", false),
            ("proxy-authenticate", "ntlm TlRMTVNTUAAC", true),
            ("authorization", "  negotiate\tYII=", true),
            ("authorization", "Bearer NTLM", false),
            ("proxy-authorization", "NTLM TlRMTVNTUAAB", true),
            ("x-authorization", "Negotiate", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.append("www-authenticate", HeaderValue::from_static("Basic"));
            fields.append(
                HeaderName::from_static(field),
                HeaderValue::from_static(value),
            );
            assert_eq!(binds_connection(&fields), binds, "{field}: {value}");
        }
        let mut fields = HeaderMap::new();
        let strange = HeaderValue::from_bytes(b"\xff, NTLM").unwrap();
        fields.insert("www-authenticate", strange);
        assert!(binds_connection(&fields));
    }

    #[test]
    fn an_upstream_says_how_long_it_keeps_a_connection() {
        for (value, seconds) in [
            ("timeout=5, max=100", Some(5)),
            ("max=100,Timeout = 75", Some(75)),
            ("timeout=0", Some(0)),
            ("timeout=-1", None),
            ("timeout=99999999999", None),
            ("300", None),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert("keep-alive", HeaderValue::from_static(value));
            assert_eq!(
                kept_for(&fields),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
        assert_eq!(kept_for(&HeaderMap::new()), None);
    }
}
