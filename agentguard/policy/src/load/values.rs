//! The values of a rule's lists: where things go; and what an agent's sandbox leaves open.

use std::net::IpAddr;
use std::path::{Component, PathBuf};

use agentguard_model::{Handling, InvalidHost};
use ipnet::IpNet;

use super::{MAX_LIST, MAX_STRING, Report};
use crate::agent::SandboxPolicy;
use crate::diagnostic::quoted;
use crate::document::{Permission, RawSandbox};
use crate::pattern::{HostPattern, Ports, Wildcard};
use crate::special;
use crate::yaml::At;

/// A handling for names that no rule matches. Certificates are made for names that a rule speaks
/// of, so these cannot be inspected.
pub(super) fn default_handling(raw: &At<Handling>, report: &mut Report) -> Handling {
    if raw.value == Handling::Inspect {
        report.error(
            raw.place,
            "`default_handling` cannot be `inspect` in this version",
            "`splice` here, and `handling: inspect` on a rule that allows the names to look into",
        );
        return Handling::Splice;
    }
    raw.value
}

/// What `run` leaves open to an agent. `whole`: nothing in it was told already.
pub(super) fn sandbox(raw: RawSandbox, whole: bool, report: &mut Report) -> SandboxPolicy {
    let mut unmasked_paths = Vec::new();
    if let Some(list) = raw.unmasked_paths {
        if list.value.is_empty() && whole {
            let hint = "leave `unmasked_paths` out to mask all that is masked to others";
            report.error(list.place, "`unmasked_paths` is empty", hint);
        } else if whole {
            list_bounds("unmasked_paths", &list, report);
        }
        for entry in list.value {
            let path = PathBuf::from(&entry.value);
            let up = path.components().any(|part| part == Component::ParentDir);
            if !path.is_absolute() || up || entry.value.contains('\0') || path.parent().is_none() {
                let message = format!(
                    "`{}` is not an absolute path of a file or directory",
                    quoted(&entry.value)
                );
                let hint = "begin it with `/` and write it without `..`, as in /run/docker.sock";
                report.error(entry.place, message, hint);
                continue;
            }
            unmasked_paths.push(path);
        }
    }
    SandboxPolicy {
        user_namespaces: raw.user_namespaces == Some(Permission::Allow),
        unmasked_paths,
    }
}

/// The entries of a list that are what they should be.
pub(super) fn list<T>(
    key: &str,
    list: Option<&At<Vec<At<String>>>>,
    report: &mut Report,
    read: fn(&At<String>, &mut Report) -> Option<T>,
) -> Vec<T> {
    let Some(list) = list else {
        return Vec::new();
    };
    list_bounds(key, list, report);
    let entries = list.value.iter();
    entries
        .filter_map(|entry| {
            if is_unfilled(entry, report) {
                return None;
            }
            read(entry, report)
        })
        .collect()
}

/// Whether a text is a name that a policy gives to whom it knows by their hosts.
pub(super) fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

/// A pattern of names that others give.
pub(super) fn pattern(entry: &At<String>, report: &mut Report, hint: &str) -> Option<Wildcard> {
    let text = entry.value.as_str();
    if text.is_empty() || text.len() > MAX_STRING || text.chars().any(char::is_control) {
        let message = format!("a pattern has 1 to {MAX_STRING} bytes and no control characters");
        report.error(entry.place, message, hint);
        return None;
    }
    Some(Wildcard::new(text))
}

/// Whether an entry still names a variable or a list that could not be put in, which was told.
pub(super) fn is_unfilled(entry: &At<String>, report: &Report) -> bool {
    report.in_part && (entry.value.contains("${") || entry.value.starts_with('@'))
}

/// Refuses an empty list, which could be read as "all" or as "none", and one that is too long.
pub(super) fn list_bounds(key: &str, list: &At<Vec<At<String>>>, report: &mut Report) {
    if list.value.is_empty() {
        empty(key, list, report);
    }
    let size: usize = list.value.iter().map(|entry| entry.value.len()).sum();
    if size > MAX_LIST {
        let message = format!("`{key}` has {size} bytes; the limit is {MAX_LIST}");
        report.error(
            list.place,
            message,
            "make two rules of it; a pattern such as `*.example.org` stands for many names",
        );
    }
}

pub(super) fn empty<T>(key: &str, of: &At<T>, report: &mut Report) {
    // What was in it may have been told.
    if report.in_part && !of.bare {
        return;
    }
    report.error(
        of.place,
        format!("`{key}` is empty, so it would match nothing"),
        &format!("leave `{key}` out to match all"),
    );
}

pub(super) fn host(entry: &At<String>, report: &mut Report) -> Option<HostPattern> {
    let text = entry.value.as_str();
    if text == "*" {
        report.error(
            entry.place,
            "`*` is not a host",
            "leave `host` out to match any destination",
        );
        return None;
    }
    text.parse()
        .map_err(|error: InvalidHost| {
            let bare = text.strip_prefix("*.").unwrap_or(text);
            let is_address = bare.parse::<IpAddr>().is_ok() || bare.parse::<IpNet>().is_ok();
            let hint = if is_address {
                "an address goes under `cidr`"
            } else if text.contains('/') {
                "only the name goes here; a path goes under `path`, a port under `port`"
            } else if text.contains(':') {
                "a port goes under `port`"
            } else if text.contains('*') {
                "`*` can only stand for whole labels at the front: `*.example.org`"
            } else {
                "the name as DNS has it, like `api.example.org`"
            };
            let message = format!("`{}` is not a host name: {}", quoted(text), error.why());
            report.error(entry.place, message, hint);
        })
        .ok()
}

/// A range of IPv4 addresses as it is meant, if numbers of it have zeros before them.
fn without_leading_zeros(text: &str) -> Option<String> {
    let is_number = |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit());
    let (address, length) = text.split_once('/')?;
    let parts: Vec<&str> = address.split('.').chain([length]).collect();
    if parts.len() != 5 || !parts.iter().all(|it| is_number(it)) {
        return None;
    }
    let bare = |part: &&str| match part.trim_start_matches('0') {
        "" => "0".to_owned(),
        bare => bare.to_owned(),
    };
    let mut parts: Vec<String> = parts.iter().map(bare).collect();
    let length = parts.pop()?;
    let written = format!("{}/{length}", parts.join("."));
    (written != text && written.parse::<IpNet>().is_ok()).then_some(written)
}

pub(super) fn net(entry: &At<String>, report: &mut Report) -> Option<IpNet> {
    let text = entry.value.as_str();
    if let Some(zeros) = without_leading_zeros(text) {
        let message = format!("`{}` has a number with zeros before it", quoted(text));
        let hint = format!("some read those as octal; for decimal ones write `{zeros}`");
        report.error(entry.place, message, &hint);
        return None;
    }
    let Ok(net) = text.parse::<IpNet>() else {
        match text.parse::<IpAddr>() {
            Ok(ip) => report.error(
                entry.place,
                format!("`{text}` has no prefix length"),
                &format!("for this one address write `{}`", IpNet::from(ip)),
            ),
            Err(_) => report.error(
                entry.place,
                format!("`{}` is not a range of addresses", quoted(text)),
                "like `192.0.2.0/24` or `2001:db8::/32`; a name goes under `host`",
            ),
        }
        return None;
    };
    if net != net.trunc() {
        report.error(
            entry.place,
            format!("`{text}` has bits beyond its prefix length"),
            &format!(
                "`{}`, or one address: `{}`",
                net.trunc(),
                IpNet::from(net.addr())
            ),
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
            &format!("write `{v4}/{}`", v6.prefix_len() - 96),
        );
        return None;
    }
    if special::is_virtual(net.network()) {
        report.warn(
            entry.place,
            format!("`{text}` is the guard's own range; a rule cannot open it"),
            "write the rule for the name: `host`",
        );
    }
    Some(net)
}

/// `443` or `8000-8100`.
fn port(entry: &At<String>, report: &mut Report) -> Option<(u16, u16)> {
    let text = entry.value.trim();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    // As nobody else would read it, `0443` is octal to some, and `+443` a sum.
    let number = |text: &str| {
        let text = text.trim();
        let plain =
            text.bytes().all(|it| it.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u32>().ok().filter(|_| plain)
    };
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        report.error(
            entry.place,
            format!("`{}` is not a port", quoted(text)),
            "like 443 or \"8000-8100\"",
        );
        return None;
    };
    if first == 0 {
        report.error(
            entry.place,
            format!("`{text}`: there is no port 0"),
            "leave `port` out to match any; the first one is 1",
        );
        return None;
    }
    let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else {
        report.error(
            entry.place,
            format!("`{text}`: the last port is 65535"),
            "like 443 or \"8000-8100\"",
        );
        return None;
    };
    if last < first {
        report.error(
            entry.place,
            format!("`{text}` ends before it begins"),
            &format!("\"{last}-{first}\""),
        );
        return None;
    }
    if (first, last) == (53, 53) {
        report.warn(
            entry.place,
            "port 53 always leads to the guard's own resolver",
            "this port can be left out",
        );
    }
    Some((first, last))
}

pub(super) fn ports(list: &At<Vec<At<String>>>, report: &mut Report) -> Ports {
    let mut ports = Vec::new();
    // Lists that are put together may share some.
    let mut written = Vec::new();
    for entry in &list.value {
        if !is_unfilled(entry, report)
            && let Some(range) = port(entry, report)
        {
            ports.push(range);
            if entry.place.origin == 0 {
                written.push((range, entry));
            }
        }
    }
    said_twice(written, report);
    Ports::new(ports)
}

/// Warns of the first of a list's ports that another entry has too.
fn said_twice(mut written: Vec<((u16, u16), &At<String>)>, report: &mut Report) {
    // The widest of those that begin at the same port first.
    written.sort_by_key(|((first, last), _)| (*first, std::cmp::Reverse(*last)));
    let mut widest: Option<((u16, u16), &At<String>)> = None;
    for (range, entry) in written {
        let Some((wider, other)) = widest else {
            widest = Some((range, entry));
            continue;
        };
        if range.1 > wider.1 {
            widest = Some((range, entry));
            continue;
        }
        let (own, others) = (entry.value.trim(), other.value.trim());
        let message = if range == wider {
            format!("`{own}` stands here twice")
        } else {
            format!("`{own}` is among `{others}`, which stands here too")
        };
        report.warn(
            entry.place,
            message,
            "take it out, or write what is meant instead",
        );
        return;
    }
}
