//! The decision log: append-only segments, an index beside them, queries and a live feed.
//!
//! [`Record`] implements [`agentguard_decision::Recorder`]. The [`writer`] owns the log:
//! it counts identical denials together ([`aggregate`]), keeps every agent within its share
//! ([`quota`]), frames entries ([`frame`]) into segments ([`segment`]) and acknowledges them. Whoever brings a decision
//! has it for a moment, and a thread for all that takes longer ([`desk`]). A
//! second thread calls `fdatasync`, a third brings the index up to date by reading the segments
//! back. Readers open the segments themselves and never wait for the writer.
//!
//! Beside it lie contents that rules have kept ([`contents`]), which are no part of it.
//!
//! **Invariants:** the segments are the truth: the index, and everything a query says, can be
//! rebuilt from them and from nothing else. What was acknowledged is never rewritten, and never
//! removed but by retention, whole segments at a time, with a note. What could not be recorded was
//! refused, and is told as a gap. The sum of the counts in the record is the number of attempts.

#![forbid(unsafe_code)]

mod aggregate;
mod contents;
mod counts;
mod desk;
mod entry;
mod follow;
mod frame;
mod fresh;
mod grown;
mod index;
mod indexer;
mod open;
mod queue;
mod quota;
mod read;
mod record;
mod segment;
mod shared;
mod status;
mod sync;
mod walk;
mod writer;

pub use entry::{Gap, Note, NoteKind, Notice};
pub use follow::Followed;
pub use quota::Quota;
pub use read::{MAX_LIMIT, Only, Query, ReadError};
pub use record::{OpenError, Options, Record};
pub use status::{Damage, Degraded, Status};
