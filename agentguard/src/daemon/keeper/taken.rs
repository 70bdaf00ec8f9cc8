//! Which policy the worker decides with.
//!
//! The kernel has a new policy when the keeper has written its maps; the worker compiles it for
//! itself. Who changes the policy is answered when both have it, so that nothing that begins after
//! the answer is decided by the old one.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The newest policy that a worker took, by its number.
#[derive(Debug, Default)]
pub(super) struct Taken {
    generation: Mutex<u32>,
    changed: Condvar,
}

impl Taken {
    /// A worker has it.
    pub(super) fn note(&self, generation: u32) {
        *self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = generation;
        self.changed.notify_all();
    }

    /// Waits until a worker has this one or a newer one. `false`: not in time.
    pub(super) fn wait(&self, generation: u32, limit: Duration) -> bool {
        let held = self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let older = |taken: &mut u32| *taken < generation;
        let waited = self.changed.wait_timeout_while(held, limit, older);
        let waited = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Duration, Taken};

    #[test]
    fn who_waits_is_woken_by_that_policy_or_a_newer_one_and_else_gives_up() {
        let taken = Arc::new(Taken::default());
        assert!(taken.wait(0, Duration::ZERO));
        assert!(!taken.wait(1, Duration::ZERO));
        let other = taken.clone();
        let waiting = std::thread::spawn(move || other.wait(1, Duration::from_secs(60)));
        taken.note(2);
        assert!(waiting.join().unwrap());
    }
}
