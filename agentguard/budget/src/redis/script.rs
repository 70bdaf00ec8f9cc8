//! The operations of the script, and its answers.

use std::sync::Arc;
use std::time::Duration;

use super::Names;
use super::account::Account;
use super::link::{Lost, Operation};
use super::wire::Reply;
use crate::charge::{Charge, More, Terms};

/// Amounts are below: numbers of Lua are doubles. What would be more fits into no account.
pub(super) const LIMIT: u64 = 1 << 53;
/// Tokens of one call, at most.
const MOST_TOKENS: u64 = 1 << 50;
const MILLION: u64 = 1_000_000;

/// What the script says of a call that is to begin.
#[derive(Debug)]
pub(super) enum Reserved {
    Granted {
        tokens: u64,
        /// None: any number.
        room: Option<u64>,
        over: Vec<usize>,
        /// When each account was charged first.
        firsts: Vec<i64>,
    },
    Short(Shortage),
    /// The connection was given up before.
    Late,
}

/// An account that has too little.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortage {
    pub(super) charge: usize,
    pub(super) used: u64,
    pub(super) held: u64,
    pub(super) needed: u64,
    pub(super) resets: Option<i64>,
}

/// What the script says of a call that is to go on.
#[derive(Debug)]
pub(super) enum Extended {
    /// It may write so many tokens in all.
    Total(u64),
    Short(Shortage),
    /// Some account holds nothing for it: Redis has lost its memory.
    Unknown,
    Late,
}

/// What was used of one account by a call that is over.
#[derive(Clone, Debug)]
pub(super) struct Spent {
    pub(super) account: Arc<Account>,
    /// What is held for it.
    pub(super) held: u64,
    /// As [`super::state::Part::covered`].
    pub(super) covered: u64,
    /// None: as much as is held.
    pub(super) used: Option<u64>,
}

/// A call that is over.
#[derive(Clone, Debug)]
pub(super) struct Settlement {
    /// They are taken in this order, each once.
    pub(super) sequence: u64,
    pub(super) hold: u64,
    pub(super) at: i64,
    /// Whether it is of none, and gives back what was drawn in advance.
    pub(super) gives_back: bool,
    pub(super) parts: Vec<Spent>,
}

/// What is held of one account.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) account: Arc<Account>,
    pub(super) hold: u64,
    /// Which of the hold's charges it is.
    pub(super) place: usize,
    pub(super) amount: u64,
    /// What it may owe, should this host die. No more than is held: nothing beyond that.
    pub(super) owes: u64,
}

/// As the script counts: below [`LIMIT`], or that.
pub(super) fn bounded(amount: u64) -> u64 {
    amount.min(LIMIT)
}

/// What so many tokens cost, as the script computes it.
pub(super) fn amount(terms: Terms, tokens: u64) -> u64 {
    bounded(terms.amount(tokens))
}

/// Nothing that was sent over an older connection is taken from now on.
pub(super) fn fence(names: &Names, generation: u64) -> Operation {
    begins("fence", names, generation)
}

pub(super) fn reserve(
    (names, generation): (&Names, u64),
    hold: u64,
    (tokens, least, most): (u64, u64, u64),
    charges: &[(Arc<Account>, &Charge)],
    (now, lease): (i64, Duration),
) -> Operation {
    let mut operation = begins("reserve", names, generation);
    let arguments = &mut operation.arguments;
    arguments.push(names.hold(hold));
    arguments.push(now.to_string());
    arguments.push(lease.as_millis().to_string());
    for number in [tokens, least, most] {
        arguments.push(number.min(MOST_TOKENS).to_string());
    }
    arguments.push(charges.len().to_string());
    for (account, charge) in charges {
        let alert = charge.budget.reached == agentguard_model::budget::Reached::Alert;
        let limited = (charge.terms, charge.budget.limit, alert, charge.place);
        charged(&mut operation, account, limited, now);
    }
    operation
}

pub(super) fn extend(
    (names, generation): (&Names, u64),
    hold: u64,
    (more, tokens): (More, u64),
    charges: &[(Arc<Account>, Terms, u64, bool)],
    (now, lease): (i64, Duration),
) -> Operation {
    let mut operation = begins("extend", names, generation);
    let arguments = &mut operation.arguments;
    arguments.push(names.hold(hold));
    arguments.push(now.to_string());
    arguments.push(lease.as_millis().to_string());
    arguments.push(more.tokens.min(MOST_TOKENS).to_string());
    arguments.push(tokens.min(MOST_TOKENS).to_string());
    let most = more.most.map(|it| it.min(MOST_TOKENS).to_string());
    arguments.push(most.unwrap_or_else(|| "-1".to_owned()));
    arguments.push(charges.len().to_string());
    for (account, terms, limit, alert) in charges {
        charged(&mut operation, account, (*terms, *limit, *alert, 0), now);
    }
    operation
}

pub(super) fn settle(
    (names, generation): (&Names, u64),
    settlements: &[Settlement],
    now: i64,
) -> Operation {
    let mut operation = begins("settle", names, generation);
    operation.arguments.push(settlements.len().to_string());
    for settlement in settlements {
        let arguments = &mut operation.arguments;
        arguments.push(settlement.sequence.to_string());
        arguments.push(names.hold(settlement.hold));
        arguments.push(settlement.at.to_string());
        arguments.push(settlement.parts.len().to_string());
        for spent in &settlement.parts {
            account(&mut operation, &spent.account, now);
            operation.arguments.push(bounded(spent.held).to_string());
            let used = spent.used.map(|used| used.min(LIMIT - 1).to_string());
            operation
                .arguments
                .push(used.unwrap_or_else(|| "-1".to_owned()));
        }
    }
    operation
}

pub(super) fn renew(
    (names, generation): (&Names, u64),
    held: &[Held],
    (now, lease): (i64, Duration),
) -> Operation {
    let mut operation = begins("renew", names, generation);
    operation.arguments.push(now.to_string());
    operation.arguments.push(lease.as_millis().to_string());
    operation.arguments.push(held.len().to_string());
    for it in held {
        account(&mut operation, &it.account, now);
        let hold = format!("{}:{}", names.hold(it.hold), it.place);
        operation.arguments.push(hold);
        operation.arguments.push(bounded(it.amount).to_string());
        operation.arguments.push(bounded(it.owes).to_string());
    }
    operation
}

/// Where a listing goes on: from when an account is forgotten, and behind how many of that time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) from: String,
    pub(super) told: usize,
}

/// Some of all accounts.
#[derive(Debug)]
pub(super) struct Page {
    /// How many there are in all.
    pub(super) all: usize,
    /// The keys of some, each with when it is forgotten.
    pub(super) some: Vec<(String, String)>,
}

/// What an account has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) used: u64,
    pub(super) held: u64,
    pub(super) overshoot: u64,
    pub(super) first: i64,
    pub(super) last: i64,
}

pub(super) fn list((names, generation): (&Names, u64), place: &Place, most: usize) -> Operation {
    let mut operation = begins("list", names, generation);
    let words = [place.from.clone(), place.told.to_string(), most.to_string()];
    operation.arguments.extend(words);
    operation
}

pub(super) fn read<'a>(
    (names, generation): (&Names, u64),
    accounts: impl ExactSizeIterator<Item = &'a Account>,
    now: i64,
) -> Operation {
    let mut operation = begins("read", names, generation);
    operation.arguments.push(now.to_string());
    operation.arguments.push(accounts.len().to_string());
    for its in accounts {
        account(&mut operation, its, now);
    }
    operation
}

pub(super) fn set(
    (names, generation): (&Names, u64),
    its: &Account,
    used: u64,
    now: i64,
) -> Operation {
    let mut operation = begins("set", names, generation);
    operation.arguments.push(now.to_string());
    account(&mut operation, its, now);
    operation.arguments.push(used.min(LIMIT - 1).to_string());
    operation
}

fn begins(name: &str, names: &Names, generation: u64) -> Operation {
    Operation {
        keys: vec![Arc::clone(&names.own), Arc::clone(&names.list)],
        arguments: vec![name.to_owned(), generation.to_string()],
    }
}

fn account(operation: &mut Operation, account: &Account, now: i64) {
    operation.keys.push(Arc::clone(&account.hash));
    operation.keys.push(Arc::clone(&account.index));
    operation.arguments.push(account.kind().to_owned());
    operation.arguments.push(account.part.to_string());
    operation.arguments.push(account.lasts(now).to_string());
}

fn charged(
    operation: &mut Operation,
    its: &Account,
    (terms, limit, alert, place): (Terms, u64, bool, u64),
    now: i64,
) {
    account(operation, its, now);
    let rate = terms.per_million.min(LIMIT - 1);
    let fixed = match rate == terms.per_million {
        true => bounded(terms.fixed),
        // It costs more than can be counted: it fits nowhere.
        false => LIMIT,
    };
    let arguments = &mut operation.arguments;
    arguments.push(fixed.to_string());
    arguments.push((rate / MILLION).to_string());
    arguments.push((rate % MILLION).to_string());
    arguments.push(limit.min(LIMIT - 1).to_string());
    arguments.push(u8::from(alert).to_string());
    arguments.push(place.to_string());
}

/// Reads what came of [`reserve`].
pub(super) fn reserved(reply: &[Reply]) -> Result<Reserved, Lost> {
    let read = || match (word(reply)?, reply) {
        ("ok", [_, tokens, room, over, firsts]) => Some(Reserved::Granted {
            tokens: whole(tokens)?,
            room: whole(room),
            over: list_of(over, |it| usize::try_from(integer(it)?).ok())?,
            firsts: list_of(firsts, integer)?,
        }),
        ("short", _) => shortage(reply).map(Reserved::Short),
        ("late", _) => Some(Reserved::Late),
        _ => None,
    };
    read().ok_or_else(unread)
}

/// Reads what came of [`extend`].
pub(super) fn extended(reply: &[Reply]) -> Result<Extended, Lost> {
    let read = || match (word(reply)?, reply) {
        ("ok", [_, total]) => whole(total).map(Extended::Total),
        ("short", _) => shortage(reply).map(Extended::Short),
        ("unknown", _) => Some(Extended::Unknown),
        ("late", _) => Some(Extended::Late),
        _ => None,
    };
    read().ok_or_else(unread)
}

/// Reads what came of the others: whether it was done.
pub(super) fn done(reply: &[Reply]) -> Result<(), Lost> {
    match word(reply) {
        Some("ok") => Ok(()),
        Some("late") => Err(Lost::Silent("the connection was given up".to_owned())),
        _ => Err(unread()),
    }
}

/// Reads what came of [`list`].
pub(super) fn listed(reply: &[Reply]) -> Result<Page, Lost> {
    let text = |it: &Reply| match it {
        Reply::Text(text) => String::from_utf8(text.clone()).ok(),
        _ => None,
    };
    let read = || {
        let [_, all, some] = reply else { return None };
        let words = list_of(some, |it| Some(text(it)))?;
        let pairs = words.chunks_exact(2).filter_map(|pair| match pair {
            // One that is no text is none of ours.
            [Some(key), Some(until)] => Some((key.clone(), until.clone())),
            _ => None,
        });
        Some(Page {
            all: usize::try_from(integer(all)?).ok()?,
            some: pairs.collect(),
        })
    };
    done(reply)?;
    read().ok_or_else(unread)
}

/// Reads what came of [`read`]: none where an account is not there.
pub(super) fn rows(reply: &[Reply]) -> Result<Vec<Option<Row>>, Lost> {
    let row = |it: &Reply| match it {
        Reply::Array(items) => match items.as_slice() {
            [] => Some(None),
            [used, held, overshoot, first, last] => Some(Some(Row {
                used: whole(used)?,
                held: whole(held)?,
                overshoot: whole(overshoot)?,
                first: integer(first)?,
                last: integer(last)?,
            })),
            _ => None,
        },
        _ => None,
    };
    done(reply)?;
    let rows = reply.get(1).and_then(|rows| list_of(rows, row));
    rows.ok_or_else(unread)
}

/// Reads what came of [`set`]: whether there is such an account.
pub(super) fn was_set(reply: &[Reply]) -> Result<bool, Lost> {
    match word(reply) {
        Some("none") => Ok(false),
        _ => done(reply).map(|()| true),
    }
}

fn unread() -> Lost {
    Lost::Unfit("it answers something else".to_owned())
}

fn shortage(reply: &[Reply]) -> Option<Shortage> {
    let [_, charge, used, held, needed, resets] = reply else {
        return None;
    };
    Some(Shortage {
        charge: usize::try_from(integer(charge)?).ok()?,
        used: whole(used)?,
        held: whole(held)?,
        needed: whole(needed)?,
        resets: integer(resets).filter(|it| *it >= 0),
    })
}

fn word(reply: &[Reply]) -> Option<&str> {
    match reply.first()? {
        Reply::Text(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn integer(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Integer(number) => Some(*number),
        _ => None,
    }
}

fn whole(reply: &Reply) -> Option<u64> {
    u64::try_from(integer(reply)?).ok()
}

fn list_of<T>(reply: &Reply, read: impl Fn(&Reply) -> Option<T>) -> Option<Vec<T>> {
    match reply {
        Reply::Array(items) => items.iter().map(read).collect(),
        _ => None,
    }
}
