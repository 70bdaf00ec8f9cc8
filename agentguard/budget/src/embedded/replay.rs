//! What an earlier process left.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::charge::HoldId;
use crate::embedded::account::{Kept, Name};
use crate::embedded::books::Books;
use crate::embedded::journal::{self, Entry, Journal, Part};
use crate::embedded::store::Named;

/// What a damaged journal is called once it was read: it is kept until the next damage, for whoever looks into it.
const DAMAGED: &str = "damaged";

/// The number of an account whose name is lost: no account's.
const NAMELESS: u32 = u32::MAX;

/// Calls whose numbers are kept to count each once, at most.
const MAX_MISSING: usize = 16_384;

/// What journals did not have any more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Damage {
    /// The journals that are damaged, as they are called now: the first of them, and how many there are.
    pub file: PathBuf,
    /// How many there are.
    pub files: u64,
    /// Where the first damage is.
    pub at: u64,
    /// How many bytes are no entries.
    pub bytes: u64,
    /// Calls that reserved something of which nothing is known, at most, as far as their numbers say it.
    pub calls: u64,
    /// What calls reserved of accounts whose names are not known.
    pub nameless: u64,
    /// Why they could not be kept, where they could not.
    pub unkept: Option<String>,
}

/// What is missing, and the generations of the journals that are damaged.
pub(super) type Damaged = (Damage, Vec<u64>);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, at, .. } = self;
        write!(
            f,
            "the ledger's journal was damaged: {bytes} bytes from byte {at} on are no entries. What is whole behind them \
             was read and counts; what happened there does not: "
        )?;
        match (self.calls, self.nameless) {
            (0, 0) => write!(f, "no reservation of a call, as far as can be said")?,
            (calls, 0) => write!(f, "reservations of up to {calls} calls")?,
            (calls, nameless) => write!(
                f,
                "reservations of up to {calls} calls, and {nameless} of accounts whose names are lost"
            )?,
        }
        match &self.unkept {
            Some(why) => write!(
                f,
                ". It could not be kept as {}: {why}",
                self.file.display()
            )?,
            None => write!(f, ". It is kept as {}", self.file.display())?,
        }
        if self.files > 1 && self.unkept.is_none() {
            write!(f, ", and {} beside it", self.files - 1)?;
        }
        f.write_str(
            ". Look at what was used (`agentguard budget list`), and set what should be more (`agentguard budget set`); \
             and at the disk",
        )
    }
}

/// The accounts of the database. Windows that ended are among them: what was held in one when the process died is used
/// there. So are those that nobody has charged for long, as far as the database knows: the journal may know it better.
pub(super) fn accounts(read: Vec<(Name, Kept)>) -> Books {
    let mut books = Books::default();
    for (name, kept) in read {
        books.put(name, kept);
    }
    books
}

/// What was held at the checkpoint.
pub(super) fn holds(books: &mut Books, read: Vec<Named<Part>>, now: i64) {
    for (id, tokens, parts) in read {
        let numbered = parts.into_iter().map(|(name, part)| Part {
            account: books.open(name, None),
            ..part
        });
        let numbered = numbered.collect();
        books.hold(id, numbered, tokens, now);
    }
}

/// What happened since: in the journals of this generation and those behind it. Gives the generation behind the last, and
/// what is missing, with the generations of the journals that are damaged.
pub(super) fn journals(
    directory: &Path,
    first: u64,
    books: &mut Books,
) -> io::Result<(u64, Option<Damaged>)> {
    let mut damage = Damage::default();
    let mut damaged = Vec::new();
    let mut generation = first;
    let mut calls = Calls::default();
    while Journal::path(directory, generation).exists() {
        let path = Journal::path(directory, generation);
        let gaps = journal(&path, books, &mut calls, &mut damage)?;
        // Something that was being written when the process or the host ended was never answered.
        let is_last = !Journal::path(directory, generation + 1).exists();
        let lost = gaps.within + if is_last { 0 } else { gaps.at_end };
        if lost > 0 {
            if damaged.is_empty() {
                damage.at = gaps.first.unwrap_or(0);
            }
            damage.bytes += lost;
            damaged.push(generation);
        }
        generation += 1;
    }
    let Some(first) = damaged.first() else {
        return Ok((generation, None));
    };
    damage.files = damaged.len() as u64;
    damage.calls = calls.missing();
    damage.file = kept(directory, *first);
    Ok((generation, Some((damage, damaged))))
}

fn journal(
    path: &Path,
    books: &mut Books,
    calls: &mut Calls,
    damage: &mut Damage,
) -> io::Result<journal::Gaps> {
    // Numbers of the journal → those of today.
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    journal::read(path, |entry, gap| match entry {
        Entry::Opens {
            account,
            name,
            until,
        } => _ = numbers.insert(account, books.open(name, until)),
        Entry::Holds {
            id,
            at,
            mut parts,
            tokens,
        } => {
            calls.begins(id, gap);
            for part in &mut parts {
                let number = numbers.get(&part.account).copied();
                damage.nameless += u64::from(number.is_none());
                // It keeps its place: what is used is told by the places.
                part.account = number.unwrap_or(NAMELESS);
            }
            books.hold(id, parts, tokens, at);
        }
        Entry::Extends { id, tokens } => {
            calls.goes_on(id, books);
            books.extended(id, tokens);
        }
        Entry::Owes { id, tokens } => {
            calls.goes_on(id, books);
            books.owes(id, tokens);
        }
        Entry::Settles { id, at, used } => {
            calls.goes_on(id, books);
            books.settled(id, used.as_deref(), at);
        }
        Entry::Sets { account, at, used } => {
            if let Some(number) = numbers.get(&account) {
                books.sets(*number, used, at);
            }
        }
    })
}

/// The calls that a journal has to have, by their numbers.
#[derive(Default)]
struct Calls {
    /// That of the last call that began, or that has to have begun.
    last: Option<u64>,
    /// Those of calls of which it is not known what they reserved.
    missing: HashSet<u64>,
    /// Those beyond [`MAX_MISSING`].
    more: u64,
}

impl Calls {
    fn begins(&mut self, id: HoldId, gap: bool) {
        // Numbers are also left out where something could not be written.
        if let (Some(last), true) = (self.last, gap) {
            self.miss(last + 1..id.0);
        }
        self.last = self.last.max(Some(id.0));
    }

    /// Only a call that has begun goes on, or is over.
    fn goes_on(&mut self, id: HoldId, books: &Books) {
        if books.holds(id) {
            return;
        }
        let from = self
            .last
            .map_or(id.0, |last| last.saturating_add(1).min(id.0));
        self.miss(from..id.0.saturating_add(1));
        self.last = self.last.max(Some(id.0));
    }

    fn miss(&mut self, numbers: std::ops::Range<u64>) {
        let room = MAX_MISSING.saturating_sub(self.missing.len());
        let all = numbers.end.saturating_sub(numbers.start);
        self.missing.extend(numbers.take(room));
        self.more = self.more.saturating_add(all.saturating_sub(room as u64));
    }

    fn missing(&self) -> u64 {
        self.more.saturating_add(self.missing.len() as u64)
    }
}

/// Where a damaged journal is kept.
fn kept(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("{DAMAGED}.{generation}"))
}

/// The generation of a journal that is kept, by its name. None: it is not ours.
fn kept_generation(name: &OsStr) -> Option<u64> {
    let number = name.to_str()?.strip_prefix(DAMAGED)?.strip_prefix('.')?;
    number.parse().ok()
}

/// Keeps what is damaged, in the place of what was damaged before, once nothing is read of it any more. By another name:
/// a disk that is full has room for that. What was kept before goes only where all of this is kept.
///
/// # Errors
/// Some of it cannot be kept, and all else is.
pub(super) fn keep(directory: &Path, damaged: &[u64]) -> io::Result<()> {
    let mut kept_all = Ok(());
    for generation in damaged {
        let from = Journal::path(directory, *generation);
        kept_all = kept_all.and(fs::rename(from, kept(directory, *generation)));
    }
    kept_all?;
    // What cannot be taken away is looked at by nobody but people.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let before = kept_generation(&entry.file_name());
        if before.is_some_and(|it| !damaged.contains(&it)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}
