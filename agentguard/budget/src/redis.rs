//! The ledger that several hosts share, in Redis.
//!
//! What a host asks is one script on keys of one slot, in one round trip: all accounts of a call or none. What is held is
//! renewed while the call is under way; what nobody renews any more, because its host has died, is charged in full by
//! whoever is next to charge the same account, and corrected should that host come back within a day. So no account is
//! blocked for longer than [`Options::lease`] by a call that nobody has.
//!
//! Settlements wait in a bounded queue until Redis has taken them, and are numbered, so that each counts once however often
//! it is sent. Each connection begins with a fence: what was sent over an older one, and arrives late, does nothing.
//!
//! Redis keeps what is asked of it: without `appendonly yes` its accounts begin anew when it is restarted, and with
//! `appendfsync everysec` the last second may be gone. What is under way is held again then, and charged when it is over.
//! Amounts are below 2^53, about nine billion dollars: what would be more fits into no account.

mod account;
mod lease;
mod link;
mod listing;
mod notes;
mod script;
mod state;
mod tls;
mod upkeep;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::budget::{Budget, Reached, Unit};
use agentguard_model::ledger::{OnLoss, Password, SharedLedger};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use ulid::Ulid;

pub use listing::Listed;
pub use state::Standing;
pub use tls::tls;

use crate::charge::{Balance, Charge, Granted, HoldId, More, Short, Want};
use crate::ledger::{Asked, Ledger, Refused};
use account::Account;
use link::{Link, Lost};
use script::{Extended, Held, Reserved, Shortage};
use state::{Hold, Inner, Part};

/// Settlements that wait for Redis, at most. What is one more is not sent: nobody renews what it holds, so that it is
/// charged in full.
pub const MAX_WAITING: usize = 16_384;

/// How long whoever opens it waits for its first answer: agents wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the ledger is, and what becomes of calls when it is not.
#[derive(Clone, Debug)]
pub struct Options {
    /// Host and port. Of a cluster any node: where the keys are it says itself.
    pub address: String,
    /// What all keys begin with, within braces, so that they are in one slot: `{agentguard:<prefix>}`. Hosts with the same
    /// share their budgets.
    pub prefix: String,
    /// As whom, where it has more users than one (Redis 6 and later).
    pub username: Option<String>,
    /// With which password.
    pub password: Option<Password>,
    /// Whether TLS is spoken, and with whom.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// How long an answer is waited for. A call waits at most twice as long.
    pub timeout: Duration,
    /// After how long what nobody renews is charged in full. It is renewed three times in it.
    pub lease: Duration,
    /// What becomes of calls while it is away.
    pub on_loss: OnLoss,
    /// The directory in which it is noted, while it is away, what it has to know, should this process die before it is back.
    /// None: then it is charged what was reserved, and what had been told.
    pub notes: Option<PathBuf>,
}

impl Options {
    /// How long an answer is waited for, where nothing else is said.
    pub const TIMEOUT: Duration = Duration::from_millis(250);
    /// After how long what nobody renews is charged, where nothing else is said.
    pub const LEASE: Duration = Duration::from_secs(60);

    /// With nothing but what is needed: no password, no TLS, and calls are refused while it is away.
    #[must_use]
    pub fn new(address: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            prefix: prefix.into(),
            username: None,
            password: None,
            tls: None,
            timeout: Self::TIMEOUT,
            lease: Self::LEASE,
            on_loss: OnLoss::Deny,
            notes: None,
        }
    }

    /// As the configuration has it. `tls`: with whom it is spoken, where the configuration says that it is.
    #[must_use]
    pub fn of(ledger: &SharedLedger, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self {
            username: ledger.username.clone(),
            password: ledger.password.clone(),
            tls,
            timeout: ledger.timeout,
            on_loss: ledger.on_loss,
            ..Self::new(ledger.address(), &ledger.prefix)
        }
    }
}

/// The ledger that several hosts share.
#[derive(Debug)]
pub struct Shared {
    inner: Arc<Inner>,
    upkeep: JoinHandle<()>,
    attempts: watch::Receiver<u64>,
}

/// What this process goes by in Redis.
#[derive(Debug)]
struct Names {
    /// What all keys begin with.
    prefix: String,
    /// No two processes have the same.
    process: String,
    /// The key of this process.
    own: Arc<str>,
    /// The key of the list of all accounts.
    list: Arc<str>,
}

impl Names {
    fn new(prefix: &str) -> Self {
        let prefix = format!("{{agentguard:{prefix}}}:");
        let list = format!("{prefix}l").into();
        Self::named(prefix, list, Ulid::generate().to_string())
    }

    /// As another process is called.
    fn of(&self, process: &str) -> Self {
        Self::named(
            self.prefix.clone(),
            Arc::clone(&self.list),
            process.to_owned(),
        )
    }

    fn named(prefix: String, list: Arc<str>, process: String) -> Self {
        Self {
            own: format!("{prefix}o|{process}").into(),
            list,
            prefix,
            process,
        }
    }

    fn hold(&self, number: u64) -> String {
        format!("{}:{number}", self.process)
    }
}

impl Shared {
    /// Begins to use the ledger, and waits until it has answered once or does not, but not for longer than two
    /// seconds: [`Self::standing`] says which. Needs a runtime, on which it is kept up until this is dropped.
    pub async fn open(options: Options) -> Self {
        let names = Names::new(&options.prefix);
        let inner = Arc::new(Inner::new(options, names));
        let (attempted, mut attempts) = watch::channel(0);
        let upkeep = tokio::spawn(upkeep::keep_up(Arc::clone(&inner), attempted));
        // Its sender ends with the task, which does not end before this.
        let attempted = attempts.wait_for(|attempts| *attempts > 0);
        let _ = tokio::time::timeout(PATIENCE, attempted).await;
        Self {
            inner,
            upkeep,
            attempts,
        }
    }

    /// How it stands with the ledger.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.inner.standing()
    }

    /// What is wrong, though calls go on: a sentence each.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.inner.troubles()
    }

    /// Waits until all that is over is settled, and what was drawn in advance given back, but not for longer than this.
    /// Whether that is done: what is left is charged in full once it has expired.
    pub async fn close(&self, patience: Duration) -> bool {
        self.inner.closes();
        let mut attempts = self.attempts.clone();
        let settled = attempts.wait_for(|_| self.inner.standing().waiting == 0);
        // A timeout, or the end of the task.
        matches!(tokio::time::timeout(patience, settled).await, Ok(Ok(_)))
    }

    async fn reserves(&self, want: &Want, now: i64) -> Result<Granted, Refused> {
        let (hold, accounts, link) = self.inner.begins(want, now);
        if let Some(link) = link {
            let undo = Undo::new(&self.inner, hold, &accounts, now);
            let asked = self.asks(&link, hold, want, &accounts, now).await;
            match asked {
                Ok(Reserved::Granted {
                    tokens,
                    room,
                    over,
                    firsts,
                }) => {
                    undo.disarm();
                    let parts = parts(want, &accounts, tokens);
                    let granted = Granted {
                        id: HoldId(hold),
                        tokens,
                        room: room.unwrap_or(u64::MAX),
                        held: parts.iter().map(|part| part.held).collect(),
                        over,
                        deadline: deadline(&want.charges, &firsts),
                    };
                    self.inner.holds(parts, &granted, want, &firsts);
                    return Ok(granted);
                }
                Ok(Reserved::Short(shortage)) => {
                    undo.disarm();
                    let charge = want.charges.get(shortage.charge);
                    let limit = charge.map_or(0, |charge| charge.budget.limit);
                    self.yields(shortage, &accounts);
                    return Err(short(shortage, limit, &accounts));
                }
                Ok(Reserved::Late) => self.inner.lost(&link, &given_up()),
                Err(lost) => self.inner.lost(&link, &lost),
            }
        }
        self.inner.reserves_away(want, &accounts, now)
    }

    fn yields(&self, shortage: Shortage, accounts: &[Arc<Account>]) {
        if let Some(account) = accounts.get(shortage.charge) {
            self.inner.yields(account);
        }
    }

    async fn asks(
        &self,
        link: &Link,
        hold: u64,
        want: &Want,
        accounts: &[Arc<Account>],
        now: i64,
    ) -> Result<Reserved, Lost> {
        let charges: Vec<_> = accounts.iter().cloned().zip(&want.charges).collect();
        let operation = script::reserve(
            (&self.inner.names, link.generation),
            hold,
            (want.tokens, want.least, want.most),
            &charges,
            (now, self.inner.options.lease),
        );
        script::reserved(&link.run(&operation).await?)
    }

    async fn extends(
        &self,
        id: HoldId,
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<u64, Refused> {
        let (hold, link) = self.inner.goes_on(id).ok_or(Refused::Settled)?;
        let (tokens, parts) = (hold.tokens, &hold.parts);
        if let Some(link) = link {
            let asked = self.asks_more(&link, (id, &hold), more, budgets, now);
            let patience = self.inner.options.timeout.saturating_mul(2);
            let asked = tokio::time::timeout(patience, asked).await;
            match asked.unwrap_or_else(|_| Err(given_up())) {
                Ok(Extended::Total(total)) => {
                    self.inner.extended(id, total, more.most);
                    return Ok(total.saturating_sub(tokens));
                }
                Ok(Extended::Short(shortage)) => {
                    self.inner.waits(id, more.most);
                    let limit = budgets.get(shortage.charge).map_or(0, |it| it.limit);
                    let accounts: Vec<_> = parts.iter().map(|it| Arc::clone(&it.account)).collect();
                    self.yields(shortage, &accounts);
                    return Err(short(shortage, limit, &accounts));
                }
                // Told twice: somebody else takes its memory away while we ask.
                Ok(Extended::Unknown) => return Err(Refused::Away("it forgets".to_owned())),
                Ok(Extended::Late) => self.inner.lost(&link, &given_up()),
                Err(lost) => self.inner.lost(&link, &lost),
            }
        }
        self.inner.extends_away(id, more, budgets, now)
    }

    async fn asks_more(
        &self,
        link: &Link,
        (id, hold): (HoldId, &Hold),
        more: More,
        budgets: &[Arc<Budget>],
        now: i64,
    ) -> Result<Extended, Lost> {
        let names = (&self.inner.names, link.generation);
        let times = (now, self.inner.options.lease);
        let charges = hold.parts.iter().zip(budgets).map(|(part, budget)| {
            let alert = budget.reached == Reached::Alert;
            (Arc::clone(&part.account), part.terms, budget.limit, alert)
        });
        let charges: Vec<_> = charges.collect();
        let operation = script::extend(names, id.0, (more, hold.tokens), &charges, times);
        let extended = script::extended(&link.run(&operation).await?)?;
        if !matches!(extended, Extended::Unknown) {
            return Ok(extended);
        }
        // It was restarted and has lost what it knew, or the call began while it was away: it is told.
        let held: Vec<Held> = state::held(id, hold).collect();
        let renewed = script::renew(names, &held, times);
        script::done(&link.run(&renewed).await?)?;
        script::extended(&link.run(&operation).await?)
    }
}

impl Ledger for Shared {
    fn reserve<'a>(&'a self, want: &'a Want, now: i64) -> Asked<'a, Granted> {
        Box::pin(self.reserves(want, now))
    }

    fn extend<'a>(
        &'a self,
        id: HoldId,
        more: More,
        budgets: &'a [Arc<Budget>],
        now: i64,
    ) -> Asked<'a, u64> {
        Box::pin(self.extends(id, more, budgets, now))
    }

    fn settle(&self, id: HoldId, used: Option<&[u64]>, now: i64) {
        self.inner.settles(id, used, now);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

/// Gives back what may have been reserved, unless the answer is known: it did not come, or nobody waits for it any more.
struct Undo<'a> {
    inner: &'a Inner,
    hold: u64,
    accounts: &'a [Arc<Account>],
    now: i64,
    needed: bool,
}

impl<'a> Undo<'a> {
    const fn new(inner: &'a Inner, hold: u64, accounts: &'a [Arc<Account>], now: i64) -> Self {
        Self {
            inner,
            hold,
            accounts,
            now,
            needed: true,
        }
    }

    fn disarm(mut self) {
        self.needed = false;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.needed {
            self.inner.gives_up(self.hold, self.accounts, self.now);
        }
    }
}

fn given_up() -> Lost {
    Lost::Silent("it does not answer in time".to_owned())
}

/// What a call holds of each account, for so many tokens.
fn parts(want: &Want, accounts: &[Arc<Account>], tokens: u64) -> Vec<Part> {
    let charges = accounts.iter().zip(&want.charges);
    let part = |(account, charge): (&Arc<Account>, &Charge)| Part {
        account: Arc::clone(account),
        terms: charge.terms,
        held: match account.unit.is_held() {
            true => script::amount(charge.terms, tokens),
            false => 0,
        },
        leased: 0,
        covered: 0,
        first: i64::MAX,
    };
    charges.map(part).collect()
}

/// When a call has to end by the clock, by when its accounts were charged first.
fn deadline(charges: &[Charge], firsts: &[i64]) -> Option<i64> {
    let ends = charges.iter().zip(firsts).filter_map(|(charge, first)| {
        let budget = &charge.budget;
        let counts = budget.unit == Unit::WallTime && budget.reached.limits();
        let limit = i64::try_from(budget.limit).unwrap_or(i64::MAX);
        counts.then(|| first.saturating_add(limit))
    });
    ends.min()
}

fn short(shortage: Shortage, limit: u64, accounts: &[Arc<Account>]) -> Refused {
    let account = accounts.get(shortage.charge);
    let sliding = account.is_some_and(|it| it.part > 0);
    Refused::Short(Short {
        charge: shortage.charge,
        balance: Balance {
            limit,
            used: shortage.used,
            held: shortage.held,
            resets: match sliding {
                true => shortage.resets,
                false => account.and_then(|it| it.period.until),
            },
        },
        needed: shortage.needed,
    })
}

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
