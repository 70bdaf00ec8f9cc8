//! What a model writes, counted on its way: only a part of what it may write is reserved of its budgets at a time.

use std::sync::Arc;

use agentguard_budget::tokens::Counter;
use agentguard_decision::{Asked, Decided, Held, Recorder};
use agentguard_protocol::llm::Written;

use crate::Port;
use crate::connection::Flow;
use crate::http::growth::Judge as _;

impl<R: Recorder, P: Port> Flow<R, P> {
    /// Refuses a call whose limit cannot be lowered to what is left, for this reason.
    pub(crate) async fn not_lowered(&self, asked: &Asked, held: &Held, why: &str) -> Decided {
        let (decider, client, target) = (&self.guard.decider, &self.client, &self.target);
        decider.not_lowered(client, target, asked, held, why).await
    }

    /// Reserves all that a call may write, where only a part of it is and nobody counts what comes. What it gives is a
    /// denial: there is not so much left.
    pub(crate) async fn reserve_all(
        self: &Arc<Self>,
        asked: &Arc<Asked>,
        held: &Arc<Held>,
    ) -> Option<Decided> {
        if !held.is_counted() {
            return None;
        }
        let judge = Arc::clone(self);
        judge
            .written(Arc::clone(asked), Arc::clone(held), held.limit())
            .await
    }
}

/// Counts the tokens of one answer.
///
/// An event goes on once what it brings is reserved. Where its text is not known, a byte of it counts as a token.
pub(crate) struct Meter {
    held: Arc<Held>,
    counter: Counter,
    /// Of what is no text, or cannot be read any more.
    unread: u64,
    /// Whether something was written since it was asked about.
    more: bool,
}

impl Meter {
    /// Of a call that holds this, if what it writes has to be counted.
    pub(crate) fn of(held: Option<&Arc<Held>>) -> Option<Self> {
        let held = held.filter(|held| held.is_counted())?;
        Some(Self {
            counter: held.counter(),
            held: Arc::clone(held),
            unread: 0,
            more: false,
        })
    }

    /// The model has written this.
    pub(crate) fn hear(&mut self, written: &Written) {
        written.pieces().for_each(|piece| self.counter.push(piece));
        self.more = true;
        self.unread(written.beyond().saturating_add(written.media()));
    }

    /// So many bytes have come of which nobody knows what they are.
    pub(crate) fn unread(&mut self, bytes: u64) {
        self.unread = self.unread.saturating_add(bytes);
        self.more |= bytes > 0;
        if self.more {
            let sure = match self.counter.is_exact() {
                true => self.counter.count(),
                false => 0,
            };
            self.held.saw(self.count(), sure);
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.counter.count().saturating_add(self.unread)
    }

    /// What is to be asked about: so many tokens, where what is reserved runs out.
    pub(crate) fn next(&mut self) -> Option<(Arc<Held>, u64)> {
        let mut tokens = self.count();
        if !self.counter.is_exact() {
            // Its provider counts exactly, and ends it at the limit. What is estimated ends what goes far beyond that.
            tokens = tokens.min(self.held.limit()).max(tokens / 2);
        }
        let more = std::mem::take(&mut self.more);
        (more && self.held.runs_out(tokens)).then(|| (Arc::clone(&self.held), tokens))
    }
}
