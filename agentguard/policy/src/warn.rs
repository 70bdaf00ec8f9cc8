//! What a policy says that was probably not meant.

use std::collections::HashMap;

use agentguard_model::Handling;

use crate::agent::AgentPolicy;
use crate::diagnostic::{Diagnostic, Severity};
use crate::pattern::{HostPattern, Ports};
use crate::rule::{Rule, Selector};

/// The most pairs of rules that are compared. A policy with more is compared in part: what is not
/// compared is not warned about.
const MAX_COMPARISONS: usize = 1_000_000;

/// The most warnings of this room; what is beyond is not told.
const MAX_WARNINGS: usize = 100;

/// Warnings about rules as a whole. `columns`: where each rule begins.
pub(crate) fn warnings(rules: &[Rule], columns: &[u32], agents: &[AgentPolicy]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (rule, column) in rules.iter().zip(columns) {
        if found.len() >= MAX_WARNINGS {
            return found;
        }
        if rule.allows() && rule.anywhere() {
            let mut message = format!("rule `{}` allows any destination", rule.info.id);
            if rule.ports == Ports::all() && !rule.needs_request() {
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
    for (rule, column) in blind(rules, columns) {
        if found.len() >= MAX_WARNINGS {
            return found;
        }
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
    let hidden = hidden(rules);
    for ((rule, column), by) in rules.iter().zip(columns).zip(hidden) {
        let Some(by) = by.and_then(|n| rules.get(n)) else {
            continue;
        };
        if found.len() >= MAX_WARNINGS {
            return found;
        }
        let (id, other, line) = (&rule.info.id, &by.info.id, by.info.source.line);
        let message = if rule.info.action == by.info.action {
            format!("rule `{id}` adds nothing to rule `{other}` (line {line})")
        } else {
            format!(
                "rule `{id}` never allows anything: rule `{other}` (line {line}) denies all of it"
            )
        };
        found.push(warning(rule, *column, message, "one of them can go"));
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

fn warning(rule: &Rule, column: u32, message: String, hint: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        path: rule.info.source.file.clone(),
        line: rule.info.source.line,
        column,
        message,
        hint: Some(hint.to_owned()),
    }
}

/// Allowances for the port of HTTPS alone that have to see a request, where no rule opens TLS for
/// all that they match. Each with the column where it begins.
fn blind<'a>(rules: &'a [Rule], columns: &'a [u32]) -> impl Iterator<Item = (&'a Rule, &'a u32)> {
    let https = Ports::new(vec![(443, 443)]);
    let inspecting: Vec<&Rule> = rules.iter().filter(|rule| rule.inspects()).collect();
    rules
        .iter()
        .zip(columns)
        .filter(move |(rule, _)| {
            rule.allows()
                && rule.needs_request()
                && rule.info.handling != Handling::Inspect
                && https.covers(&rule.ports)
        })
        .take(MAX_COMPARISONS / inspecting.len().max(1))
        .filter(move |(rule, _)| !inspecting.iter().any(|by| reaches(by, rule)))
}

/// For each rule, another that leaves it nothing to say.
fn hidden(rules: &[Rule]) -> Vec<Option<usize>> {
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
        for net in &rule.cidrs {
            by_destination
                .entry(Destination::Net(*net))
                .or_default()
                .push(n);
        }
    }
    let mut left = MAX_COMPARISONS;
    rules
        .iter()
        .enumerate()
        .map(|(n, rule)| {
            wider(rule)
                .into_iter()
                .filter_map(|destination| by_destination.get(&destination))
                .flatten()
                .copied()
                .take_while(|_| {
                    left = left.saturating_sub(1);
                    left > 0
                })
                .find(|&by| {
                    by != n
                        && rules
                            .get(by)
                            .is_some_and(|by_rule| hides(by_rule, rule, by < n))
                })
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
    match (rule.hosts.first(), rule.cidrs.first()) {
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

/// Whether `by` leaves `rule` nothing to say. Of two that say the same, the later one is hidden.
fn hides(by: &Rule, rule: &Rule, earlier: bool) -> bool {
    let same_action = by.info.action == rule.info.action;
    if by.info.mode != rule.info.mode && !by.info.in_force() {
        return false;
    }
    if same_action {
        // What `rule` adds may be its handling, its addresses, its ranges or its reason.
        let adds = by.info.handling != rule.info.handling
            || by.info.mode != rule.info.mode
            || by.addresses != rule.addresses
            || !rule.ranges.iter().all(|net| by.ranges.contains(net))
            || rule.info.reason.is_some() && by.info.reason != rule.info.reason;
        if adds || covers(rule, by) && !earlier {
            return false;
        }
    } else if by.allows() {
        return false;
    }
    covers(by, rule)
}

/// Whether `a` matches whatever `b` matches.
fn covers(a: &Rule, b: &Rule) -> bool {
    reaches(a, b) && a.request.covers(&b.request)
}

/// Whether `a` matches every flow that `b` matches, as long as no request is looked at.
fn reaches(a: &Rule, b: &Rule) -> bool {
    let destinations = a.anywhere()
        || !b.anywhere()
            && b.hosts
                .iter()
                .all(|host| a.hosts.iter().any(|wider| wider.covers(host)))
            && b.cidrs
                .iter()
                .all(|net| a.cidrs.iter().any(|wider| wider.contains(net)));
    destinations
        && selects_all(&a.agents, &b.agents)
        && a.ports.covers(&b.ports)
        && a.transports & b.transports == b.transports
}

fn selects_all(a: &Selector, b: &Selector) -> bool {
    let names = match (&a.names, &b.names) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(names), Some(others)) => {
            let has =
                |name| names.contains(name) || a.groups.iter().any(|g| g.agents.contains(name));
            others.iter().all(has) && b.groups.iter().all(|group| a.groups.contains(group))
        }
    };
    names && a.labels.iter().all(|label| b.labels.contains(label))
}
