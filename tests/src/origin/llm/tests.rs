use http::Method;
use serde_json::json;

use super::*;

fn ask(api: Api, fields: &[(&'static str, &str)], body: &Value) -> Answer {
    let fields = fields
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    api.answer(
        &Uri::from_static("/"),
        &fields.collect(),
        body.to_string().as_bytes(),
    )
}

const OPENAI: &[(&str, &str)] = &[("authorization", "Bearer key")];
const ANTHROPIC: &[(&str, &str)] = &[("x-api-key", "key"), ("anthropic-version", "2023-06-01")];

fn plain(api: Api, body: &Value) -> Value {
    let fields = if api == Api::Messages {
        ANTHROPIC
    } else {
        OPENAI
    };
    match ask(api, fields, body) {
        Answer {
            status: StatusCode::OK,
            content: Content::Json(value),
            ..
        } => value,
        other => panic!("{other:?}"),
    }
}

/// The events of a stream: names, where they have some, and data.
fn stream(api: Api, body: &Value) -> Vec<(String, Value)> {
    let fields = if api == Api::Messages {
        ANTHROPIC
    } else {
        OPENAI
    };
    let Content::Events(events) = ask(api, fields, body).content else {
        panic!("no events");
    };
    let read = |event: &Bytes| {
        let event = str::from_utf8(event).unwrap().strip_suffix("\n\n").unwrap();
        let (name, data) = match event.split_once('\n') {
            Some((name, data)) => (name.strip_prefix("event: ").unwrap(), data),
            None => ("", event),
        };
        let data = data.strip_prefix("data: ").unwrap();
        let data = serde_json::from_str(data).unwrap_or_else(|_| data.into());
        (name.to_owned(), data)
    };
    events.iter().map(read).collect()
}

fn conversation(model: &str, stream: bool) -> Value {
    json!({
        "model": model,
        "stream": stream,
        "max_tokens": 3,
        "messages": [
            { "role": "user", "content": "before" },
            { "role": "assistant", "content": "before" },
            { "role": "user", "content": [{ "type": "text", "text": "one two three" }] },
        ],
    })
}

#[test]
fn a_chat_completion_says_what_the_user_said_last() {
    let whole = plain(Api::ChatCompletions, &conversation("gpt-5-mini", false));
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["content"], "one two three");
    assert_eq!(choice["finish_reason"], "stop");
    let usage = &whole["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["total_tokens"]),
        (&json!(5), &json!(8))
    );

    let mut asked = conversation("gpt-5-mini", true);
    let events = stream(Api::ChatCompletions, &asked);
    assert!(
        events
            .iter()
            .all(|(name, data)| name.is_empty() && data.get("usage").is_none())
    );
    let deltas: Vec<_> = events
        .iter()
        .map(|(_, data)| &data["choices"][0]["delta"])
        .collect();
    assert_eq!(deltas[0]["role"], "assistant");
    let contents = deltas[1..4].iter().map(|delta| &delta["content"]);
    assert_eq!(contents.collect::<Vec<_>>(), ["one ", "two ", "three"]);
    assert_eq!(events[4].1["choices"][0]["finish_reason"], "stop");
    assert_eq!((events.len(), &events[5].1), (6, &json!("[DONE]")));

    asked["stream_options"] = json!({ "include_usage": true });
    asked["max_tokens"] = json!(2);
    let events = stream(Api::ChatCompletions, &asked);
    assert_eq!(events[3].1["choices"][0]["finish_reason"], "length");
    assert_eq!(
        (&events[3].1["usage"], &events[4].1["choices"]),
        (&json!(null), &json!([]))
    );
    assert_eq!(events[4].1["usage"]["completion_tokens"], 2);
}

#[test]
fn a_response_ends_with_the_whole_of_it() {
    let input = json!([{ "role": "user", "content": [{ "type": "input_text", "text": "a b" }] }]);
    for (input, limit, end) in [
        (json!("a b"), json!(null), "completed"),
        (input, json!(1), "incomplete"),
    ] {
        let mut asked =
            json!({ "model": "gpt-5-mini", "input": input, "max_output_tokens": limit });
        let whole = plain(Api::Responses, &asked);
        assert_eq!(whole["status"], end);
        asked["stream"] = json!(true);
        let events = stream(Api::Responses, &asked);
        for (number, (name, data)) in events.iter().enumerate() {
            assert_eq!(
                (&data["type"], &data["sequence_number"]),
                (&json!(name), &json!(number))
            );
        }
        let words = whole["usage"]["output_tokens"].as_u64().unwrap();
        let mut expected = vec![
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
        ];
        expected.extend((0..words).map(|_| "output_text.delta"));
        expected.extend([
            "output_text.done",
            "content_part.done",
            "output_item.done",
            end,
        ]);
        let expected = expected.iter().map(|name| format!("response.{name}"));
        assert!(
            expected.eq(events.iter().map(|(name, _)| name.clone())),
            "{events:?}"
        );
        assert_eq!(events.last().unwrap().1["response"], whole);
    }
}

#[test]
fn a_message_streams_between_its_start_and_its_stop() {
    let whole = plain(Api::Messages, &conversation("claude-haiku-4-5", false));
    assert_eq!(
        whole["content"],
        json!([{ "type": "text", "text": "one two three" }])
    );
    assert_eq!(whole["stop_reason"], "end_turn");

    let mut asked = conversation("claude-haiku-4-5", true);
    asked["max_tokens"] = json!(2);
    let events = stream(Api::Messages, &asked);
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert!(events.iter().all(|(name, data)| data["type"] == *name));
    assert_eq!(events[0].1["message"]["usage"]["output_tokens"], 1);
    assert_eq!(events[6].1["delta"]["stop_reason"], "max_tokens");
    assert_eq!(events[6].1["usage"]["output_tokens"], 2);
}

#[test]
fn an_embedding_is_the_same_in_either_form() {
    let mut asked = json!({ "model": "text-embedding-3-small", "input": ["a b", "c"] });
    let floats = plain(Api::Embeddings, &asked);
    assert_eq!(floats["data"][0]["embedding"], json!([3.0, 2.0, 0.5]));
    assert_eq!(floats["usage"]["total_tokens"], 3);
    asked["encoding_format"] = json!("base64");
    let encoded = plain(Api::Embeddings, &asked);
    assert_eq!(encoded["data"][0]["embedding"], "AABAQAAAAEAAAAA/");
}

#[test]
fn each_provider_refuses_in_its_own_shape() {
    let chat = conversation("gpt-5-mini", false);
    let message = conversation("claude-haiku-4-5", false);
    let mut endless = message.clone();
    endless["max_tokens"] = json!(null);
    let unnamed = json!({ "messages": [] });
    let cases: [(Api, &[_], &Value, u16, &str, Value); 8] = [
        (
            Api::Models,
            &[],
            &chat,
            401,
            "/error/type",
            json!("invalid_request_error"),
        ),
        (
            Api::ChatCompletions,
            &[],
            &chat,
            401,
            "/error/code",
            json!(null),
        ),
        (
            Api::ChatCompletions,
            OPENAI,
            &message,
            404,
            "/error/code",
            json!("model_not_found"),
        ),
        (
            Api::ChatCompletions,
            OPENAI,
            &unnamed,
            400,
            "/error/param",
            json!("model"),
        ),
        (
            Api::Responses,
            OPENAI,
            &chat,
            400,
            "/error/param",
            json!("input"),
        ),
        (
            Api::Messages,
            &ANTHROPIC[1..],
            &message,
            401,
            "/error/type",
            json!("authentication_error"),
        ),
        (
            Api::Messages,
            ANTHROPIC,
            &chat,
            404,
            "/error/type",
            json!("not_found_error"),
        ),
        (
            Api::Messages,
            ANTHROPIC,
            &endless,
            400,
            "/error/message",
            json!("max_tokens: Field required"),
        ),
    ];
    for (api, fields, body, status, place, expected) in cases {
        let answer = ask(api, fields, body);
        assert_eq!(answer.status, status, "{answer:?}");
        let Content::Json(told) = answer.content else {
            panic!("events");
        };
        assert_eq!(told.pointer(place), Some(&expected), "{told}");
    }
}

#[test]
fn only_an_endpoint_s_own_method_and_path_are_its() {
    assert_eq!(Api::of(&Method::POST, "/v1/messages"), Some(Api::Messages));
    assert_eq!(Api::of(&Method::GET, "/v1/messages"), None);
    assert_eq!(Api::of(&Method::POST, "/v1/messages/batches"), None);
}
