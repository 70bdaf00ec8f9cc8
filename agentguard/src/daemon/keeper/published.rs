//! The addresses that were answered to agents, in the gate.
//!
//! The worker asks; the keeper looks at its own policy and writes what that says, so that a worker
//! that was taken over can publish no name that the policy does not allow, and none of the addresses
//! that the rebinding guard keeps closed. Which public address a name has is the worker's word: it
//! has asked, and it could as well go there itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_common::address::Address;
use agentguard_common::map::{NameEntry, NameKey, PORT_RULES, PortRule, PortRules, TCP, effect};
use agentguard_keeper::gate::{Gate, GateError};
use agentguard_model::{AgentId, HostName, Mode};
use agentguard_names::guard;
use agentguard_policy::{Addresses, AgentPolicy, Policy};

/// Addresses answered to one agent, at most. Beyond that a name is refused to it until real ones
/// expire: one agent cannot fill the gate's map.
const PER_AGENT: usize = 65_536;

/// Addresses of one name, at most: as many as an agent is answered of one family.
const PER_NAME: usize = 256;

/// Real addresses whose time is over, of one agent, that are still known by name: what was dialled there goes on. Of
/// more, the oldest are forgotten.
const PAST: usize = 256;

/// How long a real address stands for a name, at most.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What an address was answered for.
#[derive(Debug)]
struct Entry {
    name: HostName,
    /// The name's validated real addresses.
    real: Arc<[IpAddr]>,
    /// When a real address that was answered itself stops to mean the name.
    expires: Option<Instant>,
}

/// What the worker asks to publish.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) agent: AgentId,
    pub(super) name: HostName,
    pub(super) virtual_addresses: Vec<IpAddr>,
    pub(super) real: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

impl Request {
    /// The worker's lists are copied and compared: they are as long as a name's can be, at most.
    fn check_size(&self) -> Result<(), PublishRefused> {
        if self.real.len() > PER_NAME || self.virtual_addresses.len() > PER_NAME {
            return Err(PublishRefused::TooMany(self.name.clone()));
        }
        Ok(())
    }

    /// How long its real addresses stand for the name. The worker can say any time, and time has an
    /// end.
    fn lifetime(&self) -> Duration {
        self.ttl.min(LONGEST)
    }
}

/// The gate's map of answered addresses.
pub(super) trait NameMap {
    /// Every address in it.
    fn names(&self) -> Result<Vec<NameKey>, GateError>;
    /// Writes what an address stands for.
    fn put_name(&mut self, key: &NameKey, entry: &NameEntry) -> Result<(), GateError>;
    /// Forgets an address, where it is there.
    fn remove_name(&mut self, key: &NameKey) -> Result<(), GateError>;
}

impl NameMap for Gate {
    fn names(&self) -> Result<Vec<NameKey>, GateError> {
        Self::names(self)
    }

    fn put_name(&mut self, key: &NameKey, entry: &NameEntry) -> Result<(), GateError> {
        Self::put_name(self, key, entry)
    }

    fn remove_name(&mut self, key: &NameKey) -> Result<(), GateError> {
        Self::remove_name(self, key)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Published {
    entries: HashMap<NameKey, Entry>,
    per_agent: HashMap<u32, usize>,
    /// Real addresses whose time is over, by agent, the oldest first.
    past: HashMap<u32, VecDeque<(Address, HostName)>>,
}

/// Why the keeper does not publish.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishRefused {
    /// The keeper's policy denies the name.
    #[error("the policy does not allow {0}")]
    Name(HostName),
    /// An address is not what it is said to be.
    #[error("{0} may not stand for {1}")]
    Address(IpAddr, HostName),
    /// The agent has too many.
    #[error("the agent was answered {PER_AGENT} addresses already")]
    Full,
    /// More than a name can have.
    #[error("{0} has more than {PER_NAME} addresses")]
    TooMany(HostName),
    /// The gate's map cannot be written.
    #[error(transparent)]
    Gate(#[from] GateError),
}

/// What stands behind every pinned entry until the worker that knows its name has said it again:
/// the proxy decides.
const TO_PROXY: PortRules = {
    const NONE: PortRule = PortRule {
        rule: 0,
        first: 0,
        last: 0,
        transports: 0,
        effect: effect::DENY,
        flags: 0,
        _pad: 0,
    };
    let mut rules = [NONE; PORT_RULES];
    rules[0] = PortRule {
        last: u16::MAX,
        transports: TCP,
        effect: effect::PROXY,
        ..NONE
    };
    rules
};

impl Published {
    /// Takes over what an earlier daemon left pinned: of a virtual address nothing but the proxy is
    /// known, a real one means nothing any more.
    pub(super) fn take_over(gate: &mut impl NameMap) -> Result<Self, GateError> {
        for key in gate.names()? {
            if key.address.is_virtual() {
                let entry = NameEntry {
                    real: Address::UNSPECIFIED,
                    rules: TO_PROXY,
                };
                gate.put_name(&key, &entry)?;
            } else {
                gate.remove_name(&key)?;
            }
        }
        Ok(Self::default())
    }

    /// The name that an address stands for to an agent, or stood for.
    pub(super) fn name_of(&self, agent: AgentId, address: Address) -> Option<HostName> {
        let key = NameKey {
            agent: agent.0,
            address,
        };
        let past = || self.past_of(agent).rev().find(|(at, _)| *at == address);
        match self.entries.get(&key) {
            Some(entry) => Some(entry.name.clone()),
            None => past().map(|(_, name)| name.clone()),
        }
    }

    fn past_of(&self, agent: AgentId) -> impl DoubleEndedIterator<Item = &(Address, HostName)> {
        self.past.get(&agent.0).into_iter().flatten()
    }

    /// The names that were answered to an agent and are at a real address, or were.
    pub(super) fn names_at(&self, agent: AgentId, real: IpAddr) -> HashSet<HostName> {
        let of = self.entries.iter().filter(|(key, _)| key.agent == agent.0);
        let there = of.filter(|(_, entry)| entry.real.contains(&real));
        let past = self
            .past_of(agent)
            .filter(|(at, _)| IpAddr::from(*at) == real);
        there
            .map(|(_, entry)| entry.name.clone())
            .chain(past.map(|(_, name)| name.clone()))
            .collect()
    }

    /// Checks and publishes.
    pub(super) fn publish(
        &mut self,
        gate: &mut impl NameMap,
        policy: &Policy,
        agent: &AgentPolicy,
        request: &Request,
    ) -> Result<(), PublishRefused> {
        let name = &request.name;
        request.check_size()?;
        let ruling = policy.decide_name(agent, name);
        if !ruling.allowed {
            return Err(PublishRefused::Name(name.clone()));
        }
        let observing = agent.mode != Mode::Enforce;
        let examined = guard::examine(request.real.iter().copied(), &ruling.ranges, observing);
        if let Some((address, _)) = examined.denied.first() {
            return Err(PublishRefused::Address(*address, name.clone()));
        }
        if let Some(address) = request
            .virtual_addresses
            .iter()
            .find(|address| !Address::from(**address).is_virtual())
        {
            return Err(PublishRefused::Address(*address, name.clone()));
        }
        let virtual_ = ruling.addresses == Addresses::Virtual;
        let answered = if virtual_ {
            &request.virtual_addresses
        } else {
            &examined.fine
        };
        let real: Arc<[IpAddr]> = examined.fine.as_slice().into();
        let expires = Instant::now() + request.lifetime();
        for address in answered {
            let key = NameKey {
                agent: request.agent.0,
                address: Address::from(*address),
            };
            let count = self.per_agent.entry(key.agent).or_default();
            if !self.entries.contains_key(&key) {
                if *count >= PER_AGENT {
                    return Err(PublishRefused::Full);
                }
                *count += 1;
            }
            let entry = Entry {
                name: name.clone(),
                real: Arc::clone(&real),
                expires: (!virtual_).then_some(expires),
            };
            gate.put_name(&key, &gate_entry(policy, agent, &key, &entry))?;
            self.entries.insert(key, entry);
        }
        Ok(())
    }

    /// Forgets an address for every agent.
    pub(super) fn retire(
        &mut self,
        gate: &mut impl NameMap,
        address: IpAddr,
    ) -> Result<(), GateError> {
        let address = Address::from(address);
        self.remove(gate, |key, _| key.address == address)?;
        // Those of an earlier daemon are in the gate only.
        for key in gate.names()? {
            if key.address == address {
                gate.remove_name(&key)?;
            }
        }
        Ok(())
    }

    /// Forgets real addresses whose time is over.
    pub(super) fn expire(
        &mut self,
        gate: &mut impl NameMap,
        now: Instant,
    ) -> Result<(), GateError> {
        let over = |entry: &Entry| entry.expires.is_some_and(|at| at <= now);
        for (key, entry) in self.entries.iter().filter(|(_, entry)| over(entry)) {
            let past = self.past.entry(key.agent).or_default();
            past.retain(|(address, _)| *address != key.address);
            if past.len() >= PAST {
                past.pop_front();
            }
            past.push_back((key.address, entry.name.clone()));
        }
        self.remove(gate, |_, entry| over(entry))
    }

    /// Writes every entry as a new policy has it. What it denies by name stays with lines that deny,
    /// so that the record tells the rule; a real address in a range that the policy permits no
    /// longer is forgotten. So is what cannot be written: it would keep the rules from before.
    ///
    /// # Errors
    /// The first; all others are written.
    pub(super) fn renew<'a>(
        &mut self,
        gate: &mut impl NameMap,
        policy: &'a Policy,
        agent: impl Fn(AgentId) -> Option<&'a AgentPolicy>,
    ) -> Result<(), GateError> {
        let mut gone = HashSet::new();
        let mut written = Ok(());
        for (key, entry) in &mut self.entries {
            let Some(agent) = agent(AgentId(key.agent)) else {
                gone.insert(*key);
                continue;
            };
            let ranges = policy.decide_name(agent, &entry.name).ranges;
            let observing = agent.mode != Mode::Enforce;
            let real = entry.real.iter().copied();
            entry.real = guard::examine(real, &ranges, observing).fine.into();
            let dialled = IpAddr::from(key.address);
            if key.address.is_virtual() || entry.real.contains(&dialled) {
                let put = gate.put_name(key, &gate_entry(policy, agent, key, entry));
                if put.is_err() {
                    gone.insert(*key);
                }
                written = written.and(put);
            } else {
                gone.insert(*key);
            }
        }
        self.past.retain(|id, _| agent(AgentId(*id)).is_some());
        let removed = self.remove(gate, |key, _| gone.contains(key));
        written.and(removed)
    }

    /// # Errors
    /// The first; all others are removed.
    fn remove(
        &mut self,
        gate: &mut impl NameMap,
        gone: impl Fn(&NameKey, &Entry) -> bool,
    ) -> Result<(), GateError> {
        let gone: Vec<NameKey> = self
            .entries
            .iter()
            .filter(|(key, entry)| gone(key, entry))
            .map(|(key, _)| *key)
            .collect();
        let mut removed = Ok(());
        for key in gone {
            if let Err(error) = gate.remove_name(&key) {
                removed = removed.and(Err(error));
                continue;
            }
            self.entries.remove(&key);
            if let Some(count) = self.per_agent.get_mut(&key.agent) {
                *count = count.saturating_sub(1);
            }
        }
        removed
    }
}

/// What the policy has the kernel do at an answered address. Where a name's rules depend on the
/// address behind it, they are those for the one address that is dialled.
fn gate_entry(policy: &Policy, agent: &AgentPolicy, key: &NameKey, entry: &Entry) -> NameEntry {
    let dialled = if key.address.is_virtual() {
        entry
            .real
            .iter()
            .copied()
            .find(|address| Address::from(*address).is_v4() == key.address.is_v4())
    } else {
        Some(IpAddr::from(key.address))
    };
    NameEntry {
        real: match dialled {
            Some(real) if key.address.is_virtual() => Address::from(real),
            _ => Address::UNSPECIFIED,
        },
        rules: match dialled {
            Some(real) => policy.name_rules_at(agent, &entry.name, real),
            None => policy.name_rules(agent, &entry.name),
        },
    }
}

#[cfg(test)]
mod tests;
