//! What a policy says that was probably not meant.
//!
//! - `compare`: whether one rule is for all that another is for, at a bounded cost.
//! - `hidden`: rules that others leave nothing to say.
//! - `near`: allowances that may be for a destination of another rule.
//! - `outranked`: denials that rank below all that they could deny.
//! - `unseen`: rules that have to see requests where none are seen.

mod compare;
mod hidden;
mod near;
mod outranked;
mod unseen;

use crate::agent::AgentPolicy;
use crate::diagnostic::{Diagnostic, Severity};
use crate::pattern::Ports;
use crate::rule::Rule;
use crate::strategy::Strategy;
use compare::{Comparisons, Who};

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
    let mut comparisons = Comparisons::new(rules, agents, MAX_COMPARISONS);
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
fn all<'a>(
    rules: &'a [Rule],
    columns: &[u32],
    agents: &[AgentPolicy],
    strategy: Strategy,
    comparisons: &mut Comparisons<'a>,
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
    // What these spend is not missing where rules are hidden.
    let mut of_requests = Comparisons::new(rules, agents, comparisons.left);
    found.extend(unseen::blind(rules, columns, &mut of_requests));
    found.extend(unseen::blinding(rules, columns, strategy, &mut of_requests));
    found.extend(unseen::passed_by(rules, columns, &mut of_requests));
    found.extend(unseen::opened_elsewhere(rules, columns, &mut of_requests));
    found.extend(of_every_address(rules, columns, strategy, comparisons));
    found.extend(hidden::warnings(rules, columns, strategy, comparisons));
    if of_requests.left == 0 {
        comparisons.left = 0;
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

/// Denials of every address, which every name leads to. Where the first rule that matches decides, it matters what
/// stands behind them.
fn of_every_address<'a>(
    rules: &'a [Rule],
    columns: &[u32],
    strategy: Strategy,
    comparisons: &mut Comparisons<'a>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (n, (rule, column)) in rules.iter().zip(columns).enumerate() {
        let everything = |net: &ipnet::IpNet| net.prefix_len() == 0;
        if rule.allows() || !rule.written_ranges().iter().any(everything) {
            continue;
        }
        let id = &rule.info.id;
        let families = [true, false].map(|v4| {
            let mut ranges = rule.written_ranges().iter().filter(|it| everything(it));
            ranges.any(|net| net.addr().is_ipv4() == v4)
        });
        let every = match families {
            [true, false] => "every address of IPv4",
            [false, true] => "every address of IPv6",
            _ => "every address",
        };
        if strategy != Strategy::PriorityFirstMatch {
            found.push(warning(
                rule,
                *column,
                format!("rule `{id}` denies {every}, and with it every name that leads to one"),
                "take it out: a bare address that no rule allows is denied; for bare addresses alone, `when: destination.ip != ''`",
            ));
            continue;
        }
        let mut others = rules.iter().enumerate();
        let behind = others.find(|(at, by)| {
            by.allows()
                && (by.anywhere() || !by.hosts.is_empty())
                && by.transports & rule.transports != 0
                && !rule.ports.shared(&by.ports).is_empty()
                && hidden::precedes(rule, by, n < *at)
                && comparisons.selects_all(&rule.agents, &by.agents, Who::Now)
        });
        if let Some((_, by)) = behind {
            let (other, place) = (&by.info.id, seen_from(rule, by));
            found.push(warning(
                rule,
                *column,
                format!("rule `{id}` denies {every}, and with it every name that rule `{other}` ({place}) allows, since it comes before it"),
                "let it stand behind the rules that allow names, or take it out: what no rule allows is denied",
            ));
        }
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
