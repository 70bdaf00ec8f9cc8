//! Variables and named lists are put in where documents name them, before anything is read as a rule.
//! What is put in keeps the place where it is named, with a note on where it was written.
//!
//! What a rule says (its action, its mode, how it is carried) is written out in the rule itself, so
//! that whoever reads it sees it.

use super::lists::{Lists, Written, written};
use super::variables::{Filled, Variables};
use super::{Report, Source};
use crate::yaml::{Key, Node, Place, Tree, Value};

/// The most values that are put in, in all documents together. Where there are more, the policy is refused.
const MAX_VALUES: usize = 300_000;

/// The most bytes that are put in, in all documents together. Where there are more, the policy is refused.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The keys of a budget in which nothing is put in.
const WORDS_OF_A_BUDGET: [&str; 5] = ["id", "unit", "window", "reached", "mode"];

/// The keys of a limit, and of a breaker, in which nothing is put in.
const WORDS_OF_A_LIMIT: [&str; 3] = ["id", "circuit", "mode"];

/// The keys of a rule in which nothing is put in.
const WORDS_OF_A_RULE: [&str; 5] = ["id", "action", "handling", "addresses", "mode"];

/// The keys of the defaults of rules in which nothing is put in.
const WORDS_OF_DEFAULTS: [&str; 3] = ["handling", "mode", "transport"];

/// The keys of `match` in which nothing is put in.
const WORDS_OF_A_MATCH: [&str; 2] = ["protocol", "transport"];

/// What may still be put in.
pub(super) struct Budget {
    values: usize,
    bytes: usize,
    told: bool,
}

impl Budget {
    /// Takes a share. `false`: there is not so much, which was reported once.
    pub(super) fn take(
        &mut self,
        values: usize,
        bytes: usize,
        place: Place,
        report: &mut Report,
    ) -> bool {
        match (
            self.values.checked_sub(values),
            self.bytes.checked_sub(bytes),
        ) {
            (Some(values), Some(bytes)) if !self.told => {
                (self.values, self.bytes) = (values, bytes);
                true
            }
            _ => {
                if !self.told {
                    let message = format!(
                        "more than {MAX_VALUES} values or {MAX_BYTES} bytes are put in for lists and variables, in all documents together"
                    );
                    report.error(place, message, "name long lists in fewer rules");
                }
                self.told = true;
                false
            }
        }
    }
}

/// Puts in what documents name. `whole`: all of them could be read, so that what is missing is not
/// there. Returns whether all that
/// agents and groups name was put in.
pub(super) fn expand(sources: &mut [Source], whole: bool, report: &mut Report) -> bool {
    let mut variables = Variables::new(whole);
    let mut lists = Lists::new(whole);
    for source in &*sources {
        report.path.clone_from(&source.path);
        for (key, node) in source
            .tree
            .as_ref()
            .map_or(&[][..], |tree| entries(&tree.root))
        {
            match key.text.as_str() {
                "variables" => entries(node)
                    .iter()
                    .for_each(|(key, node)| variables.define(key, node, report)),
                "lists" => entries(node)
                    .iter()
                    .for_each(|(key, node)| lists.define(key, node, report)),
                _ => {}
            }
        }
    }
    let mut budget = Budget {
        values: MAX_VALUES,
        bytes: MAX_BYTES,
        told: false,
    };
    lists.resolve(&mut variables, &mut budget, report);
    let mut right = true;
    for source in &mut *sources {
        report.path.clone_from(&source.path);
        let Some(tree) = &mut source.tree else {
            continue;
        };
        let Tree { root, last_id } = tree;
        let mut put = Put {
            variables: &mut variables,
            lists: &mut lists,
            budget: &mut budget,
            report: &mut *report,
            last_id,
            broken: Vec::new(),
        };
        put.document(root, &mut right);
        source.broken.append(&mut put.broken);
    }
    // Where a name is misspelt, the one that was meant only seems to be unused.
    if report.found.is_empty() {
        variables.unused(report);
        lists.unused(report);
    }
    right
}

fn entries(node: &Node) -> &[(Key, Node)] {
    match &node.value {
        Value::Mapping(entries) => entries,
        Value::Scalar { .. } | Value::Sequence(_) => &[],
    }
}

fn entries_mut(node: &mut Node) -> &mut [(Key, Node)] {
    match &mut node.value {
        Value::Mapping(entries) => entries,
        Value::Scalar { .. } | Value::Sequence(_) => &mut [],
    }
}

fn items_mut(node: &mut Node) -> &mut [Node] {
    match &mut node.value {
        Value::Sequence(items) => items,
        Value::Scalar { .. } | Value::Mapping(_) => &mut [],
    }
}

/// Puts things into one document.
struct Put<'a> {
    variables: &'a mut Variables,
    lists: &'a mut Lists,
    budget: &'a mut Budget,
    report: &'a mut Report,
    last_id: &'a mut usize,
    /// The lines where something could not be put in.
    broken: Vec<u32>,
}

impl Put<'_> {
    fn document(&mut self, root: &mut Node, right: &mut bool) {
        for (key, node) in entries_mut(root) {
            match key.text.as_str() {
                "agents" => {
                    let before = self.broken.len();
                    for (key, node) in items_mut(node).iter_mut().flat_map(entries_mut) {
                        if matches!(key.text.as_str(), "labels" | "cgroup") {
                            self.texts(node);
                        }
                    }
                    *right &= self.broken.len() == before;
                }
                "providers" | "tool_servers" => {
                    for (key, node) in items_mut(node).iter_mut().flat_map(entries_mut) {
                        if matches!(key.text.as_str(), "hosts" | "paths") {
                            self.all(node);
                        }
                    }
                }
                "defaults" => {
                    for (key, node) in entries_mut(node) {
                        if key.text == "rule" {
                            self.all_but(&WORDS_OF_DEFAULTS, node);
                        }
                    }
                }
                "groups" => {
                    let before = self.broken.len();
                    for (key, node) in items_mut(node).iter_mut().flat_map(entries_mut) {
                        if key.text != "name" {
                            self.all(node);
                        }
                    }
                    *right &= self.broken.len() == before;
                }
                "budgets" => {
                    for (key, node) in items_mut(node).iter_mut().flat_map(entries_mut) {
                        if !WORDS_OF_A_BUDGET.contains(&key.text.as_str()) {
                            self.all(node);
                        }
                    }
                }
                "limits" | "breakers" => {
                    for (key, node) in items_mut(node).iter_mut().flat_map(entries_mut) {
                        if !WORDS_OF_A_LIMIT.contains(&key.text.as_str()) {
                            self.all(node);
                        }
                    }
                }
                "rules" => {
                    for (key, node) in items_mut(node).iter_mut().flat_map(entries_mut) {
                        match key.text.as_str() {
                            "match" => self.all_but(&WORDS_OF_A_MATCH, node),
                            word if WORDS_OF_A_RULE.contains(&word) => {}
                            _ => self.all(node),
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn all_but(&mut self, words: &[&str], node: &mut Node) {
        for (key, node) in entries_mut(node) {
            if !words.contains(&key.text.as_str()) {
                self.all(node);
            }
        }
    }

    /// Puts variables and lists into a value and all that it holds.
    fn all(&mut self, node: &mut Node) {
        let place = node.place;
        match &mut node.value {
            Value::Scalar { text, plain } => self.text(text, plain, place),
            Value::Mapping(entries) => entries.iter_mut().for_each(|(_, node)| self.all(node)),
            Value::Sequence(items) => {
                let mut put_in = Vec::with_capacity(items.len());
                for mut item in items.drain(..) {
                    let entry = item.text().filter(|text| text.starts_with('@'));
                    match entry.map(str::to_owned).as_deref().map(written) {
                        Some(Written::List(name)) => {
                            self.list(name, &item, &mut put_in);
                            continue;
                        }
                        Some(Written::Text(escaped)) => {
                            if let Value::Scalar { text, .. } = &mut item.value {
                                escaped.clone_into(text);
                            }
                        }
                        None => {}
                    }
                    self.all(&mut item);
                    put_in.push(item);
                }
                *items = put_in;
            }
        }
    }

    /// Puts variables alone into a value and all that it holds.
    fn texts(&mut self, node: &mut Node) {
        let place = node.place;
        match &mut node.value {
            Value::Scalar { text, plain } => self.text(text, plain, place),
            Value::Mapping(entries) => entries.iter_mut().for_each(|(_, node)| self.texts(node)),
            Value::Sequence(items) => items.iter_mut().for_each(|node| self.texts(node)),
        }
    }

    fn text(&mut self, text: &mut String, plain: &mut bool, place: Place) {
        match self.variables.fill(text, place, self.report) {
            Filled::AsWritten => {}
            Filled::Text(filled) => {
                if !self.budget.take(1, filled.len(), place, self.report) {
                    self.broken.push(place.line);
                }
                *text = filled;
                *plain = false;
            }
            Filled::Wrong => self.broken.push(place.line),
        }
    }

    /// Puts the entries of a list in the place of `item`, which names it.
    fn list(&mut self, name: &str, item: &Node, put_in: &mut Vec<Node>) {
        let Some(list) = self.lists.named(name, item.place, self.report) else {
            self.broken.push(item.place.line);
            return;
        };
        let bytes = list.iter().map(|entry| entry.text.len()).sum();
        if !self.budget.take(list.len(), bytes, item.place, self.report) {
            self.broken.push(item.place.line);
            return;
        }
        for entry in list.iter() {
            *self.last_id += 1;
            put_in.push(Node {
                id: *self.last_id,
                place: Place {
                    origin: entry.origin,
                    ..item.place
                },
                last_line: item.last_line,
                bare: false,
                value: Value::Scalar {
                    text: entry.text.to_string(),
                    plain: entry.plain,
                },
            });
        }
    }
}
