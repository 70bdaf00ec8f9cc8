//! JSON-RPC 2.0: the messages of a document, alone or in a batch.
//!
//! Stricter than most servers: a message that says two things at once, or leaves out what it has to say, is none;
//! nor is one with a member in another case, which some parsers take for the member.

use crate::json::{Value, same_name};

mod edit;
mod outline;

#[cfg(test)]
mod tests;

pub use edit::edit_each;
pub use outline::Outline;

/// The most messages of a batch.
pub const MAX_BATCH: usize = 64;

/// The most bytes of a method's name, and of an id as it is written.
pub const MAX_WORD: usize = 256;

/// Why a document is no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Neither an object nor a list of objects.
    #[error("it is neither a message of JSON-RPC nor a batch of them")]
    NoMessage,
    /// A batch of none.
    #[error("the batch is empty")]
    EmptyBatch,
    /// [`MAX_BATCH`].
    #[error("the batch has more than {MAX_BATCH} messages")]
    LongBatch,
    /// `jsonrpc` is not `2.0`.
    #[error("it does not say that it is JSON-RPC 2.0")]
    Version,
    /// A member has not the type that it has to have, or is too long.
    #[error("`{0}` is not what JSON-RPC has there")]
    Wrong(&'static str),
    /// A member's name differs in case from one that JSON-RPC has.
    #[error("`{0}` is written in another case than JSON-RPC has it")]
    Case(&'static str),
    /// It is a request and an answer, or neither.
    #[error("it has not exactly one of `method`, `result` and `error`")]
    Ambiguous,
}

/// The members of messages.
const MEMBERS: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// It asks for something; without an id it wants no answer.
    Call {
        /// The method.
        method: &'a str,
        /// What goes with it.
        params: Option<&'a Value>,
    },
    /// It answers.
    Result(&'a Value),
    /// It says that something cannot be answered.
    Error,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message<'a> {
    /// Its id, as it is written in JSON.
    pub id: Option<String>,
    /// What it is.
    pub kind: Kind<'a>,
}

/// The messages of a document, and whether it is a batch.
///
/// # Errors
/// One of them is none, or there are too many.
pub fn messages(document: &Value) -> Result<(Vec<Message<'_>>, bool), Fault> {
    match document {
        Value::Object(_) => Ok((vec![message(document)?], false)),
        Value::Array(items) if items.is_empty() => Err(Fault::EmptyBatch),
        Value::Array(items) if items.len() > MAX_BATCH => Err(Fault::LongBatch),
        Value::Array(items) => {
            let all: Result<_, _> = items.iter().map(message).collect();
            Ok((all?, true))
        }
        _ => Err(Fault::NoMessage),
    }
}

fn message(value: &Value) -> Result<Message<'_>, Fault> {
    if !matches!(value, Value::Object(_)) {
        return Err(Fault::NoMessage);
    }
    if let Some(known) = in_another_case(&MEMBERS, value) {
        return Err(Fault::Case(known));
    }
    if value.get("jsonrpc").and_then(Value::text) != Some("2.0") {
        return Err(Fault::Version);
    }
    let id = match value.get("id") {
        None => None,
        Some(id @ (Value::Text(_) | Value::Number(_))) => {
            let id = id.canonical();
            Some(
                (id.len() <= MAX_WORD)
                    .then_some(id)
                    .ok_or(Fault::Wrong("id"))?,
            )
        }
        // Of an error whose request could not be read.
        Some(Value::Null) if value.get("error").is_some() => None,
        Some(_) => return Err(Fault::Wrong("id")),
    };
    let says = |name| value.get(name);
    let kind = match (says("method"), says("result"), says("error")) {
        (Some(method), None, None) => Kind::Call {
            method: method
                .text()
                .filter(|method| is_word(method))
                .ok_or(Fault::Wrong("method"))?,
            params: match says("params") {
                Some(params @ (Value::Object(_) | Value::Array(_))) => Some(params),
                None => None,
                Some(_) => return Err(Fault::Wrong("params")),
            },
        },
        (None, Some(result), None) if id.is_some() => Kind::Result(result),
        (None, None, Some(Value::Object(_))) => Kind::Error,
        (None, None, Some(_)) => return Err(Fault::Wrong("error")),
        (None, Some(_), None) => return Err(Fault::Wrong("id")),
        _ => return Err(Fault::Ambiguous),
    };
    Ok(Message { id, kind })
}

/// Whether a text is a name: short, and without what moves a terminal's cursor.
#[must_use]
pub fn is_word(text: &str) -> bool {
    (1..=MAX_WORD).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The one of `known` that a member of an object may be taken for, where case is not looked at.
#[must_use]
pub fn in_another_case(known: &[&'static str], object: &Value) -> Option<&'static str> {
    object.members().iter().find_map(|(name, _)| {
        let mut known = known.iter().filter(|known| **known != &**name);
        known.find(|known| same_name(known, name)).copied()
    })
}
