//! Who may have how many connections at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use agentguard_model::AgentId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Limits;

/// Connections that are only being refused; when all are taken, accepting waits.
const REFUSALS: usize = 64;

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Seats {
    all: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    per_agent: usize,
    agents: Mutex<HashMap<AgentId, usize>>,
}

/// A place in the whole: a real one, or one to be refused in.
pub(crate) enum Entry {
    Seat(OwnedSemaphorePermit),
    Full(Option<OwnedSemaphorePermit>),
}

impl Seats {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            per_agent: limits.connections_per_agent,
            agents: Mutex::new(HashMap::new()),
        })
    }

    /// Waits only while too many connections are being refused at once.
    pub(crate) async fn enter(&self) -> Entry {
        match Arc::clone(&self.all).try_acquire_owned() {
            Ok(permit) => Entry::Seat(permit),
            Err(_) => Entry::Full(Arc::clone(&self.refusals).acquire_owned().await.ok()),
        }
    }

    /// One of the agent's places, if one is free.
    pub(crate) fn take(self: &Arc<Self>, agent: AgentId) -> Option<AgentSeat> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = agents.entry(agent).or_default();
        if *taken >= self.per_agent {
            return None;
        }
        *taken += 1;
        Some(AgentSeat {
            seats: Arc::clone(self),
            agent,
        })
    }
}

/// One of an agent's places, until it is dropped.
#[derive(Debug)]
pub(crate) struct AgentSeat {
    seats: Arc<Seats>,
    agent: AgentId,
}

impl Drop for AgentSeat {
    fn drop(&mut self) {
        let mut agents = self
            .seats
            .agents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = agents.get_mut(&self.agent) {
            *taken -= 1;
            if *taken == 0 {
                agents.remove(&self.agent);
            }
        }
    }
}
