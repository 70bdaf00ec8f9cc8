//! Comparisons that nobody means: what is compared can never be the other.

use std::net::IpAddr;

use agentguard_model::{CanonicalPath, HostName};
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::check::{Check, note};
use super::doubts::{range, range_in_words};
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
            if !self.may_be_equal(first, other) {
                return;
            }
        }
    }

    fn kind(&self, node: &IdedExpr) -> Option<&'static str> {
        kind(node, &self.looks_at.types)
    }

    /// Whether they can be equal, as far as that is known by their kinds.
    fn may_be_equal(&mut self, first: &IdedExpr, other: &IdedExpr) -> bool {
        self.in_range(first, other);
        self.label(first, other);
        self.label(other, first);
        if let (Expr::List(one), Expr::List(other)) = (&first.expr, &other.expr) {
            let (ones, others) = (&one.elements, &other.elements);
            if ones.len() != others.len() {
                let message = format!(
                    "a list of {} is never equal to a list of {}",
                    ones.len(),
                    others.len()
                );
                self.error("[", message, "`in` asks whether something is in a list");
                return false;
            }
            let mut pairs = ones.iter().zip(others);
            return pairs.all(|(one, other)| self.may_be_equal(one, other));
        }
        let written = text(first).or_else(|| text(other)).unwrap_or_default();
        if let (Some(one), Some(other)) = (self.kind(first), self.kind(other))
            && one != other
        {
            let message = format!("{one} is never equal to {other}");
            let hint =
                "texts are compared with texts and numbers with numbers: `int('8')`, `string(8)`";
            self.error(written, message, hint);
            return false;
        }
        true
    }

    /// What is divided by a zero that stands in the expression always fails.
    pub(super) fn division(&mut self, call: &CallExpr) {
        let (operator, written) = match call.func_name.as_str() {
            operators::DIVIDE => ("/", "divides by zero"),
            operators::MODULO => ("%", "asks for what is left of a division by zero"),
            _ => return,
        };
        let is_zero = match call.args.get(1).map(|it| &it.expr) {
            Some(Expr::Literal(LiteralValue::Int(number))) => *number.inner() == 0,
            Some(Expr::Literal(LiteralValue::UInt(number))) => *number.inner() == 0,
            _ => false,
        };
        if is_zero {
            let message = format!("it {written}, so it can never be evaluated");
            self.error(operator, message, "say another number, or take it out");
        }
    }

    /// A number that a text is to be, and is not, always fails.
    pub(super) fn number(&mut self, call: &CallExpr) {
        let arguments = call.target.as_deref().into_iter().chain(&call.args);
        let [argument] = Vec::from_iter(arguments)[..] else {
            return;
        };
        let written = text(argument).filter(|it| it.parse::<i64>().is_err());
        if let Some(written) = written.filter(|_| call.func_name == "int") {
            let message = format!(
                "`{}` is no whole number, so it can never be evaluated",
                quoted(written)
            );
            self.error(written, message, "whole numbers are digits: `int('443')`");
        }
    }

    /// A text that a variable never has in it, or never at that end.
    pub(super) fn never_found(&mut self, call: &CallExpr) {
        let (Some(target), [part]) = (call.target.as_deref(), call.args.as_slice()) else {
            return;
        };
        let (Expr::Select(select), Some(part)) = (&target.expr, text(part)) else {
            return;
        };
        let path = path(select).unwrap_or_default();
        let (verb, at): (_, fn(&str, &str) -> bool) = match call.func_name.as_str() {
            "contains" => ("contains", |word, part| word.contains(part)),
            "startsWith" => ("begins with", |word, part| word.starts_with(part)),
            "endsWith" => ("ends with", |word, part| word.ends_with(part)),
            _ => return,
        };
        let (begins, ends) = (verb == "begins with", verb == "ends with");
        let has = |of: fn(&u8) -> bool| part.as_bytes().iter().any(of);
        let in_a_name = |it: &u8| it.is_ascii_alphanumeric() || b"-._".contains(it);
        let hint = match path.as_str() {
            "destination.transport" if !at("tcp", part) => "such a rule is over `tcp` alone",
            "request.method" if has(u8::is_ascii_lowercase) => {
                "methods are in upper case as clients send them"
            }
            "request.path" if part.contains(['?', '#']) => {
                "the query is no part of the path: `request.query`"
            }
            "request.path" if begins && !part.is_empty() && !part.starts_with('/') => {
                "a path begins with `/`"
            }
            "request.path" if part.contains("//") => "in the canonical path runs of `/` are one",
            "llm.operation" if !OPERATIONS.iter().any(|(name, _)| at(name, part)) => {
                "it is chat, text_completion, embeddings, count_tokens, realtime, transcription or retrieval"
            }
            "llm.provider" if has(u8::is_ascii_uppercase) => "providers have names in lower case",
            "destination.ip" if has(|it| !b"0123456789abcdef.:".contains(it)) => {
                "an address is compared in its shortest form; ranges go under `match: {cidr: […]}`"
            }
            "destination.host" if has(u8::is_ascii_uppercase) => "a name is in lower case",
            "destination.host" if !part.bytes().all(|it| in_a_name(&it)) => {
                "a name has letters, digits, `-`, `_` and dots; other scripts are in A-labels"
            }
            "destination.host"
                if part.contains("..")
                    || begins && part.starts_with('.')
                    || ends && part.ends_with('.') =>
            {
                "a name has one dot between two labels, and none at its ends"
            }
            _ => return,
        };
        let message = format!("`{path}` never {verb} `{}`", quoted(part));
        self.error(part, message, hint);
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
            let Some(range) = range(&path) else {
                self.word(&path, other);
                continue;
            };
            let never = match &other.expr {
                Expr::Literal(LiteralValue::Int(number)) => {
                    let number = *number.inner();
                    (!(range.0..=range.1).contains(&number)).then(|| number.to_string())
                }
                Expr::Literal(LiteralValue::Double(number)) => {
                    let number = *number.inner();
                    (number.fract() != 0.0).then(|| number.to_string())
                }
                _ => None,
            };
            if let Some(number) = never {
                let message = format!("`{path}` is never {number}");
                return self.error(&path, message, &range_in_words(&path, range));
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
        // Of what is none the variable is empty.
        match path {
            "llm.provider" if !word.is_empty() => {
                note(&mut self.looks_at.providers, word.to_owned());
            }
            "tool.server" if !word.is_empty() => {
                note(&mut self.looks_at.servers, word.to_owned());
            }
            _ => {}
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
                    "it is chat, text_completion, embeddings, count_tokens, realtime, transcription or retrieval, and '' for what is no call"
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
