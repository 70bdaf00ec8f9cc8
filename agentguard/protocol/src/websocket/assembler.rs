//! A message, put together again.

use flate2::{Decompress, FlushDecompress, Status};

use super::utf8::Utf8;
use super::{Head, Opcode, Violation};

/// How much is inflated at once.
const PIECE: usize = 16 * 1024;

/// What stands behind each flushed block of deflate, and is left out of a message (RFC 7692, 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

/// A message as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// Whether it is a text, or else bytes.
    pub text: bool,
    /// How many bytes it has, inflated.
    pub size: u64,
    /// What it says. None where it has more bytes than are kept: then none are.
    pub content: Option<&'a [u8]>,
}

/// Puts one message after the other together from the payloads of its frames, inflates it, and says how
/// large it is. It keeps what it says as long as that has no more than a bound's bytes; a larger message
/// is counted on, and its content is dropped.
///
/// A message that refers to what never was (a peer would refuse it) has zeros there.
pub struct Assembler {
    /// The most bytes that are kept.
    bound: usize,
    /// Whether a message may refer to those before it.
    takeover: bool,
    inflate: Option<Box<Decompress>>,
    /// What is inflated goes through here.
    piece: Vec<u8>,
    /// Whether the message in progress is deflated.
    deflated: bool,
    text: Option<Utf8>,
    size: u64,
    content: Option<Vec<u8>>,
}

impl std::fmt::Debug for Assembler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembler")
            .field("deflated", &self.deflated)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Assembler {
    /// For messages of which up to `bound` bytes are kept. With `takeover`, a deflated message may refer
    /// to those before it, so that all of them have to be put together, from the first on.
    #[must_use]
    pub const fn new(bound: usize, takeover: bool) -> Self {
        Self {
            bound,
            takeover,
            inflate: None,
            piece: Vec::new(),
            deflated: false,
            text: None,
            size: 0,
            content: None,
        }
    }

    /// Begins a message, with its first frame's head.
    pub fn begin(&mut self, head: &Head) {
        self.deflated = head.deflated;
        self.text = (head.opcode == Opcode::Text).then(Utf8::default);
        self.size = 0;
        self.content = Some(Vec::new());
        if head.deflated && (self.inflate.is_none() || !self.takeover) {
            self.inflate = Some(fresh());
        }
    }

    /// Takes the next piece of a payload. What it inflates to is a thousand times its size at the most;
    /// who wants to stop in between gives small ones.
    ///
    /// # Errors
    /// [`Violation::NotDeflated`], or [`Violation::NotUtf8`] of a text.
    pub fn push(&mut self, plain: &[u8]) -> Result<(), Violation> {
        if self.deflated {
            self.inflate(plain)
        } else {
            self.keep(plain)
        }
    }

    /// Ends the message.
    ///
    /// # Errors
    /// As [`Assembler::push`].
    pub fn end(&mut self) -> Result<(), Violation> {
        // After a last block, and nothing behind it, nothing was flushed.
        if self.deflated && self.inflate.is_some() {
            self.inflate(&FLUSHED)?;
        }
        match &mut self.text {
            Some(text) => text.end(),
            None => Ok(()),
        }
    }

    /// The message so far.
    #[must_use]
    pub fn message(&self) -> Message<'_> {
        Message {
            text: self.text.is_some(),
            size: self.size,
            content: self.content.as_deref(),
        }
    }

    fn keep(&mut self, plain: &[u8]) -> Result<(), Violation> {
        self.size += plain.len() as u64;
        if let Some(text) = &mut self.text {
            text.push(plain)?;
        }
        if let Some(content) = &mut self.content {
            if content.len() + plain.len() <= self.bound {
                content.extend_from_slice(plain);
            } else {
                self.content = None;
            }
        }
        Ok(())
    }

    fn inflate(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let mut piece = std::mem::take(&mut self.piece);
        piece.resize(PIECE, 0);
        let inflated = self.inflate_through(&mut piece, bytes);
        self.piece = piece;
        inflated
    }

    fn inflate_through(&mut self, piece: &mut [u8], mut bytes: &[u8]) -> Result<(), Violation> {
        loop {
            let mut inflate = self.inflate.take().unwrap_or_else(fresh);
            let (before, written) = (inflate.total_in(), inflate.total_out());
            let status = inflate
                .decompress(bytes, piece, FlushDecompress::None)
                .map_err(|_| Violation::NotDeflated)?;
            let took = |all: u64, before: u64| usize::try_from(all - before).unwrap_or(usize::MAX);
            let read = took(inflate.total_in(), before);
            let written = took(inflate.total_out(), written);
            bytes = bytes.get(read..).unwrap_or_default();
            self.keep(piece.get(..written).unwrap_or_default())?;
            // A last block need not be the last (RFC 7692, 7.2.3.4); what follows begins anew.
            if status != Status::StreamEnd {
                self.inflate = Some(inflate);
                if read == 0 && written == 0 && !bytes.is_empty() {
                    return Err(Violation::NotDeflated);
                }
            }
            if bytes.is_empty() && (written < PIECE || self.inflate.is_none()) {
                return Ok(());
            }
        }
    }
}

fn fresh() -> Box<Decompress> {
    Box::new(Decompress::new(false))
}
