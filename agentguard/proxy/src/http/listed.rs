//! Answers that may list tools, looked at before agents are shown them. One document is held until it is whole, and written
//! anew where a part of its tools is shown. Streams are passed on event by event (`listed/stream.rs`): clients take an answer
//! from whatever stream it comes by, and servers ask something of them before they answer. An agent's card is one document, shown
//! as it came or not at all (`listed/card.rs`).

mod card;
mod stream;

use std::sync::Arc;

use agentguard_decision::{Asked, Decided, Recorder};
use agentguard_model::{DecisionId, Reason, ReasonCode};
use agentguard_protocol::content::Codings;
use agentguard_protocol::mcp::{ListFilter, Questions, may_list};
use agentguard_protocol::refusal::Refusal;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::response::Parts;
use hyper::body::Body as _;
use tokio::time::sleep;

use crate::Port;
use crate::account::Account;
use crate::connection::Flow;
use crate::http::body::{BodyFailed, Received};
use crate::http::exchange::chain;
use crate::http::growth::Judge as _;
use crate::http::held::{Held, Holding};
use crate::http::reading::{is_json, kind};

/// An answer of a server of tools that is looked at.
#[derive(Clone)]
pub(super) struct Looks<'a> {
    /// The server.
    pub(super) server: &'a str,
    /// Whether a list, or a card, was asked for.
    pub(super) list: bool,
    /// What waits for the answer.
    pub(super) questions: Questions,
    /// What it may be.
    pub(super) form: Form,
}

/// What an answer that is looked at may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// Messages of MCP, which may list tools.
    Lists,
    /// The card of an agent.
    Card {
        /// Its name among what is pinned.
        name: &'static str,
        /// Whether it is the result of an answer of JSON-RPC, rather than the document itself.
        in_result: bool,
    },
}

/// Why an answer is not shown.
pub(super) enum NotShown {
    /// It cannot be held or read: why.
    Unread(String),
    /// The upstream broke off.
    Broken(BodyFailed),
    /// The guard said so, and recorded it.
    Denied(Decided),
    /// It is not what it was first seen as, which is recorded.
    Held(String),
}

impl NotShown {
    /// In words.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Unread(why) | Self::Held(why) => why.clone(),
            Self::Broken(error) => chain(error),
            Self::Denied(decided) => decided.reason.message.clone(),
        }
    }
}

/// An answer with those tools of a server alone that the agent is shown; the account is told the names of the others. One
/// that cannot be read passes where the policy wants to know of it only, and where it cannot list tools.
///
/// # Errors
/// Why there is none.
pub(super) async fn shown<R: Recorder, P: Port>(
    flow: &Arc<Flow<R, P>>,
    asked: &Arc<Asked>,
    looks: Looks<'_>,
    parts: &mut Parts,
    body: Received,
    account: &Arc<Account<R>>,
) -> Result<Received, NotShown> {
    if !parts.status.is_success() {
        return Ok(body);
    }
    let looked = Looked {
        flow: Arc::clone(flow),
        asked: Arc::clone(asked),
        account: Arc::clone(account),
        server: looks.server.to_owned(),
        list: looks.list.then_some(looks.questions),
    };
    if let Form::Card { name, in_result } = looks.form {
        return looked.card(name, in_result, parts, body).await;
    }
    // With 202 the answer comes by another stream, if it does.
    if parts.status == StatusCode::ACCEPTED {
        return Ok(body);
    }
    let events = match form(parts) {
        Ok(Some(events)) => events,
        // It has nothing, as the end of a session has.
        Ok(None) if !looks.list && body.is_end_stream() => return Ok(body),
        Ok(None) => {
            let why = format!("its type is `{}`", kind(&parts.headers).escape_debug());
            return looked.unread(looks.list, body, why).await;
        }
        Err(why) => return looked.unread(looks.list, body, why).await,
    };
    if events {
        forget_form(parts);
        return Ok(stream::looked(looked, body));
    }
    let mut filter = ListFilter::new(false);
    let late = async {
        match looks.list {
            true => sleep(flow.guard.limits.call).await,
            // It ends as the answer to any other request.
            false => std::future::pending().await,
        }
    };
    let mut may = Named::default();
    let room = |memory| flow.room(memory);
    let held = Held::read_until(body, late, room, |piece| {
        filter.push(piece);
        may.push(piece);
    });
    let (held, holding) = held.await.map_err(NotShown::Broken)?;
    let whole = matches!(holding, Holding::Whole);
    if !looks.list && whole && !may.found {
        return Ok(Received::Held(held));
    }
    let list = match holding {
        Holding::Whole => filter.finish().map_err(|why| why.to_string()),
        Holding::Beyond(why) => Err(why.to_owned()),
    };
    let mut list = match list {
        Ok(list) => list,
        Err(why) => return looked.unread(looks.list, Received::Held(held), why).await,
    };
    match looked.written(&mut list, looks.list).await {
        // What is shown as a whole goes as it came.
        false => Ok(Received::Held(held)),
        true => {
            forget_form(parts);
            let held = held.instead(BytesMut::from(list.written().as_slice()));
            Ok(Received::Held(held))
        }
    }
}

/// Whether an answer is a stream of events, or one document; None: neither, so that it is no message.
///
/// # Errors
/// It is coded.
fn form(parts: &Parts) -> Result<Option<bool>, String> {
    let kind = kind(&parts.headers);
    let events = kind.eq_ignore_ascii_case("text/event-stream");
    if !events && !is_json(kind) {
        return Ok(None);
    }
    let codings = Codings::of_text(&parts.headers).map_err(|why| why.to_string())?;
    if !codings.is_identity() {
        return Err("it is coded, which was not asked for".to_owned());
    }
    Ok(Some(events))
}

/// What is said of content and holds only while it is as it came: digests (RFC 9530, 3230, 1864) beside the others.
const FORM: [&str; 7] = [
    "content-length",
    "etag",
    "trailer",
    "content-digest",
    "repr-digest",
    "digest",
    "content-md5",
];

/// Forgets what is said of the form of content that is not passed on as it came.
pub(super) fn forget_form(parts: &mut Parts) {
    for name in FORM {
        parts.headers.remove(name);
    }
}

/// [`may_list`], of what comes in pieces.
#[derive(Default)]
struct Named {
    /// The last bytes, in which a name may have begun.
    last: Vec<u8>,
    found: bool,
}

impl Named {
    fn push(&mut self, piece: &[u8]) {
        if self.found {
            return;
        }
        let (start, _) = piece.split_at(piece.len().min(4));
        self.last.extend_from_slice(start);
        self.found = may_list(piece) || may_list(&self.last);
        let (_, end) = piece.split_at(piece.len().saturating_sub(4));
        if end.len() == 4 {
            self.last.clear();
            self.last.extend_from_slice(end);
        }
        let more = self.last.len().saturating_sub(4);
        self.last.drain(..more);
    }
}

/// What an answer is looked at for.
struct Looked<R: Recorder, P: Port> {
    flow: Arc<Flow<R, P>>,
    asked: Arc<Asked>,
    account: Arc<Account<R>>,
    server: String,
    /// What waits for it, where a list was asked for.
    list: Option<Questions>,
}

/// Why a stream ends with an event.
struct Ended {
    why: String,
    /// What who waits for a list is told in its place.
    told: Option<String>,
}

impl<R: Recorder, P: Port> Looked<R, P> {
    /// Leaves out of a list what the agent is not shown. Whether it is to be written anew.
    async fn written(&self, list: &mut agentguard_protocol::mcp::List, always: bool) -> bool {
        let (client, target) = (&self.flow.client, &self.flow.target);
        let decider = &self.flow.guard.decider;
        let definitions = list.definitions();
        if definitions.is_empty() && !always {
            return false;
        }
        let listed = decider.listed(client, target, &self.asked, &self.server, definitions);
        let shown = listed.await;
        if shown.iter().all(|shown| *shown) && !(decider.shows_a_part(&self.server)) {
            return false;
        }
        self.account.leaves_out(list.leave_out(&shown));
        true
    }

    /// An answer of which nobody knows what it lists. `list`: a list was asked for.
    async fn unread(&self, list: bool, body: Received, why: String) -> Result<Received, NotShown> {
        let decider = &self.flow.guard.decider;
        let (client, target) = (&self.flow.client, &self.flow.target);
        let told = decider.list_unread(client, target, &self.server, &why);
        match told.await {
            Some(decided) if !decided.allowed => Err(NotShown::Denied(decided)),
            _ if list && decider.shows_a_part(&self.server) => Err(NotShown::Unread(why)),
            _ => Ok(body),
        }
    }

    /// The same, of an event: why the stream ends with it, if it does.
    async fn unread_event(&self, why: &str) -> Result<(), Ended> {
        let decider = &self.flow.guard.decider;
        let (client, target) = (&self.flow.client, &self.flow.target);
        let told = decider.list_unread(client, target, &self.server, why);
        match told.await {
            Some(decided) if !decided.allowed => Err(self.ended(&decided.reason, decided.id)),
            _ if self.list.is_some() && decider.shows_a_part(&self.server) => {
                let message = format!("the list of tools cannot be filtered: {why}");
                Err(self.ended(&Reason::new(ReasonCode::NotUnderstood, message), None))
            }
            _ => Ok(()),
        }
    }

    fn ended(&self, reason: &Reason, decision: Option<DecisionId>) -> Ended {
        let refusal = Refusal {
            status: StatusCode::BAD_GATEWAY,
            reason,
            decision,
            spent: None,
            retry_after: None,
        };
        let told = self.list.as_ref().map(|questions| {
            let answer = questions.refused(&refusal).into_body();
            format!(
                "event: message\ndata: {}\n\n",
                String::from_utf8_lossy(&answer)
            )
        });
        Ended {
            why: reason.message.clone(),
            told,
        }
    }
}

/// Bytes as a frame of a body.
fn frame(bytes: BytesMut) -> hyper::body::Frame<Bytes> {
    hyper::body::Frame::data(bytes.freeze())
}
