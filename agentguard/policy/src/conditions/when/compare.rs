//! Comparisons that nobody means: what is compared can never be the other.

use std::net::IpAddr;

use agentguard_model::{CanonicalPath, HostName};
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::check::{Check, note};
use super::shape::{kind, path, text};
use crate::diagnostic::quoted;
use crate::llm::OPERATIONS;

impl Check<'_> {
    /// What is of two kinds is never equal, which nobody means.
    pub(super) fn same_kind(&mut self, call: &CallExpr) {
        let [first, second] = call.args.as_slice() else {
            return;
        };
        let others = match (call.func_name.as_str(), &second.expr) {
            (operators::EQUALS | operators::NOT_EQUALS, _) => std::slice::from_ref(second),
            (operators::IN, Expr::List(list)) => list.elements.as_slice(),
            _ => return,
        };
        for other in others {
            self.in_range(first, other);
            self.label(first, other);
            self.label(other, first);
            let written = text(first).or_else(|| text(other)).unwrap_or_default();
            if let (Some(one), Some(other)) = (kind(first), kind(other))
                && one != other
            {
                let message = format!("{one} is never equal to {other}");
                let hint = "texts are compared with texts and numbers with numbers: `int('8')`, `string(8)`";
                return self.error(written, message, hint);
            }
        }
    }

    /// An entry of the labels, compared with a text.
    fn label(&mut self, of: &IdedExpr, other: &IdedExpr) {
        let name = match &of.expr {
            Expr::Select(select) => {
                path(select).and_then(|it| it.strip_prefix("agent.labels.").map(str::to_owned))
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [map, name] = call.args.as_slice() else {
                    return;
                };
                let Expr::Select(map) = &map.expr else {
                    return;
                };
                let is_label = path(map).as_deref() == Some("agent.labels");
                text(name).filter(|_| is_label).map(str::to_owned)
            }
            _ => None,
        };
        if let (Some(name), Some(value)) = (name, text(other)) {
            note(&mut self.looks_at.label_values, (name, value.to_owned()));
        }
    }

    /// What a variable is never, compared with it.
    fn in_range(&mut self, of: &IdedExpr, other: &IdedExpr) {
        for (of, other) in [(of, other), (other, of)] {
            let Expr::Select(select) = &of.expr else {
                continue;
            };
            let path = path(select).unwrap_or_default();
            let range = match path.as_str() {
                "time.weekday" => 1..=7,
                "time.hour" => 0..=23,
                "time.minute" => 0..=59,
                "destination.port" => 1..=65_535,
                _ => {
                    self.word(&path, other);
                    continue;
                }
            };
            if let Expr::Literal(LiteralValue::Int(number)) = &other.expr
                && !range.contains(number.inner())
            {
                let (first, last) = (range.start(), range.end());
                let message = format!("`{path}` is never {}", number.inner());
                return self.error(
                    &path,
                    message,
                    &format!("it is {first} to {last}; Monday is 1 and Sunday 7"),
                );
            }
        }
    }

    fn word(&mut self, path: &str, other: &IdedExpr) {
        let Some(word) = text(other) else {
            return;
        };
        if path == "agent.name" {
            return note(&mut self.looks_at.agents, word.to_owned());
        }
        let hint = match path {
            "destination.transport" if word != "tcp" => "such a rule is over `tcp` alone",
            "request.method" if word.bytes().any(|it| it.is_ascii_lowercase()) => {
                "methods are in upper case as clients send them"
            }
            "request.path" if !word.starts_with('/') || word.contains(['?', '#']) => {
                "a path begins with `/` and has no query"
            }
            "request.path"
                if CanonicalPath::parse(word).is_ok_and(|path| path.as_str() != word) =>
            {
                "the path is the canonical one: without `//`, `.` and `..`, and without escapes that need not be"
            }
            "llm.operation" if !OPERATIONS.iter().any(|(name, _)| *name == word) => match word {
                "" => return,
                _ => {
                    "it is chat, text_completion, embeddings or count_tokens, and '' for what is no call"
                }
            },
            "llm.provider" if word.bytes().any(|it| it.is_ascii_uppercase()) => {
                "providers have names in lower case"
            }
            "destination.ip" => match word.parse::<IpAddr>() {
                _ if word.is_empty() => return,
                Ok(ip) if ip.to_canonical().to_string() == word => return,
                Ok(_) => "an address is compared in its shortest form, and IPv4 as such",
                Err(_) => "one address; ranges go under `match: {cidr: […]}`",
            },
            "destination.host" => match word.parse::<HostName>() {
                Ok(name) if name.as_str() == word => return,
                _ if word.is_empty() => return,
                Ok(_) => "a name is in lower case, without a dot at its end, and in A-labels",
                Err(_) => "one name; patterns go under `match: {host: […]}`",
            },
            _ => return,
        };
        let message = format!("`{path}` is never `{}`", quoted(word));
        self.error(word, message, hint);
    }
}
