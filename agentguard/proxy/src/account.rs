//! What became of an allowed action.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::{iter, mem};

use agentguard_decision::{Asked, Decided, Decider, Recorder, Used};
use agentguard_model::contents::{Contents, MAX_KEPT};
use agentguard_model::{BudgetLine, Bytes, LlmAnswer, Messages, Outcome, ToolAnswer, ToolResult};
use agentguard_protocol::content::Beginning;
use agentguard_protocol::mcp::MAX_TOLD;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::decoders::Decoding;
use crate::http::Said;
use crate::relay::{self, Counts};
use crate::revoked::Revoked;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Counts what is moved under one decision and tells the outcome when it is dropped: however a
/// connection ends, its decision gets its outcome, once.
pub(crate) struct Account<R: Recorder> {
    decider: Arc<Decider<R>>,
    decided: Decided,
    /// Payload bytes to the upstream.
    pub(crate) sent: AtomicU64,
    /// Payload bytes to the client.
    pub(crate) received: AtomicU64,
    /// None where nobody reads messages.
    messages: OnceLock<Counted>,
    status: AtomicU16,
    /// What came of a call of a language model, as far as it was read.
    llm: OnceLock<LlmAnswer>,
    /// What came of messages to a server of tools, as far as it was read.
    tool: OnceLock<ToolAnswer>,
    /// The tools that were left out of an answer.
    left_out: Mutex<Vec<String>>,
    /// What is kept of what passes; none where nothing is.
    keeping: OnceLock<Mutex<Keeping>>,
    /// Of the other messages of a batch, each with its id: what comes of them is told here.
    beside: OnceLock<Vec<(Option<String>, Account<R>)>>,
    error: Mutex<Option<String>>,
    /// What may end it, for who waits beside the bodies that are accounted for here; gone with them.
    watched: Mutex<Option<Revoked>>,
    /// Whether its answer was read to its end, though its client did not get it.
    whole: AtomicBool,
    /// Whether all that went wrong is that its client went away.
    left: AtomicBool,
    /// Whether more of its content is waited for, which its client has not sent.
    waits: AtomicBool,
    /// Whether its request was made to ask for its usage, which its client did not.
    asks_usage: AtomicBool,
}

/// What may end an answer before its end, for who waits beside it. It keeps none of the request's fields: an idle
/// connection is not to.
pub(crate) struct Watch<R: Recorder>(Weak<Account<R>>);

impl<R: Recorder> Watch<R> {
    /// Whether the policy has come to deny it; pending where it has not or all of it is over. Not to be asked again once it
    /// was.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(account) = self.0.upgrade() else {
            return Poll::Pending;
        };
        let mut watched = account
            .watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match watched.as_mut().map(|revoked| revoked.poll(cx)) {
            Some(Poll::Ready(Err(denied))) => {
                account.fail(relay::revoked(&denied));
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

/// The beginnings of what passes.
pub(crate) struct Keeping {
    pub(crate) sent: Beginning,
    pub(crate) received: Beginning,
    /// What they take.
    _room: Decoding,
}

impl Keeping {
    fn new(room: Decoding) -> Self {
        Self {
            sent: Beginning::default(),
            received: Beginning::default(),
            _room: room,
        }
    }
}

/// Messages in both directions.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// To the upstream.
    pub(crate) sent: AtomicU64,
    /// To the client.
    pub(crate) received: AtomicU64,
}

impl<R: Recorder> Account<R> {
    /// Has somebody wait for a denial beside the bodies, for as long as one of them is there.
    pub(crate) fn watch(self: &Arc<Self>, revoked: Revoked) -> Watch<R> {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(revoked);
        Watch(Arc::downgrade(self))
    }

    pub(crate) fn new(decider: Arc<Decider<R>>, decided: Decided) -> Self {
        if let Some(held) = decided.held() {
            held.leaves();
        }
        Self {
            decider,
            decided,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            messages: OnceLock::new(),
            status: AtomicU16::new(0),
            llm: OnceLock::new(),
            tool: OnceLock::new(),
            left_out: Mutex::default(),
            keeping: OnceLock::new(),
            beside: OnceLock::new(),
            error: Mutex::new(None),
            watched: Mutex::default(),
            whole: AtomicBool::new(false),
            left: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            asks_usage: AtomicBool::new(false),
        }
    }

    /// What was decided on it, and on each of the messages that it stands for.
    fn all_decided(&self) -> impl Iterator<Item = &Decided> {
        let beside = self.beside.get().into_iter().flatten();
        iter::once(&self.decided).chain(beside.map(|(_, other)| &other.decided))
    }

    /// Changes the fields of the request, as was decided on each of its messages.
    pub(crate) fn change(&self, fields: &mut HeaderMap) {
        let changes = self.all_decided().flat_map(|it| &it.changes);
        changes.for_each(|changes| changes.apply(fields));
    }

    /// Keeps contents from now on, where those of this decision, or of one that it stands for, are to be kept, and there
    /// is room for them.
    pub(crate) fn keep_in(&self, room: impl FnOnce(usize) -> Option<Decoding>) {
        if !self.all_decided().any(|it| it.keeps().is_some()) {
            return;
        }
        if let Some(room) = room(2 * MAX_KEPT) {
            let _ = self.keeping.set(Mutex::new(Keeping::new(room)));
        }
    }

    /// Whether what passes is kept.
    pub(crate) fn keeps(&self) -> bool {
        self.keeping.get().is_some()
    }

    /// Notes what passes, where it is kept.
    pub(crate) fn passes(&self, note: impl FnOnce(&mut Keeping)) {
        if let Some(keeping) = self.keeping.get() {
            note(&mut keeping.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn decided(&self) -> &Decided {
        &self.decided
    }

    /// Where messages are counted. From the first call on, the outcome says how many there were.
    pub(crate) fn messages(&self) -> &Counted {
        self.messages.get_or_init(Counted::default)
    }

    /// Where a relay counts.
    pub(crate) fn counts(&self) -> Counts<'_> {
        Counts {
            sent: &self.sent,
            received: &self.received,
            held: self.decided.held().map(Arc::as_ref),
        }
    }

    /// The HTTP status that the agent gets.
    pub(crate) fn answered(&self, status: http::StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.status.load(Ordering::Relaxed) != 0
    }

    /// Takes out of a request's trailers what the policy speaks of: nobody looks at a field there, or changes
    /// it, and many servers take one from there as if it stood in the head (RFC 9110 §6.5.1 lets it be
    /// discarded).
    pub(crate) fn strip_trailers(&self, trailers: &mut HeaderMap) {
        let policy = self.decider.policies().current();
        let named: Vec<HeaderName> = trailers
            .keys()
            .filter(|name| {
                let mut changes = self.all_decided().flat_map(|it| &it.changes);
                policy.looks_at_field(name) || changes.any(|changes| changes.touches(name))
            })
            .cloned()
            .collect();
        for name in named {
            trailers.remove(name);
        }
    }

    /// What came of a call of a language model. The first to say it is who read the answer.
    pub(crate) fn said(&self, answer: LlmAnswer) {
        let _ = self.llm.set(answer);
    }

    /// What came of a call of a language model, to which nothing but this can be the answer.
    pub(crate) fn said_alone(&self, answer: LlmAnswer) {
        let begun = answer.model.is_some()
            || answer.usage.is_some()
            || answer.finish_reason.is_some()
            || !answer.tool_calls.is_empty()
            || answer.not_understood.is_some();
        let messages = self.messages.get();
        let first = messages.is_none_or(|it| it.received.load(Ordering::Relaxed) <= 1);
        if let (false, Some(word), Some(held)) = (begun, &answer.error, self.decided.held())
            && first
            && held.seen() == 0
        {
            held.refused_by(word);
        }
        self.said(answer);
    }

    /// What was read of an answer.
    pub(crate) fn heard(&self, said: Said) {
        match said {
            Said::Llm(answer) => self.said_alone(answer),
            Said::Tools(answer) => self.told(answer),
        }
    }

    /// What came of messages to a server of tools. The first to say it is who read the answer.
    pub(crate) fn told(&self, answer: ToolAnswer) {
        let _ = self.tool.set(answer);
    }

    /// The tools that were left out of an answer: the first [`MAX_TOLD`] of all that it says.
    pub(crate) fn leaves_out(&self, tools: Vec<String>) {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_TOLD.saturating_sub(left_out.len());
        left_out.extend(tools.into_iter().take(room));
    }

    /// The other messages of its batch, each with its id. They end as this one does.
    pub(crate) fn stands_for(&self, others: Vec<(Option<String>, Self)>) {
        let _ = self.beside.set(others);
    }

    /// Keeps what has passed, for each decision that it passed under.
    fn keep(&mut self) {
        let Some(keeping) = self.keeping.take() else {
            return;
        };
        let keeping = keeping.into_inner().unwrap_or_else(PoisonError::into_inner);
        let contents = Contents {
            request: keeping.sent.kept(),
            response: keeping.received.kept(),
        };
        for decided in self.all_decided() {
            self.decider.keep(decided, contents.clone());
        }
    }

    /// Has the other messages of its batch end as this one does: with the answer to each.
    fn end_beside(&mut self) {
        let others = self.beside.take().unwrap_or_default();
        let status = self.status.load(Ordering::Relaxed);
        let error = self.error.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (id, other) in others {
            other.status.store(status, Ordering::Relaxed);
            if let Some(error) = error {
                other.fail(error.clone());
            }
            if let Some(told) = self.tool.get_mut() {
                let is_its = |result: &ToolResult| id.is_some() && result.id == id;
                let (its, rest) = mem::take(&mut told.results).into_iter().partition(is_its);
                told.results = rest;
                other.told(ToolAnswer {
                    results: its,
                    not_understood: told.not_understood.clone(),
                    ..ToolAnswer::default()
                });
            }
        }
    }

    /// Nothing of it was sent, so that it has used nothing of its budgets.
    pub(crate) fn unsent(&self) {
        for held in self.all_decided().filter_map(Decided::held) {
            held.release();
        }
    }

    /// It is refused here, behind its decision, so that nothing of it is sent: it may come again.
    pub(crate) fn refused(&self) {
        self.all_decided().for_each(Decided::gives_back);
    }

    /// Its provider has answered with this status: whom it refuses it does not bill.
    pub(crate) fn refused_with(&self, status: http::StatusCode) {
        if let Some(held) = self.decided.held() {
            held.refused_with(status.as_u16());
        }
    }

    /// Has its answer say how much is left of budgets, where they have it told: `RateLimit` and `RateLimit-Policy`, beside
    /// what the upstream says there.
    pub(crate) fn tell(&self, fields: &mut HeaderMap) {
        for level in self
            .all_decided()
            .filter_map(Decided::held)
            .flat_map(|it| it.told())
        {
            let items = [
                (RATE_LIMIT, level.left()),
                (RATE_LIMIT_POLICY, level.policy()),
            ];
            for (name, item) in items {
                if let Ok(item) = HeaderValue::try_from(item) {
                    fields.append(name, item);
                }
            }
        }
    }

    /// Its answer was read to its end, though its client did not get it: what its provider reports is all that it was.
    pub(crate) fn is_whole(&self) {
        self.whole.store(true, Ordering::Release);
    }

    /// Its client went away before the end of its answer. All of it may have come by then: many clients close behind the
    /// last event, and wait for no end of the stream.
    pub(crate) fn client_left(&self) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_none() {
            *error = Some("the client went away before the end of the answer".to_owned());
            self.left.store(true, Ordering::Release);
        }
    }

    /// Whether more of its content is waited for, which its client has not sent.
    pub(crate) fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Release);
    }

    /// Whether its client is the one that is waited for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// Its request was made to ask for its usage, which its client did not.
    pub(crate) fn asks_usage(&self) {
        self.asks_usage.store(true, Ordering::Release);
    }

    /// Whether the usage in its answer is not for its client.
    pub(crate) fn hides_usage(&self) -> bool {
        self.asks_usage.load(Ordering::Acquire)
    }

    /// Its answer breaks off here: what is seen of it from now on goes nowhere.
    pub(crate) fn breaks(&self) {
        if let Some(held) = self.decided.held() {
            held.breaks();
        }
    }

    /// What its provider has written behind what went on is not looked at.
    pub(crate) fn unseen(&self) {
        if let Some(held) = self.decided.held() {
            held.unseen();
        }
    }

    /// What has come of it by now will not be looked at: the daemon ends.
    pub(crate) fn unread(&self) {
        if let Some(held) = self.decided.held() {
            held.unread();
        }
    }

    /// What is told as its answer may be that to this other call, of which nothing is known where there is none.
    pub(crate) fn may_be_for(&self, other: Option<&Asked>) {
        if let Some(held) = self.decided.held() {
            self.decider.may_be_for(held, other);
        }
    }

    /// What it has used of its budgets.
    fn settle(&mut self) -> Vec<BudgetLine> {
        let Some(held) = self.decided.held() else {
            return Vec::new();
        };
        let error = self.error.get_mut().unwrap_or_else(PoisonError::into_inner);
        let answer = self.llm.get();
        // What was reported before the end is not all.
        let ends = |it: &LlmAnswer| it.finish_reason.is_some() || held.limit() == 0;
        let whole = answer.filter(|it| it.error.is_none() && it.not_understood.is_none());
        let ended = error.is_none() || *self.whole.get_mut();
        // Of several answers one may be over, and the others go on.
        let left = *self.left.get_mut() && held.is_of_one_answer();
        // Some tell what was used so far with each event: what is far less than what was seen is not all. What is seen is
        // an estimate, mostly too high.
        let told = |it: &LlmAnswer| {
            let written = it.usage.as_ref().and_then(|it| it.output_tokens);
            it.finish_reason.is_some() && written.is_some_and(|it| it >= held.seen() / 2)
        };
        let whole = whole.filter(|it| ended && ends(it) || left && told(it));
        // What is far less than what its model's own tokenizer has counted is not what was written, whenever it was told.
        let whole = whole.filter(|it| it.usage.is_none_or(|it| held.may_be(&it)));
        let usage = answer.and_then(|it| it.usage.as_ref());
        let used = match (usage, whole) {
            (Some(usage), Some(_)) => Used::Reported(usage),
            (Some(usage), None) => Used::Broken(usage),
            (None, _) => Used::Unknown,
        };
        let mut lines = held.settle(used).to_vec();
        lines.extend(held.settle_passing());
        lines
    }

    /// What went wrong. The first thing that did is what counts.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.get_or_insert_with(|| plain(what.into()));
    }
}

/// An error as those read it who do not program with rustls. What that says of a stream that ends
/// without `close_notify` ends in a link to its manual; it is text wherever it comes from, since h2 keeps
/// no more of an error.
pub(crate) fn plain(mut error: String) -> String {
    if let Some(at) = error.find("peer closed connection without sending TLS close_notify") {
        error.truncate(at);
        error.push_str("it closed the connection without an end of TLS (close_notify)");
    }
    error
}

impl<R: Recorder> Drop for Account<R> {
    fn drop(&mut self) {
        self.keep();
        self.end_beside();
        let left_out = self
            .left_out
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let left_out = mem::take(left_out);
        if !left_out.is_empty() {
            let mut told = self.tool.take().unwrap_or_default();
            told.left_out = left_out;
            let _ = self.tool.set(told);
        }
        let budget = self.settle();
        let elapsed = self.decided.started.elapsed().as_millis();
        let status = self.status.load(Ordering::Relaxed);
        let outcome = Outcome {
            bytes: Bytes {
                sent: self.sent.load(Ordering::Relaxed),
                received: self.received.load(Ordering::Relaxed),
            },
            messages: self.messages.get().map(|messages| Messages {
                sent: messages.sent.load(Ordering::Relaxed),
                received: messages.received.load(Ordering::Relaxed),
            }),
            duration_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            status: (status != 0).then_some(status),
            llm: self.llm.take(),
            tool: self.tool.take().map(Box::new),
            budget,
            error: self
                .error
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        };
        self.decider.finished(&self.decided, outcome);
    }
}
