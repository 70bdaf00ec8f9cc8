//! Contents that are sent on as rules change them: read as JSON, changed, and written anew.

use std::sync::atomic::{AtomicBool, Ordering};

use agentguard_decision::{Decided, Recorder};
use agentguard_model::{HostName, ReasonCode, ToolApi};
use agentguard_protocol::api::a2a;
use agentguard_protocol::api::http::is_json;
use agentguard_protocol::json::edit::{EACH, Edits, Impossible, MAX_ADDED};
use agentguard_protocol::json::{Fault, Reader, Value, same_name};
use agentguard_protocol::jsonrpc;
use agentguard_protocol::llm::{self, Endpoint};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Uri};

use crate::Port;
use crate::connection::Flow;
use crate::http::body::Received;
use crate::http::held::MAX_HELD;
use crate::http::message::{Keeps, content};
use crate::http::unpacked::Reads;

/// The most that content may take while it is changed: see [`agentguard_protocol::json::Builder`]. What takes more is
/// refused.
pub(crate) const MAX_KEPT: usize = 2 * MAX_HELD;

/// Fields that speak of content as it came. Those of integrity (RFC 9530, RFC 3230, RFC 1864) would have a server refuse it.
const OF_CONTENT: [HeaderName; 6] = [
    header::CONTENT_ENCODING,
    header::TRAILER,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// What begins fields of MCP that have arguments of a call in them (2026-07-28).
const PARAMETER: &str = "mcp-param-";

/// What content is.
pub(crate) enum Content {
    /// A call of a language model, by where it goes.
    Call(Endpoint),
    /// Messages to a server of tools, of this form.
    Messages {
        api: ToolApi,
        /// The names of arguments that stand in the target of the request.
        elsewhere: Vec<String>,
    },
}

impl Reads for Reader {
    type Fault = Fault;

    fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        Self::push(self, bytes)
    }
}

impl Keeps for Reader {
    fn used(&self) -> usize {
        Self::used(self)
    }
}

/// What rules change in each of the messages of a request, and what budgets have left for its answer.
pub(crate) struct Made<'a> {
    edits: Vec<Vec<&'a Edits>>,
    /// To how many tokens the limit of a call is lowered, of all its answers together.
    limit: Option<u64>,
    /// The provider whose call it is.
    provider: &'a str,
    /// Whether its API takes no limit.
    unlimited: bool,
    /// Whether its usage matters.
    counts: bool,
    /// Whether it is to ask for its usage, which would not be told otherwise.
    asks_usage: bool,
    /// Whether it asks for that now, and did not before.
    asked_usage: AtomicBool,
}

impl<'a> Made<'a> {
    /// Out of what was decided on each, in their order. `provider`: of the call of a language model that it is.
    pub(crate) fn of(
        provider: Option<&'a str>,
        decided: impl Iterator<Item = &'a Decided>,
    ) -> Self {
        let (mut limit, mut counts) = (None, false);
        let edits = decided.map(|it| {
            limit = limit.or(it.held().and_then(|it| it.clamp()));
            counts |= it.held().is_some_and(|it| it.is_of_tokens());
            it.edits().collect()
        });
        Self {
            edits: edits.collect(),
            limit,
            provider: provider.unwrap_or_default(),
            unlimited: false,
            counts,
            asks_usage: false,
            asked_usage: AtomicBool::new(false),
        }
    }

    /// The same, which goes there.
    pub(crate) fn going_to(self, host: Option<&HostName>, path: &str) -> Self {
        let host = host.map(HostName::as_str).unwrap_or_default();
        Self {
            unlimited: llm::takes_none(host, &path.to_ascii_lowercase()),
            ..self
        }
    }

    /// The same, which asks for the usage of its stream where that matters, and can be asked for.
    pub(crate) fn telling(self, endpoint: Endpoint, parts: &Parts, path: &str) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        let tells = |provider| llm::usage::is_told_if_asked(endpoint, provider, path, query);
        let asks_usage = self.counts && tells(self.provider);
        Self {
            asks_usage: asks_usage && !is_signed(&parts.headers, &parts.uri),
            ..self
        }
    }

    /// Whether anything is changed, or may be.
    pub(crate) fn any(&self) -> bool {
        self.must() || self.asks_usage
    }

    /// Whether it does not go as it came.
    pub(crate) fn must(&self) -> bool {
        self.limit.is_some() || self.edits.iter().any(|edits| !edits.is_empty())
    }

    /// Whether its limit is lowered.
    pub(crate) const fn lowers(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether it was made to ask for its usage.
    pub(crate) fn asked_usage(&self) -> bool {
        self.asked_usage.load(Ordering::Acquire)
    }

    fn all(&self) -> impl Iterator<Item = &'a Edits> {
        self.edits.iter().flatten().copied()
    }

    /// Why it does not go, where it could not be changed: the code, and what its client is told.
    pub(crate) fn impossible(&self, why: &str) -> (ReasonCode, String) {
        match self.limit {
            None => (ReasonCode::NotChanged, not_changed(why)),
            Some(tokens) => {
                let message = format!(
                    "A budget has {tokens} tokens left for the answer, and the limit of this call cannot be lowered to that: {why}."
                );
                (ReasonCode::BudgetExhausted, message)
            }
        }
    }
}

/// The content as rules change it. The fields of the request then speak of that.
///
/// # Errors
/// It cannot be changed: why.
pub(crate) async fn changed<R: Recorder, P: Port>(
    flow: &Flow<R, P>,
    parts: &mut Parts,
    what: &Content,
    made: &Made<'_>,
    body: Received,
) -> Result<Received, String> {
    if is_signed(&parts.headers, &parts.uri) {
        return Err("it is signed, so that it would not be taken with changes".to_owned());
    }
    if let Content::Messages { api, .. } = what
        && api.is_mcp()
        && parts
            .headers
            .keys()
            .any(|it| it.as_str().starts_with(PARAMETER))
    {
        return Err(format!(
            "fields `{PARAMETER}…` have its arguments in them, too"
        ));
    }
    let read = content(flow, &parts.headers, Reader::new(MAX_KEPT), body).await;
    let Ok(read) = read else {
        return Err("it did not come to its end".to_owned());
    };
    let is_form = matches!(
        what,
        Content::Messages {
            api: ToolApi::Http,
            ..
        }
    ) && read.held.size() > 0
        && !is_json(&parts.headers);
    if is_form {
        return Err("it is a form".to_owned());
    }
    let document = match read.reader {
        // Without content there are the arguments of the target alone.
        _ if read.held.size() == 0 => None,
        // Usage that cannot be asked for is not told.
        Err(_) if !made.must() => return Ok(Received::Held(read.held)),
        reader => Some(reader.and_then(|it| it.finish().map_err(|why| why.to_string()))?),
    };
    let written = edited(document, what, made)?;
    let Some(written) = written else {
        return Ok(Received::Held(read.held));
    };
    let length = HeaderValue::from(written.len());
    for name in &OF_CONTENT {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_LENGTH, length);
    let written = Bytes::from(written);
    Ok(Received::Held(read.held.instead(written.into())))
}

/// That something was not changed, for who is refused.
fn not_changed(why: &str) -> String {
    format!("What the policy changes in this cannot be changed: {why}.")
}

/// A document as it is written with changes. None where there is none, and none was to be changed.
pub(crate) fn edited(
    document: Option<Value>,
    what: &Content,
    made: &Made<'_>,
) -> Result<Option<String>, String> {
    let impossible = |why: Impossible| why.to_string();
    let (api, elsewhere) = match what {
        Content::Call(endpoint) => {
            let mut document = document.ok_or("it has no content")?;
            if made.asks_usage && llm::usage::ask(made.provider, &mut document) {
                made.asked_usage.store(true, Ordering::Release);
            } else if !made.must() {
                return Ok(None);
            }
            let (inside, mut room) = (endpoint.inside(), MAX_ADDED);
            let mut edits = made.all();
            edits
                .try_for_each(|edits| edits.apply_inside(&mut document, &inside, &mut room))
                .map_err(impossible)?;
            if let Some(tokens) = made.limit {
                if made.unlimited {
                    return Err(llm::Unlimited::Unknown.to_string());
                }
                let limited = llm::limit(*endpoint, made.provider, &mut document, tokens);
                limited.map_err(|why| why.to_string())?;
            }
            return Ok(Some(document.written()));
        }
        Content::Messages { api, elsewhere } => (api, elsewhere),
    };
    let within: &[&str] = match api {
        ToolApi::Mcp | ToolApi::McpStdio | ToolApi::Hook => &["params", "arguments"],
        ToolApi::JsonRpc => &["params"],
        ToolApi::Http => &[],
        // Over HTTP+JSON: what is JSON-RPC says so.
        ToolApi::A2a if document.as_ref().is_some_and(a2a::is_of_before) => {
            let why =
                "its message has its parts where 0.3 has them in HTTP+JSON, and not where rules do";
            return Err(why.to_owned());
        }
        ToolApi::A2a => &[],
        ToolApi::Grpc | ToolApi::Graphql => {
            return Err("arguments of GraphQL and gRPC cannot be changed".to_owned());
        }
    };
    let mut places = made.all().flat_map(Edits::places);
    let in_target = places.find(|place| {
        let first = place.tokens().first();
        let meant = |name: &String| first.is_some_and(|it| **it == *EACH || same_name(it, name));
        elsewhere.iter().any(meant)
    });
    if let Some(place) = in_target {
        return Err(format!("`{place}` stands in the target of the request"));
    }
    let Some(mut document) = document else {
        let adds = made.all().any(|edits| !edits.patch.is_empty());
        return match adds {
            true => Err("it has no content".to_owned()),
            false => Ok(None),
        };
    };
    let mut room = MAX_ADDED;
    let changed = match within {
        [] => {
            let mut edits = made.all();
            edits.try_for_each(|edits| edits.apply_in(&mut document, &mut room))
        }
        _ => jsonrpc::edit_each(&mut document, within, &made.edits, &mut room),
    };
    changed.map_err(impossible)?;
    Ok(Some(document.written()))
}

/// Whether a field is signed: AWS Signature Version 4, in a field or in the target.
pub(crate) fn signs(fields: &HeaderMap, uri: &Uri, name: &str) -> bool {
    let within = |text: &str, key: &str| {
        let (_, list) = text.split_once(key)?;
        let list = list.trim_start_matches('=').trim_start();
        let list = list.split([',', '&', ' ']).next().unwrap_or_default();
        let mut names = list.split(';').flat_map(|it| it.split("%3b"));
        Some(names.any(|it| it == name))
    };
    let field = |value: &HeaderValue| {
        let text = value.to_str().ok()?.to_ascii_lowercase();
        text.starts_with("aws4-").then_some(())?;
        within(&text, "signedheaders")
    };
    let mut signed = fields.get_all(header::AUTHORIZATION).iter().map(field);
    let query = uri.query().map(str::to_ascii_lowercase).unwrap_or_default();
    signed.any(|it| it == Some(true)) || within(&query, "x-amz-signedheaders") == Some(true)
}

/// Whether content is signed together with its request: AWS Signature Version 4, in a field or in the target, and HTTP
/// Message Signatures (RFC 9421).
fn is_signed(fields: &HeaderMap, uri: &Uri) -> bool {
    let aws = |value: &HeaderValue| {
        let start = value.as_bytes().get(..5);
        start.is_some_and(|start| start.eq_ignore_ascii_case(b"AWS4-"))
    };
    fields.get_all(header::AUTHORIZATION).iter().any(aws)
        || fields.contains_key("signature-input")
        || uri
            .query()
            .is_some_and(|query| query.to_ascii_lowercase().contains("x-amz-signature="))
}
