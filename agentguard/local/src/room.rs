//! Memory for questions: so much for each agent, so that none keeps another from asking.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use agentguard_model::AgentId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::MAX_LINE;

/// What is counted at once.
const PIECE: usize = 1024;

/// Pieces of one agent's questions that are held at once: two of the longest. Further ones wait.
const EACH: usize = 2 * MAX_LINE / PIECE;

/// The rooms of agents that ask.
#[derive(Debug, Default)]
pub(crate) struct Rooms(Mutex<HashMap<AgentId, Weak<Semaphore>>>);

impl Rooms {
    /// The room of an agent. Forgotten once nobody has it.
    pub(crate) fn of(&self, agent: AgentId) -> Arc<Semaphore> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(&agent).and_then(Weak::upgrade) {
            return room;
        }
        rooms.retain(|_, room| room.strong_count() > 0);
        let room = Arc::new(Semaphore::new(EACH));
        rooms.insert(agent, Arc::downgrade(&room));
        room
    }
}

/// Waits for room for so many bytes, at most [`MAX_LINE`].
pub(crate) async fn room(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let pieces = u32::try_from(bytes.div_ceil(PIECE)).ok()?;
    Arc::clone(room).acquire_many_owned(pieces).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_agent_waits_for_itself_and_no_other_does() {
        let rooms = Rooms::default();
        let (one, other) = (rooms.of(AgentId(1)), rooms.of(AgentId(2)));
        let first = room(&one, MAX_LINE).await.unwrap();
        let second = room(&rooms.of(AgentId(1)), MAX_LINE).await.unwrap();
        assert_eq!(one.available_permits(), 0);
        assert!(room(&other, MAX_LINE).await.is_some());
        drop((first, second));
        assert!(room(&one, 1).await.is_some());
    }
}
