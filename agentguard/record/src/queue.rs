//! What is written, and what comes back.

use std::collections::VecDeque;

use agentguard_decision::RecordRefused;
use agentguard_model::{Bytes, DecisionId, Outcome, Reason};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::entry::Entry;
use crate::shared::Shared;

/// Who waits for a decision.
#[derive(Debug)]
pub(crate) struct Ack {
    pub(crate) sender: oneshot::Sender<Result<DecisionId, RecordRefused>>,
    /// A place in the queue, free again once this is answered.
    pub(crate) _place: OwnedSemaphorePermit,
}

/// An answer that is ready, and who waits for it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The decision, if something goes on after a good answer.
    pub(crate) goes_on: Option<DecisionId>,
    pub(crate) attempts: u64,
    pub(crate) reply: Result<DecisionId, RecordRefused>,
    pub(crate) ack: Ack,
}

impl Answer {
    /// Answers. A caller that is gone has said so in the record itself (see [`crate::Record`]).
    pub(crate) fn send(self) {
        drop(self.ack.sender.send(self.reply));
    }

    /// Refuses after all, although the decision is in the log.
    pub(crate) fn refuse(self, refused: RecordRefused, shared: &Shared) {
        if let Some(id) = self.goes_on {
            shared.leave(not_carried_out(id, &refused.reason.message));
        }
        drop(self.ack.sender.send(Err(refused)));
    }

    /// Refuses; the decision is not in the log.
    pub(crate) fn fail(self, reason: &Reason, shared: &Shared) {
        shared.refuse(self.attempts);
        let refused = RecordRefused {
            reason: reason.clone(),
        };
        drop(self.ack.sender.send(Err(refused)));
    }
}

/// What becomes of an action whose decision is in the log and whose caller did not learn of it.
pub(crate) fn not_carried_out(id: DecisionId, why: &str) -> Entry {
    Entry::Outcome {
        id,
        outcome: Box::new(Outcome {
            bytes: Bytes::default(),
            messages: None,
            duration_ms: 0,
            status: None,
            llm: None,
            tool: None,
            budget: Vec::new(),
            error: Some(format!("not carried out: {why}")),
        }),
    }
}

/// An entry that nobody waits for.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) entry: Entry,
    /// Its place among those that are kept, free again once it is written.
    pub(crate) _place: Option<OwnedSemaphorePermit>,
}

/// Entries that wait to be written. Bounded by the permits they hold and by what other threads may
/// leave in [`Shared::leave`].
#[derive(Debug, Default)]
pub(crate) struct Pending(pub(crate) VecDeque<Kept>);

impl Pending {
    /// Adds an entry that holds no place.
    pub(crate) fn add(&mut self, entry: Entry) {
        self.0.push_back(Kept {
            entry,
            _place: None,
        });
    }
}
