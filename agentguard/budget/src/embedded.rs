//! The ledger of one host: in memory, with a journal of what happened and a database of what was used.
//!
//! What is reserved is in the journal before the call leaves, so that it survives the death of this process with the call:
//! it is used in full then, since nobody knows how much of it was. A checkpoint writes the accounts to the database, with
//! what is held, and begins another journal; it is one transaction, which says which journals it has, so that nothing
//! counts twice or not at all, whenever the process ends.

mod account;
mod books;
mod journal;
mod replay;
mod store;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentguard_model::budget::{Budget, Unit};
use jiff::Timestamp;

pub use account::MAX_PLACES;
pub use store::OpenError;

use crate::charge::{Granted, HoldId, Want};
use crate::ledger::{Asked, Ledger, Refused};
use crate::scope::Scope;
use account::Name;
use books::Books;
use journal::Journal;
use store::{Store, Write};

/// How long after it was written an entry is synchronised, at the latest: until then it survives this process, and not
/// the host.
pub const SYNC: Duration = Duration::from_millis(10);
/// A journal that is longer is ended by a checkpoint.
const MAX_JOURNAL: u64 = 4 << 20;
/// After this long there is a checkpoint, if anything happened.
const CHECKPOINT: Duration = Duration::from_secs(300);
/// What was not charged for so long is forgotten, where its window has no end: 90 days, in milliseconds.
const FORGOTTEN: i64 = 90 * 86_400_000;
/// Windows that ended so long ago are forgotten: 400 days, in milliseconds.
const HISTORY: i64 = 400 * 86_400_000;

/// The ledger of one host.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// An account, as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    /// Of which budget.
    pub budget: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// In which window: `day UTC`, `sliding 3600000`, …
    pub window: Arc<str>,
    /// Which account of the budget.
    pub scope: Scope,
    /// When its window began, in milliseconds of the Unix time; 0 where that has no beginning.
    pub since: i64,
    /// When it ends, where it does.
    pub until: Option<i64>,
    /// How much was used that counts now.
    pub used: u64,
    /// How much is held.
    pub held: u64,
    /// What of [`Self::used`] was more than was held for it.
    pub overshoot: u64,
    /// When it was charged first, and last.
    pub first: i64,
    /// When it was charged last.
    pub last: i64,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    state: Mutex<Inner>,
    /// There is something to synchronise, or it is over.
    woken: Condvar,
    store: Store,
}

#[derive(Debug)]
struct Inner {
    books: Books,
    journal: Journal,
    generation: u64,
    unsynced: bool,
    stopped: bool,
}

impl Embedded {
    /// Opens the ledger in a directory, or makes one. What a process that died held is used in full, at this time.
    ///
    /// # Errors
    /// It cannot be reached or read.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, OpenError> {
        let now = now.as_millisecond();
        let io = |source| OpenError::Io {
            path: directory.to_owned(),
            source,
        };
        fs::create_dir_all(directory).map_err(io)?;
        let (store, read) = Store::open(&directory.join("ledger.redb"))?;
        let (mut books, gone) = replay::accounts(read.accounts, now);
        replay::holds(&mut books, read.holds, now);
        let mut generation = read.generation;
        while Journal::path(directory, generation).exists() {
            replay::journal(&Journal::path(directory, generation), &mut books).map_err(io)?;
            generation += 1;
        }
        for id in books.held() {
            books.settled(id, None, now);
        }
        let write = Write {
            generation,
            accounts: books.changed(),
            holds: Vec::new(),
            gone,
        };
        store.write(&write).map_err(|error| OpenError::Corrupt {
            path: directory.join("ledger.redb"),
            what: error.to_string(),
        })?;
        books.retire(now);
        for old in read.generation..generation {
            let _ = fs::remove_file(Journal::path(directory, old));
        }
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            state: Mutex::new(Inner {
                books,
                journal: Journal::create(directory, generation).map_err(io)?,
                generation,
                unsynced: false,
                stopped: false,
            }),
            woken: Condvar::new(),
            store,
        });
        let kept = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || kept.keep())
            .map_err(io)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// As [`Ledger::reserve`], at once.
    ///
    /// # Errors
    /// As there.
    pub fn reserves(&self, want: &Want, now: i64) -> Result<Granted, Refused> {
        self.shared.change(|inner| {
            inner
                .books
                .reserve(want, now, (&mut inner.journal, inner.generation))
        })
    }

    /// As [`Ledger::extend`], at once.
    ///
    /// # Errors
    /// As there.
    pub fn extends(
        &self,
        id: HoldId,
        more: u64,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<u64, Refused> {
        self.shared.change(|inner| {
            inner
                .books
                .extend(id, more, budgets, now, &mut inner.journal)
        })
    }

    /// All accounts that are open.
    #[must_use]
    pub fn accounts(&self, now: i64) -> Vec<State> {
        let inner = self.shared.lock();
        let state = |account: &account::Account| State {
            budget: Arc::clone(&account.name.budget),
            unit: account.name.unit,
            window: Arc::clone(&account.name.window),
            scope: account.name.scope.clone(),
            since: account.name.since,
            until: account.kept.until,
            used: account.used(now),
            held: account.held,
            overshoot: account.kept.overshoot,
            first: account.kept.first,
            last: account.kept.last,
        };
        inner.books.all().map(state).collect()
    }

    /// Says what an account has used, as an operator does. False: there is no such account.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set(&self, account: &State, used: u64, now: i64) -> Result<bool, Refused> {
        let name = Name {
            budget: Arc::clone(&account.budget),
            unit: account.unit,
            window: Arc::clone(&account.window),
            scope: account.scope.clone(),
            since: account.since,
        };
        self.shared.change(|inner| {
            let journal = (&mut inner.journal, inner.generation);
            inner.books.set(&name, used, now, journal)
        })
    }
}

impl Ledger for Embedded {
    fn reserve<'a>(&'a self, want: &'a Want, now: i64) -> Asked<'a, Granted> {
        let reserved = self.reserves(want, now);
        Box::pin(std::future::ready(reserved))
    }

    fn extend<'a>(
        &'a self,
        id: HoldId,
        more: u64,
        budgets: &'a [Arc<Budget>],
        now: i64,
    ) -> Asked<'a, u64> {
        let extended = self.extends(id, more, budgets, now);
        Box::pin(std::future::ready(extended))
    }

    fn settle(&self, id: HoldId, used: Option<&[u64]>, now: i64) {
        let settled: Result<(), Refused> = self.shared.change(|inner| {
            inner.books.settle(id, used, now, &mut inner.journal);
            Ok(())
        });
        // It has no error of its own.
        let _ = settled;
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.woken.notify_all();
        if let Some(thread) = self.thread.take() {
            // It panics nowhere, and if it did, the journal has all.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is in there is changed after it was written, so that a panic leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something that is to be synchronised then.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Inner) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let mut inner = self.lock();
        let changed = change(&mut inner)?;
        // Woken once for all that happens until it has looked.
        if !std::mem::replace(&mut inner.unsynced, true) {
            self.woken.notify_one();
        }
        Ok(changed)
    }

    /// Synchronises, and makes checkpoints, until it is over.
    fn keep(&self) {
        let mut last = Instant::now();
        loop {
            let mut inner = self.lock();
            while !inner.unsynced && !inner.stopped {
                inner = self
                    .woken
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            // What else happens within this time is synchronised with it.
            let waited = self.woken.wait_timeout_while(inner, SYNC, |it| !it.stopped);
            let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let stopped = inner.stopped;
            drop(inner);
            if stopped {
                // All that waits is in the journal already: a checkpoint spares the next start its reading.
                let _ = self.checkpoint(now());
                return;
            }
            let (file, length) = {
                let mut inner = self.lock();
                inner.unsynced = false;
                (inner.journal.file(), inner.journal.length())
            };
            if let Ok(file) = file {
                // What the disk does not take now it may take with the next one; the process's own death it survives.
                let _ = file.sync_data();
            }
            if length > MAX_JOURNAL || last.elapsed() > CHECKPOINT {
                // What fails is tried again with the next journal that is full.
                let _ = self.checkpoint(now());
                last = Instant::now();
            }
        }
    }

    /// Writes all that changed to the database, and begins another journal.
    fn checkpoint(&self, now: i64) -> io::Result<()> {
        let (write, old) = {
            let mut inner = self.lock();
            // What waits belongs to the old one.
            inner.journal.write()?;
            let old = inner.generation;
            inner.journal = Journal::create(&self.directory, old + 1)?;
            inner.generation = old + 1;
            let write = Write {
                generation: old + 1,
                accounts: inner.books.changed(),
                holds: inner.books.named(),
                gone: Vec::new(),
            };
            (write, old)
        };
        if let Err(error) = self.store.write(&write) {
            self.lock().books.unwritten(&write.accounts);
            return Err(io::Error::other(error));
        }
        // Those of checkpoints that failed are done with, too.
        let mut old = Some(old);
        while let Some(generation) = old {
            if fs::remove_file(Journal::path(&self.directory, generation)).is_err() {
                break;
            }
            old = generation.checked_sub(1);
        }
        self.lock().books.retire(now);
        Ok(())
    }
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
