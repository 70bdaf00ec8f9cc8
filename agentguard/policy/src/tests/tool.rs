//! Messages to servers of tools: what rules say of them, what is refused, where servers are.

use agentguard_model::{Argument, HostName, ReasonCode, Tool, Transport};

use proptest::prelude::*;

use super::{agent, document, host, policy};
use crate::table::{Expected, WrittenTable};
use crate::{
    Circumstances, Condition, Consideration, Facts, Listing, Pinning, Policy, Request, Seen,
    compile,
};

fn asks(method: &str) -> Tool {
    Tool {
        server: "files".to_owned(),
        method: Some(method.to_owned()),
        id: Some("1".to_owned()),
        ..Tool::default()
    }
}

fn call(name: &str, arguments: &[(&str, &[&str])]) -> Tool {
    Tool {
        name: Some(name.to_owned()),
        values: arguments
            .iter()
            .map(|(pointer, values)| Argument {
                pointer: (*pointer).to_owned(),
                values: values.iter().map(|&it| it.to_owned()).collect(),
            })
            .collect(),
        ..asks("tools/call")
    }
}

fn answers(methods: &[&str]) -> Tool {
    Tool {
        method: None,
        answers: methods.iter().map(|&it| it.to_owned()).collect(),
        ..asks("")
    }
}

fn unread() -> Tool {
    Tool {
        method: None,
        not_understood: Some("no JSON".to_owned()),
        ..asks("")
    }
}

/// Rules for an agent on one host of a server.
fn rules(text: &str) -> Policy {
    policy(&format!(
        "version: 1\ntool_servers: [{{name: files, api: mcp, hosts: [mcp.example]}}]\nagents: [{{name: coder, not_understood: allow}}]\nrules:\n{text}"
    ))
}

fn facts<'a>(name: &'a HostName, tool: Option<&'a Tool>) -> Facts<'a> {
    Facts {
        host: Some(name),
        ip: None,
        port: 443,
        transport: Transport::Tcp,
        request: Seen::Request(Request {
            tool,
            ..Request::new("POST", "/mcp")
        }),
        circumstances: Circumstances::NOBODY,
    }
}

fn code(policy: &Policy, tool: Option<&Tool>) -> ReasonCode {
    let name = host("mcp.example");
    let facts = facts(&name, tool);
    policy.decide(agent(policy, "coder"), &facts).reason.code
}

/// Messages, each with whether a rule matches it.
type Cases = Vec<(Option<Tool>, bool)>;

const ALLOW: ReasonCode = ReasonCode::RuleAllow;
const DENY: ReasonCode = ReasonCode::RuleDeny;
const NONE: ReasonCode = ReasonCode::NoRule;
const ERROR: ReasonCode = ReasonCode::EngineError;

fn check(action: &str, before: &str, other: ReasonCode, met: ReasonCode, cases: &[(&str, Cases)]) {
    for (says, messages) in cases {
        let policy = rules(&format!(
            "{before}  - {{id: x, match: {{host: [mcp.example], tool: {says}}}, action: {action}}}\n"
        ));
        for (tool, matches) in messages {
            let expected = if *matches { met } else { other };
            assert_eq!(code(&policy, tool.as_ref()), expected, "{says} {tool:?}");
        }
    }
}

#[test]
fn an_allowance_is_for_messages_that_are_all_it_asks_for() {
    let stream = answers(&[]);
    check(
        "allow",
        "",
        NONE,
        ALLOW,
        &[
            (
                "{}",
                vec![
                    (Some(call("x", &[])), true),
                    (Some(asks("resources/read")), true),
                    (Some(answers(&["sampling/createMessage"])), true),
                    (Some(unread()), true),
                    (None, false),
                ],
            ),
            (
                "{server: [other]}",
                vec![(Some(call("x", &[])), false), (Some(asks("ping")), false)],
            ),
            (
                "{name: [\"read_*\", search]}",
                vec![
                    (Some(call("read_file", &[])), true),
                    (Some(call("search", &[])), true),
                    (Some(call("Search", &[])), false),
                    (Some(call("write", &[])), false),
                    // What every session needs passes with it, and nothing else does.
                    (Some(asks("initialize")), true),
                    (Some(asks("notifications/initialized")), true),
                    (Some(asks("server/discover")), true),
                    (Some(asks("ping")), true),
                    (Some(asks("tools/list")), true),
                    (Some(stream), true),
                    (Some(asks("resources/read")), false),
                    (Some(asks("prompts/get")), false),
                    (Some(asks("tasks/result")), false),
                    (Some(asks("logging/setLevel")), false),
                    (Some(answers(&["sampling/createMessage"])), false),
                    (Some(answers(&["roots/list"])), false),
                    (Some(unread()), false),
                    (None, false),
                    (
                        Some(Tool {
                            answers: vec!["elicitation/create".to_owned()],
                            ..call("search", &[])
                        }),
                        false,
                    ),
                ],
            ),
            (
                "{name: [read], arguments: {/path: [\"/data/*\"], /n: [\"1\", \"2\"]}}",
                vec![
                    (
                        Some(call("read", &[("/path", &["/data/x"]), ("/n", &["2"])])),
                        true,
                    ),
                    (
                        Some(call(
                            "read",
                            &[("/path", &["/data/x", "/data/y"]), ("/n", &["2"])],
                        )),
                        true,
                    ),
                    (
                        Some(call(
                            "read",
                            &[("/path", &["/data/x", "/etc"]), ("/n", &["2"])],
                        )),
                        false,
                    ),
                    (Some(call("read", &[("/path", &[]), ("/n", &["2"])])), false),
                    (
                        Some(call("read", &[("/path", &["/DATA/x"]), ("/n", &["2"])])),
                        false,
                    ),
                    (Some(call("read", &[("/path", &["/data/x"])])), false),
                    (
                        Some(call("read", &[("/Path", &["/data/x"]), ("/n", &["2"])])),
                        false,
                    ),
                    // Which of the two a server takes is its own matter.
                    (
                        Some(call(
                            "read",
                            &[
                                ("/path", &["/data/x"]),
                                ("/Path", &["/data/y"]),
                                ("/n", &["2"]),
                            ],
                        )),
                        false,
                    ),
                    (Some(asks("tools/list")), true),
                    (Some(unread()), false),
                ],
            ),
            (
                "{method: [\"resources/*\", \"sampling/*\"]}",
                vec![
                    (Some(asks("resources/read")), true),
                    (Some(asks("tools/list")), true),
                    (Some(answers(&["sampling/createMessage"])), true),
                    (
                        Some(answers(&["sampling/createMessage", "roots/list"])),
                        false,
                    ),
                    (Some(call("read", &[])), false),
                    (Some(unread()), false),
                ],
            ),
            (
                "{method: [\"tools/call\", \"elicitation/create\"], name: [a]}",
                vec![
                    (Some(call("a", &[])), true),
                    (Some(call("b", &[])), false),
                    (Some(answers(&["elicitation/create"])), true),
                    (Some(asks("resources/read")), false),
                    (
                        Some(Tool {
                            answers: vec!["elicitation/create".to_owned()],
                            ..call("a", &[])
                        }),
                        true,
                    ),
                ],
            ),
        ],
    );
}

#[test]
fn a_denial_is_for_messages_that_could_be_what_it_asks_for() {
    check(
        "deny",
        "  - {id: all, match: {host: [mcp.example]}, action: allow}\n",
        ALLOW,
        DENY,
        &[
            (
                "{}",
                vec![
                    (Some(asks("ping")), true),
                    (Some(unread()), true),
                    (None, false),
                ],
            ),
            (
                "{name: [write]}",
                vec![
                    (Some(call("write", &[])), true),
                    (Some(call("WRITE", &[])), true),
                    (Some(call("read", &[])), false),
                    (Some(asks("tools/list")), false),
                    (Some(asks("resources/read")), false),
                    (Some(answers(&["roots/list"])), false),
                    (Some(unread()), true),
                ],
            ),
            (
                "{arguments: {/path: [\"*..*\"]}}",
                vec![
                    (Some(call("read", &[("/path", &["/a/../b"])])), true),
                    (Some(call("read", &[("/PATH", &["/a/../b"])])), true),
                    (
                        Some(call("read", &[("/path", &["/a"]), ("/Path", &["..", "x"])])),
                        true,
                    ),
                    (Some(call("read", &[("/path", &["/a"])])), false),
                    (Some(call("read", &[])), false),
                    (Some(asks("tools/list")), false),
                    (Some(unread()), true),
                ],
            ),
            (
                "{method: [\"sampling/*\", \"Resources/Read\"]}",
                vec![
                    (
                        Some(answers(&["sampling/createMessage", "roots/list"])),
                        true,
                    ),
                    (
                        Some(Tool {
                            answers: vec!["sampling/createMessage".to_owned()],
                            ..call("a", &[])
                        }),
                        true,
                    ),
                    (Some(asks("resources/read")), true),
                    (Some(answers(&["roots/list"])), false),
                    (Some(call("a", &[])), false),
                    (Some(unread()), true),
                ],
            ),
        ],
    );
}

#[test]
fn expressions_look_at_messages() {
    for (expression, tool, expected) in [
        (
            "tool.server == 'files' && tool.name == 'a'",
            Some(call("a", &[])),
            ALLOW,
        ),
        (
            "tool.name == '' && tool.method == '' && tool.server == ''",
            None,
            ALLOW,
        ),
        (
            "tool.method == 'resources/read'",
            Some(asks("resources/read")),
            ALLOW,
        ),
        (
            "tool.method == 'resources/read'",
            Some(call("a", &[])),
            NONE,
        ),
        (
            "tool.arguments['/a'].startsWith('x')",
            Some(call("a", &[("/a", &["xy"])])),
            ALLOW,
        ),
        ("!('/a' in tool.arguments)", Some(call("a", &[])), ALLOW),
        // What is not there, or there in two ways, cannot be looked at.
        ("tool.arguments['/a'] == 'x'", Some(call("a", &[])), ERROR),
        (
            "tool.arguments['/a'] == 'x'",
            Some(call("a", &[("/A", &["x"])])),
            ERROR,
        ),
        (
            "tool.arguments['/a'] == 'x'",
            Some(call("a", &[("/a", &["x", "y"])])),
            ERROR,
        ),
        ("tool.name == ''", Some(unread()), ERROR),
        ("tool.server == 'files'", Some(unread()), ALLOW),
    ] {
        let policy = rules(&format!(
            "  - {{id: x, match: {{host: [mcp.example]}}, when: \"{expression}\", action: allow}}\n"
        ));
        assert_eq!(
            code(&policy, tool.as_ref()),
            expected,
            "{expression} {tool:?}"
        );
    }
}

#[test]
fn what_is_wrong_is_told_in_its_place() {
    for (text, told) in [
        ("match: {tool: {name: []}}", "`name` is empty"),
        ("match: {tool: {names: [a]}}", "did you mean `name`?"),
        (
            "match: {tool: {server: [Files]}}",
            "`Files` is no name of a server of tools",
        ),
        ("match: {tool: {arguments: {}}}", "`arguments` is empty"),
        (
            "match: {tool: {arguments: {path: [a]}}}",
            "`path` is no JSON Pointer: it does not begin with `/`",
        ),
        (
            "match: {tool: {arguments: {/a~2: [a]}}}",
            "`~` stands alone in it",
        ),
        ("match: {tool: {arguments: {/a: []}}}", "is empty"),
        (
            "match: {tool: {name: [a], method: [\"resources/*\"]}}",
            "`method` has no `tools/call`",
        ),
        (
            "match: {protocol: [websocket], tool: {}}",
            "opens no `websocket`",
        ),
        ("match: {protocol: [tls], tool: {}}", "shows no `tool`"),
        ("when: \"tool.nam == 'x'\"", "did you mean `tool.name`?"),
        (
            "when: \"tool.arguments['x'] == 'x'\"",
            "`x` is no JSON Pointer",
        ),
        (
            "when: \"tool.arguments == 'x'\"",
            "is not looked at as a whole",
        ),
    ] {
        let text = format!(
            "version: 1\ntool_servers: [{{name: files, api: mcp, hosts: [mcp.example]}}]\nagents: [{{name: coder}}]\nrules: [{{id: a, action: deny, {text}}}]\n"
        );
        let found = compile(&[document(&text)]).unwrap_err().to_string();
        assert!(found.contains(told), "{text}\n{found}");
    }
    for (servers, told) in [
        (
            "{name: Files, api: mcp, hosts: [a.example]}",
            "`Files` is not a name of a server of tools",
        ),
        ("{name: a, api: rest, hosts: [a.example]}", "rest"),
        ("{name: a, api: mcp, hosts: []}", "`hosts` is empty"),
        (
            "{name: a, api: http, hosts: [a.example]}",
            "without `tools`",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: []}",
            "`tools` is empty",
        ),
        (
            "{name: a, api: grpc, hosts: [a.example], tools: [{name: x, method: [GET], path: /}]}",
            "`tools` is for `api: http`",
        ),
        (
            "{name: a, api: json_rpc, hosts: [a.example], list: allowed}",
            "`list: allowed` is for `api: mcp`",
        ),
        (
            "{name: a, api: a2a, hosts: [a.example], list: allowed}",
            "`list: allowed` is for `api: mcp`",
        ),
        (
            "{name: a, api: a2a, hosts: [a.example], tools: [{name: x, method: [GET], path: /}]}",
            "`tools` is for `api: http`",
        ),
        (
            "{name: a, api: json_rpc, hosts: [a.example], pin: deny}",
            "`pin` is for `api: mcp`, `mcp_stdio` and `a2a`",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: '/{a}/b'}, {name: y, method: [PUT, GET], path: '/A/{b}'}]}",
            "some requests are `y` as well as `x`",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: /}, {name: x, method: [PUT], path: /}]}",
            "a second tool `x`",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [get], path: /}]}",
            "`get` is not a method of HTTP in upper case",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x y, method: [GET], path: /}]}",
            "`x y` is not a name of a tool",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: '/{id}', lists: [a, 'id[]']}]}",
            "the list `id[]` is a parameter of the path, and there once",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: /, lists: [a, 'a[]']}]}",
            "the list `a[]` is there twice",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: /, lists: ['a[b]']}]}",
            "the list `a[b]` is not a name of an argument in a query or a form",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: /, types: {page: int}}]}",
            "p.yaml:2:113: error: unknown value `int`\n  hint: did you mean `integer`?",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: /, lists: ['a[]'], types: {'a[]': integer}}]}",
            "p.yaml:2:130: error: the argument `a[]` has a type under its name with `[]`\n  hint: leave the `[]` out",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: /, types: {'a b': integer}}]}",
            "p.yaml:2:114: error: the argument `a b` is not a name of an argument in a path, a query or a form",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: /, types: {page: integer, Page: string}}]}",
            "p.yaml:2:113: error: the argument `page` has a type already, in another case",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: /, types: [page]}]}",
            "p.yaml:2:106: error: expected keys and values, found a list",
        ),
        (
            "{name: a, api: mcp, hosts: [a.example], types: {page: integer}}",
            "p.yaml:2:56: error: unknown key `types`",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: '/a}b'}]}",
            "has a brace that is not around a parameter",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: '/{a}{b}'}]}",
            "p.yaml:2:96: error: the path `/{a}{b}` has two parameters without text between them\n  hint: say what stands between them",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: '/{a}.{b}.{c}.{d}.{e}'}]}",
            "has more than 4 parameters in a segment",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: '/{a}:x'}, {name: y, method: [GET], path: '/{b}:X'}]}",
            "some requests are `y` as well as `x`",
        ),
        (
            "{name: a, api: http, hosts: [a.example], tools: [{name: x, method: [GET], path: '/a//{b}'}]}",
            "write `/a/{b}`",
        ),
        (
            "{name: a, api: mcp, hosts: [a.example], paths: []}",
            "`paths` is empty",
        ),
        (
            "{name: a, api: mcp, hosts: [a.example], paths: [mcp]}",
            "does not begin with `/`",
        ),
        (
            "{name: a, api: mcp, hosts: [a.example], list: some}",
            "some",
        ),
        ("{name: a, api: mcp, hosts: [a.example], pin: some}", "some"),
        (
            "{name: a, api: mcp, hosts: [a.example]}, {name: a, api: mcp, hosts: [b.example]}",
            "a second server of tools `a`",
        ),
    ] {
        let text = format!(
            "version: 1\ntool_servers: [{servers}]\nagents: [{{name: coder}}]\nrules: []\n"
        );
        let found = compile(&[document(&text)]).unwrap_err().to_string();
        assert!(found.contains(told), "{servers}\n{found}");
    }
}

/// Two tools of one server and rules about them.
fn typed(rules: &str) -> Result<Policy, String> {
    let text = format!(
        "
version: 1
tool_servers:
  - name: shop
    api: http
    hosts: [mcp.example]
    tools:
      - {{name: search, method: [GET], path: /items, lists: ['ids[]'], types: {{page: integer, price: number, all: boolean, ids: integer}}}}
      - {{name: find, method: [GET], path: '/find/{{page}}', types: {{page: string}}}}
      - {{name: buy, method: [POST], path: /items}}
  - {{name: files, api: mcp, hosts: [mcp.example]}}
agents: [{{name: coder}}]
rules:
{rules}"
    );
    let documents = [document(&text)];
    compile(&documents).map_err(|found| found.to_string())
}

#[test]
fn an_argument_has_its_type_in_the_expressions_of_rules_about_its_tools() {
    let rule = |matches: &str, when: &str| {
        typed(&format!(
            "  - {{id: a, action: allow, handling: inspect, match: {{host: [mcp.example], port: [443], tool: {matches}}}, when: \"{when}\"}}\n"
        ))
    };
    let page = "tool.arguments['/page'] <= 10";
    let ids = "tool.arguments['/ids/0'] <= 10";
    for (matches, when, right) in [
        ("{server: [shop], name: [search]}", page, true),
        ("{server: [shop], name: [s*, buy]}", page, true),
        // Of another one with that argument it is said whether it is a number when it is called.
        ("{name: [search, read]}", page, true),
        ("{server: [shop], name: [search]}", ids, true),
        (
            "{server: [shop], name: [search]}",
            "tool.arguments['/ids'] <= 10",
            true,
        ),
        (
            "{server: [shop], name: [search]}",
            "tool.arguments['/all']",
            true,
        ),
        (
            "{server: [shop], name: [search]}",
            "tool.arguments['/Page'] <= 10",
            true,
        ),
        (
            "{server: [shop], name: [search]}",
            "tool.arguments['/page'] == '10'",
            false,
        ),
        (
            "{server: [shop], name: [search]}",
            "tool.arguments['/page/0'] <= 10",
            false,
        ),
        (
            "{server: [shop], name: [search]}",
            "tool.arguments['/ids/x'] <= 10",
            false,
        ),
        // They do not agree.
        ("{server: [shop], name: [search, find]}", page, false),
        ("{server: [shop]}", page, false),
        ("{}", page, false),
        (
            "{server: [shop], name: [search, find]}",
            "int(tool.arguments['/page']) <= 10",
            true,
        ),
        ("{server: [shop], name: [find]}", page, false),
        ("{server: [shop], name: [buy]}", page, false),
        ("{server: [files]}", page, false),
    ] {
        let found = rule(matches, when);
        assert_eq!(found.is_ok(), right, "{matches} {when}: {found:?}");
    }
}

#[test]
fn patterns_look_at_an_argument_with_a_type_as_it_is_written() {
    let policy = typed(
        "  - {id: ones, action: allow, handling: inspect, match: {host: [mcp.example], port: [443], tool: {server: [shop], arguments: {/page: ['1*']}}}}\n",
    )
    .unwrap();
    let call = |page: &str| {
        let tool = Tool {
            server: "shop".to_owned(),
            ..call("search", &[("/page", &[page])])
        };
        code(&policy, Some(&tool))
    };
    for page in ["1", "10", "1000"] {
        assert_eq!(call(page), ReasonCode::RuleAllow, "{page}");
    }
    for page in ["-1", "2", "21"] {
        assert_eq!(call(page), ReasonCode::NoRule, "{page}");
    }
}

#[test]
fn a_test_has_no_argument_that_could_not_be_read() {
    let policy = typed(
        "  - {id: a, action: allow, handling: inspect, match: {host: [mcp.example], port: [443], tool: {server: [shop], name: [search]}}, when: \"tool.arguments['/page'] <= 10\"}\n",
    )
    .unwrap();
    let run = |page: &str| {
        let text = format!(
            "version: 1\ntests:\n  - {{name: t, agent: coder, host: mcp.example, port: 443, request: {{method: GET, path: /items, tool: {{server: shop, name: search, arguments: {{/page: {page}}}}}}}, expect: {{verdict: allow}}}}\n"
        );
        let table = WrittenTable::parse("t.yaml", &text).unwrap();
        let table = table.check(&policy).map_err(|it| it.to_string())?;
        let results = table.run(&policy, |_, _, _| None);
        Ok(results.iter().all(|it| it.passed))
    };
    assert_eq!(run("10"), Ok(true));
    assert_eq!(run("11"), Ok(false));
    assert_eq!(run("'010'"), Err("t.yaml:3:150: error: `010` is no `integer`, as `types` of `search` has `/page`, so that such a call cannot be read\n  hint: write decimal digits of at most 64 bits, without `+`, spaces, fractions and zeros in front; to test what cannot be read, say `not_understood: true` and nothing else".to_owned()));
}

#[test]
fn what_was_not_meant_is_warned_of() {
    for (servers, rule, told) in [
        (
            "",
            "{id: a, action: deny, match: {tool: {}}}",
            "no server of tools is declared",
        ),
        (
            "tool_servers: [{name: files, api: mcp, hosts: [mcp.example]}]\n",
            "{id: a, action: allow, match: {host: [other.example], tool: {}}}",
            "no server of tools answers where this rule is for",
        ),
        (
            "tool_servers: [{name: files, api: mcp, hosts: [mcp.example]}]\n",
            "{id: a, action: allow, match: {host: [mcp.example], tool: {server: [fiels]}}}",
            "did you mean `files`?",
        ),
    ] {
        let text = format!("version: 1\n{servers}agents: [{{name: coder}}]\nrules: [{rule}]\n");
        let policy = compile(&[document(&text)]).unwrap();
        let found: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|it| it.contains(told)), "{rule} {found:?}");
    }
}

#[test]
fn names_and_methods_that_no_message_has_are_warned_of() {
    let tools = "tools: [{name: delete_issue, method: [DELETE], path: /i}, {name: get_issue, method: [GET], path: /i}]";
    let servers = format!(
        "{{name: h, api: http, hosts: [h.example], {tools}}}, {{name: q, api: graphql, hosts: [q.example]}}, {{name: g, api: grpc, hosts: [g.example]}}, {{name: m, api: mcp, hosts: [m.example]}}"
    );
    for (matches, told) in [
        (
            "tool: {server: [h], name: [delete_isue]}",
            Some("did you mean `delete_issue`?"),
        ),
        (
            "host: [h.example], tool: {name: [delete_isue]}",
            Some("`h` has no tool `delete_isue`"),
        ),
        ("tool: {server: [h], name: [Delete_Issue, 'get_*']}", None),
        (
            "tool: {server: [q], name: [deleteRepository]}",
            Some("`mutation.deleteRepository`"),
        ),
        (
            "tool: {server: [q], name: [mutation.]}",
            Some("`mutation.` is no field"),
        ),
        (
            "tool: {server: [q], name: [mutation.deleteRepository, '*Repository', 'q*', 'query.*']}",
            None,
        ),
        (
            "tool: {server: [q], name: ['delete*']}",
            Some("`delete*` is no field"),
        ),
        (
            "tool: {server: [g], name: [Delete]}",
            Some("`Delete` is no method of gRPC"),
        ),
        (
            "tool: {server: [g], name: [/a.B/Delete]}",
            Some("`/a.B/Delete` is no method"),
        ),
        (
            "tool: {server: [g], name: [a.B/Delete, '*/Delete', '*Delete']}",
            None,
        ),
        (
            "tool: {server: [g, q], name: [Delete]}",
            Some("no server that this rule is for"),
        ),
        // One of the others may have it.
        ("tool: {name: [Delete]}", None),
        (
            "tool: {server: [m], method: [resource/read]}",
            Some("did you mean `resources/read`?"),
        ),
        (
            "tool: {method: [sampling/create_message]}",
            Some("did you mean `sampling/createMessage`?"),
        ),
        (
            "tool: {server: [m], method: [resources/read, 'resource*', acme/own, resources/search, Resources/Read]}",
            None,
        ),
    ] {
        let policy = policy(&format!(
            "version: 1\ntool_servers: [{servers}]\nagents: [{{name: coder}}]\nrules: [{{id: a, action: deny, match: {{{matches}}}}}]\n"
        ));
        let found: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        match told {
            Some(told) => assert!(found.concat().contains(told), "{matches} {found:?}"),
            None => assert!(found.is_empty(), "{matches} {found:?}"),
        }
    }
}

#[test]
fn a_server_answers_at_its_paths_however_they_are_written() {
    let policy = policy(
        "version: 1\ntool_servers:\n  - {name: files, api: mcp, hosts: [mcp.example], paths: [\"/Files/mcp\", \"/files/sse/**\"], list: allowed, pin: deny}\n  - {name: all, api: mcp, hosts: [mcp.example, \"*.mcp.example\"], paths: [\"/all/**\"]}\n  - {name: slash, api: mcp, hosts: [mcp.example], paths: [\"/slash/\", \"/scope%2Fname\"]}\n  - {name: any, api: mcp, hosts: [any.example]}\nagents: [{name: coder}]\nrules: []\n",
    );
    for (name, path, expected) in [
        ("mcp.example", "/Files/mcp", Some("files")),
        ("mcp.example", "/files/MCP", Some("files")),
        ("mcp.example", "/files/mcp/", Some("files")),
        ("mcp.example", "/files/mcp;a=b", Some("files")),
        ("mcp.example", "/files;x/mcp/", Some("files")),
        ("mcp.example", "/files%2Fmcp", Some("files")),
        ("mcp.example", "/files/mcp%2F", Some("files")),
        ("mcp.example", "/%2Ffiles%2FMCP%2F%2F", Some("files")),
        ("mcp.example", "/files%3Bx%2Fmcp", Some("files")),
        ("mcp.example", "/files/mcp%2F%3Bx", Some("files")),
        ("mcp.example", "/FILES%3b1%2Fmcp%3b2", Some("files")),
        // Where a parameter ends is told before or after an escaped slash is one.
        ("mcp.example", "/files%3Bx%2Fy/mcp", Some("files")),
        ("mcp.example", "/files/mcp%3Bx%2Fy", Some("files")),
        ("mcp.example", "/x/..%3By/files/.%3B/mcp", Some("files")),
        ("mcp.example", "/slash", Some("slash")),
        ("mcp.example", "/slash/%2F", Some("slash")),
        ("mcp.example", "/scope/name", Some("slash")),
        ("mcp.example", "/files", None),
        ("mcp.example", "/files/mcp/x", None),
        ("mcp.example", "/files/mcp%2Fx", None),
        ("mcp.example", "/", None),
        ("mcp.example", "/%2F", None),
        ("mcp.example", "*", None),
        ("any.example", "*", Some("any")),
        ("mcp.example", "/files/sse/a/b", Some("files")),
        ("mcp.example", "/files/mcpx", None),
        ("mcp.example", "/all", Some("all")),
        ("x.mcp.example", "/all/y", Some("all")),
        ("x.mcp.example", "/Files/mcp", None),
        ("any.example", "/", Some("any")),
        ("any.example", "/token", Some("any")),
        ("other.example", "/mcp", None),
    ] {
        let server = policy.tool_server(&host(name), path);
        assert_eq!(server.map(|it| it.name.as_str()), expected, "{name} {path}");
    }
    let files = policy
        .tool_server(&host("mcp.example"), "/files/mcp")
        .unwrap();
    assert_eq!((files.list, files.pin), (Listing::Allowed, Pinning::Deny));
    let any = policy.tool_server_named("any").unwrap();
    assert_eq!((any.list, any.pin), (Listing::All, Pinning::Alert));
}

proptest! {
    /// Whatever a server may leave out of a path, or read in it as if it were not there.
    #[test]
    fn a_servers_path_stays_its_own_however_much_is_put_into_it(
        written in prop::sample::select(vec!["a/mcp", "planner/v1/message:send", "x/1/y", "q/r", "s"]),
        slashes in prop::collection::vec("((/|%2[fF])((;|%3[bB])[a-z0-9=.]{0,3})?){0,2}(/|%2[fF])", 3),
        last in "((/|%2[fF])((;|%3[bB])[a-z0-9=.]{0,3})?){0,3}",
        parameters in prop::collection::vec("((;|%3[bB])[a-z0-9=.]{0,3}){0,2}", 4),
        upper in prop::collection::vec(any::<bool>(), 64),
    ) {
        let policy = policy(
            "version: 1\ntool_servers: [{name: files, api: mcp, hosts: [mcp.example], paths: [/a/mcp, \"/planner/**\", \"/x/*/Y\", \"/q%2Fr\", /s/]}]\nagents: [{name: coder}]\nrules: []\n",
        );
        let mut path = String::from("/");
        for (n, segment) in written.split('/').enumerate() {
            path.push_str(&slashes[n]);
            let letters = segment.chars().zip(&upper[8 * n..]);
            path.extend(letters.map(|(it, upper)| if *upper { it.to_ascii_uppercase() } else { it }));
            path.push_str(&parameters[n]);
        }
        path.push_str(&last);
        prop_assert!(policy.tool_server(&host("mcp.example"), &path).is_some(), "{}", path);
    }
}

#[test]
fn what_cannot_be_read_is_called_what_it_is() {
    let policy = policy(
        "version: 1\ntool_servers: [{name: files, api: mcp, hosts: [mcp.example]}, {name: rpc, api: json_rpc, hosts: [rpc.example]}]\nagents: [{name: coder}]\nrules: [{id: all, match: {tool: {}}, action: allow}]\n",
    );
    for (server, told) in [
        (
            "files",
            "The message to a server of tools cannot be read: no JSON.",
        ),
        ("rpc", "The call of a tool cannot be read: no JSON."),
    ] {
        let tool = Tool {
            server: server.to_owned(),
            ..unread()
        };
        let name = host("mcp.example");
        let ruling = policy.decide(agent(&policy, "coder"), &facts(&name, Some(&tool)));
        assert_eq!(ruling.reason.code, ReasonCode::NotUnderstood);
        assert_eq!(ruling.reason.message, told);
    }
}

#[test]
fn a_tool_is_shown_if_some_call_of_it_would_go_on() {
    let policy = rules(
        "  - {id: read, match: {host: [mcp.example], tool: {name: [\"read*\"], arguments: {/path: [\"/data/*\"]}}}, action: allow}\n  - {id: no-up, match: {tool: {arguments: {/path: [\"*..*\"]}}}, action: deny}\n  - {id: no-secret, match: {tool: {name: [read_secret]}}, action: deny}\n",
    );
    let name = host("mcp.example");
    let list = asks("tools/list");
    let facts = facts(&name, Some(&list));
    for (tool, expected) in [
        ("read", true),
        ("read_all", true),
        ("read_secret", false),
        ("write", false),
    ] {
        let shown = policy.may_call(agent(&policy, "coder"), &facts, "files", tool);
        assert_eq!(shown, expected, "{tool}");
    }
}

#[test]
fn explain_says_which_part_failed() {
    let policy = rules(
        "  - {id: a, match: {host: [mcp.example], tool: {name: [read], arguments: {/path: [\"/data/*\"]}}}, action: allow}\n",
    );
    let name = host("mcp.example");
    for (tool, failed) in [
        (
            Some(call("write", &[("/path", &["/data/x"])])),
            vec![Condition::ToolName],
        ),
        (
            Some(call("read", &[("/path", &["/etc"])])),
            vec![Condition::ToolArguments],
        ),
        (Some(asks("resources/read")), vec![Condition::ToolMethod]),
        (None, vec![Condition::Tool]),
    ] {
        let facts = facts(&name, tool.as_ref());
        let considered = policy.explain(agent(&policy, "coder"), &facts);
        assert_eq!(
            considered[0].verdict,
            Consideration::Failed(failed),
            "{tool:?}"
        );
    }
    let list = asks("tools/list");
    let considered = policy.explain(agent(&policy, "coder"), &facts(&name, Some(&list)));
    assert_eq!(considered[0].verdict, Consideration::Matched);
}

#[test]
fn what_is_recorded_of_arguments() {
    let policy = rules(
        "  - {id: a, match: {host: [mcp.example], tool: {arguments: {/path: [\"*\"], /api_key: [\"k*\"]}}}, action: allow}\n",
    );
    let long = "x".repeat(600);
    let tool = call(
        "t",
        &[
            ("/Path", &[long.as_str()]),
            ("/api_key", &["k1"]),
            ("/other", &["o"]),
        ],
    );
    let recorded = policy.recorded_tool(&tool);
    let told: Vec<_> = recorded
        .values
        .iter()
        .map(|it| (it.pointer.as_str(), it.values[0].chars().count()))
        .collect();
    assert_eq!(told, [("/Path", 513), ("/api_key", 1)]);
    assert_eq!(recorded.values[1].values, ["…"]);
}

#[test]
fn tests_send_messages() {
    let policy = policy(
        "version: 1\ntool_servers: [{name: files, api: mcp, hosts: [mcp.example], paths: [/mcp]}]\nagents: [{name: coder}]\nrules:\n  - {id: read, match: {host: [mcp.example], port: [443], tool: {name: [read], arguments: {/path: [\"/data/*\"]}}}, action: allow, handling: inspect}\n",
    );
    let run = |path: &str, request: &str| {
        let text = format!(
            "version: 1\npolicy: p.yaml\ntests:\n  - {{name: a, agent: coder, host: mcp.example, port: 443, request: {{method: POST, path: {path}, {request}}}, expect: allow}}\n"
        );
        let table = WrittenTable::parse("p.test.yaml", &text).map_err(|it| it.to_string())?;
        let table = table.check(&policy).map_err(|it| it.to_string())?;
        Ok::<_, String>(table.run(&policy, |_, _, _| None).remove(0).got)
    };
    for (request, verdict, code) in [
        (
            "tool: {name: read, arguments: {/path: /data/x}}",
            Expected::Allow,
            ALLOW,
        ),
        (
            "tool: {name: read, arguments: {/path: /etc}}",
            Expected::Deny,
            NONE,
        ),
        ("tool: {method: tools/list}", Expected::Allow, ALLOW),
        ("tool: {}", Expected::Allow, ALLOW),
        ("tool: {method: resources/read}", Expected::Deny, NONE),
        (
            "tool: {answers: [sampling/createMessage]}",
            Expected::Deny,
            NONE,
        ),
        (
            "tool: {not_understood: true}",
            Expected::Deny,
            ReasonCode::NotUnderstood,
        ),
    ] {
        let got = run("/mcp", request).unwrap();
        assert_eq!((got.verdict, got.reason.code), (verdict, code), "{request}");
    }
    for (path, request, told) in [
        ("/other", "tool: {}", "no server of tools answers there"),
        ("/mcp", "tool: {server: fils}", "did you mean `files`?"),
        (
            "/mcp",
            "body: 1KiB",
            "the guard reads this request as a message to the server of tools `files`",
        ),
        (
            "/mcp",
            "tool: {name: a, not_understood: true}",
            "nothing is known but the server",
        ),
        (
            "/mcp",
            "tool: {arguments: {/a: b}}",
            "`arguments` without the `name`",
        ),
        (
            "/mcp",
            "tool: {name: a, method: tools/list}",
            "a call is `tools/call`",
        ),
        (
            "/mcp",
            "tool: {name: a, arguments: {a: b}}",
            "is no JSON Pointer",
        ),
        (
            "/mcp",
            "tool: {}, llm: {operation: chat, provider: openai}",
            "`tool` beside `llm`",
        ),
    ] {
        let found = run(path, request).unwrap_err();
        assert!(found.contains(told), "{request}\n{found}");
    }
}
