use agentguard_model::Demand;

use crate::llm::tests::whole_call;
use crate::llm::{Endpoint, InvokeForm, Said, SaidReader};

const CHAT: Endpoint = Endpoint::ChatCompletions;
const GEMINI: Endpoint = Endpoint::GenerateContent { stream: true };
const CONVERSE: Endpoint = Endpoint::Converse { stream: false };

fn demand(endpoint: Endpoint, body: &str) -> Demand {
    let read = whole_call(endpoint, body);
    read.unwrap_or_else(|why| panic!("{why}: {body}")).demand
}

#[test]
fn a_call_of_chat_completions() {
    let body = r#"{"model":"gpt-5","n":3,"reasoning_effort":"none","service_tier":"flex",
        "tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object",
            "properties":{"tools":{"type":"array"},"n":{"type":"integer"},"type":{"type":"string"}}}}}],
        "messages":[{"role":"system","content":"a"},
            {"role":"user","content":[{"type":"text","text":"b"},
                {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},
                {"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}},
                {"type":"file","file":{"file_data":"data:application/pdf;base64,AAAA"}}]},
            {"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function",
                "function":{"name":"look","arguments":"{\"type\":\"image_url\"}"}}]}]}"#;
    let expected = Demand {
        answers: 3,
        reasons: Some(false),
        told_in_openai_form: true,
        background: false,
        silent: false,
        serves_tools: false,
        media: 3,
        pictures: 1,
        plain_pictures: 0,
        picture_bytes: 26,
        short_caches: false,
        refers: false,
        // A tool, three messages, four parts of one, and a call.
        parts: 9,
        tier: Some("flex".to_owned()),
        regional: false,
    };
    assert_eq!(demand(CHAT, body), expected);
}

#[test]
fn a_call_of_responses() {
    let body = r#"{"model":"gpt-5","instructions":"a","reasoning":{"effort":"minimal"},"store":false,
        "tools":[{"type":"function","name":"f"},{"type":"local_shell"},{"type":"custom","name":"apply_patch"},
            {"type":"tool_search","execution":"client"},{"environment":{"type":"local"},"type":"shell"}],
        "input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"b"},
                {"type":"input_image","image_url":"data:image/png;base64,AAAA"}]},
            {"role":"user","content":"c"},
            {"type":"reasoning","summary":[],"encrypted_content":"AAAA"},
            {"type":"function_call","call_id":"a","name":"f","arguments":"{}"},
            {"type":"function_call_output","call_id":"a","output":[{"type":"input_text","text":"d"}]}]}"#;
    let expected = Demand {
        reasons: Some(true),
        media: 1,
        pictures: 1,
        picture_bytes: 26,
        parts: 11,
        ..Demand::default()
    };
    assert_eq!(demand(Endpoint::Responses, body), expected);
}

#[test]
fn what_goes_on_when_nobody_waits_says_so() {
    for (background, expected) in [
        (r#","background":true"#, true),
        (r#","background":"yes""#, true),
        (r#","background":false"#, false),
        (r#","background":null"#, false),
        ("", false),
    ] {
        let body = format!(r#"{{"model":"m","input":"a","stream":true{background}}}"#);
        assert_eq!(
            demand(Endpoint::Responses, &body).background,
            expected,
            "{body}"
        );
    }
}

#[test]
fn a_call_of_messages() {
    let body = r#"{"model":"claude-x","thinking":{"type":"adaptive"},"service_tier":"auto","speed":"standard",
        "system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}],
        "tools":[{"name":"Bash","input_schema":{"type":"object"}},{"type":"bash_20250124","name":"bash"},
            {"type":"custom","name":"x","input_schema":{"type":"object"}}],
        "messages":[{"role":"user","content":"b"},
            {"role":"assistant","content":[{"type":"thinking","thinking":"c","signature":"d"},
                {"type":"tool_use","id":"e","name":"Fetch","input":{"url":"https://x.example","type":"image"}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"e","content":[
                {"type":"text","text":"f"},
                {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}]}"#;
    let expected = Demand {
        reasons: Some(true),
        media: 1,
        pictures: 1,
        picture_bytes: 4,
        short_caches: true,
        parts: 10,
        tier: Some("auto".to_owned()),
        ..Demand::default()
    };
    assert_eq!(demand(Endpoint::Messages, body), expected);
    let invoke = Endpoint::Invoke {
        stream: true,
        form: InvokeForm::Messages,
    };
    assert_eq!(demand(invoke, body), expected);
}

#[test]
fn a_call_of_gemini_in_either_spelling() {
    let body = r#"{"contents":[{"role":"user","parts":[{"text":"a"},
            {"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}],
        "systemInstruction":{"parts":[{"text":"b"}]},"tools":[{"functionDeclarations":[{"name":"f"}]}],
        "generationConfig":{"candidateCount":2,"thinkingConfig":{"thinkingBudget":0}}}"#;
    let expected = Demand {
        answers: 2,
        reasons: Some(false),
        media: 1,
        pictures: 1,
        picture_bytes: 4,
        parts: 6,
        ..Demand::default()
    };
    assert_eq!(demand(GEMINI, body), expected);
    let snake = body
        .replace("inlineData", "inline_data")
        .replace("systemInstruction", "system_instruction")
        .replace("functionDeclarations", "function_declarations")
        .replace("generationConfig", "generation_config")
        .replace("candidateCount", "candidate_count")
        .replace("thinkingConfig", "thinking_config")
        .replace("thinkingBudget", "thinking_budget");
    assert_eq!(demand(GEMINI, &snake), expected);
    let inside = format!(r#"{{"generateContentRequest":{body}}}"#);
    assert_eq!(demand(Endpoint::ContentTokens, &inside), expected);
    let both = r#"{"generationConfig":{"candidateCount":1,"candidate_count":4}}"#;
    assert_eq!(demand(GEMINI, both).answers, 4);
    let level =
        r#"{"generationConfig":{"thinkingConfig":{"thinkingBudget":0,"thinkingLevel":"low"}}}"#;
    assert_eq!(demand(GEMINI, level).reasons, Some(true));
}

#[test]
fn a_call_of_converse_and_what_it_passes_on() {
    let body = r#"{"messages":[{"role":"user","content":[{"text":"a"},
            {"image":{"format":"png","source":{"bytes":"AAAA"}}},
            {"toolResult":{"toolUseId":"b","content":[{"json":{"image":{}}},
                {"document":{"format":"pdf","name":"c","source":{"s3Location":{"uri":"s3://x/y"}}}}]}}]}],
        "system":[{"text":"d"}],"toolConfig":{"tools":[{"toolSpec":{"name":"f","inputSchema":{"json":{}}}}]},
        "serviceTier":{"type":"priority"},
        "additionalModelRequestFields":{"thinking":{"type":"enabled","budget_tokens":1024}}}"#;
    let expected = Demand {
        reasons: Some(true),
        media: 2,
        pictures: 1,
        picture_bytes: 4,
        refers: true,
        parts: 6,
        tier: Some("priority".to_owned()),
        ..Demand::default()
    };
    assert_eq!(demand(CONVERSE, body), expected);
    let counted = format!(r#"{{"input":{{"converse":{body}}}}}"#);
    assert_eq!(demand(Endpoint::BedrockTokens, &counted), expected);
    let own = r#"{"toolConfig":{"tools":[{"systemTool":{"name":"nova_grounding"}}]}}"#;
    assert!(demand(CONVERSE, own).serves_tools);
}

#[test]
fn calls_of_ollama_and_cohere() {
    let body = r#"{"model":"m","think":false,"messages":[{"role":"user","content":"a","images":["AAAA","AAAA"]}],
        "tools":[{"type":"function","function":{"name":"f"}}]}"#;
    let expected = Demand {
        reasons: Some(false),
        media: 2,
        parts: 2,
        ..Demand::default()
    };
    assert_eq!(demand(Endpoint::OllamaChat, body), expected);
    let generate = r#"{"model":"m","prompt":"a","images":["AAAA"],"think":"high"}"#;
    let asks = demand(Endpoint::OllamaGenerate, generate);
    assert_eq!((asks.media, asks.reasons), (1, Some(true)));
    let first = r#"{"model":"m","message":"a","chat_history":[{"role":"USER","message":"b"}],
        "connectors":[{"id":"web-search"}],"conversation_id":"c"}"#;
    let asks = demand(Endpoint::CohereChat, first);
    assert_eq!(
        (asks.parts, asks.serves_tools, asks.refers),
        (1, true, true)
    );
    let generations = demand(Endpoint::CohereGenerate, r#"{"num_generations":5}"#);
    assert_eq!(generations.answers, 5);
}

#[test]
fn what_the_provider_runs_is_told_from_what_its_client_does() {
    use Endpoint::{Messages, Responses};
    for (endpoint, tools, serves) in [
        (Responses, r#"{"type":"web_search"}"#, true),
        (Responses, r#"{"type":"file_search"}"#, true),
        (Responses, r#"{"type":"code_interpreter"}"#, true),
        (
            Responses,
            r#"{"type":"mcp","server_label":"a","server_url":"b"}"#,
            true,
        ),
        (Responses, r#"{"type":"of_tomorrow"}"#, true),
        (Responses, r#"{"type":"shell"}"#, true),
        (
            Responses,
            r#"{"type":"shell","environment":{"type":"container_auto"}}"#,
            true,
        ),
        // What one says of itself is not said of the next.
        (
            Responses,
            r#"{"type":"shell","environment":{"type":"local"}},{"type":"tool_search"}"#,
            true,
        ),
        (
            Responses,
            r#"{"type":"namespace","name":"a","tools":[{"type":"function","name":"b"}]}"#,
            false,
        ),
        (
            Responses,
            r#"{"type":"namespace","name":"a","tools":[{"type":"web_search"}]}"#,
            true,
        ),
        (Responses, r#"{"type":"computer"}"#, false),
        (
            Messages,
            r#"{"type":"text_editor_20250728","name":"a"}"#,
            false,
        ),
        (
            Messages,
            r#"{"type":"web_search_20250305","name":"a"}"#,
            true,
        ),
        (
            Messages,
            r#"{"type":"web_fetch_20250910","name":"a"}"#,
            true,
        ),
        (
            Messages,
            r#"{"type":"code_execution_20250825","name":"a"}"#,
            true,
        ),
        (GEMINI, r#"{"googleSearch":{}}"#, true),
        (GEMINI, r#"{"code_execution":{}}"#, true),
        (GEMINI, r#"{"urlContext":{}}"#, true),
        (
            GEMINI,
            r#"{"computerUse":{"environment":"ENVIRONMENT_BROWSER"}}"#,
            false,
        ),
    ] {
        let body = format!(r#"{{"tools":[{tools}]}}"#);
        assert_eq!(demand(endpoint, &body).serves_tools, serves, "{tools}");
    }
    for (endpoint, body) in [
        (CHAT, r#"{"web_search_options":{}}"#),
        (CHAT, r#"{"plugins":[{"id":"web"}]}"#),
        (CHAT, r#"{"search_parameters":{"mode":"auto"}}"#),
        (CHAT, r#"{"data_sources":[{"type":"azure_search"}]}"#),
        (CHAT, r#"{"agent_id":"ag_1"}"#),
        (Messages, r#"{"mcp_servers":[{"type":"url","name":"a"}]}"#),
        (
            Messages,
            r#"{"context_management":{"edits":[{"type":"compact_20260112"}]}}"#,
        ),
        (
            Responses,
            r#"{"input":[{"type":"additional_tools","tools":[{"type":"web_search"}]}]}"#,
        ),
    ] {
        assert!(demand(endpoint, body).serves_tools, "{body}");
    }
    let cleared = r#"{"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}}"#;
    assert!(!demand(Messages, cleared).serves_tools);
}

#[test]
fn what_stands_elsewhere_is_told() {
    use Endpoint::{Messages, Responses};
    for (endpoint, body) in [
        (Responses, r#"{"previous_response_id":"resp_1"}"#),
        (Responses, r#"{"conversation":{"id":"conv_1"}}"#),
        (Responses, r#"{"conversation":"conv_1"}"#),
        (Responses, r#"{"prompt":{"id":"pmpt_1"}}"#),
        (
            Responses,
            r#"{"input":[{"type":"item_reference","id":"a"}]}"#,
        ),
        (Responses, r#"{"input":[{"id":"msg_1"}]}"#),
        (
            Responses,
            r#"{"input":[{"type":"web_search_call","id":"a"}]}"#,
        ),
        (
            Responses,
            r#"{"input":[{"role":"user","content":[{"type":"input_file","file_id":"file_1"}]}]}"#,
        ),
        (
            Responses,
            r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x.example/y"}]}]}"#,
        ),
        (
            CHAT,
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"HTTPS://x.example/y"}}]}]}"#,
        ),
        (
            CHAT,
            r#"{"messages":[{"role":"assistant","audio":{"id":"a"}}]}"#,
        ),
        (Messages, r#"{"container":"c"}"#),
        (
            Messages,
            r#"{"messages":[{"content":[{"type":"document","source":{"type":"url","url":"https://x.example"}}]}]}"#,
        ),
        (
            Messages,
            r#"{"messages":[{"content":[{"type":"container_upload","file_id":"a"}]}]}"#,
        ),
        (GEMINI, r#"{"cachedContent":"cachedContents/a"}"#),
        (
            GEMINI,
            r#"{"contents":[{"parts":[{"file_data":{"file_uri":"gs://a/b"}}]}]}"#,
        ),
        (CONVERSE, r#"{"promptVariables":{"a":{"text":"b"}}}"#),
    ] {
        assert!(demand(endpoint, body).refers, "{body}");
    }
    for (endpoint, body) in [
        (
            Responses,
            r#"{"previous_response_id":null,"conversation":null}"#,
        ),
        (Responses, r#"{"input":"https://x.example"}"#),
        (
            Messages,
            r#"{"messages":[{"content":[{"type":"web_search_tool_result","content":[
                {"type":"web_search_result","url":"https://x.example","encrypted_content":"a"}]}]}]}"#,
        ),
        (Endpoint::Completions, r#"{"prompt":"a"}"#),
    ] {
        assert!(!demand(endpoint, body).refers, "{body}");
    }
}

#[test]
fn who_says_that_nothing_is_asked_for_has_to_be_understood() {
    use Endpoint::{CohereChat, Messages, OllamaChat, Responses};
    for (endpoint, body, reasons) in [
        (CHAT, r#"{"reasoning_effort":"low"}"#, Some(true)),
        (CHAT, r#"{"Reasoning_Effort":"low"}"#, Some(true)),
        (CHAT, r#"{"thinking":{"type":"disabled"}}"#, None),
        (CHAT, r#"{"thinking":{"type":"enabled"}}"#, Some(true)),
        (CHAT, r#"{"enable_thinking":false}"#, None),
        (
            CHAT,
            r#"{"reasoning_effort":"none","enable_thinking":true}"#,
            Some(true),
        ),
        (CHAT, r#"{"reasoning_effort":null}"#, None),
        (
            CHAT,
            r#"{"extra_body":{"google":{"thinking_config":{"thinking_budget":0}}}}"#,
            None,
        ),
        (Responses, r#"{"reasoning":{"effort":"none"}}"#, Some(false)),
        (Responses, r#"{"reasoning":{"summary":"auto"}}"#, None),
        (
            Responses,
            r#"{"reasoning_effort":"none","reasoning":{}}"#,
            None,
        ),
        (Messages, r#"{"thinking":{"type":"disabled"}}"#, Some(false)),
        (
            Messages,
            r#"{"thinking":{"type":"enabled","budget_tokens":2048}}"#,
            Some(true),
        ),
        (Messages, r#"{"think":false}"#, None),
        (
            CohereChat,
            r#"{"thinking":{"type":"disabled"}}"#,
            Some(false),
        ),
        (OllamaChat, r#"{"think":true}"#, Some(true)),
    ] {
        assert_eq!(demand(endpoint, body).reasons, reasons, "{body}");
    }
}

#[test]
fn answers_are_counted_as_the_most_lenient_server_would() {
    for (endpoint, body, answers) in [
        (CHAT, r#"{}"#, 0),
        (CHAT, r#"{"n":null}"#, 0),
        (CHAT, r#"{"n":"4"}"#, 4),
        (CHAT, r#"{"n":2.0,"N":3}"#, 3),
        (CHAT, r#"{"n":1e2}"#, 100),
        (CHAT, r#"{"n":-1}"#, 0),
        (CHAT, r#"{"n":1e999}"#, u32::MAX),
        (CHAT, r#"{"n":"many"}"#, u32::MAX),
        (Endpoint::Completions, r#"{"n":2,"best_of":5}"#, 5),
        (
            Endpoint::Completions,
            r#"{"prompt":["a","b","c"],"n":2}"#,
            6,
        ),
        (Endpoint::Completions, r#"{"prompt":[[1,2],[3]]}"#, 2),
        (Endpoint::Completions, r#"{"prompt":[1,2,3]}"#, 0),
        (
            Endpoint::MessageBatches,
            r#"{"requests":[{"params":{"model":"m"}},{"params":{"model":"m"}}]}"#,
            2,
        ),
    ] {
        assert_eq!(demand(endpoint, body).answers, answers, "{body}");
    }
}

#[test]
fn a_tier_is_no_longer_than_a_word_may_be() {
    let long = "é".repeat(1000);
    let body = format!(r#"{{"service_tier":"{long}"}}"#);
    let tier = demand(CHAT, &body).tier.unwrap();
    assert_eq!(tier, "é".repeat(128));
    let fast = r#"{"speed":"fast","service_tier":"standard_only"}"#;
    assert_eq!(demand(Endpoint::Messages, fast).tier.unwrap(), "fast");
}

#[test]
fn calls_of_a_batch_are_of_its_tier() {
    for (more, tier) in [
        ("", "batch"),
        (r#","service_tier":"auto""#, "batch"),
        (r#","service_tier":"standard_only""#, "batch"),
        (r#","speed":"fast""#, "fast"),
        (r#","service_tier":"auto","speed":"fast""#, "fast"),
        (r#","service_tier":"priority""#, "priority"),
    ] {
        let batch = format!(
            r#"{{"requests":[{{"params":{{"model":"m"}}}},{{"params":{{"model":"m"{more}}}}}]}}"#
        );
        let told = demand(Endpoint::MessageBatches, &batch).tier;
        assert_eq!(told.as_deref(), Some(tier), "{more}");
    }
    assert_eq!(demand(Endpoint::Messages, r#"{"model":"m"}"#).tier, None);
}

#[test]
fn a_region_is_told_unless_it_is_any() {
    for (body, regional) in [
        (r#"{"model":"m"}"#, false),
        (r#"{"inference_geo":"global"}"#, false),
        (r#"{"inference_geo":null}"#, false),
        (r#"{"inference_geo":"us"}"#, true),
        (r#"{"Inference_Geo":"us"}"#, true),
        (r#"{"inference_geo":"us","Inference_Geo":"global"}"#, true),
        (r#"{"inference_geo":"nowhere that is known"}"#, true),
        (r#"{"metadata":{"inference_geo":"us"}}"#, false),
    ] {
        let told = demand(Endpoint::Messages, body).regional;
        assert_eq!(told, regional, "{body}");
    }
    let batch =
        r#"{"requests":[{"params":{"model":"m"}},{"params":{"model":"m","inference_geo":"us"}}]}"#;
    assert!(demand(Endpoint::MessageBatches, batch).regional);
}

/// Its media, how many of them are pictures that are in it, how many are looked at in no more than high detail, and their bytes.
fn pictures(endpoint: Endpoint, body: &str) -> (u32, u32, u32, u64) {
    let it = demand(endpoint, body);
    // Whoever counts what is said takes them out of what is set aside, where all of them have to be.
    let mut aside = 0;
    let mut tell = |said: Said<'_>| {
        if let Said::Aside(bytes) = said {
            aside += bytes;
        }
    };
    let mut reader = SaidReader::default();
    reader.push(body.as_bytes(), &mut tell).unwrap();
    reader.finish(&mut tell).unwrap();
    assert!(aside >= it.picture_bytes, "{aside}: {body}");
    (it.media, it.pictures, it.plain_pictures, it.picture_bytes)
}

#[test]
fn pictures_are_told_from_what_may_be_of_any_length() {
    use Endpoint::{Messages, Responses};
    for (endpoint, body, expected) in [
        (
            Messages,
            r#"{"messages":[{"content":[{"source":{"type":"base64","media_type":"image/png","data":"AAAA\/AAA"},"type":"image"},
                {"type":"tool_result","content":[{"type":"image","source":{"type":"base64","data":"BBBB"}}]}]}]}"#,
            (2, 2, 0, 12),
        ),
        (
            CHAT,
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"detail":"low","url":"data:image/png;base64,AAAA"}},
                {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"auto"}},
                {"type":"image_url","detail":"low","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#,
            (3, 3, 1, 78),
        ),
        (
            Responses,
            r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,AAAA","detail":"high"}]},
                {"type":"function_call_output","call_id":"a","output":[
                    {"type":"input_image","image_url":"data:image/png;base64,AAAA"}]}]}"#,
            (2, 2, 1, 52),
        ),
        (
            GEMINI,
            r#"{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}},
                {"inline_data":{"data":"AAAA","mime_type":"image/jpeg"}}]}]}"#,
            (2, 2, 0, 8),
        ),
        (
            CONVERSE,
            r#"{"messages":[{"role":"user","content":[{"image":{"format":"png","source":{"bytes":"AAAA"}}},
                {"toolResult":{"toolUseId":"a","content":[{"image":{"format":"png","source":{"bytes":"AAAA"}}}]}}]}]}"#,
            (2, 2, 0, 8),
        ),
    ] {
        assert_eq!(pictures(endpoint, body), expected, "{body}");
    }
}

/// Servers differ on which of several members of one name they take.
#[test]
fn what_is_said_twice_of_a_picture_is_not_read() {
    let url = r#""url":"data:image/png;base64,AAAA""#;
    for of in [
        r#""detail":"original","detail":"low""#,
        r#""detail":"low","\u0064etail":"original""#,
        r#""detail":"low","detail":null"#,
    ] {
        let body = format!(
            r#"{{"messages":[{{"content":[{{"type":"image_url","image_url":{{{url},{of}}}}}]}}]}}"#
        );
        let read = whole_call(CHAT, &body);
        let error = read.expect_err("twice").to_string();
        assert!(error.contains("a member twice"), "{error}");
    }
}

#[test]
fn what_says_that_it_is_a_picture_and_is_read_otherwise_is_none() {
    use Endpoint::{Messages, Responses};
    for (endpoint, body) in [
        // A document is a text that is read as it stands.
        (
            Messages,
            r#"{"messages":[{"content":[{"type":"document","source":{"type":"text","data":"a long text"}}]}]}"#,
        ),
        // What has a part within it.
        (
            Messages,
            r#"{"messages":[{"content":[{"type":"image","source":{"data":"AAAA"},"content":[{"type":"text","text":"a"}]}]}]}"#,
        ),
        (
            Messages,
            r#"{"messages":[{"content":[{"type":"document","content":{"type":"image"},"source":{"data":"a long text"}}]}]}"#,
        ),
        // In another place than its own, and in the form of another provider.
        (
            Messages,
            r#"{"messages":[{"content":[{"type":"image","within":{"source":{"data":"AAAA"}}}]}]}"#,
        ),
        (
            Messages,
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#,
        ),
        (
            CHAT,
            r#"{"messages":[{"content":[{"type":"file","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#,
        ),
        (
            CHAT,
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:application/pdf;base64,AAAA"}}]}]}"#,
        ),
        // In what a model gave to a tool, or a tool gave back as JSON.
        (
            Messages,
            r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"b","input":{"content":[
                {"type":"image","source":{"type":"base64","data":"a long text"}}]}}]}]}"#,
        ),
        (
            GEMINI,
            r#"{"contents":[{"parts":[{"functionCall":{"name":"a","args":{"inlineData":
                {"mimeType":"image/png","data":"a long text"}}}}]}]}"#,
        ),
        (
            GEMINI,
            r#"{"contents":[{"parts":[{"functionResponse":{"name":"a","response":{"parts":[{"inlineData":
                {"mimeType":"image/png","data":"a long text"}}]}}}]}]}"#,
        ),
        (
            CONVERSE,
            r#"{"messages":[{"content":[{"toolUse":{"toolUseId":"a","name":"b","input":{"content":[
                {"image":{"source":{"bytes":"a long text"}}}]}}}]}]}"#,
        ),
        (
            CONVERSE,
            r#"{"messages":[{"content":[{"toolResult":{"toolUseId":"a","content":[{"json":{"content":[
                {"image":{"source":{"bytes":"a long text"}}}]}}]}}]}]}"#,
        ),
        // It is not in the call.
        (
            Responses,
            r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x.example/y"}]}]}"#,
        ),
        (
            GEMINI,
            r#"{"contents":[{"parts":[{"inlineData":{"mimeType":"application/pdf","data":"AAAA"}}]}]}"#,
        ),
        (
            GEMINI,
            r#"{"contents":[{"parts":[{"inlineData":{"mimeType":"image/gif","data":"AAAA"}}]}]}"#,
        ),
        (
            CONVERSE,
            r#"{"messages":[{"content":[{"document":{"format":"pdf","source":{"bytes":"AAAA"}}}]}]}"#,
        ),
    ] {
        let (media, pictures, plain, bytes) = pictures(endpoint, body);
        assert!(media > 0, "{body}");
        assert_eq!((pictures, plain, bytes), (0, 0, 0), "{body}");
    }
}

#[test]
fn caches_are_short_where_the_call_says_so_of_each() {
    let short = |endpoint, body: &str| demand(endpoint, body).short_caches;
    for (body, expected) in [
        (
            r#"{"system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}"#,
            true,
        ),
        (r#"{"cache_control":{"type":"ephemeral","ttl":"5m"}}"#, true),
        (r#"{"cache_control":{"type":"ephemeral","ttl":null}}"#, true),
        (
            r#"{"cache_control":{"type":"ephemeral","ttl":"1h"}}"#,
            false,
        ),
        (r#"{"cache_control":{"type":"ephemeral","ttl":300}}"#, false),
        (r#"{"cache_control":"ephemeral"}"#, false),
        // One that is kept longer makes all that is written one of which nobody knows.
        (
            r#"{"system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral","ttl":"1h"}}],
                "messages":[{"content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}]}"#,
            false,
        ),
        (
            r#"{"tools":[{"name":"a","input_schema":{},"cache_control":{"ttl":"1h"}}],"cache_control":{"type":"ephemeral"}}"#,
            false,
        ),
        // A tool of the provider's may write caches of its own.
        (
            r#"{"tools":[{"type":"web_search_20250305","name":"web_search"}],"cache_control":{"type":"ephemeral"}}"#,
            false,
        ),
        (r#"{"messages":[]}"#, false),
        (r#"{"cache_control":null}"#, false),
    ] {
        assert_eq!(short(Endpoint::Messages, body), expected, "{body}");
    }
    // Of others it is not their word.
    assert!(!short(CHAT, r#"{"cache_control":{"type":"ephemeral"}}"#));
}
