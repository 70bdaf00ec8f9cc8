//! Where the ledger of a storm is, and how that is taken away.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use agentguard_tests::{GuardBuilder, World, wait_until};
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::json;

use super::notes::{End, Provider, notes};
use super::plan::Random;
use super::{Storm, WAVE};
use crate::redis::{Redis, ledger};

/// After how long what a dead daemon held is charged (`docs/configuration.md`, Budgets that hosts share), and a bit.
pub(super) const EXPIRED: Duration = Duration::from_secs(61);

/// How long it may take until Redis knows that a call is over.
const TOLD: Duration = Duration::from_secs(1);

/// Where the guard keeps its ledger.
pub(super) enum Store<'w> {
    /// In a database of its own.
    Embedded,
    /// In a Redis; calls are refused while that is away.
    Shared(RefCell<Redis<'w>>),
}

/// The end of a daemon whose ledger is elsewhere: what that was not told by then it is told by nobody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// From then on calls may have ended untold.
    from: Timestamp,
    /// Whether the ledger was away, so that no stream could go on beyond what it had.
    pub(super) away: bool,
}

impl Cut {
    /// Whether a call that ended then may be one of which the ledger was not told.
    pub(super) fn may_hide(&self, end: Timestamp) -> bool {
        end >= self.from
    }
}

impl<'w> Store<'w> {
    /// In a Redis that runs.
    pub(super) fn shared(world: &'w World) -> Self {
        let mut redis = Redis::new(world);
        redis.start();
        Self::Shared(RefCell::new(redis))
    }

    /// Tells a daemon of it.
    pub(super) fn configure(
        &self,
        world: &World,
        guard: GuardBuilder<'w>,
    ) -> Result<GuardBuilder<'w>> {
        Ok(match self {
            Self::Embedded => guard,
            // A machine that is busy is not to be taken for a Redis that is away.
            Self::Shared(_) => {
                guard.setting("ledger", ledger(world, &json!({ "timeout_ms": 5000 }))?)
            }
        })
    }

    /// The daemon is killed and started again; where its ledger is elsewhere, that may be away already.
    pub(super) fn kills(&self, storm: &mut Storm<'_>, random: &mut Random) -> Result<()> {
        let Self::Shared(redis) = self else {
            storm.guard.kill()?;
            return storm.guard.start();
        };
        let (away, first) = (random.within(0, 2) == 0, random.within(0, 2) == 0);
        let more = usize::try_from(random.within(0, 10))?;
        let from = Timestamp::now() - TOLD;
        storm.cut = Some(Cut { from, away });
        eprintln!("Redis is away before: {away}, for {more} calls, and back before: {first}");
        if !away {
            storm.guard.kill()?;
            return storm.guard.start();
        }
        redis.borrow_mut().kill();
        ends(&storm.provider, more)?;
        storm.guard.kill()?;
        if first {
            redis.borrow_mut().start();
            return storm.guard.start();
        }
        storm.guard.start()?;
        redis.borrow_mut().start();
        Ok(())
    }

    /// What a daemon that was killed held expires.
    pub(super) fn expires(&self) -> Result<()> {
        match self {
            Self::Embedded => Ok(()),
            Self::Shared(redis) => redis.borrow().goes_by(EXPIRED),
        }
    }

    /// The ledger goes away twice in the midst of a wave: for a moment, and until calls have ended, by themselves or
    /// for want of it.
    pub(super) fn restarts(&self, storm: &Storm<'_>, random: &mut Random) -> Result<()> {
        let Self::Shared(redis) = self else {
            return Ok(());
        };
        let midst = || (storm.provider.under_way().0 >= 60).then_some(());
        wait_until("the midst of the storm", WAVE, midst)?;
        // Who waits for what others hold is refused at once when the ledger goes away: some have waited in vain before, if
        // the storm lasts so long.
        let waited = || {
            let wanted = notes(&storm.clients);
            let wanted = wanted.values().filter(|it| it.is_for_want()).count();
            (wanted >= 10 || storm.provider.under_way().0 < 60).then_some(())
        };
        wait_until("some to wait in vain", WAVE, waited)?;
        // What it does is not answered, again and again. All are connected now; behind an outage they may pause.
        redis.borrow().cuts(10)?;
        for long in [false, true] {
            ends(&storm.provider, usize::try_from(random.within(0, 10))?)?;
            redis.borrow_mut().kill();
            let (killed, under_way) = (Instant::now(), storm.provider.under_way().0);
            match (long, random.within(0, 2)) {
                (false, _) => {}
                (true, 0) => ends(&storm.provider, usize::try_from(random.within(10, 25))?)?,
                (true, _) => cut(storm)?,
            }
            redis.borrow_mut().start();
            eprintln!(
                "Redis was away for {:.1} s, with {under_way} calls under way",
                killed.elapsed().as_secs_f64()
            );
        }
        let log = storm.guard.log();
        let noticed = log.contains("in which hosts share their budgets, is away");
        noticed.then_some(()).with_context(|| log)
    }
}

/// Waits until so many more calls are over.
fn ends(provider: &Provider, more: usize) -> Result<()> {
    let enough = provider.under_way().1 + more;
    wait_until("calls to end", WAVE, || {
        (provider.under_way().1 >= enough).then_some(())
    })
}

/// Waits until a stream has waited for the ledger in vain.
fn cut(storm: &Storm<'_>) -> Result<()> {
    wait_until("a stream to be cut", WAVE, || {
        let notes = notes(&storm.clients);
        let mut notes = notes.values();
        let cut = notes.any(|it| it.is_for_ledger() && it.end == End::Error);
        (cut || storm.provider.under_way().0 == 0).then_some(())
    })
}
