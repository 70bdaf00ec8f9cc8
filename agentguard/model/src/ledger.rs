//! Where several hosts share their budgets, as the configuration says.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::{Budget, WhenAway};

/// A ledger in Redis.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SharedLedger {
    /// A name or an address; one of IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What tells it apart from others in the same Redis.
    pub prefix: String,
    /// As whom.
    pub username: Option<String>,
    /// With which password.
    pub password: Option<Password>,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Authorities beyond the system's, in DER.
    pub certificates: Vec<Vec<u8>>,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// What becomes of calls while it is away.
    pub on_loss: OnLoss,
}

impl SharedLedger {
    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether others than this host may see what goes there.
    #[must_use]
    pub fn is_in_the_clear(&self) -> bool {
        let here = match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host == "localhost",
        };
        !self.tls && !here
    }
}

/// What becomes of calls while the ledger that hosts share is away.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum OnLoss {
    /// They are refused.
    #[default]
    Deny,
    /// They go on with what was drawn in advance: so much of each account's limit, in percent, which the accounts that a
    /// host has charged in the last ten minutes hold for it all the time.
    Lease(u8),
}

impl OnLoss {
    /// How much of each account's limit is drawn in advance where nothing else is said, in percent.
    pub const PERCENT: u8 = 5;

    /// What becomes of those that a budget counts, on a host that is configured for this.
    #[must_use]
    pub const fn of(self, budget: &Budget) -> Self {
        match (budget.on_loss, self) {
            (None, any) => any,
            (Some(WhenAway::Deny), _) => Self::Deny,
            (Some(WhenAway::Lease), Self::Lease(percent)) => Self::Lease(percent),
            (Some(WhenAway::Lease), Self::Deny) => Self::Lease(Self::PERCENT),
        }
    }
}

/// A password.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Password(pub String);

/// Without it.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}
