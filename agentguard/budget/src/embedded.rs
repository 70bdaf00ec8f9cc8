//! The ledger of one host: in memory, with a journal of what happened and a database of what was used.
//!
//! What is reserved is in the journal before the call leaves, so that it survives the death of this process with the call:
//! it is used in full then, since nobody knows how much of it was. A checkpoint writes the accounts to the database, with
//! what is held, and begins another journal; it is one transaction, which says which journals it has, so that nothing
//! counts twice or not at all, whenever the process ends.
//!
//! What a call may owe beyond what it holds, while it waits for more, is in journals alone: each begins with it.

mod account;
mod books;
mod history;
mod journal;
mod replay;
mod store;
mod troubles;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentguard_model::budget::{Budget, Unit, Window};
use jiff::Timestamp;

pub use account::MAX_PLACES;
pub use replay::Damage;
pub use store::OpenError;
pub use troubles::Troubles;

use crate::charge::{Granted, HoldId, More, Want};
use crate::forecast::{Counts, Course, Ended, MAX_ENDED, Spread};
use crate::ledger::{Asked, Ledger, Refused};
use crate::period::{self, Period};
use crate::scope::Scope;
use account::{Account, Name};
use books::Books;
pub(crate) use books::{MAX_ACCOUNTS, MAX_OF_ONE};
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
pub(crate) const FORGOTTEN: i64 = 90 * 86_400_000;
/// How often windows that ended long ago are looked for, to forget them: a day, in milliseconds.
const SWEEP: i64 = 86_400_000;

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

impl State {
    /// Whether it is an account of this budget as it is now: one that was changed in its unit or window has others.
    #[must_use]
    pub fn is_of(&self, budget: &Budget) -> bool {
        self.budget == budget.id
            && self.unit == budget.unit
            && period::is_named(budget, &self.window)
    }

    /// Whether its window is under way.
    #[must_use]
    pub fn holds(&self, now: i64) -> bool {
        let period = Period {
            since: self.since,
            until: self.until,
        };
        period.holds(now)
    }
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    state: Mutex<Inner>,
    /// There is something to synchronise, or it is over.
    woken: Condvar,
    store: Store,
    /// Held by whoever makes a checkpoint; when windows that ended long ago were forgotten last.
    swept: Mutex<i64>,
    troubles: Mutex<Troubles>,
}

#[derive(Debug)]
struct Inner {
    books: Books,
    /// Windows that ended, and are not in the history of the database.
    ended: Vec<(Name, Ended)>,
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
        let mut books = replay::accounts(read.accounts);
        replay::holds(&mut books, read.holds, now);
        let replayed = replay::journals(directory, read.generation, &mut books);
        let (generation, damage) = replayed.map_err(io)?;
        for id in books.held() {
            books.settled(id, None, now);
        }
        // Only now is it known who was charged when.
        let gone = books.forget(now.saturating_sub(FORGOTTEN));
        let write = Write {
            generation,
            accounts: books.changed(),
            holds: Vec::new(),
            gone,
            ended: Vec::new(),
        };
        store.write(&write).map_err(|error| OpenError::Corrupt {
            path: directory.join("ledger.redb"),
            what: error.to_string(),
        })?;
        let ended = books.retire(now);
        books.renumbers();
        // A ledger that cannot keep them goes on all the same.
        let damage = damage.map(|(damage, damaged)| Damage {
            unkept: replay::keep(directory, &damaged)
                .err()
                .map(|error| error.to_string()),
            ..damage
        });
        for old in read.generation..generation {
            let _ = fs::remove_file(Journal::path(directory, old));
        }
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            state: Mutex::new(Inner {
                books,
                ended,
                journal: Journal::create(directory, generation).map_err(io)?,
                generation,
                unsynced: false,
                stopped: false,
            }),
            woken: Condvar::new(),
            store,
            swept: Mutex::new(i64::MIN),
            troubles: Mutex::new(Troubles {
                damage,
                ..Troubles::default()
            }),
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
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<u64, Refused> {
        self.shared.change(|inner| {
            inner
                .books
                .extend(id, more, budgets, now, &mut inner.journal)
        })
    }

    /// What is wrong with it, though it goes on.
    #[must_use]
    pub fn troubles(&self) -> Troubles {
        self.shared.troubles().clone()
    }

    /// All accounts that are open.
    #[must_use]
    pub fn accounts(&self, now: i64) -> Vec<State> {
        let inner = self.shared.lock();
        let state = |account: &Account| State {
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

    /// The windows of a budget and scope that ended before now, the latest first: so many at most, and [`MAX_ENDED`]. How
    /// far back there are any depends on the window: four hours of minutes, five weeks of hours, and 400 days of others.
    ///
    /// Reads the database, while others go on charging.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn ended(
        &self,
        budget: &Budget,
        scope: &Scope,
        most: usize,
        now: i64,
    ) -> io::Result<Vec<Ended>> {
        let most = most.min(MAX_ENDED);
        let name = Account::name(budget, scope.clone(), Period::ENDLESS);
        let is_so = |it: &Name| {
            let same = (&it.budget, it.unit, &it.window) == (&name.budget, name.unit, &name.window);
            same && it.scope == name.scope
        };
        let mut found: Vec<Ended> = {
            let inner = self.shared.lock();
            let open = inner.books.all().filter(|it| is_so(&it.name));
            let open = open.filter_map(Account::ended);
            let ended = inner.ended.iter().filter(|(name, _)| is_so(name));
            let ended = ended.map(|(_, ended)| ended.clone());
            open.chain(ended).collect()
        };
        // After them: what becomes history meanwhile is found twice, and not missed.
        let history = self.shared.store.ended(&name, most);
        found.extend(history.map_err(io::Error::other)?);
        found.retain(|it| it.until <= now);
        found.sort_by_key(|it| std::cmp::Reverse((it.since, it.used)));
        found.dedup_by_key(|it| it.since);
        found.truncate(most);
        Ok(found)
    }

    /// How the account of a budget and scope was used until now, for [`Forecast::of`]; also of one that was not charged
    /// in this window. None: calls at the same time are not used up, and time passes by itself ([`Forecast::of_time`]).
    ///
    /// Reads the database, while others go on charging.
    ///
    /// # Errors
    /// The database cannot be read.
    ///
    /// [`Forecast::of`]: crate::Forecast::of
    /// [`Forecast::of_time`]: crate::Forecast::of_time
    pub fn course(&self, budget: &Budget, scope: &Scope, now: i64) -> io::Result<Option<Course>> {
        if matches!(budget.unit, Unit::ConcurrentCalls | Unit::WallTime) {
            return Ok(None);
        }
        let period = Period::of(budget, now);
        let name = Account::name(budget, scope.clone(), period);
        let counts = match (budget.window, period.until) {
            (Window::Sliding(length), _) => Counts::For(period::millis(length)),
            (_, Some(until)) => Counts::Until(until),
            (_, None) => Counts::Always,
        };
        let mut course = Course {
            limit: budget.limit,
            begin: period.since,
            counts,
            now,
            used: 0,
            held: 0,
            spread: Spread::default(),
            ended: Vec::new(),
        };
        if let Some(account) = self.shared.lock().books.named_so(&name) {
            if period.until.is_none() {
                course.begin = account.kept.first;
            }
            course.used = account.used(now);
            course.held = account.held;
            course.spread = account.spread(now);
        }
        if let Counts::Until(_) = counts {
            course.ended = self.ended(budget, scope, MAX_ENDED, now)?;
        }
        Ok(Some(course))
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
        more: More,
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
        let before = inner.journal.length();
        let changed = change(&mut inner);
        // Also of what is refused something may be noted. Woken once for all that happens until it has looked.
        let wrote = changed.is_ok() || inner.journal.length() != before;
        if wrote && !std::mem::replace(&mut inner.unsynced, true) {
            self.woken.notify_one();
        }
        changed
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
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
            // What the disk does not take now it may take with the next one; the process's own death it survives.
            let synced = file.and_then(|file| file.sync_data());
            self.troubles().sync = synced.err().map(|error| error.to_string());
            if length > MAX_JOURNAL || last.elapsed() > CHECKPOINT {
                // What fails is told, and tried again with the next journal that is full, or after a while.
                let _ = self.checkpoints(now());
                last = Instant::now();
            }
        }
    }

    /// Makes a checkpoint, and notes whether it could be.
    fn checkpoints(&self, now: i64) -> io::Result<()> {
        let made = self.checkpoint(now);
        self.troubles().checkpoint = made.as_ref().err().map(ToString::to_string);
        made
    }

    /// The journal of a generation, with what it has to begin with.
    fn next_journal(&self, generation: u64, books: &Books) -> io::Result<Journal> {
        let mut journal = Journal::create(&self.directory, generation)?;
        books.owing(&mut journal);
        if let Err(error) = journal.write() {
            // It is none: what the one before it has is not to be followed by half of this.
            let _ = fs::remove_file(Journal::path(&self.directory, generation));
            return Err(error);
        }
        Ok(journal)
    }

    /// Writes all that changed to the database, and begins another journal.
    fn checkpoint(&self, now: i64) -> io::Result<()> {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let (write, old) = {
            let mut inner = self.lock();
            // What waits belongs to the old one.
            inner.journal.write()?;
            let old = inner.generation;
            inner.journal = self.next_journal(old + 1, &inner.books)?;
            inner.generation = old + 1;
            inner.books.renumbers();
            let write = Write {
                generation: old + 1,
                accounts: inner.books.changed(),
                holds: inner.books.named(),
                gone: Vec::new(),
                ended: inner.ended.clone(),
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
        {
            let mut inner = self.lock();
            // Nobody else takes any out.
            inner.ended.drain(..write.ended.len());
            let ended = inner.books.retire(now);
            inner.ended.extend(ended);
        }
        // What fails is tried again with the next checkpoint: nothing depends on it but the size of a file.
        if now.saturating_sub(*swept) > SWEEP || self.store.is_full().unwrap_or(false) {
            *swept = self.store.sweep(now).map_or(*swept, |()| now);
        }
        Ok(())
    }
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
