//! What the threads of the record and its readers share.
//!
//! Locks are held for a few instructions and never while anything is read or written.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use agentguard_model::DecisionId;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::entry::{Count, Entry, Gap};
use crate::fresh::Fresh;
use crate::index::Index;
use crate::segment::{self, Broken, Location, Position};
use crate::status::{Damage, Degraded, Status};

/// How many stretches of damage are told one by one. Further ones are only logged.
const DAMAGES: usize = 256;

/// How many entries other threads may leave for the writer. Further ones are only logged.
const LEFT: usize = 4096;

/// Where the log ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct End {
    /// The place behind the last entry that was acknowledged or may be.
    pub(crate) position: Position,
    /// Whether nothing will be added any more.
    pub(crate) closed: bool,
}

/// What the threads of the record and its readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    /// First number and length of each segment. Lengths never point into an entry.
    segments: Mutex<BTreeMap<u64, u64>>,
    pub(crate) end: watch::Sender<End>,
    /// What the index needs of what was written last.
    pub(crate) fresh: Fresh,
    /// Counts that are not in the log yet.
    counts: Mutex<HashMap<DecisionId, Count>>,
    /// Absent while there is none that can be used; queries then read the log.
    pub(crate) index: RwLock<Option<Arc<Index>>>,
    /// Whether the index turned out to be broken and has to be made anew.
    pub(crate) index_broken: AtomicBool,
    /// The number of the first entry that the index does not have.
    pub(crate) indexed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) refused_by_quota: AtomicU64,
    /// Attempts that were refused and are not told as a gap yet.
    pub(crate) unrecorded: AtomicU64,
    /// Outcomes and gaps that found no room and are not told as a gap yet.
    pub(crate) crowded_out: AtomicU64,
    pub(crate) gaps: AtomicU64,
    /// What gaps say is lost.
    pub(crate) lost: AtomicU64,
    pub(crate) synced: Mutex<Option<Instant>>,
    pub(crate) write_failing: Mutex<Option<Degraded>>,
    pub(crate) sync_failing: Mutex<Option<Degraded>>,
    damage: Mutex<BTreeMap<Location, Damage>>,
    left: Mutex<Vec<Entry>>,
}

/// Locks, also after a thread has panicked while it held the lock: every critical section here
/// leaves the data whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(dir: PathBuf, segments: BTreeMap<u64, u64>, position: Position) -> Self {
        let end = End {
            position,
            closed: false,
        };
        Self {
            dir,
            segments: Mutex::new(segments),
            end: watch::Sender::new(end),
            fresh: Fresh::none(position),
            counts: Mutex::default(),
            index: RwLock::default(),
            index_broken: AtomicBool::new(false),
            indexed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refused_by_quota: AtomicU64::new(0),
            unrecorded: AtomicU64::new(0),
            crowded_out: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            synced: Mutex::default(),
            write_failing: Mutex::default(),
            sync_failing: Mutex::default(),
            damage: Mutex::default(),
            left: Mutex::default(),
        }
    }

    /// The segments, first number and length.
    pub(crate) fn segments(&self) -> BTreeMap<u64, u64> {
        lock(&self.segments).clone()
    }

    /// Where the log ends.
    pub(crate) fn position(&self) -> Position {
        self.end.borrow().position
    }

    /// Makes what was written visible to readers.
    pub(crate) fn publish(&self, position: Position) {
        lock(&self.segments).insert(position.segment, position.offset);
        self.end.send_modify(|end| end.position = position);
    }

    /// Tells readers that nothing will be added.
    pub(crate) fn close(&self) {
        self.end.send_modify(|end| end.closed = true);
    }

    /// Whether a segment should be there.
    pub(crate) fn has(&self, segment: u64) -> bool {
        lock(&self.segments).contains_key(&segment)
    }

    /// A segment is still there.
    pub(crate) fn remember(&self, segment: u64, length: u64) {
        lock(&self.segments).insert(segment, length);
    }

    /// A segment is gone, or will be.
    pub(crate) fn forget(&self, segment: u64) {
        lock(&self.segments).remove(&segment);
        lock(&self.damage).retain(|at, _| at.segment != segment);
    }

    /// A count rose and is not in the log yet, or is in the log now.
    pub(crate) fn count(&self, count: &Count, in_log: bool) {
        let mut counts = lock(&self.counts);
        if in_log {
            if let Some(held) = counts.get(&count.id)
                && held.count <= count.count
            {
                counts.remove(&count.id);
            }
        } else {
            counts.insert(count.id, *count);
        }
    }

    /// The counts that are not in the log yet. To be taken before the log is read: what is gone
    /// from here afterwards is in the log.
    pub(crate) fn counts(&self) -> HashMap<DecisionId, Count> {
        lock(&self.counts).clone()
    }

    /// Refused attempts, to be told as a gap.
    pub(crate) fn refuse(&self, attempts: u64) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.unrecorded.fetch_add(attempts, Ordering::Relaxed);
    }

    /// Leaves an entry for the writer, which takes it within a second.
    pub(crate) fn leave(&self, entry: Entry) {
        let mut left = lock(&self.left);
        if left.len() < LEFT {
            left.push(entry);
        } else {
            self.crowded_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was left for the writer.
    pub(crate) fn take_left(&self) -> Vec<Entry> {
        std::mem::take(&mut *lock(&self.left))
    }

    /// Remembers damage, and tells it in the program's log and in the record, once.
    pub(crate) fn tell_damage(&self, broken: &Broken) {
        if self.know_damage(broken) {
            self.leave(Entry::Gap(self.damage_gap(broken)));
        }
    }

    /// Remembers damage; whether it is new.
    pub(crate) fn know_damage(&self, broken: &Broken) -> bool {
        let at = broken.at;
        let file = segment::path(&self.dir, at.segment).display().to_string();
        let damage = Damage {
            message: format!(
                "{} at offset {} of {file}; what lies around it is still read. Restore the file \
                 from a backup if there is one, and check the disk",
                broken.what, at.offset
            ),
            file,
            offset: at.offset,
            bytes: broken.until.saturating_sub(at.offset),
            lost: broken.lost(),
        };
        let mut known = lock(&self.damage);
        if known.contains_key(&at) || known.len() >= DAMAGES {
            return false;
        }
        tracing::error!(lost = damage.lost, "{}", damage.message);
        known.insert(at, damage);
        true
    }

    /// Damage as a gap.
    pub(crate) fn damage_gap(&self, broken: &Broken) -> Gap {
        Gap {
            source: "record".to_owned(),
            lost: broken.lost().unwrap_or(0),
            from: broken.missing.map(|(from, _)| from),
            to: broken.missing.map(|(_, to)| to),
            time: Timestamp::now(),
            message: Some(format!(
                "{} at offset {} of {}",
                broken.what,
                broken.at.offset,
                segment::path(&self.dir, broken.at.segment).display()
            )),
        }
    }

    /// The index, if there is one that can be used.
    pub(crate) fn index(&self) -> Option<Arc<Index>> {
        self.index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts an index in use, or none.
    pub(crate) fn set_index(&self, index: Option<Arc<Index>>) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
    }

    /// The index turned out to be broken: nobody uses it any more, and it is made anew.
    pub(crate) fn break_index(&self) {
        self.set_index(None);
        self.indexed.store(0, Ordering::Relaxed);
        self.index_broken.store(true, Ordering::Relaxed);
    }

    pub(crate) fn status(&self) -> Status {
        let (oldest, segments, bytes) = {
            let held = lock(&self.segments);
            let oldest = held.first_key_value().map_or(0, |(first, _)| *first);
            (oldest, held.len() as u64, held.values().sum())
        };
        let next = self.position().number;
        let degraded = lock(&self.write_failing)
            .clone()
            .or_else(|| lock(&self.sync_failing).clone());
        Status {
            entries: next.saturating_sub(oldest),
            segments,
            bytes,
            last_fsync_age_ms: lock(&self.synced)
                .map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            degraded,
            refused: self.refused.load(Ordering::Relaxed),
            refused_by_quota: self.refused_by_quota.load(Ordering::Relaxed),
            gaps: self.gaps.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            contents_left_out: 0,
            damage: lock(&self.damage).values().cloned().collect(),
            index_lag: next.saturating_sub(self.indexed.load(Ordering::Relaxed).max(oldest)),
        }
    }
}
