//! Where it is kept what was used and what is held.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use agentguard_model::budget::Budget;

use crate::charge::{Granted, HoldId, More, Short, Want};

/// What comes of asking a ledger.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refused>> + Send + 'a>>;

/// Why a ledger refuses.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// An account has too little. Nothing was charged to any.
    #[error("an account has too little")]
    Short(Short),
    /// What is held could not be written down, so that it would be forgotten with this process.
    #[error("the ledger cannot be written: {0}")]
    Unwritten(#[source] io::Error),
    /// The ledger that several hosts share does not answer.
    #[error("the ledger does not answer: {0}")]
    Away(String),
    /// It does not, and there is too little of what was drawn from it in advance.
    #[error("the ledger does not answer: {0}; too little is left of what was drawn in advance")]
    LeaseSpent(String),
    /// Nothing is held under this number: it was settled.
    #[error("nothing is held under this number")]
    Settled,
}

/// Where it is kept what was used and what is held, so that several budgets are charged together or not at all.
///
/// Times are milliseconds of the Unix time, as the clock says. A window is what the clock says: one that goes back finds
/// an earlier window as it was left, and what a sliding window has from later than now counts.
pub trait Ledger: Send + Sync + 'static {
    /// Charges all accounts of a call with what it needs, or none. What is granted survives this process: what is held
    /// when it dies is used in full, and what its provider may have written beyond that ([`UNSEEN`], up to
    /// [`Want::most`]), which is held from nobody.
    ///
    /// # Errors
    /// [`Refused::Short`], or the ledger cannot be had.
    ///
    /// # Cancel safety
    /// A dropped future may have reserved; then that is held until [`Self::settle`], which nobody calls: who asks has to
    /// wait for the answer.
    fn reserve<'a>(&'a self, want: &'a Want, now: i64) -> Asked<'a, Granted>;

    /// Lets a call write up to so many tokens more. `budgets` are those of its charges, as they are now: a limit that was
    /// changed holds for what is under way, too. Answers with how many, at least one.
    ///
    /// Where there is not even one, all that its provider may write ([`More::most`]) is noted before this answers, and
    /// holds nothing from others: nobody looks while it waits, so that this much is used, should this process die. It is
    /// so until there is more, or the call is settled.
    ///
    /// # Errors
    /// As for [`Self::reserve`]; [`Refused::Short`] where there is not even one. Where the ledger cannot be had, nothing
    /// is noted.
    fn extend<'a>(
        &'a self,
        id: HoldId,
        more: More,
        budgets: &'a [Arc<Budget>],
        now: i64,
    ) -> Asked<'a, u64>;

    /// Says what a call has used of each account, in the order of the charges; none: nobody knows, so that it is all
    /// that is held, or that may have been written beyond that. Counts once, however often it is said. What cannot be
    /// written down now is with the next thing that can.
    fn settle(&self, id: HoldId, used: Option<&[u64]>, now: i64);
}
