//! What is under way, until the policy comes to deny it.
//!
//! A denial is recorded before it is told. While it is being recorded, nothing moves.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use agentguard_decision::Decided;
use futures_util::FutureExt as _;
use futures_util::future::Shared;

use crate::woken::OnceWoken;

type Denying = Pin<Box<dyn Future<Output = Decided> + Send>>;

/// Whether a denial was ruled, and is being recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruled(Arc<AtomicBool>);

impl Ruled {
    /// Says that it was, and answers whether nobody has said so before: an action is denied once, whatever else comes to
    /// deny it.
    pub(crate) fn set(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The denial of an action that was allowed, if the policy comes to deny it: told to all that have a
/// share in it, and recorded once.
#[derive(Clone)]
pub(crate) struct Revoked {
    denied: Shared<Denying>,
    ruled: Ruled,
}

impl Revoked {
    /// `denying` waits for the denial, says when it is ruled, records it and gives it. It is asked again only where it was
    /// woken.
    pub(crate) fn new<F>(denying: impl FnOnce(Ruled) -> F) -> Self
    where
        F: Future<Output = Decided> + Send + 'static,
    {
        let ruled = Ruled::default();
        let denied: Denying = Box::pin(OnceWoken::new(denying(ruled.clone())));
        Self {
            denied: denied.shared(),
            ruled,
        }
    }

    /// Whether the action may go on; pending while a denial is recorded. Not to be asked again once it
    /// was denied.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Decided>> {
        match self.denied.poll_unpin(cx) {
            Poll::Ready(denied) => Poll::Ready(Err(denied)),
            Poll::Pending if self.ruled.is_set() => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Goes on with `going` until it ends, unless that is denied.
    pub(crate) async fn unless<T>(
        &mut self,
        going: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Decided> {
        unless(&self.ruled, Pin::new(&mut self.denied), going).await
    }

    /// The denial, if somebody has been told.
    pub(crate) fn peek(&self) -> Option<&Decided> {
        self.denied.peek()
    }
}

/// Goes on with `going` until it ends, unless `denied` gives a denial of it, which says before when it is
/// `ruled`. Both are pinned already: as arguments they would be kept twice.
pub(crate) async fn unless<T>(
    ruled: &Ruled,
    mut denied: Pin<&mut impl Future<Output = Decided>>,
    mut going: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Decided> {
    poll_fn(|cx| match denied.as_mut().poll(cx) {
        Poll::Ready(denied) => Poll::Ready(Err(denied)),
        Poll::Pending if ruled.is_set() => Poll::Pending,
        Poll::Pending => going.as_mut().poll(cx).map(Ok),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::{Revoked, Ruled, unless};

    #[test]
    fn nothing_goes_on_while_a_denial_is_recorded() {
        let ruled = Ruled::default();
        let going = || unless(&ruled, pin!(pending()), pin!(ready(7))).now_or_never();
        assert!(matches!(going(), Some(Ok(7))));
        ruled.set();
        assert!(going().is_none());

        let mut revoked = Revoked::new(|ruled| async move {
            tokio::task::yield_now().await;
            ruled.set();
            pending().await
        });
        let mut polled = || {
            let ask = std::future::poll_fn(|cx| std::task::Poll::Ready(revoked.poll(cx)));
            ask.now_or_never().unwrap().is_ready()
        };
        assert_eq!([polled(), polled()], [true, false]);
        let mut share = revoked.clone();
        assert!(share.unless(pin!(ready(7))).now_or_never().is_none());
    }
}
