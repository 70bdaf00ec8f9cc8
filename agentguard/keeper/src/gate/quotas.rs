//! Quotas of agents: how far each may go, which the keeper says, and how far it has come, which the kernel counts.
//!
//! The keeper writes no count. An entry of counts is made once and stays, whatever becomes of the limits, until the
//! agent has none any more.

use agentguard_common::quota::{Quota, UNLIMITED, Usage};
use aya::maps::MapError;

use super::{Gate, GateError, ignore_absent, map_error};

impl Gate {
    /// What an agent has used. Where nothing was counted so far it is from now on, in an entry that bears `born_ns`.
    ///
    /// # Errors
    /// [`GateError::Map`], [`GateError::Full`].
    pub fn usage(&mut self, agent: u32, born_ns: u64) -> Result<Usage, GateError> {
        if let Some(usage) = self.counted(agent)? {
            return Ok(usage);
        }
        let usage = Usage {
            born_ns,
            // Of no limit, and so of none that there is, a refusal was told.
            told_sent: UNLIMITED,
            told_received: UNLIMITED,
            ..Usage::default()
        };
        self.patience
            .write(|| self.usage.insert(agent, usage, 0))
            .map_err(map_error("write", "USAGE"))?;
        Ok(usage)
    }

    /// What was counted of an agent, if anything is.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn counted(&self, agent: u32) -> Result<Option<Usage>, GateError> {
        match self.usage.get(&agent, 0) {
            Ok(usage) => Ok(Some(usage)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(map_error("read", "USAGE")(source)),
        }
    }

    /// Says how far an agent may go. It is held to it where its entry has `agent_flag::METERED`.
    ///
    /// # Errors
    /// [`GateError::Map`], [`GateError::Full`].
    pub fn put_quota(&mut self, agent: u32, quota: &Quota) -> Result<(), GateError> {
        self.patience
            .write(|| self.quotas.insert(agent, quota, 0))
            .map_err(map_error("write", "QUOTAS"))
    }

    /// Forgets an agent's quota and counts. An agent whose entry says that it has a quota gets nothing then.
    ///
    /// # Errors
    /// [`GateError::Map`]. What is not there is none.
    pub fn remove_quota(&mut self, agent: u32) -> Result<(), GateError> {
        ignore_absent(self.quotas.remove(&agent), "QUOTAS")?;
        ignore_absent(self.usage.remove(&agent), "USAGE")
    }

    /// Whose quotas and counts there are, also those of an earlier daemon.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn metered(&self) -> Result<Vec<u32>, GateError> {
        let quotas = self.quotas.keys();
        let quotas = quotas.collect::<Result<Vec<u32>, _>>();
        let mut agents = quotas.map_err(map_error("read", "QUOTAS"))?;
        let usage = self.usage.keys().collect::<Result<Vec<u32>, _>>();
        agents.extend(usage.map_err(map_error("read", "USAGE"))?);
        agents.sort_unstable();
        agents.dedup();
        Ok(agents)
    }
}
