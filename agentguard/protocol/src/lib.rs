//! Pure decoders and encoders: bytes to actions, refusals to bytes.
//!
//! - [`first_bytes`] tells TLS, HTTP/1 and HTTP/2 from everything else.
//! - [`client_hello`] reads a TLS ClientHello out of records of any shape; [`alert`] writes the
//!   record that refuses one.
//! - [`http1`] stands before an HTTP/1 parser and lets nothing through that two parsers could read
//!   differently.
//! - [`request`], [`authority`] and [`fields`] say what an HTTP request means, whatever
//!   version carries it: the name, the one spelling of the path, what belongs to one hop.
//! - [`response`] refuses what an upstream frames in two ways; [`persistence`] says for how long and for whom its
//!   connection may be used again.
//! - [`content`] takes content codings off.
//! - [`sse`] reads event streams, event by event, and [`eventstream`] those of AWS.
//! - [`json`] reads JSON in pieces; [`llm`] calls of language models and what they answer, [`jsonrpc`] and [`mcp`] messages to
//!   servers of tools, and [`api`] calls of tools in other forms.
//! - [`websocket`] reads the frames that follow a handshake, and says what may be agreed on in one.
//! - [`tunnel`] reads what a client asks of a proxy that it believes to speak to; [`proxy_answer`] what a proxy
//!   answers the guard.
//! - [`refusal`] is what an HTTP client is told when it is refused.
//!
//! **Invariant:** no I/O, no clock, no async, no unsafe code. Every buffer here has a bound, and
//! any split of the same bytes gives the same answer.

#![forbid(unsafe_code)]

pub mod alert;
pub mod api;
pub mod arguments;
pub mod authority;
pub mod baggage;
pub mod client_hello;
pub mod content;
pub mod eventstream;
pub mod fields;
pub mod first_bytes;
pub mod http1;
pub mod json;
pub mod jsonrpc;
pub mod llm;
mod malformed;
pub mod mcp;
pub mod media_type;
pub mod persistence;
pub mod proxy_answer;
pub mod refusal;
pub mod request;
pub mod response;
pub mod server_hello;
pub mod sse;
pub mod tunnel;
pub mod websocket;

pub use malformed::HttpMalformed;
