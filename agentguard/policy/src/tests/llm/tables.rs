//! Calls of language models in table tests.

use agentguard_model::ReasonCode;

use super::super::policy;
use super::{ALLOW, DENY, NONE};
use crate::table::{Expected, TestResult, WrittenTable};

const TABLE: &str = "\
version: 1
providers:
  - {name: ours, api: openai, hosts: [models.corp.example]}
  - {name: cellar, api: ollama, hosts: [ollama.corp.example]}
agents: [{name: coder}, {name: lax, not_understood: allow}, {name: newcomer, mode: shadow}]
rules:
  - id: ask
    match: {host: [models.corp.example], port: [443], llm: {provider: [ours], operation: [chat]}}
    action: allow
    handling: inspect
  - id: talk
    match: {host: [models.corp.example], port: [443], llm: {operation: [realtime], model: [gpt-realtime]}}
    action: allow
    handling: inspect
  - id: no-shell
    match: {host: [models.corp.example], llm: {operation: [chat, embeddings], tools: [bash]}}
    action: deny
";

fn tried(agent: &str, request: &str) -> Result<TestResult, String> {
    let text = format!(
        "version: 1\npolicy: p.yaml\ntests:\n  - {{name: a, agent: {agent}, host: models.corp.example, port: 443, request: {{method: POST, path: /v1/chat/completions, {request}}}, expect: allow}}\n"
    );
    let table = WrittenTable::parse("p.test.yaml", &text).map_err(|it| it.to_string())?;
    let policy = policy(TABLE);
    let table = table.check(&policy).map_err(|it| it.to_string())?;
    Ok(table.run(&policy, |_, _, _| None).remove(0))
}

#[test]
fn tests_make_calls() {
    for (agent, request, verdict, enforced, code) in [
        (
            "coder",
            "llm: {operation: chat, model: m}",
            Expected::Allow,
            true,
            ALLOW,
        ),
        (
            "coder",
            "llm: {operation: chat, tools: [ls, bash], stream: true}",
            Expected::Deny,
            true,
            DENY,
        ),
        (
            "coder",
            "llm: {operation: embeddings}",
            Expected::Deny,
            true,
            NONE,
        ),
        (
            "coder",
            "llm: {operation: chat, provider: openai, max_output_tokens: 5}",
            Expected::Deny,
            true,
            NONE,
        ),
        (
            "coder",
            "llm: {operation: chat, provider: vertex, tools: [googleSearch]}",
            Expected::Deny,
            true,
            NONE,
        ),
        (
            "coder",
            "llm: {operation: text_completion, provider: cellar, stream: true}",
            Expected::Deny,
            true,
            NONE,
        ),
        (
            "coder",
            "llm: {operation: chat, provider: cohere, model: command-a, tools: [look, bash]}",
            Expected::Deny,
            true,
            DENY,
        ),
        (
            "coder",
            "llm: {operation: chat, provider: bedrock, model: anthropic.claude-x, tools: [bash]}",
            Expected::Deny,
            true,
            DENY,
        ),
        ("coder", "body: 1KiB", Expected::Deny, true, NONE),
        (
            "coder",
            "llm: {operation: chat, asks: [ls]}",
            Expected::Allow,
            true,
            ALLOW,
        ),
        // Of the calls that follow some may be allowed.
        (
            "coder",
            "llm: {operation: chat, opens: true}",
            Expected::Allow,
            true,
            ALLOW,
        ),
        (
            "coder",
            "llm: {operation: chat, provider: openai, opens: true}",
            Expected::Deny,
            true,
            NONE,
        ),
        // Of a session the model is known when it is opened.
        (
            "coder",
            "llm: {operation: realtime, model: gpt-realtime, opens: true}",
            Expected::Allow,
            true,
            ALLOW,
        ),
        (
            "coder",
            "llm: {operation: realtime, model: other, opens: true}",
            Expected::Deny,
            true,
            NONE,
        ),
        // A denial by what is not known comes first.
        (
            "lax",
            "llm: {operation: chat, not_understood: true}",
            Expected::Deny,
            true,
            DENY,
        ),
    ] {
        let result = tried(agent, request).unwrap();
        let got = result.got;
        assert_eq!(
            (got.verdict, got.enforced, got.reason.code),
            (verdict, enforced, code),
            "{request}"
        );
    }
    for (request, told) in [
        ("llm: {operation: chats}", "chats"),
        (
            "llm: {operation: chat, provider: opennai}",
            "the policy has no provider `opennai`\n  hint: did you mean `openai`?",
        ),
        (
            "llm: {operation: chat, model: m, not_understood: true}",
            "nothing is known but provider and operation",
        ),
        (
            "llm: {operation: chat, model: m, opens: true}",
            "says nothing of one of them",
        ),
        (
            "llm: {operation: realtime, tools: [ls], opens: true}",
            "says nothing of one of them",
        ),
        ("llm: {model: m}", "operation"),
    ] {
        let found = tried("coder", request).unwrap_err();
        assert!(found.contains(told), "{request} {found}");
    }
    let text = "version: 1\npolicy: p.yaml\ntests:\n  - {name: a, agent: coder, host: other.example, port: 443, request: {method: POST, path: /, llm: {operation: chat}}, expect: allow}\n";
    let policy = policy(TABLE);
    let table = WrittenTable::parse("p.test.yaml", text).unwrap();
    let found = table.check(&policy).unwrap_err().to_string();
    assert!(
        found.contains("no provider of language models answers there"),
        "{found}"
    );
    assert!(
        found.contains("hint: providers stand under `providers`"),
        "{found}"
    );
}

#[test]
fn a_call_that_cannot_be_read_is_denied_by_default() {
    let text = TABLE.replace(
        ", tools: [bash]",
        ", tools: [bash], model: [x], provider: [openai]",
    );
    let policy = policy(&text);
    for (agent, verdict, enforced, code) in [
        ("coder", Expected::Deny, true, ReasonCode::NotUnderstood),
        ("lax", Expected::Allow, true, ALLOW),
        ("newcomer", Expected::Deny, false, ReasonCode::NotUnderstood),
    ] {
        let tests = format!(
            "version: 1\npolicy: p.yaml\ntests:\n  - {{name: a, agent: {agent}, host: models.corp.example, port: 443, request: {{method: POST, path: /, llm: {{operation: chat, not_understood: true}}}}, expect: allow}}\n"
        );
        let table = WrittenTable::parse("p.test.yaml", &tests).unwrap();
        let table = table.check(&policy).unwrap();
        let got = table.run(&policy, |_, _, _| None).remove(0).got;
        assert_eq!(
            (got.verdict, got.enforced, got.reason.code),
            (verdict, enforced, code),
            "{agent}"
        );
    }
}
