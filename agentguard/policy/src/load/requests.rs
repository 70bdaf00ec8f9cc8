//! What a rule says of requests.

use http::header::{self, HeaderName};

use super::values::{empty, list, list_bounds};
use super::{Known, MAX_STRING, Report, llm, tool};
use crate::diagnostic::{nearest, quoted};
use crate::document::{RawMatch, RawNamed, RuleAction};
use crate::pattern::{Glob, Wildcard};
use crate::protocols::{Protocol, Protocols};
use crate::request::RequestMatch;
use crate::yaml::{At, Place};

/// The methods of RFC 9110 §9.3 and RFC 5789. Others are possible; these are the ones meant when
/// one is misspelt.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
];

/// Fields that are for one hop, frame a message or say where it goes: the destination does not get
/// them as they came.
pub(crate) const NOT_PASSED_ON: [HeaderName; 11] = [
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
pub(super) fn request(
    action: Option<RuleAction>,
    matches: &RawMatch,
    known: &Known<'_>,
    report: &mut Report,
) -> RequestMatch {
    let body_over = matches.body_over.as_ref().and_then(|entry| {
        if action.is_some_and(|action| action != RuleAction::Deny) {
            report.error(
                entry.place,
                "`body_over` is for a rule that denies",
                "an `allow` for the requests, and a `deny` with `body_over` beside it",
            );
        }
        size("body_over", entry, report)
    });
    RequestMatch {
        protocols: protocols(matches, report),
        methods: list("method", matches.method.as_ref(), report, method),
        paths: list("path", matches.path.as_ref(), report, path),
        query: named("query", matches.query.as_ref(), report, parameter),
        fields: named("header", matches.header.as_ref(), report, field),
        body_over,
        llm: matches
            .llm
            .as_ref()
            .map(|raw| llm::llm(action, &raw.value, known, report)),
        tool: matches
            .tool
            .as_ref()
            .map(|raw| tool::tool(&raw.value, known, report)),
    }
}

/// What is spoken, where a rule says it.
fn protocols(matches: &RawMatch, report: &mut Report) -> Protocols {
    let Some(list) = &matches.protocol else {
        return Protocols::default();
    };
    if list.value.is_empty() {
        empty("protocol", list, report);
    }
    let parts = [
        ("method", matches.method.is_some()),
        ("path", matches.path.is_some()),
        ("query", matches.query.is_some()),
        ("header", matches.header.is_some()),
        ("body_over", matches.body_over.is_some()),
        ("llm", matches.llm.is_some()),
        ("tool", matches.tool.is_some()),
    ];
    let looks = parts.iter().find(|(_, is_there)| *is_there);
    for entry in &list.value {
        let shows = matches!(entry.value, Protocol::Http | Protocol::Websocket);
        if let (false, Some((key, _))) = (shows, looks) {
            report.error(
                entry.place,
                format!("what is neither `http` nor `websocket` shows no `{key}`"),
                "make two rules of it",
            );
        } else if matches.llm.is_some() && entry.value == Protocol::Websocket {
            report.error(
                entry.place,
                "a call of a language model opens no `websocket`",
                "leave it out, or make two rules of it",
            );
        } else if matches.tool.is_some() && entry.value == Protocol::Websocket {
            report.error(
                entry.place,
                "a message to a server of tools opens no `websocket`",
                "leave it out, or make two rules of it",
            );
        }
    }
    let list = list.value.iter();
    list.fold(Protocols::default(), |all, entry| all.with(entry.value))
}

fn named<N: PartialEq>(
    key: &str,
    named: Option<&RawNamed>,
    report: &mut Report,
    name: fn(&str, Place, &mut Report) -> Option<N>,
) -> Vec<(N, Vec<Wildcard>)> {
    let Some(named) = named else {
        return Vec::new();
    };
    if named.value.is_empty() {
        empty(key, named, report);
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
            if read.iter().any(|(other, _)| *other == name) {
                let message = format!(
                    "`{}` is there twice, in another case: what stands at both has to hold",
                    quoted(text)
                );
                report.warn(
                    place,
                    message,
                    "one name with all values that it may have; header fields have no regard to case",
                );
            }
            read.push((name, patterns));
        }
    }
    read
}

fn pattern(entry: &At<String>, report: &mut Report) -> Option<Wildcard> {
    let text = entry.value.as_str();
    if text.len() > MAX_STRING || text.chars().any(char::is_control) {
        let message = format!("a pattern has at most {MAX_STRING} bytes and no control characters");
        report.error(
            entry.place,
            message,
            "like `2026-*`; what is longer is matched by its beginning and a `*`",
        );
        return None;
    }
    Some(Wildcard::new(text))
}

/// A parameter of a query, decoded.
fn parameter(text: &str, place: Place, report: &mut Report) -> Option<String> {
    if text.is_empty() || text.len() > MAX_STRING || text.chars().any(char::is_control) {
        let message = format!("`{}` is not a parameter of a query", quoted(text));
        report.error(place, message, "its name as it is when decoded");
        return None;
    }
    as_written(text, place, report);
    Some(text.to_owned())
}

fn field(text: &str, place: Place, report: &mut Report) -> Option<HeaderName> {
    let name = field_name(text).map_err(|(message, hint)| report.error(place, message, hint));
    as_written(text, place, report);
    name.ok()
}

/// Warns of what would be a pattern or a variable in a value, and is neither in a name.
pub(super) fn as_written(text: &str, place: Place, report: &mut Report) {
    if text.contains('*') {
        let message = format!("`*` in `{}` stands for itself", quoted(text));
        report.warn(place, message, "only values are patterns");
    }
    no_variable(text, place, report);
}

/// Warns of a variable in a name.
pub(super) fn no_variable(text: &str, place: Place, report: &mut Report) {
    let after = text.split_once("${").map(|(_, after)| after);
    if after.is_some_and(|after| after.contains('}')) {
        let message = format!("no variable is put into `{}`", quoted(text));
        report.warn(place, message, "names are never filled in, only values");
    }
}

/// The name of a header field that a rule can look at; else what is wrong with it, and a hint.
pub(crate) fn field_name(text: &str) -> Result<HeaderName, (String, &'static str)> {
    let Ok(name) = HeaderName::try_from(text) else {
        let message = format!("`{}` is not the name of a header field", quoted(text));
        return Err((message, "like `content-type`"));
    };
    if NOT_PASSED_ON.contains(&name) {
        let hint = match name {
            header::HOST => "a name goes under `host`",
            header::CONTENT_LENGTH => "`body_over`, which also sees what comes without it",
            _ => "it is for one hop or frames the message; leave it out",
        };
        let message = format!("`{name}` is not passed on as it comes, so no rule can look at it");
        return Err((message, hint));
    }
    Ok(name)
}

fn size(key: &str, entry: &At<String>, report: &mut Report) -> Option<u64> {
    let bytes = bytes(&entry.value);
    if bytes.is_none() {
        let text = quoted(entry.value.trim());
        let message = format!("`{key}: {text}` is not a number of bytes");
        report.error(entry.place, message, SIZES);
    }
    bytes
}

/// How a number of bytes is written.
pub(crate) const SIZES: &str = "like 65536, `64KiB` or `10MiB`";

/// A number of bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn method(entry: &At<String>, report: &mut Report) -> Option<String> {
    let text = entry.value.as_str();
    let near = nearest(&text.to_ascii_uppercase(), METHODS);
    if !is_method(text) {
        let message = format!(
            "`{}` is not a method that passes: at most {MAX_METHOD} characters A-Z -",
            quoted(text)
        );
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if text.len() > MAX_METHOD => {
                let length = text.chars().count();
                format!("it has {length} characters; leave `method` out to match any that passes")
            }
            None => "leave `method` out to match any".to_owned(),
        };
        report.error(entry.place, message, &hint);
        return None;
    }
    if !METHODS.contains(&text)
        && let Some(near) = near
    {
        let message = format!("`{text}` is not a method that clients use");
        report.warn(entry.place, message, &format!("did you mean `{near}`?"));
    }
    Some(text.to_owned())
}

pub(super) fn path(entry: &At<String>, report: &mut Report) -> Option<Glob> {
    let text = entry.value.as_str();
    let mut refuse = |why: &str, hint: &str| {
        report.error(entry.place, format!("path `{}` {why}", quoted(text)), hint);
    };
    if text.len() > MAX_STRING {
        refuse(
            &format!("is longer than {MAX_STRING} bytes"),
            "`**` stands for any number of segments: `/v1/**`",
        );
        return None;
    }
    let Some(below) = text.strip_prefix('/') else {
        refuse("does not begin with `/`", &format!("`/{}`", quoted(text)));
        return None;
    };
    if let Err((why, hint)) = canonical(text) {
        refuse(why, hint);
        return None;
    }
    match Glob::new(below) {
        Ok(glob) => Some(glob),
        Err(why) => {
            refuse(
                why,
                "`*` stands for a part of one segment, `**` alone for any number of them: `/v1/**`",
            );
            None
        }
    }
}

/// Whether an allowance that has this path is for it and for no other one.
#[must_use]
pub fn is_exact_path(text: &str) -> bool {
    let Some(below) = text.strip_prefix('/') else {
        return false;
    };
    // What servers may take for a slash has to be allowed in both readings.
    let in_one_way = text.len() <= MAX_STRING && !text.contains("%2F") && canonical(text).is_ok();
    in_one_way && Glob::new(below).is_ok_and(|glob| glob.is_exact())
}

/// The longest method that the proxy passes.
const MAX_METHOD: usize = 24;

/// Whether the proxy passes such a method: case matters (RFC 9110 §9.1), and what is not like one of those
/// that are registered is refused as malformed.
pub(crate) fn is_method(text: &str) -> bool {
    (1..=MAX_METHOD).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
}

/// Whether a path can be canonical; else what is wrong with it, and a hint.
fn canonical(text: &str) -> Result<(), (&'static str, &'static str)> {
    if text.contains(['?', '#']) {
        return Err(("has a `?` or `#`", "rules see the path without the query"));
    }
    if text.contains("//") {
        return Err(("has `//`", "in the canonical path runs of `/` are one"));
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"\\;\"<>^`{|}".contains(&b))
    {
        return Err((
            "has a character that a canonical path never has",
            "write it percent-encoded, in UTF-8",
        ));
    }
    if !escapes_are_canonical(text) {
        return Err((
            "has an escape that a canonical path never has",
            "letters, digits and `- . _ ~` are not escaped; other escapes are `%` and two upper-case hexadecimal digits",
        ));
    }
    Ok(())
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
