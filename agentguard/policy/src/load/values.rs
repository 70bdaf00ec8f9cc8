//! The values of a rule's lists.

use agentguard_model::{Handling, HostName};
use ipnet::IpNet;

use super::{MAX_LIST, MAX_STRING, Report};
use crate::diagnostic::{nearest, quoted};
use crate::pattern::{Glob, HostPattern, Ports};
use crate::special;
use crate::yaml::{At, Place};

/// The methods of RFC 9110 §9.3 and RFC 5789. Others are possible; these are the ones meant when
/// one is misspelt.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
];

/// Suffixes below which anyone can get a name.
const SHARED_SUFFIXES: [&str; 18] = [
    "amazonaws.com",
    "appspot.com",
    "azurewebsites.net",
    "blob.core.windows.net",
    "cloudfront.net",
    "firebaseapp.com",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "netlify.app",
    "ngrok.io",
    "onrender.com",
    "pages.dev",
    "run.app",
    "trycloudflare.com",
    "vercel.app",
    "web.app",
    "workers.dev",
];

/// A handling for names that no rule matches. Certificates are made for names that a rule speaks
/// of, so these cannot be inspected.
pub(super) fn default_handling(raw: &At<Handling>, report: &mut Report) -> Handling {
    if raw.value == Handling::Inspect {
        report.error(
            raw.place,
            "`default_handling` cannot be `inspect` in this version",
            Some("`splice` here, and `handling: inspect` on a rule that allows the names to look into"),
        );
        return Handling::Splice;
    }
    raw.value
}

/// Refuses an empty list, which could be read as "all" or as "none", and one that is too long.
pub(super) fn list_bounds(key: &str, list: &At<Vec<At<String>>>, report: &mut Report) {
    if list.value.is_empty() {
        empty(key, list.place, report);
    }
    let size: usize = list.value.iter().map(|entry| entry.value.len()).sum();
    if size > MAX_LIST {
        let message = format!("`{key}` has {size} bytes; the limit is {MAX_LIST}");
        report.error(list.place, message, None);
    }
}

pub(super) fn empty(key: &str, place: Place, report: &mut Report) {
    report.error(
        place,
        format!("`{key}` is empty, so it would match nothing"),
        Some(&format!("leave `{key}` out to match all")),
    );
}

pub(super) fn host(entry: &At<String>, report: &mut Report) -> Option<HostPattern> {
    let text = entry.value.as_str();
    if text == "*" {
        report.error(
            entry.place,
            "`*` is not a host",
            Some("leave `host` out to match any destination"),
        );
        return None;
    }
    let (suffix, below) = match text.strip_prefix("*.") {
        Some(suffix) => (suffix, true),
        None => (text, false),
    };
    let name: HostName = match suffix.parse() {
        Ok(name) => name,
        Err(error) => {
            let hint =
                if suffix.parse::<std::net::IpAddr>().is_ok() || suffix.parse::<IpNet>().is_ok() {
                    Some("an address goes under `cidr`")
                } else if text.contains("://") || text.contains('/') {
                    Some("only the name goes here; a path goes under `path`, a port under `port`")
                } else if text.contains(':') {
                    Some("a port goes under `port`")
                } else if text.contains('*') {
                    Some("`*` can only stand for whole labels at the front: `*.example.org`")
                } else {
                    None
                };
            report.error(entry.place, format!("{error}"), hint);
            return None;
        }
    };
    if below && !name.as_str().contains('.') {
        report.warn(
            entry.place,
            format!("`*.{name}` matches every name below a top-level domain"),
            Some("name the domain that is meant: `*.example.org`"),
        );
    } else if below && SHARED_SUFFIXES.contains(&name.as_str()) {
        report.warn(
            entry.place,
            format!("anyone can get a name below `{name}`, also to take data out"),
            Some("name the hosts that are meant"),
        );
    }
    Some(if below {
        HostPattern::Below(name)
    } else {
        HostPattern::Exact(name)
    })
}

pub(super) fn net(entry: &At<String>, report: &mut Report) -> Option<IpNet> {
    let text = entry.value.as_str();
    let Ok(net) = text.parse::<IpNet>() else {
        match text.parse::<std::net::IpAddr>() {
            Ok(ip) => report.error(
                entry.place,
                format!("`{text}` has no prefix length"),
                Some(&format!("for this one address write `{}`", IpNet::from(ip))),
            ),
            Err(_) => report.error(
                entry.place,
                format!("`{}` is not a range of addresses", quoted(text)),
                Some("like `192.0.2.0/24` or `2001:db8::/32`; a name goes under `host`"),
            ),
        }
        return None;
    };
    if net != net.trunc() {
        report.error(
            entry.place,
            format!("`{text}` has bits beyond its prefix length"),
            Some(&format!(
                "`{}`, or one address: `{}`",
                net.trunc(),
                IpNet::from(net.addr())
            )),
        );
        return None;
    }
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.network().to_ipv4_mapped()
    {
        report.error(
            entry.place,
            format!("`{text}` is a range of IPv4 addresses"),
            Some(&format!("write `{v4}/{}`", v6.prefix_len() - 96)),
        );
        return None;
    }
    if special::is_virtual(net.network()) {
        report.warn(
            entry.place,
            format!("`{text}` is the guard's own range; a rule cannot open it"),
            Some("write the rule for the name: `host`"),
        );
    }
    Some(net)
}

/// `443` or `8000-8100`.
fn port(entry: &At<String>, report: &mut Report) -> Option<(u16, u16)> {
    let text = entry.value.trim();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else {
        report.error(
            entry.place,
            format!("`{}` is not a port", quoted(text)),
            Some("like 443 or \"8000-8100\""),
        );
        return None;
    };
    if first == 0 {
        report.error(entry.place, format!("`{text}`: there is no port 0"), None);
        return None;
    }
    let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else {
        report.error(
            entry.place,
            format!("`{text}`: the last port is 65535"),
            None,
        );
        return None;
    };
    if last < first {
        report.error(
            entry.place,
            format!("`{text}` ends before it begins"),
            Some(&format!("\"{last}-{first}\"")),
        );
        return None;
    }
    if (first, last) == (53, 53) {
        report.warn(
            entry.place,
            "port 53 always leads to the guard's own resolver",
            Some("this port can be left out"),
        );
    }
    Some((first, last))
}

pub(super) fn ports(list: &At<Vec<At<String>>>, report: &mut Report) -> Ports {
    Ports::new(list.value.iter().filter_map(|p| port(p, report)).collect())
}

/// A method is a token (RFC 9110 §5.6.2), and case matters.
pub(super) fn method(entry: &At<String>, report: &mut Report) -> Option<String> {
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

pub(super) fn path(entry: &At<String>, report: &mut Report) -> Option<Glob> {
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
