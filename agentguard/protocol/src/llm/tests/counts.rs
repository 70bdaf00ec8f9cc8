//! Numbers of tokens that are none, and those behind which nothing more is told.

use super::*;

/// An event that tells of so many tokens of output.
type Event<'a> = &'a dyn Fn(Value) -> Value;

/// What is told of input and output.
fn told(answer: &LlmAnswer) -> (Option<u64>, Option<u64>) {
    let usage = answer.usage.unwrap_or_default();
    (usage.input_tokens, usage.output_tokens)
}

#[test]
fn what_is_no_number_of_tokens_leaves_none_that_was_told_before() {
    let chat = |tokens: Value| json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": tokens } });
    let responses = |tokens: Value| {
        json!({ "type": "response.completed", "response": { "status": "completed",
            "usage": { "input_tokens": 9, "output_tokens": tokens } } })
    };
    let messages = |tokens: Value| json!({ "type": "message_delta", "usage": { "input_tokens": 9, "output_tokens": tokens } });
    let cohere = |tokens: Value| json!({ "type": "message-end", "delta": { "usage": { "tokens": { "input_tokens": 9, "output_tokens": tokens } } } });
    let gemini = |tokens: Value| {
        json!({ "candidates": [], "usageMetadata": { "promptTokenCount": 9, "thoughtsTokenCount": 4,
            "candidatesTokenCount": tokens } })
    };
    let forms: [(Endpoint, Event<'_>, u64); 5] = [
        (Endpoint::ChatCompletions, &chat, 7),
        (Endpoint::Responses, &responses, 7),
        (Endpoint::Messages, &messages, 7),
        (Endpoint::CohereChat, &cohere, 7),
        (Endpoint::GenerateContent { stream: true }, &gemini, 11),
    ];
    for (endpoint, event, sum) in forms {
        for odd in [json!(-5), json!(2.5), json!(1e300)] {
            let none = stream(endpoint, &[event(json!(7)), event(odd.clone())]);
            assert_eq!(told(&none), (Some(9), None), "{endpoint:?} {odd}");
        }
        // The last word counts, also where there was none before.
        let some = stream(endpoint, &[event(json!(-5)), event(json!(7))]);
        assert_eq!(told(&some), (Some(9), Some(sum)), "{endpoint:?}");
    }
    let ollama = json!({ "done": true, "prompt_eval_count": 9, "eval_count": -5 });
    assert_eq!(told(&whole(Endpoint::OllamaChat, &ollama)), (Some(9), None));
}

/// What was read has parts, of which none can be left out.
#[test]
fn nothing_is_known_of_what_has_a_part_that_is_none() {
    let counts = |written: Value| {
        json!({ "type": "message", "stop_reason": "end_turn", "usage": { "input_tokens": 10,
            "cache_creation_input_tokens": written, "cache_read_input_tokens": 1, "output_tokens": 20 } })
    };
    let of = |written| told(&whole(Endpoint::Messages, &counts(written)));
    assert_eq!(of(json!(100)), (Some(111), Some(20)));
    assert_eq!(of(json!(-100)), (None, Some(20)));
    let gemini = |total: i64| {
        let usage =
            json!({ "promptTokenCount": 10, "candidatesTokenCount": 12, "totalTokenCount": total });
        let answer = json!({ "candidates": [], "usageMetadata": usage });
        told(&whole(Endpoint::GenerateContent { stream: false }, &answer))
    };
    assert_eq!(gemini(25), (Some(10), Some(15)));
    // What is no total, and what is less than a part of it.
    assert_eq!(gemini(-25), (Some(10), Some(12)));
    assert_eq!(gemini(3), (Some(10), Some(12)));
}

/// A stream of Anthropic's tells as it begins how much its first words are.
#[test]
fn what_is_told_as_a_stream_begins_is_not_what_it_was_in_the_end() {
    let usage = json!({ "input_tokens": 10, "output_tokens": 1 });
    let begins = json!({ "type": "message_start", "message": { "type": "message", "content": [], "usage": usage } });
    let ends = |usage: Value| {
        let mut event = json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" } });
        if !usage.is_null() {
            event["usage"] = usage;
        }
        event
    };
    for (usage, output) in [
        (json!({ "output_tokens": 20 }), Some(20)),
        (Value::Null, None),
        (json!({}), None),
        (json!({ "output_tokens": -5 }), None),
    ] {
        let events = [begins.clone(), ends(usage.clone())];
        let answer = stream(Endpoint::Messages, &events);
        assert_eq!(told(&answer), (Some(10), output), "{usage}");
    }
    // It has no end.
    let cut = stream(Endpoint::Messages, &[begins]);
    assert_eq!(told(&cut), (Some(10), Some(1)));
}
