use agentguard_model::Usage;
use proptest::prelude::*;

use super::{BUILT_IN, Caches, Hidden, Origin, Prices, Tier, file};
use crate::tokens::Tokenizer;

/// The names of built-in providers whose models are priced. Routers (`openrouter`) have none of their own.
const PROVIDERS: [&str; 12] = [
    "openai",
    "azure_openai",
    "anthropic",
    "mistral",
    "xai",
    "groq",
    "deepseek",
    "together",
    "gemini",
    "vertex",
    "bedrock",
    "cohere",
];

#[test]
fn the_table_that_is_built_in_is_whole() {
    let read = file::read("built_in.yaml", BUILT_IN)
        .unwrap_or_else(|found| panic!("{}", super::Faults(found)));
    assert!(read.models.len() > 100);
    for row in &read.models {
        let name = &row.models[0];
        let rate = &row.rate;
        assert!(rate.as_of.is_some(), "{name} has no day");
        assert!(rate.context.is_some(), "{name} has no context");
        assert!(
            rate.max_output <= rate.context,
            "{name} writes more than it can"
        );
        assert!(!row.providers.is_empty(), "{name} has no provider");
        for provider in &row.providers {
            assert!(
                PROVIDERS.contains(&provider.as_str()),
                "{name} is at {provider}"
            );
        }
        let parts = &rate.parts;
        assert!(parts.cache_read <= parts.input, "{name}: a cache is dearer");
        assert!(
            parts.output >= parts.input || parts.output.0 == 0,
            "{name}: output is cheaper"
        );
        for long in &rate.long {
            assert!(
                long.parts.input >= parts.input,
                "{name}: long input is cheaper"
            );
            assert!(
                Some(long.above) < rate.context,
                "{name}: no input is as long"
            );
        }
    }
    for provider in PROVIDERS {
        let has = read
            .models
            .iter()
            .any(|row| row.providers.iter().any(|it| it == provider));
        assert!(has, "no prices of {provider}");
    }
}

#[test]
fn models_are_found_by_the_names_that_calls_have() {
    let prices = Prices::built_in();
    for (provider, model, name, input) in [
        ("openai", "gpt-4o", "gpt-4o", 2_500_000),
        ("openai", "gpt-4o-2024-08-06", "gpt-4o", 2_500_000),
        (
            "openai",
            "gpt-4o-2024-05-13",
            "gpt-4o-2024-05-13",
            5_000_000,
        ),
        (
            "openai",
            "ft:gpt-4o-2024-08-06:acme::1",
            "ft:gpt-4o",
            3_750_000,
        ),
        ("openai", "gpt-4.5-preview", "gpt-4.5-preview", 75_000_000),
        ("azure_openai", "gpt-5.1", "gpt-5.1", 1_250_000),
        (
            "anthropic",
            "claude-sonnet-4-5-20250929",
            "claude-sonnet-4-5",
            3_000_000,
        ),
        (
            "vertex",
            "claude-sonnet-4-5@20250929",
            "claude-sonnet-4-5",
            3_300_000,
        ),
        (
            "bedrock",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "claude-sonnet-4-5",
            3_300_000,
        ),
        (
            "bedrock",
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "global.anthropic.claude-sonnet-4-5",
            3_000_000,
        ),
        (
            "vertex",
            "publishers/google/models/gemini-2.5-pro",
            "gemini-2.5-pro",
            1_250_000,
        ),
        (
            "groq",
            "openai/gpt-oss-120b",
            "openai/gpt-oss-120b",
            150_000,
        ),
        ("mistral", "mistral-large-latest", "mistral-large", 500_000),
        ("cohere", "command-a-03-2025", "command-a", 2_500_000),
        ("xai", "grok-4.6", "grok-4.6", 2_000_000),
        ("xai", "grok-4.7-latest", "grok-4.7", 2_000_000),
        // A router has no prices of its own: what the dearest provider takes.
        (
            "openrouter",
            "anthropic/claude-sonnet-4.5",
            "claude-sonnet-4.5",
            3_000_000,
        ),
        (
            "openrouter",
            "anthropic/claude-haiku-4-5",
            "claude-haiku-4-5",
            1_100_000,
        ),
    ] {
        let priced = prices.of(provider, model);
        assert!(priced.known, "{model}");
        assert_eq!(
            (priced.name, priced.rate.parts.input.0),
            (name, input),
            "{model}"
        );
    }
}

/// What Anthropic takes for `inference_geo`, and OpenAI and xAI at hosts of a region.
#[test]
fn what_a_region_costs_is_known_of_those_who_take_more() {
    let regional = |provider, model| Prices::built_in().of(provider, model).rate.regional.0;
    for (provider, model, factor) in [
        ("anthropic", "claude-opus-4-6", 1_100_000),
        ("anthropic", "claude-sonnet-4-6", 1_100_000),
        ("anthropic", "claude-haiku-5-5", 1_100_000),
        ("anthropic", "claude-opus-4-5-20251101", 1_000_000),
        ("anthropic", "nobody-knows", 1_100_000),
        // It is in their prices.
        ("vertex", "claude-opus-4-6", 1_000_000),
        ("bedrock", "us.anthropic.claude-opus-4-6-v1", 1_000_000),
        ("openai", "gpt-5.4-mini", 1_100_000),
        ("openai", "gpt-5.2", 1_000_000),
        ("xai", "grok-4.5", 1_100_000),
    ] {
        assert_eq!(regional(provider, model), factor, "{model} at {provider}");
    }
    let own = "version: 1
models:
  - {models: [a], providers: [anthropic], input: 1, output: 2}
  - {models: [b], input: 1, output: 2}
  - {models: [c], providers: [mistral], input: 1, output: 2}
  - {models: [d], providers: [xai], input: 1, output: 2, regional: 1.25}
";
    let prices = Prices::with("own.yaml", own).unwrap();
    let regional = |model| prices.of("anthropic", model).rate.regional.0;
    assert_eq!(
        ["a", "b", "c", "d"].map(regional),
        [1_100_000, 1_100_000, 1_000_000, 1_250_000]
    );
}

#[test]
fn what_a_model_hides_is_known() {
    let hidden = |provider, model| Prices::built_in().of(provider, model).rate.hidden;
    assert_eq!(hidden("openai", "o3"), Hidden::Always);
    assert_eq!(hidden("openai", "gpt-4.1"), Hidden::Never);
    assert_eq!(hidden("anthropic", "claude-sonnet-4-5"), Hidden::WhenAsked);
    assert_eq!(hidden("gemini", "gemini-2.5-pro"), Hidden::Always);
    assert_eq!(hidden("openai", "nobody-knows"), Hidden::Always);
}

#[test]
fn a_model_that_is_not_known_costs_what_the_dearest_does() {
    let prices = Prices::built_in();
    let unknown = prices.of("openai", "gpt-99");
    assert!(!unknown.known);
    assert_eq!(unknown.name, "");
    assert_eq!(unknown.rate.parts.input.0, 150_000_000);
    assert_eq!(unknown.rate.parts.output.0, 600_000_000);
    assert_eq!(unknown.rate.parts.audio_output.0, 600_000_000);
    for row in prices.list() {
        let usage = Usage {
            input_tokens: Some(300_000),
            cache_write_tokens: Some(1_000),
            output_tokens: Some(1_000),
            ..Usage::default()
        };
        for tier in [Tier::Standard, Tier::Batch, Tier::Priority, Tier::Other] {
            let own = row.rate.cost(&usage, tier, Caches::Unknown);
            assert!(
                unknown.rate.cost(&usage, tier, Caches::Unknown) >= own,
                "{:?}",
                row.models
            );
        }
    }
    assert!(!prices.of("openai", "").known);
    assert!(!prices.of("openai", &"a/".repeat(10_000)).known);
}

/// As `OpenAI`'s `tiktoken` has them by their models' names.
#[test]
fn models_have_the_tokenizers_that_openai_says() {
    let prices = Prices::built_in();
    let (cl100k, o200k) = (Some(Tokenizer::Cl100k), Some(Tokenizer::O200k));
    for (provider, model, expected) in [
        ("openai", "gpt-4", cl100k),
        ("openai", "gpt-4-0613", cl100k),
        ("azure_openai", "gpt-4-32k-0613", cl100k),
        ("openai", "gpt-4-turbo-2024-04-09", cl100k),
        ("openai", "gpt-4-turbo-preview", cl100k),
        ("openai", "gpt-4-0125-preview", cl100k),
        ("openrouter", "openai/gpt-4-turbo", cl100k),
        ("openai", "gpt-3.5-turbo-0125", cl100k),
        ("openai", "gpt-3.5-turbo-instruct", cl100k),
        ("azure_openai", "gpt-35-turbo-16k", cl100k),
        ("openai", "text-embedding-3-small", cl100k),
        ("openai", "text-embedding-3-large", cl100k),
        ("azure_openai", "text-embedding-ada-002", cl100k),
        ("openai", "gpt-4o-2024-08-06", o200k),
        ("openai", "chatgpt-4o-latest", o200k),
        ("openai", "gpt-4.1-mini", o200k),
        ("openai", "gpt-4.5-preview", o200k),
        ("openai", "o3-mini", o200k),
        ("groq", "openai/gpt-oss-120b", o200k),
        ("anthropic", "claude-haiku-4-5", None),
        ("openai", "gpt-4-of-nobody", None),
    ] {
        let found = prices.of(provider, model).rate.tokenizer;
        assert_eq!(found, expected, "{model} at {provider}");
    }
}

const OWN: &str = "version: 1
models:
  - {models: [gpt-4o], providers: [openai], input: 1, output: 2}
  - {models: [tuned], input: 1, output: 2, tokenizer: cl100k}
  - {models: [llama-own], input: 0, output: 0, hidden: never, context: 8192}
  - {models: ['*'], providers: [ollama], input: 0, output: 0}
names:
  - {name: Prod-Chat, model: gpt-4.1, provider: azure_openai}
  - {name: fast, model: llama-own}
";

#[test]
fn an_operator_s_file_comes_first() {
    let prices = Prices::with("own.yaml", OWN).unwrap();
    let input = |provider, model| {
        let priced = prices.of(provider, model);
        (priced.known, priced.rate.parts.input.0)
    };
    assert_eq!(input("openai", "gpt-4o-2024-08-06"), (true, 1_000_000));
    // The file says nothing of Azure: it is the dearest that it has for the name.
    assert_eq!(input("azure_openai", "gpt-4o"), (true, 1_000_000));
    assert_eq!(input("openai", "gpt-4o-2024-05-13"), (true, 5_000_000));
    assert_eq!(input("azure_openai", "prod-chat"), (true, 2_000_000));
    assert_eq!(input("openai", "prod-chat"), (false, 150_000_000));
    assert_eq!(input("anywhere", "fast"), (true, 0));
    assert_eq!(input("ollama", "anything:70b"), (true, 0));
    assert_eq!(input("openai", "anything:70b"), (false, 150_000_000));
    let tokenizer = |model| prices.of("openai", model).rate.tokenizer;
    assert_eq!(tokenizer("tuned"), Some(Tokenizer::Cl100k));
    assert_eq!(tokenizer("gpt-4o"), None, "the file says of none");
    assert_eq!(prices.list()[0].origin, Origin::File);
    assert!(prices.list().iter().any(|it| it.origin == Origin::BuiltIn));
    let refused = Prices::with("own.yaml", "version: 1\nmodel: []\n").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "own.yaml:2:1: error: unknown key `model`\n  hint: did you mean `models`?"
    );
}

/// As `docs/budgets.md` shows it.
#[test]
fn the_file_that_is_shown_can_be_used() {
    let page = include_str!("../../../../docs/budgets.md");
    let (_, section) = page.split_once("\n## Prices\n").unwrap();
    let (_, block) = section.split_once("```yaml\n").unwrap();
    let (text, _) = block.split_once("```").unwrap();
    let prices = Prices::with("docs", text).unwrap();
    assert_eq!(
        prices
            .of("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")
            .rate
            .parts
            .input
            .0,
        3_000_000
    );
    assert_eq!(prices.of("azure_openai", "prod-chat").name, "gpt-4.1");
    assert!(prices.of("ollama", "qwen3:32b").known);
}

proptest! {
    #[test]
    fn any_name_has_a_price(provider in "[a-z]{0,8}", model in "\\PC{0,80}") {
        let priced = Prices::built_in().of(&provider, &model);
        prop_assert!(priced.known || priced.rate == Prices::built_in().unknown());
    }
}
