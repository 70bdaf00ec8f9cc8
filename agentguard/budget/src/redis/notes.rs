//! What a Redis that is away does not know yet, on this host's disk, so that it is charged also where this process dies
//! before it is back.
//!
//! A file for each process, which it holds locked, of lines of JSON: a call that is over, or what one that goes on may owe
//! should this process die. Of several lines of one call the last counts. The file is removed once Redis has been told. What
//! a process has left that is no more, whichever process of this host is next to reach Redis tells in its stead: under the
//! same numbers, so that what was taken before counts once.
//!
//! What was drawn in advance is charged in full where this process dies, so that lines have what is beyond it, and none gives
//! it back. What is written survives this process with the return of `write(2)`; the host's end it may not survive.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::account::Account;
use super::script::{Settlement, Spent};

/// The most bytes that are written, and read of what was left. Where there would be more, all is written anew, without what
/// is over; what is more then is not noted: of those calls what Redis knows is charged.
const MOST: u64 = 64 << 20;

/// How long after it could not be written it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the files are called, with the process and the prefix behind it.
const NAME: &str = "notes.";

/// A call, as it is noted.
#[derive(Debug, Deserialize, Serialize)]
struct Line {
    sequence: u64,
    hold: u64,
    at: i64,
    parts: Vec<Share>,
}

/// What is noted of one account.
#[derive(Debug, Deserialize, Serialize)]
struct Share {
    account: String,
    held: u64,
    /// None: as much as is held.
    used: Option<u64>,
}

impl Line {
    fn of(settlement: &Settlement) -> Self {
        let share = |spent: &Spent| Share {
            account: spent.account.hash.to_string(),
            held: spent.held.saturating_sub(spent.covered),
            used: spent.used.map(|it| it.saturating_sub(spent.covered)),
        };
        Self {
            sequence: settlement.sequence,
            hold: settlement.hold,
            at: settlement.at,
            parts: settlement.parts.iter().map(share).collect(),
        }
    }

    /// None: an account of it is not known, as where another calendar is now.
    fn settlement(self, prefix: &str) -> Option<Settlement> {
        let spent = |share: Share| {
            let (account, ..) = Account::read(prefix, &share.account)?;
            Some(Spent {
                account: Arc::new(account),
                held: share.held,
                covered: 0,
                used: share.used,
            })
        };
        Some(Settlement {
            sequence: self.sequence,
            hold: self.hold,
            at: self.at,
            gives_back: false,
            parts: self.parts.into_iter().map(spent).collect::<Option<_>>()?,
        })
    }
}

/// The notes of this process.
#[derive(Debug)]
pub(super) struct Notes {
    directory: PathBuf,
    name: String,
    /// From the first note on.
    file: Option<File>,
    length: u64,
    /// Why the last could not be written, and when that is tried again.
    failed: Option<(String, Instant)>,
}

impl Notes {
    /// `prefix`: of the keys, as the configuration has it. What another ledger has to know stays until that is reached.
    pub(super) fn new(directory: PathBuf, process: &str, prefix: &str) -> Self {
        Self {
            directory,
            name: format!("{NAME}{process}.{prefix}"),
            file: None,
            length: 0,
            failed: None,
        }
    }

    /// Why not all is noted, until it is.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_ref().map(|(why, _)| why.as_str())
    }

    /// Whether it could not be written, and is to be tried again.
    pub(super) fn is_due(&self) -> bool {
        let failed = self.failed.as_ref();
        failed.is_some_and(|(_, again)| *again <= Instant::now())
    }

    fn fails(&mut self, error: &io::Error) {
        self.failed = Some((error.to_string(), Instant::now() + AGAIN));
    }

    /// Notes one more. False: all has to be written anew.
    pub(super) fn add(&mut self, settlement: &Settlement) -> bool {
        if let Some((_, again)) = &self.failed {
            return Instant::now() < *again;
        }
        let lines = written([settlement]);
        let length = self.length.saturating_add(lines.len() as u64);
        if self.length == 0 || length > MOST {
            return false;
        }
        let Some(file) = &mut self.file else {
            return false;
        };
        // Half a line would take the next with it: it is written anew.
        let whole = file.write_all(&lines).is_ok();
        self.length = length;
        whole
    }

    /// Notes these and nothing else.
    pub(super) fn rewrite<'a>(&mut self, settlements: impl IntoIterator<Item = &'a Settlement>) {
        let lines = written(settlements);
        let made = match lines.len() as u64 > MOST {
            true => Err(io::Error::other("there is too much of it")),
            false => create(&self.directory, &self.name, &lines),
        };
        match made {
            Ok(file) => {
                self.file = Some(file);
                self.length = lines.len() as u64;
                self.failed = None;
            }
            Err(error) => self.fails(&error),
        }
    }

    /// All is told.
    pub(super) fn forget(&mut self) {
        self.failed = None;
        if self.length == 0 {
            return;
        }
        // Before it is closed: whoever locks it then finds that it is gone.
        match fs::remove_file(self.directory.join(&self.name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // It stays, locked and empty.
                let emptied = self.file.as_ref().map(|it| it.set_len(0));
                if let Some(Err(error)) = emptied {
                    return self.fails(&error);
                }
            }
            _ => self.file = None,
        }
        self.length = 0;
    }
}

fn written<'a>(settlements: impl IntoIterator<Item = &'a Settlement>) -> Vec<u8> {
    let mut lines = Vec::new();
    for settlement in settlements {
        // Only a map with other keys than texts cannot be written as JSON.
        if serde_json::to_writer(&mut lines, &Line::of(settlement)).is_ok() {
            lines.push(b'\n');
        }
    }
    lines
}

/// Makes the file of a process, or another in its place. It has its name once it is locked and whole, so that nobody takes
/// it for one that was left.
fn create(directory: &Path, name: &str, lines: &[u8]) -> io::Result<File> {
    let new = directory.join(format!("new.{name}"));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    let named = || {
        file.lock()?;
        (&file).write_all(lines)?;
        fs::rename(&new, directory.join(name))
    };
    let named = named();
    if named.is_err() {
        // On a disk that is full it takes what is needed.
        let _ = fs::remove_file(&new);
    }
    named.map(|()| file)
}

/// What a process has left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) process: String,
    /// In the order in which they are to be told.
    pub(super) settlements: Vec<Settlement>,
    /// How many lines cannot be told: they cannot be read, or are older than what Redis remembers.
    pub(super) untold: u64,
    path: PathBuf,
    /// Locked, so that nobody else tells it.
    _file: File,
}

impl Left {
    /// It is told.
    pub(super) fn forget(self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            // Somebody else has.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// The files of other processes than this one, by the same prefix.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn others(directory: &Path, own: &str, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if process(&path, prefix).is_some_and(|it| it != own) {
            all.push(path);
        }
    }
    Ok(all)
}

/// Whose notes a file has.
fn process<'a>(path: &'a Path, prefix: &str) -> Option<&'a str> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    let (process, of) = name.strip_prefix(NAME)?.split_once('.')?;
    (of == prefix && Ulid::from_string(process).is_ok()).then_some(process)
}

/// What a process has left. None: it lives, or has left nothing. `keys`: what all keys begin with. What was noted before
/// `oldest` is not told: what Redis knew of it was charged, and may be forgotten since.
///
/// # Errors
/// It cannot be read.
pub(super) fn left(
    path: &Path,
    (prefix, keys): (&str, &str),
    oldest: i64,
) -> io::Result<Option<Left>> {
    let Some(process) = process(path, prefix) else {
        return Ok(None);
    };
    let file = match File::open(path) {
        Ok(file) => file,
        // It has ended, or another was quicker.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    // Its process lives, and has just removed it, or written it anew.
    if file.metadata()?.nlink() == 0 {
        return Ok(None);
    }
    let mut last: BTreeMap<u64, Settlement> = BTreeMap::new();
    let mut untold = 0;
    for line in BufReader::new(file.try_clone()?.take(MOST)).split(b'\n') {
        let line: Option<Line> = serde_json::from_slice(&line?).ok();
        let settlement = line.and_then(|it| it.settlement(keys));
        match settlement.filter(|it| it.at >= oldest) {
            Some(settlement) => {
                last.insert(settlement.hold, settlement);
            }
            None => untold += 1,
        }
    }
    let mut settlements: Vec<_> = last.into_values().collect();
    settlements.sort_by_key(|it| it.sequence);
    Ok(Some(Left {
        process: process.to_owned(),
        settlements,
        untold,
        path: path.to_owned(),
        _file: file,
    }))
}
