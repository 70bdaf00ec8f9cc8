//! What a Redis that is away does not know yet, on this host's disk, so that it is charged also where this process dies
//! before it is back.
//!
//! A file for each process, which it holds locked, of lines of JSON: a call that is over, or what one that goes on may owe
//! should this process die. Of several lines of one call the last counts. The file is emptied once Redis has been told.
//! What a process has left that is no more, whichever process of this host is next to reach Redis tells in its stead: under
//! the same numbers, so that what was taken before counts once.
//!
//! What is written survives this process with the return of `write(2)`; the host's end it may not survive.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::account::Account;
use super::script::{Settlement, Spent};

/// The most bytes that are written, and read of what was left. What is more is not noted: of those calls what Redis knows
/// is charged.
const MOST: u64 = 64 << 20;

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
    /// What was drawn in advance is charged in full where this process dies: what is noted is the rest.
    fn of(settlement: &Settlement) -> Self {
        let share = |spent: &Spent| Share {
            account: spent.account.hash.to_string(),
            held: spent.held.saturating_sub(spent.leased),
            used: spent.used.map(|it| it.saturating_sub(spent.leased)),
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
                leased: 0,
                used: share.used,
            })
        };
        Some(Settlement {
            sequence: self.sequence,
            hold: self.hold,
            at: self.at,
            parts: self.parts.into_iter().map(spent).collect::<Option<_>>()?,
        })
    }
}

/// The notes of this process.
#[derive(Debug)]
pub(super) struct Notes {
    directory: PathBuf,
    process: String,
    /// From the first note on.
    file: Option<File>,
    length: u64,
    /// Why the last could not be written.
    failed: Option<String>,
}

impl Notes {
    pub(super) const fn new(directory: PathBuf, process: String) -> Self {
        Self {
            directory,
            process,
            file: None,
            length: 0,
            failed: None,
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Why something was not noted, until all is told.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Notes these.
    pub(super) fn note<'a>(&mut self, settlements: impl IntoIterator<Item = &'a Settlement>) {
        let mut lines = Vec::new();
        for settlement in settlements {
            // Only a map with other keys than texts cannot be written as JSON.
            if serde_json::to_writer(&mut lines, &Line::of(settlement)).is_ok() {
                lines.push(b'\n');
            }
        }
        if let Err(error) = self.write(&lines) {
            self.failed = Some(error.to_string());
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = self.length.saturating_add(lines.len() as u64);
        if length > MOST {
            return Err(io::Error::other("there is too much of it"));
        }
        if self.file.is_none() {
            self.file = Some(create(&self.directory, &self.process)?);
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let written = file.write_all(lines);
        match written {
            Ok(()) => self.length = length,
            // Half a line would take the next with it.
            Err(_) => file.set_len(self.length)?,
        }
        written
    }

    /// All is told.
    pub(super) fn forget(&mut self) {
        self.failed = None;
        let Some(file) = &self.file else {
            return;
        };
        if self.length > 0 {
            match file.set_len(0) {
                Ok(()) => self.length = 0,
                // Told again it counts once.
                Err(error) => self.failed = Some(error.to_string()),
            }
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        if self.file.is_some() && self.length == 0 {
            // Whoever finds it empty removes it.
            let _ = fs::remove_file(self.directory.join(&self.process));
        }
    }
}

/// Makes the file of a process. It has its name once it is locked, so that nobody takes it for one that was left.
fn create(directory: &Path, process: &str) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    let new = directory.join(format!("{process}.new"));
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&new)?;
    file.lock()?;
    fs::rename(&new, directory.join(process))?;
    Ok(file)
}

/// What a process has left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) process: String,
    /// In the order in which they are to be told.
    pub(super) settlements: Vec<Settlement>,
    /// How many lines cannot be read.
    pub(super) unread: usize,
    path: PathBuf,
    /// Locked, so that nobody else tells it.
    _file: File,
}

impl Left {
    /// It is told.
    pub(super) fn forget(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// What processes have left that are no more, and whether others than this one have notes and live still. Nothing where
/// nothing was ever noted.
///
/// # Errors
/// The directory, or a file, cannot be read.
pub(super) fn left(directory: &Path, own: &str, prefix: &str) -> io::Result<(Vec<Left>, bool)> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), false)),
        Err(error) => return Err(error),
    };
    let (mut all, mut others) = (Vec::new(), false);
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if name != own && Ulid::from_string(&name).is_ok() {
            match read(&entry.path(), name, prefix)? {
                Some(left) => all.push(left),
                None => others = true,
            }
        }
    }
    Ok((all, others))
}

/// None: its process lives.
fn read(path: &Path, process: String, prefix: &str) -> io::Result<Option<Left>> {
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
    let mut last: BTreeMap<u64, Settlement> = BTreeMap::new();
    let mut unread = 0;
    for line in BufReader::new(file.try_clone()?.take(MOST)).split(b'\n') {
        let line: Option<Line> = serde_json::from_slice(&line?).ok();
        match line.and_then(|it| it.settlement(prefix)) {
            Some(settlement) => {
                last.insert(settlement.hold, settlement);
            }
            None => unread += 1,
        }
    }
    let mut settlements: Vec<_> = last.into_values().collect();
    settlements.sort_by_key(|it| it.sequence);
    Ok(Some(Left {
        process,
        settlements,
        unread,
        path: path.to_owned(),
        _file: file,
    }))
}
