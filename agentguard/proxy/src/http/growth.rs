//! Requests whose content grows: decided again at each size that a rule speaks of.
//!
//! What is announced was decided with the request. The rest is measured on its way, as it is sent or as it
//! decodes to, and nothing beyond a size leaves before it was asked about. Where no rule speaks of a
//! size, nothing is decoded.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use agentguard_decision::{Asked, Changes, Decided, Held, Recorder};
use agentguard_protocol::content::{Codings, Meter};
use http::HeaderMap;

use crate::Port;
use crate::connection::Flow;
use crate::decoders::Decoding;

/// Answers whether content may be larger.
pub(crate) trait Judge: Send + Sync {
    /// The size up to which nothing has to be asked.
    fn limit(&self, asked: &Asked) -> Option<u64>;

    /// Decides again. `unmeasured`: why the size is not known, so that it may be any.
    fn ask(self: Arc<Self>, asked: Arc<Asked>, unmeasured: Option<String>) -> Asking;

    /// Reserves more for a call that has written so many tokens. What it gives is a denial.
    fn written(self: Arc<Self>, asked: Arc<Asked>, held: Arc<Held>, tokens: u64) -> Asking;

    /// Notices changes of the policy from now on.
    fn changes(&self) -> Changes;

    /// Room for a decoder that takes so many bytes of memory, if there is any.
    fn room(&self, memory: usize) -> Option<Decoding>;
}

/// The answer of a [`Judge`], once it is there.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Option<Decided>> + Send>>;

impl<R: Recorder, P: Port> Judge for Flow<R, P> {
    fn limit(&self, asked: &Asked) -> Option<u64> {
        let decider = &self.guard.decider;
        decider.body_limit(&self.client, &self.target, &self.behind(), asked)
    }

    fn ask(self: Arc<Self>, asked: Arc<Asked>, unmeasured: Option<String>) -> Asking {
        Box::pin(async move {
            let (decider, behind) = (&self.guard.decider, self.behind());
            let (client, target) = (&self.client, &self.target);
            let why = unmeasured.as_deref();
            decider.grown(client, target, &behind, &asked, why).await
        })
    }

    fn written(self: Arc<Self>, asked: Arc<Asked>, held: Arc<Held>, tokens: u64) -> Asking {
        Box::pin(async move {
            let (client, target) = (&self.client, &self.target);
            let decider = &self.guard.decider;
            decider.written(client, target, &asked, &held, tokens).await
        })
    }

    fn changes(&self) -> Changes {
        self.guard.decider.changes()
    }

    fn room(&self, memory: usize) -> Option<Decoding> {
        self.guard.decoders.take(self.client.agent, memory)
    }
}

/// The content of one request, on its way.
pub(crate) struct Growth {
    judge: Arc<dyn Judge>,
    changes: Changes,
    asked: Arc<Asked>,
    limit: Option<u64>,
    codings: Result<Codings, String>,
    measure: Measure,
    /// How much of the frame in hand was measured.
    taken: usize,
    /// Whether the rest of it is to be measured after a pause.
    behind: bool,
    /// Whether the trailers were measured.
    trailers: bool,
    asking: Option<Asking>,
    denied: Denied,
}

/// The denial of a request whose content grew too large, for whoever answers the client.
pub(crate) type Denied = Arc<OnceLock<Decided>>;

/// What measuring came to.
enum Measured {
    /// All of it is within the limit.
    Within,
    /// There is more to do.
    Behind,
    /// It is over.
    Over,
}

enum Measure {
    /// No rule speaks of a size. What would decode it, or why nothing can; how much came so far.
    Idle(Result<Codings, String>, u64),
    Meter {
        meter: Meter,
        /// The room that its decoder takes.
        _room: Option<Decoding>,
    },
    /// The size is not known, and that was asked about.
    Unknown(String),
}

impl Growth {
    pub(crate) fn new(judge: Arc<dyn Judge>, asked: Arc<Asked>, fields: &HeaderMap) -> Self {
        let codings = Codings::read(fields).map_err(|why| why.to_string());
        let changes = judge.changes();
        Self {
            limit: judge.limit(&asked),
            judge,
            changes,
            asked,
            measure: Measure::Idle(codings.clone(), 0),
            codings,
            taken: 0,
            behind: false,
            trailers: false,
            asking: None,
            denied: Denied::default(),
        }
    }

    /// Where the denial will be, if there is one.
    pub(crate) fn denied(&self) -> Denied {
        Arc::clone(&self.denied)
    }

    /// Asks about content of which it is known from its head that it cannot be measured. Gives what
    /// was decided, if a rule speaks of a size.
    pub(crate) async fn ask_early(&mut self) -> Option<Decided> {
        self.limit?;
        let why = self.begin().err()?;
        self.measure = Measure::Unknown(why.clone());
        let judge = Arc::clone(&self.judge);
        judge.ask(Arc::clone(&self.asked), Some(why)).await
    }

    /// Whether the next bytes of content may leave.
    ///
    /// # Errors
    /// They may not: it is in [`Self::denied`], and recorded.
    pub(crate) fn poll_pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<(), ()>> {
        loop {
            ready!(self.poll_answer(cx))?;
            if self.behind {
                // What a few bytes unpack to can be long: others come first.
                self.behind = false;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.changes.came() {
                self.changes = self.judge.changes();
                self.limit = self.judge.limit(&self.asked);
                if let (Measure::Unknown(why), Some(_)) = (&self.measure, self.limit) {
                    self.ask(Some(why.clone()));
                    continue;
                }
                // Else it shows below what is not known of what has passed.
            }
            let rest = bytes.get(self.taken..).unwrap_or_default();
            match self.measure(rest) {
                Ok(Measured::Within) => {
                    self.taken = 0;
                    return Poll::Ready(Ok(()));
                }
                Ok(Measured::Behind) => self.behind = true,
                Ok(Measured::Over) => self.ask(None),
                Err(why) => self.lose_count(why),
            }
        }
    }

    /// Whether what has left may stand, where the rules have changed: asked also while nothing comes.
    ///
    /// # Errors
    /// As [`Self::poll_pass`].
    pub(crate) fn poll_stand(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        if self.asking.is_none() && !self.changes.came() {
            return Poll::Ready(Ok(()));
        }
        self.poll_pass(cx, &[])
    }

    /// Whether trailers may leave: they count as if they were sent in the clear.
    ///
    /// # Errors
    /// As [`Self::poll_pass`].
    pub(crate) fn poll_pass_trailers(
        &mut self,
        cx: &mut Context<'_>,
        trailers: &HeaderMap,
    ) -> Poll<Result<(), ()>> {
        if !std::mem::replace(&mut self.trailers, true) {
            let sizes = trailers.iter();
            let sizes = sizes.map(|(name, value)| (name.as_str().len() + value.len()) as u64);
            let size: u64 = sizes.sum();
            match &mut self.measure {
                Measure::Idle(_, sent) => *sent = sent.saturating_add(size),
                Measure::Meter { meter, .. } => meter.add(size),
                Measure::Unknown(_) => {}
            }
        }
        self.poll_pass(cx, &[])
    }

    /// Whether the content may end here: what ends in the middle was not understood.
    ///
    /// # Errors
    /// As [`Self::poll_pass`].
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        loop {
            ready!(self.poll_stand(cx))?;
            match &self.measure {
                Measure::Meter { meter, .. } => match meter.finish() {
                    Ok(()) => return Poll::Ready(Ok(())),
                    Err(why) => self.lose_count(why.to_string()),
                },
                Measure::Idle(..) | Measure::Unknown(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn lose_count(&mut self, why: String) {
        self.measure = Measure::Unknown(why.clone());
        self.ask(Some(why));
    }

    fn ask(&mut self, unmeasured: Option<String>) {
        let judge = Arc::clone(&self.judge);
        self.asking = Some(judge.ask(Arc::clone(&self.asked), unmeasured));
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let Some(asking) = &mut self.asking else {
            return Poll::Ready(Ok(()));
        };
        let answer = ready!(asking.as_mut().poll(cx));
        self.asking = None;
        match answer {
            Some(decided) if !decided.allowed => {
                // Nobody else sets it.
                let _ = self.denied.set(decided);
                Poll::Ready(Err(()))
            }
            _ => {
                self.limit = self.judge.limit(&self.asked);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Measures on.
    fn measure(&mut self, bytes: &[u8]) -> Result<Measured, String> {
        match self.limit {
            Some(_) => self.begin()?,
            None => self.rest(),
        }
        let limit = self.limit.unwrap_or(u64::MAX);
        let (size, behind) = match &mut self.measure {
            Measure::Idle(_, sent) => {
                *sent = sent.saturating_add(bytes.len() as u64);
                self.taken += bytes.len();
                (*sent, false)
            }
            Measure::Meter { meter, .. } => {
                let pushed = meter.push(bytes, limit).map_err(|why| why.to_string())?;
                self.taken += pushed.taken;
                (meter.size(), !pushed.done)
            }
            Measure::Unknown(_) => return Ok(Measured::Within),
        };
        self.asked.grew(size);
        Ok(if size > limit {
            Measured::Over
        } else if behind {
            Measured::Behind
        } else {
            Measured::Within
        })
    }

    /// Decodes no further: no rule wants to know any more.
    fn rest(&mut self) {
        if let Measure::Meter { meter, .. } = &self.measure {
            let sent = meter.size();
            self.measure = Measure::Idle(self.codings.clone(), sent);
        }
    }

    /// Begins to measure, if that is not done yet.
    fn begin(&mut self) -> Result<(), String> {
        let Measure::Idle(codings, sent) = &self.measure else {
            return Ok(());
        };
        let codings = codings.clone()?;
        if *sent > 0 && !codings.is_identity() {
            return Err("it was not looked into from its beginning".to_owned());
        }
        let room = if codings.is_identity() {
            None
        } else {
            let full = "too much content is being unpacked at once";
            Some(self.judge.room(codings.memory()).ok_or(full)?)
        };
        let mut meter = Meter::new(&codings).map_err(|why| why.to_string())?;
        meter.add(*sent);
        self.measure = Measure::Meter { meter, _room: room };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Wake};

    use agentguard_decision::{Asked, Changes};
    use agentguard_model::AgentId;
    use agentguard_protocol::content::{PIECE, WORK};
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::{HeaderMap, HeaderValue};

    use super::{Asking, Decoding, Growth, Judge};

    /// Has one limit, about which it is asked once, and allows what it is asked.
    struct Lenient(Mutex<Option<u64>>);

    impl Judge for Lenient {
        fn written(
            self: Arc<Self>,
            _: Arc<Asked>,
            _: Arc<agentguard_decision::Held>,
            _: u64,
        ) -> Asking {
            Box::pin(std::future::ready(None))
        }

        fn limit(&self, _: &Asked) -> Option<u64> {
            *self.0.lock().unwrap()
        }

        fn ask(self: Arc<Self>, _: Arc<Asked>, unmeasured: Option<String>) -> Asking {
            assert_eq!(unmeasured, None);
            self.0.lock().unwrap().take().unwrap();
            Box::pin(async { None })
        }

        fn changes(&self) -> Changes {
            crate::tests::no_changes()
        }

        fn room(&self, memory: usize) -> Option<Decoding> {
            Arc::<crate::decoders::Decoders>::default().take(AgentId(1), memory)
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const BOMB: usize = 64 << 20;

    /// Lets a bomb pass in one piece: how many pauses were made, and how much was looked at.
    fn pass(limit: u64) -> (usize, u64) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; BOMB]).unwrap();
        let bomb = encoder.finish().unwrap();
        let judge = Arc::new(Lenient(Mutex::new(Some(limit))));
        let asked = Arc::new(Asked::new("POST", "/", None, HeaderMap::new(), None));
        let coding = HeaderValue::from_static("gzip");
        let fields = HeaderMap::from_iter([(http::header::CONTENT_ENCODING, coding)]);
        let mut growth = Growth::new(judge, Arc::clone(&asked), &fields);
        let wakes = Arc::new(Wakes::default());
        let waker = Arc::clone(&wakes).into();
        let mut cx = Context::from_waker(&waker);
        let mut pauses = 0;
        loop {
            match growth.poll_pass(&mut cx, &bomb) {
                Poll::Ready(passed) => {
                    passed.unwrap();
                    return (pauses, asked.seen().body);
                }
                Poll::Pending => {
                    pauses += 1;
                    // Nobody else would come back to it.
                    assert_eq!(wakes.0.load(Ordering::Relaxed), pauses);
                }
            }
        }
    }

    #[test]
    fn a_bomb_is_measured_with_pauses_for_others() {
        let (pauses, size) = pass(u64::MAX - 1);
        assert_eq!(size, BOMB as u64);
        assert!(pauses >= BOMB / (WORK + PIECE), "{pauses}");
    }

    #[test]
    fn a_bomb_is_looked_into_no_further_than_a_rule_wants_to_know() {
        let (pauses, size) = pass(1000);
        assert_eq!(pauses, 0);
        // What it decodes to up to there; behind that it counts as it is sent.
        assert!(size > 1000 && size < BOMB as u64 / 100, "{size}");
    }
}
