//! The threads that carry connections, each with an event loop of its own: a reactor, timers and a queue.
//!
//! A connection stays where it was begun, with all that is spawned for it. Where threads take work from each other, a
//! request wakes several of them, and what it needs lies in another processor's caches.

use std::future::pending;
use std::sync::Arc;
use std::{io, iter, thread};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

/// After how many turns of tasks a loop takes one that comes from elsewhere: a new connection, or what the record has
/// acknowledged. tokio's 31 would have them wait behind whoever keeps many tasks of one loop busy.
const FROM_ELSEWHERE: u32 = 4;
/// After how many it looks at its sockets and timers, and says that it goes on.
const LOOK_AROUND: u32 = 16;
/// Threads of a loop for calls that block, at most: what comes beyond waits.
const BLOCKING: usize = 16;

/// Where connections are carried. What is under way ends when this is dropped.
pub struct EventLoops {
    first: EventLoop,
    others: Vec<EventLoop>,
}

struct EventLoop {
    handle: Handle,
    /// One for each connection that it carries, and one.
    carried: Arc<()>,
    /// Whoever asks is answered as soon as it looks around. It ends when nobody can ask any more.
    turns: mpsc::Sender<oneshot::Sender<()>>,
}

impl EventLoops {
    /// Starts `threads` of them, at least one, with so many bytes of stack each.
    ///
    /// # Errors
    /// The system makes no thread, or no reactor for it.
    pub fn start(threads: usize, stack: usize) -> io::Result<Self> {
        let first = EventLoop::start(stack)?;
        let others: io::Result<_> = (1..threads).map(|_| EventLoop::start(stack)).collect();
        Ok(Self {
            first,
            others: others?,
        })
    }

    /// The caller's own runtime alone.
    #[must_use]
    pub fn here() -> Self {
        let (turns, asked) = mpsc::channel(1);
        let handle = Handle::current();
        handle.spawn(take_turns(asked));
        Self {
            first: EventLoop::new(handle, turns),
            others: Vec::new(),
        }
    }

    /// Ends once each of them has had a turn: one that stands still, or is gone, keeps it waiting.
    pub(crate) fn turn(&self) -> impl Future<Output = ()> + Send + use<> {
        let loops: Vec<_> = self.all().map(|it| it.turns.clone()).collect();
        async move {
            for turns in loops {
                let (says, said) = oneshot::channel();
                if turns.send(says).await.is_err() || said.await.is_err() {
                    pending::<()>().await;
                }
            }
        }
    }

    /// The one that carries the fewest connections, of those that are there, and what counts the next one for as long as that
    /// is kept. Of several the first: who comes after the last one has gone finds on the same loop what that has left behind
    /// (`http/pool.rs`). Tasks are not counted: those of connections to upstreams that wait would keep it away from them.
    pub(crate) fn least_busy(&self) -> (&Handle, Arc<()>) {
        let busy = |it: &EventLoop| (it.turns.is_closed(), Arc::strong_count(&it.carried));
        let mut least = (busy(&self.first), &self.first);
        for other in &self.others {
            let busy = busy(other);
            if busy < least.0 {
                least = (busy, other);
            }
        }
        (&least.1.handle, Arc::clone(&least.1.carried))
    }

    /// How many connections each of them carries.
    #[cfg(test)]
    pub(crate) fn carried(&self) -> Vec<usize> {
        let carried = self.all().map(|it| Arc::strong_count(&it.carried) - 1);
        carried.collect()
    }

    fn all(&self) -> impl Iterator<Item = &EventLoop> {
        iter::once(&self.first).chain(&self.others)
    }
}

impl EventLoop {
    fn new(handle: Handle, turns: mpsc::Sender<oneshot::Sender<()>>) -> Self {
        Self {
            handle,
            carried: Arc::default(),
            turns,
        }
    }

    fn start(stack: usize) -> io::Result<Self> {
        let (turns, asked) = mpsc::channel(1);
        let (says, made) = std::sync::mpsc::channel();
        let carry = move || match runtime(stack) {
            Ok(runtime) => {
                // Who waits for it is there.
                let _ = says.send(Ok(runtime.handle().clone()));
                runtime.block_on(take_turns(asked));
                runtime.shutdown_background();
            }
            Err(error) => {
                let _ = says.send(Err(error));
            }
        };
        thread::Builder::new()
            .name("event-loop".to_owned())
            .stack_size(stack)
            .spawn(carry)?;
        let handle = made.recv().map_err(io::Error::other)??;
        Ok(Self::new(handle, turns))
    }
}

fn runtime(stack: usize) -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .global_queue_interval(FROM_ELSEWHERE)
        .event_interval(LOOK_AROUND)
        .thread_stack_size(stack)
        .max_blocking_threads(BLOCKING)
        .build()
}

/// Answers each that asks, until nobody can.
async fn take_turns(mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
    while let Some(asks) = asked.recv().await {
        // It may not wait any more.
        let _ = asks.send(());
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};
    use std::time::Duration;

    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const STACK: usize = 1 << 20;

    /// Begins what does not end by itself, and says on which thread.
    async fn begun(loops: &EventLoops) -> (JoinHandle<()>, ThreadId) {
        let (says, said) = oneshot::channel();
        let (handle, counts) = loops.least_busy();
        let task = handle.spawn(async {
            says.send(current().id()).unwrap();
            pending::<()>().await;
            drop(counts);
        });
        (task, said.await.unwrap())
    }

    #[tokio::test]
    async fn who_comes_is_given_to_the_loop_that_carries_least() {
        let loops = EventLoops::start(2, STACK).unwrap();
        // What others have left behind does not count.
        let (begins, _) = loops.least_busy();
        let (says, said) = oneshot::channel();
        begins.spawn(async {
            says.send(current().id()).unwrap();
            pending::<()>().await;
        });
        let left = said.await.unwrap();
        let (first, one) = begun(&loops).await;
        let (_second, other) = begun(&loops).await;
        assert_eq!(one, left);
        assert_ne!(one, other);
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(begun(&loops).await.1, one);
    }

    #[tokio::test]
    async fn a_loop_that_stands_still_is_noticed() {
        let loops = EventLoops::start(2, STACK).unwrap();
        loops.turn().await;
        let (goes_on, stands) = std::sync::mpsc::channel::<()>();
        let (says, begun) = oneshot::channel();
        loops.least_busy().0.spawn(async move {
            says.send(()).unwrap();
            stands.recv()
        });
        begun.await.unwrap();
        let mut turn = std::pin::pin!(loops.turn());
        let waited = timeout(Duration::from_millis(200), turn.as_mut()).await;
        assert!(waited.is_err());
        drop(goes_on);
        timeout(Duration::from_secs(10), turn).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_under_way_ends_with_them() {
        let loops = EventLoops::start(0, STACK).unwrap();
        let (kept, ended) = oneshot::channel::<()>();
        loops.least_busy().0.spawn(async move {
            pending::<()>().await;
            drop(kept);
        });
        drop(loops);
        let ended = timeout(Duration::from_secs(10), ended).await;
        assert!(ended.unwrap().is_err());
    }
}
