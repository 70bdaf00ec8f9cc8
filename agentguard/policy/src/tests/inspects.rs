//! Where TLS is terminated, and what becomes of what cannot be looked into.

use std::net::IpAddr;

use agentguard_model::{Handling, HostName, Mode, ReasonCode, Transport, Verdict};

use super::{agent, host, policy};
use crate::{Circumstances, Facts, Policy, Request, Ruling, RulingOutcome, Seen};

const TEXT: &str = r#"
version: 1
agents:
  - {name: coder}
  - {name: watched, mode: observe}
  - {name: stranger}
rules:
  - id: api
    agents: [coder, watched]
    match: {host: [api.example, "*.api.example"], port: [443, 8443]}
    action: allow
    handling: inspect
  - id: api-fast
    agents: [coder, watched]
    match: {host: [api.example], port: [8443, 9000]}
    action: allow
    handling: direct
  - id: no-deletes
    match: {host: [api.example], method: [DELETE]}
    action: deny
    reason: Nothing is deleted here.
  - id: read
    agents: [coder, watched]
    match: {host: [read.example], port: [443], method: [GET]}
    action: allow
    handling: inspect
  - id: read-as-well
    agents: [coder, watched]
    match: {host: [read.example], port: [443]}
    action: allow
  - id: get
    agents: [coder, watched]
    match: {host: [get.example], port: [443], method: [GET], path: ["/docs/**"]}
    action: allow
    handling: inspect
  - id: blind
    agents: [coder, watched]
    match: {host: [blind.example], port: [80, 443], method: [GET]}
    action: allow
  - id: lab
    agents: [coder, watched]
    match: {cidr: [192.0.2.0/24, 127.0.0.1/32], port: [443]}
    action: allow
    handling: inspect
  - id: half-closed
    agents: [coder, watched]
    match: {cidr: [192.0.2.66/32]}
    action: deny
  - id: try-out
    agents: [coder, watched]
    match: {cidr: [192.0.2.7/32]}
    action: deny
    mode: shadow
  - id: soon
    agents: [coder, watched]
    match: {host: [soon.example]}
    action: allow
    handling: inspect
    mode: shadow
"#;

/// A destination: a name, or an address that is dialled bare.
#[derive(Clone, Copy, Debug)]
struct To(&'static str, u16);

fn with<T>(to: To, request: Seen<'_>, ask: impl FnOnce(&Facts<'_>) -> T) -> T {
    let ip: Option<IpAddr> = to.0.parse().ok();
    let name: Option<HostName> = ip.is_none().then(|| host(to.0));
    ask(&Facts {
        host: name.as_ref(),
        ip,
        port: to.1,
        transport: Transport::Tcp,
        request,
        circumstances: Circumstances::NOBODY,
    })
}

fn decide(policy: &Policy, who: &str, to: To, request: Seen<'_>) -> Ruling {
    with(to, request, |facts| {
        policy.decide(agent(policy, who), facts)
    })
}

#[test]
fn tls_is_terminated_where_an_allowance_says_so() {
    let policy = policy(TEXT);
    for (to, coder, watched) in [
        (To("api.example", 443), true, true),
        (To("x.api.example", 443), true, true),
        // The most restrictive handling wins.
        (To("api.example", 8443), true, true),
        (To("api.example", 9000), false, false),
        (To("api.example", 444), false, false),
        // Also for the requests that another rule would splice.
        (To("read.example", 443), true, true),
        (To("get.example", 443), true, true),
        (To("blind.example", 443), false, false),
        (To("192.0.2.1", 443), true, true),
        (To("::ffff:192.0.2.1", 443), true, true),
        // What is denied anyhow need not be looked into, but where nothing is enforced.
        (To("192.0.2.66", 443), false, true),
        (To("192.0.2.7", 443), true, true),
        // A closed range is opened by a range inside of it alone.
        (To("127.0.0.1", 443), true, true),
        (To("127.0.0.2", 443), false, false),
        // A virtual address that stands for nothing.
        (To("198.18.0.1", 443), false, false),
        // A rule that is not in force grants nothing.
        (To("soon.example", 443), false, false),
        (To("other.example", 443), false, false),
    ] {
        for (who, expected) in [("coder", coder), ("watched", watched), ("stranger", false)] {
            for request in [
                Seen::NotYet,
                Seen::Never,
                Seen::Request(Request::new("POST", "/")),
            ] {
                let inspects = with(to, request, |facts| {
                    policy.inspects(agent(&policy, who), facts)
                });
                assert_eq!(inspects, expected, "{who} {to:?} {request:?}");
            }
        }
    }
}

#[test]
fn the_address_behind_a_name_does_not_matter() {
    let policy = policy(TEXT);
    let name = host("api.example");
    let inspects = |who, ip: &str| {
        let facts = Facts {
            host: Some(&name),
            ip: Some(ip.parse().unwrap()),
            port: 443,
            transport: Transport::Tcp,
            request: Seen::NotYet,
            circumstances: Circumstances::NOBODY,
        };
        policy.inspects(agent(&policy, who), &facts)
    };
    assert!(inspects("coder", "203.0.113.1"));
    assert!(inspects("coder", "198.18.0.1"));
    // A denial of it is said to each request.
    assert!(inspects("coder", "192.0.2.66"));
    assert!(inspects("watched", "192.0.2.66"));
}

#[test]
fn datagrams_are_not_inspected() {
    let policy = policy(TEXT);
    let name = host("api.example");
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port: 443,
        transport: Transport::Udp,
        request: Seen::NotYet,
        circumstances: Circumstances::NOBODY,
    };
    assert!(!policy.inspects(agent(&policy, "coder"), &facts));
}

#[test]
fn certificates_are_for_what_an_allowance_names() {
    let policy = policy(TEXT);
    for (to, expected) in [
        ("api.example", true),
        ("deep.below.api.example", true),
        ("read.example", true),
        ("get.example", true),
        ("blind.example", false),
        ("soon.example", false),
        ("example", false),
        ("192.0.2.1", true),
        ("::ffff:192.0.2.1", true),
        ("192.0.3.1", false),
        ("127.0.0.1", true),
        ("127.0.0.2", false),
        ("169.254.169.254", false),
        ("198.18.0.1", false),
        ("2001:db8::1", false),
    ] {
        for (who, expected) in [("coder", expected), ("stranger", false)] {
            let agent = agent(&policy, who);
            let inspects = match to.parse() {
                Ok(ip) => policy.inspects_address(agent, ip),
                Err(_) => policy.inspects_name(agent, &host(to)),
            };
            assert_eq!(inspects, expected, "{who} {to}");
        }
    }
    assert!(policy.inspects_anything(agent(&policy, "coder")));
    assert!(policy.inspects_anything(agent(&policy, "watched")));
    assert!(!policy.inspects_anything(agent(&policy, "stranger")));
}

#[test]
fn a_rule_for_anywhere_inspects_every_name_and_no_closed_address() {
    let policy = policy(
        "version: 1\nagents: [{name: coder}]\nrules:\n\
         - {id: all, match: {port: [443]}, action: allow, handling: inspect}\n",
    );
    let coder = agent(&policy, "coder");
    assert!(policy.inspects_name(coder, &host("whatever.example")));
    for (ip, expected) in [
        ("203.0.113.1", true),
        ("2001:db8::1", true),
        ("127.0.0.1", false),
        ("::1", false),
        ("169.254.169.254", false),
        ("198.18.0.1", false),
    ] {
        let ip = ip.parse().unwrap();
        assert_eq!(policy.inspects_address(coder, ip), expected, "{ip}");
    }
}

#[test]
fn what_is_inspected_is_decided_request_by_request() {
    use RulingOutcome::{Allow, Deny, Undecided};
    let policy = policy(TEXT);
    let request = |method, path| Seen::Request(Request::new(method, path));
    for (to, request, outcome, code) in [
        // A denial that looks at requests leaves the flow undecided.
        (
            To("api.example", 443),
            Seen::NotYet,
            Undecided,
            ReasonCode::NeedsInspection,
        ),
        (
            To("api.example", 443),
            request("GET", "/"),
            Allow(Handling::Inspect),
            ReasonCode::RuleAllow,
        ),
        (
            To("api.example", 443),
            request("DELETE", "/"),
            Deny,
            ReasonCode::RuleDeny,
        ),
        (
            To("x.api.example", 443),
            Seen::NotYet,
            Allow(Handling::Inspect),
            ReasonCode::RuleAllow,
        ),
        (
            To("api.example", 8443),
            request("GET", "/"),
            Allow(Handling::Inspect),
            ReasonCode::RuleAllow,
        ),
        (
            To("read.example", 443),
            Seen::NotYet,
            Undecided,
            ReasonCode::NeedsInspection,
        ),
        (
            To("read.example", 443),
            request("GET", "/"),
            Allow(Handling::Inspect),
            ReasonCode::RuleAllow,
        ),
        (
            To("read.example", 443),
            request("POST", "/"),
            Allow(Handling::Splice),
            ReasonCode::RuleAllow,
        ),
        (
            To("get.example", 443),
            request("GET", "/docs/a"),
            Allow(Handling::Inspect),
            ReasonCode::RuleAllow,
        ),
        (
            To("get.example", 443),
            request("GET", "/other"),
            Deny,
            ReasonCode::NoRule,
        ),
        (
            To("192.0.2.1", 443),
            Seen::NotYet,
            Allow(Handling::Inspect),
            ReasonCode::RuleAllow,
        ),
    ] {
        let ruling = decide(&policy, "coder", to, request);
        let context = format!("{to:?} {request:?}");
        assert_eq!(ruling.outcome, outcome, "{context}");
        assert_eq!(ruling.reason.code, code, "{context}");
    }
}

#[test]
fn what_cannot_be_understood_is_denied_where_it_should_be_inspected() {
    let policy = policy(TEXT);
    let rules = |ruling: &Ruling| -> Vec<String> {
        ruling.matched.iter().map(|m| m.rule.clone()).collect()
    };
    for (to, message, matched) in [
        (
            To("x.api.example", 443),
            "Rule api allows coder to reach x.api.example:443 over TCP only where its requests can be inspected, and what is sent here cannot be understood; `handling: splice` would pass it unseen.",
            &["api"][..],
        ),
        (
            To("192.0.2.7", 443),
            "Rule lab allows coder to reach 192.0.2.7:443 over TCP only where its requests can be inspected, and what is sent here cannot be understood; `handling: splice` would pass it unseen.",
            &["lab", "try-out"],
        ),
        // What another rule would splice is not passed unseen beside a rule that inspects.
        (
            To("read.example", 443),
            "To allow coder to reach read.example:443 over TCP, rule read has to see the HTTP request, and cannot here.",
            &["read", "read-as-well"],
        ),
        (
            To("get.example", 443),
            "To allow coder to reach get.example:443 over TCP, rule get has to see the HTTP request, and cannot here.",
            &["get"],
        ),
        // A denial that looks at requests comes first.
        (
            To("api.example", 8443),
            "To allow coder to reach api.example:8443 over TCP, rule no-deletes has to see the HTTP request, and cannot here.",
            &["no-deletes", "api", "api-fast"],
        ),
        // Nothing inspects it, and the sentence says what would.
        (
            To("blind.example", 443),
            "To allow coder to reach blind.example:443 over TCP, rule blind has to see the HTTP request, and cannot here; inside TLS it can where the rule that allows it says `handling: inspect`.",
            &["blind"],
        ),
    ] {
        let ruling = decide(&policy, "coder", to, Seen::Never);
        assert_eq!(ruling.outcome, RulingOutcome::Deny, "{to:?}");
        assert_eq!(ruling.verdict, Verdict::Deny, "{to:?}");
        assert!(ruling.enforced, "{to:?}");
        assert_eq!(ruling.mode, Mode::Enforce, "{to:?}");
        assert_eq!(ruling.reason.code, ReasonCode::NeedsInspection, "{to:?}");
        assert_eq!(ruling.reason.message, message, "{to:?}");
        assert_eq!(rules(&ruling), matched, "{to:?}");
    }
}

#[test]
fn an_observed_agent_goes_on_with_what_cannot_be_understood() {
    let policy = policy(TEXT);
    for (to, code, rule) in [
        (To("x.api.example", 443), ReasonCode::NeedsInspection, "api"),
        (To("read.example", 443), ReasonCode::NeedsInspection, "read"),
        (To("get.example", 443), ReasonCode::NeedsInspection, "get"),
        (
            To("api.example", 443),
            ReasonCode::NeedsInspection,
            "no-deletes",
        ),
        (To("192.0.2.66", 443), ReasonCode::RuleDeny, "half-closed"),
        (To("127.0.0.1", 443), ReasonCode::NeedsInspection, "lab"),
    ] {
        let ruling = decide(&policy, "watched", to, Seen::Never);
        assert_eq!(
            ruling.outcome,
            RulingOutcome::Allow(Handling::Splice),
            "{to:?}"
        );
        assert_eq!(ruling.verdict, Verdict::Deny, "{to:?}");
        assert!(!ruling.enforced, "{to:?}");
        assert_eq!(ruling.mode, Mode::Observe, "{to:?}");
        assert_eq!(ruling.reason.code, code, "{to:?}");
        assert_eq!(ruling.matched[0].rule, rule, "{to:?}");
    }
}

/// Rules for one name that differ in where it may lead and in whether TLS is opened.
#[test]
fn whether_tls_is_opened_is_decided_for_a_name_as_a_whole() {
    let inside: IpAddr = "10.1.2.3".parse().unwrap();
    let outside: IpAddr = "203.0.113.1".parse().unwrap();
    for (rules, opened, opaque) in [
        // Opened for the sake of the public addresses.
        (
            "splice, resolved_ranges: [10.0.0.0/8]}\n  - {id: b, match: {host: [a.example]}, action: allow, handling: inspect",
            true,
            false,
        ),
        // And of the others.
        (
            "inspect, resolved_ranges: [10.0.0.0/8]}\n  - {id: b, match: {host: [a.example]}, action: allow, handling: splice",
            true,
            false,
        ),
        (
            "splice, resolved_ranges: [10.0.0.0/8]}\n  - {id: b, match: {host: [a.example]}, action: allow, handling: splice",
            false,
            true,
        ),
        // What is not seen would not be changed at the public ones.
        (
            "splice, resolved_ranges: [10.0.0.0/8]}\n  - {id: b, match: {host: [a.example], method: [GET]}, action: modify, modify: {headers: {drop: [cookie]}}",
            false,
            false,
        ),
    ] {
        let text = format!(
            "version: 1\nagents: [{{name: coder}}]\nrules:\n  - {{id: a, match: {{host: [a.example]}}, action: allow, handling: {rules}}}\n"
        );
        let policy = policy(&text);
        let name = host("a.example");
        for ip in [None, Some(inside), Some(outside)] {
            let facts = Facts {
                host: Some(&name),
                ip,
                port: 443,
                transport: Transport::Tcp,
                request: Seen::NotYet,
                circumstances: Circumstances::NOBODY,
            };
            let coder = agent(&policy, "coder");
            assert_eq!(policy.inspects(coder, &facts), opened, "{rules} {ip:?}");
            for seen in [Seen::Tls, Seen::Never] {
                let facts = Facts {
                    request: seen,
                    ..facts
                };
                let outcome = policy.decide(coder, &facts).outcome;
                let allowed = matches!(outcome, RulingOutcome::Allow(_));
                assert_eq!(allowed, opaque, "{rules} {ip:?} {outcome:?}");
            }
            let get = Request::new("GET", "/");
            let facts = Facts {
                request: Seen::Request(get),
                ..facts
            };
            let outcome = policy.decide(coder, &facts).outcome;
            assert!(
                matches!(outcome, RulingOutcome::Allow(_)),
                "{rules} {ip:?} {outcome:?}"
            );
        }
    }
}
