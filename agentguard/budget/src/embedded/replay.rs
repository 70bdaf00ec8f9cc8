//! What an earlier process left.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::embedded::FORGOTTEN;
use crate::embedded::account::{Kept, Name};
use crate::embedded::books::{Books, MAX_ACCOUNTS};
use crate::embedded::journal::{self, Entry, Part};
use crate::embedded::store::Named;

/// The accounts of the database, and those to be forgotten. Windows that ended are among them: what was held in one when
/// the process died is used there.
pub(super) fn accounts(read: Vec<(Name, Kept)>, now: i64) -> (Books, Vec<Name>) {
    let mut books = Books::default();
    let mut gone = Vec::new();
    let mut open = Vec::new();
    for (name, kept) in read {
        match kept.until {
            None if kept.last.saturating_add(FORGOTTEN) < now => gone.push(name),
            Some(until) if until <= now => _ = books.put(name, kept),
            _ => open.push((name, kept)),
        }
    }
    // Those that were charged last stay, should there be too many.
    open.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.last));
    for (name, kept) in open.into_iter().take(MAX_ACCOUNTS) {
        books.put(name, kept);
    }
    (books, gone)
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

/// What happened since.
pub(super) fn journal(path: &Path, books: &mut Books) -> io::Result<()> {
    // Numbers of the journal → those of today.
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    journal::read(path, |entry| match entry {
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
            parts.retain_mut(|part| match numbers.get(&part.account) {
                Some(number) => {
                    part.account = *number;
                    true
                }
                None => false,
            });
            books.hold(id, parts, tokens, at);
        }
        Entry::Extends { id, tokens } => books.extended(id, tokens),
        Entry::Settles { id, at, used } => books.settled(id, used.as_deref(), at),
        Entry::Sets { account, at, used } => {
            if let Some(number) = numbers.get(&account) {
                books.sets(*number, used, at);
            }
        }
    })
}
