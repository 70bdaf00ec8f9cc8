//! `gzip` (RFC 1952): one member after the other.

use flate2::Crc;

use super::deflate::Inflate;
use super::{Coding, Step, Undecodable};

// RFC 1952, 2.3.1.
const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// Where in a member the next byte stands. Numbers count the bytes of that part that have been read.
enum Part {
    Fixed(u8),
    ExtraLength(u8, u16),
    Extra(u16),
    Name,
    Comment,
    HeaderCrc(u8, u16),
    Data,
    Trailer(u8, [u8; 8]),
    /// Behind a member, where another one may begin.
    Behind,
}

/// A body of gzip. Of a header nothing is kept.
pub(super) struct Gzip {
    part: Part,
    flags: u8,
    /// Of the header, then of the data.
    crc: Crc,
    /// One for all members: a body may have many, and small ones.
    inflate: Inflate,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            part: Part::Fixed(0),
            flags: 0,
            crc: Crc::new(),
            inflate: Inflate::new(false),
        }
    }
}

const fn corrupt(what: &'static str) -> Undecodable {
    Undecodable::Corrupt(Coding::Gzip, what)
}

impl Gzip {
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Undecodable> {
        let mut read = 0;
        loop {
            if let Part::Data = self.part {
                let rest = input.get(read..).unwrap_or_default();
                let step = self
                    .inflate
                    .step(rest, output)
                    .ok_or(corrupt("it cannot be inflated"))?;
                self.crc
                    .update(output.get(..step.written).unwrap_or_default());
                if self.inflate.ended() {
                    self.part = Part::Trailer(0, [0; 8]);
                }
                return Ok(Step {
                    read: read + step.read,
                    written: step.written,
                });
            }
            let Some(byte) = input.get(read) else {
                return Ok(Step { read, written: 0 });
            };
            read += 1;
            self.byte(*byte)?;
        }
    }

    pub(super) const fn is_complete(&self) -> bool {
        matches!(self.part, Part::Behind)
    }

    /// Takes a byte of a header or trailer.
    fn byte(&mut self, byte: u8) -> Result<(), Undecodable> {
        if let Part::Behind = self.part {
            if byte != 0x1f {
                return Err(Undecodable::Trailing(Coding::Gzip));
            }
            self.part = Part::Fixed(0);
            self.flags = 0;
            self.crc.reset();
        }
        let crc = self.crc.sum();
        if !matches!(self.part, Part::Trailer(..)) {
            self.crc.update(&[byte]);
        }
        match &mut self.part {
            Part::Fixed(at) => {
                let fits = match *at {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8,
                    3 => byte & RESERVED == 0,
                    _ => true,
                };
                if !fits {
                    return Err(corrupt("it does not begin as gzip does"));
                }
                if *at == 3 {
                    self.flags = byte;
                }
                *at += 1;
                if *at == 10 {
                    self.header_goes_on();
                }
            }
            Part::ExtraLength(0, _) => self.part = Part::ExtraLength(1, byte.into()),
            Part::ExtraLength(_, low) => {
                self.part = Part::Extra(u16::from(byte) << 8 | *low);
                if let Part::Extra(0) = self.part {
                    self.header_goes_on();
                }
            }
            Part::Extra(left) => {
                *left -= 1;
                if *left == 0 {
                    self.header_goes_on();
                }
            }
            Part::Name | Part::Comment if byte == 0 => self.header_goes_on(),
            Part::Name | Part::Comment => {}
            Part::HeaderCrc(0, sum) => {
                // The low half of the header's, up to here (RFC 1952, 2.3.1).
                let [.., low, lowest] = crc.to_be_bytes();
                *sum = u16::from_be_bytes([low, lowest]);
                if byte != lowest {
                    return Err(corrupt("its header's checksum is wrong"));
                }
                self.part = Part::HeaderCrc(1, *sum);
            }
            Part::HeaderCrc(_, sum) => {
                if u16::from(byte) != *sum >> 8 {
                    return Err(corrupt("its header's checksum is wrong"));
                }
                self.header_goes_on();
            }
            Part::Trailer(at, bytes) => {
                if let Some(place) = bytes.get_mut(usize::from(*at)) {
                    *place = byte;
                }
                *at += 1;
                if *at == 8 {
                    let expected = [crc.to_le_bytes(), self.crc.amount().to_le_bytes()];
                    if bytes.as_slice() != expected.as_flattened() {
                        return Err(corrupt("its checksum is wrong"));
                    }
                    self.part = Part::Behind;
                }
            }
            Part::Data | Part::Behind => {}
        }
        Ok(())
    }

    /// Goes on to the next part of the header that there is, or to the data.
    fn header_goes_on(&mut self) {
        let parts: [(u8, fn() -> Part); 4] = [
            (FEXTRA, || Part::ExtraLength(0, 0)),
            (FNAME, || Part::Name),
            (FCOMMENT, || Part::Comment),
            (FHCRC, || Part::HeaderCrc(0, 0)),
        ];
        for (flag, part) in parts {
            if self.flags & flag != 0 {
                self.flags &= !flag;
                self.part = part();
                return;
            }
        }
        self.crc.reset();
        self.inflate.begin();
        self.part = Part::Data;
    }
}
