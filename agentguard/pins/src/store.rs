//! The database of pins.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{Entry, Which};

/// (Server, tool) → what is known of it, by postcard.
const PINS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("pins");
/// (Server, tool, 0: what it is pinned to, 1: the other one) → a definition.
const TEXTS: TableDefinition<'_, (&str, &str, u8), &str> = TableDefinition::new("texts");
/// `format` → [`FORMAT_VERSION`].
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");

/// The layout above.
const FORMAT_VERSION: u64 = 1;
/// Bytes that the database may cache.
const CACHE: usize = 4 << 20;

/// Why the pins cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be reached or made.
    #[error("the pins of tools at {}: {source}", path.display())]
    Io {
        /// The database.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a database, or one that cannot be read.
    #[error(
        "the pins of tools at {} cannot be read: {what}. Restore the file from a backup, or move it away: then each tool is pinned \
         to what its server lists next, whatever that is",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// What is to be written of a server.
pub(crate) struct Write<'a> {
    pub(crate) server: &'a str,
    pub(crate) entries: &'a BTreeMap<String, Option<Entry>>,
    /// In this order.
    pub(crate) texts: &'a [(String, Which, Option<String>)],
}

#[derive(Debug)]
pub(crate) struct Store(Database);

type Row = (String, String, Entry);

impl Store {
    /// Opens the database, or makes one, and reads all but the texts.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Row>), OpenError> {
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
        if format != FORMAT_VERSION {
            return Err(corrupt(format!(
                "it has the format {format}, where {FORMAT_VERSION} is known"
            )));
        }
        let rows = store.rows().map_err(|error| corrupt(error.to_string()))?;
        let rows = rows.ok_or_else(|| corrupt("an entry of it is none".to_owned()))?;
        Ok((store, rows))
    }

    /// Makes what is not there, and says in which format it is.
    fn begin(&self) -> Result<u64, redb::Error> {
        let transaction = self.0.begin_write()?;
        let format = {
            transaction.open_table(PINS)?;
            transaction.open_table(TEXTS)?;
            let mut about = transaction.open_table(ABOUT)?;
            let format = about.get("format")?.map(|format| format.value());
            match format {
                Some(format) => format,
                None => {
                    about.insert("format", FORMAT_VERSION)?;
                    FORMAT_VERSION
                }
            }
        };
        transaction.commit()?;
        Ok(format)
    }

    /// None: one of them is no entry.
    fn rows(&self) -> Result<Option<Vec<Row>>, redb::Error> {
        let table = self.0.begin_read()?.open_table(PINS)?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            let (server, tool) = key.value();
            let Ok(entry) = postcard::from_bytes(value.value()) else {
                return Ok(None);
            };
            rows.push((server.to_owned(), tool.to_owned(), entry));
        }
        Ok(Some(rows))
    }

    /// One of a tool's definitions.
    pub(crate) fn text(
        &self,
        server: &str,
        tool: &str,
        which: Which,
    ) -> Result<Option<String>, redb::Error> {
        let table = self.0.begin_read()?.open_table(TEXTS)?;
        let text = table.get((server, tool, number(which)))?;
        Ok(text.map(|text| text.value().to_owned()))
    }

    /// Writes all of it or nothing, durably.
    pub(crate) fn write(&self, what: &Write<'_>) -> Result<(), redb::Error> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut pins = transaction.open_table(PINS)?;
            for (tool, entry) in what.entries {
                let key = (what.server, tool.as_str());
                match entry {
                    Some(entry) => {
                        let bytes = postcard::to_stdvec(entry)
                            .map_err(|error| redb::Error::Io(io::Error::other(error)))?;
                        pins.insert(key, bytes.as_slice())?;
                    }
                    None => {
                        pins.remove(key)?;
                    }
                }
            }
            let mut texts = transaction.open_table(TEXTS)?;
            for (tool, which, text) in what.texts {
                let key = (what.server, tool.as_str(), number(*which));
                match text {
                    Some(text) => {
                        texts.insert(key, text.as_str())?;
                    }
                    None => {
                        texts.remove(key)?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

const fn number(which: Which) -> u8 {
    match which {
        Which::Pinned => 0,
        Which::Other => 1,
    }
}
