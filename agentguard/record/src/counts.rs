//! The counts of the aggregates that are open, on disk.
//!
//! An aggregated denial adds no entry to the log until the next flush, so its count would die with
//! the process. It is therefore written, before it is acknowledged, into a slot of this file: 64
//! bytes in place, which costs no space. What was in the slots when a process died is appended to
//! the log by the next one (see [`crate::open`]): `kill -9` loses no count. A power failure loses
//! what `fdatasync` had not reached, which is at most the sync interval and the time it takes, as
//! for every allow and deny.
//!
//! A slot lies in one page and one sector, so a kill leaves it either old or new.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use agentguard_model::DecisionId;
use jiff::Timestamp;
use ulid::Ulid;

use crate::entry::Count;
use crate::segment;

/// How many aggregates can be open or waiting for their last flush. With no slot free, a denial is
/// written one by one if the agent's share allows it, else refused and told as a gap.
pub(crate) const SLOTS: u32 = 8192;

const SLOT: usize = 64;

/// The file of counts.
#[derive(Debug)]
pub(crate) struct Counts {
    file: Arc<File>,
    free: Vec<u32>,
}

/// What a dead process left in the file.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Slots, which stay taken, and what is in them.
    pub(crate) counts: Vec<(u32, Count)>,
    /// Slots that cannot be read: each one a count that is too low by an unknown number.
    pub(crate) damaged: u64,
}

impl Counts {
    /// Opens the file, with what is in it. It gets its full length at once, so that later writes
    /// need no space; if there is none now, they may fail, and their attempts are refused.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Left)> {
        let file = segment::open_file(&dir.join("counts"))?;
        let mut bytes = vec![0; SLOTS as usize * SLOT];
        let mut filled = 0;
        while let Some(free) = bytes.get_mut(filled..).filter(|free| !free.is_empty()) {
            match file.read_at(free, filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        if let Some(rest) = bytes.get(filled..)
            && let Err(error) = file.write_all_at(rest, filled as u64)
        {
            tracing::warn!(%error, "no space for the counts of the record");
        }
        let mut left = Left::default();
        let mut counts = Self {
            file: Arc::new(file),
            free: Vec::new(),
        };
        for (slot, bytes) in (0..SLOTS).zip(bytes.chunks_exact(SLOT)) {
            if bytes.iter().all(|byte| *byte == 0) {
                counts.free.push(slot);
                continue;
            }
            match decode(bytes) {
                Some(count) => left.counts.push((slot, count)),
                None => {
                    left.damaged += 1;
                    counts.clear(slot);
                }
            }
        }
        Ok((counts, left))
    }

    /// The file, for syncing.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Takes a free slot.
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Gives a slot back that was never written to.
    pub(crate) fn give_back(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Writes a count into its slot.
    pub(crate) fn write(&self, slot: u32, count: &Count) -> io::Result<()> {
        self.file.write_all_at(&encode(count), offset(slot))
    }

    /// Empties a slot whose count is in the log. If that fails the slot stays taken, so that the
    /// old count is never mistaken for another's; at the next start it is told once more.
    pub(crate) fn clear(&mut self, slot: u32) {
        match self.file.write_all_at(&[0; SLOT], offset(slot)) {
            Ok(()) => self.free.push(slot),
            Err(error) => tracing::warn!(slot, %error, "a slot of the record's counts is lost"),
        }
    }
}

fn offset(slot: u32) -> u64 {
    u64::from(slot) * SLOT as u64
}

fn encode(count: &Count) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT);
    bytes.extend_from_slice(&count.id.0.to_bytes());
    bytes.extend_from_slice(&count.count.to_le_bytes());
    bytes.extend_from_slice(&count.last.as_nanosecond().to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.resize(SLOT, 0);
    bytes
}

fn decode(slot: &[u8]) -> Option<Count> {
    let (id, rest) = slot.split_first_chunk::<16>()?;
    let (count, rest) = rest.split_first_chunk::<8>()?;
    let (last, rest) = rest.split_first_chunk::<16>()?;
    let (crc, _) = rest.split_first_chunk::<4>()?;
    if crc32c::crc32c(slot.get(..40)?) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some(Count {
        id: DecisionId(Ulid::from_bytes(*id)),
        count: u64::from_le_bytes(*count),
        last: Timestamp::from_nanosecond(i128::from_le_bytes(*last)).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use agentguard_model::DecisionId;
    use jiff::Timestamp;
    use ulid::Ulid;

    use super::Counts;
    use crate::entry::Count;

    #[test]
    fn what_a_dead_process_counted_is_found_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let count = |id, count| Count {
            id: DecisionId(Ulid::from_parts(id, 7)),
            count,
            last: Timestamp::from_millisecond(5).unwrap(),
        };
        let slots: Vec<_> = {
            let (mut counts, left) = Counts::open(dir.path()).unwrap();
            assert_eq!((left.counts.len(), left.damaged), (0, 0));
            let slots: Vec<_> = (0..3).map(|_| counts.take().unwrap()).collect();
            counts.write(slots[0], &count(1, 11)).unwrap();
            counts.write(slots[1], &count(2, 12)).unwrap();
            counts.write(slots[1], &count(2, 13)).unwrap();
            counts.write(slots[2], &count(3, 14)).unwrap();
            counts.clear(slots[0]);
            counts
                .file
                .write_all_at(b"x", u64::from(slots[2]) * 64)
                .unwrap();
            slots
        };
        let (_, left) = Counts::open(dir.path()).unwrap();
        assert_eq!(left.counts, [(slots[1], count(2, 13))]);
        assert_eq!(left.damaged, 1);
    }
}
