//! A future beside others of its task, that is asked again once it was woken and not whenever they are: it waits for what
//! changes rarely, and asking takes locks that all threads share. Once it is over it is not to be asked again, as any other.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::task::coop::has_budget_remaining;

pin_project! {
    /// What must be woken for all that it waits for.
    #[derive(Debug)]
    pub(crate) struct OnceWoken<F> {
        #[pin]
        inner: F,
        woken: Arc<Woken>,
    }
}

#[derive(Debug)]
struct Woken {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl<F> OnceWoken<F> {
    pub(crate) fn new(inner: F) -> Self {
        let woken = Woken {
            woken: AtomicBool::new(true),
            task: AtomicWaker::new(),
        };
        Self {
            inner,
            woken: Arc::new(woken),
        }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Future for OnceWoken<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Before the look, so that none is missed.
        this.woken.task.register(cx.waker());
        if !this.woken.woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(this.woken));
        let polled = this.inner.poll(&mut Context::from_waker(&waker));
        if polled.is_pending() && !has_budget_remaining() {
            // It may not have been asked at all: the task has had its share, and others may ask before it goes on.
            this.woken.woken.store(true, Ordering::Release);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use tokio::sync::oneshot;
    use tokio::task::coop::consume_budget;

    use super::OnceWoken;

    #[tokio::test]
    async fn it_is_asked_first_and_whenever_it_was_woken() {
        let asked = Cell::new(0);
        let (says, mut said) = oneshot::channel();
        let counted = poll_fn(|cx| {
            asked.set(asked.get() + 1);
            Pin::new(&mut said).poll(cx)
        });
        let mut once = pin!(OnceWoken::new(counted));
        let mut nobody = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(once.as_mut().poll(&mut nobody).is_pending());
        }
        assert_eq!(asked.get(), 1);
        // Woken for whoever asked last.
        let waits = poll_fn(|cx| once.as_mut().poll(cx));
        let later = async {
            tokio::task::yield_now().await;
            says.send(7).unwrap();
        };
        let (said, ()) = tokio::join!(waits, later);
        assert_eq!(said, Ok(7));
        assert_eq!(asked.get(), 2);
    }

    /// Nothing is asked by a task that has had its share, so that whoever asks next has to ask.
    #[tokio::test]
    async fn who_may_not_ask_leaves_it_to_the_next() {
        let (says, said) = oneshot::channel();
        let mut once = pin!(OnceWoken::new(said));
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(once.as_mut().poll(&mut nobody).is_pending());
        says.send(7).unwrap();
        let mut spent = pin!(async {
            // All of it, within one turn.
            poll_fn(|cx| {
                while pin!(consume_budget()).poll(cx).is_ready() {}
                std::task::Poll::Ready(())
            })
            .await;
            poll_fn(|cx| std::task::Poll::Ready(once.as_mut().poll(cx).is_ready())).await
        });
        let asked = poll_fn(|cx| spent.as_mut().poll(cx)).await;
        assert!(!asked);
        tokio::task::yield_now().await;
        assert!(once.as_mut().poll(&mut nobody).is_ready());
    }
}
