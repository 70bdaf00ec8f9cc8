//! `agentguard policy openapi`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agentguard_model::ArgumentType;
use agentguard_policy::{Diagnostic, Document, Severity, compile, yaml};
use agentguard_protocol::json::same_name;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::arguments::{arguments, lists, types};
use super::{lines, unusable};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, counted, printable, say};
use crate::config::text::{self, Written};

/// The methods that an item of a path has operations for (OpenAPI 3.1, 4.8.9).
const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];

/// Write the operations of an OpenAPI document as tools of a policy; works without a daemon
///
/// What is printed is a document that a policy includes. So what is a tool of which name stands where it can be read
/// and reviewed, and does not change with the API's document.
#[derive(Debug, Args)]
pub(in crate::cli) struct OpenApi {
    /// The API's document, of OpenAPI 3, in JSON or YAML
    file: PathBuf,
    /// The name that the server of tools gets
    #[arg(long)]
    name: String,
    /// The hosts where it answers; those of the document, if none is given
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
}

/// What was made of a document.
#[derive(Serialize)]
struct Made {
    name: String,
    hosts: Vec<String>,
    tools: Vec<Tool>,
    skipped: Vec<Skipped>,
}

#[derive(Serialize)]
struct Tool {
    name: String,
    method: String,
    path: String,
    /// The fields of its query and its forms that may be there several times.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lists: Vec<String>,
    /// The types of the arguments in its path, its query and its forms, but of texts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    types: BTreeMap<String, ArgumentType>,
}

/// An operation that is no tool: a call of it is not understood.
#[derive(Serialize)]
struct Skipped {
    method: String,
    path: String,
    why: String,
}

/// What cannot be read is a usage error. An operation that cannot be a tool is told, and left out.
pub(super) fn openapi(asked: &OpenApi, out: &mut Output) -> Result<(), Failure> {
    let document = document(&asked.file)?;
    let shown = asked.file.display().to_string();
    let version = document.get("openapi").and_then(Value::as_str);
    if !version.is_some_and(|version| version.starts_with("3.")) {
        let why = format!("{shown} is no document of OpenAPI 3");
        let hint = "it begins with `openapi: 3.…`; what is older can be converted";
        return Err(Failure::usage(why).hint(hint));
    }
    let (of_document, base, unnamed) = servers(&document);
    for url in unnamed {
        say(&format!(
            "not taken for a host, since it has a variable: {}",
            printable(&url)
        ));
    }
    let hosts = match asked.host.as_slice() {
        [] => of_document.into_iter().collect(),
        given => given.to_vec(),
    };
    if hosts.is_empty() {
        let why = format!("{shown} names no host");
        return Err(Failure::usage(why).hint("say where the API answers: --host api.example.com"));
    }
    let (tools, skipped) = operations(&document, &base);
    let mut made = Made {
        name: asked.name.clone(),
        hosts,
        tools,
        skipped,
    };
    check(&shown, &mut made)?;
    for skipped in &made.skipped {
        let Skipped { method, path, why } = skipped;
        say(&format!(
            "left out, so that calls of it are not understood: {method} {}: {}",
            printable(path),
            printable(why)
        ));
    }
    say(&format!(
        "{}, {} left out",
        counted(made.tools.len(), "tool"),
        made.skipped.len()
    ));
    Ok(out.value(&made, || written(&made))?)
}

/// Reads JSON, which may be large, or YAML.
fn document(file: &Path) -> Result<Value, Failure> {
    let text = text::read(Written::OpenApi, file)?;
    let shown = file.display().to_string();
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text).map_err(|error| {
            let place = format!("{shown}:{}:{}", error.line(), error.column());
            Failure::usage(format!("{place}: it is no JSON: {error}"))
        });
    }
    yaml::parse_all(&shown, &text).map_err(|found| unusable(&shown, &found))
}

/// The hosts of a document's servers, the path below which all of them answer, and those of which the host is not known.
fn servers(document: &Value) -> (BTreeSet<String>, String, Vec<String>) {
    let servers = document.get("servers").and_then(Value::as_array);
    let urls = servers.into_iter().flatten();
    let urls = urls.filter_map(|server| server.get("url").and_then(Value::as_str));
    let mut hosts = BTreeSet::new();
    let mut base = None;
    let mut unnamed = Vec::new();
    for url in urls {
        let (host, path) = match url.split_once("://") {
            Some((_, rest)) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", url),
        };
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        // A variable in it is for whoever knows the API to fill.
        if name.contains('{') {
            unnamed.push(url.to_owned());
        } else if !name.is_empty() {
            hosts.insert(name.to_ascii_lowercase());
        }
        base.get_or_insert_with(|| path.trim_end_matches('/').to_owned());
    }
    (hosts, base.unwrap_or_default(), unnamed)
}

/// The operations of a document, as tools; and those of which it can be told already that they are none.
fn operations(document: &Value, base: &str) -> (Vec<Tool>, Vec<Skipped>) {
    let none = Map::new();
    let paths = document.get("paths").and_then(Value::as_object);
    let (mut tools, mut skipped) = (Vec::new(), Vec::new());
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (path, item) in paths.unwrap_or(&none) {
        let path = format!("{base}{path}");
        let item = item.as_object().unwrap_or(&none);
        let mut skip = |method: &str, why: &str| {
            skipped.push(Skipped {
                method: method.to_owned(),
                path: path.clone(),
                why: why.to_owned(),
            });
        };
        if item.contains_key("$ref") {
            skip("*", "its operations stand elsewhere (`$ref`)");
        }
        for method in METHODS {
            let Some(operation) = item.get(method) else {
                continue;
            };
            let named = operation.get("operationId").and_then(Value::as_str);
            let name = named.map_or_else(|| made_up(method, &path), str::to_owned);
            let method = method.to_ascii_uppercase();
            let count = names.entry(name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                let why = format!("another operation is named `{name}` too");
                skip(&method, &why);
                continue;
            }
            let mut tool = Tool {
                name,
                method,
                path: path.clone(),
                lists: Vec::new(),
                types: BTreeMap::new(),
            };
            let arguments = arguments(document, item, operation);
            for list in lists(&arguments) {
                if is_list_of(&tool, &list) {
                    tool.lists.push(list);
                } else {
                    say(&format!(
                        "no list that is read, so that calls with it are not understood: `{}` of {} {}",
                        printable(&list),
                        tool.method,
                        printable(&tool.path)
                    ));
                }
            }
            for (name, kind) in types(&arguments) {
                if has_type(&tool, &name) {
                    tool.types.insert(name, kind);
                } else {
                    say(&format!(
                        "no type that can be said, so that it is a text: `{}` of {} {}",
                        printable(&name),
                        tool.method,
                        printable(&tool.path)
                    ));
                }
            }
            tools.push(tool);
        }
    }
    (tools, skipped)
}

/// Whether a policy takes this for a list of a tool, beside those that it has.
fn is_list_of(tool: &Tool, list: &str) -> bool {
    let bare = |name: &str| name.strip_suffix("[]").unwrap_or(name).to_owned();
    let name = bare(list);
    let odd = |c: char| c.is_control() || c.is_whitespace() || "[]{}\"<>&=;".contains(c);
    let plain = (1..=256).contains(&name.len()) && !name.contains(odd);
    let of_path = tool.path.contains(&format!("{{{name}}}"));
    let known = tool.lists.iter().any(|other| bare(other) == name);
    plain && !of_path && !known && tool.lists.len() < 64
}

/// Whether a policy takes a type for this argument of a tool, beside those that it has.
fn has_type(tool: &Tool, name: &str) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace() || "[]{}\"<>&=;".contains(c);
    let plain = (1..=256).contains(&name.len()) && !name.contains(odd);
    plain && !tool.types.keys().any(|other| same_name(other, name)) && tool.types.len() < 64
}

/// A name for an operation that has none.
fn made_up(method: &str, path: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let words: String = path.chars().map(word).collect();
    let words = words.split('_').filter(|it| !it.is_empty());
    let mut name = method.to_owned();
    for word in words {
        name.push('_');
        name.push_str(word);
    }
    name
}

/// Leaves out what a policy does not take for a tool, until it takes the rest.
///
/// # Errors
/// It does not take what stands around the tools.
fn check(shown: &str, made: &mut Made) -> Result<(), Failure> {
    while !made.tools.is_empty() {
        let document = Document {
            path: format!("{shown}, as tools"),
            text: written(made),
        };
        let Err(found) = compile(&[document]) else {
            return Ok(());
        };
        let of = |it: &Diagnostic| usize::try_from(it.line).ok()?.checked_sub(FIRST_LINE);
        let errors = found.iter().filter(|it| it.severity == Severity::Error);
        let of_tools: BTreeMap<usize, String> = errors
            .filter_map(|it| Some((of(it)?, it.message.clone())))
            .filter(|(n, _)| *n < made.tools.len())
            .collect();
        if of_tools.is_empty() {
            say(&lines(&found.to_string()));
            return Err(Failure::usage(format!(
                "{shown} makes no server of tools: {}",
                found.summary()
            )));
        }
        for (n, why) in of_tools.into_iter().rev() {
            let Tool { method, path, .. } = made.tools.remove(n);
            made.skipped.push(Skipped { method, path, why });
        }
    }
    let why = format!("{shown} has no operation that can be a tool");
    Err(Failure::usage(why))
}

/// The line of the first tool in what is [`written`].
const FIRST_LINE: usize = 7;

/// As a document that a policy includes, a tool on each line.
fn written(made: &Made) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let hosts: Vec<String> = made.hosts.iter().map(|host| text(host)).collect();
    let mut document = format!(
        "version: 1\ntool_servers:\n  - name: {}\n    api: http\n    hosts: [{}]\n    tools:",
        text(&made.name),
        hosts.join(", ")
    );
    for tool in &made.tools {
        let (name, method, path) = (text(&tool.name), &tool.method, text(&tool.path));
        let lists: Vec<String> = tool.lists.iter().map(|list| text(list)).collect();
        let lists = match lists.as_slice() {
            [] => String::new(),
            lists => format!(", lists: [{}]", lists.join(", ")),
        };
        let types = tool.types.iter();
        let types: Vec<String> = types
            .map(|(name, kind)| format!("{}: {kind}", text(name)))
            .collect();
        let types = match types.as_slice() {
            [] => String::new(),
            types => format!(", types: {{{}}}", types.join(", ")),
        };
        document.push_str(&format!(
            "\n      - {{name: {name}, method: [{method}], path: {path}{lists}{types}}}"
        ));
    }
    document
}
