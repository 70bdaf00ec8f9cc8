//! The threads that carry connections, each with an event loop of its own: a reactor, timers and a queue.
//!
//! A connection stays where it was begun, with all that is spawned for it. Where threads take work from each other, a
//! request wakes several of them, and what it needs lies in another processor's caches.

use std::future::ready;
use std::{io, iter, thread};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Where connections are carried. What is under way ends when this is dropped.
pub struct EventLoops {
    first: Handle,
    others: Vec<Handle>,
    /// What each thread waits for: that it is dropped.
    _over: Vec<oneshot::Sender<()>>,
}

impl EventLoops {
    /// Starts `threads` of them, at least one, with so many bytes of stack each.
    ///
    /// # Errors
    /// The system makes no thread, or no reactor for it.
    pub fn start(threads: usize, stack: usize) -> io::Result<Self> {
        let (first, over) = start(stack)?;
        let mut loops = Self {
            first,
            others: Vec::new(),
            _over: vec![over],
        };
        for _ in 1..threads {
            let (other, over) = start(stack)?;
            loops.others.push(other);
            loops._over.push(over);
        }
        Ok(loops)
    }

    /// The caller's own runtime alone.
    #[must_use]
    pub fn here() -> Self {
        Self {
            first: Handle::current(),
            others: Vec::new(),
            _over: Vec::new(),
        }
    }

    /// Ends once each of them has had a turn: one that stands still keeps it waiting.
    pub(crate) fn turn(&self) -> impl Future<Output = ()> + Send + use<> {
        let loops = iter::once(&self.first).chain(&self.others);
        let turns: Vec<_> = loops.map(|it| it.spawn(ready(()))).collect();
        async {
            for turn in turns {
                // Cancelled where it has ended.
                _ = turn.await;
            }
        }
    }

    /// The one that has the fewest tasks.
    pub(crate) fn least_busy(&self) -> &Handle {
        let tasks = |it: &Handle| it.metrics().num_alive_tasks();
        let mut least = (tasks(&self.first), &self.first);
        for other in &self.others {
            let busy = tasks(other);
            if busy < least.0 {
                least = (busy, other);
            }
        }
        least.1
    }
}

/// One, and what it waits for.
fn start(stack: usize) -> io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(stack)
        .build()?;
    let handle = runtime.handle().clone();
    let (over, ends) = oneshot::channel();
    let turn = move || {
        // Nothing is said: the other end is dropped.
        _ = runtime.block_on(ends);
        runtime.shutdown_background();
    };
    thread::Builder::new()
        .name("event-loop".to_owned())
        .stack_size(stack)
        .spawn(turn)?;
    Ok((handle, over))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::thread::{ThreadId, current};
    use std::time::Duration;

    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const STACK: usize = 1 << 20;

    /// Begins what does not end by itself, and says on which thread.
    async fn begun(loops: &EventLoops) -> (JoinHandle<()>, ThreadId) {
        let (says, said) = oneshot::channel();
        let task = loops.least_busy().spawn(async {
            says.send(current().id()).unwrap();
            pending::<()>().await;
        });
        (task, said.await.unwrap())
    }

    #[tokio::test]
    async fn who_comes_is_given_to_the_loop_that_has_least() {
        let loops = EventLoops::start(2, STACK).unwrap();
        let (first, one) = begun(&loops).await;
        let (_second, other) = begun(&loops).await;
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
        loops.least_busy().spawn(async move { stands.recv() });
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
        loops.least_busy().spawn(async move {
            pending::<()>().await;
            drop(kept);
        });
        drop(loops);
        let ended = timeout(Duration::from_secs(10), ended).await;
        assert!(ended.unwrap().is_err());
    }
}
