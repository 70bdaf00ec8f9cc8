//! Which policy the worker decides with, and what else it has done of what it was told.
//!
//! The kernel has a new policy when the keeper has written its maps; the worker compiles it for
//! itself. Who changes the policy is answered when both have it, so that nothing that begins after
//! the answer is decided by the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
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

/// Quarantines that the worker was told of and has not answered: whose it has still something under way.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    waited_for: Mutex<Numbers>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Numbers {
    last: u32,
    open: BTreeSet<u32>,
    /// What was said to those for which somebody waits.
    answers: BTreeMap<u32, Result<String, String>>,
}

impl Cuts {
    /// A number that the worker will answer with.
    pub(super) fn next(&self) -> u32 {
        let mut numbers = self.numbers();
        numbers.last = numbers.last.wrapping_add(1);
        let number = numbers.last;
        numbers.open.insert(number);
        number
    }

    /// The worker has answered.
    pub(super) fn note(&self, number: u32) {
        self.numbers().open.remove(&number);
        self.changed.notify_all();
    }

    /// The worker has answered, with what it did or why it did not.
    pub(super) fn answer(&self, number: u32, answer: Result<String, String>) {
        let mut numbers = self.numbers();
        // What nobody asked, or waits for no longer, is not kept.
        if numbers.open.remove(&number) {
            numbers.answers.insert(number, answer);
        }
        drop(numbers);
        self.changed.notify_all();
    }

    /// Waits for what the worker says to this number. `None`: nothing, in time.
    pub(super) fn answered(&self, number: u32, limit: Duration) -> Option<Result<String, String>> {
        self.wait(number, limit);
        let mut numbers = self.numbers();
        numbers.open.remove(&number);
        numbers.answers.remove(&number)
    }

    /// The worker is gone, and with it what was under way.
    pub(super) fn none_left(&self) {
        self.numbers().open.clear();
        self.changed.notify_all();
    }

    /// Waits for the answer with this number. `false`: not in time.
    pub(super) fn wait(&self, number: u32, limit: Duration) -> bool {
        let held = self.numbers();
        let open = |numbers: &mut Numbers| numbers.open.contains(&number);
        let waited = self.changed.wait_timeout_while(held, limit, open);
        let waited = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.waited_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Cuts, Duration, Taken};

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

    #[test]
    fn each_answer_is_waited_for_by_its_own_number_and_the_end_of_the_worker_is_all_of_them() {
        let cuts = Arc::new(Cuts::default());
        let (first, second) = (cuts.next(), cuts.next());
        cuts.note(second);
        assert!(cuts.wait(second, Duration::ZERO));
        assert!(!cuts.wait(first, Duration::ZERO));
        let other = cuts.clone();
        let waiting = std::thread::spawn(move || other.wait(first, Duration::from_secs(60)));
        cuts.none_left();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn what_is_answered_in_words_is_heard_once_and_kept_for_nobody_who_waits_no_longer() {
        let cuts = Cuts::default();
        let (first, second) = (cuts.next(), cuts.next());
        cuts.answer(first, Ok("done".to_owned()));
        assert_eq!(
            cuts.answered(first, Duration::ZERO),
            Some(Ok("done".to_owned()))
        );
        assert_eq!(cuts.answered(first, Duration::ZERO), None);
        assert_eq!(cuts.answered(second, Duration::ZERO), None);
        cuts.answer(second, Err("late".to_owned()));
        assert!(cuts.numbers().answers.is_empty());
    }
}
