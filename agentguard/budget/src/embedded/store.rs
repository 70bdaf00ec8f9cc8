//! The database of accounts: what was used, as of the last checkpoint.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::charge::HoldId;
use crate::embedded::account::{Kept, Name};
use crate::embedded::history;
use crate::embedded::journal::Part;
use crate::forecast::Ended;

/// [`Name`] → [`Kept`], both in postcard.
const ACCOUNTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("accounts");
/// The number of what is held → [`Named`], in postcard.
const HOLDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("holds");
/// `format` → [`FORMAT`]; `generation` → the first journal that is not in it.
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");

/// The layout above.
const FORMAT: u64 = 1;
/// Bytes that the database may cache.
const CACHE: usize = 4 << 20;

/// Why a ledger cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be reached or made.
    #[error("the ledger at {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a database, or one that cannot be read.
    #[error(
        "the ledger at {} cannot be read: {what}. Restore its directory from a backup, or move it away: then nothing counts as used",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// What one call holds, for how many tokens, by the names of its accounts.
pub(crate) type Named<T> = (HoldId, u64, Vec<(Name, T)>);

/// What a checkpoint writes.
pub(crate) struct Write {
    /// The first journal whose entries are not in it.
    pub(crate) generation: u64,
    pub(crate) accounts: Vec<(Name, Kept)>,
    /// All that is held.
    pub(crate) holds: Vec<Named<Part>>,
    /// Accounts of which nothing is asked any more.
    pub(crate) gone: Vec<Name>,
    /// Accounts whose windows have ended: they are history from now on.
    pub(crate) ended: Vec<(Name, Ended)>,
}

/// What is there.
pub(crate) struct Read {
    pub(crate) generation: u64,
    pub(crate) accounts: Vec<(Name, Kept)>,
    pub(crate) holds: Vec<Named<Part>>,
}

#[derive(Debug)]
pub(crate) struct Store(pub(super) Database);

impl Store {
    /// Opens the database, or makes one, and reads it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Read), OpenError> {
        let corrupt = |what: String| OpenError::Corrupt {
            path: path.to_owned(),
            what,
        };
        // What the library makes of arbitrary bytes is not promised.
        let opened =
            std::panic::catch_unwind(|| Database::builder().set_cache_size(CACHE).create(path));
        let store = match opened {
            Ok(Ok(database)) => Self(database),
            Ok(Err(DatabaseError::Storage(redb::StorageError::Io(source))))
                if source.kind() != io::ErrorKind::InvalidData =>
            {
                return Err(OpenError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
            Ok(Err(error)) => return Err(corrupt(error.to_string())),
            Err(_) => return Err(corrupt("its pages are damaged".to_owned())),
        };
        let format = store.begin().map_err(|error| corrupt(error.to_string()))?;
        if format != FORMAT {
            return Err(corrupt(format!(
                "it has the format {format}, where {FORMAT} is known"
            )));
        }
        let read = store.read().map_err(|error| corrupt(error.to_string()))?;
        let read = read.ok_or_else(|| corrupt("an entry of it is none".to_owned()))?;
        Ok((store, read))
    }

    /// Makes what is not there, and says in which format it is.
    fn begin(&self) -> Result<u64, redb::Error> {
        let transaction = self.0.begin_write()?;
        let format = {
            transaction.open_table(ACCOUNTS)?;
            transaction.open_table(HOLDS)?;
            transaction.open_table(history::table())?;
            let mut about = transaction.open_table(ABOUT)?;
            let format = about.get("format")?.map(|format| format.value());
            match format {
                Some(format) => format,
                None => {
                    about.insert("format", FORMAT)?;
                    FORMAT
                }
            }
        };
        transaction.commit()?;
        Ok(format)
    }

    /// None: one of the entries is none.
    fn read(&self) -> Result<Option<Read>, redb::Error> {
        let transaction = self.0.begin_read()?;
        let mut accounts = Vec::new();
        for row in transaction.open_table(ACCOUNTS)?.iter()? {
            let (name, kept) = row?;
            let name = postcard::from_bytes(name.value());
            let kept = postcard::from_bytes(kept.value());
            let (Ok(name), Ok(kept)) = (name, kept) else {
                return Ok(None);
            };
            accounts.push((name, kept));
        }
        let mut holds = Vec::new();
        for row in transaction.open_table(HOLDS)?.iter()? {
            let Ok(hold) = postcard::from_bytes(row?.1.value()) else {
                return Ok(None);
            };
            holds.push(hold);
        }
        let about = transaction.open_table(ABOUT)?;
        let generation = about.get("generation")?.map_or(0, |it| it.value());
        Ok(Some(Read {
            generation,
            accounts,
            holds,
        }))
    }

    /// Writes a checkpoint: all of it, or nothing.
    pub(crate) fn write(&self, write: &Write) -> Result<(), redb::Error> {
        let transaction = self.0.begin_write()?;
        {
            let mut accounts = transaction.open_table(ACCOUNTS)?;
            history::add(&mut transaction.open_table(history::table())?, &write.ended)?;
            for (name, _) in &write.ended {
                accounts.remove(&*bytes(name)?)?;
            }
            // Behind those that ended: a clock that went back may have opened one again.
            for (name, kept) in &write.accounts {
                accounts.insert(&*bytes(name)?, &*bytes(kept)?)?;
            }
            for name in &write.gone {
                accounts.remove(&*bytes(name)?)?;
            }
            transaction.delete_table(HOLDS)?;
            let mut holds = transaction.open_table(HOLDS)?;
            for hold in &write.holds {
                holds.insert(hold.0.0, &*bytes(hold)?)?;
            }
            let mut about = transaction.open_table(ABOUT)?;
            about.insert("generation", write.generation)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

pub(super) fn bytes(value: &impl serde::Serialize) -> Result<Vec<u8>, redb::Error> {
    let error = |error| redb::Error::Io(io::Error::other(error));
    postcard::to_stdvec(value).map_err(error)
}
