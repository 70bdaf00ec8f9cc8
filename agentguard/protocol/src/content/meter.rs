//! How much content there is: in bytes as they are sent, or as they decode to, whichever is more.

use super::{Codings, Layer, NotCodings, Undecodable};

/// Measures content as it comes. What it decodes to is counted and dropped.
pub struct Meter {
    layer: Option<Layer>,
    sent: u64,
    decoded: u64,
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
        let layer = codings.next().map(|coding| Layer::new(coding, u64::MAX));
        if codings.next().is_some() {
            return Err(NotCodings::TooMany(1));
        }
        Ok(Self {
            layer,
            sent: 0,
            decoded: 0,
        })
    }

    /// Counts what was sent before it was measured. For content that is not coded.
    pub fn sent_before(&mut self, sent: u64) {
        self.sent = self.sent.saturating_add(sent);
    }

    /// How much there is so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.sent.max(self.decoded)
    }

    /// Takes bytes until there is more content than `limit`. Gives how many of them it took; the
    /// others can be pushed again, under a higher limit. All of them are taken, and nothing of what they decode
    /// to is left, where the size is within the limit afterwards.
    ///
    /// # Errors
    /// [`Undecodable`]: how much there is cannot be told any more.
    pub fn push(&mut self, bytes: &[u8], limit: u64) -> Result<usize, Undecodable> {
        let Some(layer) = &mut self.layer else {
            self.sent = self.sent.saturating_add(bytes.len() as u64);
            return Ok(bytes.len());
        };
        let mut taken = 0;
        while self.sent.max(self.decoded) <= limit {
            let rest = bytes.get(taken..).unwrap_or_default();
            let step = layer.step(rest)?;
            taken += step.read;
            self.sent = self.sent.saturating_add(step.read as u64);
            self.decoded = self.decoded.saturating_add(step.written as u64);
            if step.written == 0 && taken == bytes.len() {
                break;
            }
        }
        Ok(taken)
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

    use super::Meter;
    use crate::content::{Coding, Codings, NotCodings, PIECE};

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip() -> Meter {
        Meter::new(&Codings::from_iter([Coding::Gzip])).unwrap()
    }

    #[test]
    fn content_that_is_not_coded_is_as_large_as_it_is() {
        let mut meter = Meter::new(&Codings::default()).unwrap();
        assert_eq!(meter.push(b"hello", 2), Ok(5));
        assert_eq!(meter.size(), 5);
        assert_eq!(meter.finish(), Ok(()));
    }

    #[test]
    fn packed_content_is_as_large_as_what_is_in_it() {
        let content = vec![b'a'; 100_000];
        for chunk in [1, 7, 4096] {
            let mut meter = gzip();
            for bytes in packed(&content).chunks(chunk) {
                assert_eq!(meter.push(bytes, u64::MAX), Ok(bytes.len()));
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
        assert_eq!(meter.push(&packed, u64::MAX), Ok(packed.len()));
        assert_eq!(meter.size(), packed.len() as u64);
    }

    #[test]
    fn a_bomb_is_looked_into_up_to_the_limit_and_can_go_on_from_there() {
        let content = vec![0; 8 << 20];
        let packed = packed(&content);
        let mut meter = gzip();
        let mut rest = packed.as_slice();
        for limit in [1000, 100_000, 5 << 20] {
            let taken = meter.push(rest, limit).unwrap();
            assert!(meter.size() > limit && meter.size() <= limit + PIECE as u64);
            rest = &rest[taken..];
        }
        assert_eq!(meter.push(rest, 8 << 20), Ok(rest.len()));
        assert_eq!(meter.size(), 8 << 20);
        assert_eq!(meter.finish(), Ok(()));
    }

    #[test]
    fn what_cannot_be_measured_is_told() {
        let mut meter = gzip();
        assert!(meter.push(b"not gzip at all", u64::MAX).is_err());
        let mut meter = gzip();
        let packed = packed(b"hello");
        meter.push(&packed[..packed.len() - 1], u64::MAX).unwrap();
        assert!(meter.finish().is_err());
        let stacked = Codings::from_iter([Coding::Gzip, Coding::Brotli]);
        assert!(matches!(Meter::new(&stacked), Err(NotCodings::TooMany(1))));
    }
}
