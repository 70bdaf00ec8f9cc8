//! Content that is decoded and read, while it is held.

use std::fmt::Display;
use std::ops::ControlFlow;

use agentguard_protocol::content::{Codings, Decoder, Pushed};
use http::HeaderMap;

use crate::decoders::Decoding;
use crate::http::held::MAX_HELD;

/// How much coded content may decode to. Text in JSON comes to a tenth of what is held.
const MAX_DECODED: u64 = 4 * MAX_HELD as u64;

/// What reads content in pieces.
pub(super) trait Reads {
    /// Why content is not understood.
    type Fault: Display;

    /// Reads on.
    fn push(&mut self, bytes: &[u8]) -> Result<(), Self::Fault>;
}

/// Content as it is decoded and read.
pub(super) struct Unpacked<T> {
    decoder: Option<(Box<Decoder>, Decoding)>,
    pub(super) reader: T,
    pub(super) decoded: u64,
    pub(super) fault: Option<String>,
}

impl<T: Reads> Unpacked<T> {
    /// With these fields. `room`: for a decoder.
    pub(super) fn new(
        reader: T,
        fields: &HeaderMap,
        room: impl FnOnce(usize) -> Option<Decoding>,
    ) -> Self {
        let (mut decoder, mut fault) = (None, None);
        match Codings::of_text(fields) {
            Ok(codings) if codings.is_identity() => {}
            Ok(codings) => match room(codings.memory()) {
                Some(room) => {
                    decoder = Some((Box::new(Decoder::new(&codings, MAX_DECODED)), room));
                }
                None => fault = Some("too much content is being unpacked at once".to_owned()),
            },
            Err(why) => fault = Some(why.to_string()),
        }
        Self {
            decoder,
            reader,
            decoded: 0,
            fault,
        }
    }

    /// Reads on, as much as is done at a time: others have their turn before it is called again with what was not taken.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Pushed {
        let all = Pushed::all(bytes);
        if self.fault.is_some() {
            return all;
        }
        let (reader, decoded) = (&mut self.reader, &mut self.decoded);
        let mut fault: Option<String> = None;
        let mut read = |bytes: &[u8]| {
            *decoded += bytes.len() as u64;
            fault = reader.push(bytes).err().map(|fault| fault.to_string());
            match fault {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        };
        let pushed = match &mut self.decoder {
            None => {
                let _ = read(bytes);
                Ok(all)
            }
            Some((decoder, _)) => decoder.push_some(bytes, &mut read),
        };
        let (pushed, undecodable) = match pushed {
            Ok(pushed) => (pushed, None),
            Err(why) => (all, Some(why.to_string())),
        };
        self.fault = undecodable.or(fault);
        pushed
    }

    /// Who has read all of it.
    ///
    /// # Errors
    /// Why it is not understood.
    pub(super) fn finish(self) -> Result<T, String> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if let Some((decoder, _)) = &self.decoder {
            decoder.finish().map_err(|why| why.to_string())?;
        }
        Ok(self.reader)
    }
}
