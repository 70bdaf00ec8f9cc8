//! The thread that keeps the index up to date behind the writer: with what that has left of what it wrote
//! ([`crate::fresh`]), or by reading the log.
//!
//! After a start, after a crash and with no index at all it does the same: go on from where the
//! index ends. An index that cannot be used is deleted and made anew; until it has caught up,
//! queries read the log.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::entry::Gist;
use crate::fresh::Next;
use crate::grown::Grown;
use crate::index::{Index, Row, Rows, Snapshot};
use crate::segment::Position;
use crate::shared::Shared;
use crate::walk::{self, Met};

/// How many entries go into the index in one step.
const STEP: usize = 20_000;

/// How often it is looked whether something is to be saved or opened again, where the log does not grow.
const IDLE: Duration = Duration::from_secs(1);

/// How long entries gather before a step, so that a busy log is indexed in large ones.
const GATHER: Duration = Duration::from_millis(50);

/// How often the index is made safe from a crash. What is not is read from the log again.
const SAVE: Duration = Duration::from_secs(5);

/// How far behind it may be at the end and still catch up before the process goes.
const LAST: u64 = 50_000;

/// What became of opening the index.
enum Opened {
    Index(Box<Index>),
    /// It has to be made anew.
    Unusable(String),
    /// It may be good, and the file system does not let it be opened.
    NotNow(String),
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Indexer {
    shared: Arc<Shared>,
    path: PathBuf,
    grown: Grown,
    index: Option<Arc<Index>>,
    at: Position,
    oldest: u64,
    saved: Instant,
    unsaved: bool,
    /// Whether it has been said that there is no index.
    told: bool,
}

impl Indexer {
    pub(crate) fn new(shared: Arc<Shared>, grown: Grown) -> Self {
        Self {
            path: shared.dir.join("index.redb"),
            at: walk::start(&shared),
            oldest: 0,
            shared,
            grown,
            index: None,
            saved: Instant::now(),
            unsaved: false,
            told: false,
        }
    }

    /// The thread; it ends when the writer does.
    pub(crate) fn run(mut self) {
        loop {
            if self.index.is_none() || self.shared.index_broken.load(Ordering::Relaxed) {
                self.open();
            }
            self.catch_up();
            if self.grown.wait(IDLE, GATHER) {
                break;
            }
        }
        if self.lag() < LAST {
            self.catch_up();
        }
        self.save(true);
    }

    /// How many entries it is behind.
    fn lag(&self) -> u64 {
        let end = self.shared.position().number;
        end.saturating_sub(self.at.number)
    }

    /// Opens the index, or makes a new one.
    fn open(&mut self) {
        self.index = None;
        self.shared.set_index(None);
        let broken = self.shared.index_broken.swap(false, Ordering::Relaxed);
        let mut opened = if broken {
            Opened::Unusable("it turned out to be damaged".to_owned())
        } else {
            self.try_open()
        };
        if let Opened::Unusable(why) = &opened {
            if self.path.exists() {
                tracing::warn!(
                    "the record's index {} cannot be used and is made anew from the log: {why}",
                    self.path.display()
                );
            }
            if let Err(error) = std::fs::remove_file(&self.path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "cannot delete {}", self.path.display());
            }
            opened = self.try_open();
        }
        let index = match opened {
            Opened::Index(index) => Arc::new(*index),
            Opened::Unusable(why) | Opened::NotNow(why) => return self.tell(&why),
        };
        // What was found in an earlier life is told by the status, and not once more in the log.
        for broken in index.snapshot().iter().flat_map(Snapshot::broken) {
            self.shared.know_damage(&broken);
        }
        let indexed = index.snapshot().and_then(|snapshot| snapshot.position());
        self.at = indexed.unwrap_or_else(|| walk::start(&self.shared));
        self.shared.indexed.store(self.at.number, Ordering::Relaxed);
        self.shared.set_index(Some(Arc::clone(&index)));
        self.index = Some(index);
        self.unsaved = false;
        self.told = false;
    }

    fn try_open(&self) -> Opened {
        // redb says of itself that it may panic on a file that something else has altered.
        match catch_unwind(AssertUnwindSafe(|| Index::open(&self.path))) {
            Ok(Ok(index)) if index.is_of(&self.shared.dir) => Opened::Index(Box::new(index)),
            Ok(Ok(_)) => Opened::Unusable("it is not the index of this log".to_owned()),
            Ok(Err(redb::Error::Io(error)))
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Opened::NotNow(error.to_string())
            }
            Ok(Err(error)) => Opened::Unusable(error.to_string()),
            Err(_) => Opened::Unusable("it is damaged".to_owned()),
        }
    }

    fn tell(&mut self, error: &str) {
        if !self.told {
            tracing::warn!("the record has no index and queries read the log: {error}");
            self.told = true;
        }
    }

    /// Has the index know what was written until now.
    fn catch_up(&mut self) {
        loop {
            let Some(index) = self.index.clone() else {
                return;
            };
            let Some(next) = self.shared.fresh.next(self.at) else {
                break;
            };
            let all = matches!(next, Next::Rows(..));
            let (rows, reached) = match next {
                Next::Rows(rows, to) => (rows, to),
                Next::Log(to) => match self.read(to) {
                    Ok(read) => read,
                    Err(error) => return self.tell(&error.to_string()),
                },
            };
            let durable = self.saved.elapsed() >= SAVE;
            let added = catch_unwind(AssertUnwindSafe(|| index.add(&rows, reached, durable)));
            if !self.went_well(added) {
                return;
            }
            self.at = reached;
            self.shared.indexed.store(reached.number, Ordering::Relaxed);
            self.unsaved = !durable;
            if durable {
                self.saved = Instant::now();
            }
            // What has come meanwhile gathers for the next step.
            if all {
                break;
            }
            if self.grown.is_over() && self.lag() >= LAST {
                return;
            }
        }
        self.save(false);
        self.prune();
    }

    /// Reads what comes next in the log, up to `to` or as much as goes into a step.
    fn read(&self, to: Position) -> io::Result<(Rows, Position)> {
        let mut rows = Rows::default();
        let reached = walk::walk(&self.shared, self.at, to, |met: Met<'_, Gist>| {
            match met {
                Met::Entry {
                    at,
                    number,
                    entry,
                    payload,
                } => rows.add(at, number, crc32c::crc32c(payload), Row::from(entry)),
                Met::Broken(broken) => {
                    self.shared.tell_damage(&broken);
                    rows.broken(broken);
                }
                Met::Deleted { .. } => {}
            }
            if rows.len() >= STEP {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok((rows, reached))
    }

    fn save(&mut self, now: bool) {
        let Some(index) = self.index.clone().filter(|_| self.unsaved) else {
            return;
        };
        if now || self.saved.elapsed() >= SAVE {
            let at = self.at;
            let added = catch_unwind(AssertUnwindSafe(|| index.add(&Rows::default(), at, true)));
            if self.went_well(added) {
                self.unsaved = false;
                self.saved = Instant::now();
            }
        }
    }

    fn prune(&mut self) {
        let oldest = walk::start(&self.shared).number;
        let Some(index) = self.index.clone().filter(|_| oldest > self.oldest) else {
            return;
        };
        let pruned = catch_unwind(AssertUnwindSafe(|| index.prune(oldest)));
        if self.went_well(pruned) {
            self.oldest = oldest;
        }
    }

    /// After a failure the index is closed; the thread opens it again a second later.
    fn went_well(&mut self, result: std::thread::Result<Result<(), redb::Error>>) -> bool {
        let error = match result {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                self.shared.index_broken.store(true, Ordering::Relaxed);
                "it is damaged".to_owned()
            }
        };
        self.tell(&error);
        self.told = true;
        self.index = None;
        self.shared.set_index(None);
        self.shared.indexed.store(0, Ordering::Relaxed);
        false
    }
}
