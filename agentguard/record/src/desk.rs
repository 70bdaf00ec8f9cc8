//! Where entries wait to be written, and who writes them.
//!
//! Whoever brings a decision writes it at once, with all that waits, unless somebody is writing: who sees to what has come
//! meanwhile before leaving. So a decision costs one write, and mostly nobody is woken for it. What takes longer is left
//! to the record's own thread: while the disk is slow or refuses, where a new segment is due, and entries that nobody
//! waits for, which it gathers for a moment.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use agentguard_model::Decision;
use tokio::sync::oneshot;

use crate::queue::{Ack, Kept};
use crate::shared::lock;
use crate::writer::{May, Writer};

/// How many decisions go into one write of the thread at most.
const BATCH: usize = 512;

/// The same of who brings a decision: it carries connections.
const FEW: usize = 64;

/// Where so many other entries wait, the thread takes all decisions at once, so that those have their turn.
const LOTS: usize = 4096;

/// How often counts are flushed and failed entries tried again.
const TICK: Duration = Duration::from_secs(1);

/// How long entries that nobody waits for are gathered.
const GATHER: Duration = Duration::from_millis(10);

/// How often in a row who brings a decision writes for others too.
const TURNS: usize = 4;

thread_local! {
    /// Whose decisions of this thread wait for each other.
    static TOGETHER: Cell<*const Desk> = const { Cell::new(ptr::null()) };
}

/// The record is closed: nothing is taken any more.
#[derive(Debug)]
pub(crate) struct Closed;

/// What waits, and the writer.
#[derive(Debug)]
pub(crate) struct Desk {
    inbox: Mutex<Inbox>,
    /// For the thread.
    call: Condvar,
    /// None once the record is over.
    writer: Mutex<Option<Writer>>,
}

/// What the thread is to do.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
enum Call {
    /// Nothing until the next tick.
    #[default]
    Nothing,
    /// To write once it has gathered.
    Soon,
    /// To write.
    Now,
}

/// What waits to be written. Bounded by the permits that decisions and other entries hold.
#[derive(Debug, Default)]
struct Inbox {
    decisions: VecDeque<(Box<Decision>, Ack)>,
    kept: Vec<Kept>,
    call: Call,
    /// Nothing more is taken.
    closed: bool,
    /// Nothing more is written.
    over: bool,
    /// Who waits for the end.
    closers: Vec<oneshot::Sender<()>>,
}

/// Closes the record when the last who could bring anything is gone.
#[derive(Debug)]
pub(crate) struct Open(pub(crate) Arc<Desk>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

/// Until this is dropped, also by a panic, this thread's decisions wait for each other.
struct Together<'a> {
    desk: &'a Desk,
    before: *const Desk,
}

impl<'a> Together<'a> {
    fn begin(desk: &'a Desk) -> Self {
        let before = TOGETHER.replace(desk);
        Self { desk, before }
    }
}

impl Drop for Together<'_> {
    fn drop(&mut self) {
        TOGETHER.set(self.before);
        if !lock(&self.desk.inbox).decisions.is_empty() {
            self.desk.write_now();
        }
    }
}

/// What is left when the thread ends, also by a panic: nobody, and nothing.
struct Over<'a>(&'a Desk);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let mut inbox = lock(&self.0.inbox);
        inbox.closed = true;
        inbox.over = true;
        let left = (
            std::mem::take(&mut inbox.decisions),
            std::mem::take(&mut inbox.kept),
            std::mem::take(&mut inbox.closers),
        );
        drop(inbox);
        // Who waits for one of them is told by that.
        drop(left);
        drop(lock(&self.0.writer).take());
    }
}

impl Desk {
    pub(crate) fn new(writer: Option<Writer>) -> Self {
        Self {
            inbox: Mutex::default(),
            call: Condvar::new(),
            writer: Mutex::new(writer),
        }
    }

    /// Has a decision written, by this thread if nobody else is at it. Its answer comes to `ack`.
    ///
    /// # Errors
    /// [`Closed`]
    pub(crate) fn write(&self, decision: Box<Decision>, ack: Ack) -> Result<(), Closed> {
        let mut inbox = lock(&self.inbox);
        if inbox.closed {
            return Err(Closed);
        }
        inbox.decisions.push_back((decision, ack));
        drop(inbox);
        if !ptr::eq(TOGETHER.get(), self) {
            self.write_now();
        }
        Ok(())
    }

    /// Has the decisions that `brings` brings on this thread written with one write, once it has brought them all.
    pub(crate) fn together<T>(&self, brings: impl FnOnce() -> T) -> T {
        let _together = Together::begin(self);
        brings()
    }

    /// Has an entry written that nobody waits for.
    ///
    /// # Errors
    /// [`Closed`]
    pub(crate) fn keep(&self, kept: Kept) -> Result<(), Closed> {
        let mut inbox = lock(&self.inbox);
        if inbox.closed {
            return Err(Closed);
        }
        inbox.kept.push(kept);
        self.calls(inbox, Call::Soon);
        Ok(())
    }

    /// Takes nothing more, and has the thread write what there is and end. Who waits for that is told then, or, where
    /// it is over, by being dropped.
    pub(crate) fn end(&self, closer: Option<oneshot::Sender<()>>) {
        let mut inbox = lock(&self.inbox);
        inbox.closed = true;
        if inbox.over {
            return;
        }
        inbox.closers.extend(closer);
        self.calls(inbox, Call::Now);
    }

    /// How many decisions and other entries wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let inbox = lock(&self.inbox);
        (inbox.decisions.len(), inbox.kept.len())
    }

    fn calls(&self, mut inbox: MutexGuard<'_, Inbox>, call: Call) {
        let louder = inbox.call < call;
        inbox.call = inbox.call.max(call);
        drop(inbox);
        if louder {
            self.call.notify_one();
        }
    }

    /// Writes what is there, unless somebody is at it.
    pub(crate) fn write_now(&self) {
        for _ in 0..TURNS {
            let mut held = match self.writer.try_lock() {
                Ok(held) => held,
                Err(TryLockError::WouldBlock) => return,
                // It is the thread's to clear away.
                Err(TryLockError::Poisoned(_)) => break,
            };
            let now = Instant::now();
            let Some(writer) = held.as_mut().filter(|writer| writer.is_quick(now)) else {
                break;
            };
            let mut decisions = self.take(writer, FEW);
            writer.commit(Vec::new(), &mut decisions, now, May::Append);
            let more_to_keep = !writer.kept.0.is_empty();
            drop(held);
            // Whoever came while this was locked has gone, and waits.
            if more_to_keep {
                break;
            }
            if lock(&self.inbox).decisions.is_empty() {
                return;
            }
        }
        self.calls(lock(&self.inbox), Call::Now);
    }

    /// What goes into the next write: so many decisions, and what is kept. That may be what became of a decision, and
    /// has to stand behind it: none of it is taken before all decisions are.
    fn take(&self, writer: &mut Writer, most: usize) -> Vec<(Box<Decision>, Ack)> {
        let mut inbox = lock(&self.inbox);
        let lots = most == BATCH && inbox.kept.len() >= LOTS;
        let most = if lots { usize::MAX } else { most };
        let count = inbox.decisions.len().min(most);
        let decisions = inbox.decisions.drain(..count).collect();
        if inbox.decisions.is_empty() {
            writer.kept.0.extend(inbox.kept.drain(..));
        }
        decisions
    }

    /// The thread. When it returns, everything that can be is written and handed to the syncer, and nobody but who is
    /// returned waits.
    pub(crate) fn run(&self) -> Vec<oneshot::Sender<()>> {
        let _over = Over(self);
        let mut tick = Instant::now() + TICK;
        loop {
            let ends = self.rest(tick);
            let mut held = match self.writer.lock() {
                Ok(held) => held,
                Err(poisoned) => {
                    tracing::error!("the record's writer has died");
                    drop(poisoned.into_inner().take());
                    break;
                }
            };
            let Some(writer) = held.as_mut() else {
                break;
            };
            let now = Instant::now();
            let updates = if now >= tick {
                tick = now + TICK;
                writer.tick(now)
            } else {
                Vec::new()
            };
            let mut decisions = self.take(writer, BATCH);
            let fine = writer.commit(updates, &mut decisions, now, May::Rotate);
            // While the disk is failing, what is kept waits for the next tick or the next decision.
            let more_to_keep = fine && !writer.kept.0.is_empty();
            if ends && !more_to_keep && lock(&self.inbox).decisions.is_empty() {
                if let Some(writer) = held.take() {
                    writer.finish();
                }
                break;
            }
            drop(held);
            // Whoever came while this was locked has gone, and waits.
            let inbox = lock(&self.inbox);
            if more_to_keep || !inbox.decisions.is_empty() {
                self.calls(inbox, Call::Now);
            }
        }
        std::mem::take(&mut lock(&self.inbox).closers)
    }

    /// Waits until there is something to do, until the next tick at the latest; whether nothing more comes.
    fn rest(&self, tick: Instant) -> bool {
        let mut inbox = lock(&self.inbox);
        let mut until = tick;
        let mut gathers = false;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match inbox.call {
                Call::Soon if !gathers => {
                    gathers = true;
                    until = until.min(Instant::now() + GATHER);
                }
                Call::Nothing | Call::Soon if !left.is_zero() => {
                    let waited = self.call.wait_timeout(inbox, left);
                    inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => break,
            }
        }
        inbox.call = Call::Nothing;
        inbox.closed
    }
}

#[cfg(test)]
mod tests;
