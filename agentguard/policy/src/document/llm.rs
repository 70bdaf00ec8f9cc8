//! What a document says of language models, as it is written.

use agentguard_model::LlmApi;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::yaml::At;

/// A provider of language models.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a provider")]
#[schemars(rename = "Provider")]
pub(crate) struct RawProvider {
    /// Its name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))]
    pub(crate) name: At<String>,
    /// The form in which its API is spoken.
    pub(crate) api: LlmApi,
    /// Where it answers: names, exact, or `*.example.org` for all names below `example.org`.
    pub(crate) hosts: At<Vec<At<String>>>,
}

/// A call of a language model: a request to a host of a provider, in the form of its API. `{}` for any.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "LlmMatch")]
pub(crate) struct RawLlm {
    /// Providers, by name; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) provider: Option<At<Vec<At<String>>>>,
    /// What it is for.
    #[serde(default)]
    #[schemars(with = "Option<Vec<RawOperation>>")]
    pub(crate) operation: Option<At<Vec<At<String>>>>,
    /// Models; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) model: Option<At<Vec<At<String>>>>,
    /// Tools that are offered to the model: for an allowance all of them must be among these, for a denial
    /// one.
    #[serde(default)]
    pub(crate) tools: Option<At<Vec<At<String>>>>,
    /// Tools that the model asks to call: then its answer ends with an error. For denials.
    #[serde(default)]
    pub(crate) tool_calls: Option<At<Vec<At<String>>>>,
    /// A call that asks for more tokens than this, or does not say how many it asks for. For denials.
    #[serde(default)]
    pub(crate) max_output_over: Option<At<u64>>,
}

/// An operation, for the schema.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "Operation")]
#[expect(
    dead_code,
    reason = "it only describes what the loader reads from text"
)]
enum RawOperation {
    /// An operation.
    Known(agentguard_model::LlmOperation),
    /// A named list, or what a variable makes one.
    Named(#[schemars(regex(pattern = r"^@|\$\{"))] String),
}

/// What becomes of a call of a language model that cannot be read.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum NotUnderstood {
    /// It is refused.
    #[default]
    Deny,
    /// The rules decide on it, as far as they need no more than its provider and operation.
    Allow,
}
