//! What the expressions of a decision may cost: counted, so that no clock is asked here either.

use std::fmt::Write as _;

use agentguard_model::{Llm, ReasonCode, Transport, Verdict};

use super::{agent, host, llm_call, policy};
use crate::{Circumstances, Facts, Policy, Query, Request, Ruling, Seen};

/// A site that is open, and rules that deny some of it, each with what it says beside.
fn denials<'a>(rules: impl IntoIterator<Item = (&'a str, String)>) -> Policy {
    let mut text = "version: 1\nagents: [{name: coder}]\nrules:\n- {id: site, match: {host: [a.example]}, action: allow}\n"
        .to_owned();
    for (n, (keys, when)) in rules.into_iter().enumerate() {
        let matches = "{host: [a.example], transport: [tcp]}";
        writeln!(
            text,
            "- id: r{n}\n  match: {matches}\n  action: deny{keys}\n  when: >-\n    {when}"
        )
        .unwrap();
    }
    policy(&text)
}

fn decide(policy: &Policy, request: Request<'_>) -> Ruling {
    let name = host("a.example");
    let facts = Facts {
        host: Some(&name),
        ip: None,
        port: 80,
        transport: Transport::Tcp,
        request: Seen::Request(request),
        circumstances: Circumstances::NOBODY,
    };
    policy.decide(agent(policy, "coder"), &facts)
}

/// It is denied, since it takes too much, for a reason with these words.
#[track_caller]
fn too_much(policy: &Policy, request: Request<'_>, words: &[&str]) {
    let ruling = decide(policy, request);
    let message = &ruling.reason.message;
    assert_eq!(ruling.reason.code, ReasonCode::EngineError, "{message}");
    assert_eq!(ruling.verdict, Verdict::Deny);
    let steps = "takes more than is left of the 1000000 steps that the patterns and expressions of a decision have";
    for words in words.iter().chain([&steps]) {
        assert!(message.contains(words), "{message}");
    }
}

fn letters(count: usize) -> String {
    format!("/{}", "abcd".repeat(count.div_ceil(4)))
}

#[test]
fn a_pattern_over_a_long_text_is_too_much() {
    // As many places as were found to stall others are not loaded at all: see the expressions' own tests.
    let pattern = "[ab][ -~]{50}[cd][ -~]{50}[ab]000";
    let policy = denials([("", format!("request.path.matches('{pattern}')"))]);
    let (short, long) = (letters(1_000), letters(30_000));
    assert_eq!(
        decide(&policy, Request::new("GET", &short)).verdict,
        Verdict::Allow
    );
    let words = [pattern, "on a text of 30001 bytes", "Rule r0"];
    too_much(&policy, Request::new("GET", &long), &words);
}

#[test]
fn the_steps_are_those_of_the_whole_decision() {
    let rule = |n| ("", format!("request.path.matches('[ab].{{20}}c0{n}')"));
    let path = letters(4_000);
    let request = Request::new("GET", &path);
    assert_eq!(
        decide(&denials((0..5).map(rule)), request).verdict,
        Verdict::Allow
    );
    let words = ["the pattern `[ab].{20}c0", "4001 bytes"];
    too_much(&denials((0..500).map(rule)), request, &words);
}

#[test]
fn what_is_on_paper_takes_nothing_from_what_is_in_force() {
    let heavy = || "request.path.matches('[ab].{20}c0')".to_owned();
    let light = || "request.path.startsWith('/abcd')".to_owned();
    let path = letters(30_000);
    let policy = denials([("\n  mode: shadow", heavy()), ("", light())]);
    let ruling = decide(&policy, Request::new("GET", &path));
    assert_eq!(ruling.reason.code, ReasonCode::RuleDeny);
    assert_eq!(ruling.matched[0].rule, "r1");
}

#[test]
fn texts_lists_and_maps_count_too() {
    let long = letters(60_000);
    let escaped = format!("/{}", "%2Fa".repeat(15_000));
    let query = Query::new(format!("a={}", "b".repeat(60_000)));
    let query = Request {
        query: Some(&query),
        ..Request::new("GET", "/")
    };
    let llm = Llm {
        tools: (0..1024).map(|n| format!("tool-{n}")).collect(),
        ..llm_call("openai", None)
    };
    let call = Request {
        llm: Some(&llm),
        ..Request::new("POST", "/v1/chat/completions")
    };
    let paths = vec!["request.path"; 30];
    for (rules, when, request, words) in [
        (
            500,
            "request.path.contains('/no/')".to_owned(),
            Request::new("GET", &long),
            "60001 bytes",
        ),
        (
            500,
            "request.path in ['/no', '/never']".to_owned(),
            Request::new("GET", &long),
            "60001 bytes",
        ),
        (
            500,
            format!("{} == 'no'", paths.join(" + ")),
            Request::new("GET", &long),
            "60001 bytes",
        ),
        (
            1,
            format!(
                "[{}].exists(p, p.contains('x') || p.contains('y') || p.contains('z') || p == 'no')",
                paths.join(", ")
            ),
            Request::new("GET", &long),
            "60001 bytes",
        ),
        (
            500,
            "request.path.startsWith('/no/')".to_owned(),
            Request::new("GET", &escaped),
            "60001 bytes",
        ),
        (
            500,
            "request.query.a == 'no'".to_owned(),
            query,
            "60000 bytes",
        ),
        (
            500,
            "llm.tools.exists(t, t == 'no')".to_owned(),
            call,
            " parts, each as often as it is evaluated,",
        ),
    ] {
        let policy = denials((0..rules).map(|_| ("", when.clone())));
        too_much(&policy, request, &[words]);
    }
}

#[test]
fn ordinary_expressions_take_few_steps() {
    let path = "/v1/projects/agentguard/issues/4711/comments";
    let query = Query::new("state=open&labels=bug&page=2");
    let escaped = "/v1/projects/%40scope%2Fname/issues";
    for when in [
        "request.method == 'PUT' && request.path.startsWith('/v1/admin/')",
        "request.path.matches('^/v[0-9]+/users/[^/]+/(keys|tokens)(/.*)?$')",
        "request.path.matches('(secret|password|token)') && !(request.method in ['GET', 'HEAD'])",
        "'state' in request.query && request.query.state == 'closed'",
        "['/a/', '/b/', '/c/'].exists(p, request.path.startsWith(p)) || time.hour > 20",
        "llm.tools.exists(t, t.startsWith('shell'))",
    ] {
        // As many as there may be patterns, all of one destination.
        let policy = denials((0..500).map(|_| ("", when.to_owned())));
        for path in [path, escaped] {
            let request = Request {
                query: Some(&query),
                ..Request::new("GET", path)
            };
            let ruling = decide(&policy, request);
            assert_eq!(
                ruling.verdict,
                Verdict::Allow,
                "{when}: {}",
                ruling.reason.message
            );
        }
    }
}

/// A site that is open, and as many denials of such requests.
fn denied_requests(count: usize, says: impl Fn(usize) -> String) -> Policy {
    let mut text = "version: 1\nagents: [{name: coder}]\nrules:\n- {id: site, match: {host: [a.example]}, action: allow}\n"
        .to_owned();
    for n in 0..count {
        let says = says(n);
        writeln!(
            text,
            "- {{id: r{n}, match: {{host: [a.example], {says}}}, action: deny}}"
        )
        .unwrap();
    }
    policy(&text)
}

#[test]
fn the_patterns_of_requests_count_too() {
    let segments = "/a".repeat(15_000);
    let stars = letters(10_000);
    let query = Query::new(format!("q={}", "ab".repeat(10_000)));
    let with_query = Request {
        query: Some(&query),
        ..Request::new("GET", "/")
    };
    let value = http::HeaderValue::from_str(&"ab".repeat(10_000)).unwrap();
    let fields = http::HeaderMap::from_iter([(http::header::ACCEPT, value)]);
    let with_fields = Request {
        fields: Some(&fields),
        ..Request::new("GET", "/")
    };
    let (path, star) = ("path: ['/**/zN/**']", "path: ['/*a*b*c*zN*']");
    let (parameter, field) = ("query: {q: ['*zN*']}", "header: {accept: ['*zN*']}");
    for (says, request, words) in [
        (path, Request::new("GET", &segments), "`/**/z"),
        (star, Request::new("GET", &stars), "`/*a*b*c*z"),
        (parameter, with_query, "on a text of 20000 bytes"),
        (field, with_fields, "on a text of 20000 bytes"),
    ] {
        let rules = |count| denied_requests(count, |n| says.replace('N', &n.to_string()));
        let few = decide(&rules(3), request);
        assert_eq!(
            few.verdict,
            Verdict::Allow,
            "{says}: {}",
            few.reason.message
        );
        too_much(&rules(1_000), request, &[words]);
    }
    // What is at the end of a path or nowhere takes next to nothing.
    let ends = denied_requests(1_000, |n| format!("path: ['/**/z{n}']"));
    let escaped = format!("/{}", "%3A/".repeat(15_000));
    for path in [&segments, &escaped] {
        let ruling = decide(&ends, Request::new("GET", path));
        assert_eq!(ruling.verdict, Verdict::Allow, "{}", ruling.reason.message);
    }
}

/// Where it is not known whether an allowance matches, it does not.
#[test]
fn an_allowance_whose_patterns_are_too_much_allows_nothing() {
    let nearly = format!("/*{}e/**", "abcd".repeat(30));
    let policy = policy(&format!(
        "version: 1\nagents: [{{name: coder}}]\nrules:\n- {{id: site, match: {{host: [a.example], path: ['{nearly}']}}, action: allow}}\n",
    ));
    let long = letters(60_000);
    too_much(
        &policy,
        Request::new("GET", &long),
        &["Rule site", "on a text of 60000 bytes"],
    );
    let ruling = decide(&policy, Request::new("GET", &letters(400)));
    assert_eq!(ruling.reason.code, ReasonCode::NoRule);
}

#[test]
fn ordinary_patterns_take_few_steps() {
    let path = "/v1/projects/agentguard/issues/4711/comments";
    let query = Query::new("state=open&labels=bug&page=2");
    let request = Request {
        query: Some(&query),
        ..Request::new("GET", path)
    };
    for says in [
        "path: ['/v1/projects/*/secrets/N']",
        "path: ['/**/secrets/**', '/**/N-secret/**']",
        "path: ['/v1/*-N/**/comments']",
        "query: {labels: ['*security-N*']}",
    ] {
        let policy = denied_requests(1_000, |n| says.replace('N', &n.to_string()));
        let ruling = decide(&policy, request);
        assert_eq!(
            ruling.verdict,
            Verdict::Allow,
            "{says}: {}",
            ruling.reason.message
        );
    }
}

/// What a rule that decides takes is not taken from it by those that it stands above.
#[test]
fn rules_of_a_lower_rank_take_no_steps_from_the_first() {
    let mut text =
        "version: 1\nstrategy: priority_first_match\nagents: [{name: coder}]\nrules:\n".to_owned();
    for n in 0..400 {
        writeln!(
            text,
            "- {{id: r{n}, match: {{host: [a.example], transport: [tcp]}}, action: deny, when: \"request.path.matches('[ab].{{20}}c')\"}}"
        )
        .unwrap();
    }
    text.push_str("- {id: first, priority: 9, match: {host: [a.example]}, action: allow, when: \"request.path.matches('^/x')\"}\n");
    let policy = policy(&text);
    let long = format!("/x{}", "a".repeat(4_000));
    for path in ["/x", &long] {
        let ruling = decide(&policy, Request::new("GET", path));
        assert_eq!(ruling.verdict, Verdict::Allow, "{}", ruling.reason.message);
    }
    // Below it the steps are used up, which denies.
    let other = long.replace("/x", "/y");
    let ruling = decide(&policy, Request::new("GET", &other));
    assert_eq!(ruling.reason.code, ReasonCode::EngineError);
}
