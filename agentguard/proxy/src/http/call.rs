//! Calls of language models: the content of one is read before it is decided on.

use std::future::pending;

use agentguard_decision::{Fingerprint, Recorder};
use agentguard_model::{Demand, Llm, LlmApi, LlmOperation, Provider};
use agentguard_protocol::llm::{CallReader, Endpoint, NotUnderstood, Retrieved, Route, realtime};
use agentguard_protocol::media_type::says_form;
use agentguard_protocol::request;
use http::{HeaderMap, Method, header};
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
    route: Route,
    /// Whether it asks for an answer to another call, and nothing else.
    fetches: Fetches,
    /// Whether its server may go by another method than it has.
    overridden: bool,
}

/// Whether a request asks for an answer to a call that was made before, and nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fetches {
    /// All that it asks for is in its target.
    Yes,
    /// Its content says so, if it does.
    ByContent,
    No,
}

/// A call as it is decided on.
pub(crate) struct Read {
    pub(crate) llm: Llm,
    /// How much content it has, as far as that is known: what came, or what it decodes to, if that is more.
    pub(crate) size: u64,
    /// What it may have the model read and write.
    pub(crate) demand: Demand,
    /// The number of what it says, where that is to be known again.
    pub(crate) content: Option<u64>,
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
        fields: &HeaderMap,
        meaning: &request::Request,
    ) -> Option<Self> {
        let host = flow.target.host.as_ref()?;
        let provider = flow.guard.decider.provider(host)?;
        let route = Route::of(provider.api, meaning.path.as_str())?;
        let websocket = meaning.websocket.is_some();
        let overridden = route.is_overridden(fields, meaning.query.as_deref());
        let route = route.called(method, websocket, overridden)?;
        let fetches = match (route.endpoint, method) {
            _ if websocket || overridden => Fetches::No,
            (Endpoint::Retrieved(Retrieved::Cancelled), &Method::POST) => Fetches::Yes,
            (Endpoint::Retrieved(Retrieved::Cancelled), _) => Fetches::No,
            (Endpoint::Retrieved(_), &Method::GET) => Fetches::Yes,
            (Endpoint::Retrieved(Retrieved::Chat), &Method::POST) => Fetches::ByContent,
            _ => Fetches::No,
        };
        Some(Self {
            provider,
            route,
            fetches,
            overridden,
        })
    }

    /// In which form its client reads an error.
    pub(crate) const fn api(&self) -> LlmApi {
        self.route.endpoint.api()
    }

    /// Where it goes.
    pub(crate) const fn endpoint(&self) -> Endpoint {
        self.route.endpoint
    }

    /// Whether all that it asks for is in its target: an answer to a call that is over.
    pub(crate) const fn only_fetches(&self) -> bool {
        matches!(self.fetches, Fetches::Yes)
    }

    /// What is known of the calls on the connection that it opens, if it opens one for calls that are read.
    pub(crate) fn opens(&self, meaning: &request::Request) -> Option<Llm> {
        meaning.websocket.as_ref()?;
        match self.endpoint() {
            // Which model its calls name would not be the one that is called.
            Endpoint::Responses if self.names_model(meaning) => None,
            Endpoint::Responses => Some(self.unread()),
            Endpoint::Realtime => Some(Llm {
                model: self.session(meaning).ok()?,
                ..self.unread()
            }),
            _ => None,
        }
    }

    /// Whether its target names a model.
    fn names_model(&self, meaning: &request::Request) -> bool {
        let query = meaning.query.as_deref().unwrap_or_default();
        let of_path = self.route.model(None);
        !matches!(of_path, Ok(None)) || Route::names_another(query, None)
    }

    /// The model that the session of Realtime is for that it opens.
    fn session(&self, meaning: &request::Request) -> Result<Option<String>, NotUnderstood> {
        let query = meaning.query.as_deref().unwrap_or_default();
        let named = realtime::model_of(query)?;
        let model = self.route.model(named.clone())?;
        match named {
            // A deployment may stand in the path, too.
            Some(named) if model.as_ref() != Some(&named) => Err(NotUnderstood::Wrong("model")),
            _ => Ok(model),
        }
    }

    /// Whether its client may have another way than WebSocket: a session of Realtime has none.
    pub(crate) fn goes_without(&self) -> bool {
        self.endpoint() != Endpoint::Realtime
    }

    /// What it is for. What stands in the place of an answer, and fetches none, may be a call of what it is the answer to.
    const fn operation(&self) -> LlmOperation {
        match (self.endpoint(), self.fetches) {
            (endpoint, Fetches::Yes) => endpoint.operation(),
            (Endpoint::Retrieved(Retrieved::Batch), _) => Endpoint::MessageBatches.operation(),
            (Endpoint::Retrieved(Retrieved::Kept | Retrieved::Interaction), _) => {
                Endpoint::Interactions.operation()
            }
            (endpoint, _) => endpoint.answers_as().operation(),
        }
    }

    /// Of which nothing but where it goes is known: the model too, where nothing of a form is read and the path
    /// names it.
    fn unread(&self) -> Llm {
        Llm {
            provider: self.provider.name.clone(),
            operation: self.operation(),
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
            let why = match self.endpoint() {
                Endpoint::Realtime => self.session(meaning).err().map(|why| why.to_string()),
                _ => None,
            };
            let why =
                why.unwrap_or_else(|| "calls of this kind over WebSocket are not read".into());
            return Ok(Read {
                llm: self.not_understood(why),
                size: 0,
                demand: Demand::default(),
                content: None,
                user: None,
                body,
            });
        }
        let is_answer = matches!(self.endpoint(), Endpoint::Retrieved(_));
        if is_answer && self.fetches != Fetches::ByContent {
            let llm = match self.fetches {
                Fetches::Yes => self.unread(),
                Fetches::ByContent | Fetches::No => {
                    self.not_understood(NotUnderstood::Form.to_string())
                }
            };
            return Ok(Read {
                llm,
                size: 0,
                demand: Demand::default(),
                content: None,
                user: None,
                body,
            });
        }
        let reader = CallReader::new(self.endpoint());
        let mut content = Unpacked::new(reader, fields, |memory| flow.room(memory));
        let mut print = flow.guard.decider.knows_again().then(Fingerprint::default);
        // As a form JSON is one field, unless something in it ends that; what is coded may be any form.
        // Ollama's own is JSON for its server whatever its type is, and the examples of its reference are sent as forms.
        let says_form = self.api() != LlmApi::Ollama && says_form(fields);
        let mut as_form = says_form && fields.contains_key(header::CONTENT_ENCODING);
        let held = Held::read_in_turns(
            body,
            pending(),
            |memory| flow.room(memory),
            |piece| {
                let pushed = content.push(piece);
                let taken = piece.get(..pushed.taken).unwrap_or(piece);
                as_form |= says_form && taken.iter().any(|byte| matches!(byte, b'&' | b';'));
                if let Some(print) = &mut print {
                    print.push(taken);
                }
                pushed
            },
        );
        let (held, holding) = match timeout(flow.guard.limits.call, held).await {
            Ok(held) => held.map_err(Unread::Broken)?,
            Err(_) => return Err(Unread::Late),
        };
        let size = content.decoded.max(held.size() as u64);
        let whole = matches!(holding, Holding::Whole);
        let call = match holding {
            Holding::Whole => content
                .finish()
                .and_then(|reader| reader.finish().map_err(|why| why.to_string())),
            Holding::Beyond(why) => Err(why.to_owned()),
        };
        let call = call.and_then(|mut call| {
            if self.overridden {
                return Err(NotUnderstood::Method.to_string());
            }
            if as_form {
                return Err(NotUnderstood::AsForm.to_string());
            }
            if !is_answer {
                let model = self.route.model(call.model.take());
                call.model = model.map_err(|why| why.to_string())?;
            }
            let named = call.names_one(call.model.as_deref());
            named.map_err(|why| why.to_string())?;
            let query = meaning.query.as_deref().unwrap_or_default();
            match Route::names_another(query, call.model.as_deref()) {
                true => Err(NotUnderstood::Models.to_string()),
                false => Ok(call),
            }
        });
        let (mut user, mut demand) = (None, Demand::default());
        let llm = match call {
            Ok(call) => {
                (user, demand) = (call.user, call.demand);
                Llm {
                    operation: self.endpoint().operation(),
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
            demand,
            content: print.filter(|_| whole).map(|it| it.finish()),
            user,
            body: Received::Held(held),
        })
    }
}
