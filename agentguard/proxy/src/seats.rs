//! Who may have how many connections at once.
//!
//! A connection beyond its agent's share, or beyond all places, takes none: it is refused in one of a
//! few places of their own, of which no agent has all. What finds none of those either is not looked
//! at: it is reset, counted, and recorded together with others of its agent. So whoever accepts never
//! waits, however many an agent opens.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentguard_decision::Client;
use agentguard_model::AgentId;

use crate::Limits;

/// Connections that are being refused at once.
const REFUSALS: usize = 64;
/// Of them of one agent.
const REFUSALS_PER_AGENT: usize = 8;

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Seats {
    all: usize,
    per_agent: usize,
    taken: Mutex<Taken>,
}

/// Connections of which nobody knows whose they are share what an agent has.
type Holder = Option<AgentId>;

#[derive(Debug, Default)]
struct Taken {
    seats: usize,
    refusals: usize,
    holders: HashMap<Holder, Held>,
    missed: BTreeMap<Holder, Missed>,
}

#[derive(Debug, Default)]
struct Held {
    seats: usize,
    refusals: usize,
}

/// Connections that were reset and are not in the record.
#[derive(Debug)]
pub(crate) struct Missed {
    /// Whose the last of them was.
    pub(crate) client: Option<Client>,
    pub(crate) count: u64,
}

/// Where a connection has its place.
pub(crate) enum Entry {
    /// Among those that are carried.
    Seat(Seat),
    /// Among those that are refused.
    Refusal(Refusal),
    /// Nowhere: it was counted.
    Missed,
}

impl Seats {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            all: limits.connections,
            per_agent: limits.connections_per_agent,
            taken: Mutex::default(),
        })
    }

    /// A place for a connection, which is only refused where nobody knows whose it is.
    pub(crate) fn enter(self: &Arc<Self>, client: Option<&Client>) -> Entry {
        let holder = client.map(|client| client.agent);
        let mut taken = self.taken();
        let Taken {
            seats,
            refusals,
            holders,
            ..
        } = &mut *taken;
        let held = holders.entry(holder).or_default();
        if holder.is_some() && held.seats < self.per_agent && *seats < self.all {
            held.seats += 1;
            *seats += 1;
            return Entry::Seat(Seat(self.clone(), holder));
        }
        if held.refusals < REFUSALS_PER_AGENT && *refusals < REFUSALS {
            held.refusals += 1;
            *refusals += 1;
            let seats = self.clone();
            return Entry::Refusal(Refusal(Some((seats, holder))));
        }
        taken.forget_idle(holder);
        let missed = taken.missed.entry(holder).or_insert(Missed {
            client: None,
            count: 0,
        });
        missed.client = client.cloned();
        missed.count += 1;
        Entry::Missed
    }

    /// How many were reset and are not in the record.
    pub(crate) fn unrecorded(&self) -> u64 {
        let taken = self.taken();
        taken.missed.values().map(|missed| missed.count).sum()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn leave_seat(&mut self, holder: Holder) {
        self.seats = self.seats.saturating_sub(1);
        if let Some(held) = self.holders.get_mut(&holder) {
            held.seats = held.seats.saturating_sub(1);
        }
        self.forget_idle(holder);
    }

    fn leave_refusal(&mut self, holder: Holder) {
        self.refusals = self.refusals.saturating_sub(1);
        if let Some(held) = self.holders.get_mut(&holder) {
            held.refusals = held.refusals.saturating_sub(1);
        }
        self.forget_idle(holder);
    }

    fn forget_idle(&mut self, holder: Holder) {
        let held = self.holders.get(&holder);
        if held.is_some_and(|held| held.seats == 0 && held.refusals == 0) {
            self.holders.remove(&holder);
        }
    }
}

/// A place to be carried in, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Seats>, Holder);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken().leave_seat(self.1);
    }
}

/// A place to be refused in, until it is dropped.
#[derive(Debug)]
pub(crate) struct Refusal(Option<(Arc<Seats>, Holder)>);

impl Refusal {
    /// Leaves the place, or keeps it to record others that found none. Somebody who has a place sees
    /// to each of those: they are counted only while all places are taken that they could have.
    pub(crate) fn leave(mut self) -> Option<(Self, Missed)> {
        let (seats, holder) = self.0.take()?;
        let mut taken = seats.taken();
        // Those of its own agent first: another agent's flood is not its business alone.
        let own = taken.missed.remove(&holder);
        let missed = own.or_else(|| Some(taken.missed.pop_first()?.1));
        if missed.is_none() {
            taken.leave_refusal(holder);
        }
        drop(taken);
        let missed = missed?;
        Some((Self(Some((seats, holder))), missed))
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        if let Some((seats, holder)) = self.0.take() {
            seats.taken().leave_refusal(holder);
        }
    }
}
