//! What became of an allowed action.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use agentguard_decision::{Decided, Decider, Recorder};
use agentguard_model::{Bytes, Outcome};

/// Counts what is moved under one decision and tells the outcome when it is dropped: however a
/// connection ends, its decision gets its outcome, once.
pub(crate) struct Account<R: Recorder> {
    decider: Decider<R>,
    decided: Decided,
    /// Payload bytes to the upstream.
    pub(crate) sent: AtomicU64,
    /// Payload bytes to the client.
    pub(crate) received: AtomicU64,
    status: AtomicU16,
    error: Mutex<Option<String>>,
}

impl<R: Recorder> Account<R> {
    pub(crate) fn new(decider: Decider<R>, decided: Decided) -> Self {
        Self {
            decider,
            decided,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            status: AtomicU16::new(0),
            error: Mutex::new(None),
        }
    }

    pub(crate) fn decided(&self) -> &Decided {
        &self.decided
    }

    /// The HTTP status that the agent gets.
    pub(crate) fn answered(&self, status: http::StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// What went wrong. The first thing that did is what counts.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.get_or_insert_with(|| what.into());
    }
}

impl<R: Recorder> Drop for Account<R> {
    fn drop(&mut self) {
        let elapsed = self.decided.started.elapsed().as_millis();
        let status = self.status.load(Ordering::Relaxed);
        let outcome = Outcome {
            bytes: Bytes {
                sent: self.sent.load(Ordering::Relaxed),
                received: self.received.load(Ordering::Relaxed),
            },
            duration_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            status: (status != 0).then_some(status),
            error: self
                .error
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        };
        self.decider.finished(&self.decided, outcome);
    }
}
