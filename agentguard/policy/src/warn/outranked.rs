//! Denials that decide nothing, since rules of a higher rank allow all that they could deny.
//!
//! What no rule allows is denied all the same, so a denial matters only where it meets an allowance. One that covers
//! its allowances whole and more is left alone: it is the rest of which they are the exceptions.

use std::collections::HashSet;

use super::compare::{Comparisons, Who};
use super::hidden::named;
use super::near::Allowances;
use super::warning;
use crate::diagnostic::Diagnostic;
use crate::index::Position;
use crate::rule::Rule;
use crate::strategy::{Strategy, Towards};

/// Warns of denials that rank below each allowance that they meet. `told`: by number, those of which something was
/// told already.
pub(super) fn warnings<'a>(
    rules: &'a [Rule],
    columns: &[u32],
    strategy: Strategy,
    told: &HashSet<usize>,
    comparisons: &mut Comparisons<'a>,
) -> Vec<Diagnostic> {
    if !strategy.ranks() {
        return Vec::new();
    }
    let allowances = Allowances::of(rules);
    let mut found = Vec::new();
    for ((n, rule), column) in rules.iter().enumerate().zip(columns) {
        if rule.allows() || told.contains(&n) {
            continue;
        }
        let denial = Standing::of(n, rule);
        // Behind an address may be any name.
        let met = match rule.cidrs.is_empty() {
            true => allowances.near(rule),
            false => allowances.all(),
        };
        let met = met
            .into_iter()
            .filter_map(|at| Some(Standing::of(at, rules.get(at)?)));
        let above = comparisons.all_above(strategy, &denial, met);
        if let Some(above) = above.filter(|it| !it.is_empty()) {
            found.push(of(rule, *column, strategy, &above));
        }
    }
    found
}

fn of(rule: &Rule, column: u32, strategy: Strategy, above: &[&Rule]) -> Diagnostic {
    let several = above.len() > 1;
    let (verb, hint) = match (strategy, several) {
        (Strategy::PriorityFirstMatch, false) => (
            "comes before it",
            "let it stand before the other, or with a higher `priority`; or take it out: what no rule allows is denied",
        ),
        (Strategy::PriorityFirstMatch, true) => (
            "come before it",
            "let it stand before the others, or with a higher `priority`; or take it out: what no rule allows is denied",
        ),
        (_, false) => (
            "ranks above it",
            "what says more exactly what it is for decides: name in it the hosts, agents and ports that the other one names, or take it out",
        ),
        (_, true) => (
            "rank above it",
            "what says more exactly what it is for decides: name in it the hosts, agents and ports that the others name, or take it out",
        ),
    };
    let message = format!(
        "rule `{}` decides nothing that any rule allows: {} {verb}",
        rule.info.id,
        named(rule, above)
    );
    warning(rule, column, message, hint)
}

/// A rule, and where it stands.
struct Standing<'a> {
    rule: &'a Rule,
    position: Position,
}

impl<'a> Standing<'a> {
    fn of(n: usize, rule: &'a Rule) -> Self {
        let position = Position::try_from(n).unwrap_or(Position::MAX);
        Self { rule, position }
    }
}

/// How an allowance stands to a denial.
enum Meeting {
    /// Nothing is of both.
    Apart,
    /// The denial counts beside it, or may.
    Counts,
    /// It ranks above the denial, if anything is of both.
    Perhaps,
    /// It ranks above the denial, and something is of both.
    Above,
}

impl<'a> Comparisons<'a> {
    /// The allowances that rank above a denial, but for its exceptions, if all do that it may meet.
    fn all_above(
        &mut self,
        strategy: Strategy,
        denial: &Standing<'a>,
        near: impl Iterator<Item = Standing<'a>>,
    ) -> Option<Vec<&'a Rule>> {
        let mut above = Vec::new();
        for allowance in near {
            if !self.spend(1) {
                return None;
            }
            match self.meeting(strategy, denial, &allowance)? {
                Meeting::Apart | Meeting::Perhaps => {}
                Meeting::Counts => return None,
                Meeting::Above => {
                    let by = allowance.rule;
                    let is_meant = by.info.in_force() && !self.is_exception(by, denial.rule);
                    above.extend(is_meant.then_some(by));
                }
            }
        }
        (self.left > 0).then_some(above)
    }

    /// How they stand to each other. `None`: there is not so much left to spend.
    fn meeting(
        &mut self,
        strategy: Strategy,
        denial: &Standing<'a>,
        allowance: &Standing<'a>,
    ) -> Option<Meeting> {
        let (denies, allows) = (denial.rule, allowance.rule);
        let (own, others) = (&denies.request.methods, &allows.request.methods);
        let apart = denies.transports & allows.transports == 0
            || denies.ports.shared(&allows.ports).is_empty()
            || !(own.is_empty() || others.is_empty() || own.iter().any(|it| others.contains(it)))
            || !self.share_agents(&denies.agents, &allows.agents);
        if apart {
            return Some(Meeting::Apart);
        }
        let places = self.shared_places(denies, allows)?;
        // Which address is behind a name is nobody's to know; the denial of one is more exact than any name.
        let behind = !denies.cidrs.is_empty() && (allows.anywhere() || !allows.hosts.is_empty());
        let counts = |towards: Towards<'_>| {
            let [own, other] =
                [denial, allowance].map(|it| strategy.rank(it.position, it.rule, towards));
            own >= other
        };
        let each = denies.hosts.len() + allows.hosts.len();
        let counts = match strategy {
            _ if places.is_empty() && !behind => return Some(Meeting::Apart),
            Strategy::MostSpecificWins => {
                behind
                    || !self.spend(places.len().saturating_mul(each))
                    || places.iter().any(|place| place.holds(counts))
            }
            _ => counts(Towards::Anything),
        };
        if counts {
            return Some(Meeting::Counts);
        }
        let conditions = denies.conditions.is_empty()
            || allows.conditions.is_empty()
            || allows.conditions.covers(&denies.conditions);
        let cost = allows.request.cost_of_covering(&denies.request);
        let meet = !places.is_empty()
            && conditions
            && self.spend(cost)
            && allows.request.meets(&denies.request);
        Some(if meet {
            Meeting::Above
        } else {
            Meeting::Perhaps
        })
    }

    /// Whether an allowance is an exception of what a denial says of a destination as a whole: that is for all that
    /// the allowance is for, and for other destinations, agents or requests too.
    fn is_exception(&mut self, allowance: &'a Rule, denial: &'a Rule) -> bool {
        let (agents, others) = (&denial.agents, &allowance.agents);
        denial.is_static()
            && denial.ports.covers(&allowance.ports)
            && self.leads_to_all(denial, allowance)
            && self.selects_all(agents, others, Who::Now)
            && (!allowance.is_static()
                || !self.leads_to_all(allowance, denial)
                || !self.selects_all(others, agents, Who::Written))
    }
}
