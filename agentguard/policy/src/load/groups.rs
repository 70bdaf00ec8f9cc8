//! Groups of agents.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::selector::{agents, labels, misspelt};
use super::{Known, Parsed, Report, values};
use crate::agent::Group;
use crate::diagnostic::quoted;
use crate::document::RawGroup;
use crate::yaml::{At, Place};

/// The most groups of a policy. More are refused.
const MAX_GROUPS: usize = 1000;

/// The groups of all documents together, by name.
#[derive(Default)]
pub(super) struct Groups(BTreeMap<String, Declared>);

struct Declared {
    group: Arc<Group>,
    path: String,
    place: Place,
}

impl Groups {
    pub(super) fn named(&self, name: &str) -> Option<&Arc<Group>> {
        self.0.get(name).map(|declared| &declared.group)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Warns of those for which there is no rule.
    pub(super) fn unused<'a>(
        &self,
        used: impl Iterator<Item = &'a Arc<Group>>,
        report: &mut Report,
    ) {
        let used: std::collections::HashSet<&str> = used.map(|it| it.name.as_str()).collect();
        for (name, declared) in &self.0 {
            if !used.contains(name.as_str()) {
                report.path.clone_from(&declared.path);
                report.warn(
                    declared.place,
                    format!("no rule, budget or limit is for the group `{name}`"),
                    "it can go, or stand under `groups` of a rule",
                );
            }
        }
    }
}

/// Reads the groups of all documents.
pub(super) fn groups(sources: &mut [Parsed], known: &Known<'_>, report: &mut Report) -> Groups {
    let mut groups = Groups::default();
    for source in sources {
        report.path.clone_from(&source.path);
        let raw = source
            .document
            .as_mut()
            .map(|document| std::mem::take(&mut document.groups))
            .unwrap_or_default();
        for raw in raw {
            if groups.0.len() == MAX_GROUPS {
                report.error(
                    raw.place,
                    format!("more than {MAX_GROUPS} groups"),
                    "rules can also choose agents by their labels: `labels: {team: payments}`",
                );
                return groups;
            }
            let name = &raw.value.name;
            if let Some(first) = groups.0.get(&name.value) {
                let line = first.place.line;
                let hint = format!("it stands in {}, line {line}, already", first.path);
                let message = format!("a second group `{}`", quoted(&name.value));
                report.error(name.place, message, &hint);
                continue;
            }
            let group = group(&raw, source.is_whole(&raw), known, report);
            let declared = Declared {
                group: Arc::new(group),
                path: source.path.clone(),
                place: name.place,
            };
            groups.0.insert(name.value.clone(), declared);
        }
    }
    groups
}

/// `whole`: nothing in it was told already.
fn group(raw: &At<RawGroup>, whole: bool, known: &Known<'_>, report: &mut Report) -> Group {
    let RawGroup {
        name,
        agents: names,
        labels: wanted,
    } = &raw.value;
    let before = report.found.len();
    let is_name = (1..=63).contains(&name.value.len())
        && name.value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .value
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if !is_name {
        let message = format!(
            "`{}` is not a group's name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit",
            quoted(&name.value)
        );
        report.error(name.place, message, "like `coders` or `team-payments`");
    }
    if names.is_none() && wanted.is_none() && whole {
        let message = format!(
            "the group `{}` does not say whom it has",
            quoted(&name.value)
        );
        let hint = "`agents`: names; `labels`: all agents that have these";
        report.error(raw.place, message, hint);
    }
    let mut group = Group {
        name: name.value.clone(),
        everyone: false,
        agents: Default::default(),
        labels: Vec::new(),
    };
    if let Some(list) = names {
        if whole {
            values::list_bounds("agents", list, report);
        }
        match agents(list, known, report) {
            Some(names) => group.agents = names.into_iter().collect(),
            None => group.everyone = true,
        }
    }
    if let Some(wanted) = wanted {
        group.labels = labels(wanted, report);
    }
    let anyone = known
        .agents
        .iter()
        .any(|agent| group.has(&agent.name, &agent.labels));
    let right = whole && report.found.len() == before;
    if right && !anyone && !known.partial {
        report.warn(
            name.place,
            format!("the group `{}` has no agent", name.value),
            misspelt(&group.labels, known)
                .as_deref()
                .unwrap_or("rules that are for this group alone are for nobody"),
        );
    }
    group
}
