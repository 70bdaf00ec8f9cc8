//! Messages to servers of tools: the content of one is read before it is decided on.

use agentguard_decision::Recorder;
use agentguard_model::Tool;
use agentguard_protocol::mcp::{Claims, LIST, MessageReader, NotUnderstood, Questions};
use agentguard_protocol::request;
use http::request::Parts;
use http::{Method, header};
use hyper::body::Body as _;
use tokio::time::timeout;

use crate::Port;
use crate::connection::Flow;
use crate::http::body::Received;
use crate::http::call::Unread;
use crate::http::growth::Judge as _;
use crate::http::held::{Held, Holding, ROOM};
use crate::http::unpacked::{Reads, Unpacked};

/// The most that a message may take while it is read: see [`agentguard_protocol::json::Builder`]. What takes more is
/// not understood.
const MAX_KEPT: usize = 8 * 1024 * 1024;

/// A request to a server of tools, by its head.
pub(crate) struct Messaging {
    server: String,
    /// Whether its lists of tools are looked at before agents are shown them.
    looks: bool,
}

/// Messages as they are decided on.
pub(crate) struct Read {
    pub(crate) messages: Vec<Tool>,
    /// How much content the request has, as far as that is known: what came, or what it decodes to, if that is
    /// more.
    pub(crate) size: u64,
    /// Sent on, as it came.
    pub(crate) body: Received,
    /// What waits for an answer.
    pub(crate) questions: Questions,
    /// Whether a list of tools is asked for that is looked at before the agent is shown it.
    pub(crate) filtered: bool,
}

impl Reads for MessageReader {
    type Fault = NotUnderstood;

    fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        Self::push(self, bytes)
    }
}

impl Messaging {
    /// Whether a request is one, by where it goes.
    pub(crate) fn of<R: Recorder, P: Port>(
        flow: &Flow<R, P>,
        meaning: &request::Request,
    ) -> Option<Self> {
        let host = flow.target.host.as_ref()?;
        let (server, looks) = flow
            .guard
            .decider
            .tool_server(host, meaning.path.as_str())?;
        Some(Self { server, looks })
    }

    /// Whether what it answers is looked at before the agent is shown it.
    pub(crate) const fn looks(&self) -> bool {
        self.looks
    }

    /// The server's name.
    pub(crate) fn server(&self) -> &str {
        &self.server
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
                server: self.server.clone(),
                ..Tool::default()
            };
            return Ok(self.told(vec![tool], body));
        };
        if let Some(why) = unread {
            return Ok(self.told(vec![self.not_understood(why)], body));
        }
        let room = |memory| flow.room(memory);
        let reader = MessageReader::new(MAX_KEPT);
        let mut content = Unpacked::new(reader, &parts.headers, room);
        // For what is kept of it while it is read.
        let mut rooms = Vec::new();
        let held = Held::read(body, room, |piece| {
            content.push(piece);
            while content.fault.is_none() && rooms.len() < content.reader.used().div_ceil(ROOM) {
                match room(ROOM) {
                    Some(more) => rooms.push(more),
                    None => {
                        let why = "too much content is being held at once";
                        content.fault = Some(why.to_owned());
                    }
                }
            }
        });
        let (held, holding) = match timeout(flow.guard.limits.call, held).await {
            Ok(held) => held.map_err(Unread::Broken)?,
            Err(_) => return Err(Unread::Late),
        };
        let size = content.decoded.max(held.size() as u64);
        let read = match holding {
            Holding::Whole => content.finish(),
            Holding::Beyond(why) => Err(why.to_owned()),
        };
        let pointers = flow.guard.decider.looked_at_arguments();
        let pointers: Vec<&str> = pointers.iter().map(String::as_str).collect();
        let read = read.and_then(|reader| {
            let claims = Claims::read(&parts.headers);
            let read = claims.and_then(|claims| reader.finish(&self.server, &claims, &pointers));
            read.map_err(|why| why.to_string())
        });
        let body = Received::Held(held);
        let Ok(sent) = read.as_ref() else {
            let why = read.err().unwrap_or_default();
            return Ok(Read {
                size,
                ..self.told(vec![self.not_understood(&why)], body)
            });
        };
        let lists = |tool: &Tool| tool.method.as_deref() == Some(LIST);
        Ok(Read {
            size,
            questions: Questions::of(&sent.messages, sent.batch, reads_here(parts)),
            filtered: self.looks && sent.messages.iter().any(lists),
            ..self.told(sent.messages.clone(), body)
        })
    }

    fn told(&self, messages: Vec<Tool>, body: Received) -> Read {
        Read {
            messages,
            size: 0,
            body,
            questions: Questions::default(),
            filtered: false,
        }
    }

    /// Of which nothing but where it goes is known, for this reason.
    fn not_understood(&self, why: &str) -> Tool {
        Tool {
            server: self.server.clone(),
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
