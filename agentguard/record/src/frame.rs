//! How an entry lies in a segment, and how a segment is read when parts of it are broken.
//!
//! A frame is a head of 16 bytes and the payload: length of the payload (u32), CRC32C (u32) over
//! length, number and payload, number of the entry (u64); all little-endian. Numbers start at 1 and
//! rise by one, over all segments. A length is below 2²⁰, so a head always holds a zero byte, which
//! no JSON payload does: what looks like a valid frame is one, at whatever offset a search finds it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes before the payload.
pub(crate) const HEAD: usize = 16;

/// The longest payload, in bytes. A longer entry is refused by the writer.
pub(crate) const MAX_PAYLOAD: usize = (1 << 20) - 1;

/// How much is read from a file at once.
const CHUNK: usize = 256 * 1024;

/// Appends the frame of a payload, which is at most [`MAX_PAYLOAD`] long.
pub(crate) fn encode(number: u64, payload: &[u8], into: &mut Vec<u8>) {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let number = number.to_le_bytes();
    into.reserve(HEAD + payload.len());
    into.extend_from_slice(&length);
    into.extend_from_slice(&checksum(length, number, payload).to_le_bytes());
    into.extend_from_slice(&number);
    into.extend_from_slice(payload);
}

fn checksum(length: [u8; 4], number: [u8; 8], payload: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(&length), &number);
    crc32c::crc32c_append(head, payload)
}

/// The head of a frame, taken apart; nothing in it is checked.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    crc: u32,
    number: u64,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            length: usize::try_from(u32::from_le_bytes(*length)).ok()?,
            crc: u32::from_le_bytes(*crc),
            number: u64::from_le_bytes(*number),
        })
    }

    fn fits(&self, payload: &[u8]) -> bool {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_le_bytes();
        checksum(length, self.number.to_le_bytes(), payload) == self.crc
    }
}

/// No less than most frames have, in bytes.
const USUAL: usize = 2048;

/// Reads the frame at an offset; `None` if there is no valid one.
///
/// # Errors
/// What the file system says.
pub(crate) fn read_at(file: &File, offset: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    // With what comes behind it, so that most are read by one call. What cannot be read there is no matter: the frame is asked
    // for alone then.
    let mut bytes = vec![0; USUAL];
    let mut read = read_once(file, &mut bytes, offset).unwrap_or(0);
    if let Some(rest) = bytes.get_mut(read..HEAD) {
        read += read_up_to(file, rest, offset.saturating_add(read as u64))?;
    }
    let head = bytes.get(..read).and_then(Head::parse);
    let Some(head) = head.filter(|head| head.length <= MAX_PAYLOAD) else {
        return Ok(None);
    };
    bytes.truncate(read);
    bytes.resize(HEAD + head.length, 0);
    let rest = bytes.get_mut(read..).unwrap_or_default();
    if read_up_to(file, rest, offset.saturating_add(read as u64))? < rest.len() {
        return Ok(None);
    }
    bytes.drain(..HEAD);
    Ok(head.fits(&bytes).then_some((head.number, bytes)))
}

/// Reads until the buffer is full or the file ends; how much it was.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
        match read_once(file, free, offset.saturating_add(filled as u64))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Reads as much as comes at once.
fn read_once(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// One step of a [`Scanner`].
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A valid frame.
    Entry {
        /// Where it begins.
        offset: u64,
        /// The number of the entry.
        number: u64,
        /// Its payload.
        payload: &'a [u8],
    },
    /// Bytes that cannot be read, from an offset to where reading goes on (or the end).
    Damage {
        /// Where it begins.
        offset: u64,
        /// Where the next valid frame begins; the end if there is none.
        until: u64,
        /// The numbers that are missing, first and last, where a later frame tells.
        missing: Option<(u64, u64)>,
    },
}

/// Reads the frames of one segment in order. Memory: one chunk, or the longest frame.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    file: &'a File,
    /// Where the next frame begins.
    offset: u64,
    /// Where the segment ends; nothing behind it is looked at.
    end: u64,
    /// The number that the next frame should have.
    expected: u64,
    buffer: Vec<u8>,
    /// The offset in the file of the buffer's first byte.
    start: u64,
}

impl<'a> Scanner<'a> {
    /// Reads from `offset`, where entry number `expected` begins, to `end`.
    pub(crate) fn new(file: &'a File, offset: u64, end: u64, expected: u64) -> Self {
        Self {
            file,
            offset,
            end,
            expected,
            buffer: Vec::new(),
            start: offset,
        }
    }

    /// Where the next frame begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The number that the next frame should have.
    pub(crate) fn expected(&self) -> u64 {
        self.expected
    }

    /// The next frame, or the next stretch of bytes that are none; `None` at the end.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn next(&mut self) -> io::Result<Option<Step<'_>>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let at = self.offset;
        if let Some(head) = self.valid(at, self.expected, self.expected)? {
            return Ok(Some(self.take(at, head)));
        }
        // Wide enough for whatever may have been cut out, narrow enough that four bytes of a number
        // must be zero.
        let last = self.expected.saturating_add(u64::from(u32::MAX));
        let mut probe = at;
        while probe < self.end {
            if let Some(head) = self.valid(probe, self.expected, last)? {
                let missing =
                    (head.number > self.expected).then(|| (self.expected, head.number - 1));
                self.offset = probe;
                self.expected = head.number;
                return Ok(Some(Step::Damage {
                    offset: at,
                    until: probe,
                    missing,
                }));
            }
            probe += 1;
        }
        self.offset = self.end;
        Ok(Some(Step::Damage {
            offset: at,
            until: self.end,
            missing: None,
        }))
    }

    /// The head of the frame at an offset, if it is whole, undamaged and numbered within bounds.
    fn valid(&mut self, at: u64, least: u64, most: u64) -> io::Result<Option<Head>> {
        let Some(head) = Head::parse(self.window(at, HEAD)?) else {
            return Ok(None);
        };
        if head.length > MAX_PAYLOAD || !(least..=most).contains(&head.number) {
            return Ok(None);
        }
        let frame = self.window(at, HEAD + head.length)?;
        let Some(payload) = frame.get(HEAD..) else {
            return Ok(None);
        };
        Ok((payload.len() == head.length && head.fits(payload)).then_some(head))
    }

    fn take(&mut self, at: u64, head: Head) -> Step<'_> {
        self.offset = at + (HEAD + head.length) as u64;
        self.expected = head.number.saturating_add(1);
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        let payload = self
            .buffer
            .get(from.saturating_add(HEAD)..)
            .and_then(|rest| rest.get(..head.length))
            .unwrap_or_default();
        Step::Entry {
            offset: at,
            number: head.number,
            payload,
        }
    }

    /// The bytes at an offset: as many as asked for, or fewer at the end.
    fn window(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let length = length.min(left);
        let held = at
            .checked_sub(self.start)
            .and_then(|from| usize::try_from(from).ok())
            .filter(|from| {
                from.checked_add(length)
                    .is_some_and(|to| to <= self.buffer.len())
            });
        let from = match held {
            Some(from) => from,
            None => {
                self.buffer.resize(length.max(CHUNK).min(left), 0);
                self.start = at;
                let filled = read_up_to(self.file, &mut self.buffer, at)?;
                // The file is shorter than it was said to be: the rest is missing, not zero.
                if filled < self.buffer.len() {
                    self.buffer.truncate(filled);
                    self.end = self.end.min(at + filled as u64);
                }
                0
            }
        };
        let rest = self.buffer.get(from..).unwrap_or_default();
        Ok(rest.get(..length).unwrap_or(rest))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::{HEAD, Scanner, Step, encode, read_at};

    fn file(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    type Entries = Vec<(u64, Vec<u8>)>;

    fn scan(bytes: &[u8], expected: u64) -> (Entries, Vec<(u64, u64)>) {
        let file = file(bytes);
        let mut scanner = Scanner::new(&file, 0, bytes.len() as u64, expected);
        let (mut entries, mut damage) = (Vec::new(), Vec::new());
        while let Some(step) = scanner.next().unwrap() {
            match step {
                Step::Entry {
                    number, payload, ..
                } => entries.push((number, payload.to_vec())),
                Step::Damage { offset, until, .. } => damage.push((offset, until)),
            }
        }
        (entries, damage)
    }

    #[test]
    fn frames_longer_than_a_chunk_are_read() {
        let mut bytes = Vec::new();
        let long = vec![b'x'; super::CHUNK * 3];
        encode(1, &long, &mut bytes);
        encode(2, b"{}", &mut bytes);
        let (entries, damage) = scan(&bytes, 1);
        assert_eq!(entries, [(1, long), (2, b"{}".to_vec())]);
        assert_eq!(damage, []);
        assert_eq!(read_at(&file(&bytes), 7).unwrap(), None);
    }

    #[test]
    fn frames_are_read_whatever_fits_into_the_first_read() {
        for length in [
            0,
            1,
            super::USUAL - HEAD - 1,
            super::USUAL - HEAD,
            super::USUAL - HEAD + 1,
            9_000,
        ] {
            let payload = vec![b'x'; length];
            let mut bytes = vec![b'-'; 5];
            encode(7, &payload, &mut bytes);
            let cut = bytes.len() - 1;
            assert_eq!(
                read_at(&file(&bytes), 5).unwrap(),
                Some((7, payload.clone()))
            );
            assert_eq!(read_at(&file(bytes.get(..cut).unwrap()), 5).unwrap(), None);
            encode(8, b"{}", &mut bytes);
            assert_eq!(read_at(&file(&bytes), 5).unwrap(), Some((7, payload)));
        }
    }

    #[test]
    fn a_missing_middle_is_told_with_the_numbers_that_are_missing() {
        let mut bytes = Vec::new();
        encode(1, b"a", &mut bytes);
        encode(4, b"b", &mut bytes);
        let file = file(&bytes);
        let mut scanner = Scanner::new(&file, 0, bytes.len() as u64, 1);
        assert!(matches!(
            scanner.next().unwrap(),
            Some(Step::Entry { number: 1, .. })
        ));
        let at = (HEAD + 1) as u64;
        assert!(matches!(
            scanner.next().unwrap(),
            Some(Step::Damage { offset, until, missing: Some((2, 3)) }) if offset == at && until == at
        ));
        assert!(matches!(
            scanner.next().unwrap(),
            Some(Step::Entry { number: 4, .. })
        ));
    }

    proptest! {
        /// Whatever is done to a stretch of bytes, every frame outside it is still read, and the
        /// damage is told.
        #[test]
        fn what_is_not_damaged_is_read(
            payloads in prop::collection::vec("[ -~]{0,60}", 1..12),
            at in any::<prop::sample::Index>(),
            junk in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            let mut bytes = Vec::new();
            let mut spans = Vec::new();
            for (number, payload) in (1..).zip(&payloads) {
                let from = bytes.len();
                encode(number, payload.as_bytes(), &mut bytes);
                spans.push((from, bytes.len(), number, payload.clone().into_bytes()));
            }
            let from = at.index(bytes.len());
            let to = (from + junk.len()).min(bytes.len());
            let before = bytes.clone();
            for (byte, junk) in bytes[from..to].iter_mut().zip(&junk) {
                *byte = *junk;
            }
            let (entries, damage) = scan(&bytes, 1);
            let hit = |a: usize, b: usize| before[a..b] != bytes[a..b];
            let whole: Vec<_> = spans
                .iter()
                .filter(|(a, b, ..)| !hit(*a, *b))
                .map(|(_, _, number, payload)| (*number, payload.clone()))
                .collect();
            prop_assert_eq!(entries, whole);
            prop_assert_eq!(damage.is_empty(), before == bytes);
        }

        /// A log cut anywhere gives its whole frames, then one stretch of damage up to the end.
        #[test]
        fn a_cut_log_gives_its_whole_frames(
            payloads in prop::collection::vec("[ -~]{0,60}", 1..12),
            at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for (number, payload) in (1..).zip(&payloads) {
                encode(number, payload.as_bytes(), &mut bytes);
                ends.push(bytes.len());
            }
            let cut = at.index(bytes.len() + 1);
            bytes.truncate(cut);
            let whole = ends.iter().rposition(|end| *end <= cut).unwrap();
            let (entries, damage) = scan(&bytes, 1);
            prop_assert_eq!(entries.len(), whole);
            let torn = ends[whole] < cut;
            prop_assert_eq!(damage, if torn { vec![(ends[whole] as u64, cut as u64)] } else { vec![] });
        }
    }
}
