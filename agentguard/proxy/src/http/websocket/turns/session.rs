//! A session of `OpenAI`'s Realtime, as it is decided.
//!
//! What the session is given is decided when it is, and so is what it has by itself before anything else goes to it.
//! What follows an update waits for what the server makes of that, for a while: then what is in force is known.
//! Otherwise all that may be is taken for what is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentguard_decision::Recorder;
use agentguard_model::{Demand, Llm, LlmOperation};
use agentguard_protocol::llm::realtime::{ClientEvent, Given, Of, Offer};
use agentguard_protocol::llm::{Call, NotUnderstood};
use tokio::time::timeout;

use super::live::{Live, Party, Requested};
use super::{Allowed, Asks, Called, Fate, MOST, Turns};
use crate::Port;
use crate::http::held::Kept;
use crate::http::websocket::Stopped;

/// How long it is waited for what the server says of the session.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an event gives, and what it is when it has passed.
struct Gift<'a> {
    given: &'a Given,
    /// Whether it is an update of the session.
    update: bool,
    size: u64,
    text: Option<Kept>,
    /// The event's id.
    id: Option<&'a str>,
}

impl<R: Recorder, P: Port> Turns<R, P> {
    /// What is known of the session, where the connection is one.
    pub(super) fn live(&self) -> Option<MutexGuard<'_, Live<R>>> {
        self.live.as_ref().map(guard)
    }

    /// Decides an event of the client's, in a message of so many bytes. `text`: what it says, as far as that was kept.
    pub(super) async fn event(
        &self,
        read: Result<ClientEvent, String>,
        size: u64,
        text: Option<Kept>,
    ) -> Result<Fate, Stopped> {
        let Some(live) = &self.live else {
            return Ok(Fate::Refused);
        };
        let event = match read {
            Ok(event) => event,
            Err(why) => return self.unread(live, why, size, text).await,
        };
        let id = event.id.as_deref();
        let gift = |update, text| Gift {
            given: &event.given,
            update,
            size,
            text,
            id,
        };
        match event.of {
            Of::Session => {
                let transcriber = event.transcriber.as_deref();
                let transcribes = self.transcribes(live, transcriber, id).await?;
                let Ok(transcribes) = transcribes else {
                    return Ok(Fate::Refused);
                };
                let fate = self.give(live, gift(true, text)).await?;
                self.transcriber(live, transcribes, &fate);
                Ok(fate)
            }
            Of::Response => {
                self.settled(live).await;
                self.respond(live, &event, size, text).await
            }
            Of::Beside => {
                self.settled(live).await;
                if event.given.tools.is_empty() && guard(live).passes(size, text.as_ref()) {
                    return Ok(Fate::Goes);
                }
                let fate = self.give(live, gift(false, text)).await?;
                if matches!(fate, Fate::Goes) {
                    let mut live = guard(live);
                    let sent = live.session.sent_item(&event.given.tools);
                    live.notes(sent);
                    (live.spoken, live.unwritten) = (true, true);
                }
                Ok(fate)
            }
        }
    }

    /// Waits until the server has said what the session is, as long as that is to be waited for.
    async fn settled(&self, live: &Mutex<Live<R>>) {
        let says = async {
            while guard(live).waits() {
                self.told.notified().await;
            }
        };
        if timeout(PATIENCE, says).await.is_err() {
            // Who says nothing once is not waited for again.
            guard(live).silent = true;
        }
    }

    /// A call as it is decided, and for whom it says that it is.
    fn called(&self, call: Result<Call, NotUnderstood>) -> (Called, Option<String>) {
        let unread = Llm {
            model: None,
            stream: true,
            ..self.unread.clone()
        };
        match call {
            Ok(call) => {
                let llm = Llm {
                    model: call.model,
                    stream: call.stream,
                    max_output_tokens: call.max_output_tokens,
                    tools: call.tools,
                    ..unread
                };
                ((llm, call.demand, None), call.user)
            }
            Err(why) => {
                let llm = Llm {
                    not_understood: Some(why.to_string()),
                    ..unread
                };
                ((llm, Demand::default(), None), None)
            }
        }
    }

    /// Decides what the session is given.
    async fn give(&self, live: &Mutex<Live<R>>, gift: Gift<'_>) -> Result<Fate, Stopped> {
        let Gift {
            given,
            update,
            size,
            text,
            id,
        } = gift;
        // Of many that may be in force none is kept apart: all of them are decided as one.
        let all = guard(live).given.len() >= MOST;
        let (call, offer) = {
            let live = guard(live);
            let given = match all {
                true => together(&live, given),
                false => given.clone(),
            };
            let offer = live.session.offer(&given);
            (live.session.call(&given), offer)
        };
        let unread = call.as_ref().err().cloned();
        let (called, user) = self.called(call);
        let allowed = match self.ask(called, user, size, text, || false).await? {
            Ok(allowed) => allowed,
            Err(denied) => return self.refuse(denied, id).map(|()| Fate::Refused),
        };
        let mut live = guard(live);
        let offer = offer.unwrap_or_else(|_| live.session.offers());
        self.allowed(&mut live, allowed, offer, all);
        if update {
            let sent = live.session.sent_update(given);
            live.notes(sent);
        }
        live.notes(unread.map_or(Ok(()), Err));
        Ok(Fate::Goes)
    }

    fn allowed(&self, live: &mut Live<R>, allowed: Allowed<R>, offer: Offer, all: bool) {
        live.give(allowed, offer, all);
        self.one_more();
    }

    /// Decides an event that is not understood: it may have given the session anything.
    async fn unread(
        &self,
        live: &Mutex<Live<R>>,
        why: String,
        size: u64,
        text: Option<Kept>,
    ) -> Result<Fate, Stopped> {
        let llm = Llm {
            model: None,
            not_understood: Some(why),
            ..self.unread.clone()
        };
        let allowed = match self
            .ask((llm, Demand::default(), None), None, size, text, || false)
            .await?
        {
            Ok(allowed) => allowed,
            Err(denied) => return self.refuse(denied, None).map(|()| Fate::Refused),
        };
        let mut live = guard(live);
        live.notes(Err(NotUnderstood::Message));
        (live.spoken, live.unwritten) = (true, true);
        let (offer, all) = (live.session.offers(), live.given.len() >= MOST);
        self.allowed(&mut live, allowed, offer, all);
        Ok(Fate::Goes)
    }

    /// Decides a response that the client asks for.
    async fn respond(
        &self,
        live: &Mutex<Live<R>>,
        event: &ClientEvent,
        size: u64,
        text: Option<Kept>,
    ) -> Result<Fate, Stopped> {
        let call = guard(live).session.call(&event.given);
        let (called, user) = self.called(call);
        let full = || guard(live).asked.len() >= MOST;
        let allowed = match self.ask(called, user, size, text, full).await? {
            Ok(allowed) => allowed,
            Err(denied) => {
                let refused = self.refuse(denied, event.id.as_deref());
                return refused.map(|()| Fate::Refused);
            }
        };
        let requested = Requested {
            party: allowed.into(),
            event: event.id.clone(),
            response: None,
        };
        guard(live).asked.push_back(requested);
        self.one_more();
        Ok(Fate::Goes)
    }

    /// Decides whether a model may write down what is heard, where the session is given one that it has not: that is a
    /// call of another model. As an error where it may not, which the client was told.
    async fn transcribes(
        &self,
        live: &Mutex<Live<R>>,
        model: Option<&str>,
        id: Option<&str>,
    ) -> Result<Result<Option<(String, Party<R>)>, ()>, Stopped> {
        let is_new = |model: &&str| {
            let live = guard(live);
            let before = live.transcriber.as_ref();
            before.is_none_or(|(before, _)| before != model)
        };
        let Some(model) = model.filter(is_new) else {
            return Ok(Ok(None));
        };
        let llm = Llm {
            operation: LlmOperation::Transcription,
            model: Some(model.to_owned()),
            stream: true,
            ..self.unread.clone()
        };
        match self
            .ask((llm, Demand::default(), None), None, 0, None, || false)
            .await?
        {
            Ok(allowed) => Ok(Ok(Some((model.to_owned(), allowed.into())))),
            Err(denied) => self.refuse(denied, id).map(|()| Err(())),
        }
    }

    /// The update has passed, or not, that has a model write down what is heard.
    fn transcriber(
        &self,
        live: &Mutex<Live<R>>,
        transcribes: Option<(String, Party<R>)>,
        fate: &Fate,
    ) {
        let Some((model, party)) = transcribes else {
            return;
        };
        if matches!(fate, Fate::Refused) {
            party.end(Some(
                "the update of the session that it is a part of was refused",
            ));
            return;
        }
        let before = guard(live).transcriber.replace((model, party));
        if let Some((_, before)) = before {
            before.end(None);
        }
        self.one_more();
    }

    /// Decides anew what the session has by what the server said of it, where that is more than was decided and the
    /// model may answer with it.
    pub(super) async fn settle(&self) -> Result<(), Stopped> {
        let Some(live) = &self.live else {
            return Ok(());
        };
        self.told.notify_one();
        let (call, offer) = {
            let live = guard(live);
            if !live.spoken || live.waits() || live.is_decided() {
                return Ok(());
            }
            let given = together(&live, &Given::default());
            (live.session.call(&given), live.session.offers())
        };
        let (called, user) = self.called(call);
        let allowed = self.ask(called, user, 0, None, || false).await?;
        let allowed = allowed.map_err(Stopped::Denied)?;
        let mut live = guard(live);
        self.allowed(&mut live, allowed, offer, true);
        Ok(())
    }

    /// Whether something has ended that is to be charged before anything more comes: see [`Self::renew`].
    pub(super) fn renews(&self) -> bool {
        self.live().is_some_and(|live| live.renews())
    }

    /// Reserves for what the server may make by itself next, where what it has made was charged: as another call like
    /// that. Where there is too little for it the session ends, for nothing else keeps the server from it.
    pub(super) async fn renew(&self) -> Result<(), Stopped> {
        let Some(live) = &self.live else {
            return Ok(());
        };
        let renewal = guard(live).renewal();
        let Some(asked) = renewal else {
            return Ok(());
        };
        let allowed = self.another(Arc::new(asked.followed())).await?;
        guard(live).renew(&asked, allowed);
        self.one_more();
        Ok(())
    }

    /// What is asked about the tools that the last event asks for. `unread`: it was too long.
    pub(super) fn asks(&self, live: &Live<R>, unread: bool) -> Option<Asks> {
        let asks = live.asks().filter(|_| !unread);
        let none = asks.as_ref().is_some_and(Vec::is_empty);
        let checks = live.checks();
        if none && checks.is_none() {
            return None;
        }
        Some((checks.unwrap_or_else(|| self.unknown()), asks))
    }
}

fn guard<R: Recorder>(live: &Mutex<Live<R>>) -> MutexGuard<'_, Live<R>> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that may be in force, with what is given beside.
fn together<R: Recorder>(live: &Live<R>, given: &Given) -> Given {
    let mut offer = live.session.offers();
    for tool in &given.tools {
        if !offer.tools.contains(tool) {
            offer.tools.push(tool.clone());
        }
    }
    Given {
        tools: offer.tools,
        all: true,
        limit: Some(
            given
                .limit
                .map_or(offer.limit, |limit| limit.max(offer.limit)),
        ),
        ..given.clone()
    }
}
