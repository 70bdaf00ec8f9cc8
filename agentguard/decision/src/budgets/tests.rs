use std::sync::Arc;

use agentguard_budget::prices::Prices;
use agentguard_model::{Demand, Llm, LlmOperation, Usage};

use super::Asks;
use crate::port::Target;

/// What a million tokens that are read cost there, reserved and settled, in millionths of a dollar.
fn input(provider: &str, model: &str, host: &str, demand: &Demand) -> (u64, u64) {
    let llm = Llm {
        provider: provider.to_owned(),
        operation: LlmOperation::Chat,
        model: Some(model.to_owned()),
        stream: false,
        max_output_tokens: None,
        tools: Vec::new(),
        asks: Vec::new(),
        asks_unread: false,
        not_understood: None,
    };
    let target = Target {
        host: Some(host.parse().unwrap()),
        ip: None,
        port: 443,
    };
    let prices = Arc::new(Prices::built_in().clone());
    let asks = Asks::of(&prices, &llm, demand, &target, 0);
    let usage = Usage {
        input_tokens: Some(100_000),
        output_tokens: Some(0),
        ..Usage::default()
    };
    let pricing = &asks.pricing;
    let cost = pricing.rate.cost(&usage, pricing.served, pricing.caches);
    (asks.model.input_price, cost.0 * 10)
}

#[test]
fn what_is_to_be_served_in_one_region_is_reserved_and_settled_at_its_price() {
    let anywhere = Demand::default();
    let here = Demand {
        regional: true,
        ..Demand::default()
    };
    let batch = Demand {
        tier: Some("batch".to_owned()),
        ..Demand::default()
    };
    // What is reserved is all of it put into a cache for an hour; of GPT-5.4's, long input.
    for (provider, model, host, demand, costs) in [
        (
            "anthropic",
            "claude-opus-4-6",
            "api.anthropic.com",
            &anywhere,
            (10_000_000, 5_000_000),
        ),
        (
            "anthropic",
            "claude-opus-4-6",
            "api.anthropic.com",
            &here,
            (11_000_000, 5_500_000),
        ),
        (
            "anthropic",
            "claude-opus-4-6",
            "api.anthropic.com",
            &batch,
            (5_000_000, 2_500_000),
        ),
        (
            "openai",
            "gpt-5.4",
            "api.openai.com",
            &anywhere,
            (5_000_000, 2_500_000),
        ),
        (
            "openai",
            "gpt-5.4",
            "eu.api.openai.com",
            &anywhere,
            (5_500_000, 2_750_000),
        ),
        (
            "openai",
            "gpt-4o",
            "eu.api.openai.com",
            &anywhere,
            (2_500_000, 2_500_000),
        ),
        (
            "xai",
            "grok-4.5",
            "us.api.x.ai",
            &anywhere,
            (4_400_000, 2_200_000),
        ),
    ] {
        let found = input(provider, model, host, demand);
        assert_eq!(found, costs, "{model} at {host}");
    }
}
