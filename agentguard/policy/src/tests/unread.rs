//! Who is to blame for what is denied because it cannot be read.

use agentguard_model::{Llm, ReasonCode, Tool, Transport, Verdict};

use super::{agent, host, llm_call, policy};
use crate::{Circumstances, Facts, Request, Ruling, Seen};

const RULES: &str = r#"
  - id: read
    match: {host: [files.example], path: ["/mcp"], tool: {name: ["read*"]}}
    action: allow
  - id: no-shell
    match: {tool: {name: [shell]}}
    action: deny
    reason: No shell.
  - id: models
    match: {host: [llm.example], llm: {model: [small]}}
    action: allow
  - id: no-tools
    match: {llm: {tools: [shell]}}
    action: deny
  - id: short
    match: {llm: {operation: [chat]}}
    when: llm.model == 'large'
    action: deny
  - id: no-answers
    match: {llm: {tool_calls: [shell]}}
    action: deny
    reason: No shell.
  - id: not-theirs
    match: {host: [llm.example], llm: {provider: [ours], operation: [embeddings]}}
    action: deny
  - id: no-files
    match: {host: [files.example], tool: {server: [files]}, header: {x-no: ["1"]}}
    action: deny
  - id: no-puts
    match: {method: [PUT]}
    action: deny
"#;

fn decide(mode: &str, asks: (&str, &str, &str), llm: Option<&Llm>, tool: Option<&Tool>) -> Ruling {
    let policy = policy(&format!(
        "version: 1\nproviders: [{{name: ours, api: openai, hosts: [llm.example]}}]\ntool_servers: [{{name: files, api: mcp, hosts: [files.example]}}]\nagents: [{{name: coder{mode}}}]\nrules:\n{RULES}"
    ));
    let (method, name, path) = asks;
    let name = host(name);
    let request = Request {
        llm,
        tool,
        ..Request::new(method, path)
    };
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port: 443,
        transport: Transport::Tcp,
        request: Seen::Request(request),
        circumstances: Circumstances::NOBODY,
    };
    policy.decide(agent(&policy, "coder"), &facts)
}

#[test]
fn no_rule_is_blamed_for_what_cannot_be_read() {
    let llm = Llm {
        not_understood: Some("cut".to_owned()),
        ..llm_call("ours", None)
    };
    let tool = Tool {
        server: "files".to_owned(),
        not_understood: Some("cut".to_owned()),
        ..Tool::default()
    };
    let (llm, tool) = (Some(&llm), Some(&tool));
    for (asks, llm, tool, code) in [
        (
            ("POST", "files.example", "/mcp"),
            None,
            tool,
            ReasonCode::NotUnderstood,
        ),
        (
            ("POST", "llm.example", "/v1"),
            llm,
            None,
            ReasonCode::NotUnderstood,
        ),
        // What is denied whatever it says.
        (
            ("POST", "files.example", "/other"),
            None,
            tool,
            ReasonCode::NoRule,
        ),
        (
            ("PUT", "files.example", "/mcp"),
            None,
            tool,
            ReasonCode::RuleDeny,
        ),
        (
            ("POST", "other.example", "/mcp"),
            None,
            tool,
            ReasonCode::NoRule,
        ),
        (
            ("PUT", "llm.example", "/v1"),
            llm,
            None,
            ReasonCode::RuleDeny,
        ),
    ] {
        let ruling = decide("", asks, llm, tool);
        assert_eq!(
            (ruling.verdict, ruling.enforced),
            (Verdict::Deny, true),
            "{asks:?}"
        );
        assert_eq!(
            ruling.reason.code, code,
            "{asks:?} {}",
            ruling.reason.message
        );
        let blamed = !matches!(code, ReasonCode::NotUnderstood | ReasonCode::NoRule);
        assert_eq!(!ruling.matched.is_empty(), blamed, "{asks:?}");
        let watched = decide(", mode: observe", asks, llm, tool);
        assert_eq!(
            (watched.verdict, watched.enforced),
            (Verdict::Deny, false),
            "{asks:?}"
        );
        assert_eq!(watched.reason.code, code, "{asks:?}");
        // Where the rules decide, it is theirs.
        let left = decide(", not_understood: allow", asks, llm, tool);
        let own = [
            ReasonCode::RuleDeny,
            ReasonCode::NoRule,
            ReasonCode::EngineError,
        ];
        assert!(
            own.contains(&left.reason.code),
            "{asks:?} {:?}",
            left.reason
        );
    }
}

/// Where a call goes is known also of one that cannot be read.
#[test]
fn a_rule_on_where_calls_go_is_blamed_for_those_that_cannot_be_read() {
    let llm = Llm {
        not_understood: Some("cut".to_owned()),
        operation: agentguard_model::LlmOperation::Embeddings,
        ..llm_call("ours", None)
    };
    let asks = ("POST", "llm.example", "/v1");
    let ruling = decide("", asks, Some(&llm), None);
    assert_eq!(ruling.reason.code, ReasonCode::RuleDeny);
    assert_eq!(ruling.matched[0].rule, "not-theirs");
    let elsewhere = Llm {
        operation: agentguard_model::LlmOperation::Chat,
        ..llm
    };
    let ruling = decide("", asks, Some(&elsewhere), None);
    assert_eq!(ruling.reason.code, ReasonCode::NotUnderstood);
}

#[test]
fn of_an_answer_it_is_said_that_its_calls_cannot_be_read() {
    let small = || llm_call("ours", Some("small"));
    let llm = Llm {
        asks_unread: true,
        ..small()
    };
    let ruling = decide("", ("POST", "llm.example", "/v1"), Some(&llm), None);
    assert_eq!(ruling.reason.code, ReasonCode::RuleDeny);
    assert_eq!(ruling.matched[0].rule, "no-answers");
    assert_eq!(
        ruling.reason.message,
        "No shell. It cannot be read which tools the answer asks to call, and it may be any."
    );
    let llm = Llm {
        asks: vec!["shell".to_owned()],
        ..small()
    };
    let ruling = decide("", ("POST", "llm.example", "/v1"), Some(&llm), None);
    assert_eq!(ruling.reason.message, "No shell.");
}
