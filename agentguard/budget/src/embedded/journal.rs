//! What happened since the last checkpoint, in the order in which it did.
//!
//! A file for each generation: frames of a length (u32, little-endian), a checksum (CRC-32C of what follows) and an entry
//! in postcard. What is written survives this process with the return of `write(2)`; the host's end it survives once it was
//! synchronised, which happens within [`super::SYNC`] of it. A frame that is not whole, at the end, is one that was never
//! answered. One in the middle is damage, and is told.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::charge::{HoldId, Terms};
use crate::embedded::account::Name;

/// The most bytes of an entry: of a name with long values, or of a call with as many accounts as there may be.
const MAX_ENTRY: usize = 256 * 1024;
/// The most bytes of a journal that are read: many times as many as one has, which ends at some MiB. A ledger with a longer
/// one is not opened.
const MAX_READ: u64 = 256 << 20;
/// What precedes an entry.
const HEAD: usize = 8;

/// Something that happened.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) enum Entry {
    /// An account has this number in this journal.
    Opens {
        account: u32,
        name: Name,
        until: Option<i64>,
    },
    Holds {
        id: HoldId,
        at: i64,
        parts: Vec<Part>,
        tokens: u64,
    },
    /// It may write so many tokens in all.
    Extends { id: HoldId, tokens: u64 },
    /// None: as much as is held.
    Settles {
        id: HoldId,
        at: i64,
        used: Option<Vec<u64>>,
    },
    /// Somebody says what was used.
    Sets { account: u32, at: i64, used: u64 },
    /// It may have written so many tokens in all, though it holds fewer; 0: no more than it holds.
    Owes { id: HoldId, tokens: u64 },
}

/// What one account holds for a call.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Part {
    pub(crate) account: u32,
    pub(crate) terms: Terms,
    pub(crate) place: u64,
    pub(crate) held: u64,
}

#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// How long it is, as far as it is whole.
    length: u64,
    /// What is to be written next, also what could not be written before.
    waits: Vec<u8>,
    /// Whether its end is not known any more.
    lost: bool,
}

impl Journal {
    /// Where that of a generation is.
    pub(crate) fn path(directory: &Path, generation: u64) -> PathBuf {
        directory.join(format!("journal.{generation}"))
    }

    /// Makes that of a generation, empty.
    pub(crate) fn create(directory: &Path, generation: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(Self::path(directory, generation))?;
        Ok(Self {
            file,
            length: 0,
            waits: Vec::new(),
            lost: false,
        })
    }

    /// Notes an entry, which is written with [`Self::write`].
    pub(crate) fn note(&mut self, entry: &Entry) {
        // Neither can fail: it goes to memory, and what names and calls have is bounded.
        let Ok(content) = postcard::to_stdvec(entry) else {
            return;
        };
        let Ok(length) = u32::try_from(content.len()) else {
            return;
        };
        self.waits.extend_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&content);
        self.waits.extend_from_slice(&checksum.to_le_bytes());
        self.waits.extend_from_slice(&content);
    }

    /// How much waits to be written.
    pub(crate) const fn waiting(&self) -> usize {
        self.waits.len()
    }

    /// Forgets what waits beyond this: it was not written.
    pub(crate) fn forget(&mut self, waiting: usize) {
        self.waits.truncate(waiting);
    }

    /// Writes what waits. What could not be written goes on waiting.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        if self.lost {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            self.lost = false;
        }
        if let Err(error) = self.file.write_all(&self.waits) {
            // Something of it may be there, and nothing behind that would be read.
            self.lost = true;
            return Err(error);
        }
        self.length += self.waits.len() as u64;
        self.waits.clear();
        Ok(())
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// The file, for whoever synchronises it.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// What was found in a journal beside its entries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Gaps {
    /// Where the first bytes are that are no entry.
    pub(crate) first: Option<u64>,
    /// How many there are with whole entries behind them. Something happened that is not known any more.
    pub(crate) within: u64,
    /// How many there are at the end.
    pub(crate) at_end: u64,
}

/// Reads a journal, if it is there, and gives each entry, and whether something is missing before it.
///
/// What is no entry is left out, and what is whole behind it is read: the end of a host can leave a hole in what was not
/// synchronised, and a disk in the middle. The length and the checksum of a frame are what tells where the next one is.
pub(crate) fn read(path: &Path, mut each: impl FnMut(Entry, bool)) -> io::Result<Gaps> {
    let bytes = match File::open(path) {
        Ok(file) => bounded(file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Gaps::default()),
        Err(error) => return Err(error),
    };
    let mut gaps = Gaps::default();
    let (mut place, mut lost) = (0, 0);
    while let Some(rest) = bytes.get(place..).filter(|rest| !rest.is_empty()) {
        match frame(rest) {
            Some((entry, length)) => {
                each(entry, lost > 0);
                gaps.within += std::mem::take(&mut lost);
                place += length;
            }
            None => {
                gaps.first.get_or_insert(place as u64);
                lost += 1;
                place += 1;
            }
        }
    }
    gaps.at_end = lost;
    Ok(gaps)
}

/// All of it. One that is much longer than any that was written is none of ours.
fn bounded(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_READ + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_READ {
        true => Err(io::Error::other(format!(
            "it has more than {MAX_READ} bytes, which no journal has"
        ))),
        false => Ok(bytes),
    }
}

/// The entry at the beginning, and how long its frame is. None: there is none, or not all of it.
fn frame(bytes: &[u8]) -> Option<(Entry, usize)> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let [a, b, c, d, e, f, g, h] = *head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > MAX_ENTRY {
        return None;
    }
    let content = rest.get(..length)?;
    if crc32c::crc32c(content) != u32::from_le_bytes([e, f, g, h]) {
        return None;
    }
    let entry = postcard::from_bytes(content).ok()?;
    Some((entry, HEAD + length))
}
