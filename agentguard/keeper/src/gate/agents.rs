//! Agents: their cgroups, and what each has of the maps that all share.
//!
//! An agent's counters and budget are made with its first cgroup and go with its last, and with them
//! what it has published: agents that come and go leave nothing behind.

use agentguard_common::map::{AgentEntry, Budget, Counters, SlotKey, pending};
use aya::maps::{MapError, PerCpuValues};
use aya::util::nr_cpus;

use super::{Gate, GateError, ignore_absent, map_error};

/// Whose budget it is that belongs to no agent.
const NOBODY: u32 = 0;

impl Gate {
    /// Makes a cgroup subtree an agent's, or changes what the gate knows of that agent.
    ///
    /// # Errors
    /// [`GateError::Map`]; [`GateError::Sys`] if nobody tells how many processors there are.
    pub fn put_agent(&mut self, cgroup: u64, agent: &AgentEntry) -> Result<(), GateError> {
        let written = self.make_room(agent.agent).and_then(|()| {
            self.patience
                .write(|| self.agents.insert(cgroup, agent, 0))
                .map_err(map_error("write", "AGENTS"))
        });
        if let Err(error) = written {
            // What was made for its first cgroup goes with it.
            self.forget_departed(agent.agent)?;
            return Err(error);
        }
        match self.cgroups.insert(cgroup, agent.agent) {
            Some(before) if before == agent.agent => Ok(()),
            before => {
                *self.holdings.entry(agent.agent).or_default() += 1;
                before.map_or(Ok(()), |before| self.let_go(before))
            }
        }
    }

    /// Forgets whose a cgroup subtree is: under the gate it gets nothing from then on.
    ///
    /// # Errors
    /// [`GateError::Map`]. A cgroup that is not there is none.
    pub fn remove_agent(&mut self, cgroup: u64) -> Result<(), GateError> {
        ignore_absent(self.agents.remove(&cgroup), "AGENTS")?;
        match self.cgroups.remove(&cgroup) {
            Some(agent) => self.let_go(agent),
            None => Ok(()),
        }
    }

    /// An agent has one cgroup less.
    fn let_go(&mut self, agent: u32) -> Result<(), GateError> {
        if let Some(held) = self.holdings.get_mut(&agent) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.holdings.remove(&agent);
            }
        }
        self.forget_departed(agent)
    }

    /// Takes over the agents of an earlier daemon, and forgets what is left of those that are gone.
    pub(super) fn take_over_agents(&mut self) -> Result<(), GateError> {
        let agents = self.agents()?.into_iter();
        self.cgroups = agents.map(|(id, entry)| (id, entry.agent)).collect();
        for agent in self.cgroups.values() {
            *self.holdings.entry(*agent).or_default() += 1;
        }
        self.make_room(NOBODY)?;
        let budgets = self.budgets.keys().collect::<Result<Vec<u32>, _>>();
        for agent in budgets.map_err(map_error("read", "BUDGETS"))? {
            self.forget_departed(agent)?;
        }
        Ok(())
    }

    fn make_room(&mut self, agent: u32) -> Result<(), GateError> {
        if absent(self.budgets.get(&agent, 0), "BUDGETS")? {
            self.patience
                .write(|| self.budgets.insert(agent, Budget::default(), 0))
                .map_err(map_error("write", "BUDGETS"))?;
        }
        if agent != NOBODY && absent(self.counters.get(&agent, 0), "COUNTERS")? {
            let sys = |source| GateError::Sys {
                what: "count the processors",
                source,
            };
            let processors = nr_cpus().map_err(|(_, source)| sys(source))?;
            self.patience
                .write(|| {
                    let zeroes = PerCpuValues::try_from(vec![Counters::default(); processors]);
                    self.counters.insert(agent, zeroes?, 0)
                })
                .map_err(map_error("write", "COUNTERS"))?;
        }
        Ok(())
    }

    /// Forgets what an agent has in the shared maps, if it has no cgroup any more.
    fn forget_departed(&mut self, agent: u32) -> Result<(), GateError> {
        if agent == NOBODY || self.holdings.contains_key(&agent) {
            return Ok(());
        }
        let budget = match self.budgets.get(&agent, 0) {
            Ok(budget) => budget,
            Err(MapError::KeyNotFound) => Budget::default(),
            Err(source) => return Err(map_error("read", "BUDGETS")(source)),
        };
        // Without a budget nothing of the agent's is published any more.
        ignore_absent(self.budgets.remove(&agent), "BUDGETS")?;
        ignore_absent(self.counters.remove(&agent), "COUNTERS")?;
        for (kind, next) in (0_u32..).zip(budget.next) {
            let slots = pending::slots(kind);
            // Slots beyond the first that was never taken were not either.
            let taken = u32::try_from(next).map_or(slots, |next| next.min(slots));
            for number in 0..taken {
                let slot = kind << 16 | number;
                self.empty(&SlotKey { agent, slot })?;
            }
        }
        Ok(())
    }

    /// Takes what it is taken for out of a slot.
    fn empty(&mut self, slot: &SlotKey) -> Result<(), GateError> {
        let Ok(key) = self.slots.get(slot, 0) else {
            return Ok(());
        };
        ignore_absent(self.slots.remove(slot), "SLOTS")?;
        let (map, name) = if slot.slot >> 16 == pending::CONNECTION {
            (&mut self.origins, "ORIGINS")
        } else {
            (&mut self.queries, "QUERIES")
        };
        if map
            .get(&key, 0)
            .is_ok_and(|origin| origin.agent == slot.agent)
        {
            ignore_absent(map.remove(&key), name)?;
        }
        Ok(())
    }
}

fn absent<T>(found: Result<T, MapError>, map: &'static str) -> Result<bool, GateError> {
    match found {
        Ok(_) => Ok(false),
        Err(MapError::KeyNotFound) => Ok(true),
        Err(source) => Err(map_error("read", map)(source)),
    }
}
