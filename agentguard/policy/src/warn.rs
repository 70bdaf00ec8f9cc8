//! What a policy says that was probably not meant.

use std::collections::HashMap;

use agentguard_common::map::TCP;
use agentguard_model::Handling;

use crate::agent::AgentPolicy;
use crate::diagnostic::{Diagnostic, Severity};
use crate::pattern::{HostPattern, Ports};
use crate::rule::{Fit, Rule, Seen, Selector};
use crate::strategy::Strategy;

/// The most comparisons of two values, as two hosts of two rules. A policy that needs more is compared in part, and
/// that is said.
const MAX_COMPARISONS: usize = 10_000_000;

/// The most warnings of this room; of those beyond the number is told.
const MAX_WARNINGS: usize = 100;

/// Warnings about rules as a whole. `columns`: where each rule begins.
pub(crate) fn warnings(
    rules: &[Rule],
    columns: &[u32],
    agents: &[AgentPolicy],
    strategy: Strategy,
) -> Vec<Diagnostic> {
    let mut comparisons = Comparisons {
        left: MAX_COMPARISONS,
    };
    let mut found = all(rules, columns, agents, strategy, &mut comparisons);
    let (Some(last), Some(column)) = (rules.last(), columns.last()) else {
        return found;
    };
    let more = found.len().saturating_sub(MAX_WARNINGS);
    found.truncate(MAX_WARNINGS);
    if more > 0 {
        found.push(warning(
            last,
            *column,
            format!("{more} more warnings about rules are not told"),
            "mend those that are told first",
        ));
    }
    if comparisons.left == 0 {
        found.push(warning(
            last,
            *column,
            "the rules are too many to compare each with all others, so warnings of some may be missing"
                .to_owned(),
            "check the policy in parts, as by one file that is included at a time",
        ));
    }
    found
}

/// All of them.
fn all(
    rules: &[Rule],
    columns: &[u32],
    agents: &[AgentPolicy],
    strategy: Strategy,
    comparisons: &mut Comparisons,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (rule, column) in rules.iter().zip(columns) {
        if rule.allows() && rule.anywhere() {
            let mut message = format!("rule `{}` allows any destination", rule.info.id);
            if rule.ports == Ports::all() && rule.is_static() {
                message.push_str(" on any port");
            }
            found.push(warning(
                rule,
                *column,
                message,
                "every name can be resolved then, which is a way out for data; give `host` or `cidr`",
            ));
        }
    }
    for (rule, column) in blind(rules, columns, comparisons) {
        let message = format!(
            "rule `{}` looks at requests on port 443, and sees none in TLS",
            rule.info.id
        );
        found.push(warning(
            rule,
            *column,
            message,
            "`handling: inspect` on this rule",
        ));
    }
    for (rule, column, allowing) in blinding(rules, columns, comparisons) {
        let (id, other, place) = (&rule.info.id, &allowing.info.id, seen_from(rule, allowing));
        let message = format!(
            "rule `{id}` has to see the requests that rule `{other}` ({place}) allows on port 443 without opening TLS: all of that TLS is denied"
        );
        let hint = format!("`handling: inspect` on rule `{other}`");
        found.push(warning(rule, *column, message, &hint));
    }
    for (rule, column) in rules.iter().zip(columns) {
        let everything = |net: &ipnet::IpNet| net.prefix_len() == 0;
        let denies = !rule.allows() && rule.written_ranges().iter().any(everything);
        if denies && strategy != Strategy::PriorityFirstMatch {
            found.push(warning(
                rule,
                *column,
                format!("rule `{}` denies every address, and with it every name that leads to one", rule.info.id),
                "take it out: a bare address that no rule allows is denied; for bare addresses alone, `when: destination.ip != ''`",
            ));
        }
    }
    let hidden = hidden(rules, strategy, comparisons);
    for ((rule, column), by) in rules.iter().zip(columns).zip(hidden) {
        let Some((by, how)) = by.and_then(|(n, how)| Some((rules.get(n)?, how))) else {
            continue;
        };
        let (id, other, place) = (&rule.info.id, &by.info.id, seen_from(rule, by));
        let (message, hint) = match how {
            Hidden::Preceded => (
                format!(
                    "rule `{id}` never decides: rule `{other}` ({place}) comes before it and matches all of it"
                ),
                "take it out, or let it stand before the other",
            ),
            Hidden::PrecededOverTcp => (
                format!(
                    "rule `{id}` decides nothing over TCP: rule `{other}` ({place}) comes before it and matches all of that"
                ),
                "take it out, or let it stand before the other; `transport: [udp]` if datagrams alone are meant",
            ),
            Hidden::Same => (
                format!("rule `{id}` adds nothing to rule `{other}` ({place})"),
                "take it out",
            ),
            Hidden::Denied => (
                format!(
                    "rule `{id}` never allows anything: rule `{other}` ({place}) denies all of it"
                ),
                "take it out, or have the other one deny less",
            ),
            Hidden::Contradicted => (
                format!(
                    "rule `{id}` allows exactly what rule `{other}` ({place}) denies, so it is denied"
                ),
                "say which of the two is meant, and take the other one out",
            ),
        };
        found.push(warning(rule, *column, message, hint));
    }
    if agents.is_empty()
        && let (Some(rule), Some(column)) = (rules.first(), columns.first())
    {
        found.push(warning(
            rule,
            *column,
            "there are rules, but no agents".to_owned(),
            "an agent is declared under `agents`",
        ));
    }
    found
}

/// Where another rule stands, for a message about `rule`.
fn seen_from(rule: &Rule, other: &Rule) -> String {
    let (here, there) = (&rule.info.source, &other.info.source);
    if here.file == there.file {
        format!("line {}", there.line)
    } else {
        format!("{}, line {}", there.file, there.line)
    }
}

fn warning(rule: &Rule, column: u32, message: String, hint: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        path: rule.info.source.file.clone(),
        line: rule.info.source.line,
        column,
        message,
        hint: hint.to_owned(),
    }
}

/// Allowances for the port of HTTPS alone that have to see a request, where no rule opens TLS for
/// all that they match. Each with the column where it begins.
fn blind<'a>(
    rules: &'a [Rule],
    columns: &'a [u32],
    comparisons: &mut Comparisons,
) -> Vec<(&'a Rule, &'a u32)> {
    let https = Ports::new(vec![(443, 443)]);
    let inspecting: Vec<&Rule> = rules.iter().filter(|rule| rule.inspects()).collect();
    rules
        .iter()
        .zip(columns)
        .filter(|(rule, _)| {
            rule.allows()
                && rule.needs_request()
                && rule.unread(&Seen::Tls) == Fit::NeedsRequest
                && rule.info.handling != Handling::Inspect
                && https.covers(&rule.ports)
                && !inspecting.iter().any(|by| comparisons.reaches(by, rule))
                && comparisons.left > 0
        })
        .collect()
}

/// Denials in force that have to see requests, each with an allowance for the port of HTTPS that does not open
/// TLS to a destination of theirs, and the column where the denial begins.
fn blinding<'a>(
    rules: &'a [Rule],
    columns: &'a [u32],
    comparisons: &mut Comparisons,
) -> Vec<(&'a Rule, &'a u32, &'a Rule)> {
    let mut found = Vec::new();
    let inspecting: Vec<&Rule> = rules.iter().filter(|rule| rule.inspects()).collect();
    for (rule, column) in rules.iter().zip(columns) {
        let blind = !rule.allows()
            && rule.info.in_force()
            && rule.needs_request()
            && rule.ports.contains(443)
            && rule.unread(&Seen::Tls) == Fit::NeedsRequest;
        if !blind {
            continue;
        }
        let allowing = rules.iter().find(|by| {
            by.allows()
                && by.info.in_force()
                && by.info.handling == Handling::Splice
                && by.ports.contains(443)
                && !by.needs_request()
                && !by.anywhere()
                && comparisons.shares(rule, by)
                && !inspecting.iter().any(|it| comparisons.reaches(it, by))
        });
        if let Some(allowing) = allowing {
            found.push((rule, column, allowing));
        }
    }
    found
}

/// How a rule has nothing to say beside another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hidden {
    /// The other decides wherever it matches.
    Preceded,
    /// The other decides wherever it matches over TCP, and this one is for both transports.
    PrecededOverTcp,
    /// The other says it too.
    Same,
    /// The other denies all that it allows, and more.
    Denied,
    /// The other denies just what it allows.
    Contradicted,
}

/// For each rule, another that leaves it nothing to say; one that contradicts it before one that
/// only denies more.
fn hidden(
    rules: &[Rule],
    strategy: Strategy,
    comparisons: &mut Comparisons,
) -> Vec<Option<(usize, Hidden)>> {
    // A rule that covers another covers its first destination, so only rules that share that one
    // need to be compared.
    let mut by_destination: HashMap<Destination<'_>, Vec<usize>> = HashMap::new();
    for (n, rule) in rules.iter().enumerate() {
        if rule.anywhere() {
            by_destination.entry(Destination::Any).or_default().push(n);
        }
        for host in &rule.hosts {
            let destination = match host {
                HostPattern::Exact(name) => Destination::Name(name.as_str()),
                HostPattern::Below(name) => Destination::Below(name.as_str()),
            };
            by_destination.entry(destination).or_default().push(n);
        }
        for net in rule.written_ranges() {
            by_destination
                .entry(Destination::Net(*net))
                .or_default()
                .push(n);
        }
    }
    rules
        .iter()
        .enumerate()
        .map(|(n, rule)| {
            let others = wider(rule)
                .into_iter()
                .filter_map(|destination| by_destination.get(&destination))
                .flatten();
            let mut in_part = None;
            for &by in others.filter(|by| **by != n) {
                if comparisons.left == 0 {
                    break;
                }
                let how = rules
                    .get(by)
                    .and_then(|other| comparisons.hides_by(strategy, other, rule, by < n));
                match how {
                    None => {}
                    Some(part @ (Hidden::Denied | Hidden::PrecededOverTcp)) => {
                        in_part = in_part.or(Some((by, part)));
                    }
                    Some(how) => return Some((by, how)),
                }
            }
            in_part
        })
        .collect()
}

#[derive(Eq, Hash, PartialEq)]
enum Destination<'a> {
    Any,
    Name(&'a str),
    Below(&'a str),
    Net(ipnet::IpNet),
}

/// The destinations of which a rule that covers `rule` has one.
fn wider(rule: &Rule) -> Vec<Destination<'_>> {
    let mut wider = vec![Destination::Any];
    match (rule.hosts.first(), rule.written_ranges().first()) {
        (Some(host), _) => {
            let (HostPattern::Exact(name) | HostPattern::Below(name)) = host;
            wider.push(match host {
                HostPattern::Exact(_) => Destination::Name(name.as_str()),
                HostPattern::Below(_) => Destination::Below(name.as_str()),
            });
            let mut rest = name.as_str();
            while let Some((_, suffix)) = rest.split_once('.') {
                wider.push(Destination::Below(suffix));
                rest = suffix;
            }
        }
        (None, Some(net)) => {
            let mut net = Some(*net);
            while let Some(here) = net {
                wider.push(Destination::Net(here));
                net = here.supernet();
            }
        }
        (None, None) => {}
    }
    wider
}

/// Compares rules, as long as there is something left to spend on it.
struct Comparisons {
    left: usize,
}

impl Comparisons {
    /// As [`Self::hides`], by what the strategy makes of two rules that match.
    fn hides_by(
        &mut self,
        strategy: Strategy,
        by: &Rule,
        rule: &Rule,
        earlier: bool,
    ) -> Option<Hidden> {
        match strategy {
            Strategy::DenyOverrides => self.hides(by, rule, earlier),
            Strategy::PriorityFirstMatch => {
                self.spend(1);
                let first = by.priority > rule.priority || by.priority == rule.priority && earlier;
                let precedes = first
                    && by.info.in_force()
                    && self.reaches_over(by, rule)
                    && self.sees(by, rule);
                if !precedes {
                    None
                } else if by.transports & rule.transports == rule.transports {
                    Some(Hidden::Preceded)
                } else {
                    // A denial is for both transports by itself, and an allowance for TCP alone.
                    let tcp = by.transports & rule.transports & TCP != 0;
                    tcp.then_some(Hidden::PrecededOverTcp)
                }
            }
            // Of others than those that match the same, the narrower one decides.
            Strategy::MostSpecificWins => {
                let hides = self.hides(by, rule, earlier);
                hides.filter(|_| self.reaches_over(rule, by) && self.sees(rule, by))
            }
        }
    }

    /// Whether `by` leaves `rule` nothing to say. Of two that say the same, the later one is hidden.
    fn hides(&mut self, by: &Rule, rule: &Rule, earlier: bool) -> Option<Hidden> {
        self.spend(1);
        if by.info.mode != rule.info.mode && !by.info.in_force() {
            return None;
        }
        if by.info.action == rule.info.action {
            // What `rule` adds may be its handling, its addresses, its ranges or its reason.
            let adds = by.info.handling != rule.info.handling
                || by.info.mode != rule.info.mode
                || by.addresses != rule.addresses
                || by.changes != rule.changes
                || !rule.ranges.iter().all(|net| by.ranges.contains(net))
                || rule.info.reason.is_some() && by.info.reason != rule.info.reason
                || rule.info.log.is_some() && by.info.log != rule.info.log;
            let hides = !adds && self.covers(by, rule) && (earlier || !self.covers(rule, by));
            return hides.then_some(Hidden::Same);
        }
        if by.allows() || !self.covers(by, rule) {
            return None;
        }
        // A denial that does not name a transport is for both, and an allowance for TCP alone.
        let contradicts = self.reaches_over(rule, by) && self.sees(rule, by);
        Some(if contradicts {
            Hidden::Contradicted
        } else {
            Hidden::Denied
        })
    }

    /// Whether `a` matches whatever `b` matches.
    fn covers(&mut self, a: &Rule, b: &Rule) -> bool {
        self.reaches(a, b) && self.sees(a, b)
    }

    /// Whether `a` matches every flow that `b` matches, as long as no request is looked at.
    fn reaches(&mut self, a: &Rule, b: &Rule) -> bool {
        a.transports & b.transports == b.transports && self.reaches_over(a, b)
    }

    /// As [`Self::reaches`], whatever the transport.
    fn reaches_over(&mut self, a: &Rule, b: &Rule) -> bool {
        a.ports.covers(&b.ports)
            && self.selects_all(&a.agents, &b.agents)
            && (a.anywhere()
                || !b.anywhere()
                    && self.all(&b.hosts, &a.hosts, HostPattern::covers)
                    && self.all(b.written_ranges(), a.written_ranges(), |wider, net| {
                        wider.contains(net)
                    }))
    }

    /// Whether a denial is for all that an allowance is for, whatever ports and requests.
    fn shares(&mut self, denial: &Rule, allowance: &Rule) -> bool {
        self.selects_all(&denial.agents, &allowance.agents)
            && (denial.anywhere()
                || !allowance.hosts.is_empty()
                    && self.all(&allowance.hosts, &denial.hosts, HostPattern::covers))
    }

    /// Whether `a` matches every request that `b` matches.
    fn sees(&mut self, a: &Rule, b: &Rule) -> bool {
        let llm = a.request.llm.as_ref();
        if a.allows() != b.allows() && llm.is_some_and(|llm| llm.depends_on_action(a.allows())) {
            return false;
        }
        let cost = a.request.values().saturating_mul(b.request.values());
        (a.request == b.request || self.spend(cost) && a.request.covers(&b.request))
            && a.conditions.covers(&b.conditions)
    }

    fn selects_all(&mut self, a: &Selector, b: &Selector) -> bool {
        let names = match (&a.names, &b.names) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(names), Some(others)) => {
                let cost = names.len().saturating_mul(others.len());
                let has =
                    |name| names.contains(name) || a.groups.iter().any(|g| g.agents.contains(name));
                names == others && a.groups == b.groups
                    || self.spend(cost)
                        && others.iter().all(has)
                        && b.groups.iter().all(|group| a.groups.contains(group))
            }
        };
        names && a.labels.iter().all(|label| b.labels.contains(label))
    }

    /// Whether something among `own` covers each of `others`.
    fn all<T: PartialEq>(&mut self, others: &[T], own: &[T], covers: fn(&T, &T) -> bool) -> bool {
        own == others
            || others
                .iter()
                .all(|it| self.spend(own.len()) && own.iter().any(|wider| covers(wider, it)))
    }

    /// Takes the cost of a comparison. `false`: there is not so much left.
    fn spend(&mut self, cost: usize) -> bool {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.left = 0;
                false
            }
        }
    }
}
