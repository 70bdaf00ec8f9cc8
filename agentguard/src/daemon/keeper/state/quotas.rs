//! Quotas: the kernel is told how far agents may go, and what they have used is kept.

use std::path::PathBuf;

use agentguard_keeper::message::QuotaState;
use agentguard_keeper::sockets::{self, OldSocket};
use agentguard_model::{AgentId, AgentName, Mode, Quota};
use jiff::Timestamp;

use super::super::{Shared, lock};
use super::Keeper;

impl Keeper {
    /// Tells the kernel of the quotas of all agents that the policy has. Before it is told which agents have one:
    /// without its quota such an agent gets nothing.
    ///
    /// # Errors
    /// Some are as they were. What cannot be written down is told in the log.
    pub(super) fn write_quotas(&mut self) -> anyhow::Result<()> {
        self.look_at_quotas(true).map(drop)
    }

    /// Adds what was used, and begins windows that it is time for.
    pub(super) fn follow_quotas(&mut self) -> anyhow::Result<()> {
        match self.look_at_quotas(false)? {
            // By the file that is there a daemon would begin the window once more.
            true => self.quotas.write(),
            false => self.quotas.write_lately(),
        }
    }

    /// Whether something has begun anew.
    fn look_at_quotas(&mut self, all: bool) -> anyhow::Result<bool> {
        let mut anew = false;
        let policy = self.policy.clone();
        let now = Timestamp::now();
        let born_ns = u64::try_from(now.as_nanosecond()).unwrap_or_default();
        for agent in policy.agents() {
            let Some(quota) = &agent.quota else {
                continue;
            };
            let id = self.registry.number(&agent.name)?;
            let usage = self.gate.usage(id.0, born_ns)?;
            let (marks, changed) = self.quotas.follow(&agent.name, quota, &usage, now);
            anew |= changed;
            if all || changed {
                self.gate.put_quota(id.0, &marks)?;
            }
            let enforced = agent.mode == Mode::Enforce;
            if enforced && self.quotas.is_to_end(&agent.name, &marks, &usage) {
                tracing::warn!(agent = %agent.name, "the bytes of its quota are used up: its flows are ended");
                self.spent.push(id);
            }
        }
        Ok(anew)
    }

    /// Forgets the quotas of agents that have none any more. After the kernel was told that they have none.
    pub(super) fn forget_quotas(&mut self) -> anyhow::Result<()> {
        let policy = self.policy.clone();
        let has_quota = |name: &AgentName| {
            let agent = policy.agent(name);
            agent.is_some_and(|agent| agent.quota.is_some())
        };
        for id in self.gate.metered()? {
            if !self.registry.name(AgentId(id)).is_some_and(has_quota) {
                self.gate.remove_quota(id)?;
            }
        }
        self.quotas.keep(has_quota);
        self.write_down_quotas();
        Ok(())
    }

    /// Writes down what was used, wherever it can be.
    pub(in super::super) fn write_down_quotas(&mut self) {
        if let Err(error) = self.quotas.write() {
            tracing::warn!(
                error = format!("{error:#}"),
                "what agents have used is not written down"
            );
        }
    }

    /// What an agent has used of its quota; and what it is, for those that have one.
    pub(super) fn quota_of(&self, name: &AgentName) -> Option<QuotaState> {
        let quota: &Quota = self.policy.agent(name)?.quota.as_ref()?;
        self.quotas.state(name, quota)
    }

    /// The agents whose bytes are gone and whose flows are not ended yet, with their cgroups.
    fn take_spent(&mut self) -> Vec<PathBuf> {
        let spent = std::mem::take(&mut self.spent);
        let of_spent = self.subtrees.values();
        let of_spent = of_spent.filter(|it| it.run == 0 && spent.contains(&it.agent));
        let mut cgroups: Vec<PathBuf> = of_spent.map(|it| it.path.clone()).collect();
        // What runs below a run's cgroup alone.
        let runs = self.subtrees.values();
        let runs = runs.filter(|it| it.run != 0 && spent.contains(&it.agent));
        cgroups.extend(runs.map(|it| it.path.clone()));
        cgroups
    }

    /// Whether a socket's packets count: what stays within the host and does not go to the guard may be the agent's own.
    fn is_metered(&self, told: &OldSocket) -> bool {
        let ports = [self.config.proxy_port, self.config.resolver_port];
        told.remote.is_some_and(|remote| {
            !remote.ip().to_canonical().is_loopback() || ports.contains(&remote.port())
        })
    }
}

/// Ends the flows of agents whose bytes are gone, on a thread of its own: their packets are dropped already, and
/// their programs would wait for minutes to be told.
pub(in super::super) fn end(keeper: &Shared) {
    let cgroups = lock(keeper).take_spent();
    if cgroups.is_empty() {
        return;
    }
    let keeper = keeper.clone();
    let started = std::thread::Builder::new()
        .name("quota".into())
        .spawn(move || {
            let ended = sockets::destroy_connected(
                &cgroups,
                &|connection| lock(&keeper).is_metered(&connection.told),
                &|told| lock(&keeper).is_metered(told),
            );
            for failure in &ended.failures {
                tracing::warn!("{failure}");
            }
            tracing::info!(flows = ended.sockets, "flows ended for want of bytes");
        });
    if let Err(error) = started {
        tracing::warn!(%error, "flows without bytes are left to the gate");
    }
}
