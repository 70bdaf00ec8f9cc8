//! Messages to servers of tools: the content of one is read before it is decided on.

use std::future::pending;
use std::sync::Arc;

use agentguard_decision::{Asked, Listing, Pinning, Recorder, ToolServer};
use agentguard_model::{Tool, ToolApi};
use agentguard_protocol::api::a2a;
use agentguard_protocol::api::graphql::{self, Asker};
use agentguard_protocol::api::http::{ContentReader, Place, names};
use agentguard_protocol::api::json_rpc::CallReader;
use agentguard_protocol::api::{self, grpc};
use agentguard_protocol::mcp::{self, Claims, LIST, MessageReader, Questions, Sent};
use agentguard_protocol::request;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use hyper::body::Body as _;
use tokio::time::timeout;

use crate::Port;
use crate::connection::Flow;
use crate::http::body::Received;
use crate::http::call::Unread;
use crate::http::changed::Content;
use crate::http::growth::Judge as _;
use crate::http::held::{Held, Holding, ROOM};
use crate::http::listed::Form;
use crate::http::says::Answering;
use crate::http::sessions;
use crate::http::tongue::Tongue;
use crate::http::unpacked::{Reads, Unpacked};

/// The most that a message may take while it is read: see [`agentguard_protocol::json::Builder`]. What takes more is
/// not understood.
const MAX_KEPT: usize = 8 * 1024 * 1024;

/// A request to a server of tools, by its head.
pub(crate) struct Messaging(Arc<ToolServer>);

/// Messages as they are decided on.
pub(crate) struct Read {
    pub(crate) messages: Vec<Tool>,
    /// How much content the request has, as far as that is known: what came, or what it decodes to, if that is
    /// more.
    pub(crate) size: u64,
    /// Sent on, as it came.
    pub(crate) body: Received,
    /// In which form its client reads a refusal, where it has one of its own.
    pub(crate) tongue: Option<Tongue>,
    /// Whether a list of tools is asked for of which agents are shown a part.
    pub(crate) filtered: bool,
}

/// What keeps what it reads.
pub(super) trait Keeps: Reads {
    /// How much memory what was read takes.
    fn used(&self) -> usize;
}

macro_rules! keeps {
    ($reader:ty, $fault:ty) => {
        impl Reads for $reader {
            type Fault = $fault;

            fn push(&mut self, bytes: &[u8]) -> Result<(), $fault> {
                Self::push(self, bytes)
            }
        }

        impl Keeps for $reader {
            fn used(&self) -> usize {
                Self::used(self)
            }
        }
    };
}

keeps!(MessageReader, mcp::NotUnderstood);
keeps!(ContentReader, api::NotUnderstood);
keeps!(CallReader, api::NotUnderstood);
keeps!(a2a::CallReader, api::NotUnderstood);
keeps!(graphql::CallReader, api::NotUnderstood);

/// Content that was read.
pub(super) struct WasRead<T> {
    pub(super) held: Held,
    /// How much it is, as far as that is known.
    size: u64,
    /// Who has read all of it, or why it is not understood.
    pub(super) reader: Result<T, String>,
}

/// Reads content to its end, and holds it.
pub(super) async fn content<T: Keeps, R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    fields: &HeaderMap,
    reader: T,
    body: Received,
) -> Result<WasRead<T>, Unread> {
    let room = |memory| flow.room(memory);
    let mut content = Unpacked::new(reader, fields, room);
    // For what is kept of it while it is read.
    let mut rooms = Vec::new();
    let held = Held::read_in_turns(body, pending(), room, |piece| {
        let pushed = content.push(piece);
        while content.fault.is_none() && rooms.len() < content.reader.used().div_ceil(ROOM) {
            match room(ROOM) {
                Some(more) => rooms.push(more),
                None => {
                    let why = "too much content is being held at once";
                    content.fault = Some(why.to_owned());
                }
            }
        }
        pushed
    });
    let (held, holding) = match timeout(flow.guard.limits.call, held).await {
        Ok(held) => held.map_err(Unread::Broken)?,
        Err(_) => return Err(Unread::Late),
    };
    let size = content.decoded.max(held.size() as u64);
    let reader = match holding {
        Holding::Whole => content.finish(),
        Holding::Beyond(why) => Err(why.to_owned()),
    };
    Ok(WasRead { held, size, reader })
}

/// With the arguments that rules look at.
fn with_pointers<T, R: Recorder, P: Port>(flow: &Flow<R, P>, read: impl FnOnce(&[&str]) -> T) -> T {
    let pointers = flow.guard.decider.looked_at_arguments();
    let pointers: Vec<&str> = pointers.iter().map(String::as_str).collect();
    read(&pointers)
}

impl Messaging {
    /// Whether a request is one, by where it goes.
    pub(crate) fn of<R: Recorder, P: Port>(
        flow: &Flow<R, P>,
        meaning: &request::Request,
    ) -> Option<Self> {
        let host = flow.target.host.as_ref()?;
        let decider = &flow.guard.decider;
        decider.tool_server(host, meaning.path.as_str()).map(Self)
    }

    /// Whether what it answers is looked at before the agent is shown it. `list`: what was asked for lists tools, or is a
    /// card.
    pub(crate) fn looks(&self, list: bool) -> bool {
        match self.0.api {
            ToolApi::A2a => list && self.0.pin != Pinning::Off,
            api => api.is_mcp() && (self.0.list == Listing::Allowed || self.0.pin != Pinning::Off),
        }
    }

    /// In which form that is.
    pub(crate) fn looked_at(&self, asked: &Asked) -> Form {
        match self.0.api {
            ToolApi::A2a => {
                let call = asked.seen().tool;
                Form::Card {
                    name: call.map_or("", a2a::card_name),
                    in_result: call.is_some_and(|call| call.id.is_some()),
                }
            }
            _ => Form::Lists,
        }
    }

    /// The server's name.
    pub(crate) fn server(&self) -> &str {
        &self.0.name
    }

    /// Notes whose session an answer begins, if it does.
    pub(crate) fn begun<R: Recorder, P: Port>(&self, flow: &Flow<R, P>, fields: &HeaderMap) {
        if self.has_sessions() {
            flow.guard
                .sessions
                .begun(self.server(), fields, flow.client.agent);
        }
    }

    /// The session that a request says it belongs to.
    pub(crate) fn session(&self, fields: &HeaderMap) -> Option<String> {
        self.has_sessions()
            .then(|| sessions::named(fields))
            .flatten()
    }

    /// That a request names another agent's session, in words.
    pub(crate) fn foreign<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        fields: &HeaderMap,
    ) -> Option<String> {
        let (server, agent) = (self.server(), flow.client.agent);
        let sessions = &flow.guard.sessions;
        let is_foreign = self.has_sessions() && sessions.is_of_another(server, fields, agent);
        is_foreign.then(|| format!("The session of {server} is another agent's."))
    }

    /// What a request to it has, where that is to be changed.
    pub(crate) fn content(&self, parts: &Parts, meaning: &request::Request) -> Content {
        let mut elsewhere = Vec::new();
        if self.0.api == ToolApi::Http {
            let routed = self.0.route(parts.method.as_str(), meaning.path.as_str());
            let parameters = routed.map(|it| it.parameters).unwrap_or_default();
            elsewhere.extend(parameters.into_iter().map(|(name, _)| name));
            elsewhere.extend(names(meaning.query.as_deref().unwrap_or_default()));
        }
        let mut api = self.0.api;
        if api == ToolApi::A2a {
            match a2a::Route::read(&parts.method, meaning.path.as_str()) {
                Ok(a2a::Route::Rest { parameters, .. }) => {
                    elsewhere.extend(parameters.into_iter().map(|(name, _)| name));
                    elsewhere.extend(names(meaning.query.as_deref().unwrap_or_default()));
                }
                _ => api = ToolApi::JsonRpc,
            }
        }
        Content::Messages { api, elsewhere }
    }

    /// Whether it is spoken to over MCP, which has sessions.
    fn has_sessions(&self) -> bool {
        self.0.api == ToolApi::Mcp
    }

    /// Who reads its answers: those of MCP are read, and those of agents.
    pub(crate) fn answering(&self, asked: &Asked) -> Option<Answering> {
        match self.0.api {
            ToolApi::Mcp => Some(Answering::Tools),
            ToolApi::A2a => {
                let call = asked.seen().tool?;
                let operation = a2a::Operation::of_method(call.name.as_deref()?)?;
                let in_result = call.id.is_some();
                Some(Answering::Agent(a2a::Answered {
                    operation,
                    in_result,
                }))
            }
            _ => None,
        }
    }

    /// Reads what is asked of it.
    ///
    /// # Errors
    /// It did not come to its end.
    pub(crate) async fn read<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        parts: &Parts,
        meaning: &request::Request,
        body: Received,
    ) -> Result<Read, Unread> {
        match self.0.api {
            // None of those on the agent's own host answers anywhere in the network.
            ToolApi::Mcp | ToolApi::McpStdio | ToolApi::Hook => {
                self.read_mcp(flow, parts, meaning, body).await
            }
            _ if meaning.websocket.is_some() => {
                let why = "calls over WebSocket are not read";
                Ok(self.told(vec![self.not_understood(why)], body))
            }
            ToolApi::Http => self.read_http(flow, parts, meaning, body).await,
            ToolApi::Grpc => {
                let path = meaning.path.as_str();
                let call = grpc::call(&self.0.name, &parts.method, path, &parts.headers);
                let call = call.unwrap_or_else(|why| self.not_understood(&why.to_string()));
                Ok(self.told(vec![call], body))
            }
            ToolApi::JsonRpc => self.read_json_rpc(flow, parts, body).await,
            ToolApi::Graphql => self.read_graphql(flow, parts, meaning, body).await,
            ToolApi::A2a => self.read_a2a(flow, parts, meaning, body).await,
        }
    }

    /// A call of an HTTP API.
    async fn read_http<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        parts: &Parts,
        meaning: &request::Request,
        body: Received,
    ) -> Result<Read, Unread> {
        let routed = match self.0.route(parts.method.as_str(), meaning.path.as_str()) {
            Ok(routed) => routed,
            Err(why) => return Ok(self.told(vec![self.not_understood(&why.to_string())], body)),
        };
        let reader = ContentReader::new(&parts.headers, MAX_KEPT);
        let content = content(flow, &parts.headers, reader, body).await?;
        let place = Place {
            server: &self.0.name,
            name: &routed.name,
            parameters: &routed.parameters,
            query: meaning.query.as_deref(),
            lists: &routed.lists,
            types: &routed.types,
        };
        let call = content.reader.and_then(|reader| {
            let read = with_pointers(flow, |pointers| reader.finish(place, pointers));
            read.map_err(|why| why.to_string())
        });
        let call = call.unwrap_or_else(|why| self.not_understood(&why));
        Ok(Read {
            size: content.size,
            ..self.told(vec![call], Received::Held(content.held))
        })
    }

    /// Calls of JSON-RPC.
    async fn read_json_rpc<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        parts: &Parts,
        body: Received,
    ) -> Result<Read, Unread> {
        if parts.method != Method::POST {
            let why = "JSON-RPC has no requests of this method";
            return Ok(self.told(vec![self.not_understood(why)], body));
        }
        let reader = CallReader::new(&parts.headers, MAX_KEPT);
        let content = content(flow, &parts.headers, reader, body).await?;
        let sent = self.sent(content.reader, |reader: CallReader, server| {
            with_pointers(flow, |pointers| reader.finish(server, pointers))
        });
        Ok(Read {
            size: content.size,
            tongue: Some(Tongue::Mcp(Questions::of_json_rpc(
                &sent.messages,
                sent.batch,
            ))),
            ..self.told(sent.messages, Received::Held(content.held))
        })
    }

    /// A request to an agent.
    async fn read_a2a<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        parts: &Parts,
        meaning: &request::Request,
        body: Received,
    ) -> Result<Read, Unread> {
        let route = match a2a::Route::read(&parts.method, meaning.path.as_str()) {
            Ok(route) => route,
            Err(why) => {
                return Ok(Read {
                    tongue: Some(Tongue::A2a),
                    ..self.told(vec![self.not_understood(&why.to_string())], body)
                });
            }
        };
        let reader = a2a::CallReader::new(&parts.headers, MAX_KEPT);
        let content = content(flow, &parts.headers, reader, body).await?;
        let place = a2a::Place {
            server: &self.0.name,
            method: &parts.method,
            route: &route,
            query: meaning.query.as_deref(),
        };
        let call = content.reader.and_then(|reader| {
            let read = with_pointers(flow, |pointers| reader.finish(place, pointers));
            read.map_err(|why| why.to_string())
        });
        let messages = vec![call.unwrap_or_else(|why| self.not_understood(&why))];
        let asks = Questions::of_json_rpc(&messages, false);
        let extended = a2a::Operation::GetExtendedAgentCard.name();
        let card = |tool: &Tool| {
            let name = tool.name.as_ref();
            tool.not_understood.is_none() && name.is_none_or(|name| name == extended)
        };
        Ok(Read {
            size: content.size,
            tongue: Some(match route {
                a2a::Route::JsonRpc => Tongue::Mcp(asks),
                a2a::Route::Card | a2a::Route::Rest { .. } => Tongue::A2a,
            }),
            filtered: self.looks(true) && messages.iter().all(card),
            ..self.told(messages, Received::Held(content.held))
        })
    }

    /// Calls of GraphQL. Some servers take a request from the query by POST as well, rather than from the content.
    async fn read_graphql<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        parts: &Parts,
        meaning: &request::Request,
        body: Received,
    ) -> Result<Read, Unread> {
        let query = meaning.query.as_deref().unwrap_or_default();
        if parts.method == Method::GET && body.is_end_stream() {
            let read = with_pointers(flow, |pointers| {
                graphql::of_query(query, MAX_KEPT, &self.0.name, pointers)
            });
            let calls = read.map(|sent| sent.messages);
            let calls = calls.unwrap_or_else(|why| vec![self.not_understood(&why.to_string())]);
            return Ok(Read {
                tongue: Some(Tongue::Graphql(Asker::new(&parts.headers, false))),
                ..self.told(calls, body)
            });
        }
        let unread = if parts.method != Method::POST {
            Some("GraphQL is read in requests by POST, and by GET without content")
        } else if meaning.query.as_ref().is_some_and(|it| !it.is_empty()) {
            Some("GraphQL is not read where there is a query in the target")
        } else {
            None
        };
        if let Some(why) = unread {
            return Ok(Read {
                tongue: Some(Tongue::Graphql(Asker::new(&parts.headers, false))),
                ..self.told(vec![self.not_understood(why)], body)
            });
        }
        let reader = graphql::CallReader::new(&parts.headers, MAX_KEPT);
        let content = content(flow, &parts.headers, reader, body).await?;
        let sent = self.sent(content.reader, |reader: graphql::CallReader, server| {
            with_pointers(flow, |pointers| reader.finish(server, pointers))
        });
        let asker = Asker::new(&parts.headers, sent.batch);
        Ok(Read {
            size: content.size,
            tongue: Some(Tongue::Graphql(asker)),
            ..self.told(sent.messages, Received::Held(content.held))
        })
    }

    /// Messages of MCP.
    async fn read_mcp<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        parts: &Parts,
        meaning: &request::Request,
        body: Received,
    ) -> Result<Read, Unread> {
        let quiet = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE];
        let unread = if meaning.websocket.is_some() {
            Some("messages over WebSocket are not read")
        } else if parts.method == Method::POST {
            None
        } else if !quiet.contains(&parts.method) {
            Some("MCP has no requests of this method")
        } else if !body.is_end_stream() {
            Some("MCP has no content in requests but those of POST")
        } else {
            // It opens a stream, or ends a session.
            let tool = Tool {
                server: self.0.name.clone(),
                ..Tool::default()
            };
            return Ok(self.told(vec![tool], body));
        };
        if let Some(why) = unread {
            let posted = parts.method == Method::POST;
            return Ok(Read {
                tongue: posted.then(|| Tongue::Mcp(Questions::default())),
                ..self.told(vec![self.not_understood(why)], body)
            });
        }
        let reader = MessageReader::new(MAX_KEPT);
        let content = content(flow, &parts.headers, reader, body).await?;
        let (size, body) = (content.size, Received::Held(content.held));
        let read = content.reader.and_then(|reader| {
            let claims = Claims::read(&parts.headers);
            let server = &self.0.name;
            let read = claims.and_then(|claims| {
                with_pointers(flow, |pointers| reader.finish(server, &claims, pointers))
            });
            read.map_err(|why| why.to_string())
        });
        let sent = match read {
            Ok(sent) => sent,
            Err(why) => {
                return Ok(Read {
                    size,
                    // Nobody knows what waits for it: by the stream it would wait on.
                    tongue: Some(Tongue::Mcp(Questions::default())),
                    ..self.told(vec![self.not_understood(&why)], body)
                });
            }
        };
        let lists = |tool: &Tool| tool.method.as_deref() == Some(LIST);
        Ok(Read {
            size,
            tongue: Some(self.tongue(
                flow,
                parts,
                Questions::of(&sent.messages, sent.batch, reads_here(parts)),
            )),
            filtered: self.looks(true) && sent.messages.iter().any(lists),
            ..self.told(sent.messages, body)
        })
    }

    /// How the client of a message reads what it is refused with.
    fn tongue<R: Recorder, P: Port>(
        &self,
        flow: &Flow<R, P>,
        parts: &Parts,
        questions: Questions,
    ) -> Tongue {
        let (streams, agent) = (&flow.guard.streams, flow.client.agent);
        let stream = match reads_here(parts) {
            true => None,
            false => streams.of(self.server(), agent, &parts.uri),
        };
        match stream {
            Some(stream) => Tongue::McpStream(questions, stream),
            None => Tongue::Mcp(questions),
        }
    }

    /// The calls that content is, or the one that is not understood.
    fn sent<T>(
        &self,
        reader: Result<T, String>,
        finish: impl FnOnce(T, &str) -> Result<Sent, api::NotUnderstood>,
    ) -> Sent {
        let read = reader.and_then(|reader| {
            let read = finish(reader, &self.0.name);
            read.map_err(|why| why.to_string())
        });
        read.unwrap_or_else(|why| Sent {
            messages: vec![self.not_understood(&why)],
            batch: false,
        })
    }

    fn told(&self, messages: Vec<Tool>, body: Received) -> Read {
        Read {
            messages,
            size: 0,
            body,
            tongue: None,
            filtered: false,
        }
    }

    /// Of which nothing but where it goes is known, for this reason.
    fn not_understood(&self, why: &str) -> Tool {
        Tool {
            server: self.0.name.clone(),
            not_understood: Some(why.to_owned()),
            ..Tool::default()
        }
    }
}

/// Whether a client reads the answer where it asked: those of streamable HTTP say that they take events.
fn reads_here(parts: &Parts) -> bool {
    let accepted = parts.headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|it| it.to_str().ok());
    accepted.any(|it| it.contains("text/event-stream"))
}
