//! From raw documents to agents and rules that cannot be wrong.

mod budgets;
mod changes;
mod conditions;
mod defaults;
mod edits;
mod expand;
mod groups;
mod includes;
mod later;
mod limits;
mod lists;
mod llm;
mod local;
mod operations;
mod providers;
mod quota;
pub(crate) mod requests;
mod resources;
mod routes;
mod rules;
mod selector;
mod strategy;
pub(crate) mod tool;
mod tool_servers;
mod values;
mod variables;
mod wide;

pub use budgets::{MAX_LIMIT, amount};
pub use requests::is_exact_path;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};

use agentguard_model::AgentName;

use defaults::{Defaults, RuleDefaults};
use groups::Groups;

use crate::Document;
use crate::agent::AgentPolicy;
use crate::budget::BudgetRule;
use crate::diagnostic::{Diagnostic, Severity, nearest, quoted};
use crate::document::{RawAgent, RawDocument};
use crate::limit::{BreakerRule, LimitRule};
use crate::pattern::CgroupPattern;
use crate::providers::Providers;
use crate::rule::Rule;
use crate::strategy::Strategy;
use crate::tool_servers::ToolServer;
use crate::users;
use crate::yaml::{self, At, MAX_TEXT, Place, Tree};

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
    pub(crate) budgets: Vec<BudgetRule>,
    pub(crate) limits: Vec<LimitRule>,
    pub(crate) breakers: Vec<BreakerRule>,
    pub(crate) strategy: Strategy,
    pub(crate) switches: BTreeMap<String, bool>,
    pub(crate) providers: Providers,
    pub(crate) tool_servers: Vec<ToolServer>,
    /// The column of each rule's beginning, for later warnings.
    pub(crate) columns: Vec<u32>,
    /// Errors and warnings. With an error among them, the rest is not a policy.
    pub(crate) found: Vec<Diagnostic>,
}

/// Collects what is wrong with one document.
pub(crate) struct Report {
    path: String,
    found: Vec<Diagnostic>,
    /// Where what was put in elsewhere is written; [`Place::origin`] is a number in it, from 1.
    notes: Vec<Note>,
    /// Something in what is judged was told and taken out: what seems to be missing may be there.
    in_part: bool,
    /// What was told of entries of lists: an entry may stand in any number of rules.
    told: HashSet<(u32, String)>,
}

/// Where something is written that is put in elsewhere.
struct Note {
    text: String,
    /// What is wrong with it is told where it is put in first, and not each time.
    once: bool,
}

impl Report {
    /// The document that is read.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Notes where something is written that is put in elsewhere. The number is for
    /// [`Place::origin`].
    fn note(&mut self, what: &str, place: Place, once: bool) -> u32 {
        let Place { line, column, .. } = place;
        let text = format!("from {what}, {}:{line}:{column}", self.path);
        self.notes.push(Note { text, once });
        u32::try_from(self.notes.len()).unwrap_or_default()
    }

    fn add(&mut self, severity: Severity, place: Place, mut message: String, hint: &str) {
        let note = usize::try_from(place.origin).ok();
        let note = note.and_then(|n| self.notes.get(n.checked_sub(1)?));
        if let Some(Note { text, once }) = note {
            if *once && !self.told.insert((place.origin, message.clone())) {
                return;
            }
            message.push_str(&format!(" ({text})"));
        }
        self.found.push(Diagnostic {
            severity,
            path: self.path.clone(),
            line: place.line,
            column: place.column,
            message,
            hint: hint.to_owned(),
        });
    }

    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>, hint: &str) {
        self.add(Severity::Error, place, message.into(), hint);
    }

    fn warn(&mut self, place: Place, message: impl Into<String>, hint: &str) {
        self.add(Severity::Warning, place, message.into(), hint);
    }
}

/// Reads all documents. `unread`: what was wrong with what they include.
pub(crate) fn load(documents: &[Document], unread: &[Diagnostic]) -> Loaded {
    let mut report = Report {
        path: documents
            .first()
            .map_or_else(|| "policy".to_owned(), |d| d.path.clone()),
        found: unread.to_vec(),
        notes: Vec::new(),
        in_part: false,
        told: HashSet::new(),
    };
    let mut loaded = Loaded {
        agents: Vec::new(),
        rules: Vec::new(),
        budgets: Vec::new(),
        limits: Vec::new(),
        breakers: Vec::new(),
        strategy: Strategy::default(),
        switches: BTreeMap::new(),
        providers: Providers::default(),
        tool_servers: Vec::new(),
        columns: Vec::new(),
        found: Vec::new(),
    };
    let total: usize = documents.iter().map(|d| d.text.len()).sum();
    if total > MAX_TEXT {
        report.error(
            Place::default(),
            format!("the policy has {total} bytes; the limit is {MAX_TEXT}"),
            "name long lists once, under `lists`; what it no longer needs can go",
        );
        loaded.found = report.found;
        return loaded;
    }

    let mut sources: Vec<Source> = documents
        .iter()
        .map(|document| Source::of(document, &mut report))
        .collect();
    let whole = report.found.is_empty();
    let agents_are_whole = expand::expand(&mut sources, whole, &mut report);
    let of_names = report.found.len();
    let mut sources: Vec<Parsed> = sources
        .into_iter()
        .map(|source| source.read(&mut report))
        .collect();
    includes::check(&sources, !unread.is_empty(), &mut report);
    let names_are_whole = report.found.len() == of_names || !sources.iter().any(Parsed::lacks);
    let partial = !whole || !agents_are_whole || !names_are_whole;
    let defaults = defaults::defaults(&sources, &mut report);
    loaded.strategy = strategy::strategy(&sources, &mut report);
    let switches = conditions::switches(&sources, &mut report);
    let providers = providers::providers(&sources, &mut report);
    let tool_servers = tool_servers::tool_servers(&sources, &providers, &mut report);
    loaded.agents = agents(&mut sources, &defaults, &mut report);
    let mut known = Known {
        agents: &loaded.agents,
        by_name: loaded
            .agents
            .iter()
            .map(|agent| (agent.name.as_str(), &agent.name))
            .collect(),
        groups: Groups::default(),
        defaults: &defaults.rule,
        strategy: loaded.strategy,
        switches,
        providers,
        tool_servers,
        texts: documents
            .iter()
            .map(|it| (it.path.as_str(), it.text.as_str()))
            .collect(),
        regexes: Cell::new(conditions::MAX_REGEXES),
        compares: Cell::new(MAX_COMPARES),
        partial,
    };
    known.groups = groups::groups(&mut sources, &known, &mut report);
    let budgets = budgets::budgets(&mut sources, &known, &mut report);
    let (limits, breakers) = limits::limits(&mut sources, &known, &mut report);
    let (rules, columns) = rules::rules(&mut sources, &known, &mut report);
    if report
        .found
        .iter()
        .all(|it| it.severity == Severity::Warning)
    {
        let used = rules.iter().flat_map(|rule| &rule.agents.groups);
        let used = used.chain(budgets.iter().flat_map(|it| &it.agents.groups));
        let used = used.chain(limits.iter().flat_map(|it| &it.scope.agents.groups));
        let used = used.chain(breakers.iter().flat_map(|it| &it.scope.agents.groups));
        known.groups.unused(used, &mut report);
        conditions::unused_switches(&sources, &rules, &mut report);
    }
    loaded.switches = known.switches;
    loaded.providers = known.providers;
    loaded.tool_servers = known.tool_servers;
    loaded.budgets = budgets;
    loaded.limits = limits;
    loaded.breakers = breakers;
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

/// The lists of a document whose entries are read one by one.
const WHOLE: [&str; 8] = [
    "providers",
    "tool_servers",
    "agents",
    "groups",
    "budgets",
    "limits",
    "breakers",
    "rules",
];

/// A document before it is read as what it says.
struct Source {
    path: String,
    tree: Option<Tree>,
    /// As in [`Parsed`].
    broken: Vec<u32>,
}

impl Source {
    fn of(document: &Document, report: &mut Report) -> Self {
        let (tree, found) = yaml::tree(&document.path, &document.text);
        let broken = found.iter().map(|d| d.line).collect();
        report.found.extend(found);
        Self {
            path: document.path.clone(),
            tree,
            broken,
        }
    }

    fn read(mut self, report: &mut Report) -> Parsed {
        let mut written = [0; WHOLE.len()];
        let document = self.tree.and_then(|tree| {
            written = WHOLE.map(|key| tree.root.entries_of(key));
            let (document, found): (Option<RawDocument>, _) = yaml::read(&self.path, &tree);
            self.broken.extend(found.iter().map(|d| d.line));
            report.found.extend(found);
            document
        });
        Parsed {
            path: self.path,
            document,
            broken: self.broken,
            written,
        }
    }
}

/// A document that was read as far as it could be.
struct Parsed {
    path: String,
    document: Option<RawDocument>,
    /// The lines with errors. What spans one of them was reported, and is not judged further.
    broken: Vec<u32>,
    /// How many it has of each of [`WHOLE`].
    written: [usize; WHOLE.len()],
}

impl Parsed {
    /// Whether there may be names in it that are not known: something was told that is not inside of a
    /// provider, a server of tools, an agent, a group, a budget, a limit, a breaker or a rule that is there.
    fn lacks(&self) -> bool {
        let Some(document) = &self.document else {
            return true;
        };
        let RawDocument {
            providers,
            tool_servers,
            agents,
            groups,
            budgets,
            limits,
            breakers,
            rules,
            ..
        } = document;
        let spans = providers.iter().map(At::lines);
        let spans = spans.chain(tool_servers.iter().map(At::lines));
        let spans = spans.chain(agents.iter().map(At::lines));
        let spans = spans.chain(groups.iter().map(At::lines));
        let spans = spans.chain(budgets.iter().map(At::lines));
        let spans = spans.chain(limits.iter().map(At::lines));
        let spans = spans.chain(breakers.iter().map(At::lines));
        let spans: Vec<_> = spans.chain(rules.iter().map(At::lines)).collect();
        let inside = |line: &u32| spans.iter().any(|span| span.contains(line));
        let read = [
            providers.len(),
            tool_servers.len(),
            agents.len(),
            groups.len(),
            budgets.len(),
            limits.len(),
            breakers.len(),
            rules.len(),
        ];
        read != self.written || !self.broken.iter().all(inside)
    }

    fn is_whole<T>(&self, item: &At<T>) -> bool {
        !self.broken.iter().any(|line| item.lines().contains(line))
    }
}

/// See [`Known::compares`].
const MAX_COMPARES: usize = 10_000_000;

/// What rules are checked against.
struct Known<'a> {
    agents: &'a [AgentPolicy],
    by_name: HashMap<&'a str, &'a AgentName>,
    groups: Groups,
    defaults: &'a RuleDefaults,
    strategy: Strategy,
    switches: BTreeMap<String, bool>,
    providers: Providers,
    tool_servers: Vec<ToolServer>,
    /// The documents as they are written, by path.
    texts: HashMap<&'a str, &'a str>,
    /// How many regular expressions may still be compiled.
    regexes: Cell<usize>,
    /// How many comparisons of names of tools there may still be; of those beyond nothing is warned, and arguments of
    /// expressions are texts.
    compares: Cell<usize>,
    /// Something could not be read, so that what seems to be missing may be there.
    partial: bool,
}

impl Known<'_> {
    /// Takes so many comparisons of names of tools. `false`: there are not so many left.
    fn compares(&self, count: usize) -> bool {
        let left = self.compares.get().checked_sub(count);
        self.compares.set(left.unwrap_or_default());
        left.is_some()
    }

    /// What to do about an agent that is not there.
    fn hint_on_agent(&self, name: &str) -> String {
        let names = self.agents.iter().map(|agent| agent.name.as_str());
        nearest(name, names).map_or_else(
            || "an agent is declared under `agents`".to_owned(),
            |near| format!("did you mean `{near}`?"),
        )
    }
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
                report.error(raw.place, format!("more than {MAX_AGENTS} agents"), "give agents that have the same rules one name: a run each is told apart all the same");
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
                report.error(place, format!("a second agent `{}`", agent.name), &hint);
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
            report.error(place, format!("{error}"), "like `coder` or `support-2`");
            return None;
        }
    };
    let mut cgroups = Vec::new();
    if let Some(list) = raw.cgroup {
        if whole {
            if list.value.is_empty() {
                let hint = "leave `cgroup` out: `run` and `agent add` say then which ones are its";
                report.error(list.place, "`cgroup` is empty", hint);
            } else {
                values::list_bounds("cgroup", &list, report);
            }
        }
        for entry in list.value {
            match CgroupPattern::new(&entry.value) {
                Ok(pattern) => cgroups.push(pattern),
                Err(why) => {
                    report.error(
                        entry.place,
                        format!("`{}` {why}", quoted(&entry.value)),
                        "a path below `cgroup_root`, as `coders/*`, or from the root of the file system: `/sys/fs/cgroup/app.slice/**`",
                    );
                }
            }
        }
    }
    for (key, value) in &raw.labels {
        if key.len() + value.len() > MAX_STRING {
            let message = format!("label `{}` is longer than {MAX_STRING} bytes", quoted(key));
            report.error(
                place,
                message,
                "labels are words to choose agents by: `team: payments`",
            );
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
    let resources = raw
        .resources
        .map(|raw| resources::resources(&raw, whole, report))
        .unwrap_or_default();
    let quota = raw
        .quota
        .and_then(|quota| quota::quota(&quota, whole, report));
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
        not_understood: raw.not_understood.unwrap_or(defaults.not_understood),
        trusts: raw.trusts,
        quota,
        sandbox,
        resources,
        indexes: Vec::new(),
    };
    Some((agent, place))
}
