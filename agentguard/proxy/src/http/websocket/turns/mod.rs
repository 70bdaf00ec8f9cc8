//! A WebSocket for calls: each message of the client that is a call is decided by itself.
//!
//! [`Calls`] holds the client's message until it was read, and lets it go or answers it with an error in its
//! place; the connection stays as it is. [`Answers`] reads the events that come back. Of `OpenAI`'s Responses these
//! are for the call that is under way: answers come one after the other, in the order of the calls. Of Realtime,
//! which is a session, see [`live`]. A call that the policy comes to deny ends the connection, behind an error that
//! its client understands.

mod answers;
mod calls;
mod live;
mod session;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use agentguard_decision::{Asked, Decided, Recorder};
use agentguard_model::{ActionKind, ClaimSource, Llm, LlmAnswer, LlmOperation, ReasonCode};
use agentguard_protocol::content::Beginning;
use agentguard_protocol::json::Reader;
use agentguard_protocol::llm::{AnswerReader, Endpoint, Progress};
use agentguard_protocol::refusal::Refusal;
use agentguard_protocol::websocket::text_frame;
use http::StatusCode;
use tokio::sync::Notify;

use crate::Port;
use crate::account::Account;
use crate::connection::Flow;
use crate::http::changed::{Content, MAX_KEPT, Made, edited, not_changed};
use crate::http::checks::{Checks, Goes};
use crate::http::growth::Judge as _;
use crate::http::held::Kept;
use crate::http::says::Answering;
use crate::http::websocket::Stopped;
use crate::revoked::Revoked;

pub(super) use answers::Answers;
pub(super) use calls::Calls;
use live::Live;

/// The most calls that are under way on one connection, and refusals that wait to be said. Servers take one at
/// a time; a client that goes beyond is cut off.
const MOST: usize = 16;

/// The calls on one connection.
pub(super) struct Turns<R: Recorder, P: Port> {
    flow: Arc<Flow<R, P>>,
    /// The request that opened the connection, and what was decided on it.
    handshake: Arc<Asked>,
    opened: Arc<Account<R>>,
    /// A call of which nothing but where it goes is known.
    unread: Llm,
    open: Mutex<VecDeque<Turn<R>>>,
    /// What is known of the session that it is, if it is one.
    live: Option<Mutex<Live<R>>>,
    /// How many calls there were.
    count: AtomicU64,
    /// The server has said something in the session.
    told: Notify,
    /// Frames for the client, to be said between the server's messages.
    refusals: Mutex<VecDeque<Vec<u8>>>,
    refused: Notify,
}

/// What becomes of a call.
enum Fate {
    /// It goes on, as it came.
    Goes,
    /// This goes in its place.
    Instead(String),
    /// It does not, which its client is told.
    Refused,
}

/// A call that may go on.
struct Allowed<R: Recorder> {
    account: Arc<Account<R>>,
    revoked: Revoked,
    checks: Arc<tokio::sync::Mutex<Checks>>,
    /// What goes in its place, if rules change it.
    instead: Option<String>,
}

/// A call that is under way.
struct Turn<R: Recorder> {
    account: Arc<Account<R>>,
    revoked: Revoked,
    answer: AnswerReader,
    checks: Arc<tokio::sync::Mutex<Checks>>,
    /// The tools whose calls were cut out of its answer.
    cut: Vec<String>,
    /// Whether its answer has begun.
    begun: bool,
}

impl<R: Recorder> Turn<R> {
    /// Nothing more comes of it.
    fn end(self, error: Option<&str>) {
        self.account.said(LlmAnswer {
            cut: self.cut,
            ..self.answer.finish()
        });
        if let Some(error) = error {
            self.account.fail(error);
        }
    }
}

impl<R: Recorder, P: Port> Turns<R, P> {
    pub(super) fn new(
        flow: Arc<Flow<R, P>>,
        handshake: Arc<Asked>,
        opened: Arc<Account<R>>,
        unread: Llm,
    ) -> Self {
        Self {
            flow,
            handshake,
            opened,
            open: Mutex::default(),
            live: (unread.operation == LlmOperation::Realtime)
                .then(|| Mutex::new(Live::new(unread.model.clone()))),
            unread,
            count: AtomicU64::new(0),
            told: Notify::new(),
            refusals: Mutex::default(),
            refused: Notify::new(),
        }
    }

    fn open(&self) -> MutexGuard<'_, VecDeque<Turn<R>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides a call, which is in a message of so many bytes. `text`: what it says, as far as that was kept.
    async fn decide(
        &self,
        llm: Llm,
        user: Option<String>,
        size: u64,
        text: Option<Kept>,
    ) -> Result<Fate, Stopped> {
        let full = || self.open().len() >= MOST;
        let allowed = match self.ask(llm, user, size, text, full).await? {
            Ok(allowed) => allowed,
            Err(denied) => return self.refuse(denied, None).map(|()| Fate::Refused),
        };
        self.one_more();
        self.open().push_back(Turn {
            account: allowed.account,
            revoked: allowed.revoked,
            answer: AnswerReader::new(Endpoint::Responses),
            checks: allowed.checks,
            cut: Vec::new(),
            begun: false,
        });
        Ok(allowed.instead.map_or(Fate::Goes, Fate::Instead))
    }

    /// As [`Self::decide`], to the verdict. `full`: there are too many under way.
    async fn ask(
        &self,
        llm: Llm,
        user: Option<String>,
        size: u64,
        text: Option<Kept>,
        full: impl Fn() -> bool,
    ) -> Result<Result<Allowed<R>, Decided>, Stopped> {
        let changes = self.flow.guard.decider.changes();
        let user = agentguard_model::Context {
            user,
            ..agentguard_model::Context::default()
        };
        let asked = self.handshake.turn(llm, size);
        let asked = Arc::new(asked.claiming(ClaimSource::Llm, user));
        let decided = self.flow.request(&asked).await;
        if !decided.allowed {
            return Ok(Err(decided));
        }
        let unmade = self.unmade(&decided);
        let mut said = Beginning::default();
        if decided.keeps.is_some() {
            let pieces = text.iter().flat_map(Kept::pieces);
            pieces.for_each(|piece| said.push(piece));
        }
        let changed = self.changed_text(&Made::of([&decided].into_iter()), text);
        let account = Arc::new(self.flow.account(decided));
        if unmade {
            let message = "what a rule changes in this call was not changed when its connection was opened: connect again";
            account.fail(message);
            let code = ReasonCode::NeedsInspection;
            let refused = self.flow.refuse(ActionKind::LlmCall, code, message).await;
            return Ok(Err(refused));
        }
        let instead = match changed {
            Ok(instead) => instead,
            Err(why) => {
                let message = not_changed(&why);
                account.fail(message.clone());
                let code = ReasonCode::NotChanged;
                let refused = self.flow.refuse(ActionKind::LlmCall, code, message).await;
                return Ok(Err(refused));
            }
        };
        if full() {
            let message = "too many calls are under way on one connection";
            account.fail(message);
            let code = ReasonCode::LimitReached;
            let refused = self.flow.refuse(ActionKind::LlmCall, code, message).await;
            return Err(Stopped::Denied(refused));
        }
        account.keep_in(|memory| self.flow.room(memory));
        if let Some(text) = &instead {
            said = Beginning::default();
            said.push(text.as_bytes());
        }
        account.passes(|it| it.sent = said);
        let sent = instead.as_ref().map_or(size, |text| text.len() as u64);
        account.sent.fetch_add(sent, Ordering::Relaxed);
        // Out of what is said in a session nothing is cut.
        let responses = Answering::Llm(Endpoint::Responses);
        let answering = self.live.is_none().then_some(responses);
        let checks = self.flow.checks(Arc::clone(&asked), answering);
        let revoked = self.flow.request_revoked(changes, asked);
        Ok(Ok(Allowed {
            account,
            revoked,
            checks: Arc::new(tokio::sync::Mutex::new(checks)),
            instead,
        }))
    }

    /// What a message says as rules change it; none where they do not.
    fn changed_text(&self, made: &Made<'_>, text: Option<Kept>) -> Result<Option<String>, String> {
        if made.any() && self.live.is_some() {
            return Err("events of a session in real time are not changed".to_owned());
        }
        changed_text(made, text)
    }

    /// There is one more call that may come to be denied.
    fn one_more(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether fields are to be changed for a call as they were not for its connection: they are sent once, with that.
    fn unmade(&self, decided: &Decided) -> bool {
        let made = &self.opened.decided().changes;
        let mut changes = decided.changes.iter().filter(|it| it.changes_fields());
        changes.any(|it| !made.iter().any(|made| made.has_fields_of(it)))
    }

    /// Says to the client that a call of its is refused, which came in an event of this id.
    fn refuse(&self, decided: Decided, event: Option<&str>) -> Result<(), Stopped> {
        let frame = self.refusal(&decided, event);
        let mut refusals = self.refusals();
        if refusals.len() >= MOST {
            return Err(Stopped::Denied(decided));
        }
        refusals.push_back(frame);
        self.refused.notify_one();
        Ok(())
    }

    /// A refusal as the client reads it.
    pub(super) fn refusal(&self, decided: &Decided, event: Option<&str>) -> Vec<u8> {
        let refusal = Refusal {
            status: StatusCode::FORBIDDEN,
            reason: &decided.reason,
            decision: decided.id,
        };
        text_frame(&match self.live {
            Some(_) => refusal.session_event(event),
            None => refusal.turn_event(),
        })
    }

    /// A piece of an event.
    fn hear(&self, bytes: &[u8]) {
        if let Some(mut live) = self.live() {
            live.hear(bytes);
            return;
        }
        if let Some(turn) = self.open().front_mut() {
            turn.answer.data(bytes);
            let received = &turn.account.received;
            received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            turn.account.passes(|it| it.received.push(bytes));
        }
    }

    /// Whether events are to be passed on once they were read.
    fn holds_events(&self) -> bool {
        let any = self.live.is_some() || !self.open().is_empty();
        any && self.flow.guard.decider.looks_at_tool_calls()
    }

    /// Asks about the tools that the answer asks for, an event of which is over, or has come to be too long (`event` is
    /// none then). Gives the events that go on in its place.
    async fn check(&self, event: Option<&[u8]>) -> Result<Option<Vec<String>>, Stopped> {
        let unread = event.is_none();
        let asked = match self.live() {
            Some(live) => self.asks(&live, unread),
            None => self.open().front().map(|turn| {
                let asks = turn.answer.asks().ok().filter(|_| !unread);
                (Arc::clone(&turn.checks), asks)
            }),
        };
        let Some((checks, asks)) = asked else {
            return Ok(None);
        };
        let mut checks = checks.lock().await;
        let event = event.unwrap_or_default();
        let goes = match checks.check(asks).await {
            Ok(()) => checks.write(|cutter| cutter.message(event)).await,
            Err(denied) => Err(denied),
        };
        if let Some(turn) = self.open().front_mut() {
            turn.cut = checks.cuts().map(str::to_owned).collect();
        }
        match goes.map_err(Stopped::Denied)? {
            Goes::AsItCame => Ok(None),
            Goes::Instead(events) => Ok(Some(events)),
        }
    }

    /// An event is over.
    fn event_ends(&self) {
        if let Some(mut live) = self.live() {
            live.event_ends();
            return;
        }
        if let Some(turn) = self.open().front_mut() {
            turn.answer.event_ends(&[]);
        }
    }

    /// It was passed on.
    fn heard(&self) {
        if let Some(mut live) = self.live() {
            live.heard();
            return;
        }
        let mut open = self.open();
        let others = open.len() > 1;
        let Some(turn) = open.front_mut() else {
            return;
        };
        let ended = match turn.answer.progress() {
            Progress::Within => None,
            Progress::Over => Some(None),
            // The server has begun with the next one.
            Progress::Begun if turn.begun && others => Some(Some("its answer was not ended")),
            Progress::Begun => {
                turn.begun = true;
                None
            }
        };
        if let Some(error) = ended
            && let Some(turn) = open.pop_front()
        {
            turn.end(error);
            if let (Some(_), Some(next)) = (error, open.front_mut()) {
                next.begun = true;
            }
        }
    }

    /// Goes on until it ends, or a call that is under way is denied.
    pub(super) async fn unless_denied<T>(
        &self,
        mut going: Pin<&mut (impl Future<Output = T> + Send)>,
    ) -> Result<T, Decided> {
        poll_fn(|cx| {
            loop {
                let count = self.count.load(Ordering::Relaxed);
                if let Err(denied) = ready!(self.poll_denied(cx)) {
                    return Poll::Ready(Err(denied));
                }
                if let Poll::Ready(over) = going.as_mut().poll(cx) {
                    return Poll::Ready(Ok(over));
                }
                // Those that came meanwhile wake nobody until they are asked.
                if self.count.load(Ordering::Relaxed) == count {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Whether all that is under way may go on; pending while a denial is recorded.
    fn poll_denied(&self, cx: &mut Context<'_>) -> Poll<Result<(), Decided>> {
        for turn in &mut *self.open() {
            ready!(turn.revoked.poll(cx))?;
        }
        if let Some(mut live) = self.live() {
            for revoked in live.revoked() {
                ready!(revoked.poll(cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The connection is over, and nothing was denied.
    pub(super) fn close(&self) {
        let error = "the connection was over before the answer was";
        match self.live() {
            Some(mut live) => live.close(error),
            None => {
                self.end(error);
            }
        }
    }

    /// The connection is over. True: calls were under way.
    pub(super) fn end(&self, error: &str) -> bool {
        if let Some(mut live) = self.live() {
            return live.end(error);
        }
        let open = std::mem::take(&mut *self.open());
        let any = !open.is_empty();
        for turn in open {
            turn.end(Some(error));
        }
        any
    }
}

/// What a message says as rules change it; none where they do not.
fn changed_text(made: &Made<'_>, text: Option<Kept>) -> Result<Option<String>, String> {
    if !made.any() {
        return Ok(None);
    }
    let mut text = text.ok_or("the rule came while it was being read")?;
    let mut reader = Reader::new(MAX_KEPT);
    while let Some(piece) = text.pop() {
        reader.push(&piece).map_err(|why| why.to_string())?;
    }
    let document = reader.finish().map_err(|why| why.to_string())?;
    edited(Some(document), &Content::Call(Endpoint::Responses), made)
}
