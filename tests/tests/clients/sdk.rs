//! Python's clients of LLM APIs inside inspected TLS: the providers' SDKs, `requests` and `httpx`.
//!
//! The scripts know nothing of the guard: they use the providers' own names, and trust what `run`
//! makes them trust.

use std::ffi::OsString;
use std::path::Path;

use agentguard_model::Verdict;
use agentguard_tests::{Origin, World, address, client, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::inspected::inspected;
use crate::room::{LATE, Room, ungoverned};
use crate::unchanged::arrived;

const OPENAI: &str = "api.openai.com";
const ANTHROPIC: &str = "api.anthropic.com";

const REASON: &str = "Nothing is to be stored at the provider.";

fn world(name: &str) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10));
    World::new(name)
        .origin(origin.site(OPENAI).site(ANTHROPIC))
        .start()
}

const MODELS: &str = "This model is not for agents.";

/// A guard with or without the means to trust the providers.
fn open(world: &World, trusting: bool) -> Result<Room<'_>> {
    let policy = format!(
        "
version: 1
agents:
  - name: coder
rules:
  - id: model-apis
    match: {{ host: [{OPENAI}, {ANTHROPIC}], port: [443], method: [GET, POST] }}
    action: allow
    handling: inspect
  - id: no-storage
    match: {{ host: [{OPENAI}, {ANTHROPIC}], method: [POST], path: [/v1/files, /v1/messages/batches] }}
    action: deny
    reason: {REASON}
  - id: no-such-models
    match: {{ host: [{OPENAI}, {ANTHROPIC}], llm: {{ model: [gpt-4*, claude-forbidden] }} }}
    action: deny
    reason: {MODELS}
"
    );
    let mut guard = world.guard().policy(&policy);
    if trusting {
        let upstreams = json!([{ "host": [OPENAI, ANTHROPIC], "ca": world.ca_file() }]);
        guard = guard.setting("upstreams", upstreams);
    }
    Ok(Room::of(world, guard.start()?))
}

/// The words that make a script make one call.
fn words(python: &Path, script: &str, call: &str) -> [OsString; 3] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(script);
    [python.into(), script.into(), call.into()]
}

/// A script's calls, and what each does: `query` asks for the name, the others are requests.
type Calls<'a> = &'a [(&'a str, &'a [&'a str])];

/// Of a request to a provider: what is posted is a call of a model.
fn kind(request: &str) -> &'static str {
    if request.starts_with("POST") {
        "llm_call"
    } else {
        "http_request"
    }
}

fn rows(host: &str, requests: &[&str]) -> Vec<String> {
    let row = |request: &&str| match *request {
        "query" => format!("allow dns dns_query {host}:53 rule_allow"),
        request => format!(
            "allow proxy {} {host}:443 {request} rule_allow",
            kind(request)
        ),
    };
    requests.iter().map(row).collect()
}

/// Makes each call without and with the guard, which must not make a difference.
fn same(room: &Room<'_>, python: &Path, script: &str, host: &str, calls: Calls<'_>) -> Result<()> {
    for (call, requests) in calls {
        let words = words(python, script, call);
        let earlier = arrived(room.world, host)?.len();
        let free = ungoverned(room.world, &words)?.success()?;
        ensure!(!free.stdout.is_empty(), "{free}");
        let mut without = arrived(room.world, host)?.split_off(earlier);
        // The answer to a call is asked for without a coding, so that it can be read and ended in words.
        for request in without.iter_mut().filter(|it| it.contains(" POST ")) {
            let [coded, plain] =
                ["gzip, deflate", "identity"].map(|it| format!("(\"accept-encoding\", \"{it}\")"));
            *request = request.replace(&coded, &plain);
        }
        let earlier = earlier + without.len();
        let ran = room.call(inspected(room, &words), &rows(host, requests))?;
        let output = ran.output.success()?;
        ensure!(output.stdout == free.stdout, "{call}: {free}\n{output}");
        let mut with = arrived(room.world, host)?.split_off(earlier);
        // Requests of several tasks come in any order.
        without.sort();
        with.sort();
        ensure!(
            !with.is_empty() && with == without,
            "{without:#?}\n{with:#?}"
        );
    }
    Ok(())
}

/// Makes the denied call, which its user understands and the SDK does not repeat.
fn denied(room: &Room<'_>, python: &Path, script: &str, host: &str, path: &str) -> Result<()> {
    let words = words(python, script, "denied");
    let free = ungoverned(room.world, &words)?.success()?;
    ensure!(!free.stdout.contains("Error"), "{free}");
    let arrived = || anyhow::Ok(room.world.origin(host)?.log().requests()?.len());
    let before = arrived()?;
    let kind = match path.ends_with("/batches") {
        true => "llm_call",
        false => "http_request",
    };
    let rows = [
        format!("allow dns dns_query {host}:53 rule_allow"),
        format!("deny proxy {kind} {host}:443 POST {path} rule_deny"),
    ];
    let ran = room.call(inspected(room, &words), &rows)?;
    let output = ran.output.success()?;
    let mut decisions = ran.decisions.iter();
    let denial = decisions.find(|it| it.verdict == Verdict::Deny);
    let id = denial.context("no denial")?.id.to_string();
    let told = |words: &str| output.stdout.contains(words);
    ensure!(
        told("PermissionDeniedError") && told(REASON) && told(&id),
        "{output}"
    );
    ensure!(arrived()? == before, "it left");
    Ok(())
}

/// Makes the call of a model that is denied, which its user understands and the SDK does not repeat; nothing
/// of it leaves.
fn forbidden(room: &Room<'_>, python: &Path, script: &str, host: &str, path: &str) -> Result<()> {
    let words = words(python, script, "forbidden");
    // Without the guard it is the provider that answers, and knows no such model or serves it.
    ensure!(
        !ungoverned(room.world, &words)?
            .success()?
            .stdout
            .contains(MODELS)
    );
    let arrived = || anyhow::Ok(room.world.origin(host)?.log().requests()?.len());
    let before = arrived()?;
    let rows = [
        format!("allow dns dns_query {host}:53 rule_allow"),
        format!("deny proxy llm_call {host}:443 POST {path} rule_deny"),
    ];
    let ran = room.call(inspected(room, &words), &rows)?;
    let output = ran.output.success()?;
    ensure!(
        output.stdout.starts_with("PermissionDeniedError") && output.stdout.contains(MODELS),
        "{output}"
    );
    ensure!(arrived()? == before, "it left");
    Ok(())
}

/// What the record has of the calls so far, each with what came of it: model asked for, whether as a stream,
/// tokens in and out, and why the model stopped.
fn called(room: &Room<'_>, count: usize) -> Result<Vec<String>> {
    let told = || {
        let decisions = room.guard.verdicts().ok()?;
        let calls = decisions.iter().filter(|it| it.verdict == Verdict::Allow);
        let calls = calls
            .filter_map(|it| Some((it.action.llm.as_ref()?, it.outcome.as_ref()?.llm.as_ref()?)));
        let told: Vec<_> = calls
            .map(|(llm, answer)| {
                assert_eq!(
                    (&llm.not_understood, &answer.not_understood),
                    (&None, &None)
                );
                let usage = answer.usage.unwrap_or_default();
                let (input, output) = (usage.input_tokens, usage.output_tokens);
                let told = answer.finish_reason.as_ref().or(answer.error.as_ref());
                let number = |it: Option<u64>| it.map_or("-".to_owned(), |it| it.to_string());
                format!(
                    "{} {} {} {} {}",
                    llm.model.as_deref().unwrap_or("-"),
                    if llm.stream { "stream" } else { "whole" },
                    number(input),
                    number(output),
                    told.map_or("-", String::as_str),
                )
            })
            .collect();
        (told.len() == count).then_some(told)
    };
    wait_until("the outcomes", LATE, told)
}

#[test]
fn openai_s_sdk_is_served_and_streams_as_without_the_guard() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("openai").unwrap();
    let room = open(&world, true).unwrap();
    let chat = "POST /v1/chat/completions";
    let models = "GET /v1/models";
    let responses = "POST /v1/responses";
    let calls: Calls<'_> = &[
        ("plain", &["query", chat, models, "POST /v1/embeddings"]),
        ("stream", &["query", "query", chat, models]),
        ("asynchronous", &["query", "query", chat, models]),
        (
            "responses",
            &["query", "query", responses, responses, models],
        ),
        ("unknown", &["query", chat]),
    ];
    same(&room, &python, "openai_sdk.py", OPENAI, calls).unwrap();
    let mut told = called(&room, 7).unwrap();
    told.sort();
    // Tokens as the provider has them: its words.
    assert_eq!(
        told,
        [
            "gpt-5-mini stream 6 6 completed",
            "gpt-5-mini stream 6 6 stop",
            "gpt-5-mini stream 6 6 stop",
            "gpt-5-mini whole 6 6 completed",
            "gpt-5-mini whole 6 6 stop",
            "no-such-model whole - - model_not_found",
            "text-embedding-3-small whole 3 - -",
        ]
    );
    let chat = "/v1/chat/completions";
    forbidden(&room, &python, "openai_sdk.py", OPENAI, chat).unwrap();
    denied(&room, &python, "openai_sdk.py", OPENAI, "/v1/files").unwrap();
    room.close().unwrap();
}

#[test]
fn anthropic_s_sdk_is_served_and_streams_as_without_the_guard() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("anthropic").unwrap();
    let room = open(&world, true).unwrap();
    let messages = "POST /v1/messages";
    let calls: Calls<'_> = &[
        ("plain", &["query", messages]),
        ("stream", &["query", "query", messages, messages]),
        ("asynchronous", &["query", "query", messages, messages]),
        ("unknown", &["query", messages]),
    ];
    same(&room, &python, "anthropic_sdk.py", ANTHROPIC, calls).unwrap();
    let mut told = called(&room, 6).unwrap();
    told.sort();
    assert_eq!(
        told,
        [
            "claude-haiku-4-5 stream 6 6 end_turn",
            "claude-haiku-4-5 stream 6 6 end_turn",
            "claude-haiku-4-5 whole 6 6 end_turn",
            "claude-haiku-4-5 whole 6 6 end_turn",
            "claude-haiku-4-5 whole 6 6 end_turn",
            "no-such-model whole - - not_found_error",
        ]
    );
    forbidden(
        &room,
        &python,
        "anthropic_sdk.py",
        ANTHROPIC,
        "/v1/messages",
    )
    .unwrap();
    denied(
        &room,
        &python,
        "anthropic_sdk.py",
        ANTHROPIC,
        "/v1/messages/batches",
    )
    .unwrap();
    room.close().unwrap();
}

/// They take a status of 502 for a fault that may pass, and try twice more, unless they are told that
/// it does not.
#[test]
fn the_sdk_s_give_up_on_a_provider_that_is_not_trusted() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("sdk-untrusted").unwrap();
    let room = open(&world, false).unwrap();
    for (script, host) in [("openai_sdk.py", OPENAI), ("anthropic_sdk.py", ANTHROPIC)] {
        let words = words(&python, script, "models");
        let rows = rows(host, &["query", "GET /v1/models"]);
        let ran = room.call(inspected(&room, &words), &rows).unwrap();
        let output = ran.output.success().unwrap();
        assert!(output.stdout.starts_with("InternalServerError"), "{output}");
        assert!(output.stdout.contains("`upstreams`"), "{output}");
    }
    room.close().unwrap();
}

/// HTTP/1.1 on several connections, and HTTP/2 on one. The last request is refused while its body is
/// on the way.
#[test]
fn requests_and_httpx_are_served_stream_and_are_refused() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("requests-httpx").unwrap();
    let room = open(&world, true).unwrap();
    for (library, queries) in [("requests", 2), ("httpx", 1)] {
        let words = words(&python, "web.py", library);
        let free = ungoverned(&world, &words).unwrap().success().unwrap();
        let free = free
            .stdout
            .strip_suffix("served 200\nserved 200\n")
            .unwrap();
        let models = "GET /v1/models";
        let mut requests = vec!["query"; queries];
        requests.extend([
            models,
            "POST /v1/chat/completions",
            models,
            "GET /chunked/300000",
        ]);
        let mut rows = rows(OPENAI, &requests);
        let denied = format!("deny proxy http_request {OPENAI}:443");
        rows.push(format!("{denied} DELETE /things/1 no_rule"));
        rows.push(format!("{denied} POST /v1/files rule_deny"));
        let ran = room.call(inspected(&room, &words), &rows).unwrap();
        let output = ran.output.success().unwrap();
        let refused = output.stdout.strip_prefix(free).unwrap();
        let refused: Vec<_> = refused.lines().collect();
        assert!(refused[0].starts_with("403 no_rule"), "{output}");
        assert!(refused[1].starts_with("403 rule_deny"), "{output}");
        assert!(refused[1].contains(REASON), "{output}");
    }
    room.close().unwrap();
}
