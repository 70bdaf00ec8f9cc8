//! What a call says, read once more from where it is held: budgets have it counted where its bytes are too many.

use std::borrow::Cow;
use std::convert::Infallible;

use agentguard_decision::Says;
use agentguard_protocol::content::Codings;
use http::HeaderMap;

use crate::decoders::Decoding;
use crate::http::body::Received;
use crate::http::held::Kept;
use crate::http::unpacked::{Reads, Unpacked};

/// How many coded bytes are decoded at once. What comes of them is there as a whole, and is mostly some times as much.
const AT_ONCE: usize = 4 * 1024;

/// The content of a call, where it is here. `decoded`: how many bytes it decodes to, at most. `room`: what for.
pub(crate) fn said<'a>(
    body: &'a Received,
    fields: &'a HeaderMap,
    decoded: u64,
    room: impl Fn(usize) -> Option<Decoding> + Send + Sync + 'a,
) -> Option<Box<dyn Says + 'a>> {
    let Received::Held(held) = body else {
        return None;
    };
    let kept = held.kept();
    Some(match Codings::of_text(fields).ok()?.is_identity() {
        true => Box::new(Plain(kept)),
        false => Box::new(Coded {
            kept,
            fields,
            decoded: usize::try_from(decoded).ok()?,
            room,
        }),
    })
}

/// What says it as it is.
pub(crate) struct Plain<'a>(pub(crate) &'a Kept);

impl Says for Plain<'_> {
    fn pieces(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        Box::new(self.0.pieces().map(Cow::Borrowed))
    }
}

/// What has to be decoded for it once more.
struct Coded<'a, F> {
    kept: &'a Kept,
    fields: &'a HeaderMap,
    decoded: usize,
    room: F,
}

impl<F: Fn(usize) -> Option<Decoding> + Send + Sync> Says for Coded<'_, F> {
    fn pieces(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        // A bomb comes out of one piece.
        let Some(for_piece) = (self.room)(self.decoded) else {
            return Box::new(std::iter::empty());
        };
        let mut unpacked = Unpacked::new(Piece::default(), self.fields, &self.room);
        let coded = self.kept.pieces().flat_map(|piece| piece.chunks(AT_ONCE));
        Box::new(coded.map_while(move |coded| {
            let _ = &for_piece;
            let mut rest = coded;
            loop {
                let pushed = unpacked.push(rest);
                rest = rest.get(pushed.taken..).unwrap_or_default();
                if pushed.done {
                    break;
                }
            }
            let piece = std::mem::take(&mut unpacked.reader.0);
            // What cannot be decoded has no end, and is not counted.
            unpacked.fault.is_none().then_some(Cow::Owned(piece))
        }))
    }
}

/// What came of the last bytes that were decoded.
#[derive(Default)]
struct Piece(Vec<u8>);

impl Reads for Piece {
    type Fault = Infallible;

    fn push(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}
