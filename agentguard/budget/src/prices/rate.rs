//! What tokens of a model cost.

use std::fmt;

use agentguard_model::budget::MicroUsd;
use agentguard_model::{Demand, Usage};
use jiff::civil::Date;
use serde::{Serialize, Serializer};

use super::decimal;
use crate::tokens::Tokenizer;

/// Tokens that a price is for, and millionths in a [`Factor`].
const MILLION: u128 = 1_000_000;

/// What a million tokens cost, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct PerMillion(pub u64);

/// In dollars for a million tokens, as files of prices have it.
impl Serialize for PerMillion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        decimal::serialize(self.0, serializer)
    }
}

impl fmt::Display for PerMillion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal::written(self.0))
    }
}

/// By how much a tier is dearer or cheaper than the standard one, in millionths.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Factor(pub u32);

impl Factor {
    /// As dear.
    pub const ONE: Self = Self(1_000_000);

    /// Both, one after the other, rounded up.
    fn and(self, other: Self) -> Self {
        let product = (u64::from(self.0) * u64::from(other.0)).div_ceil(1_000_000);
        Self(u32::try_from(product).unwrap_or(u32::MAX))
    }

    /// Rounded up.
    fn of(self, price: PerMillion) -> PerMillion {
        let product = (u128::from(price.0) * u128::from(self.0)).div_ceil(MILLION);
        PerMillion(u64::try_from(product).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal::written(self.0.into()))
    }
}

impl Serialize for Factor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        decimal::serialize(self.0.into(), serializer)
    }
}

/// In which way a call is served.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Tier {
    /// As any call.
    #[default]
    Standard,
    /// Some hours later.
    Batch,
    /// When there is room.
    Flex,
    /// Before others, or by a model that is run faster.
    Priority,
    /// In a way that is not known: the dearest that is known of the model.
    Other,
}

impl Tier {
    /// From a provider's word for it, as a call has it. A call that names none, and one that leaves it to the provider,
    /// are taken for standard ones: what becomes of them, the project's settings say.
    #[must_use]
    pub fn of(word: Option<&str>) -> Self {
        match word.map(str::to_ascii_lowercase).as_deref() {
            None | Some("auto" | "default" | "standard" | "standard_only" | "on_demand") => {
                Self::Standard
            }
            Some("batch") => Self::Batch,
            Some("flex") => Self::Flex,
            Some("priority" | "fast") => Self::Priority,
            Some(_) => Self::Other,
        }
    }
}

/// How a call is served, as far as that makes it dearer or cheaper.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Served {
    /// The tier.
    pub tier: Tier,
    /// Whether it is to be served in one region alone, for which some providers take more.
    pub regional: bool,
}

impl Served {
    /// As a call says. A call that names no region is taken for one that is served anywhere, also where the settings of its
    /// project say otherwise: its usage may tell.
    #[must_use]
    pub fn of(demand: &Demand) -> Self {
        Self {
            tier: Tier::of(demand.tier.as_deref()),
            regional: demand.regional,
        }
    }
}

impl From<Tier> for Served {
    fn from(tier: Tier) -> Self {
        Self {
            tier,
            regional: false,
        }
    }
}

/// For how long what a call puts into caches is kept.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Caches {
    /// For minutes: it says so of each of them.
    Minutes,
    /// Nobody knows.
    #[default]
    Unknown,
}

impl Caches {
    /// As a call says.
    #[must_use]
    pub const fn of(demand: &Demand) -> Self {
        match demand.short_caches {
            true => Self::Minutes,
            false => Self::Unknown,
        }
    }
}

/// Whether a model writes what is not shown, and is billed all the same.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hidden {
    /// It does not.
    Never,
    /// Where a call asks for it.
    WhenAsked,
    /// Unless a call says otherwise, or whatever it says.
    #[default]
    Always,
}

/// What each kind of tokens costs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Parts {
    /// That are read.
    pub input: PerMillion,
    /// That are read from a cache.
    pub cache_read: PerMillion,
    /// That are read and put into a cache, for minutes.
    pub cache_write: PerMillion,
    /// That are read and put into a cache, for an hour or longer.
    pub cache_write_long: PerMillion,
    /// That are written, whether or not they are shown.
    pub output: PerMillion,
    /// That are heard.
    pub audio_input: PerMillion,
    /// That are said aloud.
    pub audio_output: PerMillion,
}

impl Parts {
    /// What a token that is read costs at most.
    fn dearest_input(&self, caches: Caches) -> PerMillion {
        let cached = self.cache_read.max(self.cache_write(caches));
        self.input.max(cached).max(self.audio_input)
    }

    /// What a token costs at most that is put into a cache.
    fn cache_write(&self, caches: Caches) -> PerMillion {
        match caches {
            Caches::Minutes => self.cache_write,
            Caches::Unknown => self.cache_write.max(self.cache_write_long),
        }
    }

    /// What a token that is written costs at most.
    fn dearest_output(&self) -> PerMillion {
        self.output.max(self.audio_output)
    }

    /// Of each kind the dearer price.
    fn dearer(&self, other: &Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cache_read: self.cache_read.max(other.cache_read),
            cache_write: self.cache_write.max(other.cache_write),
            cache_write_long: self.cache_write_long.max(other.cache_write_long),
            output: self.output.max(other.output),
            audio_input: self.audio_input.max(other.audio_input),
            audio_output: self.audio_output.max(other.audio_output),
        }
    }
}

/// What a call costs whose input is long: all of it, not what is above.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Long {
    /// Of how many tokens it has more.
    pub above: u64,
    /// What its tokens cost.
    #[serde(flatten)]
    pub parts: Parts,
}

/// What a model costs, and how much it may read and write.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Rate {
    /// When the prices were these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Date>,
    /// What its tokens cost.
    #[serde(flatten)]
    pub parts: Parts,
    /// What they cost where the input is long, from the shortest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub long: Vec<Long>,
    /// What calls cost that are served later.
    pub batch: Factor,
    /// What calls cost that are served when there is room.
    pub flex: Factor,
    /// What calls cost that are served before others.
    pub priority: Factor,
    /// What calls cost that are to be served in one region, beside what their tier does.
    pub regional: Factor,
    /// How many tokens it reads and writes in one call, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u64>,
    /// How many it writes, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// Whether it writes what is not shown.
    pub hidden: Hidden,
    /// How its tokens are counted, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Tokenizer>,
}

impl Rate {
    /// Of which nothing is known but that it costs nothing: what others are dearer than.
    pub(super) fn nothing() -> Self {
        Self {
            as_of: None,
            parts: Parts::default(),
            long: Vec::new(),
            batch: Factor::ONE,
            flex: Factor::ONE,
            priority: Factor::ONE,
            regional: Factor::ONE,
            context: None,
            max_output: None,
            hidden: Hidden::Never,
            tokenizer: None,
        }
    }

    /// What a call has cost, rounded up to a millionth of a dollar, and at most [`u64::MAX`] of them.
    ///
    /// What was cached and what was heard is part of the input, and what was said aloud part of the output; where the
    /// parts are more than the whole, the parts count. What is not reported counts as none: whoever settles a call of
    /// which nothing is reported has to settle by what was reserved.
    ///
    /// Usage does not tell for how long what was cached is kept: where the call did not either, it costs as the dearer. It
    /// was served in one region where either the call or its usage says so.
    #[must_use]
    pub fn cost(&self, usage: &Usage, served: impl Into<Served>, caches: Caches) -> MicroUsd {
        let mut served = served.into();
        served.regional |= usage.regional;
        let of = |tokens: Option<u64>| tokens.unwrap_or_default();
        let read = of(usage.cache_read_tokens);
        let written = of(usage.cache_write_tokens);
        let heard = of(usage.audio_input_tokens);
        let apart = read.saturating_add(written).saturating_add(heard);
        let input = of(usage.input_tokens).max(apart);
        let said = of(usage.audio_output_tokens);
        let output = of(usage.output_tokens)
            .max(of(usage.reasoning_tokens))
            .max(said);
        let parts = self.parts(input);
        let sum = [
            (input.saturating_sub(apart), parts.input),
            (read, parts.cache_read),
            (written, parts.cache_write(caches)),
            (heard, parts.audio_input),
            (output.saturating_sub(said), parts.output),
            (said, parts.audio_output),
        ]
        .into_iter()
        .map(|(tokens, price)| u128::from(tokens) * u128::from(price.0))
        .fold(0, u128::saturating_add);
        let all = sum.saturating_mul(u128::from(self.factor(served).0));
        MicroUsd(u64::try_from(all.div_ceil(MILLION * MILLION)).unwrap_or(u64::MAX))
    }

    /// What a token costs at most that a call reads which reads no more than this many: of whichever kind it is.
    #[must_use]
    pub fn dearest_input_per_million(
        &self,
        served: impl Into<Served>,
        caches: Caches,
        input: u64,
    ) -> PerMillion {
        let dearest = self.possible(input).map(|it| it.dearest_input(caches));
        self.factor(served.into())
            .of(dearest.max().unwrap_or_default())
    }

    /// What a token costs at most that a call writes which reads no more than this many.
    #[must_use]
    pub fn dearest_output_per_million(&self, served: impl Into<Served>, input: u64) -> PerMillion {
        let dearest = self.possible(input).map(|parts| parts.dearest_output());
        self.factor(served.into())
            .of(dearest.max().unwrap_or_default())
    }

    /// The prices for an input of this many tokens.
    fn parts(&self, input: u64) -> &Parts {
        let long = self.long.iter().rev().find(|it| input > it.above);
        long.map_or(&self.parts, |it| &it.parts)
    }

    /// The prices for all inputs of up to this many tokens.
    fn possible(&self, input: u64) -> impl Iterator<Item = &Parts> {
        let long = self.long.iter().filter(move |it| input > it.above);
        std::iter::once(&self.parts).chain(long.map(|it| &it.parts))
    }

    fn factor(&self, served: Served) -> Factor {
        let tier = match served.tier {
            Tier::Standard => Factor::ONE,
            Tier::Batch => self.batch,
            Tier::Flex => self.flex,
            Tier::Priority => self.priority,
            Tier::Other => self
                .batch
                .max(self.flex)
                .max(self.priority)
                .max(Factor::ONE),
        };
        match served.regional {
            true => tier.and(self.regional),
            false => tier,
        }
    }

    /// Of two, the dearer price of each kind for inputs of any length, the longer limits that are known, and of what is known of them
    /// only what holds for both.
    pub(super) fn dearer(&self, other: &Self) -> Self {
        let longest = |rate: &Self| {
            let long = rate.long.iter().map(|it| it.parts);
            long.fold(rate.parts, |all, it| all.dearer(&it))
        };
        Self {
            as_of: self.as_of.min(other.as_of),
            parts: longest(self).dearer(&longest(other)),
            long: Vec::new(),
            batch: self.batch.max(other.batch),
            flex: self.flex.max(other.flex),
            priority: self.priority.max(other.priority),
            regional: self.regional.max(other.regional),
            context: self.context.max(other.context),
            max_output: self.max_output.max(other.max_output),
            hidden: self.hidden.max(other.hidden),
            tokenizer: self.tokenizer.filter(|it| other.tokenizer == Some(*it)),
        }
    }
}

#[cfg(test)]
mod tests;
