//! What a rule says of requests.

use http::header::{self, HeaderName};

use super::values::{empty, list, list_bounds};
use super::{MAX_STRING, Report};
use crate::diagnostic::{nearest, quoted};
use crate::document::{RawMatch, RawNamed, RuleAction};
use crate::pattern::{Glob, Wildcard};
use crate::request::RequestMatch;
use crate::yaml::{At, Place};

/// The methods of RFC 9110 §9.3 and RFC 5789. Others are possible; these are the ones meant when
/// one is misspelt.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
];

/// Fields that are for one hop, frame a message or say where it goes: the destination does not get
/// them as they came.
pub(super) const NOT_PASSED_ON: [HeaderName; 11] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// What a rule says of requests.
pub(super) fn request(action: RuleAction, matches: &RawMatch, report: &mut Report) -> RequestMatch {
    let body_over = matches.body_over.as_ref().and_then(|entry| {
        if action != RuleAction::Deny {
            report.error(
                entry.place,
                "`body_over` is for a rule that denies",
                Some("an `allow` for the requests, and a `deny` with `body_over` beside it"),
            );
        }
        size("body_over", entry, report)
    });
    RequestMatch {
        methods: list("method", matches.method.as_ref(), report, method),
        paths: list("path", matches.path.as_ref(), report, path),
        query: named("query", matches.query.as_ref(), report, parameter),
        fields: named("header", matches.header.as_ref(), report, field),
        body_over,
    }
}

fn named<N>(
    key: &str,
    named: Option<&RawNamed>,
    report: &mut Report,
    name: fn(&str, Place, &mut Report) -> Option<N>,
) -> Vec<(N, Vec<Wildcard>)> {
    let Some(named) = named else {
        return Vec::new();
    };
    if named.value.is_empty() {
        empty(key, named.place, report);
    }
    let mut read = Vec::new();
    for (text, list) in &named.value {
        let place = list.place;
        list_bounds(&format!("{key}: {}", quoted(text)), list, report);
        let patterns: Vec<_> = list
            .value
            .iter()
            .filter_map(|entry| pattern(entry, report))
            .collect();
        if let Some(name) = name(text, place, report) {
            read.push((name, patterns));
        }
    }
    read
}

fn pattern(entry: &At<String>, report: &mut Report) -> Option<Wildcard> {
    let text = entry.value.as_str();
    if text.len() > MAX_STRING || text.chars().any(char::is_control) {
        let message = format!("a pattern has at most {MAX_STRING} bytes and no control characters");
        report.error(entry.place, message, None);
        return None;
    }
    Some(Wildcard::new(text))
}

/// A parameter of a query, decoded.
fn parameter(text: &str, place: Place, report: &mut Report) -> Option<String> {
    if text.is_empty() || text.len() > MAX_STRING || text.chars().any(char::is_control) {
        let message = format!("`{}` is not a parameter of a query", quoted(text));
        report.error(place, message, Some("its name as it is when decoded"));
        return None;
    }
    if text.contains('*') {
        report.warn(
            place,
            format!("`*` in `{}` stands for itself", quoted(text)),
            Some("only values are patterns"),
        );
    }
    Some(text.to_owned())
}

fn field(text: &str, place: Place, report: &mut Report) -> Option<HeaderName> {
    let Ok(name) = HeaderName::try_from(text) else {
        let message = format!("`{}` is not the name of a header field", quoted(text));
        report.error(place, message, Some("like `content-type`"));
        return None;
    };
    if NOT_PASSED_ON.contains(&name) {
        let hint = match name {
            header::HOST => "a name goes under `host`",
            header::CONTENT_LENGTH => "`body_over`, which also sees what comes without it",
            _ => "it is for one hop or frames the message; leave it out",
        };
        let message = format!("`{name}` is not passed on as it comes, so no rule can look at it");
        report.error(place, message, Some(hint));
        return None;
    }
    Some(name)
}

/// A number of bytes.
fn size(key: &str, entry: &At<String>, report: &mut Report) -> Option<u64> {
    let text = entry.value.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: Option<u64> = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(factor);
    let bytes = bytes.and_then(|(number, factor)| number.checked_mul(factor));
    if bytes.is_none() {
        let message = format!("`{key}: {}` is not a number of bytes", quoted(text));
        report.error(entry.place, message, Some("like 65536, `64KiB` or `10MiB`"));
    }
    bytes
}

/// A method is a token (RFC 9110 §5.6.2), and case matters.
fn method(entry: &At<String>, report: &mut Report) -> Option<String> {
    let text = entry.value.as_str();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(token) || text.contains('*') || text.len() > 64 {
        report.error(
            entry.place,
            format!("`{}` is not a method", quoted(text)),
            Some("leave `method` out to match any"),
        );
        return None;
    }
    if !METHODS.contains(&text)
        && let Some(near) = nearest(&text.to_ascii_uppercase(), METHODS)
    {
        let upper = text.to_ascii_uppercase();
        let message =
            format!("`{text}` is not a method that clients use; methods are case-sensitive");
        if upper == near {
            report.error(
                entry.place,
                message,
                Some(&format!("did you mean `{near}`?")),
            );
            return None;
        }
        report.warn(
            entry.place,
            message,
            Some(&format!("did you mean `{near}`?")),
        );
    }
    Some(text.to_owned())
}

fn path(entry: &At<String>, report: &mut Report) -> Option<Glob> {
    let text = entry.value.as_str();
    let mut refuse = |why: &str, hint: Option<&str>| {
        report.error(entry.place, format!("path `{}` {why}", quoted(text)), hint);
    };
    if text.len() > MAX_STRING {
        refuse(&format!("is longer than {MAX_STRING} bytes"), None);
        return None;
    }
    let Some(below) = text.strip_prefix('/') else {
        refuse(
            "does not begin with `/`",
            Some(&format!("`/{}`", quoted(text))),
        );
        return None;
    };
    if text.contains(['?', '#']) {
        refuse(
            "has a `?` or `#`",
            Some("rules see the path without the query"),
        );
        return None;
    }
    if text.contains("//") {
        refuse(
            "has `//`",
            Some("in the canonical path runs of `/` are one"),
        );
        return None;
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"\\;\"<>^`{|}".contains(&b))
    {
        refuse(
            "has a character that a canonical path never has",
            Some("write it percent-encoded, in UTF-8"),
        );
        return None;
    }
    if !escapes_are_canonical(text) {
        refuse(
            "has an escape that a canonical path never has",
            Some(
                "letters, digits and `- . _ ~` are not escaped; other escapes are `%` and two upper-case hexadecimal digits",
            ),
        );
        return None;
    }
    match Glob::new(below) {
        Ok(glob) => Some(glob),
        Err(why) => {
            refuse(why, None);
            None
        }
    }
}

/// Whether every `%` begins an escape that is left when a path is canonical (RFC 3986 §6.2.2).
fn escapes_are_canonical(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let Some(hex) = after.get(..2) else {
            return false;
        };
        let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        let Ok(octet) = u8::from_str_radix(hex, 16) else {
            return false;
        };
        hex.bytes().all(upper) && !(octet.is_ascii_alphanumeric() || b"-._~".contains(&octet))
    })
}
