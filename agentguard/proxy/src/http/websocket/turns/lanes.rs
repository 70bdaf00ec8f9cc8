//! Which call of `OpenAI`'s Responses an event of the server's is for.
//!
//! A call may name a lane, and the events of its answer name it then. In a lane answers come one after the other, in
//! the order of the calls. A server that has named none so far may know of none, and answers all calls in their order.
//!
//! Behind an answer the server may go on in another response, without a call of the client's (`response.steer`). It goes
//! on as the last call of its lane, of which it is another one. A client that calls meanwhile may be answered before
//! that or behind it: where it is not sure which call an answer is for, it has to be allowed for each that it may be for.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentguard_decision::{Asked, Decided, Held, Recorder};
use agentguard_model::LlmAnswer;
use agentguard_protocol::content::Beginning;
use agentguard_protocol::llm::{EventReader, NotUnderstood, Progress, TurnAnswer, TurnEvent};

use super::{Allowed, Asks, Checks, MOST};
use crate::account::Account;
use crate::http::metered::Meter;
use crate::relay::revoked as ended_by;
use crate::revoked::Revoked;

/// See the module.
pub(super) struct Lanes<R: Recorder> {
    /// Calls that are under way, in their order: [`MOST`]. One more ends the connection.
    open: VecDeque<Turn<R>>,
    /// The last ones that were answered: [`MOST`], without the oldest where there are more. What goes on in its lane is
    /// then a response that no call is known of.
    past: VecDeque<Past>,
    /// Whether the server has named a lane.
    echoes: bool,
    /// How many responses may have come, or may come yet, without a call: one for each `response.steer`. Where these are
    /// more than [`MOST`], an answer may be for a call that is not known any more.
    steers: usize,
    /// Whether something has passed that could not be read: it may be a call in any lane.
    unread: bool,
    /// Whether something has passed that is no call: an error may be about that.
    talked: bool,
    /// Whether there was a call whose tokens are counted.
    counts: bool,
    hearing: Hearing,
    /// Whose the last event is.
    whose: Whose,
    /// Whether it is the end of that.
    ends: bool,
    /// Whether it is of an answer that was cut before, and does not go on.
    drops: bool,
    /// The last event, where it begins a response without a call that is being decided.
    next: Option<(TurnEvent, Hearing)>,
    /// What came of responses that no call is known of.
    strays: Option<TurnAnswer>,
}

/// A call that is under way.
pub(super) struct Turn<R: Recorder> {
    account: Arc<Account<R>>,
    revoked: Revoked,
    asked: Arc<Asked>,
    checks: Arc<tokio::sync::Mutex<Checks>>,
    /// Of other calls that its answer may be for.
    also: Vec<Arc<tokio::sync::Mutex<Checks>>>,
    lane: Option<String>,
    /// The id of its response, where the server has told it.
    response: Option<String>,
    answer: TurnAnswer,
    /// The tools whose calls were cut out of its answer.
    cut: Vec<String>,
    /// Whether its answer has begun.
    begun: bool,
    /// Whether something of its answer has come.
    told: bool,
    /// Whether what came last can be about nothing but this call.
    alone: bool,
    /// Counts what is written, where a part of what it may write is reserved at a time.
    meter: Option<Meter>,
    /// Since when its answer does not go on.
    cut_off: Option<CutOff>,
}

/// An answer that its budgets have ended, and that its provider goes on with.
struct CutOff {
    /// What was decided; none where the connection is over.
    denied: Option<Decided>,
    /// How many tokens it had then.
    tokens: u64,
}

/// What is to be asked of budgets for a call that is under way.
pub(super) struct More {
    /// Its place.
    pub(super) at: usize,
    pub(super) asked: Arc<Asked>,
    pub(super) held: Arc<Held>,
    /// For how many tokens of all that it writes.
    pub(super) tokens: u64,
}

/// A call that was answered.
struct Past {
    asked: Arc<Asked>,
    lane: Option<String>,
}

/// An event of the server's that is being read.
#[derive(Default)]
struct Hearing {
    reader: EventReader,
    said: Beginning,
    size: u64,
    fault: Option<NotUnderstood>,
}

/// Whose an event is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Whose {
    /// That of the call at this place.
    Turn(usize),
    /// It cannot be read: that of any call.
    Any,
    /// That of a response that no call is known of, or of one that is being decided.
    Stray,
    /// It is of no answer.
    #[default]
    Nobody,
}

/// Where an event goes.
enum Route {
    /// To the call at this place.
    Turn(usize),
    /// To another one, which is made as this one was.
    Follows(Past),
    /// It is of a response that no call is known of.
    Stray,
    /// It is of no answer.
    Nowhere,
}

impl<R: Recorder> Turn<R> {
    pub(super) fn new(allowed: Allowed<R>, lane: Option<String>) -> Self {
        let meter = Meter::of(allowed.account.decided().held());
        Self {
            account: allowed.account,
            revoked: allowed.revoked,
            asked: allowed.asked,
            checks: allowed.checks,
            also: Vec::new(),
            lane,
            response: None,
            answer: TurnAnswer::default(),
            cut: Vec::new(),
            begun: false,
            told: false,
            alone: false,
            meter,
            cut_off: None,
        }
    }

    /// Notes what the last event says that the model has written.
    fn count(&mut self) {
        if let Some(meter) = &mut self.meter {
            self.answer.written(|written| meter.hear(written));
        }
    }

    /// Nothing more comes of it.
    fn end(self, error: Option<&str>) {
        let answer = LlmAnswer {
            cut: self.cut,
            ..self.answer.finish()
        };
        match self.alone && !self.begun && !self.told {
            true => self.account.said_alone(answer),
            false => self.account.said(answer),
        }
        if let Some(error) = error {
            self.account.fail(error);
        }
    }
}

/// What is dropped before its end, as where the daemon ends, is read by nobody.
impl<R: Recorder> Drop for Lanes<R> {
    fn drop(&mut self) {
        for turn in &self.open {
            turn.account.unread();
        }
    }
}

impl<R: Recorder> Default for Lanes<R> {
    fn default() -> Self {
        Self {
            open: VecDeque::new(),
            past: VecDeque::new(),
            echoes: false,
            steers: 0,
            unread: false,
            talked: false,
            counts: false,
            hearing: Hearing::default(),
            whose: Whose::Nobody,
            ends: false,
            drops: false,
            next: None,
            strays: None,
        }
    }
}

impl<R: Recorder> Lanes<R> {
    /// Whether no more calls may be under way.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= MOST
    }

    /// A call goes to the server. `unread`: nobody knows what it says.
    pub(super) fn call(&mut self, turn: Turn<R>, unread: bool) {
        self.unread |= unread;
        self.count(&turn);
        self.open.push_back(turn);
    }

    /// From now on what is written is heard, if this call's is counted. The event in hand, if there is one, is of none that
    /// was sent this moment.
    fn count(&mut self, turn: &Turn<R>) {
        if turn.meter.is_some() && !mem::replace(&mut self.counts, true) && self.hearing.size == 0 {
            self.hearing = Hearing::new(true);
        }
    }

    /// Something that is no call does.
    pub(super) const fn talk(&mut self) {
        self.talked = true;
    }

    /// A `response.steer` does.
    pub(super) const fn steer(&mut self) {
        self.talk();
        self.steers = self.steers.saturating_add(1);
    }

    /// A piece of an event. `keeps`: what it says may have to be kept.
    pub(super) fn hear(&mut self, bytes: &[u8], keeps: bool) {
        let hearing = &mut self.hearing;
        hearing.size = hearing.size.saturating_add(bytes.len() as u64);
        if keeps {
            hearing.said.push(bytes);
        }
        if hearing.fault.is_none() {
            hearing.fault = hearing.reader.push(bytes).err();
        }
    }

    /// An event is over. Gives the call that it begins another one of, which is to be decided: see [`Self::follow`].
    /// `checks`: what is asked about the answer to a call; without one, to a call of which nothing is known.
    pub(super) fn event_ends(
        &mut self,
        checks: impl Fn(Option<Arc<Asked>>) -> Checks,
    ) -> Option<Arc<Asked>> {
        let mut hearing = mem::replace(&mut self.hearing, Hearing::new(self.counts));
        let reader = mem::take(&mut hearing.reader);
        self.drops = false;
        let event = match hearing.fault.take() {
            Some(fault) => Err(fault),
            None => reader.finish(),
        };
        match event {
            Ok(None) => {}
            Err(why) => self.give_up(&why, &hearing),
            Ok(Some(event)) => match self.route(&event) {
                Route::Turn(at) => self.hand(at, event, &hearing, checks),
                Route::Follows(past) => {
                    self.whose = Whose::Stray;
                    self.next = Some((event, hearing));
                    return Some(past.asked);
                }
                Route::Stray => {
                    self.whose = Whose::Stray;
                    self.strays.get_or_insert_default().hear(event);
                }
                Route::Nowhere => {}
            },
        }
        None
    }

    /// What [`Self::event_ends`] gave may go on. It has begun, and so goes before what was called meanwhile.
    pub(super) fn follow(
        &mut self,
        allowed: Allowed<R>,
        checks: impl Fn(Option<Arc<Asked>>) -> Checks,
    ) {
        let Some((event, hearing)) = self.next.take() else {
            return;
        };
        let turn = Turn::new(allowed, event.lane.clone());
        self.count(&turn);
        self.open.push_front(turn);
        self.hand(0, event, &hearing, checks);
        self.steers = self.steers.saturating_sub(1);
    }

    /// An event that cannot be read may be that of any call.
    fn give_up(&mut self, why: &NotUnderstood, hearing: &Hearing) {
        self.whose = Whose::Any;
        for turn in &mut self.open {
            turn.answer.give_up(why.clone());
            if let Some(meter) = &mut turn.meter {
                meter.unread(hearing.size);
            }
        }
        self.drops = self.open.iter().any(|turn| turn.cut_off.is_some());
        if let Some(first) = self.open.front() {
            hearing.is_of(&first.account);
        }
    }

    /// Where an event goes. Calls whose answers were not ended are over where the next one begins.
    fn route(&mut self, event: &TurnEvent) -> Route {
        self.echoes |= event.lane.is_some();
        let loose = self.is_loose(event);
        let named = |turn: &Turn<R>| {
            let one = event.response.is_some() && turn.response == event.response;
            one && (event.lane.is_none() || turn.lane == event.lane)
        };
        if let Some(at) = self.open.iter().position(named) {
            return Route::Turn(at);
        }
        let in_lane = |turn: &Turn<R>| turn.lane == event.lane;
        let any = loose && !self.open.iter().any(in_lane);
        let queue = self.open.iter().enumerate();
        let mut queue = queue.filter(|(_, turn)| any || in_lane(turn));
        let Some((at, turn)) = queue.next() else {
            return self.behind(event, loose);
        };
        if event.progress != Progress::Begun || !turn.begun {
            return Route::Turn(at);
        }
        let another = event.response.is_some() && turn.response.is_some();
        let next = queue.next().map(|(next, _)| next);
        let error = Some("its answer was not ended");
        match next {
            Some(next) => {
                self.end_turn(at, error);
                // It has come up by one.
                Route::Turn(next.saturating_sub(1))
            }
            None if another => {
                self.end_turn(at, error);
                self.behind(event, loose)
            }
            // Of a server that tells no ids, the same answer may begin anew.
            None => Route::Turn(at),
        }
    }

    /// Where an event goes while no call is under way in its lane.
    fn behind(&mut self, event: &TurnEvent, loose: bool) -> Route {
        if !event.is_of_answer {
            return Route::Nowhere;
        }
        let mut past = self.past.iter();
        let at = past.rposition(|it| it.lane == event.lane);
        let last = self.past.len().checked_sub(1).filter(|_| loose);
        let past = at.or(last).and_then(|at| self.past.remove(at));
        past.map_or(Route::Stray, Route::Follows)
    }

    /// Whether an event that names no lane may be of a call that does: the server may know of none.
    const fn is_loose(&self, event: &TurnEvent) -> bool {
        event.lane.is_none() && !self.echoes
    }

    /// Gives an event to the call at this place.
    fn hand(
        &mut self,
        at: usize,
        event: TurnEvent,
        hearing: &Hearing,
        checks: impl Fn(Option<Arc<Asked>>) -> Checks,
    ) {
        let begins = event.is_of_answer && self.open.get(at).is_some_and(|turn| !turn.told);
        let also = match begins {
            true => self.also(at, &event),
            false => Vec::new(),
        };
        // A client could have an error come that is taken for the end of a call, and have its answer for nothing.
        let alone = self.open.len() == 1 && !self.talked && !self.unread;
        let Some(turn) = self.open.get_mut(at) else {
            return;
        };
        turn.alone = alone;
        for other in &also {
            turn.account.may_be_for(other.as_deref());
        }
        let also = also.into_iter().map(checks);
        turn.also
            .extend(also.map(|it| Arc::new(tokio::sync::Mutex::new(it))));
        turn.told |= event.is_of_answer;
        if event.progress == Progress::Begun {
            turn.begun = true;
            turn.response.clone_from(&event.response);
        }
        let cut = turn.cut_off.is_some();
        self.drops = cut && !event.is_error && event.is_told();
        if !self.drops {
            hearing.is_of(&turn.account);
        }
        // Its answer goes on behind an error that is about something else.
        let beside = cut && event.is_error && turn.response.is_some();
        self.ends = event.progress == Progress::Over && !beside;
        if self.ends && turn.response.is_some() && event.response.is_none() {
            // An error that may be about something else: the answer may go on.
            self.steers = self.steers.saturating_add(1);
        }
        self.whose = Whose::Turn(at);
        if !beside {
            turn.answer.hear(event);
            turn.count();
        }
    }

    /// Which other calls an answer may be for that begins as one to the call at this place; none: one that is not known.
    ///
    /// Each response without a call that was taken for the answer to one has those behind it belong to the calls before.
    fn also(&self, at: usize, event: &TurnEvent) -> Vec<Option<Arc<Asked>>> {
        let Some(turn) = self.open.get(at) else {
            return Vec::new();
        };
        let past = || self.past.iter().map(|it| (&it.lane, &it.asked));
        let open = || self.open.iter().map(|it| (&it.lane, &it.asked));
        let others = past().chain(open());
        let others = others.filter(|(_, asked)| !Arc::ptr_eq(asked, &turn.asked));
        let loose = self.is_loose(event);
        let mut lanes = past().chain(open()).map(|(lane, _)| lane.is_some());
        let mixed = loose && lanes.clone().any(|named| named) && !lanes.all(|named| named);
        let mut also: Vec<_> = if self.unread || mixed {
            others.map(|(_, asked)| Some(Arc::clone(asked))).collect()
        } else {
            let before = past()
                .rev()
                .filter(|(lane, _)| loose || **lane == turn.lane);
            let before = before.take(self.steers);
            before.map(|(_, asked)| Some(Arc::clone(asked))).collect()
        };
        if self.unread || self.steers > MOST {
            also.push(None);
        }
        also
    }

    /// What is asked about the tools that the last event asks for, of each call that it may be for. `unread`: it was too
    /// long. None: no call is known of.
    pub(super) fn asks(&self, unread: bool) -> Option<Vec<Asks>> {
        match self.whose {
            _ if unread => self.asks_any(),
            Whose::Any => self.asks_any(),
            Whose::Turn(at) => {
                let turn = self.open.get(at)?;
                let asks = turn.answer.asks().ok();
                let all = [&turn.checks].into_iter().chain(&turn.also);
                Some(all.map(|it| (Arc::clone(it), asks.clone())).collect())
            }
            Whose::Stray => None,
            Whose::Nobody => Some(Vec::new()),
        }
    }

    fn asks_any(&self) -> Option<Vec<Asks>> {
        let open = self.open.iter();
        let all = open.flat_map(|turn| [&turn.checks].into_iter().chain(&turn.also));
        let all = all.map(|checks| (Arc::clone(checks), None));
        (!self.open.is_empty()).then(|| all.collect())
    }

    /// These tools' calls were cut out of the answer that the last event is of.
    pub(super) fn cut(&mut self, tools: Vec<String>) {
        if let Whose::Turn(at) = self.whose
            && let Some(turn) = self.open.get_mut(at)
        {
            turn.cut = tools;
        }
    }

    /// The event was passed on.
    pub(super) fn heard(&mut self) {
        if let (true, Whose::Turn(at)) = (mem::take(&mut self.ends), self.whose) {
            self.end_turn(at, None);
        }
        self.whose = Whose::Nobody;
    }

    fn end_turn(&mut self, at: usize, error: Option<&str>) {
        let Some(turn) = self.open.remove(at) else {
            return;
        };
        if error.is_none() && turn.cut_off.is_some() {
            turn.account.is_whole();
        }
        // Nothing goes on behind what was not answered.
        if turn.told {
            let (asked, lane) = (Arc::clone(&turn.asked), turn.lane.clone());
            self.past.push_back(Past { asked, lane });
        }
        if self.past.len() > MOST {
            self.past.pop_front();
        }
        turn.end(error);
    }

    /// What may come to be denied.
    pub(super) fn revoked(&mut self) -> impl Iterator<Item = &mut Revoked> {
        self.open.iter_mut().map(|turn| &mut turn.revoked)
    }

    /// The connection is over. True: calls were under way, of which nobody was told that they are over, or an event was of
    /// an answer.
    pub(super) fn end(&mut self, error: &str) -> bool {
        let mut open = self.open.iter();
        let is_told = |it: &CutOff| it.denied.is_some();
        let any = open.any(|turn| !turn.cut_off.as_ref().is_some_and(is_told))
            || self.open.is_empty() && self.whose != Whose::Nobody;
        for turn in mem::take(&mut self.open) {
            turn.end(Some(error));
        }
        any
    }

    /// The server has broken off what is under way.
    pub(super) fn broke(&self) {
        let open = self.open.iter().filter(|turn| turn.cut_off.is_none());
        open.for_each(|turn| turn.account.decided().broke());
    }

    /// What came of responses that no call is known of, if there were any.
    pub(super) fn strays(&mut self) -> Option<LlmAnswer> {
        self.strays.take().map(TurnAnswer::finish)
    }
}

/// What is counted, and what becomes of answers for which there is no more.
impl<R: Recorder> Lanes<R> {
    /// Whether what is written may have to be counted.
    pub(super) const fn counts(&self) -> bool {
        self.counts
    }

    /// What is to be asked of budgets next for what has come.
    pub(super) fn runs_out(&mut self) -> Option<More> {
        let open = self.open.iter_mut().enumerate();
        let mut counted = open.filter(|(_, turn)| turn.cut_off.is_none());
        counted.find_map(|(at, turn)| {
            let (held, tokens) = turn.meter.as_mut()?.next()?;
            let asked = Arc::clone(&turn.asked);
            Some(More {
                at,
                asked,
                held,
                tokens,
            })
        })
    }

    /// What is to be asked for where nobody can say whose an event is, or how much it brings: for all that each call may
    /// write whose tokens are counted.
    pub(super) fn whole(&self) -> Vec<More> {
        let open = self.open.iter().enumerate();
        let counted = open.filter(|(_, turn)| turn.meter.is_some() && turn.cut_off.is_none());
        let whole = counted.filter_map(|(at, turn)| {
            let held = Arc::clone(turn.account.decided().held()?);
            Some(More {
                at,
                asked: Arc::clone(&turn.asked),
                tokens: held.limit(),
                held,
            })
        });
        whole.collect()
    }

    /// For the call at this place there is no more. Gives the lane that its client is to be told in.
    pub(super) fn cut_off(&mut self, at: usize, denied: &Decided) -> Option<String> {
        let turn = self.open.get_mut(at)?;
        turn.account.fail(ended_by(denied));
        turn.account.breaks();
        turn.cut_off = Some(CutOff {
            denied: Some(denied.clone()),
            tokens: turn.meter.as_ref().map_or(0, Meter::count),
        });
        turn.lane.clone()
    }

    /// Nothing more goes to the client, for this reason, and its server is to notice it. Whether something is counted that
    /// may come yet.
    pub(super) fn breaks(&mut self, error: &str) -> bool {
        for turn in &mut self.open {
            let Some(meter) = &turn.meter else {
                continue;
            };
            turn.account.breaks();
            if turn.cut_off.is_some() {
                continue;
            }
            turn.account.fail(error);
            turn.cut_off = Some(CutOff {
                denied: None,
                tokens: meter.count(),
            });
        }
        self.any_cut_off()
    }

    /// Whether the last event is of an answer that was cut before it, so that it does not go on.
    pub(super) const fn drops(&self) -> bool {
        self.drops
    }

    /// Whether an answer was cut whose end has not come.
    pub(super) fn any_cut_off(&self) -> bool {
        self.open.iter().any(|turn| turn.cut_off.is_some())
    }

    /// Why an answer was cut whose provider has written more than so many tokens since then.
    pub(super) fn writes_on(&self, tokens: u64) -> Option<Decided> {
        let mut open = self.open.iter();
        open.find_map(|turn| {
            let cut = turn.cut_off.as_ref()?;
            let counted = turn.meter.as_ref().map_or(0, Meter::count);
            let denied = cut.denied.clone();
            denied.filter(|_| counted > cut.tokens.saturating_add(tokens))
        })
    }
}

impl Hearing {
    /// `counts`: what the model writes is heard.
    fn new(counts: bool) -> Self {
        Self {
            reader: match counts {
                true => EventReader::hearing(),
                false => EventReader::default(),
            },
            ..Self::default()
        }
    }

    /// It belongs to this call.
    fn is_of<R: Recorder>(&self, account: &Account<R>) {
        account.received.fetch_add(self.size, Ordering::Relaxed);
        account.passes(|it| it.received.add(&self.said));
    }
}
