//! A circuit that opens where too much fails: closed, open, half open.

use std::collections::VecDeque;

use agentguard_model::limit::Breaker;

use super::gcra::nanoseconds;

/// When a call that comes while others try is to come again: nobody knows when these end.
const TRYING: u64 = 1_000_000_000;

/// How it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    /// Calls go.
    #[default]
    Closed,
    /// None goes until then.
    Open { until: u64 },
    /// A few go, and say how it goes on. Where they say nothing for as long as it was open, others go.
    HalfOpen {
        since: u64,
        trying: u32,
        succeeded: u32,
    },
}

/// A circuit.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    phase: Phase,
    /// How often it has opened, or an operator has closed it: what began before that says nothing of this time.
    openings: u64,
    /// When the last calls ended, and whether they failed.
    last: VecDeque<(u64, bool)>,
}

/// What an operator sees of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CircuitState {
    /// Calls go; so many of the last ones failed.
    Closed(u32),
    /// None goes, for so many nanoseconds; 0: the next one tries it.
    Open(u64),
    /// It is being tried.
    HalfOpen,
}

impl Circuit {
    /// Is this breaker's from now on: it is open for no longer than this one would be that opens now.
    pub(super) fn fit(&mut self, breaker: &Breaker, now: u64) {
        if let Phase::Open { until } = &mut self.phase {
            *until = (*until).min(now.saturating_add(nanoseconds(breaker.wait)));
        }
    }

    /// Whether a call goes.
    ///
    /// # Errors
    /// In how many nanoseconds one may.
    pub(super) fn admits(&self, breaker: &Breaker, now: u64) -> Result<(), u64> {
        match self.phase {
            Phase::Open { until } if until > now => Err(until - now),
            Phase::HalfOpen {
                since,
                trying,
                succeeded,
            } if trying.saturating_add(succeeded) >= breaker.probes => {
                let late = since.saturating_add(nanoseconds(breaker.wait));
                match late.saturating_sub(now) {
                    0 => Ok(()),
                    wait => Err(wait.min(TRYING)),
                }
            }
            Phase::Closed | Phase::Open { .. } | Phase::HalfOpen { .. } => Ok(()),
        }
    }

    /// A call goes: as it admits, or for all that on paper. Gives the number of the time that it belongs to, which is from
    /// one opening to the next; none where what comes of it says nothing, since it would have been refused.
    pub(super) fn begin(&mut self, breaker: &Breaker, now: u64) -> Option<u64> {
        self.admits(breaker, now).ok()?;
        match &mut self.phase {
            Phase::Closed => {}
            Phase::HalfOpen {
                trying, succeeded, ..
            } if trying.saturating_add(*succeeded) < breaker.probes => {
                *trying = trying.saturating_add(1);
            }
            // Those that try it have said nothing for long. They may still: where answers take longer than it is open, it
            // would never close otherwise.
            Phase::HalfOpen { since, trying, .. } => {
                *since = now;
                *trying = 1;
            }
            Phase::Open { .. } => {
                self.phase = Phase::HalfOpen {
                    since: now,
                    trying: 1,
                    succeeded: 0,
                };
            }
        }
        Some(self.openings)
    }

    /// A call has ended that began at this time. `failed`: none where that says nothing of the other side.
    pub(super) fn end(
        &mut self,
        breaker: &Breaker,
        began: Option<u64>,
        failed: Option<bool>,
        now: u64,
    ) {
        // It has opened since: what began before that ends too late to say how it is.
        if began != Some(self.openings) {
            return;
        }
        match &mut self.phase {
            Phase::Closed => {
                let Some(failed) = failed else {
                    return;
                };
                let within = nanoseconds(breaker.within);
                self.last.retain(|(at, _)| at.saturating_add(within) > now);
                while self.last.len() >= usize::try_from(breaker.of).unwrap_or(usize::MAX) {
                    self.last.pop_front();
                }
                self.last.push_back((now, failed));
                if self.failures() >= breaker.failures {
                    self.open(breaker, now);
                }
            }
            // What is open has no calls of its time: they begin with the one that tries it.
            Phase::Open { .. } => {}
            Phase::HalfOpen {
                trying, succeeded, ..
            } => {
                *trying = trying.saturating_sub(1);
                match failed {
                    None => {}
                    Some(true) => self.open(breaker, now),
                    Some(false) => {
                        *succeeded = succeeded.saturating_add(1);
                        if *succeeded >= breaker.probes {
                            self.phase = Phase::Closed;
                            self.last.clear();
                        }
                    }
                }
            }
        }
    }

    /// Closes, whatever was. What is under way says nothing of this time.
    pub(super) fn close(&mut self) {
        self.last.clear();
        self.openings += 1;
        self.phase = Phase::Closed;
    }

    fn open(&mut self, breaker: &Breaker, now: u64) {
        self.last.clear();
        self.openings += 1;
        self.phase = Phase::Open {
            until: now.saturating_add(nanoseconds(breaker.wait)),
        };
    }

    fn failures(&self) -> u32 {
        let failed = self.last.iter().filter(|(_, failed)| *failed).count();
        u32::try_from(failed).unwrap_or(u32::MAX)
    }

    pub(super) fn state(&self, now: u64) -> CircuitState {
        match self.phase {
            Phase::Closed => CircuitState::Closed(self.failures()),
            Phase::Open { until } => CircuitState::Open(until.saturating_sub(now)),
            Phase::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// From when on it is as a new one.
    pub(super) fn over(&self, breaker: &Breaker) -> u64 {
        let within = nanoseconds(breaker.within);
        match self.phase {
            Phase::Closed => {
                let last = self.last.back();
                last.map_or(0, |(at, _)| at.saturating_add(within))
            }
            // Nobody has tried it since.
            Phase::Open { until } => until.saturating_add(within),
            Phase::HalfOpen { since, .. } => since
                .saturating_add(nanoseconds(breaker.wait))
                .saturating_add(within),
        }
    }
}
