//! What an operator's files are read by: any texts, as any documents that include each other, are one
//! policy or refused with places, without a panic and within the bounds.
//!
//! Under `cargo test` each target reads its corpus (`tests/__fuzz__/NAME/corpus`) and random bytes for a
//! moment; `cargo bolero test NAME` goes on for as long as one likes.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use agentguard_model::Transport;
use agentguard_policy::table::{MAX_TESTS, WrittenTable};
use agentguard_policy::{
    Circumstances, Diagnostic, Document, Facts, MAX_DIAGNOSTICS, MAX_DOCUMENTS, MAX_RULES, Policy,
    Query, Request, RulingOutcome, Seen, Sources, Unreadable, compile,
};
use http::{HeaderMap, HeaderValue};

/// How long each target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

/// What begins another document: behind it, to the end of the line, is its path.
const NEXT: &str = "\n%% ";

/// Reads documents from their texts, the first of them `p.yaml`, and compiles them. Whether they
/// are a policy.
fn documents(input: &str) -> bool {
    let mut parts = input.split(NEXT);
    let first = Document {
        path: "p.yaml".to_owned(),
        text: parts.next().unwrap_or_default().to_owned(),
    };
    let files: BTreeMap<&str, &str> = parts
        .map(|part| part.split_once('\n').unwrap_or((part, "")))
        .collect();
    let sources = Sources::read(first, |path: &Path| {
        let text = path.to_str().and_then(|path| files.get(path));
        text.map(|text| (*text).to_owned()).ok_or(Unreadable {
            why: "it is not there".to_owned(),
            hint: "look where it is".to_owned(),
        })
    });
    assert!(sources.documents().len() <= MAX_DOCUMENTS.min(files.len() + 1));
    let compiled = sources.compile();
    let found: Vec<Diagnostic> = match &compiled {
        Ok(policy) => {
            assert!(policy.rules().len() <= MAX_RULES);
            // The documents alone are the same policy: the worker has nothing else.
            let again = compile(sources.documents()).unwrap();
            assert_eq!(said(&again), said(policy));
            policy.warnings().to_vec()
        }
        Err(refused) => {
            let listed = refused.iter().count();
            assert!((1..=MAX_DIAGNOSTICS).contains(&listed));
            refused.iter().cloned().collect()
        }
    };
    // What is told has a place in a document that was read.
    for diagnostic in found {
        let mut documents = sources.documents().iter();
        let document = documents.find(|document| document.path == diagnostic.path);
        let document = document.unwrap_or_else(|| panic!("{diagnostic}"));
        // A carriage return by itself ends a line too (YAML 1.2.2 §5.4).
        let lines = document.text.replace('\r', "\n").matches('\n').count() + 2;
        let line = usize::try_from(diagnostic.line).unwrap();
        assert!(line <= lines, "{diagnostic}\nin\n{input}");
        assert!(!diagnostic.hint.is_empty(), "{diagnostic}");
    }
    compiled.is_ok()
}

fn said(policy: &Policy) -> (String, Vec<String>) {
    let rules = policy.rules().map(|rule| format!("{rule:?}")).collect();
    (policy.version().to_owned(), rules)
}

#[test]
fn loader() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            documents(&String::from_utf8_lossy(input));
        });
}

/// Pieces of documents, in an order in which they fit together more often than not.
const PIECES: &[&str] = &[
    "version: 1\n",
    "include: [a.yaml]\n",
    "include: [a.yaml, b/c.yaml]\n",
    "include: [../p.yaml]\n",
    "include: [c.yaml, /p.yaml]\n",
    "variables: {x: a.example, y: web}\n",
    "variables: {z: \"@l\", y: \"${x}\"}\n",
    "lists:\n  l: [a.example, \"*.${x}\"]\n  m: [\"@l\", \"@@l\", \"@n\"]\n",
    "lists:\n  l: [b.example]\n  n: [443, 1-2]\n",
    "  o: [coder, GET, 10.0.0.0/8, \"$${x}\", \"@m\"]\n",
    "defaults: {mode: shadow}\n",
    "defaults: {rule: {handling: inspect, port: [\"@n\"], mode: observe}}\n",
    "defaults: {rule: {handling: direct, transport: [tcp, udp]}}\n",
    "agents: [{name: coder, labels: {team: \"${y}\"}}]\n",
    "agents: [{name: coder, cgroup: [\"@l\", \"${y}\"]}, {name: tester}]\n",
    "groups: [{name: g, agents: [\"@o\"], labels: {team: \"${y}\"}}]\n",
    "groups: [{name: g, agents: [coder]}, {name: h, labels: {team: web}}]\n",
    "rules:\n",
    "  - {id: a, action: allow, match: {host: [\"@l\"]}}\n",
    "  - {id: b, action: deny, match: {host: [\"@l\"]}}\n",
    "  - {id: c, action: allow, match: {host: [\"@m\", \"${x}\"], port: [\"@n\"]}}\n",
    "  - {id: d, action: allow, groups: [g], match: {cidr: [\"@l\"]}}\n",
    "  - {id: e, action: deny, agents: [\"@o\"], groups: [g, h], reason: \"${y}\"}\n",
    "  - {id: f, action: allow, match: {host: [\"@@l\"], method: [\"@o\"]}}\n",
    "  - {id: g, action: deny, match: {host: [\"${x}\"], query: {q: [\"@m\"]}, body_over: \"${y}\"}}\n",
    "  - id: h\n    action: allow\n    match:\n      host: [\"@l\"]\n      path: [\"/${y}/**\"]\n    labels: {team: \"${y}\"}\n",
    "  - {id: i, action: \"${y}\", mode: \"@l\"}\n",
    "  - {id: \"${x}\", action: allow, match: {transport: [\"@l\", udp]}}\n",
    "  - &anchor {id: j, action: deny, match: {host: &hosts [\"@l\", \"@l\"]}}\n",
    "  - {id: k, action: deny, match: {host: *hosts}}\n",
    "  - *anchor\n",
    "    match: {host: [\"@\", \"${\", \"${}\", \"@${x}\"]}\n",
    "lists: {l: [], m: {}, n: [[]], o: [null]}\n",
    "variables: {x: [], y: null, Z: 1, z: true}\n",
    "  ",
    "@l ${x} $${x} @@\n",
];

/// The paths of documents that are made of pieces.
const PATHS: [&str; 4] = ["a.yaml", "b/c.yaml", "c.yaml", "/p.yaml"];

/// Documents of pieces, each cut off where a byte says so. `orderly`: in the order of the pieces.
fn of_pieces(input: &[u8], orderly: bool) -> String {
    let mut paths = PATHS.iter();
    let mut text = String::new();
    for part in input.split(|byte| *byte == u8::MAX) {
        let mut pieces: Vec<usize> = part
            .iter()
            .map(|byte| usize::from(*byte) % PIECES.len())
            .collect();
        if orderly {
            pieces.push(0);
            pieces.sort_unstable();
            pieces.dedup();
        }
        for piece in pieces {
            text.push_str(PIECES[piece]);
        }
        let Some(path) = paths.next() else {
            break;
        };
        text.push_str(NEXT);
        text.push_str(path);
        text.push('\n');
    }
    text
}

#[test]
fn pieces() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            documents(&of_pieces(input, false));
            documents(&of_pieces(input, true));
        });
}

/// Compiles a policy whose only rule has an expression, and decides by it on a request and without one.
/// Whether it is accepted.
fn expression(text: &str) -> bool {
    let when = serde_json::Value::from(text);
    let text = format!(
        "version: 1\nswitches: {{on: true}}\nagents: [{{name: coder, labels: {{team: web}}}}]\nrules:\n  - {{id: a, action: allow, match: {{host: [a.example]}}, when: {when}}}\n"
    );
    let path = "p.yaml".to_owned();
    let Ok(policy) = compile(&[Document { path, text }]) else {
        return false;
    };
    let agent = policy.agent(&"coder".parse().unwrap()).unwrap();
    let name = "a.example".parse().unwrap();
    let query = Query::new("a=1&b=2&b=3");
    let mut fields = HeaderMap::new();
    for (name, value) in [("x-a", "1"), ("x-b", "\u{e9}"), ("x-b", "2")] {
        fields.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let request = Request {
        query: Some(&query),
        fields: Some(&fields),
        ..Request::new("GET", "/a%2Fb/c")
    };
    for request in [Seen::NotYet, Seen::Never, Seen::Request(request)] {
        let facts = Facts {
            host: Some(&name),
            ip: None,
            port: 443,
            transport: Transport::Tcp,
            request,
            circumstances: Circumstances::NOBODY,
        };
        let ruling = policy.decide(agent, &facts);
        let seen = matches!(request, Seen::Request(_));
        assert!(!seen || ruling.outcome != RulingOutcome::Undecided);
    }
    true
}

/// Pieces of expressions.
const WORDS: &[&str] = &[
    "request.method",
    "request.path",
    "request.headers['x-a']",
    "request.headers.x-b",
    "request.query.b",
    "agent.labels.team",
    "agent.name",
    "context.user",
    "destination.port",
    "time.hour",
    "switches.on",
    "'GET'",
    "'a'",
    "1",
    "9223372036854775807",
    "1.5",
    "true",
    "null",
    "b'a'",
    "r'\\d'",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    "!",
    "?",
    ":",
    "+",
    "-",
    "*",
    "/",
    "%",
    "in",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    ".matches('(a+)+$')",
    ".matches('[0-9]{1,50}')",
    ".startsWith('/')",
    ".exists(x, x == 'a')",
    ".all(x, x in ['a'])",
    "['a', 'b']",
    "size(",
    "int(",
    "string(",
    "has(",
    "type(",
    "duration('1s')",
    "x",
    "@in",
    "_",
    "\"\"\"",
    "'",
    "`",
    "\\u0000",
    "🐚",
];

#[test]
fn expressions() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            expression(&String::from_utf8_lossy(input));
            let words = input
                .iter()
                .map(|byte| WORDS[usize::from(*byte) % WORDS.len()]);
            expression(&words.collect::<Vec<_>>().join(" "));
        });
}

#[test]
fn some_words_are_an_expression() {
    assert!(expression("request.method == 'GET' && !switches.on"));
    assert!(expression("['a', 'b'] .exists(x, x == request.path)"));
    assert!(!expression("request.method =="));
}

/// The pieces would show nothing if none of them ever made a policy.
#[test]
fn some_pieces_are_a_policy() {
    let piece = |text: &str| {
        let piece = PIECES.iter().position(|piece| piece.starts_with(text));
        u8::try_from(piece.unwrap()).unwrap()
    };
    let first = [
        piece("include: [a.yaml]"),
        piece("agents: [{name: coder, labels"),
        piece("rules"),
        piece("  - {id: a"),
        piece("  - id: h"),
        u8::MAX,
        piece("variables: {x: a"),
        piece("lists:\n  l: [b"),
    ];
    assert!(documents(&of_pieces(&first, true)));
}

/// What [`tables`] tests.
const TESTED: &str = "
version: 1
switches: {freeze: false}
agents: [{name: coder, labels: {team: web}}, {name: newcomer, mode: shadow}]
rules:
  - {id: api, match: {host: [api.example], port: [80, 443], query: {a: ['*']}}, action: allow, handling: inspect}
  - {id: net, match: {cidr: [192.0.2.0/24], port: [22, 80], transport: [tcp, udp]}, action: allow, handling: direct}
  - {id: inside, match: {cidr: [10.0.0.0/8]}, action: deny}
  - {id: late, when: switches.freeze || time.hour > 20, match: {host: [api.example], transport: [tcp]}, action: deny}
  - {id: large, match: {host: [api.example], body_over: 1KiB}, action: deny}
";

/// Pieces of table tests.
const PARTS: &[&str] = &[
    "version: 1\n",
    "policy: p.yaml\n",
    "tests:\n",
    "  - name: a\n",
    "  - {name: b, agent: coder, host: api.example, port: 443, expect: deny}\n",
    "    agent: coder\n",
    "    agent: newcomer\n",
    "    agent: nobody\n",
    "    host: api.example\n",
    "    host: '*.example'\n",
    "    ip: 192.0.2.1\n",
    "    ip: '::ffff:10.0.0.1'\n",
    "    resolve: api.example\n",
    "    resolves_to: 10.0.0.1\n",
    "    port: 80\n",
    "    port: 53\n",
    "    transport: udp\n",
    "    opaque: true\n",
    "    context: {user: ada, session: s1}\n",
    "    labels: {team: night}\n",
    "    time: 2026-01-07T21:00:00Z\n",
    "    time: late\n",
    "    switches: {freeze: true}\n",
    "    switches: {freeze: true, other: true}\n",
    "    request: {method: GET, path: /a/../b, query: 'a=b'}\n",
    "    request: {method: POST, path: '/%2e%2e%2f', body: 2KiB, headers: {accept: a}}\n",
    "    request: {method: CONNECT, path: 'a.example:443', scheme: https}\n",
    "    request: {method: OPTIONS, path: '*'}\n",
    "    expect: allow\n",
    "    expect: needs_request\n",
    "    expect: {verdict: deny, rule: late, enforced: true}\n",
    "    expect: {reason: http_malformed, handling: splice}\n",
    "    expect: {}\n",
];

/// Reads, checks and runs table tests. Whether they could be run.
fn table(policy: &Policy, text: &str) -> bool {
    let written = match WrittenTable::parse("t.yaml", text) {
        Ok(written) => written,
        Err(refused) => {
            assert!(refused.iter().all(|it| !it.hint.is_empty()), "{refused}");
            return false;
        }
    };
    match written.check(policy) {
        Ok(table) => {
            let results = table.run(policy, |_, _, _| None);
            assert!((1..=MAX_TESTS).contains(&results.len()), "{text}");
            true
        }
        Err(refused) => {
            let listed = refused.iter().count();
            assert!((1..=MAX_DIAGNOSTICS).contains(&listed), "{refused}");
            assert!(refused.iter().all(|it| !it.hint.is_empty()), "{refused}");
            false
        }
    }
}

fn tested() -> Policy {
    let path = "p.yaml".to_owned();
    let text = TESTED.to_owned();
    compile(&[Document { path, text }]).unwrap()
}

#[test]
fn tables() {
    let policy = tested();
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            table(&policy, &String::from_utf8_lossy(input));
            let parts = input
                .iter()
                .map(|byte| PARTS[usize::from(*byte) % PARTS.len()]);
            let parts: String = parts.collect();
            table(&policy, &parts);
            table(
                &policy,
                &format!(
                    "version: 1\ntests:\n  - name: a\n    agent: coder\n    port: 80\n{parts}"
                ),
            );
        });
}

#[test]
fn some_parts_are_table_tests() {
    let policy = tested();
    for (parts, right) in [
        (&[0, 2, 3, 5, 8, 14, 24, 28][..], true),
        (&[0, 2, 3, 5, 8, 14, 25, 31], true),
        (&[0, 2, 4], true),
        (&[0, 2, 3, 7, 8, 14, 28], false),
    ] {
        let text: String = parts.iter().map(|part| PARTS[*part]).collect();
        assert_eq!(table(&policy, &text), right, "{text}");
    }
}
