//! From raw documents to agents and rules that cannot be wrong.

pub(crate) mod requests;
mod rules;
mod values;

use std::collections::{BTreeMap, HashMap};

use agentguard_model::{AgentName, Handling, Mode};

use crate::Document;
use crate::agent::AgentPolicy;
use crate::diagnostic::{Diagnostic, Severity, quoted};
use crate::document::{RawAgent, RawDefaults, RawDocument};
use crate::pattern::CgroupPattern;
use crate::rule::Rule;
use crate::users;
use crate::yaml::{At, MAX_TEXT, Place, parse_lenient};

/// The most rules of a policy. More are refused.
pub const MAX_RULES: usize = 10_000;

/// The most agents of a policy. More are refused.
pub const MAX_AGENTS: usize = 10_000;

/// The most bytes that the entries of one list have together. A longer list is refused.
pub const MAX_LIST: usize = 64 * 1024;

/// The most bytes of a reason, a pattern or a label. A longer one is refused.
pub const MAX_STRING: usize = 1024;

/// Agents and rules, and what was found on the way.
pub(crate) struct Loaded {
    pub(crate) agents: Vec<AgentPolicy>,
    pub(crate) rules: Vec<Rule>,
    /// The column of each rule's beginning, for later warnings.
    pub(crate) columns: Vec<u32>,
    /// Errors and warnings. With an error among them, the rest is not a policy.
    pub(crate) found: Vec<Diagnostic>,
}

/// Collects what is wrong with one document.
pub(crate) struct Report {
    path: String,
    found: Vec<Diagnostic>,
}

impl Report {
    /// The document that is read.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn add(&mut self, severity: Severity, place: Place, message: String, hint: Option<&str>) {
        self.found.push(Diagnostic {
            severity,
            path: self.path.clone(),
            line: place.line,
            column: place.column,
            message,
            hint: hint.map(str::to_owned),
        });
    }

    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>, hint: Option<&str>) {
        self.add(Severity::Error, place, message.into(), hint);
    }

    fn warn(&mut self, place: Place, message: impl Into<String>, hint: Option<&str>) {
        self.add(Severity::Warning, place, message.into(), hint);
    }
}

/// Reads all documents.
pub(crate) fn load(documents: &[Document]) -> Loaded {
    let mut report = Report {
        path: documents
            .first()
            .map_or_else(|| "policy".to_owned(), |d| d.path.clone()),
        found: Vec::new(),
    };
    let mut loaded = Loaded {
        agents: Vec::new(),
        rules: Vec::new(),
        columns: Vec::new(),
        found: Vec::new(),
    };
    let total: usize = documents.iter().map(|d| d.text.len()).sum();
    if total > MAX_TEXT {
        report.error(
            Place::default(),
            format!("the policy has {total} bytes; the limit is {MAX_TEXT}"),
            None,
        );
        loaded.found = report.found;
        return loaded;
    }

    let mut sources = Vec::new();
    for document in documents {
        let (value, found) = parse_lenient::<RawDocument>(&document.path, &document.text);
        let broken = found.iter().map(|d| d.line).collect();
        report.found.extend(found);
        sources.push(Parsed {
            path: document.path.clone(),
            document: value,
            broken,
        });
    }
    let partial = !report.found.is_empty();
    let defaults = defaults(&sources, &mut report);
    loaded.agents = agents(&mut sources, &defaults, &mut report);
    let known = Known {
        agents: &loaded.agents,
        partial,
    };
    let (rules, columns) = rules::rules(&mut sources, &known, &mut report);
    loaded.rules = rules;
    loaded.columns = columns;
    loaded.found = report.found;
    loaded
}

/// Puts diagnostics in the order of the documents, and there from top to bottom.
pub(crate) fn sort(found: &mut [Diagnostic], documents: &[Document]) {
    let order: HashMap<&str, usize> = documents
        .iter()
        .enumerate()
        .map(|(n, d)| (d.path.as_str(), n))
        .collect();
    found.sort_by_key(|d| (order.get(d.path.as_str()).copied(), d.line, d.column));
}

/// A document that was read as far as it could be.
struct Parsed {
    path: String,
    document: Option<RawDocument>,
    /// The lines with errors. What spans one of them was reported, and is not judged further.
    broken: Vec<u32>,
}

impl Parsed {
    fn is_whole<T>(&self, item: &At<T>) -> bool {
        !self
            .broken
            .iter()
            .any(|line| (item.place.line..=item.last_line).contains(line))
    }
}

/// What rules are checked against.
struct Known<'a> {
    agents: &'a [AgentPolicy],
    /// Something could not be read, so that what seems to be missing may be there.
    partial: bool,
}

struct Defaults {
    mode: Mode,
    handling: Handling,
}

fn defaults(sources: &[Parsed], report: &mut Report) -> Defaults {
    let mut found: Option<(&str, &At<RawDefaults>)> = None;
    let mut resolved = Defaults {
        mode: Mode::Enforce,
        handling: Handling::Splice,
    };
    for source in sources {
        report.path.clone_from(&source.path);
        let Some(document) = &source.document else {
            continue;
        };
        if document.version.value != 1 && source.is_whole(&document.version) {
            report.error(
                document.version.place,
                format!("version {} is not known", document.version.value),
                Some("this version of the guard reads `version: 1`"),
            );
        }
        let Some(defaults) = &document.defaults else {
            continue;
        };
        if let Some((path, first)) = found {
            let hint = format!("they stand in {path}, line {}, already", first.place.line);
            report.error(defaults.place, "a second `defaults`", Some(&hint));
            continue;
        }
        found = Some((&source.path, defaults));
        resolved.mode = defaults.value.mode.unwrap_or_default();
        if let Some(handling) = &defaults.value.default_handling {
            resolved.handling = values::default_handling(handling, report);
        }
    }
    resolved
}

fn agents(sources: &mut [Parsed], defaults: &Defaults, report: &mut Report) -> Vec<AgentPolicy> {
    let mut agents = Vec::new();
    let mut names = BTreeMap::new();
    for source in sources {
        report.path.clone_from(&source.path);
        let raw = source
            .document
            .as_mut()
            .map(|document| std::mem::take(&mut document.agents))
            .unwrap_or_default();
        for raw in raw {
            if agents.len() == MAX_AGENTS {
                report.error(raw.place, format!("more than {MAX_AGENTS} agents"), None);
                return agents;
            }
            let whole = source.is_whole(&raw);
            let Some(agent) = agent(raw.value, defaults, whole, report) else {
                continue;
            };
            let (agent, place) = agent;
            if let Some((path, line)) =
                names.insert(agent.name.clone(), (source.path.clone(), place.line))
            {
                let hint = format!("it stands in {path}, line {line}, already");
                report.error(
                    place,
                    format!("a second agent `{}`", agent.name),
                    Some(&hint),
                );
                continue;
            }
            agents.push(agent);
        }
    }
    agents
}

fn agent(
    raw: RawAgent,
    defaults: &Defaults,
    whole: bool,
    report: &mut Report,
) -> Option<(AgentPolicy, Place)> {
    let place = raw.name.place;
    let name: AgentName = match raw.name.value.parse() {
        Ok(name) => name,
        Err(error) => {
            report.error(place, format!("{error}"), None);
            return None;
        }
    };
    let mut cgroups = Vec::new();
    if let Some(list) = raw.cgroup {
        if whole {
            values::list_bounds("cgroup", &list, report);
        }
        for entry in list.value {
            match CgroupPattern::new(&entry.value) {
                Ok(pattern) => cgroups.push(pattern),
                Err(why) => {
                    report.error(
                        entry.place,
                        format!("`{}` {why}", quoted(&entry.value)),
                        None,
                    );
                }
            }
        }
    }
    for (key, value) in &raw.labels {
        if key.len() + value.len() > MAX_STRING {
            let message = format!("label `{}` is longer than {MAX_STRING} bytes", quoted(key));
            report.error(place, message, None);
        }
    }
    let default_handling = match raw.default_handling {
        Some(handling) => values::default_handling(&handling, report),
        None => defaults.handling,
    };
    let users = raw
        .users
        .map(|list| users::users(&list, whole, report))
        .unwrap_or_default();
    let sandbox = raw
        .sandbox
        .map(|sandbox| values::sandbox(sandbox, whole, report))
        .unwrap_or_default();
    let agent = AgentPolicy {
        name,
        labels: raw.labels,
        cgroups,
        users,
        mode: raw.mode.unwrap_or(defaults.mode),
        on_daemon_loss: raw.on_daemon_loss.unwrap_or_default(),
        on_adoption: raw.on_adoption.unwrap_or_default(),
        local: raw.local.unwrap_or_default(),
        default_handling,
        sandbox,
        indexes: Vec::new(),
    };
    Some((agent, place))
}
