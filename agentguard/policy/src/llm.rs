//! What a rule says of calls of language models.
//!
//! Of a call that could not be read provider and operation are known, and nothing else: an allowance that asks
//! for more does not match it, and a denial does.

use agentguard_model::{Llm, LlmOperation};

use crate::pattern::{Wildcard, all_or_among, one_of};
use crate::request::{Request, Unknown, any_or_shared};
use crate::steps::Steps;

/// The operations, as documents write them.
pub(crate) const OPERATIONS: [(&str, LlmOperation); 7] = [
    ("chat", LlmOperation::Chat),
    ("text_completion", LlmOperation::TextCompletion),
    ("embeddings", LlmOperation::Embeddings),
    ("count_tokens", LlmOperation::CountTokens),
    ("realtime", LlmOperation::Realtime),
    ("transcription", LlmOperation::Transcription),
    ("retrieval", LlmOperation::Retrieval),
];

/// An operation, as documents write it.
pub(crate) fn operation(of: LlmOperation) -> &'static str {
    let mut known = OPERATIONS.iter();
    known.find(|(_, it)| *it == of).map_or("", |(name, _)| name)
}

/// What a rule says of calls of language models. What is no call does not match.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct LlmMatch {
    /// Empty for any.
    pub(crate) providers: Vec<Wildcard>,
    /// Empty for any.
    pub(crate) operations: Vec<LlmOperation>,
    /// Empty for any.
    pub(crate) models: Vec<Wildcard>,
    /// Names of tools that are offered. Empty for any.
    pub(crate) tools: Vec<Wildcard>,
    /// Names of tools, one of which the model must ask to call. Empty for whatever it answers. For denials alone.
    pub(crate) tool_calls: Vec<Wildcard>,
    /// It must ask for more tokens than this, or for as many as there are. For denials alone.
    pub(crate) max_output_over: Option<u64>,
}

impl LlmMatch {
    /// How many values it lists.
    pub(crate) fn values(&self) -> usize {
        let names = self.tools.len() + self.tool_calls.len();
        self.providers.len() + self.operations.len() + self.models.len() + names
    }

    /// For how many parts of a call it has a condition; that it is one counts as well.
    pub(crate) fn conditions(&self) -> usize {
        1 + usize::from(!self.providers.is_empty())
            + usize::from(!self.operations.is_empty())
            + usize::from(!self.models.is_empty())
            + usize::from(!self.tools.is_empty())
            + usize::from(!self.tool_calls.is_empty())
            + usize::from(self.max_output_over.is_some())
    }

    /// Whether a request is a call that matches. `allows` as of [`crate::request::RequestMatch::matches`].
    pub(crate) fn matches(&self, request: &Request<'_>, allows: bool, steps: &Steps) -> bool {
        if let Some(holds) = request.assumed(allows, Unknown::llm) {
            return holds;
        }
        if let (Some(holds), Some(llm)) = (request.assumed(allows, Unknown::content), request.llm) {
            let known = self.provider(llm) && self.operation(llm);
            return known && (holds || !self.needs_content(false));
        }
        if request.opens_calls {
            // The model is known where what opens the connection names it.
            let known = |llm: &Llm| {
                self.provider(llm)
                    && self.operation(llm)
                    && (llm.model.is_none() || self.model(llm, allows, steps))
                    && (allows || !self.needs_content(llm.model.is_some()))
            };
            return request.llm.is_some_and(known);
        }
        request.llm.is_some_and(|llm| {
            let asked = match llm.is_fetched() {
                true => self.asked_before(),
                false => self.model(llm, allows, steps) && self.tools(llm, allows, steps),
            };
            self.provider(llm)
                && self.operation(llm)
                && asked
                && self.tool_calls(llm, steps)
                && self.max_output(llm)
        })
    }

    pub(crate) fn provider(&self, llm: &Llm) -> bool {
        let name = llm.provider.as_bytes();
        self.providers.is_empty() || self.providers.iter().any(|it| it.matches(name))
    }

    pub(crate) fn operation(&self, llm: &Llm) -> bool {
        self.operations.is_empty() || self.operations.contains(&llm.operation)
    }

    /// Servers differ in whether they look at the case of a model's name, and one that is not named is the
    /// server's to choose.
    pub(crate) fn model(&self, llm: &Llm, allows: bool, steps: &Steps) -> bool {
        if self.models.is_empty() {
            return true;
        }
        let Some(model) = &llm.model else {
            return !allows;
        };
        one_of(&self.models, model, allows, steps)
    }

    /// An allowance has to match every tool that is offered, and a denial one.
    pub(crate) fn tools(&self, llm: &Llm, allows: bool, steps: &Steps) -> bool {
        if self.tools.is_empty() {
            return true;
        }
        if llm.not_understood.is_some() {
            return !allows;
        }
        let mut tools = llm.tools.iter();
        if allows {
            tools.all(|tool| one_of(&self.tools, tool, allows, steps))
        } else {
            tools.any(|tool| one_of(&self.tools, tool, allows, steps))
        }
    }

    /// Whether it may be about a call that was made before, and decided then, of which neither the model nor the tools are
    /// known any more: no allowance that asks for these is, nor a denial, but for one of what the answer asks for.
    pub(crate) fn asked_before(&self) -> bool {
        !self.tool_calls.is_empty() || self.models.is_empty() && self.tools.is_empty()
    }

    /// What is asked for is known with the answer, which is decided by itself.
    pub(crate) fn tool_calls(&self, llm: &Llm, steps: &Steps) -> bool {
        let mut asks = llm.asks.iter();
        self.tool_calls.is_empty()
            || llm.asks_unread
            || asks.any(|tool| one_of(&self.tool_calls, tool, false, steps))
    }

    /// Vectors and numbers of tokens have no length to ask for, and what is written down has that of what is heard.
    pub(crate) fn max_output(&self, llm: &Llm) -> bool {
        let writes = match llm.operation {
            LlmOperation::Chat | LlmOperation::TextCompletion | LlmOperation::Realtime => true,
            LlmOperation::Embeddings | LlmOperation::CountTokens | LlmOperation::Transcription => {
                false
            }
            LlmOperation::Retrieval => !llm.is_fetched(),
        };
        // Of a call that could not be read no limit is known either.
        self.max_output_over
            .is_none_or(|over| writes && llm.max_output_tokens.is_none_or(|tokens| tokens > over))
    }

    /// Whether it has conditions on what a call says itself. `model`: that is known before.
    fn needs_content(&self, model: bool) -> bool {
        !model && !self.models.is_empty()
            || !self.tools.is_empty()
            || !self.tool_calls.is_empty()
            || self.max_output_over.is_some()
    }

    /// Whether this matches whatever `other` matches, in rules that say the same: see
    /// [`Self::depends_on_action`]. Patterns by spelling alone.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        // Of an answer that is fetched it is not known any more what was called.
        let fetched = other.asked_before()
            && (other.operations.is_empty() || other.operations.contains(&LlmOperation::Retrieval));
        (self.asked_before() || !fetched)
            && all_or_among(&self.providers, &other.providers)
            && (self.operations.is_empty()
                || !other.operations.is_empty()
                    && other
                        .operations
                        .iter()
                        .all(|it| self.operations.contains(it)))
            && all_or_among(&self.models, &other.models)
            && all_or_among(&self.tools, &other.tools)
            && all_or_among(&self.tool_calls, &other.tool_calls)
            && match (self.max_output_over, other.max_output_over) {
                (None, _) => true,
                (Some(over), Some(others)) => over <= others,
                (Some(_), None) => false,
            }
    }

    /// Whether some call certainly matches both this and `other`.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        any_or_shared(&self.providers, &other.providers, Wildcard::covers)
            && any_or_shared(&self.operations, &other.operations, PartialEq::eq)
            && any_or_shared(&self.models, &other.models, Wildcard::covers)
            && any_or_shared(&self.tools, &other.tools, Wildcard::covers)
    }

    /// Whether a rule that says this matches less than one of another action that says it too.
    pub(crate) fn depends_on_action(&self, allows: bool) -> bool {
        !self.tools.is_empty() || allows && !self.models.is_empty()
    }
}
