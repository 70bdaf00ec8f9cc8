//! GraphQL over HTTP, by POST with JSON and by GET with the request in the target: each field at the top of the operation is a call, such as `mutation.deleteRepository`.
//!
//! Documents are bounded in words and depth before anything is made of them. Fields in fragments count, whatever type
//! those are for, and fields that directives may leave out. Queries that are known by a hash are not understood.

mod document;
mod lexer;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use ::http::HeaderMap;
use agentguard_model::Tool;

use self::document::{Document, Literal, Operation, Selection};
use super::http::ContentReader;
use super::{NotUnderstood, call, urlencoded};
use crate::json::{NODE, Value};
use crate::jsonrpc::MAX_BATCH;
use crate::mcp::Sent;

pub use refusal::Asker;

/// The most bytes that the arguments of all fields take, once variables stand for what they are.
const MAX_ARGUMENTS: usize = 8 * 1024 * 1024;

/// The members of a request (GraphQL over HTTP, "Request Parameters").
const MEMBERS: [&str; 4] = ["query", "operationName", "variables", "extensions"];

/// The member of `extensions` in which Apollo's clients say which library they are.
const ABOUT: &str = "clientLibrary";

/// Why a request is none that is understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The document is none.
    #[error("its document is not GraphQL that is executed")]
    Syntax,
    /// Words, depth, fields, or what variables come to.
    #[error("its document is too long, too deep, or asks for too much")]
    Bound,
    /// A name is there twice.
    #[error("its document has a name twice")]
    Twice,
    /// Which operation is meant.
    #[error("it does not say which one operation of its document is meant")]
    Operation,
    /// A fragment, or a variable, that is not there.
    #[error("its document speaks of a fragment or a variable that it does not have")]
    Missing,
    /// A request without a document, or with more than the guard knows.
    #[error(
        "it has other members than `query`, `operationName` and `variables`, extensions of the document among them, or no `query`"
    )]
    Request,
}

/// Reads the content of a request by POST.
#[derive(Debug)]
pub struct CallReader(ContentReader);

impl CallReader {
    /// For content with these fields that takes no more than `limit` bytes when it is kept.
    #[must_use]
    pub fn new(fields: &HeaderMap, limit: usize) -> Self {
        Self(ContentReader::new(fields, limit))
    }

    /// Reads on.
    ///
    /// # Errors
    /// Why it is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        self.0.push(bytes)
    }

    /// How much memory what was read takes.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.0.used()
    }

    /// The calls, once all was read: sent to the server of this name. Those arguments are told that `pointers` point
    /// to (RFC 6901), in whatever case.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(self, server: &str, pointers: &[&str]) -> Result<Sent, NotUnderstood> {
        calls(&self.0.json()?, server, pointers)
    }
}

/// The calls of a request by GET, which stands in the query of its target (GraphQL over HTTP, "GET"). `limit`: as of
/// [`CallReader::new`].
///
/// # Errors
/// It is none, or stands there in more than one way.
pub fn of_query(
    query: &str,
    limit: usize,
    server: &str,
    pointers: &[&str],
) -> Result<Sent, NotUnderstood> {
    let mut members: Vec<(Box<str>, Value)> = Vec::new();
    for (name, value) in urlencoded::fields(query.as_bytes(), "the query")? {
        if members.iter().any(|(other, _)| *other == name) {
            return Err(NotUnderstood::Twice);
        }
        let value = match (&*name, value) {
            ("variables" | "extensions", Value::Text(text)) => Value::read(text.as_bytes(), limit)?,
            (_, value) => value,
        };
        members.push((name, value));
    }
    calls(&Value::Object(members), server, pointers)
}

/// The calls of a request, or of a list of them.
fn calls(document: &Value, server: &str, pointers: &[&str]) -> Result<Sent, NotUnderstood> {
    let (requests, batch) = match document {
        Value::Array(requests) => (requests.as_slice(), true),
        one => (std::slice::from_ref(one), false),
    };
    let mut room = MAX_ARGUMENTS;
    let mut messages = Vec::new();
    for request in requests {
        request_of(request, server, pointers, &mut room, &mut messages)?;
    }
    if messages.is_empty() {
        return Err(Fault::Request.into());
    }
    Ok(Sent { messages, batch })
}

/// Adds the calls of one request.
fn request_of(
    request: &Value,
    server: &str,
    pointers: &[&str],
    room: &mut usize,
    calls: &mut Vec<Tool>,
) -> Result<(), NotUnderstood> {
    let known = |(name, _): &(Box<str>, Value)| MEMBERS.contains(&&**name);
    let text = request.get("query").and_then(Value::text);
    let (true, Some(text)) = (request.members().iter().all(known), text) else {
        return Err(Fault::Request.into());
    };
    let name = match request.get("operationName") {
        None | Some(Value::Null) => None,
        Some(name) => Some(name.text().ok_or(Fault::Request)?),
    };
    let none = Value::Object(Vec::new());
    let variables = match request.get("variables") {
        None | Some(Value::Null) => &none,
        Some(variables @ Value::Object(_)) => variables,
        Some(_) => return Err(Fault::Request.into()),
    };
    match request.get("extensions") {
        None | Some(Value::Null) => {}
        // All but what clients say of themselves may stand for another document, or say how this one is read.
        Some(Value::Object(members)) if members.iter().all(|(name, _)| &**name == ABOUT) => {}
        Some(_) => return Err(Fault::Request.into()),
    }
    let document = Document::parse(text)?;
    let operation = meant(&document, name)?;
    let variables = Variables::new(operation, variables);
    let mut fields = Vec::new();
    collect(
        &operation.selections,
        &document,
        &mut HashSet::new(),
        &mut fields,
    )?;
    for (field, arguments) in fields {
        if calls.len() == MAX_BATCH {
            return Err(Fault::Bound.into());
        }
        let mut members = Vec::new();
        for (name, literal) in arguments {
            if let Some(value) = value(literal, &variables, room)? {
                members.push((name.as_str().into(), value));
            }
        }
        let name = format!("{}.{field}", operation.kind);
        calls.push(call(server, &name, &Value::Object(members), pointers)?);
    }
    Ok(())
}

/// The operation that is meant.
fn meant<'d>(document: &'d Document, name: Option<&str>) -> Result<&'d Operation, Fault> {
    let mut names = HashSet::new();
    let operations = document.operations.iter();
    if !operations
        .clone()
        .all(|it| names.insert(it.name.as_deref()))
    {
        return Err(Fault::Twice);
    }
    let mut names = HashSet::new();
    if !document
        .fragments
        .iter()
        .all(|(name, _)| names.insert(name))
    {
        return Err(Fault::Twice);
    }
    let alone = document.operations.len() == 1;
    let mut meant = operations.filter(|it| match name {
        Some(name) => it.name.as_deref() == Some(name),
        None => alone,
    });
    meant.next().ok_or(Fault::Operation)
}

type Field<'d> = (&'d str, &'d [(String, Literal)]);

/// The fields of selections, and of the fragments that those speak of: each of these once, since it adds nothing the
/// second time.
fn collect<'d>(
    selections: &'d [Selection],
    document: &'d Document,
    seen: &mut HashSet<&'d str>,
    fields: &mut Vec<Field<'d>>,
) -> Result<(), Fault> {
    let fragments = document.fragments.iter();
    let fragments: HashMap<&str, (&str, &[Selection])> = fragments
        .map(|(name, inner)| (name.as_str(), (name.as_str(), inner.as_slice())))
        .collect();
    // Selections that are still to be looked through: fragments speak of fragments, and inline ones are nested.
    let mut open = vec![selections];
    while let Some(selections) = open.pop() {
        for selection in selections {
            match selection {
                Selection::Field { .. } if fields.len() == MAX_BATCH => return Err(Fault::Bound),
                Selection::Field { name, arguments } => fields.push((name, arguments)),
                Selection::Inline(inner) => open.push(inner),
                Selection::Spread(name) => {
                    let found = fragments.get(name.as_str());
                    let (name, inner) = *found.ok_or(Fault::Missing)?;
                    if seen.insert(name) {
                        open.push(inner);
                    }
                }
            }
        }
    }
    Ok(())
}

/// The variables of an operation, by their names: there may be tens of thousands, each used as often.
#[derive(Debug, Default)]
struct Variables<'d> {
    /// Those that it has, with their defaults.
    known: HashMap<&'d str, Option<&'d Literal>>,
    /// What is said of them.
    given: HashMap<&'d str, &'d Value>,
}

impl<'d> Variables<'d> {
    fn new(operation: &'d Operation, given: &'d Value) -> Self {
        let known = operation.variables.iter();
        let known = known.map(|(name, default)| (name.as_str(), default.as_ref()));
        let given = given.members().iter();
        Self {
            known: known.collect(),
            given: given.map(|(name, value)| (&**name, value)).collect(),
        }
    }
}

/// What a value is, once variables stand for what they are; none of a variable that nothing is said of.
fn value(
    literal: &Literal,
    variables: &Variables<'_>,
    room: &mut usize,
) -> Result<Option<Value>, Fault> {
    let mut take = |bytes: usize| {
        *room = room.checked_sub(bytes).ok_or(Fault::Bound)?;
        Ok::<_, Fault>(())
    };
    take(NODE)?;
    Ok(Some(match literal {
        Literal::Variable(name) => {
            let default = variables.known.get(name.as_str());
            let default = *default.ok_or(Fault::Missing)?;
            match (variables.given.get(name.as_str()), default) {
                (Some(value), _) => {
                    take(size(value))?;
                    (*value).clone()
                }
                // Nothing that is written there speaks of variables (2.10).
                (None, Some(Literal::Variable(_))) => return Err(Fault::Syntax),
                (None, Some(default)) => return value_of_default(default, room),
                (None, None) => return Ok(None),
            }
        }
        Literal::Number(number) => {
            take(number.len())?;
            Value::Number(number.as_str().into())
        }
        Literal::Text(text) => {
            take(text.len())?;
            Value::Text(text.as_str().into())
        }
        Literal::Word(word) => match word.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            name => Value::Text(name.into()),
        },
        Literal::List(list) => {
            let mut items = Vec::new();
            for item in list {
                // In a list what is not said is null (6.4.1).
                let item = value(item, variables, room)?;
                items.push(item.unwrap_or(Value::Null));
            }
            Value::Array(items)
        }
        Literal::Object(written) => {
            let mut members = Vec::new();
            for (name, literal) in written {
                if let Some(value) = value(literal, variables, room)? {
                    members.push((name.as_str().into(), value));
                }
            }
            Value::Object(members)
        }
    }))
}

/// A default, in which there are no variables.
fn value_of_default(default: &Literal, room: &mut usize) -> Result<Option<Value>, Fault> {
    if has_variables(default) {
        return Err(Fault::Syntax);
    }
    value(default, &Variables::default(), room)
}

fn has_variables(literal: &Literal) -> bool {
    match literal {
        Literal::Variable(_) => true,
        Literal::List(list) => list.iter().any(has_variables),
        Literal::Object(members) => members.iter().any(|(_, value)| has_variables(value)),
        Literal::Number(_) | Literal::Text(_) | Literal::Word(_) => false,
    }
}

/// What a value takes.
fn size(value: &Value) -> usize {
    NODE + match value {
        Value::Null | Value::Bool(_) => 0,
        Value::Number(text) | Value::Text(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.iter().map(|(name, it)| name.len() + size(it)).sum(),
    }
}
