//! The rules of an agent by what they match, so that rules which cannot match cost nothing.

use std::collections::HashMap;
use std::net::IpAddr;

use agentguard_model::HostName;
use ipnet::IpNet;

use crate::pattern::HostPattern;
use crate::rule::Rule;

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
    ports: HashMap<u16, Vec<Position>>,
    /// Those for many.
    wide: Vec<Position>,
}

impl Bucket {
    fn add(&mut self, position: Position, rule: &Rule) {
        match rule.ports.singles() {
            Some(ports) => {
                for port in ports {
                    let here = self.ports.entry(port).or_default();
                    if here.last() != Some(&position) {
                        here.push(position);
                    }
                }
            }
            None if self.wide.last() != Some(&position) => self.wide.push(position),
            None => {}
        }
    }

    /// Calls `visit` with the rules that may be for a port, or with all of them.
    fn visit(&self, port: Option<u16>, via: Via, visit: &mut impl FnMut(Position, Via)) {
        self.wide.iter().for_each(|position| visit(*position, via));
        match port {
            Some(port) => {
                if let Some(here) = self.ports.get(&port) {
                    here.iter().for_each(|position| visit(*position, via));
                }
            }
            None => self
                .ports
                .values()
                .flatten()
                .for_each(|position| visit(*position, via)),
        }
    }
}

impl Index {
    /// The index of some of a policy's rules.
    pub(crate) fn new(rules: &[Rule], positions: &[Position]) -> Self {
        let mut index = Self::default();
        for &position in positions {
            let Some(rule) = usize::try_from(position).ok().and_then(|n| rules.get(n)) else {
                continue;
            };
            index.add(position, rule);
        }
        // The longest first: the narrowest rules are the likeliest to match.
        index
            .ranges
            .sort_by_key(|(_, length, _)| std::cmp::Reverse(*length));
        index
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
    /// than once. `port`: only those that may be for it.
    pub(crate) fn visit(
        &self,
        host: Option<&HostName>,
        ip: Option<IpAddr>,
        port: Option<u16>,
        visit: &mut impl FnMut(Position, Via),
    ) {
        self.anywhere.visit(port, Via::Anywhere, visit);
        if let Some(name) = host {
            if let Some(bucket) = self.exact.get(name.as_str()) {
                bucket.visit(port, Via::Host, visit);
            }
            if !self.below.is_empty() {
                let mut rest = name.as_str();
                while let Some((_, suffix)) = rest.split_once('.') {
                    if let Some(bucket) = self.below.get(suffix) {
                        bucket.visit(port, Via::Host, visit);
                    }
                    rest = suffix;
                }
            }
        }
        if let Some(ip) = ip {
            self.visit_ranges(IpNet::from(ip), port, visit);
        }
    }

    /// Visits the rules of which a range holds all of `net`.
    pub(crate) fn visit_ranges(
        &self,
        net: IpNet,
        port: Option<u16>,
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
                bucket.visit(port, Via::Range, visit);
            }
        }
    }

    /// Visits the rules that match any destination.
    pub(crate) fn visit_anywhere(&self, visit: &mut impl FnMut(Position, Via)) {
        self.anywhere.visit(None, Via::Anywhere, visit);
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
