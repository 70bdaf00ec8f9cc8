//! What the kernel can decide alone, as lines of its maps.
//!
//! The lines say what [`Policy::decide`](crate::Policy::decide) says of a flow of which nothing
//! but destination, port and transport is known; whatever needs more goes to the proxy. Where the
//! eight lines of a destination do not suffice, the rest goes to the proxy as well.
//!
//! **Invariant:** no line lets pass directly what `decide` does not allow directly.

use std::collections::BTreeSet;
use std::net::IpAddr;

use agentguard_common::map::{PORT_RULES, PortRule, PortRules, TCP, UDP, effect, port_rule_flag};
use agentguard_model::HostName;
use ipnet::IpNet;

use crate::agent::AgentPolicy;
use crate::index::Position;
use crate::policy::Policy;
use crate::special::{self, Hard};
use crate::strategy::{Strategy, Towards};
use crate::sweep::{Active, Candidate, TRANSPORTS, sweep};

/// A range of addresses: what the destination of a line is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Closed {
    /// Open.
    No,
    /// Loopback: the kernel denies what no line allows.
    Loopback,
    /// Metadata: the last line denies, in every mode.
    Metadata,
}

impl Policy {
    /// The kernel's lines for a name answered to an agent, where its real address is not known.
    ///
    /// A denial by address (`cidr`) may match it once it is: what would be direct then goes to the
    /// proxy, and datagrams are denied. [`Self::name_rules_at`] knows better.
    #[must_use]
    pub fn name_rules(&self, agent: &AgentPolicy, name: &HostName) -> PortRules {
        let candidates = self.name_candidates(agent, name, None);
        self.lines(&candidates, agent, Closed::No)
    }

    /// The kernel's lines for a name answered to an agent whose flows go to `real`: the address
    /// behind a virtual one, or the answered one where names are answered with their own.
    #[must_use]
    pub fn name_rules_at(&self, agent: &AgentPolicy, name: &HostName, real: IpAddr) -> PortRules {
        let real = special::canonical(real);
        let candidates = self.name_candidates(agent, name, Some(real));
        self.lines(&candidates, agent, closed(&IpNet::from(real)))
    }

    /// The kernel's lines for bare addresses: for every range that a rule names, all rules that
    /// touch it, so that the longest prefix is the whole answer.
    ///
    /// IPv4 ranges are given as such. A range of IPv6 addresses that holds the mapped ones
    /// (`::ffff:0:0/96`) does not speak of IPv4; `0.0.0.0/0` is always among the ranges, so that
    /// it cannot.
    #[must_use]
    pub fn network_rules(&self, agent: &AgentPolicy) -> Vec<(IpNet, PortRules)> {
        let mut nets: BTreeSet<IpNet> = agent
            .indexes
            .iter()
            .flat_map(|index| index.ranges())
            .collect();
        nets.extend(everything());
        nets.extend(special::HARD.iter().map(|(_, net)| *net));
        nets.into_iter()
            .map(|net| {
                let candidates = self.net_candidates(agent, net);
                (net, self.lines(&candidates, agent, closed(&net)))
            })
            .collect()
    }

    /// The rules for a name, each once.
    pub(crate) fn name_candidates<'a>(
        &'a self,
        agent: &AgentPolicy,
        name: &HostName,
        real: Option<IpAddr>,
    ) -> Vec<Candidate<'a>> {
        let mut positions = BTreeSet::new();
        self.each(agent, Some(name), real, None, |position, _| {
            positions.insert(position);
        });
        let towards = Towards::Name(name, real);
        let mut candidates = self.candidates(&positions, towards, false);
        if real.is_none() {
            // By its address a denial may be more specific than by the name.
            let again = self.strategy() == Strategy::MostSpecificWins;
            let possible: BTreeSet<Position> = agent
                .indexes
                .iter()
                .flat_map(|index| index.address_denials())
                .copied()
                .filter(|position| again || !positions.contains(position))
                .collect();
            candidates.extend(self.candidates(&possible, Towards::Anything, true));
        }
        candidates
    }

    /// The rules for all addresses of a range, each once.
    fn net_candidates(&self, agent: &AgentPolicy, net: IpNet) -> Vec<Candidate<'_>> {
        let mut positions = BTreeSet::new();
        for index in &agent.indexes {
            let mut add = |position, _| {
                positions.insert(position);
            };
            index.visit_anywhere(&mut add);
            index.visit_ranges(net, None, None, &mut add);
        }
        let mut candidates = self.candidates(&positions, Towards::Addresses(net), false);
        if let Some((_, range)) = special::hard(&net) {
            candidates.retain(|candidate| {
                let names = |n: &IpNet| n.contains(&net) && range.contains(n);
                !candidate.rule.allows() || candidate.rule.cidrs.iter().any(names)
            });
        }
        candidates
    }

    /// The lines of one destination.
    fn lines(
        &self,
        candidates: &[Candidate<'_>],
        agent: &AgentPolicy,
        closed: Closed,
    ) -> PortRules {
        let (observes, ranks) = (agent.observes(), self.strategy().ranks());
        let [mut tcp, mut udp] = TRANSPORTS.map(|transport| {
            let mut lines: Vec<PortRule> = Vec::new();
            sweep(candidates, transport, ranks, |first, last, active| {
                if let Some(says) = says(active, transport, observes, closed) {
                    lines.push(PortRule {
                        rule: says.rule,
                        first,
                        last,
                        transports: transport,
                        effect: says.effect,
                        flags: says.flags,
                        _pad: 0,
                    });
                }
            });
            lines
        });
        join(&mut tcp, true);
        join(&mut udp, true);
        pack(tcp, udp, observes, closed)
    }

    fn candidates(
        &self,
        positions: &BTreeSet<Position>,
        towards: Towards<'_>,
        possible: bool,
    ) -> Vec<Candidate<'_>> {
        positions
            .iter()
            .filter_map(|&position| {
                self.at(position).map(|rule| Candidate {
                    position,
                    rule,
                    possible,
                    rank: self.strategy().rank(position, rule, towards),
                })
            })
            .collect()
    }
}

fn everything() -> [IpNet; 2] {
    [
        IpNet::V4(ipnet::Ipv4Net::default()),
        IpNet::V6(ipnet::Ipv6Net::default()),
    ]
}

fn closed(net: &IpNet) -> Closed {
    match special::hard(net) {
        None => Closed::No,
        Some((Hard::Loopback, _)) => Closed::Loopback,
        Some((Hard::Metadata, _)) => Closed::Metadata,
    }
}

struct Says {
    effect: u8,
    flags: u8,
    rule: u32,
}

/// What the kernel does with a run of ports; nothing is said where no line is needed.
fn says(active: &Active, transport: u8, observes: bool, closed: Closed) -> Option<Says> {
    let say = |effect, flags, position: Option<&Position>| {
        Some(Says {
            effect,
            flags,
            rule: position.map_or(0, |position| position.saturating_add(1)),
        })
    };
    let denial = active.denial();
    if !active.may_be_allowed() {
        // What nothing can allow. In enforce mode the line gives the denial its rule; in the other
        // modes it tells a denial by a rule from the absence of one. A closed range has its own.
        return match closed {
            Closed::No if observes && !active.unseen_denials.is_empty() && transport == TCP => {
                say(effect::PROXY, 0, active.unseen_denials.first())
            }
            Closed::No if denial.is_some() => say(effect::DENY, 0, denial),
            Closed::No if observes && !active.paper_denials.is_empty() => {
                say(effect::DENY, 0, active.paper_denials.first())
            }
            _ => None,
        };
    }
    if !observes && denial.is_some() {
        return say(effect::DENY, 0, denial);
    }
    for unseen in [&active.unseen_denials, &active.unseen_allowances] {
        if !unseen.is_empty() {
            return say(effect::PROXY, 0, unseen.first());
        }
    }
    if !active.proxied.is_empty() {
        return say(effect::PROXY, 0, active.proxied.first());
    }
    // The proxy sees the address that a name resolved to; a datagram has to do without.
    let possible = !active.possible_denials.is_empty();
    if transport == TCP && (possible || !active.possible_paper_denials.is_empty()) {
        return say(effect::PROXY, 0, active.direct.first());
    }
    if possible && !observes {
        return None;
    }
    let on_paper = denial.or_else(|| active.paper_denials.first());
    match on_paper {
        Some(_) => say(effect::DIRECT, port_rule_flag::SHADOW, on_paper),
        None => say(effect::DIRECT, 0, active.direct.first()),
    }
}

/// Joins neighbours that say the same; `exactly`: by the same rule.
fn join(lines: &mut Vec<PortRule>, exactly: bool) {
    lines.dedup_by(|next, line| {
        let same = line.last.checked_add(1) == Some(next.first)
            && (line.effect, line.flags) == (next.effect, next.flags)
            && (line.rule == next.rule || !exactly);
        if same {
            line.last = next.last;
            if line.rule != next.rule {
                line.rule = 0;
            }
        }
        same
    });
}

/// Fits the lines into the kernel's few.
fn pack(
    mut tcp: Vec<PortRule>,
    mut udp: Vec<PortRule>,
    observes: bool,
    closed: Closed,
) -> PortRules {
    let room = PORT_RULES - usize::from(closed == Closed::Metadata);
    let mut lines = merged(&tcp, &udp);
    if lines.len() > room && !observes {
        // What no line allows is denied as well, without the rule's number.
        for kind in [&mut tcp, &mut udp] {
            kind.retain(|line| line.effect != effect::DENY);
        }
        lines = merged(&tcp, &udp);
    }
    if lines.len() > room {
        join(&mut tcp, false);
        join(&mut udp, false);
        lines = merged(&tcp, &udp);
    }
    if lines.len() > room {
        // The proxy knows all rules, but takes TCP only: datagrams come first.
        udp.truncate(if tcp.is_empty() { room } else { room - 1 });
        lines = udp;
        if !tcp.is_empty() {
            tcp.truncate(room - 1 - lines.len());
            lines.extend(tcp);
            lines.push(everywhere(TCP, effect::PROXY, 0));
        }
    }
    if closed == Closed::Metadata {
        lines.push(everywhere(TCP | UDP, effect::DENY, port_rule_flag::HARD));
    }
    let mut rules = PortRules::default();
    for (slot, line) in rules.iter_mut().zip(lines) {
        *slot = line;
    }
    rules
}

/// Lines of both transports, those that say the same for both as one.
fn merged(tcp: &[PortRule], udp: &[PortRule]) -> Vec<PortRule> {
    let mut lines = tcp.to_vec();
    for line in udp {
        let twin = lines.iter_mut().find(|other| {
            PortRule {
                transports: line.transports,
                ..**other
            } == *line
        });
        match twin {
            Some(other) => other.transports |= line.transports,
            None => lines.push(*line),
        }
    }
    lines
}

const fn everywhere(transports: u8, effect: u8, flags: u8) -> PortRule {
    PortRule {
        rule: 0,
        first: 0,
        last: u16::MAX,
        transports,
        effect,
        flags,
        _pad: 0,
    }
}
