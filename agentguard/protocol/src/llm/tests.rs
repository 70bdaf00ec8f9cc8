use agentguard_model::{AskedTool, Demand, LlmAnswer, LlmApi, LlmOperation, Usage};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::call::Call;
use super::{
    AnswerReader, CallReader, Endpoint, MAX_OFFERED, MAX_TOOL_CALLS, NotUnderstood, Route,
};
use crate::sse::{Piece, Pieces};

mod bedrock;
mod cohere;
mod counts;
mod gemini;
mod ollama;

/// What a call asks for, but for how much it may have a model read and write: [`super::demand`] has tests of its own.
fn call(endpoint: Endpoint, body: &str) -> Result<Call, NotUnderstood> {
    let call = whole_call(endpoint, body)?;
    Ok(Call {
        demand: Demand::default(),
        ..call
    })
}

/// All that a call asks for, in any pieces alike.
pub(super) fn whole_call(endpoint: Endpoint, body: &str) -> Result<Call, NotUnderstood> {
    let in_pieces = |size: usize| {
        let mut reader = CallReader::new(endpoint);
        for piece in body.as_bytes().chunks(size) {
            reader.push(piece)?;
        }
        reader.finish()
    };
    let whole = in_pieces(usize::MAX);
    for size in [1, 2, 7] {
        let split = in_pieces(size);
        assert_eq!(split.is_ok(), whole.is_ok());
        if whole.is_ok() {
            assert_eq!(split, whole);
        }
    }
    whole
}

fn whole(endpoint: Endpoint, body: &Value) -> LlmAnswer {
    let body = body.to_string();
    let in_pieces = |size: usize| {
        let mut reader = AnswerReader::new(endpoint);
        for piece in body.as_bytes().chunks(size) {
            reader.whole(piece);
        }
        reader.finish()
    };
    let whole = in_pieces(usize::MAX);
    assert_eq!(in_pieces(1), whole);
    whole
}

fn stream_of(endpoint: Endpoint, stream: &[u8], size: usize) -> LlmAnswer {
    let mut pieces = Pieces::new(1024);
    let mut reader = AnswerReader::new(endpoint);
    for piece in stream.chunks(size) {
        pieces.push(piece, &mut |piece| match piece {
            Piece::Data(data) => reader.data(data),
            Piece::End { kind, .. } => reader.event_ends(kind),
        });
    }
    reader.finish()
}

/// Of events, in pieces of many sizes.
fn stream(endpoint: Endpoint, events: &[Value]) -> LlmAnswer {
    let events = events.iter().map(|event| match event {
        Value::String(text) => format!("data: {text}\n\n"),
        event => format!("event: x\ndata: {event}\n\n"),
    });
    let stream = events.collect::<String>();
    let whole = stream_of(endpoint, stream.as_bytes(), usize::MAX);
    for size in [1, 2, 3, 5, 64] {
        assert_eq!(stream_of(endpoint, stream.as_bytes(), size), whole);
    }
    whole
}

fn digest(text: &str) -> String {
    let hex = Sha256::digest(text)
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    format!("sha256:{hex}")
}

fn asked(name: &str, id: Option<&str>, arguments: &str) -> AskedTool {
    AskedTool {
        name: name.to_owned(),
        id: id.map(str::to_owned),
        arguments: Some(digest(arguments)),
    }
}

fn usage(
    input: u64,
    read: Option<u64>,
    write: Option<u64>,
    output: u64,
    reasoning: Option<u64>,
) -> Option<Usage> {
    Some(Usage {
        input_tokens: Some(input),
        cache_read_tokens: read,
        cache_write_tokens: write,
        output_tokens: Some(output),
        reasoning_tokens: reasoning,
        ..Usage::default()
    })
}

/// Some servers let who makes a response name it, as vLLM does.
#[test]
fn a_response_is_fetched_whatever_it_is_called() {
    for id in [
        "resp_1",
        "batches",
        "embeddings",
        "input_tokens",
        "realtime",
        "live",
        "completions",
    ] {
        let route = Route::of(LlmApi::Openai, &format!("/v1/responses/{id}")).unwrap();
        let fetched = route
            .called(&http::Method::GET, false, false)
            .map(|it| it.endpoint);
        assert!(
            matches!(fetched, Some(Endpoint::Retrieved(_))),
            "{id} {fetched:?}"
        );
    }
    for path in ["/v1/batches", "/v1/embeddings", "/v1/models"] {
        let route = Route::of(LlmApi::Openai, path);
        let fetched = route.and_then(|it| it.called(&http::Method::GET, false, false));
        assert_eq!(fetched, None, "{path}");
    }
}

/// As where one is fetched that is not there yet (202 without content).
#[test]
fn an_answer_without_content_asks_for_nothing() {
    for endpoint in [
        Endpoint::ChatCompletions,
        Endpoint::Messages,
        Endpoint::GenerateContent { stream: false },
    ] {
        let mut reader = AnswerReader::new(endpoint);
        reader.whole(b"");
        reader.whole_ends();
        assert_eq!(reader.asks(), Ok(Vec::new()));
        assert_eq!(reader.finish(), LlmAnswer::default());
    }
}

#[test]
fn calls_are_known_by_the_end_of_their_path() {
    use Endpoint::*;
    for (api, path, endpoint) in [
        (
            LlmApi::Openai,
            "/v1/chat/completions",
            Some(ChatCompletions),
        ),
        (
            LlmApi::Openai,
            "/v1/chat/completions/",
            Some(ChatCompletions),
        ),
        (
            LlmApi::Openai,
            "/V1/Chat%2FCompletions",
            Some(ChatCompletions),
        ),
        (
            LlmApi::Openai,
            "/openai/deployments/d/chat/completions",
            Some(ChatCompletions),
        ),
        (LlmApi::Openai, "/v1/completions", Some(Completions)),
        (LlmApi::Openai, "/v1/responses", Some(Responses)),
        (
            LlmApi::Openai,
            "/backend-api/codex/responses",
            Some(Responses),
        ),
        (LlmApi::Openai, "/v1/responses/compact", Some(Responses)),
        (
            LlmApi::Openai,
            "/v1/responses/input_tokens",
            Some(ResponsesTokens),
        ),
        (
            LlmApi::Openai,
            "/v1/responses/resp_1",
            Some(Retrieved(super::Retrieved::Response)),
        ),
        (
            LlmApi::Openai,
            "/v1/responses/resp_1/cancel",
            Some(Retrieved(super::Retrieved::Cancelled)),
        ),
        (LlmApi::Openai, "/v1/responses/batches", Some(Batches)),
        (LlmApi::Openai, "/v1/responses/realtime", Some(Realtime)),
        (
            LlmApi::Openai,
            "/v1/responses/resp_1/input_items",
            Some(Retrieved(super::Retrieved::Kept)),
        ),
        (
            LlmApi::Openai,
            "/v1/conversations/c_1/items",
            Some(Retrieved(super::Retrieved::Kept)),
        ),
        (
            LlmApi::Openai,
            "/v1/conversations/c_1/items/i_1",
            Some(Retrieved(super::Retrieved::Kept)),
        ),
        (LlmApi::Openai, "/v1/conversations", None),
        (
            LlmApi::Openai,
            "/v1/chat/deferred-completion/r_1",
            Some(Retrieved(super::Retrieved::Chat)),
        ),
        (
            LlmApi::Openai,
            "/v1/chat/completions/c_1",
            Some(Retrieved(super::Retrieved::Chat)),
        ),
        (
            LlmApi::Anthropic,
            "/v1/messages/batches/b/results",
            Some(Retrieved(super::Retrieved::Batch)),
        ),
        (LlmApi::Openai, "/v1/batches", Some(Batches)),
        (
            LlmApi::Openai,
            "/xai_api.Chat/GetCompletion",
            Some(OtherForm),
        ),
        (LlmApi::Openai, "/v1/batch/jobs", Some(OtherForm)),
        (LlmApi::Openai, "/invocations", Some(OtherForm)),
        (LlmApi::Openai, "/completion", Some(OtherForm)),
        (LlmApi::Openai, "/generate_stream", Some(OtherForm)),
        (
            LlmApi::Openai,
            "/v2/models/x/generate_stream",
            Some(OtherForm),
        ),
        (
            LlmApi::Openai,
            "/api/extra/generate/stream",
            Some(OtherForm),
        ),
        (LlmApi::Openai, "/infill", Some(OtherForm)),
        (LlmApi::Openai, "/api/v1/chat", Some(OtherForm)),
        (LlmApi::Anthropic, "/v1/complete", Some(OtherForm)),
        (LlmApi::Openai, "/v1/uploads/upload_1/complete", None),
        (LlmApi::Anthropic, "/v1/uploads/upload_1/complete", None),
        (LlmApi::Openai, "/v1/uploads/complete", Some(OtherForm)),
        (
            LlmApi::Openai,
            "/v1/chat/completions%20",
            Some(ChatCompletions),
        ),
        (LlmApi::Openai, "/inference/v1/generate", Some(OtherForm)),
        (LlmApi::Openai, "/api/chat", Some(OtherForm)),
        (LlmApi::Openai, "/async/chat/completions", Some(OtherForm)),
        (
            LlmApi::Openai,
            "/async/chat/completions/a",
            Some(Retrieved(super::Retrieved::Kept)),
        ),
        (
            LlmApi::Openai,
            "/v1/batch/jobs/j",
            Some(Retrieved(super::Retrieved::Kept)),
        ),
        (
            LlmApi::Openai,
            "/api/v1/generation/content",
            Some(Retrieved(super::Retrieved::Kept)),
        ),
        (LlmApi::Openai, "/v1/batches/batch_1/cancel", None),
        (LlmApi::Openai, "/v1/realtime", Some(Realtime)),
        (
            LlmApi::Openai,
            "/v1/realtime/client_secrets",
            Some(RealtimeBeside),
        ),
        (LlmApi::Openai, "/openai/v1/realtime", Some(Realtime)),
        (LlmApi::Openai, "/openai/realtime", Some(Realtime)),
        (
            LlmApi::Openai,
            "/v1/realtime/translations",
            Some(RealtimeBeside),
        ),
        (
            LlmApi::Openai,
            "/v1/realtime/transcription_sessions",
            Some(RealtimeBeside),
        ),
        (LlmApi::Openai, "/v1/realtime/calls", Some(RealtimeBeside)),
        (
            LlmApi::Anthropic,
            "/v1/messages/batches",
            Some(MessageBatches),
        ),
        (LlmApi::Anthropic, "/v1/messages/batches/b/cancel", None),
        (LlmApi::Openai, "/v1/responses%3Bx=1", Some(Responses)),
        (LlmApi::Openai, "/v1/embeddings", Some(Embeddings)),
        (LlmApi::Openai, "/v1/models", None),
        // Whoever has a form of their own speaks these two as well.
        (LlmApi::Openai, "/v1/messages", Some(Messages)),
        (LlmApi::Openai, "/anthropic/v1/messages", Some(Messages)),
        (
            LlmApi::Openai,
            "/api/v1/messages/count_tokens",
            Some(MessagesTokens),
        ),
        (LlmApi::Openai, "/v1/threads/t/messages", None),
        (LlmApi::Gemini, "/v1/messages", Some(Messages)),
        (LlmApi::Cohere, "/v1/messages", Some(Messages)),
        (
            LlmApi::Openai,
            "/v1/agents/completions",
            Some(ChatCompletions),
        ),
        (LlmApi::Openai, "/v1/fim/completions", Some(Completions)),
        (LlmApi::Openai, "/v1/live/sessions", Some(RealtimeBeside)),
        (LlmApi::Openai, "/", None),
        (LlmApi::Anthropic, "/v1/messages", Some(Messages)),
        (
            LlmApi::Anthropic,
            "/v1/messages/count_tokens",
            Some(MessagesTokens),
        ),
        (
            LlmApi::Anthropic,
            "/v1/chat/completions",
            Some(ChatCompletions),
        ),
    ] {
        let route = Route::of(api, path);
        assert_eq!(route.map(|route| route.endpoint), endpoint, "{path}");
    }
    assert_eq!(ResponsesTokens.operation(), LlmOperation::CountTokens);
    let model = |path: &str, named: Option<&str>| {
        let route = Route::of(LlmApi::Openai, path).unwrap();
        route.model(named.map(str::to_owned)).unwrap()
    };
    let azure = "/openai/deployments/gpt-x/chat/completions";
    assert_eq!(model(azure, Some("gpt-y")).as_deref(), Some("gpt-x"));
    let of_litellm = "/openai/deployments/azure/gpt-x/chat/completions";
    assert_eq!(model(of_litellm, None).as_deref(), Some("azure/gpt-x"));
    for (path, called) in [
        (
            "/openai/deployments/gpt-x/extensions/chat/completions",
            "gpt-x",
        ),
        ("/deployments/d1/v1/chat/completions", "d1"),
        ("/endpoints/7/v1/chat/completions", "endpoints/7"),
        (
            "/endpoints/openapi/deployments/gpt-x/chat/completions",
            "gpt-x",
        ),
        ("/openai/deployments/v1/chat/completions", "v1"),
        ("/openai/deployments/openai/chat/completions", "openai"),
        ("/openai/deployments/chat/embeddings", "chat"),
        // Deployments may be called as any of the words in their paths.
        ("/openai/deployments/engines/chat/completions", "engines"),
        (
            "/openai/deployments/deployments/chat/completions",
            "deployments",
        ),
        ("/openai/deployments/engines/completions", "engines"),
        ("/openai/deployments/deployments/embeddings", "deployments"),
        ("/engines/deployments/chat/completions", "deployments"),
        ("/engines/gpt-x/completions", "gpt-x"),
        ("/engines/a/b/chat/completions", "a/b"),
    ] {
        assert_eq!(model(path, None).as_deref(), Some(called), "{path}");
    }
    // Engines of others have their own behind it.
    for path in [
        "/engines/v1/chat/completions",
        "/engines/llama.cpp/v1/chat/completions",
    ] {
        assert_eq!(model(path, Some("ai/x")).as_deref(), Some("ai/x"), "{path}");
    }
    // As do words of another server's, where a deployment would have its name: the content has to agree.
    for (path, called) in [
        ("/engines/gpt-x/completions", "gpt-x"),
        ("/openai/deployments/v1/chat/completions", "v1"),
        ("/openai/deployments/V1beta/chat/completions", "V1beta"),
        ("/openai/deployments/chat/completions", "chat"),
        ("/openai/deployments/chat/v1/chat/completions", "chat"),
        ("/openai/deployments/openai/v1/chat/completions", "openai"),
        (
            "/openai/deployments/extensions/chat/completions",
            "extensions",
        ),
        ("/openai/deployments/engines/chat/completions", "engines"),
        ("/openai/deployments/api/v1/responses", "api"),
        ("/deployments/v1/inference/chat/completions", "v1/inference"),
        ("/deployments/v1/messages", "v1"),
        ("/deployments/engines/gpt-x/completions", "engines/gpt-x"),
        ("/endpoints/v1/chat/completions", "endpoints/v1"),
    ] {
        let route = Route::of(LlmApi::Openai, path).unwrap();
        let model = |named: &str| route.model(Some(named.to_owned()));
        assert_eq!(model("gpt-y"), Err(NotUnderstood::OfPath), "{path}");
        let agreed = Ok(Some(called.to_owned()));
        assert_eq!(model(called), agreed, "{path}");
        assert_eq!(route.model(None), agreed, "{path}");
    }
    for path in [
        "/openai/deployments/v2-turbo/chat/completions",
        "/openai/deployments/vision/chat/completions",
        "/openai/deployments/openai/gpt-x/chat/completions",
    ] {
        assert_ne!(
            model(path, Some("gpt-y")).as_deref(),
            Some("gpt-y"),
            "{path}"
        );
    }
    for (query, another) in [
        ("", false),
        ("api-version=1&model=a", false),
        ("model=", false),
        ("model=b", true),
        ("MODEL=a%62", true),
        ("m%6fdel=a&model=b", true),
    ] {
        assert_eq!(Route::names_another(query, Some("a")), another, "{query}");
    }
    assert!(Route::names_another("model=a", None));
    let plain = "/v1/chat/completions";
    assert_eq!(model(plain, Some("gpt-y")).as_deref(), Some("gpt-y"));
    assert_eq!(model(plain, None), None);
}

/// What is noted with an answer asks for nothing; whatever else is sent there may be a call.
#[test]
fn what_notes_something_with_an_answer_is_no_call() {
    let sent = |text: &str| call(Endpoint::Retrieved(super::Retrieved::Chat), text);
    for text in [
        r#"{"metadata":{}}"#,
        r#" {"metadata":{"a":"b","model":"x","messages":[{"c":[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]}]}} "#,
        r#"{"metadata":null}"#,
        r#"{"met\u0061data":{}}"#,
    ] {
        assert_eq!(sent(text), Ok(Call::default()), "{text}");
    }
    for text in [
        "",
        "{}",
        "null",
        "[]",
        r#"[{"metadata":{}}]"#,
        r#""metadata""#,
        r#"{"metadata":"x"}"#,
        r#"{"metadata":[]}"#,
        r#"{"metadata":[{"metadata":{}}]}"#,
        r#"{"metadata":1}"#,
        r#"{"metadata":true}"#,
        r#"{"Metadata":{}}"#,
        r#"{"metadata":{},"metadata":{}}"#,
        r#"{"metadata":{},"METADATA":{}}"#,
        r#"{"metadata":{},"model":"x"}"#,
        r#"{"model":null,"metadata":{}}"#,
        r#"{"metadata":{},"":{}}"#,
        r#"{"metadata":{}} {"model":"x"}"#,
        r#"{"metadata":{}"#,
    ] {
        assert!(sent(text).is_err(), "{text}");
    }
    for kind in [super::Retrieved::Response, super::Retrieved::Batch] {
        let sent = call(Endpoint::Retrieved(kind), r#"{"metadata":{}}"#);
        assert_eq!(sent, Err(NotUnderstood::Form));
    }
}

/// Models that may answer in the place of the one that is called, or be called by it.
#[test]
fn a_call_names_one_model() {
    use Endpoint::{ChatCompletions, MessageBatches, Messages, Responses};
    let of = |endpoint, more: &str| {
        call(
            endpoint,
            &format!(r#"{{"model":"a","max_tokens":5{more}}}"#),
        )
    };
    let of = |endpoint, more: &str| {
        let call = of(endpoint, more)?;
        call.names_one(call.model.as_deref()).map(|()| call)
    };
    for (endpoint, more) in [
        (
            Messages,
            r#","fallbacks":[{"model":"b","max_tokens":64000}]"#,
        ),
        (Messages, r#","fallbacks":[{"model":"a"},{"model":"b"}]"#),
        (
            Messages,
            r#","tools":[{"type":"advisor_20260301","name":"advisor","model":"b"}]"#,
        ),
        (ChatCompletions, r#","fallbacks":["b"]"#),
        (ChatCompletions, r#","fallbacks":[{"model":"b"}]"#),
    ] {
        assert_eq!(of(endpoint, more), Err(NotUnderstood::Models), "{more}");
    }
    for more in [
        r#","fallbacks":"b""#,
        r#","fallbacks":[{"a":["b"]}]"#,
        r#","fallbacks":[{"model":"a","tools":[{"type":"function","function":{"name":"shell"}}]}]"#,
        r#","fallbacks":[{"model":"a","max_completion_tokens":9}]"#,
        r#","fallbacks":[{"max_tokens":9}]"#,
        r#","fallbacks":[7]"#,
        r#","fallbacks":{"model":"b"}"#,
        r#","fallbacks":[{"Model":"b"}]"#,
        r#","Fallbacks":[{"model":"b"}]"#,
        r#","compound_custom":{"models":{"reasoning_model":"b"}}"#,
    ] {
        assert!(of(ChatCompletions, more).is_err(), "{more}");
    }
    for (endpoint, more) in [
        (Messages, r#","fallbacks":"default""#),
        (Messages, r#","fallbacks":null"#),
        (Messages, r#","fallbacks":[]"#),
        (
            Messages,
            r#","tools":[{"type":"advisor_20260301","name":"advisor","model":"a"}]"#,
        ),
        (
            Responses,
            r#","tools":[{"type":"image_generation","model":"b"}]"#,
        ),
    ] {
        assert!(of(endpoint, more).is_ok(), "{more}");
    }
    let endless = call(
        ChatCompletions,
        r#"{"model":"a","fallbacks":[{"model":"a","max_tokens":1}]}"#,
    );
    assert_eq!(endless.unwrap().max_output_tokens, None);
    let longer = of(Messages, r#","fallbacks":[{"model":"a","max_tokens":9}]"#).unwrap();
    assert_eq!(longer.max_output_tokens, Some(9));
    let batch = r#"{"requests":[{"params":{"model":"a","fallbacks":[{"model":"b"}]}}]}"#;
    let batch = call(MessageBatches, batch).unwrap();
    assert_eq!(
        batch.names_one(batch.model.as_deref()),
        Err(NotUnderstood::Models)
    );
    // Many of them take no room.
    let many = format!(r#","fallbacks":[{}]"#, vec![r#""a""#; 5000].join(","));
    assert_eq!(
        of(ChatCompletions, &many).unwrap().beside.as_deref(),
        Some("a")
    );
}

/// As LM Studio and llama.cpp have it.
#[test]
fn a_negative_limit_is_none() {
    for fields in [
        r#""max_tokens":-1"#,
        r#""max_tokens":5,"max_completion_tokens":-1"#,
        r#""max_tokens":-1,"max_completion_tokens":5"#,
    ] {
        let call = call(Endpoint::ChatCompletions, &format!("{{{fields}}}")).unwrap();
        assert_eq!(call.max_output_tokens, None, "{fields}");
    }
}

/// Also in the messages of a conversation, and what a provider runs itself.
#[test]
fn tools_are_offered_wherever_they_stand() {
    for (endpoint, text, tools) in [
        (
            Endpoint::Messages,
            r#"{"messages":[{"role":"system","content":[{"type":"text","text":"x"},{"type":"tool_addition","tool":{"type":"tool_definition","definition":{"name":"bash","type":"bash_20250124"}}}]}]}"#,
            &["bash", "bash_20250124"][..],
        ),
        (
            Endpoint::Messages,
            r#"{"messages":[{"content":[{"type":"mcp_tool_listing","mcp_server_name":"s","tools":[{"name":"read","input_schema":{"name":"no"}}]}]}]}"#,
            &["read"],
        ),
        (
            Endpoint::MessageBatches,
            r#"{"requests":[{"params":{"model":"a","messages":[{"content":[{"type":"compaction","tool_changes":[{"type":"tool_addition","tool":{"type":"tool_definition","definition":{"name":"bash"}}}]}]}]}}]}"#,
            &["bash"],
        ),
        (
            Endpoint::Messages,
            r#"{"mcp_servers":[{"type":"url","url":"https://x","name":"srv"}],"tools":[{"type":"mcp_toolset","mcp_server_name":"srv","tools":[{"name":"inner"}]}]}"#,
            &["srv", "inner", "mcp_toolset"],
        ),
        // What a user says, and arguments of a call that is over, offer nothing.
        (
            Endpoint::Messages,
            r#"{"messages":[{"content":"{\"tools\":[{\"name\":\"no\"}]}"},{"content":[{"type":"tool_use","input":{"tools":[{"name":"no"}],"tool":{"definition":{"name":"no"}}}}]}]}"#,
            &[],
        ),
        (
            Endpoint::ChatCompletions,
            r#"{"plugins":[{"id":"web"}],"compound_custom":{"tools":{"enabled_tools":["code_interpreter"]}}}"#,
            &["web", "code_interpreter"],
        ),
    ] {
        let call = call(endpoint, text).unwrap();
        assert_eq!(call.tools, tools, "{text}");
    }
}

#[test]
fn what_a_call_asks_for() {
    let chat = r#"{"model":"gpt-5","stream":true,"max_tokens":5,"max_completion_tokens":7,"tools":[
        {"type":"function","function":{"name":"get_weather","parameters":{"properties":{"name":{"type":"string"}}}}},
        {"type":"custom","custom":{"name":"shell"}}],"functions":[{"name":"old"}],"messages":[{"model":"no"}]}"#;
    let read = Call {
        model: Some("gpt-5".to_owned()),
        stream: true,
        max_output_tokens: Some(7),
        tools: ["get_weather", "shell", "old"].map(str::to_owned).into(),
        user: None,
        ..Call::default()
    };
    assert_eq!(call(Endpoint::ChatCompletions, chat), Ok(read));
    let responses = r#"{"model":"gpt-5","max_tokens":1,"max_output_tokens":9,"stream":null,"tools":[
        {"type":"function","name":"read"},{"type":"web_search","name":"harmless"},
        {"type":"mcp","server_label":"wiki"},
        {"type":"namespace","name":"fs","tools":[{"type":"function","name":"write"}]}]}"#;
    let read = Call {
        model: Some("gpt-5".to_owned()),
        stream: false,
        max_output_tokens: Some(9),
        tools: [
            "read",
            "harmless",
            "web_search",
            "wiki",
            "mcp",
            "write",
            "fs",
        ]
        .map(str::to_owned)
        .into(),
        user: None,
        ..Call::default()
    };
    assert_eq!(call(Endpoint::Responses, responses), Ok(read));
    let messages = r#"{"tools":[{"name":"Bash","input_schema":{"type":"object"}},
        {"type":"web_search_20250305","name":"web_search"}],"max_tokens":64000,"model":"claude-x"}"#;
    let read = Call {
        model: Some("claude-x".to_owned()),
        stream: false,
        max_output_tokens: Some(64000),
        tools: ["Bash", "web_search", "web_search_20250305"]
            .map(str::to_owned)
            .into(),
        user: None,
        ..Call::default()
    };
    assert_eq!(call(Endpoint::Messages, messages), Ok(read));
    assert_eq!(call(Endpoint::Embeddings, "{}"), Ok(Call::default()));
    // What is offered beside the list of tools.
    for (of, offered) in [
        (
            r#"{"data_sources":[{"type":"azure_search"}]}"#,
            Some("data_sources"),
        ),
        (
            r#"{"search_parameters":{"mode":"on"}}"#,
            Some("search_parameters"),
        ),
        (r#"{"enable_search":true}"#, Some("enable_search")),
        (r#"{"enable_search":1}"#, Some("enable_search")),
        (r#"{"enable_search":"true"}"#, Some("enable_search")),
        (r#"{"enable_search":false}"#, None),
        (r#"{"enable_search":null}"#, None),
        (r#"{"metadata":{"enable_search":true}}"#, None),
    ] {
        let tools = call(Endpoint::ChatCompletions, of).unwrap().tools;
        assert_eq!(tools, Vec::from_iter(offered.map(str::to_owned)), "{of}");
    }
    let search = call(Endpoint::ChatCompletions, r#"{"web_search_options":{}}"#);
    assert_eq!(search.unwrap().tools, ["web_search"]);
    let server = r#"{"mcp_servers":[{"type":"url","url":"https://x","name":"wiki"}]}"#;
    assert_eq!(call(Endpoint::Messages, server).unwrap().tools, ["wiki"]);
}

/// As a client of `LiteLLM`'s may.
#[test]
fn what_names_models_for_the_place_of_another_is_not_understood() {
    for (member, empty) in [
        (r#""context_window_fallbacks":[{"a":["b"]}]"#, false),
        (r#""content_policy_fallbacks":[{"a":["b"]}]"#, false),
        (r#""context_window_fallback_dict":{"a":"b"}"#, false),
        (r#""model_list":[{"model_name":"a"}]"#, false),
        (r#""user_config":{"model_list":[]}"#, false),
        (
            r#""router_settings_override":{"fallbacks":[{"a":["b"]}]}"#,
            false,
        ),
        (r#""deployment_id":"b""#, false),
        (r#""deployment_id":null"#, true),
        (r#""context_window_fallbacks":null"#, true),
        (r#""context_window_fallbacks":[],"model_list":[]"#, true),
        (r#""metadata":{"model_list":["b"]}"#, true),
        (r#""extra_body":{"guided_json":{}}"#, true),
    ] {
        let body = format!(r#"{{"model":"a",{member}}}"#);
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Messages] {
            let found = call(endpoint, &body).map(|call| call.model);
            let expected = match empty {
                true => Ok(Some("a".to_owned())),
                false => Err(NotUnderstood::Models),
            };
            assert_eq!(found, expected, "{body}");
        }
    }
    let several = call(Endpoint::ChatCompletions, r#"{"model":"a,b"}"#).unwrap();
    let named = several.names_one(several.model.as_deref());
    assert_eq!(named, Err(NotUnderstood::Models));
    assert_eq!(Call::default().names_one(Some("a")), Ok(()));
    for more in ["enable_search", "data_sources", "plugins", "fallbacks"] {
        let body = format!(r#"{{"model":"a","extra_body":{{"{more}":true}}}}"#);
        let found = call(Endpoint::ChatCompletions, &body);
        assert_eq!(found, Err(NotUnderstood::Wrong("extra_body")), "{body}");
    }
}

#[test]
fn what_servers_may_take_for_something_else_is_not_understood() {
    let chat = |body: &str| call(Endpoint::ChatCompletions, body).unwrap_err();
    for (body, fault) in [
        ("[]", NotUnderstood::NoObject),
        ("\"x\"", NotUnderstood::NoObject),
        (r#"{"model":["gpt-5"]}"#, NotUnderstood::Wrong("model")),
        (r#"{"model":5}"#, NotUnderstood::Wrong("model")),
        (r#"{"Model":"gpt-5"}"#, NotUnderstood::Case("model")),
        (r#"{"model":"a","MODEL":"b"}"#, NotUnderstood::Case("model")),
        (r#"{"stream":"yes"}"#, NotUnderstood::Wrong("stream")),
        (r#"{"max_tokens":-1.5}"#, NotUnderstood::Wrong("max_tokens")),
        (r#"{"max_tokens":"9"}"#, NotUnderstood::Wrong("max_tokens")),
        (r#"{"tools":{}}"#, NotUnderstood::Wrong("tools")),
        (r#"{"tools":["x"]}"#, NotUnderstood::Wrong("tools")),
        (r#"{"tools":[{}]}"#, NotUnderstood::Wrong("tools")),
        // Some servers take what is written in another case, and the last of the two.
        (
            r#"{"tools":[{"function":{"name":"look","Name":"shell"}}]}"#,
            NotUnderstood::Case("name"),
        ),
        (
            r#"{"tools":[{"name":"look","Function":{"name":"shell"}}]}"#,
            NotUnderstood::Case("function"),
        ),
        (r#"{"tools":[{"name":""}]}"#, NotUnderstood::Wrong("tools")),
        (
            r#"{"tools":[{"name":"a","tools":[{"name":"b","tools":[{"name":"c"}]}]}]}"#,
            NotUnderstood::Wrong("tools"),
        ),
        // A router would choose.
        (
            r#"{"model":"a","models":["b"]}"#,
            NotUnderstood::Wrong("models"),
        ),
        // Which of the two the server takes is not known.
        (
            r#"{"tools":[{"type":"function","name":"a","function":{"name":"b"}}]}"#,
            NotUnderstood::Wrong("tools"),
        ),
    ] {
        assert_eq!(chat(body), fault, "{body}");
    }
    for body in [
        "",
        "{",
        r#"{"model":"a","model":"b"}"#,
        "{} {}",
        "model=gpt-5",
        "\u{feff}{}",
    ] {
        assert!(matches!(chat(body), NotUnderstood::Json(_)), "{body}");
    }
    assert_eq!(
        chat(&format!("{{\"model\":\"{}\"}}", "x".repeat(257))),
        NotUnderstood::Long("model")
    );
    let many = (0..=MAX_OFFERED).map(|n| format!(r#"{{"name":"x{n}"}}"#));
    let many = many.collect::<Vec<_>>().join(",");
    assert_eq!(
        chat(&format!("{{\"tools\":[{many}]}}")),
        NotUnderstood::Offered
    );
}

#[test]
fn chat_completions() {
    let counted = json!({ "prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30,
        "prompt_tokens_details": { "cached_tokens": 4, "audio_tokens": 3 },
        "completion_tokens_details": { "reasoning_tokens": 8, "audio_tokens": 2 } });
    let with_audio = |usage: Usage| Usage {
        audio_input_tokens: Some(3),
        audio_output_tokens: Some(2),
        ..usage
    };
    let told = LlmAnswer {
        model: Some("gpt-5-2026".to_owned()),
        usage: usage(10, Some(4), None, 20, Some(8)).map(with_audio),
        tool_calls: vec![
            asked("get_weather", Some("call_1"), r#"{"city":"Ulm"}"#),
            asked("now", Some("call_2"), "{}"),
        ],
        finish_reason: Some("tool_calls".to_owned()),
        ..LlmAnswer::default()
    };
    let tool = |id: &str, name: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
    let message = json!({ "content": null, "tool_calls": [
        tool("call_1", "get_weather", r#"{"city":"Ulm"}"#), tool("call_2", "now", ""),
    ] });
    let answer = json!({ "model": "gpt-5-2026", "usage": counted,
        "choices": [{ "index": 0, "message": message, "finish_reason": "tool_calls" }] });
    assert_eq!(whole(Endpoint::ChatCompletions, &answer), told);

    // serde_json writes members in the order of the alphabet: indexes come behind what they are for.
    let chunk = |delta: Value, finish: Value| {
        json!({ "model": "gpt-5-2026", "usage": null,
            "choices": [{ "delta": delta, "index": 0, "finish_reason": finish }] })
    };
    let delta = |index: u64, tool: Value| {
        let mut tool = tool;
        tool["index"] = index.into();
        chunk(json!({ "tool_calls": [tool] }), Value::Null)
    };
    let more = |arguments: &str| json!({ "function": { "arguments": arguments } });
    let events = [
        chunk(json!({ "role": "assistant", "content": "" }), Value::Null),
        delta(0, tool("call_1", "get_weather", "")),
        delta(1, tool("call_2", "now", "")),
        delta(0, more("{\"city\":")),
        delta(0, more("\"Ulm\"}")),
        chunk(json!({}), json!("tool_calls")),
        json!({ "model": "gpt-5-2026", "choices": [], "usage": counted }),
        json!("[DONE]"),
    ];
    assert_eq!(stream(Endpoint::ChatCompletions, &events), told);

    // Cut in the middle: the arguments did not come to their end.
    let cut = stream(Endpoint::ChatCompletions, &events[..4]);
    assert_eq!(cut.tool_calls[0].name, "get_weather");
    assert_eq!(cut.tool_calls[0].arguments, None);
    assert_eq!((cut.usage, cut.finish_reason), (None, None));
}

#[test]
fn errors_in_the_providers_words() {
    let error = json!({ "error": { "message": "You exceeded", "type": "insufficient_quota", "param": null, "code": "rate" } });
    assert_eq!(
        whole(Endpoint::ChatCompletions, &error).error.unwrap(),
        "rate"
    );
    assert_eq!(whole(Endpoint::Responses, &error).error.unwrap(), "rate");
    let error = json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } });
    assert_eq!(
        whole(Endpoint::Messages, &error).error.unwrap(),
        "overloaded_error"
    );
    assert_eq!(
        stream(Endpoint::Messages, &[error]).error.unwrap(),
        "overloaded_error"
    );
    let failed = json!({ "type": "response.failed", "response": { "status": "failed", "error": { "code": "server_error", "message": "x" } } });
    assert_eq!(
        stream(Endpoint::Responses, &[failed]).error.unwrap(),
        "server_error"
    );
}

#[test]
fn responses() {
    let counted = json!({ "input_tokens": 10, "output_tokens": 20, "total_tokens": 30,
        "input_tokens_details": { "cached_tokens": 0 }, "output_tokens_details": { "reasoning_tokens": 5 } });
    let told = LlmAnswer {
        model: Some("gpt-5".to_owned()),
        usage: usage(10, Some(0), None, 20, Some(5)),
        tool_calls: vec![
            AskedTool {
                name: "web_search".to_owned(),
                id: Some("ws_1".to_owned()),
                arguments: None,
            },
            asked("shell", Some("call_1"), r#"{"command":["ls"]}"#),
        ],
        finish_reason: Some("completed".to_owned()),
        ..LlmAnswer::default()
    };
    let output = json!([
        { "type": "reasoning", "id": "rs_1", "summary": [] },
        { "type": "web_search_call", "id": "ws_1", "status": "completed" },
        { "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "shell", "arguments": r#"{"command":["ls"]}"# },
        { "type": "message", "id": "msg_1", "content": [{ "type": "output_text", "text": "{\"type\":\"function_call\"}" }] },
    ]);
    let response = json!({ "id": "resp_1", "object": "response", "model": "gpt-5", "status": "completed",
        "error": null, "incomplete_details": null, "output": output, "usage": counted,
        "tools": [{ "type": "function", "name": "never_called" }] });
    assert_eq!(whole(Endpoint::Responses, &response), told);
    // The response at the end alone.
    let completed = json!({ "type": "response.completed", "response": response });
    assert_eq!(
        stream(Endpoint::Responses, std::slice::from_ref(&completed)),
        told
    );

    let item = |kind: &str, index: usize| json!({ "type": kind, "output_index": index, "item": output[index] });
    let mut begun = item("response.output_item.added", 2);
    begun["item"]["arguments"] = "".into();
    let mut events = vec![
        json!({ "type": "response.created", "response": { "status": "in_progress", "model": "gpt-5", "usage": null } }),
        item("response.output_item.added", 1),
        item("response.output_item.done", 1),
        begun,
        json!({ "type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{\"comm" }),
    ];
    let cut = stream(Endpoint::Responses, &events);
    assert_eq!(cut.tool_calls[1].arguments, None);
    assert_eq!(cut.finish_reason.as_deref(), Some("in_progress"));
    events.extend([item("response.output_item.done", 2), completed]);
    assert_eq!(stream(Endpoint::Responses, &events), told);

    let incomplete = json!({ "type": "response.incomplete", "response": { "status": "incomplete", "incomplete_details": { "reason": "max_output_tokens" } } });
    assert_eq!(
        stream(Endpoint::Responses, &[incomplete])
            .finish_reason
            .unwrap(),
        "max_output_tokens"
    );
    let counted = whole(
        Endpoint::ResponsesTokens,
        &json!({ "object": "response.input_tokens", "input_tokens": 11 }),
    );
    assert_eq!(counted.usage.unwrap().input_tokens, Some(11));
}

#[test]
fn messages() {
    let told = LlmAnswer {
        model: Some("claude-x".to_owned()),
        // What was cached is input, too.
        usage: usage(10 + 100 + 1000, Some(1000), Some(100), 20, None),
        tool_calls: vec![
            asked("Bash", Some("toolu_1"), r#"{"command":"ls"}"#),
            asked("now", Some("toolu_2"), "{}"),
        ],
        finish_reason: Some("tool_use".to_owned()),
        ..LlmAnswer::default()
    };
    let counts = |output: u64| {
        json!({ "input_tokens": 10, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 1000,
        "cache_creation": { "ephemeral_5m_input_tokens": 100 }, "output_tokens": output })
    };
    let tool = |id: &str, name: &str, input: Value| json!({ "type": "tool_use", "id": id, "name": name, "input": input });
    let message = json!({ "type": "message", "model": "claude-x", "stop_reason": "tool_use", "usage": counts(20), "content": [
        { "type": "text", "text": "I look." },
        tool("toolu_1", "Bash", json!({ "command": "ls" })),
        tool("toolu_2", "now", json!({})),
    ] });
    assert_eq!(whole(Endpoint::Messages, &message), told);

    let delta = |index: u64, text: &str| json!({ "type": "content_block_delta", "index": index, "delta": { "type": "input_json_delta", "partial_json": text } });
    let events = [
        json!({ "type": "message_start", "message": { "type": "message", "model": "claude-x", "content": [], "stop_reason": null, "usage": counts(1) } }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "ping" }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "I look." } }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "content_block_start", "index": 1, "content_block": tool("toolu_1", "Bash", json!({})) }),
        delta(1, ""),
        delta(1, "{\"command\":"),
        delta(1, "\"ls\"}"),
        json!({ "type": "content_block_stop", "index": 1 }),
        json!({ "type": "content_block_start", "index": 2, "content_block": tool("toolu_2", "now", json!({})) }),
        json!({ "type": "content_block_stop", "index": 2 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" }, "usage": { "output_tokens": 20 } }),
        json!({ "type": "message_stop" }),
    ];
    assert_eq!(stream(Endpoint::Messages, &events), told);
    let cut = stream(Endpoint::Messages, &events[..8]);
    assert_eq!(cut.tool_calls[0].arguments, None);
    assert_eq!(cut.usage.unwrap().output_tokens, Some(1));
    let counted = whole(Endpoint::MessagesTokens, &json!({ "input_tokens": 2095 }));
    assert_eq!(counted.usage.unwrap().input_tokens, Some(2095));
}

#[test]
fn where_a_message_was_served_is_told_in_its_usage() {
    for (geo, regional) in [
        (json!("us"), true),
        (json!("global"), false),
        (json!("not_available"), false),
        (Value::Null, false),
    ] {
        let usage = json!({ "input_tokens": 10, "output_tokens": 1, "inference_geo": geo });
        let message = json!({ "type": "message", "content": [], "usage": usage });
        let told = whole(Endpoint::Messages, &message).usage.unwrap();
        assert_eq!(told.regional, regional, "{geo}");
        // It stands where a stream begins, and not where it ends.
        let events = [
            json!({ "type": "message_start", "message": message }),
            json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": 20 } }),
        ];
        let told = stream(Endpoint::Messages, &events).usage.unwrap();
        assert_eq!((told.output_tokens, told.regional), (Some(20), regional));
    }
}

/// Tools of a set are called by their own name, which another tool may have.
#[test]
fn a_tool_of_a_set_is_asked_about_by_both_names() {
    let block = json!({ "type": "tool_use", "id": "t", "name": "key", "toolset_name": "computer", "input": { "text": "x" } });
    let asks = |reader: AnswerReader| reader.asks().unwrap();
    let mut reader = AnswerReader::new(Endpoint::Messages);
    reader.whole(json!({ "content": [block, block] }).to_string().as_bytes());
    reader.whole_ends();
    assert_eq!(asks(reader), ["key", "key", "computer.key"]);
    let mut reader = AnswerReader::new(Endpoint::Messages);
    let begun = json!({ "type": "content_block_start", "index": 0, "content_block": block });
    reader.data(begun.to_string().as_bytes());
    reader.event_ends(b"");
    assert_eq!(asks(reader), ["key", "computer.key"]);
    let item = json!({ "type": "function_call", "call_id": "c", "name": "delete", "namespace": "files", "arguments": "{}" });
    for kind in ["response.output_item.added", "response.output_item.done"] {
        let mut reader = AnswerReader::new(Endpoint::Responses);
        let event = json!({ "type": kind, "output_index": 0, "item": item });
        reader.data(event.to_string().as_bytes());
        reader.event_ends(b"");
        assert_eq!(asks(reader), ["delete", "files.delete"], "{kind}");
    }
    let mut reader = AnswerReader::new(Endpoint::Responses);
    reader.whole(json!({ "output": [item] }).to_string().as_bytes());
    reader.whole_ends();
    assert_eq!(asks(reader), ["delete", "files.delete"]);
}

/// Their names are kept, and asked about, as long as the answer goes on.
#[test]
fn an_answer_that_names_ever_more_sets_is_not_read() {
    let mut reader = AnswerReader::new(Endpoint::Responses);
    for set in 0..=MAX_TOOL_CALLS {
        assert!(reader.asks().is_ok(), "{set}");
        let item = json!({ "type": "function_call", "call_id": "c", "name": "look", "namespace": format!("s{set}") });
        let event = json!({ "type": "response.completed", "response": { "output": [item] } });
        reader.data(event.to_string().as_bytes());
        reader.event_ends(b"");
    }
    assert_eq!(reader.asks(), Err(NotUnderstood::ToolCalls));
}

#[test]
fn parts_of_what_is_counted_are_told() {
    let iteration = |kind: &str, output: u64| {
        json!({ "type": kind, "input_tokens": 100, "output_tokens": output,
        "cache_read_input_tokens": 7, "cache_creation_input_tokens": 0, "cache_creation": { "ephemeral_5m_input_tokens": 5 } })
    };
    let of_messages = json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "input_tokens": 10, "output_tokens": 20,
        "output_tokens_details": { "thinking_tokens": 15 },
        "iterations": [iteration("message", 20), iteration("compaction", 3), iteration("advisor_message", 4)] } });
    // Those that the counts leave out are added, and once, however often they are told.
    let told = usage(10 + 2 * 107, Some(14), Some(0), 27, Some(15));
    for times in 1..3 {
        let events = vec![of_messages.clone(); times];
        assert_eq!(stream(Endpoint::Messages, &events).usage, told);
    }
    let chat = json!({ "prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": { "cached_tokens": 10, "cache_write_tokens": 50 } });
    let told = usage(100, Some(10), Some(50), 9, None);
    assert_eq!(
        whole(
            Endpoint::ChatCompletions,
            &json!({ "choices": [], "usage": chat })
        )
        .usage,
        told
    );
    let groq = [json!({ "choices": [], "x_groq": { "id": "r", "usage": chat } })];
    assert_eq!(stream(Endpoint::ChatCompletions, &groq).usage, told);
    let responses = json!({ "status": "completed", "usage": { "input_tokens": 100, "output_tokens": 9,
        "input_tokens_details": { "cached_tokens": 10, "cache_write_tokens": 50 } } });
    assert_eq!(whole(Endpoint::Responses, &responses).usage, told);
}

#[test]
fn what_is_not_understood_of_an_answer_is_told_and_what_came_before_counts() {
    let started = json!({ "type": "message_start", "message": { "model": "claude-x" } });
    let told = stream(
        Endpoint::Messages,
        &[
            started,
            json!("{\"type\":"),
            json!({ "type": "message_delta", "delta": { "stop_reason": "x" } }),
        ],
    );
    assert_eq!(told.model.as_deref(), Some("claude-x"));
    assert_eq!(told.finish_reason, None);
    assert_eq!(
        told.not_understood.as_deref(),
        Some("the JSON ends in the middle")
    );
    let tools = vec![json!({ "function": { "name": "x" } }); MAX_TOOL_CALLS + 1];
    let many = whole(
        Endpoint::ChatCompletions,
        &json!({ "choices": [{ "message": { "tool_calls": tools } }] }),
    );
    assert_eq!(many.tool_calls.len(), MAX_TOOL_CALLS);
    assert!(many.not_understood.unwrap().contains("128"));
    // Neither says anything.
    assert_eq!(
        stream(Endpoint::ChatCompletions, &[json!(""), json!("[DONE]")]),
        LlmAnswer::default()
    );
    assert_eq!(whole(Endpoint::Embeddings, &json!({ "data": [{ "embedding": [0.5, -1e-3] }], "model": "e", "usage": { "prompt_tokens": 8, "total_tokens": 8 } })).usage.unwrap().input_tokens, Some(8));
}

#[test]
fn the_calls_of_a_batch_are_one() {
    let batch = |model: &str, more: &str| {
        format!(
            r#"{{"requests":[{{"custom_id":"a","params":{{"model":"m","max_tokens":5,"tools":[{{"name":"ls"}}]}}}},
                {{"params":{{"max_tokens":7,"tools":[{{"name":"bash"}}],"model":"{model}"}}}}{more}]}}"#
        )
    };
    let read = call(Endpoint::MessageBatches, &batch("m", ""));
    let read = read.unwrap();
    assert_eq!(read.model.as_deref(), Some("m"));
    assert_eq!(read.max_output_tokens, Some(7));
    assert_eq!(read.tools, ["ls", "bash"]);
    for (text, why) in [
        (batch("other", ""), NotUnderstood::Wrong("model")),
        (
            batch("m", r#",{"params":{}}"#),
            NotUnderstood::Wrong("model"),
        ),
        (
            batch("m", r#",{"params":[]}"#),
            NotUnderstood::Wrong("model"),
        ),
        (
            batch("m", r#",{"Params":{}}"#),
            NotUnderstood::Case("params"),
        ),
        (
            r#"{"Requests":[]}"#.to_owned(),
            NotUnderstood::Case("requests"),
        ),
    ] {
        assert_eq!(call(Endpoint::MessageBatches, &text), Err(why), "{text}");
    }
    for unread in [
        Endpoint::Batches,
        Endpoint::Realtime,
        Endpoint::RealtimeBeside,
    ] {
        assert_eq!(call(unread, "{}"), Err(NotUnderstood::Form));
    }
}

#[test]
fn whom_a_call_is_for_is_read_where_it_says_so_once() {
    let user = |endpoint, body: &str| call(endpoint, body).unwrap().user;
    for (endpoint, body, expected) in [
        (Endpoint::ChatCompletions, r#"{"user":"ann"}"#, Some("ann")),
        (
            Endpoint::Responses,
            r#"{"safety_identifier":"ann"}"#,
            Some("ann"),
        ),
        (
            Endpoint::Responses,
            r#"{"user":"ann","safety_identifier":"ann"}"#,
            Some("ann"),
        ),
        (
            Endpoint::Responses,
            r#"{"user":"ann","safety_identifier":"bob"}"#,
            None,
        ),
        (
            Endpoint::Messages,
            r#"{"metadata":{"user_id":"ann"},"user":"bob"}"#,
            Some("ann"),
        ),
        (
            Endpoint::ChatCompletions,
            r#"{"metadata":{"user_id":"ann"}}"#,
            None,
        ),
        (Endpoint::ChatCompletions, r#"{"user":7}"#, None),
    ] {
        assert_eq!(user(endpoint, body).as_deref(), expected, "{body}");
    }
    let long = format!(r#"{{"user":"{}"}}"#, "x".repeat(257));
    assert_eq!(user(Endpoint::ChatCompletions, &long), None);
}

#[test]
fn calls_stand_inside_of_what_has_many_or_is_counted() {
    let found = |endpoint: Endpoint, document: &str| {
        let mut changed = crate::json::Value::read(document.as_bytes(), 1 << 16).unwrap();
        let edits = crate::json::edit::Edits {
            redact: vec![crate::json::Pointer::parse("/user").unwrap()],
            ..Default::default()
        };
        let mut room = 1000;
        edits
            .apply_inside(&mut changed, &endpoint.inside(), &mut room)
            .unwrap();
        changed.written().matches("[redacted]").count()
    };
    for (endpoint, document, count) in [
        (Endpoint::Messages, r#"{"user":1}"#, 1),
        (
            Endpoint::MessageBatches,
            r#"{"requests":[{"params":{"user":1}},{"params":{"user":2}}]}"#,
            2,
        ),
        (
            Endpoint::ContentTokens,
            r#"{"generateContentRequest":{"user":1}}"#,
            1,
        ),
        (Endpoint::ContentTokens, r#"{"user":1}"#, 1),
        (Endpoint::EmbedContent, r#"{"requests":[{"user":1}]}"#, 1),
        (
            Endpoint::BedrockTokens,
            r#"{"input":{"converse":{"user":1}}}"#,
            1,
        ),
    ] {
        assert_eq!(found(endpoint, document), count, "{document}");
    }
}
