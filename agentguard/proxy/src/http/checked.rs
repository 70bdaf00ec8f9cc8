//! Answers of language models that are decided before they are passed on: a rule looks at the tools that the model
//! asks to call.
//!
//! An event is passed on once it was read as a whole, and with it the names of tools that it brings; an answer that
//! is one document as a whole. What cannot be read may ask for any tool.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use agentguard_decision::{Asked, Decided};
use bytes::{Buf as _, Bytes, BytesMut};

use crate::http::growth::{Asking, Judge};
use crate::http::reading::Reading;

/// The most bytes of an event that are held. A longer one is not read.
const MAX_EVENT: usize = 1024 * 1024;

/// The tools that one answer asks for, as far as they were asked about.
pub(crate) struct Checks {
    judge: Arc<dyn Judge>,
    asked: Arc<Asked>,
    known: Vec<String>,
    /// Whether it was asked about what could not be read.
    unread: bool,
}

impl Checks {
    /// Of the answer to this call.
    pub(crate) fn new(judge: Arc<dyn Judge>, asked: Arc<Asked>) -> Self {
        Self {
            judge,
            asked,
            known: Vec::new(),
            unread: false,
        }
    }

    /// Asks about the tools that the answer is known to ask for now, if there are others than before. None: nobody
    /// knows which.
    fn ask(&mut self, asks: Option<Vec<String>>) -> Option<Asking> {
        let news = match &asks {
            // Of what is asked for after that nothing was known before.
            Some(asks) if asks.is_empty() => {
                self.known.clear();
                false
            }
            Some(asks) => *asks != self.known,
            None => !self.unread,
        };
        if !news {
            return None;
        }
        self.unread |= asks.is_none();
        if let Some(asks) = &asks {
            self.known.clone_from(asks);
        }
        let answered = Arc::new(self.asked.answered(asks)?);
        Some(Arc::clone(&self.judge).ask(answered, None))
    }

    /// As [`Self::ask`], to the end.
    ///
    /// # Errors
    /// The answer is denied.
    pub(crate) async fn check(&mut self, asks: Option<Vec<String>>) -> Result<(), Decided> {
        match self.ask(asks) {
            Some(asking) => denied(asking.await),
            None => Ok(()),
        }
    }
}

fn denied(decided: Option<Decided>) -> Result<(), Decided> {
    match decided {
        Some(decided) if !decided.allowed => Err(decided),
        _ => Ok(()),
    }
}

/// An event stream that is passed on event by event.
pub(crate) struct Checked {
    checks: Checks,
    asking: Option<Asking>,
    /// What has come and was not read.
    rest: Bytes,
    /// The event in hand, as far as it was read.
    event: BytesMut,
    /// What may go.
    out: BytesMut,
}

impl Checked {
    pub(crate) fn new(checks: Checks) -> Self {
        Self {
            checks,
            asking: None,
            rest: Bytes::new(),
            event: BytesMut::new(),
            out: BytesMut::new(),
        }
    }

    /// Takes more of the stream. All of what was taken before has been given.
    pub(crate) fn take(&mut self, data: Bytes) {
        self.rest = data;
    }

    /// The stream is over, and with it the event in hand.
    pub(crate) fn end(&mut self, reading: &mut Reading) {
        reading.ends();
        self.event_ends(reading);
    }

    /// How many bytes are here.
    pub(crate) fn size(&self) -> usize {
        self.rest.len() + self.event.len() + self.out.len()
    }

    /// Gives what may go of what has come; none where that is nothing more. Counts the events into `count`.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reading: &mut Reading,
        count: &mut u64,
    ) -> Poll<Result<Option<Bytes>, Decided>> {
        loop {
            let waits = self.asking.is_some() || self.rest.is_empty();
            if waits && !self.out.is_empty() {
                return Poll::Ready(Ok(Some(self.out.split().freeze())));
            }
            if let Some(asking) = &mut self.asking {
                let decided = ready!(asking.as_mut().poll(cx));
                self.asking = None;
                denied(decided)?;
                self.out.extend_from_slice(&self.event);
                self.event.clear();
                continue;
            }
            if self.rest.is_empty() {
                return Poll::Ready(Ok(None));
            }
            let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n');
            let line = self.rest.iter().position(breaks);
            let line = self
                .rest
                .split_to(line.map_or(self.rest.len(), |end| end + 1));
            // Without a coding nothing fails.
            *count += reading.push(&line).unwrap_or_default();
            self.event.extend_from_slice(&line);
            if self.event.len() > MAX_EVENT {
                self.asking = self.checks.ask(None);
                if self.asking.is_none() {
                    self.out.unsplit(self.event.split());
                }
            } else if reading.is_between() {
                self.event_ends(reading);
            }
        }
    }

    fn event_ends(&mut self, reading: &Reading) {
        self.asking = self.checks.ask(reading.asks());
        if self.asking.is_none() {
            self.out.extend_from_slice(self.event.chunk());
            self.event.clear();
        }
    }
}
