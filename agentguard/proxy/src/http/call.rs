//! Calls of language models: the content of one is read before it is decided on.

use std::ops::ControlFlow;

use agentguard_decision::Recorder;
use agentguard_model::{Llm, LlmApi, Provider};
use agentguard_protocol::content::{Codings, Decoder};
use agentguard_protocol::llm::{Call, CallReader, Endpoint, NotUnderstood, Route};
use agentguard_protocol::request;
use http::{HeaderMap, Method};
use tokio::time::timeout;

use crate::Port;
use crate::connection::Flow;
use crate::decoders::Decoding;
use crate::http::body::{BodyFailed, Received};
use crate::http::growth::Judge as _;
use crate::http::held::{Held, Holding, MAX_HELD};

/// How much a coded call may decode to. Text in JSON comes to a tenth of what is held.
const MAX_DECODED: u64 = 4 * MAX_HELD as u64;

/// A request that is a call, by its head.
pub(crate) struct Calling {
    provider: Provider,
    route: Route,
}

/// A call as it is decided on.
pub(crate) struct Read {
    pub(crate) llm: Llm,
    /// How much content it has, as far as that is known: what came, or what it decodes to, if that is more.
    pub(crate) size: u64,
    /// Whom it says that it is for.
    pub(crate) user: Option<String>,
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

impl Calling {
    /// Whether a request is one, by where it goes.
    pub(crate) fn of<R: Recorder, P: Port>(
        flow: &Flow<R, P>,
        method: &Method,
        meaning: &request::Request,
    ) -> Option<Self> {
        let quiet = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let quiet = quiet && meaning.websocket.is_none();
        let host = flow.target.host.as_ref()?;
        let provider = flow.guard.decider.provider(host)?;
        let route = Route::of(provider.api, meaning.path.as_str())?;
        let by_path_alone = route.endpoint.by_path_alone() && *method != Method::OPTIONS;
        (!quiet || by_path_alone).then_some(Self { provider, route })
    }

    /// In which form its client reads an error.
    pub(crate) const fn api(&self) -> LlmApi {
        self.route.endpoint.api()
    }

    /// Where it goes.
    pub(crate) const fn endpoint(&self) -> Endpoint {
        self.route.endpoint
    }

    /// What is known of the calls on the connection that it opens, if it opens one for calls that are read.
    pub(crate) fn opens(&self, meaning: &request::Request) -> Option<Llm> {
        let read = meaning.websocket.is_some() && self.endpoint() == Endpoint::Responses;
        read.then(|| self.unread())
    }

    /// Of which nothing but where it goes is known: the model too, where nothing of a form is read and the path
    /// names it.
    fn unread(&self) -> Llm {
        Llm {
            provider: self.provider.name.clone(),
            operation: self.endpoint().operation(),
            model: match self.endpoint().is_unread() {
                true => self.route.model(None).unwrap_or_default(),
                false => None,
            },
            stream: false,
            max_output_tokens: None,
            tools: Vec::new(),
            asks: Vec::new(),
            asks_unread: false,
            not_understood: None,
        }
    }

    /// The same, for this reason.
    fn not_understood(&self, why: impl Into<String>) -> Llm {
        Llm {
            not_understood: Some(why.into()),
            ..self.unread()
        }
    }

    /// Reads its content. What opens a WebSocket has none, and what comes behind is not read: see [`Self::opens`].
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
                llm: self.not_understood("calls of this kind over WebSocket are not read"),
                size: 0,
                user: None,
                body,
            });
        }
        let mut content = Content::new(self.endpoint(), fields, |memory| flow.room(memory));
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
            Holding::Whole => content.finish(),
            Holding::Beyond(why) => Err(why.to_owned()),
        };
        let call = call.and_then(|mut call| {
            let model = self.route.model(call.model.take());
            call.model = model.map_err(|why| why.to_string())?;
            Ok(call)
        });
        let mut user = None;
        let llm = match call {
            Ok(call) => {
                user = call.user;
                Llm {
                    model: call.model,
                    stream: self.endpoint().streams().unwrap_or(call.stream),
                    max_output_tokens: call.max_output_tokens,
                    tools: call.tools,
                    ..self.unread()
                }
            }
            Err(why) => self.not_understood(why),
        };
        Ok(Read {
            llm,
            size,
            user,
            body: Received::Held(held),
        })
    }
}

/// Content as it is decoded and read.
struct Content {
    decoder: Option<(Box<Decoder>, Decoding)>,
    reader: CallReader,
    decoded: u64,
    fault: Option<String>,
}

impl Content {
    fn new(
        endpoint: Endpoint,
        fields: &HeaderMap,
        room: impl FnOnce(usize) -> Option<Decoding>,
    ) -> Self {
        let (mut decoder, mut fault) = (None, None);
        match Codings::read(fields) {
            Ok(codings) if codings.is_identity() => {}
            Ok(codings) => match room(codings.memory()) {
                Some(room) => {
                    decoder = Some((Box::new(Decoder::new(&codings, MAX_DECODED)), room));
                }
                None => fault = Some("too much content is being unpacked at once".to_owned()),
            },
            Err(why) => fault = Some(why.to_string()),
        }
        Self {
            decoder,
            reader: CallReader::new(endpoint),
            decoded: 0,
            fault,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        let (reader, decoded) = (&mut self.reader, &mut self.decoded);
        let mut fault: Option<NotUnderstood> = None;
        let mut read = |bytes: &[u8]| {
            *decoded += bytes.len() as u64;
            fault = reader.push(bytes).err();
            match fault {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        };
        let pushed = match &mut self.decoder {
            None => {
                let _ = read(bytes);
                Ok(())
            }
            Some((decoder, _)) => decoder.push(bytes, &mut read).map(|_| ()),
        };
        let fault = pushed.err().map(NotUnderstood::from).or(fault);
        self.fault = fault.map(|fault| fault.to_string());
    }

    fn finish(self) -> Result<Call, String> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if let Some((decoder, _)) = &self.decoder {
            decoder.finish().map_err(|why| why.to_string())?;
        }
        self.reader.finish().map_err(|why| why.to_string())
    }
}
