//! How much content there is: in bytes as they are sent, or as they decode to, whichever is more.

use super::deflate::Doubt;
use super::{Codings, Layer, NotCodings, Undecodable};

/// How much is done at once, in bytes as they are decoded: what a few can come to must not keep a
/// caller busy for long.
pub const WORK: usize = 256 * 1024;

/// How many bytes are taken at once, and what one costs beside what it decodes to: tables are built of
/// few bytes that decode to none.
pub(super) const SLICE: usize = 2 * 1024;
pub(super) const COST: usize = 32;

/// What became of bytes that were pushed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pushed {
    /// How many of them were taken.
    pub taken: usize,
    /// Whether they are all counted, or given out.
    pub done: bool,
}

impl Pushed {
    /// All of them, at once.
    #[must_use]
    pub const fn all(bytes: &[u8]) -> Self {
        Self {
            taken: bytes.len(),
            done: true,
        }
    }
}

/// Measures content as it comes. What it decodes to is counted and dropped.
pub struct Meter {
    layer: Option<Layer>,
    sent: u64,
    decoded: u64,
    beside: u64,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter")
            .field("sent", &self.sent)
            .field("decoded", &self.decoded)
            .finish_non_exhaustive()
    }
}

impl Meter {
    /// For content that is so coded.
    ///
    /// # Errors
    /// [`NotCodings::TooMany`] for more than one: a coding in between could decode to any amount that nobody
    /// bounds.
    pub fn new(codings: &Codings) -> Result<Self, NotCodings> {
        let mut codings = codings.iter();
        let layer = codings
            .next()
            .map(|coding| Layer::new(coding, u64::MAX, Doubt::Refused));
        if codings.next().is_some() {
            return Err(NotCodings::TooMany(1));
        }
        Ok(Self {
            layer,
            sent: 0,
            decoded: 0,
            beside: 0,
        })
    }

    /// Counts what was or is sent beside what is pushed.
    pub fn add(&mut self, sent: u64) {
        self.beside = self.beside.saturating_add(sent);
    }

    /// How much there is so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.sent.max(self.decoded).saturating_add(self.beside)
    }

    /// Takes bytes until there is more content than `limit`, or [`WORK`] was done. Those that were not
    /// taken can be pushed again, also if they are none: where it is not done, what they decode to is
    /// still to be counted.
    ///
    /// # Errors
    /// [`Undecodable`]: how much there is cannot be told any more.
    pub fn push(&mut self, bytes: &[u8], limit: u64) -> Result<Pushed, Undecodable> {
        let mut taken = 0;
        let mut work = 0;
        while self.size() <= limit {
            let Some(layer) = &mut self.layer else {
                self.sent = self.sent.saturating_add(bytes.len() as u64);
                return Ok(Pushed {
                    taken: bytes.len(),
                    done: true,
                });
            };
            if work >= WORK {
                return Ok(Pushed { taken, done: false });
            }
            let rest = bytes.get(taken..).unwrap_or_default();
            let rest = rest.get(..SLICE).unwrap_or(rest);
            let step = layer.step(rest)?;
            taken += step.read;
            work += step.written + COST * step.read;
            self.sent = self.sent.saturating_add(step.read as u64);
            self.decoded = self.decoded.saturating_add(step.written as u64);
            if step.written == 0 && taken == bytes.len() {
                return Ok(Pushed { taken, done: true });
            }
        }
        Ok(Pushed { taken, done: false })
    }

    /// Says whether the content was all there.
    ///
    /// # Errors
    /// [`Undecodable::Truncated`].
    pub fn finish(&self) -> Result<(), Undecodable> {
        match &self.layer {
            Some(layer) if !layer.is_complete() => Err(Undecodable::Truncated(layer.coding)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::{COST, Meter, SLICE, WORK};
    use crate::content::{Coding, Codings, NotCodings, PIECE};

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip() -> Meter {
        Meter::new(&Codings::from_iter([Coding::Gzip])).unwrap()
    }

    /// Pushes until nothing is left to do or it is over; how many bytes that took.
    fn push(meter: &mut Meter, bytes: &[u8], limit: u64) -> usize {
        let mut taken = 0;
        loop {
            let pushed = meter.push(&bytes[taken..], limit).unwrap();
            taken += pushed.taken;
            if pushed.done || meter.size() > limit {
                return taken;
            }
        }
    }

    #[test]
    fn content_that_is_not_coded_is_as_large_as_it_is() {
        let mut meter = Meter::new(&Codings::default()).unwrap();
        assert_eq!(push(&mut meter, b"hello", 2), 5);
        assert_eq!(meter.size(), 5);
        meter.add(2);
        assert_eq!(meter.size(), 7);
        assert_eq!(meter.finish(), Ok(()));
    }

    #[test]
    fn packed_content_is_as_large_as_what_is_in_it() {
        let content = vec![b'a'; 100_000];
        for chunk in [1, 7, 4096] {
            let mut meter = gzip();
            for bytes in packed(&content).chunks(chunk) {
                assert_eq!(push(&mut meter, bytes, u64::MAX), bytes.len());
            }
            assert_eq!(meter.size(), 100_000);
            assert_eq!(meter.finish(), Ok(()));
        }
    }

    #[test]
    fn content_that_does_not_pack_is_as_large_as_what_is_sent() {
        let content: Vec<u8> = (0..=255).collect();
        let packed = packed(&content);
        let mut meter = gzip();
        assert_eq!(push(&mut meter, &packed, u64::MAX), packed.len());
        assert_eq!(meter.size(), packed.len() as u64);
    }

    #[test]
    fn a_bomb_is_looked_into_up_to_the_limit_and_can_go_on_from_there() {
        let content = vec![0; 8 << 20];
        let packed = packed(&content);
        let mut meter = gzip();
        let mut rest = packed.as_slice();
        for limit in [1000, 100_000, 5 << 20] {
            let taken = push(&mut meter, rest, limit);
            assert!(meter.size() > limit && meter.size() <= limit + PIECE as u64);
            rest = &rest[taken..];
        }
        assert_eq!(push(&mut meter, rest, 8 << 20), rest.len());
        assert_eq!(meter.size(), 8 << 20);
        assert_eq!(meter.finish(), Ok(()));
    }

    #[test]
    fn a_bomb_is_looked_into_bit_by_bit() {
        let packed = packed(&vec![0; 8 << 20]);
        let mut meter = gzip();
        let pushed = meter.push(&packed, u64::MAX).unwrap();
        assert!(!pushed.done);
        let most = u64::try_from(WORK + PIECE).unwrap();
        assert!(meter.size() <= most, "{}", meter.size());
    }

    #[test]
    fn bytes_that_decode_to_nothing_are_looked_at_bit_by_bit() {
        // A member's name, without its end.
        let fname = 1 << 3;
        let mut head = vec![0x1f, 0x8b, 8, fname, 0, 0, 0, 0, 0, 0];
        head.resize(1 << 20, b'x');
        let mut meter = gzip();
        let pushed = meter.push(&head, u64::MAX).unwrap();
        assert!(!pushed.done);
        assert!(pushed.taken <= WORK / COST + SLICE, "{pushed:?}");
        assert_eq!(
            push(&mut meter, &head[pushed.taken..], u64::MAX),
            head.len() - pushed.taken
        );
    }

    #[test]
    fn what_cannot_be_measured_is_told() {
        let mut meter = gzip();
        assert!(meter.push(b"not gzip at all", u64::MAX).is_err());
        let mut meter = gzip();
        let packed = packed(b"hello");
        push(&mut meter, &packed[..packed.len() - 1], u64::MAX);
        assert!(meter.finish().is_err());
        let stacked = Codings::from_iter([Coding::Gzip, Coding::Brotli]);
        assert!(matches!(Meter::new(&stacked), Err(NotCodings::TooMany(1))));
    }
}
