//! The semantics that the operator's page states, case by case.

use agentguard_model::{Handling, Mode, ReasonCode, Transport, Verdict};

use super::{agent, host, policy};
use crate::{
    Addresses, Circumstances, Condition, Consideration, Facts, Policy, Request, RulingOutcome,
    Seen, Switches, schema,
};

const TEXT: &str = r#"
version: 1
agents:
  - {name: coder, labels: {team: web}}
  - {name: learner, mode: observe, default_handling: direct}
  - {name: trial, mode: shadow}
rules:
  - id: api
    match: {host: [api.example, "*.cdn.example"], port: [443]}
    action: allow
    resolved_ranges: [10.0.0.0/8]
    addresses: real
  - id: read
    match: {host: [plain.example], port: [80], method: [GET, HEAD], path: ["/docs/**"]}
    action: allow
  - id: no-secrets
    match: {host: [plain.example, api.example], path: ["/docs/secret/**"]}
    action: deny
    reason: "Secrets are not for agents; ask the platform team."
  - id: lab
    match: {cidr: [192.0.2.0/24, "169.254.169.254/32"], port: [22, 9000-9100]}
    action: allow
    handling: direct
  - id: not-that-one
    match: {cidr: [192.0.2.66/32]}
    action: deny
  - id: try-out
    match: {cidr: [192.0.2.7/32]}
    action: deny
    mode: shadow
  - id: soon
    match: {host: [soon.example]}
    action: allow
    mode: shadow
  - id: clock
    match: {host: [time.example], port: [123], transport: [udp]}
    action: allow
"#;

struct Case {
    to: &'static str,
    port: u16,
    transport: Transport,
    request: Seen<'static>,
}

const fn tcp(to: &'static str, port: u16) -> Case {
    Case {
        to,
        port,
        transport: Transport::Tcp,
        request: Seen::NotYet,
    }
}

const fn http(to: &'static str, method: &'static str, path: &'static str) -> Case {
    Case {
        request: Seen::Request(Request::new(method, path)),
        ..tcp(to, 80)
    }
}

fn decide(policy: &Policy, who: &str, case: &Case) -> crate::Ruling {
    let ip = case.to.parse().ok();
    let name = ip.is_none().then(|| host(case.to));
    policy.decide(
        agent(policy, who),
        &Facts {
            host: name.as_ref(),
            ip,
            port: case.port,
            transport: case.transport,
            request: case.request,
            circumstances: Circumstances::NOBODY,
        },
    )
}

#[test]
fn enforced() {
    use RulingOutcome::{Allow, Deny, Undecided};
    let policy = policy(TEXT);
    let never = |case: Case| Case {
        request: Seen::Never,
        ..case
    };
    let udp = |case: Case| Case {
        transport: Transport::Udp,
        ..case
    };
    for (case, outcome, code, message) in [
        (
            tcp("x.cdn.example", 443),
            Allow(Handling::Splice),
            ReasonCode::RuleAllow,
            "Rule api allows coder to reach x.cdn.example:443 over TCP.",
        ),
        (
            tcp("cdn.example", 443),
            Deny,
            ReasonCode::NoRule,
            "No rule allows coder to reach cdn.example:443 over TCP.",
        ),
        (
            tcp("api.example", 80),
            Deny,
            ReasonCode::NoRule,
            "No rule allows coder to reach api.example:80 over TCP.",
        ),
        (
            tcp("api.example", 443),
            Undecided,
            ReasonCode::NeedsInspection,
            "To allow coder to reach api.example:443 over TCP, rule no-secrets has to see the HTTP request, and cannot here; inside TLS it can where the rule that allows it says `handling: inspect`.",
        ),
        (
            never(tcp("api.example", 443)),
            Deny,
            ReasonCode::NeedsInspection,
            "To allow coder to reach api.example:443 over TCP, rule no-secrets has to see the HTTP request, and cannot here; inside TLS it can where the rule that allows it says `handling: inspect`.",
        ),
        (
            never(tcp("plain.example", 80)),
            Deny,
            ReasonCode::NeedsInspection,
            "To allow coder to reach plain.example:80 over TCP, rule no-secrets has to see the HTTP request, and cannot here; inside TLS it can where the rule that allows it says `handling: inspect`.",
        ),
        (
            http("plain.example", "GET", "/docs/a"),
            Allow(Handling::Splice),
            ReasonCode::RuleAllow,
            "Rule read allows coder to GET plain.example:80/docs/a.",
        ),
        (
            http("plain.example", "POST", "/docs/a"),
            Deny,
            ReasonCode::NoRule,
            "No rule allows coder to POST plain.example:80/docs/a.",
        ),
        (
            http("plain.example", "GET", "/docs/secret/a"),
            Deny,
            ReasonCode::RuleDeny,
            "Secrets are not for agents; ask the platform team.",
        ),
        (
            tcp("192.0.2.1", 22),
            Allow(Handling::Direct),
            ReasonCode::RuleAllow,
            "Rule lab allows coder to reach 192.0.2.1:22 over TCP.",
        ),
        (
            tcp("192.0.2.66", 22),
            Deny,
            ReasonCode::RuleDeny,
            "Rule not-that-one forbids coder to reach 192.0.2.66:22 over TCP.",
        ),
        (
            tcp("169.254.169.254", 22),
            Allow(Handling::Direct),
            ReasonCode::RuleAllow,
            "Rule lab allows coder to reach 169.254.169.254:22 over TCP.",
        ),
        (
            tcp("169.254.169.254", 80),
            Deny,
            ReasonCode::MetadataService,
            "No rule that names it allows coder to reach 169.254.169.254:80 over TCP, which is a cloud metadata service.",
        ),
        (
            tcp("127.0.0.1", 6379),
            Deny,
            ReasonCode::LoopbackNotOwn,
            "No rule that names it allows coder to reach 127.0.0.1:6379 over TCP, which is a service of the host itself.",
        ),
        (
            tcp("198.18.0.1", 443),
            Deny,
            ReasonCode::NameNotAnswered,
            "No rule can allow coder to reach 198.18.0.1:443 over TCP: this virtual address stands for no name that was answered.",
        ),
        (
            tcp("soon.example", 443),
            Deny,
            ReasonCode::NoRule,
            "No rule in force allows coder to reach soon.example:443 over TCP; rule soon would, and is in shadow mode.",
        ),
        (
            udp(tcp("time.example", 123)),
            Allow(Handling::Direct),
            ReasonCode::RuleAllow,
            "Rule clock allows coder to reach time.example:123 over UDP.",
        ),
    ] {
        let ruling = decide(&policy, "coder", &case);
        let context = format!("{}:{} {:?}", case.to, case.port, case.request);
        assert_eq!(ruling.outcome, outcome, "{context}");
        assert_eq!(ruling.reason.code, code, "{context}");
        assert!(ruling.enforced, "{context}");
        assert_eq!(ruling.reason.message, message, "{context}");
    }
}

#[test]
fn a_shadow_rule_denies_on_paper_and_grants_nothing() {
    let policy = policy(TEXT);
    let ruling = decide(&policy, "coder", &tcp("192.0.2.7", 22));
    assert_eq!(ruling.outcome, RulingOutcome::Allow(Handling::Direct));
    assert_eq!(ruling.verdict, Verdict::Deny);
    assert!(!ruling.enforced);
    assert_eq!(ruling.mode, Mode::Shadow);
    let rules: Vec<_> = ruling.matched.iter().map(|m| m.rule.as_str()).collect();
    assert_eq!(rules, ["try-out", "lab"]);
    assert_eq!(ruling.matched[0].source.file, "p.yaml");
    assert_eq!(ruling.matched[0].source.line, 27);
    // Where nothing allows it, the paper denial changes nothing.
    let ruling = decide(&policy, "coder", &tcp("192.0.2.7", 23));
    assert_eq!(ruling.outcome, RulingOutcome::Deny);
    assert!(ruling.enforced);
    assert_eq!(ruling.reason.code, ReasonCode::NoRule);
}

#[test]
fn observing_agents_are_refused_the_stated_list_only() {
    use RulingOutcome::{Allow, Deny};
    let policy = policy(TEXT);
    for (who, case, outcome, code) in [
        (
            "learner",
            tcp("other.example", 443),
            Allow(Handling::Direct),
            ReasonCode::NoRule,
        ),
        (
            "trial",
            tcp("other.example", 443),
            Allow(Handling::Splice),
            ReasonCode::NoRule,
        ),
        (
            "trial",
            tcp("203.0.113.9", 22),
            Allow(Handling::Direct),
            ReasonCode::NoRule,
        ),
        (
            "trial",
            tcp("192.0.2.66", 22),
            Allow(Handling::Direct),
            ReasonCode::RuleDeny,
        ),
        (
            "trial",
            http("plain.example", "GET", "/docs/secret/a"),
            Allow(Handling::Splice),
            ReasonCode::RuleDeny,
        ),
        (
            "trial",
            tcp("169.254.169.254", 80),
            Deny,
            ReasonCode::MetadataService,
        ),
        (
            "trial",
            tcp("127.0.0.1", 80),
            Deny,
            ReasonCode::LoopbackNotOwn,
        ),
        (
            "trial",
            Case {
                transport: Transport::Udp,
                ..tcp("other.example", 443)
            },
            Deny,
            ReasonCode::NoRule,
        ),
    ] {
        let ruling = decide(&policy, who, &case);
        let context = format!("{}:{} {:?}", case.to, case.port, case.request);
        assert_eq!(ruling.outcome, outcome, "{context}");
        assert_eq!(ruling.reason.code, code, "{context}");
        assert_eq!(ruling.verdict, Verdict::Deny, "{context}");
        assert_eq!(ruling.enforced, outcome == Deny, "{context}");
        assert_eq!(ruling.mode, agent(&policy, who).mode, "{context}");
    }
    let ruling = decide(&policy, "trial", &tcp("x.cdn.example", 443));
    assert_eq!(ruling.outcome, Allow(Handling::Splice));
    assert_eq!((ruling.verdict, ruling.enforced), (Verdict::Allow, false));
}

#[test]
fn an_address_behind_a_name_can_only_be_denied() {
    let policy = policy(TEXT);
    let name = host("x.cdn.example");
    let facts = |ip: &str, port| Facts {
        host: Some(&name),
        ip: Some(ip.parse().unwrap()),
        port,
        transport: Transport::Tcp,
        request: Seen::Never,
        circumstances: Circumstances::NOBODY,
    };
    let coder = agent(&policy, "coder");
    let decide = |ip, port| policy.decide(coder, &facts(ip, port)).reason.code;
    assert_eq!(decide("203.0.113.1", 443), ReasonCode::RuleAllow);
    assert_eq!(decide("192.0.2.66", 443), ReasonCode::RuleDeny);
    // Where only IPv6 is spoken, that is what a name leads to.
    assert_eq!(decide("64:ff9b::192.0.2.66", 443), ReasonCode::RuleDeny);
    assert_eq!(decide("2002:c000:242::1", 443), ReasonCode::RuleDeny);
    assert_eq!(decide("64:ff9b::192.0.2.67", 443), ReasonCode::RuleAllow);
    assert_eq!(decide("192.0.2.1", 22), ReasonCode::NoRule);
    assert_eq!(decide("169.254.169.254", 443), ReasonCode::MetadataService);
}

/// Whatever the address behind a name, and whether it is known yet: an expression sees none.
#[test]
fn an_expression_sees_bare_addresses_alone() {
    let policy = policy(
        "version: 1
agents: [{name: coder}]
rules:
  - {id: all, match: {host: [api.example], cidr: [192.0.2.0/24]}, action: allow}
  - {id: no-bare, match: {transport: [tcp]}, when: \"destination.ip != ''\", action: deny}
",
    );
    let name = host("api.example");
    for (host, ip, code) in [
        (Some(&name), None, ReasonCode::RuleAllow),
        (Some(&name), Some("192.0.2.1"), ReasonCode::RuleAllow),
        (None, Some("192.0.2.1"), ReasonCode::RuleDeny),
    ] {
        let facts = Facts {
            host,
            ip: ip.map(|ip| ip.parse().unwrap()),
            port: 443,
            transport: Transport::Tcp,
            request: Seen::Never,
            circumstances: Circumstances::NOBODY,
        };
        let ruling = policy.decide(agent(&policy, "coder"), &facts);
        assert_eq!(ruling.reason.code, code, "{facts:?}");
    }
}

#[test]
fn a_rule_can_be_about_what_is_spoken() {
    use ReasonCode::{NeedsInspection, NoRule, RuleAllow, RuleDeny};
    let policy = policy(
        "version: 1
agents: [{name: coder}]
rules:
  - {id: tls, match: {host: [tls.example], protocol: [tls]}, action: allow}
  - {id: ssh, match: {host: [ssh.example], protocol: [other]}, action: allow}
  - {id: web, match: {host: [web.example], port: [443]}, action: allow, handling: inspect}
  - {id: no-sockets, match: {host: [web.example], protocol: [websocket]}, action: deny}
  - {id: any, match: {host: [any.example]}, action: allow}
  - {id: readable, match: {host: [any.example], protocol: [tls, other]}, action: deny}
",
    );
    let plain = Seen::Request(Request::new("GET", "/"));
    let socket = Seen::Request(Request {
        websocket: true,
        ..Request::new("GET", "/")
    });
    for (to, seen, code) in [
        ("tls.example", Seen::NotYet, NeedsInspection),
        ("tls.example", Seen::Tls, RuleAllow),
        ("tls.example", Seen::Never, NoRule),
        ("tls.example", plain, NoRule),
        ("ssh.example", Seen::Never, RuleAllow),
        ("ssh.example", Seen::Tls, NoRule),
        ("ssh.example", plain, NoRule),
        ("web.example", plain, RuleAllow),
        ("web.example", socket, RuleDeny),
        // There may be one in it.
        ("web.example", Seen::Tls, NeedsInspection),
        ("any.example", plain, RuleAllow),
        ("any.example", socket, RuleAllow),
        ("any.example", Seen::Tls, RuleDeny),
        ("any.example", Seen::Never, RuleDeny),
    ] {
        let case = Case {
            request: seen,
            ..tcp(to, 443)
        };
        let ruling = decide(&policy, "coder", &case);
        assert_eq!(ruling.reason.code, code, "{to} {seen:?}: {ruling:?}");
    }
    let coder = agent(&policy, "coder");
    let name = host("tls.example");
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port: 443,
        transport: Transport::Tcp,
        request: Seen::Never,
        circumstances: Circumstances::NOBODY,
    };
    let considered = policy.explain(coder, &facts);
    let near = considered.iter().find(|it| it.rule == "tls").unwrap();
    let failed = Consideration::Failed(vec![Condition::Protocol]);
    assert_eq!(near.verdict, failed);
}

#[test]
fn a_bare_address_inside_of_ipv6_is_denied_and_not_allowed_by_ipv4() {
    let policy = policy(
        "version: 1
agents: [{name: coder}]
rules:
  - {id: all, match: {cidr: [\"::/0\"]}, action: allow, handling: direct}
  - {id: lab, match: {cidr: [192.0.2.0/24]}, action: allow, handling: direct}
  - {id: private, match: {cidr: [10.0.0.0/8]}, action: deny}
",
    );
    for (to, by) in [
        ("64:ff9b::10.1.2.3", "private"),
        ("2002:a01:203::7", "private"),
        ("64:ff9b::192.0.2.1", "all"),
        ("2001:db8::a01:203", "all"),
        ("192.0.2.1", "lab"),
    ] {
        let ruling = decide(&policy, "coder", &tcp(to, 443));
        assert_eq!(ruling.matched[0].rule, by, "{to}");
    }
}

#[test]
fn names() {
    let policy = policy(TEXT);
    let coder = agent(&policy, "coder");
    for (name, allowed, code, message) in [
        (
            "api.example",
            true,
            ReasonCode::RuleAllow,
            "Rule api allows coder to resolve api.example.",
        ),
        (
            "plain.example",
            true,
            ReasonCode::RuleAllow,
            "Rule read allows coder to resolve plain.example.",
        ),
        (
            "cdn.example",
            false,
            ReasonCode::NoRule,
            "No rule allows coder to resolve cdn.example.",
        ),
        (
            "soon.example",
            false,
            ReasonCode::NoRule,
            "No rule in force allows coder to resolve soon.example; rule soon would, and is in shadow mode.",
        ),
    ] {
        let ruling = policy.decide_name(coder, &host(name));
        assert_eq!(ruling.allowed, allowed, "{name}");
        assert_eq!(ruling.verdict == Verdict::Allow, allowed, "{name}");
        assert_eq!(ruling.reason.code, code, "{name}");
        assert_eq!(ruling.reason.message, message, "{name}");
        assert!(ruling.enforced, "{name}");
    }
    let ruling = policy.decide_name(coder, &host("api.example"));
    assert_eq!(ruling.addresses, Addresses::Real);
    assert_eq!(ruling.ranges, ["10.0.0.0/8".parse().unwrap()]);
    let ruling = policy.decide_name(agent(&policy, "learner"), &host("other.example"));
    assert!(ruling.allowed && !ruling.enforced && ruling.ranges.is_empty());
    assert_eq!(ruling.verdict, Verdict::Deny);
}

#[test]
fn a_near_miss_is_explained_by_the_condition_that_failed() {
    let policy = policy(TEXT);
    let name = host("plain.example");
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port: 80,
        transport: Transport::Tcp,
        request: Seen::Request(Request::new("POST", "/docs/a")),
        circumstances: Circumstances::NOBODY,
    };
    let considered = policy.explain(agent(&policy, "coder"), &facts);
    assert_eq!(considered.len(), 8);
    assert_eq!(considered[0].rule, "read");
    assert_eq!(
        considered[0].verdict,
        Consideration::Failed(vec![Condition::Method])
    );
    assert_eq!(considered[0].source.line, 13);
}

#[test]
fn the_version_is_that_of_the_documents() {
    assert_eq!(policy(TEXT).version().len(), 12);
    assert_ne!(
        policy(TEXT).version(),
        policy(&format!("{TEXT}# changed\n")).version()
    );
}

#[test]
fn the_schema_knows_every_key() {
    let schema = schema();
    let rule = &schema["$defs"]["Rule"];
    assert_eq!(rule["additionalProperties"], false);
    for key in [
        "id",
        "agents",
        "labels",
        "match",
        "action",
        "handling",
        "resolved_ranges",
    ] {
        assert!(!rule["properties"][key].is_null(), "{key}");
    }
    assert_eq!(rule["required"], serde_json::json!(["id", "action"]));
    assert!(!schema["$defs"]["Match"]["properties"]["cidr"].is_null());
}

#[test]
fn ten_thousand_rules_do_not_slow_what_they_cannot_match() {
    // Not a timing: the rules that are looked at are counted.
    let mut text = "version: 1\nagents: [{name: coder}]\nrules:\n".to_owned();
    for n in 0..9_999 {
        text.push_str(&format!(
            "- {{id: r{n}, match: {{host: [h{n}.example]}}, action: allow}}\n"
        ));
    }
    text.push_str("- {id: last, match: {cidr: [192.0.2.0/24], port: [22]}, action: deny}\n");
    let policy = policy(&text);
    let coder = agent(&policy, "coder");
    let looked_at = |name: &str, ip: Option<&str>, port| {
        let mut count = 0;
        let name = host(name);
        let ip = ip.map(|ip| ip.parse().unwrap());
        policy.each(coder, Some(&name), ip, Some(port), |_, _| count += 1);
        count
    };
    assert_eq!(looked_at("nothing.example", None, 443), 0);
    assert_eq!(looked_at("h77.example", None, 443), 1);
    assert_eq!(looked_at("h77.example", Some("192.0.2.1"), 443), 1);
    assert_eq!(looked_at("h77.example", Some("192.0.2.1"), 22), 2);
}

#[test]
fn an_encoded_slash_is_allowed_in_both_readings_and_denied_in_either() {
    let policy = policy(
        "version: 1\nagents: [{name: coder}]\nrules:\n\
         - {id: all, match: {host: [a.example], path: ['/open/**', '/repos/*']}, action: allow}\n\
         - {id: not, match: {host: [a.example], path: ['/open/admin/**']}, action: deny}\n",
    );
    let name = host("a.example");
    for (path, allowed) in [
        ("/open/x", true),
        ("/open/@scope%2Fname", true),
        ("/open/admin/x", false),
        ("/open/admin%2Fx", false),
        ("/repos/a", true),
        ("/repos/a%2Fb", false),
        ("/open%2Fx", false),
    ] {
        let facts = Facts {
            host: Some(&name),
            ip: None,
            port: 80,
            transport: Transport::Tcp,
            request: Seen::Request(Request::new("GET", path)),
            circumstances: Circumstances::NOBODY,
        };
        let ruling = policy.decide(agent(&policy, "coder"), &facts);
        assert_eq!(
            matches!(ruling.outcome, RulingOutcome::Allow(_)),
            allowed,
            "{path}"
        );
    }
}

#[test]
fn escapes_and_slashes_are_no_way_past_a_denial() {
    let policy = policy(
        "version: 1
agents: [{name: coder}]
rules:
  - {id: ok, match: {host: [x.example]}, action: allow}
  - {id: no, match: {host: [x.example], path: [\"/v1/users:delete\", \"/@admin/**\", \"/secret/**\", \"/api/v1/**/exec\", \"/a[0-9]*\"]}, action: deny}
  - {id: few, match: {host: [y.example], path: [\"/public/**\"]}, action: allow}
",
    );
    let name = |host: &str| host.parse().unwrap();
    let allowed = |host: &str, path: &str| {
        let host = name(host);
        let facts = Facts {
            host: Some(&host),
            ip: None,
            port: 80,
            transport: Transport::Tcp,
            request: Seen::Request(Request::new("GET", path)),
            circumstances: Circumstances::NOBODY,
        };
        policy.decide(agent(&policy, "coder"), &facts).verdict == Verdict::Allow
    };
    for path in [
        "/v1/users:delete",
        "/v1/users%3Adelete",
        "/%40admin/x",
        "/secret/a",
        "/%2Fsecret",
        "/%2Fsecret%2Fa",
        "/api%2F%2Fv1/p/exec",
        "/api/%2Fv1/p/exec",
        "/a%5B0-9]x",
    ] {
        assert!(!allowed("x.example", path), "{path}");
    }
    // An escaped escape is none.
    for path in [
        "/v1/users%253Adelete",
        "/%2540admin/x",
        "/b%20c",
        "/secrets",
    ] {
        assert!(allowed("x.example", path), "{path}");
    }
    // And no way to an allowance.
    for (path, expected) in [
        ("/public/a%20b", true),
        ("/%70ublic/a", false),
        ("/public%2Fa", false),
        ("/x%2F%2Fpublic/a", false),
    ] {
        assert_eq!(allowed("y.example", path), expected, "{path}");
    }
}

/// What is closed opens the rule that names it, not every rule for the name.
#[test]
fn a_range_is_opened_by_the_rule_that_names_it() {
    let rules = r#"
version: 1
agents: [{name: coder}, {name: learner, mode: observe}]
switches: {maintenance: false}
rules:
  - id: web
    match: {host: ["*.x.example"], port: [443, 8443]}
    action: allow
  - id: internal
    match: {host: [a.x.example], port: [8443]}
    when: switches.maintenance
    action: allow
    resolved_ranges: [10.0.0.0/8]
  - id: page
    match: {host: [p.x.example], port: [443], path: [/in]}
    action: allow
    resolved_ranges: [10.0.0.0/8]
"#;
    let policy = policy(rules);
    let mut on = Switches::default();
    on.set("maintenance", true);
    let told = |name: &str, ip: &str, port, request, on: Option<&_>, by: &str| {
        let name = host(name);
        let circumstances = Circumstances::NOBODY;
        let circumstances = match on {
            Some(switches) => Circumstances {
                switches,
                ..circumstances
            },
            None => circumstances,
        };
        let facts = Facts {
            host: Some(&name),
            ip: Some(ip.parse().unwrap()),
            port,
            transport: Transport::Tcp,
            request,
            circumstances,
        };
        let ruling = policy.decide(agent(&policy, by), &facts);
        (ruling.outcome, ruling.reason.code, ruling.reason.message)
    };
    let deny = RulingOutcome::Deny;
    let (not_yet, public, private) = (Seen::NotYet, "192.0.2.1", "10.1.2.3");
    let splice = RulingOutcome::Allow(Handling::Splice);
    for (name, ip, port, request, switch, by, outcome, code) in [
        (
            "a.x.example",
            public,
            443,
            not_yet,
            false,
            "coder",
            splice,
            ReasonCode::RuleAllow,
        ),
        (
            "a.x.example",
            private,
            443,
            not_yet,
            true,
            "coder",
            deny,
            ReasonCode::Rebinding,
        ),
        (
            "a.x.example",
            private,
            8443,
            not_yet,
            false,
            "coder",
            deny,
            ReasonCode::Rebinding,
        ),
        (
            "a.x.example",
            private,
            8443,
            not_yet,
            true,
            "coder",
            splice,
            ReasonCode::RuleAllow,
        ),
        (
            "b.x.example",
            private,
            8443,
            not_yet,
            true,
            "coder",
            deny,
            ReasonCode::Rebinding,
        ),
        (
            "a.x.example",
            "64:ff9b::a01:203",
            8443,
            not_yet,
            true,
            "coder",
            splice,
            ReasonCode::RuleAllow,
        ),
        (
            "a.x.example",
            "169.254.42.42",
            8443,
            not_yet,
            true,
            "coder",
            deny,
            ReasonCode::MetadataService,
        ),
        (
            "y.example",
            private,
            443,
            not_yet,
            true,
            "coder",
            deny,
            ReasonCode::NoRule,
        ),
        (
            "p.x.example",
            private,
            443,
            Seen::Request(Request::new("GET", "/in")),
            false,
            "coder",
            splice,
            ReasonCode::RuleAllow,
        ),
        (
            "p.x.example",
            private,
            443,
            Seen::Request(Request::new("GET", "/out")),
            false,
            "coder",
            deny,
            ReasonCode::Rebinding,
        ),
        (
            "a.x.example",
            private,
            443,
            not_yet,
            false,
            "learner",
            splice,
            ReasonCode::Rebinding,
        ),
    ] {
        let on = switch.then_some(&on);
        let got = told(name, ip, port, request, on, by);
        assert_eq!(
            (got.0, got.1),
            (outcome, code),
            "{name} {ip} {port} {switch} {by}: {}",
            got.2
        );
    }
    let (_, _, message) = told("a.x.example", private, 443, not_yet, None, "coder");
    assert_eq!(
        message,
        "No rule allows coder to reach a.x.example:443 over TCP at 10.1.2.3, a private address: rule web does not list it in `resolved_ranges`."
    );
    assert!(policy.looks_at_addresses(agent(&policy, "coder")));
}
