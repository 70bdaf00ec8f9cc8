//! How many tokens there are in what a model reads and writes: bounds before a call, counts while its answer comes.

mod counter;
mod pictures;

use agentguard_model::Demand;
use serde::Serialize;

pub use counter::Counter;
pub use pictures::Pictures;

/// How tokens are counted, where a provider has made that public.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// `OpenAI`'s, of GPT-4o and later.
    O200k,
}

impl Tokenizer {
    /// Reads its tables, which takes some 50 ms and 35 MiB once. The first text that is counted does it otherwise.
    pub fn prepare(self) {
        match self {
            Self::O200k => {
                let _ = bpe_openai::o200k_base();
            }
        }
    }
}

/// Tokens that a provider writes around a call for itself, at most: where tools are offered, how they are used.
const AROUND_A_CALL: u64 = 2_048;

/// Tokens around each message and each tool, at most.
const AROUND_A_PART: u64 = 64;

/// What a call has a model read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Content {
    /// Bytes of text, of messages, tools and all that goes into them, without the pictures that are counted in
    /// `pictures`. The bytes of the body are no fewer: what JSON escapes is longer than what it stands for.
    pub text_bytes: u64,
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
            parts: demand.parts.into(),
            pictures: known.map_or(0, |it| it.bound(demand)),
            beyond: known.map_or(0, |it| it.beyond(demand)),
            more: demand.refers || demand.serves_tools || !all_known,
        }
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
        let all = upper(self.text_bytes)
            .saturating_add(AROUND_A_CALL)
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
    use agentguard_model::Demand;
    use proptest::prelude::*;

    use super::{Content, Pictures, upper};

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
        fn bounds_never_wrap(text_bytes: u64, parts: u64, pictures: u64, beyond: u64, more: bool, context: Option<u64>) {
            let content = Content { text_bytes, parts, pictures, beyond, more };
            let bound = content.input_bound(context);
            prop_assert!(bound <= context.unwrap_or(u64::MAX).saturating_add(beyond));
            prop_assert!(bound >= upper(text_bytes).min(context.unwrap_or(u64::MAX)));
        }

        #[test]
        fn no_text_has_more_tokens_than_bytes(text in "\\PC{0,200}") {
            let count = bpe_openai::o200k_base().count(text.as_str());
            prop_assert!(u64::try_from(count).unwrap() <= upper(text.len() as u64));
        }
    }
}
