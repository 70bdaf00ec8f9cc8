//! Requests whose content rules change.

use std::iter;
use std::sync::Arc;

use agentguard_decision::{Asked, Decided, Recorder};
use agentguard_model::ActionKind;
use agentguard_protocol::request;
use http::request::Parts;

use super::{Beside, Exchange};
use crate::Port;
use crate::account::Account;
use crate::http::body::Received;
use crate::http::call::Calling;
use crate::http::changed::{self, Content, Made};
use crate::http::message::Messaging;

impl<R: Recorder, P: Port> Exchange<R, P> {
    /// The content as what was decided on each of its messages changes it, and whether that is so.
    ///
    /// # Errors
    /// It cannot be changed, so that it is not sent: that is recorded.
    pub(super) async fn changed(
        &self,
        parts: &mut Parts,
        meaning: &request::Request,
        read: (Option<&Messaging>, Option<&Calling>),
        asked: &Asked,
        (account, beside): (&Arc<Account<R>>, &[Beside<R>]),
        body: Received,
    ) -> Result<(Received, bool), Decided> {
        let others = beside.iter().map(|(_, account)| account.decided());
        let provider = asked.seen().llm.map(|llm| llm.provider.as_str());
        let made = Made::of(provider, iter::once(account.decided()).chain(others));
        let made = match read {
            (None, Some(calling)) => made
                .going_to(self.flow.target.host.as_ref(), meaning.path.as_str())
                .telling(calling.endpoint(), parts, meaning.path.as_str()),
            _ => made,
        };
        if !made.any() {
            return Ok((body, false));
        }
        let seen = asked.seen();
        let unread = match (seen.llm, seen.tool) {
            (Some(llm), _) => llm.not_understood.as_ref(),
            (None, Some(tool)) => tool.not_understood.as_ref(),
            (None, None) => None,
        };
        let what = match read {
            (Some(messaging), _) => Some(messaging.content(parts, meaning)),
            (None, Some(calling)) => Some(Content::Call(calling.endpoint())),
            (None, None) => None,
        };
        if let (None, (None, Some(calling))) = (unread, read)
            && calling.only_fetches()
        {
            // It has no content in which something could be changed.
            return Ok((body, false));
        }
        let changed = match (unread, &what) {
            // Nobody asks on its behalf for what it is not known to be.
            (Some(_), _) if !made.must() => return Ok((body, false)),
            (None, Some(what)) => {
                Box::pin(changed::changed(&self.flow, parts, what, &made, body)).await
            }
            (Some(why), _) => Err(why.clone()),
            (None, None) => Err("it is not read".to_owned()),
        };
        match changed {
            Ok(body) => {
                if made.asked_usage() {
                    account.asks_usage();
                }
                Ok((body, true))
            }
            Err(why) => {
                let (code, message) = made.impossible(&why);
                account.fail(message.clone());
                if let (true, Some(held)) = (made.lowers(), account.decided().held()) {
                    return Err(Box::pin(self.flow.not_lowered(asked, held, &why)).await);
                }
                let kind = match (seen.llm, seen.tool) {
                    (Some(_), _) => ActionKind::LlmCall,
                    (None, Some(tool)) if tool.name.is_some() => ActionKind::ToolCall,
                    _ => ActionKind::HttpRequest,
                };
                let refused = self.flow.refuse(kind, code, message);
                Err(Box::pin(refused).await)
            }
        }
    }
}
