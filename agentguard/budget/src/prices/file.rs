//! A file of prices: the one that is built in, and an operator's.

use std::collections::HashSet;

use agentguard_policy::yaml::{self, At, Place};
use agentguard_policy::{Diagnostic, Severity};
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::Deserialize;

use super::decimal;
use super::rate::{Factor, Hidden, Long, Parts, PerMillion, Rate};
use crate::tokens::Tokenizer;

/// Models of a file, at most.
const MAX_MODELS: usize = 8_000;

/// Names of one model, providers of one model, and lengths of input with prices of their own, at most.
const MAX_LIST: usize = 32;

/// The longest name, in bytes.
const MAX_NAME: usize = 200;

/// The highest price that is believed: 10,000 dollars for a million tokens.
const MAX_PRICE: u64 = 10_000_000_000;

/// The most that a tier is believed to be dearer, in millionths.
const MAX_FACTOR: u64 = 20_000_000;

/// The providers whose calls say that they are to be served in one region, for which they take a tenth more: of a model that
/// has come since they do, if nothing else is written.
const IN_REGIONS: [&str; 3] = ["anthropic", "openai", "xai"];

/// A tenth more.
const DEARER: Factor = Factor(1_100_000);

/// What a call costs that is to be served in one region, where nothing is written about that, at these providers: all, where
/// there is none.
pub(super) fn regional<'a>(providers: impl IntoIterator<Item = &'a str>) -> Factor {
    let mut providers = providers.into_iter().peekable();
    let is_all = providers.peek().is_none();
    match is_all || providers.any(|it| IN_REGIONS.contains(&it)) {
        true => DEARER,
        false => Factor::ONE,
    }
}

/// The most tokens that a model is believed to read or write.
const MAX_TOKENS: u64 = 100_000_000;

/// The name that stands for all models of a provider that have none of their own.
pub(super) const ANY: &str = "*";

/// What models cost. Prices are in US dollars for a million tokens, with up to six decimal places.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a file of prices")]
#[schemars(title = "AgentGuard prices", rename = "Prices")]
struct File {
    /// The version of this form: 1.
    #[schemars(range(min = 1, max = 1))]
    version: At<u32>,
    /// The models. Each comes before one of the same name that is built in.
    #[serde(default)]
    #[schemars(length(max = 8000))]
    models: Vec<At<Model>>,
    /// Names for models that they have here alone, as those of deployments in Azure.
    #[serde(default)]
    #[schemars(length(max = 8000))]
    names: Vec<At<Name>>,
}

/// What a model costs, and how much it reads and writes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys of a model")]
struct Model {
    /// Its names, without what providers and routers put before and behind. `*` stands for every model of its providers
    /// that has no other price.
    #[schemars(length(min = 1, max = 32))]
    models: At<Vec<At<String>>>,
    /// The providers where these prices hold, by their names in policies. Default: all.
    #[schemars(length(min = 1, max = 32))]
    providers: Option<At<Vec<At<String>>>>,
    /// The day on which the prices were these.
    as_of: Option<At<String>>,
    /// What is read.
    #[schemars(with = "f64")]
    input: At<String>,
    /// What is read from a cache. Default: as `input`.
    #[schemars(with = "Option<f64>")]
    cache_read: Option<At<String>>,
    /// What is read and put into a cache. Default: as `input`.
    #[schemars(with = "Option<f64>")]
    cache_write: Option<At<String>>,
    /// What is read and put into a cache for an hour or longer. Default: as `cache_write`.
    #[schemars(with = "Option<f64>")]
    cache_write_long: Option<At<String>>,
    /// What is written, with what is not shown.
    #[schemars(with = "f64")]
    output: At<String>,
    /// What is heard. Default: as `input`.
    #[schemars(with = "Option<f64>")]
    audio_input: Option<At<String>>,
    /// What is said aloud. Default: as `output`.
    #[schemars(with = "Option<f64>")]
    audio_output: Option<At<String>>,
    /// Prices of calls whose input is longer than so many tokens.
    #[serde(default)]
    #[schemars(length(max = 32))]
    long: Vec<At<LongPrices>>,
    /// What a price is multiplied by where a call is served some hours later. Default: 1.
    #[schemars(with = "Option<f64>")]
    batch: Option<At<String>>,
    /// The same, where it is served when there is room. Default: 1.
    #[schemars(with = "Option<f64>")]
    flex: Option<At<String>>,
    /// The same, where it is served before others, or by a faster model. Default: 1.
    #[schemars(with = "Option<f64>")]
    priority: Option<At<String>>,
    /// The same, where it is to be served in one region: Anthropic's `inference_geo`, and hosts of OpenAI and xAI that have
    /// a region. It comes beside that of a tier. Default: 1.1 with these providers, 1 with others.
    #[schemars(with = "Option<f64>")]
    regional: Option<At<String>>,
    /// How many tokens it reads and writes in one call, at most.
    context: Option<At<u64>>,
    /// How many tokens it writes, at most.
    max_output: Option<At<u64>>,
    /// Whether it writes what is not shown, as its reasoning. Default: always.
    hidden: Option<RawHidden>,
    /// How its tokens are counted, where that is public. Default: they are estimated.
    tokenizer: Option<RawTokenizer>,
}

/// Prices of calls whose input is long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "prices and `above`")]
struct LongPrices {
    /// The number of tokens of which it has more. All of its tokens have these prices.
    above: At<u64>,
    /// As of the model.
    #[schemars(with = "f64")]
    input: At<String>,
    /// As of the model.
    #[schemars(with = "Option<f64>")]
    cache_read: Option<At<String>>,
    /// As of the model.
    #[schemars(with = "Option<f64>")]
    cache_write: Option<At<String>>,
    /// As of the model.
    #[schemars(with = "Option<f64>")]
    cache_write_long: Option<At<String>>,
    /// As of the model.
    #[schemars(with = "f64")]
    output: At<String>,
    /// As of the model.
    #[schemars(with = "Option<f64>")]
    audio_input: Option<At<String>>,
    /// As of the model.
    #[schemars(with = "Option<f64>")]
    audio_output: Option<At<String>>,
}

/// A name that a model has here alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a name and a model")]
struct Name {
    /// The name that calls have.
    name: At<String>,
    /// The model that it stands for.
    model: At<String>,
    /// The provider where it stands for it, by its name in policies. Default: all.
    provider: Option<At<String>>,
}

/// Whether a model writes what is not shown.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RawHidden {
    /// It does not.
    Never,
    /// Where a call asks for it.
    WhenAsked,
    /// Unless a call says otherwise, or whatever it says.
    Always,
}

/// How tokens are counted.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RawTokenizer {
    /// OpenAI's, of GPT-4, GPT-4 Turbo and GPT-3.5, and of its embeddings.
    Cl100k,
    /// OpenAI's, of GPT-4o and later.
    O200k,
}

/// The JSON Schema of a file of prices.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(File)
}

/// What is in a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    pub(super) models: Vec<Row>,
    pub(super) names: Vec<Alias>,
}

/// A model of a file.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) models: Vec<String>,
    /// All, where there is none.
    pub(super) providers: Vec<String>,
    pub(super) rate: Rate,
}

/// A name that stands for a model.
#[derive(Clone, Debug)]
pub(super) struct Alias {
    pub(super) name: String,
    pub(super) model: String,
    pub(super) provider: Option<String>,
}

/// Reads a file. `path` stands in what is said about it.
///
/// # Errors
/// Everything that is wrong with it, each with its place and with what to do.
pub(super) fn read(path: &str, text: &str) -> Result<Read, Vec<Diagnostic>> {
    let file: File =
        yaml::parse_all(path, text).map_err(|found| found.into_iter().collect::<Vec<_>>())?;
    let mut check = Check {
        path,
        found: Vec::new(),
    };
    if file.version.value != 1 {
        let message = format!("version {} is not known", file.version.value);
        check.fault(file.version.place, message, "write `version: 1`");
    }
    let many = [
        (
            "models",
            file.models.len(),
            file.models.get(MAX_MODELS).map(|it| it.place),
        ),
        (
            "names",
            file.names.len(),
            file.names.get(MAX_MODELS).map(|it| it.place),
        ),
    ];
    for (key, count, place) in many {
        if let Some(place) = place {
            let message = format!("`{key}` has {count} entries, and at most {MAX_MODELS} are read");
            check.fault(place, message, "leave out models that nobody here uses");
        }
    }
    let mut seen = HashSet::new();
    let models = file.models.into_iter().take(MAX_MODELS);
    let models = models.map(|model| check.model(model, &mut seen)).collect();
    let names = file.names.into_iter().take(MAX_MODELS);
    let names = names.map(|name| check.alias(name, &mut seen)).collect();
    if check.found.is_empty() {
        Ok(Read { models, names })
    } else {
        check.found.sort_by_key(|it| (it.line, it.column));
        Err(check.found)
    }
}

/// Names with their providers, of models and of what stands for them.
type Seen = HashSet<(String, Option<String>)>;

struct Check<'a> {
    path: &'a str,
    found: Vec<Diagnostic>,
}

impl Check<'_> {
    fn fault(&mut self, place: Place, message: String, hint: &str) {
        self.found.push(Diagnostic {
            severity: Severity::Error,
            path: self.path.to_owned(),
            line: place.line,
            column: place.column,
            message,
            hint: hint.to_owned(),
        });
    }

    fn model(&mut self, model: At<Model>, seen: &mut Seen) -> Row {
        let place = model.place;
        let model = model.value;
        let models = self.names("models", &model.models);
        let providers = model.providers.map(|it| self.names("providers", &it));
        let providers = providers.unwrap_or_default();
        if providers.is_empty() && models.iter().any(|it| it == ANY) {
            let message =
                "`*` without `providers` would be every model that is not known".to_owned();
            self.fault(
                place,
                message,
                "name the providers whose models all cost this",
            );
        }
        for name in &models {
            let of = |provider: Option<&String>| (name.clone(), provider.cloned());
            let all: Vec<_> = match providers.as_slice() {
                [] => vec![of(None)],
                some => some.iter().map(|it| of(Some(it))).collect(),
            };
            if all.into_iter().any(|it| !seen.insert(it)) {
                let message = format!(
                    "`{}` has a price already for the same provider",
                    short(name)
                );
                self.fault(place, message, "keep one of them");
            }
        }
        let parts = self.parts(RawParts {
            input: model.input,
            cache_read: model.cache_read,
            cache_write: model.cache_write,
            cache_write_long: model.cache_write_long,
            output: model.output,
            audio_input: model.audio_input,
            audio_output: model.audio_output,
        });
        if model.long.len() > MAX_LIST {
            let message = format!("`long` has more than {MAX_LIST} entries");
            self.fault(place, message, "keep those that differ");
        }
        let long = model.long.into_iter().take(MAX_LIST);
        let mut long: Vec<Long> = long.map(|it| self.long(it.value)).collect();
        long.sort_by_key(|it| it.above);
        let rate = Rate {
            as_of: model.as_of.and_then(|it| self.date(&it)),
            parts,
            long,
            batch: self.factor("batch", model.batch),
            flex: self.factor("flex", model.flex),
            priority: self.factor("priority", model.priority),
            regional: match model.regional {
                None => regional(providers.iter().map(String::as_str)),
                regional => self.factor("regional", regional),
            },
            context: model.context.map(|it| self.tokens("context", &it)),
            max_output: model.max_output.map(|it| self.tokens("max_output", &it)),
            hidden: match model.hidden {
                Some(RawHidden::Never) => Hidden::Never,
                Some(RawHidden::WhenAsked) => Hidden::WhenAsked,
                Some(RawHidden::Always) | None => Hidden::Always,
            },
            tokenizer: model.tokenizer.map(|it| match it {
                RawTokenizer::Cl100k => Tokenizer::Cl100k,
                RawTokenizer::O200k => Tokenizer::O200k,
            }),
        };
        Row {
            models,
            providers,
            rate,
        }
    }

    fn alias(&mut self, alias: At<Name>, seen: &mut Seen) -> Alias {
        let alias = alias.value;
        let place = alias.name.place;
        let provider = alias.provider.map(|it| self.name(&it));
        let (name, model) = (self.name(&alias.name), self.name(&alias.model));
        if !seen.insert((name.clone(), provider.clone())) {
            let message = format!("`{}` is a model or a name already", short(&name));
            self.fault(place, message, "keep one of them");
        }
        Alias {
            name,
            model,
            provider,
        }
    }

    fn names(&mut self, key: &str, list: &At<Vec<At<String>>>) -> Vec<String> {
        if list.value.is_empty() || list.value.len() > MAX_LIST {
            let message = format!("`{key}` has {} entries", list.value.len());
            let hint = format!("it has 1 to {MAX_LIST}");
            self.fault(list.place, message, &hint);
        }
        let names = list.value.iter().take(MAX_LIST);
        names.map(|name| self.name(name)).collect()
    }

    /// Names are compared in lower case.
    fn name(&mut self, name: &At<String>) -> String {
        let text = name.value.to_ascii_lowercase();
        let is_name = text.trim() == text && !text.is_empty() && !text.contains(char::is_control);
        if !is_name || text.len() > MAX_NAME {
            let message = format!("`{}` is no name", short(&text));
            let hint = format!("write 1 to {MAX_NAME} bytes without space around them");
            self.fault(name.place, message, &hint);
        }
        text
    }

    fn date(&mut self, date: &At<String>) -> Option<Date> {
        let found: Option<Date> = date.value.parse().ok();
        let found = found.filter(|it| (2020..2100).contains(&it.year()));
        if found.is_none() {
            let message = format!("`{}` is no day", short(&date.value));
            self.fault(date.place, message, "write it as 2026-11-28");
        }
        found
    }

    fn long(&mut self, long: LongPrices) -> Long {
        Long {
            above: self.tokens("above", &long.above),
            parts: self.parts(RawParts {
                input: long.input,
                cache_read: long.cache_read,
                cache_write: long.cache_write,
                cache_write_long: long.cache_write_long,
                output: long.output,
                audio_input: long.audio_input,
                audio_output: long.audio_output,
            }),
        }
    }

    fn parts(&mut self, raw: RawParts) -> Parts {
        let input = self.price(&raw.input);
        let output = self.price(&raw.output);
        let mut or =
            |price: Option<At<String>>, default| price.map_or(default, |it| self.price(&it));
        let cache_write = or(raw.cache_write, input);
        Parts {
            input,
            cache_read: or(raw.cache_read, input),
            cache_write,
            cache_write_long: or(raw.cache_write_long, cache_write),
            output,
            audio_input: or(raw.audio_input, input),
            audio_output: or(raw.audio_output, output),
        }
    }

    fn price(&mut self, price: &At<String>) -> PerMillion {
        let read = decimal::scaled(&price.value, 6);
        if read.is_none_or(|it| it > MAX_PRICE) {
            let message = format!(
                "`{}` is no price that a million tokens can have",
                short(&price.value)
            );
            let hint = "write US dollars for a million tokens, from 0 to 10000, with at most six decimal places: 2.50";
            self.fault(price.place, message, hint);
        }
        PerMillion(read.unwrap_or_default())
    }

    fn factor(&mut self, key: &str, factor: Option<At<String>>) -> Factor {
        let Some(factor) = factor else {
            return Factor::ONE;
        };
        let read = decimal::scaled(&factor.value, 6).filter(|it| (1..=MAX_FACTOR).contains(it));
        let read = read.and_then(|it| u32::try_from(it).ok());
        if read.is_none() {
            let message = format!("`{key}` cannot be `{}`", short(&factor.value));
            let hint = "write what a price is multiplied by, above 0 and at most 20: 0.5";
            self.fault(factor.place, message, hint);
        }
        read.map_or(Factor::ONE, Factor)
    }

    fn tokens(&mut self, key: &str, tokens: &At<u64>) -> u64 {
        if !(1..=MAX_TOKENS).contains(&tokens.value) {
            let message = format!("`{key}` cannot be {} tokens", tokens.value);
            let hint = format!("write a number from 1 to {MAX_TOKENS}, or leave it out");
            self.fault(tokens.place, message, &hint);
        }
        tokens.value
    }
}

/// Prices as they are written.
struct RawParts {
    input: At<String>,
    cache_read: Option<At<String>>,
    cache_write: Option<At<String>>,
    cache_write_long: Option<At<String>>,
    output: At<String>,
    audio_input: Option<At<String>>,
    audio_output: Option<At<String>>,
}

/// For a message.
fn short(text: &str) -> String {
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    shown.replace("\\'", "'").replace("\\\"", "\"")
}

#[cfg(test)]
mod tests;
