//! What models write in their answers, counted on its way: a part of what each may write is reserved at a time.
//!
//! An event goes on once what it brings is reserved. For an answer for which there is no more its client is told so, and
//! nothing more of it goes on; calls of other budgets go on, on the same connection. Nothing but the end of the connection
//! has a server stop an answer, so that it writes on: that is counted, for it is billed. Its limit was lowered to what was
//! left as it began. Where it writes much more all the same, the connection ends.

use std::sync::Arc;

use agentguard_decision::{Decided, Recorder, SLICE};
use agentguard_protocol::websocket::text_frame;

use super::Turns;
use super::lanes::More;
use crate::Port;
use crate::http::growth::Judge as _;
use crate::http::websocket::Stopped;

impl<R: Recorder, P: Port> Turns<R, P> {
    /// Whether what is written may have to be counted.
    pub(super) fn counts(&self) -> bool {
        self.live.is_none() && self.lanes().counts()
    }

    /// Reserves what the last event brings. Where it does not go on, gives the frames that go in its place, if any do.
    pub(super) async fn count(&self) -> Result<Option<Vec<u8>>, Stopped> {
        if !self.counts() {
            return Ok(None);
        }
        let mut said = Vec::new();
        loop {
            let more = self.lanes().runs_out();
            let Some(more) = more else {
                break;
            };
            said.extend(self.reserve(more).await);
        }
        let lanes = self.lanes();
        match lanes.writes_on(SLICE) {
            Some(denied) => Err(Stopped::Denied(denied)),
            None => Ok((lanes.drops() || !said.is_empty()).then_some(said)),
        }
    }

    /// The same for an event that is too long to be held: it may bring anything, and be of any answer.
    pub(super) async fn count_unread(&self) -> Option<Vec<u8>> {
        if !self.counts() {
            return None;
        }
        let mut said = Vec::new();
        let all = self.lanes().whole();
        for more in all {
            said.extend(self.reserve(more).await);
        }
        self.lanes().any_cut_off().then_some(said)
    }

    /// Reserves more for a call. Where there is none, its answer is cut: what its client is told.
    async fn reserve(&self, more: More) -> Vec<u8> {
        let More {
            at,
            asked,
            held,
            tokens,
        } = more;
        let judge = Arc::clone(&self.flow);
        match judge.written(asked, held, tokens).await {
            None => Vec::new(),
            Some(denied) => self.cut_off(at, &denied),
        }
    }

    fn cut_off(&self, at: usize, denied: &Decided) -> Vec<u8> {
        let lane = self.lanes().cut_off(at, denied);
        text_frame(&self.turn_refusal(denied, lane.as_deref()))
    }

    /// Says frames between the server's messages.
    pub(super) fn says(&self, frames: Vec<u8>) {
        if !frames.is_empty() {
            self.refusals().push_back(frames);
            self.refused.notify_one();
        }
    }
}
