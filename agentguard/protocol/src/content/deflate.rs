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
    First(Option<u8>),
    /// It is known, and the byte that was kept to know it is still to be read.
    Known(Inflate, Option<u8>),
}

impl Default for Deflate {
    fn default() -> Self {
        Self::First(None)
    }
}

/// RFC 1950, 2.2: the method is 8, the window at most 32 KiB, and the two bytes are a multiple of 31. A
/// bare block that begins like that is a stored one with its unused bits set, which nobody writes.
fn is_zlib(first: u8, second: u8) -> bool {
    let check = u16::from_be_bytes([first, second]);
    first & 0x0f == 8 && first >> 4 <= 7 && check.is_multiple_of(31)
}

impl Deflate {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Undecodable> {
        let corrupt = Undecodable::Corrupt(Coding::Deflate, "it cannot be inflated");
        match self {
            Self::First(kept) => {
                let Some(byte) = input.first() else {
                    return Ok(Step {
                        read: 0,
                        written: 0,
                    });
                };
                match *kept {
                    None => {
                        *kept = Some(*byte);
                        Ok(Step {
                            read: 1,
                            written: 0,
                        })
                    }
                    Some(first) => {
                        let inflate = Inflate::new(is_zlib(first, *byte));
                        *self = Self::Known(inflate, Some(first));
                        self.step(input, output)
                    }
                }
            }
            Self::Known(inflate, first @ Some(_)) => {
                let byte = first.take().unwrap_or_default();
                let step = inflate.step(&[byte], output).ok_or(corrupt)?;
                // One byte is a header's or a block's first: it ends nothing and gives out nothing.
                if step.read != 1 || step.written != 0 {
                    return Err(corrupt);
                }
                self.step(input, output)
            }
            Self::Known(inflate, None) if inflate.ended() => match input {
                [] => Ok(Step {
                    read: 0,
                    written: 0,
                }),
                _ => Err(Undecodable::Trailing(Coding::Deflate)),
            },
            Self::Known(inflate, None) => inflate.step(input, output).ok_or(corrupt),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Known(inflate, None) if inflate.ended())
    }
}
