//! Calls of language models: what is asked for, and what comes of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The form in which a provider's API is spoken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LlmApi {
    /// `OpenAI`'s: Chat Completions, Completions, Responses, Embeddings. Most other providers and servers speak it too.
    Openai,
    /// Anthropic's: Messages.
    Anthropic,
    /// Google's: `generateContent` and its like, in the Gemini API and in Vertex AI. `OpenAI`'s is spoken there too,
    /// and in Vertex AI Anthropic's.
    Gemini,
    /// Ollama's own: `/api/chat` and its like. `OpenAI`'s and Anthropic's are spoken there too.
    Ollama,
    /// Amazon Bedrock's: Converse and Invoke. `OpenAI`'s and Anthropic's are spoken there too.
    Bedrock,
    /// Cohere's: Chat and Embed. `OpenAI`'s is spoken there too.
    Cohere,
}

/// Who answers at a host, and in which form.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Provider {
    /// The provider's name, as the record has it: `openai`, `anthropic`, …
    pub name: String,
    /// The form.
    pub api: LlmApi,
}

/// What a call is for. The words are those of OpenTelemetry's `gen_ai.operation.name`, where it has one.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum LlmOperation {
    /// A turn of a conversation.
    Chat,
    /// A text that is carried on.
    TextCompletion,
    /// Vectors of texts.
    Embeddings,
    /// The number of tokens that a call would have.
    CountTokens,
    /// A session of speech and text in both directions at once, or a response in one.
    Realtime,
    /// What is heard, written down.
    Transcription,
    /// The answer to a call that was made before, fetched by its id. Neither a model nor a tool is named there.
    Retrieval,
}

/// A call of a language model, as it is asked for.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Llm {
    /// The provider.
    pub provider: String,
    /// What it is for.
    pub operation: LlmOperation,
    /// The model asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether the answer is to come as a stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// The most tokens that the answer may have, where the call says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// The tools that are offered to the model, by name; those that the provider has itself, by type too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// The tools that the model asks to call, where that is what is decided: then the answer is not passed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<String>,
    /// Whether the answer could not be read that is decided, so that it may ask for any tool.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks_unread: bool,
    /// Why the call could not be read, where it went on all the same: then nothing else is known of it but
    /// provider and operation, and of a form that is not read the model, where the path names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_understood: Option<String>,
}

impl Llm {
    /// Whether it fetches the answer to a call that was made before, of which neither the model nor the tools are known any
    /// more. What cannot be read fetches none: it may be any call.
    #[must_use]
    pub fn is_fetched(&self) -> bool {
        self.operation == LlmOperation::Retrieval && self.not_understood.is_none()
    }
}

/// What a call may have a model read and write, as far as the call shows it: budgets reserve by it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Demand {
    /// How many answers are asked for at once; 0 where the call does not say, which is one.
    pub answers: u32,
    /// Whether the model is asked to reason, or not to. None: as it does by itself.
    pub reasons: Option<bool>,
    /// Whether it is told not to in OpenAI's form, which has `none` for an effort. Whoever else has that form may not heed it.
    pub told_in_openai_form: bool,
    /// Whether it goes on where nobody waits for its answer any more.
    pub background: bool,
    /// Whether the model is to read it alone, and write nothing: what is to come is prepared.
    pub silent: bool,
    /// Whether the provider may call tools of its own for it, which the model reads and writes for.
    pub serves_tools: bool,
    /// How many pictures, documents and sounds there are in it.
    pub media: u32,
    /// How many of these are pictures that are in it themselves.
    pub pictures: u32,
    /// How many of the pictures are to be looked at in no more detail than OpenAI's `high`.
    pub plain_pictures: u32,
    /// How many bytes of the call the pictures are, as they are written there: in base64.
    pub picture_bytes: u64,
    /// Whether it says of each cache that it writes that it is kept for five minutes.
    pub short_caches: bool,
    /// Whether it refers to what is not in it: an earlier answer, a file, a stored prompt, a picture at an address.
    pub refers: bool,
    /// How many messages and tools there are in it, around which a provider writes words of its own.
    pub parts: u32,
    /// The service tier that is asked for, in the provider's word.
    pub tier: Option<String>,
    /// Whether it is to be served in one region alone.
    pub regional: bool,
}

/// Tokens, as a provider reports them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Usage {
    /// All that the model read, also what was cached: some providers report the two apart, and here they are
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// What of it came from a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    /// What of it was put into a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// What of it was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_input_tokens: Option<u64>,
    /// All that it wrote, also what is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// What of it is reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    /// What of it was said aloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_output_tokens: Option<u64>,
    /// Whether it says that the call was served in one region alone, for which it takes more. Only prices need it, and it is
    /// in no record.
    #[serde(skip)]
    pub regional: bool,
}

/// A tool call that a model asked for.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct AskedTool {
    /// The tool's name.
    pub name: String,
    /// The call's id, by which its result is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `sha256:` and the hexadecimal digest of its arguments, as the model wrote them. Absent where they did
    /// not come to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// What came of a call.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct LlmAnswer {
    /// The model that answered, as it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What was used, as the provider reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The tool calls that the model asked for, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<AskedTool>,
    /// Tools whose calls were cut out of what was passed on, by name: a rule denies them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<String>,
    /// Why the model stopped, in the provider's word; of several answers, that of the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// The provider's error: its type or code, where it gives one, else its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the answer could not be read to its end, where it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_understood: Option<String>,
}
