use agentguard_model::budget::MicroUsd;
use agentguard_model::{Demand, Usage};
use proptest::prelude::*;

use super::{Caches, Factor, Hidden, Long, Parts, PerMillion, Rate, Served, Tier};

fn parts(dollars: u64) -> Parts {
    let price = |hundredths: u64| PerMillion(dollars * hundredths * 10_000);
    Parts {
        input: price(100),
        cache_read: price(10),
        cache_write: price(125),
        cache_write_long: price(200),
        output: price(500),
        audio_input: price(800),
        audio_output: price(1_600),
    }
}

/// A dollar for a million tokens that are read, two beyond 200,000.
fn rate() -> Rate {
    Rate {
        parts: parts(1),
        long: vec![Long {
            above: 200_000,
            parts: parts(2),
        }],
        batch: Factor(500_000),
        priority: Factor(1_700_000),
        regional: Factor(1_100_000),
        context: Some(1_000_000),
        hidden: Hidden::Always,
        ..Rate::nothing()
    }
}

fn usage(input: u64, output: u64) -> Usage {
    Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
        ..Usage::default()
    }
}

#[test]
fn each_kind_of_tokens_has_its_price_and_the_sum_is_rounded_up() {
    let cached = Usage {
        cache_read_tokens: Some(60_000),
        cache_write_tokens: Some(10_000),
        ..usage(100_000, 1_000)
    };
    let heard = Usage {
        audio_input_tokens: Some(400),
        audio_output_tokens: Some(100),
        ..usage(1_000, 500)
    };
    for (usage, tier, expected) in [
        (usage(0, 0), Tier::Standard, 0),
        (usage(1, 0), Tier::Standard, 1),
        (usage(1, 0), Tier::Batch, 1),
        (usage(3, 0), Tier::Batch, 2),
        (usage(1_000_000, 0), Tier::Standard, 2_000_000),
        (usage(200_000, 0), Tier::Standard, 200_000),
        (usage(200_001, 100), Tier::Standard, 400_002 + 1_000),
        (usage(100, 100), Tier::Priority, 1_020),
        (usage(100, 100), Tier::Flex, 600),
        (usage(100, 100), Tier::Other, 1_020),
        // 30,000 plain, 60,000 from a cache, 10,000 into one for an hour, since that is not told.
        (cached, Tier::Standard, 30_000 + 6_000 + 20_000 + 5_000),
        (heard, Tier::Standard, 600 + 3_200 + 2_000 + 1_600),
    ] {
        assert_eq!(
            rate().cost(&usage, tier, Caches::Unknown),
            MicroUsd(expected),
            "{usage:?}, {tier:?}"
        );
    }
}

#[test]
fn what_is_cached_for_minutes_costs_as_that_where_the_call_says_so() {
    let written = Usage {
        cache_write_tokens: Some(10_000),
        ..usage(10_000, 0)
    };
    let cost = |short_caches| {
        let demand = Demand {
            short_caches,
            ..Demand::default()
        };
        rate().cost(&written, Tier::Standard, Caches::of(&demand))
    };
    assert_eq!(cost(true), MicroUsd(12_500));
    assert_eq!(cost(false), MicroUsd(20_000));
}

#[test]
fn what_is_served_in_one_region_costs_more_beside_its_tier() {
    let demand = |tier: Option<&str>, regional| Demand {
        tier: tier.map(str::to_owned),
        regional,
        ..Demand::default()
    };
    for (tier, regional, cost, dearest) in [
        (None, false, 100 + 500, 8_000_000),
        (None, true, 660, 8_800_000),
        (Some("batch"), true, 330, 4_400_000),
        (Some("fast"), true, 1_122, 14_960_000),
        (Some("unheard of"), true, 1_122, 14_960_000),
    ] {
        let served = Served::of(&demand(tier, regional));
        let of = |usage: &Usage| rate().cost(usage, served, Caches::Unknown).0;
        assert_eq!(of(&usage(100, 100)), cost, "{tier:?}");
        assert_eq!(
            rate()
                .dearest_input_per_million(served, Caches::Unknown, 1)
                .0,
            dearest
        );
    }
    // Its provider says so, and the call did not: it is a setting of the project.
    let told = Usage {
        regional: true,
        ..usage(100, 100)
    };
    let cost = rate().cost(&told, Tier::Standard, Caches::Unknown);
    assert_eq!(cost, MicroUsd(660));
}

#[test]
fn usage_that_contradicts_itself_costs_no_less_than_its_parts() {
    let cached = Usage {
        input_tokens: Some(10),
        cache_read_tokens: Some(300_000),
        ..Usage::default()
    };
    // It is long input, of which all came from a cache.
    assert_eq!(
        rate().cost(&cached, Tier::Standard, Caches::Unknown),
        MicroUsd(60_000)
    );
    let reasoned = Usage {
        output_tokens: Some(5),
        reasoning_tokens: Some(100),
        ..Usage::default()
    };
    assert_eq!(
        rate().cost(&reasoned, Tier::Standard, Caches::Unknown),
        MicroUsd(500)
    );
    let nothing = Usage::default();
    assert_eq!(
        rate().cost(&nothing, Tier::Standard, Caches::Unknown),
        MicroUsd(0)
    );
}

#[test]
fn the_dearest_token_depends_on_what_may_be_read() {
    let rate = rate();
    let input = |tier, tokens| {
        rate.dearest_input_per_million(tier, Caches::Unknown, tokens)
            .0
    };
    assert_eq!(input(Tier::Standard, 200_000), 8_000_000);
    assert_eq!(input(Tier::Standard, 200_001), 16_000_000);
    assert_eq!(input(Tier::Batch, 1), 4_000_000);
    assert_eq!(input(Tier::Other, 1), 13_600_000);
    let output = rate.dearest_output_per_million(Tier::Standard, 200_001);
    assert_eq!(output, PerMillion(32_000_000));
}

#[test]
fn providers_words_for_tiers_are_known() {
    for (word, tier) in [
        (None, Tier::Standard),
        (Some("auto"), Tier::Standard),
        (Some("standard_only"), Tier::Standard),
        (Some("FLEX"), Tier::Flex),
        (Some("priority"), Tier::Priority),
        (Some("fast"), Tier::Priority),
        (Some("batch"), Tier::Batch),
        (Some("ultrafast"), Tier::Other),
    ] {
        assert_eq!(Tier::of(word), tier, "{word:?}");
    }
}

fn any_tier() -> impl Strategy<Value = Tier> {
    prop::sample::select(vec![
        Tier::Standard,
        Tier::Batch,
        Tier::Flex,
        Tier::Priority,
        Tier::Other,
    ])
}

proptest! {
    #[test]
    fn no_call_costs_more_than_was_reserved_for_its_tokens(
        regional: bool,
        (input, read, written, heard) in (0_u64..400_000, 0_u64..100_000, 0_u64..100_000, 0_u64..100_000),
        (output, said) in (0_u64..400_000, 0_u64..400_000),
        more in 0_u64..400_000,
        tier in any_tier(),
        short: bool,
    ) {
        let caches = if short { Caches::Minutes } else { Caches::Unknown };
        let usage = Usage {
            cache_read_tokens: Some(read),
            cache_write_tokens: Some(written),
            audio_input_tokens: Some(heard),
            audio_output_tokens: Some(said),
            ..usage(input, output)
        };
        let tier = Served { tier, regional };
        let rate = rate();
        let input = input.max(read + written + heard);
        let bound = input + more;
        let of = |tokens: u64, price: PerMillion| (u128::from(tokens) * u128::from(price.0)).div_ceil(1_000_000);
        let reserved = of(input, rate.dearest_input_per_million(tier, caches, bound))
            + of(output.max(said), rate.dearest_output_per_million(tier, bound));
        prop_assert!(u128::from(rate.cost(&usage, tier, caches).0) <= reserved);
    }

    #[test]
    fn nothing_wraps(input: u64, output: u64, read: Option<u64>, heard: Option<u64>, said: Option<u64>, price: u64, factor: u32, tier in any_tier()) {
        let price = PerMillion(price);
        let parts = Parts { input: price, cache_read: price, cache_write: price, cache_write_long: price, output: price, audio_input: price, audio_output: price };
        let rate = Rate { parts, long: Vec::new(), priority: Factor(factor), ..rate() };
        let all = Usage { cache_read_tokens: read, audio_input_tokens: heard, audio_output_tokens: said, ..usage(input, output) };
        let half = Usage { input_tokens: Some(input / 2), output_tokens: Some(output / 2), ..Usage::default() };
        prop_assert!(rate.cost(&all, tier, Caches::Unknown) >= rate.cost(&half, tier, Caches::Unknown));
        let _ = rate.dearest_input_per_million(tier, Caches::Unknown, input);
    }

    #[test]
    fn the_dearer_of_two_is_dearer_for_every_call(input in 0_u64..400_000, output: u32, read in 0_u64..100_000, price in 0_u64..100, tier in any_tier()) {
        let other = Rate { parts: parts(price), long: Vec::new(), ..rate() };
        let dearer = rate().dearer(&other);
        let call = Usage { cache_read_tokens: Some(read), ..usage(input, output.into()) };
        for one in [rate(), other] {
            prop_assert!(dearer.cost(&call, tier, Caches::Unknown) >= one.cost(&call, tier, Caches::Unknown));
        }
    }
}
