//! Bodies on their way, counted.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use agentguard_decision::{Decided, Recorder};
use agentguard_protocol::content::Undecodable;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either, Empty, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Sleep, timeout};

use crate::account::{Account, Watch};
use crate::fair;
use crate::http::behind::Behind;
use crate::http::checked::Checked;
use crate::http::checks::Checks;
use crate::http::growth::Growth;
use crate::http::held::Held;
use crate::http::http2::Streamed;
use crate::http::reading::Reading;
use crate::passing::Paced;
use crate::relay::{MAX_LINGER, revoked};
use crate::revoked::Revoked;

/// What the client is answered.
pub(crate) type Answer<R> = Either<ResponseBody<R>, Full<Bytes>>;

/// A body as it comes from either side.
pub(crate) enum Received {
    Http1(Incoming),
    Http2(Streamed),
    /// What was read before it was decided on, and what comes behind.
    Held(Held),
    /// What is looked at on its way, in pieces as they may go.
    Looked(UnsyncBoxBody<Bytes, BodyFailed>),
    /// What goes on as budgets have room for it.
    Paced(Box<Paced>),
}

impl Received {
    /// The same, of which nothing passes any more, so that nothing counts it.
    fn unpaced(mut self) -> Self {
        if let Self::Paced(paced) = &mut self {
            paced.unpaced();
        }
        self
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyFailed::Http1),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyFailed::Http2),
            Self::Held(body) => Pin::new(body).poll_frame(cx),
            Self::Looked(body) => Pin::new(body).poll_frame(cx),
            Self::Paced(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Held(body) => body.is_end_stream(),
            Self::Looked(body) => body.is_end_stream(),
            Self::Paced(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Held(body) => body.size_hint(),
            Self::Looked(body) => body.size_hint(),
            Self::Paced(body) => body.size_hint(),
        }
    }
}

/// What may end a body before its end, and where that is told.
///
/// A body asks for it when it is read. Where nobody reads it, because the side that it goes to takes nothing,
/// who waits for that side asks.
pub(crate) struct Denial<R: Recorder> {
    revoked: Revoked,
    account: Arc<Account<R>>,
}

impl<R: Recorder> Denial<R> {
    /// Whether what the body belongs to may go on; pending while a denial is recorded. A denial has been
    /// told, and is not to be asked for again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let allowed = ready!(self.revoked.poll(cx));
        Poll::Ready(allowed.map_err(|denied| self.account.fail(revoked(&denied))))
    }
}

/// What may end an answer before its end, if something may.
pub(crate) fn denial<R: Recorder>(answer: &Answer<R>) -> Option<Denial<R>> {
    match answer {
        Either::Left(body) => Some(body.denial()),
        Either::Right(_) => None,
    }
}

/// Holds a body back until the upstream wants it (RFC 9110, 10.1.1).
pub(crate) struct GoAhead {
    wanted: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl GoAhead {
    /// Opens when `wanted` is notified or `patience` is over.
    pub(crate) fn new(wanted: Arc<Notify>, patience: Sleep) -> Self {
        Self {
            wanted: Box::pin(async move {
                tokio::select! {
                    () = wanted.notified() => {}
                    () = patience => {}
                }
            }),
        }
    }
}

/// A request's body.
pub(crate) struct RequestBody<R: Recorder> {
    /// None once it is dropped.
    inner: Option<Received>,
    account: Arc<Account<R>>,
    go_ahead: Option<GoAhead>,
    /// For how long the rest is read if the upstream takes no more of it; HTTP/2 alone.
    linger: Option<Duration>,
    /// What may end it before its end; none where there is no content.
    sending: Option<(Growth, Revoked)>,
    /// What was read, and waits to be told that it may leave.
    held: Option<Frame<Bytes>>,
    /// Whether it was ended before its end.
    cut: bool,
}

impl<R: Recorder> RequestBody<R> {
    pub(crate) fn new(
        inner: Received,
        account: Arc<Account<R>>,
        sending: Option<(Growth, Revoked)>,
        go_ahead: Option<GoAhead>,
        linger: Option<Duration>,
    ) -> Self {
        Self {
            inner: Some(inner),
            account,
            go_ahead,
            linger,
            sending,
            held: None,
            cut: false,
        }
    }

    /// What may end it before its end, if something may.
    pub(crate) fn denial(&self) -> Option<Denial<R>> {
        let (_, revoked) = self.sending.as_ref()?;
        Some(Denial {
            revoked: revoked.clone(),
            account: Arc::clone(&self.account),
        })
    }

    /// Whether a frame may leave, and end the body, if it is the last one: behind it nobody asks.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        frame: &Frame<Bytes>,
        last: bool,
    ) -> Poll<Result<(), BodyFailed>> {
        if let Some((growth, _)) = &mut self.sending {
            let passed = match frame.trailers_ref() {
                Some(trailers) => growth.poll_pass_trailers(cx, trailers),
                None => growth.poll_pass(cx, frame.data_ref().map_or(&[], Bytes::as_ref)),
            };
            if ready!(passed).is_err() {
                return Poll::Ready(Err(self.cut()));
            }
        }
        if last {
            self.poll_end(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyFailed>> {
        if let Some((growth, _)) = &mut self.sending
            && ready!(growth.poll_end(cx)).is_err()
        {
            return Poll::Ready(Err(self.cut()));
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the policy has not come to deny the request. Asked also where nobody reads the answer any
    /// more, or it is over.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyFailed>> {
        if self.cut {
            return Poll::Ready(Err(BodyFailed::Revoked));
        }
        let Some((_, denial)) = &mut self.sending else {
            return Poll::Ready(Ok(()));
        };
        let allowed = ready!(denial.poll(cx));
        Poll::Ready(allowed.map_err(|denied| {
            self.account.fail(revoked(&denied));
            self.cut = true;
            BodyFailed::Revoked
        }))
    }

    /// The end of a body that grew too large.
    fn cut(&mut self) -> BodyFailed {
        self.cut = true;
        let denied = self.sending.as_ref().map(|(growth, _)| growth.denied());
        if let Some(denied) = denied.as_ref().and_then(|denied| denied.get()) {
            self.account.fail(revoked(denied));
        }
        BodyFailed::Revoked
    }
}

impl<R: Recorder> Drop for RequestBody<R> {
    fn drop(&mut self) {
        if let (Some(inner), Some(linger)) = (self.inner.take(), self.linger)
            && !inner.is_end_stream()
        {
            fair::spawn(discard(inner.unpaced(), linger));
        }
    }
}

/// Reads a body that nobody takes any more and drops it, within the time-out and [`MAX_LINGER`].
///
/// A body that is dropped unread ends the stream with RST_STREAM behind the answer (RFC 9113, 8.1).
/// Clients such as httpx take no notice, and wait in vain for room to send the rest before they look
/// at the answer. (HTTP/1 reads on when the connection ends.)
pub(crate) async fn discard(mut body: Received, linger: Duration) {
    let read = async {
        let mut left = MAX_LINGER;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    if timeout(linger, read).await.is_err() {
        tracing::debug!("the client still sends a body that nobody takes");
    }
}

impl<R: Recorder> Body for RequestBody<R> {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        ready!(this.poll_allowed(cx))?;
        if let Some(go_ahead) = &mut this.go_ahead {
            // Polling the client's body makes hyper tell the client to go ahead.
            ready!(go_ahead.wanted.as_mut().poll(cx));
            this.go_ahead = None;
        }
        if this.held.is_none()
            && let Some((growth, _)) = &mut this.sending
            && ready!(growth.poll_stand(cx)).is_err()
        {
            return Poll::Ready(Some(Err(this.cut())));
        }
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let mut frame = match this.held.take() {
            Some(frame) => frame,
            None => match {
                let polled = Pin::new(&mut *inner).poll_frame(cx);
                this.account.waits(polled.is_pending());
                ready!(polled)
            } {
                Some(frame) => frame.inspect_err(|_| this.account.decided().says_nothing())?,
                None => {
                    let ended = ready!(this.poll_end(cx));
                    return Poll::Ready(ended.err().map(Err));
                }
            },
        };
        let last = inner.is_end_stream() || frame.is_trailers();
        if let Some(trailers) = frame.trailers_mut() {
            this.account.strip_trailers(trailers);
        }
        match this.poll_pass(cx, &frame, last) {
            Poll::Pending => {
                this.held = Some(frame);
                return Poll::Pending;
            }
            Poll::Ready(passed) => passed?,
        }
        if let Some(data) = frame.data_ref() {
            let length = data.len() as u64;
            this.account.sent.fetch_add(length, Ordering::Relaxed);
            this.account.passes(|it| it.sent.push(data));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.as_ref().map(Body::size_hint).unwrap_or_default();
        let held = self.held.as_ref().and_then(Frame::data_ref);
        add(&mut hint, held.map_or(0, Bytes::len));
        hint
    }
}

/// Counts bytes that are held beside a body.
pub(crate) fn add(hint: &mut SizeHint, held: usize) {
    let held = held as u64;
    if let Some(upper) = hint.upper() {
        hint.set_upper(upper.saturating_add(held));
    }
    hint.set_lower(hint.lower().saturating_add(held));
}

/// Why there is no more of a body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFailed {
    /// Who sends it broke off.
    #[error(transparent)]
    Http1(hyper::Error),
    #[error(transparent)]
    Http2(h2::Error),
    /// The policy does not allow the request any more.
    #[error("the policy does not allow the rest")]
    Revoked,
    /// It has to be understood, and cannot be.
    #[error(transparent)]
    Undecodable(Undecodable),
    /// It may list tools that are not what they were.
    #[error("{0}")]
    NotCompared(String),
}

/// A response's body. It breaks off where the policy comes to deny the request.
pub(crate) struct ResponseBody<R: Recorder> {
    inner: Received,
    account: Arc<Account<R>>,
    revoked: Revoked,
    /// Reads it, where somebody wants to know what is in it.
    reading: Option<Reading>,
    /// What has come and is being read, and how much of it was.
    in_hand: Option<(Bytes, usize)>,
    /// Where it is passed on event by event.
    checked: Option<Checked>,
    /// What stands behind an event that is asked about.
    trailers: Option<HeaderMap>,
    /// Whether its length was told before it.
    counted: bool,
    ended: bool,
    /// Whether the client was told in place of the rest why there is none.
    over: bool,
}

impl<R: Recorder> ResponseBody<R> {
    pub(crate) fn new(
        inner: Received,
        account: Arc<Account<R>>,
        revoked: Revoked,
        reading: Option<Reading>,
    ) -> Self {
        let ended = inner.is_end_stream();
        let mut counted = inner.size_hint().exact().is_some();
        counted &= !reading.as_ref().is_some_and(Reading::is_list);
        if reading.as_ref().is_some_and(Reading::counts) {
            // None have come yet, and the outcome says so.
            account.messages();
        }
        Self {
            inner,
            account,
            revoked,
            reading,
            in_hand: None,
            checked: None,
            trailers: None,
            counted,
            ended,
            over: false,
        }
    }

    /// The same, each event of which is passed on once its tools were asked about.
    pub(crate) fn checked(mut self, checks: Checks) -> Self {
        self.counted &= !checks.may_cut();
        self.checked = Some(Checked::new(checks));
        self
    }

    /// The same, without the event that tells of usage alone.
    pub(crate) fn without_usage(mut self) -> Self {
        self.counted = false;
        self.checked = self.checked.take().map(Checked::without_usage);
        self
    }

    /// What may end it before its end.
    pub(crate) fn denial(&self) -> Denial<R> {
        Denial {
            revoked: self.revoked.clone(),
            account: Arc::clone(&self.account),
        }
    }

    /// What may end it before its end, for who waits beside it.
    pub(crate) fn watch(&self) -> Watch<R> {
        self.account.watch(self.revoked.clone())
    }

    /// Counts the bytes of a piece, and the events that end in it. `at`: how much of it was read before; the
    /// answer is how much is now.
    fn count(&mut self, data: &[u8], at: usize) -> Result<usize, BodyFailed> {
        let rest = data.get(at..).unwrap_or_default();
        let mut read = rest;
        if let Some(reading) = &mut self.reading {
            read = rest.get(..reading.at_once(rest.len())).unwrap_or(rest);
            let count = reading.push(read).map_err(BodyFailed::Undecodable)?;
            if reading.counts() {
                let messages = self.account.messages();
                messages.received.fetch_add(count, Ordering::Relaxed);
            }
        }
        let length = read.len() as u64;
        self.account.received.fetch_add(length, Ordering::Relaxed);
        self.account.passes(|it| it.received.push(read));
        Ok(at + read.len())
    }

    /// What the client is told in place of the rest; where that cannot be said, that it breaks off.
    fn last_words(&mut self, denied: &Decided) -> Result<Frame<Bytes>, BodyFailed> {
        // Nothing that its server does not count, and nothing behind half an event.
        let reading = self.reading.as_ref().filter(|_| !self.counted);
        let words = reading.and_then(|reading| {
            let gone = match &self.checked {
                // What has gone are whole events.
                Some(checked) => checked.gone(),
                None => reading.place().filter(|_| self.in_hand.is_none()),
            };
            reading.last_words(denied, gone?)
        });
        self.over = words.is_some();
        words.map(Frame::data).ok_or(BodyFailed::Revoked)
    }

    /// As [`Self::poll_frame`], event by event.
    fn poll_checked(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        loop {
            let (Some(checked), Some(reading)) = (&mut self.checked, &mut self.reading) else {
                return Poll::Ready(None);
            };
            let mut count = 0;
            let polled = checked.poll(cx, reading, &mut count);
            if reading.counts() {
                let messages = self.account.messages();
                messages.received.fetch_add(count, Ordering::Relaxed);
            }
            match ready!(polled) {
                Ok(None) => {}
                Ok(Some(data)) => {
                    let length = data.len() as u64;
                    self.account.received.fetch_add(length, Ordering::Relaxed);
                    self.account.passes(|it| it.received.push(&data));
                    if checked.size() == 0 && self.inner.is_end_stream() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(denied) => {
                    self.ended = true;
                    self.account.fail(revoked(&denied));
                    let words = self.last_words(&denied);
                    self.count_behind();
                    return Poll::Ready(Some(words));
                }
            }
            let frame = match self.trailers.take() {
                Some(trailers) => Some(Ok(Frame::trailers(trailers))),
                None => ready!(Pin::new(&mut self.inner).poll_frame(cx)),
            };
            let trailers = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        checked.take(data);
                        continue;
                    }
                    Err(frame) => frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    self.ended = true;
                    let message = format!("the upstream broke off its answer: {error}");
                    self.account.decided().broke();
                    self.account.fail(message);
                    return Poll::Ready(Some(Err(error)));
                }
                None => None,
            };
            if checked.size() > 0 {
                checked.end(reading);
                self.trailers = trailers;
                continue;
            }
            self.end();
            return Poll::Ready(trailers.map(|it| Ok(Frame::trailers(it))));
        }
    }

    /// Notes that the upstream has ended its answer.
    fn end(&mut self) {
        self.ended = true;
        let ended = self.reading.as_mut().map_or(Ok(()), Reading::finish);
        if let Err(error) = ended {
            self.account.fail(format!("the event stream: {error}"));
        }
        self.said();
    }

    /// Counts what its provider has written of it already, where it ends before its end and its tokens are counted.
    fn count_behind(&mut self) {
        let counts = |checked: &mut Checked| checked.checks().counts();
        let Some(checked) = self.checked.take_if(counts) else {
            return;
        };
        let Some(reading) = self.reading.take() else {
            return;
        };
        let nothing = UnsyncBoxBody::new(Empty::new().map_err(|never| match never {}));
        let inner = mem::replace(&mut self.inner, Received::Looked(nothing));
        let behind = Behind {
            inner: inner.unpaced(),
            account: Arc::clone(&self.account),
            checked,
            reading,
        };
        behind.count();
    }

    /// Notes what was said, up to here.
    fn said(&mut self) {
        if let Some(mut answer) = self.reading.take().and_then(Reading::answer) {
            if let Some(checked) = &self.checked {
                answer.without(checked.checks().cuts());
            }
            self.account.heard(answer);
        }
    }
}

impl<R: Recorder> Body for ResponseBody<R> {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        if !this.ended
            && let Err(denied) = ready!(this.revoked.poll(cx))
        {
            this.ended = true;
            this.account.fail(revoked(&denied));
            let words = this.last_words(&denied);
            this.count_behind();
            return Poll::Ready(Some(words));
        }
        if this.over {
            return Poll::Ready(None);
        }
        if this.checked.is_some() && !this.ended {
            return this.poll_checked(cx);
        }
        let (frame, at) = match this.in_hand.take() {
            Some((data, at)) => (Some(Ok(Frame::data(data))), at),
            None => (ready!(Pin::new(&mut this.inner).poll_frame(cx)), 0),
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    match this.count(data, at) {
                        Ok(at) if at < data.len() => {
                            this.in_hand = Some((data.clone(), at));
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        Ok(_) => {}
                        Err(failed) => {
                            this.ended = true;
                            let message = format!("the event stream is cut: {failed}");
                            this.account.fail(message);
                            return Poll::Ready(Some(Err(failed)));
                        }
                    }
                }
                if this.inner.is_end_stream() || frame.is_trailers() {
                    this.end();
                }
            }
            Some(Err(BodyFailed::NotCompared(why))) => {
                this.ended = true;
                this.account.fail(why.clone());
            }
            Some(Err(error)) => {
                this.ended = true;
                this.account.decided().broke();
                this.account
                    .fail(format!("the upstream broke off its answer: {error}"));
            }
            None if !this.ended => this.end(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let here = self.checked.as_ref().map_or(0, Checked::size);
        self.over || self.in_hand.is_none() && here == 0 && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.counted {
            return SizeHint::default();
        }
        let mut hint = self.inner.size_hint();
        let in_hand = self.in_hand.as_ref();
        add(&mut hint, in_hand.map_or(0, |(data, _)| data.len()));
        add(&mut hint, self.checked.as_ref().map_or(0, Checked::size));
        hint
    }
}

impl<R: Recorder> Drop for ResponseBody<R> {
    fn drop(&mut self) {
        if !self.ended {
            self.account.client_left();
            self.count_behind();
        }
        self.said();
    }
}
