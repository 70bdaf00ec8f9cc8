//! What agents ask of agents, by the example of the page.

use agentguard_model::ToolApi;

use super::policy;
use crate::document::Pinning;
use crate::table::WrittenTable;

/// The example of `docs/policy.md`.
fn example() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.md");
    let page = std::fs::read_to_string(path).unwrap();
    let examples = page.split("```yaml\n").skip(1);
    let mut examples = examples.filter_map(|part| part.split("```").next());
    let found = examples.find(|text| text.contains("api: a2a"));
    found.unwrap().to_owned()
}

const TESTS: &str = r#"
version: 1
tests:
  - name: a message is sent
    agent: coder
    host: planner.example.com
    port: 443
    request:
      method: POST
      path: /rpc
      tool: {name: SendMessage, arguments: {/message/parts: '{"text":"hello"}'}}
    expect: {verdict: allow, rule: ask-the-planner}
  - name: keys are not
    agent: coder
    host: planner.example.com
    port: 443
    request:
      method: POST
      path: /v1/message:send
      tool: {name: SendMessage, arguments: {/message/parts: '{"text":"-----BEGIN PRIVATE KEY-----"}'}}
    expect: {verdict: deny, rule: no-keys-to-others}
  - name: the card is read
    agent: coder
    host: planner.example.com
    port: 443
    request: {method: GET, path: /.well-known/agent-card.json, tool: {method: tools/list}}
    expect: {verdict: allow, rule: ask-the-planner}
  - name: no task is ended
    agent: coder
    host: planner.example.com
    port: 443
    request: {method: POST, path: "/tasks/1:cancel", tool: {name: CancelTask}}
    expect: {verdict: deny, reason: no_rule}
  - name: what cannot be read is not sent
    agent: coder
    host: planner.example.com
    port: 443
    request: {method: POST, path: /rpc, tool: {not_understood: true}}
    expect: deny
"#;

#[test]
fn tests_of_a_policy_are_about_operations_too() {
    let policy = policy(&example());
    let server = policy.tool_server_named("planner").unwrap();
    assert_eq!((server.api, server.pin), (ToolApi::A2a, Pinning::Deny));
    let written = WrittenTable::parse("t.yaml", TESTS).unwrap();
    let results = written.check(&policy).unwrap().run(&policy, |_, _, _| None);
    assert_eq!(results.len(), 5);
    for result in results {
        assert!(result.passed, "{result:?}");
    }
}

#[test]
fn names_that_no_operation_has_are_warned_of() {
    let agent = "{name: planner, api: a2a, hosts: [a.example], paths: [/a2a]}";
    let mcp = "{name: files, api: mcp, hosts: [a.example], paths: [/mcp]}";
    for (servers, tool, told) in [
        (
            agent.to_owned(),
            "{name: [message/send]}",
            Some("write `SendMessage`"),
        ),
        (
            agent.to_owned(),
            "{name: [SendMesage]}",
            Some("did you mean `SendMessage`?"),
        ),
        (
            format!("{mcp}, {agent}"),
            "{server: [\"plan*\"], name: [GetTask, \"tasks/*\"]}",
            Some("`tasks/*` is no operation"),
        ),
        (
            agent.to_owned(),
            "{name: [sendmessage, \"Get*\", \"*\"]}",
            None,
        ),
        // Another server may have such a tool.
        (format!("{mcp}, {agent}"), "{name: [message/send]}", None),
        (format!("{agent}, {mcp}"), "{name: [message/send]}", None),
    ] {
        let policy = policy(&format!(
            "version: 1\ntool_servers: [{servers}]\nagents: [{{name: coder}}]\nrules: [{{id: a, action: deny, match: {{host: [a.example], tool: {tool}}}}}]\n"
        ));
        let found: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        match told {
            Some(told) => assert!(found.iter().any(|it| it.contains(told)), "{tool} {found:?}"),
            None => assert!(found.is_empty(), "{tool} {found:?}"),
        }
    }
}
