//! What waits to be told to a worker.
//!
//! Whoever tells it something holds the keeper's lock, so nobody waits for the worker there: what is to
//! be said is queued, and a thread of its own says it, in order. The queue is bounded. One that is full,
//! and a worker that leaves its socket unread for too long, are the end of it: the worker is to be
//! replaced, and the next one is told everything anew.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentguard_keeper::message::ToWorker;
use agentguard_keeper::packet::{Packet, PacketError, Sealed};

/// How long the worker may leave its queue unread before it is taken for stuck.
const STUCK: Duration = Duration::from_secs(5);

/// Messages that wait, at most: what a new worker is told of as many runs as there may be is far less.
const MESSAGES: usize = 65_536;
/// Their bytes.
const BYTES: usize = 32 * 1024 * 1024;
/// Beyond so many, what the worker asks is not read until it has read what it was told.
const ANSWERS: usize = 1024;

/// The queue to one worker.
#[derive(Debug)]
pub(super) struct Outgoing {
    packet: Arc<Packet>,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    limit: Duration,
}

#[derive(Debug, Default)]
struct Waiting {
    letters: VecDeque<Letter>,
    bytes: usize,
    /// Nothing more is said: it cannot be, or nobody is there.
    over: bool,
}

#[derive(Debug)]
struct Letter {
    sealed: Sealed,
    /// It is said again in a second: a full socket is no reason to wait, and the newest is enough.
    mention: bool,
}

/// The queue takes nothing more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untold {
    /// Too much waits.
    #[error("too much waits to be told to the worker")]
    Full,
    /// The worker does not listen, or is gone.
    #[error("the worker does not listen")]
    Over,
    /// It is no message that can be sent.
    #[error("a message to the worker cannot be sent")]
    Message(#[source] PacketError),
}

impl Outgoing {
    /// Begins a queue, and the thread that empties it.
    ///
    /// # Errors
    /// There is no thread, or the socket takes no time limit.
    pub(super) fn start(packet: Arc<Packet>) -> std::io::Result<Arc<Self>> {
        Self::start_within(packet, STUCK)
    }

    fn start_within(packet: Arc<Packet>, limit: Duration) -> std::io::Result<Arc<Self>> {
        packet.set_send_timeout(Some(limit))?;
        let outgoing = Arc::new(Self {
            packet,
            waiting: Mutex::default(),
            changed: Condvar::new(),
            limit,
        });
        let writer = outgoing.clone();
        std::thread::Builder::new()
            .name("worker-told".into())
            .spawn(move || writer.write())?;
        Ok(outgoing)
    }

    /// Queues a message. The descriptors are duplicated.
    ///
    /// # Errors
    /// [`Untold`]: then nothing is told any more.
    pub(super) fn tell(
        &self,
        message: &ToWorker,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Untold> {
        self.push(message, descriptors, false)
    }

    /// Queues a message that is said again in a second, in the place of the last one of these.
    ///
    /// # Errors
    /// As [`Self::tell`].
    pub(super) fn mention(&self, message: &ToWorker) -> Result<(), Untold> {
        self.push(message, &[], true)
    }

    /// Queues an answer to the worker. Waits while much is unread: not to be called under a lock.
    ///
    /// # Errors
    /// As [`Self::tell`].
    pub(super) fn answer(&self, message: &ToWorker) -> Result<(), Untold> {
        let much = |waiting: &mut Waiting| !waiting.over && waiting.letters.len() >= ANSWERS;
        let held = self.waiting();
        let waited = self.changed.wait_timeout_while(held, self.limit, much);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.tell(message, &[])
    }

    /// Whether nothing more is told: the worker is to be replaced.
    pub(super) fn is_over(&self) -> bool {
        self.waiting().over
    }

    /// Ends it. What waits is not said.
    pub(super) fn close(&self) {
        end(&mut self.waiting());
        self.changed.notify_all();
    }

    fn push(
        &self,
        message: &ToWorker,
        descriptors: &[BorrowedFd<'_>],
        mention: bool,
    ) -> Result<(), Untold> {
        let sealed = Sealed::new(message, descriptors);
        let mut waiting = self.waiting();
        let pushed = match sealed {
            _ if waiting.over => return Err(Untold::Over),
            Err(error) => Err(Untold::Message(error)),
            Ok(sealed) => waiting.push(Letter { sealed, mention }),
        };
        if pushed.is_err() {
            // Out of step with what the keeper holds it would decide wrongly.
            end(&mut waiting);
        }
        drop(waiting);
        self.changed.notify_all();
        pushed
    }

    /// Says what waits until it is over.
    fn write(&self) {
        loop {
            let letter = {
                let idle = |waiting: &mut Waiting| !waiting.over && waiting.letters.is_empty();
                let waited = self.changed.wait_while(self.waiting(), idle);
                let mut waiting = waited.unwrap_or_else(PoisonError::into_inner);
                let Some(letter) = waiting.letters.pop_front() else {
                    return;
                };
                waiting.bytes = waiting.bytes.saturating_sub(letter.sealed.bytes());
                letter
            };
            self.changed.notify_all();
            let sent = match letter.mention {
                true => self.packet.try_send_sealed(&letter.sealed).map(drop),
                false => self.packet.send_sealed(&letter.sealed),
            };
            if let Err(error) = sent {
                if !self.is_over() {
                    tracing::error!(%error, "the worker does not listen");
                }
                self.close();
                return;
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its descriptors are closed.
fn end(waiting: &mut Waiting) {
    waiting.over = true;
    waiting.letters.clear();
    waiting.bytes = 0;
}

impl Waiting {
    fn push(&mut self, letter: Letter) -> Result<(), Untold> {
        if letter.mention
            && let Some(index) = self.letters.iter().rposition(|other| other.mention)
            && let Some(old) = self.letters.remove(index)
        {
            self.bytes = self.bytes.saturating_sub(old.sealed.bytes());
        }
        let bytes = self.bytes.saturating_add(letter.sealed.bytes());
        if self.letters.len() >= MESSAGES || bytes > BYTES {
            return Err(Untold::Full);
        }
        self.bytes = bytes;
        self.letters.push_back(letter);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use agentguard_keeper::message::{State, ToWorker};
    use agentguard_keeper::packet;

    use super::{Outgoing, Untold};

    /// Longer than a test takes.
    const LONG: Duration = Duration::from_secs(600);

    fn ended(run: u32) -> ToWorker {
        ToWorker::RunEnded { run }
    }

    fn wait_over(outgoing: &Outgoing) {
        let until = Instant::now() + Duration::from_secs(60);
        while !outgoing.is_over() {
            assert!(Instant::now() < until, "it is not over");
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_tells_a_worker_that_does_not_read_waits_for_nothing_until_too_much_waits() {
        let (ours, theirs) = packet::pair().unwrap();
        let outgoing = Outgoing::start_within(Arc::new(ours), LONG).unwrap();
        // Were one of these waited for, this would last ten minutes.
        let told = (0..200_000).map_while(|run| match outgoing.tell(&ended(run), &[]) {
            Ok(()) => Some(run),
            Err(error) => {
                assert!(matches!(error, Untold::Full), "{error}");
                None
            }
        });
        let told = told.count();
        assert!((super::MESSAGES..200_000).contains(&told), "{told}");
        assert!(outgoing.is_over());
        assert!(matches!(outgoing.tell(&ended(0), &[]), Err(Untold::Over)));
        drop(theirs);
    }

    #[test]
    fn one_that_leaves_its_socket_unread_for_too_long_or_is_gone_is_told_nothing_more() {
        let (ours, theirs) = packet::pair().unwrap();
        let short = Duration::from_millis(20);
        let outgoing = Outgoing::start_within(Arc::new(ours), short).unwrap();
        for run in 0..10_000 {
            // Over already, at the end.
            let _ = outgoing.tell(&ended(run), &[]);
        }
        wait_over(&outgoing);
        drop(theirs);

        let (ours, theirs) = packet::pair().unwrap();
        let outgoing = Outgoing::start_within(Arc::new(ours), LONG).unwrap();
        drop(theirs);
        let _ = outgoing.tell(&ended(1), &[]);
        wait_over(&outgoing);
        assert!(outgoing.answer(&ended(1)).is_err());
    }

    #[test]
    fn everything_arrives_in_order_with_its_descriptors_and_of_states_the_newest() {
        let (ours, theirs) = packet::pair().unwrap();
        let (_reader, writer) = std::io::pipe().unwrap();
        let outgoing = Outgoing::start_within(Arc::new(ours), LONG).unwrap();
        let many = 20_000;
        let state = |policy_loaded| {
            ToWorker::State(Box::new(State {
                policy_loaded,
                ..State::default()
            }))
        };
        // Descriptors are few.
        let carries = |run: u32| run.is_multiple_of(100);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for run in 0..many {
                    let descriptors = carries(run).then(|| writer.as_fd());
                    outgoing.tell(&ended(run), descriptors.as_slice()).unwrap();
                    outgoing.mention(&state(run.into())).unwrap();
                }
                // Waits until little is unread.
                outgoing.answer(&ToWorker::Serve).unwrap();
            });
            let (mut next, mut states) = (0, Vec::new());
            loop {
                match theirs.recv::<ToWorker>().unwrap().unwrap() {
                    (ToWorker::RunEnded { run }, descriptors) => {
                        let carried = descriptors.len();
                        assert_eq!((run, carried), (next, usize::from(carries(run))));
                        next += 1;
                    }
                    (ToWorker::State(state), _) => states.push(state.policy_loaded),
                    (ToWorker::Serve, _) => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(next, many);
            assert!(states.is_sorted());
        });
        outgoing.close();
        assert!(outgoing.is_over());
    }
}
