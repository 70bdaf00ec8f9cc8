//! LLM APIs at an origin, in the providers' own shapes.
//!
//! | request | as |
//! | --- | --- |
//! | `POST /v1/chat/completions` | OpenAI's Chat Completions, plain or streaming; Mistral's of its models |
//! | `POST /openai/deployments/NAME/chat/completions` | the same of Azure's, where the path names the model |
//! | `POST /v1/completions` | OpenAI's Completions, plain or streaming |
//! | `POST /v1/responses` | OpenAI's Responses, plain or streaming |
//! | `POST /v1/embeddings` | OpenAI's, as floats or in base64 |
//! | `GET /v1/models` | OpenAI's list |
//! | `POST /v1/messages`, `/v1/messages/count_tokens` | Anthropic's Messages, plain or streaming, and their tokens |
//! | `POST /v1/models/MODEL:METHOD`, `/v1beta/…` | Gemini's `generateContent` and its like |
//! | `POST /VERSION/projects/…/publishers/PUBLISHER/models/MODEL:METHOD` | Vertex AI: Gemini's, and Anthropic's `rawPredict` |
//! | `POST /api/chat`, `/api/embed` | Ollama's own, plain or streaming |
//! | `POST /model/MODEL/METHOD` | Bedrock's Converse, and Invoke of Anthropic's models, plain or streaming |
//! | `POST /v2/chat`, `/v2/embed` | Cohere's, plain or streaming |
//!
//! The model says what the user said last, a word at a time: a word is a token and a delta. Any key
//! will do, but there must be one. Models are known by the beginnings of their names: `gpt-` and
//! `text-embedding-` are OpenAI's, `mistral-` is Mistral's, `claude-` is Anthropic's. Where they are offered a
//! tool, they call it with what the model would have said, as one token a word; OpenAI's and Anthropic's until a tool has answered.
//! A model that is told [`REGARDLESS`] keeps to no limit.

#![allow(
    clippy::indexing_slicing,
    reason = "indexing a JSON value does not panic: what is not there is null"
)]

mod anthropic;
mod bedrock;
mod cohere;
mod gemini;
mod mistral;
mod ollama;
mod openai;
#[cfg(test)]
mod tests;
mod vertex;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::Value;

/// How much of a request is read; what is longer is no JSON then.
pub(super) const LONGEST: usize = 16 << 20;

/// As the first word, it has all of the text said, whatever the limit is.
const REGARDLESS: &str = "regardless ";

/// An endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Api {
    ChatCompletions,
    Completions,
    Responses,
    Embeddings,
    Models,
    Messages,
    MessagesTokens,
    Gemini,
    Vertex,
    Ollama,
    Bedrock,
    Cohere,
}

/// What an endpoint answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The field in which the provider numbers its answers.
    pub(super) number: &'static str,
    /// Further fields.
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Json(Value),
    /// Server-sent events, each with the empty line that ends it.
    Events(Vec<Bytes>),
    /// A stream of another type, in its pieces.
    Stream(&'static str, Vec<Bytes>),
}

impl Api {
    /// The endpoint of a request; none where the request is for something else.
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        match (method.as_str(), path) {
            ("POST", "/v1/chat/completions") => Some(Self::ChatCompletions),
            ("POST", "/v1/completions") => Some(Self::Completions),
            ("POST", path) if deployment(path).is_some() => Some(Self::ChatCompletions),
            ("POST", "/v1/responses") => Some(Self::Responses),
            ("POST", "/v1/embeddings") => Some(Self::Embeddings),
            ("GET", "/v1/models") => Some(Self::Models),
            ("POST", "/v1/messages") => Some(Self::Messages),
            ("POST", "/v1/messages/count_tokens") => Some(Self::MessagesTokens),
            ("POST", "/api/chat" | "/api/embed") => Some(Self::Ollama),
            ("POST", "/v2/chat" | "/v2/embed") => Some(Self::Cohere),
            ("POST", path)
                if path.starts_with("/v1/models/") || path.starts_with("/v1beta/models/") =>
            {
                Some(Self::Gemini)
            }
            ("POST", path) if vertex::is(path) => Some(Self::Vertex),
            ("POST", path) if path.starts_with("/model/") => Some(Self::Bedrock),
            _ => None,
        }
    }

    pub(super) fn answer(self, target: &Uri, fields: &HeaderMap, body: &[u8]) -> Answer {
        let path = target.path();
        let (number, said) = match self {
            Self::Messages => ("request-id", anthropic::answer(fields, body)),
            Self::MessagesTokens => ("request-id", anthropic::count(fields, body)),
            Self::Gemini => ("x-request-id", gemini::answer(target, fields, body)),
            Self::Vertex => ("x-request-id", vertex::answer(target, fields, body)),
            Self::Ollama => ("x-request-id", ollama::answer(path, body)),
            Self::Cohere => ("x-request-id", cohere::answer(path, fields, body)),
            Self::Bedrock => return bedrock::answer(path, fields, body),
            Self::ChatCompletions
            | Self::Completions
            | Self::Responses
            | Self::Embeddings
            | Self::Models => (
                "x-request-id",
                openai::answer(self, deployment(path), fields, body),
            ),
        };
        let (status, content) = match said {
            Ok(content) => (StatusCode::OK, content),
            Err(Fault { status, told }) => (status, Content::Json(told)),
        };
        Answer {
            status,
            number,
            fields: Vec::new(),
            content,
        }
    }
}

/// The deployment of Azure's that a path names.
fn deployment(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/openai/deployments/")?;
    name.strip_suffix("/chat/completions")
}

/// Why a provider does not answer, in its own shape.
#[derive(Debug)]
struct Fault {
    status: StatusCode,
    told: Value,
}

impl Fault {
    const fn new(status: StatusCode, told: Value) -> Self {
        Self { status, told }
    }
}

/// The tool that is called, if one is offered: by its name.
fn called(offered: &Value) -> Option<&str> {
    offered["name"].as_str()
}

/// What the model makes of a conversation.
#[derive(Debug, Eq, PartialEq)]
struct Said {
    /// Each with the space behind it.
    words: Vec<String>,
    /// Whether the limit cut it short.
    cut: bool,
    input_tokens: usize,
}

impl Said {
    /// From the messages, the instructions before them, and the limits, of which the first given
    /// one counts.
    fn on(messages: &Value, before: &Value, limits: &[&Value]) -> Self {
        let none = Vec::new();
        let messages = messages.as_array().unwrap_or(&none);
        let last = messages
            .iter()
            .rev()
            .filter(|message| message["role"] == "user")
            .map(|message| text(&message["content"]))
            .find(|text| !text.is_empty());
        let last = last.unwrap_or_default();
        let limit = limits.iter().find_map(|limit| limit.as_u64());
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        let limit = match last.starts_with(REGARDLESS) {
            true => usize::MAX,
            false => limit,
        };
        let all = words(&last);
        let read = messages.iter().map(|message| text(&message["content"]));
        Self {
            cut: all.len() > limit,
            words: all.into_iter().take(limit).collect(),
            input_tokens: read
                .chain([text(before)])
                .map(|text| words(&text).len())
                .sum(),
        }
    }

    fn text(&self) -> String {
        self.words.concat()
    }

    fn output_tokens(&self) -> usize {
        self.words.len()
    }
}

/// A text, or the texts of several parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

/// An event that is named by the type of its data.
fn named(value: &Value) -> Bytes {
    let name = value["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {value}\n\n").into()
}
