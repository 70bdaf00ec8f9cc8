use std::sync::Arc;

use agentguard_budget::prices::Prices;
use agentguard_model::budget::Unit;
use agentguard_model::{Demand, Llm, LlmOperation, Usage};

use super::Asks;
use crate::port::Target;

fn llm(provider: &str, model: &str) -> Llm {
    Llm {
        provider: provider.to_owned(),
        operation: LlmOperation::Chat,
        model: Some(model.to_owned()),
        stream: true,
        max_output_tokens: Some(1_000_000),
        tools: Vec::new(),
        asks: Vec::new(),
        asks_unread: false,
        not_understood: None,
    }
}

fn asks_at(llm: &Llm, host: &str, demand: &Demand, bytes: u64) -> Asks {
    let target = Target {
        host: Some(host.parse().unwrap()),
        ip: None,
        port: 443,
    };
    let prices = Arc::new(Prices::built_in().clone());
    Asks::of(&prices, llm, demand, &target, bytes)
}

/// What a million tokens that are read cost there, reserved and settled, in millionths of a dollar.
fn input(provider: &str, model: &str, host: &str, demand: &Demand) -> (u64, u64) {
    let asks = asks_at(&llm(provider, model), host, demand, 0);
    let usage = Usage {
        input_tokens: Some(100_000),
        output_tokens: Some(0),
        ..Usage::default()
    };
    let pricing = &asks.pricing;
    let cost = pricing.rate.cost(&usage, pricing.served, pricing.caches);
    (asks.price.input, cost.0 * 10)
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
    // What is reserved is all of it put into a cache for an hour.
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
            (2_500_000, 2_500_000),
        ),
        (
            "openai",
            "gpt-5.4",
            "eu.api.openai.com",
            &anywhere,
            (2_750_000, 2_750_000),
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
            (2_200_000, 2_200_000),
        ),
    ] {
        let found = input(provider, model, host, demand);
        assert_eq!(found, costs, "{model} at {host}");
    }
}

/// What a call of Claude Sonnet 4.5 of so many bytes asks for, which costs 3, 3.75 and 6 dollars for a million tokens of
/// input that is plain, cached for minutes, and for longer; twice that beyond 200,000 tokens.
fn asks(bytes: u64, short_caches: bool) -> Asks {
    let demand = Demand {
        parts: 1,
        short_caches,
        ..Demand::default()
    };
    let llm = llm("anthropic", "claude-sonnet-4-5");
    asks_at(&llm, "api.anthropic.com", &demand, bytes)
}

#[test]
fn a_call_reserves_at_the_prices_of_what_it_may_read() {
    for (bytes, short_caches, input, output) in [
        (10, false, 6, 15_000_000),
        (10, true, 3, 15_000_000),
        (100_000, false, 6, 15_000_000),
        (200_000, false, 12, 22_500_000),
        (200_000, true, 7, 22_500_000),
    ] {
        let asks = asks(bytes, short_caches);
        let terms = asks.estimate.terms(Unit::MicroUsd, asks.price);
        // Rounded down to whole dollars for a million.
        let paid = terms.amount(0) / asks.estimate.input;
        assert_eq!(paid, input, "{bytes} {short_caches}");
        let written = terms.amount(1_000_000) - terms.amount(0);
        assert_eq!(written, output, "{bytes} {short_caches}");
    }
}
