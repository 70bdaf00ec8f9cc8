//! What rules say that do not say otherwise.

use agentguard_model::{Handling, Mode, ReasonCode, Transport};

use super::{agent, document, host, policy};
use crate::{Circumstances, Facts, Policy, Request, Seen, compile};

fn code(policy: &Policy, name: &str, port: u16, transport: Transport) -> ReasonCode {
    let name = host(name);
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port,
        transport,
        request: Seen::Request(Request::new("GET", "/a")),
        circumstances: Circumstances::NOBODY,
    };
    policy.decide(agent(policy, "coder"), &facts).reason.code
}

#[test]
fn a_rule_says_what_the_defaults_say_unless_it_says_otherwise() {
    let policy = policy(
        r#"version: 1
lists: {web: [443, 8443]}
defaults:
  rule: {handling: inspect, port: ["@web"], mode: observe}
agents: [{name: coder}]
rules:
  - {id: plain, match: {host: [plain.example]}, action: allow}
  - {id: own, match: {host: [own.example], port: [22]}, action: allow, handling: splice, mode: enforce}
  - {id: time, match: {host: [time.example], port: [123], transport: [udp]}, action: allow}
  - {id: denial, match: {host: [denial.example]}, action: deny, mode: enforce}
  - {id: requests, match: {host: [requests.example], path: [/a]}, action: allow, mode: enforce}
"#,
    );
    let said: Vec<_> = policy
        .rules()
        .map(|rule| (rule.id.as_str(), rule.handling, rule.mode))
        .collect();
    assert_eq!(
        said,
        [
            ("plain", Handling::Inspect, Mode::Observe),
            ("own", Handling::Splice, Mode::Enforce),
            ("time", Handling::Direct, Mode::Observe),
            ("denial", Handling::Splice, Mode::Enforce),
            ("requests", Handling::Inspect, Mode::Enforce),
        ]
    );
    assert_eq!(policy.warnings(), []);
    for (name, port, transport, expected) in [
        ("own.example", 22, Transport::Tcp, ReasonCode::RuleAllow),
        ("own.example", 443, Transport::Tcp, ReasonCode::NoRule),
        (
            "requests.example",
            8443,
            Transport::Tcp,
            ReasonCode::RuleAllow,
        ),
        ("requests.example", 80, Transport::Tcp, ReasonCode::NoRule),
        // A denial is for all ports and both transports still.
        ("denial.example", 22, Transport::Tcp, ReasonCode::RuleDeny),
        ("denial.example", 22, Transport::Udp, ReasonCode::RuleDeny),
    ] {
        let got = code(&policy, name, port, transport);
        assert_eq!(got, expected, "{name} {port} {transport:?}");
    }
}

#[test]
fn a_default_transport_is_for_what_allows_a_destination_and_looks_at_no_request() {
    let policy = policy(
        r#"version: 1
defaults: {rule: {transport: [tcp, udp], handling: direct}}
agents: [{name: coder}]
rules:
  - {id: both, match: {host: [both.example]}, action: allow}
  - {id: tcp, match: {host: [tcp.example], transport: [tcp]}, action: allow}
  - {id: requests, match: {host: [requests.example], path: [/a]}, action: allow, handling: splice}
  - {id: anywhere, match: {port: [9]}, action: allow}
"#,
    );
    for (name, port, tcp, udp) in [
        ("both.example", 1, true, true),
        ("tcp.example", 1, true, false),
        ("requests.example", 1, true, false),
        ("any.example", 9, true, false),
    ] {
        for (transport, allowed) in [(Transport::Tcp, tcp), (Transport::Udp, udp)] {
            let got = code(&policy, name, port, transport) == ReasonCode::RuleAllow;
            assert_eq!(got, allowed, "{name} {transport:?}");
        }
    }
}

#[test]
fn what_is_wrong_by_a_default_tells_both_places() {
    let rules = "agents: [{name: coder}]\nrules:\n  - {id: a, match: {host: [a.example], method: [GET]}, action: allow}\n  - {id: b, match: {host: [b.example]}, action: allow}\n";
    for (defaults, expected) in [
        (
            "{handling: direct}",
            &[
                "p.yaml:5:10: error: `direct` cannot go with what looks at requests: nothing looks at a direct flow (from `defaults`, p.yaml:2:18)\n  hint: `handling: splice`",
            ][..],
        ),
        (
            "{transport: [tcp, udp]}",
            &[
                "p.yaml:6:10: error: datagrams cannot be spliced, so this rule has no handling for both transports (from `defaults`, p.yaml:2:18)\n  hint: `handling: direct`, or one rule for each transport",
            ],
        ),
        (
            "{port: [0, http], transport: []}",
            &[
                "p.yaml:2:26: error: `0`: there is no port 0\n  hint: leave `port` out to match any; the first one is 1",
                "p.yaml:2:29: error: `http` is not a port\n  hint: like 443 or \"8000-8100\"",
                "p.yaml:2:47: error: `transport` is empty, so it would match nothing\n  hint: leave `transport` out to match all",
            ],
        ),
        (
            "{port: [\"@web\"]}",
            &[
                "p.yaml:2:26: error: no list is called `web`\n  hint: a list is defined under `lists`; for the text itself write `@@web`",
            ],
        ),
        (
            "{host: [a.example]}",
            &[
                "p.yaml:2:19: error: unknown key `host`\n  hint: the keys here are handling, port, transport, mode",
            ],
        ),
    ] {
        let text = format!("version: 1\ndefaults: {{rule: {defaults}}}\n{rules}");
        let found = compile(&[document(&text)]).unwrap_err();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{defaults}");
    }
}

#[test]
fn denials_that_a_default_puts_on_paper_are_told() {
    let denial = |id: &str, mode: &str| {
        format!("  - {{id: {id}, match: {{host: [{id}.example]}}, action: deny{mode}}}\n")
    };
    for (mode, rules, expected) in [
        ("shadow", denial("a", ", mode: enforce"), &[][..]),
        ("enforce", denial("a", ""), &[]),
        (
            "shadow",
            denial("a", ""),
            &[
                "p.yaml:2:25: warning: by this mode a denial denies on paper only: p.yaml, line 5\n  hint: `mode: enforce` on those that are to deny",
            ],
        ),
        (
            "observe",
            denial("a", ", mode: enforce") + &denial("b", "") + &denial("c", ""),
            &[
                "p.yaml:2:25: warning: by this mode 2 denials deny on paper only, the first of them in p.yaml, line 6\n  hint: `mode: enforce` on those that are to deny",
            ],
        ),
    ] {
        let policy = policy(&format!(
            "version: 1\ndefaults: {{rule: {{mode: {mode}}}}}\nagents: [{{name: coder}}]\nrules:\n{rules}"
        ));
        let found: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{mode}\n{rules}");
    }
}
