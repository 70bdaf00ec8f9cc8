//! What an allowance opens, or seems to open, that was probably not meant.

use ipnet::IpNet;

use super::Report;
use crate::document::RawMatch;
use crate::pattern::HostPattern;
use crate::special;
use crate::yaml::At;

/// Suffixes below which anyone can get a name.
const SHARED_SUFFIXES: [&str; 27] = [
    "amazonaws.com",
    "appspot.com",
    "blogspot.com",
    "azurewebsites.net",
    "blob.core.windows.net",
    "cloudfront.net",
    "duckdns.org",
    "firebaseapp.com",
    "firebaseio.com",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "netlify.app",
    "ngrok-free.app",
    "ngrok.io",
    "nip.io",
    "onrender.com",
    "pages.dev",
    "r2.dev",
    "run.app",
    "s3.amazonaws.com",
    "sslip.io",
    "trycloudflare.com",
    "uk.com",
    "vercel.app",
    "web.app",
    "workers.dev",
];

/// Labels below which a country's registry gives names away, as `co.uk`.
const REGISTRY_LABELS: [&str; 12] = [
    "ac", "co", "com", "edu", "go", "gov", "gob", "ne", "net", "nom", "or", "org",
];

/// Whether it is a country's domain, or one of those in which its registry gives names away.
fn is_registry(name: &str) -> bool {
    match name.rsplit_once('.') {
        None => true,
        Some((label, country)) => country.len() == 2 && REGISTRY_LABELS.contains(&label),
    }
}

/// Warns of hosts and ranges of an allowance. What is wrong with them was told.
pub(super) fn warn(matches: &RawMatch, report: &mut Report) {
    for entry in matches.host.iter().flat_map(|list| &list.value) {
        host(entry, report);
    }
    for entry in matches.cidr.iter().flat_map(|list| &list.value) {
        if let Ok(net) = entry.value.parse() {
            range(&net, entry, report);
        }
    }
}

fn host(entry: &At<String>, report: &mut Report) {
    let Ok(HostPattern::Below(name)) = entry.value.parse() else {
        return;
    };
    if is_registry(name.as_str()) {
        report.warn(
            entry.place,
            format!("`*.{name}` matches every name below a top-level domain"),
            "name the domain that is meant: `*.example.org`",
        );
    } else if SHARED_SUFFIXES.contains(&name.as_str()) {
        report.warn(
            entry.place,
            format!("anyone can get a name below `{name}`, also to take data out"),
            "name the hosts that are meant",
        );
    }
}

fn range(net: &IpNet, entry: &At<String>, report: &mut Report) {
    // The largest block that one owner has: a `/8`, and for IPv6 a `/16`.
    let owned = if net.addr().is_ipv4() { 8 } else { 16 };
    if net.prefix_len() < owned {
        report.warn(
            entry.place,
            format!(
                "`{net}` is a large part of the internet, which no rule about names covers then"
            ),
            "name the ranges that are meant, or the hosts",
        );
        // Nobody expects loopback there.
        return;
    }
    let mut closed = special::HARD.iter().map(|(_, closed)| closed);
    if let Some(closed) = closed.find(|it| *it != net && net.contains(*it)) {
        report.warn(
            entry.place,
            format!("`{net}` does not open `{closed}`, which it holds"),
            &format!("a rule that means it names it: `{closed}`"),
        );
    }
}
