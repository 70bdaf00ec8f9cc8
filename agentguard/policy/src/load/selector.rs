//! Which agents a rule is for.

use std::collections::BTreeMap;

use agentguard_model::AgentName;

use super::{Known, Report, values};
use crate::diagnostic::{nearest, quoted};
use crate::rule::Selector;
use crate::yaml::At;

/// Whom something is for, as it is written.
pub(super) struct Whom<'a> {
    pub(super) agents: Option<&'a At<Vec<At<String>>>>,
    pub(super) groups: Option<&'a At<Vec<At<String>>>>,
    pub(super) labels: Option<&'a At<BTreeMap<String, String>>>,
    /// What it is, in a message.
    pub(super) what: &'static str,
}

/// Whom it is for: the agents and groups that it names, as far as they have its labels.
pub(super) fn selector(raw: &Whom<'_>, known: &Known<'_>, report: &mut Report) -> Selector {
    let mut selector = Selector {
        names: None,
        groups: Vec::new(),
        labels: Vec::new(),
    };
    let mut everyone = raw.agents.is_none() && raw.groups.is_none();
    let mut names = Vec::new();
    if let Some(list) = raw.agents {
        values::list_bounds("agents", list, report);
        match agents(list, known, report) {
            Some(chosen) => names = chosen,
            None => everyone = true,
        }
    }
    if let Some(list) = raw.groups {
        values::list_bounds("groups", list, report);
        for entry in &list.value {
            match known.groups.named(&entry.value) {
                Some(group) => selector.groups.push(group.clone()),
                None if known.partial => {}
                None => {
                    let hint = nearest(&entry.value, known.groups.names()).map_or_else(
                        || "a group is declared under `groups` of the document".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    let message = format!("no group is called `{}`", quoted(&entry.value));
                    report.error(entry.place, message, &hint);
                }
            }
        }
    }
    if everyone {
        selector.groups.clear();
    } else {
        selector.names = Some(names);
    }
    if let Some(wanted) = raw.labels {
        selector.labels = labels(wanted, report);
        let anyone = known
            .agents
            .iter()
            .any(|agent| selector.selects(&agent.name, &agent.labels));
        if !anyone && !known.partial {
            report.warn(
                wanted.place,
                format!("no agent has these labels, so {} is for nobody", raw.what),
                misspelt(&selector.labels, known)
                    .as_deref()
                    .unwrap_or("agents have labels under `agents`; one with all of these is meant"),
            );
        }
    }
    selector
}

/// What may have been meant by labels that no agent has.
pub(super) fn misspelt(wanted: &[(String, String)], known: &Known<'_>) -> Option<String> {
    let had = || known.agents.iter().flat_map(|agent| &agent.labels);
    wanted.iter().find_map(|(key, value)| {
        let values: Vec<&str> = had()
            .filter(|(other, _)| *other == key)
            .map(|(_, value)| value.as_str())
            .collect();
        if values.is_empty() {
            let near = nearest(key, had().map(|(key, _)| key.as_str()))?;
            return Some(format!(
                "no agent has a label `{}`; did you mean `{near}`?",
                quoted(key)
            ));
        }
        if values.contains(&value.as_str()) {
            return None;
        }
        let near = nearest(value, values)?;
        Some(format!(
            "no agent has `{key}: {}`; did you mean `{key}: {near}`?",
            quoted(value)
        ))
    })
}

/// The agents that a list names; `None`: all.
pub(super) fn agents(
    list: &At<Vec<At<String>>>,
    known: &Known<'_>,
    report: &mut Report,
) -> Option<Vec<AgentName>> {
    let mut chosen = Vec::new();
    let mut everyone = false;
    for entry in &list.value {
        if entry.value == "*" {
            everyone = true;
            continue;
        }
        match known.by_name.get(entry.value.as_str()) {
            Some(name) => chosen.push((*name).clone()),
            None if known.partial => {}
            None => {
                let hint = known.hint_on_agent(&entry.value);
                let message = format!("no agent is called `{}`", quoted(&entry.value));
                report.error(entry.place, message, &hint);
            }
        }
    }
    (!everyone).then_some(chosen)
}

/// Labels that an agent must have, all of them.
pub(super) fn labels(
    wanted: &At<BTreeMap<String, String>>,
    report: &mut Report,
) -> Vec<(String, String)> {
    if wanted.value.is_empty() {
        values::empty("labels", wanted, report);
    }
    wanted
        .value
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
