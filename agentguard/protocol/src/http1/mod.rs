//! What stands before an HTTP/1 parser.
//!
//! The proxy parses and writes HTTP with hyper, on both legs and in both versions, so that one
//! piece of code decides on a request whatever carries it. hyper reads what RFC 9112 lets a
//! recipient read, and that is more than two parsers in a row may differ on: bare LF, both lengths
//! at once, repeated lengths. [`Gate`] therefore stands in the byte stream before hyper. It holds
//! each head back until it is whole and beyond doubt, follows the body's framing to know where the
//! next head begins, and passes on nothing after the first doubt. What it passes on is not changed.
//!
//! A parser of its own in place of the gate would need the same code and hyper's besides.
//!
//! **Invariant:** what the gate has passed on frames in one way only. It holds at most one head, or
//! one trailer section, and what came in with it.

mod chunks;
mod gate;
mod head;
mod lines;

pub use gate::{Gate, Position, Refused};

/// The most bytes a request's head may take. Reaching it refuses the request with 431.
pub const MAX_HEAD: usize = 64 * 1024;

/// The most fields a head or a trailer section may have. Reaching it refuses the request with 431.
pub const MAX_FIELDS: usize = 128;

/// The most bytes a trailer section may take. Reaching it ends the request in the middle.
pub const MAX_TRAILERS: usize = 8 * 1024;
