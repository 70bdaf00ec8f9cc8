//! What is spoken on a connection, as far as the proxy tells it apart.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::request::Request;
use crate::rule::{Fit, Seen};

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    /// Requests of HTTP, in the clear or inside TLS that is opened, but for those that open a WebSocket.
    Http,
    /// A request that opens a WebSocket (RFC 6455).
    Websocket,
    /// TLS that is not opened.
    Tls,
    /// Whatever else.
    Other,
}

/// Some of them; all, if it is empty.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Protocols(u8);

impl Protocols {
    pub(crate) const fn with(self, protocol: Protocol) -> Self {
        Self(self.0 | 1 << protocol as u8)
    }

    /// Whether it says nothing.
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn has(self, protocol: Protocol) -> bool {
        self.is_empty() || self.names(protocol)
    }

    /// Whether it names one.
    pub(crate) const fn names(self, protocol: Protocol) -> bool {
        self.0 & 1 << protocol as u8 != 0
    }

    /// Those that it names, as they are written.
    pub(crate) fn names_of(self) -> impl Iterator<Item = String> {
        let all = [
            (Protocol::Http, "http"),
            (Protocol::Websocket, "websocket"),
            (Protocol::Tls, "tls"),
            (Protocol::Other, "other"),
        ];
        let named = all.into_iter().filter(move |(one, _)| self.names(*one));
        named.map(|(_, name)| name.to_owned())
    }

    /// Whether it names what shows requests.
    pub(crate) const fn names_requests(self) -> bool {
        self.names(Protocol::Http) || self.names(Protocol::Websocket)
    }

    /// Whether all that `other` has, this has.
    pub(crate) const fn covers(self, other: Self) -> bool {
        self.is_empty() || !other.is_empty() && self.0 & other.0 == other.0
    }

    pub(crate) const fn request(self, request: &Request<'_>) -> bool {
        self.has(if request.websocket {
            Protocol::Websocket
        } else {
            Protocol::Http
        })
    }

    /// Whether what shows no request is one of them: in TLS there may be one.
    pub(crate) const fn unread(self, seen: &Seen<'_>) -> Fit {
        let (is_one, may_be) = match seen {
            Seen::Tls => (self.names(Protocol::Tls), self.names_requests()),
            Seen::Never => (self.names(Protocol::Other), false),
            Seen::NotYet | Seen::Request(_) => (false, true),
        };
        match (is_one, may_be) {
            (true, _) => Fit::Yes,
            (false, true) => Fit::NeedsRequest,
            (false, false) => Fit::No,
        }
    }
}
