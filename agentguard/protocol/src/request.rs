//! What an HTTP request asks for, whatever version carries it.

use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, Version};

use agentguard_model::CanonicalPath;

use crate::HttpMalformed;
use crate::authority::Authority;
use crate::fields;
use crate::websocket::extensions::Offers;

/// A longer method is refused.
const MAX_METHOD: usize = 24;

/// What the connection that carries a request is (RFC 9110, 4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Inside TLS.
    Https,
}

impl Scheme {
    /// The port that an authority means when it names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// As a URI writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A request with one meaning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Whom it is for; only HTTP/1.0 may leave that out.
    pub authority: Option<Authority>,
    /// The path, which rules see and which is sent.
    pub path: CanonicalPath,
    /// The query, as it came.
    pub query: Option<String>,
    /// Whether the client waits for 100 before it sends the body (RFC 9110, 10.1.1).
    pub expects_continue: bool,
    /// If it is a WebSocket handshake (RFC 6455, 4.1), what it offers. Every other `Upgrade` is for
    /// this hop alone, and is dropped: `h2c` would open a way past the rules.
    pub websocket: Option<Offers>,
}

impl Request {
    /// Reads the meaning of a head that a parser has read from a connection of this scheme, behind
    /// [`crate::http1::Gate`] where the version is 1.x.
    ///
    /// # Errors
    /// [`HttpMalformed`] for what has no single meaning.
    pub fn read(parts: &Parts, scheme: Scheme) -> Result<Self, HttpMalformed> {
        check_method(&parts.method)?;
        fields::check_connection(&parts.headers)?;
        let (path, query) = read_target(parts, scheme)?;
        Ok(Self {
            authority: read_authority(parts, scheme)?,
            path,
            query,
            expects_continue: read_expectation(&parts.headers)?,
            websocket: read_websocket(parts)?,
        })
    }

    /// The target in origin form (RFC 9112, 3.2.1), as it is sent.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_string(),
        }
    }
}

fn check_method(method: &Method) -> Result<(), HttpMalformed> {
    let text = method.as_str();
    let upper = text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if !upper || text.is_empty() || text.len() > MAX_METHOD {
        return Err(HttpMalformed::Method(text.chars().take(40).collect()));
    }
    if method == Method::CONNECT {
        return Err(HttpMalformed::Connect);
    }
    Ok(())
}

fn read_target(
    parts: &Parts,
    connection: Scheme,
) -> Result<(CanonicalPath, Option<String>), HttpMalformed> {
    let uri = &parts.uri;
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => {}
        (Some(scheme), Some(_)) => {
            if !scheme.eq_ignore_ascii_case(connection.as_str()) {
                return Err(HttpMalformed::Target(
                    "its scheme is not that of the connection",
                ));
            }
        }
        _ => return Err(HttpMalformed::Target("it is an authority")),
    }
    if uri.path() == "*" {
        return if parts.method == Method::OPTIONS && uri.query().is_none() {
            Ok((CanonicalPath::asterisk(), None))
        } else {
            Err(HttpMalformed::Target("`*` is for OPTIONS"))
        };
    }
    let query = uri.query().map(str::to_owned);
    Ok((CanonicalPath::parse(uri.path())?, query))
}

fn read_authority(parts: &Parts, scheme: Scheme) -> Result<Option<Authority>, HttpMalformed> {
    let in_target = parts
        .uri
        .authority()
        .map(|authority| Authority::parse(authority.as_str()))
        .transpose()?;
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HttpMalformed::Host);
    }
    let host = host
        .map(|value| {
            let text = value.to_str().map_err(|_| HttpMalformed::Host)?;
            Authority::parse(text).map_err(HttpMalformed::from)
        })
        .transpose()?;
    match (in_target, host) {
        (Some(target), Some(host))
            if target.normal(scheme.default_port()) != host.normal(scheme.default_port()) =>
        {
            Err(HttpMalformed::AuthorityMismatch)
        }
        (target, None) if parts.version == Version::HTTP_10 || parts.version >= Version::HTTP_2 => {
            Ok(target)
        }
        (_, None) => Err(HttpMalformed::Host),
        (_, host) => Ok(host),
    }
}

fn read_expectation(fields: &HeaderMap) -> Result<bool, HttpMalformed> {
    let mut expects = false;
    for expectation in fields.get_all(header::EXPECT) {
        if !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(HttpMalformed::Expectation);
        }
        expects = true;
    }
    Ok(expects)
}

fn read_websocket(parts: &Parts) -> Result<Option<Offers>, HttpMalformed> {
    let mut protocols = fields::tokens(&parts.headers, &header::UPGRADE);
    let asked = protocols.next().is_some_and(|p| p == "websocket") && protocols.next().is_none();
    let named = fields::tokens(&parts.headers, &header::CONNECTION).any(|o| o == "upgrade");
    if !asked || !named {
        return Ok(None);
    }
    let body = parts.headers.contains_key(header::TRANSFER_ENCODING)
        || parts
            .headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    if parts.method == Method::GET && parts.version == Version::HTTP_11 && !body {
        Ok(Some(Offers::read(&parts.headers)?))
    } else {
        Err(HttpMalformed::Upgrade)
    }
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::{Request, Scheme};
    use crate::HttpMalformed;

    fn read(
        version: Version,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
    ) -> Result<Request, HttpMalformed> {
        let mut builder = http::Request::builder()
            .version(version)
            .method(method)
            .uri(target);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let scheme = if version >= Version::HTTP_2 {
            Scheme::Https
        } else {
            Scheme::Http
        };
        Request::read(&builder.body(()).unwrap().into_parts().0, scheme)
    }

    #[test]
    fn the_authority_is_one_rfc_9112_3_2() {
        const HOST: (&str, &str) = ("host", "A.example");
        for (version, target, fields, expected) in [
            (Version::HTTP_11, "/", &[HOST][..], Ok(Some("a.example"))),
            (
                Version::HTTP_11,
                "http://a.EXAMPLE:80/x",
                &[HOST],
                Ok(Some("a.example")),
            ),
            (Version::HTTP_10, "/", &[HOST], Ok(Some("a.example"))),
            (Version::HTTP_10, "/", &[], Ok(None)),
            (
                Version::HTTP_10,
                "http://a.example/",
                &[],
                Ok(Some("a.example")),
            ),
            (
                Version::HTTP_2,
                "https://a.example/",
                &[],
                Ok(Some("a.example")),
            ),
            (Version::HTTP_11, "/", &[], Err(HttpMalformed::Host)),
            (
                Version::HTTP_11,
                "http://a.example/",
                &[],
                Err(HttpMalformed::Host),
            ),
            (
                Version::HTTP_11,
                "/",
                &[HOST, HOST],
                Err(HttpMalformed::Host),
            ),
            (
                Version::HTTP_11,
                "http://b.example/",
                &[HOST],
                Err(HttpMalformed::AuthorityMismatch),
            ),
            (
                Version::HTTP_11,
                "http://a.example:81/",
                &[HOST],
                Err(HttpMalformed::AuthorityMismatch),
            ),
            (
                Version::HTTP_11,
                "https://a.example/",
                &[HOST],
                Err(HttpMalformed::Target(
                    "its scheme is not that of the connection",
                )),
            ),
            (
                Version::HTTP_11,
                "a.example:80",
                &[HOST],
                Err(HttpMalformed::Target("it is an authority")),
            ),
            (
                Version::HTTP_11,
                "*",
                &[HOST],
                Err(HttpMalformed::Target("`*` is for OPTIONS")),
            ),
        ] {
            let got = read(version, "GET", target, fields)
                .map(|request| request.authority.map(|a| a.normal(80)));
            assert_eq!(
                got,
                expected.map(|a| a.map(str::to_owned)),
                "{version:?} {target}"
            );
        }
        let user = read(Version::HTTP_11, "GET", "http://u@a.example/", &[HOST]);
        assert!(matches!(user, Err(HttpMalformed::Authority(_))));
    }

    #[test]
    fn methods_are_words_in_upper_case_rfc_9110_9_1() {
        for (method, valid) in [
            ("GET", true),
            ("M-SEARCH", true),
            ("PROPFIND", true),
            ("get", false),
            ("Delete", false),
            ("G_T", false),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", false),
            ("CONNECT", false),
        ] {
            let got = read(Version::HTTP_11, method, "/", &[("host", "a.example")]);
            assert_eq!(got.is_ok(), valid, "{method}");
        }
    }

    #[test]
    fn the_target_is_sent_as_it_was_decided() {
        let got = read(
            Version::HTTP_11,
            "GET",
            "http://a.example/x/../%61?q=/../%61",
            &[("host", "a.example")],
        );
        assert_eq!(got.unwrap().target(), "/a?q=/../%61");
    }

    #[test]
    fn only_a_websocket_handshake_upgrades_rfc_6455_4_1() {
        let upgrade = |method, version, protocol, fields: &[(&'static str, &'static str)]| {
            let mut all = vec![
                ("host", "a.example"),
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", protocol),
            ];
            all.extend(fields);
            read(version, method, "/", &all).map(|request| request.websocket.is_some())
        };
        let v11 = Version::HTTP_11;
        assert_eq!(upgrade("GET", v11, "WebSocket", &[]), Ok(true));
        assert_eq!(upgrade("GET", v11, "h2c", &[]), Ok(false));
        assert_eq!(upgrade("GET", v11, "websocket, h2c", &[]), Ok(false));
        assert_eq!(
            upgrade("POST", v11, "websocket", &[]),
            Err(HttpMalformed::Upgrade)
        );
        assert_eq!(
            upgrade("GET", Version::HTTP_10, "websocket", &[]),
            Err(HttpMalformed::Upgrade)
        );
        assert_eq!(
            upgrade("GET", v11, "websocket", &[("content-length", "5")]),
            Err(HttpMalformed::Upgrade)
        );
        let extensions = [("sec-websocket-extensions", "permessage-deflate; =")];
        assert!(upgrade("GET", v11, "websocket", &extensions).is_err());
    }
}
