//! Documents that are refused or warned about: what is said, where, with which hint.

use super::document;
use crate::{Document, MAX_RULES, compile};

const HEAD: &str = "version: 1\nagents:\n  - name: coder\n    labels: {team: web}\nrules:\n";

/// The lines of one rule, after [`HEAD`]: the first is line 6.
pub(super) fn rule(text: &str) -> String {
    format!("{HEAD}{text}")
}

pub(super) fn refused(text: &str) -> Vec<String> {
    match compile(&[document(text)]) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_refusal_has_its_place_and_hint() {
    let cases: &[(String, &[&str])] = &[
        (
            "version: 2\n".to_owned(),
            &["p.yaml:1:10: error: version 2 is not known\n  hint: this version of the guard reads `version: 1`"],
        ),
        (
            "version: 1\nagents:\n  - name: a\n    sandbox: {user_namespace: allow}\n".to_owned(),
            &["p.yaml:4:15: error: unknown key `user_namespace`\n  hint: did you mean `user_namespaces`?"],
        ),
        (
            "version: 1\nagents:\n  - name: a\n    sandbox: {unmasked_paths: []}\n  - name: b\n    sandbox: {unmasked_paths: [run/x, /run/../x, /run/x]}\n".to_owned(),
            &[
                "p.yaml:4:31: error: `unmasked_paths` is empty\n  hint: leave `unmasked_paths` out to mask all that is masked to others",
                "p.yaml:6:32: error: `run/x` is not an absolute path of a file or directory\n  hint: begin it with `/` and write it without `..`, as in /run/docker.sock",
                "p.yaml:6:39: error: `/run/../x` is not an absolute path of a file or directory\n  hint: begin it with `/` and write it without `..`, as in /run/docker.sock",
            ],
        ),
        (
            "version: 1\nagents:\n  - name: a\n    resources: {cpu: 500m, memory: 64K, memory_high: 1KiB, pids: 0, missing: deny}\n".to_owned(),
            &[
                "p.yaml:4:22: error: `cpu: 500m` is not a number of processors\n  hint: like `2`, `1.5` or `0.25`: processors, with three decimals at most, from 0.01 to 4096",
                "p.yaml:4:36: error: `memory: 64K` is not a number of bytes\n  hint: like `512MiB` or `2GiB`",
                "p.yaml:4:54: error: `memory_high: 1KiB` is less than 1 MiB, with which nothing runs\n  hint: like `512MiB` or `2GiB`",
                "p.yaml:4:66: error: `pids: 0` is not a number of processes\n  hint: from 1 to 4194304; a shell and one command are 2, and each thread counts",
                "p.yaml:4:78: error: unknown value `deny`\n  hint: it can be refuse, warn",
            ],
        ),
        (
            "version: 1\nagents:\n  - name: a\n    resources: {memory: 1GiB, memory_high: 1GiB}\n  - name: b\n    resources: {missing: warn}\n  - name: c\n    resources: {pid: 5}\n".to_owned(),
            &[
                "p.yaml:4:44: error: `memory_high` is not below `memory`, so it would never slow anything down\n  hint: what is above `memory_high` is slowed down, and what is above `memory` killed: leave room between them",
                "p.yaml:6:16: error: `resources` limits nothing\n  hint: add `cpu`, `memory`, `memory_high`, `pids` or `io`, or leave `resources` out",
                "p.yaml:8:17: error: unknown key `pid`\n  hint: did you mean `pids`?",
            ],
        ),
        (
            "version: 1\nagents:\n  - name: a\n    resources:\n      io:\n        - {device: sda, read: 1MiB}\n        - {device: /dev/sda, read: 0}\n        - {device: /dev/sda, write: 1MiB}\n        - {device: \"8:16\"}\n        - {device: \"8:32\", read_ops: 0}\n        - {read: 1MiB}\n".to_owned(),
            &[
                "p.yaml:6:20: error: `sda` is not a block device\n  hint: its node, as `/dev/vda`, or its number, as \"254:0\" (`lsblk` shows both); the whole device, not a partition",
                "p.yaml:7:36: error: `read: 0` is not a number of bytes in a second\n  hint: like `10MiB`; nothing at all is no rate",
                "p.yaml:8:20: error: a second limit for `/dev/sda`\n  hint: write all of a device's limits in one entry",
                "p.yaml:9:11: error: nothing is limited of `8:16`\n  hint: add `read`, `write`, `read_ops` or `write_ops`",
                "p.yaml:10:38: error: `read_ops: 0` is not a number of operations in a second\n  hint: from 1 on; nothing at all is no rate",
                "p.yaml:11:11: error: missing key `device`\n  hint: add `device: …` beside the keys that are there",
            ],
        ),
        (
            "agents: []\n".to_owned(),
            &["p.yaml:1:1: error: missing key `version`\n  hint: add `version: …` beside the keys that are there"],
        ),
        (
            rule("  - id: a\n    action: allow\n    handeling: direct\n"),
            &["p.yaml:8:5: error: unknown key `handeling`\n  hint: did you mean `handling`?"],
        ),
        (
            rule("  - id: a\n    action: alow\n"),
            &["p.yaml:7:13: error: unknown value `alow`\n  hint: did you mean `allow`?"],
        ),
        (
            rule("  - id: A b\n    action: allow\n"),
            &["p.yaml:6:9: error: `A b` is not a rule's id: 1 to 64 characters a-z 0-9 . _ -\n  hint: like `deny-metadata`"],
        ),
        (
            rule("  - id: a\n    agents: [codr]\n    action: deny\n"),
            &["p.yaml:7:14: error: no agent is called `codr`\n  hint: did you mean `coder`?"],
        ),
        (
            rule("  - id: a\n    action: deny\n  - id: a\n    action: deny\n"),
            &["p.yaml:8:9: error: a second rule `a`\n  hint: it stands in p.yaml, line 6, already"],
        ),
        (
            rule("  - id: a\n    match: {host: []}\n    action: allow\n"),
            &["p.yaml:7:19: error: `host` is empty, so it would match nothing\n  hint: leave `host` out to match all"],
        ),
        (
            rule("  - id: a\n    match: {host: [192.0.2.1]}\n    action: allow\n"),
            &["p.yaml:7:20: error: `192.0.2.1` is not a host name: it is an address, or could be read as one\n  hint: an address goes under `cidr`"],
        ),
        (
            rule("  - id: a\n    match: {host: [\"https://example.org/\"]}\n    action: allow\n"),
            &["p.yaml:7:20: error: `https://example.org/` is not a host name: a label has a character other than a-z 0-9 - _\n  hint: only the name goes here; a path goes under `path`, a port under `port`"],
        ),
        (
            rule("  - id: a\n    match: {host: example.org}\n    action: allow\n"),
            &["p.yaml:7:19: error: expected a list, found the text `example.org`\n  hint: write a list: [example.org]"],
        ),
        (
            rule("  - id: a\n    match: {host: [\"*\"]}\n    action: allow\n"),
            &["p.yaml:7:20: error: `*` is not a host\n  hint: leave `host` out to match any destination"],
        ),
        (
            rule("  - id: a\n    match: {cidr: [192.0.2.1]}\n    action: allow\n"),
            &["p.yaml:7:20: error: `192.0.2.1` has no prefix length\n  hint: for this one address write `192.0.2.1/32`"],
        ),
        (
            rule("  - id: a\n    match: {cidr: [010.0.0.0/8]}\n    action: allow\n"),
            &["p.yaml:7:20: error: `010.0.0.0/8` has a number with zeros before it\n  hint: some read those as octal; for decimal ones write `10.0.0.0/8`"],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example]}\n    obligations: {}\n    action: allow\n"),
            &["p.yaml:8:18: error: `obligations` is empty\n  hint: leave it out, or say to what it obliges: `{log: warn}`"],
        ),
        (
            rule("  - id: a\n    match: {cidr: [192.0.2.1/24]}\n    action: allow\n"),
            &["p.yaml:7:20: error: `192.0.2.1/24` has bits beyond its prefix length\n  hint: `192.0.2.0/24`, or one address: `192.0.2.1/32`"],
        ),
        (
            rule("  - id: a\n    match: {cidr: [\"::ffff:10.0.0.0/104\"]}\n    action: allow\n"),
            &["p.yaml:7:20: error: `::ffff:10.0.0.0/104` is a range of IPv4 addresses\n  hint: write `10.0.0.0/8`"],
        ),
        (
            rule("  - id: a\n    match:\n      port: [0, 9000-8000, http, 70000, 0443, \"+80\"]\n    action: deny\n"),
            &[
                "p.yaml:8:14: error: `0`: there is no port 0\n  hint: leave `port` out to match any; the first one is 1",
                "p.yaml:8:17: error: `9000-8000` ends before it begins\n  hint: \"8000-9000\"",
                "p.yaml:8:28: error: `http` is not a port\n  hint: like 443 or \"8000-8100\"",
                "p.yaml:8:34: error: `70000`: the last port is 65535\n  hint: like 443 or \"8000-8100\"",
                "p.yaml:8:41: error: `0443` is not a port\n  hint: like 443 or \"8000-8100\"",
                "p.yaml:8:47: error: `+80` is not a port\n  hint: like 443 or \"8000-8100\"",
            ],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], method: [get]}\n    action: allow\n"),
            &["p.yaml:7:41: error: `get` is not a method that passes: at most 24 characters A-Z -\n  hint: did you mean `GET`?"],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], method: [ABCDEFGHIJKLMNOPQRSTUVWXYZ]}\n    action: deny\n"),
            &["p.yaml:7:41: error: `ABCDEFGHIJKLMNOPQRSTUVWXYZ` is not a method that passes: at most 24 characters A-Z -\n  hint: it has 26 characters; leave `method` out to match any that passes"],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], path: [a, \"/b?c\", \"/d//e\", \"/%41\"]}\n    action: allow\n"),
            &[
                "p.yaml:7:39: error: path `a` does not begin with `/`\n  hint: `/a`",
                "p.yaml:7:42: error: path `/b?c` has a `?` or `#`\n  hint: rules see the path without the query",
                "p.yaml:7:50: error: path `/d//e` has `//`\n  hint: in the canonical path runs of `/` are one",
                "p.yaml:7:59: error: path `/%41` has an escape that a canonical path never has\n  hint: letters, digits and `- . _ ~` are not escaped; other escapes are `%` and two upper-case hexadecimal digits",
            ],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], query: {}, header: {host: [a], \"x y\": [b], accept: []}}\n    action: allow\n"),
            &[
                "p.yaml:7:39: error: `query` is empty, so it would match nothing\n  hint: leave `query` out to match all",
                "p.yaml:7:58: error: `host` is not passed on as it comes, so no rule can look at it\n  hint: a name goes under `host`",
                "p.yaml:7:70: error: `x y` is not the name of a header field\n  hint: like `content-type`",
                "p.yaml:7:83: error: `header: accept` is empty, so it would match nothing\n  hint: leave `header: accept` out to match all",
            ],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], header: {content-length: [\"1*\"], upgrade: [h2c]}}\n    action: deny\n"),
            &[
                "p.yaml:7:57: error: `content-length` is not passed on as it comes, so no rule can look at it\n  hint: `body_over`, which also sees what comes without it",
                "p.yaml:7:74: error: `upgrade` is not passed on as it comes, so no rule can look at it\n  hint: it is for one hop or frames the message; leave it out",
            ],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], query: {\"\": [b]}, body_over: 1MiB}\n    action: allow\n"),
            &[
                "p.yaml:7:44: error: `` is not a parameter of a query\n  hint: its name as it is when decoded",
                "p.yaml:7:61: error: `body_over` is for a rule that denies\n  hint: an `allow` for the requests, and a `deny` with `body_over` beside it",
            ],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], body_over: 1MB}\n    action: deny\n  - id: b\n    match: {host: [a.example], body_over: 99999999999999999999}\n    action: deny\n  - id: c\n    match: {host: [a.example], body_over: 99999999999GiB}\n    action: deny\n"),
            &[
                "p.yaml:7:43: error: `body_over: 1MB` is not a number of bytes\n  hint: like 65536, `64KiB` or `10MiB`",
                "p.yaml:10:43: error: `body_over: 99999999999999999999` is not a number of bytes\n  hint: like 65536, `64KiB` or `10MiB`",
                "p.yaml:13:43: error: `body_over: 99999999999GiB` is not a number of bytes\n  hint: like 65536, `64KiB` or `10MiB`",
            ],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], path: [/b]}\n    handling: direct\n    action: allow\n"),
            &["p.yaml:8:15: error: `direct` cannot go with what looks at requests: nothing looks at a direct flow\n  hint: `handling: splice`"],
        ),
        (
            "version: 1\ndefaults: {default_handling: inspect}\nagents:\n  - {name: coder, default_handling: inspect}\n".to_owned(),
            &[
                "p.yaml:2:30: error: `default_handling` cannot be `inspect` in this version\n  hint: `splice` here, and `handling: inspect` on a rule that allows the names to look into",
                "p.yaml:4:37: error: `default_handling` cannot be `inspect` in this version\n  hint: `splice` here, and `handling: inspect` on a rule that allows the names to look into",
            ],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], transport: [udp]}\n    handling: inspect\n    action: allow\n"),
            &["p.yaml:8:15: error: datagrams cannot be inspected\n  hint: `handling: direct`, or leave `udp` out"],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], transport: [tcp, udp]}\n    handling: inspect\n    action: allow\n"),
            &["p.yaml:8:15: error: datagrams cannot be inspected\n  hint: `handling: direct`, or leave `udp` out"],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], transport: [tcp]}\n    handling: inspect\n    action: deny\n"),
            &["p.yaml:8:15: error: a denial has no `handling`\n  hint: leave `handling` out: nothing is passed on"],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], transport: [udp]}\n    handling: splice\n    action: allow\n"),
            &["p.yaml:8:15: error: datagrams cannot be spliced\n  hint: `handling: direct`, or leave `udp` out"],
        ),
        (
            rule("  - id: a\n    match: {host: [a.example], transport: [tcp, udp]}\n    action: allow\n"),
            &["p.yaml:7:43: error: datagrams cannot be spliced, so this rule has no handling for both transports\n  hint: `handling: direct`, or one rule for each transport"],
        ),
        (
            rule("  - id: a\n    match: {cidr: [192.0.2.0/24]}\n    resolved_ranges: [10.0.0.0/8]\n    action: allow\n"),
            &["p.yaml:8:22: error: `resolved_ranges` is for a rule that allows names\n  hint: leave it out: addresses of a rule itself go under `cidr`"],
        ),
        (
            "version: 1\nagents:\n  - name: Coder\n  - name: a\n    cgroup: [a/../b]\n  - name: a\n".to_owned(),
            &[
                "p.yaml:3:11: error: `Coder` is not an agent name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit\n  hint: like `coder` or `support-2`",
                "p.yaml:5:14: error: `a/../b` has a `.` or `..` segment, which a path never has\n  hint: a path below `cgroup_root`, as `coders/*`, or from the root of the file system: `/sys/fs/cgroup/app.slice/**`",
                "p.yaml:6:11: error: a second agent `a`\n  hint: it stands in p.yaml, line 4, already",
            ],
        ),
        (
            "version: 1\ndefaults: {mode: enforced}\n".to_owned(),
            &["p.yaml:2:18: error: unknown value `enforced`\n  hint: did you mean `enforce`?"],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(&refused(text), expected, "{text}");
    }
}

#[test]
fn errors_of_form_and_of_meaning_come_together() {
    let text = rule(
        "  - id: a\n    acton: allow\n    match: {port: [0]}\n  - id: b\n    agents: [nobody]\n    match: {port: [99999]}\n    action: deny\n",
    );
    // What the rule with the misspelt key says otherwise is judged too.
    assert_eq!(
        refused(&text),
        [
            "p.yaml:7:5: error: unknown key `acton`\n  hint: did you mean `action`?",
            "p.yaml:8:20: error: `0`: there is no port 0\n  hint: leave `port` out to match any; the first one is 1",
            "p.yaml:10:14: error: no agent is called `nobody`\n  hint: an agent is declared under `agents`",
            "p.yaml:11:20: error: `99999`: the last port is 65535\n  hint: like 443 or \"8000-8100\"",
        ]
    );
}

/// A key that belongs one level further up says so.
#[test]
fn a_key_that_stands_too_deep_is_told_where_it_goes() {
    let found = refused(
        "version: 1\nagents: [{name: coder}]\nrules:\n  - id: x\n    match:\n      host: [a.example]\n      when: request.method == 'GET'\n      handling: inspect\n      llm: {port: [443], providr: [openai]}\n    action: allow\n    strategy: deny_overrides\n",
    );
    assert_eq!(
        found,
        [
            "p.yaml:7:7: error: unknown key `when`\n  hint: `when` stands beside `match`, and not in it",
            "p.yaml:8:7: error: unknown key `handling`\n  hint: `handling` stands beside `match`, and not in it",
            "p.yaml:9:13: error: unknown key `port`\n  hint: `port` stands beside `llm`, and not in it",
            "p.yaml:9:26: error: unknown key `providr`\n  hint: did you mean `provider`?",
            "p.yaml:11:5: error: unknown key `strategy`\n  hint: `strategy` stands beside `rules`, and not in it",
        ]
    );
}

/// One mistake hides no other.
#[test]
fn everything_wrong_with_a_rule_is_told_at_once() {
    let of = |text: &str| -> Vec<String> {
        let found = refused(text).into_iter();
        let told = found.map(|it| it.split("\n").next().unwrap_or_default().to_owned());
        told.collect()
    };
    assert_eq!(
        of(
            "version: 1\nagents: [{name: coder, mod: enforce}]\nrules:\n  - {id: x, agents: [nobody], match: {host: [a..b], port: [99999], path: [a]}, action: alow, obligations: {alert: x}}\n  - {id: x, match: {host: [c.example]}, action: deny, handling: Splice}\n"
        ),
        [
            "p.yaml:2:24: error: unknown key `mod`",
            "p.yaml:4:22: error: no agent is called `nobody`",
            "p.yaml:4:46: error: `a..b` is not a host name: it has an empty label",
            "p.yaml:4:60: error: `99999`: the last port is 65535",
            "p.yaml:4:75: error: path `a` does not begin with `/`",
            "p.yaml:4:88: error: unknown value `alow`",
            "p.yaml:4:115: error: `alert` is not there yet",
            "p.yaml:5:10: error: a second rule `x`",
            "p.yaml:5:65: error: unknown value `Splice`",
        ]
    );
    // What is written as empty is, whatever else is wrong.
    assert_eq!(
        of(
            "version: 1\nagents: [{name: coder}]\nrules:\n  - {id: x, match: {host: [a.example], query: {a: [], b: x}, header: {c: [], d: 1}}, action: allow}\n  - {id: y, match: {host: [], port: [[]]}, action: deny}\n  - {id: z, match: {host: [a.example], tool: {arguments: {/a: [], /b: x}}}, action: deny}\n"
        ),
        [
            "p.yaml:4:51: error: `query: a` is empty, so it would match nothing",
            "p.yaml:4:58: error: expected a list, found the text `x`",
            "p.yaml:4:74: error: `header: c` is empty, so it would match nothing",
            "p.yaml:4:81: error: expected a list, found `1`",
            "p.yaml:5:27: error: `host` is empty, so it would match nothing",
            "p.yaml:5:38: error: expected text, found a list",
            "p.yaml:6:63: error: `arguments: /a` is empty, so it would match nothing",
            "p.yaml:6:71: error: expected a list, found the text `x`",
        ]
    );
    // A merge key is read for what it would be, and hides nothing.
    assert_eq!(
        of(
            "version: 1\nagents: [{name: coder}]\nrules:\n  - &a {id: x, match: {host: [a.example], prt: [1]}, action: deny}\n  - {<<: *a, id: y}\n  - {id: z, <<: *a, action: alow}\n  - {<<: [*a], id: w, match: {host: [a..b]}, action: deny}\n"
        ),
        [
            "p.yaml:4:43: error: unknown key `prt`",
            "p.yaml:5:6: error: merge keys (`<<`) are not used here",
            "p.yaml:6:13: error: merge keys (`<<`) are not used here",
            "p.yaml:6:29: error: unknown value `alow`",
            "p.yaml:7:6: error: merge keys (`<<`) are not used here",
            "p.yaml:7:38: error: `a..b` is not a host name: it has an empty label",
        ]
    );
    // What is missing because it was told is not told again.
    assert_eq!(
        of(
            "version: 1\nagents: [{name: coder}]\nrules:\n  - {id: x, match: {host: [[]]}, action: allow}\n  - {id: y, match: {port: [443]}}\n"
        ),
        [
            "p.yaml:4:28: error: expected text, found a list",
            "p.yaml:5:5: error: missing key `action`",
        ]
    );
}

#[test]
fn documents_are_one_policy() {
    let second = Document {
        path: "q.yaml".to_owned(),
        text: "version: 1\ndefaults: {mode: shadow}\nrules:\n  - {id: a, agents: [coder], action: deny}\n"
            .to_owned(),
    };
    let first = rule("  - {id: b, action: deny}\n");
    let both = [document(&first), second.clone()];
    assert_eq!(compile(&both).unwrap().rules().len(), 2);
    let first = rule("  - {id: a, action: deny}\n").replace("rules", "defaults: {}\nrules");
    let found: Vec<_> = compile(&[document(&first), second])
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "q.yaml:2:11: error: a second `defaults`\n  hint: they stand in p.yaml, line 5, already",
            "q.yaml:4:10: error: a second rule `a`\n  hint: it stands in p.yaml, line 7, already",
        ]
    );
}

#[test]
fn bounds_are_told() {
    let many: String = (0..=MAX_RULES)
        .map(|n| format!("  - {{id: r{n}, action: deny}}\n"))
        .collect();
    let found = refused(&rule(&many));
    assert_eq!(
        found,
        [
            "p.yaml:10006:5: error: more than 10000 rules\n  hint: a rule takes any number of hosts, ports and agents: `lists` and `groups` name them once"
        ]
    );

    let agents: String = (0..=10_000).map(|n| format!("  - name: a{n}\n")).collect();
    assert_eq!(
        refused(&format!("version: 1\nagents:\n{agents}")),
        [
            "p.yaml:10003:5: error: more than 10000 agents\n  hint: give agents that have the same rules one name: a run each is told apart all the same"
        ]
    );

    let hosts: Vec<_> = (0..4000)
        .map(|n| format!("host-number-{n}.example"))
        .collect();
    let found = refused(&rule(&format!(
        "  - id: a\n    match: {{host: [{}]}}\n    action: allow\n",
        hosts.join(", ")
    )));
    assert_eq!(
        found,
        [
            "p.yaml:7:19: error: `host` has 94890 bytes; the limit is 65536\n  hint: make two rules of it; a pattern such as `*.example.org` stands for many names"
        ]
    );

    let long = "x".repeat(1025);
    let found = refused(&rule(&format!(
        "  - {{id: a, action: deny, reason: {long}}}\n"
    )));
    assert_eq!(
        found,
        [
            "p.yaml:6:35: error: a reason has 1 to 1024 bytes\n  hint: a sentence for the person who meets it, or leave it out"
        ]
    );

    let big = Document {
        path: "big.yaml".to_owned(),
        text: " ".repeat(700_000),
    };
    let found = compile(&[big.clone(), big]).unwrap_err().to_string();
    assert_eq!(
        found,
        "big.yaml: error: the policy has 1400000 bytes; the limit is 1048576\n  hint: name long lists once, under `lists`; what it no longer needs can go"
    );
}

#[test]
fn a_strategy_is_said_once_and_priorities_where_they_matter() {
    let first = "version: 1\nstrategy: priority_first_match\nagents: [{name: coder}]\n";
    let second = "version: 1\nstrategy: most_specific_wins\n";
    let rule = "rules:\n  - {id: a, priority: 3, action: deny}\n  - {id: b, priority: 9999999999, action: deny}\n";
    let found = compile(&[
        Document {
            path: "one.yaml".to_owned(),
            text: format!("{first}{rule}"),
        },
        Document {
            path: "two.yaml".to_owned(),
            text: second.to_owned(),
        },
    ]);
    let found: Vec<_> = found.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "one.yaml:6:23: error: expected a whole number from -2147483648 to 2147483647, found `9999999999`\n  hint: choose one that is in this range",
            "two.yaml:2:11: error: a second `strategy`\n  hint: it stands in one.yaml, line 2, already",
        ]
    );
    let text = format!(
        "version: 1\nagents: [{{name: coder}}]\n{}",
        rule.replace("9999999999", "1")
    );
    let found = refused(&text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        found[0],
        "p.yaml:4:23: error: `priority` says nothing here: the order of rules does not matter\n  hint: `strategy: priority_first_match` at the top, or leave it out"
    );
}

#[test]
fn an_error_of_an_expression_stands_where_it_is() {
    let refused = |when: &str| {
        let found = refused(&rule(&format!(
            "  - id: a\n    match: {{host: [a.example]}}\n    action: allow\n    when: {when}\n"
        )));
        found[0].clone()
    };
    for (when, told) in [
        ("reqest.method == 'GET'", "p.yaml:9:11: error: `reqest"),
        (
            "\"time.hour > 9 && request.pat == '/'\"",
            "p.yaml:9:29: error: `time",
        ),
        (
            ">-\n      time.hour > 9\n      && agent.name == 'codr'",
            "p.yaml:11:25: error: no agent is called `codr`\n  hint: did you mean `coder`?",
        ),
        (
            "|\n      time.hour > 9\n      && == 9",
            "p.yaml:11:10: error: `time",
        ),
        ("request.method == 'get'", "p.yaml:9:30: error: `request"),
        (
            "destination.host == 'A.example'",
            "p.yaml:9:32: error: `destination",
        ),
        (
            "destination.ip == '::ffff:192.0.2.1'",
            "p.yaml:9:30: error: `destination",
        ),
        (
            "request.path.startsWith('/') && request.path == '/a//b'",
            "p.yaml:9:60: error: `request",
        ),
        (
            "threat.level > 2",
            "p.yaml:9:11: error: `threat.level > 2`: `threat.level` is not there yet",
        ),
        ("time.hour >", "p.yaml:9:22: error: `time"),
    ] {
        let found = refused(when);
        assert!(found.starts_with(told), "{when}: {found}");
    }
}

#[test]
fn conditions_that_cannot_be_are_told() {
    for (rule_text, told) in [
        (
            "{id: a, when: 'switches.x', action: allow, match: {host: [a.example]}}",
            "6:20: error: `switches.x`: no switch is called `x`\n  hint: switches are declared at the top: `switches: {incident: false}`",
        ),
        (
            "{id: a, action: allow, match: {host: [a.example], protocol: [tls, http], path: [/]}}",
            "6:66: error: what is neither `http` nor `websocket` shows no `path`\n  hint: make two rules of it",
        ),
        (
            "{id: a, action: allow, match: {host: [a.example], protocol: [https]}}",
            "6:66: error: unknown value `https`\n  hint: did you mean `http`?",
        ),
        (
            "{id: a, action: allow, match: {host: [a.example], protocol: []}}",
            "6:65: error: `protocol` is empty, so it would match nothing\n  hint: leave `protocol` out to match all",
        ),
        (
            "{id: a, action: allow, when: request.method == 'GET', match: {host: [a.example], protocol: [other]}}",
            "6:96: error: the rest of this rule looks at requests, and this `protocol` shows none\n  hint: add `http` to `protocol`, or make two rules of it",
        ),
        (
            "{id: a, action: allow, handling: inspect, match: {host: [a.example], protocol: [tls]}}",
            "6:38: error: `inspect` opens TLS, and this `protocol` is about nothing that is inside\n  hint: add `http` to `protocol`, or `handling: splice`",
        ),
        (
            "{id: a, action: allow, handling: direct, match: {host: [a.example], protocol: [tls]}}",
            "6:38: error: `direct` cannot go with what looks at requests: nothing looks at a direct flow\n  hint: `handling: splice`",
        ),
        (
            "{id: a, action: deny, match: {host: [a.example], transport: [udp], protocol: [tls]}}",
            "6:66: error: a rule over `udp` cannot look at requests\n  hint: HTTP/3 is not decoded; leave `udp` out, and clients fall back to TCP",
        ),
        (
            "{id: a, when: '', action: allow, match: {host: [a.example]}}",
            "6:19: error: `when` is empty\n  hint: leave it out to match always",
        ),
        (
            "{id: a, when: 'time.hour > 9', action: deny, match: {host: [a.example]}}",
            "6:10: error: a denial with `when`, `time`, `rollout` or a part of the context has to say `transport`\n  hint: `transport: [tcp]`; datagrams are decided by the kernel, which knows none of these: deny them by a rule of their own",
        ),
        (
            "{id: a, when: 'time.hour > 9', action: deny, match: {host: [a.example], transport: [tcp, udp]}}",
            "6:94: error: a rule over `udp` cannot have `when`, `time`, `rollout` or a part of the context\n  hint: datagrams are decided by the kernel, which knows none of these",
        ),
        (
            "{id: a, rollout: {percent: 5}, action: allow, handling: direct, match: {host: [a.example]}}",
            "6:61: error: `direct` cannot go with `when`, `time`, `rollout` or a part of the context: the kernel knows none of these\n  hint: `handling: splice`",
        ),
        (
            "{id: a, rollout: {percent: 101}, action: allow, match: {host: [a.example]}}",
            "6:32: error: `percent: 101` is more than all\n  hint: a whole number from 0 to 100",
        ),
        (
            "{id: a, action: allow, match: {host: [a.example], time: {zone: UTC}}}",
            "6:61: error: `time` says neither `days` nor `hours`\n  hint: `time: {days: [mon-fri], hours: [\"08:00-18:00\"], zone: Europe/Berlin}`",
        ),
        (
            "{id: a, action: allow, match: {host: [a.example], time: {days: [monday]}}}",
            "6:69: error: `monday` is not a day or a run of days\n  hint: like `mon`, `mon-fri` or `fri-sun`",
        ),
        (
            "{id: a, action: allow, match: {host: [a.example], time: {hours: [\"9-5\"]}}}",
            "6:70: error: `9-5` is not a window of time\n  hint: like \"08:00-18:00\" or, over midnight, \"22:00-06:00\"; the end of the day is 24:00",
        ),
        (
            "{id: a, action: allow, match: {host: [a.example], time: {days: [mon], zone: Berlin}}}",
            "6:81: error: `Berlin` is not a time zone\n  hint: as IANA names it: `Europe/Berlin`",
        ),
        (
            "{id: a, action: allow, match: {host: [a.example], user: []}}",
            "6:61: error: `user` is empty, so it would match nothing\n  hint: leave `user` out to match all",
        ),
    ] {
        assert_eq!(
            refused(&rule(&format!("  - {rule_text}\n"))),
            [format!("p.yaml:{told}")],
            "{rule_text}"
        );
    }
    let found = refused("version: 1\nswitches: {Freeze: true, ok: 1}\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .any(|it| it.starts_with("p.yaml:2:20: error: `Freeze` is not the name of a switch")),
        "{found:?}"
    );
}

#[test]
fn what_a_later_version_will_have_is_refused_by_name() {
    for (rule_text, told) in [
        (
            "{id: a, action: escalate}",
            "`action: escalate` is not there yet\n  hint: this version has no approvals;",
        ),
        (
            "{id: a, action: deny, match: {data_class: [secret]}}",
            "`data_class` is not there yet\n  hint: this version has no detectors;",
        ),
        (
            "{id: a, action: deny, match: {risk_over: 50}}",
            "`risk_over` is not there yet\n  hint: this version has no risk score;",
        ),
        (
            "{id: a, action: allow, obligations: {alert: security}}",
            "`alert` is not there yet\n  hint: this version sends no alerts;",
        ),
        (
            "{id: a, action: allow, obligations: {rate_class: bulk}}",
            "`rate_class` is not there yet",
        ),
    ] {
        let found = refused(&rule(&format!("  - {rule_text}\n")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(told), "{found:?}");
    }
}

#[test]
fn what_becomes_of_an_answer_is_for_denials_of_tool_calls() {
    let told = "`answer` is for a rule that denies tool calls which a model asks for";
    for (rule_text, place) in [
        ("{id: a, action: deny, answer: cut}", "6:35"),
        (
            "{id: a, action: deny, match: {llm: {tools: [bash]}}, answer: refuse}",
            "6:66",
        ),
        (
            "{id: a, action: allow, match: {llm: {model: [x]}}, answer: cut}",
            "6:64",
        ),
    ] {
        let found = refused(&rule(&format!("  - {rule_text}\n")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(told), "{found:?}");
        assert!(found[0].contains(place), "{found:?}");
    }
    let found = refused(&rule(
        "  - {id: a, action: deny, match: {llm: {tool_calls: [x]}}, answer: drop}\n",
    ));
    assert!(found[0].contains("`drop`"), "{found:?}");
}

#[test]
fn changes_that_cannot_be_are_told() {
    for (rule_text, told) in [
        (
            "{id: a, action: modify}",
            "`action: modify` without `modify`",
        ),
        (
            "{id: a, action: allow, modify: {headers: {drop: [cookie]}}}",
            "`modify` is for `action: modify`",
        ),
        (
            "{id: a, action: modify, modify: {}}",
            "`modify` changes nothing",
        ),
        (
            "{id: a, action: modify, modify: {headers: {}}}",
            "`modify` changes nothing",
        ),
        (
            "{id: a, action: modify, modify: {headers: {drop: []}}}",
            "`drop` is empty",
        ),
        (
            "{id: a, action: modify, modify: {headers: {drop: ['a b']}}}",
            "`a b` is not the name of a header field",
        ),
        (
            "{id: a, action: modify, modify: {headers: {drop: [Host]}}}",
            "`host` cannot be changed",
        ),
        (
            "{id: a, action: modify, modify: {headers: {set: {content-length: '1'}}}}",
            "`content-length` cannot be changed",
        ),
        (
            "{id: a, action: modify, modify: {headers: {set: {sec-websocket-key: x}}}}",
            "`sec-websocket-key` cannot be changed",
        ),
        (
            "{id: a, action: modify, modify: {headers: {set: {x-a: \"a\\nb\"}}}}",
            "visible ASCII characters",
        ),
        (
            "{id: a, action: modify, modify: {headers: {set: {x-a: b}, drop: [x-a]}}}",
            "`x-a` is dropped and set",
        ),
        (
            "{id: a, action: modify, handling: direct, modify: {headers: {drop: [cookie]}}}",
            "`direct` cannot go with what looks at requests",
        ),
        (
            "{id: a, action: modify, match: {transport: [udp]}, modify: {headers: {drop: [cookie]}}}",
            "a rule over `udp` cannot look at requests",
        ),
        (
            "{id: a, action: modify, match: {body_over: 10}, modify: {headers: {drop: [cookie]}}}",
            "`body_over` is for a rule that denies",
        ),
    ] {
        let found = refused(&rule(&format!("  - {rule_text}\n")));
        assert!(
            found.iter().any(|it| it.contains(told)),
            "{rule_text}: {found:?}"
        );
    }
}

/// It is what is left of a list whose entries are comments, and could be read as "all" or as "none".
#[test]
fn a_key_without_a_value_is_refused() {
    for rule_text in [
        "agents:",
        "labels:",
        "priority:",
        "match:",
        "when:",
        "rollout:",
        "modify:",
        "obligations:",
        "handling:",
        "addresses:",
        "resolved_ranges: ~",
        "mode: null",
        "reason:",
        "match: {host: ~}",
        "match: {port: }",
        "match: {method: null}",
        "match: {time: }",
        "match: {user: }",
        "match: {header: }",
        "match: {body_over: }",
        "match: {transport: }",
    ] {
        let text = rule(&format!("  - id: a\n    action: deny\n    {rule_text}\n"));
        let found = refused(&text);
        let told = "error: nothing stands here\n  hint: leave the key out, or say what it is to be";
        assert!(
            found.iter().any(|it| it.contains(told)),
            "{rule_text}: {found:?}"
        );
    }
}
