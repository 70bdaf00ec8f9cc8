use agentguard_model::Usage;
use proptest::prelude::*;
use serde_json::json;

use super::{Imported, Source, import};
use crate::prices::{Caches, Hidden, Prices, Served, Tier};

const LITELLM: &str = include_str!("samples/litellm.json");
const MODELS_DEV: &str = include_str!("samples/models_dev.json");

fn skipped(imported: &Imported) -> Vec<(&str, &str)> {
    let skipped = imported.skipped.iter();
    skipped
        .map(|it| (it.name.as_str(), it.why.as_str()))
        .collect()
}

#[test]
fn what_is_made_of_litellm_s_file_is_a_file_of_prices() {
    let imported = import(Source::Litellm, LITELLM, &[]).unwrap();
    assert_eq!(
        imported.document(),
        r#"version: 1
models:
  - {"models":["eu/gpt-4o"],"providers":["azure_openai"],"batch":0.5,"context":128000,"hidden":"never","input":2.75,"max_output":16384,"output":11,"priority":1.7,"tokenizer":"o200k"}
  - {"models":["claude-opus-4-6"],"providers":["anthropic"],"batch":0.5,"cache_read":0.5,"cache_write":6.25,"cache_write_long":10,"context":1000000,"hidden":"when_asked","input":5,"max_output":128000,"output":25,"priority":6,"regional":1.1}
  - {"models":["claude-sonnet-4-5"],"providers":["anthropic"],"batch":0.5,"cache_read":0.3,"cache_write":3.75,"cache_write_long":6,"context":1000000,"hidden":"when_asked","input":3,"long":[{"above":200000,"cache_read":0.6,"cache_write":7.5,"input":6,"output":22.5}],"max_output":64000,"output":15,"regional":1}
  - {"models":["gemini-2.5-flash"],"providers":["gemini"],"audio_input":1,"batch":0.5,"context":1048576,"flex":0.5,"hidden":"always","input":0.3,"max_output":65535,"output":3.5,"priority":1.8}
  - {"models":["gpt-4o"],"providers":["openai"],"batch":0.5,"cache_read":1.25,"context":128000,"hidden":"never","input":2.5,"max_output":16384,"output":10,"priority":1.7,"regional":1,"tokenizer":"o200k"}
  - {"models":["gpt-5.5"],"providers":["openai"],"batch":0.5,"flex":0.5,"hidden":"always","input":5,"long":[{"above":272000,"audio_input":10.0,"audio_output":45.0,"cache_read":1.0,"cache_write":10.0,"cache_write_long":10.0,"input":10.0,"output":45.0}],"output":30,"priority":2,"regional":1.12,"tokenizer":"o200k"}
  - {"models":["of-nobody-here"],"providers":["mistral"],"input":1,"output":2}
  - {"models":["text-embedding-3-small"],"providers":["openai"],"batch":0.5,"context":8191,"hidden":"never","input":0.02,"output":0,"regional":1,"tokenizer":"cl100k"}
  - {"models":["claude-3-haiku@20240307"],"providers":["vertex"],"batch":0.5,"cache_write":0.3,"cache_write_long":0.5,"hidden":"never","input":0.25,"output":1.25}
  - {"models":["claude-sonnet-4-5@20250929"],"providers":["vertex"],"batch":0.5,"cache_read":0.33,"cache_write":4.125,"cache_write_long":6.6,"hidden":"when_asked","input":3.3,"long":[{"above":200000,"input":6.6,"output":24.75}],"output":16.5}
"#
    );
    assert_eq!(
        skipped(&imported),
        [
            (
                "1024-x-1024/dall-e-2",
                "its mode is not priced by the token: image_generation"
            ),
            ("negative", "a price of it is negative: -1e-6"),
            ("nobody", "it has no `litellm_provider`"),
            ("unpriced", "it has no price for a token that is written"),
            ("whisper-1", "it has no price for a token that is read"),
            (
                "absurd",
                "`2500000` is no price that a million tokens can have"
            ),
        ]
    );
    let prices = Prices::with("imported.yaml", &imported.document()).unwrap();
    let usage = Usage {
        input_tokens: Some(300_000),
        output_tokens: Some(1_000),
        ..Usage::default()
    };
    let priced = prices.of("anthropic", "claude-sonnet-4-5-20250929");
    assert_eq!(
        priced.rate.cost(&usage, Tier::Standard, Caches::Unknown).0,
        1_800_000 + 22_500
    );
    assert_eq!(priced.rate.hidden, Hidden::WhenAsked);
}

#[test]
fn what_is_made_of_models_dev_s_file_is_a_file_of_prices() {
    let imported = import(Source::ModelsDev, MODELS_DEV, &[]).unwrap();
    assert_eq!(
        imported.document(),
        r#"version: 1
models:
  - {"models":["gemini-2.5-pro"],"providers":["gemini"],"batch":0.5,"cache_read":0.125,"context":1048576,"flex":0.5,"hidden":"always","input":1.25,"long":[{"above":200000,"cache_read":0.25,"input":2.5,"output":15}],"max_output":65536,"output":10,"priority":1.8}
  - {"models":["gpt-5.4"],"providers":["openai"],"batch":0.5,"cache_read":0.25,"context":1050000,"flex":0.5,"hidden":"always","input":2.5,"long":[{"above":272000,"cache_read":0.5,"input":5,"output":22.5}],"max_output":128000,"output":15,"priority":2,"tokenizer":"o200k"}
  - {"models":["gpt-audio"],"providers":["openai"],"audio_input":40,"audio_output":80,"context":128000,"hidden":"never","input":2.5,"max_output":16384,"output":10,"regional":1,"tokenizer":"o200k"}
"#
    );
    let why = skipped(&imported);
    assert_eq!(
        why[0],
        (
            "github-copilot/gpt-4o",
            "its prices are 0, which they are for subscriptions and where they are not known; write it into the file \
             yourself if it is free"
        )
    );
    assert_eq!(
        why[1..],
        [
            ("github-copilot/negative", "a price of it is negative: -2"),
            ("github-copilot/odd", "a tier of it has no `size`"),
            ("github-copilot/unpriced", "it has no price"),
        ]
    );
    assert!(Prices::with("imported.yaml", &imported.document()).is_ok());
}

#[test]
fn providers_can_be_chosen_and_other_files_are_refused() {
    let only = import(Source::Litellm, LITELLM, &["vertex".to_owned()]).unwrap();
    assert_eq!((only.models.len(), only.skipped.len()), (2, 0));
    let none = import(Source::Litellm, LITELLM, &["nobody".to_owned()]).unwrap();
    assert!(Prices::with("imported.yaml", &none.document()).is_ok());
    for (source, text, why) in [
        (
            Source::Litellm,
            "[]",
            "it is no JSON: invalid type: sequence, expected a map at line 1 column 0",
        ),
        (
            Source::Litellm,
            MODELS_DEV,
            "it has not the form of model_prices_and_context_window.json",
        ),
        (
            Source::ModelsDev,
            LITELLM,
            "it has not the form of models.dev's api.json",
        ),
    ] {
        assert_eq!(import(source, text, &[]).unwrap_err().to_string(), why);
    }
}

/// What a list is silent about would be cheaper than in the row before which its own comes.
#[test]
fn no_call_is_cheaper_for_what_a_list_is_silent_about() {
    for row in Prices::built_in().list() {
        let dollars = |price: crate::prices::PerMillion| price.0 as f64 / 1e12;
        for (provider, name) in row
            .providers
            .iter()
            .flat_map(|it| row.models.iter().map(move |name| (it, name)))
        {
            let theirs = match provider.as_str() {
                "azure_openai" => "azure",
                "vertex" => "vertex_ai",
                other => other,
            };
            let text = json!({ name: {
                "litellm_provider": theirs, "mode": "chat",
                "input_cost_per_token": dollars(row.rate.parts.input),
                "output_cost_per_token": dollars(row.rate.parts.output),
            } });
            let imported = import(Source::Litellm, &text.to_string(), &[]).unwrap();
            let read = super::file::read("imported.yaml", &imported.document()).unwrap();
            let own = &read.models[0];
            let before = Prices::built_in().of(provider, &own.models[0]).rate;
            assert_eq!(own.rate.hidden, before.hidden, "{name} at {provider}");
            assert_eq!(own.rate.tokenizer, before.tokenizer, "{name} at {provider}");
            let usage = Usage {
                input_tokens: Some(500_000),
                cache_read_tokens: Some(100_000),
                cache_write_tokens: Some(100_000),
                audio_input_tokens: Some(1_000),
                output_tokens: Some(1_000),
                audio_output_tokens: Some(100),
                ..Usage::default()
            };
            for tier in [Tier::Standard, Tier::Batch, Tier::Flex, Tier::Priority] {
                for regional in [false, true] {
                    let served = Served { tier, regional };
                    let now = own.rate.cost(&usage, served, Caches::Unknown);
                    let was = before.cost(&usage, served, Caches::Unknown);
                    assert!(now >= was, "{name} at {provider}, {served:?}: {now:?}");
                }
            }
        }
    }
}

#[test]
fn a_model_that_is_there_twice_is_taken_once() {
    let text = r#"{
        "azure/gpt-4o": {"litellm_provider": "azure", "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6},
        "gpt-4o": {"litellm_provider": "azure", "mode": "chat", "input_cost_per_token": 2e-6, "output_cost_per_token": 2e-6}
    }"#;
    let imported = import(Source::Litellm, text, &[]).unwrap();
    assert_eq!(imported.models.len(), 1);
    assert_eq!(
        skipped(&imported),
        [(
            "gpt-4o",
            "`gpt-4o` has a price already for the same provider"
        )]
    );
}

proptest! {
    #[test]
    fn whatever_a_file_has_what_is_made_can_be_read(
        (input, output) in ("[0-9]{1,3}(\\.[0-9]{1,14})?(e-?[0-9]{1,3})?", "-?[0-9]{1,9}(\\.[0-9]{1,3})?"),
        name in "\\PC{0,12}",
        limit: i64,
        mode in "chat|embedding|image",
    ) {
        let text = format!(
            "{{{:?}: {{\"litellm_provider\": \"openai\", \"mode\": \"{mode}\", \"input_cost_per_token\": \"{input}\", \"output_cost_per_token\": \"{output}\", \"max_tokens\": {limit}}}}}",
            name.replace(|c: char| c.is_control() || c == '\'', "")
        );
        if let Ok(imported) = import(Source::Litellm, &text, &[]) {
            prop_assert!(Prices::with("imported.yaml", &imported.document()).is_ok(), "{}", imported.document());
            prop_assert_eq!(imported.models.len() + imported.skipped.len(), 1);
        }
    }
}
