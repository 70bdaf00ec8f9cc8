//! Table tests: what they say of a policy, and what is refused.

use std::net::IpAddr;

use agentguard_model::{Handling, Reason, ReasonCode};
use ipnet::IpNet;
use proptest::prelude::*;

use super::policy;
use crate::table::{Expected, TestResult, WrittenTable};

const POLICY: &str = "\
version: 1
agents: [{name: coder}, {name: newcomer, mode: shadow}]
rules:
  - id: repositories
    match: {host: [git.example.com], port: [443], method: [GET, POST]}
    action: allow
    handling: inspect
  - id: no-push
    match: {host: [git.example.com], path: [\"/**/git-receive-pack\"]}
    action: deny
  - id: api
    match: {host: [api.example.com], port: [443, 8080], query: {a: [b]}, header: {accept: [text/plain]}}
    action: allow
    handling: inspect
  - id: small
    match: {host: [api.example.com], body_over: 1KiB}
    action: deny
  - id: intranet
    match: {host: [in.example.com], port: [443]}
    action: allow
    resolved_ranges: [10.0.0.0/8]
  - id: plain
    match: {host: [plain.example.com], port: [80, 443], method: [GET]}
    action: allow
  - id: proxy
    match: {host: [proxy.example.com], port: [3128], method: [CONNECT]}
    action: allow
  - id: chat
    match: {host: [chat.example.com], port: [80, 443], protocol: [tls, http, websocket]}
    action: allow
  - id: no-sockets
    match: {host: [chat.example.com], port: [80], protocol: [websocket]}
    action: deny
  - id: net
    match: {cidr: [192.0.2.0/24], port: [22], transport: [tcp, udp]}
    action: allow
    handling: direct
  - id: no-ssh
    match: {cidr: [192.0.2.7/32]}
    action: deny
    mode: shadow
";

/// Private addresses that no range opens.
fn closed(ip: IpAddr, ranges: &[IpNet], observing: bool) -> Option<Reason> {
    let private: IpNet = "10.0.0.0/8".parse().unwrap();
    let open = observing || ranges.iter().any(|range| range.contains(&ip));
    (private.contains(&ip) && !open).then(|| Reason::new(ReasonCode::Rebinding, "it is private"))
}

fn run(tests: &str) -> Vec<TestResult> {
    let policy = policy(POLICY);
    let written = WrittenTable::parse("t.yaml", tests).unwrap();
    written.check(&policy).unwrap().run(&policy, closed)
}

fn refused(text: &str) -> Vec<String> {
    let found = match WrittenTable::parse("t.yaml", text) {
        Ok(written) => written.check(&policy(POLICY)).unwrap_err(),
        Err(found) => found,
    };
    found.iter().map(ToString::to_string).collect()
}

/// One test on one line.
fn of(test: &str) -> String {
    format!("version: 1\ntests:\n  - {{name: t, {test}}}\n")
}

#[test]
fn a_test_gets_what_the_guard_would_do() {
    use Expected::{Allow, Deny, NeedsRequest};
    use ReasonCode as Code;
    let (inspect, splice, direct) = (Handling::Inspect, Handling::Splice, Handling::Direct);
    let git = "agent: coder, host: git.example.com, port: 443";
    let api = "agent: coder, host: api.example.com, port: 443";
    let asks = "request: {method: GET, path: /, query: \"a=b\", headers: {Accept: text/plain}}";
    for (test, verdict, enforced, handling, rule, code) in [
        (git.to_owned(), NeedsRequest, true, None, Some("no-push"), Code::NeedsInspection),
        (
            format!("{git}, request: {{method: POST, path: /a.git/git-upload-pack}}"),
            Allow, true, Some(inspect), Some("repositories"), Code::RuleAllow,
        ),
        (
            format!("{git}, request: {{method: POST, path: /a.git/git-receive-pack}}"),
            Deny, true, None, Some("no-push"), Code::RuleDeny,
        ),
        // A path is read as the proxy reads it, which refuses some.
        (
            format!("{git}, request: {{method: POST, path: \"/x/..//a.git/%67it-receive-pack\"}}"),
            Deny, true, None, Some("no-push"), Code::RuleDeny,
        ),
        (
            format!("{git}, request: {{method: POST, path: \"/a.git/x%2f..%2fgit-receive-pack\"}}"),
            Deny, true, None, None, Code::HttpMalformed,
        ),
        (
            "agent: newcomer, host: x.example.org, port: 80, request: {method: GET, path: \"/a;b\"}".to_owned(),
            Deny, true, None, None, Code::HttpMalformed,
        ),
        (
            "agent: coder, host: x.example.org, port: 80, request: {method: GET, path: \"/a;b\"}".to_owned(),
            Deny, true, None, None, Code::NoRule,
        ),
        (
            "agent: coder, host: chat.example.com, port: 80, request: {method: GET, path: /, websocket: true}".to_owned(),
            Deny, true, None, Some("no-sockets"), Code::RuleDeny,
        ),
        (
            "agent: coder, host: chat.example.com, port: 443, request: {method: GET, path: /}".to_owned(),
            Allow, true, Some(splice), Some("chat"), Code::RuleAllow,
        ),
        (
            "agent: coder, host: chat.example.com, port: 443, opaque: true".to_owned(),
            Deny, true, None, None, Code::NoRule,
        ),
        (format!("{git}, opaque: true"), Deny, true, None, Some("no-push"), Code::NeedsInspection),
        (format!("{api}, {asks}"), Allow, true, Some(inspect), Some("api"), Code::RuleAllow),
        (
            format!("{api}, request: {{method: GET, path: /, query: \"a=c\", headers: {{accept: text/plain}}}}"),
            Deny, true, None, None, Code::NoRule,
        ),
        (
            format!("{api}, request: {{method: GET, path: /, body: 2KiB}}"),
            Deny, true, None, Some("small"), Code::RuleDeny,
        ),
        // Inside TLS that nobody opens a request is not seen; in the clear it is.
        (
            "agent: coder, host: plain.example.com, port: 443, request: {method: GET, path: /}".to_owned(),
            Deny, true, None, Some("plain"), Code::NeedsInspection,
        ),
        (
            "agent: coder, host: plain.example.com, port: 443, request: {method: GET, path: /, scheme: http}".to_owned(),
            Allow, true, Some(splice), Some("plain"), Code::RuleAllow,
        ),
        (
            "agent: coder, host: plain.example.com, port: 80, request: {method: GET, path: /}".to_owned(),
            Allow, true, Some(splice), Some("plain"), Code::RuleAllow,
        ),
        (
            "agent: coder, host: plain.example.com, port: 80, request: {method: GET, path: /, scheme: https}".to_owned(),
            Deny, true, None, Some("plain"), Code::NeedsInspection,
        ),
        (
            "agent: coder, host: proxy.example.com, port: 3128, request: {method: CONNECT, path: \"a.example:443\"}".to_owned(),
            Allow, true, Some(splice), Some("proxy"), Code::RuleAllow,
        ),
        (
            "agent: coder, ip: 192.0.2.1, port: 22, transport: udp".to_owned(),
            Allow, true, Some(direct), Some("net"), Code::RuleAllow,
        ),
        (
            "agent: coder, ip: 192.0.2.7, port: 22".to_owned(),
            Deny, false, Some(direct), Some("no-ssh"), Code::RuleDeny,
        ),
        (
            "agent: coder, ip: 169.254.169.254, port: 80".to_owned(),
            Deny, true, None, None, Code::MetadataService,
        ),
        (
            "agent: newcomer, host: x.example.org, port: 443".to_owned(),
            Deny, false, Some(splice), None, Code::NoRule,
        ),
        // What is behind a name.
        (
            "agent: coder, host: in.example.com, port: 443, resolves_to: 10.1.2.3".to_owned(),
            Allow, true, Some(splice), Some("intranet"), Code::RuleAllow,
        ),
        (
            "agent: coder, host: git.example.com, port: 443, resolves_to: 10.1.2.3".to_owned(),
            Deny, true, None, None, Code::Rebinding,
        ),
        (
            "agent: newcomer, host: git.example.com, port: 443, resolves_to: 10.1.2.3, request: {method: GET, path: /}".to_owned(),
            Deny, false, Some(splice), None, Code::Rebinding,
        ),
        ("agent: coder, resolve: in.example.com".to_owned(), Allow, true, None, Some("intranet"), Code::RuleAllow),
        (
            "agent: coder, resolve: git.example.com, resolves_to: 10.1.2.3".to_owned(),
            Deny, true, None, None, Code::Rebinding,
        ),
        ("agent: coder, resolve: x.example.org".to_owned(), Deny, true, None, None, Code::NoRule),
        ("agent: newcomer, resolve: x.example.org".to_owned(), Deny, false, None, None, Code::NoRule),
    ] {
        let word = serde_json::to_value(verdict).unwrap();
        let results = run(&of(&format!("{test}, expect: {}", word.as_str().unwrap())));
        let [result] = results.as_slice() else {
            panic!("{results:?}");
        };
        assert!(result.passed, "{result:?}");
        assert_eq!(result.near, [], "{test}");
        let got = &result.got;
        assert_eq!(
            (got.verdict, got.enforced, got.handling, got.rule.as_deref(), got.reason.code),
            (verdict, enforced, handling, rule, code),
            "{test}: {got:?}"
        );
    }
}

#[test]
fn each_thing_that_is_expected_can_fail() {
    let pushed = "agent: coder, host: git.example.com, port: 443, request: {method: POST, path: /a/git-receive-pack}";
    for (expect, passes) in [
        (
            "{verdict: deny, enforced: true, rule: no-push, reason: rule_deny}",
            true,
        ),
        ("allow", false),
        ("needs_request", false),
        ("{verdict: allow}", false),
        ("{enforced: false}", false),
        ("{handling: inspect}", false),
        ("{rule: repositories}", false),
        ("{reason: no_rule}", false),
    ] {
        let results = run(&of(&format!("{pushed}, expect: {expect}")));
        assert_eq!(results[0].passed, passes, "{expect}: {results:?}");
        if passes {
            continue;
        }
        let near: Vec<(&str, &[String])> = results[0]
            .near
            .iter()
            .map(|near| (near.rule.as_str(), near.failed.as_slice()))
            .collect();
        assert_eq!(near[..2], [("repositories", &[][..]), ("no-push", &[][..])]);
        assert!(near[2].1.contains(&"destination".to_owned()), "{near:?}");
    }
}

#[test]
fn everything_wrong_is_told_at_once_in_its_place() {
    let text = "\
version: 2
tests:
  - name: a
    agent: codr
    host: \"*.example.com\"
    port: 0
    request: {method: G T, path: a/../b, query: \"?a\", headers: {host: x}, body: many}
    expect: {rule: no-posh}
    typo: 1
  - {name: a, agent: coder, host: 10.0.0.1, port: 99999, expect: {}}
  - {name: b, agent: coder, host: x.example, ip: 10.0.0.1, port: 1, expect: deny}
  - {name: c, agent: coder, resolve: x.example, port: 1, expect: {handling: splice}}
  - {name: d, agent: coder, expect: {reason: no_rul}}
  - {name: e, agent: coder, expect: deny}
  - {name: f, agent: coder, ip: 192.0.2.1, expect: alow}
  - {name: g, agent: coder, ip: 192.0.2.1, resolves_to: 192.0.2.2, expect: {}}
  - {name: h, agent: coder, ip: x.example, expect: deny}
  - {name: i, agent: coder, ip: 192.0.2.1, port: 1, transport: udp, opaque: true, expect: deny,
     request: {method: CONNECT, path: /, headers: {accept: \"a\\nb\"}}}
  - {name: j, agent: coder, host: x.example, port: 53, request: {method: GET, path: /a?b=c}, expect: deny}
";
    assert_eq!(
        refused(text),
        [
            "t.yaml:1:10: error: version 2 is not known\n  hint: this version of the guard reads `version: 1`",
            "t.yaml:4:12: error: the policy has no agent `codr`\n  hint: did you mean `coder`?",
            "t.yaml:5:11: error: `*.example.com` is not a host name: a label has a character other than a-z 0-9 - _\n  hint: a test is about one name",
            "t.yaml:6:11: error: 0 is no port\n  hint: like 443",
            "t.yaml:7:23: error: `G T` is not a method\n  hint: like `GET`",
            "t.yaml:7:34: error: path `a/../b` does not begin with `/`\n  hint: `/a/../b`",
            "t.yaml:7:49: error: query `?a` has a `?` in front, a `#`, a space or what is no ASCII\n  hint: what is between the `?` and the `#`, as `a=b&c=d`",
            "t.yaml:7:71: error: `host` is not passed on as it comes, so no rule can look at it\n  hint: a name goes under `host`",
            "t.yaml:7:81: error: `many` is not a number of bytes\n  hint: like 65536, `64KiB` or `10MiB`",
            "t.yaml:8:20: error: the policy has no rule `no-posh`\n  hint: did you mean `no-push`?",
            "t.yaml:9:5: error: unknown key `typo`\n  hint: the keys here are name, agent, host, ip, resolve, local_tool, resolves_to, port, context, labels, time, switches, transport, request, opaque, expect",
            "t.yaml:10:12: error: a second test `a`\n  hint: it stands in line 3 already",
            "t.yaml:10:35: error: `10.0.0.1` is not a host name: it is an address, or could be read as one\n  hint: an address goes under `ip`",
            "t.yaml:10:51: error: expected a whole number from 0 to 65535, found `99999`\n  hint: choose one that is in this range",
            "t.yaml:11:5: error: it goes to more than one destination\n  hint: `host` for a name, `ip` for an address that is dialled bare, `resolve` for a name that is only resolved, `local_tool` for a message to a tool on the agent's own host",
            "t.yaml:12:55: error: `port` beside `resolve`\n  hint: `host` is for a flow to a name, `resolve` for the name alone",
            "t.yaml:12:66: error: what is resolved has no `handling`\n  hint: test the flow to it: `host` and `port`",
            "t.yaml:13:46: error: unknown value `no_rul`\n  hint: did you mean `no_rule`?",
            "t.yaml:14:5: error: it goes nowhere\n  hint: `host` for a name, `ip` for an address that is dialled bare, `resolve` for a name that is only resolved, `local_tool` for a message to a tool on the agent's own host",
            "t.yaml:15:52: error: unknown value `alow`\n  hint: did you mean `allow`?",
            "t.yaml:16:57: error: `resolves_to` beside `ip`\n  hint: it is the address behind a name",
            "t.yaml:16:76: error: nothing is expected\n  hint: `expect: deny`, or one of verdict, enforced, handling, rule, reason",
            "t.yaml:17:5: error: missing key `port`\n  hint: where the flow goes, like `port: 443`",
            "t.yaml:17:33: error: `x.example` is not an address\n  hint: like 192.0.2.1 or 2001:db8::1; a name goes under `host`",
            "t.yaml:19:15: error: `request` beside `opaque`\n  hint: what shows no request has none",
            "t.yaml:19:15: error: a request over UDP\n  hint: requests are seen in TCP alone",
            "t.yaml:19:39: error: what CONNECT asks for is no path\n  hint: the destination: `api.example.com:443`",
            "t.yaml:19:60: error: `a\\nb` is not the value of a header field\n  hint: visible ASCII characters, and spaces between them alone",
            "t.yaml:20:52: error: port 53 always leads to the guard's own resolver\n  hint: `resolve` is for a name that an agent looks up",
            "t.yaml:20:85: error: path `/a?b=c` has a `?` or `#`\n  hint: what is behind the `?` goes under `query`; a `#` is never sent",
        ]
    );
}

/// A rule for the destination is nearer than any for another one, however much of it does not hold.
#[test]
fn rules_for_the_destination_are_nearer_than_others() {
    let mut text =
        "version: 1\nswitches: {freeze: false}\nagents: [{name: coder}]\nrules:\n".to_owned();
    for n in 0..6 {
        text.push_str(&format!(
            "  - {{id: other-{n}, match: {{host: [o{n}.example.com], port: [443]}}, action: allow, handling: inspect}}\n"
        ));
    }
    text.push_str(
        "  - {id: by-method, match: {host: [a.example.com], port: [443], method: [GET], path: [\"/x/**\"]}, action: allow, handling: inspect}\n  - {id: by-whom, match: {host: [a.example.com], port: [443], transport: [tcp], user: [alice], purpose: [deploy]}, action: allow, handling: inspect}\n  - {id: by-switch, match: {host: [a.example.com], transport: [tcp]}, when: switches.freeze, action: deny}\n  - {id: datagrams, match: {host: [a.example.com], port: [443], transport: [udp]}, action: allow}\n",
    );
    let policy = policy(&text);
    let test = of(
        "agent: coder, host: a.example.com, port: 443, request: {method: POST, path: /z}, expect: allow",
    );
    let table = WrittenTable::parse("t.yaml", &test).unwrap();
    let table = table.check(&policy).unwrap();
    let near = table.run(&policy, closed).remove(0).near;
    let near: Vec<_> = near.iter().map(|it| it.rule.as_str()).collect();
    assert_eq!(
        near,
        ["by-whom", "by-switch", "datagrams", "by-method", "other-0"]
    );
}

/// The usual address behind a name is one that no rule speaks of; here there is none.
#[test]
fn where_every_address_is_denied_a_test_says_which_one_is_meant() {
    let bare = "  - {id: b, match: {cidr: [0.0.0.0/1, 128.0.0.0/1, '::/0']}, action: deny}\n";
    let name = "  - {id: a, match: {host: [a.example.com], port: [443]}, action: allow}\n";
    let tests = |strategy: &str, rules: &str, test: &str| {
        let policy = policy(&format!(
            "version: 1\nstrategy: {strategy}\nagents: [{{name: coder}}]\nrules:\n{rules}"
        ));
        let test = of(&format!("agent: coder, {test}"));
        let written = WrittenTable::parse("t.yaml", &test).unwrap();
        match written.check(&policy) {
            Ok(table) => table.run(&policy, closed).remove(0).passed.to_string(),
            Err(found) => found.to_string(),
        }
    };
    let asks = "t.yaml:3:35: error: denials by `cidr` speak of every address that may be behind this name, and it matters which one is\n  hint: say which one is, like `resolves_to: 203.0.113.7`";
    let allowed = "host: a.example.com, port: 443, expect: allow";
    let denied = "host: a.example.com, port: 443, resolves_to: 203.0.113.7, expect: {rule: b}";
    let first = format!("{bare}{name}");
    for strategy in [
        "priority_first_match",
        "deny_overrides",
        "most_specific_wins",
    ] {
        assert_eq!(tests(strategy, &first, allowed), asks, "{strategy}");
        assert_eq!(tests(strategy, &first, denied), "true", "{strategy}");
    }
    // However these are written.
    for ranges in ["0.0.0.0/0", "0.0.0.0/2, 64.0.0.0/2, 128.0.0.0/1"] {
        let bare = format!("  - {{id: b, match: {{cidr: [{ranges}]}}, action: deny}}\n{name}");
        assert_eq!(tests("deny_overrides", &bare, allowed), asks, "{ranges}");
        assert_eq!(tests("deny_overrides", &bare, denied), "true", "{ranges}");
    }
    // Where a rule before it decides, and where nothing is allowed, it does not matter.
    let last = format!("{name}{bare}");
    assert_eq!(tests("priority_first_match", &last, allowed), "true");
    let half = first.replace("128.0.0.0/1, ", "");
    assert_eq!(tests("deny_overrides", &half, allowed), "true");
    let other = bare.replace("match: {", "match: {port: [22], ");
    assert_eq!(
        tests("deny_overrides", &format!("{other}{name}"), allowed),
        "true"
    );
}

#[test]
fn a_file_has_its_bounds() {
    assert_eq!(
        refused("version: 1\ntests: []\n"),
        [
            "t.yaml:2:8: error: there are no tests\n  hint: `tests: [{name: …, agent: …, host: …, port: 443, expect: allow}]`"
        ]
    );
    assert_eq!(
        refused("version: 1\n"),
        [
            "t.yaml:1:1: error: missing key `tests`\n  hint: add `tests: …` beside the keys that are there"
        ]
    );
    let mut many = "version: 1\ntests:\n".to_owned();
    for n in 0..=10_000 {
        many.push_str(&format!(
            "- {{name: {n}, agent: coder, resolve: a.b, expect: deny}}\n"
        ));
    }
    assert_eq!(
        refused(&many),
        ["t.yaml:3:3: error: 10001 tests; the limit is 10000\n  hint: split the file"]
    );
    let long = format!("version: 1\ntests: # {}\n", "x".repeat(1 << 20));
    assert_eq!(
        refused(&long),
        [
            "t.yaml: error: the file has 1048597 bytes; the limit is 1048576\n  hint: put a part of it into a file of its own"
        ]
    );
}

proptest! {
    /// Nothing that somebody writes makes it fall over.
    #[test]
    fn any_text_is_read_or_refused(text in "(version: 1\ntests:\n)?([-a-z{}:,\\[\\] \"'\n#&*]|name: |agent: |host: |expect: ){0,60}") {
        let policy = policy(POLICY);
        if let Ok(written) = WrittenTable::parse("t.yaml", &text)
            && let Ok(table) = written.check(&policy)
        {
            table.run(&policy, closed);
        }
    }
}

#[test]
fn the_tests_of_the_page_pass() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, after) = page.split_once("```yaml tests\n").unwrap();
    let (tests, _) = after.split_once("```").unwrap();
    let of = page
        .split("```yaml\n")
        .filter_map(|part| part.split("```").next())
        .find(|text| text.contains("git-receive-pack"));
    let policy = policy(of.unwrap());
    let written = WrittenTable::parse("t.yaml", tests).unwrap();
    let results = written.check(&policy).unwrap().run(&policy, closed);
    assert_eq!(results.len(), 5);
    for result in results {
        assert!(result.passed, "{result:?}");
    }
}

#[test]
fn on_whose_behalf_and_when_is_a_part_of_a_test() {
    let policy = policy(
        "version: 1
switches: {freeze: false}
agents: [{name: coder, labels: {tier: \"1\"}}]
rules:
  - {id: release, match: {host: [a.example], workflow: [release]}, action: allow}
  - {id: week, match: {host: [b.example], time: {days: [mon-fri]}}, action: allow}
  - {id: frozen, match: {host: [\"*.example\"], transport: [tcp]}, when: switches.freeze, action: deny}
  - {id: two, match: {host: [c.example]}, when: agent.labels.tier == '2', action: allow}
  - {id: bare, match: {host: [d.example]}, action: modify, modify: {headers: {drop: [cookie]}}}
",
    );
    let tests = "version: 1
tests:
  - {name: a, agent: coder, host: a.example, port: 80, expect: {verdict: deny, reason: no_rule}}
  - {name: b, agent: coder, host: a.example, port: 80, context: {workflow: release}, expect: {verdict: allow, rule: release}}
  - {name: c, agent: coder, host: b.example, port: 80, expect: allow}
  - {name: d, agent: coder, host: b.example, port: 80, time: \"2026-01-10T12:00:00Z\", expect: deny}
  - {name: e, agent: coder, host: b.example, port: 80, switches: {freeze: true}, expect: {verdict: deny, rule: frozen}}
  - {name: f, agent: coder, host: c.example, port: 80, expect: deny}
  - {name: g, agent: coder, host: c.example, port: 80, labels: {tier: \"2\"}, expect: {verdict: allow, rule: two}}
  - {name: h, agent: coder, host: d.example, port: 80, request: {method: GET, path: /}, expect: {verdict: modify, reason: rule_modify, rule: bare}}
";
    let written = WrittenTable::parse("t.yaml", tests).unwrap();
    let results = written.check(&policy).unwrap().run(&policy, closed);
    let failed: Vec<_> = results.iter().filter(|result| !result.passed).collect();
    assert!(failed.is_empty() && results.len() == 8, "{failed:#?}");

    let wrong = "version: 1
tests:
  - {name: a, agent: coder, host: a.example, port: 80, time: noon, switches: {freze: true}, expect: deny}
  - {name: b, agent: coder, resolve: a.example, time: \"2026-01-10T12:00:00Z\", expect: deny}
";
    let written = WrittenTable::parse("t.yaml", wrong).unwrap();
    let found = written.check(&policy).unwrap_err();
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "t.yaml:3:62: error: `noon` is not a time\n  hint: like 2026-01-07T12:00:00Z",
            "t.yaml:3:86: error: the policy has no switch `freze`\n  hint: did you mean `freeze`?",
            "t.yaml:4:55: error: `time` beside `resolve`\n  hint: `host` is for a flow to a name, `resolve` for the name alone",
        ]
    );
}
