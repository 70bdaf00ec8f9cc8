//! A WebSocket for calls: each message of the client that is a call is decided by itself.
//!
//! [`Calls`] holds the client's message until it was read, and lets it go or answers it with an error in its
//! place; the connection stays as it is. [`Answers`] reads the events that come back. For which call of `OpenAI`'s
//! Responses these are, see [`lanes`]; of Realtime, which is a session, see [`live`]. A call that the policy comes to
//! deny ends the connection, behind an error that its client understands.

mod answers;
mod calls;
mod counted;
mod lanes;
mod live;
mod session;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use agentguard_decision::{Asked, Changes, Decided, Recorder, Says};
use agentguard_model::{ActionKind, ClaimSource, Demand, Llm, LlmOperation, ReasonCode};
use agentguard_protocol::content::Beginning;
use agentguard_protocol::json::Reader;
use agentguard_protocol::llm::Endpoint;
use agentguard_protocol::refusal::Refusal;
use agentguard_protocol::websocket::text_frame;
use http::StatusCode;
use tokio::sync::Notify;

use crate::Port;
use crate::account::Account;
use crate::connection::Flow;
use crate::http::changed::{Content, MAX_KEPT, Made, edited};
use crate::http::checks::{Checks, Goes};
use crate::http::growth::Judge as _;
use crate::http::held::Kept;
use crate::http::said::Plain;
use crate::http::says::Answering;
use crate::http::websocket::Stopped;
use crate::relay::revoked;
use crate::revoked::Revoked;

pub(super) use answers::Answers;
pub(super) use calls::Calls;
use lanes::{Lanes, Turn};
use live::Live;

/// The most calls that are under way on one connection, and refusals that wait to be said. Servers take one at
/// a time in each lane; a client that goes beyond is cut off.
const MOST: usize = 16;

/// What went wrong with an answer that was under way at the end of its connection.
pub(super) const NOT_ENDED: &str = "the connection was over before the answer was";

/// The calls on one connection.
pub(super) struct Turns<R: Recorder, P: Port> {
    flow: Arc<Flow<R, P>>,
    /// The request that opened the connection, and what was decided on it.
    handshake: Arc<Asked>,
    opened: Arc<Account<R>>,
    /// A call of which nothing but where it goes is known.
    unread: Llm,
    lanes: Mutex<Lanes<R>>,
    /// What is known of the session that it is, if it is one.
    live: Option<Mutex<Live<R>>>,
    /// How many calls there were.
    count: AtomicU64,
    /// Whether the client has said its last.
    client_parted: AtomicBool,
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

/// A call, what it may cost, and the number of what it says where that is known.
type Called = (Llm, Demand, Option<u64>);

/// A call that may go on.
struct Allowed<R: Recorder> {
    asked: Arc<Asked>,
    account: Arc<Account<R>>,
    revoked: Revoked,
    checks: Arc<tokio::sync::Mutex<Checks>>,
    /// What goes in its place, if rules change it.
    instead: Option<String>,
}

/// What is asked about the tools that an answer asks for: about these, or nobody knows which.
type Asks = (Arc<tokio::sync::Mutex<Checks>>, Option<Vec<String>>);

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
            lanes: Mutex::default(),
            live: (unread.operation == LlmOperation::Realtime)
                .then(|| Mutex::new(Live::new(unread.model.clone()))),
            unread,
            count: AtomicU64::new(0),
            client_parted: AtomicBool::new(false),
            told: Notify::new(),
            refusals: Mutex::default(),
            refused: Notify::new(),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<R>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides a call, with the number of what it says where that is known, which is in a message of so many bytes. `text`:
    /// what it says, as far as that was kept.
    async fn decide(
        &self,
        called: Called,
        user: Option<String>,
        lane: Option<String>,
        size: u64,
        text: Option<Kept>,
    ) -> Result<Fate, Stopped> {
        let unread = called.0.not_understood.is_some();
        let full = || self.lanes().is_full();
        let asking = self.ask(called, user, size, text, full);
        let mut allowed = match asking.await? {
            Ok(allowed) => allowed,
            Err(denied) => {
                let frame = text_frame(&self.turn_refusal(&denied, lane.as_deref()));
                return self.say(denied, frame).map(|()| Fate::Refused);
            }
        };
        self.one_more();
        let instead = allowed.instead.take();
        self.lanes().call(Turn::new(allowed, lane), unread);
        Ok(instead.map_or(Fate::Goes, Fate::Instead))
    }

    /// As [`Self::decide`], to the verdict. `full`: there are too many under way.
    async fn ask(
        &self,
        (llm, demand, content): Called,
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
        let asked = self.handshake.turn(llm, size).demanding(demand);
        let asked = Arc::new(asked.saying(content).claiming(ClaimSource::Llm, user));
        // In a session more is read than is said in one event.
        let plain = text.as_ref().filter(|_| self.live.is_none()).map(Plain);
        let says = plain.as_ref().map(|it| it as &dyn Says);
        let decided = self.flow.request_saying(&asked, says).await;
        if !decided.allowed {
            return Ok(Err(decided));
        }
        let unmade = self.unmade(&decided);
        let mut said = Beginning::default();
        if decided.keeps().is_some() {
            let pieces = text.iter().flat_map(Kept::pieces);
            pieces.for_each(|piece| said.push(piece));
        }
        let provider = Some(self.unread.provider.as_str());
        let made = Made::of(provider, [&decided].into_iter());
        let made = made.going_to(self.flow.target.host.as_ref(), self.handshake.seen().path);
        let changed = self.changed_text(&made, text);
        let lowers = made.lowers();
        let changed = changed.map_err(|why| (made.impossible(&why), why));
        let account = Arc::new(self.flow.account(decided));
        if unmade {
            let message = "what a rule changes in this call was not changed when its connection was opened: connect again";
            account.refused();
            account.fail(message);
            let code = ReasonCode::NeedsInspection;
            let refused = self.flow.refuse(ActionKind::LlmCall, code, message).await;
            return Ok(Err(refused));
        }
        let instead = match changed {
            Ok(instead) => instead,
            Err(((code, message), why)) => {
                account.refused();
                account.fail(message.clone());
                if let (true, Some(held)) = (lowers, account.decided().held()) {
                    return Ok(Err(self.flow.not_lowered(&asked, held, &why).await));
                }
                let refused = self.flow.refuse(ActionKind::LlmCall, code, message).await;
                return Ok(Err(refused));
            }
        };
        if self.live.is_some()
            && let Some(denied) = self.too_little(&asked, &account).await
        {
            return Ok(Err(denied));
        }
        if full() {
            return Err(self.is_full(&account).await);
        }
        account.keep_in(|memory| self.flow.room(memory));
        if let Some(text) = &instead {
            said = Beginning::default();
            said.push(text.as_bytes());
        }
        account.passes(|it| it.sent = said);
        let sent = instead.as_ref().map_or(size, |text| text.len() as u64);
        account.sent.fetch_add(sent, Ordering::Relaxed);
        let allowed = self.goes_on(asked, account, changes);
        Ok(Ok(Allowed { instead, ..allowed }))
    }

    /// A call that may go on as it is.
    fn goes_on(&self, asked: Arc<Asked>, account: Arc<Account<R>>, changes: Changes) -> Allowed<R> {
        // Out of what is said in a session nothing is cut.
        let responses = Answering::Llm(Endpoint::Responses);
        let answering = self.live.is_none().then_some(responses);
        let checks = self.flow.checks(Arc::clone(&asked), answering);
        let held = account.decided().held();
        Allowed {
            revoked: self.flow.request_revoked(changes, Arc::clone(&asked), held),
            account,
            checks: Arc::new(tokio::sync::Mutex::new(checks)),
            asked,
            instead: None,
        }
    }

    /// Too many calls are under way for this one.
    async fn is_full(&self, account: &Account<R>) -> Stopped {
        let message = "too many calls are under way on one connection";
        account.refused();
        account.fail(message);
        let code = ReasonCode::LimitReached;
        Stopped::Denied(self.flow.refuse(ActionKind::LlmCall, code, message).await)
    }

    /// Decides a response that has begun without a call of the client's: as another call like this one, of which
    /// nothing is sent.
    async fn follow(&self, asked: Arc<Asked>) -> Result<(), Stopped> {
        let allowed = self.another(Arc::new(asked.followed())).await?;
        if self.lanes().is_full() {
            return Err(self.is_full(&allowed.account).await);
        }
        self.one_more();
        self.lanes().follow(allowed, |asked| self.checks_of(asked));
        Ok(())
    }

    /// Decides what the server goes on with by itself.
    async fn another(&self, asked: Arc<Asked>) -> Result<Allowed<R>, Stopped> {
        let changes = self.flow.guard.decider.changes();
        let decided = self.flow.request(&asked).await;
        if !decided.allowed {
            return Err(Stopped::Denied(decided));
        }
        let account = Arc::new(self.flow.account(decided));
        if self.live.is_some()
            && let Some(denied) = self.too_little(&asked, &account).await
        {
            return Err(Stopped::Denied(denied));
        }
        account.keep_in(|memory| self.flow.room(memory));
        Ok(self.goes_on(asked, account, changes))
    }

    /// Reserves all that a response in a session may write: what is said there is not counted as it comes. What it gives is
    /// a denial.
    async fn too_little(&self, asked: &Arc<Asked>, account: &Account<R>) -> Option<Decided> {
        let held = account.decided().held()?;
        let denied = match held.clamp() {
            Some(_) => {
                let why = "its server goes on by itself";
                self.flow.not_lowered(asked, held, why).await
            }
            None => self.flow.reserve_all(asked, held).await?,
        };
        account.unsent();
        account.fail(revoked(&denied));
        Some(denied)
    }

    /// The client says more for the answer that is under way.
    fn steer(&self) {
        self.lanes().steer();
    }

    /// The client says something about one that is.
    fn talk(&self) {
        self.lanes().talk();
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
        self.say(decided, frame)
    }

    /// Says it in this frame.
    fn say(&self, decided: Decided, frame: Vec<u8>) -> Result<(), Stopped> {
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
        text_frame(&match self.live {
            Some(_) => told(decided).session_event(event),
            None => self.turn_refusal(decided, None),
        })
    }

    /// The refusal of a call in this lane.
    fn turn_refusal(&self, decided: &Decided, lane: Option<&str>) -> Vec<u8> {
        told(decided).turn_event(lane)
    }

    /// A piece of an event.
    fn hear(&self, bytes: &[u8]) {
        if let Some(mut live) = self.live() {
            live.hear(bytes);
            return;
        }
        let keeps = self.flow.guard.decider.needs_contents();
        self.lanes().hear(bytes, keeps);
    }

    /// Whether events are to be passed on once they were read.
    fn holds_events(&self) -> bool {
        self.looks_at_tools() || self.counts()
    }

    /// Whether a rule looks at the tools that answers ask for.
    fn looks_at_tools(&self) -> bool {
        self.flow.guard.decider.looks_at_tool_calls()
    }

    /// Asks about the tools that the answer asks for, an event of which is over, or has come to be too long (`event` is
    /// none then). Gives the events that go on in its place.
    async fn check(&self, event: Option<&[u8]>) -> Result<Option<Vec<String>>, Stopped> {
        let unread = event.is_none();
        let all = match self.live() {
            Some(live) => self.asks(&live, unread).into_iter().collect(),
            None => {
                let known = self.lanes().asks(unread);
                known.unwrap_or_else(|| vec![(self.unknown(), None)])
            }
        };
        let event = event.unwrap_or_default();
        let mut instead = None;
        let mut cuts = None;
        for (checks, mut asks) in all {
            let mut checks = checks.lock().await;
            // What the first has cut out does not pass, whatever others say of it.
            let out = cuts.iter().flatten().collect::<Vec<&String>>();
            asks.iter_mut()
                .for_each(|asks| asks.retain(|tool| !out.contains(&tool)));
            let goes = match checks.check(asks).await {
                Ok(()) => checks.write(|cutter| cutter.message(event)).await,
                Err(denied) => Err(denied),
            };
            if cuts.is_none() {
                let tools: Vec<String> = checks.cuts().map(str::to_owned).collect();
                self.lanes().cut(tools.clone());
                cuts = Some(tools);
            }
            match goes.map_err(Stopped::Denied)? {
                Goes::AsItCame => {}
                Goes::Instead(events) => instead = Some(events),
            }
        }
        Ok(instead)
    }

    /// Asks about the answer to a call of which nothing is known.
    fn unknown(&self) -> Arc<tokio::sync::Mutex<Checks>> {
        Arc::new(tokio::sync::Mutex::new(self.checks_of(None)))
    }

    /// Asks about the answer to this call, or to one of which nothing is known. Nothing is cut out of it.
    fn checks_of(&self, asked: Option<Arc<Asked>>) -> Checks {
        let unknown = || Arc::new(self.handshake.turn(self.unread.clone(), 0));
        self.flow.checks(asked.unwrap_or_else(unknown), None)
    }

    /// An event is over. Where a response begins with it that nobody called for, that is decided.
    async fn event_ends(&self) -> Result<(), Stopped> {
        if let Some(mut live) = self.live() {
            live.event_ends();
            return Ok(());
        }
        let follows = self.lanes().event_ends(|asked| self.checks_of(asked));
        match follows {
            Some(asked) => self.follow(asked).await,
            None => Ok(()),
        }
    }

    /// It was passed on.
    fn heard(&self) {
        if let Some(mut live) = self.live() {
            live.heard();
            return;
        }
        self.lanes().heard();
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
        for revoked in self.lanes().revoked() {
            ready!(revoked.poll(cx))?;
        }
        if let Some(mut live) = self.live() {
            for revoked in live.revoked() {
                ready!(revoked.poll(cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The connection is over, for this reason: nothing more goes to the client. Whether something is counted that may come
    /// yet.
    pub(super) fn breaks(&self, error: &str) -> bool {
        self.live.is_none() && self.lanes().breaks(error)
    }

    /// The client says no more.
    fn client_parts(&self) {
        self.client_parted.store(true, Ordering::Release);
    }

    /// The server says no more. Where its client has not said so before, it has broken off what it has not come to the end
    /// of.
    fn server_parts(&self) {
        if self.client_parted.load(Ordering::Acquire) {
            return;
        }
        match self.live() {
            Some(live) => live.broke(),
            None => self.lanes().broke(),
        }
    }

    /// The connection is over, and nothing was denied.
    pub(super) fn close(&self) {
        match self.live() {
            Some(mut live) => live.close(NOT_ENDED),
            None => {
                self.end(NOT_ENDED);
            }
        }
    }

    /// The connection is over. True: calls were under way.
    pub(super) fn end(&self, error: &str) -> bool {
        if let Some(mut live) = self.live() {
            return live.end(error);
        }
        let mut lanes = self.lanes();
        if let Some(said) = lanes.strays() {
            // No call is known that these came of: what opened the connection stands for it.
            self.opened.said(said);
        }
        lanes.end(error)
    }
}

fn told(decided: &Decided) -> Refusal<'_> {
    Refusal {
        status: StatusCode::FORBIDDEN,
        reason: &decided.reason,
        decision: decided.id,
        spent: decided.spent(),
        retry_after: decided.retry_after(),
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
