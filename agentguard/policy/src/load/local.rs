//! Rules for tools on the agent's own host alone.

use agentguard_model::ToolApi;

use super::tool::all_are;
use super::{Known, Report};
use crate::document::{RawMatch, RawRule};
use crate::local;
use crate::pattern::HostPattern;
use crate::rule::Rule;
use crate::tool_servers::ToolServer;
use crate::yaml::Place;

/// Warns of what no message to a tool on the agent's own host has, in a rule that is for those alone: it never matches.
pub(super) fn what_they_lack(
    raw: &RawRule,
    matches: &RawMatch,
    known: &Known<'_>,
    report: &mut Report,
) {
    let Some(tool) = matches.tool.as_ref() else {
        return;
    };
    if known.partial || all_are(&tool.value, known, ToolApi::is_local).is_none() {
        return;
    }
    let of_network = [
        ("host", matches.host.as_ref().map(|it| it.place)),
        ("cidr", matches.cidr.as_ref().map(|it| it.place)),
        ("port", matches.port.as_ref().map(|it| it.place)),
        ("protocol", matches.protocol.as_ref().map(|it| it.place)),
        ("method", matches.method.as_ref().map(|it| it.place)),
        ("path", matches.path.as_ref().map(|it| it.place)),
        ("query", matches.query.as_ref().map(|it| it.place)),
        ("header", matches.header.as_ref().map(|it| it.place)),
        ("body_over", matches.body_over.as_ref().map(|it| it.place)),
    ];
    let mut warn = |key: &str, place: Place| {
        let message = format!(
            "tools on the agent's own host are asked over no network, so that a rule for them with `{key}` does nothing"
        );
        report.warn(place, message, "leave it out");
    };
    for (key, place) in of_network {
        if let Some(place) = place {
            warn(key, place);
        }
    }
    let changes = raw.modify.as_ref().map(|it| &it.value);
    if let Some(headers) = changes.and_then(|it| it.headers.as_ref()) {
        warn("headers", headers.place);
    }
}

/// Makes a rule that names local servers of tools, and no destination, one for the place where they are: it opens no
/// name and no address, and no flow in the network waits for it. Gives whether it did.
pub(super) fn narrow(rule: &mut Rule, servers: &[ToolServer]) -> bool {
    let Some(tool) = rule.request.tool.as_ref() else {
        return false;
    };
    if !rule.anywhere() || tool.servers.is_empty() {
        return false;
    }
    let mut meant = servers.iter();
    let mut meant = meant
        .by_ref()
        .filter(|it| {
            tool.servers
                .iter()
                .any(|pattern| pattern.matches(it.name.as_bytes()))
        })
        .peekable();
    let is_local = meant.peek().is_some() && meant.all(|it| it.api.is_local());
    if is_local {
        rule.hosts.push(HostPattern::Exact(local::place().clone()));
    }
    is_local
}
