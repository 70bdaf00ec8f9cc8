//! The server's messages: events of the answers to calls that are under way.

use std::future::pending;

use agentguard_decision::Recorder;
use agentguard_protocol::websocket::{Ends, Head, text_frame};
use bytes::BytesMut;

use super::Turns;
use crate::Port;
use crate::http::websocket::Stopped;
use crate::http::websocket::hold::Hold;

/// Reads what passes, and says between the messages what is refused.
pub(in crate::http::websocket) struct Answers<'a, R: Recorder, P: Port> {
    turns: &'a Turns<R, P>,
    in_message: bool,
    /// Whether the message in hand waits until it was read.
    holds: bool,
    /// Whether it is asked about the tools that it asks for.
    asks: bool,
    /// Whether it does not go on, or nothing more of it.
    drops: bool,
    held: BytesMut,
    /// What that says.
    text: BytesMut,
    /// Frames that go in the place of what is held.
    instead: Option<BytesMut>,
}

/// The most bytes of a message that are held. A longer one is not read.
const MAX_HELD: usize = 1024 * 1024;

impl<'a, R: Recorder, P: Port> Answers<'a, R, P> {
    pub(in crate::http::websocket) fn new(turns: &'a Turns<R, P>) -> Self {
        Self {
            turns,
            in_message: false,
            holds: false,
            asks: false,
            drops: false,
            held: BytesMut::new(),
            text: BytesMut::new(),
            instead: None,
        }
    }

    /// Whether something may be said to the client now.
    pub(in crate::http::websocket) const fn is_between(&self) -> bool {
        // What is held has not been begun for the client.
        !self.in_message || self.holds
    }
}

impl<R: Recorder, P: Port> Hold for Answers<'_, R, P> {
    async fn begin(&mut self, _: &Head) -> Result<(), Stopped> {
        self.turns.renew().await?;
        self.in_message = true;
        self.drops = false;
        self.asks = self.turns.looks_at_tools();
        self.holds = self.turns.holds_events();
        Ok(())
    }

    fn is_ruled(&self) -> bool {
        self.holds
    }

    async fn push(&mut self, plain: &[u8], ends: Ends) -> Result<bool, Stopped> {
        self.turns.hear(plain);
        if self.holds {
            self.text.extend_from_slice(plain);
        }
        let too_long = self.holds && self.held.len() > MAX_HELD;
        let whole = ends == Ends::Message;
        if whole {
            self.turns.event_ends().await?;
        }
        if self.holds && (whole || too_long) {
            let text = std::mem::take(&mut self.text);
            let said = match too_long {
                true => self.turns.count_unread().await,
                false => self.turns.count().await?,
            };
            self.drops = said.is_some();
            self.instead = said.map(|said| said.as_slice().into());
            if self.asks && !self.drops {
                let event = (!too_long).then_some(&text[..]);
                let events = self.turns.check(event).await?;
                self.instead = events.map(|events| {
                    let frames = events.iter().map(|event| text_frame(event.as_bytes()));
                    frames.flatten().collect()
                });
            }
            self.holds = false;
        } else if whole && let Some(said) = self.turns.count().await? {
            // It has gone.
            self.turns.says(said);
        }
        if whole {
            self.in_message = false;
            self.turns.heard();
            self.turns.settle().await?;
        }
        Ok(!self.holds && !self.drops)
    }

    async fn change(&mut self) {
        if self.in_message {
            // What is refused is said behind it.
            pending::<()>().await;
        }
        if self.turns.renews() {
            return;
        }
        self.turns.refused.notified().await;
    }

    async fn ask_anew(&mut self) -> Result<(), Stopped> {
        // Behind the event that has ended it, which has gone.
        self.turns.renew().await
    }

    fn take(&mut self, frame: &mut BytesMut, _: bool, give: impl FnOnce(&[u8])) {
        if self.instead.is_some() || self.drops {
            self.held.clear();
        } else if self.holds || !self.held.is_empty() {
            self.held.extend_from_slice(frame);
        } else {
            give(frame);
        }
        frame.clear();
    }

    fn release(&mut self) -> Option<(BytesMut, bool)> {
        if let Some(instead) = self.instead.take() {
            return (!instead.is_empty()).then_some((instead, false));
        }
        let any = !self.holds && !self.held.is_empty();
        any.then(|| (self.held.split(), false))
    }

    fn own(&mut self) -> Option<Vec<u8>> {
        if self.in_message {
            return None;
        }
        self.turns.refusals().pop_front()
    }

    fn parts(&mut self) {
        self.turns.server_parts();
    }
}
