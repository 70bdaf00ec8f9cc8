use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Unlimited, limit};
use crate::json::Value;
use crate::llm::{CallReader, Endpoint, InvokeForm, NotUnderstood};

const CHAT: Endpoint = Endpoint::ChatCompletions;
const GEMINI: Endpoint = Endpoint::GenerateContent { stream: true };
const CONVERSE: Endpoint = Endpoint::Converse { stream: true };

fn limited(
    endpoint: Endpoint,
    provider: &str,
    body: &Json,
    tokens: u64,
) -> Result<Option<Json>, Unlimited> {
    let text = body.to_string();
    let mut document = Value::read(text.as_bytes(), 1 << 20).unwrap();
    let changed = limit(endpoint, provider, &mut document, tokens)?;
    let after: Json = serde_json::from_str(&document.written()).unwrap();
    if !changed {
        // An empty object says nothing.
        assert_eq!(after, *body);
    }
    Ok(changed.then_some(after))
}

#[test]
fn a_limit_is_made_lower_in_the_form_of_each() {
    let invoke = |form| Endpoint::Invoke {
        stream: false,
        form,
    };
    let both = json!({"max_tokens": 9, "max_completion_tokens": 200});
    for (endpoint, provider, body, after) in [
        (
            CHAT,
            "openai",
            json!({"max_tokens": 200}),
            json!({"max_tokens": 100}),
        ),
        (
            CHAT,
            "openai",
            both,
            json!({"max_tokens": 9, "max_completion_tokens": 100}),
        ),
        (
            CHAT,
            "openai",
            json!({}),
            json!({"max_completion_tokens": 100}),
        ),
        (
            CHAT,
            "azure_openai",
            json!({"max_tokens": null}),
            json!({"max_tokens": null, "max_completion_tokens": 100}),
        ),
        (CHAT, "mistral", json!({}), json!({"max_tokens": 100})),
        (
            CHAT,
            "lm_studio",
            json!({"max_tokens": -1}),
            json!({"max_tokens": 100}),
        ),
        (
            CHAT,
            "openai",
            json!({"n": 3, "max_completion_tokens": 34}),
            json!({"n": 3, "max_completion_tokens": 33}),
        ),
        (
            Endpoint::Completions,
            "vllm",
            json!({"prompt": ["a", "b"], "best_of": 2}),
            json!({"prompt": ["a", "b"], "best_of": 2, "max_tokens": 25}),
        ),
        (
            Endpoint::Completions,
            "openai",
            json!({"prompt": "a"}),
            json!({"prompt": "a", "max_tokens": 16}),
        ),
        (
            Endpoint::Responses,
            "openai",
            json!({"type": "response.create"}),
            json!({"type": "response.create", "max_output_tokens": 100}),
        ),
        (
            Endpoint::Messages,
            "anthropic",
            json!({"max_tokens": 64000, "fallbacks": [{"model": "m", "max_tokens": 101}]}),
            json!({"max_tokens": 100, "fallbacks": [{"model": "m", "max_tokens": 100}]}),
        ),
        (
            invoke(InvokeForm::Messages),
            "bedrock",
            json!({"max_tokens": 64000}),
            json!({"max_tokens": 100}),
        ),
        (
            invoke(InvokeForm::Chat),
            "bedrock",
            json!({}),
            json!({"max_tokens": 100}),
        ),
        (
            GEMINI,
            "gemini",
            json!({}),
            json!({"generationConfig": {"maxOutputTokens": 100}}),
        ),
        (
            GEMINI,
            "gemini",
            json!({"generation_config": {"max_output_tokens": 101, "candidate_count": 2}}),
            json!({"generation_config": {"max_output_tokens": 50, "candidate_count": 2}}),
        ),
        (
            GEMINI,
            "gemini",
            json!({"generation_config": {"thinkingConfig": {"thinking_budget": 8192}}}),
            json!({"generation_config": {"thinkingConfig": {"thinking_budget": 512},
                "maxOutputTokens": 100}}),
        ),
        (
            GEMINI,
            "gemini",
            json!({"generationConfig": null}),
            json!({"generationConfig": {"maxOutputTokens": 100}}),
        ),
        (
            Endpoint::OllamaChat,
            "ollama",
            json!({"options": {"num_predict": -2}}),
            json!({"options": {"num_predict": 100}}),
        ),
        (
            Endpoint::OllamaGenerate,
            "ollama",
            json!({}),
            json!({"options": {"num_predict": 100}}),
        ),
        (
            Endpoint::CohereChat,
            "cohere",
            json!({"thinking": {"type": "enabled", "token_budget": 900}}),
            json!({"thinking": {"type": "enabled", "token_budget": 100}, "max_tokens": 100}),
        ),
        (
            CONVERSE,
            "bedrock",
            json!({"additionalModelRequestFields": {"max_tokens": 7}}),
            json!({"additionalModelRequestFields": {"max_tokens": 7}, "inferenceConfig": {"maxTokens": 7}}),
        ),
        (
            CONVERSE,
            "bedrock",
            json!({"inferenceConfig": {"temperature": 0},
                "additionalModelRequestFields": {"max_tokens": 101}}),
            json!({"inferenceConfig": {"temperature": 0, "maxTokens": 100},
                "additionalModelRequestFields": {"max_tokens": 100}}),
        ),
    ] {
        let said = limited(endpoint, provider, &body, 100);
        assert_eq!(said, Ok(Some(after)), "{endpoint:?} {body}");
    }
}

#[test]
fn a_limit_that_is_low_enough_stays() {
    for (endpoint, body) in [
        (CHAT, json!({"max_tokens": 100})),
        (CHAT, json!({"max_completion_tokens": 1, "n": 100})),
        (Endpoint::Responses, json!({"max_output_tokens": 3})),
        // What thinks more than it may say is refused by its provider, and not here.
        (
            Endpoint::Messages,
            json!({"max_tokens": 99, "thinking": {"type": "enabled", "budget_tokens": 5000}}),
        ),
        (GEMINI, json!({"generationConfig": {"maxOutputTokens": 0}})),
        (
            Endpoint::OllamaChat,
            json!({"options": {"num_predict": 100}}),
        ),
        (CONVERSE, json!({"inferenceConfig": {"maxTokens": 100}})),
    ] {
        assert_eq!(limited(endpoint, "openai", &body, 100), Ok(None), "{body}");
    }
}

#[test]
fn what_is_thought_stays_below_the_limit() {
    let thinks = |max: u64, budget: u64| json!({"max_tokens": max, "thinking": {"type": "enabled", "budget_tokens": budget}});
    let said = limited(
        Endpoint::Messages,
        "anthropic",
        &thinks(64_000, 32_000),
        2_000,
    );
    assert_eq!(said, Ok(Some(thinks(2_000, 1_999))));
    let said = limited(
        Endpoint::Messages,
        "anthropic",
        &thinks(64_000, 1_024),
        2_000,
    );
    assert_eq!(said, Ok(Some(thinks(2_000, 1_024))));
    let least = Unlimited::Least {
        field: "thinking.budget_tokens",
        least: 1024,
        tokens: 1024,
    };
    let said = limited(
        Endpoint::Messages,
        "anthropic",
        &thinks(64_000, 1_024),
        1_024,
    );
    assert_eq!(said, Err(least.clone()));
    let passed = json!({"additionalModelRequestFields":
        {"thinking": {"type": "enabled", "budget_tokens": 4096}}});
    assert_eq!(limited(CONVERSE, "bedrock", &passed, 1_024), Err(least));
    let said = limited(CONVERSE, "bedrock", &passed, 4_096)
        .unwrap()
        .unwrap();
    let passed = &said["additionalModelRequestFields"]["thinking"];
    assert_eq!(passed["budget_tokens"], 4095);
    let routed = json!({"reasoning": {"max_tokens": 4096}});
    let said = limited(CHAT, "openrouter", &routed, 2_000).unwrap();
    let after = json!({"reasoning": {"max_tokens": 1999}, "max_tokens": 2000});
    assert_eq!(said, Some(after));
}

#[test]
fn who_cannot_be_limited_is_told_why() {
    for (endpoint, why) in [
        (Endpoint::Embeddings, Unlimited::NoLength),
        (Endpoint::EmbedContent, Unlimited::NoLength),
        (Endpoint::MessagesTokens, Unlimited::NoLength),
        (Endpoint::MessageBatches, Unlimited::Batch),
        (Endpoint::Batches, Unlimited::Batch),
        (Endpoint::Realtime, Unlimited::Session),
        (
            Endpoint::Predict { stream: false },
            NotUnderstood::Form.into(),
        ),
        (
            Endpoint::Invoke {
                stream: false,
                form: InvokeForm::Other,
            },
            NotUnderstood::Form.into(),
        ),
    ] {
        let said = limited(endpoint, "openai", &json!({"requests": []}), 100);
        assert_eq!(said, Err(why), "{endpoint:?}");
    }
    let least = Unlimited::Least {
        field: "max_output_tokens",
        least: 16,
        tokens: 15,
    };
    let said = limited(Endpoint::Responses, "openai", &json!({}), 15);
    assert_eq!(said, Err(least));
    assert!(limited(Endpoint::Responses, "vllm", &json!({}), 15).is_ok());
    let answers = Unlimited::Answers {
        answers: 8,
        tokens: 7,
    };
    assert_eq!(limited(CHAT, "openai", &json!({"n": 8}), 7), Err(answers));
    let none = limited(CHAT, "openai", &json!({}), 0);
    assert!(matches!(none, Err(Unlimited::Answers { .. })));
    let wrong = limited(CHAT, "openai", &json!({"max_tokens": "9"}), 100);
    let why = NotUnderstood::Wrong("max_tokens").into();
    assert_eq!(wrong, Err(why));
    let other = limited(CHAT, "openai", &json!({"Max_Tokens": 9}), 100);
    assert_eq!(other, Err(NotUnderstood::Case("max_tokens").into()));
}

fn body() -> impl Strategy<Value = Json> {
    let limit = || {
        prop_oneof![
            Just(Json::Null),
            (-2_i64..200).prop_map(|number| json!(number)),
            any::<u64>().prop_map(|number| json!(number))
        ]
    };
    let members = proptest::sample::subsequence(
        vec![
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "n",
            "options",
            "inferenceConfig",
            "generationConfig",
            "additionalModelRequestFields",
            "thinking",
        ],
        0..9,
    );
    (members, limit(), 0..4_u32).prop_map(|(members, limit, answers)| {
        let mut body = json!({});
        for member in members {
            body[member] = match member {
                "n" => json!(answers),
                "options" => json!({"num_predict": limit}),
                "inferenceConfig" => json!({"maxTokens": limit}),
                "generationConfig" => {
                    json!({"max_output_tokens": limit, "candidateCount": answers})
                }
                "additionalModelRequestFields" => json!({"max_tokens": limit}),
                "thinking" => json!({"type": "enabled", "budget_tokens": limit}),
                _ => limit.clone(),
            };
        }
        body
    })
}

proptest! {
    /// Whatever is asked for, the reader of calls then sees no more than there is; and never more than before.
    #[test]
    fn no_limit_is_ever_raised_or_passed(
        body in body(),
        which in 0..8_usize,
        tokens in 0..5000_u64,
    ) {
        let invoke = Endpoint::Invoke { stream: true, form: InvokeForm::Chat };
        let endpoint = [CHAT, Endpoint::Completions, Endpoint::Responses, Endpoint::Messages, GEMINI,
            Endpoint::OllamaChat, CONVERSE, invoke][which];
        let read = |body: &Json| {
            let mut reader = CallReader::new(endpoint);
            reader.push(body.to_string().as_bytes())?;
            reader.finish()
        };
        if let Ok(after) = limited(endpoint, "openai", &body, tokens) {
            let before = read(&body).unwrap();
            let after = read(&after.unwrap_or(body)).unwrap();
            let most = after.max_output_tokens.unwrap();
            let answers = u64::from(after.demand.answers.max(1));
            prop_assert!(most.saturating_mul(answers) <= tokens);
            prop_assert!(before.max_output_tokens.is_none_or(|before| most <= before));
            prop_assert_eq!(before.demand, after.demand);
        }
    }
}

#[test]
fn some_apis_take_no_limit() {
    use super::takes_none;
    assert!(takes_none("chatgpt.com", "/backend-api/codex/responses"));
    assert!(takes_none("api.openai.com", "/v1/responses/compact"));
    assert!(!takes_none("api.openai.com", "/v1/responses"));
    assert!(!takes_none("notchatgpt.com", "/v1/responses"));
}
