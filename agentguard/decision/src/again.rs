//! Deciding again on what is under way, when the policy changes.

use std::future::pending;
use std::time::Instant;

use agentguard_model::{Reason, Verdict};
use agentguard_policy::{RulingOutcome, Seen};
use tokio::sync::watch;

use crate::decider::Decider;
use crate::port::{Client, Decided, Recorder, Target};

/// Notices that the policy changed after this was made. Make it before the decision that it is
/// to be about.
#[derive(Clone, Debug)]
pub struct Changes(watch::Receiver<u32>);

impl Changes {
    pub(crate) fn new(generations: watch::Receiver<u32>) -> Self {
        Self(generations)
    }

    /// Whether there was one already.
    #[must_use]
    pub fn came(&self) -> bool {
        self.0.has_changed().unwrap_or(false)
    }

    /// Waits for the next change.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // There are no policies any more: the program ends.
            pending::<()>().await;
        }
    }
}

impl<R: Recorder> Decider<R> {
    /// Notices changes from now on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.policies().changes()
    }

    /// Waits until the policy denies what it allowed before: a connection or, with its method and
    /// canonical path, a request. Then records that denial and gives it; never before. `target` is
    /// asked with each change, as a connection may have been opened to another address since, and so
    /// is `closed`: why that address may not be used any more, whatever the rules say.
    ///
    /// # Cancel safety
    /// A dropped future may have recorded the denial.
    pub async fn revoked(
        &self,
        mut changes: Changes,
        client: &Client,
        target: impl Fn() -> Target,
        closed: impl Fn() -> Option<Reason>,
        request: Option<(&str, &str)>,
    ) -> Decided {
        let seen = match request {
            Some((method, path)) => Seen::Request { method, path },
            None => Seen::Never,
        };
        loop {
            changes.next().await;
            let started = Instant::now();
            let policy = self.policies().current();
            let target = target();
            let mut ruling = self.rule(&policy, client, &target, seen);
            if matches!(ruling.outcome, RulingOutcome::Allow(_)) {
                let Some(reason) = closed() else {
                    continue;
                };
                ruling.outcome = RulingOutcome::Deny;
                ruling.verdict = Verdict::Deny;
                ruling.enforced = true;
                ruling.reason = reason;
                ruling.matched.clear();
            }
            ruling
                .reason
                .message
                .push_str(" (the policy changed while this was under way)");
            let concluded = self.conclude_ruling(&policy, client, &target, seen, ruling, started);
            return concluded.await;
        }
    }
}
