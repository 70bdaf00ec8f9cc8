//! What operators ask and say: which accounts there are, what they have, and what they are to have.

use std::collections::HashSet;
use std::sync::Arc;

use super::account::Account;
use super::link::{Link, Lost};
use super::script::{self, Place, Row};
use super::{Inner, Shared};
use crate::embedded::{MAX_ACCOUNTS, State};
use crate::ledger::Refused;
use crate::period::Period;
use crate::scope::Scope;

/// Accounts of one answer, at most.
const PAGE: usize = 256;
/// Answers that are asked for, at most: twice as many as there may be accounts.
const MAX_PAGES: usize = 2 * MAX_ACCOUNTS / PAGE;
/// Accounts of which is read at once what they have, so that it takes Redis about a millisecond.
const READ: usize = 64;

/// Accounts, as they are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Listed {
    /// Those of windows that are under way, and of some that ended.
    pub states: Vec<State>,
    /// How many there are beside, at which nobody has looked.
    pub unread: usize,
}

/// An account of the list.
struct Found {
    account: Account,
    budget: Arc<str>,
    scope: Scope,
}

impl Shared {
    /// All accounts, of all hosts: those that are open, and those whose windows ended in the last two days. Of more than
    /// 16,384 so many are read, and it is told how many there are beside. Reads some at a time, so that calls go on.
    ///
    /// # Errors
    /// [`Refused::Away`].
    pub async fn accounts(&self, now: i64) -> Result<Listed, Refused> {
        let link = self.inner.link()?;
        let listed = lists(&self.inner, &link, now).await;
        listed.map_err(|lost| self.away(&link, &lost))
    }

    /// Says what an account has used, as an operator does. False: there is no such account.
    ///
    /// # Errors
    /// [`Refused::Away`]: whether it was done is not known then.
    pub async fn set(&self, account: &State, used: u64, now: i64) -> Result<bool, Refused> {
        let link = self.inner.link()?;
        let its = Account::of(&self.inner.names.prefix, account);
        let names = (&self.inner.names, link.generation);
        let reply = link.run(&script::set(names, &its, used, now)).await;
        let set = reply.and_then(|reply| script::was_set(&reply));
        set.map_err(|lost| self.away(&link, &lost))
    }

    fn away(&self, link: &Link, lost: &Lost) -> Refused {
        self.inner.lost(link, lost);
        Refused::Away(lost.to_string())
    }
}

async fn lists(inner: &Inner, link: &Link, now: i64) -> Result<Listed, Lost> {
    let names = (&inner.names, link.generation);
    let mut found: Vec<Found> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut place = Place {
        from: "-inf".to_owned(),
        told: 0,
    };
    let mut all = 0;
    for _ in 0..MAX_PAGES {
        let reply = link.run(&script::list(names, &place, PAGE)).await?;
        let page = script::listed(&reply)?;
        let full = page.some.len() >= PAGE;
        for (key, until) in page.some {
            // One that was told for longer meanwhile comes again.
            if until == place.from {
                place.told += 1;
            } else {
                place = Place {
                    from: until,
                    told: 1,
                };
            }
            if found.len() < MAX_ACCOUNTS
                && !seen.contains(&key)
                && let Some((account, budget, scope)) = Account::read(&inner.names.prefix, &key)
            {
                found.push(Found {
                    account,
                    budget,
                    scope,
                });
            }
            seen.insert(key);
        }
        all = page.all;
        if !full || found.len() >= MAX_ACCOUNTS {
            break;
        }
    }
    let unread = all.saturating_sub(found.len());
    let mut states = Vec::with_capacity(found.len());
    for some in found.chunks(READ) {
        let accounts = some.iter().map(|it| &it.account);
        let reply = link.run(&script::read(names, accounts, now)).await?;
        let rows = script::rows(&reply)?;
        let there = some.iter().zip(rows);
        states.extend(there.filter_map(|(it, row)| Some(it.state(row?))));
    }
    Ok(Listed { states, unread })
}

impl Found {
    fn state(&self, row: Row) -> State {
        let Period { since, until } = self.account.period;
        State {
            budget: Arc::clone(&self.budget),
            unit: self.account.unit,
            window: self.account.window().into(),
            scope: self.scope.clone(),
            since,
            until,
            used: row.used,
            held: row.held,
            overshoot: row.overshoot,
            first: row.first,
            last: row.last,
        }
    }
}
