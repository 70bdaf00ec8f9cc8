//! What is warned of, with its place.

use super::document;
use super::refusals::rule;
use crate::{Document, compile};

#[test]
fn warnings_name_the_document_of_the_other_rule() {
    let second = Document {
        path: "q.yaml".to_owned(),
        text: "version: 1\nrules:\n  - {id: b, match: {host: [a.example]}, action: deny}\n"
            .to_owned(),
    };
    let first = rule("  - {id: a, match: {host: [a.example]}, action: allow}\n");
    let policy = compile(&[document(&first), second]).unwrap();
    assert_eq!(
        policy
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "p.yaml:6:5: warning: rule `a` allows exactly what rule `b` (q.yaml, line 3) denies, so it is denied\n  hint: say which of the two is meant, and take the other one out"
        ]
    );
}

/// Eighty rules, each with nearly the same three thousand hosts, would be compared for minutes.
#[test]
fn where_not_all_is_compared_it_is_said() {
    let hosts: Vec<_> = (0..3000).map(|n| format!("h{n}.example")).collect();
    let rules: String = (0..80)
        .map(|n| {
            format!("  - {{id: r{n}, match: {{host: [\"@l\", x{n}.example]}}, action: allow}}\n")
        })
        .collect();
    let text = format!(
        "version: 1\nlists: {{l: [{}]}}\nagents: [{{name: coder}}]\nrules:\n{rules}",
        hosts.join(", ")
    );
    let told = |policy: &crate::Policy| -> Vec<String> {
        let warnings = policy.warnings().iter();
        warnings.map(|it| it.message.clone()).collect()
    };
    let partly = "the rules are too many to compare each with all others, so warnings of some may be missing";
    assert_eq!(told(&compile(&[document(&text)]).unwrap()), [partly]);
    let twice = "  - {id: a, match: {host: [h0.example]}, action: allow}\n  - {id: b, match: {host: [h0.example]}, action: allow}\n";
    let policy = compile(&[document(&format!("{text}{twice}"))]).unwrap();
    assert_eq!(told(&policy), [partly]);
    // By themselves they are.
    let policy = compile(&[document(&rule(twice))]).unwrap();
    assert_eq!(policy.warnings().len(), 1);
}

#[test]
fn of_many_warnings_the_first_are_told_and_how_many_there_are() {
    let rules = (1000..1150).map(|n| {
        format!("  - {{id: r{n}, match: {{port: [{n}], transport: [tcp]}}, action: allow}}\n")
    });
    let policy = compile(&[document(&rule(&rules.collect::<String>()))]).unwrap();
    let last = policy.warnings().last().unwrap();
    assert_eq!(policy.warnings().len(), 101);
    assert!(
        last.message.starts_with("50 more warnings about rules"),
        "{last}"
    );
}

#[test]
fn what_never_decides_is_told_by_strategy() {
    let rules = "agents: [{name: coder}]
rules:
  - {id: a, match: {host: [a.example]}, action: allow}
  - {id: b, match: {host: [a.example], port: [80], transport: [tcp]}, action: deny}
";
    for (strategy, told) in [
        ("deny_overrides", &[][..]),
        ("most_specific_wins", &[]),
        (
            "priority_first_match",
            &[
                "p.yaml:6:5: warning: rule `b` never decides: rule `a` (line 5) comes before it and matches all of it\n  hint: take it out, or let it stand before the other",
            ],
        ),
    ] {
        assert_eq!(by_strategy(strategy, rules), told, "{strategy}");
    }
}

fn by_strategy(strategy: &str, rules: &str) -> Vec<String> {
    let policy = super::policy(&format!("version: 1\nstrategy: {strategy}\n{rules}"));
    policy.warnings().iter().map(ToString::to_string).collect()
}

/// An allowance that names no transport is for TCP, and a denial for both.
#[test]
fn what_never_decides_is_told_whatever_the_usual_transports() {
    let rules = "agents: [{name: coder}]
rules:
  - {id: a, match: {host: [a.example], port: [443]}, action: allow}
  - {id: b, match: {host: [a.example], port: [443]}, action: deny}
";
    for (strategy, told) in [
        (
            "deny_overrides",
            "p.yaml:5:5: warning: rule `a` allows exactly what rule `b` (line 6) denies, so it is denied\n  hint: say which of the two is meant, and take the other one out",
        ),
        (
            "most_specific_wins",
            "p.yaml:5:5: warning: rule `a` allows exactly what rule `b` (line 6) denies, so it is denied\n  hint: say which of the two is meant, and take the other one out",
        ),
        (
            "priority_first_match",
            "p.yaml:6:5: warning: rule `b` decides nothing over TCP: rule `a` (line 5) comes before it and matches all of that\n  hint: take it out, or let it stand before the other; `transport: [udp]` if datagrams alone are meant",
        ),
    ] {
        assert_eq!(by_strategy(strategy, rules), [told], "{strategy}");
    }
    // What is for datagrams alone is not hidden by what is for TCP.
    let datagrams = rules.replace(
        "port: [443]}, action: deny",
        "transport: [udp]}, action: deny",
    );
    assert_eq!(by_strategy("priority_first_match", &datagrams), [""; 0]);
}

/// Below a suffix where anyone gets a name, and of the internet, much is denied on purpose.
#[test]
fn what_is_wide_is_told_of_allowances_alone() {
    let rules = rule(
        "  - id: a\n    match: {host: [\"*.github.io\", \"*.org\"], cidr: [\"0.0.0.0/1\", \"2000::/3\", 10.0.0.0/8]}\n    action: allow\n",
    );
    let of = |rules: &str| -> Vec<String> {
        let policy = super::policy(rules);
        policy.warnings().iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        of(&rules),
        [
            "p.yaml:7:20: warning: anyone can get a name below `github.io`, also to take data out\n  hint: name the hosts that are meant",
            "p.yaml:7:35: warning: `*.org` matches every name below a top-level domain\n  hint: name the domain that is meant: `*.example.org`",
            "p.yaml:7:52: warning: `0.0.0.0/1` is a large part of the internet, which no rule about names covers then\n  hint: name the ranges that are meant, or the hosts",
            "p.yaml:7:65: warning: `2000::/3` is a large part of the internet, which no rule about names covers then\n  hint: name the ranges that are meant, or the hosts",
        ]
    );
    assert_eq!(of(&rules.replace("action: allow", "action: deny")), [""; 0]);
}

#[test]
fn anyone_can_get_a_name_below_more_than_one_thinks() {
    let told = |name: &str| -> Vec<String> {
        let rules = format!(
            "  - id: a\n    match: {{host: [\"*.{name}\"], port: [443]}}\n    action: allow\n"
        );
        let policy = super::policy(&rule(&rules));
        policy
            .warnings()
            .iter()
            .map(|it| it.message.clone())
            .collect()
    };
    for name in [
        "github.io",
        "workers.dev",
        "fly.dev",
        "ngrok.app",
        "ts.net",
        "supabase.co",
        "amazonaws.com",
        "us-east-1.amazonaws.com",
        "s3.eu-west-1.amazonaws.com",
        "execute-api.eu-west-1.amazonaws.com",
        "compute.amazonaws.com",
        "lambda-url.eu-west-1.on.aws",
        "storage.googleapis.com",
        "googleapis.com",
        "blob.core.windows.net",
        "westeurope.cloudapp.azure.com",
        "ams3.digitaloceanspaces.com",
        "nip.io",
    ] {
        let anyone = format!("anyone can get a name below `{name}`, also to take data out");
        assert_eq!(told(name), [anyone]);
    }
    for name in ["org", "co.uk", "com.au", "internal"] {
        let all = format!("`*.{name}` matches every name below a top-level domain");
        assert_eq!(told(name), [all]);
    }
    for name in [
        "example.com",
        "example.co.uk",
        "sts.amazonaws.com",
        "bucket.s3.eu-west-1.amazonaws.com",
        "someone.github.io",
        "corp.internal",
        "vm.westeurope.cloudapp.azure.com",
    ] {
        assert_eq!(told(name), [""; 0], "{name}");
    }
}

#[test]
fn a_switch_that_no_rule_looks_at_is_told() {
    let of = |when: &str| -> Vec<String> {
        let policy = super::policy(&format!(
            "version: 1\nswitches: {{freeze: false, calm: true}}\nagents: [{{name: coder}}]\nrules:\n  - id: a\n    match: {{host: [a.example], port: [443]}}\n    action: allow\n    when: {when}\n"
        ));
        policy.warnings().iter().map(ToString::to_string).collect()
    };
    assert_eq!(of("\"!switches.freeze && switches.calm\""), [""; 0]);
    assert_eq!(
        of("switches.calm"),
        [
            "p.yaml:2:20: warning: no rule looks at the switch `freeze`\n  hint: to set it changes nothing; `switches.freeze` in the `when` of a rule looks at it"
        ]
    );
}

#[test]
fn what_was_probably_not_meant_is_told() {
    let warnings = |rules: &str| -> Vec<String> {
        compile(&[document(&rule(rules))])
            .unwrap()
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    for (rules, expected) in [
        (
            "  - id: a\n    match: {port: [443]}\n    action: allow\n",
            &[
                "p.yaml:6:5: warning: rule `a` allows any destination\n  hint: every name can be resolved then, which is a way out for data; give `host` or `cidr`",
            ][..],
        ),
        (
            "  - id: a\n    match: {host: [\"*.com\", \"*.github.io\", \"*.example.org\"]}\n    action: allow\n",
            &[
                "p.yaml:7:20: warning: `*.com` matches every name below a top-level domain\n  hint: name the domain that is meant: `*.example.org`",
                "p.yaml:7:29: warning: anyone can get a name below `github.io`, also to take data out\n  hint: name the hosts that are meant",
            ],
        ),
        (
            "  - id: a\n    match: {host: [a.example], port: [443]}\n    action: allow\n  - id: b\n    match: {host: [\"*.example\", \"a.example\"]}\n    action: deny\n",
            &[
                "p.yaml:6:5: warning: rule `a` never allows anything: rule `b` (line 9) denies all of it\n  hint: take it out, or have the other one deny less",
            ],
        ),
        (
            "  - id: a\n    match: {host: [a.example, b.example]}\n    action: allow\n  - id: b\n    match: {host: [\"*.example.org\", a.example, b.example]}\n    action: deny\n  - id: c\n    match: {host: [b.example, a.example]}\n    action: deny\n",
            &[
                "p.yaml:6:5: warning: rule `a` allows exactly what rule `c` (line 12) denies, so it is denied\n  hint: say which of the two is meant, and take the other one out",
                "p.yaml:12:5: warning: rule `c` adds nothing to rule `b` (line 9)\n  hint: take it out",
            ],
        ),
        // On other ports or by other requests it is no contradiction, and a denial on paper is none.
        (
            "  - id: a\n    match: {host: [a.example], port: [443]}\n    action: allow\n    handling: inspect\n  - id: b\n    match: {host: [a.example], port: [443], method: [DELETE]}\n    action: deny\n  - id: c\n    match: {host: [a.example], port: [443]}\n    action: deny\n    mode: shadow\n",
            &[],
        ),
        (
            "  - id: a\n    labels: {taem: web}\n    match: {host: [a.example]}\n    action: allow\n  - id: b\n    labels: {team: webb}\n    match: {host: [a.example]}\n    action: allow\n",
            &[
                "p.yaml:7:13: warning: no agent has these labels, so the rule is for nobody\n  hint: no agent has a label `taem`; did you mean `team`?",
                "p.yaml:11:13: warning: no agent has these labels, so the rule is for nobody\n  hint: no agent has `team: webb`; did you mean `team: web`?",
            ],
        ),
        (
            "  - id: a\n    match: {host: [a.example]}\n    action: allow\n  - id: b\n    match: {host: [a.example]}\n    action: allow\n",
            &[
                "p.yaml:9:5: warning: rule `b` adds nothing to rule `a` (line 6)\n  hint: take it out",
            ],
        ),
        // A narrower query adds nothing to a wider one; a wider one does.
        (
            "  - id: a\n    match: {host: [a.example], query: {x: [a, b]}}\n    action: allow\n  - id: b\n    match: {host: [a.example], query: {x: [a], y: [c]}}\n    action: allow\n  - id: c\n    match: {host: [a.example], body_over: 10}\n    action: deny\n  - id: d\n    match: {host: [a.example], body_over: 9}\n    action: deny\n",
            &[
                "p.yaml:9:5: warning: rule `b` adds nothing to rule `a` (line 6)\n  hint: take it out",
                "p.yaml:12:5: warning: rule `c` adds nothing to rule `d` (line 15)\n  hint: take it out",
            ],
        ),
        (
            "  - id: a\n    match: {host: [a.example], port: [443], method: [GET]}\n    action: allow\n",
            &[
                "p.yaml:6:5: warning: rule `a` looks at requests on port 443, and sees none in TLS\n  hint: `handling: inspect` on this rule",
            ],
        ),
        // Another rule inspects, or only some of the ports are those of TLS.
        (
            "  - id: a\n    match: {host: [a.example], port: [443], method: [GET]}\n    action: allow\n  - id: b\n    match: {host: [\"*.example\", a.example], path: [/b]}\n    action: allow\n    handling: inspect\n",
            &[
                "p.yaml:10:20: warning: `*.example` matches every name below a top-level domain\n  hint: name the domain that is meant: `*.example.org`",
            ],
        ),
        (
            "  - id: a\n    match: {host: [a.example], port: [80, 443], method: [GET]}\n    action: allow\n",
            &[],
        ),
        (
            "  - id: a\n    when: agent.labels['taem'] == 'x' || agent.labels.own == '1' || agent.labels.team in ['webb', 'web']\n    match: {host: [a.example]}\n    action: allow\n",
            &[
                "p.yaml:7:25: warning: `taem` is probably misspelt\n  hint: no agent has a label `taem`; did you mean `team`?",
                "p.yaml:7:92: warning: `webb` is probably misspelt\n  hint: no agent has `team: webb`; did you mean `team: web`?",
            ],
        ),
        (
            "  - id: a\n    labels: {team: nobody}\n    match: {host: [a.example]}\n    action: allow\n",
            &[
                "p.yaml:7:13: warning: no agent has these labels, so the rule is for nobody\n  hint: agents have labels under `agents`; one with all of these is meant",
            ],
        ),
        (
            "  - id: a\n    match: {cidr: [169.254.0.0/16]}\n    action: allow\n",
            &[
                "p.yaml:7:20: warning: `169.254.0.0/16` does not open `169.254.169.254/32`, which it holds\n  hint: a rule that means it names it: `169.254.169.254/32`",
            ],
        ),
        (
            "  - id: a\n    match: {cidr: [192.0.2.0/24], port: [53]}\n    action: allow\n",
            &[
                "p.yaml:7:42: warning: port 53 always leads to the guard's own resolver\n  hint: this port can be left out",
            ],
        ),
    ] {
        assert_eq!(warnings(rules), expected, "{rules}");
    }
}

/// What closes more than its author may have thought.
#[test]
fn what_closes_everything_is_told() {
    let of = |rules: &str| -> Vec<String> {
        let policy = super::policy(&rule(rules));
        let found = policy.warnings().iter().map(ToString::to_string);
        found
            .map(|it| it.split("\n").next().unwrap_or_default().to_owned())
            .collect()
    };
    let open = "  - {id: open, match: {host: [a.example], port: [443]}, action: allow}\n";
    let opened = open.replace("action: allow", "action: allow, handling: inspect");
    let admin =
        "  - {id: no-admin, match: {host: [a.example], path: ['/admin/**']}, action: deny}\n";
    assert_eq!(
        of(&format!("{open}{admin}")),
        [
            "p.yaml:7:5: warning: rule `no-admin` has to see the requests that rule `open` (line 6) allows on port 443 without opening TLS: all of that TLS is denied"
        ]
    );
    assert_eq!(of(&format!("{opened}{admin}")), [""; 0]);
    assert_eq!(
        of(&format!(
            "{open}  - {{id: bare, match: {{cidr: [0.0.0.0/0, '::/0']}}, action: deny}}\n"
        )),
        [
            "p.yaml:7:5: warning: rule `bare` denies every address, and with it every name that leads to one"
        ]
    );
    // Registries of countries are wide too.
    assert_eq!(
        of("  - {id: uk, match: {host: ['*.co.uk', '*.example.co.uk']}, action: allow}\n"),
        ["p.yaml:6:29: warning: `*.co.uk` matches every name below a top-level domain"]
    );
    // Everything covers what is narrower.
    assert_eq!(
        of(
            "  - {id: narrow, match: {host: [a.example], port: [443], path: [/b], query: {a: [b]}}, action: allow, handling: inspect}\n  - {id: wide, match: {host: [a.example], path: ['/**'], query: {a: ['*']}}, action: deny}\n"
        ),
        [
            "p.yaml:6:5: warning: rule `narrow` never allows anything: rule `wide` (line 7) denies all of it"
        ]
    );
    // What is said in the log is more than what another says.
    let logs = open.replace("id: open", "id: logs, obligations: {log: warn}");
    assert_eq!(of(&format!("{open}{logs}")), [""; 0]);
}

#[test]
fn an_expression_that_cannot_hold_beside_its_match_is_told() {
    let never = |key: &str| format!("it never holds where `{key}` of the rule's `match` does");
    for (matches, when, told) in [
        ("port: [443]", "destination.port == 80", Some("port")),
        (
            "port: [443, 8443]",
            "destination.port in [80, 8080] && time.hour > 5",
            Some("port"),
        ),
        (
            "port: [\"400-500\"]",
            "destination.port > 500",
            Some("port"),
        ),
        ("port: [443]", "destination.port != 443", Some("port")),
        ("port: [443]", "!(443 == destination.port)", Some("port")),
        ("port: [443]", "destination.port == 443", None),
        (
            "port: [\"400-500\"]",
            "destination.port >= 500 && destination.port != 400",
            None,
        ),
        (
            "port: [443]",
            "destination.port == 80 || time.hour > 5",
            None,
        ),
        (
            "host: [a.example]",
            "destination.host == 'b.example'",
            Some("host"),
        ),
        (
            "host: [a.example]",
            "destination.host != 'a.example'",
            Some("host"),
        ),
        (
            "host: [\"*.a.example\"]",
            "destination.host in ['a.example', 'b.example']",
            Some("host"),
        ),
        (
            "host: [\"*.a.example\", c.example]",
            "destination.host in ['b.a.example', 'b.example']",
            None,
        ),
        (
            "host: [a.example, b.example]",
            "destination.host != 'a.example'",
            None,
        ),
        (
            "host: [a.example]",
            "destination.host.endsWith('.example')",
            None,
        ),
        (
            "host: [a.example], cidr: [192.0.2.0/24]",
            "destination.host == ''",
            None,
        ),
        ("method: [GET]", "request.method == 'PUT'", Some("method")),
        ("method: [GET, PUT]", "request.method == 'PUT'", None),
    ] {
        let host = if matches.contains("host") {
            ""
        } else {
            ", host: [a.example]"
        };
        let text = rule(&format!(
            "  - id: a\n    match: {{{matches}{host}, transport: [tcp]}}\n    action: deny\n    when: \"{when}\"\n"
        ));
        let policy = compile(&[document(&text)]).unwrap();
        let found: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        match told {
            None => assert!(found.is_empty(), "{matches} {when}: {found:?}"),
            Some(key) => {
                assert_eq!(found.len(), 1, "{matches} {when}: {found:?}");
                assert!(found[0].contains(&never(key)), "{found:?}");
            }
        }
    }
}

#[test]
fn what_an_expression_hardly_means_is_told_in_its_place() {
    let text = rule(
        "  - id: a\n    match: {host: [a.example]}\n    action: allow\n    when: agent.name == 'coder' && time.hour > 25\n",
    );
    let policy = compile(&[document(&text)]).unwrap();
    let found: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "p.yaml:9:36: warning: `agent.name == 'coder' && time.hour > 25`: this comparison of `time.hour` never holds\n  hint: it is 0 to 23"
        ]
    );
}

/// What is no HTTP, as a database, shows no request on any port.
#[test]
fn what_has_to_be_seen_closes_what_shows_nothing_on_any_port() {
    let of = |strategy: &str, first: &str, second: &str| -> Vec<String> {
        let policy = super::policy(&format!(
            "version: 1\nstrategy: {strategy}\nagents: [{{name: coder}}]\nrules:\n{first}{second}"
        ));
        policy.warnings().iter().map(ToString::to_string).collect()
    };
    let usual = |first: &str, second: &str| of("deny_overrides", first, second);
    let no = "  - {id: no, match: {host: [c.example.com], path: ['/no/**']}, action: deny}\n";
    let db = "  - {id: db, match: {host: [c.example.com], port: [5432]}, action: allow, handling: direct}\n";
    let direct = "p.yaml:6:5: warning: rule `no` has to see the requests that rule `db` (line 5) allows on port 5432 as `direct`: all of that TLS, and all that is no HTTP, is denied\n  hint: `handling: inspect` on rule `db` if HTTP is spoken there; else name in rule `no` the ports that it means, as `port: [80, 443]`";
    assert_eq!(usual(db, no), [direct]);
    let spliced = db.replace("5432", "8443").replace(", handling: direct", "");
    let told = direct
        .replace("5432", "8443")
        .replace("as `direct`", "without opening TLS");
    assert_eq!(usual(&spliced, no), [told]);
    // Where HTTP is spoken in the clear, requests are seen.
    let clear = spliced.replace("8443", "80, 8080");
    assert_eq!(usual(&clear, no), [""; 0]);
    let named = no.replace("path:", "port: [443], path:");
    assert_eq!(usual(db, &named), [""; 0]);
    // Bare addresses, as names.
    let bare = |rules: &str| rules.replace("host: [c.example.com]", "cidr: [192.0.2.0/24]");
    assert_eq!(usual(&bare(db), &bare(no)), [direct]);
    // An allowance that comes first is not closed.
    let nothing =
        "p.yaml:6:5: warning: rule `no` decides nothing that any rule allows: rule `db` (line 5)";
    let before = of("priority_first_match", db, no).concat();
    assert!(before.starts_with(nothing), "{before}");
    let after = of("priority_first_match", no, db);
    assert!(after.concat().contains("rule `no` has to see"), "{after:?}");
    let narrower = of("most_specific_wins", db, no);
    assert_eq!(narrower, [direct]);
    let wider = no.replace("c.example.com", "'*.example.com'");
    let wider = of("most_specific_wins", db, &wider).concat();
    assert!(wider.starts_with(nothing), "{wider}");
}

/// What is allowed and what is denied need not be for the same destinations.
#[test]
fn tls_is_closed_where_a_denial_is_for_a_part_of_what_is_allowed() {
    let of = |rules: &str| -> Vec<String> {
        let policy = super::policy(&format!(
            "version: 1\nagents: [{{name: coder}}, {{name: tester}}]\nrules:\n{rules}"
        ));
        let warnings = policy.warnings().iter();
        warnings.map(|it| it.message.clone()).collect()
    };
    let open = "  - {id: open, match: {host: ['*.example.com'], port: [443]}, action: allow}\n";
    let no = "  - {id: no, match: {host: [api.example.com], path: ['/admin/**']}, action: deny}\n";
    let opened =
        "  - {id: opened, match: {host: [HOST], port: [443]}, action: allow, handling: inspect}\n";
    let told = |place: &str| {
        format!(
            "rule `no` has to see the requests that rule `open` (line 4) allows on port 443 without opening TLS: all of that TLS{place} is denied"
        )
    };
    let at_api = [told(" to `api.example.com`")];
    assert_eq!(of(&[open, no].concat()), at_api);
    let two = open.replace("'*.example.com'", "a.example.com, api.example.com");
    assert_eq!(of(&[&two, no].concat()), at_api);
    let direct = open.replace("allow}", "allow, handling: direct}");
    let as_direct = told(" to `api.example.com`")
        .replace("without opening TLS", "as `direct`")
        .replace("of that TLS", "of that TLS, and all that is no HTTP,");
    assert_eq!(of(&[&direct, no].concat()), [as_direct]);
    let some = no.replace("id: no", "id: no, agents: [tester]");
    assert_eq!(of(&[open, &some].concat()), at_api);
    // It is opened there, or they do not meet.
    for host in ["api.example.com", "'*.example.com'"] {
        let opened = opened.replace("HOST", host);
        assert_eq!(of(&[open, no, &opened].concat()), [""; 0], "{host}");
    }
    let elsewhere = opened.replace("HOST", "b.example.com");
    assert_eq!(of(&[open, no, &elsewhere].concat()), at_api);
    let others = open.replace("id: open", "id: open, agents: [coder]");
    assert_eq!(of(&[others, some].concat()), [""; 0]);
    let other = no.replace("api.example.com", "api.example.org");
    assert_eq!(of(&[open, &other].concat()), [""; 0]);
    // What is not changed does not pass either.
    let change = "  - {id: no, match: {host: [api.example.com]}, action: modify, modify: {headers: {drop: [cookie]}}}\n";
    let exact = open.replace("'*.example.com'", "api.example.com");
    assert_eq!(of(&[&exact, change].concat()), [told("")]);
    assert_eq!(of(&[open, change].concat()), at_api);
    let inspected = change.replace("}}}", "}}, handling: inspect}");
    assert_eq!(of(&[exact, inspected].concat()), [""; 0]);
}

#[test]
fn http_3_goes_by_a_denial_of_requests() {
    let of = |rules: &str| -> Vec<String> {
        let policy = super::policy(&rule(rules));
        policy.warnings().iter().map(ToString::to_string).collect()
    };
    let base = "  - {id: base, match: {host: [a.example], port: [443]}, action: allow, handling: inspect}\n";
    let quic = "  - {id: quic, match: {host: [a.example], port: [443], transport: [udp]}, action: allow}\n";
    let no = "  - {id: no, match: {host: [a.example], method: [DELETE]}, action: deny}\n";
    let told = "p.yaml:8:5: warning: rule `no` looks at requests, and rule `quic` (line 7) lets datagrams to `a.example`, port 443, pass: no request is seen in them, and HTTP/3 goes by the rule\n  hint: leave `udp` out of rule `quic`: clients of HTTP/3 fall back to TCP; or let it be for other destinations or ports";
    assert_eq!(of(&[base, quic, no].concat()), [told]);
    let change = no.replace("method: [DELETE]", "port: [443]").replace(
        "deny",
        "modify, modify: {headers: {drop: [cookie]}}, handling: inspect",
    );
    assert_eq!(of(&[base, quic, &change].concat()), [told]);
    let both = quic.replace(
        "[udp]}, action: allow",
        "[tcp, udp]}, action: allow, handling: direct",
    );
    assert!(of(&[base, &both, no].concat()).contains(&told.to_owned()));
    let named = no.replace("method", "port: [8443], method");
    let other = quic.replace("443", "8443");
    assert_eq!(
        of(&[base, &other, &named].concat()),
        [told.replace("443", "8443")]
    );
    // What is no HTTP/3, goes elsewhere, or is denied.
    let time = quic.replace("443", "123");
    assert_eq!(of(&[base, &time, no].concat()), [""; 0]);
    let elsewhere = quic.replace("a.example", "b.example");
    assert_eq!(of(&[base, &elsewhere, no].concat()), [""; 0]);
    let closed = "  - {id: closed, match: {host: [a.example], port: ['1-500'], transport: [udp]}, action: deny}\n";
    let told = of(&[base, quic, no, closed].concat()).concat();
    assert!(!told.contains("HTTP/3"), "{told}");
}

#[test]
fn a_denial_of_every_address_is_told_where_names_are_allowed_behind_it() {
    let bare = "  - {id: b, match: {cidr: [0.0.0.0/0, '::/0']}, action: deny}\n";
    let name = "  - {id: a, match: {host: [a.example.com], port: [443]}, action: allow}\n";
    let of = |first: &str, second: &str| {
        let rules = format!("agents: [{{name: coder}}]\nrules:\n{first}{second}");
        by_strategy("priority_first_match", &rules)
    };
    assert_eq!(
        of(bare, name),
        [
            "p.yaml:5:5: warning: rule `b` denies every address, and with it every name that rule `a` (line 6) allows, since it comes before it\n  hint: let it stand behind the rules that allow names, or take it out: what no rule allows is denied"
        ]
    );
    assert_eq!(of(name, bare), [""; 0]);
}

/// What says less than it seems to, or the same twice.
#[test]
fn what_says_nothing_is_told() {
    let of = |says: &str| -> Vec<String> {
        let policy = super::policy(&format!(
            "version: 1\nlists: {{web: [80, 443]}}\nagents: [{{name: coder}}]\nrules:\n  - {{id: a, match: {{host: [a.example.com], {says}, action: allow}}\n"
        ));
        let warnings = policy.warnings().iter().map(ToString::to_string);
        warnings
            .filter(|it| !it.contains("the list `web`"))
            .collect()
    };
    let time = |says: &str| of(&format!("port: [443], time: {says}}}"));
    let always = "p.yaml:5:63: warning: `time` holds always: on every day, at every hour\n  hint: leave `time` out, or say when the rule is to hold";
    for says in [
        "{days: [mon-sun], hours: ['00:00-24:00']}",
        "{days: [mon-sun]}",
        "{hours: ['08:00-18:00', '18:00-08:00']}",
    ] {
        assert_eq!(time(says), [always], "{says}");
    }
    assert_eq!(
        time("{days: [mon], hours: ['00:00-12:00', '11:00-24:00']}"),
        [
            "p.yaml:5:84: warning: `hours` are the whole day\n  hint: leave `hours` out, or say from when to when"
        ]
    );
    for says in [
        "{days: [mon-fri]}",
        "{hours: ['00:00-12:00', '12:01-24:00']}",
        "{days: [mon], hours: ['08:00-18:00', '18:00-08:00']}",
    ] {
        assert_eq!(time(says), [""; 0], "{says}");
    }
    assert_eq!(
        of("port: [443]}, rollout: {percent: 0}"),
        [
            "p.yaml:5:77: warning: `percent: 0`: the rule is in force for no session\n  hint: raise it to put the rule in force for some; `mode: shadow` says that it is on paper alone"
        ]
    );
    for (ports, told) in [
        ("443, 443", Some("56: warning: `443` stands here twice")),
        (
            "443, 443, '400-500'",
            Some("51: warning: `443` is among `400-500`, which stands here too"),
        ),
        ("80, 443, '444-500'", None),
        // Lists may share some of what they stand for.
        ("'@web', 443", None),
    ] {
        let found = of(&format!("port: [{ports}]}}"));
        let first = found.first().and_then(|it| it.lines().next());
        assert_eq!(first, told.map(|it| format!("p.yaml:5:{it}")).as_deref());
    }
}

#[test]
fn arguments_that_nobody_reads_are_warned_of() {
    let text = |servers: &str| {
        format!(
            "version: 1\ntool_servers: [{{name: stock, api: grpc, hosts: [a.example]}}, {{name: files, api: mcp, hosts: [a.example], paths: [/mcp]}}]\nagents: [{{name: coder}}]\nrules:\n  - {{id: a, match: {{host: [a.example], port: [443], tool: {{{servers}arguments: {{/id: [x]}}}}}}, action: deny}}\n"
        )
    };
    for (servers, warned) in [
        ("server: [stock], ", true),
        ("server: [\"st*\"], ", true),
        ("server: [stock, files], ", false),
        ("server: [files], ", false),
        ("", false),
    ] {
        let policy = super::policy(&text(servers));
        let mut warnings = policy.warnings().iter().map(ToString::to_string);
        let found = warnings.any(|it| it.contains("arguments of calls to `stock` are not read"));
        assert_eq!(found, warned, "{servers}");
    }
}

#[test]
fn changes_that_are_not_what_they_seem_are_warned_of() {
    let text = |modify: &str, paths: &str| {
        format!(
            "version: 1\ntool_servers: [{{name: tools, api: mcp, hosts: [api.openai.com]{paths}}}]\nagents: [{{name: coder}}]\nrules:\n  - {{id: a, match: {{host: [api.openai.com], port: [443], llm: {{}}}}, action: modify, modify: {modify}, handling: inspect}}\n"
        )
    };
    let own = ", paths: [/mcp]";
    for (modify, paths, told) in [
        (
            "{redact: [/n], clamp: {/n: 1}}",
            own,
            "`/n` is put out and then bounded",
        ),
        (
            "{json_patch: [{op: remove, path: /a/*/b}]}",
            own,
            "`*` in `/a/*/b` is a name in a patch",
        ),
        (
            "{redact: [/n]}",
            "",
            "`tools` takes all that goes to a host of a provider",
        ),
    ] {
        let policy = super::policy(&text(modify, paths));
        let warnings: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(told), "{warnings:?}");
    }
    let fine = "{redact: [/user, '/a/*'], clamp: {/n: 1}, json_patch: [{op: remove, path: /a/0}]}";
    let policy = super::policy(&text(fine, own));
    assert!(policy.warnings().is_empty());
}

#[test]
fn tls_that_is_opened_for_the_sake_of_other_addresses_is_warned_of() {
    let inside = "  - {id: in, match: {host: [git.example], port: [443]}, action: allow, resolved_ranges: [10.0.0.0/8]}\n";
    let told = |rules: &str| -> Vec<String> {
        let policy = compile(&[document(&rule(rules))]).unwrap();
        policy.warnings().iter().map(ToString::to_string).collect()
    };
    let out = "  - {id: out, match: {host: [\"*.example\"], method: [GET]}, action: allow, handling: inspect}\n";
    assert_eq!(
        told(&format!(
            "{inside}{}",
            out.replace("*.example", "git.example")
        )),
        [
            "p.yaml:6:5: warning: rule `in` leaves TLS closed at addresses of its `resolved_ranges`, and rule `out` (line 7) opens it for the same names: it is opened at all of them, since that is done before it is known which one is dialled\n  hint: give both the same `handling`, or let them be for different names or ports"
        ]
    );
    let wide = told(&format!("{inside}{out}"));
    assert!(wide.iter().any(|it| it.contains("leaves TLS")), "{wide:?}");
    for none in [
        // At the same addresses: the most restrictive handling is what was meant.
        &out.replace("inspect}", "inspect, resolved_ranges: [10.0.0.0/8]}"),
        &out.replace("method: [GET]", "method: [GET], port: [8443]"),
        &out.replace("*.example", "www.example"),
        &out.replace(", handling: inspect", ""),
    ] {
        let told = told(&format!("{inside}{none}"));
        assert!(!told.iter().any(|it| it.contains("leaves TLS")), "{told:?}");
    }
}

/// Patterns are in values alone, and what is written otherwise is another name to nobody.
#[test]
fn names_that_seem_to_be_patterns_are_warned_of() {
    let of = |says: &str| -> Vec<String> {
        let policy = super::policy(&format!(
            "version: 1\nvariables: {{q: size}}\ntool_servers: [{{name: t, api: mcp, hosts: [a.example.com]}}]\nagents: [{{name: coder}}]\nrules:\n  - {{id: a, match: {{host: [a.example.com], {says}, action: deny}}\n"
        ));
        let warnings = policy.warnings().iter().map(|it| it.message.clone());
        let told = warnings.filter(|it| !it.contains("never used"));
        told.collect()
    };
    let itself = |name: &str| format!("`*` in `{name}` stands for itself");
    let filled = |name: &str| format!("no variable is put into `{name}`");
    for (says, expected) in [
        (
            "tool: {arguments: {'/files/*/path': [\"/etc/*\"]}}}",
            itself("/files/*/path"),
        ),
        ("query: {'a*': [b]}}", itself("a*")),
        ("header: {'x-*': [b]}}", itself("x-*")),
        ("query: {'${q}': [b]}}", filled("${q}")),
        ("tool: {arguments: {'/a/${q}': [b]}}}", filled("/a/${q}")),
        (
            "header: {X-A: [a], x-a: [b]}}",
            "`x-a` is there twice, in another case: what stands at both has to hold".to_owned(),
        ),
    ] {
        let told: Vec<String> = of(says);
        assert!(told.contains(&expected), "{says}: {told:?}");
    }
    for (when, name) in [
        ("'/files/*/path' in tool.arguments", "/files/*/path"),
        ("request.headers['x-*'] == 'b'", "x-*"),
    ] {
        let told = of(&format!("path: [/x]}}, when: \"{when}\""));
        assert!(told.concat().contains(&itself(name)), "{when}: {told:?}");
    }
    for says in [
        "tool: {arguments: {/a: ['${q}*']}}}",
        "header: {x-a: ['*'], x-b: ['*']}}",
        "query: {'$q': [b], Q: [b], q: [b]}}",
        "path: [/x]}, when: \"request.query['a'].contains('*')\"",
    ] {
        assert_eq!(of(says), [""; 0], "{says}");
    }
}

#[test]
fn a_bound_whose_place_names_a_variable_is_warned_of() {
    let rules = "  - {id: a, match: {host: [api.openai.com], port: [443], llm: {}}, action: modify, handling: inspect, modify: {clamp: {'/${q}': 1, '/a/*': 2}}}\n";
    let policy = super::policy(&rule(rules));
    let told = policy.warnings().iter().map(|it| it.message.as_str());
    assert_eq!(Vec::from_iter(told), ["no variable is put into `/${q}`"]);
}

#[test]
fn servers_and_providers_that_answer_elsewhere_are_warned_of() {
    let of = |servers: &str, rules: &str| -> Vec<String> {
        let policy = super::policy(&format!(
            "version: 1\nproviders: [{{name: ours, api: openai, hosts: ['*.llm.example.org']}}]\ntool_servers: {servers}\nagents: [{{name: coder}}]\nrules: {rules}\n"
        ));
        let warnings = policy.warnings().iter();
        warnings.map(|it| it.message.clone()).collect()
    };
    let server = |name: &str, says: &str| format!("{{name: {name}, api: mcp, {says}}}");
    let wide = server("t", "hosts: [t.example.com]");
    let below = server("t", "hosts: ['*.example.com']");
    let admin = server("u", "hosts: [t.example.com], paths: ['/admin/**']");
    let users = server("v", "hosts: [t.example.com], paths: ['/users/**']");
    let both = server(
        "w",
        "hosts: [t.example.com], paths: ['/admin/x', '/users/*']",
    );
    let never =
        |name: &str, others: &str| format!("`{name}` never answers: {others} wherever it would");
    for (servers, expected) in [
        ([&wide, &admin].as_slice(), vec![never("u", "`t` answers")]),
        (&[&below, &admin], vec![never("u", "`t` answers")]),
        (
            &[&admin, &users, &both],
            vec![never("w", "`u`, `v` answer")],
        ),
        (&[&admin, &both], vec![]),
        (&[&admin, &wide], vec![]),
        (&[&admin, &users], vec![]),
    ] {
        let servers: Vec<&str> = servers.iter().map(|it| it.as_str()).collect();
        assert_eq!(of(&format!("[{}]", servers.join(", ")), "[]"), expected);
    }
    let servers = "[{name: s, api: mcp, hosts: [s.example.com]}, {name: t, api: mcp, hosts: ['*.t.example.com']}]";
    let tools = "none of these servers answers where this rule is for, so that nothing there is a message to one";
    let calls = "none of these providers answers where this rule is for, so that nothing there is a call of one";
    for (matches, expected) in [
        ("host: [a.t.example.com], tool: {server: [s]}", Some(tools)),
        ("host: [s.example.com], tool: {server: [t]}", Some(tools)),
        ("host: [s.example.com], tool: {server: [s]}", None),
        ("host: ['*.example.com'], tool: {server: [t]}", None),
        ("tool: {server: [s]}", None),
        (
            "host: [api.openai.com], llm: {provider: [anthropic]}",
            Some(calls),
        ),
        (
            "host: [a.llm.example.org], llm: {provider: ['open*']}",
            Some(calls),
        ),
        (
            "host: ['*.openai.com'], llm: {provider: [ours]}",
            Some(calls),
        ),
        ("host: ['*.openai.com'], llm: {provider: [openai]}", None),
        (
            "host: [a.llm.example.org, api.openai.com], llm: {provider: [ours]}",
            None,
        ),
        (
            "host: ['*.amazonaws.com'], llm: {provider: [bedrock]}",
            None,
        ),
        ("llm: {provider: [ours]}", None),
    ] {
        let told = of(
            servers,
            &format!("[{{id: a, match: {{{matches}}}, action: deny}}]"),
        );
        assert_eq!(told, Vec::from_iter(expected), "{matches}");
    }
}

#[test]
fn a_denial_of_every_address_says_of_which_family() {
    for (cidr, every) in [
        ("0.0.0.0/0", "every address of IPv4,"),
        ("'::/0'", "every address of IPv6,"),
        ("0.0.0.0/0, '::/0'", "every address,"),
    ] {
        let rules = format!("  - {{id: b, match: {{cidr: [{cidr}]}}, action: deny}}\n");
        let policy = super::policy(&rule(&rules));
        let told = policy.warnings().iter().map(|it| it.message.clone());
        let expected = format!("rule `b` denies {every} and with it every name that leads to one");
        assert_eq!(Vec::from_iter(told), [expected]);
    }
}

#[test]
fn ranges_that_permit_nothing_are_warned_of() {
    let nothing = "permits nothing";
    let holds = "`169.254.0.0/16` does not open `169.254.169.254/32`, which it holds";
    for (range, told) in [
        ("8.8.8.0/24", Some(nothing)),
        ("'2606:4700::/32'", Some(nothing)),
        ("'64:ff9b::/96'", Some(nothing)),
        ("198.18.0.0/15", Some(nothing)),
        ("224.0.0.0/8", Some(nothing)),
        ("169.254.0.0/16", Some(holds)),
        ("169.254.169.254/32", None),
        ("10.0.0.0/8", None),
        ("10.1.2.3/32", None),
        ("100.64.0.0/10", None),
        ("127.0.0.0/8", None),
        ("'fd00::/8'", None),
    ] {
        let rules = format!(
            "  - {{id: a, match: {{host: [a.example], port: [443]}}, action: allow, resolved_ranges: [{range}]}}\n"
        );
        let policy = super::policy(&rule(&rules));
        let found: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        match told {
            Some(told) => assert!(found.concat().contains(told), "{range} {found:?}"),
            None => assert!(found.is_empty(), "{range} {found:?}"),
        }
    }
}

#[test]
fn expressions_about_what_is_not_there_are_warned_of() {
    let of = |when: &str| -> Vec<String> {
        let policy = super::policy(&format!(
            "version: 1\ntool_servers: [{{name: files, api: mcp, hosts: [a.example]}}]\nagents: [{{name: coder}}]\nrules:\n  - id: a\n    match: {{host: [a.example, api.openai.com]}}\n    action: deny\n    when: \"{when}\"\n"
        ));
        policy.warnings().iter().map(ToString::to_string).collect()
    };
    for (when, told) in [
        (
            "llm.provider == 'opnai'",
            "p.yaml:8:29: warning: no provider is called `opnai`\n  hint: did you mean `openai`?",
        ),
        (
            "tool.server in ['files', 'nope']",
            "p.yaml:8:38: warning: no server of tools is called `nope`\n  hint: a server of tools is declared under `tool_servers`, with its hosts",
        ),
        (
            "request.path.matches('^admin')",
            "p.yaml:8:34: warning: `request.path.matches('^admin')`: no path is found by the pattern `^admin`\n  hint: a path begins with `/`: `^/`",
        ),
        (
            "request.path.contains('/../')",
            "p.yaml:8:35: warning: `request.path.contains('/../')`: no path has `/../` there\n  hint: the path is the canonical one: without `.` and `..`",
        ),
    ] {
        assert_eq!(of(when), [told], "{when}");
    }
    for when in [
        "llm.provider == 'openai' || tool.server == 'files' || llm.provider == ''",
        "tool.server != '' && llm.provider.startsWith('opn')",
        "request.path.matches('^/admin') || request.path.matches('^a?') || request.path.matches('^a|b')",
        "request.path.contains('..') || request.path.contains('/.git/') || request.path.endsWith('/.git')",
        "request.method.matches('^P')",
        "int('443') == destination.port && request.method != 'GET'",
    ] {
        assert_eq!(of(when), [""; 0], "{when}");
    }
}

#[test]
fn a_text_that_is_no_number_is_refused() {
    let rules = rule(
        "  - {id: a, match: {host: [a.example], transport: [tcp]}, action: deny, when: \"int('0x1BB') == destination.port\"}\n",
    );
    let found = compile(&[document(&rules)]).unwrap_err().to_string();
    assert!(
        found.contains("`0x1BB` is no whole number, so it can never be evaluated"),
        "{found}"
    );
}
