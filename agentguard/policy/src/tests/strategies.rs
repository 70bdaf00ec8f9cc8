//! Which of several rules decides, strategy by strategy.

use agentguard_model::{Transport, Verdict};

use super::{agent, host, policy};
use crate::{
    Circumstances, Condition, Consideration, Facts, Policy, Request, Ruling, RulingOutcome, Seen,
};

const AGENTS: &str = "agents: [{name: coder, labels: {team: web}}]";

fn with(strategy: &str, rules: &str) -> Policy {
    policy(&format!(
        "version: 1\nstrategy: {strategy}\n{AGENTS}\nrules:\n{rules}"
    ))
}

fn decide(policy: &Policy, name: &str, port: u16, request: Seen<'_>) -> Ruling {
    let name = host(name);
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port,
        transport: Transport::Tcp,
        request,
        circumstances: Circumstances::NOBODY,
    };
    policy.decide(agent(policy, "coder"), &facts)
}

/// Who decides on a request, and how.
fn decided(policy: &Policy, name: &str, port: u16, method: &str, path: &str) -> (String, Verdict) {
    let ruling = decide(
        policy,
        name,
        port,
        Seen::Request(Request::new(method, path)),
    );
    let rule = ruling.matched.first().map_or("-", |it| it.rule.as_str());
    (rule.to_owned(), ruling.verdict)
}

#[track_caller]
fn is(policy: &Policy, name: &str, port: u16, method: &str, path: &str, rule: &str, allows: bool) {
    let verdict = if allows {
        Verdict::Allow
    } else {
        Verdict::Deny
    };
    let expected = (rule.to_owned(), verdict);
    assert_eq!(decided(policy, name, port, method, path), expected);
}

const FIRST_MATCH: &str = r#"
  - {id: usual, match: {host: ["*.example.org"]}, action: allow}
  - {id: no-uploads, match: {host: ["*.example.org"], method: [PUT]}, action: deny}
  - id: but-here
    priority: 10
    match: {host: [up.example.org], method: [PUT]}
    action: allow
  - {id: never, priority: 20, match: {host: [closed.example.org]}, action: deny}
  - {id: last, priority: -1, match: {host: [up.example.org]}, action: deny}
"#;

#[test]
fn the_first_by_priority_and_place_decides() {
    let policy = with("priority_first_match", FIRST_MATCH);
    is(&policy, "a.example.org", 443, "GET", "/", "usual", true);
    // What stands first decides; elsewhere a denial would.
    is(&policy, "a.example.org", 443, "PUT", "/", "usual", true);
    is(&policy, "up.example.org", 443, "PUT", "/", "but-here", true);
    is(&policy, "up.example.org", 443, "GET", "/", "usual", true);
    is(
        &policy,
        "closed.example.org",
        443,
        "PUT",
        "/",
        "never",
        false,
    );
    let overrides = with(
        "deny_overrides",
        &FIRST_MATCH
            .replace("    priority: 10\n", "")
            .replace(" priority: 20,", "")
            .replace(" priority: -1,", ""),
    );
    is(
        &overrides,
        "a.example.org",
        443,
        "PUT",
        "/",
        "no-uploads",
        false,
    );
    is(
        &overrides,
        "up.example.org",
        443,
        "PUT",
        "/",
        "no-uploads",
        false,
    );
}

const SPECIFIC: &str = r#"
  - {id: all, match: {}, action: deny}
  - {id: domain, match: {host: ["*.example.org"]}, action: allow}
  - {id: subdomain, match: {host: ["*.lab.example.org"]}, action: deny}
  - {id: one, match: {host: [x.lab.example.org]}, action: allow}
  - {id: one-for-us, agents: [coder], match: {host: [y.lab.example.org]}, action: allow}
  - {id: one-for-a-team, labels: {team: web}, match: {host: [y.lab.example.org]}, action: deny}
  - {id: part, match: {host: [x.lab.example.org], path: ["/private/**"]}, action: deny}
  - {id: page, match: {host: [x.lab.example.org], path: [/private/open]}, action: allow}
  - {id: port, match: {host: [x.lab.example.org], port: [22]}, action: deny}
  - {id: ports, match: {host: [x.lab.example.org], port: [20-30]}, action: allow}
  - {id: tie-allow, match: {host: [t.example.org], port: [1]}, action: allow}
  - {id: tie-deny, match: {host: [t.example.org], port: [1]}, action: deny}
"#;

#[test]
fn the_most_specific_decides() {
    let policy = with("most_specific_wins", SPECIFIC);
    is(&policy, "b.org", 80, "GET", "/", "all", false);
    is(&policy, "a.example.org", 80, "GET", "/", "domain", true);
    is(
        &policy,
        "a.lab.example.org",
        80,
        "GET",
        "/",
        "subdomain",
        false,
    );
    is(&policy, "x.lab.example.org", 80, "GET", "/", "one", true);
    // Who is named comes before who has labels.
    is(
        &policy,
        "y.lab.example.org",
        80,
        "GET",
        "/",
        "one-for-us",
        true,
    );
    is(
        &policy,
        "x.lab.example.org",
        80,
        "GET",
        "/private/a",
        "part",
        false,
    );
    is(
        &policy,
        "x.lab.example.org",
        80,
        "GET",
        "/private/open",
        "page",
        true,
    );
    is(&policy, "x.lab.example.org", 22, "GET", "/", "port", false);
    is(&policy, "x.lab.example.org", 23, "GET", "/", "ports", true);
    is(&policy, "t.example.org", 1, "GET", "/", "tie-deny", false);
}

#[test]
fn what_is_behind_a_name_is_more_exact_than_the_name() {
    for allowance in [
        "match: {host: [x.example], port: [443]}",
        "agents: [coder], match: {host: [x.example], method: [GET], path: [/a]}",
    ] {
        for range in ["198.51.100.7/32", "198.51.0.0/16", "0.0.0.0/0"] {
            let policy = with(
                "most_specific_wins",
                &format!(
                    "  - {{id: d, match: {{cidr: [\"{range}\"]}}, action: deny}}\n  - {{id: a, {allowance}, action: allow}}\n"
                ),
            );
            let name = host("x.example");
            let facts = Facts {
                host: Some(&name),
                ip: Some("198.51.100.7".parse().unwrap()),
                port: 443,
                transport: Transport::Tcp,
                request: Seen::Request(Request::new("GET", "/a")),
                circumstances: Circumstances::NOBODY,
            };
            let ruling = policy.decide(agent(&policy, "coder"), &facts);
            assert_eq!(ruling.outcome, RulingOutcome::Deny, "{allowance} {range}");
        }
    }
}

#[test]
fn what_always_holds_makes_nothing_more_specific() {
    let text = |conditions: &str| {
        format!(
            "  - {{id: al, match: {{host: [x.example], transport: [tcp]{conditions}}}, action: allow}}\n  - {{id: de, match: {{host: [x.example], transport: [tcp]}}, action: deny}}\n"
        )
    };
    for conditions in ["", ", time: {days: [mon-sun]}", ", user: [\"*\"]"] {
        let policy = with("most_specific_wins", &text(conditions));
        is(&policy, "x.example", 80, "GET", "/", "de", false);
    }
    let when = text("").replace(
        "action: allow",
        "when: agent.name == 'coder', action: allow",
    );
    let policy = with("most_specific_wins", &when);
    is(&policy, "x.example", 80, "GET", "/", "de", false);
}

#[test]
fn a_request_that_may_still_come_is_waited_for() {
    let policy = with(
        "priority_first_match",
        "
  - {id: reads, match: {host: [a.example], method: [GET]}, action: allow}
  - {id: rest, match: {host: [a.example]}, action: deny}
  - {id: none, match: {host: [b.example]}, action: deny}
  - {id: too-late, match: {host: [b.example], method: [GET]}, action: allow}
",
    );
    let outcome = |name, seen| decide(&policy, name, 80, seen).outcome;
    assert_eq!(outcome("a.example", Seen::NotYet), RulingOutcome::Undecided);
    // Nothing will be seen of it, so that nothing is above the denial.
    assert_eq!(outcome("a.example", Seen::Never), RulingOutcome::Deny);
    is(&policy, "a.example", 80, "GET", "/", "reads", true);
    is(&policy, "a.example", 80, "PUT", "/", "rest", false);
    assert_eq!(outcome("b.example", Seen::NotYet), RulingOutcome::Deny);
}

#[test]
fn the_explanation_names_who_is_overruled() {
    let policy = with("most_specific_wins", SPECIFIC);
    let name = host("a.lab.example.org");
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port: 80,
        transport: Transport::Tcp,
        request: Seen::NotYet,
        circumstances: Circumstances::NOBODY,
    };
    let considered = policy.explain(agent(&policy, "coder"), &facts);
    let became = |id| considered.iter().find(|it| it.rule == id).unwrap();
    assert_eq!(became("subdomain").verdict, Consideration::Matched);
    assert_eq!(became("domain").verdict, Consideration::Overruled);
    assert_eq!(became("all").verdict, Consideration::Overruled);
    let Consideration::Failed(conditions) = &became("one").verdict else {
        panic!("{considered:?}");
    };
    assert_eq!(conditions, &[Condition::Destination]);
}

#[test]
fn what_is_on_paper_counts_by_its_rank_too() {
    let policy = with(
        "priority_first_match",
        "
  - {id: trial, mode: shadow, match: {host: [a.example]}, action: deny}
  - {id: usual, match: {host: [a.example, b.example]}, action: allow}
  - {id: too-late, mode: shadow, match: {host: [b.example]}, action: deny}
",
    );
    let a = decide(&policy, "a.example", 80, Seen::NotYet);
    assert!(matches!(a.outcome, RulingOutcome::Allow(_)));
    assert_eq!((a.verdict, a.enforced), (Verdict::Deny, false));
    let b = decide(&policy, "b.example", 80, Seen::NotYet);
    assert_eq!((b.verdict, b.enforced), (Verdict::Allow, true));
}
