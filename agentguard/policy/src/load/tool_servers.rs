//! Servers of tools: who answers where.

use std::collections::HashMap;

use super::requests::path;
use super::routes::routes;
use super::values::{host, is_name, list};
use super::{Parsed, Report};
use crate::diagnostic::quoted;
use crate::document::{Listing, Pinning, RawToolServer};
use crate::pattern::Glob;
use crate::providers::Providers;
use crate::request::RequestMatch;
use crate::tool_servers::{ToolServer, patterns};

/// The most servers of tools of a policy. More are refused.
const MAX_SERVERS: usize = 256;

/// The most hosts, and the most paths, that they have together. More are refused.
const MAX_PLACES: usize = 1024;

/// The servers of tools of all documents.
pub(super) fn tool_servers(
    sources: &[Parsed],
    providers: &Providers,
    report: &mut Report,
) -> Vec<ToolServer> {
    let mut servers = Vec::new();
    let mut names: HashMap<&str, (&str, u32)> = HashMap::new();
    let (mut places, mut tools) = (0, 0);
    for source in sources {
        report.path.clone_from(&source.path);
        let document = source.document.as_ref();
        for raw in document.map_or(&[][..], |it| &it.tool_servers) {
            if names.len() == MAX_SERVERS {
                let message = format!("more than {MAX_SERVERS} servers of tools");
                let hint = "hosts with the same tools can be one server";
                report.error(raw.place, message, hint);
                return servers;
            }
            let whole = source.is_whole(raw);
            let raw = &raw.value;
            let name = raw.name.value.as_str();
            let place = raw.name.place;
            if !is_name(name) {
                let message = format!(
                    "`{}` is not a name of a server of tools: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit",
                    quoted(name)
                );
                report.error(place, message, "like `files` or `issue-tracker`");
            }
            if let Some((path, line)) = names.insert(name, (&source.path, place.line)) {
                let message = format!("a second server of tools `{}`", quoted(name));
                let hint = format!("it stands in {path}, line {line}, already");
                report.error(place, message, &hint);
            }
            // What is wrong with one that is not whole was told.
            if !whole {
                continue;
            }
            placed(raw, name, report);
            let (hosts, paths) = (raw.hosts.as_ref(), raw.paths.as_ref());
            let written = [hosts, paths].into_iter().flatten();
            places += written.map(|list| list.value.len()).sum::<usize>();
            if places > MAX_PLACES {
                let message =
                    format!("servers of tools have more than {MAX_PLACES} hosts and paths");
                let hint = "a pattern such as `*.example.org` stands for many names";
                report.error(hosts.map_or(place, |list| list.place), message, hint);
                return servers;
            }
            let paths = list("paths", paths, report, |entry, report| {
                path(entry, report)?;
                let patterns = patterns(&entry.value);
                let globs = patterns.iter().filter_map(|text| Glob::new(text).ok());
                Some(globs.collect::<Vec<_>>())
            });
            if !raw.api.value.is_mcp() && raw.list == Listing::Allowed {
                let hint = "leave `list` out: calls that are not allowed are refused all the same";
                report.error(
                    place,
                    "`list: allowed` is for `api: mcp` and `mcp_stdio`",
                    hint,
                );
            }
            if !raw.api.value.is_pinned() && raw.pin != Pinning::default() {
                let hint = "leave `pin` out: only these list their tools, or have a card";
                report.error(
                    place,
                    "`pin` is for `api: mcp`, `mcp_stdio` and `a2a`",
                    hint,
                );
            }
            let own_hosts = list("hosts", hosts, report, host);
            let takes_calls = own_hosts.iter().any(|it| providers.meet(it));
            if takes_calls && raw.paths.is_none() {
                let message = format!(
                    "`{}` takes all that goes to a host of a provider: calls of language models are messages to it, and no rule with `llm` sees them",
                    quoted(name)
                );
                report.warn(place, message, "say under `paths` where it answers");
            }
            let server = ToolServer {
                name: name.to_owned(),
                api: raw.api.value,
                list: raw.list,
                pin: raw.pin,
                routes: routes(raw, &mut tools, report),
                hosts: own_hosts,
                paths: RequestMatch {
                    paths: paths.into_iter().flatten().collect(),
                    ..RequestMatch::default()
                },
            };
            let others = server.shadowed_by(&servers);
            if !others.is_empty() {
                let others: Vec<_> = others.iter().map(|it| format!("`{}`", it.name)).collect();
                let (others, answers) = match others.as_slice() {
                    [one] => (one.clone(), "answers"),
                    _ => (others.join(", "), "answer"),
                };
                let message =
                    format!("`{name}` never answers: {others} {answers} wherever it would");
                let hint = "of several servers at one place the first one answers: let the one with narrower `hosts` or `paths` stand first";
                report.warn(place, message, hint);
            }
            servers.push(server);
        }
    }
    servers
}

/// A server in the network has hosts; one that is asked about on the agent's own host has no place there.
fn placed(raw: &RawToolServer, name: &str, report: &mut Report) {
    if raw.api.value.is_local() {
        for (key, list) in [("hosts", &raw.hosts), ("paths", &raw.paths)] {
            if let Some(list) = list {
                let message = format!(
                    "`{}` has no place in the network, and no `{key}`",
                    quoted(name)
                );
                let hint = "leave it out, or say `api: mcp` for a server that answers over HTTP";
                report.error(list.place, message, hint);
            }
        }
    } else if raw.hosts.is_none() {
        let message = format!("`{}` has no `hosts`, and answers nowhere", quoted(name));
        let hint = "`hosts: [mcp.example.com]`, or `api: mcp_stdio` for a program that `agentguard mcp wrap` starts";
        report.error(raw.api.place, message, hint);
    }
}
