//! The database of virtual addresses.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use agentguard_model::HostName;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::pool::{Pool, number6};
use super::{Held, Range};

/// Name → (IPv4 address, IPv6 number, agent that brought it in, last answered in s since 1970).
const NAMES: TableDefinition<'_, &str, (u32, u64, u32, u64)> = TableDefinition::new("names");
/// See the keys below.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

const FORMAT: &str = "format";
const RANGE_FIRST: &str = "range_first";
const RANGE_LAST: &str = "range_last";
/// The next IPv4 address that was never given out; 0 when all were.
const NEXT4: &str = "next4";
const NEXT6: &str = "next6";

/// The layout above.
const FORMAT_VERSION: u64 = 1;
/// Bytes that the database may cache. The names are in memory anyway.
const CACHE: usize = 4 << 20;

/// Why the virtual addresses cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its directory cannot be reached or made.
    #[error("virtual addresses at {}: {source}", path.display())]
    Io {
        /// The database.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "virtual addresses at {} are in use by another process; stop the other daemon first",
        path.display()
    )]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// It is not a database, or one that cannot be read any more.
    #[error(
        "virtual addresses at {} cannot be read: {what}. Restore the file from a backup, or move it away and restart every agent: \
         addresses that running agents hold would otherwise come to mean other names",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It was made for another range or by another version.
    #[error(
        "virtual addresses at {} do not fit this daemon: {what}. Run the version that wrote them, or move the file away and restart every agent",
        path.display()
    )]
    Foreign {
        /// The database.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
}

/// One row.
pub(super) struct Row {
    pub(super) name: HostName,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: u64,
    pub(super) owner: u32,
    pub(super) answered: u64,
}

/// What was given out so far.
pub(super) struct Counters {
    pub(super) next4: Option<Ipv4Addr>,
    pub(super) next6: u64,
}

pub(super) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the database, or begins one if there is none.
    pub(super) fn open(path: &Path, range: Range) -> Result<Self, OpenError> {
        let exists = path.try_exists().map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
        if !exists {
            begin(path, range)?;
        }
        Self::reopen(path, range)
    }

    /// Opens the database, which must be there.
    pub(super) fn reopen(path: &Path, range: Range) -> Result<Self, OpenError> {
        let store = Self {
            database: guarded(path, || {
                let looked = Rc::new(Looked::default());
                let seen = looked.clone();
                let mut database = Database::builder()
                    .set_cache_size(CACHE)
                    .set_repair_callback(move |repair| seen.note(repair.progress()))
                    .open(path)?;
                // A bit that flipped on disk is found here, not by a wrong answer later. The
                // file has at most some ten megabytes. After a death it was read through just now,
                // and agents wait for whoever takes the dead one's place.
                let whole = match looked.through.get() {
                    true => !looked.went_back.get(),
                    false => database.check_integrity()?,
                };
                if !whole {
                    tracing::warn!(path = %path.display(), "virtual addresses were repaired to their last commit");
                }
                Ok(database)
            })?,
            path: path.to_owned(),
        };
        let [format, first, last] = [FORMAT, RANGE_FIRST, RANGE_LAST].map(|key| store.counter(key));
        let (format, first, last) = (format?, first?, last?);
        if format != FORMAT_VERSION {
            return Err(store.foreign(format!("format {format}, where {FORMAT_VERSION} is known")));
        }
        if (first, last) != bounds(range) {
            return Err(store.foreign("it was made for another address range".to_owned()));
        }
        Ok(store)
    }

    /// Everything in it.
    pub(super) fn load(&self) -> Result<(Vec<Row>, Counters), OpenError> {
        let mut rows = Vec::new();
        let read = |rows: &mut Vec<Row>| -> Result<Option<String>, redb::Error> {
            let table = self.database.begin_read()?.open_table(NAMES)?;
            for row in table.iter()? {
                let (name, value) = row?;
                let (v4, v6, owner, answered) = value.value();
                let Ok(parsed) = name.value().parse::<HostName>() else {
                    return Ok(Some(name.value().chars().take(80).collect()));
                };
                rows.push(Row {
                    name: parsed,
                    v4: Ipv4Addr::from_bits(v4),
                    v6,
                    owner,
                    answered,
                });
            }
            Ok(None)
        };
        match read(&mut rows) {
            Ok(None) => {}
            Ok(Some(name)) => return Err(self.inconsistent(format!("`{name}` is no host name"))),
            Err(error) => return Err(self.inconsistent(error.to_string())),
        }
        let next4 = match u32::try_from(self.counter(NEXT4)?) {
            Ok(0) => None,
            Ok(bits) => Some(Ipv4Addr::from_bits(bits)),
            Err(_) => return Err(self.inconsistent("the next IPv4 address is none".to_owned())),
        };
        let next6 = self.counter(NEXT6)?;
        Ok((rows, Counters { next4, next6 }))
    }

    fn counter(&self, key: &str) -> Result<u64, OpenError> {
        let read = || -> Result<Option<u64>, redb::Error> {
            let table = self.database.begin_read()?.open_table(COUNTERS)?;
            Ok(table.get(key)?.map(|value| value.value()))
        };
        match read() {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(self.inconsistent(format!("`{key}` is missing"))),
            Err(error) => Err(self.inconsistent(error.to_string())),
        }
    }

    /// Writes names with `now` as their last answer, and the pool's counters, durably.
    pub(super) fn commit<'a>(
        &self,
        held: impl Iterator<Item = &'a Held>,
        now: u64,
        pool: &Pool,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut names = transaction.open_table(NAMES)?;
            for held in held {
                let answered = held.stored.load(Ordering::Relaxed).max(now);
                let row = (
                    held.pair.v4.to_bits(),
                    number6(held.pair.v6),
                    held.owner,
                    answered,
                );
                names.insert(held.name.as_str(), row)?;
            }
            let mut counters = transaction.open_table(COUNTERS)?;
            let (next4, next6) = pool.counters();
            counters.insert(NEXT4, next4.map_or(0, |v4| u64::from(v4.to_bits())))?;
            counters.insert(NEXT6, next6)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Forgets names, durably.
    pub(super) fn remove<'a>(
        &self,
        gone: impl Iterator<Item = &'a HostName>,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut names = transaction.open_table(NAMES)?;
            for name in gone {
                names.remove(name.as_str())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn inconsistent(&self, what: String) -> OpenError {
        OpenError::Corrupt {
            path: self.path.clone(),
            what,
        }
    }

    fn foreign(&self, what: String) -> OpenError {
        OpenError::Foreign {
            path: self.path.clone(),
            what,
        }
    }
}

/// What the library did as it opened a database that nobody had closed: it verifies every checksum then.
#[derive(Default)]
struct Looked {
    through: Cell<bool>,
    /// The last commit was not whole, and it went back to the one before.
    went_back: Cell<bool>,
}

impl Looked {
    /// Of three looks each is told as it ends; the first only where it found something (redb 4,
    /// `do_repair`).
    fn note(&self, progress: f64) {
        self.through.set(true);
        if progress < 0.5 {
            self.went_back.set(true);
        }
    }
}

fn bounds(range: Range) -> (u64, u64) {
    (
        u64::from(range.first.to_bits()),
        u64::from(range.last.to_bits()),
    )
}

/// Makes a new database under another name and moves it to `path` when it is whole, so that a crash
/// leaves none or a good one.
fn begin(path: &Path, range: Range) -> Result<(), OpenError> {
    let io = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let fill = || -> Result<(), redb::Error> {
        let database = Database::builder().set_cache_size(CACHE).create(&new)?;
        let transaction = database.begin_write()?;
        {
            transaction.open_table(NAMES)?;
            let mut counters = transaction.open_table(COUNTERS)?;
            let (first, last) = bounds(range);
            let (next4, next6) = Pool::first(range);
            for (key, value) in [
                (FORMAT, FORMAT_VERSION),
                (RANGE_FIRST, first),
                (RANGE_LAST, last),
                (NEXT4, next4.map_or(0, |v4| u64::from(v4.to_bits()))),
                (NEXT6, next6),
            ] {
                counters.insert(key, value)?;
            }
        }
        transaction.commit()?;
        Ok(())
    };
    fill().map_err(|error| io(io::Error::other(error)))?;
    std::fs::rename(&new, path).map_err(io)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io)
}

/// Opens, and turns whatever goes wrong into words; also a panic, since what the library makes of
/// arbitrary bytes is not promised.
fn guarded(
    path: &Path,
    open: impl FnOnce() -> Result<Database, DatabaseError>,
) -> Result<Database, OpenError> {
    let corrupt = |what: String| OpenError::Corrupt {
        path: path.to_owned(),
        what,
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(OpenError::InUse {
            path: path.to_owned(),
        }),
        Ok(Err(DatabaseError::Storage(redb::StorageError::Io(source))))
            if matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
            ) =>
        {
            Err(OpenError::Io {
                path: path.to_owned(),
                source,
            })
        }
        Ok(Err(error)) => Err(corrupt(error.to_string())),
        Err(_) => Err(corrupt("its pages are damaged".to_owned())),
    }
}
