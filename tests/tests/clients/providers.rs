//! The clients of other providers of language models, unmodified: Google's, Ollama's, AWS's and Cohere's, each with its
//! own form of calls and of streams; tools that OpenAI's and Anthropic's call; and an agent that LangChain runs. What the record has of each call is what the provider has sent.

use std::ffi::OsString;
use std::path::Path;

use agentguard_model::{ActionKind, Decision, LlmOperation, Verdict};
use agentguard_tests::{Origin, World, address, client, wait_until};
use anyhow::{Result, ensure};
use serde_json::json;

use crate::inspected::inspected;
use crate::room::{LATE, Room, ungoverned};

pub(crate) const GEMINI: &str = "generativelanguage.googleapis.com";
pub(crate) const OLLAMA: &str = "ollama.corp.example";
pub(crate) const BEDROCK: &str = "bedrock-runtime.us-east-1.amazonaws.com";
pub(crate) const COHERE: &str = "api.cohere.com";
pub(crate) const OPENAI: &str = "api.openai.com";
const ANTHROPIC: &str = "api.anthropic.com";
const VERTEX: &str = "us-central1-aiplatform.googleapis.com";
const AZURE: &str = "corp.openai.azure.com";
/// Of a server that speaks as Mistral does.
const MISTRAL: &str = "mistral.corp.example";

const HOSTS: [&str; 9] = [
    GEMINI, OLLAMA, BEDROCK, COHERE, OPENAI, ANTHROPIC, VERTEX, AZURE, MISTRAL,
];

const MODELS: &str = "This model is not for agents.";

pub(crate) fn world(name: &str) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10));
    let origin = HOSTS.iter().fold(origin, |origin, host| origin.site(host));
    World::new(name).origin(origin).start()
}

fn open(world: &World) -> Result<Room<'_>> {
    let hosts = format!("[{}]", HOSTS.join(", "));
    let policy = format!(
        "
version: 1
providers:
  - {{ name: cellar, api: ollama, hosts: [{OLLAMA}] }}
  - {{ name: chalet, api: openai, hosts: [{MISTRAL}] }}
agents:
  - name: coder
rules:
  - id: models
    match: {{ host: {hosts}, port: [443], llm: {{}} }}
    action: allow
    handling: inspect
  - id: no-such-models
    match: {{ host: {hosts}, llm: {{ model: ['*forbidden'] }} }}
    action: deny
    reason: {MODELS}
"
    );
    let upstreams = json!([{ "host": HOSTS, "ca": world.ca_file() }]);
    let guard = world.guard().policy(&policy);
    let guard = guard.setting("upstreams", upstreams);
    Ok(Room::of(world, guard.start()?))
}

/// What the record has of a call: what it is for, the model asked for, whether as a stream; tokens in, of these cached,
/// and out, of these reasoning; why the model stopped, or the error; and the tools that it calls.
fn row(decision: &Decision) -> Option<String> {
    let llm = decision.action.llm.as_ref()?;
    let operation = match llm.operation {
        LlmOperation::Chat => "chat",
        LlmOperation::TextCompletion => "text",
        LlmOperation::Embeddings => "embeddings",
        LlmOperation::CountTokens => "count",
        LlmOperation::Realtime => "realtime",
        LlmOperation::Transcription => "transcription",
        LlmOperation::Retrieval => "retrieval",
    };
    let model = llm.model.as_deref().unwrap_or("-");
    let form = if llm.stream { "stream" } else { "whole" };
    let asked = format!("{operation} {model} {form}");
    if decision.verdict == Verdict::Deny {
        return Some(format!("deny {asked}"));
    }
    let answer = decision.outcome.as_ref()?.llm.as_ref()?;
    assert_eq!(
        (&llm.not_understood, &answer.not_understood),
        (&None, &None)
    );
    // What the model asks for was offered to it, and no more was.
    let asked_for: Vec<&str> = answer
        .tool_calls
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    assert!(
        asked_for.is_empty() || llm.tools == asked_for,
        "{llm:?} {asked_for:?}"
    );
    let usage = answer.usage.unwrap_or_default();
    let number = |it: Option<u64>| it.map_or("-".to_owned(), |it| it.to_string());
    let told = answer.finish_reason.as_ref().or(answer.error.as_ref());
    let tools = answer.tool_calls.iter().map(|call| {
        format!(
            " {} {}",
            call.name,
            call.arguments.as_deref().unwrap_or("-")
        )
    });
    Some(format!(
        "{asked} {}+{} {}+{} {}{}",
        number(usage.input_tokens),
        number(usage.cache_read_tokens),
        number(usage.output_tokens),
        number(usage.reasoning_tokens),
        told.map_or("-", String::as_str),
        tools.collect::<String>(),
    ))
}

/// Of `{"said":"one two three four five six"}`, as each provider of these writes it.
const SAID: &str = "look sha256:e2141cf0050bbe4b5863ab7e0a3c70ff8686efbae990e80654bb360f39eddfa6";

/// A script's calls, and what the record gets of each.
type Calls<'a> = &'a [(&'a str, &'a [&'a str])];

/// Makes each call without and with the guard, which makes no difference but for what is forbidden; that is told in
/// the client's own words, `refused`, and does not leave.
fn same(room: &Room<'_>, script: &str, host: &str, calls: Calls<'_>, refused: &str) -> Result<()> {
    let Some(python) = client::python()? else {
        return Ok(());
    };
    for (call, rows) in calls {
        let words = words(&python, script, call);
        let free = ungoverned(room.world, &words)?.success()?;
        ensure!(!free.stdout.is_empty(), "{free}");
        let arrived = || anyhow::Ok(room.world.origin(host)?.log().requests()?.len());
        let before = arrived()?;
        let output = inspected(room, &words).run()?.success()?;
        let wanted: Vec<String> = rows.iter().map(|row| row.replace("SAID", SAID)).collect();
        let mut found = Vec::new();
        let waited = wait_until("the calls", LATE, || {
            let new = match room.new_decisions() {
                Ok(new) => new,
                Err(error) => return Some(Err(error)),
            };
            found = new
                .iter()
                .filter(|it| it.action.kind == ActionKind::LlmCall)
                .filter_map(row)
                .collect();
            (found == wanted).then_some(Ok(new.len()))
        });
        let settled = waited.and_then(|waited| waited);
        let settled = settled
            .map_err(|error| error.context(format!("{call}: {wanted:#?}\n{found:#?}\n{output}")))?;
        room.settled(settled)?;
        let forbidden = call.ends_with("forbidden");
        if forbidden || *call == "unread" {
            let told = output.stdout.starts_with(refused);
            ensure!(
                told && output.stdout.contains("agentguard explain"),
                "{output}"
            );
            ensure!(!forbidden || output.stdout.contains(MODELS), "{output}");
            ensure!(arrived()? == before, "it left");
        } else {
            ensure!(output.stdout == free.stdout, "{call}: {free}\n{output}");
        }
    }
    Ok(())
}

/// The words that make a script make one call.
pub(crate) fn words(python: &Path, script: &str, call: &str) -> [OsString; 3] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(script);
    [python.into(), script.into(), call.into()]
}

#[test]
fn google_s_sdk_is_served_and_refused_in_its_words() {
    let world = world("genai").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[
        (
            "plain",
            &[
                "chat gemini-x whole 6+1 8+2 STOP",
                "count gemini-x whole 6+- -+- -",
            ],
        ),
        ("stream", &["chat gemini-x stream 6+1 8+2 STOP"]),
        ("asynchronous", &["chat gemini-x stream 6+1 8+2 STOP"]),
        ("listed", &["chat gemini-x stream 6+1 8+2 STOP"]),
        ("listed_tool", &["chat gemini-x stream 6+1 8+2 STOP SAID"]),
        (
            "tool",
            &[
                "chat gemini-x whole 6+1 8+2 STOP SAID",
                "chat gemini-x stream 6+1 8+2 STOP SAID",
            ],
        ),
        ("unknown", &["chat no-such-model whole -+- -+- NOT_FOUND"]),
        ("forbidden", &["deny chat gemini-forbidden whole"]),
    ];
    let refused = "ClientError 403 PERMISSION_DENIED";
    same(&room, "genai_sdk.py", GEMINI, calls, refused).unwrap();
}

#[test]
fn ollama_s_client_is_served_and_refused_in_its_words() {
    let world = world("ollama").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[
        (
            "plain",
            &[
                "chat qwen3:8b whole 6+- 6+- stop",
                "embeddings qwen3-embedding whole 3+- -+- -",
            ],
        ),
        ("stream", &["chat qwen3:8b stream 6+- 6+- stop"]),
        ("asynchronous", &["chat qwen3:8b stream 6+- 6+- stop"]),
        (
            "tool",
            &[
                "chat qwen3:8b whole 6+- 6+- stop SAID",
                "chat qwen3:8b stream 6+- 6+- stop SAID",
            ],
        ),
        (
            "unknown",
            &["chat no-such-model whole -+- -+- model 'no-such-model' not found"],
        ),
        ("forbidden", &["deny chat qwen3:forbidden whole"]),
    ];
    same(&room, "ollama_sdk.py", OLLAMA, calls, "ResponseError 403").unwrap();
}

#[test]
fn aws_s_sdk_is_served_and_refused_in_its_words() {
    let world = world("bedrock").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[
        (
            "plain",
            &["chat anthropic.claude-x-v1:0 whole 6+1 6+- end_turn"],
        ),
        (
            "stream",
            &["chat anthropic.claude-x-v1:0 stream 6+1 6+- end_turn"],
        ),
        (
            "tool",
            &[
                "chat anthropic.claude-x-v1:0 whole 6+1 6+- tool_use SAID",
                "chat anthropic.claude-x-v1:0 stream 6+1 6+- tool_use SAID",
            ],
        ),
        (
            "invoke",
            &[
                "chat us.anthropic.claude-x-v1:0 whole 6+0 6+- end_turn",
                "chat us.anthropic.claude-x-v1:0 stream 6+0 6+- end_turn",
            ],
        ),
        (
            "unknown",
            &["chat no.such-model whole -+- -+- ValidationException"],
        ),
        ("forbidden", &["deny chat anthropic.claude-forbidden whole"]),
        // Of what is not read the model is known, and no more.
        ("unread", &["deny chat meta.llama-x whole"]),
    ];
    let refused = "AccessDeniedException An error occurred (AccessDeniedException)";
    same(&room, "bedrock_sdk.py", BEDROCK, calls, refused).unwrap();
}

#[test]
fn cohere_s_sdk_is_served_and_refused_in_its_words() {
    let world = world("cohere").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[
        (
            "plain",
            &[
                "chat command-x whole 76+- 8+- COMPLETE",
                "embeddings embed-x whole 3+- -+- -",
            ],
        ),
        ("stream", &["chat command-x stream 76+- 8+- COMPLETE"]),
        ("asynchronous", &["chat command-x stream 76+- 8+- COMPLETE"]),
        (
            "tool",
            &[
                "chat command-x whole 76+- 8+- TOOL_CALL SAID",
                "chat command-x stream 76+- 8+- TOOL_CALL SAID",
            ],
        ),
        (
            "unknown",
            &[
                "chat no-such-model whole -+- -+- model 'no-such-model' not found, make sure the correct model ID was used",
            ],
        ),
        ("forbidden", &["deny chat command-forbidden whole"]),
    ];
    same(&room, "cohere_sdk.py", COHERE, calls, "ForbiddenError 403").unwrap();
}

#[test]
fn anthropic_s_sdk_is_asked_to_call_tools() {
    let world = world("anthropic-tools").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[(
        "tool",
        &[
            "chat claude-haiku-4-5 whole 6+0 6+- tool_use SAID",
            "chat claude-haiku-4-5 stream 6+0 6+- tool_use SAID",
            "chat claude-haiku-4-5 whole 8+0 2+- end_turn",
        ],
    )];
    same(&room, "anthropic_sdk.py", ANTHROPIC, calls, "").unwrap();
    room.close().unwrap();
}

#[test]
fn openai_s_sdk_is_asked_to_call_tools_by_responses() {
    let world = world("responses-tools").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[(
        "tool",
        &[
            "chat gpt-5-mini whole 6+0 6+0 completed SAID",
            "chat gpt-5-mini stream 6+0 6+0 completed SAID",
        ],
    )];
    same(&room, "openai_sdk.py", OPENAI, calls, "").unwrap();
    room.close().unwrap();
}

#[test]
fn openai_s_sdk_is_asked_for_completions() {
    let world = world("completions").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[(
        "legacy",
        &[
            "text gpt-3.5-turbo-instruct whole 6+- 6+- stop",
            "text gpt-3.5-turbo-instruct stream 6+- 6+- stop",
        ],
    )];
    same(&room, "openai_sdk.py", OPENAI, calls, "").unwrap();
    room.close().unwrap();
}

#[test]
fn openai_s_sdk_calls_deployments_of_azure_and_is_refused_by_their_names() {
    let world = world("azure").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[
        (
            "azure",
            &[
                "chat gpt-5-mini whole 6+0 6+0 stop",
                "chat gpt-5-mini stream 6+0 6+0 stop",
                "chat gpt-5-mini whole 6+0 6+0 tool_calls SAID",
                "chat gpt-5-mini stream 6+0 6+0 tool_calls SAID",
            ],
        ),
        // The content names another, which is not what is called.
        ("azure_deployed", &["chat gpt-5-mini whole 6+0 6+0 stop"]),
        ("azure_forbidden", &["deny chat gpt-forbidden whole"]),
    ];
    let refused = "PermissionDeniedError";
    same(&room, "openai_sdk.py", AZURE, calls, refused).unwrap();
    room.close().unwrap();
}

#[test]
fn a_server_that_speaks_as_mistral_does_is_read() {
    let world = world("mistral").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[(
        "mistral",
        &[
            "chat mistral-small-x whole 6+1 6+- stop",
            "chat mistral-small-x stream 6+1 6+- stop",
            "chat mistral-small-x whole 6+1 6+- tool_calls SAID",
            "chat mistral-small-x stream 6+1 6+- tool_calls SAID",
        ],
    )];
    same(&room, "openai_sdk.py", MISTRAL, calls, "").unwrap();
    room.close().unwrap();
}

#[test]
fn anthropic_s_sdk_counts_tokens() {
    let world = world("anthropic-count").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[("count", &["count claude-haiku-4-5 whole 7+- -+- -"])];
    same(&room, "anthropic_sdk.py", ANTHROPIC, calls, "").unwrap();
    room.close().unwrap();
}

#[test]
fn google_s_sdk_calls_vertex_ai_and_is_refused_in_its_words() {
    let world = world("vertex").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[
        (
            "gemini",
            &[
                "chat gemini-x whole 6+1 8+2 STOP",
                "count gemini-x whole 6+- -+- -",
                "chat gemini-x stream 6+1 8+2 STOP",
            ],
        ),
        (
            "gemini_tool",
            &[
                "chat gemini-x whole 6+1 8+2 STOP SAID",
                "chat gemini-x stream 6+1 8+2 STOP SAID",
            ],
        ),
        ("gemini_forbidden", &["deny chat gemini-forbidden whole"]),
    ];
    let refused = "ClientError 403 PERMISSION_DENIED";
    same(&room, "vertex_sdk.py", VERTEX, calls, refused).unwrap();
    room.close().unwrap();
}

#[test]
fn anthropic_s_sdk_calls_vertex_ai_and_is_refused_in_its_words() {
    let world = world("vertex-anthropic").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[
        (
            "anthropic_s",
            &[
                "chat claude-haiku-4-5@20251001 whole 6+0 6+- end_turn",
                "chat claude-haiku-4-5@20251001 stream 6+0 6+- end_turn",
                "count claude-haiku-4-5@20251001 whole 6+- -+- -",
            ],
        ),
        (
            "anthropic_s_tool",
            &[
                "chat claude-haiku-4-5@20251001 whole 6+0 6+- tool_use SAID",
                "chat claude-haiku-4-5@20251001 stream 6+0 6+- tool_use SAID",
            ],
        ),
        (
            "anthropic_s_forbidden",
            &["deny chat claude-forbidden whole"],
        ),
    ];
    let refused = "PermissionDeniedError";
    same(&room, "vertex_sdk.py", VERTEX, calls, refused).unwrap();
    room.close().unwrap();
}

/// Each turn of the agent is two calls: the model asks for its tool, and is told what that said.
#[test]
fn a_langchain_agent_works_and_is_refused_in_its_words() {
    let world = world("langchain").unwrap();
    let room = open(&world).unwrap();
    let calls: Calls<'_> = &[
        (
            "whole",
            &[
                "chat gpt-5-mini whole 6+0 6+0 tool_calls SAID",
                "chat gpt-5-mini whole 13+0 6+0 stop",
            ],
        ),
        (
            "stream",
            &[
                "chat gpt-5-mini stream 6+0 6+0 tool_calls SAID",
                "chat gpt-5-mini stream 13+0 6+0 stop",
            ],
        ),
        ("forbidden", &["deny chat gpt-forbidden whole"]),
    ];
    let refused = "OpenAIPermissionDeniedError Error code: 403";
    same(&room, "langchain_agent.py", OPENAI, calls, refused).unwrap();
    room.close().unwrap();
}
