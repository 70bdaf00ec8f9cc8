//! A compiled policy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agentguard_model::{AgentName, Matched};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::Document;
use crate::agent::AgentPolicy;
use crate::budget::BudgetRule;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::document::LogLevel;
use crate::index::{Index, MANY, Position};
use crate::limit::{BreakerRule, LimitRule};
use crate::load::{self, load};
use crate::providers::Providers;
use crate::recorded::LookedAt;
use crate::rule::{Rule, RuleInfo};
use crate::strategy::Strategy;
use crate::tool_servers::ToolServer;
use crate::warn;

/// The most entries that the indexes of all agents have together. A policy that needs more is
/// refused: it has many agents whose many rules differ.
const MAX_INDEXED: usize = 1_000_000;

/// A compiled policy: immutable, decides without I/O.
#[derive(Debug)]
pub struct Policy {
    version: String,
    strategy: Strategy,
    switches: BTreeMap<String, bool>,
    providers: Providers,
    tool_servers: Vec<Arc<ToolServer>>,
    rules: Vec<Rule>,
    pub(crate) budgets: Vec<BudgetRule>,
    pub(crate) limits: Vec<LimitRule>,
    pub(crate) breakers: Vec<BreakerRule>,
    agents: Vec<AgentPolicy>,
    by_name: HashMap<AgentName, usize>,
    /// The rules of whose decisions the log tells, by id.
    logged: HashMap<String, LogLevel>,
    looked_at: LookedAt,
    /// Whether a rule looks at the tools that a model asks to call.
    looks_at_tool_calls: bool,
    cuts_tool_calls: bool,
    needs_contents: bool,
    warnings: Vec<Diagnostic>,
}

/// Compiles documents into one policy. What they include has to be among them: [`crate::Sources`] reads it.
///
/// # Errors
/// Everything that is wrong with the documents, with its place and a hint.
pub fn compile(documents: &[Document]) -> Result<Policy, Diagnostics> {
    compile_with(documents, &[])
}

/// As [`compile`]. `unread`: what was wrong with what they include, which is not to be told again.
pub(crate) fn compile_with(
    documents: &[Document],
    unread: &[Diagnostic],
) -> Result<Policy, Diagnostics> {
    let mut loaded = load(documents, unread);
    load::sort(&mut loaded.found, documents);
    if loaded.found.iter().any(|d| d.severity == Severity::Error) {
        return Err(Diagnostics::new(loaded.found));
    }
    let mut warnings = loaded.found;
    warnings.extend(warn::warnings(
        &loaded.rules,
        &loaded.columns,
        &loaded.agents,
        loaded.strategy,
    ));
    load::sort(&mut warnings, documents);
    let mut agents = loaded.agents;
    index(&loaded.rules, &mut agents, MANY).map_err(|message| {
        Diagnostics::from(Diagnostic {
            severity: Severity::Error,
            path: documents
                .first()
                .map_or_else(String::new, |d| d.path.clone()),
            line: 0,
            column: 0,
            message,
            hint:
                "name fewer agents one by one: rules that are for all agents take no room in each"
                    .to_owned(),
        })
    })?;
    let by_name = agents
        .iter()
        .enumerate()
        .map(|(n, agent)| (agent.name.clone(), n))
        .collect();
    Ok(Policy {
        version: version(documents),
        strategy: loaded.strategy,
        switches: loaded.switches,
        providers: loaded.providers,
        tool_servers: loaded.tool_servers.into_iter().map(Arc::new).collect(),
        looked_at: LookedAt::by(&loaded.rules),
        looks_at_tool_calls: loaded.rules.iter().any(Rule::looks_at_tool_calls),
        cuts_tool_calls: loaded.rules.iter().any(|rule| rule.cuts),
        needs_contents: loaded.rules.iter().any(Rule::needs_contents),
        logged: loaded
            .rules
            .iter()
            .filter_map(|rule| Some((rule.info.id.clone(), rule.info.log?)))
            .collect(),
        rules: loaded.rules,
        budgets: loaded.budgets,
        limits: loaded.limits,
        breakers: loaded.breakers,
        agents,
        by_name,
        warnings,
    })
}

/// Gives each agent the indexes of its rules: one that all share, and one of the rules that are
/// not for everyone, shared by the agents that have the same. `many` as of [`Index::new`].
fn index(rules: &[Rule], agents: &mut [AgentPolicy], many: usize) -> Result<(), String> {
    let mut everyones: Vec<Position> = Vec::new();
    let mut others: Vec<(Position, &Rule)> = Vec::new();
    for (position, rule) in (0..).zip(rules) {
        if rule.agents.is_everyone() {
            everyones.push(position);
        } else {
            others.push((position, rule));
        }
    }
    let shared = Arc::new(Index::new(rules, &everyones, many));
    let mut indexed = everyones.len();
    let mut indexes: HashMap<Vec<Position>, Arc<Index>> = HashMap::new();
    for agent in agents {
        let own: Vec<Position> = others
            .iter()
            .filter(|(_, rule)| rule.agents.selects(&agent.name, &agent.labels))
            .map(|(position, _)| *position)
            .collect();
        agent.indexes = vec![Arc::clone(&shared)];
        if own.is_empty() {
            continue;
        }
        if let Some(same) = indexes.get(&own) {
            agent.indexes.push(Arc::clone(same));
            continue;
        }
        indexed += own.len();
        if indexed > MAX_INDEXED {
            return Err(format!(
                "the rules of all agents together are more than {MAX_INDEXED}, a rule counted for each agent it is for"
            ));
        }
        let index = Arc::new(Index::new(rules, &own, many));
        agent.indexes.push(Arc::clone(&index));
        indexes.insert(own, index);
    }
    Ok(())
}

/// The first 12 hexadecimal digits of SHA-256 over the documents' texts, each after its length.
fn version(documents: &[Document]) -> String {
    let mut hash = Sha256::new();
    for document in documents {
        hash.update(
            u64::try_from(document.text.len())
                .unwrap_or(u64::MAX)
                .to_be_bytes(),
        );
        hash.update(document.text.as_bytes());
    }
    hash.finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Policy {
    /// The same with an index by path of so many rules for one destination, or more.
    #[cfg(test)]
    pub(crate) fn indexed_from(mut self, many: usize) -> Self {
        index(&self.rules, &mut self.agents, many).unwrap();
        self
    }

    /// Whether a rule looks at the tools that a model asks to call, so that answers have to be read before they
    /// are passed on.
    #[must_use]
    pub const fn looks_at_tool_calls(&self) -> bool {
        self.looks_at_tool_calls
    }

    /// Whether a rule has tool calls cut out of answers.
    #[must_use]
    pub const fn cuts_tool_calls(&self) -> bool {
        self.cuts_tool_calls
    }

    /// Whether a rule changes contents, or keeps them, so that they are held where they are read.
    #[must_use]
    pub const fn needs_contents(&self) -> bool {
        self.needs_contents
    }

    /// The first 12 hexadecimal digits of the SHA-256 of its documents.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Which of the rules that match decides.
    #[must_use]
    pub const fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// The switches that it declares, each with how it is unless an operator sets it.
    #[must_use]
    pub const fn switches(&self) -> &BTreeMap<String, bool> {
        &self.switches
    }

    /// A moment after `time` up to which the clock changes no verdict. `None`: no rule looks at it.
    #[must_use]
    pub fn next_change(&self, time: Timestamp) -> Option<Timestamp> {
        let rules = self.rules.iter();
        rules
            .filter_map(|rule| rule.conditions.next_change(time))
            .min()
    }

    /// What its documents say that was probably not meant.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Its agents, in the order of the documents.
    #[must_use]
    pub fn agents(&self) -> &[AgentPolicy] {
        &self.agents
    }

    /// An agent by its name.
    #[must_use]
    pub fn agent(&self, name: &AgentName) -> Option<&AgentPolicy> {
        self.by_name.get(name).and_then(|n| self.agents.get(*n))
    }

    /// A rule by the number that the kernel's events carry.
    #[must_use]
    pub fn rule(&self, number: u32) -> Option<&RuleInfo> {
        self.at(number.checked_sub(1)?).map(|rule| &rule.info)
    }

    /// At which level the log tells of a decision, by the rule that decided it.
    #[must_use]
    pub fn log_level(&self, matched: &[Matched]) -> Option<LogLevel> {
        if self.logged.is_empty() {
            return None;
        }
        self.logged.get(&matched.first()?.rule).copied()
    }

    /// Its rules, in the order of the documents.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &RuleInfo> {
        self.rules.iter().map(|rule| &rule.info)
    }

    pub(crate) fn at(&self, position: Position) -> Option<&Rule> {
        self.rules.get(usize::try_from(position).ok()?)
    }

    pub(crate) const fn providers(&self) -> &Providers {
        &self.providers
    }

    pub(crate) fn tool_servers(&self) -> &[Arc<ToolServer>] {
        &self.tool_servers
    }

    pub(crate) const fn looked_at(&self) -> &LookedAt {
        &self.looked_at
    }

    pub(crate) fn compiled(&self) -> &[Rule] {
        &self.rules
    }
}
