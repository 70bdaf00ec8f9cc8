//! Names and methods that no message to a server of tools has: of some forms it is known which there are.

use agentguard_model::ToolApi;
use agentguard_protocol::api::a2a::Operation;
use agentguard_protocol::mcp::OF_CLIENTS;

use super::{Known, Report};
use crate::diagnostic::{nearest, quoted};
use crate::document::RawMatch;
use crate::pattern::Wildcard;
use crate::rule::Rule;
use crate::tool::{CALL, SESSION};
use crate::tool_servers::ToolServer;
use crate::yaml::At;

/// The methods of MCP beside those that every session needs and those that clients are asked for. Others are possible;
/// these are the ones meant when one is misspelt.
const METHODS: [&str; 21] = [
    CALL,
    "completion/complete",
    "logging/setLevel",
    "notifications/elicitation/complete",
    "notifications/message",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/tasks/status",
    "notifications/tools/list_changed",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
];

/// How many comparisons it takes to tell how near two names are.
const NEAR: usize = 20;

/// More of a method is not compared, in bytes.
const MAX_METHOD: usize = 64;

/// The kinds of operations of GraphQL, as names of calls begin with them.
const KINDS: [&str; 3] = ["query.", "mutation.", "subscription."];

/// Warns of names and methods that no message has where a rule is for.
pub(super) fn that_are_none(
    matches: &RawMatch,
    rule: &Rule,
    known: &Known<'_>,
    report: &mut Report,
) {
    let Some(raw) = matches.tool.as_ref().filter(|_| !known.partial) else {
        return;
    };
    let Some(tool) = &rule.request.tool else {
        return;
    };
    let names = &tool.servers;
    let is_meant = |it: &&ToolServer| {
        let named = names.is_empty() || names.iter().any(|own| own.matches(it.name.as_bytes()));
        named && answers(it, rule)
    };
    let meant: Vec<&ToolServer> = known.tool_servers.iter().filter(is_meant).collect();
    let Some(first) = meant.first() else {
        return;
    };
    let tools: usize = meant.iter().map(|server| 1 + server.routes.0.len()).sum();
    for entry in raw.value.name.iter().flat_map(|list| &list.value) {
        if !known.compares(tools) {
            break;
        }
        if !meant.iter().any(|server| may_have(server, &entry.value)) {
            // Looking for one that is nearly it takes as long as many others.
            let near = known.compares(tools.saturating_mul(NEAR));
            name_of_none(entry, first, &meant, near, report);
        }
    }
    if !meant.iter().any(|server| server.api.is_mcp()) {
        return;
    }
    for entry in raw.value.method.iter().flat_map(|list| &list.value) {
        method_of_none(entry, rule, report);
    }
}

/// Whether a server may answer where a rule is for.
fn answers(server: &ToolServer, rule: &Rule) -> bool {
    let mut hosts = server.hosts.iter();
    rule.anywhere()
        || !rule.cidrs.is_empty()
        || server.api.is_local()
        || hosts.any(|own| rule.hosts.iter().any(|it| own.covers(it) || it.covers(own)))
}

/// Whether a call to a server may have a name that a pattern matches. A denial has no regard to case.
fn may_have(server: &ToolServer, written: &str) -> bool {
    let written = written.to_ascii_lowercase();
    let pattern = Wildcard::new(&written);
    let is_one = |name: &str| pattern.matches(name.to_ascii_lowercase().as_bytes());
    let (before, open) = match written.split_once('*') {
        Some((before, _)) => (before, true),
        None => (written.as_str(), false),
    };
    match server.api {
        ToolApi::A2a => Operation::names().any(is_one),
        ToolApi::Http => server.routes.0.iter().any(|route| is_one(&route.name)),
        ToolApi::Graphql => KINDS.iter().any(|kind| {
            let field = before.strip_prefix(kind);
            field.is_some_and(|field| open || !field.is_empty()) || open && kind.starts_with(before)
        }),
        ToolApi::Grpc => !written.starts_with('/') && (open || written.contains('/')),
        ToolApi::Mcp | ToolApi::McpStdio | ToolApi::Hook | ToolApi::JsonRpc => true,
    }
}

fn name_of_none(
    entry: &At<String>,
    first: &ToolServer,
    meant: &[&ToolServer],
    looks_for_near: bool,
    report: &mut Report,
) {
    let told = quoted(&entry.value);
    let alike = meant.iter().all(|server| server.api == first.api);
    let near = |near: Option<&str>, otherwise: &str| {
        near.map_or_else(
            || otherwise.to_owned(),
            |near| format!("did you mean `{near}`?"),
        )
    };
    let (message, hint) = match first.api {
        _ if !alike => (
            format!("no server that this rule is for has a tool `{told}`, so that no call has this name"),
            "those of `api: http` have the tools that they declare, of `grpc` `package.Service/Method`, of `graphql` `query.field`, of `a2a` its operations".to_owned(),
        ),
        ToolApi::A2a => (
            format!("`{told}` is no operation of A2A, so that no call has this name"),
            match Operation::of_method(&entry.value) {
                Some(operation) => format!(
                    "write `{}`: operations have the names of 1.0, in whatever version they are asked for",
                    operation.name()
                ),
                None => near(
                    nearest(&entry.value, Operation::names()),
                    "operations have the names of A2A 1.0, such as `SendMessage`",
                ),
            },
        ),
        ToolApi::Graphql => (
            format!("`{told}` is no field of GraphQL, so that no call has this name"),
            format!("the kind of operation stands before it, like `query.{told}` or `mutation.{told}`"),
        ),
        ToolApi::Grpc => (
            format!("`{told}` is no method of gRPC, so that no call has this name"),
            "a call is `package.Service/Method`; `*/Method` is that of any service".to_owned(),
        ),
        _ => {
            let meant_near = if looks_for_near { meant } else { &[] };
            let tools = meant_near.iter().flat_map(|server| &server.routes.0);
            let hint = near(
                nearest(&entry.value, tools.map(|route| route.name.as_str())),
                "its tools are declared under `tools` of the server",
            );
            let message = match meant {
                [one] => format!("`{}` has no tool `{told}`, so that no call has this name", one.name),
                _ => format!("no server that this rule is for has a tool `{told}`, so that no call has this name"),
            };
            (message, hint)
        }
    };
    report.warn(entry.place, message, &hint);
}

fn method_of_none(entry: &At<String>, rule: &Rule, report: &mut Report) {
    let written = entry.value.as_str();
    let mut known = METHODS.iter().chain(&SESSION).chain(&OF_CLIENTS).copied();
    let is_one = |it: &str| it == written || !rule.allows() && it.eq_ignore_ascii_case(written);
    if written.contains('*') || known.clone().any(is_one) {
        return;
    }
    // Extensions have methods of their own, which may be like those.
    let letters = |it: &str| it.replace(['_', '-'], "").to_ascii_lowercase();
    let own = letters(written.get(..MAX_METHOD).unwrap_or(written));
    let near = known.find(|it| strsim::osa_distance(&letters(it), &own) <= 1);
    if let Some(near) = near {
        let message = format!("`{}` is no method of MCP", quoted(written));
        report.warn(entry.place, message, &format!("did you mean `{near}`?"));
    }
}
