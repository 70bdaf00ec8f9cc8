//! Answers of language models that are decided before they are passed on: a rule looks at the tools that the model
//! asks to call.
//!
//! An event is passed on once it was read as a whole, and with it the names of tools that it brings; an answer that
//! is one document as a whole. What cannot be read may ask for any tool. What a rule has cut out of an answer goes on
//! without. A line is an event, too, and so is a message of AWS's event stream, and an item of a list with what stands
//! before it.

use std::task::{Context, Poll, ready};

use agentguard_decision::Decided;
use agentguard_protocol::json::Place;
use agentguard_protocol::llm::{Cutter, Stream, Uncut, usage};
use bytes::{Buf as _, Bytes, BytesMut};

use crate::http::checks::{Checks, Goes};
use crate::http::growth::Asking;
use crate::http::reading::Reading;

/// The most bytes of an event that are held. A longer one is not read.
const MAX_EVENT: usize = 1024 * 1024;

/// An event stream that is passed on event by event.
pub(crate) struct Checked {
    checks: Checks,
    asking: Option<Asking>,
    /// What has come and was not read.
    rest: Bytes,
    /// The event in hand, as far as it was read.
    event: BytesMut,
    /// Whether that has come to its end, and was not asked about yet.
    ends: bool,
    /// What may go.
    out: BytesMut,
    /// How much of a list that is, with what has gone; of other streams, that something may be said behind it. None in the
    /// middle of a document.
    gone: Option<Place>,
    /// Whether the event that tells of usage alone does not go on.
    hides_usage: bool,
}

impl Checked {
    pub(crate) fn new(checks: Checks) -> Self {
        Self {
            checks,
            asking: None,
            rest: Bytes::new(),
            event: BytesMut::new(),
            ends: false,
            out: BytesMut::new(),
            gone: Some(Place::Before),
            hides_usage: false,
        }
    }

    /// The same, without the event that tells of usage alone.
    pub(crate) fn without_usage(self) -> Self {
        Self {
            hides_usage: true,
            ..self
        }
    }

    /// What has gone, where something may be said behind it. All that may go has been given.
    pub(crate) const fn gone(&self) -> Option<Place> {
        self.gone
    }

    /// Takes more of the stream. All of what was taken before has been given.
    pub(crate) fn take(&mut self, data: Bytes) {
        self.rest = data;
    }

    /// The stream is over, and with it the event in hand.
    pub(crate) fn end(&mut self, reading: &mut Reading) {
        reading.ends();
        self.ends = true;
    }

    /// How many bytes are here.
    pub(crate) fn size(&self) -> usize {
        self.rest.len() + self.event.len() + self.out.len()
    }

    /// Who asks about the tools.
    pub(crate) const fn checks(&self) -> &Checks {
        &self.checks
    }

    /// Gives what may go of what has come; none where that is nothing more. Counts the events into `count`.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reading: &mut Reading,
        count: &mut u64,
    ) -> Poll<Result<Option<Bytes>, Decided>> {
        loop {
            let waits = self.asking.is_some() || self.rest.is_empty() && !self.ends;
            if waits && !self.out.is_empty() {
                return Poll::Ready(Ok(Some(self.out.split().freeze())));
            }
            if let Some(asking) = &mut self.asking {
                let decided = ready!(asking.as_mut().poll(cx));
                self.asking = None;
                self.checks.ruled(decided)?;
                self.go_on(reading)?;
                continue;
            }
            if std::mem::take(&mut self.ends) {
                self.checks.hear(reading.asks());
                self.count(reading);
                self.go_on(reading)?;
                continue;
            }
            if self.rest.is_empty() {
                return Poll::Ready(Ok(None));
            }
            let piece = self.rest.split_to(reading.within(&self.rest));
            // Without a coding nothing fails.
            *count += reading.push(&piece).unwrap_or_default();
            self.event.extend_from_slice(&piece);
            if self.event.len() > MAX_EVENT || reading.is_lost() {
                self.checks.hear(None);
                self.count(reading);
                self.go_on(reading)?;
            } else if reading.is_between() {
                self.checks.hear(reading.asks());
                self.count(reading);
                self.go_on(reading)?;
            }
        }
    }

    /// Counts what comes behind the last event that goes on.
    pub(crate) fn hear_behind(&mut self, data: &[u8], reading: &mut Reading) {
        let (rest, bytes) = (std::mem::take(&mut self.rest), data.len() as u64);
        let bytes = bytes.saturating_add(rest.len() as u64);
        for piece in [&rest, data] {
            // Without a coding nothing fails.
            let _ = reading.push(piece);
        }
        self.checks.hear_written(|meter| {
            reading.written(|written| meter.hear(written));
            if !reading.is_heard() {
                meter.unread(bytes);
            }
        });
    }

    /// Counts what the event in hand brings, where that is to be reserved first.
    fn count(&mut self, reading: &mut Reading) {
        let bytes = self.event.len() as u64;
        self.checks.hear_written(|meter| {
            reading.written(|written| meter.hear(written));
            if !reading.is_heard() {
                meter.unread(bytes);
            }
        });
    }

    /// Asks about what is to be asked next of the event in hand; where that is nothing, the event may go.
    ///
    /// # Errors
    /// It may not: what is to be cut out of it cannot be.
    fn go_on(&mut self, reading: &Reading) -> Result<(), Decided> {
        let (event, gone, came) = (&self.event, self.gone, reading.place());
        let write = |cutter: &mut Cutter| match reading.plain_stream() {
            Some(Stream::List) => {
                let gone = gone.ok_or(Uncut::Begun)?;
                cutter.list(event, gone, came == Some(Place::Over))
            }
            stream => Ok(written(cutter, event, stream)?.map(|bytes| (bytes, Place::Behind))),
        };
        let goes = loop {
            self.asking = self.checks.next();
            if self.asking.is_some() {
                return Ok(());
            }
            let goes = self.checks.written(write);
            if let Some(goes) = goes? {
                break goes;
            }
        };
        match goes {
            _ if self.hides_usage && usage::is_alone(&self.event) => {}
            Goes::AsItCame => {
                self.out.extend_from_slice(self.event.chunk());
                self.gone = came;
            }
            Goes::Instead((instead, gone)) => {
                self.out.extend_from_slice(&instead);
                self.gone = Some(gone);
            }
        }
        self.event.clear();
        Ok(())
    }
}

/// An event of such a stream as it goes on. None: as it came.
fn written(
    cutter: &mut Cutter,
    event: &[u8],
    stream: Option<Stream>,
) -> Result<Option<Vec<u8>>, Uncut> {
    match stream {
        Some(Stream::Events) => return cutter.sse(event),
        Some(Stream::Messages) => return cutter.event_stream(event),
        Some(Stream::Lines) => {}
        Some(Stream::List) | None => return Err(Uncut::Form),
    }
    let instead = cutter.message(event)?;
    Ok(instead.map(|lines| {
        let lines = lines.into_iter().map(|line| line + "\n");
        lines.collect::<String>().into_bytes()
    }))
}

#[cfg(test)]
mod tests;
