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
        (
            "body: 1KiB",
            "the guard reads this request as a call of a language model of `ours`, at which rules for it look\n  hint: `llm: {operation: chat, model: …}` says which one",
        ),
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

/// The guard reads what is sent there, whether a test says so or not.
#[test]
fn a_request_is_not_tested_as_none_where_the_guard_reads_a_call() {
    let document = "\
version: 1
providers: [{name: google, api: gemini, hosts: [g.example.com]}]
tool_servers:
  - {name: files, api: mcp, hosts: [mcp.example.com], paths: [/mcp]}
agents: [{name: coder}]
rules:
  - {id: base, match: {host: [api.openai.com, mcp.example.com, g.example.com], port: [443]}, action: allow, handling: inspect}
  - {id: shut, match: {host: [api.mistral.ai], port: [443]}, action: allow}
  - {id: free, match: {host: [api.x.ai], port: [443]}, action: allow, handling: inspect}
  - {id: models, match: {host: [api.openai.com, g.example.com], llm: {model: [gpt-4*]}}, action: deny}
  - {id: tools, match: {host: [mcp.example.com], tool: {name: [rm]}}, action: deny}
";
    let document = policy(document);
    let told = |host: &str, request: &str| {
        let text = format!(
            "version: 1\npolicy: p.yaml\ntests:\n  - {{name: a, agent: coder, host: {host}, port: 443, expect: allow, request: {{{request}}}}}\n"
        );
        let table = WrittenTable::parse("p.test.yaml", &text).unwrap();
        match table.check(&document) {
            Ok(table) => table
                .run(&document, |_, _, _| None)
                .remove(0)
                .passed
                .to_string(),
            Err(found) => found.iter().map(|it| it.message.clone()).collect(),
        }
    };
    let call = "the guard reads this request as a call of a language model of";
    let message = "the guard reads this request as a message to the server of tools `files`";
    for (host, request, expected) in [
        (
            "api.openai.com",
            "method: POST, path: /v1/chat/completions",
            call,
        ),
        (
            "api.openai.com",
            "method: POST, path: /v1/Chat%2Fcompletions",
            call,
        ),
        (
            "api.openai.com",
            "method: GET, path: /v1/responses, websocket: true",
            call,
        ),
        (
            "api.openai.com",
            "method: POST, path: /v1/chat/completions, llm: {operation: chat, model: m}",
            "true",
        ),
        (
            "api.openai.com",
            "method: POST, path: /v1/chat/completions, llm: {operation: chat, model: gpt-4o}",
            "false",
        ),
        // What is kept of calls is fetched.
        ("api.openai.com", "method: GET, path: /v1/responses", call),
        // These are none.
        ("api.openai.com", "method: GET, path: /v1/models", "true"),
        ("api.openai.com", "method: POST, path: /v1/files", "true"),
        // Where another method may be meant, the path suffices.
        (
            "g.example.com",
            "method: GET, path: \"/v1/models/m:generateContent\"",
            call,
        ),
        ("mcp.example.com", "method: POST, path: /mcp", message),
        ("mcp.example.com", "method: GET, path: /mcp", message),
        (
            "mcp.example.com",
            "method: GET, path: /mcp, tool: {}",
            "true",
        ),
        (
            "mcp.example.com",
            "method: POST, path: /mcp, tool: {name: ls}",
            "true",
        ),
        (
            "mcp.example.com",
            "method: POST, path: /mcp, tool: {name: rm}",
            "false",
        ),
        ("mcp.example.com", "method: POST, path: /other", "true"),
        // Nobody opens it, and no rule looks at it.
        (
            "api.mistral.ai",
            "method: POST, path: /v1/chat/completions",
            "true",
        ),
        (
            "api.x.ai",
            "method: POST, path: /v1/chat/completions",
            "true",
        ),
    ] {
        let told = told(host, request);
        assert!(told.starts_with(expected), "{host} {request}: {told}");
    }
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
