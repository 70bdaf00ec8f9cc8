//! One request after the other: decide, carry, answer.

use std::future::{poll_fn, ready};
use std::mem;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use agentguard_decision::{Asked, Decided, Recorder, Says, Way};
use agentguard_model::{ActionKind, ClaimSource, ReasonCode};
use agentguard_protocol::authority::{Authority, Host};
use agentguard_protocol::fields::strip_hop_by_hop;
use agentguard_protocol::websocket::extensions::Agreed;
use agentguard_protocol::{baggage, request, response};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use tokio::sync::Notify;
use tokio::time::sleep;

mod changes;
mod examined;
mod refused;
mod understood;

use self::understood::Understood;
use crate::Port;
use crate::account::{Account, Watch, plain};
use crate::connection::Flow;
use crate::fair;
use crate::http::body::{Answer, GoAhead, Received, RequestBody, ResponseBody, discard};
use crate::http::call::Calling;
use crate::http::changed::signs;
use crate::http::checks::Checks;
use crate::http::gated::{PendingAnswer, Signals};
use crate::http::growth::{Growth, Judge as _};
use crate::http::interims::Interims;
use crate::http::leg::Leg;
use crate::http::listed::Looks;
use crate::http::metered::Meter;
use crate::http::reading::Reading;
use crate::http::said::said;
use crate::http::says::Answering;
use crate::http::tongue::{Tongue, refuse};
use crate::http::upstream::{Unsent, Upstream};
use crate::passing::paced;
use crate::relay;
use crate::revoked::Revoked;

/// The requests of one client connection.
pub(crate) struct Exchange<R: Recorder, P: Port> {
    flow: Arc<Flow<R, P>>,
    signals: Arc<Signals>,
    leg: Leg<R>,
    /// The upstream connection, while no request uses it.
    upstream: Mutex<Option<Upstream<R>>>,
    tunnel: Mutex<Option<Tunnel<R>>>,
    /// What may end the answer that is on its way; HTTP/1 alone.
    on_its_way: Mutex<Option<Watch<R>>>,
}

/// What is left to carry after the upstream changed the protocol to WebSocket.
pub(crate) struct Tunnel<R: Recorder> {
    pub(crate) upgrade: OnUpgrade,
    /// What the two sides have agreed on.
    pub(crate) agreed: Agreed,
    /// Drives the upgrade to its end.
    pub(crate) upstream: Option<Upstream<R>>,
    pub(crate) account: Arc<Account<R>>,
    pub(crate) asked: Arc<Asked>,
    pub(crate) revoked: Revoked,
}

/// Another message of a batch, with its id: where it is accounted for.
type Beside<R> = (Option<String>, Account<R>);

/// What goes with a request on its way.
struct Outgoing<'a, R: Recorder> {
    account: &'a Arc<Account<R>>,
    /// What may end its content before its end; none where there is none.
    sending: Option<(Growth, Revoked)>,
    /// Where what the upstream says before its answer goes.
    interims: &'a Arc<Interims>,
    /// Whether the answer is to come without a content coding, so that it can be read, and ended in words.
    plain: bool,
}

/// A request whose answer its client waits for. Dropped without one, it says that the client did not.
struct Awaited<R: Recorder>(Arc<Account<R>>);

impl<R: Recorder> Drop for Awaited<R> {
    fn drop(&mut self) {
        if !self.0.is_answered() {
            self.0.fail("the client went away before the answer");
        }
    }
}

/// What an upstream answered, before its body.
struct Carried<R: Recorder> {
    parts: http::response::Parts,
    body: Received,
    /// Where it changes to WebSocket, and what was agreed on for that.
    upgrade: Option<(OnUpgrade, Agreed)>,
    upstream: Option<Upstream<R>>,
}

impl<R: Recorder, P: Port> Exchange<R, P> {
    pub(crate) fn new(flow: Arc<Flow<R, P>>, signals: Arc<Signals>, leg: Leg<R>) -> Self {
        Self {
            flow,
            signals,
            leg,
            upstream: Mutex::new(None),
            tunnel: Mutex::new(None),
            on_its_way: Mutex::new(None),
        }
    }

    /// The tunnel that a request opened, if one did.
    pub(crate) fn take_tunnel(&self) -> Option<Tunnel<R>> {
        self.tunnel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Leaves its upstream connections to the agent's next client connections, when this one is over.
    pub(crate) fn leave(&self) {
        let mut kept = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        self.leg.leave(&self.flow, kept.take());
    }

    /// Has the upstream connection keep no more than it has to, while the client asks for nothing.
    pub(crate) fn rests(&self) {
        let mut kept = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = &mut *kept {
            upstream.rests();
        }
    }

    /// Has the upstream connection take requests again.
    pub(crate) fn wakes(&self) {
        let mut kept = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = &mut *kept {
            upstream.wake();
        }
    }

    /// Closes the upstream connection once its other end has, while it rests.
    pub(crate) fn poll_rest(&self, cx: &mut Context<'_>) {
        let mut kept = self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_mut().is_some_and(|it| it.poll_ends(cx).is_ready()) {
            *kept = None;
        }
    }

    /// Waits until the policy has come to deny the answer that is on its way. In the task that sends the answer.
    pub(crate) async fn denied(&self) {
        let on_its_way = || {
            let place = self.on_its_way.lock();
            place.unwrap_or_else(PoisonError::into_inner)
        };
        poll_fn(|cx| {
            let mut place = on_its_way();
            let denied = place
                .as_ref()
                .map_or(Poll::Pending, |denial| denial.poll(cx));
            if denied.is_ready() {
                *place = None;
            }
            denied
        })
        .await;
    }

    /// Answers one request. `interims` gets what the upstream says before.
    pub(crate) async fn handle(
        &self,
        request: Request<Received>,
        interims: &Arc<Interims>,
    ) -> Response<Answer<R>> {
        let (mut parts, body) = request.into_parts();
        let tongue = Tongue::of(&parts);
        let answer = parts
            .headers
            .contains_key(header::UPGRADE)
            .then(|| PendingAnswer::new(&self.signals));
        let mut meaning = match request::Request::read(&parts, self.leg.scheme) {
            Ok(meaning) => meaning,
            Err(why) => return Box::pin(self.refuse_malformed(&why, &tongue)).await,
        };
        let changes = self.flow.guard.decider.changes();
        if self.flow.is_stale() {
            return Box::pin(self.refuse_stale(&tongue)).await;
        }
        let understood = self.understand(&mut parts, &mut meaning, body, tongue);
        let Understood {
            messaging,
            calling,
            asked,
            body,
            tongue,
            filtered,
        } = match understood.await {
            Ok(understood) => understood,
            Err(refusal) => return refusal,
        };
        if let Some(size) = body.size_hint().exact() {
            asked.sends(size);
        }
        let mut growth = (!body.is_end_stream())
            .then(|| Growth::new(self.flow.clone(), Arc::clone(&asked), &parts.headers));
        let foreign = messaging
            .as_ref()
            .and_then(|it| it.foreign(&self.flow, &parts.headers));
        let (decided, mut status) = match foreign {
            Some(message) => {
                let kind = ActionKind::HttpRequest;
                let decided = self.flow.refuse(kind, ReasonCode::SessionNotOwn, message);
                (Box::pin(decided).await, StatusCode::FORBIDDEN)
            }
            None => {
                let room = |memory| self.flow.room(memory);
                let says = calling
                    .as_ref()
                    .and_then(|_| said(&body, &parts.headers, asked.seen().body, room));
                let deciding = self.decide(&meaning, &asked, says.as_deref(), growth.as_mut());
                deciding.await
            }
        };
        let elsewhere = calling.as_ref().is_some_and(Calling::goes_without);
        if status == StatusCode::FORBIDDEN && elsewhere && meaning.websocket.is_some() {
            // What makes a client of Responses go on over HTTPS, where it says why it is refused.
            status = StatusCode::UPGRADE_REQUIRED;
        }
        let (decided, beside) = self.decide_beside(&asked, decided).await;
        if !decided.allowed {
            if self.is_http2() && !body.is_end_stream() {
                fair::spawn(discard(body, self.flow.guard.limits.linger));
            }
            let mut response = refuse(&decided, status, &tongue);
            if status == StatusCode::UPGRADE_REQUIRED {
                // What it may go on in (RFC 9110, 15.5.22).
                let fields = response.headers_mut();
                fields.insert(header::UPGRADE, HeaderValue::from_static("HTTP/1.1"));
                fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            }
            return response;
        }
        let account = Arc::new(self.flow.account(decided));
        let both = (&account, beside.as_slice());
        let read = (messaging.as_ref(), calling.as_ref());
        let changed = self.changed(&mut parts, &meaning, read, &asked, both, body);
        let changed = changed.await;
        account.stands_for(beside);
        account.keep_in(|memory| self.flow.room(memory));
        account.passes(|it| it.sent.is_of(&parts.headers));
        let _awaited = Awaited(Arc::clone(&account));
        let body = match changed {
            Ok((body, false)) => body,
            Ok((body, true)) => {
                let measured =
                    |_| Growth::new(self.flow.clone(), Arc::clone(&asked), &parts.headers);
                growth = growth.map(measured);
                body
            }
            Err(refused) => {
                account.refused();
                return told(&account, &refused, &tongue);
            }
        };
        let grown = growth.as_ref().map(Growth::denied).unwrap_or_default();
        let mut revoked =
            self.flow
                .request_revoked(changes, Arc::clone(&asked), account.decided().held());
        let outgoing = Outgoing {
            account: &account,
            sending: growth.map(|growth| (growth, revoked.clone())),
            interims,
            plain: calling.is_some(),
        };
        let carrying = pin!(self.carry(parts, body, &meaning, outgoing));
        let carried = match revoked.unless(carrying).await {
            Ok(carried) => carried,
            Err(denied) => {
                return ended(&account, &denied, &tongue);
            }
        };
        if carried.is_err()
            && let Some(denied) = self.cut(&mut revoked).await
        {
            return ended(&account, &denied, &tongue);
        }
        match &carried {
            Ok(carried) => {
                let status = carried.parts.status;
                account.refused_with(status);
                account.decided().began(status.as_u16());
            }
            Err(failed) if failed.unsent => account.unsent(),
            Err(_) => {}
        }
        if let (Some(messaging), Ok(carried)) = (&messaging, &carried) {
            messaging.begun(&self.flow, &carried.parts.headers);
        }
        let answering = match &messaging {
            Some(messaging) => messaging.answering(&asked),
            None => calling
                .as_ref()
                .map(|it| Answering::Llm(it.endpoint().answers_as())),
        };
        let looks = messaging.as_ref().filter(|it| it.looks(filtered));
        let lists = looks.map(|it| Looks {
            server: it.server(),
            list: filtered,
            questions: tongue.questions().cloned().unwrap_or_default(),
            form: it.looked_at(&asked),
        });
        let examined = match carried {
            // A place of its own: most answers need none.
            Ok(carried) if lists.is_some() || matches!(answering, Some(Answering::Llm(_))) => {
                let examining = self.examine(carried, &account, &asked, answering, lists);
                let examined = revoked.unless(Box::pin(examining).as_mut()).await;
                examined.and_then(|examined| examined)
            }
            Ok(carried) => revoked.unless(pin!(ready(Ok(carried)))).await,
            Err(failed) => Ok(Err(failed)),
        };
        let carried = match examined {
            Ok(carried) => carried,
            Err(denied) => {
                return ended(&account, &denied, &tongue);
            }
        };
        let mut response = match carried {
            Ok(carried) => self.answer(carried, &account, asked, revoked, answer, answering),
            Err(_) if let Some(denied) = grown.get().or(revoked.peek()) => {
                refuse(denied, StatusCode::FORBIDDEN, &tongue)
            }
            Err(failed) => self.failed(&account, failed, &tongue),
        };
        account.answered(response.status());
        account.tell(response.headers_mut());
        response
    }

    /// What the request is decided on: what its destination would get.
    fn asked(&self, parts: &mut Parts, body: &Received, meaning: &request::Request) -> Asked {
        strip_hop_by_hop(&mut parts.headers);
        let asked = Asked::new(
            parts.method.as_str(),
            meaning.path.as_str(),
            meaning.query.as_deref(),
            parts.headers.clone(),
            body.size_hint().exact(),
        );
        let asked = asked.claiming(ClaimSource::Baggage, baggage::context(&parts.headers));
        let asked = match meaning.websocket {
            Some(_) => asked.opening_websocket(),
            None => asked,
        };
        match self.leg.scheme {
            request::Scheme::Https => asked.inside_tls(),
            request::Scheme::Http => asked,
        }
    }

    /// Decides what a request has beside its first message, each with a decision of its own: one that is denied denies
    /// all. The decision that counts, and where those that are allowed are accounted for.
    async fn decide_beside(&self, asked: &Asked, first: Decided) -> (Decided, Vec<Beside<R>>) {
        let (mut counts, mut beside) = (first, Vec::new());
        for other in asked.beside() {
            let id = other.seen().tool.and_then(|tool| tool.id.clone());
            let decided = Box::pin(self.flow.request(&other)).await;
            if decided.allowed {
                beside.push((id, self.flow.account(decided)));
            } else if counts.allowed {
                let allowed = mem::replace(&mut counts, decided);
                beside.push((None, self.flow.account(allowed)));
            }
        }
        if !counts.allowed {
            for (_, account) in &beside {
                account.refused();
                account.fail("another message of its batch was denied, so that none was sent");
                account.answered(StatusCode::FORBIDDEN);
            }
            beside.clear();
        }
        (counts, beside)
    }

    /// Decides, and says with which status it is refused, if it is.
    async fn decide(
        &self,
        meaning: &request::Request,
        asked: &Asked,
        says: Option<&dyn Says>,
        growth: Option<&mut Growth>,
    ) -> (Decided, StatusCode) {
        if let Some(message) = self.mismatch(meaning.authority.as_ref()) {
            let kind = ActionKind::HttpRequest;
            let decided = self.flow.refuse(kind, ReasonCode::NameMismatch, message);
            return (Box::pin(decided).await, StatusCode::MISDIRECTED_REQUEST);
        }
        if let Some(growth) = growth
            && let Some(decided) = growth.ask_early().await
            && !decided.allowed
        {
            return (decided, StatusCode::FORBIDDEN);
        }
        let decided = self.flow.request_saying(asked, says);
        (decided.await, StatusCode::FORBIDDEN)
    }

    /// Says why the request is not for whom this connection was opened, if so.
    ///
    /// Where only an address is known, a name in `Host` is not checked: it selects nothing.
    fn mismatch(&self, authority: Option<&Authority>) -> Option<String> {
        let authority = authority?;
        let target = &self.flow.target;
        let host_fits = match (&target.host, &authority.host) {
            (Some(name), Host::Name(host)) => name == host,
            (Some(_), Host::Ip(_)) => false,
            (None, Host::Name(_)) => true,
            (None, Host::Ip(ip)) => target.ip.is_none_or(|own| own == ip.to_canonical()),
        };
        if host_fits && authority.is_for_port(target.port) {
            return None;
        }
        let behind = match (&target.host, target.ip) {
            (Some(name), _) => name.to_string(),
            (None, Some(ip)) => ip.to_string(),
            (None, None) => "an unknown address".to_owned(),
        };
        let asked = match authority.port {
            Some(port) => format!("`{}` port {port}", authority.host),
            None => format!("`{}`", authority.host),
        };
        Some(format!(
            "the request is for {asked}, but the connection was opened to `{behind}` port {}",
            target.port
        ))
    }

    /// Sends a request and waits for the head of the upstream's answer.
    async fn carry(
        &self,
        parts: Parts,
        body: Received,
        meaning: &request::Request,
        outgoing: Outgoing<'_, R>,
    ) -> Result<Carried<R>, Failed> {
        let grant = |way| outgoing.account.decided().held()?.grant(way);
        let grant_in = grant(Way::In).cloned();
        let request = self.rewrite(parts, body, meaning, outgoing)?;
        let mut upstream = self
            .upstream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let sent = if self.is_http2() {
            Box::pin(self.leg.send_beside(&self.flow, request)).await
        } else {
            self.leg.send(&self.flow, &mut upstream, request).await
        };
        let mut response = sent.map_err(|failed| self.explain(failed))?;
        let upgrade = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
            .then(|| hyper::upgrade::on(&mut response));
        let (parts, body) = response.into_parts();
        let body = paced(body, grant_in.as_ref());
        let checked = response::check(&parts, meaning.websocket.is_some());
        let agreed = checked.and_then(|()| match (&upgrade, &meaning.websocket) {
            (Some(_), Some(offers)) => Ok(offers.accepted(&parts.headers)?),
            _ => Ok(Agreed::default()),
        });
        let agreed = agreed.map_err(|why| {
            let message = format!("the upstream's answer cannot be carried: {why}");
            Failed::bad_gateway(ReasonCode::HttpMalformed, message)
        })?;
        let upgrade = upgrade.map(|upgrade| (upgrade, agreed));
        Ok(Carried {
            parts,
            body,
            upgrade,
            upstream,
        })
    }

    /// The upstream's answer as the client gets it.
    fn answer(
        &self,
        carried: Carried<R>,
        account: &Arc<Account<R>>,
        asked: Arc<Asked>,
        revoked: Revoked,
        answer: Option<PendingAnswer>,
        answering: Option<Answering>,
    ) -> Response<Answer<R>> {
        let Carried {
            mut parts,
            body,
            upgrade,
            upstream,
        } = carried;
        strip_hop_by_hop(&mut parts.headers);
        if self.is_http2() {
            parts.headers.remove(header::CONNECTION);
        }
        parts.version = self.leg.version;
        match upgrade {
            Some((upgrade, agreed)) => {
                switch_to_websocket(&mut parts.headers);
                let tunnel = Tunnel {
                    upgrade,
                    agreed,
                    upstream,
                    account: Arc::clone(account),
                    asked,
                    revoked,
                };
                *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
                if let Some(answer) = answer {
                    answer.upgraded();
                }
                Response::from_parts(parts, Either::Right(Full::default()))
            }
            None => {
                account.passes(|it| it.received.is_of(&parts.headers));
                // Used again once hyper finds it ready, which is once this response is read.
                *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
                let room = |memory| self.flow.room(memory);
                // What a server of tools only accepts is answered elsewhere, or not at all.
                let accepted = parts.status == StatusCode::ACCEPTED;
                let answering = answering.filter(|it| *it != Answering::Tools || !accepted);
                let reading = Reading::of(&parts.headers, answering, room).unwrap_or_else(|why| {
                    tracing::debug!(%why, "an answer is not read");
                    if let Some(answering) = answering {
                        account.heard(answering.unread(why));
                    }
                    None
                });
                let mut reading = reading;
                let meter = Meter::of(account.decided().held());
                let checks = reading.as_ref().and_then(Reading::plain_stream).is_some()
                    && matches!(answering, Some(Answering::Llm(_)))
                    && parts.status.is_success()
                    && (meter.is_some()
                        || account.hides_usage()
                        || self.flow.guard.decider.looks_at_tool_calls());
                let checks = checks.then(|| self.flow.checks(asked, answering).metered(meter));
                if let (Some(checks), Some(reading)) = (&checks, &mut reading)
                    && checks.counts()
                {
                    reading.hears_what_is_written();
                }
                // A list may have to end otherwise.
                if checks.as_ref().is_some_and(Checks::may_cut)
                    || checks.is_some() && account.hides_usage()
                    || reading.as_ref().is_some_and(Reading::is_list)
                {
                    parts.headers.remove(header::CONTENT_LENGTH);
                }
                let mut body = ResponseBody::new(body, Arc::clone(account), revoked, reading);
                if let Some(checks) = checks {
                    body = body.checked(checks);
                    if account.hides_usage() {
                        body = body.without_usage();
                    }
                }
                if !self.is_http2() {
                    let denial = Some(body.watch());
                    *self
                        .on_its_way
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = denial;
                }
                Response::from_parts(parts, Either::Left(body))
            }
        }
    }

    /// The request as it is sent: the path that was decided, without what belonged to the client's
    /// hop.
    fn rewrite(
        &self,
        mut parts: Parts,
        body: Received,
        meaning: &request::Request,
        outgoing: Outgoing<'_, R>,
    ) -> Result<Unsent<R>, Failed> {
        let Outgoing {
            account,
            sending,
            interims,
            plain,
        } = outgoing;
        let interims = Arc::clone(interims);
        // RFC 9110, 15.2.
        let knows_interims = parts.version != Version::HTTP_10;
        if let Some(offers) = &meaning.websocket {
            switch_to_websocket(&mut parts.headers);
            offers.write(&mut parts.headers);
        }
        account.change(&mut parts.headers);
        // Signed, it would not be taken with another value: a coded answer is read as well.
        if plain && !signs(&parts.headers, &parts.uri, "accept-encoding") {
            let identity = HeaderValue::from_static("identity");
            parts.headers.insert(header::ACCEPT_ENCODING, identity);
        }
        parts.version = self.leg.version;
        let uri = if self.is_http2() {
            // `:authority` stands in for `Host`, and there is no `Connection` (RFC 9113, 8.2.2).
            parts.headers.remove(header::CONNECTION);
            parts.headers.remove(header::HOST);
            let host = self.host(meaning)?;
            let uri = Uri::builder().scheme(self.leg.scheme.as_str());
            let uri = uri.authority(host.as_bytes());
            uri.path_and_query(meaning.target()).build()
        } else {
            if !parts.headers.contains_key(header::HOST) {
                parts.headers.insert(header::HOST, self.host(meaning)?);
            }
            Uri::try_from(meaning.target()).map_err(http::Error::from)
        };
        parts.uri = uri.map_err(|error| {
            Failed::bad_gateway(ReasonCode::Internal, format!("a target was lost: {error}"))
        })?;
        let wanted = Arc::new(Notify::new());
        // In HTTP/2 the upstream's 100 is passed on as it is, and the client sends what it sends.
        let held = matches!(body, Received::Held(_));
        let asks = meaning.expects_continue && !body.is_end_stream() && !held;
        let waits = asks && !self.is_http2();
        let go_ahead = waits.then(|| {
            let patience = sleep(self.flow.guard.limits.expect_continue);
            GoAhead::new(Arc::clone(&wanted), patience)
        });
        if !asks {
            parts.headers.remove(header::EXPECT);
        }
        // What the server's side of hyper left behind for itself.
        parts.extensions.remove::<OnUpgrade>();
        let linger = self.is_http2().then_some(self.flow.guard.limits.linger);
        let grant = account.decided().held().and_then(|it| it.grant(Way::Out));
        let body = paced(body, grant);
        let body = RequestBody::new(body, Arc::clone(account), sending, go_ahead, linger);
        let mut request = Request::from_parts(parts, Box::new(body));
        if self.is_http2() {
            request.extensions_mut().insert(interims);
        } else {
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    // Said to the client once its body is read.
                    wanted.notify_one();
                } else if knows_interims {
                    interims.put(response.status(), response.headers().clone());
                }
            });
        }
        Ok(request)
    }

    fn is_http2(&self) -> bool {
        self.leg.version == Version::HTTP_2
    }

    /// Whom the request is for: what stands in for `Host` where a request of HTTP/1.0 has none.
    fn host(&self, meaning: &request::Request) -> Result<HeaderValue, Failed> {
        let target = &self.flow.target;
        let host = match (&target.host, target.ip) {
            (Some(name), _) => Some(Host::Name(name.clone())),
            (None, ip) => ip.map(Host::Ip),
        };
        let authority = meaning.authority.clone().or_else(|| {
            host.map(|host| Authority {
                host,
                port: Some(target.port),
            })
        });
        authority
            .and_then(|authority| {
                HeaderValue::try_from(authority.normal(self.leg.scheme.default_port())).ok()
            })
            .ok_or_else(|| Failed::bad_gateway(ReasonCode::Internal, "a request names no host"))
    }
}

/// Tells the client of a request that was allowed, and is denied before its answer has begun.
fn ended<R: Recorder>(
    account: &Account<R>,
    denied: &Decided,
    tongue: &Tongue,
) -> Response<Answer<R>> {
    account.fail(relay::revoked(denied));
    told(account, denied, tongue)
}

/// As [`ended`], of one whose account says why. The status is its provider's.
fn told<R: Recorder>(
    account: &Account<R>,
    denied: &Decided,
    tongue: &Tongue,
) -> Response<Answer<R>> {
    let response = refuse(denied, StatusCode::FORBIDDEN, tongue);
    account.answered(response.status());
    response
}

/// Why an allowed request is not answered by its upstream.
struct Failed {
    status: StatusCode,
    code: ReasonCode,
    message: String,
    /// Whether nothing of it was sent.
    unsent: bool,
}

impl Failed {
    fn bad_gateway(code: ReasonCode, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            code,
            message: message.into(),
            unsent: false,
        }
    }

    /// Whether its upstream has failed, rather than what is here: it is not there, is another, breaks off, or answers in
    /// no HTTP.
    const fn is_upstreams(&self) -> bool {
        matches!(
            self.code,
            ReasonCode::UpstreamUnreachable
                | ReasonCode::UpstreamUntrusted
                | ReasonCode::HttpMalformed
        )
    }

    /// The same, of which nothing was sent.
    fn unsent(self) -> Self {
        Self {
            unsent: true,
            ..self
        }
    }
}

/// An error with its causes, which hyper does not print itself.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    plain(text)
}

fn close<R: Recorder>(response: &mut Response<Answer<R>>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

fn switch_to_websocket(fields: &mut http::HeaderMap) {
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}
