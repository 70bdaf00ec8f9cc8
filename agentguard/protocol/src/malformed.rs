//! Why an HTTP message is not carried.

/// What is wrong with an HTTP message. Each variant is a way in which two parsers could read the
/// message differently, or a bound.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpMalformed {
    /// A line ends in LF without CR (RFC 9112, 2.2).
    #[error("a line ends in LF without CR (RFC 9112, 2.2)")]
    BareLf,
    /// A CR is not followed by LF (RFC 9112, 2.2).
    #[error("a CR is not followed by LF (RFC 9112, 2.2)")]
    BareCr,
    /// A control character in a head (RFC 9110, 5.5).
    #[error("the control character {0:#04x} stands in the head (RFC 9110, 5.5)")]
    Control(u8),
    /// The head has more bytes than [`crate::http1::MAX_HEAD`].
    #[error("the head is longer than {} bytes", crate::http1::MAX_HEAD)]
    HeadTooLong,
    /// The head has more fields than [`crate::http1::MAX_FIELDS`].
    #[error("the head has more than {} fields", crate::http1::MAX_FIELDS)]
    TooManyFields,
    /// The stream ended before the head did.
    #[error("the stream ended inside the head")]
    Truncated,
    /// The request line is not `method SP target SP HTTP/1.x` (RFC 9112, 3).
    #[error("the request line cannot be read (RFC 9112, 3): {0}")]
    RequestLine(&'static str),
    /// A field line is not `name: value` on one line (RFC 9112, 5).
    #[error("a field line cannot be read (RFC 9112, 5): {0}")]
    Field(&'static str),
    /// A field name that some servers take for another one.
    #[error("the field name `{0}` can be taken for another one that frames or directs the message")]
    AmbiguousField(String),
    /// `Content-Length` is not one number, or is given more than once (RFC 9112, 6.3).
    #[error("Content-Length is not one single number (RFC 9112, 6.3)")]
    ContentLength,
    /// `Transfer-Encoding` is not exactly `chunked`, is given twice, or stands in HTTP/1.0 (RFC 9112, 6.1).
    #[error("Transfer-Encoding is not exactly `chunked` in an HTTP/1.1 message (RFC 9112, 6.1)")]
    TransferEncoding,
    /// `Transfer-Encoding` and `Content-Length` in one message (RFC 9112, 6.3).
    #[error("Transfer-Encoding and Content-Length stand together (RFC 9112, 6.3)")]
    BothLengths,
    /// A chunk's size line cannot be read (RFC 9112, 7.1).
    #[error("a chunk cannot be read (RFC 9112, 7.1): {0}")]
    Chunk(&'static str),
    /// A trailer field that frames or directs the message (RFC 9110, 6.5.1).
    #[error("the trailer field `{0}` is not allowed (RFC 9110, 6.5.1)")]
    Trailer(String),
    /// The trailer section has more bytes than [`crate::http1::MAX_TRAILERS`].
    #[error("the trailers are longer than {} bytes", crate::http1::MAX_TRAILERS)]
    TrailersTooLong,
    /// The method is not in upper case (RFC 9110, 9.1: methods are case-sensitive).
    #[error("the method `{0}` is not in upper case letters (RFC 9110, 9.1)")]
    Method(String),
    /// The method opens a tunnel, and is not the first of a connection in the clear.
    #[error(
        "CONNECT asks for a tunnel, and is carried only at the start of a connection without TLS"
    )]
    Connect,
    /// The target is not in origin, absolute or asterisk form (RFC 9112, 3.2).
    #[error("the request target cannot be read (RFC 9112, 3.2): {0}")]
    Target(&'static str),
    /// `Host` is missing or given more than once (RFC 9112, 3.2).
    #[error("Host is missing, or given more than once (RFC 9112, 3.2)")]
    Host,
    /// The authority is not `host[:port]`.
    #[error("the authority cannot be read (RFC 9110, 4.2): {0}")]
    Authority(#[from] crate::authority::InvalidAuthority),
    /// The target's authority is not the one of `Host` (RFC 9112, 3.2.2).
    #[error("the target's authority and Host differ (RFC 9112, 3.2.2)")]
    AuthorityMismatch,
    /// The path has more than one reading.
    #[error("the path is ambiguous: {0}")]
    Path(#[from] agentguard_model::AmbiguousPath),
    /// `Expect` asks for something other than `100-continue` (RFC 9110, 10.1.1).
    #[error("Expect asks for something other than 100-continue (RFC 9110, 10.1.1)")]
    Expectation,
    /// `Connection` names a field that is not for one hop (RFC 9110, 7.6.1).
    #[error("Connection names `{0}`, which is not for one hop (RFC 9110, 7.6.1)")]
    ConnectionOption(String),
    /// `Upgrade: websocket` with another method than GET, a body, or in HTTP/1.0 (RFC 6455, 4.1).
    #[error("a WebSocket handshake must be a GET of HTTP/1.1 without a body (RFC 6455, 4.1)")]
    Upgrade,
    /// An answer with 101 to a request that is no WebSocket handshake.
    #[error("it changes the protocol (101), which nobody asked for (RFC 9110, 7.8)")]
    SwitchedUnasked,
    /// An answer with 101 to a WebSocket handshake that changes to something else.
    #[error(
        "it changes the protocol (101), and Upgrade does not name `websocket` alone, which was asked for (RFC 6455, 4.2.2)"
    )]
    SwitchedElsewhere,
    /// The handshake's extensions cannot be read, or are not those that were offered.
    #[error(transparent)]
    WebSocketExtensions(#[from] crate::websocket::extensions::NotExtensions),
}

impl HttpMalformed {
    /// The status with which to refuse the request.
    #[must_use]
    pub const fn status(&self) -> http::StatusCode {
        match self {
            Self::HeadTooLong | Self::TooManyFields | Self::TrailersTooLong => {
                http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Expectation => http::StatusCode::EXPECTATION_FAILED,
            Self::Connect => http::StatusCode::NOT_IMPLEMENTED,
            _ => http::StatusCode::BAD_REQUEST,
        }
    }
}
