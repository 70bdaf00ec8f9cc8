//! Which of the rules that match one flow decides.
//!
//! With [`Strategy::DenyOverrides`] all of them count, and a denial beats every allowance. With the other
//! two each rule has a rank, and only those of the highest rank among them count; what is left is then
//! decided in the same way. A rule that looks at a request which was not seen counts as long as it
//! could still be of the highest rank.

use std::net::IpAddr;

use agentguard_model::HostName;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::index::Position;
use crate::pattern::HostPattern;
use crate::rule::Rule;

/// Which of the rules that match decides.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// A denial beats every allowance, and of allowances the most restrictive handling holds. The order
    /// of rules does not matter.
    #[default]
    DenyOverrides,
    /// The rule with the highest `priority`; among equals the one that stands first.
    PriorityFirstMatch,
    /// The rule that says most exactly what it is for: destination, then agents, then request, then
    /// ports. Among equals a denial beats an allowance.
    MostSpecificWins,
}

/// Where a rule stands among those that match the same flow; the highest counts.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Rank([u32; 4]);

/// What a flow goes to, as far as ranks depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Towards<'a> {
    /// A name, and with it the address behind it where one is known.
    Name(&'a HostName, Option<IpAddr>),
    /// A bare address, or a range of them.
    Addresses(IpNet),
    /// Nobody knows.
    Anything,
}

impl<'a> Towards<'a> {
    pub(crate) fn of(host: Option<&'a HostName>, ip: Option<IpAddr>) -> Self {
        match (host, ip) {
            (Some(name), ip) => Self::Name(name, ip),
            (None, Some(ip)) => Self::Addresses(ip.into()),
            (None, None) => Self::Anything,
        }
    }
}

/// Higher than that of any pattern of names or addresses.
const EXACT: u32 = 1_000;

/// That of the address behind a name.
const BEHIND: u32 = 1_001;

impl Strategy {
    /// Whether ranks matter.
    pub(crate) fn ranks(self) -> bool {
        self != Self::DenyOverrides
    }

    /// The rank of a rule that matches a destination. All are equal where ranks do not matter.
    pub(crate) fn rank(self, position: Position, rule: &Rule, towards: Towards<'_>) -> Rank {
        match self {
            Self::DenyOverrides => Rank::default(),
            Self::PriorityFirstMatch => {
                // The same order in numbers that are not negative.
                let priority = rule.priority.cast_unsigned() ^ (1 << 31);
                Rank([priority, u32::MAX - position, 0, 0])
            }
            Self::MostSpecificWins => Rank([
                destination(rule, towards),
                rule.agents.specificity(),
                rule.specificity(),
                rule.ports.specificity(),
            ]),
        }
    }
}

/// How exactly a rule names a destination that it matches.
fn destination(rule: &Rule, towards: Towards<'_>) -> u32 {
    match towards {
        _ if rule.anywhere() => 0,
        // What a name leads to is more exact than any name, and only a denial is there by it.
        Towards::Name(_, Some(ip)) if !rule.allows() && rule.matches_address(ip) => BEHIND,
        Towards::Name(name, _) => {
            let of = |pattern: &HostPattern| match pattern {
                HostPattern::Exact(_) => EXACT,
                HostPattern::Below(suffix) => labels(suffix),
            };
            let hosts = rule.hosts.iter().filter(|pattern| pattern.matches(name));
            hosts.map(of).max().unwrap_or(BEHIND)
        }
        Towards::Addresses(net) => {
            let ranges = rule.cidrs.iter().filter(|range| range.contains(&net));
            ranges.map(length).max().unwrap_or(EXACT)
        }
        Towards::Anything => BEHIND,
    }
}

fn labels(name: &HostName) -> u32 {
    let dots = name.as_str().bytes().filter(|byte| *byte == b'.').count();
    u32::try_from(dots).unwrap_or(u32::MAX).saturating_add(1)
}

/// The length of a prefix where IPv4 is mapped (RFC 4291 §2.5.5.2); that of one address is [`EXACT`].
fn length(net: &IpNet) -> u32 {
    match net {
        _ if net.prefix_len() == net.max_prefix_len() => EXACT,
        IpNet::V4(v4) => u32::from(v4.prefix_len()) + 97,
        IpNet::V6(v6) => u32::from(v6.prefix_len()) + 1,
    }
}

/// What of the rules that were met counts: see [`Standing::counts`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// The highest rank of a rule in force that matches, and whether a denial has it.
    top: Option<(Rank, bool)>,
}

impl Standing {
    /// Notes a rule in force that matches, whatever the request.
    pub(crate) fn note(&mut self, rank: Rank, denies: bool) {
        self.top = Some(match self.top {
            Some((top, also)) if top == rank => (top, also || denies),
            Some((top, also)) if top > rank => (top, also),
            _ => (rank, denies),
        });
    }

    /// Whether a rule in force of a higher rank matches, so that none of this rank counts.
    pub(crate) fn is_above(&self, rank: Rank) -> bool {
        self.top.is_some_and(|(top, _)| top > rank)
    }

    /// Whether a rule counts. `certain`: it matches whatever the request, or is only on paper.
    pub(crate) fn counts(&self, rank: Rank, denies: bool, certain: bool) -> bool {
        match self.top {
            None => true,
            Some((top, denied)) => rank > top || rank == top && (certain || denies || !denied),
        }
    }
}
