//! How much one agent may have under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentguard_model::AgentId;

/// Refusals of one agent that may wait for the record at once. Beyond, queries are dropped
/// unanswered and counted; the count is recorded as soon as one of the refusals is.
const MAX_REFUSING: usize = 8;

/// Work under way for each agent; senders who are no agent share one entry.
#[derive(Debug)]
pub(crate) struct Load {
    limit: usize,
    agents: Mutex<HashMap<Option<AgentId>, Count>>,
}

#[derive(Debug, Default)]
struct Count {
    working: usize,
    refusing: usize,
    dropped: u64,
}

/// What may be done with one more.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It may go on; it counts until this is dropped.
    Work(Working),
    /// It must be refused and recorded.
    Refuse(Refusing),
    /// It must be dropped; it has been counted.
    Drop,
}

#[derive(Debug)]
pub(crate) struct Working {
    load: Arc<Load>,
    agent: Option<AgentId>,
}

#[derive(Debug)]
pub(crate) struct Refusing {
    load: Arc<Load>,
    agent: Option<AgentId>,
}

impl Load {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            agents: Mutex::default(),
        })
    }

    pub(crate) fn admit(self: &Arc<Self>, agent: Option<AgentId>) -> Admission {
        let mut agents = self.agents();
        let count = agents.entry(agent).or_default();
        let load = Arc::clone(self);
        if count.working < self.limit {
            count.working += 1;
            Admission::Work(Working { load, agent })
        } else if count.refusing < MAX_REFUSING {
            count.refusing += 1;
            Admission::Refuse(Refusing { load, agent })
        } else {
            count.dropped += 1;
            Admission::Drop
        }
    }

    fn agents(&self) -> MutexGuard<'_, HashMap<Option<AgentId>, Count>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, agent: Option<AgentId>, change: impl FnOnce(&mut Count)) {
        let mut agents = self.agents();
        if let Some(count) = agents.get_mut(&agent) {
            change(count);
            if count.working == 0 && count.refusing == 0 && count.dropped == 0 {
                agents.remove(&agent);
            }
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.load.change(self.agent, |count| count.working -= 1);
    }
}

impl Refusing {
    /// How many were dropped since somebody asked last.
    pub(crate) fn take_dropped(&self) -> u64 {
        let mut dropped = 0;
        self.load.change(self.agent, |count| {
            dropped = std::mem::take(&mut count.dropped);
        });
        dropped
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        self.load.change(self.agent, |count| count.refusing -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_is_bounded_and_another_does_not_feel_it() {
        let load = Load::new(2);
        let (one, two) = (Some(AgentId(1)), Some(AgentId(2)));
        let working: Vec<_> = (0..2).map(|_| load.admit(one)).collect();
        assert!(working.iter().all(|a| matches!(a, Admission::Work(_))));
        let mut refusing: Vec<_> = (0..MAX_REFUSING).map(|_| load.admit(one)).collect();
        assert!(refusing.iter().all(|a| matches!(a, Admission::Refuse(_))));
        for _ in 0..5 {
            assert!(matches!(load.admit(one), Admission::Drop));
        }
        assert!(matches!(load.admit(two), Admission::Work(_)));
        let Some(Admission::Refuse(last)) = refusing.pop() else {
            panic!("the last was refused");
        };
        assert_eq!((last.take_dropped(), last.take_dropped()), (5, 0));
        drop((working, refusing, last));
        assert!(load.agents().is_empty(), "nothing is kept of the idle");
    }
}
