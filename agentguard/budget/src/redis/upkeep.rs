//! Keeps the connection, renews what is held, and has settled what is over.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use super::link::{Link, Lost};
use super::notes::{self, Left};
use super::script::{self, Reserved, Settlement};
use super::state::{Draw, Inner};
use crate::charge::{Charge, Terms};
use crate::scope::Scope;

/// The first pause before another connection is tried; the next is twice as long, up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How old what another process has noted may be, in milliseconds: a bit less than Redis remembers what has expired.
const REMEMBERED: i64 = 23 * 3_600_000;
/// How often it is looked whether a process has ended that has notes.
const ENDS: Duration = Duration::from_secs(1);
/// Accounts of one command, at most, so that it takes Redis well under a millisecond.
const BATCH: usize = 64;
/// How often a cluster may say that the keys are elsewhere, until it is asked at its address again.
const MAX_MOVES: u32 = 4;

/// Runs until it is dropped. Counts attempts, and what was done.
pub(super) async fn keep_up(inner: Arc<Inner>, attempted: watch::Sender<u64>) {
    let (mut pause, mut generation, mut moves) = (PAUSE, 0, 0);
    let mut address = inner.options.address.clone();
    loop {
        generation += 1;
        let lost = match connect(&inner, &address, generation).await {
            Ok(link) => {
                (pause, moves) = (PAUSE, 0);
                serve(&inner, &Arc::new(link), &attempted).await
            }
            Err(lost) => {
                inner.stays_away(&lost);
                lost
            }
        };
        attempted.send_modify(|count| *count += 1);
        address = match inner.moved() {
            // Where the same host stands in front of another port, it leaves the host out.
            Some(moved) if moves < MAX_MOVES && !moved.starts_with([':', '?']) => {
                moves += 1;
                moved
            }
            _ => {
                moves = 0;
                inner.options.address.clone()
            }
        };
        if !matches!(lost, Lost::Moved(_)) || moves == 0 {
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(MAX_PAUSE);
        }
    }
}

/// A connection that takes writes, and after which no older one is listened to.
async fn connect(inner: &Inner, address: &str, generation: u64) -> Result<Link, Lost> {
    let link = Link::open(&inner.options, address, generation).await?;
    let fenced = link.run(&script::fence(&inner.names, generation)).await?;
    script::done(&fenced)?;
    Ok(link)
}

/// Serves as long as the connection does. Answers with why it does not any more.
async fn serve(inner: &Inner, link: &Arc<Link>, attempted: &watch::Sender<u64>) -> Lost {
    inner.comes_back(link);
    let every = (inner.options.lease / 3).max(Duration::from_millis(1));
    let mut renewals = tokio::time::interval_at(Instant::now() + every, every);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What is held is told before anything of it is settled, or given back.
    let mut renews = true;
    // When to look again for what others leave that live still.
    let mut looks = None;
    loop {
        if !inner.is_used(link) {
            return Lost::Silent("the connection was given up".to_owned());
        }
        renews |= inner.has_untold();
        if let Err(lost) = work(inner, link, renews).await {
            inner.lost(link, &lost);
            return lost;
        }
        if renews {
            inner.knows_all(link);
        }
        if renews || looks.is_some_and(|at| at <= Instant::now()) {
            looks = match adopt(inner, link).await {
                Ok(others) => others.then(|| Instant::now() + ENDS),
                Err(lost) => {
                    inner.lost(link, &lost);
                    return lost;
                }
            };
        }
        attempted.send_modify(|count| *count += 1);
        renews = tokio::select! {
            _ = renewals.tick() => true,
            () = inner.work.notified() => false,
            () = sleep_until(looks.unwrap_or_else(Instant::now)), if looks.is_some() => false,
            // Known before the next call asks, and told at once.
            () = link.ended() => {
                let lost = Lost::Silent("the connection ended".to_owned());
                inner.lost(link, &lost);
                return lost;
            }
        };
    }
}

async fn work(inner: &Inner, link: &Link, renews: bool) -> Result<(), Lost> {
    if renews {
        renew(inner, link).await?;
    }
    settle(inner, link).await?;
    draw(inner, link).await?;
    // What was given up meanwhile.
    settle(inner, link).await
}

async fn renew(inner: &Inner, link: &Link) -> Result<(), Lost> {
    inner.gives_back_old();
    let names = (&inner.names, link.generation);
    let (held, now) = inner.held();
    if held.is_empty() {
        // Whether it is still there is known before the next call asks.
        let fence = script::fence(&inner.names, link.generation);
        return script::done(&link.run(&fence).await?);
    }
    for some in held.chunks(BATCH) {
        let renewed = script::renew(names, some, (now, inner.options.lease));
        script::done(&link.run(&renewed).await?)?;
    }
    Ok(())
}

async fn settle(inner: &Inner, link: &Link) -> Result<(), Lost> {
    loop {
        let (next, now) = inner.unsettled(link);
        let Some(last) = next.last().map(|it| it.sequence) else {
            return Ok(());
        };
        let operation = script::settle((&inner.names, link.generation), &next, now);
        script::done(&link.run(&operation).await?)?;
        inner.settled(last);
    }
}

/// How many settlements one command takes: as many as have [`BATCH`] accounts, and one at least.
pub(super) fn batch<'a>(settlements: impl IntoIterator<Item = &'a Settlement>) -> usize {
    let mut parts = 0;
    let next = settlements.into_iter().take_while(|it| {
        let first = parts == 0;
        parts += it.parts.len().max(1);
        first || parts <= BATCH
    });
    next.count()
}

/// Tells what processes of this host have noted that are no more. Whether there are some that live still, as a worker does
/// that is replaced.
async fn adopt(inner: &Inner, link: &Link) -> Result<bool, Lost> {
    let Some(directory) = inner.options.notes.clone() else {
        return Ok(false);
    };
    let own = inner.names.process.clone();
    let prefix: Arc<str> = inner.options.prefix.as_str().into();
    let of = Arc::clone(&prefix);
    let found = tokio::task::spawn_blocking(move || notes::others(&directory, &own, &of)).await;
    let (mut others, mut failed) = (false, None);
    let paths = match found {
        Ok(Ok(paths)) => paths,
        Ok(Err(error)) => {
            failed = Some(error.to_string());
            Vec::new()
        }
        // The runtime ends.
        Err(_) => return Ok(false),
    };
    for path in paths {
        let (prefix, keys) = (Arc::clone(&prefix), inner.names.prefix.clone());
        let oldest = Timestamp::now().as_millisecond() - REMEMBERED;
        let read = move || notes::left(&path, (&prefix, &keys), oldest);
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(Some(left))) => {
                tell(inner, link, &left).await?;
                inner.leaves(left.untold);
                failed = left.forget().err().map(|it| it.to_string()).or(failed);
            }
            Ok(Ok(None)) => others = true,
            Ok(Err(error)) => failed = Some(error.to_string()),
            Err(_) => return Ok(false),
        }
    }
    inner.reads(failed);
    Ok(others)
}

/// Tells what another process has left, as that one would have.
async fn tell(inner: &Inner, link: &Link, left: &Left) -> Result<(), Lost> {
    let names = (&inner.names.of(&left.process), script::LIMIT - 1);
    // What is on its way of that one's does nothing any more.
    script::done(&link.run(&script::fence(names.0, names.1)).await?)?;
    let mut rest = left.settlements.as_slice();
    while !rest.is_empty() {
        let (next, behind) = rest.split_at(batch(rest));
        let at = next.iter().map(|it| it.at).max().unwrap_or_default();
        script::done(&link.run(&script::settle(names, next, at)).await?)?;
        rest = behind;
    }
    Ok(())
}

/// Draws what is wanted in advance, as much of it as there is.
async fn draw(inner: &Inner, link: &Link) -> Result<(), Lost> {
    while let Some(Draw {
        hold,
        account,
        budget,
        chunk,
        now,
    }) = inner.draws()
    {
        let charge = Charge {
            budget,
            scope: Scope::all(),
            // So that it is clamped to what is left, one for each token.
            terms: Terms {
                fixed: 0,
                per_million: 1_000_000,
            },
            place: 0,
        };
        let accounts = [Arc::clone(&account)];
        let operation = script::reserve(
            (&inner.names, link.generation),
            hold,
            (chunk, 1, 0),
            &[(Arc::clone(&account), &charge)],
            (now, inner.options.lease),
        );
        let reply = link.run(&operation).await;
        match reply.and_then(|reply| script::reserved(&reply)) {
            Ok(Reserved::Granted { tokens, .. }) => inner.drawn(hold, &account, tokens),
            Ok(Reserved::Short(_) | Reserved::Late) => {}
            Err(lost) => {
                inner.gives_up(hold, &accounts, now);
                return Err(lost);
            }
        }
    }
    Ok(())
}
