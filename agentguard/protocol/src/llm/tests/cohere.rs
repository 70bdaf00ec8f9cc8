//! Cohere's Chat and Embed, versions 1 and 2.

use super::*;

#[test]
fn calls_are_known_by_their_path() {
    for (path, endpoint) in [
        ("/v2/chat", Some(Endpoint::CohereChat)),
        ("/V2%2Fchat/", Some(Endpoint::CohereChat)),
        ("/v1/chat", Some(Endpoint::CohereChat)),
        ("/v1/generate", Some(Endpoint::CohereGenerate)),
        ("/v2/embed", Some(Endpoint::CohereEmbed)),
        (
            "/compatibility/v1/chat/completions",
            Some(Endpoint::ChatCompletions),
        ),
        ("/compatibility/v1/embeddings", Some(Endpoint::Embeddings)),
        ("/v2/rerank", None),
        ("/v1/tokenize", None),
        ("/chat", None),
    ] {
        let route = Route::of(LlmApi::Cohere, path);
        assert_eq!(route.map(|route| route.endpoint), endpoint, "{path}");
    }
}

#[test]
fn what_a_call_asks_for() {
    let chat = r#"{"model":"command-a-03-2025","stream":true,"max_tokens":300,"messages":[{"role":"user","content":"x"}],
        "tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object"}}}],"strict_tools":true}"#;
    let read = Call {
        model: Some("command-a-03-2025".to_owned()),
        stream: true,
        max_output_tokens: Some(300),
        tools: vec!["look".to_owned()],
        user: None,
        ..Call::default()
    };
    assert_eq!(call(Endpoint::CohereChat, chat), Ok(read));
    let first = r#"{"message":"x","tools":[{"name":"look","description":"d","parameter_definitions":{"name":{"type":"str"}}}],
        "connectors":[{"id":"web-search","options":{"site":"x"}}]}"#;
    let read = call(Endpoint::CohereChat, first).unwrap();
    assert_eq!(read.tools, ["look", "web-search"]);
    assert_eq!((read.model, read.max_output_tokens), (None, None));
    for (body, fault) in [
        (r#"{"Connectors":[]}"#, NotUnderstood::Case("connectors")),
        (r#"{"connectors":{}}"#, NotUnderstood::Wrong("connectors")),
        (r#"{"connectors":[{}]}"#, NotUnderstood::Wrong("connectors")),
        (
            r#"{"connectors":["x"]}"#,
            NotUnderstood::Wrong("connectors"),
        ),
        (
            r#"{"connectors":[{"id":"a","ID":"b"}]}"#,
            NotUnderstood::Case("id"),
        ),
        (
            r#"{"connectors":[{"id":1}]}"#,
            NotUnderstood::Wrong("connectors"),
        ),
    ] {
        assert_eq!(
            call(Endpoint::CohereChat, body).unwrap_err(),
            fault,
            "{body}"
        );
    }
    assert!(call(Endpoint::ChatCompletions, r#"{"connectors":7}"#).is_ok());
}

#[test]
fn answers_whole_and_as_events() {
    let counted = json!({ "billed_units": { "input_tokens": 20.0, "output_tokens": 11 },
        "tokens": { "input_tokens": 100.0, "output_tokens": 25 }, "cached_tokens": 64 });
    let told = LlmAnswer {
        usage: usage(100, Some(64), None, 25, None),
        tool_calls: vec![
            asked("get_weather", Some("get_weather_1"), r#"{"city":"Ulm"}"#),
            asked("now", Some("now_1"), "{}"),
        ],
        finish_reason: Some("TOOL_CALL".to_owned()),
        ..LlmAnswer::default()
    };
    let tool = |id: &str, name: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
    let message = json!({ "role": "assistant", "tool_plan": "I will look.",
        "tool_calls": [tool("get_weather_1", "get_weather", r#"{"city":"Ulm"}"#), tool("now_1", "now", "{}")] });
    let answer =
        json!({ "id": "c", "message": message, "finish_reason": "TOOL_CALL", "usage": counted });
    assert_eq!(whole(Endpoint::CohereChat, &answer), told);

    let start = |index: u64, tool: Value| json!({ "type": "tool-call-start", "index": index, "delta": { "message": { "tool_calls": tool } } });
    let delta = |index: u64, arguments: &str| json!({ "type": "tool-call-delta", "index": index, "delta": { "message": { "tool_calls": { "function": { "arguments": arguments } } } } });
    let end = |index: u64| json!({ "type": "tool-call-end", "index": index });
    let events = [
        json!({ "type": "message-start", "id": "c", "delta": { "message": { "role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": [] } } }),
        json!({ "type": "tool-plan-delta", "delta": { "message": { "tool_plan": "I will look." } } }),
        start(0, tool("get_weather_1", "get_weather", "")),
        delta(0, "{\"city\":"),
        delta(0, "\"Ulm\"}"),
        end(0),
        start(1, tool("now_1", "now", "")),
        end(1),
        json!({ "type": "message-end", "delta": { "finish_reason": "TOOL_CALL", "usage": counted } }),
        json!("[DONE]"),
    ];
    assert_eq!(stream(Endpoint::CohereChat, &events), told);
    let cut = stream(Endpoint::CohereChat, &events[..4]);
    assert_eq!(cut.tool_calls[0].name, "get_weather");
    assert_eq!(cut.tool_calls[0].arguments, None);
    let failed = json!({ "type": "message-end", "delta": { "finish_reason": "ERROR", "error": "Overloaded." } });
    assert_eq!(
        stream(Endpoint::CohereChat, &[failed]).error.unwrap(),
        "Overloaded."
    );
    let error = json!({ "id": "x", "message": "model 'x' not found" });
    assert_eq!(
        whole(Endpoint::CohereChat, &error).error.unwrap(),
        "model 'x' not found"
    );
}

#[test]
fn version_1_and_vectors() {
    let calls = json!([{ "name": "look", "parameters": { "a": 1, "name": "x" } }]);
    let meta = json!({ "api_version": { "version": "1" }, "billed_units": { "input_tokens": 5, "output_tokens": 7 },
        "tokens": { "input_tokens": 50, "output_tokens": 9 } });
    let told = LlmAnswer {
        usage: usage(50, None, None, 9, None),
        tool_calls: vec![asked("look", None, r#"{"a":1,"name":"x"}"#)],
        finish_reason: Some("COMPLETE".to_owned()),
        ..LlmAnswer::default()
    };
    let answer =
        json!({ "text": "", "tool_calls": calls, "finish_reason": "COMPLETE", "meta": meta });
    assert_eq!(whole(Endpoint::CohereChat, &answer), told);
    let events = [
        json!({ "is_finished": false, "event_type": "stream-start", "generation_id": "g" }),
        json!({ "is_finished": false, "event_type": "tool-calls-generation", "tool_calls": calls }),
        json!({ "is_finished": true, "event_type": "stream-end", "finish_reason": "COMPLETE",
            "response": { "text": "", "tool_calls": calls, "finish_reason": "COMPLETE", "meta": meta } }),
    ];
    assert_eq!(stream(Endpoint::CohereChat, &events), told);
    let embedded = json!({ "id": "e", "embeddings": { "float": [[0.1]] }, "texts": ["x"],
        "meta": { "billed_units": { "input_tokens": 3 } } });
    let embedded = whole(Endpoint::CohereEmbed, &embedded).usage.unwrap();
    assert_eq!(
        (embedded.input_tokens, embedded.output_tokens),
        (Some(3), None)
    );
}
