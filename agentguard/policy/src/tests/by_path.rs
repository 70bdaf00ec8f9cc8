//! The rules of one destination by what paths begin with: what is passed over makes no difference.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::LazyLock;

use agentguard_model::{HostName, ReasonCode, Transport, Verdict};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::random::{MODES, STRATEGIES, circumstances};
use super::{agent, host, policy};
use crate::index::Asked;
use crate::request::{Assumed, Unknown};
use crate::{Circumstances, Facts, Policy, Query, Request, Seen};

/// Segments of patterns. A policy's text has to have them in canonical form.
const PATTERNS: [&str; 16] = [
    "a", "a", "b", "A", "ab", "*", "**", "a*", "*b", "a%2Fb", "%3A", "%2F", "%252F", "%FF", LONG,
    LONGER,
];
/// What a segment of a request is written as, whoever sends it.
const SENT: [&str; 30] = [
    "a", "a", "a", "b", "b", "A", "ab", "", ".", "..", "%2e", "%2E%2e", "%2F", "%2f", "a%2Fb",
    "a%2F", "%2Fa", "%2F%2F", "%3A", ":", "%61", "%41", "%252F", "%25", "%FF", "\u{fffd}",
    "%C3%A9", "?a=b", "%2", LONG,
];
/// As long as one that is looked at may be, and one byte longer.
const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const LONGER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// What a path has in the place of its first `/`.
const FIRST: [&str; 10] = ["/", "/", "/", "/", "/", "//", "%2F", "/%2F", "", "*"];

/// A path as a rule has it.
fn pattern() -> impl Strategy<Value = String> {
    // Some begin alike, and go deeper than is looked at.
    let before = prop_oneof![4 => Just(0usize), 1 => 6usize..10];
    let segments = prop::collection::vec(select(&PATTERNS[..]), 1..4);
    (before, segments, prop::bool::weighted(0.2)).prop_map(|(before, segments, slash)| {
        let before = std::iter::repeat_n("a", before);
        let mut path = String::new();
        for segment in before.chain(segments) {
            path = path + "/" + segment;
        }
        if slash {
            path.push('/');
        }
        path
    })
}

/// A rule as text, but for its id.
fn rule() -> impl Strategy<Value = String> {
    let hosts = select(
        &[
            "a.example",
            "a.example",
            "'*.example'",
            "a.example, b.example",
        ][..],
    );
    let ports = select(&["", ", port: [443]", ", port: [80, 443]"][..]);
    let other = select(
        &[
            "",
            "",
            "",
            ", method: [GET]",
            ", query: {a: [b]}",
            ", protocol: [http]",
        ][..],
    );
    let action = select(
        &[
            "action: deny",
            "action: deny",
            "action: allow",
            "action: allow, handling: inspect",
            "action: modify, modify: {headers: {drop: [cookie]}}",
        ][..],
    );
    let when = prop_oneof![
        6 => Just(""),
        1 => Just(", when: \"request.path.contains('b')\""),
        1 => Just(", when: \"request.headers.none == 'a'\""),
        1 => Just(", rollout: {percent: 50}"),
    ];
    let paths = prop_oneof![
        1 => Just(Vec::new()),
        8 => prop::collection::vec(pattern(), 1..4),
        1 => prop::collection::vec(pattern(), 9..11),
    ];
    let over = prop::bool::weighted(0.15);
    let rest = (
        over,
        prop::option::weighted(0.2, Just("10.0.0.0/8")),
        -1i32..2,
        select(&MODES[..]),
        when,
    );
    (hosts, ports, other, action, paths, rest).prop_map(
        |(hosts, ports, other, action, paths, (over, net, priority, mode, when))| {
            let mut text = format!(
                "priority: {priority}, mode: {mode}, match: {{transport: [tcp], host: [{hosts}]{ports}{other}"
            );
            if !paths.is_empty() {
                write!(text, ", path: ['{}']", paths.join("', '")).unwrap();
            }
            if over && action.contains("deny") {
                text.push_str(", body_over: 10");
            }
            if let Some(net) = net {
                write!(text, ", cidr: [{net}]").unwrap();
            }
            text + "}, " + action + when
        },
    )
}

fn compiled(rules: &[String], mode: &str, strategy: &str) -> Policy {
    let mut text = format!(
        "version: 1\nstrategy: {strategy}\nagents: [{{name: coder, mode: {mode}}}]\nrules:\n"
    );
    for (n, rule) in rules.iter().enumerate() {
        let rule = match strategy {
            "priority_first_match" => rule.as_str(),
            _ => rule.split_once(", ").map_or("", |(_, rest)| rest),
        };
        let agents = if n % 3 == 1 { "agents: [coder], " } else { "" };
        writeln!(text, "  - {{id: r{n}, {agents}{rule}}}").unwrap();
    }
    policy(&text)
}

/// A path that a pattern matches, as it is written there.
fn made_of(pattern: &str) -> String {
    pattern.replace("**", "b/a").replace('*', "a")
}

/// The same path to some servers at least, or one beside it.
fn disguised(path: &str, how: &[u8]) -> String {
    let mut how = how.iter().cycle();
    path.chars().fold(String::new(), |path, character| {
        let how = how.next().copied().unwrap_or_default();
        match (character, how) {
            ('/', 0) => path + "%2F",
            ('/', 1) => path + "//",
            ('/', 2) => path + "%2F%2F",
            ('/', 3) => path + "/./",
            ('a', 0) => path + "%61",
            ('a', 1) => path + "A",
            (_, 4) => path + &format!("%{:02X}", u32::from(character)),
            (_, 5) => path,
            _ => path + &character.to_string(),
        }
    })
}

/// Everything that a policy says of a request.
fn said(policy: &Policy, facts: &Facts<'_>) -> [String; 3] {
    let agent = agent(policy, "coder");
    let explained = policy.explain(agent, facts).into_iter();
    let explained: Vec<_> = explained.map(|it| (it.rule, it.verdict)).collect();
    [
        format!("{:?}", policy.decide(agent, facts)),
        format!("{:?}", policy.body_limit(agent, facts)),
        format!("{explained:?}"),
    ]
}

/// How many rules are looked at for a request, and how many there are for its destination.
fn looked_at(policy: &Policy, facts: &Facts<'_>) -> [usize; 2] {
    let agent = agent(policy, "coder");
    let count = |asked: Option<&Asked<'_>>| {
        let mut count = 0;
        let port = Some(facts.port);
        policy.each_among(agent, facts.host, facts.ip, port, asked, |_, _| count += 1);
        count
    };
    [
        Asked::among(facts, |asked| (count(asked), u64::MAX)),
        count(None),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_is_passed_over_by_path_makes_no_difference(
        rules in prop::collection::vec(rule(), 1..12), mode in select(&MODES[..]), strategy in select(&STRATEGIES[..]),
        sent in prop::collection::vec((select(&FIRST[..]), prop::collection::vec(select(&SENT[..]), 0..5)), 1..6),
        made in prop::collection::vec((any::<Index>(), prop::collection::vec(0u8..40, 1..9)), 4..12),
        ip in prop::option::of(select(&["10.1.2.3", "192.0.2.1"][..])), port in select(&[80u16, 443, 444][..]),
        name in select(&["a.example", "b.example"][..]), get: bool, body in 5u64..15, query in select(&["a=b", "a=c"][..]),
        circumstances in circumstances(), assumed in prop_oneof![4 => Just(None), 1 => any::<(bool, bool)>().prop_map(Some)],
    ) {
        let by_scan = compiled(&rules, mode, strategy).indexed_from(usize::MAX);
        let by_path = compiled(&rules, mode, strategy).indexed_from(1);
        let patterns: Vec<&str> = rules.iter().flat_map(|rule| rule.split('\'')).filter(|it| it.starts_with('/')).collect();
        let sent = sent.iter().map(|(first, segments)| format!("{first}{}", segments.join("/")));
        let made = made.iter().filter(|_| !patterns.is_empty());
        let made = made.map(|(pattern, how)| disguised(&made_of(patterns[pattern.index(patterns.len())]), how));
        let (host, query) = (host(name), Query::new(query));
        let unknown = assumed.map(|(everything, in_favour)| {
            (Unknown { everything, query: true, ..Unknown::default() }, in_favour)
        });
        for path in sent.chain(made) {
            let request = Request {
                query: Some(&query), body,
                assumed: unknown.as_ref().map(|(unknown, in_favour)| Assumed { unknown, in_favour: *in_favour }),
                ..Request::new(if get { "GET" } else { "PUT" }, &path)
            };
            let facts = Facts {
                host: Some(&host), ip: ip.map(|ip| ip.parse().unwrap()), port, transport: Transport::Tcp,
                request: Seen::Request(request), circumstances,
            };
            prop_assert_eq!(said(&by_path, &facts), said(&by_scan, &facts), "{}", path);
        }
    }
}

/// Policies whose patterns take many steps on a long path, each without the index by path and with it.
static HEAVY: LazyLock<Vec<[Policy; 2]>> = LazyLock::new(|| {
    let private = |n: usize| format!("path: ['/private{n}/**']}}, action: deny");
    // Those on paper have steps of their own, and exceed them first.
    let shadow = |n: usize| match n % 5 {
        0 => private(n),
        1 => format!("path: ['/*b{n}']}}, action: deny, mode: shadow"),
        _ => private(n) + ", mode: shadow",
    };
    let modified = |n: usize| {
        format!(
            "path: ['/x/open{n}/*/a']}}, action: modify, modify: {{headers: {{drop: [cookie]}}}}"
        )
    };
    let ends = |n: usize| format!("path: ['/private{n}/**/a/b/c']}}, action: deny");
    let mixed = |n: usize| match n % 3 {
        0 => format!("path: ['/**/z{n}/**']}}, action: deny"),
        1 => format!("path: ['/private{n}/*a*b']}}, action: allow"),
        _ => private(n),
    };
    let expressed = |n: usize| match n % 4 {
        0 => "transport: [tcp]}, action: deny, when: \"request.path.matches('[ab].{5}c')\""
            .to_owned(),
        _ => private(n),
    };
    let kinds = [
        (250, "deny_overrides", &private as &dyn Fn(usize) -> String),
        (250, "deny_overrides", &shadow),
        (250, "deny_overrides", &modified),
        (250, "deny_overrides", &ends),
        (120, "deny_overrides", &mixed),
        (60, "deny_overrides", &expressed),
        (250, "most_specific_wins", &private),
    ];
    let made = kinds.iter().map(|(count, strategy, says)| {
        let mut text = format!("version: 1\nstrategy: {strategy}\nagents: [{{name: coder}}]\nrules:\n- {{id: site, match: {{host: [a.example]}}, action: allow}}\n");
        for n in 0..*count {
            writeln!(text, "- {{id: r{n}, match: {{host: [a.example], {}}}", says(n)).unwrap();
        }
        [usize::MAX, crate::index::MANY].map(|many| policy(&text).indexed_from(many))
    });
    made.collect()
});

/// A GET to a name whose address is not known.
fn get<'a>(name: &'a HostName, path: &'a str) -> Facts<'a> {
    Facts {
        host: Some(name),
        ip: None,
        port: 443,
        transport: Transport::Tcp,
        request: Seen::Request(Request::new("GET", path)),
        circumstances: Circumstances::NOBODY,
    }
}

/// What policies say of a GET to the site of [`HEAVY`].
fn both(policies: &[Policy; 2], path: &str) -> [String; 2] {
    let name = host("a.example");
    let facts = get(&name, path);
    policies
        .each_ref()
        .map(|policy| format!("{:?}", policy.decide(agent(policy, "coder"), &facts)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_takes_too_many_steps_does_so_with_the_index_by_path(
        policies in any::<Index>(), before in select(&["/", "/x/", "/private7/", "/x/open7/"][..]),
        repeated in select(&["a", "ab/", "%3A", "%2Fa", "b/c/"][..]), times in 0usize..300_000,
        after in select(&["", "/a/b/c"][..]),
    ) {
        let [by_scan, by_path] = both(
            &HEAVY[policies.index(HEAVY.len())],
            &format!("{before}{}{after}", repeated.repeat(times / repeated.len())),
        );
        prop_assert_eq!(by_path, by_scan);
    }
}

/// No path is longer.
const MOST_BYTES: usize = 300_000;

#[test]
fn the_first_path_that_takes_too_many_steps_is_the_same_with_the_index() {
    let too_much = |found: &String| found.contains("the 1000000 steps");
    let plain = |length: usize| format!("/{}", "a".repeat(length));
    let deep = |length: usize| {
        let ends = "a".repeat(length % 3 + 1) + &"b".repeat(length);
        format!("/{}", "ab/".repeat(length / 3) + &ends)
    };
    // What takes steps is how long the first segment is, or how many there are.
    let kinds = [
        &plain as &dyn Fn(usize) -> String,
        &plain,
        &plain,
        &plain,
        &deep,
        &deep,
        &plain,
    ];
    for (kind, (policies, path)) in HEAVY.iter().zip(kinds).enumerate() {
        let (mut few, mut many) = (0, MOST_BYTES);
        while many - few > 1 {
            let length = usize::midpoint(few, many);
            let [by_scan, by_path] = both(policies, &path(length));
            assert_eq!(by_path, by_scan, "{length}");
            *(if too_much(&by_scan) {
                &mut many
            } else {
                &mut few
            }) = length;
        }
        assert!(many < MOST_BYTES, "{kind}: none was too much");
        for length in [
            few.saturating_sub(64),
            few.saturating_sub(1),
            many + 1,
            many + 64,
        ] {
            let [by_scan, by_path] = both(policies, &path(length));
            assert_eq!(by_path, by_scan, "{length}");
        }
    }
}

#[test]
fn of_many_rules_for_a_site_those_are_looked_at_that_may_match_a_path() {
    let mut text = "version: 1\nagents: [{name: coder}]\nrules:\n- {id: site, match: {host: [a.example]}, action: allow}\n- {id: keys, match: {path: ['/**/keys']}, action: deny}\n".to_owned();
    for n in 0..500 {
        writeln!(
            text,
            "- {{id: r{n}, match: {{host: [a.example], port: [443], path: ['/v1/private{n}/**', '/old{n}']}}, action: deny}}"
        )
        .unwrap();
    }
    let policy = policy(&text);
    let name = host("a.example");
    let ip: IpAddr = "192.0.2.1".parse().unwrap();
    for (path, looked, verdict) in [
        ("/v1/public/7", 2, Verdict::Allow),
        ("/v1/private7", 3, Verdict::Deny),
        ("/v1/private7/a/b", 3, Verdict::Deny),
        ("/v1/%70rivate7/a", 3, Verdict::Deny),
        ("/v1%2Fprivate7", 3, Verdict::Deny),
        ("/v1%2F%2Fprivate7/a", 3, Verdict::Deny),
        ("/old7", 3, Verdict::Deny),
        ("/old7/a", 3, Verdict::Allow),
        ("/V1/private7", 2, Verdict::Allow),
        ("*", 2, Verdict::Allow),
        ("/a/keys", 2, Verdict::Deny),
    ] {
        let facts = Facts {
            host: Some(&name),
            ip: Some(ip),
            port: 443,
            transport: Transport::Tcp,
            request: Seen::Request(Request::new("GET", path)),
            circumstances: Circumstances::NOBODY,
        };
        assert_eq!(looked_at(&policy, &facts), [looked, 502], "{path}");
        let ruling = policy.decide(agent(&policy, "coder"), &facts);
        assert_eq!(ruling.verdict, verdict, "{path}: {}", ruling.reason.message);
        let unseen = Facts {
            request: Seen::NotYet,
            ..facts
        };
        assert_eq!(looked_at(&policy, &unseen), [502, 502], "{path}");
    }
}

/// A rule whose paths begin with one another is looked at once, however many of them a path begins with.
#[test]
fn a_rule_with_paths_inside_one_another_is_looked_at_once() {
    let nested = (1..=8).map(|depth| format!("/{}/*x", vec!["a"; depth].join("/")));
    let nested = nested.collect::<Vec<_>>().join("', '");
    let mut text = "version: 1\nagents: [{name: coder}]\nrules:\n- {id: site, match: {host: [a.example]}, action: allow}\n".to_owned();
    for n in 0..100 {
        writeln!(
            text,
            "- {{id: r{n}, match: {{host: [a.example], path: ['{nested}']}}, action: deny}}"
        )
        .unwrap();
    }
    let (policy, name) = (policy(&text), host("a.example"));
    for (path, looked) in [("/a/a/a/a/a/a/a/a/a", 101), ("/a/b", 101), ("/b", 1)] {
        let facts = get(&name, path);
        assert_eq!(looked_at(&policy, &facts), [looked, 101], "{path}");
    }
}

/// How much of a body is read is asked with steps of its own.
#[test]
fn a_limit_of_bodies_is_the_same_where_steps_do_not_suffice() {
    let mut text = "version: 1\nagents: [{name: coder}]\nrules:\n- {id: site, match: {host: [a.example]}, action: allow}\n".to_owned();
    for n in 0..250 {
        writeln!(
            text,
            "- {{id: r{n}, match: {{host: [a.example], path: ['/private{n}/**'], body_over: 10}}, action: deny}}"
        )
        .unwrap();
    }
    let policies = [usize::MAX, crate::index::MANY].map(|many| policy(&text).indexed_from(many));
    let name = host("a.example");
    for (length, limit) in [(1_000, None), (MOST_BYTES, Some(10))] {
        let path = format!("/{}", "a".repeat(length));
        for policy in &policies {
            let facts = get(&name, &path);
            let found = policy.body_limit(agent(policy, "coder"), &facts);
            assert_eq!(found, limit, "{length}");
        }
    }
}

/// The heavy policies are of use above: with a short path none is too much, with a long one some are.
#[test]
fn long_paths_are_too_much_for_many_patterns() {
    let long = format!("/{}", "a".repeat(300_000));
    for policies in HEAVY.iter() {
        let [short, _] = both(policies, "/a");
        assert!(!short.contains("steps"), "{short}");
    }
    let exceeded = HEAVY.iter().filter(|policies| {
        let [found, _] = both(policies, &long);
        found.contains(&format!("{:?}", ReasonCode::EngineError))
    });
    assert!(exceeded.count() >= 4);
}
