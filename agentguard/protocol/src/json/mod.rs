//! JSON (RFC 8259) as it comes, in pieces of any size, without keeping it; or kept as a tree ([`Builder`]), within a
//! bound.
//!
//! Stricter than the grammar where two parsers could read two things (RFC 7493, I-JSON): no name twice in an
//! object, no lone surrogates, UTF-8 alone. What is understood is bounded: how deep it is nested, how long a
//! name or a number, how many names are open.

pub mod edit;
mod names;
mod number;
mod path;
mod place;
mod pointer;
mod scanner;
#[cfg(test)]
mod tests;
mod tree;

pub use names::same_name;
pub use path::{Part, Path};
pub use place::Place;
pub use pointer::{NoPointer, Pointer};
pub use scanner::{Event, Kind, Scanner, Sink};
pub use tree::{Builder, NODE, Reader, Value};

/// How deep objects and arrays may be nested, as in most parsers of servers.
pub const MAX_DEPTH: usize = 128;

/// The most bytes that a member's name may have.
pub const MAX_NAME: usize = 4 * 1024;

/// The most bytes that a number may have.
pub const MAX_NUMBER: usize = 512;

/// How many names the objects that are open may have together.
pub const MAX_NAMES: usize = 64 * 1024;

/// Why a text is not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// It is not JSON.
    #[error("it is not JSON at byte {0}")]
    Syntax(u64),
    /// It ends before its value does.
    #[error("the JSON ends in the middle")]
    Unfinished,
    /// A string is not UTF-8, or escapes half of a pair.
    #[error("the JSON has a string that is no Unicode text, at byte {0}")]
    Text(u64),
    /// An object has a member twice: parsers differ in which one they take.
    #[error("the JSON has a member twice in one object, at byte {0}")]
    Twice(u64),
    /// [`MAX_DEPTH`].
    #[error("the JSON is nested deeper than {MAX_DEPTH}")]
    Depth,
    /// [`MAX_NAME`], [`MAX_NUMBER`], [`MAX_NAMES`].
    #[error("the JSON has a name or a number that is too long, or too many names, at byte {0}")]
    Bound(u64),
    /// A [`Builder`]'s limit.
    #[error("the JSON takes more memory than there is for it")]
    Large,
}
