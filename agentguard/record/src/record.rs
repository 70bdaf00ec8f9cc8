//! The room's front: what other rooms hold.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentguard_decision::{RecordRefused, Recorder};
use agentguard_model::contents::Contents;
use agentguard_model::record::RecordLimits;
use agentguard_model::{AgentName, Decision, DecisionId, Outcome, Reason, ReasonCode, Verdict};
use futures_util::Stream;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Semaphore, oneshot};

use crate::contents::Shelf;
use crate::desk::{Closed, Open};
use crate::entry::{Entry, Gap, Notice};
use crate::follow::{self, Followed};
use crate::open;
use crate::queue::{Ack, Kept, not_carried_out};
use crate::quota::Quota;
use crate::read::{self, Query, ReadError};
use crate::shared::Shared;
use crate::status::Status;

/// How many decisions may wait for the writer. The next one waits for a place, at most
/// [`WAIT`], and is refused then.
const QUEUE: usize = 4096;

/// How many outcomes and gaps may wait for the writer, also through a time in which the disk is
/// full. Further ones are counted and told as a gap.
const KEPT: usize = 16_384;

/// How long a decision waits for a place in the queue.
const WAIT: Duration = Duration::from_secs(1);

/// How long a decision waits for the disk, where it is not itself who writes ([`crate::desk`]). One that is written after all is followed by an outcome
/// that says that the action was not carried out.
const DISK: Duration = Duration::from_secs(5);

/// How a record is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// How large a segment becomes, in bytes, give or take one batch. Default 64 MiB.
    pub segment_bytes: u64,
    /// How large all segments may become, in bytes; the oldest are deleted, whole, for new ones.
    /// `None` keeps everything, and once the disk is full all actions are denied. Default 10 GiB.
    /// The index beside them needs about half as much again.
    pub max_bytes: Option<u64>,
    /// How many identical denials of a second are written one by one. Default 10.
    pub identical_per_second: u32,
    /// The share of one agent.
    pub quota: Quota,
    /// How large the contents may become that rules have kept, in bytes. Default 1 GiB.
    pub contents_bytes: u64,
    /// How long a write that was acknowledged may be unsafe from a power failure. Default 10 ms.
    pub sync_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_bytes: Some(RecordLimits::default().max_bytes),
            identical_per_second: 10,
            quota: Quota::default(),
            contents_bytes: 1 << 30,
            sync_interval: Duration::from_millis(10),
        }
    }
}

/// The record could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the record under {dir} is in use by another process; is another daemon running?")]
    InUse {
        /// The record's directory.
        dir: String,
    },
    /// The file system refused something.
    #[error("cannot {operation} of the record under {dir}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The record's directory.
        dir: String,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
}

/// The decision log. Cheap to clone; when the last clone is dropped, or one is closed, what is left
/// is flushed and the files are closed.
#[derive(Clone, Debug)]
pub struct Record {
    shared: Arc<Shared>,
    open: Arc<Open>,
    queue: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    contents: Arc<Shelf>,
}

impl Record {
    /// Opens the record in a directory of its own (`state_dir/record`), which is made if it is
    /// missing. Blocks for as long as it takes to read one segment, and a second more if another
    /// process has it. An index that is missing or
    /// unusable is made anew meanwhile.
    ///
    /// # Errors
    /// [`OpenError`]: the directory is in use or cannot be written to.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let bytes = options.contents_bytes;
        let (shared, open) = open::open(dir, options)?;
        let contents = Shelf::open(dir.join("contents"), bytes);
        let contents = contents.map_err(|source| OpenError::Io {
            operation: "open the contents",
            dir: dir.display().to_string(),
            source,
        })?;
        Ok(Self {
            contents: Arc::new(contents),
            shared,
            open: Arc::new(open),
            queue: Arc::new(Semaphore::new(QUEUE)),
            kept: Arc::new(Semaphore::new(KEPT)),
        })
    }

    /// The newest decisions that a query asks for, the newest last, each with its outcome and its
    /// count as they are now. What was acknowledged before is among them; what became of it mostly, if that was told
    /// before, and soon where the record's own thread has it to write.
    ///
    /// # Errors
    /// [`ReadError`] if the segments cannot be read at all. Damaged parts are passed over; they are
    /// in the status and in the log.
    pub async fn query(&self, query: Query) -> Result<Vec<Decision>, ReadError> {
        self.read(move |shared| read::query(shared, &query, shared.position()))
            .await
    }

    /// A decision, with its outcome and its count as they are now.
    ///
    /// # Errors
    /// As [`Record::query`].
    pub async fn find(&self, id: DecisionId) -> Result<Option<Decision>, ReadError> {
        self.read(move |shared| read::find(shared, id)).await
    }

    /// What was kept of the contents of an agent's decision, if anything was.
    ///
    /// # Errors
    /// [`ReadError`] if what was kept cannot be read.
    pub async fn contents(
        &self,
        id: DecisionId,
        agent: &AgentName,
    ) -> Result<Option<Contents>, ReadError> {
        let (shelf, agent) = (Arc::clone(&self.contents), agent.clone());
        let read = tokio::task::spawn_blocking(move || shelf.find(id, &agent));
        match read.await {
            Ok(found) => found.map_err(|source| ReadError::segments(&self.shared, source)),
            Err(_) => Err(ReadError::Died),
        }
    }

    /// The newest gaps and notes, the newest last.
    ///
    /// # Errors
    /// As [`Record::query`].
    pub async fn notices(&self, limit: usize) -> Result<Vec<Notice>, ReadError> {
        self.read(move |shared| read::notices(shared, limit)).await
    }

    /// First the decisions that a query asks for, then those to come, until the record is closed.
    /// With a limit of 0 it begins now. A follower that is slow loses nothing: it reads the log.
    pub fn follow(&self, query: Query) -> impl Stream<Item = Followed> + Send + use<> {
        follow::follow(Arc::clone(&self.shared), query)
    }

    /// Records that something is missing. Never blocks.
    pub fn gap(&self, gap: Gap) {
        self.keep(Entry::Gap(gap));
    }

    /// How many decisions wait for it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        QUEUE.saturating_sub(self.queue.available_permits())
    }

    /// How the record is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            contents_left_out: self.contents.left_out(),
            ..self.shared.status()
        }
    }

    /// Flushes everything, makes it safe from a power failure and closes the files. What is written
    /// afterwards is refused.
    pub async fn close(&self) {
        self.contents.flush().await;
        let (sender, closed) = oneshot::channel();
        self.open.0.end(Some(sender));
        // An error means that it is over already.
        drop(closed.await);
    }

    fn keep(&self, entry: Entry) {
        let kept = match Arc::clone(&self.kept).try_acquire_owned() {
            Ok(place) => self.open.0.keep(Kept {
                entry,
                _place: Some(place),
            }),
            Err(_) => Err(Closed),
        };
        if kept.is_err() {
            self.shared.crowded_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn refuse(&self, attempts: u64, message: String) -> RecordRefused {
        self.shared.refuse(attempts);
        RecordRefused {
            reason: Reason::new(ReasonCode::RecordFailed, message),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Shared) -> io::Result<T> + Send + Sync + 'static,
    ) -> Result<T, ReadError> {
        let read = Arc::new(read);
        for last in [false, true] {
            let (shared, read) = (Arc::clone(&self.shared), Arc::clone(&read));
            let desk = Arc::clone(&self.open.0);
            let reads = move || {
                // What became of a decision, and is gathered, is asked for too.
                desk.write_now();
                read(&shared)
            };
            match tokio::task::spawn_blocking(reads).await {
                Ok(answer) => {
                    return answer.map_err(|source| ReadError::segments(&self.shared, source));
                }
                // A damaged index can make its library panic: once more, without it.
                Err(_) if !last => self.shared.break_index(),
                Err(_) => {}
            }
        }
        Err(ReadError::Died)
    }
}

/// A decision that was handed to the writer and not answered. If the caller goes away or gives up
/// before the answer, an allow may be in the log all the same: the record then says that the action
/// was not carried out.
struct Unanswered<'a> {
    record: &'a Record,
    goes_on: Option<DecisionId>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.goes_on {
            self.record
                .keep(not_carried_out(id, "nobody waited for the record's answer"));
        }
    }
}

impl Recorder for Record {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        let dir = self.shared.dir.display();
        let closed = || format!("the record under {dir} is closed");
        let attempts = decision.count.max(1);
        // Without a timer where there is a place, as there mostly is.
        let place = match Arc::clone(&self.queue).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                let place = Arc::clone(&self.queue).acquire_owned();
                let waited = tokio::time::timeout(WAIT, place).await;
                waited.ok().and_then(Result::ok)
            }
        };
        let Some(_place) = place else {
            return Err(self.refuse(
                attempts,
                format!(
                    "the record under {dir} has had {QUEUE} decisions waiting for {WAIT:?}, and \
                     what cannot be recorded is denied: the disk is too slow for what is attempted"
                ),
            ));
        };
        let goes_on = (decision.verdict != Verdict::Deny).then_some(decision.id);
        let (sender, mut answer) = oneshot::channel();
        let ack = Ack { sender, _place };
        if self.open.0.write(decision, ack).is_err() {
            return Err(self.refuse(attempts, closed()));
        }
        // Mostly it is written by now.
        match answer.try_recv() {
            Ok(reply) => return reply,
            Err(TryRecvError::Closed) => return Err(self.refuse(attempts, closed())),
            Err(TryRecvError::Empty) => {}
        }
        let mut unanswered = Unanswered {
            record: self,
            goes_on,
        };
        let answer = tokio::time::timeout(DISK, answer).await;
        if answer.is_ok() {
            unanswered.goes_on = None;
        }
        match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(self.refuse(attempts, closed())),
            Err(_) => Err(RecordRefused {
                reason: Reason::new(
                    ReasonCode::RecordFailed,
                    format!(
                        "the disk under {dir} has not answered for {DISK:?}, and what cannot be \
                         recorded is denied"
                    ),
                ),
            }),
        }
    }

    fn together<T>(&self, begins: impl FnOnce() -> T) -> T {
        self.open.0.together(begins)
    }

    fn outcome(&self, id: DecisionId, outcome: Outcome) {
        let outcome = Box::new(outcome);
        self.keep(Entry::Outcome { id, outcome });
    }

    fn contents(&self, id: DecisionId, agent: &AgentName, contents: Contents) {
        self.contents.keep(id, agent, contents);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use agentguard_decision::Recorder;
    use agentguard_model::{Decision, ReasonCode};
    use tokio::sync::Semaphore;
    use tokio::time::Instant;

    use super::{DISK, Record, WAIT};
    use crate::contents::Shelf;
    use crate::desk::{Desk, Open};
    use crate::segment::Position;
    use crate::shared::Shared;

    fn allow() -> Box<Decision> {
        serde_json::from_str(
            r#"{"id":"01JD6Z7Q0000000000000000AB","time":"2026-11-22T04:08:03Z","context":{},
            "layer":"proxy","action":{"kind":"connect"},"verdict":"allow","enforced":true,
            "mode":"enforce","reason":{"code":"rule_allow","message":"m"},"count":1,
            "latency_us":1,"policy_version":"0"}"#,
        )
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_does_not_answer_holds_nobody_forever() {
        let desk = Arc::new(Desk::new(None));
        let at = Position {
            number: 1,
            segment: 1,
            offset: 8,
        };
        let dir = tempfile::tempdir().unwrap();
        let contents = Shelf::open(dir.path().join("contents"), 1).unwrap();
        let record = Record {
            contents: Arc::new(contents),
            shared: Arc::new(Shared::new("/record".into(), BTreeMap::new(), at)),
            open: Arc::new(Open(Arc::clone(&desk))),
            queue: Arc::new(Semaphore::new(1)),
            kept: Arc::new(Semaphore::new(1)),
        };
        let begin = Instant::now();
        let first = async {
            let error = record.write(allow()).await.unwrap_err();
            assert_eq!(begin.elapsed(), DISK);
            assert!(error.reason.message.contains("has not answered"));
        };
        let second = async {
            let error = record.write(allow()).await.unwrap_err();
            assert_eq!(begin.elapsed(), WAIT);
            assert_eq!(error.reason.code, ReasonCode::RecordFailed);
            assert!(error.reason.message.contains("too slow"));
        };
        tokio::join!(first, second);
        assert_eq!(record.status().refused, 1);
        // The first was handed over and may still be written; what became of it follows.
        assert_eq!(desk.waiting(), (1, 1));
    }
}
