//! How many tokens a picture is billed with at most, whatever picture it is, where its provider has published that.
//!
//! The numbers are those of the providers' own pages, as they were from September to November 2026:
//!
//! - Anthropic, *Vision* (`platform.claude.com/docs/en/build-with-claude/vision`): a token for each patch of 28 × 28 pixels;
//!   larger pictures are made smaller, to 1,568 tokens and as many pixels on the long side, and from Claude 4.7 on to 4,784
//!   tokens and 2,576 pixels. What is billed was seen to be a few tokens more, since what is left of a patch counts as one:
//!   so a row and a column more of them are taken.
//! - `OpenAI`, *Images and vision* (`developers.openai.com/api/docs/guides/images-vision`): patches of 32 × 32 pixels times
//!   the model's factor, or tiles of 512 × 512 pixels, of which there are eight in the largest picture of 2,048 × 768.
//!   Models of GPT-5.6 and of GPT-6 leave pictures as large as they are unless `detail` is `low` or `high`, and refuse
//!   more than 30,000 patches. Where the page had another factor before, the larger one is here.
//! - Google, *Media resolution* (`ai.google.dev/gemini-api/docs/media-resolution`): Gemini 3 takes 2,240 tokens at
//!   `MEDIA_RESOLUTION_ULTRA_HIGH`, which is the most. Of Gemini 2.5 and before it is told only about how many there are.
//!
//! Models that are not named there are not here. Nor are deployments of Azure's, which have any name.

use agentguard_model::Demand;

use crate::prices::find;

/// How many tokens pictures are for a model, at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pictures {
    /// Any picture.
    most: u64,
    /// One that is to be looked at in no more detail than `high`.
    plain: u64,
    /// Whether they are billed as more than the model reads.
    beyond: bool,
}

impl Pictures {
    /// Of a provider's model. None: nothing is published that holds for any picture.
    #[must_use]
    pub fn of(provider: &str, model: &str) -> Option<Self> {
        let rows: Vec<&Row> = ROWS
            .iter()
            .filter(|row| row.providers.contains(&provider))
            .collect();
        let row = find(model, |name| {
            rows.iter().copied().find(|row| row.models.contains(&name))
        });
        row.map(|row| row.pictures)
    }

    /// Of all pictures of a call.
    pub(super) fn bound(self, demand: &Demand) -> u64 {
        let plain = demand.plain_pictures.min(demand.pictures);
        let others = u64::from(demand.pictures - plain).saturating_mul(self.most);
        u64::from(plain)
            .saturating_mul(self.plain)
            .saturating_add(others)
    }

    /// What of it may be billed beyond what the model reads; of what may be a picture, too.
    pub(super) fn beyond(self, demand: &Demand) -> u64 {
        match self.beyond {
            true => u64::from(demand.media).saturating_mul(self.most),
            false => 0,
        }
    }
}

/// Models, by their names in prices, at these providers.
struct Row {
    models: &'static [&'static str],
    providers: &'static [&'static str],
    pictures: Pictures,
}

const ANTHROPIC: &[&str] = &["anthropic", "bedrock", "vertex"];
const OPENAI: &[&str] = &["openai"];
const GOOGLE: &[&str] = &["gemini", "vertex"];

/// In patches of 28 pixels: at most so many, with a row and a column more where the long side has so many pixels.
const fn claude(tokens: u64, side: u64) -> Pictures {
    let most = tokens + 2 * side.div_ceil(28) + 1;
    Pictures {
        most,
        plain: most,
        beyond: false,
    }
}

/// In patches of 32 pixels, of any picture and of one in `high` detail, by hundredths of a token for each.
const fn patches(most: u64, plain: u64, hundredths: u64) -> Pictures {
    Pictures {
        most: (most * hundredths).div_ceil(100),
        plain: (plain * hundredths).div_ceil(100),
        beyond: false,
    }
}

/// In eight tiles, with so many tokens around them. In `low` detail it is these alone.
const fn tiles(around: u64, each: u64, beyond: bool) -> Pictures {
    let most = around + 8 * each;
    Pictures {
        most,
        plain: most,
        beyond,
    }
}

static ROWS: [Row; 14] = [
    Row {
        models: &[
            "claude-fable-5",
            "claude-mythos-5",
            "claude-opus-5-5",
            "claude-opus-5",
            "claude-opus-4-8",
            "claude-opus-4-7",
            "claude-sonnet-5-5",
            "claude-sonnet-5",
            "claude-fable-5-1",
        ],
        providers: ANTHROPIC,
        pictures: claude(4_784, 2_576),
    },
    Row {
        models: &[
            "claude-opus-4-6",
            "claude-opus-4-5",
            "claude-opus-4-1",
            "claude-opus-4",
            "claude-sonnet-4-6",
            "claude-sonnet-4-5",
            "claude-sonnet-4",
            "claude-haiku-4-5",
            "claude-3-7-sonnet",
            "claude-3-5-sonnet",
            "claude-3-5-haiku",
            "claude-3-opus",
            "claude-3-sonnet",
            "claude-3-haiku",
        ],
        providers: ANTHROPIC,
        pictures: claude(1_568, 1_568),
    },
    Row {
        models: &[
            "gpt-6-astra",
            "gpt-5.6-sol",
            "gpt-5.6",
            "gpt-5.6-terra",
            "gpt-5.6-luna",
        ],
        providers: OPENAI,
        pictures: patches(30_000, 2_500, 120),
    },
    Row {
        models: &["gpt-5.5", "gpt-5.4"],
        providers: OPENAI,
        pictures: patches(10_000, 2_500, 120),
    },
    Row {
        models: &["gpt-5.2"],
        providers: OPENAI,
        pictures: patches(1_536, 1_536, 120),
    },
    Row {
        models: &["gpt-5.4-mini", "gpt-5-mini", "gpt-4.1-mini"],
        providers: OPENAI,
        pictures: patches(1_536, 1_536, 162),
    },
    Row {
        models: &["gpt-5.4-nano", "gpt-5-nano", "gpt-4.1-nano"],
        providers: OPENAI,
        pictures: patches(1_536, 1_536, 246),
    },
    Row {
        models: &["o4-mini"],
        providers: OPENAI,
        pictures: patches(1_536, 1_536, 172),
    },
    Row {
        models: &["gpt-5", "gpt-5-chat"],
        providers: OPENAI,
        pictures: tiles(70, 140, false),
    },
    Row {
        models: &[
            "gpt-4o",
            "chatgpt-4o",
            "gpt-4o-2024-05-13",
            "gpt-4.1",
            "gpt-4.5",
        ],
        providers: OPENAI,
        pictures: tiles(85, 170, false),
    },
    Row {
        // As dear as with GPT-4o, by more tokens than the model reads.
        models: &["gpt-4o-mini"],
        providers: OPENAI,
        pictures: tiles(2_833, 5_667, true),
    },
    Row {
        models: &["o1", "o1-pro", "o3"],
        providers: OPENAI,
        pictures: tiles(75, 150, false),
    },
    Row {
        models: &["computer-use-preview", "computer-use"],
        providers: OPENAI,
        pictures: tiles(65, 129, false),
    },
    Row {
        models: &[
            "gemini-3.1-pro",
            "gemini-3-pro",
            "gemini-3-flash",
            "gemini-3.1-flash-lite",
            "gemini-3.5-flash",
            "gemini-3.5-flash-lite",
            "gemini-3.6-flash",
            "gemini-3.7-flash",
            "gemini-3.8-flash",
        ],
        providers: GOOGLE,
        pictures: Pictures {
            most: 2_240,
            plain: 2_240,
            beyond: false,
        },
    },
];

#[cfg(test)]
mod tests {
    use agentguard_model::Demand;

    use super::{Pictures, ROWS};

    fn one(provider: &str, model: &str, plain: u32) -> Option<u64> {
        let demand = Demand {
            media: 1,
            pictures: 1,
            plain_pictures: plain,
            ..Demand::default()
        };
        Some(Pictures::of(provider, model)?.bound(&demand))
    }

    #[test]
    fn bounds_are_those_that_are_published() {
        for (provider, model, plain, bound) in [
            ("anthropic", "claude-sonnet-4-5-20250929", 0, 1_681),
            (
                "bedrock",
                "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
                0,
                1_681,
            ),
            ("vertex", "claude-opus-4-7@20260416", 0, 4_969),
            ("openai", "gpt-4o-2024-08-06", 0, 1_445),
            ("openai", "gpt-4o-mini", 0, 48_169),
            ("openai", "gpt-5.6-sol", 0, 36_000),
            ("openai", "gpt-5.6-sol", 1, 3_000),
            ("openai", "gpt-5.5", 0, 12_000),
            ("openai", "gpt-4.1-nano", 1, 3_779),
            ("gemini", "models/gemini-3-pro-preview", 0, 2_240),
        ] {
            assert_eq!(one(provider, model, plain), Some(bound), "{model}");
        }
    }

    #[test]
    fn what_was_billed_is_within_its_bound() {
        // Of photographs of twelve megapixels and screens of four thousand lines, with `detail` left out.
        for (provider, model, billed) in [
            ("anthropic", "claude-haiku-4-5", 1_596),
            ("anthropic", "claude-opus-4-7", 4_784),
            ("openai", "gpt-6-astra", 14_364),
            ("openai", "gpt-5.5", 11_868),
            ("gemini", "gemini-3-flash", 1_120),
        ] {
            assert!(one(provider, model, 0) >= Some(billed), "{model}");
        }
    }

    #[test]
    fn of_what_nobody_published_nothing_is_known() {
        for (provider, model) in [
            ("azure_openai", "gpt-4o"),
            ("openai", "gpt-6-luna"),
            ("openai", "gpt-6.1-sol"),
            ("openai", "gpt-7"),
            ("gemini", "gemini-2.5-pro"),
            ("gemini", "gemini-4-neon"),
            ("anthropic", "claude-opus-6"),
            ("openrouter", "claude-opus-4-7"),
            ("openai", ""),
        ] {
            assert_eq!(Pictures::of(provider, model), None, "{model}");
        }
    }

    #[test]
    fn no_number_of_pictures_wraps_and_no_model_is_there_twice() {
        let demand = Demand {
            media: u32::MAX,
            pictures: u32::MAX,
            plain_pictures: u32::MAX,
            ..Demand::default()
        };
        let mini = Pictures::of("openai", "gpt-4o-mini").expect("known");
        assert_eq!(mini.bound(&demand), u64::from(u32::MAX) * 48_169);
        assert_eq!(mini.beyond(&demand), u64::from(u32::MAX) * 48_169);
        let mut names: Vec<&str> = ROWS.iter().flat_map(|row| row.models).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
