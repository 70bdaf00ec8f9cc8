//! Rules that others leave nothing to say.

use std::collections::{HashMap, HashSet};

use agentguard_common::map::TCP;

use super::compare::{Comparisons, Who};
use super::{outranked, seen_from, warning};
use crate::diagnostic::Diagnostic;
use crate::pattern::{HostPattern, Ports};
use crate::rule::Rule;
use crate::strategy::Strategy;

/// The most rules of which it is seen which ones another is covered by; of more all are told.
const MAX_SORTED_OUT: usize = 32;

/// How many rules are named that hide another together.
const NAMED: usize = 3;

/// How a rule has nothing to say beside others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hidden {
    /// They decide wherever it matches.
    Preceded,
    /// They decide wherever it matches over TCP, and this one is for both transports.
    PrecededOverTcp,
    /// Another says it too.
    Same,
    /// Another allows it too, and this one denies where its expression cannot be evaluated.
    OnlyFails,
    /// They deny all that it allows, and more.
    Denied,
    /// Another denies just what it allows.
    Contradicted,
}

/// Warns of each rule that another one, or several together, leave nothing to say, and of each denial that ranks below
/// all that it could deny.
pub(super) fn warnings<'a>(
    rules: &'a [Rule],
    columns: &[u32],
    strategy: Strategy,
    comparisons: &mut Comparisons<'a>,
) -> Vec<Diagnostic> {
    let by_destination = by_destination(rules);
    let mut found = Vec::new();
    let mut those = HashSet::new();
    for ((n, rule), column) in rules.iter().enumerate().zip(columns) {
        let mut others: Vec<usize> = wider(rule)
            .into_iter()
            .filter_map(|destination| by_destination.get(&destination))
            .flatten()
            .copied()
            .filter(|by| *by != n)
            .collect();
        // A rule may be there by several of its destinations.
        others.sort_unstable();
        others.dedup();
        let others = others.into_iter().filter_map(|by| {
            let other = rules.get(by)?;
            Some(Beside {
                rule: other,
                earlier: by < n,
            })
        });
        let others: Vec<Beside<'a>> = others.collect();
        let hidden = comparisons
            .hidden_by_one(strategy, rule, &others)
            .or_else(|| comparisons.hidden_by_several(strategy, rule, &others));
        if let Some((by, how)) = hidden {
            let (message, hint) = told(rule, &by, how);
            found.push(warning(rule, *column, message, hint));
            those.insert(n);
        }
    }
    found.extend(outranked::warnings(
        rules,
        columns,
        strategy,
        &those,
        comparisons,
    ));
    found
}

/// Another rule, and whether it stands before the one that is looked at.
#[derive(Clone, Copy)]
struct Beside<'a> {
    rule: &'a Rule,
    earlier: bool,
}

fn told(rule: &Rule, by: &[&Rule], how: Hidden) -> (String, &'static str) {
    let id = &rule.info.id;
    let several = by.len() > 1;
    let others = named(rule, by);
    let (comes, denies) = if several {
        ("come before it and together match", "together deny")
    } else {
        ("comes before it and matches", "denies")
    };
    match how {
        Hidden::Preceded => (
            format!("rule `{id}` never decides: {others} {comes} all of it"),
            if several {
                "take it out, or let it stand before the others"
            } else {
                "take it out, or let it stand before the other"
            },
        ),
        Hidden::PrecededOverTcp => (
            format!("rule `{id}` decides nothing over TCP: {others} {comes} all of that"),
            if several {
                "take it out, or let it stand before the others; `transport: [udp]` if datagrams alone are meant"
            } else {
                "take it out, or let it stand before the other; `transport: [udp]` if datagrams alone are meant"
            },
        ),
        Hidden::Same => (
            format!("rule `{id}` adds nothing to {others}"),
            "take it out",
        ),
        Hidden::OnlyFails => (
            format!(
                "rule `{id}` allows nothing that {others} does not, and denies what its expression cannot be evaluated on"
            ),
            "take it out only if that is not to be denied; what is to be denied says a rule with `action: deny`",
        ),
        Hidden::Denied => (
            format!("rule `{id}` never allows anything: {others} {denies} all of it"),
            if several {
                "take it out, or have the others deny less"
            } else {
                "take it out, or have the other one deny less"
            },
        ),
        Hidden::Contradicted => (
            format!("rule `{id}` allows exactly what {others} {denies}, so it is denied"),
            "say which of the two is meant, and take the other one out",
        ),
    }
}

/// Other rules with their places, for a message about `rule`: the first ones, and how many more.
pub(super) fn named(rule: &Rule, others: &[&Rule]) -> String {
    let one = |other: &&Rule| format!("`{}` ({})", other.info.id, seen_from(rule, other));
    let (named, more) = others.split_at(others.len().min(NAMED));
    let named: Vec<String> = named.iter().map(one).collect();
    match (named.as_slice(), more.len()) {
        ([other], _) => format!("rule {other}"),
        ([others @ .., last], 0) => format!("rules {} and {last}", others.join(", ")),
        (_, more) => format!("rules {} and {more} more", named.join(", ")),
    }
}

/// The rules by their destinations. A rule that covers another covers its first destination, so only rules that
/// share that one need to be compared.
fn by_destination(rules: &[Rule]) -> HashMap<Destination<'_>, Vec<usize>> {
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
    by_destination
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

impl<'a> Comparisons<'a> {
    /// The rule that leaves `rule` nothing to say; one that contradicts it before one that only denies more.
    fn hidden_by_one(
        &mut self,
        strategy: Strategy,
        rule: &'a Rule,
        others: &[Beside<'a>],
    ) -> Option<(Vec<&'a Rule>, Hidden)> {
        let mut in_part = None;
        for by in others {
            if self.left == 0 {
                break;
            }
            match self.hides_by(strategy, by.rule, rule, by.earlier) {
                None => {}
                Some(part @ (Hidden::Denied | Hidden::PrecededOverTcp)) => {
                    in_part = in_part.or(Some((vec![by.rule], part)));
                }
                Some(how) => return Some((vec![by.rule], how)),
            }
        }
        in_part
    }

    /// The rules of which each leaves `rule` something to say, and all of them nothing: they are for other agents
    /// or other ports, and what else it says they cover.
    fn hidden_by_several(
        &mut self,
        strategy: Strategy,
        rule: &'a Rule,
        others: &[Beside<'a>],
    ) -> Option<(Vec<&'a Rule>, Hidden)> {
        let mut parts = Vec::new();
        let mut over_tcp = Vec::new();
        for by in others {
            if self.left == 0 {
                return None;
            }
            let overrules = match strategy {
                Strategy::DenyOverrides => {
                    let counts = by.rule.info.in_force() || by.rule.info.mode == rule.info.mode;
                    rule.allows() && !by.rule.allows() && counts
                }
                Strategy::PriorityFirstMatch => {
                    precedes(by.rule, rule, by.earlier)
                        && in_every_reading(by.rule, rule)
                        && self.opens_all(by.rule, rule)
                }
                // The narrower one decides.
                Strategy::MostSpecificWins => false,
            };
            let is_part = overrules
                && !by.rule.ports.shared(&rule.ports).is_empty()
                && self.spend(1)
                && self.leads_to_all(by.rule, rule)
                && self.sees(by.rule, rule);
            if !is_part {
                continue;
            }
            let shared = by.rule.transports & rule.transports;
            if shared == rule.transports {
                parts.push(by.rule);
            }
            if shared & TCP != 0 {
                over_tcp.push(by.rule);
            }
        }
        if strategy == Strategy::DenyOverrides {
            return Some((self.together(rule, parts)?, Hidden::Denied));
        }
        let whole = self.together(rule, parts);
        let whole = whole.map(|by| (by, Hidden::Preceded));
        whole.or_else(|| Some((self.together(rule, over_tcp)?, Hidden::PrecededOverTcp)))
    }

    /// Those of some rules that are needed to cover the agents and ports of `rule` together, if they do.
    fn together(&mut self, rule: &'a Rule, mut parts: Vec<&'a Rule>) -> Option<Vec<&'a Rule>> {
        if parts.len() < 2 || !self.cover_together(rule, &parts) {
            return None;
        }
        if parts.len() <= MAX_SORTED_OUT {
            for n in (0..parts.len()).rev() {
                let taken_out = parts.remove(n);
                if !self.cover_together(rule, &parts) {
                    parts.insert(n, taken_out);
                }
            }
        }
        Some(parts)
    }

    /// Whether some rules are together for each agent and each port that `rule` is for.
    fn cover_together(&mut self, rule: &'a Rule, parts: &[&'a Rule]) -> bool {
        let mut for_all = Vec::new();
        let mut for_some = Vec::new();
        for part in parts {
            if self.selects_all(&part.agents, &rule.agents, Who::Now) {
                for_all.extend_from_slice(part.ports.ranges());
            } else if let Some(selected) = self.selected(&part.agents) {
                for_some.push((selected, &part.ports));
            }
        }
        if Ports::new(for_all.clone()).covers(&rule.ports) {
            return true;
        }
        let Some(selected) = self.selected(&rule.agents) else {
            return false;
        };
        let mut agents = selected.iter().peekable();
        agents.peek().is_some()
            && agents.all(|agent| {
                let its = for_some.iter().filter(|(those, _)| those.has(agent));
                let ports = its.flat_map(|(_, ports)| ports.ranges());
                let ports = ports.chain(&for_all).copied().collect();
                self.spend(parts.len()) && Ports::new(ports).covers(&rule.ports)
            })
    }

    /// As [`Self::hides`], by what the strategy makes of two rules that match.
    fn hides_by(
        &mut self,
        strategy: Strategy,
        by: &'a Rule,
        rule: &'a Rule,
        earlier: bool,
    ) -> Option<Hidden> {
        match strategy {
            Strategy::DenyOverrides => self.hides(by, rule, earlier, Who::Now),
            Strategy::PriorityFirstMatch => {
                self.spend(1);
                let matches = precedes(by, rule, earlier)
                    && in_every_reading(by, rule)
                    && self.opens_all(by, rule)
                    && self.reaches_over(by, rule, Who::Now)
                    && self.sees(by, rule);
                if !matches {
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
                let hides = self.hides(by, rule, earlier, Who::Written);
                hides.filter(|_| self.reaches_over(rule, by, Who::Written) && self.sees(rule, by))
            }
        }
    }

    /// Whether `by` leaves `rule` nothing to say. Of two that say the same, the later one is hidden; `who` does not
    /// matter there, since one of them may be meant for agents that are not there yet.
    fn hides(&mut self, by: &'a Rule, rule: &'a Rule, earlier: bool, who: Who) -> Option<Hidden> {
        self.spend(1);
        if by.info.mode != rule.info.mode && !by.info.in_force() {
            return None;
        }
        if by.info.action == rule.info.action {
            // What `rule` adds may be its handling, its addresses, its ranges or its reason.
            let adds = by.info.handling != rule.info.handling
                || by.info.mode != rule.info.mode
                || by.addresses != rule.addresses
                // Those between the two may change the same.
                || rule.changes.is_some()
                || by.captures != rule.captures
                || by.cuts != rule.cuts
                || !rule.ranges.iter().all(|net| by.ranges.contains(net))
                || rule.info.reason.is_some() && by.info.reason != rule.info.reason
                || rule.info.log.is_some() && by.info.log != rule.info.log;
            let hides = !adds
                && self.covers(by, rule, Who::Written)
                && (earlier || !self.covers(rule, by, Who::Written));
            // One that fails denies, whatever the rule says.
            let fails = rule.allows()
                && rule.conditions.when.is_some()
                && rule.conditions.when != by.conditions.when;
            let how = match fails {
                true => Hidden::OnlyFails,
                false => Hidden::Same,
            };
            return hides.then_some(how);
        }
        if by.allows() || !self.covers(by, rule, who) {
            return None;
        }
        // A denial that does not name a transport is for both, and an allowance for TCP alone.
        let contradicts = self.reaches_over(rule, by, who) && self.sees(rule, by);
        Some(if contradicts {
            Hidden::Contradicted
        } else {
            Hidden::Denied
        })
    }
}

/// Whether a rule decides before another, where the first that matches does.
pub(super) fn precedes(by: &Rule, rule: &Rule, earlier: bool) -> bool {
    let first = by.priority > rule.priority || by.priority == rule.priority && earlier;
    first && by.info.in_force()
}

/// Whether `by`, if it is for all that `rule` is for, decides that in every reading. What changes something is read as a
/// denial reads it: where an allowance before it does not match, since some server may read the request in another way,
/// it changes what a later one allows.
fn in_every_reading(by: &Rule, rule: &Rule) -> bool {
    !rule.obliges()
        || !by.allows()
        || by.conditions.when.is_none() && !by.request.depends_on_action()
}
