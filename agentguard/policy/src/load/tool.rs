//! What a rule says of messages to servers of tools.

use agentguard_model::{ArgumentType, ToolApi};

use super::requests::as_written;
use super::values::{list, pattern};
use super::{Known, MAX_STRING, Report};
use crate::diagnostic::{nearest, quoted};
use crate::document::{RawMatch, RawNamed, RawTool};
use crate::local;
use crate::pattern::Wildcard;
use crate::rule::Rule;
use crate::tool::{CALL, ToolMatch};
use crate::tool_servers::ToolServer;
use crate::yaml::At;

/// The most arguments that one rule looks at. More are refused.
const MAX_ARGUMENTS: usize = 16;

/// The longest JSON Pointer, in bytes. A longer one is refused.
const MAX_POINTER: usize = 256;

/// What a rule says of messages to servers of tools.
pub(super) fn tool(raw: &RawTool, known: &Known<'_>, report: &mut Report) -> ToolMatch {
    let servers = list("server", raw.server.as_ref(), report, server);
    if let Some(list) = &raw.server {
        who_is_meant(list, known, report);
    }
    let names = list("name", raw.name.as_ref(), report, named);
    let arguments = raw.arguments.as_ref();
    let arguments = arguments.map(|it| self::arguments(it, report));
    if let Some(written) = &raw.arguments
        && let Some(first) = all_are(raw, known, |api| api == ToolApi::Grpc)
        && !report.in_part
    {
        let message = format!("arguments of calls to `{first}` are not read, so that none matches");
        let hint = "what messages of gRPC mean stands in definitions that the guard does not have; leave `arguments` out";
        report.warn(written.place, message, hint);
    }
    let methods = list("method", raw.method.as_ref(), report, named);
    if let Some(written) = raw.method.as_ref().filter(|it| !it.value.is_empty())
        && (raw.name.is_some() || raw.arguments.is_some())
        && !methods.iter().any(|it| it.matches(CALL.as_bytes()))
    {
        let message = "`name` and `arguments` are about calls, and `method` has no `tools/call`";
        let hint = "add `tools/call`, or leave them out";
        report.error(written.place, message, hint);
    }
    ToolMatch {
        servers,
        names,
        arguments: arguments.unwrap_or_default(),
        methods,
    }
}

/// The first of the servers that are meant, where all of them are of such a form.
pub(super) fn all_are<'a>(
    raw: &RawTool,
    known: &'a Known<'_>,
    which: fn(ToolApi) -> bool,
) -> Option<&'a str> {
    let named = raw.server.as_ref().map(|it| &it.value);
    let is_meant = |name: &str| {
        let is = |it: &At<String>| Wildcard::new(&it.value).matches(name.as_bytes());
        named.is_none_or(|named| named.iter().any(is))
    };
    let servers = known.tool_servers.iter();
    let mut meant = servers.filter(|server| is_meant(&server.name));
    let first = meant.next().filter(|first| which(first.api))?;
    meant
        .all(|server| which(server.api))
        .then_some(first.name.as_str())
}

/// The type of an argument in the calls that a rule is about, by server and name of the tool: the one that all of these
/// tools agree on that give it one.
pub(super) fn type_of(
    pointer: &str,
    raw: Option<&RawTool>,
    known: &Known<'_>,
) -> Option<ArgumentType> {
    let patterns = |list: Option<&At<Vec<At<String>>>>| {
        let list = list.map(|list| list.value.iter());
        list.map(|list| Vec::from_iter(list.map(|it| Wildcard::new(&it.value))))
    };
    let servers = patterns(raw.and_then(|it| it.server.as_ref()));
    let names = patterns(raw.and_then(|it| it.name.as_ref()));
    let is_meant = |patterns: &Option<Vec<Wildcard>>, name: &str| {
        let matches = |it: &Wildcard| it.matches(name.as_bytes());
        patterns.as_ref().is_none_or(|all| all.iter().any(matches))
    };
    let mut found = None;
    for server in &known.tool_servers {
        if !is_meant(&servers, &server.name) {
            continue;
        }
        for route in server.routes.0.iter().filter(|it| !it.types.is_empty()) {
            // Beyond that the argument is a text, as one on whose type its tools do not agree, and checked as such.
            if !known.compares(route.types.len() + names.as_ref().map_or(0, Vec::len)) {
                return None;
            }
            let kind = route.type_of(pointer);
            let Some(kind) = kind.filter(|_| is_meant(&names, &route.name)) else {
                continue;
            };
            if found.is_some_and(|other| other != kind) {
                return None;
            }
            found = Some(kind);
        }
    }
    found
}

/// Arguments, each with its values.
fn arguments(raw: &RawNamed, report: &mut Report) -> Vec<(String, Vec<Wildcard>)> {
    if raw.value.is_empty() {
        let hint = "leave it out for any, or name one: `arguments: {/path: [\"/data/*\"]}`";
        report.error(raw.place, "`arguments` is empty", hint);
    }
    if raw.value.len() > MAX_ARGUMENTS {
        let message = format!("a rule looks at most at {MAX_ARGUMENTS} arguments");
        report.error(raw.place, message, "make two rules of it");
    }
    let mut read = Vec::new();
    for (pointer, values) in &raw.value {
        if let Some((message, hint)) = not_a_pointer(pointer) {
            report.error(values.place, message, hint);
            continue;
        }
        as_written(pointer, values.place, report);
        let key = format!("arguments: {}", quoted(pointer));
        let patterns = list(&key, Some(values), report, value);
        read.push((pointer.clone(), patterns));
    }
    read
}

/// What is wrong with a JSON Pointer to an argument, and what to do about it.
pub(crate) fn not_a_pointer(text: &str) -> Option<(String, &'static str)> {
    const LIKE: &str =
        "like `/path` or `/options/0/name`; `~1` stands for a slash, and `~0` for `~`";
    let told = quoted(text);
    let mut tildes = text.split('~').skip(1);
    if text.len() > MAX_POINTER {
        let message = format!("a JSON Pointer has at most {MAX_POINTER} bytes");
        Some((message, LIKE))
    } else if !text.starts_with('/') {
        Some((
            format!("`{told}` is no JSON Pointer: it does not begin with `/`"),
            LIKE,
        ))
    } else if !tildes.all(|rest| rest.starts_with(['0', '1'])) {
        Some((
            format!("`{told}` is no JSON Pointer: `~` stands alone in it"),
            LIKE,
        ))
    } else if text.chars().any(char::is_control) {
        Some((format!("`{told}` has control characters"), LIKE))
    } else {
        None
    }
}

/// Warns of a rule for messages where no server of tools answers: what goes there is none, whatever it says.
pub(super) fn where_is_none(
    matches: &RawMatch,
    rule: &Rule,
    known: &Known<'_>,
    report: &mut Report,
) {
    let Some(raw) = matches.tool.as_ref().filter(|_| !known.partial) else {
        return;
    };
    // Behind an address that is denied there may be any name.
    let by_address = !rule.cidrs.is_empty() && !rule.allows();
    let mut servers = known.tool_servers.iter();
    let hint = "a server of tools is declared under `tool_servers`, with its hosts; a bare address has none";
    if known.tool_servers.is_empty() {
        let message = "no server of tools is declared, so that nothing is a message to one";
        report.warn(raw.place, message, hint);
        return;
    }
    let meets = |server: &ToolServer| {
        let mut hosts = server.hosts.iter();
        hosts.any(|own| rule.hosts.iter().any(|it| own.covers(it) || it.covers(own)))
    };
    if rule.anywhere() || by_address || rule.matches_host(local::place()) {
        return;
    }
    if !servers.any(meets) {
        let message = "no server of tools answers where this rule is for, so that nothing there is a message to one";
        report.warn(raw.place, message, hint);
        return;
    }
    let (Some(written), Some(tool)) = (&raw.value.server, &rule.request.tool) else {
        return;
    };
    let names = &tool.servers;
    let is_meant = |it: &&ToolServer| names.iter().any(|own| own.matches(it.name.as_bytes()));
    let mut meant = known.tool_servers.iter().filter(is_meant).peekable();
    // Of those that are not there that was told.
    if meant.peek().is_some() && !meant.any(meets) {
        let message = "none of these servers answers where this rule is for, so that nothing there is a message to one";
        let hint = "name in `host` where they answer, or here the server of that host; or leave one of the two out";
        report.warn(written.place, message, hint);
    }
}

/// A name of a tool, or a method.
fn named(entry: &At<String>, report: &mut Report) -> Option<Wildcard> {
    pattern(entry, report, "like `read_file` or `read_*`")
}

/// What an argument may be.
fn value(entry: &At<String>, report: &mut Report) -> Option<Wildcard> {
    if entry.value.len() > MAX_STRING {
        let message = format!("a pattern has at most {MAX_STRING} bytes");
        report.error(entry.place, message, "`*` stands for any run of characters");
        return None;
    }
    Some(Wildcard::new(&entry.value))
}

/// A name of a server.
fn server(entry: &At<String>, report: &mut Report) -> Option<Wildcard> {
    let text = entry.value.as_str();
    let is_name = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-*".contains(&b));
    if !is_name {
        let message = format!(
            "`{}` is no name of a server of tools: a-z 0-9 . _ -, and `*` for any run of them",
            quoted(text)
        );
        let hint = "a server goes by its name; its hosts stand under `tool_servers`";
        report.error(entry.place, message, hint);
        return None;
    }
    Some(Wildcard::new(text))
}

/// Servers that are not there.
fn who_is_meant(list: &At<Vec<At<String>>>, known: &Known<'_>, report: &mut Report) {
    // What seems to be missing may stand in what could not be read.
    if known.partial || report.in_part {
        return;
    }
    let names = || known.tool_servers.iter().map(|server| server.name.as_str());
    for entry in &list.value {
        let pattern = Wildcard::new(&entry.value);
        if names().any(|name| pattern.matches(name.as_bytes())) {
            continue;
        }
        let hint = nearest(&entry.value, names()).map_or_else(
            || "a server of tools is declared under `tool_servers`, with its hosts".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let message = format!("no server of tools is called `{}`", quoted(&entry.value));
        report.warn(entry.place, message, &hint);
    }
}
