//! Where budgets are kept: on this host, or in a Redis; and how it is with that.

use std::sync::Arc;
use std::time::Duration;

use agentguard_budget::{AnyLedger, Embedded, Options, Shared, Standing, tls};
use agentguard_control::api::{LedgerStatus, RedisStatus};
use agentguard_keeper::message::Start;
use agentguard_model::ledger::{OnLoss, SharedLedger};
use agentguard_telemetry::LedgerVitals;
use anyhow::Context as _;
use jiff::Timestamp;

use super::status::Board;

/// How long a worker that ends waits until what is over is settled in Redis.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens it. A Redis that does not answer keeps nobody from starting: what becomes of calls then the configuration says.
pub(super) async fn open(start: &Start) -> anyhow::Result<AnyLedger> {
    let Some(shared) = &start.ledger else {
        let directory = start.state_dir.join("budget");
        let ledger = Embedded::open(&directory, Timestamp::now())?;
        return Ok(AnyLedger::Embedded(Arc::new(ledger)));
    };
    let config = match shared.tls {
        false => None,
        true => {
            // Some hundred files, only where they are needed.
            let system = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
            let config = tls(shared, &system.await?.certs).map_err(anyhow::Error::msg);
            Some(config.context("cannot prepare TLS for the Redis that hosts share")?)
        }
    };
    let options = Options {
        notes: Some(start.state_dir.join("budget")),
        ..Options::of(shared, config)
    };
    let ledger = Shared::open(options).await;
    Ok(AnyLedger::Shared(Arc::new(ledger)))
}

/// Has what is over settled. What is not is charged in full later, by whoever charges the same accounts.
pub(super) async fn close(ledger: &AnyLedger) {
    if !ledger.close(PATIENCE).await {
        tracing::warn!(
            "some calls that are over are not settled in the Redis that hosts share: they are charged in full there"
        );
    }
}

/// What is told of it: in the log when it changes, and in `status`.
pub(super) struct Kept {
    ledger: AnyLedger,
    shared: Option<SharedLedger>,
    /// What was told last.
    told: Option<LedgerStatus>,
}

impl Kept {
    pub(super) fn new(ledger: AnyLedger, shared: Option<&SharedLedger>) -> Self {
        Self {
            ledger,
            shared: shared.cloned(),
            told: None,
        }
    }

    /// Looks at it again.
    pub(super) fn look(&mut self, board: &Board) {
        let status = self.status();
        self.logs(&status);
        board.ledger(status.clone());
        self.told = Some(status);
    }

    fn status(&self) -> LedgerStatus {
        let redis = self.ledger.standing().zip(self.shared.as_ref());
        LedgerStatus {
            redis: redis.map(|(standing, shared)| redis_status(standing, shared)),
            problems: self.ledger.troubles(),
        }
    }

    fn logs(&self, status: &LedgerStatus) {
        let before = self.told.clone().unwrap_or_default();
        for problem in &status.problems {
            if !before.problems.contains(problem) {
                tracing::error!("{problem}");
            }
        }
        if status.problems.is_empty() && !before.problems.is_empty() {
            tracing::info!("nothing is wrong any more with the ledger of budgets");
        }
        let Some(redis) = &status.redis else { return };
        let known = before.redis.unwrap_or_default();
        let RedisStatus {
            address, on_loss, ..
        } = redis;
        let was_there = self.told.is_some() && known.away_since.is_none();
        match (&redis.away, was_there) {
            (Some(why), _) if self.told.is_none() || was_there => {
                tracing::error!(
                    why,
                    "the Redis at {address}, in which hosts share their budgets, is away: {on_loss}; it is tried again"
                );
            }
            (None, false) => {
                let waiting = redis.waiting;
                tracing::info!(
                    waiting,
                    "budgets are charged in the Redis at {address}, which hosts share"
                );
            }
            _ => {}
        }
        if redis.dropped > known.dropped {
            let dropped = redis.dropped;
            tracing::error!(
                dropped,
                "too many calls wait to be settled in the Redis at {address}: these are charged in full there"
            );
        }
    }
}

fn redis_status(standing: Standing, shared: &SharedLedger) -> RedisStatus {
    let (since, away) = standing.away.unzip();
    RedisStatus {
        address: shared.address(),
        prefix: shared.prefix.clone(),
        on_loss: match shared.on_loss {
            OnLoss::Deny => {
                "calls that a budget counts are refused meanwhile, where it does not say otherwise"
                    .to_owned()
            }
            OnLoss::Lease(percent) => format!(
                "calls that a budget counts go on with the {percent} percent of its limit that this host has drawn in \
                 advance, until that is used up, where it does not say otherwise"
            ),
        },
        away_since: since
            .map(|since| Timestamp::from_millisecond(since).unwrap_or(Timestamp::UNIX_EPOCH)),
        away,
        waiting: standing.waiting,
        dropped: standing.dropped,
        leased: standing.leased,
        spent_away: standing.spent_away,
    }
}

/// The same in figures.
pub(super) fn vitals(ledger: &AnyLedger) -> LedgerVitals {
    let many = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let problems = many(ledger.troubles().len());
    match ledger.standing() {
        None => LedgerVitals {
            away: false,
            problems,
            ..LedgerVitals::default()
        },
        Some(standing) => LedgerVitals {
            away: standing.away.is_some(),
            problems,
            waiting: many(standing.waiting),
            dropped: standing.dropped,
            leased: many(standing.leased),
            spent_away: standing.spent_away,
        },
    }
}
