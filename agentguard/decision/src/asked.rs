//! A request from its head to its end: what its decisions are taken on.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentguard_model::{Claim, ClaimSource, Context, Demand, Llm, Tool};
use agentguard_policy::{Query, Request, Seen};
use http::HeaderMap;

/// A request that is decided, and decided again while it is under way.
#[derive(Debug)]
pub struct Asked {
    head: Arc<Head>,
    body: AtomicU64,
    /// How many bytes of content leave with it, as far as that is known: coded as they are.
    sent: AtomicU64,
    tls: bool,
    websocket: bool,
    llm: Option<Llm>,
    demand: Demand,
    /// What it says, as a number that is the same for the same.
    content: Option<u64>,
    opens_calls: bool,
    claims: Vec<Claim>,
    /// The messages to a server of tools that it has: one, or those of a batch.
    tools: Arc<[Tool]>,
    /// Whether it goes with another message, which stands for the request.
    is_beside: bool,
    /// Whether it is a message of a request, which carries its bytes.
    is_message: bool,
}

/// What a connection carries, as far as it is read.
#[derive(Clone, Copy, Debug)]
pub enum Spoken<'a> {
    /// A request.
    Request(&'a Asked),
    /// TLS that is not opened.
    Tls,
    /// What is neither HTTP nor TLS, or nothing yet.
    Other,
}

impl Spoken<'_> {
    /// As rules see it now: once, or with each of its messages.
    pub(crate) fn each(&self) -> Vec<Seen<'_>> {
        match self {
            Self::Request(asked) => asked.each().map(Seen::Request).collect(),
            Self::Tls | Self::Other => vec![self.seen()],
        }
    }

    /// As rules see it now.
    pub(crate) fn seen(&self) -> Seen<'_> {
        match self {
            Self::Request(asked) => Seen::Request(asked.seen()),
            Self::Tls => Seen::Tls,
            Self::Other => Seen::Never,
        }
    }
}

#[derive(Debug)]
struct Head {
    method: String,
    path: String,
    query: Option<Query>,
    fields: Option<HeaderMap>,
}

impl Asked {
    /// A request. The path is canonical, the fields are those that are passed on, and `body` is
    /// how much content it says that it has.
    #[must_use]
    pub fn new(
        method: &str,
        path: &str,
        query: Option<&str>,
        fields: HeaderMap,
        body: Option<u64>,
    ) -> Self {
        let head = Head {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.map(Query::new),
            fields: Some(fields),
        };
        Self {
            head: Arc::new(head),
            body: AtomicU64::new(body.unwrap_or(0)),
            sent: AtomicU64::new(body.unwrap_or(0)),
            tls: false,
            websocket: false,
            llm: None,
            demand: Demand::default(),
            content: None,
            opens_calls: false,
            claims: Vec::new(),
            tools: Arc::default(),
            is_beside: false,
            is_message: false,
        }
    }

    /// What is asked of tools on the agent's own host: there is no request around it.
    #[must_use]
    pub(crate) fn local() -> Self {
        Self::tunnel("", "")
    }

    /// The same inside TLS, which was opened.
    #[must_use]
    pub fn inside_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// The same, where it opens a WebSocket.
    #[must_use]
    pub fn opening_websocket(self) -> Self {
        Self {
            websocket: true,
            ..self
        }
    }

    /// The same, which is a call of a language model.
    #[must_use]
    pub fn calling(self, llm: Llm) -> Self {
        Self {
            llm: Some(llm),
            ..self
        }
    }

    /// The same call, which may have the model read and write this.
    #[must_use]
    pub fn demanding(self, demand: Demand) -> Self {
        Self { demand, ..self }
    }

    /// The same call, whose content has this number (see [`crate::Fingerprint`]).
    #[must_use]
    pub fn saying(self, content: Option<u64>) -> Self {
        Self { content, ..self }
    }

    /// The number of its content, where that is known.
    pub(crate) const fn content(&self) -> Option<u64> {
        self.content
    }

    /// What the call may have the model read and write.
    pub(crate) const fn demand(&self) -> &Demand {
        &self.demand
    }

    /// The same, which opens a connection for calls, of each of which no more than this is known.
    #[must_use]
    pub fn opening_calls(self, llm: Llm) -> Self {
        Self {
            llm: Some(llm),
            opens_calls: true,
            ..self
        }
    }

    /// The same, which has these messages to a server of tools. It is decided on the first of them; see
    /// [`Self::beside`].
    #[must_use]
    pub fn telling(self, tools: Vec<Tool>) -> Self {
        Self {
            tools: tools.into(),
            ..self
        }
    }

    /// A call on the connection that this request opened, in a message of so many bytes.
    #[must_use]
    pub fn turn(&self, llm: Llm, size: u64) -> Self {
        Self {
            body: AtomicU64::new(size),
            llm: Some(llm),
            opens_calls: false,
            ..self.message()
        }
    }

    /// Another call like this one, of which nothing is sent: it repeats nothing.
    #[must_use]
    pub fn followed(&self) -> Self {
        Self {
            body: AtomicU64::new(self.body.load(Ordering::Relaxed)),
            ..self.message()
        }
    }

    /// The same call, whose model asks to call these tools, or nobody knows which; none where it is no call.
    #[must_use]
    pub fn answered(&self, asks: Option<Vec<String>>) -> Option<Self> {
        let llm = Llm {
            asks_unread: asks.is_none(),
            asks: asks.unwrap_or_default(),
            ..self.llm.clone()?
        };
        Some(Self {
            body: AtomicU64::new(self.body.load(Ordering::Relaxed)),
            llm: Some(llm),
            ..self.message()
        })
    }

    /// What it has beside the first message: for each, the request as if it had that alone.
    pub fn beside(&self) -> impl Iterator<Item = Self> {
        let others = self.tools.iter().skip(1);
        others.map(|tool| Self {
            body: AtomicU64::new(self.body.load(Ordering::Relaxed)),
            tools: [tool.clone()].into(),
            is_beside: true,
            ..self.message()
        })
    }

    /// Whether it is one of [`Self::beside`].
    pub(crate) const fn is_beside(&self) -> bool {
        self.is_beside
    }

    /// How many bytes of content it carries, as far as that is known. None: it is a message of what carries them.
    pub(crate) fn carries(&self) -> Option<u64> {
        (!self.is_message).then(|| self.sent.load(Ordering::Relaxed))
    }

    /// Notes how many bytes of content leave with it: what was read already has a length, whatever was announced.
    pub fn sends(&self, content: u64) {
        self.sent.store(content, Ordering::Relaxed);
    }

    /// What is known of the calls on the connection that it opens, if it opens one for calls.
    #[must_use]
    pub fn calls_to_come(&self) -> Option<&Llm> {
        self.llm.as_ref().filter(|_| self.opens_calls)
    }

    /// The same, which says this of whom it is for, too.
    #[must_use]
    pub fn claiming(mut self, source: ClaimSource, context: Context) -> Self {
        if !context.is_empty() {
            self.claims.push(Claim {
                source,
                context,
                trusted: false,
            });
        }
        self
    }

    /// A request that ends here, and opens a tunnel.
    #[must_use]
    pub fn tunnel(method: &str, to: &str) -> Self {
        let head = Head {
            method: method.to_owned(),
            path: to.to_owned(),
            query: None,
            fields: None,
        };
        Self {
            head: Arc::new(head),
            body: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            tls: false,
            websocket: false,
            llm: None,
            demand: Demand::default(),
            content: None,
            opens_calls: false,
            claims: Vec::new(),
            tools: Arc::default(),
            is_beside: false,
            is_message: false,
        }
    }

    /// The same with content of its own: a message on a connection that this request opened.
    #[must_use]
    pub fn message(&self) -> Self {
        Self {
            head: Arc::clone(&self.head),
            body: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            tls: self.tls,
            websocket: self.websocket,
            llm: self.llm.clone(),
            demand: self.demand.clone(),
            content: None,
            opens_calls: self.opens_calls,
            claims: self.claims.clone(),
            tools: Arc::clone(&self.tools),
            is_beside: false,
            is_message: true,
        }
    }

    /// Notes that it has at least so much content.
    pub fn grew(&self, body: u64) {
        self.body.fetch_max(body, Ordering::Relaxed);
    }

    /// As rules see it now, with each of its messages.
    pub(crate) fn each(&self) -> impl Iterator<Item = Request<'_>> {
        let others = self.tools.iter().skip(1);
        let others = others.map(|tool| Request {
            tool: Some(tool),
            ..self.seen()
        });
        iter::once(self.seen()).chain(others)
    }

    /// As rules see it now.
    #[must_use]
    pub fn seen(&self) -> Request<'_> {
        Request {
            query: self.head.query.as_ref(),
            fields: self.head.fields.as_ref(),
            body: self.body.load(Ordering::Relaxed),
            tls: self.tls,
            websocket: self.websocket,
            llm: self.llm.as_ref(),
            opens_calls: self.opens_calls,
            claims: &self.claims,
            tool: self.tools.first(),
            ..Request::new(&self.head.method, &self.head.path)
        }
    }
}
