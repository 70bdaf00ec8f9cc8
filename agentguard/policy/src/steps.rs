//! What the patterns and expressions of one decision may cost.
//!
//! An agent says how long the texts are that they look at, and how many rules look. So what they take is
//! counted, and not measured: a simulation says what was said on the day, whatever the machine.

use std::cell::{Cell, OnceCell};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::diagnostic::quoted;
use crate::readings::Readings;

/// The steps of a decision: of its rules in force together, and as many of those on paper. One is what it takes
/// to follow one place of a pattern over one byte, some nanoseconds.
pub(crate) const MAX_STEPS: u64 = 1_000_000;

/// How many steps a part of an expression takes, each time it is evaluated.
const PART: u64 = 4;

/// How many bytes of a text are one step to whatever looks at it without a pattern.
const BYTES: u64 = 8;

/// What is left of the steps of a decision, and what its rules share so that it takes none again.
#[derive(Debug)]
pub(crate) struct Steps {
    left: Cell<u64>,
    /// How often what is left did not suffice.
    refused: Cell<u64>,
    /// What was too much, of that the first.
    exceeded: OnceCell<String>,
    /// Of the path of the decision's request.
    readings: OnceCell<Readings>,
}

impl Steps {
    /// Those of a decision.
    pub(crate) const fn new() -> Self {
        Self::of(MAX_STEPS)
    }

    /// Enough for whatever nobody waits for.
    pub(crate) const fn endless() -> Self {
        Self::of(u64::MAX)
    }

    const fn of(left: u64) -> Self {
        Self {
            left: Cell::new(left),
            refused: Cell::new(0),
            exceeded: OnceCell::new(),
            readings: OnceCell::new(),
        }
    }

    /// What was too much, if anything was.
    pub(crate) fn exceeded(&self) -> Option<&str> {
        self.exceeded.get().map(String::as_str)
    }

    /// How many are left.
    pub(crate) const fn left(&self) -> u64 {
        self.left.get()
    }

    /// How often what is left did not suffice. Where it has grown, what was found meanwhile is not so.
    pub(crate) const fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// The ways in which the escapes of the request's path can be read, worked out once.
    pub(crate) fn readings(&self, path: &str) -> &Readings {
        self.readings.get_or_init(|| Readings::of(path))
    }

    /// For a text of so many bytes that is put together or looked through.
    pub(crate) fn text(&self, bytes: usize) {
        let meter = self.meter();
        meter.texts(1, bytes, 1);
        // What is found to be too much is noted.
        let _: Result<(), String> = self.settle(&meter);
    }

    /// Whether there are none left, so that what would take some cannot be told.
    pub(crate) fn are_spent(&self) -> bool {
        let spent = self.left.get() == 0;
        if spent {
            self.refuse_again();
        }
        spent
    }

    /// Tries a pattern on a text. `of` counts down what is left, and is not to go on with none.
    pub(crate) fn pattern(
        &self,
        pattern: impl FnOnce() -> String,
        bytes: usize,
        of: impl FnOnce(&mut u64) -> bool,
    ) -> bool {
        if self.are_spent() {
            return false;
        }
        let mut left = self.left.get();
        let matches = of(&mut left);
        self.left.set(left);
        if left == 0 {
            self.refuse(&too_long(&pattern(), bytes));
        }
        matches && left > 0
    }

    fn refuse_again(&self) {
        self.refused.set(self.refused.get().saturating_add(1));
    }

    /// What is left does not suffice for this, and is left for nothing smaller.
    fn refuse(&self, what: &str) -> String {
        self.left.set(0);
        self.refuse_again();
        let why = format!(
            "{what} takes more than is left of the {MAX_STEPS} steps that the patterns and expressions of a decision have"
        );
        self.exceeded.get_or_init(|| why.clone());
        why
    }

    /// What an evaluation takes is counted in a meter, and comes back by [`Self::settle`].
    pub(crate) const fn meter(&self) -> Meter {
        Meter {
            left: AtomicU64::new(self.left.get()),
            exceeded: OnceLock::new(),
        }
    }

    /// Takes over what a meter has counted.
    ///
    /// # Errors
    /// It was too much: what, in words.
    pub(crate) fn settle(&self, meter: &Meter) -> Result<(), String> {
        self.left.set(meter.left.load(Ordering::Relaxed));
        match meter.exceeded.get() {
            None => Ok(()),
            Some(what) => Err(self.refuse(what)),
        }
    }
}

/// Counts down the steps of one evaluation. The library wants what it calls to be shareable between threads, though
/// one alone has it.
#[derive(Debug)]
pub(crate) struct Meter {
    left: AtomicU64,
    exceeded: OnceLock<String>,
}

impl Meter {
    /// One that always has enough, for what is not an agent's.
    pub(crate) const fn endless() -> Self {
        Self {
            left: AtomicU64::new(u64::MAX),
            exceeded: OnceLock::new(),
        }
    }

    /// Takes steps, if so many are left. `what` they are for.
    fn take(&self, steps: u64, what: impl FnOnce() -> String) -> bool {
        let left = self.left.load(Ordering::Relaxed).checked_sub(steps);
        match left {
            Some(left) => self.left.store(left, Ordering::Relaxed),
            None => {
                self.exceeded.get_or_init(what);
            }
        }
        left.is_some()
    }

    /// For parts of an expression, as often as each is evaluated.
    pub(crate) fn parts(&self, count: u64) -> bool {
        self.take(count.saturating_mul(PART), || {
            format!("an expression of {count} parts, each as often as it is evaluated,")
        })
    }

    /// For `count` texts of together so many bytes that are looked at so many times.
    pub(crate) fn texts(&self, count: usize, bytes: usize, times: u64) -> bool {
        let steps = (wide(bytes) / BYTES).saturating_add(wide(count).saturating_mul(PART));
        self.take(steps.saturating_mul(times), || {
            format!("to look at {bytes} bytes")
        })
    }

    /// For a pattern of so many places on a text of so many bytes.
    pub(crate) fn pattern(&self, pattern: &str, places: u64, bytes: usize) -> bool {
        let steps = wide(bytes).saturating_mul(places).saturating_add(places);
        self.take(steps, || too_long(pattern, bytes))
    }
}

fn too_long(pattern: &str, bytes: usize) -> String {
    format!(
        "to try the pattern `{}` on a text of {bytes} bytes",
        quoted(pattern)
    )
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
