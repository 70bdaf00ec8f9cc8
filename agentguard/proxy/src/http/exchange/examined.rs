//! What becomes of an answer before it is passed on.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;

use agentguard_decision::{Asked, Decided, Recorder, Used};
use agentguard_model::ReasonCode;
use agentguard_protocol::json::Value;
use agentguard_protocol::llm::Uncut;
use bytes::BytesMut;
use http::StatusCode;
use http::response::Parts;
use tokio::time::timeout;

use super::{Carried, Exchange, Failed};
use crate::Port;
use crate::account::Account;
use crate::http::body::Received;
use crate::http::checks::{Checks, Goes};
use crate::http::growth::Judge as _;
use crate::http::held::{Held, Holding};
use crate::http::listed::{self, Form, Looks, NotShown, forget_form};
use crate::http::reading::Reading;
use crate::http::says::Answering;
use crate::revoked::Revoked;

/// The most bytes of a whole answer out of which something is cut. A larger one is refused.
const MAX_CUT: usize = 8 * 1024 * 1024;

impl<R: Recorder, P: Port> Exchange<R, P> {
    /// Reads what has to be read before it is passed on: what may list tools of a server whose lists are looked at; and
    /// the answer to a call that is one document, where a rule looks at the tools that it asks for. Event streams are
    /// read on their way.
    ///
    /// # Errors
    /// It is denied.
    pub(super) async fn examine(
        &self,
        carried: Carried<R>,
        account: &Arc<Account<R>>,
        asked: &Arc<Asked>,
        answering: Option<Answering>,
        lists: Option<Looks<'_>>,
    ) -> Result<Result<Carried<R>, Failed>, Decided> {
        if let Some(looks) = lists {
            return Box::pin(self.shown(looks, carried, asked, account)).await;
        }
        let Some(Answering::Llm(_)) = answering else {
            return Ok(Ok(carried));
        };
        self.reserve_all(&carried.parts, account, asked, answering)
            .await?;
        let looks = self.flow.guard.decider.looks_at_tool_calls();
        if !looks || carried.upgrade.is_some() || !carried.parts.status.is_success() {
            return Ok(Ok(carried));
        }
        let room = |memory| self.flow.room(memory);
        let reading = Reading::of(&carried.parts.headers, answering, room);
        let mut reading = reading.ok().flatten();
        if reading.as_ref().and_then(Reading::plain_stream).is_some() {
            return Ok(Ok(carried));
        }
        let mut checks = self.flow.checks(Arc::clone(asked), answering);
        // The events of a coded stream are not held one by one.
        reading = reading.filter(|it| !it.counts());
        let Some(mut reading) = reading else {
            return checks.check(None).await.map(|()| Ok(carried));
        };
        let held = Held::read(carried.body, room, |piece| {
            // What cannot be decoded is told by what it says.
            let _ = reading.push(piece);
        });
        let (held, asks) = match held.await {
            Ok((held, Holding::Whole)) => {
                reading.ends();
                (held, reading.asks())
            }
            Ok((held, Holding::Beyond(_))) => (held, None),
            Err(error) => {
                let message = format!("the upstream broke off its answer: {error}");
                account.decided().broke();
                let code = ReasonCode::UpstreamUnreachable;
                return Ok(Err(Failed::bad_gateway(code, message)));
            }
        };
        let checked = match checks.check(asks).await {
            Ok(()) => self.cut_out(&mut checks, held).await,
            Err(denied) => Err(denied),
        };
        let (held, changed) = match checked {
            Ok(checked) => checked,
            Err(denied) => {
                // Nothing is cut out of what is refused as a whole.
                if let Some(said) = reading.answer() {
                    account.heard(said);
                }
                return Err(denied);
            }
        };
        let Carried { mut parts, .. } = carried;
        if changed {
            forget_form(&mut parts);
            if let Some(mut said) = reading.answer() {
                said.without(checks.cuts());
                account.heard(said);
            }
        }
        let body = Received::Held(held);
        Ok(Ok(Carried {
            body,
            parts,
            ..carried
        }))
    }

    /// Reserves all that a call may write of which only a part is reserved, where its answer does not come event by event
    /// after all: it cannot be cut.
    ///
    /// # Errors
    /// There is not so much left.
    async fn reserve_all(
        &self,
        parts: &Parts,
        account: &Account<R>,
        asked: &Arc<Asked>,
        answering: Option<Answering>,
    ) -> Result<(), Decided> {
        let held = account.decided().held();
        let Some(held) = held.filter(|held| held.is_counted()) else {
            return Ok(());
        };
        let room = |memory| self.flow.room(memory);
        let reading = Reading::of(&parts.headers, answering, room);
        let in_events = reading.ok().flatten();
        let in_events = in_events.as_ref().and_then(Reading::plain_stream).is_some();
        if in_events || !parts.status.is_success() {
            return Ok(());
        }
        let denied = self.flow.reserve_all(asked, held).await;
        if denied.is_some() {
            // It was written all the same.
            held.settle(Used::Whole);
        }
        denied.map_or(Ok(()), Err)
    }

    /// A whole answer without the tool calls that are cut out of it, and whether there were any.
    ///
    /// # Errors
    /// It is denied.
    async fn cut_out(&self, checks: &mut Checks, held: Held) -> Result<(Held, bool), Decided> {
        if checks.cuts().next().is_none() {
            return Ok((held, false));
        }
        // What came, what was read of it, and what goes in its place.
        let room = self.flow.room(3 * held.size());
        let written = checks.written(|cutter| {
            if room.is_none() || held.size() > MAX_CUT {
                return Err(Uncut::Large);
            }
            let came = held.copied();
            let document = Value::read(&came, 2 * MAX_CUT)?;
            let written = cutter.document(document)?;
            Ok(written.map(String::into_bytes))
        });
        Ok(match written? {
            Some(Goes::Instead(bytes)) => (held.instead(BytesMut::from(bytes.as_slice())), true),
            Some(Goes::AsItCame) => (held, false),
            None => {
                checks.check(None).await?;
                (held, false)
            }
        })
    }

    /// The answer with the tools alone that the agent is shown.
    ///
    /// # Errors
    /// It is denied.
    async fn shown(
        &self,
        looks: Looks<'_>,
        mut carried: Carried<R>,
        asked: &Arc<Asked>,
        account: &Arc<Account<R>>,
    ) -> Result<Result<Carried<R>, Failed>, Decided> {
        if carried.upgrade.is_some() {
            return Ok(Ok(carried));
        }
        let (parts, body) = (&mut carried.parts, carried.body);
        let (list, form) = (looks.list, looks.form);
        match listed::shown(&self.flow, asked, looks, parts, body, account).await {
            Ok(body) => Ok(Ok(Carried { body, ..carried })),
            Err(NotShown::Denied(decided)) => Err(decided),
            Err(NotShown::Held(message)) => Ok(Err(Failed {
                status: StatusCode::FORBIDDEN,
                code: ReasonCode::ToolDefinitionChanged,
                message,
                unsent: false,
            })),
            Err(not_shown) => {
                let why = not_shown.message();
                let message = match list && form == Form::Lists {
                    true => format!("the list of tools cannot be filtered: {why}"),
                    false => format!("the answer cannot be looked at: {why}"),
                };
                let code = ReasonCode::NotUnderstood;
                Ok(Err(Failed::bad_gateway(code, message)))
            }
        }
    }

    /// The denial of a request whose upstream broke off because its agent was quarantined: it is ruled in a moment.
    pub(super) async fn cut(&self, revoked: &mut Revoked) -> Option<Decided> {
        let directory = self.flow.guard.decider.directory();
        if !directory.is_quarantined(self.flow.client.agent) {
            return None;
        }
        let ruled = pin!(pending::<()>());
        let patience = self.flow.guard.limits.cut;
        let ruled = timeout(patience, revoked.unless(ruled)).await;
        ruled.ok()?.err()
    }
}
