//! The thread that makes what was written safe from a power failure.
//!
//! A write to the log survives the death of the process as soon as the kernel has it; `fdatasync`
//! follows at most one interval later, on this thread, so that a slow disk delays nobody whose
//! decision need not wait for it. Those that must wait (modify, escalate) are answered from here.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentguard_decision::RecordRefused;
use agentguard_model::{Reason, ReasonCode};
use jiff::Timestamp;

use crate::entry::{Entry, Note, NoteKind};
use crate::queue::Answer;
use crate::shared::{Shared, lock};
use crate::status::Degraded;

/// The work of the thread.
#[derive(Debug)]
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    interval: Duration,
    state: Mutex<State>,
    wake: Condvar,
    /// A sync failed: the kernel may have dropped what was not on disk, so the writer has to go on
    /// in a new segment.
    failed: AtomicBool,
    /// When a sync began that is not over.
    begun: Mutex<Option<Instant>>,
}

/// Beyond this a sync takes long: the disk is busy, and the next write may have to wait for it.
const SLOW: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct State {
    /// Files that have unsynced data: the segment, the one before it, the counts.
    files: Vec<Arc<File>>,
    /// Who waits. Bounded by the writer's queue, whose permits they hold.
    waiting: Vec<Answer>,
    closing: bool,
}

impl Syncer {
    pub(crate) fn new(shared: Arc<Shared>, interval: Duration) -> Self {
        Self {
            shared,
            interval,
            state: Mutex::default(),
            wake: Condvar::new(),
            failed: AtomicBool::new(false),
            begun: Mutex::default(),
        }
    }

    /// Something was written to a file; `waiting` are answered once it is safe.
    pub(crate) fn wrote(&self, file: &Arc<File>, waiting: Vec<Answer>) {
        let mut state = lock(&self.state);
        let first = state.files.is_empty();
        if !state.files.iter().any(|held| Arc::ptr_eq(held, file)) {
            state.files.push(Arc::clone(file));
        }
        state.waiting.extend(waiting);
        drop(state);
        // The thread knows of what came before, and takes all of it together.
        if first {
            self.wake.notify_one();
        }
    }

    /// Whether the disk neither has failed nor takes long.
    pub(crate) fn is_quick(&self, now: Instant) -> bool {
        let begun = *lock(&self.begun);
        let takes_long = begun.is_some_and(|begun| now.saturating_duration_since(begun) > SLOW);
        !takes_long && !self.failed.load(Ordering::Relaxed)
    }

    /// As if a sync had begun then.
    #[cfg(test)]
    pub(crate) fn begins(&self, at: Option<Instant>) {
        *lock(&self.begun) = at;
    }

    /// Whether a sync has failed since this was last asked.
    pub(crate) fn take_failed(&self) -> bool {
        self.failed.swap(false, Ordering::Relaxed)
    }

    /// Lets the thread sync what is left, and end.
    pub(crate) fn close(&self) {
        lock(&self.state).closing = true;
        self.wake.notify_one();
    }

    /// The thread.
    pub(crate) fn run(&self) {
        let mut earliest = Instant::now();
        loop {
            let mut state = lock(&self.state);
            while state.files.is_empty() && !state.closing {
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            loop {
                let now = Instant::now();
                if state.closing || now >= earliest {
                    break;
                }
                state = self
                    .wake
                    .wait_timeout(state, earliest - now)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            let files = std::mem::take(&mut state.files);
            let waiting = std::mem::take(&mut state.waiting);
            let closing = state.closing;
            drop(state);
            if files.is_empty() && closing {
                return;
            }
            earliest = Instant::now() + self.interval;
            self.sync(&files, waiting);
        }
    }

    fn sync(&self, files: &[Arc<File>], waiting: Vec<Answer>) {
        *lock(&self.begun) = Some(Instant::now());
        let result = files.iter().try_for_each(|file| file.sync_data());
        *lock(&self.begun) = None;
        match result {
            Ok(()) => {
                *lock(&self.shared.synced) = Some(Instant::now());
                *lock(&self.shared.sync_failing) = None;
                for answer in waiting {
                    answer.send();
                }
            }
            Err(error) => {
                let message = format!(
                    "the disk under {} cannot say that what was written is safe: {error}; \
                     decisions of this moment may be lost at a power failure. Check the disk",
                    self.shared.dir.display()
                );
                tracing::error!("{message}");
                lock(&self.shared.sync_failing).get_or_insert_with(|| Degraded {
                    since: Timestamp::now(),
                    error: message.clone(),
                });
                self.failed.store(true, Ordering::Relaxed);
                for answer in waiting {
                    self.shared.refused.fetch_add(1, Ordering::Relaxed);
                    let refused = RecordRefused {
                        reason: Reason::new(ReasonCode::RecordFailed, message.clone()),
                    };
                    answer.refuse(refused, &self.shared);
                }
                let note = Note::now(NoteKind::SyncFailed, message);
                self.shared.leave(Entry::Note(note));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::sync::Arc;
    use std::time::Duration;

    use agentguard_model::{DecisionId, ReasonCode};
    use tokio::sync::{Semaphore, oneshot};
    use ulid::Ulid;

    use super::Syncer;
    use crate::entry::Entry;
    use crate::queue::{Ack, Answer};
    use crate::segment::Position;
    use crate::shared::Shared;

    #[test]
    fn what_cannot_be_made_safe_is_refused_and_told_and_the_writer_goes_elsewhere() {
        let at = Position {
            number: 1,
            segment: 1,
            offset: 8,
        };
        let shared = Arc::new(Shared::new("/record".into(), BTreeMap::new(), at));
        let syncer = Syncer::new(Arc::clone(&shared), Duration::from_millis(1));
        let id = DecisionId(Ulid::from_parts(1, 1));
        let place = || Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let ask = |file: File| {
            let (sender, mut reply) = oneshot::channel();
            let answer = Answer {
                goes_on: Some(id),
                attempts: 1,
                reply: Ok(id),
                ack: Ack {
                    sender,
                    _place: place(),
                },
            };
            syncer.wrote(&Arc::new(file), vec![answer]);
            syncer.close();
            syncer.run();
            reply.try_recv().unwrap()
        };
        // The kernel cannot sync a device like this one (EINVAL).
        let refused = ask(File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(refused.reason.code, ReasonCode::RecordFailed);
        assert!(syncer.take_failed());
        assert!(shared.status().degraded.is_some());
        let left = shared.take_left();
        assert!(
            matches!(left.as_slice(), [Entry::Note(_), Entry::Outcome { id: of, .. }]
                | [Entry::Outcome { id: of, .. }, Entry::Note(_)] if *of == id),
            "{left:?}"
        );

        assert_eq!(ask(tempfile::tempfile().unwrap()), Ok(id));
        assert!(!syncer.take_failed());
        assert_eq!(shared.status().degraded, None);
    }
}
