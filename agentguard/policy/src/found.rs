//! The rules that a flow meets, by what they say.

use std::net::IpAddr;

use agentguard_model::special::is_opened;
use agentguard_model::{Handling, HostName};

use crate::agent::AgentPolicy;
use crate::decide::Facts;
use crate::index::{Asked, Position, Via};
use crate::policy::Policy;
use crate::rule::{Fit, Rule};
use crate::special;
use crate::steps::Steps;
use crate::strategy::{Rank, Standing, Towards};

/// How many rules of one kind a decision lists. Of more, those that stand first in the policy.
pub(crate) const LISTED: usize = 8;

/// Positions of rules: the lowest [`LISTED`] of those added, in order, without allocation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Few {
    positions: [Position; LISTED],
    count: usize,
    /// Whether they are those of rules on paper.
    pub(crate) on_paper: bool,
}

impl Few {
    pub(crate) fn add(&mut self, position: Position) {
        let kept = self.positions.get(..self.count).unwrap_or_default();
        let Err(place) = kept.binary_search(&position) else {
            return;
        };
        if place >= LISTED {
            return;
        }
        self.count = (self.count + 1).min(LISTED);
        if let Some(tail) = self.positions.get_mut(place..self.count) {
            tail.rotate_right(1);
            if let Some(first) = tail.first_mut() {
                *first = position;
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Position> + '_ {
        self.positions.iter().copied().take(self.count)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those that `other` does not have.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut left = Self {
            on_paper: self.on_paper,
            ..Self::default()
        };
        self.iter()
            .filter(|position| !other.iter().any(|of_other| of_other == *position))
            .for_each(|position| left.add(position));
        left
    }
}

/// The rules that a flow meets, by what they say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Denials in force.
    pub(crate) denials: Few,
    /// Denials in force that look at a request which was not seen.
    pub(crate) unseen_denials: Few,
    /// Denials on paper.
    pub(crate) paper_denials: Few,
    /// Denials on paper that look at a request which was not seen.
    pub(crate) unseen_paper_denials: Few,
    /// Allowances in force.
    pub(crate) allowances: Few,
    /// Allowances in force that look at a request which was not seen.
    pub(crate) unseen_allowances: Few,
    /// Those of [`Self::allowances`] that say `inspect`.
    pub(crate) inspecting: Few,
    /// Those of [`Self::unseen_allowances`] that say `inspect`.
    pub(crate) unseen_inspecting: Few,
    /// Those of the denials whose expression cannot be evaluated, whatever they would say.
    pub(crate) failed: Few,
    /// Allowances on paper: they grant nothing.
    pub(crate) paper_allowances: Few,
    /// The most restrictive handling of [`Self::allowances`].
    pub(crate) handling: Option<Handling>,
    /// The most restrictive handling of [`Self::unseen_allowances`].
    pub(crate) unseen_handling: Option<Handling>,
    /// Those of [`Self::allowances`] that change the request, and those that would allow it in another reading: all of
    /// them, where there are ranks the highest first, and in no order otherwise.
    pub(crate) modifying: Vec<Position>,
    /// Those on paper.
    pub(crate) paper_modifying: Vec<Position>,
    /// Whether one of [`Self::denials`] does not leave the rest of a model's answer as it is.
    pub(crate) refuses: bool,
    /// Whether one of [`Self::allowances`] has contents kept.
    pub(crate) captures: bool,
    /// Whether one of [`Self::unseen_allowances`] has an expression that may fail, and deny then.
    pub(crate) may_fail: bool,
    /// Why expressions could not be evaluated that could be if they were alone.
    pub(crate) exceeded: Option<String>,
    /// Whether ranks decide, so that those of [`Self::unseen_allowances`] beside a denial are above it.
    ranked: bool,
}

impl Found {
    fn add(&mut self, position: Position, rule: &Rule, fit: Fit, in_force: bool) {
        let seen = match fit {
            Fit::Yes => true,
            Fit::NeedsRequest => false,
            Fit::Failed if in_force || !rule.allows() => {
                self.failed.add(position);
                true
            }
            Fit::Failed | Fit::No => return,
        };
        let allows = rule.allows() && fit != Fit::Failed;
        if in_force && allows && rule.inspects() {
            let inspecting = if seen {
                &mut self.inspecting
            } else {
                &mut self.unseen_inspecting
            };
            inspecting.add(position);
        }
        let kind = match (allows, in_force, seen) {
            (false, true, true) => {
                self.refuses |= !rule.cuts || fit == Fit::Failed;
                &mut self.denials
            }
            (false, true, false) => &mut self.unseen_denials,
            (false, false, true) => &mut self.paper_denials,
            (false, false, false) => &mut self.unseen_paper_denials,
            (true, true, true) => {
                self.handling = self.handling.max(Some(rule.info.handling));
                self.captures |= rule.captures;
                if rule.changes.is_some() {
                    self.modifying.push(position);
                }
                &mut self.allowances
            }
            (true, true, false) => {
                self.unseen_handling = self.unseen_handling.max(Some(rule.info.handling));
                self.may_fail |= rule.conditions.needs_request();
                if rule.changes.is_some() {
                    // What would be changed does not pass as it is.
                    self.unseen_denials.add(position);
                }
                &mut self.unseen_allowances
            }
            (true, false, true) => {
                if rule.changes.is_some() {
                    self.paper_modifying.push(position);
                }
                &mut self.paper_allowances
            }
            // What would be changed on paper would not pass as it is there.
            (true, false, false) if rule.changes.is_some() => &mut self.unseen_paper_denials,
            // Neither seen nor in force: nothing can come of it.
            (true, false, false) => return,
        };
        kind.add(position);
        kind.on_paper = !in_force;
    }

    /// Adds what a rule obliges to, which does not allow the request.
    fn add_obliging(&mut self, position: Position, rule: &Rule, in_force: bool) {
        self.captures |= in_force && rule.captures;
        if rule.changes.is_some() {
            let modifying = match in_force {
                true => &mut self.modifying,
                false => &mut self.paper_modifying,
            };
            modifying.push(position);
        }
    }

    /// Whether a request may still show that an allowance is above the denials.
    pub(crate) const fn may_be_overruled(&self) -> bool {
        self.ranked && !self.unseen_allowances.is_empty()
    }

    /// Whether a denial looks at a request that was not seen.
    pub(crate) const fn has_unseen_denial(&self) -> bool {
        !self.unseen_denials.is_empty() || !self.unseen_paper_denials.is_empty()
    }

    /// Whether an allowance in force wants what it allows seen, or would with the right request.
    pub(crate) const fn inspects(&self) -> bool {
        !self.inspecting.is_empty() || !self.unseen_inspecting.is_empty()
    }
}

impl Policy {
    /// The rules that a flow meets.
    pub(crate) fn find(&self, agent: &AgentPolicy, facts: &Facts<'_>, ip: Option<IpAddr>) -> Found {
        Asked::among(facts, |asked| self.find_among(agent, facts, ip, asked))
    }

    /// Those among the rules that may match a path, and how many steps are left.
    fn find_among(
        &self,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        ip: Option<IpAddr>,
        asked: Option<&Asked<'_>>,
    ) -> (Found, u64) {
        // What is on paper takes no steps from what is in force: it would be denied for it.
        let (steps, paper_steps) = (Steps::new(), Steps::new());
        let fit = |rule: &Rule, in_force: bool| {
            let steps = if in_force { &steps } else { &paper_steps };
            rule.fit_within(agent, facts, steps)
        };
        let means = |rule: &Rule, in_force: bool| {
            let steps = if in_force { &steps } else { &paper_steps };
            rule.obliges_a_reading(agent, facts, steps)
        };
        let in_force = |rule: &Rule| rule.in_force(&agent.name, &facts.circumstances);
        let left = || steps.left().min(paper_steps.left());
        let mut found = Found::default();
        let port = Some(facts.port);
        if !self.strategy().ranks() {
            self.each_among(agent, facts.host, ip, port, asked, |position, rule| {
                let in_force = in_force(rule);
                let fit = fit(rule, in_force);
                found.add(position, rule, fit, in_force);
                if fit == Fit::No && means(rule, in_force) {
                    found.add_obliging(position, rule, in_force);
                }
            });
            found.exceeded = exceeded(&steps, &paper_steps);
            return (found, left());
        }
        let towards = Towards::of(facts.host, ip);
        let ranked = self.all(agent, facts.host, ip, port, asked);
        let ranked = ranked.map(|(position, rule)| {
            let rank = self.strategy().rank(position, rule, towards);
            (rank, position, rule)
        });
        let mut ranked: Vec<(Rank, Position, &Rule)> = ranked.collect();
        // The highest first: what others ask for takes no steps from them.
        ranked.sort_by(|(a, ..), (b, ..)| b.cmp(a));
        let mut standing = Standing::default();
        let mut met: Vec<(Position, &Rule, Fit, bool, Rank)> = Vec::new();
        for (rank, position, rule) in ranked {
            if standing.is_above(rank) {
                break;
            }
            let in_force = in_force(rule);
            let fit = fit(rule, in_force);
            if in_force && matches!(fit, Fit::Yes | Fit::Failed) {
                standing.note(rank, !rule.allows() || fit == Fit::Failed);
            }
            met.push((position, rule, fit, in_force, rank));
        }
        for (position, rule, fit, in_force, rank) in met {
            let certain = fit != Fit::NeedsRequest || !in_force;
            if standing.counts(rank, !rule.allows(), certain) {
                found.add(position, rule, fit, in_force);
                if fit == Fit::No && means(rule, in_force) {
                    found.add_obliging(position, rule, in_force);
                }
            }
        }
        found.ranked = true;
        found.exceeded = exceeded(&steps, &paper_steps);
        (found, left())
    }

    /// The rules that [`Self::each_among`] visits, in order, each once.
    fn all(
        &self,
        agent: &AgentPolicy,
        host: Option<&HostName>,
        ip: Option<IpAddr>,
        port: Option<u16>,
        asked: Option<&Asked<'_>>,
    ) -> impl Iterator<Item = (Position, &Rule)> {
        let mut positions = Vec::new();
        self.each_among(agent, host, ip, port, asked, |position, _| {
            positions.push(position);
        });
        positions.sort_unstable();
        positions.dedup();
        let rule = |position| Some((position, self.at(position)?));
        positions.into_iter().filter_map(rule)
    }

    /// Visits the rules of an agent that match a destination and may be for a port; one may be
    /// visited more than once. Agrees with [`Rule::is_for`] and
    /// [`Rule::opens`].
    pub(crate) fn each(
        &self,
        agent: &AgentPolicy,
        host: Option<&HostName>,
        ip: Option<IpAddr>,
        port: Option<u16>,
        visit: impl FnMut(Position, &Rule),
    ) {
        self.each_among(agent, host, ip, port, None, visit);
    }

    /// As [`Self::each`], but for rules that do not match a path.
    pub(crate) fn each_among(
        &self,
        agent: &AgentPolicy,
        host: Option<&HostName>,
        ip: Option<IpAddr>,
        port: Option<u16>,
        asked: Option<&Asked<'_>>,
        mut visit: impl FnMut(Position, &Rule),
    ) {
        let closed = ip.is_some_and(|ip| match host {
            Some(_) => !is_opened(ip, &[]),
            None => special::hard(&ip.into()).is_some(),
        });
        let mut check = |position: Position, via: Via| {
            let Some(rule) = self.at(position) else {
                return;
            };
            let meant = match (via, host) {
                (Via::Range, Some(_)) => !rule.allows(),
                _ => true,
            };
            let opened = !closed || rule.opens(host, ip);
            if meant && opened {
                visit(position, rule);
            }
        };
        for index in &agent.indexes {
            index.visit(host, ip, port, asked, &mut check);
        }
    }
}

/// What was too much of the steps of a decision.
fn exceeded(in_force: &Steps, on_paper: &Steps) -> Option<String> {
    let exceeded = in_force.exceeded().or_else(|| on_paper.exceeded());
    exceeded.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{Few, LISTED};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn few_keeps_the_lowest_once(added in prop::collection::vec(0u32..30, 0..40)) {
            let mut few = Few::default();
            added.iter().for_each(|n| few.add(*n));
            let mut expected = added;
            expected.sort_unstable();
            expected.dedup();
            expected.truncate(LISTED);
            prop_assert_eq!(few.iter().collect::<Vec<_>>(), expected);
        }
    }
}
