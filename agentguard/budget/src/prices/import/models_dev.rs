//! models.dev's `api.json`: by provider and model, with prices for a million tokens.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Fields, Made, decimal, factor_of, hidden, price};

/// How it calls providers that have another name here. The rest is called the same.
const PROVIDERS: [(&str, &str); 7] = [
    ("azure", "azure_openai"),
    ("azure-cognitive-services", "azure_openai"),
    ("google", "gemini"),
    ("google-vertex", "vertex"),
    ("google-vertex-anthropic", "vertex"),
    ("amazon-bedrock", "bedrock"),
    ("togetherai", "together"),
];

/// Places behind the point of a price for a million tokens.
const PLACES: u8 = 6;

/// The models of a file. None: it has another form.
pub(super) fn models(file: &Map<String, Value>) -> Option<Vec<Made>> {
    let of = |provider: &'_ Value| provider.get("models").is_some_and(Value::is_object);
    file.values().any(of).then(|| {
        let mut all = Vec::new();
        for (id, entry) in file {
            let known = PROVIDERS.iter().find(|(name, _)| name == id);
            let provider = known.map_or(id.as_str(), |(_, ours)| ours);
            let models = entry.get("models").and_then(Value::as_object);
            for (name, entry) in models.into_iter().flatten() {
                all.push(Made {
                    name: format!("{id}/{name}"),
                    provider: provider.to_owned(),
                    model: model(entry).map(|fields| (name.clone(), fields)),
                });
            }
        }
        all
    })
}

fn model(entry: &Value) -> Result<Fields, String> {
    let cost = entry.get("cost").ok_or("it has no price")?;
    let of = |key: &str| price(cost.get(key), PLACES);
    let input = of("input")?.ok_or("it has no price for what is read")?;
    let output = of("output")?.ok_or("it has no price for what is written")?;
    if input == 0 && output == 0 {
        return Err("its prices are 0, which they are for subscriptions and where they are not known; write it \
                    into the file yourself if it is free"
            .to_owned());
    }
    let mut fields = prices(cost)?;
    let output = output.max(of("reasoning")?.unwrap_or_default());
    fields.insert("output", decimal(output));
    let long = long(cost)?;
    if !long.is_empty() {
        fields.insert("long", json!(long));
    }
    let fast = entry.pointer("/experimental/modes/fast/cost");
    if let Some(fast) = fast {
        let fast = |key: &str| price(fast.get(key), PLACES);
        let (fast_input, fast_output) = (fast("input")?, fast("output")?);
        if let Some(factor) = factor_of([Some(input), fast_input], [Some(output), fast_output]) {
            fields.insert("priority", decimal(factor));
        }
    }
    let limit = |key: &str| {
        let limit = entry.get("limit").and_then(|it| it.get(key));
        limit.and_then(Value::as_u64).filter(|it| *it > 0)
    };
    for (ours, theirs) in [("context", "context"), ("max_output", "output")] {
        if let Some(limit) = limit(theirs) {
            fields.insert(ours, json!(limit));
        }
    }
    fields.extend(hidden(entry.get("reasoning").and_then(Value::as_bool)));
    Ok(fields)
}

fn prices(cost: &Value) -> Result<Fields, String> {
    let mut fields = BTreeMap::new();
    for (ours, theirs) in [
        ("input", "input"),
        ("output", "output"),
        ("cache_read", "cache_read"),
        ("cache_write", "cache_write"),
        ("audio_input", "input_audio"),
        ("audio_output", "output_audio"),
    ] {
        if let Some(price) = price(cost.get(theirs), PLACES)? {
            fields.insert(ours, decimal(price));
        }
    }
    Ok(fields)
}

/// Prices for long input: `tiers`, of any lengths, or `context_over_200k`, which is older.
fn long(cost: &Value) -> Result<Vec<Fields>, String> {
    let tiers = cost.get("tiers").and_then(Value::as_array);
    let tiers = tiers.into_iter().flatten().map(|tier| {
        let above = tier.pointer("/tier/size").and_then(Value::as_u64);
        (above, tier)
    });
    let mut all: Vec<_> = tiers.collect();
    if all.is_empty() {
        let older = cost.get("context_over_200k");
        all.extend(older.map(|tier| (Some(200_000), tier)));
    }
    let mut long = Vec::new();
    for (above, tier) in all {
        let above = above.ok_or("a tier of it has no `size`")?;
        let mut fields = prices(tier)?;
        if !fields.contains_key("input") || !fields.contains_key("output") {
            return Err(format!("its tier above {above} tokens has not both prices"));
        }
        fields.insert("above", json!(above));
        long.push(fields);
    }
    Ok(long)
}
