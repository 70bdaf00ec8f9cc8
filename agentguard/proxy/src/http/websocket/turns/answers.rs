//! The server's messages: events of the answer to the call that is under way.

use std::future::pending;

use agentguard_decision::Recorder;
use agentguard_protocol::websocket::{Ends, Head};
use bytes::BytesMut;

use super::Turns;
use crate::Port;
use crate::http::websocket::Stopped;
use crate::http::websocket::hold::Hold;

/// Reads what passes, and says between the messages what is refused.
pub(in crate::http::websocket) struct Answers<'a, R: Recorder, P: Port> {
    turns: &'a Turns<R, P>,
    in_message: bool,
}

impl<'a, R: Recorder, P: Port> Answers<'a, R, P> {
    pub(in crate::http::websocket) fn new(turns: &'a Turns<R, P>) -> Self {
        Self {
            turns,
            in_message: false,
        }
    }

    /// Whether something may be said to the client now.
    pub(in crate::http::websocket) const fn is_between(&self) -> bool {
        !self.in_message
    }
}

impl<R: Recorder, P: Port> Hold for Answers<'_, R, P> {
    async fn begin(&mut self, _: &Head) -> Result<(), Stopped> {
        self.in_message = true;
        Ok(())
    }

    fn is_ruled(&self) -> bool {
        false
    }

    async fn push(&mut self, plain: &[u8], ends: Ends) -> Result<bool, Stopped> {
        self.turns.hear(plain);
        if ends == Ends::Message {
            self.in_message = false;
            self.turns.heard();
        }
        Ok(true)
    }

    async fn change(&mut self) {
        if self.in_message {
            // What is refused is said behind it.
            pending::<()>().await;
        }
        self.turns.refused.notified().await;
    }

    async fn ask_anew(&mut self) -> Result<(), Stopped> {
        Ok(())
    }

    fn take(&mut self, frame: &mut BytesMut, _: bool, give: impl FnOnce(&[u8])) {
        give(frame);
        frame.clear();
    }

    fn own(&mut self) -> Option<Vec<u8>> {
        if self.in_message {
            return None;
        }
        self.turns.refusals().pop_front()
    }
}
