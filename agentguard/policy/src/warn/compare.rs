//! Whether one rule is for all that another is for, as far as there is something left to spend on it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::rc::Rc;

use agentguard_model::HostName;
use ipnet::IpNet;

use crate::agent::AgentPolicy;
use crate::pattern::{HostPattern, Ports};
use crate::rule::{Rule, Selector};
use crate::strategy::Towards;
use crate::tool::ToolMatch;

/// By what it is told whether a rule is for all agents that another is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Who {
    /// By what the two say, so that it holds for agents that come later too.
    Written,
    /// By the agents that there are, with their labels and groups.
    Now,
}

/// Compares rules, as long as there is something left to spend on it.
pub(super) struct Comparisons<'a> {
    pub(super) left: usize,
    agents: &'a [AgentPolicy],
    /// Whether a rule lets a name lead to an address that is not public.
    opens: bool,
    selected: HashMap<&'a Selector, Rc<Selected>>,
}

/// A destination that two rules are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// All that there is.
    Anything,
    Names(&'a HostPattern),
    Addresses(IpNet),
}

impl Place<'_> {
    /// Whether something is so of it: of many names, of one that is not named otherwise.
    pub(super) fn holds(&self, of: impl FnOnce(Towards<'_>) -> bool) -> bool {
        match self {
            Self::Anything => of(Towards::Anything),
            Self::Addresses(net) => of(Towards::Addresses(*net)),
            Self::Names(HostPattern::Exact(name)) => of(Towards::Name(name, None)),
            Self::Names(HostPattern::Below(suffix)) => {
                let name = format!("a.{suffix}").parse::<HostName>();
                name.is_ok_and(|name| of(Towards::Name(&name, None)))
            }
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anything => f.write_str("*"),
            Self::Names(HostPattern::Exact(name)) => write!(f, "{name}"),
            Self::Names(HostPattern::Below(suffix)) => write!(f, "*.{suffix}"),
            Self::Addresses(net) => write!(f, "{net}"),
        }
    }
}

/// Some of a policy's agents: a bit for each.
pub(super) struct Selected(Vec<u64>);

impl Selected {
    fn of(chosen: impl ExactSizeIterator<Item = bool>) -> Self {
        let mut words = vec![0; chosen.len().div_ceil(64)];
        for (n, chosen) in chosen.enumerate() {
            if let Some(word) = words.get_mut(n / 64) {
                *word |= u64::from(chosen) << (n % 64);
            }
        }
        Self(words)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn has_all(&self, others: &Self) -> bool {
        let mut words = self.0.iter().zip(&others.0);
        words.all(|(own, others)| own & others == *others)
    }

    fn has_any(&self, others: &Self) -> bool {
        let mut words = self.0.iter().zip(&others.0);
        words.any(|(own, others)| own & others != 0)
    }

    pub(super) fn has(&self, agent: usize) -> bool {
        let word = self.0.get(agent / 64);
        word.is_some_and(|word| word >> (agent % 64) & 1 == 1)
    }

    /// Their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|agent| self.has(*agent))
    }
}

impl<'a> Comparisons<'a> {
    /// `left`: how many comparisons of two values there may be.
    pub(super) fn new(rules: &[Rule], agents: &'a [AgentPolicy], left: usize) -> Self {
        Self {
            left,
            agents,
            opens: rules.iter().any(|rule| !rule.ranges.is_empty()),
            selected: HashMap::new(),
        }
    }

    /// Whether `a` matches whatever `b` matches.
    pub(super) fn covers(&mut self, a: &'a Rule, b: &'a Rule, who: Who) -> bool {
        self.reaches(a, b, who) && self.sees(a, b)
    }

    /// Whether `a` matches every flow that `b` matches, as long as no request is looked at.
    pub(super) fn reaches(&mut self, a: &'a Rule, b: &'a Rule, who: Who) -> bool {
        a.transports & b.transports == b.transports && self.reaches_over(a, b, who)
    }

    /// As [`Self::reaches`], whatever the transport.
    pub(super) fn reaches_over(&mut self, a: &'a Rule, b: &'a Rule, who: Who) -> bool {
        a.ports.covers(&b.ports)
            && self.selects_all(&a.agents, &b.agents, who)
            && self.leads_to_all(a, b)
    }

    /// Whether `a` is for all destinations that `b` is for.
    pub(super) fn leads_to_all(&mut self, a: &Rule, b: &Rule) -> bool {
        a.anywhere()
            || !b.anywhere()
                && self.all(&b.hosts, &a.hosts, HostPattern::covers)
                && self.all(b.written_ranges(), a.written_ranges(), holds)
    }

    /// Whether `a` goes wherever the names of `b` may lead, given that it is for all of them: what is not public it
    /// has to open, and a denial by address is for names too.
    pub(super) fn opens_all(&mut self, a: &Rule, b: &Rule) -> bool {
        if !a.allows() {
            return true;
        }
        if b.allows() {
            return self.all(&b.ranges, &a.ranges, holds);
        }
        !self.opens && (a.anywhere() || b.written_ranges().is_empty())
    }

    /// Whether a denial is for all names, or for all bare addresses, that an allowance is for, whatever ports and
    /// requests.
    pub(super) fn shares(&mut self, denial: &'a Rule, allowance: &'a Rule) -> bool {
        let (names, ranges) = (&allowance.hosts, allowance.written_ranges());
        self.selects_all(&denial.agents, &allowance.agents, Who::Now)
            && (denial.anywhere()
                || !names.is_empty() && self.all(names, &denial.hosts, HostPattern::covers)
                || !ranges.is_empty() && self.all(ranges, denial.written_ranges(), holds))
    }

    /// Whether `a` matches every request that `b` matches.
    pub(super) fn sees(&mut self, a: &Rule, b: &Rule) -> bool {
        let llm = a.request.llm.as_ref();
        if a.allows() != b.allows() && llm.is_some_and(|llm| llm.depends_on_action(a.allows())) {
            return false;
        }
        let tool = a.request.tool.as_ref();
        if a.allows() != b.allows() && tool.is_some_and(ToolMatch::depends_on_action) {
            return false;
        }
        let cost = a.request.cost_of_covering(&b.request);
        (a.request == b.request || self.spend(cost) && a.request.covers(&b.request))
            && a.conditions.covers(&b.conditions)
    }

    /// Whether whoever `b` is for, `a` is for.
    pub(super) fn selects_all(&mut self, a: &'a Selector, b: &'a Selector, who: Who) -> bool {
        if self.says_all(a, b) {
            return true;
        }
        if who == Who::Written {
            return false;
        }
        let (Some(a), Some(b)) = (self.selected(a), self.selected(b)) else {
            return false;
        };
        !b.is_empty() && self.spend(b.0.len()) && a.has_all(&b)
    }

    /// Whether some agent that there is is for both.
    pub(super) fn share_agents(&mut self, a: &'a Selector, b: &'a Selector) -> bool {
        let (Some(a), Some(b)) = (self.selected(a), self.selected(b)) else {
            return false;
        };
        self.spend(a.0.len()) && a.has_any(&b)
    }

    /// The destinations that two rules are for, by their names and by what is dialled bare; where one of the two is for
    /// any, one of those of the other. `None`: there is not so much left to spend.
    pub(super) fn shared_places(&mut self, a: &'a Rule, b: &'a Rule) -> Option<Vec<Place<'a>>> {
        let first = |rule: &'a Rule| {
            let name = rule.hosts.first().map(Place::Names);
            let net = || rule.written_ranges().first().copied().map(Place::Addresses);
            name.or_else(net).into_iter().collect()
        };
        match (a.anywhere(), b.anywhere()) {
            (true, true) => return Some(vec![Place::Anything]),
            (true, false) => return Some(first(b)),
            (false, true) => return Some(first(a)),
            (false, false) => {}
        }
        let (ranges, others) = (&a.cidrs, &b.cidrs);
        let hosts = a.hosts.len().saturating_mul(b.hosts.len());
        if !self.spend(hosts.saturating_add(ranges.len().saturating_mul(others.len()))) {
            return None;
        }
        let mut places = Vec::new();
        for own in &a.hosts {
            let names = b
                .hosts
                .iter()
                .filter_map(|other| narrower(own, other, HostPattern::covers));
            places.extend(names.map(Place::Names));
        }
        for own in ranges {
            let nets = others
                .iter()
                .filter_map(|other| narrower(own, other, holds));
            places.extend(nets.map(|net| Place::Addresses(*net)));
        }
        Some(places)
    }

    /// Whether a rule is for all of a place at these ports, for the agents of one of two others; or there is nothing left to
    /// tell it by.
    pub(super) fn opens_at(
        &mut self,
        rule: &'a Rule,
        place: &Place<'_>,
        (first, last): (u16, u16),
        others: [&'a Rule; 2],
    ) -> bool {
        if !self.spend(1) {
            return true;
        }
        let (names, nets) = (&rule.hosts, rule.written_ranges());
        let leads = |it: &Place<'_>| match it {
            Place::Anything => false,
            Place::Names(pattern) => names.iter().any(|own| own.covers(pattern)),
            Place::Addresses(net) => nets.iter().any(|own| own.contains(net)),
        };
        rule.ports.covers(&Ports::new(vec![(first, last)]))
            && (rule.anywhere() || self.spend(names.len() + nets.len()) && leads(place))
            && others
                .into_iter()
                .any(|other| self.selects_all(&rule.agents, &other.agents, Who::Now))
    }

    /// The agents that a selector selects, unless there is not so much left to spend.
    pub(super) fn selected(&mut self, selector: &'a Selector) -> Option<Rc<Selected>> {
        if let Some(known) = self.selected.get(selector) {
            return Some(Rc::clone(known));
        }
        let names = selector.names.as_ref();
        let each = self.agents.len().saturating_mul(1 + selector.groups.len());
        if !self.spend(each.saturating_add(names.map_or(0, Vec::len))) {
            return None;
        }
        // As `Selector::selects`, where each of many agents is looked for among many names.
        let names: Option<HashSet<_>> = names.map(|names| names.iter().collect());
        let chosen = |agent: &AgentPolicy| {
            let named = |names: &HashSet<_>| names.contains(&agent.name);
            (names.as_ref().is_none_or(named) || selector.in_groups(&agent.name, &agent.labels))
                && selector.wants(&agent.labels)
        };
        let selected = Rc::new(Selected::of(self.agents.iter().map(chosen)));
        self.selected.insert(selector, Rc::clone(&selected));
        Some(selected)
    }

    /// By what they say.
    fn says_all(&mut self, a: &Selector, b: &Selector) -> bool {
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
    pub(super) fn spend(&mut self, cost: usize) -> bool {
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

/// The one of two that the other one covers.
fn narrower<'a, T>(a: &'a T, b: &'a T, covers: fn(&T, &T) -> bool) -> Option<&'a T> {
    if covers(a, b) {
        Some(b)
    } else {
        covers(b, a).then_some(a)
    }
}

fn holds(wider: &IpNet, net: &IpNet) -> bool {
    wider.contains(net)
}
