//! The pipeline that turns an action into a recorded decision.
//!
//! policy → limits → budget → (inspection → webhook → approval: not there yet) → record. The most
//! restrictive answer wins. A decision is recorded before it takes effect; what cannot be recorded
//! is denied.
//!
//! **Invariant:** this room does no I/O of its own. What needs I/O stands behind a port that an
//! outer room implements: [`Recorder`].

#![forbid(unsafe_code)]

mod again;
mod asked;
mod behind;
mod budgets;
mod decider;
mod directory;
mod kernel;
mod limits;
mod local;
mod log;
mod moment;
mod operator;
mod pins;
mod policies;
mod port;
mod resources;

pub use again::Changes;
pub use agentguard_policy::{Listing, Pinning, ToolServer};
pub use asked::{Asked, Spoken};
pub use budgets::{Accounting, Freezer, Grant, Held, Level, SLICE, Used, Way};
pub use decider::Decider;
pub use directory::{Cut, Directory};
pub use limits::Fingerprint;
pub use operator::Change;
pub use pins::{Compared, Pins, Unpinned};
pub use policies::Policies;
pub use port::{Aside, Client, Decided, Foreseen, RecordRefused, Recorder, Says, Target};

#[cfg(test)]
mod tests;
