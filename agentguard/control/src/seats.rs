//! Places for clients that are not root: so many in all, and so many for each user, so that nobody
//! keeps another from asking.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places.
#[derive(Debug)]
pub struct Seats {
    /// In all.
    all: usize,
    /// For one user.
    each: usize,
    /// How many each user has. One without any is not in it.
    taken: Mutex<HashMap<u32, usize>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    uid: u32,
}

impl Seats {
    /// So many places in all, and so many for one user.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            each,
            taken: Mutex::default(),
        })
    }

    /// Takes a place for a user; `None` if it has all of its own, or none is free.
    #[must_use]
    pub fn take(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        let mut taken = self.taken();
        let own = taken.get(&uid).copied().unwrap_or(0);
        if own >= self.each || taken.values().sum::<usize>() >= self.all {
            return None;
        }
        taken.insert(uid, own + 1);
        Some(Seat {
            seats: Arc::clone(self),
            uid,
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(own) = taken.get_mut(&self.uid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Seats;

    #[test]
    fn one_user_takes_no_more_than_its_own_places() {
        let seats = Seats::new(3, 2);
        let first = seats.take(7).unwrap();
        let second = seats.take(7).unwrap();
        assert!(seats.take(7).is_none());
        let other = seats.take(8).unwrap();
        // All are taken.
        assert!(seats.take(9).is_none());
        drop(first);
        assert!(seats.take(9).is_some());
        drop((second, other));
        assert!(seats.taken().is_empty());
    }
}
