//! Amazon Bedrock: Converse and Invoke.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::eventstream::Head;
use crate::llm::InvokeForm;

const WHOLE: Endpoint = Endpoint::Converse { stream: false };
const STREAM: Endpoint = Endpoint::Converse { stream: true };

const fn invoke(stream: bool, form: InvokeForm) -> Endpoint {
    Endpoint::Invoke { stream, form }
}

#[test]
fn calls_and_models_are_known_by_their_path() {
    let profile =
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-x-v1:0";
    for (path, endpoint, model) in [
        (
            "/model/anthropic.claude-x-v1%3A0/converse",
            WHOLE,
            "anthropic.claude-x-v1:0",
        ),
        (
            "/model/us.amazon.nova-pro-v1:0/converse-stream",
            STREAM,
            "us.amazon.nova-pro-v1:0",
        ),
        (
            "/model/amazon.nova-pro-v1:0/count-tokens",
            Endpoint::BedrockTokens,
            "amazon.nova-pro-v1:0",
        ),
        (
            "/model/global.anthropic.claude-x/invoke",
            invoke(false, InvokeForm::Messages),
            "global.anthropic.claude-x",
        ),
        (
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.anthropic.claude-x-v1%3A0/invoke-with-response-stream",
            invoke(true, InvokeForm::Messages),
            profile,
        ),
        // The slash of a resource as it is.
        (
            "/model/arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-x-v1:0/Invoke/",
            invoke(false, InvokeForm::Messages),
            profile,
        ),
        (
            "/model/openai.gpt-oss-120b-1:0/invoke",
            invoke(false, InvokeForm::Chat),
            "openai.gpt-oss-120b-1:0",
        ),
        (
            "/model/amazon.titan-embed-text-v2:0/invoke",
            invoke(false, InvokeForm::Embeddings),
            "amazon.titan-embed-text-v2:0",
        ),
        // What is not read: another vendor's, and what only its account knows.
        (
            "/model/meta.llama3-70b/invoke",
            invoke(false, InvokeForm::Other),
            "meta.llama3-70b",
        ),
        (
            "/model/evil.anthropic.x/invoke",
            invoke(false, InvokeForm::Other),
            "evil.anthropic.x",
        ),
        (
            "/model/arn:aws:bedrock:us-east-1:1:imported-model%2Fanthropic.x/invoke",
            invoke(false, InvokeForm::Other),
            "arn:aws:bedrock:us-east-1:1:imported-model/anthropic.x",
        ),
        (
            "/model/arn:aws:bedrock:us-east-1:1:application-inference-profile%2Fabc/invoke",
            invoke(false, InvokeForm::Other),
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
        ),
        (
            "/model/anthropic.x/invoke-with-bidirectional-stream",
            invoke(true, InvokeForm::Other),
            "anthropic.x",
        ),
    ] {
        let route = Route::of(LlmApi::Bedrock, path).unwrap();
        assert_eq!(route.endpoint, endpoint, "{path}");
        assert_eq!(route.model.as_deref(), Some(model), "{path}");
        assert_eq!(
            route.endpoint.is_unread(),
            matches!(
                endpoint,
                Endpoint::Invoke {
                    form: InvokeForm::Other,
                    ..
                }
            )
        );
    }
    for (path, endpoint) in [
        (
            "/openai/v1/chat/completions",
            Some(Endpoint::ChatCompletions),
        ),
        ("/anthropic/v1/messages", Some(Endpoint::Messages)),
        ("/model/converse", None),
        ("/model/anthropic.x", None),
        ("/async-invoke", None),
        ("/guardrail/x/version/1/apply", None),
    ] {
        let route = Route::of(LlmApi::Bedrock, path);
        assert_eq!(route.map(|route| route.endpoint), endpoint, "{path}");
    }
}

#[test]
fn what_a_call_asks_for() {
    let converse = r#"{"messages":[{"role":"user","content":[{"text":"x"},{"toolUse":{"name":"no","input":{}}}]}],
        "system":[{"text":"x"}],"inferenceConfig":{"maxTokens":512,"temperature":0.5},
        "toolConfig":{"tools":[{"toolSpec":{"name":"look","inputSchema":{"json":{"name":"x","properties":{"name":{}}}}}},
            {"cachePoint":{"type":"default"}},{"systemTool":{"name":"nova_grounding"}},{"newTool":{"x":1}}],"toolChoice":{"auto":{}}},
        "additionalModelRequestFields":{"thinking":{"type":"enabled","budget_tokens":1024},"max_tokens":2048,
            "tools":[{"type":"computer_20250124","name":"computer","display_width_px":1024}],"inferenceConfig":{"topK":20}}}"#;
    let read = Call {
        model: None,
        stream: false,
        max_output_tokens: Some(2048),
        tools: [
            "look",
            "nova_grounding",
            "newTool",
            "computer",
            "computer_20250124",
        ]
        .map(str::to_owned)
        .into(),
        user: None,
        ..Call::default()
    };
    assert_eq!(call(WHOLE, converse), Ok(read.clone()));
    let counted = format!(r#"{{"input":{{"converse":{converse}}}}}"#);
    let counted = call(Endpoint::BedrockTokens, &counted);
    assert_eq!(counted.unwrap().tools, read.tools);
    let messages = r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":77,"messages":[],"tools":[{"name":"Bash","input_schema":{}}]}"#;
    let read = call(invoke(true, InvokeForm::Messages), messages).unwrap();
    assert_eq!(
        (read.max_output_tokens, read.tools),
        (Some(77), vec!["Bash".to_owned()])
    );
    let chat = r#"{"messages":[],"max_completion_tokens":8}"#;
    let read = call(invoke(false, InvokeForm::Chat), chat).unwrap();
    assert_eq!(read.max_output_tokens, Some(8));
    let embedded = r#"{"inputText":"x","dimensions":256}"#;
    assert_eq!(
        call(invoke(false, InvokeForm::Embeddings), embedded),
        Ok(Call::default())
    );
    assert_eq!(
        call(invoke(false, InvokeForm::Other), "{}"),
        Err(NotUnderstood::Form)
    );
}

#[test]
fn what_may_be_taken_for_something_else_is_not_understood() {
    let passed = NotUnderstood::Wrong("additionalModelRequestFields");
    for (body, fault) in [
        ("[]", NotUnderstood::NoObject),
        (r#"{"ToolConfig":{}}"#, NotUnderstood::Case("toolConfig")),
        (
            r#"{"toolConfig":{"Tools":[]}}"#,
            NotUnderstood::Case("tools"),
        ),
        (r#"{"toolConfig":[]}"#, NotUnderstood::Wrong("toolConfig")),
        (
            r#"{"toolConfig":{"tools":{}}}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (
            r#"{"toolConfig":{"tools":["x"]}}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (
            r#"{"toolConfig":{"tools":[{"toolSpec":{}}]}}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (
            r#"{"toolConfig":{"tools":[{"toolSpec":{"Name":"x"}}]}}"#,
            NotUnderstood::Case("name"),
        ),
        (
            r#"{"toolConfig":{"tools":[{"toolspec":{"name":"x"}}]}}"#,
            NotUnderstood::Case("toolSpec"),
        ),
        (
            r#"{"toolConfig":{"tools":[{"toolSpec":{"name":1}}]}}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (
            r#"{"inferenceConfig":{"maxTokens":"5"}}"#,
            NotUnderstood::Wrong("maxTokens"),
        ),
        (
            r#"{"inferenceConfig":{"MaxTokens":5}}"#,
            NotUnderstood::Case("maxTokens"),
        ),
        // What some model takes for tools or for a limit.
        (
            r#"{"additionalModelRequestFields":{"toolConfig":{}}}"#,
            passed.clone(),
        ),
        (
            r#"{"additionalModelRequestFields":{"max_gen_len":5}}"#,
            passed.clone(),
        ),
        (
            r#"{"additionalModelRequestFields":{"Tools":[]}}"#,
            passed.clone(),
        ),
        (
            r#"{"additionalModelRequestFields":{"inferenceConfig":{"max_new_tokens":5}}}"#,
            passed.clone(),
        ),
        (
            r#"{"additionalModelRequestFields":{"textGenerationConfig":{"maxTokenCount":5}}}"#,
            passed,
        ),
        (
            r#"{"additionalModelRequestFields":{"tools":[{}]}}"#,
            NotUnderstood::Wrong("tools"),
        ),
        (
            r#"{"additionalModelRequestFields":[]}"#,
            NotUnderstood::Wrong("additionalModelRequestFields"),
        ),
        (
            r#"{"input":{"invokeModel":{"body":"e30="}}}"#,
            NotUnderstood::Wrong("invokeModel"),
        ),
    ] {
        assert_eq!(call(WHOLE, body).unwrap_err(), fault, "{body}");
    }
    let many = vec![r#"{"toolSpec":{"name":"x"}}"#; MAX_OFFERED + 1].join(",");
    let many = format!(r#"{{"toolConfig":{{"tools":[{many}]}}}}"#);
    assert_eq!(call(WHOLE, &many), Err(NotUnderstood::Offered));
    // A model that the content names is that of the path.
    let route = Route::of(LlmApi::Bedrock, "/model/anthropic.x/invoke").unwrap();
    assert_eq!(route.model(None).unwrap().as_deref(), Some("anthropic.x"));
    assert!(route.model(Some("anthropic.y".to_owned())).is_err());
}

/// Events of AWS's streams: what each is, and its payload.
fn events(endpoint: Endpoint, events: &[(Head<'_>, Value)]) -> LlmAnswer {
    let in_pieces = |size: usize| {
        let mut reader = AnswerReader::new(endpoint);
        for (head, payload) in events {
            reader.event_begins(head);
            for piece in payload.to_string().as_bytes().chunks(size) {
                reader.data(piece);
            }
            reader.event_ends(&[]);
        }
        reader.finish()
    };
    let whole = in_pieces(usize::MAX);
    for size in [1, 2, 3, 5, 64] {
        assert_eq!(in_pieces(size), whole);
    }
    whole
}

fn event<'a>(kind: &'a str, payload: Value) -> (Head<'a>, Value) {
    let head = Head {
        message: Some("event"),
        event: Some(kind),
        ..Head::default()
    };
    (head, payload)
}

fn exception(kind: &str) -> (Head<'_>, Value) {
    let head = Head {
        message: Some("exception"),
        exception: Some(kind),
        ..Head::default()
    };
    (head, json!({ "message": "Slow down." }))
}

#[test]
fn converse_whole_and_as_events() {
    let counted = json!({ "inputTokens": 10, "outputTokens": 20, "totalTokens": 37,
        "cacheReadInputTokens": 4, "cacheWriteInputTokens": 3 });
    let told = LlmAnswer {
        usage: usage(17, Some(4), Some(3), 20, None),
        tool_calls: vec![
            asked("get_weather", Some("tooluse_1"), r#"{"city":"Ulm"}"#),
            asked("now", Some("tooluse_2"), "{}"),
        ],
        finish_reason: Some("tool_use".to_owned()),
        ..LlmAnswer::default()
    };
    let content = json!([
        { "text": "Let me look." },
        { "toolUse": { "toolUseId": "tooluse_1", "name": "get_weather", "input": { "city": "Ulm" } } },
        { "toolUse": { "toolUseId": "tooluse_2", "name": "now", "input": {} } },
    ]);
    let answer = json!({ "output": { "message": { "role": "assistant", "content": content } }, "stopReason": "tool_use",
        "usage": counted, "metrics": { "latencyMs": 1108 } });
    assert_eq!(whole(WHOLE, &answer), told);

    let start = |index: u64, id: &str, name: &str| {
        let start = json!({ "toolUse": { "toolUseId": id, "name": name } });
        event(
            "contentBlockStart",
            json!({ "contentBlockIndex": index, "start": start, "p": "abcd" }),
        )
    };
    let delta = |index: u64, delta: Value| {
        event(
            "contentBlockDelta",
            json!({ "contentBlockIndex": index, "delta": delta, "p": "abc" }),
        )
    };
    let input = |index, input: &str| delta(index, json!({ "toolUse": { "input": input } }));
    let stop = |index: u64| {
        event(
            "contentBlockStop",
            json!({ "contentBlockIndex": index, "p": "a" }),
        )
    };
    let stream = [
        event(
            "messageStart",
            json!({ "role": "assistant", "p": "abcdefgh" }),
        ),
        delta(0, json!({ "text": "Let me look." })),
        stop(0),
        start(1, "tooluse_1", "get_weather"),
        input(1, ""),
        input(1, "{\"city\":"),
        input(1, "\"Ulm\"}"),
        stop(1),
        start(2, "tooluse_2", "now"),
        stop(2),
        event("messageStop", json!({ "stopReason": "tool_use" })),
        event(
            "metadata",
            json!({ "usage": counted, "metrics": { "latencyMs": 551 } }),
        ),
    ];
    assert_eq!(events(STREAM, &stream), told);
    // Cut in the middle: the arguments did not come to their end.
    let cut = events(STREAM, &stream[..6]);
    assert_eq!(cut.tool_calls[0].arguments, None);
    let failed: Vec<_> = stream[..2]
        .iter()
        .cloned()
        .chain([exception("throttlingException")])
        .collect();
    assert_eq!(
        events(STREAM, &failed).error.unwrap(),
        "throttlingException"
    );
    let counted = whole(Endpoint::BedrockTokens, &json!({ "inputTokens": 31 }));
    assert_eq!(counted.usage.unwrap().input_tokens, Some(31));
}

fn chunk(document: &Value) -> (Head<'static>, Value) {
    let bytes = STANDARD.encode(document.to_string());
    event("chunk", json!({ "bytes": bytes, "p": "abcdefghij" }))
}

#[test]
fn invoke_of_anthropic_s_models() {
    let anthropic = invoke(true, InvokeForm::Messages);
    let metrics = json!({ "inputTokenCount": 10, "outputTokenCount": 20, "invocationLatency": 1, "firstByteLatency": 1 });
    let start = json!({ "type": "message_start", "message": { "id": "m", "model": "claude-x", "content": [],
        "usage": { "input_tokens": 10, "output_tokens": 1 } } });
    // Longer than what is decoded at once.
    let said = "word ".repeat(5_000);
    let stream = [
        chunk(&start),
        chunk(
            &json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        ),
        chunk(
            &json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": said } }),
        ),
        chunk(&json!({ "type": "content_block_stop", "index": 0 })),
        chunk(
            &json!({ "type": "content_block_start", "index": 1, "content_block": { "type": "tool_use", "id": "toolu_1", "name": "look", "input": {} } }),
        ),
        chunk(
            &json!({ "type": "content_block_delta", "index": 1, "delta": { "type": "input_json_delta", "partial_json": "{\"a\":1}" } }),
        ),
        chunk(&json!({ "type": "content_block_stop", "index": 1 })),
        chunk(
            &json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" }, "usage": { "output_tokens": 20 } }),
        ),
        chunk(&json!({ "type": "message_stop", "amazon-bedrock-invocationMetrics": metrics })),
    ];
    let told = LlmAnswer {
        model: Some("claude-x".to_owned()),
        usage: usage(10, None, None, 20, None),
        tool_calls: vec![asked("look", Some("toolu_1"), r#"{"a":1}"#)],
        finish_reason: Some("tool_use".to_owned()),
        ..LlmAnswer::default()
    };
    assert_eq!(events(anthropic, &stream), told);
    // What the model told as it began is not all, where Bedrock has counted the whole.
    let mut unsaid = stream.clone();
    unsaid[7] = chunk(&json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" } }));
    assert_eq!(events(anthropic, &unsaid), told);
    let failed = [chunk(&start), exception("modelStreamErrorException")];
    let failed = events(anthropic, &failed);
    assert_eq!(failed.error.unwrap(), "modelStreamErrorException");
    assert_eq!((failed.model, failed.not_understood), (told.model, None));
    // Whatever model it is, Bedrock tells what it counted.
    let other = [
        chunk(&json!({ "generation": "x" })),
        chunk(&json!({ "amazon-bedrock-invocationMetrics": metrics })),
    ];
    for form in [InvokeForm::Chat, InvokeForm::Other] {
        let told = events(invoke(true, form), &other);
        assert_eq!(told.usage, usage(10, None, None, 20, None));
        assert_eq!(told.not_understood.is_some(), form == InvokeForm::Other);
    }
}

#[test]
fn what_is_wrong_in_a_chunk_is_told() {
    let anthropic = invoke(true, InvokeForm::Messages);
    let padded = "e30=".to_owned() + &"e30=".repeat(2_000);
    for bytes in ["e30", "e3 0=", "????", "e30=e30=", &padded] {
        let told = events(anthropic, &[event("chunk", json!({ "bytes": bytes }))]);
        assert!(told.not_understood.unwrap().contains("base64"), "{bytes}");
    }
    let told = events(
        anthropic,
        &[event("chunk", json!({ "bytes": STANDARD.encode("{") }))],
    );
    assert!(told.not_understood.unwrap().contains("ends in the middle"));
    // A string with escapes is the same string.
    let mut reader = AnswerReader::new(anthropic);
    reader.event_begins(&event("chunk", Value::Null).0);
    reader.data(br#"{"bytes":"eyJtb2RlbCI6Ij4\u002fIn0="}"#);
    reader.event_ends(&[]);
    assert_eq!(reader.finish().model.unwrap(), ">?");
}

#[test]
fn what_the_fields_say() {
    let fields = |fields: &[(&'static str, &'static str)]| {
        let fields = fields.iter();
        fields
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect::<HeaderMap>()
    };
    let read = |endpoint, with: &[_], body: &str| {
        let mut reader = AnswerReader::new(endpoint);
        reader.fields(&fields(with));
        reader.whole(body.as_bytes());
        reader.finish()
    };
    let counts = [
        ("x-amzn-bedrock-input-token-count", "5"),
        ("x-amzn-bedrock-output-token-count", "7"),
        ("x-amzn-bedrock-cache-read-input-token-count", "2"),
    ];
    let other = read(invoke(false, InvokeForm::Other), &counts, "{}");
    assert_eq!(other.usage, usage(7, Some(2), None, 7, None));
    assert!(other.not_understood.unwrap().contains("not read"));
    // What the content says is more exact.
    let message = r#"{"model":"claude-x","usage":{"input_tokens":3,"output_tokens":4}}"#;
    let told = read(invoke(false, InvokeForm::Messages), &counts, message);
    assert_eq!(told.usage, usage(3, None, None, 4, None));
    let kind = [(
        "x-amzn-errortype",
        "AccessDeniedException:http://internal.amazon.com/x",
    )];
    for endpoint in [
        WHOLE,
        STREAM,
        invoke(false, InvokeForm::Messages),
        invoke(true, InvokeForm::Messages),
    ] {
        let body = r#"{"message":"You don't have access."}"#;
        let told = read(endpoint, &kind, body);
        assert_eq!(told.error.unwrap(), "AccessDeniedException");
        assert_eq!(
            read(endpoint, &[], body).error.unwrap(),
            "You don't have access."
        );
        assert_eq!(told.not_understood, None);
    }
    // Nobody else's are looked at.
    let mut chat = AnswerReader::new(Endpoint::ChatCompletions);
    chat.fields(&fields(&counts));
    chat.whole(b"{}");
    assert_eq!(chat.finish().usage, None);
}
