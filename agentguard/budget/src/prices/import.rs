//! Files of prices that others keep, made into one of ours.
//!
//! What is made is a document that an operator reads, keeps and changes, and it is read as any other before it is given
//! out: what the reader would refuse is left out and told.

mod litellm;
mod models_dev;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Number, Value, json};

use super::{Factor, Prices, file};

/// The longest document that is read as a file of prices.
pub const LONGEST: usize = agentguard_policy::yaml::MAX_TEXT;

/// Whose file it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// `LiteLLM`'s `model_prices_and_context_window.json`.
    Litellm,
    /// models.dev's `api.json`.
    ModelsDev,
}

/// What was made of a file.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The models that were taken.
    pub models: Vec<Model>,
    /// Those that were not.
    pub skipped: Vec<Skipped>,
}

/// A model, in the words of a file of prices.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Model {
    /// Its name.
    pub models: [String; 1],
    /// The provider.
    pub providers: [String; 1],
    /// What else is known, by key.
    #[serde(flatten)]
    fields: Fields,
}

/// Keys and what stands behind them.
type Fields = BTreeMap<&'static str, Value>;

/// A model that was not taken.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Skipped {
    /// As the file names it.
    pub name: String,
    /// Why not.
    pub why: String,
}

/// Why nothing could be made of a file.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is not JSON.
    #[error("it is no JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// It is JSON of another form.
    #[error("it has not the form of {0}")]
    OtherForm(&'static str),
}

/// Makes models of a file. `providers`: of these alone, by our names; of all, if there is none.
///
/// # Errors
/// Nothing can be made of it. What is wrong with one model is in what is given back.
pub fn import(source: Source, text: &str, providers: &[String]) -> Result<Imported, ImportError> {
    let found: Map<String, Value> = serde_json::from_str(text)?;
    let mut imported = Imported {
        models: Vec::new(),
        skipped: Vec::new(),
    };
    let (form, made) = match source {
        Source::Litellm => (
            "model_prices_and_context_window.json",
            litellm::models(&found),
        ),
        Source::ModelsDev => ("models.dev's api.json", models_dev::models(&found)),
    };
    let made = made.ok_or(ImportError::OtherForm(form))?;
    let is_asked_for =
        |provider: &str| providers.is_empty() || providers.iter().any(|it| it == provider);
    for Made {
        name,
        provider,
        model,
    } in made
    {
        if !is_asked_for(&provider) {
            continue;
        }
        match model {
            Ok((own_name, mut fields)) => {
                add_what_is_known(&provider, &own_name, &mut fields);
                imported.models.push(Model {
                    models: [own_name],
                    providers: [provider],
                    fields,
                });
            }
            Err(why) => imported.skipped.push(Skipped { name, why }),
        }
    }
    imported.leave_out_what_is_refused();
    Ok(imported)
}

/// What such files do not tell, or only roughly, of a model that is built in: how its tokens are counted, what it hides,
/// and where the file is silent about that, by how much tiers and regions are dearer or cheaper, what is written into a cache or
/// heard, and long input. What is not told would count as no dearer.
fn add_what_is_known(provider: &str, name: &str, fields: &mut Fields) {
    let priced = Prices::built_in().of(provider, name);
    if !priced.known {
        return;
    }
    let rate = priced.rate;
    fields.insert("hidden", json!(rate.hidden));
    for (key, factor, otherwise) in [
        ("batch", rate.batch, Factor::ONE),
        ("flex", rate.flex, Factor::ONE),
        ("priority", rate.priority, Factor::ONE),
        ("regional", rate.regional, file::regional([provider])),
    ] {
        if factor != otherwise {
            fields
                .entry(key)
                .or_insert_with(|| decimal(factor.0.into()));
        }
    }
    let parts = &rate.parts;
    for (key, price, otherwise) in [
        ("cache_write", parts.cache_write, parts.input),
        (
            "cache_write_long",
            parts.cache_write_long,
            parts.cache_write,
        ),
        ("audio_input", parts.audio_input, parts.input),
        ("audio_output", parts.audio_output, parts.output),
    ] {
        if price > otherwise {
            fields.entry(key).or_insert_with(|| decimal(price.0));
        }
    }
    if !rate.long.is_empty() {
        fields.entry("long").or_insert_with(|| json!(rate.long));
    }
    if let Some(tokenizer) = rate.tokenizer {
        fields.insert("tokenizer", json!(tokenizer));
    }
}

impl Imported {
    /// As a file of prices, a model on each line.
    #[must_use]
    pub fn document(&self) -> String {
        let mut document = "version: 1\nmodels:\n".to_owned();
        for model in &self.models {
            // JSON on one line is YAML.
            let line = serde_json::to_string(model).unwrap_or_default();
            document.push_str("  - ");
            document.push_str(&line);
            document.push('\n');
        }
        if self.models.is_empty() {
            document = "version: 1\nmodels: []\n".to_owned();
        }
        document
    }

    /// Of a file that is read in pieces, since only so much is read at once: what is refused is told of each.
    fn leave_out_what_is_refused(&mut self) {
        loop {
            let lines = self.models.len();
            let mut refused: BTreeMap<usize, String> = BTreeMap::new();
            for (piece, models) in self.models.chunks(PIECE).enumerate() {
                let of_piece = Self {
                    models: models.to_vec(),
                    skipped: Vec::new(),
                };
                let Err(found) = file::read("", &of_piece.document()) else {
                    continue;
                };
                for fault in found {
                    let line = usize::try_from(fault.line).unwrap_or_default();
                    let at = line.checked_sub(FIRST_LINE).filter(|it| *it < models.len());
                    // What cannot be placed is nobody's: the whole piece is not to be trusted.
                    let at = at.unwrap_or_default() + piece * PIECE;
                    refused.entry(at).or_insert(fault.message);
                }
            }
            for (at, why) in refused.into_iter().rev() {
                let model = self.models.remove(at);
                let [name] = model.models;
                self.skipped.push(Skipped { name, why });
            }
            if self.models.len() == lines {
                return;
            }
        }
    }
}

/// The line of the first model in a [document](Imported::document).
const FIRST_LINE: usize = 3;

/// Models that are read at once.
const PIECE: usize = 400;

/// What became of one model of a file.
struct Made {
    /// As the file names it.
    name: String,
    /// By our name.
    provider: String,
    /// The name that calls have for it, and what is known of it; or why it is not taken.
    model: Result<(String, Fields), String>,
}

/// A price of a file, for a million tokens: `places` is 6 where the file has it for a million, and 12 where it has it
/// for one.
fn price(value: Option<&Value>, places: u8) -> Result<Option<u64>, String> {
    let number = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(_) => return Err("a price of it is no number".to_owned()),
    };
    if number.starts_with('-') {
        return Err(format!("a price of it is negative: {number}"));
    }
    let read = super::decimal::rounded_up(&number, places);
    read.map(Some)
        .ok_or_else(|| format!("a price of it is absurd: {number}"))
}

/// Whether it hides what it writes, by what a list says of its reasoning. Where that says nothing, it may.
fn hidden(reasons: Option<bool>) -> Option<(&'static str, Value)> {
    let word = match reasons? {
        true => "always",
        false => "never",
    };
    Some(("hidden", json!(word)))
}

/// A number of a file of ours.
fn decimal(millionths: u64) -> Value {
    let text = super::decimal::written(millionths);
    let number: Option<Number> = text.parse().ok();
    number.map_or(Value::String(text), Value::Number)
}

/// What one price is multiplied by to be another, rounded up.
fn factor(standard: Option<u64>, other: Option<u64>) -> Option<u64> {
    let (standard, other) = (standard.filter(|it| *it > 0)?, other?);
    let factor = (u128::from(other) * 1_000_000).div_ceil(u128::from(standard));
    u64::try_from(factor).ok()
}

/// Of prices of one tier and of the standard one, the factor that is enough for both input and output.
fn factor_of(input: [Option<u64>; 2], output: [Option<u64>; 2]) -> Option<u64> {
    let of = |[standard, other]: [Option<u64>; 2]| factor(standard, other);
    of(input).max(of(output)).filter(|it| *it > 0)
}

#[cfg(test)]
mod tests;
