//! Calls whose providers report what they have used, and what each costs.

use agentguard_tests::Guard;
use serde_json::{Value, json};

use super::{millionths, prices};

pub(crate) const CHAT: &str = "https://api.openai.com/v1/chat/completions";
const RESPONSES: &str = "https://api.openai.com/v1/responses";
const MESSAGES: &str = "https://api.anthropic.com/v1/messages";
pub(crate) const BATCHES: &str = "https://api.anthropic.com/v1/messages/batches";
const CONTENT: &str =
    "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent";

/// What makes an event stream of these events.
const EVENTS: &str = "text/event-stream";

pub(crate) const JSON: &str = "application/json";

/// What a call is charged with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) output: u64,
    pub(crate) reasoning: u64,
}

/// A call whose provider reports what it has used.
pub(crate) struct Case {
    pub(crate) url: &'static str,
    /// What is in the call beside a message and a limit.
    pub(crate) asks: Value,
    /// What the call is answered.
    pub(crate) answer: (&'static str, String),
    /// The model that it names.
    pub(crate) model: &'static str,
    /// And by which name that has a price; none, where it has none.
    pub(crate) priced: Option<&'static str>,
    /// What it is charged with of tokens.
    pub(crate) used: Used,
    /// How many tokens cost what, by the names of prices.
    pub(crate) costs: &'static [(u64, &'static str)],
    /// And by what all of it is multiplied.
    pub(crate) factors: &'static [&'static str],
}

impl Case {
    /// The whole call.
    pub(crate) fn asked(&self) -> Value {
        let said = "Count to one.";
        let mut asked = match self.url {
            RESPONSES => json!({ "input": said, "max_output_tokens": 400 }),
            CONTENT => json!({
                "contents": [{ "role": "user", "parts": [{ "text": said }] }],
                "generationConfig": { "maxOutputTokens": 400 },
            }),
            _ => json!({ "messages": [{ "role": "user", "content": said }], "max_tokens": 400 }),
        };
        let fields = asked.as_object_mut().unwrap();
        if self.url != CONTENT {
            fields.insert("model".to_owned(), json!(self.model));
        }
        fields.extend(self.asks.as_object().unwrap().clone());
        asked
    }

    /// Its provider, by the name that it has in policies.
    fn provider(&self) -> &'static str {
        match self.url {
            CHAT | RESPONSES => "openai",
            CONTENT => "gemini",
            _ => "anthropic",
        }
    }

    /// What it costs, by hand: in millionths of a dollar, rounded up.
    pub(crate) fn cost(&self, guard: &Guard<'_>) -> u64 {
        let prices = prices(guard, self.provider(), self.model);
        // Where input is long, all of it has the prices of that.
        let long = prices["long"].as_array().into_iter().flatten();
        let mut long = long.filter(|it| it["above"].as_u64().unwrap() < self.used.input);
        let parts = long.next_back().unwrap_or(&prices);
        let costs = self.costs.iter();
        let sum: u128 = costs
            .map(|&(tokens, name)| u128::from(tokens) * millionths(&parts[name]))
            .sum();
        let factors = self.factors.iter().map(|name| millionths(&prices[*name]));
        let (sum, scale) = factors.fold((sum, 1_000_000), |(sum, scale), factor| {
            (sum * factor, scale * 1_000_000)
        });
        sum.div_ceil(scale).try_into().unwrap()
    }
}

/// Calls of several providers, models, tiers and regions.
pub(crate) fn cases() -> Vec<Case> {
    let plain = |it: Value| (JSON, it.to_string());
    let chat = |read: u64, cached: u64, written: u64| {
        let details = json!({ "cached_tokens": cached });
        plain(completion(&json!({
            "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
            "prompt_tokens_details": details, "completion_tokens_details": { "reasoning_tokens": 0 },
        })))
    };
    let cached = |ttl: Option<&str>| {
        let mut control = json!({ "type": "ephemeral" });
        if let Some(ttl) = ttl {
            control["ttl"] = json!(ttl);
        }
        json!({ "system": [{ "type": "text", "text": "Be brief.", "cache_control": control }] })
    };
    let caches = |input: u64, written: u64, read: u64, output: u64| {
        json!({
            "input_tokens": input, "cache_creation_input_tokens": written, "cache_read_input_tokens": read,
            "output_tokens": output,
        })
    };
    let claude = |asks: Value, usage: &Value| (asks, plain(message(usage)));
    let (minutes, kept) = claude(cached(None), &caches(100, 2_000, 5_000, 300));
    let (hour, kept_longer) = claude(cached(Some("1h")), &caches(100, 2_000, 5_000, 300));
    let (fast, fast_answer) = claude(json!({ "speed": "fast" }), &caches(1_000, 0, 500, 100));
    let mut there = caches(1_000, 0, 500, 100);
    there["inference_geo"] = json!("us");
    let (regional, regional_answer) =
        claude(json!({ "speed": "fast", "inference_geo": "us" }), &there);
    vec![
        Case {
            url: CHAT,
            asks: json!({}),
            answer: chat(1_000, 600, 200),
            model: "gpt-4o",
            priced: Some("gpt-4o"),
            used: Used {
                input: 1_000,
                cached: 600,
                output: 200,
                reasoning: 0,
            },
            costs: &[(400, "input"), (600, "cache_read"), (200, "output")],
            factors: &[],
        },
        // Less than a millionth of a dollar is one.
        Case {
            url: CHAT,
            asks: json!({}),
            answer: chat(7, 0, 3),
            model: "gpt-4o-mini-2024-07-18",
            priced: Some("gpt-4o-mini"),
            used: Used {
                input: 7,
                cached: 0,
                output: 3,
                reasoning: 0,
            },
            costs: &[(7, "input"), (3, "output")],
            factors: &[],
        },
        Case {
            url: CHAT,
            asks: json!({ "service_tier": "priority" }),
            answer: chat(1_001, 601, 203),
            model: "gpt-4o-2024-08-06",
            priced: Some("gpt-4o"),
            used: Used {
                input: 1_001,
                cached: 601,
                output: 203,
                reasoning: 0,
            },
            costs: &[(400, "input"), (601, "cache_read"), (203, "output")],
            factors: &["priority"],
        },
        // One that nobody knows is the dearest of the model.
        Case {
            url: CHAT,
            asks: json!({ "service_tier": "scale" }),
            answer: chat(1_000, 0, 200),
            model: "gpt-4o",
            priced: Some("gpt-4o"),
            used: Used {
                input: 1_000,
                cached: 0,
                output: 200,
                reasoning: 0,
            },
            costs: &[(1_000, "input"), (200, "output")],
            factors: &["priority"],
        },
        Case {
            url: RESPONSES,
            asks: json!({ "service_tier": "flex", "stream": true }),
            answer: (
                EVENTS,
                events(&[
                    json!({ "type": "response.created", "response": { "id": "resp_1", "model": "gpt-5-mini" } }),
                    json!({ "type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": "one" }),
                    json!({ "type": "response.completed", "response": {
                        "id": "resp_1", "object": "response", "model": "gpt-5-mini", "status": "completed",
                        "usage": {
                            "input_tokens": 3_000, "input_tokens_details": { "cached_tokens": 2_048 },
                            "output_tokens": 900, "output_tokens_details": { "reasoning_tokens": 640 },
                            "total_tokens": 3_900,
                        },
                    } }),
                ]),
            ),
            model: "gpt-5-mini",
            priced: Some("gpt-5-mini"),
            used: Used {
                input: 3_000,
                cached: 2_048,
                output: 900,
                reasoning: 640,
            },
            costs: &[(952, "input"), (2_048, "cache_read"), (900, "output")],
            factors: &["flex"],
        },
        Case {
            url: MESSAGES,
            asks: minutes,
            answer: kept,
            model: "claude-sonnet-4-5-20250929",
            priced: Some("claude-sonnet-4-5"),
            used: Used {
                input: 7_100,
                cached: 5_000,
                output: 300,
                reasoning: 0,
            },
            costs: &[
                (100, "input"),
                (5_000, "cache_read"),
                (2_000, "cache_write"),
                (300, "output"),
            ],
            factors: &[],
        },
        Case {
            url: MESSAGES,
            asks: hour,
            answer: kept_longer,
            model: "claude-sonnet-4-5",
            priced: Some("claude-sonnet-4-5"),
            used: Used {
                input: 7_100,
                cached: 5_000,
                output: 300,
                reasoning: 0,
            },
            costs: &[
                (100, "input"),
                (5_000, "cache_read"),
                (2_000, "cache_write_long"),
                (300, "output"),
            ],
            factors: &[],
        },
        // Of long input all is dearer; a stream tells what it read as it begins, and the rest in its end.
        Case {
            url: MESSAGES,
            asks: json!({ "stream": true, "thinking": { "type": "enabled", "budget_tokens": 1_024 }, "max_tokens": 2_000 }),
            answer: (
                EVENTS,
                events(&[
                    json!({ "type": "message_start", "message": message(&caches(1_000, 0, 250_000, 1)) }),
                    json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
                    json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "one" } }),
                    json!({ "type": "content_block_stop", "index": 0 }),
                    json!({
                        "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null },
                        "usage": { "output_tokens": 1_200, "output_tokens_details": { "thinking_tokens": 1_024 } },
                    }),
                    json!({ "type": "message_stop" }),
                ]),
            ),
            model: "claude-sonnet-4-5",
            priced: Some("claude-sonnet-4-5"),
            used: Used {
                input: 251_000,
                cached: 250_000,
                output: 1_200,
                reasoning: 1_024,
            },
            costs: &[(1_000, "input"), (250_000, "cache_read"), (1_200, "output")],
            factors: &[],
        },
        Case {
            url: MESSAGES,
            asks: fast,
            answer: fast_answer,
            model: "claude-opus-4-6",
            priced: Some("claude-opus-4-6"),
            used: Used {
                input: 1_500,
                cached: 500,
                output: 100,
                reasoning: 0,
            },
            costs: &[(1_000, "input"), (500, "cache_read"), (100, "output")],
            factors: &["priority"],
        },
        Case {
            url: MESSAGES,
            asks: regional,
            answer: regional_answer,
            model: "claude-opus-4-6",
            priced: Some("claude-opus-4-6"),
            used: Used {
                input: 1_500,
                cached: 500,
                output: 100,
                reasoning: 0,
            },
            costs: &[(1_000, "input"), (500, "cache_read"), (100, "output")],
            factors: &["priority", "regional"],
        },
        // What it thinks is output, beside what it says.
        Case {
            url: CONTENT,
            asks: json!({ "serviceTier": "flex" }),
            answer: plain(json!({
                "candidates": [{ "content": { "role": "model", "parts": [{ "text": "one" }] }, "finishReason": "STOP" }],
                "usageMetadata": {
                    "promptTokenCount": 1_000, "cachedContentTokenCount": 400, "candidatesTokenCount": 50,
                    "thoughtsTokenCount": 150, "totalTokenCount": 1_200,
                },
                "modelVersion": "gemini-2.5-flash",
            })),
            model: "gemini-2.5-flash",
            priced: Some("gemini-2.5-flash"),
            used: Used {
                input: 1_000,
                cached: 400,
                output: 200,
                reasoning: 150,
            },
            costs: &[(600, "input"), (400, "cache_read"), (200, "output")],
            factors: &["flex"],
        },
        Case {
            url: CHAT,
            asks: json!({}),
            answer: chat(100, 40, 5),
            model: "house-llm",
            priced: None,
            used: Used {
                input: 100,
                cached: 40,
                output: 5,
                reasoning: 0,
            },
            costs: &[(60, "input"), (40, "cache_read"), (5, "output")],
            factors: &[],
        },
    ]
}

/// An event stream of these events, each with the name that it has for itself.
fn events(events: &[Value]) -> String {
    let event = |it: &Value| match it["type"].as_str() {
        Some(name) => format!("event: {name}\ndata: {it}\n\n"),
        None => format!("data: {it}\n\n"),
    };
    events.iter().map(event).collect()
}

/// A message of Anthropic's with this usage.
fn message(usage: &Value) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
        "content": [{ "type": "text", "text": "one" }], "usage": usage,
    })
}

/// An answer of Chat Completions' with this usage.
pub(crate) fn completion(usage: &Value) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "one" }, "finish_reason": "stop" }],
        "usage": usage,
    })
}
