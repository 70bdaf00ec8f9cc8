//! What the guard does, in figures and traces: `/metrics` for Prometheus, and OTLP for OpenTelemetry.
//!
//! [`Watched`] stands where the record does, hands everything on to it, and says what passed into a queue that has a
//! bound and for which nobody waits. Behind the queue one task counts ([`tally`]); others serve what is counted
//! ([`prometheus`]) and send it ([`otlp`]). What the daemon knows beside decisions it is asked for when somebody
//! looks ([`Vitals`]).
//!
//! **Invariant:** nothing here delays a decision or a byte of an agent's. Every queue and every table has a bound, and
//! what did not fit is counted. What agents write (names of models and tools, `traceparent`) is only ever a value
//! in a label or an attribute, cut to a length, and never decides what is told of others.
#![forbid(unsafe_code)]

pub mod catalogue;
mod models;
pub mod otlp;
pub mod prometheus;
mod store;
mod tally;
mod vitals;
mod watched;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use otlp::spans::Span;
use store::Store;
use tally::Tally;
use watched::Note;

pub use vitals::{AgentVitals, BudgetVitals, LedgerVitals, MAX_ACCOUNTS, Vitals};
pub use watched::{Feed, Watched};

/// Decisions and outcomes that wait to be counted, at most. Further ones are lost to the figures.
const NOTES: usize = 8192;

/// Spans that wait to be sent, at most. Further ones are lost.
pub(crate) const SPANS: usize = 2048;

/// What did not fit, since the start.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// Decisions and outcomes.
    pub(crate) notes: AtomicU64,
    /// Calls that were forgotten before they ended.
    pub(crate) calls: AtomicU64,
    /// Spans.
    pub(crate) spans: AtomicU64,
}

/// How the sending of something went, since the start.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) taken: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// How telemetry is doing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Health {
    /// Decisions and outcomes that were not counted.
    pub lost_notes: u64,
    /// Calls and spans that are not told.
    pub lost_spans: u64,
    /// Requests that the collector took.
    pub sent: u64,
    /// Requests that it did not.
    pub failed: u64,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
}

/// Where the daemon says what it knows beside decisions.
pub type Look = Arc<dyn Fn() -> Vitals + Send + Sync>;

/// What is counted, and who asks for it. Cheap to clone.
#[derive(Clone)]
pub struct Figures(Arc<Inner>);

struct Inner {
    store: Mutex<Store>,
    lost: Arc<Lost>,
    metrics: Sent,
    spans: Sent,
    error: Mutex<Option<String>>,
    look: Mutex<Option<Look>>,
}

/// The half that counts: to be driven by [`Counting::run`].
pub struct Counting {
    notes: mpsc::Receiver<Note>,
    tally: Tally,
}

/// What spans come out of.
pub struct Spans(mpsc::Receiver<Span>);

/// The parts of telemetry: what the record is wrapped in, what counts, and what is told. `traced`: somebody takes
/// the spans.
#[must_use]
pub fn parts(traced: bool) -> (Feed, Figures, Counting, Spans) {
    let (sender, notes) = mpsc::channel(NOTES);
    let (spans, made) = mpsc::channel(SPANS);
    let lost = Arc::new(Lost::default());
    let figures = Figures(Arc::new(Inner {
        store: Mutex::new(Store::new()),
        lost: Arc::clone(&lost),
        metrics: Sent::default(),
        spans: Sent::default(),
        error: Mutex::default(),
        look: Mutex::default(),
    }));
    let feed = Feed::new(sender, Arc::clone(&lost));
    let tally = Tally::new(figures.clone(), traced.then_some(spans));
    (feed, figures, Counting { notes, tally }, Spans(made))
}

impl Counting {
    /// Counts until told to stop.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let counting = async {
            while let Some(note) = self.notes.recv().await {
                self.tally.take(note);
            }
        };
        shutdown.run_until_cancelled(counting).await;
    }
}

impl Figures {
    /// Whom to ask for what is not decisions.
    pub fn asks(&self, look: Look) {
        let mut place = self.0.look.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(look);
    }

    /// How telemetry is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        let inner = &self.0;
        let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let error = inner.error.lock().unwrap_or_else(PoisonError::into_inner);
        Health {
            lost_notes: told(&inner.lost.notes),
            lost_spans: told(&inner.lost.spans) + told(&inner.lost.calls),
            sent: told(&inner.metrics.taken) + told(&inner.spans.taken),
            failed: told(&inner.metrics.failed) + told(&inner.spans.failed),
            error: error.clone(),
        }
    }

    /// Everything that is counted, as it is now.
    fn now(&self) -> Store {
        let inner = &self.0;
        let look = inner.look.lock().unwrap_or_else(PoisonError::into_inner);
        let look = look.clone();
        // Whoever is asked takes locks of its own.
        let vitals = look.map(|look| look()).unwrap_or_default();
        let mut store = self.with(|store| store.clone());
        vitals::put(&mut store, &vitals);
        vitals::put_own(&mut store, inner);
        store
    }

    fn with<T>(&self, what: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.0.store.lock().unwrap_or_else(PoisonError::into_inner);
        what(&mut store)
    }

    fn lost_spans(&self, lost: u64) {
        self.0.lost.spans.fetch_add(lost, Ordering::Relaxed);
    }

    fn note_sent(&self, sent: fn(&Inner) -> &Sent, result: Result<(), &str>) {
        let sent = sent(&self.0);
        let count = if result.is_ok() {
            &sent.taken
        } else {
            &sent.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut error = self.0.error.lock().unwrap_or_else(PoisonError::into_inner);
        *error = result.err().map(str::to_owned);
    }
}
