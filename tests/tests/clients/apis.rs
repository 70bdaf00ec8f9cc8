//! Calls of tools that are requests of HTTP, of gRPC, of GraphQL and of JSON-RPC, inside inspected TLS: by curl, and by Python's
//! `grpcio`.

use std::path::Path;

use agentguard_model::{ActionKind, Decision, Verdict};
use agentguard_tests::{Output, World, wait_until};
use anyhow::{Result, ensure};

use crate::grpc;
use crate::inspected::inspected;
use crate::room::{LATE, Program, Room, SITE, ungoverned, world};
use crate::serving::trusting;

const REASON: &str = "Nobody writes to that.";

fn open(world: &World) -> Result<Room<'_>> {
    let policy = format!(
        "
version: 1
tool_servers:
  - {{ name: chain, api: json_rpc, hosts: [{SITE}], paths: [/echo/rpc] }}
  - name: tracker
    api: http
    hosts: [{SITE}]
    tools:
      - {{ name: search, method: [GET], path: /echo/issues }}
      - {{ name: comment, method: [POST], path: '/echo/issues/{{number}}/comments' }}
      - {{ name: attach, method: [POST], path: '/echo/issues/{{number}}/files' }}
      - {{ name: close, method: [POST], path: '/echo/issues/{{number}}:close' }}
      - {{ name: export, method: [GET], path: '/echo/reports/{{number}}.{{format}}' }}
agents:
  - name: coder
rules:
  - id: tracker
    match:
      host: [{SITE}]
      port: [443]
      tool: {{ server: [tracker], name: [search, comment, attach, close, export] }}
    action: allow
    handling: inspect
  - id: chain
    match:
      host: [{SITE}]
      port: [443]
      tool: {{ server: [chain], name: ['eth_get*', eth_sendRawTransaction] }}
    action: allow
    handling: inspect
  - id: closed
    match:
      host: [{SITE}]
      tool: {{ server: [tracker], arguments: {{ /number: ['13'] }} }}
    action: deny
    reason: {REASON}
  - id: no-secrets
    match: {{ host: [{SITE}], tool: {{ arguments: {{ /text: ['*secret*'] }} }} }}
    action: deny
    reason: {REASON}
  - id: no-programs
    match: {{ host: [{SITE}], tool: {{ arguments: {{ /file/name: ['*.exe'] }} }} }}
    action: deny
    reason: {REASON}
  - id: not-there
    match: {{ host: [{SITE}], tool: {{ arguments: {{ /0: ['0xdead*'] }} }} }}
    action: deny
    reason: {REASON}
"
    );
    trusting(world, SITE, &policy)
}

/// What a call was and what became of it: verdict, reason, tool, and the arguments that rules look at. What cannot be
/// read is denied, here by the first rule that it might match.
fn told(decision: &Decision) -> String {
    let tool = decision.action.tool.clone().unwrap_or_default();
    if tool.not_understood.is_some() && decision.verdict == Verdict::Deny {
        return "not understood".to_owned();
    }
    let values = tool.values.iter();
    let values = values.map(|it| format!(" {}={}", it.pointer, it.values.join(",")));
    format!(
        "{} {} {}{}",
        decision.verdict,
        decision.reason.code,
        tool.name.unwrap_or_default(),
        values.collect::<String>()
    )
}

/// What the record has of requests, in their order, once there are as many.
pub(crate) fn calls(room: &Room<'_>, count: usize) -> Result<Vec<Decision>> {
    wait_until("the calls", LATE, || {
        let decisions = room.guard.verdicts().ok()?.into_iter();
        let calls = decisions.filter(|it| it.action.tool.is_some());
        let calls: Vec<_> = calls.collect();
        (calls.len() == count).then_some(calls)
    })
}

/// Sends one request after the other. Each goes through without the guard.
pub(crate) fn send(
    world: &World,
    room: &Room<'_>,
    curl: &Program,
    cases: &[&[&str]],
) -> Result<Vec<Output>> {
    let options = ["-sS", "--max-time", "20", "-w", "\n%{http_code}"];
    let mut outputs = Vec::new();
    for case in cases {
        let words = [&options, *case].concat();
        let free = ungoverned(world, curl.words(&words))?.success()?;
        ensure!(free.stdout.ends_with("\n200"), "{free}");
        let output = inspected(room, &curl.words(&words)).run()?;
        outputs.push(output.success()?);
    }
    Ok(outputs)
}

pub(crate) fn status(output: &Output) -> &str {
    output.stdout.rsplit('\n').next().unwrap_or_default()
}

#[test]
fn requests_are_decided_by_the_tool_and_the_arguments_that_they_are() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("apis-http").start().unwrap();
    let room = open(&world).unwrap();
    let files = world.directory();
    for name in ["a.txt", "a.exe"] {
        std::fs::write(files.join(name), "12345").unwrap();
    }
    let file = |name: &str| format!("file=@{}", Path::new(files).join(name).display());
    let (plain, program) = (file("a.txt"), file("a.exe"));
    let comments = "https://api.example.com/echo/issues/7/comments";
    let attached = "https://api.example.com/echo/issues/7/files";
    let json = "Content-Type: application/json";
    let cases: [(&[&str], &str); 21] = [
        (
            &["https://api.example.com/echo/issues?text=a+bug"],
            "allow rule_allow search /text=a bug",
        ),
        (
            &["https://api.example.com/echo/issues?text=the%20%73ecret"],
            "deny rule_deny search /text=the secret",
        ),
        (
            &["-H", json, "-d", r#"{"text":"fine"}"#, comments],
            "allow rule_allow comment /number=7 /text=fine",
        ),
        (
            &["-H", json, "-d", r#"{"text":"s\u0065cret"}"#, comments],
            "deny rule_deny comment /number=7 /text=secret",
        ),
        (
            &["-d", "text=fine", comments],
            "allow rule_allow comment /number=7 /text=fine",
        ),
        (
            &["--data-urlencode", "text=a secret", comments],
            "deny rule_deny comment /number=7 /text=a secret",
        ),
        (
            &["-F", "text=fine", "-F", &plain, attached],
            "allow rule_allow attach /file/name=a.txt /number=7 /text=fine",
        ),
        (
            &["-F", "text=fine", "-F", &program, attached],
            "deny rule_deny attach /file/name=a.exe /number=7 /text=fine",
        ),
        (
            &[
                "-d",
                "",
                "https://api.example.com/echo/issues/%31%33/comments",
            ],
            "deny rule_deny comment /number=13",
        ),
        // Parameters that are parts of a segment.
        (
            &["-d", "", "https://api.example.com/echo/issues/7:close"],
            "allow rule_allow close /number=7",
        ),
        (
            &["-d", "", "https://api.example.com/echo/issues/1%33:close"],
            "deny rule_deny close /number=13",
        ),
        (
            &["https://api.example.com/echo/reports/7.pdf"],
            "allow rule_allow export /number=7",
        ),
        (
            &["https://api.example.com/echo/reports/13.pdf"],
            "deny rule_deny export /number=13",
        ),
        (
            &["https://api.example.com/echo/reports/13.tar.gz"],
            "not understood",
        ),
        (
            &["-d", "", "https://api.example.com/echo/issues/13%3Aclose"],
            "not understood",
        ),
        // What has two readings, or none.
        (
            &["https://api.example.com/echo/issues?text=fine&text=secret"],
            "not understood",
        ),
        (
            &[
                "-d",
                "text=secret",
                "https://api.example.com/echo/issues/7/comments?text=fine",
            ],
            "not understood",
        ),
        (
            &[
                "-H",
                json,
                "-d",
                r#"{"text":"fine","text":"secret"}"#,
                comments,
            ],
            "not understood",
        ),
        (
            &[
                "-H",
                "Content-Type: text/plain",
                "-d",
                "text=secret",
                comments,
            ],
            "not understood",
        ),
        (
            &["-X", "DELETE", "https://api.example.com/echo/issues/7"],
            "not understood",
        ),
        (
            &[
                "-H",
                "X-HTTP-Method-Override: DELETE",
                "-d",
                "text=fine",
                comments,
            ],
            "not understood",
        ),
    ];
    let words: Vec<_> = cases.iter().map(|(words, _)| *words).collect();
    let outputs = send(&world, &room, &curl, &words).unwrap();
    let decisions = calls(&room, cases.len()).unwrap();
    for ((decision, output), (_, expected)) in decisions.iter().zip(&outputs).zip(&cases) {
        let mut decided = told(decision);
        // In the order in which the rules have them.
        let mut words: Vec<_> = decided.split(" /").collect();
        words[1..].sort_unstable();
        decided = words.join(" /");
        assert_eq!(decided, *expected, "{output}");
        let allowed = decision.verdict == Verdict::Allow;
        assert_eq!(status(output), if allowed { "200" } else { "403" });
        if !allowed {
            assert!(output.stdout.contains(&decision.id.to_string()), "{output}");
            assert!(output.stdout.contains("\"code\""), "{output}");
        }
    }
    let explained = room
        .guard
        .cli()
        .args(["explain", &decisions[1].id.to_string()]);
    let explained = explained.run().unwrap().success().unwrap();
    assert!(
        explained
            .stdout
            .contains("tool search of tracker, /text: the secret"),
        "{explained}"
    );
}

#[test]
fn calls_of_json_rpc_are_decided_each_and_refused_as_such() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("apis-rpc").start().unwrap();
    let room = open(&world).unwrap();
    let call = |id: &str, method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
    };
    let read = call("1", "eth_getBalance", r#"["0xaa"]"#);
    let sent = call("2", "eth_sendRawTransaction", r#"["0xdead"]"#);
    let other = call("3", "admin_addPeer", r#"{"text":"fine"}"#);
    let batch = format!("[{read},{sent}]");
    let url = "https://api.example.com/echo/rpc";
    let json = "Content-Type: application/json";
    let contents = [&read, &sent, &other, &batch, "{}"];
    let words: Vec<[&str; 5]> = contents
        .iter()
        .map(|content| ["-H", json, "-d", content, url])
        .collect();
    let words: Vec<&[&str]> = words.iter().map(<[&str; 5]>::as_slice).collect();
    let outputs = send(&world, &room, &curl, &words).unwrap();
    let decisions = calls(&room, 6).unwrap();
    let told: Vec<_> = decisions.iter().map(told).collect();
    assert_eq!(
        told,
        [
            "allow rule_allow eth_getBalance /0=0xaa",
            "deny rule_deny eth_sendRawTransaction /0=0xdead",
            "deny no_rule admin_addPeer /text=fine",
            "allow rule_allow eth_getBalance /0=0xaa",
            "deny rule_deny eth_sendRawTransaction /0=0xdead",
            "not understood",
        ]
    );
    let id = decisions[1].id.to_string();
    for (n, parts) in [
        (1, [r#""id":2,"error":{"code":403"#, REASON, &id]),
        (2, [r#""id":3,"error":{"code":403"#, "no_rule", "\n200"]),
        (
            3,
            [
                r#"[{"jsonrpc":"2.0","id":1,"error""#,
                r#""id":2,"error""#,
                "\n200",
            ],
        ),
        (4, [r#""id":null,"error""#, "not_understood", "\n403"]),
    ] {
        let output = &outputs[n];
        for part in parts {
            assert!(output.stdout.contains(part), "{part}\n{output}");
        }
    }
    assert_eq!(status(&outputs[0]), "200", "{}", outputs[0]);
    let arrived = world.origin(SITE).unwrap().log().requests().unwrap();
    // Each once without the guard, and what is allowed.
    assert_eq!(arrived.len(), contents.len() + 1);
}

#[test]
fn fields_of_graphql_are_decided_each_and_refused_as_errors() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("apis-graphql").start().unwrap();
    let policy = format!(
        "
version: 1
tool_servers:
  - {{ name: code, api: graphql, hosts: [{SITE}], paths: [/echo/graphql] }}
agents:
  - name: coder
rules:
  - id: reads
    match:
      host: [{SITE}]
      port: [443]
      tool: {{ server: [code], name: ['query.*', mutation.addComment] }}
    action: allow
    handling: inspect
  - id: closed
    match: {{ host: [{SITE}], tool: {{ name: ['query.*', 'mutation.*'], arguments: {{ /id: ['13'] }} }} }}
    action: deny
    reason: {REASON}
"
    );
    let room = trusting(&world, SITE, &policy).unwrap();
    let url = "https://api.example.com/echo/graphql";
    let json = "Content-Type: application/json";
    let contents = [
        r#"{"query":"query($n: ID!) { x: issue(id: $n) { title } viewer { login } }","variables":{"n":7}}"#,
        r#"{"query":"query($n: ID!) { x: issue(id: $n) { title } }","variables":{"n":13}}"#,
        r#"{"query":"mutation { ...F } fragment F on Mutation { query: deleteRepository(id: 7) { ok } }"}"#,
        r#"[{"query":"{ issue(id: \"13\") { title } }"}]"#,
        r#"{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"ab"}}}"#,
    ];
    let statuses = "Accept: application/graphql-response+json, application/json";
    let mut words: Vec<Vec<&str>> = contents
        .iter()
        .map(|content| vec!["-H", json, "-d", content, url])
        .collect();
    words.push(vec!["-H", statuses, "-H", json, "-d", contents[1], url]);
    // By GET, with the request in the target.
    let get = |id: &str| {
        format!("query=query($n: ID!) {{ issue(id: $n) {{ title }} }}&variables={{\"n\":{id}}}")
    };
    let escapes = [(" ", "+"), ("{", "%7B"), ("}", "%7D"), ("\"", "%22")];
    let targets = [get("7"), get("13")].map(|query| {
        let escaped = escapes.iter();
        let query = escaped.fold(query, |query, (raw, escape)| query.replace(raw, escape));
        format!("{url}?{query}")
    });
    for target in &targets {
        words.push(vec!["-g", target]);
    }
    let words: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
    let outputs = send(&world, &room, &curl, &words).unwrap();
    let decisions = calls(&room, 9).unwrap();
    let told: Vec<_> = decisions.iter().map(told).collect();
    assert_eq!(
        told,
        [
            "allow rule_allow query.issue /id=7",
            "allow rule_allow query.viewer",
            "deny rule_deny query.issue /id=13",
            "deny no_rule mutation.deleteRepository /id=7",
            "deny rule_deny query.issue /id=13",
            "not understood",
            "deny rule_deny query.issue /id=13",
            "allow rule_allow query.issue /id=7",
            "deny rule_deny query.issue /id=13",
        ]
    );
    let id = decisions[2].id.to_string();
    for (n, parts) in [
        (0, ["", "", "\n200"]),
        (1, [r#"{"errors":[{"#, id.as_str(), "\n200"]),
        (2, [r#"{"errors":[{"#, r#""code":"no_rule""#, "\n200"]),
        (3, [r#"[{"errors":[{"#, REASON, "\n200"]),
        (4, [r#"{"errors":[{"#, r#""decision":""#, "\n200"]),
        (5, [r#"{"errors":[{"#, REASON, "\n403"]),
        (6, ["", "", "\n200"]),
        (7, [r#"{"errors":[{"#, REASON, "\n200"]),
    ] {
        for part in parts {
            assert!(outputs[n].stdout.contains(part), "{part}\n{}", outputs[n]);
        }
    }
    let arrived = world.origin(SITE).unwrap().log().requests().unwrap();
    // Each once without the guard, and what is allowed.
    assert_eq!(arrived.len(), words.len() + 2);
}

#[test]
fn calls_of_grpc_are_decided_by_service_and_method() {
    let Some(python) = agentguard_tests::client::python().unwrap() else {
        return;
    };
    let (world, _server) = grpc::world("apis-grpc", &python).unwrap();
    let host = grpc::HOST;
    let policy = format!(
        "
version: 1
tool_servers:
  - {{ name: echo, api: grpc, hosts: [{host}] }}
agents:
  - name: coder
rules:
  - id: calls
    match: {{ host: [{host}], port: [{}], tool: {{ server: [echo], name: ['test.*'] }} }}
    action: allow
    handling: inspect
  - id: no-secrets
    match: {{ host: [{host}], tool: {{ name: ['test.Secret/*'] }} }}
    action: deny
    reason: {REASON}
",
        grpc::PORT
    );
    let room = trusting(&world, host, &policy).unwrap();
    let run = |what: &str| {
        let words = grpc::words(&python, what, &format!("{host}:{}", grpc::PORT));
        inspected(&room, &words).run().unwrap().success().unwrap()
    };
    let free = grpc::free(&world, &python, "allowed", grpc::PORT).unwrap();
    assert_eq!(run("allowed").stdout, free.stdout);
    let free = grpc::free(&world, &python, "denied", grpc::PORT).unwrap();
    assert!(!free.stdout.contains("DENIED"), "{free}");
    let denied = run("denied");
    let told = format!("StatusCode.PERMISSION_DENIED '{REASON} (agentguard explain ");
    assert_eq!(denied.stdout.matches(&told).count(), 4, "{denied}");
    let decisions = calls(&room, 12).unwrap();
    for decision in &decisions {
        assert_eq!(decision.action.kind, ActionKind::ToolCall);
    }
    let name = |it: &Decision| it.action.tool.clone().unwrap_or_default().name;
    let denied = decisions.iter().filter(|it| it.verdict == Verdict::Deny);
    let denied: Vec<_> = denied.filter_map(name).collect();
    assert_eq!(
        denied,
        ["Unary", "Stream", "Collect", "Chat"].map(|method| format!("test.Secret/{method}"))
    );
}
