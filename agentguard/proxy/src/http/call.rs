//! Calls of language models: the content of one is read before it is decided on.

use agentguard_decision::Recorder;
use agentguard_model::{Llm, LlmApi, Provider};
use agentguard_protocol::llm::{CallReader, Endpoint, NotUnderstood, model_in};
use agentguard_protocol::request;
use http::{HeaderMap, Method};
use tokio::time::timeout;

use crate::Port;
use crate::connection::Flow;
use crate::http::body::{BodyFailed, Received};
use crate::http::growth::Judge as _;
use crate::http::held::{Held, Holding};
use crate::http::unpacked::{Reads, Unpacked};

/// A request that is a call, by its head.
pub(crate) struct Calling {
    provider: Provider,
    endpoint: Endpoint,
}

/// A call as it is decided on.
pub(crate) struct Read {
    pub(crate) llm: Llm,
    /// How much content it has, as far as that is known: what came, or what it decodes to, if that is more.
    pub(crate) size: u64,
    /// Sent on, as it came.
    pub(crate) body: Received,
}

/// Why a call was not read to its end.
pub(crate) enum Unread {
    /// Its client broke off.
    Broken(BodyFailed),
    /// Its client took too long.
    Late,
}

impl Reads for CallReader {
    type Fault = NotUnderstood;

    fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        Self::push(self, bytes)
    }
}

impl Calling {
    /// Whether a request is one, by where it goes.
    pub(crate) fn of<R: Recorder, P: Port>(
        flow: &Flow<R, P>,
        method: &Method,
        meaning: &request::Request,
    ) -> Option<Self> {
        let quiet = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if quiet && meaning.websocket.is_none() {
            return None;
        }
        let host = flow.target.host.as_ref()?;
        let provider = flow.guard.decider.provider(host)?;
        let endpoint = Endpoint::of(provider.api, meaning.path.as_str())?;
        Some(Self { provider, endpoint })
    }

    /// In which form its client reads an error.
    pub(crate) const fn api(&self) -> LlmApi {
        self.provider.api
    }

    /// Where it goes.
    pub(crate) const fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Of which nothing but where it goes is known, for this reason.
    fn not_understood(&self, why: impl Into<String>) -> Llm {
        Llm {
            provider: self.provider.name.clone(),
            operation: self.endpoint.operation(),
            model: None,
            stream: false,
            max_output_tokens: None,
            tools: Vec::new(),
            not_understood: Some(why.into()),
        }
    }

    /// Reads its content. What opens a WebSocket has none, and what comes behind is not read.
    ///
    /// # Errors
    /// It did not come to its end.
    pub(crate) async fn read<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        fields: &HeaderMap,
        meaning: &request::Request,
        body: Received,
    ) -> Result<Read, Unread> {
        if meaning.websocket.is_some() {
            return Ok(Read {
                llm: self.not_understood("calls over WebSocket are not read"),
                size: 0,
                body,
            });
        }
        let reader = CallReader::new(self.endpoint);
        let mut content = Unpacked::new(reader, fields, |memory| flow.room(memory));
        let held = Held::read(
            body,
            |memory| flow.room(memory),
            |piece| content.push(piece),
        );
        let (held, holding) = match timeout(flow.guard.limits.call, held).await {
            Ok(held) => held.map_err(Unread::Broken)?,
            Err(_) => return Err(Unread::Late),
        };
        let size = content.decoded.max(held.size() as u64);
        let call = match holding {
            Holding::Whole => content
                .finish()
                .and_then(|reader| reader.finish().map_err(|why| why.to_string())),
            Holding::Beyond(why) => Err(why.to_owned()),
        };
        let llm = match call {
            Ok(call) => Llm {
                // A deployment is what is called, whatever the content says.
                model: model_in(meaning.path.as_str())
                    .map(str::to_owned)
                    .or(call.model),
                stream: call.stream,
                max_output_tokens: call.max_output_tokens,
                tools: call.tools,
                provider: self.provider.name.clone(),
                operation: self.endpoint.operation(),
                not_understood: None,
            },
            Err(why) => self.not_understood(why),
        };
        Ok(Read {
            llm,
            size,
            body: Received::Held(held),
        })
    }
}
