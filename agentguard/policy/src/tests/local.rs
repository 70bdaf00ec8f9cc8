//! Tools on the agent's own host.

use agentguard_model::{Argument, HostName, ReasonCode, Tool, Transport};

use super::{agent, document, host, policy};
use crate::{Circumstances, Facts, Policy, Request, Seen, compile, local};

const SERVERS: &str = "version: 1
tool_servers:
  - {name: files, api: mcp_stdio, list: allowed}
  - {name: claude-code, api: hook}
  - {name: remote, api: mcp, hosts: [mcp.example]}
agents: [{name: coder}]
rules:
";

fn rules(text: &str) -> Policy {
    policy(&format!("{SERVERS}{text}"))
}

fn call(server: &str, name: &str, path: &str) -> Tool {
    Tool {
        server: server.to_owned(),
        method: Some("tools/call".to_owned()),
        name: Some(name.to_owned()),
        values: vec![Argument {
            pointer: "/path".to_owned(),
            values: vec![path.to_owned()],
        }],
        ..Tool::default()
    }
}

fn decide(policy: &Policy, at: &HostName, port: u16, request: Seen<'_>) -> (ReasonCode, String) {
    let facts = Facts {
        host: Some(at),
        ip: None,
        port,
        transport: Transport::Tcp,
        request,
        circumstances: Circumstances::NOBODY,
    };
    let reason = policy.decide(agent(policy, "coder"), &facts).reason;
    (reason.code, reason.message)
}

fn locally(policy: &Policy, tool: &Tool) -> (ReasonCode, String) {
    let request = Request {
        tool: Some(tool),
        ..Request::new("", "")
    };
    decide(policy, local::place(), local::PORT, Seen::Request(request))
}

#[test]
fn calls_are_decided_by_server_name_and_arguments() {
    let policy = rules(
        "  - {id: data, match: {tool: {server: [files], name: [read], arguments: {/path: ['/data/*']}}}, action: allow}
  - {id: no-way-up, match: {tool: {arguments: {/path: ['*..*']}}}, action: deny}",
    );
    for (tool, code, sentence) in [
        (
            call("files", "read", "/data/a"),
            ReasonCode::RuleAllow,
            "Rule data allows coder to call read of files.",
        ),
        (
            call("files", "read", "/etc/shadow"),
            ReasonCode::NoRule,
            "No rule allows coder to call read of files.",
        ),
        // A denial for any destination is for this one too.
        (
            call("files", "read", "/data/../a"),
            ReasonCode::RuleDeny,
            "Rule no-way-up forbids coder to call read of files.",
        ),
        (
            call("claude-code", "Bash", "/data/a"),
            ReasonCode::NoRule,
            "No rule allows coder to call Bash of claude-code.",
        ),
    ] {
        assert_eq!(locally(&policy, &tool), (code, sentence.to_owned()));
    }
    assert!(policy.warnings().is_empty());
    let list = Tool {
        server: "files".to_owned(),
        method: Some("tools/list".to_owned()),
        ..Tool::default()
    };
    assert_eq!(locally(&policy, &list).0, ReasonCode::RuleAllow);
}

#[test]
fn a_rule_for_local_tools_opens_nothing_in_the_network_and_closes_nothing_there() {
    let policy = rules(
        "  - {id: tools, match: {tool: {server: [files, claude-code]}}, action: allow}
  - {id: no-shell, match: {tool: {server: [claude-*], name: [Bash]}}, action: deny}
  - {id: web, match: {host: [web.example], port: [443]}, action: allow}",
    );
    let (web, other) = (host("web.example"), host("other.example"));
    let coder = agent(&policy, "coder");
    assert!(policy.decide_name(coder, &web).allowed);
    assert!(!policy.decide_name(coder, &other).allowed);
    // No part of the connection has to be seen, though a denial looks at calls.
    let code = |at, seen| decide(&policy, at, 443, seen).0;
    assert_eq!(code(&web, Seen::Tls), ReasonCode::RuleAllow);
    assert_eq!(code(&other, Seen::Tls), ReasonCode::NoRule);
    let bash = call("claude-code", "Bash", "");
    assert_eq!(locally(&policy, &bash).0, ReasonCode::RuleDeny);
    let write = call("claude-code", "Write", "");
    assert_eq!(locally(&policy, &write).0, ReasonCode::RuleAllow);
}

#[test]
fn a_port_by_default_is_none_that_local_tools_lack() {
    let policy = policy(
        "version: 1
tool_servers: [{name: files, api: mcp_stdio}]
defaults: {rule: {port: [443]}}
agents: [{name: coder}]
rules:
  - {id: tools, match: {tool: {server: [files]}}, action: allow}",
    );
    let tool = call("files", "read", "/");
    assert_eq!(locally(&policy, &tool).0, ReasonCode::RuleAllow);
}

#[test]
fn a_server_has_hosts_or_is_local() {
    for (server, told) in [
        (
            "{name: a, api: mcp}",
            "p.yaml:2:31: error: `a` has no `hosts`, and answers nowhere",
        ),
        (
            "{name: a, api: mcp_stdio, hosts: [a.example]}",
            "p.yaml:2:49: error: `a` has no place in the network, and no `hosts`",
        ),
        (
            "{name: a, api: hook, paths: [/mcp]}",
            "p.yaml:2:44: error: `a` has no place in the network, and no `paths`",
        ),
    ] {
        let text = format!("version: 1\ntool_servers: [{server}]\nagents: [{{name: coder}}]\n");
        let found = compile(&[document(&text)]).unwrap_err().to_string();
        assert!(found.starts_with(told), "{found}");
    }
    let policy = rules("  - {id: all, action: allow}");
    assert!(policy.local_server("files").is_some());
    assert!(policy.local_server("remote").is_none());
}

#[test]
fn table_tests_ask_as_the_daemon_does() {
    use crate::table::{Expected, WrittenTable};
    let policy = rules(
        "  - {id: data, match: {tool: {server: [files], name: [read], arguments: {/path: ['/data/*']}}}, action: allow}
  - {id: quiet, match: {tool: {server: [claude-code], name: [Bash]}}, action: modify, modify: {redact: [/description]}}
  - {id: no-way-up, match: {tool: {arguments: {/path: ['*..*']}}}, action: deny}",
    );
    let table = |tests: &str| {
        let text = format!("version: 1\ntests:\n{tests}");
        WrittenTable::parse("p.test.yaml", &text).unwrap()
    };
    let tests = "  - {name: a, agent: coder, local_tool: {server: files, name: read, arguments: {/path: /data/a}}, expect: {verdict: allow, rule: data}}
  - {name: b, agent: coder, local_tool: {server: files, name: read, arguments: {/path: /data/../a}}, expect: {verdict: deny, rule: no-way-up}}
  - {name: c, agent: coder, local_tool: {server: files, name: write}, expect: {verdict: deny, reason: no_rule}}
  - {name: d, agent: coder, local_tool: {server: files, method: tools/list}, expect: allow}
  - {name: e, agent: coder, local_tool: {server: claude-code, name: Bash}, expect: {verdict: modify, rule: quiet}}
";
    let results = table(tests).check(&policy).unwrap();
    for result in results.run(&policy, |_, _, _| None) {
        assert!(result.passed, "{result:?}");
        assert_ne!(result.got.verdict, Expected::NeedsRequest);
    }
    for (test, told) in [
        ("local_tool: {name: read}", "missing key `server`"),
        (
            "local_tool: {server: remote, name: read}",
            "`remote` is no server on the agent's own host",
        ),
        (
            "local_tool: {server: flies, name: read}",
            "did you mean `files`?",
        ),
        (
            "local_tool: {server: files, name: read}, port: 443",
            "`port` beside `local_tool`",
        ),
        (
            "local_tool: {server: files, name: read}, host: a.example",
            "it goes to more than one destination",
        ),
    ] {
        let text = format!("  - {{name: t, agent: coder, {test}, expect: deny}}\n");
        let found = table(&text).check(&policy).unwrap_err();
        assert!(found.to_string().contains(told), "{test}: {found}");
    }
}

#[test]
fn what_no_local_tool_has_is_warned_of() {
    let warned = |matches: &str, action: &str| {
        let policy = rules(&format!(
            "  - {{id: all, match: {{tool: {{server: [claude-code, files]}}}}, action: allow}}\n  - {{id: a, match: {{{matches}}}, action: {action}}}\n"
        ));
        let warnings: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        warnings
            .iter()
            .filter(|it| it.contains("asked over no network"))
            .count()
    };
    let server = "tool: {server: [files], name: [x]}";
    for more in [
        "host: [mcp.example]",
        "port: [443]",
        "method: [POST]",
        "path: [/x]",
        "body_over: 100",
        "protocol: [http]",
        "header: {a: [b]}",
        "query: {a: [b]}",
    ] {
        assert_eq!(warned(&format!("{more}, {server}"), "deny"), 1, "{more}");
    }
    let headers = "modify, modify: {headers: {drop: [cookie]}}";
    assert_eq!(warned(server, headers), 1);
    assert_eq!(warned(server, "modify, modify: {redact: [/a]}"), 0);
    assert_eq!(warned(server, "deny"), 0);
    // Where all servers are local, one that names none is for those alone as well.
    let alone = SERVERS.replace("  - {name: remote, api: mcp, hosts: [mcp.example]}\n", "");
    let policy = policy(&format!(
        "{alone}  - {{id: a, match: {{tool: {{name: [x]}}}}, action: {headers}}}\n"
    ));
    let told: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
    let told: Vec<_> = told
        .iter()
        .filter(|it| it.contains("asked over no network"))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(warned("tool: {name: [x]}", headers), 0);
    // One that is for others as well has these for them.
    let both = "port: [443], tool: {server: [files, remote], name: [x]}";
    assert_eq!(warned(both, "deny"), 0);
}

/// A message to a local tool has no header fields, so that nothing is told to be changed in them.
#[test]
fn what_is_told_to_be_changed_in_a_message_is_changed() {
    let told = |modify: &str, tool: &Tool| {
        let policy = rules(&format!(
            "  - {{id: m, match: {{tool: {{name: ['*']}}}}, action: modify, modify: {modify}}}\n"
        ));
        locally(&policy, tool)
    };
    let send = call("files", "send", "/data/a");
    let ping = Tool {
        method: Some("ping".to_owned()),
        name: None,
        values: Vec::new(),
        ..send.clone()
    };
    let fields = "{headers: {drop: [cookie], set: {x-a: b}}}";
    let both = "{headers: {drop: [cookie]}, redact: [/bcc]}";
    for (modify, tool, code, sentence) in [
        (
            fields,
            &send,
            ReasonCode::RuleAllow,
            "Rule m allows coder to call send of files.",
        ),
        (
            both,
            &send,
            ReasonCode::RuleModify,
            "Rule m allows coder to call send of files, with `/bcc` redacted.",
        ),
        (
            both,
            &ping,
            ReasonCode::RuleAllow,
            "Rule m allows coder to send ping to files.",
        ),
    ] {
        let expected = (code, sentence.to_owned());
        assert_eq!(told(modify, tool), expected, "{modify}");
    }
    // On paper too.
    let policy = rules(
        "  - {id: a, match: {tool: {}}, action: allow}\n  - {id: m, match: {tool: {server: [files]}}, action: modify, modify: {headers: {drop: [cookie]}}, mode: shadow}\n",
    );
    assert_eq!(locally(&policy, &send).0, ReasonCode::RuleAllow);
}
