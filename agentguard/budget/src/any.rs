//! The ledger of this host, of whichever kind it is.

use std::sync::Arc;
use std::time::Duration;

use crate::embedded::{Embedded, State};
use crate::ledger::{Ledger, Refused};
use crate::redis::{Listed, Shared, Standing};

/// Where this host keeps what was used of its budgets.
#[derive(Clone, Debug)]
pub enum AnyLedger {
    /// On the host itself.
    Embedded(Arc<Embedded>),
    /// In a Redis, with other hosts.
    Shared(Arc<Shared>),
}

impl AnyLedger {
    /// As what calls charge.
    #[must_use]
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        match self {
            Self::Embedded(embedded) => Arc::clone(embedded) as Arc<dyn Ledger>,
            Self::Shared(shared) => Arc::clone(shared) as Arc<dyn Ledger>,
        }
    }

    /// All accounts, and of Redis also those whose windows ended in the last two days.
    ///
    /// # Errors
    /// [`Refused::Away`].
    pub async fn accounts(&self, now: i64) -> Result<Listed, Refused> {
        match self {
            Self::Embedded(embedded) => Ok(Listed {
                states: embedded.accounts(now),
                unread: 0,
            }),
            Self::Shared(shared) => shared.accounts(now).await,
        }
    }

    /// Says what an account has used, as an operator does. False: there is no such account.
    ///
    /// # Errors
    /// It cannot be written, or, of Redis, nobody knows whether it was.
    pub async fn set(&self, account: &State, used: u64, now: i64) -> Result<bool, Refused> {
        match self {
            Self::Embedded(embedded) => embedded.set(account, used, now),
            Self::Shared(shared) => shared.set(account, used, now).await,
        }
    }

    /// The ledger that knows when it was used what was: of this host alone. That of Redis does not.
    #[must_use]
    pub fn history(&self) -> Option<&Embedded> {
        match self {
            Self::Embedded(embedded) => Some(embedded),
            Self::Shared(_) => None,
        }
    }

    /// How it stands with Redis, if it is there.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        match self {
            Self::Embedded(_) => None,
            Self::Shared(shared) => Some(shared.standing()),
        }
    }

    /// What is wrong with the ledger of this host, though it goes on: a sentence each.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        match self {
            Self::Embedded(embedded) => embedded.troubles().told(),
            Self::Shared(shared) => shared.troubles(),
        }
    }

    /// Has what is over settled, before the process ends. Whether that is done.
    pub async fn close(&self, patience: Duration) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::Shared(shared) => shared.close(patience).await,
        }
    }
}
