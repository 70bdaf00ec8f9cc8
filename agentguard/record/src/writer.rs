//! What owns the log; one thread at a time has it ([`crate::desk`]).
//!
//! It takes what waits, decides for each denial whether it is an entry or a count, frames
//! the entries into one buffer, appends that with one write, and answers. A batch is written whole
//! or not at all: after a failed write the segment is cut back to where it was, the batch's
//! decisions are refused, and the next batch tries again.

mod admission;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agentguard_model::{AgentName, Decision, DecisionId, Reason, ReasonCode};
use jiff::Timestamp;

use crate::aggregate::{Aggregator, Key, Update};
use crate::counts::Counts;
use crate::entry::{Count, Entry, Gap, Note, NoteKind};
use crate::frame;
use crate::grown::Grows;
use crate::index::{Row, Rows};
use crate::queue::{Ack, Answer, Kept, Pending};
use crate::quota::Quotas;
use crate::record::Options;
use crate::segment::{self, Location, Position};
use crate::shared::{Shared, lock};
use crate::status::Degraded;
use crate::sync::Syncer;

/// How many entries that nobody waits for go into one batch at most.
const BATCH: usize = 512;

/// What a write may come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum May {
    /// An append, beyond the segment's bound if it has to be: what nobody waits for long.
    Append,
    /// A new segment too, for which the old one is synchronised, and for which others are deleted.
    Rotate,
}

/// Beyond this a batch was slow: more than who brings a decision is to wait in, with all that its thread carries.
const SLOW: Duration = Duration::from_millis(20);

/// How long the disk is taken for slow then.
const WHILE_SLOW: Duration = Duration::from_secs(1);

/// A count that a batch raised under an earlier record.
#[derive(Debug)]
struct Raised {
    key: Key,
    before: Count,
    answer: Answer,
}

/// What one write will append, and what hangs on it.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Of each entry: where its frame begins in those bytes, the CRC32C of its payload, and what the index has of it.
    entries: Vec<(usize, u32, Row)>,
    gaps: u64,
    /// What those say is lost.
    lost: u64,
    answers: Vec<Answer>,
    /// Answers that wait for the disk.
    waiting: Vec<Answer>,
    updates: Vec<Update>,
    kept: Vec<Kept>,
    opened: Vec<(Key, DecisionId)>,
    raised: Vec<Raised>,
    /// Slots that were raised, with the count each has in the end.
    slots: BTreeMap<u32, Count>,
}

impl Batch {
    fn push(&mut self, payload: &[u8], row: Row, next: u64) {
        let number = next.saturating_add(self.entries.len() as u64);
        let checksum = crc32c::crc32c(payload);
        self.entries.push((self.bytes.len(), checksum, row));
        frame::encode(number, payload, &mut self.bytes);
    }
}

/// The end of the log, and what is known of what comes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: Options,
    pub(crate) syncer: Arc<Syncer>,
    pub(crate) grows: Grows,
    pub(crate) counts: Counts,
    pub(crate) segment: Arc<File>,
    pub(crate) at: Position,
    pub(crate) aggregator: Aggregator,
    pub(crate) quotas: Quotas,
    pub(crate) kept: Pending,
    /// Whose decision was written last.
    pub(crate) agent: Option<Arc<AgentName>>,
    /// Whether bytes of a failed write may stand behind the end.
    pub(crate) dirty_tail: bool,
    /// Whether the next entry must go into a new segment.
    pub(crate) must_rotate: bool,
    /// Until when the disk is taken for slow.
    pub(crate) slow_until: Option<Instant>,
}

impl Writer {
    /// Whether a write would be one that nobody has to wait for long.
    pub(crate) fn is_quick(&self, now: Instant) -> bool {
        !self.dirty_tail
            && !self.must_rotate
            && self.kept.0.is_empty()
            && self.at.offset < self.options.segment_bytes
            && self.slow_until.is_none_or(|until| now >= until)
            && self.syncer.is_quick(now)
            && lock(&self.shared.write_failing).is_none()
    }

    /// What is due each second: tells what was lost, and gives the counts that are to be flushed.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Update> {
        self.tell_losses();
        self.aggregator.due(now)
    }

    /// Writes all that is left, at the end.
    pub(crate) fn finish(mut self) {
        self.aggregator.close();
        self.tell_losses();
        // Whatever does not fit into one batch takes some more; on a disk that is full, none helps,
        // and the counts stay in their file for the next start.
        while !(self.kept.0.is_empty() && self.aggregator.is_closed()) {
            let now = Instant::now();
            let updates = self.aggregator.due(now);
            if !self.commit(updates, &mut Vec::new(), now, May::Rotate) {
                tracing::error!(
                    entries = self.kept.0.len(),
                    "outcomes and gaps could not be recorded before the end"
                );
                break;
            }
        }
    }

    /// Turns what was lost since the last time into gaps, and takes what other threads left.
    fn tell_losses(&mut self) {
        for entry in self.shared.take_left() {
            self.kept.add(entry);
        }
        if lock(&self.shared.write_failing).is_none() {
            let lost = self.shared.unrecorded.swap(0, Ordering::Relaxed);
            self.gap(
                "record",
                lost,
                "attempts that were refused because they could not be recorded",
            );
        }
        let lost = self.shared.crowded_out.swap(0, Ordering::Relaxed);
        self.gap(
            "outcome",
            lost,
            "outcomes and gaps that found no room in the queue of the record",
        );
    }

    fn gap(&mut self, source: &str, lost: u64, message: &str) {
        if lost > 0 {
            self.kept.add(Entry::Gap(Gap {
                source: source.to_owned(),
                lost,
                from: None,
                to: None,
                time: Timestamp::now(),
                message: Some(message.to_owned()),
            }));
        }
    }

    /// Writes one batch and answers everyone in it; whether all went well.
    pub(crate) fn commit(
        &mut self,
        updates: Vec<Update>,
        writes: &mut Vec<(Box<Decision>, Ack)>,
        now: Instant,
        may: May,
    ) -> bool {
        if may == May::Rotate && self.syncer.take_failed() {
            self.must_rotate = true;
        }
        let mut batch = Batch::default();
        let next = self.at.number;
        // Counts are taken from before this batch, so that none is told that is taken back below.
        for update in updates {
            if let Ok(payload) = serde_json::to_vec(&Entry::Aggregate(update.count)) {
                batch.push(&payload, Row::aggregate(update.count.id), next);
                batch.updates.push(update);
            }
        }
        for (decision, ack) in writes.drain(..) {
            self.admit(decision, ack, now, &mut batch);
        }
        // Behind the decisions: it may be what became of one of them.
        for _ in 0..BATCH.min(self.kept.0.len()) {
            if let Some(kept) = self.kept.0.pop_front() {
                self.keep(kept, &mut batch);
            }
        }
        let written = if batch.bytes.is_empty() {
            Ok(())
        } else {
            self.append(&batch.bytes, batch.entries.len() as u64, may)
        };
        let fine = written.is_ok();
        match written {
            Ok(()) => self.wrote(&mut batch, now),
            Err(error) => self.failed(&mut batch, &error),
        }
        self.raise(&mut batch);
        let waiting = std::mem::take(&mut batch.waiting);
        if !batch.bytes.is_empty() && fine {
            self.syncer.wrote(&self.segment, waiting);
            self.grows.tell();
        }
        for answer in batch.answers {
            answer.send();
        }
        let ended = Instant::now();
        if ended.saturating_duration_since(now) > SLOW {
            self.slow_until = Some(ended + WHILE_SLOW);
        }
        fine
    }

    fn keep(&mut self, kept: Kept, batch: &mut Batch) {
        match serde_json::to_vec(&kept.entry) {
            Ok(payload) if payload.len() <= frame::MAX_PAYLOAD => {
                let row = match &kept.entry {
                    Entry::Decision(decision) => Row::decision(decision, &mut self.agent),
                    Entry::Outcome { id, .. } => Row::outcome(*id),
                    Entry::Aggregate(count) => Row::aggregate(count.id),
                    Entry::Gap(_) | Entry::Note(_) => Row::Notice,
                };
                batch.push(&payload, row, self.at.number);
                if let Entry::Gap(gap) = &kept.entry {
                    batch.gaps += 1;
                    batch.lost = batch.lost.saturating_add(gap.lost);
                }
                batch.kept.push(kept);
            }
            // It can never be written; what is left to do is to say so.
            _ => {
                self.shared.crowded_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Appends to the log. On failure the log is as it was before.
    fn append(&mut self, bytes: &[u8], entries: u64, may: May) -> io::Result<()> {
        if self.dirty_tail {
            self.segment.set_len(self.at.offset)?;
            self.dirty_tail = false;
        }
        let full = self.at.offset.saturating_add(bytes.len() as u64) > self.options.segment_bytes;
        let rotates = self.must_rotate || (full && self.at.offset > segment::FIRST);
        if may == May::Rotate && rotates {
            self.rotate()?;
        }
        if let Err(error) = self.segment.write_all_at(bytes, self.at.offset) {
            self.dirty_tail = self.segment.set_len(self.at.offset).is_err();
            return Err(error);
        }
        self.at.offset += bytes.len() as u64;
        self.at.number += entries;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        // An empty segment is as good as a new one, and has its name.
        if self.at.segment != self.at.number {
            // A new segment must not reach the disk before the end of the old one.
            if let Err(error) = self.segment.sync_data() {
                let message = format!(
                    "the end of segment {} may not be safe: {error}",
                    self.at.segment
                );
                self.kept
                    .add(Entry::Note(Note::now(NoteKind::SyncFailed, message)));
            }
            self.segment = Arc::new(segment::create(&self.shared.dir, self.at.number)?);
            self.at.segment = self.at.number;
            self.at.offset = segment::FIRST;
            self.shared.publish(self.at);
            self.retain();
        }
        self.must_rotate = false;
        Ok(())
    }

    /// Deletes the oldest segments until the record is within its bound.
    fn retain(&mut self) {
        let Some(bound) = self.options.max_bytes else {
            return;
        };
        let segments = self.shared.segments();
        // The new segment will grow to its full size.
        let mut total = segments
            .values()
            .sum::<u64>()
            .saturating_add(self.options.segment_bytes);
        let nexts = segments.keys().skip(1);
        for ((first, length), next) in segments.iter().zip(nexts) {
            if total <= bound {
                break;
            }
            let path = segment::path(&self.shared.dir, *first);
            // Before it goes: who misses one that should be there tells of damage.
            self.shared.forget(*first);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::error!(%error, "cannot delete the old segment {}", path.display());
                self.shared.remember(*first, *length);
                break;
            }
            total -= length;
            self.kept.add(Entry::Note(Note::now(
                NoteKind::Retention,
                format!(
                    "deleted entries {first} to {} ({length} bytes) to keep the record within \
                     {bound} bytes",
                    next.saturating_sub(1)
                ),
            )));
        }
    }

    /// A batch is in the log.
    fn wrote(&mut self, batch: &mut Batch, now: Instant) {
        if batch.entries.is_empty() {
            return;
        }
        let recovered = lock(&self.shared.write_failing).take();
        if let Some(degraded) = recovered {
            tracing::info!("the record works again");
            let lost = self.shared.unrecorded.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let message = format!(
                    "attempts that were refused since {} because they could not be recorded: {}",
                    degraded.since, degraded.error
                );
                self.gap("record", lost, &message);
            } else {
                let message = format!(
                    "writing failed from {} on and nothing was lost: {}",
                    degraded.since, degraded.error
                );
                self.kept
                    .add(Entry::Note(Note::now(NoteKind::WriteFailed, message)));
            }
        }
        self.shared.gaps.fetch_add(batch.gaps, Ordering::Relaxed);
        self.shared.lost.fetch_add(batch.lost, Ordering::Relaxed);
        self.shared.publish(self.at);
        self.index(batch);
        for update in batch.updates.drain(..) {
            self.aggregator.written(&update, now);
            self.shared.count(&update.count, true);
            if update.closes() {
                self.counts.clear(update.slot);
            }
        }
        batch.kept.clear();
    }

    /// Leaves what the index needs of a batch that is in the log.
    fn index(&self, batch: &mut Batch) {
        let Position {
            number,
            segment,
            offset,
        } = self.at;
        let first = number - batch.entries.len() as u64;
        let begin = offset - batch.bytes.len() as u64;
        let mut rows = Rows::new();
        for (number, (within, checksum, row)) in (first..).zip(batch.entries.drain(..)) {
            let offset = begin + within as u64;
            rows.add(Location { segment, offset }, number, checksum, row);
        }
        self.shared.fresh.add(rows, self.at);
    }

    /// A batch is not in the log: everything that hangs on it is taken back or refused.
    fn failed(&mut self, batch: &mut Batch, error: &io::Error) {
        let dir = self.shared.dir.display();
        let message = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!(
                "no space left under {dir} to record decisions, and what cannot be recorded is \
                 denied: free some there"
            ),
            _ => format!(
                "decisions cannot be recorded under {dir}, and what cannot be recorded is denied: \
                 {error}"
            ),
        };
        let reason = Reason::new(ReasonCode::RecordFailed, message);
        lock(&self.shared.write_failing).get_or_insert_with(|| {
            tracing::error!("{}", reason.message);
            Degraded {
                since: Timestamp::now(),
                error: reason.message.clone(),
            }
        });
        for kept in batch.kept.drain(..).rev() {
            self.kept.0.push_front(kept);
        }
        for answer in batch.answers.drain(..).chain(batch.waiting.drain(..)) {
            answer.fail(&reason, &self.shared);
        }
        for (key, id) in batch.opened.drain(..) {
            for raised in batch.raised.extract_if(.., |raised| raised.before.id == id) {
                raised.answer.fail(&reason, &self.shared);
            }
            if let Some(slot) = self.aggregator.discard(&key, id) {
                batch.slots.remove(&slot);
                self.counts.give_back(slot);
            }
        }
    }

    /// Keeps the counts that this batch raised, and answers.
    fn raise(&mut self, batch: &mut Batch) {
        let mut failed = BTreeMap::new();
        for (slot, count) in &batch.slots {
            match self.counts.write(*slot, count) {
                Ok(()) => self.shared.count(count, false),
                Err(error) => {
                    failed.insert(count.id, error.to_string());
                }
            }
        }
        if !batch.slots.is_empty() {
            self.syncer.wrote(self.counts.file(), Vec::new());
        }
        // From the last to the first, so that the count is in the end what it was in the beginning.
        for raised in batch.raised.drain(..).rev() {
            match failed.get(&raised.before.id) {
                None => raised.answer.send(),
                Some(error) => {
                    self.aggregator.restore(&raised.key, raised.before);
                    let reason = Reason::new(
                        ReasonCode::RecordFailed,
                        format!(
                            "the count of denials cannot be kept under {}: {error}",
                            self.shared.dir.display()
                        ),
                    );
                    raised.answer.fail(&reason, &self.shared);
                }
            }
        }
    }
}
