//! Who carries a connection on.

use std::pin::Pin;

use futures_util::FutureExt as _;

/// Who carries a connection on from here, if anybody does.
///
/// It is returned and not awaited: what was needed up to here is gone while the connection goes on, be it for hours.
#[must_use]
pub(crate) struct Onward(Option<Pin<Box<dyn Future<Output = Onward> + Send>>>);

impl Onward {
    /// The connection is over.
    pub(crate) const OVER: Self = Self(None);

    /// To who may pass it on again.
    pub(crate) fn to(next: impl Future<Output = Self> + Send + 'static) -> Self {
        Self(Some(Box::pin(next)))
    }

    /// To who carries it to its end.
    pub(crate) fn to_last(last: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::to(last.map(|()| Self::OVER))
    }

    /// Goes all the way.
    pub(crate) async fn go(mut self) {
        while let Some(next) = self.0.take() {
            self = next.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use super::Onward;

    /// Has something until it is dropped, also when it is over.
    struct Holds {
        _held: Arc<()>,
        next: Option<Onward>,
    }

    impl Future for Holds {
        type Output = Onward;

        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Onward> {
            self.next.take().map_or(Poll::Pending, Poll::Ready)
        }
    }

    #[tokio::test]
    async fn what_was_needed_before_is_gone_while_it_goes_on() {
        let (first, second) = (Arc::new(()), Arc::new(()));
        let seen = [Arc::downgrade(&first), Arc::downgrade(&second)];
        let last = Onward::to_last(async move {
            tokio::task::yield_now().await;
            assert!(seen.iter().all(|it| it.upgrade().is_none()));
        });
        let holds = |held, next| {
            Onward::to(Holds {
                _held: held,
                next: Some(next),
            })
        };
        holds(first, holds(second, last)).go().await;
        Onward::OVER.go().await;
    }
}
