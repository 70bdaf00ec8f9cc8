//! The live feed.
//!
//! A follower reads the log at its own pace, from wherever it is: one that is slow lags behind and
//! loses nothing, needs one page of memory, and holds up nobody. What it cannot read any more,
//! because retention deleted it or because it is damaged, is told as a gap.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use agentguard_model::Decision;
use futures_util::{Stream, stream};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::entry::{Entry, Gap};
use crate::read::{self, Query};
use crate::segment::Position;
use crate::shared::{End, Shared};
use crate::walk::{self, Met};

/// How many items a follower holds at most.
const PAGE: usize = 256;

/// How many entries it reads at most before it looks whether anyone still wants them.
const ENTRIES: usize = 10_000;

/// What a follower is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// A decision, as it is recorded. Its outcome comes later and is not told here.
    Decision(Box<Decision>),
    /// A decision that was given before, or lies before the beginning, stands for more attempts by
    /// now. Told about once a second while the count rises.
    Counted(Box<Decision>),
    /// Something is missing here.
    Gap(Gap),
}

struct Follower {
    shared: Arc<Shared>,
    ends: watch::Receiver<End>,
    query: Query,
    /// Where it reads on.
    at: Position,
    /// Whether what lies before the beginning was read.
    begun: bool,
    ready: VecDeque<Followed>,
    ended: bool,
}

/// Gives the decisions that a query asks for and then those that are recorded from this call on,
/// until the record is closed.
pub(crate) fn follow(shared: Arc<Shared>, query: Query) -> impl Stream<Item = Followed> + Send {
    let follower = Follower {
        ends: shared.end.subscribe(),
        at: shared.position(),
        begun: false,
        shared,
        query,
        ready: VecDeque::new(),
        ended: false,
    };
    stream::unfold(follower, |mut follower| async move {
        let item = follower.next().await?;
        Some((item, follower))
    })
}

impl Follower {
    async fn next(&mut self) -> Option<Followed> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            let (end, at) = (*self.ends.borrow_and_update(), self.at);
            if !self.begun {
                self.begun = true;
                let (shared, query) = (Arc::clone(&self.shared), self.query.clone());
                let history = tokio::task::spawn_blocking(move || {
                    let decisions = read::query(&shared, &query, at)?;
                    Ok(decisions
                        .into_iter()
                        .map(|decision| Followed::Decision(Box::new(decision)))
                        .collect())
                });
                self.take(history.await.unwrap_or_else(died));
                continue;
            }
            if at < end.position {
                let (shared, query) = (Arc::clone(&self.shared), self.query.clone());
                let read =
                    tokio::task::spawn_blocking(move || page(&shared, &query, at, end.position));
                match read.await.unwrap_or_else(died) {
                    Ok((items, reached)) => {
                        self.ready = items;
                        self.at = reached;
                    }
                    Err(error) => self.take(Err(error)),
                }
                continue;
            }
            if end.closed || self.ends.changed().await.is_err() {
                return None;
            }
        }
    }

    fn take(&mut self, items: io::Result<VecDeque<Followed>>) {
        match items {
            Ok(items) => self.ready = items,
            Err(error) => {
                self.ended = true;
                self.ready.push_back(Followed::Gap(missing(
                    None,
                    format!("the log cannot be read, and this feed ends: {error}"),
                )));
            }
        }
    }
}

fn died<T>(error: tokio::task::JoinError) -> io::Result<T> {
    Err(io::Error::other(error))
}

fn missing(numbers: Option<(u64, u64)>, message: String) -> Gap {
    Gap {
        source: "record".to_owned(),
        lost: numbers.map_or(0, |(from, to)| to.saturating_sub(from).saturating_add(1)),
        from: numbers.map(|(from, _)| from),
        to: numbers.map(|(_, to)| to),
        time: Timestamp::now(),
        message: Some(message),
    }
}

/// The next items, and where to read on.
fn page(
    shared: &Shared,
    query: &Query,
    at: Position,
    to: Position,
) -> io::Result<(VecDeque<Followed>, Position)> {
    let mut items = VecDeque::new();
    let mut counted = Vec::new();
    let mut entries = 0;
    let reached = walk::walk(shared, at, to, |met| {
        match met {
            Met::Entry { entry, .. } => match entry {
                Entry::Decision(decision) => {
                    if query.matches(&decision) {
                        items.push_back(Followed::Decision(decision));
                    }
                }
                Entry::Aggregate(count) => counted.push((items.len(), count.id)),
                Entry::Gap(gap) => items.push_back(Followed::Gap(gap)),
                Entry::Outcome { .. } | Entry::Note(_) => {}
            },
            Met::Broken(broken) => {
                shared.tell_damage(&broken);
                items.push_back(Followed::Gap(shared.damage_gap(&broken)));
            }
            Met::Deleted { from, to } => items.push_back(Followed::Gap(missing(
                Some((from, to)),
                "deleted to keep the record within its bound, before this feed came to them"
                    .to_owned(),
            ))),
        }
        entries += 1;
        if items.len() + counted.len() >= PAGE || entries >= ENTRIES {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    // From the last to the first, so that the places stay right.
    for (place, id) in counted.into_iter().rev() {
        if let Some(decision) = read::find(shared, id)?
            && query.matches(&decision)
        {
            items.insert(place, Followed::Counted(Box::new(decision)));
        }
    }
    Ok((items, reached))
}
