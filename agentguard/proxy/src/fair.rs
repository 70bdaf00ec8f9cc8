//! Fair shares of an event loop: agents take turns, however many connections each of them has.
//!
//! A loop runs what is ready in the order in which it came to be ready. An agent with hundreds of busy connections would
//! have the only request of another one wait behind all of them, and at each of its steps again. So each agent has a slice
//! of the loop's time in a round (round robin, as `RFC 8290` has it for flows, with time in the place of bytes). What it
//! has ready beyond that waits, in order, until all else that was ready has had its turn.
//!
//! An agent that has a loop for itself waits for nobody, and nothing is measured.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use agentguard_model::AgentId;
use pin_project_lite::pin_project;
use tokio::task::JoinHandle;

/// What an agent may take of a loop in a round, in which others wait that have something ready. A step of a request takes
/// some 20 to 150 µs.
const SLICE: Duration = Duration::from_micros(500);

/// How many steps of an agent that has waited are let go in a round, at most.
const MOST: u128 = 64;

/// How long a step takes, until some were measured.
const STEP: Duration = Duration::from_micros(100);

thread_local! {
    /// Of the loop that this thread is.
    static HERE: Arc<Rounds> = Arc::default();
    /// Whose task is under way.
    static WHOSE: Cell<Option<AgentId>> = const { Cell::new(None) };
}

/// Begins a task for the agent that this one is for, as one of its.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    match WHOSE.get() {
        Some(agent) => tokio::spawn(Fair::new(agent, future)),
        None => tokio::spawn(future),
    }
}

pin_project! {
    /// A task of an agent, which has its turn when that has.
    pub(crate) struct Fair<F> {
        #[pin]
        inner: F,
        place: Place,
    }
}

impl<F> Fair<F> {
    pub(crate) fn new(agent: AgentId, inner: F) -> Self {
        let place = Place {
            agent,
            rounds: None,
            ticket: None,
        };
        Self { inner, place }
    }
}

impl<F: Future> Future for Fair<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        match this.place.asks(cx.waker()) {
            Turn::Waits => Poll::Pending,
            Turn::Comes { measured } => {
                let _step = Step::begin(this.place, measured);
                this.inner.poll(cx)
            }
        }
    }
}

/// Where a task stands among those of its loop.
struct Place {
    agent: AgentId,
    /// Of the loop that it runs on, since it does.
    rounds: Option<Arc<Rounds>>,
    /// Its number among those of its agent that wait.
    ticket: Option<u64>,
}

enum Turn {
    Comes { measured: bool },
    Waits,
}

impl Place {
    /// Whether it has its turn; it is woken when it has.
    fn asks(&mut self, waker: &Waker) -> Turn {
        let rounds = self.rounds.get_or_insert_with(|| {
            let rounds = HERE.with(Arc::clone);
            rounds.state().share(self.agent).tasks += 1;
            rounds
        });
        let mut state = rounds.state();
        let turn = state.asks(self.agent, &mut self.ticket, waker);
        let begins = matches!(turn, Turn::Waits) && !mem::replace(&mut state.under_way, true);
        drop(state);
        if begins {
            // Behind all that is ready.
            tokio::spawn(next_rounds(Arc::clone(rounds)));
        }
        turn
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(rounds) = &self.rounds else {
            return;
        };
        let mut state = rounds.state();
        let share = state.share(self.agent);
        share.tasks = share.tasks.saturating_sub(1);
        let over = share.tasks == 0;
        let gone = over.then(|| state.shares.remove(&self.agent));
        drop(state);
        // Wakers are foreign code.
        drop(gone);
    }
}

/// A task that has its turn.
struct Step<'a> {
    place: &'a Place,
    begun: Option<Instant>,
    before: Option<AgentId>,
}

impl<'a> Step<'a> {
    fn begin(place: &'a Place, measured: bool) -> Self {
        Self {
            begun: measured.then(Instant::now),
            before: WHOSE.replace(Some(place.agent)),
            place,
        }
    }
}

/// Also where it panics.
impl Drop for Step<'_> {
    fn drop(&mut self) {
        WHOSE.set(self.before);
        if let (Some(begun), Some(rounds)) = (self.begun, &self.place.rounds) {
            rounds.state().took(self.place.agent, begun.elapsed());
        }
    }
}

/// Rounds as long as anybody waits. Each begins once all that was ready in the one before has had its turn: the loop takes
/// what is ready in order.
async fn next_rounds(rounds: Arc<Rounds>) {
    poll_fn(|cx| {
        let mut state = rounds.state();
        let comes = state.next_round();
        let goes_on = state.under_way;
        drop(state);
        comes.into_iter().for_each(Waker::wake);
        if !goes_on {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The rounds of a loop. Its thread alone locks them, but for a task that is dropped elsewhere.
#[derive(Default)]
struct Rounds(Mutex<State>);

impl Rounds {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    /// Of each agent that has a task there.
    shares: HashMap<AgentId, Share>,
    round: u64,
    /// Agents of which something waits. Each is in it once, or was and has gone.
    waiting: VecDeque<AgentId>,
    /// Whether somebody sees to the next round.
    under_way: bool,
}

struct Share {
    tasks: usize,
    /// The last round in which it had something of it, and how much.
    round: u64,
    used: Duration,
    /// How long a step takes, on the mean of the last ones.
    step: Duration,
    /// Tasks that wait, the oldest first: as many as tickets that were given and not called.
    waiting: VecDeque<Waker>,
    given: u64,
    called: u64,
}

impl State {
    fn share(&mut self, agent: AgentId) -> &mut Share {
        self.shares.entry(agent).or_insert_with(|| Share {
            tasks: 0,
            round: 0,
            used: Duration::ZERO,
            step: STEP,
            waiting: VecDeque::new(),
            given: 0,
            called: 0,
        })
    }

    fn asks(&mut self, agent: AgentId, ticket: &mut Option<u64>, waker: &Waker) -> Turn {
        let (round, alone) = (self.round, self.shares.len() < 2);
        let share = self.share(agent);
        if let Some(number) = *ticket {
            if number >= share.called {
                return Turn::Waits;
            }
            *ticket = None;
            return Turn::Comes { measured: true };
        }
        if alone {
            return Turn::Comes { measured: false };
        }
        if share.waiting.is_empty() && share.used_in(round) < SLICE {
            return Turn::Comes { measured: true };
        }
        let first = share.waiting.is_empty();
        share.waiting.push_back(waker.clone());
        *ticket = Some(share.given);
        share.given += 1;
        if first {
            self.waiting.push_back(agent);
        }
        Turn::Waits
    }

    fn took(&mut self, agent: AgentId, time: Duration) {
        let round = self.round;
        if let Some(share) = self.shares.get_mut(&agent) {
            share.used = share.used_in(round) + time;
            share.round = round;
            share.step = (share.step * 7 + time) / 8;
        }
    }

    /// Begins a round. Who has waited comes, as far as that is a slice; at least one of each agent.
    fn next_round(&mut self) -> Vec<Waker> {
        self.round += 1;
        let mut comes = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(agent) = self.waiting.pop_front() else {
                break;
            };
            let Some(share) = self.shares.get_mut(&agent) else {
                continue;
            };
            let steps = SLICE.as_nanos() / share.step.as_nanos().max(1);
            for _ in 0..steps.clamp(1, MOST) {
                let Some(waker) = share.waiting.pop_front() else {
                    break;
                };
                share.called += 1;
                comes.push(waker);
            }
            if !share.waiting.is_empty() {
                self.waiting.push_back(agent);
            }
        }
        self.under_way = !self.waiting.is_empty();
        comes
    }
}

impl Share {
    fn used_in(&self, round: u64) -> Duration {
        match self.round == round {
            true => self.used,
            false => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
