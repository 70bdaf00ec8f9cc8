//! Agent2Agent (A2A), 1.0 and 0.x: each request is a call of the tool that its operation names, in whichever version and
//! binding it is written.
//!
//! Read are the JSON-RPC binding (1.0, section 9; the methods of 0.3, and of 0.1 and 0.2 before it) and the HTTP+JSON
//! binding (1.0, section 11; with `/v1` in 0.3). Over gRPC it is calls of gRPC. Operations have the names of 1.0.
//!
//! Stricter than most servers where they differ in what they take a request for: a batch, a request without an id, a member
//! of JSON-RPC's envelope that is none, and a member in the spelling that Protocol Buffers have beside that of JSON are not
//! understood. In that spelling 0.3 has its HTTP+JSON, where it is known by what else is there.

mod answer;
mod card;
mod refusal;
mod route;
mod state;
#[cfg(test)]
mod tests;

use ::http::{HeaderMap, Method};
use agentguard_model::Tool;

use super::http::{METHOD, overridden, query_overrides};
use super::urlencoded::{self, Field};
use super::{NotUnderstood, call};
use crate::json::{Reader, Value, same_name};
use crate::jsonrpc::{self, Kind, Message};
use crate::mcp::LIST;
use crate::media_type::is_text;

pub use answer::{AnswerReader, Answered};
pub use card::{CardReader, MAX_CARD};
pub use refusal::refused;
pub use route::Route;

/// The field of HTTP that says which version a request is of. Without it is 0.3 (1.0, section 3.6).
pub const VERSION: &str = "a2a-version";

/// The names that cards have among what is pinned of an agent's server ([`card_name`]).
pub const CARDS: [&str; 3] = [
    "agent_card",
    "extended_agent_card",
    "extended_agent_card_0.x",
];

/// The name that the card has among what is pinned of an agent's server which comes of this call. The one for those who may
/// see more is another one for clients of 0.x, where its members are other ones.
#[must_use]
pub fn card_name(call: &Tool) -> &'static str {
    let older = call.version.as_ref().is_none_or(|it| it.starts_with("0."));
    match (&call.name, older) {
        (None, _) => "agent_card",
        (Some(_), false) => "extended_agent_card",
        (Some(_), true) => "extended_agent_card_0.x",
    }
}

/// What agents are asked for. Named as in 1.0.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Operation {
    /// A message, answered with a message or a task.
    SendMessage,
    /// A message, answered with a stream of events.
    SendStreamingMessage,
    /// A task as it is.
    GetTask,
    /// The tasks that there are.
    ListTasks,
    /// The end of a task.
    CancelTask,
    /// The events of a task that is under way.
    SubscribeToTask,
    /// Where the agent tells of a task.
    CreateTaskPushNotificationConfig,
    /// One such place.
    GetTaskPushNotificationConfig,
    /// All of a task.
    ListTaskPushNotificationConfigs,
    /// No longer there.
    DeleteTaskPushNotificationConfig,
    /// The card for those who may see more of it.
    GetExtendedAgentCard,
}

impl Operation {
    /// Its name in 1.0, and those of its methods before that.
    const NAMES: [(Self, &'static str, &'static [&'static str]); 11] = [
        (
            Self::SendMessage,
            "SendMessage",
            &["message/send", "tasks/send"],
        ),
        (
            Self::SendStreamingMessage,
            "SendStreamingMessage",
            &["message/stream", "tasks/sendSubscribe"],
        ),
        (Self::GetTask, "GetTask", &["tasks/get"]),
        (Self::ListTasks, "ListTasks", &["tasks/list"]),
        (Self::CancelTask, "CancelTask", &["tasks/cancel"]),
        (
            Self::SubscribeToTask,
            "SubscribeToTask",
            &["tasks/resubscribe"],
        ),
        (
            Self::CreateTaskPushNotificationConfig,
            "CreateTaskPushNotificationConfig",
            &[
                "tasks/pushNotificationConfig/set",
                "tasks/pushNotification/set",
            ],
        ),
        (
            Self::GetTaskPushNotificationConfig,
            "GetTaskPushNotificationConfig",
            &[
                "tasks/pushNotificationConfig/get",
                "tasks/pushNotification/get",
            ],
        ),
        (
            Self::ListTaskPushNotificationConfigs,
            "ListTaskPushNotificationConfigs",
            &["tasks/pushNotificationConfig/list"],
        ),
        (
            Self::DeleteTaskPushNotificationConfig,
            "DeleteTaskPushNotificationConfig",
            &["tasks/pushNotificationConfig/delete"],
        ),
        (
            Self::GetExtendedAgentCard,
            "GetExtendedAgentCard",
            &[
                "agent/getAuthenticatedExtendedCard",
                "agent/authenticatedExtendedCard",
            ],
        ),
    ];

    /// Its name, whatever the version.
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        names
            .find(|(operation, ..)| *operation == self)
            .map_or("", |(_, name, _)| name)
    }

    /// The names of all.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().map(|(_, name, _)| *name)
    }

    /// The operation that a method of JSON-RPC asks for.
    #[must_use]
    pub fn of_method(method: &str) -> Option<Self> {
        let mut names = Self::NAMES.iter();
        names
            .find(|(_, name, older)| *name == method || older.contains(&method))
            .map(|(operation, ..)| *operation)
    }

    /// Whether its arguments stand in the content, where it is one of HTTP+JSON.
    const fn has_content(self) -> bool {
        matches!(
            self,
            Self::SendMessage | Self::SendStreamingMessage | Self::CreateTaskPushNotificationConfig
        )
    }
}

/// What has members of any name: what applications say to one another.
const FREE: [&str; 2] = ["metadata", "data"];

/// The members whose names Protocol Buffers spell in another way (`task_id`), which servers of 1.0 read as well.
const SPELLINGS: [&str; 21] = [
    "messageId",
    "contextId",
    "taskId",
    "referenceTaskIds",
    "mediaType",
    "mimeType",
    "fileWithUri",
    "fileWithBytes",
    "acceptedOutputModes",
    "taskPushNotificationConfig",
    "pushNotificationConfig",
    "pushNotificationConfigId",
    "pushNotification",
    "historyLength",
    "returnImmediately",
    "pageSize",
    "pageToken",
    "statusTimestampAfter",
    "includeArtifacts",
    "lastUpdatedAfter",
    "configId",
];

/// The members of a request of JSON-RPC.
const ENVELOPE: [&str; 4] = ["jsonrpc", "id", "method", "params"];

/// Those by which content is known for one.
const OF_JSON_RPC: [&str; 2] = ["jsonrpc", "method"];

/// Reads the content of a request.
#[derive(Debug)]
pub struct CallReader {
    reader: Reader,
    /// Whether anything was read.
    begun: bool,
    /// The version that it says it is of.
    version: Option<String>,
    fault: Option<NotUnderstood>,
}

/// Where a call goes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The server's name.
    pub server: &'a str,
    /// Its method.
    pub method: &'a Method,
    /// What it is by its method and its path.
    pub route: &'a Route,
    /// The query, as it is sent.
    pub query: Option<&'a str>,
}

impl CallReader {
    /// For content with these fields that takes no more than `limit` bytes when it is kept ([`Reader::new`]).
    #[must_use]
    pub fn new(fields: &HeaderMap, limit: usize) -> Self {
        let fault = match overridden(fields) {
            Some(name) => Some(NotUnderstood::Override(name)),
            None => (!is_text(fields)).then_some(NotUnderstood::Charset),
        };
        Self {
            reader: Reader::new(limit),
            begun: false,
            version: version(fields),
            fault,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// Why it is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        self.begun |= !bytes.is_empty();
        Ok(self.reader.push(bytes)?)
    }

    /// How much memory what was read takes.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.reader.used()
    }

    /// The call, once all was read. Those arguments are told that `pointers` point to (RFC 6901), in whatever case: of
    /// `params`, and in HTTP+JSON of the content, the query and the path together.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(self, place: Place<'_>, pointers: &[&str]) -> Result<Tool, NotUnderstood> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if let Some(name) = query_overrides(place.query.unwrap_or_default()) {
            return Err(NotUnderstood::Override(name));
        }
        let version = self.version;
        let content = match self.begun {
            true => Some(self.reader.finish()?),
            false => None,
        };
        let call = match place.route {
            Route::JsonRpc => {
                let document = content.ok_or(NotUnderstood::NoObject)?;
                of_json_rpc(place.server, &document, pointers)
            }
            Route::Card if content.is_some() => Err(NotUnderstood::Content),
            Route::Card => Ok(Tool {
                server: place.server.to_owned(),
                method: Some(LIST.to_owned()),
                ..Tool::default()
            }),
            Route::Rest {
                operation,
                parameters,
            } => {
                if content.is_some() && *place.method != Method::POST {
                    return Err(NotUnderstood::Content);
                }
                let query = place.query.unwrap_or_default();
                let query = urlencoded::fields(query.as_bytes(), "the query")?;
                let path = parameters.iter().map(|(name, value)| {
                    let value = Value::Text(value.as_str().into());
                    (name.as_str().into(), value)
                });
                let mut arguments = together(path.chain(query), content)?;
                if operation.has_content() {
                    as_of_today(&mut arguments)?;
                }
                spelled(&arguments)?;
                call(place.server, operation.name(), &arguments, pointers)
            }
        };
        call.map(|call| Tool { version, ..call })
    }
}

/// The version that a request says it is of, where it says one.
fn version(fields: &HeaderMap) -> Option<String> {
    let mut said = fields.get_all(VERSION).iter();
    let (Some(one), None) = (said.next(), said.next()) else {
        return None;
    };
    let text = one.to_str().ok()?.trim();
    jsonrpc::is_word(text).then(|| text.to_owned())
}

fn of_json_rpc(server: &str, document: &Value, pointers: &[&str]) -> Result<Tool, NotUnderstood> {
    let (messages, batch) = jsonrpc::messages(document)?;
    let [Message { id, kind }] = messages.as_slice() else {
        return Err(NotUnderstood::Batch);
    };
    if batch {
        return Err(NotUnderstood::Batch);
    }
    let Kind::Call { method, params } = kind else {
        return Err(NotUnderstood::Answer);
    };
    let mut members = document.members().iter();
    if id.is_none() || !members.all(|(name, _)| ENVELOPE.contains(&&**name)) {
        return Err(NotUnderstood::Envelope);
    }
    let operation = Operation::of_method(method).ok_or(NotUnderstood::Operation)?;
    let none = Value::Object(Vec::new());
    let arguments = params.unwrap_or(&none);
    if !matches!(arguments, Value::Object(_)) {
        return Err(NotUnderstood::NoObject);
    }
    spelled(arguments)?;
    let mut tool = call(server, operation.name(), arguments, pointers)?;
    tool.id.clone_from(id);
    Ok(tool)
}

/// The arguments of the target, and those of the content. Clients repeat in the content what stands in the path.
fn together(
    target: impl Iterator<Item = Field>,
    content: Option<Value>,
) -> Result<Value, NotUnderstood> {
    let mut all: Vec<Field> = Vec::new();
    for (name, value) in target {
        if name.eq_ignore_ascii_case(METHOD) {
            return Err(NotUnderstood::Override(METHOD));
        }
        if all.iter().any(|(own, _)| own.eq_ignore_ascii_case(&name)) {
            return Err(NotUnderstood::Twice);
        }
        all.push((name, value));
    }
    let of_target = all.len();
    let members = match content {
        None => Vec::new(),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(NotUnderstood::NoObject),
    };
    for (name, value) in members {
        // A server that looks at no path would go by that.
        if OF_JSON_RPC.iter().any(|it| it.eq_ignore_ascii_case(&name)) {
            return Err(NotUnderstood::Operations);
        }
        let mut target = all.iter().take(of_target);
        match target.find(|(own, _)| own.eq_ignore_ascii_case(&name)) {
            Some((own, there)) if **own == *name && *there == value => {}
            Some(_) => return Err(NotUnderstood::Twice),
            None => all.push((name, value)),
        }
    }
    Ok(Value::Object(all))
}

/// Whether content of HTTP+JSON is written as 0.3 has it there, which nobody but servers of Protocol Buffers reads: a message
/// as `request`, its parts as `content`, a place to tell as `config`.
#[must_use]
pub fn is_of_before(content: &Value) -> bool {
    let has = |value: &Value, name: &str| {
        let mut members = value.members().iter();
        members.any(|(own, _)| same_name(own, name))
    };
    let mut members = content.members().iter();
    let mut inside = members
        .by_ref()
        .filter(|(own, _)| same_name(own, "message"));
    has(content, "request")
        || has(content, "config")
        || inside.any(|(_, message)| has(message, "content"))
}

/// Has the arguments where JSON-RPC and 1.0 have them.
fn as_of_today(arguments: &mut Value) -> Result<(), NotUnderstood> {
    if !is_of_before(arguments) {
        return Ok(());
    }
    rename(arguments, "request", "message")?;
    if let Some(message) = arguments.get_mut("message") {
        rename(message, "content", "parts")?;
    }
    respell(arguments)
}

/// Gives a member another name, unless there is one of that name, or two.
fn rename(object: &mut Value, from: &str, to: &'static str) -> Result<(), NotUnderstood> {
    let Value::Object(members) = object else {
        return Ok(());
    };
    let named = |names: &[&str]| {
        let any = |own: &str| names.iter().any(|name| own.eq_ignore_ascii_case(name));
        members.iter().filter(|(own, _)| any(own)).count()
    };
    if named(&[from]) > 0 && named(&[from, to]) > 1 {
        return Err(NotUnderstood::Spelling(to));
    }
    for (name, _) in members {
        if **name == *from {
            *name = to.into();
        }
    }
    Ok(())
}

/// Has members in the spelling of JSON, where they are in that of Protocol Buffers.
fn respell(value: &mut Value) -> Result<(), NotUnderstood> {
    if let Value::Object(members) = value {
        let names: Vec<Box<str>> = members.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some(known) = in_another_spelling(&name) {
                rename(value, &name, known)?;
            }
        }
    }
    match value {
        Value::Array(items) => items.iter_mut().try_for_each(respell),
        Value::Object(members) => {
            let mut members = members.iter_mut();
            members.try_for_each(|(name, value)| match FREE.contains(&&**name) {
                true => Ok(()),
                false => respell(value),
            })
        }
        _ => Ok(()),
    }
}

/// The member that a name is in the spelling of Protocol Buffers, if it is one.
fn in_another_spelling(name: &str) -> Option<&'static str> {
    if !name.contains('_') {
        return None;
    }
    let plain = name.replace('_', "");
    let mut known = SPELLINGS.iter();
    known
        .find(|known| known.eq_ignore_ascii_case(&plain))
        .copied()
}

/// Refuses members in the spelling of Protocol Buffers, but in what applications say to one another.
fn spelled(value: &Value) -> Result<(), NotUnderstood> {
    match value {
        Value::Array(items) => items.iter().try_for_each(spelled),
        Value::Object(members) => members.iter().try_for_each(|(name, value)| {
            if let Some(known) = in_another_spelling(name) {
                return Err(NotUnderstood::Spelling(known));
            }
            match FREE.contains(&&**name) {
                true => Ok(()),
                false => spelled(value),
            }
        }),
        _ => Ok(()),
    }
}
