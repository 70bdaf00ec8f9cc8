//! The client's socket as hyper sees it: behind the gate, with a clock.
//!
//! hyper's server writes no informational response but 100. The others are written here, where hyper
//! says that all it has is written: it flushes the stream then, and no sooner (`Buffered::poll_flush`).
//! What it writes are whole messages until the answer to the request in hand begins, and that is not given
//! to it before the informational responses are written.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use agentguard_protocol::http1::{Gate, Position, Refused};
use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use crate::Limits;
use crate::connection::READ;

/// Why the stream of requests stopped before the client ended it.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The gate refused it.
    Refused(Refused),
    /// A head was begun and not finished in time.
    TimedOut,
}

/// What the socket's side and the requests' side tell each other.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    stop: OnceLock<Stop>,
    answer: AtomicU8,
    waker: AtomicWaker,
    interim: Interim,
    /// Whether the client asks for nothing for now, and has been told all.
    rests: AtomicBool,
}

/// An informational response on its way to the socket's side.
#[derive(Debug, Default)]
struct Interim {
    bytes: Mutex<Option<Bytes>>,
    put: AtomicWaker,
    written: Notify,
}

impl Interim {
    fn poll_take(&self, cx: &Context<'_>) -> Option<Bytes> {
        self.put.register(cx.waker());
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.take()
    }
}

const NO_ANSWER: u8 = 0;
const REMAINED: u8 = 1;
const UPGRADED: u8 = 2;

impl Signals {
    /// Why the stream stopped, if it did.
    pub(crate) fn stop(&self) -> Option<&Stop> {
        self.stop.get()
    }

    fn set_stop(&self, stop: impl FnOnce() -> Stop) {
        self.stop.get_or_init(stop);
    }

    /// Writes an informational response to the request in hand, which has no answer yet.
    pub(crate) async fn write_interim(&self, bytes: Bytes) {
        let Interim {
            bytes: place,
            put,
            written,
        } = &self.interim;
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        put.wake();
        written.notified().await;
    }

    /// Whether the connection may rest, in the task that has just polled it.
    pub(crate) fn rests(&self) -> bool {
        self.rests.load(Ordering::Relaxed)
    }

    fn answer(&self, answer: u8) {
        self.answer.store(answer, Ordering::Release);
        self.waker.wake();
    }

    fn poll_answer(&self, cx: &Context<'_>) -> Poll<bool> {
        self.waker.register(cx.waker());
        match self.answer.swap(NO_ANSWER, Ordering::AcqRel) {
            NO_ANSWER => Poll::Pending,
            answer => Poll::Ready(answer == UPGRADED),
        }
    }
}

/// The answer that the gate waits for after a request with `Upgrade`. Dropped, it says that the
/// connection goes on as HTTP.
#[derive(Debug)]
pub(crate) struct PendingAnswer {
    signals: Arc<Signals>,
    answer: u8,
}

impl PendingAnswer {
    /// For the request in progress, which must carry `Upgrade`: each gets one answer.
    pub(crate) fn new(signals: &Arc<Signals>) -> Self {
        Self {
            signals: Arc::clone(signals),
            answer: REMAINED,
        }
    }

    /// The server changes the protocol.
    pub(crate) fn upgraded(mut self) {
        self.answer = UPGRADED;
    }
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        self.signals.answer(self.answer);
    }
}

/// Which clock runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Clock {
    Off,
    Idle,
    /// Idle for so long that the connection may rest.
    Rest,
    Head,
}

/// A stream whose reading side passes the gate.
pub(crate) struct Gated<S> {
    stream: S,
    gate: Gate,
    signals: Arc<Signals>,
    clock: Clock,
    sleep: Pin<Box<Sleep>>,
    idle: Duration,
    rest: Duration,
    head: Duration,
    closed: bool,
    /// Whether anything was written and is not known to be on its way: hyper asks for a flush once it has given all that
    /// it had, and no sooner.
    unwritten: bool,
    /// What is left to write of an informational response.
    interim: Bytes,
}

impl<S> Gated<S> {
    /// `first` are the bytes that were read from `stream` already.
    pub(crate) fn new(stream: S, first: &[u8], signals: Arc<Signals>, limits: &Limits) -> Self {
        let mut gate = Gate::default();
        gate.push(first);
        Self {
            stream,
            gate,
            signals,
            clock: Clock::Off,
            sleep: Box::pin(sleep(limits.head)),
            idle: limits.keep_alive,
            rest: limits.rest.min(limits.keep_alive),
            head: limits.head,
            closed: false,
            unwritten: false,
            interim: Bytes::new(),
        }
    }

    /// The stream itself. Bytes that have not passed are dropped.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// Keeps no more than it has to while its client asks for nothing. `unread` has passed, and hyper has not used it.
    pub(crate) fn rests(&mut self, unread: &[u8]) {
        if self.gate.position() == Position::BetweenRequests {
            self.gate = Gate::default();
        }
        self.gate.passed().extend_from_slice(unread);
    }

    /// Sets the clock for where the gate stands, and tells whether its time is over.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let clock = match self.gate.position() {
            Position::BetweenRequests if self.clock == Clock::Rest => Clock::Rest,
            Position::BetweenRequests => Clock::Idle,
            Position::InHead => Clock::Head,
            _ => Clock::Off,
        };
        if clock != self.clock {
            self.set(clock);
        }
        if clock == Clock::Off {
            return Poll::Pending;
        }
        ready!(self.sleep.as_mut().poll(cx));
        if clock == Clock::Idle {
            self.set(Clock::Rest);
            return self.sleep.as_mut().poll(cx);
        }
        Poll::Ready(())
    }

    fn set(&mut self, clock: Clock) {
        self.clock = clock;
        let time = match clock {
            Clock::Off => return,
            Clock::Idle => self.rest,
            Clock::Rest => self.idle - self.rest,
            Clock::Head => self.head,
        };
        self.sleep.as_mut().reset(Instant::now() + time);
    }
}

impl<S: AsyncRead + Unpin> Gated<S> {
    /// Waits until something has passed, or nothing will any more.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.gate.passed().is_empty() || self.closed {
                return Poll::Ready(Ok(()));
            }
            match self.gate.position() {
                Position::Closed => {
                    if let Some(refused) = self.gate.refused() {
                        self.signals.set_stop(|| Stop::Refused(refused.clone()));
                    }
                    return Poll::Ready(Ok(()));
                }
                Position::AwaitsUpgrade => {
                    let upgraded = ready!(self.signals.poll_answer(cx));
                    self.gate.answered(upgraded);
                    continue;
                }
                _ => {}
            }
            if self.poll_clock(cx).is_ready() {
                self.closed = true;
                if self.clock == Clock::Head {
                    self.signals.set_stop(|| Stop::TimedOut);
                }
                continue;
            }
            // On the stack: each connection that waits would keep its own.
            let mut scratch = [MaybeUninit::uninit(); READ];
            let mut scratch = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch))?;
            match scratch.filled() {
                [] => self.gate.end(),
                bytes => self.gate.push(bytes),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let passed = this.poll_passed(cx);
        // hyper reads the next head once it has encoded its answer to the last request, whether that is written or not.
        let rests = passed.is_pending() && this.clock == Clock::Rest && !this.unwritten;
        this.signals.rests.store(rests, Ordering::Relaxed);
        ready!(passed)?;
        let passed = this.gate.passed();
        if !passed.is_empty() {
            let count = passed.len().min(buf.remaining());
            buf.put_slice(passed.get(..count).unwrap_or_default());
            passed.advance(count);
            // Whatever waited, waits no more: the next wait begins anew, however long this
            // request takes.
            this.clock = Clock::Off;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Gated<S> {
    /// Writes what was begun of an informational response.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(written);
            if self.interim.is_empty() {
                self.signals.interim.written.notify_one();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unwritten = true;
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_interim(cx))?;
            match this.signals.interim.poll_take(cx) {
                Some(bytes) => this.interim = bytes,
                None => break,
            }
            this.unwritten = true;
        }
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.unwritten &= !matches!(flushed, Poll::Ready(Ok(())));
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unwritten = true;
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{Instant, advance};

    use super::{Gated, Signals, Stop};
    use crate::Limits;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn gated() -> (DuplexStream, Gated<DuplexStream>, Arc<Signals>) {
        let limits = Limits {
            head: Duration::from_secs(5),
            keep_alive: Duration::from_secs(10),
            ..Limits::default()
        };
        let (client, side) = duplex(1024);
        let signals = Arc::new(Signals::default());
        let gated = Gated::new(side, GET.as_bytes(), Arc::clone(&signals), &limits);
        (client, gated, signals)
    }

    async fn read(gated: &mut Gated<DuplexStream>) -> (usize, Duration) {
        let begun = Instant::now();
        let count = gated.read(&mut [0; 1024]).await.unwrap();
        (count, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_does_not_use_up_the_idle_time() {
        let (mut client, mut gated, signals) = gated();
        assert_eq!(read(&mut gated).await.0, GET.len());
        let second = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(GET.as_bytes()).await.unwrap();
        };
        let ((count, _), ()) = tokio::join!(read(&mut gated), second);
        assert_eq!(count, GET.len());
        // The answer takes its time; hyper does not read meanwhile.
        advance(Duration::from_secs(3600)).await;
        assert_eq!(read(&mut gated).await, (0, Duration::from_secs(10)));
        assert!(signals.stop().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_does_not_gain_time() {
        let (mut client, mut gated, signals) = gated();
        read(&mut gated).await;
        let trickle = async {
            for byte in b"GET / HTTP" {
                client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (read, ()) = tokio::join!(read(&mut gated), trickle);
        assert_eq!(read, (0, Duration::from_secs(5)));
        assert!(matches!(signals.stop(), Some(Stop::TimedOut)));
    }
}
