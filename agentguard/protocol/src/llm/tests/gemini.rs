//! Gemini's `generateContent` in the Gemini API and in Vertex AI.

use super::*;
use crate::llm::Retrieved;

const WHOLE: Endpoint = Endpoint::GenerateContent { stream: false };
const STREAM: Endpoint = Endpoint::GenerateContent { stream: true };

#[test]
fn calls_and_models_are_known_by_their_path() {
    let google = "/v1/projects/p/locations/us-central1/publishers";
    for (path, endpoint, model) in [
        (
            "/v1beta/models/gemini-2.5-pro:generateContent".to_owned(),
            Some(WHOLE),
            Some("gemini-2.5-pro"),
        ),
        (
            "/v1beta/models/gemini-2.5-pro%3AstreamGenerateContent".to_owned(),
            Some(STREAM),
            Some("gemini-2.5-pro"),
        ),
        (
            "/V1beta/Models%2FGemini-x%3AGenerateContent/".to_owned(),
            Some(WHOLE),
            Some("Gemini-x"),
        ),
        (
            "/v1beta/tunedModels/mine:generateContent".to_owned(),
            Some(WHOLE),
            Some("tunedModels/mine"),
        ),
        (
            "/v1beta/models/text-embedding-004:batchEmbedContents".to_owned(),
            Some(Endpoint::EmbedContent),
            Some("text-embedding-004"),
        ),
        (
            "/v1beta/models/gemini-x:countTokens".to_owned(),
            Some(Endpoint::ContentTokens),
            Some("gemini-x"),
        ),
        (
            format!("{google}/google/models/gemini-x:generateContent"),
            Some(WHOLE),
            Some("gemini-x"),
        ),
        (
            format!("{google}/meta/models/llama-x:generateContent"),
            Some(WHOLE),
            Some("meta/llama-x"),
        ),
        (
            format!("{google}/google/models/text-embedding-005:predict"),
            Some(Endpoint::EmbedContent),
            Some("text-embedding-005"),
        ),
        (
            format!("{google}/google/models/imagen-4:predict"),
            None,
            None,
        ),
        (
            format!("{google}/anthropic/models/claude-x@20250101:streamRawPredict"),
            Some(Endpoint::PredictMessages { stream: true }),
            Some("claude-x@20250101"),
        ),
        (
            format!("{google}/anthropic/models/count-tokens:rawPredict"),
            Some(Endpoint::MessagesTokens),
            None,
        ),
        (
            format!("{google}/mistralai/models/mistral-x:rawPredict"),
            Some(Endpoint::Predict { stream: false }),
            Some("mistralai/mistral-x"),
        ),
        (
            "/v1/projects/p/locations/l/endpoints/77:directRawPredict".to_owned(),
            Some(Endpoint::Predict { stream: false }),
            Some("endpoints/77"),
        ),
        (
            "/v1/projects/p/locations/l/endpoints/77:streamGenerateContent".to_owned(),
            Some(STREAM),
            Some("endpoints/77"),
        ),
        (
            "/v1/projects/p/locations/l/endpoints/openapi/chat/completions".to_owned(),
            Some(Endpoint::ChatCompletions),
            None,
        ),
        // What is deployed there is called, whatever the content says.
        (
            "/v1/projects/p/locations/l/endpoints/77/chat/completions".to_owned(),
            Some(Endpoint::ChatCompletions),
            Some("endpoints/77"),
        ),
        (
            "/v1beta/openai/chat/completions".to_owned(),
            Some(Endpoint::ChatCompletions),
            None,
        ),
        (
            "/v1beta/interactions".to_owned(),
            Some(Endpoint::Interactions),
            None,
        ),
        (
            "/v1beta/interactions/i_1".to_owned(),
            Some(Endpoint::Retrieved(Retrieved::Interaction)),
            None,
        ),
        (
            "/v1beta/batches/b_1".to_owned(),
            Some(Endpoint::Retrieved(Retrieved::Interaction)),
            None,
        ),
        ("/v1beta/openai/batches/b_1".to_owned(), None, None),
        (
            "/v1beta/models/gemini-x:batchGenerateContent".to_owned(),
            Some(Endpoint::Interactions),
            Some("gemini-x"),
        ),
        // Over gRPC.
        (
            "/google.ai.generativelanguage.v1beta.GenerativeService/StreamGenerateContent"
                .to_owned(),
            Some(STREAM),
            None,
        ),
        ("/v1beta/models/gemini-x".to_owned(), None, None),
        ("/v1beta/models".to_owned(), None, None),
        ("/v1beta/files:upload".to_owned(), None, None),
        ("/v1/messages".to_owned(), Some(Endpoint::Messages), None),
    ] {
        let route = Route::of(LlmApi::Gemini, &path);
        let found = route.as_ref().map(|route| route.endpoint);
        assert_eq!(found, endpoint, "{path}");
        let named = route.and_then(|route| route.model);
        assert_eq!(named.as_deref(), model, "{path}");
    }
    // Servers of OpenAI's form pass calls on in the others' forms.
    for path in [
        "/v1/models/x:generateContent",
        "/bedrock/model/x/converse",
        "/v2/chat",
        "/ollama/api/generate",
    ] {
        let route = Route::of(LlmApi::Openai, path);
        let found = route.map(|route| route.endpoint);
        assert_eq!(found, Some(Endpoint::OtherForm), "{path}");
    }
    for path in ["/v1/models/x", "/v1/batches/x", "/v1/files"] {
        assert_eq!(Route::of(LlmApi::Openai, path), None, "{path}");
    }
    // Whole requests in the parts of one, and answers of other forms.
    for path in [
        "/batch",
        "/batch/v1beta",
        "/v1beta/models/x:generateAnswer",
        "/v1/projects/p/locations/l/endpoints/1:serverStreamingPredict",
    ] {
        let route = Route::of(LlmApi::Gemini, path);
        let found = route.map(|route| route.endpoint);
        assert_eq!(found, Some(Endpoint::Interactions), "{path}");
    }
    assert!(STREAM.by_path_alone() && Endpoint::Interactions.by_path_alone());
    assert!(!Endpoint::Retrieved(Retrieved::Interaction).by_path_alone());
}

/// Google's servers take another method from a field or a parameter, in whichever form they are spoken to; without one
/// what is kept there is as elsewhere.
#[test]
fn a_path_of_google_s_is_called_by_any_method_that_another_is_named_beside() {
    use http::Method;
    let [chat, kept, own, call] = [
        "/v1beta/openai/chat/completions",
        "/v1beta/openai/chat/completions/c",
        "/v1beta/interactions/i",
        "/v1beta/models/gemini-x:generateContent",
    ];
    let (fetched, interaction) = (
        Some(Endpoint::Retrieved(Retrieved::Chat)),
        Some(Endpoint::Retrieved(Retrieved::Interaction)),
    );
    let generate = Some(Endpoint::GenerateContent { stream: false });
    let list = Some(Endpoint::Retrieved(Retrieved::Kept));
    for (path, method, named, alone) in [
        (chat, Method::GET, Some(Endpoint::ChatCompletions), list),
        (chat, Method::HEAD, Some(Endpoint::ChatCompletions), None),
        (
            chat,
            Method::DELETE,
            Some(Endpoint::ChatCompletions),
            Some(Endpoint::ChatCompletions),
        ),
        (kept, Method::GET, fetched, fetched),
        (kept, Method::HEAD, fetched, None),
        (kept, Method::DELETE, fetched, None),
        (kept, Method::OPTIONS, None, None),
        (own, Method::GET, interaction, interaction),
        (own, Method::DELETE, interaction, None),
        (call, Method::GET, generate, generate),
        (call, Method::DELETE, generate, generate),
    ] {
        for (overridden, expected) in [(true, named), (false, alone)] {
            let route = Route::of(LlmApi::Gemini, path).unwrap();
            let called = route.called(&method, false, overridden);
            let endpoint = called.map(|it| it.endpoint);
            assert_eq!(endpoint, expected, "{method} {path} {overridden}");
        }
    }
    let field = |name: &'static str| {
        let value = http::HeaderValue::from_static("GET");
        http::HeaderMap::from_iter([(http::HeaderName::from_static(name), value)])
    };
    for (fields, query, expected) in [
        (http::HeaderMap::new(), None, false),
        (http::HeaderMap::new(), Some("key=x&method=GET"), false),
        (field("x-http-method-override"), None, true),
        (field("x_http_method_override"), None, true),
        (field("x-http-method"), None, true),
        (http::HeaderMap::new(), Some("a=b&$httpMethod=GET"), true),
        (http::HeaderMap::new(), Some("a;%24HTTPHeaders=x%3Ay"), true),
        (http::HeaderMap::new(), Some("_method=get"), true),
        (
            http::HeaderMap::new(),
            Some("X-HTTP-Method-Override=GET"),
            true,
        ),
    ] {
        for (api, path) in [
            (LlmApi::Gemini, kept),
            (LlmApi::Gemini, own),
            (LlmApi::Openai, kept),
        ] {
            let Some(route) = Route::of(api, path) else {
                continue;
            };
            let expected = expected && api == LlmApi::Gemini;
            assert_eq!(
                route.is_overridden(&fields, query),
                expected,
                "{query:?} {fields:?}"
            );
        }
    }
}

/// Which of the two a server takes is not known.
#[test]
fn a_model_that_the_content_names_is_that_of_the_path() {
    let path = "/v1beta/models/gemini-x:generateContent";
    let route = Route::of(LlmApi::Gemini, path).unwrap();
    for (named, expected) in [
        (None, Ok("gemini-x")),
        (Some("gemini-x"), Ok("gemini-x")),
        (Some("models/gemini-x"), Ok("gemini-x")),
        (
            Some("projects/p/locations/l/publishers/google/models/gemini-x"),
            Ok("gemini-x"),
        ),
        (Some("models/gemini-y"), Err(NotUnderstood::OfPath)),
        (Some("Gemini-x"), Err(NotUnderstood::OfPath)),
        (Some("tunedModels/gemini-x"), Err(NotUnderstood::OfPath)),
    ] {
        let model = route.model(named.map(str::to_owned));
        let expected = expected.map(|model| Some(model.to_owned()));
        assert_eq!(model, expected, "{named:?}");
    }
    let path = format!("/v1beta/models/{}:generateContent", "x".repeat(257));
    let long = Route::of(LlmApi::Gemini, &path).unwrap();
    assert_eq!(long.model(None), Err(NotUnderstood::Long("model")));
}

#[test]
fn what_a_call_asks_for_in_both_spellings() {
    let camel = r#"{"contents":[{"role":"user","parts":[{"text":"model"}]}],
        "systemInstruction":{"parts":[{"text":"x"}]},
        "generationConfig":{"maxOutputTokens":100,"temperature":0.5,"responseSchema":{"name":"x","tools":1}},
        "tools":[{"functionDeclarations":[
            {"name":"look","description":"d","parameters":{"type":"OBJECT","properties":{"name":{"type":"STRING"}}}},
            {"name":"write","parametersJsonSchema":{"tools":[],"Name":"x"}}]},
          {"googleSearch":{}},{"codeExecution":{},"urlContext":null},
          {"mcpServers":[{"name":"wiki","streamableHttpTransport":{"url":"https://x"}}]}],
        "toolConfig":{"functionCallingConfig":{"mode":"AUTO"}},"safetySettings":[]}"#;
    let snake = camel
        .replace("generationConfig", "generation_config")
        .replace("maxOutputTokens", "max_output_tokens")
        .replace("functionDeclarations", "function_declarations")
        .replace("googleSearch", "google_search")
        .replace("codeExecution", "code_execution")
        .replace("mcpServers", "mcp_servers");
    let read = Call {
        model: None,
        stream: false,
        max_output_tokens: Some(100),
        tools: [
            "look",
            "write",
            "googleSearch",
            "codeExecution",
            "mcpServers",
            "wiki",
        ]
        .map(str::to_owned)
        .into(),
        user: None,
        ..Call::default()
    };
    assert_eq!(call(WHOLE, camel), Ok(read.clone()));
    assert_eq!(call(STREAM, &snake), Ok(read));
    // What is to be counted is a request of its own, and so is each of many that are embedded.
    let counted = r#"{"generateContentRequest":{"model":"models/gemini-x","contents":[],"tools":[{"google_search":{}}]}}"#;
    let read = call(Endpoint::ContentTokens, counted).unwrap();
    assert_eq!(read.model.as_deref(), Some("models/gemini-x"));
    assert_eq!(read.tools, ["googleSearch"]);
    let embedded = r#"{"requests":[{"model":"models/e","content":{}},{"model":"models/e"}]}"#;
    let read = call(Endpoint::EmbedContent, embedded).unwrap();
    assert_eq!(read.model.as_deref(), Some("models/e"));
}

#[test]
fn what_servers_may_take_for_something_else_is_not_understood() {
    for (body, fault) in [
        ("[]", NotUnderstood::NoObject),
        (
            r#"{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9}}"#,
            NotUnderstood::Spellings("maxOutputTokens"),
        ),
        (
            r#"{"generationConfig":{"maxOutputTokens":1},"generation_config":{}}"#,
            NotUnderstood::Spellings("generationConfig"),
        ),
        (
            r#"{"tools":[{"functionDeclarations":[],"function_declarations":[{"name":"x"}]}]}"#,
            NotUnderstood::Spellings("functionDeclarations"),
        ),
        (
            r#"{"generationConfig":{"MaxOutputTokens":1}}"#,
            NotUnderstood::Case("maxOutputTokens"),
        ),
        (
            r#"{"generationconfig":{}}"#,
            NotUnderstood::Case("generationConfig"),
        ),
        (r#"{"Tools":[]}"#, NotUnderstood::Case("tools")),
        ("{\"tool\u{17f}\":[]}", NotUnderstood::Case("tools")),
        (
            r#"{"tools":[{"functiondeclarations":[]}]}"#,
            NotUnderstood::Case("functionDeclarations"),
        ),
        // ProtoJSON takes numbers in quotes, and numbers with an exponent.
        (
            r#"{"generationConfig":{"maxOutputTokens":"9"}}"#,
            NotUnderstood::Wrong("maxOutputTokens"),
        ),
        (
            r#"{"generationConfig":{"maxOutputTokens":1e3}}"#,
            NotUnderstood::Wrong("maxOutputTokens"),
        ),
        // Another model is named there, or chosen.
        (
            r#"{"generationConfig":{"routingConfig":{"manualMode":{"modelName":"large"}}}}"#,
            NotUnderstood::Models,
        ),
        (
            r#"{"generation_config":{"routing_config":{"auto_mode":{}}}}"#,
            NotUnderstood::Models,
        ),
        (
            r#"{"generationConfig":[]}"#,
            NotUnderstood::Wrong("generationConfig"),
        ),
        // And one where there may be many.
        (
            r#"{"tools":{"googleSearch":{}}}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (r#"{"tools":[[]]}"#, NotUnderstood::Wrong("tools")),
        (
            r#"{"tools":[{"functionDeclarations":{"name":"x"}}]}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (
            r#"{"tools":[{"functionDeclarations":[{}]}]}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (
            r#"{"tools":[{"functionDeclarations":["x"]}]}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (r#"{"model":1}"#, NotUnderstood::Wrong("model")),
        (
            r#"{"requests":[{"model":"models/a"},{"model":"models/b"}]}"#,
            NotUnderstood::Wrong("model"),
        ),
    ] {
        assert_eq!(call(WHOLE, body).unwrap_err(), fault, "{body}");
    }
    // In different objects it is not twice.
    let twice = r#"{"tools":[{"functionDeclarations":[{"name":"a"}]},{"function_declarations":[{"name":"b"}]}]}"#;
    assert_eq!(call(WHOLE, twice).unwrap().tools, ["a", "b"]);
    // Beside OpenAI's form its own is taken.
    for (body, fits) in [
        (
            r#"{"extra_body":{"google":{"thinking_config":{"thinking_budget":5}}}}"#,
            true,
        ),
        (
            r#"{"extra_body":{"google":{"tools":[{"google_search":{}}]}}}"#,
            false,
        ),
        (
            r#"{"google":{"generationConfig":{"maxOutputTokens":5}}}"#,
            false,
        ),
    ] {
        let read = call(Endpoint::ChatCompletions, body);
        assert_eq!(read.is_ok(), fits, "{body}");
    }
    // No text that JSON is: a frame of gRPC.
    let framed = "\u{0}\u{0}\u{0}\u{0}\u{5}\n\u{3}abc";
    assert!(matches!(call(WHOLE, framed), Err(NotUnderstood::Json(_))));
    for endpoint in [Endpoint::Interactions, Endpoint::Predict { stream: true }] {
        assert_eq!(call(endpoint, "{}"), Err(NotUnderstood::Form));
    }
    let many = vec![r#"{"name":"x"}"#; MAX_OFFERED + 1].join(",");
    let many = format!("{{\"tools\":[{{\"functionDeclarations\":[{many}]}}]}}");
    assert_eq!(call(WHOLE, &many), Err(NotUnderstood::Offered));
}

fn candidate(parts: &Value, finish: Option<&str>) -> Value {
    let mut candidate = json!({ "content": { "parts": parts, "role": "model" }, "index": 0 });
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    candidate
}

#[test]
fn answers_whole_as_events_and_as_a_list() {
    let parts = json!([
        { "text": "Let me look.", "thoughtSignature": "AAA=" },
        { "functionCall": { "name": "get_weather", "args": { "city": "Ulm", "name": "x" }, "id": "fc_1" } },
        { "executableCode": { "language": "PYTHON", "code": "print(1)" } },
        { "functionCall": { "name": "now" } },
    ]);
    let counted = json!({ "promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 12,
        "thoughtsTokenCount": 8, "toolUsePromptTokenCount": 3, "totalTokenCount": 33,
        "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": 10 }] });
    let told = LlmAnswer {
        model: Some("gemini-2.5-pro".to_owned()),
        usage: usage(13, Some(4), None, 20, Some(8)),
        tool_calls: vec![
            asked("get_weather", Some("fc_1"), r#"{"city":"Ulm","name":"x"}"#),
            AskedTool {
                name: "codeExecution".to_owned(),
                id: None,
                arguments: None,
            },
            asked("now", None, "{}"),
        ],
        finish_reason: Some("STOP".to_owned()),
        ..LlmAnswer::default()
    };
    let answer = json!({ "candidates": [candidate(&parts, Some("STOP"))], "usageMetadata": counted,
        "modelVersion": "gemini-2.5-pro", "responseId": "r" });
    assert_eq!(whole(WHOLE, &answer), told);

    let part = |at: usize, finish| candidate(&json!([parts[at]]), finish);
    let first = json!({ "candidates": [part(0, None)], "modelVersion": "gemini-2.5-pro",
        "usageMetadata": { "promptTokenCount": 10, "totalTokenCount": 10 } });
    let more = |at| json!({ "candidates": [part(at, None)], "modelVersion": "gemini-2.5-pro" });
    let last = json!({ "candidates": [part(3, Some("STOP"))], "usageMetadata": counted });
    let events = vec![first, more(1), more(2), last];
    assert_eq!(stream(STREAM, &events), told);
    assert_eq!(whole(STREAM, &Value::from(events.clone())), told);

    // Cut in the middle, what came counts.
    let cut = stream(STREAM, &events[..2]);
    assert_eq!(cut.tool_calls, told.tool_calls[..1]);
    assert_eq!((cut.finish_reason, cut.not_understood), (None, None));
    let text = Value::from(events).to_string();
    let mut reader = AnswerReader::new(STREAM);
    reader.whole(&text.as_bytes()[..text.len() - 1]);
    let cut = reader.finish();
    assert_eq!(cut.tool_calls, told.tool_calls);
    assert!(cut.not_understood.unwrap().contains("ends in the middle"));
}

/// Vertex AI, where the arguments are streamed: they are not put together, and the call is one.
#[test]
fn a_call_whose_arguments_come_in_parts_is_one() {
    let part = |call: Value| json!({ "candidates": [candidate(&json!([{ "functionCall": call }]), None)] });
    let events = [
        part(json!({ "name": "look", "willContinue": true })),
        part(
            json!({ "partialArgs": [{ "jsonPath": "$.a", "stringValue": "x" }], "willContinue": true }),
        ),
        part(json!({})),
    ];
    let told = stream(STREAM, &events);
    assert_eq!(told.tool_calls.len(), 1);
    assert_eq!(told.tool_calls[0].name, "look");
    assert_eq!(told.tool_calls[0].arguments, None);
}

#[test]
fn counts_refusals_and_errors() {
    let counted = whole(
        Endpoint::ContentTokens,
        &json!({ "totalTokens": 31, "cachedContentTokenCount": 5 }),
    );
    let counted = counted.usage.unwrap();
    assert_eq!(
        (counted.input_tokens, counted.cache_read_tokens),
        (Some(31), Some(5))
    );
    assert_eq!(counted.output_tokens, None);
    let blocked = json!({ "promptFeedback": { "blockReason": "SAFETY" }, "usageMetadata": { "promptTokenCount": 4 } });
    assert_eq!(whole(WHOLE, &blocked).finish_reason.unwrap(), "SAFETY");
    let error = json!({ "error": { "code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED",
        "details": [{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "status": "x" }] } });
    assert_eq!(whole(WHOLE, &error).error.unwrap(), "RESOURCE_EXHAUSTED");
    assert_eq!(
        whole(STREAM, &json!([error])).error.unwrap(),
        "RESOURCE_EXHAUSTED"
    );
    assert_eq!(
        stream(STREAM, &[error]).error.unwrap(),
        "RESOURCE_EXHAUSTED"
    );
    let many = vec![json!({ "functionCall": { "name": "x" } }); MAX_TOOL_CALLS + 1];
    let many = whole(
        WHOLE,
        &json!({ "candidates": [candidate(&Value::from(many), None)] }),
    );
    assert!(many.not_understood.unwrap().contains("more than"));
    // Anthropic's in Vertex AI are as everywhere.
    let message = json!({ "type": "message", "model": "claude-x", "content": [], "stop_reason": "end_turn",
        "usage": { "input_tokens": 3, "output_tokens": 4 } });
    let told = whole(Endpoint::PredictMessages { stream: false }, &message);
    assert_eq!(told.usage, usage(3, None, None, 4, None));
}
