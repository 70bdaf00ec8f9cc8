//! Numbers of tokens of which what was cached is apart.

use agentguard_model::Usage;
use http::HeaderMap;

/// In the place of a number that is none: it is no less with others together, so that nothing of which it is a part is
/// known.
const NO_COUNT: u64 = u64::MAX;

/// A number that was told, which may be none.
pub(super) fn told(number: Option<u64>) -> Option<u64> {
    number.or(Some(NO_COUNT))
}

/// What is known of one that may have been told.
pub(super) fn known(number: Option<u64>) -> Option<u64> {
    number.filter(|it| *it != NO_COUNT)
}

/// Tokens as Anthropic and Bedrock count them: what was cached is no input. The last number of each that was told
/// counts, since those of a stream's end stand for all of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    pub(super) cache_read: Option<u64>,
    pub(super) cache_write: Option<u64>,
    /// What of the output is reasoning.
    pub(super) reasoning: Option<u64>,
}

impl Counts {
    /// Of Bedrock's fields (`X-Amzn-Bedrock-Input-Token-Count` and its like).
    pub(super) fn of_fields(fields: &HeaderMap) -> Self {
        let count = |name: &str| {
            let count = fields.get(format!("x-amzn-bedrock-{name}-token-count"));
            count.and_then(|it| told(it.to_str().ok()?.parse().ok()))
        };
        Self {
            input: count("input"),
            output: count("output"),
            cache_read: count("cache-read-input"),
            cache_write: count("cache-write-input"),
            reasoning: None,
        }
    }

    /// Whether anything was told.
    pub(super) fn any(self) -> bool {
        self.input.or(self.output).is_some()
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        Self {
            input: sum(self.input, other.input),
            output: sum(self.output, other.output),
            cache_read: sum(self.cache_read, other.cache_read),
            cache_write: sum(self.cache_write, other.cache_write),
            reasoning: sum(self.reasoning, other.reasoning),
        }
    }

    /// With what was cached as a part of what was read.
    pub(super) fn usage(self) -> Option<Usage> {
        let Self {
            input,
            output,
            cache_read,
            cache_write,
            reasoning,
        } = self;
        input.or(output)?;
        let cached = [cache_read, cache_write].into_iter().flatten();
        Some(Usage {
            input_tokens: known(input.map(|input| cached.fold(input, u64::saturating_add))),
            output_tokens: known(output),
            cache_read_tokens: known(cache_read),
            cache_write_tokens: known(cache_write),
            reasoning_tokens: known(reasoning),
            ..Usage::default()
        })
    }
}
