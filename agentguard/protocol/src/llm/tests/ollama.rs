//! Ollama's own API.

use super::*;

#[test]
fn its_own_calls_and_those_of_others() {
    for (path, endpoint) in [
        ("/api/chat", Some(Endpoint::OllamaChat)),
        ("/ollama/API%2Fchat/", Some(Endpoint::OllamaChat)),
        ("/api/generate", Some(Endpoint::OllamaGenerate)),
        ("/api/embed", Some(Endpoint::OllamaEmbed)),
        ("/api/embeddings", Some(Endpoint::OllamaEmbed)),
        ("/v1/embeddings", Some(Endpoint::Embeddings)),
        ("/v1/chat/completions", Some(Endpoint::ChatCompletions)),
        ("/v1/responses", Some(Endpoint::Responses)),
        ("/v1/messages", Some(Endpoint::Messages)),
        ("/api/pull", None),
        ("/api/tags", None),
        ("/chat", None),
    ] {
        let route = Route::of(LlmApi::Ollama, path);
        assert_eq!(route.map(|route| route.endpoint), endpoint, "{path}");
    }
    // Where a host is said to speak `OpenAI`'s form, it is one that is not read.
    let other = Route::of(LlmApi::Openai, "/api/chat").map(|it| it.endpoint);
    assert_eq!(other, Some(Endpoint::OtherForm));
}

#[test]
fn what_a_call_asks_for() {
    let chat = r#"{"model":"qwen3:8b","messages":[{"role":"user","content":"x"}],"think":true,
        "tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object"}}}],
        "options":{"num_ctx":8192,"num_predict":128,"stop":["x"]},"keep_alive":"5m"}"#;
    let read = Call {
        model: Some("qwen3:8b".to_owned()),
        stream: true,
        max_output_tokens: Some(128),
        tools: vec!["look".to_owned()],
        user: None,
        ..Call::default()
    };
    assert_eq!(call(Endpoint::OllamaChat, chat), Ok(read));
    for (body, stream, most) in [
        // A stream is what it answers with, if it is not told otherwise.
        (r#"{"model":"x"}"#, true, None),
        (r#"{"model":"x","stream":null}"#, true, None),
        (r#"{"model":"x","stream":false}"#, false, None),
        // As many as there are, and as many as fit.
        (r#"{"model":"x","options":{"num_predict":-1}}"#, true, None),
        (r#"{"model":"x","options":null}"#, true, None),
        (r#"{"model":"x","max_tokens":5}"#, true, None),
    ] {
        let read = call(Endpoint::OllamaGenerate, body).unwrap();
        assert_eq!(
            (read.stream, read.max_output_tokens),
            (stream, most),
            "{body}"
        );
    }
    assert!(
        !call(Endpoint::OllamaEmbed, r#"{"model":"x"}"#)
            .unwrap()
            .stream
    );
}

/// It is written in Go, whose JSON has names in any case, and letters for others.
#[test]
fn what_it_may_take_for_something_else_is_not_understood() {
    for (body, fault) in [
        (r#"{"Model":"x"}"#, NotUnderstood::Case("model")),
        ("{\"tool\u{17f}\":[]}", NotUnderstood::Case("tools")),
        ("{\"\u{17f}tream\":false}", NotUnderstood::Case("stream")),
        ("{\"option\u{17f}\":{}}", NotUnderstood::Case("options")),
        (
            r#"{"options":{"Num_Predict":5}}"#,
            NotUnderstood::Case("num_predict"),
        ),
        (
            r#"{"options":{"num_predict":"5"}}"#,
            NotUnderstood::Wrong("max_tokens"),
        ),
        (
            r#"{"options":{"num_predict":1.5}}"#,
            NotUnderstood::Wrong("max_tokens"),
        ),
        (r#"{"options":[]}"#, NotUnderstood::Wrong("options")),
        (r#"{"options":7}"#, NotUnderstood::Wrong("options")),
    ] {
        assert_eq!(
            call(Endpoint::OllamaChat, body).unwrap_err(),
            fault,
            "{body}"
        );
    }
    // Elsewhere `options` is nothing that is known.
    assert!(call(Endpoint::ChatCompletions, r#"{"options":7,"Options":1}"#).is_ok());
}

fn lines(endpoint: Endpoint, text: &str) -> LlmAnswer {
    let in_pieces = |size: usize| {
        let mut reader = AnswerReader::new(endpoint);
        for piece in text.as_bytes().chunks(size) {
            reader.lines(piece);
        }
        reader.finish()
    };
    let whole = in_pieces(usize::MAX);
    for size in [1, 2, 3, 5, 64] {
        assert_eq!(in_pieces(size), whole);
    }
    whole
}

#[test]
fn answers_whole_and_as_lines() {
    let told = LlmAnswer {
        model: Some("qwen3:8b".to_owned()),
        usage: usage(26, None, None, 83, None),
        tool_calls: vec![
            asked("get_weather", Some("call_1"), r#"{"city":"Ulm"}"#),
            asked("now", None, "{}"),
        ],
        finish_reason: Some("stop".to_owned()),
        ..LlmAnswer::default()
    };
    let calls = json!([
        { "id": "call_1", "function": { "index": 0, "name": "get_weather", "arguments": { "city": "Ulm" } } },
        { "function": { "name": "now", "arguments": {} } },
    ]);
    let end = |mut message: Value| {
        message["done"] = true.into();
        message["done_reason"] = "stop".into();
        message["total_duration"] = 4_883_583_458_u64.into();
        message["prompt_eval_count"] = 26.into();
        message["eval_count"] = 83.into();
        message
    };
    let message = |message: Value| json!({ "model": "qwen3:8b", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": false });
    let answer = end(message(
        json!({ "role": "assistant", "content": "", "tool_calls": calls }),
    ));
    assert_eq!(whole(Endpoint::OllamaChat, &answer), told);
    let parts = [
        message(json!({ "role": "assistant", "content": "", "thinking": "hm" })),
        message(json!({ "role": "assistant", "content": "", "tool_calls": [calls[0]] })),
        message(json!({ "role": "assistant", "content": "", "tool_calls": [calls[1]] })),
        end(message(json!({ "role": "assistant", "content": "" }))),
    ];
    let text: String = parts.iter().map(|part| format!("{part}\n")).collect();
    assert_eq!(lines(Endpoint::OllamaChat, &text), told);
    let others = text.replace('\n', "\r\n") + "\r\n\n";
    assert_eq!(lines(Endpoint::OllamaChat, &others), told);
    // The last line needs no end, and one that is cut is none.
    let text = text.trim_end();
    assert_eq!(lines(Endpoint::OllamaChat, text), told);
    let cut = lines(Endpoint::OllamaChat, &text[..text.len() - 1]);
    assert_eq!(cut.tool_calls, told.tool_calls);
    assert_eq!(cut.not_understood, None);

    let error = json!({ "error": "model 'x' not found" });
    assert_eq!(
        whole(Endpoint::OllamaChat, &error).error.unwrap(),
        "model 'x' not found"
    );
    let text = format!("{}\n{error}\n", parts[0]);
    let told = lines(Endpoint::OllamaChat, &text);
    assert_eq!(told.error.unwrap(), "model 'x' not found");
    let broken = lines(Endpoint::OllamaChat, "{\"model\":\n\"x\"}\n");
    assert!(
        broken
            .not_understood
            .unwrap()
            .contains("ends in the middle")
    );
    let embedded = json!({ "model": "e", "embeddings": [[0.1]], "prompt_eval_count": 8 });
    let embedded = whole(Endpoint::OllamaEmbed, &embedded).usage.unwrap();
    assert_eq!(
        (embedded.input_tokens, embedded.output_tokens),
        (Some(8), None)
    );
}
