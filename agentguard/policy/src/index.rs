//! The rules of an agent by what they match, so that rules which cannot match cost nothing.

mod paths;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use agentguard_model::HostName;
use ipnet::IpNet;

use crate::pattern::HostPattern;
use crate::rule::Rule;

use paths::{ByPath, MOST};

pub(crate) use paths::Asked;

/// Of so many rules for one destination it is known what the paths begin with that they are about. Fewer are gone
/// through sooner than a path is looked up.
pub(crate) const MANY: usize = 32;

/// The place of a rule in the policy, from 0.
pub(crate) type Position = u32;

/// By which of its conditions a rule was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Via {
    /// It matches any destination.
    Anywhere,
    /// One of its hosts matches.
    Host,
    /// One of its ranges holds the address.
    Range,
}

/// Rules by destination and port.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By exact name.
    exact: HashMap<Box<str>, Bucket>,
    /// By the name below which they match.
    below: HashMap<Box<str>, Bucket>,
    /// By range of addresses: for each prefix length in use, the ranges of that length.
    ranges: Vec<(Family, u8, HashMap<IpAddr, Bucket>)>,
    /// Those that match any destination.
    anywhere: Bucket,
    /// Denials that a name's resolved address can meet.
    address_denials: Vec<Position>,
    /// Whether an allowance opens addresses that are not public to a name.
    opens_addresses: bool,
    /// Whether one of the rules wants TLS terminated.
    inspects: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    V4,
    V6,
}

/// Rules for one destination.
#[derive(Debug, Default)]
struct Bucket {
    /// Those for a few ports, by port.
    ports: HashMap<u16, Listed>,
    /// Those for many.
    wide: Listed,
}

/// Rules for one destination and the same ports.
#[derive(Debug, Default)]
struct Listed {
    /// All of them, in order.
    all: Vec<Position>,
    /// The same by path, where they are many.
    by_path: Option<Arc<ByPath>>,
}

impl Listed {
    fn add(&mut self, position: Position) {
        if self.all.last() != Some(&position) {
            self.all.push(position);
        }
    }

    fn visit(&self, asked: Option<&Asked<'_>>, mut visit: impl FnMut(Position)) {
        match asked.zip(self.by_path.as_ref()) {
            Some((asked, by_path)) => by_path.visit(asked, visit),
            None => self.all.iter().for_each(|position| visit(*position)),
        }
    }
}

impl Bucket {
    fn add(&mut self, position: Position, rule: &Rule) {
        match rule.ports.singles() {
            Some(ports) => {
                for port in ports {
                    self.ports.entry(port).or_default().add(position);
                }
            }
            None => self.wide.add(position),
        }
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut Listed> {
        self.ports
            .values_mut()
            .chain(std::iter::once(&mut self.wide))
    }

    /// Calls `visit` with the rules that may be for a port, or with all of them.
    fn visit(&self, port: Option<u16>, asked: Option<&Asked<'_>>, mut visit: impl FnMut(Position)) {
        self.wide.visit(asked, &mut visit);
        match port {
            Some(port) => {
                if let Some(here) = self.ports.get(&port) {
                    here.visit(asked, visit);
                }
            }
            None => self
                .ports
                .values()
                .for_each(|here| here.visit(asked, &mut visit)),
        }
    }
}

impl Index {
    /// The index of some of a policy's rules. `many`: of so many for one destination by path, too.
    pub(crate) fn new(rules: &[Rule], positions: &[Position], many: usize) -> Self {
        let mut index = Self::default();
        for &position in positions {
            let Some(rule) = usize::try_from(position).ok().and_then(|n| rules.get(n)) else {
                continue;
            };
            index.add(position, rule);
        }
        // The longest first: the narrowest rules are the likeliest to match.
        index.ranges.sort_by_key(|(_, length, _)| Reverse(*length));
        index.sort_by_path(rules, many, positions.len().saturating_mul(MOST));
        index
    }

    /// Sorts the rules for one destination by path where they are many: the most first, as long as there are no more
    /// than `left` entries in all.
    fn sort_by_path(&mut self, rules: &[Rule], many: usize, mut left: usize) {
        let by_name = self.exact.values_mut().chain(self.below.values_mut());
        let by_range = self
            .ranges
            .iter_mut()
            .flat_map(|(.., map)| map.values_mut());
        let buckets = by_name.chain(by_range);
        let buckets = buckets.chain(std::iter::once(&mut self.anywhere));
        let lists = buckets.flat_map(Bucket::lists);
        let mut lists: Vec<&mut Listed> = lists.filter(|it| it.all.len() >= many).collect();
        // Destinations with the same rules stand side by side, and share what is made of them.
        lists.sort_by(|a, b| (Reverse(a.all.len()), &a.all).cmp(&(Reverse(b.all.len()), &b.all)));
        let mut before: Option<(&[Position], Option<Arc<ByPath>>)> = None;
        for Listed { all, by_path } in lists {
            *by_path = match &before {
                Some((same, made)) if *same == all.as_slice() => made.clone(),
                _ => ByPath::new(rules, all, left).map(|made| {
                    left = left.saturating_sub(made.len());
                    Arc::new(made)
                }),
            };
            before = Some((all, by_path.clone()));
        }
    }

    fn add(&mut self, position: Position, rule: &Rule) {
        if rule.anywhere() {
            self.anywhere.add(position, rule);
        }
        for pattern in &rule.hosts {
            let (map, name) = match pattern {
                HostPattern::Exact(name) => (&mut self.exact, name),
                HostPattern::Below(name) => (&mut self.below, name),
            };
            map.entry(name.as_str().into())
                .or_default()
                .add(position, rule);
        }
        for net in &rule.cidrs {
            let family = family(net.addr());
            let length = net.prefix_len();
            let place = self
                .ranges
                .iter()
                .position(|(f, l, _)| (*f, *l) == (family, length));
            let map = match place.and_then(|n| self.ranges.get_mut(n)) {
                Some((_, _, map)) => map,
                None => {
                    self.ranges.push((family, length, HashMap::new()));
                    match self.ranges.last_mut() {
                        Some((_, _, map)) => map,
                        None => return,
                    }
                }
            };
            map.entry(net.network()).or_default().add(position, rule);
        }
        if !rule.allows() && !rule.cidrs.is_empty() {
            self.address_denials.push(position);
        }
        if rule.allows() && !rule.ranges.is_empty() {
            self.opens_addresses = true;
        }
        self.inspects |= rule.inspects();
    }

    /// Visits the rules that may match a name, or an address, or both; one may be visited more
    /// than once. `port`: only those that may be for it. `asked`: only those that may match that path, though others can
    /// be among them.
    pub(crate) fn visit(
        &self,
        host: Option<&HostName>,
        ip: Option<IpAddr>,
        port: Option<u16>,
        asked: Option<&Asked<'_>>,
        visit: &mut impl FnMut(Position, Via),
    ) {
        let here = |position: Position| visit(position, Via::Anywhere);
        self.anywhere.visit(port, asked, here);
        if let Some(name) = host {
            let mut here = |position: Position| visit(position, Via::Host);
            if let Some(bucket) = self.exact.get(name.as_str()) {
                bucket.visit(port, asked, &mut here);
            }
            if !self.below.is_empty() {
                let mut rest = name.as_str();
                while let Some((_, suffix)) = rest.split_once('.') {
                    if let Some(bucket) = self.below.get(suffix) {
                        bucket.visit(port, asked, &mut here);
                    }
                    rest = suffix;
                }
            }
        }
        if let Some(ip) = ip {
            self.visit_ranges(IpNet::from(ip), port, asked, visit);
        }
    }

    /// Visits the rules of which a range holds all of `net`.
    pub(crate) fn visit_ranges(
        &self,
        net: IpNet,
        port: Option<u16>,
        asked: Option<&Asked<'_>>,
        visit: &mut impl FnMut(Position, Via),
    ) {
        for (family_of, length, map) in &self.ranges {
            if *family_of != family(net.addr()) || *length > net.prefix_len() {
                continue;
            }
            let Ok(wider) = IpNet::new(net.addr(), *length) else {
                continue;
            };
            if let Some(bucket) = map.get(&wider.network()) {
                bucket.visit(port, asked, |position| visit(position, Via::Range));
            }
        }
    }

    /// Visits the rules that match any destination.
    pub(crate) fn visit_anywhere(&self, visit: &mut impl FnMut(Position, Via)) {
        let here = |position: Position| visit(position, Via::Anywhere);
        self.anywhere.visit(None, None, here);
    }

    /// Every range that a rule names.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.ranges.iter().flat_map(|(_, length, map)| {
            map.keys()
                .filter_map(|network| IpNet::new(*network, *length).ok())
        })
    }

    /// Denials that a name's resolved address can meet.
    pub(crate) fn address_denials(&self) -> &[Position] {
        &self.address_denials
    }

    /// Whether what the rules say depends on the address behind a name.
    pub(crate) const fn looks_at_addresses(&self) -> bool {
        self.opens_addresses || !self.address_denials.is_empty()
    }

    /// Whether one of the rules wants TLS terminated.
    pub(crate) const fn inspects(&self) -> bool {
        self.inspects
    }
}

const fn family(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}
