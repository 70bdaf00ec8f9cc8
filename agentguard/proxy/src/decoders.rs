//! How much memory decoders of content may take: they remember what they have decoded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use agentguard_model::AgentId;

/// Bytes, of all agents together: a br decoder can come to 16 MiB, one of zstd to 8, one of gzip to 64 KiB.
/// Beyond it content counts as unreadable where a rule has to look into it, and events are not counted.
const ALL: usize = 512 << 20;

/// Bytes, of one agent, so that it does not take the others' away. Beyond it as above.
const EACH: usize = 128 << 20;

/// The decoders of one worker.
#[derive(Debug, Default)]
pub(crate) struct Decoders(Mutex<HashMap<AgentId, usize>>);

impl Decoders {
    /// Room for one more that takes `memory` bytes, if there is any.
    pub(crate) fn take(self: &Arc<Self>, agent: AgentId, memory: usize) -> Option<Decoding> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&agent).copied().unwrap_or_default();
        if all + memory > ALL || own + memory > EACH {
            return None;
        }
        taken.insert(agent, own + memory);
        Some(Decoding {
            decoders: Arc::clone(self),
            agent,
            memory,
        })
    }
}

/// Room for one decoder, until it is dropped.
#[derive(Debug)]
pub(crate) struct Decoding {
    decoders: Arc<Decoders>,
    agent: AgentId,
    memory: usize,
}

impl Drop for Decoding {
    fn drop(&mut self) {
        let mut taken = self
            .decoders
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.agent) {
            *own = own.saturating_sub(self.memory);
            if *own == 0 {
                taken.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentguard_model::AgentId;

    use super::{ALL, Decoders, EACH};

    #[test]
    fn an_agent_has_its_share_and_gives_it_back() {
        let decoders = Arc::new(Decoders::default());
        let most = EACH / 8;
        let take = |agent| decoders.take(AgentId(agent), most);
        let mut own: Vec<_> = std::iter::from_fn(|| take(1)).collect();
        assert_eq!(own.len(), 8);
        assert!(decoders.take(AgentId(1), 1).is_none());
        let others: Vec<_> = (2..100).filter_map(take).collect();
        assert_eq!(others.len(), (ALL - EACH) / most);
        own.pop();
        assert!(take(1).is_some());
        assert!(take(200).is_some());
        drop((own, others));
        assert!(decoders.0.lock().unwrap().is_empty());
    }
}
