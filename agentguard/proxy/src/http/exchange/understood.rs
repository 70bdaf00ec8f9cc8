//! What a request is, before it is decided on: calls of language models and messages to servers of tools are read.

use std::sync::Arc;

use agentguard_decision::{Asked, Recorder};
use agentguard_model::{ActionKind, ClaimSource, Context};
use agentguard_protocol::request;
use agentguard_protocol::websocket::extensions::Offers;
use http::Response;
use http::header::{self, HeaderValue};
use http::request::Parts;

use super::Exchange;
use crate::Port;
use crate::http::body::{Answer, Received};
use crate::http::call::Calling;
use crate::http::changed::signs;
use crate::http::message::Messaging;
use crate::http::tongue::Tongue;

/// A request as it is decided on.
pub(super) struct Understood {
    /// Of a message to a server of tools.
    pub(super) messaging: Option<Messaging>,
    /// Of a call of a language model.
    pub(super) calling: Option<Calling>,
    pub(super) asked: Arc<Asked>,
    /// Sent on, as it came.
    pub(super) body: Received,
    /// In which its client reads a refusal.
    pub(super) tongue: Tongue,
    /// Whether a list of tools is asked for that is looked at before the agent is shown it.
    pub(super) filtered: bool,
}

impl<R: Recorder, P: Port> Exchange<R, P> {
    /// Reads as much of a request as has to be known. What is sent of it is changed where its answer has to be read.
    ///
    /// # Errors
    /// Its content did not come, which its client is told.
    pub(super) async fn understand(
        &self,
        parts: &mut Parts,
        meaning: &mut request::Request,
        body: Received,
        tongue: Tongue,
    ) -> Result<Understood, Response<Answer<R>>> {
        let flow = &self.flow;
        let asked = self.asked(parts, &body, meaning);
        if let Some(messaging) = Messaging::of(flow, meaning) {
            // These have places of their own: most requests need none.
            let message = self.message(parts, meaning, messaging, asked, body, tongue);
            return Box::pin(message).await;
        }
        let calling = Calling::of(flow, &parts.method, &parts.headers, meaning);
        let tongue = tongue.or_llm(calling.as_ref().map(Calling::api));
        let (asked, body) = match &calling {
            None => (asked, body),
            Some(calling) => match calling.opens(meaning) {
                Some(llm) => {
                    // A message that is not sent on would be missed by those that refer to it.
                    meaning.websocket = Some(Offers::default());
                    (asked.opening_calls(llm), body)
                }
                None => {
                    let called = self.call(parts, meaning, calling, asked, body, &tongue);
                    Box::pin(called).await?
                }
            },
        };
        Ok(Understood {
            messaging: None,
            calling,
            asked: Arc::new(asked),
            body,
            tongue,
            filtered: false,
        })
    }

    /// A message to a server of tools.
    async fn message(
        &self,
        parts: &mut Parts,
        meaning: &request::Request,
        messaging: Messaging,
        asked: Asked,
        body: Received,
        tongue: Tongue,
    ) -> Result<Understood, Response<Answer<R>>> {
        let read = messaging.read(&self.flow, parts, meaning, body).await;
        let read = match read {
            Ok(read) => read,
            Err(unread) => {
                let kind = ActionKind::HttpRequest;
                return Err(Box::pin(self.refuse_unread(kind, unread, &tongue)).await);
            }
        };
        asked.grew(read.size);
        let session = Context {
            session: messaging.session(&parts.headers),
            ..Context::default()
        };
        let asked = asked.claiming(ClaimSource::Mcp, session);
        if messaging.looks(read.filtered) {
            // What is looked at has to be read first.
            if !signs(&parts.headers, &parts.uri, "accept-encoding") {
                let plain = HeaderValue::from_static("identity");
                parts.headers.insert(header::ACCEPT_ENCODING, plain);
            }
        }
        Ok(Understood {
            messaging: Some(messaging),
            calling: None,
            asked: Arc::new(asked.telling(read.messages)),
            body: read.body,
            tongue: read.tongue.unwrap_or(tongue),
            filtered: read.filtered,
        })
    }

    /// A call of a language model.
    async fn call(
        &self,
        parts: &Parts,
        meaning: &request::Request,
        calling: &Calling,
        asked: Asked,
        body: Received,
        tongue: &Tongue,
    ) -> Result<(Asked, Received), Response<Answer<R>>> {
        let read = calling.read(&self.flow, &parts.headers, meaning, body);
        let read = match read.await {
            Ok(read) => read,
            Err(unread) => {
                let kind = ActionKind::LlmCall;
                return Err(Box::pin(self.refuse_unread(kind, unread, tongue)).await);
            }
        };
        asked.grew(read.size);
        let user = Context {
            user: read.user,
            ..Context::default()
        };
        let asked = asked.calling(read.llm).demanding(read.demand);
        let asked = asked.saying(read.content);
        let asked = asked.claiming(ClaimSource::Llm, user);
        Ok((asked, read.body))
    }
}
