//! An agent's share of the record.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use agentguard_model::AgentName;
use agentguard_model::record::AgentShare;

/// How much of the record one agent may fill. Over it, its denials are counted together by reason
/// and its allows are refused; other agents are not affected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    /// Entries a second, in the long run. At least 1.
    pub entries_per_second: u32,
    /// Entries at once, after a rest.
    pub burst: u32,
    /// Bytes in 24 hours: a full day's worth at once, then as it comes back. At least 1.
    pub bytes_per_day: u64,
}

impl Default for Quota {
    fn default() -> Self {
        AgentShare::default().into()
    }
}

impl From<AgentShare> for Quota {
    fn from(share: AgentShare) -> Self {
        Self {
            entries_per_second: share.per_second,
            burst: share.at_once,
            bytes_per_day: share.bytes_per_day,
        }
    }
}

const SECOND: u128 = Duration::from_secs(1).as_nanos();

/// How many agents are remembered. The one that has been idle longest is forgotten for a new one,
/// which gives it a fresh share; agents are named by the policy, so no agent can bring this about.
const AGENTS: usize = 4096;

/// A generic cell rate algorithm (ITU-T I.371): `until` is when all that was taken is paid back, in
/// ns since the beginning.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    until: u128,
}

impl Cell {
    /// What `until` becomes by taking `cost`, if `room` allows it; all in ns.
    fn taken(self, now: u128, cost: u128, room: u128) -> Option<u128> {
        let until = self.until.max(now) + cost;
        (until - now <= room.max(cost)).then_some(until)
    }
}

/// The shares of all agents.
#[derive(Debug)]
pub(crate) struct Quotas {
    quota: Quota,
    begin: Instant,
    agents: HashMap<Option<AgentName>, (Cell, Cell)>,
    limit: usize,
}

impl Quotas {
    pub(crate) fn new(quota: Quota, begin: Instant) -> Self {
        Self {
            quota,
            begin,
            agents: HashMap::new(),
            limit: AGENTS,
        }
    }

    /// Takes one entry of `bytes` from an agent's share, if there is enough left. What belongs to
    /// no agent has a share of its own.
    pub(crate) fn take(&mut self, agent: Option<&AgentName>, bytes: u64, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.begin).as_nanos();
        let agent = agent.cloned();
        if self.agents.len() >= self.limit && !self.agents.contains_key(&agent) {
            let idle = self
                .agents
                .iter()
                .min_by_key(|(_, (entries, bytes))| entries.until.max(bytes.until))
                .map(|(agent, _)| agent.clone());
            if let Some(idle) = idle {
                self.agents.remove(&idle);
            }
        }
        let (entries, space) = self.agents.entry(agent).or_default();
        let per_entry = SECOND / u128::from(self.quota.entries_per_second.max(1));
        let day = 86_400 * SECOND;
        let cost = u128::from(bytes) * day / u128::from(self.quota.bytes_per_day.max(1));
        let taken = entries
            .taken(now, per_entry, per_entry * u128::from(self.quota.burst))
            .zip(space.taken(now, cost, day));
        match taken {
            Some((one, other)) => {
                entries.until = one;
                space.until = other;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use agentguard_model::AgentName;

    use super::{Quota, Quotas};

    fn name(text: &str) -> AgentName {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_then_the_rate_and_another_agent_is_not_affected() {
        let begin = Instant::now();
        let quota = Quota {
            entries_per_second: 10,
            burst: 5,
            bytes_per_day: 1 << 30,
        };
        let mut quotas = Quotas::new(quota, begin);
        let (a, b) = (name("a"), name("b"));
        let taken = (0..100).filter(|_| quotas.take(Some(&a), 1, begin)).count();
        assert_eq!(taken, 5);
        assert!(quotas.take(Some(&b), 1, begin));
        assert!(quotas.take(None, 1, begin));
        let later = begin + Duration::from_millis(250);
        let taken = (0..100).filter(|_| quotas.take(Some(&a), 1, later)).count();
        assert_eq!(taken, 2);
    }

    #[test]
    fn bytes_of_a_day() {
        let begin = Instant::now();
        let quota = Quota {
            entries_per_second: 1_000_000,
            burst: 1_000_000,
            bytes_per_day: 86_400,
        };
        let mut quotas = Quotas::new(quota, begin);
        let a = name("a");
        assert!(quotas.take(Some(&a), 86_000, begin));
        assert!(!quotas.take(Some(&a), 500, begin));
        assert!(quotas.take(Some(&a), 400, begin));
        assert!(!quotas.take(Some(&a), 1, begin));
        assert!(quotas.take(Some(&a), 10, begin + Duration::from_secs(10)));
    }

    #[test]
    fn a_full_table_forgets_the_idlest() {
        let begin = Instant::now();
        let quota = Quota {
            entries_per_second: 1,
            burst: 1,
            bytes_per_day: 1 << 30,
        };
        let mut quotas = Quotas::new(quota, begin);
        quotas.limit = 2;
        let later = begin + Duration::from_millis(500);
        assert!(quotas.take(Some(&name("a")), 1, begin));
        assert!(quotas.take(Some(&name("b")), 1, later));
        assert!(quotas.take(Some(&name("c")), 1, later));
        assert!(!quotas.take(Some(&name("b")), 1, later));
        assert_eq!(quotas.agents.len(), 2);
    }
}
