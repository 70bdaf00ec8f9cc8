//! Allowances that may be for a destination of another rule, without a look at all of them.

use std::collections::HashMap;

use crate::pattern::HostPattern;
use crate::rule::Rule;

/// Allowances, each by its number, by where they lead.
pub(super) struct Allowances<'a> {
    all: Vec<usize>,
    /// Those for any destination, and those for addresses.
    elsewhere: Vec<usize>,
    /// By a name.
    exact: HashMap<&'a str, Vec<usize>>,
    /// By the name below which all are meant.
    below: HashMap<&'a str, Vec<usize>>,
    /// By each name that one of their hosts is below.
    within: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Allowances<'a> {
    pub(super) fn of(rules: &'a [Rule]) -> Self {
        let mut by = Self {
            all: Vec::new(),
            elsewhere: Vec::new(),
            exact: HashMap::new(),
            below: HashMap::new(),
            within: HashMap::new(),
        };
        for (n, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.allows()) {
            by.all.push(n);
            if rule.anywhere() || !rule.cidrs.is_empty() {
                by.elsewhere.push(n);
            }
            for host in &rule.hosts {
                let (map, name) = match host {
                    HostPattern::Exact(name) => (&mut by.exact, name.as_str()),
                    HostPattern::Below(name) => (&mut by.below, name.as_str()),
                };
                map.entry(name).or_default().push(n);
                for suffix in suffixes(name) {
                    let within = by.within.entry(suffix).or_default();
                    if within.last() != Some(&n) {
                        within.push(n);
                    }
                }
            }
        }
        by
    }

    pub(super) fn all(&self) -> Vec<usize> {
        self.all.clone()
    }

    /// Those that are for a destination which another rule names, in order, and perhaps others.
    pub(super) fn near(&self, rule: &Rule) -> Vec<usize> {
        if rule.anywhere() {
            return self.all();
        }
        let mut near = self.elsewhere.clone();
        for host in &rule.hosts {
            let (HostPattern::Exact(name) | HostPattern::Below(name)) = host;
            let name = name.as_str();
            let same = match host {
                HostPattern::Exact(_) => [self.exact.get(name), None],
                HostPattern::Below(_) => [self.below.get(name), self.within.get(name)],
            };
            let wider = suffixes(name).filter_map(|suffix| self.below.get(suffix));
            let of_host = same.into_iter().flatten().chain(wider);
            near.extend(of_host.flatten());
        }
        near.sort_unstable();
        near.dedup();
        near
    }
}

/// The names that a name is below.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |it| {
        it.split_once('.').map(|(_, suffix)| suffix)
    })
    .skip(1)
}
