//! Ledgers, prices and forecasts: what was used, what is held for calls under way, what is left, and for how long.
//!
//! **Invariant:** a call is charged to all of its accounts or to none, and no account is charged beyond a hard limit by
//! what a call may still use.

#![forbid(unsafe_code)]

mod any;
mod charge;
mod embedded;
mod estimate;
pub mod forecast;
mod ledger;
pub mod limits;
#[cfg(test)]
mod model;
mod period;
pub mod prices;
mod redis;
mod scope;
pub mod tokens;

pub use any::AnyLedger;
pub use charge::{Balance, Charge, Granted, HoldId, More, Short, Terms, UNSEEN, Want};
pub use embedded::{Damage, Embedded, MAX_PLACES, OpenError, SYNC, State, Troubles};
pub use estimate::{Dearest, Estimate, ModelFacts, used};
pub use forecast::Forecast;
pub use ledger::{Asked, Ledger, Refused};
pub use period::ends;
pub use redis::{Listed, MAX_WAITING, Options, Shared, Standing, tls};
pub use scope::Scope;
