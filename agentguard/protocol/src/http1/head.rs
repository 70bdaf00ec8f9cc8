//! One request head, whole.

use http::Uri;

use super::MAX_FIELDS;
use crate::HttpMalformed;

/// How a body is framed (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// What the gate must know of a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// Whether the client asks to speak something else on this connection (RFC 9110, 7.8).
    pub(super) upgrade: bool,
}

/// Checks a head whose line ends and control characters are checked already.
pub(super) fn check(bytes: &[u8]) -> Result<Head, HttpMalformed> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => {
            return Err(HttpMalformed::RequestLine(
                "it does not end where it should",
            ));
        }
        Err(error) => return Err(from_httparse(error)),
    }
    let target = request.path.unwrap_or_default();
    // A URI ends at `#`, says the parser behind us; a target has none (RFC 9112, 3.2).
    if target.contains('#') || !target.is_ascii() || Uri::try_from(target).is_err() {
        return Err(HttpMalformed::Target("it is not a URI"));
    }
    let mut length = None;
    let mut chunked = false;
    let mut upgrade = false;
    for field in request.headers.iter() {
        check_name(field.name)?;
        if field.name.eq_ignore_ascii_case("content-length") {
            if length.replace(content_length(field.value)?).is_some() {
                return Err(HttpMalformed::ContentLength);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked
                || !field.value.eq_ignore_ascii_case(b"chunked")
                || request.version != Some(1)
            {
                return Err(HttpMalformed::TransferEncoding);
            }
            chunked = true;
        } else if field.name.eq_ignore_ascii_case("upgrade") {
            upgrade = true;
        }
    }
    let framing = match (length, chunked) {
        (Some(_), true) => return Err(HttpMalformed::BothLengths),
        (None, true) => Framing::Chunked,
        (length, false) => Framing::Length(length.unwrap_or(0)),
    };
    Ok(Head { framing, upgrade })
}

/// Checks a trailer section (RFC 9110, 6.5.1) whose line ends are checked already.
pub(super) fn check_trailers(bytes: &[u8]) -> Result<(), HttpMalformed> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let parsed = httparse::parse_headers(bytes, &mut fields).map_err(from_httparse)?;
    let httparse::Status::Complete((_, fields)) = parsed else {
        return Err(HttpMalformed::Field("it does not end where it should"));
    };
    for field in fields {
        check_name(field.name)?;
        let directs = [
            "content-length",
            "transfer-encoding",
            "host",
            "connection",
            "upgrade",
            "te",
            "trailer",
            "expect",
            "content-encoding",
            "content-type",
            "content-range",
            "authorization",
        ];
        if directs
            .iter()
            .any(|name| field.name.eq_ignore_ascii_case(name))
        {
            return Err(HttpMalformed::Trailer(field.name.to_ascii_lowercase()));
        }
    }
    Ok(())
}

/// Servers that hand fields to programs as variables (RFC 3875, 4.1.18) take `_` for `-`.
fn check_name(name: &str) -> Result<(), HttpMalformed> {
    if name.contains('_') {
        let hyphened = name.replace('_', "-").to_ascii_lowercase();
        let framing = [
            "content-length",
            "transfer-encoding",
            "host",
            "connection",
            "upgrade",
        ];
        if framing.contains(&hyphened.as_str()) {
            return Err(HttpMalformed::AmbiguousField(
                name.chars().take(80).collect(),
            ));
        }
    }
    Ok(())
}

fn content_length(value: &[u8]) -> Result<u64, HttpMalformed> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HttpMalformed::ContentLength);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        // The parser behind us keeps the two highest numbers for other meanings.
        .filter(|length| *length < u64::MAX - 1)
        .ok_or(HttpMalformed::ContentLength)
}

fn from_httparse(error: httparse::Error) -> HttpMalformed {
    match error {
        httparse::Error::TooManyHeaders => HttpMalformed::TooManyFields,
        httparse::Error::HeaderName => HttpMalformed::Field("a name is not a token, or folded"),
        httparse::Error::HeaderValue => {
            HttpMalformed::Field("a value has a character it cannot have")
        }
        httparse::Error::Version => HttpMalformed::RequestLine("the version is not 1.0 or 1.1"),
        httparse::Error::Token => HttpMalformed::RequestLine("the method or the target"),
        httparse::Error::NewLine => HttpMalformed::RequestLine("a line end"),
        httparse::Error::Status => HttpMalformed::RequestLine("the status"),
    }
}
