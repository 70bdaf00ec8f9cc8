//! Address rules in the gate: agents with the same rules share one set.

use std::collections::HashMap;

use agentguard_keeper::gate::{Gate, GateError, Network};
use agentguard_model::AgentName;
use agentguard_policy::{AgentPolicy, Policy};

/// The set of an agent that the policy does not know: nothing matches, so everything is denied.
pub(super) const NOTHING: u32 = 0;

/// The sets of one policy.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    sets: HashMap<Vec<Network>, u32>,
    last: u32,
    /// The version of the policy that was asked last, and which set each agent has by it: working a set out
    /// takes the longer the more rules there are, and each run asks.
    version: String,
    known: HashMap<AgentName, u32>,
}

impl Profiles {
    /// Numbers for the sets of a new policy begin above those of the old one, which are in use until
    /// each agent was moved.
    pub(super) fn after(old: &Self) -> Self {
        Self::above(old.last)
    }

    /// The same, for the sets that an earlier daemon left in the gate.
    pub(super) fn above(last: u32) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    /// Gives no number again that these sets have had.
    pub(super) fn skip(&mut self, others: &Self) {
        self.last = others.last;
    }

    /// The set for an agent's rules; written to the gate if it is new.
    pub(super) fn profile(
        &mut self,
        gate: &mut Gate,
        policy: &Policy,
        agent: &AgentPolicy,
    ) -> Result<u32, GateError> {
        if self.version != policy.version() {
            self.known.clear();
            policy.version().clone_into(&mut self.version);
        }
        if let Some(number) = self.known.get(&agent.name) {
            return Ok(*number);
        }
        let number = self.worked_out(gate, policy, agent)?;
        self.known.insert(agent.name.clone(), number);
        Ok(number)
    }

    fn worked_out(
        &mut self,
        gate: &mut Gate,
        policy: &Policy,
        agent: &AgentPolicy,
    ) -> Result<u32, GateError> {
        let networks: Vec<Network> = policy
            .network_rules(agent)
            .into_iter()
            .map(|(network, rules)| Network {
                address: network.network(),
                prefix: network.prefix_len(),
                rules,
            })
            .collect();
        if let Some(number) = self.sets.get(&networks) {
            return Ok(*number);
        }
        self.last = self.last.checked_add(1).unwrap_or(NOTHING + 1);
        if let Err(error) = gate.put_networks(self.last, &networks) {
            // A part of it is in nobody's use, and in the way where the map is full.
            gate.put_networks(self.last, &[])?;
            return Err(error);
        }
        self.sets.insert(networks, self.last);
        Ok(self.last)
    }

    /// Removes every other set from the gate, once no agent uses one.
    pub(super) fn remove_others(&self, gate: &mut Gate) -> Result<(), GateError> {
        let kept: Vec<u32> = self.sets.values().copied().collect();
        gate.keep_networks(&kept)
    }
}
