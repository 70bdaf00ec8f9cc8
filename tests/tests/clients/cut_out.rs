//! The providers' own clients, of whose answers tool calls are cut out: each reads what is left, whole and as a stream.

use agentguard_model::{ActionKind, Decision, Verdict};
use agentguard_tests::{client, wait_until};
use serde_json::json;

use crate::inspected::inspected;
use crate::providers::{BEDROCK, COHERE, GEMINI, OLLAMA, OPENAI, words, world};
use crate::room::{LATE, Room, ungoverned};
use crate::serving::trusting;

const REASON: &str = "Not this tool, says the security team.";

/// A list of Google's that asks for what is refused ends with the error as its last item, and is whole for who reads it.
#[test]
fn a_list_of_google_s_that_asks_for_what_is_refused_ends_with_the_error() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("refused-list").unwrap();
    let policy = format!(
        "
version: 1
agents:
  - name: coder
rules:
  - id: models
    match: {{ host: [{GEMINI}], port: [443], llm: {{}} }}
    action: allow
    handling: inspect
  - id: no-looking
    match: {{ llm: {{ tool_calls: [look] }} }}
    action: deny
    reason: {REASON}
"
    );
    let room = trusting(&world, GEMINI, &policy).unwrap();
    let words = words(&python, "genai_sdk.py", "listed_tool");
    let free = ungoverned(&world, &words).unwrap().success().unwrap();
    assert!(free.stdout.contains(r#""functionCall""#), "{free}");
    let output = inspected(&room, &words).run().unwrap().success().unwrap();
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [head, said, error] = lines[..] else {
        panic!("{output}");
    };
    // The status and what comes before are as without the guard.
    let before: Vec<&str> = free.stdout.lines().take(2).collect();
    assert_eq!(before, [head, said], "{output}");
    let error: serde_json::Value = serde_json::from_str(error).unwrap();
    assert_eq!(error["error"]["code"], 403, "{output}");
    assert_eq!(error["error"]["status"], "PERMISSION_DENIED", "{output}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with(REASON) && message.contains("agentguard explain"),
        "{output}"
    );
    let mut found = Vec::new();
    let settled = wait_until("the calls", LATE, || {
        found = room.new_decisions().unwrap();
        let calls = llm(&found);
        let [call, denial] = calls[..] else {
            return None;
        };
        let told = call.outcome.as_ref()?.llm.as_ref()?;
        assert_eq!(told.tool_calls[0].name, "look");
        let asks = &denial.action.llm.as_ref()?.asks;
        (denial.verdict == Verdict::Deny && asks == &["look"]).then_some(found.len())
    });
    let settled = settled.unwrap_or_else(|error| panic!("{error} {found:#?}"));
    room.settled(settled).unwrap();
    room.close().unwrap();
}

/// The calls of language models, and what was denied of their answers.
fn llm(decisions: &[Decision]) -> Vec<&Decision> {
    let calls = decisions.iter();
    calls
        .filter(|it| it.action.kind == ActionKind::LlmCall)
        .collect()
}

#[test]
fn clients_read_answers_of_which_a_tool_call_is_cut_out() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let world = world("cut-out").unwrap();
    let names = [GEMINI, OLLAMA, BEDROCK, COHERE, OPENAI];
    let hosts = names.join(", ");
    let policy = format!(
        "
version: 1
providers:
  - {{ name: cellar, api: ollama, hosts: [{OLLAMA}] }}
agents:
  - name: coder
rules:
  - id: models
    match: {{ host: [{hosts}], port: [443], llm: {{}} }}
    action: allow
    handling: inspect
  - id: no-looking
    match: {{ llm: {{ tool_calls: [look] }} }}
    action: deny
    answer: cut
    reason: {REASON}
"
    );
    let upstreams = json!([{ "host": names, "ca": world.ca_file() }]);
    let guard = world
        .guard()
        .policy(&policy)
        .setting("upstreams", upstreams);
    let room = Room::of(&world, guard.start().unwrap());
    // How often the model asks for it: in an answer that is whole, and in a stream.
    for (script, call, times) in [
        ("genai_sdk.py", "tool", 2),
        ("ollama_sdk.py", "tool", 2),
        ("bedrock_sdk.py", "tool", 2),
        ("cohere_sdk.py", "tool", 2),
        ("langchain_agent.py", "whole", 1),
        ("langchain_agent.py", "stream", 1),
    ] {
        let words = words(&python, script, call);
        let free = ungoverned(&world, &words).unwrap().success().unwrap();
        assert!(free.stdout.contains("look"), "{script}: {free}");
        let output = inspected(&room, &words).run().unwrap().success().unwrap();
        let said = output.stdout.matches(REASON).count();
        assert!(said >= times, "{script}: {output}");
        assert!(!output.stdout.contains("look"), "{script}: {output}");
        let mut found = Vec::new();
        let settled = wait_until("the calls", LATE, || {
            found = room.new_decisions().unwrap();
            let calls = llm(&found);
            let denied = calls.iter().filter(|it| it.verdict == Verdict::Deny);
            let outcomes = calls
                .iter()
                .filter_map(|it| it.outcome.as_ref()?.llm.as_ref());
            let cut = outcomes.filter(|said| said.cut == ["look"] && said.tool_calls.len() == 1);
            (denied.count() == times && cut.count() == times).then_some(found.len())
        });
        let settled = settled.unwrap_or_else(|error| panic!("{script}: {error} {found:#?}"));
        room.settled(settled).unwrap();
    }
    room.close().unwrap();
}
