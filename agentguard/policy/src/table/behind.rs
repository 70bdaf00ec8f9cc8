//! The address behind a name where a test does not say it: one that no rule speaks of, if there is one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::Attempt;
use crate::agent::AgentPolicy;
use crate::flow::Flow;
use crate::policy::Policy;
use crate::rule::{Rule, bit};
use crate::special;

/// The most ranges of which an address is tried.
const TRIED: usize = 64;

/// Whether it matters which address is behind the name of a test that does not say it: denials speak of every
/// address of IPv4, which most names have, and the verdict on some is another than on one that no rule speaks of.
pub(super) fn matters(policy: &Policy, agent: &AgentPolicy, attempt: &Attempt) -> bool {
    let Some(flow) = attempt
        .flow()
        .filter(|it| it.host.is_some() && it.ip.is_none())
    else {
        return false;
    };
    let denied = denied(policy, agent, flow);
    if !is_everything(&denied) {
        return false;
    }
    let usual = attempt.decided_on(flow, policy, agent);
    let tried = denied.iter().filter_map(usual_of);
    let mut tried = tried.take(TRIED).map(|ip| Flow {
        ip: Some(ip),
        ..flow.clone()
    });
    tried.any(|flow| !attempt.decided_on(&flow, policy, agent).is_like(&usual))
}

/// The ranges of IPv4 of denials that may be about a flow.
fn denied(policy: &Policy, agent: &AgentPolicy, flow: &Flow) -> Vec<Ipv4Net> {
    let about =
        |rule: &&Rule| rule.ports.contains(flow.port) && rule.transports & bit(flow.transport) != 0;
    let indexes = agent.indexes.iter();
    let rules = indexes.flat_map(|index| index.address_denials());
    let rules = rules.filter_map(|position| policy.at(*position));
    let ranges = rules.filter(about).flat_map(|rule| rule.written_ranges());
    let ranges = ranges.filter_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    });
    // Each once.
    ranges.collect::<BTreeSet<_>>().into_iter().collect()
}

/// An address of a range, far from its ends, which are often like no other, and none that stays closed whatever
/// denials say: that of all addresses has loopback in its middle.
fn usual_of(net: &Ipv4Net) -> Option<IpAddr> {
    let halves = net.subnets((net.prefix_len() + 1).min(32)).ok();
    let nets = [*net].into_iter().chain(halves.into_iter().flatten());
    let mut middles = nets.map(|net| middle(&net));
    middles.find(|ip| special::hard(&(*ip).into()).is_none())
}

fn middle(net: &Ipv4Net) -> IpAddr {
    let half = !net.netmask().to_bits() / 2;
    IpAddr::V4((net.network().to_bits() | half).into())
}

fn is_everything(ranges: &[Ipv4Net]) -> bool {
    let size = |net: &Ipv4Net| 1_u64 << (32 - net.prefix_len().min(32));
    // Most are far from it, and to put many together takes long.
    ranges.iter().map(size).sum::<u64>() >= 1 << 32
        && Ipv4Net::aggregate(&ranges.to_vec()) == [Ipv4Net::default()]
}
