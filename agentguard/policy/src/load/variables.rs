//! Variables: a text that is written once and stands in others as `${name}`.

use std::collections::BTreeMap;

use super::{MAX_STRING, Report};
use crate::diagnostic::{nearest, quoted};
use crate::yaml::{Key, Node, Place};

/// The most bytes of the name of a variable or of a list.
const MAX_NAME: usize = 32;

/// What the name of a variable or of a list is made of.
pub(super) const NAME: &str = "a letter a-z, then up to 31 of a-z 0-9 _";

/// Whether a text is the name of a variable or of a list.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The variables of all documents together.
pub(super) struct Variables {
    by_name: BTreeMap<String, Variable>,
    /// All documents were read, so that what is missing is not there.
    whole: bool,
}

struct Variable {
    text: String,
    path: String,
    place: Place,
    used: bool,
}

/// What became of a text.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Filled {
    /// It names no variable and escapes nothing.
    AsWritten,
    /// With its variables put in.
    Text(String),
    /// Something in it is wrong, which was reported.
    Wrong,
}

impl Variables {
    pub(super) const fn new(whole: bool) -> Self {
        Self {
            by_name: BTreeMap::new(),
            whole,
        }
    }

    /// Takes a definition of the document that is read. What is no text is left to the reader of the form.
    pub(super) fn define(&mut self, key: &Key, node: &Node, report: &mut Report) {
        let name = key.text.as_str();
        if !is_name(name) {
            let message = format!("`{}` is not a variable's name: {NAME}", quoted(name));
            report.error(key.place, message, "like `artifact_host`");
            return;
        }
        let text = node.text().unwrap_or_default();
        let is_text = node.text().is_some();
        if is_text && !(1..=MAX_STRING).contains(&text.len()) {
            let message = format!("a variable's text has 1 to {MAX_STRING} bytes");
            report.error(
                node.place,
                message,
                "write what it stands for; a long list of texts goes under `lists`",
            );
        } else if text.contains("${") {
            report.error(
                node.place,
                format!("the variable `{name}` holds `${{`: a variable's text is taken as it is, and no variable is put into it"),
                "write the text out, or name both variables where this one is used",
            );
        }
        if let Some(first) = self.by_name.get(name) {
            let hint = format!(
                "it stands in {}, line {}, already",
                first.path, first.place.line
            );
            report.error(key.place, format!("a second variable `{name}`"), &hint);
            return;
        }
        let variable = Variable {
            text: text.to_owned(),
            path: report.path().to_owned(),
            place: key.place,
            used: false,
        };
        self.by_name.insert(name.to_owned(), variable);
    }

    /// Puts the variables into a text. `$${` stands for `${`.
    pub(super) fn fill(&mut self, text: &str, place: Place, report: &mut Report) -> Filled {
        if !text.contains("${") {
            return Filled::AsWritten;
        }
        let mut filled = String::with_capacity(text.len());
        let mut wrong = false;
        let mut rest = text;
        while let Some((before, from)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                filled.push_str(before);
                filled.push_str("${");
                rest = from;
                continue;
            }
            filled.push_str(before);
            let Some((name, after)) = from.split_once('}') else {
                report.error(
                    place,
                    format!("`{}` has a `${{` without its `}}`", quoted(text)),
                    "a variable is `${name}`; for the text itself write `$${`",
                );
                return Filled::Wrong;
            };
            rest = after;
            match self.value(name, place, report) {
                Some(value) => filled.push_str(value),
                None => wrong = true,
            }
            if filled.len() > MAX_STRING {
                let message = format!(
                    "`{}` is longer than {MAX_STRING} bytes with its variables put in",
                    quoted(text)
                );
                report.error(
                    place,
                    message,
                    "use shorter variables, or write two entries",
                );
                return Filled::Wrong;
            }
        }
        filled.push_str(rest);
        if wrong {
            Filled::Wrong
        } else {
            Filled::Text(filled)
        }
    }

    fn value(&mut self, name: &str, place: Place, report: &mut Report) -> Option<&str> {
        if !is_name(name) {
            let message = format!(
                "`${{{}}}` is not a variable: its name is {NAME}",
                quoted(name)
            );
            report.error(place, message, "for the text itself write `$${`");
            return None;
        }
        if !self.by_name.contains_key(name) {
            if self.whole {
                let hint = nearest(name, self.by_name.keys().map(String::as_str)).map_or_else(
                    || "a variable is defined under `variables`".to_owned(),
                    |near| format!("did you mean `${{{near}}}`?"),
                );
                let message = format!("no variable is called `{name}`");
                report.error(place, message, &hint);
            }
            return None;
        }
        self.by_name.get_mut(name).map(|variable| {
            variable.used = true;
            variable.text.as_str()
        })
    }

    /// Warns of those that nothing names.
    pub(super) fn unused(&self, report: &mut Report) {
        for (name, variable) in self.by_name.iter().filter(|(_, it)| !it.used) {
            report.path.clone_from(&variable.path);
            report.warn(
                variable.place,
                format!("the variable `{name}` is never used"),
                &format!("it can go, or stand somewhere as `${{{name}}}`"),
            );
        }
    }
}
