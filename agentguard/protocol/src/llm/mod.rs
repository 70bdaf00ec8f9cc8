//! Calls of language models over HTTP: which requests are some, what they ask for, and what comes of them.
//!
//! - [`Route`] knows a call by its path, in the form of the provider that a host belongs to: its [`Endpoint`], and
//!   the model where the path names it.
//! - [`CallReader`] reads what a request asks for; [`AnswerReader`] what is answered, whole or event by event.
//! - [`TurnReader`] reads what a message on a WebSocket asks for, where each is a call of its own, and [`EventReader`]
//!   what comes back; [`realtime`] what is said on one that is a session.
//!
//! Both read as it comes and keep only what they tell of. Names of members are those of the providers' API
//! references; a name that differs in case alone is not understood, since some servers take it for the same.

mod answer;
mod anthropic;
mod call;
mod chat;
mod cohere;
mod converse;
mod converse_call;
mod counts;
mod cut;
mod demand;
mod gemini;
mod gemini_call;
mod invoke;
mod limit;
mod names;
mod noted;
mod ollama;
mod paths;
pub mod realtime;
mod responses;
mod said;
#[cfg(test)]
mod tests;
mod tools;
mod turn;
pub mod usage;
mod written;

use agentguard_model::{LlmApi, LlmOperation};

pub use answer::{AnswerReader, Progress};
pub use call::{Call, CallReader};
pub use cut::{Cutter, Uncut};
pub use limit::{Unlimited, limit, takes_none};
pub use paths::Route;
pub use said::{Said, SaidReader};
pub use turn::{EventReader, Turn, TurnAnswer, TurnEvent, TurnReader};
pub use written::{MAX_WRITTEN, Written};

use crate::content::Undecodable;
use crate::json::Pointer;
use crate::{eventstream, json};

/// The most bytes that the name of a model or a tool, or an id, may have.
pub const MAX_WORD: usize = 256;

/// The most tools that a call may offer.
pub const MAX_OFFERED: usize = 1024;

/// The most tool calls of an answer that are told of.
pub const MAX_TOOL_CALLS: usize = 128;

/// The most bytes of one event that are kept until it is known to which tool call they belong.
pub const MAX_PENDING: usize = 48 * 1024;

/// Why a call, or its answer, is not understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotUnderstood {
    /// It is not JSON that can be read in one way only.
    #[error(transparent)]
    Json(#[from] json::Fault),
    /// Its content coding cannot be taken off.
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    /// It is no event stream of AWS's, or none that is read.
    #[error(transparent)]
    EventStream(#[from] eventstream::Fault),
    /// A line of an event stream is none of one: see [`crate::sse::Pieces::is_odd`].
    #[error("a line of its event stream is neither a field nor a comment")]
    Line,
    /// Bytes in an event of one are no base64.
    #[error("an event of it has bytes that are no base64")]
    Base64,
    /// Its top is no object.
    #[error("it is no JSON object")]
    NoObject,
    /// A member has not the type that the API gives it.
    #[error("`{0}` is not what the API takes there")]
    Wrong(&'static str),
    /// The target of its request names another.
    #[error("its content names another model than its path")]
    OfPath,
    /// Its server may take another method than the request has.
    #[error("its request names a method beside its own")]
    Method,
    /// Some servers read it as its type says.
    #[error("its type says that it is a form, and it could be read as one")]
    AsForm,
    /// It names models beside its own, one of which may answer in its place or be called by it.
    #[error("it names more than one model")]
    Models,
    /// A member's name differs in case from one that the API has.
    #[error("`{0}` is written in another case than the API has it")]
    Case(&'static str),
    /// A member is there under both of the names that the JSON of protocol buffers has for it.
    #[error("`{0}` is there in two spellings")]
    Spellings(&'static str),
    /// Nothing is known of the form.
    #[error("content of this form is not read")]
    Form,
    /// A word is longer than [`MAX_WORD`].
    #[error("`{0}` is longer than {MAX_WORD} bytes")]
    Long(&'static str),
    /// [`MAX_OFFERED`].
    #[error("it offers more than {MAX_OFFERED} tools")]
    Offered,
    /// [`MAX_TOOL_CALLS`].
    #[error("it asks for more than {MAX_TOOL_CALLS} tool calls")]
    ToolCalls,
    /// A tool call that has two names.
    #[error("a tool call of it has two names")]
    Names,
    /// A message that is neither a call nor about one.
    #[error("a message on the WebSocket is of no type that is known, or has what its type has not")]
    Message,
    /// A session of Realtime that is for something else: transcription.
    #[error("a session of this type is not read")]
    Session,
    /// A session of Realtime that is opened in a way of which nobody knows what it asks for.
    #[error("a parameter of its target is not known, or is no text")]
    Parameter,
    /// [`MAX_PENDING`].
    #[error("one event of it has more than {MAX_PENDING} bytes of a tool call's arguments")]
    Pending,
}

/// In what the documents of a stream come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    /// Events (WHATWG HTML, 9.2).
    Events,
    /// Lines, each of which is one.
    Lines,
    /// Messages of AWS's event stream.
    Messages,
    /// Items of one list.
    List,
}

/// Where calls go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// `OpenAI`'s Chat Completions.
    ChatCompletions,
    /// `OpenAI`'s Completions.
    Completions,
    /// `OpenAI`'s Embeddings.
    Embeddings,
    /// `OpenAI`'s Responses.
    Responses,
    /// The number of tokens that one of those would read.
    ResponsesTokens,
    /// Anthropic's Messages.
    Messages,
    /// The number of tokens that one of those would read.
    MessagesTokens,
    /// Many of Anthropic's Messages at once, answered later.
    MessageBatches,
    /// `OpenAI`'s batches: the calls stand in a file that was sent before, and are not read.
    Batches,
    /// `OpenAI`'s Realtime: it is read over WebSocket, see [`realtime`], and not otherwise.
    Realtime,
    /// Answers to calls that were made before, by their ids.
    Retrieved(Retrieved),
    /// What prepares a session of it, and sessions of other kinds. They are not read.
    RealtimeBeside,
    /// Calls in forms that are not read: xAI's over gRPC, Mistral's batches, and what servers have beside `OpenAI`'s form
    /// (vLLM, SGLang, llama.cpp, Ollama).
    OtherForm,
    /// Gemini's, in the Gemini API and in Vertex AI.
    GenerateContent {
        /// Whether it is the one that streams.
        stream: bool,
    },
    /// The number of tokens that one of those would read.
    ContentTokens,
    /// Gemini's embeddings, of one text or of many.
    EmbedContent,
    /// Gemini's Interactions and its batches, which are not read.
    Interactions,
    /// Anthropic's Messages in Vertex AI.
    PredictMessages {
        /// Whether it is the one that streams.
        stream: bool,
    },
    /// What other publishers have in Vertex AI: the form is that of each model, and is not read.
    Predict {
        /// Whether it is the one that streams.
        stream: bool,
    },
    /// Ollama's own chat.
    OllamaChat,
    /// Ollama's own completions.
    OllamaGenerate,
    /// Ollama's own embeddings.
    OllamaEmbed,
    /// Cohere's Chat.
    CohereChat,
    /// Cohere's Generate, which came before.
    CohereGenerate,
    /// Cohere's Embed.
    CohereEmbed,
    /// Bedrock's Converse.
    Converse {
        /// Whether it is the one that streams.
        stream: bool,
    },
    /// The number of tokens that a call of Bedrock would read.
    BedrockTokens,
    /// Bedrock's Invoke.
    Invoke {
        /// Whether it is the one that streams.
        stream: bool,
        /// The form of its content.
        form: InvokeForm,
    },
}

/// Which calls an answer is of that is fetched by its id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retrieved {
    /// One of `OpenAI`'s Responses, whole or as the rest of its stream.
    Response,
    /// One that is ended with that.
    Cancelled,
    /// One of `OpenAI`'s Chat Completions.
    Chat,
    /// Many of Anthropic's Messages. They are not read.
    Batch,
    /// Many of `OpenAI`'s, or what belongs to one: lists of completions, what a response has read, and what a conversation
    /// has in it, where answers before are among. They are not read.
    Kept,
    /// One of Gemini's Interactions, or a batch of its calls. They are not read.
    Interaction,
}

/// The form in which a model of Bedrock is spoken to by Invoke: that of its vendor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InvokeForm {
    /// Anthropic's Messages.
    Messages,
    /// `OpenAI`'s Chat Completions.
    Chat,
    /// Of a model that makes vectors: it has no tools and no length.
    Embeddings,
    /// Another one, which is not read.
    Other,
}

impl Endpoint {
    /// Where the calls stand in content that has them inside of it: many at once, or one that is to be counted. Where
    /// nothing is there, the content is the call.
    #[must_use]
    pub fn inside(self) -> Vec<Pointer> {
        let places: &[&str] = match self {
            Self::MessageBatches => &["/requests/*/params"],
            Self::ContentTokens | Self::EmbedContent => &[
                "/generateContentRequest",
                "/generate_content_request",
                "/requests/*",
            ],
            Self::BedrockTokens => &["/input/converse"],
            _ => &[],
        };
        let pointers = places.iter().map(|place| Pointer::parse(place));
        pointers.filter_map(Result::ok).collect()
    }

    /// The endpoint of a request in `OpenAI`'s or Anthropic's form, by its canonical path. None where it is for
    /// something else.
    ///
    /// Hosts have their APIs below paths of their own, so the end of a path is what counts; and it counts in any
    /// spelling that some server takes for it.
    #[must_use]
    fn of(api: LlmApi, path: &str) -> Option<Self> {
        let path = path.to_ascii_lowercase().replace("%2f", "/");
        // What stands behind a `;` is a parameter of the segment for some (RFC 3986, 3.3).
        let segments = path.rsplit('/');
        let segments = segments.map(|it| it.split("%3b").next().unwrap_or_default());
        let mut segments = segments
            .map(|it| it.split(';').next().unwrap_or_default())
            .map(|it| it.trim_end_matches("%20"))
            .filter(|segment| !segment.is_empty());
        let last = segments.next()?;
        let before = segments.next().unwrap_or_default();
        let collection = segments.next().unwrap_or_default();
        let above = segments.next().unwrap_or_default();
        match (api, before, last) {
            // What was uploaded in parts is whole then, and nobody answers.
            (_, _, "complete") if collection == "uploads" => None,
            // Perplexity's, with the call inside of its content.
            (LlmApi::Openai, "chat", "completions") if collection == "async" => {
                Some(Self::OtherForm)
            }
            (LlmApi::Openai, "chat" | "agents", "completions") => Some(Self::ChatCompletions),
            (LlmApi::Openai, _, "completions") => Some(Self::Completions),
            (LlmApi::Openai, _, "embeddings") => Some(Self::Embeddings),
            (LlmApi::Openai, _, "responses") | (LlmApi::Openai, "responses", "compact") => {
                Some(Self::Responses)
            }
            (LlmApi::Openai, "responses", "input_tokens") => Some(Self::ResponsesTokens),
            (LlmApi::Openai, _, "batches") => Some(Self::Batches),
            (LlmApi::Openai, _, "realtime") => Some(Self::Realtime),
            (LlmApi::Openai, "realtime" | "live", _) | (LlmApi::Openai, _, "live") => {
                Some(Self::RealtimeBeside)
            }
            (LlmApi::Anthropic, "messages", "batches") => Some(Self::MessageBatches),
            // Those of a thread of OpenAI's are kept there, and nobody answers.
            (LlmApi::Anthropic, _, "messages") if collection != "threads" => Some(Self::Messages),
            (LlmApi::Anthropic, "messages", "count_tokens") => Some(Self::MessagesTokens),
            (LlmApi::Openai, "responses", _) => Some(Self::Retrieved(Retrieved::Response)),
            (LlmApi::Openai, _, "cancel") if collection == "responses" => {
                Some(Self::Retrieved(Retrieved::Cancelled))
            }
            (LlmApi::Openai, "completions", _) if collection == "chat" && above == "async" => {
                Some(Self::Retrieved(Retrieved::Kept))
            }
            (LlmApi::Openai, "completions", _) if collection == "chat" => {
                Some(Self::Retrieved(Retrieved::Chat))
            }
            // xAI's.
            (LlmApi::Openai, "deferred-completion", _) => Some(Self::Retrieved(Retrieved::Chat)),
            (LlmApi::Openai, _, "input_items") if collection == "responses" => {
                Some(Self::Retrieved(Retrieved::Kept))
            }
            // OpenRouter's.
            (LlmApi::Openai, "generation", "content") => Some(Self::Retrieved(Retrieved::Kept)),
            // Mistral's.
            (LlmApi::Openai, "batch", "jobs") => Some(Self::OtherForm),
            (LlmApi::Openai, "jobs", _) if collection == "batch" => {
                Some(Self::Retrieved(Retrieved::Kept))
            }
            (LlmApi::Openai, "api", "chat")
            | (
                LlmApi::Openai,
                _,
                "invocations" | "completion" | "complete" | "generate" | "generate_stream"
                | "infill",
            )
            | (LlmApi::Openai, "generate", "stream")
            | (LlmApi::Anthropic, _, "complete") => Some(Self::OtherForm),
            // LM Studio's own.
            (LlmApi::Openai, _, "chat") if collection == "api" => Some(Self::OtherForm),
            (LlmApi::Openai, service, _) if service.starts_with("xai_api.") => {
                Some(Self::OtherForm)
            }
            (LlmApi::Openai, "conversations", _) => Some(Self::Retrieved(Retrieved::Kept)),
            (LlmApi::Openai, _, _) if collection == "conversations" || above == "conversations" => {
                Some(Self::Retrieved(Retrieved::Kept))
            }
            (LlmApi::Anthropic, _, "results") if collection == "batches" => {
                Some(Self::Retrieved(Retrieved::Batch))
            }
            _ => None,
        }
    }

    /// What it is for.
    #[must_use]
    pub const fn operation(self) -> LlmOperation {
        match self {
            Self::ChatCompletions
            | Self::Responses
            | Self::Messages
            | Self::MessageBatches
            | Self::Batches
            | Self::GenerateContent { .. }
            | Self::Interactions
            | Self::OtherForm
            | Self::PredictMessages { .. }
            | Self::Predict { .. }
            | Self::OllamaChat
            | Self::Converse { .. }
            | Self::CohereChat => LlmOperation::Chat,
            Self::Realtime | Self::RealtimeBeside => LlmOperation::Realtime,
            Self::Completions | Self::OllamaGenerate | Self::CohereGenerate => {
                LlmOperation::TextCompletion
            }
            Self::Embeddings | Self::EmbedContent | Self::OllamaEmbed | Self::CohereEmbed => {
                LlmOperation::Embeddings
            }
            Self::Invoke { form, .. } => match form {
                InvokeForm::Embeddings => LlmOperation::Embeddings,
                InvokeForm::Messages | InvokeForm::Chat | InvokeForm::Other => LlmOperation::Chat,
            },
            Self::ResponsesTokens
            | Self::MessagesTokens
            | Self::ContentTokens
            | Self::BedrockTokens => LlmOperation::CountTokens,
            Self::Retrieved(_) => LlmOperation::Retrieval,
        }
    }

    /// In which form its clients read errors. A provider may speak more than one.
    #[must_use]
    pub const fn api(self) -> LlmApi {
        match self {
            Self::ChatCompletions
            | Self::Completions
            | Self::Embeddings
            | Self::Responses
            | Self::ResponsesTokens
            | Self::Batches
            | Self::Realtime
            | Self::RealtimeBeside
            | Self::OtherForm
            | Self::Retrieved(
                Retrieved::Response | Retrieved::Cancelled | Retrieved::Chat | Retrieved::Kept,
            ) => LlmApi::Openai,
            Self::Messages
            | Self::MessagesTokens
            | Self::MessageBatches
            | Self::Retrieved(Retrieved::Batch) => LlmApi::Anthropic,
            Self::GenerateContent { .. }
            | Self::ContentTokens
            | Self::EmbedContent
            | Self::Interactions
            | Self::Retrieved(Retrieved::Interaction)
            | Self::PredictMessages { .. }
            | Self::Predict { .. } => LlmApi::Gemini,
            Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed => LlmApi::Ollama,
            Self::CohereChat | Self::CohereGenerate | Self::CohereEmbed => LlmApi::Cohere,
            Self::Converse { .. } | Self::BedrockTokens | Self::Invoke { .. } => LlmApi::Bedrock,
        }
    }

    /// Whether the answer comes as a stream, where it is not the content that says so.
    #[must_use]
    pub const fn streams(self) -> Option<bool> {
        match self {
            Self::GenerateContent { stream }
            | Self::PredictMessages { stream }
            | Self::Predict { stream }
            | Self::Converse { stream }
            | Self::Invoke { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// Whether an answer of JSON is a list that comes item by item: Google's, where a request does not ask for events.
    #[must_use]
    pub const fn streams_list(self) -> bool {
        matches!(self, Self::GenerateContent { stream: true })
    }

    /// Whether a request is for it whatever its method is: nothing else is there. Of answers that are kept, by their names,
    /// more is: they are fetched and deleted.
    #[must_use]
    pub const fn by_path_alone(self) -> bool {
        let kept = matches!(self, Self::Retrieved(_));
        matches!(self.api(), LlmApi::Gemini | LlmApi::Bedrock) && !kept
    }

    /// What a request without content fetches there: answers that are kept. None: nothing.
    pub(super) const fn keeps(self) -> Option<Retrieved> {
        match self {
            // What `messages` there are below a completion or a conversation, too.
            Self::ChatCompletions
            | Self::Completions
            | Self::Responses
            | Self::Messages
            | Self::OtherForm => Some(Retrieved::Kept),
            Self::Retrieved(retrieved) => Some(retrieved),
            _ => None,
        }
    }

    /// Of which endpoint the answer is.
    #[must_use]
    pub const fn answers_as(self) -> Self {
        match self {
            Self::Retrieved(Retrieved::Response | Retrieved::Cancelled) => Self::Responses,
            Self::Retrieved(Retrieved::Chat) => Self::ChatCompletions,
            other => other,
        }
    }

    /// Whether the form of what is sent there is not known. Then nothing is but the model, where the path names it.
    #[must_use]
    pub const fn is_unread(self) -> bool {
        matches!(
            self,
            Self::Interactions
                | Self::OtherForm
                | Self::Predict { .. }
                | Self::Batches
                | Self::Realtime
                | Self::RealtimeBeside
                | Self::Retrieved(Retrieved::Batch | Retrieved::Kept | Retrieved::Interaction)
                | Self::Invoke {
                    form: InvokeForm::Other,
                    ..
                }
        )
    }

    /// Whether it is one of `OpenAI`'s.
    const fn is_openai(self) -> bool {
        matches!(self.api(), LlmApi::Openai)
    }
}

/// A text that is kept as a whole, up to [`MAX_WORD`].
#[derive(Debug, Default)]
struct Word {
    text: String,
    long: bool,
}

impl Word {
    fn push(&mut self, piece: &str) {
        self.long |= self.text.len() + piece.len() > MAX_WORD;
        if !self.long {
            self.text.push_str(piece);
        }
    }

    /// Whether it has more than is kept.
    const fn is_long(&self) -> bool {
        self.long
    }

    fn take(&mut self) -> Option<String> {
        let long = std::mem::take(&mut self.long);
        let text = std::mem::take(&mut self.text);
        (!long && !text.is_empty()).then_some(text)
    }
}
