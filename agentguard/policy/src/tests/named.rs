//! Variables and named lists: what they stand for, and what is said where they are wrong.

use agentguard_model::Transport;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::{agent, document, host, policy};
use crate::{Circumstances, Document, Facts, Policy, Query, Request, Seen, compile};

fn at(path: &str, text: &str) -> Document {
    Document {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

#[track_caller]
fn refused(documents: &[Document]) -> Vec<String> {
    match compile(documents) {
        Ok(_) => panic!("accepted"),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    }
}

fn warnings(text: &str) -> Vec<String> {
    let policy = policy(text);
    policy.warnings().iter().map(ToString::to_string).collect()
}

fn code(policy: &Policy, name: &str, port: u16, request: Seen<'_>) -> String {
    let name = host(name);
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port,
        transport: Transport::Tcp,
        request,
        circumstances: Circumstances::NOBODY,
    };
    let ruling = policy.decide(agent(policy, "coder"), &facts);
    ruling.reason.code.to_string()
}

const BASE: &str = r#"version: 1
variables: {domain: corp.example, team: web, literal: "@internal"}
lists:
  internal: ["wiki.${domain}", "*.apps.${domain}"]
  all: ["@internal", forge.example]
  ports: [443, 8000-8100]
  reads: [GET, HEAD]
  ranges: ["10.0.0.0/8"]
  actions: ["Get*", "@@mention"]
agents:
  - {name: coder, labels: {team: "${team}"}, cgroup: ["${team}/coder"]}
  - name: other
"#;

#[test]
fn what_is_named_stands_where_it_is_named() {
    let policy = policy(&format!(
        r#"{BASE}
rules:
  - id: all
    labels: {{team: "${{team}}"}}
    match:
      host: ["@all", "x.${{domain}}"]
      port: ["@ports", 22]
      method: ["@reads"]
      path: ["/${{team}}/**"]
      query: {{a: ["@actions"]}}
      header: {{x-who: ["@@${{team}}", "$${{team}}", "${{literal}}"]}}
    action: allow
    resolved_ranges: ["@ranges"]
  - id: closed
    match: {{host: ["@internal"], method: [DELETE]}}
    action: deny
    reason: "Ask ${{team}}: @internal is $${{closed}}."
"#
    ));
    assert_eq!(policy.warnings(), []);
    let coder = agent(&policy, "coder");
    assert_eq!(coder.labels["team"], "web");
    assert_eq!(coder.cgroups[0].as_str(), "web/coder");
    let closed = policy.rules().find(|rule| rule.id == "closed").unwrap();
    assert_eq!(
        closed.reason.as_deref(),
        Some("Ask web: @internal is ${closed}.")
    );
    let seen = |name: &str, port, path: &str, query: &str, who: &'static str| {
        let query = Query::new(query);
        let mut fields = http::HeaderMap::new();
        fields.insert("x-who", http::HeaderValue::from_static(who));
        let request = Request {
            query: Some(&query),
            fields: Some(&fields),
            ..Request::new("GET", path)
        };
        code(&policy, name, port, Seen::Request(request))
    };
    for name in [
        "wiki.corp.example",
        "a.apps.corp.example",
        "forge.example",
        "x.corp.example",
    ] {
        for port in [22, 443, 8050] {
            for (query, who) in [("a=GetX", "@web"), ("a=@mention", "${team}")] {
                let got = seen(name, port, "/web/a", query, who);
                assert_eq!(got, "rule_allow", "{name} {port} {query} {who}");
            }
        }
    }
    // A variable's text is not read again: it is no list.
    let got = seen("forge.example", 443, "/web/a", "a=Get", "@internal");
    assert_eq!(got, "rule_allow");
    for (name, port, path, query, who) in [
        ("y.corp.example", 443, "/web/a", "a=Get", "@web"),
        ("forge.example", 80, "/web/a", "a=Get", "@web"),
        ("forge.example", 443, "/ops/a", "a=Get", "@web"),
        ("forge.example", 443, "/web/a", "a=@@mention", "@web"),
        ("forge.example", 443, "/web/a", "a=Get", "web"),
        ("forge.example", 443, "/web/a", "a=Get", "$${team}"),
    ] {
        let got = seen(name, port, path, query, who);
        assert_eq!(got, "no_rule", "{name} {port} {path} {query} {who}");
    }
}

#[test]
fn names_hold_in_all_documents() {
    let names = at(
        "names.yaml",
        "version: 1\nvariables: {d: a.example}\nlists: {l: [\"x.${d}\"]}\n",
    );
    let rules = at(
        "rules.yaml",
        "version: 1\nagents: [{name: coder}]\nrules:\n  - {id: a, match: {host: [\"@l\", \"y.${d}\"]}, action: allow}\n",
    );
    for documents in [[names.clone(), rules.clone()], [rules, names]] {
        let policy = compile(&documents).unwrap();
        assert_eq!(policy.warnings(), []);
        for name in ["x.a.example", "y.a.example"] {
            assert_eq!(code(&policy, name, 1, Seen::NotYet), "rule_allow");
        }
    }
}

#[test]
fn what_is_wrong_with_a_name_is_told_in_its_place() {
    let rule = |head: &str, rule: &str| {
        format!(
            "version: 1\n{head}\nagents: [{{name: coder}}]\nrules:\n  - id: a\n    action: allow\n    {rule}\n"
        )
    };
    let cases: &[(String, &[&str])] = &[
        (
            rule(
                "lists: {internal: [a.example]}",
                "match: {host: [\"@intrenal\"]}",
            ),
            &[
                "p.yaml:7:20: error: no list is called `intrenal`\n  hint: did you mean `@internal`?",
            ],
        ),
        (
            rule("lists: {a: [a.example]}", "match: {query: {q: [\"@me\"]}}"),
            &[
                "p.yaml:7:25: error: no list is called `me`\n  hint: a list is defined under `lists`; for the text itself write `@@me`",
            ],
        ),
        (
            rule("", "match: {host: [\"@No\"]}"),
            &[
                "p.yaml:7:20: error: `@No` is not a list: its name is a letter a-z, then up to 31 of a-z 0-9 _\n  hint: for the text itself write `@@No`",
            ],
        ),
        (
            rule("", "match: {host: [@internal]}"),
            &[
                "p.yaml:7:20: error: not valid YAML: unexpected character: `@'\n  hint: put it in quotes: \"@internal\"",
            ],
        ),
        (
            rule(
                "variables: {domain: a.example}",
                "match: {host: [\"x.${domian}\", \"${\", \"${A}\"]}",
            ),
            &[
                "p.yaml:7:20: error: no variable is called `domian`\n  hint: did you mean `${domain}`?",
                "p.yaml:7:35: error: `${` has a `${` without its `}`\n  hint: a variable is `${name}`; for the text itself write `$${`",
                "p.yaml:7:41: error: `${A}` is not a variable: its name is a letter a-z, then up to 31 of a-z 0-9 _\n  hint: for the text itself write `$${`",
            ],
        ),
        (
            rule(
                "variables: {a: \"${b}\", b: x, B: y}",
                "match: {host: [\"${a}\", \"${b}\"]}",
            ),
            &[
                "p.yaml:2:16: error: the variable `a` holds `${`: a variable's text is taken as it is, and no variable is put into it\n  hint: write the text out, or name both variables where this one is used",
                "p.yaml:2:30: error: `B` is not a variable's name: a letter a-z, then up to 31 of a-z 0-9 _\n  hint: like `artifact_host`",
                "p.yaml:7:20: error: `${b}` is not a host name: a label has a character other than a-z 0-9 - _\n  hint: the name as DNS has it, like `api.example.org`",
            ],
        ),
        // Of a list that is wrong where it is used, both places are told.
        (
            rule(
                "lists: {internal: [10.0.0.0/8, a.example]}",
                "match: {cidr: [\"@internal\"]}",
            ),
            &[
                "p.yaml:7:20: error: `a.example` is not a range of addresses (from list `internal`, p.yaml:2:32)\n  hint: like `192.0.2.0/24` or `2001:db8::/32`; a name goes under `host`",
            ],
        ),
        (
            rule(
                "lists: {a: [\"@b\"], b: [\"@c\"], c: [\"@a\"], d: [\"@d\"]}",
                "match: {host: [\"@a\", \"@d\"]}",
            ),
            &[
                "p.yaml:2:35: error: the list `c` names `@a`, which names it in turn\n  hint: take one of the names out",
                "p.yaml:2:46: error: the list `d` names itself\n  hint: take one of the names out",
            ],
        ),
        (
            rule(
                "lists: {a: [], b: [\"\"], C: [x]}",
                "match: {host: [\"@a\", \"@b\"]}",
            ),
            &[
                "p.yaml:2:12: error: the list `a` is empty\n  hint: give it an entry, or take it out",
                "p.yaml:2:20: error: an empty entry\n  hint: take it out, or write what is meant",
                "p.yaml:2:25: error: `C` is not a list's name: a letter a-z, then up to 31 of a-z 0-9 _\n  hint: like `package_hosts`",
            ],
        ),
        (
            rule(
                "lists: {a: x.example, b: [{c: d}]}",
                "match: {host: [\"@a\", \"@b\"]}",
            ),
            &[
                "p.yaml:2:12: error: expected a list, found the text `x.example`\n  hint: write a list: [x.example]",
                "p.yaml:2:27: error: expected text, found keys and values\n  hint: write one text, without `-`, `[]` and keys",
            ],
        ),
        // What a rule says is written out.
        (
            rule("variables: {m: observe}", "mode: \"${m}\""),
            &[
                "p.yaml:2:13: warning: the variable `m` is never used\n  hint: it can go, or stand somewhere as `${m}`",
                "p.yaml:7:11: error: unknown value `${m}`\n  hint: it can be observe, shadow, enforce",
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(&refused(&[document(text)]), expected, "{text}");
    }
}

#[test]
fn a_name_stands_for_one_thing() {
    let one = at(
        "one.yaml",
        "version: 1\nvariables: {x: a}\nlists: {x: [a.example]}\n",
    );
    let two = at(
        "two.yaml",
        "version: 1\nagents: [{name: coder}]\nvariables:\n  x: b\nlists:\n  x: [b.example]\n",
    );
    assert_eq!(
        refused(&[one, two]),
        [
            "two.yaml:4:3: error: a second variable `x`\n  hint: it stands in one.yaml, line 2, already",
            "two.yaml:6:3: error: a second list `x`\n  hint: it stands in one.yaml, line 3, already",
        ]
    );
}

#[test]
fn what_nothing_names_is_warned_of() {
    assert_eq!(
        warnings(
            "version: 1\nvariables: {a: x, b: b.example}\nlists: {c: [\"${b}\"], d: [\"@c\"]}\nagents: [{name: coder}]\nrules:\n  - {id: r, match: {host: [z.example]}, action: allow}\n"
        ),
        [
            "p.yaml:2:13: warning: the variable `a` is never used\n  hint: it can go, or stand somewhere as `${a}`",
            "p.yaml:3:22: warning: the list `d` is never used\n  hint: it can go, or stand in a list as \"@d\"",
        ]
    );
}

#[test]
fn what_cannot_be_known_is_not_told() {
    // The first document may define what the second one names.
    let broken = at("broken.yaml", "version: 1\nlists: {a: [\n");
    let rules = at(
        "rules.yaml",
        "version: 1\nlists: {unused: [x]}\nrules:\n  - {id: r, match: {host: [\"@a\", \"${b}\"]}, action: deny}\n",
    );
    let found = refused(&[broken, rules]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("broken.yaml:"), "{found:?}");
}

#[test]
fn what_is_put_in_is_bounded() {
    let hosts = |n: usize| {
        (0..n)
            .map(|n| format!("h{n:04}.example"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    // A list that names another twice, and a rule that names both: 64 KiB are the limit everywhere.
    let half = format!(
        "version: 1\nlists:\n  half: [{}]\n  both: [\"@half\", \"@half\"]\nagents: [{{name: coder}}]\nrules:\n  - {{id: r, match: {{host: [\"@half\"]}}, action: deny}}\n  - {{id: s, match: {{host: [\"@half\", \"@half\"]}}, action: deny}}\n",
        hosts(3000)
    );
    assert_eq!(
        refused(&[document(&half)]),
        [
            "p.yaml:4:3: error: the list `both` has more than 65536 bytes, with the lists that it names\n  hint: make two lists of it; a pattern such as `*.example.org` stands for many names",
            "p.yaml:8:27: error: `host` has 78000 bytes; the limit is 65536\n  hint: make two rules of it; a pattern such as `*.example.org` stands for many names",
        ]
    );
    // Many rules that each name a long list: told once.
    let rules: String = (0..200)
        .map(|n| format!("  - {{id: r{n}, match: {{host: [\"@half\"]}}, action: deny}}\n"))
        .collect();
    let many = format!(
        "version: 1\nlists: {{half: [{}]}}\nagents: [{{name: coder}}]\nrules:\n{rules}",
        hosts(3000)
    );
    assert_eq!(
        refused(&[document(&many)]),
        [
            "p.yaml:105:31: error: more than 300000 values or 16777216 bytes are put in for lists and variables, in all documents together\n  hint: name long lists in fewer rules"
        ]
    );
    let deep: String = (0..16)
        .map(|n| format!("  l{n:02}: [\"@l{:02}\"]\n", n + 1))
        .collect();
    let found = refused(&[document(&format!("version: 1\nlists:\n{deep}  l16: [a]\n"))]);
    assert_eq!(
        found,
        [
            "p.yaml:18:9: error: more than 16 lists, each of which names the next\n  hint: write the entries here"
        ]
    );
    let long = "x".repeat(1024);
    let text = format!(
        "version: 1\nvariables: {{x: {long}}}\nagents: [{{name: coder}}]\nrules:\n  - {{id: a, action: deny, reason: \"y${{x}}\"}}\n"
    );
    assert_eq!(
        refused(&[document(&text)]),
        [
            "p.yaml:5:35: error: `y${x}` is longer than 1024 bytes with its variables put in\n  hint: use shorter variables, or write two entries"
        ]
    );
}

const HOSTS: [&str; 6] = [
    "a.example",
    "*.a.example",
    "b.example",
    "*.example",
    "x.b.example",
    "c.example",
];

fn quoted(entries: &[&str]) -> String {
    let quoted: Vec<_> = entries.iter().map(|it| format!("\"{it}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

proptest! {
    /// Naming lists says the same as writing them out, however they are cut into lists.
    #[test]
    fn a_list_is_its_entries(
        rules in proptest::collection::vec(
            (subsequence(HOSTS.to_vec(), 1..5), any::<Index>(), any::<Index>(), any::<bool>()),
            1..5,
        ),
    ) {
        let mut lists = String::new();
        let (mut named, mut written) = (String::new(), String::new());
        for (n, (hosts, one, two, allow)) in rules.iter().enumerate() {
            let (first, rest) = hosts.split_at(one.index(hosts.len()));
            let (middle, last) = rest.split_at(two.index(rest.len().max(1)).min(rest.len()));
            // Entries of its own, a list, and a list in that list.
            let (inner, outer) = (format!("i{n}"), format!("o{n}"));
            let inner_name = format!("@{inner}");
            let outer_name = format!("@{outer}");
            let mut outer_entries = middle.to_vec();
            if !last.is_empty() {
                lists.push_str(&format!("  {inner}: {}\n", quoted(last)));
                outer_entries.push(&inner_name);
            }
            let mut entries = first.to_vec();
            if !outer_entries.is_empty() {
                lists.push_str(&format!("  {outer}: {}\n", quoted(&outer_entries)));
                entries.push(&outer_name);
            }
            let action = if *allow { "allow" } else { "deny" };
            for (text, entries) in [(&mut named, &entries), (&mut written, hosts)] {
                text.push_str(&format!(
                    "  - {{id: r{n}, match: {{host: {}}}, action: {action}}}\n",
                    quoted(entries)
                ));
            }
        }
        lists.push_str("  unused: [a]\n");
        let head = "version: 1\nagents: [{name: coder}]\n";
        let named = policy(&format!("{head}lists:\n{lists}rules:\n{named}"));
        let written = policy(&format!("{head}rules:\n{written}"));
        for name in ["a.example", "x.a.example", "b.example", "x.b.example", "c.example", "d.test"] {
            let name = host(name);
            let facts = Facts {
                host: Some(&name),
                ip: None,
                port: 443,
                transport: Transport::Tcp,
                request: Seen::Never, circumstances: Circumstances::NOBODY };
            let rule = |policy: &Policy| {
                let ruling = policy.decide(agent(policy, "coder"), &facts);
                let matched: Vec<_> = ruling.matched.iter().map(|it| it.rule.clone()).collect();
                (ruling.outcome, ruling.reason.code, matched)
            };
            prop_assert_eq!(rule(&named), rule(&written));
        }
    }
}
