//! What an allowance opens, or seems to open, that was probably not meant.

use agentguard_model::special::{Special, is_opened, special as of_address};
use ipnet::IpNet;
use psl::Type;

use super::Report;
use crate::document::RawMatch;
use crate::pattern::HostPattern;
use crate::special;
use crate::yaml::At;

/// Names below which anyone can get one, where the public suffix list does not have them: with what it has below
/// them, or what does not ask to be in it.
const SHARED: [&str; 36] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "app.github.dev",
    "backblazeb2.com",
    "burpcollaborator.net",
    "cloudapp.azure.com",
    "compute.amazonaws.com",
    "core.windows.net",
    "devtunnels.ms",
    "digitaloceanspaces.com",
    "elb.amazonaws.com",
    "firebaseio.com",
    "github.dev",
    "glitch.me",
    "googleusercontent.com",
    "interact.sh",
    "lhr.life",
    "loca.lt",
    "localtunnel.me",
    "m.pipedream.net",
    "modal.run",
    "nip.io",
    "oast.fun",
    "oast.live",
    "oast.pro",
    "oastify.com",
    "on.aws",
    "pipedream.net",
    "r2.cloudflarestorage.com",
    "railway.app",
    "replit.dev",
    "run.app",
    "serveo.net",
    "sslip.io",
    "storage.googleapis.com",
    "windows.net",
];

/// Such names that have one label of a region below them first.
const REGIONAL: [&str; 3] = [
    "backblazeb2.com",
    "cloudapp.azure.com",
    "digitaloceanspaces.com",
];

/// Whether anyone can get a name below this one.
fn is_shared(name: &str) -> bool {
    let below = |suffix: &str| REGIONAL.contains(&suffix);
    is_suffix(name, Type::Private)
        || SHARED.contains(&name)
        || name
            .split_once('.')
            .is_some_and(|(_, suffix)| below(suffix))
}

/// Whether it is a top-level domain, or one below which a registry gives names away, as `co.uk`.
fn is_registry(name: &str) -> bool {
    !name.contains('.') || is_suffix(name, Type::Icann)
}

/// Whether the public suffix list has it (publicsuffix.org), in that of its parts.
fn is_suffix(name: &str, part: Type) -> bool {
    let suffix = psl::suffix(name.as_bytes());
    suffix.is_some_and(|it| it.typ() == Some(part) && it.as_bytes() == name.as_bytes())
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
    } else if is_shared(name.as_str()) {
        report.warn(
            entry.place,
            format!("anyone can get a name below `{name}`, also to take data out"),
            "name the hosts that are meant",
        );
    }
}

/// Warns of a range of `resolved_ranges` that permits nothing, or not what it may be meant for.
pub(super) fn permitted(net: &IpNet, entry: &At<String>, report: &mut Report) {
    let ends = [net.network(), net.broadcast()];
    let specials = ends.map(|ip| of_address(ip).map(|(_, why)| why));
    if ends
        .iter()
        .zip(&specials)
        .any(|(ip, special)| special.is_some() && is_opened(*ip, &[*net]))
    {
        // Where names lead to such addresses, these are meant more often than others.
        let linked = specials.contains(&Some(Special::LinkLocal));
        if let Some(closed) = held(net).filter(|_| linked) {
            report.warn(
                entry.place,
                format!("`{net}` does not open `{closed}`, which it holds"),
                &format!("a rule that means it names it: `{closed}`"),
            );
        }
        return;
    }
    let hint = match specials {
        [None, None] => "leave it out: names lead to public addresses without it",
        [Some(why), _] if why.never_permitted() && net.addr().is_ipv4() => {
            "leave it out: no name leads there"
        }
        _ => {
            "name the range of IPv4 that is meant, which opens what leads there too, or one that lies inside of one special range"
        }
    };
    report.warn(entry.place, format!("`{net}` permits nothing"), hint);
}

/// A range that stays closed and that another one holds.
fn held(net: &IpNet) -> Option<&'static IpNet> {
    let mut closed = special::HARD.iter().map(|(_, closed)| closed);
    closed.find(|it| *it != net && net.contains(*it))
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
    if let Some(closed) = held(net) {
        report.warn(
            entry.place,
            format!("`{net}` does not open `{closed}`, which it holds"),
            &format!("a rule that means it names it: `{closed}`"),
        );
    }
}
