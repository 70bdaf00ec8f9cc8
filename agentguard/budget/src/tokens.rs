//! How many tokens there are in what a model reads and writes: bounds before a call, counts while its answer comes.

mod counter;
mod input;
mod pictures;

use agentguard_model::{Demand, Llm, LlmOperation};
use serde::Serialize;

pub use counter::Counter;
pub use input::{Counted, InputCounter};
pub use pictures::Pictures;

/// How tokens are counted, where a provider has made that public.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// `OpenAI`'s, of GPT-4, GPT-4 Turbo and GPT-3.5, and of its embeddings.
    Cl100k,
    /// `OpenAI`'s, of GPT-4o and later.
    O200k,
}

impl Tokenizer {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Cl100k, Self::O200k];

    /// Reads its tables, which takes some 25 ms and 17 MiB once, and twice that for [`Self::O200k`]. The first text that is
    /// counted by it does it otherwise, and those of the other stay unread.
    pub fn prepare(self) {
        let _ = self.tables();
    }

    /// The tokens of a text. It takes as long as the text is.
    fn count(self, text: &str) -> u64 {
        self.tables().count(text) as u64
    }

    /// Its rules of where texts are divided, and the tokens of what is between. They are read when they are first asked for.
    fn tables(self) -> &'static bpe_openai::Tokenizer {
        match self {
            Self::Cl100k => bpe_openai::cl100k_base(),
            Self::O200k => bpe_openai::o200k_base(),
        }
    }
}

/// Tokens that a provider writes around a call for itself, at most: where tools are offered, how they are used; and with some
/// models, as Cohere's and xAI's, who they are and how they are to answer, whatever the call says of that.
const AROUND_A_CALL: u64 = 2_048;

/// The same of a call without tools, of a model around whose calls no more than a few tokens are known to be written: where
/// a turn begins and ends, and what day it is.
const AROUND_A_BARE_CALL: u64 = 128;

/// Tokens around each message and each tool, at most.
const AROUND_A_PART: u64 = 64;

/// What a call has a model read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Content {
    /// Bytes of text, of messages, tools and all that goes into them, without the pictures that are counted in
    /// `pictures`. The bytes of the body are no fewer: what JSON escapes is longer than what it stands for.
    pub text_bytes: u64,
    /// Tokens of that text, at most, where it has been counted.
    pub counted: Option<u64>,
    /// Messages and tools.
    pub parts: u64,
    /// Tokens of the pictures in it, at most.
    pub pictures: u64,
    /// Tokens that pictures are billed with beyond what the model can read.
    pub beyond: u64,
    /// Whether there is more that it does not show: documents, sounds and films, of which a byte may be many tokens,
    /// pictures of which nobody says how much they are, an earlier answer, a file, a stored prompt, what tools of the
    /// provider's find.
    pub more: bool,
    /// Whether no more than a few tokens are written around it: see [`is_bare`].
    pub bare: bool,
}

/// Whether little is written around a call: it offers no tools, and is one of text to a model of OpenAI's, Anthropic's or
/// Google's where these are served. Others have instructions of their own that are billed, or may have.
fn is_bare(llm: &Llm, demand: &Demand) -> bool {
    let writes = matches!(
        llm.operation,
        LlmOperation::Chat | LlmOperation::TextCompletion
    );
    if !writes || !llm.tools.is_empty() || demand.serves_tools {
        return false;
    }
    let families: &[&str] = match llm.provider.as_str() {
        "openai" => &["gpt-", "o1", "o3", "o4-"],
        "azure_openai" => &["gpt-"],
        "anthropic" | "bedrock" => &["claude-"],
        "vertex" => &["claude-", "gemini-"],
        "gemini" => &["gemini-"],
        _ => return false,
    };
    let model = llm.model.as_deref().unwrap_or_default();
    let model = model.to_ascii_lowercase();
    // Before it there may be where it is served (`us.anthropic.claude-…`, `publishers/google/models/gemini-…`).
    let name = model.rsplit(['/', '.', ':']);
    let known = name
        .chain([model.as_str()])
        .any(|name| families.iter().any(|family| name.starts_with(family)));
    // They look things up before they answer.
    known && !model.contains("search")
}

impl Content {
    /// Of a call that has this many bytes. `known`: how much pictures are for its model, where its provider says that. What
    /// is no such picture counts as what may be of any length.
    #[must_use]
    pub fn of(bytes: u64, demand: &Demand, known: Option<Pictures>) -> Self {
        let all_known = demand.media == demand.pictures && (demand.media == 0 || known.is_some());
        let unread = match all_known {
            true => demand.picture_bytes,
            false => 0,
        };
        Self {
            text_bytes: bytes.saturating_sub(unread),
            counted: None,
            parts: demand.parts.into(),
            pictures: known.map_or(0, |it| it.bound(demand)),
            beyond: known.map_or(0, |it| it.beyond(demand)),
            more: demand.refers || demand.serves_tools || !all_known,
            bare: false,
        }
    }

    /// The same, of this call.
    #[must_use]
    pub fn of_call(self, llm: &Llm, demand: &Demand) -> Self {
        Self {
            bare: is_bare(llm, demand),
            ..self
        }
    }

    /// The same of a call of this many bytes, which has been counted. What was set aside is a picture that is counted in
    /// `pictures`, or text of which a byte is a token at most.
    #[must_use]
    pub const fn counting(self, bytes: u64, counted: Counted) -> Self {
        let unread = bytes.saturating_sub(self.text_bytes);
        let counted = match counted.aside.checked_sub(unread) {
            Some(text) => Some(counted.tokens.saturating_add(text)),
            // There are pictures that were not set aside, so that nobody knows what is.
            None => None,
        };
        Self { counted, ..self }
    }

    /// The tokens that a model reads for it, at most; `context` is how many it can.
    ///
    /// A token stands for at least one byte of text with every tokenizer that falls back to bytes, which those of all
    /// providers do that are built in. Around it there is what they write themselves. What the call does not show is
    /// bounded by what the model can read alone: without a `context` that is not known either, and the answer is
    /// [`u64::MAX`].
    #[must_use]
    pub fn input_bound(&self, context: Option<u64>) -> u64 {
        let most = context.map_or(u64::MAX, |it| it.saturating_add(self.beyond));
        if self.more {
            return most;
        }
        let around = self.parts.saturating_mul(AROUND_A_PART);
        let call = match self.bare {
            true => AROUND_A_BARE_CALL,
            false => AROUND_A_CALL,
        };
        let text = upper(self.text_bytes).min(self.counted.unwrap_or(u64::MAX));
        let all = text
            .saturating_add(call)
            .saturating_add(around)
            .saturating_add(self.pictures);
        all.min(most)
    }
}

/// The tokens of a text of this many bytes, at most.
#[must_use]
pub const fn upper(bytes: u64) -> u64 {
    bytes
}

#[cfg(test)]
mod tests {
    use agentguard_model::{Demand, Llm, LlmOperation};
    use proptest::prelude::*;

    use super::{Content, Counted, Pictures, Tokenizer, upper};

    #[test]
    fn a_bound_is_of_what_is_shown_or_of_what_the_model_can_read() {
        let shown = Content {
            text_bytes: 1_000,
            parts: 3,
            ..Content::default()
        };
        assert_eq!(shown.input_bound(Some(128_000)), 1_000 + 2_048 + 3 * 64);
        assert_eq!(shown.input_bound(Some(2_000)), 2_000);
        let pictures = Content {
            pictures: 5_000,
            ..shown
        };
        assert_eq!(pictures.input_bound(None), 1_000 + 2_048 + 3 * 64 + 5_000);
        assert_eq!(pictures.input_bound(Some(3_500)), 3_500);
        let beyond = Content {
            beyond: 5_000,
            ..pictures
        };
        assert_eq!(beyond.input_bound(Some(3_500)), 8_240);
        assert_eq!(beyond.input_bound(Some(3_000)), 8_000);
        let more = Content {
            more: true,
            ..shown
        };
        assert_eq!(more.input_bound(Some(128_000)), 128_000);
        assert_eq!(more.input_bound(None), u64::MAX);
    }

    #[test]
    fn what_was_counted_is_a_bound_where_it_is_the_lower_one() {
        let demand = Demand {
            media: 1,
            pictures: 1,
            picture_bytes: 600,
            ..Demand::default()
        };
        let known = Pictures::of("openai", "gpt-4o");
        assert!(known.is_some());
        let bound = |known, tokens, aside| {
            let content = Content::of(1_000, &demand, known);
            let counted = content.counting(1_000, Counted { tokens, aside });
            counted.input_bound(Some(100_000))
        };
        let by_bytes = Content::of(1_000, &demand, known).input_bound(None);
        assert_eq!(by_bytes, 400 + 2_048 + 1_445);
        assert_eq!(bound(known, 90, 600), 90 + 2_048 + 1_445);
        // More was set aside than is a picture.
        assert_eq!(bound(known, 90, 650), 90 + 50 + 2_048 + 1_445);
        assert_eq!(bound(known, 5_000, 600), by_bytes);
        // A picture was counted as text: nobody knows which of the rest is none.
        assert_eq!(bound(known, 90, 599), by_bytes);
        assert_eq!(bound(None, 90, 600), 100_000, "of any length");
    }

    #[test]
    fn little_is_written_around_a_call_without_tools_of_a_model_of_which_that_is_known() {
        let around = |provider: &str, model: &str, change: fn(&mut Llm, &mut Demand)| {
            let mut llm = Llm {
                provider: provider.to_owned(),
                operation: LlmOperation::Chat,
                model: Some(model.to_owned()),
                stream: true,
                max_output_tokens: None,
                tools: Vec::new(),
                asks: Vec::new(),
                asks_unread: false,
                not_understood: None,
            };
            let mut demand = Demand::default();
            change(&mut llm, &mut demand);
            let content = Content::of(0, &demand, None).of_call(&llm, &demand);
            content.input_bound(Some(100_000))
        };
        for (provider, model, expected) in [
            ("openai", "gpt-4o", 128),
            ("openai", "o3-mini", 128),
            ("openai", "gpt-4o-search-preview", 2_048),
            ("openai", "o3-deep-research", 2_048),
            ("azure_openai", "gpt-4.1", 128),
            ("azure_openai", "prod-chat", 2_048),
            ("anthropic", "claude-haiku-4-5", 128),
            ("bedrock", "us.anthropic.claude-sonnet-4-5-v1:0", 128),
            ("bedrock", "cohere.command-r-v1:0", 2_048),
            ("vertex", "publishers/google/models/gemini-2.5-pro", 128),
            ("gemini", "models/gemini-2.5-pro", 128),
            ("xai", "grok-4", 2_048),
            ("cohere", "command-a-03-2025", 2_048),
            ("ours", "gpt-4o", 2_048),
            ("openai", "", 2_048),
        ] {
            assert_eq!(around(provider, model, |_, _| {}), expected, "{model}");
        }
        let of = |change| around("openai", "gpt-4o", change);
        assert_eq!(of(|llm, _| llm.tools.push("look".to_owned())), 2_048);
        assert_eq!(of(|_, demand| demand.serves_tools = true), 100_000);
        assert_eq!(of(|llm, _| llm.operation = LlmOperation::Realtime), 2_048);
    }

    #[test]
    fn what_a_call_does_not_show_is_told_by_its_demand() {
        let demand = |change: fn(&mut Demand)| {
            let mut demand = Demand {
                parts: 2,
                ..Demand::default()
            };
            change(&mut demand);
            Content::of(10, &demand, None)
        };
        assert!(!demand(|_| {}).more);
        assert_eq!(demand(|_| {}).parts, 2);
        assert!(demand(|it| it.refers = true).more);
        assert!(demand(|it| it.media = 1).more);
        assert!(demand(|it| it.serves_tools = true).more);
    }

    #[test]
    fn a_picture_is_not_read_as_text_where_its_provider_says_how_much_it_is() {
        let demand = Demand {
            media: 2,
            pictures: 2,
            picture_bytes: 900_000,
            ..Demand::default()
        };
        let known = Pictures::of("anthropic", "claude-haiku-4-5").expect("known");
        let content = Content::of(900_500, &demand, Some(known));
        assert_eq!((content.text_bytes, content.more), (500, false));
        assert_eq!(content.input_bound(Some(200_000)), 500 + 2_048 + 2 * 1_681);
        // A document beside them may be of any length.
        let document = Demand {
            media: 3,
            ..demand.clone()
        };
        let content = Content::of(900_500, &document, Some(known));
        assert_eq!(content.input_bound(Some(200_000)), 200_000);
        let unknown = Content::of(900_500, &demand, None);
        assert_eq!((unknown.text_bytes, unknown.more), (900_500, true));
    }

    proptest! {
        #[test]
        fn bounds_never_wrap(
            (text_bytes, counted) in any::<(u64, Option<u64>)>(),
            parts in any::<u64>(),
            (pictures, beyond) in any::<(u64, u64)>(),
            more in any::<bool>(),
            bare in any::<bool>(),
            context in any::<Option<u64>>(),
        ) {
            let content = Content { text_bytes, counted, parts, pictures, beyond, more, bare };
            let bound = content.input_bound(context);
            prop_assert!(bound <= context.unwrap_or(u64::MAX).saturating_add(beyond));
            let text = upper(text_bytes).min(counted.unwrap_or(u64::MAX));
            prop_assert!(bound >= text.min(context.unwrap_or(u64::MAX)));
        }

        #[test]
        fn no_text_has_more_tokens_than_bytes(text in "\\PC{0,200}") {
            for tokenizer in Tokenizer::ALL {
                let count = tokenizer.count(&text);
                prop_assert!(count <= upper(text.len() as u64), "{tokenizer:?}: {count}");
            }
        }
    }
}
