//! What a call may use, before it leaves; and what it has used, once that is known.

use agentguard_model::budget::Unit;
use agentguard_model::{Demand, Llm, LlmOperation, Usage};

use crate::charge::Terms;
use crate::prices::{Caches, Hidden, Rate, Served};
use crate::tokens::{Content, Counted, Pictures};

/// The most that is taken for true of what a provider reports: more is no number of tokens. It is charged with what was
/// held for it then.
const ABSURD: u64 = 1 << 40;

/// The longest input of a model of which that is not known.
const LONGEST: u64 = 2_000_000;

/// What is known of a model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ModelFacts {
    /// The most tokens that it reads.
    pub context: u64,
    /// The most tokens that one answer of it has.
    pub output: u64,
    /// Whether it may write what is not shown where the call does not say.
    pub reasons: bool,
}

impl ModelFacts {
    /// Of a model at this rate. What is not known of it is the most that there is.
    #[must_use]
    pub fn of(rate: &Rate) -> Self {
        let context = rate.context.unwrap_or(LONGEST);
        Self {
            context,
            output: rate.max_output.unwrap_or(context).min(context),
            reasons: rate.hidden == Hidden::Always,
        }
    }
}

/// What the tokens of a call cost at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dearest {
    /// A million of those that it reads, in millionths of a dollar.
    pub input: u64,
    /// And of those that it writes.
    pub output: u64,
}

impl Dearest {
    /// At this rate, of a call that is served so and puts into caches what it says, and reads no more tokens than these: what
    /// is long input for its model is dearer.
    #[must_use]
    pub fn of(rate: &Rate, served: impl Into<Served>, caches: Caches, input: u64) -> Self {
        let served = served.into();
        Self {
            input: rate.dearest_input_per_million(served, caches, input).0,
            output: rate.dearest_output_per_million(served, input).0,
        }
    }
}

/// What a call may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Estimate {
    /// The most tokens of input.
    pub input: u64,
    /// The most tokens of output, of all answers together.
    pub output: u64,
    /// How many answers are asked for, at least one.
    pub answers: u64,
    /// Whether all that bills as output is seen as it is written, so that a part of it may be reserved at a time.
    pub visible: bool,
    /// Whether some of the output may never be seen, and is billed all the same.
    pub hidden: bool,
    /// Whether the input is what was counted of it, which is less than its bytes.
    pub counted: bool,
}

impl Estimate {
    /// Of a call whose content has so many bytes. `limited`: the provider's own limit of output holds.
    ///
    /// What it reads is bounded by [`Content::input_bound`]. What could not be read may fill the model's window.
    #[must_use]
    pub fn of(llm: &Llm, demand: &Demand, bytes: u64, model: &ModelFacts) -> Self {
        Self::counting(llm, demand, bytes, None, model)
    }

    /// The same of a call that has been counted, where it has.
    #[must_use]
    pub fn counting(
        llm: &Llm,
        demand: &Demand,
        bytes: u64,
        counted: Option<Counted>,
        model: &ModelFacts,
    ) -> Self {
        let unread = llm.not_understood.is_some();
        let model_name = llm.model.as_deref().unwrap_or_default();
        let pictures = Pictures::of(&llm.provider, model_name);
        let mut content = Content::of(bytes, demand, pictures).of_call(llm, demand);
        let uncounted = content.text_bytes;
        if let Some(counted) = counted {
            content = content.counting(bytes, counted);
        }
        let input = match llm.operation {
            // Each of many texts may fill the window by itself.
            LlmOperation::Embeddings => content.input_bound(None).min(ABSURD),
            // What tools of the provider's find is read again with each of their calls.
            _ if demand.serves_tools => model.context.saturating_mul(2),
            _ if unread => model.context,
            _ => content.input_bound(Some(model.context)),
        };
        let writes = matches!(
            llm.operation,
            LlmOperation::Chat | LlmOperation::TextCompletion | LlmOperation::Realtime
        );
        let writes = writes && !demand.silent;
        let answers = u64::from(demand.answers.max(1));
        let one = llm.max_output_tokens.unwrap_or(model.output).min(ABSURD);
        let output = match writes {
            true => one.saturating_mul(answers),
            false => 0,
        };
        let hidden = reasons(llm, demand, model) || demand.serves_tools || unread;
        Self {
            input,
            output,
            answers,
            visible: llm.stream && writes && !hidden && !demand.background,
            hidden: writes && hidden,
            counted: content.counted.is_some_and(|tokens| tokens < uncounted),
        }
    }

    /// What an account of this unit is charged with for it, for each call.
    #[must_use]
    pub fn terms(&self, unit: Unit, price: Dearest) -> Terms {
        let of_output = |fixed| Terms {
            fixed,
            per_million: 1_000_000,
        };
        let only = |fixed| Terms {
            fixed,
            per_million: 0,
        };
        match unit {
            // Nobody knows before what is cached: it may be all of it.
            Unit::InputTokens | Unit::CachedTokens => only(self.input),
            Unit::OutputTokens => of_output(0),
            // What is seen as it is written is not reasoning.
            Unit::ReasoningTokens if self.visible => only(0),
            Unit::ReasoningTokens => of_output(0),
            Unit::Tokens => of_output(self.input),
            Unit::MicroUsd => Terms {
                fixed: Terms {
                    fixed: 0,
                    per_million: price.input,
                }
                .amount(self.input),
                per_million: price.output,
            },
            Unit::Calls | Unit::ConcurrentCalls => only(1),
            // Bytes are counted as they pass, and not by the call.
            Unit::ToolCalls
            | Unit::Destinations
            | Unit::WallTime
            | Unit::BytesOut
            | Unit::BytesIn => only(0),
        }
    }
}

/// Providers that heed an effort of `none`: it is theirs. Who has the same form may reason all the same, and bill it.
const HEED_NONE: [&str; 2] = ["openai", "azure_openai"];

/// What OpenRouter has behind a model's name to ask it to reason.
const THINKING: &str = ":thinking";

/// Whether a model may write what is not shown for this call.
fn reasons(llm: &Llm, demand: &Demand, model: &ModelFacts) -> bool {
    let name = llm.model.as_deref().unwrap_or_default();
    if name.to_ascii_lowercase().contains(THINKING) {
        return true;
    }
    let heeds = !demand.told_in_openai_form || HEED_NONE.contains(&llm.provider.as_str());
    let told = demand.reasons.filter(|reasons| *reasons || heeds);
    told.unwrap_or(model.reasons)
}

/// What a call has used of this unit, by what its provider reports. None: it does not say, or says what cannot be.
/// `price`: what that costs, in millionths of a dollar.
#[must_use]
pub fn used(unit: Unit, usage: &Usage, price: impl FnOnce(&Usage) -> Option<u64>) -> Option<u64> {
    let sane = |tokens: Option<u64>| tokens.filter(|it| *it <= ABSURD);
    let (input, output) = (sane(usage.input_tokens), sane(usage.output_tokens));
    match unit {
        Unit::InputTokens => input,
        Unit::OutputTokens => output,
        // What is not told of is none, where the whole is.
        Unit::CachedTokens => match usage.cache_read_tokens {
            None => input.map(|_| 0),
            cached => sane(cached),
        },
        Unit::ReasoningTokens => match usage.reasoning_tokens {
            None => output.map(|_| 0),
            tokens => sane(tokens),
        },
        Unit::Tokens => input?.checked_add(output?),
        Unit::MicroUsd => {
            input?;
            output?;
            price(usage)
        }
        Unit::Calls | Unit::ToolCalls => Some(1),
        Unit::ConcurrentCalls | Unit::Destinations | Unit::WallTime => Some(0),
        // Nobody who is asked for tokens knows.
        Unit::BytesOut | Unit::BytesIn => None,
    }
}

#[cfg(test)]
mod tests {
    use agentguard_model::budget::Unit;
    use agentguard_model::{Demand, Llm, LlmOperation, Usage};

    use super::{ABSURD, Dearest, Estimate, ModelFacts, used};

    const MODEL: ModelFacts = ModelFacts {
        context: 200_000,
        output: 64_000,
        reasons: false,
    };

    const PRICE: Dearest = Dearest {
        input: 3_000_000,
        output: 15_000_000,
    };

    fn llm(limit: Option<u64>, stream: bool) -> Llm {
        Llm {
            provider: "anthropic".to_owned(),
            operation: LlmOperation::Chat,
            model: Some("m".to_owned()),
            stream,
            max_output_tokens: limit,
            tools: Vec::new(),
            asks: Vec::new(),
            asks_unread: false,
            not_understood: None,
        }
    }

    #[test]
    fn a_call_may_use_what_it_says_and_no_more() {
        let demand = Demand {
            parts: 3,
            ..Demand::default()
        };
        let estimate = Estimate::of(&llm(Some(100), true), &demand, 1000, &MODEL);
        assert_eq!(estimate.input, 1000 + 3 * 64 + 2048, "what is not known");
        assert_eq!((estimate.output, estimate.visible), (100, true));
        let tokens = estimate.terms(Unit::Tokens, PRICE);
        assert_eq!(tokens.amount(100), estimate.input + 100);
        let money = estimate.terms(Unit::MicroUsd, PRICE);
        assert_eq!(money.amount(100), estimate.input * 3 + 100 * 15);
        // No more than the model reads, and all of that where something is not seen.
        let of = |demand: Demand, bytes| Estimate::of(&llm(None, false), &demand, bytes, &MODEL);
        assert_eq!(of(Demand::default(), 1 << 30).input, MODEL.context);
        let refers = Demand {
            refers: true,
            ..Demand::default()
        };
        assert_eq!(of(refers, 10).input, MODEL.context);
        let several = Demand {
            answers: 3,
            ..Demand::default()
        };
        assert_eq!(of(several, 10).output, 3 * MODEL.output);
    }

    #[test]
    fn a_picture_does_not_reserve_the_whole_window_where_its_bound_is_published() {
        let picture = Demand {
            media: 1,
            pictures: 1,
            picture_bytes: 1_000_000,
            parts: 2,
            ..Demand::default()
        };
        let of = |model: &str, demand: &Demand| {
            let llm = Llm {
                model: Some(model.to_owned()),
                ..llm(Some(100), true)
            };
            Estimate::of(&llm, demand, 1_001_000, &MODEL).input
        };
        let known = of("claude-sonnet-4-5", &picture);
        assert_eq!(known, 1000 + 2 * 64 + 128 + 1681);
        assert_eq!(of("m", &picture), MODEL.context);
        let document = Demand {
            media: 2,
            ..picture
        };
        assert_eq!(of("claude-sonnet-4-5", &document), MODEL.context);
    }

    #[test]
    fn what_is_not_seen_is_never_reserved_in_parts() {
        let visible = |llm: &Llm, demand: &Demand, model: &ModelFacts| {
            Estimate::of(llm, demand, 10, model).visible
        };
        let none = Demand::default();
        assert!(visible(&llm(None, true), &none, &MODEL));
        assert!(!visible(&llm(None, false), &none, &MODEL), "one document");
        let thinking = ModelFacts {
            reasons: true,
            ..MODEL
        };
        assert!(!visible(&llm(None, true), &none, &thinking));
        let off = Demand {
            reasons: Some(false),
            ..Demand::default()
        };
        assert!(visible(&llm(None, true), &off, &thinking));
        let served = Demand {
            serves_tools: true,
            ..off
        };
        assert!(!visible(&llm(None, true), &served, &thinking));
        let unread = Llm {
            not_understood: Some("no JSON".to_owned()),
            ..llm(None, true)
        };
        assert!(!visible(&unread, &none, &MODEL));
    }

    #[test]
    fn what_is_to_be_read_alone_reserves_no_output() {
        let silent = Demand {
            silent: true,
            ..Demand::default()
        };
        let estimate = Estimate::of(&llm(Some(100), true), &silent, 10, &MODEL);
        assert_eq!((estimate.output, estimate.visible), (0, false));
        assert!(estimate.input > 10);
    }

    #[test]
    fn that_it_is_not_to_reason_is_believed_of_whose_word_it_is() {
        for (provider, openai_form, model, visible) in [
            ("openai", true, "m", true),
            ("azure_openai", true, "m", true),
            ("xai", true, "m", false),
            ("together", true, "m", false),
            ("mine", true, "m", false),
            ("anthropic", false, "m", true),
            ("openrouter", false, "m", true),
            (
                "openrouter",
                false,
                "anthropic/claude-3.7-sonnet:thinking",
                false,
            ),
            ("openrouter", false, "m:Thinking:free", false),
        ] {
            let call = Llm {
                provider: provider.to_owned(),
                model: Some(model.to_owned()),
                ..llm(Some(100), true)
            };
            let off = Demand {
                reasons: Some(false),
                told_in_openai_form: openai_form,
                ..Demand::default()
            };
            let always = ModelFacts {
                reasons: true,
                ..MODEL
            };
            let estimate = Estimate::of(&call, &off, 10, &always);
            assert_eq!(estimate.visible, visible, "{model} at {provider}");
            // What writes nothing that is hidden runs in parts all the same, unless its name asks for that.
            let silent = Estimate::of(&call, &off, 10, &MODEL);
            assert_eq!(silent.visible, !model.to_lowercase().contains("thinking"));
        }
    }

    #[test]
    fn what_goes_on_by_itself_is_reserved_as_a_whole() {
        let background = Demand {
            background: true,
            ..Demand::default()
        };
        let estimate = Estimate::of(&llm(Some(100), true), &background, 10, &MODEL);
        assert!(!estimate.visible);
    }

    #[test]
    fn what_is_reported_counts_where_it_can_be() {
        let usage = Usage {
            input_tokens: Some(10),
            output_tokens: Some(20),
            ..Usage::default()
        };
        let none = |_: &Usage| None;
        let of = |unit, usage: &Usage| used(unit, usage, none);
        assert_eq!(of(Unit::Tokens, &usage), Some(30));
        assert_eq!(of(Unit::CachedTokens, &usage), Some(0));
        assert_eq!(of(Unit::ReasoningTokens, &usage), Some(0));
        assert_eq!(of(Unit::MicroUsd, &usage), None);
        assert_eq!(used(Unit::MicroUsd, &usage, |_| Some(7)), Some(7));
        assert_eq!(of(Unit::ConcurrentCalls, &usage), Some(0));
        let missing = Usage {
            output_tokens: None,
            ..usage
        };
        assert_eq!(of(Unit::Tokens, &missing), None);
        assert_eq!(of(Unit::InputTokens, &missing), Some(10));
        assert_eq!(of(Unit::ReasoningTokens, &missing), None);
        let absurd = Usage {
            input_tokens: Some(ABSURD + 1),
            ..usage
        };
        assert_eq!(of(Unit::InputTokens, &absurd), None);
        assert_eq!(used(Unit::MicroUsd, &absurd, |_| Some(7)), None);
    }
}
