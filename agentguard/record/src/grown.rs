//! How the writer tells the indexer that the log has grown.
//!
//! Told again before the indexer has looked, nothing happens: a thread is woken once for many batches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::shared::lock;

#[derive(Debug, Default)]
struct State {
    grown: AtomicBool,
    over: Mutex<bool>,
    wake: Condvar,
}

/// The writer's side. When it is dropped, the log is over.
#[derive(Debug)]
pub(crate) struct Grows(Arc<State>);

/// The indexer's side.
#[derive(Debug)]
pub(crate) struct Grown(Arc<State>);

pub(crate) fn grows() -> (Grows, Grown) {
    let state = Arc::<State>::default();
    (Grows(Arc::clone(&state)), Grown(state))
}

impl Grows {
    /// The log has grown.
    pub(crate) fn tell(&self) {
        if !self.0.grown.swap(true, Ordering::AcqRel) {
            // Whoever found it false waits by the time this is locked.
            drop(lock(&self.0.over));
            self.0.wake.notify_one();
        }
    }
}

impl Drop for Grows {
    fn drop(&mut self) {
        *lock(&self.0.over) = true;
        self.0.wake.notify_one();
    }
}

impl Grown {
    /// Whether the log is over.
    pub(crate) fn is_over(&self) -> bool {
        *lock(&self.0.over)
    }

    /// Waits until the log has grown, but not longer than `idle`; and then for more to come, for `gather`.
    /// Whether it is over.
    pub(crate) fn wait(&self, idle: Duration, gather: Duration) -> bool {
        let has_grown = || self.0.grown.load(Ordering::Acquire);
        let over = self.unless(idle, has_grown) || has_grown() && self.unless(gather, || false);
        // Before the log is looked at: what comes behind is told anew.
        self.0.grown.store(false, Ordering::Release);
        over
    }

    /// Waits for `time` unless `come`; whether it is over.
    fn unless(&self, time: Duration, come: impl Fn() -> bool) -> bool {
        let until = Instant::now() + time;
        let mut over = lock(&self.0.over);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if *over || come() || left.is_zero() {
                return *over;
            }
            let waited = self.0.wake.wait_timeout(over, left);
            over = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::grows;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn one_is_woken_by_growth_and_by_the_end() {
        let (grows, grown) = grows();
        let (one, other) = (
            Instant::now(),
            thread::spawn(move || {
                let over = grown.wait(LONG, SHORT);
                (over, grown)
            }),
        );
        grows.tell();
        let (over, grown) = other.join().unwrap();
        assert!(!over);
        assert!(one.elapsed() >= SHORT, "nothing was gathered");
        // Nothing is left of what was seen.
        let began = Instant::now();
        assert!(!grown.wait(SHORT, LONG));
        assert!(began.elapsed() >= SHORT);
        // Told twice, of which one is seen.
        grows.tell();
        grows.tell();
        assert!(!grown.wait(LONG, SHORT));
        assert!(!grown.wait(SHORT, LONG));
        let waits = thread::spawn(move || grown.wait(LONG, LONG) && grown.is_over());
        grows.tell();
        drop(grows);
        assert!(waits.join().unwrap());
    }
}
