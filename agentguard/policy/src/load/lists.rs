//! Named lists: what is written once and stands in the lists of rules and groups as `@name`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::expand::Budget;
use super::variables::{Filled, NAME, Variables, is_name};
use super::{MAX_LIST, Report};
use crate::diagnostic::{nearest, quoted};
use crate::yaml::{Key, Node, Place, Value};

/// The most lists of which each names the next. A deeper one is refused.
const MAX_DEPTH: usize = 16;

/// An entry of a list, with the lists that it names and its variables put in.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) text: Arc<str>,
    /// It was not quoted, so that it may be read as a number.
    pub(super) plain: bool,
    /// The report's note on where it stands, for [`Place::origin`].
    pub(super) origin: u32,
}

/// An entry of a list as a document writes it.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Written<'a> {
    /// `@name`: the entries of a list.
    List(&'a str),
    /// Itself. `@@x` is `@x`.
    Text(&'a str),
}

/// What an entry of a list says.
pub(super) fn written(text: &str) -> Written<'_> {
    match text.strip_prefix('@') {
        Some(rest) if rest.starts_with('@') => Written::Text(rest),
        Some(name) => Written::List(name),
        None => Written::Text(text),
    }
}

/// The named lists of all documents together.
pub(super) struct Lists {
    by_name: BTreeMap<String, List>,
    /// All documents were read, so that what is missing is not there.
    whole: bool,
}

struct List {
    path: String,
    place: Place,
    state: State,
    used: bool,
}

enum State {
    /// As it is written: text, whether it was quoted, and place.
    Written(Vec<(String, bool, Place)>),
    /// It is being resolved.
    Open,
    /// With everything put in.
    Resolved(Arc<[Entry]>),
    /// Something in it is wrong, which was reported.
    Wrong,
}

impl Lists {
    pub(super) const fn new(whole: bool) -> Self {
        Self {
            by_name: BTreeMap::new(),
            whole,
        }
    }

    /// Takes a definition of the document that is read. What is no list of texts is left to the reader
    /// of the form.
    pub(super) fn define(&mut self, key: &Key, node: &Node, report: &mut Report) {
        let name = key.text.as_str();
        if !is_name(name) {
            let message = format!("`{}` is not a list's name: {NAME}", quoted(name));
            report.error(key.place, message, "like `package_hosts`");
            return;
        }
        if let Some(first) = self.by_name.get(name) {
            let hint = format!(
                "it stands in {}, line {}, already",
                first.path, first.place.line
            );
            report.error(key.place, format!("a second list `{name}`"), &hint);
            return;
        }
        let mut state = State::Wrong;
        if let Value::Sequence(items) = &node.value {
            if items.is_empty() {
                let hint = "give it an entry, or take it out";
                report.error(node.place, format!("the list `{name}` is empty"), hint);
            } else if let Some(empty) = items.iter().find(|it| it.text() == Some("")) {
                report.error(
                    empty.place,
                    "an empty entry",
                    "take it out, or write what is meant",
                );
            } else {
                state = State::Written(items.iter().filter_map(entry).collect());
            }
        }
        let list = List {
            path: report.path().to_owned(),
            place: key.place,
            state,
            used: false,
        };
        self.by_name.insert(name.to_owned(), list);
    }

    /// Puts variables and lists into all lists, so that each is judged, also one that nothing names.
    pub(super) fn resolve(
        &mut self,
        variables: &mut Variables,
        budget: &mut Budget,
        report: &mut Report,
    ) {
        let names: Vec<String> = self.by_name.keys().cloned().collect();
        for name in names {
            self.resolved(&name, 1, variables, budget, report);
        }
    }

    /// The entries of a list that is there; nothing, if something in it is wrong.
    fn resolved(
        &mut self,
        name: &str,
        depth: usize,
        variables: &mut Variables,
        budget: &mut Budget,
        report: &mut Report,
    ) -> Option<Arc<[Entry]>> {
        let list = self.by_name.get_mut(name)?;
        let written = match &mut list.state {
            State::Resolved(entries) => return Some(Arc::clone(entries)),
            State::Wrong | State::Open => return None,
            State::Written(written) => std::mem::take(written),
        };
        list.state = State::Open;
        let path = list.path.clone();
        let place = list.place;
        let mut entries = Vec::new();
        let mut size = 0;
        let mut right = true;
        for (text, plain, at) in written {
            report.path.clone_from(&path);
            match self.entry(name, &text, at, depth, report) {
                Ok(Some(other)) => {
                    let Some(more) = self.resolved(&other, depth + 1, variables, budget, report)
                    else {
                        right = false;
                        continue;
                    };
                    report.path.clone_from(&path);
                    let bytes = more.iter().map(|entry| entry.text.len()).sum::<usize>();
                    size += bytes;
                    if size > MAX_LIST || !budget.take(more.len(), bytes, at, report) {
                        right = false;
                        break;
                    }
                    entries.extend(more.iter().cloned());
                }
                Ok(None) => {
                    let Written::Text(text) = self::written(&text) else {
                        continue;
                    };
                    let (text, plain) = match variables.fill(text, at, report) {
                        Filled::AsWritten => (text.into(), plain),
                        Filled::Text(text) => (text.into(), false),
                        Filled::Wrong => {
                            right = false;
                            continue;
                        }
                    };
                    let entry = Entry {
                        text,
                        plain,
                        origin: report.note(&format!("list `{name}`"), at, true),
                    };
                    size += entry.text.len();
                    entries.push(entry);
                }
                Err(()) => right = false,
            }
        }
        report.path.clone_from(&path);
        if size > MAX_LIST {
            let message = format!(
                "the list `{name}` has more than {MAX_LIST} bytes, with the lists that it names"
            );
            report.error(
                place,
                message,
                "make two lists of it; a pattern such as `*.example.org` stands for many names",
            );
            right = false;
        }
        let entries: Option<Arc<[Entry]>> = right.then(|| entries.into());
        if let Some(list) = self.by_name.get_mut(name) {
            list.state = entries.clone().map_or(State::Wrong, State::Resolved);
        }
        entries
    }

    /// The list that an entry of the list `name` stands for, if it stands for one.
    fn entry(
        &mut self,
        name: &str,
        text: &str,
        at: Place,
        depth: usize,
        report: &mut Report,
    ) -> Result<Option<String>, ()> {
        let Written::List(other) = written(text) else {
            return Ok(None);
        };
        let Some(list) = self.known(other, at, report) else {
            return Err(());
        };
        list.used = list.used || other != name;
        if matches!(list.state, State::Open) {
            let message = if other == name {
                format!("the list `{name}` names itself")
            } else {
                format!("the list `{name}` names `@{other}`, which names it in turn")
            };
            report.error(at, message, "take one of the names out");
            return Err(());
        }
        if depth >= MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} lists, each of which names the next");
            report.error(at, message, "write the entries here");
            return Err(());
        }
        Ok(Some(other.to_owned()))
    }

    fn known(&mut self, name: &str, at: Place, report: &mut Report) -> Option<&mut List> {
        let shown = quoted(name);
        if !is_name(name) {
            report.error(
                at,
                format!("`@{shown}` is not a list: its name is {NAME}"),
                &format!("for the text itself write `@@{shown}`"),
            );
            return None;
        }
        if !self.by_name.contains_key(name) && self.whole {
            let hint = nearest(name, self.by_name.keys().map(String::as_str)).map_or_else(
                || {
                    format!(
                        "a list is defined under `lists`; for the text itself write `@@{shown}`"
                    )
                },
                |near| format!("did you mean `@{near}`?"),
            );
            report.error(at, format!("no list is called `{shown}`"), &hint);
        }
        self.by_name.get_mut(name)
    }

    /// The entries that a rule or a group names. Nothing, if something is wrong with it, which was
    /// reported.
    pub(super) fn named(
        &mut self,
        name: &str,
        at: Place,
        report: &mut Report,
    ) -> Option<Arc<[Entry]>> {
        let list = self.known(name, at, report)?;
        list.used = true;
        match &list.state {
            State::Resolved(entries) => Some(Arc::clone(entries)),
            State::Written(_) | State::Open | State::Wrong => None,
        }
    }

    /// Warns of those that nothing names.
    pub(super) fn unused(&self, report: &mut Report) {
        for (name, list) in self.by_name.iter().filter(|(_, it)| !it.used) {
            report.path.clone_from(&list.path);
            report.warn(
                list.place,
                format!("the list `{name}` is never used"),
                &format!("it can go, or stand in a list as \"@{name}\""),
            );
        }
    }
}

fn entry(node: &Node) -> Option<(String, bool, Place)> {
    let plain = matches!(node.value, Value::Scalar { plain: true, .. });
    node.text().map(|text| (text.to_owned(), plain, node.place))
}
