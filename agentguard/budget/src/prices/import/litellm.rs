//! `LiteLLM`'s `model_prices_and_context_window.json`: by model, with prices for a single token.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Fields, Made, decimal, factor_of, hidden, price};

/// How it calls providers that have another name here. The rest is called the same.
const PROVIDERS: [(&str, &str); 14] = [
    ("text-completion-openai", "openai"),
    ("azure", "azure_openai"),
    ("azure_ai", "azure_openai"),
    ("azure_text", "azure_openai"),
    ("anthropic_text", "anthropic"),
    ("bedrock_converse", "bedrock"),
    ("bedrock_mantle", "bedrock"),
    ("codestral", "mistral"),
    ("text-completion-codestral", "mistral"),
    ("cohere_chat", "cohere"),
    ("together_ai", "together"),
    ("google", "gemini"),
    ("palm", "gemini"),
    ("vertex_ai", "vertex"),
];

/// What is priced by the token.
const MODES: [&str; 6] = [
    "chat",
    "completion",
    "responses",
    "embedding",
    "realtime",
    "audio_transcription",
];

/// Places behind the point of a price for one token, of which a million cost whole millionths.
const PLACES: u8 = 12;

/// Places behind the point of what a price is multiplied by.
const MULTIPLIER: u8 = 6;

/// Once, in millionths.
const ONE: u64 = 1_000_000;

/// What is multiplied by at all but Vertex AI's global endpoint. Which one is called is not looked at: the dearer price is
/// taken, as in the table that is built in.
const UPLIFT: &str = "regional_endpoint_uplift_multiplier";

/// The description of the form that stands among the models.
const DESCRIPTION: &str = "sample_spec";

/// The models of a file. None: it has another form.
pub(super) fn models(file: &Map<String, Value>) -> Option<Vec<Made>> {
    let has_form = file.values().any(|it| it.get("litellm_provider").is_some());
    has_form.then(|| {
        let models = file.iter().filter(|(name, _)| *name != DESCRIPTION);
        models.map(|(name, entry)| made(name, entry)).collect()
    })
}

fn made(name: &str, entry: &Value) -> Made {
    let theirs = entry.get("litellm_provider").and_then(Value::as_str);
    Made {
        name: name.to_owned(),
        provider: theirs.map(provider).unwrap_or_default(),
        model: model(name, entry, theirs),
    }
}

fn provider(theirs: &str) -> String {
    if theirs.starts_with("vertex_ai") {
        return "vertex".to_owned();
    }
    let known = PROVIDERS.iter().find(|(name, _)| *name == theirs);
    known.map_or(theirs, |(_, ours)| ours).to_owned()
}

fn model(name: &str, entry: &Value, theirs: Option<&str>) -> Result<(String, Fields), String> {
    let theirs = theirs.ok_or("it has no `litellm_provider`")?;
    let mode = entry.get("mode").and_then(Value::as_str).unwrap_or("chat");
    if !MODES.contains(&mode) {
        return Err(format!("its mode is not priced by the token: {mode}"));
    }
    let uplift = price(entry.get(UPLIFT), MULTIPLIER)?
        .unwrap_or(ONE)
        .max(ONE);
    let of =
        |key: &str| Ok::<_, String>(price(entry.get(key), PLACES)?.map(|it| times(it, uplift)));
    let input = of("input_cost_per_token")?.ok_or("it has no price for a token that is read")?;
    let output = match of("output_cost_per_token")? {
        Some(output) => output,
        None if mode == "embedding" => 0,
        None => return Err("it has no price for a token that is written".to_owned()),
    };
    let mut fields = prices(entry, "", uplift)?;
    // Where reasoning has a price of its own, that is within what is written.
    let output = output.max(of("output_cost_per_reasoning_token")?.unwrap_or_default());
    fields.insert("output", decimal(output));
    let lengths = lengths(entry);
    let mut long = Vec::new();
    for (above, suffix) in lengths {
        let mut fields = prices(entry, &suffix, uplift)?;
        for (key, value) in [("input", input), ("output", output)] {
            fields.entry(key).or_insert_with(|| decimal(value));
        }
        fields.insert("above", json!(above));
        long.push(fields);
    }
    if !long.is_empty() {
        fields.insert("long", json!(long));
    }
    let multipliers = multipliers(entry)?;
    for (key, suffix) in [
        ("batch", "_batches"),
        ("flex", "_flex"),
        ("priority", "_priority"),
    ] {
        let input = [Some(input), of(&format!("input_cost_per_token{suffix}"))?];
        let output = [Some(output), of(&format!("output_cost_per_token{suffix}"))?];
        // A fast mode stands apart from what is called priority: the dearer counts.
        let factor = factor_of(input, output).max(multipliers.get(key).copied());
        if let Some(factor) = factor {
            fields.insert(key, decimal(factor));
        }
    }
    if let Some(factor) = multipliers.get("regional") {
        fields.insert("regional", decimal(*factor));
    }
    let limit = |key: &str| entry.get(key).and_then(Value::as_u64).filter(|it| *it > 0);
    let max_output = limit("max_output_tokens").filter(|_| mode != "embedding");
    let context = limit("max_input_tokens").or_else(|| limit("max_tokens"));
    // Some have a limit for what is read that is lower than the one for what is written.
    if let Some(context) = context {
        fields.insert(
            "context",
            json!(context.max(max_output.unwrap_or_default())),
        );
    }
    if let Some(max_output) = max_output {
        fields.insert("max_output", json!(max_output));
    }
    let reasons = match entry.get("supports_reasoning") {
        Some(Value::Bool(reasons)) => Some(*reasons),
        _ if mode == "embedding" => Some(false),
        _ => None,
    };
    fields.extend(hidden(reasons));
    let own = name
        .split_once('/')
        .filter(|(router, _)| theirs.starts_with(router));
    Ok((own.map_or(name, |(_, own)| own).to_owned(), fields))
}

/// By how much calls are dearer that are served faster, and those that are served in one region: the dearest of these.
fn multipliers(entry: &Value) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut found = BTreeMap::new();
    for (ours, theirs) in [
        ("priority", "/provider_specific_entry/fast"),
        ("regional", "/provider_specific_entry/us"),
        ("regional", "/provider_specific_entry/eu"),
        ("regional", "/regional_processing_uplift_multiplier_us"),
        ("regional", "/regional_processing_uplift_multiplier_eu"),
    ] {
        let factor = price(entry.pointer(theirs), MULTIPLIER)?;
        if let Some(factor) = factor.filter(|it| *it > 0) {
            let dearest: &mut u64 = found.entry(ours).or_default();
            *dearest = factor.max(*dearest);
        }
    }
    Ok(found)
}

/// A price, so many times, in millionths, and rounded up.
fn times(price: u64, uplift: u64) -> u64 {
    let product = (u128::from(price) * u128::from(uplift)).div_ceil(u128::from(ONE));
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// Prices whose keys end in this.
fn prices(entry: &Value, suffix: &str, uplift: u64) -> Result<Fields, String> {
    let mut fields = BTreeMap::new();
    for (ours, theirs) in [
        ("input", "input_cost_per_token"),
        ("output", "output_cost_per_token"),
        ("cache_read", "cache_read_input_token_cost"),
        ("cache_write", "cache_creation_input_token_cost"),
        (
            "cache_write_long",
            "cache_creation_input_token_cost_above_1hr",
        ),
        ("audio_input", "input_cost_per_audio_token"),
        ("audio_output", "output_cost_per_audio_token"),
    ] {
        if let Some(price) = price(entry.get(format!("{theirs}{suffix}")), PLACES)? {
            fields.insert(ours, decimal(times(price, uplift)));
        }
    }
    Ok(fields)
}

/// The lengths of input that have prices of their own, and how their keys end: `_above_200k_tokens`.
fn lengths(entry: &Value) -> Vec<(u64, String)> {
    let keys = entry.as_object().into_iter().flat_map(Map::keys);
    let mut lengths: Vec<(u64, String)> = keys
        .filter_map(|key| {
            let of = |price: &str| key.strip_prefix(price);
            let suffix = of("input_cost_per_token").or_else(|| of("output_cost_per_token"))?;
            let length = suffix.strip_prefix("_above_")?.strip_suffix("k_tokens")?;
            let length: u64 = length.parse().ok()?;
            Some((length.checked_mul(1_000)?, suffix.to_owned()))
        })
        .collect();
    lengths.sort();
    lengths.dedup();
    lengths
}
