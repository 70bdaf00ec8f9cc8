//! Where a chunked body ends (RFC 9112, 7.1).

use crate::HttpMalformed;

/// The most bytes of chunk extensions in one body. They mean nothing to anybody here and are
/// dropped behind the gate; reaching the bound ends the request.
const MAX_EXTENSIONS: u32 = 8 * 1024;

/// The most hexadecimal digits of a chunk's size.
const MAX_DIGITS: u8 = 15;

#[derive(Debug)]
enum State {
    Size { value: u64, digits: u8 },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data(u64),
    DataCr,
    DataLf,
}

/// Follows the chunks up to the last one; the trailer section is the caller's.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
    extensions: u32,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            state: State::Size {
                value: 0,
                digits: 0,
            },
            extensions: 0,
        }
    }
}

impl Chunks {
    /// How many of `bytes` belong to chunks, and whether the last chunk's size line is among them.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), HttpMalformed> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let State::Data(left) = &mut self.state {
                let here = bytes.len() - at;
                let taken = usize::try_from(*left).map_or(here, |left| left.min(here));
                *left -= taken as u64;
                at += taken;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            at += 1;
            if self.step(*byte)? {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Takes a byte that is not data. True after the last chunk's size line.
    fn step(&mut self, byte: u8) -> Result<bool, HttpMalformed> {
        self.state = match (&self.state, byte) {
            (State::Size { value, digits }, byte) => {
                let digit = char::from(byte).to_digit(16);
                match (digit, byte) {
                    (Some(_), _) if *digits == MAX_DIGITS => {
                        return Err(HttpMalformed::Chunk("its size is too long"));
                    }
                    (Some(digit), _) => State::Size {
                        value: value * 16 + u64::from(digit),
                        digits: digits + 1,
                    },
                    (None, _) if *digits == 0 => {
                        return Err(HttpMalformed::Chunk("it has no size"));
                    }
                    (None, b'\r') => State::SizeLf { value: *value },
                    (None, b';') => State::Extension { value: *value },
                    (None, _) => return Err(HttpMalformed::Chunk("its size is not hexadecimal")),
                }
            }
            (State::Extension { value }, b'\r') => State::SizeLf { value: *value },
            (State::Extension { value }, b'\t' | 0x20..=0x7e) => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err(HttpMalformed::Chunk("its extensions are too long"));
                }
                State::Extension { value: *value }
            }
            (State::Extension { .. }, _) => {
                return Err(HttpMalformed::Chunk(
                    "its extension has a control character",
                ));
            }
            (State::SizeLf { value: 0 }, b'\n') => return Ok(true),
            (State::SizeLf { value }, b'\n') => State::Data(*value),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size {
                value: 0,
                digits: 0,
            },
            (State::SizeLf { .. }, _) => return Err(HttpMalformed::BareCr),
            (State::DataCr | State::DataLf | State::Data(_), _) => {
                return Err(HttpMalformed::Chunk("its data is longer than its size"));
            }
        };
        Ok(false)
    }
}
