//! What is under way for each agent, on both sides, so that it can be waited for the last of it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentguard_model::AgentId;
use tokio::sync::Notify;

/// Connections by agent: those of clients, and those to upstreams.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    counts: Mutex<HashMap<AgentId, usize>>,
    /// Told when an agent's last one has ended.
    ended: Notify,
    /// Of all agents, those of clients.
    clients: AtomicUsize,
    /// Of those, the ones that rest: they keep little.
    rest: AtomicUsize,
}

/// That one of a client rests, until it is dropped.
pub(crate) struct Rest<'a>(&'a AtomicUsize);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct One {
    carried: Arc<Carried>,
    agent: AgentId,
    is_client: bool,
}

impl Carried {
    /// One more of a client.
    pub(crate) fn client(self: &Arc<Self>, agent: AgentId) -> One {
        self.clients.fetch_add(1, Ordering::Relaxed);
        let mut one = self.one(agent);
        one.is_client = true;
        one
    }

    /// How many clients there are.
    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// How many clients there are that do not rest.
    pub(crate) fn awake(&self) -> usize {
        self.clients()
            .saturating_sub(self.rest.load(Ordering::Relaxed))
    }

    /// One of those of clients rests.
    pub(crate) fn rests(&self) -> Rest<'_> {
        self.rest.fetch_add(1, Ordering::Relaxed);
        Rest(&self.rest)
    }

    /// One more.
    pub(crate) fn one(self: &Arc<Self>, agent: AgentId) -> One {
        *self.counts().entry(agent).or_default() += 1;
        One {
            carried: Arc::clone(self),
            agent,
            is_client: false,
        }
    }

    /// Waits until an agent has none.
    pub(crate) async fn none(&self, agent: AgentId) {
        loop {
            let mut ended = pin!(self.ended.notified());
            // Before the look, so that an end in between is not missed.
            ended.as_mut().enable();
            if !self.counts().contains_key(&agent) {
                return;
            }
            ended.await;
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<AgentId, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        if self.is_client {
            self.carried.clients.fetch_sub(1, Ordering::Relaxed);
        }
        let mut counts = self.carried.counts();
        if let Some(count) = counts.get_mut(&self.agent) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.agent);
                self.carried.ended.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use agentguard_model::AgentId;
    use futures_util::FutureExt as _;

    use super::Carried;

    #[tokio::test]
    async fn the_last_one_of_an_agent_is_waited_for_and_no_other() {
        let carried = Arc::new(Carried::default());
        let (first, second) = (carried.one(AgentId(1)), carried.one(AgentId(1)));
        let other = carried.client(AgentId(2));
        assert_eq!(carried.awake(), 1);
        let rest = carried.rests();
        assert_eq!((carried.clients(), carried.awake()), (1, 0));
        drop(rest);
        assert_eq!(carried.awake(), 1);
        let mut none = pin!(carried.none(AgentId(1)));
        assert!(none.as_mut().now_or_never().is_none());
        drop(first);
        assert!(none.as_mut().now_or_never().is_none());
        drop(second);
        none.await;
        carried.none(AgentId(3)).await;
        drop(other);
        assert_eq!(carried.awake(), 0);
    }
}
