//! Windows that have ended, in the database: what forecasts look back on.
//!
//! The key is what an account goes by but the window's beginning, in postcard, and the beginning (big-endian, with its
//! sign turned, so that the order of bytes is that of time). The value is an [`Ended`], in postcard.

use agentguard_model::budget::Unit;
use redb::{
    ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError,
};

use crate::embedded::account::Name;
use crate::embedded::store::{Store, bytes};
use crate::forecast::Ended;

const HISTORY: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("history");

/// The most windows that are kept, of all accounts. Beyond that the oldest tenth is forgotten: forecasts look back less
/// far.
const MAX_WINDOWS: u64 = 262_144;
/// What is swept out when there are too many, as a part of all.
const SWEPT: usize = 10;
/// The bytes of a beginning.
const BEGIN: usize = 8;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// How long windows are kept behind their beginning, in milliseconds: as many as a forecast can use.
fn kept(window: &str) -> i64 {
    match window.split(' ').next() {
        Some("minute") => 4 * HOUR,
        Some("hour") => 35 * DAY,
        _ => 400 * DAY,
    }
}

/// Adds windows that ended, to what was there of them: a clock that went back can have them twice.
pub(super) fn add(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    ended: &[(Name, Ended)],
) -> Result<(), redb::Error> {
    for (name, ended) in ended {
        let key = key(name, ended.since)?;
        let there = table.get(&*key)?;
        let there = there.and_then(|it| postcard::from_bytes::<Ended>(it.value()).ok());
        let sum = match there {
            Some(there) => both(there, ended),
            None => ended.clone(),
        };
        table.insert(&*key, &*bytes(&sum)?)?;
    }
    Ok(())
}

/// The table, which is made where it is not there.
pub(super) const fn table() -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    HISTORY
}

impl Store {
    /// The latest windows that ended, of an account without its beginning, the latest first.
    pub(super) fn ended(&self, name: &Name, most: usize) -> Result<Vec<Ended>, redb::Error> {
        let transaction = self.0.begin_read()?;
        let table = match transaction.open_table(HISTORY) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let (from, to) = (key(name, i64::MIN)?, key(name, i64::MAX)?);
        let mut found = Vec::new();
        for row in table.range(&*from..=&*to)?.rev().take(most) {
            // One that cannot be read is one that nobody knows of: a forecast is no account.
            found.extend(postcard::from_bytes(row?.1.value()));
        }
        Ok(found)
    }

    /// Forgets what is older than anybody asks for, and the oldest where there are too many.
    pub(super) fn sweep(&self, now: i64) -> Result<(), redb::Error> {
        self.sweep_to(now, MAX_WINDOWS)
    }

    /// Whether there are more than may be.
    pub(super) fn is_full(&self) -> Result<bool, redb::Error> {
        let transaction = self.0.begin_read()?;
        match transaction.open_table(HISTORY) {
            Ok(table) => Ok(table.len()? > MAX_WINDOWS),
            Err(TableError::TableDoesNotExist(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn sweep_to(&self, now: i64, most: u64) -> Result<(), redb::Error> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(HISTORY)?;
            let mut begins = Vec::new();
            table.retain(|key, _| {
                let keeps =
                    read(key).filter(|(window, since)| since.saturating_add(kept(window)) >= now);
                begins.extend(keeps.map(|(_, since)| since));
                keeps.is_some()
            })?;
            if begins.len() as u64 > most {
                let swept = begins.len() - usize::try_from(most).unwrap_or(usize::MAX);
                let swept = swept.max(begins.len() / SWEPT).min(begins.len() - 1);
                let (_, last, _) = begins.select_nth_unstable(swept);
                let last = *last;
                table.retain(|key, _| read(key).is_some_and(|(_, since)| since >= last))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn key(name: &Name, since: i64) -> Result<Vec<u8>, redb::Error> {
    let mut key = bytes(&(&name.budget, name.unit, &name.window, &name.scope))?;
    key.extend_from_slice(&(since ^ i64::MIN).to_be_bytes());
    Ok(key)
}

/// Which window a key is of, and when that began. None: it is no key.
fn read(key: &[u8]) -> Option<(&str, i64)> {
    let (name, begin) = key.split_at_checked(key.len().checked_sub(BEGIN)?)?;
    let (_, _, window, _): (&str, Unit, &str, &str) = postcard::from_bytes(name).ok()?;
    let begin = i64::from_be_bytes(begin.try_into().ok()?);
    Some((window, begin ^ i64::MIN))
}

fn both(mut there: Ended, more: &Ended) -> Ended {
    there.used = there.used.saturating_add(more.used);
    if there.parts.len() < more.parts.len() {
        there.parts.resize(more.parts.len(), 0);
    }
    for (sum, amount) in there.parts.iter_mut().zip(&more.parts) {
        *sum = sum.saturating_add(*amount);
    }
    there
}
