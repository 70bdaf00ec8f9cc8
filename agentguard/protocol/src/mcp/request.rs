//! What a client sends.

use agentguard_model::Tool;

use super::{CALL, Claims, METHODS, NotUnderstood, OF_CLIENTS, STATELESS, VERSIONS};
use crate::arguments::{digest, values};
use crate::json::{Reader, Value};
use crate::jsonrpc::{self, Kind, Message, in_another_case, is_word};

/// What was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    /// The messages: one, but in a batch.
    pub messages: Vec<Tool>,
    /// Whether they are a batch, so that their answers are one as well.
    pub batch: bool,
}

/// Reads the content of a request.
#[derive(Debug)]
pub struct MessageReader(Reader);

impl MessageReader {
    /// For content that takes no more than `limit` bytes when it is kept ([`Reader::new`]).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Reader::new(limit))
    }

    /// Reads on.
    ///
    /// # Errors
    /// Why it is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        Ok(self.0.push(bytes)?)
    }

    /// How much memory what was read takes.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.0.used()
    }

    /// The messages, once all was read: sent to the server of this name, with these fields. Of calls the arguments
    /// are told that `pointers` point to (RFC 6901), in whatever case.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(
        self,
        server: &str,
        claims: &Claims,
        pointers: &[&str],
    ) -> Result<Sent, NotUnderstood> {
        let document = self.0.finish()?;
        let (messages, batch) = jsonrpc::messages(&document)?;
        if batch && claims.is_stateless() {
            return Err(NotUnderstood::Gone("batches"));
        }
        let read = messages.into_iter();
        let read = read.map(|message| tool(server, message, claims, pointers));
        Ok(Sent {
            messages: read.collect::<Result<_, _>>()?,
            batch,
        })
    }
}

/// The members of parameters that are looked at.
const PARAMS: [&str; 5] = ["name", "uri", "arguments", "_meta", "inputResponses"];

/// Where the version stands in what goes beside the parameters (2026-07-28).
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

fn tool(
    server: &str,
    message: Message<'_>,
    claims: &Claims,
    pointers: &[&str],
) -> Result<Tool, NotUnderstood> {
    let mut tool = Tool {
        server: server.to_owned(),
        id: message.id,
        version: claims.version.clone(),
        ..Tool::default()
    };
    let (method, params) = match message.kind {
        Kind::Call { method, params } => (method, params),
        Kind::Result(_) | Kind::Error if claims.is_stateless() => {
            return Err(NotUnderstood::Gone("answers of clients"));
        }
        kind => {
            if claims.method.is_some() {
                return Err(NotUnderstood::Disagree("mcp-method"));
            }
            if let Kind::Result(result) = kind {
                tool.answers = answered(result).map(str::to_owned).collect();
            }
            return Ok(tool);
        }
    };
    if let Some(Value::Array(_)) = params {
        return Err(jsonrpc::Fault::Wrong("params").into());
    }
    let mut known = METHODS.iter().filter(|known| **known != method);
    if let Some(known) = known.find(|known| known.eq_ignore_ascii_case(method)) {
        return Err(NotUnderstood::Case(known));
    }
    tool.method = Some(method.to_owned());
    if let Some(known) = params.and_then(|params| in_another_case(&PARAMS, params)) {
        return Err(NotUnderstood::Case(known));
    }
    let param = |name| params.and_then(|params| params.get(name));
    version(&mut tool, param("_meta"), claims)?;
    let name = match method {
        CALL | "prompts/get" => Some(("name", param("name"))),
        "resources/read" => Some(("uri", param("uri"))),
        _ => None,
    };
    let name = match name {
        Some((what, value)) => {
            let text = value
                .and_then(Value::text)
                .ok_or(NotUnderstood::Wrong(what))?;
            Some(text)
        }
        None => None,
    };
    agree(method, name, claims)?;
    if let Some(responses) = param("inputResponses") {
        let Value::Object(responses) = responses else {
            return Err(NotUnderstood::Wrong("inputResponses"));
        };
        for (_, response) in responses {
            for method in answered(response) {
                if tool.answers.iter().all(|known| known != method) {
                    tool.answers.push(method.to_owned());
                }
            }
        }
    }
    if method == CALL {
        let name = name.filter(|name| is_word(name));
        tool.name = Some(name.ok_or(NotUnderstood::Wrong("name"))?.to_owned());
        let none = Value::Object(Vec::new());
        let arguments = match param("arguments") {
            Some(arguments @ Value::Object(_)) => arguments,
            // Without any, there are none in whichever way that is said.
            None | Some(Value::Null) => &none,
            Some(_) => return Err(NotUnderstood::Wrong("arguments")),
        };
        tool.arguments = Some(digest(&arguments.canonical()));
        tool.values = values(arguments, pointers)?;
    }
    Ok(tool)
}

/// What version a message is of, as far as it says so.
fn version(tool: &mut Tool, meta: Option<&Value>, claims: &Claims) -> Result<(), NotUnderstood> {
    let said = match meta {
        Some(Value::Object(_)) => meta.and_then(|meta| meta.get(VERSION)),
        None => None,
        Some(_) => return Err(NotUnderstood::Wrong("_meta")),
    };
    let said = match said {
        Some(said) => Some(said.text().ok_or(NotUnderstood::Wrong("_meta"))?),
        None => None,
    };
    match (&claims.version, said) {
        (Some(field), Some(said)) if field != said => {
            return Err(NotUnderstood::Disagree("mcp-protocol-version"));
        }
        (None, Some(said)) if said == STATELESS && !claims.none => {
            return Err(NotUnderstood::Missing("mcp-protocol-version"));
        }
        (None, Some(said)) if !VERSIONS.contains(&said) => return Err(NotUnderstood::Version),
        (Some(field), None) if field == STATELESS && tool.id.is_some() => {
            return Err(NotUnderstood::Disagree("mcp-protocol-version"));
        }
        (None, Some(said)) => tool.version = Some(said.to_owned()),
        _ => {}
    }
    Ok(())
}

/// Whether the fields say what the content does. Those of other versions than the last may be left out.
fn agree(method: &str, name: Option<&str>, claims: &Claims) -> Result<(), NotUnderstood> {
    let notification = method.starts_with("notifications/");
    match &claims.method {
        Some(field) if field != method => return Err(NotUnderstood::Disagree("mcp-method")),
        None if claims.is_stateless() && !notification => {
            return Err(NotUnderstood::Missing("mcp-method"));
        }
        _ => {}
    }
    match (&claims.name, name) {
        (Some(field), Some(name)) if field != name => Err(NotUnderstood::Disagree("mcp-name")),
        // Of what has no name the field says nothing that somebody could go by.
        (None, Some(_)) if claims.is_stateless() => Err(NotUnderstood::Missing("mcp-name")),
        _ => Ok(()),
    }
}

/// Which requests of a server an answer answers. It does not say: its form does, and where that does not either, it
/// could be any.
fn answered(result: &Value) -> impl Iterator<Item = &'static str> {
    let empty = result.members().iter().all(|(name, _)| **name == *"_meta");
    let is = |names: &[&str]| names.iter().any(|name| result.get(name).is_some());
    let forms = [
        is(&["model", "role", "stopReason"]),
        is(&["action"]),
        is(&["roots"]),
    ];
    let any = !forms.contains(&true);
    let object = matches!(result, Value::Object(_));
    let methods = OF_CLIENTS.into_iter().zip(forms);
    methods
        .filter(move |(_, has)| *has || any && !(empty && object))
        .map(|(method, _)| method)
}
