//! An answer that is an event stream, read beside its way.

use std::ops::ControlFlow;

use agentguard_protocol::content::{Codings, Decoder, Undecodable};
use agentguard_protocol::sse::Parser;
use http::header::{self, HeaderMap};

use crate::decoders::Decoding;

/// The most bytes of an event that are kept. A larger one is counted all the same.
const MAX_EVENT: usize = 64 * 1024;

/// How much a coded stream may decode to: this, and for each byte of it [`RATIO`] more. Beyond it the
/// answer is cut. Text in JSON comes to a tenth of that.
const MARGIN: u64 = 1024 * 1024;

/// See [`MARGIN`].
const RATIO: u64 = 256;

/// See [`Events::at_once`].
const SLICE: usize = 4 * 1024;

/// Reads the events of an answer. What passes is what came.
pub(crate) struct Events {
    /// With the room that it takes; none where the stream is not coded.
    decoder: Option<(Box<Decoder>, Decoding)>,
    parser: Parser,
}

impl Events {
    /// For an answer with these fields, if it is an event stream in a coding that is known. Of another
    /// coding nobody can say anything, and the answer passes uncounted; so it does where `room` has none for
    /// the decoder.
    pub(crate) fn of(
        fields: &HeaderMap,
        room: impl FnOnce(usize) -> Option<Decoding>,
    ) -> Option<Self> {
        if !is_event_stream(fields) {
            return None;
        }
        let codings = match Codings::read(fields) {
            Ok(codings) => codings,
            Err(why) => {
                tracing::debug!(%why, "an event stream is not read");
                return None;
            }
        };
        let decoder = if codings.is_identity() {
            None
        } else {
            let Some(room) = room(codings.memory()) else {
                tracing::debug!("too much content is being unpacked at once");
                return None;
            };
            Some((Box::new(Decoder::new(&codings, MARGIN)), room))
        };
        Some(Self {
            decoder,
            parser: Parser::new(MAX_EVENT),
        })
    }

    /// Reads the next bytes, and says how many events end with them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<u64, Undecodable> {
        let mut count = 0;
        let parser = &mut self.parser;
        let mut read = |bytes: &[u8]| {
            parser.push(bytes, &mut |_| count += 1);
            ControlFlow::Continue(())
        };
        let read = match &mut self.decoder {
            None => read(bytes),
            Some((decoder, _)) => {
                decoder.allow_more(RATIO.saturating_mul(bytes.len() as u64));
                decoder.push(bytes, &mut read)?
            }
        };
        debug_assert!(read.is_continue(), "nothing stops it");
        Ok(count)
    }

    /// Of so many bytes, how many are read at once: few may take long, and others come first.
    pub(crate) fn at_once(&self, bytes: usize) -> usize {
        match self.decoder {
            Some(_) => bytes.min(SLICE),
            None => bytes,
        }
    }

    /// Says whether the stream ended where its coding does.
    pub(crate) fn finish(&self) -> Result<(), Undecodable> {
        self.decoder
            .as_ref()
            .map_or(Ok(()), |(decoder, _)| decoder.finish())
    }
}

/// RFC 9110, 8.3.1: types have no case, and parameters may follow.
fn is_event_stream(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text/event-stream")
}
