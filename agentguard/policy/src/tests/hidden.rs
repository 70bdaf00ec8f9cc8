//! Rules that others leave nothing to say, where that takes more than to compare two of them word by word.

use super::policy;

/// The first lines of the warnings, without where the rule begins.
fn told(head: &str, rules: &str) -> Vec<String> {
    let policy = policy(&format!("version: 1\n{head}rules:\n{rules}"));
    let warnings = policy.warnings().iter();
    warnings.map(|it| it.message.clone()).collect()
}

const CODER: &str = "agents: [{name: coder}]\n";

const TWO: &str = "agents: [{name: coder, labels: {team: web}}, {name: tester}]\n";

const FIRST: &str = "strategy: priority_first_match\nagents: [{name: coder}]\n";

#[test]
fn a_path_within_another_pattern_is_covered() {
    let rules = |allowed: &str, denied: &str| {
        format!(
            "  - {{id: a, match: {{host: [a.example], port: [443], path: ['{allowed}']}}, action: allow, handling: inspect}}\n  - {{id: b, match: {{host: [a.example], port: [443], path: ['{denied}']}}, action: deny}}\n"
        )
    };
    let never = "rule `a` never allows anything: rule `b` (line 5) denies all of it";
    for (allowed, denied, hidden) in [
        ("/x/y", "/x/**", true),
        ("/x/y", "/x/*", true),
        ("/x/y/*", "/x/**", true),
        ("/x/*", "/x/y", false),
        ("/x/**", "/x/*", false),
        ("/z", "/x/**", false),
    ] {
        let expected: &[&str] = if hidden { &[never] } else { &[] };
        assert_eq!(
            told(CODER, &rules(allowed, denied)),
            expected,
            "{allowed} {denied}"
        );
    }
    let both = rules("/x/**", "/x/y").replace("deny", "allow, handling: inspect");
    assert_eq!(
        told(CODER, &both),
        ["rule `b` adds nothing to rule `a` (line 4)"]
    );
    // What fails denies: to take it out may allow more.
    let fails = "  - {id: a, match: {host: [a.example], port: [80]}, action: allow}\n  - {id: b, match: {host: [a.example], port: [80]}, when: \"request.headers['x'] == 'y'\", action: allow}\n";
    assert_eq!(
        told(CODER, fails),
        [
            "rule `b` allows nothing that rule `a` (line 4) does not, and denies what its expression cannot be evaluated on"
        ]
    );
    let denials = fails.replace("allow", "deny");
    assert_eq!(
        told(CODER, &denials),
        ["rule `b` adds nothing to rule `a` (line 4)"]
    );
    assert_eq!(
        told(FIRST, &rules("/x/**", "/x/admin")),
        ["rule `b` never decides: rule `a` (line 5) comes before it and matches all of it"]
    );
    // Values too.
    let values = "  - {id: a, match: {host: [a.example], port: [80], query: {x: ['a-1']}}, action: allow}\n  - {id: b, match: {host: [a.example], query: {x: ['a-*']}}, action: deny}\n";
    assert_eq!(told(CODER, values), [never]);
}

/// What comes first does not match where a name leads to what it does not open.
#[test]
fn what_opens_an_address_is_not_preceded_by_what_does_not() {
    let web = "  - {id: web, match: {host: [a.example], port: [443]}, action: allow}\n";
    let opens = "  - {id: opens, match: {host: [a.example], port: [443]}, action: allow, resolved_ranges: [10.1.0.0/16]}\n";
    let denies = "  - {id: denies, match: {host: [a.example], port: [443], transport: [tcp]}, action: deny}\n";
    let wide = opens
        .replace("id: opens", "id: wide")
        .replace("10.1.0.0/16", "10.0.0.0/8");
    let more = &opens.replace("[443]", "[443, 8443]");
    let never = |id: &str, by: &str, line: u32| {
        format!(
            "rule `{id}` never decides: rule `{by}` (line {line}) comes before it and matches all of it"
        )
    };
    for (rules, expected) in [
        ([web, opens].concat(), vec![]),
        ([opens, web].concat(), vec![never("web", "opens", 5)]),
        ([&wide, opens].concat(), vec![never("opens", "wide", 5)]),
        ([opens, &wide].concat(), vec![]),
        ([web, denies].concat(), vec![never("denies", "web", 5)]),
        // At 10.1.2.3 the denial comes before the last.
        ([web, denies, more].concat(), vec![]),
    ] {
        assert_eq!(told(FIRST, &rules), expected, "{rules}");
    }
    // A denial by address is for names too.
    let bare = "  - {id: bare, match: {cidr: [192.0.2.0/24], port: [443]}, action: allow}\n  - {id: denies, match: {cidr: [192.0.2.0/24], port: [443], transport: [tcp]}, action: deny}\n";
    let rules = [bare, web].concat();
    assert_eq!(told(FIRST, &rules), [""; 0]);
    assert_eq!(
        told(FIRST, bare),
        [
            "rule `denies` decides nothing that any rule allows: rule `bare` (line 5) comes before it"
        ]
    );
}

/// With ranks what stands above decides alone, so that what it leaves nothing to changes nothing.
#[test]
fn a_change_behind_what_decides_is_told() {
    let head = "strategy: priority_first_match\ntool_servers: [{name: mail, api: mcp, hosts: [a.example]}]\nagents: [{name: coder}]\n";
    let modify = "  - {id: m, priority: 1, match: {host: [a.example], port: [443], MATCH}, action: modify, modify: {headers: {drop: [cookie]}}, handling: inspect}\n";
    let rules = |above: &str, says: &str, below: &str| {
        let above = format!(
            "  - {{id: above, priority: 9, match: {{host: [a.example], port: [443], {above}}}, {says}}}\n"
        );
        let rules = above + &modify.replace("MATCH", below);
        rules.replace(", }", "}")
    };
    let never =
        ["rule `m` never decides: rule `above` (line 6) comes before it and matches all of it"];
    let allow = "action: allow, handling: inspect";
    let change = "action: modify, modify: {headers: {drop: [referer]}}, handling: inspect";
    let tool = "tool: {name: [send]}";
    for (above, says, below, hidden) in [
        ("", allow, "", true),
        ("", change, "", true),
        ("", "action: deny", "", true),
        ("", allow, "path: [/x]", true),
        ("method: [POST]", allow, "method: [POST], path: [/x]", true),
        (
            "tool: {server: [mail]}",
            allow,
            "tool: {server: [mail], name: [send]}",
            true,
        ),
        ("path: [/x]", "action: deny", "path: [/x]", true),
        ("path: [/x]", allow, "", false),
        // `/%2Fx` is not what it allows, and may be changed where something else allows it.
        ("path: [/x]", allow, "path: [/x]", false),
        ("path: [/x]", change, "path: [/x]", false),
        (tool, allow, tool, false),
        // `ping` is not what it denies.
        (tool, "action: deny", tool, false),
        (
            "",
            "when: \"agent.name == 'coder'\", action: allow, handling: inspect",
            "",
            false,
        ),
    ] {
        let expected: &[&str] = if hidden { &never } else { &[] };
        let rules = rules(above, says, below);
        assert_eq!(told(head, &rules), expected, "{rules}");
    }
    // Where all of them count it changes what the other one allows.
    let other = rules("", allow, "")
        .replace("priority: 9, ", "")
        .replace("priority: 1, ", "");
    assert_eq!(told(CODER, &other), [""; 0]);
}

#[test]
fn several_denials_together_leave_an_allowance_nothing() {
    let wide = "  - {id: a, match: {host: [a.example.com], port: ['400-500']}, action: allow}\n";
    let denials = |first: &str, second: &str| {
        format!(
            "{wide}  - {{id: b, match: {{host: ['*.example.com'], port: ['{first}']}}, action: deny}}\n  - {{id: c, match: {{host: ['*.example.com'], port: ['{second}']}}, action: deny}}\n  - {{id: d, match: {{host: [a.example.com], port: ['440-460']}}, action: deny}}\n"
        )
    };
    // The one that is not needed for it is not named.
    assert_eq!(
        told(CODER, &denials("400-450", "451-500")),
        [
            "rule `a` never allows anything: rules `b` (line 5) and `c` (line 6) together deny all of it"
        ]
    );
    assert_eq!(told(CODER, &denials("400-450", "480-500")), [""; 0]);
    let hosts = "match: {host: [a.example], port: [443]}";
    let all = format!("  - {{id: a, {hosts}, action: allow}}\n");
    let denied =
        |id: &str, whom: &str| format!("  - {{id: {id}, {whom}, {hosts}, action: deny}}\n");
    let coder = denied("b", "agents: [coder]");
    let tester = denied("c", "agents: [tester]");
    assert_eq!(
        told(TWO, &format!("{all}{coder}{tester}")),
        [
            "rule `a` never allows anything: rules `b` (line 5) and `c` (line 6) together deny all of it"
        ]
    );
    assert_eq!(told(TWO, &format!("{all}{coder}")), [""; 0]);
}

#[test]
fn the_first_ones_together_leave_the_last_one_nothing() {
    let rules = |second: &str| {
        format!(
            "  - {{id: a, match: {{host: [a.example], port: ['1-100']}}, action: allow}}\n  - {{id: b, match: {{host: [a.example], port: ['{second}']}}, action: allow}}\n  - {{id: c, match: {{host: [a.example]}}, action: deny}}\n"
        )
    };
    assert_eq!(
        told(FIRST, &rules("101-65535")),
        [
            "rule `c` decides nothing over TCP: rules `a` (line 5) and `b` (line 6) come before it and together match all of that"
        ]
    );
    assert_eq!(
        told(FIRST, &rules("101-65534")),
        [
            "rule `c` decides nothing that any rule allows: rules `a` (line 5) and `b` (line 6) come before it"
        ]
    );
}

#[test]
fn whom_labels_and_groups_select_is_known() {
    let rules = |allowed: &str, denied: &str| {
        format!(
            "  - {{id: a, {allowed}, match: {{host: [a.example]}}, action: allow}}\n  - {{id: b, {denied}, match: {{host: [a.example]}}, action: deny}}\n"
        )
    };
    let grouped = format!("{TWO}groups: [{{name: web, agents: [coder]}}]\n");
    let contradicted = |line: u32| {
        format!("rule `a` allows exactly what rule `b` (line {line}) denies, so it is denied")
    };
    assert_eq!(
        told(TWO, &rules("labels: {team: web}", "agents: [coder]")),
        [contradicted(5)]
    );
    assert_eq!(
        told(&grouped, &rules("groups: [web]", "agents: [coder]")),
        [contradicted(6)]
    );
    assert_eq!(
        told(
            TWO,
            &rules("agents: [coder, tester]", "labels: {team: web}")
        ),
        [""; 0]
    );
    // Two that allow the same may be meant for agents that are not there yet.
    let both = rules("labels: {team: web}", "agents: [coder]").replace("deny", "allow");
    assert_eq!(told(TWO, &both), [""; 0]);
    // Where the narrower one decides, the one by name is that.
    let narrow = format!("strategy: most_specific_wins\n{TWO}");
    assert_eq!(
        told(&narrow, &rules("agents: [coder]", "labels: {team: web}")),
        [""; 0]
    );
}

const NARROW: &str = "strategy: most_specific_wins\ntool_servers: [{name: mail, api: mcp, hosts: [a.example]}]\nagents: [{name: coder}]\n";

/// Where nothing is allowed, what a denial says there changes nothing.
#[test]
fn a_denial_below_all_that_it_could_deny_is_told() {
    let first = FIRST.replace(
        "agents",
        "tool_servers: [{name: mail, api: mcp, hosts: [a.example]}]\nagents",
    );
    let first = first.as_str();
    let before =
        "rule `de` decides nothing that any rule allows: rule `al` (line 6) comes before it";
    let above = "rule `de` decides nothing that any rule allows: rule `al` (line 6) ranks above it";
    let al = "  - {id: al, match: {host: ['*.a.example', a.example], port: [443]}, action: allow, handling: inspect}\n";
    let exact =
        "  - {id: al, match: {host: [a.example], port: [443]}, action: allow, handling: inspect}\n";
    let de = |says: &str| format!("  - {{id: de, {says}, action: deny}}\n");
    for (head, allows, denies, expected) in [
        (first, al, "match: {host: [x.a.example]}", Some(before)),
        (
            first,
            al,
            "match: {host: [a.example], method: [DELETE]}",
            Some(before),
        ),
        (first, al, "match: {tool: {name: [send]}}", Some(before)),
        (
            first,
            al,
            "match: {transport: [tcp]}, when: \"agent.name == 'coder'\"",
            Some(before),
        ),
        // What comes first decides.
        (first, al, "priority: 1, match: {host: [x.a.example]}", None),
        // The rest, of which the other is the exception.
        (first, al, "match: {port: ['1-65535']}", None),
        (
            first,
            exact,
            "match: {host: ['*.example.org', a.example]}",
            None,
        ),
        // What nothing allows.
        (first, al, "match: {host: [b.example]}", None),
        (first, al, "match: {host: [a.example], port: [80]}", None),
        (
            first,
            &al.replace("handling", "mode: shadow, handling"),
            "match: {host: [x.a.example]}",
            None,
        ),
        (
            first,
            &al.replace("port:", "method: [GET], port:"),
            "match: {host: [a.example], method: [DELETE]}",
            None,
        ),
        // Whether a path is of both is not known.
        (
            first,
            &al.replace("port:", "path: ['/x*'], port:"),
            "match: {host: [x.a.example], path: ['/*y']}",
            None,
        ),
        (NARROW, exact, "match: {host: [a.example]}", Some(above)),
        (
            NARROW,
            exact,
            "match: {host: [a.example], transport: [tcp]}, when: \"agent.name == 'coder'\"",
            Some(above),
        ),
        (NARROW, al, "match: {tool: {name: [send]}}", Some(above)),
        (NARROW, al, "match: {host: [x.a.example]}", None),
        (
            NARROW,
            exact,
            "match: {host: [a.example], tool: {name: [send]}}",
            None,
        ),
        (
            NARROW,
            exact,
            "match: {host: ['*.a.example', a.example], port: [443], method: [PUT]}",
            None,
        ),
        (NARROW, exact, "match: {cidr: ['192.0.2.0/24']}", None),
        (NARROW, exact, "match: {host: ['*.example']}", None),
        (
            NARROW,
            exact,
            "agents: [coder], match: {host: [a.example]}",
            None,
        ),
        (
            NARROW,
            exact,
            "agents: [coder], match: {host: ['*.example'], method: [PUT]}",
            Some(above),
        ),
    ] {
        let rules = [allows.to_owned(), de(denies)].concat();
        let told = told(head, &rules);
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        assert_eq!(told, Vec::from_iter(expected), "{head}{rules}");
    }
    // One that it ranks above, or beside, is enough.
    let other = "  - {id: other, match: {host: ['*.b.example']}, action: allow}\n";
    let rules = [al, &de("match: {host: [x.a.example, x.b.example]}"), other].concat();
    assert_eq!(told(first, &rules), [""; 0]);
    let rules = [al, other, &de("match: {host: [x.a.example, x.b.example]}")].concat();
    assert_eq!(
        told(first, &rules),
        [
            "rule `de` decides nothing that any rule allows: rules `al` (line 6) and `other` (line 7) come before it"
        ]
    );
}
