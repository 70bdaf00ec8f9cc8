//! What is known of a session of `OpenAI`'s Realtime, and what was decided of it.
//!
//! A decision on what the session is given stands as long as that may be in force: responses that the server makes by
//! itself belong to the last one. A response that the client asks for has a decision of its own. Where budgets are charged,
//! each that the server makes is charged once it is over, and the next is another call: it is reserved for before it comes.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentguard_decision::{Asked, Recorder, Used};
use agentguard_model::LlmAnswer;
use agentguard_protocol::content::Beginning;
use agentguard_protocol::llm::realtime::{Heard, Offer, Replies, Reply, ServerReader, Session};
use agentguard_protocol::llm::{NotUnderstood, Progress};

use super::{Allowed, Checks};
use crate::account::Account;
use crate::http::held::Kept;
use crate::revoked::Revoked;

/// See the module.
pub(super) struct Live<R: Recorder> {
    pub(super) session: Session,
    /// Decisions on what it is given that may be in force; the last is the newest.
    pub(super) given: VecDeque<Given<R>>,
    /// Responses that the client asks for, in their order.
    pub(super) asked: VecDeque<Requested<R>>,
    /// The model that writes down what is heard, and the decision on that.
    pub(super) transcriber: Option<(String, Party<R>)>,
    /// Whether all that may be in force was decided.
    decided: bool,
    /// Whether something has passed that the server may answer by itself.
    pub(super) spoken: bool,
    /// Whether something has passed that may be written down, and was not yet.
    pub(super) unwritten: bool,
    /// Whether the server has left the client without an answer for too long.
    pub(super) silent: bool,
    /// The model that the server says that the session has.
    model: Option<String>,
    hearing: Hearing,
    /// Whose the last event was.
    whose: Whose,
    /// Whether it was the end of that.
    over: bool,
    /// The call that stands for what has come to its end without one of its own, where it may go on.
    ended: Option<Arc<Asked>>,
    /// Why nothing more is read of what the server says.
    fault: Option<NotUnderstood>,
}

/// What a decision stands for.
pub(super) struct Party<R: Recorder> {
    asked: Arc<Asked>,
    account: Arc<Account<R>>,
    revoked: Revoked,
    checks: Arc<tokio::sync::Mutex<Checks>>,
    replies: Replies,
}

/// A decision on what the session is given.
pub(super) struct Given<R: Recorder> {
    pub(super) party: Party<R>,
    /// What is offered by it.
    pub(super) offer: Offer,
}

/// A response that the client asks for.
pub(super) struct Requested<R: Recorder> {
    pub(super) party: Party<R>,
    /// The id of the client's event.
    pub(super) event: Option<String>,
    /// That of the response, once it has begun.
    pub(super) response: Option<String>,
}

/// An event of the server's that is being read.
#[derive(Default)]
struct Hearing {
    reader: ServerReader,
    said: Beginning,
    size: u64,
    fault: Option<NotUnderstood>,
}

/// Whose an event is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Whose {
    /// The session's: of the decision at this place.
    Given(usize),
    /// That of the response at this place.
    Asked(usize),
    /// It is about what was heard.
    Transcriber,
    /// Nothing was decided that it can belong to.
    #[default]
    Nobody,
}

impl<R: Recorder> From<Allowed<R>> for Party<R> {
    fn from(allowed: Allowed<R>) -> Self {
        Self {
            asked: allowed.asked,
            account: allowed.account,
            revoked: allowed.revoked,
            checks: allowed.checks,
            replies: Replies::default(),
        }
    }
}

impl<R: Recorder> Party<R> {
    /// Nothing more comes of it.
    pub(super) fn end(self, error: Option<&str>) {
        let said = self.replies.finish();
        if said != LlmAnswer::default() {
            self.account.said(said);
        }
        if let Some(error) = error {
            self.account.fail(error);
        }
    }

    /// So many bytes were sent that belong to it, which say this.
    fn sent(&self, size: u64, text: Option<&Kept>) {
        self.account.sent.fetch_add(size, Ordering::Relaxed);
        self.account.passes(|it| {
            let pieces = text.into_iter().flat_map(Kept::pieces);
            pieces.for_each(|piece| it.sent.push(piece));
        });
    }

    /// The same for what the server says.
    fn received(&self, hearing: &Hearing) {
        self.account
            .received
            .fetch_add(hearing.size, Ordering::Relaxed);
        self.account.passes(|it| it.received.add(&hearing.said));
    }
}

impl<R: Recorder> Given<R> {
    /// It is in force no more. `read`: all that the server has said was.
    fn end(self, error: Option<&str>, read: bool) {
        if read && self.party.replies.is_empty() {
            // The server has begun none by itself.
            self.party.account.unsent();
        }
        self.party.end(error);
    }
}

impl<R: Recorder> Live<R> {
    /// Of a session that asks for this model.
    pub(super) fn new(model: Option<String>) -> Self {
        Self {
            session: Session::new(model),
            given: VecDeque::new(),
            asked: VecDeque::new(),
            transcriber: None,
            decided: false,
            spoken: false,
            unwritten: false,
            silent: false,
            model: None,
            hearing: Hearing::default(),
            whose: Whose::Nobody,
            over: false,
            ended: None,
            fault: None,
        }
    }

    /// Whether it is to be waited for what the server says of the session.
    pub(super) const fn waits(&self) -> bool {
        self.session.is_awaited() && !self.silent
    }

    /// Whether all that may be in force was decided: what updates give was when they were sent.
    pub(super) const fn is_decided(&self) -> bool {
        self.decided
    }

    /// Sees whether it was, once something is said of that.
    fn look(&mut self) {
        let known = self.session.known();
        let mut given = self.given.iter();
        let unknown = self.session.is_unknown();
        self.decided = given.any(|it| unknown || known.is_within(&it.offer));
    }

    /// Something was sent, of which nobody knows what it gives where this is an error.
    pub(super) fn notes(&mut self, sent: Result<(), NotUnderstood>) {
        if let Err(why) = sent {
            self.session.sent_unknown(why);
        }
        self.look();
    }

    /// What asks for nothing by itself goes to the session as it was decided. False: it was not.
    pub(super) fn passes(&mut self, size: u64, text: Option<&Kept>) -> bool {
        if !self.is_decided() {
            return false;
        }
        if let Some(last) = self.given.back() {
            last.party.sent(size, text);
        }
        (self.spoken, self.unwritten) = (true, true);
        true
    }

    /// A decision on what the session is given.
    pub(super) fn give(&mut self, allowed: Allowed<R>, offer: Offer, all: bool) {
        let mut given = Given {
            party: allowed.into(),
            offer,
        };
        if all {
            for mut before in mem::take(&mut self.given) {
                given.party.replies.take_over(&mut before.party.replies);
                before.end(None, self.fault.is_none());
            }
        }
        self.given.push_back(given);
        self.look();
    }

    /// Ends the decisions that are not in force any more, where the server has said what is.
    fn retire(&mut self) {
        if !self.session.is_settled() || self.session.is_unknown() || !self.decided {
            return;
        }
        let known = self.session.known().clone();
        let given = mem::take(&mut self.given).into_iter();
        let (stand, over): (VecDeque<_>, VecDeque<_>) =
            given.partition(|it| known.is_within(&it.offer));
        self.given = stand;
        for mut given in over {
            if let Some(last) = self.given.back_mut() {
                last.party.replies.take_over(&mut given.party.replies);
            }
            given.end(None, self.fault.is_none());
        }
    }

    /// A piece of an event.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let keeps = self.parties().any(|party| party.account.keeps());
        let hearing = &mut self.hearing;
        hearing.size = hearing.size.saturating_add(bytes.len() as u64);
        if keeps {
            hearing.said.push(bytes);
        }
        if self.fault.is_none() && hearing.fault.is_none() {
            hearing.fault = hearing.reader.push(bytes).err();
        }
    }

    /// An event is over.
    pub(super) fn event_ends(&mut self) {
        let mut hearing = mem::take(&mut self.hearing);
        let reader = mem::take(&mut hearing.reader);
        self.over = false;
        self.whose = self.last();
        let heard = match self.fault.clone().or(hearing.fault.take()) {
            Some(fault) => Err(fault),
            None => reader.finish(),
        };
        match heard {
            Ok(heard) => self.take(heard),
            Err(why) => self.give_up(&why),
        }
        if let Some(party) = self.party() {
            party.received(&hearing);
        }
    }

    /// The decision on the session that stands.
    fn last(&self) -> Whose {
        match self.given.len().checked_sub(1) {
            Some(last) => Whose::Given(last),
            None => Whose::Nobody,
        }
    }

    fn party(&mut self) -> Option<&mut Party<R>> {
        match self.whose {
            Whose::Given(at) => self.given.get_mut(at).map(|it| &mut it.party),
            Whose::Asked(at) => self.asked.get_mut(at).map(|it| &mut it.party),
            Whose::Transcriber => self.transcriber.as_mut().map(|(_, party)| party),
            Whose::Nobody => None,
        }
    }

    /// What the event was in the hand of.
    pub(super) fn checks(&self) -> Option<Arc<tokio::sync::Mutex<Checks>>> {
        let party = match self.whose {
            Whose::Given(at) => self.given.get(at).map(|it| &it.party),
            Whose::Asked(at) => self.asked.get(at).map(|it| &it.party),
            Whose::Transcriber | Whose::Nobody => None,
        };
        party.map(|party| Arc::clone(&party.checks))
    }

    /// The tools that the model asks to call in what the last event belongs to; none where that is not known.
    pub(super) fn asks(&self) -> Option<Vec<String>> {
        if self.fault.is_some() {
            return None;
        }
        let replies = match self.whose {
            Whose::Given(at) => self.given.get(at).map(|it| &it.party.replies),
            Whose::Asked(at) => self.asked.get(at).map(|it| &it.party.replies),
            Whose::Transcriber | Whose::Nobody => None,
        };
        replies.map_or(Some(Vec::new()), |replies| replies.asks().ok())
    }

    fn give_up(&mut self, why: &NotUnderstood) {
        self.fault = Some(why.clone());
        if self.whose == Whose::Nobody && !self.asked.is_empty() {
            self.whose = Whose::Asked(0);
        }
        for party in self.parties() {
            party.replies.give_up(why.clone());
        }
    }

    /// What an event says.
    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Session { told, updated } => {
                let model = told.as_ref().ok().and_then(|told| told.model.clone());
                self.model = model.or(self.model.take());
                self.session.told(told, updated);
                self.look();
                self.retire();
                self.whose = self.last();
            }
            Heard::Reply(reply) => self.reply(*reply),
            Heard::Transcribed(usage) => {
                if let Some((_, party)) = &mut self.transcriber {
                    party.replies.transcribed(usage);
                    self.whose = Whose::Transcriber;
                    (self.over, self.unwritten) = (true, false);
                }
            }
            Heard::Error { event, error } => {
                self.session.failed();
                // Of a client that gives its events no ids the first is meant.
                let mut asked = self.asked.iter();
                let at = asked.position(|it| it.response.is_none() && it.event == event);
                if let Some(at) = at {
                    self.whose = Whose::Asked(at);
                    self.over = true;
                }
                if let (Some(_), Some(party)) = (at, self.party()) {
                    party.replies.fail(error);
                }
            }
            Heard::Other => {}
        }
    }

    /// What an event says of a response.
    fn reply(&mut self, reply: Reply) {
        self.whose = self.whose(&reply);
        self.over = reply.progress == Progress::Over;
        let model = self.model.clone();
        if let Some(party) = self.party() {
            party.replies.hear(reply, model.as_deref());
        }
    }

    /// Which decision a response belongs to: servers do not say which ones were asked for, and begin with those in
    /// their order.
    fn whose(&mut self, reply: &Reply) -> Whose {
        let id = Some(&reply.id);
        if let Some(at) = self.asked.iter().position(|it| it.response.as_ref() == id) {
            return Whose::Asked(at);
        }
        let known = |it: &Given<R>| it.party.replies.is_under_way(&reply.id);
        if let Some(at) = self.given.iter().position(known) {
            return Whose::Given(at);
        }
        let begins = reply.progress == Progress::Begun || self.given.is_empty();
        let mut waiting = self.asked.iter_mut().enumerate();
        match waiting.find(|(_, it)| begins && it.response.is_none()) {
            Some((at, asked)) => {
                asked.response = Some(reply.id.clone());
                Whose::Asked(at)
            }
            None => self.last(),
        }
    }

    /// The event was passed on.
    pub(super) fn heard(&mut self) {
        match (mem::take(&mut self.over), self.whose) {
            (true, Whose::Asked(at)) => {
                if let Some(asked) = self.asked.remove(at) {
                    asked.party.end(None);
                }
            }
            (true, Whose::Given(_) | Whose::Transcriber) => {
                self.ended = self.party().map(|it| Arc::clone(&it.asked));
            }
            _ => {}
        }
        self.whose = Whose::Nobody;
    }

    /// Whether something has ended that [`Self::renewal`] has not looked at.
    pub(super) const fn renews(&self) -> bool {
        self.ended.is_some()
    }

    /// Charges what the server has made by itself, where a budget is charged for it and nothing of it is under way. Gives
    /// the call that stood for it, which another one is to be decided for: see [`Self::renew`].
    pub(super) fn renewal(&mut self) -> Option<Arc<Asked>> {
        let asked = self.ended.take()?;
        let mut parties = self.parties();
        let party = parties.find(|it| Arc::ptr_eq(&it.asked, &asked))?;
        let held = party.account.decided().held()?;
        if party.replies.any_under_way() {
            return None;
        }
        held.settle(match party.replies.usage() {
            Some(Ok(usage)) => Used::Reported(usage),
            Some(Err(usage)) => Used::Broken(usage),
            None => Used::Unknown,
        });
        Some(asked)
    }

    /// Has another call stand for what the server makes next.
    pub(super) fn renew(&mut self, asked: &Arc<Asked>, allowed: Allowed<R>) {
        let mut parties = self.parties();
        match parties.find(|it| Arc::ptr_eq(&it.asked, asked)) {
            Some(party) => {
                let before = mem::replace(party, allowed.into());
                before.end(None);
            }
            // The client has changed what the session is meanwhile, and with that what stands for it.
            None => allowed.account.unsent(),
        }
    }

    /// What may come to be denied.
    pub(super) fn revoked(&mut self) -> impl Iterator<Item = &mut Revoked> {
        self.parties().map(|party| &mut party.revoked)
    }

    /// All that was decided and may be in force, or is under way.
    fn parties(&mut self) -> impl Iterator<Item = &mut Party<R>> {
        let given = self.given.iter_mut().map(|it| &mut it.party);
        let asked = self.asked.iter_mut().map(|it| &mut it.party);
        let transcriber = self.transcriber.iter_mut().map(|(_, party)| party);
        given.chain(asked).chain(transcriber)
    }

    /// The server has broken off the responses that were asked for.
    pub(super) fn broke(&self) {
        let asked = self.asked.iter();
        asked.for_each(|it| it.party.account.decided().broke());
    }

    /// The connection is over: with this error for responses that were asked for and did not come to their end.
    pub(super) fn close(&mut self, error: &str) {
        for asked in mem::take(&mut self.asked) {
            asked.party.end(Some(error));
        }
        self.end_session(None);
    }

    /// The connection is over, with this error. True: something was under way.
    pub(super) fn end(&mut self, error: &str) -> bool {
        let any = !(self.asked.is_empty() && self.given.is_empty());
        for asked in mem::take(&mut self.asked) {
            asked.party.end(Some(error));
        }
        self.end_session(Some(error));
        any
    }

    fn end_session(&mut self, error: Option<&str>) {
        for given in mem::take(&mut self.given) {
            given.end(error, self.fault.is_none());
        }
        if let Some((_, party)) = self.transcriber.take() {
            if !self.unwritten && self.fault.is_none() && party.replies.is_empty() {
                party.account.unsent();
            }
            party.end(error);
        }
    }
}
