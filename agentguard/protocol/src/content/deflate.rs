//! `deflate`: zlib's format (RFC 1950), or the bare one inside it (RFC 1951).
//!
//! A reference to before the beginning has zeros there, where zlib refuses it. A checksum finds that; the bare
//! format has none, and a receiver that refuses it takes nothing that was not seen.

use flate2::{Decompress, FlushDecompress, Status};

use super::{Coding, Step, Undecodable};

/// An inflater that has been told which of the two it reads.
pub(super) struct Inflate {
    inner: Decompress,
    ended: bool,
}

impl Inflate {
    /// Of zlib's format, or bare.
    pub(super) fn new(zlib: bool) -> Self {
        Self {
            inner: Decompress::new(zlib),
            ended: false,
        }
    }

    /// Begins anew, bare.
    pub(super) fn begin(&mut self) {
        if self.inner.total_in() > 0 {
            self.inner.reset(false);
        }
        self.ended = false;
    }

    /// Whether the last block, and the checksum where there is one, have come.
    pub(super) const fn ended(&self) -> bool {
        self.ended
    }

    /// Inflates what fits. None if the bytes are not deflated.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Option<Step> {
        let (read, written) = (self.inner.total_in(), self.inner.total_out());
        let status = self.inner.decompress(input, output, FlushDecompress::None);
        self.ended = matches!(status.ok()?, Status::StreamEnd);
        Some(Step {
            read: usize::try_from(self.inner.total_in() - read).ok()?,
            written: usize::try_from(self.inner.total_out() - written).ok()?,
        })
    }
}

/// `deflate` as it is met.
pub(super) enum Deflate {
    /// The first bytes say which format it is.
    First(Vec<u8>, Doubt),
    /// It is known, and so many of the bytes that were kept to know it have been read.
    Known(Inflate, Vec<u8>, usize),
}

/// What is read where the first bytes say both, as those of one content in 65,536 do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doubt {
    /// zlib's format, which is the one that is meant (RFC 9110, 8.4.1.2).
    Zlib,
    /// Nothing: which one it is would be the receiver's to say.
    Refused,
}

/// How many of the first bytes say which format it is.
const SAYING: usize = 5;

/// RFC 1950, 2.2: the method is 8, the window at most 32 KiB, and the two bytes are a multiple of 31.
fn is_zlib(first: u8, second: u8) -> bool {
    let check = u16::from_be_bytes([first, second]);
    first & 0x0f == 8 && first >> 4 <= 7 && check.is_multiple_of(31)
}

/// RFC 1951, 3.2.4: what begins as zlib's does is a stored block, if it is bare; then its length comes twice.
fn is_stored([_, a, b, c, d]: [u8; SAYING]) -> bool {
    u16::from_le_bytes([a, b]) == !u16::from_le_bytes([c, d])
}

impl Deflate {
    pub(super) const fn new(doubt: Doubt) -> Self {
        Self::First(Vec::new(), doubt)
    }

    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Undecodable> {
        let corrupt = |why| Undecodable::Corrupt(Coding::Deflate, why);
        const BROKEN: &str = "it cannot be inflated";
        match self {
            Self::First(kept, doubt) => {
                let read = input.len().min(SAYING - kept.len());
                kept.extend_from_slice(input.get(..read).unwrap_or_default());
                let zlib = match kept.as_slice() {
                    [first, second, ..] => is_zlib(*first, *second),
                    _ => return Ok(Step { read, written: 0 }),
                };
                let stored = <[u8; SAYING]>::try_from(kept.as_slice()).map(is_stored);
                if let (Doubt::Refused, true) = (doubt, zlib) {
                    match stored {
                        Ok(true) => return Err(corrupt("it can be read in two ways")),
                        Ok(false) => {}
                        Err(_) => return Ok(Step { read, written: 0 }),
                    }
                }
                *self = Self::Known(Inflate::new(zlib), std::mem::take(kept), 0);
                let step = self.step(input.get(read..).unwrap_or_default(), output)?;
                Ok(Step {
                    read: read + step.read,
                    ..step
                })
            }
            Self::Known(inflate, kept, at) if *at < kept.len() => {
                let rest = kept.get(*at..).unwrap_or_default();
                let step = inflate.step(rest, output).ok_or(corrupt(BROKEN))?;
                if inflate.ended() && *at + step.read < kept.len() {
                    return Err(Undecodable::Trailing(Coding::Deflate));
                }
                *at += step.read;
                // None of `input`: that comes behind.
                if step.written == 0 && *at == kept.len() {
                    return self.step(input, output);
                }
                if step.read == 0 && step.written == 0 {
                    return Err(corrupt(BROKEN));
                }
                Ok(Step {
                    read: 0,
                    written: step.written,
                })
            }
            Self::Known(inflate, ..) if inflate.ended() => match input {
                [] => Ok(Step {
                    read: 0,
                    written: 0,
                }),
                _ => Err(Undecodable::Trailing(Coding::Deflate)),
            },
            Self::Known(inflate, ..) => inflate.step(input, output).ok_or(corrupt(BROKEN)),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Known(inflate, kept, at) if inflate.ended() && *at == kept.len())
    }
}
