//! The tools of an HTTP API, as a document has them.

use std::collections::HashMap;

use agentguard_model::{ArgumentType, ToolApi};
use agentguard_protocol::json::same_name;

use super::values::list;
use super::{MAX_STRING, Report};
use crate::diagnostic::quoted;
use crate::document::{RawRoute, RawToolServer};
use crate::routes::{InvalidTemplate, Route, Routes, Template};
use crate::yaml::At;

/// The most tools that the HTTP APIs of a policy have together. More are refused.
const MAX_TOOLS: usize = 1024;

/// The most arguments of one tool that are lists.
const MAX_LISTS: usize = 64;

/// The most arguments of one tool that have types.
const MAX_TYPES: usize = 64;

/// The longest name of a tool, in bytes. A longer one is refused.
const MAX_NAME: usize = 256;

/// The tools of one server. `count`: how many those before it have.
pub(super) fn routes(raw: &RawToolServer, count: &mut usize, report: &mut Report) -> Routes {
    let Some(tools) = &raw.tools else {
        if raw.api.value == ToolApi::Http {
            let hint = "say which requests are calls, like `tools: [{name: read, method: [GET], path: \"/files/{name}\"}]`";
            report.error(
                raw.name.place,
                "a server of `api: http` without `tools`",
                hint,
            );
        }
        return Routes::default();
    };
    if raw.api.value != ToolApi::Http {
        let hint = "leave `tools` out: what is called says its name in the other forms";
        report.error(tools.place, "`tools` is for `api: http`", hint);
        return Routes::default();
    }
    if tools.value.is_empty() {
        let hint = "like `tools: [{name: read, method: [GET], path: \"/files/{name}\"}]`";
        report.error(tools.place, "`tools` is empty", hint);
    }
    *count += tools.value.len();
    if *count > MAX_TOOLS {
        let message = format!("HTTP APIs have more than {MAX_TOOLS} tools");
        let hint = "requests that are decided alike can be one tool, with parameters in its path";
        report.error(tools.place, message, hint);
        return Routes::default();
    }
    let mut names: HashMap<&str, u32> = HashMap::new();
    let mut read: Vec<(u32, Route)> = Vec::new();
    for tool in &tools.value {
        let raw = &tool.value;
        let name = &raw.name;
        if let Some(line) = names.insert(&name.value, name.place.line) {
            let message = format!("a second tool `{}`", quoted(&name.value));
            let hint = format!(
                "it stands in line {line} already; a tool has one path and any number of methods"
            );
            report.error(name.place, message, &hint);
        }
        let Some(route) = route(raw, report) else {
            continue;
        };
        if let Some((line, other)) = read.iter().find(|(_, it)| it.is_equal_to(&route)) {
            let message = format!(
                "some requests are `{}` as well as `{}`",
                quoted(&route.name),
                quoted(&other.name)
            );
            let hint = format!(
                "the other stands in line {line}; make one path more literal, or let the methods differ"
            );
            report.error(raw.path.place, message, &hint);
            continue;
        }
        read.push((raw.path.place.line, route));
    }
    Routes(read.into_iter().map(|(_, route)| route).collect())
}

fn route(raw: &RawRoute, report: &mut Report) -> Option<Route> {
    let name = named(&raw.name, report);
    let methods = list("method", Some(&raw.method), report, method);
    let template = template(&raw.path, report);
    let lists = lists(raw, template.as_ref(), report);
    let types = types(raw, report);
    Some(Route {
        name: name?,
        methods: (!methods.is_empty()).then_some(methods)?,
        template: template?,
        lists: lists.into(),
        types: types.into(),
    })
}

/// The arguments that are lists in queries and forms.
fn lists(raw: &RawRoute, template: Option<&Template>, report: &mut Report) -> Vec<String> {
    let Some(raw) = &raw.lists else {
        return Vec::new();
    };
    if raw.value.len() > MAX_LISTS {
        let message = format!("a tool has at most {MAX_LISTS} lists");
        report.error(raw.place, message, "name those that clients send");
        return Vec::new();
    }
    let mut read: Vec<String> = Vec::new();
    for entry in &raw.value {
        let text = entry.value.as_str();
        let bare = text.strip_suffix("[]").unwrap_or(text);
        let of_path = |it: &Template| it.parameters().any(|name| name == bare);
        let same = |it: &String| it.strip_suffix("[]").unwrap_or(it) == bare;
        let why = if !is_argument(bare) {
            "is not a name of an argument in a query or a form"
        } else if template.is_some_and(of_path) {
            "is a parameter of the path, and there once"
        } else if read.iter().any(same) {
            "is there twice"
        } else {
            read.push(text.to_owned());
            continue;
        };
        let message = format!("the list `{}` {why}", quoted(text));
        report.error(
            entry.place,
            message,
            "like `labels`, or `labels[]` where it is written so",
        );
    }
    read
}

/// The types of arguments. A server may take a name in another case for the same.
fn types(raw: &RawRoute, report: &mut Report) -> Vec<(String, ArgumentType)> {
    let Some(raw) = &raw.types else {
        return Vec::new();
    };
    if raw.value.len() > MAX_TYPES {
        let message = format!("a tool has at most {MAX_TYPES} arguments with types");
        report.error(raw.place, message, "name those that rules look at");
        return Vec::new();
    }
    let mut read: Vec<(String, ArgumentType)> = Vec::new();
    for (name, kind) in &raw.value {
        let bare = name.strip_suffix("[]");
        let (why, hint) = if bare.is_some_and(is_argument) {
            (
                "has a type under its name with `[]`",
                "leave the `[]` out: the type of a list is that of each of its entries",
            )
        } else if !is_argument(name) {
            (
                "is not a name of an argument in a path, a query or a form",
                "like `types: {page: integer, labels: string}`",
            )
        } else if read.iter().any(|(other, _)| same_name(other, name)) {
            (
                "has a type already, in another case",
                "some servers take both for the same: name one of them",
            )
        } else {
            read.push((name.clone(), kind.value));
            continue;
        };
        let message = format!("the argument `{}` {why}", quoted(name));
        report.error(kind.place, message, hint);
    }
    read
}

/// Whether a name can be one of an argument in a path, a query or a form.
fn is_argument(name: &str) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace() || "[]{}\"<>&=;".contains(c);
    (1..=MAX_NAME).contains(&name.len()) && !name.contains(odd)
}

fn named(name: &At<String>, report: &mut Report) -> Option<String> {
    let text = name.value.as_str();
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(plain) {
        return Some(text.to_owned());
    }
    let message = format!(
        "`{}` is not a name of a tool: 1 to {MAX_NAME} bytes without spaces and control characters",
        quoted(text)
    );
    report.error(
        name.place,
        message,
        "like `create_issue` or `issues/create`",
    );
    None
}

fn method(entry: &At<String>, report: &mut Report) -> Option<String> {
    let text = entry.value.as_str();
    let upper = |b: u8| b.is_ascii_uppercase() || b == b'-';
    if (1..=32).contains(&text.len()) && text.bytes().all(upper) {
        return Some(text.to_owned());
    }
    let message = format!("`{}` is not a method of HTTP in upper case", quoted(text));
    report.error(entry.place, message, "like `GET` or `POST`");
    None
}

/// What to write instead.
fn hint(why: &InvalidTemplate) -> &'static str {
    match why {
        InvalidTemplate::Touching => {
            "say what stands between them, like `/reports/{id}.{format}`, or take both as one parameter"
        }
        InvalidTemplate::Many => "take what belongs together as one parameter",
        _ => "like `/repos/{owner}/issues` or `/reports/{id}.{format}`",
    }
}

fn template(entry: &At<String>, report: &mut Report) -> Option<Template> {
    let text = entry.value.as_str();
    let told = quoted(text);
    if text.len() > MAX_STRING {
        let message = format!("a path has at most {MAX_STRING} bytes");
        report.error(entry.place, message, "`{name}` stands for any segment");
        return None;
    }
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(InvalidTemplate::NotCanonical(canonical)) => {
            let message = format!("the path `{told}` is not as paths are sent");
            let hint = format!("write `{}`", quoted(&canonical));
            report.error(entry.place, message, &hint);
            None
        }
        Err(why) => {
            let message = format!("the path `{told}` {why}");
            report.error(entry.place, message, hint(&why));
            None
        }
    }
}
