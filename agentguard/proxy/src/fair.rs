//! Fair shares of an event loop: agents take turns, however many connections each of them has.
//!
//! A loop runs what is ready in the order in which it came to be ready. An agent with hundreds of busy connections would
//! have the only request of another one wait behind all of them, and at each of its steps again. So each agent has a slice
//! of the loop's time in a round (deficit round robin, as RFC 8290 has it for flows, with time in the place of bytes). What
//! it has ready beyond that waits, in order, until all else that was ready has had its turn; and what a step took beyond
//! the slice is taken off those that follow.
//!
//! An agent that has a loop for itself waits for nobody, and nothing is measured. What is cut off does not wait either: it
//! has to end.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use agentguard_model::AgentId;
use pin_project_lite::pin_project;
use tokio::task::{JoinHandle, yield_now};
use tokio_util::sync::CancellationToken;

/// What an agent may take of a loop in a round, in which others wait that have something ready. A step of a request takes
/// some 20 to 150 µs.
const SLICE: Duration = Duration::from_micros(500);

/// How many steps of an agent that has waited are let go in a round, at most: how long they take is only known afterwards.
const MOST: u128 = 16;

/// How long a step takes, until some were measured.
const STEP: Duration = Duration::from_micros(100);

thread_local! {
    /// Of the loop that this thread is.
    static HERE: Arc<Rounds> = Rounds::begin();
    /// Whose task is under way.
    static WHOSE: Cell<Option<AgentId>> = const { Cell::new(None) };
}

/// What ends what an agent has under way, whoever's turn it is.
type Cuts = [CancellationToken; 2];

/// Of all loops.
static LOOPS: Mutex<Vec<Weak<Rounds>>> = Mutex::new(Vec::new());

/// Whether anything of the agent that this task is for waits for its turn, on any loop: then what has not come may have.
pub(crate) fn lags() -> bool {
    let Some(agent) = WHOSE.get() else {
        return false;
    };
    let loops = LOOPS.lock().unwrap_or_else(PoisonError::into_inner);
    let loops: Vec<Arc<Rounds>> = loops.iter().filter_map(Weak::upgrade).collect();
    loops.iter().any(|rounds| {
        let state = rounds.state();
        let share = state.shares.get(&agent);
        share.is_some_and(|share| share.coming > 0 || !share.waiting.is_empty())
    })
}

/// Begins a task for the agent that this one is for, as one of its.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    match WHOSE.get() {
        Some(agent) => tokio::spawn(Fair::new(agent, None, future)),
        None => tokio::spawn(future),
    }
}

pin_project! {
    /// A task of an agent, which has its turn when that has. To be polled with the task's own waker.
    pub(crate) struct Fair<F> {
        #[pin]
        inner: F,
        place: Place,
    }
}

impl<F> Fair<F> {
    /// `cuts`: one of them is cancelled when what the agent has under way is to end.
    pub(crate) fn new(agent: AgentId, cuts: Option<Cuts>, inner: F) -> Self {
        let place = Place {
            agent,
            cuts,
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
    /// Until its share has them.
    cuts: Option<Cuts>,
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
            let mut state = rounds.state();
            let share = state.share(self.agent);
            share.tasks += 1;
            if let Some(cuts) = self.cuts.take() {
                share.cuts = Some(cuts);
            }
            drop(state);
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
        let round = state.round;
        let share = state.share(self.agent);
        share.tasks = share.tasks.saturating_sub(1);
        if let Some(number) = self.ticket.take() {
            share.leaves(number);
        }
        // Where something waited, the next round sees to it; and who has had too much comes back to that.
        let is_even = share.used_in(round) < SLICE;
        if share.tasks == 0 && share.waiting.is_empty() && is_even {
            state.shares.remove(&self.agent);
        }
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

/// Rounds as long as anybody waits. Each begins once all that was ready in the one before has had its turn, and sockets
/// were looked at: that is what a loop does with who yields.
async fn next_rounds(rounds: Arc<Rounds>) {
    let over = Over(rounds);
    while over.0.next() {
        yield_now().await;
    }
}

/// Nobody sees to the next round, also where the loop ends.
struct Over(Arc<Rounds>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.state().under_way = false;
    }
}

/// The rounds of a loop. Its thread alone locks them, but for a task that is dropped elsewhere.
#[derive(Default)]
struct Rounds(Mutex<State>);

impl Rounds {
    fn begin() -> Arc<Self> {
        let rounds = Arc::default();
        let mut loops = LOOPS.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|known| known.strong_count() > 0);
        loops.push(Arc::downgrade(&rounds));
        rounds
    }

    /// Begins a round; whether anybody waits for another one.
    fn next(&self) -> bool {
        let mut state = self.state();
        let comes = state.next_round();
        let goes_on = state.under_way;
        drop(state);
        comes.into_iter().for_each(Waker::wake);
        goes_on
    }

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
    /// Of the last connection that came.
    cuts: Option<Cuts>,
    /// The last round in which it had something of it, and how much, with what it had too much before.
    round: u64,
    used: Duration,
    /// How long a step takes, on the mean of the last ones.
    step: Duration,
    /// Tasks that wait, the oldest first: as many as tickets that were given and not called. None where one is gone.
    waiting: VecDeque<Option<Waker>>,
    given: u64,
    called: u64,
    /// How many were called and have not had their turn yet.
    coming: usize,
}

impl State {
    fn share(&mut self, agent: AgentId) -> &mut Share {
        self.shares.entry(agent).or_insert_with(|| Share {
            tasks: 0,
            cuts: None,
            round: 0,
            used: Duration::ZERO,
            step: STEP,
            waiting: VecDeque::new(),
            given: 0,
            called: 0,
            coming: 0,
        })
    }

    fn asks(&mut self, agent: AgentId, ticket: &mut Option<u64>, waker: &Waker) -> Turn {
        let (round, alone) = (self.round, self.shares.len() < 2);
        let share = self.share(agent);
        if let Some(number) = *ticket {
            if number >= share.called && !share.is_cut() {
                return Turn::Waits;
            }
            *ticket = None;
            share.leaves(number);
            return Turn::Comes { measured: true };
        }
        if alone {
            return Turn::Comes { measured: false };
        }
        let has_room = share.waiting.is_empty() && share.used_in(round) < SLICE;
        if has_room || share.is_cut() {
            return Turn::Comes { measured: true };
        }
        let first = share.waiting.is_empty();
        share.waiting.push_back(Some(waker.clone()));
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

    /// Begins a round. Who has waited comes, as far as that is what is left of a slice: at least one of each agent that has
    /// not had too much.
    fn next_round(&mut self) -> Vec<Waker> {
        self.round += 1;
        let round = self.round;
        let mut comes = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(agent) = self.waiting.pop_front() else {
                break;
            };
            let Some(share) = self.shares.get_mut(&agent) else {
                continue;
            };
            for _ in 0..share.steps(round) {
                let Some(waker) = share.waiting.pop_front() else {
                    break;
                };
                share.called += 1;
                share.coming += usize::from(waker.is_some());
                comes.extend(waker);
            }
            if !share.waiting.is_empty() {
                self.waiting.push_back(agent);
            } else if share.tasks == 0 {
                self.shares.remove(&agent);
            }
        }
        self.under_way = !self.waiting.is_empty();
        comes
    }
}

impl Share {
    /// Who has this ticket does not wait any more: it has its turn, or is gone.
    fn leaves(&mut self, number: u64) {
        let place = number.checked_sub(self.called).map(usize::try_from);
        match place {
            None => self.coming = self.coming.saturating_sub(1),
            Some(place) => {
                let place = place.ok().and_then(|place| self.waiting.get_mut(place));
                if let Some(place) = place {
                    *place = None;
                }
            }
        }
    }

    /// How much of a round it has had: what it had before beyond its slices is in it.
    fn used_in(&self, round: u64) -> Duration {
        let rounds = round.saturating_sub(self.round);
        let slices = SLICE * u32::try_from(rounds).unwrap_or(u32::MAX);
        self.used.saturating_sub(slices)
    }

    /// How many of those that wait are let go in a round.
    fn steps(&self, round: u64) -> u128 {
        if self.is_cut() {
            return u128::MAX;
        }
        let left = SLICE.saturating_sub(self.used_in(round));
        if left.is_zero() {
            return 0;
        }
        (left.as_nanos() / self.step.as_nanos().max(1)).clamp(1, MOST)
    }

    fn is_cut(&self) -> bool {
        let mut cuts = self.cuts.iter().flatten();
        cuts.any(CancellationToken::is_cancelled)
    }
}

#[cfg(test)]
mod tests;
